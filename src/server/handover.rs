//! Hands the listeners over to a new process, which takes this one's place without a connection
//! refused or lost: both accept from the same queues, and this one stops only when the other says
//! that it accepts.
//!
//! ```text
//! old                                                   new
//! starts itself anew, one end of a socket pair as ────▶ standard input
//! one message a listener (SCM_RIGHTS), then an end ───▶ uses them for its `listen` keys
//! stops accepting, drains, ends ◀────────────── ready ─ accepts
//! goes on as if nothing had been ◀─────────── closed ─ did not start
//! ```
//!
//! Alternatives refused: inherited numbers of descriptors as systemd passes them, which every other
//! child process would inherit as well at that moment; two listeners by `SO_REUSEPORT`, which loses
//! what is in the queue of the one that closes.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt as _;

/// Says to the new process what its standard input is.
const VARIABLE: &str = "PORTCULLIS_HANDOVER";

/// How long the new process may take until it accepts: it may have to bring a database up to date.
const START_PATIENCE: Duration = Duration::from_mins(2);

/// How long either side waits for a message that the other is about to send.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(5);

/// Most listeners that are taken over; more than anybody configures.
const MAX_LISTENERS: usize = 1_024;

/// A listener follows.
const LISTENER: u8 = b'L';
/// A listener follows; its file is removed by whoever listens on it last.
const LISTENER_WITH_FILE: u8 = b'F';
/// There are no more.
const END: u8 = b'E';
/// The new process accepts.
const READY: u8 = b'R';

/// The new process, on its way.
pub struct Successor {
    child: Child,
    link: UnixStream,
}

/// Why this process goes on.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// It could not be started.
    #[error("the new process cannot be started")]
    Start(#[source] io::Error),
    /// It ended; its own log says why.
    #[error("the new process did not start ({0})")]
    Ended(std::process::ExitStatus),
    /// It took too long, and was ended.
    #[error("the new process was not ready within {} s", START_PATIENCE.as_secs())]
    Slow,
}

impl Successor {
    /// Starts this program anew, with the arguments that this process was started with, and hands
    /// it the sockets, each with whether its file is then the new process's.
    ///
    /// # Errors
    /// The system refuses. The new process then ends, as nobody leaves it the sockets.
    pub(super) fn start<'s>(
        sockets: impl Iterator<Item = (BorrowedFd<'s>, bool)>,
    ) -> io::Result<Self> {
        let (link, theirs) = UnixStream::pair()?;
        let mut arguments = std::env::args_os();
        let program = arguments.next().ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env(VARIABLE, "1")
            // They say what the service manager passed to this process.
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .stdin(Stdio::from(OwnedFd::from(theirs)));
        let mut successor = Self { child: command.spawn()?, link };
        // With it goes this process's copy of the other end, so that its end is seen here.
        drop(command);
        if let Err(error) = send(&successor.link, sockets) {
            successor.end();
            return Err(error);
        }
        Ok(successor)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// It never will, and has ended.
    pub async fn ready(&mut self) -> Result<(), HandoverError> {
        let link = self.link.try_clone().and_then(|link| {
            link.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(link)
        });
        let mut word = [0];
        let said = match link {
            Ok(mut link) => tokio::time::timeout(START_PATIENCE, link.read_exact(&mut word)).await,
            Err(error) => Ok(Err(error)),
        };
        match said {
            Ok(Ok(_)) if word == [READY] => Ok(()),
            Ok(_) => {
                // Its end of the link is closed, so it has ended or is about to.
                let status = self.child.wait().map_err(HandoverError::Start)?;
                Err(HandoverError::Ended(status))
            }
            Err(_) => {
                self.end();
                Err(HandoverError::Slow)
            }
        }
    }

    /// Ends it.
    pub fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send<'s>(
    link: &UnixStream,
    sockets: impl Iterator<Item = (BorrowedFd<'s>, bool)>,
) -> io::Result<()> {
    link.set_write_timeout(Some(MESSAGE_PATIENCE))?;
    for (socket, with_file) in sockets {
        let word = [if with_file { LISTENER_WITH_FILE } else { LISTENER }];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let one = [socket];
        control.push(SendAncillaryMessage::ScmRights(&one));
        sendmsg(link, &[IoSlice::new(&word)], &mut control, SendFlags::NOSIGNAL)?;
    }
    (&*link).write_all(&[END])
}

/// The process that this one replaces.
pub struct Predecessor {
    link: UnixStream,
}

impl Predecessor {
    /// Tells it to leave: this process accepts connections.
    ///
    /// # Errors
    /// It is gone.
    pub fn leave(mut self) -> io::Result<()> {
        self.link.write_all(&[READY])
    }
}

/// A socket with whether its file is then ours.
type Received = (OwnedFd, bool);

/// What the process that this one replaces hands over; `None`: there is no such process.
pub(super) fn receive() -> io::Result<Option<(Vec<Received>, Predecessor)>> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let link = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let sockets = take_over(&link)?;
    // The end of the link must be seen when this process gives it up.
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(Some((sockets, Predecessor { link })))
}

fn take_over(link: &UnixStream) -> io::Result<Vec<Received>> {
    link.set_read_timeout(Some(MESSAGE_PATIENCE))?;
    let mut sockets = Vec::new();
    while sockets.len() <= MAX_LISTENERS {
        let mut word = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            link,
            &mut [IoSliceMut::new(&mut word)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let passed = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        match (received.bytes, word, passed) {
            (1, [LISTENER], Some(socket)) => sockets.push((socket, false)),
            (1, [LISTENER_WITH_FILE], Some(socket)) => sockets.push((socket, true)),
            (1, [END], None) => return Ok(sockets),
            _ => break,
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "standard input is no handover"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn sockets_arrive_with_what_is_said_of_them() {
        let (old, new) = UnixStream::pair().unwrap();
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let sockets = listeners.iter().enumerate().map(|(i, socket)| (socket.as_fd(), i == 1));
        send(&old, sockets).unwrap();
        let received = take_over(&new).unwrap();
        assert_eq!(received.len(), 3);
        for (index, (socket, with_file)) in received.into_iter().enumerate() {
            assert_eq!(with_file, index == 1);
            let socket = TcpListener::from(socket);
            assert_eq!(socket.local_addr().unwrap(), listeners[index].local_addr().unwrap());
        }
        Predecessor { link: new }.leave().unwrap();
        let mut word = [0];
        (&old).read_exact(&mut word).unwrap();
        assert_eq!(word, [READY]);
    }

    #[test]
    fn anything_else_is_no_handover() {
        for bytes in [&b""[..], b"L", b"LE", b"X", b"R"] {
            let (mut old, new) = UnixStream::pair().unwrap();
            old.write_all(bytes).unwrap();
            drop(old);
            assert!(take_over(&new).is_err(), "{bytes:?}");
        }
    }
}
