//! Imports on SQLite.

use jiff::Timestamp;
use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
use rusqlite::{OptionalExtension as _, params};
use serde_json::Value;

use super::accounts::account;
use super::record::user_columns;
use super::{Db, Fault, Sqlite, micros};
use crate::model::{Account, Event, UserId};
use crate::store::error::{Cause, StoreError};
use crate::store::imports::{ImportBatch, ImportProgress, ImportedAccount, column};
use crate::store::record::{self, import_columns};
use crate::store::rules::{sorted_roles, storable};

impl Sqlite {
    pub(in crate::store) async fn accounts_taken(
        &self,
        ids: &[UserId],
        email_keys: &[String],
    ) -> Result<Vec<(UserId, String)>, StoreError> {
        let (ids, email_keys) = (ids.to_vec(), email_keys.to_vec());
        self.read("accounts_taken", move |db| {
            let by_id = "-- accounts_taken: id\nSELECT id, email_key FROM users WHERE id = ?1";
            let by_key =
                "-- accounts_taken: key\nSELECT id, email_key FROM users WHERE email_key = ?1";
            let mut taken = Vec::new();
            for id in &ids {
                taken.extend(db.one(by_id, [id.as_str()], |row| record::id_and_key(row))?);
            }
            for key in &email_keys {
                taken.extend(db.one(by_key, [key], |row| record::id_and_key(row))?);
            }
            taken.sort_unstable();
            taken.dedup();
            Ok(taken)
        })
        .await
    }

    pub(in crate::store) async fn import_accounts(
        &self,
        accounts: &[ImportedAccount],
        rows_before: u64,
        progress: &ImportProgress,
        now: Timestamp,
        event: &Event,
    ) -> Result<ImportBatch, StoreError> {
        let (accounts, progress, event) = (accounts.to_vec(), progress.clone(), event.clone());
        let done = self
            .in_tx("import_accounts", move |db| {
                if !db.advance_import(rows_before, &progress, now)? {
                    return Ok(ImportBatch::Overtaken);
                }
                for account in &accounts {
                    db.insert_imported(account)?;
                }
                db.record(&[event])?;
                Ok(ImportBatch::Done)
            })
            .await;
        match done {
            Err(StoreError::Query { source, .. }) if is_taken(&source) => Ok(ImportBatch::Taken),
            done => done,
        }
    }

    pub(in crate::store) async fn import_progress(
        &self,
        digest: [u8; 32],
    ) -> Result<Option<ImportProgress>, StoreError> {
        self.read("import_progress", move |db| {
            let sql = concat!(
                "-- import_progress\nSELECT ",
                import_columns!(),
                " FROM imports AS i WHERE i.digest = ?1"
            );
            db.one(sql, [digest.as_slice()], |row| record::import_progress(row))
        })
        .await
    }

    pub(in crate::store) async fn accounts(
        &self,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<Account>, StoreError> {
        let after = after.cloned();
        self.read("accounts", move |db| {
            let sql = concat!(
                "-- accounts\nSELECT ",
                user_columns!(),
                ", u.password_hash FROM users AS u WHERE u.id > ?1 ORDER BY u.id LIMIT ?2"
            );
            let after = after.as_ref().map_or("", UserId::as_str);
            db.all(sql, params![after, limit], account)
        })
        .await
    }

    pub(in crate::store) async fn forget_import(&self, digest: [u8; 32]) -> Result<(), StoreError> {
        self.in_tx("forget_import", move |db| {
            let sql = "-- forget_import\nDELETE FROM imports WHERE digest = ?1";
            db.run(sql, [digest.as_slice()]).map(drop)
        })
        .await
    }
}

impl Db<'_> {
    /// Whether the import was as far as `rows_before`.
    fn advance_import(
        self,
        rows_before: u64,
        progress: &ImportProgress,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let sql = "-- advance_import: look\nSELECT rows_done FROM imports WHERE digest = ?1";
        let digest = progress.digest.as_slice();
        let found: Option<i64> =
            self.connection.query_row(sql, [digest], |row| row.get(0)).optional()?;
        if found.unwrap_or(0) != column(rows_before) {
            return Ok(false);
        }
        let [rows_done, imported, already_there, refused, error_bytes] = progress.numbers();
        let sql = "-- advance_import
            INSERT OR REPLACE INTO imports (digest, file, rows_done, imported, already_there,
                refused, error_bytes, started_at, updated_at, finished_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        self.run(
            sql,
            params![
                digest,
                progress.file,
                rows_done,
                imported,
                already_there,
                refused,
                error_bytes,
                micros(progress.started_at),
                micros(now),
                progress.finished_at.map(micros),
            ],
        )?;
        Ok(true)
    }

    fn insert_imported(self, imported: &ImportedAccount) -> Result<(), Fault> {
        let sql = "-- insert_imported
            INSERT INTO users (id, email, email_key, email_confirmed_at, password_hash,
                password_class, roles, app_metadata, user_metadata, last_sign_in_at,
                disabled_until, created_at, updated_at, invited_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
        let ImportedAccount { account, class } = imported;
        let user = &account.user;
        self.run(
            sql,
            params![
                user.id.as_str(),
                account.email.address(),
                account.email.key(),
                user.email_confirmed_at.map(micros),
                account.password_hash.as_ref().map(|hash| hash.0.as_str()),
                class,
                Value::from(sorted_roles(&user.roles)).to_string(),
                Value::Object(storable(&user.app_metadata)).to_string(),
                Value::Object(storable(&user.user_metadata)).to_string(),
                user.last_sign_in_at.map(micros),
                user.disabled_until.map(micros),
                micros(user.created_at),
                micros(user.updated_at),
                user.invited_at.map(micros),
            ],
        )?;
        Ok(())
    }
}

fn is_taken(cause: &Cause) -> bool {
    let error = cause.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error);
    error.is_some_and(|error| {
        [SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE].contains(&error.extended_code)
    })
}
