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

use super::pool::Lease;
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

    /// A second one, when there is nothing in it.
    pub(crate) fn again(&self) -> Option<Self> {
        self.incoming.is_none().then(|| Self {
            incoming: None,
            fate: Rc::clone(&self.fate),
            watch: Arc::clone(&self.watch),
            limits: self.limits,
            began: self.began,
        })
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
    Broken(#[source] hyper::Error),
    #[error("the upstream fell silent in its answer")]
    Silent,
}

/// An upstream's answer on its way to the client. When it ends well, the connection goes back to
/// its pool; when it is dropped before, the connection is closed.
pub(crate) struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
    watch: Arc<Watch>,
    silence: Duration,
    ended: bool,
}

impl UpstreamBody {
    /// The body of an answer that came over `lease`.
    pub(crate) fn new(
        incoming: Incoming,
        lease: Lease,
        watch: Arc<Watch>,
        silence: Duration,
    ) -> Self {
        Self { incoming, lease: Some(lease), watch, silence, ended: false }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        loop {
            let frame = match Pin::new(&mut this.incoming).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending if this.watch.upstream_is_late() => {
                    return Poll::Ready(Some(Err(AnswerError::Silent)));
                }
                Poll::Pending => {
                    this.watch.keep_expecting_upstream(this.silence);
                    return Poll::Pending;
                }
            };
            this.watch.upstream_acted();
            return match frame {
                None => {
                    this.ended = true;
                    Poll::Ready(None)
                }
                Some(Err(error)) => Poll::Ready(Some(Err(AnswerError::Broken(error)))),
                Some(Ok(frame)) if frame.is_data() => Poll::Ready(Some(Ok(frame))),
                // Trailers of HTTP/1.1 are dropped.
                Some(Ok(_)) => continue,
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // A body of known length is not always asked for its end after the last piece.
        if (self.ended || self.incoming.is_end_stream())
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
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
