//! The long life of events: tables for the coming months, and the end of those that are too old.
//!
//! Events are removed by time, while a gap shows in the numbers; so each removal notes, in its own
//! transaction, how many of each writer's numbers it took ([`Store::check_events`] reckons with it).

use jiff::Timestamp;

use super::error::StoreError;
use super::{Store, either};

/// What a removal of old events did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Events that are gone.
    pub events: u64,
    /// Those of them that a webhook still was to be told of.
    pub undelivered: u64,
}

impl Removed {
    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.undelivered += other.undelivered;
    }
}

/// Retention of events.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Makes partitions of the events of this month and the next two where there are none, and moves
    /// there what lay in the default one. Safe when several processes do so at once. Returns the
    /// names of those that were made; on SQLite, which has one table, none. A month that fails does
    /// not keep those after it from being made. May take long: not for requests.
    pub async fn make_event_partitions(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Postgres(backend) => backend.make_event_partitions(now).await,
            Self::Sqlite(_) => Ok(Vec::new()),
        }
    }

    /// Drops the partitions of months before this one that nothing is left in; returns their names.
    /// Waits a second for those who read, and no longer.
    pub async fn drop_empty_event_partitions(
        &self,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Postgres(backend) => backend.drop_empty_event_partitions(now).await,
            Self::Sqlite(_) => Ok(Vec::new()),
        }
    }

    /// Removes the events of the days (UTC) before `before`, in many transactions; an event in each
    /// tells of what it removed. PostgreSQL drops the partitions that are over as a whole, if this program may change the
    /// schema (`storage.migrate`) and owns them; else, and of the others, rows go, some at a time. May
    /// take long: not for requests. What is gone is added to `removed`, also when the end is an error.
    pub async fn prune_events(
        &self,
        before: Timestamp,
        now: Timestamp,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        either!(self, backend => backend.prune_events(before, now, removed).await)
    }
}
