//! The configuration as operators write it: one struct per TOML table, every field with its
//! default, unit and effect. Nothing here is checked against anything else; that is the work of
//! the modules that compile a table into its working form.
//!
//! *(restart)* marks keys, or whole tables, that only a restart takes; a reload takes all others.
//! [`restart`](super::restart) has the same list.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};

use super::units::{ByteSize, Interval, Listen, Rate};

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
    /// Where rate counters live.
    pub counters: Counters,
    /// Access and refresh tokens that this gateway issues.
    pub tokens: Tokens,
    /// Who may create an account.
    pub signup: Signup,
    /// Password rule and hashing cost.
    pub passwords: Passwords,
    /// Named rate limits.
    pub limits: Limits,
    /// Names of the headers that carry the identity to upstreams.
    pub identity_headers: IdentityHeaders,
    /// Cross-origin requests.
    pub cors: Cors,
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
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let keys = self.issuers.iter().map(|issuer| &issuer.key_file);
        let tls = self.upstreams.values().map(|upstream| &upstream.tls);
        keys.chain(tls.flat_map(|tls| [&tls.ca, &tls.certificate, &tls.private_key]).flatten())
    }
}

/// `[server]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Where to listen: `IP:PORT`, or `unix:FILE`. Default `["127.0.0.1:8080"]`. *(restart)*
    pub listen: Vec<Listen>,
    /// Worker threads; 0 = one per processor. Default 0. *(restart)*
    pub workers: usize,
    /// Path prefix that the gateway answers itself. Default `/auth`. *(restart)*
    pub auth_prefix: String,
    /// Networks whose forwarding header is believed. Default none.
    pub trusted_proxies: Vec<IpNet>,
    /// The one header a trusted proxy writes. Default `x-forwarded-for`.
    pub forwarded_header: ForwardedHeader,
    /// Open client connections over all workers. Default 20000. *(restart)*
    pub max_connections: usize,
    /// Of these, from one client address (IPv6: its /64). `trusted_proxies` and the peers in
    /// `proxy_protocol` have no such limit; a client behind the latter counts by its own address.
    /// Default 256, with none for loopback; when set, it is for loopback too. *(restart)*
    pub max_connections_per_address: Option<usize>,
    /// Networks whose connections must begin with a PROXY header (version 1 or 2), which then says
    /// who the peer is; all others must not send one. Default none. *(restart)*
    pub proxy_protocol: Vec<IpNet>,
    /// Time for a PROXY header and a TLS handshake, together. Default 10 s. *(restart)*
    pub handshake_timeout: Interval,
    /// Time for a whole request head. Default 10 s. *(restart)*
    pub header_timeout: Interval,
    /// Silence between two pieces of a request body. Default 15 s.
    pub body_timeout: Interval,
    /// Silence between two requests. Default 75 s. *(restart)*
    pub idle_timeout: Interval,
    /// Longest request head; 431 beyond. Default 32 KiB. *(restart)*
    pub max_header_bytes: ByteSize,
    /// Longest request body; 413 beyond. Default 1 GiB.
    pub max_body_bytes: ByteSize,
    /// Not ready but still accepting, so that balancers notice. Default 0 s. *(restart)*
    pub drain_delay: Interval,
    /// Time for running requests to finish at shutdown. Default 30 s. *(restart)*
    pub drain_timeout: Interval,
    /// Offer HTTP/2 on TLS listeners (ALPN). Default true. *(restart)*
    pub http2: bool,
    /// Speak HTTP/2 with clients that begin with its preface on plain listeners. Default false.
    /// *(restart)*
    pub h2c: bool,
    /// Write `Forwarded` (RFC 7239) beside `X-Forwarded-*`. Default false.
    pub send_forwarded: bool,
    /// Open tunnels (`WebSocket`s) over all workers; 503 beyond. Default 10000.
    pub max_tunnels: usize,
    /// A tunnel in which neither side sends anything for this long is closed. Default 1 h.
    pub tunnel_idle_timeout: Interval,
    /// Time for tunnels to end at shutdown; at most `drain_timeout` counts. Default 10 s.
    pub tunnel_drain_timeout: Interval,
    /// Serve TLS on every listener. Default none: plain HTTP. *(restart)*
    pub tls: Option<ServerTls>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            workers: 0,
            auth_prefix: "/auth".to_owned(),
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::XForwardedFor,
            max_connections: 20_000,
            max_connections_per_address: None,
            proxy_protocol: Vec::new(),
            handshake_timeout: Interval::seconds(10),
            header_timeout: Interval::seconds(10),
            body_timeout: Interval::seconds(15),
            idle_timeout: Interval::seconds(75),
            max_header_bytes: ByteSize::kib(32),
            max_body_bytes: ByteSize::gib(1),
            drain_delay: Interval::seconds(0),
            drain_timeout: Interval::seconds(30),
            http2: true,
            h2c: false,
            send_forwarded: false,
            max_tunnels: 10_000,
            tunnel_idle_timeout: Interval::hours(1),
            tunnel_drain_timeout: Interval::seconds(10),
            tls: None,
        }
    }
}

/// `[server.tls]`. The files are read again when they change.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// PEM file with the certificate chain, leaf first: for clients that name no server, or one
    /// that no other certificate is for.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub private_key: PathBuf,
    /// Further certificates, each for the names in it. Default none.
    #[serde(default)]
    pub certificates: Vec<CertificatePair>,
    /// Whether clients are asked for a certificate. Default `off`.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    /// PEM file with the authorities whose client certificates are good. Needed unless
    /// `client_certificates` is `off`.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Oldest version of TLS. Default `1.2`.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// `[[server.tls.certificates]]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct CertificatePair {
    /// PEM file with the certificate chain, leaf first.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub private_key: PathBuf,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not.
    #[default]
    Off,
    /// They are; one that is shown must be good.
    Optional,
    /// They must show a good one.
    Require,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V1_3,
}

/// The header from which the client address is read behind a trusted proxy.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`
    #[default]
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
    /// `Forwarded` (RFC 7239)
    #[serde(rename = "forwarded")]
    Forwarded,
}

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

/// `[tokens]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tokens {
    /// `iss` of our tokens. Default `http://127.0.0.1:8080/auth`. *(restart)*
    pub issuer: String,
    /// `aud` of our tokens. Default `authenticated`. *(restart)*
    pub audience: String,
    /// Signature algorithm. Default `ES256`. *(restart)*
    pub algorithm: Algorithm,
    /// HS256 only: the shared secret, at least 32 bytes. *(restart)*
    pub secret: Option<SecretString>,
    /// Life of an access token. Default 24 h. *(restart)*
    pub access_lifetime: Interval,
    /// Life of a session from its login, however often it is refreshed. Default 30 days. *(restart)*
    pub refresh_lifetime: Interval,
    /// A session that is not refreshed for this long ends. Default 7 days. *(restart)*
    pub refresh_idle: Interval,
    /// Clock difference that is forgiven. Default 30 s. *(restart)*
    pub leeway: Interval,
    /// Refuse tokens with 503 when ended sessions have not been read for this long. Default: go on. *(restart)*
    pub max_staleness: Option<Interval>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            issuer: "http://127.0.0.1:8080/auth".to_owned(),
            audience: "authenticated".to_owned(),
            algorithm: Algorithm::Es256,
            secret: None,
            access_lifetime: Interval::hours(24),
            refresh_lifetime: Interval::hours(30 * 24),
            refresh_idle: Interval::hours(7 * 24),
            leeway: Interval::seconds(30),
            max_staleness: None,
        }
    }
}

/// A JWS signature algorithm (RFC 7518 §3.1, RFC 8037).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    /// The name in a JOSE header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
        }
    }
}

/// `[signup]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Signup {
    /// Let anyone create an account. Default true.
    pub enabled: bool,
}

impl Default for Signup {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[passwords]` *(restart)*
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Passwords {
    /// Fewest characters. Default 8.
    pub min_length: usize,
    /// Kinds of character that must occur. Default lower case, upper case, digit.
    pub require: Vec<CharacterClass>,
    /// Refuse the bundled list of common passwords. Default true.
    pub refuse_common: bool,
    /// Cost of a new hash.
    pub argon2: Argon2,
    /// Hashing threads; 0 = one per processor. Default 0.
    pub max_concurrent_hashes: usize,
    /// Hashes that may wait for a thread; 503 beyond. Default 64.
    pub max_queued_hashes: usize,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            min_length: 8,
            require: vec![
                CharacterClass::Lowercase,
                CharacterClass::Uppercase,
                CharacterClass::Digit,
            ],
            refuse_common: true,
            argon2: Argon2::default(),
            max_concurrent_hashes: 0,
            max_queued_hashes: 64,
        }
    }
}

/// A kind of character that a password must hold.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CharacterClass {
    /// Any digit.
    Digit,
    /// Any lower-case letter.
    Lowercase,
    /// Anything that is neither letter nor digit.
    Symbol,
    /// Any upper-case letter.
    Uppercase,
}

/// `passwords.argon2`: cost of Argon2id (RFC 9106).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Argon2 {
    /// Memory for one hash. Default 19 MiB.
    pub memory: ByteSize,
    /// Passes over the memory. Default 2.
    pub iterations: u32,
    /// Lanes. Default 1.
    pub parallelism: u32,
}

impl Default for Argon2 {
    fn default() -> Self {
        Self { memory: ByteSize::mib(19), iterations: 2, parallelism: 1 }
    }
}

/// `[limits]`: the four built-in ones and any number of named ones for routes.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Limits(pub BTreeMap<String, Limit>);

impl Default for Limits {
    fn default() -> Self {
        Self(Self::built_in().into_iter().map(|(n, l)| (n.to_owned(), l)).collect())
    }
}

impl Limits {
    /// The limits that exist without being written: sign-up and login per address, login per
    /// account, refresh per address.
    pub fn built_in() -> [(&'static str, Limit); 4] {
        let limit = |n, seconds, by| Limit { rate: Rate::new(n, seconds), by, on_outage: None };
        [
            ("signup", limit(5, 60, LimitBy::Ip)),
            ("login", limit(5, 60, LimitBy::Ip)),
            ("login_account", limit(20, 3600, LimitBy::Account)),
            ("refresh", limit(30, 60, LimitBy::Ip)),
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
    /// One count for the whole route.
    Route,
    /// The token's subject; the client address when anonymous.
    User,
}

impl LimitBy {
    /// The word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Ip => "ip",
            Self::Route => "route",
            Self::User => "user",
        }
    }
}

/// `[identity_headers]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityHeaders {
    /// The token's subject. Default `X-User-Id`.
    pub user_id: String,
    /// The e-mail address, when it is confirmed. Default `X-User-Email`.
    pub email: String,
    /// Roles, sorted, comma separated. Default `X-User-Roles`.
    pub roles: String,
    /// The session. Default `X-Session-Id`.
    pub session_id: String,
    /// The subject of the client certificate that was shown on the connection, on every route
    /// (RFC 4514, such as `CN=printer,O=Example`). Default `X-Client-Certificate-Subject`.
    pub client_certificate: String,
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self {
            user_id: "X-User-Id".to_owned(),
            email: "X-User-Email".to_owned(),
            roles: "X-User-Roles".to_owned(),
            session_id: "X-Session-Id".to_owned(),
            client_certificate: "X-Client-Certificate-Subject".to_owned(),
        }
    }
}

/// `[cors]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    /// Exact origins; empty = off. Default empty.
    pub allowed_origins: Vec<String>,
    /// Methods a preflight is granted.
    pub allowed_methods: Vec<String>,
    /// Request headers a preflight is granted.
    pub allowed_headers: Vec<String>,
    /// Answer headers that scripts may read.
    pub exposed_headers: Vec<String>,
    /// Send `Access-Control-Allow-Credentials`. Default false.
    pub allow_credentials: bool,
    /// How long a browser may keep a preflight's answer. Default 10 min.
    pub max_age: Interval,
}

impl Default for Cors {
    fn default() -> Self {
        let list = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        Self {
            allowed_origins: Vec::new(),
            allowed_methods: list(&["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
            allowed_headers: list(&[
                "authorization",
                "content-type",
                "apikey",
                "x-client-info",
                "x-supabase-api-version",
            ]),
            exposed_headers: list(&[
                "retry-after",
                "x-request-id",
                "x-total-count",
                "link",
                "x-supabase-api-version",
            ]),
            allow_credentials: false,
            max_age: Interval::seconds(600),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Write one line for each request to standard output. Default true. *(restart)*
    pub access: bool,
    /// `auto` (text on a terminal, else JSON), `json` or `text`. Default `auto`. *(restart)*
    pub format: LogFormat,
    /// Least serious diagnostics on standard error: `error`, `warn`, `info`, `debug`, `trace`,
    /// or a filter by module. Default `info`. *(restart)*
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { access: true, format: LogFormat::Auto, level: "info".to_owned() }
    }
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `[[issuers]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The name routes use.
    pub name: String,
    /// Exact `iss`.
    pub issuer: String,
    /// Exact `aud` (one of them, when the token has several).
    pub audience: String,
    /// Algorithms its key may be used with; one, as there is one key.
    pub algorithms: Vec<Algorithm>,
    /// PEM public key, or for HS256 a file with the secret.
    pub key_file: PathBuf,
    /// `kid` that tokens must name. Default: none asked for.
    #[serde(default)]
    pub kid: Option<String>,
}

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
    /// Idle connections kept by each worker to each server. Default 100.
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
        100
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

/// `[[routes]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Segments, `{name}`, `{name:uuid}`, `{name:int}`, a final `{*rest}`.
    pub path: String,
    /// Methods; default all. `HEAD` follows `GET`.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Name of the upstream. Needed unless `access = "deny"`.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Who may come in. Default `authenticated`.
    #[serde(default)]
    pub access: Access,
    /// Only for clients that have shown a good certificate, whatever else is asked for. Default
    /// false.
    #[serde(default)]
    pub client_certificate: bool,
    /// Path variable that must equal the subject; `none` opts out. Default `user_id` when the path
    /// has it.
    #[serde(default)]
    pub owner: Option<String>,
    /// Why `owner = "none"` is right.
    #[serde(default)]
    pub reason: Option<String>,
    /// Any of these roles is needed. Default none.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Roles that may act on another user's path. Default none.
    #[serde(default)]
    pub owner_override_roles: Vec<String>,
    /// Names of `[[issuers]]`, `self` for our own. Default `["self"]`.
    #[serde(default)]
    pub issuers: Vec<String>,
    /// Names from `[limits]`. Default none.
    #[serde(default)]
    pub limit: Vec<String>,
    /// Overrides of the upstream's timeouts.
    #[serde(default)]
    pub timeouts: RouteTimeouts,
    /// Overrides `server.max_body_bytes`.
    #[serde(default)]
    pub max_body_bytes: Option<ByteSize>,
    /// Pass the bearer token on. Default false.
    #[serde(default)]
    pub forward_token: bool,
    /// Taken off the front of the path before it is forwarded.
    #[serde(default)]
    pub strip_prefix: Option<String>,
    /// Let `%2F` stand in a segment. Default false.
    #[serde(default)]
    pub allow_encoded_slash: bool,
    /// Answer an owner mismatch like an unknown route. Default false.
    #[serde(default)]
    pub hide_mismatch: bool,
    /// Take the access token of a WebSocket handshake also from `Sec-WebSocket-Protocol`, as
    /// `bearer.TOKEN` or as `bearer, TOKEN`. Default false.
    #[serde(default)]
    pub websocket_token: bool,
    /// Origins that browsers may call this route from; a request with another `Origin` is 403.
    /// Default any.
    #[serde(default)]
    pub allowed_origins: Vec<String>,
    /// Keep a tunnel open when its token expires or its session ends. Default false.
    #[serde(default)]
    pub tunnel_outlives_token: bool,
    /// Who answers CORS preflights. Default the gateway.
    #[serde(default)]
    pub preflight: Preflight,
    /// `shadow` decides and logs, but lets through. Default `enforce`.
    #[serde(default)]
    pub mode: Mode,
}

/// `routes.timeouts`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteTimeouts {
    /// To a connection, TLS included.
    pub connect: Option<Interval>,
    /// To the response head.
    pub response: Option<Interval>,
    /// Silence within a response body.
    pub idle: Option<Interval>,
    /// From the request's arrival to the end of its answer. Default: no limit.
    pub total: Option<Interval>,
}

/// Who may come in.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// A valid token.
    #[default]
    Authenticated,
    /// Nobody.
    Deny,
    /// No token is fine; a bad one is not.
    Optional,
    /// Tokens are not looked at.
    Public,
}

/// Who answers CORS preflights.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Preflight {
    /// The gateway.
    #[default]
    Answer,
    /// The upstream.
    Forward,
}

/// Whether a route's decision is binding.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is.
    #[default]
    Enforce,
    /// It is logged and counted only.
    Shadow,
}

/// `[[tests]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// `METHOD PATH`.
    pub request: String,
    /// Subject of the token; without it the request is anonymous.
    #[serde(default, rename = "as")]
    pub subject: Option<String>,
    /// Roles of the subject.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Name of the issuer; default our own.
    #[serde(default)]
    pub issuer: Option<String>,
    /// Subject of a client certificate; without it the client has shown none.
    #[serde(default)]
    pub client_certificate: Option<String>,
    /// `"allow"`, or the status of the refusal.
    pub expect: Expectation,
}

/// Expected outcome of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The request would be forwarded.
    Allow,
    /// The request would be refused with this status.
    Refuse(u16),
}

impl<'de> Deserialize<'de> for Expectation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Outcome;

        impl de::Visitor<'_> for Outcome {
            type Value = Expectation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"allow\" or one of 400, 401, 403, 404, 405")
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<Expectation, E> {
                match u16::try_from(status) {
                    Ok(status @ (400 | 401 | 403 | 404 | 405)) => Ok(Expectation::Refuse(status)),
                    _ => Err(E::invalid_value(de::Unexpected::Other("status"), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, status: i64) -> Result<Expectation, E> {
                self.visit_u64(u64::try_from(status).unwrap_or(0))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Expectation, E> {
                if word == "allow" {
                    return Ok(Expectation::Allow);
                }
                self.visit_u64(word.parse().unwrap_or(0))
            }
        }

        deserializer.deserialize_any(Outcome)
    }
}
