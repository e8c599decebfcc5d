//! Listening sockets: bound here, or inherited from the service manager or from the process that
//! this one replaces. An inherited socket is used for the `listen` key with its address; the
//! connections that wait in it are served.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{SockAddr, Socket as RawSocket, Type};
use tokio::io::unix::AsyncFd;

use super::handover::{self, Predecessor};
use crate::config::{Listen, Problem};
use crate::gateway::StartError;
use crate::wire::{Socket, watched};

/// Connections that the system queues while all workers are busy.
const BACKLOG: i32 = 4_096;

/// Who may connect to a Unix-domain socket: its owner and group.
const SOCKET_MODE: u32 = 0o660;

/// What clients of Unix-domain sockets count as: they have no address, and are on this machine.
const UNIX_PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A socket that connections come in on.
pub(crate) enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix-domain socket.
    Unix(UnixListener),
}

impl Listener {
    /// Another handle to the same socket.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Unix(listener) => Self::Unix(listener.try_clone()?),
        })
    }

    /// Where it listens, with the port that was given.
    fn address(&self) -> io::Result<Listen> {
        address_of(self)
    }

    /// A listening socket, whoever made it.
    fn of(socket: OwnedFd) -> io::Result<Self> {
        let socket = RawSocket::from(socket);
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return Err(io::Error::other("it is no listening stream socket"));
        }
        socket.set_nonblocking(true)?;
        Ok(match listen_of(&socket.local_addr()?)? {
            Listen::Tcp(_) => Self::Tcp(socket.into()),
            Listen::Unix(_) => Self::Unix(OwnedFd::from(socket).into()),
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

fn address_of(socket: &impl AsFd) -> io::Result<Listen> {
    listen_of(&socket2::SockRef::from(socket).local_addr()?)
}

fn listen_of(address: &SockAddr) -> io::Result<Listen> {
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Ok(Listen::Tcp(address)),
        (None, Some(path)) => Ok(Listen::Unix(path.to_owned())),
        (None, None) => Err(io::Error::other("it has neither an IP address nor a file")),
    }
}

/// A [`Listener`] within a worker's runtime.
pub(super) struct Accepting(AsyncFd<OwnedFd>);

impl Accepting {
    pub(super) fn new(listener: Listener) -> io::Result<Self> {
        let socket = match listener {
            Listener::Tcp(listener) => {
                // Small answers must not wait for the client's delayed acknowledgement. What is
                // accepted here inherits it.
                socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
                listener.into()
            }
            Listener::Unix(listener) => listener.into(),
        };
        watched(socket).map(Self)
    }

    /// The next connection, and the address that its peer counts as, IPv4 in IPv4 form.
    pub(super) async fn accept(&self) -> io::Result<(Socket, IpAddr)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            let mut guard = self.0.readable().await?;
            match acceptfrom_with(guard.get_inner(), flags) {
                Ok((socket, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    let address = peer.map_or(UNIX_PEER, |peer| peer.ip().to_canonical());
                    return Ok((Socket::new(socket)?, address));
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A bound socket of this process.
pub(super) struct Bound {
    pub(super) listener: Listener,
    pub(super) address: Listen,
    /// The file to remove in the end.
    file: Option<SocketFile>,
}

impl Bound {
    /// Takes the inherited socket for `listen`, or binds one. `key` is where it is written.
    pub(super) fn open(
        key: &str,
        listen: &Listen,
        inherited: &mut Inherited,
    ) -> Result<Self, StartError> {
        let opened = match inherited.claim(listen) {
            Some(handed) => Ok(handed),
            None => match listen {
                Listen::Tcp(address) => bind_tcp(*address),
                Listen::Unix(path) => bind_unix(path),
            },
        };
        opened.map_err(|error| {
            let message = format!("cannot listen on {listen}: {error}");
            StartError::Listen(Problem::new(key, message))
        })
    }

    /// The file is another process's from now on, or goes with this one.
    pub(super) fn own_file(&mut self, own: bool) {
        if let Some(file) = &mut self.file {
            file.own = own;
        }
    }

    /// For the process that replaces this one: whether it then has a file to remove.
    pub(super) fn has_own_file(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.own)
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Bound> {
    let domain = socket2::Domain::for_address(address);
    let socket = RawSocket::new(domain, Type::STREAM, None)?;
    // A restart must not wait for old connections to time out. This does not let two
    // listeners share an address: that would be SO_REUSEPORT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket
            .set_only_v6(address.ip().to_canonical().is_ipv4() || !address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = Listener::Tcp(socket.into());
    Ok(Bound { address: listener.address()?, listener, file: None })
}

fn bind_unix(path: &Path) -> io::Result<Bound> {
    remove_stale(path)?;
    let socket = RawSocket::new(socket2::Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::of(path, true)?;
    // Before it listens, so that nobody connects in between.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = Listener::Unix(OwnedFd::from(socket).into());
    Ok(Bound { listener, address: Listen::Unix(path.to_owned()), file: Some(file) })
}

/// Removes the socket of a process that is gone: nobody listens on it. Anything else stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::other("there is a file of that name, and it is no socket"));
    }
    let probe = RawSocket::new(socket2::Domain::UNIX, Type::STREAM, None)?;
    // A full queue must not hold this up.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

/// The file of a Unix-domain socket, removed when this is dropped by the process that owns it.
struct SocketFile {
    path: PathBuf,
    /// Device and inode: another's file of the same name is left alone.
    identity: (u64, u64),
    own: bool,
}

impl SocketFile {
    fn of(path: &Path, own: bool) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()), own })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |file: fs::Metadata| (file.dev(), file.ino()) == self.identity;
        if self.own && fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // Whoever starts next removes what cannot be removed now.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listening sockets that this process was started with.
#[derive(Default)]
pub struct Inherited {
    sockets: Vec<Handed>,
    /// They are the service manager's: each must have its place in the configuration.
    all_needed: bool,
}

/// One of them.
struct Handed {
    listener: Listener,
    address: Listen,
    /// Its file is to be removed by whoever listens on it last.
    file_is_ours: bool,
}

/// Why sockets cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// The process that this one is to replace handed over something else, or nothing.
    #[error("the listeners of the running process cannot be taken over")]
    Predecessor(#[source] io::Error),
    /// The service manager passed something else.
    #[error("file descriptor {number} from the service manager cannot be used")]
    Manager {
        /// Its number.
        number: usize,
        /// Why.
        source: io::Error,
    },
}

impl Inherited {
    /// What this process was started with: sockets of the process that it is to replace, which
    /// then waits for [`Predecessor::leave`], or of the service manager (`sd_listen_fds(3)`).
    ///
    /// # Errors
    /// There is something that cannot be used.
    pub fn take() -> Result<(Self, Option<Predecessor>), InheritError> {
        if let Some((sockets, predecessor)) =
            handover::receive().map_err(InheritError::Predecessor)?
        {
            let sockets: io::Result<Vec<_>> =
                sockets.into_iter().map(|(socket, file)| Handed::of(socket, file)).collect();
            let sockets = sockets.map_err(InheritError::Predecessor)?;
            return Ok((Self { sockets, all_needed: false }, Some(predecessor)));
        }
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(passed.len());
        for index in 0..passed.len() {
            let taken = (passed.take_tcp_listener(index).map(|it| it.map(OwnedFd::from)))
                .or_else(|_| passed.take_unix_listener(index).map(|it| it.map(OwnedFd::from)));
            let handed =
                taken.and_then(|socket| Handed::of(socket.ok_or(io::ErrorKind::NotFound)?, false));
            // The first is number 3 (SD_LISTEN_FDS_START).
            let number = index + 3;
            sockets.push(handed.map_err(|source| InheritError::Manager { number, source })?);
        }
        Ok((Self { sockets, all_needed: true }, None))
    }

    fn claim(&mut self, listen: &Listen) -> Option<Bound> {
        let place = self.sockets.iter().position(|handed| handed.address == *listen)?;
        let Handed { listener, address, file_is_ours } = self.sockets.swap_remove(place);
        let file = match &address {
            // Not removed before the other process has left it to us.
            Listen::Unix(path) if file_is_ours => SocketFile::of(path, false).ok(),
            _ => None,
        };
        Some(Bound { listener, address, file })
    }

    /// Whether all have found their place.
    ///
    /// # Errors
    /// The service manager listens for us where the configuration says nothing: its clients would
    /// wait forever.
    pub(super) fn finish(self) -> Result<(), StartError> {
        match self.sockets.first() {
            Some(handed) if self.all_needed => {
                let message = format!(
                    "the service manager listens on {}, which is neither here nor admin.listen",
                    handed.address
                );
                Err(StartError::Listen(Problem::new("server.listen", message)))
            }
            _ => Ok(()),
        }
    }
}

impl Handed {
    fn of(socket: OwnedFd, file_is_ours: bool) -> io::Result<Self> {
        let listener = Listener::of(socket)?;
        Ok(Self { address: listener.address()?, listener, file_is_ours })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(listen: &Listen, inherited: &mut Inherited) -> Result<Bound, String> {
        Bound::open("server.listen[0]", listen, inherited).map_err(|error| error.to_string())
    }

    #[test]
    fn a_socket_file_is_made_for_owner_and_group_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let listen = Listen::Unix(path.clone());
        let bound = open(&listen, &mut Inherited::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let refused = open(&listen, &mut Inherited::default()).err().unwrap();
        assert!(refused.contains("another process listens there"), "{refused}");
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_process_is_cleared_away_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let listen = Listen::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as a killed process leaves it");
        drop(open(&listen, &mut Inherited::default()).unwrap());
        fs::write(&path, "a file").unwrap();
        assert!(open(&listen, &mut Inherited::default()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }

    #[test]
    fn the_file_of_a_successor_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let listen = Listen::Unix(path.clone());
        let bound = open(&listen, &mut Inherited::default()).unwrap();
        fs::remove_file(&path).unwrap();
        let other = open(&listen, &mut Inherited::default()).unwrap();
        drop(bound);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }

    #[test]
    fn inherited_sockets_are_found_by_their_address() {
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = Listen::Tcp(one.local_addr().unwrap());
        let handed = |listener: &TcpListener| {
            Handed::of(listener.try_clone().unwrap().into(), false).unwrap()
        };
        let mut inherited =
            Inherited { sockets: vec![handed(&other), handed(&one)], all_needed: true };
        assert_eq!(open(&listen, &mut inherited).unwrap().address, listen);
        assert!(open(&listen, &mut inherited).is_err(), "it is taken, and bound by `one`");
        let refused = inherited.finish().unwrap_err().to_string();
        assert!(refused.contains(&other.local_addr().unwrap().to_string()), "{refused}");
        let stream = RawSocket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(Handed::of(stream.into(), false).is_err(), "it does not listen");
    }

    #[tokio::test]
    async fn what_is_accepted_sends_small_answers_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = Accepting::new(Listener::Tcp(listener)).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (socket, peer) = accepting.accept().await.unwrap();
        assert!(socket2::SockRef::from(&socket).tcp_nodelay().unwrap());
        assert_eq!(peer, address.ip());
    }
}
