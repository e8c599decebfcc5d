//! Sealed values on SQLite.

use rusqlite::{ToSql, params};

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
            let id = SealedRow::id(&after);
            let (sql, after): (_, &dyn ToSql) = match column {
                SealedColumn::SigningKeys => (
                    "-- sealed_rows
                    SELECT kid, private_key FROM signing_keys
                    WHERE kid > ?1 ORDER BY kid LIMIT ?2",
                    &after,
                ),
                SealedColumn::Factors => (
                    "-- sealed_rows
                    SELECT id, secret FROM factors WHERE id > ?1 ORDER BY id LIMIT ?2",
                    &id,
                ),
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
                SealedColumn::Factors => {
                    "-- reseal
                    UPDATE factors SET secret = ?3 WHERE id = ?1 AND secret = ?2"
                }
            };
            let mut changed = 0;
            for Resealed { row, old, new } in &changes {
                let id = SealedRow::id(row);
                let key: &dyn ToSql = match column {
                    SealedColumn::SigningKeys => row,
                    SealedColumn::Factors => &id,
                };
                changed += db.run(sql, params![key, &old[..], &new[..]])?;
            }
            if changed > 0 {
                db.record(&[event])?;
            }
            Ok(u64::try_from(changed).unwrap_or(u64::MAX))
        })
        .await
    }
}
