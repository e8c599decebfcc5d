//! Sign-ups that wait, on PostgreSQL.

use std::net::IpAddr;

use super::{Db, Fault, Param, Postgres};
use crate::model::{Event, network_of};
use crate::store::attempts::SignUpAttempt;
use crate::store::error::StoreError;
use crate::store::guards::account_digest;
use crate::store::outbox::NewParcel;
use crate::store::rules::whole_micros;

impl Postgres {
    pub(in crate::store) async fn post_sign_up(
        &self,
        parcel: &NewParcel,
        attempt: &SignUpAttempt,
        event: &Event,
    ) -> Result<(), StoreError> {
        self.in_tx("post_sign_up", |db| async move {
            let sql = "-- post_sign_up
                INSERT INTO sign_up_attempts (account, network, password_hash, expires_at)
                VALUES ($1, $2, $3, $4)
                ON CONFLICT (account, network) DO UPDATE
                SET password_hash = EXCLUDED.password_hash, expires_at = EXCLUDED.expires_at";
            let (account, until) = (&attempt.account[..], whole_micros(attempt.expires_at));
            let params: &[Param<'_>] = &[&account, &attempt.network, &attempt.password.0, &until];
            db.run(sql, params).await?;
            db.post(std::slice::from_ref(parcel)).await?;
            db.record(std::slice::from_ref(event)).await
        })
        .await
    }
}

impl Db {
    /// Forgets a sign-up where the address was proved.
    pub(super) async fn forget_sign_up(
        &self,
        email_key: &str,
        address: Option<IpAddr>,
    ) -> Result<(), Fault> {
        let Some(address) = address else { return Ok(()) };
        let sql = "-- forget_sign_up
            DELETE FROM sign_up_attempts WHERE account = $1 AND network = $2";
        let account = account_digest(email_key);
        self.run(sql, &[&&account[..], &network_of(address).to_string()]).await?;
        Ok(())
    }
}
