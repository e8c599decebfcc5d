//! API keys: making, rotating, ending, and how gateways learn of it.

use std::time::Duration;

use portcullis::model::{ApiKey, EventKind, TokenDigest, User, UserId};
use portcullis::store::{
    AddApiKey, ApiKeyCursor, Deletion, Fit, KeyName, LinkOwner, LinkUse, NewLink, NewSession,
    RotateApiKey, Shown, Store, UseLink,
};
use uuid::Uuid;

use super::{DAY, HOUR, Home, at, digest, event, on_both};

on_both![
    a_key_is_stored_and_found,
    a_user_has_so_many_keys_and_no_more,
    of_many_keys_made_at_once_no_more_than_allowed_are,
    a_rotated_key_goes_on_for_a_while,
    a_key_is_revoked_once_and_by_its_user_only,
    gateways_learn_of_every_change,
    a_change_of_the_user_is_a_change_of_the_keys,
    a_late_commit_is_not_missed,
    a_key_made_while_its_user_changes_is_seen_with_the_change,
    whoever_proves_the_address_ends_the_keys_that_others_made,
    last_uses_are_noted_to_five_minutes,
    pruning_deletes_keys_long_over,
];

pub(super) fn key(user: &UserId, second: i64) -> ApiKey {
    let id = Uuid::from_bytes(portcullis::clock::random_bytes());
    ApiKey {
        id,
        user_id: user.clone(),
        name: "a job".to_owned(),
        prefix: format!("pck_{}", &id.simple().to_string()[..8]),
        digest: digest(),
        scopes: vec!["orders:write".to_owned(), "read".to_owned()],
        created_at: at(second),
        created_by: "cli".to_owned(),
        expires_at: Some(at(second + 90 * DAY)),
        revoked_at: None,
        last_used_at: None,
        replaces: None,
    }
}

pub(super) async fn add(home: &Home, key: &ApiKey) {
    assert_eq!(try_to_add(home, key, 100).await, AddApiKey::Added);
}

async fn try_to_add(home: &Home, key: &ApiKey, max: u32) -> AddApiKey {
    let made = event(EventKind::ApiKeyCreated, 0);
    home.store.add_api_key(key, max, &made).await.unwrap()
}

async fn revoke(home: &Home, id: Uuid, user: Option<&UserId>, second: i64) -> bool {
    let ended = event(EventKind::ApiKeyRevoked, second);
    home.store.revoke_api_key(id, user, at(second), &ended).await.unwrap()
}

/// What the cursor's gateway is told: the keys that are there, and the ids of those that are not.
async fn news(store: &Store, cursor: &mut ApiKeyCursor) -> (Vec<(ApiKey, User)>, Vec<Uuid>, bool) {
    let news = store.changed_api_keys(cursor).await.unwrap();
    let gone = news.keys.iter().filter(|(_, key)| key.is_none()).map(|(id, _)| *id).collect();
    let there = news.keys.into_iter().filter_map(|(id, key)| {
        let (key, user) = key?;
        assert_eq!(key.id, id);
        Some((key, user))
    });
    (there.collect(), gone, news.all)
}

async fn a_key_is_stored_and_found(home: Home) {
    let (ann, _) = home.user("ann").await;
    let (bob, _) = home.user("bob").await;
    let (one, two) = (key(&ann, 0), ApiKey { expires_at: None, ..key(&ann, 10) });
    let other = key(&bob, 20);
    for key in [&one, &two, &other] {
        add(&home, key).await;
    }
    assert_eq!(home.store.api_keys(Some(&ann)).await.unwrap(), [two.clone(), one.clone()]);
    assert_eq!(home.store.api_keys(None).await.unwrap().len(), 3);
    for name in [KeyName::Id(one.id), KeyName::Prefix(one.prefix.clone())] {
        assert_eq!(home.store.api_key(&name).await.unwrap().as_ref(), Some(&one));
    }
    let unknown = KeyName::Prefix("pck_".to_owned());
    assert_eq!(home.store.api_key(&unknown).await.unwrap(), None);

    let nobody = key(&"u-nobody".parse().unwrap(), 30);
    assert_eq!(try_to_add(&home, &nobody, 100).await, AddApiKey::NoUser);
    let same = ApiKey { prefix: one.prefix.clone(), ..key(&ann, 30) };
    assert_eq!(try_to_add(&home, &same, 100).await, AddApiKey::Taken);
    let kinds = home.kinds().await;
    let told = kinds.iter().filter(|kind| **kind == EventKind::ApiKeyCreated);
    assert_eq!(told.count(), 3, "what was not stored is no event");
}

async fn a_user_has_so_many_keys_and_no_more(home: Home) {
    let (ann, _) = home.user("ann").await;
    let keys = [key(&ann, 0), key(&ann, 0), key(&ann, 0)];
    for (key, expected) in keys.iter().zip([AddApiKey::Added, AddApiKey::Added, AddApiKey::TooMany])
    {
        assert_eq!(try_to_add(&home, key, 2).await, expected);
    }
    // What is over does not count.
    assert!(revoke(&home, keys[0].id, None, 5).await);
    assert_eq!(try_to_add(&home, &keys[2], 2).await, AddApiKey::Added);
    let later = key(&ann, 91 * DAY);
    assert_eq!(try_to_add(&home, &later, 1).await, AddApiKey::Added);
    assert_eq!(try_to_add(&home, &key(&ann, 0), 0).await, AddApiKey::TooMany);
}

async fn of_many_keys_made_at_once_no_more_than_allowed_are(home: Home) {
    let (ann, _) = home.user("ann").await;
    let keys: Vec<_> = (0..16).map(|_| key(&ann, 0)).collect();
    let adding = keys.iter().map(|key| try_to_add(&home, key, 5));
    let added = futures_util::future::join_all(adding).await;
    assert_eq!(added.into_iter().filter(|done| *done == AddApiKey::Added).count(), 5);
}

async fn a_rotated_key_goes_on_for_a_while(home: Home) {
    let (ann, _) = home.user("ann").await;
    let (bob, _) = home.user("bob").await;
    let old = key(&ann, 0);
    add(&home, &old).await;
    let next = |user: &UserId, second| ApiKey { replaces: Some(old.id), ..key(user, second) };
    let rotate = |new: ApiKey, ends, max| {
        let store = &home.store;
        let told = [event(EventKind::ApiKeyRotated, 10), event(EventKind::ApiKeyCreated, 10)];
        async move { store.rotate_api_key(&new, ends, max, &told).await.unwrap() }
    };
    let new = next(&ann, 10);
    assert_eq!(rotate(new.clone(), at(DAY), 2).await, RotateApiKey::Rotated);
    let found = home.store.api_key(&KeyName::Id(old.id)).await.unwrap().unwrap();
    assert_eq!((found.expires_at, found.revoked_at), (Some(at(DAY)), None));
    assert_eq!(home.store.api_key(&KeyName::Id(new.id)).await.unwrap(), Some(new));
    let kinds = home.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::ApiKeyRotated).count(), 1);

    // Once more: the old one's end does not move away.
    assert_eq!(rotate(next(&ann, 20), at(9 * DAY), 2).await, RotateApiKey::TooMany);
    assert_eq!(rotate(next(&ann, 20), at(9 * DAY), 3).await, RotateApiKey::Rotated);
    let found = home.store.api_key(&KeyName::Id(old.id)).await.unwrap().unwrap();
    assert_eq!(found.expires_at, Some(at(DAY)));
    // Not another user's, not one that is over, not one that never was.
    assert_eq!(rotate(next(&bob, 30), at(DAY), 9).await, RotateApiKey::NotFound);
    assert_eq!(rotate(next(&ann, DAY), at(DAY), 9).await, RotateApiKey::NotFound);
    assert_eq!(rotate(key(&ann, 30), at(DAY), 9).await, RotateApiKey::NotFound);
    // An end where there was none.
    let endless = ApiKey { expires_at: None, ..key(&bob, 0) };
    add(&home, &endless).await;
    let new = ApiKey { replaces: Some(endless.id), ..key(&bob, 40) };
    assert_eq!(rotate(new, at(50), 9).await, RotateApiKey::Rotated);
    let found = home.store.api_key(&KeyName::Id(endless.id)).await.unwrap().unwrap();
    assert_eq!(found.expires_at, Some(at(50)));
}

async fn a_key_is_revoked_once_and_by_its_user_only(home: Home) {
    let (ann, _) = home.user("ann").await;
    let (bob, _) = home.user("bob").await;
    let mine = key(&ann, 0);
    add(&home, &mine).await;
    assert!(!revoke(&home, mine.id, Some(&bob), 10).await);
    assert!(revoke(&home, mine.id, Some(&ann), 10).await);
    assert!(!revoke(&home, mine.id, None, 20).await);
    let found = home.store.api_key(&KeyName::Id(mine.id)).await.unwrap().unwrap();
    assert_eq!(found.revoked_at, Some(at(10)));
    assert!(!found.is_live(at(20)));
    let told = home.kinds().await.into_iter().filter(|kind| *kind == EventKind::ApiKeyRevoked);
    assert_eq!(told.count(), 1);
}

async fn gateways_learn_of_every_change(home: Home) {
    let (ann, _) = home.user("ann").await;
    let (one, two) = (key(&ann, 0), key(&ann, 1));
    add(&home, &one).await;
    let gateway = home.another();
    let mut cursor = ApiKeyCursor::default();
    let (there, gone, all) = news(&gateway, &mut cursor).await;
    assert_eq!((there.len(), gone.len(), all), (1, 0, true));
    assert_eq!((&there[0].0, there[0].1.id.as_str()), (&one, ann.as_str()));
    let (there, gone, all) = news(&gateway, &mut cursor).await;
    assert!(gone.is_empty() && !all && there.iter().all(|(key, _)| *key == one));

    add(&home, &two).await;
    let (there, ..) = news(&gateway, &mut cursor).await;
    assert!(there.iter().any(|(key, _)| *key == two), "{there:?}");

    let told = [event(EventKind::ApiKeyRotated, 10)];
    let new = ApiKey { replaces: Some(two.id), ..key(&ann, 10) };
    home.store.rotate_api_key(&new, at(HOUR), 9, &told).await.unwrap();
    let (there, ..) = news(&gateway, &mut cursor).await;
    let find = |id| there.iter().map(|(key, _)| key).find(|key| key.id == id);
    assert_eq!(find(two.id).unwrap().expires_at, Some(at(HOUR)));
    assert_eq!(find(new.id), Some(&new));

    revoke(&home, one.id, None, 20).await;
    let (_, gone, _) = news(&gateway, &mut cursor).await;
    assert_eq!(gone, [one.id]);
    home.store
        .delete_user(&ann, Deletion::Hard, at(30), &event(EventKind::UserDeleted, 30))
        .await
        .unwrap();
    let (there, mut gone, _) = news(&gateway, &mut cursor).await;
    gone.retain(|id| *id != one.id);
    gone.sort();
    let mut expected = [two.id, new.id];
    expected.sort();
    assert!(there.is_empty() && gone == expected, "{there:?} {gone:?}");

    // Whoever begins now is told nothing of what is over.
    let (there, gone, all) = news(&gateway, &mut ApiKeyCursor::default()).await;
    assert!(there.is_empty() && gone.is_empty() && all);
}

async fn a_change_of_the_user_is_a_change_of_the_keys(home: Home) {
    let (ann, _) = home.user("ann").await;
    let (bob, _) = home.user("bob").await;
    let (mine, his) = (key(&ann, 0), key(&bob, 0));
    add(&home, &mine).await;
    add(&home, &his).await;
    let gateway = home.another();
    let mut cursor = ApiKeyCursor::default();
    news(&gateway, &mut cursor).await;
    // Old news may be told twice; after this nothing is left of it.
    let mut now = async || -> Option<User> {
        let (there, ..) = news(&gateway, &mut cursor).await;
        there.into_iter().find(|(key, _)| key.id == mine.id).map(|(_, user)| user)
    };
    let roles = ["staff".to_owned()];
    home.store.set_roles(&ann, &roles, at(10), &event(EventKind::RolesChanged, 10)).await.unwrap();
    assert_eq!(now().await.unwrap().roles, roles);
    home.store.confirm_email(&ann, at(11), &event(EventKind::UserConfirmed, 11)).await.unwrap();
    assert_eq!(now().await.unwrap().email_confirmed_at, Some(at(11)));
    let disabled = event(EventKind::UserDisabled, 12);
    home.store.disable(&ann, at(DAY), at(12), &disabled).await.unwrap();
    assert_eq!(now().await.unwrap().disabled_until, Some(at(DAY)));
    home.store.enable(&ann, at(13), &event(EventKind::UserEnabled, 13)).await.unwrap();
    assert_eq!(now().await.unwrap().disabled_until, None);
    // Behind the store's back, too.
    home.sql("UPDATE users SET email = 'other@example.com' WHERE id = 'u-ann'").await;
    assert_eq!(now().await.unwrap().email, "other@example.com");
}

/// A transaction that began before a reading and commits after it.
async fn a_late_commit_is_not_missed(home: Home) {
    let (ann, _) = home.user("ann").await;
    let keys: Vec<_> = (0..40).map(|_| key(&ann, 0)).collect();
    let gateway = home.another();
    let mut cursor = ApiKeyCursor::default();
    news(&gateway, &mut cursor).await;
    let adding = futures_util::future::join_all(keys.iter().map(|key| add(&home, key)));
    let mut told = std::collections::BTreeSet::new();
    let reading = async {
        for _ in 0..20 {
            let (there, ..) = news(&gateway, &mut cursor).await;
            told.extend(there.into_iter().map(|(key, _)| key.id));
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(adding, reading);
    let (there, ..) = news(&gateway, &mut cursor).await;
    told.extend(there.into_iter().map(|(key, _)| key.id));
    assert_eq!(told.len(), 40);
}

async fn a_key_made_while_its_user_changes_is_seen_with_the_change(home: Home) {
    for round in 0..10 {
        let (ann, _) = home.user(&format!("ann{round}")).await;
        let gateway = home.another();
        let mut cursor = ApiKeyCursor::default();
        news(&gateway, &mut cursor).await;
        let mine = key(&ann, 0);
        let roles = ["staff".to_owned()];
        let changed = event(EventKind::RolesChanged, 1);
        let changing = home.store.set_roles(&ann, &roles, at(1), &changed);
        let mut known = None;
        let mut read = async || {
            let (there, ..) = news(&gateway, &mut cursor).await;
            if let Some((_, user)) = there.into_iter().find(|(key, _)| key.id == mine.id) {
                known = Some(user.roles);
            }
        };
        let (changing, (), ()) = tokio::join!(changing, add(&home, &mine), read());
        changing.unwrap();
        read().await;
        assert_eq!(known.as_deref(), Some(&roles[..]), "round {round}");
    }
}

async fn whoever_proves_the_address_ends_the_keys_that_others_made(home: Home) {
    let (ann, _) = home.user("ann").await;
    let foreign = key(&ann, 0);
    add(&home, &foreign).await;
    let shown = TokenDigest([9; 32]);
    let link = NewLink {
        digest: shown,
        owner: LinkOwner::Address,
        purpose: portcullis::model::Purpose::Recovery,
        email: "ann@example.com".parse().unwrap(),
        code: None,
        redirect_to: None,
        challenge: None,
        password: None,
        user_metadata: None,
        new_email: None,
        session_id: None,
        now: at(10),
        expires_at: at(HOUR),
    };
    home.store.put_link(&link, Duration::ZERO, &event(EventKind::Signup, 10)).await.unwrap();
    let used = LinkUse {
        shown: Shown::Link { digest: shown, purposes: vec![portcullis::model::Purpose::Recovery] },
        session: NewSession {
            id: Uuid::from_bytes(portcullis::clock::random_bytes()),
            refresh: digest(),
            expires_at: at(30 * DAY),
            access_expires_at: at(HOUR),
            address: None,
            user_agent: None,
            max_sessions: None,
            fit: Fit::always(),
        },
        pkce: None,
        notify_former_address: false,
        now: at(20),
        event: event(EventKind::LinkUsed, 20),
    };
    let opened = home.store.use_link(&used).await.unwrap();
    assert!(matches!(opened, UseLink::LoggedIn { .. }), "{opened:?}");
    let found = home.store.api_key(&KeyName::Id(foreign.id)).await.unwrap().unwrap();
    assert_eq!(found.revoked_at, Some(at(20)));
}

async fn last_uses_are_noted_to_five_minutes(home: Home) {
    let (ann, _) = home.user("ann").await;
    let mine = key(&ann, 0);
    add(&home, &mine).await;
    let gateway = home.another();
    let mut cursor = ApiKeyCursor::default();
    news(&gateway, &mut cursor).await;
    news(&gateway, &mut cursor).await;
    for (used, known) in [(10, 10), (309, 10), (310, 310), (0, 310)] {
        let twice = [(mine.id, at(used - 1)), (mine.id, at(used)), (Uuid::nil(), at(used))];
        home.store.touch_api_keys(&twice).await.unwrap();
        let found = home.store.api_key(&KeyName::Id(mine.id)).await.unwrap().unwrap();
        assert_eq!(found.last_used_at, Some(at(known)), "{used}");
    }
    home.store.touch_api_keys(&[]).await.unwrap();
    // No change that others have to know: nothing was noted for them.
    home.sql("DELETE FROM api_key_changes").await;
    home.store.touch_api_keys(&[(mine.id, at(DAY))]).await.unwrap();
    let (there, gone, _) = news(&gateway, &mut cursor).await;
    assert!(there.is_empty() && gone.is_empty(), "{there:?} {gone:?}");
}

async fn pruning_deletes_keys_long_over(home: Home) {
    let (ann, _) = home.user("ann").await;
    let expired = ApiKey { expires_at: Some(at(HOUR)), ..key(&ann, 0) };
    let (revoked, living) = (key(&ann, 0), ApiKey { expires_at: None, ..key(&ann, 0) });
    for key in [&expired, &revoked, &living] {
        add(&home, key).await;
    }
    revoke(&home, revoked.id, None, HOUR).await;
    home.store.prune(at(HOUR) + Duration::from_hours(29 * 24)).await.unwrap();
    assert_eq!(home.store.api_keys(None).await.unwrap().len(), 3);
    home.store.prune(at(HOUR) + Duration::from_hours(31 * 24)).await.unwrap();
    assert_eq!(home.store.api_keys(None).await.unwrap(), [living]);
}
