//! What limits have counted, and failed logins. Counts in the memory of a gateway are those of the
//! gateway that is asked.

use super::super::{Accounts, failed};
use super::Administrator;
use crate::auth::counted::{Counter, LOGIN_GUARD};
use crate::auth::error::AuthError;
use crate::limit::{Decision, LimitError, Limiter};
use crate::model::{Email, Event, EventKind};
use crate::store::Guard;

/// What a limit has counted of somebody.
pub struct LimitState {
    /// Which, of whom.
    pub counter: Counter,
    /// What the next hit would be told.
    pub decision: Decision,
}

impl Accounts {
    /// What a limit has counted.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] when Redis cannot be asked.
    pub async fn limit_state(
        &self,
        limiter: &Limiter,
        counter: Counter,
    ) -> Result<LimitState, AuthError> {
        let decision = limiter.peek(&counter.rule, &counter.key).await.map_err(away)?;
        Ok(LimitState { counter, decision })
    }

    /// Forgets what a limit has counted, if anything.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] when Redis cannot be asked; what storing may meet.
    pub async fn reset_limit(
        &self,
        admin: &Administrator,
        limiter: &Limiter,
        counter: &Counter,
    ) -> Result<(), AuthError> {
        let now = self.clock.now();
        let event = Event {
            reason: Some(counter.label.clone()),
            email: counter.account.clone(),
            ..admin.event(EventKind::LimitReset, counter.user.as_ref(), now)
        };
        // Counts are not in the database: what cannot be recorded is not done.
        self.store.record(&[event]).await.map_err(failed)?;
        limiter.reset(&counter.rule, &counter.key).await.map_err(away)?;
        Ok(())
    }

    /// Failed logins with an address, by where they came from.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn failed_logins(&self, email: &Email) -> Result<Vec<Guard>, AuthError> {
        self.store.guards_of(email).await.map_err(failed)
    }

    /// Forgets failed logins with an address.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn forget_failed_logins(
        &self,
        admin: &Administrator,
        email: &Email,
    ) -> Result<(), AuthError> {
        let event = Event {
            reason: Some(LOGIN_GUARD.to_owned()),
            email: Some(email.address().to_owned()),
            ..admin.event(EventKind::LimitReset, None, self.clock.now())
        };
        self.store.clear_guards(email, &event).await.map_err(failed)?;
        Ok(())
    }
}

fn away(error: LimitError) -> AuthError {
    AuthError::Unavailable { retry_after: super::super::RETRY_AFTER, source: error.into() }
}
