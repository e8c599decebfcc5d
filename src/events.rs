//! Events of proxied routes: refusals and limits, noted in passing and written in batches, so that
//! a flood of refused requests cannot make the database its victim. What finds no room is counted
//! and dropped. Events of accounts never pass here: they commit with the change they speak of.

pub mod webhook;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::{Event, EventKind};

/// Events that may wait: a few megabytes.
const MAX_WAITING: usize = 4_096;

/// Events of one kind that are stored in a second: enough to see an attack by, a few gigabytes a
/// day at the worst, and strangers with junk for tokens cannot crowd out what users try. The rest
/// is in the metrics and the access log.
pub const MAX_A_SECOND: u32 = 100;

/// Events in one transaction.
const BATCH: usize = 256;

/// How long a batch waits for company.
const GATHER: Duration = Duration::from_millis(200);

/// How often a batch is tried before it is dropped, and the pause in between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Where events are noted.
#[derive(Clone)]
pub struct EventNotes {
    sender: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
    closed: CancellationToken,
    /// By kind: the second of the event noted last, and how many were noted in it.
    budgets: Arc<Mutex<HashMap<EventKind, (i64, u32)>>>,
}

/// The other end: [`EventQueue::write`] empties it.
pub struct EventQueue {
    receiver: mpsc::Receiver<Event>,
    dropped: Arc<AtomicU64>,
    closed: CancellationToken,
}

/// A bounded queue.
pub fn queue() -> (EventNotes, EventQueue) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let dropped = Arc::new(AtomicU64::new(0));
    let closed = CancellationToken::new();
    let notes = EventNotes {
        sender,
        dropped: Arc::clone(&dropped),
        closed: closed.clone(),
        budgets: Arc::default(),
    };
    (notes, EventQueue { receiver, dropped, closed })
}

impl EventNotes {
    /// Notes an event; never waits. More than [`MAX_A_SECOND`] of a kind are dropped and counted.
    pub fn note(&self, event: Event) {
        if !self.is_within_budget(&event) || self.sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    fn is_within_budget(&self, event: &Event) -> bool {
        let now = event.at.as_second();
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let (second, noted) = budgets.entry(event.kind).or_default();
        if *second != now {
            (*second, *noted) = (now, 0);
        }
        *noted += 1;
        *noted <= MAX_A_SECOND
    }

    /// No more events: what was noted is written, then [`EventQueue::write`] ends.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// How many events were lost, to a full queue or a database that stayed away.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl EventQueue {
    /// Writes batches through `sink` until the notes are closed (or gone) and the queue is empty.
    pub async fn write<E, F>(mut self, sink: impl Fn(Vec<Event>) -> F)
    where
        E: std::error::Error,
        F: Future<Output = Result<(), E>>,
    {
        let mut batch = Vec::with_capacity(BATCH);
        while self.next(&mut batch).await {
            if batch.len() < BATCH && !self.closed.is_cancelled() {
                // A close need not wait for company.
                let _ = tokio::time::timeout(GATHER, self.closed.cancelled()).await;
                while batch.len() < BATCH
                    && let Ok(event) = self.receiver.try_recv()
                {
                    batch.push(event);
                }
            }
            for attempt in 1..=TRIES {
                let Err(error) = sink(batch.clone()).await else { break };
                if attempt == TRIES || self.closed.is_cancelled() {
                    self.dropped.fetch_add(batch.len() as u64, Relaxed);
                    let error = crate::telemetry::chain(&error);
                    tracing::warn!(events = batch.len(), error, "events were dropped");
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            batch.clear();
        }
    }

    /// Waits for events; false when there will be none.
    async fn next(&mut self, batch: &mut Vec<Event>) -> bool {
        tokio::select! {
            biased;
            taken = self.receiver.recv_many(batch, BATCH) => taken > 0,
            () = self.closed.cancelled() => {
                self.receiver.close();
                self.receiver.recv_many(batch, BATCH).await > 0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::model::{Outcome, uuid_v7};

    fn event() -> Event {
        let at = jiff::Timestamp::UNIX_EPOCH;
        Event {
            id: uuid_v7(at),
            at,
            kind: EventKind::OwnerMismatch,
            outcome: Outcome::Failure,
            reason: None,
            actor: None,
            user_id: None,
            email: None,
            session_id: None,
            address: None,
            user_agent: None,
            request_id: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_bounded_and_what_was_lost_is_counted() {
        let (notes, queue) = queue();
        let seconds = u32::try_from(MAX_WAITING).unwrap() / MAX_A_SECOND + 1;
        for second in 0..seconds {
            for _ in 0..=MAX_A_SECOND {
                let at = jiff::Timestamp::from_second(second.into()).unwrap();
                notes.note(Event { at, ..event() });
            }
        }
        let noted = u64::from(seconds * (MAX_A_SECOND + 1));
        assert_eq!(notes.dropped(), noted - MAX_WAITING as u64);
        drop(notes);
        let written = RefCell::new(0);
        queue
            .write(|batch| {
                assert!(batch.len() <= BATCH);
                *written.borrow_mut() += batch.len();
                std::future::ready(Ok::<_, std::io::Error>(()))
            })
            .await;
        assert_eq!(written.into_inner(), MAX_WAITING);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_survives_a_short_outage() {
        let (notes, queue) = queue();
        notes.note(event());
        let tries = RefCell::new(0);
        let written = RefCell::new(0);
        let writing = queue.write(|batch| {
            *tries.borrow_mut() += 1;
            std::future::ready(if *tries.borrow() < 3 {
                Err(std::io::Error::other("away"))
            } else {
                *written.borrow_mut() += batch.len();
                Ok(())
            })
        });
        let closing = async {
            tokio::time::sleep(PAUSE * 10).await;
            assert_eq!(notes.dropped(), 0);
            drop(notes);
        };
        tokio::join!(writing, closing);
        assert_eq!(written.into_inner(), 1);
    }
}
