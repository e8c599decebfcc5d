//! Bodies on their way through: the client's to the upstream, the upstream's to the client. Piece
//! by piece, never buffered; each knows its limits in bytes and time, and how it ended.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::answer::Head;
use super::link::{Exchange, Fault};
use super::pool::Server;
use crate::wire::pace::{Moment, Watch};

/// A client may be slow for this long before the least rate counts.
const RATE_GRACE: Duration = Duration::from_secs(30);

/// Least bytes a second of a request body, as a defence against slow bodies.
const LEAST_RATE: u64 = 1 << 10;

/// How a request body has fared; shared between the body and who answers for it.
#[derive(Debug, Default)]
pub(crate) struct BodyFate {
    /// Bytes passed on.
    pub(crate) bytes: Cell<u64>,
    /// Where it stands.
    pub(crate) state: Cell<BodyState>,
}

/// Where a request body stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BodyState {
    /// Nobody has asked for it.
    #[default]
    Unread,
    /// It is on its way.
    Passing,
    /// All of it has been passed on.
    Complete,
    /// It grew over its limit.
    TooLarge,
    /// The client broke off, sent bad framing or was too slow.
    Broken,
}

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the request body is larger than allowed")]
    TooLarge,
    #[error("the request body comes too slowly")]
    TooSlow,
    #[error("the client broke off the request body")]
    Client(#[source] hyper::Error),
}

/// Limits of a request body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Most bytes.
    pub(crate) bytes: u64,
    /// Longest silence of the client.
    pub(crate) silence: Duration,
    /// Longest time the upstream may take for the next piece, and then for its answer.
    pub(crate) upstream: Duration,
}

/// A request body on its way to the upstream. Trailers are dropped (RFC 9110 §6.5.1: a gateway
/// must not merge what it does not understand).
pub(crate) struct ClientBody {
    /// `None`: there never was one.
    incoming: Option<Incoming>,
    fate: Rc<BodyFate>,
    watch: Arc<Watch>,
    limits: BodyLimits,
    began: Moment,
}

impl ClientBody {
    /// A body that will be sent within `limits`.
    pub(crate) fn new(
        incoming: Incoming,
        fate: Rc<BodyFate>,
        watch: Arc<Watch>,
        limits: BodyLimits,
    ) -> Self {
        let incoming = (!incoming.is_end_stream()).then_some(incoming);
        let empty = incoming.is_none();
        fate.state.set(if empty { BodyState::Complete } else { BodyState::Passing });
        let began = watch.moment();
        Self { incoming, fate, watch, limits, began }
    }

    /// Whether there never was one.
    pub(crate) fn is_nothing(&self) -> bool {
        self.incoming.is_none()
    }
}

fn fail(
    fate: &BodyFate,
    state: BodyState,
    error: BodyError,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    fate.state.set(state);
    Poll::Ready(Some(Err(error)))
}

fn is_too_slow(bytes: u64, elapsed: Duration) -> bool {
    elapsed > RATE_GRACE && bytes < LEAST_RATE * elapsed.as_secs()
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        loop {
            let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(cx) else {
                // The next move is the client's; the upstream cannot be blamed meanwhile.
                this.watch.upstream_acted();
                this.watch.keep_expecting_client(this.limits.silence);
                return Poll::Pending;
            };
            this.watch.client_acted();
            this.watch.expect_upstream(this.limits.upstream);
            match frame {
                None => {
                    this.fate.state.set(BodyState::Complete);
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    return fail(&this.fate, BodyState::Broken, BodyError::Client(error));
                }
                Some(Ok(frame)) => {
                    let Some(data) = frame.data_ref() else { continue };
                    let bytes = this.fate.bytes.get() + data.len() as u64;
                    this.fate.bytes.set(bytes);
                    if bytes > this.limits.bytes {
                        return fail(&this.fate, BodyState::TooLarge, BodyError::TooLarge);
                    }
                    if is_too_slow(bytes, this.watch.since(this.began)) {
                        return fail(&this.fate, BodyState::Broken, BodyError::TooSlow);
                    }
                    if incoming.is_end_stream() {
                        this.fate.state.set(BodyState::Complete);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

/// Why an upstream's answer ended early. The client is cut off, so that it learns of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("the upstream broke off its answer")]
    Broken(#[source] Fault),
    #[error("the request broke off while it was answered")]
    Request,
    #[error("the upstream fell silent in its answer")]
    Silent,
}

impl From<Fault> for AnswerError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Request => Self::Request,
            fault => Self::Broken(fault),
        }
    }
}

/// An upstream's answer on its way to the client. When it has ended well its connection goes back
/// to the pool; when it is dropped before, the connection is closed.
pub(crate) struct UpstreamBody(Option<Box<Flow>>);

struct Flow {
    exchange: Exchange,
    head: Head,
    server: Rc<Server>,
    watch: Arc<Watch>,
    silence: Duration,
}

impl UpstreamBody {
    /// The body behind `head`, from `server`.
    pub(crate) fn new(
        exchange: Exchange,
        head: Head,
        server: Rc<Server>,
        watch: Arc<Watch>,
        silence: Duration,
    ) -> Self {
        Self(Some(Box::new(Flow { exchange, head, server, watch, silence })))
    }

    /// Nothing: what follows is no body.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let Some(flow) = &mut self.0 else { return Poll::Ready(None) };
        let Flow { exchange, head, watch, silence, .. } = &mut **flow;
        match exchange.poll_body(head, cx) {
            Poll::Pending if watch.upstream_is_late() => {
                Poll::Ready(Some(Err(AnswerError::Silent)))
            }
            Poll::Pending => {
                watch.keep_expecting_upstream(*silence);
                Poll::Pending
            }
            Poll::Ready(piece) => {
                watch.upstream_acted();
                Poll::Ready(piece.map(|piece| piece.map(Frame::data).map_err(AnswerError::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|flow| flow.head.body.is_done())
    }

    fn size_hint(&self) -> SizeHint {
        let remaining = self.0.as_ref().map_or(Some(0), |flow| flow.head.body.remaining());
        remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        let Some(flow) = self.0.take() else { return };
        let Flow { exchange, head, server, .. } = *flow;
        if let Some(link) = exchange.finish(&head) {
            server.give_back(link);
        }
    }
}

/// Waits for `step` of the upstream for as long as `watch` lets it.
pub(crate) async fn within<F: Future>(watch: &Watch, step: F) -> Result<F::Output, Late> {
    let mut step = std::pin::pin!(step);
    std::future::poll_fn(|cx| match step.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending if watch.upstream_is_late() => Poll::Ready(Err(Late)),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// The upstream took too long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Late;
