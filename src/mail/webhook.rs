//! Letters to a webhook, which writes and sends them itself. The body is that of Supabase's Send Email
//! Hook, so that its receivers work as they are; `to` and `letter` are ours and say at once what
//! those have to infer. Signed as Standard Webhooks are.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Dispatch, Outlook, Receipt, SendError};
use crate::model::Template;
use crate::outgoing::signature::SigningSecret;
use crate::outgoing::{Bounds, Client, Endpoint};
use crate::telemetry;

/// Longest answer: nothing is read from it.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Who writes and sends the letters.
pub(super) struct Webhook {
    pub(super) client: Client,
    pub(super) endpoint: Endpoint,
    pub(super) secret: SigningSecret,
}

impl Webhook {
    /// Hands a letter over within `patience`.
    pub(super) async fn send(
        &self,
        letter: &Dispatch,
        site_url: &str,
        now: Timestamp,
        patience: Duration,
    ) -> Result<Receipt, SendError> {
        let body = Bytes::from(body(letter, site_url).to_string());
        let mut headers = self.secret.sign(letter.id, now, &body);
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, json.clone());
        headers.insert(ACCEPT, json);
        let bounds = Bounds { deadline: patience, max_bytes: MAX_ANSWER_BYTES };
        let answer = self.client.send(&self.endpoint, Method::POST, headers, body, bounds).await;
        let answer = answer.map_err(|error| {
            SendError::wait("the webhook did not answer", &telemetry::chain(&error))
        })?;
        let said = format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body));
        let refusal = format!("the webhook refused the letter ({})", answer.status.as_u16());
        match answer.status {
            status if status.is_success() => {
                let by = format!("the webhook at {}", self.endpoint.peer());
                Ok(Receipt { by, said: super::shown(&said) })
            }
            // Only these are about this letter; others are about the receiver and may pass.
            StatusCode::BAD_REQUEST
            | StatusCode::GONE
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY => {
                Err(SendError::foreign(Outlook::Never, refusal, &said))
            }
            _ => Err(SendError::foreign(Outlook::Later, refusal, &said)),
        }
    }
}

/// What the receiver gets. With two letters for a change of address, it gets two such bodies.
/// Supabase's has the new address's link in `token_hash` and the current one's in `token_hash_new`.
fn body(letter: &Dispatch, site_url: &str) -> Value {
    let code = letter.code.as_ref().map_or("", |code| &code.digits);
    let hash = letter.link.as_ref().map_or("", |link| &link.token_hash);
    let (hash, hash_new) =
        if letter.kind == Template::EmailChangeCurrent { ("", hash) } else { (hash, "") };
    json!({
        "to": letter.to.address(),
        "letter": letter.kind.name(),
        "user": letter.user,
        "email_data": {
            "token": code,
            "token_hash": hash,
            "redirect_to": letter.redirect_to.as_deref().unwrap_or(site_url),
            "email_action_type": action(letter.kind),
            "site_url": site_url,
            "token_new": "",
            "token_hash_new": hash_new,
            "old_email": letter.old_email.as_deref().unwrap_or(""),
        },
    })
}

/// The word that Supabase has for a letter; for others one in its manner.
fn action(kind: Template) -> &'static str {
    match kind {
        Template::Confirmation => "signup",
        Template::Invite => "invite",
        Template::Recovery => "recovery",
        Template::MagicLink => "magiclink",
        Template::EmailChangeNew | Template::EmailChangeCurrent => "email_change",
        Template::Reauthentication => "reauthentication",
        Template::AlreadyRegistered => "already_registered_notification",
        Template::PasswordChanged => "password_changed_notification",
        Template::EmailChanged => "email_changed_notification",
        Template::FactorAdded => "mfa_factor_enrolled_notification",
        Template::FactorRemoved => "mfa_factor_unenrolled_notification",
        Template::RecoveryCodeUsed => "recovery_code_used_notification",
        Template::Test => "test",
    }
}
