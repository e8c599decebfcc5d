//! Sends what the outbox holds: claims letters, has them made, hands them over, and notes how that
//! went. Every gateway does, and each letter is at one of them at a time; one whose gateway dies
//! is sent by another.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::auth::accounts::{Delivery, letter_event};
use crate::config;
use crate::mail::{Mailer, Outlook};
use crate::model::{EventKind, Letter, Outcome};
use crate::store::{Claimed, Parcel, ParcelKind, Store, StoreError};
use crate::telemetry::chain;

/// How often letters are looked for that another gateway has stored, or that are due again.
const LOOK: Duration = Duration::from_secs(1);

/// Letters under way at a time: mail servers refuse more connections than a few from one place.
const AT_ONCE: u32 = 4;

/// Waits between attempts; the last one is repeated until `mail.max_age`. The first covers a lost
/// connection, the later ones greylisting, which asks for some minutes.
const WAITS: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_hours(1),
];

/// The sender of letters.
pub(super) struct Outbox {
    pub(super) auth: Arc<Auth>,
    pub(super) store: Arc<Store>,
    pub(super) mailer: Arc<ArcSwap<Mailer>>,
    pub(super) mail: config::Mail,
    pub(super) stopping: CancellationToken,
}

impl Outbox {
    /// Sends until the gateway stops, and then what is under way.
    pub(super) async fn run(self) {
        let accounts = self.auth.accounts();
        if !accounts.letters.are_on() {
            return;
        }
        // Long enough for an attempt to end, whatever the server does.
        let lease = self.mail.timeout.0.saturating_mul(2);
        let mut away = false;
        while !self.stopping.is_cancelled() {
            let now = accounts.clock.now();
            match self.store.claim(ParcelKind::Mail, now, lease, AT_ONCE).await {
                Ok(claimed) => {
                    if std::mem::take(&mut away) {
                        tracing::info!("the database is back; letters are sent again");
                    }
                    let is_full = claimed.len() == AT_ONCE as usize;
                    join_all(claimed.iter().map(|parcel| self.send(parcel))).await;
                    if is_full {
                        continue;
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::error!(error = chain(&error), "letters cannot be read");
                    }
                }
            }
            tokio::select! {
                () = self.stopping.cancelled() => {}
                () = accounts.letters.rung(), if !away => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn send(&self, claimed: &Claimed) {
        if let Err(error) = self.try_to_send(claimed).await {
            // It is claimed again when its lease is over.
            tracing::error!(letter = %claimed.id, error = chain(&error), "what became of a letter was not stored");
        }
    }

    async fn try_to_send(&self, claimed: &Claimed) -> Result<(), StoreError> {
        let (id, clock) = (claimed.id, &self.auth.accounts().clock);
        let Some(Parcel::Mail(letter)) = &claimed.parcel else {
            let why = "written by another version of the program";
            tracing::error!(letter = %id, "a letter cannot be read; it is given up");
            return self.store.not_sent(id, None, why, clock.now(), None).await;
        };
        let dispatch = match self
            .auth
            .accounts()
            .deliver(id, letter, claimed.attempt, claimed.created_at)
            .await
        {
            Ok(Delivery::Send(dispatch)) => dispatch,
            Ok(Delivery::Nothing(reason)) => {
                let failed = failed(letter, reason, clock.now());
                return self.store.sent(id, Some(&failed)).await;
            }
            Err(error) => {
                tracing::error!(letter = %id, error = chain(&error), "a letter could not be made");
                return self.again(claimed, letter, "it could not be made").await;
            }
        };
        match self.mailer.load_full().send(&dispatch, clock.now()).await {
            Ok(_) => {
                let now = clock.now();
                let sent = letter_event(letter, EventKind::MailSent, Outcome::Success, now);
                let kind = Some(dispatch.kind.name().to_owned());
                let sent = crate::model::Event { reason: kind, ..sent };
                self.store.sent(id, Some(&sent)).await
            }
            Err(error) => {
                let why = format!("{error}: {}", error.said());
                tracing::warn!(letter = %id, attempt = claimed.attempt, %error, "a letter did not leave");
                match error.outlook {
                    Outlook::Later => self.again(claimed, letter, &why).await,
                    Outlook::Never => self.give_up(claimed, letter, "refused", &why).await,
                }
            }
        }
    }

    /// Tries again later, or no more.
    async fn again(&self, claimed: &Claimed, letter: &Letter, why: &str) -> Result<(), StoreError> {
        let now = self.auth.accounts().clock.now();
        let attempts = usize::try_from(claimed.attempt).unwrap_or(usize::MAX);
        let wait = WAITS[attempts.saturating_sub(1).min(WAITS.len() - 1)];
        let retry_at = now.checked_add(wait).unwrap_or(Timestamp::MAX);
        let last = claimed.created_at.checked_add(self.mail.max_age.0).unwrap_or(Timestamp::MAX);
        if retry_at > last {
            return self.give_up(claimed, letter, "too_old", why).await;
        }
        self.store.not_sent(claimed.id, Some(retry_at), why, now, None).await
    }

    async fn give_up(
        &self,
        claimed: &Claimed,
        letter: &Letter,
        reason: &str,
        why: &str,
    ) -> Result<(), StoreError> {
        let now = self.auth.accounts().clock.now();
        let failed = failed(letter, reason, now);
        self.store.not_sent(claimed.id, None, why, now, Some(&failed)).await
    }
}

fn failed(letter: &Letter, reason: &str, now: Timestamp) -> crate::model::Event {
    let event = letter_event(letter, EventKind::MailFailed, Outcome::Failure, now);
    crate::model::Event { reason: Some(reason.to_owned()), ..event }
}
