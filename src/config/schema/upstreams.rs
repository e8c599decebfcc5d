//! `[upstreams.NAME]`: the APIs behind the gateway.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

use crate::config::units::Interval;

/// `[upstreams.NAME]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Its servers: `http://host:port`, `https://host:port` or `unix:/path`, or a table with such a
    /// `url` and a `weight`.
    pub servers: Vec<UpstreamServer>,
    /// What is spoken with them. Default `http1`.
    #[serde(default)]
    pub protocol: Protocol,
    /// Which server a request goes to. Default `round_robin`.
    #[serde(default)]
    pub balance: Balance,
    /// Time to connect, TLS included. Default 2 s.
    #[serde(default = "Upstream::default_connect_timeout")]
    pub connect_timeout: Interval,
    /// Time to the response head. Default 60 s.
    #[serde(default = "Upstream::default_response_timeout")]
    pub response_timeout: Interval,
    /// Silence within a response body. Default 60 s.
    #[serde(default = "Upstream::default_idle_timeout")]
    pub idle_timeout: Interval,
    /// Idle connections kept by each worker to each server. Default 1,024.
    #[serde(default = "Upstream::default_max_idle_connections")]
    pub max_idle_connections: usize,
    /// An idle connection is closed after this; keep it below the server's own limit. Default 4 s
    /// (Node closes after 5).
    #[serde(default = "Upstream::default_keep_alive")]
    pub keep_alive: Interval,
    /// Open connections to each server over all workers; 0 = no limit. Default 0.
    #[serde(default)]
    pub max_connections: usize,
    /// Requests over all workers that may wait for a connection when each server has
    /// `max_connections`; 503 at once beyond. Default 0.
    #[serde(default)]
    pub max_waiting: usize,
    /// Longest such wait; then 503. Default 1 s.
    #[serde(default = "Upstream::default_wait_timeout")]
    pub wait_timeout: Interval,
    /// Repeated attempts as a share of the requests of the last ten seconds, 0 to 1; each worker
    /// may make ten in that time anyway. 0 = never repeat. Default 0.2.
    #[serde(default = "Upstream::default_retry_budget")]
    pub retry_budget: f64,
    /// A server that comes back gets its full share only after this. Default 0 s: at once.
    #[serde(default = "Upstream::default_slow_start")]
    pub slow_start: Interval,
    /// The addresses of a name are looked up again after this. Default 30 s.
    #[serde(default = "Upstream::default_resolve_interval")]
    pub resolve_interval: Interval,
    /// When a server is passed over because requests to it fail.
    #[serde(default)]
    pub ejection: Ejection,
    /// Checks of each server beside the requests. Default none.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// TLS to `https://` servers. Default: the system's roots, no client certificate.
    #[serde(default)]
    pub tls: UpstreamTls,
    /// Which `Host` the upstream sees. Default `preserve`.
    #[serde(default)]
    pub host: HostHeader,
}

impl Upstream {
    fn default_connect_timeout() -> Interval {
        Interval::seconds(2)
    }
    fn default_response_timeout() -> Interval {
        Interval::seconds(60)
    }
    fn default_idle_timeout() -> Interval {
        Interval::seconds(60)
    }
    fn default_max_idle_connections() -> usize {
        1024
    }
    fn default_keep_alive() -> Interval {
        Interval::seconds(4)
    }
    fn default_wait_timeout() -> Interval {
        Interval::seconds(1)
    }
    fn default_retry_budget() -> f64 {
        0.2
    }
    fn default_slow_start() -> Interval {
        Interval::seconds(0)
    }
    fn default_resolve_interval() -> Interval {
        Interval::seconds(30)
    }
}

/// One entry of `upstreams.NAME.servers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamServer {
    /// `http://host:port`, `https://host:port` or `unix:/path`.
    pub url: String,
    /// Its share of the requests beside the other servers'. Default 1.
    pub weight: u32,
}

impl<'de> Deserialize<'de> for UpstreamServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            url: String,
            #[serde(default = "one")]
            weight: u32,
        }
        fn one() -> u32 {
            1
        }
        struct Entry;

        impl<'de> de::Visitor<'de> for Entry {
            type Value = UpstreamServer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a server's address, or a table with `url` and `weight`")
            }

            fn visit_str<E: de::Error>(self, url: &str) -> Result<UpstreamServer, E> {
                Ok(UpstreamServer { url: url.to_owned(), weight: 1 })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<UpstreamServer, A::Error> {
                let Table { url, weight } =
                    Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(UpstreamServer { url, weight })
            }
        }

        deserializer.deserialize_any(Entry)
    }
}

/// What is spoken with an upstream.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 over TLS, agreed by ALPN.
    H2,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
}

impl Protocol {
    /// The word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::H2 => "h2",
            Self::H2c => "h2c",
        }
    }
}

/// Which server a request goes to.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// The one with the fewest requests in flight, by weight.
    LeastRequests,
    /// Always the same one for a subject (a client address when anonymous), as long as it is up.
    HashUser,
}

impl Balance {
    /// The word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastRequests => "least_requests",
            Self::HashUser => "hash_user",
        }
    }
}

/// `upstreams.NAME.ejection`
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Ejection {
    /// Requests to a server that fail in a row before it is passed over; 0 = never. Default 5.
    pub failures: u32,
    /// How long it is passed over the first time; doubled each time. Default 500 ms.
    pub base: Interval,
    /// The longest time. Default 30 s.
    pub max: Interval,
}

impl Default for Ejection {
    fn default() -> Self {
        let base = Interval(std::time::Duration::from_millis(500));
        Self { failures: 5, base, max: Interval::seconds(30) }
    }
}

/// `[upstreams.NAME.health]`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Asked for with `GET`.
    pub path: String,
    /// Time between two checks of a server. Default 5 s.
    #[serde(default = "HealthCheck::default_interval")]
    pub interval: Interval,
    /// Time for one check. Default 1 s.
    #[serde(default = "HealthCheck::default_timeout")]
    pub timeout: Interval,
    /// Good checks in a row that bring a server back. Default 2.
    #[serde(default = "HealthCheck::default_healthy")]
    pub healthy: u32,
    /// Bad checks in a row that take a server out. Default 3.
    #[serde(default = "HealthCheck::default_unhealthy")]
    pub unhealthy: u32,
    /// Statuses of a good check. Default `[200]`.
    #[serde(default = "HealthCheck::default_status")]
    pub status: Vec<u16>,
}

impl HealthCheck {
    fn default_interval() -> Interval {
        Interval::seconds(5)
    }
    fn default_timeout() -> Interval {
        Interval::seconds(1)
    }
    fn default_healthy() -> u32 {
        2
    }
    fn default_unhealthy() -> u32 {
        3
    }
    fn default_status() -> Vec<u16> {
        vec![200]
    }
}

/// `[upstreams.NAME.tls]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// PEM file with the authorities that sign the servers' certificates. Default: the system's.
    pub ca: Option<PathBuf>,
    /// PEM file with our client certificate's chain, leaf first. Default none.
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key.
    pub private_key: Option<PathBuf>,
    /// The name that the servers' certificates must have. Default: the host of each server.
    pub server_name: Option<String>,
}

/// Which `Host` an upstream sees.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum HostHeader {
    /// The client's.
    #[default]
    Preserve,
    /// The server's own authority.
    Upstream,
}
