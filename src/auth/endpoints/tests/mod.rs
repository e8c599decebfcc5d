//! The endpoints as a client meets them, over a real SQLite file, real keys and real hashes.

mod account;
mod activity;
mod public;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, USER_AGENT};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::request::JSON;
use super::*;
use crate::auth::{Hasher, Policy, password};
use crate::clock::Clock;
use crate::config::{Algorithm, Argon2, ByteSize, Config, Limit, Limits, Rate};
use crate::identity::{KeySet, Revocations, Verifier, keys};
use crate::model::{Event, Outcome, PasswordHash, UserId};
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
        let store = Arc::new(Store::open(&config.storage, &config.secrets).unwrap());
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
            policy: Policy::compile(&config.passwords).unwrap().into(),
            tokens: config.tokens.clone(),
            verifier: Arc::new(ArcSwap::from_pointee(verifier)),
            revocations: Arc::new(Revocations::new(config.tokens.leeway.0, Instant::now())),
            api_keys: Arc::default(),
            letters: crate::auth::accounts::Letters::compile(&config),
            redirects: crate::auth::Redirects::compile(&config).unwrap(),
            sessions: ArcSwap::from_pointee(config.sessions.clone()),
            login_hook: arc_swap::ArcSwapOption::empty(),
            links: config.links.clone(),
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
        at_root: false,
        query,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        client: [192, 0, 2, 1].into(),
        page: crate::identity::Page::Foreign,
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
    assert_eq!((over.rule.as_str(), over.retry_after), ("login", Duration::from_mins(1)));
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
        "\"login\";q=5;w=60, \"login_network\";q=60;w=60, \"login_account\";q=20;w=3600"
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
        // Until the pause after it is over.
        world.clock.advance(Duration::from_mins(1));
    }
    assert!(codes[..20].iter().all(|code| *code == "invalid_credentials"));
    assert_eq!(codes[20..], ["over_request_rate_limit", "over_request_rate_limit"]);
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
fn rules_take_the_configured_limits_and_the_built_in_rest() {
    let mut config = Config::default();
    config.limits.0.clear();
    let strict = Limit { rate: Rate::new(1, 60), by: LimitBy::Ip, on_outage: None };
    config.limits.0.insert("login".to_owned(), strict);
    let rules = Rules::compile(&config).unwrap();
    assert_eq!((rules.limit("login").rate().limit, rules.limit("signup").rate().limit), (1, 5));
}
