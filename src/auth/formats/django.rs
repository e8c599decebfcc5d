//! Django (`django.contrib.auth.hashers`): the name, then the fields, with `$` between them. Salts
//! are text, used as it stands; outputs are Base64 with padding.
//!
//! ```text
//! pbkdf2_sha256$1000000$SALT$OUTPUT       and pbkdf2_sha1
//! scrypt$16384$SALT$8$5$OUTPUT            N, then r and p behind the salt
//! argon2$argon2id$v=19$…                  the PHC string behind the name
//! bcrypt$$2b$12$…                         plain
//! bcrypt_sha256$$2b$12$…                  of the SHA-256 in lower-case hexadecimal
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::pbkdf2::Digest;
use super::{
    Class, FormatError, Prepare, Scheme, argon2, bcrypt, fields, log_2, number, whole_pbkdf2,
};

/// `rest` follows the first `$`.
pub(super) fn read(name: &str, rest: &str) -> Result<Scheme, FormatError> {
    match name {
        "pbkdf2_sha1" => read_pbkdf2(Digest::Sha1, rest),
        "pbkdf2_sha256" => read_pbkdf2(Digest::Sha256, rest),
        "scrypt" => read_scrypt(rest),
        // The PHC string without its own first `$`.
        "argon2" => argon2::read(&format!("${rest}")),
        "bcrypt" => bcrypt::read(rest),
        "bcrypt_sha256" => Ok(bcrypt::read(rest)?.prepared_by(Prepare::HexSha256)),
        _ => Err(FormatError::UnknownKind),
    }
}

fn read_pbkdf2(digest: Digest, rest: &str) -> Result<Scheme, FormatError> {
    let [iterations, salt, output] = fields(rest, '$')?;
    let output = STANDARD.decode(output).map_err(|_| FormatError::Malformed)?;
    whole_pbkdf2(digest, number(iterations)?, salt.into(), output)
}

fn read_scrypt(rest: &str) -> Result<Scheme, FormatError> {
    let [n, salt, r, p, output] = fields(rest, '$')?;
    let class = Class::Scrypt { log_n: log_2(number(n)?)?, r: number(r)?, p: number(p)? };
    let output = STANDARD.decode(output).map_err(|_| FormatError::Malformed)?;
    if output.len() != 64 {
        return Err(FormatError::Malformed);
    }
    Scheme::new(class, salt.into(), output)
}
