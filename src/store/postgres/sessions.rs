//! Sessions, refresh tokens and revocations on PostgreSQL. A session's row is the lock of its
//! refresh tokens.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::record::user_columns;
use super::{Db, Fault, Postgres};
use crate::model::{
    EndReason, EndedSession, Event, Session, SessionId, TokenDigest, UserId, network_of,
};
use crate::store::api_keys::KEEP_CHANGES;
use crate::store::cases::{
    KnownToken, Mark, NewLogin, Refresh, RevocationCursor, Rotation, Sessions,
};
use crate::store::error::StoreError;
use crate::store::record::{self, Record as _, SESSION_WIDTH, USER_WIDTH, session_columns};
use crate::store::rules::{
    KEEP_GUARD, KEEP_OVER, KEEP_REVOCATION, KEEP_SIGNUP, KEEP_UNVERIFIED, ShownToken, Verdict,
    before, judge, methods, whole_micros,
};

/// How many rows [`Postgres::prune`] deletes at a time: a fraction of a second of work.
const PRUNE_BATCH: i64 = 2_000;

impl Postgres {
    pub(in crate::store) async fn refresh(&self, r: &Rotation) -> Result<Refresh, StoreError> {
        self.in_tx("refresh", |db| async move {
            let Some(token) = db.lock_token(r).await? else { return Ok(Refresh::NotFound) };
            let verdict = judge(&token, r);
            let ShownToken { user, session, .. } = token;
            match verdict {
                Verdict::Refuse(answer) => Ok(answer),
                Verdict::Rotate => {
                    r.fit.check(&user, &session)?;
                    let session = db.rotate(r, session).await?;
                    db.record(&[r.event_of(&session)]).await?;
                    Ok(Refresh::Rotated { user, session })
                }
                Verdict::Repeat(sealed_successor) => {
                    r.fit.check(&user, &session)?;
                    let session = db.extend(r, session).await?;
                    Ok(Refresh::Repeated { user, session, sealed_successor })
                }
                Verdict::EndSession => {
                    let one = Sessions::One(session.id);
                    let now = whole_micros(r.now);
                    db.end_sessions(&user.id, one, EndReason::RefreshReuse, now).await?;
                    db.record(&[r.reuse_event_of(&session)]).await?;
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
        self.at_once("session_of_refresh_token", |db| async move {
            let sql = "-- session_of_refresh_token
                SELECT session_id FROM refresh_tokens WHERE digest = $1";
            db.one(sql, &[&&digest.0[..]], |row| record::session_of_token(row, 0)).await
        })
        .await
    }

    pub(in crate::store) async fn refresh_token(
        &self,
        digest: TokenDigest,
    ) -> Result<Option<KnownToken>, StoreError> {
        self.at_once("refresh_token", |db| async move {
            let sql = concat!(
                "-- refresh_token\nSELECT ",
                user_columns!(),
                ", ",
                session_columns!(),
                ", t.used_at, t.sealed_successor
                 FROM refresh_tokens AS t
                 JOIN sessions AS s ON s.id = t.session_id
                 JOIN users AS u ON u.id = s.user_id
                 WHERE t.digest = $1"
            );
            db.one(sql, &[&&digest.0[..]], record::known_token).await
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
        self.in_tx("end_sessions", |db| async move {
            db.lock_user(user).await?;
            let ended = db.end_sessions(user, which, reason, whole_micros(now)).await?;
            if !ended.is_empty() {
                db.record(std::slice::from_ref(event)).await?;
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
        self.in_tx("revoke_token", |db| async move {
            let sql = "-- revoke_token
                INSERT INTO revocations (session_id, until) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            if db.run(sql, &[&token.id, &whole_micros(token.until)]).await? == 0 {
                return Ok(false);
            }
            db.record(std::slice::from_ref(event)).await?;
            Ok(true)
        })
        .await
    }

    pub(in crate::store) async fn session(
        &self,
        id: &SessionId,
    ) -> Result<Option<Session>, StoreError> {
        self.at_once("session", |db| async move {
            let sql = concat!(
                "-- session\nSELECT ",
                session_columns!(),
                " FROM sessions AS s WHERE s.id = $1"
            );
            db.one(sql, &[id], |row| record::session(row, 0)).await
        })
        .await
    }

    pub(in crate::store) async fn sessions_of(
        &self,
        user: &UserId,
        now: Timestamp,
    ) -> Result<Vec<Session>, StoreError> {
        self.at_once("sessions_of", |db| async move {
            let sql = concat!(
                "-- sessions_of\nSELECT ",
                session_columns!(),
                " FROM sessions AS s
                 WHERE s.user_id = $1 AND s.ended_at IS NULL AND s.expires_at > $2
                 ORDER BY s.created_at DESC, s.id DESC"
            );
            db.all(sql, &[&user.as_str(), &whole_micros(now)], |row| record::session(row, 0)).await
        })
        .await
    }

    pub(in crate::store) async fn touch_sessions(
        &self,
        seen: &[(SessionId, Timestamp)],
    ) -> Result<(), StoreError> {
        self.at_once("touch_sessions", |db| async move {
            // A row that is locked is being refreshed or ended, which says more than we would;
            // waiting for many rows in no order would invite deadlocks.
            let sql = "-- touch_sessions
                WITH news AS (
                    SELECT n.id, max(n.at) AS at
                    FROM unnest($1::uuid[], $2::timestamptz[]) AS n (id, at) GROUP BY n.id
                ), free AS (
                    SELECT s.id, news.at FROM sessions AS s JOIN news ON news.id = s.id
                    WHERE s.last_seen_at < news.at
                    FOR UPDATE OF s SKIP LOCKED
                )
                UPDATE sessions AS s SET last_seen_at = free.at FROM free WHERE s.id = free.id";
            let (ids, times): (Vec<Uuid>, Vec<Timestamp>) =
                seen.iter().map(|(id, at)| (*id, whole_micros(*at))).unzip();
            db.run(sql, &[&ids, &times]).await.map(|_| ())
        })
        .await
    }

    pub(in crate::store) async fn ended_sessions(
        &self,
        cursor: &mut RevocationCursor,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>, StoreError> {
        let (server, xmin) = match cursor.mark {
            Some(Mark::Transaction { server, xmin }) => (Some(server), xmin),
            _ => (None, 0),
        };
        let since = before(now, KEEP_REVOCATION);
        let (mark, ended) = self
            .at_once("ended_sessions", |db| async move {
                // One statement, so one snapshot: every transaction below its xmin is over and
                // what it wrote is in this answer or an earlier one. After a crash or on another
                // server transaction numbers may start again lower: then everything is read anew.
                let sql = "-- ended_sessions
                    WITH here AS (
                        SELECT pg_postmaster_start_time() AS server,
                            pg_snapshot_xmin(pg_current_snapshot()) AS xmin
                    )
                    SELECT here.server, here.xmin::text, r.session_id, r.until
                    FROM here LEFT JOIN revocations AS r
                      ON r.xid >= CASE WHEN here.server = $1 THEN $2::text ELSE '0' END::xid8
                      AND r.until > $3";
                let read = |row: &Row| {
                    let ended = match row.uuid(2) {
                        Ok(None) => None,
                        _ => Some(record::ended_session(row, 2)?),
                    };
                    Ok((mark(row)?, ended))
                };
                let rows = db.all(sql, &[&server, &xmin.to_string(), &since], read).await?;
                let (marks, ended): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
                Ok((marks.first().copied(), ended.into_iter().flatten().collect()))
            })
            .await?;
        cursor.mark = mark;
        Ok(ended)
    }

    pub(in crate::store) async fn prune(&self, now: Timestamp) -> Result<u64, StoreError> {
        let revoked = before(now, KEEP_REVOCATION);
        let over = before(now, KEEP_OVER);
        let read = before(now, KEEP_CHANGES);
        let quiet = before(now, KEEP_GUARD);
        let unused = before(now, KEEP_SIGNUP);
        let unverified = before(now, KEEP_UNVERIFIED);
        let mut pruned = 0;
        for (sql, limit) in [
            (
                "-- prune: revocations
                 DELETE FROM revocations WHERE session_id IN (
                     SELECT session_id FROM revocations WHERE until < $1 LIMIT $2)",
                revoked,
            ),
            (
                "-- prune: sessions
                 DELETE FROM sessions WHERE id IN (
                     SELECT id FROM sessions
                     WHERE (expires_at < $1 OR ended_at < $1) AND access_expires_at < $1
                     LIMIT $2)",
                over,
            ),
            (
                "-- prune: refresh_tokens
                 DELETE FROM refresh_tokens WHERE digest IN (
                     SELECT digest FROM refresh_tokens
                     WHERE created_at < $1 AND used_at < $1 LIMIT $2)",
                over,
            ),
            (
                "-- prune: links
                 DELETE FROM one_time_tokens WHERE digest IN (
                     SELECT digest FROM one_time_tokens
                     WHERE expires_at < $1 AND purpose <> 'signup' LIMIT $2)",
                whole_micros(now),
            ),
            (
                "-- prune: links of sign-ups
                 DELETE FROM one_time_tokens WHERE digest IN (
                     SELECT digest FROM one_time_tokens WHERE expires_at < $1 LIMIT $2)",
                unused,
            ),
            (
                "-- prune: login_guards
                 DELETE FROM login_guards WHERE (account, lane) IN (
                     SELECT account, lane FROM login_guards WHERE failed_at < $1 LIMIT $2)",
                quiet,
            ),
            (
                "-- prune: challenges
                 DELETE FROM factor_challenges WHERE id IN (
                     SELECT id FROM factor_challenges WHERE expires_at < $1 LIMIT $2)",
                whole_micros(now),
            ),
            (
                "-- prune: factors
                 DELETE FROM factors WHERE verified_at IS NULL AND id IN (
                     SELECT id FROM factors
                     WHERE created_at < $1 AND verified_at IS NULL LIMIT $2)",
                unverified,
            ),
            (
                "-- prune: sign_up_attempts
                 DELETE FROM sign_up_attempts WHERE (account, network) IN (
                     SELECT account, network FROM sign_up_attempts
                     WHERE expires_at < $1 LIMIT $2)",
                whole_micros(now),
            ),
            (
                // Last, when their links are gone.
                "-- prune: accounts made by letters
                 DELETE FROM users WHERE id IN (
                     SELECT u.id FROM users AS u
                     WHERE u.made_by_letter_at < $1 AND u.email_confirmed_at IS NULL
                       AND u.password_hash IS NULL AND u.invited_at IS NULL
                       AND u.disabled_until IS NULL AND u.roles = '[]' AND u.app_metadata = '{}'
                       AND NOT EXISTS (SELECT 1 FROM one_time_tokens AS t WHERE t.user_id = u.id)
                       AND NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.user_id = u.id)
                       AND NOT EXISTS (SELECT 1 FROM api_keys AS k WHERE k.user_id = u.id)
                     LIMIT $2
                         FOR UPDATE SKIP LOCKED)",
                unused,
            ),
            (
                "-- prune: outbox
                 DELETE FROM outbox WHERE id IN (
                     SELECT id FROM outbox WHERE failed_at < $1 LIMIT $2)",
                over,
            ),
            (
                "-- prune: api_keys
                 DELETE FROM api_keys WHERE id IN (
                     SELECT id FROM api_keys WHERE expires_at < $1 OR revoked_at < $1
                     LIMIT $2)",
                over,
            ),
            (
                "-- prune: api_key_changes
                 DELETE FROM api_key_changes WHERE ctid IN (
                     SELECT ctid FROM api_key_changes WHERE at < $1 LIMIT $2)",
                read,
            ),
            (
                "-- prune: imports
                 DELETE FROM imports WHERE digest IN (
                     SELECT digest FROM imports WHERE updated_at < $1 LIMIT $2)",
                over,
            ),
        ] {
            loop {
                let deleted =
                    self.at_once("prune", |db| async move {
                        db.run(sql, &[&limit, &PRUNE_BATCH]).await
                    })
                    .await?;
                pruned += deleted;
                if deleted < PRUNE_BATCH.unsigned_abs() {
                    break;
                }
            }
        }
        Ok(pruned)
    }
}

impl Db {
    /// Begins a session. Returns those that were too many with it.
    pub(super) async fn insert_login(&self, login: &NewLogin) -> Result<Vec<EndedSession>, Fault> {
        let sql = "-- insert_login
            WITH new AS (
                INSERT INTO sessions (id, user_id, created_at, last_seen_at, expires_at,
                    access_expires_at, address, user_agent, methods, network)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::cidr)
                RETURNING id, created_at
            )
            INSERT INTO refresh_tokens (digest, session_id, created_at)
            SELECT $11, new.id, new.created_at FROM new";
        let s = &login.session;
        self.run(
            sql,
            &[
                &s.id,
                &s.user_id.as_str(),
                &whole_micros(s.created_at),
                &whole_micros(s.last_seen_at),
                &whole_micros(s.expires_at),
                &whole_micros(s.access_expires_at),
                &s.address,
                &s.user_agent,
                &methods(s),
                &s.address.map(|address| network_of(address).to_string()),
                &&login.refresh.0[..],
            ],
        )
        .await?;
        if let Some(lane) = &login.clears {
            let sql = "-- insert_login: clear
                DELETE FROM login_guards WHERE account = $1 AND lane = $2";
            self.run(sql, &[&&lane.account[..], &lane.name()]).await?;
        }
        let Some(most) = login.max_sessions else { return Ok(Vec::new()) };
        // However clocks differ, the new session stays.
        let sql = "-- insert_login: trim
            WITH surplus AS (
                SELECT id FROM sessions
                WHERE user_id = $1 AND ended_at IS NULL AND expires_at > $2 AND id <> $3
                ORDER BY created_at DESC, id DESC OFFSET $4
            ), ended AS (
                UPDATE sessions AS s SET ended_at = $2, ended_reason = $5
                FROM surplus WHERE s.id = surplus.id
                RETURNING s.id, s.access_expires_at
            )
            INSERT INTO revocations (session_id, until)
            SELECT ended.id, ended.access_expires_at FROM ended
            RETURNING session_id, until";
        let (now, others) = (whole_micros(s.created_at), i64::from(most.get() - 1));
        let reason = EndReason::TooMany.as_str();
        self.all(sql, &[&s.user_id.as_str(), &now, &s.id, &others, &reason], |row| {
            record::ended_session(row, 0)
        })
        .await
    }

    /// The shown token, once nobody else works on its session.
    async fn lock_token(&self, r: &Rotation) -> Result<Option<ShownToken>, Fault> {
        let digest = &r.shown.0[..];
        // Two statements: after a wait for the lock only the locked row is read anew, the rest of
        // the same statement would still be what it was before.
        let sql = "-- refresh: lock
            SELECT FROM sessions AS s JOIN refresh_tokens AS t ON t.session_id = s.id
            WHERE t.digest = $1 FOR UPDATE OF s";
        if self.run(sql, &[&digest]).await? == 0 {
            return Ok(None);
        }
        let sql = concat!(
            "-- refresh: read\nSELECT ",
            user_columns!(),
            ", ",
            session_columns!(),
            ", t.used_at, t.sealed_successor, EXISTS (
                 SELECT FROM refresh_tokens AS successor
                 WHERE successor.parent = t.digest AND successor.used_at IS NOT NULL)
             FROM refresh_tokens AS t
             JOIN sessions AS s ON s.id = t.session_id
             JOIN users AS u ON u.id = s.user_id
             WHERE t.digest = $1"
        );
        self.one(sql, &[&digest], |row| {
            let after = USER_WIDTH + SESSION_WIDTH;
            Ok(ShownToken {
                user: record::user(row, 0)?,
                session: record::session(row, USER_WIDTH)?,
                used: record::use_of_token(row, USER_WIDTH, after)?,
                successor_used: row.try_get(after + 2).unwrap_or(true),
            })
        })
        .await
    }

    async fn rotate(&self, r: &Rotation, session: Session) -> Result<Session, Fault> {
        let sql = concat!(
            "-- refresh: rotate
             WITH used AS (
                 UPDATE refresh_tokens SET used_at = $3, sealed_successor = $4 WHERE digest = $2
             ), successor AS (
                 INSERT INTO refresh_tokens (digest, session_id, parent, created_at)
                 VALUES ($5, $1, $2, $3)
             )
             UPDATE sessions AS s
             SET last_seen_at = greatest(s.last_seen_at, $3),
                 access_expires_at = greatest(s.access_expires_at, $6)
             WHERE s.id = $1 RETURNING ",
            session_columns!()
        );
        let rotated = self
            .one(
                sql,
                &[
                    &session.id,
                    &&r.shown.0[..],
                    &whole_micros(r.now),
                    &r.sealed_successor,
                    &&r.successor.0[..],
                    &whole_micros(r.access_expires_at),
                ],
                |row| record::session(row, 0),
            )
            .await?;
        Ok(rotated.unwrap_or(session))
    }

    /// Remembers that another access token was given out.
    async fn extend(&self, r: &Rotation, session: Session) -> Result<Session, Fault> {
        let sql = concat!(
            "-- refresh: extend
             UPDATE sessions AS s SET access_expires_at = greatest(s.access_expires_at, $2)
             WHERE s.id = $1 RETURNING ",
            session_columns!()
        );
        let params: &[super::Param<'_>] = &[&session.id, &whole_micros(r.access_expires_at)];
        let extended = self.one(sql, params, |row| record::session(row, 0)).await?;
        Ok(extended.unwrap_or(session))
    }

    /// Ends what of the user's sessions is not over and tells every gateway.
    pub(super) async fn end_sessions(
        &self,
        user: &UserId,
        which: Sessions,
        reason: EndReason,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>, Fault> {
        let sql = "-- end_sessions
            WITH ended AS (
                UPDATE sessions AS s SET ended_at = $2, ended_reason = $3
                WHERE s.user_id = $1 AND s.ended_at IS NULL
                  AND (s.expires_at > $2 OR s.access_expires_at > $4)
                  AND ($5::uuid IS NULL OR s.id = $5)
                  AND ($6::uuid IS NULL OR s.id <> $6)
                  AND ($7::uuid IS NULL OR s.factor_id = $7)
                RETURNING s.id, s.access_expires_at
            )
            INSERT INTO revocations (session_id, until)
            SELECT ended.id, ended.access_expires_at FROM ended
            RETURNING session_id, until";
        let (one, others, factor) = match which {
            Sessions::All => (None, None, None),
            Sessions::One(id) => (Some(id), None, None),
            Sessions::Others(id) => (None, Some(id), None),
            Sessions::OthersOfFactor(id, factor) => (None, Some(id), Some(factor)),
        };
        let still_accepted = before(now, KEEP_REVOCATION);
        self.all(
            sql,
            &[&user.as_str(), &now, &reason.as_str(), &still_accepted, &one, &others, &factor],
            |row| record::ended_session(row, 0),
        )
        .await
    }
}

/// Reads the server's start and the oldest running transaction from the first two columns.
pub(super) fn mark(row: &Row) -> Result<Mark, StoreError> {
    let odd = |column: &str| StoreError::Corrupt {
        table: "pg_snapshot",
        column: column.to_owned(),
        row: String::new(),
    };
    let server = row.time(0).ok().flatten().ok_or_else(|| odd("server"))?;
    let xmin = row.text(1).ok().flatten().and_then(|text| text.parse().ok());
    Ok(Mark::Transaction { server, xmin: xmin.ok_or_else(|| odd("xmin"))? })
}
