//! Contract section 5, "Refresh": a lost answer or two tabs never sign a user out, real reuse ends
//! the session and is an event.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::model::{EventKind, UserId};
use serde_json::Value;

use crate::harness::postgres;
use crate::harness::{Builder, Caller, PASSWORD, TestGateway, Upstream, events_of, open_store};

const SECOND: Duration = Duration::from_secs(1);

async fn gateway() -> (Upstream, TestGateway) {
    with(|builder| builder).await
}

async fn with(more: impl FnOnce(Builder) -> Builder) -> (Upstream, TestGateway) {
    let upstream = Upstream::echo().await;
    let builder = more(TestGateway::builder().upstream("app", &upstream));
    (upstream, builder.start().await)
}

/// Refreshes, and expects it to work.
async fn traded(gateway: &TestGateway, token: &str) -> Caller {
    Caller::from_session(&gateway.refresh(token).await.expect(200).json())
}

#[tokio::test]
async fn a_refresh_gives_a_new_pair_in_the_same_session() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    gateway.advance(3600 * SECOND);
    let answer = gateway.refresh(&ann.refresh_token).await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let session = answer.json();
    assert_eq!(session["expires_in"], 86400);
    assert_eq!(session["expires_at"], gateway.clock.now().as_second() + 86400);
    let next = Caller::from_session(&session);
    assert_eq!(next.id, ann.id);
    assert_ne!(next.refresh_token, ann.refresh_token);
    assert_ne!(next.token, ann.token);
    // Both access tokens are good until they expire.
    for token in [&ann.token, &next.token] {
        gateway.get_as(token, "/private/a").await.expect(200);
    }
    let sessions = gateway.get_as(&next.token, "/auth/sessions").await.expect(200).json();
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(1));
    // The time of the login stays.
    assert_eq!(session["user"]["last_sign_in_at"], "2026-11-21T10:00:00.000000Z");
    let store = gateway.store();
    let noted = events_of(&store, EventKind::TokenRefreshed).await;
    assert_eq!(noted.len(), 1);
    assert_eq!(noted[0].event.user_id.as_ref().map(UserId::as_str), Some(&*ann.id));
}

#[tokio::test]
async fn a_lost_answer_is_repeated_as_long_as_its_successor_is_unused() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    let first = traded(&gateway, &ann.refresh_token).await;
    for wait in [SECOND, 60 * SECOND, 3600 * SECOND, 86400 * SECOND] {
        gateway.advance(wait);
        let again = traded(&gateway, &ann.refresh_token).await;
        assert_eq!(again.refresh_token, first.refresh_token, "after {wait:?}");
        gateway.get_as(&again.token, "/private/a").await.expect(200);
    }
    let second = traded(&gateway, &first.refresh_token).await;
    gateway.get_as(&second.token, "/private/a").await.expect(200);
    let store = gateway.store();
    assert!(events_of(&store, EventKind::RefreshReuse).await.is_empty());
}

#[tokio::test]
async fn within_ten_seconds_a_used_token_gets_its_successor_even_when_that_is_used() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    // Two tabs: the slower one shows the old token when the faster one has traded on.
    let fast = traded(&gateway, &ann.refresh_token).await;
    let faster = traded(&gateway, &fast.refresh_token).await;
    gateway.advance(10 * SECOND);
    let slow = traded(&gateway, &ann.refresh_token).await;
    assert_eq!(slow.refresh_token, fast.refresh_token);
    // And goes on with it: the end of the chain is where both meet.
    let slower = traded(&gateway, &slow.refresh_token).await;
    assert_eq!(slower.refresh_token, faster.refresh_token);
    for caller in [&fast, &faster, &slow, &slower] {
        gateway.get_as(&caller.token, "/private/a").await.expect(200);
    }
}

#[tokio::test]
async fn real_reuse_ends_the_session_and_is_an_event() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    let elsewhere = gateway.log_in(&ann.email, PASSWORD).await.expect(200).json();
    let elsewhere = Caller::from_session(&elsewhere);
    let first = traded(&gateway, &ann.refresh_token).await;
    let second = traded(&gateway, &first.refresh_token).await;
    gateway.advance(11 * SECOND);
    let request =
        gateway.post("/auth/token?grant_type=refresh_token").header("User-Agent", "Thief/1");
    let body = serde_json::json!({ "refresh_token": ann.refresh_token });
    let refused = request.json(&body).send().await;
    refused.expect_problem(400, "refresh_token_already_used");
    // Whoever holds tokens of the session has lost them, at once and everywhere.
    for caller in [&ann, &first, &second] {
        for target in ["/private/a", "/optional/a", "/auth/user"] {
            gateway.get_as(&caller.token, target).await.expect_problem(401, "session_not_found");
        }
        let refused = gateway.refresh(&caller.refresh_token).await;
        refused.expect_problem(400, "refresh_token_already_used");
    }
    gateway.get_as(&elsewhere.token, "/private/a").await.expect(200);
    let store = gateway.store();
    let noted = events_of(&store, EventKind::RefreshReuse).await;
    let [noted] = &noted[..] else { panic!("one event: {noted:?}") };
    let event = &noted.event;
    assert_eq!(event.outcome.as_str(), "failure");
    assert_eq!(event.user_id.as_ref().map(UserId::as_str), Some(&*ann.id));
    assert!(event.session_id.is_some());
    assert_eq!(event.user_agent.as_deref(), Some("Thief/1"));
    assert_eq!(event.request_id.as_deref(), refused.header("x-request-id"));
    assert_eq!(event.address, Some([127, 0, 0, 1].into()));
}

#[tokio::test]
async fn a_token_that_nobody_was_given_is_not_found() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    let changed = format!("{}A", &ann.refresh_token[..ann.refresh_token.len() - 1]);
    let other = if changed == ann.refresh_token { changed.replace('A', "B") } else { changed };
    for token in ["", "x", &"A".repeat(43), &"A".repeat(10_000), &ann.token, &other, "\u{0}", "ä"]
    {
        gateway.refresh(token).await.expect_problem(400, "refresh_token_not_found");
    }
    gateway.refresh(&ann.refresh_token).await.expect(200);
}

#[tokio::test]
async fn an_unused_session_ends_after_its_idle_time() {
    let (_upstream, gateway) = with(|b| b.config("[tokens]\nrefresh_idle = \"2h\"")).await;
    let ann = gateway.sign_up("ann").await;
    gateway.advance(7200 * SECOND);
    let next = traded(&gateway, &ann.refresh_token).await;
    // The use counts, not the login.
    gateway.advance(7200 * SECOND);
    let next = traded(&gateway, &next.refresh_token).await;
    gateway.advance(7201 * SECOND);
    gateway.refresh(&next.refresh_token).await.expect_problem(400, "session_expired");
}

#[tokio::test]
async fn no_session_outlives_its_absolute_limit() {
    let config =
        "[tokens]\nrefresh_lifetime = \"24h\"\nrefresh_idle = \"24h\"\naccess_lifetime = \"1h\"";
    let (_upstream, gateway) = with(|b| b.config(config)).await;
    let mut ann = gateway.sign_up("ann").await;
    for _ in 0..23 {
        gateway.advance(3600 * SECOND);
        ann = traded(&gateway, &ann.refresh_token).await;
    }
    gateway.advance(3599 * SECOND);
    ann = traded(&gateway, &ann.refresh_token).await;
    gateway.advance(SECOND);
    gateway.refresh(&ann.refresh_token).await.expect_problem(400, "session_expired");
    gateway.log_in(&ann.email, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_refresh_after_a_logout_is_refused() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    let next = traded(&gateway, &ann.refresh_token).await;
    gateway.post("/auth/logout").bearer(&next.token).send().await.expect(204);
    for token in [&next.refresh_token, &ann.refresh_token] {
        gateway.refresh(token).await.expect_problem(400, "session_expired");
    }
    // Which is no theft.
    let store = gateway.store();
    assert!(events_of(&store, EventKind::RefreshReuse).await.is_empty());
}

#[tokio::test]
async fn others_behind_the_address_cannot_keep_a_good_token_out() {
    let limits = "[limits]\nrefresh = { rate = \"2/minute\", by = \"ip\" }";
    let (_upstream, gateway) = with(|b| b.config(limits)).await;
    let mut ann = gateway.sign_up("ann").await;
    let first = ann.refresh_token.clone();
    let unknown = "A".repeat(43);
    gateway.refresh(&unknown).await.expect_problem(400, "refresh_token_not_found");
    gateway.refresh("no token at all").await.expect_problem(400, "refresh_token_not_found");
    let full = gateway.refresh(&unknown).await;
    full.expect_problem(429, "over_request_rate_limit");
    assert_eq!(full.header("retry-after"), Some("60"));
    for _ in 0..5 {
        ann = traded(&gateway, &ann.refresh_token).await;
        // So is one whose answer was lost.
        gateway.advance(SECOND);
        gateway.refresh(&unknown).await.expect_problem(429, "over_request_rate_limit");
    }
    // Reuse ends its session, whatever it is answered.
    gateway.advance(11 * SECOND);
    gateway.refresh(&first).await.expect_problem(429, "over_request_rate_limit");
    gateway.get_as(&ann.token, "/private/a").await.expect_problem(401, "session_not_found");
    let store = gateway.store();
    assert_eq!(events_of(&store, EventKind::RefreshReuse).await.len(), 1);
    gateway.refresh(&ann.refresh_token).await.expect_problem(429, "over_request_rate_limit");
    gateway.advance(60 * SECOND);
    for token in [&ann.refresh_token, &first] {
        let refused = gateway.refresh(token).await;
        refused.expect_problem(400, "refresh_token_already_used");
    }
    gateway.refresh(&first).await.expect_problem(429, "over_request_rate_limit");
}

#[tokio::test]
async fn a_session_that_refreshes_too_often_is_told_to_come_back() {
    let limits = "[limits]\nrefresh_session = { rate = \"2/minute\", by = \"session\" }";
    let (_upstream, gateway) = with(|b| b.config(limits)).await;
    let ann = gateway.sign_up("ann").await;
    let elsewhere = gateway.log_in(&ann.email, PASSWORD).await.expect(200).json();
    let elsewhere = Caller::from_session(&elsewhere);
    let first = traded(&gateway, &ann.refresh_token).await;
    let second = traded(&gateway, &first.refresh_token).await;
    gateway.advance(15 * SECOND);
    let refused = gateway.refresh(&second.refresh_token).await;
    // Clients keep their session at a 503, but not at a 429.
    refused.expect_problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), Some("45"));
    let policy = refused.header("ratelimit-policy");
    assert_eq!(policy, Some("\"refresh_session\";q=2;w=60"));
    gateway.get_as(&second.token, "/private/a").await.expect(200);
    gateway.refresh(&elsewhere.refresh_token).await.expect(200);
    gateway.advance(45 * SECOND);
    // It was not traded: it is the token of the last answer that still is good.
    traded(&gateway, &second.refresh_token).await;
    let store = gateway.store();
    assert_eq!(events_of(&store, EventKind::TokenRefreshed).await.len(), 4);
    assert!(events_of(&store, EventKind::RefreshReuse).await.is_empty());
}

#[tokio::test]
async fn the_database_holds_no_token() {
    let (_upstream, gateway) = gateway().await;
    let ann = gateway.sign_up("ann").await;
    let next = traded(&gateway, &ann.refresh_token).await;
    let mut bytes = Vec::new();
    for file in ["portcullis.db", "portcullis.db-wal"] {
        bytes.extend(std::fs::read(gateway.file(file)).unwrap_or_default());
    }
    let contains = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(contains(ann.email.as_bytes()), "the right files are read");
    for token in [&ann.refresh_token, &next.refresh_token] {
        let raw = URL_SAFE_NO_PAD.decode(token).expect("base64url");
        assert!(!contains(token.as_bytes()) && !contains(&raw));
    }
    assert!(!contains(PASSWORD.as_bytes()));
}

/// Twenty at once get one and the same successor.
async fn race(gateway: &TestGateway) {
    let ann = gateway.sign_up("ann").await;
    let mut token = ann.refresh_token.clone();
    for _ in 0..3 {
        let shown = (0..20).map(|_| gateway.refresh(&token));
        let answers = futures_util::future::join_all(shown).await;
        let sessions: Vec<Value> = answers.into_iter().map(|a| a.expect(200).json()).collect();
        let successors: std::collections::BTreeSet<_> =
            sessions.iter().map(|s| s["refresh_token"].as_str().expect("a token")).collect();
        assert_eq!(successors.len(), 1, "one successor");
        for session in &sessions {
            let token = session["access_token"].as_str().expect("a token");
            gateway.get_as(token, "/private/a").await.expect(200);
        }
        token = successors.into_iter().next().expect("one").to_owned();
        gateway.advance(60 * SECOND);
    }
}

#[tokio::test]
async fn twenty_refreshes_of_one_token_get_one_successor_on_sqlite() {
    let (_upstream, gateway) = gateway().await;
    race(&gateway).await;
    let store = gateway.store();
    assert_eq!(events_of(&store, EventKind::TokenRefreshed).await.len(), 3);
    assert!(events_of(&store, EventKind::RefreshReuse).await.is_empty());
}

#[tokio::test]
async fn twenty_refreshes_of_one_token_get_one_successor_on_postgres() {
    let database = postgres::database().await;
    let (_upstream, gateway) = with(|b| b.storage(&database.url)).await;
    race(&gateway).await;
    let store = open_store(&database.url);
    assert_eq!(events_of(&store, EventKind::TokenRefreshed).await.len(), 3);
    assert!(events_of(&store, EventKind::RefreshReuse).await.is_empty());
}
