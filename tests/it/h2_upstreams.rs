//! Upstreams over HTTP/2: what reaches them, what comes back of trailers, and that the client learns
//! of every cut, whichever version it speaks itself.

use crate::harness::h2raw::{Fields, H2, Outcome, code, flag, frame, headers, kind};
use crate::harness::h2upstream::{Act, H2Upstream, SeenStream, status, whole};
use crate::harness::{Answer, End, Gate, TestGateway};

/// As `GOAWAY` says it: of streams behind `last` nothing was begun (RFC 9113 §6.8).
fn farewell(last: u32, code: u32) -> Act {
    let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
    Act::Bytes(frame(kind::GOAWAY, 0, 0, payload))
}

async fn gateway(upstream: &H2Upstream, config: &str) -> TestGateway {
    TestGateway::builder()
        .servers("app", &[upstream.url()])
        .known_secret()
        .config("[server]\nh2c = true\n[upstreams.app]\nprotocol = \"h2c\"")
        .config(config)
        .start()
        .await
}

/// What clients of both versions make of a path. `None`: nothing came, or the stream was reset.
async fn both(gateway: &TestGateway, target: &str) -> [Option<Answer>; 2] {
    let mut client = gateway.connect().await;
    client.send(gateway.get(target).to_bytes()).await;
    let first = client.try_answer("GET").await;
    let mut h2 = H2::connect(gateway.address).await;
    let second = match h2.ask(&Fields::get(target)).await {
        Outcome::Answer(answer) => Some(answer),
        Outcome::Reset(_) => None,
        Outcome::Gone => panic!("{target}: one stream's trouble is the connection's"),
    };
    [first, second]
}

#[tokio::test]
async fn a_request_reaches_an_http_2_upstream_in_its_words() {
    let upstream = H2Upstream::scripted(|_| whole("ok")).await;
    let gateway = gateway(&upstream, "").await;
    let token = gateway.token("u1").sign();
    let told = gateway
        .post("/api/u1/a?b=%20c")
        .bearer(&token)
        .header("Connection", "keep-alive, X-Hop")
        .header("X-Hop", "1")
        .header("Keep-Alive", "timeout=5")
        .header("Cookie", "a=1; b=2")
        .header("X-User-Id", "victim")
        .header("X-Kept", "Yes")
        .body("abc");
    told.send().await.expect(200);
    let mut h2 = H2::connect(gateway.address).await;
    let fields = Fields::post("/api/u1/a?b=%20c")
        .bearer(&token)
        .with("te", "trailers")
        .with("cookie", "a=1")
        .with("cookie", "b=2")
        .with("x-user-id", "victim")
        .with("x-kept", "Yes");
    match h2.ask_with(&fields, b"abc").await {
        Outcome::Answer(answer) => assert_eq!(answer.expect(200).text(), "ok"),
        other => panic!("{other:?}"),
    }
    for (n, seen) in upstream.seen().into_iter().enumerate() {
        let field = |name: &str| seen.fields.get(name);
        assert_eq!((field(":method"), field(":scheme")), (Some("POST"), Some("http")));
        assert_eq!(field(":path"), Some("/api/u1/a?b=%20c"));
        assert!(field(":authority").is_some() && field("host").is_none(), "{seen:?}");
        assert_eq!((field("x-user-id"), field("x-kept")), (Some("u1"), Some("Yes")));
        assert_eq!(seen.fields.all("cookie").join("; "), "a=1; b=2");
        assert_eq!(field("te"), (n == 1).then_some("trailers"));
        assert_eq!((&*seen.body, seen.complete), (&b"abc"[..], true));
        for gone in ["connection", "keep-alive", "x-hop", "transfer-encoding", "authorization"] {
            assert!(!seen.fields.has(gone), "{gone} in {seen:?}");
        }
        let pseudo = seen.fields.0.iter().take_while(|(name, _)| name.starts_with(':')).count();
        assert!(seen.fields.0[pseudo..].iter().all(|(name, _)| !name.starts_with(':')));
    }
    // Both came over one connection.
    assert!(upstream.seen().iter().all(|seen| seen.connection == 0));
}

#[tokio::test]
async fn trailers_pass_between_http_2_sides_only() {
    let upstream = H2Upstream::scripted(|_| {
        let trailers = Fields::none()
            .with("x-t", "down")
            .with("grpc-status", "0")
            .with("set-cookie", "__Host-portcullis-access=evil; Path=/; Secure")
            .with("set-cookie", "a=evil")
            .with("access-control-allow-origin", "https://evil.example")
            .with("access-control-allow-headers", "evil")
            .with("proxy-authenticate", "evil")
            .with("x-request-id", "evil");
        vec![
            Act::ReadAll,
            Act::Head(status("200"), false),
            Act::Data(b"ok".to_vec(), false),
            Act::Trailers(trailers),
        ]
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    let mut h2 = H2::connect(gateway.address).await;
    let stream = h2.begin(&Fields::post("/public/a").with("te", "trailers"), true).await;
    h2.body(stream, b"abc", false).await;
    let trailers = Fields::none()
        .with("x-t", "up")
        .with("x-user-id", "victim")
        .with("x_user_id", "victim")
        .with("authorization", "victim")
        .with("content-length", "99");
    h2.send(headers(stream, flag::END_STREAM, &trailers)).await;
    let answer = h2.answer(stream).await.expect(200);
    assert_eq!((answer.text(), answer.end), ("ok".to_owned(), End::Complete));
    assert_eq!(answer.trailers.get("x-t"), Some("down"));
    assert_eq!(answer.trailers.get("grpc-status"), Some("0"));
    // What is looked at in a head does not come behind the body.
    assert!(!format!("{:?}", answer.trailers).contains("evil"), "{:?}", answer.trailers);
    let seen = upstream.last();
    assert_eq!((&*seen.body, seen.complete), (&b"abc"[..], true));
    assert_eq!(seen.trailers.get("x-t"), Some("up"));
    // What a client may not say in a head it may not say behind a body either.
    assert!(!format!("{:?}", seen.trailers).contains("victim"), "{:?}", seen.trailers);
    assert!(!seen.trailers.has("content-length"), "{:?}", seen.trailers);
    let mut client = gateway.connect().await;
    client
        .send(
            "POST /public/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\nX-T: up\r\n\r\n",
        )
        .await;
    let answer = client.answer().await.expect(200);
    assert_eq!((answer.text(), answer.end), ("ok".to_owned(), End::Complete));
    assert!(answer.trailers.0.is_empty() && upstream.last().trailers.0.is_empty());
}

#[tokio::test]
async fn every_cut_of_an_http_2_upstream_is_told() {
    let begun = |length: &str, rest: Vec<Act>| {
        let mut head = status("200");
        if !length.is_empty() {
            head = head.with("content-length", length);
        }
        let mut acts = vec![Act::Head(head, false), Act::Data(b"abc".to_vec(), false)];
        acts.extend(rest);
        acts
    };
    let reset = |code: u32| vec![Act::Frame(kind::RST_STREAM, 0, code.to_be_bytes().to_vec())];
    let farewell = frame(kind::GOAWAY, 0, 0, [0, 0, 0, 0, 0, 0, 0, 2]);
    let cuts = [
        begun("9", reset(code::CANCEL)),
        begun("", reset(code::CANCEL)),
        begun("", reset(code::NO_ERROR)),
        begun("", reset(code::PROTOCOL_ERROR)),
        begun("9", vec![Act::Close]),
        begun("", vec![Act::Close]),
        begun("9", vec![Act::Data(Vec::new(), true)]),
        begun("9", vec![Act::Trailers(Fields::none().with("x", "1"))]),
        begun("2", vec![Act::Data(b"def".to_vec(), true)]),
        begun("", vec![Act::Bytes(farewell), Act::Close]),
        begun("", vec![Act::Bytes(vec![0; 9]), Act::Close]),
        begun("", vec![Act::Frame(kind::WINDOW_UPDATE, 0, vec![0; 4])]),
    ];
    let scripts = cuts.clone();
    let upstream = H2Upstream::scripted(move |seen| {
        let n: Option<usize> = seen.path().rsplit('/').next().and_then(|n| n.parse().ok());
        n.map_or_else(|| whole("ok"), |n| scripts[n].clone())
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    for (n, cut) in cuts.iter().enumerate() {
        for answer in both(&gateway, &format!("/public/{n}")).await.into_iter().flatten() {
            let told = answer.status == 502 || answer.end == End::Cut;
            assert!(told, "{cut:?}: {} {:?} {:?}", answer.status, answer.end, answer.text());
        }
        for answer in both(&gateway, "/public/own").await {
            assert_eq!(answer.expect("an answer").expect(200).text(), "ok", "behind {cut:?}");
        }
    }
}

#[tokio::test]
async fn answers_that_http_2_does_not_have_are_502() {
    let head = |fields: Fields| vec![Act::Head(fields, false), Act::Data(b"secret".to_vec(), true)];
    let bad = [
        head(Fields::none().with("x", "1")),
        head(status("2000")),
        head(status("abc")),
        head(status("101")),
        head(status("200").with("X-Upper", "1")),
        head(status("200").with("x", "a\nb")),
        head(Fields::none().with("x", "1").with(":status", "200")),
        vec![Act::Data(b"secret".to_vec(), true)],
        vec![Act::Frame(kind::HEADERS, 5, vec![0x80])],
        vec![Act::Frame(kind::RST_STREAM, 0, vec![0, 0, 0, 2])],
        vec![Act::Frame(kind::PUSH_PROMISE, 4, vec![0, 0, 0, 2, 0x82])],
        vec![Act::Frame(kind::HEADERS, 4, vec![0; 20]), Act::Close],
        vec![
            Act::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret".to_vec()),
            Act::Close,
        ],
        vec![Act::Close],
    ];
    let scripts = bad.clone();
    let upstream = H2Upstream::scripted(move |seen| {
        let n: Option<usize> = seen.path().rsplit('/').next().and_then(|n| n.parse().ok());
        n.map_or_else(|| whole("ok"), |n| scripts[n].clone())
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    for (n, acts) in bad.iter().enumerate() {
        for answer in both(&gateway, &format!("/public/{n}")).await {
            let answer = answer.unwrap_or_else(|| panic!("{acts:?}: no answer"));
            assert_eq!(answer.status, 502, "{acts:?}: {answer:?}");
            assert!(!answer.text().contains("secret"));
        }
        for answer in both(&gateway, "/public/own").await {
            assert_eq!(answer.expect("an answer").expect(200).text(), "ok", "behind {acts:?}");
        }
    }
}

/// Fields of a connection are nobody's business behind it (RFC 9113 §8.2.2).
#[tokio::test]
async fn fields_of_a_connection_end_at_the_gateway() {
    let upstream = H2Upstream::scripted(|_| {
        let head = status("200").with("connection", "close").with("transfer-encoding", "chunked");
        vec![Act::Head(head, false), Act::Data(b"ok".to_vec(), true)]
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    // The clients read strictly: a second framing fails the test there.
    for answer in both(&gateway, "/public/a").await.into_iter().flatten() {
        assert!(answer.status == 502 || answer.text() == "ok", "{answer:?}");
    }
}

#[tokio::test]
async fn a_refused_stream_is_asked_again_and_a_reset_one_is_not() {
    let upstream = H2Upstream::scripted(|seen| match seen.path() {
        "/public/refused" if seen.connection == 0 => {
            vec![Act::Frame(kind::RST_STREAM, 0, code::REFUSED_STREAM.to_be_bytes().to_vec())]
        }
        "/public/reset" => vec![Act::Frame(kind::RST_STREAM, 0, vec![0, 0, 0, 2])],
        _ => whole("ok"),
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    let mut h2 = H2::connect(gateway.address).await;
    let answer = h2.exchange(&Fields::get("/public/refused")).await;
    // Asked once more; the same connection may have been the only one.
    assert!(matches!(answer.status, 200 | 502), "{answer:?}");
    assert_eq!(upstream.seen().len(), 2);
    let Outcome::Answer(answer) = h2.ask_with(&Fields::post("/public/reset"), b"abc").await else {
        panic!("no answer")
    };
    answer.expect_problem(502, "upstream_unreachable");
    assert_eq!(upstream.seen().len(), 3, "it may have been done");
}

#[tokio::test]
async fn answers_in_any_order_reach_their_own() {
    let gates: [Gate; 5] = std::array::from_fn(|_| Gate::new());
    let waits = gates.clone();
    let upstream = H2Upstream::scripted(move |seen| {
        let n: usize = seen.path().rsplit('/').next().expect("a part").parse().expect("a number");
        vec![
            Act::Wait(waits[n].clone()),
            Act::Head(status("200"), false),
            Act::Data(format!("answer {n}").into(), true),
        ]
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    let mut h2 = H2::connect(gateway.address).await;
    let mut streams = Vec::new();
    for n in 0..5 {
        streams.push(h2.begin(&Fields::get(&format!("/public/{n}")), false).await);
    }
    upstream.until("all of them", |seen| seen.len() == 5).await;
    // One is given up by its client, which is told to the upstream and to nobody else.
    h2.send(crate::harness::h2raw::reset(streams[2], code::CANCEL)).await;
    upstream.until("a reset", |seen| seen.iter().any(|seen| seen.reset.is_some())).await;
    for n in [4, 1, 3, 0] {
        gates[n].open();
        assert_eq!(h2.answer(streams[n]).await.expect(200).text(), format!("answer {n}"));
    }
    let seen = upstream.seen();
    assert!(seen.iter().all(|seen| seen.reset.is_some() == seen.path().ends_with('2')), "{seen:?}");
}

#[tokio::test]
async fn a_silent_stream_is_given_up_and_reset() {
    let upstream = H2Upstream::scripted(|seen| match seen.path() {
        "/public/silent" => vec![],
        "/public/begun" => vec![Act::Head(status("200"), false), Act::Data(b"abc".to_vec(), false)],
        _ => whole("ok"),
    })
    .await;
    let gateway = gateway(
        &upstream,
        "[[routes]]\npath = \"/public/{*rest}\"\nupstream = \"app\"\naccess = \"public\"\n\
         timeouts = { response = \"300ms\", idle = \"300ms\" }",
    )
    .await;
    for answer in both(&gateway, "/public/silent").await {
        answer.expect("an answer").expect_problem(504, "upstream_timeout");
    }
    for answer in both(&gateway, "/public/begun").await.into_iter().flatten() {
        assert_eq!((answer.status, answer.end), (200, End::Cut));
    }
    let all_reset = |seen: &[SeenStream]| seen.iter().all(|seen| seen.reset.is_some());
    upstream.until("their resets", all_reset).await;
    for answer in both(&gateway, "/public/a").await {
        assert_eq!(answer.expect("an answer").expect(200).text(), "ok");
    }
}

#[tokio::test]
async fn an_early_answer_of_an_http_2_upstream_arrives() {
    let upstream = H2Upstream::scripted(|seen| match seen.path() {
        "/public/early" => vec![
            Act::Head(status("413").with("content-length", "3"), false),
            Act::Data(b"big".to_vec(), true),
            Act::Frame(kind::RST_STREAM, 0, vec![0; 4]),
        ],
        "/public/hints" => {
            let mut acts = vec![Act::Head(status("103").with("link", "</a>"), false); 3];
            acts.extend(whole("ok"));
            acts
        }
        _ => whole("ok"),
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    let mut h2 = H2::connect(gateway.address).await;
    match h2.ask_with(&Fields::post("/public/early"), &vec![b'x'; 1 << 20]).await {
        Outcome::Answer(answer) => assert_eq!(answer.expect(413).text(), "big"),
        other => panic!("{other:?}"),
    }
    let answer = h2.exchange(&Fields::get("/public/hints")).await.expect(200);
    assert_eq!((answer.text(), answer.interim), ("ok".to_owned(), vec![103; 3]));
}

/// How often a path was asked for, and over which connections.
fn connections(upstream: &H2Upstream, path: &str) -> Vec<usize> {
    let seen = upstream.seen();
    seen.iter().filter(|seen| seen.path() == path).map(|seen| seen.connection).collect()
}

/// Over a connection that has carried stream 1 and carries stream 3, stream 5 is what was not begun.
#[tokio::test]
async fn what_a_goaway_says_was_not_begun_is_asked_again_and_nothing_else() {
    for goaway in [code::NO_ERROR, code::ENHANCE_YOUR_CALM] {
        for method in ["GET", "POST"] {
            let begun = Gate::new();
            let wait = begun.clone();
            let upstream = H2Upstream::scripted(move |seen| match (seen.connection, seen.path()) {
                (0, "/public/begun") => [vec![Act::Wait(wait.clone())], whole("begun")].concat(),
                (0, "/public/beyond") => vec![farewell(3, goaway)],
                _ => whole("ok"),
            })
            .await;
            let gateway = gateway(&upstream, "").await;
            let mut h2 = H2::connect(gateway.address).await;
            h2.exchange(&Fields::get("/public/first")).await.expect(200);
            let running = h2.begin(&Fields::new(method, "/public/begun"), false).await;
            upstream.until("the one begun", |seen| seen.len() == 2).await;

            let beyond = h2.begin(&Fields::new(method, "/public/beyond"), method == "POST").await;
            if method == "POST" {
                // Nothing of its body is there before it is asked for again.
                upstream.until("it once more", |seen| seen.len() == 4).await;
                h2.body(beyond, b"abc", true).await;
            }
            let told = format!("{method} {goaway}");
            assert_eq!(h2.answer(beyond).await.expect(200).text(), "ok", "{told}");
            assert_eq!(connections(&upstream, "/public/beyond"), [0, 1], "{told}");
            let body: &[u8] = if method == "POST" { b"abc" } else { b"" };
            assert_eq!((&*upstream.last().body, upstream.last().complete), (body, true), "{told}");
            // What was begun goes on where it is.
            begun.open();
            assert_eq!(h2.answer(running).await.expect(200).text(), "begun", "{told}");
            assert_eq!(connections(&upstream, "/public/begun"), [0], "{told}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_says_farewell_at_once_costs_a_client_of_http_1_1_nothing() {
    let upstream = H2Upstream::scripted(|seen| match seen.connection {
        0 => vec![farewell(0, code::NO_ERROR)],
        _ => whole("ok"),
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    let mut client = gateway.connect().await;
    client.send("POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n").await;
    upstream.until("it once more", |seen| seen.len() == 2).await;
    client.send("abc").await;
    assert_eq!(client.answer().await.expect(200).text(), "ok");
    assert_eq!(upstream.last().body, b"abc");
}

/// Whether by its own word or because its body is not here any more.
#[tokio::test]
async fn a_request_that_may_have_been_done_is_not_sent_twice_behind_a_goaway() {
    let taken = Gate::new();
    let wait = taken.clone();
    let upstream = H2Upstream::scripted(move |seen| match (seen.connection, seen.path()) {
        // Stream 1 of the first connection is one that the server has begun.
        (0, _) => vec![Act::ReadAll, farewell(1, code::NO_ERROR), Act::Close],
        // Of stream 1 of the second it says that it has not, but it has taken bytes of it.
        (1, _) => vec![Act::Wait(wait.clone()), farewell(0, code::NO_ERROR)],
        _ => whole("ok"),
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    let mut h2 = H2::connect(gateway.address).await;
    h2.exchange(&Fields::post("/public/begun")).await.expect_problem(502, "upstream_unreachable");
    assert_eq!(connections(&upstream, "/public/begun"), [0]);
    let stream = h2.begin(&Fields::post("/public/taken"), true).await;
    h2.body(stream, b"abc", false).await;
    upstream.until("a piece", |seen| seen.get(1).is_some_and(|seen| seen.body == b"abc")).await;
    taken.open();
    h2.answer(stream).await.expect_problem(502, "upstream_unreachable");
    assert_eq!(connections(&upstream, "/public/taken"), [1]);
}

/// Answers without a body are whole with their head; what an upstream sends behind it is nobody's.
#[tokio::test]
async fn bytes_behind_an_answer_without_a_body_reach_nobody() {
    const POISON: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret";
    let length = POISON.len().to_string();
    let sized = |code: &str| status(code).with("content-length", &length);
    let (late, later) = (Gate::new(), Gate::new());
    let data = |end: bool| Act::Data(POISON.to_vec(), end);
    let cases: Vec<(&str, Vec<Act>)> = vec![
        ("GET", vec![Act::Head(status("204"), false), data(true)]),
        ("GET", vec![Act::Head(sized("204"), false), data(true)]),
        ("POST", vec![Act::Head(status("204"), false), data(false), data(true)]),
        ("GET", vec![Act::Head(status("204"), true), data(true)]),
        (
            "GET",
            vec![
                Act::Head(status("204"), false),
                data(false),
                Act::Trailers(Fields::none().with("x", "secret")),
            ],
        ),
        ("GET", vec![Act::Head(status("304"), false), data(true)]),
        ("GET", vec![Act::Head(sized("304"), false), data(true)]),
        ("HEAD", vec![Act::Head(status("200"), false), data(true)]),
        ("HEAD", vec![Act::Head(sized("200"), false), data(true)]),
        ("HEAD", vec![Act::Head(sized("404"), true), data(true)]),
        ("GET", vec![Act::Head(status("204"), false), Act::Wait(late.clone()), data(true)]),
        ("HEAD", vec![Act::Head(sized("200"), false), Act::Wait(later.clone()), data(true)]),
    ];
    let scripts = cases.clone();
    let upstream = H2Upstream::scripted(move |seen| {
        let n: Option<usize> = seen.path().rsplit('/').next().and_then(|n| n.parse().ok());
        n.map_or_else(|| whole("ok"), |n| scripts[n].1.clone())
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    let check = |answer: &Answer, n: usize| {
        let told = format!("{:?}: {answer:?} {:?}", cases[n], answer.text());
        assert!(matches!(answer.status, 200 | 204 | 304 | 404 | 502), "{told}");
        assert!(answer.status == 502 || answer.body.is_empty(), "{told}");
        assert!(!format!("{answer:?}{}", answer.text()).contains("secret"), "{told}");
    };
    let mut h2 = H2::connect(gateway.address).await;
    for (n, (method, acts)) in cases.iter().enumerate() {
        let gate = acts.iter().find_map(|act| match act {
            Act::Wait(gate) => Some(gate),
            _ => None,
        });
        // Over HTTP/1.1 they would be the answer to the request behind.
        let mut client = gateway.connect().await;
        let bad = gateway.request(method, &format!("/public/{n}"));
        let bad = if *method == "POST" { bad.body("") } else { bad };
        client.send([bad.to_bytes(), gateway.get("/public/own").to_bytes()].concat()).await;
        // Over HTTP/2 of the stream beside.
        let stream = h2.begin(&Fields::new(method, &format!("/public/{n}")), false).await;
        let beside = h2.begin(&Fields::get("/public/own"), false).await;
        if let Some(gate) = gate {
            let bad = |seen: &&SeenStream| seen.path() == format!("/public/{n}");
            upstream.until("both", |seen| seen.iter().filter(bad).count() == 2).await;
            gate.open();
        }
        if let Some(answer) = client.try_answer(method).await {
            check(&answer, n);
            if let Some(answer) = client.try_answer("GET").await {
                assert_eq!(answer.expect(200).text(), "ok", "{acts:?}");
                assert_eq!(gateway.get("/public/own").send_over(&mut client).await.text(), "ok");
            } else {
                assert!(client.until_closed().await.is_empty(), "{acts:?}");
            }
        }
        match h2.outcome(stream).await {
            Outcome::Answer(answer) => check(&answer, n),
            Outcome::Reset(_) => {}
            Outcome::Gone => panic!("{acts:?}: one stream's trouble is the connection's"),
        }
        let own = h2.answer(beside).await;
        // An upstream's broken connection takes what it carries along, but never mixes it up.
        assert!(own.status == 502 || own.text() == "ok", "{acts:?}: {own:?}");
        let answer = h2.exchange(&Fields::get("/public/own")).await.expect(200);
        assert_eq!(answer.text(), "ok", "{acts:?}");
    }
}

/// An empty frame is no body: many servers end such answers with one.
#[tokio::test]
async fn an_answer_without_a_body_may_end_with_an_empty_frame() {
    let upstream = H2Upstream::scripted(|seen| match seen.path() {
        "/public/own" => whole("ok"),
        path => {
            let status = status(&path["/public/".len()..]);
            vec![Act::Head(status, false), Act::Data(Vec::new(), true)]
        }
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    let mut client = gateway.connect().await;
    let mut h2 = H2::connect(gateway.address).await;
    for (method, code) in [("GET", 204), ("GET", 304), ("HEAD", 200)] {
        let target = format!("/public/{code}");
        let first = gateway.request(method, &target).send_over(&mut client).await.expect(code);
        let second = h2.exchange(&Fields::new(method, &target)).await.expect(code);
        for answer in [first, second] {
            assert_eq!((&*answer.body, answer.end), (&b""[..], End::Complete), "{method} {code}");
        }
        let own = gateway.get("/public/own").send_over(&mut client).await.expect(200);
        assert_eq!(own.text(), "ok", "{method} {code}");
    }
}

/// A call that streams both ways may rest for longer than anything but its own idle limits: with
/// short ones around it, and with `PORTCULLIS_TEST_LONG` with those of every gateway, the client's
/// 15 seconds for a body among them.
#[tokio::test]
async fn a_call_that_rests_goes_on_where_it_was() {
    let short = "[server]\nbody_timeout = \"300ms\"\nheader_timeout = \"300ms\"\n\
                 idle_timeout = \"300ms\"\n[upstreams.app]\nresponse_timeout = \"300ms\"\n\
                 keep_alive = \"300ms\"";
    let long = std::env::var_os("PORTCULLIS_TEST_LONG").is_some();
    let rests = [(short, 1)].into_iter().chain(long.then_some(("", 20)));
    for (config, seconds) in rests {
        let rested = Gate::new();
        let wait = rested.clone();
        let upstream = H2Upstream::scripted(move |_| {
            vec![
                Act::Head(status("200").with("content-type", "application/grpc"), false),
                Act::Data(b"before".to_vec(), false),
                Act::Wait(wait.clone()),
                Act::Data(b", after".to_vec(), false),
                Act::ReadAll,
                Act::Trailers(Fields::none().with("grpc-status", "0")),
            ]
        })
        .await;
        let gateway = gateway(&upstream, config).await;
        let mut h2 = H2::connect(gateway.address).await;
        let call = Fields::post("/public/call")
            .with("content-type", "application/grpc")
            .with("te", "trailers");
        let stream = h2.begin(&call, true).await;
        h2.body(stream, b"before", false).await;
        h2.until("a piece", |h2| h2.so_far(stream).is_some_and(|a| a.body == b"before")).await;
        upstream.until("a piece", |seen| seen[0].body == b"before").await;

        tokio::time::sleep(std::time::Duration::from_secs(seconds)).await;

        rested.open();
        h2.until("more", |h2| h2.so_far(stream).is_some_and(|a| a.body == b"before, after")).await;
        h2.body(stream, b", after", true).await;
        let answer = h2.answer(stream).await.expect(200);
        assert_eq!((answer.text(), answer.end), ("before, after".to_owned(), End::Complete));
        assert_eq!(answer.trailers.get("grpc-status"), Some("0"));
        let seen = upstream.last();
        assert_eq!((&*seen.body, seen.complete, seen.reset), (&b"before, after"[..], true, None));
        assert!(h2.ping().await && h2.goaways.is_empty(), "{:?}", h2.goaways);
    }
}
