//! Contract sections 2 and 7: what probes and monitoring see, on a listener of its own.

use portcullis::model::EventKind;
use portcullis::store::RetireKey;
use serde_json::json;

use crate::harness::{TestGateway, Upstream, noted, patiently, pause};

#[tokio::test]
async fn probes_are_answered_with_named_checks() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    gateway.admin_get("/health/live").await.expect(200);
    let ready = gateway.admin_get("/health/ready").await.expect(200);
    let text = ready.text();
    assert!(ready.json().is_object(), "{text}");
    for check in ["database", "counters", "sessions"] {
        assert!(text.contains(check), "no check named {check} in {text}");
    }
    gateway.admin_get("/unknown").await.expect(404);
    for target in ["/public/a", "/auth/health", "/api/u1/a"] {
        gateway.admin_get(target).await.expect(404);
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_gateway_without_a_key_that_signs_is_not_ready() {
    let upstream = Upstream::echo().await;
    // With key pairs in the database.
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    let ready = gateway.admin_get("/health/ready").await.expect(200).json();
    assert_eq!(ready["checks"]["signing_key"], "ok");
    let (store, now) = (gateway.store(), gateway.clock.now());
    let kid = &store.listed_keys().await.expect("keys")[0].kid;
    let event = noted(EventKind::SigningKeyChanged, now);
    let retired = store.retire_signing_key(kid, now, None, &event).await.expect("stored");
    assert_eq!(retired, RetireKey::Done);
    let checks = patiently("the end of the key", async {
        loop {
            let answer = gateway.admin_get("/health/ready").await;
            if answer.status == 503 {
                return answer.json()["checks"].clone();
            }
            pause().await;
        }
    })
    .await;
    assert_eq!(checks["signing_key"], "no key signs");
}

#[tokio::test]
async fn nothing_of_it_is_on_the_public_listener() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for target in ["/metrics", "/health/live", "/health/ready"] {
        gateway.get(target).send().await.expect_problem(404, "no_route");
    }
    gateway.get("/auth/health").send().await.expect(200);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn metrics_have_the_names_that_others_build_on() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(
            r#"
            [limits]
            one = { rate = "1/minute", by = "ip" }
            [[routes]]
            path = "/api/{user_id}/{*rest}"
            upstream = "app"
            [[routes]]
            path = "/once"
            upstream = "app"
            access = "public"
            limit = ["one"]
            "#,
        )
        .start()
        .await;
    let ann = gateway.sign_up("ann").await;
    let login = |password: &str| {
        let body = json!({ "email": ann.email, "password": password });
        gateway.post("/auth/login").json(&body).send()
    };
    login(crate::harness::PASSWORD).await.expect(200);
    login("Wrong-Password-1").await.expect(401);
    let target = format!("/api/{}/tasks", ann.id);
    gateway.get(&target).bearer(&ann.token).send().await.expect(200);
    gateway.get(&target).send().await.expect(401);
    gateway.get("/api/other/tasks").bearer(&ann.token).send().await.expect(403);
    gateway.get("/unknown").send().await.expect(404);
    gateway.get("/once").send().await.expect(200);
    gateway.get("/once").send().await.expect(429);
    let answer = gateway.admin_get("/metrics").await.expect(200);
    let kind = answer.header("content-type").expect("a type");
    assert!(kind.starts_with("text/plain") || kind.starts_with("application/openmetrics-text"));
    let text = answer.text();
    for name in [
        "http_requests_total",
        "http_request_duration_seconds",
        "http_requests_in_flight",
        "upstream_request_duration_seconds",
        "upstream_server_up",
        "auth_decisions_total",
        "logins_total",
        "rate_limited_total",
        "password_hash_duration_seconds",
        "password_hash_queue",
        "events_dropped_total",
        "revocation_staleness_seconds",
        "db_pool_connections",
        "counters_errors_total",
        "config_last_reload_success_timestamp_seconds",
        "connections",
        "build_info",
    ] {
        let is_sample = |line: &str| line.starts_with(&format!("portcullis_{name}"));
        assert!(text.lines().any(is_sample), "no portcullis_{name} in\n{text}");
    }
    let value = |name: &str, labels: &[&str]| -> f64 {
        let has = |line: &&str| {
            line.starts_with(&format!("portcullis_{name}{{"))
                && labels.iter().all(|label| line.contains(label))
        };
        let values = text.lines().filter(has).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().expect("a number")).sum()
    };
    let route = "route=\"/api/{user_id}/{*rest}\"";
    for (name, labels, expected) in [
        ("http_requests_total", &[route, "method=\"GET\"", "code=\"200\""][..], 1.0),
        ("http_requests_total", &[route, "code=\"401\""], 1.0),
        ("http_requests_total", &[route, "code=\"403\""], 1.0),
        ("http_requests_total", &["route=\"/once\"", "code=\"429\""], 1.0),
        ("http_requests_total", &["code=\"404\""], 1.0),
        ("rate_limited_total", &["limit=\"one\""], 1.0),
        ("upstream_request_duration_seconds_count", &["upstream=\"app\""], 2.0),
        ("http_request_duration_seconds_count", &[route], 3.0),
    ] {
        assert!((value(name, labels) - expected).abs() < 0.1, "{name} {labels:?} in\n{text}");
    }
    assert!(value("logins_total", &["outcome=\"success\""]) >= 1.0, "{text}");
    assert!(value("logins_total", &["outcome="]) >= 2.0, "{text}");
    assert!(value("auth_decisions_total", &["reason=\"owner_mismatch\""]) >= 1.0, "{text}");
    for secret in [&*ann.id, &ann.email, &ann.token] {
        assert!(!text.contains(secret), "labels are never taken from clients");
    }
}

#[tokio::test]
async fn labels_do_not_grow_with_what_clients_send() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for n in 0..20 {
        gateway.get(&format!("/unknown-{n}")).send().await.expect(404);
        gateway.get(&format!("/public/page-{n}")).send().await.expect(200);
        let method = format!("METHOD{n}");
        let answer = gateway.request(&method, "/public/a").send().await;
        assert!(matches!(answer.status, 400 | 405 | 501), "{}", answer.status);
    }
    let text = gateway.admin_get("/metrics").await.text();
    for word in ["unknown-", "page-", "METHOD"] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
}
