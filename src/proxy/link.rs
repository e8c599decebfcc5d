//! One connection to an upstream, and one exchange over it: the request is written, the answer
//! read, by the task that serves the client. An answer is seen while the request's body is still on
//! its way, and the body goes on while the answer is read; a client that does not read its answer
//! stops its own upload with it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request};
use http_body::Body as _;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::answer::{Decoded, Head, Malformed};
use super::body::ClientBody;

/// Room for reading a head; most answers fit whole.
const HEAD_ROOM: usize = 4 << 10;

/// Room for reading a body.
const BODY_ROOM: usize = 64 << 10;

/// An open connection, between two exchanges or in one.
pub(crate) struct Link {
    stream: TcpStream,
    /// What was read and not yet taken.
    buffer: BytesMut,
    /// What is to be written, and how much of it was.
    out: Vec<u8>,
    written: usize,
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The connection ended before the answer did.
    #[error("the connection ended before the answer")]
    Closed,
    /// The system's answer.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The answer is not HTTP.
    #[error("the answer is malformed")]
    Malformed(#[source] Malformed),
    /// The request body failed; its fate says how.
    #[error("the request body failed")]
    Request,
}

impl Link {
    /// A fresh connection.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new(), out: Vec::new(), written: 0 }
    }

    /// Whether the other end is silent, as it must be between two exchanges: bytes that nobody
    /// asked for would be taken for the next answer, and an end means that it is gone.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let read = self.stream.try_read(&mut byte);
        self.buffer.is_empty()
            && matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Takes the connection apart for a tunnel: the socket, and what was read from it already.
    pub(crate) fn into_tunnel(self) -> (TcpStream, BytesMut) {
        (self.stream, self.buffer)
    }
}

/// One request and its answer on a link.
pub(crate) struct Exchange {
    link: Link,
    method: Method,
    upload: Upload,
    /// Whether anything was read.
    answered: bool,
}

/// How the request's body is sent.
struct Upload {
    body: ClientBody,
    coding: Coding,
    /// A piece that follows `out`, and what follows that.
    piece: Bytes,
    tail: &'static [u8],
    /// Whether the body was asked for anything.
    begun: bool,
    state: UploadState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Length,
    Chunked,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UploadState {
    /// The body has more.
    Open,
    /// All of it is in `out` and `piece`.
    Ended,
    /// The other end takes no more; it may still answer.
    GivenUp,
}

impl Exchange {
    /// Prepares to send `request` over `link`, with `host` where it names none.
    pub(crate) fn new(mut link: Link, request: Request<ClientBody>, host: &HeaderValue) -> Self {
        let (parts, body) = request.into_parts();
        link.out.clear();
        link.written = 0;
        let out = &mut link.out;
        out.reserve(1024);
        let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        for piece in [parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
        let mut field = |name: &str, value: &[u8]| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        };
        if !parts.headers.contains_key(HOST) {
            field("host", host.as_bytes());
        }
        for (name, value) in &parts.headers {
            // Framing is ours to say, once and below.
            if *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING {
                field(name.as_str(), value.as_bytes());
            }
        }
        let coding = match body.size_hint().exact() {
            Some(0) if !matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) => {
                Coding::Length
            }
            Some(length) => {
                field("content-length", itoa::Buffer::new().format(length).as_bytes());
                Coding::Length
            }
            None => {
                field("transfer-encoding", b"chunked");
                Coding::Chunked
            }
        };
        out.extend_from_slice(b"\r\n");
        let empty = body.is_end_stream();
        let state = if empty { UploadState::Ended } else { UploadState::Open };
        let upload = Upload { body, coding, piece: Bytes::new(), tail: b"", begun: false, state };
        Self { link, method: parts.method, upload, answered: false }
    }

    /// Sends and reads to the end of the answer's head.
    pub(crate) async fn head(&mut self) -> Result<Head, Fault> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    /// The same exchange on another link, when nothing of an answer was seen and nothing is lost by
    /// sending it again: it was not sent at all, or has no body and an idempotent method.
    pub(crate) fn again(mut self, link: Link) -> Self {
        let empty = self.upload.body.is_end_stream();
        self.upload.state = if empty { UploadState::Ended } else { UploadState::Open };
        let out = self.link.out;
        Self { link: Link { out, written: 0, ..link }, ..self }
    }

    /// Whether [`Exchange::again`] is allowed.
    pub(crate) fn may_go_again(&self) -> bool {
        let untouched = self.link.written == 0 && !self.upload.begun;
        let harmless = self.method.is_idempotent() && self.upload.body.is_nothing();
        !self.answered && (untouched || harmless)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Fault>> {
        // Not `?` on what is pending: while the request waits, its answer may come.
        if let Poll::Ready(Err(fault)) = self.poll_send(cx) {
            return Poll::Ready(Err(fault));
        }
        loop {
            if !self.link.buffer.is_empty() {
                let head = Head::take(&mut self.link.buffer, &self.method);
                match head.map_err(Fault::Malformed)? {
                    Some(head) if head.is_interim() => continue,
                    Some(head) => return Poll::Ready(Ok(head)),
                    None => {}
                }
            }
            if ready!(self.poll_fill(cx, HEAD_ROOM))? == 0 {
                return Poll::Ready(Err(Fault::Closed));
            }
            self.answered = true;
        }
    }

    /// Reads more; 0 is the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<usize, Fault>> {
        // Room is made only when there is something to read: many answers wait for long.
        ready!(self.link.stream.poll_read_ready(cx)).map_err(Fault::Io)?;
        self.link.buffer.reserve(room);
        poll_read_buf(Pin::new(&mut self.link.stream), cx, &mut self.link.buffer).map_err(Fault::Io)
    }

    /// The next piece of the answer's body; `None` at its end.
    pub(crate) fn poll_body(
        &mut self,
        head: &mut Head,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Fault>>> {
        if let Poll::Ready(Err(fault)) = self.poll_send(cx) {
            return Poll::Ready(Some(Err(fault)));
        }
        loop {
            match head.body.decode(&mut self.link.buffer) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::NeedMore) => {}
                Err(malformed) => return Poll::Ready(Some(Err(Fault::Malformed(malformed)))),
            }
            match ready!(self.poll_fill(cx, BODY_ROOM)) {
                Ok(0) if head.body.ends_with_connection() => return Poll::Ready(None),
                Ok(0) => return Poll::Ready(Some(Err(Fault::Closed))),
                Ok(_) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
        }
    }

    /// Moves the request on. An end that takes no more is no failure yet: it may have answered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            if self.upload.state == UploadState::GivenUp {
                return Poll::Ready(Ok(()));
            }
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.upload.state = UploadState::GivenUp;
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => return Poll::Pending,
            }
            if self.upload.state == UploadState::Ended {
                return Poll::Ready(Ok(()));
            }
            self.upload.begun = true;
            let frame = ready!(Pin::new(&mut self.upload.body).poll_frame(cx));
            self.link.out.clear();
            self.link.written = 0;
            match frame {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.upload.take_piece(data, &mut self.link.out);
                }
                Some(Err(_)) => return Poll::Ready(Err(Fault::Request)),
                None => self.upload.end(&mut self.link.out),
            }
        }
    }

    /// Writes `out`, then the piece behind it, then what follows that.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { link, upload, .. } = self;
        while link.written < link.out.len() || !upload.piece.is_empty() || !upload.tail.is_empty() {
            let rest = &link.out[link.written..];
            let stream = Pin::new(&mut link.stream);
            let mut written = if upload.piece.is_empty() && upload.tail.is_empty() {
                ready!(stream.poll_write(cx, rest))?
            } else {
                let parts = [rest, &upload.piece, upload.tail].map(io::IoSlice::new);
                ready!(stream.poll_write_vectored(cx, &parts))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_out = written.min(rest.len());
            link.written += of_out;
            written -= of_out;
            let of_piece = written.min(upload.piece.len());
            upload.piece.advance(of_piece);
            upload.tail = &upload.tail[written - of_piece..];
        }
        Poll::Ready(Ok(()))
    }

    /// The link, when both request and answer are complete and it may carry another exchange.
    pub(crate) fn finish(self, head: &Head) -> Option<Link> {
        let sent = self.upload.state == UploadState::Ended
            && self.upload.piece.is_empty()
            && self.upload.tail.is_empty()
            && self.link.written == self.link.out.len();
        let clean = head.keep_alive && head.body.is_done() && self.link.buffer.is_empty();
        (sent && clean).then_some(self.link)
    }

    /// The link, after both sides agreed to another protocol.
    pub(crate) fn into_link(self) -> Link {
        self.link
    }
}

impl Upload {
    fn take_piece(&mut self, data: Bytes, out: &mut Vec<u8>) {
        if data.is_empty() {
            // An empty chunk would end the body.
            return;
        }
        if self.coding == Coding::Chunked {
            out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            self.tail = b"\r\n";
        }
        self.piece = data;
        // What is known to be the last piece need not be asked whether there is another.
        if self.coding == Coding::Length && self.body.is_end_stream() {
            self.state = UploadState::Ended;
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.coding == Coding::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        self.state = UploadState::Ended;
    }
}
