//! Exchanges with real sockets on the other side: good ones, and every way in which a server can
//! hold one up, break it off or flood it.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(10), max_bytes: 100 };
const SHORT: Bounds = Bounds { deadline: Duration::from_millis(200), ..BOUNDS };

/// A certificate of its own authority.
pub(crate) struct Certificate {
    acceptor: TlsAcceptor,
    /// PEM file with the authority.
    pub(crate) ca: PathBuf,
    _folder: tempfile::TempDir,
}

impl Certificate {
    /// For these names.
    pub(crate) fn of(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, made.cert.pem()).expect("the folder is ours");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a pair");
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), ca, _folder: folder }
    }

    /// The server's side of a handshake; none, when the client breaks it off.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await.ok()
    }
}

/// A listener on this machine.
pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    (listener, address)
}

/// What one request looked like that was answered with `answer`, and what was made of that.
async fn answered(answer: &[u8], bounds: Bounds) -> (String, Result<Answer, OutgoingError>) {
    let (listener, address) = listen().await;
    let endpoint = Endpoint::parse(&format!("http://{address}/hook?x=1")).expect("an address");
    let serving = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut seen = Vec::new();
        while !seen.ends_with(b"ping") {
            assert_ne!(stream.read_buf(&mut seen).await.expect("a request"), 0);
        }
        // A client that has had enough may be gone.
        let _ = stream.write_all(answer).await;
        (stream, String::from_utf8(seen).expect("text"))
    };
    let client = Client::new(None).expect("authorities");
    let fields = HeaderMap::from_iter([(HOST, HeaderValue::from_static("elsewhere"))]);
    let sending = client.send(&endpoint, Method::POST, fields, Bytes::from_static(b"ping"), bounds);
    let ((_stream, seen), outcome) = tokio::join!(serving, sending);
    (seen, outcome)
}

#[tokio::test]
async fn a_request_says_who_asks_and_the_whole_answer_comes_back() {
    let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 4\r\nx-a: b\r\n\r\npong";
    let (seen, outcome) = answered(answer, BOUNDS).await;
    assert!(seen.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{seen}");
    let seen = seen.to_lowercase();
    assert!(seen.contains("\r\nhost: 127.0.0.1:") && !seen.contains("elsewhere"), "{seen}");
    assert!(seen.contains("\r\nuser-agent: portcullis/"), "{seen}");
    assert!(seen.contains("\r\ncontent-length: 4\r\n"), "{seen}");
    let answer = outcome.expect("an answer");
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (202, &b"pong"[..]));
    assert_eq!(answer.headers["x-a"], "b");
}

#[tokio::test]
async fn redirects_and_refusals_are_answers() {
    for status in [301, 302, 307, 404, 500] {
        let answer = format!(
            "HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
        );
        let (_, outcome) = answered(answer.as_bytes(), BOUNDS).await;
        assert_eq!(outcome.expect("an answer").status.as_u16(), status);
    }
}

#[tokio::test]
async fn no_more_of_an_answer_is_kept_than_is_allowed() {
    let fits = [&b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"[..], &[b'x'; 100]].concat();
    assert_eq!(answered(&fits, BOUNDS).await.1.expect("an answer").body.len(), 100);
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n65\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ] {
        let answer = [head.as_bytes(), &[b'x'; 101]].concat();
        let outcome = answered(&answer, BOUNDS).await.1;
        assert!(matches!(outcome, Err(OutgoingError::TooLong(100))), "{head}");
    }
    let head = format!("HTTP/1.1 200 OK\r\nx-a: {}\r\n\r\n", "a".repeat(2 * MAX_HEAD_BYTES));
    let outcome = answered(head.as_bytes(), BOUNDS).await.1;
    assert!(matches!(outcome, Err(OutgoingError::Broken(_))));
}

#[tokio::test]
async fn a_server_that_is_silent_or_slow_is_left_at_the_deadline() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npo",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        let began = Instant::now();
        let outcome = answered(answer.as_bytes(), SHORT).await.1;
        assert!(matches!(outcome, Err(OutgoingError::Deadline(_))), "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{answer:?}");
    }
}

#[tokio::test]
async fn bytes_that_come_one_by_one_do_not_put_the_deadline_off() {
    let (listener, address) = listen().await;
    let endpoint = Endpoint::parse(&format!("http://{address}/")).expect("an address");
    let dripping = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n").await?;
        loop {
            stream.write_all(b"x").await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        #[expect(unreachable_code, reason = "gives the block its type")]
        Ok::<(), io::Error>(())
    };
    let client = Client::new(None).expect("authorities");
    let sending = client.send(&endpoint, Method::GET, HeaderMap::new(), Bytes::new(), SHORT);
    let outcome = tokio::select! {
        outcome = sending => outcome,
        broken = dripping => panic!("{broken:?}"),
    };
    assert!(matches!(outcome, Err(OutgoingError::Deadline(_))));
}

#[tokio::test]
async fn what_is_no_http_or_ends_early_is_broken_off() {
    for answer in ["SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 200 OK\r\ncontent length: 1\r\n\r\n"] {
        let outcome = answered(answer.as_bytes(), BOUNDS).await.1;
        assert!(matches!(outcome, Err(OutgoingError::Broken(_))), "{answer:?}");
    }
    let (listener, address) = listen().await;
    let endpoint = Endpoint::parse(&format!("http://{address}/")).expect("an address");
    let client = Client::new(None).expect("authorities");
    let closing = async { drop(listener.accept().await.expect("a connection")) };
    let sending = client.send(&endpoint, Method::GET, HeaderMap::new(), Bytes::new(), BOUNDS);
    let ((), outcome) = tokio::join!(closing, sending);
    assert!(matches!(outcome, Err(OutgoingError::Broken(_))));
    drop(listener);
    let sending = client.send(&endpoint, Method::GET, HeaderMap::new(), Bytes::new(), BOUNDS);
    assert!(matches!(sending.await, Err(OutgoingError::Connect(_))));
}

#[tokio::test]
async fn only_the_right_certificate_is_told_anything() {
    let ours = Certificate::of(&["localhost"]);
    let other = Certificate::of(&["localhost"]);
    for (host, believed, expected) in [
        ("localhost", Some(&*ours.ca), true),
        // Of another authority, of none that the system knows, and for another name.
        ("localhost", Some(&*other.ca), false),
        ("localhost", None, false),
        ("127.0.0.1", Some(&*ours.ca), false),
    ] {
        let (listener, address) = listen().await;
        let text = format!("https://{host}:{}/", address.port());
        let endpoint = Endpoint::parse(&text).expect("an address");
        let serving = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut seen = Vec::new();
            if let Some(mut stream) = ours.accept(stream).await {
                while !seen.ends_with(b"\r\n\r\nsecret") {
                    if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                        return seen;
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
            seen
        };
        let client = Client::new(believed).expect("authorities");
        let body = Bytes::from_static(b"secret");
        let sending = client.send(&endpoint, Method::POST, HeaderMap::new(), body, BOUNDS);
        let (seen, outcome) = tokio::join!(serving, sending);
        assert_eq!(outcome.is_ok(), expected, "{host}");
        assert_eq!(seen.is_empty(), !expected, "{host}");
        if let Err(error) = outcome {
            assert!(crate::telemetry::chain(&error).contains("certificate"), "{error:?}");
        }
    }
}

#[test]
fn authorities_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("ca.pem");
    let error = || Client::new(Some(&file)).err().expect("no authorities").to_string();
    assert!(error().contains("ca.pem cannot be used: No such file"), "{}", error());
    std::fs::write(&file, "nothing").expect("the folder is ours");
    assert!(error().ends_with("it holds no PEM certificate"), "{}", error());
}
