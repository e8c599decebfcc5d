//! Events on SQLite.

use jiff::Timestamp;
use rusqlite::{Row, params};
use uuid::Uuid;

use super::{Db, Fault, Sqlite, micros};
use crate::model::{Event, EventKind, Outcome, StoredEvent, UserId};
use crate::store::cases::{EventCursor, EventFilter, Mark};
use crate::store::error::StoreError;
use crate::store::record::{self, EVENT_WIDTH, event_columns};

impl Sqlite {
    pub(in crate::store) async fn record(&self, events: &[Event]) -> Result<(), StoreError> {
        let events = events.to_vec();
        self.in_tx("record", move |db| db.record(&events)).await
    }

    pub(in crate::store) async fn events_of_user(
        &self,
        user: &UserId,
        limit: u32,
        before: Option<(Timestamp, Uuid)>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let user = user.clone();
        self.read("events_of_user", move |db| {
            let sql = concat!(
                "-- events_of_user\nSELECT ",
                event_columns!(),
                " FROM auth_events AS e
                 WHERE e.user_id = ?1 AND (e.at, e.id) < (?2, ?3)
                 ORDER BY e.at DESC, e.id DESC LIMIT ?4"
            );
            let (at, id) = place_before(before);
            db.all(sql, params![user.as_str(), at, id, limit], stored)
        })
        .await
    }

    pub(in crate::store) async fn events(
        &self,
        filter: &EventFilter,
        limit: u32,
        before: Option<(Timestamp, Uuid)>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let filter = filter.clone();
        self.read("events", move |db| {
            let sql = concat!(
                "-- events\nSELECT ",
                event_columns!(),
                " FROM auth_events AS e
                 WHERE (?1 IS NULL OR e.kind = ?1)
                   AND (?2 IS NULL OR e.user_id = ?2)
                   AND (?3 IS NULL OR lower(e.email) = lower(?3))
                   AND (?4 IS NULL OR e.outcome = ?4)
                   AND (?5 IS NULL OR e.at >= ?5)
                   AND (?6 IS NULL OR e.at < ?6)
                   AND (e.at, e.id) < (?7, ?8)
                 ORDER BY e.at DESC, e.id DESC LIMIT ?9"
            );
            let (at, id) = place_before(before);
            let params = params![
                filter.kind.map(EventKind::as_str),
                filter.user_id.as_ref().map(UserId::as_str),
                filter.email,
                filter.outcome.map(Outcome::as_str),
                filter.since.map(micros),
                filter.until.map(micros),
                at,
                id,
                limit,
            ];
            db.all(sql, params, stored)
        })
        .await
    }

    pub(in crate::store) async fn new_events(
        &self,
        cursor: &mut EventCursor,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let last = match cursor.mark {
            Some(Mark::Row(last)) => Some(last),
            _ => None,
        };
        let past = i64::from(cursor.past);
        let (last, events) = self
            .read("new_events", move |db| {
                let newest = "-- new_events: newest\nSELECT coalesce(max(seq), 0) FROM auth_events";
                let newest: i64 = db.connection.query_row(newest, [], |row| row.get(0))?;
                // AUTOINCREMENT leaves no holes but those of deleted rows.
                let last = last.unwrap_or(newest - past);
                let sql = concat!(
                    "-- new_events\nSELECT ",
                    event_columns!(),
                    ", e.seq FROM auth_events AS e WHERE e.seq > ?1 ORDER BY e.seq"
                );
                let rows = db.all(sql, [last], |row| {
                    Ok((stored(row)?, row.get(EVENT_WIDTH).unwrap_or(last)))
                })?;
                let last = match rows.last() {
                    Some((_, seq)) => *seq,
                    None => last.max(newest),
                };
                Ok((last, rows.into_iter().map(|(event, _)| event).collect()))
            })
            .await?;
        cursor.mark = Some(Mark::Row(last));
        Ok(events)
    }
}

impl Db<'_> {
    /// Stores events with the next numbers of this writer.
    pub(super) fn record(self, events: &[Event]) -> Result<(), Fault> {
        let Some(first) = events.first() else { return Ok(()) };
        let sql = "-- record: number
            INSERT INTO event_writers (id, first_event_at, last_number) VALUES (?1, ?2, ?3)
            ON CONFLICT (id) DO UPDATE SET last_number = last_number + excluded.last_number
            RETURNING last_number - ?3";
        let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
        let mut number: i64 = self
            .connection
            .prepare_cached(sql)?
            .query_row(params![self.writer, micros(first.at), count], |row| row.get(0))?;
        for e in events {
            number += 1;
            let sql = "-- record
                INSERT INTO auth_events (writer, number, id, at, kind, outcome, reason, actor,
                    user_id, email, session_id, address, user_agent, request_id)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
            let params = params![
                self.writer,
                number,
                e.id,
                micros(e.at),
                e.kind.as_str(),
                e.outcome.as_str(),
                e.reason,
                e.actor,
                e.user_id.as_ref().map(UserId::as_str),
                e.email,
                e.session_id,
                e.address.map(|address| address.to_string()),
                e.user_agent,
                e.request_id,
            ];
            self.run(sql, params)?;
        }
        Ok(())
    }
}

fn stored(row: &Row<'_>) -> Result<StoredEvent, StoreError> {
    record::event(row, 0)
}

/// The place before which to list; without one, after everything.
fn place_before(before: Option<(Timestamp, Uuid)>) -> (i64, Uuid) {
    let (at, id) = before.unwrap_or((Timestamp::MAX, Uuid::max()));
    (micros(at), id)
}
