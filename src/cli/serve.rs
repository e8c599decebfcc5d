//! `portcullis serve`: runs the gateway until it is told to stop; SIGHUP has it read its
//! configuration again.

use std::time::Duration;

use sd_notify::NotifyState;

use super::{Context, Failure, start_failure};
use crate::clock::Clock;
use crate::config::{self, Listen, Loaded};
use crate::gateway::Live;
use crate::proxy::decide::run_tests;
use crate::reload::Source;
use crate::server::{Inherited, Options, Server};
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
    let (inherited, predecessor) =
        Inherited::take().map_err(|error| Failure::failed("the gateway did not start", &error))?;
    let options = Options {
        clock: Clock::system(),
        access_log: config.log.access.then(|| Box::new(std::io::stdout()) as _),
        access_log_json: telemetry::is_json(config.log.format, &std::io::stdout()),
        source: Some(source),
        inherited,
    };
    let mut server =
        Server::start(config, options).map_err(|error| start_failure(&error, Some(sources)))?;
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    for listen in server.listeners() {
        match listen {
            Listen::Tcp(address) => tracing::info!("listening on {scheme}://{address}"),
            Listen::Unix(_) => tracing::info!("listening on {listen}, for {scheme}"),
        }
    }
    tracing::info!("admin listener on http://{}", server.admin_address());
    let version = server.reloader().status().live.hash;
    tracing::info!(version, "the configuration is {}", sources.file());
    if let Some(predecessor) = predecessor {
        predecessor.leave().map_err(|error| {
            Failure::failed("the process to be replaced is gone, and its start with it", &error)
        })?;
        server.took_over();
        tracing::info!("took over the listeners of the process before");
    }
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let successor = loop {
        match runtime.block_on(signals.next()) {
            Told::Stop => break None,
            Told::Reload => server.reloader().hang_up(),
            Told::Replace => match runtime.block_on(replaced(&server, &mut signals)) {
                Replaced::By(id) => break Some(id),
                Replaced::Stop => break None,
                Replaced::No => {}
            },
        }
    };
    let patience = config.server.drain_timeout;
    if let Some(id) = successor {
        tracing::info!("process {id} has taken over; running requests may take {patience:?}");
        // From the main process, so that it is believed: the other is the main one from now on.
        let _ = sd_notify::notify(&[NotifyState::MainPid(id)]);
    } else {
        tracing::info!("stopping; running requests may take {patience:?}");
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
    }
    std::thread::spawn(move || {
        runtime.block_on(signals.stop());
        tracing::warn!("told to stop twice; ending at once");
        std::process::exit(1);
    });
    match successor {
        Some(_) => server.leave(),
        None => server.shutdown(),
    }
    Ok(())
}

/// What became of a replacement.
enum Replaced {
    /// This process accepts connections in our place.
    By(u32),
    /// Nothing: this process goes on.
    No,
    /// This process was told to stop meanwhile.
    Stop,
}

/// Starts the program anew in this process's place.
async fn replaced(server: &Server, signals: &mut Signals) -> Replaced {
    let mut successor = match server.hand_over() {
        Ok(successor) => successor,
        Err(error) => {
            tracing::error!("{}; this process goes on", telemetry::chain(&error));
            return Replaced::No;
        }
    };
    tracing::info!("starting process {} to take over", successor.id());
    loop {
        tokio::select! {
            ready = successor.ready() => return match ready {
                Ok(()) => Replaced::By(successor.id()),
                Err(error) => {
                    tracing::error!("{}; this process goes on", telemetry::chain(&error));
                    Replaced::No
                }
            },
            told = signals.next() => if told == Told::Stop {
                successor.end();
                return Replaced::Stop;
            },
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM, SIGINT: finish and end.
    Stop,
    /// SIGUSR2: start the program anew and let it take over.
    Replace,
}

/// The signals that a process is told something by. Once they are listened to, none of them ends it.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    replace: tokio::signal::unix::Signal,
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
            replace: listen(SignalKind::user_defined2())?,
        })
    }

    /// The next one; several of a kind since the last call are one.
    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.replace.recv() => Told::Replace,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    /// The next one that ends the process; to read a configuration again, there is none or no time.
    pub(super) async fn stop(&mut self) {
        while self.next().await != Told::Stop {}
    }
}

/// How long a demo's running requests may take.
pub(super) const DEMO_DRAIN: Duration = Duration::from_secs(2);
