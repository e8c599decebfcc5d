use std::fmt::Write as _;
use std::time::Duration;

use super::*;
use crate::auth::OverLimit;
use crate::auth::input::FactorType;
use crate::auth::policy::{Reason, Weakness};
use crate::identity::Rejection;
use crate::limit::Basis;
use crate::message::Malformed;
use crate::proxy::origin::Fault;
use crate::proxy::path::PathError;
use crate::proxy::pool::LeaseError;
use crate::proxy::step_up::StepUp;

fn decision(basis: Basis) -> Decision {
    Decision {
        allowed: false,
        limit: 5,
        remaining: 0,
        reset: Duration::from_mins(1),
        retry_after: Duration::from_millis(11_200),
        basis,
    }
}

fn away() -> Box<dyn std::error::Error + Send + Sync> {
    "connection refused by 10.0.0.7".into()
}

/// One of each kind.
fn every_error() -> Vec<Error> {
    let wait = Duration::from_secs(2);
    let over = OverLimit {
        rule: "login".to_owned(),
        retry_after: decision(Basis::Counted).retry_after,
        email: None,
    };
    let weakness = Weakness {
        message: "the password is too short".to_owned(),
        reasons: vec![Reason::Length, Reason::Characters],
    };
    let auth = vec![
        AuthError::AnonymousProviderDisabled,
        AuthError::ApiKeyNotAccepted,
        AuthError::ApiKeyNotFound,
        AuthError::ApiKeysDisabled,
        AuthError::BadCodeVerifier,
        AuthError::BadJson("it ends too early".to_owned()),
        AuthError::BadJwt(Rejection::Expired),
        AuthError::BodyTooLarge,
        AuthError::Busy { retry_after: wait },
        AuthError::ChallengeExpired,
        AuthError::CookiesDisabled,
        AuthError::CrossSite,
        AuthError::CurrentPasswordInvalid,
        AuthError::CurrentPasswordRequired,
        AuthError::EmailExists,
        AuthError::EmailNotConfirmed,
        AuthError::EmailProviderDisabled,
        AuthError::FactorNameConflict,
        AuthError::FactorNotFound,
        AuthError::FactorTypeDisabled(FactorType::Totp),
        AuthError::FactorTypeDisabled(FactorType::Phone),
        AuthError::FactorTypeDisabled(FactorType::WebAuthn),
        AuthError::FactorVerificationFailed,
        AuthError::FlowStateExpired,
        AuthError::FlowStateNotFound,
        AuthError::IdExists,
        AuthError::InsufficientAal,
        AuthError::Internal(away()),
        AuthError::InvalidApiKey,
        AuthError::InvalidCredentials,
        AuthError::KeyInUse,
        AuthError::KeyNotFound,
        AuthError::LimitNotFound,
        AuthError::MalformedCredential,
        AuthError::MethodNotAllowed { allow: "GET, HEAD".to_owned() },
        AuthError::NotAdmin,
        AuthError::NoAuthorization,
        AuthError::NoRoute,
        AuthError::OriginDenied,
        AuthError::OtpExpired,
        AuthError::OverLimit(OverLimit { rule: "mail_account".to_owned(), ..over.clone() }),
        AuthError::OverLimit(OverLimit { rule: "refresh_session".to_owned(), ..over.clone() }),
        AuthError::OverLimit(over),
        AuthError::PhoneProviderDisabled,
        AuthError::ReauthenticationNeeded,
        AuthError::ReauthenticationNotValid,
        AuthError::RefreshTokenAlreadyUsed,
        AuthError::RefreshTokenNotFound,
        AuthError::SamePassword,
        AuthError::SessionExpired,
        AuthError::SessionNotFound,
        AuthError::SignupDisabled,
        AuthError::TokenTooLarge,
        AuthError::TooManyFactors,
        AuthError::TooManyWrongCodes { retry_after: wait },
        AuthError::Unavailable { retry_after: wait, source: away() },
        AuthError::TwoRefreshTokens,
        AuthError::UnknownSession,
        AuthError::TooManyApiKeys,
        AuthError::UnsupportedGrantType,
        AuthError::UnsupportedMediaType,
        AuthError::UserAlreadyExists,
        AuthError::UserBanned,
        AuthError::UserNotFound,
        AuthError::ValidationFailed("`email` is missing".to_owned()),
        AuthError::WeakPassword(weakness),
    ];
    let forward = [
        ForwardError::Connect(LeaseError::Timeout),
        ForwardError::Connect(LeaseError::Full),
        ForwardError::Broken(Fault::Malformed(Malformed::Chunk)),
        ForwardError::Unasked,
        ForwardError::NoTunnel,
        ForwardError::Timeout,
        ForwardError::OverTime,
        ForwardError::BodyTooLarge,
        ForwardError::ClientBroke,
        ForwardError::ClientGone,
        ForwardError::Unsendable,
        ForwardError::TooManyTunnels,
    ];
    let head = [
        HeadError::BareLineFeed,
        HeadError::TwoLengths,
        HeadError::ContentLength,
        HeadError::TransferEncoding,
        HeadError::Host,
        HeadError::Target,
        HeadError::Expectation,
        HeadError::Method,
        HeadError::TargetTooLong,
        HeadError::ConnectionField,
        HeadError::Syntax,
        HeadError::TooLarge,
        HeadError::Version,
    ];
    let refused = [
        Refusal::BadPath(PathError::Backslash),
        Refusal::BadToken(Rejection::Expired),
        Refusal::BadToken(Rejection::SessionEnded),
        Refusal::BadToken(Rejection::UnknownApiKey),
        Refusal::ApiKeyNotAccepted,
        Refusal::MissingScope { needed: "read orders:write".to_owned() },
        Refusal::CrossSite,
        Refusal::Denied,
        Refusal::MalformedCredential,
        Refusal::MethodNotAllowed { allow: "GET, HEAD".to_owned() },
        Refusal::MissingRole,
        Refusal::NoClientCertificate,
        Refusal::NoRoute,
        Refusal::NoToken,
        Refusal::OwnerMismatch { hidden: false },
        Refusal::StepUp(StepUp { aal2: true, max_age: None }),
        Refusal::StepUp(StepUp { aal2: true, max_age: Some(wait) }),
        Refusal::StepUp(StepUp { aal2: false, max_age: Some(wait) }),
        Refusal::OwnerMismatch { hidden: true },
    ];
    let mut errors = vec![
        Error::BodyTooLarge,
        Error::Internal("a checked path is no target"),
        Error::OverLimit(decision(Basis::Counted)),
        Error::OverLimit(decision(Basis::Unavailable)),
        Error::Unavailable("the ended sessions are not known"),
    ];
    errors.extend(auth.into_iter().map(Error::Auth));
    errors.extend(forward.into_iter().map(Error::Forward));
    errors.extend(head.into_iter().map(Error::Head));
    errors.extend(refused.into_iter().map(Error::Refused));
    errors
}

#[test]
fn every_problem_document_is_as_it_was() {
    let mut shown = String::new();
    for error in every_error() {
        let id = "018f2d3e-0000-7000-8000-000000000000";
        let response = error.problem().into_response(None, id);
        let document: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        writeln!(shown, "{} {}", response.status().as_u16(), error.reason()).unwrap();
        for (name, value) in response.headers() {
            writeln!(shown, "{name}: {}", value.to_str().unwrap()).unwrap();
        }
        writeln!(shown, "{document:#}\n").unwrap();
        assert_eq!(document["status"], response.status().as_u16());
        assert_eq!(document["code"], document["error_code"]);
        assert_eq!(document["detail"], document["msg"]);
        if response.status().is_server_error() {
            assert!(!shown.contains("10.0.0.7"), "a cause is told to a client");
        }
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn clients_of_supabase_are_told_the_version_and_a_message() {
    let problem = Error::Auth(AuthError::InvalidCredentials).problem();
    let response = problem.into_response(Some(b"2025-06-07"), "an-id-of-the-client");
    assert_eq!(response.headers()["x-supabase-api-version"], "2024-01-01");
    let document: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(document["message"], document["detail"]);
    assert_eq!(document["instance"], "urn:portcullis:request:an-id-of-the-client");
    for other in [
        "2023-12-31",
        "2024-13-01",
        "2024-02-30",
        "2024-1-01",
        "20240101",
        "+024-01-01",
        "2024-01-01 ",
        "9999-99-99",
        "2024/01/01",
        "latest",
        "",
        "\u{661}024-01-0",
    ] {
        let problem = Error::Auth(AuthError::InvalidCredentials).problem();
        let response = problem.into_response(Some(other.as_bytes()), "an-id-of-the-client");
        assert!(!response.headers().contains_key("x-supabase-api-version"), "{other}");
        let document: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(document.get("message"), None, "{other}");
    }
}
