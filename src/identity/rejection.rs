//! Why a token was not believed. For engineers, logs and metrics only: a client learns that its
//! token is bad, never why (an attacker would otherwise be told which check to work on next).

use super::caller::IssuerIndex;

/// Why a token was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// Not three strict base64url segments that hold JSON objects without repeated members.
    #[error("not a signed token in compact form")]
    Malformed,
    /// Longer than [`MAX_TOKEN_BYTES`](super::jws::MAX_TOKEN_BYTES).
    #[error("the token is too long")]
    TooLong,
    /// A header parameter that is missing, of the wrong type, or never accepted.
    #[error("the header parameter `{0}` is missing or not accepted")]
    Header(&'static str),
    /// `alg` is not the one algorithm of the key.
    #[error("the algorithm is not the key's")]
    Algorithm,
    /// No key of the issuer has this `kid`, or the issuer has several and the token names none.
    #[error("no key of the issuer has this id")]
    UnknownKey,
    /// No key of the set that was fetched from the issuer has this `kid`; it may be a new one.
    #[error("no key that was fetched from the issuer has this id")]
    UnknownRemoteKey(IssuerIndex),
    /// The issuer's key set could not be fetched yet; whose it is, when the token names a key.
    #[error("the keys of the issuer have not been fetched")]
    NoIssuerKeys(Option<IssuerIndex>),
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Signature,
    /// `iss` is nobody we know.
    #[error("the issuer is not configured")]
    WrongIssuer,
    /// `iss` is configured, but not for this route.
    #[error("the issuer is not accepted on this route")]
    IssuerNotAccepted,
    /// `aud` does not name us.
    #[error("the token is for another audience")]
    WrongAudience,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` lies in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// A claim that is missing, of the wrong type, or against the rules.
    #[error("the claim `{0}` is missing or not acceptable")]
    Claim(&'static str),
    /// An API key that is not known: never made, revoked, or its user deleted.
    #[error("the API key is not known")]
    UnknownApiKey,
    /// An API key after its end.
    #[error("the API key has expired")]
    ApiKeyExpired,
    /// An API key of a disabled user.
    #[error("the user of the API key is disabled")]
    ApiKeyDisabled,
    /// The token was good, but its session has been ended.
    #[error("the session has ended")]
    SessionEnded,
}

impl Rejection {
    /// The issuer whose key set, fetched again, may change this.
    pub fn asks_for_keys_of(self) -> Option<IssuerIndex> {
        match self {
            Self::UnknownRemoteKey(issuer) => Some(issuer),
            Self::NoIssuerKeys(issuer) => issuer,
            _ => None,
        }
    }

    /// A stable `snake_case` word for logs, metrics and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::Header(_) => "bad_header",
            Self::Algorithm => "wrong_algorithm",
            Self::UnknownKey | Self::UnknownRemoteKey(_) => "unknown_key",
            Self::NoIssuerKeys(_) => "issuer_keys_unknown",
            Self::Signature => "bad_signature",
            Self::WrongIssuer => "wrong_issuer",
            Self::IssuerNotAccepted => "issuer_not_accepted",
            Self::WrongAudience => "wrong_audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Claim(_) => "bad_claim",
            Self::UnknownApiKey => "unknown_api_key",
            Self::ApiKeyExpired => "api_key_expired",
            Self::ApiKeyDisabled => "api_key_disabled",
            Self::SessionEnded => "session_ended",
        }
    }
}
