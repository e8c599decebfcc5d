//! Signing keys on SQLite.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::{Db, Fault, Sqlite, micros};
use crate::config::Algorithm;
use crate::model::{Event, ListedKey, SigningKey};
use crate::store::error::StoreError;
use crate::store::keys::{RetireKey, RevokeKey};
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
                " FROM signing_keys AS k
                 WHERE k.revoked_at IS NULL AND (k.retire_at IS NULL OR k.retire_at > ?1)
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
                WHERE algorithm = ?1 AND revoked_at IS NULL
                  AND (retire_at IS NULL OR retire_at > ?2)";
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
            db.retire_others(&new, others_retire_at)?;
            db.record(&[event])?;
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
        let (new, event) = (new.clone(), event.clone());
        self.in_tx("rotate_if_due", move |db| {
            let sql = "-- rotate_if_due
                SELECT 1 FROM signing_keys
                WHERE algorithm = ?1 AND revoked_at IS NULL AND retire_at IS NULL
                  AND active_from > ?2 LIMIT 1";
            let younger = db.one(sql, params![new.algorithm.name(), micros(due)], |_| Ok(()))?;
            if younger.is_some() || !db.insert_key(&new)? {
                return Ok(false);
            }
            db.retire_others(&new, others_retire_at)?;
            db.record(&[event])?;
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
        let (kid, new, event) = (kid.to_owned(), replacement.cloned(), event.clone());
        self.in_tx("revoke_signing_key", move |db| {
            let sql = "-- revoke_signing_key
                UPDATE signing_keys SET revoked_at = ?2 WHERE kid = ?1 AND revoked_at IS NULL";
            if db.run(sql, params![kid, micros(event.at)])? == 0 {
                return Ok(RevokeKey::Unknown);
            }
            let successor = match &new {
                Some(new) => db.successor(new, event.at)?,
                None => None,
            };
            db.record(&[event])?;
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
        let (kid, event) = (kid.to_owned(), event.clone());
        self.in_tx("retire_signing_key", move |db| {
            if let Some(algorithm) = signs
                && db.is_needed(&kid, algorithm, event.at)?
            {
                return Ok(RetireKey::InUse);
            }
            let sql = "-- retire_signing_key
                UPDATE signing_keys SET retire_at = ?2
                WHERE kid = ?1 AND revoked_at IS NULL AND (retire_at IS NULL OR retire_at > ?3)";
            if db.run(sql, params![kid, micros(at), micros(event.at)])? == 0 {
                return Ok(RetireKey::Unknown);
            }
            db.record(&[event])?;
            Ok(RetireKey::Done)
        })
        .await
    }
}

impl Db<'_> {
    fn retire_others(self, new: &SigningKey, at: Timestamp) -> Result<(), Fault> {
        let sql = "-- retire_others
            UPDATE signing_keys SET retire_at = ?3
            WHERE algorithm = ?1 AND kid <> ?2 AND (retire_at IS NULL OR retire_at > ?3)";
        self.run(sql, params![new.algorithm.name(), new.kid, micros(at)]).map(|_| ())
    }

    /// Whether a key in use is one that signs, or will, and no other key without an end signs. One
    /// that has an end is not needed either while a newer one signs.
    fn is_needed(self, kid: &str, algorithm: Algorithm, now: Timestamp) -> Result<bool, Fault> {
        let sql = "-- is_needed
            SELECT 1 FROM signing_keys AS k
            WHERE k.kid = ?1 AND k.algorithm = ?2 AND k.revoked_at IS NULL
              AND (k.retire_at IS NULL OR k.retire_at > ?3)
              AND NOT EXISTS (
                SELECT 1 FROM signing_keys AS o
                WHERE o.algorithm = ?2 AND o.kid <> ?1 AND o.revoked_at IS NULL
                  AND o.active_from <= ?3
                  AND (o.retire_at IS NULL
                    OR (o.retire_at > ?3 AND k.retire_at IS NOT NULL
                      AND o.active_from > k.active_from)))";
        let params = params![kid, algorithm.name(), micros(now)];
        Ok(self.one(sql, params, |_| Ok(()))?.is_some())
    }

    /// The key that is to sign because none does that has no end: one on standby, or `new`.
    fn successor(self, new: &SigningKey, now: Timestamp) -> Result<Option<String>, Fault> {
        let (algorithm, now) = (new.algorithm.name(), micros(now));
        let sql = "-- successor: is there one
            SELECT 1 FROM signing_keys
            WHERE algorithm = ?1 AND revoked_at IS NULL AND retire_at IS NULL
              AND active_from <= ?2 LIMIT 1";
        if self.one(sql, params![algorithm, now], |_| Ok(()))?.is_some() {
            return Ok(None);
        }
        let sql = "-- successor: from standby
            UPDATE signing_keys SET active_from = ?2
            WHERE kid = (
                SELECT kid FROM signing_keys
                WHERE algorithm = ?1 AND revoked_at IS NULL AND retire_at IS NULL
                ORDER BY active_from, kid LIMIT 1)
            RETURNING kid";
        let read = |row: &Row<'_>| record::text(row, "signing_keys", 0);
        if let Some(kid) = self.one(sql, params![algorithm, now], read)? {
            return Ok(Some(kid));
        }
        self.insert_key(new)?;
        Ok(Some(new.kid.clone()))
    }

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
