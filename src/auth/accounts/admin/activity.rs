//! Sessions, factors and the record, of anybody.

use jiff::Timestamp;
use uuid::Uuid;

use super::super::{Accounts, UserData, failed};
use super::Administrator;
use crate::auth::error::AuthError;
use crate::model::{EndReason, Event, EventKind, Factor, Session, SessionId, StoredEvent, UserId};
use crate::store::{EventFilter, RemoveFactor, Remover, Sessions};

impl Accounts {
    /// The running sessions of a user, newest first.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`]; what storing may meet.
    pub async fn sessions_of(&self, user: &UserId) -> Result<Vec<Session>, AuthError> {
        let user = self.any_user(user).await?;
        self.store.sessions_of(&user.id, self.clock.now()).await.map_err(failed)
    }

    /// Ends one session of a user, or all. When this returns, no worker accepts their tokens.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`], [`AuthError::UnknownSession`] when the one does not run; what
    /// storing may meet.
    pub async fn revoke_sessions(
        &self,
        admin: &Administrator,
        user: &UserId,
        one: Option<SessionId>,
    ) -> Result<(), AuthError> {
        let user = self.any_user(user).await?;
        let now = self.clock.now();
        let event = Event {
            session_id: one,
            ..admin.event(EventKind::SessionRevoked, Some(&user.id), now)
        };
        let which = one.map_or(Sessions::All, Sessions::One);
        let ended = self.store.end_sessions(&user.id, which, EndReason::Revoked, now, &event);
        let ended = ended.await.map_err(failed)?;
        if one.is_some() && ended.is_empty() {
            return Err(AuthError::UnknownSession);
        }
        self.revocations.end(ended);
        Ok(())
    }

    /// Removes a second factor, which its user may have lost, and ends the user's sessions.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`], [`AuthError::FactorNotFound`]; what storing may meet.
    pub async fn remove_factor(
        &self,
        admin: &Administrator,
        user: &UserId,
        factor: Uuid,
    ) -> Result<Factor, AuthError> {
        let user = self.any_user(user).await?;
        let found = user.factors.iter().find(|found| found.id == factor).cloned();
        let found = found.ok_or(AuthError::FactorNotFound)?;
        let event = admin.event(EventKind::FactorRemoved, Some(&user.id), self.clock.now());
        let by = Remover::Administrator(user.id);
        let notify = self.letters.are_on();
        match self.store.remove_factor(&by, factor, notify, &event).await.map_err(failed)? {
            RemoveFactor::Done { ended } => {
                self.revocations.end(ended);
                self.letters.ring();
                Ok(found)
            }
            RemoveFactor::NeedsAal2 | RemoveFactor::NoFactor | RemoveFactor::NoSession => {
                Err(AuthError::FactorNotFound)
            }
        }
    }

    /// Events that pass the filter, newest first, from before a place in that order.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn all_events(
        &self,
        filter: &EventFilter,
        limit: u32,
        before: Option<(Timestamp, Uuid)>,
    ) -> Result<Vec<StoredEvent>, AuthError> {
        self.store.events(filter, limit, before).await.map_err(failed)
    }

    /// What is stored of a user. That it was handed out is an event.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`]; what storing may meet.
    pub async fn data_of(
        &self,
        admin: &Administrator,
        user: &UserId,
    ) -> Result<UserData, AuthError> {
        let user = self.any_user(user).await?;
        let event = admin.event(EventKind::UserDataExported, Some(&user.id), self.clock.now());
        self.export_data(user, event).await
    }
}
