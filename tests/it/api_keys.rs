//! API keys: what programs may do with them, how they come and go, and that their text stays where
//! it belongs.

use std::time::Duration;

use portcullis::model::{EventKind, StoredEvent};
use portcullis::store::{EventFilter, KeyName};
use serde_json::{Value, json};

use crate::harness::{
    Answer, Caller, PASSWORD, Program, Step, TestGateway, Upstream, events_of, patiently, pause,
};

const ROUTES: &str = r#"
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
scopes = ["orders:write", "read"]
[[routes]]
path = "/staff/{*rest}"
upstream = "app"
api_keys = true
roles = ["staff"]
[[routes]]
path = "/optional/{*rest}"
upstream = "app"
access = "optional"
api_keys = true
[[routes]]
path = "/people/{*rest}"
upstream = "app"
[[routes]]
path = "/public/{*rest}"
upstream = "app"
access = "public"
[[routes]]
path = "/kept/{*rest}"
upstream = "app"
api_keys = true
forward_token = true
"#;

async fn gateway(upstream: &Upstream) -> TestGateway {
    TestGateway::builder().upstream("app", upstream).config(ROUTES).start().await
}

async fn make(gateway: &TestGateway, owner: &Caller, body: &Value) -> Answer {
    gateway.post("/auth/api_keys").bearer(&owner.token).json(body).send().await
}

/// The id and the text of a new key.
async fn key(gateway: &TestGateway, owner: &Caller, scopes: &[&str]) -> (String, String) {
    let made = make(gateway, owner, &json!({ "name": "a job", "scopes": scopes })).await;
    let made = made.expect(201).json();
    let text = |name: &str| made[name].as_str().expect("text").to_owned();
    (text("id"), text("key"))
}

fn prefix(key: &str) -> &str {
    &key[..12]
}

#[tokio::test]
async fn a_key_acts_as_its_user_where_the_route_takes_keys() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let (ann, bob) = (gateway.sign_up("ann").await, gateway.sign_up("bob").await);
    let (_, key) = key(&gateway, &ann, &["read", "orders:write", "read"]).await;
    assert!(key.starts_with("pck_") && key.len() == 56, "{}", key.len());

    let own = format!("/api/{}/tasks", ann.id);
    gateway.get_as(&key, &own).await.expect(200);
    let seen = upstream.last();
    assert_eq!(seen.header("x-user-id"), Some(&*ann.id));
    assert_eq!(seen.header("x-user-scopes"), Some("orders:write,read"));
    assert_eq!(seen.header("x-session-id"), None);
    assert_eq!(seen.header("authorization"), None);
    gateway.get_as(&key, &format!("/api/{}/orders", ann.id)).await.expect(200);
    gateway.get_as(&ann.token, &format!("/api/{}/orders", ann.id)).await.expect(200);
    assert_eq!(upstream.last().header("x-user-scopes"), None, "a user is no program");
    gateway.get_as(&key, "/optional/x").await.expect(200);
    assert_eq!(upstream.last().header("x-user-id"), Some(&*ann.id));

    let count = upstream.count();
    let others = gateway.get_as(&key, &format!("/api/{}/tasks", bob.id)).await;
    others.expect_problem(403, "owner_mismatch");
    gateway.get_as(&key, "/staff/x").await.expect_problem(403, "insufficient_scope");
    let refused = gateway.get_as(&key, "/people/x").await;
    refused.expect_problem(401, "api_key_not_accepted");
    let challenge = refused.header("www-authenticate").expect("a challenge");
    assert_eq!(challenge, "Bearer realm=\"portcullis\", error=\"invalid_token\"");
    assert_eq!(upstream.count(), count);

    // Where nobody looks at tokens, keys go away all the same.
    gateway.get_as(&key, "/public/x").await.expect(200);
    let seen = upstream.last();
    assert!(!String::from_utf8_lossy(&seen.raw).contains(&key), "{:?}", seen.headers);
    gateway.get_as(&key, "/kept/x").await.expect(200);
    assert_eq!(upstream.last().header("authorization"), Some(&*format!("Bearer {key}")));
}

#[tokio::test]
async fn a_key_without_a_scope_is_told_which() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let ann = gateway.sign_up("ann").await;
    let orders = format!("/api/{}/orders", ann.id);
    for scopes in [&[] as &[&str], &["read"], &["orders", "write", "read"]] {
        let (_, key) = key(&gateway, &ann, scopes).await;
        let refused = gateway.get_as(&key, &orders).await;
        refused.expect_problem(403, "insufficient_scope");
        assert_eq!(
            refused.header("www-authenticate"),
            Some(
                "Bearer realm=\"portcullis\", error=\"insufficient_scope\", \
                 scope=\"orders:write read\""
            )
        );
    }
    assert_eq!(upstream.count(), 0);
    let events = denied(&gateway, 3).await;
    for stored in events {
        assert_eq!(stored.event.reason.as_deref(), Some("missing_scope"));
        let actor = stored.event.actor.expect("the key");
        assert!(actor.starts_with("key:pck_") && actor.len() == 16, "{actor}");
        assert_eq!(stored.event.user_id.map(|id| id.to_string()).as_deref(), Some(&*ann.id));
    }
}

async fn denied(gateway: &TestGateway, count: usize) -> Vec<StoredEvent> {
    crate::harness::until_events(&gateway.store(), EventKind::AccessDenied, count).await
}

#[tokio::test]
async fn what_is_no_key_is_refused_everywhere_alike() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let ann = gateway.sign_up("ann").await;
    let (_, key) = key(&gateway, &ann, &[]).await;
    let own = format!("/api/{}/tasks", ann.id);
    for bad in [
        "pck_".to_owned(),
        key[..55].to_owned(),
        format!("{key}A"),
        format!("{}{}", prefix(&key), "_".repeat(44)),
        key.to_uppercase().replacen("PCK", "pck", 1),
    ] {
        for path in [&*own, "/optional/x", "/people/x"] {
            gateway.get_as(&bad, path).await.expect_problem(401, "invalid_api_key");
        }
    }
    // Not taken from elsewhere, and not beside a token.
    gateway
        .get(&format!("{own}?access_token={key}"))
        .send()
        .await
        .expect_problem(401, "no_authorization");
    let basic = gateway.get(&own).header("Authorization", format!("Basic {key}"));
    basic.send().await.expect_problem(401, "no_authorization");
    let both = gateway.get(&own).bearer(&key).bearer(&ann.token);
    both.send().await.expect_problem(400, "invalid_request");
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn no_account_endpoint_takes_a_key() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let ann = gateway.sign_up("ann").await;
    let (id, key) = key(&gateway, &ann, &[]).await;
    for (method, path) in [
        ("GET", "/auth/user"),
        ("PUT", "/auth/user"),
        ("GET", "/auth/sessions"),
        ("GET", "/auth/events"),
        ("GET", "/auth/api_keys"),
        ("POST", "/auth/api_keys"),
        ("POST", &*format!("/auth/api_keys/{id}/rotate")),
        ("DELETE", &*format!("/auth/api_keys/{id}")),
        ("POST", "/auth/logout?scope=global"),
    ] {
        let answer = gateway.request(method, path).bearer(&key).json(&json!({})).send().await;
        answer.expect_problem(401, "api_key_not_accepted");
    }
    gateway.get_as(&ann.token, "/auth/user").await.expect(200);
    gateway.get_as(&key, &format!("/api/{}/x", ann.id)).await.expect(200);
}

#[tokio::test]
async fn users_keep_keys_of_their_own() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let (ann, bob) = (gateway.sign_up("ann").await, gateway.sign_up("bob").await);
    let wanted = json!({ "name": " importer ", "scopes": ["read"], "expires_in": 3600 });
    let answer = make(&gateway, &ann, &wanted).await.expect(201);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let made = answer.json();
    let key = made["key"].as_str().expect("the text").to_owned();
    let id = made["id"].as_str().expect("an id").to_owned();
    assert_eq!(
        (&made["name"], &made["scopes"], &made["prefix"], &made["replaces"]),
        (&json!("importer"), &json!(["read"]), &json!(prefix(&key)), &json!(null))
    );
    assert_eq!(made["expires_at"], "2026-11-21T11:00:00.000000Z");

    let listed = gateway.get_as(&ann.token, "/auth/api_keys").await.expect(200);
    assert!(!listed.text().contains(&key), "the text is shown once");
    let listed = listed.json();
    let mut expected = made.clone();
    expected.as_object_mut().expect("an object").remove("key");
    assert_eq!(listed, json!({ "api_keys": [expected] }));
    let none = gateway.get_as(&bob.token, "/auth/api_keys").await.expect(200).json();
    assert_eq!(none, json!({ "api_keys": [] }));

    // Of others, of nobody, and of no form alike.
    let unknown = "00000000-0000-4000-8000-000000000000";
    for (caller, id) in [(&bob, &*id), (&ann, unknown), (&ann, "x")] {
        let path = format!("/auth/api_keys/{id}");
        let end = gateway.request("DELETE", &path).bearer(&caller.token).send().await;
        end.expect_problem(404, "api_key_not_found");
        let rotate = gateway.post(&format!("{path}/rotate")).bearer(&caller.token).send().await;
        rotate.expect_problem(404, "api_key_not_found");
    }
    let own = format!("/api/{}/tasks", ann.id);
    gateway.get_as(&key, &own).await.expect(200);
    let end = gateway.request("DELETE", &format!("/auth/api_keys/{id}")).bearer(&ann.token);
    assert!(end.send().await.expect(204).body.is_empty());
    // At once, without waiting for a reading of the database.
    gateway.get_as(&key, &own).await.expect_problem(401, "invalid_api_key");
    let again = gateway.request("DELETE", &format!("/auth/api_keys/{id}")).bearer(&ann.token);
    again.send().await.expect_problem(404, "api_key_not_found");

    let told = |kind| {
        let store = gateway.store();
        async move { events_of(&store, kind).await }
    };
    for kind in [EventKind::ApiKeyCreated, EventKind::ApiKeyRevoked] {
        let [stored] = &told(kind).await[..] else { panic!("{kind:?}") };
        assert_eq!(stored.event.reason.as_deref(), Some(prefix(&key)));
        assert_eq!(stored.event.user_id.as_ref().map(ToString::to_string), Some(ann.id.clone()));
        assert!(stored.event.session_id.is_some() && stored.event.address.is_some());
    }
}

#[tokio::test]
async fn keys_expire_and_are_rotated_with_an_overlap() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let ann = gateway.sign_up("ann").await;
    let own = format!("/api/{}/tasks", ann.id);
    let wanted = json!({ "name": "job", "scopes": ["read"], "expires_in": 7200 });
    let old = make(&gateway, &ann, &wanted).await.expect(201).json();
    let text = |made: &Value, name: &str| made[name].as_str().expect("text").to_owned();
    gateway.advance(Duration::from_mins(10));
    let rotate = gateway
        .post(&format!("/auth/api_keys/{}/rotate", text(&old, "id")))
        .bearer(&ann.token)
        .json(&json!({ "overlap": 60 }));
    let new = rotate.send().await.expect(201).json();
    assert_eq!(
        (&new["name"], &new["scopes"], &new["replaces"]),
        (&old["name"], &old["scopes"], &old["id"])
    );
    assert_eq!(new["expires_at"], "2026-11-21T12:10:00.000000Z", "it lives as long as the old one");
    assert_ne!(new["key"], old["key"]);
    let (old, new) = (text(&old, "key"), text(&new, "key"));
    for key in [&old, &new] {
        gateway.get_as(key, &own).await.expect(200);
    }
    // The gateway reads the old one's new end.
    gateway.advance(Duration::from_mins(1));
    patiently("the end of the old key", async {
        while gateway.get_as(&old, &own).await.status == 200 {
            pause().await;
        }
    })
    .await;
    gateway.get_as(&old, &own).await.expect_problem(401, "invalid_api_key");
    gateway.get_as(&new, &own).await.expect(200);
    gateway.advance(Duration::from_mins(119));
    gateway.get_as(&new, &own).await.expect_problem(401, "invalid_api_key");
    let listed = gateway.get_as(&ann.token, "/auth/api_keys").await.expect(200).json();
    assert_eq!(listed, json!({ "api_keys": [] }));

    let kinds = [EventKind::ApiKeyCreated, EventKind::ApiKeyRotated];
    let store = gateway.store();
    let mut reasons = Vec::new();
    for kind in kinds {
        reasons.push(
            events_of(&store, kind)
                .await
                .into_iter()
                .filter_map(|stored| stored.event.reason)
                .collect::<Vec<_>>(),
        );
    }
    let (old, new) = (prefix(&old).to_owned(), prefix(&new).to_owned());
    assert_eq!(reasons, [vec![old.clone(), new], vec![old]]);
}

#[tokio::test]
async fn keys_have_bounds_where_users_make_them() {
    let upstream = Upstream::echo().await;
    let bounds = "[api_keys]\nmax_per_user = 2\nmax_lifetime = \"1h\"\n\
                  [limits]\napi_keys = { rate = \"8/hour\", by = \"user\" }";
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(ROUTES)
        .config(bounds)
        .start()
        .await;
    let ann = gateway.sign_up("ann").await;
    let too_long = make(&gateway, &ann, &json!({ "name": "x", "expires_in": 3601 })).await;
    too_long.expect_problem(422, "validation_failed");
    let made = make(&gateway, &ann, &json!({ "name": "x" })).await.expect(201).json();
    assert_eq!(made["expires_at"], "2026-11-21T11:00:00.000000Z", "the longest there is");
    let (id, _) = key(&gateway, &ann, &[]).await;
    let third = make(&gateway, &ann, &json!({ "name": "x" })).await;
    third.expect_problem(422, "too_many_api_keys");
    let rotate =
        |id: &str| gateway.post(&format!("/auth/api_keys/{id}/rotate")).bearer(&ann.token).send();
    rotate(&id).await.expect(201);
    rotate(&id).await.expect(201);
    rotate(&id).await.expect_problem(422, "too_many_api_keys");
    make(&gateway, &ann, &json!({})).await.expect_problem(422, "validation_failed");
    make(&gateway, &ann, &json!({})).await.expect_problem(429, "over_request_rate_limit");
    // Other users are counted apart.
    let bob = gateway.sign_up("bob").await;
    key(&gateway, &bob, &[]).await;

    // Scopes that reach beyond the own are not for everybody, and no key comes from an old login.
    for scope in ["admin", "introspect"] {
        let wanted = json!({ "name": "x", "scopes": [scope] });
        make(&gateway, &bob, &wanted).await.expect_problem(403, "not_admin");
    }
    gateway.advance(Duration::from_secs(24 * 3600 - 1));
    let fresh = gateway.refresh(&bob.refresh_token).await.expect(200).json();
    let fresh = Caller::from_session(&fresh);
    gateway.advance(Duration::from_secs(2));
    let late = make(&gateway, &fresh, &json!({ "name": "x" })).await;
    late.expect_problem(400, "reauthentication_needed");

    // The switches.
    gateway.configure("[api_keys]\nself_service = false");
    gateway.reload().await.expect(200);
    let off = gateway.get_as(&fresh.token, "/auth/api_keys").await;
    off.expect_problem(403, "api_keys_disabled");
}

#[tokio::test]
async fn with_keys_switched_off_none_is_taken() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let ann = gateway.sign_up("ann").await;
    let (_, key) = key(&gateway, &ann, &[]).await;
    let own = format!("/api/{}/tasks", ann.id);
    gateway.get_as(&key, &own).await.expect(200);
    gateway.configure("[api_keys]\nenabled = false");
    gateway.reload().await.expect(200);
    gateway.get_as(&key, &own).await.expect_problem(401, "api_key_not_accepted");
    gateway.get_as(&ann.token, &own).await.expect(200);
}

#[tokio::test]
async fn the_text_of_a_key_is_nowhere_but_with_its_owner() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(ROUTES)
        .config("[log]\nlevel = \"trace\"")
        .start()
        .await;
    let ann = gateway.sign_up("ann").await;
    let (_, key) = key(&gateway, &ann, &[]).await;
    gateway.get_as(&key, &format!("/api/{}/tasks", ann.id)).await.expect(200);
    let refused = gateway.get_as(&key, &format!("/api/{}/orders", ann.id)).await.expect(403);
    let bad = gateway.get_as(&format!("{key}x"), "/people/x").await.expect(401);
    denied(&gateway, 2).await;
    gateway.log_line(|line| line["status"] == 401).await;
    let secret = &key[12..];
    for answer in [refused, bad] {
        assert!(
            !answer.text().contains(secret) && !format!("{:?}", answer.headers).contains(secret)
        );
    }
    assert!(!gateway.log_text().contains(secret), "{}", gateway.log_text());
    let events = gateway.store().events(&EventFilter::default(), 1000, None).await.expect("events");
    assert!(!format!("{events:?}").contains(secret));
    // Not even in the database.
    let mut bytes = Vec::new();
    for name in ["portcullis.db", "portcullis.db-wal"] {
        bytes.extend(std::fs::read(gateway.file(name)).unwrap_or_default());
    }
    assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
    assert!(bytes.windows(12).any(|part| part == prefix(&key).as_bytes()), "the right file");
}

#[tokio::test]
async fn the_last_use_is_noted() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let ann = gateway.sign_up("ann").await;
    let (id, key) = key(&gateway, &ann, &[]).await;
    let store = gateway.store();
    let id = KeyName::Id(id.parse().expect("an id"));
    let last = async || store.api_key(&id).await.expect("a read").expect("the key").last_used_at;
    assert_eq!(last().await, None);
    let mut used = gateway.clock.now();
    for _ in 0..2 {
        gateway.get_as(&key, &format!("/api/{}/x", ann.id)).await.expect(200);
        patiently("the last use", async {
            while last().await != Some(used) {
                pause().await;
            }
        })
        .await;
        gateway.advance(Duration::from_mins(5));
        used = gateway.clock.now();
    }
}

#[tokio::test]
async fn a_websocket_ends_with_its_key() {
    let upstream = Upstream::scripted(|_| vec![Step::WebSocket]).await;
    let gateway = gateway(&upstream).await;
    let ann = gateway.sign_up("ann").await;
    let (id, key) = key(&gateway, &ann, &[]).await;
    let mut client = gateway.connect().await;
    let request = gateway
        .get(&format!("/api/{}/socket", ann.id))
        .bearer(&key)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    client.send(request.to_bytes()).await;
    assert_eq!(client.head("GET").await.status, 101);
    let end = gateway.request("DELETE", &format!("/auth/api_keys/{id}")).bearer(&ann.token);
    end.send().await.expect(204);
    client.until_closed().await;
}

#[tokio::test]
async fn the_command_line_makes_lists_rotates_and_ends_keys() {
    let upstream = Upstream::echo().await;
    let program = Program::of(TestGateway::builder().upstream("app", &upstream)).await;
    program.run(&["migrate"]).await.expect(0);
    let created =
        program.run_with(&["users", "create", "ann@example.com"], PASSWORD).await.expect(0);
    let ann = created.stdout.trim().to_owned();
    let make = ["api-keys", "create", "ann@example.com", "--name", "importer"];
    let told = program
        .run(&[&make[..], &["--scope", "read", "--scope", "admin", "--expires", "90d"]].concat())
        .await
        .expect(0);
    let key = told.stdout.trim().to_owned();
    assert!(key.len() == 56 && !told.stderr.contains(&key), "{told}");
    assert!(told.stderr.contains(prefix(&key)) && told.stderr.contains(&ann), "{told}");

    let list = async |extra: &[&str]| {
        let told = program.run(&[&["api-keys", "list", "--json"], extra].concat()).await.expect(0);
        assert!(!told.stdout.contains(&key[12..]), "{told}");
        told.json_lines()
    };
    let [listed] = &list(&["--user", &ann]).await[..] else { panic!("one key") };
    assert_eq!(listed["prefix"], prefix(&key));
    assert_eq!(listed["scopes"], json!(["admin", "read"]));
    assert_eq!((&listed["state"], &listed["created_by"]), (&json!("active"), &json!("cli")));
    let table = program.run(&["api-keys", "list"]).await.expect(0);
    assert!(table.stdout.starts_with("KEY ") && table.stdout.contains("importer"), "{table}");

    let rotated = program
        .run(&["api-keys", "rotate", prefix(&key), "--overlap", "1h", "--json"])
        .await
        .expect(0);
    let [rotated] = &rotated.json_lines()[..] else { panic!("one key") };
    assert_eq!(rotated["replaces"], listed["id"]);
    assert_ne!(rotated["key"], key);
    let new = rotated["id"].as_str().expect("an id");
    program.run(&["api-keys", "revoke", new]).await.expect(0);
    program.run(&["api-keys", "revoke", new]).await.expect(1);
    program.run(&["api-keys", "rotate", new]).await.expect(1);
    // A whole key in the place of its prefix is not repeated.
    let unknown = program.run(&["api-keys", "revoke", &key]).await.expect(1);
    assert!(!unknown.stderr.contains(&key), "{unknown}");
    let states: Vec<_> = list(&[]).await.iter().map(|key| key["state"].clone()).collect();
    assert_eq!(states, ["revoked", "active"]);

    for bad in [
        ["--name", "x", "--scope", "Read"],
        ["--name", "x", "--expires", "soon"],
        ["--name", "", "--scope", "read"],
    ] {
        program.run(&[&make[..3], &bad].concat()).await.expect(2);
    }
    program.run(&["api-keys", "create", "nobody@example.com", "--name", "x"]).await.expect(1);

    // `explain` knows real ones and imagined ones.
    let own = format!("/api/{ann}/x");
    let told = program.run(&["explain", "GET", &own, "--token", &key, "--json"]).await.expect(1);
    assert_eq!(told.json_lines()[0]["reason"], "api_key_not_accepted");
    let bad = format!("{key}x");
    let told = program.run(&["explain", "GET", &own, "--token", &bad, "--json"]).await.expect(1);
    assert_eq!(told.json_lines()[0]["reason"], "unknown_api_key");
    let told = program.run(&["explain", "GET", &own, "--as", &ann, "--scope", "read"]).await;
    assert!(told.expect(1).stdout.contains("the route takes no API keys"));
}
