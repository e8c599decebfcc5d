//! One worker: a thread with its own runtime, its share of the connections, its own upstream
//! connections and token cache. Nothing on the request path is shared with another worker.
//!
//! All workers accept from the same sockets, so a second gateway on the same address is refused by
//! the system instead of getting half of the traffic. Whoever accepts hands the connection to the
//! worker with the fewest; with one worker there is nothing to hand over.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listen::{Accepting, Listener};
use super::proxy_protocol;
use super::tls::{Shaken, Tls};
use crate::gateway::{Connection, Desk, Gateway};
use crate::identity::address::Networks;
use crate::message::RequestHead;
use crate::telemetry::access::AccessLog;
use crate::telemetry::tally::Tally;
use crate::wire::http1::Http1;
use crate::wire::http2::{self, Http2};
use crate::wire::pace::{Ticker, WatchGuard, unless_late};
use crate::wire::{
    Client as _, FIRST_HEAD_GRACE, Negotiated, NoneLeft, Peer, Place, Share, Shares, Socket,
    Stream, WireLimits,
};

/// Pause after a failed accept: running out of files does not end by trying harder.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a worker is asked to do.
pub(crate) enum Order {
    /// Serve a connection that another worker accepted.
    Serve(OwnedFd, IpAddr, Option<Share>),
    /// Tell the numbers counted so far.
    Tally(oneshot::Sender<Tally>),
    /// Take no more connections, finish what runs, end.
    Drain,
}

/// How others reach a worker.
#[derive(Clone)]
pub(crate) struct Door {
    /// Its orders.
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    /// Its open connections.
    connections: Arc<AtomicUsize>,
}

/// A worker about to start.
pub(crate) struct Seat {
    /// Place in `doors`.
    pub(crate) index: usize,
    /// All workers.
    pub(crate) doors: Arc<[Door]>,
    /// The orders for this one.
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
    /// Own handles to the shared sockets.
    pub(crate) listeners: Vec<Listener>,
    /// TLS on all of them.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Who may come in, and how many of them; the same for all workers.
    pub(crate) admission: Arc<Admission>,
    /// The gateway.
    pub(crate) gateway: Arc<Gateway>,
    /// This worker's end of the access log.
    pub(crate) access: AccessLog,
    /// Limits of connections.
    pub(crate) limits: Limits,
}

/// What is asked of a connection before it is served.
pub(crate) struct Admission {
    /// Peers that must say in a PROXY header who the client is.
    pub(crate) proxy_protocol: Networks,
    /// Connections by client address.
    pub(crate) shares: Arc<Shares>,
    /// Whether the limit for each address is for loopback, too.
    pub(crate) limits_loopback: bool,
    /// Time for a PROXY header and a TLS handshake.
    pub(crate) handshake_timeout: Duration,
}

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Over all workers.
    pub(crate) max_connections: usize,
    /// Whether plain connections may begin with HTTP/2.
    pub(crate) h2c: bool,
    /// Times of heads.
    pub(crate) wire: WireLimits,
    /// Time to finish when draining.
    pub(crate) drain_timeout: Duration,
}

/// A worker's door and the receiving end of its orders.
pub(crate) fn door() -> (Door, mpsc::UnboundedReceiver<Order>) {
    let (orders, receiver) = mpsc::unbounded_channel();
    (Door { orders, connections: Arc::default() }, receiver)
}

/// Open connections of all workers.
pub(crate) fn open_connections(doors: &[Door]) -> usize {
    doors.iter().map(|door| door.connections.load(Relaxed)).sum()
}

/// Serves until told to drain, then until all is finished or the drain timeout is over.
///
/// # Errors
/// When the system gives no runtime, or refuses a socket.
pub(crate) fn run(seat: Seat) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve(seat))
}

/// What the tasks of one worker share.
struct Worker {
    index: usize,
    doors: Arc<[Door]>,
    desk: Rc<Desk>,
    ticker: Arc<Ticker>,
    tls: Option<Arc<Tls>>,
    admission: Arc<Admission>,
    gateway: Arc<Gateway>,
    limits: Limits,
    tasks: TaskTracker,
    /// Cancelled when nothing more is accepted.
    closing: CancellationToken,
    warned_of_proxy_header: Cell<bool>,
}

async fn serve(seat: Seat) -> io::Result<()> {
    let Seat { index, doors, mut orders, listeners, tls, admission, gateway, access, limits } =
        seat;
    let tasks = TaskTracker::new();
    let desk = Rc::new(Desk::new(Arc::clone(&gateway), access));
    let ticker = Arc::new(Ticker::default());
    let closing = CancellationToken::new();
    let worker = Rc::new(Worker {
        index,
        doors,
        desk,
        ticker,
        tls,
        admission,
        gateway,
        limits,
        tasks,
        closing: closing.clone(),
        warned_of_proxy_header: Cell::new(false),
    });

    let at_each_tick = Rc::clone(&worker);
    let ticking = tokio::task::spawn_local(async move {
        let Worker { ticker, desk, .. } = &*at_each_tick;
        ticker.run(|| desk.tick(Instant::now())).await;
    });
    let mut accepting = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let listener = Accepting::new(listener)?;
        let accept = Rc::clone(&worker).accept_from(listener, closing.clone());
        accepting.push(tokio::task::spawn_local(accept));
    }

    while let Some(order) = orders.recv().await {
        match order {
            order @ Order::Serve(..) => worker.take_over(order),
            // Nobody waits any more when metrics were given up.
            Order::Tally(reply) => drop(reply.send(worker.desk.tally())),
            Order::Drain => break,
        }
    }

    // First, so that no answer begins without saying that it is the last once nobody can connect.
    worker.ticker.drain();
    // Those that the system has accepted for us already, or another worker handed over.
    closing.cancel();
    for task in accepting {
        let _ = task.await;
    }
    orders.close();
    while let Some(order) = orders.recv().await {
        worker.take_over(order);
    }
    worker.tasks.close();
    if tokio::time::timeout(limits.drain_timeout, worker.tasks.wait()).await.is_err() {
        tracing::warn!(
            connections = worker.doors[index].connections.load(Relaxed),
            "the drain timeout is over; what still runs is cut off"
        );
    }
    ticking.abort();
    Ok(())
}

impl Worker {
    async fn accept_from(self: Rc<Self>, listener: Accepting, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((socket, peer)) => self.place(socket, peer),
                // The client was gone before we looked (accept(2)).
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "accepting connections fails");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Gives a new connection to the worker with the fewest, this one when equal.
    fn place(self: &Rc<Self>, socket: Socket, peer: IpAddr) {
        if open_connections(&self.doors) >= self.limits.max_connections {
            self.refuse(&socket, "too_many_connections");
            return;
        }
        // Those behind a balancer count once it has said who they are.
        let Ok(share) = self.share_of(peer) else {
            self.refuse(&socket, "too_many_connections_from_address");
            return;
        };
        let open = |index: usize| self.doors[index].connections.load(Relaxed);
        let fewest = (0..self.doors.len())
            .min_by_key(|&index| (open(index), index != self.index))
            .unwrap_or(self.index);
        self.doors[fewest].connections.fetch_add(1, Relaxed);
        if fewest == self.index {
            self.begin(socket, peer, share);
            return;
        }
        let socket = socket.into_fd();
        // A worker that has ended takes no orders.
        if let Err(mpsc::error::SendError(order)) =
            self.doors[fewest].orders.send(Order::Serve(socket, peer, share))
        {
            self.doors[fewest].connections.fetch_sub(1, Relaxed);
            self.doors[self.index].connections.fetch_add(1, Relaxed);
            self.take_over(order);
        }
    }

    fn refuse(&self, socket: &Socket, reason: &'static str) {
        self.desk.refuse_connection(socket, self.tls.is_some(), reason);
    }

    /// One of the connections that `address` may have; `None` where there is no limit.
    fn share_of(&self, address: IpAddr) -> Result<Option<Share>, NoneLeft> {
        let admission = &self.admission;
        let exempt = (address.is_loopback() && !admission.limits_loopback)
            || admission.proxy_protocol.contains(address)
            || self.gateway.live.load().trusted.contains(address);
        if exempt { Ok(None) } else { admission.shares.take(address).map(Some) }
    }

    /// Serves a connection that another worker accepted, and that has been counted as this one's.
    fn take_over(self: &Rc<Self>, order: Order) {
        let Order::Serve(socket, peer, share) = order else { return };
        match Socket::new(socket) {
            Ok(socket) => self.begin(socket, peer, share),
            Err(error) => {
                self.doors[self.index].connections.fetch_sub(1, Relaxed);
                tracing::warn!(%error, "a connection could not be taken over");
            }
        }
    }

    /// Serves a connection that has been counted as this worker's.
    fn begin(self: &Rc<Self>, socket: Socket, address: IpAddr, share: Option<Share>) {
        let worker = Rc::clone(self);
        let mut place = Place::of(Arc::clone(&self.doors[self.index].connections), share);
        self.tasks.spawn_local(async move {
            let plain = worker.tls.is_none() && !worker.admission.proxy_protocol.contains(address);
            let admitted = if plain {
                let peer =
                    Peer { address, negotiated: Negotiated::Plain, client_certificate: None };
                Some((Stream::Plain(socket), peer))
            } else {
                // Boxed, as is all that a connection needs for a while only: what it holds while it
                // is idle is its task.
                Box::pin(worker.admit_in_time(socket, address, &mut place)).await
            };
            let Some((stream, peer)) = admitted else { return };
            // Boxed, as its beginning was: who stalls before it must not cost what it needs.
            Box::pin(worker.serve_connection(stream, peer, place)).await;
        });
    }

    /// [`Worker::admit`] within its time; `None`: there is nothing to serve.
    async fn admit_in_time(
        &self,
        socket: Socket,
        address: IpAddr,
        place: &mut Place,
    ) -> Option<(Stream, Peer)> {
        let admitting = self.admit(socket, address, place);
        let in_time = tokio::time::timeout(self.admission.handshake_timeout, admitting);
        let drained = async {
            self.closing.cancelled().await;
            // It may have been accepted a moment ago, with its request on its way.
            tokio::time::sleep(FIRST_HEAD_GRACE).await;
        };
        tokio::select! {
            biased;
            admitted = in_time => match admitted {
                Ok(Ok(admitted)) => admitted,
                Ok(Err(error)) => {
                    tracing::debug!(%error, %address, "a connection did not begin");
                    None
                }
                Err(_) => {
                    tracing::debug!(%address, "a connection took too long to begin");
                    None
                }
            },
            () = drained => None,
        }
    }

    /// Everything before the first byte of HTTP: a PROXY header from those who must send one, then
    /// the TLS handshake. `None`: the client was told that there is no room.
    async fn admit(
        &self,
        socket: Socket,
        mut address: IpAddr,
        place: &mut Place,
    ) -> io::Result<Option<(Stream, Peer)>> {
        if self.admission.proxy_protocol.contains(address) {
            let header = proxy_protocol::take(&socket).await.inspect_err(|error| {
                let malformed = error.kind() == io::ErrorKind::InvalidData;
                if malformed && !self.warned_of_proxy_header.replace(true) {
                    tracing::warn!(
                        peer = %address,
                        "a peer in server.proxy_protocol sent no PROXY header; further ones are not reported"
                    );
                }
            })?;
            if let Some(client) = header.client {
                address = client;
                let Ok(share) = self.share_of(client) else {
                    self.refuse(&socket, "too_many_connections_from_address");
                    return Ok(None);
                };
                place.share = share;
            }
        }
        let Some(tls) = &self.tls else {
            let peer = Peer { address, negotiated: Negotiated::Plain, client_certificate: None };
            return Ok(Some((Stream::Plain(socket), peer)));
        };
        let Shaken { stream, negotiated, client_certificate } = tls.accept(socket).await?;
        Ok(Some((stream, Peer { address, negotiated, client_certificate })))
    }

    async fn serve_connection(&self, stream: Stream, peer: Peer, place: Place) {
        let guard = self.ticker.watch();
        let watch = Arc::clone(&guard.watch);
        let negotiated = peer.negotiated;
        let connection = Connection::new(peer, place);
        if negotiated == Negotiated::Http2 {
            Box::pin(self.serve_http2(stream, Vec::new(), guard, connection)).await;
            return;
        }
        let mut http1 = Http1::new(stream, Arc::clone(&watch), self.limits.wire);
        if self.limits.h2c && negotiated == Negotiated::Plain {
            let mut begins = Box::pin(http1.begins_with_http2());
            let begins_with_http2 = unless_late(&watch, begins.as_mut()).await;
            drop(begins);
            match begins_with_http2 {
                None => return,
                Some(false) => {}
                Some(true) => {
                    let (stream, seen) = http1.into_parts();
                    Box::pin(self.serve_http2(stream, seen, guard, connection)).await;
                    return;
                }
            }
        }
        // When the client is late everything of it is dropped.
        let serving = pin!(self.serve_http1(&mut http1, &connection));
        unless_late(&watch, serving).await;
    }

    async fn serve_http1(&self, client: &mut Http1, connection: &Connection) {
        while let Some(come) = client.next_head().await {
            match come {
                Ok(mut head) => {
                    let checked = head.check(connection.is_over_tls());
                    match checked {
                        Ok(()) => client.begin(&head),
                        Err(_) => client.begin_refusal(&head),
                    }
                    self.desk.handle(client, connection, &head, checked).await;
                }
                Err(error) => {
                    let head = RequestHead::unreadable();
                    client.begin_refusal(&head);
                    Box::pin(self.desk.handle(client, connection, &head, Err(error))).await;
                }
            }
            if !client.end() {
                break;
            }
        }
        client.close().await;
    }

    async fn serve_http2(
        &self,
        stream: Stream,
        seen: Vec<u8>,
        guard: WatchGuard,
        connection: Connection,
    ) {
        let connection = Rc::new(connection);
        let begin = |mut stream: Http2, mut head: RequestHead| {
            let (desk, connection) = (Rc::clone(&self.desk), Rc::clone(&connection));
            self.tasks.spawn_local(async move {
                let checked = head.check(connection.is_over_tls());
                let watch = Arc::clone(stream.watch());
                {
                    let handling = pin!(desk.handle(&mut stream, &connection, &head, checked));
                    unless_late(&watch, handling).await;
                }
                stream.finish().await;
            });
        };
        if let Err(error) = http2::serve(stream, seen, guard, self.limits.wire, begin).await {
            tracing::debug!(%error, "an HTTP/2 connection ended");
        }
    }
}
