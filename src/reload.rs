//! Takes a changed configuration while the gateway runs: reads it as the start did, compiles it,
//! runs its `[[tests]]`, and only then makes it live, all of it at once. Whatever is wrong with it,
//! the old one stays, and the reason can be read at the admin listener.
//!
//! ```text
//! SIGHUP ─────────┐
//! POST /reload ───┼─▶ one at a time: read ─▶ compile ─▶ [[tests]] ─▶ swap
//! content watch ──┘                    └────────┴───────────┴─▶ refused, with every reason
//! ```
//!
//! The watch goes by content, not by times or inodes: editors replace files, and a mounted
//! `ConfigMap` is a link that is pointed elsewhere. It acts when two looks in a row find the same, so
//! that a file that is being written is left alone.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use crate::auth;
use crate::config::{Config, Contents, Input, LoadError, Loaded, Problem, restart, validate};
use crate::events::webhook::Webhook;
use crate::gateway::Gateway;
use crate::gateway::issuers::compile_issuers;
use crate::identity::token::check_tokens;
use crate::limit::{LimitError, Limiter};
use crate::mail::Mailer;
use crate::store::{Store, StoreError};

/// How long whoever asks for a reload waits for its end. Compiling ten thousand routes takes less
/// than a second; a file on a server that is away can take for ever.
const PATIENCE: Duration = Duration::from_secs(8);

/// Most reasons that are kept of a refusal; a file of another kind altogether has thousands.
const MAX_ERRORS: usize = 100;

/// Where the configuration of a running gateway can be read again.
pub struct Source {
    input: Input,
    contents: Contents,
}

impl Source {
    /// Reads the configuration for a start: the file at `path` or the usual one, and the variables
    /// in `env`.
    ///
    /// # Errors
    /// Everything that is wrong with it, or that the file cannot be read.
    pub fn read(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Loaded), LoadError> {
        let input = Input::locate(path, env)?;
        // Before they are read: a change in between is then seen as one.
        let mut contents = Contents::of(input.files());
        let loaded = input.load()?;
        contents.look_at(loaded.config.files());
        Ok((Self { input, contents }, loaded))
    }
}

/// What is wrong with a configuration beside its routes: what a start would find out without
/// connecting to anything.
pub(crate) fn examine(config: &Config) -> Vec<Problem> {
    let mut problems = check_tokens(&config.tokens);
    problems.extend(auth::check(config));
    if let Err(StoreError::Url(message)) = Store::check(&config.storage) {
        problems.push(Problem::new("storage.url", message));
    }
    problems.extend(Mailer::compile(config).err().unwrap_or_default());
    problems.extend(Webhook::compile(config).err().unwrap_or_default());
    problems.extend(compile_issuers(config).err().unwrap_or_default());
    if let Err(LimitError::Url(message)) = Limiter::check(&config.counters) {
        problems.push(Problem::new("counters.url", message));
    }
    problems
}

/// Takes changed configurations, one at a time.
pub struct Reloader {
    gateway: Arc<Gateway>,
    /// None: the gateway was not started from a file.
    input: Option<Input>,
    /// As it was at the start, for the keys that only a restart takes.
    running: Config,
    state: Mutex<State>,
    /// Held by the reload that runs, also when nobody waits for it any more.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// SIGHUP came; several before the reload begins are one.
    hangup: Notify,
    /// A configuration was taken, perhaps with another `reload.watch`.
    taken: Notify,
}

struct State {
    live: Version,
    succeeded_at: Timestamp,
    last: Option<Attempt>,
    totals: [u64; 3],
    watch: Duration,
    /// What was in the files when they were last read.
    contents: Contents,
}

/// The configuration that is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// 16 hexadecimal digits, the same wherever the same program runs with the same configuration,
    /// however that is spelled.
    pub hash: Box<str>,
    /// When it was taken.
    pub loaded_at: Timestamp,
}

/// Who asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// `POST /reload`
    Request,
    /// SIGHUP
    Signal,
    /// A look at the files.
    Watch,
}

impl Trigger {
    /// The word in logs and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Signal => "signal",
            Self::Watch => "watch",
        }
    }
}

/// What came of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Another configuration is live now.
    Reloaded,
    /// It is the one that is live already.
    Unchanged,
    /// The old one stays.
    Refused,
}

impl Outcome {
    /// All of them, in the order of their counts.
    pub const ALL: [Self; 3] = [Self::Reloaded, Self::Unchanged, Self::Refused];

    /// The word in logs, answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reloaded => "reloaded",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        }
    }
}

/// A reload that has ended.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it ended.
    pub at: Timestamp,
    /// Who asked for it.
    pub trigger: Trigger,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it was refused, with file and line; for people.
    pub errors: Vec<String>,
    /// The keys that have changed and wait for a restart, with file and line; for people.
    pub warnings: Vec<String>,
    /// What is live after it.
    pub version: Box<str>,
}

/// How things stand.
#[derive(Clone, Debug)]
pub struct Status {
    /// What is live.
    pub live: Version,
    /// When a reload, or the start, last succeeded.
    pub succeeded_at: Timestamp,
    /// The last reload, if there was one.
    pub last: Option<Attempt>,
    /// How many ended with each of [`Outcome::ALL`].
    pub totals: [u64; 3],
}

/// A configuration as it was read, or why it could not be.
type Read = Result<Loaded, Vec<String>>;

impl Reloader {
    /// For a gateway that was started with `config`, read from `source`.
    pub(crate) fn new(gateway: Arc<Gateway>, config: Config, source: Option<Source>) -> Self {
        let (input, mut contents) =
            source.map_or_else(Default::default, |source| (Some(source.input), source.contents));
        contents.look_at(config.files());
        let now = gateway.clock.now();
        let state = State {
            live: Version { hash: hash(&config, &contents), loaded_at: now },
            succeeded_at: now,
            last: None,
            totals: [0; 3],
            watch: config.reload.watch.0,
            contents,
        };
        Self {
            gateway,
            input,
            running: config,
            state: Mutex::new(state),
            turn: Arc::default(),
            hangup: Notify::new(),
            taken: Notify::new(),
        }
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        let state = self.state();
        Status {
            live: state.live.clone(),
            succeeded_at: state.succeeded_at,
            last: state.last.clone(),
            totals: state.totals,
        }
    }

    /// Asks for a reload without waiting for it, as SIGHUP does.
    pub fn hang_up(&self) {
        self.hangup.notify_one();
    }

    /// Reads the configuration again and takes it. Returns none when that takes too long to wait
    /// for; it goes on, and [`status`](Self::status) tells its end.
    pub async fn reload(self: &Arc<Self>, trigger: Trigger) -> Option<Attempt> {
        let this = Arc::clone(self);
        // A task of its own, so that it goes on, or gets its turn, when nobody waits any more.
        let ended = tokio::spawn(async move {
            let turn = Arc::clone(&this.turn).lock_owned().await;
            let attempt = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                this.attempt(trigger)
            });
            attempt.await
        });
        match tokio::time::timeout(PATIENCE, ended).await.map(Result::flatten) {
            Ok(Ok(attempt)) => Some(attempt),
            Ok(Err(error)) => {
                tracing::error!(%error, "a reload broke off; the old configuration stays");
                None
            }
            Err(_) => {
                tracing::error!(patience = ?PATIENCE, "a reload takes long; it goes on");
                None
            }
        }
    }

    /// Waits for SIGHUP and looks at the files, as long as the control runtime lives.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut changed = None;
        loop {
            let watch = self.state().watch;
            let time_to_look = async {
                if watch.is_zero() || self.input.is_none() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(watch).await;
            };
            tokio::select! {
                () = self.hangup.notified() => {
                    self.reload(Trigger::Signal).await;
                }
                () = self.taken.notified() => {}
                () = time_to_look => changed = self.look(changed).await,
            }
        }
    }

    /// Looks at the files, of which the last look found `before` if they had changed. Returns what
    /// the next look is to compare with.
    async fn look(self: &Arc<Self>, before: Option<Contents>) -> Option<Contents> {
        let known = self.state().contents.clone();
        let look = tokio::task::spawn_blocking(move || look(&known, before.as_ref()));
        match look.await {
            Ok(Look::Settled) => {
                self.reload(Trigger::Watch).await;
                None
            }
            Ok(Look::Changed(contents)) => Some(contents),
            // A look that fails finds nothing new.
            Ok(Look::Same) | Err(_) => None,
        }
    }

    fn attempt(&self, trigger: Trigger) -> Attempt {
        let Some(input) = &self.input else {
            let why = "this gateway was not started from a configuration file".to_owned();
            return self.end(trigger, Err(vec![why]), Contents::default(), Instant::now());
        };
        let began = Instant::now();
        // Before they are read: a change in between is then seen as one.
        let mut contents = Contents::of(input.files());
        let read = input.load().map_err(|error| lines(&error));
        match &read {
            Ok(loaded) => contents.look_at(loaded.config.files()),
            // Which files it names is not known; those of the live one still count.
            Err(_) => contents.look_at(self.state().contents.files().cloned().collect::<Vec<_>>()),
        }
        self.end(trigger, read, contents, began)
    }

    /// Takes what was read, and notes what came of it.
    fn end(&self, trigger: Trigger, read: Read, contents: Contents, began: Instant) -> Attempt {
        let mut warnings = Vec::new();
        // A defect that a configuration brings to light must not take the old one along, nor be tried
        // again and again by the watch.
        let taken = catch_unwind(AssertUnwindSafe(|| {
            read.and_then(|loaded| self.take(loaded, &contents, &mut warnings))
        }));
        let taken = taken.unwrap_or_else(|_| Err(vec!["the program panicked, see its log".into()]));
        let mut state = self.state();
        let at = self.gateway.clock.now();
        let (outcome, errors) = match taken {
            Ok(Some((hash, config))) => {
                state.live = Version { hash, loaded_at: at };
                state.watch = config.reload.watch.0;
                (Outcome::Reloaded, Vec::new())
            }
            Ok(None) => (Outcome::Unchanged, Vec::new()),
            Err(errors) => (Outcome::Refused, errors),
        };
        state.contents = contents;
        state.totals[outcome as usize] += 1;
        if outcome != Outcome::Refused {
            state.succeeded_at = at;
        }
        let version = state.live.hash.clone();
        let attempt = Attempt { at, trigger, outcome, errors, warnings, version };
        state.last = Some(attempt.clone());
        drop(state);
        if outcome == Outcome::Reloaded {
            self.taken.notify_one();
        }
        attempt.log(began.elapsed());
        attempt
    }

    /// Makes a configuration live. Returns it with its hash; none, when it is live already.
    fn take(
        &self,
        loaded: Loaded,
        contents: &Contents,
        warnings: &mut Vec<String>,
    ) -> Result<Option<(Box<str>, Config)>, Vec<String>> {
        let Loaded { mut config, sources, warnings: advice } = loaded;
        for advice in advice {
            tracing::warn!("{advice}");
        }
        // As it was written: what a reload would not take would still stop the next start.
        let mut problems = examine(&config);
        let kept = restart::keep(&mut config, &self.running);
        for &key in &kept {
            let message = "has changed and waits for a restart; the old value stays until then";
            warnings.push(sources.describe(&Problem::new(key, message)));
        }
        if problems.is_empty() {
            // What was written fits together, but part of it is not in force yet.
            problems = validate::problems(&config);
            let why = format!("; needs a restart, as {} keep their old values", kept.join(", "));
            for problem in &mut problems {
                problem.message.push_str(&why);
            }
        }
        let hash = hash(&config, contents);
        if problems.is_empty() {
            if hash == self.state().live.hash {
                return Ok(None);
            }
            match self.gateway.reload(&config) {
                Ok(()) => return Ok(Some((hash, config))),
                Err(found) => problems = found,
            }
        }
        Err(lines(&sources.report(&problems)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt {
    fn log(&self, took: Duration) {
        let duration_ms = took.as_secs_f64() * 1e3;
        let (trigger, version) = (self.trigger.name(), &*self.version);
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        match self.outcome {
            Outcome::Reloaded => {
                tracing::info!(trigger, version, duration_ms, "the configuration was reloaded");
            }
            Outcome::Unchanged => {
                tracing::info!(trigger, version, duration_ms, "the configuration is unchanged");
            }
            Outcome::Refused => {
                let errors = self.errors.join("\n");
                tracing::error!(
                    trigger,
                    version,
                    duration_ms,
                    "the changed configuration is refused; the old one stays\n{errors}"
                );
            }
        }
    }
}

/// What a look at the files finds.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// What was read from them.
    Same,
    /// Something else, which may not be finished.
    Changed(Contents),
    /// Something else, for the second time.
    Settled,
}

/// Looks at the files of `known`, of which the last look found `before` if they had changed.
fn look(known: &Contents, before: Option<&Contents>) -> Look {
    let now = known.again();
    if now == *known {
        Look::Same
    } else if before == Some(&now) {
        Look::Settled
    } else {
        Look::Changed(now)
    }
}

/// The reasons of a refusal.
fn lines(error: &LoadError) -> Vec<String> {
    let count = error.problems().len();
    let text = error.to_string();
    let mut lines: Vec<_> = text.lines().take(MAX_ERRORS).map(str::to_owned).collect();
    if count > MAX_ERRORS {
        lines.push(format!("and more, {count} in all"));
    }
    lines
}

/// Names a configuration. It is hashed as the program understands it: with defaults, the
/// environment and the contents of the files it names, and without secrets, as those print nothing:
/// a hash over a guessable password would let it be guessed.
fn hash(config: &Config, contents: &Contents) -> Box<str> {
    let mut digest = Sha256::new();
    digest.update(format!("{config:?}"));
    for file in config.files() {
        contents.add_to(&mut digest, &file);
    }
    let digest = digest.finalize();
    let mut hex = String::with_capacity(16);
    for byte in &digest[..8] {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn version(text: &str, env: &[(&str, &str)]) -> Box<str> {
        let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let loaded = config::parse(text, Path::new("p.toml"), env);
        let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        hash(&config, &Contents::of(config.files()))
    }

    #[test]
    fn a_file_that_is_being_written_is_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("p.toml");
        let write = |text: &str| std::fs::write(&file, text).expect("the folder is ours");
        write("one");
        let known = Contents::of([file.clone()]);
        assert_eq!(look(&known, None), Look::Same);
        let mut before = None;
        for half in ["t", "tw", "two"] {
            write(half);
            match look(&known, before.as_ref()) {
                Look::Changed(found) => before = Some(found),
                other => panic!("{half}: {other:?}"),
            }
        }
        assert_eq!(look(&known, before.as_ref()), Look::Settled);
        // Back to what is live.
        write("one");
        assert_eq!(look(&known, before.as_ref()), Look::Same);
    }

    #[test]
    fn a_version_is_what_is_meant_and_not_how_it_is_written() {
        let plain = version("", &[]);
        assert_eq!(plain.len(), 16);
        assert_eq!(version("# a remark\n[signup]\nenabled = true", &[]), plain);
        let closed = version("[signup]\nenabled = false", &[]);
        assert_ne!(closed, plain);
        assert_eq!(version("", &[("PORTCULLIS_SIGNUP__ENABLED", "false")]), closed);
    }

    #[test]
    fn a_version_tells_nothing_of_secrets() {
        let with = |password: &str| {
            let url = format!("postgres://portcullis:{password}@db/portcullis");
            version("", &[("PORTCULLIS_STORAGE__URL", &url)])
        };
        assert_eq!(with("one"), with("other"));
    }

    #[test]
    fn a_version_covers_what_is_in_the_files_it_names() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key_file = folder.path().join("key");
        let text = format!(
            "[[issuers]]\nname = \"corp\"\nissuer = \"i\"\naudience = \"a\"\n\
             algorithms = [\"HS256\"]\nkey_file = {key_file:?}"
        );
        std::fs::write(&key_file, "one").expect("the folder is ours");
        let one = version(&text, &[]);
        std::fs::write(&key_file, "two").expect("the folder is ours");
        assert_ne!(version(&text, &[]), one);
    }
}
