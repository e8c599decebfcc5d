//! The account endpoints: a table for each area of them, and for each endpoint the same few steps:
//! count it, read it, have [`Accounts`] do it, shape the answer. Knows HTTP, but not how a refusal
//! is worded; that is `problem`.
//!
//! Limits are hit before a body is parsed or a password hashed: a flood costs counters, nothing
//! more. Those that need to know more come after one look-up: whether a refresh token is good, from
//! where an account is known. `Authorization` is looked at only where an endpoint needs it, as
//! client libraries send one on sign-up and login too.

mod account;
mod activity;
mod admin;
mod api_keys;
mod cookies;
mod factors;
mod links;
mod oauth;
mod place;
mod public;
mod request;
mod rules;

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::accounts::{Accounts, Bearer, Issued, Keeper, Origin};
use super::error::{AuthError, AuthFailure, OverLimit};
use super::shapes;
use crate::config::LimitBy;
use crate::identity::api_keys::is_api_key;
use crate::identity::cookies::ACCESS;
use crate::identity::credential::{Carried, Elsewhere, bearer};
use crate::identity::site::acts;
use crate::identity::{IssuerSet, Rejection};
use crate::limit::{Basis, Caller, Decision, Limiter, Rule, rate_limit_fields};
use crate::model::EventKind;

pub use request::{AuthAnswer, AuthRequest};
pub use rules::Rules;

/// The endpoints, area by area.
const AREAS: &[&[Endpoint]] = &[
    // Where two would answer a request, the first does.
    account::ENDPOINTS,
    activity::ENDPOINTS,
    api_keys::ENDPOINTS,
    factors::ENDPOINTS,
    links::ENDPOINTS,
    oauth::ENDPOINTS,
    public::ENDPOINTS,
];

fn all_endpoints() -> impl Iterator<Item = &'static Endpoint> {
    AREAS.iter().copied().chain(admin::AREAS).flatten()
}

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Every endpoint: its method, and its path below the prefix. `HEAD` goes wherever `GET` goes.
pub fn endpoints() -> impl Iterator<Item = (&'static str, &'static str)> {
    all_endpoints().map(|endpoint| (endpoint.method, endpoint.path))
}

/// An entry in the table of an area.
struct Endpoint {
    method: &'static str,
    /// `{id}` and the like stand for one segment, whatever it holds but nothing.
    path: &'static str,
    handler: Handler,
}

type Handler =
    for<'a> fn(&'a Auth, AuthRequest, &'a mut Seen) -> BoxFuture<'a, Result<AuthAnswer, AuthError>>;

impl Endpoint {
    const fn new(method: &'static str, path: &'static str, handler: Handler) -> Self {
        Self { method, path, handler }
    }

    fn is_at(&self, path: &str) -> bool {
        let (mut own, mut given) = (self.path.split('/'), path.split('/'));
        loop {
            match (own.next(), given.next()) {
                (None, None) => return true,
                (Some(own), Some(given))
                    if own == given || own.starts_with('{') && !given.is_empty() => {}
                _ => return false,
            }
        }
    }
}

/// What answers a method at a path.
fn handler(method: &Method, path: &str) -> Result<Handler, AuthError> {
    let method = match method.as_str() {
        "HEAD" => "GET",
        other => other,
    };
    let mut allow = Vec::new();
    for endpoint in all_endpoints().filter(|endpoint| endpoint.is_at(path)) {
        if endpoint.method == method {
            return Ok(endpoint.handler);
        }
        allow.push(endpoint.method);
        if endpoint.method == "GET" {
            allow.push("HEAD");
        }
    }
    if allow.is_empty() {
        return Err(AuthError::NoRoute);
    }
    Err(AuthError::MethodNotAllowed { allow: allow.join(", ") })
}

/// The account endpoints.
pub struct Auth {
    accounts: Accounts,
    limiter: Arc<Limiter>,
    rules: ArcSwap<Rules>,
}

/// What was learned of a request on the way to its answer.
#[derive(Default)]
struct Seen {
    decisions: Vec<(Rule, Decision)>,
    bearer: Option<Bearer>,
    /// Whether the bearer's token came in a cookie.
    by_cookie: bool,
    /// Lines of `Set-Cookie`.
    cookies: Vec<HeaderValue>,
}

impl Seen {
    /// `RateLimit` and `RateLimit-Policy`.
    fn rate_limit_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let decisions: Vec<_> = self.decisions.iter().map(|(rule, d)| (rule, *d)).collect();
        if let Some(fields) = rate_limit_fields(&decisions) {
            for (name, text) in
                [(RATE_LIMIT, fields.rate_limit), (RATE_LIMIT_POLICY, fields.policy)]
            {
                if let Ok(value) = HeaderValue::try_from(text) {
                    headers.insert(name, value);
                }
            }
        }
        headers
    }
}

impl Auth {
    /// The endpoints for `accounts`.
    pub fn new(accounts: Accounts, limiter: Arc<Limiter>, rules: Rules) -> Self {
        Self { accounts, limiter, rules: ArcSwap::from_pointee(rules) }
    }

    /// Takes the rules of a new configuration. Requests that have begun go on with the old ones.
    pub fn reload(&self, rules: Rules) {
        self.accounts.sessions.store(Arc::clone(&rules.sessions));
        self.rules.store(Arc::new(rules));
    }

    /// The service behind the endpoints.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Answers a request. Must be driven to its end, also when the client goes away.
    ///
    /// # Errors
    /// The refusal, with the headers that its answer has beside the problem document's own.
    pub async fn answer(&self, request: AuthRequest) -> Result<AuthAnswer, AuthFailure> {
        let mut seen = Seen::default();
        let handler = if request.at_root {
            self.root_handler(&request)
        } else {
            handler(&request.method, &request.path)
        };
        let outcome = match handler {
            Ok(handler) => handler(self, request, &mut seen).await,
            Err(error) => Err(error),
        };
        let mut headers = seen.rate_limit_headers();
        for cookie in seen.cookies {
            headers.append(SET_COOKIE, cookie);
        }
        let (user_id, session_id) =
            seen.bearer.map(|bearer| (bearer.user_id, bearer.session_id)).unzip();
        match outcome {
            Ok(mut answer) => {
                answer.headers.extend(headers);
                answer.user_id = answer.user_id.or(user_id);
                answer.session_id = answer.session_id.or(session_id);
                Ok(answer)
            }
            Err(error) => {
                if let AuthError::MethodNotAllowed { allow } = &error
                    && let Ok(allow) = HeaderValue::try_from(allow)
                {
                    headers.insert(ALLOW, allow);
                }
                Err(AuthFailure { error, headers, user_id, session_id })
            }
        }
    }

    fn session(
        &self,
        status: StatusCode,
        issued: &Issued,
        keeper: Keeper,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let mut body = shapes::session(&issued.tokens, &issued.user, self.audience(), issued.at);
        if keeper == Keeper::Browser {
            self.set_cookies(issued, seen)?;
            body = shapes::without_tokens(body);
        }
        Ok(AuthAnswer {
            user_id: Some(issued.user.id.clone()),
            session_id: Some(issued.session_id),
            ..AuthAnswer::json(status, &body)
        })
    }

    fn audience(&self) -> &str {
        &self.accounts.tokens.audience
    }

    /// Stores that a sign-up or login was refused, then refuses it.
    async fn refuse(
        &self,
        kind: EventKind,
        tried: Option<String>,
        error: AuthError,
        origin: &Origin,
    ) -> Result<AuthAnswer, AuthError> {
        self.accounts.record_refusal(kind, tried.as_deref(), error.code(), origin).await?;
        Err(error)
    }

    /// Counts a request under each of the rules, until one is over its limit.
    async fn count(
        &self,
        rules: &[&Rule],
        caller: Caller<'_>,
        seen: &mut Seen,
    ) -> Result<(), AuthError> {
        let hits: Vec<_> = rules.iter().map(|&rule| (rule, rule.key(&caller))).collect();
        for (rule, decision) in self.limiter.hit_all(hits).await {
            seen.decisions.push((rule.clone(), decision));
            if decision.basis == Basis::Unavailable {
                let retry_after = decision.retry_after;
                return Err(AuthError::Unavailable { retry_after, source: CountersAway.into() });
            }
            if !decision.allowed {
                let rule = rule.name().to_string();
                let retry_after = decision.retry_after;
                return Err(AuthError::OverLimit(OverLimit { rule, retry_after, email: None }));
            }
        }
        Ok(())
    }

    /// Whose request it is: a token of ours, of a session that has not been ended.
    fn bearer(&self, request: &AuthRequest, seen: &mut Seen) -> Result<Bearer, AuthError> {
        let cookie = self.cookie(request, ACCESS)?;
        seen.by_cookie = cookie.is_some();
        if seen.by_cookie && acts(&request.method, false) {
            cookies::must_be_ours(request)?;
        }
        let elsewhere = Elsewhere { cookie, ..Elsewhere::default() };
        let token = match bearer(&request.headers, elsewhere) {
            Ok(Carried::Token(token)) if is_api_key(token) => {
                return Err(AuthError::ApiKeyNotAccepted);
            }
            Ok(Carried::Token(token)) => token,
            Ok(Carried::Nothing | Carried::OtherScheme) => return Err(AuthError::NoAuthorization),
            Err(_) => return Err(AuthError::MalformedCredential),
        };
        let now = self.accounts.clock.now().as_second();
        let verifier = self.accounts.verifier.load();
        let identity = verifier.verify(token, IssuerSet::OURS, now).map_err(AuthError::BadJwt)?;
        if identity.machine.is_some() {
            return Err(AuthError::ApiKeyNotAccepted);
        }
        let user_id = identity.subject.parse();
        let user_id = user_id.map_err(|_| AuthError::BadJwt(Rejection::Claim("sub")))?;
        let session_id = identity.session;
        let session_id = session_id.ok_or(AuthError::BadJwt(Rejection::Claim("session_id")))?;
        if self.accounts.revocations.contains(&session_id) {
            return Err(AuthError::SessionNotFound);
        }
        let bearer = Bearer { user_id, session_id, aal: identity.assurance.aal };
        seen.bearer = Some(bearer.clone());
        Ok(bearer)
    }
}

/// `on_outage = "deny"`, and the counters are away.
#[derive(Debug, thiserror::Error)]
#[error("the rate counters are unavailable")]
struct CountersAway;

/// The rules that can be hit before a body is read, and those that count by what it names.
fn split<'r>(rules: &[&'r Rule]) -> (Vec<&'r Rule>, Vec<&'r Rule>) {
    rules.iter().partition(|rule| rule.by() != LimitBy::Account)
}

#[cfg(test)]
mod tests;
