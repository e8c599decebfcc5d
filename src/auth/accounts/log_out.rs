//! Ending sessions.

use std::sync::Arc;

use jiff::Timestamp;
use secrecy::ExposeSecret as _;

use super::{Accounts, Bearer, Origin, failed};
use crate::auth::error::AuthError;
use crate::auth::input;
use crate::identity::refresh::RefreshToken;
use crate::identity::{Identity, IssuerSet};
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

/// Whose a token is.
enum Holder {
    Nobody,
    /// A user's session.
    Session(Bearer),
    /// A program, by its key or by a token that it got for that.
    Client(Arc<Identity>),
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
            self.refuse_from_now(bearer.session_id);
        }
        Ok(())
    }

    /// Ends the session of a refresh or access token, on the word of whoever has the token: refresh
    /// tokens belong to clients that have no other credential (RFC 7009 §2.1). A program's token or
    /// API key, which belongs to no session, is ended itself. When this returns, no worker accepts
    /// what was ended. `None`: it was no session.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn revoke(&self, token: &str, origin: &Origin) -> Result<Option<Bearer>, AuthError> {
        let bearer = match self.holder_of(token).await? {
            Holder::Session(bearer) => bearer,
            Holder::Client(identity) => {
                self.revoke_client(&identity, origin).await?;
                return Ok(None);
            }
            Holder::Nobody => return Ok(None),
        };
        let id = bearer.session_id;
        let which = store::Sessions::One(id);
        self.end(&bearer, which, id, Some("revoked_by_token"), origin).await?;
        self.refuse_from_now(id);
        Ok(Some(bearer))
    }

    /// Whose a refresh token is, be it traded or its session over; `None` = nobody was given it.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn who_shows(&self, shown: &input::Refresh) -> Result<Option<Bearer>, AuthError> {
        match RefreshToken::parse(shown.refresh_token.expose_secret()) {
            Some(token) => self.bearer_of(&token).await,
            None => Ok(None),
        }
    }

    async fn bearer_of(&self, token: &RefreshToken) -> Result<Option<Bearer>, AuthError> {
        let known = self.store.refresh_token(token.digest()).await.map_err(failed)?;
        Ok(known.map(|store::KnownToken { session, .. }| {
            let aal = session.aal();
            let (user_id, session_id) = (session.user_id, session.id);
            Bearer { user_id, session_id, aal }
        }))
    }

    async fn holder_of(&self, token: &str) -> Result<Holder, AuthError> {
        if let Some(token) = RefreshToken::parse(token) {
            let bearer = self.bearer_of(&token).await?;
            return Ok(bearer.map_or(Holder::Nobody, Holder::Session));
        }
        if let Some(identity) = self.client_by_key(token) {
            return Ok(Holder::Client(identity));
        }
        let now = self.clock.now().as_second();
        let verified = self.verifier.load().verify(token.as_bytes(), IssuerSet::OURS, now);
        let Ok(identity) = verified else { return Ok(Holder::Nobody) };
        if identity.machine.is_some() {
            return Ok(Holder::Client(Arc::new(identity)));
        }
        let aal = identity.assurance.aal;
        let named = identity.subject.parse().ok().zip(identity.session);
        Ok(named.map_or(Holder::Nobody, |(user_id, session_id)| {
            Holder::Session(Bearer { user_id, session_id, aal })
        }))
    }

    /// Another gateway may have ended the session a moment ago, so that nothing was left to end here
    /// and nobody here has read of it yet.
    fn refuse_from_now(&self, id: SessionId) {
        let now = self.clock.now();
        let until = now.checked_add(self.tokens.access_lifetime.0).unwrap_or(Timestamp::MAX);
        self.revocations.end([EndedSession { id, until }]);
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
