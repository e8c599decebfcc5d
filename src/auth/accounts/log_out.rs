//! Ending sessions.

use jiff::Timestamp;

use super::{Accounts, Bearer, Origin, failed};
use crate::auth::error::AuthError;
use crate::model::{EndReason, EndedSession, Event, EventKind, Outcome, SessionId};
use crate::store;

/// Which sessions a logout ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogoutScope {
    /// The one that asks.
    Local,
    /// All but the one that asks.
    Others,
    /// All.
    Global,
}

impl LogoutScope {
    /// The word in the query and in the event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Others => "others",
            Self::Global => "global",
        }
    }

    /// Reads the word in the query.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Local, Self::Others, Self::Global].into_iter().find(|scope| scope.as_str() == word)
    }
}

impl Accounts {
    /// Ends sessions of the bearer. When this returns, no worker accepts their tokens.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn log_out(
        &self,
        bearer: &Bearer,
        scope: LogoutScope,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        let sessions = match scope {
            LogoutScope::Local => store::Sessions::One(bearer.session_id),
            LogoutScope::Others => store::Sessions::Others(bearer.session_id),
            LogoutScope::Global => store::Sessions::All,
        };
        self.end(bearer, sessions, bearer.session_id, Some(scope.as_str()), origin).await?;
        if scope != LogoutScope::Others {
            // Another gateway may have ended it a moment ago, so that nothing was left to end here
            // and nobody here has read of it yet.
            let now = self.clock.now();
            let until = now.checked_add(self.tokens.access_lifetime.0).unwrap_or(Timestamp::MAX);
            self.revocations.end([EndedSession { id: bearer.session_id, until }]);
        }
        Ok(())
    }

    /// Ends one session of the bearer.
    ///
    /// # Errors
    /// [`AuthError::UnknownSession`] unless it runs and is the bearer's; what storing may meet.
    pub async fn end_session(
        &self,
        bearer: &Bearer,
        id: SessionId,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        match self.end(bearer, store::Sessions::One(id), id, None, origin).await? {
            0 => Err(AuthError::UnknownSession),
            _ => Ok(()),
        }
    }

    async fn end(
        &self,
        bearer: &Bearer,
        sessions: store::Sessions,
        named: SessionId,
        reason: Option<&str>,
        origin: &Origin,
    ) -> Result<usize, AuthError> {
        let now = self.clock.now();
        let event = Event {
            user_id: Some(bearer.user_id.clone()),
            session_id: Some(named),
            reason: reason.map(str::to_owned),
            ..origin.event(EventKind::Logout, Outcome::Success, now)
        };
        let ended = self
            .store
            .end_sessions(&bearer.user_id, sessions, EndReason::Logout, now, &event)
            .await
            .map_err(failed)?;
        let count = ended.len();
        self.revocations.end(ended);
        Ok(count)
    }
}
