//! What is noted of one request from its arrival to the last byte of its answer. A [`Record`]
//! travels with the answer's body; when it is dropped, the access log gets its line, the numbers
//! are counted and the connection waits for its next head. So no request goes unnoted, not even
//! one whose client has gone away.

use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Uri};
use http_body::{Body, Frame, SizeHint};
use jiff::Timestamp;
use uuid::Uuid;

use super::desk::Desk;
use crate::identity::Identity;
use crate::proxy::body::{AnswerError, BodyFate, BodyState, UpstreamBody};
use crate::proxy::headers::RequestId;
use crate::proxy::pool::Server;
use crate::telemetry::access::Line;
use crate::telemetry::tally::Label;
use crate::wire::Wire;

/// Status of a request whose client went away before it could be answered; only in logs and
/// metrics.
const CLIENT_CLOSED: u16 = 499;

/// One request.
pub(crate) struct Record {
    desk: Rc<Desk>,
    wire: Arc<Wire>,
    started: Instant,
    /// When it arrived.
    pub(crate) time: Timestamp,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) client: IpAddr,
    /// The same as text.
    pub(crate) client_text: HeaderValue,
    pub(crate) request_id: Option<RequestId>,
    pub(crate) user_agent: Option<HeaderValue>,
    pub(crate) route: Label,
    pub(crate) decision: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) identity: Option<Arc<Identity>>,
    /// Of an account request, where no token names them.
    pub(crate) account: (Option<Box<str>>, Option<Uuid>),
    /// The upstream's name, once a request is on its way to it.
    pub(crate) upstream: Option<Label>,
    /// Which of its servers answered.
    pub(crate) server: Option<Rc<Server>>,
    pub(crate) upstream_status: Option<u16>,
    pub(crate) upstream_time: Option<Duration>,
    /// 0 until there is an answer.
    pub(crate) status: u16,
    pub(crate) fate: Rc<BodyFate>,
    bytes_out: u64,
}

impl Record {
    /// A request that has just arrived from `client`.
    pub(crate) fn new(
        desk: Rc<Desk>,
        wire: Arc<Wire>,
        time: Timestamp,
        client: (IpAddr, HeaderValue),
        request: (&Method, &Uri),
    ) -> Box<Self> {
        desk.tally_mut(|tally| tally.in_flight += 1);
        let route = desk.no_route();
        Box::new(Self {
            desk,
            wire,
            started: Instant::now(),
            time,
            method: request.0.clone(),
            uri: request.1.clone(),
            client: client.0,
            client_text: client.1,
            request_id: None,
            user_agent: None,
            route,
            decision: "deny",
            reason: "client_closed",
            identity: None,
            account: (None, None),
            upstream: None,
            server: None,
            upstream_status: None,
            upstream_time: None,
            status: 0,
            fate: Rc::default(),
            bytes_out: 0,
        })
    }

    /// The request's id as text.
    pub(crate) fn request_id(&self) -> &str {
        self.request_id.as_ref().map_or("", RequestId::as_str)
    }

    /// The answer had to be cut off.
    fn note_cut(&mut self, error: &AnswerError) {
        self.reason = match error {
            AnswerError::Broken(_) => "upstream_broke_off",
            AnswerError::Request if self.fate.state.get() == BodyState::TooLarge => {
                "body_too_large"
            }
            AnswerError::Request => "client_closed",
            AnswerError::Silent => "upstream_fell_silent",
        };
        let (request_id, error) = (self.request_id(), crate::telemetry::chain(error));
        if self.reason.starts_with("upstream") {
            tracing::warn!(request_id, error, "an answer was cut off");
        } else {
            tracing::debug!(request_id, error, "an answer was cut off");
        }
    }

    fn finish(&self) {
        let (status, reason) = match self.status {
            0 if self.wire.watch.client_is_late() => (CLIENT_CLOSED, "client_too_slow"),
            0 => (CLIENT_CLOSED, "client_closed"),
            status => (status, self.reason),
        };
        match self.fate.state.get() {
            BodyState::Passing => self.wire.end_early(),
            _ => self.wire.end(),
        }
        let duration = self.started.elapsed();
        self.desk.tally_mut(|tally| {
            tally.in_flight -= 1;
            let route = tally.routes.entry(Label::clone(&self.route)).or_default();
            route.count(known_method(&self.method), status, 1);
            route.durations.observe(duration);
            *tally.decisions.entry((self.decision, reason)).or_default() += 1;
            if let (Some(name), Some(time)) = (&self.upstream, self.upstream_time) {
                tally.upstream_durations.entry(Label::clone(name)).or_default().observe(time);
            }
        });
        let session_id = self.identity.as_ref().and_then(|identity| identity.session);
        self.desk.access.note(&Line {
            time: self.time,
            request_id: self.request_id(),
            client: self.client_text.to_str().unwrap_or_default(),
            method: self.method.as_str(),
            path: self.uri.path(),
            route: &self.route,
            status,
            decision: self.decision,
            reason,
            user_id: (self.identity.as_ref().map(|identity| &*identity.subject))
                .or(self.account.0.as_deref()),
            session_id: session_id.or(self.account.1),
            upstream: (self.server.as_ref().map(|server| &*server.authority))
                .or(self.upstream.as_deref()),
            upstream_status: self.upstream_status,
            bytes_in: self.fate.bytes.get(),
            bytes_out: self.bytes_out,
            duration,
            upstream_time: self.upstream_time,
            user_agent: self.user_agent.as_ref().map(HeaderValue::as_bytes),
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A method as a metric's label: clients must not make labels.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The body of an answer, and the record of its request.
pub(crate) struct AnswerBody {
    source: Source,
    record: Box<Record>,
}

/// Where an answer comes from.
pub(crate) enum Source {
    /// From here, at once.
    Whole(Bytes),
    /// From the upstream, piece by piece.
    Upstream(UpstreamBody),
}

impl AnswerBody {
    /// Joins an answer with the record of its request.
    pub(crate) fn new(source: Source, record: Box<Record>) -> Self {
        Self { source, record }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Source::Upstream(body) => Pin::new(body).poll_frame(cx),
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                this.record.bytes_out += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Poll::Ready(Some(Err(error))) => this.record.note_cut(error),
            Poll::Ready(None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Upstream(body) => body.size_hint(),
        }
    }
}
