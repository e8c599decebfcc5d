//! The schema on PostgreSQL.

use std::error::Error as _;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::error::SqlState;

use super::{DEADLINE, Fault, Postgres, is_outage};
use crate::store::cases::Migrated;
use crate::store::error::StoreError;
use crate::store::{migrate, record};

/// Key of the advisory lock that migrating processes hold; any number nobody else uses.
pub(super) const MIGRATION_LOCK: i64 = 0x706f_7274_6375_6c6c;

/// What the gateway reads and adds rows to.
const TABLES: [&str; 21] = [
    "users",
    "sessions",
    "refresh_tokens",
    "revocations",
    "signing_keys",
    "event_writers",
    "auth_events",
    "event_removals",
    "event_webhook",
    "event_deliveries",
    "one_time_tokens",
    "outbox",
    "login_guards",
    "api_keys",
    "api_key_changes",
    "factors",
    "factor_challenges",
    "recovery_codes",
    "imports",
    "erasures",
    "sign_up_attempts",
];

/// How long a migration waits for another process's.
const LOCK_WAIT: Duration = Duration::from_mins(1);

impl Postgres {
    pub(in crate::store) async fn ping(&self) -> Result<(), StoreError> {
        self.at_once("ping", |db| async move { db.run("-- ping\nSELECT", &[]).await.map(|_| ()) })
            .await
    }

    pub(in crate::store) async fn check_schema(&self) -> Result<(), StoreError> {
        let runner = migrate::postgres::migrations::runner();
        let found =
            self.at_once("check_schema", |db| async move { version(db.client()).await }).await?;
        if migrate::is_current(found, &runner)? {
            Ok(())
        } else {
            Err(migrate::behind(found, &runner))
        }
    }

    /// Not whether it may change and delete: an operator may have taken that for the record of events
    /// on purpose.
    pub(in crate::store) async fn check_rights(&self) -> Result<(), StoreError> {
        let sql = "-- check_rights
            SELECT t.name FROM unnest($1::text[]) WITH ORDINALITY AS t (name, nth)
            WHERE NOT (has_table_privilege(to_regclass(t.name), 'SELECT')
                AND has_table_privilege(to_regclass(t.name), 'INSERT'))
            ORDER BY t.nth LIMIT 1";
        let missing = self
            .at_once("check_rights", |db| async move {
                db.one(sql, &[&&TABLES[..]], |row| record::text(row, "pg_class", 0)).await
            })
            .await?;
        missing.map_or(Ok(()), |table| Err(StoreError::Rights { table }))
    }

    pub(in crate::store) async fn time(&self) -> Result<Option<Timestamp>, StoreError> {
        let sql = "-- time\nSELECT clock_timestamp()";
        self.at_once(
            "time",
            |db| async move { Ok(db.client().query_one(sql, &[]).await?.try_get(0)?) },
        )
        .await
    }

    /// On a connection of its own: without the limits of the pool's, and the advisory lock ends
    /// with it. Of two processes that start at once, the second finds the work done.
    pub(in crate::store) async fn migrate(&self) -> Result<Migrated, StoreError> {
        let operation = "migrate";
        let mut config = self.config.clone();
        let unhurried = format!(
            "{} -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 \
             -c lock_timeout={}",
            config.get_options().unwrap_or_default(),
            LOCK_WAIT.as_millis()
        );
        config.options(unhurried).application_name("portcullis migrate");
        let connecting = tokio::time::timeout(DEADLINE, config.connect(self.tls.clone()));
        let (mut client, connection) = connecting
            .await
            .map_err(|_| StoreError::unavailable(operation, super::NoAnswer(DEADLINE)))?
            .map_err(|error| StoreError::unavailable(operation, error))?;
        let connection = tokio::spawn(connection);
        let result = bring_up_to_date(&mut client).await;
        connection.abort();
        result.map_err(|fault| fault.into_error(operation))
    }
}

async fn bring_up_to_date(client: &mut tokio_postgres::Client) -> Result<Migrated, Fault> {
    let runner = migrate::postgres::migrations::runner();
    client.execute("-- migrate\nSELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    let found = version(client).await?;
    migrate::is_current(found, &runner)?;
    let done = runner.run_async(client).await.map_err(|error| {
        let cause = error.source().and_then(|cause| cause.downcast_ref());
        if cause.is_some_and(is_outage) {
            StoreError::unavailable("migrate", error)
        } else {
            StoreError::query("migrate", error)
        }
    })?;
    Ok(migrate::report(found, &runner, &done))
}

/// The database's version; `None` = nothing was ever migrated.
async fn version(client: &tokio_postgres::Client) -> Result<Option<u32>, Fault> {
    let sql = format!("-- version\nSELECT max(version) FROM {}", migrate::HISTORY);
    match client.query_one(&sql, &[]).await {
        Ok(row) => {
            let version: Option<i32> = row.try_get(0)?;
            Ok(version.and_then(|version| u32::try_from(version).ok()))
        }
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
