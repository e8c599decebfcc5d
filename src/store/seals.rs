//! What the database keeps sealed, and the way from one key of `[secrets]` to the next: put the new
//! one in front in every gateway, re-encrypt, take the old one away.

use uuid::Uuid;
use zeroize::Zeroizing;

use super::error::StoreError;
use super::{Store, either};
use crate::model::{Event, words};
use crate::secrets::{Keyring, OpenError, Place};

words! {
    /// The columns whose values are sealed.
    SealedColumn {
        /// Private keys that sign tokens.
        SigningKeys = "signing_keys.private_key",
        /// What second factors share with their devices.
        Factors = "factors.secret",
    }
}

impl SealedColumn {
    fn place(self, row: &str) -> Place<'_> {
        Place { column: self.as_str(), row }
    }
}

/// One value as it is stored.
#[derive(Clone)]
pub struct SealedRow {
    /// The row's key.
    pub row: String,
    /// The value, sealed or not.
    pub stored: Zeroizing<Vec<u8>>,
}

impl SealedRow {
    /// The key of a row that has a UUID, from its text; nil, which no row has, from any other.
    pub(super) fn id(row: &str) -> Uuid {
        row.parse().unwrap_or_default()
    }
}

/// What became of some rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reencrypted {
    /// Rows that are under the current key now and were not before.
    pub changed: u64,
    /// Rows that cannot be opened, and why; they stay as they are.
    pub unreadable: Vec<(String, OpenError)>,
    /// The last row; `None` = there are no more.
    pub last: Option<String>,
}

/// A value to be put in the place of another.
#[derive(Clone)]
pub(super) struct Resealed {
    pub(super) row: String,
    /// What must still be there.
    pub(super) old: Zeroizing<Vec<u8>>,
    pub(super) new: Zeroizing<Vec<u8>>,
}

/// Sealed values.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// The keys that this store seals and opens with.
    pub fn keyring(&self) -> &Keyring {
        either!(self, backend => backend.keyring())
    }

    /// At most `limit` rows as they are stored, in the order of their keys, after `after`.
    pub async fn sealed_rows(
        &self,
        column: SealedColumn,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<SealedRow>, StoreError> {
        either!(self, backend => backend.sealed_rows(column, after, limit).await)
    }

    /// Brings at most `limit` rows after `after` under the current key, in one transaction with the
    /// event, if there is anything to do. A row that is written at the same time stays as it was
    /// written. Without a current key nothing is done.
    pub async fn reencrypt(
        &self,
        column: SealedColumn,
        after: Option<&str>,
        limit: u32,
        event: &Event,
    ) -> Result<Reencrypted, StoreError> {
        let found = self.sealed_rows(column, after, limit).await?;
        let mut done = Reencrypted::default();
        let mut changes = Vec::new();
        done.last = found.last().map(|last| last.row.clone());
        for SealedRow { row, stored } in found {
            match self.keyring().reseal(column.place(&row), &stored) {
                Ok(None) => {}
                Ok(Some(new)) => changes.push(Resealed { row, old: stored, new }),
                Err(why) => done.unreadable.push((row, why)),
            }
        }
        if !changes.is_empty() {
            done.changed = either!(self, backend => backend.reseal(column, &changes, event).await)?;
        }
        Ok(done)
    }

    /// What to store for a secret of this row.
    pub(super) fn seal(&self, column: SealedColumn, row: &str, plain: &[u8]) -> Zeroizing<Vec<u8>> {
        self.keyring().seal(column.place(row), plain)
    }

    /// What was stored for a secret of this row.
    pub(super) fn open_seal(
        &self,
        column: SealedColumn,
        row: &str,
        stored: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        self.keyring().open(column.place(row), stored).map_err(|source| StoreError::Sealed {
            column: column.as_str(),
            row: row.to_owned(),
            source,
        })
    }
}
