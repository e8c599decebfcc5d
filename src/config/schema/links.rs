//! `[links]`: where links in letters lead.

use serde::Deserialize;

/// `[links]` *(restart)*
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Links {
    /// The address of the site that letters speak of. Default: scheme, host and port of
    /// `tokens.issuer`.
    pub site_url: Option<String>,
    /// Where links may lead beside the site: whole addresses, addresses with a `*` at the end of
    /// their path, or `myapp://*`. Whatever else is asked for becomes the site. Default none.
    pub redirects: Vec<String>,
    /// Show a page with a button before a link does anything. Mail programs and virus scanners
    /// follow links to look at them: without the page they use them up. Default true.
    pub confirm_page: bool,
    /// Which addresses have to agree when a user wants another one: `both` or `new`. Default
    /// `both`.
    pub email_change: EmailChange,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            site_url: None,
            redirects: Vec::new(),
            confirm_page: true,
            email_change: EmailChange::Both,
        }
    }
}

/// Which addresses have to agree to a change of address.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum EmailChange {
    /// The present and the new one.
    Both,
    /// The new one: whoever holds a session can take the account away.
    New,
}
