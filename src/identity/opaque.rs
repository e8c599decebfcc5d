//! Tokens that say nothing: 256 random bits, which the database knows by their digest.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::model::TokenDigest;

const TOKEN_LEN: usize = 32;

/// A token that says nothing. Prints nothing.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct OpaqueToken(pub(super) [u8; TOKEN_LEN]);

impl OpaqueToken {
    /// Makes a token from `random` bits, which come from [`random_bytes`](crate::clock::random_bytes).
    pub fn from_random(random: [u8; TOKEN_LEN]) -> Self {
        Self(random)
    }

    /// Reads the text of a token: 43 characters of base64url, in the one spelling there is.
    pub fn parse(text: &str) -> Option<Self> {
        // The decoder refuses padding and stray trailing bits; the length is checked first, so that
        // a long text costs nothing.
        if text.len() != 43 {
            return None;
        }
        let mut token = Self([0; TOKEN_LEN]);
        let written = URL_SAFE_NO_PAD.decode_slice(text, &mut token.0).ok()?;
        (written == TOKEN_LEN).then_some(token)
    }

    /// The text for its holder.
    pub fn expose(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// What the database knows the token by. A plain hash will do: nobody can go through 2^256
    /// tokens.
    pub fn digest(&self) -> TokenDigest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        TokenDigest(bytes)
    }
}

impl fmt::Debug for OpaqueToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpaqueToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_one_spelling() {
        let token = OpaqueToken::from_random([7; 32]);
        let text = token.expose();
        assert_eq!(OpaqueToken::parse(&text).map(|read| read.digest()), Some(token.digest()));
        for bad in ["", &text[1..], &format!("{text}="), &"!".repeat(43), &"/".repeat(43)] {
            assert!(OpaqueToken::parse(bad).is_none(), "{bad}");
        }
        // The last character has two bits that say nothing.
        let stray = format!("{}{}", &text[..42], if text.ends_with('c') { 'd' } else { 'B' });
        assert!(OpaqueToken::parse(&stray).is_none(), "{text} {stray}");
    }
}
