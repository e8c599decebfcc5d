//! What a delivery of events is made of.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::model::StoredEvent;

/// Writers that a delivery has events of, at most: each is a query. The others' turn comes next.
pub(in crate::store) const MAX_WRITERS: u32 = 64;

/// The first `limit` of these events, and the last number of each writer among them. Each writer's
/// events stay in the order of their numbers, beginning with the lowest; the writers' among each
/// other are in the order of time, as far as that allows.
pub(in crate::store) fn composed(
    events: Vec<StoredEvent>,
    limit: u32,
) -> (Vec<StoredEvent>, BTreeMap<Uuid, i64>) {
    let mut events = in_order(events);
    events.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut last = BTreeMap::new();
    for stored in &events {
        last.insert(stored.writer, stored.number);
    }
    (events, last)
}

/// By time, but never before a lower number of the same writer: an event takes its place no earlier
/// than those before it.
pub(in crate::store) fn in_order(mut events: Vec<StoredEvent>) -> Vec<StoredEvent> {
    events.sort_by_key(|stored| (stored.writer, stored.number));
    let mut latest = HashMap::new();
    let mut placed: Vec<_> = events
        .into_iter()
        .map(|stored| {
            let place = latest.entry(stored.writer).or_insert(stored.event.at);
            *place = (*place).max(stored.event.at);
            (*place, stored)
        })
        .collect();
    placed.sort_by_key(|(place, stored)| (*place, stored.writer, stored.number));
    placed.into_iter().map(|(_, stored)| stored).collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::store::rules::removed_event;

    fn stored(writer: u128, number: i64, second: i64) -> StoredEvent {
        let at = Timestamp::from_second(second).unwrap();
        StoredEvent { writer: Uuid::from_u128(writer), number, event: removed_event(at, 1, at) }
    }

    #[test]
    fn writers_are_merged_by_time_and_each_stays_in_its_order() {
        let given = vec![
            stored(2, 8, 15),
            stored(1, 3, 20),
            stored(1, 1, 10),
            stored(1, 2, 30),
            stored(2, 7, 25),
        ];
        let numbers = |events: &[StoredEvent]| -> Vec<(u128, i64)> {
            events.iter().map(|stored| (stored.writer.as_u128(), stored.number)).collect()
        };
        let (all, last) = composed(given.clone(), 9);
        assert_eq!(numbers(&all), [(1, 1), (2, 7), (2, 8), (1, 2), (1, 3)]);
        assert_eq!(last, BTreeMap::from([(Uuid::from_u128(1), 3), (Uuid::from_u128(2), 8)]));
        let (some, last) = composed(given, 2);
        assert_eq!(numbers(&some), [(1, 1), (2, 7)]);
        assert_eq!(last, BTreeMap::from([(Uuid::from_u128(1), 1), (Uuid::from_u128(2), 7)]));
        assert!(composed(Vec::new(), 5).1.is_empty());
    }
}
