//! TLS on the public listeners: one certificate chain and key from files, TLS 1.2 and 1.3, no
//! early data (a replayed request must not be a second one).

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::{Problem, ServerTls};

/// Reads the files of `[server.tls]`.
///
/// # Errors
/// Names the file that cannot be read, holds no certificate or key, or does not match the other.
pub fn acceptor(config: &ServerTls, http2: bool) -> Result<TlsAcceptor, Problem> {
    let chain = read(&config.certificate, "server.tls.certificate")?;
    let key = read(&config.private_key, "server.tls.private_key")?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|error| problem("server.tls.certificate", &config.certificate, &error))?;
    if chain.is_empty() {
        let message = format!("{} holds no PEM certificate", config.certificate.display());
        return Err(Problem::new("server.tls.certificate", message));
    }
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| problem("server.tls.private_key", &config.private_key, &error))?;
    let mut tls = ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
    .map_err(|error| problem("server.tls", &config.certificate, &error))?;
    if http2 {
        tls.alpn_protocols.push(b"h2".to_vec());
    }
    tls.alpn_protocols.push(b"http/1.1".to_vec());
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

fn read(path: &Path, key: &str) -> Result<Vec<u8>, Problem> {
    fs::read(path).map_err(|error| problem(key, path, &error))
}

fn problem(key: &str, path: &Path, error: &dyn std::error::Error) -> Problem {
    Problem::new(key, format!("{} cannot be used: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_fits_is_taken_and_one_that_does_not_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let one = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = file("cert.pem", &one.cert.pem());
        let fits = file("one.key.pem", &one.signing_key.serialize_pem());
        let alien = file("other.key.pem", &other.signing_key.serialize_pem());
        let config = |private_key| ServerTls { certificate: certificate.clone(), private_key };
        assert!(acceptor(&config(fits), true).is_ok());
        assert!(acceptor(&config(alien), true).is_err());
        let missing = acceptor(&config(folder.path().join("none")), true).err().unwrap();
        assert_eq!(missing.key, "server.tls.private_key");
    }
}
