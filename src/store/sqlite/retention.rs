//! Retention of events on SQLite.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::params;
use uuid::Uuid;

use super::{Db, Fault, Sqlite, micros};
use crate::store::error::StoreError;
use crate::store::record;
use crate::store::retention::Removed;
use crate::store::rules::{REMOVE_BATCH, removed_event, start_of_day};

impl Sqlite {
    pub(in crate::store) async fn prune_events(
        &self,
        before: Timestamp,
        now: Timestamp,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        let before = start_of_day(before);
        loop {
            let removing = self.in_tx("prune_events", move |db| {
                let gone = db.remove_some_events(micros(before))?;
                if gone.events > 0 {
                    db.record(&[removed_event(now, gone.events, before)])?;
                }
                Ok(gone)
            });
            let gone = removing.await?;
            removed.add(gone);
            if gone.events < u64::from(REMOVE_BATCH) {
                return Ok(());
            }
        }
    }
}

impl Db<'_> {
    /// Removes the oldest events before a time, and notes which numbers those were.
    fn remove_some_events(self, before: i64) -> Result<Removed, Fault> {
        let sql = "-- prune_events
            DELETE FROM auth_events WHERE seq IN (
                SELECT seq FROM auth_events WHERE at < ?1 ORDER BY at, id LIMIT ?2)
            RETURNING writer, number";
        let gone = self.all(sql, params![before, REMOVE_BATCH], |row| record::numbered(row))?;
        let mut undelivered = 0;
        let mut writers: BTreeMap<Uuid, (i64, i64)> = BTreeMap::new();
        for (writer, number) in &gone {
            let (count, up_to) = writers.entry(*writer).or_default();
            (*count, *up_to) = (*count + 1, (*up_to).max(*number));
        }
        for (writer, (count, up_to)) in writers {
            let sql = "-- prune_events: delivered
                SELECT coalesce(d.delivered_to, 0) FROM event_webhook
                LEFT JOIN event_deliveries AS d ON d.writer = ?1";
            let delivered =
                self.one(sql, [writer], |row| record::count(row, "event_deliveries", 0))?;
            if let Some(delivered) = delivered {
                let is_lost = |(of, number): &&(Uuid, i64)| *of == writer && *number > delivered;
                undelivered += gone.iter().filter(is_lost).count() as u64;
            }
            let sql = "-- prune_events: note
                INSERT INTO event_removals (writer, removed, up_to) VALUES (?1, ?2, ?3)
                ON CONFLICT (writer) DO UPDATE
                SET removed = removed + excluded.removed, up_to = max(up_to, excluded.up_to)";
            self.run(sql, params![writer, count, up_to])?;
        }
        Ok(Removed { events: gone.len() as u64, undelivered })
    }
}
