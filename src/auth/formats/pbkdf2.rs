//! PBKDF2 and HMAC with the three digests that stored hashes use.

use std::num::NonZero;
use std::str::FromStr;

use aws_lc_rs::{hmac, pbkdf2};

use super::FormatError;

/// The digest of an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Digest {
    /// SHA-1; sound in HMAC (RFC 6194 §3.3), and what old systems have.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Digest {
    /// Bytes of its output.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Of its blocks so many hold `bytes`.
    pub(super) fn blocks(self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(self.size())).unwrap_or(u32::MAX)
    }

    pub(super) fn hmac(self, key: &[u8], message: &[u8]) -> hmac::Tag {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), message)
    }

    /// Fills `output`.
    pub(super) fn derive(
        self,
        iterations: NonZero<u32>,
        password: &[u8],
        salt: &[u8],
        output: &mut [u8],
    ) {
        let algorithm = match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        };
        pbkdf2::derive(algorithm, iterations, salt, password, output);
    }
}

impl FromStr for Digest {
    type Err = FormatError;

    fn from_str(word: &str) -> Result<Self, FormatError> {
        match word {
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(FormatError::UnknownKind),
        }
    }
}
