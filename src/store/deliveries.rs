//! Events on their way to a webhook, in deliveries of many. At least once, each writer's in the order
//! of its numbers; one delivery at a time, whichever gateway makes it.
//!
//! ```text
//! claim_delivery ─▶ (id, events) ─▶ sent ─┬─▶ delivered        the next one may be claimed
//!      ▲                                  └─▶ not_delivered    the same one again, later
//!      └── nothing heard before the lease is over: the same one, by whoever comes
//! ```
//!
//! Invariant: a delivery that was claimed keeps its id and its numbers until it was delivered. What of
//! it the retention removes meanwhile is not in it any more; nothing ever comes into it.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::error::StoreError;
use super::{Store, either};
use crate::model::{Event, StoredEvent};

/// A delivery that nobody else will try before the lease is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The receiver's means to know a repetition.
    pub id: Uuid,
    /// 1 at the first attempt, 2 at the second.
    pub attempt: u32,
    /// Oldest first, each writer's by number; none, when the retention was faster.
    pub events: Vec<StoredEvent>,
}

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryState {
    /// Events from here on are delivered.
    pub started_at: Timestamp,
    /// Events still to be delivered, of all kinds.
    pub waiting: u64,
    /// When the oldest of those happened.
    pub oldest: Option<Timestamp>,
    /// Attempts at the delivery under way.
    pub attempts: u32,
    /// When the next attempt may be made.
    pub due_at: Timestamp,
    /// When the last delivery was taken.
    pub delivered_at: Option<Timestamp>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// Deliveries of events.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// The delivery to make now, of at most `limit` events; `None` = nothing is due. The first call
    /// there ever is marks where deliveries begin, and returns nothing. The delivery is due again
    /// after `lease`, unless [`Store::delivered`] or [`Store::not_delivered`] is called before.
    pub async fn claim_delivery(
        &self,
        now: Timestamp,
        lease: Duration,
        limit: u32,
    ) -> Result<Option<Delivery>, StoreError> {
        either!(self, backend => backend.claim_delivery(now, lease, limit).await)
    }

    /// The delivery was taken. Returns whether it was still under way.
    pub async fn delivered(&self, id: Uuid, now: Timestamp) -> Result<bool, StoreError> {
        either!(self, backend => backend.delivered(id, now).await)
    }

    /// Notes why a delivery was not taken and when to try again.
    pub async fn not_delivered(
        &self,
        id: Uuid,
        retry_at: Timestamp,
        why: &str,
    ) -> Result<(), StoreError> {
        either!(self, backend => backend.not_delivered(id, retry_at, why).await)
    }

    /// How things stand; `None` = no delivery was ever claimed.
    pub async fn delivery_state(&self) -> Result<Option<DeliveryState>, StoreError> {
        either!(self, backend => backend.delivery_state().await)
    }

    /// Gives up what is still to be delivered, and goes on with what comes after. The event is
    /// stored, and is the first of that. Returns how many were given up; `None` = no delivery was
    /// ever claimed.
    pub async fn skip_deliveries(
        &self,
        now: Timestamp,
        event: &Event,
    ) -> Result<Option<u64>, StoreError> {
        either!(self, backend => backend.skip_deliveries(now, event).await)
    }
}

/// The row of the webhook.
pub(super) struct WebhookRow {
    pub(super) delivery: Option<Uuid>,
    pub(super) attempts: u32,
    pub(super) due_at: Timestamp,
}

/// A writer that has events to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backlog {
    pub(super) writer: Uuid,
    pub(super) delivered_to: i64,
    pub(super) last_number: i64,
}
