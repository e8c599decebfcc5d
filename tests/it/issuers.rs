//! Tokens of other issuers, by the keys that those publish.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{
    Authority, Builder, Gate, IssuerKey, KeyServer, Program, Step, TestGateway, Upstream,
    json_answer, patiently, pause, reply,
};

/// `iss` of the issuer `corp`.
const CORP: &str = "https://id.example.com/";

const ROUTES: &str = r#"
[[routes]]
path = "/corp/{user_id}/{*rest}"
upstream = "app"
issuers = ["corp"]
[[routes]]
path = "/both/{*rest}"
upstream = "app"
issuers = ["self", "corp"]
limit = ["few"]
[[routes]]
path = "/private/{*rest}"
upstream = "app"
[limits]
few = { rate = "1/minute", by = "user" }
"#;

/// The issuer `corp` with its keys at `url`.
fn corp(url: &str, more: &str) -> String {
    format!(
        "[[issuers]]\nname = \"corp\"\nissuer = \"{CORP}\"\naudience = \"api\"\n\
         algorithms = [\"RS256\", \"ES256\", \"EdDSA\"]\njwks_url = \"{url}\"\n{more}\n"
    )
}

fn in_front_of(upstream: &Upstream, issuers: &str) -> Builder {
    TestGateway::builder().upstream("app", upstream).known_secret().config(ROUTES).config(issuers)
}

/// What a token of `corp` says, good for an hour.
fn claims(gateway: &TestGateway, subject: &str) -> Value {
    let now = gateway.clock.now().as_second();
    json!({ "iss": CORP, "aud": "api", "sub": subject, "iat": now, "exp": now + 3600 })
}

async fn status(gateway: &TestGateway, target: &str, token: &str) -> u16 {
    gateway.get(target).bearer(token).send().await.status
}

/// How the admin listener says that the issuer stands.
async fn standing(gateway: &TestGateway, name: &str) -> Value {
    let document = gateway.admin_get("/issuers").await.expect(200).json();
    let issuers = document["issuers"].as_array().expect("a list");
    issuers.iter().find(|issuer| issuer["name"] == name).cloned().expect("an issuer")
}

async fn until_standing(gateway: &TestGateway, what: &str, holds: impl Fn(&Value) -> bool) {
    patiently(what, async {
        while !holds(&standing(gateway, "corp").await) {
            pause().await;
        }
    })
    .await;
}

/// Claims as the issuers document them for their access tokens, and what the upstream is told.
#[tokio::test]
async fn access_tokens_of_auth0_keycloak_and_cognito_are_good_and_id_tokens_are_not() {
    let upstream = Upstream::echo().await;
    let key = IssuerKey::rsa("k1");
    let server = KeyServer::of(&[&key]).await;
    let issuers = format!(
        r#"
        [[issuers]]
        name = "auth0"
        issuer = "https://example.eu.auth0.com/"
        audience = "https://api.example.com"
        algorithms = ["RS256"]
        jwks_url = "{url}"
        typ = "at+jwt"
        claims = {{ roles = "https://app.example.com/roles" }}
        [[issuers]]
        name = "keycloak"
        issuer = "https://sso.example.com/realms/main"
        audience = "api"
        algorithms = ["RS256"]
        jwks_url = "{url}"
        require = {{ typ = "Bearer" }}
        claims = {{ roles = ["realm_access", "roles"] }}
        role_map = {{ Staff = "staff", "app admin" = "admin" }}
        [[issuers]]
        name = "cognito"
        issuer = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Example"
        audience = "1example23456789"
        audience_claim = "client_id"
        typ = "optional"
        require = {{ token_use = "access" }}
        algorithms = ["RS256"]
        jwks_url = "{url}"
        claims = {{ roles = "cognito:groups" }}
        max_lifetime = "1h"
        [[routes]]
        path = "/all/{{*rest}}"
        upstream = "app"
        issuers = ["auth0", "keycloak", "cognito"]
        "#,
        url = server.url()
    );
    let gateway = in_front_of(&upstream, &issuers).start().await;
    let now = gateway.clock.now().as_second();
    let auth0 = json!({
        "iss": "https://example.eu.auth0.com/", "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
        "aud": ["https://api.example.com", "https://example.eu.auth0.com/userinfo"],
        "iat": now, "exp": now + 3600, "azp": "CLIENT", "scope": "openid profile",
        "https://app.example.com/roles": ["editor"], "email": "ann@example.com",
    });
    let keycloak = json!({
        "iss": "https://sso.example.com/realms/main", "sub": "e6c4ba0a-2d35-4a4f-a3d7-3f8f4f1b0c6e",
        "aud": ["api", "account"], "typ": "Bearer", "azp": "web", "iat": now, "exp": now + 300,
        "jti": "a", "acr": "1", "realm_access": { "roles": ["offline_access", "Staff"] },
        "email": "ann@example.com", "email_verified": true, "preferred_username": "ann",
    });
    let cognito = json!({
        "iss": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Example",
        "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "client_id": "1example23456789",
        "token_use": "access", "cognito:groups": ["staff"], "auth_time": now, "iat": now,
        "exp": now + 3600, "username": "ann", "version": 2,
    });
    let header = |typ: Value| {
        let mut header = json!({ "alg": "RS256", "kid": "k1", "x5t": "dGVzdA" });
        if !typ.is_null() {
            header["typ"] = typ;
        }
        header
    };
    for (name, typ, claims, email, roles) in [
        ("auth0", json!("at+jwt"), &auth0, None, "editor"),
        ("keycloak", json!("JWT"), &keycloak, Some("ann@example.com"), "staff"),
        ("cognito", Value::Null, &cognito, None, "staff"),
    ] {
        let token = key.sign_with(&header(typ), claims);
        gateway
            .get("/all/a")
            .bearer(token)
            .header("X-User-Issuer", "self")
            .header("x_user_issuer", "self")
            .send()
            .await
            .expect(200);
        let seen = upstream.last();
        assert_eq!(seen.header("x-user-issuer"), Some(name));
        assert_eq!(seen.header("x-user-id"), claims["sub"].as_str(), "{name}");
        assert_eq!(seen.header("x-user-email"), email, "{name}");
        assert_eq!(seen.header("x-user-roles"), Some(roles), "{name}");
        assert_eq!(seen.header("x-session-id"), None, "{name}");
        assert!(!String::from_utf8_lossy(&seen.raw).contains("x_user_issuer"), "{name}");
    }
    let changed = |claims: &Value, changes: Value| {
        let mut claims = claims.clone();
        for (name, value) in changes.as_object().expect("changes") {
            if value.is_null() {
                claims.as_object_mut().expect("claims").remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        claims
    };
    for (why, typ, claims) in [
        ("an id token of Auth0", json!("JWT"), changed(&auth0, json!({ "aud": "CLIENT" }))),
        ("an id token for the API itself", json!("JWT"), auth0.clone()),
        ("no typ", Value::Null, auth0.clone()),
        ("an id token of Keycloak", json!("JWT"), changed(&keycloak, json!({ "typ": "ID" }))),
        ("a refresh token", json!("JWT"), changed(&keycloak, json!({ "typ": "Refresh" }))),
        ("of no kind", json!("JWT"), changed(&keycloak, json!({ "typ": null }))),
        (
            "an id token of Cognito",
            Value::Null,
            changed(
                &cognito,
                json!({ "token_use": "id", "aud": "1example23456789", "client_id": null }),
            ),
        ),
        ("the kind only", Value::Null, changed(&cognito, json!({ "token_use": "id" }))),
        ("another client", Value::Null, changed(&cognito, json!({ "client_id": "other" }))),
        ("for longer", Value::Null, changed(&cognito, json!({ "exp": now + 3602 }))),
        ("another pool", Value::Null, changed(&cognito, json!({ "iss": "https://evil.example" }))),
        ("a subject of two lines", json!("JWT"), changed(&keycloak, json!({ "sub": "a\nb" }))),
    ] {
        let answer =
            gateway.get("/all/a").bearer(key.sign_with(&header(typ), &claims)).send().await;
        assert_eq!((answer.status, &*answer.code()), (401, "bad_jwt"), "{why}");
    }
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn unknown_keys_cause_one_fetch_in_a_cool_down() {
    let upstream = Upstream::echo().await;
    let (old, new) = (IssuerKey::p256("old"), IssuerKey::ed25519("new"));
    let server = KeyServer::of(&[&old]).await;
    let gateway = in_front_of(&upstream, &corp(&server.url(), "")).start().await;
    let claims = claims(&gateway, "u1");
    assert_eq!(server.fetches(), 1);
    assert_eq!(status(&gateway, "/corp/u1/a", &old.sign(&claims)).await, 200);

    // The issuer has changed its key: found at once, by all who come with it.
    server.publish(&[&old, &new]);
    let renewed = new.sign(&claims);
    let statuses = join_all((0..8).map(|_| status(&gateway, "/corp/u1/a", &renewed))).await;
    assert_eq!(statuses, [200; 8]);
    assert_eq!(server.fetches(), 2);

    // Made-up names, in numbers.
    let flood = async |round: usize| {
        for chunk in 0..10 {
            let tokens = (0..20).map(|n| {
                let mut header = old.header();
                header["kid"] = format!("made-up-{round}-{chunk}-{n}").into();
                old.sign_with(&header, &claims)
            });
            let tokens: Vec<String> = tokens.collect();
            let sent = tokens.iter().map(|token| status(&gateway, "/corp/u1/a", token));
            assert_eq!(join_all(sent).await, [401; 20]);
        }
    };
    flood(1).await;
    assert_eq!(server.fetches(), 2, "within the cool-down");
    gateway.advance(Duration::from_secs(31));
    flood(2).await;
    assert_eq!(server.fetches(), 3, "one for each cool-down");

    // What names no key of the issuer, or another issuer, causes none.
    gateway.advance(Duration::from_secs(31));
    let mut nameless = old.header();
    nameless.as_object_mut().expect("a header").remove("kid");
    let mut other = claims.clone();
    other["iss"] = "https://other.example/".into();
    let mut header = old.header();
    header["kid"] = "unknown".into();
    for token in [
        old.sign_with(&nameless, &claims),
        old.sign_with(&header, &other),
        gateway.token("u1").parameter("kid", "unknown").sign(),
    ] {
        assert_eq!(status(&gateway, "/corp/u1/a", &token).await, 401);
    }
    assert_eq!(status(&gateway, "/private/a", &old.sign_with(&header, &claims)).await, 401);
    let last = old.sign_with(&header, &claims);
    assert_eq!(status(&gateway, "/corp/u1/a", &last).await, 401);
    assert_eq!(server.fetches(), 4, "the last one alone");
}

#[tokio::test]
async fn known_keys_stay_while_the_issuer_fails() {
    let upstream = Upstream::echo().await;
    let elsewhere = Upstream::echo().await;
    let (old, new) = (IssuerKey::p256("old"), IssuerKey::p256("new"));
    let server = KeyServer::of(&[&old]).await;
    let gateway = in_front_of(&upstream, &corp(&server.url(), "")).start().await;
    let page = |status: &str, body: &str| {
        reply(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    };
    let oct =
        json!({ "kty": "oct", "kid": "old", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ" });
    let moved = format!("302 Found\r\nLocation: {}/keys.json", elsewhere.url());
    let twice = [&new, &IssuerKey::p256("new")].map(IssuerKey::jwk);
    let many: Vec<Value> = (0..33).map(|n| IssuerKey::p256(&n.to_string()).jwk()).collect();
    for (why, steps) in [
        ("an error", page("500 Internal Server Error", "")),
        ("an error with keys", page("503 Busy", &json!({ "keys": [new.jwk()] }).to_string())),
        ("HTML", page("200 OK", "<html>it works</html>")),
        ("no keys", json_answer(&json!({ "keys": [] }))),
        ("symmetric keys only", json_answer(&json!({ "keys": [oct] }))),
        ("one name for two keys", json_answer(&json!({ "keys": twice }))),
        ("too many keys", json_answer(&json!({ "keys": many }))),
        ("too long", json_answer(&json!({ "keys": [new.jwk()], "x": "x".repeat(300_000) }))),
        ("a redirect", page(&moved, "")),
        ("nothing", vec![Step::Close]),
    ] {
        let failures = standing(&gateway, "corp").await["errors"].as_u64().expect("a number");
        server.answer(steps);
        gateway.advance(Duration::from_secs(601));
        until_standing(&gateway, "a failed fetch", |corp| corp["errors"] == failures + 1).await;
        assert!(standing(&gateway, "corp").await["failure"].is_string(), "{why}");
        let claims = claims(&gateway, "u1");
        assert_eq!(status(&gateway, "/corp/u1/a", &old.sign(&claims)).await, 200, "{why}");
    }
    assert_eq!(elsewhere.count(), 0, "redirects are not followed");
    // A failed one is tried again after the cool-down, not only when it is due.
    let gate = Gate::new();
    server.answer([vec![Step::Wait(gate.clone())], page("500 Late", "")].concat());
    let count = server.fetches();
    gateway.advance(Duration::from_secs(31));
    server.until_fetches(count + 1).await;
    let token = old.sign(&claims(&gateway, "u1"));
    assert_eq!(status(&gateway, "/corp/u1/a", &token).await, 200, "while it hangs");
    gate.open();
    let metrics = gateway.admin_get("/metrics").await.expect(200).text();
    assert!(
        metrics.contains("portcullis_issuer_keys_age_seconds{issuer=\"corp\"} 60"),
        "{metrics}"
    );
    assert!(metrics.contains("portcullis_issuer_fetch_errors_total{issuer=\"corp\"} 1"));

    // It is back with another key; the old one is gone with the set it was in.
    server.publish(&[&new]);
    gateway.advance(Duration::from_secs(31));
    until_standing(&gateway, "the new key", |corp| corp["keys"][0]["kid"] == "new").await;
    assert!(standing(&gateway, "corp").await["failure"].is_null());
    let claims = claims(&gateway, "u1");
    assert_eq!(status(&gateway, "/corp/u1/a", &new.sign(&claims)).await, 200);
    assert_eq!(status(&gateway, "/corp/u1/a", &old.sign(&claims)).await, 401);
}

#[tokio::test]
async fn an_issuer_that_is_away_at_the_start_keeps_nobody_else_out() {
    let upstream = Upstream::echo().await;
    let key = IssuerKey::p256("k1");
    let (server, silent) = (KeyServer::of(&[&key]).await, KeyServer::of(&[]).await);
    server.answer(reply("HTTP/1.1 500 Later\r\nContent-Length: 0\r\n\r\n"));
    silent.answer(vec![Step::Stall]);
    let other = corp(&silent.url(), "").replace("\"corp\"", "\"silent\"").replace(CORP, "silent");
    let issuers = corp(&server.url(), "") + &other;
    let mut gateway = in_front_of(&upstream, &issuers).start().await;
    assert_eq!((server.fetches(), silent.fetches()), (1, 1));
    let token = key.sign(&claims(&gateway, "u1"));
    assert_eq!(status(&gateway, "/private/a", &gateway.token("u1").sign()).await, 200);
    // It asks once more for the first token, in vain.
    gateway.get("/corp/u1/a").bearer(&token).send().await.expect_problem(401, "bad_jwt");
    assert_eq!(server.fetches(), 2);
    let line = gateway.log_line(|line| line["status"] == 401).await;
    assert!(line.to_string().contains("issuer_keys_unknown"), "{line}");
    let ready = gateway.admin_get("/health/ready").await.expect(200).json();
    let text = ready.to_string();
    assert!(text.contains("no keys yet of corp, silent"), "{text}");

    server.publish(&[&key]);
    gateway.advance(Duration::from_secs(31));
    until_standing(&gateway, "the key", |corp| corp["keys"][0]["kid"] == "k1").await;
    assert_eq!(status(&gateway, "/corp/u1/a", &token).await, 200);
    let ready = gateway.admin_get("/health/ready").await.expect(200).text();
    assert!(ready.contains("no keys yet of silent"), "{ready}");
    // A fetch that hangs does not outlive the gateway.
    gateway.shut_down().await.expect("it stops");
    silent.until_left_alone().await;
}

#[tokio::test]
async fn a_key_counts_for_its_algorithm_and_its_issuer_only() {
    let upstream = Upstream::echo().await;
    let (rsa, p256) = (IssuerKey::rsa("rsa"), IssuerKey::p256("p256"));
    let secret = "a-secret-that-everybody-can-read-0123456789";
    let oct = json!({
        "kty": "oct", "kid": "oct", "alg": "HS256", "use": "sig",
        "k": "YS1zZWNyZXQtdGhhdC1ldmVyeWJvZHktY2FuLXJlYWQtMDEyMzQ1Njc4OQ",
    });
    let mut encryption = IssuerKey::rsa("enc").jwk();
    encryption["use"] = "enc".into();
    let server = KeyServer::of(&[]).await;
    let public = rsa.jwk();
    server.answer(json_answer(&json!({ "keys": [public, p256.jwk(), oct, encryption] })));
    let gateway = in_front_of(&upstream, &corp(&server.url(), "")).start().await;
    let standing = standing(&gateway, "corp").await;
    assert_eq!(
        (&standing["skipped_keys"], standing["keys"].as_array().map(Vec::len)),
        (&2.into(), Some(2))
    );
    let claims = claims(&gateway, "u1");
    for key in [&rsa, &p256] {
        assert_eq!(status(&gateway, "/corp/u1/a", &key.sign(&claims)).await, 200);
    }
    let head = |key: &IssuerKey, name: &str, value: Value| {
        let mut header = key.header();
        header[name] = value;
        key.sign_with(&header, &claims)
    };
    let hmac = |kid: &str, secret: &str| {
        let mut token = gateway.token("u1").parameter("kid", kid).secret(secret);
        token.claims = claims.clone();
        token.sign()
    };
    let mut ours = claims.clone();
    ours["iss"] = crate::harness::Issuer::ours().name.into();
    ours["aud"] = "authenticated".into();
    ours["session_id"] = "01890000-0000-7000-8000-000000000000".into();
    ours["jti"] = "1".into();
    for (why, token) in [
        ("a key of another kind", head(&p256, "kid", "rsa".into())),
        ("another algorithm's name", head(&rsa, "alg", "ES256".into())),
        ("the public key as a secret", hmac("rsa", public["n"].as_str().expect("text"))),
        ("a published secret", hmac("oct", secret)),
        ("a key that comes along", head(&p256, "jwk", IssuerKey::p256("p256").jwk())),
        ("the address of a key", head(&p256, "jku", "https://evil.example/keys".into())),
        ("a stranger of the same name", IssuerKey::p256("p256").sign(&claims)),
        ("their key on a token of ours", p256.sign(&ours)),
    ] {
        for target in ["/corp/u1/a", "/both/a"] {
            assert_eq!(status(&gateway, target, &token).await, 401, "{why}");
        }
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn one_name_at_two_issuers_is_two_people() {
    let upstream = Upstream::echo().await;
    let key = IssuerKey::p256("k1");
    let server = KeyServer::of(&[&key]).await;
    let gateway = in_front_of(&upstream, &corp(&server.url(), "")).start().await;
    let ann = gateway.sign_up("ann").await;
    let mut claims = claims(&gateway, &ann.id);
    claims["app_metadata"] = json!({ "roles": ["admin"] });
    claims["session_id"] = "01890000-0000-7000-8000-000000000000".into();
    let theirs = key.sign(&claims);
    for (token, issuer) in [(&ann.token, "self"), (&theirs, "corp")] {
        // Each has its own count.
        gateway.get("/both/a").bearer(token).send().await.expect(200);
        let seen = upstream.last();
        assert_eq!(seen.header("x-user-issuer"), Some(issuer));
        assert_eq!(seen.header("x-user-id"), Some(&*ann.id));
        gateway.get("/both/a").bearer(token).send().await.expect(429);
    }
    // Not hers: neither her account nor what only our tokens open.
    for (method, target) in [
        ("GET", "/auth/user"),
        ("GET", "/auth/sessions"),
        ("POST", "/auth/logout"),
        ("GET", "/private/a"),
    ] {
        assert_eq!(
            gateway.request(method, target).bearer(&theirs).send().await.status,
            401,
            "{target}"
        );
    }
    gateway.get("/auth/user").bearer(&ann.token).send().await.expect(200);
    assert_eq!(status(&gateway, &format!("/corp/{}/a", ann.id), &ann.token).await, 401);
    assert_eq!(status(&gateway, &format!("/corp/{}/a", ann.id), &theirs).await, 200);
}

#[tokio::test]
async fn issuers_come_and_go_with_the_configuration() {
    let upstream = Upstream::echo().await;
    let key = IssuerKey::p256("k1");
    let (server, late) = (KeyServer::of(&[&key]).await, KeyServer::of(&[&key]).await);
    let with = |issuers: &str| format!("{issuers}{ROUTES}");
    let gateway = in_front_of(&upstream, &corp(&server.url(), "")).start().await;
    let token = key.sign(&claims(&gateway, "u1"));
    assert_eq!(status(&gateway, "/corp/u1/a", &token).await, 200);

    // The same issuer, which fails now: its keys stay.
    server.answer(vec![Step::Close]);
    gateway.configure(&with(&corp(&server.url(), "refresh = \"1h\"")));
    gateway.reload().await.expect(200);
    assert_eq!(status(&gateway, "/corp/u1/a", &token).await, 200);
    until_standing(&gateway, "a failed fetch", |corp| corp["failure"].is_string()).await;
    assert_eq!(status(&gateway, "/corp/u1/a", &token).await, 200);

    // Another address: nothing is taken over, and the first token waits for the fetch.
    gateway.configure(&with(&corp(&late.url(), "")));
    gateway.reload().await.expect(200);
    assert_eq!(status(&gateway, "/corp/u1/a", &token).await, 200);
    // Whoever is not configured any longer is not asked.
    let count = server.fetches();
    gateway.advance(Duration::from_secs(1000));
    late.until_fetches(2).await;
    assert_eq!(server.fetches(), count);

    let bad = corp(&late.url(), "").replace("http://127.0.0.1", "http://192.0.2.1");
    gateway.configure(&with(&bad));
    let refused = gateway.reload().await.expect(422).text();
    assert!(refused.contains("jwks_url"), "{refused}");
    let token = key.sign(&claims(&gateway, "u1"));
    assert_eq!(status(&gateway, "/corp/u1/a", &token).await, 200);
}

#[tokio::test]
async fn keys_come_over_tls_from_a_server_that_proves_itself() {
    let upstream = Upstream::echo().await;
    let key = IssuerKey::p256("k1");
    let server = KeyServer::of(&[&key]).await;
    let (authority, other) = (Authority::new(), Authority::new());
    let url = server.https_url(&authority.server(&["localhost"])).await;
    for (authority, expected) in [(&authority, 200), (&other, 401)] {
        let builder = TestGateway::builder();
        let file = builder.folder().join("authority.pem");
        authority.write(&file);
        let issuer = corp(&url, &format!("ca = {:?}", file.display().to_string()));
        let gateway = builder
            .upstream("app", &upstream)
            .known_secret()
            .config(ROUTES)
            .config(&issuer)
            .start()
            .await;
        let token = key.sign(&claims(&gateway, "u1"));
        assert_eq!(status(&gateway, "/corp/u1/a", &token).await, expected);
    }
    assert_eq!(server.fetches(), 1);
}

#[tokio::test]
async fn explain_fetches_the_keys_for_a_token() {
    let upstream = Upstream::echo().await;
    let key = IssuerKey::p256("k1");
    let server = KeyServer::of(&[&key]).await;
    let program = Program::of(in_front_of(&upstream, &corp(&server.url(), ""))).await;
    program.run(&["migrate"]).await.expect(0);
    let now = portcullis::clock::Clock::system().now().as_second();
    let claims = json!({ "iss": CORP, "aud": "api", "sub": "u1", "iat": now, "exp": now + 3600 });
    let token = key.sign(&claims);
    let explain = async |target: &str, token: &str, code: i32| {
        let told = program.run(&["explain", "GET", target, "--token", token, "--json"]).await;
        told.expect(code)
    };
    explain("/corp/u1/a", &token, 0).await;
    let other = explain("/corp/u2/a", &token, 1).await.json_lines().remove(0);
    assert_eq!(other["reason"], "owner_mismatch");
    let bad = explain("/corp/u1/a", &IssuerKey::p256("k1").sign(&claims), 1).await;
    assert_eq!(bad.json_lines().remove(0)["status"], 401);
    assert_eq!(server.fetches(), 3);
    server.answer(reply("HTTP/1.1 500 Later\r\nContent-Length: 0\r\n\r\n"));
    let told = explain("/corp/u1/a", &token, 1).await;
    assert!(told.stderr.contains("the keys of `corp` cannot be fetched"), "{told}");
    assert!(!told.stderr.contains(&token), "{told}");
}
