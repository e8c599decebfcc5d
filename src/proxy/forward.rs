//! Sends a request that was permitted, and starts its answer. Forwarding demands a [`Permit`], so
//! that sending an unauthorized request does not compile.
//!
//! A request is sent a second time only when nothing of it was sent, or when it is idempotent,
//! without a body, and the connection had carried others before (RFC 9110 §9.2.2: such a
//! connection may have been closed by its server at the same moment).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode, header};

use super::authorize::Permit;
use super::body::{BodyFate, BodyState, ClientBody, UpstreamBody, within};
use super::link::{Exchange, Fault, Link};
use super::pool::{ConnectError, Lease, Pool, Server};
use crate::wire::pace::Watch;

/// What governs one exchange with an upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForwardLimits {
    /// To the response head, from the last byte of the request.
    pub(crate) response: Duration,
    /// Silence within the response body.
    pub(crate) idle: Duration,
}

/// An answer that has begun.
pub(crate) struct Forwarded {
    /// The answer; its body streams.
    pub(crate) response: Response<UpstreamBody>,
    /// Who gave it.
    pub(crate) server: Rc<Server>,
    /// The upstream's side of a tunnel, when it agreed to one.
    pub(crate) tunnel: Option<Link>,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The upstream cannot be reached.
    #[error("the upstream cannot be reached")]
    Connect(#[source] ConnectError),
    /// It closed the connection, or its answer is not HTTP.
    #[error("the upstream broke off or gave a bad answer")]
    Broken(#[source] Fault),
    /// It agreed to an upgrade that was not asked for.
    #[error("the upstream switched protocols without being asked")]
    Unasked,
    /// It did not answer in time.
    #[error("the upstream did not answer in time")]
    Timeout,
    /// The client's body is too large.
    #[error("the request body is larger than allowed")]
    BodyTooLarge,
    /// The client's body did not arrive.
    #[error("the client broke off its request")]
    ClientBroke,
}

/// Sends `request` to a server of `pool` and waits for the head of its answer.
///
/// # Errors
/// See [`ForwardError`]. The client has seen nothing yet then.
pub(crate) async fn forward(
    _permit: &Permit<'_>,
    pool: &Pool,
    request: Request<ClientBody>,
    fate: &Rc<BodyFate>,
    watch: &Arc<Watch>,
    limits: ForwardLimits,
) -> Result<Forwarded, ForwardError> {
    let tunnel_asked = request.headers().contains_key(header::UPGRADE);
    let Lease { link, server, mut reused } = pool.lease().await.map_err(ForwardError::Connect)?;
    let mut exchange = Exchange::new(link, request, &server.host);
    watch.expect_upstream(limits.response);
    let mut head = loop {
        let fault = match within(watch, exchange.head()).await {
            Ok(Ok(head)) => break head,
            Ok(Err(fault)) => fault,
            Err(_late) => return Err(ForwardError::Timeout),
        };
        match fate.state.get() {
            BodyState::TooLarge => return Err(ForwardError::BodyTooLarge),
            BodyState::Broken => return Err(ForwardError::ClientBroke),
            _ if reused && exchange.may_go_again() => {}
            _ => return Err(ForwardError::Broken(fault)),
        }
        // A new connection is not reused, so this happens once.
        reused = false;
        let link = pool.connect(&server).await.map_err(ForwardError::Connect)?;
        exchange = exchange.again(link);
        watch.expect_upstream(limits.response);
    };
    watch.upstream_acted();
    let mut response = Response::new(());
    std::mem::swap(&mut response, &mut head.response);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !tunnel_asked {
            return Err(ForwardError::Unasked);
        }
        let response = response.map(|()| UpstreamBody::nothing());
        return Ok(Forwarded { response, server, tunnel: Some(exchange.into_link()) });
    }
    let body =
        UpstreamBody::new(exchange, head, Rc::clone(&server), Arc::clone(watch), limits.idle);
    Ok(Forwarded { response: response.map(|()| body), server, tunnel: None })
}
