//! Codes of six digits that change every 30 seconds (TOTP, RFC 6238, over HOTP, RFC 4226): what
//! authenticator apps show. SHA-1, six digits and 30 seconds, because many apps ignore that a site
//! asks for anything else. Knows nothing of who shows a code, nor whether it was used before.

use aws_lc_rs::hmac;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use subtle::ConstantTimeEq as _;

use crate::model::FactorSecret;

/// Seconds that a code is shown.
const STEP: i64 = 30;

/// Digits of a code.
const DIGITS: usize = 6;

/// Codes of so many steps before and after the present one are good: clocks differ, and people take
/// time to type. Each more makes guessing easier (RFC 6238 §5.2 advises one).
const SKEW: i64 = 1;

/// The newest of the steps around `now` whose code these digits are.
pub(super) fn newest_step(secret: &FactorSecret, digits: &str, now: Timestamp) -> Option<i64> {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &secret.0);
    let present = now.as_second().div_euclid(STEP);
    // All are compared, in whole, whichever fits.
    (present - SKEW..=present + SKEW)
        .filter(|&step| code(&key, step).as_bytes().ct_eq(digits.as_bytes()).into())
        .fold(None, |_, step| Some(step))
}

/// HOTP of the step (RFC 4226 §5.3).
fn code(key: &hmac::Key, step: i64) -> String {
    let mac = hmac::sign(key, &step.to_be_bytes());
    let mac = mac.as_ref();
    let offset = usize::from(mac.last().copied().unwrap_or_default() & 0xf);
    let word =
        mac[offset..offset + 4].iter().fold(0, |word: u32, &byte| word << 8 | u32::from(byte));
    format!("{:0DIGITS$}", (word & 0x7fff_ffff) % 1_000_000)
}

/// What an authenticator app is told: the address of Google Authenticator's "Key Uri Format".
/// `issuer` is the site, `account` whom it knows there.
pub(super) fn uri(secret: &FactorSecret, issuer: &str, account: &str) -> String {
    let escaped = |text| utf8_percent_encode(text, ESCAPED).to_string();
    let (issuer, account) = (escaped(issuer), escaped(account));
    let secret = base32(&secret.0);
    format!(
        "otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits=6&\
         period=30"
    )
}

/// All but the unreserved characters (RFC 3986 §2.3), and `@`, which stands in every address.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@');

/// Base32 without padding (RFC 4648 §6), of whole groups of five bytes.
pub(super) fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::with_capacity(bytes.len() / 5 * 8);
    for group in bytes.chunks_exact(5) {
        let bits = group.iter().fold(0, |bits: u64, &byte| bits << 8 | u64::from(byte));
        for place in (0..8).rev() {
            let index = usize::try_from(bits >> (place * 5) & 31).unwrap_or_default();
            text.push(char::from(ALPHABET[index]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of the vectors of RFC 6238, appendix B.
    const SECRET: FactorSecret = FactorSecret(*b"12345678901234567890");

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The vectors for SHA-1; the last six of their eight digits.
    #[test]
    fn codes_are_those_of_rfc_6238() {
        for (second, digits) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(newest_step(&SECRET, digits, at(second)), Some(second / 30), "{second}");
        }
    }

    #[test]
    fn one_step_before_and_after_is_good() {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &SECRET.0);
        let present = 1_234_567_890 / 30;
        for (step, good) in [(-2, false), (-1, true), (0, true), (1, true), (2, false)] {
            let found = newest_step(&SECRET, &code(&key, present + step), at(present * 30));
            assert_eq!(found, good.then_some(present + step), "{step}");
        }
        for wrong in ["", "5924", "005925", "0059245", "00592４"] {
            assert_eq!(newest_step(&SECRET, wrong, at(1_234_567_890)), None, "{wrong}");
        }
    }

    /// RFC 4648 §10.
    #[test]
    fn base32_is_that_of_rfc_4648() {
        assert_eq!(base32(b"fooba"), "MZXW6YTB");
        assert_eq!(base32(&SECRET.0), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert_eq!(base32(b""), "");
    }

    #[test]
    fn apps_are_told_in_an_address_of_their_own() {
        assert_eq!(
            uri(&SECRET, "Shop & Co: Ä", "ann+x@example.com"),
            "otpauth://totp/Shop%20%26%20Co%3A%20%C3%84:ann%2Bx@example.com\
             ?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Shop%20%26%20Co%3A%20%C3%84\
             &algorithm=SHA1&digits=6&period=30"
        );
    }
}
