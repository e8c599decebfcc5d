//! Sends what the outbox holds: claims letters, has them made, hands them over, and notes how that
//! went. Every gateway does, and each letter is at one of them at a time; one whose gateway dies
//! is sent by another.
//!
//! Invariant: a letter that has left is not sent again by this process, however long the database
//! is away: it is under way until that is stored, and what is under way is not begun once more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::auth::Auth;
use crate::auth::accounts::{Accounts, Delivery, letter_event};
use crate::config;
use crate::mail::{Mailer, Outlook};
use crate::model::{Event, EventKind, Letter, Outcome};
use crate::store::{Claimed, Parcel, ParcelKind, Store, StoreError};
use crate::telemetry::chain;

/// How often letters are looked for that another gateway has stored, or that are due again.
const LOOK: Duration = Duration::from_secs(1);

/// How often waiting letters are counted.
const COUNT: Duration = Duration::from_secs(5);

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
    auth: Arc<Auth>,
    store: Arc<Store>,
    mailer: Arc<ArcSwap<Mailer>>,
    mail: config::Mail,
    stopping: CancellationToken,
}

impl Outbox {
    pub(super) fn new(
        auth: Arc<Auth>,
        store: Arc<Store>,
        mailer: Arc<ArcSwap<Mailer>>,
        mail: config::Mail,
        stopping: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self { auth, store, mailer, mail, stopping })
    }

    fn accounts(&self) -> &Accounts {
        self.auth.accounts()
    }

    /// Sends until the gateway stops, and then what is under way.
    pub(super) async fn run(self: Arc<Self>) {
        let letters = &self.accounts().letters;
        if !letters.are_on() {
            return;
        }
        let at_once = usize::from(self.mail.concurrency);
        let mut under_way = JoinSet::new();
        let mut ids = HashMap::new();
        let mut away = false;
        let mut counted: Option<Instant> = None;
        while !self.stopping.is_cancelled() {
            let room = at_once.saturating_sub(under_way.len());
            if room > 0 {
                match self.claim(room).await {
                    Ok(claimed) => {
                        if std::mem::take(&mut away) {
                            tracing::info!("the database is back; letters are sent again");
                        }
                        for parcel in claimed {
                            // A lease ends when the clock is put forward, too.
                            if ids.values().any(|id| *id == parcel.id) {
                                continue;
                            }
                            let (this, id) = (Arc::clone(&self), parcel.id);
                            let task = under_way.spawn(async move { this.send(&parcel).await });
                            ids.insert(task.id(), id);
                        }
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut away, true) {
                            tracing::error!(error = chain(&error), "letters cannot be read");
                        }
                    }
                }
            }
            if !away && counted.is_none_or(|at| at.elapsed() >= COUNT) {
                counted = Some(Instant::now());
                self.count().await;
            }
            let may_claim = !away && under_way.len() < at_once;
            tokio::select! {
                () = self.stopping.cancelled() => {}
                () = letters.rung(), if may_claim => {}
                Some(ended) = under_way.join_next_with_id(), if !under_way.is_empty() => {
                    let task = match ended {
                        Ok((task, ())) => task,
                        Err(error) => {
                            // The letter is claimed again when its lease is over.
                            tracing::error!(%error, "a letter could not be sent");
                            error.id()
                        }
                    };
                    ids.remove(&task);
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        while under_way.join_next().await.is_some() {}
    }

    async fn claim(&self, room: usize) -> Result<Vec<Claimed>, StoreError> {
        // Long enough for an attempt to end and to be noted, whatever the server does.
        let lease = self.mail.timeout.0.saturating_mul(2).saturating_add(Duration::from_secs(10));
        let limit = u32::try_from(room).unwrap_or(u32::MAX);
        self.store.claim(ParcelKind::Mail, self.accounts().clock.now(), lease, limit).await
    }

    async fn count(&self) {
        match self.store.outbox_state().await {
            Ok(states) => {
                let of_mail = states.into_iter().find(|state| state.kind == ParcelKind::Mail);
                self.accounts().letters.counted(of_mail);
            }
            Err(error) => tracing::debug!(error = chain(&error), "letters were not counted"),
        }
    }

    async fn send(&self, claimed: &Claimed) {
        if let Err(error) = self.try_to_send(claimed).await {
            // It is claimed again when its lease is over.
            tracing::error!(letter = %claimed.id, error = chain(&error), "what became of a letter was not stored");
        }
    }

    async fn try_to_send(&self, claimed: &Claimed) -> Result<(), StoreError> {
        let (id, clock) = (claimed.id, &self.accounts().clock);
        let Some(Parcel::Mail(letter)) = &claimed.parcel else {
            // While gateways are replaced one by one, another one may know what it is.
            tracing::warn!(letter = %id, "a letter is of another version of the program and waits for it");
            return self.again(claimed, None, "written by another version of the program").await;
        };
        let dispatch = match self.accounts().deliver(claimed, letter).await {
            Ok(Delivery::Send(dispatch)) => dispatch,
            Ok(Delivery::Nothing(reason)) => {
                let failed = failed(letter, reason, clock.now());
                self.store.sent(id, Some(&failed)).await?;
                self.accounts().letters.gone();
                return Ok(());
            }
            Err(error) => {
                tracing::error!(letter = %id, error = chain(&error), "a letter could not be made");
                return self.again(claimed, Some(letter), "it could not be made").await;
            }
        };
        match self.mailer.load_full().send(&dispatch, clock.now()).await {
            Ok(_) => {
                let now = clock.now();
                let sent = letter_event(letter, EventKind::MailSent, Outcome::Success, now);
                let kind = Some(dispatch.kind.name().to_owned());
                self.note_sent(id, &Event { reason: kind, ..sent }).await
            }
            Err(error) => {
                let why = error.to_be_kept();
                tracing::warn!(letter = %id, attempt = claimed.attempt, %error, "a letter did not leave");
                match error.outlook {
                    Outlook::Later => self.again(claimed, Some(letter), &why).await,
                    Outlook::Never => self.give_up(claimed, Some(letter), "refused", &why).await,
                }
            }
        }
    }

    /// Stores that a letter has left. If the database is away, tries until it is back: the letter is
    /// under way until then.
    async fn note_sent(&self, id: Uuid, event: &Event) -> Result<(), StoreError> {
        let mut unnoted = None;
        loop {
            let Err(error) = self.store.sent(id, Some(event)).await else {
                self.accounts().letters.gone();
                return Ok(());
            };
            if !error.is_unavailable() || self.stopping.is_cancelled() {
                return Err(error);
            }
            if unnoted.is_none() {
                tracing::error!(letter = %id, error = chain(&error), "a letter has left, which cannot be stored yet");
                unnoted = Some(Unnoted::new(&self.accounts().letters.unnoted));
            }
            tokio::select! {
                () = self.stopping.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Tries again later, or no more.
    async fn again(
        &self,
        claimed: &Claimed,
        letter: Option<&Letter>,
        why: &str,
    ) -> Result<(), StoreError> {
        let now = self.accounts().clock.now();
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
        letter: Option<&Letter>,
        reason: &str,
        why: &str,
    ) -> Result<(), StoreError> {
        let now = self.accounts().clock.now();
        let failed = letter.map(|letter| failed(letter, reason, now));
        self.store.not_sent(claimed.id, None, why, now, failed.as_ref()).await?;
        self.accounts().letters.gone();
        Ok(())
    }
}

/// One letter that has left and is not noted, as long as this lives.
struct Unnoted<'a>(&'a Gauge);

impl<'a> Unnoted<'a> {
    fn new(count: &'a Gauge) -> Self {
        count.inc();
        Self(count)
    }
}

impl Drop for Unnoted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The event of a letter that is not sent.
fn failed(letter: &Letter, reason: &str, now: Timestamp) -> Event {
    let event = letter_event(letter, EventKind::MailFailed, Outcome::Failure, now);
    Event { reason: Some(reason.to_owned()), ..event }
}
