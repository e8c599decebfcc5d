//! API keys at rest, and what gateways read to keep all of them in memory.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;
use uuid::Uuid;

use super::cases::Mark;
use super::error::StoreError;
use super::{Store, either};
use crate::model::{ApiKey, Event, User, UserId};

/// How somebody names a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyName {
    /// By its id.
    Id(Uuid),
    /// By its prefix.
    Prefix(String),
}

/// How the making of a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddApiKey {
    /// It is stored.
    Added,
    /// The user has as many as allowed; nothing was stored.
    TooMany,
    /// No such user; nothing was stored.
    NoUser,
    /// Another key has this prefix; nothing was stored.
    Taken,
}

/// How the rotation of a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotateApiKey {
    /// The new key is stored, and the old one has an end.
    Rotated,
    /// The old key is not there, not the user's, revoked or expired; nothing was stored.
    NotFound,
    /// The user has as many as allowed; nothing was stored.
    TooMany,
    /// Another key has this prefix; nothing was stored.
    Taken,
}

/// The id of a key, and what there is of it.
pub type ChangedApiKey = (Uuid, Option<(ApiKey, User)>);

/// What became of keys since a gateway last read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApiKeyNews {
    /// Keys as they are now, with the users that they act as; `None` = revoked or deleted. A key that
    /// has expired, and a user who is disabled, are there.
    pub keys: Vec<ChangedApiKey>,
    /// Whether these are all there are.
    pub all: bool,
}

/// How far a gateway has read the keys; the default has read none.
#[derive(Clone, Debug, Default)]
pub struct ApiKeyCursor {
    /// Where, and when that was.
    pub(super) read: Option<(Mark, Instant)>,
}

impl ApiKeyCursor {
    /// Where to read on; none when changes since then may have been deleted already, so that
    /// everything has to be read again.
    pub(super) fn mark(&self) -> Option<Mark> {
        let (mark, at) = self.read?;
        (at.elapsed() < KEEP_CHANGES / 2).then_some(mark)
    }
}

/// For how long changes are kept. Gateways read four times a second; one that was away for half of
/// this reads everything.
pub(super) const KEEP_CHANGES: std::time::Duration = std::time::Duration::from_hours(1);

/// As long as a use is known this exactly, another is not written.
pub(super) const LAST_USE: std::time::Duration = std::time::Duration::from_mins(5);

/// The newest time for each key, in the order of the keys: rows are always locked in that order.
pub(super) fn newest(used: &[(Uuid, Timestamp)]) -> BTreeMap<Uuid, Timestamp> {
    let mut newest = BTreeMap::new();
    for (id, at) in used {
        let known = newest.entry(*id).or_insert(*at);
        *known = (*known).max(*at);
    }
    newest
}

/// API keys.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Keys, newest first: of one user, or of all. Those that were revoked or have expired are among
    /// them for 30 days.
    pub async fn api_keys(&self, user: Option<&UserId>) -> Result<Vec<ApiKey>, StoreError> {
        either!(self, backend => backend.api_keys(user).await)
    }

    /// One key, whatever its state.
    pub async fn api_key(&self, name: &KeyName) -> Result<Option<ApiKey>, StoreError> {
        either!(self, backend => backend.api_key(name).await)
    }

    /// Stores a key, when its user then has at most `max` that are neither revoked nor expired.
    pub async fn add_api_key(
        &self,
        new: &ApiKey,
        max: u32,
        event: &Event,
    ) -> Result<AddApiKey, StoreError> {
        either!(self, backend => backend.add_api_key(new, max, event).await)
    }

    /// Stores a key in the place of `new.replaces`, a key of the same user, which ends at
    /// `old_ends_at` unless it ends sooner; `max` as in [`Store::add_api_key`].
    pub async fn rotate_api_key(
        &self,
        new: &ApiKey,
        old_ends_at: Timestamp,
        max: u32,
        events: &[Event],
    ) -> Result<RotateApiKey, StoreError> {
        either!(self, backend => backend.rotate_api_key(new, old_ends_at, max, events).await)
    }

    /// Ends a key; with `user` only if it is that user's. Returns whether there was one to end.
    pub async fn revoke_api_key(
        &self,
        id: Uuid,
        user: Option<&UserId>,
        now: Timestamp,
        event: &Event,
    ) -> Result<bool, StoreError> {
        either!(self, backend => backend.revoke_api_key(id, user, now, event).await)
    }

    /// Keys that were made, changed or ended, or whose user was, since the last call with this
    /// cursor; the first time all. Never leaves one out, however late its transaction commits; may
    /// repeat some.
    pub async fn changed_api_keys(
        &self,
        cursor: &mut ApiKeyCursor,
    ) -> Result<ApiKeyNews, StoreError> {
        either!(self, backend => backend.changed_api_keys(cursor).await)
    }

    /// Notes when keys were used, to five minutes; a time before the known one changes nothing.
    pub async fn touch_api_keys(&self, used: &[(Uuid, Timestamp)]) -> Result<(), StoreError> {
        either!(self, backend => backend.touch_api_keys(used).await)
    }
}
