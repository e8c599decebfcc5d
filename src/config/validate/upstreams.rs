//! Upstreams and their servers.

use std::time::Duration;

use http::uri::Uri;

use super::Found;
use crate::config::{HealthCheck, Interval, Protocol, Upstream, UpstreamTls};

/// Most servers of an upstream: every choice among them looks at each.
const MAX_SERVERS: usize = 256;

/// The longest path of a Unix socket (`sun_path` without its end).
const MAX_SOCKET_PATH: usize = 107;

pub(super) fn upstream(name: &str, upstream: &Upstream, found: &mut Found) {
    let at = |key: &str| format!("upstreams.{name}.{key}");
    if upstream.servers.is_empty() {
        found.add(at("servers"), "needs at least one server, such as \"http://127.0.0.1:8000\"");
    }
    if upstream.servers.len() > MAX_SERVERS {
        found.add(at("servers"), format!("must be at most {MAX_SERVERS}"));
    }
    for (index, server) in upstream.servers.iter().enumerate() {
        let at = format!("upstreams.{name}.servers[{index}]");
        if let Err(message) = check_server(&server.url, upstream.protocol) {
            found.add(&at, message);
        } else if upstream.servers[..index].iter().any(|other| other.url == server.url) {
            found.add(&at, "is there twice; give it a weight instead");
        }
        if !(1..=1000).contains(&server.weight) {
            found.add(at, "the weight must be from 1 to 1000");
        }
    }
    found.not_zero(at("connect_timeout"), upstream.connect_timeout);
    found.not_zero(at("response_timeout"), upstream.response_timeout);
    found.not_zero(at("idle_timeout"), upstream.idle_timeout);
    found.not_zero(at("keep_alive"), upstream.keep_alive);
    found.not_zero(at("wait_timeout"), upstream.wait_timeout);
    found.not_zero(at("ejection.base"), upstream.ejection.base);
    if upstream.ejection.max < upstream.ejection.base {
        found.add(at("ejection.max"), "must not be shorter than ejection.base");
    }
    if !(0.0..=1.0).contains(&upstream.retry_budget) {
        found.add(at("retry_budget"), "must be from 0 to 1");
    }
    // Faster would only load the resolver: getaddrinfo does not tell for how long an answer holds.
    if upstream.resolve_interval < Interval::seconds(1) {
        found.add(at("resolve_interval"), "must be at least 1s");
    }
    if let Some(health) = &upstream.health {
        health_check(&at("health"), health, found);
    }
    upstream_tls(&at("tls"), &upstream.tls, found);
}

fn health_check(at: &str, health: &HealthCheck, found: &mut Found) {
    let target = health.path.parse::<http::uri::PathAndQuery>();
    if !health.path.starts_with('/') || health.path.contains('#') || target.is_err() {
        found.add(format!("{at}.path"), "must be a path with an optional query, such as /healthz");
    }
    if health.interval.0 < Duration::from_millis(100) {
        found.add(format!("{at}.interval"), "must be at least 100ms");
    }
    found.not_zero(format!("{at}.timeout"), health.timeout);
    for (key, count) in [("healthy", health.healthy), ("unhealthy", health.unhealthy)] {
        if count == 0 {
            found.add(format!("{at}.{key}"), "must be at least 1");
        }
    }
    if health.status.is_empty() || !health.status.iter().all(|code| (200..=599).contains(code)) {
        found.add(format!("{at}.status"), "must be a list of statuses from 200 to 599");
    }
}

fn upstream_tls(at: &str, tls: &UpstreamTls, found: &mut Found) {
    match (&tls.certificate, &tls.private_key) {
        (Some(_), None) => {
            found.add(format!("{at}.private_key"), "is missing: the certificate needs its key");
        }
        (None, Some(_)) => {
            found.add(format!("{at}.certificate"), "is missing: the key needs its certificate");
        }
        _ => {}
    }
    if tls.server_name.as_deref().is_some_and(|name| !is_server_name(name)) {
        found.add(format!("{at}.server_name"), "must be a host name or an IP address");
    }
}

fn is_server_name(name: &str) -> bool {
    rustls::pki_types::ServerName::try_from(name).is_ok()
}

fn check_server(server: &str, protocol: Protocol) -> Result<(), &'static str> {
    const FORM: &str = "must be http://HOST:PORT, https://HOST:PORT or unix:/PATH, such as \
                        \"http://127.0.0.1:8000\"";
    let has_tls = server.starts_with("https://");
    match protocol {
        Protocol::H2 if !has_tls => {
            return Err("protocol \"h2\" is HTTP/2 over TLS and needs https://HOST:PORT; without \
                        TLS it is \"h2c\"");
        }
        Protocol::H2c if has_tls => {
            return Err("protocol \"h2c\" is HTTP/2 without TLS; with https:// it is \"h2\"");
        }
        _ => {}
    }
    if let Some(path) = server.strip_prefix("unix:") {
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err("a Unix socket needs an absolute path, such as unix:/run/app.sock");
        }
        if path.len() > MAX_SOCKET_PATH {
            return Err("the path of a Unix socket has at most 107 bytes");
        }
        return Ok(());
    }
    let authority = server.strip_prefix("http://").or_else(|| server.strip_prefix("https://"));
    let Some(authority) = authority else { return Err(FORM) };
    if authority.contains('@') {
        return Err("must not have a user or password");
    }
    if authority.contains(['/', '?', '#']) {
        return Err("must not have a path, query or fragment; the request's own is sent");
    }
    let uri: Uri = server.parse().map_err(|_| FORM)?;
    match (uri.host(), uri.port_u16()) {
        (None | Some("" | "[]"), _) => Err(FORM),
        (Some(_), None) => Err("needs a port, such as http://HOST:80"),
        (Some(_), Some(0)) => Err("port 0 is no port to connect to"),
        (Some(host), Some(_)) if has_tls && !is_server_name(host.trim_matches(['[', ']'])) => {
            Err("the host is no name that a certificate could have")
        }
        (Some(_), Some(_)) => Ok(()),
    }
}
