//! `[mail]`: how letters leave, and what they look like.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;

use crate::config::units::Interval;
use crate::model::Template;

/// `[mail]` *(restart)*; the files in `templates` and `ca` are read again by a reload.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mail {
    /// How letters leave: `none`, `smtp` or `webhook`. Default `none`.
    pub transport: MailTransport,
    /// For `smtp`: `smtps://USER:PASSWORD@HOST:PORT` (TLS from the first byte, port 465) or
    /// `smtp://USER:PASSWORD@HOST:PORT` (STARTTLS, and nothing without it, port 587). `?tls=none`
    /// does without TLS, on this machine and without credentials only (port 25).
    pub url: Option<SecretString>,
    /// For `smtp`: whom letters are from, `ADDRESS` or `NAME <ADDRESS>`.
    pub from: Option<String>,
    /// Whom answers go to. Default: whom the letter is from.
    pub reply_to: Option<String>,
    /// Folder with the operator's texts, each in the place of the built-in one of the same name.
    /// Default: the built-in ones.
    pub templates: Option<PathBuf>,
    /// Time for one attempt, from looking up the server to its last word. Default 20 s.
    pub timeout: Interval,
    /// A letter that did not leave by then is given up. Default 24 h.
    pub max_age: Interval,
    /// Letters under way at a time, 1 to 64: mail servers refuse more connections than a few from one
    /// place. Default 4.
    pub concurrency: u8,
    /// What users are told of. Default all.
    pub notify: Vec<Notice>,
    /// Letters that wait to be sent; beyond, whoever asks for one gets 503. Default 10,000.
    pub max_waiting: u32,
    /// PEM file with the authorities that sign the server's, or the webhook's, certificate.
    /// Default: the system's.
    pub ca: Option<PathBuf>,
    /// For `webhook`: who writes and sends the letters.
    pub webhook: Option<MailWebhook>,
}

impl Default for Mail {
    fn default() -> Self {
        Self {
            transport: MailTransport::None,
            url: None,
            from: None,
            reply_to: None,
            templates: None,
            timeout: Interval::seconds(20),
            max_age: Interval::hours(24),
            concurrency: 4,
            notify: vec![Notice::AlreadyRegistered, Notice::EmailChanged, Notice::PasswordChanged],
            max_waiting: 10_000,
            ca: None,
            webhook: None,
        }
    }
}

impl Mail {
    /// The files that mail is made of: those that are there, and the texts that could be.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let folder = self.templates.as_deref();
        let texts = folder.into_iter().flat_map(|folder| {
            let possible = Template::ALL.into_iter().flat_map(Template::files);
            let possible: BTreeSet<_> = possible.map(|name| folder.join(name)).collect();
            possible.into_iter().chain(template_files(folder).unwrap_or_default())
        });
        self.ca.iter().cloned().chain(texts)
    }
}

/// The texts in a folder of templates, sorted. What is hidden, or has another ending than `.txt` and
/// `.html`, is the operator's own business.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn template_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_text = path.extension().is_some_and(|end| end == "txt" || end == "html");
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if is_text && !is_hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// How letters leave.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MailTransport {
    /// They do not: nothing that needs them can be asked for.
    #[default]
    None,
    /// To a mail server.
    Smtp,
    /// To a webhook, which writes and sends them.
    Webhook,
    /// Into the diagnostics, with their secrets. `demo` sets it; no configuration can.
    #[serde(skip)]
    Log,
}

/// Letters that only tell something.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Somebody wants an account, or another address, that is the reader's.
    AlreadyRegistered,
    /// The account has another address: to the one before.
    EmailChanged,
    /// The account has another password.
    PasswordChanged,
}

/// `[mail.webhook]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailWebhook {
    /// Where letters are posted: `https://`, or `http://` on this machine.
    pub url: SecretString,
    /// What they are signed with (Standard Webhooks): `whsec_BASE64`, `v1,whsec_BASE64`, or a text
    /// of at least 24 bytes.
    pub secret: SecretString,
}
