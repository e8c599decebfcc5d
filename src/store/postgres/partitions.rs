//! Partitions of the events: one a month, and the default one for what has none.
//!
//! A new one is made by itself and attached, not made in its place: that needs no lock on the
//! events that would make logins wait. It is made with nothing in it, months ahead; should it be late,
//! what lies in the default one is moved in the same transaction.

use jiff::Timestamp;

use super::schema::MIGRATION_LOCK;
use super::{Db, Fault, Postgres};
use crate::store::error::StoreError;
use crate::store::record;
use crate::store::rules::{Month, months_from, whole_micros};

impl Postgres {
    pub(in crate::store) async fn make_event_partitions(
        &self,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        let (mut made, mut failed) = (Vec::new(), None);
        let known = self.event_partitions().await?;
        for month in months_from(now) {
            if month.has_place_in(&known) {
                continue;
            }
            let making =
                self.in_long_tx("make_event_partitions", |db| async move { db.make(month).await });
            match making.await {
                Ok(true) => made.push(month.partition()),
                Ok(false) => {}
                Err(error) if error.is_unavailable() => return Err(error),
                // What is in the way of one month is not in the way of those after it.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(made), Err)
    }

    /// The names of all partitions.
    pub(super) async fn event_partitions(&self) -> Result<Vec<String>, StoreError> {
        self.at_once("event_partitions", |db| async move { db.event_partitions().await }).await
    }

    /// The names of those that this program may drop: that is for the owner of both tables.
    pub(super) async fn own_event_partitions(&self) -> Result<Vec<String>, StoreError> {
        let sql = "-- own_event_partitions
            SELECT c.relname::text FROM pg_inherits AS i
            JOIN pg_class AS c ON c.oid = i.inhrelid JOIN pg_class AS p ON p.oid = i.inhparent
            WHERE i.inhparent = 'auth_events'::regclass
              AND pg_has_role(c.relowner, 'USAGE') AND pg_has_role(p.relowner, 'USAGE')
            ORDER BY c.relname";
        self.at_once("own_event_partitions", |db| async move {
            db.all(sql, &[], |row| record::text(row, "pg_class", 0)).await
        })
        .await
    }
}

impl Db {
    pub(super) async fn event_partitions(&self) -> Result<Vec<String>, Fault> {
        let sql = "-- event_partitions
            SELECT c.relname::text FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'auth_events'::regclass ORDER BY c.relname";
        self.all(sql, &[], |row| record::text(row, "pg_class", 0)).await
    }

    /// Holds everybody else off who changes the schema, until the end of the transaction.
    pub(super) async fn lock_schema(&self) -> Result<(), Fault> {
        let sql = "-- lock_schema\nSELECT pg_advisory_xact_lock($1)";
        self.run(sql, &[&MIGRATION_LOCK]).await.map(drop)
    }

    /// Makes the partition of a month; false = another process was faster.
    async fn make(&self, month: Month) -> Result<bool, Fault> {
        self.lock_schema().await?;
        let name = month.partition();
        if month.has_place_in(&self.event_partitions().await?) {
            return Ok(false);
        }
        // Digits and our own words: nothing to quote, and statements like these take no parameters.
        let (start, end) = (whole_micros(month.start()), whole_micros(month.end()));
        let sql = format!(
            "-- make_event_partitions
             CREATE TABLE {name} (LIKE auth_events INCLUDING DEFAULTS);
             -- Nothing comes into the default one meanwhile that would belong here.
             LOCK TABLE auth_events_default IN SHARE ROW EXCLUSIVE MODE;
             WITH moved AS (
                 DELETE FROM auth_events_default
                 WHERE at >= '{start}' AND at < '{end}' RETURNING *
             )
             INSERT INTO {name} SELECT * FROM moved;
             ALTER TABLE auth_events ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}')"
        );
        self.client().batch_execute(&sql).await?;
        Ok(true)
    }
}
