//! API keys on PostgreSQL. Whoever makes or rotates a key locks its user first: so a change of the
//! user either is in what gateways read with the key, or notes the key as changed.

use std::time::Instant;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::record::user_columns;
use super::sessions::mark;
use super::{Db, Fault, Postgres};
use crate::model::{ApiKey, Event, UserId};
use crate::store::api_keys::{
    AddApiKey, ApiKeyCursor, ApiKeyNews, ChangedApiKey, KeyName, LAST_USE, RotateApiKey, newest,
};
use crate::store::cases::Mark;
use crate::store::error::StoreError;
use crate::store::record::{self, Record as _, api_key_columns};
use crate::store::rules::whole_micros;

/// Server and snapshot of a reading, and a key if there is one in this row.
type NewsRow = (Mark, Option<ChangedApiKey>);

impl Postgres {
    pub(in crate::store) async fn api_keys(
        &self,
        user: Option<&UserId>,
    ) -> Result<Vec<ApiKey>, StoreError> {
        self.at_once("api_keys", |db| async move {
            let sql = concat!(
                "-- api_keys\nSELECT ",
                api_key_columns!(),
                " FROM api_keys AS k WHERE $1::text IS NULL OR k.user_id = $1
                 ORDER BY k.created_at DESC, k.id"
            );
            db.all(sql, &[&user.map(UserId::as_str)], |row| record::api_key(row, 0)).await
        })
        .await
    }

    pub(in crate::store) async fn api_key(
        &self,
        name: &KeyName,
    ) -> Result<Option<ApiKey>, StoreError> {
        let (id, prefix) = match name {
            KeyName::Id(id) => (Some(id), None),
            KeyName::Prefix(prefix) => (None, Some(prefix)),
        };
        self.at_once("api_key", |db| async move {
            let sql = concat!(
                "-- api_key\nSELECT ",
                api_key_columns!(),
                " FROM api_keys AS k WHERE k.id = $1 OR k.prefix = $2"
            );
            db.one(sql, &[&id, &prefix], |row| record::api_key(row, 0)).await
        })
        .await
    }

    pub(in crate::store) async fn add_api_key(
        &self,
        new: &ApiKey,
        max: u32,
        event: &Event,
    ) -> Result<AddApiKey, StoreError> {
        self.in_tx("add_api_key", |db| async move {
            if !db.lock_user(&new.user_id).await? {
                return Ok(AddApiKey::NoUser);
            }
            if db.count_api_keys(new).await? >= i64::from(max) {
                return Ok(AddApiKey::TooMany);
            }
            if !db.insert_api_key(new).await? {
                return Ok(AddApiKey::Taken);
            }
            db.record(std::slice::from_ref(event)).await?;
            Ok(AddApiKey::Added)
        })
        .await
    }

    pub(in crate::store) async fn rotate_api_key(
        &self,
        new: &ApiKey,
        old_ends_at: Timestamp,
        max: u32,
        events: &[Event],
    ) -> Result<RotateApiKey, StoreError> {
        self.in_tx("rotate_api_key", |db| async move {
            db.lock_user(&new.user_id).await?;
            let sql = "-- rotate_api_key: find
                SELECT FROM api_keys
                WHERE id = $1 AND user_id = $2 AND revoked_at IS NULL
                  AND (expires_at IS NULL OR expires_at > $3)
                FOR UPDATE";
            let now = whole_micros(new.created_at);
            if db.run(sql, &[&new.replaces, &new.user_id.as_str(), &now]).await? == 0 {
                return Ok(RotateApiKey::NotFound);
            }
            if db.count_api_keys(new).await? >= i64::from(max) {
                return Ok(RotateApiKey::TooMany);
            }
            if !db.insert_api_key(new).await? {
                return Ok(RotateApiKey::Taken);
            }
            // `least` passes over nulls.
            let sql = "-- rotate_api_key: end
                UPDATE api_keys SET expires_at = least(expires_at, $2) WHERE id = $1";
            db.run(sql, &[&new.replaces, &whole_micros(old_ends_at)]).await?;
            db.record(events).await?;
            Ok(RotateApiKey::Rotated)
        })
        .await
    }

    pub(in crate::store) async fn revoke_api_key(
        &self,
        id: Uuid,
        user: Option<&UserId>,
        now: Timestamp,
        event: &Event,
    ) -> Result<bool, StoreError> {
        self.in_tx("revoke_api_key", |db| async move {
            let sql = "-- revoke_api_key
                UPDATE api_keys SET revoked_at = $3
                WHERE id = $1 AND ($2::text IS NULL OR user_id = $2) AND revoked_at IS NULL";
            let user = user.map(UserId::as_str);
            if db.run(sql, &[&id, &user, &whole_micros(now)]).await? == 0 {
                return Ok(false);
            }
            db.record(std::slice::from_ref(event)).await?;
            Ok(true)
        })
        .await
    }

    pub(in crate::store) async fn changed_api_keys(
        &self,
        cursor: &mut ApiKeyCursor,
    ) -> Result<ApiKeyNews, StoreError> {
        let began = Instant::now();
        if let Some(Mark::Transaction { server, xmin }) = cursor.mark() {
            let rows = self.api_keys_since(xmin).await?;
            // After a crash or on another server transaction numbers may start again lower.
            let now = rows.first().map(|(mark, _)| *mark);
            if matches!(now, Some(Mark::Transaction { server: now, .. }) if now == server) {
                cursor.read = now.map(|mark| (mark, began));
                let keys = rows.into_iter().filter_map(|(_, key)| key).collect();
                return Ok(ApiKeyNews { keys, all: false });
            }
        }
        let rows = self.all_api_keys().await?;
        cursor.read = rows.first().map(|(mark, _)| (*mark, began));
        let keys = rows.into_iter().filter_map(|(_, key)| key).collect();
        Ok(ApiKeyNews { keys, all: true })
    }

    /// One statement, so one snapshot: every transaction below its xmin is over, and what it wrote
    /// is in this answer or an earlier one.
    async fn api_keys_since(&self, xmin: u64) -> Result<Vec<NewsRow>, StoreError> {
        self.at_once("changed_api_keys", |db| async move {
            let sql = concat!(
                "-- changed_api_keys: since
                 SELECT pg_postmaster_start_time(),
                     pg_snapshot_xmin(pg_current_snapshot())::text, c.key_id, ",
                api_key_columns!(),
                ", ",
                user_columns!(),
                " FROM (SELECT 1) AS one
                 LEFT JOIN (
                     SELECT DISTINCT key_id FROM api_key_changes WHERE xid >= $1::text::xid8
                 ) AS c ON true
                 LEFT JOIN api_keys AS k ON k.id = c.key_id AND k.revoked_at IS NULL
                 LEFT JOIN users AS u ON u.id = k.user_id"
            );
            db.all(sql, &[&xmin.to_string()], news_row).await
        })
        .await
    }

    async fn all_api_keys(&self) -> Result<Vec<NewsRow>, StoreError> {
        self.at_once("changed_api_keys", |db| async move {
            let sql = concat!(
                "-- changed_api_keys: all
                 SELECT pg_postmaster_start_time(),
                     pg_snapshot_xmin(pg_current_snapshot())::text, k.id, ",
                api_key_columns!(),
                ", ",
                user_columns!(),
                " FROM (SELECT 1) AS one
                 LEFT JOIN (api_keys AS k JOIN users AS u ON u.id = k.user_id)
                     ON k.revoked_at IS NULL"
            );
            db.all(sql, &[], news_row).await
        })
        .await
    }

    pub(in crate::store) async fn touch_api_keys(
        &self,
        used: &[(Uuid, Timestamp)],
    ) -> Result<(), StoreError> {
        let (ids, times): (Vec<_>, Vec<_>) =
            newest(used).into_iter().map(|(id, at)| (id, whole_micros(at))).unzip();
        let (ids, times) = (&ids, &times);
        self.at_once("touch_api_keys", |db| async move {
            // A row that is locked is being touched or ended; waiting for it would say no more.
            let sql = "-- touch_api_keys
                WITH free AS (
                    SELECT k.id, n.at
                    FROM api_keys AS k
                    JOIN unnest($1::uuid[], $2::timestamptz[]) AS n (id, at) ON n.id = k.id
                    WHERE k.last_used_at IS NULL
                       OR k.last_used_at <= n.at - make_interval(secs => $3)
                    FOR UPDATE OF k SKIP LOCKED
                )
                UPDATE api_keys AS k SET last_used_at = free.at FROM free WHERE k.id = free.id";
            db.run(sql, &[ids, times, &LAST_USE.as_secs_f64()]).await.map(|_| ())
        })
        .await
    }
}

impl Db {
    /// Ends all keys of a user.
    pub(super) async fn revoke_api_keys(&self, user: &UserId, now: Timestamp) -> Result<(), Fault> {
        let sql = "-- revoke_api_keys
            UPDATE api_keys SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL";
        self.run(sql, &[&user.as_str(), &whole_micros(now)]).await.map(|_| ())
    }

    /// How many keys the user of `new` has that are neither revoked nor expired.
    async fn count_api_keys(&self, new: &ApiKey) -> Result<i64, Fault> {
        let sql = "-- count_api_keys
            SELECT count(*) FROM api_keys
            WHERE user_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)";
        let params: &[super::Param<'_>] = &[&new.user_id.as_str(), &whole_micros(new.created_at)];
        let count = self.one(sql, params, |row| record::count(row, "api_keys", 0)).await?;
        Ok(count.unwrap_or(0))
    }

    /// Whether the prefix was free.
    async fn insert_api_key(&self, key: &ApiKey) -> Result<bool, Fault> {
        let sql = "-- insert_api_key
            INSERT INTO api_keys (id, user_id, name, prefix, digest, scopes, created_at,
                created_by, expires_at, replaces)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
            ON CONFLICT DO NOTHING";
        let inserted = self
            .run(
                sql,
                &[
                    &key.id,
                    &key.user_id.as_str(),
                    &key.name,
                    &key.prefix,
                    &&key.digest.0[..],
                    &Value::from(key.scopes.clone()),
                    &whole_micros(key.created_at),
                    &key.created_by,
                    &key.expires_at.map(whole_micros),
                    &key.replaces,
                ],
            )
            .await?;
        Ok(inserted > 0)
    }
}

fn news_row(row: &Row) -> Result<NewsRow, StoreError> {
    let key = match row.uuid(2) {
        Ok(None) => None,
        _ => Some(record::changed_api_key(row, 2)?),
    };
    Ok((mark(row)?, key))
}
