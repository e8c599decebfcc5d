//! Failed logins on PostgreSQL.

use std::net::IpAddr;

use jiff::Timestamp;

use super::Postgres;
use super::record::user_columns;
use crate::model::{Email, Event, network_of};
use crate::store::error::StoreError;
use crate::store::guards::{FoundState, Guard, Lane};
use crate::store::record;
use crate::store::rules::{KEEP_GUARD, KNOWN_FOR, after, before, pause_after, whole_micros};

impl Postgres {
    pub(in crate::store) async fn login_state(
        &self,
        email: &Email,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<FoundState, StoreError> {
        let lane = Lane::of_strangers(email);
        let account = &lane.account[..];
        let network = &network_of(address).to_string();
        let known_since = &before(now, KNOWN_FOR);
        self.at_once("login_state", |db| async move {
            // The index has the time of the login: a user with many sessions has a new one, and it
            // is found at once.
            let sql = concat!(
                "-- login_state\nSELECT ",
                user_columns!(),
                ", u.password_hash,
                 CASE WHEN EXISTS (
                         SELECT FROM sessions AS s WHERE s.user_id = u.id
                           AND s.network = $2::text::cidr AND s.created_at > $3)
                     OR EXISTS (
                         SELECT FROM sessions AS s WHERE s.user_id = u.id
                           AND s.network = $2::text::cidr AND s.last_seen_at > $3)
                     THEN 'known' END,
                 (SELECT g.blocked_until FROM login_guards AS g
                     WHERE g.account = $4 AND g.lane = $2),
                 (SELECT g.blocked_until FROM login_guards AS g
                     WHERE g.account = $4 AND g.lane = '*'),
                 (SELECT a.password_hash FROM sign_up_attempts AS a
                     WHERE a.account = $4 AND a.network = $2 AND a.expires_at > $5)
                 FROM (SELECT) AS one LEFT JOIN users AS u ON u.email_key = $1"
            );
            let now = whole_micros(now);
            let params: &[super::Param<'_>] = &[&email.key(), network, known_since, &account, &now];
            let found = db.one(sql, params, record::found_state).await?;
            Ok(found.unwrap_or_default())
        })
        .await
    }

    pub(in crate::store) async fn refuse_login(
        &self,
        lane: &Lane,
        event: &Event,
    ) -> Result<(), StoreError> {
        self.in_tx("refuse_login", |db| async move {
            // The row is locked from here on: of failures at once each counts.
            let sql = "-- refuse_login: count
                INSERT INTO login_guards AS g (account, lane, failures, failed_at, blocked_until)
                VALUES ($1, $2, 1, $3, $3)
                ON CONFLICT (account, lane) DO UPDATE
                SET failures = CASE WHEN g.failed_at < $4 THEN 1 ELSE least(g.failures, 1000) + 1 END,
                    failed_at = greatest(g.failed_at, $3)
                RETURNING g.failures::bigint";
            let (account, name) = (&lane.account[..], lane.name());
            let now = whole_micros(event.at);
            let quiet_since = before(event.at, KEEP_GUARD);
            let failures = db
                .one(sql, &[&account, &name, &now, &quiet_since], record::failures)
                .await?;
            let sql = "-- refuse_login: block
                UPDATE login_guards SET blocked_until = greatest(blocked_until, $3)
                WHERE account = $1 AND lane = $2";
            let until = after(event.at, pause_after(failures.unwrap_or(1)));
            db.run(sql, &[&account, &name, &until]).await?;
            db.record(std::slice::from_ref(event)).await
        })
        .await
    }

    pub(in crate::store) async fn guards_of(
        &self,
        account: [u8; 32],
    ) -> Result<Vec<Guard>, StoreError> {
        self.at_once("guards_of", |db| async move {
            let sql = "-- guards_of
                SELECT lane, failures::bigint AS failures, failed_at, blocked_until
                FROM login_guards WHERE account = $1 ORDER BY lane";
            db.all(sql, &[&&account[..]], record::guard).await
        })
        .await
    }

    pub(in crate::store) async fn clear_guards(
        &self,
        account: [u8; 32],
        event: &Event,
    ) -> Result<u64, StoreError> {
        self.in_tx("clear_guards", |db| async move {
            let sql = "-- clear_guards\nDELETE FROM login_guards WHERE account = $1";
            let cleared = db.run(sql, &[&&account[..]]).await?;
            if cleared > 0 {
                db.record(std::slice::from_ref(event)).await?;
            }
            Ok(cleared)
        })
        .await
    }
}
