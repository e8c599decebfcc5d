//! Every failure that a client can meet, and the one `match` that gives each its answer: a problem
//! document (RFC 9457) whose `code` is stable. What a client is told of a 5xx is constant; the
//! cause goes to the log once, with the request id that the client was shown.

mod auth;
mod common;
mod document;
mod forward;
mod head;
mod refusal;

use std::time::Duration;

use http::StatusCode;

use crate::auth::AuthError;
use crate::limit::Decision;
use crate::message::HeadError;
use crate::proxy::authorize::Refusal;
use crate::proxy::forward::ForwardError;

pub use document::Problem;

use auth::auth_problem;
use common::{over_limit, unavailable, unexpected};
use forward::forward_problem;
use head::{head_problem, head_reason};
use refusal::refusal_problem;

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
            Self::OverLimit(decision) => over_limit(decision, "over_request_rate_limit"),
            Self::Refused(refusal) => refusal_problem(refusal),
            Self::Unavailable(_) => unavailable(TRY_AGAIN),
        }
    }
}

#[cfg(test)]
mod tests;
