//! Letters handed over for real: to mail servers that do what is right, too little or too much, and
//! to a webhook. Complete servers of another maker are in `tests/it/mail.rs`.

use std::path::Path;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;

use super::*;
use crate::config;
use crate::outgoing::tests::{Certificate, listen};

fn compile(text: &str) -> Result<Mailer, Vec<Problem>> {
    let loaded = config::parse(text, Path::new("p.toml"), []);
    Mailer::compile(&loaded.unwrap_or_else(|error| panic!("{error}")).config)
}

fn mailer(text: &str) -> Mailer {
    compile(text).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn smtp(url: &str, more: &str) -> String {
    format!("[mail]\ntransport = \"smtp\"\nfrom = \"a@example.com\"\nurl = \"{url}\"\n{more}")
}

fn letter(kind: Template) -> Dispatch {
    Dispatch {
        id: "018f2d3e-0000-7000-8000-000000000001".parse().expect("a UUID"),
        kind,
        to: "ann@example.org".parse().expect("an address"),
        link: None,
        code: None,
        redirect_to: None,
        old_email: None,
        new_email: None,
        data: JsonObject::new(),
        user: Value::Null,
    }
}

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().expect("a time")
}

/// What a server answers, in order: after each answer it waits for a line (after `354`, for the
/// letter). Gives all that it was told.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: &[&str],
    until_silence: bool,
) -> String {
    let (mut stream, mut heard) = (BufStream::new(stream), String::new());
    for answer in answers {
        if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
            break;
        }
        let end = if answer.starts_with("354") { "\r\n.\r\n" } else { "\r\n" };
        let begin = heard.len();
        while !heard[begin..].ends_with(end) {
            if stream.read_line(&mut heard).await.unwrap_or(0) == 0 {
                return heard;
            }
        }
    }
    while until_silence && stream.read_line(&mut heard).await.unwrap_or(0) > 0 {}
    heard
}

const HELLO: &str = "250-mail.example.com\r\n250-AUTH PLAIN\r\n250 8BITMIME\r\n";

/// Sends one letter to a plain server on this machine that answers so.
async fn told(answers: &[&str], timeout: &str) -> (String, Result<Receipt, SendError>) {
    let (listener, address) = listen().await;
    let url = format!("smtp://{address}?tls=none");
    let mailer = mailer(&smtp(&url, &format!("timeout = \"{timeout}\"")));
    let letter = letter(Template::Test);
    let serving = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        converse(stream, answers, true).await
    };
    let sending = async {
        let outcome = mailer.send(&letter, now()).await;
        drop(mailer);
        outcome
    };
    let (heard, outcome) = tokio::join!(serving, sending);
    (heard, outcome)
}

const GOOD: [&str; 7] = [
    "220 mail.example.com\r\n",
    HELLO,
    "250 2.1.0 fine\r\n",
    "250 2.1.5 fine\r\n",
    "354 go on\r\n",
    "250 2.0.0 queued as 12AB\r\n",
    "221 bye\r\n",
];

#[tokio::test]
async fn a_letter_changes_hands() {
    let (heard, outcome) = told(&GOOD, "10s").await;
    let receipt = outcome.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(receipt.said, "250 2.0.0 queued as 12AB");
    assert!(
        heard.contains("\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\n")
    );
    assert!(heard.contains("\r\nSubject: A test of mail from 127.0.0.1\r\n"), "{heard}");
    assert!(heard.ends_with("\r\n.\r\nQUIT\r\n"), "{heard}");
}

#[tokio::test]
async fn what_a_refusal_means_depends_on_what_was_refused() {
    use Outlook::{Later, Never};
    for (step, answer, outlook, shown) in [
        (
            0,
            "554 5.7.1 you are on a list\r\n",
            Later,
            "the mail server does not serve us (554 5.7.1)",
        ),
        (0, "421 too many\r\n", Later, "the mail server does not serve us (421)"),
        (1, "502 what?\r\n", Later, "the mail server does not serve us (502)"),
        (
            2,
            "550 5.7.1 not your address\r\n",
            Later,
            "the mail server refused the sender (550 5.7.1)",
        ),
        (3, "451 4.7.1 greylisted\r\n", Later, "the mail server refused the recipient (451 4.7.1)"),
        (3, "452 full\r\n", Later, "the mail server refused the recipient (452)"),
        (
            3,
            "550-5.1.1 <ann@example.org>\r\n550 5.1.1 \u{1b}[31mno such user\r\n",
            Never,
            "the mail server refused the recipient (550 5.1.1)",
        ),
        (4, "554 5.5.1 no\r\n", Never, "the mail server refused the letter (554 5.5.1)"),
        (5, "554 5.7.1 spam\r\n", Never, "the mail server refused the letter (554 5.7.1)"),
        (5, "451 4.3.0 later\r\n", Later, "the mail server refused the letter (451 4.3.0)"),
        (3, "hello?\r\n", Later, "the connection to the mail server broke off"),
    ] {
        let answers = [&GOOD[..step], &[answer, "221 bye\r\n"]].concat();
        let (_, outcome) = told(&answers, "10s").await;
        let error = outcome.err().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!((error.outlook, error.to_string()), (outlook, shown.to_owned()), "{answer}");
        // The reply may quote the address; what is logged must not.
        assert!(!error.to_string().contains('@') && !error.said().contains('\u{1b}'), "{error:?}");
    }
}

#[tokio::test]
async fn every_step_ends_at_the_deadline() {
    for step in 0..6 {
        let mut answers = GOOD[..step].to_vec();
        let half = GOOD[step].trim_end().to_owned();
        answers.push(&half);
        let began = Instant::now();
        let (_, outcome) = told(&answers, "200ms").await;
        let error = outcome.err().unwrap_or_else(|| panic!("step {step}"));
        assert_eq!(error.outlook, Outlook::Later, "step {step}");
        assert_eq!(error.to_string(), "the mail server took longer than 200ms");
        assert!(began.elapsed() < Duration::from_secs(5), "step {step}");
    }
}

#[tokio::test]
async fn a_server_that_has_the_letter_need_not_say_goodbye() {
    let (_, outcome) = told(&GOOD[..6], "10s").await;
    assert!(outcome.is_ok());
}

/// Sends to a server that `serve` plays, by STARTTLS or TLS with its certificate.
async fn over_tls(
    scheme: &str,
    certificate: &Certificate,
    serve: impl AsyncFnOnce(TcpStream) -> String,
) -> (String, Result<Receipt, SendError>) {
    let (listener, address) = listen().await;
    let url = format!("{scheme}://ann:s3cr%40t@localhost:{}", address.port());
    let mailer = mailer(&smtp(&url, &format!("ca = {:?}\ntimeout = \"10s\"", certificate.ca)));
    let letter = letter(Template::Test);
    let serving = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        serve(stream).await
    };
    tokio::join!(serving, mailer.send(&letter, now()))
}

const OFFER: &str = "250-mail.example.com\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n";

#[tokio::test]
async fn the_password_and_the_letter_are_told_inside_tls_only() {
    let certificate = Certificate::of(&["localhost"]);
    let inside = ["235 2.7.0 welcome\r\n"];
    let good = |first: &[&'static str]| [first, &inside, &GOOD[2..]].concat();

    let (heard, outcome) = over_tls("smtps", &certificate, async |stream| {
        let stream = certificate.accept(stream).await.expect("a handshake");
        converse(stream, &good(&GOOD[..2]), true).await
    })
    .await;
    assert!(outcome.is_ok(), "{outcome:?}");
    let login = format!("AUTH PLAIN {}\r\n", STANDARD.encode("\0ann\0s3cr@t"));
    assert!(heard.contains(&login) && heard.contains("Subject: "), "{heard}");

    let (heard, outcome) = over_tls("smtp", &certificate, async |mut stream| {
        let plain = converse(&mut stream, &[GOOD[0], OFFER], false).await;
        assert!(plain.ends_with("\r\nSTARTTLS\r\n"), "{plain}");
        stream.write_all(b"220 go ahead\r\n").await.expect("a client");
        let stream = certificate.accept(stream).await.expect("a handshake");
        // After STARTTLS the client speaks first.
        let mut stream = BufStream::new(stream);
        let mut hello = String::new();
        stream.read_line(&mut hello).await.expect("a line");
        assert!(hello.starts_with("EHLO "), "{hello}");
        hello + &converse(stream, &good(&GOOD[1..2]), true).await
    })
    .await;
    assert!(outcome.is_ok(), "{outcome:?}");
    assert!(heard.contains(&login) && heard.contains("Subject: "), "{heard}");
}

#[tokio::test]
async fn without_starttls_nothing_is_said_that_matters() {
    let certificate = Certificate::of(&["localhost"]);
    for (answers, shown) in [
        (&[GOOD[0], HELLO][..], "the mail server offers no STARTTLS"),
        (&[GOOD[0], OFFER, "454 4.7.0 not now\r\n"], "the mail server offers no STARTTLS"),
        (&[GOOD[0], OFFER, "500 what?\r\n"], "the mail server offers no STARTTLS"),
        (&["554 no\r\n"], "the mail server does not serve us (554)"),
        (&["HTTP/1.1 400 Bad Request\r\n"], "the mail server does not serve us"),
        (&["220 a\r\n220 b\r\n"], "the mail server does not serve us"),
        // RFC 3207 §6, CVE-2021-38371: answers to what is to be said inside TLS.
        (&[GOOD[0], OFFER, "220 go\r\n250 AUTH PLAIN\r\n"], "no TLS with the mail server"),
        (&[GOOD[0], OFFER, "220 go\r\nx"], "no TLS with the mail server"),
    ] {
        let serve = async |stream| converse(stream, answers, true).await;
        let (heard, outcome) = over_tls("smtp", &certificate, serve).await;
        let error = outcome.err().unwrap_or_else(|| panic!("{answers:?}"));
        assert_eq!(error.outlook, Outlook::Later, "{answers:?}");
        assert!(error.to_string().starts_with(shown), "{answers:?}: {error}");
        for secret in ["AUTH", "MAIL", "Subject", "s3cr", "\u{16}"] {
            assert!(!heard.contains(secret), "{answers:?}: {heard}");
        }
    }
}

#[tokio::test]
async fn a_server_with_a_password_must_offer_a_login() {
    let certificate = Certificate::of(&["localhost"]);
    let bare = "250-mail.example.com\r\n250 8BITMIME\r\n";
    for (answers, shown) in [
        (vec![GOOD[0], bare], "the mail server offers no login with a password"),
        (
            vec![GOOD[0], HELLO, "535 5.7.8 wrong\r\n"],
            "the mail server refused the login (535 5.7.8)",
        ),
    ] {
        let (heard, outcome) = over_tls("smtps", &certificate, async |stream| {
            let stream = certificate.accept(stream).await.expect("a handshake");
            converse(stream, &answers, true).await
        })
        .await;
        let error = outcome.err().unwrap_or_else(|| panic!("{answers:?}"));
        assert_eq!((error.outlook, &*error.to_string()), (Outlook::Later, shown));
        assert!(!heard.contains("MAIL"), "{heard}");
    }
}

#[test]
fn what_is_wrong_with_the_configuration_is_told_without_its_secrets() {
    for (url, expected) in [
        ("mail.example.com", "must be smtps://"),
        ("http://mail.example.com", "must be smtps://"),
        ("smtp://", "has no usable host"),
        ("smtp://h:0", "has port 0"),
        ("smtp://h/s3cret", "must be smtps://"),
        ("smtps://u:s3cret@h?tls=none", "smtps:// is TLS"),
        ("smtp://h?tls=opportunistic", "tls=opportunistic would"),
        ("smtp://h?tls=no", "tls must be"),
        ("smtp://h?timeout=3", "takes no parameter but tls"),
        ("smtp://mail.example.com?tls=none", "tls=none is for this machine only"),
        ("smtp://10.0.0.1?tls=none", "tls=none is for this machine only"),
        ("smtp://u:s3cret@localhost?tls=none", "a password is never sent without TLS"),
        ("smtp://u@h", "needs both user and password"),
        ("smtp://:s3cret@h", "needs both user and password"),
        ("smtp://u:s3cret%FF@h", "the user or password is no UTF-8"),
    ] {
        let problems = compile(&smtp(url, "")).err().unwrap_or_else(|| panic!("{url}"));
        assert_eq!(problems.len(), 1, "{url}: {problems:?}");
        assert_eq!(problems[0].key, "mail.url");
        assert!(problems[0].message.starts_with(expected), "{url}: {}", problems[0].message);
        assert!(!problems[0].message.contains("s3cret"), "{url}");
    }
    for url in ["smtps://h", "smtp://h", "smtp://h?tls=required", "smtp://[::1]?tls=none"] {
        assert!(mailer(&smtp(url, "")).is_on(), "{url}");
    }
    assert!(!mailer("").is_on());

    let text = "[mail]\ntransport = \"smtp\"\nfrom = \"a b\"\nreply_to = \"<\"\nca = \"/nowhere\"\n\
                templates = \"/nowhere\"\nurl = \"x\"";
    let problems = compile(text).err().expect("problems");
    let mut keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["mail.ca", "mail.from", "mail.reply_to", "mail.templates", "mail.url"]);
    let text = "[mail]\ntransport = \"webhook\"\nca = \"/nowhere\"\n[mail.webhook]\n\
                url = \"http://h/s3cret\"\nsecret = \"s3cret\"";
    let problems = compile(text).err().expect("problems");
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["mail.webhook.url", "mail.webhook.secret", "mail.ca"]);
    assert!(problems.iter().all(|problem| !problem.message.contains("s3cret")));
}

#[test]
fn a_text_of_the_operator_that_fails_for_some_users_data_is_replaced() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = "{% if data.age %}Next year {{ data.age + 1 }}{% else %}Ageless{% endif %}";
    std::fs::write(folder.path().join("password_changed.txt"), text).expect("written");
    let templates = format!("templates = {:?}", folder.path());
    let mailer = mailer(&smtp("smtps://127.0.0.1:1", &templates));
    let written = |data: Value| {
        let data = data.as_object().expect("an object").clone();
        let letter = Dispatch { data, ..letter(Template::PasswordChanged) };
        mailer.write(&letter).expect("a letter").text
    };
    assert_eq!(written(serde_json::json!({ "age": 41 })), "Next year 42");
    assert_eq!(written(serde_json::json!({})), "Ageless");
    let instead = written(serde_json::json!({ "age": "one" }));
    assert!(instead.contains("password") && !instead.contains("Next year"), "{instead}");
}

#[tokio::test]
async fn a_letter_without_what_it_is_for_is_not_sent() {
    let mailer = mailer(&smtp("smtps://127.0.0.1:1", ""));
    for kind in Template::ALL.into_iter().filter(|kind| *kind != Template::Test) {
        let is_bare = !(kind.has_code() || kind.has_addresses());
        let error = mailer.send(&letter(kind), now()).await.expect_err("nobody listens there");
        let expected = if is_bare { Outlook::Later } else { Outlook::Never };
        assert_eq!(error.outlook, expected, "{}: {error}", kind.name());
    }
}

#[tokio::test]
async fn what_a_webhook_says_decides() {
    use tokio::io::AsyncReadExt as _;
    for (status, expected) in [
        (200, None),
        (204, None),
        (301, Some(Outlook::Later)),
        (400, Some(Outlook::Never)),
        (401, Some(Outlook::Later)),
        (404, Some(Outlook::Later)),
        (410, Some(Outlook::Never)),
        (413, Some(Outlook::Never)),
        (422, Some(Outlook::Never)),
        (429, Some(Outlook::Later)),
        (503, Some(Outlook::Later)),
    ] {
        let (listener, address) = listen().await;
        let mailer = mailer(&format!(
            "[mail]\ntransport = \"webhook\"\n[mail.webhook]\nurl = \"http://{address}/\"\n\
             secret = \"whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\""
        ));
        let letter = letter(Template::Test);
        let serving = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut seen = Vec::new();
            while !seen.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut seen).await.expect("a request"), 0);
            }
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("a client");
        };
        let ((), outcome) = tokio::join!(serving, mailer.send(&letter, now()));
        assert_eq!(outcome.err().map(|error| error.outlook), expected, "{status}");
    }
}
