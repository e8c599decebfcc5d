//! Sealed values on PostgreSQL.

use super::Postgres;
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
        self.at_once("sealed_rows", |db| async move {
            let sql = match column {
                SealedColumn::SigningKeys => {
                    "-- sealed_rows
                    SELECT kid, private_key FROM signing_keys
                    WHERE kid > $1 ORDER BY kid LIMIT $2"
                }
            };
            let params: [super::Param<'_>; 2] = [&after.unwrap_or_default(), &i64::from(limit)];
            db.all(sql, &params, |row| record::sealed_row(row, column)).await
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
            };
            let mut changed = 0;
            for Resealed { row, old, new } in changes {
                changed += db.run(sql, &[row, &&old[..], &&new[..]]).await?;
            }
            if changed > 0 {
                db.record(std::slice::from_ref(event)).await?;
            }
            Ok(changed)
        })
        .await
    }
}
