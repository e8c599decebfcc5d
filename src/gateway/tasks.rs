//! What goes on beside requests: following what other gateways and the command line do in the
//! database, replacing old keys, and forgetting what is over.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gateway;
use crate::auth::equal_time::{classify, follow};
use crate::clock::Clock;
use crate::config::{Algorithm, Tokens};
use crate::identity::keys::{self, life};
use crate::identity::{ApiKeys, KeySet, Revocations};
use crate::model::{Event, EventKind, ListedKey, Outcome, uuid_v7};
use crate::store::{ApiKeyCursor, RevocationCursor, Store, StoreError};
use crate::telemetry::chain;

/// How often ended sessions are read: well within the second in which all gateways must know.
const READ_ENDED: Duration = Duration::from_millis(250);

/// How often signing keys are read: a key that is revoked is refused within a second, too.
const READ_KEYS: Duration = Duration::from_millis(250);

/// How long after a failed attempt to replace an old key the next one is made.
const ROTATE_AGAIN: Duration = Duration::from_mins(1);

/// A stored password that makes failed logins take so many times as long is worth a warning.
const COSTLY: u64 = 4;

/// How often the kinds of stored passwords are read: an import may bring slower ones.
const READ_CLASSES: Duration = Duration::from_secs(5);

/// How often deleted accounts are looked for in the events.
const ERASE: Duration = Duration::from_secs(5);

/// How often what is over is deleted from the database.
const PRUNE: Duration = Duration::from_mins(10);

impl Gateway {
    /// Reads what ends tokens before their time: sessions that were ended, and changes of API keys.
    pub(super) async fn follow_ended_sessions(
        self: Arc<Self>,
        mut cursor: RevocationCursor,
        mut key_cursor: ApiKeyCursor,
    ) {
        let mut away = false;
        let mut last_sweep = Instant::now();
        while self.pause(READ_ENDED).await {
            let began = Instant::now();
            let ended = read_ended(&self.store, &self.revocations, &mut cursor, &self.clock).await;
            // Whatever came of the other.
            let keys = read_api_keys(&self.store, &self.api_keys, &mut key_cursor).await;
            match ended.and(keys) {
                Ok(()) => {
                    self.revocations.mark_synced(began);
                    if std::mem::take(&mut away) {
                        tracing::info!(
                            "the database is back; ended sessions and API keys are known again"
                        );
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::error!(
                            error = chain(&error),
                            "ended sessions and API keys cannot be read; what is known of them counts"
                        );
                    }
                }
            }
            self.note_used_keys().await;
            if last_sweep.elapsed() > PRUNE {
                last_sweep = Instant::now();
                self.revocations.sweep(self.clock.now());
            }
        }
    }

    /// Notes last uses of API keys; a loss only makes them older.
    async fn note_used_keys(&self) {
        let used = self.api_keys.take_used();
        if !used.is_empty()
            && let Err(error) = self.store.touch_api_keys(&used).await
        {
            tracing::debug!(error = chain(&error), "last uses of API keys were not noted");
        }
    }

    pub(super) async fn follow_keys(self: Arc<Self>, tokens: Tokens) {
        if tokens.algorithm == Algorithm::Hs256 {
            return;
        }
        let mut known = None;
        let mut last_failure: Option<Instant> = None;
        while self.pause(READ_KEYS).await {
            let Ok(listed) = self.store.listed_keys().await else { continue };
            if last_failure.is_none_or(|at| at.elapsed() > ROTATE_AGAIN) {
                last_failure = match self.replace_old_key(&listed, &tokens).await {
                    Ok(()) => None,
                    Err(error) => {
                        tracing::error!(error = chain(&*error), "no new signing key was made");
                        Some(Instant::now())
                    }
                };
            }
            let state = |key: ListedKey| (key.kid, key.active_from, key.retire_at, key.revoked_at);
            let state: Vec<_> = listed.into_iter().map(state).collect();
            if known.as_ref() == Some(&state) {
                continue;
            }
            match self.read_keys(&tokens).await {
                Ok(keys) => {
                    if known.is_some() {
                        tracing::info!(keys = state.len(), "the signing keys have changed");
                    }
                    self.take_keys(Arc::new(keys));
                    known = Some(state);
                }
                Err(error) => {
                    tracing::error!(
                        error = chain(&*error),
                        "the stored signing keys cannot be used; the known ones stay"
                    );
                }
            }
        }
    }

    async fn read_keys(&self, tokens: &Tokens) -> Result<KeySet, Box<dyn Error + Send + Sync>> {
        let stored = self.store.signing_keys(self.clock.now()).await?;
        Ok(KeySet::compile(tokens, &stored)?)
    }

    /// Makes the next key when the present one is old enough (`tokens.rotate_every`). Of many
    /// gateways that do so one is in time.
    async fn replace_old_key(
        &self,
        listed: &[ListedKey],
        tokens: &Tokens,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let now = self.clock.now();
        let Some(active_from) = life::due(listed, tokens, now) else { return Ok(()) };
        let Some(oldest) = life::oldest(tokens, now) else { return Ok(()) };
        let algorithm = tokens.algorithm;
        // An RSA key takes a second of work.
        let made = tokio::task::spawn_blocking(move || keys::generate(algorithm, now, active_from));
        let key = made.await??;
        let event = Event {
            id: uuid_v7(now),
            at: now,
            kind: EventKind::SigningKeyChanged,
            outcome: Outcome::Success,
            reason: Some(format!("rotated:{}", key.kid)),
            actor: Some("gateway".to_owned()),
            user_id: None,
            email: None,
            session_id: None,
            address: None,
            user_agent: None,
            request_id: None,
        };
        let retire_at = life::retire_at(tokens, active_from);
        if self.store.rotate_if_due(&key, oldest, retire_at, &event).await? {
            tracing::info!(kid = key.kid, %active_from, "made the next signing key");
        }
        Ok(())
    }

    /// Finds out which kinds of hashes are stored, some users at a time, and has failed logins take
    /// as long as the slowest.
    pub(super) async fn follow_passwords(self: Arc<Self>) {
        let hasher = &self.auth.accounts().hasher;
        let mut place = None;
        loop {
            match classify(&self.store, hasher, place.as_ref()).await {
                Ok(next) => place = next,
                Err(error) => {
                    tracing::debug!(error = chain(&error), "stored passwords were not looked at");
                }
            }
            match follow(&self.store, hasher).await {
                Ok(None) => {}
                Ok(Some(slowest)) if hasher.slowdown() >= COSTLY => {
                    let times = hasher.slowdown();
                    tracing::warn!(
                        %slowest,
                        times,
                        "a stored password is so costly that every failed login takes many times as \
                         long as it would; have its user log in, or set another password"
                    );
                }
                Ok(Some(slowest)) => {
                    tracing::info!(%slowest, "failed logins take as long as passwords of this kind");
                }
                Err(error) => {
                    tracing::debug!(error = chain(&error), "kinds of passwords were not read");
                }
            }
            if !self.pause(READ_CLASSES).await {
                return;
            }
        }
    }

    pub(super) async fn prune(self: Arc<Self>) {
        while self.pause(PRUNE).await {
            if let Err(error) = self.store.prune(self.clock.now()).await {
                tracing::debug!(error = chain(&error), "what is over was not deleted");
            }
        }
    }

    /// Also what other processes deleted: the command line, a gateway that stopped.
    pub(super) async fn erase(self: Arc<Self>) {
        while self.pause(ERASE).await {
            if let Err(error) = self.store.erase(self.clock.now()).await {
                tracing::debug!(error = chain(&error), "deleted accounts are still in events");
            }
        }
    }

    /// Waits; false when the gateway stops.
    async fn pause(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stopping.cancelled()).await.is_err()
    }
}

pub(super) async fn read_ended(
    store: &Store,
    revocations: &Revocations,
    cursor: &mut RevocationCursor,
    clock: &Clock,
) -> Result<(), StoreError> {
    let ended = store.ended_sessions(cursor, clock.now()).await?;
    if !ended.is_empty() {
        revocations.end(ended);
    }
    Ok(())
}

pub(super) async fn read_api_keys(
    store: &Store,
    keys: &ApiKeys,
    cursor: &mut ApiKeyCursor,
) -> Result<(), StoreError> {
    let news = store.changed_api_keys(cursor).await?;
    for id in keys.take(news.keys, news.all) {
        tracing::error!(%id, "the row of an API key makes no sense; it is not accepted");
    }
    Ok(())
}
