//! Retention of events on PostgreSQL.

use jiff::Timestamp;

use super::{Db, Fault, Postgres};
use crate::store::error::StoreError;
use crate::store::record;
use crate::store::retention::Removed;
use crate::store::rules::{
    Month, REMOVE_BATCH, end_of_partition, remove_batch, removed_event, start_of_day, whole_micros,
};

/// The end of a statement that removes events: notes the numbers in `gone`, always in one order of
/// the writers, and says how many there were, and how many of them a webhook was to be told of.
macro_rules! noted {
    () => {
        "noted AS (
             INSERT INTO event_removals AS r (writer, removed, up_to)
             SELECT writer, count(*), max(number) FROM gone GROUP BY writer ORDER BY writer
             ON CONFLICT (writer) DO UPDATE
             SET removed = r.removed + excluded.removed, up_to = greatest(r.up_to, excluded.up_to)
         )
         SELECT count(*), count(*) FILTER (WHERE g.number > coalesce(d.delivered_to, 0)
             AND EXISTS (SELECT FROM event_webhook))
         FROM gone AS g LEFT JOIN event_deliveries AS d ON d.writer = g.writer"
    };
}

impl Postgres {
    pub(in crate::store) async fn prune_events(
        &self,
        before: Timestamp,
        now: Timestamp,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        let before = whole_micros(start_of_day(before));
        let mut failed = None;
        let names = if self.may_alter { self.own_event_partitions().await? } else { Vec::new() };
        for name in names.iter().filter(|name| is_over(name, before)) {
            let dropping = self.in_long_tx("prune_events: partition", |db| async move {
                let gone = db.drop_partition(name).await?;
                // Last, as always: whoever holds the writer's row may wait for the table of events.
                db.note_removal(gone, before, now).await?;
                Ok(gone)
            });
            match dropping.await {
                Ok(gone) => removed.add(gone),
                Err(error) if error.is_unavailable() => return Err(error),
                // Something hangs on the table: its rows go like those of others.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        loop {
            let removing = self.in_tx("prune_events", |db| async move {
                let gone = db.remove_some_events(before).await?;
                db.note_removal(gone, before, now).await?;
                Ok(gone)
            });
            let gone = removing.await?;
            removed.add(gone);
            if gone.events < u64::from(REMOVE_BATCH) {
                return failed.map_or(Ok(()), Err);
            }
        }
    }

    pub(in crate::store) async fn drop_empty_event_partitions(
        &self,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        let present = Month::of(now).start();
        let mut dropped = Vec::new();
        for name in self.event_partitions().await? {
            if !is_over(&name, present) {
                continue;
            }
            let of = &name;
            let dropping = self.in_long_tx("drop_empty_event_partitions", |db| async move {
                // The first look is without a lock: most have something in them.
                if !db.is_empty(of).await? || !db.hold_partition(of).await? {
                    return Ok(false);
                }
                let is_empty = db.is_empty(of).await?;
                if is_empty {
                    db.drop_held(of).await?;
                }
                Ok(is_empty)
            });
            if dropping.await? {
                dropped.push(name);
            }
        }
        Ok(dropped)
    }
}

/// Whether all that can be in a partition is older.
fn is_over(partition: &str, before: Timestamp) -> bool {
    end_of_partition(partition).is_some_and(|end| end <= before)
}

impl Db {
    /// The event of a removal, in the removal's own transaction; none, when nothing was removed.
    async fn note_removal(
        &self,
        gone: Removed,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<(), Fault> {
        if gone.events == 0 {
            return Ok(());
        }
        self.record(&[removed_event(now, gone.events, before)]).await
    }

    /// Lets nobody write to a partition until the end of the transaction; false = another gateway has
    /// dropped it. Whoever reads goes on. The name is one of those that we give.
    async fn hold_partition(&self, name: &str) -> Result<bool, Fault> {
        self.lock_schema().await?;
        if !self.event_partitions().await?.iter().any(|known| known == name) {
            return Ok(false);
        }
        let lock = format!("-- hold_partition\nLOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE");
        self.client().batch_execute(&lock).await?;
        Ok(true)
    }

    async fn drop_held(&self, name: &str) -> Result<(), Fault> {
        let drop = format!(
            "-- drop_held
             ALTER TABLE auth_events DETACH PARTITION {name}; DROP TABLE {name}"
        );
        Ok(self.client().batch_execute(&drop).await?)
    }

    async fn is_empty(&self, name: &str) -> Result<bool, Fault> {
        // That another one drops the table meanwhile is an error, and nothing happens.
        let sql = format!("-- is_empty\nSELECT NOT EXISTS (SELECT FROM {name})");
        Ok(self.client().query_one(&sql, &[]).await?.try_get(0)?)
    }

    /// Removes a partition with all that is in it, and notes which numbers those were.
    async fn drop_partition(&self, name: &str) -> Result<Removed, Fault> {
        if !self.hold_partition(name).await? {
            return Ok(Removed::default());
        }
        let note = format!(
            "-- prune_events: partition
             WITH gone AS (SELECT writer, number FROM {name}), {}",
            noted!()
        );
        let removed = removed(&self.client().query_one(&note, &[]).await?)?;
        self.drop_held(name).await?;
        Ok(removed)
    }

    async fn remove_some_events(&self, before: Timestamp) -> Result<Removed, Fault> {
        let sql = concat!(
            "-- prune_events
             WITH batch AS (
                 SELECT at, id FROM auth_events WHERE at < $1 ORDER BY at, id LIMIT ",
            remove_batch!(),
            "), gone AS (
                 DELETE FROM auth_events AS e USING batch
                 WHERE e.at = batch.at AND e.id = batch.id
                 RETURNING e.writer, e.number
             ), ",
            noted!()
        );
        let found = self.one(sql, &[&before], removed).await?;
        Ok(found.unwrap_or_default())
    }
}

fn removed(row: &tokio_postgres::Row) -> Result<Removed, StoreError> {
    let count = |column| record::count(row, "auth_events", column).map(i64::unsigned_abs);
    Ok(Removed { events: count(0)?, undelivered: count(1)? })
}
