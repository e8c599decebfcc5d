//! A connected socket, TCP or Unix-domain, that one worker's runtime watches. System calls are made
//! directly: the C library's are cancellation points, and what these cost is a hundredth of a
//! proxied request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connected socket.
pub(crate) struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    /// Gives a non-blocking socket to the runtime that this is called in.
    ///
    /// # Errors
    /// When the system refuses to watch the socket.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        watched(socket).map(Self)
    }

    /// Takes the socket out of its runtime.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0.into_inner()
    }

    /// Waits until there are bytes, or the end, without any memory to put them in.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) async fn until_bytes(&self) -> io::Result<()> {
        let look = |socket: BorrowedFd<'_>| Ok(recv(socket, &mut [0; 1], RecvFlags::PEEK)?);
        self.read_with(look).await.map(drop)
    }

    /// Waits for bytes and runs one read of `operation` on the bare socket, again as long as it says
    /// that there is nothing.
    ///
    /// # Errors
    /// Those of `operation`.
    pub(crate) async fn read_with<T>(
        &self,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let mut guard = self.0.readable().await?;
            match operation(self.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                outcome => return outcome,
            }
        }
    }

    /// Whether the other end is silent: no bytes have come, and no end. Asks the system only when
    /// the runtime was told that there is something.
    pub(crate) fn is_quiet(&self) -> bool {
        let look = |socket: &OwnedFd| Ok(recv(socket, &mut [0; 1], RecvFlags::PEEK)?);
        let looked = self.0.try_io(tokio::io::Interest::READABLE, look);
        matches!(looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Writes what fits at once.
    ///
    /// # Errors
    /// Those of the system; `WouldBlock` when nothing fits.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    /// Reads into the room that `into` has; 0 is the end.
    pub(super) fn poll_read_vec(
        &self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        let room = into.capacity() - into.len();
        self.poll_read_with(cx, room, |socket| {
            Ok(recv(socket, spare_capacity(into), RecvFlags::empty())?.1)
        })
    }

    /// Reads into `room`; 0 is the end.
    pub(super) fn poll_read_slice(
        &self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(cx, room.len(), |socket| {
            Ok(recv(socket, &mut *room, RecvFlags::empty())?.1)
        })
    }

    fn poll_read_with(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        mut read: impl FnMut(BorrowedFd<'_>) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let guard = ready!(self.0.poll_read_ready(cx))?;
            if let Some(done) = settle(guard, read(self.as_fd()), room) {
                return Poll::Ready(done);
            }
        }
    }

    /// Writes as much as fits, as `flags` say.
    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        flags: SendFlags,
    ) -> Poll<io::Result<usize>> {
        loop {
            let guard = ready!(self.0.poll_write_ready(cx))?;
            let written = send(&self.0, bytes, flags | SendFlags::NOSIGNAL);
            if let Some(done) = settle(guard, written, bytes.len()) {
                return Poll::Ready(done);
            }
        }
    }
}

/// Has the runtime that this is called in watch a non-blocking socket.
///
/// # Errors
/// When the system refuses to.
#[expect(
    deprecated,
    reason = "the other way is unsafe code, for types that might not own what they give to watch"
)]
pub(crate) fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(socket)
}

/// What a system call has moved, if it has; nothing was there, or no room, otherwise. When it moved
/// less than it might have, the next one would move nothing: it is not made before the runtime is
/// told of more.
fn settle(
    mut guard: AsyncFdReadyGuard<'_, OwnedFd>,
    moved: Result<usize, Errno>,
    most: usize,
) -> Option<io::Result<usize>> {
    match moved {
        Ok(bytes) => {
            if 0 < bytes && bytes < most {
                guard.clear_ready();
            }
            Some(Ok(bytes))
        }
        Err(Errno::AGAIN) => {
            guard.clear_ready();
            None
        }
        Err(Errno::INTR) => None,
        Err(error) => Some(Err(error.into())),
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(self.poll_read_slice(cx, buffer.initialize_unfilled()))?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes, SendFlags::empty())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let most = pieces.iter().map(|piece| piece.len()).sum();
        loop {
            let guard = ready!(self.0.poll_write_ready(cx))?;
            if let Some(done) = settle(guard, rustix::io::writev(&self.0, pieces), most) {
                return Poll::Ready(done);
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match shutdown(&self.0, Shutdown::Write) {
            // It is gone already.
            Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            outcome => Poll::Ready(Ok(outcome?)),
        }
    }
}
