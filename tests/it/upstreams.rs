//! Several servers behind one name: which of them a request goes to, what happens when some are
//! away, slow or full, and how they are reached.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::harness::{Builder, Gate, Step, TestGateway, Upstream, patiently, pause, reply, write};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A gateway in front of `servers`, in TOML, with more settings of their upstream.
fn in_front_of(servers: &[String], more: &str) -> Builder {
    TestGateway::builder()
        .known_secret()
        .config(&format!("[upstreams.app]\nservers = [{}]\n{more}", servers.join(", ")))
}

fn quoted(url: &str) -> String {
    format!("{url:?}")
}

/// What the admin listener says of the only upstream.
async fn upstream_of(gateway: &TestGateway) -> Value {
    let document = gateway.admin_get("/upstreams").await.expect(200).json();
    document["upstreams"][0].clone()
}

/// Waits until the admin listener says what `holds` wants to hear.
async fn until(gateway: &TestGateway, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    patiently(what, async {
        loop {
            let upstream = upstream_of(gateway).await;
            if holds(&upstream) {
                return upstream;
            }
            pause().await;
        }
    })
    .await
}

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("a bound socket").to_string()
}

#[tokio::test]
async fn requests_go_round_by_weight() {
    let (one, two) = (Upstream::echo().await, Upstream::echo().await);
    let heavy = format!("{{ url = {:?}, weight = 2 }}", two.url());
    let gateway = in_front_of(&[quoted(&one.url()), heavy], "").start().await;
    for _ in 0..9 {
        gateway.get("/public/a").send().await.expect(200);
    }
    assert_eq!((one.count(), two.count()), (3, 6));
    let upstream = upstream_of(&gateway).await;
    assert_eq!(upstream["name"], "app");
    assert_eq!(
        (&upstream["protocol"], &upstream["balance"]),
        (&"http1".into(), &"round_robin".into())
    );
    assert_eq!(upstream["trying_all"], false);
    let server = &upstream["servers"][1];
    assert_eq!(server["server"], two.authority());
    assert_eq!((&server["state"], &server["weight"]), (&"up".into(), &2.into()));
    assert_eq!((&server["connections"], &server["requests_in_flight"]), (&1.into(), &0.into()));
    assert_eq!(server["addresses"][0], two.authority());
    assert_eq!(server["healthy"], Value::Null);
}

#[tokio::test]
async fn a_stalled_server_gets_no_more_than_its_part_of_what_is_in_flight() {
    let gate = Gate::new();
    let held = gate.clone();
    let slow = Upstream::scripted(move |_| vec![Step::Wait(held.clone()), write(OK)]).await;
    let quick = Upstream::echo().await;
    let servers = [quoted(&slow.url()), quoted(&quick.url())];
    let gateway = in_front_of(&servers, "balance = \"least_requests\"").start().await;
    let waiting = tokio::spawn(gateway.get("/public/slow").send());
    slow.until("the first request", |seen| seen.len() == 1).await;
    for _ in 0..6 {
        gateway.get("/public/a").send().await.expect(200);
    }
    assert_eq!((slow.count(), quick.count()), (1, 6));
    gate.open();
    waiting.await.expect("no panic").expect(200);
}

#[tokio::test]
async fn a_user_stays_with_one_server() {
    let servers = [Upstream::echo().await, Upstream::echo().await, Upstream::echo().await];
    let urls: Vec<_> = servers.iter().map(|server| quoted(&server.url())).collect();
    let gateway = in_front_of(&urls, "balance = \"hash_user\"").start().await;
    for user in 0..12 {
        let token = gateway.token(&format!("u{user}")).sign();
        for _ in 0..3 {
            gateway.get(&format!("/private/{user}")).bearer(&token).send().await.expect(200);
        }
    }
    let mut busy = 0;
    for server in &servers {
        let seen = server.seen();
        busy += usize::from(!seen.is_empty());
        for one in &seen {
            let same = seen.iter().filter(|other| other.target == one.target).count();
            assert_eq!(same, 3, "{} came elsewhere too", one.target);
        }
    }
    assert!(busy > 1, "all users are with one server");
    // Anonymous ones go by their address, which is one here.
    let before: Vec<_> = servers.iter().map(Upstream::count).collect();
    for _ in 0..4 {
        gateway.get("/public/a").send().await.expect(200);
    }
    let more = servers.iter().zip(before).filter(|(server, before)| server.count() > *before);
    assert_eq!(more.count(), 1);
}

#[tokio::test]
async fn a_server_that_is_away_is_passed_over_and_taken_back() {
    let live = Upstream::echo().await;
    let away = nobody().await;
    let servers = [quoted(&format!("http://{away}")), quoted(&live.url())];
    let ejection = "ejection = { failures = 2, base = \"100ms\", max = \"200ms\" }";
    let gateway = in_front_of(&servers, ejection).start().await;
    for _ in 0..8 {
        gateway.get("/public/a").send().await.expect(200);
    }
    let upstream = upstream_of(&gateway).await;
    assert!(upstream["servers"][0]["ejections"].as_u64() > Some(0), "{upstream}");
    assert_eq!(upstream["servers"][1]["ejections"], 0);
    let failures = upstream["servers"][0]["failures"].as_u64();
    assert!(failures >= Some(2) && upstream["retries"].as_u64() == failures, "{upstream}");
    let metrics = gateway.admin_get("/metrics").await.expect(200).text();
    let labels = format!("{{upstream=\"app\",server=\"{away}\"}}");
    assert!(metrics.contains(&format!("portcullis_upstream_server_ejections_total{labels} ")));
    assert!(metrics.contains(&format!("portcullis_upstream_server_up{labels} ")));
    let back = Upstream::echo_at(&away).await;
    patiently("the server to be used again", async {
        while back.count() == 0 {
            gateway.get("/public/a").send().await.expect(200);
            pause().await;
        }
    })
    .await;
    until(&gateway, "the failures to be forgotten", |upstream| {
        upstream["servers"][0]["failures"] == 0
    })
    .await;
}

#[tokio::test]
async fn a_server_that_breaks_off_its_answers_is_passed_over() {
    let broken = Upstream::scripted(|_| vec![Step::ReadBody, Step::Reset]).await;
    let well = Upstream::echo().await;
    let servers = [quoted(&broken.url()), quoted(&well.url())];
    let ejection = "ejection = { failures = 2, base = \"1h\", max = \"1h\" }";
    let gateway = in_front_of(&servers, ejection).start().await;
    let mut statuses = Vec::new();
    for _ in 0..10 {
        // Not repeated: it may have been acted on.
        statuses.push(gateway.post("/public/a").body("x").send().await.status);
    }
    assert_eq!(statuses.iter().filter(|&&status| status == 502).count(), 2, "{statuses:?}");
    assert_eq!((broken.count(), well.count()), (2, 8));
    assert_eq!(upstream_of(&gateway).await["servers"][0]["state"], "ejected");
}

#[tokio::test]
async fn checks_take_a_server_out_and_bring_it_back() {
    let ill = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&ill);
    let moody = Upstream::scripted(move |seen| match seen.path() {
        "/healthz" if state.load(SeqCst) => reply("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
        _ => reply(OK),
    })
    .await;
    let well = Upstream::echo().await;
    let health = "[upstreams.app.health]\npath = \"/healthz\"\ninterval = \"100ms\"\nunhealthy = 2";
    let servers = [quoted(&moody.url()), quoted(&well.url())];
    let gateway = in_front_of(&servers, health).start().await;
    let healthy =
        |wanted: bool| move |upstream: &Value| upstream["servers"][0]["healthy"] == wanted;
    until(&gateway, "the first check", healthy(true)).await;
    ill.store(true, SeqCst);
    let upstream = until(&gateway, "the bad checks", healthy(false)).await;
    assert_eq!(upstream["servers"][0]["state"], "down");
    assert_eq!(upstream["servers"][0]["health_fault"], "it answered 503");
    let requests = |upstream: &Upstream| {
        upstream.seen().iter().filter(|seen| seen.path() == "/public/a").count()
    };
    for _ in 0..4 {
        gateway.get("/public/a").send().await.expect(200);
    }
    assert_eq!((requests(&moody), requests(&well)), (0, 4));
    ill.store(false, SeqCst);
    until(&gateway, "the good checks", healthy(true)).await;
    for _ in 0..4 {
        gateway.get("/public/a").send().await.expect(200);
    }
    assert_eq!((requests(&moody), requests(&well)), (2, 6));
}

#[tokio::test]
async fn when_checks_say_that_all_are_down_all_are_tried() {
    let wrong = Upstream::scripted(|seen| match seen.path() {
        "/healthz" => reply("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
        _ => reply(OK),
    })
    .await;
    let health = "[upstreams.app.health]\npath = \"/healthz\"\ninterval = \"100ms\"\nunhealthy = 1";
    let gateway = in_front_of(&[quoted(&wrong.url())], health).start().await;
    until(&gateway, "the bad check", |upstream| upstream["trying_all"] == true).await;
    gateway.get("/public/a").send().await.expect(200);
}

#[tokio::test]
async fn beyond_the_limits_requests_are_refused_at_once_and_those_that_wait_are_served() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::scripted(move |_| vec![Step::Wait(held.clone()), write(OK)]).await;
    let limits = "max_connections = 1\nmax_waiting = 1\nwait_timeout = \"1h\"";
    let gateway = in_front_of(&[quoted(&upstream.url())], limits).start().await;
    let first = tokio::spawn(gateway.get("/public/first").send());
    upstream.until("the first request", |seen| seen.len() == 1).await;
    let second = tokio::spawn(gateway.get("/public/second").send());
    until(&gateway, "the second to wait", |upstream| upstream["waiting"] == 1).await;
    let third = gateway.get("/public/third").send().await;
    third.expect_problem(503, "upstream_overloaded");
    assert_eq!(third.header("retry-after"), Some("1"));
    gate.open();
    first.await.expect("no panic").expect(200);
    second.await.expect("no panic").expect(200);
    assert_eq!((upstream.connections(), upstream.count()), (1, 2));
    let state = upstream_of(&gateway).await;
    assert_eq!((&state["waiting"], &state["overloaded"]), (&0.into(), &1.into()));
}

#[tokio::test]
async fn a_wait_for_a_connection_has_an_end() {
    let upstream = Upstream::scripted(|_| vec![Step::Stall]).await;
    let limits = "max_connections = 1\nmax_waiting = 10\nwait_timeout = \"50ms\"";
    let gateway = in_front_of(&[quoted(&upstream.url())], limits).start().await;
    let _first = tokio::spawn(gateway.get("/public/first").send());
    upstream.until("the first request", |seen| seen.len() == 1).await;
    gateway.get("/public/b").send().await.expect_problem(503, "upstream_overloaded");
}

#[tokio::test]
async fn attempts_are_not_repeated_beyond_the_budget() {
    let live = Upstream::echo().await;
    let servers = [quoted(&format!("http://{}", nobody().await)), quoted(&live.url())];
    let settings = "retry_budget = 0\nejection = { failures = 0 }";
    let gateway = in_front_of(&servers, settings).start().await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(gateway.get("/public/a").send().await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
    let state = upstream_of(&gateway).await;
    assert_eq!((&state["retries"], &state["retries_refused"]), (&0.into(), &2.into()));
}

/// Passes every connection of a TLS server with this configuration on to `upstream`.
async fn behind_tls(upstream: &Upstream, config: rustls::ServerConfig) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let (acceptor, behind) = (TlsAcceptor::from(Arc::new(config)), upstream.authority());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    pass_on(stream, &behind).await;
                }
            });
        }
    });
    format!("https://localhost:{}", address.port())
}

async fn pass_on(mut client: impl AsyncRead + AsyncWrite + Unpin, behind: &str) {
    let mut server = TcpStream::connect(behind).await.expect("the upstream accepts");
    // Either end may go first.
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

fn certificate(name: &str) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed([name.to_owned()]).expect("a pair")
}

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("the folder is ours");
    path
}

fn server_config(
    own: &CertifiedKey<KeyPair>,
    client: Option<&CertifiedKey<KeyPair>>,
) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(client.cert.der().clone()).expect("a certificate");
            let roots = Arc::new(roots);
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    builder.with_single_cert(vec![own.cert.der().clone()], key.into()).expect("they fit")
}

#[tokio::test]
async fn upstreams_are_reached_over_tls_when_their_certificate_is_right() {
    let upstream = Upstream::echo().await;
    let (own, other) = (certificate("localhost"), certificate("localhost"));
    let url = behind_tls(&upstream, server_config(&own, None)).await;
    for (pem, name, status) in [
        (own.cert.pem(), "", 200),
        (own.cert.pem(), "server_name = \"elsewhere.example\"", 502),
        (other.cert.pem(), "", 502),
    ] {
        let builder = in_front_of(&[quoted(&url)], "host = \"upstream\"");
        let ca = written(builder.folder(), "ca.pem", &pem);
        let tls = format!("[upstreams.app.tls]\nca = {:?}\n{name}", ca.display().to_string());
        let gateway = builder.config(&tls).start().await;
        let body = "x".repeat(300_000);
        let answer = gateway.post("/public/a").body(body.as_str()).send().await;
        assert_eq!(answer.status, status, "{name} {}", answer.text());
        if status == 200 {
            assert_eq!(upstream.last().body.len(), body.len());
            assert_eq!(upstream.last().header("host"), url.strip_prefix("https://"));
            gateway.get("/public/b").send().await.expect(200);
            assert_eq!(upstream.connections(), 1, "the connection is used again");
        } else {
            answer.expect_problem(502, "upstream_unreachable");
        }
    }
}

#[tokio::test]
async fn an_upstream_that_asks_for_our_certificate_gets_it() {
    let upstream = Upstream::echo().await;
    let (own, ours) = (certificate("localhost"), certificate("gateway"));
    let url = behind_tls(&upstream, server_config(&own, Some(&ours))).await;
    for shown in [true, false] {
        let builder = in_front_of(&[quoted(&url)], "");
        let file = |name, text: String| {
            format!("{:?}", written(builder.folder(), name, &text).display().to_string())
        };
        let mut tls = vec![("ca", own.cert.pem())];
        if shown {
            tls.push(("certificate", ours.cert.pem()));
            tls.push(("private_key", ours.signing_key.serialize_pem()));
        }
        let keys = tls.into_iter().map(|(key, pem)| format!("{key} = {}\n", file(key, pem)));
        let tls = format!("[upstreams.app.tls]\n{}", keys.collect::<String>());
        let gateway = builder.config(&tls).start().await;
        let answer = gateway.post("/public/a").body("x").send().await;
        assert_eq!(answer.status, if shown { 200 } else { 502 }, "{}", answer.text());
    }
}

#[tokio::test]
async fn upstreams_are_reached_over_a_unix_socket() {
    let upstream = Upstream::echo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).expect("the folder is ours");
    let behind = upstream.authority();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let behind = behind.clone();
            tokio::spawn(async move { pass_on(stream, &behind).await });
        }
    });
    let url = format!("unix:{}", path.display());
    let gateway = in_front_of(&[quoted(&url)], "host = \"upstream\"").start().await;
    for _ in 0..2 {
        gateway.post("/public/a").body("hello").send().await.expect(200);
    }
    assert_eq!(upstream.last().header("host"), Some("localhost"));
    assert_eq!((upstream.last().body, upstream.connections()), (b"hello".to_vec(), 1));
    assert_eq!(upstream_of(&gateway).await["servers"][0]["server"], url);
}

#[tokio::test]
async fn a_name_is_looked_up_and_each_of_its_addresses_tried() {
    let upstream = Upstream::echo().await;
    // On most systems this name has an address of each family; the upstream has one.
    let port = upstream.authority().rsplit(':').next().map(str::to_owned).expect("a port");
    let url = format!("http://localhost:{port}");
    let gateway = in_front_of(&[quoted(&url)], "max_idle_connections = 0").start().await;
    for _ in 0..4 {
        gateway.get("/public/a").send().await.expect(200);
    }
    let state = until(&gateway, "the addresses", |upstream| {
        upstream["servers"][0]["addresses"].as_array().is_some_and(|known| !known.is_empty())
    })
    .await;
    assert_eq!(state["servers"][0]["server"], format!("localhost:{port}"));
    assert!(state["servers"][0]["addresses"].to_string().contains("127.0.0.1"), "{state}");
}

#[tokio::test]
async fn a_route_has_its_own_time_to_connect() {
    // It accepts and never begins the TLS handshake, which is part of connecting.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("a bound socket");
    let builder = in_front_of(&[quoted(&format!("https://{address}"))], "connect_timeout = \"1h\"");
    let ca = written(builder.folder(), "ca.pem", &certificate("localhost").cert.pem());
    let tls = format!("[upstreams.app.tls]\nca = {:?}", ca.display().to_string());
    let route = "[[routes]]\npath = \"/quick\"\nupstream = \"app\"\naccess = \"public\"\n\
                 timeouts = { connect = \"50ms\" }";
    let gateway = builder.config(&tls).config(route).start().await;
    gateway.get("/quick").send().await.expect_problem(502, "upstream_unreachable");
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_of_an_upstream_that_stays() {
    let broken = Upstream::scripted(|_| vec![Step::ReadBody, Step::Reset]).await;
    let well = Upstream::echo().await;
    let servers = [quoted(&broken.url()), quoted(&well.url())];
    let ejection = "ejection = { failures = 1, base = \"1h\", max = \"1h\" }";
    let gateway = in_front_of(&servers, ejection).start().await;
    gateway.post("/public/a").body("x").send().await.expect(502);
    gateway.get("/public/a").send().await.expect(200);
    let other = "[[routes]]\npath = \"/elsewhere\"\nupstream = \"app\"\naccess = \"public\"";
    gateway.configure(other);
    gateway.reload().await.expect(200);
    gateway.get("/elsewhere").send().await.expect(200);
    assert_eq!(upstream_of(&gateway).await["servers"][0]["state"], "ejected");
    assert_eq!(well.connections(), 1, "its connections stay open");
}

#[tokio::test]
async fn checks_come_and_go_with_a_reload() {
    let upstream = Upstream::echo().await;
    let gateway = in_front_of(&[quoted(&upstream.url())], "").start().await;
    let health = "[upstreams.app.health]\npath = \"/healthz\"\ninterval = \"100ms\"";
    gateway.configure(health);
    gateway.reload().await.expect(200);
    // No request asks for it.
    upstream.until("two checks", |seen| seen.len() >= 2).await;
    until(&gateway, "a verdict", |upstream| upstream["servers"][0]["healthy"] == true).await;
    gateway.configure("[upstreams.app]\nmax_waiting = 1");
    gateway.reload().await.expect(200);
    assert_eq!(upstream_of(&gateway).await["servers"][0]["healthy"], Value::Null);
}

#[tokio::test]
async fn all_who_wait_are_served_whichever_worker_they_are_at() {
    let upstream = Upstream::echo().await;
    let limits = "max_connections = 2\nmax_waiting = 1000\nwait_timeout = \"1h\"";
    let gateway = in_front_of(&[quoted(&upstream.url())], limits)
        .config("[server]\nworkers = 3")
        .start()
        .await;
    let requests = (0..90).map(|n| gateway.get(&format!("/public/{n}")).send());
    for answer in futures_util::future::join_all(requests).await {
        answer.expect(200);
    }
    let state = upstream_of(&gateway).await;
    assert_eq!((&state["waiting"], &state["overloaded"]), (&0.into(), &0.into()));
    assert!(state["servers"][0]["connections"].as_u64() <= Some(2), "{state}");
}
