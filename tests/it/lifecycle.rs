//! How the gateway starts, says what it did, and stops; also as the program that operators run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::harness::{
    Answer, Builder, End, Gate, PASSWORD, Request, Step, TestGateway, Upstream, blocking,
    patiently, write,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An upstream that answers when the gate opens.
async fn held_up() -> (Upstream, Gate) {
    let gate = Gate::new();
    let wait = gate.clone();
    let script = move |_: &_| vec![Step::ReadBody, Step::Wait(wait.clone()), write(OK)];
    (Upstream::scripted(script).await, gate)
}

/// Waits until nobody accepts connections at `address`.
async fn until_refused(address: SocketAddr) {
    patiently("the listener to close", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_running_request_finishes_and_no_new_one_is_accepted() {
    let (upstream, gate) = held_up().await;
    let mut gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\ndrain_timeout = \"10s\"")
        .start()
        .await;
    let mut running = gateway.connect().await;
    running.send("GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    upstream.until("the request", |seen| seen.len() == 1).await;
    let stopping = gateway.shut_down();
    until_refused(gateway.address).await;
    assert!(!stopping.is_finished(), "it waits for the running request");
    gate.open();
    let answer = running.answer().await.expect(200);
    assert_eq!((&*answer.body, answer.end), (&b"ok"[..], End::Complete));
    assert!(answer.header("connection").is_some_and(|how| how.eq_ignore_ascii_case("close")));
    assert!(running.until_closed().await.is_empty());
    patiently("the end", stopping).await.expect("it stops in peace");
    until_refused(gateway.admin).await;
    upstream.until_disconnected().await;
}

#[tokio::test]
async fn idle_connections_are_closed_at_once() {
    let upstream = Upstream::echo().await;
    let mut gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\ndrain_timeout = \"60s\"")
        .start()
        .await;
    let mut idle = gateway.connect().await;
    gateway.get("/public/a").send_over(&mut idle).await.expect(200);
    let mut new = gateway.connect().await;
    let stopping = gateway.shut_down();
    assert!(idle.until_closed().await.is_empty());
    assert!(new.until_closed().await.is_empty());
    patiently("the end", stopping).await.expect("it stops in peace");
}

#[tokio::test]
async fn a_tunnel_is_cut_off_in_the_end() {
    let upstream = Upstream::scripted(|_| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        vec![write(head), Step::EchoBytes]
    })
    .await;
    let mut gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\ndrain_timeout = \"300ms\"")
        .start()
        .await;
    let mut client = gateway.connect().await;
    client
        .send(
            "GET /public/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    client.head("GET").await.expect(101);
    let stopping = gateway.shut_down();
    client.until_closed().await;
    patiently("the end", stopping).await.expect("it stops in peace");
    upstream.until_disconnected().await;
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_off_in_the_end() {
    let (upstream, _gate) = held_up().await;
    let mut gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\ndrain_timeout = \"300ms\"")
        .start()
        .await;
    let mut running = gateway.connect().await;
    running.send("GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    upstream.until("the request", |seen| seen.len() == 1).await;
    let stopping = gateway.shut_down();
    patiently("the end", stopping).await.expect("it stops in peace");
    running.until_closed().await;
    upstream.until("its end", |seen| seen[0].abandoned).await;
}

#[tokio::test]
async fn balancers_are_told_before_the_door_closes() {
    let upstream = Upstream::echo().await;
    let mut gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\ndrain_delay = \"1s\"\ndrain_timeout = \"5s\"")
        .start()
        .await;
    gateway.admin_get("/health/ready").await.expect(200);
    let stopping = gateway.shut_down();
    patiently("readiness to go", async {
        while gateway.admin_get("/health/ready").await.status != 503 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gateway.admin_get("/health/live").await.expect(200);
    gateway.get("/public/a").send().await.expect(200);
    assert!(!stopping.is_finished());
    patiently("the end", stopping).await.expect("it stops in peace");
    until_refused(gateway.address).await;
}

#[tokio::test]
async fn every_request_is_one_line_with_the_contracts_fields() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let session = uuid::Uuid::new_v4().to_string();
    let token = gateway.token("u1").claim("session_id", &*session).sign();
    let request = gateway
        .post("/api/u1/tasks?secret=hush&access_token=hush")
        .bearer(&token)
        .header("User-Agent", "test/1 \"quoted\"")
        .body("abc");
    let answer: Answer = request.send().await.expect(200);
    let line = gateway.log_line(|line| line["path"] == "/api/u1/tasks").await;
    for (field, value) in [
        ("level", Value::from("info")),
        ("request_id", answer.header("x-request-id").expect("an id").into()),
        ("client", "127.0.0.1".into()),
        ("method", "POST".into()),
        ("route", "/api/{user_id}/{*rest}".into()),
        ("status", 200.into()),
        ("decision", "allow".into()),
        ("user_id", "u1".into()),
        ("session_id", session.into()),
        ("upstream_status", 200.into()),
        ("bytes_in", 3.into()),
        ("bytes_out", answer.body.len().into()),
        ("user_agent", "test/1 \"quoted\"".into()),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert!(line["time"].as_str().is_some_and(|time| time.starts_with("2026-11-21T10:00:00")));
    assert!(line["reason"].is_string() && line["upstream"].is_string(), "{line}");
    let ms = |field: &str| line[field].as_f64().expect("a number");
    assert!(ms("duration_ms") >= ms("upstream_ms") && ms("upstream_ms") > 0.0, "{line}");
    let log = gateway.log_text();
    for secret in ["hush", &token, &token[token.rfind('.').expect("dots")..], "Bearer"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test]
async fn refusals_are_logged_with_their_reason() {
    let (upstream, _gate) = held_up().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .known_secret()
        .config("[upstreams.app]\nresponse_timeout = \"200ms\"")
        .start()
        .await;
    let token = gateway.token("u1").sign();
    let secret = "Sup3rSecretPassw0rd";
    let body = serde_json::json!({ "email": "ann@example.com", "password": secret });
    gateway.post("/auth/login").json(&body).send().await.expect(401);
    for (target, bearer, status) in [
        ("/private/none", None, 401),
        ("/private/bad", Some("a.b.c"), 401),
        ("/api/u2/other", Some(&*token), 403),
        ("/unknown", None, 404),
        ("/public/../dots", None, 400),
        ("/public/slow", None, 504),
    ] {
        let request = gateway.get(target);
        let request = bearer.iter().fold(request, Request::bearer);
        let answer = request.send().await.expect(status);
        let id = answer.header("x-request-id").expect("an id").to_owned();
        let line = gateway.log_line(|line| line["request_id"] == id).await;
        assert_eq!(line["status"], status, "{line}");
        let decision = if status == 504 { "allow" } else { "deny" };
        assert_eq!(line["decision"], decision, "{line}");
        assert!(line["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{line}");
        assert!(line["user_id"] == Value::Null || line["user_id"] == "u1", "{line}");
    }
    gateway.log_line(|line| line["path"] == "/auth/login").await;
    let log = gateway.log_text();
    for secret in [secret, &token, "ann@example.com", "a.b.c"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test]
async fn a_request_whose_client_went_away_is_logged_too() {
    let upstream = Upstream::scripted(|seen| match seen.path() {
        "/public/silent" => vec![Step::Stall],
        _ => vec![write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Step::Stall],
    })
    .await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    for (n, target) in ["/public/silent", "/public/begun"].into_iter().enumerate() {
        let mut client = gateway.connect().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        upstream.until("the request", |seen| seen.len() > n).await;
        if n == 1 {
            client.head("GET").await.expect(200);
        }
        drop(client);
        let line = gateway.log_line(|line| line["path"] == target).await;
        assert_ne!(line["status"] == 200, n == 0, "nothing was answered: {line}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_turned_away() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\nmax_connections = 2")
        .start()
        .await;
    let (mut one, mut two) = (gateway.connect().await, gateway.connect().await);
    for client in [&mut one, &mut two] {
        gateway.get("/public/a").send_over(client).await.expect(200);
    }
    let mut three = gateway.connect().await;
    if let Some(answer) = three.try_answer("GET").await {
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    three.until_closed().await;
    for client in [&mut one, &mut two] {
        gateway.get("/public/a").send_over(client).await.expect(200);
    }
    drop(one);
    patiently("room", async {
        loop {
            let mut client = gateway.connect().await;
            client.send("GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
            if client.try_answer("GET").await.is_some_and(|answer| answer.status == 200) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn every_listener_serves() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config("[server]\nlisten = [\"127.0.0.1:0\", \"[::1]:0\"]\nworkers = 2")
        .start()
        .await;
    assert_eq!(gateway.addresses.len(), 2);
    for &address in &gateway.addresses {
        Request::new(address, "GET", "/public/a").send().await.expect(200);
        let forwarded = upstream.last().header("x-forwarded-for").map(str::to_owned);
        assert_eq!(forwarded, Some(address.ip().to_string()));
    }
}

#[tokio::test]
async fn a_line_cannot_be_forged() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let forged = "x\",\"status\":1,\"a\":\"\\\u{e4}\u{9b}31m";
    gateway.get("/public/a\"b").header("User-Agent", forged).send().await;
    gateway.get("/public/c").header("User-Agent", forged).send().await.expect(200);
    let line = gateway.log_line(|line| line["path"] == "/public/c").await;
    assert_eq!(line["status"], 200);
    assert!(gateway.log_text().is_ascii());
    assert!(line["user_agent"].as_str().is_some_and(|agent| agent.starts_with("x\",\"status\"")));
}

// The program.

/// A configuration file and the ports it names.
struct Program {
    builder: Builder,
    file: PathBuf,
    public: SocketAddr,
    admin: SocketAddr,
}

impl Program {
    /// A program in front of `upstream`, with `config` added.
    async fn new(upstream: &Upstream, config: &str) -> Self {
        // The program is told a number, so it cannot choose one itself.
        let ports = crate::harness::program::free_addresses().await;
        let builder = TestGateway::builder()
            .upstream("app", upstream)
            .known_secret()
            .config(&format!(
                "[server]\nlisten = [\"{}\"]\n[admin]\nlisten = \"{}\"",
                ports[0], ports[1]
            ))
            .config(config);
        let file = builder.folder().join("portcullis.toml");
        std::fs::write(&file, builder.to_toml()).expect("the folder is ours");
        Self { builder, file, public: ports[0], admin: ports[1] }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.arg("--config").arg(&self.file).current_dir(self.builder.folder());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        output(self.command(arguments)).await
    }

    /// Runs `serve` and waits until it is ready.
    async fn serve(&self) -> Running {
        let mut command = self.command(&["serve"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut running = Running(Some(child.expect("the program runs")));
        patiently("the program to be ready", async {
            while TcpStream::connect(self.admin).await.is_err()
                || Request::new(self.admin, "GET", "/health/ready").send().await.status != 200
            {
                let child = running.0.as_mut().expect("it runs");
                assert!(child.try_wait().expect("a child").is_none(), "{:?}", running.output());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        running
    }
}

/// A program that does not outlive its test.
struct Running(Option<Child>);

impl Running {
    fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.0.as_ref().expect("it runs"))
    }

    fn terminate(&self) {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM)
            .expect("it is ours");
    }

    fn output(&mut self) -> Output {
        self.0.take().expect("it runs").wait_with_output().expect("a child")
    }

    async fn ended(mut self) -> Output {
        let child = self.0.take().expect("it runs");
        let waiting = blocking(move || child.wait_with_output().expect("a child"));
        patiently("the program to end", waiting).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PORTCULLIS_") {
            command.env_remove(name);
        }
    }
    command
}

async fn output(mut command: Command) -> Output {
    let running =
        blocking(move || command.stdin(Stdio::null()).output().expect("the program runs"));
    patiently("the program to end", running).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn the_program_serves_until_it_is_told_to_stop() {
    let (upstream, gate) = held_up().await;
    let program = Program::new(&upstream, "[server]\ndrain_timeout = \"10s\"").await;
    let running = program.serve().await;
    assert_eq!(program.run(&["healthcheck"]).await.status.code(), Some(0));
    let body = serde_json::json!({ "email": "ann@example.com", "password": PASSWORD });
    Request::new(program.public, "POST", "/auth/signup").json(&body).send().await.expect(201);
    // A request that runs while the signal comes is answered.
    let request = Request::new(program.public, "GET", "/public/a").send();
    let (answer, ()) = tokio::join!(request, async {
        upstream.until("the request", |seen| seen.len() == 1).await;
        running.terminate();
        until_refused(program.public).await;
        gate.open();
    });
    assert_eq!(answer.expect(200).text(), "ok");
    let Output { status, stdout, stderr } = running.ended().await;
    assert_eq!(status.code(), Some(0), "{}", text(&stderr));
    let lines: Vec<Value> = text(&stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let paths: Vec<_> = lines.iter().map(|line| line["path"].as_str().expect("a path")).collect();
    assert_eq!(paths, ["/auth/signup", "/public/a"], "the log is complete when the program ends");
    for secret in [PASSWORD, "ann@example.com"] {
        assert!(!text(&stderr).contains(secret) && !text(&stdout).contains(secret), "{secret}");
    }
    assert_eq!(program.run(&["healthcheck"]).await.status.code(), Some(1));
}

#[tokio::test]
async fn a_second_program_on_the_same_port_says_so_and_ends() {
    let upstream = Upstream::echo().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("bound");
    let program = Program::new(&upstream, &format!("[server]\nlisten = [\"{address}\"]")).await;
    let Output { status, stderr, .. } = program.run(&["serve"]).await;
    assert_eq!(status.code(), Some(1), "{}", text(&stderr));
    assert!(text(&stderr).contains(&address.to_string()), "{}", text(&stderr));
}

const TESTED: &str = r#"
[[tests]]
request = "GET /api/u1/tasks"
as = "u1"
expect = "allow"
[[tests]]
request = "GET /api/u2/tasks"
as = "u1"
expect = 403
"#;

#[tokio::test]
async fn check_tells_good_failing_and_broken_configurations_apart() {
    let upstream = Upstream::echo().await;
    let program = Program::new(&upstream, TESTED).await;
    let Output { status, stdout, stderr } = program.run(&["check"]).await;
    assert_eq!(status.code(), Some(0), "{}", text(&stderr));
    assert!(text(&stdout).contains("/api/{user_id}/{*rest}"), "{}", text(&stdout));
    let connected = program.run(&["check", "--connect"]).await;
    assert_eq!(connected.status.code(), Some(0), "{}", text(&connected.stderr));

    let failing = TESTED.replace("expect = 403", "expect = \"allow\"");
    let program = Program::new(&upstream, &failing).await;
    let Output { status, stdout, stderr } = program.run(&["check"]).await;
    assert_eq!(status.code(), Some(1));
    let told = text(&stdout) + &text(&stderr);
    assert!(told.contains("/api/u2/tasks") && told.contains("403"), "{told}");

    let program = Program::new(&upstream, "").await;
    let good = std::fs::read_to_string(&program.file).expect("we wrote it");
    let broken = good.replace("drain_timeout", "drain_timeuot") + "\n[unknown]\nkey = 1\n";
    std::fs::write(&program.file, broken).expect("the folder is ours");
    let Output { status, stderr, .. } = program.run(&["check"]).await;
    assert_eq!(status.code(), Some(2));
    let told = text(&stderr);
    for part in ["portcullis.toml", "drain_timeuot", "drain_timeout", "unknown"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let served = program.run(&["serve"]).await;
    assert_eq!(served.status.code(), Some(2), "what check refuses, serve does not run");
}

#[tokio::test]
async fn mistakes_of_usage_are_2() {
    for arguments in [&["unknown"][..], &[], &["check", "--unknown"], &["explain", "GET"]] {
        let ended = output(program(arguments)).await;
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", text(&ended.stderr));
    }
    let missing = output(program(&["check", "--config", "/nonexistent/portcullis.toml"])).await;
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("/nonexistent/portcullis.toml"));
    let help = output(program(&["--help"])).await;
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("serve"));
}

#[tokio::test]
async fn explain_decides_as_the_gateway_does() {
    let upstream = Upstream::echo().await;
    let program = Program::new(&upstream, "").await;
    for (arguments, code, words) in [
        (&["explain", "GET", "/public/a"][..], 0, &["/public/{*rest}"][..]),
        (&["explain", "GET", "/api/u1/tasks", "--as", "u1"], 0, &["/api/{user_id}/{*rest}"]),
        (&["explain", "GET", "/api/u2/tasks", "--as", "u1"], 1, &["403"]),
        (&["explain", "GET", "/api/u2/tasks"], 1, &["401"]),
        (&["explain", "GET", "/unknown"], 1, &["404"]),
        (&["explain", "GET", "/public/../a"], 1, &["400"]),
    ] {
        let ended = program.run(arguments).await;
        let told = text(&ended.stdout) + &text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {told}");
        for word in words {
            assert!(told.contains(word), "{arguments:?}: no {word} in {told}");
        }
        let json = program.run(&[arguments, &["--json"]].concat()).await;
        assert_eq!(json.status.code(), Some(code), "{arguments:?} --json");
        serde_json::from_slice::<Value>(&json.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", text(&json.stdout)));
    }
}

#[tokio::test]
async fn healthcheck_fails_where_nothing_runs() {
    let upstream = Upstream::echo().await;
    let program = Program::new(&upstream, "").await;
    assert_eq!(program.run(&["healthcheck"]).await.status.code(), Some(1));
}
