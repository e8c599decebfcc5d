//! Account requests in one line, and a second look at what they stored.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use portcullis::config::{Secrets, Storage};
use portcullis::model::{Event, EventKind, Outcome, StoredEvent, uuid_v7};
use portcullis::store::{EventFilter, Store};
use serde_json::{Value, json};

use super::client::{Answer, patiently};
use super::gateway::{PASSWORD, TestGateway};

impl TestGateway {
    /// Posts JSON.
    pub(crate) async fn post_json(&self, target: &str, body: &Value) -> Answer {
        self.post(target).json(body).send().await
    }

    /// Tries to log in.
    pub(crate) async fn log_in(&self, email: &str, password: &str) -> Answer {
        self.post_json("/auth/login", &json!({ "email": email, "password": password })).await
    }

    /// Tries to sign up.
    pub(crate) async fn try_sign_up(&self, email: &str) -> Answer {
        self.post_json("/auth/signup", &json!({ "email": email, "password": PASSWORD })).await
    }

    /// Shows a refresh token.
    pub(crate) async fn refresh(&self, refresh_token: &str) -> Answer {
        let body = json!({ "refresh_token": refresh_token });
        self.post_json("/auth/token?grant_type=refresh_token", &body).await
    }

    /// A `GET` with an access token.
    pub(crate) async fn get_as(&self, token: &str, target: &str) -> Answer {
        self.get(target).bearer(token).send().await
    }

    /// Its SQLite file, opened a second time.
    pub(crate) fn store(&self) -> Store {
        open_store(&format!("sqlite:{}", self.file("portcullis.db").display()))
    }
}

/// A database, opened a second time.
pub(crate) fn open_store(url: &str) -> Store {
    let storage = Storage { url: url.into(), max_connections: 2, migrate: false };
    Store::open(&storage, &Secrets::default()).expect("the store opens")
}

/// The events of one kind, oldest first.
pub(crate) async fn events_of(store: &Store, kind: EventKind) -> Vec<StoredEvent> {
    let filter = EventFilter { kind: Some(kind), ..EventFilter::default() };
    let mut events = store.events(&filter, 10_000, None).await.expect("events are read");
    events.reverse();
    events
}

/// The events of one kind, once there are so many of them.
pub(crate) async fn until_events(store: &Store, kind: EventKind, count: usize) -> Vec<StoredEvent> {
    let what = format!("{count} events of the kind {}", kind.as_str());
    patiently(&what, async {
        loop {
            let events = events_of(store, kind).await;
            if events.len() >= count {
                return events;
            }
            pause().await;
        }
    })
    .await
}

/// Checks that no event is there twice and that each writer's numbers are 1, 2, 3, …
#[track_caller]
pub(crate) fn expect_no_gaps(events: &[StoredEvent]) {
    let ids: BTreeSet<_> = events.iter().map(|stored| stored.event.id).collect();
    assert_eq!(ids.len(), events.len());
    let mut writers: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for stored in events {
        writers.entry(stored.writer).or_default().push(stored.number);
    }
    for numbers in writers.values_mut() {
        numbers.sort_unstable();
        assert!((1..).zip(&*numbers).all(|(n, number)| n == *number), "{numbers:?}");
    }
}

/// Between two looks at something that cannot be awaited.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// An event for what a test stores by itself.
pub(crate) fn noted(kind: EventKind, at: Timestamp) -> Event {
    Event {
        id: uuid_v7(at),
        at,
        kind,
        outcome: Outcome::Success,
        reason: None,
        actor: Some("test".to_owned()),
        user_id: None,
        email: None,
        session_id: None,
        address: None,
        user_agent: None,
        request_id: None,
    }
}
