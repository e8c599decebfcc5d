//! The gateway: what all threads share ([`Gateway`]), and one worker's side of it
//! (`desk::Desk`), which takes a request from its arrival to its answer.
//!
//! Shared state changes in three places only: [`Gateway::reload`] swaps the configuration whole, a
//! rotation of keys the verifier in it, and ended sessions are added to [`Revocations`]. A request
//! takes a snapshot and keeps it to its end.

mod courier;
pub(crate) mod desk;
mod events;
mod exchange;
pub(crate) mod issuers;
pub mod live;
mod outbox;
mod record;
mod tasks;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::courier::Courier;
pub(crate) use self::desk::{Connection, Desk};
use self::events::Keeper;
use self::issuers::{RemoteIssuer, compile_issuers, first_fetches};
pub use self::live::Live;
use self::live::keep;
use self::outbox::Outbox;
use self::tasks::{read_api_keys, read_ended};
use crate::auth::accounts::LoginHook;
use crate::auth::password::Settings;
use crate::auth::{Accounts, Auth, Hasher, Policy, Rules};
use crate::clock::Clock;
use crate::config::{Algorithm, Config, Problem};
use crate::events::webhook::Webhook;
use crate::events::{EventNotes, EventQueue, queue};
use crate::identity::keys::{self, KeyError, RemoteKeys, life};
use crate::identity::{ApiKeys, KeySet, Revocations, Verifier};
use crate::limit::{LimitError, Limiter};
use crate::mail::Mailer;
use crate::model::SessionId;
use crate::proxy::decide::run_tests;
use crate::store::{ApiKeyCursor, RevocationCursor, Store, StoreError};
use crate::telemetry::chain;

/// How long a start waits for its database.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long a stop waits for events that are still to be written.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// What all threads share.
pub struct Gateway {
    /// Time.
    pub clock: Clock,
    /// The configuration, compiled.
    pub live: Arc<ArcSwap<Live>>,
    /// Judges tokens for the account endpoints, which take only our own.
    verifier: Arc<ArcSwap<Verifier>>,
    /// Held while a verifier is replaced: a reload and a rotation of keys each keep what the other
    /// has changed.
    replacing: Mutex<()>,
    /// Issuers whose keys are fetched.
    pub(crate) issuers: ArcSwap<Vec<Arc<RemoteIssuer>>>,
    /// Ended sessions.
    pub revocations: Arc<Revocations>,
    /// The API keys that are good.
    pub api_keys: Arc<ApiKeys>,
    /// Rate counters.
    pub limiter: Arc<Limiter>,
    /// Events of proxied routes.
    pub events: EventNotes,
    /// The account endpoints.
    pub auth: Arc<Auth>,
    /// Users, sessions, events.
    pub store: Arc<Store>,
    /// Open tunnels over all workers.
    pub(crate) tunnels: Arc<AtomicUsize>,
    /// Where account requests run.
    control: Handle,
    auth_label: String,
    draining: AtomicBool,
    warned_of_header: AtomicBool,
    max_staleness: Option<Duration>,
    stopping: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Writes and sends letters; a reload reads its files again.
    mailer: Arc<ArcSwap<Mailer>>,
    /// Looks after the events that are stored.
    keeper: Arc<Keeper>,
    /// Hands them on.
    pub(crate) courier: Arc<Courier>,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error("the configuration is wrong")]
    Config(Vec<Problem>),
    /// The counters cannot be opened.
    #[error("the rate counters cannot be opened")]
    Counters(#[source] LimitError),
    /// A signing key cannot be used.
    #[error("the signing keys cannot be used")]
    Keys(#[source] KeyError),
    /// A socket cannot be bound.
    #[error("{}", .0.message)]
    Listen(Problem),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Store(#[source] StoreError),
    /// The system refuses threads or sockets.
    #[error("the system refuses threads or sockets")]
    Threads(#[source] std::io::Error),
}

/// A session whose token was used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionSeen {
    pub(crate) id: SessionId,
    pub(crate) at: Timestamp,
}

impl Gateway {
    /// Compiles the configuration, opens the stores, reads keys and ended sessions. Runs on the
    /// control runtime, which then drives the gateway's tasks.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn open(config: &Config, clock: Clock) -> Result<Arc<Self>, StartError> {
        let live = Live::compile(config).map_err(StartError::Config)?;
        let store =
            Arc::new(Store::open(&config.storage, &config.secrets).map_err(StartError::Store)?);
        patiently(&store, || prepare(&store, config.storage.migrate)).await?;
        let keys = patiently(&store, || load_keys(&store, config, &clock)).await?;
        let keys = Arc::new(KeySet::compile(&config.tokens, &keys).map_err(StartError::Keys)?);
        let verifier =
            Verifier::compile(&config.tokens, keys, &config.issuers).map_err(StartError::Config)?;
        let verifier = Arc::new(verifier);
        live.verifier.store(Arc::clone(&verifier));
        let verifier = Arc::new(ArcSwap::new(verifier));

        let issuers = compile_issuers(config).map_err(StartError::Config)?;

        let revocations = Arc::new(Revocations::new(config.tokens.leeway.0, Instant::now()));
        let mut cursor = RevocationCursor::default();
        let began = Instant::now();
        read_ended(&store, &revocations, &mut cursor, &clock).await.map_err(StartError::Store)?;
        let api_keys = Arc::new(ApiKeys::default());
        let mut key_cursor = ApiKeyCursor::default();
        read_api_keys(&store, &api_keys, &mut key_cursor).await.map_err(StartError::Store)?;
        revocations.mark_synced(began);

        let limiter =
            Limiter::open(&config.counters, clock.clone()).map_err(StartError::Counters)?;
        let limiter = Arc::new(limiter);
        // What cannot be sent later is found now.
        let mailer = Arc::new(Mailer::compile(config).map_err(StartError::Config)?);
        let mailer = Arc::new(ArcSwap::new(mailer));
        let login_hook = LoginHook::compile(config).map_err(StartError::Config)?;
        let settings = Settings::compile(&config.passwords).map_err(StartError::Config)?;
        let accounts = Accounts {
            store: Arc::clone(&store),
            hasher: Arc::new(Hasher::start(&settings).map_err(StartError::Threads)?),
            policy: Arc::new(Policy::compile(&config.passwords).map_err(StartError::Config)?),
            tokens: config.tokens.clone(),
            verifier: Arc::clone(&verifier),
            revocations: Arc::clone(&revocations),
            api_keys: Arc::clone(&api_keys),
            login_hook: ArcSwapOption::from(login_hook.map(Arc::new)),
            letters: crate::auth::accounts::Letters::compile(config),
            redirects: crate::auth::Redirects::compile(config).map_err(StartError::Config)?,
            sessions: ArcSwap::from_pointee(config.sessions.clone()),
            links: config.links.clone(),
            clock: clock.clone(),
        };
        let rules = Rules::compile(config).map_err(StartError::Config)?;
        let auth = Auth::new(accounts, Arc::clone(&limiter), rules);
        let (notes, queue) = queue();
        let stopping = CancellationToken::new();
        let webhook = Webhook::compile(config).map_err(StartError::Config)?;
        let courier = Courier::new(webhook, Arc::clone(&store), clock.clone(), stopping.clone());
        let courier = Arc::new(courier);
        let keeper = Keeper::new(
            config,
            Arc::clone(&store),
            clock.clone(),
            Arc::clone(&courier),
            stopping.clone(),
        );
        let gateway = Arc::new(Self {
            clock,
            live: Arc::new(ArcSwap::new(live)),
            verifier,
            replacing: Mutex::default(),
            issuers: ArcSwap::from_pointee(issuers),
            revocations,
            api_keys,
            limiter,
            events: notes,
            auth: Arc::new(auth),
            store,
            tunnels: Arc::default(),
            control: Handle::current(),
            auth_label: config.server.auth_prefix.clone(),
            draining: AtomicBool::new(false),
            warned_of_header: AtomicBool::new(false),
            max_staleness: config.tokens.max_staleness.map(|interval| interval.0),
            stopping,
            tasks: Mutex::default(),
            mailer,
            keeper: Arc::new(keeper),
            courier,
        });
        gateway.spawn_tasks(config, cursor, key_cursor, queue);
        gateway.follow_issuers();
        first_fetches(&gateway.issuers.load_full()).await;
        Ok(gateway)
    }

    /// Takes another configuration, all of it or nothing: compiles it, runs its `[[tests]]`, and
    /// makes it what requests that arrive from now on are decided by. Blocks for as long as
    /// compiling takes and reads the files that it names.
    ///
    /// Keys that only a restart takes must have the values of the start
    /// ([`restart::keep`](crate::config::restart::keep)).
    ///
    /// # Errors
    /// Everything that is wrong with it; then nothing has changed.
    pub fn reload(self: &Arc<Self>, config: &Config) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let live = keep(Live::compile_after(config, &self.live.load()), &mut problems);
        let rules = keep(Rules::compile(config), &mut problems);
        let keys = Arc::clone(self.verifier.load().keys());
        let compiled = Verifier::compile(&config.tokens, keys, &config.issuers);
        let verifier = keep(compiled, &mut problems);
        let mailer = keep(Mailer::compile(config), &mut problems);
        let issuers = keep(compile_issuers(config), &mut problems);
        let login_hook = keep(LoginHook::compile(config), &mut problems);
        let webhook = keep(Webhook::compile(config), &mut problems);
        if let Some(live) = &live {
            problems.extend(run_tests(config, &live.table));
        }
        let (
            Some(live),
            Some(rules),
            Some(verifier),
            Some(mailer),
            Some(issuers),
            Some(login_hook),
            Some(webhook),
            true,
        ) = (live, rules, verifier, mailer, issuers, login_hook, webhook, problems.is_empty())
        else {
            return Err(problems);
        };
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        // Keys may have been rotated since.
        let keys = Arc::clone(self.verifier.load().keys());
        let before = self.issuers.load_full();
        for issuer in &issuers {
            if let Some(previous) = before.iter().find(|previous| issuer.continues(previous)) {
                issuer.take_over(previous);
            }
        }
        self.issuers.store(Arc::new(issuers));
        let verifier = verifier.with_keys(keys).with_remote_keys(|name| self.keys_of(name));
        let verifier = Arc::new(verifier);
        // Before anybody can see it.
        live.verifier.store(Arc::clone(&verifier));
        self.live.store(live);
        self.verifier.store(verifier);
        self.auth.reload(rules);
        self.mailer.store(Arc::new(mailer));
        self.auth.accounts().login_hook.store(login_hook.map(Arc::new));
        self.courier.reload(webhook);
        self.keeper.reload(&config.events);
        before.iter().for_each(|issuer| issuer.stop());
        self.follow_issuers();
        Ok(())
    }

    fn spawn_tasks(
        self: &Arc<Self>,
        config: &Config,
        cursor: RevocationCursor,
        key_cursor: ApiKeyCursor,
        queue: EventQueue,
    ) {
        let store = Arc::clone(&self.store);
        let writing = queue.write(move |batch| {
            let store = Arc::clone(&store);
            async move { store.record(&batch).await }
        });
        let outbox = Outbox::new(
            Arc::clone(&self.auth),
            Arc::clone(&self.store),
            Arc::clone(&self.mailer),
            config.mail.clone(),
            self.stopping.clone(),
        );
        let tasks = [
            tokio::spawn(Arc::clone(self).follow_ended_sessions(cursor, key_cursor)),
            tokio::spawn(Arc::clone(self).follow_keys(config.tokens.clone())),
            tokio::spawn(Arc::clone(self).follow_passwords()),
            tokio::spawn(Arc::clone(self).prune()),
            tokio::spawn(Arc::clone(self).erase()),
            tokio::spawn(Arc::clone(&self.keeper).run()),
            tokio::spawn(Arc::clone(&self.courier).run()),
            tokio::spawn(writing),
            tokio::spawn(outbox.run()),
        ];
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
    }

    /// Whether requests are still to be sent here.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Whether a key signs, or will in a moment, as after an emergency. Else nobody can log in.
    pub fn can_sign(&self) -> bool {
        let (keys, now) = (Arc::clone(self.verifier.load().keys()), self.clock.now());
        keys.signer(now).or_else(|| keys.signer(life::later(now, life::SPREAD))).is_some()
    }

    /// Open tunnels over all workers.
    pub(crate) fn open_tunnels(&self) -> i64 {
        i64::try_from(self.tunnels.load(Relaxed)).unwrap_or(i64::MAX)
    }

    /// Not ready from now on.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Ends the gateway's tasks; events that were noted are written first.
    pub(crate) async fn close(&self) {
        self.stopping.cancel();
        self.issuers.load().iter().for_each(|issuer| issuer.stop());
        self.events.close();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            if tokio::time::timeout(CLOSE_PATIENCE, task).await.is_err() {
                tracing::warn!("a task did not end in time");
            }
        }
    }

    /// Whether the ended sessions were read too long ago for those who asked for a limit
    /// (`tokens.max_staleness`).
    fn is_stale(&self) -> bool {
        self.max_staleness.is_some_and(|most| {
            self.revocations.staleness(Instant::now()).is_none_or(|staleness| staleness > most)
        })
    }

    /// Notes that sessions were used; a loss only makes "last seen" older.
    pub(crate) fn note_sessions(self: &Arc<Self>, seen: Vec<SessionSeen>) {
        let store = Arc::clone(&self.store);
        self.control.spawn(async move {
            let seen: Vec<_> = seen.into_iter().map(|session| (session.id, session.at)).collect();
            if let Err(error) = store.touch_sessions(&seen).await {
                tracing::debug!(error = chain(&error), "last uses of sessions were not noted");
            }
        });
    }

    /// Warns once: a balancer that is not in `trusted_proxies` is a common mistake.
    fn warn_of_ignored_header(&self, peer: std::net::IpAddr) {
        if !self.warned_of_header.swap(true, Relaxed) {
            tracing::warn!(
                %peer,
                "a forwarding header came from a peer that is not in server.trusted_proxies and was dropped; such headers are only counted from now on"
            );
        }
    }

    fn take_keys(&self, keys: Arc<KeySet>) {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let verifier = Arc::new(self.verifier.load().with_keys(keys));
        self.verifier.store(Arc::clone(&verifier));
        self.live.load().verifier.store(verifier);
    }

    fn issuer(&self, name: &str) -> Option<Arc<RemoteIssuer>> {
        self.issuers.load().iter().find(|issuer| *issuer.name == *name).map(Arc::clone)
    }

    fn keys_of(&self, name: &str) -> Option<Arc<RemoteKeys>> {
        self.issuer(name).map(|issuer| issuer.keys())
    }

    /// Begins to fetch the keys of the issuers.
    fn follow_issuers(self: &Arc<Self>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stopping.is_cancelled() {
            // Nobody would wait for them.
            return;
        }
        // Those of earlier configurations.
        tasks.retain(|task| !task.is_finished());
        for issuer in self.issuers.load().iter() {
            let this = Arc::downgrade(self);
            let changed = move || {
                if let Some(this) = this.upgrade() {
                    this.take_issuer_keys();
                }
            };
            let following = Arc::clone(issuer).follow(self.clock.clone(), changed);
            tasks.push(self.control.spawn(following));
        }
    }

    fn take_issuer_keys(&self) {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let verifier = self.verifier.load().with_remote_keys(|name| self.keys_of(name));
        let verifier = Arc::new(verifier);
        self.verifier.store(Arc::clone(&verifier));
        self.live.load().verifier.store(verifier);
    }

    /// Waits until the keys of an issuer were fetched again, if that may be; whether they were.
    pub(crate) async fn fetch_keys_of(&self, name: &str) -> bool {
        let Some(issuer) = self.issuer(name) else { return false };
        if issuer.fetched_again(&self.clock).await {
            return true;
        }
        // A reload in the meantime: its successor owes the fetch.
        match self.issuer(name).filter(|_| issuer.is_stopped()) {
            Some(successor) => successor.fetched_again(&self.clock).await,
            None => false,
        }
    }
}

async fn prepare(store: &Store, migrate: bool) -> Result<(), StoreError> {
    if migrate {
        let migrated = store.migrate().await?;
        if !migrated.applied.is_empty() {
            tracing::info!(version = migrated.to, "the database schema was brought up to date");
        }
    }
    store.check_schema().await?;
    store.check_rights().await
}

/// The stored keys; the first start makes one.
async fn load_keys(
    store: &Store,
    config: &Config,
    clock: &Clock,
) -> Result<Vec<crate::model::SigningKey>, StoreError> {
    let algorithm = config.tokens.algorithm;
    let now = clock.now();
    let stored = store.signing_keys(now).await?;
    let usable = |key: &crate::model::SigningKey| {
        key.algorithm == algorithm && key.retire_at.is_none_or(|at| at > now)
    };
    if algorithm == Algorithm::Hs256 || stored.iter().any(usable) {
        return Ok(stored);
    }
    if let Ok(key) = keys::generate(algorithm, now, now)
        && store.add_signing_key_if_none(&key).await?
    {
        tracing::info!(kid = key.kid, algorithm = algorithm.name(), "made a signing key");
    }
    store.signing_keys(now).await
}

/// Tries a step of the start until the database is there, or patience ends.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    store: &Store,
    mut step: impl FnMut() -> F,
) -> Result<T, StartError> {
    let began = Instant::now();
    loop {
        match step().await {
            Err(error) if error.is_unavailable() && began.elapsed() < START_PATIENCE => {
                tracing::warn!(
                    error = chain(&error),
                    database = store.describe(),
                    "waiting for the database"
                );
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            outcome => return outcome.map_err(StartError::Store),
        }
    }
}
