//! The letters of this gateway: whether any leave, and the bell that wakes their sender.

use tokio::sync::Notify;

use super::{Accounts, failed};
use crate::auth::error::AuthError;
use crate::config::{Config, MailTransport};
use crate::model::Event;
use crate::store::NewParcel;

/// Letters to users, as far as those who ask for them are concerned.
pub struct Letters {
    are_on: bool,
    bell: Notify,
}

impl Letters {
    /// Reads `[mail]`.
    pub fn compile(config: &Config) -> Self {
        Self { are_on: config.mail.transport != MailTransport::None, bell: Notify::new() }
    }

    /// Whether letters leave.
    pub fn are_on(&self) -> bool {
        self.are_on
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
    /// Stores what is to be sent with the events of it, and wakes the sender.
    pub(super) async fn post(
        &self,
        parcels: &[NewParcel],
        events: &[Event],
    ) -> Result<(), AuthError> {
        self.store.post(parcels, events).await.map_err(failed)?;
        self.letters.ring();
        Ok(())
    }
}
