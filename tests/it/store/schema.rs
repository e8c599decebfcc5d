//! Versions of the schema, and rows that contradict it.

use portcullis::model::EventKind;
use portcullis::store::{EventFilter, StoreError};

use super::{Home, at, event, on_both};
use crate::harness::postgres::empty_database;

on_both![
    migrating_again_changes_nothing,
    a_newer_schema_is_refused,
    rows_that_contradict_the_schema_are_named,
    the_description_names_the_place,
];

/// The number of the last migration: both folders are without gaps.
fn newest() -> u32 {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite");
    u32::try_from(std::fs::read_dir(folder).unwrap().count()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_sqlite_file_is_behind_until_it_is_migrated() {
    behind_until_migrated(Home::empty_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_postgres_database_is_behind_until_it_is_migrated() {
    behind_until_migrated(Home::on(empty_database().await)).await;
}

async fn behind_until_migrated(home: Home) {
    let behind = home.store.check_schema().await;
    assert!(
        matches!(behind, Err(StoreError::SchemaBehind { found: 0, needed }) if needed == newest()),
        "{behind:?}"
    );
    assert!(behind.unwrap_err().to_string().contains("portcullis migrate"));

    // Eight processes start at once.
    let stores: Vec<_> = (0..8).map(|_| home.another()).collect();
    let migrating = stores.into_iter().map(|store| {
        tokio::spawn(async move { store.migrate().await.map(|done| done.applied.len()) })
    });
    let mut applied = 0;
    for migrated in futures_util::future::join_all(migrating).await {
        applied += migrated.unwrap().unwrap();
    }
    assert_eq!(
        applied,
        usize::try_from(newest()).unwrap(),
        "each migration was applied by one of them"
    );
    home.store.check_schema().await.unwrap();
    home.store.ping().await.unwrap();
}

async fn migrating_again_changes_nothing(home: Home) {
    let again = home.store.migrate().await.unwrap();
    assert_eq!((again.from, again.to, again.applied), (Some(newest()), newest(), Vec::new()));
}

async fn a_newer_schema_is_refused(home: Home) {
    home.sql(
        "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
         VALUES (9999, 'future', '2030-01-01T00:00:00Z', '1')",
    )
    .await;
    for refused in [home.store.check_schema().await, home.store.migrate().await.map(|_| ())] {
        assert!(
            matches!(refused, Err(StoreError::SchemaAhead { found: 9999, known }) if known == newest()),
            "{refused:?}"
        );
    }
}

async fn rows_that_contradict_the_schema_are_named(home: Home) {
    let (ann, login) = home.user("ann").await;
    home.store.record(&[event(EventKind::Login, 1)]).await.unwrap();
    home.sql("UPDATE users SET roles = '[1]'").await;
    home.sql("UPDATE sessions SET ended_at = created_at, ended_reason = 'boredom'").await;
    home.sql("UPDATE auth_events SET kind = 'moon_landing'").await;

    let session_id = login.session.id.to_string();
    let found = [
        (home.store.user(&ann).await.err(), "users", "roles", Some("u-ann")),
        (
            home.store.session(&login.session.id).await.err(),
            "sessions",
            "ended_reason",
            Some(session_id.as_str()),
        ),
        (
            home.store.events(&EventFilter::default(), 10, None).await.err(),
            "auth_events",
            "kind",
            None,
        ),
    ];
    for (error, want_table, want_column, want_row) in found {
        let Some(StoreError::Corrupt { table, column, row }) = error else {
            panic!("{want_table}: {error:?}")
        };
        assert_eq!((table, column.as_str()), (want_table, want_column));
        assert!(want_row.is_none_or(|want| want == row), "{row}");
    }
    // What is in order can still be read.
    assert!(home.store.sessions_of(&ann, at(1)).await.unwrap().is_empty());
}

async fn the_description_names_the_place(home: Home) {
    let text = home.store.describe();
    assert!(text.starts_with("SQLite file /") || text.starts_with("PostgreSQL at /"), "{text}");
    assert!(home.store.pool_status().waiting == 0);
}
