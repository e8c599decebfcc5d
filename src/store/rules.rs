//! What the use cases decide, without SQL: both backends ask here, so that they cannot disagree.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::cases::{Refresh, Rotation, UserUpdate};
use crate::model::{JsonObject, Session, User};

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

/// A refresh token as it was found, with what hangs on it. The session's row is locked.
pub(super) struct ShownToken {
    pub(super) user: User,
    pub(super) session: Session,
    /// When it was traded and for what.
    pub(super) used: Option<(Timestamp, Vec<u8>)>,
    /// Whether the token that it was traded for was traded in turn.
    pub(super) successor_used: bool,
}

/// What to do about a shown refresh token.
#[expect(clippy::large_enum_variant, reason = "one for each refresh, taken apart at once")]
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Trade it.
    Rotate,
    /// Give out the same successor again.
    Repeat(Vec<u8>),
    /// End the session: somebody else has the token too (RFC 9700 §4.14.2).
    EndSession,
    /// Answer, change nothing.
    Refuse(Refresh),
}

/// Judges a refresh token. A client that never saw the answer to its refresh (lost connection, two
/// tabs at once) shows the old token again; as long as nobody used the successor, or for
/// `reuse_window`, that is no theft.
pub(super) fn judge(token: &ShownToken, r: &Rotation) -> Verdict {
    let now = whole_micros(r.now);
    let session = &token.session;
    if let Some((_, reason)) = session.ended {
        return Verdict::Refuse(Refresh::Ended(reason));
    }
    if now >= session.expires_at || is_longer(session.last_seen_at, now, r.idle) {
        return Verdict::Refuse(Refresh::Expired);
    }
    if token.user.is_disabled(now) {
        return Verdict::Refuse(Refresh::Disabled);
    }
    match &token.used {
        None => Verdict::Rotate,
        Some((used_at, sealed))
            if !token.successor_used || !is_longer(*used_at, now, r.reuse_window) =>
        {
            Verdict::Repeat(sealed.clone())
        }
        Some(_) => Verdict::EndSession,
    }
}

/// Whether more than `limit` lies between the two times.
fn is_longer(from: Timestamp, to: Timestamp, limit: Duration) -> bool {
    Duration::try_from(to.duration_since(from)).is_ok_and(|passed| passed > limit)
}

/// The user's metadata after the update; `None` when it would be too long.
pub(super) fn merged_metadata(old: &JsonObject, update: &UserUpdate) -> Option<JsonObject> {
    let mut merged = old.clone();
    let Some(patch) = &update.metadata_patch else { return Some(merged) };
    for (key, value) in storable(patch) {
        if value.is_null() {
            merged.remove(&key);
        } else {
            merged.insert(key, value);
        }
    }
    let length = Value::Object(merged.clone()).to_string().len();
    (length <= update.max_metadata_bytes).then_some(merged)
}

/// The object without NUL characters, which PostgreSQL cannot hold (U+FFFD stands for them, as in
/// [`crate::model::clean_text`]).
pub(super) fn storable(object: &JsonObject) -> JsonObject {
    object.iter().map(|(key, value)| (without_nul(key), storable_value(value))).collect()
}

fn storable_value(value: &Value) -> Value {
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
    use crate::model::{EndReason, Event, EventKind, Outcome, TokenDigest};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn token() -> ShownToken {
        let user_id: crate::model::UserId = "u-1".parse().unwrap();
        ShownToken {
            user: User {
                id: user_id.clone(),
                email: "ann@example.com".to_owned(),
                email_confirmed_at: None,
                roles: Vec::new(),
                app_metadata: JsonObject::new(),
                user_metadata: JsonObject::new(),
                last_sign_in_at: None,
                disabled_until: None,
                created_at: at(0),
                updated_at: at(0),
            },
            session: Session {
                id: Uuid::nil(),
                user_id,
                created_at: at(0),
                last_seen_at: at(0),
                expires_at: at(1000),
                access_expires_at: at(100),
                address: None,
                user_agent: None,
                ended: None,
            },
            used: None,
            successor_used: false,
        }
    }

    fn rotation(now: Timestamp) -> Rotation {
        Rotation {
            shown: TokenDigest([1; 32]),
            successor: TokenDigest([2; 32]),
            sealed_successor: vec![3],
            now,
            reuse_window: Duration::from_secs(10),
            idle: Duration::from_secs(500),
            access_expires_at: at(200),
            event: Event {
                id: Uuid::nil(),
                at: now,
                kind: EventKind::TokenRefreshed,
                outcome: Outcome::Success,
                reason: None,
                actor: None,
                user_id: None,
                email: None,
                session_id: None,
                address: None,
                user_agent: None,
                request_id: None,
            },
        }
    }

    #[test]
    fn refresh_tokens_are_judged_by_use_age_and_session() {
        type Change = fn(&mut ShownToken);
        let cases: &[(&str, i64, Change, Verdict)] = &[
            ("fresh", 1, |_| {}, Verdict::Rotate),
            ("fresh at the idle limit", 500, |_| {}, Verdict::Rotate),
            ("idle", 501, |_| {}, Verdict::Refuse(Refresh::Expired)),
            (
                "last second of the session",
                999,
                |t| t.session.last_seen_at = at(900),
                Verdict::Rotate,
            ),
            (
                "end of the session",
                1000,
                |t| t.session.last_seen_at = at(900),
                Verdict::Refuse(Refresh::Expired),
            ),
            (
                "used just now, successor used",
                11,
                |t| (t.used, t.successor_used) = (Some((at(1), vec![9])), true),
                Verdict::Repeat(vec![9]),
            ),
            (
                "used long ago, successor never used",
                300,
                |t| t.used = Some((at(1), vec![9])),
                Verdict::Repeat(vec![9]),
            ),
            (
                "used before the window, successor used",
                12,
                |t| (t.used, t.successor_used) = (Some((at(1), vec![9])), true),
                Verdict::EndSession,
            ),
            (
                "used in the future of another clock",
                5,
                |t| (t.used, t.successor_used) = (Some((at(9), vec![9])), true),
                Verdict::Repeat(vec![9]),
            ),
            (
                "ended",
                1,
                |t| t.session.ended = Some((at(1), EndReason::Logout)),
                Verdict::Refuse(Refresh::Ended(EndReason::Logout)),
            ),
            (
                "disabled user",
                1,
                |t| t.user.disabled_until = Some(at(2)),
                Verdict::Refuse(Refresh::Disabled),
            ),
            (
                "user enabled again by time",
                2,
                |t| t.user.disabled_until = Some(at(2)),
                Verdict::Rotate,
            ),
        ];
        for (name, second, change, verdict) in cases {
            let mut token = token();
            change(&mut token);
            assert_eq!(judge(&token, &rotation(at(*second))), *verdict, "{name}");
        }
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
