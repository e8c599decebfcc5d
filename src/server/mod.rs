//! Sockets and threads: starts the control runtime and the workers, and stops them in an order in
//! which no request is lost.
//!
//! ```text
//!  worker 0   worker 1   …        one thread and one runtime each: all proxied requests
//!      │          │
//!      └── /auth ─┴──▶ control    one runtime of two threads: accounts, database, Redis, admin
//!                         │
//!                         └─────▶ hashing threads, low priority
//! ```

mod certificate;
mod handover;
mod listen;
pub mod proxy_protocol;
pub mod tls;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle as Task;

pub use self::handover::{HandoverError, Predecessor, Successor};
use self::listen::{Bound, Listener};
pub use self::listen::{InheritError, Inherited};
use self::tls::Tls;
use crate::admin;
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::gateway::{Gateway, StartError};
use crate::identity::address::Networks;
use crate::reload::{Reloader, Source};
use crate::telemetry::access::{AccessLog, Carrier};
use crate::telemetry::tally::Tally;
use crate::wire::{Shares, WireLimits};

pub(crate) use self::worker::{Door, Order};

/// Connections of one client address, unless configured: twice what a browser ever opens, for all
/// the browsers of a household or a small office.
const CONNECTIONS_PER_ADDRESS: usize = 256;

/// How long a stop waits for the access log: whoever should read it may have gone away.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// Files needed beside those of connections: database, logs, listeners.
const OTHER_FILES: u64 = 256;

/// What a start takes beside the configuration.
#[derive(Default)]
pub struct Options {
    /// Time; by default the system's.
    pub clock: Clock,
    /// Where access-log lines go; by default nowhere.
    pub access_log: Option<Box<dyn io::Write + Send>>,
    /// Whether those lines are JSON.
    pub access_log_json: bool,
    /// Where the configuration can be read again; by default nowhere.
    pub source: Option<Source>,
    /// Sockets that this process was started with; by default none.
    pub inherited: Inherited,
}

/// A running gateway.
pub struct Server {
    gateway: Arc<Gateway>,
    reloader: Arc<Reloader>,
    /// Public listeners. The workers have handles of their own.
    bound: Vec<Bound>,
    addresses: Vec<SocketAddr>,
    admin: Option<Bound>,
    admin_address: SocketAddr,
    admin_task: Task<()>,
    tls: Option<Arc<Tls>>,
    doors: Arc<[Door]>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    access_log: Option<JoinHandle<()>>,
    control: Option<Runtime>,
    drain_delay: Duration,
}

impl Server {
    /// Opens the stores, binds the listeners and starts all threads. Returns when connections are
    /// accepted and the ended sessions are known.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running then.
    pub fn start(config: &Config, options: Options) -> Result<Self, StartError> {
        raise_open_files_limit(config.server.max_connections);
        let tls = (config.server.tls.as_ref())
            .map(|tls| {
                let both: &[&[u8]] = &[tls::HTTP2, tls::HTTP1];
                let offered = if config.server.http2 { both } else { &both[1..] };
                Tls::load(tls, offered)
            })
            .transpose()
            .map_err(|problem| StartError::Config(vec![problem]))?;
        let mut inherited = options.inherited;
        let bound = bind_all(&config.server.listen, &mut inherited)?;
        let addresses = bound.iter().filter_map(tcp_address).collect();
        let admin = Bound::open("admin.listen", &Listen::Tcp(config.admin.listen), &mut inherited)?;
        inherited.finish()?;
        let admin_address = tcp_address(&admin).unwrap_or(config.admin.listen);
        let Listener::Tcp(admin_listener) =
            admin.listener.try_clone().map_err(StartError::Threads)?
        else {
            return Err(StartError::Threads(io::ErrorKind::InvalidInput.into()));
        };

        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let gateway = control.block_on(Gateway::open(config, options.clock))?;

        let (carrier, access_log) = match options.access_log {
            Some(output) => {
                let (carrier, thread) = Carrier::start(output).map_err(StartError::Threads)?;
                (Some(carrier), Some(thread))
            }
            None => (None, None),
        };
        let (doors, orders): (Vec<_>, Vec<_>) =
            (0..worker_count(config.server.workers)).map(|_| worker::door()).unzip();
        let doors: Arc<[Door]> = doors.into();
        let per_address = config.server.max_connections_per_address;
        let admission = Arc::new(worker::Admission {
            proxy_protocol: Networks::compile(&config.server.proxy_protocol),
            shares: Arc::new(Shares::new(per_address.unwrap_or(CONNECTIONS_PER_ADDRESS))),
            limits_loopback: per_address.is_some(),
            handshake_timeout: config.server.handshake_timeout.0,
        });
        let limits = worker::Limits {
            max_connections: config.server.max_connections,
            h2c: config.server.h2c,
            wire: WireLimits {
                head: config.server.header_timeout.0,
                idle: config.server.idle_timeout.0,
                max_head_bytes: usize::try_from(config.server.max_header_bytes.0)
                    .unwrap_or(usize::MAX),
            },
            drain_timeout: config.server.drain_timeout.0,
        };
        let mut workers = Vec::with_capacity(doors.len());
        for (index, orders) in orders.into_iter().enumerate() {
            let own =
                bound.iter().map(|bound| bound.listener.try_clone()).collect::<io::Result<_>>();
            let seat = worker::Seat {
                index,
                doors: Arc::clone(&doors),
                orders,
                listeners: own.map_err(StartError::Threads)?,
                tls: tls.clone(),
                admission: Arc::clone(&admission),
                gateway: Arc::clone(&gateway),
                access: AccessLog::new(carrier.clone(), options.access_log_json),
                limits,
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || worker::run(seat))
                .map_err(StartError::Threads)?;
            workers.push(thread);
        }
        let scrape = Scrape { doors: Arc::clone(&doors), access_log: carrier, tls: tls.clone() };
        let reloader =
            Arc::new(Reloader::new(Arc::clone(&gateway), config.clone(), options.source));
        control.spawn(Arc::clone(&reloader).follow());
        let sight =
            admin::Sight { gateway: Arc::clone(&gateway), scrape, reloader: Arc::clone(&reloader) };
        let admin_task = control.spawn(admin::serve(admin_listener, sight));
        if let Some(tls) = &tls {
            control.spawn(Arc::clone(tls).watch());
        }
        Ok(Self {
            gateway,
            reloader,
            bound,
            addresses,
            admin: Some(admin),
            admin_address,
            admin_task,
            tls,
            doors,
            workers,
            access_log,
            control: Some(control),
            drain_delay: config.server.drain_delay.0,
        })
    }

    /// The addresses of the public listeners that have one, with the ports that were given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the public listeners are, with the ports that were given.
    pub fn listeners(&self) -> impl Iterator<Item = &Listen> {
        self.bound.iter().map(|bound| &bound.address)
    }

    /// TLS on the public listeners.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// The admin listener's address.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What all threads share.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Takes changed configurations.
    pub fn reloader(&self) -> &Arc<Reloader> {
        &self.reloader
    }

    /// Starts this program anew and hands it the listeners. This process goes on as before; when
    /// the other is ready, it is time for [`Server::leave`].
    ///
    /// # Errors
    /// The system refuses.
    pub fn hand_over(&self) -> Result<Successor, HandoverError> {
        let sockets = (self.bound.iter().chain(&self.admin))
            .map(|bound| (bound.listener.as_fd(), bound.has_own_file()));
        Successor::start(sockets).map_err(HandoverError::Start)
    }

    /// The process that this one replaces is leaving: files of sockets are this one's to remove.
    pub fn took_over(&mut self) {
        self.bound.iter_mut().for_each(|bound| bound.own_file(true));
    }

    /// Stops as [`Server::shutdown`] does, with another process listening in this one's place:
    /// nobody needs to be told, and what waits to be accepted is left to the other.
    pub fn leave(mut self) {
        self.bound.iter_mut().for_each(|bound| bound.own_file(false));
        // Probes must see the other from now on.
        self.admin_task.abort();
        self.admin = None;
        self.drain_delay = Duration::ZERO;
        self.stop();
    }

    /// Stops in order: not ready, accepting for `drain_delay`; then no new connection, running
    /// requests finish within `drain_timeout`; then the stores. Blocks until all is done.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(control) = self.control.take() else { return };
        self.gateway.start_draining();
        std::thread::sleep(self.drain_delay);
        // From here on the workers alone keep the sockets open, and close them when what waits in
        // them has been accepted.
        self.bound.clear();
        for door in self.doors.iter() {
            // A worker that has ended needs no order.
            let _ = door.orders.send(Order::Drain);
        }
        for worker in self.workers.drain(..) {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a worker failed"),
                Err(_) => tracing::error!("a worker panicked"),
            }
        }
        control.block_on(self.gateway.close());
        control.shutdown_timeout(Duration::from_secs(2));
        // The admin task, which held the last carrier, is gone with its runtime.
        if let Some(thread) = self.access_log.take() {
            let patience = Instant::now() + LOG_PATIENCE;
            while !thread.is_finished() && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How the admin listener asks the workers for their numbers.
pub(crate) struct Scrape {
    doors: Arc<[Door]>,
    access_log: Option<Carrier>,
    /// TLS on the public listeners.
    pub(crate) tls: Option<Arc<Tls>>,
}

impl Scrape {
    /// The sums over all workers.
    pub(crate) async fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        let asked: Vec<_> = (self.doors.iter())
            .filter_map(|door| {
                let (reply, answer) = oneshot::channel();
                door.orders.send(Order::Tally(reply)).ok().map(|()| answer)
            })
            .collect();
        for answer in asked {
            if let Ok(Ok(tally)) = tokio::time::timeout(Duration::from_secs(2), answer).await {
                sum.add(&tally);
            }
        }
        sum.connections = i64::try_from(worker::open_connections(&self.doors)).unwrap_or(i64::MAX);
        sum
    }

    /// Buffers of access-log lines that were dropped.
    pub(crate) fn dropped_log_buffers(&self) -> u64 {
        self.access_log.as_ref().map_or(0, Carrier::dropped)
    }
}

fn worker_count(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    }
}

fn bind_all(listen: &[Listen], inherited: &mut Inherited) -> Result<Vec<Bound>, StartError> {
    let numbered = listen.iter().enumerate();
    numbered.map(|(i, at)| Bound::open(&format!("server.listen[{i}]"), at, inherited)).collect()
}

fn tcp_address(bound: &Bound) -> Option<SocketAddr> {
    match &bound.address {
        Listen::Tcp(address) => Some(*address),
        Listen::Unix(_) => None,
    }
}

/// Each proxied connection needs two files. Warns when the system does not allow as many.
fn raise_open_files_limit(max_connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let wanted = (max_connections as u64).saturating_mul(2).saturating_add(OTHER_FILES);
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let allowed = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    limit.current = Some(allowed);
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the open-files limit could not be raised");
    } else if allowed < wanted {
        tracing::warn!(
            allowed,
            wanted,
            "the open-files limit is too low for server.max_connections; raise it (LimitNOFILE) or lower max_connections"
        );
    }
}
