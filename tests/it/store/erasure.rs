//! Deletion: what goes at once, what stays under a pseudonym, and what an account's data is.

use std::net::IpAddr;

use portcullis::model::{
    Email, EndReason, Event, EventKind, Letter, LetterKind, LetterOrigin, Outcome, Purpose,
    StoredEvent, TokenDigest, UserId, uuid_v7,
};
use portcullis::store::{
    AddApiKey, ApiKeyCursor, Consent, Deletion, EventFilter, Lane, LinkOwner, LogIn, NewEmail,
    NewLink, NewParcel, Parcel, ParcelKind, PutLink, Sessions, SignUp, UpdateUser, UserUpdate,
};

use super::api_keys::{add, key};
use super::{HOUR, Home, account, at, event, hash, login, object, on_both};

on_both![
    events_of_a_deleted_account_keep_a_pseudonym_and_nothing_else_of_it,
    what_comes_late_is_rewritten_for_an_hour_and_then_nothing_leads_back,
    many_events_are_rewritten_in_batches,
    what_waited_for_a_deleted_account_is_gone,
    a_soft_deletion_keeps_the_id_taken_and_frees_the_address,
    nothing_brings_a_soft_deleted_account_back,
    kept_sessions_are_running_and_ended_ones,
];

/// An event as gateways write them.
fn full(kind: EventKind, second: i64, user: Option<&str>, email: Option<&str>) -> Event {
    Event {
        user_id: user.map(|id| id.parse().unwrap()),
        email: email.map(str::to_owned),
        address: Some("198.51.100.77".parse().unwrap()),
        user_agent: Some("Browser/1".to_owned()),
        ..event(kind, second)
    }
}

impl Home {
    /// Oldest first.
    pub(super) async fn all_events(&self) -> Vec<StoredEvent> {
        let mut all = self.store.events(&EventFilter::default(), 10_000, None).await.unwrap();
        all.reverse();
        all
    }

    /// The one event of a kind.
    async fn one(&self, kind: EventKind) -> Event {
        let filter = EventFilter { kind: Some(kind), ..EventFilter::default() };
        let mut found = self.store.events(&filter, 10, None).await.unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0).event
    }

    async fn delete(&self, user: &UserId, second: i64) {
        let deleted = full(EventKind::UserDeleted, second, Some(user.as_str()), None);
        self.store.delete_user(user, Deletion::Hard, at(second), &deleted).await.unwrap().unwrap();
    }
}

async fn events_of_a_deleted_account_keep_a_pseudonym_and_nothing_else_of_it(home: Home) {
    let (ann, _) = home.user("ann").await;
    home.user("bob").await;
    let mut by_ann = full(EventKind::UserCreated, 3, Some("u-bob"), Some("bob@example.com"));
    by_ann.actor = Some("u-ann".to_owned());
    let mut on_six = full(EventKind::Logout, 2, Some("u-ann"), None);
    on_six.address = Some("2001:db8:7:9::5".parse().unwrap());
    let mut nowhere = full(EventKind::TokenRefreshed, 2, Some("u-ann"), None);
    nowhere.address = None;
    let failed = full(EventKind::LoginFailed, 1, None, Some("ANN@Example.com"));
    let bobs = full(EventKind::Login, 1, Some("u-bob"), Some("bob@example.com"));
    home.store.record(&[failed, on_six, nowhere, by_ann.clone(), bobs.clone()]).await.unwrap();
    home.delete(&ann, 10).await;
    // Of whoever has the address next.
    let later = full(EventKind::SignupFailed, 11, None, Some("ann@example.com"));
    home.store.record(std::slice::from_ref(&later)).await.unwrap();
    let numbers: Vec<_> = home.all_events().await.iter().map(|e| (e.writer, e.number)).collect();

    assert_eq!(home.store.erase(at(11)).await.unwrap(), 5);
    assert_eq!(home.store.erase(at(12)).await.unwrap(), 0, "nothing is left to rewrite");

    let gone = home.one(EventKind::UserDeleted).await;
    let pseudonym = gone.user_id.clone().unwrap();
    assert!(pseudonym.as_str().starts_with("deleted-"), "{pseudonym}");
    let network: IpAddr = "198.51.100.0".parse().unwrap();
    for (kind, address) in [
        (EventKind::UserDeleted, Some(network)),
        (EventKind::Logout, Some("2001:db8:7::".parse().unwrap())),
        (EventKind::TokenRefreshed, None),
    ] {
        let event = home.one(kind).await;
        assert_eq!(event.user_id.as_ref(), Some(&pseudonym), "one name for all: {event:?}");
        assert_eq!((event.email, event.user_agent, event.address), (None, None, address));
    }
    let failed = home.one(EventKind::LoginFailed).await;
    assert_eq!((failed.user_id, failed.email, failed.address), (None, None, Some(network)));
    let by_ann_now = home.one(EventKind::UserCreated).await;
    assert_eq!(by_ann_now.actor.as_deref(), Some(pseudonym.as_str()));
    assert_eq!((by_ann_now.user_id, by_ann_now.email), (by_ann.user_id, by_ann.email), "bob's");
    assert_eq!(home.one(EventKind::Login).await, bobs, "of nobody else's anything");
    assert_eq!(home.one(EventKind::SignupFailed).await, later, "after the deletion");
    assert!(home.store.events_of_user(&ann, 10, None).await.unwrap().is_empty());
    let all = home.all_events().await;
    assert_eq!(all.iter().map(|e| (e.writer, e.number)).collect::<Vec<_>>(), numbers, "no gap");
    assert!(all.iter().all(|stored| stored.event.outcome == Outcome::Success));
}

async fn what_comes_late_is_rewritten_for_an_hour_and_then_nothing_leads_back(home: Home) {
    let (ann, _) = home.user("ann").await;
    home.delete(&ann, 10).await;
    home.store.erase(at(11)).await.unwrap();
    // Another gateway's denial, written when its batch was full.
    let late = full(EventKind::AccessDenied, 12, Some("u-ann"), None);
    home.store.record(&[late]).await.unwrap();
    assert_eq!(home.store.erase(at(20)).await.unwrap(), 1);
    let pseudonym = home.one(EventKind::UserDeleted).await.user_id;
    assert_eq!(home.one(EventKind::AccessDenied).await.user_id, pseudonym);
    // Somebody is given the id again: what is dated more than a minute later is theirs.
    home.user("ann").await;
    let theirs = full(EventKind::Login, 71, Some("u-ann"), None);
    home.store.record(std::slice::from_ref(&theirs)).await.unwrap();
    assert_eq!(home.store.erase(at(10 + HOUR)).await.unwrap(), 0);
    assert_eq!(home.one(EventKind::Login).await, theirs);
    assert_eq!(home.store.erase(at(11 + HOUR)).await.unwrap(), 0, "the last time");
    let (late, after) = (full(EventKind::RateLimited, 13, Some("u-ann"), None), 12 + HOUR);
    home.store.record(std::slice::from_ref(&late)).await.unwrap();
    assert_eq!(home.store.erase(at(after)).await.unwrap(), 0, "forgotten whose it would be");
    assert_eq!(home.one(EventKind::RateLimited).await, late);
}

async fn many_events_are_rewritten_in_batches(home: Home) {
    let (ann, _) = home.user("ann").await;
    let events: Vec<_> =
        (0..2_500).map(|_| full(EventKind::TokenRefreshed, 1, Some("u-ann"), None)).collect();
    for some in events.chunks(500) {
        home.store.record(some).await.unwrap();
    }
    home.delete(&ann, 2).await;
    // Two gateways at once; an event is rewritten once, or twice to the same.
    let other = home.another();
    let (one, two) = tokio::join!(home.store.erase(at(3)), other.erase(at(3)));
    assert!(one.unwrap() + two.unwrap() >= 2_501);
    assert!(home.store.events_of_user(&ann, 10, None).await.unwrap().is_empty());
    let pseudonym = home.one(EventKind::UserDeleted).await.user_id.unwrap();
    let theirs = home.store.events_of_user(&pseudonym, 10_000, None).await.unwrap();
    assert_eq!(theirs.len(), 2_501);
}

async fn what_waited_for_a_deleted_account_is_gone(home: Home) {
    let (ann, _) = home.user("ann").await;
    let email: Email = "ann@example.com".parse().unwrap();
    let bob: Email = "bob@example.com".parse().unwrap();
    let parcel = |email: &Email, user: Option<&UserId>| {
        let asked_by = LetterOrigin { address: None, user_agent: None, request_id: None };
        let letter = Letter {
            user_id: user.cloned(),
            ..Letter::new(LetterKind::Recovery, email.clone(), asked_by)
        };
        NewParcel { id: uuid_v7(at(1)), parcel: Parcel::Mail(letter), at: at(1) }
    };
    let parcels = [parcel(&email, None), parcel(&bob, Some(&ann)), parcel(&bob, None)];
    home.store.post(&parcels, &[]).await.unwrap();
    let lane = Lane::of_strangers(&email);
    for second in 0..4 {
        let failed = event(EventKind::LoginFailed, second);
        home.store.refuse_login(&lane, &failed).await.unwrap();
    }
    assert_eq!(home.store.guards_of(&email).await.unwrap().len(), 1);
    home.delete(&ann, 10).await;
    assert!(home.store.guards_of(&email).await.unwrap().is_empty());
    let minute = std::time::Duration::from_mins(1);
    let left = home.store.claim(ParcelKind::Mail, at(11), minute, 10).await.unwrap();
    assert_eq!(left.iter().map(|claimed| claimed.id).collect::<Vec<_>>(), [parcels[2].id]);
}

async fn a_soft_deletion_keeps_the_id_taken_and_frees_the_address(home: Home) {
    let (ann, first, _) = home.protected("ann").await;
    let store = &home.store;
    let key = key(&ann, 1);
    add(&home, &key).await;
    let mut cursor = ApiKeyCursor::default();
    store.changed_api_keys(&mut cursor).await.unwrap();
    store.confirm_email(&ann, at(1), &event(EventKind::UserConfirmed, 1)).await.unwrap();
    store
        .set_roles(&ann, &["staff".into()], at(1), &event(EventKind::RolesChanged, 1))
        .await
        .unwrap();
    let deleted = full(EventKind::UserSoftDeleted, 5, Some("u-ann"), None);
    let ended = store.delete_user(&ann, Deletion::Soft, at(5), &deleted).await.unwrap().unwrap();
    assert_eq!(ended.iter().map(|e| e.id).collect::<Vec<_>>(), [first.session.id]);
    assert_eq!(home.revoked(5).await, [first.session.id]);
    assert!(store.session(&first.session.id).await.unwrap().is_none());
    assert!(
        store.delete_user(&ann, Deletion::Soft, at(6), &deleted).await.unwrap().is_none(),
        "done before"
    );

    let row = store.account_by_id(&ann).await.unwrap().unwrap();
    let user = row.user;
    assert_eq!((row.password_hash, user.deleted_at), (None, Some(at(5))));
    assert_eq!((user.email_confirmed_at, user.last_sign_in_at), (None, None));
    assert!(user.roles.is_empty() && user.user_metadata.is_empty() && user.factors.is_empty());
    assert!(store.api_keys(Some(&ann)).await.unwrap().is_empty());
    let news = store.changed_api_keys(&mut cursor).await.unwrap().keys;
    assert!(news.iter().any(|(id, there)| *id == key.id && there.is_none()), "gateways hear of it");
    assert!(user.email.starts_with("deleted+") && user.email.ends_with("@invalid"));
    let logged_in = event(EventKind::Login, 6);
    let refused = store.log_in(&ann, &hash("first"), None, &login(&ann, 6), &logged_in).await;
    assert_eq!(refused.unwrap(), LogIn::Refused);

    store.erase(at(6)).await.unwrap();
    // Nothing leads from the record back to the row.
    let named = home.one(EventKind::UserSoftDeleted).await.user_id.unwrap();
    let named = named.as_str().trim_start_matches("deleted-").to_owned();
    assert!(!user.email.contains(&named), "{}", user.email);
    assert_eq!(store.user_page(Some(&named), 0, 10).await.unwrap().total, 0);
    // Whoever comes next with the address is another user.
    let again = store.sign_up(&account("ann"), None, &event(EventKind::Signup, 7)).await.unwrap();
    assert_eq!(again, SignUp::IdTaken);
    let mut other = account("ann");
    other.user.id = "u-other".parse().unwrap();
    let again = store.sign_up(&other, None, &event(EventKind::Signup, 7)).await.unwrap();
    assert_eq!(again, SignUp::Created);
    // The row can be deleted, too.
    home.delete(&ann, 8).await;
    assert!(store.user(&ann).await.unwrap().is_none());
    let nobody: UserId = "nobody".parse().unwrap();
    assert!(store.delete_user(&nobody, Deletion::Soft, at(9), &deleted).await.unwrap().is_none());
}

/// Whoever read the account before it was deleted, and goes on after.
async fn nothing_brings_a_soft_deleted_account_back(home: Home) {
    let (ann, first) = home.user("ann").await;
    let store = &home.store;
    let deleted = event(EventKind::UserSoftDeleted, 5);
    store.delete_user(&ann, Deletion::Soft, at(5), &deleted).await.unwrap().unwrap();
    let empty = store.account_by_id(&ann).await.unwrap().unwrap();

    let email: Email = "reborn@example.com".parse().unwrap();
    let new_email = NewEmail { email: email.clone(), consent: Consent::New };
    let update = UserUpdate {
        metadata_patch: Some(object(serde_json::json!({"phone": "+49"}))),
        new_email: Some(new_email),
        keep_session: first.session.id,
        ..super::links::update()
    };
    let events = [event(EventKind::UserUpdated, 6)];
    let refused = store.update_user(&ann, &update, at(6), &events).await.unwrap();
    assert_eq!(refused, UpdateUser::NotFound);
    for purpose in [Purpose::EmailChangeNew, Purpose::Recovery] {
        let link = NewLink {
            digest: TokenDigest([7; 32]),
            owner: LinkOwner::Id(ann.clone()),
            purpose,
            email: email.clone(),
            code: None,
            redirect_to: None,
            challenge: None,
            password: None,
            user_metadata: None,
            new_email: None,
            session_id: None,
            now: at(6),
            expires_at: at(HOUR),
        };
        let made = event(EventKind::Signup, 6);
        let put = store.put_link(&link, std::time::Duration::ZERO, &made).await.unwrap();
        assert_eq!(put, PutLink::NoUser);
    }
    let logged_in = event(EventKind::Login, 6);
    let moved = store.move_in(&ann, &hash("second"), &login(&ann, 6), &logged_in).await.unwrap();
    assert_eq!(moved, LogIn::Refused);
    let made = event(EventKind::ApiKeyCreated, 6);
    let added = store.add_api_key(&key(&ann, 1), 10, &made).await.unwrap();
    assert_eq!(added, AddApiKey::NoUser);
    let after = store.account_by_id(&ann).await.unwrap().unwrap();
    assert_eq!((after.user, after.password_hash), (empty.user, empty.password_hash));
}

async fn kept_sessions_are_running_and_ended_ones(home: Home) {
    let (ann, first) = home.user("ann").await;
    home.user("bob").await;
    let second = login(&ann, 10);
    let logged_in = event(EventKind::Login, 10);
    home.store.log_in(&ann, &hash("first"), None, &second, &logged_in).await.unwrap();
    let logout = event(EventKind::Logout, 20);
    let others = Sessions::Others(second.session.id);
    home.store.end_sessions(&ann, others, EndReason::Logout, at(20), &logout).await.unwrap();
    let kept = home.store.kept_sessions_of(&ann).await.unwrap();
    assert_eq!(
        kept.iter().map(|session| (session.id, session.ended)).collect::<Vec<_>>(),
        [(second.session.id, None), (first.session.id, Some((at(20), EndReason::Logout)))]
    );
}
