//! How to reach Redis: the URL an operator writes, and the two kinds of connection behind it.
//! Knows nothing of limits. The URL may hold a password, so it appears in no error and no log.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, Pipeline, RedisFuture,
    RedisResult, Value,
};

use super::LimitError;

/// Time to connect. Requests do not wait for it, so it may be generous; recovery does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// After this the driver gives up on an answer nobody waits for any more.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The kernel gives a connection up when the other side has acknowledged nothing for this long:
/// a host that vanished without a word would else be believed in for a quarter of an hour.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Commands that may queue for the one connection. The default of 50 makes a busy gateway wait
/// for a place in the queue rather than for Redis.
const QUEUE: usize = 1_024;

/// Where `counters.url` points to.
#[derive(Debug)]
pub enum Target {
    /// `memory:`
    Memory,
    /// Anything else.
    Redis(Server),
}

impl Target {
    /// Reads `counters.url`:
    ///
    /// ```text
    /// memory:
    /// redis://[user:password@]host[:port][/database]             rediss:// with TLS
    /// redis+unix:///path[?db=N&user=U&pass=P]
    /// redis-cluster://[user:password@]host[:port],host[:port]…   rediss-cluster:// with TLS
    /// ```
    ///
    /// # Errors
    /// [`LimitError::Url`].
    pub fn parse(url: &str) -> Result<Self, LimitError> {
        if url == "memory:" {
            return Ok(Self::Memory);
        }
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        match scheme {
            "redis" | "rediss" | "redis+unix" => {
                Client::open(connection_info(url)?).map(|client| Server::Single(Box::new(client))).map_err(|error| refused(&error))
            }
            "redis-cluster" => Server::cluster("redis", rest),
            "rediss-cluster" => Server::cluster("rediss", rest),
            _ => Err(LimitError::Url(
                "the counters' url must be memory: or begin with redis://, rediss://, redis+unix://, redis-cluster:// or rediss-cluster://"
                    .to_owned(),
            )),
        }
        .map(Self::Redis)
    }
}

/// A Redis that can be connected to.
pub enum Server {
    /// One server, or a proxy that looks like one.
    Single(Box<Client>),
    /// A cluster. The client library has no connection manager for it; the cluster connection
    /// minds its nodes itself.
    Cluster(Box<ClusterClient>),
}

impl Server {
    fn cluster(scheme: &str, rest: &str) -> Result<Self, LimitError> {
        let (login, hosts) = rest
            .rsplit_once('@')
            .map_or(("", rest), |(login, hosts)| (&rest[..=login.len()], hosts));
        let nodes = hosts
            .trim_end_matches('/')
            .split(',')
            .map(|host| connection_info(&format!("{scheme}://{login}{host}")))
            .collect::<Result<Vec<_>, _>>()?;
        ClusterClient::builder(nodes)
            .tcp_settings(tcp_settings())
            // Follows one redirect or lost node within a call; the breaker sees the rest.
            .retries(1)
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(RESPONSE_TIMEOUT)
            .overall_response_timeout(Some(RESPONSE_TIMEOUT))
            .build()
            .map(|client| Self::Cluster(Box::new(client)))
            .map_err(|error| refused(&error))
    }

    /// A connection that is made in the background, on the current runtime, and mended by itself
    /// when it breaks. Without retries: the caller knows better when to try again.
    pub(super) fn connect(&self) -> RedisResult<Link> {
        match self {
            Self::Single(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(0)
                    .set_connection_timeout(Some(CONNECT_TIMEOUT))
                    .set_response_timeout(Some(RESPONSE_TIMEOUT))
                    .set_pipeline_buffer_size(QUEUE);
                ConnectionManager::new_lazy_with_config(Client::clone(client), config)
                    .map(Link::Single)
            }
            Self::Cluster(client) => Ok(Link::Cluster(
                client.get_pending_async_connection_with_config(ClusterConfig::new()),
            )),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single(_) => "Single(..)",
            Self::Cluster(_) => "Cluster(..)",
        })
    }
}

/// A connection to either kind. Clones share it.
#[derive(Clone)]
pub(super) enum Link {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(link) => link.req_packed_command(cmd),
            Self::Cluster(link) => link.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(link) => link.req_packed_commands(cmd, offset, count),
            Self::Cluster(link) => link.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(link) => link.get_db(),
            Self::Cluster(link) => link.get_db(),
        }
    }
}

fn connection_info(url: &str) -> Result<ConnectionInfo, LimitError> {
    let info = url.into_connection_info().map_err(|error| refused(&error))?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
        return Err(LimitError::Url(
            "the counters' url ends in #insecure, which would trust any certificate; add the right one to the system's or name it in SSL_CERT_FILE"
                .to_owned(),
        ));
    }
    Ok(info.set_tcp_settings(tcp_settings()))
}

/// Without `TCP_NODELAY` a command may wait 40 ms for the acknowledgement of the one before.
fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true).set_user_timeout(TCP_USER_TIMEOUT)
}

/// The library's own sentences are constant; only its details may quote what was written.
fn refused(error: &redis::RedisError) -> LimitError {
    LimitError::Url(match error.detail() {
        None => format!("the counters' url is malformed: {error}"),
        Some(_) => "the counters' url is malformed".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_every_kind_are_taken() {
        for url in [
            "memory:",
            "redis://127.0.0.1",
            "redis://127.0.0.1:6379/3",
            "redis://user:pass@redis.example:6379",
            "rediss://:pass@redis.example",
            "redis://[::1]:6379",
            "redis+unix:///run/redis.sock",
            "redis+unix:///run/redis.sock?db=2&pass=x",
            "redis-cluster://a:7000,b:7001,c",
            "redis-cluster://user:p%40ss@a:7000,b:7001/",
            "rediss-cluster://:pass@a",
        ] {
            let target = Target::parse(url);
            assert!(target.is_ok(), "{url}: {target:?}");
        }
    }

    #[test]
    fn other_urls_are_refused_without_showing_the_password() {
        for url in [
            "",
            "memory",
            "memory:x",
            "redis:",
            "redis://",
            "postgres://u:sesame@h/db",
            "http://u:sesame@h",
            "redis://u:sesame@h:port",
            "redis://u:sesame@h/x",
            "rediss://u:sesame@h#insecure",
            "rediss-cluster://u:sesame@h#insecure",
            "redis-cluster://u:sesame@",
            "redis-cluster://u:sesame@a,,b",
            "redis+unix://u:sesame@relative",
        ] {
            let error = Target::parse(url).expect_err(url);
            assert!(matches!(error, LimitError::Url(_)), "{url}");
            assert!(!format!("{error} {error:?}").contains("sesame"), "{error:?}");
        }
        let target = Target::parse("redis://u:sesame@h").expect("a url");
        assert!(!format!("{target:?}").contains("sesame"));
    }
}
