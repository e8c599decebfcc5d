//! The command line: one file a command. Exit codes: 0 fine; 1 failed while running, a `[[tests]]`
//! entry failed, `explain` denies; 2 usage or configuration.

mod api_keys;
mod check;
mod demo;
mod events;
mod explain;
mod healthcheck;
mod keys;
mod limits;
mod mail;
mod migrate;
mod outbox;
mod secrets;
mod serve;
mod sessions;
mod table;
mod users;

use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::clock::Clock;
use crate::config::{self, Config, LoadError, Loaded, Problem};
use crate::gateway::StartError;
use crate::limit::LimitError;
use crate::model::{Event, EventKind, Outcome, UserId, uuid_v7};
use crate::store::{Store, StoreError};
use crate::telemetry;

/// Logins and per-user isolation in front of an existing HTTP API.
#[derive(Parser)]
#[command(name = "portcullis", version, max_term_width = 100)]
struct Cli {
    /// Configuration file [default: $`PORTCULLIS_CONFIG`, ./config/portcullis.toml,
    /// /etc/portcullis/portcullis.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    #[command(
        after_help = "Example:\n  portcullis serve --config /etc/portcullis/portcullis.toml\n\nEnds with SIGTERM or Ctrl-C: running requests finish first. Reads its configuration again\nwhen that changes, and at SIGHUP."
    )]
    Serve,
    /// Run the gateway in front of a small example API, on embedded stores in a temporary folder
    #[command(
        after_help = "Example:\n  portcullis demo\n\nPrints curl lines to try. Ends with Ctrl-C."
    )]
    Demo(demo::Args),
    /// Check the configuration, run its tests, print the route table
    #[command(
        after_help = "Examples:\n  portcullis check --config portcullis.toml\n  portcullis check --connect     # also try the database and the counters"
    )]
    Check(check::Args),
    /// Say what would be decided on a request, and why
    #[command(
        after_help = "Examples:\n  portcullis explain GET /api/u-1/tasks --as u-1\n  portcullis explain GET /api/u-1/tasks --as u-2 --role admin --json\n  portcullis explain GET /api/u-1/tasks --token eyJ…\n\nExit code: 0 allowed, 1 denied."
    )]
    Explain(explain::Args),
    /// Bring the database schema up to date
    #[command(after_help = "Example:\n  portcullis migrate --config portcullis.toml")]
    Migrate,
    /// See and change accounts
    #[command(
        after_help = "Examples:\n  portcullis users list --json\n  portcullis users create ann@example.com --role admin --confirmed\n  portcullis users update ann@example.com --email anna@example.com --confirmed\n  portcullis users link recovery ann@example.com\n  portcullis users import users.csv --dry-run\n  portcullis users disable 018f2d3e-… "
    )]
    Users(users::Args),
    /// See and end sessions
    #[command(
        after_help = "Examples:\n  portcullis sessions list USER_ID\n  portcullis sessions revoke USER_ID --session SESSION_ID\n  portcullis sessions revoke USER_ID     # all of them"
    )]
    Sessions(sessions::Args),
    /// See, make, import, retire and revoke signing keys
    #[command(
        after_help = "Examples:\n  portcullis keys list\n  portcullis keys rotate             # the new key signs in tokens.key_notice\n  portcullis keys rotate --now\n  portcullis keys import key.pem\n  portcullis keys retire KID         # its tokens are refused at once\n  portcullis keys revoke KID         # the same in an emergency: another key signs at once"
    )]
    Keys(keys::Args),
    /// Keys under which the database keeps private keys: make one, see, change
    #[command(
        after_help = "Examples:\n  portcullis secrets generate > /etc/portcullis/secrets/key\n  portcullis secrets status\n  portcullis secrets reencrypt       # what is in plain or under an old key"
    )]
    Secrets(secrets::Args),
    /// See and forget what limits have counted, and failed logins
    #[command(
        after_help = "Examples:\n  portcullis limits show\n  portcullis limits show login --ip 192.0.2.1\n  portcullis limits reset login_account --account ann@example.com\n  portcullis limits reset --login ann@example.com     # failed logins make no next one wait"
    )]
    Limits(limits::Args),
    /// See, make, rotate and end API keys
    #[command(
        after_help = "Examples:\n  portcullis api-keys create ann@example.com --name importer --scope orders:write --expires 90d\n  portcullis api-keys list --user ann@example.com\n  portcullis api-keys rotate pck_4fTbQx1Z --overlap 24h\n  portcullis api-keys revoke pck_4fTbQx1Z"
    )]
    ApiKeys(api_keys::Args),
    /// Try whether letters to users arrive
    #[command(after_help = "Example:\n  portcullis mail test ann@example.com")]
    Mail(mail::Args),
    /// See the letters that wait or were given up, try them again, take them out
    #[command(
        after_help = "Examples:\n  portcullis outbox list\n  portcullis outbox retry LETTER_ID\n  portcullis outbox drop LETTER_ID"
    )]
    Outbox(outbox::Args),
    /// See authentication events
    #[command(
        after_help = "Examples:\n  portcullis events list --kind login_failed --limit 20\n  portcullis events tail --json\n  portcullis events export --since 2026-11-01T00:00:00Z --output november.jsonl\n  portcullis events verify           # is any lost?\n  portcullis events webhook          # how far it has come"
    )]
    Events(events::Args),
    /// Ask the running gateway whether it is ready
    #[command(
        after_help = "Example, in a Dockerfile:\n  HEALTHCHECK CMD [\"portcullis\", \"healthcheck\"]"
    )]
    Healthcheck(healthcheck::Args),
    /// Print shell completions
    #[command(
        after_help = "Example:\n  portcullis completions bash > /etc/bash_completion.d/portcullis"
    )]
    Completions {
        /// Shell to print them for
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(after_help = "Example:\n  portcullis man > /usr/local/share/man/man1/portcullis.1")]
    Man,
}

/// Runs the command of this process.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and version are asked for and go to standard output.
            let _ = usage.print();
            return ExitCode::from(if usage.use_stderr() { 2 } else { 0 });
        }
    };
    // Two TLS libraries want one default; an error means that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let context = Context { config: cli.config };
    let outcome = match cli.command {
        Command::Serve => serve::run(&context),
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(&context, &args),
        Command::Explain(args) => explain::run(&context, &args),
        Command::Migrate => migrate::run(&context),
        Command::Users(args) => users::run(&context, args),
        Command::Sessions(args) => sessions::run(&context, args),
        Command::Keys(args) => keys::run(&context, args),
        Command::Secrets(args) => secrets::run(&context, &args),
        Command::Limits(args) => limits::run(&context, args),
        Command::ApiKeys(args) => api_keys::run(&context, args),
        Command::Mail(args) => mail::run(&context, args),
        Command::Outbox(args) => outbox::run(&context, &args),
        Command::Events(args) => events::run(&context, args),
        Command::Healthcheck(args) => healthcheck::run(&context, &args),
        Command::Completions { shell } => {
            let name = "portcullis";
            clap_complete::generate(shell, &mut Cli::command(), name, &mut std::io::stdout());
            Ok(())
        }
        Command::Man => clap_mangen::Man::new(Cli::command())
            .render(&mut std::io::stdout())
            .map_err(|error| Failure::failed("the manual page cannot be printed", &error)),
    };
    telemetry::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Why a command did not do what it was asked for.
struct Failure {
    code: u8,
    /// Lines for people; empty when all is said.
    message: String,
}

impl Failure {
    /// Failed while running.
    fn failed(what: &str, error: &dyn std::error::Error) -> Self {
        Self { code: 1, message: format!("error: {what}: {}", telemetry::chain(error)) }
    }

    /// An answer of "no" that was printed already.
    fn no() -> Self {
        Self { code: 1, message: String::new() }
    }

    /// Something that does not exist, or cannot be done.
    fn refused(message: impl fmt::Display) -> Self {
        Self { code: 1, message: format!("error: {message}") }
    }

    /// Wrong use or configuration.
    fn usage(message: impl fmt::Display) -> Self {
        Self { code: 2, message: format!("error: {message}") }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.trim_end())
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self { code: 2, message: format!("error: the configuration is wrong\n{error}") }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::failed("the database cannot be used", &error)
    }
}

/// What all commands share.
struct Context {
    config: Option<PathBuf>,
}

impl Context {
    fn load(&self) -> Result<Loaded, Failure> {
        let env = config::load::process_environment();
        Ok(config::load(self.config.as_deref(), env)?)
    }

    /// Opens the configured database, with its schema as this program knows it.
    fn administer<F: Future<Output = Result<(), Failure>>>(
        &self,
        work: impl FnOnce(Admin) -> F,
    ) -> Result<(), Failure> {
        let loaded = self.load()?;
        runtime()?.block_on(async {
            let store = Arc::new(Store::open(&loaded.config.storage, &loaded.config.secrets)?);
            store.check_schema().await?;
            work(Admin { store, config: loaded.config, clock: Clock::system() }).await
        })
    }
}

/// A database to administer.
struct Admin {
    store: Arc<Store>,
    config: Config,
    clock: Clock,
}

impl Admin {
    /// An event of something done here.
    fn event(&self, kind: EventKind, user: Option<&UserId>) -> Event {
        let at = self.clock.now();
        Event {
            id: uuid_v7(at),
            at,
            kind,
            outcome: Outcome::Success,
            reason: None,
            actor: Some("cli".to_owned()),
            user_id: user.cloned(),
            email: None,
            session_id: None,
            address: None,
            user_agent: None,
            request_id: None,
        }
    }

    /// Finds a user by id or address.
    async fn find_user(&self, name: &str) -> Result<crate::model::User, Failure> {
        if let Ok(id) = name.parse::<UserId>()
            && let Some(user) = self.store.user(&id).await?
        {
            return Ok(user);
        }
        if let Ok(email) = name.parse()
            && let Some(account) = self.store.account_by_email(&email).await?
        {
            return Ok(account.user);
        }
        Err(Failure::refused(format!("there is no user `{name}`")))
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("the system gives no runtime", &error))
}

/// A start's failure, with the places of what is wrong in the configuration.
fn start_failure(error: &StartError, sources: Option<&config::Sources>) -> Failure {
    let unusable_url;
    let problems: &[Problem] = match error {
        StartError::Store(StoreError::Url(message)) => {
            unusable_url = Problem::new("storage.url", message);
            std::slice::from_ref(&unusable_url)
        }
        StartError::Counters(LimitError::Url(message)) => {
            unusable_url = Problem::new("counters.url", message);
            std::slice::from_ref(&unusable_url)
        }
        StartError::Config(problems) => problems,
        StartError::Listen(problem) => std::slice::from_ref(problem),
        error => return Failure::failed("the gateway did not start", error),
    };
    let code = if matches!(error, StartError::Listen(_)) { 1 } else { 2 };
    match sources {
        Some(sources) => Failure { code, ..sources.report(problems).into() },
        None => Failure::failed("the gateway did not start", error),
    }
}

/// A time for people.
fn when(time: Option<jiff::Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"))
}
