//! Second factors of the bearer: enrol, be challenged, show, remove; and recovery codes.
//!
//! What a stolen password, mailbox or refresh token cannot do: once a factor is verified, another
//! can be enrolled or verified, and one removed, only in a session that has shown one. A session
//! that shows one gets a new refresh token, and the earlier ones are void.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::session::{later, random_uuid};
use super::{Accounts, Bearer, Issued, Origin, failed};
use crate::auth::error::AuthError;
use crate::auth::input::{self, FactorType};
use crate::auth::{qr, recovery, totp};
use crate::clock::random_bytes;
use crate::identity::refresh::RefreshToken;
use crate::model::{Aal, Event, EventKind, Factor, FactorSecret, Outcome, User};
use crate::store::{
    AddFactor, FactorProof, FactorVerification, Holder, NewFactor, OpenChallenge, RemoveFactor,
    Remover, ReplaceRecoveryCodes, VerifyFactor,
};

/// What a configuration says of the enrolling of factors.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// Whether there is any.
    pub is_enabled: bool,
    /// What authenticator apps call the site.
    pub issuer: String,
    /// Most factors of one user.
    pub max: usize,
}

/// A factor to be verified, with what its app gets to know.
pub struct Enrolled {
    /// The factor.
    pub factor: Factor,
    /// In base32, to be typed.
    pub secret: Zeroizing<String>,
    /// As an address, to be opened.
    pub uri: Zeroizing<String>,
    /// As a picture, to be scanned.
    pub qr_code: Zeroizing<String>,
}

/// A challenge that waits for a code.
#[derive(Clone, Copy, Debug)]
pub struct Challenged {
    /// The challenge.
    pub id: Uuid,
    /// Of no use from this time on.
    pub expires_at: Timestamp,
}

impl Accounts {
    /// Enrols a factor, which counts when a code of it has been shown.
    ///
    /// # Errors
    /// [`AuthError::FactorTypeDisabled`], [`AuthError::FactorNameConflict`],
    /// [`AuthError::TooManyFactors`], [`AuthError::InsufficientAal`],
    /// [`AuthError::ReauthenticationNeeded`], [`AuthError::SessionNotFound`]; what storing may meet.
    pub async fn enrol(
        &self,
        bearer: &Bearer,
        wanted: input::Enrol,
        rules: &Enrolment,
        origin: &Origin,
    ) -> Result<Enrolled, AuthError> {
        if wanted.kind != FactorType::Totp || !rules.is_enabled {
            return Err(AuthError::FactorTypeDisabled(wanted.kind));
        }
        let user = self.user(bearer).await?;
        // Whoever enrols the first factor keeps all others out, the owner too, if the session was
        // stolen. Later ones need the first.
        if !user.has_second_factor() && !self.has_logged_in_recently(bearer).await? {
            return Err(AuthError::ReauthenticationNeeded);
        }
        let secret = FactorSecret(random_bytes());
        let uri = totp::uri(&secret, wanted.issuer.as_ref().unwrap_or(&rules.issuer), &user.email);
        let uri = Zeroizing::new(uri);
        let qr_code = qr::svg(&uri).map(Zeroizing::new);
        let qr_code = qr_code
            .ok_or_else(|| AuthError::Internal("an address does not fit into a QR code".into()))?;
        let new = NewFactor {
            id: random_uuid(),
            friendly_name: wanted.friendly_name,
            secret: secret.clone(),
        };
        let now = self.clock.now();
        let event = factor_event(bearer, EventKind::FactorEnrolled, origin, now);
        let holder = holder(bearer, now);
        match self.store.add_factor(&holder, &new, rules.max, &event).await.map_err(failed)? {
            AddFactor::Added(factor) => {
                let secret = Zeroizing::new(totp::base32(&secret.0));
                Ok(Enrolled { factor, secret, uri, qr_code })
            }
            AddFactor::NameTaken => Err(AuthError::FactorNameConflict),
            AddFactor::TooMany => Err(AuthError::TooManyFactors),
            AddFactor::NeedsAal2 => Err(AuthError::InsufficientAal),
            AddFactor::NoSession => Err(AuthError::SessionNotFound),
        }
    }

    /// Makes a challenge that a code of the factor answers, in this session only.
    ///
    /// # Errors
    /// [`AuthError::FactorNotFound`]; what storing may meet.
    pub async fn challenge(
        &self,
        bearer: &Bearer,
        factor: Uuid,
        lifetime: Duration,
    ) -> Result<Challenged, AuthError> {
        let now = self.clock.now();
        let (id, expires_at) = (random_uuid(), later(now, lifetime));
        let holder = holder(bearer, now);
        let made = self.store.challenge_factor(&holder, factor, id, expires_at).await;
        if made.map_err(failed)? {
            Ok(Challenged { id, expires_at })
        } else {
            Err(AuthError::FactorNotFound)
        }
    }

    /// Answers a challenge. The session goes on, having shown a second factor. The first factor of a
    /// user ends all other sessions.
    ///
    /// # Errors
    /// [`AuthError::FactorVerificationFailed`], [`AuthError::ChallengeExpired`],
    /// [`AuthError::FactorNotFound`], [`AuthError::TooManyWrongCodes`],
    /// [`AuthError::InsufficientAal`], [`AuthError::SessionNotFound`], [`AuthError::TokenTooLarge`];
    /// what storing may meet.
    pub async fn verify_factor(
        &self,
        bearer: &Bearer,
        factor: Uuid,
        shown: &input::VerifyFactor,
        origin: &Origin,
    ) -> Result<Issued, AuthError> {
        let now = self.clock.now();
        let holder = holder(bearer, now);
        let code = shown.code.expose_secret().trim();
        let proof = match recovery::digest_of(code) {
            Some(digest) => FactorProof::RecoveryCode(digest),
            None => FactorProof::Code(self.step_of(&holder, factor, shown.challenge, code).await?),
        };
        let refresh_token = RefreshToken::from_random(random_bytes());
        let verification = FactorVerification {
            holder,
            factor,
            challenge: shown.challenge,
            proof,
            refresh: refresh_token.digest(),
            access_expires_at: self.access_expires_at(now),
            fit: self.fit(origin, now)?,
            notify: self.letters.are_on(),
            event: factor_event(bearer, EventKind::FactorVerified, origin, now),
        };
        match self.store.verify_factor(&verification).await.map_err(failed)? {
            VerifyFactor::Done { user, session, ended } => {
                self.revocations.end(ended);
                self.letters.ring();
                self.issued(*user, &session, &refresh_token, origin, now)
            }
            VerifyFactor::Wrong => Err(AuthError::FactorVerificationFailed),
            VerifyFactor::Paused(until) => Err(too_many_wrong_codes(until, now)),
            VerifyFactor::NeedsAal2 => Err(AuthError::InsufficientAal),
            VerifyFactor::NoFactor => Err(AuthError::FactorNotFound),
            VerifyFactor::NoChallenge => Err(AuthError::ChallengeExpired),
            VerifyFactor::NoSession => Err(AuthError::SessionNotFound),
        }
    }

    /// The time step whose code was shown, if it is one.
    async fn step_of(
        &self,
        holder: &Holder,
        factor: Uuid,
        challenge: Uuid,
        code: &str,
    ) -> Result<Option<i64>, AuthError> {
        match self.store.challenge(holder, factor, challenge).await.map_err(failed)? {
            OpenChallenge::Open(secret) => Ok(totp::newest_step(&secret, code, holder.now)),
            OpenChallenge::Paused(until) => Err(too_many_wrong_codes(until, holder.now)),
            OpenChallenge::NoFactor => Err(AuthError::FactorNotFound),
            OpenChallenge::NoChallenge => Err(AuthError::ChallengeExpired),
        }
    }

    /// Removes a factor. Other sessions that had shown it end; this one has shown none from its next
    /// refresh on.
    ///
    /// # Errors
    /// [`AuthError::FactorNotFound`], [`AuthError::InsufficientAal`],
    /// [`AuthError::SessionNotFound`]; what storing may meet.
    pub async fn unenrol(
        &self,
        bearer: &Bearer,
        factor: Uuid,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        let now = self.clock.now();
        let event = factor_event(bearer, EventKind::FactorRemoved, origin, now);
        let by = Remover::Holder(holder(bearer, now));
        let notify = self.letters.are_on();
        match self.store.remove_factor(&by, factor, notify, &event).await.map_err(failed)? {
            RemoveFactor::Done { ended } => {
                self.revocations.end(ended);
                self.letters.ring();
                Ok(())
            }
            RemoveFactor::NeedsAal2 => Err(AuthError::InsufficientAal),
            RemoveFactor::NoFactor => Err(AuthError::FactorNotFound),
            RemoveFactor::NoSession => Err(AuthError::SessionNotFound),
        }
    }

    /// Makes recovery codes in place of all earlier ones. They are shown this once.
    ///
    /// # Errors
    /// [`AuthError::InsufficientAal`], also of a user without a second factor;
    /// [`AuthError::SessionNotFound`]; what storing may meet.
    pub async fn make_recovery_codes(
        &self,
        bearer: &Bearer,
        origin: &Origin,
    ) -> Result<Vec<SecretString>, AuthError> {
        let codes = (0..recovery::COUNT).map(|_| recovery::text(random_bytes()));
        let codes: Vec<_> = codes.collect();
        let digests: Vec<_> = codes.iter().filter_map(|code| recovery::digest_of(code)).collect();
        let now = self.clock.now();
        let event = factor_event(bearer, EventKind::RecoveryCodesMade, origin, now);
        let holder = holder(bearer, now);
        match self.store.replace_recovery_codes(&holder, &digests, &event).await.map_err(failed)? {
            ReplaceRecoveryCodes::Done => {
                Ok(codes.iter().map(|code| SecretString::from(code.as_str())).collect())
            }
            ReplaceRecoveryCodes::NeedsAal2 => Err(AuthError::InsufficientAal),
            ReplaceRecoveryCodes::NoSession => Err(AuthError::SessionNotFound),
        }
    }

    /// Refuses unless the bearer's session has shown a second factor, if the user has one. The token
    /// must say so, for it may have been stolen before that, and the session, for it may have been
    /// lowered since.
    ///
    /// # Errors
    /// [`AuthError::InsufficientAal`], [`AuthError::SessionNotFound`]; what storing may meet.
    pub(super) async fn second_factor_was_shown(
        &self,
        bearer: &Bearer,
        user: &User,
    ) -> Result<(), AuthError> {
        if !user.has_second_factor() {
            return Ok(());
        }
        if bearer.aal == Aal::One {
            return Err(AuthError::InsufficientAal);
        }
        match self.running_session(bearer).await?.aal() {
            Aal::One => Err(AuthError::InsufficientAal),
            Aal::Two => Ok(()),
        }
    }
}

fn holder(bearer: &Bearer, now: Timestamp) -> Holder {
    Holder { user: bearer.user_id.clone(), session: bearer.session_id, aal: bearer.aal, now }
}

fn factor_event(bearer: &Bearer, kind: EventKind, origin: &Origin, now: Timestamp) -> Event {
    Event {
        user_id: Some(bearer.user_id.clone()),
        session_id: Some(bearer.session_id),
        ..origin.event(kind, Outcome::Success, now)
    }
}

fn too_many_wrong_codes(until: Timestamp, now: Timestamp) -> AuthError {
    let retry_after = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    AuthError::TooManyWrongCodes { retry_after }
}
