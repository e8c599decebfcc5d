//! Administration of accounts on SQLite.

use jiff::Timestamp;
use rusqlite::{Row, params};
use serde_json::Value;

use super::links::CHANGE_OF_ADDRESS;
use super::record::user_columns;
use super::{Db, Fault, Sqlite, micros};
use crate::model::{Email, Event, UserId};
use crate::store::admin::{ChangeUser, UserChange, UserPage};
use crate::store::cases::Sessions;
use crate::store::error::StoreError;
use crate::store::record;
use crate::store::rules::{Planned, plan, whole_micros};

impl Sqlite {
    pub(in crate::store) async fn user_page(
        &self,
        filter: Option<&str>,
        after: u64,
        limit: u32,
    ) -> Result<UserPage, StoreError> {
        let filter = filter.map(str::to_owned);
        self.read("user_page", move |db| {
            let folded = filter.as_ref().map(|text| text.to_lowercase());
            let sql = "-- user_page: all
                SELECT count(*) FROM users AS u
                WHERE ?1 IS NULL OR instr(u.id, ?1) > 0 OR instr(u.email_key, ?2) > 0";
            let count = |row: &Row<'_>| record::count(row, "users", 0);
            let total = db.one(sql, params![filter, folded], count)?.unwrap_or(0);
            let sql = concat!(
                "-- user_page\nSELECT ",
                user_columns!(),
                " FROM users AS u
                 WHERE ?1 IS NULL OR instr(u.id, ?1) > 0 OR instr(u.email_key, ?2) > 0
                 ORDER BY u.created_at DESC, u.id DESC LIMIT ?4 OFFSET ?3"
            );
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            let users =
                db.all(sql, params![filter, folded, after, limit], |row| record::user(row, 0))?;
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
        let (user, change, event) = (user.clone(), change.clone(), event.clone());
        let now = whole_micros(now);
        self.in_tx("change_user", move |db| {
            let old = db.user(&user)?.filter(|old| old.deleted_at.is_none());
            let Some(old) = old else { return Ok(ChangeUser::NotFound) };
            let Some(planned) = plan(&old, &change, now, &event) else {
                return Ok(ChangeUser::MetadataTooLarge);
            };
            if planned.events.is_empty() {
                return Ok(ChangeUser::Done { user: Box::new(old), ended: Vec::new() });
            }
            if !db.write_change(&planned, &change, now)? {
                return Ok(ChangeUser::EmailTaken);
            }
            if planned.voids_links {
                db.delete_links(&user, &[])?;
                db.set_new_email(&user, None, now)?;
            }
            if change.new_email.is_some() {
                db.delete_links(&user, &CHANGE_OF_ADDRESS)?;
                db.set_new_email(&user, change.new_email.as_ref(), now)?;
            }
            let mut ended = Vec::new();
            if let Some(reason) = planned.ends {
                ended = db.end_sessions(&user, Sessions::All, reason, now)?;
            }
            db.record(&planned.events)?;
            let changed = db.user(&user)?.unwrap_or(planned.user);
            Ok(ChangeUser::Done { user: Box::new(changed), ended })
        })
        .await
    }
}

impl Db<'_> {
    /// Whether no other account has the address.
    fn write_change(
        self,
        planned: &Planned,
        change: &UserChange,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let sql = "-- change_user
            UPDATE users
            SET email = ?2, email_key = coalesce(?3, email_key), email_confirmed_at = ?4,
                made_by_letter_at = CASE WHEN ?4 IS NULL THEN made_by_letter_at END,
                password_hash = coalesce(?5, password_hash),
                password_class = CASE WHEN ?5 IS NULL THEN password_class END,
                roles = ?6, app_metadata = ?7, user_metadata = ?8, disabled_until = ?9,
                updated_at = max(updated_at, ?10)
            WHERE id = ?1 AND NOT EXISTS (
                SELECT 1 FROM users AS other WHERE other.email_key = ?3 AND other.id <> ?1)";
        let user = &planned.user;
        let params = params![
            user.id.as_str(),
            user.email,
            change.email.as_ref().map(Email::key),
            user.email_confirmed_at.map(micros),
            change.password.as_ref().map(|hash| hash.0.as_str()),
            Value::from(user.roles.clone()).to_string(),
            Value::Object(user.app_metadata.clone()).to_string(),
            Value::Object(user.user_metadata.clone()).to_string(),
            user.disabled_until.map(micros),
            micros(now),
        ];
        Ok(self.run(sql, params)? > 0)
    }
}
