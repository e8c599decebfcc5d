//! Letters to users: what they say (`templates`), how they are written down (`message`), and how
//! they leave (`smtp`, `webhook`). Knows neither accounts nor databases: who gets which letter,
//! and what becomes of one that did not leave, is decided elsewhere.
//!
//! Invariant: one attempt ends within `mail.timeout`, and a failure says whether another can help.

mod message;
mod smtp;
mod templates;
mod webhook;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use self::message::Sender;
use self::smtp::Smtp;
use self::templates::{Templates, Texts, Values, in_words};
use self::webhook::Webhook;
use crate::config::{Config, Mail, MailTransport, Problem};
use crate::model::{Email, JsonObject, Template};
use crate::outgoing::signature::SigningSecret;
use crate::outgoing::{Client, Endpoint, tls};
use crate::telemetry;

/// Longest piece of what a server said that is kept.
const MAX_WORDS: usize = 300;

/// Writes letters and hands them over. A compiled `[mail]`; holds no connections.
pub struct Mailer {
    way: Way,
    templates: Templates,
    /// The built-in texts, where an operator's are in their place.
    spare: Option<Templates>,
    /// An operator's text has failed.
    has_failed: AtomicBool,
    timeout: Duration,
    site: Site,
}

/// How letters leave.
enum Way {
    /// They do not.
    None,
    /// Into the diagnostics.
    Log,
    Smtp {
        server: Smtp,
        sender: Box<Sender>,
    },
    Webhook(Box<Webhook>),
}

/// What letters speak of.
struct Site {
    url: String,
    host: String,
}

/// One letter to one address. Links, codes and addresses must be there as [`Template`] says, else
/// it is not sent.
#[derive(Clone)]
pub struct Dispatch {
    /// The same for every attempt.
    pub id: Uuid,
    /// What it is about.
    pub kind: Template,
    /// Whom it is to.
    pub to: Email,
    /// What its reader may follow.
    pub link: Option<Link>,
    /// What its reader may enter.
    pub code: Option<Code>,
    /// Where the link leads in the end; default the site.
    pub redirect_to: Option<String>,
    /// The address that the account has, or had.
    pub old_email: Option<String>,
    /// The address that it shall have, or has now.
    pub new_email: Option<String>,
    /// What the user noted; never trusted, only shown.
    pub data: JsonObject,
    /// The account as clients see it, for webhooks.
    pub user: Value,
}

/// A link that works once.
#[derive(Clone)]
pub struct Link {
    /// The whole address.
    pub url: String,
    /// What is secret in it.
    pub token_hash: String,
    /// How long it works.
    pub lifetime: Duration,
}

/// A code that works once.
#[derive(Clone)]
pub struct Code {
    /// Six digits.
    pub digits: String,
    /// How long it works.
    pub lifetime: Duration,
}

/// A letter has changed hands.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Who has it now.
    pub by: String,
    /// What they said, which may quote the address: for people who know it.
    pub said: String,
}

/// Why a letter did not leave. What it displays has no address in it and may be logged.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct SendError {
    /// Whether another attempt can help.
    pub outlook: Outlook,
    what: String,
    said: String,
    /// Whether `said` is the whole answer of a program that may say anything.
    is_foreign: bool,
}

/// Whether another attempt can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It may: the failure is not about this letter.
    Later,
    /// It cannot: this letter was refused.
    Never,
}

impl Mailer {
    /// Compiles `[mail]`: reads the texts and tries each, reads certificates.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(config: &Config) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mail = &config.mail;
        // Without one, nothing is sent: validation sees to that.
        let url = config.site_url().unwrap_or_default();
        let host = Url::parse(&url).ok().and_then(|url| url.host_str().map(str::to_owned));
        let site = Site { host: host.unwrap_or_default(), url };
        let templates = Templates::compile(mail.templates.as_deref(), &site.url)
            .map_err(|wrong| {
                problems.extend(wrong.into_iter().map(|what| Problem::new("mail.templates", what)));
            })
            .ok();
        let way = match mail.transport {
            MailTransport::None => Some(Way::None),
            MailTransport::Log => Some(Way::Log),
            MailTransport::Smtp => compile_smtp(mail, &site.host, &mut problems),
            MailTransport::Webhook => compile_webhook(mail, &mut problems),
        };
        match (templates, way) {
            (Some(templates), Some(way)) if problems.is_empty() => {
                let built_in = |_| Templates::compile(None, &site.url).ok();
                let spare = mail.templates.as_ref().and_then(built_in);
                let (has_failed, timeout) = (AtomicBool::new(false), mail.timeout.0);
                Ok(Self { way, templates, spare, has_failed, timeout, site })
            }
            _ => Err(problems),
        }
    }

    /// Whether letters leave at all.
    pub fn is_on(&self) -> bool {
        !matches!(self.way, Way::None)
    }

    /// Writes a letter and hands it over, within `mail.timeout`. After a failure it may have arrived
    /// all the same: an answer can get lost.
    ///
    /// # Errors
    /// It did not leave; see [`SendError::outlook`].
    pub async fn send(&self, letter: &Dispatch, now: Timestamp) -> Result<Receipt, SendError> {
        if !letter.is_whole() {
            let what = format!("the letter {} lacks what it is for", letter.kind.name());
            return Err(SendError::give_up(what, &""));
        }
        if let Way::Webhook(webhook) = &self.way {
            return webhook.send(letter, &self.site.url, now, self.timeout).await;
        }
        let texts = self.write(letter)?;
        match &self.way {
            Way::Smtp { server, sender } => {
                let written = sender.write(letter.id, &letter.to, texts, now);
                let written = written
                    .map_err(|error| SendError::give_up(error.to_string(), &letter.to.address()))?;
                server.send(&written, self.timeout).await
            }
            Way::Log => {
                // For `demo`, on a terminal of somebody who plays both sides.
                let (to, Texts { subject, text, .. }) = (letter.to.address(), texts);
                tracing::warn!("letter to {to}: {subject}\n{text}");
                Ok(Receipt { by: "the diagnostics".to_owned(), said: String::new() })
            }
            Way::None | Way::Webhook(_) => {
                Err(SendError::wait("mail.transport is \"none\"", &"no letter leaves"))
            }
        }
    }

    fn write(&self, letter: &Dispatch) -> Result<Texts, SendError> {
        let (link, code) = (letter.link.as_ref(), letter.code.as_ref());
        let minutes = |lifetime: Duration| lifetime.as_secs() / 60;
        let values = Values {
            email: letter.to.address(),
            site_url: &self.site.url,
            site_host: &self.site.host,
            redirect_to: letter.redirect_to.as_deref().unwrap_or(&self.site.url),
            data: &letter.data,
            confirmation_url: link.map(|link| link.url.as_str()),
            token_hash: link.map(|link| link.token_hash.as_str()),
            minutes: link.map(|link| minutes(link.lifetime)),
            expires_in: link.map(|link| in_words(link.lifetime)),
            token: code.map(|code| code.digits.as_str()),
            code_minutes: code.map(|code| minutes(code.lifetime)),
            code_expires_in: code.map(|code| in_words(code.lifetime)),
            old_email: letter.old_email.as_deref(),
            new_email: letter.new_email.as_deref(),
        };
        let written = self.templates.write(letter.kind, &values).or_else(|error| {
            // Some user's data is not what the operator's text reckons with. Somebody waits for this
            // letter all the same.
            let Some(spare) = &self.spare else { return Err(error) };
            if !self.has_failed.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    %error,
                    "a text of mail.templates fails for some user's data; the built-in one is sent"
                );
            }
            spare.write(letter.kind, &values)
        });
        written.map_err(|error| SendError::give_up(error.to_string(), &"see `portcullis check`"))
    }
}

fn compile_smtp(mail: &Mail, host: &str, problems: &mut Vec<Problem>) -> Option<Way> {
    let url = mail.url.as_ref().map_or("", |url| url.expose_secret());
    let address = smtp::Address::parse(url)
        .map_err(|message| problems.push(Problem::new("mail.url", message)))
        .ok();
    let mut mailbox = |key: &str, text: &str| {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let message = format!("`{text}` is no sender; write ADDRESS or NAME <ADDRESS>");
            problems.push(Problem::new(format!("mail.{key}"), message));
        }
        parsed
    };
    let from = mailbox("from", mail.from.as_deref().unwrap_or_default());
    let reply_to = mail.reply_to.as_deref().map(|text| mailbox("reply_to", text));
    let tls = tls::client_config(mail.ca.as_deref())
        .map_err(|error| problems.push(Problem::new("mail.ca", telemetry::chain(&error))))
        .ok();
    let sender = Sender { from: from?, reply_to: reply_to.flatten(), host: host.to_owned() };
    Some(Way::Smtp { server: Smtp::new(address?, tls?), sender: Box::new(sender) })
}

fn compile_webhook(mail: &Mail, problems: &mut Vec<Problem>) -> Option<Way> {
    let webhook = mail.webhook.as_ref()?;
    let endpoint = Endpoint::parse(webhook.url.expose_secret())
        .map_err(|error| problems.push(Problem::new("mail.webhook.url", error.to_string())))
        .ok();
    let secret = SigningSecret::parse(webhook.secret.expose_secret())
        .map_err(|error| problems.push(Problem::new("mail.webhook.secret", error.to_string())))
        .ok();
    let client = Client::new(mail.ca.as_deref())
        .map_err(|error| problems.push(Problem::new("mail.ca", telemetry::chain(&error))))
        .ok();
    let webhook = Webhook { client: client?, endpoint: endpoint?, secret: secret? };
    Some(Way::Webhook(Box::new(webhook)))
}

impl SendError {
    /// Not about this letter.
    fn wait(what: impl Into<String>, said: &impl ToString) -> Self {
        Self {
            outlook: Outlook::Later,
            what: what.into(),
            said: shown(&said.to_string()),
            is_foreign: false,
        }
    }

    /// About this letter, and final.
    fn give_up(what: impl Into<String>, said: &impl ToString) -> Self {
        Self { outlook: Outlook::Never, ..Self::wait(what, said) }
    }

    /// Not done in time.
    fn late(patience: Duration) -> Self {
        Self::wait(format!("the mail server took longer than {patience:?}"), &"mail.timeout")
    }

    /// As [`wait`](Self::wait), of a program that may quote the letter, its link included.
    fn foreign(outlook: Outlook, what: String, said: &impl ToString) -> Self {
        Self { outlook, is_foreign: true, ..Self::wait(what, said) }
    }

    /// What may be stored of it: without what a webhook answered, which knows the letter.
    pub fn to_be_kept(&self) -> String {
        if self.is_foreign { self.what.clone() } else { format!("{}: {}", self.what, self.said) }
    }

    /// What the other side said, which may quote the address: for people who know it.
    pub fn said(&self) -> &str {
        &self.said
    }
}

/// Foreign words, fit for a terminal.
fn shown(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(MAX_WORDS).collect::<String>().trim().to_owned()
}

impl Dispatch {
    /// Whether it holds all that its texts may speak of.
    fn is_whole(&self) -> bool {
        let kind = self.kind;
        (self.link.is_some() || !kind.has_link())
            && (self.code.is_some() || !kind.has_code())
            && (self.old_email.is_some() && self.new_email.is_some() || !kind.has_addresses())
    }
}

impl fmt::Debug for Dispatch {
    /// Links and codes let people in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dispatch({}, {})", self.id, self.kind.name())
    }
}
