//! Parsed keys: what verifies one signature, what makes one. Each holds the one algorithm it may be
//! used with, so that a header's `alg` can only agree or be refused (RFC 8725 §3.1).
//!
//! The primitives come from aws-lc-rs directly rather than through jsonwebtoken: that crate copies
//! and parses the key again for every signature and every verification (RSA: longer than the
//! verification itself), while a parsed key is parsed once, when it is loaded. jsonwebtoken still
//! describes public keys (JWK and thumbprint) and stands against us in the tests.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, EllipticCurveKeyParameters, EllipticCurveKeyType,
    OctetKeyPairParameters, OctetKeyPairType, RSAKeyParameters, RSAKeyType,
};
use zeroize::Zeroizing;

use super::KeyError;
use crate::config::Algorithm;
use crate::identity::rejection::Rejection;

/// A key that verifies signatures of its own algorithm, and no other.
pub struct VerifyingKey {
    algorithm: Algorithm,
    material: Material,
}

enum Material {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

impl VerifyingKey {
    /// Fewest bytes of an HMAC secret: as many as the hash has (RFC 7518 §3.2).
    pub const MIN_SECRET_BYTES: usize = 32;

    /// A public key as `SubjectPublicKeyInfo` (RFC 5280), or in the raw form of its kind: SEC 1
    /// point, 32 bytes of Ed25519, `RSAPublicKey`.
    ///
    /// # Errors
    /// [`KeyError::NotAcceptable`] when it is no valid key for `algorithm`: another type or curve,
    /// a point off the curve, RSA outside 2048 to 8192 bits or from a generator known to be broken.
    pub fn from_public_der(algorithm: Algorithm, der: &[u8]) -> Result<Self, KeyError> {
        let refused = KeyError::NotAcceptable(algorithm);
        let parsed = match algorithm {
            Algorithm::Es256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der),
            Algorithm::EdDsa => ParsedPublicKey::new(&ED25519, der),
            Algorithm::Rs256 => {
                let public = aws_lc_rs::rsa::PublicKey::from_der(der).map_err(|_| refused)?;
                let components = RsaPublicKeyComponents::<Vec<u8>>::from(&public);
                if !is_sound_modulus(&components.n) {
                    return Err(refused);
                }
                ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der)
            }
            Algorithm::Hs256 => return Err(refused),
        };
        let material = Material::Public(parsed.map_err(|_| refused)?);
        Ok(Self { algorithm, material })
    }

    /// A shared secret for HS256.
    ///
    /// # Errors
    /// [`KeyError::ShortSecret`]; [`KeyError::SecretIsPublicKey`] when the secret is a PEM file or a
    /// public key: anybody could sign with that (the algorithm confusion of RFC 8725 §2.1, done by
    /// hand).
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        if memchr::memmem::find(secret, b"-----BEGIN ").is_some()
            || Self::ASYMMETRIC.into_iter().any(|algorithm| {
                // DER only: of raw bytes, too many would pass for a point on a curve.
                secret.len() > 32
                    && secret.starts_with(&[0x30])
                    && Self::from_public_der(algorithm, secret).is_ok()
            })
        {
            return Err(KeyError::SecretIsPublicKey);
        }
        if secret.len() < Self::MIN_SECRET_BYTES {
            return Err(KeyError::ShortSecret);
        }
        let material = Material::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)));
        Ok(Self { algorithm: Algorithm::Hs256, material })
    }

    const ASYMMETRIC: [Algorithm; 3] = [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256];

    /// The one algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Checks a signature in its JWS form (RFC 7518 §3; ES256: 64 bytes, r and s) over `message`,
    /// made with the algorithm that the header calls `algorithm`. HMACs are compared in constant
    /// time.
    ///
    /// # Errors
    /// [`Rejection::Algorithm`] when that is not the key's algorithm, [`Rejection::Signature`].
    pub fn verify(
        &self,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Rejection> {
        if algorithm != self.algorithm.name() {
            return Err(Rejection::Algorithm);
        }
        match &self.material {
            Material::Public(key) => key.verify_sig(message, signature),
            Material::Secret(key) => hmac::verify(key, message, signature),
        }
        .map_err(|_| Rejection::Signature)
    }
}

/// 2048 to 8192 bits, and not of the shape that Infineon's `RSALib` gave its keys (ROCA,
/// CVE-2017-15361): there every modulus is a power of 65537 modulo each small prime, which lets
/// anybody factor it. A sound modulus looks like that once in a billion.
fn is_sound_modulus(n: &[u8]) -> bool {
    const PRIMES: [u32; 38] = [
        3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89,
        97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ];
    let bits = n.len() * 8 - n.first().map_or(0, |b| b.leading_zeros() as usize);
    let is_power_of_65537 = |&p: &u32| {
        let rest = n.iter().fold(0, |rest, &byte| (rest * 256 + u32::from(byte)) % p);
        let mut power = 1;
        loop {
            if power == rest {
                return true;
            }
            power = power * 65537 % p;
            if power == 1 {
                return false;
            }
        }
    };
    (2048..=8192).contains(&bits) && !PRIMES.iter().all(is_power_of_65537)
}

/// A private key with its public half.
pub(super) enum KeyPair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl KeyPair {
    pub(super) fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Crypto;
        match algorithm {
            Algorithm::Es256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                .map(Self::Ecdsa)
                .map_err(failed),
            Algorithm::EdDsa => Ed25519KeyPair::generate().map(Self::Ed25519).map_err(failed),
            Algorithm::Rs256 => {
                RsaKeyPair::generate(KeySize::Rsa2048).map(Self::Rsa).map_err(failed)
            }
            Algorithm::Hs256 => Err(KeyError::NoKeyPair),
        }
    }

    /// Reads PKCS#8 (RFC 5958), SEC 1 (RFC 5915) or PKCS#1 (RFC 8017), whichever fits.
    pub(super) fn from_private_der(algorithm: Algorithm, der: &[u8]) -> Result<Self, KeyError> {
        let pair = match algorithm {
            Algorithm::Es256 => {
                EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
                    .map(Self::Ecdsa)
            }
            Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8(der).map(Self::Ed25519),
            Algorithm::Rs256 => {
                RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)).map(Self::Rsa)
            }
            Algorithm::Hs256 => return Err(KeyError::NoKeyPair),
        };
        pair.map_err(|_| KeyError::NotAcceptable(algorithm))
    }

    /// PKCS#8 version 1, the form that other tools read too.
    pub(super) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let copy = |der: &[u8]| Zeroizing::new(der.to_vec());
        match self {
            Self::Ecdsa(pair) => pair.to_pkcs8v1().map(|der| copy(der.as_ref())),
            Self::Ed25519(pair) => pair.to_pkcs8v1().map(|der| copy(der.as_ref())),
            Self::Rsa(pair) => {
                let der: Result<Pkcs8V1Der<'_>, _> = pair.as_der();
                der.map(|der| copy(der.as_ref()))
            }
        }
        .map_err(|_| KeyError::Crypto)
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ecdsa(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
            Self::Rsa(_) => Algorithm::Rs256,
        }
    }

    /// The public half, for those who check our tokens.
    pub(super) fn verifying_key(&self) -> Result<VerifyingKey, KeyError> {
        let public = match self {
            Self::Ecdsa(pair) => pair.public_key().as_ref(),
            Self::Ed25519(pair) => pair.public_key().as_ref(),
            Self::Rsa(pair) => pair.public_key().as_ref(),
        };
        VerifyingKey::from_public_der(self.algorithm(), public)
    }

    /// The public half as the members of a JWK (RFC 7518 §6, RFC 8037 §2).
    pub(super) fn jwk_parameters(&self) -> AlgorithmParameters {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ecdsa(pair) => {
                // SEC 1 §2.3.3: 0x04, then both coordinates of 32 bytes.
                let point = pair.public_key().as_ref();
                AlgorithmParameters::EllipticCurve(EllipticCurveKeyParameters {
                    key_type: EllipticCurveKeyType::EC,
                    curve: EllipticCurve::P256,
                    x: encode(&point[1..33]),
                    y: encode(&point[33..65]),
                })
            }
            Self::Ed25519(pair) => AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
                key_type: OctetKeyPairType::OctetKeyPair,
                curve: EllipticCurve::Ed25519,
                x: encode(pair.public_key().as_ref()),
            }),
            Self::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                AlgorithmParameters::RSA(RSAKeyParameters {
                    key_type: RSAKeyType::RSA,
                    n: encode(&public.n),
                    e: encode(&public.e),
                })
            }
        }
    }

    /// How many bytes a signature has (RFC 7518 §3, RFC 8037 §3.1).
    pub(super) fn signature_bytes(&self) -> usize {
        match self {
            Self::Ecdsa(_) | Self::Ed25519(_) => 64,
            Self::Rsa(pair) => pair.public_modulus_len(),
        }
    }

    /// A signature in JWS form.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        // The generator is aws-lc's own whatever is passed here.
        let random = SystemRandom::new();
        match self {
            Self::Ecdsa(pair) => {
                pair.sign(&random, message).map(|signature| signature.as_ref().to_vec())
            }
            Self::Ed25519(pair) => {
                pair.try_sign(message).map(|signature| signature.as_ref().to_vec())
            }
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map(|()| signature)
            }
        }
        .map_err(|_| KeyError::Crypto)
    }
}
