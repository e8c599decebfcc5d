//! Keys of other issuers that are fetched from them: one task an issuer, which fetches its JWK set
//! from time to time, and once more when a token names a key that is not in it.
//!
//! Whatever goes wrong, the keys that are known stay: an issuer that is away for an hour must not
//! lock its users out. Tokens cause at most one fetch in a cool-down, over all workers, so that
//! made-up key ids cannot turn the gateway against the issuer's server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::live::keep;
use crate::clock::Clock;
use crate::config::{self, Algorithm, Config, Problem};
use crate::identity::keys::{JwkSetError, RemoteKeys};
use crate::outgoing::{Bounds, Client, Endpoint, OutgoingError};
use crate::telemetry::chain;

/// How far one fetch may go. Sets of the large issuers have 3 to 10 KiB.
const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(5), max_bytes: 256 << 10 };

/// How often is looked whether a fetch is due.
const LOOK: Duration = Duration::from_millis(250);

/// How long a start waits for first fetches, and a request for one that its token has caused.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a fetch brought no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the issuer could not be asked")]
    Outgoing(#[source] OutgoingError),
    #[error("the issuer answered with status {}", .0.as_u16())]
    Status(StatusCode),
    #[error("the answer is not usable")]
    Set(#[source] JwkSetError),
}

/// An issuer whose keys are fetched.
pub(crate) struct RemoteIssuer {
    pub(crate) name: Arc<str>,
    url: String,
    algorithms: Vec<Algorithm>,
    endpoint: Endpoint,
    client: Client,
    refresh: SignedDuration,
    cooldown: SignedDuration,
    state: Mutex<State>,
    /// Somebody has asked for a fetch.
    asked: Notify,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
    stop: CancellationToken,
}

#[derive(Clone, Default)]
struct State {
    keys: Arc<RemoteKeys>,
    fetching: bool,
    wanted: bool,
    last_try: Option<Timestamp>,
    last_success: Option<Timestamp>,
    /// When a token last caused a fetch.
    last_asked: Option<Timestamp>,
    /// Why the last fetch failed, if it did.
    failure: Option<String>,
    fetches: u64,
    errors: u64,
}

impl RemoteIssuer {
    /// None, when the issuer's key is in a file.
    ///
    /// # Errors
    /// What is wrong with `[[issuers]]` at `position`.
    pub(crate) fn compile(
        position: usize,
        config: &config::Issuer,
    ) -> Result<Option<Self>, Problem> {
        let Some(url) = &config.jwks_url else { return Ok(None) };
        let at = |key: &str| format!("issuers[{position}].{key}");
        let endpoint = Endpoint::parse(url)
            .map_err(|error| Problem::new(at("jwks_url"), error.to_string()))?;
        let client = Client::new(config.ca.as_deref())
            .map_err(|error| Problem::new(at("ca"), error.to_string()))?;
        let signed = |interval: config::Interval| {
            SignedDuration::try_from(interval.0).unwrap_or(SignedDuration::MAX)
        };
        Ok(Some(Self {
            name: config.name.as_str().into(),
            url: url.clone(),
            algorithms: config.algorithms.clone(),
            endpoint,
            client,
            refresh: signed(config.refresh),
            cooldown: signed(config.cooldown),
            state: Mutex::default(),
            asked: Notify::new(),
            ended: watch::Sender::new(0),
            stop: CancellationToken::new(),
        }))
    }

    /// Whether the keys of `previous` are keys of this one too.
    pub(crate) fn continues(&self, previous: &Self) -> bool {
        (&self.name, &self.url, &self.algorithms)
            == (&previous.name, &previous.url, &previous.algorithms)
    }

    /// Begins with the keys that `previous` has, and owes what it was asked for.
    pub(crate) fn take_over(&self, previous: &Self) {
        let known = previous.state().clone();
        let wanted = known.wanted || known.fetching;
        *self.state() = State { fetching: false, wanted, last_try: None, ..known };
    }

    /// The keys that are known.
    pub(crate) fn keys(&self) -> Arc<RemoteKeys> {
        Arc::clone(&self.state().keys)
    }

    /// Whether tokens can be judged.
    pub(crate) fn has_keys(&self) -> bool {
        !self.state().keys.is_empty()
    }

    /// How it stands, for people.
    pub(crate) fn document(&self) -> Value {
        let state = self.state().clone();
        let keys = state.keys.ids();
        let keys: Vec<_> =
            keys.map(|(kid, alg)| json!({ "kid": kid, "alg": alg.name() })).collect();
        json!({
            "name": &*self.name,
            // Without path and query, which may be what lets callers in.
            "server": self.endpoint.peer().to_string(),
            "keys": keys,
            "skipped_keys": state.keys.skipped(),
            "fetched_at": state.last_success,
            "failure": state.failure,
            "fetches": state.fetches,
            "errors": state.errors,
        })
    }

    /// Seconds since the keys were fetched, fetches, and those that failed.
    pub(crate) fn report(&self, now: Timestamp) -> (Option<i64>, u64, u64) {
        let state = self.state();
        let age = state.last_success.map(|at| now.duration_since(at).as_secs().max(0));
        (age, state.fetches, state.errors)
    }

    /// Ends the task, a running fetch with it.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether another has taken its place.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits for a fetch, which a token causes unless another has in this cool-down. Whether one
    /// has ended.
    pub(crate) async fn fetched_again(&self, clock: &Clock) -> bool {
        let mut ended = self.ended.subscribe();
        {
            let mut state = self.state();
            let now = clock.now();
            if !state.fetching && !state.wanted {
                if state.last_asked.is_some_and(|at| is_within(at, now, self.cooldown)) {
                    return false;
                }
                state.last_asked = Some(now);
                state.wanted = true;
            }
        }
        self.asked.notify_one();
        tokio::select! {
            biased;
            changed = ended.changed() => changed.is_ok(),
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(PATIENCE) => false,
        }
    }

    /// Waits for the end of the first fetch.
    async fn first_fetch(&self) {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            _ = ended.wait_for(|&count| count > 0) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Fetches for as long as the issuer is configured; `changed` is called with other keys than
    /// before, while requests still wait for them.
    pub(crate) async fn follow(self: Arc<Self>, clock: Clock, changed: impl Fn()) {
        loop {
            if self.begin(clock.now()) {
                let fetched = tokio::select! {
                    () = self.stop.cancelled() => return,
                    fetched = self.fetch() => fetched,
                };
                if self.take(fetched, clock.now()) {
                    changed();
                }
                // Not before the keys count: who comes now must wait for that, or find it done.
                self.state().fetching = false;
                self.ended.send_modify(|count| *count += 1);
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.asked.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Whether a fetch is due; then it has begun.
    fn begin(&self, now: Timestamp) -> bool {
        let mut state = self.state();
        let pause = match state.failure {
            Some(_) => self.cooldown.min(self.refresh),
            None => self.refresh,
        };
        let is_due = state.last_try.is_none_or(|at| !is_within(at, now, pause));
        if !is_due && !state.wanted {
            return false;
        }
        state.fetching = true;
        state.wanted = false;
        state.last_try = Some(now);
        state.fetches += 1;
        true
    }

    /// Asks for the keys, once.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub(crate) async fn fetch(&self) -> Result<RemoteKeys, FetchError> {
        let json = HeaderValue::from_static("application/jwk-set+json, application/json");
        let fields = HeaderMap::from_iter([(ACCEPT, json)]);
        let asked = self.client.send(&self.endpoint, Method::GET, fields, Bytes::new(), BOUNDS);
        let answer = asked.await.map_err(FetchError::Outgoing)?;
        // A redirect too: where keys come from is said in the configuration only.
        if answer.status != StatusCode::OK {
            return Err(FetchError::Status(answer.status));
        }
        RemoteKeys::parse(&answer.body, &self.algorithms).map_err(FetchError::Set)
    }

    /// Notes what came of a fetch; whether the keys are others now.
    fn take(&self, fetched: Result<RemoteKeys, FetchError>, now: Timestamp) -> bool {
        let mut state = self.state();
        match fetched {
            Ok(keys) => {
                if state.failure.take().is_some() {
                    tracing::info!(issuer = &*self.name, "the issuer's keys can be fetched again");
                }
                state.last_success = Some(now);
                let has_changed = !state.keys.is_same(&keys);
                if has_changed {
                    let count = keys.ids().count();
                    tracing::info!(
                        issuer = &*self.name,
                        keys = count,
                        "the issuer's keys are known"
                    );
                    state.keys = Arc::new(keys);
                }
                has_changed
            }
            Err(error) => {
                state.errors += 1;
                let error = chain(&error);
                if state.failure.is_none() {
                    tracing::error!(
                        issuer = &*self.name,
                        error,
                        "the issuer's keys cannot be fetched; the known ones stay"
                    );
                }
                state.failure = Some(error);
                false
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The issuers of a configuration whose keys are fetched.
///
/// # Errors
/// Everything that is wrong with them.
pub(crate) fn compile_issuers(config: &Config) -> Result<Vec<Arc<RemoteIssuer>>, Vec<Problem>> {
    let mut problems = Vec::new();
    let compiled = config.issuers.iter().enumerate().filter_map(|(position, issuer)| {
        let issuer = RemoteIssuer::compile(position, issuer).map_err(|found| vec![found]);
        keep(issuer, &mut problems)?.map(Arc::new)
    });
    let compiled = compiled.collect();
    if problems.is_empty() { Ok(compiled) } else { Err(problems) }
}

/// Waits for the first fetch of each, for a short time in all: an issuer that is away must not keep
/// our own users out.
pub(crate) async fn first_fetches(issuers: &[Arc<RemoteIssuer>]) {
    let all = async {
        for issuer in issuers {
            issuer.first_fetch().await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, all).await;
}

/// Whether `now` is less than `time` after `at`; not when the clock was set back.
fn is_within(at: Timestamp, now: Timestamp, time: SignedDuration) -> bool {
    let passed = now.duration_since(at);
    !passed.is_negative() && passed < time
}
