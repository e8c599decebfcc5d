//! Kind and cost of a stored hash: all that decides how long a check takes. Written as one word,
//! such as `bcrypt/12`, in which the database keeps it.
//!
//! ```text
//! argon2id/19456/2/1      memory in KiB, passes, lanes; a fifth number 16 for the first version
//! bcrypt/12               2^12 rounds
//! hmac-sha256             no cost to speak of
//! pbkdf2-sha256/600000    iterations; a third number when the output takes several blocks
//! scrypt/32768/8/1        N, r, p
//! ```

use std::fmt;
use std::str::FromStr;

use argon2::{Algorithm, Params, Version};

use super::FormatError;
use super::pbkdf2::Digest;

/// Most memory a stored hash may ask for. One thread holds this much while it checks it.
pub(crate) const MAX_MEMORY_KIB: u32 = 256 * 1024;
/// Most passes of Argon2 a stored hash may ask for.
pub(crate) const MAX_ITERATIONS: u32 = 16;
/// Most lanes a stored hash may ask for; they run one after the other.
pub(crate) const MAX_PARALLELISM: u32 = 16;
/// Most memory times passes of Argon2: about two seconds of one core, as with scrypt below.
pub(crate) const MAX_KIB_PASSES: u64 = 1 << 20;
/// 2^14 rounds take more than a second of one core, and each step more doubles that. One such hash
/// makes every failed login as slow, so that it must not be too much for all; writers use 10 to 12.
const MAX_BCRYPT_COST: u32 = 14;
/// About a second of one core with SHA-512; Django, which has most, had 1,200,000 in 2026.
const MAX_PBKDF2_ITERATIONS: u32 = 2_000_000;
/// scrypt passes over its memory `p` times: so many bytes in all take some four seconds.
const MAX_SCRYPT_BYTES: u64 = 1 << 30;

/// Least iterations that RFC 2898 advised in 2000; those before had hardly any.
const MIN_PBKDF2_ITERATIONS: u32 = 1000;
/// Least memory times passes of scrypt and Argon2: the first defaults of both were above it.
const MIN_KIB_PASSES: u64 = 1024;

/// Kind and cost of a stored hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// RFC 9106.
    Argon2 {
        /// `argon2d`, `argon2i` or `argon2id`.
        algorithm: Algorithm,
        /// 1.3, or 1.0 of old hashes.
        version: Version,
        /// Memory.
        memory_kib: u32,
        /// Passes over it.
        iterations: u32,
        /// Lanes.
        lanes: u32,
    },
    /// As in OpenBSD.
    Bcrypt {
        /// Binary logarithm of the rounds.
        cost: u32,
    },
    /// One HMAC with the salt as its key.
    Hmac(Digest),
    /// RFC 8018 §5.2 with HMAC.
    Pbkdf2 {
        /// Of the HMAC.
        digest: Digest,
        /// For each block.
        iterations: u32,
        /// Blocks of the digest's size that the output takes.
        blocks: u32,
    },
    /// RFC 7914.
    Scrypt {
        /// Binary logarithm of N.
        log_n: u8,
        /// Block size in 128 bytes.
        r: u32,
        /// Passes, one after the other.
        p: u32,
    },
}

impl Class {
    /// That of new hashes of this cost.
    pub(crate) fn of_new(params: &Params) -> Self {
        Self::Argon2 {
            algorithm: Algorithm::Argon2id,
            version: Version::V0x13,
            memory_kib: params.m_cost(),
            iterations: params.t_cost(),
            lanes: params.p_cost(),
        }
    }

    /// The kind alone.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Argon2 { algorithm, .. } => algorithm.as_str(),
            Self::Bcrypt { .. } => "bcrypt",
            Self::Hmac(Digest::Sha1) => "hmac-sha1",
            Self::Hmac(Digest::Sha256) => "hmac-sha256",
            Self::Hmac(Digest::Sha512) => "hmac-sha512",
            Self::Pbkdf2 { digest: Digest::Sha1, .. } => "pbkdf2-sha1",
            Self::Pbkdf2 { digest: Digest::Sha256, .. } => "pbkdf2-sha256",
            Self::Pbkdf2 { digest: Digest::Sha512, .. } => "pbkdf2-sha512",
            Self::Scrypt { .. } => "scrypt",
        }
    }

    /// Whether it costs so little that whoever has the hash has the password.
    pub fn is_weak(self) -> bool {
        match self {
            Self::Argon2 { memory_kib, iterations, .. } => {
                u64::from(memory_kib) * u64::from(iterations) < MIN_KIB_PASSES
            }
            // Its least cost takes a millisecond.
            Self::Bcrypt { .. } => false,
            Self::Hmac(_) => true,
            Self::Pbkdf2 { iterations, .. } => iterations < MIN_PBKDF2_ITERATIONS,
            Self::Scrypt { log_n, r, p } => {
                let eighths = (u64::from(r) * u64::from(p)).checked_shl(u32::from(log_n));
                eighths.is_some_and(|eighths| eighths / 8 < MIN_KIB_PASSES)
            }
        }
    }

    /// Whether one login may cost as much, and the numbers make sense at all.
    ///
    /// # Errors
    /// [`FormatError::TooExpensive`] and [`FormatError::Malformed`].
    pub(super) fn check(self) -> Result<Self, FormatError> {
        let (makes_sense, is_affordable) = match self {
            Self::Argon2 { memory_kib, iterations, lanes, .. } => (
                Params::new(memory_kib, iterations, lanes, None).is_ok(),
                memory_kib <= MAX_MEMORY_KIB
                    && iterations <= MAX_ITERATIONS
                    && u64::from(memory_kib) * u64::from(iterations) <= MAX_KIB_PASSES
                    && lanes <= MAX_PARALLELISM,
            ),
            Self::Bcrypt { cost } => ((4..=31).contains(&cost), cost <= MAX_BCRYPT_COST),
            Self::Hmac(_) => (true, true),
            Self::Pbkdf2 { iterations, blocks, .. } => (
                iterations > 0 && blocks > 0,
                iterations.checked_mul(blocks).is_some_and(|all| all <= MAX_PBKDF2_ITERATIONS),
            ),
            Self::Scrypt { log_n, r, p } => {
                let bytes = (128 * u64::from(r)).checked_shl(u32::from(log_n)).unwrap_or(u64::MAX);
                // A shift drops what leaves the number at its upper end.
                let bytes = if log_n < 32 { bytes } else { u64::MAX };
                (
                    log_n > 0 && r > 0 && p > 0,
                    bytes <= u64::from(MAX_MEMORY_KIB) * 1024
                        && p <= MAX_PARALLELISM
                        && bytes.saturating_mul(u64::from(p)) <= MAX_SCRYPT_BYTES,
                )
            }
        };
        match (makes_sense, is_affordable) {
            (true, true) => Ok(self),
            (_, false) => Err(FormatError::TooExpensive),
            (false, true) => Err(FormatError::Malformed),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match *self {
            Self::Argon2 { version, memory_kib, iterations, lanes, .. } => {
                write!(f, "/{memory_kib}/{iterations}/{lanes}")?;
                match version {
                    Version::V0x10 => f.write_str("/16"),
                    Version::V0x13 => Ok(()),
                }
            }
            Self::Bcrypt { cost } => write!(f, "/{cost}"),
            Self::Hmac(_) => Ok(()),
            Self::Pbkdf2 { iterations, blocks: 1, .. } => write!(f, "/{iterations}"),
            Self::Pbkdf2 { iterations, blocks, .. } => write!(f, "/{iterations}/{blocks}"),
            Self::Scrypt { log_n, r, p } => write!(f, "/{}/{r}/{p}", 1_u64 << log_n),
        }
    }
}

impl FromStr for Class {
    type Err = FormatError;

    fn from_str(word: &str) -> Result<Self, FormatError> {
        let mut parts = word.split('/');
        let kind = parts.next().unwrap_or_default();
        let numbers: Result<Vec<_>, _> = parts.map(super::number).collect();
        let numbers = numbers?;
        let class = match (kind, numbers.as_slice()) {
            ("argon2d" | "argon2i" | "argon2id", [memory_kib, iterations, lanes, version @ ..]) => {
                Self::Argon2 {
                    algorithm: Algorithm::new(kind).map_err(|_| FormatError::UnknownKind)?,
                    version: match version {
                        [] => Version::V0x13,
                        [16] => Version::V0x10,
                        _ => return Err(FormatError::Malformed),
                    },
                    memory_kib: *memory_kib,
                    iterations: *iterations,
                    lanes: *lanes,
                }
            }
            ("bcrypt", [cost]) => Self::Bcrypt { cost: *cost },
            ("scrypt", [n, r, p]) => Self::Scrypt { log_n: super::log_2(*n)?, r: *r, p: *p },
            (kind, numbers) => match (kind.split_once('-'), numbers) {
                (Some(("hmac", digest)), []) => Self::Hmac(digest.parse()?),
                (Some(("pbkdf2", digest)), [iterations]) => {
                    Self::Pbkdf2 { digest: digest.parse()?, iterations: *iterations, blocks: 1 }
                }
                (Some(("pbkdf2", digest)), [iterations, blocks]) => Self::Pbkdf2 {
                    digest: digest.parse()?,
                    iterations: *iterations,
                    blocks: *blocks,
                },
                _ => return Err(FormatError::UnknownKind),
            },
        };
        class.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_read_as_it_is_written() {
        for word in [
            "argon2id/19456/2/1",
            "argon2i/65536/3/4/16",
            "bcrypt/12",
            "hmac-sha256",
            "pbkdf2-sha1/1000/2",
            "pbkdf2-sha256/600000",
            "pbkdf2-sha512/210000",
            "scrypt/32768/8/1",
        ] {
            assert_eq!(word.parse::<Class>().map(|class| class.to_string()), Ok(word.to_owned()));
        }
    }

    #[test]
    fn what_costs_nothing_protects_nothing() {
        let is_weak = |word: &str| word.parse::<Class>().unwrap().is_weak();
        for weak in [
            "argon2id/8/1/1",
            "argon2id/511/2/1",
            "hmac-sha512",
            "pbkdf2-sha256/1",
            "pbkdf2-sha1/999",
            "scrypt/2/1/1",
            "scrypt/512/8/1",
        ] {
            assert!(is_weak(weak), "{weak}");
        }
        for fine in [
            "argon2id/512/2/1",
            "argon2id/19456/2/1",
            "argon2id/262144/4/1",
            "bcrypt/4",
            "pbkdf2-sha1/1000",
            "scrypt/1024/8/1",
            "scrypt/32768/8/1",
        ] {
            assert!(!is_weak(fine), "{fine}");
        }
    }

    #[test]
    fn words_that_say_nothing_are_refused() {
        use FormatError::{Malformed, TooExpensive, UnknownKind};
        let table = [
            ("", UnknownKind),
            ("bcrypt", UnknownKind),
            ("bcrypt/", Malformed),
            ("bcrypt/+8", Malformed),
            ("bcrypt/3", Malformed),
            ("bcrypt/15", TooExpensive),
            ("bcrypt/12/1", UnknownKind),
            ("argon2x/8/1/1", UnknownKind),
            ("argon2id/8/1", UnknownKind),
            ("argon2id/8/1/1/19", Malformed),
            ("argon2id/7/1/1", Malformed),
            ("argon2id/262145/1/1", TooExpensive),
            ("argon2id/1024/17/1", TooExpensive),
            ("argon2id/1024/1/17", TooExpensive),
            ("argon2id/262144/5/1", TooExpensive),
            ("argon2id/65537/16/1", TooExpensive),
            ("md5", UnknownKind),
            ("pbkdf2-md5/1000", UnknownKind),
            ("pbkdf2-sha256/0", Malformed),
            ("pbkdf2-sha256/2000001", TooExpensive),
            ("pbkdf2-sha256/1000001/2", TooExpensive),
            ("pbkdf2-sha256/4294967295/4294967295", TooExpensive),
            ("scrypt/1/8/1", Malformed),
            ("scrypt/12345/8/1", Malformed),
            ("scrypt/32768/0/1", Malformed),
            ("scrypt/32768/8/0", Malformed),
            ("scrypt/32768/8/17", TooExpensive),
            ("scrypt/524288/8/1", TooExpensive),
            ("scrypt/262144/8/5", TooExpensive),
            ("scrypt/2147483648/4294967295/1", TooExpensive),
        ];
        for (word, why) in table {
            assert_eq!(word.parse::<Class>(), Err(why), "{word}");
        }
    }
}
