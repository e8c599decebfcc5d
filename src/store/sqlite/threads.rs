//! The threads that own the connections, and the queues before them.
//!
//! ```text
//! change ─▶ queue ─▶ writer:  BEGIN · SAVEPOINT body RELEASE · SAVEPOINT body RELEASE · COMMIT
//! read   ─▶ queue ─▶ readers: BEGIN body ROLLBACK
//! ```
//!
//! An answer leaves only after the commit. A call whose caller stopped waiting before its turn is
//! skipped.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{DEADLINE, Fault};
use crate::store::error::StoreError;

/// Calls that may wait; more could not be served within their deadline.
const QUEUE: usize = 1024;

/// Changes that one commit carries at most: bounds how long the first waits for the last.
const BATCH: usize = 64;

/// The threads; they end when this is dropped.
pub(super) struct Threads {
    changes: Option<SyncSender<WriterJob>>,
    reads: Option<SyncSender<Alone>>,
    running: Vec<JoinHandle<()>>,
    /// Calls that were accepted and have not been answered.
    busy: Arc<AtomicUsize>,
}

enum WriterJob {
    /// Part of the next commit.
    Change(Box<dyn Change>),
    /// Makes its own transactions.
    Alone(Alone),
}

type Alone = Box<dyn FnOnce(&mut Connection) + Send>;

/// One caller's part of a commit.
trait Change: Send {
    /// Makes the change inside the open transaction; `false` = undo what it did.
    fn make(&mut self, connection: &Connection) -> bool;
    /// Tells the caller, once the outcome of the commit is known.
    fn answer(self: Box<Self>, failure: Option<&Arc<rusqlite::Error>>);
}

struct Call<T, F> {
    operation: &'static str,
    body: Option<F>,
    result: Option<Result<T, StoreError>>,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Change for Call<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Fault> + Send,
{
    fn make(&mut self, connection: &Connection) -> bool {
        if self.caller.is_closed() {
            return false;
        }
        let operation = self.operation;
        self.result = self
            .body
            .take()
            .map(|body| body(connection).map_err(|fault| fault.into_error(operation)));
        matches!(self.result, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, failure: Option<&Arc<rusqlite::Error>>) {
        let result = match (self.result, failure) {
            (Some(Err(error)), _) => Err(error),
            (_, Some(error)) => Err(StoreError::unavailable(self.operation, Arc::clone(error))),
            (Some(result), None) => result,
            // Skipped: its caller is gone.
            (None, None) => return,
        };
        let _ = self.caller.send(result);
    }
}

impl Threads {
    pub(super) fn start(writing: Connection, reading: Vec<Connection>) -> io::Result<Self> {
        let (changes, queue) = mpsc::sync_channel(QUEUE);
        let mut running =
            vec![spawn("sqlite-writer".to_owned(), move || write_until_closed(writing, &queue))?];
        let (reads, queue) = mpsc::sync_channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for (n, connection) in reading.into_iter().enumerate() {
            let queue = Arc::clone(&queue);
            running.push(spawn(format!("sqlite-reader-{n}"), move || {
                read_until_closed(connection, &queue);
            })?);
        }
        Ok(Self {
            changes: Some(changes),
            reads: Some(reads),
            running,
            busy: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// How many calls run or wait.
    pub(super) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Runs `body` on the writer as part of a commit; undone when it fails.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call(operation, |caller| {
            let change = Call { operation, body: Some(body), result: None, caller };
            send(self.changes.as_ref(), WriterJob::Change(Box::new(change)))
        })
        .await
    }

    /// Runs `body` on the writer outside any transaction.
    pub(super) async fn alone<T: Send + 'static>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (caller, answer) = oneshot::channel();
        let job: Alone = Box::new(move |connection| {
            let _ = caller.send(body(connection));
        });
        send(self.changes.as_ref(), WriterJob::Alone(job))
            .map_err(|refused| StoreError::unavailable(operation, refused))?;
        answer.await.map_err(|_| StoreError::unavailable(operation, Refused::Stopped))?
    }

    /// Runs `body` on a reader.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call(operation, |caller| {
            let job: Alone = Box::new(move |connection| {
                if caller.is_closed() {
                    return;
                }
                let result = on_snapshot(connection, body);
                let _ = caller.send(result.map_err(|fault| fault.into_error(operation)));
            });
            send(self.reads.as_ref(), job)
        })
        .await
    }

    /// Runs `body` on a reader, which is nobody else's for as long as that takes.
    pub(super) async fn read_at_leisure<T: Send + 'static>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (caller, answer) = oneshot::channel();
        let job: Alone = Box::new(move |connection| {
            let result = on_snapshot(connection, body);
            let _ = caller.send(result.map_err(|fault| fault.into_error(operation)));
        });
        send(self.reads.as_ref(), job)
            .map_err(|refused| StoreError::unavailable(operation, refused))?;
        answer.await.map_err(|_| StoreError::unavailable(operation, Refused::Stopped))?
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        queue: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Result<(), Refused>,
    ) -> Result<T, StoreError> {
        let _counted = Counted::new(&self.busy);
        let (caller, answer) = oneshot::channel();
        queue(caller).map_err(|refused| StoreError::unavailable(operation, refused))?;
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::unavailable(operation, Refused::Stopped)),
            Err(_) => Err(StoreError::unavailable(operation, Refused::Slow)),
        }
    }
}

impl Drop for Threads {
    /// Closes the queues and waits until the connections are closed, which folds the log into the
    /// file.
    fn drop(&mut self) {
        self.changes = None;
        self.reads = None;
        for thread in self.running.drain(..) {
            let _ = thread.join();
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("too many calls wait for the file")]
    Full,
    #[error("no answer within {} ms", DEADLINE.as_millis())]
    Slow,
    #[error("the thread that owns the file has stopped")]
    Stopped,
}

fn send<T>(queue: Option<&SyncSender<T>>, job: T) -> Result<(), Refused> {
    let queue = queue.ok_or(Refused::Stopped)?;
    queue.try_send(job).map_err(|error| match error {
        TrySendError::Full(_) => Refused::Full,
        TrySendError::Disconnected(_) => Refused::Stopped,
    })
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(work)
}

fn read_until_closed(mut connection: Connection, queue: &Mutex<Receiver<Alone>>) {
    loop {
        // Whoever holds the lock waits for the next job, the others wait for the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(&mut connection),
            Err(_) => return,
        }
    }
}

fn on_snapshot<T>(
    connection: &mut Connection,
    body: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    // Dropping the transaction ends it; there is nothing to keep.
    let snapshot = connection.transaction()?;
    body(&snapshot)
}

fn write_until_closed(mut connection: Connection, queue: &Receiver<WriterJob>) {
    while let Ok(job) = queue.recv() {
        let mut next = Some(job);
        let mut batch = Vec::new();
        while let Some(WriterJob::Change(change)) = next {
            batch.push(change);
            next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        if !batch.is_empty() {
            commit_together(&connection, batch);
        }
        if let Some(WriterJob::Alone(job)) = next {
            job(&mut connection);
        }
    }
}

/// Makes the changes, each in a savepoint, commits those that succeeded, then answers all.
fn commit_together(connection: &Connection, mut batch: Vec<Box<dyn Change>>) {
    let failure = make_and_commit(connection, &mut batch).err().map(Arc::new);
    if failure.is_some() && !connection.is_autocommit() {
        // Should this fail too, the next BEGIN fails, and its callers hear of it.
        let _ = connection.execute_batch("ROLLBACK");
    }
    for change in batch {
        change.answer(failure.as_ref());
    }
}

fn make_and_commit(connection: &Connection, batch: &mut [Box<dyn Change>]) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for change in batch {
        connection.execute_batch("SAVEPOINT change")?;
        let keep = change.make(connection);
        // A full disk ends the whole transaction behind our back; then this fails, and with it the
        // batch.
        connection.execute_batch(if keep {
            "RELEASE change"
        } else {
            "ROLLBACK TO change; RELEASE change"
        })?;
    }
    connection.execute_batch("COMMIT")
}

/// Counts a call for as long as its caller waits.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(bytes: i64) -> impl FnOnce(&Connection) -> Result<(), Fault> + Send + 'static {
        move |connection| {
            connection.execute("INSERT INTO t VALUES (zeroblob(?1))", [bytes])?;
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_unavailable_until_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("full.db");
        let writing = Connection::open(&file).unwrap();
        writing.pragma_update(None, "journal_mode", "wal").unwrap();
        writing.execute_batch("CREATE TABLE t (x BLOB) STRICT").unwrap();
        let limit = |connection: &mut Connection, pages: u32| {
            connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
        };
        let threads = Threads::start(writing, vec![Connection::open(&file).unwrap()]).unwrap();
        threads
            .alone("limit", move |c| limit(c, 20).map_err(|e| Fault::from(e).into_error("limit")))
            .await
            .unwrap();

        let (small, big, after) = tokio::join!(
            threads.change("small", insert(10)),
            threads.change("big", insert(1_000_000)),
            threads.change("after", insert(10)),
        );
        let error = big.expect_err("a million bytes do not fit");
        assert!(error.is_unavailable(), "{error:?}");
        let fitting = [small, after].iter().map(|stored| u32::from(stored.is_ok())).sum::<u32>();
        let count = |c: &Connection| -> Result<u32, Fault> {
            Ok(c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
        };
        let stored = threads.read("count", count).await.unwrap();
        assert_eq!(stored, fitting, "what was answered is there, and nothing else");

        threads
            .alone("limit", move |c| {
                limit(c, 10_000).map_err(|e| Fault::from(e).into_error("limit"))
            })
            .await
            .unwrap();
        threads.change("big", insert(1_000_000)).await.unwrap();
        assert_eq!(threads.read("count", count).await.unwrap(), fitting + 1);
        assert_eq!(threads.busy(), 0);
    }

    #[tokio::test]
    async fn a_change_whose_caller_is_gone_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gone.db");
        let writing = Connection::open(&file).unwrap();
        writing.execute_batch("CREATE TABLE t (x BLOB) STRICT").unwrap();
        let threads = Threads::start(writing, Vec::new()).unwrap();
        // Holds the writer until the next call was given up.
        let (go, wait) = mpsc::channel();
        let holding = threads.alone("hold", move |_| {
            wait.recv().unwrap();
            Ok(())
        });
        let giving_up = async {
            let gone = threads.change("gone", insert(1));
            assert!(tokio::time::timeout(std::time::Duration::ZERO, gone).await.is_err());
            go.send(()).unwrap();
        };
        let (held, ()) = tokio::join!(holding, giving_up);
        held.unwrap();
        let count = |c: &Connection| -> Result<u32, Fault> {
            Ok(c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
        };
        assert_eq!(threads.change("count", count).await.unwrap(), 0);
    }
}
