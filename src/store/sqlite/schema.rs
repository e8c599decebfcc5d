//! The schema on SQLite.

use rusqlite::{Connection, TransactionBehavior};

use super::{Db, Fault, Sqlite};
use crate::store::cases::Migrated;
use crate::store::error::StoreError;
use crate::store::migrate;

impl Sqlite {
    pub(in crate::store) async fn ping(&self) -> Result<(), StoreError> {
        self.read("ping", |db| db.one("-- ping\nSELECT 1", [], |_| Ok(())).map(|_| ())).await
    }

    pub(in crate::store) async fn check_schema(&self) -> Result<(), StoreError> {
        let runner = migrate::sqlite::migrations::runner();
        let found = self.read("check_schema", |db| version(db.connection)).await?;
        if migrate::is_current(found, &runner)? {
            Ok(())
        } else {
            Err(migrate::behind(found, &runner))
        }
    }

    pub(in crate::store) async fn migrate(&self) -> Result<Migrated, StoreError> {
        self.threads
            .alone("migrate", |connection| {
                connection.set_transaction_behavior(TransactionBehavior::Immediate);
                bring_up_to_date(connection).map_err(|fault| fault.into_error("migrate"))
            })
            .await
    }
}

/// All migrations and their entries in the history are one transaction, so of two processes that
/// start at once one does the work. The other may have looked just before: its transaction then
/// fails as a whole, and at the second look there is nothing left to do.
fn bring_up_to_date(connection: &mut Connection) -> Result<Migrated, Fault> {
    let runner = migrate::sqlite::migrations::runner().set_grouped(true);
    let found = version(connection)?;
    if migrate::is_current(found, &runner)? {
        return Ok(Migrated { from: found, to: migrate::newest(&runner), applied: Vec::new() });
    }
    match runner.run(connection) {
        Ok(done) => Ok(migrate::report(found, &runner, &done)),
        Err(error) => {
            let now = version(connection)?;
            if now == found {
                return Err(StoreError::query("migrate", error).into());
            }
            migrate::is_current(now, &runner)?;
            bring_up_to_date(connection)
        }
    }
}

/// The database's version; `None` = nothing was ever migrated.
fn version(connection: &Connection) -> Result<Option<u32>, Fault> {
    let db = Db { connection, writer: uuid::Uuid::nil() };
    let sql = "-- version: history\nSELECT 1 FROM sqlite_schema WHERE name = ?1";
    if db.one(sql, [migrate::HISTORY], |_| Ok(()))?.is_none() {
        return Ok(None);
    }
    let sql = format!("-- version\nSELECT max(version) FROM {}", migrate::HISTORY);
    Ok(connection.query_row(&sql, [], |row| row.get(0))?)
}
