//! Going on with a session.

use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::{Accounts, Issued, Origin, failed};
use crate::auth::error::AuthError;
use crate::auth::input;
use crate::clock::random_bytes;
use crate::identity::refresh::RefreshToken;
use crate::model::{EndReason, EndedSession, EventKind, Outcome, SessionId};
use crate::store;

/// For how long a traded refresh token gets the same successor again (contract §5): covers a lost
/// answer and two tabs that refresh at once, and is too short to be of use to a thief.
const REUSE_WINDOW: Duration = Duration::from_secs(10);

impl Accounts {
    /// The session of a refresh token, whatever became of either.
    ///
    /// # Errors
    /// [`AuthError::RefreshTokenNotFound`], and what storing may meet.
    pub async fn session_to_refresh(&self, shown: &input::Refresh) -> Result<SessionId, AuthError> {
        let shown = RefreshToken::parse(shown.refresh_token.expose_secret())
            .ok_or(AuthError::RefreshTokenNotFound)?;
        let session = self.store.session_of_refresh_token(shown.digest()).await.map_err(failed)?;
        session.ok_or(AuthError::RefreshTokenNotFound)
    }

    /// Trades a refresh token for its successor and a fresh access token.
    ///
    /// # Errors
    /// [`AuthError::RefreshTokenNotFound`], [`AuthError::RefreshTokenAlreadyUsed`],
    /// [`AuthError::SessionExpired`], [`AuthError::TokenTooLarge`], and what storing may meet.
    pub async fn refresh(
        &self,
        shown: &input::Refresh,
        origin: &Origin,
    ) -> Result<Issued, AuthError> {
        let shown = RefreshToken::parse(shown.refresh_token.expose_secret())
            .ok_or(AuthError::RefreshTokenNotFound)?;
        let now = self.clock.now();
        let successor = RefreshToken::from_random(random_bytes());
        let rotation = store::Rotation {
            shown: shown.digest(),
            successor: successor.digest(),
            sealed_successor: shown.seal(&successor),
            now,
            reuse_window: REUSE_WINDOW,
            idle: self.tokens.refresh_idle.0,
            access_expires_at: self.access_expires_at(now),
            fit: self.fit(origin, now)?,
            event: origin.event(EventKind::TokenRefreshed, Outcome::Success, now),
        };
        match self.store.refresh(&rotation).await.map_err(failed)? {
            store::Refresh::Rotated { user, session } => {
                self.issued(user, &session, &successor, origin, now)
            }
            store::Refresh::Repeated { user, session, sealed_successor } => {
                let successor = shown.unseal(&sealed_successor).ok_or_else(|| {
                    AuthError::Internal("a sealed refresh token does not open".into())
                })?;
                self.issued(user, &session, &successor, origin, now)
            }
            store::Refresh::NotFound => Err(AuthError::RefreshTokenNotFound),
            store::Refresh::Reused { session_id, .. } => {
                // No access token of the session expires later than one issued now would.
                let until = self.access_expires_at(now);
                self.revocations.end([EndedSession { id: session_id, until }]);
                Err(AuthError::RefreshTokenAlreadyUsed)
            }
            store::Refresh::Ended(EndReason::RefreshReuse) => {
                Err(AuthError::RefreshTokenAlreadyUsed)
            }
            store::Refresh::Ended(_) | store::Refresh::Expired | store::Refresh::Disabled => {
                Err(AuthError::SessionExpired)
            }
        }
    }
}
