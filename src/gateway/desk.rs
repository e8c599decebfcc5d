//! One worker's side of the gateway: takes a request from its arrival to its answer, in the order
//! of the types. Has what must not be shared (token cache, upstream connections, numbers) and
//! borrows the rest.
//!
//! [`Desk::handle`] is the outer half: request id, record, errors made into answers. The inner
//! half, [`Desk::answer`], is the life of a request, one `?` a step.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashSet;
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, ORIGIN, USER_AGENT};
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use jiff::Timestamp;
use tokio_util::task::TaskTracker;

use super::live::Live;
use super::record::{AnswerBody, Record, Source};
use super::{Gateway, SessionSeen};
use crate::config::Mode;
use crate::cors;
use crate::identity::address::Resolved;
use crate::identity::{Credential, IssuerSet, TokenCache, Verifier};
use crate::limit::{Caller, Decision as LimitDecision, Rule, rate_limit_fields};
use crate::model::{self, Event, EventKind, Outcome, SessionId};
use crate::problem::{API_VERSION, Error};
use crate::proxy::authorize::{Permit, Refusal};
use crate::proxy::decide::{Decision, decide_preflight, decide_quietly};
use crate::proxy::headers::{RequestIds, Scheme};
use crate::proxy::pool::Pool;
use crate::telemetry::access::AccessLog;
use crate::telemetry::tally::{Label, Tally};
use crate::wire::head::{self, Fields};
use crate::wire::{CHUNKED, Flaw, HeadError, Peer, Place, Socket, Wire};

/// How often sessions that were used are noted in the database.
const NOTE_SESSIONS: Duration = Duration::from_mins(1);

/// Most sessions noted at once by one worker.
const MAX_NOTED_SESSIONS: usize = 100_000;

/// How often idle upstream connections are looked through.
const CLOSE_STALE: Duration = Duration::from_secs(1);

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A client connection, as its requests see it.
pub(crate) struct Connection {
    pub(super) wire: Arc<Wire>,
    pub(super) peer: IpAddr,
    /// The same as a header value.
    pub(super) peer_value: HeaderValue,
    pub(super) scheme: Scheme,
    /// The subject of the certificate that the client has shown.
    pub(super) client_certificate: Option<HeaderValue>,
    /// Held as long as anything of the connection is.
    pub(super) place: Rc<Place>,
}

impl Connection {
    /// A connection from `peer`.
    pub(crate) fn new(wire: Arc<Wire>, peer: Peer, place: Rc<Place>) -> Self {
        let scheme = if peer.negotiated.over_tls() { Scheme::Https } else { Scheme::Http };
        let peer_value = address_value(peer.address);
        let client_certificate = peer.client_certificate;
        Self { wire, peer: peer.address, peer_value, scheme, client_certificate, place }
    }
}

/// A request with what was seen of it at once.
pub(crate) struct Arrived {
    request: Request<Incoming>,
    fields: Fields,
    flaw: Option<Flaw>,
}

impl Arrived {
    /// Must be called before anything more is read from the connection.
    pub(crate) fn new(connection: &Connection, request: Request<Incoming>) -> Self {
        let fields = Fields::of(request.headers());
        let flaw = connection.wire.begin(body_bytes(&request, fields));
        Self { request, fields, flaw }
    }
}

/// An address as a header value.
pub(super) fn address_value(address: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&address.to_string()).expect("an address is visible ASCII")
}

/// One worker's side of the gateway.
pub(crate) struct Desk {
    pub(super) gateway: Arc<Gateway>,
    pub(crate) access: AccessLog,
    pub(super) tasks: TaskTracker,
    request_ids: RequestIds,
    local: RefCell<Rc<Local>>,
    live: RefCell<Cache<Arc<ArcSwap<Live>>, Arc<Live>>>,
    verifier: RefCell<Cache<Arc<ArcSwap<Verifier>>, Arc<Verifier>>>,
    tokens: RefCell<TokenCache>,
    tally: RefCell<Tally>,
    seen: RefCell<AHashSet<SessionId>>,
    last_noted: RefCell<(Instant, Instant)>,
    labels: Labels,
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
    pub(super) pools: Vec<Pool>,
    routes: Vec<Label>,
}

impl Local {
    fn new(live: Arc<Live>) -> Self {
        let pools = live.upstreams.iter().map(|upstream| Pool::new(&upstream.pool)).collect();
        let routes = live.table.routes().iter().map(|route| (*route.name).into()).collect();
        Self { live, pools, routes }
    }
}

/// An answer whose record is not joined to it yet.
pub(super) type Answer = Response<Source>;

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
    pub(crate) fn new(gateway: Arc<Gateway>, access: AccessLog, tasks: TaskTracker) -> Self {
        let mut live = Cache::new(Arc::clone(&gateway.live));
        let local = Rc::new(Local::new(Arc::clone(live.load())));
        let now = Instant::now();
        Self {
            access,
            tasks,
            request_ids: RequestIds::new(),
            local: RefCell::new(local),
            live: RefCell::new(live),
            verifier: RefCell::new(Cache::new(Arc::clone(&gateway.verifier))),
            tokens: RefCell::new(TokenCache::new(TokenCache::DEFAULT_BYTES)),
            tally: RefCell::default(),
            seen: RefCell::default(),
            last_noted: RefCell::new((now, now)),
            labels: Labels { none: "".into(), own: gateway.auth_label.as_str().into() },
            gateway,
        }
    }

    /// The numbers counted so far.
    pub(crate) fn tally(&self) -> Tally {
        let mut tally = self.tally.borrow().clone();
        let local = self.local.borrow();
        for (upstream, pool) in local.live.upstreams.iter().zip(&local.pools) {
            for (server, up) in pool.servers() {
                let key = (Label::clone(&upstream.name), server.into());
                *tally.servers_up.entry(key).or_default() += u64::from(up);
            }
        }
        tally
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
        let mut last = self.last_noted.borrow_mut();
        if now.duration_since(last.0) >= CLOSE_STALE {
            last.0 = now;
            self.local.borrow().pools.iter().for_each(|pool| pool.close_stale(now));
        }
        if now.duration_since(last.1) >= NOTE_SESSIONS {
            last.1 = now;
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
            *tally.decisions.entry(("deny", reason)).or_default() += 1;
        });
        if !over_tls {
            // Nothing depends on whether it arrives.
            let _ = stream.try_write(
                b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n",
            );
        }
    }

    /// Answers one request.
    pub(crate) async fn handle(
        self: Rc<Self>,
        connection: Rc<Connection>,
        Arrived { request, fields, flaw }: Arrived,
    ) -> Response<AnswerBody> {
        let local = self.snapshot();
        let resolved = local.live.trusted.client_addr(connection.peer, request.headers());
        let client_text = if resolved.client.0 == connection.peer {
            connection.peer_value.clone()
        } else {
            address_value(resolved.client.0)
        };
        let mut record = Record::new(
            Rc::clone(&self),
            Arc::clone(&connection.wire),
            self.gateway.clock.now(),
            (resolved.client.0, client_text),
            (request.method(), request.uri()),
        );
        record.request_id = Some(self.request_ids.id_of(request.headers(), record.time));
        record.user_agent = request.headers().get(USER_AGENT).cloned();
        if resolved.ignored_header {
            self.tally_mut(|tally| tally.ignored_forwarding_headers += 1);
            self.gateway.warn_of_ignored_header(connection.peer);
        }
        let get = |there: bool, name| there.then(|| request.headers().get(name)).flatten().cloned();
        let origin = get(fields.origin, &ORIGIN);
        let api_version = get(fields.api_version, &API_VERSION);
        let checked = flaw
            .map_or(Ok(()), |flaw| Err(HeadError::from(flaw)))
            .and_then(|()| head::check(&request, fields, connection.scheme == Scheme::Https));
        let outcome = match checked {
            Ok(()) => {
                self.answer(&local, &connection, resolved, &mut record, fields, request).await
            }
            Err(error) => Err(Error::from(error).into()),
        };
        let mut response = match outcome {
            Ok(response) => response,
            Err(Failed { error, headers }) => {
                error.log(record.request_id());
                // A request that was let through and then failed was not denied.
                let failed = matches!(error, Error::Forward(_) | Error::Internal(_));
                if record.decision != "own" && !failed {
                    record.decision = "deny";
                }
                record.reason = error.reason();
                let problem = error.problem();
                let mut response = problem.into_response(api_version, record.request_id());
                response.headers_mut().extend(headers);
                response.map(Source::Whole)
            }
        };
        local.live.cors.mark(origin.as_ref(), response.headers_mut());
        if let Some(id) = &record.request_id {
            response.headers_mut().insert(REQUEST_ID, id.value().clone());
        }
        record.status = response.status().as_u16();
        response.map(|source| AnswerBody::new(source, record))
    }

    /// The life of a request whose head is fine.
    async fn answer(
        self: &Rc<Self>,
        local: &Local,
        connection: &Connection,
        resolved: Resolved,
        record: &mut Record,
        fields: Fields,
        mut request: Request<Incoming>,
    ) -> Result<Answer, Failed> {
        let live = &local.live;
        let preflight = if fields.origin { cors::preflight(&request) } else { None };
        let preflight_permit =
            preflight.and_then(|asked| decide_preflight(&live.table, request.uri().path(), asked));
        if preflight.is_some() && preflight_permit.is_none() && live.cors.is_on() {
            (record.decision, record.reason) = ("own", "preflight");
            let answer = live.cors.answer_preflight(request.headers().get(ORIGIN));
            return Ok(answer.map(|()| Source::Whole(Bytes::new())));
        }
        let upgrade = fields.upgrade.then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let uri = parts.uri.clone();
        let decision = if let Some(permit) = preflight_permit {
            Decision::Permit(permit)
        } else {
            let certificate = connection.client_certificate.as_ref();
            decide_quietly(&live.table, &parts.method, uri.path(), certificate, |route| {
                self.credential(&parts.headers, route.issuers, record.time)
            })
        };
        let permit = match decision {
            Decision::Own => {
                (record.decision, record.reason) = ("own", "account");
                record.route = Label::clone(&self.labels.own);
                // Boxed: the state of account requests must not make that of all others larger.
                return Box::pin(self.answer_account(live, connection, record, parts, body)).await;
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
        self.note_permit(record, &permit);
        if self.gateway.is_stale() && permit.identity().is_some_and(|identity| identity.is_ours()) {
            return Err(Error::Unavailable("the ended sessions are not known").into());
        }
        let limited = self.hit_limits(live, record, &permit).await?;
        let asked = Asked { parts, body, upgrade, resolved };
        match self.forward(local, connection, record, &permit, asked).await {
            Ok(mut answer) => {
                if !limited.is_empty() {
                    answer.headers_mut().extend(limited);
                }
                Ok(answer)
            }
            Err(error) => Err(Failed { error, headers: limited }),
        }
    }

    fn snapshot(&self) -> Rc<Local> {
        let mut cache = self.live.borrow_mut();
        let live = cache.load();
        let mut local = self.local.borrow_mut();
        if !Arc::ptr_eq(live, &local.live) {
            *local = Rc::new(Local::new(Arc::clone(live)));
        }
        Rc::clone(&local)
    }

    fn credential(&self, headers: &HeaderMap, accepted: IssuerSet, now: Timestamp) -> Credential {
        Credential::of(headers, |token| {
            let now = now.as_second();
            let mut verifier = self.verifier.borrow_mut();
            let verifier = verifier.load();
            let revocations = &self.gateway.revocations;
            let identity =
                self.tokens.borrow_mut().verify(token, accepted, verifier, revocations, now)?;
            if let Some(session) = identity.session {
                let mut seen = self.seen.borrow_mut();
                if seen.len() < MAX_NOTED_SESSIONS {
                    seen.insert(session);
                }
            }
            Ok(identity)
        })
    }

    /// Counts the request under its route's limits.
    async fn hit_limits(
        &self,
        live: &Live,
        record: &mut Record,
        permit: &Permit<'_>,
    ) -> Result<HeaderMap, Failed> {
        let route = permit.route();
        if route.limits.is_empty() {
            return Ok(HeaderMap::new());
        }
        let caller = Caller {
            address: record.client,
            user: permit.identity().map(|id| (&*id.issuer_name, &*id.subject)),
            account: None,
            route: &route.name,
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
    fn note_refusal(&self, record: &Record, refusal: &Refusal) {
        let kind = match refusal {
            Refusal::OwnerMismatch { .. } => EventKind::OwnerMismatch,
            Refusal::BadToken(_) | Refusal::Denied | Refusal::MissingRole => {
                EventKind::AccessDenied
            }
            Refusal::BadPath(_)
            | Refusal::MalformedCredential
            | Refusal::MethodNotAllowed { .. }
            | Refusal::NoClientCertificate
            | Refusal::NoRoute
            | Refusal::NoToken => return,
        };
        self.gateway.events.note(event(record, kind, refusal.reason()));
    }

    fn note_permit(&self, record: &mut Record, permit: &Permit<'_>) {
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

/// An event of a proxied route.
pub(super) fn event(record: &Record, kind: EventKind, reason: &str) -> Event {
    let identity = record.identity.as_ref();
    Event {
        id: model::uuid_v7(record.time),
        at: record.time,
        kind,
        outcome: Outcome::Failure,
        reason: Some(reason.to_owned()),
        actor: None,
        user_id: identity.filter(|id| id.is_ours()).and_then(|id| id.subject.parse().ok()),
        email: None,
        session_id: identity.and_then(|identity| identity.session),
        address: Some(record.client),
        user_agent: record
            .user_agent
            .as_ref()
            .map(|value| model::clean_text(value.as_bytes(), 256)),
        request_id: Some(record.request_id().to_owned()),
    }
}

/// What is to be forwarded.
pub(super) struct Asked {
    pub(super) parts: http::request::Parts,
    pub(super) body: Incoming,
    /// The client's side of a tunnel, should it be granted.
    pub(super) upgrade: Option<hyper::upgrade::OnUpgrade>,
    pub(super) resolved: Resolved,
}

/// Bytes of body that follow a head, as far as the head says.
fn body_bytes(request: &Request<Incoming>, fields: Fields) -> u64 {
    if fields.upgrade {
        return CHUNKED;
    }
    if request.body().is_end_stream() {
        return 0;
    }
    request.body().size_hint().exact().unwrap_or(CHUNKED)
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
