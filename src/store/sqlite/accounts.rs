//! Accounts on SQLite. There is one writer at a time, so a transaction needs no locks of its own.

use jiff::Timestamp;
use rusqlite::{Row, params};
use serde_json::Value;

use super::links::CHANGE_OF_ADDRESS;
use super::record::user_columns;
use super::{Db, Fault, Sqlite, micros};
use crate::model::{
    Account, Email, EndReason, Event, PasswordHash, Purpose, SessionId, User, UserId,
};
use crate::store::cases::{LogIn, NewAccount, NewLogin, Sessions, SignUp, UpdateUser, UserUpdate};
use crate::store::error::StoreError;
use crate::store::record::{self, USER_WIDTH};
use crate::store::rules::{is_nonce, merged_metadata, sorted_roles, storable, trimmed_event};

impl Sqlite {
    pub(in crate::store) async fn sign_up(
        &self,
        new: &NewAccount,
        login: Option<&NewLogin>,
        event: &Event,
    ) -> Result<SignUp, StoreError> {
        let (new, login, event) = (new.clone(), login.cloned(), event.clone());
        self.in_tx("sign_up", move |db| {
            if !db.insert_user(&new, login.as_ref())? {
                let sql = "-- sign_up\nSELECT 1 FROM users WHERE email_key = ?1";
                let taken = db.one(sql, [new.email.key()], |_| Ok(()))?;
                return Ok(if taken.is_some() { SignUp::EmailTaken } else { SignUp::IdTaken });
            }
            if let Some(login) = &login {
                login.fit.check(&new.user, &login.session)?;
                db.insert_login(login)?;
            }
            db.record(&[event])?;
            Ok(SignUp::Created)
        })
        .await
    }

    pub(in crate::store) async fn account_by_email(
        &self,
        email: &Email,
    ) -> Result<Option<Account>, StoreError> {
        let key = email.key().to_owned();
        self.read("account_by_email", move |db| {
            let sql = concat!(
                "-- account_by_email\nSELECT ",
                user_columns!(),
                ", u.password_hash FROM users AS u WHERE u.email_key = ?1"
            );
            db.one(sql, [key], account)
        })
        .await
    }

    pub(in crate::store) async fn account_by_id(
        &self,
        user: &UserId,
    ) -> Result<Option<Account>, StoreError> {
        let user = user.clone();
        self.read("account_by_id", move |db| db.account(&user)).await
    }

    pub(in crate::store) async fn user(&self, user: &UserId) -> Result<Option<User>, StoreError> {
        let user = user.clone();
        self.read("user", move |db| db.user(&user)).await
    }

    pub(in crate::store) async fn users(
        &self,
        filter: Option<&str>,
        limit: u32,
        after: Option<&UserId>,
    ) -> Result<Vec<User>, StoreError> {
        let (filter, after) = (filter.map(str::to_owned), after.cloned());
        self.read("users", move |db| {
            let sql = concat!(
                "-- users\nSELECT ",
                user_columns!(),
                " FROM users AS u
                 WHERE (?1 IS NULL OR instr(u.id, ?1) > 0 OR instr(u.email_key, ?2) > 0)
                   AND (?3 IS NULL OR u.id > ?3)
                 ORDER BY u.id LIMIT ?4"
            );
            let folded = filter.as_ref().map(|text| text.to_lowercase());
            let after = after.as_ref().map(UserId::as_str);
            db.all(sql, params![filter, folded, after, limit], |row| record::user(row, 0))
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
        let (user, checked, rehashed) = (user.clone(), checked.clone(), rehashed.cloned());
        let (login, event) = (login.clone(), event.clone());
        self.in_tx("log_in", move |db| {
            let sql = "-- log_in
                UPDATE users
                SET last_sign_in_at = max(coalesce(last_sign_in_at, ?3), ?3),
                    password_hash = coalesce(?4, password_hash),
                    password_class = CASE WHEN ?4 IS NULL THEN password_class END
                WHERE id = ?1 AND password_hash = ?2
                  AND (disabled_until IS NULL OR disabled_until <= ?3)";
            let now = micros(login.session.created_at);
            let rehashed = rehashed.as_ref().map(|hash| hash.0.as_str());
            if db.run(sql, params![user.as_str(), checked.0, now, rehashed])? == 0 {
                return Ok(LogIn::Refused);
            }
            let ended = db.insert_login(&login)?;
            let trimmed = (!ended.is_empty()).then(|| trimmed_event(&event, &login));
            db.record(&[event])?;
            db.record(trimmed.as_slice())?;
            let Some(user) = db.user(&user)? else { return Ok(LogIn::Refused) };
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
        let (user, password) = (user.clone(), password.clone());
        let (login, event) = (login.clone(), event.clone());
        self.in_tx("move_in", move |db| {
            let sql = "-- move_in
                UPDATE users
                SET last_sign_in_at = max(coalesce(last_sign_in_at, ?3), ?3),
                    email_confirmed_at = coalesce(email_confirmed_at, ?3),
                    password_hash = ?2, password_class = NULL,
                    updated_at = max(updated_at, ?3)
                WHERE id = ?1 AND password_hash IS NULL AND deleted_at IS NULL
                  AND (disabled_until IS NULL OR disabled_until <= ?3)";
            let now = micros(login.session.created_at);
            if db.run(sql, params![user.as_str(), password.0, now])? == 0 {
                return Ok(LogIn::Refused);
            }
            db.delete_links(&user, &[])?;
            let ended = db.insert_login(&login)?;
            let trimmed = (!ended.is_empty()).then(|| trimmed_event(&event, &login));
            db.record(&[event])?;
            db.record(trimmed.as_slice())?;
            let Some(user) = db.user(&user)? else { return Ok(LogIn::Refused) };
            login.fit.check(&user, &login.session)?;
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
        let (user, update, events) = (user.clone(), update.clone(), events.to_vec());
        self.in_tx("update_user", move |db| {
            let found = db.account(&user)?.filter(|found| found.user.deleted_at.is_none());
            let Some(Account { user: old, password_hash }) = found else {
                return Ok(UpdateUser::NotFound);
            };
            // Another gateway may have ended it a moment ago, and what is done here stays.
            if !db.session_runs(&user, update.keep_session)? {
                return Ok(UpdateUser::NotFound);
            }
            if let Some((_, Some(expected))) = &update.new_password
                && password_hash.as_ref() != Some(expected)
            {
                return Ok(UpdateUser::PasswordChangedMeanwhile);
            }
            let Some(metadata) = merged_metadata(&old.user_metadata, &update) else {
                return Ok(UpdateUser::MetadataTooLarge);
            };
            if (update.new_password.is_some() || update.new_email.is_some())
                && db.lacks_second_factor(&user, &update)?
            {
                return Ok(UpdateUser::NeedsAal2);
            }
            if let Some(code) = &update.nonce {
                let link = db.link_of(&user, Purpose::Reauthentication)?;
                match link.filter(|link| is_nonce(link, update.keep_session, code, now)) {
                    Some(link) => db.delete_link(&link)?,
                    None => return Ok(UpdateUser::NonceRefused),
                }
            }
            let mut ended = Vec::new();
            if update.new_password.is_some() {
                if update.sign_out_others {
                    let others = Sessions::Others(update.keep_session);
                    ended = db.end_sessions(&user, others, EndReason::PasswordChanged, now)?;
                }
                // Whoever can read the mail, or asked for another address, may be why.
                db.delete_links(&user, &[])?;
                db.set_new_email(&user, None, now)?;
            }
            if let Some(new) = &update.new_email {
                db.delete_links(&user, &CHANGE_OF_ADDRESS)?;
                db.set_new_email(&user, Some(new), now)?;
            }
            let sql = "-- update_user
                UPDATE users
                SET user_metadata = ?2, password_hash = coalesce(?3, password_hash),
                    password_class = CASE WHEN ?3 IS NULL THEN password_class END,
                    updated_at = max(updated_at, ?4)
                WHERE id = ?1";
            let password = update.new_password.as_ref().map(|(new, _)| new.0.as_str());
            let metadata = Value::Object(metadata).to_string();
            db.run(sql, params![user.as_str(), metadata, password, micros(now)])?;
            db.post(&update.parcels)?;
            db.record(&events)?;
            let changed = db.user(&user)?;
            Ok(changed.map_or(UpdateUser::NotFound, |user| UpdateUser::Done { user, ended }))
        })
        .await
    }
}

impl Db<'_> {
    pub(super) fn user(self, user: &UserId) -> Result<Option<User>, Fault> {
        let sql = concat!("-- user\nSELECT ", user_columns!(), " FROM users AS u WHERE u.id = ?1");
        self.one(sql, [user.as_str()], |row| record::user(row, 0))
    }

    fn account(self, user: &UserId) -> Result<Option<Account>, Fault> {
        let sql = concat!(
            "-- account_by_id\nSELECT ",
            user_columns!(),
            ", u.password_hash FROM users AS u WHERE u.id = ?1"
        );
        self.one(sql, [user.as_str()], account)
    }

    /// Whether the session is the user's and has not been ended.
    fn session_runs(self, user: &UserId, session: SessionId) -> Result<bool, Fault> {
        let sql = "-- session_runs
            SELECT 1 FROM sessions WHERE id = ?1 AND user_id = ?2 AND ended_at IS NULL";
        Ok(self.one(sql, params![session, user.as_str()], |_| Ok(()))?.is_some())
    }

    /// Whether id and address were free.
    fn insert_user(self, new: &NewAccount, login: Option<&NewLogin>) -> Result<bool, Fault> {
        let sql = "-- insert_user
            INSERT INTO users (id, email, email_key, email_confirmed_at, password_hash, roles,
                app_metadata, user_metadata, last_sign_in_at, disabled_until, created_at,
                updated_at, invited_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
            ON CONFLICT DO NOTHING";
        let user = &new.user;
        let last_sign_in_at = login.map(|l| l.session.created_at).or(user.last_sign_in_at);
        let inserted = self.run(
            sql,
            params![
                user.id.as_str(),
                new.email.address(),
                new.email.key(),
                user.email_confirmed_at.map(micros),
                new.password_hash.as_ref().map(|hash| hash.0.as_str()),
                Value::from(sorted_roles(&user.roles)).to_string(),
                Value::Object(storable(&user.app_metadata)).to_string(),
                Value::Object(storable(&user.user_metadata)).to_string(),
                last_sign_in_at.map(micros),
                user.disabled_until.map(micros),
                micros(user.created_at),
                micros(user.updated_at),
                user.invited_at.map(micros),
            ],
        )?;
        Ok(inserted > 0)
    }
}

pub(super) fn account(row: &Row<'_>) -> Result<Account, StoreError> {
    Ok(Account {
        user: record::user(row, 0)?,
        password_hash: record::password_hash(row, 0, USER_WIDTH)?.map(PasswordHash),
    })
}
