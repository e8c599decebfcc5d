//! Kinds of stored passwords, for whoever makes failed logins take the same time.

use super::error::StoreError;
use super::{Store, either};
use crate::model::{PasswordHash, UserId};

/// Some users, looked over for hashes whose kind nobody has noted.
#[derive(Clone, Debug, PartialEq)]
pub struct Unclassified {
    /// Those found.
    pub found: Vec<(UserId, PasswordHash)>,
    /// Where to go on; `None` = that was the last user.
    pub next: Option<UserId>,
}

/// A hash, whose it is, and its kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    /// Whose it is.
    pub user: UserId,
    /// The kind is stored only while the hash is this one.
    pub hash: PasswordHash,
    /// Kind and cost, one word.
    pub class: String,
}

/// Kinds of stored passwords.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// Every kind and cost that was noted, once each, in the order of their bytes. As cheap as
    /// there are kinds, however many users have them.
    pub async fn password_classes(&self) -> Result<Vec<String>, StoreError> {
        either!(self, backend => backend.password_classes().await)
    }

    /// Looks over at most `limit` users in the order of their ids, after `after`, for hashes that
    /// do not begin with `prefix` and have no kind noted.
    pub async fn unclassified_passwords(
        &self,
        prefix: &str,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Unclassified, StoreError> {
        either!(self, backend => backend.unclassified_passwords(prefix, after, limit).await)
    }

    /// Notes kinds.
    pub async fn classify_passwords(&self, found: &[Classified]) -> Result<(), StoreError> {
        either!(self, backend => backend.classify_passwords(found).await)
    }
}
