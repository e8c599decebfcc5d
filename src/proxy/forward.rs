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
use hyper::upgrade::OnUpgrade;

use super::authorize::Permit;
use super::body::{BodyFate, BodyState, ClientBody, UpstreamBody, within};
use super::pool::{ConnectError, Pool, Server};
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
    pub(crate) tunnel: Option<OnUpgrade>,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The upstream cannot be reached.
    #[error("the upstream cannot be reached")]
    Connect(#[source] ConnectError),
    /// It closed the connection, or its answer is not HTTP.
    #[error("the upstream broke off or gave a bad answer")]
    Broken(#[source] hyper::Error),
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
    mut request: Request<ClientBody>,
    fate: &Rc<BodyFate>,
    watch: &Arc<Watch>,
    limits: ForwardLimits,
) -> Result<Forwarded, ForwardError> {
    // Left out for the server's own to be put in.
    let has_host = request.headers().contains_key(header::HOST);
    let tunnel_asked = request.headers().contains_key(header::UPGRADE);
    let mut spare = spare_of(&request);
    let mut lease = pool.lease(fate, false).await.map_err(ForwardError::Connect)?;
    let mut response = loop {
        if !has_host {
            request.headers_mut().insert(header::HOST, lease.server().host.clone());
        }
        watch.expect_upstream(limits.response);
        let answer = within(watch, lease.send(request)).await;
        let mut failure = match answer {
            Ok(Ok(response)) => break response,
            Ok(Err(failure)) => failure,
            Err(_late) => return Err(ForwardError::Timeout),
        };
        let unsent = failure.take_message();
        let reused = lease.reused;
        request = match (fate.state.get(), unsent) {
            (BodyState::TooLarge, _) => return Err(ForwardError::BodyTooLarge),
            (BodyState::Broken, _) => return Err(ForwardError::ClientBroke),
            (_, Some(unsent)) if reused => unsent,
            _ => match spare.take() {
                Some(spare) if reused => spare,
                _ => return Err(ForwardError::Broken(failure.into_error())),
            },
        };
        // A new connection is not `reused`, so this happens once.
        lease = pool.lease(fate, true).await.map_err(ForwardError::Connect)?;
    };
    watch.upstream_acted();
    let tunnel = match response.status() {
        StatusCode::SWITCHING_PROTOCOLS if tunnel_asked => Some(hyper::upgrade::on(&mut response)),
        StatusCode::SWITCHING_PROTOCOLS => return Err(ForwardError::Unasked),
        _ => None,
    };
    let server = Rc::clone(lease.server());
    let response =
        response.map(|body| UpstreamBody::new(body, lease, Arc::clone(watch), limits.idle));
    Ok(Forwarded { response, server, tunnel })
}

/// A copy to send again, where that is allowed.
fn spare_of(request: &Request<ClientBody>) -> Option<Request<ClientBody>> {
    if !request.method().is_idempotent() || request.headers().contains_key(header::UPGRADE) {
        return None;
    }
    let mut spare = Request::new(request.body().again()?);
    spare.method_mut().clone_from(request.method());
    spare.uri_mut().clone_from(request.uri());
    spare.headers_mut().clone_from(request.headers());
    Some(spare)
}
