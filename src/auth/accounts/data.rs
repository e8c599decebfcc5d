//! What is stored of one user, for that user.

use super::{Accounts, Bearer, Origin, failed};
use crate::auth::error::AuthError;
use crate::model::{ApiKey, Event, EventKind, Outcome, Session, StoredEvent, User};

/// Events that are handed out at once: 4 MB of JSON. The rest is read page by page.
const MAX_EVENTS: usize = 10_000;

/// Events that are read at a time.
const PAGE: u32 = 1_000;

/// What is stored of a user.
#[derive(Debug)]
pub struct UserData {
    /// The account.
    pub user: User,
    /// Sessions that run, and those that ended within the last 30 days.
    pub sessions: Vec<Session>,
    /// API keys, ended ones too.
    pub api_keys: Vec<ApiKey>,
    /// Events, newest first, at most 10,000.
    pub events: Vec<StoredEvent>,
    /// Whether there are older ones.
    pub there_is_more: bool,
}

impl Accounts {
    /// What is stored of the bearer. That it was handed out is an event.
    ///
    /// # Errors
    /// [`AuthError::SessionNotFound`] when the account is gone; what storing may meet.
    pub async fn user_data(&self, bearer: &Bearer, origin: &Origin) -> Result<UserData, AuthError> {
        let user = self.user(bearer).await?;
        let event = Event {
            user_id: Some(bearer.user_id.clone()),
            session_id: Some(bearer.session_id),
            ..origin.event(EventKind::UserDataExported, Outcome::Success, self.clock.now())
        };
        self.export_data(user, event).await
    }

    /// What is stored of a user, once the event of it is.
    pub(super) async fn export_data(
        &self,
        user: User,
        event: Event,
    ) -> Result<UserData, AuthError> {
        let sessions = self.store.kept_sessions_of(&user.id).await.map_err(failed)?;
        let api_keys = self.store.api_keys(Some(&user.id)).await.map_err(failed)?;
        let mut events: Vec<StoredEvent> = Vec::new();
        let mut there_is_more = true;
        while there_is_more && events.len() < MAX_EVENTS {
            let before = events.last().map(|last| (last.event.at, last.event.id));
            let page = self.store.events_of_user(&user.id, PAGE, before).await.map_err(failed)?;
            there_is_more = page.len() == PAGE as usize;
            events.extend(page);
        }
        self.store.record(&[event]).await.map_err(failed)?;
        Ok(UserData { user, sessions, api_keys, events, there_is_more })
    }
}
