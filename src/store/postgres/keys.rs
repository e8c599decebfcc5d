//! Signing keys on PostgreSQL. Changes lock the table: they are rare, and two gateways that start
//! for the first time must agree on one key.

use jiff::Timestamp;

use super::{Db, Fault, Postgres};
use crate::model::{Event, SigningKey};
use crate::store::error::StoreError;
use crate::store::keys::ListedKey;
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
                " FROM signing_keys AS k WHERE k.retire_at IS NULL OR k.retire_at > $1
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
                WHERE algorithm = $1 AND (retire_at IS NULL OR retire_at > $2)";
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
            let sql = "-- rotate_signing_key
                UPDATE signing_keys SET retire_at = $3
                WHERE algorithm = $1 AND kid <> $2 AND retire_at IS NULL";
            let retire_at = whole_micros(others_retire_at);
            db.run(sql, &[&new.algorithm.name(), &new.kid, &retire_at]).await?;
            db.record(std::slice::from_ref(event)).await?;
            Ok(true)
        })
        .await
    }

    pub(in crate::store) async fn retire_signing_key(
        &self,
        kid: &str,
        at: Timestamp,
        event: &Event,
    ) -> Result<bool, StoreError> {
        self.in_tx("retire_signing_key", |db| async move {
            let sql = "-- retire_signing_key
                UPDATE signing_keys SET retire_at = $2 WHERE kid = $1";
            if db.run(sql, &[&kid, &whole_micros(at)]).await? == 0 {
                return Ok(false);
            }
            db.record(std::slice::from_ref(event)).await?;
            Ok(true)
        })
        .await
    }
}

impl Db {
    async fn lock_keys(&self) -> Result<(), Fault> {
        let sql = "-- lock_keys\nLOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE";
        self.run(sql, &[]).await.map(|_| ())
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
