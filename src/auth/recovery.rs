//! Codes that stand in for a second factor that is lost: each is good once.
//!
//! ```text
//! abcd-efgh-2345-6723     80 random bits in base32, in groups for people
//! ```

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::{Zeroize as _, Zeroizing};

use super::totp::base32;
use crate::model::TokenDigest;

/// How many there are: enough for years, few enough to be written down.
pub(super) const COUNT: usize = 10;

/// Characters of a code, without what groups them.
const LENGTH: usize = 16;

/// The text of a code made of `random` bits.
pub(super) fn text(random: [u8; 10]) -> Zeroizing<String> {
    let bare = Zeroizing::new(base32(&random).to_ascii_lowercase());
    let groups: Vec<_> = (0..LENGTH).step_by(4).map(|at| &bare[at..at + 4]).collect();
    Zeroizing::new(groups.join("-"))
}

/// What the database knows a code by, however people write it; `None` when it is none. A plain hash
/// will do: nobody can go through 2^80 codes.
pub(super) fn digest_of(written: &str) -> Option<TokenDigest> {
    if written.len() > 4 * LENGTH {
        return None;
    }
    let is_kept = |c: &char| !matches!(c, '-' | ' ');
    let mut bare: String = written.chars().filter(is_kept).collect();
    bare.make_ascii_uppercase();
    let is_code = bare.len() == LENGTH
        && bare.bytes().all(|b| b.is_ascii_uppercase() || matches!(b, b'2'..=b'7'));
    let digest = is_code.then(|| {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, bare.as_bytes()).as_ref());
        TokenDigest(bytes)
    });
    bare.zeroize();
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_known_however_it_is_written() {
        let code = text([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x11, 0x22]);
        assert_eq!(&*code, "ci2f-m6e2-xtpp-aejc");
        let known = digest_of(&code);
        assert!(known.is_some());
        for same in ["CI2F-M6E2-XTPP-AEJC", "ci2fm6e2xtppaejc", " ci2f m6e2 xtpp aejc "] {
            assert_eq!(digest_of(same), known, "{same}");
        }
        for none in
            ["", "123456", "ci2f-m6e2-xtpp-aej", "ci2f-m6e2-xtpp-aejc2", "ci2f-m6e2-xtpp-aej1"]
        {
            assert_eq!(digest_of(none), None, "{none}");
        }
        assert_eq!(digest_of(&"-".repeat(100)), None);
        assert_ne!(digest_of("ci2f-m6e2-xtpp-aejd"), known);
    }
}
