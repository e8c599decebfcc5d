//! A real Redis for tests. A missing server is a failure, never a skip.
//!
//! [`Redis`] is shared by all tests of the process, each under its own key prefix: the server
//! named by `PORTCULLIS_TEST_REDIS`, else a private one on a Unix socket, started on demand.
//! [`OwnRedis`] and [`OwnCluster`] belong to one test, which may stop and kill them.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use portcullis::config::Counters;
use rustix::process::{Pid, Signal, kill_process};

use super::watchdog::{Watchdog, random_name, server_folder};

/// Longest wait for a server to answer: generous, as it only ends runs that fail anyway.
const STARTUP: Duration = Duration::from_secs(20);

/// The shared server, under a prefix of one's own.
pub(crate) struct Redis {
    url: String,
    key_prefix: String,
}

impl Redis {
    /// A prefix that no other test has.
    pub(crate) fn new() -> Self {
        static SHARED: OnceLock<(String, Option<OwnRedis>)> = OnceLock::new();
        let (url, _) = SHARED.get_or_init(|| match std::env::var("PORTCULLIS_TEST_REDIS") {
            Ok(url) if !url.is_empty() => (url, None),
            _ => {
                let own = OwnRedis::start();
                (own.url(), Some(own))
            }
        });
        Self { url: url.clone(), key_prefix: format!("t:{}:", random_name()) }
    }

    /// The server's URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Put before every key.
    pub(crate) fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// `[counters]` for a gateway on this server.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            url: self.url.as_str().into(),
            key_prefix: self.key_prefix.clone(),
            ..Counters::default()
        }
    }
}

/// A Redis of one's own, to be stopped, resumed, killed and restarted.
pub(crate) struct OwnRedis {
    folder: PathBuf,
    running: Option<Watchdog>,
}

impl OwnRedis {
    /// Starts a server and waits until it answers.
    pub(crate) fn start() -> Self {
        let mut server = Self { folder: server_folder(), running: None };
        server.restart();
        server
    }

    /// A URL that was never anybody's: the server behind it is not up until `restart`.
    pub(crate) fn not_yet_started() -> Self {
        Self { folder: server_folder(), running: None }
    }

    /// The server's URL, the same after a restart.
    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// `[counters]` for a gateway on this server.
    pub(crate) fn counters(&self) -> Counters {
        Counters { url: self.url().into(), ..Counters::default() }
    }

    /// Hangs the server: connections stay, the kernel still takes new ones, nothing answers.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a hung server go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends the server with everything it knows.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Starts an empty server under the same URL, after ending the old one.
    pub(crate) fn restart(&mut self) {
        self.running = None;
        // The watchdog of the old server removed it.
        let _ = std::fs::create_dir(&self.folder);
        let socket = self.socket().display().to_string();
        let mut server = spawn(&self.folder, &["--port", "0", "--unixsocket", &socket]);
        let answers = wait_for_answer(&mut server, &self.url());
        self.running = Some(Watchdog::over(server, "KILL", &self.folder));
        assert!(answers, "redis-server does not start; see {}", self.folder.display());
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }

    fn signal(&self, signal: Signal) {
        let id = self.running.as_ref().expect("the server runs").server_id();
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the server is there to be signalled");
    }
}

/// Three masters that share all slots, without replicas.
pub(crate) struct OwnCluster(Vec<Node>);

struct Node {
    port: u16,
    bus: u16,
    _running: Watchdog,
}

impl OwnCluster {
    /// Starts the nodes, joins them, and waits until the cluster takes commands.
    pub(crate) fn start() -> Self {
        let nodes: Vec<_> = (0..3).map(|_| Node::start()).collect();
        let slots = [["0", "5460"], ["5461", "10922"], ["10923", "16383"]];
        for (node, [first, last]) in nodes.iter().zip(slots) {
            node.ask(&["ADDSLOTSRANGE", first, last]).expect("slots are free");
        }
        let (port, bus) = (nodes[0].port.to_string(), nodes[0].bus.to_string());
        for node in &nodes[1..] {
            node.ask(&["MEET", "127.0.0.1", &port, &bus]).expect("nodes meet");
        }
        let until = Instant::now() + STARTUP;
        let is_up = |node: &Node| {
            node.ask(&["INFO"]).is_ok_and(|info| {
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
        };
        while !nodes.iter().all(is_up) {
            assert!(Instant::now() < until, "the redis cluster does not come up");
            std::thread::sleep(POLL);
        }
        Self(nodes)
    }

    /// `[counters]` for a gateway on this cluster.
    pub(crate) fn counters(&self) -> Counters {
        let hosts: Vec<_> = self.0.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let url = format!("redis-cluster://{}", hosts.join(","));
        Counters { url: url.into(), ..Counters::default() }
    }
}

impl Node {
    /// Cluster nodes cannot talk over a Unix socket. A port that was free a moment ago may be
    /// taken, so this is tried three times.
    fn start() -> Self {
        for _ in 0..3 {
            let (port, bus) = (free_port(), free_port());
            let folder = server_folder();
            let args = [
                "--bind",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--cluster-port",
                &bus.to_string(),
                "--cluster-enabled",
                "yes",
            ];
            let mut server = spawn(&folder, &args);
            let answers = wait_for_answer(&mut server, &format!("redis://127.0.0.1:{port}"));
            let running = Watchdog::over(server, "KILL", &folder);
            if answers {
                return Self { port, bus, _running: running };
            }
        }
        panic!("no cluster node starts, on three pairs of ports");
    }

    fn ask(&self, args: &[&str]) -> redis::RedisResult<String> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        redis::cmd("CLUSTER").arg(args).query(&mut client.get_connection()?)
    }
}

/// Pause between two looks at a server that starts.
const POLL: Duration = Duration::from_millis(5);

fn spawn(folder: &Path, args: &[&str]) -> Child {
    let program =
        std::env::var_os("PORTCULLIS_TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    Command::new(&program)
        .args(args)
        // Nothing is kept, nothing is written but what a cluster node notes of itself.
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(folder)
        .arg("--logfile")
        .arg(folder.join("redis.log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "cannot start {}: {error}. The tests need a Redis: run ./tests/run, or \
                 apt-get install -y --no-install-recommends redis-server, or name a running \
                 server in PORTCULLIS_TEST_REDIS",
                program.display()
            )
        })
}

/// Whether the server answers before it ends or [`STARTUP`] is over.
fn wait_for_answer(server: &mut Child, url: &str) -> bool {
    let client = redis::Client::open(url).expect("a well-formed url");
    let until = Instant::now() + STARTUP;
    while Instant::now() < until && matches!(server.try_wait(), Ok(None)) {
        let pong = client.get_connection().and_then(|mut link| redis::cmd("PING").exec(&mut link));
        if pong.is_ok() {
            return true;
        }
        std::thread::sleep(POLL);
    }
    false
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}
