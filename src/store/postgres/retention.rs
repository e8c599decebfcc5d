//! Retention of events on PostgreSQL.

use jiff::Timestamp;

use super::{Db, Fault, Postgres};
use crate::store::error::StoreError;
use crate::store::record;
use crate::store::retention::Removed;
use crate::store::rules::{
    REMOVE_BATCH, end_of_partition, remove_batch, removed_event, start_of_day, whole_micros,
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
        let mut here = Removed::default();
        let ended = self.remove_events(before, &mut here).await;
        removed.add(here);
        if here.events > 0 {
            self.record(&[removed_event(now, here.events, before)]).await?;
        }
        ended
    }

    async fn remove_events(
        &self,
        before: Timestamp,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        if self.may_alter {
            for name in self.event_partitions().await? {
                if end_of_partition(&name).is_some_and(|end| end <= before) {
                    let name = &name;
                    let dropping = self.in_long_tx("prune_events: partition", |db| async move {
                        db.drop_partition(name).await
                    });
                    removed.add(dropping.await?);
                }
            }
        }
        loop {
            let batch = self
                .at_once("prune_events", |db| async move { db.remove_some_events(before).await })
                .await?;
            removed.add(batch);
            if batch.events < u64::from(REMOVE_BATCH) {
                return Ok(());
            }
        }
    }
}

impl Db {
    /// Removes a partition with all that is in it, and notes which numbers those were.
    async fn drop_partition(&self, name: &str) -> Result<Removed, Fault> {
        self.lock_schema().await?;
        if !self.event_partitions().await?.iter().any(|known| known == name) {
            // Another gateway was faster.
            return Ok(Removed::default());
        }
        // The name is one of those that we give. Whoever reads goes on until the end; from the count
        // on nobody writes.
        let client = self.client();
        let lock = format!("-- prune_events: lock\nLOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE");
        client.batch_execute(&lock).await?;
        let note = format!(
            "-- prune_events: partition
             WITH gone AS (SELECT writer, number FROM {name}), {}",
            noted!()
        );
        let row = client.query_one(&note, &[]).await?;
        let removed = removed(&row)?;
        let drop = format!(
            "-- prune_events: drop
             ALTER TABLE auth_events DETACH PARTITION {name}; DROP TABLE {name}"
        );
        client.batch_execute(&drop).await?;
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
