//! Contract section 6: what is remembered of what happened, and when.

use std::time::Duration;

use portcullis::model::{Event, EventKind, Outcome, StoredEvent, UserId};
use portcullis::store::{EventFilter, Store};
use serde_json::{Value, json};

use crate::harness::{
    Answer, Builder, PASSWORD, Request, TestGateway, Upstream, events_of, expect_no_gaps,
    open_store, patiently, pause, postgres, until_events,
};

const AGENT: &str = "Browser/1.0 (tests)";

/// Where the proxy says that requests come from.
const FROM: &str = "203.0.113.7";

fn builder(upstream: &Upstream) -> Builder {
    TestGateway::builder().upstream("app", upstream).config(
        r#"
        [server]
        trusted_proxies = ["127.0.0.0/8"]
        [limits]
        one = { rate = "1/minute", by = "ip" }
        [[routes]]
        path = "/api/{user_id}/{*rest}"
        upstream = "app"
        owner_override_roles = ["support"]
        [[routes]]
        path = "/private/{*rest}"
        upstream = "app"
        [[routes]]
        path = "/closed"
        upstream = "app"
        access = "deny"
        [[routes]]
        path = "/staff"
        upstream = "app"
        roles = ["staff"]
        [[routes]]
        path = "/once"
        upstream = "app"
        access = "public"
        limit = ["one"]
        [[routes]]
        path = "/shadow/{user_id}"
        upstream = "app"
        mode = "shadow"
        "#,
    )
}

fn said(request: Request) -> Request {
    request.header("User-Agent", AGENT).header("X-Forwarded-For", FROM)
}

async fn post(gateway: &TestGateway, target: &str, body: &Value) -> Answer {
    said(gateway.post(target)).json(body).send().await
}

/// Checks what every event of a request says, and that it is this request's.
#[track_caller]
fn expect_origin(stored: &StoredEvent, answer: &Answer) {
    let event = &stored.event;
    assert_eq!(event.address, Some(FROM.parse().expect("an address")), "{event:?}");
    assert_eq!(event.user_agent.as_deref(), Some(AGENT), "{event:?}");
    assert_eq!(event.request_id.as_deref(), answer.header("x-request-id"), "{event:?}");
}

/// The one event of this kind.
async fn only(store: &Store, kind: EventKind) -> StoredEvent {
    let mut events = events_of(store, kind).await;
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

/// The event of this kind that this answer's request left.
async fn of(store: &Store, kind: EventKind, answer: &Answer) -> StoredEvent {
    let id = answer.header("x-request-id").expect("an id");
    let mut events = events_of(store, kind).await;
    events.retain(|stored| stored.event.request_id.as_deref() == Some(id));
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

/// The same for events that are written in passing.
async fn until_of(store: &Store, kind: EventKind, answer: &Answer) -> StoredEvent {
    let id = answer.header("x-request-id");
    patiently("the event", async {
        while !events_of(store, kind).await.iter().any(|e| e.event.request_id.as_deref() == id) {
            pause().await;
        }
    })
    .await;
    of(store, kind, answer).await
}

#[track_caller]
fn expect_event(event: &Event, outcome: Outcome, reason: Option<&str>, email: Option<&str>) {
    assert_eq!(
        (event.outcome, event.reason.as_deref(), event.email.as_deref()),
        (outcome, reason, email),
        "{event:?}"
    );
}

/// The events of the account endpoints, each there before its answer is.
async fn account_events(gateway: &TestGateway, store: &Store) {
    let (good, bad) = (Outcome::Success, Outcome::Failure);
    let ann = json!({ "email": "Ann@example.com", "password": PASSWORD });
    let answer = post(gateway, "/auth/signup", &ann).await.expect(201);
    let session = answer.json();
    let token = session["access_token"].as_str().expect("a token");
    let id = session["user"]["id"].as_str().expect("an id");
    let stored = only(store, EventKind::Signup).await;
    expect_event(&stored.event, good, None, Some("Ann@example.com"));
    expect_origin(&stored, &answer);
    assert_eq!(stored.event.user_id.as_ref().map(UserId::as_str), Some(id));
    assert!(stored.event.session_id.is_some());
    assert_eq!(stored.event.actor, None);
    assert_eq!(stored.event.at, gateway.clock.now());

    for (body, reason, email) in [
        (
            json!({ "email": "ann@EXAMPLE.com", "password": PASSWORD }),
            "user_already_exists",
            Some("ann@EXAMPLE.com"),
        ),
        (
            json!({ "email": "bob@example.com", "password": "weak" }),
            "weak_password",
            Some("bob@example.com"),
        ),
        (
            json!({ "email": "no address", "password": PASSWORD }),
            "validation_failed",
            Some("no address"),
        ),
        (json!({ "password": PASSWORD }), "anonymous_provider_disabled", None),
    ] {
        let answer = post(gateway, "/auth/signup", &body).await;
        let stored = of(store, EventKind::SignupFailed, &answer).await;
        expect_event(&stored.event, bad, Some(reason), email);
        expect_origin(&stored, &answer);
        assert_eq!(stored.event.user_id, None, "whose address it is, is not the caller's");
    }

    let answer = post(gateway, "/auth/login", &ann).await.expect(200);
    let stored = only(store, EventKind::Login).await;
    expect_event(&stored.event, good, None, Some("Ann@example.com"));
    expect_origin(&stored, &answer);
    assert_eq!(stored.event.user_id.as_ref().map(UserId::as_str), Some(id));

    for (email, reason, user) in [
        ("nobody@example.com", "unknown_user", None),
        ("ann@example.com", "wrong_password", Some(id)),
    ] {
        let answer =
            post(gateway, "/auth/login", &json!({ "email": email, "password": "x" })).await;
        answer.expect_problem(401, "invalid_credentials");
        let stored = of(store, EventKind::LoginFailed, &answer).await;
        expect_event(&stored.event, bad, Some(reason), Some(email));
        expect_origin(&stored, &answer);
        assert_eq!(stored.event.user_id.as_ref().map(UserId::as_str), user);
        assert_eq!(stored.event.session_id, None);
    }

    let refresh = json!({ "refresh_token": session["refresh_token"] });
    let answer = post(gateway, "/auth/token?grant_type=refresh_token", &refresh).await.expect(200);
    let stored = only(store, EventKind::TokenRefreshed).await;
    expect_event(&stored.event, good, None, None);
    expect_origin(&stored, &answer);

    let put = async |body: Value| {
        said(gateway.request("PUT", "/auth/user")).bearer(token).json(&body).send().await
    };
    let answer = put(json!({ "data": { "a": 1 } })).await.expect(200);
    let stored = only(store, EventKind::UserUpdated).await;
    expect_event(&stored.event, good, None, None);
    expect_origin(&stored, &answer);
    let new = "Other-Plover-9-Ladder";
    let answer = put(json!({ "password": new, "current_password": "x" })).await.expect(400);
    let stored = only(store, EventKind::PasswordChangeFailed).await;
    expect_event(&stored.event, bad, Some("wrong_password"), None);
    expect_origin(&stored, &answer);
    let answer = put(json!({ "password": new, "current_password": PASSWORD })).await.expect(200);
    let stored = only(store, EventKind::PasswordChanged).await;
    expect_event(&stored.event, good, None, None);
    expect_origin(&stored, &answer);
    assert_eq!(stored.event.user_id.as_ref().map(UserId::as_str), Some(id));

    let answer =
        said(gateway.post("/auth/logout?scope=global")).bearer(token).send().await.expect(204);
    let stored = only(store, EventKind::Logout).await;
    expect_event(&stored.event, good, Some("global"), None);
    expect_origin(&stored, &answer);
    assert!(stored.event.session_id.is_some());
}

#[tokio::test]
async fn account_events_are_there_before_the_answer_on_sqlite() {
    let upstream = Upstream::echo().await;
    let gateway = builder(&upstream).start().await;
    let store = gateway.store();
    account_events(&gateway, &store).await;
    all_events(&store).await;
}

#[tokio::test]
async fn account_events_are_there_before_the_answer_on_postgres() {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    let gateway = builder(&upstream).storage(&database.url).start().await;
    let store = open_store(&database.url);
    account_events(&gateway, &store).await;
    all_events(&store).await;
}

/// All of them, none twice, no gap.
async fn all_events(store: &Store) -> Vec<StoredEvent> {
    let events = store.events(&EventFilter::default(), 10_000, None).await.expect("read");
    assert!(!events.is_empty());
    expect_no_gaps(&events);
    events
}

/// A login that is refused is not answered before its event can be stored.
#[tokio::test]
async fn a_refusal_that_cannot_be_stored_is_not_told() {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    let gateway = builder(&upstream).storage(&database.url).start().await;
    let ann = gateway.sign_up("ann").await;
    database.sql("ALTER TABLE auth_events RENAME TO auth_events_away").await;
    for (email, password) in [
        (&*ann.email, "Wrong-Password-1"),
        ("nobody@example.com", PASSWORD),
        (&*ann.email, PASSWORD),
    ] {
        let answer = gateway.log_in(email, password).await;
        assert!(matches!(answer.status, 500 | 503), "{}", answer.text());
    }
    gateway.try_sign_up("ann@example.com").await.expect(500);
    gateway.try_sign_up("bob@example.com").await.expect(500);
    database.sql("ALTER TABLE auth_events_away RENAME TO auth_events").await;
    let store = open_store(&database.url);
    assert!(events_of(&store, EventKind::LoginFailed).await.is_empty());
    // A change and its event commit together or not at all.
    assert_eq!(store.users(None, 10, None).await.expect("read").len(), 1);
    gateway.log_in(&ann.email, PASSWORD).await.expect(200);
    gateway.try_sign_up("bob@example.com").await.expect(201);
    all_events(&store).await;
}

#[tokio::test]
async fn refusals_of_routes_are_noted_in_passing() {
    let upstream = Upstream::echo().await;
    let gateway = builder(&upstream).start().await;
    let store = gateway.store();
    let ann = gateway.sign_up("ann").await;
    let get =
        async |target: &str, token: &str| said(gateway.get(target)).bearer(token).send().await;
    let bad = Outcome::Failure;

    let answer = get("/api/somebody/tasks", &ann.token).await;
    answer.expect_problem(403, "owner_mismatch");
    let stored = &until_of(&store, EventKind::OwnerMismatch, &answer).await;
    expect_event(&stored.event, bad, Some("owner_mismatch"), None);
    expect_origin(stored, &answer);
    assert_eq!(stored.event.user_id.as_ref().map(UserId::as_str), Some(&*ann.id));
    assert!(stored.event.session_id.is_some());

    // Shadow mode lets through what it notes.
    let answer = get("/shadow/somebody", &ann.token).await.expect(200);
    let stored = &until_of(&store, EventKind::OwnerMismatch, &answer).await;
    expect_origin(stored, &answer);

    for (target, token, status, reason) in [
        ("/closed", &*ann.token, 403, "denied"),
        ("/staff", &*ann.token, 403, "missing_role"),
        ("/private/a", "a.b.c", 401, ""),
    ] {
        let answer = get(target, token).await.expect(status);
        let stored = &until_of(&store, EventKind::AccessDenied, &answer).await;
        expect_origin(stored, &answer);
        assert_eq!(stored.event.outcome, bad);
        let told = stored.event.reason.as_deref().unwrap_or_default();
        assert!(if reason.is_empty() { !told.is_empty() } else { told == reason }, "{told}");
    }

    get("/once", &ann.token).await.expect(200);
    let answer = get("/once", &ann.token).await;
    answer.expect_problem(429, "over_request_rate_limit");
    let stored = &until_events(&store, EventKind::RateLimited, 1).await[0];
    expect_event(&stored.event, bad, Some("one"), None);
    expect_origin(stored, &answer);

    // Nobody in particular: no event.
    gateway.get("/private/a").send().await.expect(401);
    gateway.get("/unknown").send().await.expect(404);
    let all = all_events(&store).await;
    assert_eq!(all.len(), 1 + 2 + 3 + 1, "{all:#?}");
}

#[tokio::test]
async fn an_override_of_the_owner_is_noted() {
    let upstream = Upstream::echo().await;
    let gateway = builder(&upstream).known_secret().start().await;
    let store = gateway.store();
    let token = gateway.token("helper-1").roles(&["support"]).sign();
    let answer = said(gateway.get("/api/somebody/tasks")).bearer(&token).send().await.expect(200);
    let stored = &until_events(&store, EventKind::OwnerOverride, 1).await[0];
    assert_eq!(stored.event.outcome, Outcome::Success);
    assert_eq!(stored.event.user_id.as_ref().map(UserId::as_str), Some("helper-1"));
    expect_origin(stored, &answer);
    said(gateway.get("/api/helper-1/tasks")).bearer(&token).send().await.expect(200);
    gateway.sign_up("later").await;
    assert_eq!(events_of(&store, EventKind::OwnerOverride).await.len(), 1, "the own path is none");
}

#[tokio::test]
async fn limits_of_account_endpoints_are_noted_with_the_address_that_was_tried() {
    let upstream = Upstream::echo().await;
    let gateway = builder(&upstream)
        .config(
            r#"
            [limits]
            login = { rate = "3/minute", by = "ip" }
            login_account = { rate = "2/hour", by = "account" }
            signup = { rate = "1/minute", by = "ip" }
            "#,
        )
        .start()
        .await;
    let store = gateway.store();
    let guess = json!({ "email": "Ann@example.com", "password": "x" });
    let sign_up = json!({ "email": "ann@example.com", "password": PASSWORD });
    for _ in 0..2 {
        post(&gateway, "/auth/login", &guess).await.expect(401);
    }
    let by_account = post(&gateway, "/auth/login", &guess).await;
    by_account.expect_problem(429, "over_request_rate_limit");
    let by_address = post(&gateway, "/auth/login", &guess).await;
    by_address.expect_problem(429, "over_request_rate_limit");
    post(&gateway, "/auth/signup", &sign_up).await.expect(201);
    let by_sign_up = post(&gateway, "/auth/signup", &sign_up).await.expect(429);
    let events = until_events(&store, EventKind::RateLimited, 3).await;
    let of = |answer: &Answer| {
        let id = answer.header("x-request-id");
        let found = events.iter().find(|stored| stored.event.request_id.as_deref() == id);
        found.unwrap_or_else(|| panic!("{id:?} in {events:#?}"))
    };
    let stored = of(&by_account);
    expect_event(&stored.event, Outcome::Failure, Some("login_account"), Some("Ann@example.com"));
    expect_origin(stored, &by_account);
    for (answer, name) in [(&by_address, "login"), (&by_sign_up, "signup")] {
        let stored = of(answer);
        expect_event(&stored.event, Outcome::Failure, Some(name), None);
        expect_origin(stored, answer);
    }
}

/// What clients say is stored as clean text of bounded length, and the database keeps working.
#[tokio::test]
async fn text_of_clients_is_cleaned() {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    let in_file = builder(&upstream).start().await;
    let on_server = builder(&upstream).storage(&database.url).start().await;
    for (gateway, store) in [(&in_file, in_file.store()), (&on_server, open_store(&database.url))] {
        // Bytes above ASCII are one byte each here: not UTF-8.
        for (agent, expected) in [
            ("tab\there", "tab\u{fffd}here".to_owned()),
            ("caf\u{e9}", "caf\u{fffd}".to_owned()),
            ("csi\u{9b}31m", "csi\u{fffd}31m".to_owned()),
            (&*"long".repeat(500), "long".repeat(64)),
        ] {
            let body = json!({ "email": "x@example.com", "password": "x" });
            let request = gateway.post("/auth/login").header("User-Agent", agent).json(&body);
            let answer = request.send().await.expect(401);
            let stored = of(&store, EventKind::LoginFailed, &answer).await;
            assert_eq!(stored.event.user_agent, Some(expected));
        }
        for (email, expected) in [
            ("nul\u{0}@example.com", "nul\u{fffd}@example.com".to_owned()),
            ("esc\u{1b}[2J", "esc\u{fffd}[2J".to_owned()),
            (&*"\u{e4}".repeat(500), "\u{e4}".repeat(127)),
        ] {
            let body = json!({ "email": email, "password": "x\u{0}y" });
            let answer = post(gateway, "/auth/login", &body).await.expect(422);
            let stored = of(&store, EventKind::LoginFailed, &answer).await;
            assert_eq!(stored.event.email, Some(expected));
        }
        // Neither hyper nor we take NUL in a field.
        let raw =
            "POST /auth/login HTTP/1.1\r\nHost: a\r\nUser-Agent: a\0b\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(gateway.raw(raw).await.statuses(), [400]);
        let nul = json!({
            "email": "nul@example.com", "password": format!("{PASSWORD}\u{0}"),
            "data": { "k\u{0}": "v\u{0}" },
        });
        post(gateway, "/auth/signup", &nul).await.expect(201);
        post(gateway, "/auth/login", &nul).await.expect(200);
        gateway.log_in("nul@example.com", PASSWORD).await.expect(401);
    }
}

#[tokio::test]
async fn the_own_events_are_read_page_by_page() {
    let upstream = Upstream::echo().await;
    let gateway = builder(&upstream).start().await;
    let ann = gateway.sign_up("ann").await;
    let bob = gateway.sign_up("bob").await;
    for n in 0..7 {
        // Several within the same millisecond, too, whose order is open; the login stands alone.
        if matches!(n, 0 | 3 | 4) {
            gateway.advance(Duration::from_millis(1));
        }
        // Not so many in a row that the next one would have to wait.
        let password = if n == 3 { PASSWORD } else { "x" };
        gateway.log_in(&ann.email, password).await.expect(if n == 3 { 200 } else { 401 });
    }
    let page = async |target: &str| {
        let answer = gateway.get_as(&ann.token, target).await.expect(200);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        answer.json()
    };
    let whole = page("/auth/events").await;
    assert_eq!(whole["next"], Value::Null);
    let whole = whole["events"].as_array().expect("events").clone();
    assert_eq!(whole.len(), 8);
    assert_eq!(whole[7]["kind"], "signup");
    for (n, event) in whole[..7].iter().rev().enumerate() {
        let expected = if n == 3 { ("login", "success") } else { ("login_failed", "failure") };
        assert_eq!((&event["kind"], &event["outcome"]), (&json!(expected.0), &json!(expected.1)));
        assert_eq!(event["email"], "ann@example.com");
    }
    let times: Vec<_> = whole.iter().map(|event| event["time"].as_str().expect("a time")).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");

    for limit in 1..=9 {
        let mut read = Vec::new();
        let mut target = format!("/auth/events?limit={limit}");
        loop {
            let page = page(&target).await;
            let events = page["events"].as_array().expect("events");
            assert!(events.len() <= limit);
            read.extend(events.iter().cloned());
            let Some(next) = page["next"].as_str() else { break };
            target = format!("/auth/events?limit={limit}&before={next}");
        }
        assert_eq!(read, whole, "in pages of {limit}");
    }
    // Client libraries send the names of what nobody has set.
    assert_eq!(page("/auth/events?limit=&before=").await["events"], json!(whole));
    for bad in [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "limit=1&limit=2",
        "limit=1&limit=",
        "before=x",
    ] {
        let refused = gateway.get_as(&ann.token, &format!("/auth/events?{bad}")).await;
        refused.expect_problem(422, "validation_failed");
    }
    let bobs = gateway.get_as(&bob.token, "/auth/events").await.expect(200).json();
    assert_eq!(bobs["events"].as_array().map(Vec::len), Some(1), "nobody reads what is another's");
    gateway.get("/auth/events").send().await.expect_problem(401, "no_authorization");
}

#[tokio::test]
async fn a_stop_loses_no_noted_event() {
    let upstream = Upstream::echo().await;
    let mut gateway = builder(&upstream).start().await;
    let ann = gateway.sign_up("ann").await;
    for _ in 0..50 {
        gateway.get_as(&ann.token, "/api/somebody/tasks").await.expect(403);
    }
    gateway.shut_down().await.expect("it stops in peace");
    let store = gateway.store();
    assert_eq!(events_of(&store, EventKind::OwnerMismatch).await.len(), 50);
    all_events(&store).await;
}
