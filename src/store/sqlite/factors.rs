//! Second factors on SQLite.

use jiff::Timestamp;
use rusqlite::params;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Db, Fault, Sqlite, micros};
use crate::model::{
    Aal, EndReason, Event, FactorKind, LetterKind, Session, TokenDigest, User, UserId,
};
use crate::store::cases::{Sessions, UserUpdate};
use crate::store::error::StoreError;
use crate::store::factors::{
    AddFactor, FactorProof, FactorVerification, Holder, NewFactor, OpenChallenge, RemoveFactor,
    Remover, ReplaceRecoveryCodes, VerifyFactor,
};
use crate::store::record::{self, FACTOR_WIDTH, factor_columns};
use crate::store::rules::{
    FoundChallenge, FoundFactor, KEEP_UNVERIFIED, before, factor_notice, failed_event, lacks_proof,
    may_add, may_remove, may_verify, methods, pause_after_wrong, raised, used_step,
    verified_events, verified_notices, without_second,
};

impl Sqlite {
    pub(in crate::store) async fn add_factor(
        &self,
        holder: &Holder,
        new: &NewFactor,
        secret: &[u8],
        max: usize,
        event: &Event,
    ) -> Result<AddFactor, StoreError> {
        let (holder, new, event) = (holder.clone(), new.clone(), event.clone());
        let secret = Zeroizing::new(secret.to_vec());
        self.in_tx("add_factor", move |db| {
            let sql = "-- add_factor: sweep
                DELETE FROM factors
                WHERE user_id = ?1 AND verified_at IS NULL AND created_at < ?2";
            let unverified = micros(before(holder.now, KEEP_UNVERIFIED));
            db.run(sql, params![holder.user.as_str(), unverified])?;
            let Some((user, session)) = db.holder(&holder)? else {
                return Ok(AddFactor::NoSession);
            };
            if let Some(refusal) = may_add(&new, &user, &holder, &session, max) {
                return Ok(refusal);
            }
            let sql = "-- add_factor
                INSERT INTO factors (id, user_id, kind, friendly_name, secret, created_at,
                    updated_at)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)";
            let params = params![
                new.id,
                user.id.as_str(),
                FactorKind::Totp.as_str(),
                new.friendly_name,
                &secret[..],
                micros(holder.now),
            ];
            db.run(sql, params)?;
            db.record(&[event])?;
            let added = db.factor_of(&user.id, new.id)?;
            Ok(added.map_or(AddFactor::NoSession, |added| AddFactor::Added(added.factor)))
        })
        .await
    }

    pub(in crate::store) async fn challenge_factor(
        &self,
        holder: &Holder,
        factor: Uuid,
        challenge: Uuid,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let holder = holder.clone();
        self.in_tx("challenge_factor", move |db| {
            let sql = "-- challenge_factor: factor
                UPDATE factors
                SET last_challenged_at = max(coalesce(last_challenged_at, ?3), ?3),
                    updated_at = max(updated_at, ?3)
                WHERE id = ?1 AND user_id = ?2";
            let params = params![factor, holder.user.as_str(), micros(holder.now)];
            if db.run(sql, params)? == 0 {
                return Ok(false);
            }
            let sql = "-- challenge_factor
                INSERT INTO factor_challenges (id, factor_id, session_id, expires_at)
                SELECT ?1, ?2, s.id, ?4 FROM sessions AS s WHERE s.id = ?3 AND s.user_id = ?5";
            let params = params![
                challenge,
                factor,
                holder.session,
                micros(expires_at),
                holder.user.as_str(),
            ];
            Ok(db.run(sql, params)? > 0)
        })
        .await
    }

    pub(in crate::store) async fn challenge(
        &self,
        holder: &Holder,
        factor: Uuid,
        challenge: Uuid,
    ) -> Result<Result<Zeroizing<Vec<u8>>, OpenChallenge>, StoreError> {
        let holder = holder.clone();
        self.read("challenge", move |db| {
            let sql = concat!(
                "-- challenge: secret\nSELECT ",
                factor_columns!(),
                ", f.secret FROM factors AS f WHERE f.id = ?1 AND f.user_id = ?2"
            );
            let found = db.one(sql, params![factor, holder.user.as_str()], |row| {
                Ok((record::factor(row, 0)?, record::factor_secret(row, 0, FACTOR_WIDTH)?))
            })?;
            let Some((found, secret)) = found else { return Ok(Err(OpenChallenge::NoFactor)) };
            let now = holder.now;
            let is_open =
                |challenge: FoundChallenge| challenge.is_open(factor, holder.session, now);
            if !db.found_challenge(challenge)?.is_some_and(is_open) {
                return Ok(Err(OpenChallenge::NoChallenge));
            }
            Ok(found.pause(now).map_or(Ok(secret), |until| Err(OpenChallenge::Paused(until))))
        })
        .await
    }

    pub(in crate::store) async fn verify_factor(
        &self,
        v: &FactorVerification,
    ) -> Result<VerifyFactor, StoreError> {
        let v = v.clone();
        self.in_tx("verify_factor", move |db| {
            let Some((user, session)) = db.holder(&v.holder)? else {
                return Ok(VerifyFactor::NoSession);
            };
            let factor = db.factor_of(&user.id, v.factor)?;
            let challenge = db.found_challenge(v.challenge)?;
            let allowed = may_verify(&v, &user, &session, factor.as_ref(), challenge.as_ref());
            let (factor, challenge) = match allowed {
                Ok(found) => found,
                Err(refusal) => return Ok(refusal),
            };
            let proved = match &v.proof {
                FactorProof::Code(step) => used_step(factor, *step),
                // A code shows nothing of a device that nobody has used yet.
                FactorProof::RecoveryCode(_) if !factor.factor.is_verified() => Err("wrong_code"),
                FactorProof::RecoveryCode(code) => {
                    let is_right = db.use_recovery_code(&user.id, *code)?;
                    if is_right { Ok(factor.last_step) } else { Err("wrong_recovery_code") }
                }
            };
            match proved {
                Ok(step) => db.raise(&v, &user, &session, factor, step),
                Err(why) => {
                    db.count_wrong_proof(&v, factor, challenge)?;
                    db.record(&[failed_event(&v.event, why)])?;
                    Ok(VerifyFactor::Wrong)
                }
            }
        })
        .await
    }

    pub(in crate::store) async fn remove_factor(
        &self,
        by: &Remover,
        factor: Uuid,
        notify: bool,
        event: &Event,
    ) -> Result<RemoveFactor, StoreError> {
        let (by, event) = (by.clone(), event.clone());
        self.in_tx("remove_factor", move |db| {
            let now = event.at;
            let (user, asking) = match &by {
                Remover::Holder(holder) => match db.holder(holder)? {
                    Some((user, session)) => (user, Some((holder, session))),
                    None => return Ok(RemoveFactor::NoSession),
                },
                Remover::Administrator(user) => match db.user(user)? {
                    Some(user) => (user, None),
                    None => return Ok(RemoveFactor::NoFactor),
                },
            };
            let removed = user.factors.iter().find(|known| known.id == factor);
            let Some(removed) = removed else { return Ok(RemoveFactor::NoFactor) };
            if let Some((holder, session)) = &asking
                && let Some(refusal) = may_remove(removed, holder, session)
            {
                return Ok(refusal);
            }
            let session = asking.map(|(_, session)| session);
            db.run("-- remove_factor\nDELETE FROM factors WHERE id = ?1", [factor])?;
            let mut ended = Vec::new();
            if removed.is_verified() {
                let which = match &session {
                    Some(session) => Sessions::OthersOfFactor(session.id, factor),
                    None => Sessions::All,
                };
                ended = db.end_sessions(&user.id, which, EndReason::FactorChanged, now)?;
                if let Some(session) = session.filter(|session| session.factor_id == Some(factor)) {
                    db.set_proofs(&without_second(&session))?;
                }
                if notify {
                    let notice = factor_notice(LetterKind::FactorRemoved, &user, &event);
                    db.post(notice.as_slice())?;
                }
                if !user.factors.iter().any(|other| other.id != factor && other.is_verified()) {
                    db.delete_recovery_codes(&user.id)?;
                }
            }
            db.record(&[event])?;
            Ok(RemoveFactor::Done { ended })
        })
        .await
    }

    pub(in crate::store) async fn replace_recovery_codes(
        &self,
        holder: &Holder,
        codes: &[TokenDigest],
        event: &Event,
    ) -> Result<ReplaceRecoveryCodes, StoreError> {
        let (holder, codes, event) = (holder.clone(), codes.to_vec(), event.clone());
        self.in_tx("replace_recovery_codes", move |db| {
            let Some((user, session)) = db.holder(&holder)? else {
                return Ok(ReplaceRecoveryCodes::NoSession);
            };
            if !user.has_second_factor() || lacks_proof(&user, &holder, &session) {
                return Ok(ReplaceRecoveryCodes::NeedsAal2);
            }
            db.delete_recovery_codes(&user.id)?;
            for code in &codes {
                let sql = "-- replace_recovery_codes
                    INSERT INTO recovery_codes (user_id, digest) VALUES (?1, ?2)";
                db.run(sql, params![user.id.as_str(), code.0])?;
            }
            db.record(&[event])?;
            Ok(ReplaceRecoveryCodes::Done)
        })
        .await
    }
}

impl Db<'_> {
    /// User and session; `None` = the session is over, or the user disabled.
    fn holder(self, holder: &Holder) -> Result<Option<(User, Session)>, Fault> {
        let is_theirs =
            |session: &Session| session.user_id == holder.user && session.is_alive(holder.now);
        let Some(session) = self.session(holder.session)?.filter(is_theirs) else {
            return Ok(None);
        };
        let user = self.user(&holder.user)?.filter(|user| !user.is_disabled(holder.now));
        Ok(user.map(|user| (user, session)))
    }

    fn factor_of(self, user: &UserId, factor: Uuid) -> Result<Option<FoundFactor>, Fault> {
        let sql = concat!(
            "-- factor_of\nSELECT ",
            factor_columns!(),
            " FROM factors AS f WHERE f.id = ?1 AND f.user_id = ?2"
        );
        self.one(sql, params![factor, user.as_str()], |row| record::factor(row, 0))
    }

    fn found_challenge(self, challenge: Uuid) -> Result<Option<FoundChallenge>, Fault> {
        let sql = "-- found_challenge
            SELECT id, factor_id, session_id, attempts, expires_at FROM factor_challenges
            WHERE id = ?1";
        self.one(sql, [challenge], |row| record::challenge(row))
    }

    /// Whether the user had this code.
    fn use_recovery_code(self, user: &UserId, code: TokenDigest) -> Result<bool, Fault> {
        let sql = "-- use_recovery_code
            DELETE FROM recovery_codes WHERE user_id = ?1 AND digest = ?2";
        Ok(self.run(sql, params![user.as_str(), code.0])? > 0)
    }

    fn delete_recovery_codes(self, user: &UserId) -> Result<(), Fault> {
        let sql = "-- delete_recovery_codes\nDELETE FROM recovery_codes WHERE user_id = ?1";
        self.run(sql, [user.as_str()])?;
        Ok(())
    }

    /// Takes all factors and recovery codes away.
    pub(super) fn delete_factors(self, user: &UserId) -> Result<(), Fault> {
        self.run("-- delete_factors\nDELETE FROM factors WHERE user_id = ?1", [user.as_str()])?;
        self.delete_recovery_codes(user)
    }

    /// Whether the user has a second factor that the session has not shown, or not when its token was
    /// made.
    pub(super) fn lacks_second_factor(
        self,
        user: &UserId,
        update: &UserUpdate,
    ) -> Result<bool, Fault> {
        let sql = "-- lacks_second_factor
            SELECT 1 FROM users AS u
            WHERE u.id = ?1
              AND EXISTS (SELECT 1 FROM factors AS f
                          WHERE f.user_id = u.id AND f.verified_at IS NOT NULL)
              AND NOT (?3 AND EXISTS (SELECT 1 FROM sessions AS s
                                      WHERE s.id = ?2 AND s.user_id = u.id
                                        AND s.factor_id IS NOT NULL))";
        let params = params![user.as_str(), update.keep_session, update.aal == Aal::Two];
        Ok(self.one(sql, params, |_| Ok(()))?.is_some())
    }

    fn count_wrong_proof(
        self,
        v: &FactorVerification,
        factor: &FoundFactor,
        challenge: &FoundChallenge,
    ) -> Result<(), Fault> {
        let sql = if challenge.has_one_try_left() {
            "-- count_wrong_proof: end\nDELETE FROM factor_challenges WHERE id = ?1"
        } else {
            "-- count_wrong_proof
             UPDATE factor_challenges SET attempts = attempts + 1 WHERE id = ?1"
        };
        self.run(sql, [challenge.id])?;
        if let FactorProof::Code(_) = v.proof {
            let sql = "-- count_wrong_proof: factor
                UPDATE factors SET wrong_codes = wrong_codes + 1, paused_until = ?2 WHERE id = ?1";
            let paused_until = pause_after_wrong(factor, v.holder.now).map(micros);
            self.run(sql, params![v.factor, paused_until])?;
        }
        Ok(())
    }

    /// The effects of a right proof.
    fn raise(
        self,
        v: &FactorVerification,
        user: &User,
        session: &Session,
        factor: &FoundFactor,
        step: i64,
    ) -> Result<VerifyFactor, Fault> {
        let now = micros(v.holder.now);
        let sql = "-- verify_factor
            UPDATE factors
            SET verified_at = coalesce(verified_at, ?2), last_step = ?3, wrong_codes = 0,
                paused_until = NULL, updated_at = max(updated_at, ?2)
            WHERE id = ?1";
        self.run(sql, params![v.factor, now, step])?;
        let sql = "-- verify_factor: challenges
            DELETE FROM factor_challenges WHERE session_id = ?1";
        self.run(sql, [session.id])?;
        if !factor.factor.is_verified() {
            // They may be of somebody who had the password only.
            let sql = "-- verify_factor: others
                DELETE FROM factors WHERE user_id = ?1 AND verified_at IS NULL";
            self.run(sql, [user.id.as_str()])?;
        }
        let mut ended = Vec::new();
        if !user.has_second_factor() {
            let others = Sessions::Others(session.id);
            let reason = EndReason::FactorChanged;
            ended = self.end_sessions(&user.id, others, reason, v.holder.now)?;
        }
        let mut raised = raised(session, &v.proof, v.holder.now);
        raised.factor_id = Some(v.factor);
        self.set_proofs(&raised)?;
        // A refresh token that was stolen before must not lead to what the factor has opened.
        let sql = "-- verify_factor: tokens\nDELETE FROM refresh_tokens WHERE session_id = ?1";
        self.run(sql, [session.id])?;
        let sql = "-- verify_factor: token
            INSERT INTO refresh_tokens (digest, session_id, created_at) VALUES (?1, ?2, ?3)";
        self.run(sql, params![v.refresh.0, session.id, now])?;
        let sql = "-- verify_factor: session
            UPDATE sessions
            SET last_seen_at = max(last_seen_at, ?2), access_expires_at = max(access_expires_at, ?3)
            WHERE id = ?1";
        self.run(sql, params![session.id, now, micros(v.access_expires_at)])?;
        self.post(&verified_notices(v, &factor.factor, user))?;
        self.record(&verified_events(&v.event, &v.proof))?;
        let (Some(user), Some(session)) = (self.user(&user.id)?, self.session(session.id)?) else {
            return Ok(VerifyFactor::NoSession);
        };
        v.fit.check(&user, &session)?;
        Ok(VerifyFactor::Done { user: Box::new(user), session: Box::new(session), ended })
    }

    fn set_proofs(self, session: &Session) -> Result<(), Fault> {
        let sql = "-- set_proofs
            UPDATE sessions SET factor_id = ?2, methods = ?3 WHERE id = ?1";
        self.run(sql, params![session.id, session.factor_id, methods(session).to_string()])?;
        Ok(())
    }
}
