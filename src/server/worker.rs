//! One worker: a thread with its own runtime, its share of the connections, its own upstream
//! connections and token cache. Nothing on the request path is shared with another worker.
//!
//! All workers accept from the same sockets, so a second gateway on the same address is refused by
//! the system instead of getting half of the traffic. Whoever accepts hands the connection to the
//! worker with the fewest; with one worker there is nothing to hand over.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gateway::{Connection, Desk, Gateway};
use crate::message::RequestHead;
use crate::telemetry::access::AccessLog;
use crate::telemetry::tally::Tally;
use crate::wire::http1::Http1;
use crate::wire::http2::{self, Http2};
use crate::wire::pace::{Ticker, WatchGuard, unless_late};
use crate::wire::{Client as _, Place, Stream, WireLimits};

/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept: running out of files does not end by trying harder.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a worker is asked to do.
pub(crate) enum Order {
    /// Serve a connection that another worker accepted.
    Serve(std::net::TcpStream, SocketAddr),
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
    pub(crate) listeners: Vec<std::net::TcpListener>,
    /// TLS on all of them.
    pub(crate) tls: Option<TlsAcceptor>,
    /// The gateway.
    pub(crate) gateway: Arc<Gateway>,
    /// This worker's end of the access log.
    pub(crate) access: AccessLog,
    /// Limits of connections.
    pub(crate) limits: Limits,
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
    tls: Option<TlsAcceptor>,
    limits: Limits,
    tasks: TaskTracker,
}

async fn serve(seat: Seat) -> io::Result<()> {
    let Seat { index, doors, mut orders, listeners, tls, gateway, access, limits } = seat;
    let tasks = TaskTracker::new();
    let desk = Rc::new(Desk::new(gateway, access));
    let ticker = Arc::new(Ticker::default());
    let worker = Rc::new(Worker { index, doors, desk, ticker, tls, limits, tasks });

    let at_each_tick = Rc::clone(&worker);
    let ticking = tokio::task::spawn_local(async move {
        let Worker { ticker, desk, .. } = &*at_each_tick;
        ticker.run(|| desk.tick(Instant::now())).await;
    });
    let stop_accepting = CancellationToken::new();
    let mut accepting = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let listener = TcpListener::from_std(listener)?;
        let accept = Rc::clone(&worker).accept_from(listener, stop_accepting.clone());
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
    stop_accepting.cancel();
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
    async fn accept_from(self: Rc<Self>, listener: TcpListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.place(stream, peer),
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
    fn place(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        if open_connections(&self.doors) >= self.limits.max_connections {
            self.desk.refuse_connection(&stream, self.tls.is_some());
            return;
        }
        let open = |index: usize| self.doors[index].connections.load(Relaxed);
        let fewest = (0..self.doors.len())
            .min_by_key(|&index| (open(index), index != self.index))
            .unwrap_or(self.index);
        self.doors[fewest].connections.fetch_add(1, Relaxed);
        if fewest == self.index {
            self.begin(stream, peer);
            return;
        }
        let Ok(stream) = stream.into_std() else {
            self.doors[fewest].connections.fetch_sub(1, Relaxed);
            return;
        };
        // A worker that has ended takes no orders.
        if let Err(mpsc::error::SendError(order)) =
            self.doors[fewest].orders.send(Order::Serve(stream, peer))
        {
            self.doors[fewest].connections.fetch_sub(1, Relaxed);
            self.doors[self.index].connections.fetch_add(1, Relaxed);
            self.take_over(order);
        }
    }

    /// Serves a connection that another worker accepted, and that has been counted as this one's.
    fn take_over(self: &Rc<Self>, order: Order) {
        let Order::Serve(stream, peer) = order else { return };
        match TcpStream::from_std(stream) {
            Ok(stream) => self.begin(stream, peer),
            Err(error) => {
                self.doors[self.index].connections.fetch_sub(1, Relaxed);
                tracing::warn!(%error, "a connection could not be taken over");
            }
        }
    }

    /// Serves a connection that has been counted as this worker's.
    fn begin(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let worker = Rc::clone(self);
        let place = Place(Arc::clone(&self.doors[self.index].connections));
        self.tasks.spawn_local(async move {
            // Without this a small answer may wait for the client's delayed acknowledgement.
            let _ = stream.set_nodelay(true);
            match &worker.tls {
                None => worker.serve_connection(Stream::Plain(stream), peer, place).await,
                Some(tls) => {
                    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            let stream = Stream::Tls(Box::new(stream));
                            worker.serve_connection(stream, peer, place).await;
                        }
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    }
                }
            }
        });
    }

    async fn serve_connection(&self, stream: Stream, peer: SocketAddr, place: Place) {
        let guard = self.ticker.watch();
        let watch = Arc::clone(&guard.watch);
        let over_tls = matches!(stream, Stream::Tls(_));
        let http2 = stream.negotiated_http2();
        let connection = Connection::new(peer.ip().to_canonical(), over_tls, place);
        if http2 {
            self.serve_http2(stream, Vec::new(), guard, connection).await;
            return;
        }
        let mut http1 = Http1::new(stream, Arc::clone(&watch), self.limits.wire);
        if self.limits.h2c && !over_tls {
            match unless_late(&watch, http1.begins_with_http2()).await {
                None => return,
                Some(false) => {}
                Some(true) => {
                    let (stream, seen) = http1.into_parts();
                    self.serve_http2(stream, seen, guard, connection).await;
                    return;
                }
            }
        }
        // When the client is late everything of it is dropped.
        unless_late(&watch, self.serve_http1(&mut http1, &connection)).await;
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
                    // Boxed: what a connection needs for a request it should not hold while idle.
                    Box::pin(self.desk.handle(client, connection, &head, checked)).await;
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
                let handled = desk.handle(&mut stream, &connection, &head, checked);
                unless_late(&watch, handled).await;
                stream.finish().await;
            });
        };
        if let Err(error) = http2::serve(stream, seen, guard, self.limits.wire, begin).await {
            tracing::debug!(%error, "an HTTP/2 connection ended");
        }
    }
}
