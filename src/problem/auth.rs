//! Why an account endpoint refuses.

use http::StatusCode;
use serde_json::json;

use super::common::{
    api_key_not_accepted, bad_jwt, cross_site, malformed_credential, method_not_allowed,
    no_authorization, no_route, step_up, too_many, unavailable, unexpected,
};
use super::{Error, Problem};
use crate::auth::AuthError;
use crate::identity::Rejection;
use crate::proxy::step_up::StepUp;

pub(super) fn auth_problem(error: &AuthError) -> Problem {
    let refused = |status: StatusCode, detail: &str| Problem::new(status, error.code(), detail);
    match error {
        AuthError::AnonymousProviderDisabled => {
            refused(StatusCode::UNPROCESSABLE_ENTITY, "Signing up needs an e-mail address.")
        }
        AuthError::ApiKeyNotAccepted => api_key_not_accepted(),
        AuthError::ApiKeyNotFound => {
            refused(StatusCode::NOT_FOUND, "There is no such API key of this user.")
        }
        AuthError::ApiKeysDisabled => {
            refused(StatusCode::FORBIDDEN, "Only administrators make API keys here.")
        }
        AuthError::BadCodeVerifier => {
            refused(StatusCode::BAD_REQUEST, "The code verifier does not fit the challenge.")
        }
        AuthError::BadJson(detail) => {
            refused(StatusCode::BAD_REQUEST, &format!("The body is not acceptable JSON: {detail}."))
        }
        AuthError::BadJwt(rejection) => bad_jwt(*rejection),
        AuthError::BodyTooLarge => Error::BodyTooLarge.problem(),
        AuthError::Busy { retry_after } | AuthError::Unavailable { retry_after, .. } => {
            unavailable(*retry_after)
        }
        AuthError::ChallengeExpired => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The challenge is not known, was answered, or has expired. Ask for another.",
        ),
        AuthError::CookiesDisabled => refused(
            StatusCode::BAD_REQUEST,
            "Sessions are not kept in cookies here. Ask without cookies=true.",
        ),
        AuthError::CrossSite => cross_site(),
        AuthError::CurrentPasswordInvalid => {
            refused(StatusCode::BAD_REQUEST, "The current password is wrong.")
        }
        AuthError::CurrentPasswordRequired => {
            refused(StatusCode::BAD_REQUEST, "A new password needs the current password.")
        }
        AuthError::EmailExists => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "There is an account with this e-mail address.",
        ),
        AuthError::EmailNotConfirmed => {
            refused(StatusCode::BAD_REQUEST, "The e-mail address is not confirmed yet.")
        }
        AuthError::EmailProviderDisabled => {
            refused(StatusCode::UNPROCESSABLE_ENTITY, "No letters are sent here.")
        }
        AuthError::FactorNameConflict => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Another second factor of this user has the name.",
        ),
        AuthError::FactorNotFound => {
            refused(StatusCode::NOT_FOUND, "There is no such second factor of this user.")
        }
        AuthError::FactorTypeDisabled(_) => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Second factors of this kind cannot be enrolled here.",
        ),
        AuthError::FactorVerificationFailed => {
            refused(StatusCode::UNPROCESSABLE_ENTITY, "The code is wrong, or was used before.")
        }
        AuthError::FlowStateExpired => {
            refused(StatusCode::UNPROCESSABLE_ENTITY, "The code has expired. Ask for another link.")
        }
        AuthError::FlowStateNotFound => {
            refused(StatusCode::NOT_FOUND, "The code is not known, or was used before.")
        }
        AuthError::IdExists => {
            refused(StatusCode::UNPROCESSABLE_ENTITY, "There is an account with this id.")
        }
        AuthError::InsufficientAal => step_up(StepUp { aal2: true, max_age: None }),
        AuthError::Internal(_) => unexpected(),
        AuthError::InvalidApiKey => bad_jwt(Rejection::UnknownApiKey),
        AuthError::InvalidCredentials => {
            refused(StatusCode::UNAUTHORIZED, "The e-mail address or the password is wrong.")
        }
        AuthError::KeyInUse => refused(
            StatusCode::CONFLICT,
            "No other key would sign in its place. Make one and wait until it signs, or revoke this \
             one, so that another signs at once.",
        ),
        AuthError::KeyNotFound => {
            refused(StatusCode::NOT_FOUND, "No signing key in use has this id.")
        }
        AuthError::LimitNotFound => refused(StatusCode::NOT_FOUND, "There is no such limit."),
        AuthError::MalformedCredential => malformed_credential(),
        AuthError::MethodNotAllowed { allow } => method_not_allowed(allow),
        AuthError::NotAdmin => refused(StatusCode::FORBIDDEN, "Only administrators may do this."),
        AuthError::NoAuthorization => no_authorization(),
        AuthError::NoRoute => no_route(),
        AuthError::OriginDenied => {
            refused(StatusCode::FORBIDDEN, "Forms of other sites are not accepted.")
        }
        AuthError::OtpExpired => {
            refused(StatusCode::FORBIDDEN, "The link or code is wrong, was used, or has expired.")
        }
        AuthError::OverLimit(over) if over.is_of_session() => unavailable(over.retry_after),
        AuthError::OverLimit(over) => too_many(over.retry_after, error.code()),
        AuthError::PhoneProviderDisabled => {
            refused(StatusCode::BAD_REQUEST, "Phone numbers are not supported.")
        }
        AuthError::ReauthenticationNeeded => refused(
            StatusCode::BAD_REQUEST,
            "A new password or address needs the current password, the code of a letter, or a login \
             less than 24 hours old; a first second factor needs such a login.",
        ),
        AuthError::ReauthenticationNotValid => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The code is wrong, was used, or has expired.",
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
        AuthError::TokenTooLarge => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "This account has more roles or metadata than fit into an access token; a cookie takes less \
             than a bearer. An administrator can take some away.",
        ),
        AuthError::TooManyFactors => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "This user has as many second factors as one may have.",
        ),
        AuthError::TooManyWrongCodes { retry_after } => {
            refused(StatusCode::TOO_MANY_REQUESTS, "Too many wrong codes. Try again later.")
                .retry_after(*retry_after)
        }
        AuthError::TwoRefreshTokens => refused(
            StatusCode::BAD_REQUEST,
            "There is one refresh token in the body and one in a cookie. Send one of them.",
        ),
        AuthError::UnknownSession => {
            refused(StatusCode::NOT_FOUND, "There is no such session of this user.")
        }
        AuthError::TooManyApiKeys => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "There are as many API keys as allowed. End one of them first.",
        ),
        AuthError::UnsupportedGrantType => {
            refused(StatusCode::BAD_REQUEST, "grant_type must be password, refresh_token or pkce.")
        }
        AuthError::UnsupportedMediaType => {
            refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body must be application/json.")
        }
        AuthError::UserAlreadyExists => {
            refused(StatusCode::CONFLICT, "There is an account with this e-mail address.")
        }
        AuthError::UserBanned => {
            refused(StatusCode::UNPROCESSABLE_ENTITY, "The account is disabled.")
        }
        AuthError::UserNotFound => refused(StatusCode::NOT_FOUND, "There is no such user."),
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
