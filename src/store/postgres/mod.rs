//! The store on PostgreSQL (13 or later): a pool of connections, and one way in, [`Postgres::in_tx`].
//!
//! Every call ends within [`DEADLINE`], whatever the server does, and a connection goes back to the
//! pool only when it is known to be outside a transaction. A gateway that talks to a pooler must
//! use its session mode: statements are prepared and options set for each connection.

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
mod partitions;
mod passwords;
mod record;
mod retention;
mod schema;
mod seals;
mod sessions;
mod tls;
mod trail;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres_rustls::MakeRustlsConnect;
use uuid::Uuid;

use super::cases::PoolStatus;
use super::error::StoreError;
use super::url::{self, PostgresTarget};
use crate::config;
use crate::secrets::Keyring;

/// The longest that a call may take: below the two seconds in which the gateway answers 503.
const DEADLINE: Duration = Duration::from_millis(1800);

/// The longest that work may take which nobody waits for, such as a look at all events.
const LONG_DEADLINE: Duration = Duration::from_mins(30);

/// How often a transaction is tried that the server asks to repeat (deadlock, stale plan).
const ATTEMPTS: u32 = 4;

/// The store on PostgreSQL.
pub struct Postgres {
    pool: Pool,
    /// For the connection that migrates, which is not of the pool.
    config: tokio_postgres::Config,
    tls: MakeRustlsConnect,
    writer: Uuid,
    keyring: Keyring,
    /// Whether this program may change the schema while it runs.
    may_alter: bool,
}

impl Postgres {
    /// Prepares the pool; connects to nothing.
    pub(super) fn open(
        target: PostgresTarget,
        storage: &config::Storage,
        writer: Uuid,
        keyring: Keyring,
    ) -> Result<Self, StoreError> {
        let PostgresTarget { config, tls, root_cert } = target;
        let tls = tls::connector(tls, root_cert.as_deref())?;
        let manager = Manager::from_config(
            config.clone(),
            tls.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        // deadpool has no limits of its own: without these an exhausted pool waits for ever.
        let pool = Pool::builder(manager)
            .max_size(storage.max_connections.max(1))
            .wait_timeout(Some(Duration::from_secs(1)))
            .create_timeout(Some(Duration::from_millis(1500)))
            .recycle_timeout(Some(Duration::from_millis(500)))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::unavailable("open", error))?;
        let may_alter = storage.migrate;
        Ok(Self { pool, config, tls, writer, keyring, may_alter })
    }

    pub(super) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    pub(super) fn describe(&self) -> String {
        url::describe(&self.config)
    }

    pub(super) fn pool_status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus { size: status.size, available: status.available, waiting: status.waiting }
    }

    /// Runs `body` in one transaction: committed when it returns `Ok`, rolled back otherwise. It may
    /// run more than once.
    ///
    /// Not an `AsyncFn`: of the futures of those the compiler cannot yet say that they are `Send`.
    async fn in_tx<T, F>(
        &self,
        operation: &'static str,
        body: impl Fn(Db) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.attempts(operation, Some("BEGIN ISOLATION LEVEL READ COMMITTED"), body).await
    }

    /// Runs `body`, which only reads, on one snapshot.
    async fn on_snapshot<T, F>(
        &self,
        operation: &'static str,
        body: impl Fn(Db) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        self.attempts(operation, Some(begin), body).await
    }

    /// Runs `body` in one transaction that may take as long as [`LONG_DEADLINE`]. It waits no longer
    /// than a second for a lock: others, who only read and write rows, would wait behind it.
    async fn in_long_tx<T, F>(
        &self,
        operation: &'static str,
        body: impl Fn(Db) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED;
            SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '1s'";
        self.at_leisure(operation, begin, body).await
    }

    /// As [`Postgres::on_snapshot`], for as long as [`LONG_DEADLINE`].
    async fn on_long_snapshot<T, F>(
        &self,
        operation: &'static str,
        body: impl Fn(Db) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
            SET LOCAL statement_timeout = 0";
        self.at_leisure(operation, begin, body).await
    }

    async fn at_leisure<T, F>(
        &self,
        operation: &'static str,
        begin: &'static str,
        body: impl Fn(Db) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        match tokio::time::timeout(LONG_DEADLINE, self.attempt(Some(begin), &body)).await {
            Ok(result) => result.map_err(|fault| fault.into_error(operation)),
            Err(_) => Err(StoreError::unavailable(operation, NoAnswer(LONG_DEADLINE))),
        }
    }

    /// Runs `body`, which is a single statement and so a transaction by itself.
    async fn at_once<T, F>(
        &self,
        operation: &'static str,
        body: impl Fn(Db) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.attempts(operation, None, body).await
    }

    async fn attempts<T, F>(
        &self,
        operation: &'static str,
        begin: Option<&'static str>,
        body: impl Fn(Db) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let work = async {
            for _ in 1..ATTEMPTS {
                match self.attempt(begin, &body).await {
                    Err(fault) if self.may_repeat(&fault) => {}
                    result => return result,
                }
            }
            self.attempt(begin, &body).await
        };
        if let Ok(result) = tokio::time::timeout(DEADLINE, work).await {
            result.map_err(|fault| fault.into_error(operation))
        } else {
            // The server itself would have stopped the statement earlier, so it is the server or
            // the way to it that hangs. Idle connections share that fate: with them gone, the
            // first call after recovery works.
            self.pool.retain(|_, _| false);
            Err(StoreError::unavailable(operation, NoAnswer(DEADLINE)))
        }
    }

    async fn attempt<T, F>(
        &self,
        begin: Option<&'static str>,
        body: &impl Fn(Db) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let lease = Arc::new(Lease::of(self.pool.get().await.map_err(Fault::Pool)?));
        let client = lease.client();
        if let Some(begin) = begin {
            client.batch_execute(begin).await.map_err(Fault::Begin)?;
        }
        let result = body(Db { lease: Arc::clone(&lease), writer: self.writer }).await;
        let whole = match (&result, begin) {
            (_, None) => !client.is_closed(),
            (Ok(_), Some(_)) => {
                client.batch_execute("COMMIT").await?;
                true
            }
            (Err(_), Some(_)) => client.batch_execute("ROLLBACK").await.is_ok(),
        };
        if whole && let Some(lease) = Arc::into_inner(lease) {
            lease.give_back();
        }
        result
    }

    /// Whether the transaction is known not to have happened and may succeed now.
    fn may_repeat(&self, fault: &Fault) -> bool {
        match fault {
            // The server went away while the connection lay in the pool.
            Fault::Begin(error) => error.code().is_none(),
            Fault::Sql(error) => {
                let Some(refusal) = error.as_db_error() else { return false };
                let stale = *refusal.code() == SqlState::INVALID_SQL_STATEMENT_NAME
                    // "cached plan must not change result type", in whatever language.
                    || refusal.routine() == Some("RevalidateCachedQuery");
                if stale {
                    self.pool.manager().statement_caches.clear();
                }
                stale
                    || *refusal.code() == SqlState::T_R_SERIALIZATION_FAILURE
                    || *refusal.code() == SqlState::T_R_DEADLOCK_DETECTED
            }
            Fault::Pool(_) | Fault::Store(_) => false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {} ms", .0.as_millis())]
struct NoAnswer(Duration);

/// A connection that is closed, not given back, unless somebody says that it is in order. So a call
/// that is cancelled in mid-transaction leaves nothing behind.
struct Lease(Option<Object>);

impl Lease {
    fn of(connection: Object) -> Self {
        Self(Some(connection))
    }

    fn client(&self) -> &ClientWrapper {
        self.0.as_ref().expect("only give_back and drop empty a lease")
    }

    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

/// What went wrong inside a transaction.
enum Fault {
    /// No connection.
    Pool(PoolError),
    /// A connection on which no transaction could begin.
    Begin(tokio_postgres::Error),
    /// The server or the connection, later.
    Sql(tokio_postgres::Error),
    /// Something that we found.
    Store(StoreError),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
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
            Self::Pool(error) => StoreError::unavailable(operation, error),
            Self::Begin(error) => StoreError::unavailable(operation, error),
            Self::Sql(error) if is_outage(&error) => StoreError::unavailable(operation, error),
            Self::Sql(error) => StoreError::query(operation, error),
            Self::Store(error) => error,
        }
    }
}

/// Whether the server is away, rather than displeased.
fn is_outage(error: &tokio_postgres::Error) -> bool {
    let Some(refusal) = error.as_db_error() else {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
        return error.is_closed() || cause.is_some();
    };
    let code = refusal.code().code();
    // Classes (PostgreSQL, appendix A): 08 connection, 40 rolled back too often, 53 out of space,
    // memory or connections, 57 stopped by an operator or by statement_timeout, 58 input or output.
    matches!(&code[..2.min(code.len())], "08" | "40" | "53" | "57" | "58")
        // A former primary, and a lock that did not come in time.
        || [SqlState::READ_ONLY_SQL_TRANSACTION, SqlState::LOCK_NOT_AVAILABLE]
            .contains(refusal.code())
}

type Param<'a> = &'a (dyn ToSql + Sync);

/// A connection in use: statements are prepared once for each connection.
struct Db {
    lease: Arc<Lease>,
    /// Who writes the events.
    writer: Uuid,
}

impl Db {
    fn client(&self) -> &ClientWrapper {
        self.lease.client()
    }

    /// All rows.
    async fn all<T>(
        &self,
        sql: &'static str,
        params: &[Param<'_>],
        read: impl Fn(&Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, Fault> {
        let statement = self.client().prepare_cached(sql).await?;
        let rows = self.client().query(&statement, params).await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    /// The row, if there is one.
    async fn one<T>(
        &self,
        sql: &'static str,
        params: &[Param<'_>],
        read: impl Fn(&Row) -> Result<T, StoreError>,
    ) -> Result<Option<T>, Fault> {
        let statement = self.client().prepare_cached(sql).await?;
        let row = self.client().query_opt(&statement, params).await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    /// The number of rows that were changed, or found.
    async fn run(&self, sql: &'static str, params: &[Param<'_>]) -> Result<u64, Fault> {
        let statement = self.client().prepare_cached(sql).await?;
        Ok(self.client().execute(&statement, params).await?)
    }
}
