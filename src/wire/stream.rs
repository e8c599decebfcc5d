//! The socket of a client: TCP or a Unix-domain socket, with or without TLS over it. Everything
//! above reads and writes it alike. What is known of whoever is at its other end is a [`Peer`].

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A connected socket.
pub(crate) enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix-domain socket.
    Unix(UnixStream),
}

/// The same outside of any runtime, on its way from one worker to another.
pub(crate) enum StdSocket {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A Unix-domain socket.
    Unix(std::os::unix::net::UnixStream),
}

/// A client's connection.
pub(crate) enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// A plain Unix-domain socket.
    Unix(UnixStream),
    /// TLS over either.
    Tls(Box<TlsStream<Socket>>),
}

/// Whoever is at the other end of a connection, as far as the connection itself tells.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Its address, IPv4 in IPv4 form: of the socket, or of the PROXY header of a peer that has to
    /// send one. Of a Unix-domain socket: 127.0.0.1.
    pub(crate) address: IpAddr,
    /// The protocol that was agreed on.
    pub(crate) negotiated: Negotiated,
    /// The subject of the verified certificate that the client has shown (RFC 4514).
    pub(crate) client_certificate: Option<HeaderValue>,
}

/// What a connection's start says about the protocol on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Negotiated {
    /// No TLS: the first bytes have to tell.
    Plain,
    /// TLS, with HTTP/1.1 or without a word on the protocol (RFC 7301).
    Http1,
    /// TLS with HTTP/2 (RFC 9113 §3.2).
    Http2,
}

impl Negotiated {
    /// Whether the connection is encrypted.
    pub(crate) fn over_tls(self) -> bool {
        self != Self::Plain
    }
}

impl Socket {
    /// Gives a socket to the runtime that this is called in.
    ///
    /// # Errors
    /// When the system refuses to watch the socket.
    pub(crate) fn from_std(socket: StdSocket) -> io::Result<Self> {
        Ok(match socket {
            StdSocket::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream)?),
            StdSocket::Unix(stream) => Self::Unix(UnixStream::from_std(stream)?),
        })
    }

    /// Takes the socket out of its runtime.
    ///
    /// # Errors
    /// When the system refuses to forget the socket.
    pub(crate) fn into_std(self) -> io::Result<StdSocket> {
        Ok(match self {
            Self::Tcp(stream) => StdSocket::Tcp(stream.into_std()?),
            Self::Unix(stream) => StdSocket::Unix(stream.into_std()?),
        })
    }

    /// Small answers must not wait for the client's delayed acknowledgement.
    pub(crate) fn send_at_once(&self) {
        if let Self::Tcp(stream) = self {
            // A connection that is gone already says so when it is read.
            let _ = stream.set_nodelay(true);
        }
    }

    /// Waits until there are bytes, or the end, without any memory to put them in.
    ///
    /// # Errors
    /// When the runtime is going down.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    /// Runs one read of `operation` on the bare socket; `WouldBlock` makes the next
    /// [`Socket::readable`] wait.
    ///
    /// # Errors
    /// Those of `operation`.
    pub(crate) fn try_read_with<T>(
        &self,
        operation: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || operation(stream.as_fd())),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || operation(stream.as_fd())),
        }
    }

    /// Writes what fits at once.
    ///
    /// # Errors
    /// Those of the system; `WouldBlock` when nothing fits.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// As a connection without TLS.
    pub(crate) fn plain(self) -> Stream {
        match self {
            Self::Tcp(stream) => Stream::Plain(stream),
            Self::Unix(stream) => Stream::Unix(stream),
        }
    }
}

impl Stream {
    /// Has the connection end with a reset, or in order as it does by itself.
    pub(crate) fn reset_on_close(&self, reset: bool) {
        let socket = match self {
            Self::Plain(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => match stream.get_ref().0 {
                Socket::Tcp(stream) => stream.as_fd(),
                Socket::Unix(stream) => stream.as_fd(),
            },
        };
        // A socket that cannot be told has ended already.
        let _ = socket2::SockRef::from(&socket).set_linger(reset.then_some(Duration::ZERO));
    }
}

/// Passes a call on to whatever is inside.
macro_rules! within {
    ($self:expr, $type:ident :: { $($variant:ident),+ }, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            $($type::$variant($stream) => $call,)+
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        within!(self, Self::{ Tcp, Unix }, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        within!(self, Self::{ Tcp, Unix }, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        within!(self, Self::{ Tcp, Unix }, stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        within!(self, Self::{ Tcp, Unix }, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        within!(self, Self::{ Tcp, Unix }, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        within!(self, Self::{ Plain, Unix, Tls }, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        within!(self, Self::{ Plain, Unix, Tls }, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        within!(self, Self::{ Plain, Unix, Tls }, stream => {
            Pin::new(stream).poll_write_vectored(cx, bytes)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        within!(self, Self::{ Plain, Unix, Tls }, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        within!(self, Self::{ Plain, Unix, Tls }, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
