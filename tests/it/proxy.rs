//! The way to the upstream and back: bodies pass as they come, connections are kept and shared only
//! when that is safe, and every failure on the far side is told as what it is.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{
    Answer, Client, End, Gate, Issuer, Seen, Step, TestGateway, Upstream, lossy, patiently, reply,
    write,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Steps that end the connection the second time it is used, without an answer: what a server does
/// whose idle limit strikes just then.
fn dies_when_reused() -> impl Fn(&Seen) -> Vec<Step> + Send + Sync {
    let used = Mutex::new(HashSet::new());
    move |seen| {
        let first = used.lock().expect("no panic while it was held").insert(seen.connection);
        if first { reply(OK) } else { vec![Step::Close] }
    }
}

/// An address where nobody listens.
async fn dead_server() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    format!("http://{}", listener.local_addr().expect("a bound socket"))
}

#[tokio::test]
async fn an_answer_passes_piece_by_piece() {
    let gates: [Gate; 3] = std::array::from_fn(|_| Gate::new());
    let heads = [
        ("Content-Length: 6\r\n\r\none", "two"),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n", "3\r\ntwo\r\n0\r\n\r\n"),
        ("Connection: close\r\n\r\none", "two"),
    ];
    let waits = gates.clone();
    let upstream = Upstream::scripted(move |seen| {
        let n: usize = seen.path()[8..].parse().expect("a number");
        let (head, rest) = heads[n];
        let head = format!("HTTP/1.1 200 OK\r\n{head}");
        vec![write(head), Step::Wait(waits[n].clone()), write(rest), Step::Close]
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for (n, gate) in gates.iter().enumerate() {
        let mut client = gateway.connect().await;
        client.send(format!("GET /public/{n} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let mut answer = client.head("GET").await.expect(200);
        assert_eq!(client.piece(&mut answer).await.as_deref(), Some(&b"one"[..]), "{n}");
        // Only now does the upstream send the rest.
        gate.open();
        while client.piece(&mut answer).await.is_some() {}
        assert_eq!((&*answer.body, answer.end), (&b"onetwo"[..], End::Complete), "{n}");
    }
}

#[tokio::test]
async fn a_request_body_passes_piece_by_piece() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for (count, (framing, first, rest)) in [
        ("Content-Length: 6", "one", "two"),
        ("Transfer-Encoding: chunked", "3\r\none\r\n", "3\r\ntwo\r\n0\r\n\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = gateway.connect().await;
        client
            .send(format!("POST /public/a HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{first}"))
            .await;
        // Only when the upstream has it does the client send the rest.
        upstream
            .until("the first piece", |seen| seen.get(count).is_some_and(|s| s.body == b"one"))
            .await;
        assert!(!upstream.last().complete);
        client.send(rest).await;
        client.answer().await.expect(200);
        let seen = upstream.last();
        assert_eq!((&*seen.body, seen.complete), (&b"onetwo"[..], true));
    }
}

#[tokio::test]
async fn both_bodies_pass_at_once() {
    let upstream = Upstream::scripted(|_| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhi!\r\n";
        vec![write(head), Step::ReadBody, write("3\r\nbye\r\n0\r\n\r\n")]
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut client = gateway.connect().await;
    let head =
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    client.send(head).await;
    let mut answer = client.head("POST").await.expect(200);
    assert_eq!(client.piece(&mut answer).await.as_deref(), Some(&b"hi!"[..]));
    client.send("3\r\ntwo\r\n0\r\n\r\n").await;
    while client.piece(&mut answer).await.is_some() {}
    assert_eq!((&*answer.body, answer.end), (&b"hi!bye"[..], End::Complete));
    assert_eq!(upstream.only().body, b"onetwo");
}

#[tokio::test]
async fn large_bodies_pass_whole_in_both_directions() {
    const SIZE: usize = 8 << 20;
    let pattern: Vec<u8> =
        (0..SIZE).map(|n| u8::try_from(n * 7 / 3 % 251).expect("small")).collect();
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").into_bytes();
    answer.extend_from_slice(&pattern);
    let upstream = Upstream::scripted(move |_| reply(&answer)).await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for _ in 0..2 {
        let answer = gateway.post("/public/a").body(pattern.clone()).send().await.expect(200);
        assert!(answer.body == pattern && answer.end == End::Complete);
        assert!(upstream.last().body == pattern);
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_read_holds_the_client_up() {
    let gate = Gate::new();
    let wait = gate.clone();
    let upstream =
        Upstream::scripted(move |_| vec![Step::Wait(wait.clone()), Step::ReadBody, write(OK)])
            .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let size = 64 << 20;
    let mut client = gateway.connect().await;
    client
        .send(format!("POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"))
        .await;
    let piece = vec![b'x'; 256 << 10];
    let mut sent = 0;
    // That nothing moves can only be seen by waiting for a while.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(500), client.wire.stream.write(&piece)).await
    {
        sent += written.expect("the gateway keeps the connection");
        assert!(sent < 48 << 20, "the gateway takes in what nobody reads");
    }
    gate.open();
    while sent < size {
        let piece = &piece[..piece.len().min(size - sent)];
        sent += patiently("room", client.wire.stream.write(piece)).await.expect("still open");
    }
    client.answer().await.expect(200);
    assert_eq!(upstream.only().body.len(), size);
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let upstream = Upstream::scripted(|seen| {
        reply(match seen.path() {
            "/public/204" => "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
            "/public/304" => {
                "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 100\r\n\r\n"
            }
            "/public/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "/public/empty" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nX-A: b\r\n\r\n",
        })
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut client = gateway.connect().await;
    for (method, target, status, length) in [
        ("HEAD", "/public/head", 200, Some("100")),
        ("HEAD", "/public/chunked", 200, None),
        ("HEAD", "/public/304", 304, None),
        ("GET", "/public/204", 204, None),
        // RFC 9110 §8.6: the length may be left out.
        ("GET", "/public/304", 304, None),
        ("DELETE", "/public/204", 204, None),
        ("GET", "/public/empty", 200, Some("0")),
        ("HEAD", "/public/head", 200, Some("100")),
    ] {
        // One connection for all: a byte too many or too few would be the next answer's.
        let answer = gateway.request(method, target).send_over(&mut client).await.expect(status);
        assert_eq!(answer.body, b"", "{method} {target}");
        if length.is_some() {
            assert_eq!(answer.header("content-length"), length, "{method} {target}");
        }
        assert_eq!(upstream.last().method, method);
    }
    assert_eq!(upstream.connections(), 1, "connections survive such answers");
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_continue() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for (framing, body) in
        [("Content-Length: 3", "abc"), ("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n")]
    {
        let mut client = gateway.connect().await;
        let head = "POST /public/a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n";
        client.send(format!("{head}{framing}\r\n\r\n")).await;
        let interim =
            patiently("100", client.wire.head()).await.expect("a head").expect("an answer");
        assert!(interim.line.starts_with("HTTP/1.1 100"), "{}", interim.line);
        client.send(body).await;
        client.answer().await.expect(200);
        assert_eq!(upstream.last().body, b"abc");
    }
    // Who is refused is not told to go on.
    let mut client = gateway.connect().await;
    let head =
        "POST /private/a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    client.send(head).await;
    let answer = client.answer().await.expect(401);
    assert_eq!(answer.interim, [0; 0]);
}

#[tokio::test]
async fn interim_answers_of_the_upstream_do_not_count_as_the_answer() {
    let upstream = Upstream::scripted(|_| {
        reply(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        let answer = gateway.post("/public/a").body("abc").send_over(&mut client).await;
        assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]));
    }
}

#[tokio::test]
async fn an_http_1_0_client_gets_plain_bodies() {
    let upstream = Upstream::scripted(|seen| {
        reply(if seen.path() == "/public/chunked" {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        } else {
            OK
        })
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for target in ["/public/chunked", "/public/plain"] {
        let transcript = gateway.raw(format!("GET {target} HTTP/1.0\r\nHost: a\r\n\r\n")).await;
        let [answer] = &transcript.answers[..] else { panic!("{transcript:?}") };
        assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]), "{target}");
        assert!(!answer.headers.has("transfer-encoding"), "{target}: {:?}", answer.headers);
        assert!(transcript.closed);
    }
}

#[tokio::test]
async fn upstream_connections_are_kept_and_used_again() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut client = gateway.connect().await;
    for _ in 0..5 {
        gateway.get("/public/a").send_over(&mut client).await.expect(200);
        gateway.post("/public/b").body("abc").send().await.expect(200);
    }
    assert_eq!((upstream.count(), upstream.connections()), (10, 1));
    // Two at once need two.
    let gate = Gate::new();
    let wait = gate.clone();
    let upstream = Upstream::scripted(move |_| vec![Step::Wait(wait.clone()), write(OK)]).await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let both = async {
        tokio::join!(gateway.get("/public/a").send(), gateway.get("/public/b").send());
    };
    tokio::join!(both, async {
        upstream.until("both requests", |seen| seen.len() == 2).await;
        gate.open();
    });
    gateway.get("/public/c").send().await.expect(200);
    assert_eq!((upstream.count(), upstream.connections()), (3, 2));
}

#[tokio::test]
async fn an_upstream_that_closes_is_not_used_again() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n\r\nok",
        "HTTP/1.0 200 OK\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let upstream =
            Upstream::scripted(move |_| vec![Step::ReadBody, write(answer), Step::Close]).await;
        let gateway = TestGateway::in_front_of(&upstream).await;
        for _ in 0..3 {
            let answer = gateway.post("/public/a").body("abc").send().await.expect(200);
            assert_eq!((&*answer.body, answer.end), (&b"ok"[..], End::Complete));
        }
        assert_eq!(upstream.connections(), 3, "{answer:?}");
    }
}

async fn handshake(
    gateway: &TestGateway,
    target: &str,
    token: Option<&str>,
) -> Result<tokio_tungstenite::WebSocketStream<TcpStream>, tokio_tungstenite::tungstenite::Error> {
    let url = format!("ws://{}{target}", gateway.address);
    let mut request = url.into_client_request().expect("a URL");
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("a value");
        request.headers_mut().insert("authorization", value);
    }
    let stream = TcpStream::connect(gateway.address).await.expect("the gateway accepts");
    let shaken = patiently("a handshake", tokio_tungstenite::client_async(request, stream)).await;
    shaken.map(|(socket, _)| socket)
}

#[tokio::test]
async fn a_websocket_passes_both_ways() {
    let upstream = Upstream::scripted(|_| vec![Step::WebSocket]).await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let token = gateway.token("u1").sign();
    let mut socket = handshake(&gateway, "/private/socket", Some(&token)).await.expect("a tunnel");
    let seen = upstream.only();
    assert_eq!(seen.header("x-user-id"), Some("u1"));
    assert_eq!(seen.header("authorization"), None);
    assert!(seen.header("upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket")));
    assert!(seen.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("upgrade")));
    for message in [
        Message::text("hello"),
        Message::binary(vec![7; 1 << 20]),
        Message::text(""),
        Message::text("\u{1f600}"),
    ] {
        socket.send(message.clone()).await.expect("the tunnel stands");
        let echo = patiently("an echo", socket.next()).await.expect("a message").expect("whole");
        assert_eq!(echo, message);
    }
    socket.close(None).await.expect("the tunnel stands");
    patiently("the end", async { while socket.next().await.is_some() {} }).await;
    upstream.until_disconnected().await;
    // A client that just goes away ends the upstream's side, too.
    let socket = handshake(&gateway, "/private/socket", Some(&token)).await.expect("a tunnel");
    drop(socket);
    upstream.until_disconnected().await;
}

#[tokio::test]
async fn a_websocket_needs_what_every_request_needs() {
    let upstream = Upstream::scripted(|_| vec![Step::WebSocket]).await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let expired = gateway.token("u1").claim("exp", 1).sign();
    let other = gateway.token("u2").sign();
    for (target, token, status) in [
        ("/private/socket", None, 401),
        ("/private/socket", Some(&*expired), 401),
        ("/api/u1/socket", Some(&*other), 403),
        ("/unknown", None, 404),
    ] {
        let error = handshake(&gateway, target, token).await.expect_err("no tunnel");
        let tokio_tungstenite::tungstenite::Error::Http(answer) = error else { panic!("{error}") };
        assert_eq!(answer.status(), status, "{target}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn bytes_before_the_switch_are_not_sent_through() {
    let upstream =
        Upstream::scripted(|_| reply("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")).await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let transcript = gateway
        .raw(
            "GET /public/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
             GET /private/smuggled HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .await;
    let statuses = transcript.statuses();
    assert!(statuses == [403, 401] || statuses == [403], "{statuses:?}");
    assert_eq!(upstream.count(), 1, "what follows a refused upgrade is a request like any other");
}

#[tokio::test]
async fn an_upstream_cannot_switch_protocols_unasked() {
    let upstream = Upstream::scripted(|_| {
        reply(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let answer = gateway.get("/public/a").send().await;
    answer.expect_problem(502, "upstream_unreachable");
    let h2c = gateway.get("/public/a").header("Connection", "Upgrade").header("Upgrade", "h2c");
    let answer: Answer = h2c.send().await;
    assert_ne!(answer.status, 101);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_upstreams_work() {
    let upstream = Upstream::scripted(|seen| match seen.path() {
        "/public/silent" => vec![Step::Stall],
        "/public/begun" => {
            vec![write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Step::Stall]
        }
        _ => vec![Step::ReadBody, write(OK)],
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for (n, target) in ["/public/silent", "/public/begun"].into_iter().enumerate() {
        let mut client = gateway.connect().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        upstream.until("the request", |seen| seen.len() > n).await;
        if target == "/public/begun" {
            client.head("GET").await.expect(200);
        }
        drop(client);
        upstream.until("its end", |seen| seen[n].abandoned).await;
    }
    let mut client = gateway.connect().await;
    client.send("POST /public/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await;
    upstream.until("the body's begin", |seen| seen.get(2).is_some_and(|s| s.body == b"abc")).await;
    drop(client);
    upstream.until("its end", |seen| seen[2].abandoned && !seen[2].complete).await;
    gateway.get("/public/a").send().await.expect(200);
}

/// A reset says that nobody is there; nothing is waited for then.
#[tokio::test]
async fn a_client_that_resets_its_connection_ends_the_upstreams_work_at_once() {
    let upstream = Upstream::scripted(|seen| match seen.path() {
        "/public/silent" => vec![Step::Stall],
        _ => vec![write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Step::Stall],
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for (n, target) in ["/public/silent", "/public/begun"].into_iter().enumerate() {
        let mut client = gateway.connect().await;
        client.send(gateway.get(target).to_bytes()).await;
        upstream.until("the request", |seen| seen.len() > n).await;
        if target == "/public/begun" {
            client.head("GET").await.expect(200);
        }
        let start = Instant::now();
        client.wire.stream.set_zero_linger().expect("a socket option");
        drop(client);
        upstream.until("its end", |seen| seen[n].abandoned).await;
        assert!(start.elapsed() < Duration::from_secs(2), "{target}: {:?}", start.elapsed());
    }
}

/// RFC 9112 §9.6: the end of what a client sends is not the end of what it reads. `printf | nc -N`
/// is such a client, and so is everybody behind a forwarder that passes each end on by itself.
#[tokio::test]
async fn a_client_that_ends_its_side_gets_every_answer_that_is_due() {
    const A: &str = "GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &str = "POST /public/b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    const CHUNKED: &str = "POST /public/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                           3\r\nabc\r\n0\r\n\r\n";
    for (requests, due) in [
        (A.to_owned(), 1),
        ([A, A].concat(), 2),
        ([POST, A].concat(), 2),
        ([CHUNKED, POST, A].concat(), 3),
        // What is not whole is no request, and takes no other along.
        ([A, &A[..20]].concat(), 1),
        ("GET /public/a HTTP/1.0\r\n\r\n".to_owned(), 1),
    ] {
        let gates: Arc<[_]> = (0..due).map(|_| [Gate::new(), Gate::new()]).collect();
        let next = Arc::new(AtomicUsize::new(0));
        let waits = Arc::clone(&gates);
        let upstream = Upstream::scripted(move |seen| {
            if seen.path() == "/public/other" {
                return reply(OK);
            }
            let n = next.fetch_add(1, Ordering::Relaxed);
            let body = format!("{n}: {}", seen.path());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let (begin, rest) = body.split_at(1);
            let [first, second] = waits[n].clone().map(Step::Wait);
            vec![Step::ReadBody, first, write(head + begin), second, write(rest)]
        })
        .await;
        let gateway = TestGateway::in_front_of(&upstream).await;
        let mut client = gateway.connect().await;
        client.send(&requests).await;
        client.wire.stream.shutdown().await.expect("the connection stands");
        for (n, [first, second]) in gates.iter().enumerate() {
            let due = |seen: &[Seen]| seen.iter().filter(|s| s.path() != "/public/other").count();
            upstream.until("the request", |seen| due(seen) == n + 1).await;
            // The gateway has one worker: while it serves others it sees the end.
            let others = async || {
                for _ in 0..3 {
                    gateway.get("/public/other").send().await.expect(200);
                }
            };
            others().await;
            first.open();
            let mut answer = client.head("GET").await.expect(200);
            client.piece(&mut answer).await.expect("the begin");
            others().await;
            second.open();
            while client.piece(&mut answer).await.is_some() {}
            assert_eq!(answer.end, End::Complete);
            assert!(answer.text().starts_with(&format!("{n}: /public/")), "{}", answer.text());
        }
        // Half a request may be told that it is none.
        let rest = lossy(&client.until_closed().await);
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 4"), "{rest}");
        assert!(upstream.seen().iter().all(|seen| seen.complete && !seen.abandoned));
    }
}

/// For longer than any wait for a word of the upstream, which is why only `PORTCULLIS_TEST_LONG` has
/// it. Of answers of many lengths some have all but their end in what their socket has room for.
#[tokio::test]
async fn a_client_that_has_ended_its_side_may_read_late() {
    if std::env::var_os("PORTCULLIS_TEST_LONG").is_none() {
        return;
    }
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1 << 10));
    let upstream = Upstream::scripted(move |seen| {
        let chunks: usize = seen.path()["/public/".len()..].parse().expect("a number");
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        reply(format!("{head}{}0\r\n\r\n", chunk.repeat(chunks)))
    })
    .await;
    let builder = TestGateway::builder().upstream("app", &upstream);
    let socket = builder.folder().join("http.sock");
    let listen = format!("[server]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]", socket.display());
    let _gateway = builder.config(&listen).start().await;
    let sizes = (32..512).step_by(4);
    let clients = sizes.map(async |chunks| {
        let mut stream = tokio::net::UnixStream::connect(&socket).await.expect("somebody listens");
        let request = |chunks| format!("GET /public/{chunks} HTTP/1.1\r\nHost: a\r\n\r\n");
        let both = request(chunks) + &request(1);
        stream.write_all(both.as_bytes()).await.expect("the connection stands");
        stream.shutdown().await.expect("the connection stands");
        tokio::time::sleep(Duration::from_secs(8)).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        patiently("the answer", read).await.expect("a proper end");
        let ends = lossy(&answer).matches("x\r\n0\r\n\r\n").count();
        assert_eq!(ends, 2, "{chunks}: {} bytes", answer.len());
    });
    futures_util::future::join_all(clients).await;
}

/// Written to, a client that has gone says so.
#[tokio::test]
async fn a_client_that_has_gone_is_noticed_when_it_is_written_to() {
    let gate = Gate::new();
    let wait = gate.clone();
    let upstream = Upstream::scripted(move |_| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let event = Step::WriteForever("3\r\nabc\r\n".into());
        vec![Step::Wait(wait.clone()), write(head), event]
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut client = gateway.connect().await;
    client.send(gateway.get("/public/a").to_bytes()).await;
    upstream.until("the request", |seen| seen.len() == 1).await;
    drop(client);
    gate.open();
    let start = Instant::now();
    upstream.until("its end", |seen| seen[0].abandoned).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    let upstream = Upstream::scripted(|seen| {
        let name = seen.path().trim_start_matches("/public/");
        let (how, framing) = name.split_once('-').expect("two words");
        let head = match framing {
            "length" => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            "chunk" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
            "chunks" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "end" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
        };
        vec![write(head), if how == "close" { Step::Close } else { Step::Reset }]
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for framing in ["length", "chunk", "chunks", "end", "bad"] {
        // A reset may overtake the bytes before it; then there is no answer to break off.
        for (how, statuses) in [("close", &[200][..]), ("reset", &[200, 502])] {
            let mut client = gateway.connect().await;
            client.send(format!("GET /public/{how}-{framing} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            let Some(answer) = client.try_answer("GET").await else { continue };
            assert!(statuses.contains(&answer.status), "{how} {framing}: {}", answer.status);
            if answer.status == 200 {
                assert_eq!(answer.end, End::Cut, "{how} {framing}: {:?}", answer.text());
                assert!(client.until_closed().await.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn bytes_behind_an_answer_reach_nobody() {
    const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let gate = Gate::new();
    let wait = gate.clone();
    let upstream = Upstream::scripted(|seen| match seen.path() {
        "/public/at-once" => reply(format!("{OK}{POISON}")),
        "/public/head" => reply("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        "/public/204" => reply("HTTP/1.1 204 No Content\r\n\r\npoison"),
        _ => vec![Step::Echo],
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for (method, target) in
        [("GET", "/public/at-once"), ("HEAD", "/public/head"), ("GET", "/public/204")]
    {
        let mut client = gateway.connect().await;
        let answer = gateway.request(method, target).send_over(&mut client).await;
        assert!(matches!(answer.status, 200 | 204), "{target}");
        assert!(!answer.text().contains("poison"), "{target}");
        for n in 0..3 {
            let own = format!("/public/own-{n}");
            let answer = gateway.get(&own).send().await.expect(200);
            assert_eq!(answer.json()["target"], own, "after {target}");
            let answer = gateway.get(&own).send_over(&mut client).await.expect(200);
            assert_eq!(answer.json()["target"], own, "after {target}");
        }
    }
    // While the connection lies idle in the pool.
    let later = Upstream::scripted(move |seen| match seen.path() {
        "/public/later" => vec![write(OK), Step::Wait(wait.clone()), write(POISON)],
        _ => vec![Step::Echo],
    })
    .await;
    let gateway = TestGateway::in_front_of(&later).await;
    gateway.get("/public/later").send().await.expect(200);
    gate.open();
    later.until_disconnected().await;
    let answer = gateway.get("/public/own").send().await.expect(200);
    assert_eq!(answer.json()["target"], "/public/own");
}

/// Many callers at once on two workers, some of whom go away in the middle: everybody gets the own
/// answer, for the own identity.
#[tokio::test]
async fn answers_never_reach_another_caller() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .known_secret()
        .config("[server]\nworkers = 2")
        .start()
        .await;
    let callers = (0..40).map(async |n| {
        let token = gateway.token(&format!("user-{n}")).sign();
        let mut client = gateway.connect().await;
        for m in 0..10 {
            let target = format!("/api/user-{n}/task-{m}");
            let request = gateway.post(&target).bearer(&token).body(format!("body {n} {m}"));
            if (n + m) % 7 == 0 {
                client.send(request.to_bytes()).await;
                client = gateway.connect().await;
                continue;
            }
            let echo = request.send_over(&mut client).await.expect(200).json();
            assert_eq!(echo["target"], target);
            assert_eq!(echo["body"], format!("body {n} {m}"));
            let fields = echo["headers"].as_array().expect("a list");
            let mut users = fields.iter().filter(|field| field[0] == "x-user-id");
            assert_eq!(users.next().map(|field| &field[1]), Some(&format!("user-{n}").into()));
            assert_eq!(users.next(), None);
        }
    });
    futures_util::future::join_all(callers).await;
    for seen in upstream.seen() {
        let user = seen.header("x-user-id").expect("an identity");
        assert!(seen.target.starts_with(&format!("/api/{user}/")), "{user} {}", seen.target);
    }
}

#[tokio::test]
async fn a_dead_pooled_connection_is_made_up_for_where_that_is_safe() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let upstream = Upstream::scripted(dies_when_reused()).await;
        let gateway = TestGateway::in_front_of(&upstream).await;
        gateway.get("/public/first").send().await.expect(200);
        let answer = gateway.request(method, "/public/second").send().await;
        assert_eq!(answer.status, 200, "{method}");
        let over: Vec<usize> = upstream.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!(over, [0, 0, 1], "{method}");
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_not_sent_twice() {
    for (method, body) in
        [("POST", Some("abc")), ("POST", None), ("PATCH", None), ("PUT", Some("abc"))]
    {
        let upstream = Upstream::scripted(dies_when_reused()).await;
        let gateway = TestGateway::in_front_of(&upstream).await;
        gateway.get("/public/first").send().await.expect(200);
        let request = gateway.request(method, "/public/second");
        let request = match body {
            Some(body) => request.body(body),
            None => request,
        };
        request.send().await.expect_problem(502, "upstream_unreachable");
        assert_eq!(upstream.count(), 2, "{method} {body:?}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_not_asked_forever() {
    for step in [Step::Close, Step::Reset] {
        let upstream = Upstream::scripted(move |_| vec![step.clone()]).await;
        let gateway = TestGateway::in_front_of(&upstream).await;
        let answer = gateway.get("/public/a").send().await;
        answer.expect_problem(502, "upstream_unreachable");
        assert!(upstream.count() <= 2);
        let answer = gateway.post("/public/a").body("abc").send().await;
        answer.expect_problem(502, "upstream_unreachable");
        assert!(upstream.count() <= 3);
    }
}

#[tokio::test]
async fn a_dead_server_is_passed_over() {
    let upstream = Upstream::echo().await;
    let dead = dead_server().await;
    for servers in [[dead.clone(), upstream.url()], [upstream.url(), dead.clone()]] {
        let gateway = TestGateway::builder().servers("app", &servers).start().await;
        for _ in 0..6 {
            gateway.get("/public/a").send().await.expect(200);
            gateway.post("/public/a").body("abc").send().await.expect(200);
        }
    }
    let both = [dead, dead_server().await];
    let gateway = TestGateway::builder().servers("app", &both).start().await;
    for _ in 0..3 {
        let answer = gateway.get("/public/a").send().await;
        answer.expect_problem(502, "upstream_unreachable");
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let dead = dead_server().await;
    let gateway = TestGateway::builder().servers("app", std::slice::from_ref(&dead)).start().await;
    gateway.get("/public/a").send().await.expect(502);
    let upstream = Upstream::echo_at(dead.trim_start_matches("http://")).await;
    gateway.get("/public/a").send().await.expect(200);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn servers_take_turns() {
    let (one, two) = (Upstream::echo().await, Upstream::echo().await);
    let gateway = TestGateway::builder().servers("app", &[one.url(), two.url()]).start().await;
    for _ in 0..10 {
        gateway.get("/public/a").send().await.expect(200);
    }
    assert_eq!((one.count(), two.count()), (5, 5));
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_502() {
    const BAD: &[&str] = &[
        "nonsense\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 99 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "\r\n",
        "{\"json\": true}\n\n",
    ];
    let upstream = Upstream::scripted(|seen| {
        let n: usize = seen.path()[8..].parse().expect("a number");
        vec![Step::ReadBody, write(BAD[n]), Step::Close]
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for (n, bad) in BAD.iter().enumerate() {
        let answer = gateway.post(&format!("/public/{n}")).body("abc").send().await;
        assert_eq!(answer.status, 502, "{bad:?}: {}", answer.text());
        answer.expect_problem(502, "upstream_unreachable");
    }
    let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let upstream = Upstream::scripted(move |_| vec![write(&huge), Step::Close]).await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    gateway.get("/public/a").send().await.expect_problem(502, "upstream_unreachable");
}

#[tokio::test]
async fn an_answer_with_two_framings_reaches_the_client_with_one() {
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: gzip, chunked",
        "Content-Length: 2\r\nContent-Length: 2",
    ] {
        let body = if framing.contains("chunked") { "2\r\nok\r\n0\r\n\r\n" } else { "ok" };
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{body}");
        let upstream = Upstream::scripted(move |_| reply(&answer)).await;
        let gateway = TestGateway::in_front_of(&upstream).await;
        // The client reads strictly: it fails on anything with two meanings.
        let answer = gateway.get("/public/a").send().await;
        assert!(matches!(answer.status, 200 | 502), "{framing}: {}", answer.status);
        if answer.status == 200 {
            assert_eq!((&*answer.body, answer.end), (&b"ok"[..], End::Complete), "{framing}");
        }
    }
}

#[tokio::test]
async fn an_early_answer_reaches_the_client_and_ends_both_connections() {
    let upstream = Upstream::scripted(|_| {
        vec![write("HTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\nno"), Step::Stall]
    })
    .await;
    // The rest of the body is waited for like any body.
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\nbody_timeout = \"300ms\"")
        .start()
        .await;
    let mut client = gateway.connect().await;
    client.send("POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc").await;
    let answer = client.answer().await.expect(422);
    assert_eq!(answer.text(), "no");
    client.until_closed().await;
    upstream.until_disconnected().await;
}

#[tokio::test]
async fn an_upstream_that_hangs_up_on_a_body_is_502() {
    let upstream = Upstream::scripted(|_| vec![Step::ReadPiece, Step::Reset]).await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut client = gateway.connect().await;
    client.send("POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc").await;
    let answer = client.answer().await;
    answer.expect_problem(502, "upstream_unreachable");
    client.until_closed().await;
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn trailers_end_here() {
    let upstream = Upstream::scripted(|_| {
        reply(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n\
             2\r\nok\r\n0\r\nX-T: 1\r\nX-User-Id: victim\r\n\r\n",
        )
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut client: Client = gateway.connect().await;
    for _ in 0..2 {
        client
            .send(
                "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\
                 Trailer: X-User-Id\r\n\r\n3\r\nabc\r\n0\r\nX-User-Id: victim\r\n\
                 Content-Length: 3\r\n\r\n",
            )
            .await;
        let answer = client.answer().await.expect(200);
        assert_eq!((&*answer.body, answer.trailers.0.len()), (&b"ok"[..], 0));
        let seen = upstream.last();
        assert_eq!((&*seen.body, seen.trailers.0.len()), (&b"abc"[..], 0));
    }
}

#[tokio::test]
async fn a_route_may_have_its_own_body_limit() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(
            r#"
            [server]
            max_body_bytes = "100"
            [[routes]]
            path = "/small/{*rest}"
            upstream = "app"
            access = "public"
            max_body_bytes = "10"
            [[routes]]
            path = "/large/{*rest}"
            upstream = "app"
            access = "public"
            max_body_bytes = "1000"
            [[routes]]
            path = "/usual/{*rest}"
            upstream = "app"
            access = "public"
            "#,
        )
        .start()
        .await;
    for (target, limit) in [("/small/a", 10), ("/usual/a", 100), ("/large/a", 1000)] {
        gateway.post(target).body("x".repeat(limit)).send().await.expect(200);
        let before = upstream.count();
        let answer = gateway.post(target).body("x".repeat(limit + 1)).send().await;
        answer.expect_problem(413, "body_too_large");
        assert_eq!(upstream.count(), before, "a length is known before anything is sent");
    }
}

#[tokio::test]
async fn the_upstream_may_be_named_or_an_ipv6_address() {
    let upstream = Upstream::echo().await;
    let port = upstream.authority().rsplit(':').next().expect("a port").to_owned();
    let gateway =
        TestGateway::builder().servers("app", &[format!("http://localhost:{port}")]).start().await;
    gateway.get("/public/a").send().await.expect(200);
    let six = Upstream::echo_at("[::1]:0").await;
    let gateway = TestGateway::builder().upstream("app", &six).start().await;
    gateway.get("/public/a").send().await.expect(200);
    assert_eq!((upstream.count(), six.count()), (1, 1));
}

#[tokio::test]
async fn a_token_is_read_once_and_its_bytes_stay_out_of_the_upstream() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let token = Issuer::ours().token("u1", gateway.clock.now()).sign();
    for _ in 0..3 {
        gateway.get("/api/u1/a").bearer(&token).send().await.expect(200);
    }
    for seen in upstream.seen() {
        assert!(!String::from_utf8_lossy(&seen.raw).contains(&token));
    }
}

#[tokio::test]
async fn a_chunked_answer_that_is_read_slowly_ends_once() {
    let large = "x".repeat(60_000);
    let upstream = Upstream::scripted(move |seen| {
        if seen.path() == "/public/small" {
            return reply(OK);
        }
        let chunk = format!("ea60\r\n{large}\r\n");
        reply(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            chunk.repeat(200)
        ))
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut client = gateway.connect().await;
    client.send("GET /public/large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // The gateway's socket fills; it is woken now and then by its clock, and must not end the body
    // each time.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answer = client.answer().await;
    assert_eq!((answer.body.len(), answer.end), (12_000_000, End::Complete));
    let again = gateway.get("/public/small").send_over(&mut client).await;
    assert_eq!((again.status, &*again.body), (200, &b"ok"[..]));
}

#[tokio::test]
async fn early_hints_do_not_wait_for_the_answer() {
    let gate = Gate::new();
    let waiting = gate.clone();
    let upstream = Upstream::scripted(move |_| {
        vec![
            Step::ReadBody,
            write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
            Step::Wait(waiting.clone()),
            write(OK),
        ]
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut client = gateway.connect().await;
    client.send("GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        assert!(patiently("the hints", client.wire.fill()).await.expect("the connection stands"));
        seen.extend(client.wire.take_buffered());
    }
    assert!(seen.starts_with(b"HTTP/1.1 103 "), "{}", String::from_utf8_lossy(&seen));
    gate.open();
    client.answer().await.expect(200);
}

#[tokio::test]
async fn a_refusal_to_a_grpc_client_of_http_1_has_an_end() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        let call = gateway.post("/private/svc/Call").header("Content-Type", "application/grpc");
        let answer = call.send_over(&mut client).await;
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert_eq!(answer.header("grpc-status"), Some("16"));
    }
}

#[tokio::test]
async fn a_request_with_a_body_is_sent_once() {
    // The server closes when the connection is used again, after it has read the head.
    let upstream = Upstream::scripted(dies_when_reused()).await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    gateway.get("/public/a").send().await.expect(200);
    let chunked = "POST /public/b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = gateway.connect().await;
    client.send(chunked).await;
    upstream.until("the second request", |seen| seen.len() > 1).await;
    client.send("0\r\n\r\n").await;
    client.answer().await.expect_problem(502, "upstream_unreachable");
    assert_eq!(upstream.count(), 2);
}
