//! Contract section 4, steps 3 and 5 to 7: which token, whose path, which role, how often; and the
//! refusal of each.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::harness::redis::Redis;
use crate::harness::{
    Answer, Builder, Caller, Issuer, PASSWORD, Request, TestGateway, Upstream, blocking,
};

/// The challenge of a refusal (RFC 6750 §3), which has a realm and says nothing that is not asked.
#[track_caller]
fn expect_challenge(answer: &Answer, error: Option<&str>) {
    let challenge = answer.header("www-authenticate").expect("a challenge");
    assert!(challenge.starts_with("Bearer realm=\""), "{challenge}");
    match error {
        Some(error) => {
            assert!(challenge.contains(&format!("error=\"{error}\"")), "{challenge}");
        }
        None => assert!(!challenge.contains("error"), "{challenge}"),
    }
}

fn routes(upstream: &Upstream, routes: &str) -> Builder {
    TestGateway::builder().upstream("app", upstream).known_secret().config(routes)
}

#[tokio::test]
async fn without_a_token_there_is_only_a_challenge() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for target in ["/private/a", "/api/u1/a"] {
        for request in [
            gateway.get(target),
            gateway.post(target).body("abc"),
            gateway.get(target).header("Authorization", "Basic dTpw"),
            gateway
                .get(target)
                .header("Cookie", format!("access_token={}", gateway.token("u1").sign())),
            gateway.get(&format!("{target}?access_token={}", gateway.token("u1").sign())),
        ] {
            let answer = request.send().await;
            answer.expect_problem(401, "no_authorization");
            expect_challenge(&answer, None);
        }
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_bad_token_is_401_and_names_no_reason() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let good = gateway.token("u1");
    let now = gateway.clock.now().as_second();
    let signed = good.sign();
    let [header, claims, signature] = signed.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let none = encode(r#"{"alg":"none","typ":"JWT"}"#);
    let mut flipped = URL_SAFE_NO_PAD.decode(signature).expect("base64");
    flipped[0] ^= 1;
    let bad = [
        ("expired", good.clone().claim("exp", now - 31).sign()),
        ("not yet valid", good.clone().claim("nbf", now + 3600).sign()),
        ("issued in the future", good.clone().claim("iat", now + 3600).sign()),
        ("another key", good.clone().secret("some other secret of forty-eight characters").sign()),
        ("an empty key", good.clone().secret("").sign()),
        ("another issuer", good.clone().claim("iss", "https://evil.example/").sign()),
        ("issuers in a list", good.clone().claim("iss", json!([Issuer::ours().name])).sign()),
        ("another audience", good.clone().claim("aud", "other").sign()),
        ("no audience", good.clone().claim("aud", json!(null)).sign()),
        ("no subject", good.clone().claim("sub", json!(null)).sign()),
        ("an empty subject", good.clone().claim("sub", "").sign()),
        ("a subject with a line end", good.clone().claim("sub", "u1\r\nX-User-Id: u2").sign()),
        ("a subject that is a number", good.clone().claim("sub", 1).sign()),
        ("no end", good.clone().claim("exp", json!(null)).sign()),
        ("an end that is text", good.clone().claim("exp", "tomorrow").sign()),
        ("no session", good.clone().claim("session_id", json!(null)).sign()),
        ("an unknown kid", good.clone().parameter("kid", "nobody").sign()),
        ("a critical extension", good.clone().parameter("crit", json!(["b64"])).sign()),
        ("an embedded key", good.clone().parameter("jwk", json!({ "kty": "oct", "k": "" })).sign()),
        ("a key address", good.clone().parameter("jku", "https://evil.example/").sign()),
        ("another typ", good.clone().parameter("typ", "id+jwt").sign()),
        ("no typ", good.clone().parameter("typ", json!(null)).sign()),
        ("another algorithm's name", good.clone().parameter("alg", "ES256").sign()),
        ("no algorithm", good.clone().parameter("alg", json!(null)).sign()),
        ("alg none, no signature", format!("{none}.{claims}.")),
        ("alg none, a signature", format!("{none}.{claims}.{signature}")),
        ("a torn signature", format!("{header}.{claims}.{}", &signature[..signature.len() - 4])),
        ("no signature", format!("{header}.{claims}.")),
        ("a changed signature", format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(flipped))),
        ("two parts", format!("{header}.{claims}")),
        ("four parts", format!("{signed}.{signature}")),
        ("padded parts", format!("{header}.{claims}.{signature}=")),
        ("no token at all", "abc".to_owned()),
        ("dots", "..".to_owned()),
        ("claims twice", {
            let twice = encode(r#"{"sub":"u2","sub":"u1"}"#);
            format!("{header}.{twice}.{signature}")
        }),
        ("too long", good.clone().claim("padding", "a".repeat(9000)).sign()),
        ("a refresh token", "r".repeat(43)),
    ];
    let mut wrong = Vec::new();
    for (why, token) in &bad {
        for target in ["/private/a", "/optional/a", "/api/u1/a"] {
            let answer = gateway.get(target).bearer(token).send().await;
            if (answer.status, &*answer.code()) != (401, "bad_jwt") {
                wrong.push((why, target, answer.status, answer.text()));
                continue;
            }
            let problem = answer.expect_problem(401, "bad_jwt");
            expect_challenge(&answer, Some("invalid_token"));
            let detail = problem["detail"].as_str().expect("text").to_lowercase();
            for reason in ["signature", "audience", "issuer", "kid", "algorithm"] {
                assert!(!detail.contains(reason), "{why}: {detail}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(upstream.count(), 0);
    // The good one was good all along; a public route does not care.
    gateway.get("/api/u1/a").bearer(&signed).send().await.expect(200);
    gateway.get("/public/a").bearer(&bad[0].1).send().await.expect(200);
}

#[tokio::test]
async fn two_tokens_or_a_malformed_header_are_400() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let good = gateway.token("u1").sign();
    let other = gateway.token("u2").sign();
    let bearer = format!("Bearer {good}");
    for lines in [
        &[&*bearer, &*bearer][..],
        &[&bearer, &format!("Bearer {other}")],
        &[&bearer, "Basic dTpw"],
        &["Basic dTpw", &bearer],
        &[&bearer, ""],
        &[&format!("Bearer {good},Bearer {other}")],
        &[&format!("Bearer {good}, {other}")],
        &[&format!("Bearer {good} {other}")],
        &[&format!("Bearer  {good}")],
        &[&format!("Bearer\t{good}")],
        &[&format!("Bearer:{good}")],
        &[&format!("Bearer \"{good}\"")],
        &["Bearer"],
        &[""],
        &["Bearer \u{e4}"],
    ] {
        for target in ["/private/a", "/optional/a"] {
            let request = lines
                .iter()
                .fold(gateway.get(target), |request, line| request.header("Authorization", line));
            let answer = request.send().await;
            assert_eq!((answer.status, &*answer.code()), (400, "invalid_request"), "{lines:?}");
            answer.expect_problem(400, "invalid_request");
            expect_challenge(&answer, Some("invalid_request"));
        }
    }
    assert_eq!(upstream.count(), 0);
    for scheme in ["bearer", "BEARER", "Bearer"] {
        let request = gateway.get("/private/a").header("authorization", format!("{scheme} {good}"));
        request.send().await.expect(200);
    }
}

#[tokio::test]
async fn a_token_lives_until_its_end_and_the_leeway() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    let ann = gateway.sign_up("ann").await;
    let target = format!("/api/{}/tasks", ann.id);
    gateway.get(&target).bearer(&ann.token).send().await.expect(200);
    gateway.advance(Duration::from_secs(24 * 3600 + 29));
    gateway.get(&target).bearer(&ann.token).send().await.expect(200);
    gateway.advance(Duration::from_secs(2));
    let answer = gateway.get(&target).bearer(&ann.token).send().await;
    answer.expect_problem(401, "bad_jwt");
    expect_challenge(&answer, Some("invalid_token"));
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn an_ended_session_is_refused_at_once() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    let ann = gateway.sign_up("ann").await;
    let target = format!("/api/{}/tasks", ann.id);
    gateway.get(&target).bearer(&ann.token).send().await.expect(200);
    gateway.post("/auth/logout").bearer(&ann.token).send().await.expect(204);
    for target in [&*target, "/optional/a"] {
        let answer = gateway.get(target).bearer(&ann.token).send().await;
        answer.expect_problem(401, "session_not_found");
        expect_challenge(&answer, Some("invalid_token"));
    }
    assert_eq!(upstream.count(), 1);
}

/// Two gateways over one database know of each other's logouts within a second.
#[tokio::test]
async fn a_session_that_ends_in_one_gateway_ends_in_the_other() {
    let upstream = Upstream::echo().await;
    let one = TestGateway::builder().upstream("app", &upstream).start().await;
    let url = format!("sqlite:{}", one.file("portcullis.db").display());
    let two = TestGateway::builder()
        .upstream("app", &upstream)
        .storage(&url)
        .clock(one.clock.clone())
        .start()
        .await;
    let ann = one.sign_up("ann").await;
    let body = json!({ "refresh_token": ann.refresh_token });
    let refresh = two.post("/auth/token?grant_type=refresh_token").json(&body);
    let refreshed = Caller::from_session(&refresh.send().await.expect(200).json());
    assert_eq!((&refreshed.id, &refreshed.email), (&ann.id, &ann.email));
    let target = format!("/api/{}/tasks", ann.id);
    for (gateway, token) in [(&one, &ann.token), (&two, &ann.token), (&one, &refreshed.token)] {
        gateway.get(&target).bearer(token).send().await.expect(200);
    }
    one.post("/auth/logout").bearer(&ann.token).send().await.expect(204);
    let ended = Instant::now();
    while two.get(&target).bearer(&refreshed.token).send().await.status == 200 {
        assert!(ended.elapsed() < Duration::from_secs(1), "known everywhere within a second");
    }
    for (gateway, token) in [(&one, &refreshed.token), (&two, &ann.token)] {
        let answer = gateway.get(&target).bearer(token).send().await;
        answer.expect_problem(401, "session_not_found");
    }
}

#[tokio::test]
async fn each_access_lets_in_whom_it_says() {
    let upstream = Upstream::echo().await;
    let gateway = routes(
        &upstream,
        r#"
        [[routes]]
        path = "/public/{*rest}"
        upstream = "app"
        access = "public"
        [[routes]]
        path = "/optional/{*rest}"
        upstream = "app"
        access = "optional"
        [[routes]]
        path = "/private/{*rest}"
        upstream = "app"
        [[routes]]
        path = "/closed/{*rest}"
        access = "deny"
        "#,
    )
    .start()
    .await;
    let token = gateway.token("u1").sign();
    for (target, anonymous, with_token) in [
        ("/public/a", 200, 200),
        ("/optional/a", 200, 200),
        ("/private/a", 401, 200),
        ("/closed/a", 403, 403),
    ] {
        assert_eq!(gateway.get(target).send().await.status, anonymous, "{target}");
        let answer = gateway.get(target).bearer(&token).send().await;
        assert_eq!(answer.status, with_token, "{target}");
    }
    gateway.get("/closed/a").send().await.expect_problem(403, "denied");
    gateway.get("/closed/a").bearer(&token).send().await.expect_problem(403, "denied");
    let users: Vec<_> =
        upstream.seen().iter().map(|seen| seen.header("x-user-id").map(str::to_owned)).collect();
    let u1 = Some("u1".to_owned());
    assert_eq!(users, [None, None, None, u1.clone(), u1]);
}

#[tokio::test]
async fn an_unknown_path_or_method_reaches_no_upstream() {
    let upstream = Upstream::echo().await;
    let gateway = routes(
        &upstream,
        r#"
        [[routes]]
        path = "/things"
        methods = ["GET", "POST"]
        upstream = "app"
        access = "public"
        [[routes]]
        path = "/things/{id}"
        methods = ["DELETE"]
        upstream = "app"
        "#,
    )
    .start()
    .await;
    for target in ["/", "/unknown", "/things/1/2", "/thing", "/Things"] {
        gateway.get(target).send().await.expect_problem(404, "no_route");
    }
    for (method, status) in [("GET", 200), ("HEAD", 200), ("POST", 200)] {
        assert_eq!(gateway.request(method, "/things").send().await.status, status, "{method}");
    }
    let passed = upstream.count();
    for (method, target, allow) in [
        ("PUT", "/things", &["GET", "HEAD", "POST"][..]),
        ("DELETE", "/things", &["GET", "HEAD", "POST"]),
        ("GET", "/things/1", &["DELETE"]),
    ] {
        let answer = gateway.request(method, target).send().await;
        answer.expect_problem(405, "method_not_allowed");
        let named = answer.header("allow").expect("Allow").split(", ").collect::<Vec<_>>();
        for method in allow {
            assert!(named.contains(method), "{method} {named:?}");
        }
        assert!(!named.contains(&method), "{named:?}");
    }
    assert_eq!(upstream.count(), passed);
}

#[tokio::test]
async fn another_users_path_is_403_and_never_falls_through() {
    let upstream = Upstream::echo().await;
    let gateway = routes(
        &upstream,
        r#"
        [[routes]]
        path = "/api/{user_id}/{*rest}"
        upstream = "app"
        [[routes]]
        path = "/api/{user_id}/profile"
        upstream = "app"
        access = "public"
        owner = "none"
        reason = "profiles are public"
        [[routes]]
        path = "/{*rest}"
        upstream = "app"
        access = "public"
        [[routes]]
        path = "/teams/{team}/{*rest}"
        upstream = "app"
        owner = "team"
        "#,
    )
    .start()
    .await;
    let token = gateway.token("u1").sign();
    for (target, status) in [
        ("/api/u1/tasks", 200),
        ("/api/u1", 200),
        ("/api/u1/", 200),
        ("/api/u2/profile", 200),
        ("/teams/u1/a", 200),
        ("/else", 200),
        ("/api/u2/tasks", 403),
        ("/api/u2", 403),
        ("/api/u10/tasks", 403),
        ("/api/u/tasks", 403),
        ("/api/U1/tasks", 403),
        ("/teams/u2/a", 403),
    ] {
        let answer = gateway.get(target).bearer(&token).send().await;
        assert_eq!(answer.status, status, "{target}: {}", answer.text());
        if status == 403 {
            answer.expect_problem(403, "owner_mismatch");
        }
    }
    assert_eq!(upstream.count(), 6);
}

#[tokio::test]
async fn two_users_see_only_what_is_theirs() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    let (ann, bob) = (gateway.sign_up("ann").await, gateway.sign_up("bob").await);
    for (caller, path, status) in
        [(&ann, &ann, 200), (&bob, &bob, 200), (&ann, &bob, 403), (&bob, &ann, 403)]
    {
        let target = format!("/api/{}/tasks", path.id);
        gateway.get(&target).bearer(&caller.token).send().await.expect(status);
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_hidden_mismatch_looks_like_an_unknown_route() {
    let upstream = Upstream::echo().await;
    let gateway = routes(
        &upstream,
        r#"
        [[routes]]
        path = "/api/{user_id}/{*rest}"
        upstream = "app"
        hide_mismatch = true
        "#,
    )
    .start()
    .await;
    let token = gateway.token("u1").sign();
    gateway.get("/api/u1/a").bearer(&token).send().await.expect(200);
    let hidden = gateway.get("/api/u2/a").bearer(&token).send().await;
    let unknown = gateway.get("/unknown").bearer(&token).send().await;
    let anonymous = |answer: &Answer| {
        let mut problem = answer.expect_problem(404, "no_route");
        problem["instance"] = json!(null);
        let names: Vec<_> = answer.headers.0.iter().map(|(name, _)| name.clone()).collect();
        (problem, names)
    };
    assert_eq!(anonymous(&hidden), anonymous(&unknown));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn roles_open_routes_and_other_users_paths() {
    let upstream = Upstream::echo().await;
    let gateway = routes(
        &upstream,
        r#"
        [[routes]]
        path = "/staff/{*rest}"
        upstream = "app"
        roles = ["staff", "admin"]
        [[routes]]
        path = "/api/{user_id}/{*rest}"
        upstream = "app"
        owner_override_roles = ["support"]
        "#,
    )
    .start()
    .await;
    for (roles, target, status, code) in [
        (&[][..], "/staff/a", 403, "insufficient_scope"),
        (&["support"], "/staff/a", 403, "insufficient_scope"),
        (&["staff2", "staf", "administrator"], "/staff/a", 403, "insufficient_scope"),
        (&["staff"], "/staff/a", 200, ""),
        (&["other", "admin"], "/staff/a", 200, ""),
        (&[], "/api/u2/a", 403, "owner_mismatch"),
        (&["staff", "admin"], "/api/u2/a", 403, "owner_mismatch"),
        (&["support"], "/api/u2/a", 200, ""),
        (&["support"], "/api/u1/a", 200, ""),
    ] {
        let token = gateway.token("u1").roles(roles).sign();
        let answer = gateway.get(target).bearer(token).send().await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{roles:?} {target}");
        if code == "insufficient_scope" {
            answer.expect_problem(status, code);
            expect_challenge(&answer, Some("insufficient_scope"));
        }
        if status == 200 {
            assert_eq!(
                upstream.last().header("x-user-id"),
                Some("u1"),
                "the caller, not the owner"
            );
        }
    }
    // What users may write themselves gives no role.
    for claims in ["user_metadata", "roles"] {
        let roles = json!({ "roles": ["staff"] });
        let value = if claims == "roles" { json!(["staff"]) } else { roles };
        let token = gateway.token("u1").claim(claims, value).sign();
        let answer = gateway.get("/staff/a").bearer(token).send().await;
        assert_eq!(answer.status, 403, "{claims}");
    }
}

#[tokio::test]
async fn a_shadow_route_decides_and_lets_through() {
    let upstream = Upstream::echo().await;
    let gateway = routes(
        &upstream,
        r#"
        [limits]
        one = { rate = "1/minute", by = "ip" }
        [[routes]]
        path = "/shadow/{user_id}/{*rest}"
        upstream = "app"
        mode = "shadow"
        roles = ["staff"]
        [[routes]]
        path = "/limited"
        upstream = "app"
        access = "public"
        mode = "shadow"
        limit = ["one"]
        [[routes]]
        path = "/closed"
        access = "deny"
        mode = "shadow"
        "#,
    )
    .start()
    .await;
    let token = gateway.token("u1");
    let staff = token.clone().roles(&["staff"]).sign();
    for (what, bearer, target, user) in [
        ("nobody", None, "/shadow/u1/nobody", None),
        ("bad", Some("a.b.c".to_owned()), "/shadow/u1/bad", None),
        ("good", Some(staff.clone()), "/shadow/u1/good", Some("u1")),
        ("mismatch", Some(staff), "/shadow/u2/mismatch", Some("u1")),
        ("role", Some(token.sign()), "/shadow/u1/role", Some("u1")),
    ] {
        let request = gateway.get(target).header("X-User-Id", "u9");
        let request = bearer.iter().fold(request, Request::bearer);
        request.send().await.expect(200);
        assert_eq!(upstream.last().header("x-user-id"), user, "{what}");
        let line = gateway.log_line(|line| line["path"] == target).await;
        let decision = if what == "good" { "allow" } else { "shadow" };
        assert_eq!(line["decision"], decision, "{what}: {line}");
    }
    for _ in 0..3 {
        gateway.get("/limited").send().await.expect(200);
    }
    gateway.get("/closed").send().await.expect_problem(403, "denied");
    for target in ["/shadow/u1/../u2", "/shadow/u1//a", "/shadow/u1/%2e%2e/a"] {
        gateway.get(target).send().await.expect_problem(400, "bad_request");
    }
}

#[tokio::test]
async fn a_limit_is_told_with_every_answer_and_then_kept() {
    let upstream = Upstream::echo().await;
    let gateway = routes(
        &upstream,
        r#"
        [limits]
        few = { rate = "2/minute", by = "user" }
        [[routes]]
        path = "/few/{*rest}"
        upstream = "app"
        access = "optional"
        limit = ["few"]
        [[routes]]
        path = "/free/{*rest}"
        upstream = "app"
        access = "public"
        "#,
    )
    .start()
    .await;
    let one = gateway.token("u1").sign();
    let two = gateway.token("u2").sign();
    let get = |token: &str| gateway.get("/few/a").bearer(token).send();
    for remaining in [1, 0] {
        let answer = get(&one).await.expect(200);
        let limit = answer.header("ratelimit").expect("RateLimit").to_owned();
        assert!(limit.contains("few") && limit.contains(&format!("r={remaining}")), "{limit}");
        let policy = answer.header("ratelimit-policy").expect("RateLimit-Policy");
        assert!(policy.contains("q=2") && policy.contains("w=60"), "{policy}");
        gateway.advance(Duration::from_secs(10));
    }
    let answer = get(&one).await;
    answer.expect_problem(429, "over_request_rate_limit");
    let wait: u64 = answer.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((39..=41).contains(&wait), "the first of them was 20 s ago: {wait}");
    assert!(answer.header("ratelimit").expect("RateLimit").contains("r=0"));
    assert!(answer.header("ratelimit-policy").is_some());
    // Others are counted apart.
    get(&two).await.expect(200);
    gateway.get("/few/a").send().await.expect(200);
    let free = gateway.get("/free/a").bearer(&one).send().await.expect(200);
    assert_eq!(free.header("ratelimit"), None, "nothing was counted");
    assert_eq!(upstream.count(), 5);
    gateway.advance(Duration::from_secs(wait));
    get(&one).await.expect(200);
}

#[tokio::test]
async fn a_limit_by_session_counts_the_sessions_of_a_user_apart() {
    let upstream = Upstream::echo().await;
    let config = r#"
        [limits]
        few = { rate = "1/minute", by = "session" }
        [[routes]]
        path = "/few/{*rest}"
        upstream = "app"
        access = "optional"
        limit = ["few"]
    "#;
    let gateway = TestGateway::builder().upstream("app", &upstream).config(config).start().await;
    let ann = gateway.sign_up("ann").await;
    let elsewhere = gateway.log_in(&ann.email, PASSWORD).await.expect(200).json();
    let elsewhere = Caller::from_session(&elsewhere);
    for token in [&ann.token, &elsewhere.token] {
        gateway.get_as(token, "/few/a").await.expect(200);
        gateway.get_as(token, "/few/a").await.expect_problem(429, "over_request_rate_limit");
    }
    gateway.get("/few/a").send().await.expect(200);
    gateway.get("/few/a").send().await.expect_problem(429, "over_request_rate_limit");
}

/// Two gateways over one Redis count together.
#[tokio::test]
async fn a_limit_is_shared_by_gateways_over_one_redis() {
    let upstream = Upstream::echo().await;
    for attempt in 1.. {
        // Its start may wait for a server.
        let redis = blocking(Redis::new).await;
        let gateway = || {
            let builder = TestGateway::builder().upstream("app", &upstream).known_secret();
            builder.counters(redis.url(), redis.key_prefix()).config(
                r#"
                [limits]
                few = { rate = "4/hour", by = "user" }
                [[routes]]
                path = "/few/{*rest}"
                upstream = "app"
                limit = ["few"]
                "#,
            )
        };
        let gateways = [gateway().start().await, gateway().start().await];
        let token = gateways[0].token("u1").sign();
        let mut statuses = Vec::new();
        for n in 0..8 {
            let request = gateways[n % 2].get("/few/a").bearer(&token);
            statuses.push(request.send().await.status);
        }
        // On a busy machine Redis may miss its deadline once; then each counts for itself.
        let mut missed = false;
        for gateway in &gateways {
            let metrics = gateway.admin_get("/metrics").await.text();
            missed |= !metrics.contains("portcullis_counters_errors_total 0\n");
        }
        if !missed {
            assert_eq!(statuses, [200, 200, 200, 200, 429, 429, 429, 429]);
            return;
        }
        assert!(attempt < 10, "Redis never answers in time");
    }
}

#[tokio::test]
async fn refused_requests_do_not_use_up_a_callers_limit() {
    let upstream = Upstream::echo().await;
    let gateway = routes(
        &upstream,
        r#"
        [limits]
        few = { rate = "2/minute", by = "user" }
        [[routes]]
        path = "/api/{user_id}/{*rest}"
        upstream = "app"
        limit = ["few"]
        "#,
    )
    .start()
    .await;
    let token = gateway.token("u1").sign();
    for _ in 0..5 {
        let request = gateway.get("/api/u2/a").bearer(&token);
        request.send().await.expect_problem(403, "owner_mismatch");
        gateway.get("/api/u1/a").send().await.expect_problem(401, "no_authorization");
    }
    for _ in 0..2 {
        gateway.get("/api/u1/a").bearer(&token).send().await.expect(200);
    }
    gateway.get("/api/u1/a").bearer(&token).send().await.expect(429);
}

#[tokio::test]
async fn another_issuers_tokens_are_good_where_the_route_says_so() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .known_secret()
        .foreign_issuer()
        .config(
            r#"
            [[routes]]
            path = "/corp/{user_id}/{*rest}"
            upstream = "app"
            issuers = ["corp"]
            [[routes]]
            path = "/both/{*rest}"
            upstream = "app"
            issuers = ["self", "corp"]
            [[routes]]
            path = "/ours/{*rest}"
            upstream = "app"
            "#,
        )
        .start()
        .await;
    let ours = gateway.token("u1").sign();
    let theirs = gateway.foreign_token("u1");
    for (target, of_ours, of_theirs) in [
        ("/corp/u1/a", 401, 200),
        ("/corp/u2/a", 401, 403),
        ("/both/a", 200, 200),
        ("/ours/a", 200, 401),
    ] {
        let answer = gateway.get(target).bearer(&ours).send().await;
        assert_eq!(answer.status, of_ours, "ours on {target}");
        let answer = gateway.get(target).bearer(theirs.sign()).send().await;
        assert_eq!(answer.status, of_theirs, "theirs on {target}");
    }
    // A known issuer's name does not lend its key to another, nor the other way round.
    let now = gateway.clock.now().as_second();
    for bad in [
        theirs.clone().secret(Issuer::SECRET).sign(),
        theirs.clone().claim("iss", Issuer::ours().name).sign(),
        theirs.clone().claim("aud", "authenticated").sign(),
        theirs.clone().claim("exp", now - 31).sign(),
        gateway.token("u1").claim("iss", Issuer::foreign().name).sign(),
        gateway.token("u1").secret(Issuer::FOREIGN_SECRET).sign(),
    ] {
        let answer = gateway.get("/both/a").bearer(bad).send().await;
        answer.expect_problem(401, "bad_jwt");
    }
}

#[tokio::test]
async fn a_preflight_is_answered_before_any_token_is_asked_for() {
    let upstream = Upstream::echo().await;
    let gateway = routes(
        &upstream,
        r#"
        [cors]
        allowed_origins = ["https://app.example"]
        [[routes]]
        path = "/private/{*rest}"
        upstream = "app"
        [[routes]]
        path = "/handed/{*rest}"
        upstream = "app"
        preflight = "forward"
        "#,
    )
    .start()
    .await;
    let preflight = |target: &str, origin: &str| {
        gateway
            .request("OPTIONS", target)
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "PUT")
            .header("Access-Control-Request-Headers", "authorization")
            .send()
    };
    let answer = preflight("/private/a", "https://app.example").await;
    assert!(matches!(answer.status, 200 | 204), "{}", answer.status);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(answer.header("access-control-allow-methods").is_some_and(|all| all.contains("PUT")));
    let answer = preflight("/private/a", "https://evil.example").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(upstream.count(), 0);
    preflight("/handed/a", "https://app.example").await;
    assert_eq!((upstream.count(), &*upstream.last().method), (1, "OPTIONS"));
    // A refusal can be read by the script that asked, too.
    let request = gateway.get("/private/a").header("Origin", "https://app.example");
    let answer = request.send().await;
    answer.expect_problem(401, "no_authorization");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
}

#[tokio::test]
async fn a_refusal_speaks_the_dialect_that_the_client_asked_for() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let request = gateway.get("/private/a").header("X-Supabase-Api-Version", "2024-01-01");
    let answer = request.send().await;
    let problem = answer.expect_problem(401, "no_authorization");
    assert_eq!(problem["message"], problem["detail"]);
    assert_eq!(answer.header("x-supabase-api-version"), Some("2024-01-01"));
}
