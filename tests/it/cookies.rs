//! Sessions in cookies: how they are handed out and taken back, what they are good for, which pages
//! may act by them, and that no upstream sees or sets one.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::model::EventKind;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::admin_api::{ASKED, give};
use crate::factors::App;
use crate::harness::h2raw::{Fields, H2};
use crate::harness::{
    Answer, Caller, PASSWORD, Request, Seen, Step, TestGateway, Upstream, events_of, patiently,
    reply,
};
use crate::links::{CHALLENGE, Post, VERIFIER};

const ACCESS: &str = "__Host-portcullis-access";
const REFRESH: &str = "__Host-portcullis-refresh";
const ON: &str = "[cookies]\nenabled = true\n";
/// HTTP/2 without TLS.
const H2C: &str = "[server]\nh2c = true\n";
const REFRESHING: &str = "/auth/token?grant_type=refresh_token&cookies=true";
/// The attributes of what is taken back.
const CLEARED: &str = "; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax";

/// What a browser keeps for the gateway.
#[derive(Clone, Debug, Default)]
struct Jar(BTreeMap<String, String>);

impl Jar {
    /// What an answer sets and takes back. Every cookie of ours must be one that `__Host-` allows.
    #[track_caller]
    fn take(&mut self, answer: &Answer) {
        for line in answer.headers.all("set-cookie") {
            let mut parts = line.split("; ");
            let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).expect("a pair");
            let attributes: Vec<&str> = parts.collect();
            assert!(name.starts_with("__Host-portcullis-"), "{line}");
            assert_eq!(attributes[0], "Path=/", "{line}");
            assert_eq!(attributes[2..4], ["HttpOnly", "Secure"], "{line}");
            assert!(line.len() <= 4096, "{} bytes", line.len());
            if attributes[1] == "Max-Age=0" {
                assert_eq!(value, "");
                self.0.remove(name);
            } else {
                self.0.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    fn of(answer: &Answer) -> Self {
        let mut jar = Self::default();
        jar.take(answer);
        jar
    }

    fn access(&self) -> &str {
        &self.0[ACCESS]
    }

    fn refresh(&self) -> &str {
        &self.0[REFRESH]
    }

    /// `Cookie`
    fn line(&self) -> String {
        let pairs = self.0.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("; ")
    }
}

trait Browsing {
    /// With the cookies of `jar`, if there are any.
    fn with_cookies(self, jar: &Jar) -> Self;
    /// As a page of the gateway's own origin sends it.
    fn by_own_page(self) -> Self;
}

impl Browsing for Request {
    fn with_cookies(self, jar: &Jar) -> Self {
        if jar.0.is_empty() { self } else { self.header("Cookie", jar.line()) }
    }

    fn by_own_page(self) -> Self {
        self.header("Sec-Fetch-Site", "same-origin")
    }
}

async fn gateway(config: &str) -> (Upstream, TestGateway) {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).config(config).start().await;
    (upstream, gateway)
}

impl TestGateway {
    /// Signs up for cookies; gives the user's id.
    async fn join(&self, name: &str) -> (String, Jar) {
        let body = json!({ "email": format!("{name}@example.com"), "password": PASSWORD });
        let request = self.post("/auth/signup?cookies=true").by_own_page().json(&body);
        let answer = request.send().await.expect(201);
        let id = answer.json()["user"]["id"].as_str().expect("an id").to_owned();
        (id, Jar::of(&answer))
    }

    async fn see(&self, jar: &Jar, target: &str) -> Answer {
        self.get(target).with_cookies(jar).send().await
    }
}

/// Checks that a session is in the cookies and not in the body.
#[track_caller]
fn expect_in_cookies(answer: &Answer) -> Jar {
    let jar = Jar::of(answer);
    assert_eq!(jar.0.len(), 2, "{:?}", answer.headers);
    let text = answer.text();
    assert!(!text.contains(jar.access()) && !text.contains(jar.refresh()), "{text}");
    let session = answer.json();
    let mut names: Vec<_> = session.as_object().expect("an object").keys().collect();
    names.sort();
    assert_eq!(names, ["expires_at", "expires_in", "token_type", "user"]);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    jar
}

#[track_caller]
fn expect_cleared(answer: &Answer) {
    let cleared = [format!("{ACCESS}={CLEARED}"), format!("{REFRESH}={CLEARED}")];
    assert_eq!(answer.headers.all("set-cookie"), cleared);
}

#[track_caller]
fn expect_no_cookies(answer: &Answer) {
    assert_eq!(answer.headers.all("set-cookie"), [""; 0], "{}", answer.text());
}

// --- Handing out -----------------------------------------------------------------------------

#[tokio::test]
async fn a_session_is_set_in_cookies_and_is_not_in_the_body() {
    let (_upstream, gateway) = gateway(ON).await;
    let body = json!({ "email": "ann@example.com", "password": PASSWORD });
    let mut jars = Vec::new();
    for (target, status) in [
        ("/auth/signup?cookies=true", 201),
        ("/auth/login?cookies=true", 200),
        ("/auth/v1/token?grant_type=password&cookies=true", 200),
    ] {
        let answer = gateway.post(target).by_own_page().json(&body).send().await.expect(status);
        let jar = expect_in_cookies(&answer);
        let lines = [
            format!(
                "{ACCESS}={}; Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax",
                jar.access()
            ),
            // An unused session ends after seven days.
            format!(
                "{REFRESH}={}; Path=/; Max-Age=604800; HttpOnly; Secure; SameSite=Lax",
                jar.refresh()
            ),
        ];
        assert_eq!(answer.headers.all("set-cookie"), lines, "{target}");
        jars.push(jar);
    }
    // Near the end of the session the cookie does not promise more than that.
    let mut jar = jars.remove(0);
    for _ in 0..4 {
        gateway.advance(Duration::from_hours(6 * 24));
        let answer = gateway.post(REFRESHING).with_cookies(&jar).by_own_page().send().await;
        jar = expect_in_cookies(&answer.expect(200));
    }
    gateway.advance(Duration::from_hours(3 * 24));
    let answer = gateway.post(REFRESHING).with_cookies(&jar).by_own_page().send().await;
    let answer = answer.expect(200);
    let lines = answer.headers.all("set-cookie");
    assert!(lines[1].contains(&format!("; Max-Age={};", 3 * 24 * 3600)), "{lines:?}");

    // Who does not ask for cookies gets none.
    for query in ["", "?cookies=false", "?cookies="] {
        let plain = gateway.post(&format!("/auth/login{query}")).json(&body).send().await;
        expect_no_cookies(&plain);
        Caller::from_session(&plain.expect(200).json());
    }
    for query in ["?cookies=yes", "?cookies=1", "?cookies=true&cookies=true"] {
        let odd = gateway.post(&format!("/auth/login{query}")).by_own_page().json(&body);
        odd.send().await.expect_problem(422, "validation_failed");
    }
}

#[tokio::test]
async fn links_and_codes_lead_to_cookies_too() {
    let post = Post::start(ON).await;
    let wish = json!({ "email": "ann@example.com" });
    post.ask("/auth/otp", wish.clone()).await;
    let letter = post.letter("ann@example.com", "magic_link").await;
    let target = "/auth/verify?cookies=true";
    let shown = json!({ "type": "magiclink", "token_hash": letter.token });
    let foreign = post.gateway.post(target).json(&shown).send().await;
    foreign.expect_problem(403, "cross_site_request");
    let form = post.gateway.post(target).by_own_page();
    let form = form.form(&[("token", &letter.token), ("type", "magiclink")]).send().await;
    form.expect_problem(422, "validation_failed");
    let verified = post.gateway.post(target).by_own_page().json(&shown).send().await.expect(200);
    expect_in_cookies(&verified);

    post.ask("/auth/otp", wish).await;
    let letter = post.letter("ann@example.com", "magic_link").await;
    let shown = json!({ "type": "email", "email": "ann@example.com", "token": letter.code });
    let verified = post.gateway.post(target).by_own_page().json(&shown).send().await.expect(200);
    expect_in_cookies(&verified);

    let wish = json!({
        "email": "ann@example.com", "code_challenge": CHALLENGE, "code_challenge_method": "s256",
    });
    post.ask("/auth/otp", wish).await;
    let letter = post.letter("ann@example.com", "magic_link").await;
    let form = post.gateway.post("/auth/verify");
    let form = form.form(&[("token", &letter.token), ("type", "magiclink")]).send().await;
    let form = form.expect(303);
    let place = url::Url::parse(form.header("location").expect("a place")).expect("a URL");
    let (_, code) = place.query_pairs().find(|(name, _)| name == "code").expect("a code");
    let body = json!({ "auth_code": code, "code_verifier": VERIFIER });
    let target = "/auth/token?grant_type=pkce&cookies=true";
    let traded = post.gateway.post(target).by_own_page().json(&body).send().await.expect(200);
    expect_in_cookies(&traded);
}

#[tokio::test]
async fn a_second_factor_shown_by_a_cookie_is_answered_in_cookies_whatever_is_asked() {
    let (_upstream, gateway) = gateway(ON).await;
    let (_, mut jar) = gateway.join("ann").await;
    let act = |jar: &Jar, target: &str| gateway.post(target).with_cookies(jar).by_own_page();
    let body = json!({ "factor_type": "totp", "friendly_name": "phone" });
    let enrolled = act(&jar, "/auth/factors").json(&body).send().await.expect(200);
    let app = App::of(&enrolled.json());
    for query in ["", "?cookies=false", "?cookies=true"] {
        gateway.advance(Duration::from_secs(30));
        let challenge = act(&jar, &format!("/auth/factors/{}/challenge", app.factor));
        let challenge = challenge.send().await.expect(200).json();
        let body = json!({ "challenge_id": challenge["id"], "code": app.code(&gateway, 0) });
        let target = format!("/auth/factors/{}/verify{query}", app.factor);
        let shown = act(&jar, &target).json(&body).send().await.expect(200);
        // A script could read what is in a body, and go on without the browser.
        jar = expect_in_cookies(&shown);
    }
    gateway.see(&jar, "/private/x").await.expect(200);
}

#[tokio::test]
async fn a_token_for_a_cookie_fits_whatever_the_user_notes() {
    let (upstream, gateway) = gateway(ON).await;
    let long = format!("{}@{}.example.com", "a".repeat(64), "b".repeat(60));
    let body =
        json!({ "email": long, "password": PASSWORD, "data": { "notes": "n".repeat(2000) } });
    let plain = gateway.post("/auth/signup").json(&body).send().await.expect(201).json();
    let in_body = plain["access_token"].as_str().expect("a token");
    assert!(in_body.len() > 2700 && claims(in_body)["user_metadata"]["notes"].is_string());
    let body = json!({ "email": long, "password": PASSWORD });
    let answer = gateway.post("/auth/login?cookies=true").by_own_page().json(&body).send().await;
    let jar = expect_in_cookies(&answer.expect(200));
    let claims = claims(jar.access());
    assert_eq!(claims["user_metadata"], json!({}));
    assert_eq!(claims["app_metadata"], json!({ "roles": [] }));
    assert_eq!(claims["email"], long);
    gateway.see(&jar, "/private/x").await.expect(200);
    assert_eq!(upstream.only().header("x-user-id"), claims["sub"].as_str());
}

fn claims(token: &str) -> Value {
    let text = token.split('.').nth(1).expect("a payload");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64url")).expect("JSON")
}

/// Longer and longer, until no token takes them all.
fn many_roles(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("a-role-with-a-long-name-number-{n:04}")).collect()
}

#[tokio::test]
async fn a_session_whose_token_does_not_fit_does_not_begin_nor_end_another() {
    let (_upstream, gateway) = gateway(&format!(
        "{ON}[sessions]\nmax_per_user = 2\n[limits]\nlogin = {{ rate = \"99/hour\", by = \"ip\" }}\n"
    ))
    .await;
    let (id, jar) = gateway.join("ann").await;
    let give_many = async |count: usize| {
        let roles = many_roles(count);
        give(&gateway, &id, &roles.iter().map(String::as_str).collect::<Vec<_>>()).await;
    };
    let login = json!({ "email": "ann@example.com", "password": PASSWORD });
    let post = |target: &str| gateway.post(target).by_own_page().json(&login).send();
    // Of sessions of one moment, which is the oldest is left to their ids.
    gateway.advance(Duration::from_mins(1));
    let kept = expect_in_cookies(&post("/auth/login?cookies=true").await.expect(200));
    gateway.advance(Duration::from_mins(1));
    let user = id.parse().expect("an id");
    let store = gateway.store();
    let running = async || {
        let sessions = store.sessions_of(&user, gateway.clock.now()).await.expect("an answer");
        sessions.into_iter().map(|session| session.id).collect::<Vec<_>>()
    };
    let before = running().await;
    assert_eq!(before.len(), 2);

    // Too many for a cookie, then for a bearer as well.
    give_many(70).await;
    for (roles, targets) in [
        (70, &["/auth/login?cookies=true", "/auth/token?grant_type=password&cookies=true"][..]),
        (300, &["/auth/login?cookies=true", "/auth/login"]),
    ] {
        give_many(roles).await;
        for target in targets {
            let refused = post(target).await;
            refused.expect_problem(422, "token_too_large");
            expect_no_cookies(&refused);
            assert_eq!(running().await, before, "{target}");
        }
    }
    let failed = events_of(&store, EventKind::LoginFailed).await;
    assert_eq!(failed.len(), 4);
    for event in failed {
        assert_eq!(event.event.reason.as_deref(), Some("token_too_large"));
        assert_eq!((event.event.user_id.as_ref(), event.event.session_id), (Some(&user), None));
    }

    // A refresh is refused without taking anything away.
    let refresh = || gateway.post(REFRESHING).with_cookies(&kept).by_own_page().send();
    let refused = refresh().await;
    refused.expect_problem(422, "token_too_large");
    expect_no_cookies(&refused);
    give_many(70).await;
    refresh().await.expect_problem(422, "token_too_large");
    // As a bearer they fit, so it begins, and the oldest ends for it.
    post("/auth/login").await.expect(200);
    assert_ne!(running().await, before);
    give_many(1).await;
    expect_in_cookies(&refresh().await.expect(200));
    assert_eq!(gateway.post(REFRESHING).with_cookies(&jar).by_own_page().send().await.status, 400);
}

#[tokio::test]
async fn while_they_are_off_a_cookie_is_nothing() {
    let (upstream, gateway) = gateway("").await;
    let body = json!({ "email": "ann@example.com", "password": PASSWORD });
    for target in ["/auth/signup", "/auth/login", "/auth/token?grant_type=password"] {
        let mark = if target.contains('?') { '&' } else { '?' };
        let request = gateway.post(&format!("{target}{mark}cookies=true")).by_own_page();
        let refused = request.json(&body).send().await;
        refused.expect_problem(400, "cookies_disabled");
        expect_no_cookies(&refused);
    }
    gateway.post(REFRESHING).by_own_page().send().await.expect_problem(400, "cookies_disabled");
    let ann = gateway.sign_up("ann").await;
    let jar = Jar(BTreeMap::from([(ACCESS.to_owned(), ann.token.clone())]));
    for target in ["/private/x", "/auth/user"] {
        gateway.see(&jar, target).await.expect_problem(401, "no_authorization");
        let beside = gateway.get(target).with_cookies(&jar).bearer(&ann.token);
        beside.send().await.expect(200);
    }
    // To whom they mean nothing, any word for them does.
    for query in ["cookies=foo", "cookies=1", "cookies=false"] {
        let plain = gateway.post(&format!("/auth/login?{query}")).json(&body).send().await;
        expect_no_cookies(&plain);
        Caller::from_session(&plain.expect(200).json());
    }
    // It is a token all the same, which a browser may still have from before.
    assert_eq!(upstream.only().header("cookie"), None);
}

#[tokio::test]
async fn a_reload_switches_them() {
    let (_upstream, gateway) = gateway("").await;
    let body = json!({ "email": "ann@example.com", "password": PASSWORD });
    let join = || gateway.post("/auth/signup?cookies=true").by_own_page().json(&body);
    join().send().await.expect_problem(400, "cookies_disabled");
    gateway.configure("[cookies]\nenabled = true\nsame_site = \"strict\"");
    gateway.reload().await.expect(200);
    let answer = join().send().await.expect(201);
    let jar = expect_in_cookies(&answer);
    assert!(answer.headers.all("set-cookie").iter().all(|line| line.ends_with("SameSite=Strict")));
    gateway.see(&jar, "/private/x").await.expect(200);
    gateway.configure("[cookies]\nenabled = false");
    gateway.reload().await.expect(200);
    gateway.see(&jar, "/private/x").await.expect_problem(401, "no_authorization");
    gateway.see(&jar, "/auth/user").await.expect_problem(401, "no_authorization");

    // Who logs out now means what the browser still has.
    let out = |jar: &Jar| gateway.post("/auth/logout").with_cookies(jar);
    let evil = out(&jar).header("Sec-Fetch-Site", "cross-site").send().await;
    evil.expect_problem(403, "cross_site_request");
    expect_no_cookies(&evil);
    let beside = out(&jar).by_own_page().bearer("nonsense").send().await;
    beside.expect_problem(401, "bad_jwt");
    expect_no_cookies(&beside);
    let taken_back = |answer: &Answer| {
        let lines = answer.headers.all("set-cookie").join("\n");
        assert_eq!(lines.matches("=; Path=/; Max-Age=0; ").count(), 2, "{lines}");
    };
    let ended = out(&jar).by_own_page().send().await.expect(204);
    taken_back(&ended);
    gateway.get("/auth/user").bearer(jar.access()).send().await.expect(401);
    let mut half = jar.clone();
    half.0.remove(REFRESH);
    let refused = out(&half).by_own_page().send().await;
    refused.expect_problem(401, "no_authorization");
    taken_back(&refused);
}

// --- Using -----------------------------------------------------------------------------------

#[tokio::test]
async fn the_access_cookie_is_the_token_on_routes_and_account_endpoints() {
    let (upstream, gateway) = gateway(ON).await;
    let (id, jar) = gateway.join("ann").await;
    for target in [&*format!("/api/{id}/x"), "/private/x", "/optional/x"] {
        gateway.see(&jar, target).await.expect(200);
        let seen = upstream.last();
        assert_eq!(seen.header("x-user-id"), Some(&*id), "{target}");
        assert!(seen.header("x-session-id").is_some());
        assert!(!seen.headers.has("authorization") && !seen.headers.has("cookie"), "{target}");
    }
    gateway.see(&jar, "/api/other/x").await.expect_problem(403, "owner_mismatch");
    gateway.see(&jar, "/public/x").await.expect(200);
    assert_eq!(upstream.last().header("x-user-id"), None);
    assert_eq!(upstream.last().header("cookie"), None);
    let own = format!("/api/{id}/x");
    let posted = gateway.post(&own).with_cookies(&jar).by_own_page().body("x").send().await;
    posted.expect(200);
    assert_eq!(upstream.last().header("x-user-id"), Some(&*id));

    assert_eq!(gateway.see(&jar, "/auth/user").await.expect(200).json()["id"], *id);
    let sessions = gateway.see(&jar, "/auth/sessions").await.expect(200).json();
    assert_eq!(sessions["sessions"][0]["current"], true);
    gateway.see(&jar, "/auth/events").await.expect(200);
    let body = json!({ "data": { "name": "Ann" } });
    let put = gateway.request("PUT", "/auth/user").with_cookies(&jar).by_own_page().json(&body);
    assert_eq!(put.send().await.expect(200).json()["user_metadata"]["name"], "Ann");

    for bad in ["nonsense.of.token", "__Host-portcullis-access=x", ""] {
        let line = format!("{ACCESS}={bad}");
        for target in ["/private/x", "/optional/x", "/auth/user"] {
            let refused = gateway.get(target).header("Cookie", &line).send().await;
            assert!(matches!(refused.status, 400 | 401), "{bad}: {}", refused.text());
        }
    }
}

/// Programs have no browser: what they show in a cookie is none of ours.
#[tokio::test]
async fn an_api_key_in_a_cookie_is_no_key() {
    let config = "[api_keys]\nself_service = true\n[[routes]]\npath = \"/jobs\"\n\
                  upstream = \"app\"\napi_keys = true\n";
    let (upstream, gateway) = gateway(&format!("{ON}{config}")).await;
    let (_, jar) = gateway.join("ann").await;
    let body = json!({ "name": "a job", "scopes": [] });
    let made = gateway.post("/auth/api_keys").with_cookies(&jar).by_own_page().json(&body);
    let made = made.send().await.expect(201).json();
    let key = made["key"].as_str().expect("a key");
    gateway.get("/jobs").bearer(key).send().await.expect(200);
    let cookie = format!("{ACCESS}={key}");
    gateway.get("/jobs").header("Cookie", &cookie).send().await.expect_problem(401, "bad_jwt");
    let own = gateway.get("/auth/user").header("Cookie", &cookie).send().await;
    assert_eq!(own.status, 401, "{}", own.text());
    assert_eq!(upstream.count(), 1);

    // Nor is a token that was got for one.
    let form =
        [("grant_type", "client_credentials"), ("client_id", &key[..12]), ("client_secret", key)];
    let got = gateway.post("/auth/oauth/token").form(&form).send().await.expect(200).json();
    let token = got["access_token"].as_str().expect("a token");
    gateway.get("/jobs").bearer(token).send().await.expect(200);
    let cookie = format!("{ACCESS}={token}");
    gateway.get("/jobs").header("Cookie", &cookie).send().await.expect_problem(401, "bad_jwt");
    let own = gateway.get("/auth/user").header("Cookie", &cookie).send().await;
    own.expect_problem(401, "api_key_not_accepted");
    assert_eq!(upstream.count(), 2);
    // A browser that has one all the same gets rid of it.
    for value in [key, token] {
        let out = gateway.post("/auth/logout").header("Cookie", format!("{ACCESS}={value}"));
        let out = out.by_own_page().send().await;
        out.expect_problem(401, "api_key_not_accepted");
        expect_cleared(&out);
    }
    gateway.get("/jobs").bearer(key).send().await.expect(200);
}

#[tokio::test]
async fn two_carriers_are_refused() {
    let routes = r#"
    [[routes]]
    path = "/private/{*rest}"
    upstream = "app"
    websocket_token = true
    [[routes]]
    path = "/bearer/{*rest}"
    upstream = "app"
    cookies = false
    [[routes]]
    path = "/corp/{*rest}"
    upstream = "app"
    issuers = ["corp"]
    "#;
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream).foreign_issuer();
    let gateway = builder.config(&format!("{ON}{routes}")).start().await;
    let (_, jar) = gateway.join("ann").await;
    let ben = gateway.sign_up("ben").await;
    for target in ["/private/x", "/auth/user"] {
        for authorization in [format!("Bearer {}", ben.token), "Basic YTpi".to_owned()] {
            let both = gateway.get(target).with_cookies(&jar);
            let both = both.header("Authorization", &authorization).send().await;
            both.expect_problem(400, "invalid_request");
        }
        let twice = [
            vec![format!("{}; {}", jar.line(), jar.line())],
            vec![jar.line(), jar.line()],
            vec![format!("{}; {ACCESS}=x", jar.line())],
            vec![format!("{ACCESS}; {}", jar.line())],
        ];
        for lines in twice {
            let request = gateway.get(target);
            let request =
                lines.iter().fold(request, |request, line| request.header("Cookie", line));
            request.send().await.expect_problem(400, "invalid_request");
        }
    }
    let handshake = gateway.get("/private/x").with_cookies(&jar).by_own_page();
    let handshake = handshake
        .header("Connection", "upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Protocol", format!("bearer.{}", ben.token));
    handshake.send().await.expect_problem(400, "invalid_request");
    assert_eq!(upstream.count(), 0);

    // Where a cookie is no token, a token beside it is the only one.
    gateway.see(&jar, "/bearer/x").await.expect_problem(401, "no_authorization");
    let beside = gateway.get("/bearer/x").with_cookies(&jar).bearer(&ben.token).send().await;
    beside.expect(200);
    assert_eq!(upstream.last().header("x-user-id"), Some(&*ben.id));
    assert_eq!(upstream.last().header("cookie"), None);
    let corp = gateway.foreign_token("clerk").sign();
    let beside = gateway.get("/corp/x").with_cookies(&jar).bearer(corp).send().await;
    beside.expect(200);
    assert_eq!(upstream.last().header("x-user-id"), Some("clerk"));
}

#[tokio::test]
async fn a_page_refreshes_an_expired_session_without_seeing_a_token() {
    let (upstream, gateway) =
        gateway(&format!("{ON}[limits]\nrefresh = {{ rate = \"1/hour\", by = \"ip\" }}\n")).await;
    let (_, mut jar) = gateway.join("ann").await;
    gateway.advance(Duration::from_hours(25));
    for target in ["/private/x", "/optional/x", "/auth/user"] {
        gateway.see(&jar, target).await.expect_problem(401, "bad_jwt");
    }
    assert_eq!(upstream.count(), 0);
    let old = jar.clone();
    let refreshed = gateway.post(REFRESHING).with_cookies(&jar).by_own_page().send().await;
    let refreshed = refreshed.expect(200);
    let fresh = expect_in_cookies(&refreshed);
    assert!(fresh.access() != jar.access() && fresh.refresh() != jar.refresh());
    jar.take(&refreshed);
    gateway.see(&jar, "/private/x").await.expect(200);
    // Another tab asked at the same time: it gets the same successor. With an empty object, too.
    let request = gateway.post(REFRESHING).with_cookies(&old).by_own_page().json(&json!({}));
    let again = expect_in_cookies(&request.send().await.expect(200));
    assert_eq!(again.refresh(), jar.refresh());

    // Both would be two.
    let body = json!({ "refresh_token": jar.refresh() });
    let both = gateway.post(REFRESHING).with_cookies(&jar).by_own_page().json(&body).send().await;
    both.expect_problem(400, "invalid_request");
    expect_no_cookies(&both);
    let twice = gateway.post(REFRESHING).by_own_page();
    let twice = twice.header("Cookie", format!("{0}; {0}", jar.line())).send().await;
    twice.expect_problem(400, "invalid_request");
    // What is in a cookie never comes out in a body, so without cookies=true it is not looked at.
    let plain = gateway.post("/auth/token?grant_type=refresh_token").with_cookies(&jar);
    let plain = plain.by_own_page().send().await;
    plain.expect_problem(400, "bad_json");
    // Pages ask without knowing whether there is a cookie. Nothing is guessed, so nothing counts.
    for _ in 0..3 {
        let none = gateway.post(REFRESHING).by_own_page().send().await;
        none.expect_problem(400, "refresh_token_not_found");
        expect_no_cookies(&none);
    }
    // An app that moves to cookies shows its token once in the body.
    let ben = gateway.sign_up("ben").await;
    let body = json!({ "refresh_token": ben.refresh_token });
    let moved = gateway.post(REFRESHING).by_own_page().json(&body).send().await.expect(200);
    let jar = expect_in_cookies(&moved);
    assert_eq!(gateway.see(&jar, "/auth/user").await.expect(200).json()["id"], *ben.id);
}

// --- Taking back -----------------------------------------------------------------------------

#[tokio::test]
async fn a_refused_refresh_takes_the_cookies_back() {
    let (_upstream, gateway) = gateway(&format!(
        "{ON}[limits]\nrefresh_session = {{ rate = \"3/hour\", by = \"session\" }}\n"
    ))
    .await;
    let refresh = |jar: &Jar| gateway.post(REFRESHING).with_cookies(jar).by_own_page().send();

    // The session was ended elsewhere.
    let (_, jar) = gateway.join("ann").await;
    let elsewhere = gateway.log_in("ann@example.com", PASSWORD).await.expect(200).json();
    let elsewhere = Caller::from_session(&elsewhere);
    let all = gateway.post("/auth/logout?scope=global").bearer(&elsewhere.token).send().await;
    expect_no_cookies(&all.expect(204));
    gateway.see(&jar, "/private/x").await.expect_problem(401, "session_not_found");
    let refused = refresh(&jar).await;
    refused.expect_problem(400, "session_expired");
    expect_cleared(&refused);

    // A token that was used, and whose successor was used.
    let (_, first) = gateway.join("ben").await;
    let second = Jar::of(&refresh(&first).await.expect(200));
    gateway.advance(Duration::from_mins(1));
    let _third = Jar::of(&refresh(&second).await.expect(200));
    gateway.advance(Duration::from_mins(1));
    let refused = refresh(&first).await;
    refused.expect_problem(400, "refresh_token_already_used");
    expect_cleared(&refused);

    let unknown = Jar(BTreeMap::from([(REFRESH.to_owned(), "A".repeat(43))]));
    for jar in [unknown, Jar(BTreeMap::from([(REFRESH.to_owned(), "none".to_owned())]))] {
        let refused = refresh(&jar).await;
        refused.expect_problem(400, "refresh_token_not_found");
        expect_cleared(&refused);
    }

    // Too often is no end: the session stays.
    let (_, mut jar) = gateway.join("cleo").await;
    for _ in 0..3 {
        jar.take(&refresh(&jar).await.expect(200));
    }
    let later = refresh(&jar).await;
    later.expect_problem(503, "unavailable");
    expect_no_cookies(&later);
    // What was shown in the body says nothing of the cookies.
    let body = json!({ "refresh_token": "A".repeat(43) });
    let other = gateway.post(REFRESHING).by_own_page().json(&body).send().await;
    other.expect_problem(400, "refresh_token_not_found");
    expect_no_cookies(&other);
}

#[tokio::test]
async fn logging_out_ends_the_session_and_takes_the_cookies_back() {
    let (_upstream, gateway) = gateway(ON).await;
    let out = |jar: &Jar, query: &str| {
        gateway.post(&format!("/auth/logout{query}")).with_cookies(jar).by_own_page().send()
    };
    let (_, jar) = gateway.join("ann").await;
    let login = json!({ "email": "ann@example.com", "password": PASSWORD });
    let login = || gateway.post("/auth/login?cookies=true").by_own_page().json(&login).send();
    let other = expect_in_cookies(&login().await.expect(200));

    // The others: this one goes on.
    expect_no_cookies(&out(&jar, "?scope=others").await.expect(204));
    gateway.see(&jar, "/private/x").await.expect(200);
    gateway.see(&other, "/private/x").await.expect_problem(401, "session_not_found");
    let wrong = out(&jar, "?scope=everything").await;
    wrong.expect_problem(422, "validation_failed");
    expect_no_cookies(&wrong);

    expect_cleared(&out(&jar, "").await.expect(204));
    gateway.see(&jar, "/private/x").await.expect_problem(401, "session_not_found");
    let refresh = gateway.post(REFRESHING).with_cookies(&jar).by_own_page().send().await;
    refresh.expect_problem(400, "session_expired");

    // The access token has expired, and the browser has forgotten it: the session does not go on.
    for forget in [false, true] {
        let mut jar = expect_in_cookies(&login().await.expect(200));
        gateway.advance(Duration::from_hours(25));
        if forget {
            jar.0.remove(ACCESS);
        }
        expect_cleared(&out(&jar, "").await.expect(204));
        let refresh = gateway.post(REFRESHING).with_cookies(&jar).by_own_page().send().await;
        refresh.expect_problem(400, "session_expired");
        // Once more: what is over is over.
        expect_cleared(&out(&jar, "?scope=global").await.expect(204));
    }

    // Of nobody's session: the usual answer, and the cookies go.
    let (_, jar) = gateway.join("ben").await;
    let mut dead = jar.clone();
    dead.0.insert(REFRESH.to_owned(), "A".repeat(43));
    gateway.advance(Duration::from_hours(25));
    let refused = out(&dead, "").await;
    refused.expect_problem(401, "bad_jwt");
    expect_cleared(&refused);
    dead.0.remove(ACCESS);
    let refused = out(&dead, "").await;
    refused.expect_problem(401, "no_authorization");
    expect_cleared(&refused);
    // Guesses are counted, and the cookies go all the same.
    gateway.configure(&format!("{ON}[limits]\nrefresh = {{ rate = \"1/hour\", by = \"ip\" }}\n"));
    gateway.reload().await.expect(200);
    let refused = out(&dead, "").await;
    refused.expect_problem(429, "over_request_rate_limit");
    expect_cleared(&refused);
    // Without any there is nothing to take back.
    expect_no_cookies(&out(&Jar::default(), "").await.expect(401));

    // What is no token goes as well.
    for (value, status) in [
        ("", 400),
        ("\"x\"", 400),
        ("a,b", 400),
        ("x; __Host-portcullis-access=y", 400),
        ("a.b.c", 401),
    ] {
        let odd = || gateway.post("/auth/logout").header("Cookie", format!("{ACCESS}={value}"));
        gateway.advance(Duration::from_hours(2));
        let refused = odd().by_own_page().send().await;
        assert_eq!(refused.status, status, "{value}: {}", refused.text());
        expect_cleared(&refused);
        let evil = odd().header("Sec-Fetch-Site", "cross-site").send().await;
        evil.expect_problem(403, "cross_site_request");
        expect_no_cookies(&evil);
    }

    // A page of another site logs nobody out.
    let expired = jar.clone();
    let mut forgotten = jar.clone();
    forgotten.0.remove(ACCESS);
    let (_, fresh) = gateway.join("cleo").await;
    for jar in [&expired, &forgotten, &fresh] {
        let evil = gateway.post("/auth/logout").with_cookies(jar);
        let evil = evil.header("Sec-Fetch-Site", "cross-site").send().await;
        evil.expect_problem(403, "cross_site_request");
        expect_no_cookies(&evil);
    }
    gateway.see(&fresh, "/private/x").await.expect(200);
    let refreshed = gateway.post(REFRESHING).with_cookies(&expired).by_own_page().send().await;
    expect_in_cookies(&refreshed.expect(200));
}

#[tokio::test]
async fn cookies_of_two_sessions_end_both() {
    let (_upstream, gateway) = gateway(ON).await;
    for (name, query, others) in
        [("ann", "", false), ("ben", "?scope=global", false), ("cleo", "?scope=others", true)]
    {
        let (_, first) = gateway.join(name).await;
        let (_, second) = gateway.join(&format!("not-{name}")).await;
        let mut mixed = first.clone();
        mixed.0.insert(REFRESH.to_owned(), second.refresh().to_owned());
        let out = gateway.post(&format!("/auth/logout{query}")).with_cookies(&mixed);
        let out = out.by_own_page().send().await.expect(204);
        let refresh = gateway.post(REFRESHING).with_cookies(&second).by_own_page().send().await;
        if others {
            // Neither is one of the others: both go on.
            expect_no_cookies(&out);
            expect_in_cookies(&refresh.expect(200));
            gateway.see(&first, "/private/x").await.expect(200);
        } else {
            expect_cleared(&out);
            refresh.expect_problem(400, "session_expired");
            for jar in [&first, &second] {
                gateway.see(jar, "/private/x").await.expect_problem(401, "session_not_found");
            }
        }
    }
}

// --- Which pages may act ---------------------------------------------------------------------

const SITE: &str = "Sec-Fetch-Site";

/// What a request says of its page, and whether that page may act.
fn pages(own: &str) -> Vec<(Vec<(&'static str, String)>, bool)> {
    let own_origin = || format!("http://{own}");
    let is = |name: &'static str, value: &str| (name, value.to_owned());
    vec![
        (vec![is(SITE, "same-origin")], true),
        (vec![is(SITE, "none")], true),
        (vec![is(SITE, "same-origin"), is("Origin", &own_origin())], true),
        (vec![is("Origin", &own_origin())], true),
        (vec![is("Origin", "https://site.example")], true),
        (vec![is("Origin", "https://app.example")], true),
        (vec![is(SITE, "same-site"), is("Origin", "https://app.example")], true),
        (vec![is(SITE, "cross-site"), is("Origin", "https://app.example")], true),
        (vec![], false),
        (vec![is(SITE, "same-site")], false),
        (vec![is(SITE, "cross-site")], false),
        (vec![is(SITE, "cross-site"), is("Origin", "https://evil.example")], false),
        (vec![is(SITE, "same-site"), is("Origin", &own_origin())], false),
        (vec![is("Origin", "https://evil.example")], false),
        (vec![is("Origin", "null")], false),
        (vec![is("Origin", &format!("https://{own}"))], false),
        (vec![is("Origin", "https://app.example.evil.example")], false),
        (vec![is(SITE, "same-origin"), is(SITE, "cross-site")], false),
        (vec![is("Referer", &format!("http://{own}/page"))], false),
    ]
}

const SITES: &str = r#"
[cookies]
enabled = true
[links]
site_url = "https://site.example/"
[cors]
allowed_origins = ["https://app.example"]
allow_credentials = true
"#;

#[tokio::test]
async fn only_pages_of_this_site_act_by_a_cookie() {
    let (upstream, gateway) = gateway(SITES).await;
    let (id, jar) = gateway.join("ann").await;
    let own = format!("/api/{id}/x");
    for (fields, may) in pages(&gateway.address.to_string()) {
        let said = |request: Request| {
            fields.iter().fold(request, |request, (name, value)| request.header(name, value))
        };
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            for target in [&*own, "/optional/x"] {
                let before = upstream.count();
                let answer = said(gateway.request(method, target).with_cookies(&jar)).send().await;
                if may {
                    answer.expect(200);
                } else {
                    answer.expect_problem(403, "cross_site_request");
                    assert_eq!(upstream.count(), before, "{fields:?}");
                }
            }
        }
        // Reading changes nothing, and a page of another site cannot see what comes.
        for method in ["GET", "HEAD", "OPTIONS"] {
            said(gateway.request(method, &own).with_cookies(&jar)).send().await.expect(200);
        }
        let body = json!({ "data": { "n": 1 } });
        let put = said(gateway.request("PUT", "/auth/user").with_cookies(&jar)).json(&body);
        let user = said(gateway.get("/auth/user").with_cookies(&jar)).send().await;
        user.expect(200);
        let login = json!({ "email": "ann@example.com", "password": PASSWORD });
        let login = said(gateway.post("/auth/login?cookies=true")).json(&login);
        let refresh = said(gateway.post(REFRESHING).with_cookies(&jar));
        let letter = said(gateway.get("/auth/reauthenticate").with_cookies(&jar));
        for (what, request) in
            [("put", put), ("login", login), ("refresh", refresh), ("letter", letter)]
        {
            let answer = request.send().await;
            match (what, may) {
                // No letters leave here.
                ("letter", true) => assert_ne!(answer.code(), "cross_site_request"),
                (_, true) => assert_eq!(answer.status, 200, "{what} {fields:?}"),
                (_, false) => {
                    answer.expect_problem(403, "cross_site_request");
                    expect_no_cookies(&answer);
                }
            }
        }
        // A token that a browser does not send by itself needs none of this.
        said(gateway.post(&own).bearer(jar.access())).send().await.expect(200);
        let plain = json!({ "email": "ann@example.com", "password": PASSWORD });
        said(gateway.post("/auth/login")).json(&plain).send().await.expect(200);
        // Where nobody looks at tokens, nobody acts by one.
        said(gateway.post("/public/x").with_cookies(&jar)).send().await.expect(200);
    }
    let line = gateway.log_line(|line| line["reason"] == "cross_site_request").await;
    assert_eq!((&line["decision"], &line["status"]), (&json!("deny"), &json!(403)));
}

#[tokio::test]
async fn a_page_of_another_site_has_nothing_exported() {
    let (_upstream, gateway) =
        gateway(&format!("{ON}[limits]\nuser_data = {{ rate = \"1/hour\", by = \"user\" }}\n"))
            .await;
    let (id, jar) = gateway.join("ann").await;
    give(&gateway, &id, &["admin"]).await;
    let targets = ["/auth/user/data".to_owned(), format!("/auth/admin/users/{id}/data")];
    for target in &targets {
        for site in ["cross-site", "same-site"] {
            let evil = gateway.get(target).with_cookies(&jar).header(SITE, site).send().await;
            evil.expect_problem(403, "cross_site_request");
        }
        gateway.see(&jar, target).await.expect_problem(403, "cross_site_request");
    }
    let exported = EventKind::UserDataExported;
    assert!(events_of(&gateway.store(), exported).await.is_empty());
    // Nothing was used up of what the user may have.
    for target in &targets {
        gateway.get(target).with_cookies(&jar).by_own_page().send().await.expect(200);
    }
    assert_eq!(events_of(&gateway.store(), exported).await.len(), 2);
    gateway.get(&targets[1]).bearer(jar.access()).send().await.expect(200);
}

#[tokio::test]
async fn an_administrator_acts_by_a_cookie_from_own_pages_only() {
    let (_upstream, gateway) = gateway(ON).await;
    let (id, jar) = gateway.join("root").await;
    give(&gateway, &id, &["admin"]).await;
    let users = gateway.see(&jar, "/auth/admin/users").await.expect(200).json();
    assert_eq!(users["users"][0]["id"], *id);
    for (method, path) in ASKED.iter().filter(|(method, _)| *method != "GET") {
        let ask = || gateway.request(method, &format!("/auth/admin{path}")).with_cookies(&jar);
        for site in ["cross-site", "same-site"] {
            let refused = ask().header(SITE, site).send().await;
            refused.expect_problem(403, "cross_site_request");
        }
        ask().send().await.expect_problem(403, "cross_site_request");
        let may = ask().by_own_page().send().await;
        assert!(!matches!(may.status, 401 | 403), "{method} {path}: {}", may.text());
    }
}

#[tokio::test]
async fn origins_without_credentials_are_other_sites() {
    let config = format!("{ON}[cors]\nallowed_origins = [\"https://app.example\", \"*\"]");
    let (upstream, gateway) = gateway(&config).await;
    let (_, jar) = gateway.join("ann").await;
    for origin in ["https://app.example", "https://other.example", "*"] {
        let request = gateway.post("/private/x").with_cookies(&jar).header("Origin", origin);
        request.send().await.expect_problem(403, "cross_site_request");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_own_origin_is_what_it_says() {
    let config = format!("{ON}[server]\ntrusted_proxies = [\"127.0.0.1/32\"]");
    let (_upstream, gateway) = gateway(&config).await;
    let (_, jar) = gateway.join("ann").await;
    for (origin, status) in [("https://shop.example", 200), ("http://shop.example", 403)] {
        let request = gateway.post("/private/x").with_cookies(&jar).header("Origin", origin);
        let request = request
            .header("X-Forwarded-For", "192.0.2.7")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "shop.example");
        request.send().await.expect(status);
    }
}

#[tokio::test]
async fn a_tunnel_is_opened_by_a_cookie_from_own_pages_only() {
    let upstream = Upstream::scripted(|_| vec![Step::WebSocket]).await;
    let gateway = TestGateway::builder().upstream("app", &upstream).config(ON).start().await;
    let (id, jar) = gateway.join("ann").await;
    let own = format!("http://{}", gateway.address);
    for (origin, status) in
        [(Some(&*own), 101), (Some("https://evil.example"), 403), (Some("null"), 403), (None, 403)]
    {
        let url = format!("ws://{}/api/{id}/live", gateway.address);
        let mut request = url.into_client_request().expect("a URL");
        let headers = request.headers_mut();
        headers.insert("cookie", jar.line().parse().expect("a value"));
        if let Some(origin) = origin {
            headers.insert("origin", origin.parse().expect("a value"));
        }
        let stream = tokio::net::TcpStream::connect(gateway.address).await.expect("it accepts");
        let shaken = tokio_tungstenite::client_async(request, stream);
        let found = match patiently("a handshake", shaken).await {
            Ok((_, answer)) => answer.status().as_u16(),
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => answer.status().as_u16(),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(found, status, "{origin:?}");
    }
    let seen = upstream.only();
    assert_eq!((seen.header("x-user-id"), seen.header("cookie")), (Some(&*id), None));
}

// --- Upstreams -------------------------------------------------------------------------------

#[tokio::test]
async fn no_upstream_sees_a_cookie_of_ours_and_all_see_the_others_as_they_are() {
    for config in [ON, ""] {
        let (upstream, gateway) = gateway(&format!("{H2C}{config}")).await;
        let ours = format!("{ACCESS}=abc.def; {REFRESH}=ghi");
        for (lines, left) in [
            (vec![ours.clone()], vec![]),
            (vec![format!("a=1; {ours}; b=\"2 3\";c")], vec!["a=1; b=\"2 3\";c"]),
            (vec![format!("{ours}; a=1")], vec!["a=1"]),
            (vec!["a=1".to_owned(), ours.clone(), format!("b=2;{ours}")], vec!["a=1", "b=2"]),
            (vec![format!("{ours}; {ours}")], vec![]),
            // Of two of one name, each upstream takes one: they stay in their order.
            (vec![format!("sid=1; {ours}"), "sid=2".to_owned()], vec!["sid=1", "sid=2"]),
            (
                vec!["b=1".to_owned(), format!("{ours}; sid=1"), "sid=2".to_owned()],
                vec!["b=1", "sid=1", "sid=2"],
            ),
            // Nobody else may read as ours what is none to us.
            (vec![format!("a=1, {ACCESS}=x; b=2")], vec!["b=2"]),
            (vec![format!("\"{ACCESS}\"=x; b=2")], vec!["b=2"]),
            (vec!["a=1;; b=2 ; ".to_owned()], vec!["a=1;; b=2 ;"]),
            (vec!["__host-portcullis-access=x".to_owned()], vec!["__host-portcullis-access=x"]),
        ] {
            let request = gateway.get("/public/x");
            let request =
                lines.iter().fold(request, |request, line| request.header("Cookie", line));
            request.send().await.expect(200);
            assert_eq!(upstream.last().headers.all("cookie"), left, "{lines:?}");
        }
        // HTTP/2 may send each pair by itself (RFC 9113 §8.2.3).
        let mut h2 = H2::connect(gateway.address).await;
        for (crumbs, left) in [
            (&["a=1", "__Host-portcullis-access=x", "b=2"] as &[_], &["a=1; b=2"] as &[&str]),
            (&["__Host-portcullis-refresh=x", "__Host-portcullis-access=x"], &[]),
        ] {
            let fields = Fields::get("/public/x");
            let fields = crumbs.iter().fold(fields, |fields, crumb| fields.with("cookie", crumb));
            h2.exchange(&fields).await.expect(200);
            assert_eq!(upstream.last().headers.all("cookie"), left, "{crumbs:?}");
        }
        let everything = upstream.seen();
        let everything = everything.iter().map(|seen| String::from_utf8_lossy(&seen.raw));
        assert!(!everything.collect::<String>().contains("__Host-portcullis-"), "{config}");
    }
}

#[tokio::test]
async fn crumbs_of_http_2_carry_a_token() {
    let (upstream, gateway) = gateway(&format!("{H2C}{ON}")).await;
    let (id, jar) = gateway.join("ann").await;
    let mut h2 = H2::connect(gateway.address).await;
    let access = format!("{ACCESS}={}", jar.access());
    let fields = Fields::get("/private/x").with("cookie", "a=1").with("cookie", &access);
    h2.exchange(&fields.with("cookie", "b=2")).await.expect(200);
    assert_eq!(upstream.last().header("x-user-id"), Some(&*id));
    assert_eq!(upstream.last().header("cookie"), Some("a=1; b=2"));
    let twice = Fields::get("/private/x").with("cookie", &access).with("cookie", &access);
    h2.exchange(&twice).await.expect_problem(400, "invalid_request");
    let evil = Fields::post("/private/x").with("cookie", &access);
    h2.exchange(&evil).await.expect_problem(403, "cross_site_request");
    let own = Fields::post("/private/x").with("cookie", &access);
    h2.exchange(&own.with("sec-fetch-site", "same-origin")).await.expect(200);
}

#[tokio::test]
async fn a_token_from_a_cookie_is_passed_on_as_a_bearers_where_the_route_says_so() {
    let routes = r#"
    [[routes]]
    path = "/passed/{*rest}"
    upstream = "app"
    forward_token = true
    [[routes]]
    path = "/open/{*rest}"
    upstream = "app"
    access = "public"
    forward_token = true
    "#;
    let (upstream, gateway) = gateway(&format!("{ON}{routes}")).await;
    let (_, jar) = gateway.join("ann").await;
    gateway.see(&jar, "/passed/x").await.expect(200);
    let seen = upstream.last();
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", jar.access())));
    assert_eq!(seen.header("cookie"), None);
    // Nobody has looked at it here.
    gateway.see(&jar, "/open/x").await.expect(200);
    assert_eq!(upstream.last().header("authorization"), None);
    // What one connection says of its own is no concern of the upstream (RFC 9110 §7.6.1).
    let hidden = gateway.get("/passed/x").header("Cookie", format!("a=1; {}", jar.line()));
    hidden.header("Connection", "cookie").send().await.expect(200);
    assert_eq!(upstream.last().header("cookie"), None);
}

#[tokio::test]
async fn an_upstream_sets_cookies_of_its_own_only() {
    let answer = "HTTP/1.1 200 OK\r\n\
        Set-Cookie: a=1; Path=/\r\n\
        Set-Cookie: __Host-portcullis-access=evil; Path=/; Secure\r\n\
        Set-Cookie: __Host-portcullis-refresh=; Max-Age=0\r\n\
        Set-Cookie: =__Host-portcullis-access=evil\r\n\
        Set-Cookie: ; __Host-portcullis-access=evil\r\n\
        Set-Cookie: __Host-other=1; Path=/; Secure\r\n\
        Content-Length: 2\r\n\r\nok";
    for config in [ON, ""] {
        let upstream = Upstream::scripted(move |_: &Seen| reply(answer)).await;
        let builder = TestGateway::builder().upstream("app", &upstream).config(config);
        let gateway = builder.config(H2C).start().await;
        let kept = ["a=1; Path=/", "__Host-other=1; Path=/; Secure"];
        let answer = gateway.get("/public/x").send().await.expect(200);
        assert_eq!(answer.headers.all("set-cookie"), kept);
        let mut h2 = H2::connect(gateway.address).await;
        let answer = h2.exchange(&Fields::get("/public/x")).await.expect(200);
        assert_eq!(answer.headers.all("set-cookie"), kept);
    }
}

#[tokio::test]
async fn answers_by_a_cookie_are_kept_from_shared_caches_as_a_bearers_are() {
    let upstream = Upstream::scripted(|seen: &Seen| {
        let line = seen
            .header("x-says")
            .map_or(String::new(), |says| format!("Cache-Control: {says}\r\n"));
        reply(format!("HTTP/1.1 200 OK\r\n{line}Content-Length: 2\r\n\r\nok"))
    })
    .await;
    let gateway = TestGateway::builder().upstream("app", &upstream).config(ON).start().await;
    let (_, jar) = gateway.join("ann").await;
    for (says, expected) in [
        (None, vec!["private"]),
        (Some("max-age=60"), vec!["max-age=60", "private"]),
        (Some("public, max-age=60"), vec!["public, max-age=60"]),
        (Some("no-store"), vec!["no-store"]),
    ] {
        let ask = |request: Request| match says {
            Some(says) => request.header("X-Says", says),
            None => request,
        };
        let answer = ask(gateway.get("/private/x").with_cookies(&jar)).send().await.expect(200);
        assert_eq!(answer.headers.all("cache-control"), expected);
        let as_it_was: Vec<&str> = says.into_iter().collect();
        let bearer = ask(gateway.get("/private/x").bearer(jar.access())).send().await.expect(200);
        assert_eq!(bearer.headers.all("cache-control"), as_it_was);
        let public = ask(gateway.get("/public/x").with_cookies(&jar)).send().await.expect(200);
        assert_eq!(public.headers.all("cache-control"), as_it_was);
    }
}

#[tokio::test]
async fn no_log_has_a_cookie() {
    let (_upstream, gateway) = gateway(ON).await;
    let (id, jar) = gateway.join("ann").await;
    gateway.see(&jar, "/private/x").await.expect(200);
    gateway.post("/private/x").with_cookies(&jar).send().await.expect(403);
    gateway.post("/auth/logout").with_cookies(&jar).by_own_page().send().await.expect(204);
    let line = gateway.log_line(|line| line["path"] == "/auth/logout").await;
    assert_eq!(line["user_id"], *id);
    let line = gateway.log_line(|line| line["path"] == "/private/x").await;
    assert_eq!(line["user_id"], *id);
    let log = gateway.log_text();
    for secret in [jar.access(), jar.refresh(), "__Host-"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn shadow_mode_lets_a_page_of_another_site_through_as_nobody() {
    let routes = r#"
    [[routes]]
    path = "/shadow/{*rest}"
    upstream = "app"
    mode = "shadow"
    "#;
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream).known_secret();
    let gateway = builder.config(&format!("{ON}{routes}")).start().await;
    let cookie = format!("{ACCESS}={}", gateway.token("u1").sign());
    let ours = gateway.post("/shadow/x").header("Cookie", &cookie).by_own_page();
    ours.send().await.expect(200);
    assert_eq!(upstream.last().header("x-user-id"), Some("u1"));
    gateway.post("/shadow/x").header("Cookie", &cookie).send().await.expect(200);
    let seen = upstream.last();
    assert_eq!((seen.header("x-user-id"), seen.header("cookie")), (None, None));
}
