//! The connections to one upstream: which server a request goes to, over an idle connection or a
//! new one, and how long it waits for that. A `Pool` belongs to one worker; what all workers must
//! agree on is in `UpstreamState`.
//!
//! ```text
//! request ─▶ balance: a server that is up and has room ─▶ idle connection ───────────▶ lease
//!                │ all are full                              │ none
//!                ▼                                           ▼
//!            wait in line, or 503                    dial (next server when it fails)
//! ```
//!
//! When no server is thought to be up, all are tried: a wrong guess must not be an outage.

mod balance;
mod budget;
mod dial;
mod health;
mod resolve;
mod server;
mod standing;
mod state;
pub(crate) mod stream;
mod tls;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;

use self::balance::Turns;
use self::budget::Budget;
use self::dial::dial;
use self::server::Line;
pub(crate) use self::server::{Flight, Server};
pub(crate) use self::state::{Report, ServerReport, UpstreamState};
pub(crate) use self::stream::Stream;
use super::link::Link;
use crate::config::{Balance, Protocol};

/// How often idle connections are looked through.
const LOOK_THROUGH: Duration = Duration::from_secs(1);

/// Flow-control windows of an HTTP/2 connection and of each answer on it: what a server may send
/// before it is read. That of the connection is the largest there is: a client that does not read its
/// answer must not hold up those of others, and the number of answers bounds what waits.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const STREAM_WINDOW: u32 = 64 << 10;

/// Bytes of a request body that are kept for one answer's stream while the server takes none.
const SEND_BUFFER: usize = 64 << 10;

/// Longest head of an answer over HTTP/2, counted as RFC 9113 §6.5.2 does.
const MAX_HEADER_LIST: u32 = 64 << 10;

/// One worker's connections to the servers of one upstream.
pub(crate) struct Pool {
    state: Arc<UpstreamState>,
    servers: Vec<Rc<Server>>,
    turns: Turns,
    /// Where the search for the least busy server begins, so that equals take turns.
    first: Cell<usize>,
    budget: Budget,
    line: Rc<Line>,
    looked_through: Cell<Instant>,
}

/// What a request says about where it would go.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ask<'a> {
    /// What `hash_user` goes by: the subject, else the client's address as text.
    pub(crate) user: Option<&'a str>,
    /// The route's own time to connect.
    pub(crate) connect_timeout: Option<Duration>,
}

/// A connection for one request.
pub(crate) struct Lease {
    /// The connection.
    pub(crate) carrier: Carrier,
    /// The other end.
    pub(crate) server: Rc<Server>,
    /// To be held until the answer has ended.
    pub(crate) flight: Flight,
    /// Whether the connection has carried a request before.
    pub(crate) reused: bool,
}

/// What carries a request.
pub(crate) enum Carrier {
    /// A connection of its own.
    Http1(Link),
    /// A connection that is shared, and ready for one more request.
    Http2(SendRequest<Bytes>),
}

/// Why there is no connection. Nothing was sent then.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Every server has all the connections it may have.
    #[error("every server of the upstream has all the connections it may have")]
    Full,
    /// The system's answer for the server tried last.
    #[error("no server of the upstream could be reached")]
    Io(#[source] std::io::Error),
    /// None answered in time.
    #[error("no server of the upstream accepted a connection in time")]
    Timeout,
}

/// Which server a request may go to now.
enum Choice {
    /// This one.
    Server(usize),
    /// Those that are up have no room.
    Full,
    /// All have been tried.
    Nobody,
}

/// Whether a new connection must find a place among those that a server may have.
#[derive(Clone, Copy)]
enum Counted {
    Within,
    Beyond,
}

/// The servers that a request has tried: a bit each.
#[derive(Default)]
struct Tried([u64; 4]);

impl Tried {
    fn add(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    fn has(&self, place: usize) -> bool {
        self.0[place / 64] & (1 << (place % 64)) != 0
    }
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(state: &Arc<UpstreamState>) -> Self {
        let line = Rc::new(Line::new());
        let server = |each| Rc::new(Server::new(each, &state.config, &line, &state.room));
        let servers: Vec<_> = state.servers.iter().map(server).collect();
        let pool = Self {
            turns: Turns::new(servers.len()),
            first: Cell::new(0),
            budget: Budget::new(state.config.retry_budget),
            looked_through: Cell::new(Instant::now()),
            state: Arc::clone(state),
            servers,
            line,
        };
        // Workers do not all begin with the same server.
        for _ in 0..state.pools.fetch_add(1, Relaxed) % pool.servers.len() {
            pool.choose(&Ask::default(), Instant::now(), &Tried::default());
        }
        pool
    }

    /// What all workers share of it.
    pub(crate) fn state(&self) -> &Arc<UpstreamState> {
        &self.state
    }

    /// An idle connection, or a new one. `now` is the time.
    ///
    /// # Errors
    /// No server could be reached, or none had room.
    pub(crate) async fn lease(&self, ask: &Ask<'_>, now: Instant) -> Result<Lease, LeaseError> {
        self.budget.deposit();
        let first = match self.servers.len() {
            1 => Choice::Server(0),
            _ => self.choose(ask, now, &Tried::default()),
        };
        if let Choice::Server(place) = first
            && self.line.waiting.get() == 0
            && let Some(lease) = self.servers[place].take(now)
        {
            return Ok(lease);
        }
        // Boxed: dialing is rare, and its state large.
        Box::pin(self.lease_slowly(ask, first)).await
    }

    async fn lease_slowly(&self, ask: &Ask<'_>, first: Choice) -> Result<Lease, LeaseError> {
        // Those who wait come first.
        if self.line.waiting.get() == 0 {
            match self.attempt(ask, Some(first)).await {
                Err(LeaseError::Full) => {}
                outcome => return outcome,
            }
        }
        let room = &self.state.room;
        let Some(_waiting) = Waiting::join(self) else {
            self.state.counts.overloaded.fetch_add(1, Relaxed);
            return Err(LeaseError::Full);
        };
        let deadline = tokio::time::Instant::now() + self.state.config.wait_timeout.0;
        loop {
            // Listened for before the attempt: what becomes free meanwhile is not missed.
            let mut here = std::pin::pin!(self.line.freed.notified());
            let mut elsewhere = std::pin::pin!(room.freed.notified());
            here.as_mut().enable();
            elsewhere.as_mut().enable();
            if self.has_room() {
                match self.attempt(ask, None).await {
                    Err(LeaseError::Full) => {}
                    outcome => {
                        // One word may have stood for two places.
                        if self.line.waiting.get() > 1 && self.has_room() {
                            self.line.freed.notify_one();
                        }
                        return outcome;
                    }
                }
            }
            let freed = async {
                tokio::select! { () = here => {}, () = elsewhere => {} }
            };
            if tokio::time::timeout_at(deadline, freed).await.is_err() {
                self.state.counts.overloaded.fetch_add(1, Relaxed);
                return Err(LeaseError::Full);
            }
        }
    }

    fn has_room(&self) -> bool {
        self.servers.iter().any(|server| server.has_room())
    }

    /// A connection to the first server that gives one, without waiting for room.
    async fn attempt(&self, ask: &Ask<'_>, first: Option<Choice>) -> Result<Lease, LeaseError> {
        let mut tried = Tried::default();
        let mut failed: Option<LeaseError> = None;
        let mut next = first;
        loop {
            let now = Instant::now();
            let choice = next.take().unwrap_or_else(|| self.choose(ask, now, &tried));
            let place = match choice {
                Choice::Server(place) => place,
                Choice::Full | Choice::Nobody => return Err(failed.unwrap_or(LeaseError::Full)),
            };
            if let Some(error) = failed.take_if(|_| !self.may_retry()) {
                return Err(error);
            }
            tried.add(place);
            let server = &self.servers[place];
            if let Some(lease) = server.take(now) {
                return Ok(lease);
            }
            match self.open(server, ask, Counted::Within).await {
                Ok(lease) => return Ok(lease),
                // Another worker was faster; what was there before says more.
                Err(LeaseError::Full) => {}
                Err(error) => failed = Some(error),
            }
        }
    }

    /// A new connection to `server`, or an HTTP/2 one that has room by now.
    async fn open(
        &self,
        server: &Rc<Server>,
        ask: &Ask<'_>,
        counted: Counted,
    ) -> Result<Lease, LeaseError> {
        let patience = ask.connect_timeout.unwrap_or(self.state.config.connect_timeout.0);
        let opening = async {
            match self.state.config.protocol {
                Protocol::Http1 => {
                    let stream = self.dial(server, patience, counted).await?;
                    Ok(server.lease_new(Link::new(stream)))
                }
                Protocol::H2 | Protocol::H2c => self.open_shared(server, patience).await,
            }
        };
        let opened = tokio::time::timeout(patience, opening).await;
        let opened = opened.unwrap_or(Err(LeaseError::Timeout));
        if let Err(error @ (LeaseError::Io(_) | LeaseError::Timeout)) = &opened {
            server.note_failure();
            let error = crate::telemetry::chain(error);
            tracing::debug!(server = %server.authority, error, "upstream connection failed");
        }
        opened
    }

    async fn dial(
        &self,
        server: &Rc<Server>,
        patience: Duration,
        counted: Counted,
    ) -> Result<Stream, LeaseError> {
        let place = match counted {
            Counted::Within => server.state.take_place().ok_or(LeaseError::Full)?,
            Counted::Beyond => server.state.take_place_beyond(),
        };
        dial(&server.state, Some(place), patience).await
    }

    async fn open_shared(
        &self,
        server: &Rc<Server>,
        patience: Duration,
    ) -> Result<Lease, LeaseError> {
        let _turn = server.dialing.lock().await;
        if let Some(lease) = server.take(Instant::now()) {
            return Ok(lease);
        }
        if !server.may_share_more() {
            return Err(LeaseError::Full);
        }
        let stream = self.dial(server, patience, Counted::Within).await?;
        stream.give_up_when_unacknowledged();
        let (send, connection) = h2::client::Builder::new()
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_window_size(STREAM_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEADER_LIST)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(|error| LeaseError::Io(std::io::Error::other(error)))?;
        // It ends by itself once the pool and all requests have let go of the connection, or with
        // the worker.
        let authority = server.authority.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(server = %authority, %error, "an HTTP/2 connection has ended");
            }
        });
        let send =
            send.ready().await.map_err(|error| LeaseError::Io(std::io::Error::other(error)))?;
        Ok(server.add_shared(send))
    }

    /// A new connection to `server`, for a request whose reused one turned out to be closed. It may
    /// be one more than `max_connections`: the closed one still holds its place.
    ///
    /// # Errors
    /// The server cannot be reached, or is full.
    pub(crate) async fn reconnect(
        &self,
        server: &Rc<Server>,
        ask: &Ask<'_>,
    ) -> Result<Lease, LeaseError> {
        Box::pin(self.open(server, ask, Counted::Beyond)).await
    }

    /// Whether something may be sent a second time; counts it when it may.
    pub(crate) fn may_retry(&self) -> bool {
        let may = self.budget.withdraw();
        let counts = &self.state.counts;
        if may { &counts.retries } else { &counts.retries_refused }.fetch_add(1, Relaxed);
        may
    }

    /// Chooses among the servers that were not tried.
    fn choose(&self, ask: &Ask<'_>, now: Instant, tried: &Tried) -> Choice {
        let now = self.state.at(now);
        let slow_start = self.state.slow_start;
        let (mut full, mut up) = (false, false);
        // First those that are up, then anybody.
        for anybody in [false, true] {
            let candidates = |place: &usize| {
                let server = &self.servers[*place];
                !tried.has(*place) && (anybody || server.state.standing.is_usable(now))
            };
            let mut with_room = |place: &usize| {
                up = true;
                let has_room = self.servers[*place].has_room();
                full |= !has_room;
                has_room
            };
            let share = |place: usize| {
                let server = &self.servers[place].state;
                let share = server.standing.share(now, slow_start) * u64::from(server.weight);
                u32::try_from(share).unwrap_or(u32::MAX)
            };
            let all = 0..self.servers.len();
            let chosen = match (self.state.config.balance, ask.user) {
                (Balance::HashUser, Some(user)) => {
                    let servers = all.filter(candidates).filter(&mut with_room).map(|place| {
                        let server = &self.servers[place].state;
                        (place, server.hash, server.weight)
                    });
                    balance::rendezvous(balance::stable_hash(user), servers)
                }
                (Balance::LeastRequests, _) => {
                    let first = self.first.get();
                    self.first.set((first + 1) % self.servers.len());
                    let turned = all.map(|i| (first + i) % self.servers.len());
                    let servers = turned.filter(candidates).filter(&mut with_room);
                    balance::fewest(servers.map(|at| (at, self.servers[at].load(), share(at))))
                }
                (Balance::RoundRobin | Balance::HashUser, _) => {
                    let servers = all.filter(candidates).filter(&mut with_room);
                    self.turns.next(servers.map(|place| (place, share(place))))
                }
            };
            match chosen {
                Some(place) => return Choice::Server(place),
                // One that is down is no place for those for whom there is no room.
                None if up => break,
                None => {}
            }
        }
        if full { Choice::Full } else { Choice::Nobody }
    }

    /// Housekeeping, ten times a second.
    pub(crate) fn tick(&self, now: Instant) {
        self.line.ticked.set(now);
        let wanted = self.state.room.waiting.load(Relaxed) > 0;
        let due = now.saturating_duration_since(self.looked_through.get()) >= LOOK_THROUGH;
        if due {
            self.looked_through.set(now);
            self.budget.next_second();
        }
        if due || wanted {
            self.servers.iter().for_each(|server| server.close_idle(now));
        }
    }
}

/// A request that waits for a connection.
struct Waiting<'p>(&'p Pool);

impl<'p> Waiting<'p> {
    /// Takes a place in line, if there is one.
    fn join(pool: &'p Pool) -> Option<Self> {
        let room = &pool.state.room;
        let joined = room.waiting.fetch_update(Relaxed, Relaxed, |waiting| {
            (waiting < room.max_waiting).then_some(waiting + 1)
        });
        joined.ok()?;
        pool.line.waiting.set(pool.line.waiting.get() + 1);
        Some(Self(pool))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.line.waiting.set(self.0.line.waiting.get() - 1);
        self.0.state.room.waiting.fetch_sub(1, Relaxed);
    }
}
