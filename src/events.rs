//! Events of proxied routes: refusals and limits, noted in passing and written in batches, so that
//! a flood of refused requests cannot make the database its victim. What finds no room is counted
//! and dropped. Events of accounts never pass here: they commit with the change they speak of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::Event;

/// Events that may wait: a few megabytes.
const MAX_WAITING: usize = 4_096;

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
    let notes = EventNotes { sender, dropped: Arc::clone(&dropped), closed: closed.clone() };
    (notes, EventQueue { receiver, dropped, closed })
}

impl EventNotes {
    /// Notes an event; never waits.
    pub fn note(&self, event: Event) {
        if self.sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
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
                    tracing::warn!(events = batch.len(), %error, "events were dropped");
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
    use crate::model::{EventKind, Outcome, uuid_v7};

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
        for _ in 0..MAX_WAITING + 7 {
            notes.note(event());
        }
        assert_eq!(notes.dropped(), 7);
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
