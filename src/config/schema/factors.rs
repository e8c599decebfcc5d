//! `[factors]`: second factors.

use serde::Deserialize;

use crate::config::units::Interval;

/// `[factors]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Factors {
    /// Let users enrol second factors. Those that are enrolled stay in force. Default true.
    pub enabled: bool,
    /// What authenticator apps call the site. Default: the host of `links.site_url`.
    pub issuer: Option<String>,
    /// Most factors of one user. Default 10.
    pub max: usize,
    /// How long a code can be given for a challenge. Default 5 min.
    pub challenge_lifetime: Interval,
    /// Refuse, on every route that looks at tokens, those of users with a second factor whose session
    /// has not shown it. Without this a second factor protects the account itself, and the routes
    /// that say `require_aal2`. Default true.
    pub enforce: bool,
}

impl Default for Factors {
    fn default() -> Self {
        Self {
            enabled: true,
            issuer: None,
            max: 10,
            challenge_lifetime: Interval::seconds(300),
            enforce: true,
        }
    }
}
