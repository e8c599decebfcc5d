//! The two ways a request is answered once its head is fine and the decision has fallen: by an
//! upstream, or by the account endpoints.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::HeaderMap;
use http::{Method, Response};

use super::desk::{Answered, Connection, Desk, Failed, Local, event};
use super::live::Live;
use super::record::Record;
use crate::auth::input::MAX_BODY_BYTES;
use crate::auth::{AuthError, AuthRequest, OverLimit};
use crate::identity::address::Resolved;
use crate::identity::site::Arrival;
use crate::message::{BodyLength, FieldSink, Known, Piece, RequestHead};
use crate::model::{Event, EventKind, clean_text};
use crate::problem::Error;
use crate::proxy::authorize::Permit;
use crate::proxy::forward::{Ended, ForwardError, Outbound, TunnelTerms, Words, forward};
use crate::proxy::headers::{Hop, is_known_by_cookie, keep_private, write_response};
use crate::proxy::origin::Answer;
use crate::proxy::pool::{Ask, Server};
use crate::proxy::relay::Limits;
use crate::proxy::subprotocol;
use crate::telemetry::tally::Label;
use crate::wire::{AnswerBody, Client};

/// Time for the body of an account request; they are small.
const ACCOUNT_BODY_TIME: Duration = Duration::from_secs(10);

/// A request that is passed to an upstream.
pub(super) struct Passing<'a> {
    pub(super) desk: &'a Desk,
    pub(super) local: &'a Local,
    pub(super) connection: &'a Connection,
    pub(super) resolved: Resolved,
    pub(super) permit: &'a Permit<'a>,
}

impl Passing<'_> {
    /// Has an upstream answer. `limited` are the fields of the limits that were counted.
    pub(super) async fn forward<C: Client>(
        &self,
        client: &mut C,
        record: &mut Record<'_>,
        limited: &HeaderMap,
    ) -> Result<(), Error> {
        let head = record.head;
        let route = self.permit.route();
        let target = self.permit.upstream();
        let upstream = &self.local.live.upstreams[target.index];
        if matches!(head.body, BodyLength::Exactly(length) if length > route.max_body_bytes) {
            return Err(Error::BodyTooLarge);
        }
        // Only one way of balancing asks for it, but it is there anyway.
        let user = match self.permit.identity() {
            Some(identity) => &*identity.subject,
            None => record.client_text,
        };
        let asked_at = Instant::now();
        let request = Outbound {
            head,
            asked_at,
            path: self.permit.forwarded_path(head.path_bytes()),
            host: if upstream.upstream_host { None } else { head.fields().first(Known::Host) },
            ask: Ask { user: Some(user), connect_timeout: target.connect_timeout },
            policy: &self.local.live.headers,
            limits: Limits {
                body_bytes: route.max_body_bytes,
                silence: self.local.live.body_timeout,
                response: target.response_timeout,
                idle: target.idle_timeout,
            },
            total: target.total_timeout,
        };
        let pool = &self.local.pools[target.index];
        record.upstream = Some(Label::clone(&upstream.state.name));
        let traffic = record.traffic;
        let mut wording = Wording { passing: self, record, limited, asked_at };
        let ended = forward(self.permit, pool, client, &request, traffic, &mut wording).await;
        client.watch().limit_total(None);
        match ended {
            Ok(Ended::Whole) => Ok(()),
            Ok(Ended::Cut(failure)) => {
                record.note_cut(&failure);
                Ok(())
            }
            Err(error) => {
                record.upstream_time = Some(asked_at.elapsed());
                if let ForwardError::ClientGone = error {
                    // There is nobody to answer; the record says so when it is dropped.
                    client.abort();
                    return Ok(());
                }
                Err(error.into())
            }
        }
    }
}

/// Words what is passed on.
struct Wording<'w, 'a, 'r> {
    passing: &'w Passing<'a>,
    record: &'w mut Record<'r>,
    limited: &'w HeaderMap,
    asked_at: Instant,
}

impl<C: Client> Words<C> for Wording<'_, '_, '_> {
    fn request(&self, out: &mut impl FieldSink) {
        let Passing { local, connection, resolved, permit, .. } = self.passing;
        let head = self.record.head;
        let hop = Hop {
            peer: &connection.peer_text,
            client: self.record.client_text,
            trusted: resolved.peer_is_trusted,
            scheme: connection.scheme,
            version: head.version,
            client_certificate: connection.client_certificate.as_ref(),
            request_id: &self.record.request_id,
        };
        local.live.headers.write_request(head.fields(), permit, &hop, out);
    }

    fn interim(&mut self, client: &mut C, answer: &Answer<'_>) {
        // RFC 9110 §15.2.1: leave to go on is between neighbours; the client has ours.
        if answer.status == 100 {
            return;
        }
        if let Some(out) = client.begin_interim(answer.status) {
            write_response(answer.fields, |_| false, out);
            client.end_interim();
        }
    }

    fn answer(&mut self, client: &mut C, answer: &Answer<'_>, declared: Option<u64>) {
        let live = &self.passing.local.live;
        let record = &mut *self.record;
        record.upstream_time = Some(self.asked_at.elapsed());
        record.upstream_status = Some(answer.status);
        record.status = answer.status;
        let out = client.begin_answer(answer.status);
        write_response(answer.fields, |known| live.cors.replaces(known), out);
        if is_known_by_cookie(record.head.fields(), self.passing.permit) {
            keep_private(answer.fields, out);
        }
        for (name, value) in self.limited {
            out.field(name.as_str().as_bytes(), value.as_bytes());
        }
        self.passing.desk.write_ours(live, record, answer.fields.has(Known::Date), out);
        let body = match (answer.status, answer.length) {
            (101, _) => {
                let fields = record.head.fields();
                let agreed = answer.fields.has(Known::WebSocketProtocol);
                let by_token = self.passing.permit.route().websocket_token;
                if by_token
                    && !agreed
                    && let Some(ours) = subprotocol::ours(fields)
                {
                    out.field(b"sec-websocket-protocol", &ours);
                }
                AnswerBody::Tunnel
            }
            (204, _) => AnswerBody::Nothing,
            (status, _) if record.head.method == Method::HEAD || status == 304 => {
                declared.map_or(AnswerBody::Nothing, AnswerBody::Declared)
            }
            (_, Some(length)) => AnswerBody::Length(length),
            (_, None) => AnswerBody::Streamed,
        };
        client.end_answer_head(body);
    }

    fn tunnel(&mut self) -> Option<TunnelTerms> {
        let Passing { desk, local, permit, .. } = self.passing;
        let gateway = Arc::clone(&desk.gateway);
        let place = TunnelPlace::take(&gateway.tunnels, local.live.max_tunnels)?;
        let identity = permit.identity().cloned();
        let outlives = permit.route().tunnel_outlives_token;
        let may_go_on = move || {
            let Some(identity) = identity.as_ref().filter(|_| !outlives) else { return true };
            let now = gateway.clock.now();
            let alive = identity.revoked_by().is_none_or(|id| !gateway.revocations.contains(&id));
            let has_key = gateway.api_keys.stand_behind(identity, now);
            // A signing key may have been ended in an emergency since.
            let keys = Arc::clone(gateway.verifier.load().keys());
            let second = now.as_second();
            let is_signed = identity.key.as_ref().is_none_or(|kid| keys.accepts(kid, second));
            alive && has_key && is_signed && identity.is_current(second)
        };
        Some(TunnelTerms {
            idle: local.live.tunnel_idle_timeout,
            drain: local.live.tunnel_drain_timeout,
            may_go_on: Box::new(may_go_on),
            place: Box::new(place),
        })
    }

    fn asked(&mut self, server: &Rc<Server>) {
        self.record.server = Some(Rc::clone(server));
    }
}

/// One of the tunnels that may be open.
struct TunnelPlace(Arc<AtomicUsize>);

impl TunnelPlace {
    fn take(open: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(open));
        // Counted first, so that two that come at once cannot both have the last place.
        (open.fetch_add(1, Relaxed) < most).then_some(place)
    }
}

impl Drop for TunnelPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Desk {
    /// Has the account endpoints answer. They run on the control runtime to their end, even when
    /// the client goes away: a half-done rotation of a refresh token would sign its user out.
    pub(super) async fn answer_account<C: Client>(
        &self,
        live: &Live,
        client: &mut C,
        arrival: Arrival,
        record: &mut Record<'_>,
    ) -> Result<Answered, Failed> {
        let head = record.head;
        let body = read_account_body(client, record).await?;
        let path = own_path(head.path(), &live.auth_prefix);
        let at_root = !head.path().starts_with(&live.auth_prefix);
        let is_login = !at_root && is_login(head, path);
        let request = AuthRequest {
            method: head.method.clone(),
            path: path.to_owned(),
            at_root,
            query: head.query().map(str::to_owned),
            headers: head.fields().to_header_map(),
            body,
            client: record.client,
            page: live.sites.page(head.fields(), arrival),
            request_id: record.request_id().to_owned(),
        };
        let auth = Arc::clone(&self.gateway.auth);
        let outcome = self.gateway.control.spawn(async move { auth.answer(request).await }).await;
        let outcome = outcome.map_err(|_| Error::Internal("an account request panicked"))?;
        if is_login {
            let word = login_outcome(outcome.as_ref().err().map(|failure| &failure.error));
            self.tally_mut(|tally| *tally.logins.entry(word).or_default() += 1);
        }
        let answer = match outcome {
            Ok(answer) => answer,
            Err(failure) => {
                if let AuthError::OverLimit(over) = &failure.error {
                    self.note_account_limit(record, over);
                }
                if matches!(failure.error, AuthError::NotAdmin) {
                    // Whoever tries this may try it often: such events are bounded, and may be lost.
                    self.gateway.events.note(Event {
                        user_id: failure.user_id.clone(),
                        session_id: failure.session_id,
                        ..event(record, EventKind::AccessDenied, failure.error.code())
                    });
                }
                record.account = (failure.user_id.map(|id| id.as_str().into()), failure.session_id);
                return Err(Failed { error: Error::Auth(failure.error), headers: failure.headers });
            }
        };
        record.account = (answer.user_id.map(|id| id.as_str().into()), answer.session_id);
        let mut response = Response::new(answer.body);
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(Answered::Own(response))
    }

    fn note_account_limit(&self, record: &Record<'_>, over: &OverLimit) {
        let rule = Label::from(over.rule.as_str());
        self.tally_mut(|tally| *tally.rate_limited.entry(rule).or_default() += 1);
        let mut event = event(record, EventKind::RateLimited, &over.rule);
        event.email = over.email.as_ref().map(|email| clean_text(email.as_bytes(), 254));
        self.gateway.events.note(event);
    }
}

async fn read_account_body<C: Client>(client: &mut C, record: &Record<'_>) -> Result<Bytes, Error> {
    if matches!(record.head.body, BodyLength::Exactly(length) if length > MAX_BODY_BYTES as u64) {
        return Err(Error::BodyTooLarge);
    }
    let mut bytes = BytesMut::new();
    std::future::poll_fn(|cx| {
        loop {
            let Poll::Ready(piece) = client.poll_body(cx) else {
                client.watch().keep_expecting_client(ACCOUNT_BODY_TIME);
                return Poll::Pending;
            };
            match piece {
                Ok(Piece::Data(n)) => {
                    if bytes.len() + n > MAX_BODY_BYTES {
                        return Poll::Ready(Err(Error::BodyTooLarge));
                    }
                    bytes.extend_from_slice(&client.piece()[..n]);
                    client.take_piece(n);
                    record.traffic.up.set(bytes.len() as u64);
                }
                Ok(Piece::End) => return Poll::Ready(Ok(())),
                Err(_) => return Poll::Ready(Err(Error::Forward(ForwardError::ClientBroke))),
            }
        }
    })
    .await?;
    client.watch().client_acted();
    Ok(bytes.freeze())
}

/// What follows the prefix and an optional `/v1`.
fn own_path<'p>(path: &'p str, prefix: &str) -> &'p str {
    let path = path.strip_prefix(prefix).unwrap_or(path);
    match path.strip_prefix("/v1") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => path,
    }
}

fn is_login(head: &RequestHead, path: &str) -> bool {
    let by_password = || {
        let query = head.query().unwrap_or_default();
        form_urlencoded::parse(query.as_bytes())
            .any(|(name, value)| name == "grant_type" && value == "password")
    };
    head.method == Method::POST && (path == "/login" || (path == "/token" && by_password()))
}

fn login_outcome(error: Option<&AuthError>) -> &'static str {
    match error {
        None => "success",
        Some(AuthError::OverLimit(_)) => "limited",
        Some(AuthError::Busy { .. } | AuthError::Unavailable { .. }) => "unavailable",
        Some(AuthError::InvalidCredentials) => "failure",
        Some(_) => "invalid",
    }
}
