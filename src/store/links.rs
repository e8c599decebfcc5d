//! Links and codes that were mailed: each is made for one purpose, used once, and gone.
//!
//! ```text
//! put_link ──mail──▶ use_link ─┬─▶ session
//!                              └─▶ code ──▶ trade_pkce ──▶ session      (with a challenge)
//! ```
//!
//! The database knows digests only. Whatever touches a user's links locks the user's row first, so
//! that of many uses of one link one has its effect.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;

use super::cases::{Fit, NewLogin};
use super::error::StoreError;
use super::{Store, either};
use crate::model::{
    AuthMethod, Challenge, Email, EndedSession, Event, JsonObject, PasswordHash, Proof, Purpose,
    Session, SessionId, TokenDigest, User, UserId,
};

/// A link, and the code in the same mail.
#[derive(Clone)]
pub struct NewLink {
    /// Digest of the token in the link.
    pub digest: TokenDigest,
    /// Whose it is.
    pub owner: LinkOwner,
    /// What it is good for.
    pub purpose: Purpose,
    /// Where it is sent.
    pub email: Email,
    /// What is stored of the code; `None` = the mail has none.
    pub code: Option<CodeMac>,
    /// Where the browser goes afterwards.
    pub redirect_to: Option<String>,
    /// The challenge of the client that asked.
    pub challenge: Option<Challenge>,
    /// Sign-up: the password that takes effect when this very link is used.
    pub password: Option<PasswordHash>,
    /// The metadata that an account not yet proved gets when this very link is used.
    pub user_metadata: Option<JsonObject>,
    /// Change of address: the new address that the letter names; `None` = whatever is wanted now.
    pub new_email: Option<Email>,
    /// Reauthentication: the session that may use it.
    pub session_id: Option<SessionId>,
    /// When it was asked for.
    pub now: Timestamp,
    /// Of no use from this time on.
    pub expires_at: Timestamp,
}

/// A keyed hash of the purpose, the address and a code of six digits, made with a key that is not
/// in the database: a plain hash of so few digits hides nothing.
pub type CodeMac = [u8; 32];

/// Whose link it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkOwner {
    /// This user, whose address, or whose wish for an address, it must still be.
    Id(UserId),
    /// Whoever has the address.
    Address,
    /// Whoever has the address; if nobody has, an account with this id, not proved and without a
    /// password.
    AddressOrNew(UserId),
}

/// How the making of a link ended. No link was stored but with [`PutLink::Stored`].
#[derive(Clone, Debug, PartialEq)]
pub enum PutLink {
    /// It is stored, in place of an earlier one: send it.
    Stored(User),
    /// The last one is too young.
    TooSoon,
    /// Nobody to send it to: no such account, or its address is or will be another one.
    NoUser,
    /// The purpose is to get an address that is this user's already.
    AddressTaken(User),
    /// The user is disabled.
    Disabled,
}

/// What was shown.
#[derive(Clone)]
pub enum Shown {
    /// The token of a link that must be good for one of these purposes.
    Link {
        /// The token's digest.
        digest: TokenDigest,
        /// What it may be good for.
        purposes: Vec<Purpose>,
    },
    /// A code with the address that it was sent to.
    Code {
        /// The address.
        email: Email,
        /// What it may be good for, with what would be stored of the code then.
        codes: Vec<(Purpose, CodeMac)>,
    },
}

/// A session to be, whose user the link will tell.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// A fresh id.
    pub id: SessionId,
    /// Digest of its first refresh token.
    pub refresh: TokenDigest,
    /// No refresh after this time.
    pub expires_at: Timestamp,
    /// `exp` of its first access token.
    pub access_expires_at: Timestamp,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// What the client called itself.
    pub user_agent: Option<String>,
    /// As [`NewLogin::max_sessions`].
    pub max_sessions: Option<NonZeroU32>,
    /// Judges it.
    pub fit: Fit,
}

impl NewSession {
    /// The session of this user.
    pub(super) fn login_of(&self, user: &UserId, method: AuthMethod, now: Timestamp) -> NewLogin {
        let session = Session {
            id: self.id,
            user_id: user.clone(),
            created_at: now,
            last_seen_at: now,
            expires_at: self.expires_at,
            access_expires_at: self.access_expires_at,
            address: self.address,
            user_agent: self.user_agent.clone(),
            methods: vec![Proof::new(method, now)],
            factor_id: None,
            ended: None,
        };
        let (max_sessions, fit) = (self.max_sessions, self.fit.clone());
        NewLogin { session, refresh: self.refresh, clears: None, max_sessions, fit }
    }
}

/// The code that a link leaves to the client that asked for it, instead of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PkceCode {
    /// Its digest.
    pub digest: TokenDigest,
    /// Of no use from this time on.
    pub expires_at: Timestamp,
}

/// A link or code that was shown, and what it may lead to.
#[derive(Clone)]
pub struct LinkUse {
    /// What was shown.
    pub shown: Shown,
    /// The session that begins.
    pub session: NewSession,
    /// What to leave instead of a session if the client that asked showed a challenge; `None` = a
    /// session in any case.
    pub pkce: Option<PkceCode>,
    /// Whether a [`LetterKind::EmailChanged`](crate::model::LetterKind::EmailChanged) goes to the
    /// former address when this completes a change.
    pub notify_former_address: bool,
    /// The time of the request.
    pub now: Timestamp,
    /// Time and origin of the events; what happened and to whom is filled in.
    pub event: Event,
}

/// How the use of a link ended. Each ending has its events.
#[expect(clippy::large_enum_variant, reason = "one for each link, taken apart at once")]
#[derive(Clone, Debug, PartialEq)]
pub enum UseLink {
    /// The session is stored.
    LoggedIn {
        /// The user as of now.
        user: User,
        /// The new session.
        session: Session,
        /// What the link was good for.
        purpose: Purpose,
        /// Where the browser goes.
        redirect_to: Option<String>,
        /// Sessions of somebody who had not proved to own the address, and those that were too many.
        ended: Vec<EndedSession>,
    },
    /// It had its effect; the client that asked gets its session for the code and its verifier.
    PkceCode {
        /// The user as of now.
        user: User,
        /// What the link was good for.
        purpose: Purpose,
        /// Where the browser goes.
        redirect_to: Option<String>,
        /// As in [`UseLink::LoggedIn`].
        ended: Vec<EndedSession>,
    },
    /// One of two addresses has agreed to a change; the other has not yet.
    HalfDone {
        /// The user as of now.
        user: User,
        /// Where the browser goes.
        redirect_to: Option<String>,
    },
    /// Unknown, expired, used, of another purpose, a wrong code, a disabled user.
    Refused,
    /// The new address became somebody else's meanwhile; the wish for it is gone.
    EmailTaken,
}

/// How the trade of a code for a session ended. The code is gone but with [`TradePkce::NotFound`].
#[expect(clippy::large_enum_variant, reason = "one for each login, taken apart at once")]
#[derive(Clone, Debug, PartialEq)]
pub enum TradePkce {
    /// The session is stored.
    LoggedIn {
        /// The user as of now.
        user: User,
        /// The new session.
        session: Session,
        /// The sessions that were too many.
        ended: Vec<EndedSession>,
    },
    /// No such code.
    NotFound,
    /// The code is too old, or its user disabled.
    Expired,
    /// The verifier does not fit the challenge.
    WrongVerifier,
}

/// A wish for another address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEmail {
    /// The address.
    pub email: Email,
    /// Who has to agree.
    pub consent: Consent,
}

/// Which addresses have to agree to a change of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// The current and the new one, in any order.
    Both,
    /// The new one.
    New,
}

/// Links and codes.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Stores a link in place of an earlier one of the same user and purpose, unless that one is
    /// younger than `not_within` was when this one was asked for. `event` is stored, with the user
    /// filled in, when an account was made for it.
    ///
    /// Of several wishes for one account to be, none brings a password or metadata: not the new link,
    /// not those before it, not even when [`PutLink::TooSoon`] keeps the new one back. Nor does a
    /// sign-up for an account that was there before.
    ///
    /// A repeated [`Purpose::Signup`] of [`LinkOwner::Address`] keeps password and metadata of the
    /// one that it replaces, expired or not.
    pub async fn put_link(
        &self,
        link: &NewLink,
        not_within: Duration,
        event: &Event,
    ) -> Result<PutLink, StoreError> {
        either!(self, backend => backend.put_link(link, not_within, event).await)
    }

    /// Uses a link or a code. A link is gone after its use; a code is gone after five wrong ones,
    /// its link stays: whoever guesses codes shall not keep others from their mail.
    ///
    /// An account whose address was not proved before is the prover's from now on: what others may
    /// have put there (password, metadata, sessions, links) goes. Only the link of a sign-up brings
    /// a password of its own.
    pub async fn use_link(&self, link_use: &LinkUse) -> Result<UseLink, StoreError> {
        either!(self, backend => backend.use_link(link_use).await)
    }

    /// Trades the code of a used link for a session (RFC 7636 §4.6). `event` as in
    /// [`LinkUse::event`].
    pub async fn trade_pkce(
        &self,
        code: TokenDigest,
        verifier: &str,
        session: &NewSession,
        now: Timestamp,
        event: &Event,
    ) -> Result<TradePkce, StoreError> {
        either!(self, backend => backend.trade_pkce(code, verifier, session, now, event).await)
    }

    /// Whether this is the code that was mailed to reauthenticate the session. It stays good until
    /// [`Store::update_user`] uses it; the fifth wrong one ends it.
    pub async fn check_nonce(
        &self,
        user: &UserId,
        session: &SessionId,
        code: CodeMac,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        either!(self, backend => backend.check_nonce(user, session, code, now).await)
    }
}
