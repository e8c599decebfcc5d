//! `[tokens]`: what this gateway issues.

use secrecy::SecretString;
use serde::Deserialize;

use crate::config::units::Interval;

/// `[tokens]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tokens {
    /// `iss` of our tokens. Default `http://127.0.0.1:8080/auth`. *(restart)*
    pub issuer: String,
    /// `aud` of our tokens. Default `authenticated`. *(restart)*
    pub audience: String,
    /// Signature algorithm. Default `ES256`. *(restart)*
    pub algorithm: Algorithm,
    /// Replace the signing key when it has signed for this long; 0 = never. Default 0. *(restart)*
    pub rotate_every: Interval,
    /// A new key is published this long before it signs, at least 10 min. Default 10 min. *(restart)*
    pub key_notice: Interval,
    /// HS256 only: the shared secret, at least 32 bytes. *(restart)*
    pub secret: Option<SecretString>,
    /// Life of an access token. Default 24 h. *(restart)*
    pub access_lifetime: Interval,
    /// Life of a session from its login, however often it is refreshed. Default 30 days. *(restart)*
    pub refresh_lifetime: Interval,
    /// A session that is not refreshed for this long ends. Default 7 days. *(restart)*
    pub refresh_idle: Interval,
    /// Clock difference that is forgiven. Default 30 s. *(restart)*
    pub leeway: Interval,
    /// Refuse tokens with 503 when ended sessions have not been read for this long. Default: go on. *(restart)*
    pub max_staleness: Option<Interval>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            issuer: "http://127.0.0.1:8080/auth".to_owned(),
            audience: "authenticated".to_owned(),
            algorithm: Algorithm::Es256,
            rotate_every: Interval::seconds(0),
            key_notice: Interval::seconds(600),
            secret: None,
            access_lifetime: Interval::hours(24),
            refresh_lifetime: Interval::hours(30 * 24),
            refresh_idle: Interval::hours(7 * 24),
            leeway: Interval::seconds(30),
            max_staleness: None,
        }
    }
}

/// A JWS signature algorithm (RFC 7518 §3.1, RFC 8037).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    /// The name in a JOSE header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
        }
    }
}
