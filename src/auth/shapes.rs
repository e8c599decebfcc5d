//! The JSON that account endpoints answer with: the shapes of Supabase Auth (GoTrue), so that its
//! client libraries work. Every field is always there, `null` where there is nothing to say.

pub mod admin;

use jiff::Timestamp;
use serde_json::{Value, json};

use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::accounts::{Challenged, Enrolled, UserData};
use super::policy::Policy;
use crate::config::CharacterClass;
use crate::model::{ApiKey, Factor, FactorKind, Session, SessionId, StoredEvent, User};

/// What a login, a sign-up or a refresh hands out.
pub struct Tokens {
    /// Signed; `Authorization: Bearer` from now on.
    pub access_token: String,
    /// When it expires, in Unix seconds.
    pub expires_at: i64,
    /// Traded once for the next pair.
    pub refresh_token: String,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// A session with its tokens.
pub fn session(tokens: &Tokens, user: &User, audience: &str, now: Timestamp) -> Value {
    json!({
        "access_token": tokens.access_token,
        "token_type": "bearer",
        "expires_in": (tokens.expires_at - now.as_second()).max(0),
        "expires_at": tokens.expires_at,
        "refresh_token": tokens.refresh_token,
        "user": self::user(user, audience, now),
    })
}

/// The same for a page whose browser has got the tokens.
pub fn without_tokens(mut session: Value) -> Value {
    if let Some(fields) = session.as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "access_token" | "refresh_token"));
    }
    session
}

/// A user, as shown to that user.
pub fn user(user: &User, audience: &str, now: Timestamp) -> Value {
    let confirmed_at = optional_time(user.email_confirmed_at);
    json!({
        "id": user.id.as_str(),
        "aud": audience,
        "role": "authenticated",
        "email": user.email,
        "email_confirmed_at": confirmed_at,
        "confirmed_at": confirmed_at,
        "new_email": user.new_email,
        "invited_at": optional_time(user.invited_at),
        "last_sign_in_at": optional_time(user.last_sign_in_at),
        "app_metadata": user.public_app_metadata(),
        "user_metadata": user.user_metadata,
        "identities": [{
            "identity_id": user.id.as_str(),
            "id": user.id.as_str(),
            "user_id": user.id.as_str(),
            "identity_data": {
                "sub": user.id.as_str(),
                "email": user.email,
                "email_verified": user.email_confirmed_at.is_some(),
                "phone_verified": false,
            },
            "provider": "email",
            "email": user.email,
            "last_sign_in_at": optional_time(user.last_sign_in_at),
            "created_at": time(user.created_at),
            "updated_at": time(user.updated_at),
        }],
        "factors": user.factors.iter().map(factor).collect::<Vec<_>>(),
        "is_anonymous": false,
        "created_at": time(user.created_at),
        "updated_at": time(user.updated_at),
        "banned_until": optional_time(user.disabled_until.filter(|_| user.is_disabled(now))),
    })
}

/// A second factor.
pub fn factor(factor: &Factor) -> Value {
    json!({
        "id": factor.id,
        "friendly_name": factor.friendly_name,
        "factor_type": factor.kind.as_str(),
        "status": factor.status(),
        "phone": "",
        "created_at": time(factor.created_at),
        "updated_at": time(factor.updated_at),
        "last_challenged_at": optional_time(factor.last_challenged_at),
    })
}

/// A factor that is to be verified, with what its app gets to know.
pub fn enrolled(enrolled: &Enrolled) -> Value {
    json!({
        "id": enrolled.factor.id,
        "type": enrolled.factor.kind.as_str(),
        "friendly_name": enrolled.factor.friendly_name,
        "totp": {
            "qr_code": *enrolled.qr_code,
            "secret": *enrolled.secret,
            "uri": *enrolled.uri,
        },
    })
}

/// A challenge that waits for a code.
pub fn challenged(challenged: &Challenged) -> Value {
    json!({
        "id": challenged.id,
        "type": FactorKind::Totp.as_str(),
        "expires_at": challenged.expires_at.as_second(),
    })
}

/// A factor that is gone.
pub fn unenrolled(factor: Uuid) -> Value {
    json!({ "id": factor })
}

/// Recovery codes, this once.
pub fn recovery_codes(codes: &[SecretString]) -> Value {
    let codes: Vec<_> = codes.iter().map(ExposeSecret::expose_secret).collect();
    json!({ "recovery_codes": codes })
}

/// The running sessions of a user; `current` is the one that asks.
pub fn sessions(sessions: &[Session], current: SessionId) -> Value {
    let shown = |session: &Session| {
        json!({
            "id": session.id,
            "created_at": time(session.created_at),
            "last_seen_at": time(session.last_seen_at),
            "expires_at": time(session.expires_at),
            "address": session.address,
            "user_agent": session.user_agent,
            "aal": session.aal(),
            "current": session.id == current,
        })
    };
    json!({ "sessions": sessions.iter().map(shown).collect::<Vec<_>>() })
}

/// A session of a user as it is kept, whether or not it runs.
pub fn kept_session(session: &Session) -> Value {
    json!({
        "id": session.id,
        "created_at": time(session.created_at),
        "last_seen_at": time(session.last_seen_at),
        "expires_at": time(session.expires_at),
        "address": session.address,
        "user_agent": session.user_agent,
        "amr": session.methods,
        "ended_at": optional_time(session.ended.map(|(at, _)| at)),
        "ended_reason": session.ended.map(|(_, reason)| reason.as_str()),
    })
}

/// An API key of a user as it is kept, whether or not it is accepted.
pub fn kept_api_key(key: &ApiKey) -> Value {
    let mut shown = api_key(key);
    shown["revoked_at"] = optional_time(key.revoked_at).into();
    shown
}

/// An event of a user.
pub fn event(stored: &StoredEvent) -> Value {
    let event = &stored.event;
    json!({
        "id": event.id,
        "time": time(event.at),
        "kind": event.kind.as_str(),
        "outcome": event.outcome.as_str(),
        "reason": event.reason,
        "actor": event.actor,
        "email": event.email,
        "session_id": event.session_id,
        "address": event.address,
        "user_agent": event.user_agent,
        "request_id": event.request_id,
    })
}

/// A page of a user's events, newest first, and where the next page begins.
pub fn events(events: &[StoredEvent], next: Option<&str>) -> Value {
    json!({ "events": events.iter().map(event).collect::<Vec<_>>(), "next": next })
}

/// What is stored of a user, and where its older events begin.
pub fn user_data(data: &UserData, audience: &str, now: Timestamp, next: Option<&str>) -> Value {
    json!({
        "user": user(&data.user, audience, now),
        "sessions": data.sessions.iter().map(kept_session).collect::<Vec<_>>(),
        "api_keys": data.api_keys.iter().map(kept_api_key).collect::<Vec<_>>(),
        "events": data.events.iter().map(event).collect::<Vec<_>>(),
        "next": next,
    })
}

/// What a client may know before anyone has logged in.
pub fn settings(signup_is_enabled: bool, email_is_confirmed: bool, policy: &Policy) -> Value {
    let require: Vec<_> = policy.require().iter().copied().map(class_word).collect();
    json!({
        "external": { "anonymous_users": false, "email": true, "phone": false },
        "disable_signup": !signup_is_enabled,
        "mailer_autoconfirm": !email_is_confirmed,
        "phone_autoconfirm": false,
        "saml_enabled": false,
        "password": { "min_length": policy.min_length(), "require": require },
    })
}

/// That somebody is there.
pub fn health() -> Value {
    json!({ "name": "Portcullis", "status": "ok" })
}

fn class_word(class: CharacterClass) -> &'static str {
    match class {
        CharacterClass::Digit => "digit",
        CharacterClass::Lowercase => "lowercase",
        CharacterClass::Symbol => "symbol",
        CharacterClass::Uppercase => "uppercase",
    }
}

/// RFC 3339 in UTC, to the microsecond that databases keep.
fn time(at: Timestamp) -> String {
    format!("{at:.6}")
}

fn optional_time(at: Option<Timestamp>) -> Option<String> {
    at.map(time)
}

/// An API key, without its text.
pub fn api_key(key: &ApiKey) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": key.scopes,
        "created_at": time(key.created_at),
        "expires_at": key.expires_at.map(time),
        "last_used_at": key.last_used_at.map(time),
        "replaces": key.replaces,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::model::{Event, EventKind, Outcome, UserId};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn ann() -> User {
        User {
            roles: vec!["admin".to_owned()],
            user_metadata: json!({"name": "Ann"}).as_object().unwrap().clone(),
            last_sign_in_at: Some(at("2026-01-02T03:04:05Z")),
            disabled_until: Some(at("2026-01-01T00:00:00Z")),
            updated_at: at("2026-01-02T03:04:05.5Z"),
            ..User::new(
                "u-1".parse().unwrap(),
                "Ann@example.com",
                at("2026-01-01T00:00:00.123456Z"),
            )
        }
    }

    #[test]
    fn a_session_has_every_field_that_clients_of_supabase_auth_look_for() {
        let tokens = Tokens {
            access_token: "a.b.c".to_owned(),
            expires_at: 1_767_409_445,
            refresh_token: "r".to_owned(),
        };
        let shown = session(&tokens, &ann(), "authenticated", at("2026-01-02T03:04:05.9Z"));
        let identity = json!({
            "identity_id": "u-1", "id": "u-1", "user_id": "u-1",
            "identity_data": {
                "sub": "u-1", "email": "Ann@example.com",
                "email_verified": false, "phone_verified": false,
            },
            "provider": "email", "email": "Ann@example.com",
            "last_sign_in_at": "2026-01-02T03:04:05.000000Z",
            "created_at": "2026-01-01T00:00:00.123456Z",
            "updated_at": "2026-01-02T03:04:05.500000Z",
        });
        assert_eq!(
            shown,
            json!({
                "access_token": "a.b.c", "token_type": "bearer",
                "expires_in": 86400, "expires_at": 1_767_409_445, "refresh_token": "r",
                "user": {
                    "id": "u-1", "aud": "authenticated", "role": "authenticated",
                    "email": "Ann@example.com", "email_confirmed_at": null, "confirmed_at": null,
                    "new_email": null, "invited_at": null,
                    "last_sign_in_at": "2026-01-02T03:04:05.000000Z",
                    "app_metadata": { "provider": "email", "providers": ["email"], "roles": ["admin"] },
                    "user_metadata": { "name": "Ann" },
                    "identities": [identity], "factors": [], "is_anonymous": false,
                    "created_at": "2026-01-01T00:00:00.123456Z",
                    "updated_at": "2026-01-02T03:04:05.500000Z",
                    "banned_until": null,
                },
            })
        );
    }

    #[test]
    fn the_session_that_asks_is_marked() {
        let id = Uuid::from_u128;
        let session = |n| Session {
            id: id(n),
            user_id: "u-1".parse::<UserId>().unwrap(),
            created_at: at("2026-01-01T00:00:00Z"),
            last_seen_at: at("2026-01-01T00:00:00Z"),
            expires_at: at("2026-02-01T00:00:00Z"),
            access_expires_at: at("2026-01-02T00:00:00Z"),
            address: Some([192, 0, 2, 1].into()),
            user_agent: None,
            methods: Vec::new(),
            factor_id: None,
            ended: None,
        };
        let shown = sessions(&[session(1), session(2)], id(2));
        assert_eq!(shown["sessions"][0]["current"], false);
        assert_eq!(
            shown["sessions"][1],
            json!({
                "id": id(2), "created_at": "2026-01-01T00:00:00.000000Z",
                "last_seen_at": "2026-01-01T00:00:00.000000Z",
                "expires_at": "2026-02-01T00:00:00.000000Z",
                "address": "192.0.2.1", "user_agent": null, "aal": "aal1", "current": true,
            })
        );
    }

    #[test]
    fn events_and_settings_have_their_documented_fields() {
        let event = Event {
            id: Uuid::nil(),
            at: at("2026-01-01T00:00:00Z"),
            kind: EventKind::LoginFailed,
            outcome: Outcome::Failure,
            reason: Some("wrong_password".to_owned()),
            actor: None,
            user_id: None,
            email: Some("ann@example.com".to_owned()),
            session_id: None,
            address: None,
            user_agent: None,
            request_id: None,
        };
        let stored = StoredEvent { writer: Uuid::nil(), number: 1, event };
        let shown = events(&[stored], Some("cursor"));
        assert_eq!(shown["next"], "cursor");
        assert_eq!(shown["events"][0]["kind"], "login_failed");
        assert_eq!(shown["events"][0]["time"], "2026-01-01T00:00:00.000000Z");
        assert_eq!(events(&[], None), json!({"events": [], "next": null}));

        let policy = Policy::compile(&config::Passwords::default()).unwrap();
        let shown = settings(false, true, &policy);
        assert_eq!(shown["disable_signup"], true);
        assert_eq!(shown["mailer_autoconfirm"], false);
        let rule = json!({"min_length": 8, "require": ["lowercase", "uppercase", "digit"]});
        assert_eq!(shown["password"], rule);
    }
}
