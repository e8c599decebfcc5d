//! Why a request is not let through.

use http::StatusCode;

use super::Problem;
use super::common::{
    api_key_not_accepted, bad_jwt, cross_site, malformed_credential, method_not_allowed,
    no_authorization, no_route, step_up,
};
use crate::proxy::authorize::Refusal;

pub(super) fn refusal_problem(refusal: &Refusal) -> Problem {
    match refusal {
        Refusal::BadPath(error) => Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            format!("The path is not acceptable: {error}."),
        ),
        Refusal::BadToken(rejection) => bad_jwt(*rejection),
        Refusal::CrossSite => cross_site(),
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
        Refusal::ApiKeyNotAccepted => api_key_not_accepted(),
        Refusal::MissingScope { needed } => Problem::new(
            StatusCode::FORBIDDEN,
            "insufficient_scope",
            "The API key is not good for this.",
        )
        .challenge_for_scope(needed),
        Refusal::NoClientCertificate => Problem::new(
            StatusCode::FORBIDDEN,
            "client_certificate_required",
            "This path is for clients that show a certificate.",
        ),
        Refusal::NoRoute | Refusal::OwnerMismatch { hidden: true } => no_route(),
        Refusal::NoToken => no_authorization(),
        Refusal::StepUp(asked) => step_up(*asked),
        Refusal::OwnerMismatch { hidden: false } => Problem::new(
            StatusCode::FORBIDDEN,
            "owner_mismatch",
            "This path belongs to another user.",
        ),
    }
}
