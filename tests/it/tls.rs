//! HTTPS on the public listener.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{Builder, TestGateway, Upstream, patiently};

/// A gateway with a certificate of its own, and a client that trusts it.
fn with_tls(upstream: &Upstream) -> (Builder, TlsConnector) {
    let builder = TestGateway::builder().upstream("app", upstream).known_secret();
    let made = rcgen::generate_simple_self_signed(["api.example".to_owned()]).expect("a pair");
    let (certificate, key) = (builder.folder().join("cert.pem"), builder.folder().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("the folder is ours");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("the folder is ours");
    let builder = builder.config(&format!(
        "[server.tls]\ncertificate = \"{}\"\nprivate_key = \"{}\"",
        certificate.display(),
        key.display()
    ));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (builder, TlsConnector::from(Arc::new(config)))
}

async fn exchange(gateway: &TestGateway, connector: &TlsConnector, request: &str) -> String {
    let stream = TcpStream::connect(gateway.address).await.expect("the gateway accepts");
    let name = ServerName::try_from("api.example").expect("a name");
    let mut stream =
        patiently("a handshake", connector.connect(name, stream)).await.expect("a handshake");
    stream.write_all(request.as_bytes()).await.expect("the connection stands");
    let mut answer = Vec::new();
    // A missing close_notify is an error, which would hide a truncated answer.
    patiently("the answer", stream.read_to_end(&mut answer)).await.expect("a proper end");
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn requests_come_over_tls() {
    let upstream = Upstream::echo().await;
    let (builder, connector) = with_tls(&upstream);
    let gateway = builder.start().await;
    let token = gateway.token("u1").sign();
    for target in ["/api/u1/a", "https://api.example/api/u1/a"] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer {token}\r\n\
             Connection: close\r\n\r\n"
        );
        let answer = exchange(&gateway, &connector, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let seen = upstream.last();
        assert_eq!(seen.target, "/api/u1/a");
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
        assert_eq!(seen.header("x-user-id"), Some("u1"));
    }
    let request = "GET http://api.example/public/a HTTP/1.1\r\nHost: api.example\r\n\r\n";
    let answer = exchange(&gateway, &connector, request).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "that scheme is not ours: {answer}");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn plain_http_gets_no_answer_on_a_tls_port() {
    let upstream = Upstream::echo().await;
    let (builder, _) = with_tls(&upstream);
    let gateway = builder.start().await;
    let mut client = gateway.connect().await;
    client.send("GET /public/a HTTP/1.1\r\nHost: api.example\r\n\r\n").await;
    let rest = client.until_closed().await;
    assert!(!rest.starts_with(b"HTTP/"), "{rest:?}");
    assert_eq!(upstream.count(), 0);
}
