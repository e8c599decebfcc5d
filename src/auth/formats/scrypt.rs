//! scrypt itself; who writes it in which form is said in the modules named for the writers.

use super::FormatError;

/// Fills `output`.
pub(super) fn derive(
    (log_n, r, p): (u8, u32, u32),
    password: &[u8],
    salt: &[u8],
    output: &mut [u8],
) -> Result<(), FormatError> {
    let params = scrypt::Params::new(log_n, r, p).map_err(|_| FormatError::Malformed)?;
    scrypt::scrypt(password, salt, &params, output).map_err(|_| FormatError::Malformed)
}
