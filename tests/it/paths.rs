//! Contract section 4, steps 2 and 3: the bytes that are matched are the bytes that are forwarded;
//! what two servers could read differently is refused, never repaired. Every path is sent through a
//! plain socket.

use crate::harness::{TestGateway, Transcript, Upstream};

/// Targets that no route gets to see. Each breaks one rule only, on a route that is open to all.
const REFUSED: &[&str] = &[
    // dot segments, plain
    "/.",
    "/..",
    "/public/.",
    "/public/..",
    "/public/./a",
    "/public/../a",
    "/public/a/../b",
    "/public/a/..",
    "/public/../api/u1/tasks",
    "/public/../../etc/passwd",
    "/public/..?a=b",
    // dot segments, encoded, wholly or by half
    "/public/%2e/a",
    "/public/%2E",
    "/public/%2e%2e/a",
    "/public/%2E%2E/a",
    "/public/.%2e/a",
    "/public/%2e./a",
    "/public/a/%2e%2e",
    "/public/%2e%2e/api/u1",
    // dot segments with parameters
    "/public/..;/a",
    "/public/.;/a",
    "/public/..;a=b/api/u1",
    "/public/%2e%2e;/a",
    "/public/..%3b/a",
    "/public/a/..;",
    // encoded slashes
    "/public%2fa",
    "/public/a%2fb",
    "/public/a%2Fb",
    "/public/..%2fapi",
    "/public/a%2f",
    "/public/%2f",
    "/public/%2e%2e%2fapi",
    "/%2fpublic/a",
    // backslashes
    "/public\\a",
    "/public/..\\a",
    "/public/a\\..\\b",
    "/\\example.com",
    "/public/a%5cb",
    "/public/..%5Cb",
    // empty segments
    "//",
    "//public/a",
    "/public//a",
    "/public/a//",
    "/public///a",
    "//example.com/public/a",
    "/public/;/a",
    "/public/;x=y/a",
    // NUL and other controls, encoded
    "/public/%00",
    "/public/a%00.html",
    "/public/a%00/b",
    "/public/%0a",
    "/public/%0d%0aX-User-Id:%20u1",
    "/public/%09",
    "/public/%1b[31m",
    "/public/%1F",
    "/public/%7f",
    // encoded twice
    "/public/%252e%252e/a",
    "/public/%252fa",
    "/public/%255ca",
    "/public/%2500",
    "/public/%25%32%65",
    "/public/%2525",
    "/public/%2541",
    // no percent-encoding
    "/public/%",
    "/public/%2",
    "/public/%zz",
    "/public/%2g",
    "/public/%u002e",
    "/public/a%",
    "/public/%-1",
    // not UTF-8, among them overlong dots and slashes
    "/public/%ff",
    "/public/%80",
    "/public/%c0%ae%c0%ae/a",
    "/public/%c0%af",
    "/public/%e0%80%af",
    "/public/%f0%80%80%af",
    "/public/%ed%a0%80",
    "/public/%c3",
    "/public/%c3%28",
    "/public/%f5%80%80%80",
    // fragments, which the HTTP library would cut off in silence
    "/public/a#b",
    "/public/a#/../../api/u1",
    "/public/#",
    "/public/a?b#c",
    "/public/a%3f#",
];

/// Targets with bytes that no target may hold: the HTTP library may answer these itself, without a
/// body.
const REFUSED_BYTES: &[&[u8]] = &[
    b"/public/a b",
    b"/public/a\tb",
    b"/public/a\0b",
    b"/public/a\x01b",
    b"/public/a\x7fb",
    b"/public/\x1b[31m",
    b"/public/\xc3\xa4",
    b"/public/\xff",
    b"/public/\xe2\x88\x95..",
    b"/public/a\x0bb",
    b"/public/<a>",
    b"/public/\"a\"",
    b"/public/`a`",
    b"/public/{a}",
    b"/public/a?b\xc3\xa4",
    b"/public/a\rb",
    b"public/a",
    b"%2fpublic/a",
    b"../public/a",
    b"?a=b",
];

/// Targets that are as they should be, however odd they look.
const ACCEPTED: &[&str] = &[
    "/public/a",
    "/public/a/",
    "/public/",
    "/public",
    "/public/a/b/c/d/e/f/g/h",
    "/public/...",
    "/public/.../a",
    "/public/.well-known/jwks.json",
    "/public/.a",
    "/public/..a",
    "/public/a..",
    "/public/a.",
    "/public/a..b/c",
    "/public/%2ea",
    "/public/a%2e",
    "/public/~user",
    "/public/%7Euser",
    "/public/%61",
    "/public/a%20b",
    "/public/a+b",
    "/public/a%2Bb",
    "/public/caf%C3%A9",
    "/public/caf%c3%a9",
    "/public/%e2%82%ac/%F0%9F%98%80",
    "/public/100%25",
    "/public/100%25/2f",
    "/public/%25g0",
    "/public/a:b@c!$&'()*+,=-._~",
    "/public/a;v=1/b",
    "/public/a;b",
    "/public/auth0%7C123",
    "/public/a%23b%3Fc",
    "/public/http:/x",
    "/public/AbC",
    "/public/a?",
    "/public/a?b=c&b=d&e",
    "/public/a?b=/../..//c",
    "/public/a?b=%2e%2e%2f%00%zz",
    "/public/a?b?c=d;e",
    "/public/a?redirect=https://example.com/%25",
    "/public/a?%F0%9F%98%80=%c3%a9",
];

async fn send(gateway: &TestGateway, target: &[u8], fields: &str) -> Transcript {
    let mut request = b"GET ".to_vec();
    request.extend_from_slice(target);
    request.extend_from_slice(b" HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n");
    request.extend_from_slice(fields.as_bytes());
    request.extend_from_slice(b"\r\n");
    gateway.raw(request).await
}

#[tokio::test]
async fn ambiguous_paths_are_refused_and_reach_no_upstream() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    assert!(REFUSED.len() >= 60);
    let mut wrong = Vec::new();
    for target in REFUSED {
        let transcript = send(&gateway, target.as_bytes(), "").await;
        let [answer] = &transcript.answers[..] else { panic!("{target}: {transcript:?}") };
        if (answer.status, &*answer.code()) != (400, "bad_request") {
            wrong.push((target, answer.status, answer.text()));
            continue;
        }
        answer.expect_problem(400, "bad_request");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(upstream.count(), 0, "{:?}", upstream.seen());
}

#[tokio::test]
async fn bytes_that_no_target_holds_are_refused_and_reach_no_upstream() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for target in REFUSED_BYTES {
        let told = String::from_utf8_lossy(target);
        let transcript = send(&gateway, target, "").await;
        assert_eq!(transcript.statuses(), [400], "{told:?}");
        assert!(transcript.closed, "{told:?}");
        assert!(matches!(&*transcript.answers[0].code(), "" | "bad_request"), "{told:?}");
    }
    assert_eq!(upstream.count(), 0, "{:?}", upstream.seen());
}

#[tokio::test]
async fn refused_paths_stay_refused_with_a_good_token() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let bearer = format!("Authorization: Bearer {}\r\n", gateway.token("u1").sign());
    for target in [
        "/api/u1/../u2/tasks",
        "/api/u1%2f..%2fu2/tasks",
        "/api/u1/%2e%2e/u2",
        "/api//u2/tasks",
        "/api/u1;x/tasks",
        "/api/u1%00/tasks",
        "/api/u1%2500/tasks",
        "/api/u%2531/tasks",
        "/api/u2#/../u1/tasks",
        "/api/..;/api/u1/tasks",
        "/api\\u1\\tasks",
    ] {
        let transcript = send(&gateway, target.as_bytes(), &bearer).await;
        let [answer] = &transcript.answers[..] else { panic!("{target}: {transcript:?}") };
        assert_eq!((answer.status, &*answer.code()), (400, "bad_request"), "{target}");
    }
    let transcript = send(&gateway, b"/api/u1%3bx/tasks", &bearer).await;
    assert!(matches!(transcript.statuses()[..], [400 | 403]), "{transcript:?}");
    assert_eq!(upstream.count(), 0, "{:?}", upstream.seen());
}

#[tokio::test]
async fn accepted_paths_reach_the_upstream_byte_for_byte() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    assert!(ACCEPTED.len() >= 30);
    let mut wrong = Vec::new();
    for target in ACCEPTED {
        let before = upstream.count();
        let transcript = send(&gateway, target.as_bytes(), "").await;
        let seen: Vec<String> =
            upstream.seen().split_off(before).into_iter().map(|seen| seen.target).collect();
        if transcript.statuses() != [200] || seen != [*target] {
            wrong.push((target, transcript.statuses(), seen));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn the_owner_is_compared_decoded_and_forwarded_as_sent() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let token = gateway.token("u-1001").sign();
    for target in ["/api/u-1001/a", "/api/u%2d1001/a", "/api/%75-1001/a", "/%61pi/u-1001/a"] {
        let answer = gateway.get(target).bearer(&token).send().await;
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(upstream.last().target, target);
    }
    for target in ["/api/U-1001/a", "/api/u-1001%20/a", "/api/u-1001./a", "/api/u-100/a"] {
        let answer = gateway.get(target).bearer(&token).send().await;
        answer.expect_problem(403, "owner_mismatch");
    }
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn an_encoded_slash_passes_only_where_the_route_allows_it() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .known_secret()
        .config(
            r#"
            [[routes]]
            path = "/projects/{name}/files"
            upstream = "app"
            access = "public"
            allow_encoded_slash = true
            [[routes]]
            path = "/closed/{name}/files"
            upstream = "app"
            access = "public"
            "#,
        )
        .start()
        .await;
    for target in ["/projects/group%2Fproject/files", "/projects/a%2fb%2fc/files"] {
        assert_eq!(gateway.get(target).send().await.status, 200, "{target}");
        assert_eq!(upstream.last().target, target);
    }
    for target in [
        "/projects/..%2fproject/files",
        "/projects/a%2f..%2fb/files",
        "/projects/a%2f%2fb/files",
        "/projects/a%5cb/files",
        "/closed/group%2Fproject/files",
    ] {
        gateway.get(target).send().await.expect_problem(400, "bad_request");
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn typed_variables_take_only_the_canonical_spelling() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(
            r#"
            [[routes]]
            path = "/items/{id:uuid}"
            upstream = "app"
            access = "public"
            [[routes]]
            path = "/pages/{number:int}"
            upstream = "app"
            access = "public"
            "#,
        )
        .start()
        .await;
    let accepted = [
        "/items/018f2d3e-0000-7000-8000-00000000abcd",
        "/pages/0",
        "/pages/7",
        "/pages/1234567890",
    ];
    for target in accepted {
        assert_eq!(gateway.get(target).send().await.status, 200, "{target}");
    }
    for target in [
        "/items/018F2D3E-0000-7000-8000-00000000ABCD",
        "/items/018f2d3e000070008000000000000001",
        "/items/018f2d3e-0000-7000-8000-0000000000",
        "/items/urn:uuid:018f2d3e-0000-7000-8000-000000000001",
        "/items/018f2d3e-0000-7000-8000-00000000000g",
        "/items/u1",
        "/pages/007",
        "/pages/-1",
        "/pages/+1",
        "/pages/1.0",
        "/pages/1e3",
        "/pages/0x10",
        "/pages/%31%20",
        "/pages/one",
    ] {
        let answer = gateway.get(target).send().await;
        assert_eq!((answer.status, &*answer.code()), (400, "bad_request"), "{target}");
    }
    assert_eq!(upstream.count(), accepted.len());
}

/// A catch-all route must not let in, in another spelling, what a narrower route keeps out.
#[tokio::test]
async fn another_spelling_does_not_get_round_a_narrower_route() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(
            r#"
            [[routes]]
            path = "/admin/{*rest}"
            access = "deny"
            [[routes]]
            path = "/{*rest}"
            upstream = "app"
            access = "public"
            "#,
        )
        .start()
        .await;
    assert_eq!(gateway.get("/else/x").send().await.status, 200);
    for target in [
        "/admin/x",
        "/admin",
        "/admin/",
        "/%61dmin/x",
        "/%61%64%6d%69%6e/x",
        "/admin;a/x",
        "/admin;/x",
        "/admin%3b/x",
        "/admin%2fx",
        "/else/../admin/x",
        "//admin/x",
        "/./admin/x",
        "/admin%00/x",
        "/admin\\x",
    ] {
        let answer = gateway.get(target).send().await;
        assert!(matches!(answer.status, 400 | 403), "{target}: {}", answer.status);
    }
    assert_eq!(upstream.count(), 1, "{:?}", upstream.seen());
}

#[tokio::test]
async fn our_own_prefix_never_reaches_an_upstream() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .known_secret()
        .config("[[routes]]\npath = \"/{*rest}\"\nupstream = \"app\"\naccess = \"public\"\n")
        .start()
        .await;
    let token = gateway.token("u1").sign();
    for target in [
        "/auth",
        "/auth/",
        "/auth/unknown",
        "/auth/admin/users",
        "/auth/user/x",
        "/auth/.well-known/unknown",
        "/%61uth/unknown",
        "/%61%75%74%68/user",
        "/auth;x/user",
        "/auth%3bx/user",
    ] {
        for request in [gateway.get(target), gateway.get(target).bearer(&token)] {
            let answer = request.send().await;
            assert!((400..500).contains(&answer.status), "{target}: {}", answer.status);
        }
    }
    assert_eq!(upstream.count(), 0, "{:?}", upstream.seen());
    for target in ["/authx", "/auth-x/y", "/a/auth/user"] {
        assert_eq!(gateway.get(target).send().await.status, 200, "{target}");
    }
}

#[tokio::test]
async fn absolute_form_counts_only_when_it_names_us() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for target in ["http://api.example/public/a?b=c", "http://API.example/public/a?b=c"] {
        let transcript = send(&gateway, target.as_bytes(), "").await;
        assert_eq!(transcript.statuses(), [200], "{target}");
        let seen = upstream.last();
        assert_eq!((&*seen.target, seen.header("host")), ("/public/a?b=c", Some("api.example")));
    }
    for target in [
        "http://other.example/public/a",
        "https://api.example/public/a",
        "ftp://api.example/public/a",
        "http://api.example:81/public/a",
        "http://user@api.example/public/a",
        "http://api.example/public/../a",
        "http://api.example//public/a",
        "http:///public/a",
        "http:/public/a",
        "api.example:80",
        "*",
    ] {
        let transcript = send(&gateway, target.as_bytes(), "").await;
        assert_eq!(transcript.statuses(), [400], "{target}");
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_stripped_prefix_leaves_the_rest_byte_for_byte() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(
            r#"
            [[routes]]
            path = "/v1/{*rest}"
            upstream = "app"
            access = "public"
            strip_prefix = "/v1"
            "#,
        )
        .start()
        .await;
    for (target, forwarded) in [
        ("/v1/a", "/a"),
        ("/v1/a%2e/%61;x?b=%zz", "/a%2e/%61;x?b=%zz"),
        ("/v1/", "/"),
        ("/v1", "/"),
        ("/v1?a=b", "/?a=b"),
        ("/v1/v1/a", "/v1/a"),
    ] {
        assert_eq!(gateway.get(target).send().await.status, 200, "{target}");
        assert_eq!(upstream.last().target, forwarded, "{target}");
    }
}
