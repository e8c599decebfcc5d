//! A pool against real sockets.

use std::future::Future;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::config;

/// A pool of `servers` with more settings in TOML.
fn pool(servers: &[String], more: &str) -> Pool {
    Pool::new(&state(servers, more))
}

fn state(servers: &[String], more: &str) -> Arc<UpstreamState> {
    let text = format!("[upstreams.app]\nservers = {servers:?}\n{more}");
    let config = config::parse(&text, "t.toml".as_ref(), []).unwrap().config;
    UpstreamState::compile("app", &config.upstreams["app"], None).unwrap()
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

/// A server that accepts and says nothing.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// Nobody listens there.
async fn gone() -> String {
    silent().await.1
}

fn give_back(lease: Lease) {
    let Carrier::Http1(link) = lease.carrier else { panic!("not HTTP/1.1") };
    lease.server.give_back(link);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_tried_until_it_is_ejected() {
    let (_listener, live) = silent().await;
    let pool = pool(
        &[gone().await, live.clone()],
        "ejection = { failures = 2, base = \"1h\", max = \"1h\" }",
    );
    for _ in 0..8 {
        let lease = pool.lease(&Ask::default(), Instant::now()).await.unwrap();
        assert_eq!(format!("http://{}", lease.server.authority), live);
    }
    let report = pool.state.report(Instant::now());
    let states: Vec<_> = report.servers.iter().map(|server| server.state.as_str()).collect();
    assert_eq!(states, ["ejected", "up"]);
    assert_eq!((report.servers[0].failures, report.retries), (2, 2), "then it is passed over");
    assert!(!report.trying_all);
}

#[tokio::test]
async fn when_every_server_is_ejected_all_are_tried() {
    let (one, two) = (gone().await, gone().await);
    let pool =
        pool(&[one.clone(), two], "ejection = { failures = 1, base = \"1h\", max = \"1h\" }");
    assert!(matches!(pool.lease(&Ask::default(), Instant::now()).await, Err(LeaseError::Io(_))));
    assert!(pool.state.report(Instant::now()).trying_all);
    let _back = TcpListener::bind(one.trim_start_matches("http://")).await.unwrap();
    let lease = pool.lease(&Ask::default(), Instant::now()).await.unwrap();
    lease.server.note_success();
    assert_eq!(pool.state.report(Instant::now()).servers[0].state.as_str(), "up");
}

#[tokio::test]
async fn without_a_budget_no_second_server_is_tried() {
    let (_listener, live) = silent().await;
    let pool = pool(&[gone().await, live], "retry_budget = 0");
    assert!(pool.lease(&Ask::default(), Instant::now()).await.is_err());
    assert!(pool.lease(&Ask::default(), Instant::now()).await.is_ok(), "it is the live one's turn");
    let report = pool.state.report(Instant::now());
    assert_eq!((report.retries, report.retries_refused), (0, 1));
}

#[tokio::test]
async fn a_connection_is_used_again_and_flights_are_counted() {
    let (_listener, url) = silent().await;
    let pool = pool(&[url], "");
    let in_flight = || pool.state.report(Instant::now()).servers[0].in_flight;
    let lease = pool.lease(&Ask::default(), Instant::now()).await.unwrap();
    assert!(!lease.reused && in_flight() == 1);
    give_back(lease);
    assert_eq!(in_flight(), 0);
    assert!(pool.lease(&Ask::default(), Instant::now()).await.unwrap().reused);
    assert_eq!(pool.state.report(Instant::now()).servers[0].connections, 0, "it was dropped");
}

#[tokio::test]
async fn a_closed_connection_is_replaced_though_its_place_is_still_taken() {
    let (_listener, url) = silent().await;
    let pool = pool(&[url], "max_connections = 1");
    let closed = pool.lease(&Ask::default(), Instant::now()).await.unwrap();
    let replaced = pool.reconnect(&closed.server, &Ask::default()).await.unwrap();
    assert!(!replaced.reused);
    drop(closed);
    assert_eq!(pool.state.report(Instant::now()).servers[0].connections, 1);
}

#[tokio::test]
async fn beyond_the_limits_a_request_is_refused_at_once() {
    let (_listener, url) = silent().await;
    let pool = pool(&[url], "max_connections = 1\nmax_waiting = 1\nwait_timeout = \"1h\"");
    let held = pool.lease(&Ask::default(), Instant::now()).await.unwrap();
    local(async {
        let pool = Rc::new(pool);
        let waiting = spawn_local({
            let pool = Rc::clone(&pool);
            async move { pool.lease(&Ask::default(), Instant::now()).await.map(|lease| lease.reused) }
        });
        while pool.state.report(Instant::now()).waiting == 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(pool.lease(&Ask::default(), Instant::now()).await, Err(LeaseError::Full)));
        give_back(held);
        assert!(waiting.await.unwrap().unwrap(), "the one who waits gets what was given back");
        assert_eq!(pool.state.report(Instant::now()).waiting, 0);
        assert_eq!(pool.state.report(Instant::now()).overloaded, 1);
    })
    .await;
}

#[tokio::test]
async fn a_place_that_another_worker_frees_is_taken_by_who_waits() {
    let (_listener, url) = silent().await;
    let state = state(&[url], "max_connections = 1\nmax_waiting = 2\nwait_timeout = \"1h\"");
    let (busy, other) = (Pool::new(&state), Rc::new(Pool::new(&state)));
    local(async {
        for idle_first in [false, true] {
            let mut held = Some(busy.lease(&Ask::default(), Instant::now()).await.unwrap());
            if idle_first {
                give_back(held.take().unwrap());
            }
            let waiting = spawn_local({
                let pool = Rc::clone(&other);
                async move {
                    pool.lease(&Ask::default(), Instant::now()).await.map(|lease| lease.reused)
                }
            });
            while state.report(Instant::now()).waiting == 0 {
                tokio::task::yield_now().await;
            }
            // Given back while somebody waits elsewhere, or idle since before that.
            held.into_iter().for_each(give_back);
            busy.tick(Instant::now());
            assert!(!waiting.await.unwrap().unwrap());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_connection_ends() {
    let (_listener, url) = silent().await;
    let pool = pool(&[url], "max_connections = 1\nmax_waiting = 5");
    let _held = pool.lease(&Ask::default(), Instant::now()).await.unwrap();
    assert!(matches!(pool.lease(&Ask::default(), Instant::now()).await, Err(LeaseError::Full)));
    assert_eq!(pool.state.report(Instant::now()).waiting, 0);
}

#[tokio::test]
async fn the_least_busy_server_is_counted_over_all_workers() {
    let ((_one, one), (_two, two)) = (silent().await, silent().await);
    let state = state(&[one, two], "balance = \"least_requests\"");
    let (here, there) = (Pool::new(&state), Pool::new(&state));
    let mut held = Vec::new();
    for pool in [&here, &there, &here, &there, &there, &here] {
        held.push(pool.lease(&Ask::default(), Instant::now()).await.unwrap());
    }
    let report = state.report(Instant::now());
    assert_eq!(report.servers.iter().map(|server| server.in_flight).collect::<Vec<_>>(), [3, 3]);
}

#[tokio::test]
async fn a_user_stays_with_a_server_until_it_is_ejected() {
    let servers = [silent().await, silent().await, silent().await];
    let urls: Vec<_> = servers.iter().map(|(_, url)| url.clone()).collect();
    let pool = pool(
        &urls,
        "balance = \"hash_user\"\nejection = { failures = 1, base = \"1h\", max = \"1h\" }",
    );
    let server_of = async |user: &str| {
        let ask = Ask { user: Some(user), ..Ask::default() };
        pool.lease(&ask, Instant::now()).await.unwrap().server
    };
    let users: Vec<_> = (0..30).map(|user| format!("u{user}")).collect();
    let mut before = Vec::new();
    for user in &users {
        let server = server_of(user).await;
        assert!(Rc::ptr_eq(&server, &server_of(user).await));
        before.push(server);
    }
    let out = Rc::clone(&before[0]);
    out.note_failure();
    for (user, before) in users.iter().zip(&before) {
        let after = server_of(user).await;
        assert!(!Rc::ptr_eq(&after, &out));
        assert!(Rc::ptr_eq(before, &out) || Rc::ptr_eq(before, &after), "{user} moved");
    }
}

/// An HTTP/2 server that allows `streams` at once; tells of each connection, whose GOAWAY is sent
/// when its sender is dropped.
async fn h2_server(streams: u32) -> (String, mpsc::UnboundedReceiver<mpsc::Sender<()>>) {
    let (listener, url) = silent().await;
    let (tell, connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut server = h2::server::Builder::new();
            server.max_concurrent_streams(streams);
            let Ok(mut connection) = server.handshake::<_, Bytes>(stream).await else { continue };
            let (end, mut ended) = mpsc::channel::<()>(1);
            let _ = tell.send(end);
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        request = connection.accept() => {
                            let Some(Ok((_, mut respond))) = request else { return };
                            let _ = respond.send_response(http::Response::new(()), true);
                        }
                        _ = ended.recv() => break,
                    }
                }
                connection.graceful_shutdown();
                while connection.accept().await.is_some() {}
            });
        }
    });
    (url, connections)
}

async fn h2_exchange(lease: &mut Lease) -> u16 {
    let Carrier::Http2(send) = &mut lease.carrier else { panic!("not HTTP/2") };
    let request = http::Request::get("http://app/").body(()).unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    answer.await.unwrap().status().as_u16()
}

#[tokio::test]
async fn requests_share_an_http2_connection_up_to_its_limit() {
    local(async {
        let (url, mut connections) = h2_server(2).await;
        let pool = pool(&[url], "protocol = \"h2c\"");
        let ask = Ask::default();
        // At once: one of them dials, the others wait for it.
        let leases =
            futures_util::future::join_all((0..2).map(|_| pool.lease(&ask, Instant::now()))).await;
        let mut leases: Vec<_> = leases.into_iter().map(Result::unwrap).collect();
        for lease in &mut leases {
            assert_eq!(h2_exchange(lease).await, 200);
        }
        let _first = connections.recv().await.unwrap();
        assert!(connections.try_recv().is_err(), "one connection for both");
        let third = pool.lease(&ask, Instant::now()).await.unwrap();
        assert!(!third.reused);
        let _second = connections.recv().await.unwrap();
        drop(leases.pop());
        assert!(pool.lease(&ask, Instant::now()).await.unwrap().reused, "there is room again");
        let report = pool.state.report(Instant::now());
        assert_eq!((report.servers[0].connections, report.servers[0].in_flight), (2, 2));
    })
    .await;
}

#[tokio::test]
async fn an_http2_connection_that_says_goodbye_is_replaced() {
    local(async {
        let (url, mut connections) = h2_server(100).await;
        let pool = pool(&[url], "protocol = \"h2c\"");
        let mut lease = pool.lease(&Ask::default(), Instant::now()).await.unwrap();
        assert_eq!(h2_exchange(&mut lease).await, 200);
        drop(lease);
        drop(connections.recv().await.unwrap());
        while pool.state.report(Instant::now()).servers[0].connections > 0 {
            tokio::task::yield_now().await;
        }
        let mut lease = pool.lease(&Ask::default(), Instant::now()).await.unwrap();
        assert!(!lease.reused);
        assert_eq!(h2_exchange(&mut lease).await, 200);
    })
    .await;
}

#[tokio::test]
async fn an_http2_connection_on_which_a_request_failed_takes_no_more() {
    local(async {
        let (url, _connections) = h2_server(100).await;
        let pool = pool(&[url], "protocol = \"h2c\"");
        let lease = pool.lease(&Ask::default(), Instant::now()).await.unwrap();
        assert!(pool.lease(&Ask::default(), Instant::now()).await.unwrap().reused);
        lease.flight.note_failure();
        assert!(!pool.lease(&Ask::default(), Instant::now()).await.unwrap().reused);
    })
    .await;
}

#[tokio::test]
async fn http2_over_tls_must_be_agreed_on() {
    local(async {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, made.cert.pem()).unwrap();
        for (alpn, agreed) in [("h2", true), ("http/1.1", false)] {
            let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut tls = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key.into())
                .unwrap();
            tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
            let (listener, url) = silent().await;
            let serving = spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let _: h2::SendStream<Bytes> =
                        respond.send_response(http::Response::new(()), true).unwrap();
                }
            });
            let tls = format!("protocol = \"h2\"\ntls = {{ ca = {:?} }}", ca.display().to_string());
            let pool = pool(&[url.replace("http://", "https://")], &tls);
            match pool.lease(&Ask::default(), Instant::now()).await {
                Ok(mut lease) => assert!(agreed && h2_exchange(&mut lease).await == 200),
                Err(error) => assert!(!agreed, "{error:?}"),
            }
            serving.abort();
        }
    })
    .await;
}
