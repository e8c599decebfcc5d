//! The program as operators run it: a child process on a configuration file, with nothing in its
//! environment that the test did not put there. `PORTCULLIS_TEST_PROGRAM` names another build of
//! it, such as the release's, for tests that print how fast it is.

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tokio::net::TcpStream;

use super::auth::pause;
use super::client::{Request, patiently};
use super::gateway::{Builder, blocking};

/// A configuration file with the ports it names.
pub(crate) struct Program {
    /// Its public address.
    pub(crate) public: SocketAddr,
    /// Its admin address.
    pub(crate) admin: SocketAddr,
    builder: Builder,
    file: PathBuf,
}

/// What a command said.
pub(crate) struct Told {
    /// Exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Program {
    /// Writes the configuration file. The program is told its ports, so it cannot choose them: they
    /// are bound here for a moment and let go.
    pub(crate) async fn of(builder: Builder) -> Self {
        let [public, admin] = free_addresses().await;
        let builder = builder
            .config(&format!("[server]\nlisten = [\"{public}\"]\n[admin]\nlisten = \"{admin}\""));
        let file = builder.folder().join("portcullis.toml");
        std::fs::write(&file, builder.to_toml()).expect("the folder is ours");
        Self { public, admin, builder, file }
    }

    /// The folder of its files.
    pub(crate) fn folder(&self) -> &Path {
        self.builder.folder()
    }

    /// Its configuration file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Its SQLite file, as a URL.
    pub(crate) fn sqlite_url(&self) -> String {
        format!("sqlite:{}", self.folder().join("portcullis.db").display())
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Told {
        self.run_with(arguments, "").await
    }

    /// Runs a command to its end, with something on its standard input.
    pub(crate) async fn run_with(&self, arguments: &[&str], stdin: &str) -> Told {
        let mut command = self.command(arguments);
        let stdin = stdin.to_owned();
        let running = blocking(move || {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("the program runs");
            // A command that does not read its input may be gone already.
            let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
            child.wait_with_output().expect("a child")
        });
        let output = patiently("the program to end", running).await;
        let text = |bytes| String::from_utf8(bytes).expect("the program speaks UTF-8");
        Told {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Starts a command that goes on.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Running(command.spawn().expect("the program runs"))
    }

    /// Starts `serve` and waits until it is ready.
    pub(crate) async fn serve(&self) -> Running {
        self.serve_with(&[]).await
    }

    /// The same with variables in its environment.
    pub(crate) async fn serve_with(&self, environment: &[(&str, String)]) -> Running {
        self.until_ready(self.begin_with(environment)).await
    }

    /// Starts `serve` and waits for nothing.
    pub(crate) fn begin(&self) -> Running {
        self.begin_with(&[])
    }

    fn begin_with(&self, environment: &[(&str, String)]) -> Running {
        let mut command = self.command(&["serve"]);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().expect("the program runs"))
    }

    /// Waits until what was begun is ready.
    pub(crate) async fn until_ready(&self, mut running: Running) -> Running {
        patiently("the program to be ready", async {
            while TcpStream::connect(self.admin).await.is_err()
                || Request::new(self.admin, "GET", "/health/ready").send().await.status != 200
            {
                assert!(running.0.try_wait().expect("a child").is_none(), "it ended");
                pause().await;
            }
        })
        .await;
        running
    }

    /// A command, with nothing in its environment that is meant for others.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let built = env!("CARGO_BIN_EXE_portcullis");
        let other = std::env::var_os("PORTCULLIS_TEST_PROGRAM");
        let mut command = Command::new(other.unwrap_or_else(|| built.into()));
        command.args(arguments).arg("--config").arg(&self.file).current_dir(self.folder());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PORTCULLIS_") {
                command.env_remove(name);
            }
        }
        command
    }
}

impl Told {
    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Standard output, one JSON value a line.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}\n{}\n{}", self.code, self.stdout, self.stderr)
    }
}

/// A process that does not outlive its test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two addresses that nobody listens on. Both are bound at once: the system may give the same port
/// again as soon as it is let go.
pub(crate) async fn free_addresses() -> [SocketAddr; 2] {
    let bind = || tokio::net::TcpListener::bind("127.0.0.1:0");
    let (one, two) = (bind().await.expect("a free port"), bind().await.expect("a free port"));
    [one, two].map(|listener| listener.local_addr().expect("a bound socket"))
}
