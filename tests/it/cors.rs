//! Contract section 3, `[cors]`: preflights are answered before any token check, for `/auth` and
//! for every route; who is not allowed is told nothing.

use crate::harness::{Answer, Request, TestGateway, Upstream, reply};

const APP: &str = "https://app.example.com";

const ALLOWED: &str =
    "[cors]\nallowed_origins = [\"https://app.example.com\", \"https://b.example.com\"]";

async fn gateway(config: &str) -> (Upstream, TestGateway) {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).config(config).start().await;
    (upstream, gateway)
}

fn preflight(gateway: &TestGateway, target: &str, origin: &str, method: &str) -> Request {
    let request = gateway.request("OPTIONS", target).header("Origin", origin);
    request
        .header("Access-Control-Request-Method", method)
        .header("Access-Control-Request-Headers", "authorization, content-type")
}

#[track_caller]
fn expect_nothing_granted(answer: &Answer) {
    let granted =
        |(name, _): &&(String, String)| name.to_ascii_lowercase().starts_with("access-control-");
    assert_eq!(answer.headers.0.iter().find(granted), None);
}

#[track_caller]
fn words<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let value = answer.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", answer.headers));
    value.split(',').map(str::trim).collect()
}

#[track_caller]
fn expect_varies_by_origin(answer: &Answer) {
    let lines = answer.headers.all("vary");
    let mut names = lines.iter().flat_map(|line| line.split(',')).map(str::trim);
    assert!(names.any(|name| name.eq_ignore_ascii_case("origin")), "{:?}", answer.headers);
}

#[tokio::test]
async fn preflights_are_answered_before_any_token_is_asked_for() {
    let (upstream, gateway) = gateway(ALLOWED).await;
    for (target, method) in [
        ("/auth/login", "POST"),
        ("/auth/v1/token?grant_type=password", "POST"),
        ("/auth/user", "PUT"),
        ("/api/u1/tasks", "DELETE"),
        ("/private/a", "GET"),
        ("/public/a", "PATCH"),
    ] {
        for origin in [APP, "https://b.example.com"] {
            let answer = preflight(&gateway, target, origin, method).send().await;
            assert_eq!(answer.status, 204, "{target}: {}", answer.text());
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            assert!(words(&answer, "access-control-allow-methods").contains(&method));
            let headers = words(&answer, "access-control-allow-headers");
            for name in ["authorization", "content-type", "apikey", "x-client-info"] {
                assert!(headers.contains(&name), "{name} in {headers:?}");
            }
            assert_eq!(answer.header("access-control-max-age"), Some("600"));
            assert!(!answer.headers.has("access-control-allow-credentials"));
            expect_varies_by_origin(&answer);
        }
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn an_origin_that_is_not_allowed_is_granted_nothing() {
    let (upstream, gateway) = gateway(ALLOWED).await;
    for origin in [
        "https://evil.example",
        "https://app.example.com.evil.example",
        "https://xapp.example.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://APP.example.com",
        "https://app.example.com/",
        "null",
        "",
        "*",
    ] {
        for target in ["/auth/login", "/api/u1/tasks", "/public/a"] {
            let answer = preflight(&gateway, target, origin, "POST").send().await;
            expect_nothing_granted(&answer);
            expect_varies_by_origin(&answer);
        }
        let answer = gateway.get("/public/a").header("Origin", origin).send().await.expect(200);
        expect_nothing_granted(&answer);
        let refused = gateway.get("/auth/user").header("Origin", origin).send().await.expect(401);
        expect_nothing_granted(&refused);
    }
    assert!(upstream.seen().iter().all(|seen| seen.method == "GET"));
}

#[tokio::test]
async fn answers_and_refusals_may_be_read_by_an_allowed_origin() {
    let (_upstream, gateway) = gateway(ALLOWED).await;
    let ann = gateway.sign_up("ann").await;
    for (target, status) in [
        ("/public/a", 200),
        ("/private/a", 401),
        ("/unknown", 404),
        ("/public/../a", 400),
        ("/auth/health", 200),
        ("/auth/user", 401),
        ("/auth/unknown", 404),
        ("/auth/.well-known/jwks.json", 200),
    ] {
        let answer = gateway.get(target).header("Origin", APP).send().await.expect(status);
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP), "{target}");
        let exposed = words(&answer, "access-control-expose-headers");
        for name in ["retry-after", "x-request-id", "x-supabase-api-version"] {
            assert!(exposed.contains(&name), "{name} in {exposed:?}");
        }
        expect_varies_by_origin(&answer);
        // A cache must keep the answer for those without an origin apart, too.
        let plain = gateway.get(target).send().await.expect(status);
        expect_nothing_granted(&plain);
        expect_varies_by_origin(&plain);
    }
    let own = format!("/api/{}/x", ann.id);
    let answer =
        gateway.get(&own).bearer(&ann.token).header("Origin", APP).send().await.expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
}

#[tokio::test]
async fn what_the_upstream_grants_is_replaced() {
    let answer = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\n\
         Access-Control-Allow-Credentials: true\r\nVary: accept\r\nContent-Length: 2\r\n\r\nok";
    let upstream = Upstream::scripted(move |_: &_| reply(answer)).await;
    let gateway = TestGateway::builder().upstream("app", &upstream).config(ALLOWED).start().await;
    let allowed = gateway.get("/public/a").header("Origin", APP).send().await.expect(200);
    assert_eq!(allowed.header("access-control-allow-origin"), Some(APP));
    assert!(!allowed.headers.has("access-control-allow-credentials"));
    let other = gateway.get("/public/a").header("Origin", "https://evil.example").send().await;
    expect_nothing_granted(&other.expect(200));
    expect_varies_by_origin(&allowed);
}

#[tokio::test]
async fn credentials_are_granted_where_the_configuration_says_so() {
    let (_upstream, gateway) = gateway(&format!("{ALLOWED}\nallow_credentials = true")).await;
    let answer = preflight(&gateway, "/auth/login", APP, "POST").send().await.expect(204);
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    let answer = preflight(&gateway, "/auth/login", "https://evil.example", "POST").send().await;
    expect_nothing_granted(&answer);
}

#[tokio::test]
async fn without_origins_it_is_off() {
    let (upstream, gateway) = gateway("").await;
    let answer = preflight(&gateway, "/public/a", APP, "GET").send().await.expect(200);
    expect_nothing_granted(&answer);
    assert_eq!(upstream.only().method, "OPTIONS", "an API that does its own CORS gets them");
    preflight(&gateway, "/private/a", APP, "GET")
        .send()
        .await
        .expect_problem(401, "no_authorization");
    preflight(&gateway, "/auth/login", APP, "POST")
        .send()
        .await
        .expect_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn an_options_request_that_is_no_preflight_is_a_request_like_any_other() {
    let (upstream, gateway) = gateway(ALLOWED).await;
    gateway.request("OPTIONS", "/private/a").header("Origin", APP).send().await.expect(401);
    let no_origin = gateway.request("OPTIONS", "/private/a");
    no_origin.header("Access-Control-Request-Method", "GET").send().await.expect(401);
    assert_eq!(upstream.count(), 0);
    gateway.request("OPTIONS", "/public/a").header("Origin", APP).send().await.expect(200);
    assert_eq!(upstream.only().method, "OPTIONS");
}

#[tokio::test]
async fn a_route_may_hand_preflights_to_its_upstream() {
    let granted = "HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Methods: PURGE\r\n\r\n";
    let upstream = Upstream::scripted(move |_: &_| reply(granted)).await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(
            r#"
            [cors]
            allowed_origins = ["https://app.example.com"]
            [[routes]]
            path = "/own/{user_id}/{*rest}"
            upstream = "app"
            preflight = "forward"
            [[routes]]
            path = "/other/{*rest}"
            upstream = "app"
            [[routes]]
            path = "/closed/{*rest}"
            upstream = "app"
            access = "deny"
            preflight = "forward"
            "#,
        )
        .start()
        .await;
    let request = preflight(&gateway, "/own/u1/a", APP, "PUT").header("X-User-Id", "admin");
    let answer = request.send().await.expect(204);
    assert_eq!(answer.header("access-control-allow-methods"), Some("PURGE"));
    let seen = upstream.only();
    assert_eq!((&*seen.method, &*seen.target), ("OPTIONS", "/own/u1/a"));
    assert_eq!(seen.header("access-control-request-method"), Some("PUT"));
    assert_eq!(seen.header("x-user-id"), None, "nobody was identified");

    let answer = preflight(&gateway, "/other/a", APP, "PUT").send().await.expect(204);
    assert_ne!(answer.header("access-control-allow-methods"), Some("PURGE"));
    // Only the preflight is let through.
    gateway.request("OPTIONS", "/own/u1/a").send().await.expect(401);
    gateway.request("PUT", "/own/u1/a").header("Origin", APP).send().await.expect(401);
    assert_eq!(upstream.count(), 1);
    let closed = preflight(&gateway, "/closed/a", APP, "PUT").send().await;
    assert_eq!(upstream.count(), 1, "what is closed stays closed: {}", closed.status);
}
