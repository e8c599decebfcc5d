//! The two ways a request is answered once its head is fine and the decision has fallen: by an
//! upstream, or by the account endpoints.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use super::desk::{Answer, Asked, Connection, Desk, Failed, Local, event};
use super::live::Live;
use super::record::{Record, Source};
use crate::auth::input::MAX_BODY_BYTES;
use crate::auth::{AuthError, AuthRequest, OverLimit};
use crate::model::{EventKind, clean_text};
use crate::problem::Error;
use crate::proxy::authorize::Permit;
use crate::proxy::body::{BodyLimits, BodyState, ClientBody};
use crate::proxy::forward::{ForwardError, ForwardLimits, forward};
use crate::proxy::headers::{Hop, prepare_response};
use crate::proxy::link::Link;
use crate::telemetry::tally::Label;
use crate::wire::Place;

/// Longest silence in the body of an account request; they are small.
const ACCOUNT_BODY_TIME: Duration = Duration::from_secs(10);

impl Desk {
    /// Has an upstream answer.
    pub(super) async fn forward(
        self: &Rc<Self>,
        local: &Local,
        connection: &Connection,
        record: &mut Record,
        permit: &Permit<'_>,
        asked: Asked,
    ) -> Result<Answer, Error> {
        let Asked { parts, body, upgrade, resolved } = asked;
        let Parts { method, uri, mut headers, .. } = parts;
        let route = permit.route();
        let upstream = &local.live.upstreams[permit.upstream().index];
        let request_id = record.request_id.clone().ok_or(Error::Internal("no request id"))?;
        let framing = local.live.headers.prepare_request(
            &mut headers,
            permit,
            &Hop {
                peer: &connection.peer_value,
                client: &record.client_text,
                trusted: resolved.peer_is_trusted,
                scheme: connection.scheme,
                client_certificate: connection.client_certificate.as_ref(),
                request_id: &request_id,
            },
        );
        if framing.content_length.is_some_and(|length| length > route.max_body_bytes) {
            return Err(Error::BodyTooLarge);
        }
        let tunnel_asked = framing.upgrade.filter(|_| upgrade.is_some());
        if let Some(protocol) = tunnel_asked {
            protocol.set(&mut headers);
        }
        let watch = &connection.wire.watch;
        let limits = BodyLimits {
            bytes: route.max_body_bytes,
            silence: local.live.body_timeout,
            upstream: permit.upstream().response_timeout,
        };
        let body = ClientBody::new(body, Rc::clone(&record.fate), Arc::clone(watch), limits);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = forwarded_uri(permit, uri)?;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = headers;
        if upstream.upstream_host {
            // The one that is missing is the server's own.
            request.headers_mut().remove(HOST);
        }
        let limits = ForwardLimits {
            response: permit.upstream().response_timeout,
            idle: permit.upstream().idle_timeout,
        };
        let began = Instant::now();
        let pool = &local.pools[permit.upstream().index];
        record.upstream = Some(Label::clone(&upstream.name));
        let forwarded = forward(permit, pool, request, &record.fate, watch, limits).await;
        record.upstream_time = Some(began.elapsed());
        let forwarded = forwarded?;
        record.server = Some(forwarded.server);
        record.upstream_status = Some(forwarded.response.status().as_u16());

        let mut response = forwarded.response;
        let agreed = prepare_response(response.headers_mut()).upgrade;
        if forwarded.tunnel.is_some() && agreed != tunnel_asked {
            return Err(ForwardError::Unasked.into());
        }
        if let (Some(tunnel), Some(upgrade), Some(protocol)) =
            (forwarded.tunnel, upgrade, tunnel_asked)
        {
            protocol.set(response.headers_mut());
            self.open_tunnel(upgrade, tunnel, Rc::clone(&connection.place));
        }
        Ok(response.map(Source::Upstream))
    }

    /// Joins client and upstream after both have agreed to another protocol.
    fn open_tunnel(self: &Rc<Self>, client: OnUpgrade, upstream: Link, place: Rc<Place>) {
        let desk = Rc::clone(self);
        self.tasks.spawn_local(async move {
            desk.tally_mut(|tally| tally.tunnels += 1);
            if let Ok(client) = client.await {
                let mut client = TokioIo::new(client);
                let (mut upstream, first) = upstream.into_tunnel();
                // Either end may break off; there is nobody to tell but the other end.
                if client.write_all(&first).await.is_ok() {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                }
            }
            desk.tally_mut(|tally| tally.tunnels -= 1);
            drop(place);
        });
    }

    /// Has the account endpoints answer. They run on the control runtime to their end, even when
    /// the client goes away: a half-done rotation of a refresh token would sign its user out.
    pub(super) async fn answer_account(
        &self,
        live: &Live,
        connection: &Connection,
        record: &mut Record,
        parts: Parts,
        body: Incoming,
    ) -> Result<Answer, Failed> {
        let request_id = record.request_id().to_owned();
        let body = self.read_account_body(connection, record, &parts, body).await?;
        let path = own_path(parts.uri.path(), &live.auth_prefix);
        let is_login = is_login(&parts, path);
        let request = AuthRequest {
            method: parts.method.clone(),
            path: path.to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers: parts.headers,
            body,
            client: record.client,
            request_id,
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
                record.account = (failure.user_id.map(|id| id.as_str().into()), failure.session_id);
                return Err(Failed { error: Error::Auth(failure.error), headers: failure.headers });
            }
        };
        record.account = (answer.user_id.map(|id| id.as_str().into()), answer.session_id);
        let body = if parts.method == Method::HEAD { Bytes::new() } else { answer.body.clone() };
        let mut response = Response::new(Source::Whole(body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        if parts.method == Method::HEAD {
            response.headers_mut().insert(CONTENT_LENGTH, answer.body.len().into());
        }
        Ok(response)
    }

    fn note_account_limit(&self, record: &Record, over: &OverLimit) {
        let rule = Label::from(over.rule.as_str());
        self.tally_mut(|tally| *tally.rate_limited.entry(rule).or_default() += 1);
        let mut event = event(record, EventKind::RateLimited, &over.rule);
        event.email = over.email.as_ref().map(|email| clean_text(email.as_bytes(), 254));
        self.gateway.events.note(event);
    }

    async fn read_account_body(
        &self,
        connection: &Connection,
        record: &Record,
        parts: &Parts,
        body: Incoming,
    ) -> Result<Bytes, Error> {
        let most = MAX_BODY_BYTES as u64;
        let declared = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        if declared.is_some_and(|length| length.parse().is_ok_and(|length: u64| length > most)) {
            return Err(Error::BodyTooLarge);
        }
        let watch = &connection.wire.watch;
        let limits =
            BodyLimits { bytes: most, silence: ACCOUNT_BODY_TIME, upstream: ACCOUNT_BODY_TIME };
        let mut body = ClientBody::new(body, Rc::clone(&record.fate), Arc::clone(watch), limits);
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                return Err(match record.fate.state.get() {
                    BodyState::TooLarge => Error::BodyTooLarge,
                    _ => Error::Forward(ForwardError::ClientBroke),
                });
            };
            if let Some(data) = frame.data_ref() {
                bytes.extend_from_slice(data);
            }
        }
        watch.upstream_acted();
        Ok(bytes.freeze())
    }
}

/// The target as the upstream gets it: path and query as they came, without a stripped prefix;
/// scheme and authority of an absolute form are not passed on.
fn forwarded_uri(permit: &Permit<'_>, uri: Uri) -> Result<Uri, Error> {
    let path = uri.path();
    let forwarded = permit.forwarded_path(path);
    if forwarded.len() == path.len() && uri.authority().is_none() {
        return Ok(uri);
    }
    let target = match uri.query() {
        None => PathAndQuery::try_from(forwarded),
        Some(query) => PathAndQuery::try_from(format!("{forwarded}?{query}")),
    };
    target.map(Uri::from).map_err(|_| Error::Internal("a checked path is no target"))
}

/// What follows the prefix and an optional `/v1`.
fn own_path<'p>(path: &'p str, prefix: &str) -> &'p str {
    let path = path.strip_prefix(prefix).unwrap_or(path);
    match path.strip_prefix("/v1") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => path,
    }
}

fn is_login(parts: &Parts, path: &str) -> bool {
    let by_password = || {
        let query = parts.uri.query().unwrap_or_default();
        form_urlencoded::parse(query.as_bytes())
            .any(|(name, value)| name == "grant_type" && value == "password")
    };
    parts.method == Method::POST && (path == "/login" || (path == "/token" && by_password()))
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
