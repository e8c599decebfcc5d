//! What is noted of one request from its arrival to the last byte of its answer. When a [`Record`]
//! is dropped, the access log gets its line and the numbers are counted. So no request goes
//! unnoted, not even one whose client has gone away.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use jiff::Timestamp;
use uuid::Uuid;

use super::desk::Desk;
use crate::identity::Identity;
use crate::message::{Known, RequestHead};
use crate::proxy::headers::RequestId;
use crate::proxy::pool::Server;
use crate::proxy::relay::{Failure, Traffic};
use crate::telemetry::access::Line;
use crate::telemetry::tally::Label;
use crate::wire::pace::Watch;

/// Status of a request whose client went away before it could be answered; only in logs and
/// metrics.
const CLIENT_CLOSED: u16 = 499;

/// One request.
pub(super) struct Record<'a> {
    desk: &'a Desk,
    watch: Arc<Watch>,
    pub(super) head: &'a RequestHead,
    started: Instant,
    /// When it arrived.
    pub(super) time: Timestamp,
    pub(super) client: IpAddr,
    /// The same as text.
    pub(super) client_text: &'a str,
    pub(super) request_id: RequestId,
    pub(super) route: Label,
    pub(super) decision: &'static str,
    pub(super) reason: &'static str,
    pub(super) identity: Option<Arc<Identity>>,
    /// Of an account request, where no token names them.
    pub(super) account: (Option<Box<str>>, Option<Uuid>),
    /// The upstream's name, once a request is on its way to it.
    pub(super) upstream: Option<Label>,
    /// Which of its servers answered.
    pub(super) server: Option<Rc<Server>>,
    pub(super) upstream_status: Option<u16>,
    pub(super) upstream_time: Option<Duration>,
    /// 0 until there is an answer.
    pub(super) status: u16,
    /// What has passed of its bodies.
    pub(super) traffic: &'a Traffic,
}

impl<'a> Record<'a> {
    /// A request that has just arrived from `client`.
    pub(super) fn new(
        desk: &'a Desk,
        watch: &Arc<Watch>,
        head: &'a RequestHead,
        client: (IpAddr, &'a str),
        time: Timestamp,
        request_id: RequestId,
        traffic: &'a Traffic,
    ) -> Self {
        desk.tally_mut(|tally| tally.in_flight += 1);
        Self {
            desk,
            watch: Arc::clone(watch),
            head,
            started: Instant::now(),
            time,
            client: client.0,
            client_text: client.1,
            request_id,
            route: desk.no_route(),
            decision: "deny",
            reason: "client_closed",
            identity: None,
            account: (None, None),
            upstream: None,
            server: None,
            upstream_status: None,
            upstream_time: None,
            status: 0,
            traffic,
        }
    }

    /// The request's id as text.
    pub(super) fn request_id(&self) -> &str {
        self.request_id.as_str()
    }

    /// What the client calls itself.
    pub(super) fn user_agent(&self) -> Option<&'a [u8]> {
        self.head.fields().first(Known::UserAgent)
    }

    /// The answer had to be cut off.
    pub(super) fn note_cut(&mut self, failure: &Failure) {
        self.reason = match failure {
            Failure::Upstream(_) => "upstream_broke_off",
            Failure::Late => "upstream_fell_silent",
            Failure::OverTime => "over_time",
            Failure::TooLarge => "body_too_large",
            Failure::Client(_) | Failure::TooSlow => "client_closed",
        };
        let (request_id, error) = (self.request_id(), crate::telemetry::chain(failure));
        if self.reason.starts_with("upstream") {
            tracing::warn!(request_id, error, "an answer was cut off");
        } else {
            tracing::debug!(request_id, error, "an answer was cut off");
        }
    }

    fn finish(&self) {
        let (status, reason) = match self.status {
            0 if self.watch.client_is_late() => (CLIENT_CLOSED, "client_too_slow"),
            0 => (CLIENT_CLOSED, "client_closed"),
            status => (status, self.reason),
        };
        let duration = self.started.elapsed();
        self.desk.tally_mut(|tally| {
            tally.in_flight -= 1;
            let route = tally.routes.entry(Label::clone(&self.route)).or_default();
            route.count(known_method(&self.head.method), status, 1);
            route.durations.observe(duration);
            tally.decide((self.decision, reason), 1);
            if let (Some(name), Some(time)) = (&self.upstream, self.upstream_time) {
                tally.upstream_durations.entry(Label::clone(name)).or_default().observe(time);
            }
        });
        let identity = self.identity.as_deref();
        let session_id =
            identity.and_then(|identity| identity.headers.session.as_ref()?.to_str().ok());
        let account_session = self.account.1.map(|session| session.to_string());
        self.desk.access.note(&Line {
            time: self.time,
            request_id: self.request_id.as_bytes(),
            client: self.client_text,
            method: self.head.method.as_str(),
            path: self.head.path_bytes(),
            route: &self.route,
            status,
            decision: self.decision,
            reason,
            user_id: (identity.map(|identity| &*identity.subject)).or(self.account.0.as_deref()),
            session_id: session_id.or(account_session.as_deref()),
            upstream: (self.server.as_ref().map(|server| &*server.authority))
                .or(self.upstream.as_deref()),
            upstream_status: self.upstream_status,
            bytes_in: self.traffic.up.get(),
            bytes_out: self.traffic.down.get(),
            duration,
            upstream_time: self.upstream_time,
            user_agent: self.user_agent(),
        });
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A method as a metric's label: clients must not make labels.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
