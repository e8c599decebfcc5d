//! Sessions: refresh, ending, what other gateways learn of it, pruning.

use std::num::NonZeroU32;

use portcullis::model::{
    AuthMethod, EndReason, EndedSession, EventKind, Outcome, Proof, SessionId, TokenDigest, UserId,
};
use portcullis::store::{
    Fit, LogIn, NewLogin, Refresh, RevocationCursor, Rotation, Sessions, StoreError,
};
use uuid::Uuid;

use super::{DAY, HOUR, Home, at, event, given, hash, login, on_both, rotation};

on_both![
    refresh_rotates_and_prolongs,
    a_lost_answer_is_repeated,
    reuse_ends_the_session,
    a_refresh_token_is_known_by_its_digest,
    twenty_refreshes_of_one_token_give_one_successor,
    refresh_is_refused_when_the_session_is_over,
    sessions_end_by_choice,
    ended_sessions_reach_other_gateways,
    a_token_of_no_session_is_revoked_by_itself,
    a_rotation_and_an_end_at_once_agree,
    living_sessions_are_listed_and_touched,
    sessions_from_before_there_were_links_began_with_a_password,
    a_login_beyond_the_most_sessions_ends_the_oldest,
    a_session_that_nobody_can_be_handed_does_not_begin,
    logins_at_once_leave_the_most_sessions,
    pruning_deletes_what_is_long_over,
];

async fn refresh_rotates_and_prolongs(home: Home) {
    let (ann, first) = home.user("ann").await;
    let mut shown = first.refresh;
    for second in [10, 20, 30] {
        let r = rotation(shown, second);
        let answer = home.store.refresh(&r).await.unwrap();
        let Refresh::Rotated { user, session } = &answer else { panic!("{answer:?}") };
        assert_eq!(user.id, ann);
        let times = (session.last_seen_at, session.access_expires_at, session.expires_at);
        assert_eq!(times, (at(second), at(second + HOUR), at(30 * DAY)));
        let stored = home.store.session(&session.id).await.unwrap();
        assert_eq!(stored.as_ref(), Some(session));
        shown = r.successor;
    }
    // A shorter access token does not shorten how long an end is remembered.
    let short = Rotation { access_expires_at: at(50), ..rotation(shown, 40) };
    let answer = home.store.refresh(&short).await.unwrap();
    let Refresh::Rotated { session, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(session.access_expires_at, at(30 + HOUR));

    let events = home.store.events_of_user(&ann, 10, None).await.unwrap();
    assert_eq!(events.len(), 4, "the events were given user and session");
    assert!(events.iter().all(|stored| stored.event.session_id == Some(first.session.id)));
    assert_eq!(
        home.store.refresh(&rotation(super::digest(), 50)).await.unwrap(),
        Refresh::NotFound
    );
    for (token, session) in [
        (first.refresh, Some(first.session.id)),
        (shown, Some(first.session.id)),
        (super::digest(), None),
    ] {
        assert_eq!(home.store.session_of_refresh_token(token).await.unwrap(), session);
    }
}

async fn a_lost_answer_is_repeated(home: Home) {
    let (ann, first) = home.user("ann").await;
    let lost = rotation(first.refresh, 10);
    home.store.refresh(&lost).await.unwrap();

    // Days later, as the successor was never used.
    let late = rotation(first.refresh, 3 * DAY);
    let answer = home.store.refresh(&late).await.unwrap();
    let Refresh::Repeated { session, sealed_successor, .. } = &answer else { panic!("{answer:?}") };
    assert_eq!(*sealed_successor, lost.sealed_successor);
    assert_eq!(session.access_expires_at, at(3 * DAY + HOUR));
    assert_eq!(session.last_seen_at, at(10), "no rotation");

    // The successor is used; within the window the old token still yields it.
    let next = rotation(lost.successor, 3 * DAY + 1);
    assert!(given(home.store.refresh(&next).await.unwrap(), &next).1);
    let tab = rotation(lost.successor, 3 * DAY + 11);
    assert_eq!(given(home.store.refresh(&tab).await.unwrap(), &tab), (next.successor, false));

    let kinds: Vec<_> = home.store.events_of_user(&ann, 10, None).await.unwrap();
    assert_eq!(kinds.len(), 2, "repeating is no event");
}

async fn a_refresh_token_is_known_by_its_digest(home: Home) {
    let (ann, first) = home.user("ann").await;
    let known = home.store.refresh_token(first.refresh).await.unwrap().unwrap();
    assert_eq!((&known.user.id, known.session.id, known.used), (&ann, first.session.id, false));
    assert_eq!(home.store.refresh_token(super::digest()).await.unwrap(), None);

    let traded = rotation(first.refresh, 10);
    home.store.refresh(&traded).await.unwrap();
    for (digest, used) in [(first.refresh, true), (traded.successor, false)] {
        let known = home.store.refresh_token(digest).await.unwrap().unwrap();
        assert_eq!((known.session.id, known.used), (first.session.id, used));
    }
    let ending = event(EventKind::Logout, 20);
    let all = home.store.end_sessions(&ann, Sessions::All, EndReason::Logout, at(20), &ending);
    assert_eq!(all.await.unwrap().len(), 1);
    let known = home.store.refresh_token(traded.successor).await.unwrap().unwrap();
    assert_eq!(known.session.ended, Some((at(20), EndReason::Logout)));
}

async fn reuse_ends_the_session(home: Home) {
    let (ann, first) = home.user("ann").await;
    let one = rotation(first.refresh, 10);
    home.store.refresh(&one).await.unwrap();
    let two = rotation(one.successor, 11);
    home.store.refresh(&two).await.unwrap();

    let stolen = rotation(first.refresh, 21);
    let answer = home.store.refresh(&stolen).await.unwrap();
    let reused = Refresh::Reused { user_id: ann.clone(), session_id: first.session.id };
    assert_eq!(answer, reused);
    let newest = home.store.events_of_user(&ann, 1, None).await.unwrap().remove(0).event;
    assert_eq!((newest.kind, newest.outcome), (EventKind::RefreshReuse, Outcome::Failure));
    assert_eq!(newest.session_id, Some(first.session.id));
    assert_eq!(home.revoked(21).await, [first.session.id]);
    for token in [first.refresh, one.successor, two.successor] {
        let after = home.store.refresh(&rotation(token, 22)).await.unwrap();
        assert_eq!(after, Refresh::Ended(EndReason::RefreshReuse));
    }
}

async fn twenty_refreshes_of_one_token_give_one_successor(home: Home) {
    let (ann, first) = home.user("ann").await;
    let mut shown = first.refresh;
    for round in 0..3 {
        let refreshes = (0..20).map(|_| {
            let store = &home.store;
            async move {
                let r = rotation(shown, round);
                given(store.refresh(&r).await.unwrap(), &r)
            }
        });
        let tokens: Vec<(TokenDigest, bool)> = futures_util::future::join_all(refreshes).await;
        assert_eq!(tokens.iter().filter(|(_, first)| *first).count(), 1);
        assert!(tokens.iter().all(|(token, _)| *token == tokens[0].0));
        shown = tokens[0].0;
    }
    assert_eq!(home.store.events_of_user(&ann, 100, None).await.unwrap().len(), 3);
}

async fn refresh_is_refused_when_the_session_is_over(home: Home) {
    let (ann, first) = home.user("ann").await;
    let idle = home.store.refresh(&rotation(first.refresh, 7 * DAY + 1)).await.unwrap();
    assert_eq!(idle, Refresh::Expired);
    let end = at(30 * DAY);
    home.store.touch_sessions(&[(first.session.id, end)]).await.unwrap();
    let limit = home.store.refresh(&rotation(first.refresh, 30 * DAY)).await.unwrap();
    assert_eq!(limit, Refresh::Expired);
    assert!(matches!(
        home.store.refresh(&rotation(first.refresh, 30 * DAY - 1)).await.unwrap(),
        Refresh::Rotated { .. }
    ));

    // Disabled without having been logged out, as by an import.
    let second = login(&ann, 0);
    let logged_in = event(EventKind::Login, 0);
    home.store.log_in(&ann, &hash("first"), None, &second, &logged_in).await.unwrap();
    match &home.place {
        super::Place::Postgres(_) => {
            home.sql("UPDATE users SET disabled_until = '2100-01-01'").await;
        }
        super::Place::Sqlite(_) => {
            home.sql("UPDATE users SET disabled_until = 4102444800000000").await;
        }
    }
    let disabled = home.store.refresh(&rotation(second.refresh, 1)).await.unwrap();
    assert_eq!(disabled, Refresh::Disabled);

    let one = Sessions::One(second.session.id);
    let logout = event(EventKind::Logout, 2);
    home.store.end_sessions(&ann, one, EndReason::Logout, at(2), &logout).await.unwrap();
    let ended = home.store.refresh(&rotation(second.refresh, 3)).await.unwrap();
    assert_eq!(ended, Refresh::Ended(EndReason::Logout));
}

async fn sessions_end_by_choice(home: Home) {
    let (ann, one) = home.user("ann").await;
    let (_, bobs) = home.user("bob").await;
    let mut logins = vec![one];
    for second in [1, 2, 3] {
        let new = login(&ann, second);
        let logged_in = event(EventKind::Login, second);
        home.store.log_in(&ann, &hash("first"), None, &new, &logged_in).await.unwrap();
        logins.push(new);
    }
    let id = |n: usize| logins[n].session.id;
    let end = async |which| {
        let logout = event(EventKind::Logout, 10);
        let reason = EndReason::Logout;
        let ended = home.store.end_sessions(&ann, which, reason, at(10), &logout).await.unwrap();
        let mut ids: Vec<_> = ended.into_iter().map(|session| session.id).collect();
        ids.sort();
        ids
    };
    assert_eq!(end(Sessions::One(id(0))).await, [id(0)]);
    assert!(end(Sessions::One(id(0))).await.is_empty(), "ended before");
    assert!(end(Sessions::One(bobs.session.id)).await.is_empty(), "somebody else's");
    let mut others = [id(1), id(2)];
    others.sort();
    assert_eq!(end(Sessions::Others(id(3))).await, others);
    assert_eq!(end(Sessions::All).await, [id(3)]);
    assert!(home.store.sessions_of(&ann, at(10)).await.unwrap().is_empty());
    assert_eq!(home.revoked(10).await.len(), 4);
    let logouts = home.kinds().await.into_iter().filter(|kind| *kind == EventKind::Logout).count();
    assert_eq!(logouts, 3, "nothing ended, nothing happened");
    let session = home.store.session(&id(0)).await.unwrap().unwrap();
    assert_eq!(session.ended, Some((at(10), EndReason::Logout)));
}

async fn end_all(home: &Home, user: &UserId, second: i64) {
    let logout = event(EventKind::Logout, second);
    let ended =
        home.store.end_sessions(user, Sessions::All, EndReason::Revoked, at(second), &logout);
    assert!(!ended.await.unwrap().is_empty());
}

async fn ended_sessions_reach_other_gateways(home: Home) {
    let other = home.another();
    let mut cursor = RevocationCursor::default();
    assert!(other.ended_sessions(&mut cursor, at(0)).await.unwrap().is_empty());
    for n in 0..5 {
        let (user, login) = home.user(&format!("user{n}")).await;
        end_all(&home, &user, 1).await;
        let news = other.ended_sessions(&mut cursor, at(2)).await.unwrap();
        assert!(news.iter().any(|ended| ended.id == login.session.id && ended.until == at(HOUR)));
    }
    // A gateway that starts later learns of all whose tokens may still be accepted.
    assert_eq!(home.revoked(2).await.len(), 5);
    assert_eq!(home.revoked(HOUR + 30).await.len(), 5, "clocks differ");
    assert!(home.revoked(2 * HOUR + 1).await.is_empty());
}

async fn a_login_beyond_the_most_sessions_ends_the_oldest(home: Home) {
    let (ann, first) = home.user("ann").await;
    home.user("bob").await;
    let log_in = async |second: i64, most: u32| {
        let new = NewLogin { max_sessions: NonZeroU32::new(most), ..login(&ann, second) };
        let logged_in = event(EventKind::Login, second);
        let end = home.store.log_in(&ann, &hash("first"), None, &new, &logged_in).await.unwrap();
        let LogIn::Done { ended, .. } = end else { panic!("{end:?}") };
        let mut ended: Vec<_> = ended.into_iter().map(|session| session.id).collect();
        ended.sort();
        (new.session.id, ended)
    };
    let (second, ended) = log_in(10, 3).await;
    assert!(ended.is_empty());
    let (third, ended) = log_in(20, 3).await;
    assert!(ended.is_empty());
    let (fourth, ended) = log_in(30, 3).await;
    assert_eq!(ended, [first.session.id]);
    let stored = home.store.session(&first.session.id).await.unwrap().unwrap();
    assert_eq!(stored.ended, Some((at(30), EndReason::TooMany)));
    assert_eq!(home.revoked(30).await, [first.session.id]);
    // One whose clock is behind stays as well; those that are over count no more.
    let (fifth, ended) = log_in(5, 2).await;
    let mut oldest = [second, third];
    oldest.sort();
    assert_eq!(ended, oldest);
    let late = log_in(30 + 30 * DAY, 1).await;
    assert!(late.1.is_empty());
    let living = home.store.sessions_of(&ann, at(31)).await.unwrap();
    let living: Vec<_> = living.into_iter().map(|session| session.id).collect();
    assert_eq!(living, [late.0, fourth, fifth]);
    let trimmed = home.store.events_of_user(&ann, 100, None).await.unwrap();
    let trimmed: Vec<_> = trimmed
        .into_iter()
        .filter(|stored| stored.event.kind == EventKind::SessionsTrimmed)
        .map(|stored| stored.event.session_id)
        .collect();
    assert_eq!(trimmed.len(), 2);
    assert!(trimmed.contains(&Some(fourth)) && trimmed.contains(&Some(fifth)));
}

/// Whoever is judged must be who is stored.
pub(super) fn no_fit(user: &UserId, session: SessionId) -> Fit {
    let user = user.clone();
    Fit::new(move |judged, about| {
        assert_eq!((&judged.id, about.id), (&user, session));
        false
    })
}

#[track_caller]
pub(super) fn expect_unfit<T: std::fmt::Debug>(end: Result<T, StoreError>, user: &UserId) {
    match end {
        Err(StoreError::Unfit { user: named }) => assert_eq!(named, *user),
        other => panic!("{other:?}"),
    }
}

async fn a_session_that_nobody_can_be_handed_does_not_begin(home: Home) {
    let (ann, first) = home.user("ann").await;
    let kinds = home.kinds().await;
    let new = NewLogin { max_sessions: NonZeroU32::new(1), ..login(&ann, 10) };
    let new = NewLogin { fit: no_fit(&ann, new.session.id), ..new };
    let logged_in = event(EventKind::Login, 10);
    let rehash = hash("better");
    let end = home.store.log_in(&ann, &hash("first"), Some(&rehash), &new, &logged_in).await;
    expect_unfit(end, &ann);

    let mut ben = super::account("ben");
    let id = ben.user.id.clone();
    let begun = login(&id, 10);
    let begun = NewLogin { fit: no_fit(&id, begun.session.id), ..begun };
    let signed_up = event(EventKind::Signup, 10);
    expect_unfit(home.store.sign_up(&ben, Some(&begun), &signed_up).await, &id);
    assert_eq!(home.store.user(&id).await.unwrap(), None);
    // The same with an account from elsewhere.
    ben.password_hash = None;
    let created = event(EventKind::Signup, 11);
    home.store.sign_up(&ben, None, &created).await.unwrap();
    let moved = event(EventKind::Login, 12);
    expect_unfit(home.store.move_in(&id, &hash("new"), &begun, &moved).await, &id);
    assert_eq!(home.store.account_by_id(&id).await.unwrap().unwrap().password_hash, None);

    // The first session goes on with the token that it has.
    let trade = rotation(first.refresh, 20);
    let tried = Rotation { fit: no_fit(&ann, first.session.id), ..trade.clone() };
    expect_unfit(home.store.refresh(&tried).await, &ann);
    assert!(given(home.store.refresh(&trade).await.unwrap(), &trade).1, "the first to trade it");
    let again = rotation(first.refresh, 21);
    let tried = Rotation { fit: no_fit(&ann, first.session.id), ..again.clone() };
    expect_unfit(home.store.refresh(&tried).await, &ann);
    assert!(!given(home.store.refresh(&again).await.unwrap(), &again).1);

    let running = home.store.sessions_of(&ann, at(22)).await.unwrap();
    assert_eq!(running.iter().map(|session| session.id).collect::<Vec<_>>(), [first.session.id]);
    assert!(home.revoked(22).await.is_empty());
    let kept = home.store.account_by_id(&ann).await.unwrap().unwrap();
    assert_eq!(kept.password_hash, Some(hash("first")));
    // Ben's account, and the one trade.
    let expected = [&[EventKind::TokenRefreshed, EventKind::Signup], &kinds[..]].concat();
    assert_eq!(home.kinds().await, expected);
}

async fn logins_at_once_leave_the_most_sessions(home: Home) {
    let (ann, _) = home.user("ann").await;
    let logins = (0..12).map(|second| {
        let (store, ann) = (&home.store, &ann);
        async move {
            let new = NewLogin { max_sessions: NonZeroU32::new(3), ..login(ann, second) };
            let logged_in = event(EventKind::Login, second);
            store.log_in(ann, &hash("first"), None, &new, &logged_in).await.unwrap();
        }
    });
    futures_util::future::join_all(logins).await;
    assert_eq!(home.store.sessions_of(&ann, at(20)).await.unwrap().len(), 3);
    assert_eq!(home.revoked(20).await.len(), 10);
}

async fn a_token_of_no_session_is_revoked_by_itself(home: Home) {
    let gateway = home.another();
    let mut cursor = RevocationCursor::default();
    gateway.ended_sessions(&mut cursor, at(0)).await.unwrap();
    let token = EndedSession { id: Uuid::from_u128(9), until: at(HOUR) };
    for (second, news) in [(1, true), (2, false)] {
        let told = event(EventKind::ClientTokenRevoked, second);
        assert_eq!(home.store.revoke_token(token, &told).await.unwrap(), news);
    }
    assert_eq!(gateway.ended_sessions(&mut cursor, at(3)).await.unwrap(), [token]);
    let told = home.kinds().await.into_iter().filter(|k| *k == EventKind::ClientTokenRevoked);
    assert_eq!(told.count(), 1);
}

async fn a_rotation_and_an_end_at_once_agree(home: Home) {
    for round in 0..20 {
        let (user, first) = home.user(&format!("user{round}")).await;
        let r = rotation(first.refresh, 5);
        let refreshing = home.store.refresh(&r);
        let ending = async {
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            end_all(&home, &user, 5).await;
        };
        let (answer, ()) = futures_util::future::join(refreshing, ending).await;
        let until = home
            .store
            .ended_sessions(&mut RevocationCursor::default(), at(5))
            .await
            .unwrap()
            .into_iter()
            .find(|ended| ended.id == first.session.id)
            .unwrap()
            .until;
        // If the refresh was first, the end covers the access token that it gave out.
        match answer.unwrap() {
            Refresh::Rotated { .. } => assert_eq!(until, at(5 + HOUR)),
            Refresh::Ended(_) => assert_eq!(until, at(HOUR)),
            other => panic!("{other:?}"),
        }
    }
}

async fn living_sessions_are_listed_and_touched(home: Home) {
    let (ann, first) = home.user("ann").await;
    let second = login(&ann, DAY);
    let logged_in = event(EventKind::Login, DAY);
    home.store.log_in(&ann, &hash("first"), None, &second, &logged_in).await.unwrap();
    let ids = async |second| -> Vec<_> {
        let living = home.store.sessions_of(&ann, at(second)).await.unwrap();
        living.into_iter().map(|session| session.id).collect()
    };
    assert_eq!(ids(DAY).await, [second.session.id, first.session.id], "newest first");
    assert_eq!(ids(30 * DAY).await, [second.session.id], "the other reached its limit");

    let (one, two) = (first.session.id, second.session.id);
    let unknown = Uuid::nil();
    home.store
        .touch_sessions(&[(one, at(50)), (one, at(70)), (two, at(5)), (unknown, at(5))])
        .await
        .unwrap();
    home.store.touch_sessions(&[(one, at(60))]).await.unwrap();
    home.store.touch_sessions(&[]).await.unwrap();
    let seen = async |id| home.store.session(&id).await.unwrap().unwrap().last_seen_at;
    assert_eq!(seen(one).await, at(70));
    assert_eq!(seen(two).await, at(DAY), "never backwards");
}

async fn sessions_from_before_there_were_links_began_with_a_password(home: Home) {
    let (ann, first) = home.user("ann").await;
    home.sql("UPDATE sessions SET methods = '[]'").await;
    let session = home.store.session(&first.session.id).await.unwrap().unwrap();
    assert_eq!(session.methods, [Proof::new(AuthMethod::Password, session.created_at)]);
    let living = home.store.sessions_of(&ann, at(1)).await.unwrap();
    assert_eq!(living, [session]);
}

async fn pruning_deletes_what_is_long_over(home: Home) {
    let (ann, old) = home.user("ann").await;
    let (bob, ended) = home.user("bob").await;
    end_all(&home, &bob, 0).await;
    let fresh = login(&ann, 59 * DAY);
    let logged_in = event(EventKind::Login, 59 * DAY);
    home.store.log_in(&ann, &hash("first"), None, &fresh, &logged_in).await.unwrap();

    assert_eq!(home.store.prune(at(HOUR)).await.unwrap(), 0, "the revocation may matter yet");
    assert_eq!(home.store.prune(at(2 * HOUR + 1)).await.unwrap(), 1, "the revocation");
    assert!(home.revoked(0).await.is_empty());
    assert_eq!(home.store.prune(at(30 * DAY + HOUR)).await.unwrap(), 0);
    assert_eq!(home.store.prune(at(31 * DAY)).await.unwrap(), 1, "bob's session, ended at once");
    assert_eq!(home.store.prune(at(61 * DAY)).await.unwrap(), 1, "ann's first, after its limit");
    for (login, stays) in [(&old, false), (&ended, false), (&fresh, true)] {
        let found = home.store.session(&login.session.id).await.unwrap();
        assert_eq!(found.is_some(), stays);
    }
    let gone = home.store.refresh(&rotation(old.refresh, 1)).await.unwrap();
    assert_eq!(gone, Refresh::NotFound, "its tokens went along");
    assert_eq!(home.kinds().await.len(), 4, "events stay");
}
