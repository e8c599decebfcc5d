//! API keys: how programs act as a user.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::{TokenDigest, UserId};

/// A key, without its text: the database does not know that.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// `UUIDv4`.
    pub id: Uuid,
    /// As whom it acts.
    pub user_id: UserId,
    /// What its owner calls it.
    pub name: String,
    /// Its first characters, `pck_` and eight more, by which everybody knows it.
    pub prefix: String,
    /// SHA-256 of its text.
    pub digest: TokenDigest,
    /// What it may be used for: words as [`is_scope_name`] has them, sorted, without repeats.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it: `cli`, or a user's id.
    pub created_by: String,
    /// Not accepted from this time on; `None` = no end in sight.
    pub expires_at: Option<Timestamp>,
    /// When it was ended before its time.
    pub revoked_at: Option<Timestamp>,
    /// Last use, to five minutes.
    pub last_used_at: Option<Timestamp>,
    /// The key in whose place it came.
    pub replaces: Option<Uuid>,
}

impl ApiKey {
    /// How long it was to live when it was made; `None` = without an end.
    pub fn life(&self) -> Option<Duration> {
        let life = self.expires_at?.duration_since(self.created_at);
        Some(Duration::try_from(life).unwrap_or_default())
    }

    /// Whether it is accepted at `now`, as far as the key itself goes.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// Most scopes of a key.
pub const MAX_SCOPES: usize = 32;

/// Whether `scope` may be given to a key: `[a-z0-9:_-]{1,64}`. Within what OAuth allows (RFC 6749
/// §3.3), and with nothing that would need quoting in a header.
pub fn is_scope_name(scope: &str) -> bool {
    (1..=64).contains(&scope.len())
        && scope.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b':' | b'_' | b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_plain_words() {
        for good in ["read", "orders:write", "a", "x_1-y", &"a".repeat(64)] {
            assert!(is_scope_name(good), "{good}");
        }
        for bad in ["", "Read", "a b", "a,b", "a\"", "ä", "a/b", "a\n", &"a".repeat(65)] {
            assert!(!is_scope_name(bad), "{bad}");
        }
    }
}
