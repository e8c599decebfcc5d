//! `[log]`: the access log and diagnostics.

use serde::Deserialize;

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
