//! Why a row is not imported.

use crate::auth::formats::FormatError;
use crate::model::{MAX_ROLES, MAX_ROLES_BYTES};

/// Why a row is not imported. None of the texts holds what a field held: it may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RowError {
    #[error("it is no JSON object")]
    NoObject,
    #[error("it has {found} cells, the heading has {expected}")]
    Cells { found: usize, expected: usize },
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("it is longer than 1 MiB")]
    TooLong,
    #[error("it has no e-mail address")]
    NoEmail,
    #[error("its e-mail address is none")]
    BadEmail,
    #[error("its id is not 1 to 128 of the characters A-Z a-z 0-9 . _ - (and not only dots)")]
    BadId,
    #[error("`{0}` is no time")]
    BadTime(String),
    #[error("`{0}` is neither true nor false")]
    BadFlag(String),
    #[error("`{0}` is no JSON object")]
    BadMetadata(String),
    #[error("its metadata would be longer than {0} bytes")]
    MetadataTooLong(usize),
    #[error("a role is 1 to 64 of the characters a-z 0-9 _ -, and one of its roles is not")]
    BadRole,
    #[error(
        "it has more roles than the {MAX_ROLES}, or {MAX_ROLES_BYTES} bytes, that one may have"
    )]
    ManyRoles,
    #[error("it has the role admin, which needs --allow-admin")]
    Admin,
    #[error("it was deleted where it comes from")]
    Deleted,
    #[error("its password hash cannot be used: {0}")]
    Hash(FormatError),
    #[error("its password hash is a single HMAC, which needs --allow-weak")]
    Weak,
    #[error("its password credential does not have the form that Keycloak gives it")]
    Credential,
    #[error("line {0} has the same address or id")]
    Twice(u64),
    #[error("another account has its address")]
    EmailTaken,
    #[error("another account has its id")]
    IdTaken,
}
