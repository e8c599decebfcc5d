//! Deletion on SQLite.

use jiff::Timestamp;
use rusqlite::params;

use super::{Db, Fault, Sqlite, micros};
use crate::model::{EndReason, EndedSession, Event, Session, UserId};
use crate::store::admin::Deletion;
use crate::store::cases::Sessions;
use crate::store::erasure::Erasure;
use crate::store::error::StoreError;
use crate::store::guards::account_digest;
use crate::store::record::{self, session_columns};
use crate::store::rules::{
    ERASE_BATCH, KEEP_ERASURE, LATE, after, before, no_address, pseudonym, reduced,
};

impl Sqlite {
    pub(in crate::store) async fn delete_user(
        &self,
        user: &UserId,
        deletion: Deletion,
        now: Timestamp,
        event: &Event,
    ) -> Result<Option<Vec<EndedSession>>, StoreError> {
        let (user, event) = (user.clone(), event.clone());
        self.in_tx("delete_user", move |db| {
            let pseudonym = pseudonym();
            let Some(ended) = db.forget(&user, deletion, &pseudonym, now)? else {
                return Ok(None);
            };
            match deletion {
                Deletion::Hard => {
                    let sql = "-- delete_user\nDELETE FROM users WHERE id = ?1";
                    db.run(sql, [user.as_str()])?;
                }
                Deletion::Soft => db.empty_user(&user, &no_address(), now)?,
            }
            db.record(&[event])?;
            Ok(Some(ended))
        })
        .await
    }

    pub(in crate::store) async fn erase(&self, now: Timestamp) -> Result<u64, StoreError> {
        let erasures = self
            .read("erase: read", |db| {
                let sql = "-- erase: read
                    SELECT pseudonym, user_id, email, requested_at
                    FROM erasures ORDER BY requested_at";
                db.all(sql, [], |row| record::erasure(row))
            })
            .await?;
        let mut rewritten = 0;
        for erasure in erasures {
            let is_over = erasure.requested_at < before(now, KEEP_ERASURE);
            let pseudonym = erasure.pseudonym.clone();
            rewritten += self.rewrite_events(erasure).await?;
            if is_over {
                self.in_tx("erase: done", move |db| {
                    let sql = "-- erase: done\nDELETE FROM erasures WHERE pseudonym = ?1";
                    db.run(sql, [pseudonym])
                })
                .await?;
            }
        }
        Ok(rewritten)
    }

    async fn rewrite_events(&self, erasure: Erasure) -> Result<u64, StoreError> {
        let erasure = std::sync::Arc::new(erasure);
        let mut rewritten = 0;
        for which in [
            "user_id = ?1 AND at <= ?3",
            "actor = ?1 AND at <= ?3",
            "lower(email) = lower(?2) AND user_id IS NULL AND at <= ?4",
        ] {
            loop {
                let erasure = std::sync::Arc::clone(&erasure);
                let count =
                    self.in_tx("erase", move |db| db.rewrite_some_events(&erasure, which)).await?;
                rewritten += u64::from(count);
                if count < ERASE_BATCH {
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
        let user = user.clone();
        self.read("kept_sessions_of", move |db| {
            let sql = concat!(
                "-- kept_sessions_of\nSELECT ",
                session_columns!(),
                " FROM sessions AS s WHERE s.user_id = ?1 ORDER BY s.created_at DESC, s.id DESC"
            );
            db.all(sql, [user.as_str()], |row| record::session(row, 0))
        })
        .await
    }
}

impl Db<'_> {
    /// Leaves nothing of a user in the row but the id.
    fn empty_user(self, user: &UserId, address: &str, now: Timestamp) -> Result<(), Fault> {
        let sql = "-- empty_user
            UPDATE users
            SET email = ?2, email_key = ?2, email_confirmed_at = NULL, password_hash = NULL,
                password_class = NULL, roles = '[]', app_metadata = '{}', user_metadata = '{}',
                last_sign_in_at = NULL, disabled_until = NULL, invited_at = NULL,
                new_email = NULL, new_email_key = NULL, new_email_at = NULL,
                new_email_agreed = NULL, made_by_letter_at = NULL, deleted_at = ?3,
                updated_at = max(updated_at, ?3)
            WHERE id = ?1";
        self.run(sql, params![user.as_str(), address, micros(now)])?;
        Ok(())
    }

    /// Takes what goes with an account at once, and notes what is to be done later. `None` = no such
    /// user.
    fn forget(
        self,
        user: &UserId,
        deletion: Deletion,
        pseudonym: &str,
        now: Timestamp,
    ) -> Result<Option<Vec<EndedSession>>, Fault> {
        let sql = "-- forget: look
            SELECT email, email_key FROM users WHERE id = ?1 AND (?2 OR deleted_at IS NULL)";
        // What was emptied before can still go for good.
        let again = deletion == Deletion::Hard;
        let found =
            self.one(sql, params![user.as_str(), again], |row| record::address_and_key(row))?;
        let Some((email, key)) = found else { return Ok(None) };
        let ended = self.end_sessions(user, Sessions::All, EndReason::Deleted, now)?;
        // Refresh tokens go with the sessions; revocations stay.
        let sql = "-- forget: sessions\nDELETE FROM sessions WHERE user_id = ?1";
        self.run(sql, [user.as_str()])?;
        // Where the row stays, nothing else takes them along.
        let sql = "-- forget: api_keys\nDELETE FROM api_keys WHERE user_id = ?1";
        self.run(sql, [user.as_str()])?;
        let sql = "-- forget: factors\nDELETE FROM factors WHERE user_id = ?1";
        self.run(sql, [user.as_str()])?;
        let sql = "-- forget: recovery_codes\nDELETE FROM recovery_codes WHERE user_id = ?1";
        self.run(sql, [user.as_str()])?;
        self.delete_links(user, &[])?;
        let sql = "-- forget: outbox
            DELETE FROM outbox
            WHERE payload ->> 'user_id' = ?1 OR lower(payload ->> 'email') = lower(?2)";
        self.run(sql, params![user.as_str(), email])?;
        let sql = "-- forget: login_guards\nDELETE FROM login_guards WHERE account = ?1";
        let account = account_digest(&key);
        self.run(sql, [account])?;
        let sql = "-- forget: sign_up_attempts\nDELETE FROM sign_up_attempts WHERE account = ?1";
        self.run(sql, [account])?;
        let sql = "-- forget: later
            INSERT INTO erasures (pseudonym, user_id, email, requested_at) VALUES (?1, ?2, ?3, ?4)";
        self.run(sql, params![pseudonym, user.as_str(), email, micros(now)])?;
        Ok(Some(ended))
    }

    /// Rewrites a batch of the events that are `which`. Returns how many there were.
    fn rewrite_some_events(self, erasure: &Erasure, which: &'static str) -> Result<u32, Fault> {
        let sql = format!(
            "-- erase: look
             SELECT seq, address FROM auth_events WHERE {which} LIMIT ?5"
        );
        let late = micros(after(erasure.requested_at, LATE));
        let at = micros(erasure.requested_at);
        let found = self.all(
            &sql,
            params![erasure.user_id, erasure.email, late, at, ERASE_BATCH],
            |row| record::place_and_address(row),
        )?;
        for (seq, address) in &found {
            // The address of an event that somebody else's account has is that account's.
            let sql = "-- erase
                UPDATE auth_events
                SET email = CASE WHEN user_id = ?2 OR user_id IS NULL THEN NULL ELSE email END,
                    user_id = CASE WHEN user_id = ?2 THEN ?3 ELSE user_id END,
                    actor = CASE WHEN actor = ?2 THEN ?3 ELSE actor END,
                    address = ?4, user_agent = NULL
                WHERE seq = ?1";
            let address = address.map(|address| reduced(address).to_string());
            self.run(sql, params![seq, erasure.user_id, erasure.pseudonym, address])?;
        }
        Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
    }
}
