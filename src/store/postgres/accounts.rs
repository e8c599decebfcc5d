//! Accounts on PostgreSQL. Whatever lets a session begin or ends all of a user's locks the user's
//! row first, so that a login cannot slip between the two halves of a disabling.

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;

use super::links::CHANGE_OF_ADDRESS;
use super::record::user_columns;
use super::{Db, Fault, Postgres};
use crate::model::{
    Account, Email, EndReason, Event, PasswordHash, Purpose, SessionId, User, UserId,
};
use crate::store::cases::{LogIn, NewAccount, NewLogin, Sessions, SignUp, UpdateUser, UserUpdate};
use crate::store::error::StoreError;
use crate::store::record::{self, USER_WIDTH};
use crate::store::rules::{
    is_nonce, merged_metadata, sorted_roles, storable, trimmed_event, whole_micros,
};

impl Postgres {
    pub(in crate::store) async fn sign_up(
        &self,
        new: &NewAccount,
        login: Option<&NewLogin>,
        event: &Event,
    ) -> Result<SignUp, StoreError> {
        self.in_tx("sign_up", |db| async move {
            if !db.insert_user(new, login).await? {
                // The other transaction is over, or the insert would have waited for it.
                let taken = db
                    .run("-- sign_up\nSELECT FROM users WHERE email_key = $1", &[&new.email.key()])
                    .await?;
                return Ok(if taken > 0 { SignUp::EmailTaken } else { SignUp::IdTaken });
            }
            if let Some(login) = login {
                login.fit.check(&new.user, &login.session)?;
                db.insert_login(login).await?;
            }
            db.record(std::slice::from_ref(event)).await?;
            Ok(SignUp::Created)
        })
        .await
    }

    pub(in crate::store) async fn account_by_email(
        &self,
        email: &Email,
    ) -> Result<Option<Account>, StoreError> {
        self.at_once("account_by_email", |db| async move {
            let sql = concat!(
                "-- account_by_email\nSELECT ",
                user_columns!(),
                ", u.password_hash FROM users AS u WHERE u.email_key = $1"
            );
            db.one(sql, &[&email.key()], account).await
        })
        .await
    }

    pub(in crate::store) async fn account_by_id(
        &self,
        user: &UserId,
    ) -> Result<Option<Account>, StoreError> {
        self.at_once("account_by_id", |db| async move {
            let sql = concat!(
                "-- account_by_id\nSELECT ",
                user_columns!(),
                ", u.password_hash FROM users AS u WHERE u.id = $1"
            );
            db.one(sql, &[&user.as_str()], account).await
        })
        .await
    }

    pub(in crate::store) async fn user(&self, user: &UserId) -> Result<Option<User>, StoreError> {
        self.at_once("user", |db| async move { db.user(user).await }).await
    }

    pub(in crate::store) async fn users(
        &self,
        filter: Option<&str>,
        limit: u32,
        after: Option<&UserId>,
    ) -> Result<Vec<User>, StoreError> {
        self.at_once("users", |db| async move {
            let sql = concat!(
                "-- users\nSELECT ",
                user_columns!(),
                " FROM users AS u
                 WHERE ($1::text IS NULL OR strpos(u.id, $1) > 0 OR strpos(u.email_key, $2) > 0)
                   AND ($3::text IS NULL OR u.id > $3)
                 ORDER BY u.id LIMIT $4"
            );
            let folded = filter.map(str::to_lowercase);
            let after = after.map(UserId::as_str);
            let limit = i64::from(limit);
            db.all(sql, &[&filter, &folded, &after, &limit], |row| record::user(row, 0)).await
        })
        .await
    }

    pub(in crate::store) async fn log_in(
        &self,
        user: &UserId,
        checked: &PasswordHash,
        rehashed: Option<&PasswordHash>,
        login: &NewLogin,
        event: &Event,
    ) -> Result<LogIn, StoreError> {
        self.in_tx("log_in", |db| async move {
            // The conditions are evaluated again after a wait for the row's lock.
            let sql = "-- log_in
                UPDATE users AS u
                SET last_sign_in_at = greatest(u.last_sign_in_at, $3),
                    password_hash = coalesce($4, u.password_hash),
                    password_class = CASE WHEN $4 IS NULL THEN u.password_class END
                WHERE u.id = $1 AND u.password_hash = $2
                  AND (u.disabled_until IS NULL OR u.disabled_until <= $3)";
            let now = whole_micros(login.session.created_at);
            let rehashed = rehashed.map(|hash| hash.0.as_str());
            let params: &[super::Param<'_>] = &[&user.as_str(), &checked.0, &now, &rehashed];
            if db.run(sql, params).await? == 0 {
                return Ok(LogIn::Refused);
            }
            let ended = db.insert_login(login).await?;
            db.record(std::slice::from_ref(event)).await?;
            if !ended.is_empty() {
                db.record(&[trimmed_event(event, login)]).await?;
            }
            // The list of factors decides whether the session is worth anything yet.
            let Some(user) = db.user(user).await? else { return Ok(LogIn::Refused) };
            login.fit.check(&user, &login.session)?;
            Ok(LogIn::Done { user, ended })
        })
        .await
    }

    pub(in crate::store) async fn move_in(
        &self,
        user: &UserId,
        password: &PasswordHash,
        login: &NewLogin,
        event: &Event,
    ) -> Result<LogIn, StoreError> {
        self.in_tx("move_in", |db| async move {
            // The conditions are evaluated again after a wait for the row's lock.
            let sql = concat!(
                "-- move_in
                 UPDATE users AS u
                 SET last_sign_in_at = greatest(u.last_sign_in_at, $3),
                     email_confirmed_at = coalesce(u.email_confirmed_at, $3),
                     password_hash = $2, password_class = NULL,
                     updated_at = greatest(u.updated_at, $3)
                 WHERE u.id = $1 AND u.password_hash IS NULL AND u.deleted_at IS NULL
                   AND (u.disabled_until IS NULL OR u.disabled_until <= $3)
                 RETURNING ",
                user_columns!()
            );
            let now = whole_micros(login.session.created_at);
            let found = db
                .one(sql, &[&user.as_str(), &password.0, &now], |row| record::user(row, 0))
                .await?;
            let Some(user) = found else { return Ok(LogIn::Refused) };
            login.fit.check(&user, &login.session)?;
            db.delete_links(&user.id, &[]).await?;
            let ended = db.insert_login(login).await?;
            db.record(std::slice::from_ref(event)).await?;
            if !ended.is_empty() {
                db.record(&[trimmed_event(event, login)]).await?;
            }
            Ok(LogIn::Done { user, ended })
        })
        .await
    }

    pub(in crate::store) async fn update_user(
        &self,
        user: &UserId,
        update: &UserUpdate,
        now: Timestamp,
        events: &[Event],
    ) -> Result<UpdateUser, StoreError> {
        self.in_tx("update_user", |db| async move {
            let sql = concat!(
                "-- update_user: lock\nSELECT ",
                user_columns!(),
                ", u.password_hash FROM users AS u
                 WHERE u.id = $1 AND u.deleted_at IS NULL FOR UPDATE"
            );
            let Some(Account { user: old, password_hash }) =
                db.one(sql, &[&user.as_str()], account).await?
            else {
                return Ok(UpdateUser::NotFound);
            };
            // Another gateway may have ended it a moment ago, and what is done here stays.
            if !db.session_runs(user, update.keep_session).await? {
                return Ok(UpdateUser::NotFound);
            }
            if let Some((_, Some(expected))) = &update.new_password
                && password_hash.as_ref() != Some(expected)
            {
                return Ok(UpdateUser::PasswordChangedMeanwhile);
            }
            let Some(metadata) = merged_metadata(&old.user_metadata, update) else {
                return Ok(UpdateUser::MetadataTooLarge);
            };
            let now = whole_micros(now);
            if (update.new_password.is_some() || update.new_email.is_some())
                && db.lacks_second_factor(user, update).await?
            {
                return Ok(UpdateUser::NeedsAal2);
            }
            if let Some(code) = &update.nonce {
                let link = db.link_of(user, Purpose::Reauthentication).await?;
                match link.filter(|link| is_nonce(link, update.keep_session, code, now)) {
                    Some(link) => db.delete_link(&link).await?,
                    None => return Ok(UpdateUser::NonceRefused),
                }
            }
            let mut ended = Vec::new();
            if update.new_password.is_some() {
                if update.sign_out_others {
                    let others = Sessions::Others(update.keep_session);
                    ended = db.end_sessions(user, others, EndReason::PasswordChanged, now).await?;
                }
                // Whoever can read the mail, or asked for another address, may be why.
                db.delete_links(user, &[]).await?;
                db.set_new_email(user, None, now).await?;
            }
            if let Some(new) = &update.new_email {
                db.delete_links(user, &CHANGE_OF_ADDRESS).await?;
                db.set_new_email(user, Some(new), now).await?;
            }
            let sql = concat!(
                "-- update_user
                 UPDATE users AS u
                 SET user_metadata = $2, password_hash = coalesce($3, u.password_hash),
                     password_class = CASE WHEN $3 IS NULL THEN u.password_class END,
                     updated_at = greatest(u.updated_at, $4)
                 WHERE u.id = $1
                 RETURNING ",
                user_columns!()
            );
            let password = update.new_password.as_ref().map(|(new, _)| new.0.as_str());
            let metadata = Value::Object(metadata);
            let changed = db
                .one(sql, &[&user.as_str(), &metadata, &password, &now], |row| record::user(row, 0))
                .await?;
            let Some(changed) = changed else { return Ok(UpdateUser::NotFound) };
            db.post(&update.parcels).await?;
            db.record(events).await?;
            Ok(UpdateUser::Done { user: changed, ended })
        })
        .await
    }
}

impl Db {
    /// The user. The list of factors is as of when the statement began, also where it waited for
    /// the user's row: under a lock, this comes after it.
    pub(super) async fn user(&self, user: &UserId) -> Result<Option<User>, Fault> {
        let sql = concat!("-- user\nSELECT ", user_columns!(), " FROM users AS u WHERE u.id = $1");
        self.one(sql, &[&user.as_str()], |row| record::user(row, 0)).await
    }

    /// Whether the user was there to be locked. One that was deleted but for its id is not.
    pub(super) async fn lock_user(&self, user: &UserId) -> Result<bool, Fault> {
        let sql = "-- lock_user
            SELECT FROM users WHERE id = $1 AND deleted_at IS NULL FOR UPDATE";
        Ok(self.run(sql, &[&user.as_str()]).await? > 0)
    }

    /// Whether the session is the user's and has not been ended.
    async fn session_runs(&self, user: &UserId, session: SessionId) -> Result<bool, Fault> {
        let sql = "-- session_runs
            SELECT FROM sessions WHERE id = $1 AND user_id = $2 AND ended_at IS NULL";
        Ok(self.run(sql, &[&session, &user.as_str()]).await? > 0)
    }

    /// Whether id and address were free.
    async fn insert_user(&self, new: &NewAccount, login: Option<&NewLogin>) -> Result<bool, Fault> {
        let sql = "-- insert_user
            INSERT INTO users (id, email, email_key, email_confirmed_at, password_hash, roles,
                app_metadata, user_metadata, last_sign_in_at, disabled_until, created_at,
                updated_at, invited_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
            ON CONFLICT DO NOTHING";
        let user = &new.user;
        let last_sign_in_at = login.map(|l| l.session.created_at).or(user.last_sign_in_at);
        let inserted = self
            .run(
                sql,
                &[
                    &user.id.as_str(),
                    &new.email.address(),
                    &new.email.key(),
                    &user.email_confirmed_at.map(whole_micros),
                    &new.password_hash.as_ref().map(|hash| hash.0.as_str()),
                    &Value::from(sorted_roles(&user.roles)),
                    &Value::Object(storable(&user.app_metadata)),
                    &Value::Object(storable(&user.user_metadata)),
                    &last_sign_in_at.map(whole_micros),
                    &user.disabled_until.map(whole_micros),
                    &whole_micros(user.created_at),
                    &whole_micros(user.updated_at),
                    &user.invited_at.map(whole_micros),
                ],
            )
            .await?;
        Ok(inserted > 0)
    }
}

pub(super) fn account(row: &Row) -> Result<Account, StoreError> {
    Ok(Account {
        user: record::user(row, 0)?,
        password_hash: record::password_hash(row, 0, USER_WIDTH)?.map(PasswordHash),
    })
}
