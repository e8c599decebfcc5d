//! OAuth 2.0 for clients that know nothing of us but the issuer's address: the documents that lead
//! them, and the endpoints that those name.

use std::time::Duration;

use portcullis::model::EventKind;
use serde_json::{Value, json};

use crate::harness::{Answer, Caller, TestGateway, Upstream, events_of};

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
