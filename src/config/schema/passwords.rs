//! `[signup]` and `[passwords]`: who gets an account, and how well it is kept.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use crate::config::units::ByteSize;

/// `[signup]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Signup {
    /// Let anyone create an account. Default true.
    pub enabled: bool,
    /// Let nobody in who has not proved the address: a sign-up gets a letter instead of a session.
    /// Needs `mail.transport`. Default false.
    pub confirm_email: bool,
}

impl Default for Signup {
    fn default() -> Self {
        Self { enabled: true, confirm_email: false }
    }
}

/// `[passwords]` *(restart)*
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Passwords {
    /// Fewest characters. Default 8.
    pub min_length: usize,
    /// Kinds of character that must occur. Default lower case, upper case, digit.
    pub require: Vec<CharacterClass>,
    /// Refuse the bundled list of common passwords. Default true.
    pub refuse_common: bool,
    /// A file of leaked passwords that are refused: upper-case SHA-1 in hexadecimal and a count,
    /// `HASH:COUNT`, one a line, sorted, as Have I Been Pwned offers it. Default none.
    pub leaked: Option<PathBuf>,
    /// Words that everybody here knows, such as the product's name, 3 to 64 characters each: what a
    /// password has besides them must be long enough by itself. Default none.
    pub words: Vec<String>,
    /// What Devise was configured with as `pepper`, for its imported hashes. Default none.
    pub devise_pepper: Option<SecretString>,
    /// Cost of a new hash.
    pub argon2: Argon2,
    /// Hashing threads; 0 = one per processor. Default 0.
    pub max_concurrent_hashes: usize,
    /// Hashes that may wait for a thread; 503 beyond. Default 64.
    pub max_queued_hashes: usize,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            min_length: 8,
            require: vec![
                CharacterClass::Lowercase,
                CharacterClass::Uppercase,
                CharacterClass::Digit,
            ],
            refuse_common: true,
            leaked: None,
            words: Vec::new(),
            devise_pepper: None,
            argon2: Argon2::default(),
            max_concurrent_hashes: 0,
            max_queued_hashes: 64,
        }
    }
}

/// A kind of character that a password must hold.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CharacterClass {
    /// Any digit.
    Digit,
    /// Any lower-case letter.
    Lowercase,
    /// Anything that is neither letter nor digit.
    Symbol,
    /// Any upper-case letter.
    Uppercase,
}

/// `passwords.argon2`: cost of Argon2id (RFC 9106).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Argon2 {
    /// Memory for one hash. Default 19 MiB.
    pub memory: ByteSize,
    /// Passes over the memory. Default 2.
    pub iterations: u32,
    /// Lanes. Default 1.
    pub parallelism: u32,
}

impl Default for Argon2 {
    fn default() -> Self {
        Self { memory: ByteSize::mib(19), iterations: 2, parallelism: 1 }
    }
}
