use std::sync::Arc;

use http::Method;

use super::*;
use crate::identity::{Credential, IssuerIndex};
use crate::message::FieldList;
use crate::proxy::decide::{Decision, decide_quietly};
use crate::proxy::route::RouteTable;

const CONFIG: &str = r#"
    [upstreams.app]
    servers = ["http://127.0.0.1:8000"]
    [[routes]]
    path = "/api/{*rest}"
    upstream = "app"
    [[routes]]
    path = "/public/{*rest}"
    upstream = "app"
    access = "public"
    [[routes]]
    path = "/passed/{*rest}"
    upstream = "app"
    forward_token = true
"#;

/// Header lines as sent.
type Lines = &'static [(&'static str, &'static str)];

/// Who is asking, over which kind of peer.
#[derive(Clone, Copy, Debug)]
enum From {
    Stranger,
    TrustedProxy,
    TrustedProxyWithForwarded,
}

fn list(lines: &[(&str, &str)]) -> FieldList {
    std::iter::once(&("host", "api.example")).chain(lines).copied().collect()
}

/// The headers that an upstream receives for a request of user `u1` with role `clerk`.
fn forwarded(path: &str, from: From, lines: &[(&str, &str)]) -> HeaderMap {
    let mut config: Config = toml::from_str(CONFIG).unwrap();
    if let From::TrustedProxyWithForwarded = from {
        config.server.forwarded_header = ForwardedHeader::Forwarded;
    }
    let table = RouteTable::compile(&config).unwrap();
    let policy = HeaderPolicy::compile(&config).unwrap();
    let list = list(lines);
    let caller = Arc::new(caller_with(&["clerk".to_owned()]));
    let credential = |_: &_| Credential::Verified(caller);
    let Decision::Permit(permit) = decide_quietly(&table, &Method::GET, path, None, credential, 0)
    else {
        panic!("{path} was refused");
    };
    let now = jiff::Timestamp::from_second(1).unwrap();
    let request_id = RequestIds::new().id_of(list.view(), now);
    let hop = Hop {
        peer: "192.0.2.9",
        client: "203.0.113.7",
        trusted: !matches!(from, From::Stranger),
        scheme: Scheme::Http,
        version: Version::Http11,
        client_certificate: None,
        request_id: &request_id,
    };
    let mut headers = HeaderMap::new();
    policy.write_request(list.view(), &permit, &hop, &mut headers);
    headers
}

fn caller_with(roles: &[String]) -> Identity {
    Identity::synthetic("u1", roles, IssuerIndex::OURS, "self".into()).unwrap()
}

fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

/// However the client spells, lists or repeats headers, this holds for what leaves.
fn assert_ours_only(headers: &HeaderMap, caller: bool, shown: &str) {
    let mut buffer = [0; MAX_NAME_BYTES];
    for name in headers.keys() {
        let folded = names::fold(name.as_str().as_bytes(), &mut buffer);
        let watched = [
            "x-user-id",
            "x-user-email",
            "x-user-roles",
            "x-session-id",
            "x-user-scopes",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id",
        ];
        if let Some(own) = watched.iter().find(|own| own.as_bytes() == folded) {
            assert_eq!(name.as_str(), *own, "{shown}: a twin came through");
            assert_eq!(values(headers, own).len(), 1, "{shown}: {own} is there twice");
        }
    }
    let expected: [&[&str]; 2] = if caller { [&["u1"], &["clerk"]] } else { [&[], &[]] };
    assert_eq!(
        [values(headers, "x-user-id"), values(headers, "x-user-roles")],
        expected,
        "{shown}"
    );
    assert!(
        !headers.contains_key("x-user-email") && !headers.contains_key("x-session-id"),
        "{shown}"
    );
    for gone in ["connection", "transfer-encoding", "content-length", "te", "trailer", "upgrade"] {
        assert!(!headers.contains_key(gone), "{shown}: {gone}");
    }
}

#[test]
fn no_forged_header_reaches_an_upstream() {
    // What a client sends, and the names that must not arrive.
    let cases: &[(Lines, &[&str])] = &[
        // identity headers, in every spelling
        (&[("X-User-Id", "u2")], &[]),
        (&[("x-user-id", "u2"), ("X-USER-ID", "u3")], &[]),
        (&[("X_User_Id", "u2")], &["x_user_id"]),
        (&[("X-User_Id", "u2")], &["x-user_id"]),
        (&[("X.User.Id", "u2")], &["x.user.id"]),
        (&[("x_user-id", "u2")], &["x_user-id"]),
        (&[("X-User.Id", "u2"), ("x.user_id", "u2")], &["x-user.id", "x.user_id"]),
        (&[("X!User!Id", "u2")], &["x!user!id"]),
        (&[("X~User|Id", "u2")], &["x~user|id"]),
        (&[("X-User-Id", "")], &[]),
        (&[("X-User-Id", "u1, u2")], &[]),
        (&[("X-User-Email", "root@example.com")], &["x-user-email"]),
        (&[("X_USER_EMAIL", "root@example.com")], &["x_user_email"]),
        (&[("X-User-Roles", "admin")], &[]),
        (&[("X_User_Roles", "admin"), ("X-User-Roles", "admin")], &["x_user_roles"]),
        (&[("X-Session-Id", "s")], &["x-session-id"]),
        (&[("X-Session.Id", "s")], &["x-session.id"]),
        // hop-by-hop, and names listed in Connection
        (&[("Connection", "X-User-Id")], &["connection"]),
        (&[("Connection", "close, x-user-id, x-user-roles")], &["connection"]),
        (&[("Connection", "keep-alive"), ("Connection", "X-User-Id")], &["connection"]),
        (
            &[("Connection", "X-Forwarded-For, X-Forwarded-Host, X-Request-Id, Via")],
            &["connection"],
        ),
        (&[("Connection", "X-Secret"), ("X-Secret", "1")], &["x-secret"]),
        (
            &[("Connection", "close"), ("Connection", "a,X-Secret ,b"), ("X-Secret", "1")],
            &["x-secret"],
        ),
        (
            &[("Connection", ",,\t X-SECRET\t,"), ("X-Secret", "1"), ("X-Secret", "2")],
            &["x-secret"],
        ),
        (&[("Connection", "\"x-user-id\", (x), héader")], &["connection"]),
        (
            &[("Keep-Alive", "timeout=5"), ("Proxy-Connection", "keep-alive")],
            &["keep-alive", "proxy-connection"],
        ),
        (&[("Proxy-Authorization", "Basic eDp5")], &["proxy-authorization"]),
        (&[("Proxy_Authorization", "Basic eDp5")], &["proxy_authorization"]),
        (&[("Proxy", "http://evil.example")], &["proxy"]),
        // framing
        (&[("Transfer-Encoding", "chunked")], &["transfer-encoding"]),
        (&[("Transfer_Encoding", "chunked")], &["transfer_encoding"]),
        (&[("Transfer.Encoding", "chunked")], &["transfer.encoding"]),
        (
            &[("Content-Length", "5"), ("Content_Length", "6")],
            &["content-length", "content_length"],
        ),
        (&[("TE", "trailers"), ("Trailer", "X-User-Id")], &["te", "trailer"]),
        (&[("Expect", "100-continue")], &["expect"]),
        // upgrades that would leave the checks behind
        (
            &[
                ("Connection", "Upgrade, HTTP2-Settings"),
                ("Upgrade", "h2c"),
                ("HTTP2-Settings", "AA"),
            ],
            &["upgrade", "http2-settings"],
        ),
        (&[("HTTP2-Settings", "AA")], &["http2-settings"]),
        // another method, another target
        (&[("X-Original-URL", "/admin")], &["x-original-url"]),
        (&[("X_Original_URL", "/admin")], &["x_original_url"]),
        (
            &[("X-Rewrite-URL", "/admin"), ("x-rewrite_url", "/admin")],
            &["x-rewrite-url", "x-rewrite_url"],
        ),
        (
            &[("X-Original-Host", "evil"), ("X-Original-URI", "/admin")],
            &["x-original-host", "x-original-uri"],
        ),
        (&[("X-HTTP-Method-Override", "DELETE")], &["x-http-method-override"]),
        (&[("X_HTTP_Method_Override", "DELETE")], &["x_http_method_override"]),
        (
            &[("X-HTTP-Method", "DELETE"), ("X-Method-Override", "DELETE")],
            &["x-http-method", "x-method-override"],
        ),
        // where the request came from
        (&[("X-Forwarded-For", "10.0.0.1")], &[]),
        (&[("X_Forwarded_For", "10.0.0.1")], &["x_forwarded_for"]),
        (&[("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-For", "10.0.0.2")], &[]),
        (&[("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "https")], &[]),
        (
            &[("X-Forwarded-Prefix", "/x"), ("X-Forwarded-Port", "1")],
            &["x-forwarded-prefix", "x-forwarded-port"],
        ),
        (
            &[("X-Forwarded-User", "u2"), ("X_Forwarded_User", "u2")],
            &["x-forwarded-user", "x_forwarded_user"],
        ),
        (&[("Forwarded", "for=10.0.0.1;host=evil")], &["forwarded"]),
        (&[("X-Real-IP", "10.0.0.1"), ("X_Real_IP", "10.0.0.1")], &["x-real-ip", "x_real_ip"]),
        // the token and the id
        (&[("Authorization", "Bearer t")], &["authorization"]),
        (&[("Authorization", "bEaReR\tt")], &["authorization"]),
        (&[("Authorization", "Basic eDp5, Bearer t")], &["authorization"]),
        (&[("Authorization", "Basic eDp5"), ("Authorization", "Bearer t")], &["authorization"]),
        (&[("X_Request_Id", "r")], &["x_request_id"]),
        (&[("X-Request-Id", "one"), ("X-Request-Id", "two")], &[]),
    ];
    assert!(cases.len() >= 40);
    for (lines, gone) in cases {
        for (path, caller) in [("/api/x", true), ("/public/x", false)] {
            let headers = forwarded(path, From::Stranger, lines);
            let shown = format!("{path} {lines:?}");
            assert_ours_only(&headers, caller, &shown);
            for name in *gone {
                assert!(!headers.contains_key(*name), "{shown}: {name} came through");
            }
            assert!(!headers.contains_key("host"), "{shown}: it is the writer's");
            assert_eq!(values(&headers, "x-forwarded-for"), ["192.0.2.9"], "{shown}");
            assert_eq!(values(&headers, "x-forwarded-host"), ["api.example"], "{shown}");
            assert_eq!(values(&headers, "x-forwarded-proto"), ["http"], "{shown}");
            assert_eq!(values(&headers, "via"), ["1.1 portcullis"], "{shown}");
        }
    }
}

#[test]
fn what_is_the_clients_own_arrives_as_it_was() {
    let lines = [
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
        ("cookie", "a=b"),
        ("content-type", "application/json"),
        ("x-custom_name", "1"),
        ("x-original-filename", "a.txt"),
        ("x-user-id-hint", "2"),
        ("te-st", "3"),
        ("proxyish", "4"),
        ("via", "1.1 cdn"),
        ("x-request-id", "req.1"),
        ("range", "bytes=0-1"),
    ];
    let headers = forwarded("/api/x", From::Stranger, &lines);
    for (name, value) in lines {
        assert_eq!(headers[name], value, "{name}");
    }
    assert_eq!(values(&headers, "via"), ["1.1 cdn", "1.1 portcullis"]);
}

#[test]
fn a_token_is_passed_on_only_where_the_route_says_so() {
    let basic = [("authorization", "Basic eDp5")];
    let bearer = [("authorization", "Bearer t")];
    for (path, lines, expected) in [
        ("/public/x", &basic, &["Basic eDp5"][..]),
        ("/api/x", &basic, &["Basic eDp5"]),
        ("/public/x", &bearer, &[]),
        ("/api/x", &bearer, &[]),
        ("/passed/x", &bearer, &["Bearer t"]),
    ] {
        let headers = forwarded(path, From::Stranger, lines);
        assert_eq!(values(&headers, "authorization"), expected, "{path} {lines:?}");
    }
}

#[test]
fn a_trusted_proxy_is_believed_in_the_one_header_it_writes() {
    let said = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-for", "198.51.100.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-prefix", "/shop"),
        ("x-real-ip", "203.0.113.7"),
        ("forwarded", "for=203.0.113.7"),
        ("x_forwarded_for", "10.0.0.1"),
        ("connection", "x-forwarded-for, x-forwarded-proto"),
    ];
    let headers = forwarded("/api/x", From::TrustedProxy, &said);
    assert_ours_only(&headers, true, "trusted");
    assert_eq!(headers["x-forwarded-for"], "203.0.113.7, 198.51.100.2, 192.0.2.9");
    assert_eq!(headers["x-forwarded-proto"], "https");
    assert_eq!(headers["x-forwarded-host"], "shop.example");
    assert_eq!(headers["x-forwarded-prefix"], "/shop");
    assert_eq!(headers["x-real-ip"], "203.0.113.7");
    assert!(!headers.contains_key("forwarded"));

    let headers = forwarded("/api/x", From::TrustedProxyWithForwarded, &said);
    assert_ours_only(&headers, true, "trusted, Forwarded");
    assert_eq!(headers["forwarded"], "for=203.0.113.7");
    assert_eq!(headers["x-forwarded-for"], "203.0.113.7, 192.0.2.9");

    for lines in [
        &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")][..],
        &[("x-forwarded-proto", "gopher")],
        &[],
    ] {
        let headers = forwarded("/api/x", From::TrustedProxy, lines);
        assert_eq!(values(&headers, "x-forwarded-proto"), ["http"], "{lines:?}");
        assert_eq!(values(&headers, "x-forwarded-for"), ["192.0.2.9"], "{lines:?}");
    }
}

#[test]
fn answers_lose_what_was_between_the_upstream_and_us() {
    let list = list(&[
        ("Connection", "close, X-Internal"),
        ("connection", "x-other"),
        ("x-internal", "1"),
        ("X-Other", "2"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("trailer", "x-sum"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("transfer-encoding", "chunked"),
        ("content-length", "7"),
        ("x-request-id", "theirs"),
        ("access-control-allow-origin", "*"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("www-authenticate", "Basic"),
        ("date", "now"),
    ]);
    let mut headers = HeaderMap::new();
    write_response(list.view(), |known| known == Known::AllowOrigin, &mut headers);
    let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["date", "host", "set-cookie", "www-authenticate"]);
    assert_eq!(values(&headers, "set-cookie"), ["a=1", "b=2"]);
}

#[test]
fn trailers_say_nothing_that_headers_may_not() {
    let policy = HeaderPolicy::compile(&toml::from_str(CONFIG).unwrap()).unwrap();
    let mut trailers = HeaderMap::new();
    for name in ["grpc-status", "x-sum", "x-user-id", "x_user_roles", "authorization", "host", "te"]
    {
        trailers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
        trailers.append(HeaderName::from_static(name), HeaderValue::from_static("2"));
    }
    let left = policy.passing_trailers(trailers);
    let names: Vec<&str> = left.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["grpc-status", "x-sum"]);
    assert_eq!(values(&left, "x-sum"), ["1", "2"]);
}

#[test]
fn forwarded_is_written_when_asked_for() {
    let hop = |peer, client, trusted| {
        let request_id = RequestIds::new().id_of(list(&[]).view(), jiff::Timestamp::UNIX_EPOCH);
        let hop = Hop {
            peer,
            client,
            trusted,
            scheme: Scheme::Https,
            version: Version::Http2,
            client_certificate: None,
            request_id: &request_id,
        };
        let [plain, chained] =
            [ForwardedHeader::Forwarded, ForwardedHeader::XForwardedFor].map(|header| {
                String::from_utf8(super::forwarded(list(&[]).view(), &hop, header)).unwrap()
            });
        (plain, chained)
    };
    let (own, same) = hop("2001:db8::1", "2001:db8::1", false);
    assert_eq!(own, "for=\"[2001:db8::1]\";host=\"api.example\";proto=https");
    assert_eq!(own, same);
    let (own, chained) = hop("10.0.0.2", "203.0.113.7", true);
    assert_eq!(own, "for=10.0.0.2;host=\"api.example\";proto=https");
    assert_eq!(chained, format!("for=203.0.113.7, {own}"));
}

#[test]
fn names_that_cannot_carry_an_identity_are_refused() {
    for (name, part) in [
        ("", "no header name"),
        ("X User", "no header name"),
        ("X-User:", "no header name"),
        ("X-Üser", "no header name"),
        ("Host", "something else"),
        ("Authorization", "something else"),
        ("Content_Length", "something else"),
        ("Cookie", "something else"),
        ("X-Forwarded-For", "something else"),
        ("X-Forwarded-User", "something else"),
        ("Proxy-User", "something else"),
        ("X-Real-IP", "something else"),
        ("X-Request-Id", "something else"),
        ("X_User_Id", "another identity header"),
        (&"x".repeat(MAX_NAME_BYTES), "longer"),
    ] {
        let mut config = Config::default();
        name.clone_into(&mut config.identity_headers.email);
        let problems = HeaderPolicy::compile(&config).unwrap_err();
        assert_eq!(problems[0].key, "identity_headers.email", "{name}");
        assert!(problems[0].message.contains(part), "{name}: {problems:?}");
    }
    let mut config = Config::default();
    config.identity_headers.user_id = "Remote_User".to_owned();
    let policy = HeaderPolicy::compile(&config).unwrap();
    let caller = caller_with(&[]);
    let set: Vec<_> = policy.identity_headers(&caller).map(|(name, _)| name.as_str()).collect();
    assert_eq!(set, ["remote_user", "x-user-issuer"]);
    // Both the configured spelling and its twins are the gateway's.
    assert_eq!(policy.names.classify(b"remote_user"), Class::Drop);
    assert_eq!(policy.names.classify(b"remote-user"), Class::Drop);
}
