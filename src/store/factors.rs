//! Second factors: enrolled, shown, removed; and the recovery codes that stand in for them.
//!
//! ```text
//! add_factor ──▶ challenge_factor ──▶ challenge ──▶ verify_factor ──▶ session with aal2
//!                                     (its secret)   (step or code)
//! ```
//!
//! Whatever works on a user's factors locks the user's row first, so that of many uses of one code
//! one has its effect. What a code must be is computed by the caller; whether it may count is
//! decided here, under the lock.

use jiff::Timestamp;
use uuid::Uuid;

use super::cases::Fit;
use super::error::StoreError;
use super::seals::SealedColumn;
use super::{Store, either};
use crate::model::{
    Aal, EndedSession, Event, Factor, FactorSecret, Session, SessionId, TokenDigest, User, UserId,
};

/// Who works on factors: a user, in a session, now.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The user.
    pub user: UserId,
    /// The session, which must be alive.
    pub session: SessionId,
    /// What the token says of the session. A token that is older than the factor's use says the
    /// least, whoever has it: it may have been stolen before.
    pub aal: Aal,
    /// The time.
    pub now: Timestamp,
}

/// Who takes a factor away.
#[derive(Clone, Debug)]
pub enum Remover {
    /// Its user.
    Holder(Holder),
    /// An administrator, from this user.
    Administrator(UserId),
}

/// A factor to be.
#[derive(Clone, Debug)]
pub struct NewFactor {
    /// A fresh id.
    pub id: Uuid,
    /// Chosen by the user; empty = none.
    pub friendly_name: String,
    /// What its device gets to know.
    pub secret: FactorSecret,
}

/// How the enrolling of a factor ended. Nothing was stored but with [`AddFactor::Added`].
#[derive(Clone, Debug, PartialEq)]
pub enum AddFactor {
    /// It is stored, not verified.
    Added(Factor),
    /// Another factor of the user has the name.
    NameTaken,
    /// The user has as many as may be.
    TooMany,
    /// The user has a verified factor, and the session has not shown one.
    NeedsAal2,
    /// The session is over.
    NoSession,
}

/// A challenge that may be answered, with what the answer is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum OpenChallenge {
    /// The factor's secret.
    Open(FactorSecret),
    /// The user has no such factor.
    NoFactor,
    /// No such challenge of this factor and session, or it is too old.
    NoChallenge,
    /// After many wrong codes none is looked at before this time.
    Paused(Timestamp),
}

/// What was shown for a challenge.
#[derive(Clone, Debug)]
pub enum FactorProof {
    /// Digits, with the newest time step whose code they are, if there is one.
    Code(Option<i64>),
    /// A recovery code.
    RecoveryCode(TokenDigest),
}

/// The answer to a challenge, and what it may lead to.
#[derive(Clone, Debug)]
pub struct FactorVerification {
    /// Who answers.
    pub holder: Holder,
    /// The factor.
    pub factor: Uuid,
    /// The challenge.
    pub challenge: Uuid,
    /// The answer.
    pub proof: FactorProof,
    /// The session's refresh token from now on.
    pub refresh: TokenDigest,
    /// `exp` of the access token to give out.
    pub access_expires_at: Timestamp,
    /// Judges what is to be given out.
    pub fit: Fit,
    /// Whether letters tell the user of a new factor and of a used recovery code.
    pub notify: bool,
    /// Time and origin of the events; what happened is filled in.
    pub event: Event,
}

/// How the answer to a challenge ended.
#[derive(Clone, Debug, PartialEq)]
pub enum VerifyFactor {
    /// The session has shown the factor, and has no other refresh token than the new one.
    Done {
        /// The user as of now.
        user: Box<User>,
        /// The session as of now.
        session: Box<Session>,
        /// The user's other sessions, which a first factor ends: nobody has shown it there.
        ended: Vec<EndedSession>,
    },
    /// A wrong code, or one that was used. It is counted, and an event stored.
    Wrong,
    /// As [`OpenChallenge::Paused`].
    Paused(Timestamp),
    /// The factor is not verified, another one is, and the session has not shown that.
    NeedsAal2,
    /// The user has no such factor.
    NoFactor,
    /// As [`OpenChallenge::NoChallenge`].
    NoChallenge,
    /// The session is over, or the user disabled.
    NoSession,
}

/// How the removal of a factor ended. Nothing was changed but with [`RemoveFactor::Done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoveFactor {
    /// It is gone.
    Done {
        /// The sessions that this ended.
        ended: Vec<EndedSession>,
    },
    /// It is verified, and the session has not shown a factor.
    NeedsAal2,
    /// The user has no such factor.
    NoFactor,
    /// The session is over.
    NoSession,
}

/// How the making of recovery codes ended. Nothing was changed but with
/// [`ReplaceRecoveryCodes::Done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceRecoveryCodes {
    /// They are stored; earlier ones are void.
    Done,
    /// The session has not shown a factor.
    NeedsAal2,
    /// The session is over.
    NoSession,
}

/// Second factors.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Stores a factor that is not verified yet, if the user has fewer than `max`. Those that were
    /// not verified within ten minutes go first.
    pub async fn add_factor(
        &self,
        holder: &Holder,
        new: &NewFactor,
        max: usize,
        event: &Event,
    ) -> Result<AddFactor, StoreError> {
        let secret = self.seal(SealedColumn::Factors, &new.id.to_string(), &new.secret.0);
        either!(self, backend => backend.add_factor(holder, new, &secret, max, event).await)
    }

    /// Stores a challenge for a factor, which only this session may answer before `expires_at`.
    /// Returns whether the user has such a factor.
    pub async fn challenge_factor(
        &self,
        holder: &Holder,
        factor: Uuid,
        challenge: Uuid,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError> {
        either!(self, backend => {
            backend.challenge_factor(holder, factor, challenge, expires_at).await
        })
    }

    /// Looks a challenge up.
    ///
    /// # Errors
    /// [`StoreError::Sealed`] when the secret cannot be opened.
    pub async fn challenge(
        &self,
        holder: &Holder,
        factor: Uuid,
        challenge: Uuid,
    ) -> Result<OpenChallenge, StoreError> {
        let found = either!(self, backend => backend.challenge(holder, factor, challenge).await)?;
        let sealed = match found {
            Ok(sealed) => sealed,
            Err(refusal) => return Ok(refusal),
        };
        let row = factor.to_string();
        let secret = self.open_seal(SealedColumn::Factors, &row, &sealed)?;
        let secret = secret[..].try_into().map(FactorSecret);
        secret.map(OpenChallenge::Open).map_err(|_| StoreError::Corrupt {
            table: "factors",
            column: "secret".to_owned(),
            row,
        })
    }

    /// Judges the answer to a challenge. A right one verifies the factor, raises the session, and
    /// takes the challenge with it. Of many answers with one code one is right.
    ///
    /// The fifth wrong one ends the challenge. A recovery code is gone after its use, and verifies
    /// no factor that was not verified before.
    pub async fn verify_factor(
        &self,
        verification: &FactorVerification,
    ) -> Result<VerifyFactor, StoreError> {
        either!(self, backend => backend.verify_factor(verification).await)
    }

    /// Removes a factor. When it was verified, sessions that had shown it end, but for the one that
    /// asks, which has one proof less from now on; with the last one the recovery codes go.
    /// An administrator ends all sessions. `notify` = whether a letter tells the user.
    pub async fn remove_factor(
        &self,
        by: &Remover,
        factor: Uuid,
        notify: bool,
        event: &Event,
    ) -> Result<RemoveFactor, StoreError> {
        either!(self, backend => backend.remove_factor(by, factor, notify, event).await)
    }

    /// Stores recovery codes in place of all earlier ones.
    pub async fn replace_recovery_codes(
        &self,
        holder: &Holder,
        codes: &[TokenDigest],
        event: &Event,
    ) -> Result<ReplaceRecoveryCodes, StoreError> {
        either!(self, backend => backend.replace_recovery_codes(holder, codes, event).await)
    }
}
