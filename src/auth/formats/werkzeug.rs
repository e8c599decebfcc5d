//! Werkzeug (Flask): `METHOD$SALT$OUTPUT`, the method's parts separated by `:`. Salts are text,
//! used as it stands; outputs are hexadecimal.
//!
//! ```text
//! scrypt:32768:8:1$SALT$OUTPUT            N, r, p
//! pbkdf2:sha256:1000000$SALT$OUTPUT       the number may not be missing: its default changed
//! sha256$SALT$OUTPUT                      old: one HMAC with the salt as its key
//! ```

use super::pbkdf2::Digest;
use super::{Class, FormatError, Scheme, fields, log_2, number, whole_pbkdf2};

/// `rest` follows the first `$`.
pub(super) fn read(method: &str, rest: &str) -> Result<Scheme, FormatError> {
    let [salt, output] = fields(rest, '$')?;
    let output = hexadecimal(output)?;
    let salt = salt.into();
    let mut parts = method.split(':');
    let kind = parts.next().unwrap_or_default();
    let parts: Vec<_> = parts.collect();
    match (kind, parts.as_slice()) {
        ("scrypt", [n, r, p]) => {
            let class = Class::Scrypt { log_n: log_2(number(n)?)?, r: number(r)?, p: number(p)? };
            if output.len() != 64 {
                return Err(FormatError::Malformed);
            }
            Scheme::new(class, salt, output)
        }
        ("pbkdf2", [digest, iterations]) => {
            whole_pbkdf2(digest.parse()?, number(iterations)?, salt, output)
        }
        ("scrypt" | "pbkdf2", _) => Err(FormatError::Malformed),
        (digest, []) => {
            let digest: Digest = digest.parse()?;
            if output.len() != digest.size() {
                return Err(FormatError::Malformed);
            }
            Scheme::new(Class::Hmac(digest), salt, output)
        }
        _ => Err(FormatError::UnknownKind),
    }
}

fn hexadecimal(text: &str) -> Result<Vec<u8>, FormatError> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks();
    if !rest.is_empty() {
        return Err(FormatError::Malformed);
    }
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    bytes.collect::<Option<_>>().ok_or(FormatError::Malformed)
}
