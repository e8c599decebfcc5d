//! Certificates, and clients that know them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::patiently;
use super::http::lossy;

/// TLS 1.2.
static OLD: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];

/// Makes certificates that whoever trusts it takes.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate with its key.
pub(crate) struct Pair {
    /// The certificate.
    pub(crate) certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A server's certificate.
    pub(crate) fn server(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        self.sign(&CertificateParams::new(names).expect("DNS names"))
    }

    /// A client's certificate.
    pub(crate) fn client(&self, subject: &[(DnType, &str)]) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair { certificate, key }
    }

    /// Writes its certificate.
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.certificate.pem()).expect("the folder is ours");
    }

    /// A client that trusts it.
    pub(crate) fn visitor(&self) -> Visitor {
        Visitor {
            roots: self.certificate.der().clone(),
            versions: rustls::ALL_VERSIONS,
            offers: Vec::new(),
            shows: None,
        }
    }
}

impl Pair {
    /// Writes both files, `NAME.pem` and `NAME.key.pem`.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) =
            (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key.pem")));
        std::fs::write(&certificate, self.certificate.pem()).expect("the folder is ours");
        std::fs::write(&key, self.key.serialize_pem()).expect("the folder is ours");
        (certificate, key)
    }

    /// A server that shows it.
    pub(crate) fn server_config(&self) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions");
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        let chain = vec![self.certificate.der().clone()];
        builder.with_no_client_auth().with_single_cert(chain, key).expect("they fit")
    }
}

/// What a client of TLS is like.
#[derive(Clone)]
pub(crate) struct Visitor {
    roots: CertificateDer<'static>,
    versions: &'static [&'static SupportedProtocolVersion],
    offers: Vec<Vec<u8>>,
    shows: Option<(CertificateDer<'static>, Vec<u8>)>,
}

impl Visitor {
    /// Speaks TLS 1.2 only.
    pub(crate) fn old(self) -> Self {
        Self { versions: &OLD, ..self }
    }

    /// Offers these protocols (RFC 7301).
    pub(crate) fn offering(self, protocols: &[&[u8]]) -> Self {
        Self { offers: protocols.iter().map(|name| name.to_vec()).collect(), ..self }
    }

    /// Shows a certificate when asked for one.
    pub(crate) fn showing(self, pair: &Pair) -> Self {
        let shows = Some((pair.certificate.der().clone(), pair.key.serialize_der()));
        Self { shows, ..self }
    }

    /// A client with a memory of its own for tickets.
    pub(crate) fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.roots.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match &self.shows {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![certificate.clone()],
                    PrivateKeyDer::try_from(key.clone()).expect("a key"),
                )
                .expect("a pair"),
        };
        config.alpn_protocols.clone_from(&self.offers);
        TlsConnector::from(Arc::new(config))
    }
}

/// One connection over TLS.
pub(crate) struct Secure<S>(TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Secure<S> {
    /// Does the handshake, as far as the client can tell: with TLS 1.3, a server may still refuse
    /// the client's certificate.
    pub(crate) async fn begin(
        connector: &TlsConnector,
        name: &str,
        stream: S,
    ) -> std::io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        patiently("a handshake", connector.connect(name, stream)).await.map(Self)
    }

    /// The certificate that the server has shown.
    pub(crate) fn server_certificate(&self) -> &CertificateDer<'static> {
        let shown = self.0.get_ref().1.peer_certificates();
        shown.and_then(<[_]>::first).expect("servers show one")
    }

    /// The protocol that was agreed on.
    pub(crate) fn agreed(&self) -> Option<&[u8]> {
        self.0.get_ref().1.alpn_protocol()
    }

    /// Whether an earlier session was taken up again.
    pub(crate) fn is_resumed(&self) -> bool {
        self.0.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// A `GET` on a connection that goes on; the answer's head, which must announce no long body.
    pub(crate) async fn get(&mut self, target: &str) -> String {
        self.send(target, "").await.expect("the connection stands");
        let mut answer = Vec::new();
        patiently("an answer", async {
            while !ends(&answer) {
                assert!(
                    self.0.read_buf(&mut answer).await.expect("an answer") > 0,
                    "it is cut off"
                );
            }
        })
        .await;
        lossy(&answer)
    }

    /// A `GET` that is the last; all that comes back, empty when the connection is refused.
    pub(crate) async fn last(mut self, target: &str) -> String {
        let mut answer = Vec::new();
        if self.send(target, "Connection: close\r\n").await.is_ok() {
            // A refused certificate is an error, and no answer.
            let _ = patiently("the answer", self.0.read_to_end(&mut answer)).await;
        }
        lossy(&answer)
    }

    async fn send(&mut self, target: &str, field: &str) -> std::io::Result<()> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: api.example\r\n{field}\r\n");
        self.0.write_all(request.as_bytes()).await
    }
}

/// Whether `answer` is whole, with the length that it announces.
fn ends(answer: &[u8]) -> bool {
    let text = lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.to_ascii_lowercase();
    let length = length.split_once("content-length: ").map_or("0", |(_, rest)| rest);
    let digits: String = length.chars().take_while(char::is_ascii_digit).collect();
    body.len() >= digits.parse().expect("a number")
}
