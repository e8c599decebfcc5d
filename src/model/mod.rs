//! The nouns: users, sessions, tokens at rest, events. Plain values that every room may hold;
//! they know neither HTTP nor SQL.

mod account;
mod api_key;
mod event;
mod factor;
mod letter;
mod link;
mod network;
mod session;
mod template;

use jiff::Timestamp;
use serde_json::{Map, Value};
use uuid::Uuid;

pub use account::{
    Account, Email, InvalidEmail, InvalidUserId, MAX_ROLES, MAX_ROLES_BYTES, PasswordHash, User,
    UserId, are_few_roles, is_role_name,
};
pub use api_key::{ApiKey, MAX_SCOPES, is_scope_name};
pub use event::{Event, EventKind, Outcome, StoredEvent};
pub use factor::{Aal, Factor, FactorKind, FactorSecret};
pub use letter::{Letter, LetterKind, LetterOrigin};
pub use link::{Challenge, ChallengeMethod, InvalidChallenge, Purpose, is_pkce_text};
pub use network::network_of;
pub use session::{
    AuthMethod, EndReason, EndedSession, ListedKey, Proof, Session, SessionId, SigningKey,
    TokenDigest,
};
pub use template::Template;

/// A JSON object.
pub type JsonObject = Map<String, Value>;

/// A `UUIDv7` at `now`: rows that are written in order lie in order.
pub fn uuid_v7(now: Timestamp) -> Uuid {
    let ms = u64::try_from(now.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(ms, &crate::clock::random_bytes()).into_uuid()
}
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every variant.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word in the database and in answers.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// Reads the word in the database.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                crate::model::from_text(from, stringify!($name), Self::from_word)
            }
        }
    };
}
pub(crate) use words;

/// Reads a text that has a meaning; `what` names what it should be. The text itself is not repeated
/// in the error, as it may be a secret.
pub(crate) fn from_text<'de, D: serde::Deserializer<'de>, T>(
    from: D,
    what: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    use serde::de::{Deserialize as _, Error as _};

    let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
    parse(&text).ok_or_else(|| D::Error::custom(format_args!("no known {what}")))
}

/// Makes text from a client fit to be stored: clean UTF-8 without control characters (NUL breaks
/// PostgreSQL text, escape sequences break terminals), at most `max` bytes, cut between characters.
pub fn clean_text(raw: &[u8], max: usize) -> String {
    let mut clean = String::with_capacity(raw.len().min(max));
    for c in String::from_utf8_lossy(raw).chars() {
        let c = if is_unprintable(c) { char::REPLACEMENT_CHARACTER } else { c };
        if clean.len() + c.len_utf8() > max {
            break;
        }
        clean.push(c);
    }
    clean
}

/// Control characters, and format characters that change how the text around them is shown (a
/// right-to-left override makes one address look like another).
pub fn is_unprintable(c: char) -> bool {
    let format = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c.is_control() || format
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_text_has_no_control_characters_and_no_torn_letters() {
        assert_eq!(clean_text(b"curl/8\x00\x1b[31m", 100), "curl/8\u{fffd}\u{fffd}[31m");
        assert_eq!(clean_text("äöü".as_bytes(), 5), "äö");
        assert_eq!(clean_text(b"\xff", 10), "\u{fffd}");
        assert_eq!(clean_text("a\u{202e}b".as_bytes(), 10), "a\u{fffd}b");
    }

    #[test]
    fn words_are_read_back() {
        for &kind in EventKind::ALL {
            assert_eq!(EventKind::from_word(kind.as_str()), Some(kind));
        }
        for reason in EndReason::ALL {
            assert_eq!(EndReason::from_word(reason.as_str()), Some(reason));
        }
        for &purpose in Purpose::ALL {
            assert_eq!(Purpose::from_word(purpose.as_str()), Some(purpose));
            let json = serde_json::to_string(&purpose).unwrap();
            assert_eq!(json, format!("\"{}\"", purpose.as_str()));
            assert_eq!(serde_json::from_str::<Purpose>(&json).unwrap(), purpose);
        }
        assert!(serde_json::from_str::<Purpose>("\"boredom\"").is_err());
    }
}
