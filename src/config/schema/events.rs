//! `[events]`: how long events are kept.

use serde::Deserialize;

use crate::config::units::Interval;

/// `[events]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// How long events are kept, at least `1d`; they go by whole days in UTC. Default: for ever.
    pub retention: Option<Interval>,
}
