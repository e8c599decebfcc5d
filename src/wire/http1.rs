//! A client connection that speaks HTTP/1.0 or 1.1 (RFC 9112): heads in, bodies in, answers out, one
//! request after another, all in the task that serves the connection. Nothing is framed twice: the
//! head's own check and one decoder say where a request ends.
//!
//! While it waits for a head it holds no buffers.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::outgoing::{Coding, Outgoing};
use super::pace::Watch;
use super::stream::{Parting, Stream};
use super::{
    AnswerBody, Client, ClientFault, FIRST_HEAD_GRACE, SMALL_READ, WRITE_TIMEOUT, WireLimits,
    poll_fill, with_scratch,
};
use crate::message::request::HeadReader;
use crate::message::{
    BodyLength, Buffer, Decoder, FieldSink as _, Framed, HeadError, Piece, RequestHead, Version,
};

/// A body with more bytes than this to come is read in large pieces.
const LARGE_BODY: u64 = 8 << 10;

/// Bytes of further requests that are read while one is being answered.
const MAX_AHEAD: usize = 16 << 10;

/// How long an upstream may be silent for a client that has ended its side. That end alone does not
/// say whether the client still reads (RFC 9112 §9.6 has both): one that has gone resets the
/// connection when it is written to, and where there is nothing to write nobody can know. Shorter, and
/// more clients that only send no more would lose their answer; longer, and upstreams would be at work
/// for nobody.
const HALF_CLOSED: Duration = Duration::from_secs(1);

/// How long, and how much, is read on after a connection was closed with its client still sending:
/// a socket that is closed over unread bytes is reset, and the reset destroys an answer that the
/// client has not read yet (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
const MAX_LINGER_BYTES: usize = 4 << 20;

/// One connection.
pub(crate) struct Http1 {
    stream: Stream,
    input: Buffer,
    heads: HeadReader,
    /// Of the current request.
    body: Decoder,
    version: Version,
    is_head: bool,
    owes_continue: bool,
    /// The client has ended its side, and may still read.
    half_closed: bool,
    /// Until when that is believed.
    doubt: Option<Pin<Box<Sleep>>>,
    /// The client has no room for what is written.
    stuck: bool,
    /// Whether another request may follow.
    keep_alive: bool,
    /// Whether the answer's head has gone to `out`.
    answered: bool,
    out: Outgoing,
    watch: Arc<Watch>,
    limits: WireLimits,
    /// Whether the last read gave as much as it could.
    eager: bool,
    /// Whether any byte came, and whether a drain has given the first head its time.
    touched: bool,
    graced: bool,
    tunnel: bool,
    /// The answer was cut off.
    aborted: bool,
    /// The answer ends with the connection.
    until_close: bool,
    /// All of the answer has gone to `out`.
    ended: bool,
}

impl Http1 {
    /// A new connection, which has to send a head now.
    pub(crate) fn new(stream: Stream, watch: Arc<Watch>, limits: WireLimits) -> Self {
        watch.expect_client(limits.head);
        Self {
            stream,
            input: Buffer::new(),
            heads: HeadReader::default(),
            body: Decoder::length(0),
            version: Version::Http11,
            is_head: false,
            owes_continue: false,
            half_closed: false,
            doubt: None,
            stuck: false,
            keep_alive: true,
            answered: false,
            out: Outgoing::default(),
            watch,
            limits,
            eager: false,
            touched: false,
            graced: false,
            tunnel: false,
            aborted: false,
            until_close: false,
            ended: false,
        }
    }

    /// Waits until the first bytes show whether the client speaks HTTP/2 (RFC 9113 §3.4).
    pub(crate) async fn begins_with_http2(&mut self) -> bool {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        poll_fn(|cx| {
            loop {
                let seen = self.input.filled();
                if seen.len() >= PREFACE.len() || !PREFACE.starts_with(seen) {
                    return Poll::Ready(seen.starts_with(PREFACE));
                }
                match self.poll_fill(cx, false) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                    Poll::Pending if self.watch.is_draining() && self.may_close_now() => {
                        return Poll::Ready(false);
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Takes the connection apart: the socket, and what was read from it.
    pub(crate) fn into_parts(mut self) -> (Stream, Vec<u8>) {
        let seen = self.input.split_front(self.input.len());
        (self.stream, seen)
    }

    /// The next head, not yet checked; `None` at the end of the connection.
    pub(crate) async fn next_head(&mut self) -> Option<Result<RequestHead, HeadError>> {
        poll_fn(|cx| self.poll_next_head(cx)).await
    }

    fn poll_next_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<RequestHead, HeadError>>> {
        loop {
            if !self.input.is_empty() {
                match self.heads.take(&mut self.input, self.limits.max_head_bytes) {
                    Ok(Some(head)) => return Poll::Ready(Some(Ok(head))),
                    Ok(None) => {}
                    Err(error) => {
                        // Nothing behind it can be read.
                        self.keep_alive = false;
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
            match self.poll_fill(cx, false) {
                Poll::Ready(Ok(1..)) => {
                    if self.watch.is_idle() {
                        self.watch.expect_head(self.limits.head);
                    }
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(None),
                Poll::Pending => {
                    if self.input.is_empty() {
                        self.input.rest();
                        if self.watch.is_draining() && self.may_close_now() {
                            return Poll::Ready(None);
                        }
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// In a drain: whether no request is on its way that would be lost.
    fn may_close_now(&mut self) -> bool {
        if self.touched {
            return true;
        }
        // It was just accepted; its first request may be on its way.
        if !std::mem::replace(&mut self.graced, true) {
            self.watch.close_within(FIRST_HEAD_GRACE);
        }
        false
    }

    /// Begins the exchange of a head that was checked.
    pub(crate) fn begin(&mut self, head: &RequestHead) {
        self.body = match head.body {
            BodyLength::Exactly(bytes) => Decoder::length(bytes),
            BodyLength::Streamed => Decoder::chunked(),
        };
        self.version = head.version;
        self.is_head = head.method == http::Method::HEAD;
        self.owes_continue = head.expects_continue() && !self.body.is_done();
        self.keep_alive = head.wants_keep_alive();
        self.answered = false;
        self.ended = false;
        self.doubt = None;
        self.watch.client_acted();
        self.watch.stay_open();
    }

    /// Begins the refusal of a head that is not acceptable: nothing behind it is read.
    pub(crate) fn begin_refusal(&mut self, head: &RequestHead) {
        self.version = head.version;
        self.is_head = head.method == http::Method::HEAD;
        self.keep_alive = false;
        self.answered = false;
        self.ended = false;
        self.body = Decoder::until_close();
        self.owes_continue = false;
        self.watch.client_acted();
    }

    /// Ends an exchange: whether another one may follow. What is left of the body is thrown away
    /// when it is here already.
    pub(crate) fn end(&mut self) -> bool {
        let whole = self.out.is_whole() && self.answered && !self.aborted && !self.tunnel;
        if !whole || !self.drop_rest_of_body() {
            return false;
        }
        self.out.rest();
        self.input.rest();
        self.watch.upstream_acted();
        if self.input.is_empty() {
            self.watch.expect_next(self.limits.idle);
        } else {
            // The next head has begun already.
            self.watch.expect_head(self.limits.head);
        }
        self.keep_alive && !self.watch.is_draining()
    }

    fn drop_rest_of_body(&mut self) -> bool {
        loop {
            match self.body.look(&mut self.input) {
                Ok(Framed::Data(n)) => self.body.take(&mut self.input, n),
                Ok(Framed::End) => return true,
                Ok(Framed::NeedMore) | Err(_) => return false,
            }
        }
    }

    /// Writes what waits, says that it is the end, and reads on for a moment where the client may
    /// still be sending.
    pub(crate) async fn close(&mut self) {
        let flushed = poll_fn(|cx| self.poll_flush(cx)).await.is_ok();
        if self.aborted {
            return;
        }
        if flushed && self.until_close && self.ended {
            self.stream.reset_on_close(false);
        }
        let shut =
            flushed && poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await.is_ok();
        if !shut || (self.body.is_done() && self.input.is_empty() && !self.heads.has_begun()) {
            return;
        }
        self.watch.close_within(LINGER);
        let mut left = MAX_LINGER_BYTES;
        poll_fn(|cx| {
            with_scratch(|scratch| {
                while left > 0 {
                    let mut buffer = ReadBuf::new(scratch);
                    match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                        Ok(()) if !buffer.filled().is_empty() => {
                            left = left.saturating_sub(buffer.filled().len());
                        }
                        Ok(()) | Err(_) => return Poll::Ready(()),
                    }
                }
                Poll::Ready(())
            })
        })
        .await;
    }

    /// Reads more; 0 is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, large: bool) -> Poll<io::Result<usize>> {
        let read = ready!(poll_fill(&mut self.stream, cx, &mut self.input, large))?;
        self.eager = read >= SMALL_READ;
        self.touched = true;
        Poll::Ready(Ok(read))
    }

    fn note_write<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<Result<T, ClientFault>> {
        self.stuck = written.is_pending();
        match written {
            Poll::Ready(result) => {
                self.watch.room_found();
                Poll::Ready(result.map_err(|_| ClientFault::Gone))
            }
            Poll::Pending => {
                self.watch.keep_expecting_room(WRITE_TIMEOUT);
                Poll::Pending
            }
        }
    }

    fn push_status(&mut self, status: u16) -> &mut Vec<u8> {
        // Who was doubted gets something now.
        self.doubt = None;
        let version: &[u8] = match self.version {
            Version::Http10 => b"HTTP/1.0 ",
            Version::Http11 | Version::Http2 => b"HTTP/1.1 ",
        };
        let out = self.out.begin();
        out.extend_from_slice(version);
        out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        out.push(b' ');
        let known = http::StatusCode::from_u16(status).ok();
        let reason = known.and_then(|status| status.canonical_reason()).unwrap_or("Unknown");
        out.extend_from_slice(reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        out
    }
}

impl Client for Http1 {
    type Sink = Vec<u8>;

    fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, ClientFault>> {
        loop {
            match self.body.look(&mut self.input) {
                Ok(Framed::Data(n)) => return Poll::Ready(Ok(Piece::Data(n))),
                Ok(Framed::End) => return Poll::Ready(Ok(Piece::End)),
                Ok(Framed::NeedMore) => {}
                Err(_) => {
                    self.keep_alive = false;
                    return Poll::Ready(Err(ClientFault::Malformed));
                }
            }
            if std::mem::take(&mut self.owes_continue) && !self.answered {
                self.out.begin().extend_from_slice(b"HTTP/1.1 100 Continue\r\n");
                self.out.end_head(Coding::Plain);
            }
            if !self.out.is_empty() && !self.answered {
                ready!(self.poll_flush(cx))?;
            }
            let large = self.body.remaining().map_or(self.eager, |left| left > LARGE_BODY);
            match ready!(self.poll_fill(cx, large)) {
                Ok(1..) => {}
                Ok(0) if self.body.ends_with_connection() => {
                    self.body = Decoder::length(0);
                }
                Ok(0) | Err(_) => {
                    self.keep_alive = false;
                    return Poll::Ready(Err(ClientFault::Gone));
                }
            }
        }
    }

    fn piece(&self) -> &[u8] {
        self.input.filled()
    }

    fn take_piece(&mut self, n: usize) {
        self.body.take(&mut self.input, n);
    }

    fn discard_body(&mut self) {
        if !self.drop_rest_of_body() {
            self.keep_alive = false;
        }
    }

    fn close_after_answer(&mut self) {
        self.keep_alive = false;
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        None
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.half_closed && self.input.len() < MAX_AHEAD {
            match ready!(self.poll_fill(cx, false)) {
                Ok(1..) => {}
                // Behind a whole request it is the end of requests.
                Ok(0) if self.body.is_done() => self.half_closed = true,
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        if !self.half_closed {
            return Poll::Pending;
        }
        if self.stuck {
            // Who has gone does not leave the system's attempts to write without an answer.
            self.doubt = None;
            return Poll::Pending;
        }
        self.doubt.get_or_insert_with(|| Box::pin(sleep(HALF_CLOSED))).as_mut().poll(cx)
    }

    fn poll_reset(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn begin_interim(&mut self, status: u16) -> Option<&mut Vec<u8>> {
        // RFC 9110 §15.2: HTTP/1.0 has none.
        (self.version == Version::Http11).then(|| self.push_status(status))
    }

    fn end_interim(&mut self) {
        self.out.end_head(Coding::Plain);
    }

    fn begin_answer(&mut self, status: u16) -> &mut Vec<u8> {
        self.answered = true;
        self.owes_continue = false;
        self.push_status(status)
    }

    fn end_answer_head(&mut self, body: AnswerBody) {
        let mut coding = Coding::Plain;
        let out = match body {
            AnswerBody::Nothing => self.out.extend(),
            AnswerBody::Length(bytes) | AnswerBody::Declared(bytes) => {
                let out = self.out.extend();
                out.field(b"content-length", itoa::Buffer::new().format(bytes).as_bytes());
                out
            }
            AnswerBody::Streamed if self.version == Version::Http10 => {
                self.keep_alive = false;
                self.until_close = true;
                // However it is cut off, an orderly end would make it look whole.
                self.stream.reset_on_close(true);
                self.out.extend()
            }
            AnswerBody::Streamed => {
                coding = Coding::Chunked;
                let out = self.out.extend();
                out.field(b"transfer-encoding", b"chunked");
                out
            }
            AnswerBody::Tunnel => {
                self.tunnel = true;
                self.body = Decoder::until_close();
                let out = self.out.extend();
                out.field(b"connection", b"upgrade");
                out.field(b"upgrade", b"websocket");
                self.out.end_head(Coding::Plain);
                return;
            }
        };
        // A drain ends the connection; the client hears of it with its last answer.
        let may_stay = self.keep_alive && !self.watch.is_draining();
        if !may_stay {
            out.field(b"connection", b"close");
        } else if self.version == Version::Http10 {
            out.field(b"connection", b"keep-alive");
        }
        self.keep_alive = may_stay;
        self.out.end_head(coding);
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        piece: &[u8],
    ) -> Poll<Result<usize, ClientFault>> {
        let sent = self.out.poll_send(&mut self.stream, cx, piece);
        self.doubt = None;
        self.note_write(sent)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        let flushed = if self.ended && !self.keep_alive {
            self.out.poll_flush(&mut Parting(&mut self.stream), cx)
        } else {
            self.out.poll_flush(&mut self.stream, cx)
        };
        self.note_write(flushed)
    }

    fn end_answer(&mut self, _: Option<HeaderMap>) {
        // RFC 9110 §6.5.1: trailers are not passed to where they may be merged unawares.
        self.out.end();
        self.ended = true;
    }

    fn poll_end_sending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        ready!(self.poll_flush(cx))?;
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.note_write(shut)
    }

    fn abort(&mut self) {
        self.aborted = true;
    }
}
