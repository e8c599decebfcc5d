//! `[links]`: where links in letters lead.

use serde::Deserialize;

use crate::config::units::Interval;

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
    /// How long a link, and the code in the same letter, can be used. Default 1 h.
    pub lifetime: Interval,
    /// The same of an invitation. Default 7 d.
    pub invite_lifetime: Interval,
    /// How long a code can be used that shows again who has a session. Default 10 min.
    pub code_lifetime: Interval,
    /// Nothing is sent if the last letter of the kind to the account is younger. Default 60 s.
    pub resend_interval: Interval,
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
            lifetime: Interval::hours(1),
            invite_lifetime: Interval::hours(7 * 24),
            code_lifetime: Interval::seconds(600),
            resend_interval: Interval::seconds(60),
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
