//! Our side of TLS to servers: whose certificates are believed, and which one we show. TLS 1.2
//! and 1.3, no early data.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest as _, Sha256};

use crate::config::{Problem, Protocol, UpstreamTls};

/// TLS to the servers of one upstream.
pub(super) struct Tls {
    /// What connections are made with.
    pub(super) config: Arc<ClientConfig>,
    /// Of all that was read: a file may change while its name does not.
    pub(super) digest: [u8; 32],
}

/// Reads the files of `upstreams.NAME.tls`; `at` is that key.
///
/// # Errors
/// Names the file that cannot be read or used.
pub(super) fn compile(at: &str, tls: &UpstreamTls, protocol: Protocol) -> Result<Tls, Problem> {
    let mut digest = Sha256::new();
    let mut read = |path: &Path, key: &str| {
        let bytes =
            fs::read(path).map_err(|error| unusable(&format!("{at}.{key}"), path, &error))?;
        digest.update(Sha256::digest(&bytes));
        Ok::<_, Problem>(bytes)
    };
    let mut roots = RootCertStore::empty();
    if let Some(path) = &tls.ca {
        for certificate in certificates(&format!("{at}.ca"), path, &read(path, "ca")?)? {
            roots.add(certificate).map_err(|error| unusable(&format!("{at}.ca"), path, &error))?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            let message = "the system has no certificate authorities; name a file with some";
            return Err(Problem::new(format!("{at}.ca"), message));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Problem::new(at, format!("TLS cannot be used: {error}")))?
        .with_root_certificates(roots);
    let mut config = match (&tls.certificate, &tls.private_key) {
        (Some(certificate), Some(private_key)) => {
            let key = format!("{at}.certificate");
            let chain = certificates(&key, certificate, &read(certificate, "certificate")?)?;
            let bytes = zeroize::Zeroizing::new(read(private_key, "private_key")?);
            let private = PrivateKeyDer::from_pem_slice(&bytes)
                .map_err(|error| unusable(&format!("{at}.private_key"), private_key, &error))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| unusable(&key, certificate, &error))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match protocol {
        Protocol::H2 => vec![b"h2".to_vec()],
        Protocol::Http1 | Protocol::H2c => vec![b"http/1.1".to_vec()],
    };
    Ok(Tls { config: Arc::new(config), digest: digest.finalize().into() })
}

fn certificates(
    key: &str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(key, path, &error))?;
    if found.is_empty() {
        let message = format!("{} holds no PEM certificate", path.display());
        return Err(Problem::new(key, message));
    }
    Ok(found)
}

fn unusable(key: &str, path: &Path, error: &dyn std::error::Error) -> Problem {
    Problem::new(key, format!("{} cannot be used: {error}", path.display()))
}
