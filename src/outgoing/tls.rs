//! Our side of TLS: whose certificates are believed. TLS 1.2 and 1.3, no early data, no client
//! certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Why no certificate could be believed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file with authorities cannot be read or understood.
    #[error("{} cannot be used: {reason}", file.display())]
    Authorities {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no file, and the system has no authorities.
    #[error("the system has no certificate authorities; name a file with some")]
    NoAuthorities,
    /// The library refuses.
    #[error("TLS cannot be used")]
    Library(#[source] rustls::Error),
}

/// Believes the authorities in the PEM file `ca`, or else the system's.
///
/// # Errors
/// There are none.
pub(crate) fn client_config(ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let roots = match ca {
        Some(file) => authorities(file)
            .map_err(|reason| TlsError::Authorities { file: file.to_owned(), reason })?,
        None => system_authorities()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Library)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let pem = std::fs::read(file).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("it holds no PEM certificate".to_owned()) } else { Ok(roots) }
}

fn system_authorities() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoAuthorities) } else { Ok(roots) }
}
