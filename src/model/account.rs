//! Accounts: who they are, how they are found.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use unicode_normalization::UnicodeNormalization;

use super::{Factor, JsonObject, uuid_v7};

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

impl serde::Serialize for UserId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for UserId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        super::from_text(from, "user id", |text| text.parse().ok())
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

impl serde::Serialize for Email {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.address)
    }
}

impl<'de> serde::Deserialize<'de> for Email {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        super::from_text(from, "e-mail address", |text| text.parse().ok())
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
    /// The address that the user wants instead, not yet proved.
    pub new_email: Option<String>,
    /// When an administrator invited the owner of the address.
    pub invited_at: Option<Timestamp>,
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
    /// Second factors, oldest first.
    pub factors: Vec<Factor>,
    /// When the account was deleted but for its id. Then nothing of its owner is left here, and
    /// [`User::email`] is no address.
    pub deleted_at: Option<Timestamp>,
}

impl User {
    /// An account of which no more is known than its address, as written.
    pub fn new(id: UserId, email: &str, now: Timestamp) -> Self {
        Self {
            id,
            email: email.to_owned(),
            email_confirmed_at: None,
            new_email: None,
            invited_at: None,
            roles: Vec::new(),
            app_metadata: JsonObject::new(),
            user_metadata: JsonObject::new(),
            last_sign_in_at: None,
            disabled_until: None,
            created_at: now,
            updated_at: now,
            factors: Vec::new(),
            deleted_at: None,
        }
    }

    /// Whether logins are refused at `now`.
    pub fn is_disabled(&self, now: Timestamp) -> bool {
        self.disabled_until.is_some_and(|until| until > now)
    }

    /// Whether a second factor protects the account.
    pub fn has_second_factor(&self) -> bool {
        self.factors.iter().any(Factor::is_verified)
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
/// Most roles of one user, and most bytes of JSON that they may take: each token names them all, and
/// one that is too long cannot be made.
pub const MAX_ROLES: usize = 64;
/// See [`MAX_ROLES`].
pub const MAX_ROLES_BYTES: usize = 1024;

/// Whether one user may have all of these at once.
pub fn are_few_roles(roles: &[String]) -> bool {
    // ["a","b"]
    let bytes = 1 + roles.iter().map(|role| role.len() + 3).sum::<usize>();
    roles.len() <= MAX_ROLES && bytes <= MAX_ROLES_BYTES
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
}
