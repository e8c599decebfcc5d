//! `[[tests]]`: requests with their expected decision.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// `[[tests]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// `METHOD PATH`.
    pub request: String,
    /// Subject of the token; without it the request is anonymous.
    #[serde(default, rename = "as")]
    pub subject: Option<String>,
    /// Roles of the subject.
    #[serde(default)]
    pub roles: Vec<String>,
    /// What the subject's API key is good for; without it the subject calls with a token of its own.
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    /// Whether the subject's session has shown a second factor. Default false.
    #[serde(default)]
    pub aal2: bool,
    /// Name of the issuer; default our own.
    #[serde(default)]
    pub issuer: Option<String>,
    /// Whether the token is in our cookie. Default false.
    #[serde(default)]
    pub cookie: bool,
    /// With `cookie`: the origin of the page that asks. Default: a page of our own.
    #[serde(default)]
    pub origin: Option<String>,
    /// Subject of a client certificate; without it the client has shown none.
    #[serde(default)]
    pub client_certificate: Option<String>,
    /// `"allow"`, or the status of the refusal.
    pub expect: Expectation,
}

/// Expected outcome of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The request would be forwarded.
    Allow,
    /// The request would be refused with this status.
    Refuse(u16),
}

impl<'de> Deserialize<'de> for Expectation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Outcome;

        impl de::Visitor<'_> for Outcome {
            type Value = Expectation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"allow\" or one of 400, 401, 403, 404, 405")
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<Expectation, E> {
                match u16::try_from(status) {
                    Ok(status @ (400 | 401 | 403 | 404 | 405)) => Ok(Expectation::Refuse(status)),
                    _ => Err(E::invalid_value(de::Unexpected::Other("status"), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, status: i64) -> Result<Expectation, E> {
                self.visit_u64(u64::try_from(status).unwrap_or(0))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Expectation, E> {
                if word == "allow" {
                    return Ok(Expectation::Allow);
                }
                self.visit_u64(word.parse().unwrap_or(0))
            }
        }

        deserializer.deserialize_any(Outcome)
    }
}
