//! The keys that sign our own access tokens: made, imported, published, and chosen.
//!
//! A key's life is drawn in [`life`].

mod crypto;
mod jwk;
pub mod life;
mod pem;

use std::fmt;

use aws_lc_rs::hmac;
use jiff::Timestamp;
use jsonwebtoken::jwk::{
    CommonParameters, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse, ThumbprintHash,
};
use secrecy::ExposeSecret as _;

use self::crypto::KeyPair;
pub use self::crypto::VerifyingKey;
pub use self::jwk::{JwkSetError, RemoteKeys};
use self::life::Times;
pub use self::pem::{import_private, import_public};
use crate::config::{Algorithm, Tokens};
use crate::model::SigningKey;

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The PEM text; why.
    #[error("{0}")]
    Pem(&'static str),
    /// A key of another kind, or too weak a one, for this algorithm.
    #[error(
        "not an acceptable key for {}; ES256 takes P-256, EdDSA takes Ed25519, RS256 takes RSA of 2048 to 8192 bits",
        .0.name()
    )]
    NotAcceptable(Algorithm),
    /// A private key of a kind that signs no tokens here.
    #[error("not a usable signing key; P-256, Ed25519 and RSA of 2048 to 8192 bits are")]
    Unsupported,
    /// HS256 has a secret, not a key pair.
    #[error("HS256 signs with the configured secret; it has no key pair")]
    NoKeyPair,
    /// HS256 without a secret.
    #[error("HS256 needs a secret")]
    NoSecret,
    /// A secret that can be guessed.
    #[error("the secret is shorter than 32 bytes")]
    ShortSecret,
    /// A secret that everybody has.
    #[error("the secret is a key file; a public key in its place would let everybody sign")]
    SecretIsPublicKey,
    /// Two keys with one id.
    #[error("two signing keys have the same id")]
    DuplicateKeyId,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// Makes a key pair for `algorithm` (RS256: 2048 bits).
///
/// # Errors
/// [`KeyError::NoKeyPair`] for HS256.
pub fn generate(
    algorithm: Algorithm,
    now: Timestamp,
    active_from: Timestamp,
) -> Result<SigningKey, KeyError> {
    describe(&KeyPair::generate(algorithm)?, now, active_from)
}

fn describe(
    pair: &KeyPair,
    now: Timestamp,
    active_from: Timestamp,
) -> Result<SigningKey, KeyError> {
    let jwk = Jwk { common: CommonParameters::default(), algorithm: pair.jwk_parameters() };
    Ok(SigningKey {
        kid: jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| KeyError::Crypto)?,
        algorithm: pair.algorithm(),
        private_key: pair.to_pkcs8()?,
        created_at: now,
        active_from,
        retire_at: None,
    })
}

/// All keys with which our own tokens are signed or checked, parsed.
pub struct KeySet {
    algorithm: Algorithm,
    /// The newest first.
    keys: Vec<Key>,
}

struct Key {
    signer: Signer,
    verifying: VerifyingKey,
    /// `None` for a secret.
    jwk: Option<Jwk>,
    times: Times,
}

impl KeySet {
    /// No keys: nothing can be signed, and nothing verifies.
    pub(super) fn empty() -> Self {
        Self { algorithm: Algorithm::default(), keys: Vec::new() }
    }

    /// The keys for `tokens.algorithm`: the secret for HS256 (never beside key pairs, so that a
    /// public key can never serve as one), else `stored`, which may hold keys of an algorithm that
    /// was configured before: they go on verifying until they are retired.
    ///
    /// # Errors
    /// A key that cannot be used; see [`KeyError`].
    pub fn compile(tokens: &Tokens, stored: &[SigningKey]) -> Result<Self, KeyError> {
        if tokens.algorithm == Algorithm::Hs256 {
            let secret = tokens.secret.as_ref().ok_or(KeyError::NoSecret)?;
            return Self::from_secret(secret.expose_secret().as_bytes());
        }
        Self::from_keys(tokens.algorithm, stored)
    }

    /// A set of key pairs of which those of `algorithm` sign.
    ///
    /// # Errors
    /// A key that cannot be used; see [`KeyError`].
    pub fn from_keys(algorithm: Algorithm, stored: &[SigningKey]) -> Result<Self, KeyError> {
        let mut order: Vec<&SigningKey> = stored.iter().collect();
        // Equal times are told apart by id, so that every gateway signs with the same key.
        order.sort_by_key(|key| (key.active_from, key.created_at, &key.kid));
        order.reverse();
        if order.iter().enumerate().any(|(i, key)| order[..i].iter().any(|k| k.kid == key.kid)) {
            return Err(KeyError::DuplicateKeyId);
        }
        let keys = order.into_iter().map(Key::parse).collect::<Result<_, _>>()?;
        Ok(Self { algorithm, keys })
    }

    /// The set of one shared secret.
    ///
    /// # Errors
    /// [`KeyError::ShortSecret`], [`KeyError::SecretIsPublicKey`].
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        let verifying = VerifyingKey::from_secret(secret)?;
        let signer = Signer {
            // A constant: an id made from the secret would help to guess it.
            kid: "secret".to_owned(),
            algorithm: Algorithm::Hs256,
            key: SigningMaterial::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))),
        };
        let times = Times { active_from: i64::MIN, retire_at: None };
        let key = Key { signer, verifying, jwk: None, times };
        Ok(Self { algorithm: Algorithm::Hs256, keys: vec![key] })
    }

    /// The key that signs at `now`: the newest active one of the configured algorithm. `None` asks
    /// for a new key.
    pub fn signer(&self, now: Timestamp) -> Option<&Signer> {
        let own = self.keys.iter().filter(|key| key.signer.algorithm == self.algorithm);
        life::signer(own, |key| key.times, now.as_second()).map(|key| &key.signer)
    }

    /// Whether tokens that this key signed are accepted at `now` (Unix seconds).
    pub(crate) fn accepts(&self, kid: &str, now: i64) -> bool {
        self.accepted(Some(kid), now).is_some()
    }

    /// The key to verify with at `now` (Unix seconds), and when it will be retired. A token without
    /// `kid` will do while there is but one key.
    ///
    /// A key whose time to sign has not come verifies already: another gateway's clock may be ahead.
    pub(super) fn verifying_key(
        &self,
        kid: Option<&str>,
        now: i64,
    ) -> Option<(&VerifyingKey, Option<i64>)> {
        self.accepted(kid, now).map(|key| (&key.verifying, key.times.retire_at))
    }

    /// The id of the key that verifies such a token.
    pub(super) fn kid(&self, kid: Option<&str>, now: i64) -> Option<&str> {
        self.accepted(kid, now).map(|key| &*key.signer.kid)
    }

    fn accepted(&self, kid: Option<&str>, now: i64) -> Option<&Key> {
        let mut accepted = self.keys.iter().filter(|key| !key.times.is_retired(now));
        if let Some(kid) = kid {
            return accepted.find(|key| key.signer.kid == kid);
        }
        let only = accepted.next()?;
        accepted.next().is_none().then_some(only)
    }

    /// The public keys as a JWK set (RFC 7517 §5), those to come included: who caches the set
    /// should know a key before its first token.
    pub fn jwks(&self, now: Timestamp) -> String {
        let now = now.as_second();
        let listed = self.keys.iter().filter(|key| !key.times.is_retired(now));
        let set = JwkSet { keys: listed.filter_map(|key| key.jwk.clone()).collect() };
        serde_json::to_string(&set).expect("a JWK set is plain text all the way down")
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kids = self.keys.iter().map(|key| &key.signer.kid);
        f.debug_list().entries(kids).finish()
    }
}

impl Key {
    fn parse(stored: &SigningKey) -> Result<Self, KeyError> {
        let pair = KeyPair::from_private_der(stored.algorithm, &stored.private_key)?;
        let common = CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_algorithm: Some(match stored.algorithm {
                Algorithm::Es256 => KeyAlgorithm::ES256,
                Algorithm::EdDsa => KeyAlgorithm::EdDSA,
                Algorithm::Rs256 => KeyAlgorithm::RS256,
                Algorithm::Hs256 => return Err(KeyError::NoKeyPair),
            }),
            key_id: Some(stored.kid.clone()),
            ..CommonParameters::default()
        };
        Ok(Self {
            verifying: pair.verifying_key()?,
            jwk: Some(Jwk { common, algorithm: pair.jwk_parameters() }),
            signer: Signer {
                kid: stored.kid.clone(),
                algorithm: stored.algorithm,
                key: SigningMaterial::Pair(pair),
            },
            times: Times {
                active_from: stored.active_from.as_second(),
                retire_at: stored.retire_at.map(Timestamp::as_second),
            },
        })
    }
}

/// A key that makes signatures.
pub struct Signer {
    kid: String,
    algorithm: Algorithm,
    key: SigningMaterial,
}

enum SigningMaterial {
    Pair(KeyPair),
    Secret(Box<hmac::Key>),
}

impl Signer {
    /// Names the key in the token's header.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The key's algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How many bytes a signature has.
    pub(super) fn signature_bytes(&self) -> usize {
        match &self.key {
            SigningMaterial::Pair(pair) => pair.signature_bytes(),
            SigningMaterial::Secret(_) => hmac::HMAC_SHA256.digest_algorithm().output_len(),
        }
    }

    /// The signature over `message`, in JWS form.
    ///
    /// # Errors
    /// [`KeyError::Crypto`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.key {
            SigningMaterial::Pair(pair) => pair.sign(message),
            SigningMaterial::Secret(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
