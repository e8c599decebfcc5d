//! What goes into the use cases of the store and what comes out: plain values, one struct or enum
//! for each use case that has more than one ending.

use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::error::StoreError;
use super::guards::Lane;
use super::links::{CodeMac, NewEmail};
use super::outbox::NewParcel;
use crate::model::{
    Aal, Email, EndReason, EndedSession, Event, EventKind, JsonObject, Outcome, PasswordHash,
    Session, SessionId, TokenDigest, User, UserId,
};

/// A user to be.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// The account; its `email` is taken from [`NewAccount::email`].
    pub user: User,
    /// The address with the key that must be free.
    pub email: Email,
    /// `None` = no login by password.
    pub password_hash: Option<PasswordHash>,
}

/// Judges whether a user can be handed what a session is worth. It is asked inside the transaction,
/// where user and session are what will be stored: a session that nobody can be handed must not
/// begin, or take the place of another one.
#[derive(Clone)]
pub struct Fit(Arc<Judge>);

type Judge = dyn Fn(&User, &Session) -> bool + Send + Sync;

impl Fit {
    /// Judged by `fits`, which must be quick and wait for nothing.
    pub fn new(fits: impl Fn(&User, &Session) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(fits))
    }

    /// Whatever is handed out fits.
    pub fn always() -> Self {
        Self::new(|_, _| true)
    }

    pub(super) fn check(&self, user: &User, session: &Session) -> Result<(), StoreError> {
        if (self.0)(user, session) {
            Ok(())
        } else {
            Err(StoreError::Unfit { user: user.id.clone() })
        }
    }
}

impl fmt::Debug for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fit").finish_non_exhaustive()
    }
}

/// A session to be, with its first refresh token.
#[derive(Clone, Debug)]
pub struct NewLogin {
    /// The session.
    pub session: Session,
    /// Digest of its first refresh token.
    pub refresh: TokenDigest,
    /// The lane whose failed logins this login forgives.
    pub clears: Option<Lane>,
    /// How many running sessions the user may have with it; the oldest end. `None` = any number.
    pub max_sessions: Option<NonZeroU32>,
    /// Judges it.
    pub fit: Fit,
}

/// How a sign-up ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignUp {
    /// Account, session and event are stored.
    Created,
    /// The address has an account; nothing was stored.
    EmailTaken,
    /// The id has an account; nothing was stored.
    IdTaken,
}

/// How a login ended.
#[expect(clippy::large_enum_variant, reason = "one for each login, moved twice")]
#[derive(Clone, Debug, PartialEq)]
pub enum LogIn {
    /// Session and event are stored.
    Done {
        /// The user as of now.
        user: User,
        /// The sessions that were too many.
        ended: Vec<EndedSession>,
    },
    /// The account is gone or disabled, or the password changed since it was checked; nothing was
    /// stored.
    Refused,
}

/// A refresh token that was shown, and what it is to be traded for.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Digest of the token that was shown.
    pub shown: TokenDigest,
    /// Digest of the token to give out.
    pub successor: TokenDigest,
    /// The token to give out, encrypted so that only the shown token opens it.
    pub sealed_successor: Vec<u8>,
    /// The time of the request.
    pub now: Timestamp,
    /// For how long after its use a token gets the same successor again.
    pub reuse_window: Duration,
    /// A session that was not seen for longer than this is over.
    pub idle: Duration,
    /// `exp` of the access token to give out.
    pub access_expires_at: Timestamp,
    /// Judges what is to be given out.
    pub fit: Fit,
    /// Stored when the token is rotated, with user and session filled in; when it was used before,
    /// stored as a failed [`EventKind::RefreshReuse`].
    pub event: Event,
}

impl Rotation {
    pub(super) fn event_of(&self, session: &Session) -> Event {
        Event {
            user_id: Some(session.user_id.clone()),
            session_id: Some(session.id),
            ..self.event.clone()
        }
    }

    pub(super) fn reuse_event_of(&self, session: &Session) -> Event {
        Event { kind: EventKind::RefreshReuse, outcome: Outcome::Failure, ..self.event_of(session) }
    }
}

/// How a refresh ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Refresh {
    /// The successor is stored: give it out.
    Rotated {
        /// Whose session it is.
        user: User,
        /// The session, as of now.
        session: Session,
    },
    /// The token was traded before and its answer may be lost: give out the same successor again.
    Repeated {
        /// Whose session it is.
        user: User,
        /// The session, as of now.
        session: Session,
        /// The first trade's [`Rotation::sealed_successor`].
        sealed_successor: Vec<u8>,
    },
    /// No such token.
    NotFound,
    /// The token was traded before and its successor used: one of the two is stolen. The session
    /// was ended and an event stored.
    Reused {
        /// Whose session it was.
        user_id: UserId,
        /// The session.
        session_id: SessionId,
    },
    /// The session reached its limit or went unused for too long.
    Expired,
    /// The session was ended before.
    Ended(EndReason),
    /// The user is disabled.
    Disabled,
}

/// A refresh token that somebody was given.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownToken {
    /// Whose session it is.
    pub user: User,
    /// The session, ended or not.
    pub session: Session,
    /// Whether it was traded.
    pub used: bool,
}

/// Which sessions of a user to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// Every one.
    All,
    /// This one, if it is the user's.
    One(SessionId),
    /// Every one but this.
    Others(SessionId),
    /// Every one but this that has shown the second factor.
    OthersOfFactor(SessionId, Uuid),
}

/// What to change of a user.
#[derive(Clone, Debug)]
pub struct UserUpdate {
    /// Merged into `user_metadata` at the top level; `null` deletes a key.
    pub metadata_patch: Option<JsonObject>,
    /// Longest `user_metadata` after the merge, as compact JSON.
    pub max_metadata_bytes: usize,
    /// The new hash, and the one that must still be stored; `None` = whatever is stored. Ends every
    /// other session.
    pub new_password: Option<(PasswordHash, Option<PasswordHash>)>,
    /// The session that stays when the password changes.
    pub keep_session: SessionId,
    /// What the token of whoever asks says of that session, as [`Holder::aal`](super::Holder::aal).
    pub aal: Aal,
    /// Whether the others end when the password changes.
    pub sign_out_others: bool,
    /// A code of [`Purpose::Reauthentication`](crate::model::Purpose::Reauthentication) of
    /// `keep_session` that allows this and is used up by it; see
    /// [`Store::check_nonce`](super::Store::check_nonce).
    pub nonce: Option<CodeMac>,
    /// Another address, once it has agreed; takes the place of an earlier wish.
    pub new_email: Option<NewEmail>,
    /// Letters about the change.
    pub parcels: Vec<NewParcel>,
}

/// How a user's change ended.
#[expect(clippy::large_enum_variant, reason = "one for each change, moved twice")]
#[derive(Clone, Debug, PartialEq)]
pub enum UpdateUser {
    /// Changes and events are stored.
    Done {
        /// The user as of now.
        user: User,
        /// The sessions that a new password ended.
        ended: Vec<EndedSession>,
    },
    /// No such user, or the session that asks has ended; nothing was stored.
    NotFound,
    /// The stored hash is not the expected one; nothing was stored.
    PasswordChangedMeanwhile,
    /// The merged metadata is too long; nothing was stored.
    MetadataTooLarge,
    /// The nonce was used meanwhile, or is none; nothing was stored.
    NonceRefused,
    /// A new password or address, and the session has not shown the user's second factor; nothing
    /// was stored.
    NeedsAal2,
}

/// Which events to list; every condition that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Of this kind.
    pub kind: Option<EventKind>,
    /// Of this user.
    pub user_id: Option<UserId>,
    /// With this address tried; ASCII case is ignored.
    pub email: Option<String>,
    /// With this outcome.
    pub outcome: Option<Outcome>,
    /// At this time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

/// How many connections the store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Open.
    pub size: usize,
    /// Open and not in use.
    pub available: usize,
    /// Callers that wait for one.
    pub waiting: usize,
}

/// What bringing the schema up to date did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Version before; `None` = the database was empty.
    pub from: Option<u32>,
    /// Version now.
    pub to: u32,
    /// Names of the migrations that were applied.
    pub applied: Vec<String>,
}

/// How far a reader of commits has read. Only valid for the store that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// PostgreSQL: every transaction before `xmin` was over when the reader looked; `server` is the
    /// start of the server that said so.
    Transaction { server: Timestamp, xmin: u64 },
    /// SQLite: the last row that the reader saw.
    Row(i64),
}

/// How far a gateway has read the ended sessions; the default has read none.
#[derive(Clone, Debug, Default)]
pub struct RevocationCursor {
    pub(super) mark: Option<Mark>,
}

/// How far somebody has followed the events. The default starts at the first call, which returns
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct EventCursor {
    pub(super) mark: Option<Mark>,
    /// Events returned from transactions that the mark does not cover.
    pub(super) seen: HashSet<Uuid>,
    /// How many events of the past the first call returns.
    pub(super) past: u32,
}

impl EventCursor {
    /// A cursor whose first call returns the newest `n` events of the past.
    pub fn with_last(n: u32) -> Self {
        Self { past: n, ..Self::default() }
    }
}
