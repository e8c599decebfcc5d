//! What one hashing thread does: hashes, checks, and makes up for what a failed check took less
//! than the slowest.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc::{self, Output, ParamsString, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{Class, Digest, FormatError, Scheme};
use crate::auth::equal_time::Plan;
use crate::clock::random_bytes;
use crate::model::PasswordHash;

/// RFC 9106 §4: 128 bits of salt, 256 of tag.
const SALT_BYTES: usize = 16;
const OUTPUT_BYTES: usize = 32;

/// Iterations of the filler that are timed at once: some ten milliseconds, far more than a tick of
/// the clock and the switch to another thread cost.
const TIMED_UNITS: u32 = 40_000;
/// How often a check is timed; the middle one counts.
const TIMINGS: usize = 3;

/// A check that takes longer is timed once: noise matters less, and logins wait meanwhile.
const LONG_CHECK: Duration = Duration::from_millis(300);

/// What a check of a password found.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the password.
    Right {
        /// Store this in place of the old hash, which is of another kind or cost than new ones.
        rehash: Option<PasswordHash>,
    },
    /// It is not, or there is no hash to compare with.
    Wrong,
    /// The stored hash cannot be checked, so nobody can log in with it: treat as wrong, and log.
    Unusable {
        /// What is the matter with it.
        why: FormatError,
    },
}

/// The cost of new hashes and memory that is used again and again, as 19 MiB of fresh pages for
/// each hash would cost a tenth of its time.
pub(crate) struct Workbench {
    params: Params,
    memory: Vec<Block>,
    pepper: Option<SecretString>,
    prefix: String,
    effort: Arc<Effort>,
}

impl Workbench {
    pub(crate) fn new(params: Params, pepper: Option<SecretString>, effort: Arc<Effort>) -> Self {
        let memory = vec![Block::new(); params.block_count()];
        let prefix = prefix(&params);
        Self { params, memory, pepper, prefix, effort }
    }

    /// Hashes with a fresh salt, into a PHC string.
    pub(crate) fn hash(&mut self, password: &[u8]) -> Result<PasswordHash, argon2::Error> {
        let salt = random_bytes::<SALT_BYTES>();
        let mut output = Zeroizing::new([0; OUTPUT_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone())
            .hash_password_into_with_memory(password, &salt, &mut *output, &mut self.memory)?;
        let phc = phc::PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&self.params)
                .expect("three numbers fit a parameter string"),
            salt: Some(Salt::new(&salt).expect("16 bytes are a salt")),
            hash: Some(Output::new(&*output).expect("32 bytes are an output")),
        };
        Ok(PasswordHash(phc.to_string()))
    }

    /// Compares `password` with what is stored. Whatever is not right takes as long as the slowest
    /// check that `plan` knows, so that the time of an answer tells neither whether there is an
    /// account nor where its hash came from (OWASP ASVS 6.3.8).
    pub(crate) fn verify(
        &mut self,
        stored: Option<&PasswordHash>,
        password: &[u8],
        plan: &Plan,
    ) -> Result<Verdict, argon2::Error> {
        Ok(match self.compare(stored, password, plan) {
            Compared::Right { is_current, .. } => {
                let rehash = if is_current { None } else { Some(self.hash(password)?) };
                Verdict::Right { rehash }
            }
            Compared::Wrong => Verdict::Wrong,
            Compared::Unusable(why) => Verdict::Unusable { why },
        })
    }

    /// [`verify`](Self::verify) for an account that is refused in any case: the right password
    /// takes as long as a wrong one, and is not hashed anew.
    pub(crate) fn verify_disabled(
        &mut self,
        stored: Option<&PasswordHash>,
        password: &[u8],
        plan: &Plan,
    ) -> Verdict {
        match self.compare(stored, password, plan) {
            Compared::Right { missing, .. } => {
                self.make_up(missing);
                Verdict::Right { rehash: None }
            }
            Compared::Wrong => Verdict::Wrong,
            Compared::Unusable(why) => Verdict::Unusable { why },
        }
    }

    fn compare(&mut self, stored: Option<&PasswordHash>, password: &[u8], plan: &Plan) -> Compared {
        let Some(PasswordHash(text)) = stored else {
            self.stand_in(plan.slowest(), password);
            return Compared::Wrong;
        };
        let begun = thread_time();
        match Scheme::parse(text).and_then(|scheme| Ok((self.check(&scheme, password)?, scheme))) {
            Ok((fits, scheme)) => {
                let took = thread_time().saturating_sub(begun);
                let missing = plan.missing(scheme.class(), took);
                if !fits {
                    self.make_up(missing);
                    return Compared::Wrong;
                }
                let is_current = text.starts_with(&self.prefix)
                    && scheme.salt.len() >= SALT_BYTES
                    && scheme.expected.len() >= OUTPUT_BYTES;
                Compared::Right { is_current, missing }
            }
            Err(why) => {
                self.stand_in(plan.slowest(), password);
                Compared::Unusable(why)
            }
        }
    }

    /// Times a check of this class, and the filler beside it, on the same thread in turns: what
    /// slows one down at the moment slows down the other.
    pub(crate) fn measure(&mut self, class: Class) -> Measured {
        let mut checks = Vec::with_capacity(TIMINGS);
        let mut fills = Vec::with_capacity(TIMINGS);
        for _ in 0..TIMINGS {
            checks.push(timed(|| self.check_dummy(class, b"a password to be timed")));
            fills.push(timed(|| _ = fill(u64::from(TIMED_UNITS))));
            if checks.iter().any(|time| *time > LONG_CHECK) {
                break;
            }
        }
        Measured { check: middle(checks), filler: middle(fills) }
    }

    fn fits(&mut self, scheme: &Scheme, password: &[u8]) -> Result<bool, FormatError> {
        let pepper = self.pepper.as_ref().map(|pepper| pepper.expose_secret().as_bytes());
        let output = scheme.output(password, pepper, &mut self.memory)?;
        Ok(output.as_slice().ct_eq(&scheme.expected).into())
    }

    /// The work of a check where there is nothing to check.
    fn stand_in(&mut self, class: Class, password: &[u8]) {
        let _ = std::hint::black_box(self.check(&Scheme::dummy(class), password));
    }

    fn check(&mut self, scheme: &Scheme, password: &[u8]) -> Result<bool, FormatError> {
        let fits = self.fits(scheme, password)?;
        self.effort.count_check(scheme.class());
        Ok(fits)
    }

    /// The work that a check was cheaper than the slowest.
    fn make_up(&self, missing: u64) {
        self.effort.filler.fetch_add(fill(missing), Ordering::Relaxed);
    }

    fn check_dummy(&mut self, class: Class, password: &[u8]) {
        let dummy = Scheme::dummy(class);
        // Its numbers were checked, and whether it fits is of no interest.
        let _ = std::hint::black_box(self.fits(&dummy, password));
    }
}

/// What checks have cost: the same for every one that failed, which is how it can be seen that
/// their times tell nothing. What timing took is not counted.
#[derive(Debug, Default)]
pub struct Effort {
    checks: Mutex<BTreeMap<&'static str, u64>>,
    filler: AtomicU64,
}

impl Effort {
    /// Checks by the kind of hash, those where a stand-in was checked among them.
    pub fn checks(&self) -> BTreeMap<&'static str, u64> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Iterations of PBKDF2 with SHA-256 that made up for what checks cost less than the slowest.
    pub fn filler(&self) -> u64 {
        self.filler.load(Ordering::Relaxed)
    }

    fn count_check(&self, class: Class) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        *checks.entry(class.kind()).or_default() += 1;
    }
}

/// How a password compares with what is stored.
enum Compared {
    /// It is the one.
    Right {
        /// The hash is of the kind and cost of new ones.
        is_current: bool,
        /// What a wrong one would have been followed by.
        missing: u64,
    },
    Wrong,
    Unusable(FormatError),
}

/// How all new hashes of this cost begin, and no others.
pub(crate) fn prefix(params: &Params) -> String {
    let (memory, iterations, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    format!("$argon2id$v=19$m={memory},t={iterations},p={lanes}$")
}

/// What one check took of a thread's time, and what [`TIMED_UNITS`] iterations of the filler did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) check: Duration,
    pub(crate) filler: Duration,
}

impl Measured {
    /// How many iterations of the filler take as long as `time`.
    pub(crate) fn units_in(self, time: Duration) -> u64 {
        let nanos = time.as_nanos().saturating_mul(u128::from(TIMED_UNITS));
        u64::try_from(nanos / self.filler.as_nanos().max(1)).unwrap_or(u64::MAX)
    }
}

/// Work that takes as long as it does on any path: iterations of PBKDF2 with SHA-256. Returns how
/// many it did.
fn fill(units: u64) -> u64 {
    let mut output = [0; 32];
    let mut done = 0;
    while let Some(some) = NonZero::new(u32::try_from(units - done).unwrap_or(u32::MAX)) {
        Digest::Sha256.derive(some, b"", b"time", &mut output);
        done += u64::from(some.get());
    }
    std::hint::black_box(output);
    done
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = thread_time();
    work();
    thread_time().saturating_sub(begun)
}

/// The time that this thread has had of a processor: what others did meanwhile does not count.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
