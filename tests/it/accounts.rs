//! Contract section 5: the account endpoints, row by row, as a client sees them.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use portcullis::model::{EventKind, PasswordHash, User, UserId};
use portcullis::store::{NewAccount, SignUp, Store};
use serde_json::{Value, json};

use crate::harness::{Answer, Caller, PASSWORD, Request, TestGateway, Upstream, events_of, noted};

const NEW_PASSWORD: &str = "Other-Plover-9-Ladder";

async fn gateway() -> (Upstream, TestGateway) {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    (upstream, gateway)
}

/// A gateway with the limits that the program has when nobody writes any, behind a proxy that
/// says where requests come from.
async fn limited(config: &str) -> TestGateway {
    let upstream = Upstream::echo().await;
    TestGateway::builder()
        .upstream("app", &upstream)
        .config(
            r#"
            [server]
            trusted_proxies = ["127.0.0.0/8"]
            [limits]
            signup = { rate = "5/minute", by = "ip" }
            login = { rate = "5/minute", by = "ip" }
            login_account = { rate = "20/hour", by = "account" }
            refresh = { rate = "30/minute", by = "ip" }
            "#,
        )
        .config(config)
        .start()
        .await
}

fn from(request: Request, address: &str) -> Request {
    request.header("X-Forwarded-For", address)
}

#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[track_caller]
fn expect_no_store(answer: &Answer) {
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

/// The parts of a token that are JSON.
fn decoded(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| {
        let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64url");
        serde_json::from_slice(&bytes).unwrap_or_default()
    });
    (parts.next().expect("a header"), parts.next().expect("claims"))
}

async fn disable(store: &Store, user: &str, now: Timestamp) {
    let until = "9999-01-01T00:00:00Z".parse().expect("a time");
    let user = user.parse().expect("a user id");
    let event = noted(EventKind::UserDisabled, now);
    store.disable(&user, until, now, &event).await.expect("stored").expect("the user is there");
}

// Sign-up.

#[tokio::test]
async fn a_sign_up_makes_an_account_with_a_session() {
    let (_upstream, gateway) = gateway().await;
    let body =
        json!({ "email": "Ann@Example.com", "password": PASSWORD, "data": { "name": "Ann" } });
    let answer = gateway.post_json("/auth/signup", &body).await.expect(201);
    expect_no_store(&answer);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let session = answer.json();
    let now = gateway.clock.now().as_second();
    assert_eq!(
        keys(&session),
        ["access_token", "expires_at", "expires_in", "refresh_token", "token_type", "user"]
    );
    assert_eq!(session["token_type"], "bearer");
    assert_eq!(session["expires_in"], 86400);
    assert_eq!(session["expires_at"], now + 86400);
    let user = &session["user"];
    let mut expected = [
        "id",
        "aud",
        "role",
        "email",
        "email_confirmed_at",
        "confirmed_at",
        "new_email",
        "invited_at",
        "last_sign_in_at",
        "app_metadata",
        "user_metadata",
        "identities",
        "factors",
        "is_anonymous",
        "created_at",
        "updated_at",
        "banned_until",
    ];
    expected.sort_unstable();
    assert_eq!(keys(user), expected);
    assert_eq!(user["email"], "Ann@Example.com", "as it was written");
    assert_eq!(user["aud"], "authenticated");
    assert_eq!(user["role"], "authenticated");
    assert_eq!(user["user_metadata"], json!({ "name": "Ann" }));
    assert_eq!(user["app_metadata"], json!({ "provider": "email", "providers": ["email"] }));
    assert_eq!(user["is_anonymous"], false);
    assert_eq!(user["factors"], json!([]));
    for null in ["email_confirmed_at", "confirmed_at", "new_email", "invited_at", "banned_until"] {
        assert_eq!(user[null], Value::Null, "{null}");
    }
    for time in ["last_sign_in_at", "created_at", "updated_at"] {
        let time: Timestamp = user[time].as_str().expect("a time").parse().expect("RFC 3339");
        assert_eq!(time, gateway.clock.now());
    }
    let id = uuid::Uuid::parse_str(user["id"].as_str().expect("an id")).expect("a UUID");
    assert_eq!(id.get_version_num(), 7);
    let refresh_token = session["refresh_token"].as_str().expect("a token");
    assert!(URL_SAFE_NO_PAD.decode(refresh_token).is_ok_and(|bytes| bytes.len() >= 32));

    let ann = Caller::from_session(&session);
    gateway.get_as(&ann.token, &format!("/api/{}/tasks", ann.id)).await.expect(200);
    gateway
        .get_as(&ann.token, "/api/somebody-else/tasks")
        .await
        .expect_problem(403, "owner_mismatch");
}

#[tokio::test]
async fn refused_sign_ups() {
    let (upstream, gateway) = gateway().await;
    gateway.sign_up("ann").await;
    // Addresses compare by their folded key.
    for taken in ["ann@example.com", "ANN@example.com", "ann@EXAMPLE.COM", "\u{ff41}nn@example.com"]
    {
        let refused = gateway.try_sign_up(taken).await;
        refused.expect_problem(409, "user_already_exists");
        expect_no_store(&refused);
    }
    let long = "aA1".repeat(342);
    for (password, reasons) in [
        ("Short1a", json!(["length"])),
        ("", json!(["length", "characters"])),
        ("alllowercase1", json!(["characters"])),
        ("ALLUPPERCASE1", json!(["characters"])),
        ("NoDigitsAtAll", json!(["characters"])),
        ("Password1", json!(["pwned"])),
        ("qwerty", json!(["length", "characters", "pwned"])),
        (&*long, json!(["length"])),
    ] {
        let body = json!({ "email": "bob@example.com", "password": password });
        let refused = gateway.post_json("/auth/signup", &body).await;
        let problem = refused.expect_problem(422, "weak_password");
        assert_eq!(problem["weak_password"]["reasons"], reasons, "{password}");
        let message = problem["weak_password"]["message"].as_str().expect("a message");
        assert!(!message.is_empty() && (password.is_empty() || !message.contains(password)));
        expect_no_store(&refused);
    }
    let large = "x".repeat(2100);
    for body in [
        json!({ "email": "bob@example.com" }),
        json!({ "phone": "+491234", "password": PASSWORD }),
        json!({ "email": "bob", "password": PASSWORD }),
        json!({ "email": "bob@example", "password": PASSWORD }),
        json!({ "email": "bob@example.com\r\nBcc: x@example.com", "password": PASSWORD }),
        json!({ "email": "bob\u{0}@example.com", "password": PASSWORD }),
        json!({ "email": format!("{}@example.com", "b".repeat(260)), "password": PASSWORD }),
        json!({ "email": ["bob@example.com"], "password": PASSWORD }),
        json!({ "email": "bob@example.com", "password": 12_345_678 }),
        json!({ "email": "bob@example.com", "password": PASSWORD, "data": "x" }),
        json!({ "email": "bob@example.com", "password": PASSWORD, "data": { "x": large } }),
    ] {
        let refused = gateway.post_json("/auth/signup", &body).await;
        refused.expect_problem(422, "validation_failed");
    }
    for body in [
        json!({}),
        json!({ "data": {}, "gotrue_meta_security": {} }),
        json!({ "password": PASSWORD }),
        json!({ "email": "", "password": PASSWORD }),
        json!({ "email": null, "phone": "", "password": PASSWORD }),
    ] {
        let refused = gateway.post_json("/auth/signup", &body).await;
        refused.expect_problem(422, "anonymous_provider_disabled");
    }
    assert!(gateway.store().users(None, 10, None).await.expect("users").len() == 1);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn nobody_makes_themselves_an_administrator() {
    let (_upstream, gateway) = gateway().await;
    let body = json!({
        "email": "eve@example.com", "password": PASSWORD, "role": "admin", "roles": ["admin"],
        "app_metadata": { "roles": ["admin"] }, "email_confirmed_at": "2026-01-01T00:00:00Z",
        "data": { "roles": ["admin"], "app_metadata": { "roles": ["admin"] } },
    });
    let session = gateway.post_json("/auth/signup", &body).await.expect(201).json();
    let eve = Caller::from_session(&session);
    let change =
        json!({ "app_metadata": { "roles": ["admin"] }, "role": "admin", "roles": ["admin"] });
    let answer = gateway.request("PUT", "/auth/user").bearer(&eve.token).json(&change).send().await;
    let user = answer.expect(200).json();
    assert_eq!(user["app_metadata"].get("roles"), None);
    assert_eq!(
        (&user["role"], &user["email_confirmed_at"]),
        (&json!("authenticated"), &Value::Null)
    );
    assert_eq!(decoded(&eve.token).1["app_metadata"].get("roles"), None);
    let echo = gateway.get_as(&eve.token, "/private/a").await.expect(200).text().to_lowercase();
    assert!(!echo.contains("x-user-roles") && !echo.contains("x-user-email"), "{echo}");
}

#[tokio::test]
async fn sign_ups_can_be_switched_off() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[signup]\nenabled = false")
        .start()
        .await;
    gateway.try_sign_up("ann@example.com").await.expect_problem(403, "signup_disabled");
    let settings = gateway.get("/auth/settings").send().await.expect(200).json();
    assert_eq!(settings["disable_signup"], true);
}

// Login.

#[tokio::test]
async fn a_login_begins_a_session_of_its_own() {
    let (_upstream, gateway) = gateway().await;
    let first = gateway.sign_up("ann").await;
    gateway.advance(Duration::from_secs(90));
    for target in
        ["/auth/login", "/auth/token?grant_type=password", "/auth/v1/token?grant_type=password"]
    {
        let body = json!({ "email": "ANN@example.com", "password": PASSWORD });
        let answer = gateway.post_json(target, &body).await.expect(200);
        expect_no_store(&answer);
        let session = answer.json();
        let again = Caller::from_session(&session);
        assert_eq!(again.id, first.id);
        assert_ne!(decoded(&again.token).1["session_id"], decoded(&first.token).1["session_id"]);
        let signed_in = session["user"]["last_sign_in_at"].as_str().expect("a time");
        let signed_in: Timestamp = signed_in.parse().expect("RFC 3339");
        assert_eq!(signed_in, gateway.clock.now());
        gateway.get_as(&again.token, "/private/a").await.expect(200);
    }
    gateway.get_as(&first.token, "/private/a").await.expect(200);
    let stored = gateway.store().user(&first.id.parse().expect("an id")).await.expect("read");
    assert_eq!(stored.expect("the user").last_sign_in_at, Some(gateway.clock.now()));
}

#[tokio::test]
async fn unknown_wrong_and_disabled_are_one_answer() {
    let (_upstream, gateway) = gateway().await;
    gateway.sign_up("ann").await;
    let dan = gateway.sign_up("dan").await;
    let store = gateway.store();
    disable(&store, &dan.id, gateway.clock.now()).await;
    let tried = [
        ("nobody@example.com", PASSWORD),
        ("ann@example.com", "Wrong-Password-1"),
        ("ann@example.com", ""),
        ("dan@example.com", PASSWORD),
        ("dan@example.com", "Wrong-Password-1"),
    ];
    let mut told = Vec::new();
    for (email, password) in tried {
        for target in ["/auth/login", "/auth/token?grant_type=password"] {
            let body = json!({ "email": email, "password": password });
            let refused = gateway.post_json(target, &body).await;
            let mut problem = refused.expect_problem(401, "invalid_credentials");
            expect_no_store(&refused);
            problem.as_object_mut().expect("an object").remove("instance");
            let mut fields = refused.headers.0.clone();
            let varies = ["date", "x-request-id", "ratelimit"];
            fields.retain(|(name, _)| !varies.contains(&&*name.to_ascii_lowercase()));
            told.push((problem, fields));
        }
    }
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:#?}");
    let last = store.user(&dan.id.parse().expect("an id")).await.expect("read").expect("there");
    assert_eq!(last.last_sign_in_at, Some(gateway.clock.now()), "of the sign-up");
}

/// One hash for each, so that the time tells nothing either.
#[tokio::test]
async fn unknown_wrong_and_disabled_cost_one_hash_each() {
    let (_upstream, gateway) = gateway().await;
    gateway.sign_up("ann").await;
    let dan = gateway.sign_up("dan").await;
    disable(&gateway.store(), &dan.id, gateway.clock.now()).await;
    let hashes = async || {
        let metrics = gateway.admin_get("/metrics").await.expect(200).text();
        let name = "portcullis_password_hash_duration_seconds_count ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("a count");
        line.parse::<u64>().expect("a number")
    };
    for (email, password) in [
        ("nobody@example.com", PASSWORD),
        ("ann@example.com", "Wrong-Password-1"),
        ("ann@example.com", ""),
        ("dan@example.com", PASSWORD),
        ("dan@example.com", "Wrong-Password-1"),
    ] {
        let before = hashes().await;
        gateway.log_in(email, password).await.expect(401);
        assert_eq!(hashes().await, before + 1, "{email} {password}");
    }
}

#[tokio::test]
async fn a_disabled_account_comes_back_at_its_time() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    let now = gateway.clock.now();
    let until = now + jiff::SignedDuration::from_secs(3600);
    let event = noted(EventKind::UserDisabled, now);
    let id = ann.id.parse().expect("an id");
    gateway.store().disable(&id, until, now, &event).await.expect("stored").expect("there");
    gateway.advance(Duration::from_secs(3599));
    gateway.log_in(&ann.email, PASSWORD).await.expect_problem(401, "invalid_credentials");
    gateway.advance(Duration::from_secs(1));
    let session = gateway.log_in(&ann.email, PASSWORD).await.expect(200).json();
    assert_eq!(session["user"]["banned_until"], Value::Null);
    // What was ended stays ended.
    gateway.refresh(&ann.refresh_token).await.expect_problem(400, "session_expired");
}

/// Client libraries send the header everywhere.
#[tokio::test]
async fn endpoints_that_need_no_token_do_not_look_at_one() {
    let (_upstream, gateway) = gateway().await;
    let body = json!({ "email": "ann@example.com", "password": PASSWORD });
    for (target, status) in [("/auth/signup", 201), ("/auth/login", 200)] {
        let request = gateway.post(target).bearer("anonymous-key").header("apikey", "x");
        request.json(&body).send().await.expect(status);
    }
    for target in ["/auth/health", "/auth/settings", "/auth/.well-known/jwks.json"] {
        gateway.get_as("anonymous-key", target).await.expect(200);
    }
}

/// A client that hangs up does not keep its request from being done.
#[tokio::test]
async fn a_sign_up_is_finished_when_its_client_has_gone() {
    let (_upstream, gateway) = gateway().await;
    let store = gateway.store();
    for n in 0..10 {
        let body = json!({ "email": format!("u{n}@example.com"), "password": PASSWORD });
        let mut client = gateway.connect().await;
        client.send(gateway.post("/auth/signup").json(&body).to_bytes()).await;
        // Long enough for the request to be read, not for the answer.
        if n % 2 == 0 {
            tokio::task::yield_now().await;
        }
        drop(client);
    }
    // Some were never read. Of the others, account and event are both there or both not.
    gateway.sign_up("last").await;
    let users = store.users(None, 100, None).await.expect("read").len();
    assert_eq!(events_of(&store, EventKind::Signup).await.len(), users);
}

#[tokio::test]
async fn grants_other_than_two_are_refused() {
    let (_upstream, gateway) = gateway().await;
    gateway.sign_up("ann").await;
    let body = json!({ "email": "ann@example.com", "password": PASSWORD });
    for target in [
        "/auth/token",
        "/auth/token?grant_type=",
        "/auth/token?grant_type=client_credentials",
        "/auth/token?grant_type=Password",
    ] {
        gateway.post_json(target, &body).await.expect_problem(400, "unsupported_grant_type");
    }
    let twice = "/auth/token?grant_type=password&grant_type=refresh_token";
    gateway.post_json(twice, &body).await.expect_problem(422, "validation_failed");
    for body in [json!({}), json!({ "refresh_token": 1 }), json!({ "refresh_token": null })] {
        let target = "/auth/token?grant_type=refresh_token";
        gateway.post_json(target, &body).await.expect_problem(422, "validation_failed");
    }
    for body in
        [json!({}), json!({ "email": "ann@example.com" }), json!({ "email": 1, "password": "x" })]
    {
        gateway.post_json("/auth/login", &body).await.expect_problem(422, "validation_failed");
    }
}

#[tokio::test]
async fn hashes_of_the_replaced_back_end_verify_and_become_argon2id() {
    let (_upstream, gateway) = gateway().await;
    let store = gateway.store();
    let now = gateway.clock.now();
    let hash = bcrypt::hash(PASSWORD, 4).expect("hashed");
    for (name, prefix) in [("a", "$2a$"), ("b", "$2b$"), ("y", "$2y$")] {
        let email: portcullis::model::Email = format!("{name}@example.com").parse().expect("fine");
        let id: UserId = format!("old-{name}").parse().expect("an id");
        let user = User {
            email_confirmed_at: Some(now),
            roles: vec!["editor".to_owned()],
            ..User::new(id.clone(), email.address(), now)
        };
        let foreign = PasswordHash(hash.replacen("$2b$", prefix, 1));
        assert!(foreign.0.starts_with(prefix));
        let new = NewAccount { user, email: email.clone(), password_hash: Some(foreign.clone()) };
        let event = noted(EventKind::UserCreated, now);
        assert_eq!(store.sign_up(&new, None, &event).await.expect("stored"), SignUp::Created);

        gateway.log_in(email.address(), "Wrong-Password-1").await.expect(401);
        let kept = store.account_by_id(&id).await.expect("read").expect("there").password_hash;
        assert!(kept == Some(foreign), "a wrong password changes nothing");
        let session = gateway.log_in(email.address(), PASSWORD).await.expect(200).json();
        assert_eq!(session["user"]["id"], id.as_str(), "existing rows keep their owner");
        let stored = store.account_by_id(&id).await.expect("read").expect("there");
        let hash = stored.password_hash.clone().expect("a hash").0.clone();
        assert!(hash.starts_with("$argon2id$"), "{}", hash.split('$').nth(1).unwrap_or_default());
        gateway.log_in(email.address(), PASSWORD).await.expect(200);
        // What is known of the user reaches the upstream.
        let ann = Caller::from_session(&session);
        let echo = gateway.get_as(&ann.token, &format!("/api/{id}/x")).await.expect(200).text();
        assert!(echo.contains(email.address()) && echo.contains("editor"), "{echo}");
    }
}

// Tokens.

#[tokio::test]
async fn access_tokens_say_what_the_contract_says_and_others_can_verify_them() {
    for (algorithm, kind) in [("ES256", "EC"), ("EdDSA", "OKP"), ("RS256", "RSA")] {
        let upstream = Upstream::echo().await;
        let gateway = TestGateway::builder()
            .upstream("app", &upstream)
            .config(&format!("[tokens]\nalgorithm = \"{algorithm}\""))
            .start()
            .await;
        let body = json!({ "email": "ann@example.com", "password": PASSWORD, "data": { "n": 1 } });
        let session = gateway.post_json("/auth/signup", &body).await.expect(201).json();
        let ann = Caller::from_session(&session);

        let answer = gateway.get("/auth/.well-known/jwks.json").send().await.expect(200);
        assert_eq!(answer.header("cache-control"), Some("public, max-age=600"));
        let jwks = answer.json();
        let [key] = &jwks["keys"].as_array().expect("keys")[..] else { panic!("{jwks}") };
        assert_eq!(
            (&key["kty"], &key["alg"], &key["use"]),
            (&json!(kind), &json!(algorithm), &json!("sig"))
        );
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert_eq!(key.get(private), None, "{private} in {key}");
        }

        let (header, claims) = decoded(&ann.token);
        assert_eq!(header, json!({ "alg": algorithm, "kid": key["kid"], "typ": "JWT" }));
        let now = gateway.clock.now().as_second();
        let (session_id, jti) = (claims["session_id"].clone(), claims["jti"].clone());
        for id in [&session_id, &jti] {
            assert!(uuid::Uuid::parse_str(id.as_str().expect("text")).is_ok());
        }
        let expected = json!({
            "iss": "http://127.0.0.1:8080/auth", "sub": ann.id, "aud": "authenticated",
            "exp": now + 86400, "iat": now, "jti": jti, "session_id": session_id,
            "email": "ann@example.com", "email_verified": false, "role": "authenticated",
            "app_metadata": { "provider": "email", "providers": ["email"] },
            "user_metadata": { "n": 1 }, "aal": "aal1",
            "amr": [{ "method": "password", "timestamp": now }], "is_anonymous": false,
        });
        assert_eq!(claims, expected);

        let jwks: JwkSet = serde_json::from_value(jwks).expect("a key set");
        let jwk = jwks.find(header["kid"].as_str().expect("a kid")).expect("the key");
        let key = DecodingKey::from_jwk(jwk).expect("a key");
        let mut rules = Validation::new(algorithm.parse().expect("known"));
        rules.set_audience(&["authenticated"]);
        rules.set_issuer(&["http://127.0.0.1:8080/auth"]);
        // The test's clock is not the system's.
        rules.validate_exp = false;
        let verified = jsonwebtoken::decode::<Value>(&ann.token, &key, &rules).expect("verified");
        assert_eq!(verified.claims, expected);
        let last = if ann.token.ends_with("AAAA") { "BBBB" } else { "AAAA" };
        let forged = format!("{}{last}", &ann.token[..ann.token.len() - 4]);
        assert!(jsonwebtoken::decode::<Value>(&forged, &key, &rules).is_err());
        gateway.get_as(&forged, "/private/a").await.expect_problem(401, "bad_jwt");
        gateway.get_as(&forged, "/auth/user").await.expect_problem(401, "bad_jwt");
    }
}

#[tokio::test]
async fn a_shared_secret_is_not_published() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let jwks = gateway.get("/auth/.well-known/jwks.json").send().await.expect(200);
    assert_eq!(jwks.json(), json!({ "keys": [] }));
    let ann = gateway.sign_up("ann").await;
    assert_eq!(decoded(&ann.token).0["alg"], "HS256");
    gateway.get_as(&ann.token, "/private/a").await.expect(200);
}

#[tokio::test]
async fn an_access_token_ends_after_its_time() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    gateway.advance(Duration::from_secs(86400 + 29));
    gateway.get_as(&ann.token, "/private/a").await.expect(200);
    gateway.get_as(&ann.token, "/auth/user").await.expect(200);
    gateway.advance(Duration::from_secs(2));
    for target in ["/private/a", "/optional/a", "/auth/user", "/auth/sessions"] {
        let refused = gateway.get_as(&ann.token, target).await;
        refused.expect_problem(401, "bad_jwt");
        let challenge = refused.header("www-authenticate").expect("a challenge");
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    }
}

// What a request must look like.

#[tokio::test]
async fn bodies_are_declared_json_of_at_most_16_kib() {
    let (_upstream, gateway) = gateway().await;
    let good = json!({ "email": "ann@example.com", "password": PASSWORD }).to_string();
    let posts = ["/auth/signup", "/auth/login", "/auth/token?grant_type=password"];
    for target in posts {
        for content_type in [
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some("multipart/form-data; boundary=x"),
            Some("application/jsonp"),
            None,
        ] {
            let request = gateway.post(target).body(&*good);
            let request = match content_type {
                Some(kind) => request.header("Content-Type", kind),
                None => request,
            };
            let refused = request.send().await;
            refused.expect_problem(415, "unsupported_media_type");
            expect_no_store(&refused);
        }
        for body in [
            "",
            "{",
            "[]",
            "null",
            "\"x\"",
            "{\"email\":}",
            "{} {}",
            "{\"email\":\"a\",\"email\":\"b\"}",
            "\u{feff}{}",
        ] {
            let request = gateway.post(target).header("Content-Type", "application/json");
            let refused = request.body(body).send().await;
            refused.expect_problem(400, "bad_json");
        }
        let not_utf8 = gateway.post(target).header("Content-Type", "application/json");
        not_utf8.body(&b"{\"email\":\"\xff\"}"[..]).send().await.expect_problem(400, "bad_json");

        let sized = |bytes: usize| format!("{good}{}", " ".repeat(bytes - good.len()));
        let request = gateway.post(target).header("Content-Type", "application/json");
        let refused = request.body(sized((16 << 10) + 1)).send().await;
        refused.expect_problem(413, "body_too_large");
        expect_no_store(&refused);
        let chunked = format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
            (16 << 10) + 1,
            sized((16 << 10) + 1)
        );
        let answers = gateway.raw(chunked).await.answers;
        answers[0].expect_problem(413, "body_too_large");
        let request =
            gateway.post(target).header("Content-Type", "Application/JSON; charset=utf-8");
        let answer = request.body(sized(16 << 10)).send().await;
        assert!(matches!(answer.status, 200 | 201), "{target}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_version_that_has_codes_is_answered_with_ours_in_refusals() {
    let (_upstream, gateway) = gateway().await;
    for target in ["/auth/user", "/private/a", "/unknown", "/auth/unknown"] {
        for version in ["2024-01-01", "2024-02-29", "2031-12-31"] {
            let request = gateway.get(target).header("X-Supabase-Api-Version", version);
            let refused = request.send().await;
            assert_eq!(refused.header("x-supabase-api-version"), Some("2024-01-01"), "{target}");
            let problem = refused.json();
            assert_eq!(problem["message"], problem["detail"]);
        }
        for version in
            ["2023-12-31", "2024-02-30", "2024-1-1", "20240101", "x", "", "2024-01-01T00"]
        {
            let request = gateway.get(target).header("X-Supabase-Api-Version", version);
            let refused = request.send().await;
            assert!(!refused.headers.has("x-supabase-api-version"), "{target} {version}");
            assert_eq!(refused.json().get("message"), None);
        }
        let plain = gateway.get(target).send().await;
        assert!(!plain.headers.has("x-supabase-api-version"));
        assert_eq!(plain.json().get("message"), None);
    }
}

/// Client libraries declare JSON on every request, also where they have nothing to say.
#[tokio::test]
async fn no_body_is_fine_where_no_field_is_needed() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    let bare = |method, target| gateway.request(method, target).bearer(&ann.token);
    let declared = |method, target| bare(method, target).header("Content-Type", "application/json");
    let user = gateway.get_as(&ann.token, "/auth/user").await.expect(200).json();
    assert_eq!(declared("PUT", "/auth/user").send().await.expect(200).json(), user);
    assert_eq!(bare("PUT", "/auth/user").send().await.expect(200).json(), user);
    assert_eq!(declared("GET", "/auth/user").send().await.expect(200).json(), user);
    for not_json in ["text/plain", "application/x-www-form-urlencoded"] {
        let request = bare("PUT", "/auth/user").header("Content-Type", not_json);
        request.send().await.expect_problem(415, "unsupported_media_type");
    }
    declared("POST", "/auth/logout").send().await.expect(204);
}

#[tokio::test]
async fn the_prefix_never_reaches_an_upstream() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[[routes]]\npath = \"/{*rest}\"\nupstream = \"app\"\naccess = \"public\"")
        .start()
        .await;
    for (method, target, allow) in [
        ("GET", "/auth/signup", "POST"),
        ("PUT", "/auth/login", "POST"),
        ("DELETE", "/auth/token", "POST"),
        ("GET", "/auth/logout", "POST"),
        ("DELETE", "/auth/user", "GET, HEAD, PUT"),
        ("POST", "/auth/sessions", "GET, HEAD"),
        ("GET", "/auth/sessions/x", "DELETE"),
        ("POST", "/auth/events", "GET, HEAD"),
        ("POST", "/auth/.well-known/jwks.json", "GET, HEAD"),
        ("PATCH", "/auth/health", "GET, HEAD"),
        ("POST", "/auth/settings", "GET, HEAD"),
        ("POST", "/auth/openapi.yaml", "GET, HEAD"),
        ("POST", "/auth/v1/health", "GET, HEAD"),
        ("OPTIONS", "/auth/login", "POST"),
    ] {
        let refused = gateway.request(method, target).send().await;
        refused.expect_problem(405, "method_not_allowed");
        assert_eq!(refused.header("allow"), Some(allow), "{method} {target}");
    }
    for target in [
        "/auth",
        "/auth/",
        "/auth/v1",
        "/auth/v1/",
        "/auth/unknown",
        "/auth/Login",
        "/auth/login/",
        "/auth/v1/v1/health",
        "/auth/v2/health",
        "/auth/sessions/",
        "/auth/sessions/a/b",
    ] {
        for method in ["GET", "POST"] {
            let refused = gateway.request(method, target).send().await;
            refused.expect_problem(404, "no_route");
        }
    }
    gateway.get("/auth/../public").send().await.expect_problem(400, "bad_request");
    gateway.get("/auth//health").send().await.expect_problem(400, "bad_request");
    assert_eq!(upstream.count(), 0);
    gateway.get("/authority").send().await.expect(200);
    assert_eq!(upstream.only().target, "/authority");
}

#[tokio::test]
async fn head_follows_get() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    for target in [
        "/auth/health",
        "/auth/settings",
        "/auth/openapi.yaml",
        "/auth/.well-known/jwks.json",
        "/auth/user",
        "/auth/sessions",
        "/auth/events",
        "/auth/v1/health",
    ] {
        let get = gateway.get_as(&ann.token, target).await.expect(200);
        let head = gateway.request("HEAD", target).bearer(&ann.token).send().await.expect(200);
        assert!(head.body.is_empty(), "{target}");
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(head.header(name), get.header(name), "{name} of {target}");
        }
        assert!(!get.body.is_empty());
    }
    gateway.request("HEAD", "/auth/user").send().await.expect(401);
}

#[tokio::test]
async fn what_anybody_may_know() {
    let (_upstream, gateway) = gateway().await;
    let health = gateway.get("/auth/health").send().await.expect(200);
    expect_no_store(&health);
    let settings = gateway.get("/auth/settings").send().await.expect(200).json();
    assert_eq!(settings["disable_signup"], false);
    assert_eq!(settings["external"]["email"], true);
    assert_eq!(gateway.get("/auth/v1/settings").send().await.expect(200).json(), settings);
    let document = gateway.get("/auth/openapi.yaml").send().await.expect(200);
    assert_eq!(document.header("cache-control"), Some("public, max-age=600"));
}

#[tokio::test]
async fn a_bearer_is_exactly_one_good_token() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    let endpoints = [
        ("GET", "/auth/user"),
        ("PUT", "/auth/user"),
        ("POST", "/auth/logout"),
        ("GET", "/auth/sessions"),
        ("GET", "/auth/events"),
        ("DELETE", "/auth/sessions/00000000-0000-4000-8000-000000000000"),
    ];
    for (method, target) in endpoints {
        let with = |lines: &[&str]| {
            let request = gateway.request(method, target).json(&json!({}));
            lines.iter().fold(request, |request, line| request.header("Authorization", line))
        };
        let good = format!("Bearer {}", ann.token);
        for (lines, status, code) in [
            (&[][..], 401, "no_authorization"),
            (&["Basic YTpi"], 401, "no_authorization"),
            (&["Bearer"], 400, "invalid_request"),
            (&["Bearer a b"], 400, "invalid_request"),
            (&[&good, &good], 400, "invalid_request"),
            (&["Bearer a.b.c"], 401, "bad_jwt"),
            (&[&format!("Bearer {}", ann.refresh_token)], 401, "bad_jwt"),
        ] {
            let refused = with(lines).send().await;
            refused.expect_problem(status, code);
            expect_no_store(&refused);
            let challenge = refused.header("www-authenticate").expect("a challenge");
            assert!(challenge.starts_with("Bearer realm="), "{challenge}");
            assert_eq!(challenge.contains("error="), code != "no_authorization", "{challenge}");
        }
    }
    gateway.get_as(&ann.token, "/auth/user").await.expect(200);
}

// The own account.

async fn change(gateway: &TestGateway, token: &str, body: Value) -> Answer {
    gateway.request("PUT", "/auth/user").bearer(token).json(&body).send().await
}

#[tokio::test]
async fn the_own_account_is_read_and_changed() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    let user = gateway.get_as(&ann.token, "/auth/user").await.expect(200);
    expect_no_store(&user);
    assert_eq!((&user.json()["id"], &user.json()["email"]), (&json!(ann.id), &json!(ann.email)));
    let changed =
        change(&gateway, &ann.token, json!({ "data": { "a": 1, "b": { "c": 2 } } })).await;
    assert_eq!(changed.expect(200).json()["user_metadata"], json!({ "a": 1, "b": { "c": 2 } }));
    let changed =
        change(&gateway, &ann.token, json!({ "data": { "a": null, "d": "x\u{0}y" } })).await;
    let metadata = changed.expect(200).json()["user_metadata"].clone();
    assert_eq!((metadata.get("a"), &metadata["b"]), (None, &json!({ "c": 2 })));
    for body in [
        json!({ "email": "bob" }),
        json!({ "phone": "+491234" }),
        json!({ "data": [] }),
        json!({ "password": 1 }),
        json!({ "data": { "x": "y".repeat(2100) } }),
    ] {
        change(&gateway, &ann.token, body).await.expect_problem(422, "validation_failed");
    }
    let now = gateway.get_as(&ann.token, "/auth/user").await.expect(200).json();
    assert_eq!(now["user_metadata"], metadata, "refusals change nothing");
    // The next token says what is known now.
    let fresh = gateway.refresh(&ann.refresh_token).await.expect(200).json();
    let fresh = Caller::from_session(&fresh);
    assert_eq!(decoded(&fresh.token).1["user_metadata"], metadata);
}

#[tokio::test]
async fn a_new_password_leaves_the_other_sessions_to_those_who_want_it() {
    let (_upstream, gateway) = gateway().await;
    let other = gateway.sign_up("ann").await;
    let mine = gateway.log_in(&other.email, PASSWORD).await.expect(200).json();
    let mine = Caller::from_session(&mine);
    for bad in [json!("false"), json!(0), json!([])] {
        let body = json!({ "password": NEW_PASSWORD, "sign_out_others": bad });
        change(&gateway, &mine.token, body).await.expect_problem(422, "validation_failed");
    }
    let keep = json!({ "password": NEW_PASSWORD, "sign_out_others": false });
    change(&gateway, &mine.token, keep).await.expect(200);
    gateway.get_as(&other.token, "/private/a").await.expect(200);
    let other = gateway.refresh(&other.refresh_token).await.expect(200).json();
    let other = Caller::from_session(&other);
    gateway.log_in(&mine.email, PASSWORD).await.expect(401);
    // It says nothing without a new password.
    let alone = json!({ "data": {}, "sign_out_others": true });
    change(&gateway, &mine.token, alone).await.expect(200);
    gateway.get_as(&other.token, "/private/a").await.expect(200);
    let end = json!({ "password": PASSWORD, "sign_out_others": true });
    change(&gateway, &mine.token, end).await.expect(200);
    gateway.get_as(&other.token, "/private/a").await.expect_problem(401, "session_not_found");
    gateway.get_as(&mine.token, "/private/a").await.expect(200);
}

#[tokio::test]
async fn a_new_password_needs_proof_and_ends_the_other_sessions() {
    let (_upstream, gateway) = gateway().await;
    let other = gateway.sign_up("ann").await;
    let mine = gateway.log_in(&other.email, PASSWORD).await.expect(200).json();
    let mine = Caller::from_session(&mine);
    for (body, status, code) in [
        (json!({ "password": "short" }), 422, "weak_password"),
        (json!({ "password": PASSWORD }), 422, "same_password"),
        (json!({ "password": PASSWORD, "current_password": PASSWORD }), 422, "same_password"),
        (
            json!({ "password": NEW_PASSWORD, "current_password": "" }),
            400,
            "current_password_required",
        ),
        (
            json!({ "password": NEW_PASSWORD, "current_password": "x" }),
            400,
            "current_password_invalid",
        ),
    ] {
        change(&gateway, &mine.token, body).await.expect_problem(status, code);
    }
    gateway.get_as(&other.token, "/private/a").await.expect(200);
    change(&gateway, &mine.token, json!({ "password": NEW_PASSWORD })).await.expect(200);
    for target in ["/private/a", "/auth/user"] {
        gateway.get_as(&mine.token, target).await.expect(200);
        gateway.get_as(&other.token, target).await.expect_problem(401, "session_not_found");
    }
    gateway.refresh(&other.refresh_token).await.expect_problem(400, "session_expired");
    gateway.log_in(&mine.email, PASSWORD).await.expect(401);
    gateway.log_in(&mine.email, NEW_PASSWORD).await.expect(200);

    // The login is a day old: the old password has to be shown.
    gateway.advance(Duration::from_hours(24) - Duration::from_secs(1));
    let fresh = gateway.refresh(&mine.refresh_token).await.expect(200).json();
    let fresh = Caller::from_session(&fresh);
    gateway.advance(Duration::from_secs(1));
    let refused = change(&gateway, &fresh.token, json!({ "password": PASSWORD })).await;
    refused.expect_problem(400, "reauthentication_needed");
    let proved = json!({ "password": PASSWORD, "current_password": NEW_PASSWORD });
    change(&gateway, &fresh.token, proved).await.expect(200);
    gateway.log_in(&mine.email, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let (_upstream, gateway) = gateway().await;
    let body = json!({ "email": "ann@example.com", "password": PASSWORD });
    let first =
        gateway.post("/auth/signup").header("User-Agent", "Phone/1").json(&body).send().await;
    let first = Caller::from_session(&first.expect(201).json());
    gateway.advance(Duration::from_secs(1));
    let second =
        gateway.post("/auth/login").header("User-Agent", "Desk/2").json(&body).send().await;
    let second = Caller::from_session(&second.expect(200).json());
    let bob = gateway.sign_up("bob").await;

    let listed = gateway.get_as(&second.token, "/auth/sessions").await.expect(200);
    expect_no_store(&listed);
    let listed = listed.json();
    let [newest, oldest] = &listed["sessions"].as_array().expect("a list")[..] else {
        panic!("{listed}")
    };
    assert_eq!((&newest["user_agent"], &newest["current"]), (&json!("Desk/2"), &json!(true)));
    assert_eq!((&oldest["user_agent"], &oldest["current"]), (&json!("Phone/1"), &json!(false)));
    assert_eq!(oldest["address"], "127.0.0.1");
    assert_eq!(oldest["id"], decoded(&first.token).1["session_id"]);
    assert!(oldest["last_seen_at"].is_string() && oldest["created_at"].is_string());

    let end = async |token: &str, id: &str| {
        gateway.request("DELETE", &format!("/auth/sessions/{id}")).bearer(token).send().await
    };
    let id = oldest["id"].as_str().expect("an id");
    end(&bob.token, id).await.expect_problem(404, "not_found");
    end(&second.token, "nonsense").await.expect_problem(404, "not_found");
    end(&second.token, "00000000-0000-4000-8000-000000000000")
        .await
        .expect_problem(404, "not_found");
    gateway.get_as(&first.token, "/private/a").await.expect(200);
    end(&second.token, id).await.expect(204);
    for target in ["/private/a", "/optional/a", "/auth/user"] {
        gateway.get_as(&first.token, target).await.expect_problem(401, "session_not_found");
        gateway.get_as(&second.token, target).await.expect(200);
    }
    end(&second.token, id).await.expect_problem(404, "not_found");
    let listed = gateway.get_as(&second.token, "/auth/sessions").await.expect(200).json();
    assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(1));
    // The own one is a logout.
    let own = listed["sessions"][0]["id"].as_str().expect("an id").to_owned();
    end(&second.token, &own).await.expect(204);
    gateway.get_as(&second.token, "/private/a").await.expect_problem(401, "session_not_found");
}

#[tokio::test]
async fn a_login_beyond_the_most_sessions_ends_the_oldest() {
    let upstream = Upstream::echo().await;
    let most = |n: u32| format!("[sessions]\nmax_per_user = {n}");
    let builder = TestGateway::builder().upstream("app", &upstream);
    let gateway = builder.config(&most(2)).start().await;
    let log_in = async || {
        gateway.advance(Duration::from_secs(1));
        let session = gateway.log_in("ann@example.com", PASSWORD).await.expect(200).json();
        Caller::from_session(&session)
    };
    let first = gateway.sign_up("ann").await;
    let bob = gateway.sign_up("bob").await;
    let second = log_in().await;
    gateway.get_as(&first.token, "/private/a").await.expect(200);
    let third = log_in().await;
    gateway.get_as(&first.token, "/private/a").await.expect_problem(401, "session_not_found");
    gateway.refresh(&first.refresh_token).await.expect_problem(400, "session_expired");
    for caller in [&second, &third, &bob] {
        gateway.get_as(&caller.token, "/private/a").await.expect(200);
    }
    let store = gateway.store();
    let noted = events_of(&store, EventKind::SessionsTrimmed).await;
    let [noted] = &noted[..] else { panic!("one event: {noted:?}") };
    assert_eq!(noted.event.user_id.as_ref().map(UserId::as_str), Some(&*first.id));
    let id = decoded(&third.token).1["session_id"].clone();
    assert_eq!(json!(noted.event.session_id), id);
    // The number may change while sessions run.
    gateway.configure(&most(1));
    gateway.reload().await.expect(200);
    gateway.get_as(&second.token, "/private/a").await.expect(200);
    let fourth = log_in().await;
    for caller in [&second, &third] {
        gateway.get_as(&caller.token, "/private/a").await.expect_problem(401, "session_not_found");
    }
    gateway.configure(&most(0));
    gateway.reload().await.expect(200);
    for _ in 0..5 {
        log_in().await;
    }
    gateway.get_as(&fourth.token, "/private/a").await.expect(200);
}

// Logout.

#[tokio::test]
async fn logout_ends_what_its_scope_says() {
    // Which of three sessions go on; the second asks.
    for (scope, alive) in [
        ("", [true, false, true]),
        ("?scope=local", [true, false, true]),
        ("?scope=others", [false, true, false]),
        ("?scope=global", [false, false, false]),
    ] {
        let (_upstream, gateway) = gateway().await;
        let mut sessions = vec![gateway.sign_up("ann").await];
        for _ in 0..2 {
            let again = gateway.log_in("ann@example.com", PASSWORD).await.expect(200).json();
            sessions.push(Caller::from_session(&again));
        }
        let bob = gateway.sign_up("bob").await;
        let target = format!("/auth/logout{scope}");
        let answer = gateway.post(&target).bearer(&sessions[1].token).send().await.expect(204);
        assert!(answer.body.is_empty());
        expect_no_store(&answer);
        for (session, alive) in sessions.iter().zip(alive) {
            let own = format!("/api/{}/x", session.id);
            for target in ["/private/a", "/optional/a", "/auth/user", "/auth/events", &own] {
                let answer = gateway.get_as(&session.token, target).await;
                if alive {
                    answer.expect(200);
                } else {
                    answer.expect_problem(401, "session_not_found");
                }
            }
            // Public routes do not look at tokens.
            gateway.get_as(&session.token, "/public/a").await.expect(200);
            let refreshed = gateway.refresh(&session.refresh_token).await;
            if alive {
                refreshed.expect(200);
            } else {
                refreshed.expect_problem(400, "session_expired");
            }
        }
        gateway.get_as(&bob.token, "/private/a").await.expect(200);
    }
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    for scope in ["?scope=all", "?scope=", "?scope=local&scope=global"] {
        let target = format!("/auth/logout{scope}");
        let refused = gateway.post(&target).bearer(&ann.token).send().await;
        refused.expect_problem(422, "validation_failed");
    }
    gateway.get_as(&ann.token, "/private/a").await.expect(200);
    // A body is not asked for; one that is there is nobody's business.
    gateway.post("/auth/logout").bearer(&ann.token).json(&json!({})).send().await.expect(204);
    gateway
        .post("/auth/logout")
        .bearer(&ann.token)
        .send()
        .await
        .expect_problem(401, "session_not_found");
}

/// A stream of requests on several connections and workers, and a logout in their midst: of those
/// that were sent after the 204 was read, not one passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_204_not_one_more_request_passes() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\nworkers = 2")
        .start()
        .await;
    for round in 0..10 {
        let ann = gateway.sign_up(&format!("ann{round}")).await;
        let over = Arc::new(AtomicBool::new(false));
        let (passed, mut passing) = tokio::sync::mpsc::unbounded_channel();
        let mut streams = Vec::new();
        for n in 0..6 {
            let (over, passed) = (Arc::clone(&over), passed.clone());
            let target =
                if n == 0 { "/auth/user".to_owned() } else { format!("/api/{}/x", ann.id) };
            let (address, token) = (gateway.address, ann.token.clone());
            let mut client = gateway.connect().await;
            streams.push(tokio::spawn(async move {
                let mut after = 0;
                while after < 20 {
                    let is_after = over.load(SeqCst);
                    let request = Request::new(address, "GET", &target).bearer(&token);
                    let answer = request.send_over(&mut client).await;
                    if is_after {
                        answer.expect_problem(401, "session_not_found");
                        after += 1;
                    } else if answer.status == 200 {
                        let _ = passed.send(());
                    }
                }
            }));
        }
        for _ in 0..60 {
            passing.recv().await.expect("requests pass before the logout");
        }
        gateway.post("/auth/logout").bearer(&ann.token).send().await.expect(204);
        over.store(true, SeqCst);
        for stream in streams {
            stream.await.expect("not one more 200");
        }
    }
}

// Limits.

#[tokio::test]
async fn sign_ups_and_logins_are_limited_for_each_address_apart() {
    let gateway = limited("").await;
    let post = async |target: &str, n: usize, address: &str| {
        let body = json!({ "email": format!("u{n}@example.com"), "password": PASSWORD });
        from(gateway.post(target), address).json(&body).send().await
    };
    for n in 0..5 {
        let answer = post("/auth/signup", n, "192.0.2.1").await.expect(201);
        assert_eq!(answer.header("ratelimit"), Some(&*format!("\"signup\";r={};t=60", 4 - n)));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"signup\";q=5;w=60"));
    }
    let refused = post("/auth/signup", 5, "192.0.2.1").await;
    refused.expect_problem(429, "over_request_rate_limit");
    expect_no_store(&refused);
    assert_eq!(refused.header("retry-after"), Some("60"));
    assert_eq!(refused.header("ratelimit"), Some("\"signup\";r=0;t=60"));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"signup\";q=5;w=60"));
    // Nor is a body read that is no JSON.
    let unread = from(gateway.post("/auth/signup"), "192.0.2.1").body("{");
    unread.send().await.expect_problem(429, "over_request_rate_limit");

    // Logins of the same address are counted apart, both doors together, good and bad alike.
    let wrong = json!({ "email": "u0@example.com", "password": "x" });
    for n in 0..5 {
        let target = [
            "/auth/login",
            "/auth/token?grant_type=password",
            "/auth/v1/token?grant_type=password",
        ][n % 3];
        let answer = if n == 1 {
            post(target, 0, "192.0.2.1").await.expect(200)
        } else {
            from(gateway.post(target), "192.0.2.1").json(&wrong).send().await.expect(401)
        };
        let left = answer.header("ratelimit").expect("counted");
        assert!(left.starts_with(&format!("\"login\";r={};t=60", 4 - n)), "{left}");
    }
    let refused = post("/auth/login", 0, "192.0.2.1").await;
    refused.expect_problem(429, "over_request_rate_limit");
    assert_eq!(refused.header("retry-after"), Some("60"));

    // Other addresses are; an IPv6 network of one customer is one.
    post("/auth/login", 0, "192.0.2.2").await.expect(200);
    for n in 0..5 {
        post("/auth/login", 0, &format!("2001:db8:0:1::{n}")).await.expect(200);
    }
    post("/auth/login", 0, "2001:db8:0:1:ffff::1").await.expect(429);
    post("/auth/login", 0, "2001:db8:0:2::1").await.expect(200);
    post("/auth/login", 0, "::ffff:192.0.2.1").await.expect(429);

    // A whole window later it is free again, not a moment before.
    gateway.advance(Duration::from_millis(59_999));
    post("/auth/login", 0, "192.0.2.1").await.expect(429);
    gateway.advance(Duration::from_millis(1));
    post("/auth/signup", 6, "192.0.2.1").await.expect(201);
    post("/auth/login", 0, "192.0.2.1").await.expect(200);
    // What needs a token is not counted.
    let answer = gateway.get("/auth/health").send().await.expect(200);
    assert!(!answer.headers.has("ratelimit"));
}

#[tokio::test]
async fn a_window_slides() {
    let gateway = limited("").await;
    // Of an address each time, so that failures at one are not what is limited.
    let next = Cell::new(0);
    let log_in = async || {
        let n = next.replace(next.get() + 1);
        gateway.log_in(&format!("nobody-{n}@example.com"), "x").await.status
    };
    // Two now, three 30 seconds later.
    for _ in 0..2 {
        assert_eq!(log_in().await, 401);
    }
    gateway.advance(Duration::from_secs(30));
    for _ in 0..3 {
        assert_eq!(log_in().await, 401);
    }
    let refused = gateway.log_in("nobody@example.com", "x").await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("30")));
    gateway.advance(Duration::from_secs(30));
    assert_eq!([log_in().await, log_in().await, log_in().await], [401, 401, 429]);
}

#[tokio::test]
async fn guesses_at_one_account_are_limited_wherever_they_come_from() {
    let gateway = limited("").await;
    let guess = async |email: &str, n: usize| {
        let body = json!({ "email": email, "password": "x" });
        from(gateway.post("/auth/login"), &format!("198.51.100.{n}")).json(&body).send().await
    };
    // Known or not makes no difference, nor does the way it is written.
    for name in ["ann", "nobody"] {
        if name == "ann" {
            gateway.sign_up(name).await;
        }
        let spellings =
            [format!("{name}@example.com"), format!("{}@EXAMPLE.com", name.to_uppercase())];
        for n in 0..20 {
            guess(&spellings[n % 2], n).await.expect(401);
            // Until the pause after it is over.
            gateway.advance(Duration::from_mins(1));
        }
        let refused = guess(&spellings[0], 21).await;
        refused.expect_problem(429, "over_request_rate_limit");
        assert_eq!(refused.header("retry-after"), Some("2400"));
        let policy = refused.header("ratelimit-policy").expect("counted");
        assert!(policy.contains("\"login_account\";q=20;w=3600"), "{policy}");
        gateway.advance(Duration::from_mins(1));
    }
    guess("other@example.com", 1).await.expect(401);
    gateway.advance(Duration::from_hours(1));
    gateway.log_in("ann@example.com", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn refreshes_are_limited() {
    let gateway = limited("").await;
    for n in 0..30 {
        let refused = gateway.refresh(&URL_SAFE_NO_PAD.encode([n; 32])).await;
        refused.expect_problem(400, "refresh_token_not_found");
    }
    let refused = gateway.refresh("x").await;
    refused.expect_problem(429, "over_request_rate_limit");
    assert!(refused.headers.has("retry-after"));
    // Sign-ups and logins are not touched by that.
    gateway.sign_up("ann").await;
}

#[tokio::test]
async fn guesses_through_a_stolen_token_are_limited() {
    let gateway = limited("").await;
    let ann = gateway.sign_up("ann").await;
    let guess = json!({ "password": NEW_PASSWORD, "current_password": "x" });
    for _ in 0..20 {
        change(&gateway, &ann.token, guess.clone())
            .await
            .expect_problem(400, "current_password_invalid");
    }
    let refused = change(&gateway, &ann.token, guess).await;
    refused.expect_problem(429, "over_request_rate_limit");
}

#[tokio::test]
async fn a_forwarding_header_of_a_stranger_does_not_help_past_a_limit() {
    let gateway = limited("[server]\ntrusted_proxies = []").await;
    let body = json!({ "email": "ann@example.com", "password": "x" });
    for n in 0..6 {
        let request = from(gateway.post("/auth/login"), &format!("192.0.2.{n}")).json(&body);
        let status = request.send().await.status;
        assert_eq!(status, if n < 5 { 401 } else { 429 });
    }
}

#[tokio::test]
async fn limits_are_what_the_configuration_says() {
    let gateway = limited("[limits]\nlogin = { rate = \"2/hour\", by = \"ip\" }").await;
    let statuses = [
        gateway.log_in("ann@example.com", "x").await.status,
        gateway.log_in("ann@example.com", "x").await.status,
        gateway.log_in("ann@example.com", "x").await.status,
    ];
    assert_eq!(statuses, [401, 401, 429]);
}
