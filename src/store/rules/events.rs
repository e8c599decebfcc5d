//! Months of events, days of their removal, and what a writer's row of numbers says.

use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::model::{Event, EventKind, Outcome, uuid_v7};

/// How many events are removed at a time: a fraction of a second of work. As a literal for statements,
/// too: for a number that it does not know yet, PostgreSQL plans to read the whole table.
macro_rules! remove_batch {
    () => {
        1000
    };
}
pub(in crate::store) use remove_batch;

/// The same.
pub(in crate::store) const REMOVE_BATCH: u32 = remove_batch!();

/// How many months after the present one have a partition: a gateway that is not restarted, or a
/// schema that is only changed by hand, has two months' time.
const MONTHS_AHEAD: usize = 2;

/// What the names of partitions begin with.
const PARTITION: &str = "auth_events_";

/// What follows in the name of the partition that has all events of before there were any.
const BEFORE: &str = "before_";

/// A calendar month, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Month(Date);

impl Month {
    /// The one with this time.
    pub(in crate::store) fn of(time: Timestamp) -> Self {
        Self(time.to_zoned(TimeZone::UTC).date().first_of_month())
    }

    /// The one after it.
    fn next(self) -> Self {
        Self(self.0.saturating_add(1.month()))
    }

    /// Its first moment.
    pub(in crate::store) fn start(self) -> Timestamp {
        self.0.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |start| start.timestamp())
    }

    /// The first moment after it.
    pub(in crate::store) fn end(self) -> Timestamp {
        self.next().start()
    }

    /// The name of its partition.
    pub(in crate::store) fn partition(self) -> String {
        format!("{PARTITION}{:04}_{:02}", self.0.year(), self.0.month())
    }

    /// Whether its events have a partition among these: its own, or that of before, which has all
    /// months up to its end.
    pub(in crate::store) fn has_place_in(self, partitions: &[String]) -> bool {
        let own = self.partition();
        partitions.iter().any(|name| {
            let is_of_before = name.strip_prefix(PARTITION).is_some_and(|n| n.starts_with(BEFORE));
            *name == own
                || is_of_before && end_of_partition(name).is_some_and(|end| end >= self.end())
        })
    }
}

/// The months that have a partition at `now`: the present one and some to come.
pub(in crate::store) fn months_from(now: Timestamp) -> Vec<Month> {
    let first = Month::of(now);
    std::iter::successors(Some(first), |month| Some(month.next())).take(1 + MONTHS_AHEAD).collect()
}

/// When the last event of a partition can be; `None` = it is none of ours, or has no end.
pub(in crate::store) fn end_of_partition(name: &str) -> Option<Timestamp> {
    let rest = name.strip_prefix(PARTITION)?;
    let (month, is_end) = match rest.strip_prefix(BEFORE) {
        Some(month) => (month, true),
        None => (rest, false),
    };
    let (year, month) = month.split_once('_')?;
    if (year.len(), month.len()) != (4, 2) {
        return None;
    }
    let month = Month(Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?);
    Some(if is_end { month.start() } else { month.end() })
}

/// The start of the day (UTC) with this time.
pub(in crate::store) fn start_of_day(time: Timestamp) -> Timestamp {
    let day = time.to_zoned(TimeZone::UTC).date();
    day.to_zoned(TimeZone::UTC).map_or(time, |start| start.timestamp())
}

/// The first time that is asked for: PostgreSQL's calendar begins later than ours.
pub(in crate::store) fn first_time() -> Timestamp {
    date(1, 1, 1).to_zoned(TimeZone::UTC).map_or(Timestamp::UNIX_EPOCH, |time| time.timestamp())
}

/// The event of a removal.
pub(in crate::store) fn removed_event(now: Timestamp, removed: u64, before: Timestamp) -> Event {
    Event {
        id: uuid_v7(now),
        at: now,
        kind: EventKind::EventsPruned,
        outcome: Outcome::Success,
        reason: Some(format!("{removed} before {before}")),
        actor: Some("gateway".to_owned()),
        user_id: None,
        email: None,
        session_id: None,
        address: None,
        user_agent: None,
        request_id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn months_are_those_of_utc_and_names_tell_their_end() {
        let months = months_from(time("2026-11-30T23:30:00-01:00"));
        let names: Vec<_> = months.iter().map(|month| month.partition()).collect();
        assert_eq!(names, ["auth_events_2026_12", "auth_events_2027_01", "auth_events_2027_02"]);
        assert_eq!(months[0].start(), time("2026-12-01T00:00:00Z"));
        assert_eq!(months[0].end(), months[1].start());
        for month in months {
            assert_eq!(end_of_partition(&month.partition()), Some(month.end()));
        }
        let before = end_of_partition("auth_events_before_2026_12");
        assert_eq!(before, Some(time("2026-12-01T00:00:00Z")));
        for other in [
            "auth_events_default",
            "auth_events_2026",
            "auth_events_2026_13",
            "auth_events_26_11",
            "auth_events_2026_1",
            "auth_events_mine_2026_11",
            "users_2026_11",
        ] {
            assert_eq!(end_of_partition(other), None, "{other}");
        }
    }

    #[test]
    fn a_month_lies_in_its_own_partition_or_in_that_of_before() {
        let of = |text: &str| Month::of(time(text));
        let known = ["auth_events_2027_02", "auth_events_before_2026_12", "auth_events_default"];
        let known = known.map(str::to_owned);
        for (month, has_place) in [
            ("1999-01-01T00:00:00Z", true),
            ("2026-11-30T23:59:59Z", true),
            ("2026-12-01T00:00:00Z", false),
            ("2027-01-15T00:00:00Z", false),
            ("2027-02-15T00:00:00Z", true),
            ("2027-03-01T00:00:00Z", false),
        ] {
            assert_eq!(of(month).has_place_in(&known), has_place, "{month}");
        }
    }

    #[test]
    fn the_edges_of_the_calendar_are_months_too() {
        assert_eq!(months_from(Timestamp::MAX).len(), 3);
        assert_eq!(start_of_day(time("2026-11-21T10:00:00Z")), time("2026-11-21T00:00:00Z"));
        assert!(start_of_day(Timestamp::MIN) <= time("-009999-01-03T00:00:00Z"));
        assert_eq!(first_time(), time("0001-01-01T00:00:00Z"));
    }
}
