//! What is mailed once and used once: links, codes, and the challenges that tie them to a client.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::words;

words! {
    /// What a link or code is good for. A user has at most one of each.
    Purpose {
        /// The current address agrees to a change of address.
        EmailChangeCurrent = "email_change_current",
        /// The new address agrees to a change of address.
        EmailChangeNew = "email_change_new",
        /// Takes an account that an administrator made for the address.
        Invite = "invite",
        /// Logs in.
        MagicLink = "magiclink",
        /// What a used link left for the client that asked for it (RFC 7636).
        Pkce = "pkce",
        /// Shows again who has the session.
        Reauthentication = "reauthentication",
        /// Logs in somebody who forgot the password.
        Recovery = "recovery",
        /// Proves the address of a sign-up.
        Signup = "signup",
    }
}

impl Purpose {
    /// Whether using it shows that its user reads mail to the address of the account, or of the
    /// account to be.
    pub fn proves_address(self) -> bool {
        matches!(self, Self::Invite | Self::MagicLink | Self::Recovery | Self::Signup)
    }
}

words! {
    /// `code_challenge_method` of RFC 7636 §4.3, spelt as Supabase Auth stores it.
    ChallengeMethod {
        /// The challenge is the verifier.
        Plain = "plain",
        /// The challenge is BASE64URL(SHA-256(verifier)).
        S256 = "s256",
    }
}

/// What a client showed when it asked for a link: only who knows the verifier gets its session
/// (RFC 7636). 43 to 128 unreserved characters.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ChallengeText", into = "ChallengeText")]
pub struct Challenge {
    method: ChallengeMethod,
    text: String,
}

impl Challenge {
    /// A challenge as a client shows it.
    ///
    /// # Errors
    /// [`InvalidChallenge`].
    pub fn new(method: ChallengeMethod, text: &str) -> Result<Self, InvalidChallenge> {
        if is_pkce_text(text) {
            Ok(Self { method, text: text.to_owned() })
        } else {
            Err(InvalidChallenge)
        }
    }

    /// How it was made of the verifier.
    pub fn method(&self) -> ChallengeMethod {
        self.method
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A plain challenge is the verifier itself.
        f.debug_struct("Challenge").field("method", &self.method).finish_non_exhaustive()
    }
}

/// Whether `text` may be a challenge or a verifier: `43*128unreserved` (RFC 7636 §4.1, §4.2).
pub fn is_pkce_text(text: &str) -> bool {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    (43..=128).contains(&text.len()) && text.bytes().all(unreserved)
}

/// A text that is no code challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a code challenge is 43 to 128 of the characters A-Z a-z 0-9 - . _ ~")]
pub struct InvalidChallenge;

/// A challenge as a letter keeps it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChallengeText {
    method: ChallengeMethod,
    text: String,
}

impl TryFrom<ChallengeText> for Challenge {
    type Error = InvalidChallenge;

    fn try_from(raw: ChallengeText) -> Result<Self, InvalidChallenge> {
        Self::new(raw.method, &raw.text)
    }
}

impl From<Challenge> for ChallengeText {
    fn from(challenge: Challenge) -> Self {
        Self { method: challenge.method, text: challenge.text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_of_unreserved_characters_and_long_enough() {
        let s256 = |text: &str| Challenge::new(ChallengeMethod::S256, text);
        for fine in ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", &"a.~_-0".repeat(21)] {
            assert!(s256(fine).is_ok(), "{fine}");
        }
        let (short, long) = ("a".repeat(42), "a".repeat(129));
        let odd = format!("{}+", "a".repeat(43));
        let foreign = "ä".repeat(43);
        for bad in ["", &short, &long, &odd, &foreign] {
            assert_eq!(s256(bad), Err(InvalidChallenge), "{bad}");
        }
    }

    #[test]
    fn a_challenge_is_kept_and_read_again() {
        let text = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        for &method in ChallengeMethod::ALL {
            let challenge = Challenge::new(method, text).unwrap();
            let kept = serde_json::to_string(&challenge).unwrap();
            assert_eq!(serde_json::from_str::<Challenge>(&kept).unwrap(), challenge);
            assert!(!format!("{challenge:?}").contains(text), "it may be a secret");
        }
        let short = r#"{"method": "s256", "text": "short"}"#;
        assert!(serde_json::from_str::<Challenge>(short).is_err());
    }
}
