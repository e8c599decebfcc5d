//! The nouns: users, sessions, tokens at rest, events. Plain values that every room may hold;
//! they know neither HTTP nor SQL.

mod template;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};
use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;

pub use self::template::Template;
use crate::config::Algorithm;

/// A JSON object.
pub type JsonObject = Map<String, Value>;

/// Who a token speaks of: `[A-Za-z0-9._-]{1,128}`, by default a `UUIDv7` of ours. Compared byte for
/// byte; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// A new id that sorts by time (RFC 9562 §5.7).
    pub fn generate(now: Timestamp) -> Self {
        Self(uuid_v7(now).to_string().into())
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = InvalidUserId;

    fn from_str(text: &str) -> Result<Self, InvalidUserId> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        // `.` and `..` would be dot segments in a path.
        let dots = text.bytes().all(|b| b == b'.');
        if text.is_empty() || text.len() > 128 || dots || !text.bytes().all(fine) {
            return Err(InvalidUserId);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user id is 1 to 128 of the characters A-Z a-z 0-9 . _ - and not only dots")]
pub struct InvalidUserId;

/// A session's id; `UUIDv4`, as it is near a credential.
pub type SessionId = Uuid;

/// A `UUIDv7` at `now`: rows that are written in order lie in order.
pub fn uuid_v7(now: Timestamp) -> Uuid {
    let ms = u64::try_from(now.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(ms, &crate::clock::random_bytes()).into_uuid()
}

/// An e-mail address: as written, and the key by which it is compared.
///
/// The key is the NFKC lower-case form of the whole address, computed here and nowhere else, so
/// that both databases agree on which addresses are the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Email {
    address: String,
    key: String,
}

impl Email {
    /// The address as its owner wrote it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The form by which addresses are compared.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl FromStr for Email {
    type Err = InvalidEmail;

    fn from_str(text: &str) -> Result<Self, InvalidEmail> {
        let options = email_address::Options::default()
            .without_display_text()
            .without_domain_literal()
            .with_required_tld();
        // RFC 5321 §4.5.3.1.3: a path has at most 256 octets with its brackets.
        if text.len() > 254
            || text.chars().any(char::is_control)
            || email_address::EmailAddress::parse_with_options(text, options).is_err()
        {
            return Err(InvalidEmail);
        }
        let folded: String = text.nfkc().collect::<String>().to_lowercase().nfkc().collect();
        Ok(Self { address: text.to_owned(), key: folded })
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(..)")
    }
}

/// A text that is no e-mail address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an e-mail address")]
pub struct InvalidEmail;

/// One account, without its password hash.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// Fixed for life.
    pub id: UserId,
    /// The address as written.
    pub email: String,
    /// When the address was proved to be the user's; `None` = not yet.
    pub email_confirmed_at: Option<Timestamp>,
    /// Sorted, without repeats; each `[a-z0-9_-]{1,64}`. Written by administrators only.
    pub roles: Vec<String>,
    /// What administrators noted; without `roles`, which are merged in where it is shown.
    pub app_metadata: JsonObject,
    /// What the user noted.
    pub user_metadata: JsonObject,
    /// The last login.
    pub last_sign_in_at: Option<Timestamp>,
    /// May not log in before this time.
    pub disabled_until: Option<Timestamp>,
    /// When the account was made.
    pub created_at: Timestamp,
    /// When any field changed last.
    pub updated_at: Timestamp,
}

impl User {
    /// Whether logins are refused at `now`.
    pub fn is_disabled(&self, now: Timestamp) -> bool {
        self.disabled_until.is_some_and(|until| until > now)
    }

    /// `app_metadata` as clients and tokens see it: provider and roles merged in.
    pub fn public_app_metadata(&self) -> JsonObject {
        let mut shown = self.app_metadata.clone();
        shown.insert("provider".to_owned(), "email".into());
        shown.insert("providers".to_owned(), vec!["email"].into());
        if !self.roles.is_empty() {
            shown.insert("roles".to_owned(), self.roles.clone().into());
        }
        shown
    }
}

/// A user with what is needed to check a password.
#[derive(Clone)]
pub struct Account {
    /// The account.
    pub user: User,
    /// PHC string or a foreign format; `None` = no password login.
    pub password_hash: Option<PasswordHash>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("user", &self.user.id).finish_non_exhaustive()
    }
}

/// A stored password hash. Prints nothing.
#[derive(Clone, PartialEq, Eq, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// A login that lasts until it is ended, goes unused, or reaches its limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Named by every access token of the session.
    pub id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// When the password was checked.
    pub created_at: Timestamp,
    /// Last refresh or use, to five minutes.
    pub last_seen_at: Timestamp,
    /// No refresh after this time.
    pub expires_at: Timestamp,
    /// The `exp` of the last access token issued in it: how long an end must be remembered.
    pub access_expires_at: Timestamp,
    /// Where the login came from.
    pub address: Option<IpAddr>,
    /// What the login called itself.
    pub user_agent: Option<String>,
    /// When it ended before its time, and why.
    pub ended: Option<(Timestamp, EndReason)>,
}

/// Why a session ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its user or an administrator disabled the account.
    Disabled,
    /// The account is gone.
    Deleted,
    /// Logout.
    Logout,
    /// Another session changed the password.
    PasswordChanged,
    /// A used refresh token was shown again.
    RefreshReuse,
    /// An administrator ended it.
    Revoked,
}

impl EndReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Disabled,
        Self::Deleted,
        Self::Logout,
        Self::PasswordChanged,
        Self::RefreshReuse,
        Self::Revoked,
    ];

    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Deleted => "deleted",
            Self::Logout => "logout",
            Self::PasswordChanged => "password_changed",
            Self::RefreshReuse => "refresh_reuse",
            Self::Revoked => "revoked",
        }
    }

    /// Reads the word in the database.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// SHA-256 of a refresh token: all that the database knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenDigest(pub [u8; 32]);

/// A session that was ended before its tokens were: its access tokens are refused until `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSession {
    /// The session.
    pub id: SessionId,
    /// When the last of its access tokens has expired by itself.
    pub until: Timestamp,
}

/// A key pair that signs or signed access tokens, as the database keeps it.
#[derive(Clone)]
pub struct SigningKey {
    /// Key id: RFC 7638 thumbprint of the public key.
    pub kid: String,
    /// What the key is for, and nothing else.
    pub algorithm: Algorithm,
    /// PKCS#8 DER.
    pub private_key: zeroize::Zeroizing<Vec<u8>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The newest key whose time has come signs.
    pub active_from: Timestamp,
    /// Not accepted from this time on; `None` = no end in sight.
    pub retire_at: Option<Timestamp>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .field("active_from", &self.active_from)
            .field("retire_at", &self.retire_at)
            .finish_non_exhaustive()
    }
}

/// Something that happened to an account, or was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `UUIDv7`.
    pub id: Uuid,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// How it went.
    pub outcome: Outcome,
    /// Why, as a stable `snake_case` word.
    pub reason: Option<String>,
    /// Who did it, when it is not the user: `cli`, or another user's id.
    pub actor: Option<String>,
    /// Whose account, when known.
    pub user_id: Option<UserId>,
    /// The address that was tried, cleaned (see [`clean_text`]).
    pub email: Option<String>,
    /// Which session.
    pub session_id: Option<SessionId>,
    /// From where.
    pub address: Option<IpAddr>,
    /// What the client called itself, cleaned.
    pub user_agent: Option<String>,
    /// The request's `X-Request-Id`, cleaned.
    pub request_id: Option<String>,
}

/// An event with its place in its writer's gapless row.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// The process that wrote it.
    pub writer: Uuid,
    /// 1, 2, 3, … for each writer: a gap is a lost event.
    pub number: i64,
    /// The event.
    pub event: Event,
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
    };
}

words! {
    /// Kinds of events.
    EventKind {
        /// A route refused a role, a bad token, or everybody.
        AccessDenied = "access_denied",
        /// A login.
        Login = "login",
        /// A refused login.
        LoginFailed = "login_failed",
        /// A session was ended by its user.
        Logout = "logout",
        /// A role let somebody act on another user's path.
        OwnerOverride = "owner_override",
        /// A path named somebody else.
        OwnerMismatch = "owner_mismatch",
        /// The password was changed.
        PasswordChanged = "password_changed",
        /// A password change was refused.
        PasswordChangeFailed = "password_change_failed",
        /// A limit was reached.
        RateLimited = "rate_limited",
        /// A used refresh token came back.
        RefreshReuse = "refresh_reuse",
        /// An administrator set roles.
        RolesChanged = "roles_changed",
        /// A session was ended by an administrator.
        SessionRevoked = "session_revoked",
        /// An account was made.
        Signup = "signup",
        /// A refused sign-up.
        SignupFailed = "signup_failed",
        /// A signing key was made, imported or retired.
        SigningKeyChanged = "signing_key_changed",
        /// A session was refreshed.
        TokenRefreshed = "token_refreshed",
        /// An administrator marked an address as confirmed.
        UserConfirmed = "user_confirmed",
        /// An account was made by an administrator.
        UserCreated = "user_created",
        /// An account was deleted.
        UserDeleted = "user_deleted",
        /// An account was disabled.
        UserDisabled = "user_disabled",
        /// An account was enabled again.
        UserEnabled = "user_enabled",
        /// The user changed the own metadata.
        UserUpdated = "user_updated",
    }
}

words! {
    /// How it went.
    Outcome {
        /// It was done.
        Success = "success",
        /// It was refused.
        Failure = "failure",
    }
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

/// Whether `role` may be given to a user: `[a-z0-9_-]{1,64}`.
pub fn is_role_name(role: &str) -> bool {
    (1..=64).contains(&role.len())
        && role
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_are_safe_in_paths_and_headers() {
        for fine in
            ["a", "u-1001", "018f2d3e-0000-7000-8000-000000000000", "A.b_c", &"x".repeat(128)]
        {
            assert!(fine.parse::<UserId>().is_ok(), "{fine}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a%2f", "a\0", &"x".repeat(129)] {
            assert!(bad.parse::<UserId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_compare_by_their_folded_key() {
        let key = |text: &str| text.parse::<Email>().map(|email| email.key().to_owned());
        assert_eq!(key("Ann@Example.COM"), key("ann@example.com"));
        assert_eq!(key("Ａnn@example.com"), key("ann@example.com"));
        for bad in ["", "ann", "ann@", "@example.com", "a b@example.com", "ann@example.com\0"] {
            assert_eq!(key(bad), Err(InvalidEmail), "{bad:?}");
        }
    }

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
    }
}
