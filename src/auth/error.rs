//! Every way an account request can fail, without HTTP: `problem/auth.rs` gives each its status and
//! its words. A failure that a client may see has a stable code; what went wrong inside is a
//! source, for the log only.

use std::error::Error;
use std::time::Duration;

use http::HeaderMap;

use super::input::{FactorType, InputError};
use super::password::HashError;
use super::policy::Weakness;
use crate::config::Limits;
use crate::identity::Rejection;
use crate::model::{SessionId, UserId};

/// Why an account request was refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A sign-up that names neither an e-mail address nor a phone number.
    #[error("signing up needs an address")]
    AnonymousProviderDisabled,
    /// An API key, or a token that was got for one, where only users themselves may ask.
    #[error("API keys are not accepted here")]
    ApiKeyNotAccepted,
    /// The user has no such API key.
    #[error("the user has no such API key")]
    ApiKeyNotFound,
    /// Users may not make API keys.
    #[error("users make no API keys here")]
    ApiKeysDisabled,
    /// A verifier that does not fit the challenge (RFC 7636 §4.6).
    #[error("the code verifier does not fit")]
    BadCodeVerifier,
    /// A body that is not one strict JSON object; the words repeat nothing of it.
    #[error("the body is not acceptable JSON: {0}")]
    BadJson(String),
    /// A bearer token that was not believed.
    #[error("the access token was not accepted")]
    BadJwt(#[source] Rejection),
    /// A body of more than 16 KiB.
    #[error("the body is too large")]
    BodyTooLarge,
    /// Too much password hashing at present.
    #[error("too many passwords are being hashed")]
    Busy {
        /// When it may be worth trying again.
        retry_after: Duration,
    },
    /// A challenge that is unknown, was answered, or is too old.
    #[error("the challenge of the second factor is not open")]
    ChallengeExpired,
    /// A session in cookies, of which there are none.
    #[error("sessions are not kept in cookies")]
    CookiesDisabled,
    /// A page of another site, or one that is not named, that would act by a cookie or set some.
    #[error("a page of another site would act by a cookie")]
    CrossSite,
    /// A new password with a wrong old one.
    #[error("the current password is wrong")]
    CurrentPasswordInvalid,
    /// A new password without the old one, for an account that has no recent login.
    #[error("the current password is needed")]
    CurrentPasswordRequired,
    /// The new address became somebody else's before it was proved.
    #[error("the address has an account already")]
    EmailExists,
    /// The right password, or a good token, of an account whose address is not proved.
    #[error("the address is not confirmed")]
    EmailNotConfirmed,
    /// No letters leave here.
    #[error("no letters are sent")]
    EmailProviderDisabled,
    /// A name that another factor of the user has.
    #[error("another second factor has the name")]
    FactorNameConflict,
    /// The user has no second factor with this id.
    #[error("there is no such second factor")]
    FactorNotFound,
    /// A kind of second factor that cannot be enrolled here.
    #[error("second factors of this kind cannot be enrolled")]
    FactorTypeDisabled(FactorType),
    /// A code of a second factor, or a recovery code, that is wrong or was used.
    #[error("the code of the second factor is not good")]
    FactorVerificationFailed,
    /// A code of a used link that is too old.
    #[error("the code of the link has expired")]
    FlowStateExpired,
    /// A code of a used link that nobody was given, or that was traded.
    #[error("the code of the link is unknown")]
    FlowStateNotFound,
    /// The user has a second factor, which the session has not shown.
    #[error("the session has not shown the second factor")]
    InsufficientAal,
    /// An id that an account has.
    #[error("the id has an account")]
    IdExists,
    /// Anything that cannot happen.
    #[error("an account request failed")]
    Internal(#[source] Box<dyn Error + Send + Sync>),
    /// An API key, or a token that was got for one, that is not accepted.
    #[error("the API key is not good")]
    InvalidApiKey,
    /// Unknown user, disabled user or wrong password: never told apart.
    #[error("the credentials are wrong")]
    InvalidCredentials,
    /// No other signing key would sign in this one's place.
    #[error("no other signing key would sign in its place")]
    KeyInUse,
    /// No signing key has this id, or it is out of use.
    #[error("no signing key in use has the id")]
    KeyNotFound,
    /// No limit has this name.
    #[error("there is no such limit")]
    LimitNotFound,
    /// Not one bearer token, in `Authorization` or a cookie.
    #[error("the authorization header is malformed")]
    MalformedCredential,
    /// A known endpoint, but not with this method.
    #[error("the endpoint does not take this method")]
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: String,
    },
    /// A bearer token without the role `admin`.
    #[error("only administrators may do this")]
    NotAdmin,
    /// No bearer token where one is needed.
    #[error("a bearer token is needed")]
    NoAuthorization,
    /// No endpoint has this path.
    #[error("there is no such endpoint")]
    NoRoute,
    /// A form of another site.
    #[error("the form was sent by another site")]
    OriginDenied,
    /// A link or code that is unknown, used, expired or wrong, or of a disabled user: never told
    /// apart.
    #[error("the link or code is not good")]
    OtpExpired,
    /// A limit was reached.
    #[error("the limit `{}` is reached", .0.rule)]
    OverLimit(OverLimit),
    /// A phone number, which there is no use for.
    #[error("phone numbers are not supported")]
    PhoneProviderDisabled,
    /// A new password needs the old one or a login less than a day old.
    #[error("the login is too old to change the password")]
    ReauthenticationNeeded,
    /// A code to reauthenticate that is unknown, used, expired or wrong.
    #[error("the code to reauthenticate is not good")]
    ReauthenticationNotValid,
    /// A refresh token that was used, and whose session has been ended for it.
    #[error("the refresh token was used before")]
    RefreshTokenAlreadyUsed,
    /// One refresh token in the body and one in a cookie.
    #[error("there are two refresh tokens")]
    TwoRefreshTokens,
    /// A refresh token that nobody was given.
    #[error("the refresh token is unknown")]
    RefreshTokenNotFound,
    /// The new password is the old one.
    #[error("the new password is the old one")]
    SamePassword,
    /// A refresh token of a session that is over.
    #[error("the session has ended")]
    SessionExpired,
    /// A good access token of a session that was ended.
    #[error("the session of the access token has ended")]
    SessionNotFound,
    /// Sign-up is switched off.
    #[error("signing up is switched off")]
    SignupDisabled,
    /// As many second factors as a user may have.
    #[error("the user has too many second factors")]
    TooManyFactors,
    /// Many wrong codes of a second factor in a row.
    #[error("too many wrong codes of the second factor")]
    TooManyWrongCodes {
        /// When a code is looked at again.
        retry_after: Duration,
    },
    /// The store or the counters cannot be reached; the source says which.
    #[error("a service that is needed is unavailable")]
    Unavailable {
        /// When it may be worth trying again.
        retry_after: Duration,
        /// What is away.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The user has no running session with this id.
    #[error("the user has no such session")]
    UnknownSession,
    /// The user has more roles or metadata than fit into an access token. Nothing was stored.
    #[error("what the access token would say does not fit into one")]
    TokenTooLarge,
    /// The user has as many API keys as allowed.
    #[error("the user has as many API keys as allowed")]
    TooManyApiKeys,
    /// `grant_type` is none of `password`, `refresh_token`, `pkce`.
    #[error("the grant type is not supported")]
    UnsupportedGrantType,
    /// A body that is not declared as JSON.
    #[error("the content type is not application/json")]
    UnsupportedMediaType,
    /// The address has an account.
    #[error("the address has an account")]
    UserAlreadyExists,
    /// A link for somebody who is disabled.
    #[error("the user is disabled")]
    UserBanned,
    /// There is no such account.
    #[error("there is no such user")]
    UserNotFound,
    /// A field is missing or unacceptable; a sentence for the client.
    #[error("{0}")]
    ValidationFailed(String),
    /// The rule refuses the new password.
    #[error("{}", .0.message)]
    WeakPassword(Weakness),
}

impl AuthError {
    /// Every code, sorted.
    pub const CODES: &'static [&'static str] = &[
        "anonymous_provider_disabled",
        "api_key_not_accepted",
        "api_key_not_found",
        "api_keys_disabled",
        "bad_code_verifier",
        "bad_json",
        "bad_jwt",
        "body_too_large",
        "cookies_disabled",
        "cross_site_request",
        "current_password_invalid",
        "current_password_required",
        "email_exists",
        "email_not_confirmed",
        "email_provider_disabled",
        "flow_state_expired",
        "flow_state_not_found",
        "id_exists",
        "insufficient_aal",
        "invalid_api_key",
        "invalid_credentials",
        "invalid_request",
        "key_in_use",
        "key_not_found",
        "limit_not_found",
        "method_not_allowed",
        "mfa_challenge_expired",
        "mfa_factor_name_conflict",
        "mfa_factor_not_found",
        "mfa_phone_enroll_not_enabled",
        "mfa_totp_enroll_not_enabled",
        "mfa_verification_failed",
        "mfa_webauthn_enroll_not_enabled",
        "no_authorization",
        "no_route",
        "not_admin",
        "not_found",
        "origin_denied",
        "otp_expired",
        "over_email_send_rate_limit",
        "over_request_rate_limit",
        "phone_provider_disabled",
        "reauthentication_needed",
        "reauthentication_not_valid",
        "refresh_token_already_used",
        "refresh_token_not_found",
        "same_password",
        "session_expired",
        "session_not_found",
        "signup_disabled",
        "token_too_large",
        "too_many_api_keys",
        "too_many_enrolled_mfa_factors",
        "unavailable",
        "unexpected_failure",
        "unsupported_grant_type",
        "unsupported_media_type",
        "user_already_exists",
        "user_banned",
        "user_not_found",
        "validation_failed",
        "weak_password",
    ];

    /// Notes whose account was tried, for the event of a limit.
    #[must_use]
    pub fn with_email(self, address: &str) -> Self {
        match self {
            Self::OverLimit(over) => {
                Self::OverLimit(OverLimit { email: Some(address.to_owned()), ..over })
            }
            other => other,
        }
    }

    /// Whether it refuses what was shown as a refresh token, for good.
    pub fn is_of_refresh_token(&self) -> bool {
        matches!(
            self,
            Self::BadJson(_)
                | Self::BodyTooLarge
                | Self::RefreshTokenAlreadyUsed
                | Self::RefreshTokenNotFound
                | Self::SessionExpired
                | Self::UnsupportedMediaType
                | Self::ValidationFailed(_)
        )
    }

    /// Whether the session of a refresh token is over, or was never there.
    pub fn ends_refreshing(&self) -> bool {
        matches!(
            self,
            Self::RefreshTokenAlreadyUsed | Self::RefreshTokenNotFound | Self::SessionExpired
        )
    }

    /// The stable word for programs.
    ///
    /// A session that refreshes too often is told to come back later (503), not that it is over a
    /// limit (429): at that, Supabase clients would give the session up.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AnonymousProviderDisabled => "anonymous_provider_disabled",
            Self::ApiKeyNotAccepted => "api_key_not_accepted",
            Self::ApiKeyNotFound => "api_key_not_found",
            Self::ApiKeysDisabled => "api_keys_disabled",
            Self::BadCodeVerifier => "bad_code_verifier",
            Self::BadJson(_) => "bad_json",
            Self::BadJwt(_) => "bad_jwt",
            Self::BodyTooLarge => "body_too_large",
            Self::Busy { .. } | Self::Unavailable { .. } => "unavailable",
            Self::ChallengeExpired => "mfa_challenge_expired",
            Self::CookiesDisabled => "cookies_disabled",
            Self::CrossSite => "cross_site_request",
            Self::CurrentPasswordInvalid => "current_password_invalid",
            Self::CurrentPasswordRequired => "current_password_required",
            Self::EmailExists => "email_exists",
            Self::EmailNotConfirmed => "email_not_confirmed",
            Self::EmailProviderDisabled => "email_provider_disabled",
            Self::FactorNameConflict => "mfa_factor_name_conflict",
            Self::FactorNotFound => "mfa_factor_not_found",
            Self::FactorTypeDisabled(FactorType::Phone) => "mfa_phone_enroll_not_enabled",
            Self::FactorTypeDisabled(FactorType::Totp) => "mfa_totp_enroll_not_enabled",
            Self::FactorTypeDisabled(FactorType::WebAuthn) => "mfa_webauthn_enroll_not_enabled",
            Self::FactorVerificationFailed => "mfa_verification_failed",
            Self::FlowStateExpired => "flow_state_expired",
            Self::FlowStateNotFound => "flow_state_not_found",
            Self::IdExists => "id_exists",
            Self::InsufficientAal => "insufficient_aal",
            Self::Internal(_) => "unexpected_failure",
            Self::InvalidApiKey => "invalid_api_key",
            Self::InvalidCredentials => "invalid_credentials",
            Self::KeyInUse => "key_in_use",
            Self::KeyNotFound => "key_not_found",
            Self::LimitNotFound => "limit_not_found",
            Self::MalformedCredential | Self::TwoRefreshTokens => "invalid_request",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::NoAuthorization => "no_authorization",
            Self::NotAdmin => "not_admin",
            Self::NoRoute => "no_route",
            Self::OriginDenied => "origin_denied",
            Self::OtpExpired => "otp_expired",
            Self::OverLimit(over) if over.is_of_letters() => "over_email_send_rate_limit",
            Self::OverLimit(over) if over.is_of_session() => "unavailable",
            Self::OverLimit(_) | Self::TooManyWrongCodes { .. } => "over_request_rate_limit",
            Self::PhoneProviderDisabled => "phone_provider_disabled",
            Self::ReauthenticationNeeded => "reauthentication_needed",
            Self::ReauthenticationNotValid => "reauthentication_not_valid",
            Self::RefreshTokenAlreadyUsed => "refresh_token_already_used",
            Self::RefreshTokenNotFound => "refresh_token_not_found",
            Self::SamePassword => "same_password",
            Self::SessionExpired => "session_expired",
            Self::SessionNotFound => "session_not_found",
            Self::SignupDisabled => "signup_disabled",
            Self::TokenTooLarge => "token_too_large",
            Self::TooManyFactors => "too_many_enrolled_mfa_factors",
            Self::UnknownSession => "not_found",
            Self::TooManyApiKeys => "too_many_api_keys",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UserAlreadyExists => "user_already_exists",
            Self::UserBanned => "user_banned",
            Self::UserNotFound => "user_not_found",
            Self::ValidationFailed(_) => "validation_failed",
            Self::WeakPassword(_) => "weak_password",
        }
    }
}

impl From<InputError> for AuthError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::Anonymous => Self::AnonymousProviderDisabled,
            InputError::Phone => Self::PhoneProviderDisabled,
            InputError::UnsupportedMediaType => Self::UnsupportedMediaType,
            InputError::TooLarge => Self::BodyTooLarge,
            InputError::BadJson(words) => Self::BadJson(words),
            InputError::Invalid(sentence) => Self::ValidationFailed(sentence),
            InputError::Weak(weakness) => Self::WeakPassword(weakness),
        }
    }
}

impl From<HashError> for AuthError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Busy { retry_after } => Self::Busy { retry_after },
            HashError::Failed => Self::Internal(error.into()),
        }
    }
}

/// Which limit was reached, and what to record of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverLimit {
    /// Name of the limit in `[limits]`, or `login_guard`: too many failed logins.
    pub rule: String,
    /// Until it makes sense to try again.
    pub retry_after: Duration,
    /// The address that was tried, when that is known; not cleaned.
    pub email: Option<String>,
}

impl OverLimit {
    /// Whether it is a limit of letters, which clients know by a code of its own.
    fn is_of_letters(&self) -> bool {
        matches!(self.rule.as_str(), "mail" | "mail_account")
    }

    /// Whether it is the limit of a session's own refreshes.
    pub fn is_of_session(&self) -> bool {
        self.rule == Limits::REFRESH_OF_SESSION
    }
}

/// A refusal with what its answer needs beside the problem document.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct AuthFailure {
    /// Why.
    #[source]
    pub error: AuthError,
    /// `RateLimit` and `RateLimit-Policy`, when the request was counted.
    pub headers: HeaderMap,
    /// Whose token the request carried, when it was believed.
    pub user_id: Option<UserId>,
    /// That token's session.
    pub session_id: Option<SessionId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_codes_is_sorted_and_holds_a_code_of_each_kind() {
        assert!(AuthError::CODES.is_sorted_by(|a, b| a < b));
        let source = || Box::<dyn Error + Send + Sync>::from("away");
        let retry_after = Duration::from_secs(1);
        for error in [
            AuthError::BadJson(String::new()),
            AuthError::Busy { retry_after },
            AuthError::Internal(source()),
            AuthError::MethodNotAllowed { allow: String::new() },
            AuthError::Unavailable { retry_after, source: source() },
            AuthError::UnknownSession,
            AuthError::ValidationFailed(String::new()),
        ] {
            assert!(AuthError::CODES.contains(&error.code()), "{error:?}");
        }
    }
}
