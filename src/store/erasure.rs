//! What is left of deleted accounts, and what an account's data is.
//!
//! A deletion ([`Store::delete_user`]) takes at once what is of no use without the account: sessions, links, letters that
//! wait, failed logins. Events are kept, under a pseudonym that nobody can lead back: they are
//! rewritten in batches by [`Store::erase`], as there may be many, and again for an hour.

use jiff::Timestamp;

use super::error::StoreError;
use super::{Store, either};
use crate::model::{Session, UserId};

/// Traces of deleted accounts, and an account's data.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Replaces deleted accounts in the events by their pseudonyms; e-mail address and user agent
    /// go, of a client address its network stays. In many small transactions; safe when several
    /// gateways do so at once, and when one stops in the middle. Returns the number of events that
    /// were rewritten.
    pub async fn erase(&self, now: Timestamp) -> Result<u64, StoreError> {
        either!(self, backend => backend.erase(now).await)
    }

    /// All sessions of a user that are still kept, newest first.
    pub async fn kept_sessions_of(&self, user: &UserId) -> Result<Vec<Session>, StoreError> {
        either!(self, backend => backend.kept_sessions_of(user).await)
    }
}

/// A deletion whose traces are still to be replaced.
pub(super) struct Erasure {
    pub(super) pseudonym: String,
    pub(super) user_id: String,
    pub(super) email: String,
    pub(super) requested_at: Timestamp,
}
