//! `[login_hook]`: an earlier system that is asked about first logins.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use crate::config::units::Interval;

/// `[login_hook]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginHook {
    /// Where it is asked: `https://`, or `http://` on this machine.
    pub url: SecretString,
    /// What the questions are signed with (Standard Webhooks): `whsec_BASE64`, `v1,whsec_BASE64`,
    /// or a text of at least 24 bytes.
    pub secret: SecretString,
    /// How long a login waits for its answer, from 100 ms to 10 s. Default 3 s.
    #[serde(default = "deadline")]
    pub deadline: Interval,
    /// PEM file with the authorities that prove its server. Default: the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

fn deadline() -> Interval {
    Interval::seconds(3)
}
