//! Stored password hashes: makes Argon2id ones and checks those and the ones that other systems
//! left behind, which stay as they are until their owner logs in. Pure computation on one thread's
//! memory; knows nothing of queues or accounts.
//!
//! The costs of a check are named by the stored hash, so they are capped before any work is done:
//! a forged or imported row cannot buy more than one login may cost.
//!
//! ```text
//! text ─parse─▶ Scheme: Prepare (of the password) ─▶ Class (kind and cost) ─▶ output, compared
//!                 ▲
//!  argon2 · bcrypt · django · werkzeug · passlib (Keycloak too) · firebase · aspnet
//! ```

mod argon2;
mod aspnet;
mod bcrypt;
mod bench;
mod class;
mod django;
mod firebase;
mod passlib;
mod pbkdf2;
mod scrypt;
#[cfg(test)]
mod tests;
mod werkzeug;

use std::num::NonZero;

use ::argon2::Block;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

pub use bench::{Effort, Verdict};
pub(crate) use bench::{Measured, Workbench, prefix};
pub use class::Class;
pub(crate) use class::{MAX_ITERATIONS, MAX_KIB_PASSES, MAX_MEMORY_KIB, MAX_PARALLELISM};
pub use pbkdf2::Digest;

/// Longest stored text. The longest that any of the formats needs is some 400 bytes.
const MAX_TEXT_BYTES: usize = 4096;

/// Shortest output in bytes of the kinds that can cut it: a guess must not be right by chance.
const MIN_OUTPUT_BYTES: usize = 16;

/// Why a stored hash cannot be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No format that is known here.
    #[error("it is of an unknown kind")]
    UnknownKind,
    /// It begins like one, and goes on differently.
    #[error("it does not have the form of its kind")]
    Malformed,
    /// Cost above the caps.
    #[error("its cost is above what one login may cost")]
    TooExpensive,
    /// bcrypt's `$2x$`.
    #[error("it was made by a PHP whose bcrypt had a sign bug ($2x$)")]
    SignBug,
    /// A `$devise$` hash, and no pepper in the configuration.
    #[error("it needs passwords.devise_pepper, which is not set")]
    NoPepper,
}

/// A stored hash that was read: how to get from a password to its output.
#[derive(Clone, PartialEq, Eq)]
pub struct Scheme {
    prepare: Prepare,
    class: Class,
    salt: Vec<u8>,
    /// Firebase's, see there.
    signer_key: Option<Vec<u8>>,
    expected: Vec<u8>,
}

/// What is done to the password first.
#[derive(Clone, PartialEq, Eq)]
enum Prepare {
    Nothing,
    /// The configured pepper follows it.
    Pepper,
    HexSha256,
    Base64Sha256,
    Base64HmacSha256 {
        key: Vec<u8>,
    },
}

impl Scheme {
    /// Reads a stored text. Does no work yet.
    ///
    /// # Errors
    /// See [`FormatError`]; not [`FormatError::NoPepper`].
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(FormatError::Malformed);
        }
        let Some(named) = text.strip_prefix('$') else {
            let (name, rest) = text.split_once('$').ok_or(FormatError::UnknownKind)?;
            // Django and Werkzeug mean different things by `sha1`, so it is neither's here.
            return if name.contains(':') || matches!(name, "sha256" | "sha512") {
                werkzeug::read(name, rest)
            } else {
                django::read(name, rest)
            };
        };
        let (name, rest) = named.split_once('$').ok_or(FormatError::UnknownKind)?;
        match name {
            "argon2d" | "argon2i" | "argon2id" => argon2::read(text),
            "2a" | "2b" | "2x" | "2y" => bcrypt::read(text),
            "aspnet" => aspnet::read(rest),
            "bcrypt-sha256" => passlib::read_bcrypt(rest),
            "devise" => bcrypt::read_devise(rest),
            "fbscrypt" => firebase::read(rest),
            "pbkdf2" => passlib::read_pbkdf2(Digest::Sha1, rest),
            "pbkdf2-sha256" => passlib::read_pbkdf2(Digest::Sha256, rest),
            "pbkdf2-sha512" => passlib::read_pbkdf2(Digest::Sha512, rest),
            "scrypt" => passlib::read_scrypt(rest),
            _ => Err(FormatError::UnknownKind),
        }
    }

    /// Kind and cost: all that decides how long a check takes.
    pub fn class(&self) -> Class {
        self.class
    }

    fn new(class: Class, salt: Vec<u8>, expected: Vec<u8>) -> Result<Self, FormatError> {
        // The PHC string has a minimum of its own.
        let is_short = expected.len() < MIN_OUTPUT_BYTES;
        if is_short && !matches!(class, Class::Argon2 { .. }) {
            return Err(FormatError::Malformed);
        }
        let (prepare, signer_key) = (Prepare::Nothing, None);
        Ok(Self { prepare, class: class.check()?, salt, signer_key, expected })
    }

    fn prepared_by(self, prepare: Prepare) -> Self {
        Self { prepare, ..self }
    }

    fn finished_by(self, signer_key: Vec<u8>) -> Self {
        Self { signer_key: Some(signer_key), ..self }
    }

    /// One of this class that no password fits: its check takes as long as that of any other.
    fn dummy(class: Class) -> Self {
        let length = match class {
            Class::Argon2 { .. } => 32,
            Class::Bcrypt { .. } => 23,
            Class::Hmac(digest) => digest.size(),
            Class::Pbkdf2 { digest, blocks, .. } => {
                digest.size() * usize::try_from(blocks).unwrap_or(1)
            }
            Class::Scrypt { .. } => 64,
        };
        Self {
            prepare: Prepare::Nothing,
            class,
            salt: vec![0; 16],
            signer_key: None,
            expected: vec![0; length],
        }
    }

    /// The output that `password` yields; `memory` is used again and again.
    fn output(
        &self,
        password: &[u8],
        pepper: Option<&[u8]>,
        memory: &mut [Block],
    ) -> Result<Zeroizing<Vec<u8>>, FormatError> {
        let prepared = self.prepare.apply(password, pepper)?;
        let password = prepared.as_ref().map_or(password, |bytes| bytes.as_slice());
        let length = if self.signer_key.is_some() { 32 } else { self.expected.len() };
        let mut output = Zeroizing::new(vec![0; length]);
        match self.class {
            Class::Argon2 { algorithm, version, memory_kib, iterations, lanes } => {
                let params = ::argon2::Params::new(memory_kib, iterations, lanes, None)
                    .map_err(|_| FormatError::Malformed)?;
                let blocks = params.block_count();
                let argon2 = ::argon2::Argon2::new(algorithm, version, params);
                // More than new hashes need is not kept.
                let mut more = Vec::new();
                if blocks > memory.len() {
                    more.resize(blocks, Block::new());
                }
                let memory = if more.is_empty() { memory } else { more.as_mut_slice() };
                argon2
                    .hash_password_into_with_memory(password, &self.salt, &mut output, memory)
                    .map_err(|_| FormatError::Malformed)?;
            }
            Class::Bcrypt { cost } => bcrypt::derive(cost, password, &self.salt, &mut output),
            Class::Hmac(digest) => {
                output.copy_from_slice(digest.hmac(&self.salt, password).as_ref());
            }
            Class::Pbkdf2 { digest, iterations, .. } => {
                let iterations = NonZero::new(iterations).ok_or(FormatError::Malformed)?;
                digest.derive(iterations, password, &self.salt, &mut output);
            }
            Class::Scrypt { log_n, r, p } => {
                scrypt::derive((log_n, r, p), password, &self.salt, &mut output)?;
            }
        }
        let Some(signer_key) = &self.signer_key else { return Ok(output) };
        let key = output.first_chunk().ok_or(FormatError::Malformed)?;
        let mut encrypted = Zeroizing::new(signer_key.clone());
        firebase::encrypt(key, &mut encrypted)?;
        Ok(encrypted)
    }
}

impl Prepare {
    /// `None`: as it was.
    fn apply(
        &self,
        password: &[u8],
        pepper: Option<&[u8]>,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, FormatError> {
        let sha256 = || digest(&SHA256, password);
        Ok(Some(Zeroizing::new(match self {
            Self::Nothing => return Ok(None),
            Self::Pepper => [password, pepper.ok_or(FormatError::NoPepper)?].concat(),
            Self::HexSha256 => {
                let hex =
                    |byte: &u8| [byte >> 4, byte & 15].map(|n| b"0123456789abcdef"[n as usize]);
                sha256().as_ref().iter().flat_map(hex).collect()
            }
            Self::Base64Sha256 => STANDARD.encode(sha256()).into_bytes(),
            Self::Base64HmacSha256 { key } => {
                STANDARD.encode(Digest::Sha256.hmac(key, password)).into_bytes()
            }
        })))
    }
}

impl std::fmt::Debug for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scheme({})", self.class)
    }
}

/// Digits and nothing else.
fn number(text: &str) -> Result<u32, FormatError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(FormatError::Malformed);
    }
    // More digits than a cost can have.
    text.parse().map_err(|_| FormatError::TooExpensive)
}

/// The binary logarithm of scrypt's N.
fn log_2(n: u32) -> Result<u8, FormatError> {
    if !n.is_power_of_two() {
        return Err(FormatError::Malformed);
    }
    u8::try_from(n.trailing_zeros()).map_err(|_| FormatError::Malformed)
}

/// The text between separators: exactly so many parts.
fn fields<const N: usize>(text: &str, separator: char) -> Result<[&str; N], FormatError> {
    let parts: Vec<_> = text.split(separator).collect();
    parts.try_into().map_err(|_| FormatError::Malformed)
}

/// The values of `name=value,…` in the order of the names.
fn parameters<'t, const N: usize>(
    text: &'t str,
    names: [&str; N],
) -> Result<[&'t str; N], FormatError> {
    let parts: [&str; N] = fields(text, ',')?;
    let mut values = [""; N];
    for ((part, name), value) in parts.into_iter().zip(names).zip(&mut values) {
        let (found, text) = part.split_once('=').ok_or(FormatError::Malformed)?;
        if found != name {
            return Err(FormatError::Malformed);
        }
        *value = text;
    }
    Ok(values)
}

/// PBKDF2 with an output of exactly one block.
fn whole_pbkdf2(
    digest: Digest,
    iterations: u32,
    salt: Vec<u8>,
    output: Vec<u8>,
) -> Result<Scheme, FormatError> {
    if output.len() != digest.size() {
        return Err(FormatError::Malformed);
    }
    Scheme::new(Class::Pbkdf2 { digest, iterations, blocks: 1 }, salt, output)
}
