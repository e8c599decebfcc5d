//! `/auth/admin`: who may, what it does to accounts, keys and limits, and that every act is an event
//! with its actor.

use std::time::Duration;

use portcullis::model::{EventKind, StoredEvent};
use portcullis::store::EventFilter;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Caller, PASSWORD, TestGateway, Upstream, events_of, noted, patiently, pause,
    until_events,
};

const NEW_PASSWORD: &str = "Other-Plover-9-Ladder";
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

const CONFIG: &str = "
[[routes]]
path = \"/api/{user_id}/{*rest}\"
upstream = \"app\"
api_keys = true
[links]
site_url = \"https://app.example.com/\"
[limits]
signup = { rate = \"100/minute\", by = \"ip\" }
login = { rate = \"100/minute\", by = \"ip\" }
";

struct House {
    gateway: TestGateway,
    root: Caller,
    _upstream: Upstream,
}

impl House {
    async fn start(config: &str) -> Self {
        let upstream = Upstream::echo().await;
        let builder = TestGateway::builder().upstream("app", &upstream).config(CONFIG);
        let gateway = builder.config(config).start().await;
        let root = gateway.sign_up("root").await;
        give(&gateway, &root.id, &["admin"]).await;
        Self { gateway, root, _upstream: upstream }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.ask_as(&self.root.token, method, path, body).await
    }

    async fn ask_as(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let request = self.gateway.request(method, &format!("/auth/admin{path}")).bearer(token);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send().await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None).await
    }

    async fn create(&self, body: &Value) -> Answer {
        self.ask("POST", "/users", Some(body)).await
    }

    async fn change(&self, id: &str, body: &Value) -> Answer {
        self.ask("PUT", &format!("/users/{id}"), Some(body)).await
    }

    /// The last event of a kind that the administrator caused.
    async fn act(&self, kind: EventKind) -> StoredEvent {
        let events = events_of(&self.gateway.store(), kind).await;
        let of_root = |stored: &StoredEvent| stored.event.actor.as_deref() == Some(&*self.root.id);
        let last = events.into_iter().filter(of_root).max_by_key(|stored| stored.number);
        let last = last.unwrap_or_else(|| panic!("no {} of the administrator", kind.as_str()));
        assert!(last.event.address.is_some() && last.event.request_id.is_some());
        last
    }

    /// As [`House::act`], of somebody.
    async fn act_on(&self, kind: EventKind, id: &str) {
        let last = self.act(kind).await;
        assert_eq!(last.event.user_id.as_ref().map(ToString::to_string).as_deref(), Some(id));
    }
}

/// Gives roles as the command line does, which ends no session here.
pub(crate) async fn give(gateway: &TestGateway, id: &str, roles: &[&str]) {
    let (id, now) = (id.parse().expect("an id"), gateway.clock.now());
    let roles: Vec<_> = roles.iter().map(|&role| role.to_owned()).collect();
    let event = noted(EventKind::RolesChanged, now);
    gateway.store().set_roles(&id, &roles, now, &event).await.expect("stored").expect("there");
}

fn id_of(user: &Value) -> String {
    user["id"].as_str().expect("an id").to_owned()
}

/// What an administrator may ask for, one of each.
pub(crate) const ASKED: &[(&str, &str)] = &[
    ("GET", "/users"),
    ("POST", "/users"),
    ("GET", "/users/x"),
    ("PUT", "/users/x"),
    ("DELETE", "/users/x"),
    ("GET", "/users/x/factors"),
    ("DELETE", "/users/x/factors/x"),
    ("GET", "/users/x/sessions"),
    ("DELETE", "/users/x/sessions"),
    ("DELETE", "/users/x/sessions/x"),
    ("GET", "/users/x/data"),
    ("GET", "/users/x/api_keys"),
    ("POST", "/users/x/api_keys"),
    ("DELETE", "/users/x/api_keys/x"),
    ("POST", "/generate_link"),
    ("GET", "/audit"),
    ("GET", "/events"),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("POST", "/keys/x/retire"),
    ("POST", "/keys/x/revoke"),
    ("GET", "/limits"),
    ("GET", "/limits/x"),
    ("DELETE", "/limits/x"),
];

#[tokio::test]
async fn only_administrators_are_let_in_by_their_roles_of_now() {
    let house = House::start("").await;
    let ann = house.gateway.sign_up("ann").await;
    let known = portcullis::auth::endpoints::endpoints();
    let known = known.filter(|(_, path)| path.starts_with("/admin")).count();
    assert_eq!(known, ASKED.len(), "every endpoint is asked");
    for (method, path) in ASKED {
        let none = house.gateway.request(method, &format!("/auth/admin{path}")).send().await;
        none.expect_problem(401, "no_authorization");
        // Before anything else of the request is looked at.
        let refused = house.ask_as(&ann.token, method, path, Some(&json!([]))).await;
        refused.expect_problem(403, "not_admin");
    }
    let refused = until_events(&house.gateway.store(), EventKind::AccessDenied, ASKED.len()).await;
    for stored in &refused {
        let user = stored.event.user_id.as_ref().map(ToString::to_string);
        let told = (user.as_deref(), stored.event.reason.as_deref());
        assert_eq!(told, (Some(&*ann.id), Some("not_admin")));
    }
    house.get("/users").await.expect(200);
    // A token from before counts as little as one that still says so.
    give(&house.gateway, &ann.id, &["admin"]).await;
    house.ask_as(&ann.token, "GET", "/users", None).await.expect(200);
    give(&house.gateway, &ann.id, &["staff"]).await;
    house.ask_as(&ann.token, "GET", "/users", None).await.expect_problem(403, "not_admin");
}

#[tokio::test]
async fn a_program_needs_a_key_of_an_administrator_with_the_scope() {
    let house = House::start("").await;
    let key = async |owner: &str, scopes: &[&str]| {
        let path = format!("/users/{owner}/api_keys");
        let body = json!({ "name": "job", "scopes": scopes });
        let made = house.ask("POST", &path, Some(&body)).await.expect(201).json();
        (id_of(&made), made["key"].as_str().expect("a key").to_owned())
    };
    let ann = house.gateway.sign_up("ann").await;
    let (id, good) = key(&house.root.id, &["admin", "read"]).await;
    house.act_on(EventKind::ApiKeyCreated, &house.root.id).await;
    let (_, other) = key(&house.root.id, &["read"]).await;
    let (of_ann, foreign) = key(&ann.id, &["admin"]).await;
    house.ask_as(&good, "GET", "/users", None).await.expect(200);
    for refused in [&other, &foreign] {
        house.ask_as(refused, "GET", "/users", None).await.expect_problem(403, "not_admin");
    }
    let other_end = if good.ends_with('A') { 'B' } else { 'A' };
    let wrong = format!("{}{other_end}", &good[..good.len() - 1]);
    house.ask_as(&wrong, "GET", "/users", None).await.expect_problem(401, "invalid_api_key");
    // Elsewhere below /auth it is as good as ever: not at all.
    house.gateway.get_as(&good, "/auth/user").await.expect_problem(401, "api_key_not_accepted");

    // What a program does is done by its user.
    let made = json!({ "email": "made@example.com" });
    let made = house.ask_as(&good, "POST", "/users", Some(&made)).await.expect(200).json();
    house.act_on(EventKind::UserCreated, &id_of(&made)).await;
    // Also by a token that it got for its key.
    let prefix = &good[..12];
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", prefix),
        ("client_secret", &*good),
        ("scope", "admin"),
    ];
    let token = house.gateway.post("/auth/oauth/token").form(&form).send().await.expect(200).json();
    let token = token["access_token"].as_str().expect("a token");
    house.ask_as(token, "GET", "/users", None).await.expect(200);

    let listed = house.get(&format!("/users/{}/api_keys", ann.id)).await.expect(200).json();
    assert_eq!(listed["api_keys"][0]["id"], *of_ann);
    assert!(listed["api_keys"][0].get("key").is_none());
    let path = |owner: &str| format!("/users/{owner}/api_keys/{id}");
    let refused = house.ask("DELETE", &path(&ann.id), None).await;
    refused.expect_problem(404, "api_key_not_found");
    house.ask("DELETE", &path(&house.root.id), None).await.expect(204);
    for token in [&*good, token] {
        house.ask_as(token, "GET", "/users", None).await.expect_problem(401, "invalid_api_key");
    }
}

#[tokio::test]
async fn accounts_are_made_as_they_are_described() {
    let house = House::start("").await;
    let body = json!({
        "email": "Ann@Example.com", "password": PASSWORD, "email_confirm": true, "id": "row-17",
        "app_metadata": { "roles": ["staff"], "plan": "pro", "provider": "email" },
        "user_metadata": { "name": "Ann" }, "phone": null, "role": "authenticated",
    });
    let ann = house.create(&body).await.expect(200).json();
    assert_eq!(ann["id"], "row-17");
    assert_eq!(ann["email"], "Ann@Example.com");
    assert!(ann["email_confirmed_at"].is_string());
    assert_eq!(
        ann["app_metadata"],
        json!({ "plan": "pro", "roles": ["staff"], "provider": "email", "providers": ["email"] })
    );
    assert_eq!(ann["user_metadata"], json!({ "name": "Ann" }));
    house.act_on(EventKind::UserCreated, "row-17").await;
    house.gateway.log_in("ann@example.com", PASSWORD).await.expect(200);
    assert_eq!(house.get("/users/row-17").await.expect(200).json()["id"], "row-17");

    // A hash of another system is upgraded at the login.
    let hash =
        "pbkdf2_sha256$3000$6fYW6ZzWuQZr9U9btVE6PI$1BZK84Dwd8FBbg7FMf4IjkDm2zu53CkYYusacG8MmjI=";
    let body = json!({ "email": "old@example.com", "password_hash": hash });
    let old = house.create(&body).await.expect(200).json();
    assert!(old["email_confirmed_at"].is_null());
    let kept = async || {
        let id = id_of(&old).parse().expect("an id");
        let account = house.gateway.store().account_by_id(&id).await.expect("read").expect("there");
        account.password_hash.expect("a hash").0.clone()
    };
    house.gateway.log_in("old@example.com", "Xorrect Horse 7").await.expect(401);
    assert_eq!(kept().await, hash);
    house.gateway.log_in("old@example.com", "correct Horse 7").await.expect(200);
    assert!(kept().await.starts_with("$argon2id$"));

    let ban = json!({ "email": "off@example.com", "password": PASSWORD, "ban_duration": "1h" });
    let off = house.create(&ban).await.expect(200).json();
    assert!(off["banned_until"].is_string());
    house.gateway.log_in("off@example.com", PASSWORD).await.expect(401);
    house.gateway.advance(Duration::from_hours(1));
    house.gateway.log_in("off@example.com", PASSWORD).await.expect(200);

    for (body, status, code) in [
        (json!({ "email": "ann@example.com" }), 422, "email_exists"),
        (json!({ "email": "b@example.com", "id": "row-17" }), 422, "id_exists"),
        (json!({ "email": "b@example.com", "password": "weak" }), 422, "weak_password"),
        (json!({ "email": "b@example.com", "password_hash": "md5$x" }), 422, "validation_failed"),
        (json!({ "email": "b" }), 422, "validation_failed"),
        (json!({}), 422, "validation_failed"),
        (json!({ "phone": "+4912345" }), 400, "phone_provider_disabled"),
        (json!({ "email": "b@example.com", "ban_duration": "soon" }), 422, "validation_failed"),
        (
            json!({ "email": "b@example.com", "app_metadata": { "roles": ["Bad Role"] } }),
            422,
            "validation_failed",
        ),
        (json!([]), 400, "bad_json"),
    ] {
        house.create(&body).await.expect_problem(status, code);
    }
    assert_eq!(house.get("/users?filter=b%40example").await.expect(200).json()["users"], json!([]));
}

#[tokio::test]
async fn changes_take_effect_at_once() {
    let house = House::start("").await;
    let ann = house.gateway.sign_up("ann").await;
    let path = format!("/api/{}/x", ann.id);
    house.gateway.get_as(&ann.token, &path).await.expect(200);

    // Metadata alone ends nothing.
    let change = json!({ "user_metadata": { "a": 1, "b": 2 }, "app_metadata": { "plan": "pro" } });
    house.change(&ann.id, &change).await.expect(200);
    house.act_on(EventKind::UserUpdated, &ann.id).await;
    let change = json!({ "user_metadata": { "a": null }, "app_metadata": { "seats": 3 } });
    let user = house.change(&ann.id, &change).await.expect(200).json();
    assert_eq!(user["user_metadata"], json!({ "b": 2 }));
    assert_eq!(user["app_metadata"]["plan"], "pro");
    house.gateway.get_as(&ann.token, &path).await.expect(200);
    // Nor does what was shown, sent back.
    house.change(&ann.id, &json!({ "app_metadata": user["app_metadata"] })).await.expect(200);
    house.gateway.get_as(&ann.token, &path).await.expect(200);

    // Roles are in tokens.
    let change = json!({ "app_metadata": { "roles": ["staff"] } });
    house.change(&ann.id, &change).await.expect(200);
    house.act_on(EventKind::RolesChanged, &ann.id).await;
    let refused = house.gateway.get_as(&ann.token, &path).await;
    refused.expect_problem(401, "session_not_found");
    let session = house.gateway.log_in(&ann.email, PASSWORD).await.expect(200).json();
    assert_eq!(session["user"]["app_metadata"]["roles"], json!(["staff"]));
    let ann = Caller::from_session(&session);

    house
        .change(&ann.id, &json!({ "password": "short" }))
        .await
        .expect_problem(422, "weak_password");
    house.gateway.get_as(&ann.token, &path).await.expect(200);
    house.change(&ann.id, &json!({ "password": NEW_PASSWORD })).await.expect(200);
    house.act_on(EventKind::PasswordChanged, &ann.id).await;
    house.gateway.get_as(&ann.token, &path).await.expect_problem(401, "session_not_found");
    house.gateway.refresh(&ann.refresh_token).await.expect(400);
    house.gateway.log_in(&ann.email, PASSWORD).await.expect(401);
    let session = house.gateway.log_in(&ann.email, NEW_PASSWORD).await.expect(200).json();
    let ann = Caller::from_session(&session);

    let banned = house.change(&ann.id, &json!({ "ban_duration": "24h" })).await.expect(200).json();
    assert!(banned["banned_until"].is_string());
    house.act_on(EventKind::UserDisabled, &ann.id).await;
    house.gateway.get_as(&ann.token, &path).await.expect_problem(401, "session_not_found");
    house.gateway.log_in(&ann.email, NEW_PASSWORD).await.expect(401);
    let free = house.change(&ann.id, &json!({ "ban_duration": "none" })).await.expect(200).json();
    assert!(free["banned_until"].is_null());
    house.act_on(EventKind::UserEnabled, &ann.id).await;

    let moved = json!({ "email": "anna@example.com" });
    let user = house.change(&ann.id, &moved).await.expect(200).json();
    assert_eq!(
        (&user["email"], &user["email_confirmed_at"]),
        (&json!("anna@example.com"), &Value::Null)
    );
    house.act_on(EventKind::EmailChanged, &ann.id).await;
    let user = house.change(&ann.id, &json!({ "email_confirm": true })).await.expect(200).json();
    assert!(user["email_confirmed_at"].is_string());
    house.act_on(EventKind::UserConfirmed, &ann.id).await;
    house.gateway.log_in("anna@example.com", NEW_PASSWORD).await.expect(200);
    house.gateway.log_in("ann@example.com", NEW_PASSWORD).await.expect(401);

    house
        .change(&ann.id, &json!({ "email": "root@example.com" }))
        .await
        .expect_problem(422, "email_exists");
    let long = json!({ "user_metadata": { "x": "x".repeat(2048) } });
    house.change(&ann.id, &long).await.expect_problem(422, "validation_failed");
    house.change(&ann.id, &json!({ "id": "other" })).await.expect_problem(422, "validation_failed");
    for id in [NOBODY, "a%2fb", "..."] {
        let refused = house.change(id, &json!({ "email_confirm": true })).await;
        assert!(matches!(refused.status, 400 | 404), "{id}: {}", refused.text());
    }
    house.change(NOBODY, &json!({})).await.expect_problem(404, "user_not_found");
}

#[tokio::test]
async fn deleted_accounts_are_gone_or_keep_their_id() {
    let house = House::start("").await;
    let (ann, bob) = (house.gateway.sign_up("ann").await, house.gateway.sign_up("bob").await);
    let delete = async |id: &str, body: Option<&Value>| {
        house.ask("DELETE", &format!("/users/{id}"), body).await
    };
    assert_eq!(delete(&ann.id, None).await.expect(200).json(), json!({}));
    house.act(EventKind::UserDeleted).await;
    let api = format!("/api/{}/x", ann.id);
    house.gateway.get_as(&ann.token, &api).await.expect_problem(401, "session_not_found");
    house.get(&format!("/users/{}", ann.id)).await.expect_problem(404, "user_not_found");
    delete(&ann.id, None).await.expect_problem(404, "user_not_found");

    let soft = json!({ "should_soft_delete": true });
    delete(&bob.id, Some(&soft)).await.expect(200);
    house.act(EventKind::UserSoftDeleted).await;
    let left = house.get(&format!("/users/{}", bob.id)).await.expect(200).json();
    assert!(left["deleted_at"].is_string());
    assert_eq!((&left["email"], &left["identities"]), (&json!(""), &json!([])));
    delete(&bob.id, Some(&soft)).await.expect_problem(404, "user_not_found");
    house
        .change(&bob.id, &json!({ "email_confirm": true }))
        .await
        .expect_problem(404, "user_not_found");
    let key = json!({ "name": "job", "scopes": ["x"] });
    let key = house.ask("POST", &format!("/users/{}/api_keys", bob.id), Some(&key)).await;
    key.expect_problem(404, "user_not_found");
    let again = json!({ "email": "bob@example.com", "id": bob.id });
    house.create(&again).await.expect_problem(422, "id_exists");
    house.create(&json!({ "email": "bob@example.com" })).await.expect(200);
    delete(&bob.id, Some(&json!({ "should_soft_delete": false }))).await.expect(200);
    house.get(&format!("/users/{}", bob.id)).await.expect_problem(404, "user_not_found");
    // Administrators can delete themselves, and are none from then on.
    delete(&house.root.id, None).await.expect(200);
    house.get("/users").await.expect_problem(401, "session_not_found");
}

#[tokio::test]
async fn accounts_are_listed_page_by_page_with_a_total() {
    let house = House::start("").await;
    for n in 0..4 {
        house.gateway.advance(Duration::from_secs(1));
        house.create(&json!({ "email": format!("u{n}@example.com") })).await.expect(200);
    }
    let page = house.get("/users?page=1&per_page=2").await.expect(200);
    assert_eq!(page.header("x-total-count"), Some("5"));
    let links = r#"<?page=2&per_page=2>; rel="next", <?page=3&per_page=2>; rel="last""#;
    assert_eq!(page.header("link"), Some(links));
    let emails = |page: &Answer| {
        let users = page.json()["users"].as_array().expect("users").clone();
        users.iter().map(|user| user["email"].as_str().expect("one").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(emails(&page), ["u3@example.com", "u2@example.com"]);
    assert_eq!(page.json()["aud"], "authenticated");
    let last = house.get("/users?page=3&per_page=2").await.expect(200);
    assert_eq!(emails(&last), ["root@example.com"]);
    assert_eq!(last.header("link"), Some(r#"<?page=3&per_page=2>; rel="last""#));
    // What clients send where nobody has set anything.
    let all = house.get("/users?page=&per_page=").await.expect(200);
    assert_eq!(emails(&all).len(), 5);
    let found = house.get("/users?filter=U1%40").await.expect(200);
    assert_eq!(
        (emails(&found), found.header("x-total-count")),
        (vec!["u1@example.com".to_owned()], Some("1"))
    );
    for bad in ["page=0", "page=-1", "page=x", "per_page=0", "per_page=1001", "page=1&page=2"] {
        house.get(&format!("/users?{bad}")).await.expect_problem(422, "validation_failed");
    }
    let far = house.get("/users?page=4294967295&per_page=1000").await.expect(200);
    assert_eq!(emails(&far), [""; 0]);
}

#[tokio::test]
async fn sessions_are_seen_and_ended() {
    let house = House::start("").await;
    let ann = house.gateway.sign_up("ann").await;
    house.gateway.advance(Duration::from_secs(1));
    let other = house.gateway.log_in(&ann.email, PASSWORD).await.expect(200).json();
    let other = Caller::from_session(&other);
    let path = format!("/users/{}/sessions", ann.id);
    let listed = house.get(&path).await.expect(200).json();
    let sessions = listed["sessions"].as_array().expect("sessions").clone();
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions[0]["address"], "127.0.0.1");
    let newest = id_of(&sessions[0]);
    // Of somebody else it is none.
    let foreign = format!("/users/{}/sessions/{newest}", house.root.id);
    house.ask("DELETE", &foreign, None).await.expect_problem(404, "not_found");
    house.ask("DELETE", &format!("{path}/{newest}"), None).await.expect(204);
    house.act_on(EventKind::SessionRevoked, &ann.id).await;
    house.gateway.get_as(&other.token, "/auth/user").await.expect_problem(401, "session_not_found");
    house.gateway.get_as(&ann.token, "/auth/user").await.expect(200);
    for bad in [&*newest, NOBODY, "x"] {
        house.ask("DELETE", &format!("{path}/{bad}"), None).await.expect_problem(404, "not_found");
    }
    house.ask("DELETE", &path, None).await.expect(204);
    house.gateway.get_as(&ann.token, "/auth/user").await.expect_problem(401, "session_not_found");
    assert_eq!(house.get(&path).await.expect(200).json(), json!({ "sessions": [] }));
    let nobody = format!("/users/{NOBODY}/sessions");
    house.get(&nobody).await.expect_problem(404, "user_not_found");
    house.ask("DELETE", &nobody, None).await.expect_problem(404, "user_not_found");
}

#[tokio::test]
async fn the_record_is_read_with_filters_page_by_page() {
    let house = House::start("").await;
    let ann = house.gateway.sign_up("ann").await;
    for _ in 0..3 {
        house.gateway.advance(Duration::from_secs(1));
        house.gateway.log_in(&ann.email, "Wrong-Password-1").await.expect(401);
    }
    let read = async |query: &str| house.get(&format!("/events?{query}")).await.expect(200).json();
    let failed = read("kind=login_failed&limit=2").await;
    let first = failed["events"].as_array().expect("events").clone();
    assert_eq!(first.len(), 2);
    assert_eq!(first[0]["email"], "ann@example.com");
    assert!(first[0]["number"].is_i64() && first[0]["writer"].is_string());
    let next = failed["next"].as_str().expect("a place");
    let rest = read(&format!("kind=login_failed&limit=2&before={next}")).await;
    assert_eq!(rest["events"].as_array().map(Vec::len), Some(1));
    assert_eq!(rest["next"], Value::Null);
    let seen = |page: &Value| page["events"].as_array().expect("events").len();
    assert_eq!(seen(&read("outcome=failure&email=ANN@example.com").await), 3);
    let time = first[1]["time"].as_str().expect("a time");
    assert_eq!(seen(&read(&format!("kind=login_failed&since={time}")).await), 2);
    assert_eq!(seen(&read(&format!("kind=login_failed&until={time}")).await), 1);
    let of_ann = read(&format!("user_id={}", ann.id)).await;
    assert!(of_ann["events"].as_array().expect("events").iter().all(|e| e["user_id"] == *ann.id));
    for bad in [
        "kind=x",
        "outcome=x",
        "user_id=%2f",
        "since=yesterday",
        "limit=0",
        "limit=201",
        "before=x",
    ] {
        house.get(&format!("/events?{bad}")).await.expect_problem(422, "validation_failed");
    }

    let audit = house.get("/audit?per_page=2").await.expect(200);
    assert_eq!(audit.header("link"), Some(r#"<?page=2&per_page=2>; rel="next""#));
    let entries = audit.json();
    assert_eq!(entries.as_array().map(Vec::len), Some(2));
    assert_eq!(entries[0]["payload"]["traits"]["outcome"], "failure");
    assert_eq!(entries[0]["payload"]["actor_username"], "ann@example.com");
    let all = house.get("/audit").await.expect(200);
    assert_eq!(all.header("link"), None);
    let all = all.json();
    let actions: Vec<_> = all.as_array().expect("a list").iter().collect();
    assert!(actions.iter().any(|entry| entry["payload"]["action"] == "user_signedup"));
    let second = house.get("/audit?page=2&per_page=2").await.expect(200).json();
    assert_eq!(second[0], all[2]);
    for bad in ["page=11&per_page=1000", "query=x", "page=0"] {
        house.get(&format!("/audit?{bad}")).await.expect_problem(422, "validation_failed");
    }

    let data = house.get(&format!("/users/{}/data", ann.id)).await.expect(200).json();
    assert_eq!(data["user"]["id"], *ann.id);
    assert_eq!(data["sessions"].as_array().map(Vec::len), Some(1));
    house.act_on(EventKind::UserDataExported, &ann.id).await;
}

#[tokio::test]
async fn signing_keys_follow_each_other() {
    let house = House::start("").await;
    let keys = async || {
        let listed = house.get("/keys").await.expect(200).json();
        let keys = listed["keys"].as_array().expect("keys").clone();
        let states = keys.iter().map(|key| key["state"].as_str().expect("a state").to_owned());
        (
            keys.iter()
                .map(|key| key["kid"].as_str().expect("a kid").to_owned())
                .collect::<Vec<_>>(),
            states.collect::<Vec<_>>(),
        )
    };
    let (first, states) = keys().await;
    assert_eq!(states, ["active"]);
    assert!(!house.get("/keys").await.text().contains("private"));
    // The only one stays, or nobody could log in any more.
    let retire = format!("/keys/{}/retire", first[0]);
    house.ask("POST", &retire, None).await.expect_problem(409, "key_in_use");
    house.gateway.log_in(&house.root.email, PASSWORD).await.expect(200);
    let made = house.ask("POST", "/keys", Some(&json!({ "notice": 60 }))).await.expect(201).json();
    house.ask("POST", &retire, None).await.expect_problem(409, "key_in_use");
    let event = house.act(EventKind::SigningKeyChanged).await.event;
    assert_eq!(event.reason, Some(format!("added:{}", made["kid"].as_str().expect("a kid"))));
    let (_, states) = keys().await;
    assert_eq!(states, ["active", "standby"]);
    // An emergency: the one on standby signs at once, old tokens are refused.
    let revoke = format!("/keys/{}/revoke", first[0]);
    let ended = house.ask("POST", &revoke, None).await.expect(200).json();
    assert_eq!(ended["successor"], made["kid"]);
    patiently("the key is refused", async {
        while house.get("/keys").await.status != 401 {
            pause().await;
        }
    })
    .await;
    let session = house.gateway.log_in(&house.root.email, PASSWORD).await.expect(200).json();
    let root = Caller::from_session(&session);
    assert_eq!(root.kid(), made["kid"]);
    let again = house.ask_as(&root.token, "POST", &revoke, None).await;
    again.expect_problem(404, "key_not_found");
    for target in ["/keys/nobody/retire", &retire, "/keys/nobody/revoke"] {
        let refused = house.ask_as(&root.token, "POST", target, None).await;
        refused.expect_problem(404, "key_not_found");
    }
    let bad = json!({ "notice": -1 });
    let refused = house.ask_as(&root.token, "POST", "/keys", Some(&bad)).await;
    refused.expect_problem(422, "validation_failed");
}

#[tokio::test]
async fn limits_are_seen_and_reset() {
    let config = "[limits]\nlogin_account = { rate = \"9/hour\", by = \"account\" }\n\
                  search = { rate = \"7/minute\", by = \"route\" }";
    let house = House::start(config).await;
    let ann = house.gateway.sign_up("ann").await;
    let wrong = async || house.gateway.log_in(&ann.email, "Wrong-Password-1").await;
    for _ in 0..5 {
        wrong().await.expect(401);
    }
    let limits = house.get("/limits").await.expect(200).json();
    let limits = limits["limits"].as_array().expect("limits").clone();
    assert!(limits.contains(&json!({ "limit": "search", "rate": "7/60s", "by": "route" })));
    assert!(limits.iter().any(|limit| limit["limit"] == "verify"), "built-in ones too");

    let of_ip = "/limits/login?ip=127.0.0.1";
    let seen = house.get(of_ip).await.expect(200).json();
    assert_eq!((&seen["limit"], &seen["remaining"]), (&json!("login"), &json!(95)));
    house.ask("DELETE", of_ip, None).await.expect(204);
    let event = house.act(EventKind::LimitReset).await.event;
    assert_eq!(event.reason.as_deref(), Some("login ip=127.0.0.1"));
    assert_eq!(house.get(of_ip).await.expect(200).json()["remaining"], 100);

    let guard = "/limits/login_guard?account=ann%40example.com";
    wrong().await.expect(429);
    let lanes = house.get(guard).await.expect(200).json();
    assert_eq!(lanes["lanes"][0]["failures"], 5);
    house.ask("DELETE", guard, None).await.expect(204);
    let event = house.act(EventKind::LimitReset).await.event;
    assert_eq!(
        (event.reason.as_deref(), event.email.as_deref()),
        (Some("login_guard"), Some("ann@example.com"))
    );
    assert_eq!(house.get(guard).await.expect(200).json(), json!({ "lanes": [] }));
    wrong().await.expect(401);

    house.get("/limits/nothing?ip=127.0.0.1").await.expect_problem(404, "limit_not_found");
    for bad in [
        "login",
        "login?ip=here",
        "login?account=ann%40example.com",
        "search?ip=127.0.0.1",
        "login_guard",
        "login_guard?account=x",
        "login?ip=127.0.0.1&ip=127.0.0.2",
    ] {
        for method in ["GET", "DELETE"] {
            let refused = house.ask(method, &format!("/limits/{bad}"), None).await;
            refused.expect_problem(422, "validation_failed");
        }
    }
}

#[tokio::test]
async fn a_reset_that_cannot_be_recorded_is_none() {
    let house = House::start("").await;
    house.gateway.log_in(&house.root.email, "Wrong-Password-1").await.expect(401);
    let database = rusqlite::Connection::open(house.gateway.file("portcullis.db")).expect("opens");
    let rename = |from: &str, to: &str| {
        database.execute(&format!("ALTER TABLE {from} RENAME TO {to}"), []).expect("renamed");
    };
    let of_ip = "/limits/login?ip=127.0.0.1";
    let left = async || house.get(of_ip).await.expect(200).json()["remaining"].clone();
    assert_eq!(left().await, 99);
    rename("auth_events", "elsewhere");
    house.ask("DELETE", of_ip, None).await.expect(500);
    assert_eq!(left().await, 99);
    rename("elsewhere", "auth_events");
    house.ask("DELETE", of_ip, None).await.expect(204);
    assert_eq!(left().await, 100);
}

#[tokio::test]
async fn what_is_too_much_or_nothing_is_refused() {
    let house = House::start("").await;
    let long = format!("/users?filter={}", "!".repeat(255));
    for target in ["/users?filter=a%00b", "/events?email=%00", &long] {
        house.get(target).await.expect_problem(422, "validation_failed");
    }
    let early = house.get("/events?since=-009999-01-05T00:00:00Z").await.expect(200).json();
    assert!(!early["events"].as_array().expect("events").is_empty());
    let roles: Vec<_> = (0..65).map(|n| format!("r{n}")).collect();
    for words in [
        json!({ "ban_duration": "1ns" }),
        json!({ "app_metadata": { "roles": roles } }),
        json!({ "password_hash": "pbkdf2:sha256:1$salt$5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8" }),
        json!({ "password_hash": "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" }),
        json!({ "password_hash": "$argon2id$v=19$m=262144,t=16,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" }),
    ] {
        let refused = house.change(&house.root.id, &words).await;
        refused.expect_problem(422, "validation_failed");
    }
    // Sixteen keys are enough for any rotation.
    for _ in 1..16 {
        house.ask("POST", "/keys", None).await.expect(201);
    }
    house.ask("POST", "/keys", None).await.expect_problem(422, "validation_failed");
}

#[tokio::test]
async fn links_are_made_to_hand_on() {
    let house = House::start("").await;
    let link = async |body: &Value| house.ask("POST", "/generate_link", Some(body)).await;
    let verify = async |kind: &str, token: &Value| {
        let body = json!({ "type": kind, "token_hash": token });
        house.gateway.post_json("/auth/verify", &body).await
    };
    let wanted = json!({
        "type": "signup", "email": "ann@example.com", "password": PASSWORD, "data": { "n": 1 },
        "redirect_to": "https://app.example.com/welcome",
    });
    let made = link(&wanted).await.expect(200).json();
    assert_eq!(made["verification_type"], "signup");
    assert_eq!(made["redirect_to"], "https://app.example.com/welcome");
    assert_eq!(made["email"], "ann@example.com");
    let address = made["action_link"].as_str().expect("an address");
    assert!(
        address.contains("/auth/verify?token=") && address.contains("type=signup"),
        "{address}"
    );
    house.act_on(EventKind::LinkGenerated, &id_of(&made)).await;
    house.act_on(EventKind::UserCreated, &id_of(&made)).await;
    let session = verify("signup", &made["hashed_token"]).await.expect(200).json();
    assert_eq!(session["user"]["user_metadata"], json!({ "n": 1 }));
    verify("signup", &made["hashed_token"]).await.expect_problem(403, "otp_expired");
    house.gateway.log_in("ann@example.com", PASSWORD).await.expect(200);
    link(&wanted).await.expect_problem(422, "email_exists");
    let weak = json!({ "type": "signup", "email": "x@example.com", "password": "weak" });
    link(&weak).await.expect_problem(422, "weak_password");

    // The code does what the link does; a newer link makes the older void.
    let recovery = json!({ "type": "recovery", "email": "ann@example.com" });
    let older = link(&recovery).await.expect(200).json();
    let newer = link(&recovery).await.expect(200).json();
    verify("recovery", &older["hashed_token"]).await.expect_problem(403, "otp_expired");
    let body =
        json!({ "type": "recovery", "email": "ann@example.com", "token": newer["email_otp"] });
    house.gateway.post_json("/auth/verify", &body).await.expect(200);
    let nobody = json!({ "type": "recovery", "email": "nobody@example.com" });
    link(&nobody).await.expect_problem(404, "user_not_found");

    for kind in ["invite", "magiclink"] {
        let email = format!("{kind}@example.com");
        let made = link(&json!({ "type": kind, "email": email })).await.expect(200).json();
        let session = verify(kind, &made["hashed_token"]).await.expect(200).json();
        assert_eq!(session["user"]["email"], *email);
    }
    let invited = json!({ "type": "invite", "email": "ann@example.com" });
    link(&invited).await.expect_problem(422, "email_exists");

    // Both addresses agree, each by its link.
    let change = |kind: &str, new: &str| json!({ "type": kind, "email": "ann@example.com", "new_email": new });
    let present =
        link(&change("email_change_current", "anna@example.com")).await.expect(200).json();
    let next = link(&change("email_change_new", "anna@example.com")).await.expect(200).json();
    assert_eq!(next["verification_type"], "email_change_new");
    verify("email_change", &present["hashed_token"]).await.expect(200);
    let session = verify("email_change", &next["hashed_token"]).await.expect(200).json();
    assert_eq!(session["user"]["email"], "anna@example.com");
    let taken = json!({ "type": "email_change_new", "email": "anna@example.com", "new_email": "root@example.com" });
    link(&taken).await.expect_problem(422, "email_exists");
    let nobody = json!({ "type": "email_change_new", "email": "nobody@example.com", "new_email": "q@example.com" });
    link(&nobody).await.expect_problem(404, "user_not_found");

    // What would refuse the link is found before the wish is stored.
    let off = json!({ "email": "off@example.com", "ban_duration": "1h" });
    let off = id_of(&house.create(&off).await.expect(200).json());
    let open =
        id_of(&house.create(&json!({ "email": "open@example.com" })).await.expect(200).json());
    for (kind, who, code) in [
        ("email_change_new", "off@example.com", "user_banned"),
        ("email_change_current", "off@example.com", "user_banned"),
        ("email_change_current", "open@example.com", "validation_failed"),
    ] {
        let wanted = json!({ "type": kind, "email": who, "new_email": "wish@example.com" });
        link(&wanted).await.expect_problem(422, code);
    }
    for id in [&off, &open] {
        let user = house.get(&format!("/users/{id}")).await.expect(200).json();
        assert!(user.get("new_email").is_none_or(Value::is_null), "{user}");
    }

    let anna = id_of(&session["user"]);
    house.change(&anna, &json!({ "ban_duration": "1h" })).await.expect(200);
    let banned = json!({ "type": "magiclink", "email": "anna@example.com" });
    link(&banned).await.expect_problem(422, "user_banned");
    // A place that is not allowed is replaced by the site.
    let wanted = json!({ "type": "magiclink", "email": "m@example.com", "redirect_to": "https://evil.example/" });
    assert_eq!(link(&wanted).await.expect(200).json()["redirect_to"], "https://app.example.com/");
}

#[tokio::test]
async fn while_the_database_is_away_nothing_is_half_done() {
    let server = crate::harness::postgres::OwnServer::start().await;
    let database = server.database().await;
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream).config(CONFIG);
    let gateway = builder.storage(&database.url).start().await;
    let root = gateway.sign_up("root").await;
    let store = crate::harness::open_store(&database.url);
    let (id, now) = (root.id.parse().expect("an id"), gateway.clock.now());
    let event = noted(EventKind::RolesChanged, now);
    store.set_roles(&id, &["admin".to_owned()], now, &event).await.expect("stored");
    server.hang();
    let create = gateway.post("/auth/admin/users").bearer(&root.token);
    let answer = create.json(&json!({ "email": "new@example.com" })).send().await;
    answer.expect_problem(503, "unavailable");
    assert!(answer.header("retry-after").is_some());
    server.resume();
    let created = EventFilter { kind: Some(EventKind::UserCreated), ..EventFilter::default() };
    assert!(store.events(&created, 10, None).await.expect("read").is_empty());
}
