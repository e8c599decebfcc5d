//! Argon2 in the PHC string format, as this program and most others write it.
//!
//! ```text
//! $argon2id$v=19$m=19456,t=2,p=1$SALT$OUTPUT      Base64 without padding
//! ```

use argon2::password_hash::phc;
use argon2::{Algorithm, Params, Version};

use super::{Class, FormatError, Scheme};

pub(super) fn read(text: &str) -> Result<Scheme, FormatError> {
    let phc = phc::PasswordHash::new(text).map_err(|_| FormatError::Malformed)?;
    let algorithm = Algorithm::new(phc.algorithm).map_err(|_| FormatError::UnknownKind)?;
    // The reference implementation wrote no version before 1.3.
    let version = phc.version.map_or(Ok(Version::V0x10), Version::try_from);
    let version = version.map_err(|_| FormatError::UnknownKind)?;
    let params = Params::try_from(&phc).map_err(|_| FormatError::Malformed)?;
    let (Some(salt), Some(expected)) = (&phc.salt, &phc.hash) else {
        return Err(FormatError::Malformed);
    };
    // A secret or associated data would have to be hashed too.
    if !params.keyid().is_empty() || !params.data().is_empty() {
        return Err(FormatError::UnknownKind);
    }
    let class = Class::Argon2 {
        algorithm,
        version,
        memory_kib: params.m_cost(),
        iterations: params.t_cost(),
        lanes: params.p_cost(),
    };
    Scheme::new(class, salt.to_vec(), expected.as_bytes().to_vec())
}
