//! Every wait ends. Limits are short here; they are kept to about a tenth of a second, so each test
//! allows for more, but not for the default of many seconds.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::harness::h2raw::{Fields, H2};
use crate::harness::{Client, End, Gate, Step, TestGateway, Upstream, patiently, reply, write};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The limit under test.
const LIMIT: Duration = Duration::from_millis(400);

/// Much longer than [`LIMIT`], much shorter than any default.
const LATE: Duration = Duration::from_secs(4);

async fn gateway(upstream: &Upstream, config: &str) -> TestGateway {
    TestGateway::builder().upstream("app", upstream).config(config).start().await
}

/// Measures how long `step` takes, which must be about [`LIMIT`].
async fn about_the_limit<T>(what: &str, step: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let done = patiently(what, step).await;
    let took = start.elapsed();
    assert!(took < LATE, "{what}: {took:?}");
    // A little less is possible: the limit began to run before the measurement.
    assert!(took > LIMIT / 2, "{what}: {took:?}");
    done
}

/// What a client is told whose time is up: nothing, or 408.
async fn expect_late(client: &mut Client) {
    if let Some(answer) = client.try_answer("GET").await {
        assert_eq!(answer.status, 408, "{}", answer.text());
    }
    client.until_closed().await;
}

#[tokio::test]
async fn a_head_that_does_not_come_closes_the_connection() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream, "[server]\nheader_timeout = \"400ms\"").await;
    for begin in ["", "GET", "GET /public/a HTTP/1.1\r\nHost: a\r\nX: "] {
        let mut client = gateway.connect().await;
        client.send(begin).await;
        about_the_limit("a silent head", expect_late(&mut client)).await;
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_head_that_trickles_in_is_not_waited_for_either() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream, "[server]\nheader_timeout = \"400ms\"").await;
    let mut client = gateway.connect().await;
    client.send("GET /public/a HTTP/1.1\r\nHost: a\r\nX: ").await;
    let start = Instant::now();
    let trickle = async {
        loop {
            client.send("a").await;
            // Closed when nothing can be read any more but the end.
            let read = tokio::time::timeout(Duration::from_millis(50), client.wire.fill()).await;
            if matches!(read, Ok(Ok(false) | Err(_))) {
                return;
            }
        }
    };
    patiently("the end of a trickling head", trickle).await;
    assert!(start.elapsed() < LATE, "{:?}", start.elapsed());
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn the_second_head_has_the_same_limit() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream, "[server]\nheader_timeout = \"400ms\"").await;
    for first in [
        "GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut client = gateway.connect().await;
        client.send(first).await;
        client.answer().await.expect(200);
        client.send("GET /public/b HTTP/1.1\r\nHo").await;
        about_the_limit("a torn second head", expect_late(&mut client)).await;
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream, "[server]\nidle_timeout = \"400ms\"").await;
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        gateway.get("/public/a").send_over(&mut client).await.expect(200);
        // Shorter pauses do no harm, and do not add up.
        sleep(LIMIT / 2).await;
    }
    gateway.get("/public/a").send_over(&mut client).await.expect(200);
    let rest = about_the_limit("an idle connection", client.until_closed()).await;
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn a_body_that_falls_silent_is_given_up() {
    let upstream = Upstream::echo().await;
    let gateway = gateway(&upstream, "[server]\nbody_timeout = \"400ms\"").await;
    for begin in [
        "Content-Length: 9\r\n\r\nabc",
        "Content-Length: 9\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut client = gateway.connect().await;
        client.send(format!("POST /public/a HTTP/1.1\r\nHost: a\r\n{begin}")).await;
        about_the_limit("a silent body", expect_late(&mut client)).await;
        upstream.until_disconnected().await;
        assert!(upstream.seen().iter().all(|seen| !seen.complete), "{begin:?}");
    }
}

#[tokio::test]
async fn a_body_that_keeps_coming_is_waited_for() {
    let upstream = Upstream::echo().await;
    let config = "[server]\nbody_timeout = \"400ms\"\nheader_timeout = \"400ms\"\n\
                  idle_timeout = \"400ms\"\n[upstreams.app]\nresponse_timeout = \"400ms\"";
    let gateway = gateway(&upstream, config).await;
    let mut client = gateway.connect().await;
    client.send("POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n").await;
    for _ in 0..8 {
        sleep(LIMIT / 2).await;
        client.send("x").await;
    }
    client.answer().await.expect(200);
    assert_eq!(upstream.only().body, b"xxxxxxxx");
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_504() {
    let upstream = Upstream::scripted(|_| vec![Step::ReadBody, Step::Stall]).await;
    let config = "[upstreams.app]\nresponse_timeout = \"400ms\"";
    let gateway = gateway(&upstream, config).await;
    for (n, method) in ["GET", "POST"].into_iter().enumerate() {
        let request = gateway.request(method, "/public/a");
        let request = if method == "POST" { request.body("abc") } else { request };
        let answer = about_the_limit("a silent upstream", request.send()).await;
        answer.expect_problem(504, "upstream_timeout");
        upstream.until("its end", |seen| seen[n].abandoned).await;
        assert_eq!(upstream.count(), n + 1, "a slow one is not asked twice");
    }
}

#[tokio::test]
async fn half_an_answers_head_is_no_answer() {
    let upstream = Upstream::scripted(|_| vec![write("HTTP/1.1 200 OK\r\nX: "), Step::Stall]).await;
    let gateway = gateway(&upstream, "[upstreams.app]\nresponse_timeout = \"400ms\"").await;
    let answer = about_the_limit("a torn head", gateway.get("/public/a").send()).await;
    answer.expect_problem(504, "upstream_timeout");
}

#[tokio::test]
async fn a_route_may_have_its_own_limits() {
    let upstream = Upstream::scripted(|seen| match seen.path() {
        "/quick/head" | "/usual/head" => vec![Step::Stall],
        _ => vec![write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc"), Step::Stall],
    })
    .await;
    let config = r#"
        [[routes]]
        path = "/quick/{*rest}"
        upstream = "app"
        access = "public"
        timeouts = { response = "400ms", idle = "400ms" }
        [[routes]]
        path = "/usual/{*rest}"
        upstream = "app"
        access = "public"
        "#;
    let gateway = gateway(&upstream, config).await;
    let mut usual = gateway.connect().await;
    usual.send("GET /usual/head HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = about_the_limit("a silent upstream", gateway.get("/quick/head").send()).await;
    answer.expect_problem(504, "upstream_timeout");
    let answer = about_the_limit("a silent answer", gateway.get("/quick/body").send()).await;
    assert_eq!((answer.status, answer.end), (200, End::Cut));
    let early = tokio::time::timeout(Duration::from_millis(1), usual.wire.fill()).await;
    assert!(early.is_err(), "the other route waits on");
}

#[tokio::test]
async fn an_answer_that_falls_silent_is_cut() {
    let upstream = Upstream::scripted(|seen| {
        let head = match seen.path() {
            "/public/length" => "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc",
            "/public/chunked" => {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
            }
            _ => "HTTP/1.1 200 OK\r\n\r\nabc",
        };
        vec![write(head), Step::Stall]
    })
    .await;
    let gateway = gateway(&upstream, "[upstreams.app]\nidle_timeout = \"400ms\"").await;
    for target in ["/public/length", "/public/chunked", "/public/close"] {
        let mut client = gateway.connect().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let mut answer = client.head("GET").await.expect(200);
        assert_eq!(client.piece(&mut answer).await.as_deref(), Some(&b"abc"[..]));
        let next = about_the_limit("a silent answer", client.piece(&mut answer)).await;
        assert_eq!((next, answer.end), (None, End::Cut), "{target}");
        upstream.until_disconnected().await;
    }
}

#[tokio::test]
async fn an_answer_that_keeps_coming_is_passed_on_to_its_end() {
    let gates: Vec<Gate> = (0..6).map(|_| Gate::new()).collect();
    let waits = gates.clone();
    let upstream = Upstream::scripted(move |_| {
        let head = write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let pieces = waits.iter().flat_map(|gate| [Step::Wait(gate.clone()), write("1\r\nx\r\n")]);
        [head].into_iter().chain(pieces).chain([write("0\r\n\r\n")]).collect()
    })
    .await;
    let config = "[server]\nheader_timeout = \"400ms\"\nidle_timeout = \"400ms\"\n\
                  body_timeout = \"400ms\"\n[upstreams.app]\nresponse_timeout = \"400ms\"\n\
                  idle_timeout = \"400ms\"";
    let gateway = gateway(&upstream, config).await;
    let mut client = gateway.connect().await;
    client.send("GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut answer = client.head("GET").await.expect(200);
    for gate in gates {
        sleep(LIMIT / 2).await;
        gate.open();
        assert_eq!(client.piece(&mut answer).await.as_deref(), Some(&b"x"[..]));
    }
    assert_eq!(client.piece(&mut answer).await, None);
    assert_eq!((answer.text().as_str(), answer.end), ("xxxxxx", End::Complete));
}

#[tokio::test]
async fn an_upstream_that_cannot_be_connected_to_in_time_is_told() {
    // A listener whose queue is full leaves further connections unanswered.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    listener.bind(&any.into()).expect("a free port");
    listener.listen(0).expect("a listener");
    let address = listener.local_addr().expect("bound").as_socket().expect("an IP address");
    let mut filling = Vec::new();
    loop {
        let connecting = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(300), connecting).await {
            Ok(connected) => filling.push(connected.expect("the queue has room")),
            Err(_) => break,
        }
    }
    let gateway = TestGateway::builder()
        .servers("app", &[format!("http://{address}")])
        .config("[upstreams.app]\nconnect_timeout = \"400ms\"")
        .start()
        .await;
    let answer = about_the_limit("a connection", gateway.get("/public/a").send()).await;
    assert!(matches!(answer.status, 502 | 504), "{}", answer.status);
    answer.expect_problem(
        answer.status,
        if answer.status == 502 { "upstream_unreachable" } else { "upstream_timeout" },
    );
}

#[tokio::test]
async fn a_tunnel_is_not_a_head_a_body_or_an_idle_connection() {
    let upstream = Upstream::scripted(|_| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        vec![write(head), Step::EchoBytes]
    })
    .await;
    let config = "[server]\nheader_timeout = \"400ms\"\nidle_timeout = \"400ms\"\n\
                  body_timeout = \"400ms\"\n[upstreams.app]\nresponse_timeout = \"400ms\"";
    let gateway = gateway(&upstream, config).await;
    let mut client = gateway.connect().await;
    client
        .send(
            "GET /public/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    client.head("GET").await.expect(101);
    for word in ["one", "two"] {
        sleep(LIMIT * 2).await;
        client.send(word).await;
        let mut echo = Vec::new();
        while echo.len() < word.len() {
            assert!(patiently("an echo", client.wire.fill()).await.expect("the tunnel stands"));
            echo.extend(client.wire.take_buffered());
        }
        assert_eq!(echo, word.as_bytes());
    }
}

#[tokio::test]
async fn a_stale_pooled_connection_is_not_used() {
    let upstream = Upstream::scripted(|_| reply(OK)).await;
    let gateway = gateway(&upstream, "[upstreams.app]\nkeep_alive = \"400ms\"").await;
    gateway.get("/public/a").send().await.expect(200);
    gateway.get("/public/a").send().await.expect(200);
    assert_eq!(upstream.connections(), 1);
    about_the_limit("the pool to close it", upstream.until_disconnected()).await;
    gateway.get("/public/a").send().await.expect(200);
    assert_eq!(upstream.connections(), 2);
}

/// The answer may come before the end of the body; the limits that follow must not be lost.
#[tokio::test]
async fn an_early_answer_suspends_no_limit() {
    let upstream = Upstream::scripted(|_| vec![write(OK), Step::ReadBody]).await;
    let config = "[server]\nidle_timeout = \"400ms\"\nbody_timeout = \"400ms\"";
    let gateway = gateway(&upstream, config).await;
    let head = "POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc";
    let mut client = gateway.connect().await;
    client.send(head).await;
    client.answer().await.expect(200);
    client.send("def").await;
    // Whether the connection lives on is the gateway's choice, but not for ever.
    client.until_closed().await;
    let mut client = gateway.connect().await;
    client.send(head).await;
    client.answer().await.expect(200);
    client.until_closed().await;
}

/// However long the client makes it last: what it does not take holds up the upstream, too.
#[tokio::test]
async fn an_exchange_is_cut_when_its_time_is_over_however_slowly_it_is_read() {
    const ROUTE: &str = "[server]\nh2c = true\n[[routes]]\npath = \"/public/{*rest}\"\n\
        upstream = \"app\"\naccess = \"public\"\ntimeouts = { total = \"400ms\" }";
    let upstream = Upstream::scripted(|seen| {
        let (fields, piece) = match seen.path() {
            "/public/length" => ("Content-Length: 99999999999\r\n", "x".repeat(8 << 10)),
            "/public/chunked" => {
                ("Transfer-Encoding: chunked\r\n", format!("2000\r\n{}\r\n", "x".repeat(8 << 10)))
            }
            _ => ("", "x".repeat(8 << 10)),
        };
        vec![write(format!("HTTP/1.1 200 OK\r\n{fields}\r\n")), Step::WriteForever(piece.into())]
    })
    .await;
    let gateway = gateway(&upstream, ROUTE).await;
    let is_over = |n: usize| upstream.seen().get(n).is_some_and(|seen| seen.abandoned);
    let targets = ["/public/length", "/public/chunked", "/public/close"];
    for (n, (version, target)) in
        [1, 0].iter().flat_map(|version| targets.map(|target| (version, target))).enumerate()
    {
        let mut client = gateway.connect().await;
        client.send(format!("GET {target} HTTP/1.{version}\r\nHost: a\r\n\r\n")).await;
        let mut answer = client.head("GET").await.expect(200);
        let trickle = async {
            while !is_over(n) {
                client.piece(&mut answer).await.expect("more");
                sleep(LIMIT / 20).await;
            }
        };
        about_the_limit("an answer that trickles", trickle).await;
        // What is on its way still comes, and then the word that it is not all.
        while client.piece(&mut answer).await.is_some() {}
        assert_eq!(answer.end, End::Cut, "{target} HTTP/1.{version}");
    }
    for (n, target) in targets.into_iter().enumerate().map(|(n, target)| (n + 6, target)) {
        // Others on the connection are not cut with it, so their time is not measured by it.
        let mut h2 = H2::connect_narrow(gateway.address, 1 << 10).await;
        let stream = h2.begin(&Fields::get(target), false).await;
        h2.until("a head", |h2| h2.so_far(stream).is_some()).await;
        let trickle = async {
            while !is_over(n) {
                h2.grant(stream, 1 << 10).await;
                h2.ping().await;
                sleep(LIMIT / 20).await;
            }
        };
        about_the_limit("an answer that trickles", trickle).await;
        let answer = h2.answer(stream).await.expect(200);
        assert_eq!(answer.end, End::Cut, "{target}");
        assert!(h2.reset_code(stream).is_some_and(|code| code != 0), "{target}");
        assert!(h2.ping().await, "{target}: the stream's time was not the connection's");
    }
}

/// One that reads nothing at all is no different: the upstream is not held for its sake.
#[tokio::test]
async fn an_exchange_is_cut_when_its_time_is_over_though_nobody_reads() {
    let upstream = Upstream::scripted(|_| {
        let piece = format!("2000\r\n{}\r\n", "x".repeat(8 << 10));
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        vec![write(head), Step::WriteForever(piece.into())]
    })
    .await;
    let config = "[server]\nh2c = true\n[[routes]]\npath = \"/public/{*rest}\"\n\
                  upstream = \"app\"\naccess = \"public\"\ntimeouts = { total = \"400ms\" }";
    let gateway = gateway(&upstream, config).await;
    let mut client = gateway.connect().await;
    client.send("GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let ended = upstream.until("its end", |seen| seen.first().is_some_and(|seen| seen.abandoned));
    about_the_limit("an answer that is not read", ended).await;
    let mut answer = client.head("GET").await.expect(200);
    while client.piece(&mut answer).await.is_some() {}
    assert_eq!(answer.end, End::Cut);
    let mut h2 = H2::connect_narrow(gateway.address, 0).await;
    let stream = h2.begin(&Fields::get("/public/a"), false).await;
    let ended = upstream.until("its end", |seen| seen.get(1).is_some_and(|seen| seen.abandoned));
    about_the_limit("an answer that is not read", ended).await;
    assert_eq!(h2.answer(stream).await.expect(200).end, End::Cut);
}
