//! `[sessions]`: logins that last.

use serde::Deserialize;

/// `[sessions]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    /// How many running sessions a user may have: a login beyond that ends the oldest. 0 = any
    /// number. Default 0.
    pub max_per_user: u32,
}
