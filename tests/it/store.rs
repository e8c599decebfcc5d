//! The store's contract, the same suite over both backends, then what each backend has of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accounts;
mod admin;
mod api_keys;
mod deliveries;
mod erasure;
mod events;
mod factors;
mod guards;
mod imports;
mod keys;
mod links;
mod on_postgres;
mod on_sqlite;
mod outbox;
mod partitions;
mod passwords;
mod retention;
mod schema;
mod sessions;
mod trail;

use std::time::Duration;

use jiff::Timestamp;
use portcullis::clock;
use portcullis::config::{Secrets, Storage};
use portcullis::model::{
    AuthMethod, Event, EventKind, JsonObject, PasswordHash, Proof, Session, TokenDigest, User,
    UserId,
};
use portcullis::store::{
    EventFilter, Fit, NewAccount, NewLogin, Refresh, RevocationCursor, Rotation, SignUp, Store,
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::harness::noted;
use crate::harness::postgres::{self, Database};

/// Makes a test of each function for each backend.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::store::Home::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::store::Home::postgres().await).await;
            })+
        }
    };
}
use on_both;

/// A store with the database that it is on.
struct Home {
    store: Store,
    place: Place,
    storage: Storage,
}

enum Place {
    Postgres(Database),
    Sqlite(TempDir),
}

impl Home {
    async fn sqlite() -> Self {
        let home = Self::empty_sqlite();
        home.store.migrate().await.unwrap();
        home
    }

    async fn postgres() -> Self {
        Self::on(postgres::database().await)
    }

    fn empty_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("store.db").display());
        let storage = Storage { url: url.into(), ..Storage::default() };
        let store = Store::open(&storage, &Secrets::default()).unwrap();
        Self { store, place: Place::Sqlite(folder), storage }
    }

    fn on(database: Database) -> Self {
        let storage =
            Storage { url: database.url.as_str().into(), max_connections: 4, migrate: true };
        let store = Store::open(&storage, &Secrets::default()).unwrap();
        Self { store, place: Place::Postgres(database), storage }
    }

    /// The store of another process on the same database.
    fn another(&self) -> Store {
        Store::open(&self.storage, &Secrets::default()).unwrap()
    }

    /// The same with keys for what is sealed.
    fn another_with(&self, secrets: &Secrets) -> Store {
        Store::open(&self.storage, secrets).unwrap()
    }

    /// Runs SQL behind the store's back.
    async fn sql(&self, sql: &str) {
        match &self.place {
            Place::Postgres(database) => database.sql(sql).await,
            Place::Sqlite(_) => self.sqlite_connection().execute_batch(sql).unwrap(),
        }
    }

    fn sqlite_connection(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.sqlite_file()).unwrap()
    }

    fn sqlite_file(&self) -> std::path::PathBuf {
        match &self.place {
            Place::Sqlite(folder) => folder.path().join("store.db"),
            Place::Postgres(_) => panic!("not on SQLite"),
        }
    }

    /// Signs somebody up with a first login at `at(0)`.
    async fn user(&self, name: &str) -> (UserId, NewLogin) {
        let new = account(name);
        let login = login(&new.user.id, 0);
        let signed_up = self.store.sign_up(&new, Some(&login), &event(EventKind::Signup, 0)).await;
        assert_eq!(signed_up.unwrap(), SignUp::Created);
        (new.user.id, login)
    }

    /// The kinds of all events, newest first.
    async fn kinds(&self) -> Vec<EventKind> {
        let all = self.store.events(&EventFilter::default(), 1000, None).await.unwrap();
        all.into_iter().map(|stored| stored.event.kind).collect()
    }

    /// The ended sessions from the beginning.
    async fn revoked(&self, second: i64) -> Vec<Uuid> {
        let mut cursor = RevocationCursor::default();
        let ended = self.store.ended_sessions(&mut cursor, at(second)).await.unwrap();
        ended.into_iter().map(|session| session.id).collect()
    }
}

/// Some time in 2027, in seconds from an arbitrary one.
fn at(second: i64) -> Timestamp {
    Timestamp::from_microsecond(1_800_000_000_123_456 + second * 1_000_000).unwrap()
}

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn account(name: &str) -> NewAccount {
    let id: UserId = format!("u-{name}").parse().unwrap();
    let email: portcullis::model::Email = format!("{name}@Example.com").parse().unwrap();
    NewAccount {
        user: User {
            user_metadata: object(serde_json::json!({"name": name})),
            ..User::new(id, email.address(), at(0))
        },
        email,
        password_hash: Some(hash("first")),
    }
}

fn hash(text: &str) -> PasswordHash {
    PasswordHash(format!("$test${text}"))
}

fn object(value: serde_json::Value) -> JsonObject {
    serde_json::from_value(value).unwrap()
}

/// A login that lasts 30 days, with access tokens of one hour.
fn login(user: &UserId, second: i64) -> NewLogin {
    NewLogin {
        session: Session {
            id: Uuid::from_bytes(clock::random_bytes()),
            user_id: user.clone(),
            created_at: at(second),
            last_seen_at: at(second),
            expires_at: at(second + 30 * DAY),
            access_expires_at: at(second + HOUR),
            address: Some("2001:db8::1".parse().unwrap()),
            user_agent: Some("test/1".to_owned()),
            methods: vec![Proof::new(AuthMethod::Password, at(second))],
            factor_id: None,
            ended: None,
        },
        refresh: digest(),
        clears: None,
        max_sessions: None,
        fit: Fit::always(),
    }
}

fn digest() -> TokenDigest {
    TokenDigest(clock::random_bytes())
}

fn event(kind: EventKind, second: i64) -> Event {
    Event { actor: None, ..noted(kind, at(second)) }
}

/// A refresh with `shown`, at `second`.
fn rotation(shown: TokenDigest, second: i64) -> Rotation {
    let successor = digest();
    Rotation {
        shown,
        successor,
        // What only the shown token opens; here it is enough that it names the successor.
        sealed_successor: successor.0.to_vec(),
        now: at(second),
        reuse_window: Duration::from_secs(10),
        idle: Duration::from_hours(7 * 24),
        access_expires_at: at(second + HOUR),
        fit: Fit::always(),
        event: event(EventKind::TokenRefreshed, second),
    }
}

/// The token that the refresh gave out, and whether it was the first to.
fn given(refresh: Refresh, offered: &Rotation) -> (TokenDigest, bool) {
    match refresh {
        Refresh::Rotated { .. } => (offered.successor, true),
        Refresh::Repeated { sealed_successor, .. } => {
            (TokenDigest(sealed_successor.try_into().unwrap()), false)
        }
        other => panic!("{other:?}"),
    }
}
