//! Clients and servers that others made, on both sides of the gateway: what a user's own would do.
//!
//! Their scripts lie in `tests/clients`; each is a list of checks that ends at the first which does
//! not hold. A browser is tried with `PORTCULLIS_TEST_LONG` only, because of its size.

use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::foreign::{Foreign, Nginx, node, program, python, run};
use crate::harness::{Builder, Step, TestGateway, Upstream, reply};

/// Routes to what a script calls `/api/USER/...`.
const API: &str = "[[routes]]\npath = \"/api/{user_id}/{*rest}\"\nupstream = \"app\"\n\
                   websocket_token = true\n";

fn in_front_of(server: SocketAddr) -> Builder {
    TestGateway::builder()
        .servers("app", &[format!("http://{server}")])
        .known_secret()
        .config("[server]\nh2c = true")
}

/// What every script is told: where, who, with which token.
fn told(gateway: &TestGateway) -> [String; 3] {
    [gateway.address.to_string(), "u1".to_owned(), gateway.token("u1").sign()]
}

/// A gateway over TLS for `localhost`, and the certificate to trust.
fn with_tls(builder: Builder) -> (Builder, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
    let (certificate, key) = (builder.folder().join("cert.pem"), builder.folder().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("the folder is ours");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("the folder is ours");
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let builder = builder
        .config(&format!("[server.tls]\ncertificate = {certificate:?}\nprivate_key = {key:?}"));
    (builder, certificate)
}

/// curl, which must get an answer; gives its status, its version and its body.
async fn curl(arguments: &[&str]) -> (u16, String, String) {
    let told = ["-sS", "--max-time", "30", "-w", "\n%{http_code} %{http_version}"];
    let said = run(program("curl", &[&told[..], arguments].concat())).await;
    let (body, end) = said.rsplit_once('\n').expect("the last line is ours");
    let (status, version) = end.split_once(' ').expect("two words");
    (status.parse().expect("a status"), version.to_owned(), body.to_owned())
}

const HTTP_2: &str = "--http2-prior-knowledge";

#[tokio::test]
async fn curl_gets_its_answers() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .known_secret()
        .config("[server]\nh2c = true")
        .start()
        .await;
    let url = |path: &str| format!("http://{}{path}", gateway.address);
    let (own, other) = (url("/api/u1/a?b=c"), url("/api/u2/a"));
    let token = format!("Authorization: Bearer {}", gateway.token("u1").sign());
    let file = gateway.file("upload");
    let body = "0123456789abcdef".repeat(200_000);
    std::fs::write(&file, &body).expect("the folder is ours");
    let file = file.display().to_string();
    let data = format!("@{file}");
    // Asks by `Upgrade: h2c` and goes on with HTTP/1.1 when nobody takes it up.
    for (how, spoken) in
        [("--http1.1", "1.1"), ("--http1.0", "1.1"), ("--http2", "1.1"), (HTTP_2, "2")]
    {
        let (status, version, echo) = curl(&[how, "-H", &token, &own]).await;
        // An HTTP/1.0 request is answered by a server of its own version or of 1.1.
        assert!(version == spoken || how == "--http1.0", "{how}: {version}");
        assert_eq!(status, 200, "{how}: {echo}");
        let echo: Value = serde_json::from_str(&echo).expect("JSON");
        assert_eq!((&echo["method"], &echo["target"]), (&"GET".into(), &"/api/u1/a?b=c".into()));
        assert!(!echo.to_string().contains("h2c"), "{echo}");
        assert_eq!(curl(&[how, &own]).await.0, 401, "{how}");
        assert_eq!(curl(&[how, "-H", &token, &other]).await.0, 403, "{how}");
        assert_eq!(curl(&[how, "-I", "-H", &token, &own]).await.0, 200, "{how}");
        // With and without asking first, with a length and in chunks.
        let asks = "Expect: 100-continue";
        let count = upstream.count();
        for arguments in [
            &["--data-binary", &data][..],
            &["--data-binary", &data, "-H", "Expect:"],
            &["--data-binary", &data, "-H", asks],
            &["-T", &file],
            &["-T", &file, "-H", "Transfer-Encoding: chunked"],
        ] {
            if how == "--http1.0" && arguments.contains(&"Transfer-Encoding: chunked") {
                continue;
            }
            // `Upgrade` with a body is not curl's way.
            if how == "--http2" {
                continue;
            }
            let all = [&[how, "-H", &token, &own], arguments].concat();
            let (status, _, echo) = curl(&all).await;
            assert_eq!(status, 200, "{how} {arguments:?}: {}", &echo[..echo.len().min(500)]);
            let seen = upstream.last();
            assert!(seen.complete && seen.body == body.as_bytes(), "{how} {arguments:?}");
        }
        assert!(upstream.count() > count || how == "--http2");
        // Refused before the body: the answer is not lost in the upload.
        let refused = curl(&[how, "--data-binary", &data, &own]).await;
        assert_eq!(refused.0, 401, "{how}");
    }
}

#[tokio::test]
async fn curl_agrees_on_http_2_over_tls() {
    let upstream = Upstream::echo().await;
    for (config, version) in [("", "2"), ("[server]\nhttp2 = false", "1.1")] {
        let builder = TestGateway::builder().upstream("app", &upstream).known_secret();
        let (builder, certificate) = with_tls(builder.config(config));
        let gateway = builder.start().await;
        let url = format!("https://localhost:{}/api/u1/a", gateway.address.port());
        let token = format!("Authorization: Bearer {}", gateway.token("u1").sign());
        let trust = ["--ipv4", "--cacert", &certificate, "-H", &token, &url];
        let (status, spoken, echo) = curl(&trust).await;
        assert_eq!((status, &*spoken), (200, version), "{echo}");
        assert_eq!(upstream.last().header("x-forwarded-proto"), Some("https"));
        let old = curl(&[&["--http1.1"], &trust[..]].concat()).await;
        assert_eq!((old.0, &*old.1), (200, "1.1"));
    }
}

#[tokio::test]
async fn files_of_nginx_come_whole_in_parts_and_not_at_all() {
    let nginx = Nginx::start().await;
    let text = (0..40_000).map(|n| format!("line {n}\n")).collect::<Vec<_>>().concat();
    nginx.file("public/a.txt", text.as_bytes());
    let gateway = in_front_of(nginx.address).start().await;
    let url = format!("http://{}/public/a.txt", gateway.address);
    let big = gateway.file("big");
    std::fs::write(&big, vec![b'x'; 8 << 20]).expect("the folder is ours");
    let (big, small) = (big.display().to_string(), gateway.file("small").display().to_string());
    std::fs::write(&small, &text).expect("the folder is ours");
    for how in ["--http1.1", HTTP_2] {
        // More often than nginx keeps a connection.
        for _ in 0..20 {
            let (status, _, body) = curl(&[how, &url]).await;
            assert!(status == 200 && body == text, "{how}: {status}");
        }
        let (status, _, body) = curl(&[how, "-r", "10-19", &url]).await;
        assert_eq!((status, &*body), (206, &text[10..20]), "{how}");
        assert_eq!(curl(&[how, "-r", "99999999-", &url]).await.0, 416, "{how}");
        let (status, _, body) = curl(&[how, "--compressed", &url]).await;
        assert!(status == 200 && body == text, "{how}");
        let since = "If-Modified-Since: Fri, 01 Jan 2999 00:00:00 GMT";
        let (status, _, body) = curl(&[how, "-H", since, &url]).await;
        assert_eq!((status, &*body), (304, ""), "{how}");
        assert_eq!(curl(&[how, "-I", &url]).await.0, 200, "{how}");
        // Too large for nginx, which says so at once and hangs up.
        for asking in ["Expect:", "Expect: 100-continue", "Transfer-Encoding: chunked"] {
            let upload = format!("http://{}/public/upload/{}", gateway.address, how.len());
            let (status, _, body) = curl(&[how, "-H", asking, "-T", &big, &upload]).await;
            assert_eq!(status, 413, "{how} {asking}: {body}");
            let (status, _, body) = curl(&[how, "-H", asking, "-T", &small, &upload]).await;
            // Not every nginx is built with what stores uploads.
            assert!(matches!(status, 201 | 204 | 405), "{how} {asking}: {status} {body}");
        }
    }
}

/// Whether all of so many requests were answered well.
async fn h2load(arguments: &[&str], requests: usize) {
    let count = requests.to_string();
    let said = run(program("h2load", &[&["-n", &count], arguments].concat())).await;
    let done =
        format!("{requests} total, {requests} started, {requests} done, {requests} succeeded");
    assert!(said.contains(&done), "{said}");
    assert!(said.contains("0 failed, 0 errored, 0 timeout"), "{said}");
    assert!(said.contains(&format!("{requests} 2xx, 0 3xx, 0 4xx, 0 5xx")), "{said}");
}

#[tokio::test]
async fn h2load_sees_no_failure() {
    let upstream =
        Upstream::scripted(|_| reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await;
    let builder = || {
        TestGateway::builder()
            .upstream("app", &upstream)
            .known_secret()
            .config("[server]\nh2c = true\nworkers = 2")
    };
    let gateway = builder().start().await;
    let token = format!("authorization: Bearer {}", gateway.token("u1").sign());
    let url = format!("http://{}/api/u1/a", gateway.address);
    let file = gateway.file("body");
    std::fs::write(&file, vec![b'x'; 10_000]).expect("the folder is ours");
    let file = file.display().to_string();
    for (how, requests) in [
        (&["-m", "64", "-c", "4"][..], 2000),
        (&["-m", "100", "-c", "1"], 2000),
        (&["-m", "1", "-c", "20", "--h1"], 1000),
        (&["-m", "10", "-c", "4", "-d", &file], 500),
        // Windows of 1 KiB and of 64 KiB.
        (&["-m", "64", "-c", "2", "-w", "10", "-W", "16"], 1000),
    ] {
        h2load(&[how, &["-H", &token, &url]].concat(), requests).await;
    }
    let (builder, _) = with_tls(builder());
    let gateway = builder.start().await;
    let url = format!("https://localhost:{}/api/u1/a", gateway.address.port());
    h2load(&["-m", "64", "-c", "4", "-H", &token, &url], 1000).await;
}

#[tokio::test]
async fn httpx_understands_node_and_nginx() {
    let (_server, address) = Foreign::start(node("node_server.mjs", &[])).await;
    let nginx = Nginx::in_front_of(address).await;
    for upstream in [address, nginx.address] {
        let gateway = in_front_of(upstream).config(API).start().await;
        let told = told(&gateway);
        run(python("http_client.py", &told.each_ref().map(|text| &**text))).await;
    }
}

#[tokio::test]
async fn nodes_own_clients_are_served() {
    // It closes connections that were idle for 30 milliseconds, at the very moment of some requests.
    let (_server, address) = Foreign::start(node("node_server.mjs", &["30"])).await;
    let gateway = in_front_of(address).config(API).start().await;
    for check in ["http2", "races"] {
        let told = told(&gateway);
        let mut command = node("node_client.mjs", &told.each_ref().map(|text| &**text));
        command.env("CHECK", check);
        run(command).await;
    }
}

#[tokio::test]
async fn websockets_of_python_and_node_pass() {
    let (_server, address) = Foreign::start(python("ws_server.py", &[])).await;
    let gateway = in_front_of(address)
        .config(&format!(
            "{API}[[routes]]\npath = \"/plain/{{user_id}}/{{*rest}}\"\nupstream = \"app\"\n"
        ))
        .start()
        .await;
    let told = told(&gateway);
    let told = told.each_ref().map(|text| &**text);
    run(python("ws_client.py", &told)).await;
    let mut command = node("node_client.mjs", &told);
    command.env("CHECK", "sockets");
    run(command).await;
}

/// What a gRPC client is to make of a refusal (gRPC over HTTP/2: trailers only).
#[tokio::test]
async fn grpc_clients_understand_refusals() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .servers("down", &["http://127.0.0.1:1".to_owned()])
        .known_secret()
        .config("[server]\nh2c = true\n[limits]\nfew = { rate = \"2/hour\", by = \"ip\" }")
        .config(&format!(
            "{API}[[routes]]\npath = \"/down/{{*rest}}\"\nupstream = \"down\"\naccess = \"public\"\n\
             [[routes]]\npath = \"/limited/{{*rest}}\"\nupstream = \"down\"\naccess = \"public\"\n\
             limit = [\"few\"]\n"
        ))
        .start()
        .await;
    let [address, user, token] = told(&gateway);
    run(python("grpc_client.py", &["refusals", &address, &user, &token])).await;
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn grpc_calls_of_every_kind_pass() {
    let (_server, address) = Foreign::start(python("grpc_server.py", &[])).await;
    let gateway = in_front_of(address)
        .config("[upstreams.app]\nprotocol = \"h2c\"")
        .config(API)
        .start()
        .await;
    let [address, user, token] = told(&gateway);
    run(python("grpc_client.py", &["calls", &address, &user, &token])).await;
}

/// A page that tries what pages try, over one connection of HTTP/2, and says how it went.
const PAGE: &str = r#"<!doctype html><script>
const [user, token] = location.hash.slice(1).split(",");
const authorization = "Bearer " + token;
const must = (holds, what) => { if (!holds) throw new Error(what); };
async function check() {
  let answer = await fetch(`/api/${user}/a`, { headers: { authorization } });
  must(answer.status === 200 && (await answer.json()).target === `/api/${user}/a`, "fetch");
  answer = await fetch(`/api/${user}/a`, { method: "POST", headers: { authorization }, body: "x".repeat(1e6) });
  must((await answer.json()).body.length === 1e6, "upload");
  must((await fetch(`/api/${user}/a`)).status === 401, "no token");
  must((await fetch("/api/other/a", { headers: { authorization } })).status === 403, "other user");
  const cut = await fetch("/public/cut").then((a) => a.text()).then(() => false, () => true);
  must(cut, "a cut looked whole");
  await new Promise((resolve, reject) => {
    const events = new EventSource("/public/events");
    events.onmessage = (event) => { if (event.data === "2") { events.close(); resolve(); } };
    setTimeout(() => reject(new Error("events")), 10000);
  });
  await new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${location.host}/socket/${user}`, ["bearer", token]);
    let heard = 0;
    socket.onmessage = () => { heard += 1; if (heard === 2) socket.close(); else socket.send("hi"); };
    socket.onclose = () => (heard === 2 ? resolve() : reject(new Error("socket closed")));
    socket.onerror = () => reject(new Error("socket"));
  });
  return performance.getEntriesByType("navigation")[0].nextHopProtocol + " fine";
}
check().catch(String).then((body) => fetch("/public/result", { method: "POST", body }));
</script>"#;

#[tokio::test]
async fn a_browser_is_served() {
    if std::env::var_os("PORTCULLIS_TEST_LONG").is_none() {
        return;
    }
    let (_server, sockets) = Foreign::start(python("ws_server.py", &[])).await;
    let upstream = Upstream::scripted(|seen| match seen.path() {
        "/public/page" => reply(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{PAGE}",
            PAGE.len()
        )),
        "/public/events" => reply(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n\
             data: 0\n\ndata: 1\n\ndata: 2\n\n",
        )
        .into_iter()
        .chain([Step::Stall])
        .collect(),
        "/public/cut" => {
            let mut steps = reply("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
            steps.push(Step::Close);
            steps
        }
        "/public/result" => reply("HTTP/1.1 204 No Content\r\n\r\n"),
        _ => vec![Step::Echo],
    })
    .await;
    let builder = TestGateway::builder()
        .upstream("app", &upstream)
        .servers("sockets", &[format!("http://{sockets}")])
        .known_secret()
        .config(&format!(
            "{API}[[routes]]\npath = \"/public/{{*rest}}\"\nupstream = \"app\"\naccess = \"public\"\n\
             [[routes]]\npath = \"/socket/{{user_id}}\"\nupstream = \"sockets\"\nwebsocket_token = true\n"
        ));
    let (builder, _) = with_tls(builder);
    let gateway = builder.start().await;
    let profile = gateway.file("profile").display().to_string();
    let token = gateway.token("u1").sign();
    let url = format!("https://localhost:{}/public/page#u1,{token}", gateway.address.port());
    let browser = program(
        "chromium",
        &[
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-proxy-server",
            "--disable-background-networking",
            "--ignore-certificate-errors",
            "--host-resolver-rules=MAP localhost 127.0.0.1",
            "--remote-debugging-port=0",
            &format!("--user-data-dir={profile}"),
            &url,
        ],
    );
    let mut browser = browser;
    browser.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let _browser = crate::harness::program::Running(browser.spawn().expect("chromium starts"));
    // It starts slowly where it never was before.
    let result = "/public/result";
    for _ in 0..4 {
        let told = upstream.until("the page's result", |seen| {
            seen.iter().any(|seen| seen.path() == result && seen.complete)
        });
        if tokio::time::timeout(crate::harness::client::PATIENCE, told).await.is_ok() {
            break;
        }
    }
    let seen = upstream.seen().into_iter().find(|seen| seen.path() == result).expect("a result");
    assert_eq!(crate::harness::http::lossy(&seen.body), "h2 fine");
}
