//! Deletion on PostgreSQL.

use jiff::Timestamp;

use super::{Db, Fault, Param, Postgres};
use crate::model::{EndReason, EndedSession, Event, Session, UserId};
use crate::store::admin::Deletion;
use crate::store::cases::Sessions;
use crate::store::erasure::Erasure;
use crate::store::error::StoreError;
use crate::store::guards::account_digest;
use crate::store::record::{self, session_columns};
use crate::store::rules::{
    ERASE_BATCH, KEEP_ERASURE, LATE, after, before, no_address, pseudonym, whole_micros,
};

/// The network of `e.address`, as an address.
macro_rules! reduced {
    () => {
        "set_masklen(
             network(set_masklen(e.address, CASE family(e.address) WHEN 4 THEN 24 ELSE 48 END))::inet,
             CASE family(e.address) WHEN 4 THEN 32 ELSE 128 END)"
    };
}

impl Postgres {
    pub(in crate::store) async fn delete_user(
        &self,
        user: &UserId,
        deletion: Deletion,
        now: Timestamp,
        event: &Event,
    ) -> Result<Option<Vec<EndedSession>>, StoreError> {
        self.in_tx("delete_user", |db| async move {
            let pseudonym = pseudonym();
            let Some(ended) = db.forget(user, deletion, &pseudonym, now).await? else {
                return Ok(None);
            };
            match deletion {
                Deletion::Hard => {
                    let sql = "-- delete_user\nDELETE FROM users WHERE id = $1";
                    db.run(sql, &[&user.as_str()]).await?;
                }
                Deletion::Soft => db.empty_user(user, &no_address(), now).await?,
            }
            db.record(std::slice::from_ref(event)).await?;
            Ok(Some(ended))
        })
        .await
    }

    pub(in crate::store) async fn erase(&self, now: Timestamp) -> Result<u64, StoreError> {
        let erasures = self
            .at_once("erase: read", |db| async move {
                let sql = "-- erase: read
                    SELECT pseudonym, user_id, email, requested_at
                    FROM erasures ORDER BY requested_at";
                db.all(sql, &[], record::erasure).await
            })
            .await?;
        let mut rewritten = 0;
        for erasure in &erasures {
            rewritten += self.rewrite_events(erasure).await?;
            if erasure.requested_at < before(now, KEEP_ERASURE) {
                let pseudonym = &erasure.pseudonym;
                self.at_once("erase: done", |db| async move {
                    let sql = "-- erase: done\nDELETE FROM erasures WHERE pseudonym = $1";
                    db.run(sql, &[pseudonym]).await
                })
                .await?;
            }
        }
        Ok(rewritten)
    }

    async fn rewrite_events(&self, erasure: &Erasure) -> Result<u64, StoreError> {
        let Erasure { pseudonym, user_id, email, requested_at } = erasure;
        let (late, at) = (&after(*requested_at, LATE), &whole_micros(*requested_at));
        let batch = &i64::from(ERASE_BATCH);
        let by_user: &[Param<'_>] = &[user_id, pseudonym, late, batch];
        let by_email: &[Param<'_>] = &[email, at, batch];
        let mut rewritten = 0;
        for (sql, params) in [
            (
                concat!(
                    "-- erase: of the user
                     WITH batch AS (
                         SELECT at, id FROM auth_events WHERE user_id = $1 AND at <= $3 LIMIT $4
                     )
                     UPDATE auth_events AS e
                     SET user_id = $2, email = NULL, user_agent = NULL, address = ",
                    reduced!(),
                    ", actor = CASE WHEN e.actor = $1 THEN $2 ELSE e.actor END
                     FROM batch WHERE e.at = batch.at AND e.id = batch.id"
                ),
                by_user,
            ),
            (
                concat!(
                    "-- erase: by the user
                     WITH batch AS (
                         SELECT at, id FROM auth_events WHERE actor = $1 AND at <= $3 LIMIT $4
                     )
                     UPDATE auth_events AS e SET actor = $2, user_agent = NULL, address = ",
                    reduced!(),
                    " FROM batch WHERE e.at = batch.at AND e.id = batch.id"
                ),
                by_user,
            ),
            (
                concat!(
                    "-- erase: at the address
                     WITH batch AS (
                         SELECT at, id FROM auth_events
                         WHERE lower(email) = lower($1) AND user_id IS NULL AND at <= $2 LIMIT $3
                     )
                     UPDATE auth_events AS e SET email = NULL, user_agent = NULL, address = ",
                    reduced!(),
                    " FROM batch WHERE e.at = batch.at AND e.id = batch.id"
                ),
                by_email,
            ),
        ] {
            loop {
                let count =
                    self.at_once("erase", |db| async move { db.run(sql, params).await }).await?;
                rewritten += count;
                if count < u64::from(ERASE_BATCH) {
                    break;
                }
            }
        }
        Ok(rewritten)
    }

    pub(in crate::store) async fn kept_sessions_of(
        &self,
        user: &UserId,
    ) -> Result<Vec<Session>, StoreError> {
        self.at_once("kept_sessions_of", |db| async move {
            let sql = concat!(
                "-- kept_sessions_of\nSELECT ",
                session_columns!(),
                " FROM sessions AS s WHERE s.user_id = $1 ORDER BY s.created_at DESC, s.id DESC"
            );
            db.all(sql, &[&user.as_str()], |row| record::session(row, 0)).await
        })
        .await
    }
}

impl Db {
    /// Leaves nothing of a user in the row but the id.
    async fn empty_user(&self, user: &UserId, address: &str, now: Timestamp) -> Result<(), Fault> {
        let sql = "-- empty_user
            UPDATE users
            SET email = $2, email_key = $2, email_confirmed_at = NULL, password_hash = NULL,
                password_class = NULL, roles = '[]', app_metadata = '{}', user_metadata = '{}',
                last_sign_in_at = NULL, disabled_until = NULL, invited_at = NULL,
                new_email = NULL, new_email_key = NULL, new_email_at = NULL,
                new_email_agreed = NULL, made_by_letter_at = NULL, deleted_at = $3,
                updated_at = greatest(updated_at, $3)
            WHERE id = $1";
        self.run(sql, &[&user.as_str(), &address, &whole_micros(now)]).await?;
        Ok(())
    }

    /// Takes what goes with an account at once, and notes what is to be done later. `None` = no such
    /// user.
    async fn forget(
        &self,
        user: &UserId,
        deletion: Deletion,
        pseudonym: &str,
        now: Timestamp,
    ) -> Result<Option<Vec<EndedSession>>, Fault> {
        let sql = "-- forget: lock
            SELECT email, email_key FROM users
            WHERE id = $1 AND ($2 OR deleted_at IS NULL) FOR UPDATE";
        // What was emptied before can still go for good.
        let again = deletion == Deletion::Hard;
        let found = self.one(sql, &[&user.as_str(), &again], record::address_and_key).await?;
        let Some((email, key)) = found else { return Ok(None) };
        let now = whole_micros(now);
        let ended = self.end_sessions(user, Sessions::All, EndReason::Deleted, now).await?;
        // Refresh tokens go with the sessions; revocations stay.
        let sql = "-- forget: sessions\nDELETE FROM sessions WHERE user_id = $1";
        self.run(sql, &[&user.as_str()]).await?;
        // Where the row stays, nothing else takes them along.
        let sql = "-- forget: api_keys\nDELETE FROM api_keys WHERE user_id = $1";
        self.run(sql, &[&user.as_str()]).await?;
        let sql = "-- forget: factors\nDELETE FROM factors WHERE user_id = $1";
        self.run(sql, &[&user.as_str()]).await?;
        let sql = "-- forget: recovery_codes\nDELETE FROM recovery_codes WHERE user_id = $1";
        self.run(sql, &[&user.as_str()]).await?;
        self.delete_links(user, &[]).await?;
        let sql = "-- forget: outbox
            DELETE FROM outbox
            WHERE payload ->> 'user_id' = $1 OR lower(payload ->> 'email') = lower($2)";
        self.run(sql, &[&user.as_str(), &email]).await?;
        let account = account_digest(&key);
        let sql = "-- forget: login_guards\nDELETE FROM login_guards WHERE account = $1";
        self.run(sql, &[&&account[..]]).await?;
        let sql = "-- forget: sign_up_attempts\nDELETE FROM sign_up_attempts WHERE account = $1";
        self.run(sql, &[&&account[..]]).await?;
        let sql = "-- forget: later
            INSERT INTO erasures (pseudonym, user_id, email, requested_at) VALUES ($1, $2, $3, $4)";
        self.run(sql, &[&pseudonym, &user.as_str(), &email, &now]).await?;
        Ok(Some(ended))
    }
}
