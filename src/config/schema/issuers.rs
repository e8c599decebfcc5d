//! `[[issuers]]`: other parties whose access tokens are accepted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::Algorithm;
use crate::config::units::Interval;

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
    /// Algorithms its keys may be used with; with `key_file` one, as there is one key.
    pub algorithms: Vec<Algorithm>,
    /// PEM public key, or for HS256 a file with the secret.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Where its JWK set is; instead of `key_file`.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// `kid` that tokens must name; for `key_file`. Default: none asked for.
    #[serde(default)]
    pub kid: Option<String>,
    /// The claim that must be `audience`. Default `aud`.
    #[serde(default = "aud")]
    pub audience_claim: String,
    /// What tokens must say of themselves in `typ`. Default `required`.
    #[serde(default)]
    pub typ: TokenType,
    /// Claims that must be there with exactly these texts. Default: none.
    #[serde(default)]
    pub require: BTreeMap<String, String>,
    /// What its claims are called.
    #[serde(default)]
    pub claims: ClaimNames,
    /// Its roles and what they are called here; others are left out. Default: they keep their
    /// names.
    #[serde(default)]
    pub role_map: BTreeMap<String, String>,
    /// Longest time from `iat` to `exp`. Default: its own affair.
    #[serde(default)]
    pub max_lifetime: Option<Interval>,
    /// How often the JWK set is fetched. Default 10 min.
    #[serde(default = "refresh")]
    pub refresh: Interval,
    /// The set is fetched for a `kid` that is not in it, or after a failure, at most this often.
    /// Default 30 s.
    #[serde(default = "cooldown")]
    pub cooldown: Interval,
    /// PEM file with the authorities that the set's server is proved by. Default: the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// `typ` of `[[issuers]]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenType {
    /// `JWT` or `at+jwt`.
    #[default]
    Required,
    /// One of them, or nothing.
    Optional,
    /// `at+jwt` (RFC 9068), which no id token has.
    #[serde(rename = "at+jwt")]
    AccessToken,
}

/// `claims` of `[[issuers]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimNames {
    /// Who it is. Default `sub`.
    pub subject: String,
    /// The e-mail address. Default `email`.
    pub email: String,
    /// Whether the address is confirmed. Default `email_verified`.
    pub email_verified: String,
    /// The list of roles. Default: `app_metadata.roles`, else `roles`.
    pub roles: Option<ClaimPath>,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            subject: "sub".to_owned(),
            email: "email".to_owned(),
            email_verified: "email_verified".to_owned(),
            roles: None,
        }
    }
}

/// Where a claim is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum ClaimPath {
    /// At the top, under this very name, whatever characters it has.
    Name(String),
    /// Within objects, the outermost first.
    Path(Vec<String>),
}

impl ClaimPath {
    /// The names on the way, the outermost first.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Name(name) => std::slice::from_ref(name),
            Self::Path(names) => names,
        }
    }
}

fn aud() -> String {
    "aud".to_owned()
}

fn refresh() -> Interval {
    Interval::seconds(600)
}

fn cooldown() -> Interval {
    Interval::seconds(30)
}

#[cfg(test)]
impl Issuer {
    /// An issuer with one key.
    pub(crate) fn of_key_file(name: &str, algorithm: Algorithm, key_file: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            issuer: format!("https://{name}.example/"),
            audience: "api".to_owned(),
            algorithms: vec![algorithm],
            key_file: Some(key_file),
            jwks_url: None,
            kid: None,
            audience_claim: aud(),
            typ: TokenType::default(),
            require: BTreeMap::new(),
            claims: ClaimNames::default(),
            role_map: BTreeMap::new(),
            max_lifetime: None,
            refresh: refresh(),
            cooldown: cooldown(),
            ca: None,
        }
    }
}
