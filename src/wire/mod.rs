//! A client connection as the HTTP library sees it: the socket, with the time limits and the
//! look at raw heads that the library leaves out.
//!
//! Bytes pass unchanged and in order. To know where a head starts, a read in front of a body of
//! known length never reaches past its end; after a chunked body heads are no longer looked at
//! (only the chunk parser knows where it ends), which costs strictness, not safety.

pub(crate) mod head;
pub(crate) mod pace;
mod place;
mod scan;
mod stream;

pub use head::HeadError;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::pace::Watch;
pub(crate) use self::place::{NoneLeft, Place, Share, Shares};
pub(crate) use self::scan::Flaw;
use self::scan::HeadScan;
pub(crate) use self::stream::{Negotiated, Peer, Socket, StdSocket, Stream};

/// Body length of a request whose end only the chunk parser knows.
pub(crate) const CHUNKED: u64 = u64::MAX;

/// How long a client may leave no room for bytes that we want to write.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a client may go on sending a body whose request has been answered: enough to read the
/// answer before the connection is gone.
const EARLY_ANSWER_GRACE: Duration = Duration::from_secs(1);

/// How long, and how much, is read on after a connection was closed with its client still sending.
const LINGER: Duration = Duration::from_secs(1);
const MAX_LINGER_BYTES: usize = 4 << 20;

thread_local! {
    /// Heads are read through this buffer, one for all connections of a worker.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 16 << 10].into());
}

/// Time limits that the socket itself keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WireLimits {
    /// For a whole head, from its first byte (the first one: from the connection's start).
    pub(crate) head: Duration,
    /// Between an answer and the next head.
    pub(crate) idle: Duration,
}

/// What the service and the socket tell each other.
pub(crate) struct Wire {
    /// Time limits of the connection.
    pub(crate) watch: Arc<Watch>,
    limits: WireLimits,
    /// The flaw of the head that was read last.
    flaw: AtomicU8,
    /// Bytes of the current request body that are still to be read.
    body_left: AtomicU64,
    /// Between two requests: no head has begun and none is being answered.
    idle: AtomicBool,
    /// From a request's arrival to the end of its answer.
    serving: AtomicBool,
    /// The client has sent something.
    touched: AtomicBool,
}

impl Wire {
    /// A connection that has to send a head now.
    pub(crate) fn new(watch: Arc<Watch>, limits: WireLimits) -> Self {
        watch.expect_client(limits.head);
        Self {
            watch,
            limits,
            flaw: AtomicU8::new(0),
            body_left: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            serving: AtomicBool::new(false),
            touched: AtomicBool::new(false),
        }
    }

    /// A request has arrived, with so many bytes of body to come. Gives what was wrong with its
    /// head. Must be called before the library reads on: when it calls the service, not when the
    /// service's future first runs.
    pub(crate) fn begin(&self, body_bytes: u64) -> Option<Flaw> {
        self.body_left.store(body_bytes, Relaxed);
        self.serving.store(true, Relaxed);
        self.idle.store(false, Relaxed);
        self.watch.client_acted();
        self.watch.stay_open();
        Flaw::from_number(self.flaw.swap(0, Relaxed))
    }

    /// The answer has been handed over in full.
    pub(crate) fn end(&self) {
        self.serving.store(false, Relaxed);
        self.idle.store(true, Relaxed);
        self.watch.upstream_acted();
        self.watch.expect_client(self.limits.idle);
    }

    /// Whether the client has sent anything yet.
    pub(crate) fn is_touched(&self) -> bool {
        self.touched.load(Relaxed)
    }

    /// Whether the client may still be sending what nobody is going to read.
    fn has_unread(&self) -> bool {
        !self.idle.load(Relaxed) || self.body_left.load(Relaxed) != 0
    }

    /// The answer has been handed over in full, but the request's body is still on its way. What is
    /// left of it is no longer wanted, and a next head would have to wait for it.
    pub(crate) fn end_early(&self) {
        self.end();
        self.watch.close_within(EARLY_ANSWER_GRACE);
    }

    /// Bytes of a head came in.
    fn head_bytes_read(&self) {
        self.touched.store(true, Relaxed);
        if self.idle.swap(false, Relaxed) && !self.serving.load(Relaxed) {
            self.watch.expect_client(self.limits.head);
        }
    }
}

/// A client connection, as handed to the HTTP library.
pub(crate) struct ClientIo {
    stream: Stream,
    wire: Arc<Wire>,
    scan: HeadScan,
    /// Bytes that were read together with a head and do not belong to it.
    ahead: Vec<u8>,
    mode: Mode,
    /// Our side is closed; so many bytes more are read and thrown away.
    lingering: Option<usize>,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A head.
    Head,
    /// What follows a head; its body's length is known once the service was called.
    AfterHead,
    /// Anything: no longer looked at.
    Unseen,
}

impl ClientIo {
    /// A new connection.
    pub(crate) fn new(stream: Stream, wire: Arc<Wire>) -> Self {
        Self {
            stream,
            wire,
            scan: HeadScan::default(),
            ahead: Vec::new(),
            mode: Mode::Head,
            lingering: None,
        }
    }

    /// Reads at most `most` bytes by way of the worker's buffer and shows them to `look`, which
    /// says how many to pass on now.
    fn read_through_scratch(
        &mut self,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
        most: usize,
        look: impl FnOnce(&mut Self, &[u8]) -> usize,
    ) -> Poll<io::Result<()>> {
        let most = most.min(cursor.remaining());
        if !self.ahead.is_empty() {
            let mut bytes = std::mem::take(&mut self.ahead);
            let offered = most.min(bytes.len());
            let passed = look(self, &bytes[..offered]);
            cursor.put_slice(&bytes[..passed]);
            // `look` may have set bytes aside; they lie before the rest.
            let mut rest = std::mem::take(&mut self.ahead);
            if rest.is_empty() && passed < bytes.len() {
                bytes.drain(..passed);
                rest = bytes;
            } else if offered < bytes.len() {
                rest.extend_from_slice(&bytes[offered..]);
            }
            self.ahead = rest;
            return Poll::Ready(Ok(()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let room = most.min(scratch.len());
            let mut buffer = ReadBuf::new(&mut scratch[..room]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let passed = look(self, buffer.filled());
            cursor.put_slice(&buffer.filled()[..passed]);
            Poll::Ready(Ok(()))
        })
    }

    /// Looks at bytes of a head; bytes beyond its end are set aside.
    fn look_at_head(&mut self, bytes: &[u8]) -> usize {
        self.wire.head_bytes_read();
        let Some((end, flaw)) = self.scan.feed(bytes) else { return bytes.len() };
        if let Some(flaw) = flaw {
            self.wire.flaw.store(flaw as u8, Relaxed);
        }
        self.mode = Mode::AfterHead;
        self.ahead.extend_from_slice(&bytes[end..]);
        end
    }
}

impl Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.mode == Mode::AfterHead {
            match this.wire.body_left.load(Relaxed) {
                0 => this.mode = Mode::Head,
                CHUNKED => this.mode = Mode::Unseen,
                left => {
                    let most = usize::try_from(left).unwrap_or(usize::MAX);
                    if most > cursor.remaining() && this.ahead.is_empty() {
                        return this.read_body_directly(cx, cursor);
                    }
                    return this.read_through_scratch(cx, cursor, most, |this, bytes| {
                        this.wire.body_left.fetch_sub(bytes.len() as u64, Relaxed);
                        bytes.len()
                    });
                }
            }
        }
        match this.mode {
            Mode::Unseen if this.ahead.is_empty() => {
                if this.wire.idle.load(Relaxed) {
                    return this.read_through_scratch(cx, cursor, usize::MAX, |this, bytes| {
                        this.wire.head_bytes_read();
                        bytes.len()
                    });
                }
                Pin::new(&mut TokioIo::new(&mut this.stream)).poll_read(cx, cursor)
            }
            Mode::Unseen => {
                this.read_through_scratch(cx, cursor, usize::MAX, |_, bytes| bytes.len())
            }
            Mode::Head | Mode::AfterHead => {
                this.read_through_scratch(cx, cursor, usize::MAX, Self::look_at_head)
            }
        }
    }
}

impl ClientIo {
    /// Reads a piece of a large body straight into the library's buffer.
    fn read_body_directly(
        &mut self,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut counted = Counted { stream: &mut self.stream, read: 0 };
        let result = Pin::new(&mut TokioIo::new(&mut counted)).poll_read(cx, cursor);
        let read = counted.read as u64;
        self.wire.body_left.fetch_sub(read, Relaxed);
        result
    }
}

/// Counts what a read gave; the library's cursor does not tell.
struct Counted<'a> {
    stream: &'a mut Stream,
    read: usize,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(cx, buffer))?;
        self.read += buffer.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl ClientIo {
    /// Notes whether the client made room for what we write.
    fn note_write<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(_) => self.wire.watch.room_found(),
            Poll::Pending => self.wire.watch.keep_expecting_room(WRITE_TIMEOUT),
        }
        written
    }
}

impl Write for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note_write(flushed)
    }

    /// Closes our side, then reads on for a moment where the client may still be sending: a socket
    /// that is closed over unread bytes is reset, and the reset destroys an answer that the client
    /// has not read yet (RFC 9112 §9.6).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.wire.has_unread() {
                return Poll::Ready(Ok(()));
            }
            this.lingering = Some(MAX_LINGER_BYTES);
            this.wire.watch.close_within(LINGER);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            while let Some(left @ 1..) = this.lingering {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer))?;
                let read = buffer.filled().len();
                this.lingering = Some(if read == 0 { 0 } else { left.saturating_sub(read) });
            }
            Poll::Ready(Ok(()))
        })
    }
}
