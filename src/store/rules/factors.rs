//! Whether a second factor may be added, shown, removed.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::model::{
    Aal, AuthMethod, Event, EventKind, Factor, Letter, LetterKind, LetterOrigin, Outcome, Proof,
    Session, SessionId, User, uuid_v7,
};
use crate::store::factors::{
    AddFactor, FactorProof, FactorVerification, Holder, NewFactor, RemoveFactor, VerifyFactor,
};
use crate::store::outbox::{NewParcel, Parcel};

/// How long a factor may stay unverified: its owner has the code on a screen, and scans it.
pub(in crate::store) const KEEP_UNVERIFIED: Duration = Duration::from_mins(10);

/// Wrong codes after which a challenge is gone.
const CHALLENGE_TRIES: i64 = 5;

/// Wrong codes in a row that cost no time: people mistype, and clocks go wrong.
const FREE_CODES: i64 = 10;

/// The pause after one more; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause. Three codes of a million are good at a time, so that whoever knows the
/// password and guesses for a year, a code each quarter of an hour, is right with a chance of one in
/// ten. The owner waits no longer than that, and not at all with a recovery code or in a session
/// that has shown the factor.
const LONGEST_PAUSE: Duration = Duration::from_mins(15);

/// A factor as it was found. The user's row is locked.
#[derive(Clone, Debug)]
pub(in crate::store) struct FoundFactor {
    pub(in crate::store) factor: Factor,
    /// The newest step whose code was used.
    pub(in crate::store) last_step: i64,
    /// Since the last right one.
    pub(in crate::store) wrong_codes: i64,
    pub(in crate::store) paused_until: Option<Timestamp>,
}

impl FoundFactor {
    /// Until when no code is looked at, if that is to come.
    pub(in crate::store) fn pause(&self, now: Timestamp) -> Option<Timestamp> {
        self.paused_until.filter(|until| *until > now)
    }
}

/// A challenge as it was found.
#[derive(Clone, Debug)]
pub(in crate::store) struct FoundChallenge {
    pub(in crate::store) id: Uuid,
    pub(in crate::store) factor_id: Uuid,
    pub(in crate::store) session_id: SessionId,
    /// Wrong codes so far.
    pub(in crate::store) attempts: i64,
    pub(in crate::store) expires_at: Timestamp,
}

impl FoundChallenge {
    /// Whether it is one for this factor in this session, and not too old.
    pub(in crate::store) fn is_open(
        &self,
        factor: Uuid,
        session: SessionId,
        now: Timestamp,
    ) -> bool {
        self.factor_id == factor && self.session_id == session && now < self.expires_at
    }

    /// Whether another wrong code ends it.
    pub(in crate::store) fn has_one_try_left(&self) -> bool {
        self.attempts + 1 >= CHALLENGE_TRIES
    }
}

/// Why the factor may not be added; `None` = it may.
pub(in crate::store) fn may_add(
    new: &NewFactor,
    user: &User,
    holder: &Holder,
    session: &Session,
    max: usize,
) -> Option<AddFactor> {
    let name = &new.friendly_name;
    if lacks_proof(user, holder, session) {
        Some(AddFactor::NeedsAal2)
    } else if user.factors.len() >= max {
        Some(AddFactor::TooMany)
    } else if !name.is_empty() && user.factors.iter().any(|other| other.friendly_name == *name) {
        Some(AddFactor::NameTaken)
    } else {
        None
    }
}

/// Whether the user has a second factor that the session has not shown, or not when its token was
/// made.
pub(in crate::store) fn lacks_proof(user: &User, holder: &Holder, session: &Session) -> bool {
    user.has_second_factor() && !has_shown(holder, session)
}

fn has_shown(holder: &Holder, session: &Session) -> bool {
    holder.aal == Aal::Two && session.aal() == Aal::Two
}

/// The factor and the challenge, if a proof may be looked at.
pub(in crate::store) fn may_verify<'a>(
    v: &FactorVerification,
    user: &User,
    session: &Session,
    factor: Option<&'a FoundFactor>,
    challenge: Option<&'a FoundChallenge>,
) -> Result<(&'a FoundFactor, &'a FoundChallenge), VerifyFactor> {
    let now = v.holder.now;
    let factor = factor.ok_or(VerifyFactor::NoFactor)?;
    let challenge = challenge
        .filter(|challenge| challenge.is_open(v.factor, session.id, now))
        .ok_or(VerifyFactor::NoChallenge)?;
    // Whoever has the password only must not bring a factor of their own.
    if !factor.factor.is_verified() && lacks_proof(user, &v.holder, session) {
        return Err(VerifyFactor::NeedsAal2);
    }
    match (&v.proof, factor.pause(now)) {
        (FactorProof::Code(_), Some(until)) => Err(VerifyFactor::Paused(until)),
        _ => Ok((factor, challenge)),
    }
}

/// The step that is used up by these digits, or why they are refused (RFC 6238 §5.2: a code is good
/// once).
pub(in crate::store) fn used_step(
    factor: &FoundFactor,
    step: Option<i64>,
) -> Result<i64, &'static str> {
    match step {
        None => Err("wrong_code"),
        Some(step) if step <= factor.last_step => Err("replayed"),
        Some(step) => Ok(step),
    }
}

/// Until when no code is looked at after another wrong one.
pub(in crate::store) fn pause_after_wrong(
    factor: &FoundFactor,
    now: Timestamp,
) -> Option<Timestamp> {
    let beyond = factor.wrong_codes + 1 - FREE_CODES;
    if beyond < 0 {
        return None;
    }
    let doublings = u32::try_from(beyond).unwrap_or(u32::MAX).min(16);
    let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    Some(super::after(now, pause))
}

/// The proofs of a session that has shown a second factor.
pub(in crate::store) fn raised(session: &Session, proof: &FactorProof, now: Timestamp) -> Session {
    let method = match proof {
        FactorProof::Code(_) => AuthMethod::Totp,
        FactorProof::RecoveryCode(_) => AuthMethod::RecoveryCode,
    };
    let mut raised = without_second(session);
    raised.methods.insert(0, Proof::new(method, now));
    raised
}

/// The session as if it had shown no second factor.
pub(in crate::store) fn without_second(session: &Session) -> Session {
    let mut lowered = session.clone();
    lowered.factor_id = None;
    lowered.methods.retain(|proof| !proof.method.is_second());
    lowered
}

/// Why the factor may not be removed in the session that asks; `None` = it may.
pub(in crate::store) fn may_remove(
    factor: &Factor,
    holder: &Holder,
    session: &Session,
) -> Option<RemoveFactor> {
    (factor.is_verified() && !has_shown(holder, session)).then_some(RemoveFactor::NeedsAal2)
}

/// The event of a refused proof.
pub(in crate::store) fn failed_event(event: &Event, why: &str) -> Event {
    Event {
        kind: EventKind::FactorFailed,
        outcome: Outcome::Failure,
        reason: Some(why.to_owned()),
        ..event.clone()
    }
}

/// The events of a right proof.
pub(in crate::store) fn verified_events(event: &Event, proof: &FactorProof) -> Vec<Event> {
    let done = |id, kind| Event { id, kind, outcome: Outcome::Success, ..event.clone() };
    let mut events = vec![done(event.id, EventKind::FactorVerified)];
    if let FactorProof::RecoveryCode(_) = proof {
        events.push(done(uuid_v7(event.at), EventKind::RecoveryCodeUsed));
    }
    events
}

/// A letter that tells the user of a change. `None` when the address is one that was imported and
/// cannot be written to.
pub(in crate::store) fn factor_notice(
    kind: LetterKind,
    user: &User,
    event: &Event,
) -> Option<NewParcel> {
    let asked_by = LetterOrigin {
        address: event.address,
        user_agent: event.user_agent.clone(),
        request_id: event.request_id.clone(),
    };
    let letter = Letter {
        user_id: Some(user.id.clone()),
        ..Letter::new(kind, user.email.parse().ok()?, asked_by)
    };
    Some(NewParcel { id: uuid_v7(event.at), parcel: Parcel::Mail(letter), at: event.at })
}

/// The letters about a right proof.
pub(in crate::store) fn verified_notices(
    v: &FactorVerification,
    factor: &Factor,
    user: &User,
) -> Vec<NewParcel> {
    let kind = match &v.proof {
        _ if !v.notify => return Vec::new(),
        FactorProof::RecoveryCode(_) => LetterKind::RecoveryCodeUsed,
        FactorProof::Code(_) if !factor.is_verified() => LetterKind::FactorAdded,
        FactorProof::Code(_) => return Vec::new(),
    };
    factor_notice(kind, user, &v.event).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FactorKind;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn factor(wrong_codes: i64) -> FoundFactor {
        FoundFactor {
            factor: Factor {
                id: Uuid::nil(),
                kind: FactorKind::Totp,
                friendly_name: String::new(),
                verified_at: Some(at(0)),
                last_challenged_at: None,
                created_at: at(0),
                updated_at: at(0),
            },
            last_step: 60_000_000,
            wrong_codes,
            paused_until: None,
        }
    }

    #[test]
    fn a_step_is_used_once_and_in_order() {
        for (step, expected) in [
            (None, Err("wrong_code")),
            (Some(59_999_999), Err("replayed")),
            (Some(60_000_000), Err("replayed")),
            (Some(60_000_001), Ok(60_000_001)),
        ] {
            assert_eq!(used_step(&factor(0), step), expected);
        }
    }

    #[test]
    fn pauses_begin_late_grow_and_have_an_end() {
        let pauses = |wrong| {
            let until = pause_after_wrong(&factor(wrong), at(0));
            until.map(|until| until.duration_since(at(0)).as_secs())
        };
        for (wrong_before, expected) in [
            (0, None),
            (8, None),
            (9, Some(30)),
            (10, Some(60)),
            (13, Some(480)),
            (14, Some(900)),
            (15, Some(900)),
            (i64::MAX - 1, Some(900)),
        ] {
            assert_eq!(pauses(wrong_before), expected, "{wrong_before}");
        }
        let paused = FoundFactor { paused_until: Some(at(30)), ..factor(10) };
        assert_eq!(paused.pause(at(29)), Some(at(30)));
        assert_eq!(paused.pause(at(30)), None);
    }

    #[test]
    fn a_session_has_one_second_proof_at_most() {
        let session = Session {
            id: Uuid::nil(),
            user_id: "u-1".parse().unwrap(),
            created_at: at(0),
            last_seen_at: at(0),
            expires_at: at(100),
            access_expires_at: at(100),
            address: None,
            user_agent: None,
            methods: vec![Proof::new(AuthMethod::Password, at(0))],
            factor_id: None,
            ended: None,
        };
        let methods = |session: &Session| -> Vec<_> {
            session.methods.iter().map(|proof| proof.method.as_str()).collect()
        };
        let once = raised(&session, &FactorProof::Code(Some(1)), at(1));
        assert_eq!(methods(&once), ["totp", "password"]);
        let digest = crate::model::TokenDigest([0; 32]);
        let twice = raised(&once, &FactorProof::RecoveryCode(digest), at(2));
        assert_eq!(methods(&twice), ["recovery_code", "password"]);
        assert_eq!(without_second(&twice), session);
    }
}
