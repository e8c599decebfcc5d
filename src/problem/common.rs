//! What is worded alike wherever it happens, on a route or at an account endpoint.

use std::fmt::Write as _;
use std::time::Duration;

use http::StatusCode;

use super::Problem;
use crate::identity::Rejection;
use crate::limit::Decision;
use crate::proxy::step_up::StepUp;

pub(super) fn unexpected() -> Problem {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "unexpected_failure",
        "Something went wrong here. The operator can find it by the request id.",
    )
}

pub(super) fn unavailable(wait: Duration) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        "A service that is needed for this is unavailable. Try again later.",
    )
    .retry_after(wait)
}

pub(super) fn over_limit(decision: &Decision, code: &'static str) -> Problem {
    if decision.basis == crate::limit::Basis::Unavailable {
        return unavailable(decision.retry_after);
    }
    too_many(decision.retry_after, code)
}

pub(super) fn too_many(wait: Duration, code: &'static str) -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, code, "Too many requests. Try again later.")
        .retry_after(wait)
}

pub(super) fn no_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_route", "There is nothing at this path.")
}

pub(super) fn method_not_allowed(allow: &str) -> Problem {
    let detail = "This path does not take this method.";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).allow(allow)
}

pub(super) fn no_authorization() -> Problem {
    let detail = "This needs an access token: Authorization: Bearer ….";
    Problem::new(StatusCode::UNAUTHORIZED, "no_authorization", detail).challenge(None)
}

pub(super) fn malformed_credential() -> Problem {
    let detail = "There must be one access token: in one Authorization header, or where the \
                  configuration says so in one cookie or WebSocket subprotocol.";
    Problem::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
        .challenge(Some("invalid_request"))
}

/// A cookie counts only on the word of the browser that one of our pages is asking.
pub(super) fn cross_site() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "cross_site_request",
        "With cookies this can be asked by pages of this site only. Which page asks, browsers say \
         in Sec-Fetch-Site and Origin.",
    )
}

/// An API key, or a token that was got for one, where only users themselves may ask.
pub(super) fn api_key_not_accepted() -> Problem {
    let detail = "API keys are not accepted here.";
    Problem::new(StatusCode::UNAUTHORIZED, "api_key_not_accepted", detail)
        .challenge(Some("invalid_token"))
}

/// RFC 9470 §3: what the client has to have its user prove before it asks again.
pub(super) fn step_up(asked: StepUp) -> Problem {
    let detail = match asked {
        StepUp { aal2: true, max_age: None } => "This needs a second factor.",
        StepUp { aal2: true, max_age: Some(_) } => {
            "This needs a second factor, shown not long ago."
        }
        StepUp { aal2: false, .. } => "This needs a login that is not long ago.",
    };
    let mut challenge = format!(
        "Bearer realm=\"portcullis\", error=\"insufficient_user_authentication\", \
         error_description=\"{detail}\""
    );
    if asked.aal2 {
        challenge.push_str(", acr_values=\"aal2\"");
    }
    if let Some(age) = asked.max_age {
        // Writing to a text cannot fail.
        let _ = write!(challenge, ", max_age=\"{}\"", age.as_secs());
    }
    Problem::new(StatusCode::UNAUTHORIZED, "insufficient_aal", detail).authenticate(&challenge)
}

pub(super) fn bad_jwt(rejection: Rejection) -> Problem {
    let (code, detail) = match rejection {
        Rejection::SessionEnded => {
            ("session_not_found", "The session of the access token has ended.")
        }
        Rejection::UnknownApiKey | Rejection::ApiKeyExpired | Rejection::ApiKeyDisabled => {
            ("invalid_api_key", "The API key is not valid.")
        }
        _ => ("bad_jwt", "The access token is not valid."),
    };
    Problem::new(StatusCode::UNAUTHORIZED, code, detail).challenge(Some("invalid_token"))
}
