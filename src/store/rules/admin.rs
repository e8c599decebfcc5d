//! What an administrator's change makes of an account, and what it is called in the record.

use jiff::Timestamp;

use super::{merged, sorted_roles};
use crate::model::{EndReason, Event, EventKind, JsonObject, Outcome, User, uuid_v7};
use crate::store::admin::{Ban, UserChange};

/// A change that was worked out: what to write.
pub(in crate::store) struct Planned {
    /// The account as it is to be. Address and password are written where the change names them.
    pub(in crate::store) user: User,
    /// Why every session ends, if they do.
    pub(in crate::store) ends: Option<EndReason>,
    /// Whether links that were mailed before, and an earlier wish for another address, are void:
    /// whoever can read the mail may be why.
    pub(in crate::store) voids_links: bool,
    /// One for each kind of change.
    pub(in crate::store) events: Vec<Event>,
}

/// Works a change out. `None`: metadata would be too long.
pub(in crate::store) fn plan(
    old: &User,
    change: &UserChange,
    now: Timestamp,
    event: &Event,
) -> Option<Planned> {
    let mut user = old.clone();
    let mut ends = None;
    let mut kinds: Vec<(EventKind, Option<String>)> = Vec::new();
    if let Some(email) = change.email.as_ref().filter(|email| email.address() != old.email) {
        let is_same =
            old.email.parse().is_ok_and(|old: crate::model::Email| old.key() == email.key());
        email.address().clone_into(&mut user.email);
        user.email_confirmed_at = old.email_confirmed_at.filter(|_| is_same);
        kinds.push((EventKind::EmailChanged, None));
    }
    if change.confirm_email && user.email_confirmed_at.is_none() {
        user.email_confirmed_at = Some(now);
        kinds.push((EventKind::UserConfirmed, None));
    }
    if change.new_email.is_some() {
        kinds.push((EventKind::EmailChangeRequested, None));
    }
    if let Some(roles) = change.roles.as_deref().map(sorted_roles).filter(|new| *new != old.roles) {
        kinds.push((EventKind::RolesChanged, (!roles.is_empty()).then(|| roles.join(","))));
        user.roles = roles;
        ends = ends.or_else(|| (!change.keep_sessions).then_some(EndReason::Revoked));
    }
    user.app_metadata = patched(&old.app_metadata, change.app_metadata.as_ref(), change)?;
    user.user_metadata = patched(&old.user_metadata, change.user_metadata.as_ref(), change)?;
    if user.app_metadata != old.app_metadata || user.user_metadata != old.user_metadata {
        kinds.push((EventKind::UserUpdated, None));
    }
    if change.password.is_some() {
        kinds.push((EventKind::PasswordChanged, None));
        ends = Some(EndReason::PasswordChanged);
    }
    match change.ban {
        Some(Ban::Until(until)) => {
            user.disabled_until = Some(until);
            kinds.push((EventKind::UserDisabled, None));
            ends = Some(EndReason::Disabled);
        }
        Some(Ban::Lifted) if old.disabled_until.is_some() => {
            user.disabled_until = None;
            kinds.push((EventKind::UserEnabled, None));
        }
        Some(Ban::Lifted) | None => {}
    }
    let voids_links = user.email != old.email || change.password.is_some();
    let event_of = |(kind, reason): &(EventKind, Option<String>)| Event {
        id: uuid_v7(event.at),
        kind: *kind,
        outcome: Outcome::Success,
        reason: reason.clone(),
        user_id: Some(old.id.clone()),
        ..event.clone()
    };
    let events = kinds.iter().map(event_of).collect();
    Some(Planned { user, ends, voids_links, events })
}

fn patched(
    old: &JsonObject,
    patch: Option<&JsonObject>,
    change: &UserChange,
) -> Option<JsonObject> {
    match patch {
        None => Some(old.clone()),
        Some(patch) => merged(old, patch, change.max_metadata_bytes.unwrap_or(usize::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn object(value: &Value) -> JsonObject {
        value.as_object().unwrap().clone()
    }

    fn ann() -> User {
        User {
            email_confirmed_at: Some(at(0)),
            roles: vec!["a".to_owned(), "b".to_owned()],
            app_metadata: object(&json!({"plan": "free"})),
            ..User::new("u-1".parse().unwrap(), "ann@example.com", at(0))
        }
    }

    fn template() -> Event {
        Event {
            id: Uuid::nil(),
            at: at(9),
            kind: EventKind::UserUpdated,
            outcome: Outcome::Success,
            reason: None,
            actor: Some("u-admin".to_owned()),
            user_id: None,
            email: None,
            session_id: None,
            address: None,
            user_agent: None,
            request_id: None,
        }
    }

    fn of_ann(change: &UserChange) -> Planned {
        plan(&ann(), change, at(9), &template()).unwrap()
    }

    fn kinds(planned: &Planned) -> Vec<EventKind> {
        planned.events.iter().map(|event| event.kind).collect()
    }

    #[test]
    fn what_is_as_it_was_is_no_change() {
        let same = UserChange {
            email: Some("ann@example.com".parse().unwrap()),
            confirm_email: true,
            roles: Some(vec!["b".to_owned(), "a".to_owned(), "b".to_owned()]),
            app_metadata: Some(object(&json!({"plan": "free", "gone": null}))),
            user_metadata: Some(JsonObject::new()),
            ban: Some(Ban::Lifted),
            ..UserChange::default()
        };
        for change in [UserChange::default(), same] {
            let planned = of_ann(&change);
            assert_eq!(planned.user, ann());
            assert!(planned.ends.is_none() && !planned.voids_links && planned.events.is_empty());
        }
    }

    #[test]
    fn another_address_is_proved_only_when_that_is_said() {
        let moved = |address: &str, confirm_email| {
            let email = Some(address.parse().unwrap());
            of_ann(&UserChange { email, confirm_email, ..UserChange::default() })
        };
        let bare = moved("ann@other.example", false);
        assert_eq!(bare.user.email_confirmed_at, None);
        assert!(bare.voids_links);
        assert_eq!(kinds(&bare), [EventKind::EmailChanged]);
        let proved = moved("ann@other.example", true);
        assert_eq!(proved.user.email_confirmed_at, Some(at(9)));
        assert_eq!(kinds(&proved), [EventKind::EmailChanged, EventKind::UserConfirmed]);
        let respelt = moved("Ann@Example.com", false);
        assert_eq!(respelt.user.email_confirmed_at, Some(at(0)));
        assert_eq!(respelt.user.email, "Ann@Example.com");
    }

    #[test]
    fn sessions_end_when_their_tokens_would_say_what_holds_no_more() {
        let roles = Some(vec!["a".to_owned()]);
        let fewer = UserChange { roles: roles.clone(), ..UserChange::default() };
        assert_eq!(of_ann(&fewer).ends, Some(EndReason::Revoked));
        assert_eq!(of_ann(&fewer).events[0].reason.as_deref(), Some("a"));
        let kept = UserChange { roles, keep_sessions: true, ..UserChange::default() };
        assert_eq!(of_ann(&kept).ends, None);
        let banned = UserChange {
            password: Some(crate::model::PasswordHash("h".to_owned())),
            ban: Some(Ban::Until(at(100))),
            ..UserChange::default()
        };
        let planned = of_ann(&banned);
        assert_eq!(planned.ends, Some(EndReason::Disabled));
        assert_eq!(planned.user.disabled_until, Some(at(100)));
        assert!(planned.voids_links);
        assert_eq!(kinds(&planned), [EventKind::PasswordChanged, EventKind::UserDisabled]);
        let event = &planned.events[0];
        assert_eq!(event.actor.as_deref(), Some("u-admin"));
        assert_eq!(event.user_id, Some(ann().id));
    }

    #[test]
    fn metadata_has_a_limit_after_the_merge() {
        let patch = |value: Value| UserChange {
            app_metadata: Some(object(&value)),
            max_metadata_bytes: Some(20),
            ..UserChange::default()
        };
        let planned = of_ann(&patch(json!({"plan": "pro"})));
        assert_eq!(planned.user.app_metadata, object(&json!({"plan": "pro"})));
        assert_eq!(kinds(&planned), [EventKind::UserUpdated]);
        let long = patch(json!({"more": "0123456789"}));
        assert!(plan(&ann(), &long, at(9), &template()).is_none());
    }
}
