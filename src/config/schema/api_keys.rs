//! `[api_keys]`: how programs act as a user.

use serde::Deserialize;

use crate::config::units::Interval;

/// `[api_keys]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiKeys {
    /// Take API keys, on the routes that say so. Default true.
    pub enabled: bool,
    /// Let users make keys of their own. Default false: administrators only.
    pub self_service: bool,
    /// Most keys that a user may have at a time; administrators may give more. Default 20.
    pub max_per_user: u32,
    /// Longest life of a key that a user makes; 0s = no end is needed. Default 0s.
    pub max_lifetime: Interval,
}

impl Default for ApiKeys {
    fn default() -> Self {
        Self {
            enabled: true,
            self_service: false,
            max_per_user: 20,
            max_lifetime: Interval::seconds(0),
        }
    }
}
