//! What administrators are shown: the shapes of Supabase Auth where it has them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{event, kept_session, optional_time, time};
use crate::auth::accounts::{LimitState, MadeKey, MadeLink};
use crate::config::Limit;
use crate::identity::keys::life::KeyState;
use crate::model::{
    Event, EventKind, Factor, ListedKey, Purpose, Session, StoredEvent, User, UserId,
};
use crate::store::Guard;

/// A user, as shown to administrators: also that it was deleted.
pub fn user(user: &User, audience: &str, now: Timestamp) -> Value {
    let mut shown = super::user(user, audience, now);
    if let Some(at) = user.deleted_at {
        shown["deleted_at"] = time(at).into();
        // What is stored in its place is no address.
        shown["email"] = "".into();
        shown["identities"] = json!([]);
    }
    shown
}

/// A page of users.
pub fn users(users: &[User], audience: &str, now: Timestamp) -> Value {
    let users: Vec<_> = users.iter().map(|user| self::user(user, audience, now)).collect();
    json!({ "users": users, "aud": audience })
}

/// A link to hand on, with its user.
pub fn link(link: &MadeLink, audience: &str, now: Timestamp) -> Value {
    let mut shown = user(&link.user, audience, now);
    shown["action_link"] = link.address.as_str().into();
    shown["email_otp"] = link.digits.as_str().into();
    shown["hashed_token"] = link.token.as_str().into();
    shown["redirect_to"] = link.redirect_to.as_str().into();
    shown["verification_type"] = match link.purpose {
        Purpose::EmailChangeCurrent => "email_change_current",
        Purpose::EmailChangeNew => "email_change_new",
        other => other.as_str(),
    }
    .into();
    shown
}

/// Second factors.
pub fn factors(factors: &[Factor]) -> Value {
    factors.iter().map(super::factor).collect()
}

/// Running sessions of a user.
pub fn sessions(sessions: &[Session]) -> Value {
    json!({ "sessions": sessions.iter().map(kept_session).collect::<Vec<_>>() })
}

/// A page of the record, newest first, and where the next page begins.
pub fn events(events: &[StoredEvent], next: Option<&str>) -> Value {
    let shown = |stored: &StoredEvent| {
        let mut shown = event(stored);
        shown["user_id"] = stored.event.user_id.as_ref().map(UserId::as_str).into();
        shown["writer"] = stored.writer.to_string().into();
        shown["number"] = stored.number.into();
        shown
    };
    json!({ "events": events.iter().map(shown).collect::<Vec<_>>(), "next": next })
}

/// A page of the record, as Supabase Auth words it.
pub fn audit(events: &[StoredEvent]) -> Value {
    events.iter().map(|stored| entry(&stored.event)).collect()
}

fn entry(event: &Event) -> Value {
    let (action, log_type) = words_of(event.kind);
    let user = event.user_id.as_ref().map(UserId::as_str);
    json!({
        "id": event.id,
        "created_at": time(event.at),
        "ip_address": event.address.map(|address| address.to_string()).unwrap_or_default(),
        "payload": {
            "timestamp": time(event.at),
            "action": action,
            "log_type": log_type,
            "actor_id": event.actor.as_deref().or(user).unwrap_or_default(),
            "actor_username": event.email.as_deref().filter(|_| event.actor.is_none()).unwrap_or_default(),
            "actor_via_sso": false,
            "traits": {
                "kind": event.kind.as_str(),
                "outcome": event.outcome.as_str(),
                "reason": event.reason,
                "user_id": user,
                "user_email": event.email,
                "session_id": event.session_id,
                "user_agent": event.user_agent,
                "request_id": event.request_id,
            },
        },
    })
}

/// What Supabase Auth calls an event, and the kind of log that it puts it in. What it does not know
/// keeps its name.
fn words_of(kind: EventKind) -> (&'static str, &'static str) {
    match kind {
        EventKind::ConfirmationRequested => ("user_confirmation_requested", "user"),
        EventKind::FactorEnrolled => ("factor_in_progress", "factor"),
        EventKind::FactorRemoved => ("factor_unenrolled", "factor"),
        EventKind::FactorVerified => ("verification_attempted", "factor"),
        EventKind::Invited => ("user_invited", "team"),
        EventKind::Login => ("login", "account"),
        EventKind::Logout => ("logout", "account"),
        EventKind::MagicLinkRequested | EventKind::RecoveryRequested => {
            ("user_recovery_requested", "user")
        }
        EventKind::PasswordChanged => ("user_updated_password", "user"),
        EventKind::ReauthenticationRequested => ("user_reauthenticate_requested", "user"),
        EventKind::RecoveryCodesMade => ("generate_recovery_codes", "recovery_codes"),
        EventKind::RolesChanged
        | EventKind::UserDisabled
        | EventKind::UserEnabled
        | EventKind::UserUpdated => ("user_modified", "user"),
        EventKind::SessionRevoked => ("token_revoked", "token"),
        EventKind::Signup | EventKind::UserCreated => ("user_signedup", "team"),
        EventKind::TokenRefreshed => ("token_refreshed", "token"),
        EventKind::UserDeleted | EventKind::UserSoftDeleted => ("user_deleted", "team"),
        other => (other.as_str(), "account"),
    }
}

/// Signing keys.
pub fn keys(keys: &[(ListedKey, KeyState)]) -> Value {
    let shown = |(key, state): &(ListedKey, KeyState)| {
        json!({
            "kid": key.kid,
            "algorithm": key.algorithm.name(),
            "state": state.as_str(),
            "created_at": time(key.created_at),
            "active_from": time(key.active_from),
            "retire_at": optional_time(key.retire_at),
            "revoked_at": optional_time(key.revoked_at),
        })
    };
    json!({ "keys": keys.iter().map(shown).collect::<Vec<_>>() })
}

/// A new signing key.
pub fn made_key(key: &MadeKey) -> Value {
    json!({
        "kid": key.kid,
        "active_from": time(key.active_from),
        "others_accepted_until": time(key.others_until),
    })
}

/// The limits there are.
pub fn limits<'a>(limits: impl Iterator<Item = (&'a String, &'a Limit)>) -> Value {
    let shown = |(name, limit): (&String, &Limit)| json!({ "limit": name, "rate": limit.rate.to_string(), "by": limit.by.name() });
    json!({ "limits": limits.map(shown).collect::<Vec<_>>() })
}

/// What a limit has counted; times in seconds.
pub fn limit(state: &LimitState) -> Value {
    let LimitState { counter, decision } = state;
    json!({
        "limit": &**counter.rule.name(),
        "key": counter.key.to_string(),
        "rate": counter.rule.rate().to_string(),
        "remaining": decision.remaining,
        "retry_after": decision.retry_after.as_secs_f64().ceil(),
        "reset": decision.reset.as_secs_f64().ceil(),
    })
}

/// Failed logins with an address.
pub fn failed_logins(guards: &[Guard]) -> Value {
    let shown = |guard: &Guard| {
        json!({
            "lane": guard.lane,
            "failures": guard.failures,
            "failed_at": time(guard.failed_at),
            "blocked_until": time(guard.blocked_until),
        })
    };
    json!({ "lanes": guards.iter().map(shown).collect::<Vec<_>>() })
}
