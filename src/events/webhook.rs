//! Events to a webhook: many in one request, signed as Standard Webhooks are.
//!
//! ```text
//! POST url   {"type": "auth_events", "timestamp": …, "data": {"events": [{…}, …]}}
//! 2xx        taken; anything else, and no answer, is a reason to send the same again later
//! ```

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde_json::json;
use uuid::Uuid;

use crate::config::{Config, Problem};
use crate::model::{EventKind, StoredEvent};
use crate::outgoing::signature::SigningSecret;
use crate::outgoing::{Bounds, Client, Endpoint, OutgoingError};
use crate::telemetry::chain;

/// Longest answer: nothing is read from it.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Where events go.
pub struct Webhook {
    client: Client,
    endpoint: Endpoint,
    secret: SigningSecret,
    /// Empty = all.
    kinds: Vec<EventKind>,
    timeout: Duration,
    batch: u32,
}

/// Why events were not taken.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// No answer.
    #[error("the receiver did not answer")]
    Outgoing(#[source] OutgoingError),
    /// Another answer than 2xx.
    #[error("the receiver answered with status {}", .0.as_u16())]
    Status(StatusCode),
}

impl Webhook {
    /// None, when there is no `[events.webhook]`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(config: &Config) -> Result<Option<Self>, Vec<Problem>> {
        let Some(webhook) = &config.events.webhook else { return Ok(None) };
        let mut problems = Vec::new();
        let mut refuse = |key: &str, message: String| {
            problems.push(Problem::new(format!("events.webhook.{key}"), message));
        };
        let endpoint = Endpoint::parse(webhook.url.expose_secret())
            .map_err(|error| refuse("url", error.to_string()))
            .ok();
        let secret = SigningSecret::parse(webhook.secret.expose_secret())
            .map_err(|error| refuse("secret", error.to_string()))
            .ok();
        let client =
            Client::new(webhook.ca.as_deref()).map_err(|error| refuse("ca", chain(&error))).ok();
        let mut kinds = Vec::new();
        for (index, word) in webhook.kinds.iter().enumerate() {
            match EventKind::from_word(word) {
                Some(kind) => kinds.push(kind),
                None => refuse(
                    &format!("kinds[{index}]"),
                    format!(
                        "`{word}` is no kind of events; `portcullis events list --kind x` names them"
                    ),
                ),
            }
        }
        let timeout = webhook.timeout.0;
        if !(Duration::from_secs(1)..=Duration::from_mins(1)).contains(&timeout) {
            refuse("timeout", "must be from 1s to 1m".to_owned());
        }
        if !(1..=1_000).contains(&webhook.batch) {
            refuse("batch", "must be from 1 to 1000".to_owned());
        }
        match (endpoint, secret, client) {
            (Some(endpoint), Some(secret), Some(client)) if problems.is_empty() => {
                let batch = u32::from(webhook.batch);
                Ok(Some(Self { client, endpoint, secret, kinds, timeout, batch }))
            }
            _ => Err(problems),
        }
    }

    /// Time for one attempt.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Most events of a delivery.
    pub fn batch(&self) -> u32 {
        self.batch
    }

    /// Whether the receiver is told of events of this kind.
    pub fn wants(&self, kind: EventKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// Sends events once. `id` is one for all attempts.
    ///
    /// # Errors
    /// They were not taken, as far as one can tell.
    pub async fn send(
        &self,
        id: Uuid,
        events: &[StoredEvent],
        now: Timestamp,
    ) -> Result<(), WebhookError> {
        let body = json!({
            "type": "auth_events",
            "timestamp": events.last().map(|stored| stored.event.at),
            "data": { "events": events.iter().map(StoredEvent::to_json).collect::<Vec<_>>() },
        });
        let body = Bytes::from(body.to_string());
        let mut headers = self.secret.sign(id, now, &body);
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, json.clone());
        headers.insert(ACCEPT, json);
        let bounds = Bounds { deadline: self.timeout, max_bytes: MAX_ANSWER_BYTES };
        let sent = self.client.send(&self.endpoint, Method::POST, headers, body, bounds);
        let answer = sent.await.map_err(WebhookError::Outgoing)?;
        if answer.status.is_success() { Ok(()) } else { Err(WebhookError::Status(answer.status)) }
    }
}
