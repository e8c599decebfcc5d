//! Raw bytes through a plain socket: what two servers could frame or read differently is refused
//! and never forwarded, and nothing that follows it on the connection is taken for a request.
//! The upstream parses strictly by itself, so a malformed request that gets through fails the test.

use std::fmt::Write as _;

use crate::harness::{Client, End, TestGateway, Transcript, Upstream};

/// Appended to every bad request; it must never count as a request of its own.
const SMUGGLED: &str = "GET /public/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Bad heads: what is wrong, the bytes, and the statuses that RFC 9112 leaves open. None reaches
/// the upstream, and the connection ends.
const BAD_HEADS: &[(&str, &str, &[u16])] = &[
    // Transfer-Encoding (RFC 9112 §6.1)
    (
        "chunked twice",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "chunked behind a comma",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "chunked before a comma",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "two lines",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "two lines that differ",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "another coding before",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "another coding after",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "identity",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
        &[400, 501],
    ),
    (
        "an unknown coding",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "a parameter",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "quotes",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "nothing",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "a vertical tab",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "a space before the colon",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "a folded coding",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        &[400, 501],
    ),
    (
        "chunked in HTTP/1.0",
        "POST /public/a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    // Content-Length (RFC 9110 §8.6)
    (
        "two lengths that differ",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
        &[400],
    ),
    (
        "a list of lengths that differ",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 5\r\n\r\n",
        &[400],
    ),
    ("a plus", "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n", &[400]),
    ("a minus", "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: -0\r\n\r\n", &[400]),
    ("hexadecimal", "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0x0\r\n\r\n", &[400]),
    ("a space inside", "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0 0\r\n\r\n", &[400]),
    ("an empty length", "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", &[400]),
    (
        "a huge length",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        &[400, 413],
    ),
    (
        "a length that wraps to 0",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
        &[400, 413],
    ),
    ("a fraction", "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0.0\r\n\r\n", &[400]),
    (
        "a folded length",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 0\r\n\r\n",
        &[400],
    ),
    (
        "a length with a space before the colon",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length : 0\r\n\r\n",
        &[400],
    ),
    // Host (RFC 9112 §3.2)
    ("no host", "GET /public/a HTTP/1.1\r\n\r\n", &[400]),
    ("two hosts", "GET /public/a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400]),
    ("the same host twice", "GET /public/a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", &[400]),
    ("an empty host", "GET /public/a HTTP/1.1\r\nHost:\r\n\r\n", &[400]),
    ("a list of hosts", "GET /public/a HTTP/1.1\r\nHost: a, b\r\n\r\n", &[400]),
    ("a host with a path", "GET /public/a HTTP/1.1\r\nHost: a/b\r\n\r\n", &[400]),
    ("a host with userinfo", "GET /public/a HTTP/1.1\r\nHost: u@a\r\n\r\n", &[400]),
    ("a host with a scheme", "GET /public/a HTTP/1.1\r\nHost: http://a\r\n\r\n", &[400]),
    ("a host with a space", "GET /public/a HTTP/1.1\r\nHost: a b\r\n\r\n", &[400]),
    ("a host with a bad port", "GET /public/a HTTP/1.1\r\nHost: a:b\r\n\r\n", &[400]),
    ("a host with two ports", "GET /public/a HTTP/1.1\r\nHost: a:1:2\r\n\r\n", &[400]),
    ("a host with a torn literal", "GET /public/a HTTP/1.1\r\nHost: [::1\r\n\r\n", &[400]),
    ("a host with a query", "GET /public/a HTTP/1.1\r\nHost: a?b\r\n\r\n", &[400]),
    ("a host with a fragment", "GET /public/a HTTP/1.1\r\nHost: a#b\r\n\r\n", &[400]),
    ("a space before the host's colon", "GET /public/a HTTP/1.1\r\nHost : a\r\n\r\n", &[400]),
    ("a folded host", "GET /public/a HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", &[400]),
    // targets (RFC 9112 §3.2)
    ("the asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("the asterisk for GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("another authority", "GET http://b/public/a HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("another scheme", "GET ftp://a/public/a HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("the authority form", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a relative path", "GET public/a HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a fragment", "GET /public/a#b HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a query without a path", "GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    // lines (RFC 9112 §2.2, §3, §5)
    ("a lone CR in a value", "GET /public/a HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", &[400]),
    ("a lone CR as line end", "GET /public/a HTTP/1.1\rHost: a\r\r", &[400]),
    ("a lone CR before a name", "GET /public/a HTTP/1.1\r\nHost: a\r\n\rX: b\r\n\r\n", &[400]),
    ("a fold", "GET /public/a HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", &[400]),
    ("a fold by tab", "GET /public/a HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", &[400]),
    ("a space before the first field", "GET /public/a HTTP/1.1\r\n Host: a\r\n\r\n", &[400]),
    (
        "a space before a colon",
        "GET /public/a HTTP/1.1\r\nHost: a\r\nX-User-Id : b\r\n\r\n",
        &[400],
    ),
    ("a tab before a colon", "GET /public/a HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n", &[400]),
    ("an empty name", "GET /public/a HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", &[400]),
    ("a name with a space", "GET /public/a HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n", &[400]),
    ("a name with a bracket", "GET /public/a HTTP/1.1\r\nHost: a\r\nX(Y): b\r\n\r\n", &[400]),
    ("a line without a colon", "GET /public/a HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n", &[400]),
    ("NUL in a value", "GET /public/a HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", &[400]),
    ("NUL in a name", "GET /public/a HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", &[400]),
    ("a control byte in a value", "GET /public/a HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", &[400]),
    ("DEL in a value", "GET /public/a HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", &[400]),
    ("two spaces before the target", "GET  /public/a HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("two spaces after the target", "GET /public/a  HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a tab before the target", "GET\t/public/a HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a space after the version", "GET /public/a HTTP/1.1 \r\nHost: a\r\n\r\n", &[400, 505]),
    ("a space before the method", " GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("no method", "/public/a HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a method with a bracket", "GE(T /public/a HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("a method with NUL", "GET\0 /public/a HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("noise", "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n", &[400]),
    // versions (RFC 9110 §15.6.6)
    ("HTTP/0.9", "GET /public/a\r\n", &[400, 505]),
    ("HTTP/1.2", "GET /public/a HTTP/1.2\r\nHost: a\r\n\r\n", &[400, 505]),
    ("HTTP/2.0", "GET /public/a HTTP/2.0\r\nHost: a\r\n\r\n", &[400, 505]),
    ("HTTP/3.0", "GET /public/a HTTP/3.0\r\nHost: a\r\n\r\n", &[400, 505]),
    ("HTTP/1.10", "GET /public/a HTTP/1.10\r\nHost: a\r\n\r\n", &[400, 505]),
    ("HTTP/01.1", "GET /public/a HTTP/01.1\r\nHost: a\r\n\r\n", &[400, 505]),
    ("a version in lower case", "GET /public/a http/1.1\r\nHost: a\r\n\r\n", &[400, 505]),
    ("a version without a slash", "GET /public/a HTTP 1.1\r\nHost: a\r\n\r\n", &[400, 505]),
    ("another protocol", "GET /public/a ICY/1.1\r\nHost: a\r\n\r\n", &[400, 505]),
    ("the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &[400, 505]),
];

/// Heads of which RFC 9112 lets a server make sense, or not: refused, or forwarded cleanly once.
const REFUSED_OR_CLEAN: &[(&str, &str)] = &[
    (
        "length and chunks",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunks and length",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunks and length 0",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "chunks and a bad length",
        "POST /public/a HTTP/1.1\r\nHost: a\r\ntransfer-encoding: CHUNKED\r\ncontent-length: x\r\n\r\n0\r\n\r\n",
    ),
    ("bare line feeds", "GET /public/a HTTP/1.1\nHost: a\nConnection: close\n\n"),
    ("one bare line feed", "GET /public/a HTTP/1.1\r\nHost: a\nConnection: close\r\n\r\n"),
    ("a bare line feed at the end", "GET /public/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\n"),
    (
        "the same length twice",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
    ),
    (
        "a list of one length",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\nConnection: close\r\n\r\nabc",
    ),
    (
        "a length with leading zeros",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\nConnection: close\r\n\r\nabc",
    ),
];

/// Chunked bodies that go wrong after the head was fine.
const BAD_CHUNKS: &[(&str, &str)] = &[
    ("a size that is none", "zz\r\nabc\r\n0\r\n\r\n"),
    ("an empty size", "\r\nabc\r\n0\r\n\r\n"),
    ("a minus", "-3\r\nabc\r\n0\r\n\r\n"),
    ("a plus", "+3\r\nabc\r\n0\r\n\r\n"),
    ("a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
    ("a size that overflows", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
    ("too little behind the size", "5\r\nabc\r\n0\r\n\r\n"),
    ("too much behind the size", "2\r\nabc\r\n0\r\n\r\n"),
    ("no line end behind a chunk", "3\r\nabc0\r\n\r\n"),
    ("a bare line feed behind a chunk", "3\r\nabc\n0\r\n\r\n"),
    ("a bare line feed behind a size", "3\nabc\r\n0\r\n\r\n"),
    ("a lone CR behind a size", "3\rabc\r\n0\r\n\r\n"),
    ("a line feed in an extension", "3;a=\"\n\"\r\nabc\r\n0\r\n\r\n"),
    ("spaces inside a size", "0 3\r\nabc\r\n0\r\n\r\n"),
    ("a decimal comma", "3,0\r\nabc\r\n0\r\n\r\n"),
];

async fn gateway(upstream: &Upstream) -> TestGateway {
    TestGateway::in_front_of(upstream).await
}

/// The bytes of `text`: one for each char.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).expect("Latin-1")).collect()
}

fn smuggled(upstream: &Upstream) -> bool {
    upstream.seen().iter().any(|seen| seen.target.contains("smuggled"))
}

#[tokio::test]
async fn bad_heads_are_refused_and_end_the_connection() {
    assert!(BAD_HEADS.len() >= 40);
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let mut wrong = Vec::new();
    for (name, head, statuses) in BAD_HEADS {
        let transcript = gateway.raw(bytes(&format!("{head}{SMUGGLED}"))).await;
        // HTTP/0.9 and noise may be met with a mere close.
        let answered = match &transcript.answers[..] {
            [] => ["noise", "HTTP/0.9", "the HTTP/2 preface"].contains(name),
            [answer] => statuses.contains(&answer.status) && answer.end == End::Complete,
            _ => false,
        };
        if !answered || !transcript.closed {
            wrong.push((name, transcript.statuses(), transcript.closed));
        }
    }
    assert!(wrong.is_empty(), "(case, statuses, closed): {wrong:#?}");
    assert_eq!(upstream.count(), 0, "{:#?}", upstream.seen());
}

#[tokio::test]
async fn doubtful_heads_are_refused_or_forwarded_cleanly() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let mut wrong = Vec::new();
    for (name, head) in REFUSED_OR_CLEAN {
        let before = upstream.count();
        let transcript = gateway.raw(format!("{head}{SMUGGLED}")).await;
        let seen = upstream.seen().split_off(before);
        let clean = match transcript.statuses()[..] {
            [400] => seen.is_empty(),
            [200] => seen.len() == 1 && seen[0].complete,
            _ => false,
        };
        if !clean || !transcript.closed {
            wrong.push((name, transcript.statuses(), transcript.closed, seen.len()));
        }
    }
    assert!(wrong.is_empty(), "(case, statuses, closed, forwarded): {wrong:#?}");
    assert!(!smuggled(&upstream));
}

#[tokio::test]
async fn bad_chunks_leave_the_upstreams_request_unfinished() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let mut wrong = Vec::new();
    for (name, chunks) in BAD_CHUNKS {
        let before = upstream.count();
        let head = "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let transcript = gateway.raw(format!("{head}{chunks}{SMUGGLED}")).await;
        upstream.until_disconnected().await;
        let complete = upstream.seen()[before..].iter().any(|seen| seen.complete);
        let fine = matches!(transcript.statuses()[..], [] | [400]);
        if !fine || !transcript.closed || complete {
            wrong.push((name, transcript.statuses(), transcript.closed, complete));
        }
    }
    assert!(wrong.is_empty(), "(case, statuses, closed, finished): {wrong:#?}");
    assert!(!smuggled(&upstream));
}

/// No line is too long here; only all extensions together are.
#[tokio::test]
async fn extensions_cannot_go_on_without_end() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let chunks = format!("1;{}\r\na\r\n", "e".repeat(8 << 10)).repeat(3);
    let head = "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let transcript = gateway.raw(format!("{head}{chunks}0\r\n\r\n{SMUGGLED}")).await;
    upstream.until_disconnected().await;
    assert!(matches!(transcript.statuses()[..], [] | [400]), "{:?}", transcript.statuses());
    assert!(transcript.closed && !upstream.seen().iter().any(|seen| seen.complete));
}

#[tokio::test]
async fn good_chunks_in_odd_forms_pass() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    for chunks in [
        "3\r\nabc\r\n0\r\n\r\n",
        "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        "003\r\nabc\r\n000\r\n\r\n",
        "3;a=b\r\nabc\r\n0;c\r\n\r\n",
        "3;a=\"b c\"\r\nabc\r\n0\r\n\r\n",
    ] {
        for coding in ["chunked", "Chunked", "CHUNKED", "\tchunked "] {
            let head = format!(
                "PUT /public/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                 Transfer-Encoding:{coding}\r\n\r\n{chunks}"
            );
            assert_eq!(gateway.raw(head).await.statuses(), [200], "{coding:?} {chunks:?}");
            let seen = upstream.last();
            assert_eq!((&*seen.body, seen.complete), (&b"abc"[..], true), "{chunks:?}");
        }
    }
}

#[tokio::test]
async fn a_body_that_ends_early_is_never_made_whole() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    for (count, request) in [
        "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nA\r\nabc",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = gateway.connect().await;
        client.send(request).await;
        upstream
            .until("the body's begin", |seen| seen.get(count).is_some_and(|s| s.body == b"abc"))
            .await;
        drop(client);
        upstream.until_disconnected().await;
        let seen = upstream.last();
        assert!(!seen.complete && seen.abandoned, "{request:?}");
    }
}

#[tokio::test]
async fn methods_that_are_not_passed_on_are_refused() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let long = "A".repeat(20_000);
    for line in [
        "CONNECT a:443",
        "CONNECT /public/a",
        "CONNECT http://a/public/a",
        "TRACE /public/a",
        "TRACK /public/a",
        "BREW /public/a",
        "get /public/a",
        "PROPFIND /public/a",
        &format!("{long} /public/a"),
    ] {
        let head = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let transcript = gateway.raw(head).await;
        let shown = &line[..line.len().min(40)];
        let [answer] = &transcript.answers[..] else { panic!("{shown}: {transcript:?}") };
        assert!(matches!(answer.status, 400 | 405 | 501 | 431), "{shown}: {}", answer.status);
        if answer.status == 405 {
            answer.expect_problem(405, "method_not_allowed");
            assert!(answer.header("allow").is_some(), "{shown}");
        }
    }
    assert_eq!(upstream.count(), 0);
    // What follows a refused CONNECT is not taken for the inside of a tunnel.
    let smuggling = format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n{SMUGGLED}");
    let transcript = gateway.raw(smuggling).await;
    assert!(!transcript.statuses().contains(&101), "{transcript:?}");
    assert!(upstream.count() <= 1, "at most the pipelined request");
}

#[tokio::test]
async fn too_much_of_anything_is_refused() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\nmax_header_bytes = \"16KiB\"\nmax_body_bytes = \"1KiB\"")
        .start()
        .await;
    let many = (0..150).fold(String::new(), |mut all, n| {
        write!(all, "X-{n}: {n}\r\n").expect("a string grows");
        all
    });
    let long = |n| "a".repeat(n);
    for (name, head, statuses) in [
        (
            "a long value",
            format!("GET /public/a HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(20_000)),
            &[431][..],
        ),
        (
            "a long name",
            format!("GET /public/a HTTP/1.1\r\nHost: a\r\n{}: b\r\n\r\n", long(20_000)),
            &[431],
        ),
        (
            "a long value without end",
            format!("GET /public/a HTTP/1.1\r\nHost: a\r\nX: {}", long(40_000)),
            &[431],
        ),
        ("many fields", format!("GET /public/a HTTP/1.1\r\nHost: a\r\n{many}\r\n"), &[431]),
        ("a long path", format!("GET /public/{} HTTP/1.1\r\nHost: a\r\n\r\n", long(8_300)), &[414]),
        (
            "a long query",
            format!("GET /public/a?{} HTTP/1.1\r\nHost: a\r\n\r\n", long(8_300)),
            &[414],
        ),
        (
            "a very long target",
            format!("GET /public/{} HTTP/1.1\r\nHost: a\r\n\r\n", long(70_000)),
            &[414, 431],
        ),
        (
            "a large length",
            format!(
                "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n{}",
                long(1025)
            ),
            &[413],
        ),
    ] {
        let transcript = gateway.raw(format!("{head}{SMUGGLED}")).await;
        let [answer] = &transcript.answers[..] else { panic!("{name}: {transcript:?}") };
        assert!(statuses.contains(&answer.status), "{name}: {}", answer.status);
        assert!(transcript.closed, "{name}");
    }
    assert_eq!(upstream.count(), 0, "{:?}", upstream.seen());
    // What just fits passes.
    let head = format!(
        "POST /public/{}?b HTTP/1.1\r\nHost: a\r\nX: {}\r\nContent-Length: 1024\r\n\
         Connection: close\r\n\r\n{}",
        long(7_900),
        long(6_000),
        long(1024)
    );
    assert_eq!(gateway.raw(head).await.statuses(), [200]);
    assert_eq!(upstream.only().body.len(), 1024);
}

#[tokio::test]
async fn a_chunked_body_that_grows_too_large_is_stopped() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\nmax_body_bytes = \"1KiB\"")
        .start()
        .await;
    let chunk = format!("200\r\n{}\r\n", "a".repeat(512));
    let request = format!(
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}{chunk}\
         0\r\n\r\n{SMUGGLED}"
    );
    let transcript = gateway.raw(request).await;
    let [answer] = &transcript.answers[..] else { panic!("{transcript:?}") };
    answer.expect_problem(413, "body_too_large");
    assert!(transcript.closed);
    upstream.until_disconnected().await;
    assert!(
        !upstream.seen().iter().any(|seen| seen.complete),
        "the upstream was told it was whole"
    );
    assert!(!smuggled(&upstream));
}

#[tokio::test]
async fn an_unknown_expectation_is_417() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    for expectation in ["200-ok", "100-continue, other", "100-continued", "nothing"] {
        let head = format!(
            "POST /public/a HTTP/1.1\r\nHost: a\r\nExpect: {expectation}\r\nContent-Length: {}\r\n\r\n",
            SMUGGLED.len()
        );
        let transcript = gateway.raw(format!("{head}{SMUGGLED}")).await;
        assert_eq!(transcript.statuses(), [417], "{expectation}");
        assert!(transcript.closed, "the body may come or not: {expectation}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn good_requests_may_come_before_their_answers() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let requests = "GET /public/1 HTTP/1.1\r\nHost: a\r\n\r\n\
                    POST /public/2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
                    POST /public/3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3\r\ndef\r\n0\r\n\r\n\
                    DELETE /public/4 HTTP/1.1\r\nHost: a\r\n\r\n\
                    \r\nGET /public/5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for step in [requests.len(), 1, 7] {
        let before = upstream.count();
        let mut client = gateway.connect().await;
        for piece in requests.as_bytes().chunks(step) {
            client.send(piece).await;
            // Gives the gateway a chance to see it apart from the next one.
            tokio::task::yield_now().await;
        }
        for n in 1..=5 {
            let answer = client.answer().await.expect(200);
            assert_eq!(answer.json()["target"], format!("/public/{n}"), "answers keep their order");
        }
        assert!(client.until_closed().await.is_empty());
        let seen = upstream.seen().split_off(before);
        let bodies: Vec<_> = seen.iter().map(|seen| seen.body.as_slice()).collect();
        assert_eq!(bodies, [&b""[..], b"abc", b"def", b"", b""]);
    }
}

/// Flaws that only the bytes themselves show, in a head that is not the connection's first.
#[tokio::test]
async fn later_heads_are_checked_like_the_first() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let bad = [
        "GET /public/bad#/../../api/u1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /public/bad HTTP/1.1\nHost: a\r\n\r\n",
        "POST /public/bad HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\n",
    ];
    for first in [
        "GET /public/1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD /public/1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /private/1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /public/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "POST /public/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ] {
        for bad in bad {
            let method = first.split(' ').next().expect("a method");
            // One after the other, and both at once.
            let mut client = gateway.connect().await;
            client.send(first).await;
            let one = client.answer_to(method).await;
            client.send(format!("{bad}{SMUGGLED}")).await;
            let two = client.answer().await;
            client.until_closed().await;
            let mut client = gateway.connect().await;
            client.send(format!("{first}{bad}{SMUGGLED}")).await;
            let three = client.answer_to(method).await;
            let four = client.try_answer("GET").await.map(|answer| answer.status);
            client.until_closed().await;
            let good = if first.contains("private") { 401 } else { 200 };
            assert_eq!((one.status, two.status), (good, 400), "{first:?} then {bad:?}");
            assert_eq!((three.status, four), (good, Some(400)), "{first:?} with {bad:?}");
        }
    }
    let targets: Vec<_> = upstream.seen().into_iter().map(|seen| seen.target).collect();
    assert!(targets.iter().all(|target| target == "/public/1"), "{targets:?}");
}

/// Where a chunked body ends only the HTTP library knows, so later heads are not looked at byte by
/// byte; what is forwarded is clean all the same.
#[tokio::test]
async fn after_a_chunked_body_heads_are_refused_or_forwarded_cleanly() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let first = "POST /public/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for bad in [
        "GET /public/2#/../../api/u1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /public/2 HTTP/1.1\nHost: a\r\nConnection: close\r\n\r\n",
        "POST /public/2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\n",
    ] {
        let transcript = gateway.raw(format!("{first}{bad}{SMUGGLED}")).await;
        let statuses = transcript.statuses();
        assert!(
            matches!(statuses[..], [200, 200 | 400]) && transcript.closed,
            "{bad:?}: {statuses:?}"
        );
    }
    let fine = |target: &str| matches!(target, "/public/1" | "/public/2");
    assert!(upstream.seen().iter().all(|seen| fine(&seen.target)), "{:?}", upstream.seen());
    for bad in ["/public/../a", "/public//a", "http://b/public/a", "*"] {
        let second = format!("GET {bad} HTTP/1.1\r\nHost: a\r\n\r\n");
        let transcript = gateway.raw(format!("{first}{second}{SMUGGLED}")).await;
        assert_eq!(transcript.statuses()[1], 400, "{bad}");
    }
}

/// A body is no head: nothing in it is held against the next request, however the bytes arrive.
#[tokio::test]
async fn a_body_may_look_like_a_bad_head() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    let next = "GET /public/next HTTP/1.1\r\nHost: a\r\n\r\n";
    for body in [
        "abc",
        "{\n\n}",
        "a#b\n\nc",
        "\n\n\n",
        "GET /a#b HTTP/1.1\n\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "x\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n",
        "\u{e4}\0\n\r\n\r\n",
    ] {
        let head = "POST /public/a HTTP/1.1\r\nHost: a\r\n";
        let plain = format!("{head}Content-Length: {}\r\n\r\n", body.chars().count());
        let size = body.chars().count();
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
        let chunks = format!("{size:x}\r\n{body}\r\n0\r\n\r\n");
        for (first, body) in [(&plain, body), (&chunked, &*chunks)] {
            let mut wrong = Vec::new();
            for pieces in [
                &[&*format!("{first}{body}{next}")][..],
                &[&*format!("{first}{body}"), next],
                &[first, body, next],
                &[first, &*format!("{body}{next}")],
            ] {
                let mut client = gateway.connect().await;
                let mut statuses = Vec::new();
                for (n, piece) in pieces.iter().enumerate() {
                    if n > 0 && *piece == next {
                        statuses.push(client.answer().await.status);
                    }
                    client.send(bytes(piece)).await;
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
                while statuses.len() < 2 {
                    match client.try_answer("GET").await {
                        Some(answer) => statuses.push(answer.status),
                        None => break,
                    }
                }
                if statuses != [200, 200] {
                    wrong.push((pieces.len(), statuses));
                }
            }
            assert!(wrong.is_empty(), "{first:?} {body:?}: (pieces, statuses) {wrong:?}");
        }
    }
}

#[tokio::test]
async fn a_refused_requests_body_is_not_the_next_request() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    for (target, statuses) in [("/private/a", 401), ("/unknown", 404), ("/public/../a", 400)] {
        for body in [
            format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
            format!(
                "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n",
                SMUGGLED.len()
            ),
        ] {
            let before = upstream.count();
            let request = format!(
                "POST {target} HTTP/1.1\r\nHost: a\r\n{body}\
                 GET /public/next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            );
            let Transcript { answers, closed } = gateway.raw(request).await;
            let got: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            assert!(got == [statuses] || got == [statuses, 200], "{target}: {got:?}");
            assert!(closed, "{target}");
            assert_eq!(upstream.count() - before, got.len() - 1, "{target}");
        }
    }
    assert!(!smuggled(&upstream));
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed_unless_asked_otherwise() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream).await;
    for (head, closes) in [
        ("GET /public/a HTTP/1.0\r\n\r\n", true),
        ("GET /public/a HTTP/1.0\r\nHost: a\r\n\r\n", true),
        ("GET /public/a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", false),
        ("GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ("GET /public/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", true),
        ("GET /public/a HTTP/1.1\r\nHost: a\r\nConnection: foo, CLOSE\r\n\r\n", true),
    ] {
        let mut client: Client = gateway.connect().await;
        client.send(head).await;
        let answer = client.answer().await.expect(200);
        assert_eq!(answer.end, End::Complete, "{head:?}");
        if closes {
            assert!(client.until_closed().await.is_empty(), "{head:?}");
        } else {
            client.send("GET /public/b HTTP/1.1\r\nHost: a\r\n\r\n").await;
            client.answer().await.expect(200);
        }
        assert_eq!(upstream.last().headers.all("host").len(), 1);
    }
}
