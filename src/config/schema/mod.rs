//! The configuration as operators write it: one file a section, one struct per TOML table, every
//! field with its default, unit and effect. Nothing here is checked against anything else; that is
//! the work of the modules that compile a table into its working form.
//!
//! *(restart)* marks keys, or whole tables, that only a restart takes; a reload takes all others.
//! [`restart`](super::restart) has the same list.

mod admin;
mod api_keys;
mod cookies;
mod discovery;
mod events;
mod expectations;
mod factors;
mod headers;
mod issuers;
mod limits;
mod links;
mod log;
mod login_hook;
mod mail;
mod passwords;
mod routes;
mod secrets;
mod server;
mod sessions;
mod storage;
mod tokens;
mod upstreams;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

pub use admin::*;
pub use api_keys::*;
pub use cookies::*;
pub use discovery::*;
pub use events::*;
pub use expectations::*;
pub use factors::*;
pub use headers::*;
pub use issuers::*;
pub use limits::*;
pub use links::*;
pub use log::*;
pub use login_hook::*;
pub use mail::*;
pub use passwords::*;
pub use routes::*;
pub use secrets::*;
pub use server::*;
pub use sessions::*;
pub use storage::*;
pub use tokens::*;
pub use upstreams::*;

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Public listeners and limits of a connection.
    pub server: Server,
    /// The listener for probes and metrics.
    pub admin: Admin,
    /// Taking a changed configuration while running.
    pub reload: Reload,
    /// Where users, sessions and events live.
    pub storage: Storage,
    /// What protects private keys where users live.
    pub secrets: Secrets,
    /// Where rate counters live.
    pub counters: Counters,
    /// Access and refresh tokens that this gateway issues.
    pub tokens: Tokens,
    /// Logins that last.
    pub sessions: Sessions,
    /// Who may create an account.
    pub signup: Signup,
    /// Password rule and hashing cost.
    pub passwords: Passwords,
    /// An earlier system that is asked about first logins. Default: none.
    pub login_hook: Option<LoginHook>,
    /// Second factors.
    pub factors: Factors,
    /// Where links in letters lead.
    pub links: Links,
    /// Letters to users.
    pub mail: Mail,
    /// How programs act as a user.
    pub api_keys: ApiKeys,
    /// How long events are kept, and whom they are handed on to.
    pub events: Events,
    /// Documents by which clients find the endpoints.
    pub discovery: Discovery,
    /// Named rate limits.
    pub limits: Limits,
    /// Names of the headers that carry the identity to upstreams.
    pub identity_headers: IdentityHeaders,
    /// Cross-origin requests.
    pub cors: Cors,
    /// Sessions in cookies.
    pub cookies: Cookies,
    /// Access log and diagnostics.
    pub log: Log,
    /// Other parties whose access tokens are accepted.
    pub issuers: Vec<Issuer>,
    /// The APIs behind the gateway, by name.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Which request goes where, and who may make it.
    pub routes: Vec<Route>,
    /// Requests with their expected decision, checked by `check`, before start and before a reload.
    pub tests: Vec<Test>,
}

impl Config {
    /// The files whose content is part of the configuration, though it only names them: what
    /// compiling it reads.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let keys = self.issuers.iter();
        let keys = keys.flat_map(|issuer| [&issuer.key_file, &issuer.ca]).flatten();
        let tls = self.upstreams.values().map(|upstream| &upstream.tls);
        let tls = tls.flat_map(|tls| [&tls.ca, &tls.certificate, &tls.private_key]).flatten();
        let hook = self.login_hook.iter().filter_map(|hook| hook.ca.as_ref());
        let events = self.events.webhook.iter().filter_map(|webhook| webhook.ca.as_ref());
        keys.chain(tls).chain(hook).chain(events).cloned().chain(self.mail.files())
    }

    /// The address of the site that accounts are for; none, when nothing says it.
    pub fn site_url(&self) -> Option<String> {
        if let Some(site) = &self.links.site_url {
            return Some(site.clone());
        }
        let origin = Url::parse(&self.tokens.issuer).ok()?.origin();
        origin.is_tuple().then(|| origin.ascii_serialization())
    }
}
