//! Accounts: sign-up, login, changes.

use portcullis::model::{Aal, EndReason, EventKind, JsonObject, PasswordHash, UserId};
use portcullis::store::{
    Deletion, LogIn, Refresh, RevocationCursor, Sessions, SignUp, UpdateUser, UserUpdate,
};
use serde_json::json;
use uuid::Uuid;

use super::{DAY, HOUR, Home, account, at, event, hash, login, object, on_both, rotation};

on_both![
    sign_up_stores_account_login_and_event,
    taken_addresses_and_ids_store_nothing,
    of_fifty_sign_ups_of_one_address_one_wins,
    login_needs_the_hash_that_was_checked_and_an_enabled_user,
    who_has_no_password_moves_in_once,
    last_sign_in_never_moves_backwards,
    no_login_survives_a_disabling,
    user_changes_metadata_and_password,
    a_new_password_may_leave_the_other_sessions,
    users_are_listed_in_pages_and_found_by_substring,
    administrators_change_users,
    deleting_a_user_ends_sessions_and_keeps_events,
];

async fn sign_up_stores_account_login_and_event(home: Home) {
    let mut new = account("Ann");
    let nanos = jiff::Span::new().nanoseconds(789);
    new.user.created_at = at(0).checked_add(nanos).unwrap();
    new.user.roles = vec!["b".to_owned(), "a".to_owned(), "b".to_owned()];
    new.user.app_metadata = object(json!({"plan": {"seats": 3, "price": 1.5}}));
    new.user.user_metadata = object(json!({"note": "ä\u{0}🦀"}));
    let first = login(&new.user.id, 0);
    let stored = home.store.sign_up(&new, Some(&first), &event(EventKind::Signup, 0)).await;
    assert_eq!(stored.unwrap(), SignUp::Created);

    let found = home.store.account_by_email(&"ANN@example.COM".parse().unwrap()).await.unwrap();
    let found = found.unwrap();
    let mut want = new.user.clone();
    want.created_at = at(0);
    want.roles = vec!["a".to_owned(), "b".to_owned()];
    want.last_sign_in_at = Some(at(0));
    want.user_metadata = object(json!({"note": "ä\u{fffd}🦀"}));
    assert_eq!(found.user, want);
    assert_eq!(found.user.email, "Ann@Example.com");
    assert_eq!(found.password_hash, Some(hash("first")));
    assert_eq!(home.store.user(&want.id).await.unwrap(), Some(want.clone()));
    let by_id = home.store.account_by_id(&want.id).await.unwrap().unwrap();
    assert_eq!(by_id.user, want);
    assert_eq!(home.store.session(&first.session.id).await.unwrap(), Some(first.session));
    assert_eq!(home.kinds().await, [EventKind::Signup]);
    assert!(home.store.user(&"nobody".parse().unwrap()).await.unwrap().is_none());
}

async fn taken_addresses_and_ids_store_nothing(home: Home) {
    home.user("ann").await;
    let signup = event(EventKind::Signup, 1);

    let mut same_address = account("ANN");
    same_address.user.id = "other".parse().unwrap();
    let first = login(&same_address.user.id, 1);
    let refused = home.store.sign_up(&same_address, Some(&first), &signup).await.unwrap();
    assert_eq!(refused, SignUp::EmailTaken);

    let mut same_id = account("bob");
    same_id.user.id = "u-ann".parse().unwrap();
    let refused = home.store.sign_up(&same_id, None, &signup).await.unwrap();
    assert_eq!(refused, SignUp::IdTaken);

    assert_eq!(home.kinds().await, [EventKind::Signup]);
    assert!(home.store.session(&first.session.id).await.unwrap().is_none());
    assert_eq!(home.store.users(None, 10, None).await.unwrap().len(), 1);
}

async fn of_fifty_sign_ups_of_one_address_one_wins(home: Home) {
    let attempts = (0..50).map(|n| {
        let mut new = account("ann");
        new.user.id = format!("u-{n}").parse().unwrap();
        let store = &home.store;
        async move {
            let first = login(&new.user.id, 0);
            store.sign_up(&new, Some(&first), &event(EventKind::Signup, 0)).await.unwrap()
        }
    });
    let ends = futures_util::future::join_all(attempts).await;
    assert_eq!(ends.iter().filter(|end| **end == SignUp::Created).count(), 1);
    assert_eq!(ends.iter().filter(|end| **end == SignUp::EmailTaken).count(), 49);
    assert_eq!(home.store.users(None, 100, None).await.unwrap().len(), 1);
    assert_eq!(home.kinds().await, [EventKind::Signup]);
}

async fn login_needs_the_hash_that_was_checked_and_an_enabled_user(home: Home) {
    let (ann, _) = home.user("ann").await;
    let logged_in = event(EventKind::Login, 10);
    let second = login(&ann, 10);
    let done = home
        .store
        .log_in(&ann, &hash("first"), Some(&hash("second")), &second, &logged_in)
        .await
        .unwrap();
    let LogIn::Done { user, .. } = done else { panic!("{done:?}") };
    assert_eq!(user.last_sign_in_at, Some(at(10)));
    assert_eq!(home.store.sessions_of(&ann, at(10)).await.unwrap()[0], second.session);

    let try_with = async |user: &UserId, checked: PasswordHash, second: i64| {
        let new = login(user, second);
        let logged_in = event(EventKind::Login, second);
        let end = home.store.log_in(user, &checked, None, &new, &logged_in).await.unwrap();
        let stored = home.store.session(&new.session.id).await.unwrap().is_some();
        assert_eq!(stored, end != LogIn::Refused);
        stored
    };
    assert!(!try_with(&ann, hash("first"), 11).await, "the hash was replaced");
    assert!(try_with(&ann, hash("second"), 11).await);
    assert!(!try_with(&"nobody".parse().unwrap(), hash("first"), 11).await);

    let disabled = event(EventKind::UserDisabled, 12);
    home.store.disable(&ann, at(100), at(12), &disabled).await.unwrap().unwrap();
    assert!(!try_with(&ann, hash("second"), 99).await, "disabled until 100");
    assert!(try_with(&ann, hash("second"), 100).await);
    let kinds = home.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::Login).count(), 3);
}

async fn who_has_no_password_moves_in_once(home: Home) {
    let mut new = account("ann");
    new.password_hash = None;
    let ann = new.user.id.clone();
    let made = event(EventKind::UserCreated, 0);
    assert_eq!(home.store.sign_up(&new, None, &made).await.unwrap(), SignUp::Created);
    let move_in = async |user: &UserId, password: &str, second: i64| {
        let new = login(user, second);
        let event = event(EventKind::Login, second);
        let end = home.store.move_in(user, &hash(password), &new, &event).await.unwrap();
        let stored = home.store.session(&new.session.id).await.unwrap().is_some();
        assert_eq!(stored, end != LogIn::Refused);
        end
    };
    let disabled = event(EventKind::UserDisabled, 1);
    home.store.disable(&ann, at(10), at(1), &disabled).await.unwrap().unwrap();
    assert_eq!(move_in(&ann, "one", 9).await, LogIn::Refused, "disabled until 10");
    let LogIn::Done { user, ended } = move_in(&ann, "one", 10).await else { panic!("refused") };
    assert!(ended.is_empty());
    assert_eq!((user.last_sign_in_at, user.email_confirmed_at), (Some(at(10)), Some(at(10))));
    let stored = home.store.account_by_id(&ann).await.unwrap().unwrap();
    assert_eq!((stored.user, stored.password_hash), (user, Some(hash("one"))));
    assert_eq!(move_in(&ann, "two", 11).await, LogIn::Refused, "has one by now");
    assert_eq!(move_in(&"nobody".parse().unwrap(), "two", 11).await, LogIn::Refused);
    let (bob, _) = home.user("bob").await;
    assert_eq!(move_in(&bob, "two", 11).await, LogIn::Refused, "has always had one");
    let stored = home.store.account_by_id(&ann).await.unwrap().unwrap();
    assert_eq!(stored.password_hash, Some(hash("one")));
    let kinds = home.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::Login).count(), 1);
}

async fn last_sign_in_never_moves_backwards(home: Home) {
    let (ann, _) = home.user("ann").await;
    for second in [50, 20] {
        let new = login(&ann, second);
        let logged_in = event(EventKind::Login, second);
        let done = home.store.log_in(&ann, &hash("first"), None, &new, &logged_in).await.unwrap();
        let LogIn::Done { user, .. } = done else { panic!("{done:?}") };
        assert_eq!(user.last_sign_in_at, Some(at(50)));
    }
}

async fn no_login_survives_a_disabling(home: Home) {
    for round in 0..20 {
        let (user, _) = home.user(&format!("user{round}")).await;
        let logins = (0..4).map(|_| {
            let (store, user) = (&home.store, user.clone());
            async move {
                let new = login(&user, 5);
                let logged_in = event(EventKind::Login, 5);
                store.log_in(&user, &hash("first"), None, &new, &logged_in).await.unwrap();
            }
        });
        let disabled = event(EventKind::UserDisabled, 5);
        let disabling = async {
            // A different number of steps each round, so that the race has many outcomes.
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            home.store.disable(&user, at(HOUR), at(5), &disabled).await.unwrap().unwrap()
        };
        futures_util::future::join(futures_util::future::join_all(logins), disabling).await;
        let living = home.store.sessions_of(&user, at(5)).await.unwrap();
        assert!(living.is_empty(), "round {round}: {living:?}");
    }
}

async fn a_new_password_may_leave_the_other_sessions(home: Home) {
    let (ann, first) = home.user("ann").await;
    let second = login(&ann, 1);
    let logged_in = event(EventKind::Login, 1);
    home.store.log_in(&ann, &hash("first"), None, &second, &logged_in).await.unwrap();
    for (sign_out_others, left) in [(false, 2), (true, 1)] {
        let update = UserUpdate {
            metadata_patch: None,
            max_metadata_bytes: 100,
            new_password: Some((hash("next"), None)),
            keep_session: second.session.id,
            aal: Aal::One,
            sign_out_others,
            nonce: None,
            new_email: None,
            parcels: Vec::new(),
        };
        let end = home.store.update_user(&ann, &update, at(2), &[]).await.unwrap();
        let UpdateUser::Done { ended, .. } = end else { panic!("{end:?}") };
        assert_eq!(ended.iter().any(|session| session.id == first.session.id), sign_out_others);
        assert_eq!(home.store.sessions_of(&ann, at(2)).await.unwrap().len(), left);
    }
}

async fn user_changes_metadata_and_password(home: Home) {
    let (ann, first) = home.user("ann").await;
    let second = login(&ann, 1);
    let logged_in = event(EventKind::Login, 1);
    home.store.log_in(&ann, &hash("first"), None, &second, &logged_in).await.unwrap();
    let update = |patch: Option<JsonObject>, password| UserUpdate {
        metadata_patch: patch,
        max_metadata_bytes: 100,
        new_password: password,
        keep_session: second.session.id,
        aal: Aal::One,
        sign_out_others: true,
        nonce: None,
        new_email: None,
        parcels: Vec::new(),
    };
    let change = async |update: UserUpdate, second: i64| {
        let updated = [event(EventKind::UserUpdated, second)];
        home.store.update_user(&ann, &update, at(second), &updated).await.unwrap()
    };

    let patch = object(json!({"name": null, "city": "Kraków"}));
    let done = change(update(Some(patch), None), 2).await;
    let UpdateUser::Done { user, ended } = done else { panic!("{done:?}") };
    assert_eq!(user.user_metadata, object(json!({"city": "Kraków"})));
    assert_eq!((user.updated_at, ended), (at(2), Vec::new()));

    let long = object(json!({"text": "x".repeat(100)}));
    assert_eq!(change(update(Some(long), None), 3).await, UpdateUser::MetadataTooLarge);
    let wrong = Some((hash("second"), Some(hash("old"))));
    assert_eq!(change(update(None, wrong), 3).await, UpdateUser::PasswordChangedMeanwhile);
    assert_eq!(home.store.sessions_of(&ann, at(3)).await.unwrap().len(), 2, "nothing changed");

    let right = Some((hash("second"), Some(hash("first"))));
    let done = change(update(None, right), 4).await;
    let UpdateUser::Done { user, ended } = done else { panic!("{done:?}") };
    assert_eq!(user.user_metadata, object(json!({"city": "Kraków"})));
    assert_eq!(ended.iter().map(|e| e.id).collect::<Vec<_>>(), [first.session.id]);
    assert_eq!(home.revoked(4).await, [first.session.id]);
    let account = home.store.account_by_id(&ann).await.unwrap().unwrap();
    assert_eq!(account.password_hash, Some(hash("second")));
    let over = home.store.refresh(&rotation(first.refresh, 5)).await.unwrap();
    assert_eq!(over, Refresh::Ended(EndReason::PasswordChanged));

    let unchecked = change(update(None, Some((hash("third"), None))), 6).await;
    assert!(matches!(unchecked, UpdateUser::Done { .. }), "{unchecked:?}");
    let nobody: UserId = "nobody".parse().unwrap();
    let found = home.store.update_user(&nobody, &update(None, None), at(7), &[]).await.unwrap();
    assert_eq!(found, UpdateUser::NotFound);
    let updated = home.kinds().await.into_iter().filter(|k| *k == EventKind::UserUpdated).count();
    assert_eq!(updated, 3, "one for each change that was made");
}

async fn users_are_listed_in_pages_and_found_by_substring(home: Home) {
    for name in ["carol", "Ann", "bob", "anna", "a_b"] {
        home.user(name).await;
    }
    let ids = async |filter: Option<&str>, limit, after: Option<&str>| -> Vec<String> {
        let after = after.map(|id| id.parse::<UserId>().unwrap());
        let found = home.store.users(filter, limit, after.as_ref()).await.unwrap();
        found.into_iter().map(|user| user.id.to_string()).collect()
    };
    // Byte order in both databases.
    let all = ["u-Ann", "u-a_b", "u-anna", "u-bob", "u-carol"];
    assert_eq!(ids(None, 10, None).await, all);
    assert_eq!(ids(None, 2, None).await, all[..2]);
    assert_eq!(ids(None, 2, Some("u-a_b")).await, all[2..4]);
    assert_eq!(ids(Some("ANN"), 10, None).await, ["u-Ann", "u-anna"], "the address, any case");
    assert_eq!(ids(Some("u-b"), 10, None).await, ["u-bob"], "the id");
    assert_eq!(ids(Some("a_b"), 10, None).await, ["u-a_b"], "no wildcards");
    assert_eq!(ids(Some("%"), 10, None).await, [""; 0]);
}

async fn administrators_change_users(home: Home) {
    let (ann, first) = home.user("ann").await;
    let store = &home.store;
    let roles = ["support".to_owned(), "admin".to_owned(), "admin".to_owned()];
    let changed = store.set_roles(&ann, &roles, at(1), &event(EventKind::RolesChanged, 1)).await;
    let changed = changed.unwrap().unwrap();
    assert_eq!(
        (changed.roles, changed.updated_at),
        (vec!["admin".into(), "support".into()], at(1))
    );

    for second in [2, 3] {
        let confirmed = event(EventKind::UserConfirmed, second);
        let user = store.confirm_email(&ann, at(second), &confirmed).await.unwrap().unwrap();
        assert_eq!(user.email_confirmed_at, Some(at(2)), "the first time counts");
    }

    let disabled = event(EventKind::UserDisabled, 4);
    let ended = store.disable(&ann, at(DAY), at(4), &disabled).await.unwrap().unwrap();
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].id, ended[0].until), (first.session.id, at(HOUR)));
    let session = store.session(&first.session.id).await.unwrap().unwrap();
    assert_eq!(session.ended, Some((at(4), EndReason::Disabled)));
    let user = store.user(&ann).await.unwrap().unwrap();
    assert_eq!((user.disabled_until, user.is_disabled(at(5))), (Some(at(DAY)), true));
    let user = store.enable(&ann, at(6), &event(EventKind::UserEnabled, 6)).await.unwrap();
    assert_eq!(user.unwrap().disabled_until, None);

    let for_ever = event(EventKind::UserDisabled, 7);
    let none = store.disable(&ann, jiff::Timestamp::MAX, at(7), &for_ever).await.unwrap();
    assert!(none.unwrap().is_empty(), "no session was left");
    assert!(store.user(&ann).await.unwrap().unwrap().is_disabled(at(10_000 * DAY)));

    let nobody: UserId = "nobody".parse().unwrap();
    let unseen = event(EventKind::UserDisabled, 7);
    assert!(store.set_roles(&nobody, &roles, at(7), &unseen).await.unwrap().is_none());
    assert!(store.confirm_email(&nobody, at(7), &unseen).await.unwrap().is_none());
    assert!(store.disable(&nobody, at(9), at(7), &unseen).await.unwrap().is_none());
    assert!(store.enable(&nobody, at(7), &unseen).await.unwrap().is_none());
    assert!(store.delete_user(&nobody, Deletion::Hard, at(7), &unseen).await.unwrap().is_none());
    assert_eq!(
        home.kinds().await,
        [
            EventKind::UserDisabled,
            EventKind::UserEnabled,
            EventKind::UserDisabled,
            EventKind::UserConfirmed,
            EventKind::RolesChanged,
            EventKind::Signup,
        ]
    );
}

async fn deleting_a_user_ends_sessions_and_keeps_events(home: Home) {
    let (ann, first) = home.user("ann").await;
    let (bob, _) = home.user("bob").await;
    let mut cursor = RevocationCursor::default();
    home.store.ended_sessions(&mut cursor, at(0)).await.unwrap();
    let mut deleted = event(EventKind::UserDeleted, 1);
    deleted.user_id = Some(ann.clone());
    let ended =
        home.store.delete_user(&ann, Deletion::Hard, at(1), &deleted).await.unwrap().unwrap();
    assert_eq!(ended.iter().map(|e| e.id).collect::<Vec<_>>(), [first.session.id]);
    assert_eq!(home.store.ended_sessions(&mut cursor, at(1)).await.unwrap(), ended);

    assert!(home.store.user(&ann).await.unwrap().is_none());
    assert!(home.store.session(&first.session.id).await.unwrap().is_none());
    let shown = home.store.refresh(&rotation(first.refresh, 2)).await.unwrap();
    assert_eq!(shown, Refresh::NotFound);
    let events = home.store.events_of_user(&ann, 10, None).await.unwrap();
    assert_eq!(events.iter().map(|e| e.event.kind).collect::<Vec<_>>(), [EventKind::UserDeleted]);
    assert_eq!(home.store.sessions_of(&bob, at(2)).await.unwrap().len(), 1);
    // The address is free again.
    let again = home.store.sign_up(&account("ann"), None, &event(EventKind::Signup, 3)).await;
    assert_eq!(again.unwrap(), SignUp::Created);
    let others = Sessions::Others(Uuid::nil());
    let logout = event(EventKind::Logout, 4);
    let none = home.store.end_sessions(&ann, others, EndReason::Logout, at(4), &logout).await;
    assert!(none.unwrap().is_empty());
}
