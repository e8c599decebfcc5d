//! Makes a TCP connection to a host: its addresses one after another, within a time.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Host;

use super::endpoint::Peer;

/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 4;

/// Where a connection may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Anywhere: the certificate proves who is there.
    Anywhere,
    /// To this machine only, also when the resolver says that `localhost` is elsewhere.
    ThisMachine,
}

/// A connection to `peer`, before `until`. Each address gets an equal part of the time that is left.
///
/// # Errors
/// The name has no address that may be used, or none could be reached; the last failure is given.
pub(crate) async fn connect(peer: &Peer, reach: Reach, until: Instant) -> io::Result<TcpStream> {
    let mut addresses: Vec<SocketAddr> = match peer.host() {
        Host::Ipv4(ip) => vec![(*ip, peer.port()).into()],
        Host::Ipv6(ip) => vec![(*ip, peer.port()).into()],
        Host::Domain(name) => {
            let left = until.saturating_duration_since(Instant::now());
            let looking_up = tokio::net::lookup_host((name.as_str(), peer.port()));
            timeout(left, looking_up).await.map_err(|_| io::ErrorKind::TimedOut)??.collect()
        }
    };
    if reach == Reach::ThisMachine {
        addresses.retain(|address| address.ip().is_loopback());
    }
    addresses.truncate(MOST_ADDRESSES);
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no usable address");
    let count = addresses.len();
    for (index, address) in addresses.into_iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let part = left / u32::try_from(count - index).unwrap_or(u32::MAX);
        match timeout(part, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A conversation of short lines would wait for delayed acknowledgements.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}
