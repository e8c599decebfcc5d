//! Deliveries of events on SQLite.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::params;
use uuid::Uuid;

use super::{Db, Fault, Sqlite, micros};
use crate::model::{Event, StoredEvent, clean_text, uuid_v7};
use crate::store::deliveries::{Backlog, Delivery, DeliveryState};
use crate::store::error::StoreError;
use crate::store::outbox::MAX_REASON;
use crate::store::record::{self, event_columns};
use crate::store::rules::{MAX_WRITERS, after, composed, in_order, whole_micros};

impl Sqlite {
    pub(in crate::store) async fn claim_delivery(
        &self,
        now: Timestamp,
        lease: Duration,
        limit: u32,
    ) -> Result<Option<Delivery>, StoreError> {
        self.in_tx("claim_delivery", move |db| {
            let sql = "-- claim_delivery\nSELECT delivery, attempts, due_at FROM event_webhook";
            let Some(webhook) = db.one(sql, [], |row| record::webhook(row))? else {
                let sql = "-- start_deliveries
                    INSERT INTO event_webhook (started_at, due_at) VALUES (?1, ?1)";
                db.run(sql, [micros(now)])?;
                db.deliveries_begin_here()?;
                return Ok(None);
            };
            if webhook.due_at > whole_micros(now) {
                return Ok(None);
            }
            let (id, attempt, events) = if let Some(id) = webhook.delivery {
                (id, webhook.attempts.saturating_add(1), db.under_way()?)
            } else {
                let events = db.compose_delivery(limit)?;
                if events.is_empty() {
                    return Ok(None);
                }
                (uuid_v7(now), 1, events)
            };
            let sql = "-- claim_delivery: lease
                UPDATE event_webhook SET delivery = ?1, attempts = ?2, due_at = ?3";
            db.run(sql, params![id, attempt, micros(after(now, lease))])?;
            Ok(Some(Delivery { id, attempt, events }))
        })
        .await
    }

    pub(in crate::store) async fn delivered(
        &self,
        id: Uuid,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.in_tx("delivered", move |db| {
            let sql = "-- delivered
                UPDATE event_webhook
                SET delivery = NULL, attempts = 0, due_at = ?2, delivered_at = ?2, last_error = NULL
                WHERE delivery = ?1";
            let was_under_way = db.run(sql, params![id, micros(now)])? > 0;
            if was_under_way {
                let sql = "-- delivered: numbers
                    UPDATE event_deliveries SET delivered_to = under_way_to, under_way_to = NULL
                    WHERE under_way_to IS NOT NULL";
                db.run(sql, [])?;
            }
            Ok(was_under_way)
        })
        .await
    }

    pub(in crate::store) async fn not_delivered(
        &self,
        id: Uuid,
        retry_at: Timestamp,
        why: &str,
    ) -> Result<(), StoreError> {
        let why = clean_text(why.as_bytes(), MAX_REASON);
        self.in_tx("not_delivered", move |db| {
            let sql = "-- not_delivered
                UPDATE event_webhook SET due_at = ?2, last_error = ?3 WHERE delivery = ?1";
            db.run(sql, params![id, micros(retry_at), why]).map(drop)
        })
        .await
    }

    pub(in crate::store) async fn delivery_state(
        &self,
    ) -> Result<Option<DeliveryState>, StoreError> {
        self.read("delivery_state", |db| {
            let sql = record::delivery_state_sql!();
            db.one(sql, [], |row| record::delivery_state(row))
        })
        .await
    }

    pub(in crate::store) async fn skip_deliveries(
        &self,
        now: Timestamp,
        event: &Event,
    ) -> Result<Option<u64>, StoreError> {
        let event = event.clone();
        self.in_tx("skip_deliveries", move |db| {
            let sql = record::delivery_state_sql!();
            let state = db.one(sql, [], |row| record::delivery_state(row))?;
            let Some(state) = state else { return Ok(None) };
            let sql = "-- skip_deliveries
                UPDATE event_webhook
                SET delivery = NULL, attempts = 0, due_at = ?1, last_error = NULL";
            db.run(sql, [micros(now)])?;
            db.deliveries_begin_here()?;
            db.record(&[event])?;
            Ok(Some(state.waiting))
        })
        .await
    }
}

impl Db<'_> {
    /// Everything that is stored counts as delivered.
    fn deliveries_begin_here(self) -> Result<(), Fault> {
        // Without the condition SQLite takes ON for a join's.
        let sql = "-- deliveries_begin_here
            INSERT INTO event_deliveries (writer, delivered_to)
            SELECT id, last_number FROM event_writers WHERE true
            ON CONFLICT (writer) DO UPDATE
            SET delivered_to = excluded.delivered_to, under_way_to = NULL";
        self.run(sql, []).map(drop)
    }

    /// The events of the delivery under way that are still there.
    fn under_way(self) -> Result<Vec<StoredEvent>, Fault> {
        let sql = concat!(
            "-- claim_delivery: under way\nSELECT ",
            event_columns!(),
            " FROM event_deliveries AS d
             JOIN auth_events AS e ON e.writer = d.writer AND e.number > d.delivered_to
                 AND e.number <= d.under_way_to
             WHERE d.under_way_to IS NOT NULL"
        );
        Ok(in_order(self.all(sql, [], |row| record::event(row, 0))?))
    }

    /// Chooses the events of the next delivery and notes their numbers.
    fn compose_delivery(self, limit: u32) -> Result<Vec<StoredEvent>, Fault> {
        let writers =
            self.all(record::backlog_sql!("?1"), [MAX_WRITERS], |row| record::backlog(row))?;
        let mut found = Vec::new();
        for Backlog { writer, delivered_to, last_number } in writers {
            let sql = concat!(
                "-- claim_delivery: events\nSELECT ",
                event_columns!(),
                " FROM auth_events AS e
                 WHERE e.writer = ?1 AND e.number > ?2 AND e.number <= ?3
                 ORDER BY e.number LIMIT ?4"
            );
            let params = params![writer, delivered_to, last_number, limit];
            let events = self.all(sql, params, |row| record::event(row, 0))?;
            if events.is_empty() {
                // The retention was faster.
                let sql = "-- claim_delivery: passed over
                    INSERT INTO event_deliveries (writer, delivered_to) VALUES (?1, ?2)
                    ON CONFLICT (writer) DO UPDATE SET delivered_to = excluded.delivered_to";
                self.run(sql, params![writer, last_number])?;
            }
            found.extend(events);
        }
        let (events, last) = composed(found, limit);
        for (writer, number) in last {
            let sql = "-- claim_delivery: numbers
                INSERT INTO event_deliveries (writer, delivered_to, under_way_to) VALUES (?1, 0, ?2)
                ON CONFLICT (writer) DO UPDATE SET under_way_to = excluded.under_way_to";
            self.run(sql, params![writer, number])?;
        }
        Ok(events)
    }
}
