//! What all workers share of one upstream: its settings, and of each server the addresses, what is
//! thought of it and how much it has to do. Made when the configuration is compiled, carried over
//! a reload that leaves the upstream as it is; nothing here is locked on the path of a request.
//!
//! Its tasks (names, checks) end when the last owner is gone.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::balance::stable_hash;
use super::resolve::{Name, Target};
use super::standing::{EjectionRule, Epoch, Health, Standing};
use super::{health, resolve, tls};
use crate::config::{self, Balance, Problem, Protocol};
use crate::telemetry::tally::Label;

/// One upstream, as all workers see it.
pub(crate) struct UpstreamState {
    /// Its name.
    pub(crate) name: Label,
    /// As the operator wrote it.
    pub(super) config: config::Upstream,
    pub(super) epoch: Epoch,
    pub(super) servers: Vec<Arc<ServerState>>,
    pub(super) room: Arc<Room>,
    pub(super) slow_start: u64,
    pub(super) counts: Counts,
    /// Of what its TLS was made of.
    tls_digest: [u8; 32],
    /// Pools that were made of it.
    pub(super) pools: AtomicUsize,
    started: AtomicBool,
    stopping: CancellationToken,
}

/// What happened to requests, beside their answers.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) retries: AtomicU64,
    pub(super) retries_refused: AtomicU64,
    pub(super) overloaded: AtomicU64,
}

/// One server, as all workers see it.
pub(crate) struct ServerState {
    /// `host:port` or `unix:/path`, for logs and metrics.
    pub(super) authority: Label,
    /// Its `Host`.
    pub(super) host: HeaderValue,
    pub(super) weight: u32,
    pub(super) target: Target,
    pub(super) tls: Option<ServerTls>,
    pub(super) standing: Standing,
    pub(super) rule: EjectionRule,
    pub(super) epoch: Epoch,
    /// Of its name: where it stands for hashed users.
    pub(super) hash: u64,
    /// Why the last check was bad.
    pub(super) health_fault: Mutex<Option<String>>,
    connections: AtomicUsize,
    room: Arc<Room>,
    /// Requests in flight over all workers, where requests go by that.
    pub(super) in_flight: Apart<AtomicUsize>,
    /// The same as each worker counts it.
    shares: Mutex<Vec<Weak<Apart<AtomicUsize>>>>,
}

/// A value that shares its cache line with no other: two workers that write their own counts must
/// not wait for each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Apart<T>(pub(super) T);

/// How TLS to one server is made.
pub(super) struct ServerTls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    pub(super) must_agree_on_h2: bool,
}

/// Room for connections, and who waits for some.
#[derive(Debug)]
pub(super) struct Room {
    /// To each server; 0 = no limit.
    pub(super) max_connections: usize,
    pub(super) max_waiting: usize,
    pub(super) waiting: AtomicUsize,
    /// Told of every place that becomes free while somebody waits.
    pub(super) freed: Notify,
}

/// A place among a server's connections; free again when this is dropped.
pub(crate) struct Place(Arc<ServerState>);

impl UpstreamState {
    /// Compiles `upstreams.NAME`. What `previous` knows is kept when nothing has changed.
    ///
    /// # Errors
    /// Every file that cannot be used.
    pub(crate) fn compile(
        name: &str,
        upstream: &config::Upstream,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, Problem> {
        let has_tls = upstream.servers.iter().any(|server| server.url.starts_with("https://"));
        let at = format!("upstreams.{name}.tls");
        let tls =
            has_tls.then(|| tls::compile(&at, &upstream.tls, upstream.protocol)).transpose()?;
        let tls_digest = tls.as_ref().map_or([0; 32], |tls| tls.digest);
        if let Some(previous) = previous
            && previous.config == *upstream
            && previous.tls_digest == tls_digest
        {
            return Ok(Arc::clone(previous));
        }
        let epoch = Epoch::new(Instant::now());
        let room = Arc::new(Room {
            max_connections: upstream.max_connections,
            max_waiting: upstream.max_waiting,
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        });
        let servers = upstream.servers.iter().enumerate().map(|(index, server)| {
            let tls = tls.as_ref().map(|tls| &tls.config);
            ServerState::compile(server, upstream, tls, &room, epoch).map_err(|message| {
                Problem::new(format!("upstreams.{name}.servers[{index}]"), message)
            })
        });
        Ok(Arc::new(Self {
            name: name.into(),
            epoch,
            servers: servers.collect::<Result<_, _>>()?,
            room,
            slow_start: millis(upstream.slow_start.0),
            counts: Counts::default(),
            tls_digest,
            pools: AtomicUsize::new(0),
            started: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            config: upstream.clone(),
        }))
    }

    /// Begins to look up names and to check servers, once, on `control`.
    pub(crate) fn start(&self, control: &Handle) {
        if self.started.swap(true, Relaxed) {
            return;
        }
        if self.servers.iter().any(|server| server.target.name().is_some()) {
            let following = resolve::follow(self.servers.clone(), self.config.resolve_interval.0);
            control.spawn(self.stopping.clone().run_until_cancelled_owned(following));
        }
        if let Some(check) = &self.config.health {
            let protocol = self.config.protocol;
            let checking = health::check_all(self.servers.clone(), check.clone(), protocol);
            control.spawn(self.stopping.clone().run_until_cancelled_owned(checking));
        }
    }

    /// Milliseconds of the upstream's time.
    pub(super) fn at(&self, now: Instant) -> u64 {
        self.epoch.at(now)
    }

    /// How all of it stands.
    pub(crate) fn report(&self, now: Instant) -> Report {
        let now = self.at(now);
        let servers: Vec<_> = self.servers.iter().map(|server| server.report(now)).collect();
        Report {
            protocol: self.config.protocol,
            balance: self.config.balance,
            waiting: self.room.waiting.load(Relaxed),
            overloaded: self.counts.overloaded.load(Relaxed),
            retries: self.counts.retries.load(Relaxed),
            retries_refused: self.counts.retries_refused.load(Relaxed),
            trying_all: servers.iter().all(|server| server.state != State::Up),
            servers,
        }
    }
}

impl Drop for UpstreamState {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

/// How an upstream stands.
pub(crate) struct Report {
    /// What is spoken.
    pub(crate) protocol: Protocol,
    /// Which server is taken.
    pub(crate) balance: Balance,
    /// Requests that wait for a connection.
    pub(crate) waiting: usize,
    /// Requests for which there was no room.
    pub(crate) overloaded: u64,
    /// Attempts that were repeated.
    pub(crate) retries: u64,
    /// Attempts that the budget did not allow.
    pub(crate) retries_refused: u64,
    /// No server is up, so all are tried: a wrong guess must not be an outage.
    pub(crate) trying_all: bool,
    /// Its servers.
    pub(crate) servers: Vec<ServerReport>,
}

/// How a server stands.
pub(crate) struct ServerReport {
    /// `host:port` or `unix:/path`.
    pub(crate) authority: Label,
    /// Its weight.
    pub(crate) weight: u32,
    /// Whether requests go there.
    pub(crate) state: State,
    /// What the checks say; `None` without checks, or before the first one.
    pub(crate) healthy: Option<bool>,
    /// Why the last check was bad.
    pub(crate) health_fault: Option<String>,
    /// Failures since the last success.
    pub(crate) failures: u32,
    /// How often it was passed over.
    pub(crate) ejections: u64,
    /// Until it is tried again.
    pub(crate) ejected_for: Duration,
    /// Open connections of all workers.
    pub(crate) connections: usize,
    /// Requests of all workers.
    pub(crate) in_flight: usize,
    /// Where its name leads; empty for a Unix socket, or before the first lookup.
    pub(crate) addresses: Vec<std::net::SocketAddr>,
}

/// Whether requests go to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// They do.
    Up,
    /// Not for a while: requests have failed.
    Ejected,
    /// Not until it is found well.
    Down,
}

impl State {
    /// Whether they do.
    pub(crate) fn is_up(self) -> bool {
        self == Self::Up
    }

    /// As a word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Ejected => "ejected",
            Self::Down => "down",
        }
    }
}

impl ServerState {
    fn compile(
        server: &config::UpstreamServer,
        upstream: &config::Upstream,
        tls: Option<&Arc<ClientConfig>>,
        room: &Arc<Room>,
        epoch: Epoch,
    ) -> Result<Arc<Self>, String> {
        let Parts { target, authority, host } = Parts::of(&server.url);
        let tls = match (tls, target.name_or_address()) {
            (Some(config), Some(own)) if server.url.starts_with("https://") => {
                let name = upstream.tls.server_name.as_deref().unwrap_or(own).to_owned();
                let name = ServerName::try_from(name)
                    .map_err(|_| "the host is no name that a certificate could have".to_owned())?;
                let must_agree_on_h2 = upstream.protocol == Protocol::H2;
                Some(ServerTls { config: Arc::clone(config), name, must_agree_on_h2 })
            }
            _ => None,
        };
        let host = HeaderValue::from_str(&host).map_err(|error| error.to_string())?;
        let rule = EjectionRule {
            failures: upstream.ejection.failures,
            base: millis(upstream.ejection.base.0),
            max: millis(upstream.ejection.max.0),
        };
        Ok(Arc::new(Self {
            authority: authority.into(),
            host,
            weight: server.weight,
            target,
            tls,
            standing: Standing::default(),
            rule,
            epoch,
            hash: stable_hash(&server.url),
            health_fault: Mutex::default(),
            connections: AtomicUsize::new(0),
            room: Arc::clone(room),
            in_flight: Apart::default(),
            shares: Mutex::default(),
        }))
    }

    /// A place for another connection, if there is one.
    pub(super) fn take_place(self: &Arc<Self>) -> Option<Place> {
        let most = self.room.max_connections;
        let taken = self
            .connections
            .fetch_update(Relaxed, Relaxed, |open| (most == 0 || open < most).then_some(open + 1));
        taken.ok().map(|_| Place(Arc::clone(self)))
    }

    /// A place for a connection that replaces one which is about to be let go.
    pub(super) fn take_place_beyond(self: &Arc<Self>) -> Place {
        self.connections.fetch_add(1, Relaxed);
        Place(Arc::clone(self))
    }

    /// Whether there is a place for another connection.
    pub(super) fn has_place(&self) -> bool {
        let most = self.room.max_connections;
        most == 0 || self.connections.load(Relaxed) < most
    }

    /// A count of requests for one more worker.
    pub(super) fn add_worker(&self) -> Arc<Apart<AtomicUsize>> {
        let own = Arc::default();
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|worker| worker.strong_count() > 0);
        shares.push(Arc::downgrade(&own));
        own
    }

    /// An exchange went well.
    pub(super) fn note_success(&self) {
        self.standing.note_success(&self.rule, || self.epoch.at(Instant::now()));
    }

    /// An exchange failed.
    pub(super) fn note_failure(&self, now: Instant) {
        let now = self.epoch.at(now);
        if self.standing.note_failure(&self.rule, now) {
            tracing::warn!(
                server = %self.authority,
                for_ms = self.standing.ejected_for(now),
                "requests to an upstream server fail; it is passed over for a while"
            );
        }
    }

    fn report(&self, now: u64) -> ServerReport {
        let shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let in_flight =
            shares.iter().filter_map(Weak::upgrade).map(|worker| worker.0.load(Relaxed)).sum();
        drop(shares);
        let health = self.standing.health();
        ServerReport {
            authority: Label::clone(&self.authority),
            weight: self.weight,
            state: match health {
                Health::Down => State::Down,
                _ if self.standing.is_ejected(now) => State::Ejected,
                _ => State::Up,
            },
            healthy: (health != Health::Unknown).then_some(health == Health::Up),
            health_fault: self.health_fault.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            failures: self.standing.failures(),
            ejections: self.standing.all_ejections(),
            ejected_for: Duration::from_millis(self.standing.ejected_for(now)),
            connections: self.connections.load(Relaxed),
            in_flight,
            addresses: self.target.addresses(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let server = &self.0;
        server.connections.fetch_sub(1, Relaxed);
        if server.room.max_connections > 0 && server.room.waiting.load(Relaxed) > 0 {
            server.room.freed.notify_one();
        }
    }
}

/// What a server's URL says. The configuration has checked it.
struct Parts {
    target: Target,
    authority: String,
    host: String,
}

impl Parts {
    fn of(url: &str) -> Self {
        if let Some(path) = url.strip_prefix("unix:") {
            // RFC 9112 §3.2 wants a Host; a socket has no name of its own.
            let host = "localhost".to_owned();
            return Self { target: Target::Unix(path.into()), authority: url.to_owned(), host };
        }
        let (rest, default) = match url.strip_prefix("https://") {
            Some(rest) => (rest, 443),
            None => (url.strip_prefix("http://").unwrap_or(url), 80),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(default)),
            _ => (rest, default),
        };
        let authority = format!("{host}:{port}");
        // A port that goes without saying is not said (RFC 9110 §4.2.3): some servers choose their
        // site by the exact text.
        let header = if port == default { host.to_owned() } else { authority.clone() };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        Self { target: Target::Name(Name::new(bare, port)), authority, host: header }
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_what_the_host_is_called() {
        for (url, authority, host) in [
            ("http://api:8000", "api:8000", "api:8000"),
            ("http://api:80", "api:80", "api"),
            ("https://api:443", "api:443", "api"),
            ("https://api:80", "api:80", "api:80"),
            ("http://[::1]:8000", "[::1]:8000", "[::1]:8000"),
            ("https://[::1]:443", "[::1]:443", "[::1]"),
            ("unix:/run/a.sock", "unix:/run/a.sock", "localhost"),
        ] {
            let parts = Parts::of(url);
            assert_eq!((&*parts.authority, &*parts.host), (authority, host), "{url}");
        }
    }

    fn upstream(text: &str) -> config::Upstream {
        let config = config::parse(&format!("[upstreams.app]\n{text}"), "t.toml".as_ref(), []);
        config.unwrap().config.upstreams.remove("app").unwrap()
    }

    #[test]
    fn what_is_known_is_kept_when_nothing_has_changed() {
        let one = upstream("servers = [\"http://127.0.0.1:1\"]");
        let state = UpstreamState::compile("app", &one, None).unwrap();
        let same = UpstreamState::compile("app", &one, Some(&state)).unwrap();
        assert!(Arc::ptr_eq(&state, &same));
        let other = upstream("servers = [\"http://127.0.0.1:1\"]\nmax_waiting = 1");
        let changed = UpstreamState::compile("app", &other, Some(&state)).unwrap();
        assert!(!Arc::ptr_eq(&state, &changed));
    }

    #[test]
    fn an_authority_that_changed_in_its_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let certificate = || {
            let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
            made.cert.pem()
        };
        std::fs::write(&file, certificate()).unwrap();
        let text = format!(
            "servers = [\"https://127.0.0.1:1\"]\n[upstreams.app.tls]\nca = {:?}",
            file.display().to_string()
        );
        let config = upstream(&text);
        let state = UpstreamState::compile("app", &config, None).unwrap();
        assert!(Arc::ptr_eq(
            &state,
            &UpstreamState::compile("app", &config, Some(&state)).unwrap()
        ));
        std::fs::write(&file, certificate()).unwrap();
        let changed = UpstreamState::compile("app", &config, Some(&state)).unwrap();
        assert!(!Arc::ptr_eq(&state, &changed));
        std::fs::write(&file, "nothing").unwrap();
        let refused = UpstreamState::compile("app", &config, Some(&state)).err().unwrap();
        assert_eq!(refused.key, "upstreams.app.tls.ca");
    }

    #[test]
    fn places_are_limited_over_all_workers_and_come_back() {
        let config = upstream("servers = [\"http://127.0.0.1:1\"]\nmax_connections = 2");
        let state = UpstreamState::compile("app", &config, None).unwrap();
        let server = &state.servers[0];
        let (one, two) = (server.take_place().unwrap(), server.take_place().unwrap());
        assert!(server.take_place().is_none() && !server.has_place());
        drop(one);
        assert!(server.has_place() && server.take_place().is_some());
        drop(two);
        assert_eq!(state.report(Instant::now()).servers[0].connections, 0);
    }
}
