//! Every failure that a client can meet, and the one `match` that gives each its answer: a problem
//! document (RFC 9457) whose `code` is stable. What a client is told of a 5xx is constant; the
//! cause goes to the log once, with the request id that the client was shown.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use serde_json::json;

use crate::auth::AuthError;
use crate::identity::Rejection;
use crate::limit::Decision;
use crate::message::HeadError;
use crate::proxy::authorize::Refusal;
use crate::proxy::forward::ForwardError;
use crate::proxy::pool::LeaseError;

/// GoTrue's clients send this to be told codes in bodies; it is sent back.
pub(crate) const API_VERSION: HeaderName = HeaderName::from_static("x-supabase-api-version");

/// How long to wait for something that is away.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Everything that can keep a request from being answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An account request failed.
    #[error("an account request failed")]
    Auth(#[source] AuthError),
    /// The request body is larger than allowed.
    #[error("the request body is larger than allowed")]
    BodyTooLarge,
    /// The upstream did not answer.
    #[error("a request could not be forwarded")]
    Forward(#[source] ForwardError),
    /// The head is not acceptable.
    #[error("the head of the request is not acceptable")]
    Head(#[source] HeadError),
    /// A bug.
    #[error("{0}")]
    Internal(&'static str),
    /// A route's limit is reached.
    #[error("a limit is reached")]
    OverLimit(Decision),
    /// The decision fell against the request.
    #[error("the request was refused: {}", .0.reason())]
    Refused(Refusal),
    /// Something that is needed is away.
    #[error("{0}")]
    Unavailable(&'static str),
}

impl From<HeadError> for Error {
    fn from(error: HeadError) -> Self {
        Self::Head(error)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ForwardError> for Error {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::BodyTooLarge => Self::BodyTooLarge,
            error => Self::Forward(error),
        }
    }
}

/// A problem document, before it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Status of the answer.
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// More members of the document.
    extra: Option<(&'static str, serde_json::Value)>,
    /// Nothing more is read from this connection.
    close: bool,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { status, code, detail, headers: Vec::new(), extra: None, close: false }
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn allow(self, methods: &str) -> Self {
        match HeaderValue::from_str(methods) {
            Ok(methods) => self.header(ALLOW, methods),
            Err(_) => self,
        }
    }

    fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// RFC 6750 §3: without an error when no token was sent.
    fn challenge(self, error: Option<&'static str>) -> Self {
        let value = match error {
            None => "Bearer realm=\"portcullis\"".to_owned(),
            Some(error) => format!("Bearer realm=\"portcullis\", error=\"{error}\""),
        };
        match HeaderValue::from_str(&value) {
            Ok(value) => self.header(WWW_AUTHENTICATE, value),
            Err(_) => self,
        }
    }

    fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The answer to the request with this id, which sent this `X-Supabase-Api-Version`.
    pub fn into_response(
        self,
        api_version: Option<HeaderValue>,
        request_id: &str,
    ) -> Response<Bytes> {
        let mut document = json!({
            "type": format!("urn:portcullis:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "instance": format!("urn:uuid:{request_id}"),
            "code": self.code,
            "error_code": self.code,
            "msg": self.detail,
        });
        if let Some(members) = document.as_object_mut() {
            if uuid::Uuid::try_parse(request_id).is_err() {
                // An id that the client made up is no UUID; it is a name all the same.
                members.insert(
                    "instance".to_owned(),
                    format!("urn:portcullis:request:{request_id}").into(),
                );
            }
            if api_version.is_some() {
                members.insert("message".to_owned(), self.detail.clone().into());
            }
            if let Some((name, value)) = self.extra {
                members.insert(name.to_owned(), value);
            }
        }
        let mut response = Response::new(Bytes::from(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(version) = api_version {
            headers.insert(API_VERSION, version);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

impl Problem {
    /// The same for a gRPC client: an answer of trailers only (gRPC over HTTP/2, "Responses").
    pub fn into_grpc_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(HeaderName::from_static("grpc-status"), self.grpc_status().into());
        // §"Responses": percent-encoded UTF-8.
        let message = percent_encoding::utf8_percent_encode(&self.detail, GRPC_MESSAGE).to_string();
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert(HeaderName::from_static("grpc-message"), message);
        }
        let told = [WWW_AUTHENTICATE, RETRY_AFTER];
        headers.extend(self.headers.into_iter().filter(|(name, _)| told.contains(name)));
        response
    }

    /// `google.rpc.Code`
    fn grpc_status(&self) -> u16 {
        match self.status.as_u16() {
            401 => 16,
            403 => 7,
            404 | 405 => 12,
            413 | 429 | 431 => 8,
            502..=504 => 14,
            400..=499 => 3,
            _ => 13,
        }
    }
}

/// What `grpc-message` must not hold as it is.
const GRPC_MESSAGE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');

impl Error {
    /// Logs what an operator should know of it, with the request's id.
    pub fn log(&self, request_id: &str) {
        match self {
            Self::Auth(AuthError::Internal(_)) | Self::Internal(_) => {
                tracing::error!(
                    request_id,
                    error = crate::telemetry::chain(self),
                    "request failed"
                );
            }
            Self::Auth(AuthError::Unavailable { .. } | AuthError::Busy { .. })
            | Self::Forward(_)
            | Self::Unavailable(_) => {
                tracing::warn!(request_id, error = crate::telemetry::chain(self), "request failed");
            }
            Self::Auth(_)
            | Self::BodyTooLarge
            | Self::Head(_)
            | Self::OverLimit(_)
            | Self::Refused(_) => {
                tracing::debug!(
                    request_id,
                    error = crate::telemetry::chain(self),
                    "request refused"
                );
            }
        }
    }

    /// Why, as a stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Head(error) => head_reason(*error),
            Self::Auth(AuthError::BadJwt(rejection)) => rejection.as_str(),
            error => error.problem().code,
        }
    }

    /// The answer.
    pub fn problem(&self) -> Problem {
        match self {
            Self::Auth(error) => auth_problem(error),
            Self::BodyTooLarge => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The request body is larger than this route takes.",
            )
            .closing(),
            Self::Forward(error) => forward_problem(error),
            Self::Head(error) => head_problem(*error),
            Self::Internal(_) => unexpected(),
            Self::OverLimit(decision) => over_limit(decision),
            Self::Refused(refusal) => refusal_problem(refusal),
            Self::Unavailable(_) => unavailable(TRY_AGAIN),
        }
    }
}

fn unexpected() -> Problem {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "unexpected_failure",
        "Something went wrong here. The operator can find it by the request id.",
    )
}

fn unavailable(wait: Duration) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        "A service that is needed for this is unavailable. Try again later.",
    )
    .retry_after(wait)
}

fn over_limit(decision: &Decision) -> Problem {
    if decision.basis == crate::limit::Basis::Unavailable {
        return unavailable(decision.retry_after);
    }
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "over_request_rate_limit",
        "Too many requests. Try again later.",
    )
    .retry_after(Duration::from_secs(decision.retry_after_seconds()))
}

fn forward_problem(error: &ForwardError) -> Problem {
    match error {
        ForwardError::TooManyTunnels => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_tunnels",
            "There are too many open tunnels. Try again later.",
        )
        .retry_after(TRY_AGAIN),
        ForwardError::Connect(LeaseError::Full) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "upstream_overloaded",
            "The service behind this gateway has more to do than it can. Try again later.",
        )
        .retry_after(Duration::from_secs(1)),
        ForwardError::NoTunnel => Problem::new(
            StatusCode::BAD_GATEWAY,
            "upstream_unreachable",
            "The service behind this gateway has no WebSocket here.",
        ),
        ForwardError::Connect(_) | ForwardError::Broken(_) | ForwardError::Unasked => Problem::new(
            StatusCode::BAD_GATEWAY,
            "upstream_unreachable",
            "The service behind this gateway cannot be reached.",
        ),
        ForwardError::Timeout | ForwardError::OverTime => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream_timeout",
            "The service behind this gateway did not answer in time.",
        ),
        ForwardError::BodyTooLarge => Error::BodyTooLarge.problem(),
        ForwardError::Unsendable => Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "The request target is not acceptable.",
        ),
        ForwardError::ClientBroke | ForwardError::ClientGone => Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "The request body is not well formed or came too slowly.",
        ),
    }
    // What is left of the request body is not read.
    .closing_if(!matches!(error, ForwardError::Connect(_)))
}

impl Problem {
    fn closing_if(self, close: bool) -> Self {
        if close { self.closing() } else { self }
    }
}

fn head_reason(error: HeadError) -> &'static str {
    match error {
        HeadError::BareLineFeed => "bare_line_feed",
        HeadError::ConnectionField => "connection_field",
        HeadError::Syntax => "syntax",
        HeadError::TooLarge => "head_too_large",
        HeadError::Version => "version",
        HeadError::TwoLengths => "two_lengths",
        HeadError::ContentLength => "content_length",
        HeadError::TransferEncoding => "transfer_encoding",
        HeadError::Host => "host",
        HeadError::Target => "target",
        HeadError::Expectation => "expectation",
        HeadError::Method => "method_not_allowed",
        HeadError::TargetTooLong => "target_too_long",
    }
}

fn head_problem(error: HeadError) -> Problem {
    let bad = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail);
    match error {
        HeadError::BareLineFeed => {
            bad("A line of the request head ends without a carriage return.")
        }
        HeadError::ConnectionField => bad("HTTP/2 has no fields of a connection."),
        HeadError::Syntax => bad("The request head is not well formed."),
        HeadError::TooLarge => Problem::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "bad_request",
            "The request head is too large.",
        ),
        HeadError::Version => Problem::new(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "bad_request",
            "This version of HTTP is not spoken here.",
        ),
        HeadError::TwoLengths => bad("Content-Length and Transfer-Encoding exclude each other."),
        HeadError::ContentLength => bad("Content-Length must be one plain number."),
        HeadError::TransferEncoding => bad("Transfer-Encoding must be exactly chunked."),
        HeadError::Host => bad("There must be exactly one well-formed Host."),
        HeadError::Target => bad("The request target is not acceptable."),
        HeadError::Expectation => Problem::new(
            StatusCode::EXPECTATION_FAILED,
            "bad_request",
            "The only known expectation is 100-continue.",
        ),
        HeadError::Method => {
            let methods: Vec<_> =
                crate::message::request::METHODS.iter().map(http::Method::as_str).collect();
            let detail = "This method is not passed on.";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
                .allow(&methods.join(", "))
        }
        HeadError::TargetTooLong => {
            Problem::new(StatusCode::URI_TOO_LONG, "bad_request", "The request target is too long.")
        }
    }
    .closing()
}

fn refusal_problem(refusal: &Refusal) -> Problem {
    match refusal {
        Refusal::BadPath(error) => Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            format!("The path is not acceptable: {error}."),
        ),
        Refusal::BadToken(rejection) => bad_jwt(*rejection),
        Refusal::Denied => Problem::new(StatusCode::FORBIDDEN, "denied", "This path is closed."),
        Refusal::MalformedCredential => malformed_credential(),
        Refusal::MethodNotAllowed { allow } => method_not_allowed(allow),
        Refusal::MissingRole => Problem::new(
            StatusCode::FORBIDDEN,
            "insufficient_scope",
            "The access token does not carry a role that this needs.",
        )
        .challenge(Some("insufficient_scope")),
        Refusal::OriginDenied => Problem::new(
            StatusCode::FORBIDDEN,
            "origin_denied",
            "This path cannot be called from a page of this origin.",
        ),
        Refusal::NoClientCertificate => Problem::new(
            StatusCode::FORBIDDEN,
            "client_certificate_required",
            "This path is for clients that show a certificate.",
        ),
        Refusal::NoRoute | Refusal::OwnerMismatch { hidden: true } => no_route(),
        Refusal::NoToken => no_authorization(),
        Refusal::OwnerMismatch { hidden: false } => Problem::new(
            StatusCode::FORBIDDEN,
            "owner_mismatch",
            "This path belongs to another user.",
        ),
    }
}

fn no_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_route", "There is nothing at this path.")
}

fn method_not_allowed(allow: &str) -> Problem {
    let detail = "This path does not take this method.";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).allow(allow)
}

fn no_authorization() -> Problem {
    let detail = "This needs an access token: Authorization: Bearer ….";
    Problem::new(StatusCode::UNAUTHORIZED, "no_authorization", detail).challenge(None)
}

fn malformed_credential() -> Problem {
    let detail = "There must be one Authorization header with one bearer token.";
    Problem::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
        .challenge(Some("invalid_request"))
}

fn bad_jwt(rejection: Rejection) -> Problem {
    let (code, detail) = match rejection {
        Rejection::SessionEnded => {
            ("session_not_found", "The session of the access token has ended.")
        }
        _ => ("bad_jwt", "The access token is not valid."),
    };
    Problem::new(StatusCode::UNAUTHORIZED, code, detail).challenge(Some("invalid_token"))
}

fn auth_problem(error: &AuthError) -> Problem {
    let refused = |status: StatusCode, detail: &str| Problem::new(status, error.code(), detail);
    match error {
        AuthError::BadJson(detail) => {
            refused(StatusCode::BAD_REQUEST, &format!("The body is not acceptable JSON: {detail}."))
        }
        AuthError::BadJwt(rejection) => bad_jwt(*rejection),
        AuthError::BodyTooLarge => Error::BodyTooLarge.problem(),
        AuthError::Busy { retry_after } | AuthError::Unavailable { retry_after, .. } => {
            unavailable(*retry_after)
        }
        AuthError::CurrentPasswordInvalid => {
            refused(StatusCode::BAD_REQUEST, "The current password is wrong.")
        }
        AuthError::CurrentPasswordRequired => {
            refused(StatusCode::BAD_REQUEST, "A new password needs the current password.")
        }
        AuthError::Internal(_) => unexpected(),
        AuthError::InvalidCredentials => {
            refused(StatusCode::UNAUTHORIZED, "The e-mail address or the password is wrong.")
        }
        AuthError::MalformedCredential => malformed_credential(),
        AuthError::MethodNotAllowed { allow } => method_not_allowed(allow),
        AuthError::NoAuthorization => no_authorization(),
        AuthError::NoRoute => no_route(),
        AuthError::OverLimit(over) => over_limit(&over.decision),
        AuthError::ReauthenticationNeeded => refused(
            StatusCode::BAD_REQUEST,
            "A new password needs the current password, or a login less than 24 hours old.",
        ),
        AuthError::RefreshTokenAlreadyUsed => refused(
            StatusCode::BAD_REQUEST,
            "The refresh token was used before. Its session has been ended.",
        ),
        AuthError::RefreshTokenNotFound => {
            refused(StatusCode::BAD_REQUEST, "The refresh token is not known.")
        }
        AuthError::SamePassword => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The new password must differ from the old one.",
        ),
        AuthError::SessionExpired => {
            refused(StatusCode::BAD_REQUEST, "The session has expired. Log in again.")
        }
        AuthError::SessionNotFound => bad_jwt(Rejection::SessionEnded),
        AuthError::SignupDisabled => {
            refused(StatusCode::FORBIDDEN, "Signing up is switched off here.")
        }
        AuthError::UnknownSession => {
            refused(StatusCode::NOT_FOUND, "There is no such session of this user.")
        }
        AuthError::UnsupportedGrantType => {
            refused(StatusCode::BAD_REQUEST, "grant_type must be password or refresh_token.")
        }
        AuthError::UnsupportedMediaType => {
            refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body must be application/json.")
        }
        AuthError::UserAlreadyExists => {
            refused(StatusCode::CONFLICT, "There is an account with this e-mail address.")
        }
        AuthError::ValidationFailed(detail) => refused(StatusCode::UNPROCESSABLE_ENTITY, detail),
        AuthError::WeakPassword(weakness) => {
            let mut problem = refused(StatusCode::UNPROCESSABLE_ENTITY, &weakness.message);
            problem.extra = Some((
                "weak_password",
                json!({
                    "message": weakness.message,
                    "reasons": weakness.reasons.iter().map(|reason| reason.as_str()).collect::<Vec<_>>(),
                }),
            ));
            problem
        }
    }
}

#[cfg(test)]
mod tests;
