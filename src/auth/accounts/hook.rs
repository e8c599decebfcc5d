//! An earlier system that still knows the passwords of those who have not come by: it is asked
//! about a login to an address that has no account here, or an account without a password.
//!
//! ```text
//! POST url   {"type": "login", "email": …, "password": …}        signed as Standard Webhooks are
//! 200 {"user": {"id"?, "email_confirmed"?, "roles"?, "app_metadata"?, "user_metadata"?}}   right
//! 401, 404                                                                            not right
//! ```
//!
//! Anything else is no answer, and never a reason to call a password wrong.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::auth::input::new_metadata;
use crate::config::{Config, Problem};
use crate::model::{Email, JsonObject, UserId, is_role_name, uuid_v7};
use crate::outgoing::signature::SigningSecret;
use crate::outgoing::{Bounds, Client, Endpoint, OutgoingError};
use crate::telemetry::chain;

/// Longest answer: two objects of metadata of the size that we keep, and room.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Most questions at once. Limits hold one client back, but not many at once, and the earlier
/// system may be a small one; each question is a connection of its own.
const MAX_QUESTIONS: usize = 32;

/// The role that an answer cannot give.
const ADMIN: &str = "admin";

/// The earlier system.
pub struct LoginHook {
    client: Client,
    endpoint: Endpoint,
    secret: SigningSecret,
    deadline: Duration,
    questions: Semaphore,
}

/// What it said.
pub(super) enum Told {
    /// The password is right; whose it is.
    Right(Box<Profile>),
    /// The address is unknown there, or the password is wrong.
    Wrong,
}

/// What it knows of a user.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Profile {
    pub(super) id: Option<UserId>,
    /// Whether the address was proved to be the user's.
    pub(super) email_confirmed: bool,
    pub(super) roles: Vec<String>,
    pub(super) app_metadata: JsonObject,
    pub(super) user_metadata: JsonObject,
}

/// Why it said nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    #[error("the earlier system has {MAX_QUESTIONS} questions to answer already")]
    Busy,
    #[error("the earlier system could not be asked")]
    Outgoing(#[source] OutgoingError),
    #[error("the earlier system answered with status {}", .0.as_u16())]
    Status(StatusCode),
    #[error("the answer of the earlier system is not usable: {0}")]
    Answer(&'static str),
}

impl LoginHook {
    /// None, when there is no `[login_hook]`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(config: &Config) -> Result<Option<Self>, Vec<Problem>> {
        let Some(hook) = &config.login_hook else { return Ok(None) };
        let mut problems = Vec::new();
        let mut refuse = |key: &str, message: String| {
            problems.push(Problem::new(format!("login_hook.{key}"), message));
        };
        let endpoint = Endpoint::parse(hook.url.expose_secret())
            .map_err(|error| refuse("url", error.to_string()))
            .ok();
        let secret = SigningSecret::parse(hook.secret.expose_secret())
            .map_err(|error| refuse("secret", error.to_string()))
            .ok();
        let client =
            Client::new(hook.ca.as_deref()).map_err(|error| refuse("ca", chain(&error))).ok();
        let deadline = hook.deadline.0;
        if !(Duration::from_millis(100)..=Duration::from_secs(10)).contains(&deadline) {
            refuse("deadline", "must be from 100ms to 10s: a login waits for it".to_owned());
        }
        match (endpoint, secret, client) {
            (Some(endpoint), Some(secret), Some(client)) if problems.is_empty() => {
                let questions = Semaphore::new(MAX_QUESTIONS);
                Ok(Some(Self { client, endpoint, secret, deadline, questions }))
            }
            _ => Err(problems),
        }
    }

    /// Asks whether the password is right.
    pub(super) async fn ask(
        &self,
        email: &Email,
        password: &SecretString,
        now: Timestamp,
    ) -> Result<Told, HookError> {
        let _place = self.questions.try_acquire().map_err(|_| HookError::Busy)?;
        let password = password.expose_secret();
        let question = json!({ "type": "login", "email": email.address(), "password": password });
        let body = Bytes::from(question.to_string());
        let mut headers = self.secret.sign(uuid_v7(now), now, &body);
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, json.clone());
        headers.insert(ACCEPT, json);
        let bounds = Bounds { deadline: self.deadline, max_bytes: MAX_ANSWER_BYTES };
        let asked = self.client.send(&self.endpoint, Method::POST, headers, body, bounds);
        let answer = asked.await.map_err(HookError::Outgoing)?;
        match answer.status {
            StatusCode::OK => read(&answer.body).map(|profile| Told::Right(Box::new(profile))),
            StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND => Ok(Told::Wrong),
            status => Err(HookError::Status(status)),
        }
    }
}

/// Reads `{user: {…}}`. Strictly: an account is made of it once and for all.
fn read(body: &[u8]) -> Result<Profile, HookError> {
    #[derive(Deserialize)]
    struct Answer {
        user: Profile,
    }
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|_| HookError::Answer("no JSON object with an object `user` as documented"))?;
    let mut profile = answer.user;
    if !profile.roles.iter().all(|role| is_role_name(role)) {
        return Err(HookError::Answer("`roles` has something else than roles"));
    }
    // Administrators are made here, by name: not by whoever could once write to another database.
    profile.roles.retain(|role| role != ADMIN);
    // They are told apart from it.
    profile.app_metadata.remove("roles");
    for metadata in [&mut profile.app_metadata, &mut profile.user_metadata] {
        *metadata = new_metadata(std::mem::take(metadata))
            .map_err(|_| HookError::Answer("metadata is too large"))?;
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_strictly() {
        let full = br#"{"user": {"id": "u-1", "email_confirmed": true, "roles": ["staff", "admin"],
            "app_metadata": {"plan": "a", "roles": ["admin"], "none": null},
            "user_metadata": {"name": "Ann"}, "more": 1}, "more": 2}"#;
        let profile = read(full).unwrap();
        assert_eq!(profile.id.unwrap().as_str(), "u-1");
        assert!(profile.email_confirmed);
        assert_eq!(profile.roles, ["staff"]);
        assert_eq!(serde_json::to_value(profile.app_metadata).unwrap(), json!({"plan": "a"}));
        assert_eq!(serde_json::to_value(profile.user_metadata).unwrap(), json!({"name": "Ann"}));
        let least = read(br#"{"user": {}}"#).unwrap();
        assert!(least.id.is_none() && !least.email_confirmed && least.roles.is_empty());

        let large = json!({"user": {"user_metadata": {"x": "x".repeat(20_000)}}}).to_string();
        for bad in [
            "",
            "true",
            "{}",
            r#"{"user": null}"#,
            r#"{"user": {"id": 7}}"#,
            r#"{"user": {"id": "auth0|7"}}"#,
            r#"{"user": {"email_confirmed": "yes"}}"#,
            r#"{"user": {"roles": "staff"}}"#,
            r#"{"user": {"roles": ["Staff"]}}"#,
            r#"{"user": {"app_metadata": []}}"#,
            &large,
        ] {
            assert!(matches!(read(bad.as_bytes()), Err(HookError::Answer(_))), "{bad}");
        }
    }
}
