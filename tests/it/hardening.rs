//! What hostile clients and broken surroundings try: to keep the hashing threads busy, to open
//! tunnels past the limit, to have refusals lost, to stop the gateway by not reading its logs.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::program::Program;
use crate::harness::{Gate, Step, TestGateway, Upstream, patiently, reply, write};

#[tokio::test]
async fn password_changes_are_limited_before_they_are_hashed() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[limits]\nlogin_account = { rate = \"3/hour\", by = \"account\" }")
        .start()
        .await;
    let caller = gateway.sign_up("ann").await;
    let change = json!({"password": "Another-1-Password"});
    let again = json!({"password": "Another-1-Password"});
    let put = |body: &serde_json::Value| {
        gateway.request("PUT", "/auth/user").bearer(&caller.token).json(body).send()
    };
    put(&change).await.expect(200);
    for _ in 0..2 {
        put(&again).await.expect_problem(422, "same_password");
    }
    put(&again).await.expect_problem(429, "over_request_rate_limit");
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\nmax_body_bytes = \"1KiB\"")
        .start()
        .await;
    for target in ["/public/a", "/api/u-1/a", "/auth/login", "/nowhere"] {
        let stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let sending = tokio::spawn(async move {
            let head =
                format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n");
            write.write_all(head.as_bytes()).await.unwrap();
            // Ends in an error when the gateway has had enough.
            let _ = write.write_all(&vec![b'x'; 3_000_000]).await;
            write
        });
        let _still_open = sending.await.unwrap();
        let mut answer = [0; 12];
        read.read_exact(&mut answer).await.unwrap_or_else(|error| panic!("{target}: {error}"));
        let status = std::str::from_utf8(&answer[9..]).unwrap();
        assert!(["401", "404", "413"].contains(&status), "{target}: {status}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_tunnel_is_a_connection_until_it_ends() {
    let upstream = Upstream::scripted(|_| vec![Step::WebSocket]).await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\nmax_connections = 2")
        .start()
        .await;
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        let url = format!("ws://{}/public/ws", gateway.address);
        let stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
        tunnels.push(tokio_tungstenite::client_async(url, stream).await.unwrap());
    }
    let mut refused = gateway.connect().await;
    if let Some(answer) = refused.try_answer("GET").await {
        assert_eq!(answer.status, 503);
    }
    refused.until_closed().await;
    tunnels.pop();
    patiently("the place of a tunnel that has ended", async {
        loop {
            let mut client = gateway.connect().await;
            client.send("GET /auth/health HTTP/1.1\r\nHost: a\r\n\r\n").await;
            if client.try_answer("GET").await.is_some_and(|answer| answer.status == 200) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_answers_and_stops_reading_delays_nobody_else() {
    let upstream = Upstream::scripted(|seen| match seen.method.as_str() {
        "POST" => vec![write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Step::Stall],
        _ => reply("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nfor"),
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let mut hostile = gateway.connect().await;
    hostile.send("POST /public/a HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\nabc").await;
    hostile.answer().await.expect(200);
    let answer = gateway.get("/public/b").send().await.expect(200);
    assert_eq!(answer.text(), "for");
}

#[tokio::test]
async fn diagnostics_that_nobody_reads_stop_nothing() {
    let program = Program::of(TestGateway::builder().servers(
        "app",
        // Nobody listens there, so every request ends in a 502 and a warning.
        &["http://127.0.0.1:9".to_owned()],
    ))
    .await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["serve", "--config"])
        .arg(program.folder().join("portcullis.toml"))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut client = patiently("the program", async {
        loop {
            if let Some(client) = crate::harness::Client::try_connect(program.public).await {
                return client;
            }
            crate::harness::auth::pause().await;
        }
    })
    .await;
    // A pipe holds 64 KiB; each warning has more than a hundred bytes, each line of the access log
    // more than two hundred.
    for _ in 0..1_500 {
        client.send("GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.answer().await.expect_problem(502, "upstream_unreachable");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    client.send("GET /auth/health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.answer().await.expect(200);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = patiently("the end of the program", async {
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            crate::harness::auth::pause().await;
        }
    })
    .await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_refused_body_does_not_cut_the_next_request_of_its_connection() {
    let gate = Gate::new();
    let script = gate.clone();
    let upstream = Upstream::scripted(move |_| {
        let mut steps = vec![Step::Wait(script.clone())];
        steps.extend(reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        steps
    })
    .await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .servers("gone", &["http://127.0.0.1:9".to_owned()])
        .config(
            "[[routes]]\npath = \"/gone\"\nupstream = \"gone\"\naccess = \"public\"\n\
             [[routes]]\npath = \"/slow\"\nupstream = \"app\"\naccess = \"public\"",
        )
        .start()
        .await;
    let mut client = gateway.connect().await;
    client.send("POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
    client.answer().await.expect_problem(502, "upstream_unreachable");
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // Longer than a connection is kept whose body nobody wants any more.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    gate.open();
    client.answer().await.expect(200);
}
