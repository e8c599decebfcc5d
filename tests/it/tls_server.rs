//! TLS on the public listeners: which certificate, whose clients, and what changes while it runs.

use std::fmt::Write as _;

use rcgen::DnType;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{
    Authority, Builder, Program, Secure, TestGateway, Upstream, Visitor, patiently, pause,
};

/// A gateway whose first certificate is for `api.example`, with `more` in `[server.tls]`.
async fn with_tls(authority: &Authority, more: &str) -> (Builder, Upstream) {
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream);
    let (certificate, key) = authority.server(&["api.example"]).write(builder.folder(), "api");
    let builder = builder.config(&format!(
        "[server.tls]\ncertificate = \"{}\"\nprivate_key = \"{}\"\n{more}",
        certificate.display(),
        key.display()
    ));
    (builder, upstream)
}

async fn connect(gateway: &TestGateway) -> TcpStream {
    TcpStream::connect(gateway.address).await.expect("the gateway accepts")
}

#[tokio::test]
async fn the_name_chooses_the_certificate() {
    let authority = Authority::new();
    let (builder, _upstream) = with_tls(&authority, "").await;
    let shop = authority.server(&["*.shop.example", "shop.example"]);
    let (certificate, key) = shop.write(builder.folder(), "shop");
    let gateway = builder
        .config(&format!(
            "[[server.tls.certificates]]\ncertificate = {certificate:?}\nprivate_key = {key:?}"
        ))
        .start()
        .await;
    let connector = authority.visitor().connector();
    for name in ["shop.example", "a.shop.example"] {
        let secure = Secure::begin(&connector, name, connect(&gateway).await).await;
        let secure = secure.expect("a certificate for that name");
        assert_eq!(secure.server_certificate(), shop.certificate.der(), "{name}");
        assert!(secure.last("/public/a").await.starts_with("HTTP/1.1 200 "));
    }
    for (name, known) in [("api.example", true), ("a.b.shop.example", false), ("x.test", false)] {
        let secure = Secure::begin(&connector, name, connect(&gateway).await).await;
        assert_eq!(secure.is_ok(), known, "{name} gets the first one, and it is not for it");
    }
}

#[tokio::test]
async fn the_oldest_version_is_configured() {
    let authority = Authority::new();
    let old = authority.visitor().old().connector();
    for (more, taken) in [("", true), ("min_version = \"1.3\"", false)] {
        let (builder, _upstream) = with_tls(&authority, more).await;
        let gateway = builder.start().await;
        let secure = Secure::begin(&old, "api.example", connect(&gateway).await).await;
        assert_eq!(secure.is_ok(), taken, "{more}");
        let new = authority.visitor().connector();
        let secure = Secure::begin(&new, "api.example", connect(&gateway).await).await;
        assert!(secure.expect("1.3").last("/public/a").await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn a_new_certificate_is_taken_and_connections_and_tickets_stay_good() {
    let authority = Authority::new();
    let (builder, _upstream) = with_tls(&authority, "").await;
    let folder = builder.folder().to_owned();
    let gateway = builder.start().await;
    let tls12 = authority.visitor().old().connector();
    let tls13 = authority.visitor().connector();
    let mut open = Vec::new();
    for connector in [&tls12, &tls13] {
        let stream = connect(&gateway).await;
        let mut secure =
            Secure::begin(connector, "api.example", stream).await.expect("a handshake");
        // Tickets come with the answer.
        assert!(secure.get("/public/a").await.starts_with("HTTP/1.1 200 "));
        open.push(secure);
    }

    let new = authority.server(&["api.example", "new.example"]);
    new.write(&folder, "api");
    patiently("the new certificate", async {
        loop {
            let fresh = authority.visitor().connector();
            let stream = connect(&gateway).await;
            let secure = Secure::begin(&fresh, "api.example", stream).await.expect("a handshake");
            if secure.server_certificate() == new.certificate.der() {
                return;
            }
            pause().await;
        }
    })
    .await;
    for secure in &mut open {
        assert!(secure.get("/public/b").await.starts_with("HTTP/1.1 200 "));
    }
    for connector in [&tls12, &tls13] {
        let stream = connect(&gateway).await;
        let secure = Secure::begin(connector, "api.example", stream).await.expect("a handshake");
        assert!(secure.is_resumed());
        assert!(secure.last("/public/c").await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn a_bad_certificate_never_replaces_a_good_one() {
    let authority = Authority::new();
    let (builder, _upstream) = with_tls(&authority, "").await;
    let (folder, file) = (builder.folder().to_owned(), builder.folder().join("api.pem"));
    let gateway = builder.start().await;
    let metric = async |name: &str| {
        let text = gateway.admin_get("/metrics").await.expect(200).text();
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let failures = "portcullis_tls_certificate_reload_failures_total";
    let expiry = "portcullis_tls_certificate_expiry_timestamp_seconds";
    assert_eq!(metric(failures).await, format!("{failures} 0"));
    assert!(metric(expiry).await.starts_with(&format!("{expiry}{{certificate={file:?}}} ")));

    std::fs::write(&file, "not a certificate").expect("the folder is ours");
    patiently("the failure to be counted", async {
        while metric(failures).await != format!("{failures} 1") {
            pause().await;
        }
    })
    .await;
    let connector = authority.visitor().connector();
    let secure = Secure::begin(&connector, "api.example", connect(&gateway).await).await;
    assert!(secure.expect("the old one").last("/public/a").await.starts_with("HTTP/1.1 200 "));

    let new = authority.server(&["api.example"]);
    new.write(&folder, "api");
    patiently("the new certificate", async {
        loop {
            let fresh = authority.visitor().connector();
            let stream = connect(&gateway).await;
            let secure = Secure::begin(&fresh, "api.example", stream).await.expect("a handshake");
            if secure.server_certificate() == new.certificate.der() {
                return;
            }
            pause().await;
        }
    })
    .await;
}

/// Asks for `target`, with the certificate of that authority and subject if any.
async fn visit(gateway: &TestGateway, visitor: &Visitor, target: &str) -> String {
    let connector = visitor.connector();
    match Secure::begin(&connector, "api.example", connect(gateway).await).await {
        Ok(secure) => secure.last(target).await,
        Err(_) => String::new(),
    }
}

const ROUTES: &str = r#"
[[routes]]
path = "/public/{*rest}"
upstream = "app"
access = "public"
[[routes]]
path = "/machines/{*rest}"
upstream = "app"
access = "public"
client_certificate = true
"#;

#[tokio::test]
async fn client_certificates_are_verified_and_their_subject_is_passed_on() {
    let authority = Authority::new();
    let (clients, strangers) = (Authority::new(), Authority::new());
    let subject = [(DnType::OrganizationName, "Example, Inc."), (DnType::CommonName, "printer")];
    let known = authority.visitor().showing(&clients.client(&subject));
    let stranger = authority.visitor().showing(&strangers.client(&subject));
    let nobody = authority.visitor();
    for mode in ["optional", "require"] {
        let more = format!("client_certificates = {mode:?}");
        let (builder, upstream) = with_tls(&authority, &more).await;
        let ca = builder.folder().join("clients.pem");
        clients.write(&ca);
        let gateway = builder
            .config(&format!("[server.tls]\nclient_ca = {ca:?}"))
            .config(ROUTES)
            .start()
            .await;
        for target in ["/public/a", "/machines/a"] {
            let answer = visit(&gateway, &known, target).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{mode} {target}: {answer}");
            let seen = upstream.last();
            assert_eq!(
                seen.header("x-client-certificate-subject"),
                Some("CN=printer,O=Example\\, Inc.")
            );
        }
        let before = upstream.count();
        assert_eq!(visit(&gateway, &stranger, "/public/a").await, "", "{mode}");
        if mode == "require" {
            assert_eq!(visit(&gateway, &nobody, "/public/a").await, "");
            assert_eq!(upstream.count(), before);
            continue;
        }
        let answer = visit(&gateway, &nobody, "/machines/a").await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(answer.contains("client_certificate_required"), "{answer}");
        assert_eq!(upstream.count(), before);
        let answer = visit(&gateway, &nobody, "/public/a").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(upstream.last().header("x-client-certificate-subject"), None);
    }
}

#[tokio::test]
async fn nobody_says_themselves_whose_certificate_they_have() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut request = gateway.get("/public/a");
    for name in ["X-Client-Certificate-Subject", "x_client_certificate_subject"] {
        request = request.header(name, "CN=admin");
    }
    request.send().await.expect(200);
    let mut shown = String::new();
    for (name, value) in &upstream.last().headers.0 {
        let _ = writeln!(shown, "{name}: {value}");
    }
    assert!(!shown.contains("CN=admin"), "{shown}");
}

#[tokio::test]
async fn a_ticket_does_not_outlive_the_authority_of_its_client() {
    let authority = Authority::new();
    let clients = Authority::new();
    let (builder, upstream) = with_tls(&authority, "client_certificates = \"require\"").await;
    let ca = builder.folder().join("clients.pem");
    clients.write(&ca);
    let gateway = builder.config(&format!("[server.tls]\nclient_ca = {ca:?}")).start().await;
    let visitor = authority.visitor().showing(&clients.client(&[(DnType::CommonName, "a")]));
    let connector = visitor.connector();
    for _ in 0..2 {
        let stream = connect(&gateway).await;
        let mut secure = Secure::begin(&connector, "api.example", stream).await.expect("known");
        assert!(secure.get("/public/a").await.starts_with("HTTP/1.1 200 "));
    }
    let others = Authority::new();
    others.write(&ca);
    let other = authority.visitor().showing(&others.client(&[(DnType::CommonName, "b")]));
    patiently("the new authority", async {
        while !visit(&gateway, &other, "/public/b").await.starts_with("HTTP/1.1 200 ") {
            pause().await;
        }
    })
    .await;
    let before = upstream.count();
    let secure = Secure::begin(&connector, "api.example", connect(&gateway).await).await;
    if let Ok(secure) = secure {
        assert!(!secure.is_resumed());
        assert_eq!(secure.last("/public/a").await, "");
    }
    assert_eq!(upstream.count(), before);
}

#[tokio::test]
async fn silence_before_and_within_a_handshake_is_ended() {
    let authority = Authority::new();
    let (builder, _upstream) = with_tls(&authority, "").await;
    let gateway = builder.config("[server]\nhandshake_timeout = \"300ms\"").start().await;
    // A record that announces more than comes.
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut client = gateway.connect().await;
        client.send(begun).await;
        client.until_closed().await;
    }
    let connector = authority.visitor().connector();
    let secure = Secure::begin(&connector, "api.example", connect(&gateway).await).await;
    assert!(secure.expect("others go on").last("/public/a").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn silent_connections_do_not_hold_up_a_stop() {
    let authority = Authority::new();
    let (builder, _upstream) = with_tls(&authority, "").await;
    let mut gateway = builder
        .config("[server]\nhandshake_timeout = \"1h\"\ndrain_timeout = \"1h\"")
        .start()
        .await;
    let mut silent = gateway.connect().await;
    let mut stalled = gateway.connect().await;
    stalled.wire.stream.write_all(b"\x16\x03\x01").await.expect("it stands");
    let stopping = gateway.shut_down();
    silent.until_closed().await;
    stalled.until_closed().await;
    patiently("the end", stopping).await.expect("it stops in peace");
}

#[tokio::test]
async fn handshakes_in_flight_count_as_connections() {
    let authority = Authority::new();
    let (builder, _upstream) = with_tls(&authority, "").await;
    let gateway =
        builder.config("[server]\nmax_connections = 2\nhandshake_timeout = \"1h\"").start().await;
    let (one, two) = (gateway.connect().await, gateway.connect().await);
    let mut three = gateway.connect().await;
    assert!(three.until_closed().await.is_empty());
    drop(one);
    let connector = authority.visitor().connector();
    patiently("room", async {
        loop {
            let stream = connect(&gateway).await;
            match Secure::begin(&connector, "api.example", stream).await {
                Ok(secure) => return secure.last("/public/a").await,
                Err(_) => pause().await,
            }
        }
    })
    .await;
    drop(two);
}

#[tokio::test]
async fn stalled_handshakes_are_many_and_cheap() {
    let authority = Authority::new();
    let (builder, _upstream) = with_tls(&authority, "").await;
    let gateway = builder.config("[server]\nhandshake_timeout = \"20s\"").start().await;
    let mut stalled = Vec::new();
    for n in 0..400 {
        let mut client = gateway.connect().await;
        if n % 2 == 0 {
            client.send(b"\x16\x03\x01\x02\x00\x01").await;
        }
        stalled.push(client);
    }
    let connector = authority.visitor().connector();
    let stream = connect(&gateway).await;
    let secure = Secure::begin(&connector, "api.example", stream).await.expect("room");
    assert!(secure.last("/public/a").await.starts_with("HTTP/1.1 200 "));
    drop(stalled);
}

#[tokio::test]
async fn explain_knows_of_client_certificates() {
    let authority = Authority::new();
    let (builder, _upstream) = with_tls(&authority, "client_certificates = \"optional\"").await;
    let ca = builder.folder().join("clients.pem");
    authority.write(&ca);
    let builder = builder.config(&format!("[server.tls]\nclient_ca = {ca:?}")).config(ROUTES);
    let program = Program::of(builder.config(
        "[[tests]]\nrequest = \"GET /machines/a\"\nexpect = 403\n\
         [[tests]]\nrequest = \"GET /machines/a\"\nclient_certificate = \"CN=a\"\nexpect = \"allow\"",
    ))
    .await;
    program.run(&["check"]).await.expect(0);
    let refused = program.run(&["explain", "GET", "/machines/a"]).await.expect(1);
    assert!(refused.stdout.contains("refused: 403 no_client_certificate"), "{refused}");
    let shown = ["explain", "GET", "/machines/a", "--client-certificate", "CN=printer", "--json"];
    let told = &program.run(&shown).await.expect(0).json_lines()[0];
    assert_eq!(told["decision"], "allow", "{told}");
    let steps = told["steps"].as_array().expect("a list");
    assert!(
        steps
            .iter()
            .any(|step| step["step"] == "client" && step["why"] == "the client is `CN=printer`"),
        "{told}"
    );
}

#[tokio::test]
async fn both_versions_of_http_are_offered_with_every_certificate() {
    let authority = Authority::new();
    for (config, offered, agreed) in [
        ("", &[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        ("", &[b"http/1.1"], Some(b"http/1.1")),
        ("", &[], None),
        ("[server]\nhttp2 = false", &[b"h2", b"http/1.1"], Some(b"http/1.1")),
    ] {
        let (builder, _upstream) = with_tls(&authority, "").await;
        let gateway = builder.config(config).start().await;
        let connector = authority.visitor().offering(offered).connector();
        let secure = Secure::begin(&connector, "api.example", connect(&gateway).await).await;
        assert_eq!(secure.expect("a handshake").agreed(), agreed, "{config} {offered:?}");
    }
}
