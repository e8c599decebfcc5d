//! Signing keys on SQLite.

use jiff::Timestamp;
use rusqlite::params;

use super::{Db, Fault, Sqlite, micros};
use crate::model::{Event, SigningKey};
use crate::store::error::StoreError;
use crate::store::keys::ListedKey;
use crate::store::record::{self, key_columns, listed_key_columns};

impl Sqlite {
    pub(in crate::store) async fn signing_keys(
        &self,
        now: Timestamp,
    ) -> Result<Vec<SigningKey>, StoreError> {
        self.read("signing_keys", move |db| {
            let sql = concat!(
                "-- signing_keys\nSELECT ",
                key_columns!(),
                " FROM signing_keys AS k WHERE k.retire_at IS NULL OR k.retire_at > ?1
                 ORDER BY k.active_from, k.kid"
            );
            db.all(sql, [micros(now)], |row| record::signing_key(row, 0))
        })
        .await
    }

    pub(in crate::store) async fn listed_keys(&self) -> Result<Vec<ListedKey>, StoreError> {
        self.read("listed_keys", |db| {
            let sql = concat!(
                "-- listed_keys\nSELECT ",
                listed_key_columns!(),
                " FROM signing_keys AS k ORDER BY k.active_from, k.kid"
            );
            db.all(sql, [], |row| record::listed_key(row))
        })
        .await
    }

    pub(in crate::store) async fn add_signing_key_if_none(
        &self,
        new: &SigningKey,
    ) -> Result<bool, StoreError> {
        let new = new.clone();
        self.in_tx("add_signing_key_if_none", move |db| {
            let sql = "-- add_signing_key_if_none
                SELECT 1 FROM signing_keys
                WHERE algorithm = ?1 AND (retire_at IS NULL OR retire_at > ?2)";
            let params = params![new.algorithm.name(), micros(new.created_at)];
            if db.one(sql, params, |_| Ok(()))?.is_some() {
                return Ok(false);
            }
            db.insert_key(&new)
        })
        .await
    }

    pub(in crate::store) async fn rotate_signing_key(
        &self,
        new: &SigningKey,
        others_retire_at: Timestamp,
        event: &Event,
    ) -> Result<bool, StoreError> {
        let (new, event) = (new.clone(), event.clone());
        self.in_tx("rotate_signing_key", move |db| {
            if !db.insert_key(&new)? {
                return Ok(false);
            }
            let sql = "-- rotate_signing_key
                UPDATE signing_keys SET retire_at = ?3
                WHERE algorithm = ?1 AND kid <> ?2 AND retire_at IS NULL";
            let retire_at = micros(others_retire_at);
            db.run(sql, params![new.algorithm.name(), new.kid, retire_at])?;
            db.record(&[event])?;
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
        let (kid, event) = (kid.to_owned(), event.clone());
        self.in_tx("retire_signing_key", move |db| {
            let sql = "-- retire_signing_key
                UPDATE signing_keys SET retire_at = ?2 WHERE kid = ?1";
            if db.run(sql, params![kid, micros(at)])? == 0 {
                return Ok(false);
            }
            db.record(&[event])?;
            Ok(true)
        })
        .await
    }
}

impl Db<'_> {
    /// Whether the key was not known before.
    fn insert_key(self, key: &SigningKey) -> Result<bool, Fault> {
        let sql = "-- insert_key
            INSERT INTO signing_keys (kid, algorithm, private_key, created_at, active_from,
                retire_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT (kid) DO NOTHING";
        let inserted = self.run(
            sql,
            params![
                key.kid,
                key.algorithm.name(),
                &key.private_key[..],
                micros(key.created_at),
                micros(key.active_from),
                key.retire_at.map(micros),
            ],
        )?;
        Ok(inserted > 0)
    }
}
