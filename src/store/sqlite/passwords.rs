//! Kinds of stored passwords on SQLite.

use rusqlite::params;

use super::Sqlite;
use crate::model::UserId;
use crate::store::error::StoreError;
use crate::store::passwords::{Classified, Unclassified};
use crate::store::record;

impl Sqlite {
    pub(in crate::store) async fn password_classes(&self) -> Result<Vec<String>, StoreError> {
        self.read("password_classes", move |db| {
            // DISTINCT would read an index entry for each user; this reads one for each class.
            let sql = "-- password_classes
                WITH RECURSIVE classes (word) AS (
                    SELECT min(password_class) FROM users WHERE password_class IS NOT NULL
                    UNION ALL
                    SELECT (SELECT min(u.password_class) FROM users AS u
                            WHERE u.password_class > c.word)
                    FROM classes AS c WHERE c.word IS NOT NULL
                )
                SELECT word FROM classes WHERE word IS NOT NULL";
            db.all(sql, [], |row| record::text(row, "users", 0))
        })
        .await
    }

    pub(in crate::store) async fn unclassified_passwords(
        &self,
        prefix: &str,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Unclassified, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.read("unclassified_passwords", move |db| {
            // The first row is of no user: it says how far this went.
            let sql = "-- unclassified_passwords
                WITH page AS MATERIALIZED (
                    SELECT id, password_hash, password_class FROM users
                    WHERE id > ?1 ORDER BY id LIMIT ?2
                )
                SELECT max(id), CASE WHEN count(*) = ?2 THEN '' END, 0 AS place
                FROM page
                UNION ALL
                SELECT id, password_hash, 1 FROM page
                WHERE password_class IS NULL AND substr(password_hash, 1, length(?3)) <> ?3
                ORDER BY place";
            let after = after.as_ref().map_or("", UserId::as_str);
            let rows = db.all(sql, params![after, limit, prefix], |row| record::found_hash(row))?;
            Ok(record::unclassified(rows))
        })
        .await
    }

    pub(in crate::store) async fn classify_passwords(
        &self,
        found: &[Classified],
    ) -> Result<(), StoreError> {
        let found = found.to_vec();
        self.in_tx("classify_passwords", move |db| {
            let sql = "-- classify_passwords
                UPDATE users SET password_class = ?3 WHERE id = ?1 AND password_hash = ?2";
            for one in &found {
                db.run(sql, params![one.user.as_str(), one.hash.0, one.class])?;
            }
            Ok(())
        })
        .await
    }
}
