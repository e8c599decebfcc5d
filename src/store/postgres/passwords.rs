//! Kinds of stored passwords on PostgreSQL.

use super::Postgres;
use crate::model::UserId;
use crate::store::error::StoreError;
use crate::store::passwords::{Classified, Unclassified};
use crate::store::record;

impl Postgres {
    pub(in crate::store) async fn password_classes(&self) -> Result<Vec<String>, StoreError> {
        self.at_once("password_classes", |db| async move {
            // DISTINCT would read an index entry for each user; this reads one for each class.
            let sql = "-- password_classes
                WITH RECURSIVE classes AS (
                    SELECT min(password_class) AS word FROM users
                    WHERE password_class IS NOT NULL
                    UNION ALL
                    SELECT (SELECT min(u.password_class) FROM users AS u
                            WHERE u.password_class > c.word)
                    FROM classes AS c WHERE c.word IS NOT NULL
                )
                SELECT word FROM classes WHERE word IS NOT NULL";
            let mut words = db.all(sql, &[], |row| record::text(row, "users", 0)).await?;
            words.sort_unstable();
            Ok(words)
        })
        .await
    }

    pub(in crate::store) async fn unclassified_passwords(
        &self,
        prefix: &str,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Unclassified, StoreError> {
        self.at_once("unclassified_passwords", |db| async move {
            // The first row is of no user: it says how far this went.
            let sql = "-- unclassified_passwords
                WITH page AS MATERIALIZED (
                    SELECT id, password_hash, password_class FROM users
                    WHERE id > $1 ORDER BY id LIMIT $2
                )
                SELECT max(id), CASE WHEN count(*) = $2 THEN '' END, 0 AS place
                FROM page
                UNION ALL
                SELECT id, password_hash, 1 FROM page
                WHERE password_class IS NULL AND NOT starts_with(password_hash, $3)
                ORDER BY place";
            let after = after.map_or("", UserId::as_str);
            let limit = i64::from(limit);
            let rows = db.all(sql, &[&after, &limit, &prefix], record::found_hash).await?;
            Ok(record::unclassified(rows))
        })
        .await
    }

    pub(in crate::store) async fn classify_passwords(
        &self,
        found: &[Classified],
    ) -> Result<(), StoreError> {
        self.at_once("classify_passwords", |db| async move {
            let sql = "-- classify_passwords
                UPDATE users AS u SET password_class = n.class
                FROM unnest($1::text[], $2::text[], $3::text[]) AS n (id, hash, class)
                WHERE u.id = n.id AND u.password_hash = n.hash";
            let users: Vec<_> = found.iter().map(|one| one.user.as_str()).collect();
            let hashes: Vec<_> = found.iter().map(|one| one.hash.0.as_str()).collect();
            let classes: Vec<_> = found.iter().map(|one| one.class.as_str()).collect();
            db.run(sql, &[&users, &hashes, &classes]).await?;
            Ok(())
        })
        .await
    }
}
