//! Imports on PostgreSQL.

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::error::SqlState;

use super::accounts::account;
use super::record::user_columns;
use super::{Db, Fault, Postgres};
use crate::model::{Account, Event, JsonObject, User, UserId};
use crate::store::error::{Cause, StoreError};
use crate::store::imports::{ImportBatch, ImportProgress, ImportedAccount, column};
use crate::store::record::{self, import_columns};
use crate::store::rules::{sorted_roles, storable, whole_micros};

impl Postgres {
    pub(in crate::store) async fn accounts_taken(
        &self,
        ids: &[UserId],
        email_keys: &[String],
    ) -> Result<Vec<(UserId, String)>, StoreError> {
        self.at_once("accounts_taken", |db| async move {
            // Two looks into an index; one condition with OR would read the whole table.
            let sql = "-- accounts_taken
                SELECT id, email_key FROM users WHERE id = ANY ($1)
                UNION
                SELECT id, email_key FROM users WHERE email_key = ANY ($2)";
            let ids: Vec<_> = ids.iter().map(UserId::as_str).collect();
            db.all(sql, &[&ids, &email_keys], record::id_and_key).await
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
        let done = self
            .in_tx("import_accounts", |db| async move {
                // First of all: whoever else goes on with this import waits for the row here.
                if !db.advance_import(rows_before, progress, now).await? {
                    return Ok(ImportBatch::Overtaken);
                }
                db.insert_accounts(accounts).await?;
                db.record(std::slice::from_ref(event)).await?;
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
        self.at_once("import_progress", |db| async move {
            let sql = concat!(
                "-- import_progress\nSELECT ",
                import_columns!(),
                " FROM imports AS i WHERE i.digest = $1"
            );
            db.one(sql, &[&digest.as_slice()], record::import_progress).await
        })
        .await
    }

    pub(in crate::store) async fn accounts(
        &self,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<Account>, StoreError> {
        self.at_once("accounts", |db| async move {
            let sql = concat!(
                "-- accounts\nSELECT ",
                user_columns!(),
                ", u.password_hash FROM users AS u WHERE u.id > $1 ORDER BY u.id LIMIT $2"
            );
            let after = after.map_or("", UserId::as_str);
            db.all(sql, &[&after, &i64::from(limit)], account).await
        })
        .await
    }

    pub(in crate::store) async fn forget_import(&self, digest: [u8; 32]) -> Result<(), StoreError> {
        self.at_once("forget_import", |db| async move {
            let sql = "-- forget_import\nDELETE FROM imports WHERE digest = $1";
            db.run(sql, &[&digest.as_slice()]).await.map(drop)
        })
        .await
    }
}

impl Db {
    /// Whether the import was as far as `rows_before`.
    async fn advance_import(
        &self,
        rows_before: u64,
        progress: &ImportProgress,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let sql = if rows_before == 0 {
            "-- advance_import: begin
             INSERT INTO imports (digest, file, rows_done, imported, already_there, refused,
                 error_bytes, started_at, updated_at, finished_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (digest) DO NOTHING"
        } else {
            "-- advance_import
             UPDATE imports
             SET file = $2, rows_done = $3, imported = $4, already_there = $5, refused = $6,
                 error_bytes = $7, started_at = $8, updated_at = $9, finished_at = $10
             WHERE digest = $1 AND rows_done = $11"
        };
        let [rows_done, imported, already_there, refused, error_bytes] = progress.numbers();
        let before = column(rows_before);
        let digest = progress.digest.as_slice();
        let started_at = whole_micros(progress.started_at);
        let finished_at = progress.finished_at.map(whole_micros);
        let now = whole_micros(now);
        let all: [super::Param<'_>; 11] = [
            &digest,
            &progress.file,
            &rows_done,
            &imported,
            &already_there,
            &refused,
            &error_bytes,
            &started_at,
            &now,
            &finished_at,
            &before,
        ];
        let params = if rows_before == 0 { &all[..10] } else { &all[..] };
        Ok(self.run(sql, params).await? > 0)
    }

    async fn insert_accounts(&self, accounts: &[ImportedAccount]) -> Result<(), Fault> {
        if accounts.is_empty() {
            return Ok(());
        }
        // One statement for all: the time goes into the indexes, not into answers.
        let sql = "-- insert_accounts
            INSERT INTO users (id, email, email_key, email_confirmed_at, password_hash,
                password_class, roles, app_metadata, user_metadata, last_sign_in_at,
                disabled_until, created_at, updated_at, invited_at)
            SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[],
                $5::text[], $6::text[], $7::jsonb[], $8::jsonb[], $9::jsonb[],
                $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[],
                $14::timestamptz[])";
        let new = || accounts.iter().map(|one| &one.account);
        let users = || new().map(|new| &new.user);
        let times = |time: fn(&User) -> Option<Timestamp>| -> Vec<_> {
            users().map(|user| time(user).map(whole_micros)).collect()
        };
        let objects = |object: fn(&User) -> &JsonObject| -> Vec<_> {
            users().map(|user| Value::Object(storable(object(user)))).collect()
        };
        let ids: Vec<_> = users().map(|user| user.id.as_str()).collect();
        let emails: Vec<_> = new().map(|new| new.email.address()).collect();
        let keys: Vec<_> = new().map(|new| new.email.key()).collect();
        let hashes: Vec<_> =
            new().map(|new| new.password_hash.as_ref().map(|hash| hash.0.as_str())).collect();
        let classes: Vec<_> = accounts.iter().map(|one| one.class.as_deref()).collect();
        let roles: Vec<_> = users().map(|user| Value::from(sorted_roles(&user.roles))).collect();
        self.run(
            sql,
            &[
                &ids,
                &emails,
                &keys,
                &times(|user| user.email_confirmed_at),
                &hashes,
                &classes,
                &roles,
                &objects(|user| &user.app_metadata),
                &objects(|user| &user.user_metadata),
                &times(|user| user.last_sign_in_at),
                &times(|user| user.disabled_until),
                &times(|user| Some(user.created_at)),
                &times(|user| Some(user.updated_at)),
                &times(|user| user.invited_at),
            ],
        )
        .await?;
        Ok(())
    }
}

fn is_taken(cause: &Cause) -> bool {
    let error = cause.downcast_ref::<tokio_postgres::Error>();
    error.is_some_and(|error| error.code() == Some(&SqlState::UNIQUE_VIOLATION))
}
