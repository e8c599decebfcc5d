//! What administrators change of accounts, and accounts in pages.

use portcullis::model::{EndReason, EventKind};
use portcullis::store::{
    Ban, ChangeUser, Consent, Deletion, LogIn, NewEmail, SignUp, UserChange, UserPage,
};
use serde_json::json;

use super::{DAY, Home, account, at, event, hash, login, object, on_both};

on_both![
    one_change_is_one_transaction_with_an_event_for_each_kind,
    a_taken_address_changes_nothing,
    of_many_who_get_one_address_one_has_it,
    an_address_wish_takes_the_place_of_an_earlier_one,
    who_is_gone_is_not_changed,
    pages_have_the_newest_first_and_a_total,
];

async fn one_change_is_one_transaction_with_an_event_for_each_kind(home: Home) {
    let (ann, first) = home.user("ann").await;
    let session = first.session.id;
    let change = UserChange {
        email: Some("Ann@Other.example".parse().unwrap()),
        confirm_email: true,
        password: Some(hash("second")),
        roles: Some(vec!["b".to_owned(), "a".to_owned()]),
        app_metadata: Some(object(json!({"plan": "pro", "none": null}))),
        user_metadata: Some(object(json!({"note": "x\u{0}", "name": null}))),
        max_metadata_bytes: Some(100),
        ban: Some(Ban::Until(at(DAY))),
        ..UserChange::default()
    };
    let mut by_admin = event(EventKind::UserUpdated, 5);
    by_admin.actor = Some("u-admin".to_owned());
    let changed = home.store.change_user(&ann, &change, at(5), &by_admin).await.unwrap();
    let ChangeUser::Done { user, ended } = changed else { panic!("{changed:?}") };
    assert_eq!(user.email, "Ann@Other.example");
    assert_eq!(user.email_confirmed_at, Some(at(5)));
    assert_eq!(user.roles, ["a", "b"]);
    assert_eq!(user.app_metadata, object(json!({"plan": "pro"})));
    assert_eq!(user.user_metadata, object(json!({"note": "x\u{fffd}"})));
    assert_eq!(user.disabled_until, Some(at(DAY)));
    assert_eq!(user.updated_at, at(5));
    assert_eq!(ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), [session]);
    let ended = home.store.session(&session).await.unwrap().unwrap().ended;
    assert_eq!(ended, Some((at(5), EndReason::Disabled)));
    let account = home.store.account_by_email(&"ann@other.example".parse().unwrap()).await.unwrap();
    let account = account.unwrap();
    assert_eq!(account.password_hash, Some(hash("second")));
    assert_eq!(account.user, *user);
    assert!(
        home.store.account_by_email(&"ann@example.com".parse().unwrap()).await.unwrap().is_none()
    );
    let mut of_change = home.store.events_of_user(&ann, 10, None).await.unwrap();
    of_change.sort_by_key(|stored| stored.number);
    let kinds: Vec<_> = of_change.iter().map(|stored| stored.event.kind).collect();
    let all = [
        EventKind::EmailChanged,
        EventKind::UserConfirmed,
        EventKind::RolesChanged,
        EventKind::UserUpdated,
        EventKind::PasswordChanged,
        EventKind::UserDisabled,
    ];
    assert_eq!(kinds, all);
    assert!(of_change.iter().all(|stored| stored.event.actor.as_deref() == Some("u-admin")));

    // The same once more is nothing, but for the disabling, which is always an act.
    let again = UserChange { password: None, ban: None, ..change };
    let done = home.store.change_user(&ann, &again, at(6), &by_admin).await.unwrap();
    assert_eq!(done, ChangeUser::Done { user, ended: Vec::new() });
    let lifted = UserChange { ban: Some(Ban::Lifted), ..UserChange::default() };
    let later = event(EventKind::UserUpdated, 7);
    home.store.change_user(&ann, &lifted, at(7), &later).await.unwrap();
    let entered = home
        .store
        .log_in(&ann, &hash("second"), None, &login(&ann, 8), &event(EventKind::Login, 8))
        .await;
    assert!(matches!(entered.unwrap(), LogIn::Done { .. }));
    let kinds = home.kinds().await;
    assert_eq!(kinds[..2], [EventKind::Login, EventKind::UserEnabled]);
    assert_eq!(kinds.len(), 9);
}

async fn a_taken_address_changes_nothing(home: Home) {
    let (ann, first) = home.user("ann").await;
    let session = first.session.id;
    home.user("bob").await;
    let before = home.store.account_by_id(&ann).await.unwrap().unwrap();
    let change = UserChange {
        email: Some("BOB@example.com".parse().unwrap()),
        password: Some(hash("second")),
        ..UserChange::default()
    };
    let template = event(EventKind::UserUpdated, 5);
    let refused = home.store.change_user(&ann, &change, at(5), &template).await.unwrap();
    assert_eq!(refused, ChangeUser::EmailTaken);
    let long = UserChange {
        user_metadata: Some(object(json!({"a": "0123456789"}))),
        max_metadata_bytes: Some(10),
        password: Some(hash("second")),
        ..UserChange::default()
    };
    let refused = home.store.change_user(&ann, &long, at(5), &template).await.unwrap();
    assert_eq!(refused, ChangeUser::MetadataTooLarge);
    let after = home.store.account_by_id(&ann).await.unwrap().unwrap();
    assert_eq!((after.user, after.password_hash), (before.user, before.password_hash));
    assert!(home.store.session(&session).await.unwrap().unwrap().ended.is_none());
    assert_eq!(home.kinds().await, [EventKind::Signup, EventKind::Signup]);
}

async fn of_many_who_get_one_address_one_has_it(home: Home) {
    let mut users = Vec::new();
    for n in 0..20 {
        users.push(home.user(&format!("u{n}")).await.0);
    }
    let change =
        UserChange { email: Some("one@example.com".parse().unwrap()), ..UserChange::default() };
    let tries = users.iter().map(|user| {
        let (store, change) = (&home.store, &change);
        async move {
            let template = event(EventKind::UserUpdated, 5);
            store.change_user(user, change, at(5), &template).await.unwrap()
        }
    });
    let ends = futures_util::future::join_all(tries).await;
    assert_eq!(ends.iter().filter(|end| matches!(end, ChangeUser::Done { .. })).count(), 1);
    assert_eq!(ends.iter().filter(|end| **end == ChangeUser::EmailTaken).count(), 19);
}

async fn an_address_wish_takes_the_place_of_an_earlier_one(home: Home) {
    let (ann, first) = home.user("ann").await;
    let session = first.session.id;
    let template = event(EventKind::UserUpdated, 5);
    for new in ["one@example.com", "two@example.com"] {
        let new_email = NewEmail { email: new.parse().unwrap(), consent: Consent::New };
        let change = UserChange { new_email: Some(new_email), ..UserChange::default() };
        home.store.change_user(&ann, &change, at(5), &template).await.unwrap();
        assert_eq!(home.store.user(&ann).await.unwrap().unwrap().new_email.as_deref(), Some(new));
    }
    assert!(home.store.session(&session).await.unwrap().unwrap().ended.is_none());
    // Another address by an administrator makes it void.
    let change =
        UserChange { email: Some("three@example.com".parse().unwrap()), ..UserChange::default() };
    home.store.change_user(&ann, &change, at(6), &template).await.unwrap();
    assert_eq!(home.store.user(&ann).await.unwrap().unwrap().new_email, None);
}

async fn who_is_gone_is_not_changed(home: Home) {
    let (ann, _) = home.user("ann").await;
    let deleted = event(EventKind::UserSoftDeleted, 1);
    home.store.delete_user(&ann, Deletion::Soft, at(1), &deleted).await.unwrap().unwrap();
    let change = UserChange { roles: Some(vec!["admin".to_owned()]), ..UserChange::default() };
    let template = event(EventKind::UserUpdated, 5);
    for id in [&ann, &"nobody".parse().unwrap()] {
        let refused = home.store.change_user(id, &change, at(5), &template).await.unwrap();
        assert_eq!(refused, ChangeUser::NotFound);
    }
    assert_eq!(home.store.user(&ann).await.unwrap().unwrap().roles, [""; 0]);
    // What was emptied can still go for good, once.
    let gone = event(EventKind::UserDeleted, 6);
    let hard = home.store.delete_user(&ann, Deletion::Hard, at(6), &gone).await.unwrap();
    assert_eq!(hard, Some(Vec::new()));
    assert!(home.store.user(&ann).await.unwrap().is_none());
}

async fn pages_have_the_newest_first_and_a_total(home: Home) {
    for (n, name) in ["ann", "bob", "cid", "dan", "eve"].iter().enumerate() {
        let mut new = account(name);
        new.user.created_at = at(i64::try_from(n / 2).unwrap());
        let made = home.store.sign_up(&new, None, &event(EventKind::UserCreated, 0)).await;
        assert_eq!(made.unwrap(), SignUp::Created);
    }
    let page = async |filter: Option<&str>, after: u64, limit: u32| {
        let UserPage { users, total } = home.store.user_page(filter, after, limit).await.unwrap();
        let ids: Vec<_> = users.iter().map(|user| user.id.to_string()).collect();
        (ids.join(" "), total)
    };
    assert_eq!(page(None, 0, 3).await, ("u-eve u-dan u-cid".to_owned(), 5));
    assert_eq!(page(None, 3, 3).await, ("u-bob u-ann".to_owned(), 5));
    assert_eq!(page(None, 5, 3).await, (String::new(), 5));
    assert_eq!(page(None, u64::MAX, 3).await, (String::new(), 5));
    assert_eq!(page(Some("AN@"), 0, 9).await, ("u-dan".to_owned(), 1));
    assert_eq!(page(Some("u-e"), 0, 9).await, ("u-eve".to_owned(), 1));
    assert_eq!(page(Some("nobody"), 0, 9).await, (String::new(), 0));
}
