//! OAuth 2.0 for clients that know nothing of us but the issuer's address: the documents that lead
//! them, and the endpoints that those name.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::clock::Clock;
use portcullis::model::EventKind;
use portcullis::store::Store;
use serde_json::{Value, json};

use crate::harness::postgres::{self, Database};
use crate::harness::{
    Answer, Caller, Program, TestGateway, Upstream, events_of, open_store, patiently, pause,
};

/// The address under which the issuer of test tokens is known.
const ISSUER: &str = "http://127.0.0.1:8080/auth";

async fn document(gateway: &TestGateway, path: &str) -> Value {
    let answer = gateway.get(path).send().await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
    assert_eq!(answer.header("cache-control"), Some("public, max-age=600"), "{path}");
    answer.json()
}

#[track_caller]
fn expect_oauth(answer: &Answer, status: u16, error: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let body = answer.json();
    assert_eq!(body["error"], error);
    assert!(body["error_description"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(2), "{body}");
}

async fn revoke(gateway: &TestGateway, token: &str) -> Answer {
    gateway.post("/auth/oauth/revoke").form(&[("token", token)]).send().await
}

#[tokio::test]
async fn the_issuers_address_leads_to_everything() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let server = document(&gateway, "/auth/.well-known/openid-configuration").await;
    for path in [
        "/auth/.well-known/oauth-authorization-server",
        "/auth/v1/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/auth",
    ] {
        assert_eq!(document(&gateway, path).await, server, "{path}");
    }
    assert_eq!(server["issuer"], ISSUER);
    // Whatever it names is there.
    for (name, value) in server.as_object().expect("an object") {
        if !(name.ends_with("_uri")
            || name.ends_with("_endpoint")
            || name.ends_with("documentation"))
        {
            continue;
        }
        let address = value.as_str().expect("an address");
        let path = address.strip_prefix("http://127.0.0.1:8080").expect("the issuer's host");
        let method = if name.ends_with("_endpoint") { "POST" } else { "GET" };
        let answer = gateway.request(method, path).send().await;
        let expected = if method == "POST" { 400 } else { 200 };
        assert_eq!(answer.status, expected, "{name}: {}", answer.text());
    }
    for (path, resource) in [
        ("/auth/.well-known/oauth-protected-resource", ISSUER),
        ("/.well-known/oauth-protected-resource/auth", ISSUER),
        ("/.well-known/oauth-protected-resource", "http://127.0.0.1:8080"),
    ] {
        let found = document(&gateway, path).await;
        assert_eq!(found["resource"], resource, "{path}");
        assert_eq!(found["authorization_servers"], json!([ISSUER]), "{path}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn at_the_root_nothing_but_the_documents_is_ours() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(
            "[[routes]]\npath = \"/.well-known/{*rest}\"\nupstream = \"app\"\naccess = \"public\"",
        )
        .start()
        .await;
    let ours = "/.well-known/oauth-protected-resource";
    let head = gateway.request("HEAD", ours).send().await.expect(200);
    assert!(head.body.is_empty() && head.header("content-length").is_some_and(|n| n != "0"));
    let post = gateway.post(ours).send().await;
    post.expect_problem(405, "method_not_allowed");
    assert_eq!(post.header("allow"), Some("GET, HEAD"));
    // Another spelling of one of ours reaches nobody.
    gateway
        .get("/%2ewell-known/oauth-protected-resource")
        .send()
        .await
        .expect_problem(404, "no_route");
    assert_eq!(upstream.count(), 0);
    for theirs in [
        "/.well-known/acme-challenge/x",
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/other",
        "/.well-known/oauth-authorization-server/auth/",
        "/.well-known/oauth-protected-resource/auth/x",
        "/.well-known/openid-configuration",
    ] {
        gateway.get(theirs).send().await.expect(200);
        assert_eq!(upstream.last().target, theirs);
    }
    // The switch leaves them to the route, at once.
    gateway.configure("[discovery]\nroot = false");
    gateway.reload().await.expect(200);
    let count = upstream.count();
    gateway.get(ours).send().await.expect(200);
    assert_eq!(upstream.count(), count + 1);
    document(&gateway, "/auth/.well-known/oauth-authorization-server").await;
}

#[tokio::test]
async fn an_issuer_that_is_no_address_has_no_documents() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[tokens]\nissuer = \"example\"")
        .start()
        .await;
    for path in [
        "/auth/.well-known/openid-configuration",
        "/auth/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource",
    ] {
        gateway.get(path).send().await.expect_problem(404, "no_route");
    }
}

#[tokio::test]
async fn whoever_has_a_token_can_give_its_session_up() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    let ann = gateway.sign_up("ann").await;
    let log_in = async || {
        let session = gateway.log_in(&ann.email, crate::harness::PASSWORD).await.expect(200).json();
        Caller::from_session(&session)
    };
    let (by_refresh, by_access, by_old) = (log_in().await, log_in().await, log_in().await);
    let newest = gateway.refresh(&by_old.refresh_token).await.expect(200).json();
    let newest = Caller::from_session(&newest);
    for (shown, session) in [
        (&by_refresh.refresh_token, &by_refresh),
        (&by_access.token, &by_access),
        // Traded before: whoever shows it was given it all the same.
        (&by_old.refresh_token, &newest),
    ] {
        gateway.get_as(&session.token, "/private/a").await.expect(200);
        for _ in 0..2 {
            let answer = revoke(&gateway, shown).await.expect(200);
            assert!(answer.body.is_empty(), "{}", answer.text());
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
        gateway.get_as(&session.token, "/private/a").await.expect_problem(401, "session_not_found");
        let refused = gateway.refresh(&session.refresh_token).await;
        refused.expect_problem(400, "session_expired");
    }
    // Of the others nothing was touched.
    gateway.get_as(&ann.token, "/private/a").await.expect(200);
    let told: Vec<_> = events_of(&gateway.store(), EventKind::Logout).await;
    assert_eq!(told.len(), 3, "each session ends once");
    for stored in told {
        assert_eq!(stored.event.reason.as_deref(), Some("revoked_by_token"));
        assert_eq!(stored.event.user_id.map(|id| id.to_string()).as_deref(), Some(&*ann.id));
        assert!(stored.event.session_id.is_some() && stored.event.address.is_some());
    }
}

#[tokio::test]
async fn a_token_of_nobody_is_as_good_as_revoked() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .known_secret()
        .foreign_issuer()
        .start()
        .await;
    let ann = gateway.sign_up("ann").await;
    let forged = gateway.token(&ann.id).secret("another-secret-0123456789-0123456789").sign();
    let foreign = gateway.foreign_token(&ann.id).sign();
    for token in ["x", &"A".repeat(43), &"x".repeat(9000), "a.b.c", "\u{fffd}", &forged, &foreign] {
        assert!(revoke(&gateway, token).await.expect(200).body.is_empty(), "{token}");
    }
    gateway.advance(Duration::from_secs(24 * 3600 + 31));
    revoke(&gateway, &ann.token).await.expect(200);
    gateway.refresh(&ann.refresh_token).await.expect(200);
    assert!(events_of(&gateway.store(), EventKind::Logout).await.is_empty());
}

#[tokio::test]
async fn what_is_no_form_is_refused_in_oauths_words() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let path = "/auth/oauth/revoke";
    for request in [
        gateway.post(path),
        gateway.post(path).json(&json!({ "token": "x" })),
        gateway.post(path).body("token=x"),
        gateway.post(path).form(&[]),
        gateway.post(path).form(&[("token", "")]),
        gateway.post(path).form(&[("token", "x"), ("token", "x")]),
        gateway.post(&format!("{path}?token=x")).form(&[("token_type_hint", "access_token")]),
    ] {
        expect_oauth(&request.send().await, 400, "invalid_request");
    }
    gateway.get(path).send().await.expect_problem(405, "method_not_allowed");
    let large = "x".repeat(17 * 1024);
    revoke(&gateway, &large).await.expect_problem(413, "body_too_large");
}

#[tokio::test]
async fn oauth_endpoints_have_a_limit_for_each_address() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[limits]\noauth = { rate = \"2/minute\", by = \"ip\" }")
        .start()
        .await;
    for _ in 0..2 {
        revoke(&gateway, "x").await.expect(200);
    }
    let refused = revoke(&gateway, "x").await;
    refused.expect_problem(429, "over_request_rate_limit");
    assert!(refused.header("retry-after").is_some());
}

/// Routes for programs beside one for people.
const PROGRAMS: &str = r#"
[api_keys]
self_service = true
[[routes]]
path = "/api/{user_id}/{*rest}"
upstream = "app"
api_keys = true
[[routes]]
path = "/api/{user_id}/orders"
upstream = "app"
api_keys = true
scopes = ["orders:write"]
[[routes]]
path = "/people/{*rest}"
upstream = "app"
"#;

/// A gateway whose command line makes keys on the same database.
struct Office {
    gateway: TestGateway,
    program: Program,
    upstream: Upstream,
    database: Database,
}

impl Office {
    async fn new(config: &str) -> Self {
        let upstream = Upstream::echo().await;
        let database = postgres::database().await;
        // The command line goes by the system's clock, so all do.
        let builder = || {
            TestGateway::builder()
                .upstream("app", &upstream)
                .storage(&database.url)
                .clock(Clock::system())
                .config(PROGRAMS)
                .config(config)
        };
        let gateway = builder().start().await;
        let program = Program::of(builder()).await;
        Self { gateway, program, upstream, database }
    }

    fn store(&self) -> Store {
        open_store(&self.database.url)
    }

    /// A key that the gateway knows.
    async fn key(&self, owner: &Caller, scopes: &[&str]) -> String {
        let mut words = vec!["api-keys", "create", &owner.email, "--name", "a job"];
        words.extend(scopes.iter().flat_map(|scope| ["--scope", scope]));
        let told = self.program.run(&words).await.expect(0);
        let key = told.stdout.trim().to_owned();
        patiently("the key", async {
            let path = format!("/api/{}/x", owner.id);
            while self.gateway.get_as(&key, &path).await.status != 200 {
                pause().await;
            }
        })
        .await;
        key
    }
}

fn basic(key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{key}", &key[..12])))
}

async fn grant(gateway: &TestGateway, key: &str, more: &[(&str, &str)]) -> Answer {
    let form = [&[("grant_type", "client_credentials")], more].concat();
    let request = gateway.post("/auth/oauth/token").header("Authorization", basic(key));
    request.form(&form).send().await
}

async fn token(gateway: &TestGateway, key: &str, more: &[(&str, &str)]) -> String {
    let answer = grant(gateway, key, more).await.expect(200);
    answer.json()["access_token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn a_program_trades_its_key_for_a_token() {
    let office = Office::new("").await;
    let gateway = &office.gateway;
    let (ann, bob) = (gateway.sign_up("ann").await, gateway.sign_up("bob").await);
    let key = office.key(&ann, &["orders:write", "read"]).await;
    let answer = grant(gateway, &key, &[]).await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("pragma"), Some("no-cache"));
    let body = answer.json();
    assert_eq!(
        (&body["token_type"], &body["expires_in"], &body["scope"]),
        (&json!("Bearer"), &json!(3600), &json!("orders:write read"))
    );
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(4), "no refresh token");
    let all = body["access_token"].as_str().expect("a token");
    // As the key itself: as its user, where programs may.
    gateway.get_as(all, &format!("/api/{}/orders", ann.id)).await.expect(200);
    let seen = office.upstream.last();
    assert_eq!(seen.header("x-user-id"), Some(&*ann.id));
    assert_eq!(seen.header("x-user-scopes"), Some("orders:write,read"));
    assert_eq!((seen.header("x-session-id"), seen.header("authorization")), (None, None));
    let others = gateway.get_as(all, &format!("/api/{}/x", bob.id)).await;
    others.expect_problem(403, "owner_mismatch");
    gateway.get_as(all, "/people/x").await.expect_problem(401, "api_key_not_accepted");
    for (method, path) in [
        ("GET", "/auth/user"),
        ("PUT", "/auth/user"),
        ("GET", "/auth/sessions"),
        ("GET", "/auth/api_keys"),
        ("POST", "/auth/api_keys"),
        ("POST", "/auth/logout?scope=global"),
    ] {
        let answer = gateway.request(method, path).bearer(all).json(&json!({})).send().await;
        answer.expect_problem(401, "api_key_not_accepted");
    }
    gateway.get_as(&ann.token, "/auth/user").await.expect(200);
    let sessions = gateway.get_as(&ann.token, "/auth/sessions").await.expect(200).json();
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(1), "{sessions}");

    // Less, when it asks for less.
    let less = token(gateway, &key, &[("scope", "read")]).await;
    gateway.get_as(&less, &format!("/api/{}/x", ann.id)).await.expect(200);
    assert_eq!(office.upstream.last().header("x-user-scopes"), Some("read"));
    let refused = gateway.get_as(&less, &format!("/api/{}/orders", ann.id)).await;
    refused.expect_problem(403, "insufficient_scope");
    let more = grant(gateway, &key, &[("scope", "read admin")]).await;
    expect_oauth(&more, 400, "invalid_scope");

    let store = office.store();
    let issued = events_of(&store, EventKind::ClientTokenIssued).await;
    assert_eq!(issued.len(), 2);
    let refused = events_of(&store, EventKind::ClientTokenRefused).await;
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].event.reason.as_deref(), Some("invalid_scope"));
    for stored in issued.iter().chain(&refused) {
        assert_eq!(stored.event.actor, Some(format!("key:{}", &key[..12])));
        assert_eq!(stored.event.user_id.as_ref().map(ToString::to_string), Some(ann.id.clone()));
    }
}

#[tokio::test]
async fn a_client_shows_one_good_key() {
    let office = Office::new("").await;
    let gateway = &office.gateway;
    let ann = gateway.sign_up("ann").await;
    let (key, other) = (office.key(&ann, &[]).await, office.key(&ann, &[]).await);
    let (id, path) = (&key[..12], "/auth/oauth/token");
    let grant = ("grant_type", "client_credentials");
    // In the form, and in `Basic` with every character encoded that may be.
    let posted = gateway.post(path).form(&[grant, ("client_id", id), ("client_secret", &key)]);
    let posted = posted.send().await.expect(200).json();
    assert_eq!(posted.get("scope"), None, "a key without scopes");
    let encoded: Vec<_> = key.bytes().map(|b| format!("%{b:02x}")).collect();
    let encoded = format!("basic {}", STANDARD.encode(format!("{id}:{}", encoded.concat())));
    let encoded = gateway.post(path).header("Authorization", encoded);
    encoded.form(&[grant, ("client_id", id)]).send().await.expect(200);

    let pair =
        |id: &str, secret: &str| format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
    let by = |authorization: String| {
        gateway.post(path).header("Authorization", authorization).form(&[grant])
    };
    for request in [
        gateway.post(path).form(&[grant]),
        gateway.post(path).form(&[grant, ("client_id", id)]),
        gateway.post(path).form(&[grant, ("client_secret", &key)]),
        gateway.post(path).form(&[grant, ("client_id", &other[..12]), ("client_secret", &key)]),
        by(pair(&other[..12], &key)),
        by(pair(id, &key[..55])),
        by(pair(id, &format!("{key}%20"))),
        by(pair("", &key)),
        by(pair(&ann.email, crate::harness::PASSWORD)),
        by(format!("Bearer {key}")),
        by(format!("Bearer {}", ann.token)),
        by("Digest x".to_owned()),
    ] {
        let answer = request.send().await;
        expect_oauth(&answer, 401, "invalid_client");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, Some("Basic realm=\"portcullis\""));
        assert!(!answer.text().contains(&key[12..]));
    }
    for request in [
        by(basic(&key)).header("Authorization", basic(&key)),
        by("Basic !".to_owned()),
        by(format!("Basic {}", STANDARD.encode("no colon"))),
        by(pair(id, &format!("{key}=x"))),
        gateway.post(path).header("Authorization", basic(&key)).form(&[
            grant,
            ("client_id", id),
            ("client_secret", &key),
        ]),
        gateway
            .post(path)
            .header("Authorization", basic(&key))
            .form(&[grant, ("client_id", &other[..12])]),
        gateway.post(path).header("Authorization", basic(&key)).form(&[grant, grant]),
        gateway.post(path).header("Authorization", basic(&key)).form(&[]),
        gateway.post(path).header("Authorization", basic(&key)).json(&json!({})),
    ] {
        expect_oauth(&request.send().await, 400, "invalid_request");
    }
    for wrong in ["password", "refresh_token", "authorization_code"] {
        let request = gateway.post(path).header("Authorization", basic(&key));
        let answer = request.form(&[("grant_type", wrong)]).send().await;
        expect_oauth(&answer, 400, "unsupported_grant_type");
    }
    assert!(!gateway.log_text().contains(&key[12..]));
}

#[tokio::test]
async fn a_programs_token_ends_with_its_key_or_by_itself() {
    let office = Office::new("").await;
    let gateway = &office.gateway;
    let ann = gateway.sign_up("ann").await;
    let key = office.key(&ann, &["read"]).await;
    let own = format!("/api/{}/x", ann.id);
    let (one, two) = (token(gateway, &key, &[]).await, token(gateway, &key, &[]).await);
    gateway.get_as(&one, &own).await.expect(200);
    for _ in 0..2 {
        revoke(gateway, &one).await.expect(200);
        gateway.get_as(&one, &own).await.expect(401);
    }
    gateway.get_as(&two, &own).await.expect(200);
    gateway.get_as(&key, &own).await.expect(200);
    assert_eq!(events_of(&office.store(), EventKind::ClientTokenRevoked).await.len(), 1);

    // The logout of its user is none of its own.
    gateway.post("/auth/logout?scope=global").bearer(&ann.token).send().await.expect(204);
    gateway.get_as(&two, &own).await.expect(200);

    // Whoever has a key may end it, and all that came of it.
    revoke(gateway, &key).await.expect(200);
    for shown in [&key, &two] {
        gateway.get_as(shown, &own).await.expect_problem(401, "invalid_api_key");
    }
    let answer = grant(gateway, &key, &[]).await;
    expect_oauth(&answer, 401, "invalid_client");
    let ended = events_of(&office.store(), EventKind::ApiKeyRevoked).await;
    assert_eq!(ended[0].event.actor, Some(format!("key:{}", &key[..12])));

    // A user's end is its programs'.
    let (second, third) = (office.key(&ann, &[]).await, office.key(&ann, &[]).await);
    let (second, third) = (token(gateway, &second, &[]).await, token(gateway, &third, &[]).await);
    gateway.get_as(&second, &own).await.expect(200);
    office.program.run(&["users", "disable", &ann.email]).await.expect(0);
    for token in [&second, &third] {
        patiently("the end of the tokens", async {
            while gateway.get_as(token, &own).await.status == 200 {
                pause().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_programs_token_ends_with_a_role_of_its_user() {
    let office = Office::new("").await;
    let gateway = &office.gateway;
    let ann = gateway.sign_up("ann").await;
    let own = format!("/api/{}/x", ann.id);
    let roles = async |token: &str| {
        let status = gateway.get_as(token, &own).await.status;
        (status, office.upstream.last().header("x-user-roles").map(str::to_owned))
    };
    let set = async |words: &[&str], key: &str| {
        office.program.run(&[&["users", "set-roles", &ann.email], words].concat()).await.expect(0);
        let wanted = (!words.is_empty()).then(|| words.join(","));
        patiently("the roles", async {
            while roles(key).await != (200, wanted.clone()) {
                pause().await;
            }
        })
        .await;
    };
    let key = office.key(&ann, &["introspect"]).await;
    set(&["staff"], &key).await;
    let of_staff = token(gateway, &key, &[]).await;
    assert_eq!(roles(&of_staff).await, (200, Some("staff".to_owned())));
    // What was given since comes with the next token.
    set(&["boss", "staff"], &key).await;
    assert_eq!(roles(&of_staff).await, (200, Some("staff".to_owned())));
    let of_both = token(gateway, &key, &[]).await;
    assert_eq!(roles(&of_both).await, (200, Some("boss,staff".to_owned())));
    set(&["boss"], &key).await;
    for token in [&of_staff, &of_both] {
        gateway.get_as(token, &own).await.expect_problem(401, "invalid_api_key");
        let told = introspect(gateway, &key, token).await;
        assert_eq!(told.json(), json!({ "active": false }), "{}", told.text());
    }
}

async fn introspect(gateway: &TestGateway, key: &str, token: &str) -> Answer {
    let request = gateway.post("/auth/oauth/introspect").header("Authorization", basic(key));
    request.form(&[("token", token)]).send().await
}

#[tokio::test]
async fn a_service_asks_what_a_token_is_worth() {
    let office = Office::new("").await;
    let gateway = &office.gateway;
    let (ann, bob) = (gateway.sign_up("ann").await, gateway.sign_up("bob").await);
    let service = office.key(&bob, &["introspect"]).await;
    let key = office.key(&ann, &["read"]).await;
    let program = token(gateway, &key, &[]).await;

    let common = json!({
        "active": true, "iss": ISSUER, "aud": "authenticated", "sub": ann.id,
        "username": ann.email,
    });
    let expect = |found: &Value, more: Value| {
        let mut found = found.clone();
        let fields = found.as_object_mut().expect("an object");
        for time in ["iat", "exp"] {
            assert!(fields.remove(time).is_none_or(|time| time.is_i64()), "{fields:?}");
        }
        let mut expected = common.clone();
        expected.as_object_mut().expect("one").extend(more.as_object().expect("one").clone());
        assert_eq!(found, expected);
    };
    for (shown, is_access) in [(&ann.token, true), (&ann.refresh_token, false)] {
        let answer = introspect(gateway, &service, shown).await.expect(200);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let found = answer.json();
        assert!(found["exp"].is_i64() && found["iat"].is_i64(), "{found}");
        let session = &found["session_id"];
        assert!(session.is_string());
        let mut more = json!({ "session_id": session });
        if is_access {
            more["token_type"] = "Bearer".into();
            more["app_metadata"] = json!({ "roles": [] });
        }
        expect(&found, more);
    }
    for shown in [&program, &key] {
        let found = introspect(gateway, &service, shown).await.expect(200).json();
        assert_eq!(found.get("exp").is_some(), *shown == program, "the key has no end");
        let more = json!({
            "token_type": "Bearer", "client_id": &key[..12], "scope": "read",
            "app_metadata": { "roles": [] },
        });
        expect(&found, more);
    }

    // Of what is no good nothing is told, not even why.
    let inactive = json!({ "active": false });
    let newest = gateway.refresh(&ann.refresh_token).await.expect(200).json();
    let newest = Caller::from_session(&newest);
    for (shown, good) in [(&ann.refresh_token, false), (&newest.refresh_token, true)] {
        let found = introspect(gateway, &service, shown).await.expect(200).json();
        assert_eq!(found["active"], good);
        assert!(good || found == inactive, "{found}");
    }
    revoke(gateway, &program).await.expect(200);
    gateway.post("/auth/logout").bearer(&newest.token).send().await.expect(204);
    revoke(gateway, &key).await.expect(200);
    let forged = format!("{}A", &ann.token[..ann.token.len() - 1]);
    for shown in [
        &*program,
        &*key,
        &ann.token,
        &newest.token,
        &newest.refresh_token,
        &forged,
        "x",
        "a.b.c",
        &"A".repeat(43),
    ] {
        assert_eq!(introspect(gateway, &service, shown).await.expect(200).json(), inactive);
    }
}

#[tokio::test]
async fn who_asks_must_show_a_key_for_it() {
    let office = Office::new("[limits]\noauth = { rate = \"6/minute\", by = \"ip\" }").await;
    let gateway = &office.gateway;
    let ann = gateway.sign_up("ann").await;
    let (service, key) =
        (office.key(&ann, &["introspect"]).await, office.key(&ann, &["read"]).await);
    let path = "/auth/oauth/introspect";
    let asked = [("token", &*ann.token)];
    // As often as it likes, in each of three ways.
    for _ in 0..3 {
        introspect(gateway, &service, &ann.token).await.expect(200);
        gateway.post(path).bearer(&service).form(&asked).send().await.expect(200);
        let named = [asked[0], ("client_id", &service[..12]), ("client_secret", &*service)];
        gateway.post(path).form(&named).send().await.expect(200);
    }
    expect_oauth(
        &gateway.post(path).bearer(&service).form(&[]).send().await,
        400,
        "invalid_request",
    );
    expect_oauth(&gateway.post(path).form(&asked).send().await, 401, "invalid_client");
    let by_user = gateway.post(path).bearer(&ann.token).form(&asked).send().await;
    expect_oauth(&by_user, 401, "invalid_client");
    let bad = gateway.post(path).bearer(&key[..55]).form(&asked).send().await;
    expect_oauth(&bad, 401, "invalid_client");
    expect_oauth(&introspect(gateway, &key, &ann.token).await, 403, "insufficient_scope");
    // Its own token is no key.
    let token = token(gateway, &service, &[]).await;
    let by_token = gateway.post(path).bearer(&token).form(&asked).send().await;
    by_token.expect_problem(429, "over_request_rate_limit");
    introspect(gateway, &service, &ann.token).await.expect(200);
}

#[tokio::test]
async fn without_keys_there_are_no_clients() {
    let office = Office::new("").await;
    let gateway = &office.gateway;
    let ann = gateway.sign_up("ann").await;
    let key = office.key(&ann, &["introspect"]).await;
    let path = "/auth/.well-known/oauth-authorization-server";
    let told = document(gateway, path).await;
    assert_eq!(told["grant_types_supported"], json!(["client_credentials"]));
    assert_eq!(told["token_endpoint"], format!("{ISSUER}/oauth/token"));
    assert_eq!(told["introspection_endpoint"], format!("{ISSUER}/oauth/introspect"));
    let ways = json!(["client_secret_basic", "client_secret_post"]);
    assert_eq!(told["token_endpoint_auth_methods_supported"], ways);
    assert_eq!(told["introspection_endpoint_auth_methods_supported"], ways);
    let token = token(gateway, &key, &[]).await;

    gateway.configure("[api_keys]\nenabled = false");
    gateway.reload().await.expect(200);
    let told = document(gateway, path).await;
    assert_eq!(told["grant_types_supported"], json!([]));
    for absent in ["token_endpoint", "introspection_endpoint"] {
        assert_eq!(told.get(absent), None);
    }
    expect_oauth(&grant(gateway, &key, &[]).await, 401, "invalid_client");
    expect_oauth(&introspect(gateway, &key, &token).await, 401, "invalid_client");
    let refused = gateway.get_as(&token, &format!("/api/{}/x", ann.id)).await;
    refused.expect_problem(401, "api_key_not_accepted");
}
