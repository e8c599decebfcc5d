//! What the gateway tells its operators: diagnostics on standard error, one line a request on
//! standard output ([`access`]), and numbers ([`tally`]). No secrets, no query strings, no bodies.

pub mod access;
pub mod metrics;
pub mod tally;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts diagnostics on standard error. A second call changes nothing.
///
/// # Errors
/// When `level` is no level or filter.
pub fn start(format: LogFormat, level: &str) -> Result<(), String> {
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|error| format!("`{level}` is neither a level nor a filter: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only when diagnostics have been started before.
    let _ = if is_json(format, &std::io::stderr()) {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_target(false).try_init()
    };
    Ok(())
}

/// Whether lines for `output` are JSON.
pub fn is_json(format: LogFormat, output: &impl IsTerminal) -> bool {
    match format {
        LogFormat::Auto => !output.is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    }
}

/// An error with its causes, for one log line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
