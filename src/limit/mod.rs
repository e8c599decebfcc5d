//! Rate limits: so many hits in any stretch of time, counted for each address, user, account or
//! route, in this process or in Redis. One rule language ([`Rule`]), one way to ask
//! ([`Limiter::hit`]), one definition of the window ([`window`]).
//!
//! Knows neither requests nor answers. Invariant: asking takes at most [`DEADLINE`], whatever
//! Redis does, and gives a decision, never an error.

pub mod fields;
pub mod link;
pub mod memory;
pub mod redis;
pub mod rule;
pub mod window;

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

pub use self::fields::{RateLimitFields, rate_limit_fields};
use self::link::Target;
use self::memory::Memory;
use self::redis::Redis;
pub use self::rule::{Caller, Key, Rule};
use self::window::{Verdict, from_micros};
use crate::clock::Clock;
use crate::config::Counters;

/// Longest time that a request waits for its counters, unless told otherwise. In one data centre Redis answers in less
/// than a millisecond; a person does not notice 50.
pub const DEADLINE: Duration = Duration::from_millis(50);

/// The counters.
#[derive(Debug)]
pub enum Limiter {
    /// In this process.
    Memory(Memory, Metrics),
    /// In Redis, shared by all gateways that name the same server and key prefix.
    Redis(Redis),
}

impl Limiter {
    /// Whether [`open`](Self::open) would take this configuration. Connects to nothing.
    ///
    /// # Errors
    /// [`LimitError::Url`] when `counters.url` is of no known kind or malformed.
    pub fn check(counters: &Counters) -> Result<(), LimitError> {
        Target::parse(counters.url.expose_secret()).map(drop)
    }

    /// Opens the counters. Redis need not be up: until it is, `on_outage` decides.
    ///
    /// Must be called inside the tokio runtime that is to drive the connections, one that lives
    /// as long as the limiter. [`hit`](Self::hit) may then be called from any other runtime.
    ///
    /// # Errors
    /// [`LimitError::Url`] as for [`check`](Self::check); [`LimitError::NoRuntime`] outside a
    /// runtime.
    pub fn open(counters: &Counters, clock: Clock) -> Result<Self, LimitError> {
        let metrics = Metrics::default();
        let memory = Memory::new(clock, metrics.evicted.clone());
        Ok(match Target::parse(counters.url.expose_secret())? {
            Target::Memory => Self::Memory(memory, metrics),
            Target::Redis(server) => {
                Self::Redis(Redis::open(server, &counters.key_prefix, memory, metrics)?)
            }
        })
    }

    /// Waits for Redis longer or shorter than [`DEADLINE`]. Counters in this process never wait.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        if let Self::Redis(redis) = &mut self {
            redis.set_deadline(deadline);
        }
        self
    }

    /// Counts one hit and says whether it may go on. Takes at most [`DEADLINE`].
    ///
    /// A hit that Redis answers too late is decided without it but may still be counted there.
    pub async fn hit(&self, rule: &Rule, key: &Key) -> Decision {
        self.hit_before(rule, key, self.deadline()).await
    }

    /// Counts one hit under each of several rules, in their order, and stops at the first that
    /// refuses: the last decision tells whether all allowed it. All together take at most
    /// [`DEADLINE`].
    ///
    /// Hits that earlier rules allowed stay counted when a later one refuses: taking them back
    /// would be a second round trip in which others see a count that is too high, and the
    /// request was made. Put the rule that refuses most first.
    pub async fn hit_all<'r>(
        &self,
        hits: impl IntoIterator<Item = (&'r Rule, Key)>,
    ) -> Vec<(&'r Rule, Decision)> {
        let deadline = self.deadline();
        let mut decisions = Vec::new();
        for (rule, key) in hits {
            let decision = self.hit_before(rule, &key, deadline).await;
            decisions.push((rule, decision));
            if !decision.allowed {
                break;
            }
        }
        decisions
    }

    fn deadline(&self) -> Instant {
        match self {
            Self::Memory(..) => Instant::now(),
            Self::Redis(redis) => redis.deadline(),
        }
    }

    async fn hit_before(&self, rule: &Rule, key: &Key, deadline: Instant) -> Decision {
        match self {
            Self::Memory(memory, _) => {
                Decision::counted(rule, memory.hit(rule, key), Basis::Counted)
            }
            Self::Redis(redis) => redis.hit(rule, key, deadline).await,
        }
    }

    /// What a hit would be told at present, without counting it, by the counters that the
    /// configuration names. Takes up to two seconds, so it is not for the request path.
    ///
    /// # Errors
    /// [`LimitError::Redis`] or [`LimitError::Late`].
    pub async fn peek(&self, rule: &Rule, key: &Key) -> Result<Decision, LimitError> {
        let verdict = match self {
            Self::Memory(memory, _) => memory.peek(rule, key),
            Self::Redis(redis) => redis.peek(rule, key).await?,
        };
        Ok(Decision::counted(rule, verdict, Basis::Counted))
    }

    /// Forgets what was counted. Returns whether there was anything. Takes as long as
    /// [`peek`](Self::peek). What gateways counted by themselves while Redis was away stays.
    ///
    /// # Errors
    /// [`LimitError::Redis`] or [`LimitError::Late`].
    pub async fn reset(&self, rule: &Rule, key: &Key) -> Result<bool, LimitError> {
        match self {
            Self::Memory(memory, _) => Ok(memory.reset(rule, key)),
            Self::Redis(redis) => redis.reset(rule, key).await,
        }
    }

    /// Asks the counters whether they can count, for `check --connect` and readiness. Takes up
    /// to two seconds, so it is not for the request path.
    ///
    /// # Errors
    /// [`LimitError::Redis`] or [`LimitError::Late`].
    pub async fn ping(&self) -> Result<(), LimitError> {
        match self {
            Self::Memory(..) => Ok(()),
            Self::Redis(redis) => redis.ping().await,
        }
    }

    /// Whether hits are at present decided without Redis.
    pub fn is_degraded(&self) -> bool {
        self.metrics().degraded.get() != 0
    }

    /// Handles to the limiter's own figures; clones share their values.
    pub fn metrics(&self) -> &Metrics {
        match self {
            Self::Memory(_, metrics) => metrics,
            Self::Redis(redis) => redis.metrics(),
        }
    }
}

/// The limiter's own figures, to be registered by whoever shows metrics.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Calls to Redis that failed or came too late.
    pub errors: Counter,
    /// 1 while hits are decided without Redis, else 0.
    pub degraded: Gauge,
    /// In-process counters that were dropped before their window was over, because too many
    /// clients were seen at once.
    pub evicted: Counter,
}

/// What came of one hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Most hits in any window.
    pub limit: u32,
    /// Hits that would be allowed right now.
    pub remaining: u32,
    /// Until the whole limit is free again, if nothing more is hit.
    pub reset: Duration,
    /// When refused: until it makes sense to try again.
    pub retry_after: Duration,
    /// How it was decided.
    pub basis: Basis,
}

/// How a hit was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Counted where the configuration says.
    Counted,
    /// Redis is away: counted in this process, at the same limit. A client so gets at most the
    /// limit once more from each gateway.
    Local,
    /// Redis is away: let through uncounted.
    Uncounted,
    /// Redis is away: refused, which is the gateway's trouble (503) and not the client's (429).
    Unavailable,
}

impl Decision {
    fn counted(rule: &Rule, verdict: Verdict, basis: Basis) -> Self {
        Self {
            allowed: verdict.allowed,
            limit: rule.rate().limit,
            remaining: verdict.remaining,
            reset: from_micros(verdict.reset_us),
            retry_after: from_micros(verdict.retry_after_us),
            basis,
        }
    }

    fn uncounted(rule: &Rule, basis: Basis) -> Self {
        let allowed = basis != Basis::Unavailable;
        Self {
            allowed,
            limit: rule.rate().limit,
            remaining: 0,
            reset: Duration::ZERO,
            retry_after: if allowed { Duration::ZERO } else { redis::RECOVERY },
            basis,
        }
    }

    /// Whether the hit was compared with the limit, so that its figures mean something.
    pub fn was_counted(&self) -> bool {
        matches!(self.basis, Basis::Counted | Basis::Local)
    }

    /// The value of `Retry-After`: seconds, rounded up, at least 1.
    pub fn retry_after_seconds(&self) -> u64 {
        fields::whole_seconds(self.retry_after).max(1)
    }
}

/// Why the counters cannot be opened or asked. Never holds the URL, which may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The URL is of no known kind or malformed.
    #[error("{0}")]
    Url(String),
    /// [`Limiter::open`] was called outside a tokio runtime.
    #[error("opened counters in redis outside a tokio runtime")]
    NoRuntime,
    /// Redis could not be reached or answered with an error.
    #[error("asked redis to count")]
    Redis(#[source] ::redis::RedisError),
    /// Redis did not answer in time, or the runtime that drives its connections is gone.
    #[error("asked redis to count and got no answer in time")]
    Late,
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::config::{Limit, LimitBy, OnOutage, Rate};

    fn rule(name: &str, limit: u32) -> Rule {
        let limit = Limit { rate: Rate::new(limit, 60), by: LimitBy::Ip, on_outage: None };
        Rule::compile(name, &limit, OnOutage::Local).expect("a good name")
    }

    fn key() -> Key {
        let address = [192, 0, 2, 1].into();
        rule("any", 1).key(&Caller::anonymous(address, ""))
    }

    #[tokio::test]
    async fn several_rules_stop_at_the_first_refusal() {
        let clock = Clock::manual(Timestamp::from_second(1_700_000_000).expect("a time"));
        let limiter = Limiter::open(&Counters::default(), clock.clone()).expect("memory opens");
        let (wide, narrow, last) = (rule("wide", 5), rule("narrow", 1), rule("last", 5));
        let all = || [(&wide, key()), (&narrow, key()), (&last, key())];

        let first = limiter.hit_all(all()).await;
        assert_eq!(first.len(), 3);
        assert!(first.iter().all(|(_, decision)| decision.allowed));

        clock.advance(Duration::from_millis(59_500));
        let second = limiter.hit_all(all()).await;
        assert_eq!(second.len(), 2);
        let (refusing, decision) = second[1];
        assert_eq!((&**refusing.name(), decision.allowed), ("narrow", false));
        assert_eq!(decision.retry_after, Duration::from_millis(500));
        assert_eq!(decision.retry_after_seconds(), 1);
        assert_eq!(limiter.hit(&wide, &key()).await.remaining, 2);
        assert_eq!(limiter.hit(&last, &key()).await.remaining, 3);
        assert!(limiter.ping().await.is_ok() && !limiter.is_degraded());
    }

    #[test]
    fn redis_needs_a_runtime() {
        let counters = Counters { url: "redis://127.0.0.1:1".into(), ..Counters::default() };
        assert!(matches!(Limiter::open(&counters, Clock::system()), Err(LimitError::NoRuntime)));
    }
}
