//! Which keys only a restart takes: what is built from them when the process starts (sockets,
//! threads, stores, our own tokens) lives as long as it does. A reload goes on with the values of
//! the start and names the keys that differ.
//!
//! Invariant: this list, the *(restart)* marks in [`schema`](super::schema) and those in the example
//! configuration are one list; a test compares the three.

use secrecy::ExposeSecret;

use super::Config;

/// One key, with what is to be known of it.
struct Key {
    name: &'static str,
    is_same: fn(&Config, &Config) -> bool,
    take: fn(&mut Config, &Config),
}

macro_rules! key {
    ($table:ident.$key:ident) => {
        key!($table.$key, |value| value)
    };
    ($table:ident.$key:ident, |$value:ident| $seen:expr) => {
        Key {
            name: concat!(stringify!($table), ".", stringify!($key)),
            is_same: |one, other| {
                let seen = {
                    let $value = &one.$table.$key;
                    $seen
                };
                let $value = &other.$table.$key;
                seen == $seen
            },
            take: |into, from| into.$table.$key.clone_from(&from.$table.$key),
        }
    };
}

/// In the order of the schema.
const KEYS: &[Key] = &[
    key!(server.listen),
    key!(server.workers),
    key!(server.auth_prefix),
    key!(server.max_connections),
    key!(server.max_connections_per_address),
    key!(server.proxy_protocol),
    key!(server.handshake_timeout),
    key!(server.header_timeout),
    key!(server.idle_timeout),
    key!(server.max_header_bytes),
    key!(server.drain_delay),
    key!(server.drain_timeout),
    key!(server.http2),
    key!(server.h2c),
    key!(server.tls),
    key!(admin.listen),
    key!(storage.url, |url| url.expose_secret()),
    key!(storage.max_connections),
    key!(storage.migrate),
    key!(secrets.key, |key| key.as_ref().map(ExposeSecret::expose_secret)),
    key!(secrets.previous, |keys| keys.iter().map(ExposeSecret::expose_secret).collect::<Vec<_>>()),
    key!(secrets.require),
    key!(counters.url, |url| url.expose_secret()),
    key!(counters.key_prefix),
    key!(counters.on_outage),
    key!(tokens.issuer),
    key!(tokens.audience),
    key!(tokens.algorithm),
    key!(tokens.rotate_every),
    key!(tokens.key_notice),
    key!(tokens.secret, |secret| secret.as_ref().map(ExposeSecret::expose_secret)),
    key!(tokens.access_lifetime),
    key!(tokens.refresh_lifetime),
    key!(tokens.refresh_idle),
    key!(tokens.leeway),
    key!(tokens.max_staleness),
    key!(passwords.min_length),
    key!(passwords.require),
    key!(passwords.refuse_common),
    key!(passwords.leaked),
    key!(passwords.words),
    key!(passwords.devise_pepper, |pepper| pepper.as_ref().map(ExposeSecret::expose_secret)),
    key!(passwords.argon2),
    key!(passwords.max_concurrent_hashes),
    key!(passwords.max_queued_hashes),
    key!(links.site_url),
    key!(links.redirects),
    key!(links.lifetime),
    key!(links.invite_lifetime),
    key!(links.code_lifetime),
    key!(links.resend_interval),
    key!(links.confirm_page),
    key!(links.email_change),
    key!(mail.transport),
    key!(mail.url, |url| url.as_ref().map(ExposeSecret::expose_secret)),
    key!(mail.from),
    key!(mail.reply_to),
    key!(mail.templates),
    key!(mail.timeout),
    key!(mail.max_age),
    key!(mail.concurrency),
    key!(mail.notify),
    key!(mail.max_waiting),
    key!(mail.ca),
    key!(mail.webhook, |webhook| webhook
        .as_ref()
        .map(|webhook| { (webhook.url.expose_secret(), webhook.secret.expose_secret()) })),
    key!(log.access),
    key!(log.format),
    key!(log.level),
];

/// Gives every key of `config` that only a restart takes the value that it has in `running`.
/// Returns the names of those that had another one.
pub fn keep(config: &mut Config, running: &Config) -> Vec<&'static str> {
    let changed = KEYS.iter().filter(|key| !(key.is_same)(config, running));
    let changed: Vec<_> = changed.collect();
    for key in &changed {
        (key.take)(config, running);
    }
    changed.into_iter().map(|key| key.name).collect()
}

/// The names of all such keys: `table.key`.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name)
}
