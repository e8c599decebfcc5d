//! One worker's connections to one upstream. The connection used last is used next, so that a
//! quiet gateway keeps few; servers are taken in turn, and one that cannot be reached is passed
//! over for a while. Nothing here is shared between workers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::body::{BodyFate, BodyState, ClientBody};

/// A server that cannot be reached is passed over for so long, doubled with every failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Longest answer head of an upstream.
const MAX_ANSWER_HEAD_BYTES: usize = 64 << 10;

/// The connections to the servers of one upstream.
pub(crate) struct Pool {
    servers: Vec<Rc<Server>>,
    next: Cell<usize>,
    connect_timeout: Duration,
}

/// One server of an upstream.
pub(crate) struct Server {
    /// `host:port`, for logs and metrics.
    pub(crate) authority: Box<str>,
    /// The same as a header value.
    pub(crate) host: HeaderValue,
    idle: RefCell<Vec<Idle>>,
    max_idle: usize,
    keep_alive: Duration,
    failures: Cell<u32>,
    paused_until: Cell<Option<Instant>>,
}

struct Idle {
    sender: http1::SendRequest<ClientBody>,
    since: Instant,
}

/// A connection in use by one request.
pub(crate) struct Lease {
    sender: http1::SendRequest<ClientBody>,
    server: Rc<Server>,
    fate: Rc<BodyFate>,
    /// Whether it has carried a request before.
    pub(crate) reused: bool,
}

/// What an upstream's configuration says of its connections.
#[derive(Clone, Debug)]
pub(crate) struct PoolConfig {
    /// `host:port` of each server.
    pub(crate) servers: Vec<String>,
    /// Time to connect.
    pub(crate) connect_timeout: Duration,
    /// Idle connections kept to each server.
    pub(crate) max_idle: usize,
    /// An idle connection is not used after this.
    pub(crate) keep_alive: Duration,
}

/// No server could be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// None answered in time.
    #[error("no server of the upstream accepted a connection in time")]
    Timeout,
    /// The system's answer for the one tried last.
    #[error("no server of the upstream could be reached")]
    Io(#[source] std::io::Error),
    /// The connection could not be made ready for HTTP.
    #[error("a connection to the upstream could not be used")]
    Handshake(#[source] hyper::Error),
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(config: &PoolConfig) -> Self {
        let server = |authority: &String| {
            Rc::new(Server {
                authority: authority.as_str().into(),
                host: HeaderValue::from_str(authority)
                    .expect("the configuration accepts host:port only"),
                idle: RefCell::default(),
                max_idle: config.max_idle,
                keep_alive: config.keep_alive,
                failures: Cell::new(0),
                paused_until: Cell::new(None),
            })
        };
        Self {
            servers: config.servers.iter().map(server).collect(),
            next: Cell::new(0),
            connect_timeout: config.connect_timeout,
        }
    }

    /// An idle connection, or a new one. `fresh` asks for a new one.
    ///
    /// # Errors
    /// When no server could be reached; nothing has been sent then.
    pub(crate) async fn lease(
        &self,
        fate: &Rc<BodyFate>,
        fresh: bool,
    ) -> Result<Lease, ConnectError> {
        let first = self.next.get();
        self.next.set((first + 1) % self.servers.len());
        let now = Instant::now();
        let in_turn =
            || (0..self.servers.len()).map(|i| &self.servers[(first + i) % self.servers.len()]);
        let usable = in_turn().filter(|server| !server.is_paused(now));
        // When all are paused they are all tried: a wrong guess must not be an outage.
        let paused = in_turn().filter(|server| server.is_paused(now));
        let mut failed = ConnectError::Timeout;
        for server in usable.chain(paused) {
            if !fresh && let Some(sender) = server.take_idle(now).await {
                return Ok(server.lease(sender, fate, true));
            }
            match self.connect(server).await {
                Ok(sender) => {
                    server.failures.set(0);
                    server.paused_until.set(None);
                    return Ok(server.lease(sender, fate, false));
                }
                Err(error) => {
                    server.pause(Instant::now());
                    tracing::debug!(server = %server.authority, %error, "upstream connection failed");
                    failed = error;
                }
            }
        }
        Err(failed)
    }

    async fn connect(
        &self,
        server: &Server,
    ) -> Result<http1::SendRequest<ClientBody>, ConnectError> {
        let stream =
            tokio::time::timeout(self.connect_timeout, TcpStream::connect(&*server.authority))
                .await
                .map_err(|_| ConnectError::Timeout)?
                .map_err(ConnectError::Io)?;
        stream.set_nodelay(true).map_err(ConnectError::Io)?;
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_ANSWER_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Handshake)?;
        // Ends with its sender: an idle connection with its place in the pool, one in use with its
        // lease.
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(sender)
    }

    /// Every server, and whether it is in use.
    pub(crate) fn servers(&self) -> impl Iterator<Item = (&str, bool)> {
        let now = Instant::now();
        self.servers.iter().map(move |server| (&*server.authority, !server.is_paused(now)))
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn close_stale(&self, now: Instant) {
        for server in &self.servers {
            let fresh = |idle: &Idle| {
                now.duration_since(idle.since) < server.keep_alive && !idle.sender.is_closed()
            };
            server.idle.borrow_mut().retain(fresh);
        }
    }
}

impl Server {
    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.get().is_some_and(|until| until > now)
    }

    fn pause(&self, now: Instant) {
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(6)).min(LONGEST_PAUSE);
        self.paused_until.set(Some(now + pause));
    }

    async fn take_idle(&self, now: Instant) -> Option<http1::SendRequest<ClientBody>> {
        loop {
            let mut idle = self.idle.borrow_mut().pop()?;
            let usable =
                !idle.sender.is_closed() && now.duration_since(idle.since) < self.keep_alive;
            // It was given back after a complete exchange, so this waits for its task at most.
            if usable && (idle.sender.is_ready() || idle.sender.ready().await.is_ok()) {
                return Some(idle.sender);
            }
        }
    }

    fn lease(
        self: &Rc<Self>,
        sender: http1::SendRequest<ClientBody>,
        fate: &Rc<BodyFate>,
        reused: bool,
    ) -> Lease {
        Lease { sender, server: Rc::clone(self), fate: Rc::clone(fate), reused }
    }
}

impl Lease {
    /// The server at the other end.
    pub(crate) fn server(&self) -> &Rc<Server> {
        &self.server
    }

    /// Sends a request. What was not sent at all comes back with the error.
    pub(crate) fn send(
        &mut self,
        request: Request<ClientBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<ClientBody>>>> + use<>
    {
        self.sender.try_send_request(request)
    }

    /// Keeps the connection for the next request, if this one was sent in full.
    pub(crate) fn give_back(self) {
        if self.fate.state.get() != BodyState::Complete || self.sender.is_closed() {
            return;
        }
        let mut idle = self.server.idle.borrow_mut();
        if idle.len() < self.server.max_idle {
            idle.push(Idle { sender: self.sender, since: Instant::now() });
        }
    }
}
