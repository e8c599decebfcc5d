//! The PROXY protocol on the public listeners.

use crate::harness::{Authority, Builder, Client, Request, Secure, TestGateway, Upstream, lossy};

const REQUEST: &str = "GET /public/a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.9.9.9\r\n\r\n";

/// Whoever connects from this machine must send a header.
fn trusting(upstream: &Upstream, more: &str) -> Builder {
    TestGateway::builder()
        .upstream("app", upstream)
        .config(&format!("[server]\nproxy_protocol = [\"127.0.0.0/8\"]\n{more}"))
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).expect("short");
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family, 0, length][..], body].concat()
}

/// 203.0.113.7 to 192.0.2.1, with a TLV behind.
const V4: [u8; 16] = [203, 0, 113, 7, 192, 0, 2, 1, 0xC3, 0x50, 1, 0xBB, 4, 0, 1, 0];

#[tokio::test]
async fn the_header_says_who_the_peer_is() {
    let upstream = Upstream::echo().await;
    let gateway = trusting(&upstream, "").start().await;
    let cases = [
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n".to_vec(), "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x21, 0x11, &V4), "203.0.113.7"),
        (v2(0x20, 0x00, &[]), "127.0.0.1"),
    ];
    for (header, address) in cases {
        // In one piece with the request, and byte by byte before it.
        for piecewise in [false, true] {
            let mut client = gateway.connect().await;
            if piecewise {
                for byte in &header {
                    client.send([*byte]).await;
                    tokio::task::yield_now().await;
                }
                client.send(REQUEST).await;
            } else {
                client.send([&header[..], REQUEST.as_bytes()].concat()).await;
            }
            client.answer().await.expect(200);
            assert_eq!(upstream.last().header("x-forwarded-for"), Some(address));
            // The connection goes on without a further header.
            client.send(REQUEST).await;
            client.answer().await.expect(200);
            assert_eq!(upstream.last().header("x-forwarded-for"), Some(address));
        }
    }
    let line = gateway.log_line(|line| line["client"] == "203.0.113.7").await;
    assert_eq!(line["status"], 200);
}

#[tokio::test]
async fn the_peer_that_is_named_may_be_a_trusted_proxy() {
    let upstream = Upstream::echo().await;
    let gateway = trusting(&upstream, "trusted_proxies = [\"203.0.113.0/24\"]").start().await;
    for (from, forwarded) in
        [("203.0.113.7", "10.9.9.9, 203.0.113.7"), ("198.51.100.1", "198.51.100.1")]
    {
        let mut client = gateway.connect().await;
        client.send(format!("PROXY TCP4 {from} 192.0.2.1 1 2\r\n{REQUEST}")).await;
        client.answer().await.expect(200);
        assert_eq!(upstream.last().header("x-forwarded-for"), Some(forwarded));
    }
}

#[tokio::test]
async fn without_a_good_header_nothing_is_served() {
    let upstream = Upstream::echo().await;
    let gateway = trusting(&upstream, "handshake_timeout = \"300ms\"").start().await;
    let long = format!("PROXY UNKNOWN {}\r\n{REQUEST}", "x".repeat(200));
    for bytes in [
        REQUEST.as_bytes(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 50000\r\nGET /public/a HTTP/1.1\r\nHost: a\r\n\r\n",
        long.as_bytes(),
        &v2(0x21, 0x11, &V4[..8]),
        // Too slow: none at all, and the beginning of one.
        b"",
        b"PROXY TCP4 203.0.113.7",
        &v2(0x21, 0x11, &V4)[..20],
    ] {
        let mut client = gateway.connect().await;
        client.send(bytes).await;
        let rest = client.until_closed().await;
        assert!(rest.is_empty(), "{} for {}", lossy(&rest), lossy(bytes));
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn others_must_not_send_one() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\nproxy_protocol = [\"192.0.2.0/24\"]")
        .start()
        .await;
    gateway.get("/public/a").send().await.expect(200);
    for header in [b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n".to_vec(), v2(0x21, 0x11, &V4)] {
        let transcript = gateway.raw([&header[..], REQUEST.as_bytes()].concat()).await;
        assert!(transcript.closed, "{transcript:?}");
        assert!(transcript.statuses().iter().all(|&status| status == 400), "{transcript:?}");
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn it_comes_before_tls() {
    let authority = Authority::new();
    let upstream = Upstream::echo().await;
    let builder = trusting(&upstream, "");
    let (certificate, key) = authority.server(&["api.example"]).write(builder.folder(), "api");
    let gateway = builder
        .config(&format!("[server.tls]\ncertificate = {certificate:?}\nprivate_key = {key:?}"))
        .start()
        .await;
    let connector = authority.visitor().connector();
    for header in [b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n".to_vec(), v2(0x21, 0x11, &V4)] {
        let mut client = gateway.connect().await;
        client.send(&header).await;
        let secure = Secure::begin(&connector, "api.example", client.wire.stream).await;
        let answer = secure.expect("a handshake").last("/public/a").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let seen = upstream.last();
        assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.7"));
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    }
}

#[tokio::test]
async fn clients_behind_a_balancer_count_by_their_own_address() {
    let upstream = Upstream::echo().await;
    let gateway = trusting(&upstream, "max_connections_per_address = 2").start().await;
    let connect = async |from: &str| -> (Client, u16) {
        let mut client = gateway.connect().await;
        client.send(format!("PROXY TCP4 {from} 192.0.2.1 1 2\r\n{REQUEST}")).await;
        let status = client.answer().await.status;
        (client, status)
    };
    let mut held = Vec::new();
    for (from, status) in [
        ("203.0.113.7", 200),
        ("203.0.113.7", 200),
        ("203.0.113.7", 503),
        ("203.0.113.8", 200),
        ("203.0.113.8", 200),
        ("203.0.113.7", 503),
    ] {
        let (client, answered) = connect(from).await;
        assert_eq!(answered, status, "{from}");
        held.push(client);
    }
    // The balancer itself has no such limit.
    for _ in 0..4 {
        let mut client = gateway.connect().await;
        client.send([&v2(0x20, 0, &[])[..], REQUEST.as_bytes()].concat()).await;
        client.answer().await.expect(200);
        held.push(client);
    }
    drop(held);
    Request::new(gateway.admin, "GET", "/health/live").send().await.expect(200);
}
