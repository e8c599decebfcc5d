//! Events as a whole on PostgreSQL.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Param, Postgres};
use crate::store::error::StoreError;
use crate::store::record::{self, event_columns};
use crate::store::rules::whole_micros;
use crate::store::trail::{EventPage, EventSelection, Trail, completed};

impl Postgres {
    pub(in crate::store) async fn check_events(
        &self,
        max_missing: u32,
    ) -> Result<Vec<Trail>, StoreError> {
        self.on_long_snapshot("check_events", |db| async move {
            let trails = db.all(record::trails_sql!(), &[], record::trail).await?;
            let params: &[Param<'_>] = &[&i64::from(max_missing)];
            let missing = db.all(record::missing_sql!("$1"), params, record::missing).await?;
            Ok(completed(trails, missing))
        })
        .await
    }

    pub(in crate::store) async fn event_page(
        &self,
        selection: &EventSelection,
        after: Option<(Timestamp, Uuid)>,
        look_at: u32,
    ) -> Result<EventPage, StoreError> {
        let (at, id) = selection.start(after);
        let at = &whole_micros(at);
        let until = &whole_micros(selection.until.unwrap_or(Timestamp::MAX));
        let (kinds, users) = &selection.words();
        self.on_snapshot("event_page", |db| async move {
            let sql = "-- event_page: end
                SELECT e.at, e.id FROM auth_events AS e
                WHERE e.at >= $1 AND (e.at, e.id) > ($1, $2) AND e.at < $3
                ORDER BY e.at, e.id OFFSET $4 LIMIT 1";
            let last = i64::from(look_at.saturating_sub(1));
            let end = db.one(sql, &[at, &id, until, &last], record::place_of_event).await?;
            let sql = concat!(
                "-- event_page\nSELECT ",
                event_columns!(),
                " FROM auth_events AS e
                 WHERE e.at >= $1 AND (e.at, e.id) > ($1, $2) AND e.at < $3
                   AND e.at <= $4 AND (e.at, e.id) <= ($4, $5)
                   AND (cardinality($6::text[]) = 0 OR e.kind = ANY($6))
                   AND (cardinality($7::text[]) = 0 OR e.user_id = ANY($7))
                 ORDER BY e.at, e.id"
            );
            let (end_at, end_id) =
                end.unwrap_or_else(|| (whole_micros(Timestamp::MAX), Uuid::max()));
            let params: &[Param<'_>] = &[at, &id, until, &end_at, &end_id, kinds, users];
            let events = db.all(sql, params, |row| record::event(row, 0)).await?;
            Ok(EventPage { events, next: end })
        })
        .await
    }
}
