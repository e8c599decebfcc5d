//! What the use cases decide, without SQL: both backends ask here, so that they cannot disagree.

mod admin;
mod deliveries;
mod erasure;
mod events;
mod factors;
mod guards;
mod links;
mod refresh;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

pub(super) use admin::{Planned, plan};
pub(super) use deliveries::{MAX_WRITERS, composed, in_order};
pub(super) use erasure::{ERASE_BATCH, KEEP_ERASURE, LATE, no_address, pseudonym, reduced};
pub(super) use events::{
    Month, REMOVE_BATCH, end_of_partition, first_time, months_from, remove_batch, removed_event,
    start_of_day,
};
pub(super) use factors::{
    FoundChallenge, FoundFactor, KEEP_UNVERIFIED, factor_notice, failed_event, lacks_proof,
    may_add, may_remove, may_verify, pause_after_wrong, raised, used_step, verified_events,
    verified_notices, without_second,
};
pub(super) use guards::{KEEP_GUARD, KNOWN_FOR, pause_after};
pub(super) use links::{
    CODE_TRIES, FoundLink, KEEP_SIGNUP, LinkVerdict, Owner, Side, agreed_from_start, change_event,
    contested, fits, is_nonce, judge_link, looked_at, may_put, method_of, notice, opened,
    refused_event, taken_event, used_event,
};
pub(super) use refresh::{ShownToken, Verdict, judge};

use super::cases::{NewLogin, UserUpdate};
use crate::model::{Event, EventKind, JsonObject, Outcome, Session, uuid_v7};

/// For how long what is over stays readable: sessions, used refresh tokens.
pub(super) const KEEP_OVER: Duration = Duration::from_hours(30 * 24);

/// For how long an end is told after its tokens expired. Verifiers forgive clock differences
/// (`tokens.leeway`), so a token lives a little longer than its `exp`; an hour is beyond any leeway
/// in use and costs a few rows.
pub(super) const KEEP_REVOCATION: Duration = Duration::from_hours(1);

/// A time as both databases hold it: whole microseconds.
pub(super) fn whole_micros(time: Timestamp) -> Timestamp {
    // The library's range of microseconds ends before its last second does.
    Timestamp::from_microsecond(time.as_microsecond())
        .or_else(|_| Timestamp::from_second(time.as_second()))
        .unwrap_or(Timestamp::MIN)
}

/// `time` minus `by`, not before the first time there is.
pub(super) fn before(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_sub(by).map_or(Timestamp::MIN, whole_micros)
}

/// `time` plus `by`, not after the last time there is.
pub(super) fn after(time: Timestamp, by: Duration) -> Timestamp {
    whole_micros(time.checked_add(by).unwrap_or(Timestamp::MAX))
}

/// A session's proofs as they are stored.
pub(super) fn methods(session: &Session) -> Value {
    serde_json::to_value(&session.methods).expect("plain values always serialise")
}

/// The event of the sessions that were too many with this login.
pub(super) fn trimmed_event(event: &Event, login: &NewLogin) -> Event {
    Event {
        // The login's own event has the id that came with it.
        id: uuid_v7(event.at),
        kind: EventKind::SessionsTrimmed,
        outcome: Outcome::Success,
        reason: None,
        user_id: Some(login.session.user_id.clone()),
        session_id: Some(login.session.id),
        ..event.clone()
    }
}

/// The user's metadata after the update; `None` when it would be too long.
pub(super) fn merged_metadata(old: &JsonObject, update: &UserUpdate) -> Option<JsonObject> {
    match &update.metadata_patch {
        None => Some(old.clone()),
        Some(patch) => merged(old, patch, update.max_metadata_bytes),
    }
}

/// An object with another merged into it at the top level, where `null` deletes a key; `None` when it
/// would be too long.
fn merged(old: &JsonObject, patch: &JsonObject, max_bytes: usize) -> Option<JsonObject> {
    let mut merged = old.clone();
    for (key, value) in storable(patch) {
        if value.is_null() {
            merged.remove(&key);
        } else {
            merged.insert(key, value);
        }
    }
    let length = Value::Object(merged.clone()).to_string().len();
    (length <= max_bytes).then_some(merged)
}

/// The object without NUL characters, which PostgreSQL cannot hold (U+FFFD stands for them, as in
/// [`crate::model::clean_text`]).
pub(super) fn storable(object: &JsonObject) -> JsonObject {
    object.iter().map(|(key, value)| (without_nul(key), storable_value(value))).collect()
}

/// As [`storable`], of any value.
pub(super) fn storable_value(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_nul(text)),
        Value::Array(values) => values.iter().map(storable_value).collect(),
        Value::Object(object) => Value::Object(storable(object)),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Roles as they are stored: sorted, without repeats.
pub(super) fn sorted_roles(roles: &[String]) -> Vec<String> {
    let mut sorted = roles.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn every_time_can_be_stored() {
        for time in [Timestamp::MIN, Timestamp::UNIX_EPOCH, at(0), Timestamp::MAX] {
            let stored = whole_micros(time);
            let read = Timestamp::from_microsecond(stored.as_microsecond());
            assert_eq!(read.ok(), Some(stored));
            assert!(time.duration_since(stored).abs() < jiff::SignedDuration::from_secs(1));
        }
    }

    #[test]
    fn metadata_merges_at_the_top_level_and_null_deletes() {
        let object = |value: Value| value.as_object().unwrap().clone();
        let update = |patch: Value, max| UserUpdate {
            metadata_patch: Some(object(patch)),
            max_metadata_bytes: max,
            new_password: None,
            keep_session: Uuid::nil(),
            aal: crate::model::Aal::One,
            sign_out_others: true,
            nonce: None,
            new_email: None,
            parcels: Vec::new(),
        };
        let old = object(json!({"a": 1, "b": {"c": 2}}));
        let cases = [
            (json!({}), 100, Some(json!({"a": 1, "b": {"c": 2}}))),
            (json!({"b": {"d": 3}}), 100, Some(json!({"a": 1, "b": {"d": 3}}))),
            (json!({"a": null, "x": null}), 100, Some(json!({"b": {"c": 2}}))),
            (json!({"a": null, "b": null}), 2, Some(json!({}))),
            (json!({"b": null}), 6, None),
            (json!({"a": null, "b": ["\0"]}), 100, Some(json!({"b": ["\u{fffd}"]}))),
        ];
        for (patch, max, merged) in cases {
            let found = merged_metadata(&old, &update(patch.clone(), max));
            assert_eq!(found.map(Value::Object), merged, "{patch}");
        }
    }
}
