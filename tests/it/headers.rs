//! Contract section 4, steps 1, 4 and 8: what clients may not say is taken out on every route, what
//! the gateway says stands exactly once, everything else passes unchanged.

use std::fmt::Write as _;
use std::time::Duration;

use uuid::Uuid;

use crate::harness::{Answer, Request, Seen, TestGateway, Upstream, reply};

/// The value that must not be seen upstream, in whatever field.
const FORGED: &str = "victim";

/// Attempts to be somebody else: lines that are added to a request.
const FORGERIES: &[&str] = &[
    // the names themselves, in any case, repeated, empty, with a list, with padding
    "X-User-Id: victim",
    "x-user-id: victim",
    "X-USER-ID: victim",
    "x-UsEr-iD: victim",
    "X-User-Id: victim\r\nX-User-Id: victim",
    "X-User-Id: u1\r\nX-User-Id: victim",
    "X-User-Id: u1, victim",
    "X-User-Id: victim\r\nX-User-Id:",
    "X-User-Id:",
    "X-User-Id: \t victim \t",
    "X-User-Id: victim\u{e4}",
    "X-User-Email: victim",
    "x-user-email: victim",
    "X-User-Roles: victim,admin",
    "x-user-roles: victim\r\nX-User-Roles: admin",
    "X-Session-Id: victim",
    "X-SESSION-ID: victim",
    "X-User-Scopes: victim",
    "x_user_scopes: victim",
    "X.User-Scopes: victim\r\nX-User-Scopes: victim",
    "X-User-Id: victim\r\nX-User-Email: victim\r\nX-User-Roles: victim\r\nX-Session-Id: victim",
    // twins that CGI, WSGI and Rack cannot tell apart
    "X_User_Id: victim",
    "x_user_id: victim",
    "X_USER_ID: victim",
    "X-User_Id: victim",
    "X_User-Id: victim",
    "X.User.Id: victim",
    "X-User.Id: victim",
    "X.User_Id: victim",
    "X_User_Email: victim",
    "X.User-Email: victim",
    "X_User_Roles: victim",
    "X-User.Roles: victim",
    "X_Session_Id: victim",
    "X.Session.Id: victim",
    "X-User-Id: victim\r\nX_User_Id: victim\r\nX.User.Id: victim",
    // naming our headers as hop-by-hop, so that a proxy takes its own out again
    "Connection: X-User-Id",
    "Connection: close, X-User-Id",
    "Connection: X-User-Id\r\nConnection: X-User-Roles\r\nConnection: X-Session-Id",
    "Connection: keep-alive\r\nConnection: X-User-Id, X-Session-Id\r\nX-User-Id: victim",
    "Connection: x-user-id,x-user-email,,x-user-roles , x-session-id",
    "Connection: X_User_Id\r\nX_User_Id: victim",
    "connection: X-USER-ID\r\nX-User-Id: victim",
    "Proxy-Connection: X-User-Id, victim",
    "Keep-Alive: X-User-Id, victim",
    "Connection: Connection, X-User-Id",
    "Connection: X-User-Id, Host",
    "Connection: upgrade, X-User-Id\r\nUpgrade: victim",
    // saying it later
    "TE: trailers, victim",
    "Trailer: X-User-Id, victim",
    "Connection: TE, Trailer\r\nTE: trailers\r\nTrailer: X-User-Id",
    // headers that make servers believe in another client, host, path or method
    "X-Forwarded-For: victim",
    "X-Forwarded-Host: victim",
    "X-Forwarded-Proto: victim",
    "X-Forwarded-Port: victim",
    "X-Forwarded-Prefix: victim",
    "X-Forwarded-Server: victim",
    "X-Forwarded-Uri: victim",
    "X-Forwarded-User: victim",
    "X-Forwarded-Email: victim",
    "X_Forwarded_For: victim",
    "X-Forwarded_Host: victim",
    "X.Forwarded.For: victim",
    "Forwarded: for=victim;host=victim;proto=victim",
    "X-Real-IP: victim",
    "X_Real_IP: victim",
    "X-Original-URL: /victim",
    "X-Rewrite-URL: /victim",
    "X_Original_URL: /victim",
    "X-HTTP-Method-Override: victim",
    "X-HTTP-Method: victim",
    "X-Method-Override: victim",
    "X_HTTP_Method_Override: victim",
    // framing twins
    "Content_Length: 7victim",
    "Transfer_Encoding: victim",
    "Content.Length: 7victim",
    // upgrades that are not passed on
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: victim",
];

/// The identity headers, folded.
const IDENTITY: [&str; 5] = ["xuserid", "xuseremail", "xuserroles", "xsessionid", "xuserscopes"];

fn fold(name: &str) -> String {
    name.chars().filter(|c| !"-_.".contains(*c)).collect::<String>().to_ascii_lowercase()
}

/// The identity headers that the upstream saw, in any spelling, as `name: value`.
fn identity(seen: &Seen) -> Vec<String> {
    let mut found: Vec<String> = seen
        .headers
        .0
        .iter()
        .filter(|(name, _)| IDENTITY.contains(&&*fold(name)))
        .map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase()))
        .collect();
    found.sort();
    found
}

/// Sends a request with `lines` added and gives what the upstream saw of it.
async fn forge(
    gateway: &TestGateway,
    upstream: &Upstream,
    path: &str,
    token: Option<&str>,
    lines: &str,
) -> Seen {
    let before = upstream.count();
    let mut head = format!("GET {path} HTTP/1.1\r\nHost: api.example\r\n");
    if let Some(token) = token {
        let _ = write!(head, "Authorization: Bearer {token}\r\n");
    }
    let _ = write!(head, "{lines}\r\n\r\n");
    let bytes: Vec<u8> = head.chars().map(|c| u8::try_from(c).expect("Latin-1")).collect();
    let mut client = gateway.connect().await;
    client.send(bytes).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200, "{path} {lines:?}: {}", answer.text());
    let mut seen = upstream.seen().split_off(before);
    assert_eq!(seen.len(), 1, "{path} {lines:?}");
    seen.remove(0)
}

fn check(path: &str, lines: &str, seen: &Seen, expected: &[String]) {
    let told = || format!("{path} {lines:?}: {:?}", seen.headers);
    assert_eq!(identity(seen), expected, "{}", told());
    let raw = String::from_utf8_lossy(&seen.raw).to_ascii_lowercase();
    assert!(!raw.contains(FORGED), "{}", told());
    for name in ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"] {
        assert!(!seen.headers.has(name), "{name}: {}", told());
    }
    assert_eq!(seen.header("host"), Some("api.example"), "{}", told());
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "{}", told());
    assert_eq!(seen.header("x-forwarded-host"), Some("api.example"), "{}", told());
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"), "{}", told());
    assert!(seen.header("x-request-id").is_some(), "{}", told());
    assert_eq!(seen.header("authorization"), None, "{}", told());
}

#[tokio::test]
async fn nobody_can_claim_an_identity_on_an_open_route() {
    assert!(FORGERIES.len() >= 40);
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for path in ["/public/a", "/optional/a"] {
        for lines in FORGERIES {
            let seen = forge(&gateway, &upstream, path, None, lines).await;
            check(path, lines, &seen, &[]);
        }
    }
}

#[tokio::test]
async fn a_caller_can_only_be_who_the_token_says() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let session = Uuid::new_v4().to_string();
    let token = gateway.token("u1").roles(&["staff", "auditor"]).claim("session_id", &*session);
    let token = token.sign();
    let expected = [
        "x-session-id: ".to_owned() + &session,
        "x-user-id: u1".to_owned(),
        "x-user-roles: auditor,staff".to_owned(),
    ];
    for path in ["/private/a", "/optional/a", "/api/u1/a"] {
        for lines in FORGERIES {
            let seen = forge(&gateway, &upstream, path, Some(&token), lines).await;
            check(path, lines, &seen, &expected);
        }
    }
}

/// A preflight that is handed on asks for no token, but says no more than others.
#[tokio::test]
async fn a_preflight_claims_no_identity() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(
            r#"
            [cors]
            allowed_origins = ["https://app.example"]
            [[routes]]
            path = "/handed/{user_id}/{*rest}"
            upstream = "app"
            preflight = "forward"
            "#,
        )
        .start()
        .await;
    let preflight = "OPTIONS /handed/u1/a HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\
                     Origin: https://app.example\r\nAccess-Control-Request-Method: GET\r\n";
    for lines in FORGERIES {
        let before = upstream.count();
        let head = format!("{preflight}{lines}\r\n\r\n");
        let bytes: Vec<u8> = head.chars().map(|c| u8::try_from(c).expect("Latin-1")).collect();
        assert_eq!(gateway.raw(bytes).await.statuses(), [200], "{lines:?}");
        assert_eq!(upstream.count(), before + 1, "{lines:?}");
        check("/handed/u1/a", lines, &upstream.last(), &[]);
    }
    // Without its marks it is a request like any other.
    for marks in ["", "Origin: https://app.example\r\n", "Access-Control-Request-Method: GET\r\n"] {
        let head = format!(
            "OPTIONS /handed/u1/a HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n{marks}\r\n"
        );
        assert_eq!(gateway.raw(head).await.statuses(), [401], "{marks:?}");
    }
}

#[tokio::test]
async fn a_public_route_does_not_look_at_tokens() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let good = gateway.token("u1").sign();
    for token in [&*good, "not.a.token"] {
        let seen = forge(&gateway, &upstream, "/public/a", Some(token), "X-User-Id: victim").await;
        check("/public/a", token, &seen, &[]);
    }
}

#[tokio::test]
async fn a_signed_up_user_is_named_to_the_upstream() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    let ann = gateway.sign_up("ann").await;
    let target = format!("/api/{}/tasks", ann.id);
    gateway.get(&target).bearer(&ann.token).send().await.expect(200);
    let seen = upstream.only();
    assert_eq!(seen.header("x-user-id"), Some(&*ann.id));
    assert!(seen.header("x-session-id").is_some_and(|id| Uuid::parse_str(id).is_ok()));
    assert_eq!(seen.header("x-user-email"), None, "the address is not confirmed");
    assert_eq!(seen.header("x-user-roles"), None, "there are none");
    assert_eq!(seen.header("authorization"), None);
}

#[tokio::test]
async fn identity_headers_go_by_the_configured_names() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .known_secret()
        .config("[identity_headers]\nuser_id = \"X-Remote-User\"")
        .start()
        .await;
    let lines = "X-Remote-User: victim\r\nx_remote_user: victim\r\nX.Remote-User: victim\r\n\
                 Connection: X-Remote-User";
    let token = gateway.token("u1").sign();
    let seen = forge(&gateway, &upstream, "/private/a", Some(&token), lines).await;
    assert_eq!(seen.header("x-remote-user"), Some("u1"));
    assert!(!String::from_utf8_lossy(&seen.raw).contains(FORGED), "{:?}", seen.headers);
    assert_eq!(seen.header("x-user-id"), None);
    let seen = forge(&gateway, &upstream, "/public/a", None, lines).await;
    assert_eq!(seen.header("x-remote-user"), None);
    assert!(!String::from_utf8_lossy(&seen.raw).contains(FORGED), "{:?}", seen.headers);
}

#[tokio::test]
async fn the_token_is_passed_on_only_where_the_route_says_so() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .known_secret()
        .config(
            r#"
            [[routes]]
            path = "/kept/{*rest}"
            upstream = "app"
            forward_token = true
            [[routes]]
            path = "/taken/{*rest}"
            upstream = "app"
            [[routes]]
            path = "/public/{*rest}"
            upstream = "app"
            access = "public"
            "#,
        )
        .start()
        .await;
    let token = gateway.token("u1").sign();
    let bearer = format!("Bearer {token}");
    for (path, authorization, expected) in [
        ("/kept/a", &*bearer, Some(&*bearer)),
        ("/taken/a", &bearer, None),
        ("/public/a", &bearer, None),
        ("/public/a", "Basic dTpw", Some("Basic dTpw")),
        ("/public/a", "Negotiate abc", Some("Negotiate abc")),
    ] {
        gateway.get(path).header("Authorization", authorization).send().await.expect(200);
        assert_eq!(upstream.last().header("authorization"), expected, "{path} {authorization}");
    }
    // Naming it as hop-by-hop neither saves nor hides it.
    for path in ["/taken/a", "/public/a"] {
        let request = gateway.get(path).bearer(&token).header("Connection", "authorization");
        request.send().await.expect(200);
        assert_eq!(upstream.last().header("authorization"), None);
    }
}

#[tokio::test]
async fn hop_by_hop_headers_end_here_in_both_directions() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Secret, keep-alive\r\n\
                  Connection: x-other\r\nX-Secret: 1\r\nX-Other: 2\r\nKeep-Alive: timeout=5\r\n\
                  Proxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\nTrailer: X-T\r\n\
                  Upgrade: h2c\r\nX-Kept: a\r\nX-Kept: b\r\n\r\nok";
    let upstream = Upstream::scripted(move |_| reply(answer)).await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let request = gateway
        .get("/public/a")
        .header("Connection", "X-Custom")
        .header("connection", "x-second , keep-alive")
        .header("X-Custom", "1")
        .header("X-Second", "2")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Authorization", "Basic dTpw")
        .header("TE", "gzip")
        .header("X-Kept", "a")
        .header("X-Kept", "b");
    let answer = request.send().await.expect(200);
    let gone = ["x-custom", "x-second", "keep-alive", "proxy-authorization", "te", "connection"];
    let seen = upstream.only();
    for name in gone {
        assert!(!seen.headers.has(name), "{name}: {:?}", seen.headers);
    }
    assert_eq!(seen.headers.all("x-kept"), ["a", "b"]);
    let gone = ["x-secret", "x-other", "keep-alive", "proxy-authenticate", "proxy-connection"];
    for name in gone.into_iter().chain(["trailer", "upgrade"]) {
        assert!(!answer.headers.has(name), "{name}: {:?}", answer.headers);
    }
    assert_eq!(answer.headers.all("x-kept"), ["a", "b"]);
    assert_eq!(answer.text(), "ok");
}

#[tokio::test]
async fn naming_a_length_as_hop_by_hop_does_not_unframe_a_body() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for names in ["Content-Length", "Transfer-Encoding", "content-length, transfer-encoding, host"]
    {
        let request = gateway.post("/public/a").header("Connection", names).body("abc");
        let answer = request.send().await;
        assert!(matches!(answer.status, 200 | 400), "{names}: {}", answer.status);
        if answer.status == 200 {
            let seen = upstream.last();
            assert_eq!((&*seen.body, seen.complete), (&b"abc"[..], true), "{names}");
        }
    }
}

#[tokio::test]
async fn everything_else_passes_unchanged() {
    let answer = "HTTP/1.1 203 Fine\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                  Server: upstream/1\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nETag: \"x\"\r\n\
                  X-Latin: \u{e4}\r\nX-User-Id: theirs\r\n\r\nok";
    let bytes: Vec<u8> = answer.chars().map(|c| u8::try_from(c).expect("Latin-1")).collect();
    let upstream = Upstream::scripted(move |_| reply(&bytes)).await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let kept = [
        ("Accept", "text/html, */*;q=0.1"),
        ("Cookie", "a=1; b=2"),
        ("User-Agent", "test/1 (x; y)"),
        ("X-Custom", "one"),
        ("X-Custom", "two,  three"),
        ("X_Custom", "kept"),
        ("X.Custom", "kept too"),
        ("X-Latin", "\u{e4}\u{f6}"),
        ("X-Empty", ""),
        ("Range", "bytes=0-1"),
        ("Accept-Encoding", "gzip"),
        ("If-None-Match", "\"x\""),
        ("Origin", "https://example.com"),
        ("Content-Type", "text/plain"),
    ];
    let request = kept
        .iter()
        .fold(gateway.post("/public/a?x=y"), |request, (name, value)| request.header(name, value));
    let answer = request.body("abc").send().await.expect(203);
    let seen = upstream.only();
    for (name, _) in kept {
        let sent: Vec<_> = kept.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect();
        assert_eq!(seen.headers.all(name), sent, "{name}");
    }
    assert_eq!((&*seen.method, &*seen.target, &*seen.body), ("POST", "/public/a?x=y", &b"abc"[..]));
    assert_eq!(answer.headers.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.header("server"), Some("upstream/1"));
    assert_eq!(answer.header("date"), Some("Sat, 21 Nov 2026 10:00:00 GMT"));
    assert_eq!(answer.header("etag"), Some("\"x\""));
    assert_eq!(answer.header("x-latin"), Some("\u{e4}"));
    assert_eq!(answer.text(), "ok");
}

#[tokio::test]
async fn a_well_formed_request_id_is_kept_and_any_other_replaced() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let good = Uuid::new_v4().to_string();
    let sent = |request: Request| async {
        let answer: Answer = request.send().await.expect(200);
        let seen = upstream.last().header("x-request-id").expect("a request id").to_owned();
        assert_eq!(answer.header("x-request-id"), Some(&*seen), "the client is told the same");
        seen
    };
    assert_eq!(sent(gateway.get("/public/a").header("X-Request-Id", &good)).await, good);
    let long = "a".repeat(300);
    for bad in ["", "a b", "\"quoted\"", "a;b\u{e4}", "../../etc", "<script>", &long] {
        let id = sent(gateway.get("/public/a").header("X-Request-Id", bad)).await;
        assert!(id != bad && Uuid::parse_str(&id).is_ok(), "{bad:?} became {id:?}");
    }
    let two = gateway.get("/public/a").header("X-Request-Id", &good).header("X-Request-Id", "b");
    let id = sent(two).await;
    assert!(Uuid::parse_str(&id).is_ok(), "{id:?}");
    let made: Vec<String> =
        [sent(gateway.get("/public/a")).await, sent(gateway.get("/public/a")).await].into();
    assert_ne!(made[0], made[1]);
    let refused = gateway.get("/private/a").header("X-Request-Id", &good).send().await;
    refused.expect_problem(401, "no_authorization");
    assert_eq!(refused.header("x-request-id"), Some(&*good));
}

#[tokio::test]
async fn via_names_us_after_those_before_us() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    gateway.get("/public/a").send().await.expect(200);
    let via = upstream.last().header("via").expect("a Via").to_owned();
    assert!(via.starts_with("1.1 "), "{via}");
    gateway.get("/public/a").header("Via", "1.0 first").send().await.expect(200);
    let all = upstream.last().headers.all("via").join(", ");
    assert_eq!(all, format!("1.0 first, {via}"));
}

#[tokio::test]
async fn the_host_is_the_clients_or_the_servers_as_configured() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .upstream("own", &upstream)
        .config(
            r#"
            [upstreams.own]
            host = "upstream"
            [[routes]]
            path = "/preserved/{*rest}"
            upstream = "app"
            access = "public"
            [[routes]]
            path = "/own/{*rest}"
            upstream = "own"
            access = "public"
            "#,
        )
        .start()
        .await;
    for (path, expected) in
        [("/preserved/a", "api.example:8443"), ("/own/a", &upstream.authority())]
    {
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: api.example:8443\r\nConnection: close\r\n\r\n");
        assert_eq!(gateway.raw(head).await.statuses(), [200]);
        assert_eq!(upstream.last().header("host"), Some(expected));
        assert_eq!(upstream.last().header("x-forwarded-host"), Some("api.example:8443"));
    }
}

/// A gateway behind a proxy on this machine.
async fn behind_a_proxy(upstream: &Upstream, config: &str) -> TestGateway {
    TestGateway::builder()
        .upstream("app", upstream)
        .known_secret()
        .config("[server]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\", \"fd00::/8\"]")
        .config(config)
        .start()
        .await
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_right_most_untrusted_address_is_the_client() {
    let upstream = Upstream::echo().await;
    let gateway = behind_a_proxy(&upstream, "").await;
    for (index, (header, client)) in [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.7, 203.0.113.9", "203.0.113.9"),
        ("198.51.100.7, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("198.51.100.7,203.0.113.9 ,10.1.2.3,\t10.1.2.4", "203.0.113.9"),
        ("127.0.0.1, 203.0.113.9", "203.0.113.9"),
        ("2001:db8::9", "2001:db8::9"),
        ("[2001:db8::9]:1234", "2001:db8::9"),
        ("203.0.113.9:1234", "203.0.113.9"),
        ("2001:db8::9, fd00::1", "2001:db8::9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("/public/{index}");
        gateway.get(&target).header("X-Forwarded-For", header).send().await.expect(200);
        let line = gateway.log_line(|line| line["path"] == target).await;
        assert_eq!(line["client"], client, "{header}");
        let seen = upstream.last();
        let forwarded = seen.headers.all("x-forwarded-for").join(", ");
        assert!(forwarded.contains(client), "{header} became {forwarded}");
    }
    // Several lines are one list (RFC 9110 §5.3).
    let request = gateway.get("/public/lines").header("X-Forwarded-For", "198.51.100.7");
    request.header("X-Forwarded-For", "203.0.113.9").send().await.expect(200);
    let line = gateway.log_line(|line| line["path"] == "/public/lines").await;
    assert_eq!(line["client"], "203.0.113.9");
}

#[tokio::test]
async fn behind_a_trusted_proxy_other_forwarding_headers_are_not_believed() {
    let upstream = Upstream::echo().await;
    let gateway = behind_a_proxy(&upstream, "[server]\nforwarded_header = \"forwarded\"").await;
    let request = gateway
        .get("/public/a")
        .header("Forwarded", "for=198.51.100.7;proto=http, for=\"203.0.113.9:80\";by=10.0.0.1")
        .header("X-Forwarded-For", "192.0.2.1");
    request.send().await.expect(200);
    let line = gateway.log_line(|line| line["path"] == "/public/a").await;
    assert_eq!(line["client"], "203.0.113.9");
    assert!(!String::from_utf8_lossy(&upstream.only().raw).contains("192.0.2.1"));
    let lines = "X-User-Id: victim\r\nX_User_Id: victim\r\nX-Original-URL: /victim\r\n\
                 X-Real-IP: victim";
    let seen = forge(&gateway, &upstream, "/public/b", None, lines).await;
    assert_eq!(identity(&seen), [""; 0]);
    assert!(!seen.headers.has("x-original-url"));
}

#[tokio::test]
async fn a_forwarding_header_of_an_untrusted_peer_changes_nothing() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(
            r#"
            [server]
            trusted_proxies = ["10.0.0.0/8"]
            [limits]
            few = { rate = "3/minute", by = "ip" }
            [[routes]]
            path = "/few/{*rest}"
            upstream = "app"
            access = "public"
            limit = ["few"]
            "#,
        )
        .start()
        .await;
    let statuses = |n: u8| {
        let request = gateway.get("/few/a").header("X-Forwarded-For", format!("203.0.113.{n}"));
        let request = request.header("Forwarded", format!("for=203.0.113.{n}"));
        request.header("X-Real-IP", format!("203.0.113.{n}")).send()
    };
    let mut all = Vec::new();
    for n in 0..4 {
        all.push(statuses(n).await.status);
    }
    assert_eq!(all, [200, 200, 200, 429], "addresses are not counted as the client names them");
    assert_eq!(gateway.log_line(|_| true).await["client"], "127.0.0.1");
    gateway.advance(Duration::from_secs(61));
    assert_eq!(statuses(9).await.status, 200);
}
