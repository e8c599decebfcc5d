//! Signing keys. Their private halves are sealed on their way in and opened on their way out
//! ([`secrets`](crate::secrets)); what needs no private half can be asked without any key at hand,
//! so that lost keys can still be seen and ended.

use jiff::Timestamp;

use super::error::StoreError;
use super::seals::SealedColumn;
use super::{Store, either};
use crate::config::Algorithm;
use crate::model::{Event, ListedKey, SigningKey};

/// How a revocation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokeKey {
    /// There is no such key, or it is revoked already.
    Unknown,
    /// Its tokens are refused from now on.
    Done {
        /// The key that signs in its place, where none was at it: one that was on standby, or the
        /// one that was given.
        successor: Option<String>,
    },
}

/// How it ended that a key was to retire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetireKey {
    /// There is no such key, or it is out of use already.
    Unknown,
    /// It signs, or will, and no other one without an end would in its place.
    InUse,
    /// Its tokens are accepted until the time that was given.
    Done,
}

/// Signing keys.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Every key that is neither revoked nor retired at `now`, in the order in which they begin to sign.
    ///
    /// # Errors
    /// [`StoreError::Sealed`] when one cannot be opened.
    pub async fn signing_keys(&self, now: Timestamp) -> Result<Vec<SigningKey>, StoreError> {
        let stored = either!(self, backend => backend.signing_keys(now).await)?;
        stored.into_iter().map(|key| self.opened(key)).collect()
    }

    /// Every key, revoked and retired ones too; in the order in which they begin to sign.
    pub async fn listed_keys(&self) -> Result<Vec<ListedKey>, StoreError> {
        either!(self, backend => backend.listed_keys().await)
    }

    /// Stores the key unless its algorithm has one that is neither revoked nor retired at its
    /// `created_at`. Of two
    /// first starts one stores its key. Returns whether it was stored.
    pub async fn add_signing_key_if_none(&self, new: &SigningKey) -> Result<bool, StoreError> {
        let new = self.sealed(new);
        either!(self, backend => backend.add_signing_key_if_none(&new).await)
    }

    /// Stores a key and lets the others of its algorithm that have no end retire at
    /// `others_retire_at`. Returns `false`, and changes nothing, when the key is known already.
    pub async fn rotate_signing_key(
        &self,
        new: &SigningKey,
        others_retire_at: Timestamp,
        event: &Event,
    ) -> Result<bool, StoreError> {
        let new = self.sealed(new);
        either!(self, backend => backend.rotate_signing_key(&new, others_retire_at, event).await)
    }

    /// As [`Store::rotate_signing_key`], unless the algorithm has a key without end that begins to
    /// sign after `due`: of many gateways that find a key too old, one has its way. Returns whether
    /// the key was stored.
    pub async fn rotate_if_due(
        &self,
        new: &SigningKey,
        due: Timestamp,
        others_retire_at: Timestamp,
        event: &Event,
    ) -> Result<bool, StoreError> {
        let new = self.sealed(new);
        either!(self, backend => backend.rotate_if_due(&new, due, others_retire_at, event).await)
    }

    /// Refuses a key's tokens from the event's time on. When that leaves the algorithm of
    /// `replacement` without a key that signs and has no end, the next one on standby signs at once,
    /// or `replacement` is stored.
    pub async fn revoke_signing_key(
        &self,
        kid: &str,
        replacement: Option<&SigningKey>,
        event: &Event,
    ) -> Result<RevokeKey, StoreError> {
        let replacement = replacement.map(|key| self.sealed(key));
        either!(self, backend => {
            backend.revoke_signing_key(kid, replacement.as_ref(), event).await
        })
    }

    /// Lets a key that is in use at the event's time retire at `at`. With `signs`, the algorithm
    /// that signs, not when that would leave nobody to sign with.
    pub async fn retire_signing_key(
        &self,
        kid: &str,
        at: Timestamp,
        signs: Option<Algorithm>,
        event: &Event,
    ) -> Result<RetireKey, StoreError> {
        either!(self, backend => backend.retire_signing_key(kid, at, signs, event).await)
    }

    fn sealed(&self, key: &SigningKey) -> SigningKey {
        let private_key = self.seal(SealedColumn::SigningKeys, &key.kid, &key.private_key);
        SigningKey { private_key, ..key.clone() }
    }

    fn opened(&self, stored: SigningKey) -> Result<SigningKey, StoreError> {
        let private_key =
            self.open_seal(SealedColumn::SigningKeys, &stored.kid, &stored.private_key)?;
        Ok(SigningKey { private_key, ..stored })
    }
}
