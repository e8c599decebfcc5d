//! Sealed values on SQLite.

use rusqlite::params;

use super::Sqlite;
use crate::model::Event;
use crate::store::error::StoreError;
use crate::store::record;
use crate::store::seals::{Resealed, SealedColumn, SealedRow};

impl Sqlite {
    pub(in crate::store) async fn sealed_rows(
        &self,
        column: SealedColumn,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<SealedRow>, StoreError> {
        let after = after.unwrap_or_default().to_owned();
        self.read("sealed_rows", move |db| {
            let sql = match column {
                SealedColumn::SigningKeys => {
                    "-- sealed_rows
                    SELECT kid, private_key FROM signing_keys
                    WHERE kid > ?1 ORDER BY kid LIMIT ?2"
                }
            };
            db.all(sql, params![after, limit], |row| record::sealed_row(row, column))
        })
        .await
    }

    pub(in crate::store) async fn reseal(
        &self,
        column: SealedColumn,
        changes: &[Resealed],
        event: &Event,
    ) -> Result<u64, StoreError> {
        let (changes, event) = (changes.to_vec(), event.clone());
        self.in_tx("reseal", move |db| {
            let sql = match column {
                SealedColumn::SigningKeys => {
                    "-- reseal
                    UPDATE signing_keys SET private_key = ?3 WHERE kid = ?1 AND private_key = ?2"
                }
            };
            let mut changed = 0;
            for Resealed { row, old, new } in &changes {
                changed += db.run(sql, params![row, &old[..], &new[..]])?;
            }
            if changed > 0 {
                db.record(&[event])?;
            }
            Ok(u64::try_from(changed).unwrap_or(u64::MAX))
        })
        .await
    }
}
