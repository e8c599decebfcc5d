//! What the gateway tells its operators: diagnostics on standard error, one line a request on
//! standard output ([`access`]), and numbers ([`tally`]). No secrets, no query strings, no bodies.

pub mod access;
pub mod metrics;
pub mod tally;

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use self::access::Carrier;
use crate::config::LogFormat;

/// The thread that writes diagnostics.
static DIAGNOSTICS: OnceLock<Carrier> = OnceLock::new();

/// How long a process that ends waits for its last diagnostics.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// Starts diagnostics on standard error, written by a thread of their own: a worker must not stand
/// still because nobody reads them. A second call changes nothing.
///
/// # Errors
/// When `level` is no level or filter, or the system gives no thread.
pub fn start(format: LogFormat, level: &str) -> Result<(), String> {
    let filter = EnvFilter::builder()
        // The migration library tells where it was built.
        .parse(format!("refinery_core=warn,{level}"))
        .map_err(|error| format!("`{level}` is neither a level nor a filter: {error}"))?;
    if DIAGNOSTICS.get().is_some() {
        return Ok(());
    }
    let (carrier, _thread) = Carrier::start(std::io::stderr())
        .map_err(|error| format!("the system gives no thread for diagnostics: {error}"))?;
    if DIAGNOSTICS.set(carrier.clone()).is_err() {
        return Ok(());
    }
    let is_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal)
        .with_writer(move || carrier.clone());
    // Fails only when somebody else has started diagnostics before.
    let _ = if is_json(format, &std::io::stderr()) {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_target(false).try_init()
    };
    Ok(())
}

/// Waits a moment for diagnostics that are still to be written; for a process that ends.
pub fn flush() {
    if let Some(carrier) = DIAGNOSTICS.get() {
        carrier.wait_until_written(FLUSH_PATIENCE);
    }
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
