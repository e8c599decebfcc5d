//! Hands stored events on to the webhook, one delivery after the other. Every gateway on the database
//! does, and each delivery is at one of them at a time; how far they have come lies in the database,
//! so that neither a restart nor a receiver that is away loses any.
//!
//! No request waits for it: it reads what was committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::events::webhook::Webhook;
use crate::store::{Delivery, DeliveryState, Store, StoreError};
use crate::telemetry::chain;

/// How often events are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// How often what waits is counted.
const COUNT: Duration = Duration::from_secs(5);

/// What a lease has beyond the attempt itself: to note how that went.
const TO_NOTE: Duration = Duration::from_secs(5);

/// Waits between attempts; the last one is repeated for as long as it takes.
const WAITS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(5),
];

/// Who hands events on.
pub(crate) struct Courier {
    store: Arc<Store>,
    clock: Clock,
    stopping: CancellationToken,
    webhook: ArcSwapOption<Webhook>,
    changed: Notify,
    /// Deliveries that were taken, by this gateway.
    pub(crate) taken: AtomicU64,
    /// Attempts that failed, by this gateway.
    pub(crate) failed: AtomicU64,
    /// Events that the retention removed before they could be delivered, by this gateway.
    pub(crate) lost: AtomicU64,
    /// As it was last read; of all gateways.
    state: ArcSwapOption<DeliveryState>,
}

impl Courier {
    pub(super) fn new(
        webhook: Option<Webhook>,
        store: Arc<Store>,
        clock: Clock,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            store,
            clock,
            stopping,
            webhook: ArcSwapOption::from(webhook.map(Arc::new)),
            changed: Notify::new(),
            taken: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            state: ArcSwapOption::empty(),
        }
    }

    /// Goes by another configuration from now on.
    pub(super) fn reload(&self, webhook: Option<Webhook>) {
        self.webhook.store(webhook.map(Arc::new));
        self.changed.notify_one();
    }

    /// Whether there is somebody to hand events on to.
    pub(crate) fn is_on(&self) -> bool {
        self.webhook.load().is_some()
    }

    /// How things stand, as they were some seconds ago; how many events wait, and for how long the
    /// oldest has.
    pub(crate) fn backlog(&self) -> (u64, Duration) {
        let Some(state) = self.state.load_full() else { return (0, Duration::ZERO) };
        let age = state.oldest.map(|oldest| self.clock.now().duration_since(oldest));
        (state.waiting, age.and_then(|age| age.try_into().ok()).unwrap_or_default())
    }

    /// Takes note of events that are gone and never were delivered.
    pub(super) fn note_lost(&self, events: u64) {
        if events > 0 && self.is_on() {
            self.lost.fetch_add(events, Relaxed);
            tracing::error!(
                events,
                "the retention removed events that the webhook had not taken yet; see to its \
                 receiver, or set a longer events.retention"
            );
        }
    }

    /// Hands events on until the gateway stops.
    pub(super) async fn run(self: Arc<Self>) {
        let mut away = false;
        let mut counted: Option<Instant> = None;
        while !self.stopping.is_cancelled() {
            let Some(webhook) = self.webhook.load_full() else {
                tokio::select! {
                    () = self.stopping.cancelled() => return,
                    () = self.changed.notified() => continue,
                }
            };
            let is_there_more = match self.hand_on(&webhook).await {
                Ok(is_there_more) => {
                    if std::mem::take(&mut away) {
                        tracing::info!("the database is back; events are handed on again");
                    }
                    is_there_more
                }
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::error!(error = chain(&error), "events cannot be handed on");
                    }
                    false
                }
            };
            if !away && counted.is_none_or(|at| at.elapsed() >= COUNT) {
                counted = Some(Instant::now());
                self.count().await;
            }
            if !is_there_more {
                tokio::select! {
                    () = self.stopping.cancelled() => return,
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        }
    }

    async fn count(&self) {
        match self.store.delivery_state().await {
            Ok(state) => self.state.store(state.map(Arc::new)),
            Err(error) => tracing::debug!(error = chain(&error), "waiting events were not counted"),
        }
    }

    /// Makes one attempt at the delivery that is due; whether there may be another at once.
    async fn hand_on(&self, webhook: &Webhook) -> Result<bool, StoreError> {
        let lease = webhook.timeout().saturating_add(TO_NOTE);
        let claimed = self.store.claim_delivery(self.clock.now(), lease, webhook.batch()).await?;
        let Some(Delivery { id, attempt, mut events }) = claimed else { return Ok(false) };
        events.retain(|stored| webhook.wants(stored.event.kind));
        if events.is_empty() {
            self.store.delivered(id, self.clock.now()).await?;
            return Ok(true);
        }
        let sent = tokio::select! {
            sent = webhook.send(id, &events, self.clock.now()) => sent,
            () = self.stopping.cancelled() => {
                // Another gateway, or the next start, does it again.
                self.store.not_delivered(id, self.clock.now(), "the gateway was stopped").await?;
                return Ok(false);
            }
        };
        match sent {
            Ok(()) => {
                self.taken.fetch_add(1, Relaxed);
                self.store.delivered(id, self.clock.now()).await?;
                Ok(true)
            }
            Err(error) => {
                self.failed.fetch_add(1, Relaxed);
                tracing::warn!(
                    delivery = %id,
                    attempt,
                    events = events.len(),
                    error = chain(&error),
                    "events were not taken by the webhook"
                );
                let attempts = usize::try_from(attempt).unwrap_or(usize::MAX);
                let wait = WAITS[attempts.saturating_sub(1).min(WAITS.len() - 1)];
                let retry_at = self.clock.now().checked_add(wait).unwrap_or(Timestamp::MAX);
                self.store.not_delivered(id, retry_at, &error.to_string()).await?;
                Ok(false)
            }
        }
    }
}
