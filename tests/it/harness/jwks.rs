//! Another issuer of tokens: a small HTTP or HTTPS server with a JWK set, and keys that sign. Its
//! tokens are made by hand, so that a test can make bad ones.

use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::tls::Pair;
use super::upstream::{Step, Upstream, reply};

/// A private key of an issuer.
pub(crate) struct IssuerKey {
    kid: String,
    pair: Pairs,
}

enum Pairs {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl IssuerKey {
    /// A new key for RS256.
    pub(crate) fn rsa(kid: &str) -> Self {
        Self::of(kid, Pairs::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")))
    }

    /// A new key for ES256.
    pub(crate) fn p256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self::of(kid, Pairs::P256(pair.expect("a key")))
    }

    /// A new key for `EdDSA`.
    pub(crate) fn ed25519(kid: &str) -> Self {
        Self::of(kid, Pairs::Ed25519(Ed25519KeyPair::generate().expect("a key")))
    }

    fn of(kid: &str, pair: Pairs) -> Self {
        Self { kid: kid.to_owned(), pair }
    }

    /// The name of its algorithm.
    pub(crate) fn algorithm(&self) -> &'static str {
        match self.pair {
            Pairs::Rsa(_) => "RS256",
            Pairs::P256(_) => "ES256",
            Pairs::Ed25519(_) => "EdDSA",
        }
    }

    /// The public key as issuers publish it.
    pub(crate) fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.pair {
            Pairs::Rsa(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA",
                    "n": text(public.modulus().big_endian_without_leading_zero()),
                    "e": text(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Pairs::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            Pairs::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
        };
        for (name, value) in [("kid", &*self.kid), ("use", "sig"), ("alg", self.algorithm())] {
            jwk[name] = value.into();
        }
        jwk
    }

    /// The header that its tokens have.
    pub(crate) fn header(&self) -> Value {
        json!({ "alg": self.algorithm(), "typ": "JWT", "kid": self.kid })
    }

    /// A token of `claims` under the usual header.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), claims)
    }

    /// A token, whatever its header says.
    pub(crate) fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let message = signed.as_bytes();
        let signature = match &self.pair {
            Pairs::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let made = pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                made.expect("a signature");
                signature
            }
            Pairs::P256(pair) => {
                pair.sign(&random, message).expect("a signature").as_ref().to_vec()
            }
            Pairs::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The server of an issuer's key set.
pub(crate) struct KeyServer {
    upstream: Upstream,
    /// What it does with every request.
    steps: Arc<Mutex<Vec<Step>>>,
}

impl KeyServer {
    /// Publishes these keys.
    pub(crate) async fn of(keys: &[&IssuerKey]) -> Self {
        let steps = Arc::new(Mutex::new(set_of(keys)));
        let script = Arc::clone(&steps);
        let upstream = Upstream::scripted(move |_| script.lock().expect("no panic").clone()).await;
        Self { upstream, steps }
    }

    /// Publishes these keys from now on.
    pub(crate) fn publish(&self, keys: &[&IssuerKey]) {
        self.answer(set_of(keys));
    }

    /// Does this with every request from now on.
    pub(crate) fn answer(&self, steps: Vec<Step>) {
        *self.steps.lock().expect("no panic") = steps;
    }

    /// Where the set is.
    pub(crate) fn url(&self) -> String {
        format!("{}/keys.json", self.upstream.url())
    }

    /// Where the set is by HTTPS, with this certificate.
    pub(crate) async fn https_url(&self, certificate: &Pair) -> String {
        let acceptor = TlsAcceptor::from(Arc::new(certificate.server_config()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let behind = self.upstream.authority();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whoever does not like the certificate goes.
                let Ok(mut client) = acceptor.accept(stream).await else { continue };
                let mut server = TcpStream::connect(&behind).await.expect("it accepts");
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
        format!("https://localhost:{port}/keys.json")
    }

    /// How often the set was asked for.
    pub(crate) fn fetches(&self) -> usize {
        self.upstream.count()
    }

    /// Waits until it was asked for so often.
    pub(crate) async fn until_fetches(&self, count: usize) {
        self.upstream.until("fetches of the keys", |seen| seen.len() >= count).await;
    }

    /// Waits until nobody asks any longer.
    pub(crate) async fn until_left_alone(&self) {
        self.upstream.until_disconnected().await;
    }
}

fn set_of(keys: &[&IssuerKey]) -> Vec<Step> {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    json_answer(&json!({ "keys": keys }))
}

/// Answers with a document.
pub(crate) fn json_answer(document: &Value) -> Vec<Step> {
    let body = document.to_string();
    reply(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}
