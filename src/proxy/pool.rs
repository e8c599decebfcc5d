//! One worker's connections to one upstream. The connection used last is used next, so that a
//! quiet gateway keeps few; servers are taken in turn, and one that cannot be reached is passed
//! over for a while. Nothing here is shared between workers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::net::TcpStream;

use super::link::Link;

/// A server that cannot be reached is passed over for so long, doubled with every failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

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

/// A socket to an upstream.
pub(crate) struct Stream(TcpStream);

impl Stream {
    pub(crate) fn poll_read_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.0.poll_read_ready(cx)
    }
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.0.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}
impl tokio::io::AsyncRead for Stream {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        b: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, b)
    }
}
impl tokio::io::AsyncWrite for Stream {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        b: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, b)
    }
    fn poll_write_vectored(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        b: &[std::io::IoSlice<'_>],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write_vectored(cx, b)
    }
    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct Idle {
    link: Link,
    since: Instant,
}

/// A connection for one request.
pub(crate) struct Lease {
    /// The connection.
    pub(crate) link: Link,
    /// The other end.
    pub(crate) server: Rc<Server>,
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

    /// An idle connection, or a new one.
    ///
    /// # Errors
    /// When no server could be reached; nothing has been sent then.
    pub(crate) async fn lease(&self) -> Result<Lease, ConnectError> {
        let first = self.next.get();
        self.next.set((first + 1) % self.servers.len());
        let now = Instant::now();
        let in_turn =
            || (0..self.servers.len()).map(|i| &self.servers[(first + i) % self.servers.len()]);
        let usable = in_turn().filter(|server| !server.is_paused(now));
        // When all are paused they are all tried: a wrong guess must not be an outage.
        // Looked at now, so that one that fails below is not tried twice.
        let paused: Vec<_> = in_turn().filter(|server| server.is_paused(now)).collect();
        let mut failed = ConnectError::Timeout;
        for server in usable.chain(paused) {
            if let Some(link) = server.take_idle(now) {
                return Ok(Lease { link, server: Rc::clone(server), reused: true });
            }
            match self.connect(server).await {
                Ok(link) => return Ok(Lease { link, server: Rc::clone(server), reused: false }),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// A new connection to `server`.
    ///
    /// # Errors
    /// When it could not be reached; it is then passed over for a while.
    pub(crate) async fn connect(&self, server: &Server) -> Result<Link, ConnectError> {
        let connecting = TcpStream::connect(&*server.authority);
        let connected = match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(ConnectError::Io),
            Err(_) => Err(ConnectError::Timeout),
        };
        match connected {
            Ok(stream) => {
                server.failures.set(0);
                server.paused_until.set(None);
                // Without this a small request may wait for the server's delayed acknowledgement.
                let _ = stream.set_nodelay(true);
                Ok(Link::new(Stream(stream)))
            }
            Err(error) => {
                server.pause(Instant::now());
                tracing::debug!(server = %server.authority, %error, "upstream connection failed");
                Err(error)
            }
        }
    }

    /// Every server, and whether it is in use.
    pub(crate) fn servers(&self) -> impl Iterator<Item = (&str, bool)> {
        let now = Instant::now();
        self.servers.iter().map(move |server| (&*server.authority, !server.is_paused(now)))
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn close_stale(&self, now: Instant) {
        for server in &self.servers {
            let usable = |idle: &mut Idle| server.is_fresh(idle, now) && idle.link.is_quiet();
            server.idle.borrow_mut().retain_mut(usable);
        }
    }
}

impl Server {
    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.get().is_some_and(|until| until > now)
    }

    fn pause(&self, now: Instant) {
        // Many requests that fail at once are one failure.
        if self.is_paused(now) {
            return;
        }
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(6)).min(LONGEST_PAUSE);
        self.paused_until.set(Some(now + pause));
    }

    fn take_idle(&self, now: Instant) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let mut last = idle.pop()?;
            if self.is_fresh(&last, now) && last.link.is_quiet() {
                return Some(last.link);
            }
        }
    }

    fn is_fresh(&self, idle: &Idle, now: Instant) -> bool {
        now.duration_since(idle.since) < self.keep_alive
    }

    /// Keeps a connection that is between two exchanges.
    pub(crate) fn give_back(&self, link: Link) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.max_idle {
            idle.push(Idle { link, since: Instant::now() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_is_tried_once_and_then_passed_over() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let live = listener.local_addr().unwrap().to_string();
        let gone = {
            let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            closed.local_addr().unwrap().to_string()
        };
        let config = |servers| PoolConfig {
            servers,
            connect_timeout: Duration::from_secs(5),
            max_idle: 1,
            keep_alive: Duration::from_secs(5),
        };
        let alone = Pool::new(&config(vec![gone.clone()]));
        assert!(alone.lease().await.is_err());
        assert_eq!(alone.servers[0].failures.get(), 1);

        let pool = Pool::new(&config(vec![gone, live.clone()]));
        for _ in 0..4 {
            assert_eq!(*pool.lease().await.unwrap().server.authority, *live);
        }
        assert_eq!(pool.servers[0].failures.get(), 1, "it is passed over for a while");
        let states: Vec<_> = pool.servers().map(|(_, up)| up).collect();
        assert_eq!(states, [false, true]);
    }
}
