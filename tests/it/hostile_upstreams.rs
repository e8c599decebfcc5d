//! Upstreams that break the rules, by accident or on purpose: over both versions the client always
//! learns that something is missing, and never sees a byte of another client's answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;

use crate::harness::h2raw::{Fields, H2, Outcome, code};
use crate::harness::{Answer, End, Gate, Step, TestGateway, Upstream, patiently, reply, write};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Over which version a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

const BOTH: [Version; 2] = [Version::Http1, Version::Http2];

async fn gateway(upstream: &Upstream, config: &str) -> TestGateway {
    TestGateway::builder()
        .upstream("app", upstream)
        .known_secret()
        .config("[server]\nh2c = true")
        .config(config)
        .start()
        .await
}

/// Asks over a connection of its own. `None`: the connection or the stream ended without an answer.
async fn ask(
    gateway: &TestGateway,
    version: Version,
    method: &str,
    target: &str,
    body: Option<&[u8]>,
) -> Option<Answer> {
    match version {
        Version::Http1 => {
            let mut client = gateway.connect().await;
            let mut request = gateway.request(method, target);
            if let Some(body) = body {
                request = request.body(body);
            }
            client.send(request.to_bytes()).await;
            client.try_answer(method).await
        }
        Version::Http2 => {
            let mut h2 = H2::connect(gateway.address).await;
            let fields = Fields::new(method, target);
            let outcome = match body {
                Some(body) => h2.ask_with(&fields, body).await,
                None => h2.ask(&fields).await,
            };
            match outcome {
                Outcome::Answer(answer) => Some(answer),
                Outcome::Reset(_) => None,
                Outcome::Gone => panic!("one stream's trouble is the connection's: {target}"),
            }
        }
    }
}

async fn get(gateway: &TestGateway, version: Version, target: &str) -> Option<Answer> {
    ask(gateway, version, "GET", target, None).await
}

/// The number at the end of a path.
fn number(path: &str) -> usize {
    path.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(usize::MAX)
}

#[tokio::test]
async fn every_cut_is_told() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cuts: Vec<String> = [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12345678".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nabc".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\nabc".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nabc".to_owned(),
        "HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_owned(),
    ]
    .into_iter()
    .chain(
        [
            "",
            "3",
            "3\r",
            "3\r\n",
            "3\r\nabc",
            "3\r\nabc\r",
            "3\r\nabc\r\n",
            "3\r\nabc\r\n0",
            "3\r\nabc\r\n0\r\n",
            "3\r\nabc\r\n0\r\n\r",
            "3\r\nabc\r\n0\r\nX: y\r\n",
            "3\r\nabcdef\r\n0\r\n\r\n",
            "3\r\nabcX0\r\n\r\n",
            "3\nabc\n0\n\n",
            "-3\r\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            " 3\r\nabc\r\n0\r\n\r\n",
            "\r\n",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
            "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
            "3\r\nabc\r\nHTTP/1.1 200 OK\r\n\r\n",
            "3\rabc\r0\r\r",
            "3\r\nabc\r\n0\r\n X\r\n\r\nmore",
        ]
        .into_iter()
        .map(|body| format!("{CHUNKED}{body}")),
    )
    .collect();
    let scripts = cuts.clone();
    let upstream = Upstream::scripted(move |seen| {
        let n = number(seen.path());
        let end = if seen.path().contains("reset") { Step::Reset } else { Step::Close };
        match scripts.get(n) {
            Some(cut) => vec![write(cut), end],
            None => vec![Step::Echo],
        }
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    for version in BOTH {
        for (n, cut) in cuts.iter().enumerate() {
            for how in ["close", "reset"] {
                let target = format!("/public/{how}/{n}");
                let Some(answer) = get(&gateway, version, &target).await else { continue };
                let whole = answer.status == 200 && answer.end != End::Cut;
                // A chunk's size may be misread by nobody, but an odd last chunk is a matter of
                // taste: what counts is that such a connection is not used again.
                let odd = cut.ends_with(" X\r\n\r\nmore") && answer.body == b"abc";
                assert!(!whole || odd, "{version:?} {how} {cut:?}: {:?}", answer.text());
                assert!(matches!(answer.status, 200 | 502), "{version:?} {cut:?}: {answer:?}");
            }
        }
        let echo = get(&gateway, version, "/public/own").await.expect("an answer").expect(200);
        assert_eq!(echo.json()["target"], "/public/own");
    }
}

/// An answer without a length ends with its connection; a reset is no end (RFC 9112 §8).
#[tokio::test]
async fn an_answer_up_to_the_close_is_whole_only_when_the_close_is_orderly() {
    let upstream = Upstream::scripted(|seen| {
        let version = if seen.path().contains("old") { "HTTP/1.0" } else { "HTTP/1.1" };
        let head = format!("{version} 200 OK\r\nContent-Type: text/plain\r\n\r\nabc");
        let end = if seen.path().contains("reset") { Step::Reset } else { Step::Close };
        vec![write(head), end]
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    for version in BOTH {
        for age in ["old", "new"] {
            let whole = get(&gateway, version, &format!("/public/{age}/close")).await;
            let whole = whole.expect("an answer").expect(200);
            assert!(whole.body == b"abc" && whole.end != End::Cut, "{version:?} {age}: {whole:?}");
            let Some(cut) = get(&gateway, version, &format!("/public/{age}/reset")).await else {
                continue;
            };
            assert!(cut.status == 502 || cut.end == End::Cut, "{version:?} {age}: {cut:?}");
        }
    }
}

#[tokio::test]
async fn whoever_stalls_is_given_up() {
    let upstream = Upstream::scripted(|seen| match number(seen.path()) {
        0 => vec![Step::Stall],
        1 => vec![write("HTTP/1.1 200 OK\r\nContent-Le"), Step::Stall],
        2 => vec![write("HTTP/1.1 100 Continue\r\n\r\n"), Step::Stall],
        3 => vec![write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Step::Stall],
        4 => vec![
            write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
            Step::Stall,
        ],
        5 => vec![
            write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n"),
            Step::Stall,
        ],
        _ => reply(OK),
    })
    .await;
    let gateway = gateway(
        &upstream,
        "[[routes]]\npath = \"/public/{*rest}\"\nupstream = \"app\"\naccess = \"public\"\n\
         timeouts = { response = \"300ms\", idle = \"300ms\" }",
    )
    .await;
    for version in BOTH {
        for n in 0..6 {
            let answer = get(&gateway, version, &format!("/public/{n}")).await;
            if n < 3 {
                answer.expect("an answer").expect_problem(504, "upstream_timeout");
            } else if let Some(answer) = answer {
                assert_eq!((answer.status, answer.end), (200, End::Cut), "{version:?} {n}");
            }
        }
        get(&gateway, version, "/public/9").await.expect("an answer").expect(200);
    }
    upstream
        .until("their end", |seen| {
            seen.iter().all(|seen| seen.abandoned || number(seen.path()) == 9)
        })
        .await;
}

#[tokio::test]
async fn answers_with_two_readings_are_refused_or_read_by_everybody_alike() {
    let heads: Vec<String> = [
        "HTTP/1.1 200 OK\nContent-Length: 2\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n X: folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\rX: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 002\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: \"chunked\"\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX y: z\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: \x01\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 0200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1\t200 OK\r\nContent-Length: 2\r\n\r\n",
        "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "ICY 200 OK\r\nContent-Length: 2\r\n\r\n",
        " HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\x00: y\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 205 Reset Content\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 199 Odd\r\nContent-Length: 2\r\n\r\n",
    ]
    .map(str::to_owned)
    .into();
    let scripts = heads.clone();
    let upstream = Upstream::scripted(move |seen| match scripts.get(number(seen.path())) {
        Some(head) => vec![Step::ReadBody, write(format!("{head}ok{OK}")), Step::Close],
        None => vec![Step::Echo],
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    for version in BOTH {
        for (n, head) in heads.iter().enumerate() {
            // The client reads strictly: two readings of what it gets fail the test there.
            let answer = get(&gateway, version, &format!("/public/{n}")).await;
            if let Some(answer) = answer {
                assert!(
                    answer.status == 502
                        || answer.body == b"ok"
                        || answer.body.is_empty()
                        || answer.end != End::Complete,
                    "{version:?} {head:?}: {answer:?}"
                );
                assert!(answer.status >= 200, "{version:?} {head:?}: {answer:?}");
            }
            let echo = get(&gateway, version, "/public/own").await.expect("an answer").expect(200);
            assert_eq!(echo.json()["target"], "/public/own", "behind {head:?}");
        }
    }
}

#[tokio::test]
async fn a_huge_head_is_refused_and_a_large_one_passes() {
    let fields = |count: usize, bytes: usize| -> String {
        let field = |n| format!("X-{n}: {}\r\n", "y".repeat(bytes));
        (0..count).map(field).collect::<Vec<_>>().concat()
    };
    let heads = [
        (fields(20, 400), true),
        (fields(1, 1 << 20), false),
        (fields(5000, 10), false),
        (fields(400, 4000), false),
    ];
    let scripts = heads.clone();
    let upstream = Upstream::scripted(move |seen| {
        let fields = &scripts[number(seen.path())].0;
        reply(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"))
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    for version in BOTH {
        for (n, (_, fine)) in heads.iter().enumerate() {
            let answer = get(&gateway, version, &format!("/public/{n}")).await.expect("an answer");
            if *fine {
                assert_eq!(answer.expect(200).text(), "ok");
            } else {
                answer.expect_problem(502, "upstream_unreachable");
            }
        }
    }
}

#[tokio::test]
async fn what_never_ends_is_ended() {
    let upstream = Upstream::scripted(|seen| {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n";
        match number(seen.path()) {
            0 => vec![Step::WriteForever("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100).into())],
            1 => vec![
                write("HTTP/1.1 200 OK\r\n"),
                Step::WriteForever("X: y\r\n".repeat(100).into()),
            ],
            2 => vec![write(chunked), Step::WriteForever("X: y\r\n".repeat(100).into())],
            3 => vec![
                write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;"),
                Step::WriteForever("a=b;".repeat(100).into()),
            ],
            4 => vec![
                write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
                Step::WriteForever("0".repeat(100).into()),
            ],
            5 => vec![Step::WriteForever("\r\n".repeat(100).into())],
            6 => vec![write(OK), Step::WriteForever(OK.repeat(100).into())],
            7 => vec![
                write("HTTP/1.1 204 No Content\r\n\r\n"),
                Step::WriteForever(OK.repeat(100).into()),
            ],
            _ => reply(OK),
        }
    })
    .await;
    let gateway = gateway(&upstream, "[upstreams.app]\nresponse_timeout = \"500ms\"").await;
    for version in BOTH {
        for n in 0..8 {
            let target = format!("/public/{n}");
            let asked = get(&gateway, version, &target);
            let answer = patiently("an end", asked).await;
            if let Some(answer) = answer {
                match n {
                    0 | 1 | 5 => assert!(matches!(answer.status, 502 | 504), "{n}: {answer:?}"),
                    3 | 4 => assert!(answer.status == 502 || answer.end == End::Cut, "{n}"),
                    2 => assert!(answer.end == End::Cut || answer.body == b"abc", "{n}"),
                    _ => assert!(answer.text() == "ok" || answer.status == 204, "{n}"),
                }
            }
        }
        assert_eq!(
            get(&gateway, version, "/public/9").await.expect("one").expect(200).text(),
            "ok"
        );
    }
    upstream
        .until("their end", |seen| {
            seen.iter().all(|seen| seen.abandoned || number(seen.path()) == 9)
        })
        .await;
}

#[tokio::test]
async fn many_interim_answers_are_no_harm() {
    let upstream = Upstream::scripted(|_| {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
        vec![Step::ReadBody, write(hints.repeat(50)), write(OK)]
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    for version in BOTH {
        let answer = get(&gateway, version, "/public/a").await.expect("an answer");
        // Some are passed on, or the upstream is given up: never half of either.
        assert!(matches!(answer.status, 200 | 502), "{version:?}: {answer:?}");
        assert!(answer.status != 200 || answer.text() == "ok");
        assert!(answer.interim.iter().all(|status| *status == 103));
    }
}

#[tokio::test]
async fn bytes_behind_an_answer_reach_nobody_over_http_2_either() {
    const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let gate = Gate::new();
    let wait = gate.clone();
    let upstream = Upstream::scripted(move |seen| match seen.path() {
        "/public/at-once" => reply(format!("{OK}{POISON}")),
        "/public/head" => reply("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        "/public/204" => reply(format!("HTTP/1.1 204 No Content\r\n\r\n{POISON}")),
        "/public/304" => reply("HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison"),
        "/public/chunks" => reply(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{POISON}"
        )),
        "/public/later" => vec![write(OK), Step::Wait(wait.clone()), write(POISON)],
        _ => vec![Step::Echo],
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    let mut h2 = H2::connect(gateway.address).await;
    for (method, target) in [
        ("GET", "/public/at-once"),
        ("HEAD", "/public/head"),
        ("GET", "/public/204"),
        ("GET", "/public/304"),
        ("GET", "/public/chunks"),
        ("GET", "/public/later"),
    ] {
        let answer = h2.exchange(&Fields::new(method, target)).await;
        assert!(matches!(answer.status, 200 | 204 | 304), "{target}: {answer:?}");
        assert!(!answer.text().contains("poison"), "{target}");
        gate.open();
        for n in 0..3 {
            let own = format!("/public/own-{n}");
            let echo = h2.exchange(&Fields::get(&own)).await.expect(200).json();
            assert_eq!(echo["target"], own, "behind {target}");
        }
    }
}

#[tokio::test]
async fn an_upstream_cannot_open_a_tunnel_that_was_not_asked_for() {
    let upstream = Upstream::scripted(|seen| {
        let upgrade = match number(seen.path()) {
            0 => "Upgrade: websocket\r\nConnection: Upgrade\r\n",
            1 => "Upgrade: h2c\r\nConnection: Upgrade\r\n",
            2 => "Connection: Upgrade\r\n",
            _ => "",
        };
        vec![write(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\nsecret")), Step::Stall]
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    for version in BOTH {
        for n in 0..4 {
            let answer = get(&gateway, version, &format!("/public/{n}")).await.expect("an answer");
            answer.expect_problem(502, "upstream_unreachable");
            assert!(!answer.text().contains("secret"));
        }
    }
    // Nor one of another kind than was asked for.
    for n in 1..4 {
        let handshake = gateway
            .get(&format!("/public/{n}"))
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(handshake.send().await.expect(502).code(), "upstream_unreachable");
    }
    upstream.until_disconnected().await;
}

/// The answer comes while the body is still on its way, and the upstream reads no more of it.
#[tokio::test]
async fn an_early_answer_is_not_lost_behind_the_body() {
    let upstream = Upstream::scripted(|seen| {
        let answer = "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig";
        match seen.path() {
            "/public/early" => vec![Step::ReadPiece, write(answer), Step::Stall],
            "/public/closing" => vec![Step::ReadPiece, write(answer), Step::Close],
            _ => reply(OK),
        }
    })
    .await;
    let gateway = gateway(&upstream, "[server]\nbody_timeout = \"500ms\"").await;
    let body = vec![b'x'; 3 << 20];
    // HTTP/1.1: the client reads as it sends, as most do.
    for target in ["/public/early", "/public/closing"] {
        let stream = tokio::net::TcpStream::connect(gateway.address).await.expect("a connection");
        let (read, mut write) = stream.into_split();
        let head =
            format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        let bytes = [head.as_bytes(), &body].concat();
        let sending = tokio::spawn(async move {
            // Ends in an error when the gateway has had enough.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut write, &bytes).await;
            write
        });
        let mut answer = Vec::new();
        let mut read = tokio::io::AsyncReadExt::take(read, 1 << 16);
        patiently("an answer", async {
            while !answer.ends_with(b"big") {
                let n = tokio::io::AsyncReadExt::read_buf(&mut read, &mut answer).await;
                // Closing may race the upload when the upstream hangs up: then a 502 will do.
                if !matches!(n, Ok(1..)) {
                    break;
                }
            }
        })
        .await;
        let answer = crate::harness::http::lossy(&answer);
        let statuses: &[&str] = if target == "/public/early" { &["413"] } else { &["413", "502"] };
        assert!(
            statuses.iter().any(|s| answer.starts_with(&format!("HTTP/1.1 {s} "))),
            "{target}: {answer:?}"
        );
        drop(sending.await);
    }
    // HTTP/2: the stream ends, the connection goes on.
    let mut h2 = H2::connect(gateway.address).await;
    for target in ["/public/early", "/public/closing"] {
        match h2.ask_with(&Fields::post(target), &body).await {
            Outcome::Answer(answer) if answer.status == 413 => assert_eq!(answer.text(), "big"),
            Outcome::Answer(answer) => {
                assert_eq!((target, answer.status), ("/public/closing", 502));
            }
            Outcome::Reset(code::NO_ERROR) => panic!("{target}: reset without the answer"),
            other => panic!("{target}: {other:?}"),
        }
        assert_eq!(h2.exchange(&Fields::get("/public/a")).await.expect(200).text(), "ok");
    }
}

/// Many clients over both versions in front of an upstream that does everything wrong: who gets a
/// whole answer gets the own one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_thick_of_it_everybody_gets_the_own_answer_or_none() {
    let long = std::env::var_os("PORTCULLIS_TEST_LONG").is_some();
    let rounds = if long { 2000 } else { 40 };
    let upstream = Upstream::scripted(|seen| {
        let tag = seen.path()[8..].to_owned();
        let body = format!("<{tag}>").repeat(20);
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nX-Tag: {tag}\r\n");
        let whole = format!("{head}Content-Length: {length}\r\n\r\n{body}");
        let chunks =
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n");
        match tag.bytes().map(usize::from).sum::<usize>() % 13 {
            0 => vec![write(&whole[..whole.len() - 30]), Step::Close],
            1 => vec![write(&whole[..whole.len() - 30]), Step::Reset],
            2 => reply(format!("{whole}{whole}")),
            3 => reply(format!("{chunks}{whole}")),
            4 => vec![write(&chunks[..chunks.len() - 4]), Step::Close],
            5 => vec![Step::ReadBody, Step::Close],
            6 => vec![write(&whole), Step::Close],
            7 => reply(format!("HTTP/1.1 103 Early Hints\r\n\r\n{whole}")),
            8 => reply(format!("{head}Content-Length: 0\r\n\r\n{whole}")),
            9 => vec![write(&whole), Step::ReadBody],
            10 => reply(chunks),
            _ => reply(whole),
        }
    })
    .await;
    let gateway = Arc::new(gateway(&upstream, "[server]\nworkers = 2").await);
    let whole = Arc::new(AtomicUsize::new(0));
    let clients = (0..16).map(|client| {
        let (gateway, whole) = (Arc::clone(&gateway), Arc::clone(&whole));
        tokio::spawn(async move {
            let version = BOTH[client % 2];
            for round in 0..rounds {
                let tag = format!("{client}-{round}-{version:?}");
                let target = format!("/public/{tag}");
                let body = if round % 3 == 0 { Some(&b"some body"[..]) } else { None };
                let method = if body.is_some() { "POST" } else { "GET" };
                let Some(answer) = ask(&gateway, version, method, &target, body).await else {
                    continue;
                };
                if answer.status != 200 {
                    assert_eq!(answer.status, 502, "{answer:?}");
                    continue;
                }
                assert_eq!(answer.header("x-tag"), Some(&*tag));
                let own = format!("<{tag}>").repeat(20);
                let text = answer.text();
                if answer.end == End::Cut {
                    assert!(own.starts_with(&text), "{tag}: {text}");
                } else {
                    assert!(text == own || text.is_empty(), "{tag}: {text}");
                    whole.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    for client in join_all(clients).await {
        client.expect("a client without a complaint");
    }
    // Eight of the thirteen ways are fine for their own client.
    let whole = whole.load(Ordering::Relaxed);
    assert!(whole > 16 * rounds / 3, "{whole}");
}
