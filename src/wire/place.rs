//! Room for connections: how many a worker has, how many come from one address. Both are given
//! back when the connection, and all that came of it, is gone.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use ahash::{AHashMap, RandomState};

/// One of the connections that a worker may have open; a tunnel keeps it after its HTTP has ended.
pub(crate) struct Place {
    worker: Arc<AtomicUsize>,
    /// Where the client's address is limited, too.
    pub(crate) share: Option<Share>,
}

impl Place {
    /// A connection that has been counted in `worker` already.
    pub(crate) fn of(worker: Arc<AtomicUsize>, share: Option<Share>) -> Self {
        Self { worker, share }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.fetch_sub(1, Relaxed);
    }
}

/// Locks over the addresses: so many that workers hardly ever wait for each other.
const SHARDS: usize = 16;

/// Open connections by client address, over all workers. Holds no address without a connection, so
/// it never has more entries than there may be connections.
pub(crate) struct Shares {
    limit: u32,
    hash: RandomState,
    shards: [Mutex<AHashMap<IpAddr, u32>>; SHARDS],
}

/// One of the connections that an address may have open.
pub(crate) struct Share {
    shares: Arc<Shares>,
    address: IpAddr,
}

/// The address has as many as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoneLeft;

impl Shares {
    /// At most `limit` for each address.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            hash: RandomState::new(),
            shards: Default::default(),
        }
    }

    /// One more connection of `address`; of an IPv6 network of 64 bits, which is what one customer
    /// has.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Result<Share, NoneLeft> {
        let address = customer(address);
        let mut shard = self.shard(address).lock().unwrap_or_else(PoisonError::into_inner);
        let open = shard.get(&address).copied().unwrap_or(0);
        if open >= self.limit {
            return Err(NoneLeft);
        }
        shard.insert(address, open + 1);
        drop(shard);
        Ok(Share { shares: Arc::clone(self), address })
    }

    fn shard(&self, address: IpAddr) -> &Mutex<AHashMap<IpAddr, u32>> {
        let hash = usize::try_from(self.hash.hash_one(address) >> 32).unwrap_or(0);
        &self.shards[hash % SHARDS]
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let shard = self.shares.shard(self.address);
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        match shard.get_mut(&self.address) {
            Some(open) if *open > 1 => *open -= 1,
            _ => drop(shard.remove(&self.address)),
        }
    }
}

fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_and_gives_it_back() {
        let shares = Arc::new(Shares::new(2));
        let one = shares.take(address("192.0.2.1"));
        let two = shares.take(address("::ffff:192.0.2.1"));
        assert!(one.is_ok() && two.is_ok());
        assert!(shares.take(address("192.0.2.1")).is_err());
        assert!(shares.take(address("192.0.2.2")).is_ok(), "another's is another's");
        drop(one);
        assert!(shares.take(address("192.0.2.1")).is_ok());
        drop(two);
        assert!(shares.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let shares = Arc::new(Shares::new(1));
        let _held = shares.take(address("2001:db8:0:1::1")).ok().unwrap();
        assert!(shares.take(address("2001:db8:0:1:ffff::2")).is_err());
        assert!(shares.take(address("2001:db8:0:2::1")).is_ok());
    }
}
