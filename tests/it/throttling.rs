//! Failed logins make the next one wait, in lanes that strangers cannot put in a user's way.

use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::model::EventKind;
use serde_json::json;

use crate::harness::gateway::START;
use crate::harness::postgres;
use crate::harness::{
    Answer, Builder, Caller, PASSWORD, TestGateway, Upstream, events_of, noted, until_events,
};

const SECOND: Duration = Duration::from_secs(1);
const WRONG: &str = "Wrong-Password-1";

/// Where the account's owner is at home, and two strangers.
const HOME: &str = "198.51.100.7";
const NEAR_HOME: &str = "198.51.100.200";
const STRANGER: &str = "203.0.113.9";
const OTHER_STRANGER: &str = "2001:db8:7::9";

fn builder() -> Builder {
    TestGateway::builder().config("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]")
}

async fn gateway(config: &str) -> (Upstream, TestGateway) {
    let upstream = Upstream::echo().await;
    let gateway = builder().upstream("app", &upstream).config(config).start().await;
    (upstream, gateway)
}

async fn try_from(gateway: &TestGateway, address: &str, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password });
    gateway.post("/auth/login").header("X-Forwarded-For", address).json(&body).send().await
}

/// An account whose only session began at [`HOME`].
async fn owner(gateway: &TestGateway, name: &str) -> Caller {
    let body = json!({ "email": format!("{name}@example.com"), "password": PASSWORD });
    let request = gateway.post("/auth/signup").header("X-Forwarded-For", HOME);
    Caller::from_session(&request.json(&body).send().await.expect(201).json())
}

/// So many failures in a row from one address, each as soon as it may be tried.
async fn fail(gateway: &TestGateway, address: &str, email: &str, times: usize) {
    for _ in 0..times {
        try_from(gateway, address, email, WRONG).await.expect_problem(401, "invalid_credentials");
        gateway.advance(60 * SECOND);
    }
}

/// What the wait of a refusal is, in seconds; nothing was checked for it.
#[track_caller]
fn wait(answer: &Answer) -> u64 {
    answer.expect_problem(429, "over_request_rate_limit");
    answer.header("retry-after").expect("a time").parse().expect("seconds")
}

async fn hashes(gateway: &TestGateway) -> u64 {
    let metrics = gateway.admin_get("/metrics").await.expect(200).text();
    let name = "portcullis_password_hash_duration_seconds_count ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("a count");
    line.parse().expect("a number")
}

#[tokio::test]
async fn each_failure_after_the_fourth_makes_the_next_wait_longer_known_or_not() {
    let (_upstream, gateway) = gateway("").await;
    owner(&gateway, "ann").await;
    for email in ["ann@example.com", "nobody@example.com"] {
        for _ in 0..4 {
            try_from(&gateway, STRANGER, email, WRONG).await.expect(401);
        }
        for pause in [1, 3, 5, 10, 30, 60, 60] {
            try_from(&gateway, STRANGER, email, WRONG).await.expect(401);
            let before = hashes(&gateway).await;
            // However often it is tried meanwhile, the right password too: nothing is checked, and
            // it is not counted.
            for password in [WRONG, PASSWORD, WRONG, ""] {
                let refused = try_from(&gateway, STRANGER, email, password).await;
                assert_eq!(wait(&refused), pause, "{email}");
            }
            gateway.advance(Duration::from_millis(pause * 1000 - 1));
            assert_eq!(wait(&try_from(&gateway, STRANGER, email, WRONG).await), 1);
            assert_eq!(hashes(&gateway).await, before);
            gateway.advance(Duration::from_millis(1));
        }
    }
    // What was refused is told like other limits.
    let store = gateway.store();
    let noted = until_events(&store, EventKind::RateLimited, 1).await;
    let event = &noted[0].event;
    assert_eq!(event.reason.as_deref(), Some("login_guard"));
    assert_eq!(event.email.as_deref(), Some("ann@example.com"));
    assert_eq!(event.address, Some(STRANGER.parse().expect("an address")));
    assert_eq!(events_of(&store, EventKind::LoginFailed).await.len(), 22);
    let metrics = gateway.admin_get("/metrics").await.text();
    assert!(metrics.contains("portcullis_rate_limited_total{limit=\"login_guard\"}"), "{metrics}");
}

#[tokio::test]
async fn strangers_slow_down_strangers_and_never_the_owner_at_home() {
    let (_upstream, gateway) = gateway("").await;
    let ann = owner(&gateway, "ann").await;
    for n in 0..12 {
        let address = [STRANGER, OTHER_STRANGER][n % 2];
        fail(&gateway, address, &ann.email, 1).await;
    }
    try_from(&gateway, STRANGER, &ann.email, WRONG).await.expect(401);
    // Wherever strangers are, they wait together.
    for address in [STRANGER, OTHER_STRANGER, "192.0.2.1"] {
        assert_eq!(wait(&try_from(&gateway, address, &ann.email, PASSWORD).await), 60);
    }
    for address in [HOME, NEAR_HOME] {
        try_from(&gateway, address, &ann.email, PASSWORD).await.expect(200);
    }
    // Which lets no stranger in.
    assert_eq!(wait(&try_from(&gateway, STRANGER, &ann.email, PASSWORD).await), 60);
    // A stranger who waited is let in with the right password; from then on the place is known.
    gateway.advance(60 * SECOND);
    try_from(&gateway, STRANGER, &ann.email, PASSWORD).await.expect(200);
    fail(&gateway, OTHER_STRANGER, &ann.email, 12).await;
    try_from(&gateway, OTHER_STRANGER, &ann.email, WRONG).await.expect(401);
    try_from(&gateway, STRANGER, &ann.email, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_home_has_a_guard_of_its_own_and_a_login_clears_it() {
    let (_upstream, gateway) = gateway("").await;
    let ann = owner(&gateway, "ann").await;
    for address in [HOME, STRANGER] {
        fail(&gateway, address, &ann.email, 5).await;
        try_from(&gateway, address, &ann.email, WRONG).await.expect(401);
        assert_eq!(wait(&try_from(&gateway, address, &ann.email, PASSWORD).await), 3);
    }
    gateway.advance(3 * SECOND);
    try_from(&gateway, NEAR_HOME, &ann.email, PASSWORD).await.expect(200);
    // It begins anew at home; strangers are where they were.
    for _ in 0..5 {
        try_from(&gateway, HOME, &ann.email, WRONG).await.expect(401);
    }
    assert_eq!(wait(&try_from(&gateway, HOME, &ann.email, WRONG).await), 1);
    try_from(&gateway, STRANGER, &ann.email, WRONG).await.expect(401);
    assert_eq!(wait(&try_from(&gateway, STRANGER, &ann.email, WRONG).await), 5);
    // Other accounts have nothing to do with it.
    let bob = owner(&gateway, "bob").await;
    try_from(&gateway, HOME, &bob.email, PASSWORD).await.expect(200);
    // A quiet day clears a lane, too.
    gateway.advance(Duration::from_hours(24) + SECOND);
    for _ in 0..5 {
        try_from(&gateway, STRANGER, &ann.email, WRONG).await.expect(401);
    }
    assert_eq!(wait(&try_from(&gateway, STRANGER, &ann.email, WRONG).await), 1);
}

#[tokio::test]
async fn a_place_is_known_for_thirty_days_after_its_last_use() {
    let (_upstream, gateway) = gateway("").await;
    let ann = owner(&gateway, "ann").await;
    let day = Duration::from_hours(24);
    let is_known = async || {
        fail(&gateway, STRANGER, &ann.email, 9).await;
        try_from(&gateway, STRANGER, &ann.email, WRONG).await.expect(401);
        let answer = try_from(&gateway, HOME, &ann.email, WRONG).await;
        answer.status == 401
    };
    gateway.advance(5 * day);
    let ann = Caller::from_session(&gateway.refresh(&ann.refresh_token).await.expect(200).json());
    gateway.advance(25 * day + Duration::from_hours(23));
    assert!(is_known().await, "the session was used 26 days ago");
    gateway.advance(5 * day);
    assert!(!is_known().await);
    drop(ann);
}

#[tokio::test]
async fn a_disabled_account_waits_like_any_other() {
    let (_upstream, gateway) = gateway("").await;
    let ann = owner(&gateway, "ann").await;
    let now = gateway.clock.now();
    let until = now + Duration::from_hours(24 * 365);
    let event = noted(EventKind::UserDisabled, now);
    let id = ann.id.parse().expect("an id");
    gateway.store().disable(&id, until, now, &event).await.expect("stored").expect("there");
    for _ in 0..5 {
        try_from(&gateway, STRANGER, &ann.email, PASSWORD).await.expect(401);
    }
    assert_eq!(wait(&try_from(&gateway, STRANGER, &ann.email, PASSWORD).await), 1);
}

#[tokio::test]
async fn the_count_of_an_account_has_the_same_lanes() {
    let limits = "[limits]\nlogin_account = { rate = \"6/hour\", by = \"account\" }";
    let (_upstream, gateway) = gateway(limits).await;
    let ann = owner(&gateway, "ann").await;
    for email in [&*ann.email, "nobody@example.com"] {
        fail(&gateway, STRANGER, email, 3).await;
        fail(&gateway, OTHER_STRANGER, email, 3).await;
        let refused = try_from(&gateway, STRANGER, email, PASSWORD).await;
        assert!(wait(&refused) > 60, "{refused:?}");
        let policy = refused.header("ratelimit-policy").expect("counted");
        assert!(policy.contains("\"login_account\";q=6;w=3600"), "{policy}");
    }
    for _ in 0..6 {
        try_from(&gateway, HOME, &ann.email, PASSWORD).await.expect(200);
    }
    assert!(wait(&try_from(&gateway, NEAR_HOME, &ann.email, PASSWORD).await) > 60);
}

#[tokio::test]
async fn logins_of_a_network_are_limited_together() {
    let limits = "[limits]\nlogin_network = { rate = \"4/minute\", by = \"network\" }";
    let (_upstream, gateway) = gateway(limits).await;
    for (net, inside, outside) in [
        ("203.0.113.", "203.0.113.200", "203.0.114.1"),
        ("2001:db8:1:", "2001:db8:1:ff::", "2001:db8:2::"),
    ] {
        for n in 1..5 {
            let address =
                if net.ends_with('.') { format!("{net}{n}") } else { format!("{net}{n}::1") };
            let email = format!("nobody-{n}@example.com");
            try_from(&gateway, &address, &email, WRONG).await.expect(401);
        }
        let refused = try_from(&gateway, inside, "nobody@example.com", WRONG).await;
        assert_eq!(wait(&refused), 60);
        let policy = refused.header("ratelimit-policy").expect("counted");
        assert!(policy.contains("\"login_network\";q=4;w=60"), "{policy}");
        try_from(&gateway, outside, "nobody@example.com", WRONG).await.expect(401);
    }
}

#[tokio::test]
async fn two_gateways_share_what_failed() {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    let clock = Clock::manual(START.parse().expect("a timestamp"));
    let start = || {
        let builder = builder().upstream("app", &upstream).storage(&database.url);
        builder.clock(clock.clone()).start()
    };
    let (one, two) = tokio::join!(start(), start());
    let ann = owner(&one, "ann").await;
    for n in 0..5 {
        let gateway = if n % 2 == 0 { &one } else { &two };
        try_from(gateway, STRANGER, &ann.email, WRONG).await.expect(401);
    }
    for gateway in [&one, &two] {
        assert_eq!(wait(&try_from(gateway, STRANGER, &ann.email, PASSWORD).await), 1);
        try_from(gateway, HOME, &ann.email, PASSWORD).await.expect(200);
    }
    clock.advance(SECOND);
    try_from(&two, STRANGER, &ann.email, PASSWORD).await.expect(200);
    for _ in 0..4 {
        try_from(&one, STRANGER, &ann.email, WRONG).await.expect(401);
    }
    try_from(&two, STRANGER, &ann.email, PASSWORD).await.expect(200);
}
