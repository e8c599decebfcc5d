//! Rows of deliveries, and the statements that both databases understand.

use super::{Reader, Record};
use crate::store::deliveries::{Backlog, DeliveryState, WebhookRow};
use crate::store::error::StoreError;

/// Writers with events to deliver, for [`backlog`].
macro_rules! backlog_sql {
    ($limit:literal) => {
        concat!(
            "-- claim_delivery: writers
             SELECT w.id, coalesce(d.delivered_to, 0) AS delivered_to, w.last_number
             FROM event_writers AS w LEFT JOIN event_deliveries AS d ON d.writer = w.id
             WHERE w.last_number > coalesce(d.delivered_to, 0)
             ORDER BY w.first_event_at, w.id LIMIT ",
            $limit
        )
    };
}

/// How things stand, for [`delivery_state`].
macro_rules! delivery_state_sql {
    () => {
        "-- delivery_state
         SELECT h.started_at, b.waiting, b.oldest, h.attempts, h.due_at, h.delivered_at, h.last_error
         FROM event_webhook AS h
         CROSS JOIN (
             SELECT CAST(coalesce(sum(w.last_number - coalesce(d.delivered_to, 0)), 0) AS bigint)
                     AS waiting,
                 min((SELECT e.at FROM auth_events AS e
                      WHERE e.writer = w.id AND e.number > coalesce(d.delivered_to, 0)
                      ORDER BY e.number LIMIT 1)) AS oldest
             FROM event_writers AS w LEFT JOIN event_deliveries AS d ON d.writer = w.id
             WHERE w.last_number > coalesce(d.delivered_to, 0)
         ) AS b"
    };
}

pub(in crate::store) use {backlog_sql, delivery_state_sql};

/// Reads a row of [`backlog_sql`].
pub(in crate::store) fn backlog<R: Record>(record: &R) -> Result<Backlog, StoreError> {
    let r = Reader::keyed_by_uuid(record, "event_writers", 0);
    Ok(Backlog {
        writer: r.must(0, R::uuid)?,
        delivered_to: r.must(1, R::number)?,
        last_number: r.must(2, R::number)?,
    })
}

/// Reads `delivery`, `attempts`, `due_at`.
pub(in crate::store) fn webhook<R: Record>(record: &R) -> Result<WebhookRow, StoreError> {
    let r = Reader::keyed_by_uuid(record, "event_webhook", 0);
    Ok(WebhookRow {
        delivery: r.maybe(0, R::uuid)?,
        attempts: attempts(&r, 1)?,
        due_at: r.must(2, R::time)?,
    })
}

/// Reads a row of [`delivery_state_sql`].
pub(in crate::store) fn delivery_state<R: Record>(record: &R) -> Result<DeliveryState, StoreError> {
    let r = Reader::keyed_by_text(record, "event_webhook", 6);
    Ok(DeliveryState {
        started_at: r.must(0, R::time)?,
        waiting: u64::try_from(r.must(1, R::number)?).map_err(|_| r.corrupt(1))?,
        oldest: r.maybe(2, R::time)?,
        attempts: attempts(&r, 3)?,
        due_at: r.must(4, R::time)?,
        delivered_at: r.maybe(5, R::time)?,
        last_error: r.maybe(6, R::text)?,
    })
}

fn attempts<R: Record>(r: &Reader<'_, R>, column: usize) -> Result<u32, StoreError> {
    u32::try_from(r.must(column, R::number)?).map_err(|_| r.corrupt(column))
}
