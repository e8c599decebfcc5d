//! Whether events are complete, and all of them in order for an archive.
//!
//! A writer's numbers are 1, 2, 3, …, given in the transactions that store the events. So what is
//! stored and what the retention removed must together be all numbers up to the last one.

use std::collections::HashMap;

use jiff::Timestamp;
use uuid::Uuid;

use super::error::StoreError;
use super::rules::first_time;
use super::{Store, either};
use crate::model::{EventKind, StoredEvent, UserId};

/// What is left of one writer's row of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trail {
    /// The writer.
    pub writer: Uuid,
    /// When it wrote its first event; `None` = nothing is known of this writer but events, stored or
    /// removed.
    pub first_event_at: Option<Timestamp>,
    /// The last number that it gave.
    pub last_number: i64,
    /// Numbers of which an event is stored.
    pub stored: i64,
    /// Events beyond those, of numbers that are there already.
    pub repeated: i64,
    /// The lowest and the highest number of those that are stored.
    pub span: Option<(i64, i64)>,
    /// Events that the retention removed.
    pub removed: i64,
    /// The highest number of those; 0 = none.
    pub removed_up_to: i64,
    /// Numbers beyond `removed_up_to` that are not there, from and to; not all when there are many.
    pub missing: Vec<(i64, i64)>,
}

impl Trail {
    /// How many events were lost; negative when there are more than there can be.
    pub fn lost(&self) -> i64 {
        let last = self.span.map_or(0, |(_, last)| last);
        let given = self.last_number.max(last).max(self.removed_up_to);
        given - self.stored - self.removed
    }

    /// Whether everything is there that was not removed by the retention, and nothing else.
    pub fn is_whole(&self) -> bool {
        self.lost() == 0
            && self.repeated == 0
            && self.missing.is_empty()
            && self.removed_up_to <= self.last_number
            && self.span.is_none_or(|(first, last)| first >= 1 && last <= self.last_number)
    }

    /// Adds the numbers at the end that are not there.
    fn with_end(mut self) -> Self {
        let last = self.span.map_or(0, |(_, last)| last).max(self.removed_up_to);
        if last < self.last_number {
            self.missing.push((last + 1, self.last_number));
        }
        self
    }
}

/// Trails with the numbers that are missing: of each writer from one to another, and those at the end.
pub(super) fn completed(trails: Vec<Trail>, missing: Vec<(Uuid, i64, i64)>) -> Vec<Trail> {
    let mut missing_of: HashMap<Uuid, Vec<(i64, i64)>> = HashMap::new();
    for (writer, from, to) in missing {
        missing_of.entry(writer).or_default().push((from, to));
    }
    let completed = |trail: Trail| {
        let missing = missing_of.remove(&trail.writer).unwrap_or_default();
        Trail { missing, ..trail }.with_end()
    };
    trails.into_iter().map(completed).collect()
}

/// Which events an archive has; every condition that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct EventSelection {
    /// Of one of these kinds; empty = of all.
    pub kinds: Vec<EventKind>,
    /// Of one of these users; empty = of all and of nobody.
    pub users: Vec<UserId>,
    /// At this time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

impl EventSelection {
    /// The place after which to begin: of time and id.
    pub(super) fn start(&self, after: Option<(Timestamp, Uuid)>) -> (Timestamp, Uuid) {
        after.unwrap_or_else(|| {
            (self.since.unwrap_or(Timestamp::MIN).max(first_time()), Uuid::nil())
        })
    }

    pub(super) fn words(&self) -> (Vec<&'static str>, Vec<&str>) {
        let kinds = self.kinds.iter().map(|kind| kind.as_str()).collect();
        (kinds, self.users.iter().map(UserId::as_str).collect())
    }
}

/// Some events of a selection, and where to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct EventPage {
    /// Oldest first; may be none although there are more to come.
    pub events: Vec<StoredEvent>,
    /// Time and id after which the next page begins; `None` = this was the last.
    pub next: Option<(Timestamp, Uuid)>,
}

/// Events as a whole.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// What is left of every writer's numbers, on one snapshot, with at most `max_missing` ranges in
    /// all. Reads every event once, however many there are: may take minutes, not for requests.
    pub async fn check_events(&self, max_missing: u32) -> Result<Vec<Trail>, StoreError> {
        either!(self, backend => backend.check_events(max_missing).await)
    }

    /// The next events of a selection, oldest first; `after` = the `next` of the page before. Looks
    /// at `look_at` events, so that it takes as long whether many of them are selected or none.
    pub async fn event_page(
        &self,
        selection: &EventSelection,
        after: Option<(Timestamp, Uuid)>,
        look_at: u32,
    ) -> Result<EventPage, StoreError> {
        either!(self, backend => backend.event_page(selection, after, look_at).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(last: i64, stored: i64, span: (i64, i64), removed: (i64, i64)) -> Trail {
        Trail {
            writer: Uuid::nil(),
            first_event_at: None,
            last_number: last,
            stored,
            repeated: 0,
            span: (stored > 0).then_some(span),
            removed: removed.0,
            removed_up_to: removed.1,
            missing: Vec::new(),
        }
        .with_end()
    }

    #[test]
    fn what_is_not_there_is_lost_unless_it_was_removed() {
        for (trail, lost, missing) in [
            (trail(5, 5, (1, 5), (0, 0)), 0, &[][..]),
            (trail(5, 3, (3, 5), (2, 2)), 0, &[]),
            // Number 2 is older than number 1.
            (trail(5, 4, (1, 5), (1, 2)), 0, &[]),
            (trail(5, 0, (0, 0), (5, 5)), 0, &[]),
            // One more than was removed.
            (trail(5, 2, (4, 5), (2, 3)), 1, &[]),
            (trail(5, 3, (1, 3), (0, 0)), 2, &[(4, 5)]),
            (trail(5, 0, (0, 0), (3, 3)), 2, &[(4, 5)]),
            (trail(5, 0, (0, 0), (0, 0)), 5, &[(1, 5)]),
        ] {
            assert_eq!(trail.lost(), lost, "{trail:?}");
            assert_eq!(trail.missing, missing, "{trail:?}");
            assert_eq!(trail.is_whole(), lost == 0, "{trail:?}");
        }
        // Put back, or the writer's last number set lower.
        assert!(!trail(5, 5, (1, 5), (2, 2)).is_whole());
        assert!(!trail(4, 5, (1, 5), (0, 0)).is_whole());
        // One twice, and a writer that nobody knows any more.
        assert!(!Trail { repeated: 1, ..trail(5, 5, (1, 5), (0, 0)) }.is_whole());
        assert!(!trail(0, 0, (0, 0), (5, 5)).is_whole());
    }
}
