//! Public keys of others, as their JWK sets (RFC 7517) have them. Each key is pinned to one
//! algorithm when it is read, so that a token's `alg` can only agree or be refused.
//!
//! Unusable keys are left out, as §5 asks for: sets hold keys for encryption and of kinds that we do
//! not know. A set as a whole is refused when it is none, has nothing usable, or leaves open which
//! key a `kid` means.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::RsaPublicKeyComponents;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::VerifyingKey;
use crate::config::Algorithm;

/// Most keys of a set. Issuers have two or three; each token without a `kid` of the set would be
/// held against all of their names.
const MAX_KEYS: usize = 32;

/// The usable keys of a JWK set.
#[derive(Default)]
pub struct RemoteKeys {
    keys: Vec<RemoteKey>,
    /// Keys that were left out.
    skipped: usize,
}

struct RemoteKey {
    kid: Option<String>,
    verifying: VerifyingKey,
    /// Of what the key is made of.
    digest: [u8; 32],
}

/// Why a JWK set is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwkSetError {
    /// HTML, a truncated answer, anything else.
    #[error("it is no JWK set: no JSON object with a list `keys`")]
    NoSet,
    /// Too long a list.
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
    /// An empty list, or nothing in it that may check signatures.
    #[error(
        "it has no usable key: P-256, Ed25519 or RSA of 2048 to 8192 bits, for an algorithm of the configuration"
    )]
    NothingUsable,
    /// Which key a token means would be a guess.
    #[error("two of its keys have one `kid`, or one of several has none")]
    Ambiguous,
}

impl RemoteKeys {
    /// Reads a set of which each key may be used with one of `allowed`.
    ///
    /// # Errors
    /// See [`JwkSetError`].
    pub fn parse(json: &[u8], allowed: &[Algorithm]) -> Result<Self, JwkSetError> {
        let set: Value = serde_json::from_slice(json).map_err(|_| JwkSetError::NoSet)?;
        let list = set.get("keys").and_then(Value::as_array).ok_or(JwkSetError::NoSet)?;
        if list.len() > MAX_KEYS {
            return Err(JwkSetError::TooMany);
        }
        let mut keys: Vec<RemoteKey> =
            list.iter().filter_map(|jwk| RemoteKey::parse(jwk, allowed)).collect();
        // So that the same keys in another order are the same set.
        keys.sort_by(|a, b| (&a.kid, a.digest).cmp(&(&b.kid, b.digest)));
        let skipped = list.len() - keys.len();
        if keys.is_empty() {
            return Err(JwkSetError::NothingUsable);
        }
        let is_ambiguous = keys.len() > 1 && keys[0].kid.is_none()
            || keys.windows(2).any(|pair| pair[0].kid == pair[1].kid);
        if is_ambiguous { Err(JwkSetError::Ambiguous) } else { Ok(Self { keys, skipped }) }
    }

    /// Whether both have the same keys.
    pub fn is_same(&self, other: &Self) -> bool {
        let what = |key: &RemoteKey| (key.kid.clone(), key.verifying.algorithm(), key.digest);
        self.keys.iter().map(what).eq(other.keys.iter().map(what))
    }

    /// Whether there are none, as before the first fetch.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The ids of the keys with their algorithms, for people.
    pub fn ids(&self) -> impl Iterator<Item = (Option<&str>, Algorithm)> {
        self.keys.iter().map(|key| (key.kid.as_deref(), key.verifying.algorithm()))
    }

    /// How many keys of the set were left out.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The key that a token names; without a name the only one.
    pub(in crate::identity) fn verifying_key(&self, kid: Option<&str>) -> Option<&VerifyingKey> {
        let key = match (kid, &self.keys[..]) {
            (None, [only]) => only,
            (None, _) => return None,
            (Some(kid), keys) => keys.iter().find(|key| key.kid.as_deref() == Some(kid))?,
        };
        Some(&key.verifying)
    }
}

impl RemoteKey {
    /// None: it is not for us.
    fn parse(jwk: &Value, allowed: &[Algorithm]) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        // RFC 7517 §4.2 and §4.3.
        if jwk.get("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let verifies = |operations: &Value| {
            operations.as_array().is_some_and(|list| list.iter().any(|one| one == "verify"))
        };
        if jwk.get("key_ops").is_some_and(|operations| !verifies(operations)) {
            return None;
        }
        // Symmetric keys (`oct`) have no place here: whoever can read a set could sign with them.
        let algorithm = match (text("kty")?, text("crv")) {
            ("EC", Some("P-256")) => Algorithm::Es256,
            ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
            ("RSA", None) => Algorithm::Rs256,
            _ => return None,
        };
        let is_its_own = jwk.get("alg").is_none_or(|name| {
            // RFC 9864 names the curve.
            name == algorithm.name() || algorithm == Algorithm::EdDsa && name == "Ed25519"
        });
        if !is_its_own || !allowed.contains(&algorithm) {
            return None;
        }
        let kid = match jwk.get("kid") {
            None => None,
            Some(Value::String(kid)) if !kid.is_empty() => Some(kid.clone()),
            Some(_) => return None,
        };
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let sized = |name: &str| bytes(name).filter(|bytes| bytes.len() == 32);
        let material = match algorithm {
            // SEC 1 §2.3.3; RFC 7518 §6.2.1.2: both coordinates in full length.
            Algorithm::Es256 => [vec![4], sized("x")?, sized("y")?].concat(),
            Algorithm::EdDsa => sized("x")?,
            Algorithm::Rs256 => {
                let components = RsaPublicKeyComponents { n: bytes("n")?, e: bytes("e")? };
                let der: PublicKeyX509Der<'_> = components.as_der().ok()?;
                der.as_ref().to_vec()
            }
            Algorithm::Hs256 => return None,
        };
        let verifying = VerifyingKey::from_public_der(algorithm, &material).ok()?;
        Some(Self { kid, verifying, digest: Sha256::digest(&material).into() })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::config::Algorithm::{EdDsa, Es256, Rs256};
    use crate::identity::keys::{KeySet, generate};

    const ALL: [Algorithm; 3] = [Es256, EdDsa, Rs256];

    fn jwk(algorithm: Algorithm, kid: &str) -> Value {
        let mut key = generate(algorithm, Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH).unwrap();
        key.kid = kid.to_owned();
        let set = KeySet::from_keys(algorithm, &[key]).unwrap().jwks(Timestamp::UNIX_EPOCH);
        let mut set: Value = serde_json::from_str(&set).unwrap();
        set["keys"][0].take()
    }

    fn parse(keys: &[Value]) -> Result<RemoteKeys, JwkSetError> {
        RemoteKeys::parse(json!({ "keys": keys }).to_string().as_bytes(), &ALL)
    }

    #[test]
    fn each_key_is_pinned_to_its_algorithm() {
        let keys = ALL.map(|algorithm| jwk(algorithm, algorithm.name()));
        let set = parse(&keys).unwrap();
        for algorithm in ALL {
            let key = set.verifying_key(Some(algorithm.name())).unwrap();
            assert_eq!(key.algorithm(), algorithm);
        }
        assert!(set.verifying_key(None).is_none() && set.verifying_key(Some("x")).is_none());
        let turned: Vec<Value> = keys.iter().rev().cloned().collect();
        assert!(set.is_same(&parse(&turned).unwrap()), "order says nothing");
        assert!(!set.is_same(&parse(&keys[1..]).unwrap()));
        let other = ALL.map(|algorithm| jwk(algorithm, algorithm.name()));
        assert!(!set.is_same(&parse(&other).unwrap()), "the same names for other keys");

        let json = json!({ "keys": keys }).to_string();
        let only = RemoteKeys::parse(json.as_bytes(), &[EdDsa]).unwrap();
        assert_eq!(only.ids().collect::<Vec<_>>(), [(Some("EdDSA"), EdDsa)]);
        assert_eq!(only.skipped(), 2);
        assert!(only.verifying_key(None).is_some(), "there is but one");
    }

    #[test]
    fn keys_that_may_not_check_signatures_are_left_out() {
        let change = |algorithm, name: &str, value: Value| {
            let mut key = jwk(algorithm, "bad");
            key[name] = value;
            key
        };
        let small = URL_SAFE_NO_PAD.encode([0xc1; 128]);
        for bad in [
            json!({"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY", "kid": "bad"}),
            json!({"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY", "kid": "bad",
                   "alg": "RS256"}),
            json!({"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY", "kid": "bad",
                   "alg": "HS256", "use": "sig"}),
            change(Rs256, "use", "enc".into()),
            change(Rs256, "use", json!(["sig"])),
            change(Rs256, "key_ops", json!(["encrypt"])),
            change(Rs256, "key_ops", "verify".into()),
            change(Rs256, "alg", "HS256".into()),
            change(Rs256, "alg", "PS256".into()),
            change(Rs256, "alg", "RSA-OAEP".into()),
            change(Rs256, "alg", Value::Null),
            change(Rs256, "kty", "EC".into()),
            change(Rs256, "n", small.into()),
            change(Rs256, "n", "".into()),
            change(Rs256, "e", "AQ".into()),
            change(Rs256, "e", "Ag".into()),
            change(Rs256, "e", Value::Null),
            change(Es256, "alg", "EdDSA".into()),
            change(Es256, "crv", "P-384".into()),
            change(Es256, "x", URL_SAFE_NO_PAD.encode([1; 32]).into()),
            change(Es256, "y", "AAAA".into()),
            change(EdDsa, "x", "AAAA".into()),
            change(EdDsa, "crv", "X25519".into()),
            change(EdDsa, "kid", "".into()),
            change(EdDsa, "kid", 7.into()),
            json!("key"),
            Value::Null,
        ] {
            let alone = parse(std::slice::from_ref(&bad));
            assert_eq!(alone.err(), Some(JwkSetError::NothingUsable), "{bad}");
            let beside = parse(&[jwk(Es256, "good"), bad.clone()]).unwrap();
            assert_eq!((beside.ids().count(), beside.skipped()), (1, 1), "{bad}");
            assert!(beside.verifying_key(Some("bad")).is_none(), "{bad}");
        }
    }

    #[test]
    fn sets_that_leave_something_open_are_refused() {
        let mut nameless = jwk(Es256, "a");
        nameless.as_object_mut().unwrap().remove("kid");
        let one = parse(std::slice::from_ref(&nameless)).unwrap();
        assert!(one.verifying_key(None).is_some() && one.verifying_key(Some("a")).is_none());
        let (a, b) = (jwk(Es256, "a"), jwk(Rs256, "a"));
        assert_eq!(parse(&[a.clone(), b]).err(), Some(JwkSetError::Ambiguous));
        assert_eq!(parse(&[a.clone(), nameless]).err(), Some(JwkSetError::Ambiguous));
        assert_eq!(parse(&vec![a; 33]).err(), Some(JwkSetError::TooMany));
        assert_eq!(parse(&[]).err(), Some(JwkSetError::NothingUsable));
        for junk in ["", "<html>", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[", "null"] {
            let refused = RemoteKeys::parse(junk.as_bytes(), &ALL);
            assert_eq!(refused.err(), Some(JwkSetError::NoSet), "{junk}");
        }
    }
}
