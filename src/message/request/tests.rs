use super::*;

fn read(bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
    let mut buffer = Buffer::new();
    buffer.put(bytes);
    HeadReader::default().take(&mut buffer, 32 << 10)
}

fn checked(text: &str, over_tls: bool) -> Result<RequestHead, HeadError> {
    let mut head = read(text.as_bytes())?.expect("the head is whole");
    head.check(over_tls).map(|()| head)
}

fn request(method: &str, target: &str, lines: &[&str]) -> String {
    let lines = lines.iter().fold(String::new(), |lines, line| lines + line + "\r\n");
    format!("{method} {target} HTTP/1.1\r\n{lines}\r\n")
}

#[test]
fn doubtful_heads_are_refused() {
    use HeadError as E;
    let long = format!("/{}", "a".repeat(MAX_TARGET_BYTES));
    let h = "Host: api.example";
    let table: &[(&str, &str, &[&str], HeadError)] = &[
        ("GET", "/", &[], E::Host),
        ("GET", "/", &[h, "Host: b"], E::Host),
        ("GET", "/", &[h, h], E::Host),
        ("GET", "/", &["Host:"], E::Host),
        ("GET", "/", &["Host: a,b"], E::Host),
        ("GET", "/", &["Host: a/b"], E::Host),
        ("GET", "/", &["Host: u@a"], E::Host),
        ("GET", "/", &["Host: a b"], E::Host),
        ("GET", "/", &["Host: a:x"], E::Host),
        ("GET", "/", &["Host: a:"], E::Host),
        ("GET", "/", &["Host: a:1:2"], E::Host),
        ("GET", "/", &["Host: [::1"], E::Host),
        ("GET", "http://other/", &[h], E::Target),
        ("GET", "https://api.example/", &[h], E::Target),
        ("GET", "ftp://api.example/", &[h], E::Target),
        ("GET", "http://api.example", &[h], E::Target),
        ("OPTIONS", "*", &[h], E::Target),
        ("GET", "/a#b", &[h], E::Target),
        ("GET", "/a?<b>", &[h], E::Target),
        ("CONNECT", "api.example:443", &[h], E::Method),
        ("CONNECT", "/", &[h], E::Method),
        ("TRACE", "/", &[h], E::Method),
        ("BREW", "/", &[h], E::Method),
        ("get", "/", &[h], E::Method),
        ("GET", &long, &[h], E::TargetTooLong),
        ("GET", "/", &[h, "Expect: 200-ok"], E::Expectation),
        ("POST", "/", &[h, "Transfer-Encoding: gzip, chunked"], E::TransferEncoding),
        ("POST", "/", &[h, "Transfer-Encoding: chunked, chunked"], E::TransferEncoding),
        ("POST", "/", &[h, "Transfer-Encoding: ,chunked"], E::TransferEncoding),
        ("POST", "/", &[h, "Transfer-Encoding: identity"], E::TransferEncoding),
        (
            "POST",
            "/",
            &[h, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
            E::TransferEncoding,
        ),
        ("POST", "/", &[h, "Content-Length: +1"], E::ContentLength),
        ("POST", "/", &[h, "Content-Length: 1, 1"], E::ContentLength),
        ("POST", "/", &[h, "Content-Length:"], E::ContentLength),
        ("POST", "/", &[h, "Content-Length: 1", "Content-Length: 1"], E::ContentLength),
        ("POST", "/", &[h, "Content-Length: 1", "Transfer-Encoding: chunked"], E::TwoLengths),
        ("GET", "/", &[h, "A : b"], E::Syntax),
        ("GET", "/", &[h, " folded"], E::Syntax),
        ("GET", "/", &[h, "A: b\r c"], E::Syntax),
        ("GET", "/", &[h, "A: b\0"], E::Syntax),
        ("GET", "/", &[h, ": b"], E::Syntax),
        ("GET", "/", &[h, "A"], E::Syntax),
        ("GET", "/ /", &[h], E::Syntax),
        ("G@T", "/", &[h], E::Syntax),
    ];
    for (method, target, lines, expected) in table {
        let text = request(method, target, lines);
        assert_eq!(checked(&text, false).err(), Some(*expected), "{text:?}");
    }
    for (text, expected) in [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", E::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", E::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", E::BareLineFeed),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::BareLineFeed),
        ("GET /\r\n\r\n", E::Syntax),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", E::Version),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", E::Version),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", E::Syntax),
        ("PRI * HTTP/2.0\r\n\r\n", E::Version),
        ("\x16\x03\x01 ", E::Syntax),
        (" GET", E::Syntax),
    ] {
        assert_eq!(checked(text, false).err(), Some(expected), "{text:?}");
    }
}

#[test]
fn ordinary_heads_pass() {
    for host in ["a", "a:80", "a.example:65535", "[::1]", "[2001:db8::1]:8080", "127.0.0.1:1"] {
        let text = request("GET", "/a?b=/c", &[&format!("Host: {host}")]);
        let head = checked(&text, false).expect(host);
        assert_eq!((head.path(), head.query()), ("/a", Some("b=/c")));
        assert!(head.wants_keep_alive());
    }
    let absolute = request("GET", "http://A.example/x?y", &["Host: a.example"]);
    let head = checked(&absolute, false).unwrap();
    assert_eq!((head.target(), head.path(), head.query()), ("/x?y", "/x", Some("y")));
    let head = checked("GET / HTTP/1.0\r\n\r\n", false).unwrap();
    assert!(!head.wants_keep_alive());
    let head = checked(
        &request(
            "POST",
            "/",
            &[
                "Host: a",
                "Transfer-Encoding: Chunked",
                "Expect: 100-Continue",
                "Connection: x, Close",
            ],
        ),
        false,
    )
    .unwrap();
    assert_eq!(head.body, BodyLength::Streamed);
    assert!(head.expects_continue() && !head.wants_keep_alive());
    let head = checked(&request("PUT", "/", &["Host: a", "Content-Length: 007"]), false).unwrap();
    assert_eq!(head.body, BodyLength::Exactly(7));
}

#[test]
fn a_websocket_is_asked_for_by_both_fields() {
    let ask = |lines: &[&str]| checked(&request("GET", "/", lines), false).unwrap().websocket;
    assert!(ask(&["Host: a", "Upgrade: WebSocket", "Connection: keep-alive, Upgrade"]));
    assert!(!ask(&["Host: a", "Upgrade: websocket"]));
    assert!(!ask(&["Host: a", "Upgrade: h2c", "Connection: upgrade"]));
    assert!(!ask(&["Host: a", "Upgrade: websocket, h2c", "Connection: upgrade"]));
    assert!(!ask(&["Host: a", "Upgrade: websocket", "Connection: upgrade", "Content-Length: 1"]));
    let twice = ["Host: a", "Upgrade: websocket", "Upgrade: websocket", "Connection: upgrade"];
    assert!(!ask(&twice));
}

#[test]
fn heads_are_found_however_they_are_cut() {
    let two =
        b"\r\nGET /a HTTP/1.1\r\nHost: a\r\nX:  y \r\n\r\nPOST /b HTTP/1.1\r\nHost: b\r\n\r\nrest";
    for step in 1..two.len() {
        let (mut buffer, mut reader) = (Buffer::new(), HeadReader::default());
        let mut found = Vec::new();
        for piece in two.chunks(step) {
            buffer.put(piece);
            while found.len() < 2 {
                match reader.take(&mut buffer, 1 << 10).unwrap() {
                    Some(head) => found.push(head),
                    None => break,
                }
            }
        }
        assert_eq!(found[0].target.bytes, 2);
        assert_eq!(found[0].fields().named("x").next(), Some(&b"y"[..]));
        assert_eq!(found[1].method, Method::POST);
        assert_eq!(buffer.filled(), b"rest", "cut by {step}");
    }
}

#[test]
fn heads_are_bounded() {
    let fields = |n: usize| "A: b\r\n".repeat(n);
    let text = format!("GET / HTTP/1.1\r\n{}\r\n", fields(MAX_FIELDS));
    assert!(read(text.as_bytes()).is_ok());
    let text = format!("GET / HTTP/1.1\r\n{}\r\n", fields(MAX_FIELDS + 1));
    assert_eq!(read(text.as_bytes()).err(), Some(HeadError::TooLarge));
    let text = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(32 << 10));
    assert_eq!(read(text.as_bytes()).err(), Some(HeadError::TooLarge));
    let text = format!("GET /{}", "a".repeat(32 << 10));
    assert_eq!(read(text.as_bytes()).err(), Some(HeadError::TargetTooLong));
}

#[test]
fn http2_has_no_fields_of_a_connection() {
    let head = |name: &'static str, value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, http::HeaderValue::from_static(value));
        let body = BodyLength::Streamed;
        let mut head =
            RequestHead::of_http2(Method::POST, "/a?b", Some("a.example"), &headers, body, false);
        head.check(true).map(|()| head)
    };
    let passed = head("host", "A.example").unwrap();
    assert_eq!((passed.path(), passed.query()), ("/a", Some("b")));
    assert_eq!(head("host", "b").err(), Some(HeadError::Host));
    assert_eq!(head("content-length", "3").unwrap().body, BodyLength::Exactly(3));
    for name in ["connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection"] {
        assert_eq!(head(name, "x").err(), Some(HeadError::ConnectionField), "{name}");
    }
    assert!(head("te", "trailers").is_ok());
    assert_eq!(head("te", "gzip").err(), Some(HeadError::ConnectionField));
}
