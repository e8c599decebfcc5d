//! `[limits]`: named rate limits.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::OnOutage;
use crate::config::units::Rate;

/// `[limits]`: the built-in ones and any number of named ones for routes.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Limits(pub BTreeMap<String, Limit>);

impl Default for Limits {
    fn default() -> Self {
        Self(Self::built_in().into_iter().map(|(n, l)| (n.to_owned(), l)).collect())
    }
}

impl Limits {
    /// The configured limits and the built-in rest.
    pub fn with_built_in(&self) -> BTreeMap<String, Limit> {
        let mut limits = self.0.clone();
        for (name, limit) in Self::built_in() {
            limits.entry(name.to_owned()).or_insert(limit);
        }
        limits
    }

    /// The limit whose refusal is no 429: see `AuthError::code`.
    pub const REFRESH_OF_SESSION: &'static str = "refresh_session";

    /// The limits that exist without being written: sign-up, login, refused refreshes, letters and
    /// their links, OAuth endpoints per address; login per network; login, letters and their codes per
    /// account; refreshes per session; exports of the own data, the making of API keys, second factors
    /// per user.
    pub fn built_in() -> Vec<(&'static str, Limit)> {
        let limit = |n, seconds, by| Limit { rate: Rate::new(n, seconds), by, on_outage: None };
        vec![
            ("signup", limit(5, 60, LimitBy::Ip)),
            ("login", limit(5, 60, LimitBy::Ip)),
            ("login_network", limit(60, 60, LimitBy::Network)),
            ("login_account", limit(20, 3600, LimitBy::Account)),
            ("refresh", limit(30, 60, LimitBy::Ip)),
            (Self::REFRESH_OF_SESSION, limit(30, 60, LimitBy::Session)),
            ("mail", limit(10, 3600, LimitBy::Ip)),
            ("mail_account", limit(4, 3600, LimitBy::Account)),
            ("verify", limit(30, 60, LimitBy::Ip)),
            ("verify_account", limit(10, 3600, LimitBy::Account)),
            ("user_data", limit(10, 3600, LimitBy::User)),
            ("oauth", limit(60, 60, LimitBy::Ip)),
            ("api_keys", limit(30, 3600, LimitBy::User)),
            ("factor", limit(10, 60, LimitBy::User)),
        ]
    }
}

/// One entry of `[limits]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// How many in which time, for example `"5/minute"`.
    pub rate: Rate,
    /// What is counted apart.
    pub by: LimitBy,
    /// Overrides `counters.on_outage`.
    #[serde(default)]
    pub on_outage: Option<OnOutage>,
}

/// What a limit counts apart.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LimitBy {
    /// The e-mail address tried, known or not.
    Account,
    /// The client address (IPv6: its /64).
    Ip,
    /// The network of the client address (IPv4: its /24, IPv6: its /48).
    Network,
    /// One count for the whole route.
    Route,
    /// The token's session; the client address when there is none.
    Session,
    /// The token's subject; the client address when anonymous.
    User,
}

impl LimitBy {
    /// The word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Ip => "ip",
            Self::Network => "network",
            Self::Route => "route",
            Self::Session => "session",
            Self::User => "user",
        }
    }
}
