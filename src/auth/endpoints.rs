//! The account endpoints: one `match` over method and path, and for each endpoint the same few
//! steps: count it, read it, have [`Accounts`] do it, shape the answer. Knows HTTP, but not how a
//! refusal is worded; that is `problem`.
//!
//! Limits are hit before a body is parsed or a password hashed: a flood costs counters, nothing
//! more. `Authorization` is looked at only where an endpoint needs it, as client libraries send
//! one on sign-up and login too.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::accounts::{Accounts, Bearer, Issued, LogoutScope, Origin};
use super::error::{AuthError, AuthFailure, OverLimit};
use super::input::{self, Fields};
use super::shapes;
use crate::config::{Config, LimitBy, Limits, Problem};
use crate::identity::caller::OURS;
use crate::identity::credential::{Carried, bearer};
use crate::identity::{IssuerSet, Rejection};
use crate::limit::{Basis, Caller, Decision, Limiter, Rule, rate_limit_fields};
use crate::model::{EventKind, SessionId, StoredEvent, UserId};

/// Every endpoint, with its path below the prefix. `HEAD` goes wherever `GET` goes.
pub const ENDPOINTS: &[(&str, &str)] = &[
    ("POST", "/signup"),
    ("POST", "/login"),
    ("POST", "/token"),
    ("POST", "/logout"),
    ("GET", "/user"),
    ("PUT", "/user"),
    ("GET", "/sessions"),
    ("DELETE", "/sessions/{id}"),
    ("GET", "/events"),
    ("GET", "/.well-known/jwks.json"),
    ("GET", "/settings"),
    ("GET", "/health"),
    ("GET", "/openapi.yaml"),
];

const OPENAPI: &str = include_str!("openapi.yaml");

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Ten minutes: new signing keys are listed longer than that before they sign.
const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=600");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Events on a page when the client names no number, and at most.
const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 200;

/// The account endpoints.
pub struct Auth {
    accounts: Accounts,
    limiter: Arc<Limiter>,
    rules: ArcSwap<Rules>,
}

/// A request below the prefix, whole.
pub struct AuthRequest {
    /// As sent.
    pub method: Method,
    /// After the prefix and an optional `/v1`: `/login`. Compared byte for byte.
    pub path: String,
    /// Without its `?`.
    pub query: Option<String>,
    /// As sent.
    pub headers: HeaderMap,
    /// At most 16 KiB.
    pub body: Bytes,
    /// The client, after trusted proxies.
    pub client: IpAddr,
    /// The request's id.
    pub request_id: String,
}

impl AuthRequest {
    fn origin(&self) -> Origin {
        let user_agent = self.headers.get(USER_AGENT).map(HeaderValue::as_bytes);
        Origin::new(self.client, user_agent, &self.request_id)
    }

    /// The one value of a query parameter.
    fn parameter(&self, name: &str) -> Result<Option<String>, AuthError> {
        let query = self.query.as_deref().unwrap_or_default();
        let mut values = form_urlencoded::parse(query.as_bytes())
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned());
        let value = values.next();
        if values.next().is_some() {
            return Err(AuthError::ValidationFailed(format!("`{name}` is given twice")));
        }
        Ok(value)
    }
}

/// An answer to a request that was not refused.
#[derive(Debug)]
pub struct AuthAnswer {
    /// 200, 201 or 204.
    pub status: StatusCode,
    /// Everything but the length.
    pub headers: HeaderMap,
    /// The body, also for `HEAD`.
    pub body: Bytes,
    /// Who asked or logged in, for the access log.
    pub user_id: Option<UserId>,
    /// In which session.
    pub session_id: Option<SessionId>,
}

impl AuthAnswer {
    fn new(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        let headers =
            HeaderMap::from_iter([(CONTENT_TYPE, content_type), (CACHE_CONTROL, NO_STORE)]);
        Self { status, headers, body: body.into(), user_id: None, session_id: None }
    }

    fn json(status: StatusCode, value: &Value) -> Self {
        Self::new(status, JSON, value.to_string())
    }

    fn no_content() -> Self {
        let mut answer = Self::new(StatusCode::NO_CONTENT, JSON, Bytes::new());
        answer.headers.remove(CONTENT_TYPE);
        answer
    }

    fn public(mut self) -> Self {
        self.headers.insert(CACHE_CONTROL, PUBLIC);
        self
    }
}

/// What a reload of the configuration changes here.
#[derive(Clone, Debug)]
pub struct Rules {
    signup_is_enabled: bool,
    signup: Rule,
    login: Rule,
    login_account: Rule,
    refresh: Rule,
}

impl Rules {
    /// Compiles `[signup]` and the four limits that are always there.
    ///
    /// # Errors
    /// What is wrong with the limits.
    pub fn compile(config: &Config) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut compiled = Limits::built_in().map(|(name, default)| {
            let limit = config.limits.0.get(name).unwrap_or(&default);
            Rule::compile(name, limit, config.counters.on_outage)
                .map_err(|problem| problems.push(problem))
                .ok()
        });
        let [signup, login, login_account, refresh] = compiled.each_mut().map(Option::take);
        match (signup, login, login_account, refresh) {
            (Some(signup), Some(login), Some(login_account), Some(refresh)) => {
                let signup_is_enabled = config.signup.enabled;
                Ok(Self { signup_is_enabled, signup, login, login_account, refresh })
            }
            _ => Err(problems),
        }
    }
}

/// What was learned of a request on the way to its answer.
#[derive(Default)]
struct Seen {
    decisions: Vec<(Rule, Decision)>,
    bearer: Option<Bearer>,
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
        let outcome = self.dispatch(request, &mut seen).await;
        let mut headers = seen.rate_limit_headers();
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

    async fn dispatch(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let method = match request.method.as_str() {
            "HEAD" => "GET",
            other => other,
        };
        match (method, request.path.as_str()) {
            ("POST", "/signup") => self.sign_up(request, seen).await,
            ("POST", "/login") => self.log_in(request, seen).await,
            ("POST", "/token") => match request.parameter("grant_type")?.as_deref() {
                Some("password") => self.log_in(request, seen).await,
                Some("refresh_token") => self.refresh(request, seen).await,
                _ => Err(AuthError::UnsupportedGrantType),
            },
            ("POST", "/logout") => self.log_out(&request, seen).await,
            ("GET", "/user") => self.user(&request, seen).await,
            ("PUT", "/user") => self.update_user(request, seen).await,
            ("GET", "/sessions") => self.sessions(&request, seen).await,
            ("DELETE", path) if let Some(id) = session_name(path) => {
                self.end_session(&request, id, seen).await
            }
            ("GET", "/events") => self.events(&request, seen).await,
            ("GET", "/.well-known/jwks.json") => Ok(self.jwks()),
            ("GET", "/settings") => Ok(self.settings()),
            ("GET", "/health") => Ok(AuthAnswer::json(StatusCode::OK, &shapes::health())),
            ("GET", "/openapi.yaml") => Ok(AuthAnswer::new(StatusCode::OK, YAML, OPENAPI).public()),
            (_, path) => Err(allowed_methods(path)
                .map_or(AuthError::NoRoute, |allow| AuthError::MethodNotAllowed { allow })),
        }
    }

    async fn sign_up(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let rules = self.rules.load_full();
        let (at_once, by_account) = split(&[&rules.signup]);
        let origin = request.origin();
        let caller = anonymous(request.client, &request.path);
        self.count(&at_once, caller, seen).await?;

        let fields = Fields::read(&request.headers, request.body)?;
        let tried = fields.peek("email").map(str::to_owned);
        let new = if rules.signup_is_enabled {
            input::SignUp::parse(fields, &self.accounts.policy).map_err(AuthError::from)
        } else {
            Err(AuthError::SignupDisabled)
        };
        let new = match new {
            Ok(new) => new,
            Err(error) => return self.refuse(EventKind::SignupFailed, tried, error, &origin).await,
        };
        let account = Some(new.email.key());
        self.count(&by_account, Caller { account, ..caller }, seen)
            .await
            .map_err(|error| error.with_email(new.email.address()))?;
        let issued = self.accounts.sign_up(new, &origin).await?;
        Ok(self.session(StatusCode::CREATED, &issued))
    }

    async fn log_in(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        let rules = self.rules.load_full();
        let (at_once, by_account) = split(&[&rules.login, &rules.login_account]);
        let origin = request.origin();
        let caller = anonymous(request.client, &request.path);
        self.count(&at_once, caller, seen).await?;

        let fields = Fields::read(&request.headers, request.body)?;
        let tried = fields.peek("email").map(str::to_owned);
        let login = match input::LogIn::parse(fields) {
            Ok(login) => login,
            Err(error) => {
                return self.refuse(EventKind::LoginFailed, tried, error.into(), &origin).await;
            }
        };
        let account = Some(login.email.key());
        self.count(&by_account, Caller { account, ..caller }, seen)
            .await
            .map_err(|error| error.with_email(login.email.address()))?;
        let issued = self.accounts.log_in(login, &origin).await?;
        Ok(self.session(StatusCode::OK, &issued))
    }

    async fn refresh(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let rules = self.rules.load_full();
        let origin = request.origin();
        let caller = anonymous(request.client, &request.path);
        self.count(&[&rules.refresh], caller, seen).await?;
        let refresh = input::Refresh::parse(Fields::read(&request.headers, request.body)?)?;
        let issued = self.accounts.refresh(&refresh, &origin).await?;
        Ok(self.session(StatusCode::OK, &issued))
    }

    async fn log_out(
        &self,
        request: &AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request.headers, seen)?;
        let scope = match request.parameter("scope")? {
            None => LogoutScope::Local,
            Some(word) => LogoutScope::from_word(&word).ok_or_else(|| {
                AuthError::ValidationFailed("`scope` is local, others or global".to_owned())
            })?,
        };
        self.accounts.log_out(&bearer, scope, &request.origin()).await?;
        Ok(AuthAnswer::no_content())
    }

    async fn user(&self, request: &AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request.headers, seen)?;
        let user = self.accounts.user(&bearer).await?;
        let body = shapes::user(&user, self.audience(), self.accounts.clock.now());
        Ok(AuthAnswer::json(StatusCode::OK, &body))
    }

    async fn update_user(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request.headers, seen)?;
        let origin = request.origin();
        let change = input::UpdateUser::parse(Fields::read(&request.headers, request.body)?)?;
        if change.password.is_some() || change.current_password.is_some() {
            // Whoever has stolen a token could guess the password here instead of at the login,
            // and whoever has any token could keep the hashing threads busy. Counted apart from
            // logins, so that strangers who guess there cannot get in the way.
            let rules = self.rules.load_full();
            let account = format!("password change of {}", bearer.user_id);
            let caller = Caller {
                address: request.client,
                user: Some((OURS, bearer.user_id.as_str())),
                account: Some(&account),
                route: &request.path,
            };
            self.count(&[&rules.login_account], caller, seen).await?;
        }
        let user = self.accounts.update_user(&bearer, change, &origin).await?;
        let body = shapes::user(&user, self.audience(), self.accounts.clock.now());
        Ok(AuthAnswer::json(StatusCode::OK, &body))
    }

    async fn sessions(
        &self,
        request: &AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request.headers, seen)?;
        let sessions = self.accounts.sessions(&bearer).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::sessions(&sessions, bearer.session_id)))
    }

    async fn end_session(
        &self,
        request: &AuthRequest,
        id: &str,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request.headers, seen)?;
        let id = id.parse().map_err(|_| AuthError::UnknownSession)?;
        self.accounts.end_session(&bearer, id, &request.origin()).await?;
        Ok(AuthAnswer::no_content())
    }

    async fn events(
        &self,
        request: &AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let bearer = self.bearer(&request.headers, seen)?;
        let limit = match request.parameter("limit")? {
            None => DEFAULT_PAGE,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_PAGE).contains(limit))
                .ok_or_else(|| {
                    AuthError::ValidationFailed(format!("`limit` is a number from 1 to {MAX_PAGE}"))
                })?,
        };
        let before = match request.parameter("before")? {
            None => None,
            Some(text) => Some(Place::parse(&text).ok_or_else(|| {
                AuthError::ValidationFailed("`before` is the `next` of another page".to_owned())
            })?),
        };
        // One more than asked for tells whether there is another page.
        let before = before.map(|Place { at, id }| (at, id));
        let mut events = self.accounts.events(&bearer, limit + 1, before).await?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let there_is_more = events.len() > limit;
        events.truncate(limit);
        let next = events.last().filter(|_| there_is_more).map(|last| Place::of(last).to_text());
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::events(&events, next.as_deref())))
    }

    fn jwks(&self) -> AuthAnswer {
        let now = self.accounts.clock.now();
        let keys = self.accounts.verifier.load().keys().jwks(now);
        AuthAnswer::new(StatusCode::OK, JSON, keys).public()
    }

    fn settings(&self) -> AuthAnswer {
        let signup_is_enabled = self.rules.load().signup_is_enabled;
        let body = shapes::settings(signup_is_enabled, &self.accounts.policy);
        AuthAnswer::json(StatusCode::OK, &body)
    }

    fn session(&self, status: StatusCode, issued: &Issued) -> AuthAnswer {
        let body = shapes::session(&issued.tokens, &issued.user, self.audience(), issued.at);
        AuthAnswer {
            user_id: Some(issued.user.id.clone()),
            session_id: Some(issued.session_id),
            ..AuthAnswer::json(status, &body)
        }
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
                return Err(AuthError::OverLimit(OverLimit { rule, decision, email: None }));
            }
        }
        Ok(())
    }

    /// Whose request it is: a token of ours, of a session that has not been ended.
    fn bearer(&self, headers: &HeaderMap, seen: &mut Seen) -> Result<Bearer, AuthError> {
        let token = match bearer(headers) {
            Ok(Carried::Token(token)) => token,
            Ok(Carried::Nothing | Carried::OtherScheme) => return Err(AuthError::NoAuthorization),
            Err(_) => return Err(AuthError::MalformedCredential),
        };
        let now = self.accounts.clock.now().as_second();
        let verifier = self.accounts.verifier.load();
        let identity = verifier.verify(token, IssuerSet::OURS, now).map_err(AuthError::BadJwt)?;
        let user_id = identity.subject.parse();
        let user_id = user_id.map_err(|_| AuthError::BadJwt(Rejection::Claim("sub")))?;
        let session_id = identity.session;
        let session_id = session_id.ok_or(AuthError::BadJwt(Rejection::Claim("session_id")))?;
        if self.accounts.revocations.contains(&session_id) {
            return Err(AuthError::SessionNotFound);
        }
        let bearer = Bearer { user_id, session_id };
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

fn anonymous(address: IpAddr, route: &str) -> Caller<'_> {
    Caller { address, user: None, account: None, route }
}

/// The value of `Allow` for a path that has an endpoint.
fn allowed_methods(path: &str) -> Option<String> {
    let matches = |template: &str| {
        path == template || template.ends_with("{id}") && session_name(path).is_some()
    };
    let mut allow = Vec::new();
    for &(method, template) in ENDPOINTS {
        if matches(template) {
            allow.push(method);
            if method == "GET" {
                allow.push("HEAD");
            }
        }
    }
    (!allow.is_empty()).then(|| allow.join(", "))
}

/// The last segment of `/sessions/{id}`; whether it names a session is for later.
fn session_name(path: &str) -> Option<&str> {
    path.strip_prefix("/sessions/").filter(|id| !id.is_empty() && !id.contains('/'))
}

/// A place in the order of events: what `before` and `next` stand for.
///
/// ```text
/// base64url( microseconds since 1970, 8 bytes big-endian ‖ event id, 16 bytes )
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    at: Timestamp,
    id: Uuid,
}

impl Place {
    fn of(stored: &StoredEvent) -> Self {
        Self { at: stored.event.at, id: stored.event.id }
    }

    fn to_text(self) -> String {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.at.as_microsecond().to_be_bytes());
        bytes[8..].copy_from_slice(self.id.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 24];
        // One longer text would not fit, a shorter one would not fill it.
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (at, id) = bytes.split_first_chunk::<8>()?;
        let at = Timestamp::from_microsecond(i64::from_be_bytes(*at)).ok()?;
        let id = Uuid::from_slice(id).ok()?;
        (length == 24).then_some(Self { at, id })
    }
}

#[cfg(test)]
mod tests;
