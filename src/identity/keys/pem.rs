//! Keys as operators hand them over: one PEM section (RFC 7468) in a file. What kind of key it is
//! is found out here; what is refused is refused with the reason.

use jiff::Timestamp;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use zeroize::Zeroizing;

use super::crypto::{KeyPair, VerifyingKey};
use super::{KeyError, describe};
use crate::config::Algorithm;
use crate::model::SigningKey;

/// Reads a private key: PKCS#8, SEC 1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`), not
/// encrypted. The algorithm follows from the key.
///
/// # Errors
/// [`KeyError::Pem`] and [`KeyError::Unsupported`].
pub fn import_private(
    pem: &[u8],
    now: Timestamp,
    active_from: Timestamp,
) -> Result<SigningKey, KeyError> {
    let (kind, der) = only_section(pem)?;
    let candidates: &[Algorithm] = match kind {
        SectionKind::PrivateKey => &[Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256],
        SectionKind::EcPrivateKey => &[Algorithm::Es256],
        SectionKind::RsaPrivateKey => &[Algorithm::Rs256],
        _ => return Err(KeyError::Pem("the PEM section is not a private key")),
    };
    let pair = candidates
        .iter()
        .find_map(|&algorithm| KeyPair::from_private_der(algorithm, &der).ok())
        .ok_or(KeyError::Unsupported)?;
    // A private key whose public half would not be accepted must not sign either.
    pair.verifying_key().map_err(|_| KeyError::Unsupported)?;
    describe(&pair, now, active_from)
}

/// Reads a public key (`PUBLIC KEY`, RFC 5280 `SubjectPublicKeyInfo`) for `algorithm`.
///
/// # Errors
/// [`KeyError::Pem`] and [`KeyError::NotAcceptable`].
pub fn import_public(algorithm: Algorithm, pem: &[u8]) -> Result<VerifyingKey, KeyError> {
    match only_section(pem)? {
        (SectionKind::PublicKey, der) => VerifyingKey::from_public_der(algorithm, &der),
        (SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey, _) => {
            Err(KeyError::Pem("this is a private key; give its public half, and replace the key"))
        }
        (SectionKind::Certificate, _) => Err(KeyError::Pem(
            "this is a certificate; write its key out with `openssl x509 -pubkey -noout`",
        )),
        _ => Err(KeyError::Pem("the PEM section is not a public key")),
    }
}

/// The one section of a file: with two keys in it, which one counts would be a guess.
fn only_section(pem: &[u8]) -> Result<(SectionKind, Zeroizing<Vec<u8>>), KeyError> {
    let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        // `openssl ecparam -genkey` writes the curve's name in front; unknown sections are skipped
        // by the reader, this one too.
        .map(|section| section.map(|(kind, der)| (kind, Zeroizing::new(der))));
    let first = sections
        .next()
        .ok_or(KeyError::Pem("there is no unencrypted PEM section with a key in it"))?
        .map_err(|_| KeyError::Pem("the PEM text is damaged"))?;
    match sections.next() {
        None => Ok(first),
        Some(_) => Err(KeyError::Pem("there is more than one PEM section in it")),
    }
}
