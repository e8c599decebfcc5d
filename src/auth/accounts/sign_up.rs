//! Making an account.

use super::{Accounts, Issued, MAX_EMAIL, Origin, failed};
use crate::auth::error::AuthError;
use crate::auth::input;
use crate::model::{Email, Event, EventKind, Outcome, User, UserId, clean_text};
use crate::store;

impl Accounts {
    /// Makes an account and logs it in. Its address is not confirmed by that.
    ///
    /// # Errors
    /// [`AuthError::UserAlreadyExists`], and what hashing and storing may meet.
    pub async fn sign_up(&self, new: input::SignUp, origin: &Origin) -> Result<Issued, AuthError> {
        let input::SignUp { email, password, user_metadata, .. } = new;
        // Saves the hash. Whether the address is free is decided when the account is stored.
        if self.store.account_by_email(&email).await.map_err(failed)?.is_some() {
            return self.refuse_taken_address(&email, origin).await;
        }
        let password_hash = Some(self.hasher.hash(password).await?);
        let now = self.clock.now();
        let user = User {
            user_metadata,
            last_sign_in_at: Some(now),
            ..User::new(UserId::generate(now), email.address(), now)
        };
        let (login, refresh_token) = self.new_login(&user.id, origin, now)?;
        let event = Event {
            user_id: Some(user.id.clone()),
            email: Some(clean_text(email.address().as_bytes(), MAX_EMAIL)),
            session_id: Some(login.session.id),
            ..origin.event(EventKind::Signup, Outcome::Success, now)
        };
        let account = store::NewAccount { user, email, password_hash };
        match self.store.sign_up(&account, Some(&login), &event).await.map_err(failed)? {
            store::SignUp::Created => {
                self.issued(account.user, &login.session, &refresh_token, origin, now)
            }
            store::SignUp::EmailTaken => self.refuse_taken_address(&account.email, origin).await,
            store::SignUp::IdTaken => Err(AuthError::Internal("a new user id is taken".into())),
        }
    }

    async fn refuse_taken_address<T>(
        &self,
        email: &Email,
        origin: &Origin,
    ) -> Result<T, AuthError> {
        let event = Event {
            email: Some(clean_text(email.address().as_bytes(), MAX_EMAIL)),
            reason: Some("user_already_exists".to_owned()),
            ..origin.event(EventKind::SignupFailed, Outcome::Failure, self.clock.now())
        };
        self.store.record(&[event]).await.map_err(failed)?;
        Err(AuthError::UserAlreadyExists)
    }
}
