//! Private PostgreSQL servers for tests. One is started on demand for the whole test process, with
//! a template database that was migrated once; each test gets a clone of its own.
//!
//! With `PORTCULLIS_TEST_POSTGRES` (the URL of a superuser) that server is used instead. A missing
//! PostgreSQL is a failure, never a skip. Servers end with the test process however it ends: a
//! watchdog holds the other end of a pipe.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use portcullis::config::{Secrets, Storage};
use portcullis::store::Store;
use refinery::{Runner, Target, load_sql_migrations};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Semaphore;

/// A database of one test's own; dropped with this.
pub(crate) struct Database {
    /// Its `storage.url`.
    pub(crate) url: String,
    name: String,
    admin_url: String,
}

/// A new database with the newest schema.
pub(crate) async fn database() -> Database {
    let shared = Shared::of_this_process();
    clone_of(&shared.admin_url, Some(&shared.template)).await
}

/// A new database without any schema.
pub(crate) async fn empty_database() -> Database {
    clone_of(&Shared::of_this_process().admin_url, None).await
}

/// A new database as a version of the schema left it.
pub(crate) async fn database_of(version: i32) -> Database {
    let database = empty_database().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres");
    let migrations = load_sql_migrations(folder).expect("they are there");
    let mut client = client(&database.url).await;
    let runner = Runner::new(&migrations).set_target(Target::Version(version));
    runner.run_async(&mut client).await.expect("migrated");
    database
}

async fn clone_of(admin_url: &str, template: Option<&str>) -> Database {
    // Cloning is heavy on the disk; more at once is slower for all.
    static CLONES: Semaphore = Semaphore::const_new(4);
    let name = unique("t");
    let template = template.unwrap_or("template0");
    let _turn = CLONES.acquire().await.expect("the semaphore is never closed");
    run_sql(admin_url, &[&format!("CREATE DATABASE {name} TEMPLATE {template}")]).await;
    Database { url: with_database(admin_url, &name), name, admin_url: admin_url.to_owned() }
}

impl Database {
    /// Runs SQL as superuser in this database.
    pub(crate) async fn sql(&self, sql: &str) {
        run_sql(&self.url, &[sql]).await;
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let admin_url = self.admin_url.clone();
        // Drop cannot wait; a thread with its own runtime can.
        let dropped = std::thread::spawn(move || block_on(try_sql(&admin_url, &[&sql]))).join();
        if !std::thread::panicking() && !matches!(dropped, Ok(Ok(()))) {
            eprintln!("{} was not dropped: {dropped:?}", self.name);
        }
    }
}

/// A client of the test's own, outside the store.
pub(crate) async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

/// The server that all tests share.
struct Shared {
    admin_url: String,
    template: String,
    /// Kept, so that the watchdog waits.
    _server: Option<OwnServer>,
}

impl Shared {
    fn of_this_process() -> &'static Self {
        static SHARED: OnceLock<Shared> = OnceLock::new();
        SHARED.get_or_init(|| {
            // Its own thread: the caller is inside a runtime.
            std::thread::spawn(|| block_on(Self::start())).join().expect("PostgreSQL starts")
        })
    }

    async fn start() -> Self {
        let (server, admin_url) = if let Ok(url) = std::env::var("PORTCULLIS_TEST_POSTGRES") {
            (None, url)
        } else {
            let server = OwnServer::start_blocking(false);
            let url = server.url("postgres");
            (Some(server), url)
        };
        let template = unique("template");
        run_sql(&admin_url, &[&format!("CREATE DATABASE {template} TEMPLATE template0")]).await;
        let store = open(&with_database(&admin_url, &template));
        store.migrate().await.expect("the template is migrated");
        drop(store);
        run_sql(
            &admin_url,
            &[
                // Cloning fails while anybody is connected.
                &format!("ALTER DATABASE {template} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false"),
                &format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{template}'"
                ),
            ],
        )
        .await;
        Self { admin_url, template, _server: server }
    }
}

fn open(url: &str) -> Store {
    let storage = Storage { url: url.into(), max_connections: 2, migrate: true };
    Store::open(&storage, &Secrets::default()).expect("the store opens")
}

/// A server of one test's own, which may be stopped and hung.
pub(crate) struct OwnServer {
    folder: PathBuf,
    /// Set when it listens on loopback with TLS, too.
    port: Option<u16>,
    process: Mutex<Option<Child>>,
    watchdog: Child,
}

impl OwnServer {
    /// A server on a Unix socket.
    pub(crate) async fn start() -> Self {
        tokio::task::spawn_blocking(|| Self::start_blocking(false)).await.expect("starts")
    }

    /// A server that listens on loopback, too, with a certificate for `localhost` only; see
    /// [`OwnServer::authority`].
    pub(crate) async fn start_with_tls() -> Self {
        tokio::task::spawn_blocking(|| Self::start_blocking(true)).await.expect("starts")
    }

    fn start_blocking(tls: bool) -> Self {
        sweep();
        let owner = Owner::of_servers();
        // Socket paths have at most 107 bytes, and the server's user must reach the folder.
        let folder = std::env::temp_dir().join(unique("portcullis-pg"));
        fs::create_dir(&folder).expect("the server's folder is made");
        owner.give(&folder, 0o700);
        let watchdog = watch(&folder);
        let initdb = owner
            .command("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"])
            .arg("-D")
            .arg(folder.join("data"))
            .output()
            .expect("initdb runs");
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        if tls {
            write_certificates(&folder, &owner);
        }
        let mut server = Self { folder, port: None, process: Mutex::new(None), watchdog };
        // Somebody else may take the port between our look and the server's.
        for attempt in 1.. {
            server.port = tls.then(free_port);
            match server.run() {
                Ok(()) => break,
                Err(log) => assert!(tls && attempt < 3, "PostgreSQL does not start: {log}"),
            }
        }
        server
    }

    /// URL of a database, as superuser, over the socket.
    pub(crate) fn url(&self, database: &str) -> String {
        let port = self.port.unwrap_or(5432);
        format!("postgres://postgres@/{database}?host={}&port={port}", self.folder.display())
    }

    /// URL of a database over TCP; `parameters` such as `sslmode=require`.
    pub(crate) fn tcp_url(&self, host: &str, database: &str, parameters: &str) -> String {
        let port = self.port.expect("the server was started with TLS");
        format!("postgres://postgres@{host}:{port}/{database}?{parameters}")
    }

    /// PEM file of the authority that signed the server's certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// A database with the newest schema on this server.
    pub(crate) async fn database(&self) -> Database {
        let database = clone_of(&self.url("postgres"), None).await;
        open(&database.url).migrate().await.expect("the schema is made");
        database
    }

    /// Stops every process of the server in its tracks: connections stay open, nobody answers.
    pub(crate) fn hang(&self) {
        let server = self.pid();
        signal(server, Signal::STOP);
        for child in children(server) {
            signal(child, Signal::STOP);
        }
    }

    /// Ends [`OwnServer::hang`].
    pub(crate) fn resume(&self) {
        let server = self.pid();
        for child in children(server) {
            signal(child, Signal::CONT);
        }
        signal(server, Signal::CONT);
    }

    /// Shuts the server down, breaking connections.
    pub(crate) fn stop(&self) {
        let process = self.process.lock().expect("no test panicked here").take();
        let mut process = process.expect("the server runs");
        signal(pid_of(&process), Signal::INT);
        process.wait().expect("the server ends");
    }

    /// Starts it again after [`OwnServer::stop`].
    pub(crate) fn start_again(&self) {
        self.run().expect("the server starts again");
    }

    fn pid(&self) -> Pid {
        let process = self.process.lock().expect("no test panicked here");
        pid_of(process.as_ref().expect("the server runs"))
    }

    /// Runs the server and waits until it answers.
    fn run(&self) -> Result<(), String> {
        let log = self.folder.join("log");
        let log_file = fs::File::create(&log).expect("the log is made");
        let mut command = Owner::of_servers().command("postgres");
        command.arg("-D").arg(self.folder.join("data")).arg("-k").arg(&self.folder);
        let mut settings = vec![
            // Nothing here needs to survive a power cut.
            "fsync=off".to_owned(),
            "synchronous_commit=off".to_owned(),
            "full_page_writes=off".to_owned(),
            "max_connections=300".to_owned(),
            "shared_buffers=32MB".to_owned(),
        ];
        if let Some(port) = self.port {
            settings.push(format!("port={port}"));
            settings.push("listen_addresses=127.0.0.1".to_owned());
            settings.push("ssl=on".to_owned());
        } else {
            settings.push("port=5432".to_owned());
            settings.push("listen_addresses=".to_owned());
        }
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        let mut process = command
            .stdin(Stdio::null())
            .stdout(log_file.try_clone().expect("the log is open"))
            .stderr(log_file)
            // Ctrl-C in a terminal is for the tests; the watchdog ends the server.
            .process_group(0)
            .spawn()
            .expect("postgres runs");
        let url = self.url("postgres");
        let started = Instant::now();
        let answers = std::thread::spawn(move || {
            block_on(async {
                while try_sql(&url, &["SELECT 1"]).await.is_err() {
                    let over = started.elapsed() > Duration::from_secs(20)
                        || process.try_wait().is_ok_and(|ended| ended.is_some());
                    if over {
                        return Err(process);
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(process)
            })
        });
        match answers.join().expect("the waiting thread ends") {
            Ok(process) => {
                *self.process.lock().expect("no test panicked here") = Some(process);
                Ok(())
            }
            Err(mut process) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(fs::read_to_string(log).unwrap_or_default())
            }
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if self.process.lock().is_ok_and(|process| process.is_some()) {
            self.resume();
            let mut process = self.process.lock().expect("just locked").take();
            if let Some(process) = &mut process {
                signal(pid_of(process), Signal::QUIT);
                let _ = process.wait();
            }
        }
        // The end of its input lets the watchdog clean up.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// The system user that servers run as: PostgreSQL refuses to run as root.
struct Owner(Option<(u32, u32)>);

impl Owner {
    fn of_servers() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
        let ids = |name: &str| {
            let line = passwd.lines().find(|l| l.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        let ids = ids("postgres").or_else(|| ids("nobody"));
        Self(Some(ids.expect("there is a user postgres or nobody to run PostgreSQL as")))
    }

    fn give(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode is set");
        if let Some((uid, gid)) = self.0 {
            chown(path, Some(uid), Some(gid)).expect("owner is set");
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(programs().join(program));
        command.current_dir("/").env("LC_ALL", "C.UTF-8").env_remove("PGDATA");
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// The folder of `initdb` and `postgres`: named by a variable, Debian's newest, or on the path.
fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let named = std::env::var_os("PORTCULLIS_TEST_POSTGRES_BIN").map(PathBuf::from);
        let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let version = entry.file_name().to_str()?.parse().ok()?;
                Some((version, entry.path().join("bin")))
            })
            .collect();
        debian.sort();
        let path = std::env::var_os("PATH").unwrap_or_default();
        named
            .into_iter()
            .chain(debian.into_iter().rev().map(|(_, folder)| folder))
            .chain(std::env::split_paths(&path))
            .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
            .expect(
                "PostgreSQL is missing; install it with \
                 `apt-get install --no-install-recommends postgresql`, \
                 or name a running server in PORTCULLIS_TEST_POSTGRES",
            )
    })
}

/// A process that ends the server and deletes its folder once this process is gone, also when it
/// was killed. (The kernel's parent-death signal would fire when the starting *thread* ends.)
fn watch(folder: &Path) -> Child {
    let script = "trap '' INT TERM HUP; cat >/dev/null
        pid=$(head -n 1 \"$1/data/postmaster.pid\" 2>/dev/null)
        if [ -z \"$pid\" ] && [ -e \"$1/log\" ]; then
            sleep 1 # it may have been about to write that file
            pid=$(head -n 1 \"$1/data/postmaster.pid\" 2>/dev/null)
        fi
        if [ -n \"$pid\" ]; then
            kill -QUIT \"$pid\" && kill -CONT \"$pid\"
            for _ in $(seq 100); do kill -0 \"$pid\" || break; sleep 0.1; done
        fi
        rm -rf \"$1\"";
    Command::new("sh")
        .args(["-c", script, "watchdog"])
        .arg(folder)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("the watchdog runs")
}

/// Deletes what machines that lost power left behind.
fn sweep() {
    let day = Duration::from_hours(24);
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with("portcullis-pg");
        let age = entry.metadata().and_then(|m| m.modified()).map(|at| at.elapsed());
        if ours && age.is_ok_and(|age| age.is_ok_and(|age| age > day)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn write_certificates(folder: &Path, owner: &Owner) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().expect("key");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("certificate");
    let key = KeyPair::generate().expect("key");
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .expect("name")
        .signed_by(&key, &Issuer::new(ca, ca_key))
        .expect("certificate");
    for (file, pem) in [
        ("ca.crt", ca_certificate.pem()),
        ("data/server.crt", certificate.pem()),
        ("data/server.key", key.serialize_pem()),
    ] {
        let file = folder.join(file);
        fs::write(&file, pem).expect("the file is written");
        owner.give(&file, 0o600);
    }
}

fn free_port() -> u16 {
    let probe = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    probe.local_addr().expect("it is bound").port()
}

fn pid_of(process: &Child) -> Pid {
    Pid::from_child(process)
}

fn signal(pid: Pid, signal: Signal) {
    // A child may have ended meanwhile.
    let _ = kill_process(pid, signal);
}

/// The processes whose parent is `parent`; each leads a session of its own, so no signal reaches
/// them all at once.
fn children(parent: Pid) -> Vec<Pid> {
    let parent_of = |pid: &OsStr| -> io::Result<Option<i32>> {
        // `pid (name, which may hold anything) state ppid …`
        let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"))?;
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        Ok(fields.split_whitespace().nth(1).and_then(|field| field.parse().ok()))
    };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        if parent_of(&name).ok().flatten() == Some(parent.as_raw_pid()) {
            found.push(pid);
        }
    }
    found
}

/// A name that no other test, in this process or another, uses.
fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nonce = u32::from_ne_bytes(portcullis::clock::random_bytes());
    let separator = if prefix.contains('-') { '-' } else { '_' };
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{separator}{}{separator}{n}{separator}{nonce:x}", std::process::id())
}

/// The URL with another database in it.
fn with_database(url: &str, database: &str) -> String {
    let (address, parameters) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = address.split_once("://").expect("a URL has a scheme");
    let server = rest.split('/').next().unwrap_or(rest);
    let question = if parameters.is_empty() { "" } else { "?" };
    format!("{scheme}://{server}/{database}{question}{parameters}")
}

async fn run_sql(url: &str, statements: &[&str]) {
    try_sql(url, statements).await.expect("the statements succeed");
}

async fn try_sql(url: &str, statements: &[&str]) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let mut result = Ok(());
    for statement in statements {
        result = client.batch_execute(statement).await;
        if result.is_err() {
            break;
        }
    }
    drop(client);
    let _ = connection.await;
    result
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts")
        .block_on(future)
}
