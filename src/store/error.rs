//! What can go wrong in the store. Callers match on four things: the database is away (try later),
//! the schema is not ours (refuse to start), a session that its user cannot be handed, anything else
//! (a bug or a damaged database).

use crate::model::UserId;
use crate::secrets::{BadKey, OpenError};

/// The error of the driver underneath.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A failed use case. Nothing of it was stored, except that after [`StoreError::Unavailable`] a
/// commit whose answer was lost may have gone through.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, no answer in time, shutting down, read-only, out of space: worth trying again.
    #[error("{operation}: the database is unavailable")]
    Unavailable {
        /// The use case.
        operation: &'static str,
        /// What the driver said.
        source: Cause,
    },
    /// A row contradicts the schema: somebody else wrote it.
    #[error("{table}.{column} of row {row} holds what it may not hold")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column.
        column: String,
        /// The row's key.
        row: String,
    },
    /// The database is older than this program.
    #[error(
        "the database schema has version {found}, this program needs {needed}; \
         run `portcullis migrate`"
    )]
    SchemaBehind {
        /// Version of the database; 0 = empty.
        found: u32,
        /// Version of this program.
        needed: u32,
    },
    /// The database is newer than this program.
    #[error(
        "the database schema has version {found}, this program knows only up to {known}; \
         run the newer program that migrated it, or restore a backup from before"
    )]
    SchemaAhead {
        /// Version of the database.
        found: u32,
        /// Version of this program.
        known: u32,
    },
    /// The role of `storage.url` may not use a table that somebody else owns.
    #[error(
        "the role of storage.url may not read and add rows of the table {table}; \
         as its owner: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA … TO …"
    )]
    Rights {
        /// The table.
        table: String,
    },
    /// A secret that cannot be opened: the key is missing or another one, or the row was changed.
    #[error("{column} of row {row} cannot be used")]
    Sealed {
        /// The table and its column.
        column: &'static str,
        /// The row's key.
        row: String,
        /// Why.
        source: OpenError,
    },
    /// A key of `[secrets]` is none.
    #[error("a key of [secrets] {0}")]
    Keyring(BadKey),
    /// `storage.url` is not usable. The text never quotes it: it may hold a password.
    #[error("storage.url {0}")]
    Url(String),
    /// The session would be of no use: what it is worth cannot be handed to its user.
    #[error("what a session of user {user} is worth cannot be handed out")]
    Unfit {
        /// Whose session it would be.
        user: UserId,
    },
    /// The database refused what we asked.
    #[error("{operation}: the database refused a statement")]
    Query {
        /// The use case.
        operation: &'static str,
        /// What the driver said.
        source: Cause,
    },
}

impl StoreError {
    /// Whether trying again later may help: the caller answers 503.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(super) fn unavailable(operation: &'static str, source: impl Into<Cause>) -> Self {
        Self::Unavailable { operation, source: source.into() }
    }

    pub(super) fn query(operation: &'static str, source: impl Into<Cause>) -> Self {
        Self::Query { operation, source: source.into() }
    }
}
