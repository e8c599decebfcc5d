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

pub mod tls;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::admin;
use crate::clock::Clock;
use crate::config::{Config, Problem};
use crate::gateway::{Gateway, StartError};
use crate::reload::{Reloader, Source};
use crate::telemetry::access::{AccessLog, Carrier};
use crate::telemetry::tally::Tally;
use crate::wire::WireLimits;

pub(crate) use self::worker::{Door, Order};

/// Connections that the system queues while all workers are busy.
const BACKLOG: i32 = 4_096;

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
}

/// A running gateway.
pub struct Server {
    gateway: Arc<Gateway>,
    reloader: Arc<Reloader>,
    addresses: Vec<SocketAddr>,
    admin_address: SocketAddr,
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
        let tls = (config
            .server
            .tls
            .as_ref()
            .map(|tls| tls::acceptor(tls, config.server.http2))
            .transpose())
        .map_err(|problem| StartError::Config(vec![problem]))?;
        let listeners = bind_all(&config.server.listen)?;
        let addresses = local_addresses(&listeners)?;
        let for_admin = bind("admin.listen", config.admin.listen)?;
        let admin_address = for_admin.local_addr().map_err(StartError::Threads)?;

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
            let own = listeners.iter().map(TcpListener::try_clone).collect::<io::Result<_>>();
            let seat = worker::Seat {
                index,
                doors: Arc::clone(&doors),
                orders,
                listeners: own.map_err(StartError::Threads)?,
                tls: tls.clone(),
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
        let scrape = Scrape { doors: Arc::clone(&doors), access_log: carrier };
        let reloader =
            Arc::new(Reloader::new(Arc::clone(&gateway), config.clone(), options.source));
        control.spawn(Arc::clone(&reloader).follow());
        let sight =
            admin::Sight { gateway: Arc::clone(&gateway), scrape, reloader: Arc::clone(&reloader) };
        control.spawn(admin::serve(for_admin, sight));
        Ok(Self {
            gateway,
            reloader,
            addresses,
            admin_address,
            doors,
            workers,
            access_log,
            control: Some(control),
            drain_delay: config.server.drain_delay.0,
        })
    }

    /// The public listeners' addresses, with the ports that were given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
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

    /// Stops in order: not ready, accepting for `drain_delay`; then no new connection, running
    /// requests finish within `drain_timeout`; then the stores. Blocks until all is done.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(control) = self.control.take() else { return };
        self.gateway.start_draining();
        std::thread::sleep(self.drain_delay);
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

fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, StartError> {
    let numbered = addresses.iter().enumerate();
    numbered.map(|(i, &address)| bind(&format!("server.listen[{i}]"), address)).collect()
}

fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = || -> io::Result<TcpListener> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        // A restart must not wait for old connections to time out. This does not let two
        // listeners share an address: that would be SO_REUSEPORT.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(
                address.ip().to_canonical().is_ipv4() || !address.ip().is_unspecified(),
            )?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    bound().map_err(|error| {
        let message = format!("cannot listen on {address}: {error}");
        StartError::Listen(Problem::new(key, message))
    })
}

fn local_addresses(listeners: &[TcpListener]) -> Result<Vec<SocketAddr>, StartError> {
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>();
    addresses.map_err(StartError::Threads)
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
