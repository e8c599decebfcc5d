//! Beginning a session with a password.

use super::{Accounts, Issued, MAX_EMAIL, Origin, failed};
use crate::auth::error::AuthError;
use crate::auth::input;
use crate::auth::password::Verdict;
use crate::model::{Account, Event, EventKind, Outcome, clean_text};
use crate::store;

/// What becomes of the right password of an account whose address is not proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproved {
    /// It logs in.
    LogsIn,
    /// It is told to prove the address first.
    Waits,
}

impl Accounts {
    /// Checks a password and begins a session.
    ///
    /// # Errors
    /// [`AuthError::InvalidCredentials`] for an unknown address, a wrong password and a disabled
    /// account alike, after one hash in each case; [`AuthError::EmailNotConfirmed`] after the right
    /// password; and what hashing and storing may meet.
    pub async fn log_in(
        &self,
        tried: input::LogIn,
        unproved: Unproved,
        origin: &Origin,
    ) -> Result<Issued, AuthError> {
        let input::LogIn { email, password } = tried;
        let account = self.store.account_by_email(&email).await.map_err(failed)?;
        let stored = account.as_ref().and_then(|account| account.password_hash.clone());
        let is_disabled =
            account.as_ref().is_some_and(|account| account.user.is_disabled(self.clock.now()));
        let verdict = if is_disabled {
            self.hasher.verify_disabled(stored.clone(), password).await?
        } else {
            self.hasher.verify(stored.clone(), password).await?
        };
        if let (Some(Account { user, .. }), Verdict::Unusable { why }) = (&account, &verdict) {
            tracing::warn!(user_id = %user.id, %why, "a stored password hash cannot be checked");
        }
        let now = self.clock.now();
        let event = Event {
            user_id: account.as_ref().map(|account| account.user.id.clone()),
            email: Some(clean_text(email.address().as_bytes(), MAX_EMAIL)),
            ..origin.event(EventKind::Login, Outcome::Success, now)
        };
        let (user_id, checked, rehash) = match (account, stored, verdict) {
            (None, ..) => return self.refuse_login(event, "unknown_user").await,
            (Some(Account { user, .. }), Some(checked), Verdict::Right { rehash }) => {
                if user.is_disabled(now) {
                    return self.refuse_login(event, "user_disabled").await;
                }
                if user.email_confirmed_at.is_none() && unproved == Unproved::Waits {
                    self.record_failed_login(event, "email_not_confirmed").await?;
                    return Err(AuthError::EmailNotConfirmed);
                }
                (user.id, checked, rehash)
            }
            (Some(_), ..) => return self.refuse_login(event, "wrong_password").await,
        };
        let (login, refresh_token) = self.new_login(&user_id, origin, now);
        let event = Event { session_id: Some(login.session.id), ..event };
        let rehash = rehash.as_ref();
        match self.store.log_in(&user_id, &checked, rehash, &login, &event).await.map_err(failed)? {
            store::LogIn::Done(user) => self.issued(user, &login.session, &refresh_token, now),
            store::LogIn::Refused => {
                let event = Event { session_id: None, ..event };
                self.refuse_login(event, "account_changed").await
            }
        }
    }

    async fn refuse_login<T>(&self, event: Event, reason: &str) -> Result<T, AuthError> {
        self.record_failed_login(event, reason).await?;
        Err(AuthError::InvalidCredentials)
    }

    async fn record_failed_login(&self, event: Event, reason: &str) -> Result<(), AuthError> {
        let event = Event {
            kind: EventKind::LoginFailed,
            outcome: Outcome::Failure,
            reason: Some(reason.to_owned()),
            ..event
        };
        self.store.record(&[event]).await.map_err(failed)
    }
}
