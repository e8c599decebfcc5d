//! Refresh tokens: 256 random bits, known in full only to the client.
//!
//! The database holds two things made from a token: its digest, by which it is found, and, once it
//! was used, its successor sealed under a key that only the token itself yields. So a client that
//! lost an answer can be given the same successor again (contract §5), while whoever reads the
//! database can neither refresh nor open a seal:
//!
//! ```text
//! token ──SHA-256──────────▶ digest            stored
//!   └────HKDF-SHA-256──────▶ key ──AES-256-GCM(successor, bound to digest)──▶ seal   stored
//! seal = nonce (12) ‖ ciphertext (32) ‖ tag (16)
//! ```

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

use super::opaque::OpaqueToken;
use crate::model::TokenDigest;

/// A refresh token. Prints nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken(OpaqueToken);

impl RefreshToken {
    /// [`OpaqueToken::from_random`]
    pub fn from_random(random: [u8; 32]) -> Self {
        Self(OpaqueToken::from_random(random))
    }

    /// [`OpaqueToken::parse`]
    pub fn parse(text: &str) -> Option<Self> {
        OpaqueToken::parse(text).map(Self)
    }

    /// The text for the client.
    pub fn expose(&self) -> String {
        self.0.expose()
    }

    /// What the database knows the token by.
    pub fn digest(&self) -> TokenDigest {
        self.0.digest()
    }

    /// Seals `successor` so that only the holder of this token can open it.
    pub fn seal(&self, successor: &Self) -> Vec<u8> {
        let mut sealed = successor.0.0.to_vec();
        let nonce = self
            .sealing_key()
            .seal_in_place_append_tag(Aad::from(self.digest().0), &mut sealed)
            .expect("48 bytes are within the limits of AES-GCM");
        let mut seal = nonce.as_ref().to_vec();
        seal.append(&mut sealed);
        seal
    }

    /// Opens what [`seal`](Self::seal) made of this token's successor. `None` when it was made with
    /// another token or was changed.
    pub fn unseal(&self, seal: &[u8]) -> Option<Self> {
        let (nonce, sealed) = seal.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        let opened =
            self.sealing_key().open_in_place(nonce, Aad::from(self.digest().0), &mut plain).ok()?;
        Some(Self::from_random((&*opened).try_into().ok()?))
    }

    fn sealing_key(&self) -> RandomizedNonceKey {
        struct KeyLen;
        impl KeyType for KeyLen {
            fn len(&self) -> usize {
                32
            }
        }
        // RFC 5869 §3.2: the label keeps this key apart from anything else made from the token.
        let label: [&[u8]; 1] = [b"portcullis refresh token successor v1"];
        let mut key = Zeroizing::new([0; 32]);
        Salt::new(HKDF_SHA256, &[])
            .extract(&self.0.0)
            .expand(&label, KeyLen)
            .and_then(|okm| okm.fill(&mut *key))
            .and_then(|()| RandomizedNonceKey::new(&AES_256_GCM, &*key))
            .expect("HKDF yields 32 bytes, which is the length of an AES-256 key")
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(fill: u8) -> RefreshToken {
        RefreshToken::from_random([fill; 32])
    }

    #[test]
    fn a_token_has_one_spelling() {
        let text = token(0xab).expose();
        assert_eq!(text.len(), 43);
        assert_eq!(RefreshToken::parse(&text), Some(token(0xab)));
        assert_eq!(format!("{:?}", token(1)), "RefreshToken(..)");

        let last_changed = format!("{}t", &text[..42]);
        assert_ne!(last_changed, text);
        for bad in [
            "",
            &text[..42],
            &format!("{text}="),
            &format!("{text}A"),
            &format!(" {}", &text[1..]),
            &format!("{}+", &text[..42]),
            &format!("{}/", &text[..42]),
            &format!("{}=", &text[..42]),
            &format!("{}\n", &text[..42]),
            &format!("{}ä", &text[..41]),
            // The same 32 bytes with other spare bits.
            &last_changed,
        ] {
            assert_eq!(RefreshToken::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_the_shown_token_opens_its_successors_seal() {
        let seal = token(1).seal(&token(2));
        assert_eq!(seal.len(), 12 + 32 + 16);
        assert_eq!(token(1).unseal(&seal), Some(token(2)));
        assert_ne!(seal, token(1).seal(&token(2)), "each seal has its own nonce");

        assert_eq!(token(3).unseal(&seal), None);
        // The digest is in the same row; it must not open the seal.
        assert_eq!(RefreshToken::from_random(token(1).digest().0).unseal(&seal), None);
        for at in [0, 12, 44, 59] {
            let mut changed = seal.clone();
            changed[at] ^= 1;
            assert_eq!(token(1).unseal(&changed), None, "byte {at}");
        }
        for short in [0, 11, 12, 28, 59] {
            assert_eq!(token(1).unseal(&seal[..short]), None, "{short} bytes");
        }
    }

    #[test]
    fn the_digest_is_sha_256_of_the_bits() {
        let expected = 0x6668_7aad_f862_bd77_6c8f_c18b_8e9f_8e20_u128.to_be_bytes();
        assert_eq!(token(0).digest().0[..16], expected);
    }
}
