//! Whether all events are there, and all of them in order.

use portcullis::model::EventKind;
use portcullis::store::{EventSelection, Store};
use uuid::Uuid;

use super::{Home, at, event, on_both};

on_both![
    a_deleted_row_is_a_gap_wherever_it_is,
    a_writer_that_lost_its_count_is_noticed,
    many_gaps_are_counted_and_some_are_named,
    pages_have_each_selected_event_once_and_in_order,
];

async fn write(store: &Store, count: i64) {
    let events: Vec<_> = (0..count).map(|n| event(EventKind::Login, n)).collect();
    store.record(&events).await.unwrap();
}

async fn a_deleted_row_is_a_gap_wherever_it_is(home: Home) {
    assert!(home.store.check_events(10).await.unwrap().is_empty(), "nothing was written");
    let other = home.another();
    write(&home.store, 9).await;
    let mine = home.all_events().await[0].writer;
    write(&other, 4).await;
    for trail in home.store.check_events(10).await.unwrap() {
        let last = if trail.writer == mine { 9 } else { 4 };
        assert_eq!((trail.last_number, trail.stored, trail.span), (last, last, Some((1, last))));
        assert!(trail.is_whole() && trail.first_event_at == Some(at(0)), "{trail:?}");
    }
    // In the middle, the first, the last; of one writer.
    home.sql("DELETE FROM auth_events WHERE number IN (5, 6, 1, 9, 8)").await;
    write(&other, 5).await;
    home.sql("DELETE FROM auth_events WHERE number = 9").await;
    for trail in home.store.check_events(10).await.unwrap() {
        let (missing, lost) = if trail.writer == mine {
            (vec![(1, 1), (5, 6), (8, 9)], 5)
        } else {
            (vec![(1, 1), (9, 9)], 2)
        };
        assert_eq!((&trail.missing, trail.lost()), (&missing, lost), "{trail:?}");
        assert!(!trail.is_whole());
    }
}

async fn a_writer_that_lost_its_count_is_noticed(home: Home) {
    write(&home.store, 3).await;
    home.sql("UPDATE event_writers SET last_number = 2").await;
    let trail = &home.store.check_events(10).await.unwrap()[0];
    assert!(!trail.is_whole(), "{trail:?}");
    home.sql("DELETE FROM event_writers").await;
    let trail = &home.store.check_events(10).await.unwrap()[0];
    assert!(!trail.is_whole() && trail.first_event_at.is_none(), "{trail:?}");
    assert_eq!((trail.stored, trail.lost()), (3, 0));
}

async fn many_gaps_are_counted_and_some_are_named(home: Home) {
    write(&home.store, 1_000).await;
    home.sql("DELETE FROM auth_events WHERE number % 2 = 1").await;
    let trail = &home.store.check_events(7).await.unwrap()[0];
    assert_eq!((trail.lost(), trail.missing.len()), (500, 7), "{trail:?}");
    assert_eq!(trail.missing[6], (13, 13));
}

async fn pages_have_each_selected_event_once_and_in_order(home: Home) {
    let mut all = Vec::new();
    for n in 0..50 {
        // Two of each time, so that the id decides.
        let kind = if n % 5 == 0 { EventKind::LoginFailed } else { EventKind::Login };
        let mut one = event(kind, n / 2);
        one.user_id = Some(format!("u-{}", n % 3).parse().unwrap());
        all.push(one);
    }
    home.store.record(&all).await.unwrap();
    all.sort_by_key(|event| (event.at, event.id));
    let read = async |selection: &EventSelection, look_at: u32| -> Vec<Uuid> {
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let page = home.store.event_page(selection, after, look_at).await.unwrap();
            assert!(page.events.len() <= usize::try_from(look_at).unwrap());
            ids.extend(page.events.iter().map(|stored| stored.event.id));
            after = page.next;
            if after.is_none() {
                return ids;
            }
        }
    };
    let everything = EventSelection::default;
    for (selection, look_at) in [
        (everything(), 7),
        (everything(), 25),
        (everything(), 1_000),
        (EventSelection { kinds: vec![EventKind::LoginFailed], ..everything() }, 3),
        (
            EventSelection {
                kinds: vec![EventKind::LoginFailed, EventKind::Login],
                users: vec!["u-0".parse().unwrap(), "u-2".parse().unwrap()],
                since: Some(at(3)),
                until: Some(at(20)),
            },
            4,
        ),
        (EventSelection { users: vec!["nobody".parse().unwrap()], ..everything() }, 4),
        (EventSelection { kinds: vec![EventKind::Signup], ..everything() }, 4),
    ] {
        let expected: Vec<_> = all
            .iter()
            .filter(|event| selection.kinds.is_empty() || selection.kinds.contains(&event.kind))
            .filter(|event| {
                let user = event.user_id.as_ref().unwrap();
                selection.users.is_empty() || selection.users.contains(user)
            })
            .filter(|event| selection.since.is_none_or(|since| event.at >= since))
            .filter(|event| selection.until.is_none_or(|until| event.at < until))
            .map(|event| event.id)
            .collect();
        assert_eq!(read(&selection, look_at).await, expected, "{selection:?}");
    }
}
