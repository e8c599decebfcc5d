//! Sessions and the own data on both databases: who has which, how each ends, what is handed out.

use std::time::Duration;

use portcullis::model::{EventKind, UserId};
use portcullis::store::{Deletion, Store};
use serde_json::{Value, json};

use crate::harness::postgres;
use crate::harness::{
    Builder, Caller, PASSWORD, TestGateway, Upstream, events_of, open_store, until_events,
};

const HOUR: Duration = Duration::from_hours(1);

/// Makes a test of each function for each database.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                let upstream = super::Upstream::echo().await;
                let gateway = super::builder(&upstream).start().await;
                let store = gateway.store();
                super::$name(&gateway, &store).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                let upstream = super::Upstream::echo().await;
                let database = super::postgres::database().await;
                let gateway = super::builder(&upstream).storage(&database.url).start().await;
                super::$name(&gateway, &super::open_store(&database.url)).await;
            })+
        }
    };
}

on_both![
    sessions_are_seen_by_device_and_ended_one_by_one_others_and_all,
    sessions_end_when_unused_and_at_their_limit,
    the_own_data_is_handed_out_whole_and_to_nobody_else,
    a_deleted_account_is_forgotten_by_the_running_gateway,
];

fn builder(upstream: &Upstream) -> Builder {
    TestGateway::builder().upstream("app", upstream).config(
        r#"
        [server]
        trusted_proxies = ["127.0.0.0/8"]
        [tokens]
        access_lifetime = "1h"
        refresh_idle = "3h"
        refresh_lifetime = "10h"
        [limits]
        login = { rate = "100/minute", by = "ip" }
        [[routes]]
        path = "/private/{*rest}"
        upstream = "app"
        "#,
    )
}

async fn log_in(gateway: &TestGateway, device: &str, address: &str) -> Caller {
    let request = gateway.post("/auth/login").header("User-Agent", device);
    let body = json!({ "email": "ann@example.com", "password": PASSWORD });
    let answer = request.header("X-Forwarded-For", address).json(&body).send().await;
    // Their order in lists is by time.
    gateway.advance(Duration::from_secs(1));
    Caller::from_session(&answer.expect(200).json())
}

/// Devices and addresses of the running sessions, newest first, and which asks.
async fn seen(gateway: &TestGateway, token: &str) -> Vec<(String, String, bool)> {
    let listed = gateway.get_as(token, "/auth/sessions").await.expect(200).json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let sessions = listed["sessions"].as_array().expect("a list").iter();
    sessions
        .map(|one| (text(&one["user_agent"]), text(&one["address"]), one["current"] == true))
        .collect()
}

async fn sessions_are_seen_by_device_and_ended_one_by_one_others_and_all(
    gateway: &TestGateway,
    store: &Store,
) {
    gateway.sign_up("ann").await;
    gateway.advance(Duration::from_secs(1));
    let phone = log_in(gateway, "Phone/1", "192.0.2.1").await;
    let desk = log_in(gateway, "Desk/1", "2001:db8::7").await;
    let tablet = log_in(gateway, "Tablet/1", "192.0.2.3").await;
    let row =
        |device: &str, address: &str, current| (device.to_owned(), address.to_owned(), current);
    let listed = seen(gateway, &desk.token).await;
    assert_eq!(
        listed[..3],
        [
            row("Tablet/1", "192.0.2.3", false),
            row("Desk/1", "2001:db8::7", true),
            row("Phone/1", "192.0.2.1", false),
        ]
    );
    let all = gateway.get_as(&desk.token, "/auth/sessions").await.expect(200).json();
    let id = all["sessions"][0]["id"].as_str().expect("an id").to_owned();
    let end = gateway.request("DELETE", &format!("/auth/sessions/{id}")).bearer(&desk.token);
    end.send().await.expect(204);
    gateway.get_as(&tablet.token, "/private/a").await.expect_problem(401, "session_not_found");
    gateway.refresh(&tablet.refresh_token).await.expect_problem(400, "session_expired");
    gateway.get_as(&phone.token, "/private/a").await.expect(200);

    gateway.advance(Duration::from_secs(1));
    gateway.post("/auth/logout?scope=others").bearer(&desk.token).send().await.expect(204);
    gateway.get_as(&phone.token, "/private/a").await.expect_problem(401, "session_not_found");
    assert_eq!(seen(gateway, &desk.token).await, [row("Desk/1", "2001:db8::7", true)]);
    let again = log_in(gateway, "Phone/2", "192.0.2.1").await;
    gateway.post("/auth/logout?scope=global").bearer(&again.token).send().await.expect(204);
    for token in [&desk.token, &again.token] {
        gateway.get_as(token, "/private/a").await.expect_problem(401, "session_not_found");
    }
    let logouts = events_of(store, EventKind::Logout).await;
    let reasons: Vec<_> = logouts.iter().map(|stored| stored.event.reason.as_deref()).collect();
    assert_eq!(reasons, [None, Some("others"), Some("global")]);
}

async fn sessions_end_when_unused_and_at_their_limit(gateway: &TestGateway, _: &Store) {
    gateway.sign_up("ann").await;
    let unused = log_in(gateway, "Phone/1", "192.0.2.1").await;
    let mut used = log_in(gateway, "Desk/1", "192.0.2.2").await;
    for _ in 0..4 {
        gateway.advance(2 * HOUR);
        let next = gateway.refresh(&used.refresh_token).await.expect(200).json();
        used = Caller::from_session(&next);
    }
    gateway.refresh(&unused.refresh_token).await.expect_problem(400, "session_expired");
    gateway.advance(2 * HOUR);
    gateway.refresh(&used.refresh_token).await.expect_problem(400, "session_expired");
    gateway.get_as(&used.token, "/private/a").await.expect(401);
    let fresh = log_in(gateway, "Desk/2", "192.0.2.2").await;
    let listed = seen(gateway, &fresh.token).await;
    assert!(listed.iter().all(|(device, ..)| device != "Desk/1"), "{listed:?}");
}

async fn the_own_data_is_handed_out_whole_and_to_nobody_else(gateway: &TestGateway, store: &Store) {
    let first = gateway.sign_up("ann").await;
    gateway.sign_up("bob").await;
    gateway.advance(Duration::from_secs(1));
    let phone = log_in(gateway, "Phone/1", "192.0.2.1").await;
    gateway.post("/auth/logout").bearer(&first.token).send().await.expect(204);
    let change = json!({ "data": { "city": "Kraków" } });
    let request = gateway.request("PUT", "/auth/user").bearer(&phone.token).json(&change);
    request.send().await.expect(200);
    gateway.log_in("ann@example.com", "Wrong-1").await.expect(401);

    let answer = gateway.get_as(&phone.token, "/auth/user/data").await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("ratelimit").is_some_and(|field| field.contains("user_data")));
    let text = answer.text();
    let data = answer.json();
    let user = gateway.get_as(&phone.token, "/auth/user").await.expect(200).json();
    assert_eq!(data["user"], user);
    assert_eq!(data["user"]["user_metadata"]["city"], "Kraków");
    let [new, old] = &data["sessions"].as_array().expect("sessions")[..] else { panic!("{data}") };
    assert_eq!((&new["user_agent"], &new["ended_at"]), (&json!("Phone/1"), &Value::Null));
    assert_eq!(
        (&new["address"], &new["amr"][0]["method"]),
        (&json!("192.0.2.1"), &json!("password"))
    );
    assert!(old["ended_at"].is_string() && old["ended_reason"] == "logout", "{old}");
    let mut kinds: Vec<_> =
        data["events"].as_array().expect("events").iter().map(|e| &e["kind"]).collect();
    kinds.sort_by_key(ToString::to_string);
    assert_eq!(kinds, ["login", "login_failed", "logout", "signup", "user_updated"]);
    assert_eq!((&data["next"], &data["api_keys"]), (&Value::Null, &json!([])));
    for other in ["bob", "$argon2", "password_hash", &phone.refresh_token] {
        assert!(!text.contains(other), "{other}");
    }
    let told = events_of(store, EventKind::UserDataExported).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].event.user_id.as_ref().map(UserId::as_str), Some(&*phone.id));
    assert_eq!(told[0].event.actor, None);

    gateway.get("/auth/user/data").send().await.expect_problem(401, "no_authorization");
    for _ in 1..10 {
        gateway.get_as(&phone.token, "/auth/user/data").await.expect(200);
    }
    let refused = gateway.get_as(&phone.token, "/auth/user/data").await;
    refused.expect_problem(429, "over_request_rate_limit");
}

async fn a_deleted_account_is_forgotten_by_the_running_gateway(
    gateway: &TestGateway,
    store: &Store,
) {
    let ann = gateway.sign_up("ann").await;
    gateway.log_in("ann@example.com", "Wrong-1").await.expect(401);
    let id = ann.id.parse().expect("an id");
    let at = gateway.clock.now();
    let mut event = crate::harness::noted(EventKind::UserDeleted, at);
    event.user_id = Some(ann.id.parse().expect("an id"));
    store.delete_user(&id, Deletion::Hard, at, &event).await.expect("deleted").expect("there");
    crate::harness::patiently("a pseudonym", async {
        while !store.events_of_user(&id, 10, None).await.expect("events").is_empty() {
            crate::harness::pause().await;
        }
    })
    .await;
    for kind in [EventKind::Signup, EventKind::LoginFailed, EventKind::UserDeleted] {
        let event = until_events(store, kind, 1).await.remove(0).event;
        let user = event.user_id.expect("a pseudonym");
        assert!(user.as_str().starts_with("deleted-"), "{user}");
        assert_eq!((event.email, event.user_agent), (None, None), "{kind:?}");
    }
    gateway.log_in("ann@example.com", PASSWORD).await.expect(401);
}
