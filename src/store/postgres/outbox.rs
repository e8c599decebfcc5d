//! The outbox on PostgreSQL.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::{Db, Fault, Param, Postgres};
use crate::model::{Event, clean_text};
use crate::store::error::StoreError;
use crate::store::outbox::{Claimed, MAX_REASON, NewParcel, OutboxState, ParcelKind, Stored};
use crate::store::record::{self, parcel_columns};
use crate::store::rules::{after, storable_value, whole_micros};

impl Postgres {
    pub(in crate::store) async fn post(
        &self,
        parcels: &[NewParcel],
        events: &[Event],
    ) -> Result<(), StoreError> {
        self.in_tx("post", |db| async move {
            db.post(parcels).await?;
            db.record(events).await
        })
        .await
    }

    pub(in crate::store) async fn claim(
        &self,
        kind: ParcelKind,
        now: Timestamp,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.at_once("claim", |db| async move {
            // What another one is claiming at this moment is passed by, not waited for.
            let sql = "-- claim
                WITH due AS MATERIALIZED (
                    SELECT o.id FROM outbox AS o
                    WHERE o.kind = $1 AND o.due_at <= $2 AND o.failed_at IS NULL
                    ORDER BY o.due_at, o.id LIMIT $4
                    FOR UPDATE SKIP LOCKED
                ), claimed AS (
                    UPDATE outbox AS o SET due_at = $3, attempts = o.attempts + 1
                    FROM due WHERE o.id = due.id
                    RETURNING o.id, o.payload, o.attempts::bigint AS attempts, o.created_at
                )
                SELECT id, payload, attempts, created_at FROM claimed ORDER BY created_at, id";
            let (due, again) = (whole_micros(now), after(now, lease));
            let params: &[Param<'_>] = &[&kind.as_str(), &due, &again, &i64::from(limit)];
            db.all(sql, params, |row| record::claimed(row, kind)).await
        })
        .await
    }

    pub(in crate::store) async fn sent(
        &self,
        id: Uuid,
        event: Option<&Event>,
    ) -> Result<bool, StoreError> {
        self.in_tx("sent", |db| async move {
            let sql = "-- sent\nDELETE FROM outbox WHERE id = $1";
            let was_there = db.run(sql, &[&id]).await? > 0;
            if was_there {
                db.record(event.map_or(&[], std::slice::from_ref)).await?;
            }
            Ok(was_there)
        })
        .await
    }

    pub(in crate::store) async fn not_sent(
        &self,
        id: Uuid,
        retry_at: Option<Timestamp>,
        why: &str,
        now: Timestamp,
        event: Option<&Event>,
    ) -> Result<(), StoreError> {
        self.in_tx("not_sent", |db| async move {
            let sql = "-- not_sent
                UPDATE outbox
                SET last_error = $2, due_at = coalesce($3, due_at),
                    payload = CASE WHEN $3::timestamptz IS NULL
                        THEN jsonb_set(jsonb_set(payload, '{password}', 'null', false),
                            '{user_metadata}', 'null', false)
                        ELSE payload END,
                    failed_at = CASE WHEN $3::timestamptz IS NULL THEN $4::timestamptz END
                WHERE id = $1 AND failed_at IS NULL";
            let why = clean_text(why.as_bytes(), MAX_REASON);
            let (retry_at, now) = (retry_at.map(whole_micros), whole_micros(now));
            if db.run(sql, &[&id, &why, &retry_at, &now]).await? > 0 {
                db.record(event.map_or(&[], std::slice::from_ref)).await?;
            }
            Ok(())
        })
        .await
    }

    pub(in crate::store) async fn parcels(
        &self,
        kind: ParcelKind,
        limit: u32,
        before: Option<Uuid>,
    ) -> Result<Vec<Stored>, StoreError> {
        self.at_once("parcels", |db| async move {
            let sql = concat!(
                "-- parcels\nSELECT ",
                parcel_columns!(),
                " FROM outbox WHERE kind = $1 AND ($3::uuid IS NULL OR id < $3)
                 ORDER BY id DESC LIMIT $2"
            );
            let params: &[Param<'_>] = &[&kind.as_str(), &i64::from(limit), &before];
            db.all(sql, params, |row| record::stored(row, kind)).await
        })
        .await
    }

    pub(in crate::store) async fn parcel(
        &self,
        kind: ParcelKind,
        id: Uuid,
    ) -> Result<Option<Stored>, StoreError> {
        self.at_once("parcel", |db| async move {
            let sql = concat!(
                "-- parcel\nSELECT ",
                parcel_columns!(),
                " FROM outbox WHERE kind = $1 AND id = $2"
            );
            db.one(sql, &[&kind.as_str(), &id], |row| record::stored(row, kind)).await
        })
        .await
    }

    pub(in crate::store) async fn retry_parcel(
        &self,
        id: Uuid,
        now: Timestamp,
        event: &Event,
    ) -> Result<bool, StoreError> {
        self.in_tx("retry_parcel", |db| async move {
            let sql = "-- retry_parcel
                UPDATE outbox SET failed_at = NULL, due_at = $2
                WHERE id = $1 AND failed_at IS NOT NULL";
            let was_there = db.run(sql, &[&id, &whole_micros(now)]).await? > 0;
            if was_there {
                db.record(std::slice::from_ref(event)).await?;
            }
            Ok(was_there)
        })
        .await
    }

    pub(in crate::store) async fn outbox_state(&self) -> Result<Vec<OutboxState>, StoreError> {
        self.at_once("outbox_state", |db| async move {
            let sql = "-- outbox_state
                SELECT kind, count(*) FILTER (WHERE failed_at IS NULL),
                    count(*) FILTER (WHERE failed_at IS NOT NULL),
                    min(created_at) FILTER (WHERE failed_at IS NULL)
                FROM outbox GROUP BY kind ORDER BY kind";
            db.all(sql, &[], |row| record::outbox_state(row, 0)).await
        })
        .await
    }
}

impl Db {
    pub(super) async fn post(&self, parcels: &[NewParcel]) -> Result<(), Fault> {
        for parcel in parcels {
            let sql = "-- post
                INSERT INTO outbox (id, kind, payload, created_at, due_at)
                VALUES ($1, $2, $3, $4, $4)";
            let payload = storable_value(&parcel.parcel.payload());
            let (kind, at) = (parcel.parcel.kind().as_str(), whole_micros(parcel.at));
            self.run(sql, &[&parcel.id, &kind, &payload, &at]).await?;
        }
        Ok(())
    }
}
