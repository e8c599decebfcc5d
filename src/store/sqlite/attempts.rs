//! Sign-ups that wait, on SQLite.

use std::net::IpAddr;

use rusqlite::params;

use super::{Db, Fault, Sqlite, micros};
use crate::model::{Event, network_of};
use crate::store::attempts::SignUpAttempt;
use crate::store::error::StoreError;
use crate::store::guards::account_digest;
use crate::store::outbox::NewParcel;

impl Sqlite {
    pub(in crate::store) async fn post_sign_up(
        &self,
        parcel: &NewParcel,
        attempt: &SignUpAttempt,
        event: &Event,
    ) -> Result<(), StoreError> {
        let (parcel, attempt, event) = (parcel.clone(), attempt.clone(), event.clone());
        self.in_tx("post_sign_up", move |db| {
            let sql = "-- post_sign_up
                INSERT INTO sign_up_attempts (account, network, password_hash, expires_at)
                VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (account, network) DO UPDATE
                SET password_hash = excluded.password_hash, expires_at = excluded.expires_at";
            let SignUpAttempt { account, network, password, expires_at } = &attempt;
            db.run(sql, params![account, network, password.0, micros(*expires_at)])?;
            db.post(std::slice::from_ref(&parcel))?;
            db.record(&[event])
        })
        .await
    }
}

impl Db<'_> {
    /// Forgets a sign-up where the address was proved.
    pub(super) fn forget_sign_up(
        self,
        email_key: &str,
        address: Option<IpAddr>,
    ) -> Result<(), Fault> {
        let Some(address) = address else { return Ok(()) };
        let sql = "-- forget_sign_up
            DELETE FROM sign_up_attempts WHERE account = ?1 AND network = ?2";
        let network = network_of(address).to_string();
        self.run(sql, params![account_digest(email_key), network])?;
        Ok(())
    }
}
