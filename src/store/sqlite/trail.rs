//! Events as a whole on SQLite.

use jiff::Timestamp;
use rusqlite::params;
use serde_json::json;
use uuid::Uuid;

use super::{Sqlite, micros};
use crate::store::error::StoreError;
use crate::store::record::{self, event_columns};
use crate::store::trail::{EventPage, EventSelection, Trail, completed};

impl Sqlite {
    pub(in crate::store) async fn check_events(
        &self,
        max_missing: u32,
    ) -> Result<Vec<Trail>, StoreError> {
        self.read_at_leisure("check_events", move |db| {
            let trails = db.all(record::trails_sql!(), [], |row| record::trail(row))?;
            let sql = record::missing_sql!("?1");
            let missing = db.all(sql, [max_missing], |row| record::missing(row))?;
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
        let (at, until) = (micros(at), micros(selection.until.unwrap_or(Timestamp::MAX)));
        let (kinds, users) = selection.words();
        let (kinds, users) = (json!(kinds).to_string(), json!(users).to_string());
        self.read("event_page", move |db| {
            let sql = "-- event_page: end
                SELECT e.at, e.id FROM auth_events AS e
                WHERE (e.at, e.id) > (?1, ?2) AND e.at < ?3
                ORDER BY e.at, e.id LIMIT 1 OFFSET ?4";
            let last = look_at.saturating_sub(1);
            let end =
                db.one(sql, params![at, id, until, last], |row| record::place_of_event(row))?;
            let sql = concat!(
                "-- event_page\nSELECT ",
                event_columns!(),
                " FROM auth_events AS e
                 WHERE (e.at, e.id) > (?1, ?2) AND e.at < ?3 AND (e.at, e.id) <= (?4, ?5)
                   AND (?6 = '[]' OR e.kind IN (SELECT value FROM json_each(?6)))
                   AND (?7 = '[]' OR e.user_id IN (SELECT value FROM json_each(?7)))
                 ORDER BY e.at, e.id"
            );
            let (end_at, end_id) = end.unwrap_or((Timestamp::MAX, Uuid::max()));
            let params = params![at, id, until, micros(end_at), end_id, kinds, users];
            let events = db.all(sql, params, |row| record::event(row, 0))?;
            Ok(EventPage { events, next: end })
        })
        .await
    }
}
