//! Makes a connection to a server: address by address for a name, then TLS where the server's URL
//! says so. Knows nothing of pools.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::LeaseError;
use super::resolve::{Name, Target};
use super::state::{Place, ServerState};
use super::stream::Stream;
use crate::wire::{self, Socket};

/// Addresses of a name that one attempt tries.
const MOST_ADDRESSES: usize = 4;

/// How long the system keeps sending to an HTTP/2 server that does not acknowledge: such a
/// connection is shared by many requests and never idle, so nobody else would find out.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// A connection to `server` that holds `place`, TLS included, within `patience`.
///
/// # Errors
/// Never [`LeaseError::Full`].
pub(super) async fn dial(
    server: &ServerState,
    place: Option<Place>,
    patience: Duration,
) -> Result<Stream, LeaseError> {
    let deadline = Instant::now() + patience;
    match timeout(patience, reach(server, deadline)).await {
        Ok(Ok(bytes)) => Ok(Stream::new(bytes, place)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(LeaseError::Timeout),
        Ok(Err(error)) => Err(LeaseError::Io(error)),
        Err(_) => Err(LeaseError::Timeout),
    }
}

async fn reach(server: &ServerState, deadline: Instant) -> io::Result<wire::Stream> {
    let name = match &server.target {
        Target::Unix(path) => {
            let stream = UnixStream::connect(path).await?.into_std()?;
            return Ok(wire::Stream::Plain(Socket::new(stream.into())?));
        }
        Target::Name(name) => name,
    };
    let stream = connect(name, server, deadline).await?;
    // Without this a small request may wait for the server's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let socket = Socket::new(stream.into_std()?.into())?;
    let Some(tls) = &server.tls else { return Ok(wire::Stream::Plain(socket)) };
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    let stream = connector.connect(tls.name.clone(), socket).await?;
    if tls.must_agree_on_h2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the server does not speak h2"));
    }
    Ok(wire::Stream::Tls(Box::new(stream.into())))
}

/// Tries the addresses one after another; each gets an equal part of the time that is left.
async fn connect(name: &Name, server: &ServerState, deadline: Instant) -> io::Result<TcpStream> {
    let mut addresses = name.in_turn(server.epoch).await?;
    addresses.truncate(MOST_ADDRESSES);
    let mut failed = io::Error::from(io::ErrorKind::TimedOut);
    let count = addresses.len();
    for (index, address) in addresses.into_iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let part = left / u32::try_from(count - index).unwrap_or(u32::MAX);
        match timeout(part, TcpStream::connect(address.at)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
        address.avoid(server.epoch);
    }
    name.doubt();
    Err(failed)
}

impl Stream {
    /// Has the system give up a connection whose other end no longer acknowledges.
    pub(super) fn give_up_when_unacknowledged(&self) {
        #[cfg(target_os = "linux")]
        {
            // Without it the connection is found dead later, by the system's own patience. A Unix
            // socket needs none, and refuses.
            let _ = socket2::SockRef::from(self.bytes.socket())
                .set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        }
    }
}
