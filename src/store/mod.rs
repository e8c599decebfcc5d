//! Users, sessions, keys and events at rest: one method per use case, each one transaction, on
//! PostgreSQL or on an embedded SQLite file.
//!
//! A change and its event commit together or not at all. The store knows neither HTTP nor how
//! passwords, tokens and keys are made; it decides only what must be decided under a lock, and
//! both backends decide it in the same functions (`rules`). A call ends within two seconds, but for those that say otherwise: migrations, and
//! what goes through all events.
//!
//! ```text
//! Store ─┬─ Postgres   pool of connections, row locks          postgres/
//!        └─ Sqlite     one writing thread, a few that read     sqlite/
//!              └─ admin, api_keys, cases, deliveries, erasure, factors, guards, imports, keys, links,
//!                 outbox, passwords, retention, seals, trail (in, out)
//!                 rules (decisions) · record (rows) · migrate · url
//! ```

mod admin;
mod api_keys;
mod attempts;
mod cases;
mod deliveries;
mod erasure;
mod error;
mod factors;
mod guards;
mod imports;
mod keys;
mod links;
mod migrate;
mod outbox;
mod passwords;
mod postgres;
mod record;
mod retention;
mod rules;
mod seals;
mod sqlite;
mod trail;
mod url;

use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use uuid::Uuid;

pub use admin::{Ban, ChangeUser, Deletion, UserChange, UserPage};
pub use api_keys::{AddApiKey, ApiKeyCursor, ApiKeyNews, ChangedApiKey, KeyName, RotateApiKey};
pub use attempts::SignUpAttempt;
pub use cases::{
    EventCursor, EventFilter, Fit, KnownToken, LogIn, Migrated, NewAccount, NewLogin, PoolStatus,
    Refresh, RevocationCursor, Rotation, Sessions, SignUp, UpdateUser, UserUpdate,
};
pub use deliveries::{Delivery, DeliveryState};
pub use error::{Cause, StoreError};
pub use factors::{
    AddFactor, FactorProof, FactorVerification, Holder, NewFactor, OpenChallenge, RemoveFactor,
    Remover, ReplaceRecoveryCodes, VerifyFactor,
};
pub use guards::{Guard, Lane, LoginState};
pub use imports::{ImportBatch, ImportProgress, ImportedAccount};
pub use keys::{RetireKey, RevokeKey};
pub use links::{
    CodeMac, Consent, LinkOwner, LinkUse, NewEmail, NewLink, NewSession, PkceCode, PutLink, Shown,
    TradePkce, UseLink,
};
pub use outbox::{Claimed, NewParcel, OutboxState, Parcel, ParcelKind, Stored};
pub use passwords::{Classified, Unclassified};
pub use postgres::Postgres;
pub use retention::Removed;
pub use seals::{Reencrypted, SealedColumn, SealedRow};
pub use sqlite::Sqlite;
pub use trail::{EventPage, EventSelection, Trail};

use crate::config;
use crate::model::{
    Account, Email, EndReason, EndedSession, Event, PasswordHash, Session, SessionId, StoredEvent,
    TokenDigest, User, UserId,
};
use crate::secrets::Keyring;

/// The database. Every method that returns a `Result` may fail with any [`StoreError`]; nothing is
/// stored then, but for a commit whose answer was lost.
pub enum Store {
    /// A PostgreSQL server.
    Postgres(Box<Postgres>),
    /// A file.
    Sqlite(Sqlite),
}

/// Calls the method of whichever backend it is.
macro_rules! either {
    ($store:expr, $backend:ident => $call:expr) => {
        match $store {
            Store::Postgres($backend) => $call,
            Store::Sqlite($backend) => $call,
        }
    };
}
use either;

/// The database as a whole.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Opens the database that `storage.url` names; `secrets` says how private keys are kept there. A PostgreSQL server need not be reachable yet;
    /// a SQLite file is made, readable by its owner only, if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Url`] when the URL is malformed, or names a file or certificate that cannot be
    /// used; [`StoreError::Keyring`].
    pub fn open(storage: &config::Storage, secrets: &config::Secrets) -> Result<Self, StoreError> {
        let keyring = Keyring::new(secrets).map_err(StoreError::Keyring)?;
        let writer = uuid::Builder::from_random_bytes(crate::clock::random_bytes()).into_uuid();
        Ok(match url::Target::parse(storage.url.expose_secret())? {
            url::Target::Postgres(target) => {
                Self::Postgres(Box::new(Postgres::open(*target, storage, writer, keyring)?))
            }
            url::Target::Sqlite(file) => Self::Sqlite(Sqlite::open(file, writer, keyring)?),
        })
    }

    /// Whether [`open`](Self::open) would take this URL. Opens nothing.
    ///
    /// # Errors
    /// [`StoreError::Url`].
    pub fn check(storage: &config::Storage) -> Result<(), StoreError> {
        url::Target::parse(storage.url.expose_secret()).map(drop)
    }

    /// Backend and place for people: host and database, or the file. Never a password.
    pub fn describe(&self) -> String {
        either!(self, backend => backend.describe())
    }

    /// Brings the schema up to date; safe when several processes do so at once. Waits as long as
    /// it takes.
    ///
    /// # Errors
    /// [`StoreError::SchemaAhead`] when a newer program was here.
    pub async fn migrate(&self) -> Result<Migrated, StoreError> {
        either!(self, backend => backend.migrate().await)
    }

    /// Whether the schema is this program's.
    ///
    /// # Errors
    /// [`StoreError::SchemaBehind`] or [`StoreError::SchemaAhead`] when it is not.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        either!(self, backend => backend.check_schema().await)
    }

    /// Whether the database lets this program read and add rows everywhere. SQLite always does.
    ///
    /// # Errors
    /// [`StoreError::Rights`] when it does not.
    pub async fn check_rights(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(backend) => backend.check_rights().await,
            Self::Sqlite(_) => Ok(()),
        }
    }

    /// The time of the database's server; `None` on SQLite, which goes by this machine's clock.
    pub async fn time(&self) -> Result<Option<Timestamp>, StoreError> {
        match self {
            Self::Postgres(backend) => backend.time().await,
            Self::Sqlite(_) => Ok(None),
        }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        either!(self, backend => backend.ping().await)
    }

    /// Connections; on SQLite the threads that own them.
    pub fn pool_status(&self) -> PoolStatus {
        either!(self, backend => backend.pool_status())
    }

    /// Deletes what nobody asks for any more: revocations whose tokens have expired, sessions and
    /// used refresh tokens 30 days after their end, API keys as well, links that have expired (those of
    /// sign-ups a week later), accounts that a letter made a week ago, that nobody proved and that have
    /// nothing of their own, challenges that have expired, factors that were not verified in time,
    /// parcels 30 days after they were given up, failed logins after a quiet day, sign-ups whose letter
    /// has expired, how far imports have come after 30 days. In many small transactions. Returns the
    /// number of rows.
    pub async fn prune(&self, now: Timestamp) -> Result<u64, StoreError> {
        either!(self, backend => backend.prune(now).await)
    }
}

/// Accounts.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Stores an account, its first login if there is one, and the event. Of several sign-ups with
    /// one address one is [`SignUp::Created`].
    pub async fn sign_up(
        &self,
        new: &NewAccount,
        login: Option<&NewLogin>,
        event: &Event,
    ) -> Result<SignUp, StoreError> {
        either!(self, backend => backend.sign_up(new, login, event).await)
    }

    /// The account with this address.
    pub async fn account_by_email(&self, email: &Email) -> Result<Option<Account>, StoreError> {
        either!(self, backend => backend.account_by_email(email).await)
    }

    /// The account with this id.
    pub async fn account_by_id(&self, user: &UserId) -> Result<Option<Account>, StoreError> {
        either!(self, backend => backend.account_by_id(user).await)
    }

    /// The user with this id.
    pub async fn user(&self, user: &UserId) -> Result<Option<User>, StoreError> {
        either!(self, backend => backend.user(user).await)
    }

    /// At most `limit` users in the order of their ids, after `after`; those whose address or id
    /// contains `filter`, if given.
    pub async fn users(
        &self,
        filter: Option<&str>,
        limit: u32,
        after: Option<&UserId>,
    ) -> Result<Vec<User>, StoreError> {
        either!(self, backend => backend.users(filter, limit, after).await)
    }

    /// Stores a login at `login.session.created_at` after `checked` was found to match the
    /// password: the stored hash must still be that one (it becomes `rehashed`, if given), and the
    /// user not disabled.
    pub async fn log_in(
        &self,
        user: &UserId,
        checked: &PasswordHash,
        rehashed: Option<&PasswordHash>,
        login: &NewLogin,
        event: &Event,
    ) -> Result<LogIn, StoreError> {
        either!(self, backend => backend.log_in(user, checked, rehashed, login, event).await)
    }

    /// Stores the first password of a user who has none and is not disabled, and the login with it,
    /// at `login.session.created_at`. The address counts as proved from now on; links that were
    /// mailed before do not.
    pub async fn move_in(
        &self,
        user: &UserId,
        password: &PasswordHash,
        login: &NewLogin,
        event: &Event,
    ) -> Result<LogIn, StoreError> {
        either!(self, backend => backend.move_in(user, password, login, event).await)
    }

    /// Changes a user's own metadata, password, or wish for another address; all or nothing. A new
    /// password ends the other sessions, every link that was mailed, and an earlier wish for
    /// another address.
    pub async fn update_user(
        &self,
        user: &UserId,
        update: &UserUpdate,
        now: Timestamp,
        events: &[Event],
    ) -> Result<UpdateUser, StoreError> {
        either!(self, backend => backend.update_user(user, update, now, events).await)
    }
}

/// Sessions and refresh tokens.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Trades a refresh token for its successor (RFC 9700 §4.14.2). Of many trades of one token one
    /// is [`Refresh::Rotated`]; the others get the same successor.
    pub async fn refresh(&self, rotation: &Rotation) -> Result<Refresh, StoreError> {
        either!(self, backend => backend.refresh(rotation).await)
    }

    /// The session of a refresh token, used and ended ones too. Locks nothing.
    pub async fn session_of_refresh_token(
        &self,
        digest: TokenDigest,
    ) -> Result<Option<SessionId>, StoreError> {
        either!(self, backend => backend.session_of_refresh_token(digest).await)
    }

    /// The refresh token with this digest, used ones too. Changes nothing.
    pub async fn refresh_token(
        &self,
        digest: TokenDigest,
    ) -> Result<Option<KnownToken>, StoreError> {
        either!(self, backend => backend.refresh_token(digest).await)
    }

    /// Ends sessions of a user and makes every gateway refuse their access tokens. The event is
    /// stored when there was a session to end. Returns what was ended.
    pub async fn end_sessions(
        &self,
        user: &UserId,
        which: Sessions,
        reason: EndReason,
        now: Timestamp,
        event: &Event,
    ) -> Result<Vec<EndedSession>, StoreError> {
        either!(self, backend => backend.end_sessions(user, which, reason, now, event).await)
    }

    /// Makes every gateway refuse one token that belongs to no session, by its own id. The event is
    /// stored unless the token was refused already; returns whether it was not.
    pub async fn revoke_token(
        &self,
        token: EndedSession,
        event: &Event,
    ) -> Result<bool, StoreError> {
        either!(self, backend => backend.revoke_token(token, event).await)
    }

    /// The session with this id, ended ones too.
    pub async fn session(&self, id: &SessionId) -> Result<Option<Session>, StoreError> {
        either!(self, backend => backend.session(id).await)
    }

    /// The user's sessions that neither ended nor reached their limit, newest first.
    pub async fn sessions_of(
        &self,
        user: &UserId,
        now: Timestamp,
    ) -> Result<Vec<Session>, StoreError> {
        either!(self, backend => backend.sessions_of(user, now).await)
    }

    /// Notes when sessions were used; a time before the known one changes nothing.
    pub async fn touch_sessions(&self, seen: &[(SessionId, Timestamp)]) -> Result<(), StoreError> {
        either!(self, backend => backend.touch_sessions(seen).await)
    }

    /// Ended sessions that this cursor has not returned and whose access tokens may still be
    /// accepted (those that expired within the last hour are among them, for the sake of clock
    /// differences). Never leaves one out, however late its transaction commits; may repeat some.
    pub async fn ended_sessions(
        &self,
        cursor: &mut RevocationCursor,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>, StoreError> {
        either!(self, backend => backend.ended_sessions(cursor, now).await)
    }
}

/// Events.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Stores events of what changed nothing else: refused logins, denials.
    pub async fn record(&self, events: &[Event]) -> Result<(), StoreError> {
        either!(self, backend => backend.record(events).await)
    }

    /// At most `limit` events of one user, newest first; `before` = time and id of the last one of
    /// the page before.
    pub async fn events_of_user(
        &self,
        user: &UserId,
        limit: u32,
        before: Option<(Timestamp, Uuid)>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        either!(self, backend => backend.events_of_user(user, limit, before).await)
    }

    /// At most `limit` events that pass the filter, newest first; `before` as in
    /// [`Store::events_of_user`].
    pub async fn events(
        &self,
        filter: &EventFilter,
        limit: u32,
        before: Option<(Timestamp, Uuid)>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        either!(self, backend => backend.events(filter, limit, before).await)
    }

    /// Events that were committed since the last call with this cursor, each once, oldest first.
    pub async fn new_events(
        &self,
        cursor: &mut EventCursor,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        either!(self, backend => backend.new_events(cursor).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The control runtime moves calls between threads.
    #[test]
    fn calls_may_move_between_threads() {
        fn is_send<T: Send>(_: T) {}
        fn all(
            store: &Store,
            user: &UserId,
            event: &Event,
            r: &Rotation,
            login: &NewLogin,
            session: &NewSession,
        ) {
            let now = r.now;
            is_send(store.migrate());
            is_send(store.log_in(user, &PasswordHash(String::new()), None, login, event));
            is_send(store.refresh(r));
            is_send(store.disable(user, now, now, event));
            is_send(store.ended_sessions(&mut RevocationCursor::default(), now));
            is_send(store.new_events(&mut EventCursor::default()));
            is_send(store.prune(now));
            is_send(store.make_event_partitions(now));
            is_send(store.drop_empty_event_partitions(now));
            is_send(store.prune_events(now, now, &mut Removed::default()));
            is_send(store.check_events(1));
            is_send(store.claim_delivery(now, r.idle, 1));
            is_send(store.skip_deliveries(now, event));
            is_send(store.trade_pkce(r.shown, "", session, now, event));
            is_send(store.claim(ParcelKind::Mail, now, r.idle, 1));
        }
        let _: fn(&Store, &UserId, &Event, &Rotation, &NewLogin, &NewSession) = all;
    }
}
