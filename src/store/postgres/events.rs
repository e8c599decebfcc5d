//! Events on PostgreSQL.

use std::collections::HashSet;

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::sessions::mark;
use super::{Db, Fault, Postgres};
use crate::model::{Event, EventKind, Outcome, StoredEvent, UserId};
use crate::store::cases::{EventCursor, EventFilter, Mark};
use crate::store::error::StoreError;
use crate::store::record::{self, Record as _, event_columns};
use crate::store::rules::whole_micros;

impl Postgres {
    pub(in crate::store) async fn record(&self, events: &[Event]) -> Result<(), StoreError> {
        self.at_once("record", |db| async move { db.record(events).await }).await
    }

    pub(in crate::store) async fn events_of_user(
        &self,
        user: &UserId,
        limit: u32,
        before: Option<(Timestamp, Uuid)>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.at_once("events_of_user", |db| async move {
            // The time by itself, too: partitions are chosen by it, and not by the pair.
            let sql = concat!(
                "-- events_of_user\nSELECT ",
                event_columns!(),
                " FROM auth_events AS e
                 WHERE e.user_id = $1 AND e.at <= $2 AND (e.at, e.id) < ($2, $3)
                 ORDER BY e.at DESC, e.id DESC LIMIT $4"
            );
            let (at, id) = place_before(before);
            db.all(sql, &[&user.as_str(), &at, &id, &i64::from(limit)], stored).await
        })
        .await
    }

    pub(in crate::store) async fn events(
        &self,
        filter: &EventFilter,
        limit: u32,
        before: Option<(Timestamp, Uuid)>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.at_once("events", |db| async move {
            let sql = concat!(
                "-- events\nSELECT ",
                event_columns!(),
                " FROM auth_events AS e
                 WHERE ($1::text IS NULL OR e.kind = $1)
                   AND ($2::text IS NULL OR e.user_id = $2)
                   AND ($3::text IS NULL OR lower(e.email) = lower($3))
                   AND ($4::text IS NULL OR e.outcome = $4)
                   AND ($5::timestamptz IS NULL OR e.at >= $5)
                   AND ($6::timestamptz IS NULL OR e.at < $6)
                   AND e.at <= $7 AND (e.at, e.id) < ($7, $8)
                 ORDER BY e.at DESC, e.id DESC LIMIT $9"
            );
            let (at, id) = place_before(before);
            // Not from the cache of statements: a plan made for these very values leaves out the
            // conditions that are not given and finds the index for those that are.
            let rows = db
                .client()
                .query(
                    sql,
                    &[
                        &filter.kind.map(EventKind::as_str),
                        &filter.user_id.as_ref().map(UserId::as_str),
                        &filter.email,
                        &filter.outcome.map(Outcome::as_str),
                        &filter.since.map(held),
                        &filter.until.map(held),
                        &at,
                        &id,
                        &i64::from(limit),
                    ],
                )
                .await?;
            Ok(rows.iter().map(stored).collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(in crate::store) async fn new_events(
        &self,
        cursor: &mut EventCursor,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let xmin = match cursor.mark {
            Some(Mark::Transaction { xmin, .. }) => Some(xmin.to_string()),
            _ => None,
        };
        let xmin = xmin.as_deref();
        let past = i64::from(cursor.past);
        let (mark, found, history) = self
            .on_snapshot("new_events", |db| async move {
                let found = db.events_since(xmin).await?;
                let history = if xmin.is_none() && past > 0 {
                    let sql = concat!(
                        "-- new_events: past\nSELECT ",
                        event_columns!(),
                        " FROM auth_events AS e ORDER BY e.at DESC, e.id DESC LIMIT $1"
                    );
                    db.all(sql, &[&past], stored).await?
                } else {
                    Vec::new()
                };
                Ok((found.0, found.1, history))
            })
            .await?;

        let first = cursor.mark.is_none();
        // What belongs to a transaction that the new mark covers is never read again.
        let open: HashSet<Uuid> =
            found.iter().filter(|(open, _)| *open).map(|(_, stored)| stored.event.id).collect();
        let news = if first {
            history.into_iter().rev().collect()
        } else {
            let fresh = |stored: &StoredEvent| !cursor.seen.contains(&stored.event.id);
            found.into_iter().map(|(_, stored)| stored).filter(fresh).collect()
        };
        cursor.mark = mark;
        cursor.seen = open;
        Ok(news)
    }
}

/// Whether the event's transaction is not covered by the mark, and the event.
type Found = (bool, StoredEvent);

impl Db {
    /// Stores events with the next numbers of this writer. Takes the lock of the writer's row, which
    /// every transaction of this process needs: the last statement before the commit.
    pub(super) async fn record(&self, events: &[Event]) -> Result<(), Fault> {
        let Some(first) = events.first() else { return Ok(()) };
        let sql = "-- record
            WITH place AS (
                INSERT INTO event_writers AS w (id, first_event_at, last_number)
                VALUES ($1, $2, $3)
                ON CONFLICT (id) DO UPDATE SET last_number = w.last_number + excluded.last_number
                RETURNING w.last_number - $3 AS before
            )
            INSERT INTO auth_events (writer, number, id, at, kind, outcome, reason, actor, user_id,
                email, session_id, address, user_agent, request_id)
            SELECT $1, place.before + e.nth, e.id, e.at, e.kind, e.outcome, e.reason, e.actor,
                e.user_id, e.email, e.session_id, e.address, e.user_agent, e.request_id
            FROM place, unnest($4::uuid[], $5::timestamptz[], $6::text[], $7::text[], $8::text[],
                $9::text[], $10::text[], $11::text[], $12::uuid[], $13::inet[], $14::text[],
                $15::text[]) WITH ORDINALITY AS e (id, at, kind, outcome, reason, actor, user_id,
                email, session_id, address, user_agent, request_id, nth)";
        self.run(
            sql,
            &[
                &self.writer,
                &whole_micros(first.at),
                &i64::try_from(events.len()).unwrap_or(i64::MAX),
                &column(events, |e| e.id),
                &column(events, |e| whole_micros(e.at)),
                &column(events, |e| e.kind.as_str()),
                &column(events, |e| e.outcome.as_str()),
                &column(events, |e| e.reason.as_deref()),
                &column(events, |e| e.actor.as_deref()),
                &column(events, |e| e.user_id.as_ref().map(UserId::as_str)),
                &column(events, |e| e.email.as_deref()),
                &column(events, |e| e.session_id),
                &column(events, |e| e.address),
                &column(events, |e| e.user_agent.as_deref()),
                &column(events, |e| e.request_id.as_deref()),
            ],
        )
        .await?;
        Ok(())
    }

    /// Events of transactions from `xmin` on, or else of those that no mark covers yet; oldest
    /// first.
    async fn events_since(&self, xmin: Option<&str>) -> Result<(Option<Mark>, Vec<Found>), Fault> {
        let sql = concat!(
            "-- new_events
             WITH here AS (
                 SELECT pg_postmaster_start_time() AS server,
                     pg_snapshot_xmin(pg_current_snapshot()) AS xmin
             )
             SELECT here.server, here.xmin::text, e.xid >= here.xmin, ",
            event_columns!(),
            " FROM here LEFT JOIN auth_events AS e
               ON e.xid >= coalesce($1::text::xid8, here.xmin)
             ORDER BY e.at, e.id"
        );
        let read = |row: &Row| {
            let found = match row.uuid(3) {
                Ok(None) => None,
                _ => Some((row.try_get(2).unwrap_or(true), record::event(row, 3)?)),
            };
            Ok((mark(row)?, found))
        };
        let rows = self.all(sql, &[&xmin], read).await?;
        let (marks, found): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        Ok((marks.first().copied(), found.into_iter().flatten().collect()))
    }
}

fn stored(row: &Row) -> Result<StoredEvent, StoreError> {
    record::event(row, 0)
}

/// The place before which to list; without one, after everything.
fn place_before(before: Option<(Timestamp, Uuid)>) -> (Timestamp, Uuid) {
    let (at, id) = before.unwrap_or((Timestamp::MAX, Uuid::max()));
    (held(at), id)
}

/// A time to compare with, which may be any: PostgreSQL has none before 4713 BC, and there are no
/// events before the first year.
fn held(time: Timestamp) -> Timestamp {
    const FIRST: Timestamp = Timestamp::constant(-62_135_596_800, 0);
    whole_micros(time.max(FIRST))
}

fn column<'a, T>(events: &'a [Event], field: impl Fn(&'a Event) -> T) -> Vec<T> {
    events.iter().map(field).collect()
}
