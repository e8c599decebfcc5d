//! Where a server's name leads. Names are looked up on the control runtime, again and again; a
//! request waits for a lookup only when it is the very first to need the name. When a lookup
//! fails the known addresses stay: a name server that is away must not take the API with it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::standing::Epoch;
use super::state::ServerState;

/// Addresses kept of one name.
const MAX_ADDRESSES: usize = 64;

/// Longest wait for a lookup; the system's resolver asks each name server a few times meanwhile.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(30);

/// Shortest time between two lookups of a name, however badly its addresses do.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// An address that could not be reached is tried after the others for so long, in milliseconds.
const AVOIDED_MS: u64 = 10_000;

/// Where connections to a server are made.
pub(super) enum Target {
    /// A name or an address, with a port.
    Name(Name),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// A host with a port, and its addresses as far as they are known.
pub(super) struct Name {
    host: Box<str>,
    port: u16,
    is_address: bool,
    addresses: ArcSwap<Vec<Arc<Address>>>,
    /// Which address is next.
    turn: AtomicUsize,
    /// No address could be reached: the name may lead elsewhere by now.
    doubted: Notify,
}

/// One address of a name.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) at: SocketAddr,
    /// When it is as good as the others again.
    avoided_until: AtomicU64,
}

impl Target {
    /// The host, when it is a name that has to be looked up.
    pub(super) fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name) if !name.is_address => Some(name),
            _ => None,
        }
    }

    /// The host.
    pub(super) fn name_or_address(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(&name.host),
            Self::Unix(_) => None,
        }
    }

    /// The known addresses.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Name(name) => name.addresses.load().iter().map(|address| address.at).collect(),
            Self::Unix(_) => Vec::new(),
        }
    }
}

impl Name {
    /// A host without brackets, and a port.
    pub(super) fn new(host: &str, port: u16) -> Self {
        let address = host.parse::<IpAddr>().ok();
        let known = address.map(|ip| Address::new(SocketAddr::new(ip, port)));
        Self {
            host: host.into(),
            port,
            is_address: address.is_some(),
            addresses: ArcSwap::from_pointee(known.into_iter().collect()),
            turn: AtomicUsize::new(0),
            doubted: Notify::new(),
        }
    }

    /// The addresses in the order to try them: each comes first in turn, and those that could not
    /// be reached lately come last.
    ///
    /// # Errors
    /// The name was not known yet, and could not be looked up.
    pub(super) async fn in_turn(&self, epoch: Epoch) -> io::Result<Vec<Arc<Address>>> {
        if self.addresses.load().is_empty() {
            self.keep(self.look_up().await?);
        }
        Ok(self.order(epoch.at(Instant::now())))
    }

    fn order(&self, now: u64) -> Vec<Arc<Address>> {
        let addresses = self.addresses.load();
        let first = self.turn.fetch_add(1, Relaxed);
        let turned = (0..addresses.len()).map(|i| &addresses[(first + i) % addresses.len()]);
        let (good, avoided): (Vec<_>, Vec<_>) =
            turned.cloned().partition(|address| address.avoided_until.load(Relaxed) <= now);
        good.into_iter().chain(avoided).collect()
    }

    /// No address could be reached.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    async fn look_up(&self) -> io::Result<Vec<SocketAddr>> {
        let mut found: Vec<SocketAddr> =
            tokio::net::lookup_host((&*self.host, self.port)).await?.collect();
        found.sort_unstable();
        found.dedup();
        found.truncate(MAX_ADDRESSES);
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found)
    }

    /// Takes over what was found; what is known of addresses that stay is kept.
    fn keep(&self, found: Vec<SocketAddr>) {
        let known = self.addresses.load();
        if known.iter().map(|address| address.at).eq(found.iter().copied()) {
            return;
        }
        let kept = |at: SocketAddr| {
            known
                .iter()
                .find(|address| address.at == at)
                .cloned()
                .unwrap_or_else(|| Address::new(at))
        };
        self.addresses.store(Arc::new(found.into_iter().map(kept).collect()));
    }
}

impl Address {
    fn new(at: SocketAddr) -> Arc<Self> {
        Arc::new(Self { at, avoided_until: AtomicU64::new(0) })
    }

    /// It could not be reached.
    pub(super) fn avoid(&self, epoch: Epoch) {
        self.avoided_until.store(epoch.at(Instant::now()) + AVOIDED_MS, Relaxed);
    }
}

/// Looks up the names of `servers` at once, every `interval`, and when their addresses do badly.
pub(super) async fn follow(servers: Vec<Arc<ServerState>>, interval: Duration) {
    let following = servers.iter().filter_map(|server| server.target.name()).map(|name| async move {
        let mut away = false;
        loop {
            match tokio::time::timeout(LOOKUP_PATIENCE, name.look_up()).await {
                Ok(Ok(found)) => {
                    away = false;
                    name.keep(found);
                }
                failed => {
                    if !std::mem::replace(&mut away, true) {
                        let error = failed.map_or_else(
                            |_| "no answer in time".to_owned(),
                            |outcome| outcome.err().map(|e| e.to_string()).unwrap_or_default(),
                        );
                        tracing::warn!(
                            host = %name.host,
                            error,
                            "an upstream's name cannot be looked up; known addresses stay in use"
                        );
                    }
                }
            }
            tokio::time::sleep(LEAST_PAUSE).await;
            let rest = interval.saturating_sub(LEAST_PAUSE);
            let _ = tokio::time::timeout(rest, name.doubted.notified()).await;
        }
    });
    futures_util::future::join_all(following).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(addresses: &[&str]) -> Name {
        let name = Name::new("api.internal", 80);
        name.keep(addresses.iter().map(|at| at.parse().unwrap()).collect());
        name
    }

    fn order(name: &Name, now: u64) -> Vec<String> {
        name.order(now).iter().map(|address| address.at.ip().to_string()).collect()
    }

    #[test]
    fn each_address_comes_first_in_turn_and_those_that_failed_come_last() {
        let name = name_of(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
        assert_eq!(order(&name, 5), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(order(&name, 5), ["10.0.0.2", "10.0.0.3", "10.0.0.1"]);
        name.addresses.load()[2].avoided_until.store(100, Relaxed);
        assert_eq!(order(&name, 5), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(order(&name, 100), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(order(&name, 100), ["10.0.0.2", "10.0.0.3", "10.0.0.1"]);
    }

    #[test]
    fn what_is_known_of_an_address_survives_a_lookup() {
        let name = name_of(&["10.0.0.1:80", "10.0.0.2:80"]);
        name.addresses.load()[1].avoided_until.store(100, Relaxed);
        name.keep(vec!["10.0.0.2:80".parse().unwrap(), "10.0.0.9:80".parse().unwrap()]);
        assert_eq!(order(&name, 5), ["10.0.0.9", "10.0.0.2"]);
    }

    #[tokio::test]
    async fn a_name_that_leads_nowhere_is_an_error_and_leaves_what_was_known() {
        let name = name_of(&["10.0.0.1:80"]);
        assert!(Name { host: "nowhere.invalid".into(), ..name_of(&[]) }.look_up().await.is_err());
        assert_eq!(order(&name, 5), ["10.0.0.1"]);
        let localhost = Name::new("localhost", 80);
        let found = localhost.in_turn(Epoch::new(Instant::now())).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.at.ip().is_loopback()));
    }
}
