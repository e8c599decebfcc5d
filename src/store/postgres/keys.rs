//! Signing keys on PostgreSQL. Changes lock the table: they are rare, and two gateways that start
//! for the first time must agree on one key.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{Db, Fault, Postgres};
use crate::config::Algorithm;
use crate::model::{Event, ListedKey, SigningKey};
use crate::store::error::StoreError;
use crate::store::keys::{RetireKey, RevokeKey};
use crate::store::record::{self, key_columns, listed_key_columns};
use crate::store::rules::whole_micros;

impl Postgres {
    pub(in crate::store) async fn signing_keys(
        &self,
        now: Timestamp,
    ) -> Result<Vec<SigningKey>, StoreError> {
        self.at_once("signing_keys", |db| async move {
            let sql = concat!(
                "-- signing_keys\nSELECT ",
                key_columns!(),
                " FROM signing_keys AS k
                 WHERE k.revoked_at IS NULL AND (k.retire_at IS NULL OR k.retire_at > $1)
                 ORDER BY k.active_from, k.kid"
            );
            db.all(sql, &[&whole_micros(now)], |row| record::signing_key(row, 0)).await
        })
        .await
    }

    pub(in crate::store) async fn listed_keys(&self) -> Result<Vec<ListedKey>, StoreError> {
        self.at_once("listed_keys", |db| async move {
            let sql = concat!(
                "-- listed_keys\nSELECT ",
                listed_key_columns!(),
                " FROM signing_keys AS k ORDER BY k.active_from, k.kid"
            );
            db.all(sql, &[], record::listed_key).await
        })
        .await
    }

    pub(in crate::store) async fn add_signing_key_if_none(
        &self,
        new: &SigningKey,
    ) -> Result<bool, StoreError> {
        self.in_tx("add_signing_key_if_none", |db| async move {
            db.lock_keys().await?;
            let sql = "-- add_signing_key_if_none
                SELECT FROM signing_keys
                WHERE algorithm = $1 AND revoked_at IS NULL
                  AND (retire_at IS NULL OR retire_at > $2)";
            let now = whole_micros(new.created_at);
            if db.run(sql, &[&new.algorithm.name(), &now]).await? > 0 {
                return Ok(false);
            }
            db.insert_key(new).await
        })
        .await
    }

    pub(in crate::store) async fn rotate_signing_key(
        &self,
        new: &SigningKey,
        others_retire_at: Timestamp,
        event: &Event,
    ) -> Result<bool, StoreError> {
        self.in_tx("rotate_signing_key", |db| async move {
            db.lock_keys().await?;
            if !db.insert_key(new).await? {
                return Ok(false);
            }
            db.retire_others(new, others_retire_at).await?;
            db.record(std::slice::from_ref(event)).await?;
            Ok(true)
        })
        .await
    }

    pub(in crate::store) async fn rotate_if_due(
        &self,
        new: &SigningKey,
        due: Timestamp,
        others_retire_at: Timestamp,
        event: &Event,
    ) -> Result<bool, StoreError> {
        self.in_tx("rotate_if_due", |db| async move {
            db.lock_keys().await?;
            let sql = "-- rotate_if_due
                SELECT FROM signing_keys
                WHERE algorithm = $1 AND revoked_at IS NULL AND retire_at IS NULL
                  AND active_from > $2";
            let younger = db.run(sql, &[&new.algorithm.name(), &whole_micros(due)]).await?;
            if younger > 0 || !db.insert_key(new).await? {
                return Ok(false);
            }
            db.retire_others(new, others_retire_at).await?;
            db.record(std::slice::from_ref(event)).await?;
            Ok(true)
        })
        .await
    }

    pub(in crate::store) async fn revoke_signing_key(
        &self,
        kid: &str,
        replacement: Option<&SigningKey>,
        event: &Event,
    ) -> Result<RevokeKey, StoreError> {
        self.in_tx("revoke_signing_key", |db| async move {
            db.lock_keys().await?;
            let now = whole_micros(event.at);
            let sql = "-- revoke_signing_key
                UPDATE signing_keys SET revoked_at = $2 WHERE kid = $1 AND revoked_at IS NULL";
            if db.run(sql, &[&kid, &now]).await? == 0 {
                return Ok(RevokeKey::Unknown);
            }
            let successor = match replacement {
                Some(new) => db.successor(new, now).await?,
                None => None,
            };
            db.record(std::slice::from_ref(event)).await?;
            Ok(RevokeKey::Done { successor })
        })
        .await
    }

    pub(in crate::store) async fn retire_signing_key(
        &self,
        kid: &str,
        at: Timestamp,
        signs: Option<Algorithm>,
        event: &Event,
    ) -> Result<RetireKey, StoreError> {
        self.in_tx("retire_signing_key", |db| async move {
            db.lock_keys().await?;
            let now = whole_micros(event.at);
            if let Some(algorithm) = signs
                && db.is_needed(kid, algorithm, now).await?
            {
                return Ok(RetireKey::InUse);
            }
            let sql = "-- retire_signing_key
                UPDATE signing_keys SET retire_at = $2
                WHERE kid = $1 AND revoked_at IS NULL AND (retire_at IS NULL OR retire_at > $3)";
            if db.run(sql, &[&kid, &whole_micros(at), &now]).await? == 0 {
                return Ok(RetireKey::Unknown);
            }
            db.record(std::slice::from_ref(event)).await?;
            Ok(RetireKey::Done)
        })
        .await
    }
}

impl Db {
    async fn lock_keys(&self) -> Result<(), Fault> {
        let sql = "-- lock_keys\nLOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE";
        self.run(sql, &[]).await.map(|_| ())
    }

    async fn retire_others(&self, new: &SigningKey, at: Timestamp) -> Result<(), Fault> {
        let sql = "-- retire_others
            UPDATE signing_keys SET retire_at = $3
            WHERE algorithm = $1 AND kid <> $2 AND (retire_at IS NULL OR retire_at > $3)";
        self.run(sql, &[&new.algorithm.name(), &new.kid, &whole_micros(at)]).await.map(|_| ())
    }

    /// Whether a key in use is one that signs, or will, and no other key without an end signs. One
    /// that has an end is not needed either while a newer one signs.
    async fn is_needed(
        &self,
        kid: &str,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let sql = "-- is_needed
            SELECT FROM signing_keys AS k
            WHERE k.kid = $1 AND k.algorithm = $2 AND k.revoked_at IS NULL
              AND (k.retire_at IS NULL OR k.retire_at > $3)
              AND NOT EXISTS (
                SELECT FROM signing_keys AS o
                WHERE o.algorithm = $2 AND o.kid <> $1 AND o.revoked_at IS NULL
                  AND o.active_from <= $3
                  AND (o.retire_at IS NULL
                    OR (o.retire_at > $3 AND k.retire_at IS NOT NULL
                      AND o.active_from > k.active_from)))";
        Ok(self.run(sql, &[&kid, &algorithm.name(), &now]).await? > 0)
    }

    /// The key that is to sign because none does that has no end: one on standby, or `new`.
    async fn successor(&self, new: &SigningKey, now: Timestamp) -> Result<Option<String>, Fault> {
        let algorithm = new.algorithm.name();
        let sql = "-- successor: is there one
            SELECT FROM signing_keys
            WHERE algorithm = $1 AND revoked_at IS NULL AND retire_at IS NULL
              AND active_from <= $2";
        if self.run(sql, &[&algorithm, &now]).await? > 0 {
            return Ok(None);
        }
        let sql = "-- successor: from standby
            UPDATE signing_keys SET active_from = $2
            WHERE kid = (
                SELECT kid FROM signing_keys
                WHERE algorithm = $1 AND revoked_at IS NULL AND retire_at IS NULL
                ORDER BY active_from, kid LIMIT 1)
            RETURNING kid";
        let read = |row: &Row| record::text(row, "signing_keys", 0);
        if let Some(kid) = self.one(sql, &[&algorithm, &now], read).await? {
            return Ok(Some(kid));
        }
        self.insert_key(new).await?;
        Ok(Some(new.kid.clone()))
    }

    /// Whether the key was not known before.
    async fn insert_key(&self, key: &SigningKey) -> Result<bool, Fault> {
        let sql = "-- insert_key
            INSERT INTO signing_keys (kid, algorithm, private_key, created_at, active_from,
                retire_at)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (kid) DO NOTHING";
        let inserted = self
            .run(
                sql,
                &[
                    &key.kid,
                    &key.algorithm.name(),
                    &&key.private_key[..],
                    &whole_micros(key.created_at),
                    &whole_micros(key.active_from),
                    &key.retire_at.map(whole_micros),
                ],
            )
            .await?;
        Ok(inserted > 0)
    }
}
