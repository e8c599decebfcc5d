//! Beginning a session with a password.

use std::time::Duration;

use super::{Accounts, Issued, MAX_EMAIL, Origin, failed};
use crate::auth::error::{AuthError, OverLimit};
use crate::auth::input;
use crate::auth::password::Verdict;
use crate::model::{Account, Email, Event, EventKind, Outcome, clean_text};
use crate::store::{self, Lane, LoginState, NewLogin};

/// The name of the pauses after failed logins, beside those of `[limits]`.
const GUARD: &str = "login_guard";

/// What becomes of the right password of an account whose address is not proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproved {
    /// It logs in.
    LogsIn,
    /// It is told to prove the address first.
    Waits,
}

impl Accounts {
    /// Looks up what a login with this address begins with.
    ///
    /// # Errors
    /// [`AuthError::OverLimit`] when too many failed in its lane: nothing is hashed then, and the
    /// try does not count as a failure. What storing may meet.
    pub async fn login_state(
        &self,
        email: &Email,
        origin: &Origin,
    ) -> Result<LoginState, AuthError> {
        let now = self.clock.now();
        let state = self.store.login_state(email, origin.address, now).await.map_err(failed)?;
        match state
            .blocked_until
            .and_then(|until| Duration::try_from(now.duration_until(until)).ok())
        {
            Some(retry_after) if !retry_after.is_zero() => {
                let rule = GUARD.to_owned();
                let email = Some(email.address().to_owned());
                Err(AuthError::OverLimit(OverLimit { rule, retry_after, email }))
            }
            _ => Ok(state),
        }
    }

    /// Checks a password and begins a session.
    ///
    /// # Errors
    /// [`AuthError::InvalidCredentials`] for an unknown address, a wrong password and a disabled
    /// account alike, after one hash in each case; [`AuthError::EmailNotConfirmed`] after the right
    /// password; and what hashing and storing may meet.
    pub async fn log_in(
        &self,
        tried: input::LogIn,
        state: LoginState,
        unproved: Unproved,
        origin: &Origin,
    ) -> Result<Issued, AuthError> {
        let input::LogIn { email, password } = tried;
        let LoginState { account, lane, .. } = state;
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
            (None, ..) => return self.refuse_login(&lane, event, "unknown_user").await,
            (Some(Account { user, .. }), Some(checked), Verdict::Right { rehash }) => {
                if user.is_disabled(now) {
                    return self.refuse_login(&lane, event, "user_disabled").await;
                }
                if user.email_confirmed_at.is_none() && unproved == Unproved::Waits {
                    // The password was right: no guess.
                    let event = failed_login(event, "email_not_confirmed");
                    self.store.record(&[event]).await.map_err(failed)?;
                    return Err(AuthError::EmailNotConfirmed);
                }
                (user.id, checked, rehash)
            }
            (Some(_), ..) => return self.refuse_login(&lane, event, "wrong_password").await,
        };
        let (login, refresh_token) = self.new_login(&user_id, origin, now);
        let login = NewLogin { clears: Some(lane.clone()), ..login };
        let event = Event { session_id: Some(login.session.id), ..event };
        let rehash = rehash.as_ref();
        match self.store.log_in(&user_id, &checked, rehash, &login, &event).await.map_err(failed)? {
            store::LogIn::Done { user, ended } => {
                self.revocations.end(ended);
                self.issued(user, &login.session, &refresh_token, now)
            }
            store::LogIn::Refused => {
                let event = Event { session_id: None, ..event };
                self.refuse_login(&lane, event, "account_changed").await
            }
        }
    }

    /// Each failure counts alike, that of a disabled account with the right password too, or the
    /// pauses would tell what the answers do not.
    async fn refuse_login<T>(
        &self,
        lane: &Lane,
        event: Event,
        reason: &str,
    ) -> Result<T, AuthError> {
        self.store.refuse_login(lane, &failed_login(event, reason)).await.map_err(failed)?;
        Err(AuthError::InvalidCredentials)
    }
}

fn failed_login(event: Event, reason: &str) -> Event {
    Event {
        kind: EventKind::LoginFailed,
        outcome: Outcome::Failure,
        reason: Some(reason.to_owned()),
        ..event
    }
}
