//! Events.

use std::collections::HashMap;

use jiff::Timestamp;
use portcullis::model::{EventKind, Outcome, StoredEvent};
use portcullis::store::{EventCursor, EventFilter, Store};
use uuid::Uuid;

use super::{Home, account, at, event, on_both};

on_both![
    events_come_back_as_they_were,
    events_are_filtered_and_paged,
    any_time_can_be_asked_for,
    numbers_have_no_gap_under_concurrency,
    a_tail_sees_each_event_once,
];

async fn events_come_back_as_they_were(home: Home) {
    let mut full = event(EventKind::LoginFailed, 1);
    full.outcome = Outcome::Failure;
    full.reason = Some("wrong_password".to_owned());
    full.actor = Some("cli".to_owned());
    full.user_id = Some("u-1".parse().unwrap());
    full.email = Some("Änn@example.com\u{fffd}".to_owned());
    full.session_id = Some(Uuid::max());
    full.address = Some("192.0.2.7".parse().unwrap());
    full.user_agent = Some("curl/8".to_owned());
    full.request_id = Some("r-1".to_owned());
    let bare = event(EventKind::RateLimited, 0);
    home.store.record(&[bare.clone(), full.clone()]).await.unwrap();
    home.store.record(&[]).await.unwrap();
    let found = home.store.events(&EventFilter::default(), 10, None).await.unwrap();
    assert_eq!(found.iter().map(|s| s.number).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(found[0].writer, found[1].writer);
    assert_eq!(found.into_iter().map(|s| s.event).collect::<Vec<_>>(), [full, bare]);
}

async fn any_time_can_be_asked_for(home: Home) {
    let mut e = event(EventKind::Login, 0);
    e.user_id = Some("u-1".parse().unwrap());
    home.store.record(&[e.clone()]).await.unwrap();
    let user = "u-1".parse().unwrap();
    for (since, until, before, found) in [
        (Timestamp::MIN, Timestamp::MAX, Timestamp::MAX, 1),
        (Timestamp::MAX, Timestamp::MAX, Timestamp::MAX, 0),
        (Timestamp::MIN, Timestamp::MIN, Timestamp::MAX, 0),
        (Timestamp::MIN, Timestamp::MAX, Timestamp::MIN, 0),
    ] {
        let filter =
            EventFilter { since: Some(since), until: Some(until), ..EventFilter::default() };
        let place = Some((before, Uuid::nil()));
        let all = home.store.events(&filter, 10, place).await.unwrap();
        assert_eq!(all.len(), found, "{since} {until} {before}");
        let own = home.store.events_of_user(&user, 10, place).await.unwrap();
        assert_eq!(own.len(), usize::from(before == Timestamp::MAX));
    }
}

async fn events_are_filtered_and_paged(home: Home) {
    let mut all = Vec::new();
    for n in 0..20 {
        // Two of each time, so that the id decides.
        let kind = if n % 4 == 0 { EventKind::LoginFailed } else { EventKind::Login };
        let mut e = event(kind, n / 2);
        e.user_id = Some(if n < 10 { "u-a" } else { "u-b" }.parse().unwrap());
        e.email = Some(if n % 5 == 0 { "Ann@example.com" } else { "bob@example.com" }.to_owned());
        e.outcome = if n % 4 == 0 { Outcome::Failure } else { Outcome::Success };
        all.push(e);
    }
    home.store.record(&all).await.unwrap();
    all.sort_by_key(|e| (e.at, e.id));
    all.reverse();

    let mut paged = Vec::new();
    let mut before = None;
    loop {
        let page = home.store.events(&EventFilter::default(), 7, before).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some((last.event.at, last.event.id));
        paged.extend(page.into_iter().map(|s| s.event));
    }
    assert_eq!(paged, all);

    let user = "u-a".parse().unwrap();
    let first = home.store.events_of_user(&user, 6, None).await.unwrap();
    let last = &first[5].event;
    let rest = home.store.events_of_user(&user, 6, Some((last.at, last.id))).await.unwrap();
    assert_eq!((first.len(), rest.len()), (6, 4));
    assert_eq!(rest[3].event, all[19]);

    let count =
        async |filter: EventFilter| home.store.events(&filter, 100, None).await.unwrap().len();
    let none = EventFilter::default;
    assert_eq!(count(EventFilter { kind: Some(EventKind::LoginFailed), ..none() }).await, 5);
    assert_eq!(count(EventFilter { user_id: Some(user), ..none() }).await, 10);
    let ann = Some("ann@EXAMPLE.com".to_owned());
    assert_eq!(count(EventFilter { email: ann.clone(), ..none() }).await, 4);
    assert_eq!(count(EventFilter { outcome: Some(Outcome::Success), ..none() }).await, 15);
    assert_eq!(count(EventFilter { since: Some(at(8)), ..none() }).await, 4);
    assert_eq!(count(EventFilter { until: Some(at(8)), ..none() }).await, 16);
    let both = EventFilter { email: ann, kind: Some(EventKind::LoginFailed), ..none() };
    assert_eq!(count(both).await, 1);
}

async fn numbers_have_no_gap_under_concurrency(home: Home) {
    let other = home.another();
    let work = async |store: &Store, who: &str| {
        let steps = (0..40).map(|n| {
            let who = format!("{who}{}", n % 20);
            async move {
                if n % 2 == 0 {
                    // Every second one of these is refused and gives its number back.
                    let signup = event(EventKind::Signup, 0);
                    store.sign_up(&account(&who), None, &signup).await.unwrap();
                } else {
                    let two = [event(EventKind::LoginFailed, 0), event(EventKind::RateLimited, 0)];
                    store.record(&two).await.unwrap();
                }
            }
        });
        futures_util::future::join_all(steps).await;
    };
    tokio::join!(work(&home.store, "a"), work(&other, "b"));

    let mut by_writer: HashMap<Uuid, Vec<i64>> = HashMap::new();
    for stored in home.store.events(&EventFilter::default(), 1000, None).await.unwrap() {
        by_writer.entry(stored.writer).or_default().push(stored.number);
    }
    assert_eq!(by_writer.len(), 2);
    for numbers in by_writer.values_mut() {
        numbers.sort_unstable();
        assert_eq!(*numbers, (1..=50).collect::<Vec<i64>>());
    }
}

async fn a_tail_sees_each_event_once(home: Home) {
    let past: Vec<_> = (0..5).map(|n| event(EventKind::Login, n)).collect();
    home.store.record(&past).await.unwrap();
    let other = home.another();
    let ids = |stored: Vec<StoredEvent>| -> Vec<Uuid> {
        stored.into_iter().map(|s| s.event.id).collect()
    };

    let mut from_now = EventCursor::default();
    assert!(other.new_events(&mut from_now).await.unwrap().is_empty());
    let mut with_past = EventCursor::with_last(2);
    let newest = ids(other.new_events(&mut with_past).await.unwrap());
    assert_eq!(newest, [past[3].id, past[4].id], "oldest first");

    for n in 10..13 {
        let news = event(EventKind::Logout, n);
        home.store.record(std::slice::from_ref(&news)).await.unwrap();
        assert_eq!(ids(other.new_events(&mut from_now).await.unwrap()), [news.id]);
        assert!(other.new_events(&mut from_now).await.unwrap().is_empty());
    }
    assert_eq!(other.new_events(&mut with_past).await.unwrap().len(), 3);
}
