//! Sends a request that was permitted, and passes its answer on. Forwarding demands a [`Permit`],
//! so that sending an unauthorized request does not compile.
//!
//! A request is sent a second time only when nothing of it was sent, or when it is idempotent,
//! without a body, and the connection had carried others before (RFC 9110 §9.2.2: such a
//! connection may have been closed by its server at the same moment).

use std::rc::Rc;
use std::time::Duration;

use super::authorize::Permit;
use super::challenge::Challenge;
use super::headers::HeaderPolicy;
use super::link::{Exchange, RequestLine};
use super::origin::{Answer, Fault, Origin};
use super::pool::{ConnectError, Lease, Pool, Server};
use super::relay::{Failure, Limits, Relay, Traffic};
use crate::message::{FieldSink as _, RequestHead, Version};
use crate::wire::{Client, ClientFault};

/// A request on its way out.
pub(crate) struct Outbound<'a> {
    /// As it came in.
    pub(crate) head: &'a RequestHead,
    /// What of its path is forwarded.
    pub(crate) path: &'a [u8],
    /// The client's `Host`, when the upstream gets to see it.
    pub(crate) host: Option<&'a [u8]>,
    /// What of the client's trailers may pass.
    pub(crate) policy: &'a HeaderPolicy,
    /// Limits of the exchange.
    pub(crate) limits: Limits,
    /// For all of it.
    pub(crate) total: Option<Duration>,
}

/// Who words what is passed on: the request's fields, and what the client reads of the answer.
pub(crate) trait Words<C: Client> {
    /// Writes the fields of the request.
    fn request(&self, out: &mut impl crate::message::FieldSink);

    /// Passes an interim answer on.
    fn interim(&mut self, client: &mut C, answer: &Answer<'_>);

    /// Writes the head of the answer. `declared` is the length of a body that does not follow.
    fn answer(&mut self, client: &mut C, answer: &Answer<'_>, declared: Option<u64>);

    /// Whether a tunnel may be opened, which is counted until the guard is dropped.
    fn tunnel(&mut self) -> Option<TunnelTerms>;

    /// The server that is asked.
    fn asked(&mut self, server: &Rc<Server>);
}

/// How long a tunnel may last.
pub(crate) struct TunnelTerms {
    /// Without a byte.
    pub(crate) idle: Duration,
    /// When the gateway stops.
    pub(crate) drain: Duration,
    /// Asked every second.
    pub(crate) may_go_on: Box<dyn FnMut() -> bool>,
    /// Held until it ends.
    pub(crate) place: Box<dyn std::any::Any>,
}

/// How an exchange ended whose answer had begun.
#[derive(Debug)]
pub(crate) enum Ended {
    /// As it should.
    Whole,
    /// The client was told that the rest is missing.
    Cut(Failure),
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
    /// The client is no longer there.
    #[error("the client went away")]
    ClientGone,
    /// There are as many tunnels as allowed.
    #[error("there are too many tunnels")]
    TooManyTunnels,
}

impl From<Failure> for ForwardError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Upstream(fault) => Self::Broken(fault),
            Failure::Late => Self::Timeout,
            Failure::Client(ClientFault::Gone) => Self::ClientGone,
            Failure::Client(ClientFault::Malformed) | Failure::TooSlow => Self::ClientBroke,
            Failure::TooLarge => Self::BodyTooLarge,
        }
    }
}

/// Sends a request to a server of `pool` and passes its answer to `client`.
///
/// # Errors
/// See [`ForwardError`]. The client has seen nothing of an answer yet then.
pub(crate) async fn forward<C: Client, W: Words<C>>(
    _permit: &Permit<'_>,
    pool: &Pool,
    client: &mut C,
    request: &Outbound<'_>,
    traffic: &Traffic,
    words: &mut W,
) -> Result<Ended, ForwardError> {
    client.watch().limit_total(request.total);
    let Lease { link, server, mut reused } = pool.lease().await.map_err(ForwardError::Connect)?;
    words.asked(&server);
    let line = RequestLine {
        method: &request.head.method,
        target: [request.path, request.head.query_bytes()],
        host: request.host.unwrap_or_else(|| server.host.as_bytes()),
        body: request.head.body,
        websocket: request.head.websocket,
    };
    let lacks_key = request.head.websocket && request.head.version == Version::Http2;
    let challenge = lacks_key.then(Challenge::new);
    let exchange = Exchange::new(link, &line, |out| {
        words.request(out);
        if let Some(challenge) = &challenge {
            out.field(b"sec-websocket-key", challenge.key().as_bytes());
        }
    });
    let mut relay = Relay::new(client, exchange, traffic, request.limits, request.policy);
    loop {
        match relay.head().await {
            Ok(()) => {
                if is_interim(relay.origin.answer().status) {
                    words.interim(relay.client, &relay.origin.answer());
                    relay.origin.take_head();
                    continue;
                }
                break;
            }
            Err(Failure::Upstream(fault)) => {
                if !reused || !relay.origin.may_go_again() {
                    return Err(ForwardError::Broken(fault));
                }
                // A new connection is not reused, so this happens once.
                reused = false;
                let link = pool.connect(&server).await.map_err(ForwardError::Connect)?;
                relay = relay.again(|exchange| exchange.again(link));
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    let ended = finish(&mut relay, request, challenge.as_ref(), words).await?;
    if let Ended::Whole = ended {
        let sent = relay.request_is_sent();
        if let Some(link) = relay.origin.finish().filter(|_| sent) {
            server.give_back(link);
        }
    }
    Ok(ended)
}

/// Passes on the answer whose head has come.
async fn finish<C: Client, O: Origin, W: Words<C>>(
    relay: &mut Relay<'_, C, O>,
    request: &Outbound<'_>,
    challenge: Option<&Challenge>,
    words: &mut W,
) -> Result<Ended, ForwardError> {
    let answer = relay.origin.answer();
    if answer.status == 101 {
        let agreed = crate::message::request::is_websocket_upgrade(answer.fields);
        let met = challenge.is_none_or(|challenge| challenge.is_met_by(answer.fields));
        if !request.head.websocket || !agreed || !met {
            return Err(ForwardError::Unasked);
        }
        let Some(mut terms) = words.tunnel() else { return Err(ForwardError::TooManyTunnels) };
        words.answer(relay.client, &answer, None);
        relay.origin.take_head();
        relay.origin.open_tunnel();
        relay.tunnel(terms.idle, terms.drain, &mut terms.may_go_on).await;
        drop(terms.place);
        return Ok(Ended::Whole);
    }
    let no_body = crate::message::response::has_no_body(answer.status, &request.head.method);
    let declared = if no_body { relay.origin.declared_length() } else { None };
    words.answer(relay.client, &answer, declared);
    relay.origin.take_head();
    match relay.body().await {
        Ok(()) => Ok(Ended::Whole),
        Err(failure) => {
            relay.client.abort();
            Ok(Ended::Cut(failure))
        }
    }
}

fn is_interim(status: u16) -> bool {
    status < 200 && status != 101
}
