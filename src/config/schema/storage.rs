//! `[storage]` and `[counters]`: the servers that hold state.

use secrecy::SecretString;
use serde::Deserialize;

/// `[storage]` *(restart)*
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// `sqlite:FILE` or `postgres://user:pass@host/db?sslmode=…&sslrootcert=…`.
    /// Default `sqlite:portcullis.db`.
    pub url: SecretString,
    /// Database connections. Default 16.
    pub max_connections: usize,
    /// Bring the schema up to date at start. Default true; otherwise run `portcullis migrate`.
    pub migrate: bool,
}

impl Default for Storage {
    fn default() -> Self {
        Self { url: "sqlite:portcullis.db".into(), max_connections: 16, migrate: true }
    }
}

/// `[counters]` *(restart)*
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counters {
    /// `memory:`, `redis://`, `rediss://`, `redis+unix://` or `redis-cluster://`. Default `memory:`.
    pub url: SecretString,
    /// Put before every key. Default `portcullis:`.
    pub key_prefix: String,
    /// What a limit does while the counters are unreachable. Default `local`.
    pub on_outage: OnOutage,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            url: "memory:".into(),
            key_prefix: "portcullis:".to_owned(),
            on_outage: OnOutage::Local,
        }
    }
}

/// What a limit does while the counters are unreachable.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnOutage {
    /// Count in this process.
    #[default]
    Local,
    /// Let everything pass.
    Allow,
    /// Refuse with 503.
    Deny,
}
