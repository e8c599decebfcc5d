//! Events on their way to a webhook.

use std::time::Duration;

use portcullis::model::{EventKind, StoredEvent};
use portcullis::store::{Delivery, Store};
use uuid::Uuid;

use super::retention::prune;
use super::{Home, at, event, on_both};

on_both![
    deliveries_begin_with_what_comes_after_the_first_look,
    a_delivery_is_the_same_until_it_is_taken,
    of_many_who_claim_one_gets_it,
    each_writer_stays_in_its_order_and_none_is_left_out,
    what_the_retention_removes_is_passed_over_and_counted,
    what_is_given_up_is_not_delivered_and_what_comes_after_is,
];

const LEASE: Duration = Duration::from_secs(30);

async fn write(store: &Store, seconds: impl IntoIterator<Item = i64>) {
    let events: Vec<_> = seconds.into_iter().map(|n| event(EventKind::Login, n)).collect();
    store.record(&events).await.unwrap();
}

async fn claim(store: &Store, second: i64) -> Option<Delivery> {
    store.claim_delivery(at(second), LEASE, 10).await.unwrap()
}

fn numbers(events: &[StoredEvent]) -> Vec<i64> {
    events.iter().map(|stored| stored.number).collect()
}

/// Claims and takes until nothing is left; every delivery's events in one row.
async fn drain(store: &Store, second: i64) -> Vec<StoredEvent> {
    let mut all = Vec::new();
    while let Some(delivery) = claim(store, second).await {
        assert!(delivery.events.len() <= 10);
        all.extend(delivery.events);
        assert!(store.delivered(delivery.id, at(second)).await.unwrap());
    }
    all
}

async fn deliveries_begin_with_what_comes_after_the_first_look(home: Home) {
    write(&home.store, 0..3).await;
    assert_eq!(home.store.delivery_state().await.unwrap(), None);
    assert_eq!(claim(&home.store, 5).await, None);
    assert_eq!(claim(&home.store, 5).await, None);
    write(&home.store, 6..8).await;
    let other = home.another();
    write(&other, 8..9).await;
    let state = home.store.delivery_state().await.unwrap().unwrap();
    assert_eq!((state.started_at, state.waiting, state.oldest), (at(5), 3, Some(at(6))));
    let delivery = claim(&home.store, 9).await.unwrap();
    assert_eq!((numbers(&delivery.events), delivery.attempt), (vec![4, 5, 1], 1));
    assert!(home.store.delivered(delivery.id, at(10)).await.unwrap());
    let state = home.store.delivery_state().await.unwrap().unwrap();
    assert_eq!((state.waiting, state.oldest, state.delivered_at), (0, None, Some(at(10))));
    assert_eq!(claim(&home.store, 11).await, None);
}

async fn a_delivery_is_the_same_until_it_is_taken(home: Home) {
    claim(&home.store, 0).await;
    write(&home.store, 1..4).await;
    let first = claim(&home.store, 5).await.unwrap();
    write(&home.store, 6..9).await;
    assert_eq!(claim(&home.store, 34).await, None, "its lease is not over");
    // Whoever had it is gone.
    let other = home.another();
    let second = claim(&other, 35).await.unwrap();
    assert_eq!((second.id, second.attempt, &second.events), (first.id, 2, &first.events));
    other.not_delivered(second.id, at(90), "500 \u{1b}[31mno").await.unwrap();
    assert_eq!(claim(&home.store, 89).await, None);
    let state = home.store.delivery_state().await.unwrap().unwrap();
    assert_eq!((state.waiting, state.attempts, state.due_at), (6, 2, at(90)));
    assert_eq!(state.last_error.as_deref(), Some("500 \u{fffd}[31mno"));
    let third = claim(&home.store, 90).await.unwrap();
    assert_eq!((third.id, third.attempt, &third.events), (first.id, 3, &first.events));
    // The second one was taken after all, and says so late.
    assert!(other.delivered(first.id, at(91)).await.unwrap());
    assert!(!home.store.delivered(first.id, at(91)).await.unwrap());
    home.store.not_delivered(first.id, at(1000), "too late").await.unwrap();
    let next = claim(&home.store, 92).await.unwrap();
    assert_eq!((numbers(&next.events), next.attempt), (vec![4, 5, 6], 1));
    assert_ne!(next.id, first.id);
    let state = home.store.delivery_state().await.unwrap().unwrap();
    assert_eq!(state.last_error, None);
}

async fn of_many_who_claim_one_gets_it(home: Home) {
    // The very first look, too.
    let others: Vec<_> = (0..8).map(|_| home.another()).collect();
    let all = || async { futures_util::future::join_all(others.iter().map(|s| claim(s, 0))).await };
    assert!(all().await.iter().all(Option::is_none));
    write(&home.store, 1..5).await;
    let claims = futures_util::future::join_all(others.iter().map(|store| claim(store, 9))).await;
    let claims: Vec<_> = claims.into_iter().flatten().collect();
    assert_eq!(claims.len(), 1, "{claims:?}");
    assert_eq!(numbers(&claims[0].events), [1, 2, 3, 4]);
}

async fn each_writer_stays_in_its_order_and_none_is_left_out(home: Home) {
    claim(&home.store, 0).await;
    let other = home.another();
    // Clocks that differ, and one that was set back.
    write(&home.store, [10, 5, 30, 20, 21]).await;
    write(&other, (0..40).map(|n| 12 + n % 3)).await;
    let one = home.all_events().await;
    let all = drain(&home.store, 50).await;
    assert_eq!(all.len(), 45);
    let writer = one.iter().find(|stored| stored.event.at == at(10)).unwrap().writer;
    let (first, second): (Vec<_>, Vec<_>) = all.iter().partition(|s| s.writer == writer);
    let numbers = |some: Vec<&StoredEvent>| some.iter().map(|s| s.number).collect::<Vec<_>>();
    assert_eq!(numbers(first), [1, 2, 3, 4, 5]);
    assert_eq!(numbers(second), (1..=40).collect::<Vec<i64>>());
    assert_eq!(numbers(all[..2].iter().collect()), [1, 2], "the older writer's came first");
    assert_eq!(all[44].event.at, at(21));
}

async fn what_the_retention_removes_is_passed_over_and_counted(home: Home) {
    const DAY: i64 = 86_400;
    let after_days = async |day: i64| {
        let removed = prune(&home.store, at(day * DAY), at(day * DAY)).await.unwrap();
        (removed.events, removed.undelivered)
    };
    write(&home.store, 0..2).await;
    assert_eq!(after_days(2).await, (2, 0), "nobody wants to be told");
    claim(&home.store, 2 * DAY).await;
    let second = |n: i64| (2 + n) * DAY;
    write(&home.store, [second(0), second(1), second(2), second(3)]).await;
    let first = home.store.claim_delivery(at(second(3)), LEASE, 2).await.unwrap().unwrap();
    assert_eq!(numbers(&first.events), [4, 5]);
    home.store.delivered(first.id, at(second(3))).await.unwrap();
    let under_way = home.store.claim_delivery(at(second(3)), LEASE, 2).await.unwrap().unwrap();
    assert_eq!(numbers(&under_way.events), [6, 7]);
    assert_eq!(after_days(5).await, (4, 1), "4 and 5 were delivered, and 3 was before; 6 was not");
    let again = claim(&home.store, second(4)).await.unwrap();
    assert_eq!((again.id, numbers(&again.events)), (under_way.id, vec![7]));
    home.store.not_delivered(again.id, at(second(4)), "no").await.unwrap();
    // All of it, and all there is of another writer.
    let other = home.another();
    write(&other, [second(3)]).await;
    assert_eq!(after_days(9).await, (3, 3), "7, what told of the removal, and the other's");
    let empty = claim(&home.store, 9 * DAY).await.unwrap();
    assert_eq!((empty.id, empty.events.len()), (under_way.id, 0));
    home.store.delivered(empty.id, at(9 * DAY)).await.unwrap();
    let rest = drain(&home.store, 9 * DAY).await;
    assert_eq!(rest.iter().map(|s| s.event.kind).collect::<Vec<_>>(), [EventKind::EventsPruned]);
    assert_eq!(home.store.delivery_state().await.unwrap().unwrap().waiting, 0);
    write(&other, [10 * DAY]).await;
    assert_eq!(numbers(&drain(&home.store, 10 * DAY).await), [2]);
}

async fn what_is_given_up_is_not_delivered_and_what_comes_after_is(home: Home) {
    let skipped = event(EventKind::EventsSkipped, 9);
    assert_eq!(home.store.skip_deliveries(at(9), &skipped).await.unwrap(), None);
    claim(&home.store, 0).await;
    write(&home.store, 1..5).await;
    let delivery = claim(&home.store, 5).await.unwrap();
    write(&home.store, 5..7).await;
    let given_up = home.another().skip_deliveries(at(9), &skipped).await.unwrap();
    assert_eq!(given_up, Some(6));
    assert!(!home.store.delivered(delivery.id, at(9)).await.unwrap());
    write(&home.store, 10..11).await;
    let kinds: Vec<_> = drain(&home.store, 11).await.into_iter().map(|s| s.event).collect();
    assert_eq!(kinds.len(), 2);
    assert_eq!((kinds[0].id, kinds[1].at), (skipped.id, at(10)));
}

/// Numbers are given in the order of the commits, whatever else is open: one that commits late is
/// delivered late, and nobody waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_holds_nothing_up_and_is_not_left_out() {
    let home = Home::postgres().await;
    claim(&home.store, 0).await;
    let super::Place::Postgres(database) = &home.place else { panic!("it is on PostgreSQL") };
    let (writer, id) = (Uuid::from_u128(7), Uuid::from_u128(8));
    let late = crate::harness::postgres::client(&database.url).await;
    late.batch_execute(&format!(
        "BEGIN;
         INSERT INTO event_writers (id, first_event_at, last_number)
         VALUES ('{writer}', '2027-01-01', 1);
         INSERT INTO auth_events (at, id, writer, number, kind, outcome)
         VALUES ('2027-01-01', '{id}', '{writer}', 1, 'login', 'success')"
    ))
    .await
    .unwrap();
    write(&home.store, 1..4).await;
    assert_eq!(numbers(&drain(&home.store, 5).await), [1, 2, 3]);
    late.batch_execute("COMMIT").await.unwrap();
    let news = drain(&home.store, 6).await;
    assert_eq!(news.iter().map(|stored| stored.event.id).collect::<Vec<_>>(), [id]);
}
