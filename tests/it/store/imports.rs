//! Imports.

use portcullis::model::{EventKind, PasswordHash, UserId};
use portcullis::store::{ImportBatch, ImportProgress, ImportedAccount};

use super::{DAY, Home, account, at, event, on_both};

on_both![
    accounts_and_progress_are_stored_together,
    one_account_that_is_taken_undoes_all,
    of_two_that_go_on_one_is_overtaken,
    taken_ids_and_addresses_are_told,
    all_accounts_are_told_page_by_page,
    how_far_an_import_came_is_kept_for_a_while,
];

fn imported(name: &str, class: Option<&str>) -> ImportedAccount {
    let mut account = account(name);
    account.password_hash = class.map(|_| PasswordHash(format!("$2b$12${name}")));
    account.user.roles = vec!["staff".to_owned(), "admin".to_owned(), "staff".to_owned()];
    account.user.email_confirmed_at = Some(at(-7));
    account.user.disabled_until = Some(at(DAY));
    account.user.last_sign_in_at = Some(at(-3));
    account.user.invited_at = Some(at(-9));
    account.user.created_at = at(-10);
    ImportedAccount { account, class: class.map(str::to_owned) }
}

fn progress(rows_done: u64) -> ImportProgress {
    ImportProgress {
        digest: [7; 32],
        file: "users.csv".to_owned(),
        rows_done,
        imported: rows_done,
        already_there: 1,
        refused: 2,
        error_bytes: 3,
        started_at: at(0),
        finished_at: None,
    }
}

impl Home {
    async fn import(&self, accounts: &[ImportedAccount], before: u64, done: u64) -> ImportBatch {
        let event = event(EventKind::UsersImported, 5);
        let progress = progress(done);
        self.store.import_accounts(accounts, before, &progress, at(5), &event).await.unwrap()
    }
}

async fn accounts_and_progress_are_stored_together(home: Home) {
    assert_eq!(home.store.import_progress([7; 32]).await.unwrap(), None);
    let rows = [imported("ann", Some("bcrypt/12")), imported("bob", None)];
    assert_eq!(home.import(&rows, 0, 2).await, ImportBatch::Done);
    for row in &rows {
        let stored = home.store.account_by_id(&row.account.user.id).await.unwrap().unwrap();
        let mut expected = row.account.user.clone();
        expected.roles = vec!["admin".to_owned(), "staff".to_owned()];
        assert_eq!(stored.user, expected);
        assert!(stored.password_hash == row.account.password_hash);
        let found = home.store.account_by_email(&row.account.email).await.unwrap();
        assert_eq!(found.unwrap().user.id, expected.id);
    }
    assert_eq!(home.store.password_classes().await.unwrap(), ["bcrypt/12"]);
    assert_eq!(home.store.import_progress([7; 32]).await.unwrap(), Some(progress(2)));
    assert_eq!(home.store.import_progress([8; 32]).await.unwrap(), None);

    assert_eq!(home.import(&[imported("eve", None)], 2, 3).await, ImportBatch::Done);
    // The end of a file has no more accounts.
    let event = event(EventKind::ImportFinished, 6);
    let ended = ImportProgress { finished_at: Some(at(6)), ..progress(3) };
    let done = home.store.import_accounts(&[], 3, &ended, at(6), &event).await.unwrap();
    assert_eq!(done, ImportBatch::Done);
    assert_eq!(home.store.import_progress([7; 32]).await.unwrap(), Some(ended));
    let kinds = home.kinds().await;
    let batch = EventKind::UsersImported;
    assert_eq!(kinds, [EventKind::ImportFinished, batch, batch]);

    home.store.forget_import([7; 32]).await.unwrap();
    assert_eq!(home.store.import_progress([7; 32]).await.unwrap(), None);
}

async fn one_account_that_is_taken_undoes_all(home: Home) {
    home.user("bob").await;
    let events = home.kinds().await.len();
    let mut id_taken = imported("new", None);
    id_taken.account.user.id = "u-bob".parse().unwrap();
    let mut email_taken = imported("bob", None);
    email_taken.account.user.id = "u-other".parse().unwrap();
    for taken in [id_taken, email_taken] {
        let rows = [imported("ann", None), taken];
        assert_eq!(home.import(&rows, 0, 2).await, ImportBatch::Taken);
        assert_eq!(home.store.user(&rows[0].account.user.id).await.unwrap(), None);
        assert_eq!(home.store.import_progress([7; 32]).await.unwrap(), None);
        assert_eq!(home.kinds().await.len(), events);
    }
}

async fn of_two_that_go_on_one_is_overtaken(home: Home) {
    for (before, done) in [(0, 1), (1, 2)] {
        let importing = (0..8).map(|n| {
            let (store, progress) = (home.another(), progress(done));
            let rows = [imported(&format!("{done}-{n}"), None)];
            tokio::spawn(async move {
                let event = event(EventKind::UsersImported, 5);
                store.import_accounts(&rows, before, &progress, at(5), &event).await.unwrap()
            })
        });
        let done = futures_util::future::join_all(importing).await;
        let done = done.into_iter().filter(|done| *done.as_ref().unwrap() == ImportBatch::Done);
        assert_eq!(done.count(), 1);
    }
    assert_eq!(home.store.users(None, 100, None).await.unwrap().len(), 2);
}

async fn taken_ids_and_addresses_are_told(home: Home) {
    home.user("ann").await;
    home.user("bob").await;
    let ids: [UserId; 2] = ["u-ann".parse().unwrap(), "u-none".parse().unwrap()];
    let keys = ["bob@example.com".to_owned(), "ann@example.com".to_owned(), String::new()];
    let taken = async |ids: &[UserId], keys: &[String]| {
        let mut taken = home.store.accounts_taken(ids, keys).await.unwrap();
        taken.sort_unstable();
        taken.into_iter().map(|(id, key)| format!("{id} {key}")).collect::<Vec<_>>()
    };
    let (ann, bob) = ("u-ann ann@example.com".to_owned(), "u-bob bob@example.com".to_owned());
    assert_eq!(taken(&ids, &keys).await, [ann.clone(), bob]);
    assert_eq!(taken(&ids, &[]).await, [ann]);
    assert!(taken(&ids[1..], &keys[2..]).await.is_empty());
}

async fn how_far_an_import_came_is_kept_for_a_while(home: Home) {
    assert_eq!(home.import(&[], 0, 1).await, ImportBatch::Done);
    home.store.prune(at(30 * DAY)).await.unwrap();
    assert!(home.store.import_progress([7; 32]).await.unwrap().is_some());
    home.store.prune(at(30 * DAY + 6)).await.unwrap();
    assert_eq!(home.store.import_progress([7; 32]).await.unwrap(), None);
}

async fn all_accounts_are_told_page_by_page(home: Home) {
    let rows = [imported("ann", Some("bcrypt/12")), imported("bob", None), imported("eve", None)];
    assert_eq!(home.import(&rows, 0, 3).await, ImportBatch::Done);
    let page = async |after: Option<&UserId>, limit| {
        let accounts = home.store.accounts(after, limit).await.unwrap();
        accounts.into_iter().map(|one| (one.user.id, one.password_hash)).collect::<Vec<_>>()
    };
    let all = rows.map(|row| (row.account.user.id, row.account.password_hash));
    assert!(page(None, 2).await == all[..2]);
    assert!(page(Some(&all[1].0), 2).await == all[2..]);
    assert!(page(Some(&all[2].0), 2).await.is_empty());
}
