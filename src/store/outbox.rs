//! What is still to be sent, stored with what caused it: a process that dies in between sends it
//! after its start, or another one does. At least once; receivers know a repetition by its id.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::error::StoreError;
use super::{Store, either};
use crate::model::{Event, Letter, words};

words! {
    /// Kinds of parcels: each has its sender.
    ParcelKind {
        /// [`Parcel::Mail`].
        Mail = "mail",
    }
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Parcel {
    /// A mail, its links and codes still to be made.
    Mail(Letter),
}

impl Parcel {
    /// Whose business it is.
    pub fn kind(&self) -> ParcelKind {
        match self {
            Self::Mail(_) => ParcelKind::Mail,
        }
    }

    pub(super) fn payload(&self) -> serde_json::Value {
        match self {
            Self::Mail(letter) => {
                serde_json::to_value(letter).expect("string keys and plain values always serialise")
            }
        }
    }

    pub(super) fn from_payload(kind: ParcelKind, payload: serde_json::Value) -> Option<Self> {
        match kind {
            ParcelKind::Mail => serde_json::from_value(payload).ok().map(Self::Mail),
        }
    }
}

/// A parcel to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewParcel {
    /// `UUIDv7`; the receiver's means to know a repetition.
    pub id: Uuid,
    /// The contents.
    pub parcel: Parcel,
    /// Now; it is due at once.
    pub at: Timestamp,
}

/// A parcel that nobody else will try before the lease is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// Its id.
    pub id: Uuid,
    /// The contents; `None` = nothing that this program understands.
    pub parcel: Option<Parcel>,
    /// 1 at the first attempt, 2 at the second.
    pub attempt: u32,
    /// When it was stored.
    pub created_at: Timestamp,
}

/// A parcel as it lies there.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its id.
    pub id: Uuid,
    /// The contents; `None` = nothing that this program understands.
    pub parcel: Option<Parcel>,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When it is tried again.
    pub due_at: Timestamp,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// When it was given up.
    pub failed_at: Option<Timestamp>,
}

/// How many parcels of a kind there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxState {
    /// The kind.
    pub kind: ParcelKind,
    /// Still to be sent.
    pub waiting: u64,
    /// Given up.
    pub failed: u64,
    /// Since when the oldest waits.
    pub oldest: Option<Timestamp>,
}

/// Longest reason of a failure that is kept, in bytes.
pub(super) const MAX_REASON: usize = 300;

/// The outbox.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Stores parcels with the events of what they are about.
    pub async fn post(&self, parcels: &[NewParcel], events: &[Event]) -> Result<(), StoreError> {
        either!(self, backend => backend.post(parcels, events).await)
    }

    /// At most `limit` parcels that are due, oldest first. They are due again after `lease`, unless
    /// [`Store::sent`] or [`Store::not_sent`] is called before. Of claims at the same time each gets
    /// others.
    pub async fn claim(
        &self,
        kind: ParcelKind,
        now: Timestamp,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<Claimed>, StoreError> {
        either!(self, backend => backend.claim(kind, now, lease, limit).await)
    }

    /// Removes a parcel that was sent or is not wanted any more; the event is stored if it was there.
    /// Returns whether it was.
    pub async fn sent(&self, id: Uuid, event: Option<&Event>) -> Result<bool, StoreError> {
        either!(self, backend => backend.sent(id, event).await)
    }

    /// Notes why a parcel was not sent and when to try again; `retry_at: None` = gives it up at
    /// `now`. It is kept for 30 days then, without the password and the metadata of an account to be.
    /// The event is stored if the parcel was there.
    pub async fn not_sent(
        &self,
        id: Uuid,
        retry_at: Option<Timestamp>,
        why: &str,
        now: Timestamp,
        event: Option<&Event>,
    ) -> Result<(), StoreError> {
        either!(self, backend => backend.not_sent(id, retry_at, why, now, event).await)
    }

    /// At most `limit` parcels of a kind, newest first; `before` = the id of the last one of the page
    /// before. Ids are in the order of time.
    pub async fn parcels(
        &self,
        kind: ParcelKind,
        limit: u32,
        before: Option<Uuid>,
    ) -> Result<Vec<Stored>, StoreError> {
        either!(self, backend => backend.parcels(kind, limit, before).await)
    }

    /// The parcel with this id.
    pub async fn parcel(&self, kind: ParcelKind, id: Uuid) -> Result<Option<Stored>, StoreError> {
        either!(self, backend => backend.parcel(kind, id).await)
    }

    /// Has a parcel that was given up tried again, at `now`. Returns whether there was one; the event
    /// is stored then.
    pub async fn retry_parcel(
        &self,
        id: Uuid,
        now: Timestamp,
        event: &Event,
    ) -> Result<bool, StoreError> {
        either!(self, backend => backend.retry_parcel(id, now, event).await)
    }

    /// What waits and what was given up, of each kind that has any.
    pub async fn outbox_state(&self) -> Result<Vec<OutboxState>, StoreError> {
        either!(self, backend => backend.outbox_state().await)
    }
}
