//! Client connections: sockets, time limits, and the two versions of HTTP that are spoken over
//! them. What the rest of the gateway sees of a client is a `Client`: one request's body to read,
//! one answer to give.
//!
//! Knows neither routes nor answers' contents; never buffers more than a piece.

pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod outgoing;
pub(crate) mod pace;
mod place;
mod socket;
mod stream;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncRead as _, ReadBuf};

use self::pace::Watch;
pub(crate) use self::place::{NoneLeft, Place, Share, Shares};
pub(crate) use self::socket::{Socket, watched};
pub(crate) use self::stream::{Negotiated, Peer, Stream};
use crate::message::{Buffer, FieldSink, Piece};

thread_local! {
    /// What may be little is read by way of this, one for all connections of a worker: whoever
    /// waits needs no room of its own.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SMALL_READ].into());
}

fn with_scratch<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| read(scratch))
}

/// Bytes that are read by way of the scratch at most. Who got as many may expect more.
pub(crate) const SMALL_READ: usize = 8 << 10;

/// Reads into `input` what is there; 0 is the end. A `large` amount is read straight to where it
/// will lie, a small one by way of the worker's scratch.
pub(crate) fn poll_fill(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    input: &mut Buffer,
    large: bool,
) -> Poll<io::Result<usize>> {
    /// Room for a piece of a large body.
    const LARGE_BYTES: usize = 64 << 10;
    if large && !input.is_unused() {
        return stream.poll_read_vec(cx, input.to_fill(LARGE_BYTES));
    }
    if !large && input.is_empty() {
        // What held a large piece is not kept for small ones.
        input.rest();
    }
    with_scratch(|scratch| {
        let mut read = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut read))?;
        input.put(read.filled());
        if large {
            // More will follow.
            input.to_fill(LARGE_BYTES);
        }
        Poll::Ready(Ok(read.filled().len()))
    })
}

/// How long a client may leave no room for bytes that we want to send.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a connection that has not begun may stay open in a drain: its first request may be on
/// its way, and would be lost.
pub(crate) const FIRST_HEAD_GRACE: Duration = Duration::from_secs(1);

/// Limits that a connection keeps by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WireLimits {
    /// For a whole head, from its first byte (the first one: from the connection's start).
    pub(crate) head: Duration,
    /// Between an answer and the next head.
    pub(crate) idle: Duration,
    /// Longest head.
    pub(crate) max_head_bytes: usize,
}

/// How a client failed us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientFault {
    /// It is no longer there, or takes no more.
    #[error("the client went away")]
    Gone,
    /// Its body breaks the rules of framing.
    #[error("the client's request body is malformed")]
    Malformed,
}

/// What follows the head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerBody {
    /// No body, and nothing is said of one.
    Nothing,
    /// No body, but the length that it would have: answers to `HEAD`, and 304.
    Declared(u64),
    /// So many bytes.
    Length(u64),
    /// Nobody knows yet how many.
    Streamed,
    /// A WebSocket's bytes, both ways.
    Tunnel,
}

/// A client with one request. Bodies are read and answers written by polling, from one task, so
/// that both directions move at once.
pub(crate) trait Client {
    /// Where a head's fields go.
    type Sink: FieldSink;

    /// The client's time limits.
    fn watch(&self) -> &Arc<Watch>;

    /// Looks for the next piece of the request's body. The first look gives the leave that a client
    /// with `Expect: 100-continue` waits for.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, ClientFault>>;

    /// The bytes that [`Piece::Data`] counts, and perhaps more that are not meant.
    fn piece(&self) -> &[u8];

    /// Takes so many bytes of the piece.
    fn take_piece(&mut self, n: usize);

    /// What is left of the request's body is not wanted. When it is not here already, the
    /// connection ends with the answer: nobody may take those bytes for a request.
    fn discard_body(&mut self);

    /// Nothing more is read from the connection once the answer is out; HTTP/1 only.
    fn close_after_answer(&mut self);

    /// The request's trailers, after [`Piece::End`]; HTTP/2 only.
    fn take_trailers(&mut self) -> Option<HeaderMap>;

    /// Ready when the client is no longer there, for when nothing else is awaited from it. One of
    /// HTTP/1 that has only ended its side is believed to be there as long as it is written to.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ready when the client has reset the stream, for when it has ended its side in order; HTTP/2
    /// only: over HTTP/1.1 a client that is gone looks like one that has ended its side.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Begins an interim answer (1xx); `None` when the client knows none.
    fn begin_interim(&mut self, status: u16) -> Option<&mut Self::Sink>;

    /// Ends an interim answer.
    fn end_interim(&mut self);

    /// Begins the head of the answer.
    fn begin_answer(&mut self, status: u16) -> &mut Self::Sink;

    /// Ends the head of the answer, with framing.
    fn end_answer_head(&mut self, body: AnswerBody);

    /// Takes bytes of the answer's body; gives how many. They may wait for
    /// [`Client::poll_flush`].
    fn poll_send(&mut self, cx: &mut Context<'_>, piece: &[u8])
    -> Poll<Result<usize, ClientFault>>;

    /// Sends what waits.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>>;

    /// Ends the answer's body. Trailers are passed in HTTP/2 only.
    fn end_answer(&mut self, trailers: Option<HeaderMap>);

    /// In a tunnel: says that nothing more comes from our side.
    fn poll_end_sending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>>;

    /// The answer cannot be completed: the client must learn that it was cut off.
    fn abort(&mut self);
}
