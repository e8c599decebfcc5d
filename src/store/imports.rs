//! Accounts of other systems, many in one transaction, with how far their import has come; and all
//! accounts page by page, to go to another system.

use jiff::Timestamp;

use super::cases::NewAccount;
use super::error::StoreError;
use super::{Store, either};
use crate::model::{Account, Event, UserId};

/// One account to import.
#[derive(Clone, Debug)]
pub struct ImportedAccount {
    /// The account.
    pub account: NewAccount,
    /// Kind and cost of its hash, one word; `None` = like those of new hashes, or no hash.
    pub class: Option<String>,
}

/// How far an import has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportProgress {
    /// Which file, read how.
    pub digest: [u8; 32],
    /// Its name, for people.
    pub file: String,
    /// Rows that are done with.
    pub rows_done: u64,
    /// Accounts made.
    pub imported: u64,
    /// Rows whose account was there.
    pub already_there: u64,
    /// Rows refused.
    pub refused: u64,
    /// Length of the file of refused rows.
    pub error_bytes: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl ImportProgress {
    /// `rows_done`, `imported`, `already_there`, `refused`, `error_bytes` as columns hold them.
    pub(super) fn numbers(&self) -> [i64; 5] {
        [self.rows_done, self.imported, self.already_there, self.refused, self.error_bytes]
            .map(column)
    }
}

/// A count as columns hold it.
pub(super) fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What became of some rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportBatch {
    /// All are stored.
    Done,
    /// An id or an address was taken since it was looked up: nothing is stored.
    Taken,
    /// Somebody else goes on with the same import: nothing is stored.
    Overtaken,
}

/// Imports and exports.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// The accounts that have one of these ids or one of these address keys: id and address key.
    pub async fn accounts_taken(
        &self,
        ids: &[UserId],
        email_keys: &[String],
    ) -> Result<Vec<(UserId, String)>, StoreError> {
        either!(self, backend => backend.accounts_taken(ids, email_keys).await)
    }

    /// Stores accounts, `progress` and the event, all or nothing. `rows_before` is what
    /// [`ImportProgress::rows_done`] has to be still; 0 begins.
    pub async fn import_accounts(
        &self,
        accounts: &[ImportedAccount],
        rows_before: u64,
        progress: &ImportProgress,
        now: Timestamp,
        event: &Event,
    ) -> Result<ImportBatch, StoreError> {
        either!(self, backend => {
            backend.import_accounts(accounts, rows_before, progress, now, event).await
        })
    }

    /// How far this import has come; `None` = it never began.
    pub async fn import_progress(
        &self,
        digest: [u8; 32],
    ) -> Result<Option<ImportProgress>, StoreError> {
        either!(self, backend => backend.import_progress(digest).await)
    }

    /// At most `limit` accounts in the order of their ids, after `after`.
    pub async fn accounts(
        &self,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<Account>, StoreError> {
        either!(self, backend => backend.accounts(after, limit).await)
    }

    /// Forgets how far this import has come. Its accounts stay.
    pub async fn forget_import(&self, digest: [u8; 32]) -> Result<(), StoreError> {
        either!(self, backend => backend.forget_import(digest).await)
    }
}
