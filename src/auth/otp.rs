//! What is mailed: the token of a link and the digits of a code.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::model::TokenDigest;

/// The token of a link. Prints nothing.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct LinkToken([u8; 32]);

impl LinkToken {
    /// Makes a token from `random` bits.
    pub fn from_random(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// Reads the text of a token: 43 characters of base64url.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 43 {
            return None;
        }
        let mut token = Self([0; 32]);
        let written = URL_SAFE_NO_PAD.decode_slice(text, &mut token.0).ok()?;
        (written == 32).then_some(token)
    }

    /// The text in the link.
    pub fn expose(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// What the database knows it by.
    pub fn digest(&self) -> TokenDigest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        TokenDigest(bytes)
    }
}
