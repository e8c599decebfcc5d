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

    /// Removes a parcel that was sent or has become pointless; the event is stored if it was there.
    pub async fn sent(&self, id: Uuid, event: Option<&Event>) -> Result<(), StoreError> {
        either!(self, backend => backend.sent(id, event).await)
    }

    /// Notes why a parcel was not sent and when to try again; `retry_at: None` = gives it up at
    /// `now`. It is kept for 30 days then. The event is stored if the parcel was there.
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

    /// What waits and what was given up, of each kind that has any.
    pub async fn outbox_state(&self) -> Result<Vec<OutboxState>, StoreError> {
        either!(self, backend => backend.outbox_state().await)
    }
}
