//! bcrypt, which Ruby, PHP, Go, Auth0 and Supabase Auth write, plain or behind another digest.
//!
//! ```text
//! $2b$12$ssssssssssssssssssssssoooooooooooooooooooooooooooooooo
//!  |   |  22: salt, 16 bytes   31: output, 23 bytes
//!  |   cost: 2^12 rounds
//!  2a, 2b, 2y: one algorithm, as all programs that are still in use write it. 2x marks the
//!              hashes of a PHP with a sign bug, which are not checked.
//! $devise$$2a$12$…    Devise with a pepper, which follows the password
//! ```

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::{Class, FormatError, Prepare, Scheme, number};

/// bcrypt's own Base64. Some writers left the unused low bits of salt and output set, and other
/// readers ignore them, so this one does too.
const BCRYPT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::BCRYPT,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Bytes of the password that count, the NUL behind it included.
const KEY_BYTES: usize = 72;

pub(super) fn read(text: &str) -> Result<Scheme, FormatError> {
    let malformed = FormatError::Malformed;
    let (version, rest) = text.split_at_checked(4).ok_or(malformed)?;
    match version {
        "$2a$" | "$2b$" | "$2y$" => {}
        "$2x$" => return Err(FormatError::SignBug),
        _ => return Err(FormatError::UnknownKind),
    }
    let (cost, rest) = rest.split_once('$').ok_or(malformed)?;
    if cost.len() != 2 {
        return Err(malformed);
    }
    let (salt, output) = rest.split_at_checked(22).ok_or(malformed)?;
    scheme(number(cost)?, salt, output)
}

/// `rest` follows `$devise$`.
pub(super) fn read_devise(rest: &str) -> Result<Scheme, FormatError> {
    Ok(read(rest)?.prepared_by(Prepare::Pepper))
}

pub(super) fn scheme(cost: u32, salt: &str, output: &str) -> Result<Scheme, FormatError> {
    let decode = |part: &str| BCRYPT_BASE64.decode(part).map_err(|_| FormatError::Malformed);
    let (salt, output) = (decode(salt)?, decode(output)?);
    if salt.len() != 16 || output.len() != 23 {
        return Err(FormatError::Malformed);
    }
    Scheme::new(Class::Bcrypt { cost }, salt, output)
}

/// Fills `output`, which has 23 bytes.
pub(super) fn derive(cost: u32, password: &[u8], salt: &[u8], output: &mut [u8]) {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let used = password.len().min(KEY_BYTES);
    key[..used].copy_from_slice(&password[..used]);
    let salt = salt.try_into().expect("readers and dummies make 16 bytes");
    let all = Zeroizing::new(bcrypt::bcrypt(cost, salt, &key[..(used + 1).min(KEY_BYTES)]));
    output.copy_from_slice(&all[..23]);
}
