//! A real gateway for one test: its own ports, database, counters, clock and log; gone when the
//! test ends.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::clock::Clock;
use portcullis::reload::Source;
use portcullis::server::{Options, Server};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use super::client::{Answer, Client, Request, Transcript, patiently, raw};
use super::token::{Issuer, Token};
use super::upstream::Upstream;

/// When every test begins.
pub(crate) const START: &str = "2026-11-21T10:00:00Z";

/// A password that every rule accepts.
pub(crate) const PASSWORD: &str = "Correct-Horse-7-Battery";

/// What every test gateway is, before the test says otherwise: everything in a folder of its own,
/// one worker, cheap hashes, no limit in the way of tests that are not about limits.
const BASE: &str = r#"
[server]
listen = ["127.0.0.1:0"]
workers = 1
drain_timeout = "200ms"
[admin]
listen = "127.0.0.1:0"
[reload]
watch = "0s"
[passwords]
argon2 = { memory = "8KiB", iterations = 1, parallelism = 1 }
max_concurrent_hashes = 1
[limits]
signup = { rate = "1000/minute", by = "ip" }
login = { rate = "1000/minute", by = "ip" }
login_network = { rate = "1000/minute", by = "network" }
login_account = { rate = "1000/hour", by = "account" }
refresh = { rate = "1000/minute", by = "ip" }
refresh_session = { rate = "1000/minute", by = "session" }
[log]
access = true
format = "json"
level = "warn"
"#;

/// The name of the configuration file.
const CONFIG_FILE: &str = "portcullis.toml";

/// The routes of a test that names none.
const ROUTES: &str = r#"
[[routes]]
path = "/api/{user_id}/{*rest}"
upstream = "app"
[[routes]]
path = "/public/{*rest}"
upstream = "app"
access = "public"
[[routes]]
path = "/optional/{*rest}"
upstream = "app"
access = "optional"
[[routes]]
path = "/private/{*rest}"
upstream = "app"
"#;

/// Says what a gateway is to be.
pub(crate) struct Builder {
    folder: TempDir,
    config: toml::Table,
    clock: Clock,
}

impl Builder {
    /// Adds to the configuration: tables are merged key by key, everything else is replaced.
    #[track_caller]
    pub(crate) fn config(mut self, text: &str) -> Self {
        merge(&mut self.config, parse(text));
        self
    }

    /// An upstream of one server.
    #[track_caller]
    pub(crate) fn upstream(self, name: &str, upstream: &Upstream) -> Self {
        self.servers(name, &[upstream.url()])
    }

    /// An upstream of several servers.
    pub(crate) fn servers(self, name: &str, urls: &[String]) -> Self {
        let servers = urls.iter().cloned().map(toml::Value::String).collect();
        let upstream =
            toml::Table::from_iter([("servers".to_owned(), toml::Value::Array(servers))]);
        let named = toml::Table::from_iter([(name.to_owned(), toml::Value::Table(upstream))]);
        let mut config = self.config;
        merge(&mut config, toml::Table::from_iter([("upstreams".into(), named.into())]));
        Self { config, ..self }
    }

    /// Our own tokens are HS256 ones with a known secret, so that the test can make them itself.
    pub(crate) fn known_secret(self) -> Self {
        self.config(&format!("[tokens]\nalgorithm = \"HS256\"\nsecret = \"{}\"", Issuer::SECRET))
    }

    /// Also accepts tokens of [`Issuer::foreign`], under the name `corp`.
    pub(crate) fn foreign_issuer(self) -> Self {
        let key_file = self.folder.path().join("corp.secret");
        std::fs::write(&key_file, Issuer::FOREIGN_SECRET).expect("the folder is ours");
        let text = format!(
            "[[issuers]]\nname = \"corp\"\nissuer = \"{}\"\naudience = \"{}\"\n\
             algorithms = [\"HS256\"]\nkey_file = \"{}\"\n",
            Issuer::foreign().name,
            Issuer::foreign().audience,
            key_file.display(),
        );
        self.config(&text)
    }

    /// Users, sessions and events in PostgreSQL.
    pub(crate) fn storage(self, url: &str) -> Self {
        self.config(&format!("[storage]\nurl = {url:?}"))
    }

    /// Counters in Redis.
    pub(crate) fn counters(self, url: &str, key_prefix: &str) -> Self {
        self.config(&format!("[counters]\nurl = {url:?}\nkey_prefix = {key_prefix:?}"))
    }

    /// Goes by a clock that others move too.
    pub(crate) fn clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The folder of the gateway's files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration as a file would have it.
    pub(crate) fn to_toml(&self) -> String {
        written(&self.to_table())
    }

    fn to_table(&self) -> toml::Table {
        let mut config = parse(BASE);
        let database = format!("sqlite:{}", self.folder.path().join("portcullis.db").display());
        merge(&mut config, parse(&format!("[storage]\nurl = {database:?}")));
        merge(&mut config, self.config.clone());
        if !config.contains_key("routes") {
            merge(&mut config, parse(ROUTES));
        }
        config
    }

    /// Starts the gateway.
    pub(crate) async fn start(self) -> TestGateway {
        let file = self.folder.path().join(CONFIG_FILE);
        let table = self.to_table();
        std::fs::write(&file, written(&table)).expect("the folder is ours");
        let (source, loaded) = match Source::read(Some(&file), []) {
            Ok(read) => read,
            Err(error) => panic!("{error}\nin\n{table}"),
        };
        let config = loaded.config;
        let log = Log::default();
        let options = Options {
            clock: self.clock.clone(),
            access_log: Some(Box::new(log.clone())),
            access_log_json: true,
            source: Some(source),
            ..Options::default()
        };
        // It waits for its own threads, which a thread of this runtime may not.
        let server = blocking(move || Server::start(&config, options)).await;
        let server = server.unwrap_or_else(|error| panic!("the gateway starts: {error:?}"));
        TestGateway {
            address: server.addresses()[0],
            addresses: server.addresses().to_vec(),
            admin: server.admin_address(),
            server: Some(server),
            clock: self.clock,
            log,
            folder: self.folder,
            config: table,
        }
    }
}

/// A running gateway.
pub(crate) struct TestGateway {
    /// Its first public address.
    pub(crate) address: SocketAddr,
    /// All of them.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Its admin address.
    pub(crate) admin: SocketAddr,
    /// Its clock, which stands still until the test moves it.
    pub(crate) clock: Clock,
    log: Log,
    server: Option<Server>,
    folder: TempDir,
    config: toml::Table,
}

impl TestGateway {
    /// A gateway with nothing behind it yet.
    pub(crate) fn builder() -> Builder {
        let start = START.parse().expect("a timestamp");
        Builder {
            folder: tempfile::Builder::new().prefix("portcullis-it-").tempdir().expect("a folder"),
            config: toml::Table::new(),
            clock: Clock::manual(start),
        }
    }

    /// A gateway with the usual routes in front of `upstream`, whose own tokens are
    /// [`Issuer::ours`].
    pub(crate) async fn in_front_of(upstream: &Upstream) -> Self {
        Self::builder().upstream("app", upstream).known_secret().start().await
    }

    /// A request to it.
    pub(crate) fn request(&self, method: &str, target: &str) -> Request {
        Request::new(self.address, method, target)
    }

    /// A `GET` to it.
    pub(crate) fn get(&self, target: &str) -> Request {
        self.request("GET", target)
    }

    /// A `POST` to it.
    pub(crate) fn post(&self, target: &str) -> Request {
        self.request("POST", target)
    }

    /// A connection to it.
    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Sends bytes on a connection of their own and reads what comes back.
    pub(crate) async fn raw(&self, bytes: impl AsRef<[u8]>) -> Transcript {
        raw(self.address, bytes).await
    }

    /// A `GET` to its admin listener.
    pub(crate) async fn admin_get(&self, target: &str) -> Answer {
        Request::new(self.admin, "GET", target).send().await
    }

    /// Adds to the configuration file, as [`Builder::config`] does; the gateway is not told.
    #[track_caller]
    pub(crate) fn configure(&self, text: &str) {
        let mut config = self.config.clone();
        merge(&mut config, parse(text));
        self.write_config(written(&config));
    }

    /// Makes this the text of the configuration file, at once, as an editor does.
    pub(crate) fn write_config(&self, text: impl AsRef<[u8]>) {
        let new = self.file("portcullis.new");
        std::fs::write(&new, text).expect("the folder is ours");
        std::fs::rename(new, self.file(CONFIG_FILE)).expect("the folder is ours");
    }

    /// `POST /reload`.
    pub(crate) async fn reload(&self) -> Answer {
        Request::new(self.admin, "POST", "/reload").send().await
    }

    /// Where `file` of the gateway lies.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new account, signed up and logged in.
    pub(crate) async fn sign_up(&self, name: &str) -> Caller {
        let email = format!("{name}@example.com");
        let body = json!({ "email": email, "password": PASSWORD });
        let session = self.post("/auth/signup").json(&body).send().await.expect(201).json();
        Caller::from_session(&session)
    }

    /// A token of our own for `subject`; needs [`Builder::known_secret`].
    pub(crate) fn token(&self, subject: &str) -> Token {
        Issuer::ours().token(subject, self.clock.now())
    }

    /// A token of the issuer `corp`; needs [`Builder::foreign_issuer`] to be of use.
    pub(crate) fn foreign_token(&self, subject: &str) -> Token {
        Issuer::foreign().token(subject, self.clock.now())
    }

    /// Moves the gateway's clock.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Every line of the access log so far.
    pub(crate) fn log_text(&self) -> String {
        self.log.text()
    }

    /// The first line of the access log of which `wanted` is true; waits for it.
    pub(crate) async fn log_line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        patiently("a line in the access log", self.log.line(wanted)).await
    }

    /// Stops it as a signal would; ends when it has stopped.
    pub(crate) fn shut_down(&mut self) -> tokio::task::JoinHandle<()> {
        let server = self.server.take().expect("it is stopped once");
        tokio::task::spawn_blocking(move || server.shutdown())
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        let stopped = std::thread::spawn(move || server.shutdown()).join();
        assert!(stopped.is_ok() || std::thread::panicking(), "the gateway panicked as it stopped");
    }
}

/// Somebody with an account and a session.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// User id.
    pub(crate) id: String,
    /// E-mail address.
    pub(crate) email: String,
    /// Access token.
    pub(crate) token: String,
    /// Refresh token.
    pub(crate) refresh_token: String,
}

impl Caller {
    /// The id of the key that signed the access token.
    pub(crate) fn kid(&self) -> String {
        let header = self.token.split('.').next().expect("a header");
        let header = URL_SAFE_NO_PAD.decode(header).expect("base64url");
        let header: Value = serde_json::from_slice(&header).expect("JSON");
        header["kid"].as_str().expect("a kid").to_owned()
    }

    /// Reads an answer of `signup`, `login` or `token`.
    #[track_caller]
    pub(crate) fn from_session(session: &Value) -> Self {
        let text = |value: &Value| value.as_str().expect("a session has text there").to_owned();
        Self {
            id: text(&session["user"]["id"]),
            email: text(&session["user"]["email"]),
            token: text(&session["access_token"]),
            refresh_token: text(&session["refresh_token"]),
        }
    }
}

/// An access log that is kept for the test.
#[derive(Clone)]
struct Log(Arc<(Mutex<Vec<u8>>, watch::Sender<()>)>);

impl Default for Log {
    fn default() -> Self {
        Self(Arc::new((Mutex::default(), watch::Sender::new(()))))
    }
}

impl Log {
    fn text(&self) -> String {
        super::http::lossy(&self.0.0.lock().expect("no panic while it was held"))
    }

    async fn line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut changes = self.0.1.subscribe();
        loop {
            let text = self.text();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let mut lines = whole.lines().map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
            });
            if let Some(line) = lines.find(&wanted) {
                return line;
            }
            changes.changed().await.expect("the log lives");
        }
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.0.lock().expect("no panic while it was held").extend_from_slice(bytes);
        self.0.1.send_replace(());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn written(config: &toml::Table) -> String {
    toml::to_string(config).expect("it was TOML before")
}

#[track_caller]
fn parse(text: &str) -> toml::Table {
    text.parse().unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
