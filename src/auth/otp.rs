//! What is mailed: the token of a link, and the digits of a code.
//!
//! The token has 256 random bits, so that its plain digest in the database tells nothing. The code
//! has six digits for people to type; it is worth something only together with the address that it
//! was sent to, for minutes, and for five tries.

use aws_lc_rs::hmac;

use crate::model::{Email, Purpose};
use crate::store::CodeMac;

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
