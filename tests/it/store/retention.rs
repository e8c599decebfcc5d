//! The end of events that are too old.

use std::time::Duration;

use jiff::Timestamp;
use portcullis::model::{Event, EventKind};
use portcullis::store::{Removed, Store, StoreError};

use super::{DAY, Home, at, event, on_both};

on_both![
    events_before_the_day_are_removed_and_no_others,
    what_was_removed_is_no_gap_and_what_was_lost_beside_it_is,
    many_are_removed_in_batches_by_several_at_once,
    a_removal_and_the_event_of_it_are_one,
    numbers_that_are_there_twice_and_forgotten_writers_do_not_go_unseen,
];

/// Removes what is older; how much that was.
pub(super) async fn prune(
    store: &Store,
    before: Timestamp,
    now: Timestamp,
) -> Result<Removed, StoreError> {
    let mut removed = Removed::default();
    store.prune_events(before, now, &mut removed).await.map(|()| removed)
}

/// Noon of a day, `at(0)` being on day 0.
fn noon(day: i64) -> i64 {
    // 2027-01-15T08:00:00Z.
    day * DAY + 4 * 3600
}

fn on(days: &[i64]) -> Vec<Event> {
    days.iter().map(|day| event(EventKind::Login, noon(*day))).collect()
}

async fn events_before_the_day_are_removed_and_no_others(home: Home) {
    let events = on(&[-70, -40, -10, -2, -1, 0]);
    home.store.record(&events).await.unwrap();
    let (now, limit) = (at(noon(0) + 1), at(noon(-1)));
    let removed = prune(&home.store, limit, now).await.unwrap();
    assert_eq!(removed.events, 4);
    let left = home.all_events().await;
    let ids: Vec<_> = left.iter().map(|stored| stored.event.id).collect();
    assert_eq!(ids[..2], [events[4].id, events[5].id], "the rest of that day stays");
    // One for each transaction, so for each month that went as a whole.
    let mut told = 0;
    for stored in &left[2..] {
        let event = &stored.event;
        assert_eq!((event.kind, event.at), (EventKind::EventsPruned, now));
        assert_eq!(event.actor.as_deref(), Some("gateway"));
        let reason = event.reason.as_deref().unwrap();
        let count = reason.strip_suffix(" before 2027-01-14T00:00:00Z").unwrap();
        told += count.parse::<u64>().unwrap();
    }
    assert_eq!(told, 4);

    // Nothing more to remove, nothing more to tell.
    assert_eq!(prune(&home.store, limit, now).await.unwrap().events, 0);
    assert_eq!(home.all_events().await.len(), left.len());
    // What is written later, dated by a clock that is wrong, goes too.
    home.store.record(&on(&[-500, 1])).await.unwrap();
    assert_eq!(prune(&home.store, limit, now).await.unwrap().events, 1);
}

async fn what_was_removed_is_no_gap_and_what_was_lost_beside_it_is(home: Home) {
    // Numbers follow the commits, removal the times: 3 is older than 2.
    home.store.record(&on(&[-40, -1, -30, 0, 0])).await.unwrap();
    prune(&home.store, at(noon(-9)), at(noon(0))).await.unwrap();
    let trails = home.another().check_events(10).await.unwrap();
    assert_eq!(trails.len(), 1);
    let trail = &trails[0];
    assert_eq!((trail.last_number, trail.stored, trail.span), (6, 4, Some((2, 6))), "{trail:?}");
    assert_eq!((trail.removed, trail.removed_up_to), (2, 3));
    assert!(trail.is_whole() && trail.lost() == 0, "{trail:?}");

    home.sql("DELETE FROM auth_events WHERE number = 2").await;
    let trail = &home.store.check_events(10).await.unwrap()[0];
    assert!(!trail.is_whole() && trail.lost() == 1 && trail.missing.is_empty(), "{trail:?}");
    // Removed later, one after the other: the sum counts.
    prune(&home.store, at(noon(0)), at(noon(1))).await.unwrap();
    let trail = &home.store.check_events(10).await.unwrap()[0];
    assert_eq!((trail.lost(), trail.removed), (1, 2), "the other one was gone already: {trail:?}");
}

async fn many_are_removed_in_batches_by_several_at_once(home: Home) {
    let other = home.another();
    for store in [&home.store, &other] {
        for n in 0..5 {
            let some: Vec<_> =
                (0..500).map(|m| event(EventKind::TokenRefreshed, n * 500 + m)).collect();
            store.record(&some).await.unwrap();
        }
    }
    home.store.record(&on(&[40])).await.unwrap();
    let (limit, now) = (at(noon(30)), at(noon(40)));
    let (one, two) = tokio::join!(prune(&home.store, limit, now), prune(&other, limit, now));
    assert_eq!(one.unwrap().events + two.unwrap().events, 5_000);
    let left = home.all_events().await;
    assert!(left.iter().all(|stored| stored.event.at >= limit), "{left:?}");
    let trails = home.store.check_events(10).await.unwrap();
    assert_eq!(trails.iter().map(|trail| trail.removed).sum::<i64>(), 5_000);
    assert!(trails.iter().all(portcullis::store::Trail::is_whole), "{trails:?}");
}

async fn a_removal_and_the_event_of_it_are_one(home: Home) {
    for n in 0..5 {
        let some: Vec<_> = (0..500).map(|m| event(EventKind::Login, n * 500 + m)).collect();
        home.store.record(&some).await.unwrap();
    }
    let (limit, now) = (at(noon(30)), at(noon(40)));
    // Nobody can write the event: nothing goes.
    let is_sqlite = home.store.describe().starts_with("SQLite");
    let (forbid, allow) = if is_sqlite {
        (
            "CREATE TRIGGER silence BEFORE INSERT ON auth_events WHEN new.kind = 'events_pruned'
             BEGIN SELECT raise(ABORT, 'silence'); END",
            "DROP TRIGGER silence",
        )
    } else {
        (
            "ALTER TABLE auth_events ADD CONSTRAINT silence CHECK (kind <> 'events_pruned')",
            "ALTER TABLE auth_events DROP CONSTRAINT silence",
        )
    };
    home.sql(forbid).await;
    prune(&home.store, limit, now).await.unwrap_err();
    let trail = &home.store.check_events(10).await.unwrap()[0];
    assert_eq!((trail.stored, trail.removed), (2_500, 0));
    home.sql(allow).await;
    assert_eq!(prune(&home.store, limit, now).await.unwrap().events, 2_500);
    let told: Vec<u64> = home
        .all_events()
        .await
        .iter()
        .filter_map(|stored| stored.event.reason.as_deref()?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(told.iter().sum::<u64>(), 2_500, "{told:?}");
    // On PostgreSQL, a month that is over may go at once.
    assert!(!is_sqlite || told.len() == 3, "{told:?}");
}

async fn numbers_that_are_there_twice_and_forgotten_writers_do_not_go_unseen(home: Home) {
    home.store.record(&on(&[-40, -1, -30, 0, 0])).await.unwrap();
    prune(&home.store, at(noon(-9)), at(noon(0))).await.unwrap();
    // Number 2 is deleted, and the copy of another one takes its place in the count.
    home.sql("UPDATE auth_events SET number = 4 WHERE number = 2").await;
    let trail = &home.store.check_events(10).await.unwrap()[0];
    assert_eq!((trail.lost(), trail.repeated, trail.stored), (1, 1, 3), "{trail:?}");
    assert!(!trail.is_whole());
    // All of a writer's events, and with them that it ever was.
    home.sql("DELETE FROM auth_events; DELETE FROM event_writers").await;
    let trails = home.store.check_events(10).await.unwrap();
    assert_eq!((trails.len(), trails[0].removed, trails[0].removed_up_to), (1, 2, 3));
    assert!(!trails[0].is_whole() && trails[0].first_event_at.is_none(), "{trails:?}");
}

/// The start of the month of `at(0)`, and of others by their distance from it.
pub(super) fn month(distance: i64) -> Timestamp {
    let first: jiff::civil::Date = "2027-01-01".parse().unwrap();
    let span = jiff::Span::new().months(distance);
    let start = first.checked_add(span).unwrap().to_zoned(jiff::tz::TimeZone::UTC).unwrap();
    start.timestamp()
}

/// Its middle.
pub(super) fn mid(distance: i64) -> Timestamp {
    month(distance) + Duration::from_hours(14 * 24)
}
