//! One worker's side of one server: its idle HTTP/1.1 connections, of which the one used last is
//! used next, and its shared HTTP/2 connections. A [`Flight`] stands for one request that is there.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderValue;
use tokio::sync::{Mutex, Notify};

use super::state::{Apart, Room, ServerState};
use super::{Carrier, Lease};
use crate::config::Balance;
use crate::proxy::link::Link;
use crate::telemetry::tally::Label;

/// HTTP/2 connections of one worker to one server. Servers commonly allow 100 requests on each.
pub(super) const MAX_SHARED: usize = 64;

/// Requests at once on one HTTP/2 connection, however many its server allows.
const MAX_STREAMS: usize = 1_000;

/// One server of an upstream.
pub(crate) struct Server {
    /// `host:port` or `unix:/path`, for logs and metrics.
    pub(crate) authority: Label,
    /// The server's own `Host`.
    pub(crate) host: HeaderValue,
    /// Whether it is reached by TLS.
    pub(crate) over_tls: bool,
    pub(super) state: Arc<ServerState>,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Rc<Shared>>>,
    /// Held by whoever makes an HTTP/2 connection: the others wait for that one.
    pub(super) dialing: Mutex<()>,
    max_idle: usize,
    keep_alive: Duration,
    in_flight: Arc<Apart<AtomicUsize>>,
    counts_for_all: bool,
    line: Rc<Line>,
    room: Arc<Room>,
}

struct Idle {
    link: Link,
    since: Instant,
}

/// An HTTP/2 connection.
pub(super) struct Shared {
    send: SendRequest<Bytes>,
    streams: Cell<usize>,
    /// Takes no more requests.
    retired: Cell<bool>,
    idle_since: Cell<Instant>,
}

/// Requests of one worker that wait for a connection.
pub(super) struct Line {
    pub(super) waiting: Cell<usize>,
    /// The last tick of the worker: the time, to a tenth of a second, for whom that is enough.
    pub(super) ticked: Cell<Instant>,
    /// Told when a connection is given back while somebody waits.
    pub(super) freed: Notify,
}

impl Line {
    /// Nobody waits.
    pub(super) fn new() -> Self {
        Self {
            waiting: Cell::default(),
            ticked: Cell::new(Instant::now()),
            freed: Notify::default(),
        }
    }
}

impl Server {
    /// One worker's side of `state`.
    pub(super) fn new(
        state: &Arc<ServerState>,
        config: &crate::config::Upstream,
        line: &Rc<Line>,
        room: &Arc<Room>,
    ) -> Self {
        Self {
            authority: Label::clone(&state.authority),
            host: state.host.clone(),
            over_tls: state.tls.is_some(),
            idle: RefCell::default(),
            shared: RefCell::default(),
            dialing: Mutex::new(()),
            max_idle: config.max_idle_connections,
            keep_alive: config.keep_alive.0,
            in_flight: state.add_worker(),
            counts_for_all: config.balance == Balance::LeastRequests,
            line: Rc::clone(line),
            room: Arc::clone(room),
            state: Arc::clone(state),
        }
    }

    /// An exchange has ended well.
    pub(crate) fn note_success(&self) {
        self.state.note_success();
    }

    /// An exchange failed for which this server is to blame: no connection, broken off, no answer
    /// in time, an answer that is not HTTP. (A 5xx is an answer.)
    pub(crate) fn note_failure(&self) {
        self.state.note_failure(Instant::now());
    }

    /// Keeps a connection that is between two exchanges.
    pub(crate) fn give_back(&self, link: Link) {
        if self.room.max_connections > 0 && self.room.waiting.load(Relaxed) > 0 {
            if self.line.waiting.get() == 0 {
                // Somebody waits at another worker, who cannot use this one: dropping it makes
                // room for theirs.
                return;
            }
            self.line.freed.notify_one();
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.max_idle.max(self.line.waiting.get()) {
            idle.push(Idle { link, since: self.line.ticked.get() });
        }
    }

    /// An idle connection, or an HTTP/2 one with room.
    pub(super) fn take(self: &Rc<Self>, now: Instant) -> Option<Lease> {
        if let Some(link) = self.take_idle(now) {
            return Some(self.lease(Carrier::Http1(link), None, true));
        }
        let (shared, send) = self.take_shared()?;
        Some(self.lease(Carrier::Http2(send), Some(shared), true))
    }

    fn take_idle(&self, now: Instant) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let mut last = idle.pop()?;
            if self.is_fresh(last.since, now) && last.link.is_quiet() {
                return Some(last.link);
            }
        }
    }

    fn take_shared(&self) -> Option<(Rc<Shared>, SendRequest<Bytes>)> {
        let mut all = self.shared.borrow_mut();
        if all.is_empty() {
            return None;
        }
        let mut taken = None;
        all.retain(|shared| {
            if taken.is_none() && shared.has_room() {
                let mut send = shared.send.clone();
                // An error says that it has ended or is told to (GOAWAY, RFC 9113 §6.8).
                match send.poll_ready(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(Ok(())) => taken = Some((Rc::clone(shared), send)),
                    Poll::Ready(Err(_)) => return false,
                    Poll::Pending => {}
                }
            }
            !shared.retired.get()
        });
        taken
    }

    /// Adds an HTTP/2 connection and leases it.
    pub(super) fn add_shared(self: &Rc<Self>, send: SendRequest<Bytes>) -> Lease {
        let shared = Rc::new(Shared {
            send: send.clone(),
            streams: Cell::new(0),
            retired: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
        });
        self.shared.borrow_mut().push(Rc::clone(&shared));
        self.lease(Carrier::Http2(send), Some(shared), false)
    }

    /// Leases a connection that has just been made.
    pub(super) fn lease_new(self: &Rc<Self>, link: Link) -> Lease {
        self.lease(Carrier::Http1(link), None, false)
    }

    fn lease(self: &Rc<Self>, carrier: Carrier, shared: Option<Rc<Shared>>, reused: bool) -> Lease {
        let flight = Flight::begin(Rc::clone(self), shared);
        Lease { carrier, server: Rc::clone(self), flight, reused }
    }

    /// Whether a request would find a connection here, or a place for one.
    pub(super) fn has_room(&self) -> bool {
        self.room.max_connections == 0
            || self.state.has_place()
            || !self.idle.borrow().is_empty()
            || self.shared.borrow().iter().any(|shared| shared.has_room())
    }

    /// Whether one more HTTP/2 connection may be made.
    pub(super) fn may_share_more(&self) -> bool {
        self.shared.borrow().len() < MAX_SHARED
    }

    /// Requests in flight over all workers.
    pub(super) fn load(&self) -> usize {
        self.state.in_flight.0.load(Relaxed)
    }

    /// Closes connections that have been idle for too long, or whose place others wait for.
    pub(super) fn close_idle(&self, now: Instant) {
        if self.room.waiting.load(Relaxed) > 0 && self.line.waiting.get() == 0 {
            self.idle.borrow_mut().clear();
        }
        let fresh = |idle: &mut Idle| self.is_fresh(idle.since, now) && idle.link.is_quiet();
        self.idle.borrow_mut().retain_mut(fresh);
        self.shared.borrow_mut().retain(|shared| {
            !shared.retired.get()
                && (shared.streams.get() > 0 || self.is_fresh(shared.idle_since.get(), now))
        });
    }

    fn is_fresh(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) < self.keep_alive
    }
}

impl Shared {
    fn has_room(&self) -> bool {
        let most = self.send.current_max_send_streams().min(MAX_STREAMS);
        !self.retired.get() && self.streams.get() < most
    }
}

/// One request at a server, from its lease to the end of its answer or tunnel: whoever sees that
/// end holds this until then.
pub(crate) struct Flight {
    server: Rc<Server>,
    shared: Option<Rc<Shared>>,
}

impl Flight {
    fn begin(server: Rc<Server>, shared: Option<Rc<Shared>>) -> Self {
        // Nobody else writes this count, so it needs no lock on the bus.
        let own = &server.in_flight.0;
        own.store(own.load(Relaxed) + 1, Relaxed);
        if server.counts_for_all {
            server.state.in_flight.0.fetch_add(1, Relaxed);
        }
        if let Some(shared) = &shared {
            shared.streams.set(shared.streams.get() + 1);
        }
        Self { server, shared }
    }

    /// The shared connection takes no more requests; those that run go on.
    pub(crate) fn retire(&self) {
        if let Some(shared) = &self.shared {
            shared.retired.set(true);
        }
    }

    /// As [`Server::note_failure`]; and if the request went over a shared connection, that takes
    /// no more: it may be dead without anybody having noticed.
    pub(crate) fn note_failure(&self) {
        self.server.note_failure();
        self.retire();
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let server = &self.server;
        let own = &server.in_flight.0;
        own.store(own.load(Relaxed) - 1, Relaxed);
        if server.counts_for_all {
            server.state.in_flight.0.fetch_sub(1, Relaxed);
        }
        if let Some(shared) = &self.shared {
            shared.streams.set(shared.streams.get() - 1);
            shared.idle_since.set(Instant::now());
            if server.line.waiting.get() > 0 {
                server.line.freed.notify_one();
            }
        }
    }
}
