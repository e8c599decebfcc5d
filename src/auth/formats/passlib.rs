//! passlib (used with `FastAPI` and others), and Keycloak's parameters in the same frame.
//!
//! ```text
//! $pbkdf2-sha256$29000$SALT$OUTPUT            Base64 with `.` for `+` and without padding;
//!                                             -sha512 too, and `$pbkdf2$` for SHA-1
//! $pbkdf2-sha512$i=210000,l=64$SALT$OUTPUT    Keycloak's, as a PHC string: plain Base64 without
//!                                             padding, `l` bytes of output
//! $scrypt$ln=16,r=8,p=1$SALT$OUTPUT           plain Base64 without padding
//! $bcrypt-sha256$v=2,t=2b,r=12$SALT$OUTPUT    bcrypt of the Base64 of HMAC-SHA-256, whose key is
//!                                             the text of the salt
//! $bcrypt-sha256$2a,12$SALT$OUTPUT            before passlib 1.7.3: of the Base64 of SHA-256
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::pbkdf2::Digest;
use super::{
    Class, FormatError, Prepare, Scheme, bcrypt, fields, number, parameters, whole_pbkdf2,
};

/// `rest` follows the name and its `$`.
pub(super) fn read_pbkdf2(digest: Digest, rest: &str) -> Result<Scheme, FormatError> {
    let [cost, salt, output] = fields(rest, '$')?;
    if !cost.starts_with("i=") {
        return whole_pbkdf2(digest, number(cost)?, adapted(salt)?, adapted(output)?);
    }
    let [iterations, length] = parameters(cost, ["i", "l"])?;
    let (salt, output) = (plain(salt)?, plain(output)?);
    if usize::try_from(number(length)?) != Ok(output.len()) {
        return Err(FormatError::Malformed);
    }
    let (iterations, blocks) = (number(iterations)?, digest.blocks(output.len()));
    Scheme::new(Class::Pbkdf2 { digest, iterations, blocks }, salt, output)
}

/// `rest` follows `$scrypt$`.
pub(super) fn read_scrypt(rest: &str) -> Result<Scheme, FormatError> {
    let [cost, salt, output] = fields(rest, '$')?;
    let [log_n, r, p] = parameters(cost, ["ln", "r", "p"])?;
    let log_n = u8::try_from(number(log_n)?).map_err(|_| FormatError::TooExpensive)?;
    let class = Class::Scrypt { log_n, r: number(r)?, p: number(p)? };
    Scheme::new(class, plain(salt)?, plain(output)?)
}

/// `rest` follows `$bcrypt-sha256$`.
pub(super) fn read_bcrypt(rest: &str) -> Result<Scheme, FormatError> {
    let [cost, salt, output] = fields(rest, '$')?;
    let is_bcrypt = |kind| matches!(kind, "2a" | "2b" | "2y");
    if cost.starts_with("v=") {
        let [version, kind, rounds] = parameters(cost, ["v", "t", "r"])?;
        if version != "2" || !is_bcrypt(kind) {
            return Err(FormatError::UnknownKind);
        }
        let key = salt.as_bytes().to_vec();
        return Ok(bcrypt::scheme(number(rounds)?, salt, output)?
            .prepared_by(Prepare::Base64HmacSha256 { key }));
    }
    let [kind, rounds] = fields(cost, ',')?;
    if !is_bcrypt(kind) {
        return Err(FormatError::UnknownKind);
    }
    Ok(bcrypt::scheme(number(rounds)?, salt, output)?.prepared_by(Prepare::Base64Sha256))
}

fn plain(text: &str) -> Result<Vec<u8>, FormatError> {
    STANDARD_NO_PAD.decode(text).map_err(|_| FormatError::Malformed)
}

/// passlib's `ab64`.
fn adapted(text: &str) -> Result<Vec<u8>, FormatError> {
    if text.contains('+') {
        return Err(FormatError::Malformed);
    }
    plain(&text.replace('.', "+"))
}
