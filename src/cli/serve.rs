//! `portcullis serve`: runs the gateway until it is told to stop; SIGHUP has it read its
//! configuration again.

use std::time::Duration;

use super::{Context, Failure, start_failure};
use crate::clock::Clock;
use crate::config::{self, Loaded};
use crate::gateway::Live;
use crate::proxy::decide::run_tests;
use crate::reload::Source;
use crate::server::{Options, Server};
use crate::telemetry;

pub(super) fn run(context: &Context) -> Result<(), Failure> {
    // First of all: a signal that comes during the start must not be lost, nor SIGHUP end it.
    let runtime = super::runtime()?;
    let _in_runtime = runtime.enter();
    let mut signals = Signals::listen()?;
    let env = config::load::process_environment();
    let (source, loaded) = Source::read(context.config.as_deref(), env)?;
    let Loaded { config, sources, warnings } = &loaded;
    telemetry::start(config.log.format, &config.log.level)
        .map_err(|message| Failure::usage(format!("log.level: {message}")))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let live = Live::compile(config).map_err(|problems| sources.report(&problems))?;
    let failed_tests = run_tests(config, &live.table);
    if !failed_tests.is_empty() {
        let report = sources.report(&failed_tests);
        return Err(Failure { code: 1, message: format!("error: [[tests]] failed\n{report}") });
    }
    let options = Options {
        clock: Clock::system(),
        access_log: config.log.access.then(|| Box::new(std::io::stdout()) as _),
        access_log_json: telemetry::is_json(config.log.format, &std::io::stdout()),
        source: Some(source),
    };
    let server =
        Server::start(config, options).map_err(|error| start_failure(&error, Some(sources)))?;
    for address in server.addresses() {
        let scheme = if config.server.tls.is_some() { "https" } else { "http" };
        tracing::info!("listening on {scheme}://{address}");
    }
    tracing::info!("admin listener on http://{}", server.admin_address());
    let version = server.reloader().status().live.hash;
    tracing::info!(version, "the configuration is {}", sources.file());
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    while runtime.block_on(signals.next()) == Told::Reload {
        server.reloader().hang_up();
    }
    tracing::info!("stopping; running requests may take {:?}", config.server.drain_timeout);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    std::thread::spawn(move || {
        runtime.block_on(signals.stop());
        tracing::warn!("told to stop twice; ending at once");
        std::process::exit(1);
    });
    server.shutdown();
    Ok(())
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Reload,
    Stop,
}

/// The signals that a process is told something by. Once they are listened to, none of them ends it.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on, signals are noted. Must be called within a runtime.
    pub(super) fn listen() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::failed("signals cannot be received", &error))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next one; several of a kind since the last call are one.
    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    /// The next one that ends the process; to read a configuration again, there is none or no time.
    pub(super) async fn stop(&mut self) {
        while self.next().await == Told::Reload {}
    }
}

/// How long a demo's running requests may take.
pub(super) const DEMO_DRAIN: Duration = Duration::from_secs(2);
