//! What the relay sees of an upstream: one request to send, one answer to read, over whichever
//! version of HTTP.

use std::io;
use std::task::{Context, Poll};

use http::HeaderMap;

use crate::message::{Fields, Malformed, Piece};

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The connection ended before the answer did.
    #[error("the connection ended before the answer")]
    Closed,
    /// The stream failed, or its connection.
    #[error("the stream failed")]
    Http2(#[source] h2::Error),
    /// The system's answer.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The answer is not HTTP.
    #[error("the answer is malformed")]
    Malformed(#[source] Malformed),
}

/// The head of an answer.
pub(crate) struct Answer<'a> {
    /// Status; 1xx are interim but for 101.
    pub(crate) status: u16,
    /// Field lines.
    pub(crate) fields: Fields<'a>,
    /// Bytes of body, when that is known.
    pub(crate) length: Option<u64>,
}

/// An upstream with one request. Everything is polled from the client's task, so that both
/// directions move at once.
pub(crate) trait Origin {
    /// Takes bytes of the request's body; gives how many. They may wait for
    /// [`Origin::poll_flush`].
    fn poll_send(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<usize>>;

    /// Sends what waits.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the request's body.
    fn end_request(&mut self, trailers: Option<HeaderMap>);

    /// Ready when a head has come, which [`Origin::answer`] then shows.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>>;

    /// The head that has come.
    fn answer(&self) -> Answer<'_>;

    /// The length that the head states, whether or not such a body follows.
    fn declared_length(&self) -> Option<u64>;

    /// Goes on behind the head.
    fn take_head(&mut self);

    /// After a 101: all that follows are the tunnel's bytes.
    fn open_tunnel(&mut self);

    /// Looks for the next piece of the answer's body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Fault>>;

    /// The bytes that [`Piece::Data`] counts, and perhaps more that are not meant.
    fn piece(&self) -> &[u8];

    /// Takes so many bytes of the piece.
    fn take_piece(&mut self, n: usize);

    /// The answer's trailers, after [`Piece::End`]; HTTP/2 only.
    fn take_trailers(&mut self) -> Option<HeaderMap>;

    /// In a tunnel: says that nothing more comes from our side.
    fn poll_end_sending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}
