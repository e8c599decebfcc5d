//! One HTTP/1.1 connection to an upstream, and one exchange over it: the request is written and the
//! answer read by the task that serves the client. Where an answer ends is the decoder's word; a
//! connection on which anything is left over is never used again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Method;
use tokio::io::AsyncWrite as _;

use super::origin::{Answer, Fault, Origin};
use super::pool::Stream;
use crate::message::{BodyLength, Buffer, Decoder, FieldSink as _, Framed, Piece};
use crate::message::{ResponseHead, response};
use crate::wire::outgoing::{Coding, Outgoing};
use crate::wire::{SMALL_READ, poll_fill};

/// A body with more bytes than this to come is read in large pieces.
const LARGE_BODY: u64 = 8 << 10;

/// An open connection, between two exchanges or in one.
pub(crate) struct Link {
    stream: Stream,
    input: Buffer,
    out: Outgoing,
}

impl Link {
    /// A fresh connection.
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, input: Buffer::new(), out: Outgoing::default() }
    }

    /// Whether the other end is silent, as it must be between two exchanges: bytes that nobody
    /// asked for would be taken for the next answer, and an end means that it is gone.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.input.is_empty() && self.stream.bytes.is_quiet()
    }
}

/// One request and its answer on a link.
pub(crate) struct Exchange {
    link: Link,
    method: Method,
    head: Option<ResponseHead>,
    body: Decoder,
    /// Whether nothing of the request is left to be sent.
    sent: bool,
    /// Whether anything of the request's body was taken.
    begun: bool,
    /// Whether anything was read.
    answered: bool,
    has_body: bool,
    tunnel: bool,
    /// Whether the last read gave as much as it could.
    eager: bool,
}

/// What a request begins with, and how it is framed.
#[derive(Clone, Copy, Debug)]
pub struct RequestLine<'a> {
    /// One of the methods that are let in.
    pub method: &'a Method,
    /// Path, and what follows it.
    pub target: [&'a [u8]; 2],
    /// Value of `Host`.
    pub host: &'a [u8],
    /// What follows the head.
    pub body: BodyLength,
    /// Asks for a tunnel (RFC 6455 §4.1).
    pub websocket: bool,
}

impl RequestLine<'_> {
    /// Writes the whole head as an upstream gets it, with the lines that `fields` adds between
    /// `Host` and the framing. Gives whether the body has to go in chunks.
    pub fn write(&self, out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) -> bool {
        let chunked = self.write_lines(out, fields);
        out.extend_from_slice(b"\r\n");
        chunked
    }

    /// All of the head but the empty line at its end.
    fn write_lines(&self, out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) -> bool {
        out.reserve(1 << 10);
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        self.target.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(b" HTTP/1.1\r\n");
        out.field(b"host", self.host);
        fields(out);
        if self.websocket {
            out.field(b"connection", b"upgrade");
            out.field(b"upgrade", b"websocket");
        }
        match self.body {
            BodyLength::Exactly(0)
                if !matches!(*self.method, Method::POST | Method::PUT | Method::PATCH) =>
            {
                false
            }
            BodyLength::Exactly(length) => {
                out.field(b"content-length", itoa::Buffer::new().format(length).as_bytes());
                false
            }
            BodyLength::Streamed => {
                out.field(b"transfer-encoding", b"chunked");
                true
            }
        }
    }
}

impl Exchange {
    /// Begins a request; its fields are written to the vector that `fields` gets.
    pub(crate) fn new(
        mut link: Link,
        line: &RequestLine<'_>,
        fields: impl FnOnce(&mut Vec<u8>),
    ) -> Self {
        let chunked = line.write_lines(link.out.begin(), fields);
        let coding = if chunked { Coding::Chunked } else { Coding::Plain };
        link.out.end_head(coding);
        Self {
            link,
            method: line.method.clone(),
            head: None,
            body: Decoder::until_close(),
            sent: false,
            begun: false,
            answered: false,
            has_body: line.body != BodyLength::Exactly(0),
            tunnel: false,
            eager: false,
        }
    }

    /// Whether [`Exchange::again`] is allowed: nothing of an answer was seen and nothing is lost by
    /// sending the request again, for it was not sent at all, or has no body and an idempotent
    /// method.
    pub(crate) fn may_go_again(&self) -> bool {
        let untouched = !self.link.out.is_touched() && !self.begun;
        let harmless = self.method.is_idempotent() && !self.has_body;
        !self.answered && (untouched || harmless)
    }

    /// The same exchange on another link.
    pub(crate) fn again(self, link: Link) -> Self {
        let mut out = self.link.out;
        out.again();
        Self { link: Link { out, ..link }, ..self }
    }

    /// The link, when both request and answer are complete and it may carry another exchange.
    pub(crate) fn finish(mut self) -> Option<Link> {
        let keep_alive = self.head.as_ref().is_some_and(|head| head.keep_alive);
        let clean = self.body.is_done() && self.link.input.is_empty() && self.link.out.is_whole();
        if !(self.sent && keep_alive && clean && !self.tunnel) {
            return None;
        }
        self.link.input.rest();
        self.link.out.rest();
        Some(self.link)
    }

    /// Reads more; 0 is the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>, large: bool) -> Poll<Result<usize, Fault>> {
        let read = ready!(poll_fill(&mut self.link.stream.bytes, cx, &mut self.link.input, large));
        let read = read.map_err(Fault::Io)?;
        self.eager = read >= SMALL_READ;
        Poll::Ready(Ok(read))
    }
}

impl Origin for Exchange {
    fn poll_send(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<usize>> {
        self.begun = true;
        self.link.out.poll_send(&mut self.link.stream, cx, piece)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.out.poll_flush(&mut self.link.stream, cx)
    }

    fn end_request(&mut self, _: Option<http::HeaderMap>) {
        self.link.out.end();
        self.sent = true;
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            if !self.link.input.is_empty() {
                let parsed = ResponseHead::parse(self.link.input.filled(), &self.method);
                if let Some(head) = parsed.map_err(Fault::Malformed)? {
                    self.body = head.body.clone();
                    self.head = Some(head);
                    return Poll::Ready(Ok(()));
                }
            }
            if ready!(self.poll_fill(cx, false))? == 0 {
                return Poll::Ready(Err(Fault::Closed));
            }
            self.answered = true;
        }
    }

    fn answer(&self) -> Answer<'_> {
        let head = self.head.as_ref().expect("asked for after a head has come");
        let fields = head.fields(self.link.input.filled());
        Answer { status: head.status, fields, length: self.body.remaining() }
    }

    fn declared_length(&self) -> Option<u64> {
        response::agreed_length(self.answer().fields).ok()
    }

    fn take_head(&mut self) {
        if let Some(head) = &self.head {
            self.link.input.consume(head.bytes);
        }
    }

    fn open_tunnel(&mut self) {
        self.tunnel = true;
        self.body = Decoder::until_close();
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Fault>> {
        loop {
            match self.body.look(&mut self.link.input).map_err(Fault::Malformed)? {
                Framed::Data(n) => return Poll::Ready(Ok(Piece::Data(n))),
                Framed::End => return Poll::Ready(Ok(Piece::End)),
                Framed::NeedMore => {}
            }
            let large = self.body.remaining().map_or(self.eager, |left| left > LARGE_BODY);
            match ready!(self.poll_fill(cx, large))? {
                1.. => {}
                0 if self.body.ends_with_connection() => self.body = Decoder::length(0),
                0 => return Poll::Ready(Err(Fault::Closed)),
            }
        }
    }

    fn piece(&self) -> &[u8] {
        self.link.input.filled()
    }

    fn take_piece(&mut self, n: usize) {
        self.body.take(&mut self.link.input, n);
    }

    fn take_trailers(&mut self) -> Option<http::HeaderMap> {
        None
    }

    fn poll_end_sending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.link.stream).poll_shutdown(cx)
    }
}
