//! Where connections come in, and how many of them.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UnixStream};

use crate::harness::http::Wire;
use crate::harness::{
    Authority, Client, Request, Secure, TestGateway, Upstream, lossy, patiently, pause,
};

/// One `GET` over a Unix-domain socket; all that comes back.
async fn get(socket: &Path, target: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.expect("somebody listens");
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("the connection stands");
    let mut answer = Vec::new();
    patiently("the answer", stream.read_to_end(&mut answer)).await.expect("a proper end");
    lossy(&answer)
}

#[tokio::test]
async fn a_unix_socket_serves_and_goes_with_the_gateway() {
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream);
    let socket = builder.folder().join("http.sock");
    let mut gateway = builder
        .config(&format!(
            "[server]\nworkers = 2\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]",
            socket.display()
        ))
        .start()
        .await;
    let file = std::fs::metadata(&socket).expect("it is there");
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o660);
    for _ in 0..4 {
        let answer = get(&socket, "/public/a").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let seen = upstream.last();
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    }
    gateway.get("/public/a").send().await.expect(200);
    let stopping = gateway.shut_down();
    patiently("the end", stopping).await.expect("it stops in peace");
    assert!(!socket.exists());
}

#[tokio::test]
async fn peers_on_a_unix_socket_are_trusted_as_loopback_is() {
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream);
    let socket = builder.folder().join("http.sock");
    let _gateway = builder
        .config(&format!(
            "[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]",
            socket.display()
        ))
        .start()
        .await;
    assert!(get(&socket, "/public/a").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(upstream.last().header("x-forwarded-for"), Some("203.0.113.7, 127.0.0.1"));
}

#[tokio::test]
async fn tls_runs_over_a_unix_socket_too() {
    let authority = Authority::new();
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream);
    let socket = builder.folder().join("https.sock");
    let (certificate, key) = authority.server(&["api.example"]).write(builder.folder(), "api");
    let _gateway = builder
        .config(&format!(
            "[server]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\n\
             [server.tls]\ncertificate = {certificate:?}\nprivate_key = {key:?}",
            socket.display()
        ))
        .start()
        .await;
    let connector = authority.visitor().connector();
    let stream = UnixStream::connect(&socket).await.expect("somebody listens");
    let secure = Secure::begin(&connector, "api.example", stream).await.expect("a handshake");
    assert!(secure.last("/public/a").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(upstream.last().header("x-forwarded-proto"), Some("https"));
}

/// A connection from another address of this machine.
async fn connect_from(from: &str, to: SocketAddr) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{from}:0").parse().expect("an address")).expect("it is loopback");
    let stream = patiently("a connection", socket.connect(to)).await;
    Client::over(Wire::new(stream.expect("the gateway accepts connections")))
}

#[tokio::test]
async fn one_address_cannot_have_all_the_connections() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\nworkers = 2\nmax_connections_per_address = 3")
        .start()
        .await;
    let served = async |client: &mut Client| {
        client.send("GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.try_answer("GET").await.is_some_and(|answer| answer.status == 200)
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.connect().await;
        assert!(served(&mut client).await);
        held.push(client);
    }
    let mut one_more = gateway.connect().await;
    if let Some(answer) = one_more.try_answer("GET").await {
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    one_more.until_closed().await;
    let mut other = connect_from("127.0.0.2", gateway.address).await;
    assert!(served(&mut other).await, "another address has its own");
    for client in &mut held {
        assert!(served(client).await);
    }
    held.pop();
    patiently("room", async {
        while !served(&mut gateway.connect().await).await {
            pause().await;
        }
    })
    .await;
    let metrics = gateway.admin_get("/metrics").await.expect(200).text();
    let counted = "portcullis_auth_decisions_total{result=\"deny\",reason=\"too_many_connections_from_address\"}";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn trusted_proxies_and_unless_configured_loopback_have_no_such_limit() {
    let upstream = Upstream::echo().await;
    for (config, connections) in [
        ("", 300),
        ("[server]\nmax_connections_per_address = 1\ntrusted_proxies = [\"127.0.0.0/8\"]", 20),
    ] {
        let gateway =
            TestGateway::builder().upstream("app", &upstream).config(config).start().await;
        let mut held = Vec::new();
        for _ in 0..connections {
            held.push(gateway.connect().await);
        }
        let last = held.last_mut().expect("some");
        Request::new(gateway.address, "GET", "/public/a").send_over(last).await.expect(200);
    }
}
