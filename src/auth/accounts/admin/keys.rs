//! Signing keys. All gateways read a change within a second.

use std::time::Duration;

use jiff::Timestamp;

use super::super::{Accounts, failed};
use super::Administrator;
use crate::auth::error::AuthError;
use crate::config::Algorithm;
use crate::identity::keys;
use crate::identity::keys::life::{KeyState, SPREAD, later, retire_at, states};
use crate::model::{Event, EventKind, ListedKey, SigningKey};
use crate::store::{RetireKey, RevokeKey};

/// Most keys in use when another is made. The JWKS lists them all, and readers of such sets, this
/// program among them, take no more than 32.
const MAX_KEYS: usize = 16;

/// A new signing key.
#[derive(Clone, Debug)]
pub struct MadeKey {
    /// Its id.
    pub kid: String,
    /// When it begins to sign.
    pub active_from: Timestamp,
    /// Until when the tokens of older ones are accepted.
    pub others_until: Timestamp,
}

impl Accounts {
    /// All signing keys with their states.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn signing_keys(&self) -> Result<Vec<(ListedKey, KeyState)>, AuthError> {
        let keys = self.store.listed_keys().await.map_err(failed)?;
        let states = states(&keys, self.tokens.algorithm, self.clock.now());
        Ok(keys.into_iter().zip(states).collect())
    }

    /// Makes a key that signs after `notice`, or as configured, but not before all gateways know it.
    ///
    /// # Errors
    /// [`AuthError::ValidationFailed`] where there are no key pairs, or too many; what storing may
    /// meet.
    pub async fn rotate_keys(
        &self,
        admin: &Administrator,
        notice: Option<Duration>,
    ) -> Result<MadeKey, AuthError> {
        if self.tokens.algorithm == Algorithm::Hs256 {
            let detail = "HS256 has no key pair; change tokens.secret instead";
            return Err(AuthError::ValidationFailed(detail.to_owned()));
        }
        let is_live = |state: &KeyState| !matches!(state, KeyState::Retired | KeyState::Revoked);
        let live = self.signing_keys().await?.iter().filter(|(_, state)| is_live(state)).count();
        if live >= MAX_KEYS {
            let detail =
                format!("there are {live} signing keys in use: retire some, or let them end");
            return Err(AuthError::ValidationFailed(detail));
        }
        let key = self.new_key(notice.unwrap_or(self.tokens.key_notice.0).max(SPREAD)).await?;
        let others_until = retire_at(&self.tokens, key.active_from);
        let event = self.of_key(admin, "added", &key.kid);
        if !self.store.rotate_signing_key(&key, others_until, &event).await.map_err(failed)? {
            return Err(AuthError::Internal("a new key is known already".into()));
        }
        Ok(MadeKey { kid: key.kid, active_from: key.active_from, others_until })
    }

    /// Accepts a key no more. No other one begins to sign for it, so one that is needed stays.
    ///
    /// # Errors
    /// [`AuthError::KeyNotFound`], [`AuthError::KeyInUse`]; what storing may meet.
    pub async fn retire_key(&self, admin: &Administrator, kid: &str) -> Result<(), AuthError> {
        let event = self.of_key(admin, "retired", kid);
        let algorithm = self.tokens.algorithm;
        let signs = (algorithm != Algorithm::Hs256).then_some(algorithm);
        let retired = self.store.retire_signing_key(kid, event.at, signs, &event).await;
        match retired.map_err(failed)? {
            RetireKey::Done => Ok(()),
            RetireKey::InUse => Err(AuthError::KeyInUse),
            RetireKey::Unknown => Err(AuthError::KeyNotFound),
        }
    }

    /// Ends a key in an emergency; another one signs in its place, whose id is returned if the key
    /// was at it.
    ///
    /// # Errors
    /// [`AuthError::KeyNotFound`]; what storing may meet.
    pub async fn revoke_key(
        &self,
        admin: &Administrator,
        kid: &str,
    ) -> Result<Option<String>, AuthError> {
        // Before a key is made for nothing.
        let listed = self.store.listed_keys().await.map_err(failed)?;
        if !listed.iter().any(|key| key.kid == kid && key.revoked_at.is_none()) {
            return Err(AuthError::KeyNotFound);
        }
        let event = self.of_key(admin, "revoked", kid);
        let replacement = match self.tokens.algorithm {
            Algorithm::Hs256 => None,
            _ => Some(self.new_key(SPREAD).await?),
        };
        let revoked = self.store.revoke_signing_key(kid, replacement.as_ref(), &event).await;
        match revoked.map_err(failed)? {
            RevokeKey::Done { successor } => Ok(successor),
            RevokeKey::Unknown => Err(AuthError::KeyNotFound),
        }
    }

    async fn new_key(&self, wait: Duration) -> Result<SigningKey, AuthError> {
        let (algorithm, now) = (self.tokens.algorithm, self.clock.now());
        let generate = move || keys::generate(algorithm, now, later(now, wait));
        // An RSA key takes a second of work.
        let made = tokio::task::spawn_blocking(generate).await;
        let made = made.map_err(|error| AuthError::Internal(error.into()))?;
        made.map_err(|error| AuthError::Internal(error.into()))
    }

    fn of_key(&self, admin: &Administrator, done: &str, kid: &str) -> Event {
        let event = admin.event(EventKind::SigningKeyChanged, None, self.clock.now());
        Event { reason: Some(format!("{done}:{kid}")), ..event }
    }
}
