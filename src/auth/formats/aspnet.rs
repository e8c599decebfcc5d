//! ASP.NET Core Identity's `PasswordHasher`, Base64 with padding, behind `$aspnet$`, as the text
//! does not name itself.
//!
//! ```text
//! 00 | salt, 16 | subkey, 32                          version 2: PBKDF2-SHA-1, 1000 iterations
//! 01 | prf, 4 | iterations, 4 | salt length, 4 | salt | subkey
//!      0 SHA-1, 1 SHA-256, 2 SHA-512                  version 3: numbers are big-endian
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::pbkdf2::Digest;
use super::{Class, FormatError, Scheme};

/// `rest` follows `$aspnet$`.
pub(super) fn read(rest: &str) -> Result<Scheme, FormatError> {
    let malformed = FormatError::Malformed;
    let bytes = STANDARD.decode(rest).map_err(|_| malformed)?;
    let (digest, iterations, salt, subkey) = match bytes.split_first().ok_or(malformed)? {
        (0, rest) if rest.len() == 48 => {
            let (salt, subkey) = rest.split_at(16);
            (Digest::Sha1, 1000, salt, subkey)
        }
        (1, rest) => {
            let (prf, rest) = big_endian(rest)?;
            let (iterations, rest) = big_endian(rest)?;
            let (length, rest) = big_endian(rest)?;
            let digest = match prf {
                0 => Digest::Sha1,
                1 => Digest::Sha256,
                2 => Digest::Sha512,
                _ => return Err(FormatError::UnknownKind),
            };
            let length = usize::try_from(length).map_err(|_| malformed)?;
            let (salt, subkey) = rest.split_at_checked(length).ok_or(malformed)?;
            // The original refuses shorter ones too.
            if salt.len() < 16 {
                return Err(malformed);
            }
            (digest, iterations, salt, subkey)
        }
        (0, _) => return Err(malformed),
        _ => return Err(FormatError::UnknownKind),
    };
    let class = Class::Pbkdf2 { digest, iterations, blocks: digest.blocks(subkey.len()) };
    Scheme::new(class, salt.to_vec(), subkey.to_vec())
}

fn big_endian(bytes: &[u8]) -> Result<(u32, &[u8]), FormatError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(FormatError::Malformed)?;
    Ok((u32::from_be_bytes(*number), rest))
}
