//! Deliveries of events on PostgreSQL.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::{Db, Fault, Param, Postgres};
use crate::model::{Event, StoredEvent, clean_text, uuid_v7};
use crate::store::deliveries::{Backlog, Delivery, DeliveryState};
use crate::store::error::StoreError;
use crate::store::outbox::MAX_REASON;
use crate::store::record::{self, event_columns};
use crate::store::rules::{MAX_WRITERS, after, composed, in_order, whole_micros};

impl Postgres {
    pub(in crate::store) async fn claim_delivery(
        &self,
        now: Timestamp,
        lease: Duration,
        limit: u32,
    ) -> Result<Option<Delivery>, StoreError> {
        self.in_tx("claim_delivery", |db| async move {
            let sql = "-- claim_delivery
                SELECT delivery, attempts, due_at FROM event_webhook FOR UPDATE";
            let Some(webhook) = db.one(sql, &[], record::webhook).await? else {
                db.start_deliveries(now).await?;
                return Ok(None);
            };
            if webhook.due_at > whole_micros(now) {
                return Ok(None);
            }
            let (id, attempt, events) = if let Some(id) = webhook.delivery {
                (id, webhook.attempts.saturating_add(1), db.under_way().await?)
            } else {
                let events = db.compose_delivery(limit).await?;
                if events.is_empty() {
                    return Ok(None);
                }
                (uuid_v7(now), 1, events)
            };
            let sql = "-- claim_delivery: lease
                UPDATE event_webhook SET delivery = $1, attempts = $2, due_at = $3";
            db.run(sql, &[&id, &i64::from(attempt), &after(now, lease)]).await?;
            Ok(Some(Delivery { id, attempt, events }))
        })
        .await
    }

    pub(in crate::store) async fn delivered(
        &self,
        id: Uuid,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.in_tx("delivered", |db| async move {
            let sql = "-- delivered
                UPDATE event_webhook
                SET delivery = NULL, attempts = 0, due_at = $2, delivered_at = $2, last_error = NULL
                WHERE delivery = $1";
            let was_under_way = db.run(sql, &[&id, &whole_micros(now)]).await? > 0;
            if was_under_way {
                let sql = "-- delivered: numbers
                    UPDATE event_deliveries SET delivered_to = under_way_to, under_way_to = NULL
                    WHERE under_way_to IS NOT NULL";
                db.run(sql, &[]).await?;
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
        self.at_once("not_delivered", |db| async move {
            let sql = "-- not_delivered
                UPDATE event_webhook SET due_at = $2, last_error = $3 WHERE delivery = $1";
            let why = clean_text(why.as_bytes(), MAX_REASON);
            db.run(sql, &[&id, &whole_micros(retry_at), &why]).await.map(drop)
        })
        .await
    }

    pub(in crate::store) async fn delivery_state(
        &self,
    ) -> Result<Option<DeliveryState>, StoreError> {
        self.at_once("delivery_state", |db| async move {
            db.one(record::delivery_state_sql!(), &[], record::delivery_state).await
        })
        .await
    }

    pub(in crate::store) async fn skip_deliveries(
        &self,
        now: Timestamp,
        event: &Event,
    ) -> Result<Option<u64>, StoreError> {
        self.in_tx("skip_deliveries", |db| async move {
            let sql = "-- skip_deliveries
                UPDATE event_webhook
                SET delivery = NULL, attempts = 0, due_at = $1, last_error = NULL";
            if db.run(sql, &[&whole_micros(now)]).await? == 0 {
                return Ok(None);
            }
            let sql = record::delivery_state_sql!();
            let state = db.one(sql, &[], record::delivery_state).await?;
            db.deliveries_begin_here().await?;
            db.record(std::slice::from_ref(event)).await?;
            Ok(state.map(|state| state.waiting))
        })
        .await
    }
}

impl Db {
    /// Deliveries begin with what comes from now on. Of several that do so at once one is in time.
    async fn start_deliveries(&self, now: Timestamp) -> Result<(), Fault> {
        let sql = "-- start_deliveries
            INSERT INTO event_webhook (started_at, due_at) VALUES ($1, $1) ON CONFLICT DO NOTHING";
        if self.run(sql, &[&whole_micros(now)]).await? > 0 {
            self.deliveries_begin_here().await?;
        }
        Ok(())
    }

    /// Everything that is stored counts as delivered.
    async fn deliveries_begin_here(&self) -> Result<(), Fault> {
        let sql = "-- deliveries_begin_here
            INSERT INTO event_deliveries (writer, delivered_to)
            SELECT id, last_number FROM event_writers
            ON CONFLICT (writer) DO UPDATE
            SET delivered_to = excluded.delivered_to, under_way_to = NULL";
        self.run(sql, &[]).await.map(drop)
    }

    /// The events of the delivery under way that are still there.
    async fn under_way(&self) -> Result<Vec<StoredEvent>, Fault> {
        let sql = concat!(
            "-- claim_delivery: under way\nSELECT ",
            event_columns!(),
            " FROM event_deliveries AS d
             JOIN auth_events AS e ON e.writer = d.writer AND e.number > d.delivered_to
                 AND e.number <= d.under_way_to
             WHERE d.under_way_to IS NOT NULL"
        );
        Ok(in_order(self.all(sql, &[], |row| record::event(row, 0)).await?))
    }

    /// Chooses the events of the next delivery and notes their numbers.
    async fn compose_delivery(&self, limit: u32) -> Result<Vec<StoredEvent>, Fault> {
        let sql = record::backlog_sql!("$1");
        let writers = self.all(sql, &[&i64::from(MAX_WRITERS)], record::backlog).await?;
        let mut found = Vec::new();
        for Backlog { writer, delivered_to, last_number } in writers {
            let sql = concat!(
                "-- claim_delivery: events\nSELECT ",
                event_columns!(),
                " FROM auth_events AS e
                 WHERE e.writer = $1 AND e.number > $2 AND e.number <= $3
                 ORDER BY e.number LIMIT $4"
            );
            let params: &[Param<'_>] = &[&writer, &delivered_to, &last_number, &i64::from(limit)];
            let events = self.all(sql, params, |row| record::event(row, 0)).await?;
            if events.is_empty() {
                // The retention was faster.
                let sql = "-- claim_delivery: passed over
                    INSERT INTO event_deliveries (writer, delivered_to) VALUES ($1, $2)
                    ON CONFLICT (writer) DO UPDATE SET delivered_to = excluded.delivered_to";
                self.run(sql, &[&writer, &last_number]).await?;
            }
            found.extend(events);
        }
        let (events, last) = composed(found, limit);
        for (writer, number) in last {
            let sql = "-- claim_delivery: numbers
                INSERT INTO event_deliveries (writer, delivered_to, under_way_to)
                VALUES ($1, 0, $2)
                ON CONFLICT (writer) DO UPDATE SET under_way_to = excluded.under_way_to";
            self.run(sql, &[&writer, &number]).await?;
        }
        Ok(events)
    }
}
