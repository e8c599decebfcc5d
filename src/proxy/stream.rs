//! One exchange over an HTTP/2 connection to an upstream, which carries others at the same time
//! (RFC 9113 §8). Streams, windows and compression are the `h2` crate's; a stream that is dropped
//! before its end is reset.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TE};
use http::{Method, Request, Uri, Version};

use super::link::RequestLine;
use super::origin::{Answer, Fault, Origin};
use crate::message::response::has_no_body;
use crate::message::{BodyLength, FieldList, Malformed, Piece};
use crate::wire::http2::poll_send_data;

/// One request and its answer.
pub(crate) struct StreamExchange {
    sending: SendStream<Bytes>,
    response: ResponseFuture,
    receiving: Option<RecvStream>,
    status: u16,
    fields: FieldList,
    declared: Option<u64>,
    length: Option<u64>,
    piece: Bytes,
    data_ended: bool,
    method: Method,
    /// The answer has no body, whatever the server sends.
    bodiless: bool,
    trailers: Option<HeaderMap>,
    ended: bool,
}

/// A request that HTTP/2 cannot carry.
#[derive(Debug)]
pub(crate) enum Unsendable {
    /// Its target or host is nothing that a URI can hold.
    Target,
    /// The connection takes no more.
    Connection(h2::Error),
}

impl StreamExchange {
    /// Begins a request over a connection that is ready for one; its fields are written to the map
    /// that `fields` gets. `trailers` says that the client understands them.
    pub(crate) fn new(
        mut connection: SendRequest<Bytes>,
        line: &RequestLine<'_>,
        scheme: &'static str,
        trailers: bool,
        fields: impl FnOnce(&mut HeaderMap),
    ) -> Result<Self, Unsendable> {
        let target = Bytes::from(line.target.concat());
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(line.host)
            .path_and_query(
                http::uri::PathAndQuery::from_maybe_shared(target)
                    .map_err(|_| Unsendable::Target)?,
            )
            .build()
            .map_err(|_| Unsendable::Target)?;
        let mut request = Request::new(());
        *request.method_mut() = line.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        fields(headers);
        if trailers {
            // RFC 9110 §10.1.4; gRPC servers insist on it.
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        let empty = line.body == BodyLength::Exactly(0);
        if let BodyLength::Exactly(length) = line.body
            && !empty
        {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let (response, sending) =
            connection.send_request(request, empty).map_err(Unsendable::Connection)?;
        Ok(Self {
            sending,
            response,
            receiving: None,
            status: 0,
            fields: FieldList::default(),
            declared: None,
            length: None,
            piece: Bytes::new(),
            data_ended: false,
            method: line.method.clone(),
            bodiless: false,
            trailers: None,
            ended: empty,
        })
    }

    /// Whether anything of an answer has come.
    pub(crate) fn has_answered(&self) -> bool {
        self.status != 0
    }

    fn take_answer(&mut self, status: http::StatusCode, headers: &HeaderMap) {
        self.status = status.as_u16();
        self.fields = headers.iter().map(|(name, value)| (name.as_str(), value)).collect();
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        self.declared = length.and_then(|length| length.parse().ok());
    }
}

/// Whether the server has done nothing with a request, by its own word (RFC 9113 §8.7): a refusal,
/// or a `GOAWAY`, which `h2` lets only those streams fail with that are behind its last one (§6.8).
/// Those that it has begun go on, and fail with an error of the connection if that ends.
pub(crate) fn was_refused(fault: &Fault) -> bool {
    let Fault::Http2(error) = fault else { return false };
    let refused = error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && refused
}

/// Whether the connection was closed before it said anything to a request.
pub(crate) fn was_closed(fault: &Fault) -> bool {
    let Fault::Http2(error) = fault else { return false };
    error.is_go_away() || error.is_io()
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}

impl Origin for StreamExchange {
    fn poll_send(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<usize>> {
        poll_send_data(&mut self.sending, cx, piece).map_err(broken)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task sends what it was given.
        Poll::Ready(Ok(()))
    }

    fn end_request(&mut self, trailers: Option<HeaderMap>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        // A stream that takes no more is seen to have failed when its answer is read.
        let _ = match trailers {
            Some(trailers) => self.sending.send_trailers(trailers),
            None => self.sending.send_data(Bytes::new(), true),
        };
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
            let interim = interim.map_err(Fault::Http2)?;
            self.take_answer(interim.status(), interim.headers());
            return Poll::Ready(Ok(()));
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx)).map_err(Fault::Http2)?;
        let (parts, receiving) = response.into_parts();
        self.take_answer(parts.status, &parts.headers);
        self.data_ended = receiving.is_end_stream();
        self.bodiless = has_no_body(self.status, &self.method);
        // A length of 0 may still be followed by trailers.
        let length = self.declared.filter(|&length| length > 0);
        self.length = if self.data_ended { Some(0) } else { length };
        self.receiving = Some(receiving);
        Poll::Ready(Ok(()))
    }

    fn answer(&self) -> Answer<'_> {
        Answer { status: self.status, fields: self.fields.view(), length: self.length }
    }

    fn declared_length(&self) -> Option<u64> {
        self.declared
    }

    fn take_head(&mut self) {}

    fn open_tunnel(&mut self) {}

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Fault>> {
        let Some(receiving) = &mut self.receiving else { return Poll::Ready(Ok(Piece::End)) };
        while self.piece.is_empty() {
            if self.data_ended {
                self.trailers = ready!(receiving.poll_trailers(cx)).map_err(Fault::Http2)?;
                return Poll::Ready(Ok(Piece::End));
            }
            match ready!(receiving.poll_data(cx)) {
                Some(piece) => self.piece = piece.map_err(Fault::Http2)?,
                None => self.data_ended = true,
            }
        }
        if self.bodiless {
            // To a client of HTTP/1.1 it would be the next answer.
            return Poll::Ready(Err(Fault::Malformed(Malformed::Body)));
        }
        Poll::Ready(Ok(Piece::Data(self.piece.len())))
    }

    fn piece(&self) -> &[u8] {
        &self.piece
    }

    fn take_piece(&mut self, n: usize) {
        self.piece.advance(n.min(self.piece.len()));
        if let Some(receiving) = &mut self.receiving {
            // Fails only for a stream that has ended, which will be seen with the next piece.
            let _ = receiving.flow_control().release_capacity(n);
        }
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    fn poll_end_sending(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_request(None);
        Poll::Ready(Ok(()))
    }
}
