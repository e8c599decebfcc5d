//! A request from the client's bytes to the upstream's: read, check, decide, headers, head. What the
//! upstream gets is strict, has one reading, and that reading is the client's request with our word
//! on who is calling. And nothing is sent for bytes that the oracle does not take.
//!
//! Differences that are meant, and all of them: empty lines before the request are dropped; the
//! target loses scheme and authority; field lines are ended and spaced alike; chunk extensions and
//! trailers go; white space around a value that came over HTTP/2 goes; hop-by-hop, identity and forwarding lines are replaced by ours.

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis::config::Config;
use portcullis::identity::{Credential, Identity, IssuerIndex};
use portcullis::message::{BodyLength, RequestHead, Version};
use portcullis::proxy::decide::{Decision, decide_quietly};
use portcullis::proxy::headers::{HeaderPolicy, Hop, RequestIds, Scheme};
use portcullis::proxy::link::RequestLine;
use portcullis::proxy::route::RouteTable;

use crate::{path, request_head};
use crate::strict::{self, Framing};

const CONFIG: &str = r#"
[upstreams.app]
servers = ["http://127.0.0.1:1"]
[[routes]]
path = "/api/{user_id}/{*rest}"
upstream = "app"
[[routes]]
path = "/public/{*rest}"
upstream = "app"
access = "public"
[[routes]]
path = "/ws/{*rest}"
upstream = "app"
websocket_token = true
[[routes]]
path = "/v1/{*rest}"
upstream = "app"
access = "public"
strip_prefix = "/v1"
"#;

struct World {
    table: RouteTable,
    policy: HeaderPolicy,
    caller: Arc<Identity>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let config: Config = toml::from_str(CONFIG).expect("the text is TOML");
    let caller = Identity::synthetic("u1", &["clerk".to_owned()], IssuerIndex::OURS, "self".into());
    World {
        table: RouteTable::compile(&config).expect("it compiles"),
        policy: HeaderPolicy::compile(&config).expect("it compiles"),
        caller: Arc::new(caller.expect("a good subject")),
    }
});

/// An even first byte: bytes of HTTP/1. An odd one: a request over HTTP/2, whose fields have come
/// through its library: `method LF path LF authority` and lines `name: value`.
pub fn check(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let trusted = choice & 2 != 0;
    if choice & 1 == 0 {
        let Ok(Some((head, left))) = request_head::take(bytes, bytes.len().max(1)) else { return };
        let Some(sent) = send(&head, trusted) else { return };
        let oracle = request_head::agree(bytes, &head, left.len());
        let fields = oracle.fields.clone();
        compare(&head, &sent, &fields, trusted);
    } else {
        let Some(mut head) = over_http2(bytes) else { return };
        if head.check(false).is_err() {
            return;
        }
        let Some(sent) = send(&head, trusted) else { return };
        let fields: Vec<_> = head.fields().iter().map(|f| (f.name, f.value)).collect();
        compare(&head, &sent, &fields, trusted);
    }
}

fn over_http2(bytes: &[u8]) -> Option<RequestHead> {
    let mut lines = bytes.split(|&b| b == b'\n');
    let method = Method::from_bytes(lines.next()?).ok()?;
    // As the library hands it over: what parses as a URI.
    let path: http::uri::PathAndQuery = std::str::from_utf8(lines.next()?).ok()?.parse().ok()?;
    let authority: http::uri::Authority = std::str::from_utf8(lines.next()?).ok()?.parse().ok()?;
    let mut headers = HeaderMap::new();
    for line in lines.take(90) {
        let colon = line.iter().position(|&b| b == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        headers.append(name, HeaderValue::from_bytes(&line[colon + 1..]).ok()?);
    }
    let (authority, path) = (authority.as_str(), path.as_str());
    let body = BodyLength::Streamed;
    Some(RequestHead::of_http2(method, path, Some(authority), &headers, body, false))
}

/// The head that the upstream gets, when the request is permitted.
fn send(head: &RequestHead, trusted: bool) -> Option<Vec<u8>> {
    let world = &*WORLD;
    let credential = |_: &_| Credential::Verified(Arc::clone(&world.caller));
    let decision = decide_quietly(&world.table, &head.method, head.path(), None, credential, 0);
    let Decision::Permit(permit) = decision else { return None };
    let now = jiff::Timestamp::from_second(1_800_000_000).expect("a time");
    let request_id = RequestIds::new().id_of(head.fields(), now);
    let hop = Hop {
        peer: "192.0.2.9",
        client: "192.0.2.9",
        trusted,
        scheme: Scheme::Http,
        version: head.version,
        client_certificate: None,
        request_id: &request_id,
    };
    let path = permit.forwarded_path(head.path_bytes());
    let host = head.fields().first(portcullis::message::Known::Host);
    let line = RequestLine {
        method: &head.method,
        target: [path, head.query_bytes()],
        host: host.unwrap_or(b"127.0.0.1:1"),
        body: head.body,
        websocket: head.websocket,
    };
    let mut out = Vec::new();
    let chunked =
        line.write(&mut out, |out| world.policy.write_request(head.fields(), &permit, &hop, out));
    assert_eq!(chunked, head.body == BodyLength::Streamed);
    Some(out)
}

/// What is left of a target whose first segment means `segment`, however that is written.
fn without_first_segment(target: &[u8], segment: &[u8]) -> Option<Vec<u8>> {
    let rest = target.strip_prefix(b"/")?;
    let end = rest.iter().position(|b| b"/?".contains(b)).unwrap_or(rest.len());
    let (first, rest) = rest.split_at(end);
    let meant = path::decode(first)? == segment;
    let root: &[u8] = if rest.starts_with(b"/") { b"" } else { b"/" };
    meant.then(|| [root, rest].concat())
}

fn compare(head: &RequestHead, sent: &[u8], came: &[(&[u8], &[u8])], trusted: bool) {
    let oracle = strict::request(sent).unwrap_or_else(|why| panic!("sent, but not strict: {why}"));
    assert_eq!(oracle.bytes, sent.len(), "bytes behind the head");
    assert_eq!(oracle.minor, 1);
    assert_eq!(oracle.method, head.method.as_str().as_bytes());
    let target = head.target().as_bytes();
    let stripped = without_first_segment(target, b"v1");
    assert!(oracle.target == target || Some(oracle.target) == stripped.as_deref(), "another target");
    match (oracle.framing, head.body) {
        (Framing::Chunked, BodyLength::Streamed) => {}
        (Framing::Length(one), BodyLength::Exactly(two)) => assert_eq!(one, two, "another length"),
        other => panic!("another framing: {other:?}"),
    }
    let values = |name| strict::values(&oracle.fields, name);
    let public = !head.path().starts_with("/api") && !head.path().starts_with("/ws");
    // Ours, in whatever spelling an upstream folds it.
    for (name, value) in [("x-user-id", "u1"), ("x-user-roles", "clerk")] {
        let said: Vec<&[u8]> = twins(&oracle.fields, name);
        let expected: &[&[u8]] = if public { &[] } else { &[value.as_bytes()] };
        assert_eq!(said, expected, "{name}");
    }
    for name in ["x-user-email", "x-session-id", "x-client-certificate-subject"] {
        assert!(twins(&oracle.fields, name).is_empty(), "{name}");
    }
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-request-id"] {
        assert_eq!(twins(&oracle.fields, name).len(), 1, "{name}");
    }
    if !trusted {
        assert_eq!(values("x-forwarded-for"), [b"192.0.2.9"]);
        assert_eq!(values("x-forwarded-proto"), [b"http"]);
        for name in ["forwarded", "x-real-ip", "client-ip"] {
            assert!(twins(&oracle.fields, name).is_empty(), "{name}");
        }
    }
    for name in [
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
        "proxy",
        "te",
        "trailer",
        "keep-alive",
        "expect",
    ] {
        assert!(twins(&oracle.fields, name).is_empty(), "{name}");
    }
    for name in ["transfer-encoding", "content-length", "host"] {
        assert_eq!(twins(&oracle.fields, name).len(), values(name).len(), "a twin of {name}");
    }
    let websocket: (&[&[u8]], &[&[u8]]) =
        if head.websocket { (&[b"upgrade"], &[b"websocket"]) } else { (&[], &[]) };
    assert_eq!((&values("connection")[..], &values("upgrade")[..]), websocket);
    for line in values("authorization") {
        let lower = line.to_ascii_lowercase();
        assert!(!lower.split(|&b| b == b',').any(|c| c.trim_ascii().starts_with(b"bearer ")));
    }
    // Every line of the client's is one that came, in the order in which they came.
    let ours = [
        "host",
        "x-user-id",
        "x-user-roles",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "via",
        "x-request-id",
        "connection",
        "upgrade",
        "content-length",
        "transfer-encoding",
        "sec-websocket-protocol",
    ];
    let is_ours = |name: &[u8]| ours.iter().any(|o| name.eq_ignore_ascii_case(o.as_bytes()));
    let mut rest = came.iter();
    for (name, value) in oracle.fields.iter().filter(|(name, _)| !is_ours(name)) {
        // A value over HTTP/2 may come with white space around it, which means nothing in HTTP/1.1.
        let same = |line: &(&[u8], &[u8])| line.0 == *name && trimmed(line.1) == *value;
        assert!(rest.any(same), "a line from nowhere");
    }
    assert!(head.version != Version::Http10 || !matches!(head.body, BodyLength::Streamed));
}

fn trimmed(value: &[u8]) -> &[u8] {
    let is_white = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !is_white(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_white(b)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// The values of all lines whose name is `name` where everything that is no letter or digit is one
/// and the same.
fn twins<'a>(fields: &[(&'a [u8], &'a [u8])], name: &str) -> Vec<&'a [u8]> {
    let fold = |b: &u8| if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' };
    let same = |other: &[u8]| other.iter().map(fold).eq(name.bytes());
    fields.iter().filter(|(other, _)| same(other)).map(|(_, value)| *value).collect()
}
