//! Beginning a session with a password.

use std::time::Duration;

use secrecy::SecretString;

use super::hook::{HookError, Profile, Told};
use super::{Accounts, Issued, MAX_EMAIL, Origin, RETRY_AFTER, failed};
use crate::auth::counted::LOGIN_GUARD;
use crate::auth::error::{AuthError, OverLimit};
use crate::auth::input;
use crate::auth::password::Verdict;
use crate::model::{Account, Email, Event, EventKind, Outcome, User, UserId, clean_text};
use crate::store::{self, Lane, LoginState, NewLogin, StoreError};

/// What becomes of the right password of an account whose address is not proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproved {
    /// It logs in.
    LogsIn,
    /// It is told to prove the address first.
    Waits,
}

/// A login that the earlier system found right.
struct Moving {
    email: Email,
    password: SecretString,
    /// The account here, which has no password.
    account: Option<Account>,
    profile: Box<Profile>,
    lane: Lane,
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
                let rule = LOGIN_GUARD.to_owned();
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
    /// account alike, after as many hashes in each case; [`AuthError::EmailNotConfirmed`] after the
    /// right password, be it that of a sign-up; [`AuthError::Unavailable`] when the earlier system does
    /// not say whether it is right; [`AuthError::TokenTooLarge`]; and what hashing and storing may meet.
    pub async fn log_in(
        &self,
        tried: input::LogIn,
        state: LoginState,
        unproved: Unproved,
        origin: &Origin,
    ) -> Result<Issued, AuthError> {
        let input::LogIn { email, password } = tried;
        let LoginState { account, lane, signed_up, .. } = state;
        let stored = account.as_ref().and_then(|account| account.password_hash.clone());
        let is_disabled =
            account.as_ref().is_some_and(|account| account.user.is_disabled(self.clock.now()));
        let hook = self.login_hook.load_full().filter(|_| stored.is_none() && !is_disabled);
        let check = async {
            if is_disabled {
                self.hasher.verify_disabled(stored.clone(), password.clone()).await
            } else {
                self.hasher.verify(stored.clone(), password.clone()).await
            }
        };
        let ask = async {
            match &hook {
                Some(hook) => Some(hook.ask(&email, &password, self.clock.now()).await),
                None => None,
            }
        };
        // Both at once, so that the question adds as little as can be to what a known address costs.
        let (verdict, told) = tokio::join!(check, ask);
        let verdict = verdict?;
        if let (Some(Account { user, .. }), Verdict::Unusable { why }) = (&account, &verdict) {
            tracing::warn!(user_id = %user.id, %why, "a stored password hash cannot be checked");
        }
        let now = self.clock.now();
        let event = Event {
            user_id: account.as_ref().map(|account| account.user.id.clone()),
            email: Some(clean_text(email.address().as_bytes(), MAX_EMAIL)),
            ..origin.event(EventKind::Login, Outcome::Success, now)
        };
        match told {
            Some(Ok(Told::Right(profile))) => {
                let right = Moving { email, password, account, profile, lane };
                return self.move_in(right, event, unproved, origin).await;
            }
            Some(Err(error)) => return self.hook_is_away(event, error).await,
            Some(Ok(Told::Wrong)) | None => {}
        }
        let is_right = matches!(verdict, Verdict::Right { .. }) && !is_disabled;
        // One hash more for every login that fails, whether or not anybody signed up or has the
        // address, or the time would tell.
        if !is_right
            && unproved == Unproved::Waits
            && matches!(self.hasher.verify(signed_up, password).await?, Verdict::Right { .. })
        {
            return self.refuse_unproved(event).await;
        }
        let (user_id, checked, rehash) = match (account, stored, verdict) {
            (None, ..) => return self.refuse_login(&lane, event, "unknown_user").await,
            (Some(Account { user, .. }), Some(checked), Verdict::Right { rehash }) => {
                if user.is_disabled(now) {
                    return self.refuse_login(&lane, event, "user_disabled").await;
                }
                if user.email_confirmed_at.is_none() && unproved == Unproved::Waits {
                    return self.refuse_unproved(event).await;
                }
                (user.id, checked, rehash)
            }
            (Some(_), ..) => return self.refuse_login(&lane, event, "wrong_password").await,
        };
        let (login, refresh_token) = self.new_login(&user_id, origin, now)?;
        let login = NewLogin { clears: Some(lane.clone()), ..login };
        let event = Event { session_id: Some(login.session.id), ..event };
        let rehash = rehash.as_ref();
        match self.store.log_in(&user_id, &checked, rehash, &login, &event).await {
            Err(error) => self.not_begun(error, event).await,
            Ok(store::LogIn::Done { user, ended }) => {
                self.revocations.end(ended);
                self.issued(user, &login.session, &refresh_token, origin, now)
            }
            Ok(store::LogIn::Refused) => {
                let event = Event { session_id: None, ..event };
                self.refuse_login(&lane, event, "account_changed").await
            }
        }
    }

    /// Keeps a password that the earlier system found right, with what else it said when there is
    /// no account yet, and begins a session.
    async fn move_in(
        &self,
        moving: Moving,
        event: Event,
        unproved: Unproved,
        origin: &Origin,
    ) -> Result<Issued, AuthError> {
        let Moving { email, password, account, profile, lane } = moving;
        // Whoever made an account there with an address that was never proved must not come into
        // the account that its owner has here.
        if account.is_some() && !profile.email_confirmed {
            return self.refuse_login(&lane, event, "address_unproved_elsewhere").await;
        }
        if !profile.email_confirmed && unproved == Unproved::Waits {
            return self.refuse_unproved(event).await;
        }
        let hash = self.hasher.hash(password.clone()).await?;
        let now = self.clock.now();
        let user_id = match &account {
            Some(account) => account.user.id.clone(),
            None => profile.id.clone().unwrap_or_else(|| UserId::generate(now)),
        };
        let (login, refresh_token) = self.new_login(&user_id, origin, now)?;
        let login = NewLogin { clears: Some(lane.clone()), ..login };
        let event = Event {
            user_id: Some(user_id.clone()),
            session_id: Some(login.session.id),
            reason: Some("migrated".to_owned()),
            ..event
        };
        if account.is_some() {
            return match self.store.move_in(&user_id, &hash, &login, &event).await {
                Err(error) => self.not_begun(error, event).await,
                Ok(store::LogIn::Done { user, ended }) => {
                    self.revocations.end(ended);
                    self.issued(user, &login.session, &refresh_token, origin, now)
                }
                Ok(store::LogIn::Refused) => {
                    let event = Event { session_id: None, ..event };
                    self.refuse_login(&lane, event, "account_changed").await
                }
            };
        }
        let user = User {
            email_confirmed_at: profile.email_confirmed.then_some(now),
            roles: profile.roles,
            app_metadata: profile.app_metadata,
            user_metadata: profile.user_metadata,
            last_sign_in_at: Some(now),
            ..User::new(user_id, email.address(), now)
        };
        let new = store::NewAccount { user, email, password_hash: Some(hash) };
        match self.store.sign_up(&new, Some(&login), &event).await {
            // Nobody has the id that the event would name.
            Err(error) => self.not_begun(error, Event { user_id: None, ..event }).await,
            Ok(store::SignUp::Created) => {
                self.issued(new.user, &login.session, &refresh_token, origin, now)
            }
            Ok(store::SignUp::EmailTaken) => {
                // By another login at this moment, most likely: the password is known here now.
                let account = self.store.account_by_email(&new.email).await.map_err(failed)?;
                let tried = input::LogIn { email: new.email, password };
                let state = LoginState { account, lane, blocked_until: None, signed_up: None };
                Box::pin(self.log_in(tried, state, unproved, origin)).await
            }
            Ok(store::SignUp::IdTaken) => Err(AuthError::Internal(
                "the id that the earlier system gives is another user's here".into(),
            )),
        }
    }

    /// The password was right, but nothing was stored. Where it is because of the account, that is
    /// recorded as a failure of no guess.
    async fn not_begun<T>(&self, error: StoreError, event: Event) -> Result<T, AuthError> {
        let error = failed(error);
        if matches!(error, AuthError::TokenTooLarge) {
            let event = failed_login(Event { session_id: None, ..event }, error.code());
            self.store.record(&[event]).await.map_err(failed)?;
        }
        Err(error)
    }

    /// Nothing is known of the password, so it counts as no failure.
    async fn hook_is_away<T>(&self, event: Event, error: HookError) -> Result<T, AuthError> {
        let event = failed_login(event, "login_hook_unavailable");
        self.store.record(&[event]).await.map_err(failed)?;
        Err(AuthError::Unavailable { retry_after: RETRY_AFTER, source: error.into() })
    }

    /// The password was right, and no guess: it does not count as a failure.
    async fn refuse_unproved<T>(&self, event: Event) -> Result<T, AuthError> {
        let event = failed_login(event, "email_not_confirmed");
        self.store.record(&[event]).await.map_err(failed)?;
        Err(AuthError::EmailNotConfirmed)
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
