//! `[server]`: public listeners, limits of a connection, TLS.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use crate::config::units::{ByteSize, Interval, Listen};

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
