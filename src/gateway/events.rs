//! Looks after the events that are stored: makes room for those of the coming months, and removes
//! those that are older than `events.retention`. Every gateway does, and what one has done the
//! others find done.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::courier::Courier;
use crate::clock::Clock;
use crate::config::{Config, Events};
use crate::store::{Removed, Store, StoreError};
use crate::telemetry::chain;

/// How often there is something to look after; also at the start, and when the configuration has
/// changed.
const LOOK: Duration = Duration::from_mins(10);

/// How far this machine's clock may be ahead of the database's when events are removed: more than
/// clocks that are kept differ, and far less than a day, the measure of what is removed.
const AHEAD: Duration = Duration::from_mins(5);

/// Who looks after the events.
pub(super) struct Keeper {
    store: Arc<Store>,
    clock: Clock,
    /// Is told of events that go before it could hand them on.
    courier: Arc<Courier>,
    stopping: CancellationToken,
    rules: ArcSwap<Events>,
    changed: Notify,
    /// Whether this program may change the schema.
    may_alter: bool,
}

impl Keeper {
    pub(super) fn new(
        config: &Config,
        store: Arc<Store>,
        clock: Clock,
        courier: Arc<Courier>,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            store,
            clock,
            courier,
            stopping,
            rules: ArcSwap::from_pointee(config.events.clone()),
            changed: Notify::new(),
            may_alter: config.storage.migrate,
        }
    }

    /// Goes by another configuration from now on.
    pub(super) fn reload(&self, events: &Events) {
        self.rules.store(Arc::new(events.clone()));
        self.changed.notify_one();
    }

    /// Looks after the events until the gateway stops.
    pub(super) async fn run(self: Arc<Self>) {
        while !self.stopping.is_cancelled() {
            let work = async {
                self.make_partitions().await;
                self.remove_old().await;
            };
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = work => {}
            }
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn make_partitions(&self) {
        if !self.may_alter {
            return;
        }
        match self.store.make_event_partitions(self.clock.now()).await {
            Ok(made) => {
                for name in made {
                    tracing::info!(name, "made the table for a month of events");
                }
            }
            Err(error) if error.is_unavailable() => {
                tracing::debug!(error = chain(&error), "no tables for coming events were made");
            }
            Err(error) => tracing::warn!(
                error = chain(&error),
                "no table for coming events can be made; they are stored all the same, and \
                 `portcullis migrate` as the owner of the tables puts them in order"
            ),
        }
    }

    async fn remove_old(&self) {
        let Some(retention) = self.rules.load().retention else { return };
        let now = self.clock.now();
        let Ok(before) = now.checked_sub(retention.0) else { return };
        // What a wrong clock makes too old cannot be brought back.
        match self.store.time().await {
            Ok(Some(theirs)) if self.clock.is_ahead_of(theirs, AHEAD) => {
                tracing::error!(
                    here = %now,
                    database = %theirs,
                    "old events are not removed: this machine's clock is ahead of the database's; \
                     set whichever is wrong"
                );
                return;
            }
            Ok(_) => {}
            Err(error) => return log_failure(&error),
        }
        let mut removed = Removed::default();
        let ended = self.store.prune_events(before, now, &mut removed).await;
        if removed.events > 0 {
            tracing::info!(events = removed.events, "removed events older than the retention");
        }
        self.courier.note_lost(removed.undelivered);
        if let Err(error) = ended {
            log_failure(&error);
        }
    }
}

/// The next look may do better; a database that is away is spoken of elsewhere.
fn log_failure(error: &StoreError) {
    let error_chain = chain(error);
    if error.is_unavailable() {
        tracing::debug!(error = error_chain, "old events were not removed");
    } else {
        tracing::error!(error = error_chain, "old events cannot be removed");
    }
}
