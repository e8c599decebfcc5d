//! `[links]`: where links in letters lead.

use serde::Deserialize;

/// `[links]` *(restart)*
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Links {
    /// The address of the site that letters speak of. Default: scheme, host and port of
    /// `tokens.issuer`.
    pub site_url: Option<String>,
}
