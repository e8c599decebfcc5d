//! The outbox on SQLite.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::params;
use uuid::Uuid;

use super::{Db, Fault, Sqlite, micros};
use crate::model::{Event, clean_text};
use crate::store::error::StoreError;
use crate::store::outbox::{Claimed, MAX_REASON, NewParcel, OutboxState, ParcelKind, Stored};
use crate::store::record::{self, parcel_columns};
use crate::store::rules::{after, storable_value};

impl Sqlite {
    pub(in crate::store) async fn post(
        &self,
        parcels: &[NewParcel],
        events: &[Event],
    ) -> Result<(), StoreError> {
        let (parcels, events) = (parcels.to_vec(), events.to_vec());
        self.in_tx("post", move |db| {
            db.post(&parcels)?;
            db.record(&events)
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
        self.in_tx("claim", move |db| {
            let sql = "-- claim
                SELECT id, payload, attempts + 1, created_at FROM outbox
                WHERE kind = ?1 AND due_at <= ?2 AND failed_at IS NULL
                ORDER BY due_at, id LIMIT ?3";
            let mut due = db.all(sql, params![kind.as_str(), micros(now), limit], |row| {
                record::claimed(row, kind)
            })?;
            for parcel in &due {
                let sql = "-- claim: lease
                    UPDATE outbox SET due_at = ?2, attempts = attempts + 1 WHERE id = ?1";
                db.run(sql, params![parcel.id, micros(after(now, lease))])?;
            }
            due.sort_by_key(|parcel| (parcel.created_at, parcel.id));
            Ok(due)
        })
        .await
    }

    pub(in crate::store) async fn sent(
        &self,
        id: Uuid,
        event: Option<&Event>,
    ) -> Result<bool, StoreError> {
        let event = event.cloned();
        self.in_tx("sent", move |db| {
            let was_there = db.run("-- sent\nDELETE FROM outbox WHERE id = ?1", [id])? > 0;
            if was_there {
                db.record(event.as_slice())?;
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
        let (why, event) = (clean_text(why.as_bytes(), MAX_REASON), event.cloned());
        self.in_tx("not_sent", move |db| {
            let sql = "-- not_sent
                UPDATE outbox
                SET last_error = ?2, due_at = coalesce(?3, due_at),
                    payload = CASE WHEN ?3 IS NULL
                        THEN json_replace(payload, '$.password', NULL, '$.user_metadata', NULL)
                        ELSE payload END,
                    failed_at = CASE WHEN ?3 IS NULL THEN ?4 END
                WHERE id = ?1 AND failed_at IS NULL";
            if db.run(sql, params![id, why, retry_at.map(micros), micros(now)])? > 0 {
                db.record(event.as_slice())?;
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
        self.read("parcels", move |db| {
            let sql = concat!(
                "-- parcels\nSELECT ",
                parcel_columns!(),
                " FROM outbox WHERE kind = ?1 AND (?3 IS NULL OR id < ?3) ORDER BY id DESC LIMIT ?2"
            );
            db.all(sql, params![kind.as_str(), limit, before], |row| record::stored(row, kind))
        })
        .await
    }

    pub(in crate::store) async fn parcel(
        &self,
        kind: ParcelKind,
        id: Uuid,
    ) -> Result<Option<Stored>, StoreError> {
        self.read("parcel", move |db| {
            let sql = concat!(
                "-- parcel\nSELECT ",
                parcel_columns!(),
                " FROM outbox WHERE kind = ?1 AND id = ?2"
            );
            db.one(sql, params![kind.as_str(), id], |row| record::stored(row, kind))
        })
        .await
    }

    pub(in crate::store) async fn retry_parcel(
        &self,
        id: Uuid,
        now: Timestamp,
        event: &Event,
    ) -> Result<bool, StoreError> {
        let event = event.clone();
        self.in_tx("retry_parcel", move |db| {
            let sql = "-- retry_parcel
                UPDATE outbox SET failed_at = NULL, due_at = ?2
                WHERE id = ?1 AND failed_at IS NOT NULL";
            let was_there = db.run(sql, params![id, micros(now)])? > 0;
            if was_there {
                db.record(&[event])?;
            }
            Ok(was_there)
        })
        .await
    }

    pub(in crate::store) async fn outbox_state(&self) -> Result<Vec<OutboxState>, StoreError> {
        self.read("outbox_state", |db| {
            let sql = "-- outbox_state
                SELECT kind, count(*) FILTER (WHERE failed_at IS NULL),
                    count(*) FILTER (WHERE failed_at IS NOT NULL),
                    min(created_at) FILTER (WHERE failed_at IS NULL)
                FROM outbox GROUP BY kind ORDER BY kind";
            db.all(sql, [], |row| record::outbox_state(row, 0))
        })
        .await
    }
}

impl Db<'_> {
    pub(super) fn post(self, parcels: &[NewParcel]) -> Result<(), Fault> {
        for parcel in parcels {
            let sql = "-- post
                INSERT INTO outbox (id, kind, payload, created_at, due_at)
                VALUES (?1, ?2, ?3, ?4, ?4)";
            let payload = storable_value(&parcel.parcel.payload()).to_string();
            let kind = parcel.parcel.kind().as_str();
            self.run(sql, params![parcel.id, kind, payload, micros(parcel.at)])?;
        }
        Ok(())
    }
}
