//! Failed logins: each makes the next one wait a little longer, in its lane.
//!
//! ```text
//! from a network in which the account had a session within 30 days ──▶ the lane of that network
//! from anywhere else ────────────────────────────────────────────────▶ the lane of strangers
//! ```
//!
//! Whoever guesses from elsewhere so slows down strangers and not the owner, who never finds the
//! account locked at home. From a new place, while somebody guesses, the way in is a mailed link;
//! the session that it begins makes the place known. An address that nobody has is guarded, too, by
//! the same statements: whether it has an account cannot be seen here. (Who is in a user's own
//! network can see that the network is known, and shares the user's lane: at worst a minute's
//! wait.)

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use ipnet::IpNet;
use jiff::Timestamp;

use super::error::StoreError;
use super::{Store, either};
use crate::model::{Account, Email, Event, PasswordHash, network_of};

/// Where failed logins to one account are counted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// SHA-256 of the folded address: the database keeps no list of addresses that were tried.
    pub(super) account: [u8; 32],
    /// A network in which the account is known; `None` = anywhere else.
    network: Option<IpNet>,
}

impl Lane {
    /// The lane of logins from where the account is not known.
    pub fn of_strangers(email: &Email) -> Self {
        Self { account: account_digest(email.key()), network: None }
    }

    /// The lane of logins from the network of `address`, in which the account is known.
    pub fn at_home(email: &Email, address: IpAddr) -> Self {
        Self { account: account_digest(email.key()), network: Some(network_of(address)) }
    }

    /// What the account is known by here: a network as `192.0.2.0/24`, or `*`.
    pub fn name(&self) -> String {
        self.network.map_or_else(|| STRANGERS.to_owned(), |network| network.to_string())
    }
}

/// The [`Lane::name`] of all networks in which an account is not known.
pub(super) const STRANGERS: &str = "*";

/// What stands for the account with this [`Email::key`].
pub(super) fn account_digest(key: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    bytes
}

/// What a login by password begins with.
#[derive(Clone, Debug)]
pub struct LoginState {
    /// The account with this address.
    pub account: Option<Account>,
    /// Where the login counts.
    pub lane: Lane,
    /// No try before this time; may have passed.
    pub blocked_until: Option<Timestamp>,
    /// The password of a sign-up with this address, from the same network, that waits for the proof
    /// of the address. It logs nobody in.
    pub signed_up: Option<PasswordHash>,
}

/// Failed logins in one lane of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The lane's [`Lane::name`].
    pub lane: String,
    /// How many failed in a row.
    pub failures: i64,
    /// When the last one did.
    pub failed_at: Timestamp,
    /// No try before this time; may have passed.
    pub blocked_until: Timestamp,
}

/// A row of either backend: the account, whether it is known in the network, until when the network's
/// lane and that of strangers are blocked, and the password of a sign-up from the network.
#[derive(Default)]
pub(super) struct FoundState {
    pub(super) account: Option<Account>,
    pub(super) is_known: bool,
    pub(super) at_home: Option<Timestamp>,
    pub(super) strangers: Option<Timestamp>,
    pub(super) signed_up: Option<PasswordHash>,
}

impl FoundState {
    pub(super) fn judged(self, email: &Email, address: IpAddr) -> LoginState {
        let (lane, blocked_until) = if self.is_known {
            (Lane::at_home(email, address), self.at_home)
        } else {
            (Lane::of_strangers(email), self.strangers)
        };
        LoginState { account: self.account, lane, blocked_until, signed_up: self.signed_up }
    }
}

/// Failed logins.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// The account with this address, and what a login from `address` at `now` has to wait for. One
    /// statement, the same whether or not there is an account.
    pub async fn login_state(
        &self,
        email: &Email,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<LoginState, StoreError> {
        let found = either!(self, backend => backend.login_state(email, address, now).await)?;
        Ok(found.judged(email, address))
    }

    /// Counts a failed login at `event.at` in its lane, and stores the event.
    pub async fn refuse_login(&self, lane: &Lane, event: &Event) -> Result<(), StoreError> {
        either!(self, backend => backend.refuse_login(lane, event).await)
    }

    /// The account's lanes that have failed logins, by name.
    pub async fn guards_of(&self, email: &Email) -> Result<Vec<Guard>, StoreError> {
        let account = account_digest(email.key());
        either!(self, backend => backend.guards_of(account).await)
    }

    /// Forgets the account's failed logins. The event is stored when there were any. Returns the
    /// number of lanes.
    pub async fn clear_guards(&self, email: &Email, event: &Event) -> Result<u64, StoreError> {
        let account = account_digest(email.key());
        either!(self, backend => backend.clear_guards(account, event).await)
    }
}
