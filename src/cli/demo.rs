//! `portcullis demo`: the gateway in front of a small example API, on embedded stores in a
//! temporary folder. The API trusts `X-User-Id`, as an API behind the gateway may.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::serve::{DEMO_DRAIN, Signals};
use super::{Failure, start_failure};
use crate::clock::{Clock, random_bytes};
use crate::config::{self, Config, Interval, MailTransport};
use crate::server::{Options, Server};
use crate::telemetry;

/// Where the gateway listens when nothing else is there.
const USUAL_PORT: u16 = 8080;

/// Longest task.
const MAX_TASK_BYTES: usize = 4 << 10;

/// Most tasks of one user.
const MAX_TASKS: usize = 100;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Address to listen on [default: 127.0.0.1:8080, or another port when that is taken]
    #[arg(long)]
    listen: Option<SocketAddr>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    telemetry::start(config::LogFormat::Auto, "warn").map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("the system gives no runtime", &error))?;
    let _in_runtime = runtime.enter();
    let mut signals = Signals::listen()?;
    let folder = Folder::create()?;
    let api = runtime
        .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .map_err(|error| Failure::failed("the example API cannot listen", &error))?;
    let api_address = api
        .local_addr()
        .map_err(|error| Failure::failed("the example API cannot listen", &error))?;
    runtime.spawn(serve_tasks(api));

    let address = args.listen.unwrap_or_else(free_address);
    let config = demo_config(address, api_address, &folder.0)?;
    let options = Options { clock: Clock::system(), ..Options::default() };
    let server = Server::start(&config, options).map_err(|error| start_failure(&error, None))?;
    println!("{}", instructions(server.addresses()[0], server.admin_address(), api_address));
    runtime.block_on(signals.stop());
    server.shutdown();
    Ok(())
}

/// The usual port, or one that is free.
fn free_address() -> SocketAddr {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, USUAL_PORT));
    let is_free = std::net::TcpListener::bind(usual).is_ok();
    let any = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
    if is_free { usual } else { any().unwrap_or(usual) }
}

fn demo_config(address: SocketAddr, api: SocketAddr, folder: &Path) -> Result<Config, Failure> {
    let text = format!(
        r#"
[server]
listen = ["{address}"]

[admin]
listen = "127.0.0.1:0"

[storage]
url = "sqlite:{database}"

[tokens]
issuer = "http://{address}/auth"

[upstreams.todo]
servers = ["http://{api}"]

[[routes]]
path = "/api/{{user_id}}/tasks"
upstream = "todo"
"#,
        database = folder.join("portcullis.db").display(),
    );
    let mut config = config::parse(&text, Path::new("demo"), [])?.config;
    config.server.drain_timeout = Interval(DEMO_DRAIN);
    // Who tries it plays both sides, and reads the letters here.
    config.mail.transport = MailTransport::Log;
    Ok(config)
}

fn instructions(address: SocketAddr, admin: SocketAddr, api: SocketAddr) -> String {
    let password = "Tulip-42-Lamp";
    let curl = r"curl -s -o /dev/null -w '%{http_code}\n'";
    let json = "-H 'Content-Type: application/json'";
    let account = format!(r#"-d "{{\"email\":\"$EMAIL\",\"password\":\"{password}\"}}""#);
    let bearer = r#"-H "Authorization: Bearer $TOKEN""#;
    format!(
        r#"The gateway listens on http://{address} (metrics and health: http://{admin}).
Behind it is an example API, a todo list for each user, on http://{api}.
Everything is gone when this ends: Ctrl-C.

--- try it ---
GATEWAY=http://{address}
EMAIL="ann-$(date +%s)@example.com"
ANSWER=$(mktemp)

# sign up: 201
curl -s -o "$ANSWER" -w '%{{http_code}}\n' "$GATEWAY/auth/signup" {json} {account}
TOKEN=$(sed -n 's/.*"access_token":"\([^"]*\)".*/\1/p' "$ANSWER")
USER_ID=$(grep -o '"id":"[^"]*"' "$ANSWER" | head -n 1 | cut -d '"' -f 4)

# log in: 200
{curl} "$GATEWAY/auth/login" {json} {account}

# add an own task: 201
{curl} "$GATEWAY/api/$USER_ID/tasks" {bearer} {json} -d '{{"title":"buy milk"}}'

# own tasks: 200
{curl} "$GATEWAY/api/$USER_ID/tasks" {bearer}

# another user's tasks: 403
{curl} "$GATEWAY/api/somebody-else/tasks" {bearer}

# no token: 401
{curl} "$GATEWAY/api/$USER_ID/tasks"

# log out: 204
{curl} -X POST "$GATEWAY/auth/logout" {bearer}

# own tasks after logout: 401
{curl} "$GATEWAY/api/$USER_ID/tasks" {bearer}
---"#
    )
}

/// A temporary folder of our own, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn create() -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("portcullis-demo-{:016x}", u64::from_ne_bytes(random_bytes()));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::failed("no temporary folder could be made", &error))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's own cleaning.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The tasks of all users.
type Tasks = Arc<Mutex<BTreeMap<String, Vec<Value>>>>;

/// The example API: `GET` and `POST /api/{user_id}/tasks`.
async fn serve_tasks(listener: TcpListener) {
    let tasks = Tasks::default();
    while let Ok((stream, _)) = listener.accept().await {
        let tasks = Arc::clone(&tasks);
        tokio::spawn(async move {
            let service = service_fn(|request| answer_task_request(&tasks, request));
            // A connection that breaks is the gateway's to notice.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer_task_request(
    tasks: &Tasks,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let user = request.headers().get("x-user-id").and_then(|value| value.to_str().ok());
    let Some(user) = user.map(str::to_owned) else {
        return Ok(json_answer(StatusCode::UNAUTHORIZED, &json!({"error": "no X-User-Id"})));
    };
    let method = request.method().clone();
    let added = if method == Method::POST {
        let body = Limited::new(request.into_body(), MAX_TASK_BYTES).collect().await;
        body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok())
    } else {
        None
    };
    let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
    let own = tasks.entry(user.clone()).or_default();
    Ok(match (method, added) {
        (Method::GET, _) => json_answer(StatusCode::OK, &json!({"user": user, "tasks": own})),
        (Method::POST, Some(task)) if own.len() < MAX_TASKS => {
            own.push(task);
            json_answer(StatusCode::CREATED, &json!({"user": user, "tasks": own}))
        }
        _ => json_answer(StatusCode::BAD_REQUEST, &json!({"error": "send a task as JSON"})),
    })
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(value.to_string().into()));
    *answer.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
    answer
}
