//! One worker's side of the gateway: takes a request from its arrival to its answer, in the order
//! of the types. Has what must not be shared (token cache, upstream connections, numbers) and
//! borrows the rest.
//!
//! [`Desk::handle`] is the outer half: request id, record, errors made into answers. The inner
//! half, [`Desk::answer`], is the life of a request, one `?` a step.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::ready;
use std::time::{Duration, Instant};

use ahash::AHashSet;
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response};
use jiff::Timestamp;
use tokio::runtime::Handle;

use super::exchange::Passing;
use super::live::Live;
use super::record::Record;
use super::{Gateway, SessionSeen};
use crate::config::Mode;
use crate::cors;
use crate::identity::address::Resolved;
use crate::identity::api_keys::is_api_key;
use crate::identity::cookies;
use crate::identity::credential::{CarrierError, Elsewhere};
use crate::identity::site::{Arrival, acts};
use crate::identity::{Credential, IssuerIndex, Page, Rejection, TokenCache, Verifier};
use crate::limit::{Caller, Decision as LimitDecision, Rule, rate_limit_fields};
use crate::message::{FieldSink, HeadError, Known, RequestHead};
use crate::model::{self, Event, EventKind, Outcome, SessionId};
use crate::problem::Error;
use crate::proxy::authorize::{Permit, Refusal};
use crate::proxy::decide::{Decision, decide_preflight, decide_quietly};
use crate::proxy::headers::{RequestIds, Scheme};
use crate::proxy::pool::Pool;
use crate::proxy::relay::Traffic;
use crate::proxy::route::Route;
use crate::proxy::subprotocol;
use crate::telemetry::access::AccessLog;
use crate::telemetry::tally::{Label, Tally};
use crate::wire::{AnswerBody, Client, Peer, Place, Socket};

/// How often sessions that were used are noted in the database.
const NOTE_SESSIONS: Duration = Duration::from_mins(1);

/// Most sessions noted at once by one worker.
const MAX_NOTED_SESSIONS: usize = 100_000;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A client connection, as its requests see it.
pub(crate) struct Connection {
    pub(super) peer: IpAddr,
    /// The same as text.
    pub(super) peer_text: String,
    pub(super) scheme: Scheme,
    /// The subject of the certificate that the client has shown.
    pub(super) client_certificate: Option<HeaderValue>,
    /// Held as long as anything of the connection is.
    _place: Place,
}

impl Connection {
    /// A connection from `peer`.
    pub(crate) fn new(peer: Peer, place: Place) -> Self {
        let scheme = if peer.negotiated.over_tls() { Scheme::Https } else { Scheme::Http };
        let Peer { address, client_certificate, .. } = peer;
        let peer_text = text_of(address);
        Self { peer: address, peer_text, scheme, client_certificate, _place: place }
    }

    /// Whether it is encrypted.
    pub(crate) fn is_over_tls(&self) -> bool {
        self.scheme == Scheme::Https
    }
}

/// An address as text. By hand for IPv4: with a new connection for each request it is made for each
/// request, and formatting costs as much as reading a head.
fn text_of(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        text.push_str(itoa::Buffer::new().format(octet));
    }
    text
}

/// One worker's side of the gateway.
pub(crate) struct Desk {
    pub(super) gateway: Arc<Gateway>,
    pub(crate) access: AccessLog,
    request_ids: RequestIds,
    local: RefCell<Rc<Local>>,
    live: RefCell<Cache<Arc<ArcSwap<Live>>, Arc<Live>>>,
    tokens: RefCell<TokenCache>,
    tally: RefCell<Tally>,
    seen: RefCell<AHashSet<SessionId>>,
    last_noted: Cell<Instant>,
    labels: Labels,
    dates: Dates,
}

/// Names of requests that belong to no route.
struct Labels {
    none: Label,
    own: Label,
}

/// A snapshot of the configuration with this worker's connections for it.
pub(super) struct Local {
    pub(super) live: Arc<Live>,
    /// In the order of `live.upstreams`.
    pub(super) pools: Vec<Rc<Pool>>,
    routes: Vec<Label>,
    verifier: RefCell<Cache<Arc<ArcSwap<Verifier>>, Arc<Verifier>>>,
}

impl Local {
    /// Connections of `previous` to upstreams that stay as they are stay open.
    fn new(live: Arc<Live>, previous: Option<&Self>, control: &Handle) -> Self {
        let pools = live.upstreams.iter().map(|upstream| {
            let state = &upstream.state;
            state.start(control);
            let mut known = previous.iter().flat_map(|previous| &previous.pools);
            let same = known.find(|pool| Arc::ptr_eq(pool.state(), state));
            same.map_or_else(|| Rc::new(Pool::new(state)), Rc::clone)
        });
        let pools = pools.collect();
        let routes = live.table.routes().iter().map(|route| (*route.name).into()).collect();
        let verifier = RefCell::new(Cache::new(Arc::clone(&live.verifier)));
        Self { live, pools, routes, verifier }
    }
}

/// How a request was answered.
pub(super) enum Answered {
    /// By us; the answer is still to be sent.
    Own(Response<Bytes>),
    /// By an upstream; the client has it.
    Passed,
}

/// Why there is none, and what its answer says beside the problem document.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) headers: HeaderMap,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, headers: HeaderMap::new() }
    }
}

impl Desk {
    /// The side of a worker that starts.
    pub(crate) fn new(gateway: Arc<Gateway>, access: AccessLog) -> Self {
        let mut live = Cache::new(Arc::clone(&gateway.live));
        let local = Rc::new(Local::new(Arc::clone(live.load()), None, &gateway.control));
        Self {
            access,
            request_ids: RequestIds::new(),
            local: RefCell::new(local),
            live: RefCell::new(live),
            tokens: RefCell::new(TokenCache::new(TokenCache::DEFAULT_BYTES)),
            tally: RefCell::default(),
            seen: RefCell::default(),
            last_noted: Cell::new(Instant::now()),
            labels: Labels { none: "".into(), own: gateway.auth_label.as_str().into() },
            dates: Dates::default(),
            gateway,
        }
    }

    /// The numbers counted so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    pub(super) fn tally_mut(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.tally.borrow_mut());
    }

    pub(super) fn no_route(&self) -> Label {
        Label::clone(&self.labels.none)
    }

    /// Housekeeping, ten times a second.
    pub(crate) fn tick(&self, now: Instant) {
        self.access.flush();
        // Also takes up a new configuration when no request does: checks of its upstreams begin,
        // and what is gone is let go.
        self.snapshot().pools.iter().for_each(|pool| pool.tick(now));
        if now.duration_since(self.last_noted.get()) >= NOTE_SESSIONS {
            self.last_noted.set(now);
            self.note_sessions();
        }
    }

    fn note_sessions(&self) {
        let mut seen = self.seen.borrow_mut();
        if !seen.is_empty() {
            let at = self.gateway.clock.now();
            self.gateway.note_sessions(seen.drain().map(|id| SessionSeen { id, at }).collect());
        }
    }

    /// Tells a client, as well as that is possible without reading, that there is no room for it.
    pub(crate) fn refuse_connection(&self, stream: &Socket, over_tls: bool, reason: &'static str) {
        self.tally_mut(|tally| {
            tally.decide(("deny", reason), 1);
        });
        if !over_tls {
            // Nothing depends on whether it arrives.
            let _ = stream.try_write(
                b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n",
            );
        }
    }

    /// Answers one request, whose head was found to be as `checked` says.
    pub(crate) async fn handle<C: Client>(
        &self,
        client: &mut C,
        connection: &Connection,
        head: &RequestHead,
        checked: Result<(), HeadError>,
    ) {
        let local = self.snapshot();
        let fields = head.fields();
        let resolved = local.live.trusted.client_addr(connection.peer, fields);
        let other_client =
            (resolved.client.0 != connection.peer).then(|| resolved.client.0.to_string());
        let client_text = other_client.as_deref().unwrap_or(&connection.peer_text);
        let time = self.gateway.clock.now();
        let traffic = Traffic::default();
        let mut record = Record::new(
            self,
            client.watch(),
            head,
            (resolved.client.0, client_text),
            time,
            self.request_ids.id_of(fields, time),
            &traffic,
        );
        if resolved.ignored_header {
            self.tally_mut(|tally| tally.ignored_forwarding_headers += 1);
            self.gateway.warn_of_ignored_header(connection.peer);
        }
        let outcome = match checked {
            Ok(()) => self.answer(&local, client, connection, resolved, &mut record).await,
            Err(error) => Err(Error::from(error).into()),
        };
        let response = match outcome {
            Ok(Answered::Passed) => return,
            Ok(Answered::Own(response)) => response,
            Err(failed) => refuse(&mut record, failed),
        };
        self.send(client, &local.live, &mut record, response).await;
    }

    /// Sends an answer of our own.
    async fn send<C: Client>(
        &self,
        client: &mut C,
        live: &Live,
        record: &mut Record<'_>,
        response: Response<Bytes>,
    ) {
        client.discard_body();
        let (parts, body) = response.into_parts();
        if parts.headers.get(CONNECTION).is_some_and(|value| value == "close") {
            client.close_after_answer();
        }
        let is_head = record.head.method == Method::HEAD;
        let declared = (parts.headers.get(CONTENT_LENGTH))
            .and_then(|length| length.to_str().ok()?.parse().ok())
            .unwrap_or(body.len() as u64);
        let out = client.begin_answer(parts.status.as_u16());
        for (name, value) in &parts.headers {
            if !matches!(*name, CONNECTION | CONTENT_LENGTH) {
                out.field(name.as_str().as_bytes(), value.as_bytes());
            }
        }
        self.write_ours(live, record, false, out);
        client.end_answer_head(match parts.status.as_u16() {
            204 | 304 => AnswerBody::Nothing,
            _ if is_head => AnswerBody::Declared(declared),
            _ => AnswerBody::Length(body.len() as u64),
        });
        record.status = parts.status.as_u16();
        let mut rest: &[u8] = if is_head { &[] } else { &body };
        let sent = std::future::poll_fn(|cx| {
            while !rest.is_empty() {
                let taken = ready!(client.poll_send(cx, rest))?;
                rest = &rest[taken..];
                record.traffic.down.set(record.traffic.down.get() + taken as u64);
            }
            client.end_answer(None);
            client.poll_flush(cx)
        })
        .await;
        if sent.is_err() {
            client.abort();
        }
    }

    /// What every answer says beside its own: who may read it, when it was given, to which request.
    pub(super) fn write_ours(
        &self,
        live: &Live,
        record: &Record<'_>,
        has_date: bool,
        out: &mut impl FieldSink,
    ) {
        live.cors.write(record.head.fields().first(Known::Origin), out);
        if !has_date {
            // RFC 9110 §6.6.1: whoever has a clock says the time, also for others.
            self.dates.write(record.time, out);
        }
        out.field(b"x-request-id", record.request_id.as_bytes());
    }

    /// The life of a request whose head is fine.
    async fn answer<C: Client>(
        &self,
        local: &Local,
        client: &mut C,
        connection: &Connection,
        resolved: Resolved,
        record: &mut Record<'_>,
    ) -> Result<Answered, Failed> {
        let live = &local.live;
        let head = record.head;
        let fields = head.fields();
        let preflight = cors::preflight(&head.method, fields);
        let preflight_permit =
            preflight.and_then(|asked| decide_preflight(&live.table, head.path(), asked));
        if preflight.is_some() && preflight_permit.is_none() && live.cors.is_on() {
            (record.decision, record.reason) = ("own", "preflight");
            let answer = live.cors.answer_preflight(fields.first(Known::Origin));
            return Ok(Answered::Own(answer.map(|()| Bytes::new())));
        }
        let arrival = Arrival {
            over_tls: connection.is_over_tls(),
            peer_is_trusted: resolved.peer_is_trusted,
        };
        let decision = if let Some(permit) = preflight_permit {
            Decision::Permit(permit)
        } else {
            let certificate = connection.client_certificate.as_ref();
            let time = record.time;
            let decide = || {
                decide_quietly(
                    &live.table,
                    &head.method,
                    head.path(),
                    certificate,
                    |route| self.credential(local, head, arrival, route, time),
                    time.as_second(),
                )
            };
            let judge = judge_of(local);
            let decision = decide();
            match decision.asks_for_keys_of() {
                // Boxed: it must not make the state of all other requests larger.
                Some(issuer) if Box::pin(self.has_new_keys(local, issuer, judge)).await => decide(),
                _ => decision,
            }
        };
        let permit = match decision {
            Decision::Own => {
                (record.decision, record.reason) = ("own", "account");
                record.route = Label::clone(&self.labels.own);
                // Boxed: the state of account requests must not make that of all others larger.
                return Box::pin(self.answer_account(live, client, arrival, record)).await;
            }
            Decision::Permit(permit) => permit,
            Decision::Refuse(refused) => {
                if let Some(route) = refused.route {
                    record.route = Label::clone(&local.routes[route.id]);
                }
                record.identity = refused.identity;
                self.note_refusal(record, &refused.refusal);
                return Err(Error::from(refused.refusal).into());
            }
        };
        record.route = Label::clone(&local.routes[permit.route().id]);
        record.identity = permit.identity().cloned();
        if preflight.is_none() && !permit.route().takes_origin(fields.first(Known::Origin)) {
            self.note_refusal(record, &Refusal::OriginDenied);
            return Err(Error::from(Refusal::OriginDenied).into());
        }
        self.note_permit(record, &permit);
        if self.gateway.is_stale() && permit.identity().is_some_and(|identity| identity.is_ours()) {
            return Err(Error::Unavailable("the ended sessions are not known").into());
        }
        let limited = self.hit_limits(live, record, &permit).await?;
        let exchange = Passing { desk: self, local, connection, resolved, permit: &permit };
        match exchange.forward(client, record, &limited).await {
            Ok(()) => Ok(Answered::Passed),
            Err(error) => Err(Failed { error, headers: limited }),
        }
    }

    fn snapshot(&self) -> Rc<Local> {
        let mut cache = self.live.borrow_mut();
        let live = cache.load();
        let mut local = self.local.borrow_mut();
        if !Arc::ptr_eq(live, &local.live) {
            let control = &self.gateway.control;
            *local = Rc::new(Local::new(Arc::clone(live), Some(&local), control));
        }
        Rc::clone(&local)
    }

    /// Waits for a fetch of an issuer's keys, if there may be one; whether a token that `judge` did
    /// not believe is to be judged once more.
    async fn has_new_keys(&self, local: &Local, issuer: IssuerIndex, judge: usize) -> bool {
        let name = local.verifier.borrow_mut().load().name_of(issuer).cloned();
        let Some(name) = name else { return false };
        // The fetch of another request may have ended just before this one could wait for it.
        self.gateway.fetch_keys_of(&name).await || judge_of(local) != judge
    }

    fn credential(
        &self,
        local: &Local,
        head: &RequestHead,
        arrival: Arrival,
        route: &Route,
        at: Timestamp,
    ) -> Credential {
        let fields = head.fields();
        let accepted = route.issuers;
        let subprotocol = if route.websocket_token && head.websocket {
            match subprotocol::token(fields) {
                Ok(token) => token,
                Err(subprotocol::Several) => return Credential::Malformed(CarrierError::Repeated),
            }
        } else {
            None
        };
        let cookie = if route.cookies && fields.has(Known::Cookie) {
            match cookies::sole(fields.all(Known::Cookie), cookies::ACCESS) {
                Ok(token) => token,
                Err(cookies::Several) => return Credential::Malformed(CarrierError::Repeated),
            }
        } else {
            None
        };
        let elsewhere = Elsewhere { subprotocol, cookie };
        let judge = |token: &[u8]| {
            if is_api_key(token) {
                return self.gateway.api_keys.verify(token, at);
            }
            let now = at.as_second();
            let mut verifier = local.verifier.borrow_mut();
            let verifier = verifier.load();
            let revocations = &self.gateway.revocations;
            let identity =
                self.tokens.borrow_mut().verify(token, accepted, verifier, revocations, now)?;
            if !self.gateway.api_keys.stand_behind(&identity, at) {
                return Err(Rejection::UnknownApiKey);
            }
            if let Some(session) = identity.session {
                let mut seen = self.seen.borrow_mut();
                if seen.len() < MAX_NOTED_SESSIONS {
                    seen.insert(session);
                }
            }
            Ok(identity)
        };
        if cookie.is_none() {
            return Credential::of(fields.all(Known::Authorization), elsewhere, judge);
        }
        if acts(&head.method, head.websocket)
            && local.live.sites.page(fields, arrival) == Page::Foreign
        {
            return Credential::CrossSite;
        }
        Credential::of(fields.all(Known::Authorization), elsewhere, |token| match judge(token)? {
            // Programs have no cookies.
            identity if identity.machine.is_some() => Err(Rejection::Malformed),
            identity => Ok(identity),
        })
    }

    /// Counts the request under its route's limits.
    async fn hit_limits(
        &self,
        live: &Live,
        record: &mut Record<'_>,
        permit: &Permit<'_>,
    ) -> Result<HeaderMap, Failed> {
        let route = permit.route();
        if route.limits.is_empty() {
            return Ok(HeaderMap::new());
        }
        let caller = Caller {
            user: permit.identity().map(|id| (&*id.issuer_name, &*id.subject)),
            session: permit
                .identity()
                .and_then(|id| id.session.map(|session| (&*id.issuer_name, session))),
            ..Caller::anonymous(record.client, &route.name)
        };
        let hits =
            route.limits.iter().map(|&limit| (&live.rules[limit], live.rules[limit].key(&caller)));
        let decisions = self.gateway.limiter.hit_all(hits).await;
        let headers = limit_headers(&decisions);
        let Some((rule, decision)) = decisions.last().filter(|(_, decision)| !decision.allowed)
        else {
            return Ok(headers);
        };
        self.tally_mut(|tally| {
            *tally.rate_limited.entry(Label::clone(rule.name())).or_default() += 1;
        });
        self.gateway.events.note(event(record, EventKind::RateLimited, rule.name()));
        if permit.route().mode == Mode::Shadow {
            (record.decision, record.reason) = ("shadow", "over_request_rate_limit");
            return Ok(headers);
        }
        Err(Failed { error: Error::OverLimit(*decision), headers })
    }

    /// Notes a refusal as an event: those that say something of a caller, not those of nobody.
    fn note_refusal(&self, record: &Record<'_>, refusal: &Refusal) {
        let kind = match refusal {
            Refusal::OwnerMismatch { .. } => EventKind::OwnerMismatch,
            Refusal::BadToken(_)
            | Refusal::Denied
            | Refusal::ApiKeyNotAccepted
            | Refusal::MissingRole
            | Refusal::MissingScope { .. }
            | Refusal::OriginDenied
            | Refusal::StepUp(_) => EventKind::AccessDenied,
            Refusal::BadPath(_)
            | Refusal::CrossSite
            | Refusal::MalformedCredential
            | Refusal::MethodNotAllowed { .. }
            | Refusal::NoClientCertificate
            | Refusal::NoRoute
            | Refusal::NoToken => return,
        };
        self.gateway.events.note(event(record, kind, refusal.reason()));
    }

    fn note_permit(&self, record: &mut Record<'_>, permit: &Permit<'_>) {
        if let Some(refusal) = permit.shadowed() {
            (record.decision, record.reason) = ("shadow", refusal.reason());
            self.note_refusal(record, refusal);
            return;
        }
        (record.decision, record.reason) = ("allow", permit.reason());
        if permit.owner_overridden() {
            let mut event = event(record, EventKind::OwnerOverride, "owner_override");
            event.outcome = Outcome::Success;
            self.gateway.events.note(event);
        }
    }
}

/// Which verifier judges at present; others have another address.
fn judge_of(local: &Local) -> usize {
    Arc::as_ptr(local.verifier.borrow_mut().load()).addr()
}

/// The answer to a request that failed.
fn refuse(record: &mut Record<'_>, failed: Failed) -> Response<Bytes> {
    let Failed { error, headers } = failed;
    error.log(record.request_id());
    // A request that was let through and then failed was not denied.
    let failed = matches!(error, Error::Forward(_) | Error::Internal(_));
    if record.decision != "own" && !failed {
        record.decision = "deny";
    }
    record.reason = error.reason();
    let problem = error.problem();
    let mut response = if record.head.is_grpc() {
        problem.into_grpc_response()
    } else {
        let version = record.head.fields().first(Known::ApiVersion);
        problem.into_response(version, record.request_id())
    };
    response.headers_mut().extend(headers);
    response
}

/// An event of a proxied route.
pub(super) fn event(record: &Record<'_>, kind: EventKind, reason: &str) -> Event {
    let identity = record.identity.as_ref();
    Event {
        id: model::uuid_v7(record.time),
        at: record.time,
        kind,
        outcome: Outcome::Failure,
        reason: Some(reason.to_owned()),
        // A program acts for the user.
        actor: identity.and_then(|id| Some(format!("key:{}", id.machine.as_ref()?.client))),
        user_id: identity.filter(|id| id.is_ours()).and_then(|id| id.subject.parse().ok()),
        email: None,
        session_id: identity.and_then(|identity| identity.session),
        address: Some(record.client),
        user_agent: record.user_agent().map(|value| model::clean_text(value, 256)),
        request_id: Some(record.request_id().to_owned()),
    }
}

/// `Date` (RFC 9110 §5.6.7), worded once a second.
#[derive(Default)]
struct Dates {
    second: Cell<i64>,
    text: RefCell<String>,
}

impl Dates {
    fn write(&self, now: Timestamp, out: &mut impl FieldSink) {
        let mut text = self.text.borrow_mut();
        if text.is_empty() || self.second.get() != now.as_second() {
            self.second.set(now.as_second());
            let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
            *text = printer.timestamp_to_rfc9110_string(&now).unwrap_or_default();
        }
        if !text.is_empty() {
            out.field(b"date", text.as_bytes());
        }
    }
}

/// `RateLimit` and `RateLimit-Policy`.
fn limit_headers(decisions: &[(&Rule, LimitDecision)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(fields) = rate_limit_fields(decisions) {
        let pairs = [(RATE_LIMIT, fields.rate_limit), (RATE_LIMIT_POLICY, fields.policy)];
        headers.extend(
            pairs.into_iter().filter_map(|(name, text)| Some((name, text.try_into().ok()?))),
        );
    }
    headers
}
