//! Equal time for failed logins while hashes of other kinds and costs are stored: an address that
//! nobody has, and a wrong password for a cheap hash, take as long as a wrong password for the
//! dearest. Otherwise the time would tell which addresses have an account, and which have not
//! logged in since they were imported.
//!
//! The database keeps the [`Class`] of each hash that is not of the kind and cost of new ones. An
//! unknown address costs a check of the slowest class, the very same work. A cheaper check is
//! followed by iterations of PBKDF2 that take the rest of that time. The rest is a *number of
//! iterations*, found by timing both side by side, not a time: a busy processor, a lower clock or
//! a neighbour on the same core stretch the slow check and the filler alike, while a time would
//! end too early then. Sleeping would be worse: others could see that the processor is idle.
//!
//! Invariant: for every class that is known here, check plus filler cost the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::formats::{Class, Digest, Measured, Scheme};
use super::password::{HashError, Hasher};
use crate::model::UserId;
use crate::store::{Classified, Store, StoreError};

/// Users that one look at hashes without a class passes over.
const PAGE: u32 = 5000;

/// What a failed check has to be made up to.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    slowest: Class,
    /// In iterations of the filler.
    costs: BTreeMap<Class, u64>,
    longest: u64,
    /// For classes that turned up since.
    yardstick: Option<Measured>,
}

impl Plan {
    /// Where only new hashes are stored: nothing to make up for.
    pub(crate) fn of_own(own: Class) -> Self {
        Self { slowest: own, costs: BTreeMap::new(), longest: 0, yardstick: None }
    }

    /// For these classes.
    pub(crate) fn of(own: Class, others: &BTreeSet<Class>, timings: &Timings) -> Self {
        let all = others.iter().copied().chain([own]);
        let costs: BTreeMap<_, _> = all.map(|class| (class, timings.units(class))).collect();
        let (slowest, longest) = costs
            .iter()
            .max_by_key(|(_, units)| **units)
            .map_or((own, 0), |(class, units)| (*class, *units));
        Self { slowest, costs, longest, yardstick: timings.any() }
    }

    /// The class whose check takes longest.
    pub(crate) fn slowest(&self) -> Class {
        self.slowest
    }

    /// How many times as long as a check of a new hash a failed one takes; 1 where nothing was timed.
    pub(crate) fn slowdown(&self, own: Class) -> u64 {
        let of_own = self.costs.get(&own).copied().unwrap_or(0);
        self.longest.checked_div(of_own).unwrap_or(1)
    }

    /// How many iterations of the filler have to follow a check of this class, which took so much
    /// of its thread's time.
    pub(crate) fn missing(&self, class: Class, took: Duration) -> u64 {
        let known = self.costs.get(&class).copied();
        let spent = known.or_else(|| Some(self.yardstick?.units_in(took)));
        self.longest.saturating_sub(spent.unwrap_or(u64::MAX))
    }
}

/// How long checks take on this machine, beside the filler.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timings(BTreeMap<Class, Measured>);

impl Timings {
    /// What is still to be timed for these classes.
    pub(crate) fn lacking(&self, classes: impl IntoIterator<Item = Class>) -> BTreeSet<Class> {
        let samples = classes.into_iter().filter_map(|class| Some(sample(class)?.0));
        samples.filter(|sample| !self.0.contains_key(sample)).collect()
    }

    /// Takes a timing.
    pub(crate) fn insert(&mut self, sample: Class, measured: Measured) {
        self.0.insert(sample, measured);
    }

    fn any(&self) -> Option<Measured> {
        self.0.values().next().copied()
    }

    /// What a check costs, in iterations of the filler.
    fn units(&self, class: Class) -> u64 {
        if let Class::Pbkdf2 { digest: Digest::Sha256, iterations, blocks } = class {
            // That is the filler itself.
            return u64::from(iterations) * u64::from(blocks);
        }
        let Some((sample, times, divided_by)) = sample(class) else { return 0 };
        let Some(measured) = self.0.get(&sample) else { return 0 };
        measured.units_in(measured.check).saturating_mul(times) / divided_by
    }
}

/// What to time for a class, and how many of it a check costs: `times / divided_by`. `None`: its
/// cost needs no timing.
///
/// bcrypt and PBKDF2 do the same small step over and over, so that a short run tells the price of
/// a long one and of every other number of steps; there may be thousands of numbers (old versions
/// of passlib varied them at random). What uses memory depends on its amount and is timed itself.
fn sample(class: Class) -> Option<(Class, u64, u64)> {
    const BCRYPT_COST: u32 = 7;
    const ITERATIONS: u32 = 20_000;
    match class {
        Class::Argon2 { .. } | Class::Scrypt { .. } => Some((class, 1, 1)),
        Class::Bcrypt { cost } => {
            Some((Class::Bcrypt { cost: BCRYPT_COST }, 1 << cost, 1 << BCRYPT_COST))
        }
        Class::Hmac(_) | Class::Pbkdf2 { digest: Digest::Sha256, .. } => None,
        Class::Pbkdf2 { digest, iterations, blocks } => {
            let sample = Class::Pbkdf2 { digest, iterations: ITERATIONS, blocks: 1 };
            let all = u64::from(iterations) * u64::from(blocks);
            Some((sample, all, u64::from(ITERATIONS)))
        }
    }
}

/// Has the hasher reckon with the classes that are stored now. Returns the slowest when that is
/// another one than before. Cheap when nothing has changed.
///
/// # Errors
/// When the classes cannot be read, or timed now; those of before stay in force.
pub async fn follow(store: &Store, hasher: &Hasher) -> Result<Option<Class>, EqualTimeError> {
    let words = store.password_classes().await?;
    // A newer program may know more classes.
    let classes = words.iter().filter_map(|word| word.parse().ok()).collect();
    Ok(hasher.reckon_with(&classes).await?)
}

/// Finds the class of hashes that nobody has looked at: of those that were there before classes
/// were kept, that were stored behind the program's back, and those made here at a cost that new
/// ones do not have any more. Passes over some of the users, those after `after`; returns where
/// to go on, `None` at the end.
///
/// # Errors
/// Any of the store.
pub async fn classify(
    store: &Store,
    hasher: &Hasher,
    after: Option<&UserId>,
) -> Result<Option<UserId>, StoreError> {
    let page = store.unclassified_passwords(hasher.prefix(), after, PAGE).await?;
    let found = page.found.into_iter().filter_map(|(user, hash)| {
        let class = Scheme::parse(&hash.0).ok()?.class().to_string();
        Some(Classified { user, hash, class })
    });
    let found: Vec<_> = found.collect();
    if !found.is_empty() {
        store.classify_passwords(&found).await?;
    }
    Ok(page.next)
}

/// Why the classes could not be followed.
#[derive(Debug, thiserror::Error)]
pub enum EqualTimeError {
    /// They were not read.
    #[error("the kinds of stored passwords cannot be read")]
    Store(#[from] StoreError),
    /// They were not timed.
    #[error("the kinds of stored passwords cannot be timed now")]
    Hashing(#[from] HashError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(word: &str) -> Class {
        word.parse().unwrap()
    }

    fn measured(check_ms: u64, filler_ms: u64) -> Measured {
        let check = Duration::from_millis(check_ms);
        Measured { check, filler: Duration::from_millis(filler_ms) }
    }

    /// On a machine where 40,000 iterations of the filler take 10 ms.
    fn plan(words: &[&str]) -> Plan {
        let own = class("argon2id/19456/2/1");
        let mut timings = Timings::default();
        timings.insert(own, measured(20, 10));
        timings.insert(class("bcrypt/7"), measured(5, 10));
        timings.insert(class("scrypt/32768/8/1"), measured(80, 10));
        timings.insert(class("pbkdf2-sha512/20000"), measured(15, 10));
        let others = words.iter().map(|word| class(word)).collect();
        Plan::of(own, &others, &timings)
    }

    #[test]
    fn check_and_filler_cost_the_same_for_every_class() {
        // In iterations of the filler.
        let table = [
            ("argon2id/19456/2/1", 80_000),
            ("bcrypt/12", 640_000),
            ("bcrypt/4", 2_500),
            ("hmac-sha256", 0),
            ("scrypt/32768/8/1", 320_000),
            ("pbkdf2-sha512/210000", 630_000),
            ("pbkdf2-sha512/210000/2", 1_260_000),
            ("pbkdf2-sha256/870000", 870_000),
        ];
        let words: Vec<_> = table.iter().map(|(word, _)| *word).collect();
        let plan = plan(&words);
        assert_eq!(plan.slowest(), class("pbkdf2-sha512/210000/2"));
        assert_eq!(plan.slowdown(class("argon2id/19456/2/1")), 15);
        for (word, units) in table {
            let filler = plan.missing(class(word), Duration::ZERO);
            assert_eq!(units + filler, 1_260_000, "{word}");
        }
    }

    #[test]
    fn the_slowest_may_be_our_own() {
        let plan = plan(&["bcrypt/4"]);
        assert_eq!(plan.slowest(), class("argon2id/19456/2/1"));
        assert_eq!(plan.missing(class("bcrypt/4"), Duration::ZERO), 77_500);
        assert_eq!(plan.missing(plan.slowest(), Duration::ZERO), 0);
    }

    #[test]
    fn a_class_that_turned_up_since_is_made_up_to_by_the_time_it_took() {
        let plan = plan(&["bcrypt/12"]);
        // 640,000 iterations are 160 ms.
        let stranger = class("scrypt/1024/8/1");
        assert_eq!(plan.missing(stranger, Duration::from_millis(100)), 240_000);
        assert_eq!(plan.missing(stranger, Duration::from_millis(200)), 0);
    }

    #[test]
    fn where_all_hashes_are_new_there_is_nothing_to_make_up_for() {
        let plan = Plan::of_own(class("argon2id/19456/2/1"));
        assert_eq!(plan.slowdown(class("argon2id/19456/2/1")), 1);
        for word in ["argon2id/19456/2/1", "bcrypt/4"] {
            assert_eq!(plan.missing(class(word), Duration::ZERO), 0);
        }
    }

    #[test]
    fn a_thousand_numbers_of_iterations_need_one_timing() {
        let classes =
            (1..1000).map(|n| Class::Pbkdf2 { digest: Digest::Sha512, iterations: n, blocks: 1 });
        let others = [class("pbkdf2-sha256/29000"), class("hmac-sha256"), class("bcrypt/12")];
        let lacking = Timings::default().lacking(classes.chain(others));
        assert_eq!(lacking, [class("pbkdf2-sha512/20000"), class("bcrypt/7")].into());
        let mut timings = Timings::default();
        timings.insert(class("bcrypt/7"), measured(1, 1));
        assert!(timings.lacking([class("bcrypt/4"), class("bcrypt/14")]).is_empty());
    }
}
