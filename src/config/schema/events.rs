//! `[events]`: how long events are kept, and whom they are handed on to.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use crate::config::units::Interval;

/// `[events]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// How long events are kept, at least `1d`; they go by whole days in UTC. Default: for ever.
    pub retention: Option<Interval>,
    /// Whom events are handed on to. Default: nobody.
    pub webhook: Option<EventWebhook>,
}

/// `[events.webhook]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventWebhook {
    /// Where events are posted: `https://`, or `http://` on this machine.
    pub url: SecretString,
    /// What they are signed with (Standard Webhooks): `whsec_BASE64`, `v1,whsec_BASE64`, or a text
    /// of at least 24 bytes.
    pub secret: SecretString,
    /// The kinds that are handed on. Default: all.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Time for one attempt, from 1 s to 1 min. Default 10 s.
    #[serde(default = "timeout")]
    pub timeout: Interval,
    /// Most events in one request, 1 to 1000. Default 100.
    #[serde(default = "batch")]
    pub batch: u16,
    /// PEM file with the authorities that prove its server. Default: the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

fn timeout() -> Interval {
    Interval::seconds(10)
}

fn batch() -> u16 {
    100
}
