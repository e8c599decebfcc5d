//! API keys on SQLite.

use std::time::Instant;

use jiff::Timestamp;
use rusqlite::params;
use serde_json::Value;
use uuid::Uuid;

use super::record::user_columns;
use super::{Db, Fault, Sqlite, micros};
use crate::model::{ApiKey, Event, UserId};
use crate::store::api_keys::{
    AddApiKey, ApiKeyCursor, ApiKeyNews, KeyName, LAST_USE, RotateApiKey, newest,
};
use crate::store::cases::Mark;
use crate::store::error::StoreError;
use crate::store::record::{self, api_key_columns};
use crate::store::rules::before;

impl Sqlite {
    pub(in crate::store) async fn api_keys(
        &self,
        user: Option<&UserId>,
    ) -> Result<Vec<ApiKey>, StoreError> {
        let user = user.map(|id| id.as_str().to_owned());
        self.read("api_keys", move |db| {
            let sql = concat!(
                "-- api_keys\nSELECT ",
                api_key_columns!(),
                " FROM api_keys AS k WHERE ?1 IS NULL OR k.user_id = ?1
                 ORDER BY k.created_at DESC, k.id"
            );
            db.all(sql, params![user], |row| record::api_key(row, 0))
        })
        .await
    }

    pub(in crate::store) async fn api_key(
        &self,
        name: &KeyName,
    ) -> Result<Option<ApiKey>, StoreError> {
        let name = name.clone();
        self.read("api_key", move |db| {
            let (id, prefix) = match &name {
                KeyName::Id(id) => (Some(id), None),
                KeyName::Prefix(prefix) => (None, Some(prefix)),
            };
            let sql = concat!(
                "-- api_key\nSELECT ",
                api_key_columns!(),
                " FROM api_keys AS k WHERE k.id = ?1 OR k.prefix = ?2"
            );
            db.one(sql, params![id, prefix], |row| record::api_key(row, 0))
        })
        .await
    }

    pub(in crate::store) async fn add_api_key(
        &self,
        new: &ApiKey,
        max: u32,
        event: &Event,
    ) -> Result<AddApiKey, StoreError> {
        let (new, event) = (new.clone(), event.clone());
        self.in_tx("add_api_key", move |db| {
            let sql = "-- add_api_key
                SELECT 1 FROM users WHERE id = ?1 AND deleted_at IS NULL";
            if db.one(sql, [new.user_id.as_str()], |_| Ok(()))?.is_none() {
                return Ok(AddApiKey::NoUser);
            }
            if db.count_api_keys(&new)? >= i64::from(max) {
                return Ok(AddApiKey::TooMany);
            }
            if !db.insert_api_key(&new)? {
                return Ok(AddApiKey::Taken);
            }
            db.record(&[event])?;
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
        let (new, events) = (new.clone(), events.to_vec());
        self.in_tx("rotate_api_key", move |db| {
            let sql = "-- rotate_api_key: find
                SELECT 1 FROM api_keys
                WHERE id = ?1 AND user_id = ?2 AND revoked_at IS NULL
                  AND (expires_at IS NULL OR expires_at > ?3)";
            let old = params![new.replaces, new.user_id.as_str(), micros(new.created_at)];
            if db.one(sql, old, |_| Ok(()))?.is_none() {
                return Ok(RotateApiKey::NotFound);
            }
            if db.count_api_keys(&new)? >= i64::from(max) {
                return Ok(RotateApiKey::TooMany);
            }
            if !db.insert_api_key(&new)? {
                return Ok(RotateApiKey::Taken);
            }
            let sql = "-- rotate_api_key: end
                UPDATE api_keys SET expires_at = min(coalesce(expires_at, ?2), ?2) WHERE id = ?1";
            db.run(sql, params![new.replaces, micros(old_ends_at)])?;
            db.record(&events)?;
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
        let (user, event) = (user.map(|id| id.as_str().to_owned()), event.clone());
        self.in_tx("revoke_api_key", move |db| {
            let sql = "-- revoke_api_key
                UPDATE api_keys SET revoked_at = ?3
                WHERE id = ?1 AND (?2 IS NULL OR user_id = ?2) AND revoked_at IS NULL";
            if db.run(sql, params![id, user, micros(now)])? == 0 {
                return Ok(false);
            }
            db.record(&[event])?;
            Ok(true)
        })
        .await
    }

    pub(in crate::store) async fn changed_api_keys(
        &self,
        cursor: &mut ApiKeyCursor,
    ) -> Result<ApiKeyNews, StoreError> {
        let since = match cursor.mark() {
            Some(Mark::Row(last)) => Some(last),
            _ => None,
        };
        let began = Instant::now();
        let (last, news) = self
            .read("changed_api_keys", move |db| match since {
                Some(last) => db.api_keys_since(last),
                None => db.all_api_keys(),
            })
            .await?;
        cursor.read = Some((Mark::Row(last), began));
        Ok(news)
    }

    pub(in crate::store) async fn touch_api_keys(
        &self,
        used: &[(Uuid, Timestamp)],
    ) -> Result<(), StoreError> {
        let used = newest(used);
        self.in_tx("touch_api_keys", move |db| {
            for (id, at) in used {
                let sql = "-- touch_api_keys
                    UPDATE api_keys SET last_used_at = ?2
                    WHERE id = ?1 AND (last_used_at IS NULL OR last_used_at <= ?3)";
                db.run(sql, params![id, micros(at), micros(before(at, LAST_USE))])?;
            }
            Ok(())
        })
        .await
    }
}

impl Db<'_> {
    /// Ends all keys of a user.
    pub(super) fn revoke_api_keys(self, user: &UserId, now: Timestamp) -> Result<(), Fault> {
        let sql = "-- revoke_api_keys
            UPDATE api_keys SET revoked_at = ?2 WHERE user_id = ?1 AND revoked_at IS NULL";
        self.run(sql, params![user.as_str(), micros(now)]).map(|_| ())
    }

    /// How many keys the user of `new` has that are neither revoked nor expired.
    fn count_api_keys(self, new: &ApiKey) -> Result<i64, Fault> {
        let sql = "-- count_api_keys
            SELECT count(*) FROM api_keys
            WHERE user_id = ?1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?2)";
        let params = params![new.user_id.as_str(), micros(new.created_at)];
        Ok(self.one(sql, params, |row| record::count(row, "api_keys", 0))?.unwrap_or(0))
    }

    /// Whether the prefix was free.
    fn insert_api_key(self, key: &ApiKey) -> Result<bool, Fault> {
        let sql = "-- insert_api_key
            INSERT INTO api_keys (id, user_id, name, prefix, digest, scopes, created_at,
                created_by, expires_at, replaces)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
            ON CONFLICT DO NOTHING";
        let inserted = self.run(
            sql,
            params![
                key.id,
                key.user_id.as_str(),
                key.name,
                key.prefix,
                key.digest.0,
                Value::from(key.scopes.clone()).to_string(),
                micros(key.created_at),
                key.created_by,
                key.expires_at.map(micros),
                key.replaces,
            ],
        )?;
        Ok(inserted > 0)
    }

    fn all_api_keys(self) -> Result<(i64, ApiKeyNews), Fault> {
        let sql = "-- changed_api_keys: last
            SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'api_key_changes'";
        // Both from one snapshot: what is not in this reading comes after that number.
        let last = self.one(sql, [], |row| Ok(row.get(0).unwrap_or(0)))?.unwrap_or(0);
        let sql = concat!(
            "-- changed_api_keys: all\nSELECT k.id, ",
            api_key_columns!(),
            ", ",
            user_columns!(),
            " FROM api_keys AS k JOIN users AS u ON u.id = k.user_id WHERE k.revoked_at IS NULL"
        );
        let keys = self.all(sql, [], |row| record::changed_api_key(row, 0))?;
        Ok((last, ApiKeyNews { keys, all: true }))
    }

    fn api_keys_since(self, last: i64) -> Result<(i64, ApiKeyNews), Fault> {
        let sql = concat!(
            "-- changed_api_keys: since\nSELECT c.seq, c.key_id, ",
            api_key_columns!(),
            ", ",
            user_columns!(),
            " FROM (
                 SELECT key_id, max(seq) AS seq FROM api_key_changes WHERE seq > ?1 GROUP BY key_id
             ) AS c
             LEFT JOIN api_keys AS k ON k.id = c.key_id AND k.revoked_at IS NULL
             LEFT JOIN users AS u ON u.id = k.user_id"
        );
        let rows = self.all(sql, [last], |row| {
            Ok((row.get(0).unwrap_or(last), record::changed_api_key(row, 1)?))
        })?;
        let newest = rows.iter().map(|(seq, _)| *seq).max().unwrap_or(last);
        let keys = rows.into_iter().map(|(_, key)| key).collect();
        Ok((newest, ApiKeyNews { keys, all: false }))
    }
}
