//! Sign-ups that wait for the proof of their address, as far as a login has to know them: whoever
//! tries the password of one is told to look for the letter.
//!
//! ```text
//! a sign-up ──▶ its letter (outbox, then link) ──▶ the account, its password
//!          └──▶ its attempt ──▶ "prove the address first", in the network it came from, for a while
//! ```
//!
//! Invariant: an attempt knows nothing of accounts and comes to none. It is stored for an address
//! that has an account, too, and for one that others want as well; so it tells nobody which of these
//! an address is. It counts in its own network only: a stranger's attempt replaces none of the
//! owner's, and cannot be used to see that the owner made one.

use std::net::IpAddr;

use jiff::Timestamp;

use super::error::StoreError;
use super::guards::account_digest;
use super::outbox::NewParcel;
use super::{Store, either};
use crate::model::{Email, Event, PasswordHash, network_of};

/// A sign-up that waits.
#[derive(Clone, Debug)]
pub struct SignUpAttempt {
    pub(super) account: [u8; 32],
    pub(super) network: String,
    pub(super) password: PasswordHash,
    pub(super) expires_at: Timestamp,
}

impl SignUpAttempt {
    /// A sign-up with this address from that place, remembered until `expires_at`.
    pub fn new(
        email: &Email,
        address: IpAddr,
        password: PasswordHash,
        expires_at: Timestamp,
    ) -> Self {
        let network = network_of(address).to_string();
        Self { account: account_digest(email.key()), network, password, expires_at }
    }
}

/// Sign-ups that wait.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Stores the letter of a sign-up with its event, and the attempt in place of an earlier one of
    /// the same address and network.
    pub async fn post_sign_up(
        &self,
        parcel: &NewParcel,
        attempt: &SignUpAttempt,
        event: &Event,
    ) -> Result<(), StoreError> {
        either!(self, backend => backend.post_sign_up(parcel, attempt, event).await)
    }
}
