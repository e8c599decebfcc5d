//! A connection of ours, to a client or to a server: a [`Socket`], with or without TLS over it.
//! Everything above reads and writes it alike. What is known of a client at its other end is a
//! [`Peer`].

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::HeaderValue;
use rustix::net::SendFlags;
use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;
use tokio_util::io::poll_read_buf;

use super::socket::Socket;

/// A connection.
pub(crate) enum Stream {
    /// The bare socket.
    Plain(Socket),
    /// TLS over it. Boxed: it is some hundred times as large.
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

impl Stream {
    /// Has the connection end with a reset, or in order as it does by itself.
    pub(crate) fn reset_on_close(&self, reset: bool) {
        // A socket that cannot be told has ended already.
        let _ = socket2::SockRef::from(&self.socket().as_fd())
            .set_linger(reset.then_some(Duration::ZERO));
    }

    /// What carries it.
    pub(crate) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether the other end is silent, as it must be between two exchanges: bytes that nobody
    /// asked for would be taken for the next answer, and an end means that it is gone.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_quiet(),
            // Session tickets come unasked (RFC 8446 §4.6.1) and are taken on the way.
            Self::Tls(stream) => {
                let mut cx = Context::from_waker(Waker::noop());
                match &mut **stream {
                    TlsStream::Client(stream) => Pin::new(stream).poll_fill_buf(&mut cx),
                    TlsStream::Server(stream) => Pin::new(stream).poll_fill_buf(&mut cx),
                }
                .is_pending()
            }
        }
    }

    /// Reads into the room that `into` has; 0 is the end.
    pub(super) fn poll_read_vec(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_read_vec(cx, into),
            Self::Tls(_) => poll_read_buf(Pin::new(self), cx, into),
        }
    }
}

/// Passes a call on to whatever is inside.
macro_rules! within {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(stream) => {
                // What was encrypted and found no room then: whoever wrote it has turned to
                // reading. A failure is for the read to tell.
                let wants_write = match &**stream {
                    TlsStream::Client(stream) => stream.get_ref().1.wants_write(),
                    TlsStream::Server(stream) => stream.get_ref().1.wants_write(),
                };
                if wants_write {
                    let _ = Pin::new(&mut *stream).poll_flush(cx);
                }
                Pin::new(stream).poll_read(cx, buffer)
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        within!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        within!(self, stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        within!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        within!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// Writes the last bytes of a connection: they wait for its end, which is announced with them, in
/// the same segment where that has room.
pub(super) struct Parting<'a>(pub(super) &'a mut Stream);

impl AsyncWrite for Parting<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self.get_mut().0 {
            Stream::Plain(socket) => socket.poll_send(cx, bytes, SendFlags::MORE),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_shutdown(cx)
    }
}
