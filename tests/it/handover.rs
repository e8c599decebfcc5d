//! Listeners that outlive a process: from the service manager, and from one process to the next.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::harness::{
    Client, End, Program, Request, TestGateway, Upstream, blocking, lossy, patiently, pause,
};

/// A process, and those that take its place.
struct Line {
    first: Child,
    /// Process ids, oldest first.
    ids: Vec<u32>,
    log: PathBuf,
}

impl Line {
    fn begin(mut command: Command, folder: &Path) -> Self {
        let log = folder.join("log");
        let file = File::create(&log).expect("the folder is ours");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let first = command.spawn().expect("the program runs");
        Self { ids: vec![first.id()], first, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("it is there")
    }

    async fn until_logged(&self, what: &str, times: usize) {
        patiently(what, async {
            while self.log().matches(what).count() < times {
                pause().await;
            }
        })
        .await;
    }

    /// Has the newest process start another in its place, and waits until it has.
    async fn replace(&mut self) {
        let times = self.ids.len();
        self.signal(Signal::USR2);
        self.until_logged("has taken over", times).await;
        let log = self.log();
        let (before, _) = log.rsplit_once(" has taken over").expect("it is there");
        let id = before.rsplit_once("process ").expect("it is named").1;
        self.ids.push(id.parse().expect("a number"));
    }

    fn signal(&self, signal: Signal) {
        let newest = i32::try_from(*self.ids.last().expect("some")).expect("an id");
        kill_process(Pid::from_raw(newest).expect("an id"), signal).expect("it runs");
    }

    async fn until_first_ends(&mut self) {
        patiently("the first process to end", async {
            loop {
                if let Some(status) = self.first.try_wait().expect("a child") {
                    assert_eq!(status.code(), Some(0), "{}", self.log());
                    return;
                }
                pause().await;
            }
        })
        .await;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.first.kill();
        let _ = self.first.wait();
        for &id in &self.ids[1..] {
            // Ours alone: nobody else's process can have been named in this log.
            let id = i32::try_from(id).ok().and_then(Pid::from_raw);
            if let Some(id) = id {
                let _ = kill_process(id, Signal::KILL);
            }
        }
    }
}

const CONFIG: &str = "[server]\nworkers = 2\ndrain_timeout = \"10s\"\n[log]\nlevel = \"info\"";

async fn until_ready(admin: SocketAddr) {
    patiently("the program to be ready", async {
        loop {
            if let Some(mut client) = Client::try_connect(admin).await {
                client.send("GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n").await;
                if client.try_answer("GET").await.is_some_and(|answer| answer.status == 200) {
                    return;
                }
            }
            pause().await;
        }
    })
    .await;
}

/// Requests without end, half of them on connections that stay, half on new ones.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn on(address: SocketAddr) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..8)
            .map(|n| {
                tokio::spawn(load(address, n % 2 == 0, Arc::clone(&stop), Arc::clone(&served)))
            })
            .collect();
        Self { stop, served, tasks }
    }

    async fn until_more(&self, more: usize) {
        let wanted = self.served.load(Relaxed) + more;
        patiently("requests to be served", async {
            while self.served.load(Relaxed) < wanted {
                pause().await;
            }
        })
        .await;
    }

    async fn errors(self) -> Vec<String> {
        self.stop.store(true, Relaxed);
        let mut errors = Vec::new();
        for task in self.tasks {
            errors.extend(task.await.expect("no panic"));
        }
        errors
    }
}

async fn load(
    address: SocketAddr,
    stays: bool,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut errors = Vec::new();
    let mut kept: Option<Client> = None;
    while !stop.load(Relaxed) {
        let reused = kept.is_some();
        let connected = match kept.take() {
            Some(client) => Some(client),
            None => Client::try_connect(address).await,
        };
        let Some(mut client) = connected else {
            errors.push("refused".to_owned());
            continue;
        };
        client.send("GET /public/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
        match client.try_answer("GET").await {
            Some(answer) if answer.status == 200 && answer.end == End::Complete => {
                served.fetch_add(1, Relaxed);
                let closes = answer.header("connection").is_some_and(|how| how == "close");
                kept = (stays && !closes).then_some(client);
            }
            Some(answer) => errors.push(format!("{} {:?}", answer.status, answer.text())),
            // A connection may be closed at any time between two requests, so clients send again
            // what came to nothing on one that they had kept (RFC 9110 §9.2.2).
            None if reused => {}
            None => errors.push("no answer on a new connection".to_owned()),
        }
    }
    errors
}

#[tokio::test]
async fn a_restart_under_load_is_not_noticed() {
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream).config(CONFIG);
    let program = Program::of(builder).await;
    let mut line = Line::begin(program.command(&["serve"]), program.folder());
    until_ready(program.admin).await;
    let load = Load::on(program.public);
    load.until_more(50).await;
    for _ in 0..2 {
        line.replace().await;
        load.until_more(50).await;
        Request::new(program.admin, "GET", "/health/ready").send().await.expect(200);
    }
    line.until_first_ends().await;
    load.until_more(50).await;
    let errors = load.errors().await;
    assert!(errors.is_empty(), "{errors:?}\n{}", line.log());
    assert_eq!(line.ids.len(), 3);
}

#[tokio::test]
async fn a_running_request_is_finished_by_the_old_process() {
    let gate = crate::harness::Gate::new();
    let wait = gate.clone();
    let upstream = Upstream::scripted(move |seen| {
        use crate::harness::{Step, write};
        let answer = write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        match seen.path() {
            "/public/slow" => vec![Step::Wait(wait.clone()), answer],
            _ => vec![answer],
        }
    })
    .await;
    let builder = TestGateway::builder().upstream("app", &upstream).config(CONFIG);
    let program = Program::of(builder).await;
    let mut line = Line::begin(program.command(&["serve"]), program.folder());
    until_ready(program.admin).await;
    let slow = tokio::spawn(Request::new(program.public, "GET", "/public/slow").send());
    upstream.until("the request", |seen| seen.len() == 1).await;
    line.replace().await;
    Request::new(program.public, "GET", "/public/new").send().await.expect(200);
    assert!(line.first.try_wait().expect("a child").is_none(), "it waits for its request");
    gate.open();
    assert_eq!(slow.await.expect("no panic").expect(200).text(), "ok");
    line.until_first_ends().await;
}

#[tokio::test]
async fn a_new_process_that_does_not_start_changes_nothing() {
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream).config(CONFIG);
    let program = Program::of(builder).await;
    let file = program.folder().join("portcullis.toml");
    let good = std::fs::read_to_string(&file).expect("it is there");
    let mut line = Line::begin(program.command(&["serve"]), program.folder());
    until_ready(program.admin).await;
    std::fs::write(&file, format!("nonsense = 1\n{good}")).expect("the folder is ours");
    line.signal(Signal::USR2);
    line.until_logged("this process goes on", 1).await;
    let log = line.log();
    assert!(log.contains("nonsense: unknown key"), "{log}");
    assert!(log.contains("the new process did not start"), "{log}");
    Request::new(program.public, "GET", "/public/a").send().await.expect(200);
    Request::new(program.admin, "GET", "/health/ready").send().await.expect(200);

    std::fs::write(&file, good).expect("the folder is ours");
    line.replace().await;
    line.until_first_ends().await;
    Request::new(program.public, "GET", "/public/a").send().await.expect(200);
}

async fn get_over(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).await.expect("somebody listens");
    let request = "GET /public/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("the connection stands");
    let mut answer = Vec::new();
    patiently("the answer", stream.read_to_end(&mut answer)).await.expect("a proper end");
    lossy(&answer)
}

#[tokio::test]
async fn the_file_of_a_socket_stays_until_the_last_process_ends() {
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream).config(CONFIG);
    let socket = builder.folder().join("http.sock");
    let program = Program::of(builder).await;
    let file = program.folder().join("portcullis.toml");
    let text = std::fs::read_to_string(&file).expect("it is there").replacen(
        "listen = [",
        &format!("listen = [\"unix:{}\", ", socket.display()),
        1,
    );
    std::fs::write(&file, text).expect("the folder is ours");
    let mut line = Line::begin(program.command(&["serve"]), program.folder());
    until_ready(program.admin).await;
    assert!(get_over(&socket).await.starts_with("HTTP/1.1 200 "));
    line.replace().await;
    line.until_first_ends().await;
    assert!(get_over(&socket).await.starts_with("HTTP/1.1 200 "));
    line.signal(Signal::TERM);
    patiently("the file to go", async {
        while socket.exists() {
            pause().await;
        }
    })
    .await;
}

/// `command` as the service manager starts it, with `sockets` from number 3 on. Two at most.
fn activated(command: &Command, sockets: Vec<OwnedFd>) -> Command {
    let count = sockets.len();
    let mut sockets = sockets.into_iter();
    let mut shell = Command::new("/bin/sh");
    // `exec` keeps the process id.
    shell.args([
        "-c",
        "exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$; export LISTEN_PID; exec \"$@\"",
        "sh",
    ]);
    shell.arg(command.get_program()).args(command.get_args()).env("LISTEN_FDS", count.to_string());
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let null = || Stdio::null();
    shell.stdin(sockets.next().map_or_else(null, Stdio::from));
    shell.stdout(sockets.next().map_or_else(null, Stdio::from));
    shell
}

#[tokio::test]
async fn sockets_of_the_service_manager_are_used_with_what_waits_in_them() {
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream).config(CONFIG);
    let socket = builder.folder().join("http.sock");
    let program = Program::of(builder).await;
    let file = program.folder().join("portcullis.toml");
    let text = std::fs::read_to_string(&file).expect("it is there").replacen(
        "listen = [",
        &format!("listen = [\"unix:{}\", ", socket.display()),
        1,
    );
    std::fs::write(&file, text).expect("the folder is ours");
    let tcp = TcpListener::bind(program.public).expect("it is free");
    let unix = UnixListener::bind(&socket).expect("it is free");
    // Before there is a process.
    let mut early = Client::connect(program.public).await;
    early.send("GET /public/early HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut command = activated(&program.command(&["serve"]), vec![tcp.into(), unix.into()]);
    let log = File::create(program.folder().join("log")).expect("the folder is ours");
    let child = command.stderr(log).spawn().expect("the program runs");
    drop(command);
    let mut line = Line { ids: vec![child.id()], first: child, log: program.folder().join("log") };
    early.answer().await.expect(200);
    assert!(get_over(&socket).await.starts_with("HTTP/1.1 200 "));
    until_ready(program.admin).await;
    line.replace().await;
    line.until_first_ends().await;
    early.until_closed().await;
    Request::new(program.public, "GET", "/public/late").send().await.expect(200);
    line.signal(Signal::TERM);
    patiently("the end", async {
        while Client::try_connect(program.public).await.is_some() {
            pause().await;
        }
    })
    .await;
    assert!(socket.exists(), "it is the service manager's");
}

#[tokio::test]
async fn a_socket_without_a_place_in_the_configuration_is_refused() {
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream).config(CONFIG);
    let program = Program::of(builder).await;
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("bound");
    let mut command = activated(&program.command(&["serve"]), vec![other.into()]);
    let running = blocking(move || command.stderr(Stdio::piped()).output().expect("it runs"));
    let output = patiently("the program to end", running).await;
    let told = lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&address.to_string()) && told.contains("server.listen"), "{told}");
}
