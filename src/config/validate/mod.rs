//! What is wrong with a configuration when each table is looked at by itself. What needs the whole
//! (routes against upstreams, tests against routes) is found where the parts are compiled. Nothing
//! here reads files or asks the network, and no message quotes a secret or an address that may
//! hold one.

mod issuers;
mod mail;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::{
    Algorithm, Argon2, ByteSize, ClientCertificates, Config, Cors, IdentityHeaders, Interval,
    Listen, Mail, MailTransport, Problem, Secrets, Server, ServerTls, Tokens, UpstreamTls,
};
use crate::model::{is_role_name, is_unprintable};
use crate::secrets::SealingKey;

/// Everything that is wrong.
pub fn problems(config: &Config) -> Vec<Problem> {
    let mut found = Found::default();
    server(&config.server, &mut found);
    let admin = Listen::Tcp(config.admin.listen);
    if config.server.listen.iter().any(|listen| listen.collides_with(&admin)) {
        found.add(
            "admin.listen",
            "is also in server.listen; probes and metrics are not for the public",
        );
    }
    // Sooner, and a file that is being written would look finished.
    let watch = config.reload.watch.0;
    if !watch.is_zero() && watch < Duration::from_millis(100) {
        found.add("reload.watch", "must be 0s, for never, or at least 100ms");
    }
    storage(config, &mut found);
    secrets(&config.secrets, &mut found);
    tokens(&config.tokens, &mut found);
    passwords(config, &mut found);
    factors(config, &mut found);
    mail::links(config, &mut found);
    mail::mail(config, &mut found);
    // They go by whole days.
    if config.events.retention.is_some_and(|time| time < Interval::hours(24)) {
        found.add("events.retention", "must be at least 1d; without it events are kept for ever");
    }
    for name in config.limits.0.keys().filter(|name| !is_limit_name(name)) {
        found.add(format!("limits.{name}"), "a limit's name is made of a-z, 0-9, `_` and `-`");
    }
    identity_headers(&config.identity_headers, &mut found);
    cors(&config.cors, &mut found);
    issuers::issuers(&config.issuers, &config.tokens.issuer, &mut found);
    for (name, each) in &config.upstreams {
        upstreams::upstream(name, each, &mut found);
    }
    for (index, route) in config.routes.iter().enumerate() {
        let at = format!("routes[{index}]");
        roles(&route.roles, &format!("{at}.roles"), &mut found);
        roles(&route.owner_override_roles, &format!("{at}.owner_override_roles"), &mut found);
        let timeouts = [
            ("connect", route.timeouts.connect),
            ("response", route.timeouts.response),
            ("idle", route.timeouts.idle),
            ("total", route.timeouts.total),
        ];
        for (index, origin) in route.allowed_origins.iter().enumerate() {
            if !is_origin(origin) {
                found.add(format!("{at}.allowed_origins[{index}]"), not_an_origin(origin));
            }
        }
        for (key, timeout) in timeouts {
            found.not_zero(format!("{at}.timeouts.{key}"), timeout);
        }
    }
    for (index, test) in config.tests.iter().enumerate() {
        roles(&test.roles, &format!("tests[{index}].roles"), &mut found);
    }
    found.0
}

/// What is allowed, but an operator should think about.
pub fn advice(config: &Config) -> Vec<Problem> {
    let mut found = Found::default();
    for (index, network) in config.server.trusted_proxies.iter().enumerate() {
        if network.prefix_len() == 0 {
            found.add(
                format!("server.trusted_proxies[{index}]"),
                "trusts everybody, so that every client may choose the address it is limited by",
            );
        }
    }
    if !meets_owasp(config.passwords.argon2) {
        found.add(
            "passwords.argon2",
            "hashes are cheaper to guess than OWASP advises: 19MiB with 2 iterations, or 46MiB \
             with 1, 12MiB with 3, 9MiB with 4, 7MiB with 5",
        );
    }
    let Mail { transport, url, webhook, .. } = &config.mail;
    if url.is_some() && *transport != MailTransport::Smtp {
        found.add("mail.url", "says nothing while mail.transport is not \"smtp\"");
    }
    if webhook.is_some() && *transport != MailTransport::Webhook {
        found.add("mail.webhook", "says nothing while mail.transport is not \"webhook\"");
    }
    for (name, upstream) in &config.upstreams {
        let has_tls = upstream.servers.iter().any(|server| server.url.starts_with("https://"));
        if upstream.tls != UpstreamTls::default() && !has_tls {
            let at = format!("upstreams.{name}.tls");
            found.add(at, "says nothing: none of the servers is https://");
        }
    }
    if config.cookies.enabled && config.site_url().is_some_and(|url| is_plain(&url)) {
        found.add(
            "cookies.enabled",
            "browsers keep these cookies over https and on localhost only; the site is neither, by \
             links.site_url or tokens.issuer",
        );
    }
    if config.routes.is_empty() {
        found.add("routes", "there are none: only the gateway's own endpoints answer");
    }
    found.0
}

/// Whether a page at this address may be read, and changed, on its way: not over TLS, and not on this
/// machine (what browsers call potentially trustworthy).
fn is_plain(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !is_here
}

/// Problems found so far.
#[derive(Default)]
struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem::new(key, message));
    }

    fn not_zero(&mut self, key: impl Into<String>, time: impl Into<Option<Interval>>) {
        if time.into().is_some_and(|time| time.0.is_zero()) {
            self.add(key, "must be longer than 0s");
        }
    }

    fn not_empty(&mut self, key: impl Into<String>, text: &str) {
        if text.trim().is_empty() {
            self.add(key, "must not be empty");
        }
    }
}

fn factors(config: &Config, found: &mut Found) {
    let factors = &config.factors;
    if !(1..=100).contains(&factors.max) {
        found
            .add("factors.max", "must be from 1 to 100; factors.enabled = false lets nobody enrol");
    }
    // Shorter, and nobody could type the code in time.
    if !(30..=3600).contains(&factors.challenge_lifetime.0.as_secs()) {
        found.add("factors.challenge_lifetime", "must be from 30s to 1h");
    }
    if let Some(issuer) = &factors.issuer
        && (!(1..=64).contains(&issuer.chars().count()) || issuer.chars().any(is_unprintable))
    {
        // It stands twice in a QR code.
        found.add("factors.issuer", "must be 1 to 64 characters that can be shown");
    }
}

fn server(server: &Server, found: &mut Found) {
    if server.listen.is_empty() {
        found.add("server.listen", "needs at least one address, such as \"127.0.0.1:8080\"");
    }
    for (index, listen) in server.listen.iter().enumerate() {
        if server.listen[..index].iter().any(|earlier| earlier.collides_with(listen)) {
            found.add(format!("server.listen[{index}]"), format!("{listen} is there twice"));
        }
    }
    if server.workers > 1024 {
        found.add("server.workers", "must be at most 1024; 0 takes one for each processor");
    }
    if let Err(message) = check_prefix(&server.auth_prefix) {
        found.add("server.auth_prefix", message);
    }
    if server.max_connections == 0 {
        found.add("server.max_connections", "must be at least 1");
    }
    if server.max_connections_per_address == Some(0) {
        found.add("server.max_connections_per_address", "must be at least 1");
    }
    found.not_zero("server.handshake_timeout", server.handshake_timeout);
    if let Some(tls) = &server.tls {
        server_tls(tls, found);
    }
    found.not_zero("server.header_timeout", server.header_timeout);
    found.not_zero("server.body_timeout", server.body_timeout);
    found.not_zero("server.idle_timeout", server.idle_timeout);
    found.not_zero("server.tunnel_idle_timeout", server.tunnel_idle_timeout);
    // Below, no browser gets through; above, a few thousand idle clients could hold gigabytes.
    if !(ByteSize::kib(1)..=ByteSize::mib(1)).contains(&server.max_header_bytes) {
        found.add("server.max_header_bytes", "must be from 1KiB to 1MiB");
    }
}

fn server_tls(tls: &ServerTls, found: &mut Found) {
    match (tls.client_certificates, &tls.client_ca) {
        (ClientCertificates::Off, Some(_)) => found.add(
            "server.tls.client_ca",
            "is of no use while client_certificates is off; set that to \"optional\" or \"require\"",
        ),
        (ClientCertificates::Optional | ClientCertificates::Require, None) => found.add(
            "server.tls.client_ca",
            "is missing: client_certificates needs the authorities that are good",
        ),
        _ => {}
    }
}

/// The prefix is compared with canonical request paths, so it has to be one itself, and spelled
/// with characters that have no second spelling (RFC 3986 §2.3).
fn check_prefix(prefix: &str) -> Result<(), &'static str> {
    let Some(path) = prefix.strip_prefix('/') else {
        return Err("must begin with `/`");
    };
    if path.is_empty() {
        return Err("must not be all of `/`: nothing would be left for routes");
    }
    if path.ends_with('/') {
        return Err("must not end with `/`");
    }
    for segment in path.split('/') {
        if matches!(segment, "" | "." | "..") {
            return Err("must not have empty, `.` or `..` segments");
        }
        if segment.contains(['{', '}']) {
            return Err("must not have variables");
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        if !segment.bytes().all(plain) {
            return Err("must be made of A-Z, a-z, 0-9, `-`, `.`, `_`, `~` and `/`");
        }
    }
    Ok(())
}

fn storage(config: &Config, found: &mut Found) {
    let known = |url: &SecretString, schemes: &[&str]| {
        schemes.iter().any(|scheme| {
            url.expose_secret().strip_prefix(scheme).is_some_and(|rest| !rest.is_empty())
        })
    };
    if !known(&config.storage.url, &["sqlite:", "postgres://", "postgresql://"]) {
        found.add("storage.url", "must be sqlite:FILE or postgres://USER:PASSWORD@HOST/DATABASE");
    }
    if config.storage.max_connections == 0 {
        found.add("storage.max_connections", "must be at least 1");
    }
    let servers = ["redis://", "rediss://", "redis+unix://", "redis-cluster://"];
    if config.counters.url.expose_secret() != "memory:" && !known(&config.counters.url, &servers) {
        found.add(
            "counters.url",
            "must be memory: or begin with redis://, rediss://, redis+unix:// or redis-cluster://",
        );
    }
}

fn secrets(secrets: &Secrets, found: &mut Found) {
    let mut known = BTreeSet::new();
    let keys = secrets.key.iter().map(|key| ("secrets.key".to_owned(), key));
    let previous = secrets.previous.iter().enumerate();
    let previous = previous.map(|(index, key)| (format!("secrets.previous[{index}]"), key));
    for (at, key) in keys.chain(previous) {
        match SealingKey::parse(key.expose_secret()) {
            Err(error) => found.add(at, error.to_string()),
            Ok(key) if !known.insert(key.id()) => found.add(at, "is there twice"),
            Ok(_) => {}
        }
    }
    if secrets.key.is_none() {
        if !secrets.previous.is_empty() {
            found.add("secrets.previous", "needs secrets.key, under which all is kept from now on");
        }
        if secrets.require {
            found.add("secrets.require", "needs secrets.key: without it nothing can be sealed");
        }
    }
}

fn tokens(tokens: &Tokens, found: &mut Found) {
    found.not_empty("tokens.issuer", &tokens.issuer);
    found.not_empty("tokens.audience", &tokens.audience);
    match (tokens.algorithm, &tokens.secret) {
        (Algorithm::Hs256, None) => found.add(
            "tokens.secret",
            "is missing: algorithm HS256 needs a secret of at least 32 bytes",
        ),
        (Algorithm::Hs256, Some(secret)) => {
            if let Err(message) = check_secret(secret.expose_secret()) {
                found.add("tokens.secret", message);
            }
        }
        (other, Some(_)) => found.add(
            "tokens.secret",
            format!("only HS256 has a secret; {} keeps its keys in the database", other.name()),
        ),
        (_, None) => {}
    }
    // The `max-age` of the JWKS.
    if tokens.key_notice.0 < Duration::from_mins(10) {
        found.add("tokens.key_notice", "must be at least 10m: others keep the JWKS that long");
    }
    let rotate_every = tokens.rotate_every.0;
    if !rotate_every.is_zero() {
        if tokens.algorithm == Algorithm::Hs256 {
            found.add("tokens.rotate_every", "HS256 has a secret, and no keys to replace");
        }
        if rotate_every < tokens.key_notice.0.saturating_mul(2) {
            found.add(
                "tokens.rotate_every",
                "must be 0s, for never, or at least twice tokens.key_notice",
            );
        }
    }
    // Times in tokens are whole seconds (RFC 7519 §2).
    for (key, time) in [
        ("tokens.access_lifetime", Some(tokens.access_lifetime)),
        ("tokens.refresh_lifetime", Some(tokens.refresh_lifetime)),
        ("tokens.refresh_idle", Some(tokens.refresh_idle)),
        ("tokens.max_staleness", tokens.max_staleness),
    ] {
        if time.is_some_and(|time| time.0 < Duration::from_secs(1)) {
            found.add(key, "must be at least 1s");
        }
    }
    if tokens.refresh_idle > tokens.refresh_lifetime {
        found.add("tokens.refresh_idle", "must not be longer than tokens.refresh_lifetime");
    }
}

/// Secrets that documentation gives away, so that everybody can sign with them.
const PUBLISHED_SECRETS: [&str; 3] = [
    "a-string-secret-at-least-256-bits-long",
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "your-super-secret-jwt-token-with-at-least-32-characters-long",
];

/// RFC 7518 §3.2: a key at least as long as the hash; RFC 8725 §3.5: not a guessable one.
fn check_secret(secret: &str) -> Result<(), &'static str> {
    if secret.len() < 32 {
        return Err("must have at least 32 bytes");
    }
    let distinct: BTreeSet<u8> = secret.bytes().collect();
    // 32 random hex digits have fewer than six kinds among them once in a hundred million times.
    if distinct.len() < 6 {
        return Err("repeats too few characters; make one with `openssl rand -base64 32`");
    }
    if PUBLISHED_SECRETS.contains(&secret) {
        return Err("is an example that everybody knows; make one with `openssl rand -base64 32`");
    }
    Ok(())
}

fn passwords(config: &Config, found: &mut Found) {
    let passwords = &config.passwords;
    // Passwords have at most 1024 bytes, and a character up to four.
    if !(1..=256).contains(&passwords.min_length) {
        found.add("passwords.min_length", "must be from 1 to 256");
    }
    let Argon2 { memory, iterations, parallelism } = passwords.argon2;
    if parallelism == 0 {
        found.add("passwords.argon2.parallelism", "must be at least 1");
    }
    if iterations == 0 {
        found.add("passwords.argon2.iterations", "must be at least 1");
    }
    // RFC 9106 §3.1: at least 8 KiB for each lane.
    if memory < ByteSize::kib(8 * u64::from(parallelism.max(1))) {
        found.add("passwords.argon2.memory", "must be at least 8KiB for each lane of parallelism");
    }
    if memory > ByteSize::mib(256) {
        found.add("passwords.argon2.memory", "must be at most 256MiB: every login takes as much");
    }
}

/// OWASP Password Storage Cheat Sheet: pairs of equal strength.
fn meets_owasp(cost: Argon2) -> bool {
    [(19, 2), (46, 1), (12, 3), (9, 4), (7, 5)]
        .into_iter()
        .any(|(mib, iterations)| cost.memory >= ByteSize::mib(mib) && cost.iterations >= iterations)
}

fn is_limit_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    !name.is_empty() && name.bytes().all(fine)
}

/// Headers with a meaning of their own. An identity header is removed from every request, so one of
/// these names would break requests or let clients steer the connection.
const STANDARD_HEADERS: &str = "
    accept accept-charset accept-encoding accept-language authorization baggage cache-control
    connection content-disposition content-encoding content-language content-length
    content-location content-range content-type cookie date expect forwarded from host if-match
    if-modified-since if-none-match if-range if-unmodified-since keep-alive last-modified location
    origin pragma range referer set-cookie te traceparent tracestate trailer transfer-encoding
    upgrade user-agent vary via x-real-ip x-request-id
";

/// Beginnings of such names.
const STANDARD_FAMILIES: [&str; 8] = [
    "access-control-",
    "proxy-",
    "ratelimit",
    "sec-",
    "x-forwarded-",
    "x-http-method",
    "x-original-",
    "x-rewrite-",
];

fn identity_headers(headers: &IdentityHeaders, found: &mut Found) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for (key, name) in [
        ("user_id", &headers.user_id),
        ("email", &headers.email),
        ("roles", &headers.roles),
        ("issuer", &headers.issuer),
        ("session_id", &headers.session_id),
        ("scopes", &headers.scopes),
        ("client_certificate", &headers.client_certificate),
    ] {
        let at = format!("identity_headers.{key}");
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            found.add(at, format!("`{name}` is not a header name"));
            continue;
        }
        // Upstreams by way of CGI, WSGI and others take `X_User.Id` for `X-User-Id`.
        let folded = name.to_ascii_lowercase().replace(['_', '.'], "-");
        if STANDARD_HEADERS.split_whitespace().any(|standard| standard == folded)
            || STANDARD_FAMILIES.iter().any(|family| folded.starts_with(family))
        {
            found.add(
                at,
                format!("`{name}` has a meaning of its own; choose a name like X-User-Id"),
            );
        } else if let Some(other) = seen.insert(folded, key) {
            found.add(
                at,
                format!(
                    "`{name}` is the name of {other} too (case, `-`, `_` and `.` do not count)"
                ),
            );
        }
    }
}

fn cors(cors: &Cors, found: &mut Found) {
    for (index, origin) in cors.allowed_origins.iter().enumerate() {
        let at = format!("cors.allowed_origins[{index}]");
        if origin == "*" {
            if cors.allow_credentials {
                found
                    .add(at, "`*` and allow_credentials together would open the API to every site");
            }
        } else if !is_origin(origin) {
            found.add(at, not_an_origin(origin));
        }
    }
    for (index, method) in cors.allowed_methods.iter().enumerate() {
        if http::Method::from_bytes(method.as_bytes()).is_err() {
            found.add(
                format!("cors.allowed_methods[{index}]"),
                format!("`{method}` is not a method"),
            );
        }
    }
    for (list, names) in
        [("allowed_headers", &cors.allowed_headers), ("exposed_headers", &cors.exposed_headers)]
    {
        for (index, name) in names.iter().enumerate() {
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                found
                    .add(format!("cors.{list}[{index}]"), format!("`{name}` is not a header name"));
            }
        }
    }
}

fn not_an_origin(origin: &str) -> String {
    format!(
        "`{origin}` is not an origin; write it as browsers send it, such as \
         \"https://app.example.com\" or \"http://localhost:3000\""
    )
}

/// Whether `origin` is spelled as a browser would (RFC 6454 §6.2): anything else never matches.
fn is_origin(origin: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    if matches!(scheme, "http" | "https") {
        return Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == origin);
    }
    // Apps and browser extensions have schemes of their own.
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let is_authority = !authority.is_empty()
        && authority.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
    is_scheme && is_authority
}

fn roles(roles: &[String], at: &str, found: &mut Found) {
    for (index, role) in roles.iter().enumerate() {
        if !is_role_name(role) {
            found.add(
                format!("{at}[{index}]"),
                format!("`{role}` is not a role: 1 to 64 of a-z, 0-9, `_` and `-`"),
            );
        }
    }
}
