//! What only SQLite has: the file and those who share it.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use portcullis::config::{Secrets, Storage};
use portcullis::model::EventKind;
use portcullis::store::{SignUp, Store, StoreError};

use super::{Home, account, event};

#[tokio::test]
async fn the_file_is_readable_by_its_owner_only() {
    let home = Home::sqlite().await;
    home.user("ann").await;
    for suffix in ["", "-wal", "-shm"] {
        let file = format!("{}{suffix}", home.sqlite_file().display());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    for url in ["sqlite:/nowhere/at/all/store.db", "sqlite:/dev/null", "sqlite:/"] {
        let opened =
            Store::open(&Storage { url: url.into(), ..Storage::default() }, &Secrets::default());
        assert!(matches!(opened.err(), Some(StoreError::Url(_))), "{url}");
    }
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let home = Home::sqlite().await;
    let (ann, _) = home.user("ann").await;
    let Home { store, place, storage } = home;
    drop(store);
    let store = Store::open(&storage, &Secrets::default()).unwrap();
    store.check_schema().await.unwrap();
    assert!(store.user(&ann).await.unwrap().is_some());
    drop((store, place));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_another_process_writes_changes_fail_in_time_and_reads_go_on() {
    let home = Home::sqlite().await;
    let (ann, _) = home.user("ann").await;
    let other = home.sqlite_connection();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let started = Instant::now();
    let signups = (0..5).map(|n| {
        let store = &home.store;
        async move {
            let signup = event(EventKind::Signup, 0);
            store.sign_up(&account(&format!("user{n}")), None, &signup).await
        }
    });
    for refused in futures_util::future::join_all(signups).await {
        assert!(refused.as_ref().is_err_and(StoreError::is_unavailable), "{refused:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(home.store.user(&ann).await.unwrap().is_some());

    other.execute_batch("ROLLBACK").unwrap();
    let signup = event(EventKind::Signup, 0);
    let done = home.store.sign_up(&account("bob"), None, &signup).await.unwrap();
    assert_eq!(done, SignUp::Created);
    let users = home.store.users(None, 10, None).await.unwrap();
    assert_eq!(users.len(), 2, "what was refused was not done later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failing_change_does_not_take_its_neighbours_along() {
    let home = Home::sqlite().await;
    // Keeps the writer waiting, so that the next changes share a commit.
    let other = home.sqlite_connection();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    home.sqlite_connection(); // does not disturb the lock
    let (ann, bob) = (account("ann"), account("bob"));
    let mut twice = event(EventKind::Signup, 0);
    twice.user_id = Some("u-ann".parse().unwrap());
    let first = home.store.sign_up(&ann, None, &twice);
    // The same event again: its time and id are taken, so this change fails.
    let second = home.store.sign_up(&bob, None, &twice);
    let release = async {
        tokio::task::yield_now().await;
        other.execute_batch("ROLLBACK").unwrap();
    };
    let (first, second, ()) = tokio::join!(first, second, release);
    assert_eq!(first.unwrap(), SignUp::Created);
    assert!(matches!(second, Err(StoreError::Query { .. })), "{second:?}");
    assert_eq!(home.store.users(None, 10, None).await.unwrap().len(), 1);
}
