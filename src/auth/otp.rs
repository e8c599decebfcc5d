//! What is mailed: the token of a link, and the digits of a code.
//!
//! The token has 256 random bits, so that its plain digest in the database tells nothing. The code
//! has six digits for people to type; it is worth something only together with the address that it
//! was sent to, for minutes, and for five tries.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::model::{Email, Purpose, TokenDigest};
use crate::store::CodeMac;

const TOKEN_LEN: usize = 32;

/// The token of a link. Prints nothing.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct LinkToken([u8; TOKEN_LEN]);

impl LinkToken {
    /// Makes a token from `random` bits, which come from [`random_bytes`](crate::clock::random_bytes).
    pub fn from_random(random: [u8; TOKEN_LEN]) -> Self {
        Self(random)
    }

    /// Reads the text of a token: 43 characters of base64url, in the one spelling there is.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 43 {
            return None;
        }
        let mut token = Self([0; TOKEN_LEN]);
        let written = URL_SAFE_NO_PAD.decode_slice(text, &mut token.0).ok()?;
        (written == TOKEN_LEN).then_some(token)
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

/// Six digits made of `random` bits. Of 2^64 numbers some digits get one in 18 billion more than
/// others.
pub fn digits(random: [u8; 8]) -> String {
    format!("{:06}", u64::from_ne_bytes(random) % 1_000_000)
}

/// What the database keeps of a code: a keyed hash that holds for one purpose and one address.
///
/// The key is no secret. Whoever reads the database can find a code by trying all of them, but
/// finds the keys that sign tokens there as well.
pub fn code_mac(purpose: Purpose, email: &Email, digits: &str) -> CodeMac {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"portcullis one-time code v1");
    let mut context = hmac::Context::with_key(&key);
    // Neither a purpose nor an address has a zero byte.
    for part in [purpose.as_str(), "\0", email.key(), "\0", digits] {
        context.update(part.as_bytes());
    }
    let mut mac = CodeMac::default();
    mac.copy_from_slice(context.sign().as_ref());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_one_spelling() {
        let token = LinkToken::from_random([7; 32]);
        let text = token.expose();
        assert_eq!(LinkToken::parse(&text).map(|read| read.digest()), Some(token.digest()));
        for bad in ["", &text[1..], &format!("{text}="), &"!".repeat(43), &"/".repeat(43)] {
            assert!(LinkToken::parse(bad).is_none(), "{bad}");
        }
        // The last character has two bits that say nothing.
        let stray = format!("{}{}", &text[..42], if text.ends_with('c') { 'd' } else { 'B' });
        assert!(LinkToken::parse(&stray).is_none(), "{text} {stray}");
    }

    #[test]
    fn codes_have_six_digits() {
        assert_eq!(digits([0; 8]), "000000");
        assert_eq!(digits(1_234_567_u64.to_ne_bytes()), "234567");
    }

    #[test]
    fn a_code_is_of_one_purpose_and_address() {
        let (ann, bob): (Email, Email) =
            ("Ann@example.com".parse().unwrap(), "bob@example.com".parse().unwrap());
        let mac = code_mac(Purpose::Recovery, &ann, "123456");
        assert_eq!(mac, code_mac(Purpose::Recovery, &"ann@EXAMPLE.com".parse().unwrap(), "123456"));
        assert_ne!(mac, code_mac(Purpose::MagicLink, &ann, "123456"));
        assert_ne!(mac, code_mac(Purpose::Recovery, &bob, "123456"));
        assert_ne!(mac, code_mac(Purpose::Recovery, &ann, "123457"));
    }
}
