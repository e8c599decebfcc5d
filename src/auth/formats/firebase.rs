//! Firebase's scrypt, with the project's parameters in front as Supabase Auth writes them. Base64
//! with padding throughout.
//!
//! ```text
//! $fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=…$SALT$OUTPUT
//!               |    |       |       signer key of the project
//!               |    rounds  salt separator of the project
//!               memory cost: binary logarithm of N
//! ```
//!
//! scrypt yields an AES-256 key; the output is the signer key, encrypted with it in counter mode
//! from zero on.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Class, FormatError, Scheme, fields, number};

/// Firebase's have 64.
const MIN_SIGNER_KEY: usize = 16;

/// `rest` follows `$fbscrypt$`.
pub(super) fn read(rest: &str) -> Result<Scheme, FormatError> {
    let [cost, salt, output] = fields(rest, '$')?;
    let (mut version, mut log_n, mut r, mut p, mut separator, mut signer_key) =
        (None, None, None, None, None, None);
    for pair in cost.split(',') {
        let (name, value) = pair.split_once('=').ok_or(FormatError::Malformed)?;
        let place = match name {
            "v" => &mut version,
            "n" => &mut log_n,
            "r" => &mut r,
            "p" => &mut p,
            "ss" => &mut separator,
            "sk" => &mut signer_key,
            _ => return Err(FormatError::Malformed),
        };
        if place.replace(value).is_some() {
            return Err(FormatError::Malformed);
        }
    }
    let (Some("1"), Some(log_n), Some(r), Some(p), Some(signer_key)) =
        (version, log_n, r, p, signer_key)
    else {
        return Err(FormatError::Malformed);
    };
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| FormatError::Malformed);
    let log_n = u8::try_from(number(log_n)?).map_err(|_| FormatError::TooExpensive)?;
    let class = Class::Scrypt { log_n, r: number(r)?, p: number(p)? };
    let mut salt = decode(salt)?;
    salt.extend(decode(separator.unwrap_or_default())?);
    let (signer_key, output) = (decode(signer_key)?, decode(output)?);
    // Without a signer key every password would be right.
    if signer_key.len() < MIN_SIGNER_KEY || output.len() != signer_key.len() {
        return Err(FormatError::Malformed);
    }
    Ok(Scheme::new(class, salt, output)?.finished_by(signer_key))
}

/// Turns the signer key into the output.
pub(super) fn encrypt(key: &[u8; 32], signer_key: &mut [u8]) -> Result<(), FormatError> {
    let key = UnboundCipherKey::new(&AES_256, key).map_err(|_| FormatError::Malformed)?;
    let key = EncryptingKey::ctr(key).map_err(|_| FormatError::Malformed)?;
    // Each key encrypts this one text, so the counter may begin at zero.
    let zero = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    key.less_safe_encrypt(signer_key, zero).map(|_| ()).map_err(|_| FormatError::Malformed)
}
