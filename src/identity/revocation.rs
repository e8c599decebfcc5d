//! Ended sessions, in memory: what makes a logout hold on every route at once without asking a
//! database for each request.
//!
//! The set is shared by all workers. Its `version` moves whenever a session is added, and a worker
//! remembers, beside each token it has verified, the version at which it last found the token's
//! session alive; so the usual request reads one atomic number and takes no lock. The order is what
//! makes it right: [`end`](Revocations::end) first inserts and then moves the version, a reader
//! first reads the version and then looks. Whoever starts after `end` has returned sees the new
//! version, looks, and finds the session.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::model::{EndedSession, SessionId};

/// The sessions that were ended while tokens of theirs are still unexpired.
pub struct Revocations {
    /// With the Unix second from which on every token of the session has expired.
    ended: RwLock<HashMap<SessionId, i64, ahash::RandomState>>,
    version: AtomicU64,
    leeway_seconds: i64,
    epoch: Instant,
    /// Milliseconds from `epoch` to the last complete reading, or [`NEVER`].
    synced: AtomicI64,
}

const NEVER: i64 = -1;

impl Revocations {
    /// An empty set that is not ready. `leeway` is how long tokens are accepted past their `exp`;
    /// `now` is when time begins for [`staleness`](Self::staleness).
    pub fn new(leeway: Duration, now: Instant) -> Self {
        Self {
            ended: RwLock::default(),
            // Not 0, so that a reader's "never looked" is no version.
            version: AtomicU64::new(1),
            leeway_seconds: i64::try_from(leeway.as_secs()).unwrap_or(i64::MAX),
            epoch: now,
            synced: AtomicI64::new(NEVER),
        }
    }

    /// Adds ended sessions. When this returns, every worker refuses their tokens.
    pub fn end(&self, sessions: impl IntoIterator<Item = EndedSession>) {
        // Whole sets are read again and again; only what is new costs a write lock, and only that
        // sends the workers back to look.
        let new: Vec<(SessionId, i64)> = {
            let ended = self.read();
            sessions
                .into_iter()
                .map(|session| (session.id, self.forget_at(session.until)))
                .filter(|(id, until)| ended.get(id).is_none_or(|known| known < until))
                .collect()
        };
        if new.is_empty() {
            return;
        }
        let mut ended = self.ended.write().unwrap_or_else(PoisonError::into_inner);
        for (id, until) in new {
            let known = ended.entry(id).or_insert(until);
            *known = until.max(*known);
        }
        // Still under the lock: another caller that finds the session here may return at once.
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Moves whenever a session is added. Read it before [`contains`](Self::contains), and remember
    /// it with the outcome.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// Whether the session was ended.
    pub fn contains(&self, session: &SessionId) -> bool {
        self.read().contains_key(session)
    }

    /// How many sessions are remembered.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Forgets the sessions whose tokens have all expired at `now`: those are refused for that.
    pub fn sweep(&self, now: Timestamp) {
        let now = now.as_second();
        // Most sweeps find nothing, and readers should not wait for that.
        if self.read().values().any(|&until| until <= now) {
            let mut ended = self.ended.write().unwrap_or_else(PoisonError::into_inner);
            ended.retain(|_, until| *until > now);
        }
    }

    /// Notes that everything ended before `now` is in the set.
    pub fn mark_synced(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.epoch).as_millis();
        self.synced.fetch_max(i64::try_from(ms).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// How long ago the set was complete; `None` before the first time.
    pub fn staleness(&self, now: Instant) -> Option<Duration> {
        let synced = u64::try_from(self.synced.load(Ordering::SeqCst)).ok()?;
        Some(now.saturating_duration_since(self.epoch + Duration::from_millis(synced)))
    }

    /// Whether the set was ever complete: before that, an ended session could pass.
    pub fn is_ready(&self) -> bool {
        self.synced.load(Ordering::SeqCst) != NEVER
    }

    /// A token is accepted while `now < exp + leeway`; fractions of seconds count up.
    fn forget_at(&self, until: Timestamp) -> i64 {
        until.as_second().saturating_add(1).saturating_add(self.leeway_seconds)
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<SessionId, i64, ahash::RandomState>> {
        // A writer only inserts or removes whole entries: what a panicking one leaves is valid.
        self.ended.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use uuid::Uuid;

    use super::*;

    fn second(n: i64) -> Timestamp {
        Timestamp::from_second(n).unwrap()
    }

    fn ended(n: u128, until: i64) -> EndedSession {
        EndedSession { id: Uuid::from_u128(n), until: second(until) }
    }

    #[test]
    fn a_session_is_remembered_until_its_last_token_has_expired() {
        let revocations = Revocations::new(Duration::from_secs(30), Instant::now());
        revocations.end([ended(1, 1000), ended(2, 2000)]);
        // Told twice with different times, the later counts.
        revocations.end([ended(1, 900)]);
        assert!(revocations.contains(&Uuid::from_u128(1)));
        assert!(!revocations.contains(&Uuid::from_u128(3)));

        revocations.sweep(second(1029));
        assert_eq!(revocations.len(), 2, "with leeway, a token is accepted in second 1029");
        revocations.sweep(second(1031));
        assert!(!revocations.contains(&Uuid::from_u128(1)));
        assert!(revocations.contains(&Uuid::from_u128(2)));
        revocations.end([ended(2, 3000)]);
        revocations.sweep(second(2100));
        assert!(revocations.contains(&Uuid::from_u128(2)), "the end was moved");
        revocations.sweep(second(4000));
        assert!(revocations.is_empty());
    }

    #[test]
    fn the_version_moves_only_for_news() {
        let revocations = Revocations::new(Duration::ZERO, Instant::now());
        let before = revocations.version();
        revocations.end([ended(1, 1000)]);
        let after = revocations.version();
        assert!(after > before);
        revocations.end([ended(1, 1000)]);
        revocations.end([]);
        revocations.sweep(second(5000));
        assert_eq!(revocations.version(), after);
    }

    #[test]
    fn staleness_counts_from_the_last_complete_reading() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let revocations = Revocations::new(Duration::ZERO, start);
        assert!(!revocations.is_ready());
        assert_eq!(revocations.staleness(at(5)), None);
        revocations.mark_synced(at(0));
        assert!(revocations.is_ready());
        assert_eq!(revocations.staleness(at(5)), Some(Duration::from_secs(5)));
        revocations.mark_synced(at(5));
        revocations.mark_synced(at(3));
        assert_eq!(revocations.staleness(at(7)), Some(Duration::from_secs(2)));
        assert_eq!(revocations.staleness(at(4)), Some(Duration::ZERO));
    }

    /// Readers act as the workers do: trust the remembered version, else look. None may find a
    /// session alive that had been ended before it began to ask.
    #[test]
    fn no_worker_accepts_a_session_after_end_has_returned() {
        const SESSIONS: u64 = 2_000;
        let revocations = Arc::new(Revocations::new(Duration::ZERO, Instant::now()));
        // Sessions 0..returned have been ended, and `end` has returned for them.
        let returned = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (revocations, returned, failed) = (&revocations, &returned, &failed);
                scope.spawn(move || {
                    let mut seen_alive = vec![0; usize::try_from(SESSIONS).unwrap()];
                    let mut next = 0;
                    loop {
                        let done = returned.load(Ordering::SeqCst);
                        let newest = [done.saturating_sub(1), done.min(SESSIONS - 1), next];
                        next = (next + 7) % SESSIONS;
                        for n in newest {
                            let remembered = &mut seen_alive[usize::try_from(n).unwrap()];
                            let version = revocations.version();
                            let alive = *remembered == version || {
                                let alive = !revocations.contains(&Uuid::from_u128(n.into()));
                                if alive {
                                    *remembered = version;
                                }
                                alive
                            };
                            if alive && n < done {
                                failed.store(true, Ordering::SeqCst);
                            }
                        }
                        if done == SESSIONS {
                            break;
                        }
                    }
                });
            }
            for n in 0..SESSIONS {
                revocations.end([ended(n.into(), 1000)]);
                returned.store(n + 1, Ordering::SeqCst);
            }
        });
        assert!(!failed.load(Ordering::SeqCst));
        assert_eq!(revocations.len(), 2_000);
    }
}
