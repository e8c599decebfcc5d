//! The sliding window, exactly: never more than `limit` allowed hits in any stretch of time of
//! the window's length, wherever it starts.
//!
//! The rule is written twice, here and in `window.lua`, because in Redis it must run as one
//! script. `vectors.json` and a property test hold the two together. Knows no keys, no clock and
//! no storage: times come in as microseconds since any fixed moment.
//!
//! ```text
//! limit 3     a         b    c              now
//!         ----|---------|----|---------------|---->      a has left the window: 2 counted,
//!                   (        window          ]           so `now` is allowed and is the third
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Rate;

/// A limit over a length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    limit: usize,
    length_us: i64,
}

/// What one hit came to. Times are in microseconds from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the hit is within the limit. Only then is it counted.
    pub allowed: bool,
    /// Hits that would still be allowed at this moment.
    pub remaining: u32,
    /// Until the whole limit is free again, if nothing more is hit: the newest counted hit has
    /// left the window. The oldest one leaves sooner, but then only a single hit is free, and a
    /// client that takes the announced time for a fresh quota would run into refusals.
    pub reset_us: i64,
    /// Until the next hit would be allowed; 0 when this one was.
    pub retry_after_us: i64,
}

impl Window {
    /// The window of a configured rate.
    pub fn new(rate: Rate) -> Self {
        let length_us = i64::try_from(rate.window.as_micros()).unwrap_or(i64::MAX / 4);
        Self { limit: rate.limit as usize, length_us }
    }

    /// Most hits in any stretch of the window's length.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The length in microseconds.
    pub fn length_us(&self) -> i64 {
        self.length_us
    }

    /// Counts a hit at `now_us` if it is within the limit.
    ///
    /// `times` holds the counted hits, oldest first, and nothing else is remembered: at most
    /// `limit` of them (more only while an older, larger limit runs out).
    ///
    /// A refused hit is not counted. Counting it would let anybody who goes on trying, a stranger
    /// behind the same address or somebody else's script for the same account, keep the rightful
    /// user out for ever; and the promise of the limit is about hits that got through.
    pub fn hit(&self, times: &mut VecDeque<i64>, now_us: i64) -> Verdict {
        self.settle(times, now_us);
        let allowed = times.len() < self.limit;
        if allowed {
            times.push_back(now_us);
        }
        let retry_after_us = if allowed {
            0
        } else {
            // The hit that has to leave before one fewer than `limit` are left. It is the oldest
            // but for limits that were lowered meanwhile.
            self.leaves_in(times[times.len() - self.limit], now_us)
        };
        Verdict {
            allowed,
            remaining: u32::try_from(self.limit.saturating_sub(times.len())).unwrap_or(u32::MAX),
            reset_us: times.back().map_or(0, |&newest| self.leaves_in(newest, now_us)),
            retry_after_us,
        }
    }

    /// What a hit at `now_us` would be told, without counting it.
    pub fn look(&self, times: &mut VecDeque<i64>, now_us: i64) -> Verdict {
        self.settle(times, now_us);
        let retry_after_us = match times.len().checked_sub(self.limit) {
            None => 0,
            Some(surplus) => self.leaves_in(times[surplus], now_us),
        };
        Verdict {
            allowed: times.len() < self.limit,
            remaining: u32::try_from(self.limit.saturating_sub(times.len())).unwrap_or(u32::MAX),
            reset_us: times.back().map_or(0, |&newest| self.leaves_in(newest, now_us)),
            retry_after_us,
        }
    }

    /// Forgets the hits that have left the window at `now_us`.
    ///
    /// A hit that lies in the future means that the clock was set back. It counts as made now:
    /// hits then seem younger than they are, so nothing is unlocked early, and nothing stays
    /// locked for longer than one window.
    pub fn settle(&self, times: &mut VecDeque<i64>, now_us: i64) {
        for time in times.iter_mut().rev().take_while(|time| **time > now_us) {
            *time = now_us;
        }
        while times.front().is_some_and(|&oldest| self.leaves_in(oldest, now_us) <= 0) {
            times.pop_front();
        }
    }

    fn leaves_in(&self, time_us: i64, now_us: i64) -> i64 {
        time_us + self.length_us - now_us
    }
}

/// Microseconds as a duration; a negative number is none.
pub(super) fn from_micros(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        steps: Vec<Step>,
    }

    #[derive(Deserialize)]
    struct Step {
        at_us: i64,
        limit: u32,
        window_s: u64,
        expect: (bool, u32, i64, i64),
    }

    #[test]
    fn the_shared_vectors_hold() {
        let vectors: Vec<Vector> =
            serde_json::from_str(include_str!("vectors.json")).expect("vectors.json parses");
        assert!(vectors.len() >= 8);
        for vector in vectors {
            let mut times = VecDeque::new();
            for step in &vector.steps {
                let window = Window::new(Rate::new(step.limit, step.window_s));
                let got = window.hit(&mut times, step.at_us);
                assert_eq!(
                    (got.allowed, got.remaining, got.reset_us, got.retry_after_us),
                    step.expect,
                    "{} at {}",
                    vector.name,
                    step.at_us
                );
            }
        }
    }

    /// The definition, with a perfect memory: every allowed hit is kept, and looked at again.
    struct Model {
        limit: usize,
        length_us: i64,
        allowed: Vec<i64>,
    }

    impl Model {
        fn hit(&mut self, now_us: i64) -> bool {
            let counted = self.allowed.iter().filter(|&&t| t > now_us - self.length_us).count();
            let allowed = counted < self.limit;
            if allowed {
                self.allowed.push(now_us);
            }
            allowed
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_model_that_forgets_nothing(
            limit in 1_u32..12,
            gaps in prop::collection::vec(prop_oneof![0_i64..5, 0_i64..3_000_000], 1..200),
        ) {
            let window = Window::new(Rate::new(limit, 1));
            let mut model =
                Model { limit: limit as usize, length_us: 1_000_000, allowed: Vec::new() };
            let mut times = VecDeque::new();
            let mut now = 1_700_000_000_000_000;
            for gap in gaps {
                now += gap;
                let verdict = window.hit(&mut times, now);
                prop_assert_eq!(verdict.allowed, model.hit(now));
                prop_assert!(times.len() <= limit as usize);
                prop_assert!((0..=1_000_000).contains(&verdict.reset_us));
            }
            // The promise itself, over every stretch that begins at a hit.
            for (i, &start) in model.allowed.iter().enumerate() {
                let inside = model.allowed[i..].iter().take_while(|&&t| t < start + 1_000_000);
                prop_assert!(inside.count() <= limit as usize);
            }
        }

        #[test]
        fn a_look_says_what_a_hit_would_be_told_and_counts_nothing(
            limit in 1_u32..8,
            gaps in prop::collection::vec(-100_000_i64..400_000, 1..60),
        ) {
            let window = Window::new(Rate::new(limit, 1));
            let mut times = VecDeque::new();
            let mut now = 0;
            for gap in gaps {
                now += gap;
                let look = window.look(&mut times.clone(), now);
                let before = times.clone();
                let hit = window.hit(&mut times, now);
                prop_assert_eq!(look.allowed, hit.allowed);
                prop_assert_eq!(look.retry_after_us, hit.retry_after_us);
                prop_assert_eq!(look.remaining, hit.remaining + u32::from(hit.allowed));
                let mut looked = before;
                window.look(&mut looked, now);
                prop_assert_eq!(looked.len() + usize::from(hit.allowed), times.len());
            }
        }

        #[test]
        fn retry_after_is_the_first_moment_that_is_allowed(
            limit in 1_u32..8,
            gaps in prop::collection::vec(0_i64..400_000, 1..60),
        ) {
            let window = Window::new(Rate::new(limit, 1));
            let mut times = VecDeque::new();
            let mut now = 0;
            for gap in gaps {
                now += gap;
                let verdict = window.hit(&mut times, now);
                if !verdict.allowed {
                    let wait = verdict.retry_after_us;
                    prop_assert!(wait > 0);
                    prop_assert!(!window.hit(&mut times.clone(), now + wait - 1).allowed);
                    prop_assert!(window.hit(&mut times.clone(), now + wait).allowed);
                }
                let full = window.hit(&mut times.clone(), now + verdict.reset_us);
                prop_assert_eq!(full.remaining, limit - 1);
            }
        }

        #[test]
        fn a_clock_that_jumps_unlocks_nothing_and_locks_for_one_window_at_most(
            limit in 1_u32..6,
            jumps in prop::collection::vec((0_i64..600_000, -5_000_000_i64..=0), 1..80),
        ) {
            let window = Window::new(Rate::new(limit, 1));
            let mut times = VecDeque::new();
            // `real` runs on; what the clock shows is `real + error`, and it is only set back.
            let (mut real, mut error) = (0_i64, 0_i64);
            let mut allowed_at: Vec<i64> = Vec::new();
            for (gap, step) in jumps {
                real += gap;
                error += if step < -4_000_000 { step } else { 0 };
                let verdict = window.hit(&mut times, real + error);
                prop_assert!(verdict.retry_after_us <= 1_000_000);
                prop_assert!(times.iter().is_sorted());
                if verdict.allowed {
                    allowed_at.push(real);
                    let inside = allowed_at.iter().filter(|&&t| t > real - 1_000_000).count();
                    prop_assert!(inside <= limit as usize);
                }
            }
        }
    }
}
