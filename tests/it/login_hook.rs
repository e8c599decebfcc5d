//! First logins of those whom an earlier system knows.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::model::{EventKind, User, UserId};
use portcullis::store::{NewAccount, SignUp, Store};
use serde_json::{Value, json};

use crate::harness::{
    Answer, Builder, Caller, Gate, PASSWORD, Step, TestGateway, Upstream, events_of, json_answer,
    noted, open_store, reply, until_events,
};
use crate::mail::hmac;

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

/// The earlier system: does one thing with every question, until the test says otherwise.
struct Earlier {
    upstream: Upstream,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl Earlier {
    async fn says(steps: Vec<Step>) -> Self {
        let steps = Arc::new(Mutex::new(steps));
        let script = Arc::clone(&steps);
        let upstream = Upstream::scripted(move |_| script.lock().expect("no panic").clone()).await;
        Self { upstream, steps }
    }

    fn now_says(&self, steps: Vec<Step>) {
        *self.steps.lock().expect("no panic") = steps;
    }

    fn config(&self) -> String {
        format!(
            "[login_hook]\nurl = \"{}/check?a=b\"\nsecret = \"whsec_{}\"\ndeadline = \"10s\"\n",
            self.upstream.url(),
            STANDARD.encode(KEY)
        )
    }

    fn builder(&self) -> Builder {
        TestGateway::builder().upstream("app", &self.upstream).config(&self.config())
    }

    fn questions(&self) -> usize {
        self.upstream.count()
    }
}

fn right(user: &Value) -> Vec<Step> {
    json_answer(&json!({ "user": user }))
}

fn plain(status: &str) -> Vec<Step> {
    reply(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}"))
}

async fn log_in(gateway: &TestGateway, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password });
    gateway.post("/auth/login").json(&body).send().await
}

fn store_of(gateway: &TestGateway) -> Store {
    open_store(&format!("sqlite:{}", gateway.file("portcullis.db").display()))
}

/// An account without a password.
async fn account(gateway: &TestGateway, store: &Store, name: &str) -> User {
    let now = gateway.clock.now();
    let address = format!("{name}@example.com");
    let user = User {
        roles: vec!["clerk".to_owned()],
        ..User::new(name.parse().expect("an id"), &address, now)
    };
    let email = address.parse().expect("an address");
    let new = NewAccount { user: user.clone(), email, password_hash: None };
    let made = store.sign_up(&new, None, &noted(EventKind::UserCreated, now)).await;
    assert_eq!(made.expect("it is stored"), SignUp::Created);
    user
}

#[tokio::test]
async fn a_first_login_moves_the_user_in_and_later_ones_ask_nobody() {
    let earlier = Earlier::says(right(&json!({
        "id": "old-7", "email_confirmed": true, "roles": ["staff", "admin"],
        "app_metadata": { "plan": "small", "roles": ["admin"] }, "user_metadata": { "name": "Ann" },
    })))
    .await;
    let gateway = earlier.builder().start().await;
    // An old rule may have allowed what ours does not.
    let session = log_in(&gateway, "Ann@example.com", "old").await.expect(200).json();
    let ann = Caller::from_session(&session);
    assert_eq!((&*ann.id, &*ann.email), ("old-7", "Ann@example.com"));
    assert_eq!(session["user"]["app_metadata"]["roles"], json!(["staff"]), "never administrators");
    assert_eq!(session["user"]["app_metadata"]["plan"], "small");
    assert_eq!(session["user"]["user_metadata"], json!({ "name": "Ann" }));
    assert!(session["user"]["email_confirmed_at"].is_string());
    gateway.get("/auth/user").bearer(&ann.token).send().await.expect(200);

    let seen = earlier.upstream.only();
    assert_eq!((&*seen.method, &*seen.target), ("POST", "/check?a=b"));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_slice(&seen.body).expect("JSON");
    let question = json!({ "type": "login", "email": "Ann@example.com", "password": "old" });
    assert_eq!(body, question);
    let header = |name: &str| seen.header(name).unwrap_or_else(|| panic!("no {name}"));
    let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
    let signed = [id.as_bytes(), b".", at.as_bytes(), b".", &seen.body].concat();
    let expected = format!("v1,{}", STANDARD.encode(hmac(KEY, &signed)));
    assert_eq!(header("webhook-signature"), expected);

    earlier.now_says(vec![Step::Close]);
    // So that the events have an order.
    gateway.advance(Duration::from_secs(1));
    log_in(&gateway, "ann@example.com", "old").await.expect(200);
    log_in(&gateway, "ann@example.com", "wrong").await.expect_problem(401, "invalid_credentials");
    assert_eq!(earlier.questions(), 1);
    let logins = until_events(&store_of(&gateway), EventKind::Login, 2).await;
    let reasons: Vec<_> = logins.iter().map(|login| login.event.reason.as_deref()).collect();
    assert_eq!(reasons, [Some("migrated"), None]);
    assert_eq!(logins[0].event.user_id.as_ref().map(UserId::as_str), Some("old-7"));
}

#[tokio::test]
async fn what_the_earlier_system_refuses_is_as_wrong_as_any_password_and_counts() {
    let earlier = Earlier::says(plain("401 Unauthorized")).await;
    let gateway = earlier.builder().start().await;
    gateway.sign_up("ann").await;
    let refusal = async |email: &str| {
        let answer = log_in(&gateway, email, "Wrong-Password-1").await;
        let mut problem = answer.expect_problem(401, "invalid_credentials");
        let request = problem.as_object_mut().expect("a problem");
        request.remove("request_id");
        request.remove("instance");
        problem
    };
    let known = refusal("ann@example.com").await;
    assert_eq!(earlier.questions(), 0, "whoever has a password here is not asked about");
    assert_eq!(refusal("bob@example.com").await, known);
    earlier.now_says(plain("404 Not Found"));
    assert_eq!(refusal("bob@example.com").await, known);
    assert_eq!(earlier.questions(), 2);
    for _ in 0..8 {
        log_in(&gateway, "bob@example.com", "Wrong-Password-1").await;
    }
    // The pause after failed logins comes before the question.
    let count = earlier.questions();
    earlier.now_says(right(&json!({})));
    let paused = log_in(&gateway, "bob@example.com", PASSWORD).await;
    paused.expect_problem(429, "over_request_rate_limit");
    assert_eq!(earlier.questions(), count);
    gateway.advance(Duration::from_mins(2));
    log_in(&gateway, "bob@example.com", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn without_an_answer_no_password_is_called_wrong() {
    let earlier = Earlier::says(Vec::new()).await;
    let elsewhere = Upstream::echo().await;
    let config = "[login_hook]\ndeadline = \"100ms\"";
    let gateway = earlier.builder().config(config).start().await;
    let moved = format!("307 Moved\r\nLocation: {}/check", elsewhere.url());
    for (why, steps) in [
        ("an error", plain("500 Internal Server Error")),
        ("away for repair", plain("503 Service Unavailable")),
        ("forbidden", plain("403 Forbidden")),
        ("too many", plain("429 Too Many Requests")),
        ("elsewhere", plain(&moved)),
        ("made", plain("201 Created")),
        ("nobody", plain("200 OK")),
        ("a page", reply("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")),
        ("an id that is none", right(&json!({ "id": "auth0|7" }))),
        ("too long", right(&json!({ "user_metadata": { "a": "x".repeat(70_000) } }))),
        ("nothing", vec![Step::Close]),
        ("silence", vec![Step::ReadBody, Step::Stall]),
    ] {
        earlier.now_says(steps);
        let answer = log_in(&gateway, "ann@example.com", PASSWORD).await;
        assert_eq!((answer.status, &*answer.code()), (503, "unavailable"), "{why}");
        assert!(answer.header("retry-after").is_some(), "{why}");
    }
    assert_eq!(elsewhere.count(), 0);
    let store = store_of(&gateway);
    let failed = events_of(&store, EventKind::LoginFailed).await;
    assert_eq!(failed.len(), 12);
    for failure in &failed {
        assert_eq!(failure.event.reason.as_deref(), Some("login_hook_unavailable"));
    }
    assert!(store.users(None, 10, None).await.expect("users").is_empty());
    // None of them has counted as a failure.
    earlier.now_says(right(&json!({})));
    log_in(&gateway, "ann@example.com", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn an_account_without_a_password_takes_one_only_with_a_proved_address() {
    let earlier = Earlier::says(right(&json!({ "id": "other", "roles": ["staff"] }))).await;
    let gateway = earlier.builder().start().await;
    let store = store_of(&gateway);
    let ann = account(&gateway, &store, "ann").await;
    // Somebody may have registered there with her address.
    let answer = log_in(&gateway, &ann.email, PASSWORD).await;
    answer.expect_problem(401, "invalid_credentials");
    let proved = json!({ "id": "other", "roles": ["staff"], "email_confirmed": true });
    earlier.now_says(right(&proved));
    let session = log_in(&gateway, &ann.email, PASSWORD).await.expect(200).json();
    assert_eq!(session["user"]["id"], "ann");
    assert_eq!(session["user"]["app_metadata"]["roles"], json!(["clerk"]), "what she had");
    assert!(session["user"]["email_confirmed_at"].is_string());
    log_in(&gateway, &ann.email, PASSWORD).await.expect(200);
    assert_eq!(earlier.questions(), 2);

    // Whoever may not log in is not asked about.
    let bob = account(&gateway, &store, "bob").await;
    let now = gateway.clock.now();
    let until = now.checked_add(jiff::SignedDuration::from_hours(1)).expect("a time");
    let event = noted(EventKind::UserDisabled, now);
    store.disable(&bob.id, until, now, &event).await.expect("it is stored").expect("a user");
    let answer = log_in(&gateway, &bob.email, PASSWORD).await;
    answer.expect_problem(401, "invalid_credentials");
    assert_eq!(earlier.questions(), 2);
}

#[tokio::test]
async fn where_addresses_must_be_proved_nobody_moves_in_with_another() {
    let earlier = Earlier::says(right(&json!({ "email_confirmed": false }))).await;
    let config = format!(
        "[signup]\nconfirm_email = true\n[mail]\ntransport = \"webhook\"\n[mail.webhook]\n\
         url = \"{}/mail\"\nsecret = \"whsec_{}\"\n[links]\nsite_url = \"https://a.example.com\"",
        earlier.upstream.url(),
        STANDARD.encode(KEY)
    );
    let gateway = earlier.builder().config(&config).start().await;
    let answer = log_in(&gateway, "ann@example.com", PASSWORD).await;
    assert_eq!(answer.code(), "email_not_confirmed");
    let store = store_of(&gateway);
    assert!(store.users(None, 10, None).await.expect("users").is_empty());
    earlier.now_says(right(&json!({ "email_confirmed": true })));
    log_in(&gateway, "ann@example.com", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn two_first_logins_at_once_are_one_account() {
    let gate = Gate::new();
    let answer = right(&json!({ "email_confirmed": true }));
    let earlier = Earlier::says([vec![Step::Wait(gate.clone())], answer].concat()).await;
    let gateway = earlier.builder().start().await;
    let both = async {
        tokio::join!(
            log_in(&gateway, "ann@example.com", PASSWORD),
            log_in(&gateway, "ann@example.com", PASSWORD)
        )
    };
    let open = async {
        earlier.upstream.until("both questions", |seen| seen.len() == 2).await;
        gate.open();
    };
    let ((one, other), ()) = tokio::join!(both, open);
    let (one, other) = (one.expect(200).json(), other.expect(200).json());
    assert_eq!(one["user"]["id"], other["user"]["id"]);
    let users = store_of(&gateway).users(None, 10, None).await.expect("users");
    assert_eq!(users.len(), 1);
}

#[tokio::test]
async fn only_logins_ask_and_a_reload_ends_it() {
    let earlier = Earlier::says(right(&json!({}))).await;
    let gateway = TestGateway::builder().upstream("app", &earlier.upstream).start().await;
    let answer = log_in(&gateway, "ann@example.com", PASSWORD).await;
    answer.expect_problem(401, "invalid_credentials");
    gateway.configure(&earlier.config());
    gateway.reload().await.expect(200);
    let bob = gateway.sign_up("bob").await;
    let body = json!({ "refresh_token": bob.refresh_token });
    gateway.post("/auth/token?grant_type=refresh_token").json(&body).send().await.expect(200);
    assert_eq!(earlier.questions(), 0);
    log_in(&gateway, "ann@example.com", PASSWORD).await.expect(200);
    assert_eq!(earlier.questions(), 1);

    let far = earlier.config().replace("127.0.0.1", "192.0.2.1");
    for (bad, key) in [
        (far, "login_hook.url"),
        (earlier.config().replace("whsec_", "whsec_!"), "login_hook.secret"),
        (earlier.config().replace("10s", "1h"), "login_hook.deadline"),
    ] {
        gateway.configure(&bad);
        let refused = gateway.reload().await.expect(422).text();
        assert!(refused.contains(key), "{refused}");
        assert!(!refused.contains(&STANDARD.encode(KEY)), "{refused}");
    }
    gateway.configure("");
    gateway.reload().await.expect(200);
    let answer = log_in(&gateway, "carl@example.com", PASSWORD).await;
    answer.expect_problem(401, "invalid_credentials");
    assert_eq!(earlier.questions(), 1);
}
