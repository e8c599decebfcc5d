//! TLS on the public listeners: certificates by server name, client certificates, TLS 1.2 and 1.3,
//! no early data (a replayed request must not be a second one).
//!
//! The files are looked at every few seconds. What they hold is taken as a whole or not at all, so
//! a certificate that does not fit its key never replaces one that works. Connections stay as they
//! are, and tickets stay good, unless the authorities for client certificates change: a ticket
//! carries a client's certificate past the check.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;

use super::certificate::{self, Facts};
use crate::config::{ClientCertificates, Problem, ServerTls, TlsVersion};
use crate::wire::{Negotiated, Socket, Stream};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// HTTP/1.1 in ALPN (RFC 7301 §6).
pub(super) const HTTP1: &[u8] = b"http/1.1";

/// HTTP/2 in ALPN (RFC 9113 §3.2).
pub(super) const HTTP2: &[u8] = b"h2";

type Hash = [u8; 32];

/// TLS as it is now, and how to bring it up to date.
pub struct Tls {
    written: ServerTls,
    protocols: Vec<Vec<u8>>,
    live: ArcSwap<Live>,
    /// The files that were refused last, so that it is said once.
    refused: Mutex<Option<Hash>>,
    failures: AtomicU64,
}

/// One state of the files.
struct Live {
    config: Arc<ServerConfig>,
    /// Of all files.
    hash: Hash,
    /// Of the authorities for client certificates.
    authorities: Hash,
    expiries: Vec<Expiry>,
}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Its file.
    pub certificate: PathBuf,
    /// The last second it is good for, Unix time.
    pub not_after: i64,
}

/// What is known of a client once its handshake is done.
pub(super) struct Shaken {
    pub(super) stream: Stream,
    pub(super) negotiated: Negotiated,
    pub(super) client_certificate: Option<HeaderValue>,
}

impl Tls {
    /// Reads the files of `[server.tls]`. `protocols` are offered to clients (RFC 7301), best first.
    ///
    /// # Errors
    /// Names the file that cannot be read, holds no certificate or key, or does not fit another.
    pub fn load(written: &ServerTls, protocols: &[&[u8]]) -> Result<Arc<Self>, Problem> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|&name| name.to_vec()).collect();
        let files = Files::read(written);
        let live = Live::compile(written, &protocols, &files, new_tickets()?)?;
        Ok(Arc::new(Self {
            written: written.clone(),
            protocols,
            live: ArcSwap::from_pointee(live),
            refused: Mutex::default(),
            failures: AtomicU64::new(0),
        }))
    }

    /// Takes the files as they are now, when they have changed; whether they had. Reads files, so
    /// it may block.
    ///
    /// # Errors
    /// As [`Tls::load`]; what was taken before stays.
    pub fn refresh(&self) -> Result<bool, Problem> {
        let files = Files::read(&self.written);
        let live = self.live.load();
        if files.hash == live.hash {
            return Ok(false);
        }
        let tickets = if files.authorities == live.authorities {
            Ok(Arc::clone(&live.config.ticketer))
        } else {
            new_tickets()
        };
        let compiled =
            tickets.and_then(|it| Live::compile(&self.written, &self.protocols, &files, it));
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match compiled {
            Ok(live) => {
                self.live.store(Arc::new(live));
                *refused = None;
                tracing::info!("the TLS certificates have been read again");
                Ok(true)
            }
            Err(problem) => {
                if refused.replace(files.hash) != Some(files.hash) {
                    self.failures.fetch_add(1, Relaxed);
                    tracing::error!(
                        key = %problem.key,
                        "the TLS certificates have changed but cannot be used, the old ones stay: {}",
                        problem.message
                    );
                }
                Err(problem)
            }
        }
    }

    /// Looks at the files for as long as it is polled.
    pub(super) async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let tls = Arc::clone(&self);
            // It logs what is wrong; a panic ends only this look.
            let _ = tokio::task::spawn_blocking(move || tls.refresh()).await;
        }
    }

    /// How often changed files could not be taken.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// When the certificates in use end.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.live.load().expiries.clone()
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// It fails, or the client's certificate names nobody that can be passed on.
    pub(super) async fn accept(&self, socket: Socket) -> io::Result<Shaken> {
        // Nothing of a handshake is allocated for a client that says nothing; boxed, so that no room
        // is kept for it either.
        socket.until_bytes().await?;
        let acceptor = TlsAcceptor::from(Arc::clone(&self.live.load().config));
        let stream = Box::pin(acceptor.accept(socket)).await?;
        let (_, connection) = stream.get_ref();
        let negotiated = match connection.alpn_protocol() {
            Some(HTTP2) => Negotiated::Http2,
            _ => Negotiated::Http1,
        };
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        let client_certificate =
            shown.map(|der| certificate::subject(der)).transpose().map_err(io::Error::other)?;
        Ok(Shaken { stream: Stream::Tls(Box::new(stream.into())), negotiated, client_certificate })
    }
}

impl Live {
    fn compile(
        written: &ServerTls,
        protocols: &[Vec<u8>],
        files: &Files,
        tickets: Arc<dyn ProducesTickets>,
    ) -> Result<Self, Problem> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut pairs = Vec::with_capacity(files.pairs.len());
        for pair in &files.pairs {
            pairs.push(pair.compile(&provider)?);
        }
        let expiries = (files.pairs.iter().zip(&pairs))
            .map(|(file, (_, facts))| Expiry {
                certificate: file.certificate.path.clone(),
                not_after: facts.not_after,
            })
            .collect();
        let by_name = Arc::new(ByName::of(pairs, &files.pairs)?);
        let versions: &[&SupportedProtocolVersion] = match written.min_version {
            TlsVersion::V1_2 => rustls::ALL_VERSIONS,
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| Problem::new("server.tls", error.to_string()))?;
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(file.roots()?, provider);
                let verifier = match written.client_certificates {
                    ClientCertificates::Require => verifier,
                    ClientCertificates::Off | ClientCertificates::Optional => {
                        verifier.allow_unauthenticated()
                    }
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|e| file.problem(&e))?)
            }
        };
        let mut config = builder.with_cert_resolver(by_name);
        config.alpn_protocols = protocols.to_vec();
        config.ticketer = tickets;
        // Sessions are kept by the clients, in tickets.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let (hash, authorities) = (files.hash, files.authorities);
        Ok(Self { config: Arc::new(config), hash, authorities, expiries })
    }
}

/// Keys for tickets, changed every few hours by the library.
fn new_tickets() -> Result<Arc<dyn ProducesTickets>, Problem> {
    aws_lc_rs::Ticketer::new().map_err(|error| Problem::new("server.tls", error.to_string()))
}

/// The files, read at one moment.
struct Files {
    pairs: Vec<Pair>,
    client_ca: Option<PemFile>,
    hash: Hash,
    authorities: Hash,
}

struct Pair {
    certificate: PemFile,
    private_key: PemFile,
}

/// One file and its key in the configuration.
struct PemFile {
    key: String,
    path: PathBuf,
    content: io::Result<Vec<u8>>,
}

impl Files {
    fn read(written: &ServerTls) -> Self {
        let pair = |at: &str, certificate: &Path, private_key: &Path| Pair {
            certificate: PemFile::read(format!("{at}.certificate"), certificate),
            private_key: PemFile::read(format!("{at}.private_key"), private_key),
        };
        let mut pairs = vec![pair("server.tls", &written.certificate, &written.private_key)];
        for (index, further) in written.certificates.iter().enumerate() {
            let at = format!("server.tls.certificates[{index}]");
            pairs.push(pair(&at, &further.certificate, &further.private_key));
        }
        let asks = written.client_certificates != ClientCertificates::Off;
        let client_ca = (written.client_ca.as_ref().filter(|_| asks))
            .map(|path| PemFile::read("server.tls.client_ca".to_owned(), path));
        let all = (pairs.iter().flat_map(|pair| [&pair.certificate, &pair.private_key]))
            .chain(client_ca.as_ref());
        let mut hash = Sha256::new();
        all.for_each(|file| file.add_to(&mut hash));
        let mut authorities = Sha256::new();
        if let Some(file) = &client_ca {
            file.add_to(&mut authorities);
        }
        let (hash, authorities) = (hash.finalize().into(), authorities.finalize().into());
        Self { pairs, client_ca, hash, authorities }
    }
}

impl Pair {
    fn compile(&self, provider: &CryptoProvider) -> Result<(Arc<CertifiedKey>, Facts), Problem> {
        let chain = self.certificate.certificates()?;
        let key = PrivateKeyDer::from_pem_slice(self.private_key.bytes()?)
            .map_err(|error| self.private_key.problem(&error))?;
        let facts =
            certificate::facts(&chain[0]).map_err(|error| self.certificate.problem(&error))?;
        let certified = CertifiedKey::from_der(chain, key, provider)
            .map_err(|error| self.private_key.problem(&error))?;
        Ok((Arc::new(certified), facts))
    }
}

impl PemFile {
    fn read(key: String, path: &Path) -> Self {
        Self { key, path: path.to_owned(), content: fs::read(path) }
    }

    fn bytes(&self) -> Result<&[u8], Problem> {
        self.content.as_deref().map_err(|error| self.problem(error))
    }

    /// At least one.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Problem> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.bytes()?).collect();
        let read = read.map_err(|error| self.problem(&error))?;
        if read.is_empty() {
            let message = format!("{} holds no PEM certificate", self.path.display());
            return Err(Problem::new(&*self.key, message));
        }
        Ok(read)
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, Problem> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| self.problem(&error))?;
        }
        Ok(Arc::new(roots))
    }

    fn problem(&self, error: &dyn std::error::Error) -> Problem {
        Problem::new(&*self.key, format!("{} cannot be used: {error}", self.path.display()))
    }

    /// Its content with its length, so that bytes cannot move from one file to the next unseen.
    fn add_to(&self, hash: &mut Sha256) {
        match &self.content {
            Ok(content) => {
                hash.update(content.len().to_be_bytes());
                hash.update(content);
            }
            Err(error) => {
                hash.update(u64::MAX.to_be_bytes());
                hash.update(error.to_string());
            }
        }
    }
}

/// Finds the certificate for the name that a client asks for (RFC 6066 §3).
#[derive(Debug)]
struct ByName {
    default: Arc<CertifiedKey>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what stands behind `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    fn of(pairs: Vec<(Arc<CertifiedKey>, Facts)>, files: &[Pair]) -> Result<Self, Problem> {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        let mut default = None;
        for ((certified, facts), file) in pairs.into_iter().zip(files) {
            if default.is_some() && facts.names.is_empty() {
                let path = file.certificate.path.display();
                let message =
                    format!("{path} is for no DNS name, so no client would ever be shown it");
                return Err(Problem::new(&*file.certificate.key, message));
            }
            for name in facts.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(behind) => (&mut wildcard, behind.to_owned()),
                    None => (&mut exact, name),
                };
                map.entry(name).or_insert_with(|| Arc::clone(&certified));
            }
            default.get_or_insert(certified);
        }
        match default {
            Some(default) => Ok(Self { default, exact, wildcard }),
            None => Err(Problem::new("server.tls", "needs a certificate")),
        }
    }

    fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name else { return &self.default };
        let name = name.to_ascii_lowercase();
        let exact = self.exact.get(&name);
        let found = exact.or_else(|| self.wildcard.get(name.split_once('.')?.1));
        found.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.find(hello.server_name())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CertificatePair;

    /// Writes a certificate for `names` and its key.
    fn pair(folder: &Path, file: &str, names: &[&str]) -> CertificatePair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let certificate = folder.join(format!("{file}.pem"));
        let private_key = folder.join(format!("{file}.key.pem"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&private_key, made.signing_key.serialize_pem()).unwrap();
        CertificatePair { certificate, private_key }
    }

    fn written(default: &CertificatePair, certificates: &[CertificatePair]) -> ServerTls {
        ServerTls {
            certificate: default.certificate.clone(),
            private_key: default.private_key.clone(),
            certificates: certificates.to_vec(),
            ..ServerTls::default()
        }
    }

    #[test]
    fn a_pair_that_fits_is_taken_and_one_that_does_not_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let one = pair(folder.path(), "one", &["localhost"]);
        let other = pair(folder.path(), "other", &["localhost"]);
        assert!(Tls::load(&written(&one, &[]), &[HTTP1]).is_ok());
        let key_of = |written: &ServerTls| Tls::load(written, &[HTTP1]).err().unwrap().key;
        let alien = CertificatePair {
            certificate: one.certificate.clone(),
            private_key: other.private_key.clone(),
        };
        assert_eq!(key_of(&written(&alien, &[])), "server.tls.private_key");
        let at = "server.tls.certificates[1].private_key";
        assert_eq!(key_of(&written(&one, &[other.clone(), alien.clone()])), at);
        let missing = CertificatePair {
            certificate: folder.path().join("none"),
            private_key: one.private_key.clone(),
        };
        assert_eq!(key_of(&written(&missing, &[])), "server.tls.certificate");
        let nameless = pair(folder.path(), "nameless", &["192.0.2.1"]);
        assert_eq!(key_of(&written(&one, &[nameless])), "server.tls.certificates[0].certificate");
    }

    #[test]
    fn names_choose_the_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::read(&written(
            &pair(folder.path(), "0", &["api.example", "*.shop.example"]),
            &[
                pair(folder.path(), "1", &["a.shop.example", "*.example"]),
                pair(folder.path(), "2", &["api.example", "b.test"]),
            ],
        ));
        let provider = aws_lc_rs::default_provider();
        let pairs: Vec<_> =
            files.pairs.iter().map(|pair| pair.compile(&provider).unwrap()).collect();
        let certified: Vec<_> = pairs.iter().map(|(certified, _)| Arc::clone(certified)).collect();
        let by_name = ByName::of(pairs, &files.pairs).unwrap();
        for (name, index) in [
            (None, 0),
            (Some("api.example"), 0),
            (Some("API.Example"), 0),
            (Some("b.shop.example"), 0),
            (Some("a.shop.example"), 1),
            (Some("other.example"), 1),
            (Some("b.test"), 2),
            (Some("a.b.shop.example"), 0),
            (Some("example"), 0),
            (Some("unknown.test"), 0),
        ] {
            let found = by_name.find(name);
            assert!(Arc::ptr_eq(found, &certified[index]), "{name:?}");
        }
    }

    #[test]
    fn changed_files_are_taken_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let one = pair(folder.path(), "one", &["localhost"]);
        let tls = Tls::load(&written(&one, &[]), &[HTTP1]).unwrap();
        assert!(!tls.refresh().unwrap());
        let before = tls.live.load_full();
        let other = pair(folder.path(), "other", &["localhost"]);
        fs::copy(&other.certificate, &one.certificate).unwrap();
        for _ in 0..2 {
            assert_eq!(tls.refresh().unwrap_err().key, "server.tls.private_key");
        }
        assert!(Arc::ptr_eq(&before, &tls.live.load_full()));
        assert_eq!(tls.failures(), 1, "the same mistake counts once");
        fs::copy(&other.private_key, &one.private_key).unwrap();
        assert!(tls.refresh().unwrap());
        let after = tls.live.load_full();
        assert!(!Arc::ptr_eq(&before, &after));
        assert!(Arc::ptr_eq(&before.config.ticketer, &after.config.ticketer));
    }
}
