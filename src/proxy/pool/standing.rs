//! What is thought of one server: passed over after failures in a row (passive), up or down by its
//! checks (active), and how much of its share it gets after a return. Shared between workers as
//! plain atomics: each is read by itself, and an opinion that is a moment old does no harm.
//!
//! ```text
//!            failures in a row            the time is over: tried again,
//!   in use ───────────────────▶ ejected ──────────────────────────────▶ in use
//!      ▲                         base·2ⁿ    one more failure ejects for twice as long
//!      └──── a success forgets the failures, and after a long good time the growth, too
//! ```
//!
//! Times are milliseconds of an [`Epoch`].

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// The beginning of an upstream's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch(Instant);

impl Epoch {
    /// Begins now.
    pub(super) fn new(now: Instant) -> Self {
        Self(now)
    }

    /// Milliseconds since, from 1: 0 is never.
    pub(super) fn at(self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.0);
        since.as_secs() * 1_000 + u64::from(since.subsec_millis()) + 1
    }
}

/// When and for how long a server is passed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct EjectionRule {
    /// Failures in a row; 0 = never.
    pub(super) failures: u32,
    /// Milliseconds, the first time.
    pub(super) base: u64,
    /// Milliseconds, at most.
    pub(super) max: u64,
}

/// A verdict of active checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Health {
    /// There are no checks, or none has ended yet.
    Unknown = 0,
    /// Good.
    Up = 1,
    /// Bad: passed over.
    Down = 2,
}

/// Least share of a server that has just come back, of 1000.
const FIRST_SHARE: u64 = 100;

/// A whole share.
pub(super) const WHOLE_SHARE: u64 = 1_000;

/// What is thought of one server.
#[derive(Debug, Default)]
pub(super) struct Standing {
    failures: AtomicU32,
    /// In a row, without a long good time between them.
    ejections: AtomicU32,
    ejected_until: AtomicU64,
    health: AtomicU8,
    /// When checks brought it back.
    up_since: AtomicU64,
    all_ejections: AtomicU64,
}

impl Standing {
    /// Whether requests should go there.
    pub(super) fn is_usable(&self, now: u64) -> bool {
        !self.is_ejected(now) && self.health.load(Relaxed) != Health::Down as u8
    }

    /// Whether it is passed over for its failures.
    pub(super) fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Relaxed) > now
    }

    /// Milliseconds until it is tried again.
    pub(super) fn ejected_for(&self, now: u64) -> u64 {
        self.ejected_until.load(Relaxed).saturating_sub(now)
    }

    /// Its verdict.
    pub(super) fn health(&self) -> Health {
        match self.health.load(Relaxed) {
            1 => Health::Up,
            2 => Health::Down,
            _ => Health::Unknown,
        }
    }

    /// Failures since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    /// How often it was passed over.
    pub(super) fn all_ejections(&self) -> u64 {
        self.all_ejections.load(Relaxed)
    }

    /// A request went well. `now` is asked for only when something was wrong before.
    pub(super) fn note_success(&self, rule: &EjectionRule, now: impl FnOnce() -> u64) {
        if self.failures.load(Relaxed) == 0 && self.ejections.load(Relaxed) == 0 {
            return;
        }
        let now = now();
        self.failures.store(0, Relaxed);
        let until = self.ejected_until.load(Relaxed);
        if until > now {
            // It was tried although it was passed over, as everybody was; it is back.
            self.ejected_until.store(now, Relaxed);
        } else if now - until >= rule.max {
            self.ejections.store(0, Relaxed);
        }
    }

    /// A request failed. True: the server is passed over from now on.
    pub(super) fn note_failure(&self, rule: &EjectionRule, now: u64) -> bool {
        // Many requests that fail at once are one failure.
        if rule.failures == 0 || self.is_ejected(now) {
            return false;
        }
        let failures = self.failures.load(Relaxed).saturating_add(1);
        self.failures.store(failures, Relaxed);
        if failures < rule.failures {
            return false;
        }
        let before = self.ejections.load(Relaxed);
        self.ejections.store(before.saturating_add(1), Relaxed);
        self.all_ejections.fetch_add(1, Relaxed);
        let pause = rule.base.saturating_mul(1 << before.min(32)).min(rule.max);
        self.ejected_until.store(now + pause, Relaxed);
        true
    }

    /// What the checks say.
    pub(super) fn set_health(&self, health: Health, now: u64) {
        let before = self.health.swap(health as u8, Relaxed);
        if health == Health::Up && before == Health::Down as u8 {
            self.up_since.store(now, Relaxed);
        }
    }

    /// Its share of 1000, which grows within `slow_start` milliseconds of a return.
    pub(super) fn share(&self, now: u64, slow_start: u64) -> u64 {
        if slow_start == 0 {
            return WHOLE_SHARE;
        }
        let back = self.ejected_until.load(Relaxed).max(self.up_since.load(Relaxed));
        if back == 0 {
            return WHOLE_SHARE;
        }
        let passed = now.saturating_sub(back).saturating_mul(WHOLE_SHARE) / slow_start;
        passed.clamp(FIRST_SHARE, WHOLE_SHARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: EjectionRule = EjectionRule { failures: 3, base: 500, max: 3_000 };

    fn fail(standing: &Standing, times: u32, now: u64) -> bool {
        (0..times).map(|_| standing.note_failure(&RULE, now)).fold(false, |any, it| any | it)
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not_count_on() {
        let standing = Standing::default();
        assert!(!fail(&standing, 2, 1));
        standing.note_success(&RULE, || 1);
        assert!(!fail(&standing, 2, 1) && standing.is_usable(1));
        assert!(fail(&standing, 1, 1));
        assert!(!standing.is_usable(1) && !standing.is_usable(500) && standing.is_usable(501));
        assert_eq!(standing.ejected_for(101), 400);
    }

    #[test]
    fn each_ejection_is_twice_as_long_up_to_the_longest() {
        let standing = Standing::default();
        let mut now = 1;
        assert!(fail(&standing, 3, now));
        for expected in [500, 1_000, 2_000, 3_000, 3_000] {
            assert_eq!(standing.ejected_for(now), expected);
            assert!(!fail(&standing, 5, now + expected - 1), "many at once are one");
            now += expected;
            // One failure is enough for a server that has not been good since.
            assert!(fail(&standing, 1, now));
        }
        assert_eq!(standing.all_ejections(), 6);
    }

    #[test]
    fn a_long_good_time_forgets_the_growth_and_a_short_one_does_not() {
        let standing = Standing::default();
        fail(&standing, 3, 1);
        standing.note_success(&RULE, || 600);
        fail(&standing, 3, 700);
        assert_eq!(standing.ejected_for(700), 1_000);
        standing.note_success(&RULE, || 1_700 + RULE.max);
        fail(&standing, 3, 9_000);
        assert_eq!(standing.ejected_for(9_000), 500);
    }

    #[test]
    fn a_success_while_everybody_is_ejected_brings_a_server_back() {
        let standing = Standing::default();
        fail(&standing, 3, 1);
        standing.note_success(&RULE, || 100);
        assert!(standing.is_usable(100));
    }

    #[test]
    fn no_failures_eject_where_the_rule_says_never() {
        let standing = Standing::default();
        let never = EjectionRule { failures: 0, ..RULE };
        assert!(!(0..100).any(|_| standing.note_failure(&never, 1)));
        assert!(standing.is_usable(1));
    }

    #[test]
    fn a_server_that_is_down_is_not_used_and_returns_slowly() {
        let standing = Standing::default();
        assert_eq!(standing.share(5, 1_000), WHOLE_SHARE, "it was never away");
        standing.set_health(Health::Down, 10);
        assert!(!standing.is_usable(10));
        standing.set_health(Health::Up, 20);
        assert!(standing.is_usable(20));
        for (now, share) in [(20, 100), (70, 100), (270, 250), (520, 500), (1_020, 1_000)] {
            assert_eq!(standing.share(now, 1_000), share, "{now}");
        }
        assert_eq!(standing.share(20, 0), WHOLE_SHARE);
        // Being found up again is no return.
        standing.set_health(Health::Up, 2_000);
        assert_eq!(standing.share(2_000, 1_000), WHOLE_SHARE);
        fail(&standing, 3, 3_000);
        assert_eq!(standing.share(3_500, 1_000), 100);
        assert_eq!(standing.share(4_000, 1_000), 500);
    }
}
