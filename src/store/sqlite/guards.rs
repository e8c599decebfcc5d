//! Failed logins on SQLite.

use std::net::IpAddr;

use jiff::Timestamp;
use rusqlite::params;

use super::record::user_columns;
use super::{Sqlite, micros};
use crate::model::{Email, Event, network_of};
use crate::store::error::StoreError;
use crate::store::guards::{FoundState, Guard, Lane};
use crate::store::record;
use crate::store::rules::{KEEP_GUARD, KNOWN_FOR, after, before, pause_after};

impl Sqlite {
    pub(in crate::store) async fn login_state(
        &self,
        email: &Email,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<FoundState, StoreError> {
        let account = Lane::of_strangers(email).account;
        let key = email.key().to_owned();
        let network = network_of(address).to_string();
        let known_since = micros(before(now, KNOWN_FOR));
        self.read("login_state", move |db| {
            let sql = concat!(
                "-- login_state\nSELECT ",
                user_columns!(),
                ", u.password_hash,
                 CASE WHEN EXISTS (
                         SELECT 1 FROM sessions AS s WHERE s.user_id = u.id
                           AND s.network = ?2 AND s.created_at > ?3)
                     OR EXISTS (
                         SELECT 1 FROM sessions AS s WHERE s.user_id = u.id
                           AND s.network = ?2 AND s.last_seen_at > ?3)
                     THEN 'known' END,
                 (SELECT g.blocked_until FROM login_guards AS g
                     WHERE g.account = ?4 AND g.lane = ?2),
                 (SELECT g.blocked_until FROM login_guards AS g
                     WHERE g.account = ?4 AND g.lane = '*'),
                 (SELECT a.password_hash FROM sign_up_attempts AS a
                     WHERE a.account = ?4 AND a.network = ?2 AND a.expires_at > ?5)
                 FROM (SELECT 1) AS one LEFT JOIN users AS u ON u.email_key = ?1"
            );
            let found =
                db.one(sql, params![key, network, known_since, account, micros(now)], |row| {
                    record::found_state(row)
                })?;
            Ok(found.unwrap_or_default())
        })
        .await
    }

    pub(in crate::store) async fn refuse_login(
        &self,
        lane: &Lane,
        event: &Event,
    ) -> Result<(), StoreError> {
        let (lane, event) = (lane.clone(), event.clone());
        self.in_tx("refuse_login", move |db| {
            let sql = "-- refuse_login: count
                INSERT INTO login_guards AS g (account, lane, failures, failed_at, blocked_until)
                VALUES (?1, ?2, 1, ?3, ?3)
                ON CONFLICT (account, lane) DO UPDATE
                SET failures = CASE WHEN g.failed_at < ?4 THEN 1 ELSE min(g.failures, 1000) + 1 END,
                    failed_at = max(g.failed_at, ?3)
                RETURNING failures";
            let (name, now) = (lane.name(), micros(event.at));
            let quiet_since = micros(before(event.at, KEEP_GUARD));
            let failures = db.one(sql, params![lane.account, name, now, quiet_since], |row| {
                record::failures(row)
            })?;
            let sql = "-- refuse_login: block
                UPDATE login_guards SET blocked_until = max(blocked_until, ?3)
                WHERE account = ?1 AND lane = ?2";
            let until = micros(after(event.at, pause_after(failures.unwrap_or(1))));
            db.run(sql, params![lane.account, name, until])?;
            db.record(&[event])
        })
        .await
    }

    pub(in crate::store) async fn guards_of(
        &self,
        account: [u8; 32],
    ) -> Result<Vec<Guard>, StoreError> {
        self.read("guards_of", move |db| {
            let sql = "-- guards_of
                SELECT lane, failures, failed_at, blocked_until
                FROM login_guards WHERE account = ?1 ORDER BY lane";
            db.all(sql, params![account], |row| record::guard(row))
        })
        .await
    }

    pub(in crate::store) async fn clear_guards(
        &self,
        account: [u8; 32],
        event: &Event,
    ) -> Result<u64, StoreError> {
        let event = event.clone();
        self.in_tx("clear_guards", move |db| {
            let sql = "-- clear_guards\nDELETE FROM login_guards WHERE account = ?1";
            let cleared = db.run(sql, params![account])?;
            if cleared > 0 {
                db.record(&[event])?;
            }
            Ok(cleared as u64)
        })
        .await
    }
}
