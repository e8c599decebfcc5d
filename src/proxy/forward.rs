//! Sends a request that was permitted, and passes its answer on. Forwarding demands a [`Permit`],
//! so that sending an unauthorized request does not compile.
//!
//! A request is sent a second time only when nothing of it was sent, when an HTTP/2 server says that
//! it did nothing with it (RFC 9113 §8.7), or when it is idempotent, without a body, and the
//! connection had carried others before (RFC 9110 §9.2.2: such a connection may have been closed by
//! its server at the same moment).

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderMap;

use super::authorize::Permit;
use super::challenge::Challenge;
use super::headers::HeaderPolicy;
use super::link::{Exchange, Link, RequestLine};
use super::origin::{Answer, Fault, Origin};
use super::pool::{Ask, Carrier, Flight, Lease, LeaseError, Pool, Server};
use super::relay::{Failure, Limits, Relay, Traffic};
use super::stream::{self, StreamExchange, Unsendable};
use crate::message::response::is_interim;
use crate::message::{BodyLength, FieldSink as _, Known, Malformed, RequestHead, Version};
use crate::wire::{Client, ClientFault};

/// Most interim answers before the answer.
const MAX_INTERIM: usize = 32;

/// A request on its way out.
pub(crate) struct Outbound<'a> {
    /// As it came in.
    pub(crate) head: &'a RequestHead,
    /// Since when it has been on its way.
    pub(crate) asked_at: Instant,
    /// What of its path is forwarded.
    pub(crate) path: &'a [u8],
    /// The client's `Host`, when the upstream gets to see it.
    pub(crate) host: Option<&'a [u8]>,
    /// Which server would have it, and how long connecting to that may take.
    pub(crate) ask: Ask<'a>,
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
    /// The upstream cannot be reached, or takes no more.
    #[error("there is no connection to the upstream")]
    Connect(#[source] LeaseError),
    /// It closed the connection, or its answer is not HTTP.
    #[error("the upstream broke off or gave a bad answer")]
    Broken(#[source] Fault),
    /// It agreed to an upgrade that was not asked for.
    #[error("the upstream switched protocols without being asked")]
    Unasked,
    /// It has no tunnel where the client asked for one.
    #[error("the upstream did not switch protocols")]
    NoTunnel,
    /// It did not answer in time.
    #[error("the upstream did not answer in time")]
    Timeout,
    /// The whole exchange took too long.
    #[error("the request was not answered in its time")]
    OverTime,
    /// The client's body is too large.
    #[error("the request body is larger than allowed")]
    BodyTooLarge,
    /// The client's body did not arrive.
    #[error("the client broke off its request")]
    ClientBroke,
    /// The client is no longer there.
    #[error("the client went away")]
    ClientGone,
    /// HTTP/2 cannot carry its target.
    #[error("the request target cannot be sent over HTTP/2")]
    Unsendable,
    /// There are as many tunnels as allowed.
    #[error("there are too many tunnels")]
    TooManyTunnels,
}

impl From<Failure> for ForwardError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Upstream(fault) => Self::Broken(fault),
            Failure::Late => Self::Timeout,
            Failure::OverTime => Self::OverTime,
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
    let lease = pool.lease(&request.ask, request.asked_at).await.map_err(ForwardError::Connect)?;
    words.asked(&lease.server);
    let Lease { carrier, server, flight, reused } = lease;
    let way = Way { pool, server: &server, request, traffic };
    match carrier {
        Carrier::Http1(link) => {
            let ended = way.over_http1(link, reused, client, words).await;
            note_end(&ended, &server, &flight);
            ended
        }
        // Boxed: what few upstreams need should not make the state of all requests larger.
        Carrier::Http2(connection) => {
            Box::pin(way.over_http2((connection, reused), flight, client, words)).await
        }
    }
}

/// Tells the pool what became of an exchange. What a client or a limit ended is nobody's fault.
fn note_end(ended: &Result<Ended, ForwardError>, server: &Server, flight: &Flight) {
    match ended {
        Ok(Ended::Whole) => server.note_success(),
        Ok(Ended::Cut(Failure::Upstream(_) | Failure::Late))
        | Err(ForwardError::Broken(_) | ForwardError::Timeout | ForwardError::Unasked) => {
            flight.note_failure();
        }
        _ => {}
    }
}

/// Where a request goes, and what of it.
struct Way<'a> {
    pool: &'a Pool,
    server: &'a Rc<Server>,
    request: &'a Outbound<'a>,
    traffic: &'a Traffic,
}

impl Way<'_> {
    async fn over_http1<C: Client, W: Words<C>>(
        &self,
        link: Link,
        mut reused: bool,
        client: &mut C,
        words: &mut W,
    ) -> Result<Ended, ForwardError> {
        let Self { pool, server, request, .. } = *self;
        let line = self.line();
        let lacks_key = line.websocket && request.head.version == Version::Http2;
        let challenge = lacks_key.then(Challenge::new);
        let exchange = Exchange::new(link, &line, |out| {
            words.request(out);
            if let Some(challenge) = &challenge {
                out.field(b"sec-websocket-key", challenge.key().as_bytes());
            }
        });
        let mut relay = self.relay(client, exchange);
        loop {
            match head(&mut relay, words).await {
                Ok(()) => break,
                Err(Failure::Upstream(fault)) => {
                    if !reused || !relay.origin.may_go_again() || !pool.may_retry() {
                        return Err(ForwardError::Broken(fault));
                    }
                    // A new connection is not reused, so this happens once.
                    reused = false;
                    let lease = pool.reconnect(server, &request.ask).await;
                    let Carrier::Http1(link) = lease.map_err(ForwardError::Connect)?.carrier else {
                        return Err(ForwardError::Broken(fault));
                    };
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

    async fn over_http2<C: Client, W: Words<C>>(
        &self,
        (connection, reused): (SendRequest<Bytes>, bool),
        flight: Flight,
        client: &mut C,
        words: &mut W,
    ) -> Result<Ended, ForwardError> {
        let Self { pool, server, request, traffic } = *self;
        let exchange = self.begin_stream(connection, words)?;
        let mut relay = self.relay(client, exchange);
        let mut flight = flight;
        let mut again = true;
        loop {
            match head(&mut relay, words).await {
                Ok(()) => break,
                Err(Failure::Upstream(fault)) => {
                    // RFC 9110 §9.2.2; RFC 9113 §8.7 for what the server says it did not begin.
                    let harmless = request.head.method.is_idempotent()
                        && request.head.body == BodyLength::Exactly(0)
                        && reused
                        && stream::was_closed(&fault);
                    let untouched = traffic.up.get() == 0
                        && !relay.origin.has_answered()
                        && (stream::was_refused(&fault) || harmless);
                    if !std::mem::take(&mut again) || !untouched || !pool.may_retry() {
                        return Err(ForwardError::Broken(fault));
                    }
                    // It takes no more; the next one must be another.
                    flight.retire();
                    let lease = pool.reconnect(server, &request.ask).await;
                    let lease = lease.map_err(ForwardError::Connect)?;
                    let Carrier::Http2(connection) = lease.carrier else {
                        return Err(ForwardError::Broken(fault));
                    };
                    flight = lease.flight;
                    let exchange = self.begin_stream(connection, words)?;
                    relay = relay.again(|_| exchange);
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        let ended = finish(&mut relay, request, None, words).await;
        note_end(&ended, server, &flight);
        ended
    }

    fn relay<'c, C: Client, O: Origin>(&'c self, client: &'c mut C, origin: O) -> Relay<'c, C, O> {
        let Outbound { head, limits, policy, .. } = self.request;
        Relay::new(client, origin, self.traffic, *limits, policy, head.body)
    }

    fn begin_stream<C: Client, W: Words<C>>(
        &self,
        connection: SendRequest<Bytes>,
        words: &W,
    ) -> Result<StreamExchange, ForwardError> {
        // A tunnel over HTTP/2 is asked for in another way than clients of HTTP/1.1 know; upstreams
        // that have WebSockets speak HTTP/1.1 as well.
        let line = RequestLine { websocket: false, ..self.line() };
        let scheme = if self.server.over_tls { "https" } else { "http" };
        let trailers = self.request.head.fields().lists(Known::Te, "trailers");
        let write = |out: &mut HeaderMap| words.request(out);
        StreamExchange::new(connection, &line, scheme, trailers, write).map_err(|error| match error
        {
            Unsendable::Target => ForwardError::Unsendable,
            Unsendable::Connection(error) => ForwardError::Broken(Fault::Http2(error)),
        })
    }

    fn line(&self) -> RequestLine<'_> {
        let Outbound { head, path, host, .. } = self.request;
        RequestLine {
            method: &head.method,
            target: [path, head.query_bytes()],
            host: host.unwrap_or_else(|| self.server.host.as_bytes()),
            body: head.body,
            websocket: head.websocket,
        }
    }
}

/// Waits for the head of the answer, and passes on what comes before it.
async fn head<C: Client, O: Origin, W: Words<C>>(
    relay: &mut Relay<'_, C, O>,
    words: &mut W,
) -> Result<(), Failure> {
    for _ in 0..MAX_INTERIM {
        relay.head().await?;
        let answer = relay.origin.answer();
        if !is_interim(answer.status) {
            return Ok(());
        }
        words.interim(relay.client, &answer);
        relay.origin.take_head();
    }
    Err(Failure::Upstream(Fault::Malformed(Malformed::Interim)))
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
    if request.head.websocket
        && request.head.version == Version::Http2
        && (200..300).contains(&answer.status)
    {
        // To whoever asked with CONNECT, any 2xx says that the tunnel stands (RFC 8441 §5).
        return Err(ForwardError::NoTunnel);
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
