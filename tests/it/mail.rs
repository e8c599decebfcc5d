//! Letters to users, by mail servers of another maker and by a webhook, as `mail test` sends them;
//! and the texts that operators put in the place of ours.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::model::EventKind;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::foreign::{Foreign, python};
use crate::harness::{Authority, Program, TestGateway, Told, Upstream, reply, until_events};

/// In a URL: `s3cr@t, of ann`.
const USER: &str = "ann:s3cr%40t%2C%20of%20ann";

/// A mail server, and what the configuration says of it.
struct Server {
    server: Foreign,
    url: String,
}

impl Server {
    /// `security` is as the script has it; `authority` vouches for the name `localhost`.
    async fn start(security: &str, authority: &Authority, folder: &Path) -> Self {
        let (certificate, key) = authority.server(&["localhost"]).write(folder, "mail");
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        let arguments = [security, &certificate, &key];
        let (server, address) = Foreign::start(python("smtp_server.py", &arguments)).await;
        let port = address.port();
        let url = match security {
            "tls" => format!("smtps://{USER}@localhost:{port}"),
            "starttls" => format!("smtp://{USER}@localhost:{port}"),
            _ => format!("smtp://127.0.0.1:{port}?tls=none"),
        };
        Self { server, url }
    }
}

/// A program that sends by `server`, or by nobody.
async fn program(url: &str, more: &str) -> Program {
    let text = format!(
        "[links]\nsite_url = \"https://app.example.com\"\n[mail]\ntransport = \"smtp\"\n\
         url = {url:?}\nfrom = \"Bücher Shop <no-reply@example.com>\"\n{more}"
    );
    Program::of(TestGateway::builder().config(&text)).await
}

async fn send(program: &Program, arguments: &[&str]) -> Told {
    program.run(&[&["mail", "test"], arguments].concat()).await
}

fn field<'a>(letter: &'a Value, name: &str) -> Vec<&'a str> {
    let fields = letter["header"].as_array().expect("fields").iter();
    let named = fields.filter(|field| field[0].as_str() == Some(name));
    named.map(|field| field[1].as_str().expect("text")).collect()
}

#[tokio::test]
async fn letters_arrive_by_starttls_by_tls_and_on_this_machine_without() {
    let authority = Authority::new();
    for security in ["starttls", "tls", "plain"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        authority.write(&folder.path().join("ca.pem"));
        let mut server = Server::start(security, &authority, folder.path()).await;
        let ca =
            format!("ca = {:?}\nreply_to = \"help@example.com\"", folder.path().join("ca.pem"));
        let program = program(&server.url, &ca).await;
        let told = send(&program, &["ann@example.org"]).await.expect(0);
        assert!(told.stdout.contains("has taken the letter: 250 2.0.0 queued as 7F00"), "{told}");
        assert!(!told.stdout.contains("s3cr") && told.stderr.is_empty(), "{told}");

        let letter = server.server.told().await;
        let is_private = security != "plain";
        assert_eq!(
            letter["login"],
            if is_private { json!("PLAIN") } else { Value::Null },
            "{letter}"
        );
        assert_eq!(
            (&letter["from"], &letter["to"]),
            (&json!("no-reply@example.com"), &json!(["ann@example.org"]))
        );
        assert_eq!(letter["defects"], json!([]));
        for (name, value) in [
            ("From", "Bücher Shop <no-reply@example.com>"),
            ("To", "ann@example.org"),
            ("Reply-To", "help@example.com"),
            ("Subject", "A test of mail from app.example.com"),
            ("Auto-Submitted", "auto-generated"),
            ("X-Auto-Response-Suppress", "All"),
        ] {
            assert_eq!(field(&letter, name), [value], "{letter}");
        }
        let id = field(&letter, "Message-ID");
        assert!(id.len() == 1 && id[0].ends_with("@app.example.com>"), "{letter}");
        assert!(
            letter["text"].as_str().expect("text").contains("letters from app.example.com arrive")
        );
        assert!(letter["html"].as_str().expect("HTML").contains("<!doctype html>"));
    }
}

#[tokio::test]
async fn every_letter_can_be_seen_as_its_reader_would() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start("plain", &authority, folder.path()).await;
    let program = program(&server.url, "").await;
    for (name, has_link) in [
        ("confirmation", true),
        ("invite", true),
        ("recovery", true),
        ("magic_link", true),
        ("email_change_new", true),
        ("email_change_current", true),
        ("reauthentication", false),
        ("already_registered", false),
        ("password_changed", false),
        ("email_changed", false),
        ("factor_added", false),
        ("factor_removed", false),
        ("recovery_code_used", false),
    ] {
        send(&program, &["--letter", name, "ann@example.org"]).await.expect(0);
        let letter = server.server.told().await;
        let text = letter["text"].as_str().expect("text");
        let link = "https://app.example.com/auth/verify?token=sample";
        assert_eq!(text.lines().any(|line| line == link), has_link, "{name}: {text}");
        assert!(field(&letter, "Subject")[0].contains("app.example.com"), "{letter}");
    }
    send(&program, &["--letter", "nonsense", "ann@example.org"]).await.expect(2);
}

#[tokio::test]
async fn what_is_asked_for_arrives_and_its_link_leads_back() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a temporary folder");
    authority.write(&folder.path().join("ca.pem"));
    let mut server = Server::start("starttls", &authority, folder.path()).await;
    let text = format!(
        "[links]\nsite_url = \"https://app.example.com\"\n[mail]\ntransport = \"smtp\"\n\
         url = {:?}\nfrom = \"no-reply@example.com\"\nca = {:?}",
        server.url,
        folder.path().join("ca.pem"),
    );
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).config(&text).start().await;
    let ask = async |email: &str| {
        gateway.post_json("/auth/otp", &json!({ "email": email })).await.expect(200)
    };
    ask("ann@example.org").await;
    let letter = server.server.told().await;
    assert_eq!(letter["to"], json!(["ann@example.org"]));
    let text = letter["text"].as_str().expect("text");
    let link = text.lines().find_map(|line| line.strip_prefix("http://127.0.0.1:8080"));
    let link = link.unwrap_or_else(|| panic!("no link in {text}"));
    let page = gateway.get(link).send().await.expect(200).text();
    assert!(page.contains("<button>Log in</button>"), "{page}");
    let (_, form) = link.split_once('?').expect("a query");
    let pressed = gateway.post("/auth/verify").body(form);
    let pressed = pressed.header("Content-Type", "application/x-www-form-urlencoded").send().await;
    let place = pressed.expect(303);
    let place = place.header("location").expect("a place");
    assert!(place.starts_with("https://app.example.com/#access_token="), "{place}");
    let store = gateway.store();
    let sent = until_events(&store, EventKind::MailSent, 1).await;
    assert_eq!(sent[0].event.reason.as_deref(), Some("magic_link"));

    // An address that its server does not know is given up, and nothing else waits for it.
    ask("gone@example.org").await;
    let failed = until_events(&store, EventKind::MailFailed, 1).await;
    assert_eq!(failed[0].event.reason.as_deref(), Some("refused"));
    ask("later@example.org").await;
    ask("bob@example.org").await;
    assert_eq!(server.server.told().await["to"], json!(["bob@example.org"]));
}

#[tokio::test]
async fn a_server_whose_certificate_is_not_believed_is_told_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    for security in ["starttls", "tls"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        authority.write(&folder.path().join("ca.pem"));
        other.write(&folder.path().join("other.pem"));
        let mut server = Server::start(security, &authority, folder.path()).await;
        let ca = |name: &str| format!("ca = {:?}", folder.path().join(name));
        let elsewhere = server.url.replace("localhost", "127.0.0.1");
        for (url, ca) in [
            (&server.url, ca("other.pem")),
            (&server.url, String::new()),
            (&elsewhere, ca("ca.pem")),
        ] {
            let told = send(&program(url, &ca).await, &["bob@example.org"]).await.expect(1);
            assert!(
                told.stderr.contains("no TLS with the mail server: invalid peer certificate"),
                "{told}"
            );
        }
        let wrong = server.url.replace("s3cr", "S3cr");
        let told =
            send(&program(&wrong, &ca("ca.pem")).await, &["bob@example.org"]).await.expect(1);
        assert!(told.stderr.contains("the mail server refused the login (535"), "{told}");
        assert!(!told.stderr.contains("S3cr"), "{told}");
        // The first letter that it got is the one after all those.
        send(&program(&server.url, &ca("ca.pem")).await, &["ann@example.org"]).await.expect(0);
        assert_eq!(server.server.told().await["to"], json!(["ann@example.org"]));
    }
}

#[tokio::test]
async fn a_server_that_offers_no_tls_gets_no_letter() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start("plain", &authority, folder.path()).await;
    let demanding = server.url.replace("?tls=none", "");
    let told = send(&program(&demanding, "").await, &["bob@example.org"]).await.expect(1);
    assert!(told.stderr.contains("offers no STARTTLS, and nothing is sent without TLS"), "{told}");
    send(&program(&server.url, "").await, &["ann@example.org"]).await.expect(0);
    assert_eq!(server.server.told().await["to"], json!(["ann@example.org"]));
}

#[tokio::test]
async fn a_refusal_says_whether_it_is_final_and_a_silent_server_is_left() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start("plain", &authority, folder.path()).await;
    let program = program(&server.url, "timeout = \"500ms\"").await;
    for (address, expected) in [
        (
            "gone@example.org",
            "error: the mail server refused the recipient (550 5.1.1): 5.1.1 <gone@example.org>: \
             no such user (trying it again would not help)\n",
        ),
        (
            "later@example.org",
            "error: the mail server refused the recipient (451 4.7.1): 4.7.1 greylisted, try again \
             (the fault is not this letter's)\n",
        ),
        (
            "slow@example.org",
            "error: the mail server took longer than 500ms: mail.timeout (the fault is not this \
             letter's)\n",
        ),
        (
            "änn@example.org",
            "error: the mail server knows no addresses beyond ASCII: it lacks SMTPUTF8 (trying it \
             again would not help)\n",
        ),
    ] {
        let told = send(&program, &[address]).await.expect(1);
        assert_eq!(told.stderr, expected);
    }
}

#[tokio::test]
async fn addresses_beyond_ascii_arrive_where_the_server_knows_them() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a temporary folder");
    authority.write(&folder.path().join("ca.pem"));
    let mut server = Server::start("tls", &authority, folder.path()).await;
    let program = program(&server.url, &format!("ca = {:?}", folder.path().join("ca.pem"))).await;
    for (address, to) in [
        ("änn@example.org", "änn@example.org"),
        ("ann@bücher.example", "ann@xn--bcher-kva.example"),
    ] {
        send(&program, &[address]).await.expect(0);
        assert_eq!(server.server.told().await["to"], json!([to]));
    }
}

#[tokio::test]
async fn no_address_and_no_name_adds_a_header_field_or_a_recipient() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start("plain", &authority, folder.path()).await;
    let texts = folder.path().join("texts");
    std::fs::create_dir(&texts).expect("the folder is ours");
    let subject = "Hello {{ email }}\r\nBcc: eve@example.org\n\nX: {{ email }}\n";
    std::fs::write(texts.join("test.subject.txt"), subject).expect("the folder is ours");
    let program = program(&server.url, &format!("templates = {texts:?}")).await;
    send(&program, &["ann@example.org"]).await.expect(0);
    let plain = server.server.told().await;
    assert_eq!(
        field(&plain, "Subject"),
        ["Hello ann@example.org Bcc: eve@example.org X: ann@example.org"]
    );
    assert_eq!(field(&plain, "Bcc"), [""; 0]);
    let names = |letter: &Value| {
        let fields = letter["header"].as_array().expect("fields").iter();
        fields.map(|field| field[0].clone()).collect::<Vec<_>>()
    };
    for address in [
        "ann@example.org\r\nBcc: eve@example.org",
        "ann@example.org\nRCPT TO:<eve@example.org>",
        "ann@example.org, eve@example.org",
        "Ann <ann@example.org>",
        "ann@[127.0.0.1]",
        "\"a\r\nBcc: eve\"@example.org",
    ] {
        let told = send(&program, &[address]).await;
        assert_eq!(told.code, Some(2), "{address:?}: {told}");
    }
    for address in ["\"a,b\"@example.org", "o'hara+x=?utf-8?q?=0A?=@example.org"] {
        if send(&program, &[address]).await.code == Some(0) {
            let letter = server.server.told().await;
            assert_eq!(names(&letter), names(&plain), "{letter}");
            assert_eq!(letter["to"].as_array().expect("addresses").len(), 1, "{letter}");
        }
    }
    let told = send(&program, &["ann@example.org"]).await.expect(0);
    assert_eq!(server.server.told().await["to"], json!(["ann@example.org"]), "{told}");
}

/// HMAC-SHA-256 by the letter of RFC 2104, so that nothing of the gateway checks itself.
pub(crate) fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let pad = |byte: u8| -> Vec<u8> {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
        block.to_vec()
    };
    let inner = Sha256::digest([pad(0x36), text.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

#[tokio::test]
async fn a_webhook_gets_letters_signed_and_in_the_form_that_others_know() {
    let receiver =
        Upstream::scripted(|_| reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
    let key = b"0123456789abcdef0123456789abcdef";
    let config = format!(
        "[links]\nsite_url = \"https://app.example.com\"\n[mail]\ntransport = \"webhook\"\n\
         [mail.webhook]\nurl = \"{}/hook?a=b\"\nsecret = \"v1,whsec_{}\"",
        receiver.url(),
        STANDARD.encode(key),
    );
    let program = Program::of(TestGateway::builder().config(&config)).await;
    send(&program, &["ann@example.org", "--letter", "recovery"]).await.expect(0);
    let seen = receiver.only();
    assert_eq!((&*seen.method, &*seen.target), ("POST", "/hook?a=b"));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    let header = |name: &str| seen.header(name).unwrap_or_else(|| panic!("no {name}"));
    let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
    let signed = [id.as_bytes(), b".", at.as_bytes(), b".", &seen.body].concat();
    let expected = format!("v1,{}", STANDARD.encode(hmac(key, &signed)));
    assert_eq!(header("webhook-signature"), expected);
    let age =
        portcullis::clock::Clock::system().now().as_second() - at.parse::<i64>().expect("seconds");
    assert!((0..60).contains(&age), "{at}");

    let body: Value = serde_json::from_slice(&seen.body).expect("JSON");
    assert_eq!((&body["to"], &body["letter"]), (&json!("ann@example.org"), &json!("recovery")));
    assert_eq!(body["user"]["email"], "ann@example.org");
    assert_eq!(
        body["email_data"],
        json!({
            "token": "000000", "token_hash": "sample", "redirect_to": "https://app.example.com",
            "email_action_type": "recovery", "site_url": "https://app.example.com",
            "token_new": "", "token_hash_new": "", "old_email": "",
        })
    );
    send(&program, &["ann@example.org", "--letter", "email_change_current"]).await.expect(0);
    let body: Value = serde_json::from_slice(&receiver.last().body).expect("JSON");
    let data = &body["email_data"];
    assert_eq!(
        (&data["email_action_type"], &data["token_hash"], &data["token_hash_new"]),
        (&json!("email_change"), &json!(""), &json!("sample"))
    );
}

#[tokio::test]
async fn without_a_way_for_letters_the_command_says_so() {
    let program = Program::of(TestGateway::builder()).await;
    let told = send(&program, &["ann@example.org"]).await.expect(2);
    assert!(told.stderr.contains("mail.transport is \"none\""), "{told}");
}

#[tokio::test]
async fn texts_with_mistakes_stop_a_check_and_a_start_with_file_and_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(at(name), text).expect("ours");
    write("recovery.txt", "Hello\n{{ confirmaton_url }}\n");
    let upstream = Upstream::echo().await;
    let text = format!("[mail]\ntemplates = {:?}", folder.path());
    let program =
        Program::of(TestGateway::builder().upstream("app", &upstream).config(&text)).await;
    let expected = format!("mail.templates: {}:2: undefined value", at("recovery.txt").display());
    for command in ["check", "serve"] {
        let told = program.run(&[command]).await.expect(2);
        assert!(told.stderr.contains(&expected), "{told}");
        assert!(told.stderr.contains("portcullis.toml:"), "{told}");
    }
    write("recovery.txt", "Hello\n{{ confirmation_url }}\n");
    program.run(&["check"]).await.expect(0);
    write("recovry.txt", "Hello\n");
    let told = program.run(&["check"]).await.expect(2);
    assert!(told.stderr.contains("recovry.txt: there is no such letter"), "{told}");
    std::fs::remove_dir_all(folder.path()).expect("the folder is ours");
    let told = program.run(&["check"]).await.expect(2);
    assert!(told.stderr.contains("cannot be read: No such file"), "{told}");
}

#[tokio::test]
async fn texts_with_mistakes_are_refused_at_a_reload() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("invite.html");
    std::fs::write(&file, "<p>{{ confirmation_url }}").expect("the folder is ours");
    let text = format!("[mail]\ntemplates = {:?}", folder.path());
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).config(&text).start().await;
    std::fs::write(&file, "<p>\n\n{{ confirmation_url }").expect("the folder is ours");
    let told = gateway.reload().await.json();
    assert_eq!(told["result"], "refused", "{told}");
    let expected = format!("mail.templates: {}:3: syntax error", file.display());
    assert!(told["errors"][0].as_str().expect("text").contains(&expected), "{told}");
    std::fs::write(&file, "<b>{{ confirmation_url }}").expect("the folder is ours");
    let told = gateway.reload().await.json();
    assert_eq!(told["result"], "reloaded", "{told}");
}
