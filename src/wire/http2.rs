//! A client connection that speaks HTTP/2 (RFC 9113). Frames, header compression, flow control and
//! stream states are the `h2` crate's; here are the limits it is given, the translation of a stream
//! to a [`Client`], and the defence against clients that only open and reset.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pace::{Moment, Watch, WatchGuard, unless_late};
use super::stream::Stream;
use super::{AnswerBody, Client, ClientFault, WRITE_TIMEOUT, WireLimits};
use crate::message::{BodyLength, Piece, RequestHead};

/// Streams at once.
const MAX_STREAMS: u32 = 100;

/// Bytes that a client may send before we have passed them on: for a stream, for the connection.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Longest list of fields, as RFC 9113 §6.5.2 counts it.
const MAX_HEADER_LIST: usize = 16 << 10;

/// Streams that a client may reset before we have looked at them.
const MAX_PENDING_RESETS: usize = 200;

/// Streams that a client may reset before their answer has ended, within [`CONDUCT_WINDOW`], as long
/// as it lets fewer finish.
const MAX_RESETS: u32 = 200;

/// Bytes that a client may send within [`CONDUCT_WINDOW`] beyond what its requests and the answers to
/// them account for: 120,000 pings. Twice what bodies may fill before anybody has taken them.
const MAX_IDLE_BYTES: usize = 2 * CONNECTION_WINDOW as usize;

/// What a piece of a body may cost in frames around it, its windows included.
const FRAMING: usize = 64;

/// For how long a client's conduct is held against it: subscriptions over gRPC end in no other way
/// than by a reset, and a connection that lives for days must not be cut off for their sum. 20 a
/// second are no flood.
const CONDUCT_WINDOW: Duration = Duration::from_secs(10);

/// Bytes of answers that wait for a client, for one stream.
const SEND_BUFFER: usize = 32 << 10;

/// Bytes that a connection may have read before others get their turn. Frames that ask for no
/// answer are taken as fast as they come, so without a limit a flood of them would keep the worker
/// for tens of milliseconds at a time.
const TURN_BYTES: usize = 32 << 10;

/// Time for a client to end its body, or to take its answer for a reason to, once that is out.
const END_GRACE: Duration = Duration::from_secs(1);

/// Time for a last frame to get out.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// What a client has done with its connection since a moment.
#[derive(Debug)]
struct Conduct {
    /// What may still be read before others get their turn.
    turn: Cell<usize>,
    since: Cell<Moment>,
    answered: Cell<u32>,
    reset: Cell<u32>,
    /// Bytes that came.
    read: Cell<usize>,
    /// Bytes that requests and answers account for.
    used: Cell<usize>,
}

impl Conduct {
    fn since(moment: Moment) -> Self {
        Self {
            turn: Cell::new(TURN_BYTES),
            since: Cell::new(moment),
            answered: Cell::new(0),
            reset: Cell::new(0),
            read: Cell::new(0),
            used: Cell::new(0),
        }
    }

    fn note_read(&self, bytes: usize) {
        self.turn.set(self.turn.get().saturating_sub(bytes));
        self.read.set(self.read.get().saturating_add(bytes));
    }

    fn note_use(&self, bytes: usize) {
        self.used.set(self.used.get().saturating_add(bytes));
    }

    /// Whether there was too much of what serves nobody within the window.
    fn is_a_flood(&self, watch: &Watch) -> bool {
        if watch.since(self.since.get()) > CONDUCT_WINDOW {
            self.start_again(watch);
        }
        // CVE-2023-44487: streams are opened only to be reset.
        let resets = self.reset.get() > MAX_RESETS.max(self.answered.get());
        // CVE-2019-9512, 9515: pings, settings, and what else costs a look and asks for nothing.
        resets || self.read.get() > self.used.get().saturating_add(MAX_IDLE_BYTES)
    }

    fn start_again(&self, watch: &Watch) {
        self.since.set(watch.moment());
        self.answered.set(0);
        self.reset.set(0);
        self.read.set(0);
        self.used.set(0);
    }
}

/// Serves a connection until it ends. `seen` was read from it already; `begin` gets each request,
/// not yet checked, and must not wait.
///
/// # Errors
/// What ended the connection, when that was not its peer's orderly end.
pub(crate) async fn serve(
    stream: Stream,
    seen: Vec<u8>,
    guard: WatchGuard,
    limits: WireLimits,
    mut begin: impl FnMut(Http2, RequestHead),
) -> Result<(), h2::Error> {
    let watch = Arc::clone(&guard.watch);
    watch.expect_head(limits.head);
    let conduct = Rc::new(Conduct::since(watch.moment()));
    let io = Rewound {
        stream,
        seen: Bytes::from(seen),
        conduct: Rc::clone(&conduct),
        watch: Arc::clone(&watch),
    };
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(
            u32::try_from(limits.max_head_bytes.min(MAX_HEADER_LIST)).unwrap_or(u32::MAX),
        )
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_connect_protocol();
    let handshake = pin!(builder.handshake::<_, Bytes>(io));
    let Some(shaken) = unless_late(&watch, handshake).await else { return Ok(()) };
    let mut connection = shaken?;
    let (mut told, mut closing) = (false, false);
    watch.expect_next(limits.idle);
    poll_fn(|cx| {
        conduct.turn.set(TURN_BYTES);
        watch.register(cx.waker());
        if watch.is_draining() && !std::mem::replace(&mut told, true) {
            connection.graceful_shutdown();
        }
        if watch.client_is_late() {
            if std::mem::replace(&mut closing, true) {
                return Poll::Ready(Ok(()));
            }
            // RFC 9113 §6.8: a GOAWAY says that nothing was begun that is lost.
            connection.abrupt_shutdown(Reason::NO_ERROR);
            watch.close_within(CLOSE_GRACE);
            watch.client_acted();
        }
        poll_connection(&mut connection, cx, &watch, &conduct, limits, &mut begin)
    })
    .await
}

fn poll_connection(
    connection: &mut Connection<Rewound, Bytes>,
    cx: &mut Context<'_>,
    watch: &Arc<Watch>,
    conduct: &Rc<Conduct>,
    limits: WireLimits,
    begin: &mut impl FnMut(Http2, RequestHead),
) -> Poll<Result<(), h2::Error>> {
    loop {
        let accepted = connection.poll_accept(cx);
        if conduct.is_a_flood(watch) {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            watch.close_within(CLOSE_GRACE);
            conduct.start_again(watch);
        }
        match accepted {
            Poll::Ready(Some(Ok((request, respond)))) => {
                watch.client_acted();
                conduct.note_use(limits.max_head_bytes);
                if let Some((stream, head)) = Http2::new(request, respond, watch, conduct) {
                    begin(stream, head);
                }
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
            Poll::Ready(None) => return Poll::Ready(Ok(())),
            Poll::Pending => {
                if !connection.has_streams() && !watch.is_idle() {
                    watch.expect_next(limits.idle);
                }
                return Poll::Pending;
            }
        }
    }
}

/// One stream: a request and its answer.
pub(crate) struct Http2 {
    respond: SendResponse<Bytes>,
    sending: Option<SendStream<Bytes>>,
    receiving: RecvStream,
    piece: Bytes,
    received: bool,
    status: u16,
    fields: HeaderMap,
    watch: WatchGuard,
    conduct: Rc<Conduct>,
    /// Waits for leave to send its body (RFC 9110 §10.1.1).
    owes_continue: bool,
    /// The answer has ended.
    answered: bool,
    /// The client has given up.
    gone: bool,
}

impl Http2 {
    fn new(
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        watch: &Watch,
        conduct: &Rc<Conduct>,
    ) -> Option<(Self, RequestHead)> {
        let (parts, receiving) = request.into_parts();
        let protocol = parts.extensions.get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str);
        let websocket = protocol == Some("websocket");
        // RFC 8441 §4 makes a WebSocket's handshake a CONNECT; to routes it is the GET it was.
        let method = if websocket { Method::GET } else { parts.method };
        if protocol.is_some() && !websocket {
            respond.send_reset(Reason::REFUSED_STREAM);
            return None;
        }
        if has_foreign_scheme(&parts.uri) || has_padded_value(&parts.headers) {
            respond.send_reset(Reason::PROTOCOL_ERROR);
            return None;
        }
        let target = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        let received = receiving.is_end_stream();
        let body = match (websocket, received) {
            (false, false) => BodyLength::Streamed,
            // What follows a handshake is no body.
            (true, _) | (_, true) => BodyLength::Exactly(0),
        };
        let head =
            RequestHead::of_http2(method, target, authority, &parts.headers, body, websocket);
        let stream = Self {
            respond,
            sending: None,
            receiving,
            piece: Bytes::new(),
            received,
            status: 200,
            fields: HeaderMap::new(),
            watch: watch.sibling(),
            conduct: Rc::clone(conduct),
            owes_continue: head.expects_continue() && !received,
            answered: false,
            gone: false,
        };
        Some((stream, head))
    }

    /// Lets go of a stream whose answer was given, in a while when its body has not come to its end.
    /// Letting go resets the stream, which RFC 9113 §8.1 allows; but clients that end a body in a
    /// frame of its own, behind the last byte that its length speaks of, take that for a failure,
    /// and others that are still sending lose an answer which comes together with the reset (curl
    /// 7.88, httpx). What comes meanwhile is dropped, and at most a window of it can come, because
    /// none is granted again.
    pub(crate) async fn finish(mut self) {
        if !self.answered || self.received {
            return;
        }
        let rest = poll_fn(|cx| {
            while let Some(Ok(_)) = ready!(self.receiving.poll_data(cx)) {}
            Poll::Ready(())
        });
        // Too late: the stream is reset.
        let _ = tokio::time::timeout(END_GRACE, rest).await;
    }

    /// Notes that the client has given up.
    fn went(&mut self) -> ClientFault {
        self.gone = true;
        ClientFault::Gone
    }

    fn response(&mut self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY);
        *response.headers_mut() = std::mem::take(&mut self.fields);
        response
    }
}

/// Whether `:scheme` names something else than HTTP. Which of its two schemes is not looked at: a
/// balancer in front says what its client spoke, and what we tell upstreams is what we see.
fn has_foreign_scheme(uri: &Uri) -> bool {
    uri.scheme_str().is_some_and(|scheme| {
        !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https")
    })
}

/// RFC 9113 §8.2.1: space around a value makes a request malformed, which `h2` does not look at.
/// To an HTTP/1.1 upstream it would be another value.
fn has_padded_value(headers: &HeaderMap) -> bool {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    headers.values().map(HeaderValue::as_bytes).any(|v| space(v.first()) || space(v.last()))
}

impl Drop for Http2 {
    fn drop(&mut self) {
        let whole = self.answered && !self.gone;
        let count = if whole { &self.conduct.answered } else { &self.conduct.reset };
        count.set(count.get().saturating_add(1));
    }
}

impl Client for Http2 {
    type Sink = HeaderMap;

    fn watch(&self) -> &Arc<Watch> {
        &self.watch.watch
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, ClientFault>> {
        while self.piece.is_empty() {
            if self.received {
                return Poll::Ready(Ok(Piece::End));
            }
            match self.receiving.poll_data(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    self.conduct.note_use(piece.len() + FRAMING);
                    self.piece = piece;
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(self.went())),
                Poll::Ready(None) => self.received = true,
                Poll::Pending => {
                    if std::mem::take(&mut self.owes_continue) {
                        let mut leave = Response::new(());
                        *leave.status_mut() = StatusCode::CONTINUE;
                        // A stream that takes no more is noticed when it is answered.
                        let _ = self.respond.send_informational(leave);
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(Piece::Data(self.piece.len())))
    }

    fn piece(&self) -> &[u8] {
        &self.piece
    }

    fn take_piece(&mut self, n: usize) {
        self.piece.advance(n.min(self.piece.len()));
        // Fails only for a stream that has ended, which will be seen with the next piece.
        let _ = self.receiving.flow_control().release_capacity(n);
    }

    fn discard_body(&mut self) {
        // The stream is reset when it is dropped after its answer (RFC 9113 §8.1).
    }

    fn close_after_answer(&mut self) {}

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // After the end of the data they are there or will never be.
        match self.receiving.poll_trailers(&mut cx) {
            Poll::Ready(Ok(trailers)) => trailers,
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.sending {
            Some(sending) => sending.poll_reset(cx).map(drop),
            None => self.respond.poll_reset(cx).map(drop),
        };
        reset.map(|()| {
            self.went();
        })
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_gone(cx)
    }

    fn begin_interim(&mut self, status: u16) -> Option<&mut HeaderMap> {
        Some(self.begin_answer(status))
    }

    fn end_interim(&mut self) {
        let response = self.response();
        // An answer that can no longer be given is noticed when it is.
        let _ = self.respond.send_informational(response);
    }

    fn begin_answer(&mut self, status: u16) -> &mut HeaderMap {
        self.status = status;
        self.fields.clear();
        &mut self.fields
    }

    fn end_answer_head(&mut self, body: AnswerBody) {
        self.owes_continue = false;
        let mut ended = false;
        match body {
            // That nothing follows is said by the end of the stream.
            AnswerBody::Nothing | AnswerBody::Length(0) => ended = true,
            AnswerBody::Declared(bytes) | AnswerBody::Length(bytes) => {
                self.fields.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
                ended = body == AnswerBody::Declared(bytes);
            }
            AnswerBody::Streamed => {}
            AnswerBody::Tunnel => {
                // RFC 8441 §5: the answer to a CONNECT is 200, without the handshake's digest.
                self.status = 200;
                self.fields.remove("sec-websocket-accept");
            }
        }
        let response = self.response();
        self.answered = ended;
        match self.respond.send_response(response, ended) {
            Ok(sending) => self.sending = Some(sending),
            Err(_) => self.gone = true,
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        piece: &[u8],
    ) -> Poll<Result<usize, ClientFault>> {
        let watch = &self.watch.watch;
        let Some(sending) = &mut self.sending else { return Poll::Ready(Err(self.went())) };
        let sent = poll_send_data(sending, cx, piece);
        match &sent {
            Poll::Pending => watch.keep_expecting_room(WRITE_TIMEOUT),
            Poll::Ready(taken) => {
                watch.room_found();
                self.conduct.note_use(taken.as_ref().map_or(0, |bytes| bytes + FRAMING));
            }
        }
        sent.map_err(|_| self.went())
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        // The connection's task sends what it was given.
        Poll::Ready(if self.gone { Err(ClientFault::Gone) } else { Ok(()) })
    }

    fn end_answer(&mut self, trailers: Option<HeaderMap>) {
        let Some(sending) = self.sending.as_mut().filter(|_| !self.answered) else { return };
        let ended = match trailers {
            Some(trailers) => sending.send_trailers(trailers),
            None => sending.send_data(Bytes::new(), true),
        };
        self.answered = ended.is_ok();
    }

    fn poll_end_sending(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        self.end_answer(None);
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {
        match &mut self.sending {
            Some(sending) => sending.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
        // It was not the client that gave up.
        self.answered = true;
    }
}

/// Gives a stream as much of `piece` as its windows have room for; gives how much.
///
/// # Errors
/// The stream takes no more.
pub(crate) fn poll_send_data(
    sending: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    piece: &[u8],
) -> Poll<Result<usize, h2::Error>> {
    if piece.is_empty() {
        return Poll::Ready(Ok(0));
    }
    let wanted = piece.len().min(SEND_BUFFER);
    sending.reserve_capacity(wanted);
    // What was granted before is not announced again, so it is looked at first.
    while sending.capacity() == 0 {
        match ready!(sending.poll_capacity(cx)) {
            Some(granted) => drop(granted?),
            None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
        }
    }
    let taken = sending.capacity().min(wanted);
    sending.send_data(Bytes::copy_from_slice(&piece[..taken]), false)?;
    Poll::Ready(Ok(taken))
}

/// A socket of which some bytes were read already, and which is read in turns.
struct Rewound {
    stream: Stream,
    seen: Bytes,
    conduct: Rc<Conduct>,
    /// Of the connection: its client may not leave what we write unread for ever, even when no
    /// stream is left that would wait for it.
    watch: Arc<Watch>,
}

impl Rewound {
    fn note_write<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(_) => self.watch.room_found(),
            Poll::Pending => self.watch.keep_expecting_room(WRITE_TIMEOUT),
        }
        written
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.seen.is_empty() {
            let n = self.seen.len().min(buffer.remaining());
            buffer.put_slice(&self.seen.split_to(n));
            return Poll::Ready(Ok(()));
        }
        if self.conduct.turn.get() == 0 {
            // Not by waking ourselves: the runtime looks at its sockets only now and then while
            // tasks are ready, but always before it goes on with tasks that have yielded.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.conduct.note_read(buffer.filled().len() - before);
        polled
    }
}

impl AsyncWrite for Rewound {
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
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note_write(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
