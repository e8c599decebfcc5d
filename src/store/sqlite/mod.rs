//! The store on an embedded SQLite file: one thread that writes, a few that read, no database work
//! on the async threads.
//!
//! Write-ahead log with full synchronisation: what was answered survives a power cut. The writer
//! commits together what waits together, so one disk flush serves many logins. Other processes
//! (the command line) may use the file at the same time; it must not lie on a network file system.

mod accounts;
mod admin;
mod api_keys;
mod attempts;
mod deliveries;
mod erasure;
mod events;
mod factors;
mod guards;
mod imports;
mod keys;
mod links;
mod outbox;
mod passwords;
mod record;
mod retention;
mod schema;
mod seals;
mod sessions;
mod threads;
mod trail;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, Params, Row};
use uuid::Uuid;

use super::cases::PoolStatus;
use super::error::StoreError;
use super::rules::whole_micros;
use crate::secrets::Keyring;
use threads::Threads;

/// The longest that a call may take: below the two seconds in which the gateway answers 503.
const DEADLINE: Duration = Duration::from_millis(1800);

/// How long the writer waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Threads that read.
const READERS: usize = 2;

/// The store on SQLite.
pub struct Sqlite {
    file: PathBuf,
    threads: Threads,
    writer: Uuid,
    keyring: Keyring,
}

impl Sqlite {
    /// Opens the file, makes it if it is not there.
    pub(super) fn open(file: PathBuf, writer: Uuid, keyring: Keyring) -> Result<Self, StoreError> {
        let unusable = |error: &dyn std::fmt::Display| {
            StoreError::Url(format!(
                "names a file that cannot be used, {}: {error}",
                file.display()
            ))
        };
        create(&file).map_err(|error| unusable(&error))?;
        let writing = connect(&file, false).map_err(|error| unusable(&error))?;
        let mut reading = Vec::new();
        for _ in 0..READERS {
            reading.push(connect(&file, true).map_err(|error| unusable(&error))?);
        }
        let threads = Threads::start(writing, reading).map_err(|error| unusable(&error))?;
        Ok(Self { file, threads, writer, keyring })
    }

    pub(super) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    pub(super) fn describe(&self) -> String {
        format!("SQLite file {}", self.file.display())
    }

    pub(super) fn pool_status(&self) -> PoolStatus {
        let busy = self.threads.busy();
        let size = 1 + READERS;
        PoolStatus {
            size,
            available: size.saturating_sub(busy),
            waiting: busy.saturating_sub(size),
        }
    }

    /// Runs `body` in one transaction: committed when it returns `Ok`, undone otherwise.
    async fn in_tx<T: Send + 'static>(
        &self,
        operation: &'static str,
        body: impl FnOnce(Db<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let writer = self.writer;
        self.threads.change(operation, move |connection| body(Db { connection, writer })).await
    }

    /// Runs `body`, which only reads, on one snapshot.
    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        body: impl FnOnce(Db<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let writer = self.writer;
        self.threads.read(operation, move |connection| body(Db { connection, writer })).await
    }
}

impl Sqlite {
    /// As [`Sqlite::read`], however long it takes.
    async fn read_at_leisure<T: Send + 'static>(
        &self,
        operation: &'static str,
        body: impl FnOnce(Db<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let writer = self.writer;
        let body = move |connection: &Connection| body(Db { connection, writer });
        self.threads.read_at_leisure(operation, body).await
    }
}

/// Makes an empty file that only its owner may read: it will hold password hashes and keys. SQLite
/// gives its log the same rights. A file that exists keeps the rights that the operator gave it,
/// and is not even opened: closing it would drop the locks that SQLite has on it in this process.
fn create(file: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // SQLite would take a device or a folder's name for an empty database.
            if std::fs::metadata(file)?.is_file() { Ok(()) } else { Err(error) }
        }
        made => made.map(|_| ()),
    }
}

fn connect(file: &Path, only_reads: bool) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    use_write_ahead_log(&connection)?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; \
         PRAGMA journal_size_limit = 67108864;",
    )?;
    connection.pragma_update(None, "query_only", only_reads)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The first switch to the write-ahead log needs the file alone and, to avoid deadlocks, SQLite
/// fails at once instead of waiting when two processes try.
fn use_write_ahead_log(connection: &Connection) -> rusqlite::Result<()> {
    let try_once = || -> rusqlite::Result<String> {
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
    };
    let mut mode = try_once();
    for _ in 0..100 {
        match &mode {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                std::thread::sleep(BUSY_TIMEOUT / 100);
                mode = try_once();
            }
            _ => break,
        }
    }
    // Where the log is not possible, SQLite stays with what it has and says so.
    if mode? == "wal" { Ok(()) } else { Err(rusqlite::Error::InvalidQuery) }
}

/// A time as columns hold it.
fn micros(time: Timestamp) -> i64 {
    whole_micros(time).as_microsecond()
}

/// What went wrong inside a transaction.
enum Fault {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fault {
    fn into_error(self, operation: &'static str) -> StoreError {
        match self {
            Self::Sql(error) if is_outage(&error) => StoreError::unavailable(operation, error),
            Self::Sql(error) => StoreError::query(operation, error),
            Self::Store(error) => error,
        }
    }
}

/// Whether the file is out of reach, rather than the statement wrong.
fn is_outage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
        )
    )
}

/// A connection in use.
#[derive(Clone, Copy)]
struct Db<'a> {
    connection: &'a Connection,
    /// Who writes the events.
    writer: Uuid,
}

impl Db<'_> {
    /// All rows.
    fn all<T>(
        self,
        sql: &str,
        params: impl Params,
        read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, Fault> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }

    /// The row, if there is one.
    fn one<T>(
        self,
        sql: &str,
        params: impl Params,
        read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, Fault> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        Ok(rows.next()?.map(read).transpose()?)
    }

    /// The number of rows that were changed.
    fn run(self, sql: &str, params: impl Params) -> Result<usize, Fault> {
        Ok(self.connection.prepare_cached(sql)?.execute(params)?)
    }
}
