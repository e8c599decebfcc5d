//! A request to an account endpoint and its answer, without the connection they come and go by.

use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::Value;

use crate::auth::accounts::Origin;
use crate::auth::error::AuthError;
use crate::identity::Page;
use crate::model::{SessionId, UserId};

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Ten minutes: new signing keys are listed longer than that before they sign.
const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=600");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A request below the prefix, whole.
pub struct AuthRequest {
    /// As sent.
    pub method: Method,
    /// After the prefix and an optional `/v1`: `/login`. Compared byte for byte.
    pub path: String,
    /// Whether `path` is a whole one, outside the prefix: a document at the root of the host.
    pub at_root: bool,
    /// Without its `?`.
    pub query: Option<String>,
    /// As sent.
    pub headers: HeaderMap,
    /// At most 16 KiB.
    pub body: Bytes,
    /// The client, after trusted proxies.
    pub client: IpAddr,
    /// What is known of the page that it comes from.
    pub page: Page,
    /// The request's id.
    pub request_id: String,
}

impl AuthRequest {
    pub(super) fn origin(&self) -> Origin {
        let user_agent = self.headers.get(USER_AGENT).map(HeaderValue::as_bytes);
        Origin::new(self.client, user_agent, &self.request_id)
    }

    /// The part of the path between two slashes, counted from 0. There where the endpoint's own
    /// path has one.
    pub(super) fn segment(&self, number: usize) -> &str {
        self.path.split('/').nth(number + 1).unwrap_or_default()
    }

    /// The one value of a query parameter. Without NUL, which no database takes.
    pub(super) fn parameter(&self, name: &str) -> Result<Option<String>, AuthError> {
        let query = self.query.as_deref().unwrap_or_default();
        let mut values = form_urlencoded::parse(query.as_bytes())
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned());
        let value = values.next();
        if values.next().is_some() {
            return Err(AuthError::ValidationFailed(format!("`{name}` is given twice")));
        }
        if value.as_ref().is_some_and(|value| value.contains('\0')) {
            return Err(AuthError::ValidationFailed(format!("`{name}` must not contain NUL")));
        }
        Ok(value)
    }

    /// The same, of which an empty value is none: client libraries send `page=` and the like for
    /// what nobody has set.
    pub(super) fn filled_parameter(&self, name: &str) -> Result<Option<String>, AuthError> {
        Ok(self.parameter(name)?.filter(|value| !value.is_empty()))
    }
}

/// An answer to a request that was not refused.
pub struct AuthAnswer {
    /// 200, 201, 204, 303; 400 for a page; 400 and 401 for OAuth's own refusals.
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

/// Headers and body may hold tokens.
impl fmt::Debug for AuthAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl AuthAnswer {
    pub(super) fn new(
        status: StatusCode,
        content_type: HeaderValue,
        body: impl Into<Bytes>,
    ) -> Self {
        let headers =
            HeaderMap::from_iter([(CONTENT_TYPE, content_type), (CACHE_CONTROL, NO_STORE)]);
        Self { status, headers, body: body.into(), user_id: None, session_id: None }
    }

    pub(super) fn json(status: StatusCode, value: &Value) -> Self {
        Self::new(status, JSON, value.to_string())
    }

    pub(super) fn no_content() -> Self {
        let mut answer = Self::new(StatusCode::NO_CONTENT, JSON, Bytes::new());
        answer.headers.remove(CONTENT_TYPE);
        answer
    }

    pub(super) fn public(mut self) -> Self {
        self.headers.insert(CACHE_CONTROL, PUBLIC);
        self
    }
}
