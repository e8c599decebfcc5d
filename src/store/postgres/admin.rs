//! Administration of accounts on PostgreSQL.

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::links::CHANGE_OF_ADDRESS;
use super::record::user_columns;
use super::{Db, Fault, Param, Postgres};
use crate::model::{Event, User, UserId};
use crate::store::admin::{ChangeUser, UserChange, UserPage};
use crate::store::cases::Sessions;
use crate::store::error::StoreError;
use crate::store::record;
use crate::store::rules::{Planned, plan, whole_micros};

impl Postgres {
    pub(in crate::store) async fn user_page(
        &self,
        filter: Option<&str>,
        after: u64,
        limit: u32,
    ) -> Result<UserPage, StoreError> {
        self.on_snapshot("user_page", |db| async move {
            let folded = filter.map(str::to_lowercase);
            let sql = "-- user_page: all
                SELECT count(*) FROM users AS u
                WHERE $1::text IS NULL OR strpos(u.id, $1) > 0 OR strpos(u.email_key, $2) > 0";
            let count = |row: &Row| record::count(row, "users", 0);
            let total = db.one(sql, &[&filter, &folded], count).await?.unwrap_or(0);
            let sql = concat!(
                "-- user_page\nSELECT ",
                user_columns!(),
                " FROM users AS u
                 WHERE $1::text IS NULL OR strpos(u.id, $1) > 0 OR strpos(u.email_key, $2) > 0
                 ORDER BY u.created_at DESC, u.id DESC OFFSET $3 LIMIT $4"
            );
            let (after, limit) = (i64::try_from(after).unwrap_or(i64::MAX), i64::from(limit));
            let params: &[Param<'_>] = &[&filter, &folded, &after, &limit];
            let users = db.all(sql, params, |row| record::user(row, 0)).await?;
            Ok(UserPage { users, total: u64::try_from(total).unwrap_or(0) })
        })
        .await
    }

    pub(in crate::store) async fn change_user(
        &self,
        user: &UserId,
        change: &UserChange,
        now: Timestamp,
        event: &Event,
    ) -> Result<ChangeUser, StoreError> {
        self.in_tx("change_user", |db| async move {
            if !db.lock_user(user).await? {
                return Ok(ChangeUser::NotFound);
            }
            let old = db.user(user).await?.filter(|old| old.deleted_at.is_none());
            let Some(old) = old else { return Ok(ChangeUser::NotFound) };
            let now = whole_micros(now);
            let Some(planned) = plan(&old, change, now, event) else {
                return Ok(ChangeUser::MetadataTooLarge);
            };
            if planned.events.is_empty() {
                return Ok(ChangeUser::Done { user: Box::new(old), ended: Vec::new() });
            }
            let Some(changed) = db.write_change(&planned, change, now).await? else {
                return Ok(ChangeUser::EmailTaken);
            };
            if planned.voids_links {
                db.delete_links(user, &[]).await?;
                db.set_new_email(user, None, now).await?;
            }
            if change.new_email.is_some() {
                db.delete_links(user, &CHANGE_OF_ADDRESS).await?;
                db.set_new_email(user, change.new_email.as_ref(), now).await?;
            }
            let mut ended = Vec::new();
            if let Some(reason) = planned.ends {
                ended = db.end_sessions(user, Sessions::All, reason, now).await?;
            }
            db.record(&planned.events).await?;
            let user = db.user(user).await?.unwrap_or(changed);
            Ok(ChangeUser::Done { user: Box::new(user), ended })
        })
        .await
    }
}

impl Db {
    /// `None`: another account has the address.
    async fn write_change(
        &self,
        planned: &Planned,
        change: &UserChange,
        now: Timestamp,
    ) -> Result<Option<User>, Fault> {
        let sql = concat!(
            "-- change_user
             UPDATE users AS u
             SET email = $2, email_key = coalesce($3, u.email_key), email_confirmed_at = $4,
                 made_by_letter_at = CASE WHEN $4::timestamptz IS NULL THEN u.made_by_letter_at END,
                 password_hash = coalesce($5, u.password_hash),
                 password_class = CASE WHEN $5::text IS NULL THEN u.password_class END,
                 roles = $6, app_metadata = $7, user_metadata = $8, disabled_until = $9,
                 updated_at = greatest(u.updated_at, $10)
             WHERE u.id = $1 RETURNING ",
            user_columns!()
        );
        let user = &planned.user;
        let params: &[Param<'_>] = &[
            &user.id.as_str(),
            &user.email,
            &change.email.as_ref().map(crate::model::Email::key),
            &user.email_confirmed_at.map(whole_micros),
            &change.password.as_ref().map(|hash| hash.0.as_str()),
            &Value::from(user.roles.clone()),
            &Value::Object(user.app_metadata.clone()),
            &Value::Object(user.user_metadata.clone()),
            &user.disabled_until.map(whole_micros),
            &now,
        ];
        self.unless_taken(self.one(sql, params, |row| record::user(row, 0))).await
    }

    /// Runs a statement that gives a user an address. `None`: another account has it. Somebody may
    /// take it at this moment, which fails the statement, and without the savepoint the whole
    /// transaction.
    pub(super) async fn unless_taken<T>(
        &self,
        statement: impl Future<Output = Result<Option<T>, Fault>>,
    ) -> Result<Option<T>, Fault> {
        self.client().batch_execute("SAVEPOINT unless_taken").await?;
        match statement.await {
            Err(Fault::Sql(error)) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                self.client().batch_execute("ROLLBACK TO SAVEPOINT unless_taken").await?;
                Ok(None)
            }
            result => result,
        }
    }
}
