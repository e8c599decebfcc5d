//! `[[issuers]]`: other parties whose access tokens are accepted.

use std::path::PathBuf;

use serde::Deserialize;

use super::Algorithm;

/// `[[issuers]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The name routes use.
    pub name: String,
    /// Exact `iss`.
    pub issuer: String,
    /// Exact `aud` (one of them, when the token has several).
    pub audience: String,
    /// Algorithms its key may be used with; one, as there is one key.
    pub algorithms: Vec<Algorithm>,
    /// PEM public key, or for HS256 a file with the secret.
    pub key_file: PathBuf,
    /// `kid` that tokens must name. Default: none asked for.
    #[serde(default)]
    pub kid: Option<String>,
}
