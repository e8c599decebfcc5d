//! `[admin]` and `[reload]`: what an operator uses while the gateway runs.

use std::net::SocketAddr;

use serde::Deserialize;

use crate::config::units::Interval;

/// `[admin]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address for `/health/live`, `/health/ready`, `/metrics`, `/config` and `/reload`.
    /// Default `127.0.0.1:9090`. *(restart)*
    pub listen: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9090)) }
    }
}

/// `[reload]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reload {
    /// How often the content of the configuration file, and of the files that it and variables
    /// name, is looked at for a change; 0 = never. Default 5 s.
    pub watch: Interval,
}

impl Default for Reload {
    fn default() -> Self {
        Self { watch: Interval::seconds(5) }
    }
}
