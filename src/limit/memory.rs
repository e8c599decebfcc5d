//! Counters in this process: the limiter of a gateway without Redis, and the one that stands in
//! while Redis is away. Sharded, so that workers seldom meet; no lock is held across an `await`,
//! as nothing here waits.
//!
//! Invariant: at most `CAPACITY` hits are remembered, whatever clients send.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use prometheus_client::metrics::counter::Counter;

use super::rule::{Key, Rule};
use super::window::{Verdict, Window};
use crate::clock::Clock;

/// Hits remembered over all keys. Every key holds at least one, so this bounds both: 8 MiB of
/// times, and at most about 150 MiB when each belongs to another key. Doubling it doubles that.
const CAPACITY: usize = 1 << 20;

/// Enough that two of a few dozen threads seldom want the same one.
const SHARDS: usize = 64;

/// Counters in this process.
#[derive(Debug)]
pub struct Memory {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    clock: Clock,
    evicted: Counter,
}

impl Memory {
    /// No counters yet. `evicted` counts keys that were forgotten before their time.
    pub fn new(clock: Clock, evicted: Counter) -> Self {
        Self::with_capacity(clock, evicted, SHARDS, CAPACITY / SHARDS)
    }

    fn with_capacity(clock: Clock, evicted: Counter, shards: usize, capacity: usize) -> Self {
        // One hasher for shard and map would use the same bits twice; each map brings its own.
        let shards = (0..shards).map(|_| Mutex::new(Shard::new(capacity))).collect();
        Self { shards, hasher: RandomState::new(), clock, evicted }
    }

    /// Counts a hit if it is within the limit.
    pub fn hit(&self, rule: &Rule, key: &Key) -> Verdict {
        let id = (Arc::clone(rule.name()), key.clone());
        let now_us = self.clock.now().as_microsecond();
        let mut shard = self.shard(&id);
        let evicted = shard.make_room(now_us);
        let verdict = shard.hit(id, rule.window(), now_us);
        drop(shard);
        if evicted > 0 {
            self.evicted.inc_by(evicted);
        }
        verdict
    }

    /// What a hit would be told, without counting it.
    pub fn peek(&self, rule: &Rule, key: &Key) -> Verdict {
        let id = (Arc::clone(rule.name()), key.clone());
        let now_us = self.clock.now().as_microsecond();
        let shard = self.shard(&id);
        let mut times =
            shard.counters.get(&id).map(|entry| entry.times.clone()).unwrap_or_default();
        drop(shard);
        rule.window().look(&mut times, now_us)
    }

    /// Forgets what was counted. Returns whether there was anything.
    pub fn reset(&self, rule: &Rule, key: &Key) -> bool {
        let id = (Arc::clone(rule.name()), key.clone());
        let mut shard = self.shard(&id);
        let Some(entry) = shard.counters.remove(&id) else { return false };
        shard.held -= entry.times.len();
        true
    }

    fn shard(&self, id: &CounterId) -> MutexGuard<'_, Shard> {
        let at = usize::try_from(self.hasher.hash_one(id) % self.shards.len() as u64).unwrap_or(0);
        // A panic while counting leaves counters that are at worst off by one.
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name of the rule, and whom it counts. Rules of one name share their counts over a reload.
type CounterId = (Arc<str>, Key);

#[derive(Debug)]
struct Shard {
    counters: HashMap<CounterId, Entry, RandomState>,
    /// Hits held by all counters together.
    held: usize,
    /// Most hits that may be held.
    capacity: usize,
    /// How many are held when it is next worth looking for counters whose window is over.
    sweep_at: usize,
}

#[derive(Debug)]
struct Entry {
    times: VecDeque<i64>,
    window: Window,
}

impl Shard {
    /// Below this, dead counters are not worth a look.
    const FEW: usize = 256;

    fn new(capacity: usize) -> Self {
        let sweep_at = Self::FEW.min(capacity);
        Self { counters: HashMap::default(), held: 0, capacity, sweep_at }
    }

    fn hit(&mut self, id: CounterId, window: &Window, now_us: i64) -> Verdict {
        let entry = self
            .counters
            .entry(id)
            .or_insert_with(|| Entry { times: VecDeque::new(), window: *window });
        entry.window = *window;
        let before = entry.times.len();
        let verdict = window.hit(&mut entry.times, now_us);
        self.held = self.held + entry.times.len() - before;
        verdict
    }

    /// Makes sure that one more hit can be held; returns how many live counters that cost.
    ///
    /// First go the counters whose window is over. When that is not enough, the ones with the
    /// least to lose: those furthest below their limit, the longest untouched first. So a flood
    /// of new addresses pushes out its own counters, and cannot wash away the count of somebody
    /// who has reached a limit. Refusing new keys instead would let the same flood lock everybody
    /// out.
    fn make_room(&mut self, now_us: i64) -> u64 {
        if self.held < self.sweep_at {
            return 0;
        }
        self.counters.retain(|_, entry| {
            entry.window.settle(&mut entry.times, now_us);
            !entry.times.is_empty()
        });
        self.held = self.counters.values().map(|entry| entry.times.len()).sum();
        let evicted = if self.held >= self.capacity { self.evict() } else { 0 };
        // Looking again only when twice as many are held makes the look free on average.
        self.sweep_at = (2 * self.held).clamp(Self::FEW.min(self.capacity), self.capacity);
        evicted
    }

    /// Drops live counters until a quarter of the capacity is free, so that the next drop is far.
    fn evict(&mut self) -> u64 {
        let mut order: Vec<_> = self
            .counters
            .iter()
            .map(|(id, entry)| {
                let filled = entry.times.len() * 1_000 / entry.window.limit();
                (filled, entry.times.back().copied(), id.clone())
            })
            .collect();
        order.sort_unstable_by_key(|(filled, newest, _)| (*filled, *newest));
        let mut evicted = 0;
        for (_, _, id) in order {
            if self.held <= self.capacity / 4 * 3 {
                break;
            }
            if let Some(entry) = self.counters.remove(&id) {
                self.held -= entry.times.len();
                evicted += 1;
            }
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::config::{Limit, LimitBy, OnOutage, Rate};
    use crate::limit::Caller;

    fn rule(name: &str, limit: u32, seconds: u64) -> Rule {
        let limit = Limit { rate: Rate::new(limit, seconds), by: LimitBy::Ip, on_outage: None };
        Rule::compile(name, &limit, OnOutage::Local).expect("a good name")
    }

    fn key(n: u32) -> Key {
        let address = IpAddr::V4(Ipv4Addr::from_bits(n));
        rule("any", 1, 1).key(&Caller::anonymous(address, ""))
    }

    fn clock() -> Clock {
        Clock::manual(Timestamp::from_second(1_700_000_000).expect("a time"))
    }

    fn small(clock: &Clock, capacity: usize) -> Memory {
        Memory::with_capacity(clock.clone(), Counter::default(), 1, capacity)
    }

    #[test]
    fn rules_and_keys_are_counted_apart() {
        let memory = Memory::new(clock(), Counter::default());
        for name in ["login", "signup"] {
            for n in 0..3 {
                assert!(memory.hit(&rule(name, 1, 60), &key(n)).allowed);
                assert!(!memory.hit(&rule(name, 1, 60), &key(n)).allowed);
            }
        }
    }

    #[test]
    fn a_thousand_are_counted_and_no_more() {
        let clock = clock();
        let memory = Memory::new(clock.clone(), Counter::default());
        let rule = rule("search", Rate::MAX_LIMIT, 60);
        for n in (0..1_000).rev() {
            assert_eq!(memory.hit(&rule, &key(1)).remaining, n);
            clock.advance(Duration::from_millis(10));
        }
        assert!(!memory.hit(&rule, &key(1)).allowed);
        clock.advance(Duration::from_secs(50));
        assert!(memory.hit(&rule, &key(1)).allowed);
        assert!(!memory.hit(&rule, &key(1)).allowed);
    }

    #[test]
    fn threads_together_get_no_more_than_the_limit() {
        let memory = Memory::new(clock(), Counter::default());
        let rule = rule("login", 100, 60);
        let allowed: usize = std::thread::scope(|scope| {
            let hitting = || (0..100).filter(|_| memory.hit(&rule, &key(1)).allowed).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(hitting)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(allowed, 100);
    }

    #[test]
    fn what_is_over_is_forgotten_before_anything_else() {
        let clock = clock();
        let memory = small(&clock, 1_000);
        for n in 0..900 {
            memory.hit(&rule("login", 5, 60), &key(n));
        }
        clock.advance(Duration::from_mins(1));
        for n in 0..900 {
            memory.hit(&rule("signup", 5, 60), &key(n));
        }
        assert_eq!(memory.evicted.get(), 0);
        assert!(memory.shards[0].lock().expect("no panic").held <= 1_000);
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_does_not_unlock_who_reached_a_limit() {
        let clock = clock();
        let memory = small(&clock, 1_000);
        let login = rule("login", 5, 60);
        while memory.hit(&login, &key(7)).allowed {}
        for n in 100..20_000 {
            memory.hit(&login, &key(n));
            let shard = memory.shards[0].lock().expect("no panic");
            assert!(shard.held <= 1_000 && shard.counters.len() <= 1_000);
        }
        assert!(memory.evicted.get() > 0);
        assert!(!memory.hit(&login, &key(7)).allowed);
    }

    #[test]
    fn idle_counters_do_not_pile_up_below_the_bound() {
        let clock = clock();
        let memory = small(&clock, 100_000);
        for n in 0..50_000 {
            memory.hit(&rule("login", 5, 1), &key(n));
            clock.advance(Duration::from_millis(10));
        }
        // About a hundred are alive at any time.
        assert!(memory.shards[0].lock().expect("no panic").counters.len() <= 512);
        assert_eq!(memory.evicted.get(), 0);
    }
}
