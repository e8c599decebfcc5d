//! Rows of events as a whole, and the statements that yield them: both databases understand the same.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Reader, Record};
use crate::store::error::StoreError;
use crate::store::trail::Trail;

/// All writers with what is left of their numbers, for [`trail`]; also those that nothing is known of
/// but events, or that some were removed.
macro_rules! trails_sql {
    () => {
        "-- check_events
         SELECT coalesce(w.id, s.writer, r.writer) AS writer, w.first_event_at,
             coalesce(w.last_number, 0) AS last_number, coalesce(s.stored, 0) AS stored, s.low,
             s.high, coalesce(r.removed, 0) AS removed, coalesce(r.up_to, 0) AS up_to,
             coalesce(s.repeated, 0) AS repeated
         FROM event_writers AS w
         FULL JOIN (
             SELECT writer, count(DISTINCT number) AS stored, min(number) AS low,
                 max(number) AS high, count(*) - count(DISTINCT number) AS repeated
             FROM auth_events GROUP BY writer
         ) AS s ON s.writer = w.id
         FULL JOIN event_removals AS r ON r.writer = coalesce(w.id, s.writer)
         ORDER BY w.first_event_at, 1"
    };
}

/// Ranges of numbers that are not there, before one that is and beyond what was removed, for
/// [`missing`]. Read in the order of the index, one row at a time.
macro_rules! missing_sql {
    ($limit:literal) => {
        concat!(
            "-- check_events: missing
             SELECT e.writer, e.low + 1 AS low, e.number - 1 AS high
             FROM (
                 SELECT n.writer, n.number,
                     CASE WHEN r.up_to > n.before THEN r.up_to ELSE n.before END AS low
                 FROM (
                     SELECT writer, number, lag(number, 1, CAST(0 AS bigint))
                         OVER (PARTITION BY writer ORDER BY number) AS before
                     FROM auth_events
                 ) AS n
                 LEFT JOIN event_removals AS r ON r.writer = n.writer
             ) AS e
             WHERE e.number > e.low + 1 ORDER BY e.writer, e.number LIMIT ",
            $limit
        )
    };
}

pub(in crate::store) use {missing_sql, trails_sql};

/// Reads a row of [`trails_sql`]; what is missing is still to be added.
pub(in crate::store) fn trail<R: Record>(record: &R) -> Result<Trail, StoreError> {
    let r = Reader::keyed_by_uuid(record, "event_writers", 0);
    let low = r.maybe(4, R::number)?;
    Ok(Trail {
        writer: r.must(0, R::uuid)?,
        first_event_at: r.maybe(1, R::time)?,
        last_number: r.must(2, R::number)?,
        stored: r.must(3, R::number)?,
        span: low.zip(r.maybe(5, R::number)?),
        removed: r.must(6, R::number)?,
        removed_up_to: r.must(7, R::number)?,
        repeated: r.must(8, R::number)?,
        missing: Vec::new(),
    })
}

/// Reads a row of [`missing_sql`].
pub(in crate::store) fn missing<R: Record>(record: &R) -> Result<(Uuid, i64, i64), StoreError> {
    let r = Reader::keyed_by_uuid(record, "auth_events", 0);
    Ok((r.must(0, R::uuid)?, r.must(1, R::number)?, r.must(2, R::number)?))
}

/// Reads `at`, `id`.
pub(in crate::store) fn place_of_event<R: Record>(
    record: &R,
) -> Result<(Timestamp, Uuid), StoreError> {
    let r = Reader::keyed_by_uuid(record, "auth_events", 1);
    Ok((r.must(0, R::time)?, r.must(1, R::uuid)?))
}

/// Reads `writer`, `number`.
pub(in crate::store) fn numbered<R: Record>(record: &R) -> Result<(Uuid, i64), StoreError> {
    let r = Reader::keyed_by_uuid(record, "auth_events", 0);
    Ok((r.must(0, R::uuid)?, r.must(1, R::number)?))
}
