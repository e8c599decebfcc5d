//! `[cookies]`: sessions in cookies, for apps in a browser.

use serde::Deserialize;

/// `[cookies]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cookies {
    /// Hand out sessions in cookies to pages that ask for it, and take access tokens from there.
    /// Default false.
    pub enabled: bool,
    /// Which requests of other sites carry the cookies. Default `lax`.
    pub same_site: SameSite,
}

/// The attribute `SameSite`. `None` is missing on purpose: the cookies would go out with every
/// request that any site makes a browser send, and most browsers drop such cookies anyway.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    /// Only following a link from another site carries them.
    #[default]
    Lax,
    /// None does.
    Strict,
}
