//! The letters of this gateway: whether any leave, how many wait, and the bell that wakes their
//! sender.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;

use super::{Accounts, failed};
use crate::auth::error::AuthError;
use crate::config::{Config, MailTransport, Notice};
use crate::model::Event;
use crate::store::{NewParcel, OutboxState, SignUpAttempt};

/// Letters to users, as far as those who ask for them are concerned.
pub struct Letters {
    are_on: bool,
    notify: Vec<Notice>,
    max_waiting: u64,
    /// As the sender last counted them.
    state: ArcSwapOption<OutboxState>,
    /// As the sender last counted them, and those that came and went here since.
    waiting: AtomicU64,
    /// Letters that have left, which the database does not know yet.
    pub unnoted: Gauge,
    bell: Notify,
}

/// For how long nobody need ask when too many letters wait.
const FULL: Duration = Duration::from_mins(1);

impl Letters {
    /// Reads `[mail]`.
    pub fn compile(config: &Config) -> Self {
        Self {
            are_on: config.mail.transport != MailTransport::None,
            notify: config.mail.notify.clone(),
            max_waiting: config.mail.max_waiting.into(),
            state: ArcSwapOption::empty(),
            waiting: AtomicU64::new(0),
            unnoted: Gauge::default(),
            bell: Notify::new(),
        }
    }

    /// Whether letters leave.
    pub fn are_on(&self) -> bool {
        self.are_on
    }

    /// Whether users are told of this.
    pub fn notify(&self, of: Notice) -> bool {
        self.are_on && self.notify.contains(&of)
    }

    /// Takes note of how many letters wait in the database.
    pub fn counted(&self, state: Option<OutboxState>) {
        self.waiting.store(state.map_or(0, |state| state.waiting), Ordering::Relaxed);
        self.state.store(state.map(Arc::new));
    }

    /// As they were last counted; `None` = there are none, or letters do not leave.
    pub fn state(&self) -> Option<OutboxState> {
        self.state.load().as_deref().copied()
    }

    /// Takes note of a letter that waits no more.
    pub fn gone(&self) {
        let less = |waiting: u64| Some(waiting.saturating_sub(1));
        // It never fails: there is always a value.
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Takes note of letters that were stored, and wakes the sender.
    fn posted(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.waiting.fetch_add(count, Ordering::Relaxed);
        self.ring();
    }

    /// Says that there may be something to send.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Waits until there may be something to send.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }
}

impl Accounts {
    /// Whether a letter may be asked for at all. Looks at nothing but the number of letters, so that
    /// the answer is one for all addresses.
    ///
    /// # Errors
    /// [`AuthError::EmailProviderDisabled`], and [`AuthError::Unavailable`] when too many wait.
    pub(super) fn letters_leave(&self) -> Result<(), AuthError> {
        let letters = &self.letters;
        if !letters.are_on {
            return Err(AuthError::EmailProviderDisabled);
        }
        if letters.waiting.load(Ordering::Relaxed) < letters.max_waiting {
            return Ok(());
        }
        Err(AuthError::Unavailable { retry_after: FULL, source: TooManyWait.into() })
    }

    /// Stores what is to be sent with the events of it, and wakes the sender.
    pub(super) async fn post(
        &self,
        parcels: &[NewParcel],
        events: &[Event],
    ) -> Result<(), AuthError> {
        self.store.post(parcels, events).await.map_err(failed)?;
        self.letters.posted(parcels.len());
        Ok(())
    }

    /// As [`post`](Self::post), of a sign-up that waits for the proof of its address.
    pub(super) async fn post_sign_up(
        &self,
        parcel: &NewParcel,
        attempt: &SignUpAttempt,
        event: &Event,
    ) -> Result<(), AuthError> {
        self.store.post_sign_up(parcel, attempt, event).await.map_err(failed)?;
        self.letters.posted(1);
        Ok(())
    }
}

/// Why no letter can be asked for.
#[derive(Debug, thiserror::Error)]
#[error("as many letters wait as mail.max_waiting allows")]
struct TooManyWait;
