//! Tunnels for `WebSocket`s: where their token may come from, from which pages, how many there may be, and when
//! they end. Over HTTP/1.1 and over HTTP/2 (RFC 8441).

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use portcullis::model::EventKind;
use portcullis::store::RevokeKey;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::harness::{Step, TestGateway, Upstream, noted, patiently, reply};

const ROUTES: &str = r#"
[[routes]]
path = "/socket/{user_id}"
upstream = "app"
websocket_token = true
allowed_origins = ["https://app.example"]
[[routes]]
path = "/plain/{user_id}"
upstream = "app"
[[routes]]
path = "/kept/{user_id}"
upstream = "app"
tunnel_outlives_token = true
[[routes]]
path = "/open"
upstream = "app"
access = "public"
"#;

type Socket = WebSocketStream<TcpStream>;

async fn gateway(upstream: &Upstream, config: &str) -> TestGateway {
    TestGateway::builder()
        .upstream("app", upstream)
        .known_secret()
        .config(&format!("{config}\n{ROUTES}"))
        .start()
        .await
}

async fn sockets() -> Upstream {
    Upstream::scripted(|_| vec![Step::WebSocket]).await
}

async fn shake(
    gateway: &TestGateway,
    target: &str,
    fields: &[(&'static str, String)],
) -> Result<(Socket, Response), Error> {
    let url = format!("ws://{}{target}", gateway.address);
    let mut request = url.into_client_request().expect("a URL");
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().expect("a value"));
    }
    let stream = TcpStream::connect(gateway.address).await.expect("the gateway accepts");
    patiently("a handshake", tokio_tungstenite::client_async(request, stream)).await
}

#[track_caller]
fn status(refused: Result<(Socket, Response), Error>) -> u16 {
    match refused {
        Err(Error::Http(answer)) => answer.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => 101,
    }
}

async fn echo(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.expect("the tunnel stands");
    let echo = patiently("an echo", socket.next()).await.expect("a message").expect("whole");
    assert_eq!(echo, Message::text(text));
}

async fn until_closed(mut socket: Socket) {
    patiently("the end", async { while let Some(Ok(_)) = socket.next().await {} }).await;
}

#[tokio::test]
async fn a_token_may_come_as_a_subprotocol_where_the_route_says_so() {
    let upstream = sockets().await;
    let gateway = gateway(&upstream, "").await;
    let token = gateway.token("u1").sign();
    let protocol = |text: String| [("sec-websocket-protocol", text)];
    for offer in [format!("bearer.{token}"), format!("chat, bearer.{token}")] {
        let (mut socket, _) =
            shake(&gateway, "/socket/u1", &protocol(offer.clone())).await.unwrap_or_else(|e| {
                // The client insists that one of its offers is taken; the upstream takes none.
                panic!("{offer}: {e}")
            });
        echo(&mut socket, "hello").await;
    }
    assert_eq!(upstream.seen()[0].header("x-user-id"), Some("u1"));
    assert_eq!(upstream.seen()[0].header("sec-websocket-protocol"), None);
    assert_eq!(upstream.seen()[1].header("sec-websocket-protocol"), Some("chat"));
    assert!(
        upstream.seen().iter().all(|seen| { !String::from_utf8_lossy(&seen.raw).contains(&token) })
    );
    // As two entries, of which the first can be agreed to.
    let pair = protocol(format!("bearer, {token}"));
    let (_, answer) = shake(&gateway, "/socket/u1", &pair).await.expect("a tunnel");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "bearer");

    let authorization = ("authorization", format!("Bearer {token}"));
    let both = [protocol(format!("bearer.{token}"))[0].clone(), authorization];
    assert_eq!(status(shake(&gateway, "/socket/u1", &both).await), 400);
    let two = protocol(format!("bearer.{token}, bearer.{token}"));
    assert_eq!(status(shake(&gateway, "/socket/u1", &two).await), 400);
    let bad = protocol("bearer.nonsense".to_owned());
    assert_eq!(status(shake(&gateway, "/socket/u1", &bad).await), 401);
    let other = protocol(format!("bearer.{token}"));
    assert_eq!(status(shake(&gateway, "/socket/u2", &other).await), 403);
    assert_eq!(status(shake(&gateway, "/plain/u1", &other).await), 401);
    // Only a handshake has subprotocols.
    let plain =
        gateway.get("/socket/u1").header("sec-websocket-protocol", format!("bearer.{token}"));
    plain.send().await.expect_problem(401, "no_authorization");
}

#[tokio::test]
async fn only_pages_of_allowed_origins_get_a_tunnel() {
    let upstream = sockets().await;
    let gateway = gateway(&upstream, "").await;
    let authorization = ("authorization", format!("Bearer {}", gateway.token("u1").sign()));
    for (origin, expected) in [
        (Some("https://app.example"), 101),
        (Some("https://evil.example"), 403),
        (Some("null"), 403),
        (None, 101),
    ] {
        let mut fields = vec![authorization.clone()];
        fields.extend(origin.map(|origin| ("origin", origin.to_owned())));
        let shaken = shake(&gateway, "/socket/u1", &fields).await;
        assert_eq!(status(shaken), expected, "{origin:?}");
    }
    let refused = gateway.get("/socket/u1").header("origin", "https://evil.example");
    refused.bearer(gateway.token("u1").sign()).send().await.expect_problem(403, "origin_denied");
}

#[tokio::test]
async fn a_tunnel_ends_with_its_token_unless_the_route_keeps_it() {
    let upstream = sockets().await;
    let gateway = gateway(&upstream, "").await;
    let authorization = [("authorization", format!("Bearer {}", gateway.token("u1").sign()))];
    let (mut ends, _) = shake(&gateway, "/plain/u1", &authorization).await.expect("a tunnel");
    let (mut stays, _) = shake(&gateway, "/kept/u1", &authorization).await.expect("a tunnel");
    let (mut open, _) = shake(&gateway, "/open", &[]).await.expect("a tunnel");
    for socket in [&mut ends, &mut stays, &mut open] {
        echo(socket, "one").await;
    }
    gateway.advance(Duration::from_hours(48));
    until_closed(ends).await;
    echo(&mut stays, "two").await;
    echo(&mut open, "two").await;
}

#[tokio::test]
async fn a_tunnel_ends_with_its_session() {
    let upstream = sockets().await;
    let gateway = gateway(&upstream, "").await;
    let caller = gateway.sign_up("ann").await;
    let authorization = [("authorization", format!("Bearer {}", caller.token))];
    let target = format!("/plain/{}", caller.id);
    let (mut socket, _) = shake(&gateway, &target, &authorization).await.expect("a tunnel");
    echo(&mut socket, "one").await;
    gateway.post("/auth/logout").bearer(&caller.token).send().await.expect(204);
    until_closed(socket).await;
    upstream.until_disconnected().await;
}

#[tokio::test]
async fn a_tunnel_ends_with_the_key_of_its_token() {
    let upstream = sockets().await;
    let builder = TestGateway::builder().upstream("app", &upstream).config(ROUTES);
    let gateway = builder.start().await;
    let caller = gateway.sign_up("ann").await;
    let authorization = [("authorization", format!("Bearer {}", caller.token))];
    let target = format!("/plain/{}", caller.id);
    let (mut socket, _) = shake(&gateway, &target, &authorization).await.expect("a tunnel");
    echo(&mut socket, "one").await;
    let revoked = noted(EventKind::SigningKeyChanged, gateway.clock.now());
    let done = gateway.store().revoke_signing_key(&caller.kid(), None, &revoked).await;
    assert_eq!(done.expect("the store answers"), RevokeKey::Done { successor: None });
    until_closed(socket).await;
    upstream.until_disconnected().await;
}

#[tokio::test]
async fn a_silent_tunnel_ends_and_one_that_speaks_does_not() {
    let upstream = sockets().await;
    let gateway = gateway(&upstream, "[server]\ntunnel_idle_timeout = \"500ms\"").await;
    let (silent, _) = shake(&gateway, "/open", &[]).await.expect("a tunnel");
    let (mut speaking, _) = shake(&gateway, "/open", &[]).await.expect("a tunnel");
    let ended = until_closed(silent);
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            () = tokio::time::sleep(Duration::from_millis(100)) => echo(&mut speaking, "on").await,
        }
    }
    echo(&mut speaking, "still").await;
}

#[tokio::test]
async fn there_are_as_many_tunnels_as_allowed() {
    let upstream = sockets().await;
    let gateway = gateway(&upstream, "[server]\nmax_tunnels = 2\nworkers = 2").await;
    let (first, _) = shake(&gateway, "/open", &[]).await.expect("a tunnel");
    let (_second, _) = shake(&gateway, "/open", &[]).await.expect("a tunnel");
    let metrics = gateway.admin_get("/metrics").await.text();
    assert!(metrics.contains("portcullis_connections{state=\"tunnel\"} 2"), "{metrics}");
    assert_eq!(status(shake(&gateway, "/open", &[]).await), 503);
    drop(first);
    let again = async {
        loop {
            if let Ok(tunnel) = shake(&gateway, "/open", &[]).await {
                return tunnel;
            }
        }
    };
    patiently("a place", again).await;
}

/// An HTTP/2 connection whose server has said that it takes extended CONNECT.
async fn connect_http2(gateway: &TestGateway) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(gateway.address).await.expect("the gateway accepts");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("a handshake");
    tokio::spawn(connection);
    let enabled = async {
        while !client.is_extended_connect_protocol_enabled() {
            client = client.clone().ready().await.expect("the connection stands");
            tokio::task::yield_now().await;
        }
    };
    patiently("the setting", enabled).await;
    client
}

/// The handshake of RFC 8441.
fn extended_connect(gateway: &TestGateway, target: &str, token: Option<&str>) -> http::Request<()> {
    let mut request = http::Request::builder()
        .method("CONNECT")
        .uri(format!("http://{}{target}", gateway.address))
        .header("sec-websocket-version", "13")
        .extension(h2::ext::Protocol::from_static("websocket"))
        .body(())
        .expect("a request");
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("a value");
        request.headers_mut().insert("authorization", value);
    }
    request
}

/// A WebSocket of RFC 8441 as two streams of bytes.
async fn shake_over_http2(
    gateway: &TestGateway,
    target: &str,
    token: Option<&str>,
) -> (http::Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let mut client = connect_http2(gateway).await;
    let request = extended_connect(gateway, target, token);
    let (answer, sending) = client.send_request(request, false).expect("a stream");
    (patiently("an answer", answer).await.expect("an answer"), sending)
}

#[tokio::test]
async fn a_websocket_passes_over_http2() {
    let upstream = sockets().await;
    let gateway = gateway(&upstream, "[server]\nh2c = true").await;
    let token = gateway.token("u1").sign();
    let (refused, _) = shake_over_http2(&gateway, "/plain/u1", None).await;
    assert_eq!(refused.status(), 401);
    let (refused, _) = shake_over_http2(&gateway, "/plain/u2", Some(&token)).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(upstream.count(), 0);

    let (answer, mut sending) = shake_over_http2(&gateway, "/plain/u1", Some(&token)).await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let seen = upstream.only();
    assert_eq!((&*seen.method, seen.header("x-user-id")), ("GET", Some("u1")));
    // A masked text frame "hi" (RFC 6455 §5.2), and its echo, which servers do not mask.
    sending.send_data(Bytes::from_static(b"\x81\x82\0\0\0\0hi"), false).expect("room");
    let mut receiving = answer.into_body();
    let mut echo = Vec::new();
    while echo.len() < 4 {
        let piece = patiently("an echo", receiving.data()).await.expect("a piece").expect("whole");
        echo.extend_from_slice(&piece);
    }
    assert_eq!(echo, b"\x81\x02hi");
    drop((sending, receiving));
    upstream.until_disconnected().await;
}

#[tokio::test]
async fn nothing_passes_over_http2_before_the_upstream_has_agreed() {
    let upstream = Upstream::scripted(|seen| match seen.path() {
        "/open" => reply("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        // To a CONNECT, any 2xx would say that the tunnel stands.
        _ => reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    })
    .await;
    let gateway = gateway(&upstream, "[server]\nh2c = true").await;
    let smuggled = Bytes::from_static(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let (answer, mut sending) = shake_over_http2(&gateway, "/open", None).await;
    // The stream may have ended with its answer.
    let _ = sending.send_data(smuggled.clone(), true);
    assert_eq!(answer.status(), 404);

    let mut client = connect_http2(&gateway).await;
    let token = gateway.token("u1").sign();
    for target in ["/open", "/plain/u1"] {
        let request = extended_connect(&gateway, target, Some(&token));
        let (answer, mut sending) = client.send_request(request, false).expect("a stream");
        // Together with the request, before anybody can have answered.
        sending.send_data(smuggled.clone(), false).expect("room");
        let answer = patiently("an answer", answer).await.expect("an answer");
        assert_eq!(answer.status(), if target == "/open" { 404 } else { 502 }, "{target}");
        drop(sending);
    }
    for seen in upstream.seen() {
        assert!(!String::from_utf8_lossy(&seen.raw).contains("smuggled"), "{seen:?}");
        assert_eq!(seen.body, b"");
    }
    assert_eq!(upstream.count(), 3);
}
