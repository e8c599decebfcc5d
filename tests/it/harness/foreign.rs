//! Clients and servers of other makers, from `tests/clients`: found or brought once for all tests.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::Value;

use super::client::patiently;
use super::gateway::blocking;
use super::http::lossy;
use super::watchdog::{Watchdog, server_folder};

/// Where the scripts lie.
fn scripts() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"))
}

/// Where `tests/clients/install` puts what it brings; it brings it now if it is not there.
fn installed() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../clients");
        let done = Command::new(scripts().join("install")).arg(&place).output();
        let done = done.expect("bash runs");
        assert!(done.status.success(), "{}", lossy(&done.stderr));
        place
    })
}

/// A Python script.
pub(crate) fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(installed().join("venv/bin/python"));
    command.arg(scripts().join(script)).args(arguments);
    command
}

/// A program that a Python package brought.
pub(crate) fn python_program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(installed().join("venv/bin").join(name));
    command.args(arguments);
    command
}

/// A Node script.
pub(crate) fn node(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", installed().join("node/node_modules"));
    command.arg(scripts().join(script)).args(arguments);
    command
}

/// A program of the distribution.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments);
    command
}

/// Runs a client to its end, which must be a good one; gives what it said.
pub(crate) async fn run(mut command: Command) -> String {
    let what = format!("{command:?}");
    // Proxies of the surroundings are none of a test's business.
    command.env("no_proxy", "*").stdin(Stdio::null());
    let output = blocking(move || command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}"));
    let (said, complained) = (lossy(&output.stdout), lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{said}\n{complained}", output.status);
    said
}

/// A server that ends when its standard input does, so that it cannot outlive the tests.
pub(crate) struct Foreign {
    child: Child,
    said: Arc<Mutex<BufReader<ChildStdout>>>,
}

impl Foreign {
    /// Starts a server that prints its port first.
    pub(crate) async fn start(mut command: Command) -> (Self, SocketAddr) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let started = blocking(move || {
            let mut child = command.spawn().expect("the server starts");
            let mut line = String::new();
            let mut said = BufReader::new(child.stdout.take().expect("piped"));
            said.read_line(&mut line).expect("a line");
            (Self { child, said: Arc::new(Mutex::new(said)) }, line)
        });
        let (server, line) = patiently("a server to start", started).await;
        let port: u16 = line.trim().parse().unwrap_or_else(|_| panic!("no port: {line:?}"));
        (server, SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// What it prints next, a line of JSON.
    pub(crate) async fn told(&mut self) -> Value {
        let said = Arc::clone(&self.said);
        let reading = blocking(move || {
            let mut line = String::new();
            said.lock().expect("no reader panics").read_line(&mut line).expect("a line");
            line
        });
        let line = patiently("a server to say something", reading).await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An nginx that serves a folder.
pub(crate) struct Nginx {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Files in here are under `/`.
    pub(crate) root: PathBuf,
    _watchdog: Watchdog,
}

impl Nginx {
    /// Serves files only.
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// Passes `/api/` on to `backend`, without buffers.
    pub(crate) async fn in_front_of(backend: SocketAddr) -> Self {
        Self::with(&format!(
            "location /api/ {{ proxy_pass http://{backend}; proxy_http_version 1.1;\n\
               proxy_buffering off; proxy_request_buffering off; client_max_body_size 0; }}\n"
        ))
        .await
    }

    /// Starts one, in a single process, with connections that it closes after a few requests and
    /// bodies that it takes up to 1 MiB.
    async fn with(locations: &str) -> Self {
        let (folder, address) = (server_folder(), super::program::free_addresses().await[0]);
        let root = folder.join("www");
        std::fs::create_dir(&root).expect("the folder is ours");
        let at = folder.display();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n\
               access_log off;\n\
               types {{ text/html html; text/plain txt; }}\n\
               client_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;\n\
               fastcgi_temp_path {at}/fastcgi;\nuwsgi_temp_path {at}/uwsgi;\n\
               scgi_temp_path {at}/scgi;\n\
               client_max_body_size 1m;\nkeepalive_requests 7;\nif_modified_since before;\ngzip on;\ngzip_types text/plain;\n\
               server {{ listen {address}; root {at}/www;\n\
                 location /public/upload/ {{ dav_methods PUT; create_full_put_path on; }}\n\
                 {locations}\
               }}\n\
             }}\n"
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, config).expect("the folder is ours");
        let nginx = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        let mut command = Command::new(nginx);
        command.arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log")).arg("-c").arg(file);
        let child = command.stdin(Stdio::null()).spawn().expect("nginx starts");
        let watchdog = Watchdog::over(child, "KILL", &folder);
        patiently("nginx to listen", async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                super::pause().await;
            }
        })
        .await;
        Self { address, root, _watchdog: watchdog }
    }

    /// Puts a file there, for everybody to read.
    pub(crate) fn file(&self, name: &str, content: &[u8]) {
        let path = self.root.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder is ours");
        std::fs::write(path, content).expect("the folder is ours");
    }
}
