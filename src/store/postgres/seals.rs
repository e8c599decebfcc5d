//! Sealed values on PostgreSQL.

use super::{Param, Postgres};
use crate::model::Event;
use crate::store::error::StoreError;
use crate::store::record;
use crate::store::seals::{Resealed, SealedColumn, SealedRow};

impl Postgres {
    pub(in crate::store) async fn sealed_rows(
        &self,
        column: SealedColumn,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<SealedRow>, StoreError> {
        let after = after.unwrap_or_default();
        let id = SealedRow::id(after);
        self.at_once("sealed_rows", |db| async move {
            let after: Param<'_> = match column {
                SealedColumn::SigningKeys => &after,
                SealedColumn::Factors => &id,
            };
            let sql = match column {
                SealedColumn::SigningKeys => {
                    "-- sealed_rows
                    SELECT kid, private_key FROM signing_keys
                    WHERE kid > $1 ORDER BY kid LIMIT $2"
                }
                SealedColumn::Factors => {
                    "-- sealed_rows
                    SELECT id, secret FROM factors WHERE id > $1 ORDER BY id LIMIT $2"
                }
            };
            db.all(sql, &[after, &i64::from(limit)], |row| record::sealed_row(row, column)).await
        })
        .await
    }

    pub(in crate::store) async fn reseal(
        &self,
        column: SealedColumn,
        changes: &[Resealed],
        event: &Event,
    ) -> Result<u64, StoreError> {
        self.in_tx("reseal", |db| async move {
            let sql = match column {
                SealedColumn::SigningKeys => {
                    "-- reseal
                    UPDATE signing_keys SET private_key = $3 WHERE kid = $1 AND private_key = $2"
                }
                SealedColumn::Factors => {
                    "-- reseal
                    UPDATE factors SET secret = $3 WHERE id = $1 AND secret = $2"
                }
            };
            let mut changed = 0;
            for Resealed { row, old, new } in changes {
                let id = SealedRow::id(row);
                let key: Param<'_> = match column {
                    SealedColumn::SigningKeys => row,
                    SealedColumn::Factors => &id,
                };
                changed += db.run(sql, &[key, &&old[..], &&new[..]]).await?;
            }
            if changed > 0 {
                db.record(std::slice::from_ref(event)).await?;
            }
            Ok(changed)
        })
        .await
    }
}
