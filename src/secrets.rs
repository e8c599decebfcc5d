//! Secrets at rest: what the database must keep but nobody may read there (private keys, secrets of
//! second factors) is encrypted under a key that the database never sees (`[secrets]`).
//!
//! A sealed value names its key, so that a new key can be put beside an old one, and is bound to its
//! place, so that whoever writes to the database cannot put one row's value into another:
//!
//! ```text
//! sealed = "PCS1" ‖ key id (4) ‖ nonce (12) ‖ AES-256-GCM(plain, bound to table.column:row) ‖ tag (16)
//! secrets.key ──HKDF-SHA-256──┬─▶ encryption key
//!                             └─▶ key id
//! ```
//!
//! Nonces are random: 2^32 values can be sealed under one key before two of them are likely enough
//! to meet (NIST SP 800-38D §8.3), and a database has thousands.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, MAX_TAG_LEN, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use crate::config;

/// How sealed values begin. What the database keeps in plain begins otherwise (DER: 0x30) or is
/// shorter than any sealed value (secrets of factors: 20 bytes).
const MAGIC: &[u8; 4] = b"PCS1";

const HEAD: usize = MAGIC.len() + KEY_ID_LEN;
const KEY_ID_LEN: usize = 4;
const KEY_LEN: usize = 32;

/// Everything that opens and seals.
#[derive(Debug, Default)]
pub struct Keyring {
    /// Seals; `None` = nothing is sealed.
    current: Option<SealingKey>,
    /// Only open.
    previous: Vec<SealingKey>,
    /// Whether plain values are refused.
    requires_seal: bool,
}

/// Where a value is kept.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The table and its column.
    pub column: &'static str,
    /// The row's key.
    pub row: &'a str,
}

/// What a stored value is protected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// Nothing.
    Plain,
    /// The key of this id.
    Sealed(KeyId),
}

/// Why a stored value cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The key is not here.
    #[error(
        "it is sealed under the key {0}, which is neither secrets.key nor among secrets.previous"
    )]
    UnknownKey(KeyId),
    /// Another value, another row's, or a changed one.
    #[error("it was changed since it was sealed, or belongs to another row")]
    Damaged,
    /// Plain, where that is refused.
    #[error("it is not sealed, which secrets.require asks for")]
    NotSealed,
}

impl Keyring {
    /// The keys of `[secrets]`.
    ///
    /// # Errors
    /// [`BadKey`], which the checks of the configuration find too.
    pub fn new(secrets: &config::Secrets) -> Result<Self, BadKey> {
        let parse = |key: &secrecy::SecretString| SealingKey::parse(key.expose_secret());
        Ok(Self {
            current: secrets.key.as_ref().map(parse).transpose()?,
            previous: secrets.previous.iter().map(parse).collect::<Result<_, _>>()?,
            requires_seal: secrets.require,
        })
    }

    /// The id of the key that seals; `None` = nothing is sealed.
    pub fn current(&self) -> Option<KeyId> {
        self.current.as_ref().map(|key| key.id)
    }

    /// The ids of the keys that only open.
    pub fn previous(&self) -> impl Iterator<Item = KeyId> {
        self.previous.iter().map(|key| key.id)
    }

    /// What to store for `plain`.
    pub fn seal(&self, place: Place<'_>, plain: &[u8]) -> Zeroizing<Vec<u8>> {
        match &self.current {
            None => Zeroizing::new(plain.to_vec()),
            Some(key) => key.seal(place, plain),
        }
    }

    /// What was stored in this place.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, place: Place<'_>, stored: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let id = match protection(stored) {
            Protection::Plain if self.requires_seal => return Err(OpenError::NotSealed),
            Protection::Plain => return Ok(Zeroizing::new(stored.to_vec())),
            Protection::Sealed(id) => id,
        };
        let key = self.current.iter().chain(&self.previous).find(|key| key.id == id);
        key.ok_or(OpenError::UnknownKey(id))?.open(place, stored)
    }

    /// The stored value sealed under the current key, a plain one too; `None` = it is already, or
    /// there is no such key.
    ///
    /// # Errors
    /// [`OpenError`], but never [`OpenError::NotSealed`].
    pub fn reseal(
        &self,
        place: Place<'_>,
        stored: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, OpenError> {
        let Some(current) = &self.current else { return Ok(None) };
        match protection(stored) {
            Protection::Plain => Ok(Some(current.seal(place, stored))),
            Protection::Sealed(id) if id == current.id => Ok(None),
            Protection::Sealed(_) => Ok(Some(current.seal(place, &self.open(place, stored)?))),
        }
    }
}

/// What protects a stored value, as it says itself.
pub fn protection(stored: &[u8]) -> Protection {
    match stored.strip_prefix(MAGIC).and_then(<[u8]>::split_first_chunk) {
        Some((id, rest)) if rest.len() >= NONCE_LEN + MAX_TAG_LEN => Protection::Sealed(KeyId(*id)),
        _ => Protection::Plain,
    }
}

/// Names a key without giving it away. Prints as eight hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; KEY_ID_LEN]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not 32 bytes in Base64; make a key with `portcullis secrets generate`")]
pub struct BadKey;

/// One key of `[secrets]`. Prints its id only.
pub struct SealingKey {
    id: KeyId,
    key: RandomizedNonceKey,
}

impl SealingKey {
    /// A key as the configuration has it: 32 bytes in Base64, either alphabet, padded or not.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        const EITHER: GeneralPurposeConfig =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let engine = if text.contains(['-', '_']) {
            GeneralPurpose::new(&base64::alphabet::URL_SAFE, EITHER)
        } else {
            GeneralPurpose::new(&base64::alphabet::STANDARD, EITHER)
        };
        let bytes = Zeroizing::new(engine.decode(text).map_err(|_| BadKey)?);
        let bytes: &[u8; KEY_LEN] = (**bytes).try_into().map_err(|_| BadKey)?;
        Ok(Self::from_bytes(bytes))
    }

    fn from_bytes(secret: &[u8; KEY_LEN]) -> Self {
        // RFC 5869 §3.2: labels keep what is made of one secret apart.
        let mut key = Zeroizing::new([0; KEY_LEN]);
        derive(secret, b"portcullis sealing key v1", &mut *key);
        let mut id = [0; KEY_ID_LEN];
        derive(secret, b"portcullis sealing key id v1", &mut id);
        let key = RandomizedNonceKey::new(&AES_256_GCM, &*key)
            .expect("32 bytes are the length of an AES-256 key");
        Self { id: KeyId(id), key }
    }

    /// Names it.
    pub fn id(&self) -> KeyId {
        self.id
    }

    fn seal(&self, place: Place<'_>, plain: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut text = Zeroizing::new(Vec::with_capacity(plain.len() + MAX_TAG_LEN));
        text.extend_from_slice(plain);
        let nonce = (self.key)
            .seal_in_place_append_tag(Aad::from(place.to_string()), &mut *text)
            .expect("keys and secrets are within the limits of AES-GCM");
        let parts: [&[u8]; 4] = [MAGIC, &self.id.0, nonce.as_ref(), &text];
        Zeroizing::new(parts.concat())
    }

    fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (nonce, text) = sealed[HEAD..].split_at(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Damaged)?;
        let mut text = Zeroizing::new(text.to_vec());
        let plain = (self.key)
            .open_in_place(nonce, Aad::from(place.to_string()), &mut text)
            .map_err(|_| OpenError::Damaged)?
            .len();
        text.truncate(plain);
        Ok(text)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)
    }
}

/// `table.column:row`, which no other place spells.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.column, self.row)
    }
}

/// A new key, as the configuration takes it.
pub fn generate() -> Zeroizing<String> {
    let bytes = Zeroizing::new(crate::clock::random_bytes::<KEY_LEN>());
    Zeroizing::new(STANDARD.encode(*bytes))
}

fn derive(secret: &[u8; KEY_LEN], label: &[u8], out: &mut [u8]) {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let length = Length(out.len());
    Salt::new(HKDF_SHA256, &[])
        .extract(secret)
        .expand(&[label], length)
        .and_then(|okm| okm.fill(out))
        .expect("HKDF yields up to 8160 bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Place<'static> = Place { column: "signing_keys.private_key", row: "one" };

    fn key(fill: u8) -> String {
        STANDARD.encode([fill; 32])
    }

    fn ring(key: Option<u8>, previous: &[u8], require: bool) -> Keyring {
        let secret = |fill: u8| self::key(fill).into();
        let previous = previous.iter().map(|&fill| secret(fill)).collect();
        Keyring::new(&config::Secrets { key: key.map(secret), previous, require }).unwrap()
    }

    #[test]
    fn a_key_is_32_bytes_in_base64() {
        let id = SealingKey::parse(&key(0xfb)).unwrap().id();
        for same in ["-_v7", "+/v7"] {
            let text = same.repeat(10) + &same[..2] + "s";
            assert!(SealingKey::parse(&text).is_ok(), "{text}");
            assert!(SealingKey::parse(&(text + "=")).is_ok());
        }
        assert_eq!(SealingKey::parse(key(0xfb).trim_end_matches('=')).unwrap().id(), id);
        assert_ne!(SealingKey::parse(&key(0xfa)).unwrap().id(), id);
        for bad in [
            String::new(),
            STANDARD.encode([1; 31]),
            STANDARD.encode([1; 33]),
            "0123456789abcdef0123456789abcdef".to_owned(),
            format!("{} ", key(1)),
            "ä".repeat(43),
        ] {
            assert_eq!(SealingKey::parse(&bad).err(), Some(BadKey), "{bad:?}");
        }
        let (one, two) = (generate(), generate());
        assert_ne!(one, two);
        assert!(SealingKey::parse(&one).is_ok());
    }

    #[test]
    fn a_sealed_value_opens_in_its_place_only() {
        let ring = ring(Some(1), &[], false);
        let sealed = ring.seal(ROW, b"0 plain");
        assert_eq!(protection(&sealed), Protection::Sealed(ring.current().unwrap()));
        assert_eq!(sealed.len(), 4 + 4 + 12 + 7 + 16);
        assert!(memchr::memmem::find(&sealed, b"plain").is_none());
        assert_eq!(**ring.open(ROW, &sealed).unwrap(), *b"0 plain");
        assert_ne!(sealed, ring.seal(ROW, b"0 plain"), "each has its own nonce");

        for elsewhere in [Place { row: "two", ..ROW }, Place { column: "factors.secret", ..ROW }] {
            assert_eq!(ring.open(elsewhere, &sealed), Err(OpenError::Damaged));
        }
        for at in HEAD..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert_eq!(ring.open(ROW, &changed), Err(OpenError::Damaged), "byte {at}");
        }
        assert_eq!(ring.open(ROW, &sealed[..sealed.len() - 1]), Err(OpenError::Damaged));
    }

    #[test]
    fn keys_follow_each_other() {
        let (old, both, new) =
            (ring(Some(1), &[], false), ring(Some(2), &[1], false), ring(Some(2), &[], false));
        let sealed = old.seal(ROW, b"secret");
        let unknown = Err(OpenError::UnknownKey(old.current().unwrap()));
        assert_eq!(**both.open(ROW, &sealed).unwrap(), *b"secret");
        assert_eq!(new.open(ROW, &sealed), unknown);
        assert_eq!(ring(None, &[], false).open(ROW, &sealed), unknown);

        let resealed = both.reseal(ROW, &sealed).unwrap().unwrap();
        assert_eq!(**new.open(ROW, &resealed).unwrap(), *b"secret");
        assert_eq!(both.reseal(ROW, &resealed), Ok(None));
        assert_eq!(new.reseal(ROW, &sealed).map(|_| ()), unknown.map(|_| ()));
    }

    #[test]
    fn plain_values_are_taken_until_seals_are_required() {
        let plain = b"0\x82 a private key".as_slice();
        let none = ring(None, &[], false);
        assert_eq!(**none.seal(ROW, plain), *plain);
        assert_eq!(none.reseal(ROW, plain), Ok(None));
        let (lenient, strict) = (ring(Some(1), &[], false), ring(Some(1), &[], true));
        for ring in [&none, &lenient] {
            assert_eq!(**ring.open(ROW, plain).unwrap(), *plain);
        }
        assert_eq!(strict.open(ROW, plain), Err(OpenError::NotSealed));
        let sealed = strict.reseal(ROW, plain).unwrap().unwrap();
        assert_eq!(**strict.open(ROW, &sealed).unwrap(), *plain);
        // As short as the secret of a factor, so no seal whatever it begins with.
        assert_eq!(protection(b"PCS1 and 15 bytes .."), Protection::Plain);
    }

    #[test]
    fn nothing_secret_is_printed() {
        let ring = ring(Some(1), &[2], true);
        let printed = format!("{ring:?}");
        assert!(!printed.contains(&key(1)) && printed.len() < 100, "{printed}");
        assert_eq!(ring.current().unwrap().to_string().len(), 8);
    }
}
