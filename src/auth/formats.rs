//! Stored password hashes: makes Argon2id ones and checks those and the ones that other systems
//! left behind. Pure computation on one thread's memory; knows nothing of queues or accounts.
//!
//! The costs of a check are named by the stored hash, so they are capped before any work is done:
//! a forged or imported row cannot buy more than one login may cost.

use argon2::password_hash::phc::{self, Output, ParamsString, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::clock::random_bytes;
use crate::model::PasswordHash;

/// Most memory a stored hash may ask for. One thread holds this much while it checks it.
pub(crate) const MAX_MEMORY_KIB: u32 = 256 * 1024;
/// Most passes a stored hash may ask for.
pub(crate) const MAX_ITERATIONS: u32 = 16;
/// Most lanes a stored hash may ask for; they run one after the other.
pub(crate) const MAX_PARALLELISM: u32 = 16;
/// 2^16 rounds take some five seconds of one core; each step more doubles that.
const MAX_BCRYPT_COST: u32 = 16;
/// RFC 9106 §4: 128 bits of salt, 256 of tag.
const SALT_BYTES: usize = 16;
const OUTPUT_BYTES: usize = 32;

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
        why: &'static str,
    },
}

/// What one hashing thread works with: the cost of new hashes and memory that is used again and
/// again, as 19 MiB of fresh pages for each hash would cost a tenth of its time.
pub(crate) struct Workbench {
    params: Params,
    memory: Vec<Block>,
}

impl Workbench {
    pub(crate) fn new(params: Params) -> Self {
        let memory = vec![Block::new(); params.block_count()];
        Self { params, memory }
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

    /// Compares `password` with what is stored.
    ///
    /// Without a hash, or with one that cannot be checked, a hash at the cost of new ones is
    /// computed and thrown away, so that the answer takes as long as that of a wrong password
    /// (OWASP ASVS 6.3.8). A wrong password for a hash of another kind or cost takes that hash's
    /// time; accounts that log in are re-hashed, which ends the difference for them.
    pub(crate) fn verify(
        &mut self,
        stored: Option<&PasswordHash>,
        password: &[u8],
    ) -> Result<Verdict, argon2::Error> {
        let checked = match stored.map(|hash| hash.0.as_str()) {
            None => Ok(Match::No),
            Some(text) if text.starts_with("$argon2") => self.check_argon2(text, password),
            Some(text) if text.starts_with("$2") => check_bcrypt(text, password),
            Some(_) => Err("it is of an unknown kind"),
        };
        match checked {
            Ok(Match::Current) => Ok(Verdict::Right { rehash: None }),
            Ok(Match::Outdated) => Ok(Verdict::Right { rehash: Some(self.hash(password)?) }),
            Ok(Match::No) if stored.is_some() => Ok(Verdict::Wrong),
            Ok(Match::No) => self.hash(password).map(|_| Verdict::Wrong),
            Err(why) => self.hash(password).map(|_| Verdict::Unusable { why }),
        }
    }

    fn check_argon2(&mut self, text: &str, password: &[u8]) -> Result<Match, &'static str> {
        let phc = phc::PasswordHash::new(text).map_err(|_| "it is not a PHC string")?;
        let algorithm = Algorithm::new(phc.algorithm).map_err(|_| "it is of an unknown kind")?;
        // The reference implementation wrote no version before 1.3.
        let version = phc.version.map_or(Ok(Version::V0x10), Version::try_from);
        let version = version.map_err(|_| "it has an unknown version")?;
        let params = Params::try_from(&phc).map_err(|_| "its parameters make no sense")?;
        let (Some(salt), Some(expected)) = (&phc.salt, &phc.hash) else {
            return Err("it has no salt or no output");
        };
        if params.m_cost() > MAX_MEMORY_KIB
            || params.t_cost() > MAX_ITERATIONS
            || params.p_cost() > MAX_PARALLELISM
        {
            return Err("its parameters are above what one login may cost");
        }

        let mut output = Zeroizing::new(vec![0; expected.len()]);
        let argon2 = Argon2::new(algorithm, version, params.clone());
        let done = if params.block_count() <= self.memory.len() {
            argon2.hash_password_into_with_memory(password, salt, &mut output, &mut self.memory)
        } else {
            let memory = vec![Block::new(); params.block_count()];
            argon2.hash_password_into_with_memory(password, salt, &mut output, memory)
        };
        done.map_err(|_| "its parameters make no sense")?;
        if !bool::from(output.as_slice().ct_eq(expected.as_bytes())) {
            return Ok(Match::No);
        }
        let is_current = algorithm == Algorithm::Argon2id
            && version == Version::V0x13
            && params.m_cost() == self.params.m_cost()
            && params.t_cost() == self.params.t_cost()
            && params.p_cost() == self.params.p_cost()
            && salt.len() >= SALT_BYTES
            && expected.len() >= OUTPUT_BYTES;
        Ok(if is_current { Match::Current } else { Match::Outdated })
    }
}

/// How a password compares with a hash that could be read.
enum Match {
    /// Equal, and the hash is of the kind and cost of new ones.
    Current,
    /// Equal, and the hash should be replaced.
    Outdated,
    No,
}

/// bcrypt's own Base64. Some writers left the unused low bits of salt and output set, and other
/// readers ignore them, so this one does too.
const BCRYPT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::BCRYPT,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// ```text
/// $2b$12$ssssssssssssssssssssssoooooooooooooooooooooooooooooooo
///  |   |  22: salt, 16 bytes   31: output, 23 bytes
///  |   cost: 2^12 rounds
///  2a, 2b, 2y: one algorithm, as all programs that are still in use write it. 2x marks the
///              hashes of a PHP with a sign bug, which are not checked.
/// ```
fn check_bcrypt(text: &str, password: &[u8]) -> Result<Match, &'static str> {
    let malformed = "it is not a bcrypt hash";
    let (version, rest) = text.split_at_checked(4).ok_or(malformed)?;
    let (cost, rest) = rest.split_once('$').ok_or(malformed)?;
    let (salt_text, output_text) = rest.split_at_checked(22).ok_or(malformed)?;
    if !matches!(version, "$2a$" | "$2b$" | "$2y$") {
        return Err("it is of an unknown kind");
    }
    if cost.len() != 2 || !cost.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed);
    }
    let cost: u32 = cost.parse().map_err(|_| malformed)?;
    if cost > MAX_BCRYPT_COST {
        return Err("its cost is above what one login may cost");
    }
    let decode = |part: &str| BCRYPT_BASE64.decode(part).map_err(|_| malformed);
    let salt: [u8; 16] = decode(salt_text)?.try_into().map_err(|_| malformed)?;
    let expected: [u8; 23] = decode(output_text)?.try_into().map_err(|_| malformed)?;
    if cost < 4 {
        return Err(malformed);
    }

    // The key is the password and one NUL, cut after 72 bytes.
    let mut key = Zeroizing::new([0; 72]);
    let used = password.len().min(72);
    key[..used].copy_from_slice(&password[..used]);
    let output = Zeroizing::new(bcrypt::bcrypt(cost, salt, &key[..(used + 1).min(72)]));
    let same = bool::from(output[..23].ct_eq(&expected));
    Ok(if same { Match::Outdated } else { Match::No })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> Workbench {
        Workbench::new(Params::new(8, 1, 1, None).unwrap())
    }

    fn verify(stored: &str, password: &str) -> Verdict {
        cheap().verify(Some(&PasswordHash(stored.to_owned())), password.as_bytes()).unwrap()
    }

    fn is_right(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Right { .. })
    }

    #[test]
    fn own_hashes_are_salted_phc_strings_that_verify() {
        let mut bench = cheap();
        let (one, two) =
            (bench.hash(b"Pass\0w\xf6rd").unwrap(), bench.hash(b"Pass\0w\xf6rd").unwrap());
        assert!(one.0.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{}", one.0);
        assert!(one != two);
        let right = Verdict::Right { rehash: None };
        assert_eq!(bench.verify(Some(&one), b"Pass\0w\xf6rd").unwrap(), right);
        assert_eq!(bench.verify(Some(&one), b"Pass").unwrap(), Verdict::Wrong);
        assert_eq!(bench.verify(None, b"Pass").unwrap(), Verdict::Wrong);
    }

    #[test]
    fn other_costs_verify_and_are_replaced() {
        let dear = Workbench::new(Params::new(64, 2, 2, None).unwrap()).hash(b"secret").unwrap();
        let Verdict::Right { rehash: Some(fresh) } = verify(&dear.0, "secret") else {
            panic!("right, and to be replaced");
        };
        assert!(fresh.0.starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        assert_eq!(verify(&fresh.0, "secret"), Verdict::Right { rehash: None });
        assert_eq!(verify(&dear.0, "Secret"), Verdict::Wrong);
    }

    /// From the test suite of the reference implementation (argon2i, version 1.3).
    #[test]
    fn hashes_of_the_reference_implementation_verify() {
        let stored = "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$\
                      iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8";
        assert!(matches!(verify(stored, "password"), Verdict::Right { rehash: Some(_) }));
        assert_eq!(verify(stored, "passwore"), Verdict::Wrong);
    }

    /// Published vectors of `jBCrypt` and `crypt_blowfish`.
    #[test]
    fn bcrypt_hashes_verify_and_are_replaced() {
        let table = [
            ("$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.", ""),
            ("$2b$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe", "a"),
            ("$2y$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i", "abc"),
            ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
        ];
        for (stored, password) in table {
            assert!(
                matches!(verify(stored, password), Verdict::Right { rehash: Some(_) }),
                "{stored}"
            );
            assert_eq!(verify(stored, "something else"), Verdict::Wrong);
        }
    }

    #[test]
    fn bcrypt_looks_at_72_bytes_and_no_more() {
        let long = "ä".repeat(36);
        let stored = bcrypt::hash(&long, 4).unwrap();
        assert!(is_right(&verify(&stored, &format!("{long}tail"))));
        assert_eq!(verify(&stored, &long[..70]), Verdict::Wrong);
    }

    #[test]
    fn stray_low_bits_in_a_bcrypt_salt_are_ignored() {
        // `.` and `/` differ only in bits beyond the 128th.
        let stray = "$2a$05$CCCCCCCCCCCCCCCCCCCCC/E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        assert!(is_right(&verify(stray, "U*U")));
    }

    #[test]
    fn hashes_that_cost_too_much_or_make_no_sense_are_unusable() {
        let salt_and_output = "c29tZXNhbHQ$iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8";
        for head in ["m=262145,t=1,p=1", "m=64,t=17,p=1", "m=1024,t=1,p=17", "m=7,t=1,p=1"] {
            let stored = format!("$argon2id$v=19${head}${salt_and_output}");
            assert!(matches!(verify(&stored, "password"), Verdict::Unusable { .. }), "{stored}");
        }
        for stored in [
            "",
            "plain text",
            "$argon2id$",
            "$argon2x$v=19$m=8,t=1,p=1$c29tZXNhbHQ$iekCn0Y3spW",
            "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ",
            "$2a$17$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            "$2a$03$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            "$2a$+5$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            "$2x$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe",
            "$2a$05$CCCCCCCCCCCCCCCCCCCCCä5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        ] {
            assert!(matches!(verify(stored, "U*U"), Verdict::Unusable { .. }), "{stored}");
        }
    }
}
