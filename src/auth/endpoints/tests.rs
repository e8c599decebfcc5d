//! The endpoints as a client meets them, over a real SQLite file, real keys and real hashes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::auth::{Hasher, Policy, password};
use crate::clock::Clock;
use crate::config::{Algorithm, Argon2, ByteSize, Limit, Rate};
use crate::identity::{KeySet, Revocations, Verifier, keys};
use crate::model::{Event, Outcome, PasswordHash};
use crate::store::{EventFilter, NewAccount, Store};

const PASSWORD: &str = "Plover-Quill-42";

/// A gateway's account half. Its clock stands still until it is moved.
struct World {
    auth: Arc<Auth>,
    store: Arc<Store>,
    clock: Clock,
    _folder: TempDir,
}

impl World {
    /// With limits that get in nobody's way.
    async fn new() -> Self {
        Self::with(|config| {
            for (name, limit) in Limits::built_in() {
                let rate = Rate::new(1_000, 60);
                config.limits.0.insert(name.to_owned(), Limit { rate, ..limit });
            }
        })
        .await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.url = format!("sqlite:{}/auth.db", folder.path().display()).into();
        config.passwords.argon2 =
            Argon2 { memory: ByteSize::kib(8), iterations: 1, parallelism: 1 };
        change(&mut config);

        let clock = Clock::manual("2026-03-01T12:00:00Z".parse().unwrap());
        let now = clock.now();
        let store = Arc::new(Store::open(&config.storage).unwrap());
        if config.storage.migrate {
            store.migrate().await.unwrap();
        }
        let key = keys::generate(Algorithm::Es256, now, now).unwrap();
        let keys = Arc::new(KeySet::from_keys(Algorithm::Es256, &[key]).unwrap());
        let verifier = Verifier::compile(&config.tokens, keys, &[]).unwrap();
        let settings = password::Settings::compile(&config.passwords).unwrap();
        let accounts = Accounts {
            store: Arc::clone(&store),
            hasher: Arc::new(Hasher::start(&settings).unwrap()),
            policy: Policy::compile(&config.passwords).unwrap(),
            tokens: config.tokens.clone(),
            verifier: Arc::new(ArcSwap::from_pointee(verifier)),
            revocations: Arc::new(Revocations::new(config.tokens.leeway.0, Instant::now())),
            clock: clock.clone(),
        };
        let limiter = Arc::new(Limiter::open(&config.counters, clock.clone()).unwrap());
        let rules = Rules::compile(&config).unwrap();
        let auth = Arc::new(Auth::new(accounts, limiter, rules));
        Self { auth, store, clock, _folder: folder }
    }

    async fn send(&self, request: AuthRequest) -> Result<AuthAnswer, AuthFailure> {
        self.auth.answer(request).await
    }

    async fn post(&self, target: &str, body: Value) -> Result<AuthAnswer, AuthFailure> {
        self.send(request("POST", target).json(&body)).await
    }

    async fn get(&self, target: &str, session: &Value) -> Result<AuthAnswer, AuthFailure> {
        self.send(request("GET", target).bearer(session)).await
    }

    /// Signs up and returns the session.
    async fn sign_up(&self, email: &str) -> Value {
        let answer = self.post("/signup", json!({"email": email, "password": PASSWORD})).await;
        body(&answer.unwrap())
    }

    async fn log_in(&self, email: &str, password: &str) -> Result<AuthAnswer, AuthFailure> {
        self.post("/login", json!({"email": email, "password": password})).await
    }

    async fn refresh(&self, refresh_token: &Value) -> Result<AuthAnswer, AuthFailure> {
        self.post("/token?grant_type=refresh_token", json!({"refresh_token": refresh_token})).await
    }

    /// Kinds and reasons of the events so far, oldest first.
    async fn events(&self) -> Vec<(EventKind, Option<String>)> {
        let mut stored = self.store.events(&EventFilter::default(), 100, None).await.unwrap();
        stored.sort_by_key(|stored| stored.number);
        stored.into_iter().map(|stored| (stored.event.kind, stored.event.reason)).collect()
    }

    async fn disable(&self, user_id: &UserId) {
        let now = self.clock.now();
        let event = Event {
            id: Uuid::from_u128(7),
            at: now,
            kind: EventKind::UserDisabled,
            outcome: Outcome::Success,
            reason: None,
            actor: Some("cli".to_owned()),
            user_id: Some(user_id.clone()),
            email: None,
            session_id: None,
            address: None,
            user_agent: None,
            request_id: None,
        };
        let until = now + Duration::from_hours(24 * 365);
        self.store.disable(user_id, until, now, &event).await.unwrap();
    }
}

fn request(method: &str, target: &str) -> AuthRequest {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    AuthRequest {
        method: method.parse().unwrap(),
        path: path.to_owned(),
        query,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        client: [192, 0, 2, 1].into(),
        request_id: "018f2d3e-0000-7000-8000-000000000000".to_owned(),
    }
}

impl AuthRequest {
    fn json(mut self, body: &Value) -> Self {
        self.headers.insert(CONTENT_TYPE, JSON);
        self.body = body.to_string().into();
        self
    }

    fn bearer(mut self, session: &Value) -> Self {
        let token = session["access_token"].as_str().unwrap();
        self.headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        self
    }

    fn from(mut self, client: [u8; 4]) -> Self {
        self.client = client.into();
        self
    }
}

fn body(answer: &AuthAnswer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn code(answer: Result<AuthAnswer, AuthFailure>) -> &'static str {
    match answer {
        Ok(answer) => panic!("answered {} instead of a refusal", answer.status),
        Err(failure) => failure.error.code(),
    }
}

#[tokio::test]
async fn a_session_begins_is_used_and_ends() {
    let world = World::new().await;
    let data = json!({"name": "Ann", "roles": ["admin"]});
    let sign_up = json!({
        "email": "Ann@Example.com", "password": PASSWORD, "data": data,
        "roles": ["admin"], "app_metadata": {"roles": ["admin"]}, "role": "service_role",
    });
    let answer = world.post("/signup", sign_up).await.unwrap();
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.headers[CACHE_CONTROL], "no-store");
    assert_eq!(answer.headers[CONTENT_TYPE], "application/json");
    let session = body(&answer);
    let user = &session["user"];
    assert_eq!(user["email"], "Ann@Example.com");
    assert_eq!(user["email_confirmed_at"], Value::Null);
    assert_eq!(user["last_sign_in_at"], "2026-03-01T12:00:00.000000Z");
    assert_eq!(user["role"], "authenticated");
    assert_eq!(user["user_metadata"], data);
    assert_eq!(user["app_metadata"], json!({"provider": "email", "providers": ["email"]}));
    assert_eq!(answer.user_id.unwrap().as_str(), user["id"]);

    let seen = world.get("/user", &session).await.unwrap();
    assert_eq!(body(&seen), *user);
    assert_eq!(seen.user_id.unwrap().as_str(), user["id"]);

    let again = world.log_in("ann@example.com", PASSWORD).await.unwrap();
    assert_eq!(again.status, StatusCode::OK);
    let same = world
        .post(
            "/token?grant_type=password",
            json!({"email": "ANN@example.com", "password": PASSWORD}),
        )
        .await;
    assert_eq!(same.unwrap().status, StatusCode::OK);

    let out = world.send(request("POST", "/logout").bearer(&session)).await.unwrap();
    assert_eq!((out.status, out.body.len()), (StatusCode::NO_CONTENT, 0));
    assert_eq!(code(world.get("/user", &session).await), "session_not_found");
    assert_eq!(code(world.refresh(&session["refresh_token"]).await), "session_expired");
    assert!(world.get("/user", &body(&again)).await.is_ok());
    let kinds: Vec<_> = world.events().await.into_iter().map(|(kind, _)| kind).collect();
    let expected = [EventKind::Signup, EventKind::Login, EventKind::Login, EventKind::Logout];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn one_of_many_sign_ups_with_one_address_wins() {
    let world = World::new().await;
    let outcomes = futures_util::future::join_all((0..10).map(|n| {
        let email = if n % 2 == 0 { "ann@example.com" } else { "ANN@Example.com" };
        world.post("/signup", json!({"email": email, "password": PASSWORD}))
    }))
    .await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for refused in outcomes.into_iter().filter(Result::is_err) {
        assert_eq!(code(refused), "user_already_exists");
    }
    let failed = (EventKind::SignupFailed, Some("user_already_exists".to_owned()));
    assert_eq!(world.events().await.iter().filter(|event| **event == failed).count(), 9);
}

#[tokio::test]
async fn refused_sign_ups_are_stored_with_their_reason() {
    let world = World::new().await;
    let weak = world.post("/signup", json!({"email": "ann@example.com", "password": "x"})).await;
    assert_eq!(code(weak), "weak_password");
    let bad = world.post("/signup", json!({"email": "ann", "password": PASSWORD})).await;
    assert_eq!(code(bad), "validation_failed");
    let large =
        json!({"email": "ann@example.com", "password": PASSWORD, "data": {"x": "x".repeat(2100)}});
    assert_eq!(code(world.post("/signup", large).await), "validation_failed");

    let mut closed = Config::default();
    closed.signup.enabled = false;
    world.auth.reload(Rules::compile(&closed).unwrap());
    let refused = world.post("/signup", json!({"email": "ann@example.com", "password": PASSWORD}));
    assert_eq!(code(refused.await), "signup_disabled");
    let settings = world.send(request("GET", "/settings")).await.unwrap();
    assert_eq!(body(&settings)["disable_signup"], true);

    let reasons: Vec<_> = world.events().await.into_iter().filter_map(|event| event.1).collect();
    let expected = ["weak_password", "validation_failed", "validation_failed", "signup_disabled"];
    assert_eq!(reasons, expected);
}

#[tokio::test]
async fn unknown_user_wrong_password_and_disabled_user_get_one_answer() {
    let world = World::new().await;
    let bob = world.sign_up("bob@example.com").await;
    world.sign_up("ann@example.com").await;
    let bob_id = bob["user"]["id"].as_str().unwrap().parse().unwrap();
    world.disable(&bob_id).await;
    for (email, password) in [
        ("nobody@example.com", PASSWORD),
        ("ann@example.com", "Plover-Quill-43"),
        ("ann@example.com", ""),
        ("bob@example.com", PASSWORD),
        ("bob@example.com", "Plover-Quill-43"),
    ] {
        let refused = world.log_in(email, password).await.unwrap_err();
        let error = &refused.error;
        assert!(matches!(error, AuthError::InvalidCredentials), "{email} {error:?}");
        assert_eq!(refused.user_id, None);
    }
    let failed: Vec<_> = world
        .events()
        .await
        .into_iter()
        .filter(|(kind, _)| *kind == EventKind::LoginFailed)
        .filter_map(|(_, reason)| reason)
        .collect();
    let expected =
        ["unknown_user", "wrong_password", "wrong_password", "user_disabled", "wrong_password"];
    assert_eq!(failed, expected);
}

#[tokio::test]
async fn a_bcrypt_hash_logs_in_and_is_replaced() {
    let world = World::new().await;
    let now = world.clock.now();
    let email: crate::model::Email = "old@example.com".parse().unwrap();
    let hash = PasswordHash(bcrypt::hash("Old-Plover-7", 4).unwrap());
    let user = crate::model::User {
        id: "1001".parse().unwrap(),
        email: email.address().to_owned(),
        email_confirmed_at: Some(now),
        new_email: None,
        invited_at: None,
        roles: vec!["admin".to_owned()],
        app_metadata: serde_json::Map::new(),
        user_metadata: serde_json::Map::new(),
        last_sign_in_at: None,
        disabled_until: None,
        created_at: now,
        updated_at: now,
    };
    let event = Event {
        id: Uuid::from_u128(1),
        at: now,
        kind: EventKind::UserCreated,
        outcome: Outcome::Success,
        reason: None,
        actor: Some("cli".to_owned()),
        user_id: Some(user.id.clone()),
        email: None,
        session_id: None,
        address: None,
        user_agent: None,
        request_id: None,
    };
    let account = NewAccount { user, email: email.clone(), password_hash: Some(hash) };
    world.store.sign_up(&account, None, &event).await.unwrap();

    assert_eq!(code(world.log_in("old@example.com", "Old-Plover-8").await), "invalid_credentials");
    let session = body(&world.log_in("old@example.com", "Old-Plover-7").await.unwrap());
    assert_eq!(session["user"]["app_metadata"]["roles"], json!(["admin"]));
    let stored = world.store.account_by_email(&email).await.unwrap().unwrap();
    assert!(stored.password_hash.unwrap().0.starts_with("$argon2id$"));
    assert!(world.log_in("old@example.com", "Old-Plover-7").await.is_ok());
}

#[tokio::test]
async fn a_refresh_token_is_traded_once_and_a_lost_answer_is_given_again() {
    let world = World::new().await;
    let first = world.sign_up("ann@example.com").await;
    world.clock.advance(Duration::from_mins(1));
    let second = body(&world.refresh(&first["refresh_token"]).await.unwrap());
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert_ne!(second["access_token"], first["access_token"]);

    // Nobody used the successor yet: the answer may have been lost, hours ago.
    world.clock.advance(Duration::from_hours(1));
    let repeated = body(&world.refresh(&first["refresh_token"]).await.unwrap());
    assert_eq!(repeated["refresh_token"], second["refresh_token"]);
    assert!(world.get("/user", &repeated).await.is_ok());

    // The successor was used: now the old one is in somebody else's hands.
    let third = body(&world.refresh(&second["refresh_token"]).await.unwrap());
    world.clock.advance(Duration::from_secs(11));
    let reused = world.refresh(&first["refresh_token"]).await;
    assert_eq!(code(reused), "refresh_token_already_used");
    for session in [&first, &second, &third] {
        assert_eq!(code(world.get("/user", session).await), "session_not_found");
    }
    assert_eq!(code(world.refresh(&third["refresh_token"]).await), "refresh_token_already_used");
    assert_eq!(world.events().await.last().unwrap().0, EventKind::RefreshReuse);
}

#[tokio::test]
async fn unknown_and_expired_refresh_tokens_are_refused() {
    let world = World::new().await;
    let session = world.sign_up("ann@example.com").await;
    for unknown in ["", "x", &"A".repeat(43), &"A".repeat(5000)] {
        let refused = world.refresh(&json!(unknown)).await;
        assert_eq!(code(refused), "refresh_token_not_found", "{unknown}");
    }
    assert_eq!(code(world.refresh(&json!(7)).await), "validation_failed");
    world.clock.advance(Duration::from_hours(7 * 24 + 1));
    assert_eq!(code(world.refresh(&session["refresh_token"]).await), "session_expired");
    for grant in ["", "?grant_type=pkce", "?grant_type=", "?grant=password"] {
        let refused = world.post(&format!("/token{grant}"), json!({})).await;
        assert_eq!(code(refused), "unsupported_grant_type");
    }
    let twice = "/token?grant_type=password&grant_type=refresh_token";
    assert_eq!(code(world.post(twice, json!({})).await), "validation_failed");
}

#[tokio::test]
async fn a_logout_ends_what_its_scope_names() {
    let world = World::new().await;
    world.sign_up("ann@example.com").await;
    let other_user = world.sign_up("bob@example.com").await;
    for (scope, expected) in [
        ("", [false, true]),
        ("?scope=local", [false, true]),
        ("?scope=others", [true, false]),
        ("?scope=global", [false, false]),
    ] {
        let mine = body(&world.log_in("ann@example.com", PASSWORD).await.unwrap());
        let other = body(&world.log_in("ann@example.com", PASSWORD).await.unwrap());
        let logout = request("POST", &format!("/logout{scope}")).bearer(&mine);
        assert_eq!(world.send(logout).await.unwrap().status, StatusCode::NO_CONTENT);
        for (session, is_alive) in [&mine, &other].into_iter().zip(expected) {
            assert_eq!(world.get("/user", session).await.is_ok(), is_alive, "{scope}");
        }
        assert!(world.get("/user", &other_user).await.is_ok());
    }
    let bad = request("POST", "/logout?scope=everything").bearer(&other_user);
    assert_eq!(code(world.send(bad).await), "validation_failed");
}

#[tokio::test]
async fn sessions_are_listed_and_ended_by_their_owner_only() {
    let world = World::new().await;
    let mut first =
        request("POST", "/signup").json(&json!({"email": "ann@example.com", "password": PASSWORD}));
    first.headers.insert(USER_AGENT, HeaderValue::from_bytes(b"curl/8\xff\t").unwrap());
    let first = body(&world.send(first).await.unwrap());
    world.clock.advance(Duration::from_secs(1));
    let second = body(&world.log_in("ann@example.com", PASSWORD).await.unwrap());
    let bob = world.sign_up("bob@example.com").await;

    let listed = body(&world.get("/sessions", &second).await.unwrap());
    let listed = listed["sessions"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["current"], &listed[1]["current"]), (&json!(true), &json!(false)));
    assert_eq!(listed[1]["user_agent"], "curl/8\u{fffd}\u{fffd}");
    assert_eq!(listed[1]["address"], "192.0.2.1");

    let target = format!("/sessions/{}", listed[1]["id"].as_str().unwrap());
    let delete = |session| request("DELETE", &target).bearer(session);
    assert_eq!(code(world.send(delete(&bob)).await), "not_found");
    assert!(world.get("/user", &first).await.is_ok());
    assert_eq!(world.send(delete(&second)).await.unwrap().status, StatusCode::NO_CONTENT);
    assert_eq!(code(world.get("/user", &first).await), "session_not_found");
    assert_eq!(code(world.send(delete(&second)).await), "not_found");
    let nonsense = request("DELETE", "/sessions/..").bearer(&second);
    assert_eq!(code(world.send(nonsense).await), "not_found");
}

#[tokio::test]
async fn events_are_read_page_by_page() {
    let world = World::new().await;
    let session = world.sign_up("ann@example.com").await;
    world.sign_up("bob@example.com").await;
    for _ in 0..4 {
        world.clock.advance(Duration::from_secs(1));
        assert!(world.log_in("ann@example.com", "wrong").await.is_err());
    }
    let mut kinds = Vec::new();
    let mut target = "/events?limit=2".to_owned();
    loop {
        let page = body(&world.get(&target, &session).await.unwrap());
        let events = page["events"].as_array().unwrap().clone();
        assert!(events.len() <= 2);
        kinds.extend(events.iter().map(|event| event["kind"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        target = format!("/events?limit=2&before={next}");
    }
    let failed = "login_failed";
    assert_eq!(kinds, [failed, failed, failed, failed, "signup"]);
    for bad in ["limit=0", "limit=201", "limit=x", "limit=1&limit=2", "before=x", "before="] {
        let refused = world.get(&format!("/events?{bad}"), &session).await;
        assert_eq!(code(refused), "validation_failed", "{bad}");
    }
}

async fn change(world: &World, session: &Value, body: Value) -> Result<AuthAnswer, AuthFailure> {
    world.send(request("PUT", "/user").bearer(session).json(&body)).await
}

#[tokio::test]
async fn metadata_is_changed_key_by_key() {
    let world = World::new().await;
    let session = world.sign_up("ann@example.com").await;
    let first = change(&world, &session, json!({"data": {"a": 1, "b": 2}})).await.unwrap();
    assert_eq!(body(&first)["user_metadata"], json!({"a": 1, "b": 2}));
    let second = change(&world, &session, json!({"data": {"a": null, "c": [3]}})).await.unwrap();
    assert_eq!(body(&second)["user_metadata"], json!({"b": 2, "c": [3]}));
    let large = json!({"data": {"d": "x".repeat(2030)}});
    assert_eq!(code(change(&world, &session, large).await), "validation_failed");
    let unchanged = change(&world, &session, json!({})).await.unwrap();
    assert_eq!(body(&unchanged)["user_metadata"], json!({"b": 2, "c": [3]}));
    for bad in [json!({"email": "bob@example.com"}), json!({"phone": "1"}), json!({"data": 1})] {
        assert_eq!(code(change(&world, &session, bad).await), "validation_failed");
    }
}

#[tokio::test]
async fn a_new_password_needs_proof_and_ends_the_other_sessions() {
    let world = World::new().await;
    let other = world.sign_up("ann@example.com").await;
    let mine = body(&world.log_in("ann@example.com", PASSWORD).await.unwrap());
    let refused = [
        (json!({"password": "x"}), "weak_password"),
        (json!({"password": "Ann@example.com"}), "weak_password"),
        (json!({"password": PASSWORD}), "same_password"),
        (json!({"password": PASSWORD, "current_password": PASSWORD}), "same_password"),
        (json!({"password": "New-Plover-8", "current_password": "x"}), "current_password_invalid"),
        (json!({"password": "New-Plover-8", "current_password": ""}), "current_password_required"),
    ];
    for (body, expected) in refused {
        assert_eq!(code(change(&world, &mine, body).await), expected);
    }
    // The login is fresh: it will do.
    assert!(change(&world, &mine, json!({"password": "New-Plover-8"})).await.is_ok());
    assert!(world.get("/user", &mine).await.is_ok());
    assert_eq!(code(world.get("/user", &other).await), "session_not_found");
    assert_eq!(code(world.log_in("ann@example.com", PASSWORD).await), "invalid_credentials");

    // A day later it takes the old password.
    world.clock.advance(Duration::from_hours(23));
    let mine = body(&world.refresh(&mine["refresh_token"]).await.unwrap());
    world.clock.advance(Duration::from_hours(1));
    let alone = change(&world, &mine, json!({"password": "Newer-Plover-9"})).await;
    assert_eq!(code(alone), "reauthentication_needed");
    let both = json!({"password": "Newer-Plover-9", "current_password": "New-Plover-8"});
    assert!(change(&world, &mine, both).await.is_ok());
    assert!(world.log_in("ann@example.com", "Newer-Plover-9").await.is_ok());

    let events = world.events().await;
    let count = |kind| events.iter().filter(|(found, _)| *found == kind).count();
    assert_eq!(count(EventKind::PasswordChanged), 2);
    assert_eq!(count(EventKind::PasswordChangeFailed), 1);
}

#[tokio::test]
async fn limits_count_before_anything_else_is_done() {
    let world = World::with(|_| ()).await;
    for n in (0..5).rev() {
        let refused = world.log_in("nobody@example.com", "x").await.unwrap_err();
        let left = refused.headers[&RATE_LIMIT].to_str().unwrap();
        assert!(left.starts_with(&format!("\"login\";r={n};t=60")), "{left}");
        assert!(refused.headers.contains_key(&RATE_LIMIT_POLICY));
    }
    // Not even read: it is no JSON.
    let mut sixth = request("POST", "/login");
    sixth.body = Bytes::from_static(b"{");
    let refused = world.send(sixth).await.unwrap_err();
    let AuthError::OverLimit(over) = &refused.error else { panic!("{:?}", refused.error) };
    assert_eq!((over.rule.as_str(), over.decision.retry_after_seconds()), ("login", 60));
    assert!(refused.headers.contains_key(&RATE_LIMIT));

    // Sign-ups, and other addresses, are counted apart.
    let sign_up = json!({"email": "ann@example.com", "password": PASSWORD});
    let answer = world.post("/signup", sign_up).await.unwrap();
    assert_eq!(answer.headers[&RATE_LIMIT], "\"signup\";r=4;t=60");
    let elsewhere = json!({"email": "ann@example.com", "password": PASSWORD});
    let elsewhere = request("POST", "/login").json(&elsewhere).from([192, 0, 2, 2]);
    let answer = world.send(elsewhere).await.unwrap();
    assert_eq!(
        answer.headers[&RATE_LIMIT_POLICY],
        "\"login\";q=5;w=60, \"login_account\";q=20;w=3600"
    );
    assert!(world.get("/user", &body(&answer)).await.unwrap().headers.get(&RATE_LIMIT).is_none());
}

#[tokio::test]
async fn guesses_at_one_account_are_limited_from_wherever_they_come() {
    let world = World::with(|_| ()).await;
    let mut codes = Vec::new();
    for n in 0..22 {
        let guess = json!({"email": "ann@example.com", "password": "x"});
        let guess = request("POST", "/login").json(&guess).from([198, 51, 100, n]);
        codes.push(code(world.send(guess).await));
    }
    assert!(codes[..20].iter().all(|code| *code == "invalid_credentials"));
    assert_eq!(codes[20..], ["over_request_rate_limit", "over_request_rate_limit"]);
}

#[tokio::test]
async fn a_stolen_token_does_not_help_to_guess_the_password() {
    let world = World::with(|_| ()).await;
    let session = world.sign_up("ann@example.com").await;
    let guess = json!({"password": "New-Plover-8", "current_password": "x"});
    for _ in 0..20 {
        let refused = change(&world, &session, guess.clone()).await;
        assert_eq!(code(refused), "current_password_invalid");
    }
    assert_eq!(code(change(&world, &session, guess).await), "over_request_rate_limit");
    assert!(world.log_in("ann@example.com", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn a_bearer_is_one_good_token_of_a_running_session() {
    let world = World::new().await;
    let session = world.sign_up("ann@example.com").await;
    let with = |lines: &[String]| {
        let mut request = request("GET", "/user");
        for line in lines {
            request.headers.append("authorization", line.parse().unwrap());
        }
        request
    };
    let good = format!("Bearer {}", session["access_token"].as_str().unwrap());
    let refresh = format!("Bearer {}", session["refresh_token"].as_str().unwrap());
    assert!(world.send(with(std::slice::from_ref(&good))).await.is_ok());
    let refused: [(&[String], _); 6] = [
        (&[], "no_authorization"),
        (&["Basic YTpi".to_owned()], "no_authorization"),
        (&["Bearer".to_owned()], "invalid_request"),
        (&[good.clone(), good.clone()], "invalid_request"),
        (&[refresh], "bad_jwt"),
        (&[format!("{good}x")], "bad_jwt"),
    ];
    for (lines, expected) in refused {
        assert_eq!(code(world.send(with(lines)).await), expected, "{lines:?}");
    }
    world.clock.advance(Duration::from_secs(24 * 3600 + 31));
    assert_eq!(code(world.send(with(&[good])).await), "bad_jwt");
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let world = World::new().await;
    for (method, path, allow) in [
        ("GET", "/signup", "POST"),
        ("POST", "/user", "GET, HEAD, PUT"),
        ("OPTIONS", "/login", "POST"),
        ("GET", "/sessions/x", "DELETE"),
        ("DELETE", "/sessions", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
    ] {
        let refused = world.send(request(method, path)).await.unwrap_err();
        assert_eq!(refused.error.code(), "method_not_allowed", "{method} {path}");
        assert_eq!(refused.headers[ALLOW], allow);
    }
    for path in ["", "/", "/Login", "/login/", "//login", "/%6cogin", "/sessions/", "/sessions/a/b"]
    {
        assert_eq!(code(world.send(request("POST", path)).await), "no_route", "{path}");
    }
    let form = request("POST", "/login");
    assert_eq!(code(world.send(form).await), "bad_json");
    let mut form = request("POST", "/login").json(&json!({}));
    form.headers.insert(CONTENT_TYPE, "application/x-www-form-urlencoded".parse().unwrap());
    assert_eq!(code(world.send(form).await), "unsupported_media_type");
}

#[tokio::test]
async fn public_documents_may_be_cached_and_head_follows_get() {
    let world = World::new().await;
    for (path, content_type, cache) in [
        ("/.well-known/jwks.json", "application/json", "public, max-age=600"),
        ("/openapi.yaml", "application/yaml", "public, max-age=600"),
        ("/health", "application/json", "no-store"),
        ("/settings", "application/json", "no-store"),
    ] {
        let answer = world.send(request("GET", path)).await.unwrap();
        assert_eq!(answer.headers[CONTENT_TYPE], content_type);
        assert_eq!(answer.headers[CACHE_CONTROL], cache);
        let head = world.send(request("HEAD", path)).await.unwrap();
        assert_eq!((head.headers, head.body), (answer.headers, answer.body));
    }
    let jwks = body(&world.send(request("GET", "/.well-known/jwks.json")).await.unwrap());
    assert_eq!(jwks["keys"][0]["alg"], "ES256");
    assert!(jwks["keys"][0].get("d").is_none());
}

#[tokio::test]
async fn without_a_database_nobody_is_told_that_a_password_is_wrong() {
    let world = World::with(|config| {
        // Nobody listens on port 1.
        config.storage.url = "postgres://nobody@127.0.0.1:1/none?sslmode=disable".into();
        config.storage.migrate = false;
    })
    .await;
    for target in ["/login", "/signup"] {
        let body = json!({"email": "ann@example.com", "password": PASSWORD});
        let refused = world.post(target, body).await.unwrap_err();
        let AuthError::Unavailable { retry_after, .. } = refused.error else {
            panic!("{:?}", refused.error)
        };
        assert!(retry_after > Duration::ZERO);
    }
    assert_eq!(code(world.refresh(&json!("A".repeat(43))).await), "unavailable");
}

#[test]
fn answers_may_be_made_on_any_thread() {
    fn is_send<T: Send>(_: &T) {}
    let _ = |auth: &'static Auth, request: AuthRequest| is_send(&auth.answer(request));
}

#[test]
fn pages_of_events_begin_where_the_last_one_ended() {
    let place = Place { at: "2026-03-01T12:00:00.123456Z".parse().unwrap(), id: Uuid::max() };
    assert_eq!(Place::parse(&place.to_text()), Some(place));
    for bad in ["", "A", &"A".repeat(31), &"A".repeat(33), "*"] {
        assert_eq!(Place::parse(bad), None, "{bad}");
    }
}

#[test]
fn rules_take_the_configured_limits_and_the_built_in_rest() {
    let mut config = Config::default();
    config.limits.0.clear();
    let strict = Limit { rate: Rate::new(1, 60), by: LimitBy::Ip, on_outage: None };
    config.limits.0.insert("login".to_owned(), strict);
    let rules = Rules::compile(&config).unwrap();
    assert_eq!((rules.login.rate().limit, rules.signup.rate().limit), (1, 5));
}

/// The document's endpoints and codes are the code's, both ways.
#[test]
fn the_openapi_document_lists_every_endpoint_and_code() {
    let mut path = "";
    let mut documented = BTreeSet::new();
    for line in OPENAPI.lines().skip_while(|line| *line != "paths:") {
        let name = line.trim_start().strip_suffix(':').unwrap_or_default();
        match line.len() - line.trim_start().len() {
            0 if line == "components:" => break,
            2 => path = name,
            4 if !name.is_empty() => {
                documented.insert((name.to_uppercase(), path));
            }
            _ => {}
        }
    }
    let endpoints: BTreeSet<_> =
        ENDPOINTS.iter().map(|(method, path)| ((*method).to_owned(), *path)).collect();
    assert_eq!(documented, endpoints);

    let known: BTreeSet<_> = AuthError::CODES.iter().copied().collect();
    let listed: BTreeSet<_> = OPENAPI
        .lines()
        .skip_while(|line| line.trim() != "code:")
        .skip_while(|line| line.trim() != "enum:")
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("- "))
        .collect();
    // `no_route` belongs to no endpoint.
    let answered: BTreeSet<_> = OPENAPI
        .lines()
        .filter_map(|line| line.trim().strip_prefix("x-codes: [")?.strip_suffix(']'))
        .flat_map(|codes| codes.split(", "))
        .chain(["no_route"])
        .collect();
    assert_eq!(listed, known);
    assert_eq!(answered, known);
}
