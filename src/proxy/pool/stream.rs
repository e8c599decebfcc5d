//! The bytes of one connection to a server, whatever carries them: TCP, a Unix socket, TLS. Knows
//! nothing of HTTP. As long as it lives it holds its place among the server's connections.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::state::Place;

/// A connection to a server.
pub(crate) struct Stream {
    carrier: Transport,
    /// Its place among the server's connections, where it takes one.
    _place: Option<Place>,
}

/// What carries the bytes.
pub(crate) enum Transport {
    /// TCP, with `TCP_NODELAY`.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP. Boxed: it is some hundred times as large as the others.
    Tls(Box<TlsStream<TcpStream>>),
}

impl From<Transport> for Stream {
    fn from(carrier: Transport) -> Self {
        Self { carrier, _place: None }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Transport::Tcp(stream).into()
    }
}

impl Stream {
    /// A connection that holds `place`.
    pub(super) fn new(carrier: Transport, place: Option<Place>) -> Self {
        Self { carrier, _place: place }
    }

    /// The TCP connection that carries it, if one does.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match &self.carrier {
            Transport::Tcp(stream) => Some(stream),
            Transport::Unix(_) => None,
            Transport::Tls(stream) => Some(stream.get_ref().0),
        }
    }

    /// Whether the other end is silent, as it must be between two exchanges: bytes that nobody
    /// asked for would be taken for the next answer, and an end means that it is gone.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let read = match &mut self.carrier {
            Transport::Tcp(stream) => stream.try_read(&mut byte),
            Transport::Unix(stream) => stream.try_read(&mut byte),
            // Session tickets come unasked (RFC 8446 §4.6.1) and are taken on the way.
            Transport::Tls(stream) => {
                let mut cx = Context::from_waker(Waker::noop());
                return Pin::new(&mut **stream).poll_fill_buf(&mut cx).is_pending();
            }
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Sends on what was encrypted and found no room in the socket then: whoever wrote it has turned
/// to reading. A failure is for the read to tell.
fn push_out(stream: &mut TlsStream<TcpStream>, cx: &mut Context<'_>) {
    if stream.get_ref().1.wants_write() {
        let _ = Pin::new(stream).poll_flush(cx);
    }
}

macro_rules! carried {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.carrier {
            Transport::Tcp($stream) => $call,
            Transport::Unix($stream) => $call,
            Transport::Tls($stream) => {
                let $stream = &mut **$stream;
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Transport::Tls(stream) = &mut this.carrier {
            push_out(stream, cx);
        }
        carried!(this, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        carried!(this, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        carried!(this, stream => Pin::new(stream).poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        carried!(this, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        carried!(this, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
