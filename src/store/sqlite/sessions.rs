//! Sessions, refresh tokens and revocations on SQLite.

use jiff::Timestamp;
use rusqlite::params;

use super::record::user_columns;
use super::{Db, Fault, Sqlite, micros};
use crate::model::{
    EndReason, EndedSession, Event, Session, SessionId, TokenDigest, UserId, network_of,
};
use crate::store::api_keys::KEEP_CHANGES;
use crate::store::cases::{
    KnownToken, Mark, NewLogin, Refresh, RevocationCursor, Rotation, Sessions,
};
use crate::store::error::StoreError;
use crate::store::record::{self, SESSION_WIDTH, USER_WIDTH, session_columns};
use crate::store::rules::{
    KEEP_GUARD, KEEP_OVER, KEEP_REVOCATION, KEEP_SIGNUP, KEEP_UNVERIFIED, ShownToken, Verdict,
    before, judge, methods,
};

/// How many rows [`Sqlite::prune`] deletes at a time: logins wait no longer than that takes.
const PRUNE_BATCH: usize = 2_000;

impl Sqlite {
    pub(in crate::store) async fn refresh(&self, r: &Rotation) -> Result<Refresh, StoreError> {
        let r = r.clone();
        self.in_tx("refresh", move |db| {
            let Some(token) = db.token(&r)? else { return Ok(Refresh::NotFound) };
            let verdict = judge(&token, &r);
            let ShownToken { user, session, .. } = token;
            match verdict {
                Verdict::Refuse(answer) => Ok(answer),
                Verdict::Rotate => {
                    r.fit.check(&user, &session)?;
                    let session = db.rotate(&r, session)?;
                    db.record(&[r.event_of(&session)])?;
                    Ok(Refresh::Rotated { user, session })
                }
                Verdict::Repeat(sealed_successor) => {
                    r.fit.check(&user, &session)?;
                    let session = db.extend(&r, session)?;
                    Ok(Refresh::Repeated { user, session, sealed_successor })
                }
                Verdict::EndSession => {
                    let one = Sessions::One(session.id);
                    db.end_sessions(&user.id, one, EndReason::RefreshReuse, r.now)?;
                    db.record(&[r.reuse_event_of(&session)])?;
                    Ok(Refresh::Reused { user_id: user.id, session_id: session.id })
                }
            }
        })
        .await
    }

    pub(in crate::store) async fn session_of_refresh_token(
        &self,
        digest: TokenDigest,
    ) -> Result<Option<SessionId>, StoreError> {
        self.read("session_of_refresh_token", move |db| {
            let sql = "-- session_of_refresh_token
                SELECT session_id FROM refresh_tokens WHERE digest = ?1";
            db.one(sql, params![&digest.0[..]], |row| record::session_of_token(row, 0))
        })
        .await
    }

    pub(in crate::store) async fn refresh_token(
        &self,
        digest: TokenDigest,
    ) -> Result<Option<KnownToken>, StoreError> {
        self.read("refresh_token", move |db| {
            let sql = concat!(
                "-- refresh_token\nSELECT ",
                user_columns!(),
                ", ",
                session_columns!(),
                ", t.used_at, t.sealed_successor
                 FROM refresh_tokens AS t
                 JOIN sessions AS s ON s.id = t.session_id
                 JOIN users AS u ON u.id = s.user_id
                 WHERE t.digest = ?1"
            );
            db.one(sql, [digest.0], |row| record::known_token(row))
        })
        .await
    }

    pub(in crate::store) async fn end_sessions(
        &self,
        user: &UserId,
        which: Sessions,
        reason: EndReason,
        now: Timestamp,
        event: &Event,
    ) -> Result<Vec<EndedSession>, StoreError> {
        let (user, event) = (user.clone(), event.clone());
        self.in_tx("end_sessions", move |db| {
            let ended = db.end_sessions(&user, which, reason, now)?;
            if !ended.is_empty() {
                db.record(&[event])?;
            }
            Ok(ended)
        })
        .await
    }

    pub(in crate::store) async fn revoke_token(
        &self,
        token: EndedSession,
        event: &Event,
    ) -> Result<bool, StoreError> {
        let event = event.clone();
        self.in_tx("revoke_token", move |db| {
            let sql = "-- revoke_token
                INSERT INTO revocations (session_id, until) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            if db.run(sql, params![token.id, micros(token.until)])? == 0 {
                return Ok(false);
            }
            db.record(&[event])?;
            Ok(true)
        })
        .await
    }

    pub(in crate::store) async fn session(
        &self,
        id: &SessionId,
    ) -> Result<Option<Session>, StoreError> {
        let id = *id;
        self.read("session", move |db| db.session(id)).await
    }

    pub(in crate::store) async fn sessions_of(
        &self,
        user: &UserId,
        now: Timestamp,
    ) -> Result<Vec<Session>, StoreError> {
        let user = user.clone();
        self.read("sessions_of", move |db| {
            let sql = concat!(
                "-- sessions_of\nSELECT ",
                session_columns!(),
                " FROM sessions AS s
                 WHERE s.user_id = ?1 AND s.ended_at IS NULL AND s.expires_at > ?2
                 ORDER BY s.created_at DESC, s.id DESC"
            );
            db.all(sql, params![user.as_str(), micros(now)], |row| record::session(row, 0))
        })
        .await
    }

    pub(in crate::store) async fn touch_sessions(
        &self,
        seen: &[(SessionId, Timestamp)],
    ) -> Result<(), StoreError> {
        let seen = seen.to_vec();
        self.in_tx("touch_sessions", move |db| {
            for (id, at) in seen {
                let sql = "-- touch_sessions
                    UPDATE sessions SET last_seen_at = ?2 WHERE id = ?1 AND last_seen_at < ?2";
                db.run(sql, params![id, micros(at)])?;
            }
            Ok(())
        })
        .await
    }

    pub(in crate::store) async fn ended_sessions(
        &self,
        cursor: &mut RevocationCursor,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>, StoreError> {
        let last = match cursor.mark {
            Some(Mark::Row(last)) => last,
            _ => 0,
        };
        let since = micros(before(now, KEEP_REVOCATION));
        let (last, ended) = self
            .read("ended_sessions", move |db| {
                let sql = "-- ended_sessions
                    SELECT session_id, until, seq FROM revocations
                    WHERE seq > ?1 AND until > ?2 ORDER BY seq";
                let rows = db.all(sql, params![last, since], |row| {
                    Ok((record::ended_session(row, 0)?, row.get(2).unwrap_or(last)))
                })?;
                let last = rows.last().map_or(last, |(_, seq)| *seq);
                Ok((last, rows.into_iter().map(|(ended, _)| ended).collect()))
            })
            .await?;
        cursor.mark = Some(Mark::Row(last));
        Ok(ended)
    }

    pub(in crate::store) async fn prune(&self, now: Timestamp) -> Result<u64, StoreError> {
        let revoked = micros(before(now, KEEP_REVOCATION));
        let over = micros(before(now, KEEP_OVER));
        let read = micros(before(now, KEEP_CHANGES));
        let quiet = micros(before(now, KEEP_GUARD));
        let unused = micros(before(now, KEEP_SIGNUP));
        let unverified = micros(before(now, KEEP_UNVERIFIED));
        let mut pruned = 0;
        for (sql, limit) in [
            (
                "-- prune: revocations
                 DELETE FROM revocations WHERE seq IN (
                     SELECT seq FROM revocations WHERE until < ?1 LIMIT ?2)",
                revoked,
            ),
            (
                "-- prune: sessions
                 DELETE FROM sessions WHERE id IN (
                     SELECT id FROM sessions
                     WHERE (expires_at < ?1 OR ended_at < ?1) AND access_expires_at < ?1
                     LIMIT ?2)",
                over,
            ),
            (
                "-- prune: refresh_tokens
                 DELETE FROM refresh_tokens WHERE digest IN (
                     SELECT digest FROM refresh_tokens
                     WHERE created_at < ?1 AND used_at < ?1 LIMIT ?2)",
                over,
            ),
            (
                "-- prune: links
                 DELETE FROM one_time_tokens WHERE digest IN (
                     SELECT digest FROM one_time_tokens
                     WHERE expires_at < ?1 AND purpose <> 'signup' LIMIT ?2)",
                micros(now),
            ),
            (
                "-- prune: links of sign-ups
                 DELETE FROM one_time_tokens WHERE digest IN (
                     SELECT digest FROM one_time_tokens WHERE expires_at < ?1 LIMIT ?2)",
                unused,
            ),
            (
                "-- prune: login_guards
                 DELETE FROM login_guards WHERE (account, lane) IN (
                     SELECT account, lane FROM login_guards WHERE failed_at < ?1 LIMIT ?2)",
                quiet,
            ),
            (
                "-- prune: challenges
                 DELETE FROM factor_challenges WHERE id IN (
                     SELECT id FROM factor_challenges WHERE expires_at < ?1 LIMIT ?2)",
                micros(now),
            ),
            (
                "-- prune: factors
                 DELETE FROM factors WHERE id IN (
                     SELECT id FROM factors
                     WHERE created_at < ?1 AND verified_at IS NULL LIMIT ?2)",
                unverified,
            ),
            (
                "-- prune: sign_up_attempts
                 DELETE FROM sign_up_attempts WHERE (account, network) IN (
                     SELECT account, network FROM sign_up_attempts
                     WHERE expires_at < ?1 LIMIT ?2)",
                micros(now),
            ),
            (
                // Last, when their links are gone.
                "-- prune: accounts made by letters
                 DELETE FROM users WHERE id IN (
                     SELECT u.id FROM users AS u
                     WHERE u.made_by_letter_at < ?1 AND u.email_confirmed_at IS NULL
                       AND u.password_hash IS NULL AND u.invited_at IS NULL
                       AND u.disabled_until IS NULL AND u.roles = '[]' AND u.app_metadata = '{}'
                       AND NOT EXISTS (SELECT 1 FROM one_time_tokens AS t WHERE t.user_id = u.id)
                       AND NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.user_id = u.id)
                       AND NOT EXISTS (SELECT 1 FROM api_keys AS k WHERE k.user_id = u.id)
                     LIMIT ?2)",
                unused,
            ),
            (
                "-- prune: outbox
                 DELETE FROM outbox WHERE id IN (
                     SELECT id FROM outbox WHERE failed_at < ?1 LIMIT ?2)",
                over,
            ),
            (
                "-- prune: api_keys
                 DELETE FROM api_keys WHERE id IN (
                     SELECT id FROM api_keys WHERE expires_at < ?1 OR revoked_at < ?1
                     LIMIT ?2)",
                over,
            ),
            (
                "-- prune: api_key_changes
                 DELETE FROM api_key_changes WHERE seq IN (
                     SELECT seq FROM api_key_changes WHERE at < ?1 LIMIT ?2)",
                read,
            ),
            (
                "-- prune: imports
                 DELETE FROM imports WHERE digest IN (
                     SELECT digest FROM imports WHERE updated_at < ?1 LIMIT ?2)",
                over,
            ),
        ] {
            loop {
                let batch = i64::try_from(PRUNE_BATCH).unwrap_or(i64::MAX);
                let deleted =
                    self.in_tx("prune", move |db| db.run(sql, params![limit, batch])).await?;
                pruned += deleted as u64;
                if deleted < PRUNE_BATCH {
                    break;
                }
            }
        }
        Ok(pruned)
    }
}

impl Db<'_> {
    /// Begins a session. Returns those that were too many with it.
    pub(super) fn insert_login(self, login: &NewLogin) -> Result<Vec<EndedSession>, Fault> {
        let s = &login.session;
        let sql = "-- insert_login: session
            INSERT INTO sessions (id, user_id, created_at, last_seen_at, expires_at,
                access_expires_at, address, user_agent, methods, network)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let params = params![
            s.id,
            s.user_id.as_str(),
            micros(s.created_at),
            micros(s.last_seen_at),
            micros(s.expires_at),
            micros(s.access_expires_at),
            s.address.map(|address| address.to_string()),
            s.user_agent,
            methods(s).to_string(),
            s.address.map(|address| network_of(address).to_string()),
        ];
        self.run(sql, params)?;
        let sql = "-- insert_login: token
            INSERT INTO refresh_tokens (digest, session_id, created_at) VALUES (?1, ?2, ?3)";
        self.run(sql, params![login.refresh.0, s.id, micros(s.created_at)])?;
        if let Some(lane) = &login.clears {
            let sql = "-- insert_login: clear
                DELETE FROM login_guards WHERE account = ?1 AND lane = ?2";
            self.run(sql, params![lane.account, lane.name()])?;
        }
        let Some(most) = login.max_sessions else { return Ok(Vec::new()) };
        // However clocks differ, the new session stays.
        let sql = "-- insert_login: trim
            UPDATE sessions SET ended_at = ?2, ended_reason = ?5
            WHERE id IN (
                SELECT id FROM sessions
                WHERE user_id = ?1 AND ended_at IS NULL AND expires_at > ?2 AND id <> ?3
                ORDER BY created_at DESC, id DESC LIMIT -1 OFFSET ?4)
            RETURNING id, access_expires_at";
        let (now, others) = (micros(s.created_at), i64::from(most.get() - 1));
        let reason = EndReason::TooMany.as_str();
        let ended =
            self.all(sql, params![s.user_id.as_str(), now, s.id, others, reason], |row| {
                record::ended_session(row, 0)
            })?;
        self.revoke(&ended)?;
        Ok(ended)
    }

    pub(super) fn session(self, id: SessionId) -> Result<Option<Session>, Fault> {
        let sql = concat!(
            "-- session\nSELECT ",
            session_columns!(),
            " FROM sessions AS s WHERE s.id = ?1"
        );
        self.one(sql, [id], |row| record::session(row, 0))
    }

    fn token(self, r: &Rotation) -> Result<Option<ShownToken>, Fault> {
        let sql = concat!(
            "-- refresh: read\nSELECT ",
            user_columns!(),
            ", ",
            session_columns!(),
            ", t.used_at, t.sealed_successor, EXISTS (
                 SELECT 1 FROM refresh_tokens AS successor
                 WHERE successor.parent = t.digest AND successor.used_at IS NOT NULL)
             FROM refresh_tokens AS t
             JOIN sessions AS s ON s.id = t.session_id
             JOIN users AS u ON u.id = s.user_id
             WHERE t.digest = ?1"
        );
        self.one(sql, [r.shown.0], |row| {
            let after = USER_WIDTH + SESSION_WIDTH;
            Ok(ShownToken {
                user: record::user(row, 0)?,
                session: record::session(row, USER_WIDTH)?,
                used: record::use_of_token(row, USER_WIDTH, after)?,
                successor_used: row.get(after + 2).unwrap_or(true),
            })
        })
    }

    fn rotate(self, r: &Rotation, session: Session) -> Result<Session, Fault> {
        let now = micros(r.now);
        let sql = "-- refresh: use
            UPDATE refresh_tokens SET used_at = ?2, sealed_successor = ?3 WHERE digest = ?1";
        self.run(sql, params![r.shown.0, now, r.sealed_successor])?;
        let sql = "-- refresh: successor
            INSERT INTO refresh_tokens (digest, session_id, parent, created_at)
            VALUES (?1, ?2, ?3, ?4)";
        self.run(sql, params![r.successor.0, session.id, r.shown.0, now])?;
        let sql = "-- refresh: see
            UPDATE sessions SET last_seen_at = max(last_seen_at, ?2) WHERE id = ?1";
        self.run(sql, params![session.id, now])?;
        self.extend(r, session)
    }

    /// Remembers that another access token was given out.
    fn extend(self, r: &Rotation, session: Session) -> Result<Session, Fault> {
        let sql = "-- refresh: extend
            UPDATE sessions SET access_expires_at = max(access_expires_at, ?2) WHERE id = ?1";
        self.run(sql, params![session.id, micros(r.access_expires_at)])?;
        Ok(self.session(session.id)?.unwrap_or(session))
    }

    /// Ends what of the user's sessions is not over and tells every gateway.
    pub(super) fn end_sessions(
        self,
        user: &UserId,
        which: Sessions,
        reason: EndReason,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>, Fault> {
        let (one, others, factor) = match which {
            Sessions::All => (None, None, None),
            Sessions::One(id) => (Some(id), None, None),
            Sessions::Others(id) => (None, Some(id), None),
            Sessions::OthersOfFactor(id, factor) => (None, Some(id), Some(factor)),
        };
        let sql = "-- end_sessions
            UPDATE sessions SET ended_at = ?2, ended_reason = ?3
            WHERE user_id = ?1 AND ended_at IS NULL
              AND (expires_at > ?2 OR access_expires_at > ?4)
              AND (?5 IS NULL OR id = ?5)
              AND (?6 IS NULL OR id <> ?6)
              AND (?7 IS NULL OR factor_id = ?7)
            RETURNING id, access_expires_at";
        let still_accepted = micros(before(now, KEEP_REVOCATION));
        let now = micros(now);
        let ended = self.all(
            sql,
            params![user.as_str(), now, reason.as_str(), still_accepted, one, others, factor],
            |row| record::ended_session(row, 0),
        )?;
        self.revoke(&ended)?;
        Ok(ended)
    }

    /// Tells every gateway of ended sessions.
    fn revoke(self, ended: &[EndedSession]) -> Result<(), Fault> {
        for session in ended {
            let sql = "-- revoke
                INSERT INTO revocations (session_id, until) VALUES (?1, ?2)";
            self.run(sql, params![session.id, micros(session.until)])?;
        }
        Ok(())
    }
}
