//! Changing an account: metadata and password.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use super::{Accounts, Bearer, Origin, failed};
use crate::auth::error::AuthError;
use crate::auth::input::{self, InputError, MAX_METADATA_BYTES};
use crate::auth::password::Verdict;
use crate::model::{Account, Email, Event, EventKind, Outcome, PasswordHash, User};
use crate::store;

/// A login younger than this proves the password well enough to change it.
const RECENT_LOGIN: Duration = Duration::from_hours(24);

impl Accounts {
    /// Changes the bearer's metadata and password. A new password ends every other session.
    ///
    /// # Errors
    /// [`AuthError::WeakPassword`], [`AuthError::SamePassword`],
    /// [`AuthError::CurrentPasswordRequired`], [`AuthError::CurrentPasswordInvalid`],
    /// [`AuthError::ReauthenticationNeeded`], [`AuthError::ValidationFailed`] for too much
    /// metadata, [`AuthError::SessionNotFound`] when the account is gone; what hashing and storing
    /// may meet.
    pub async fn update_user(
        &self,
        bearer: &Bearer,
        change: input::UpdateUser,
        origin: &Origin,
    ) -> Result<User, AuthError> {
        let input::UpdateUser { user_metadata, password, current_password } = change;
        if user_metadata.is_none() && password.is_none() {
            return self.user(bearer).await;
        }
        let new_password = match password {
            Some(new) => Some(self.new_password(bearer, new, current_password, origin).await?),
            None => None,
        };
        let now = self.clock.now();
        let event = |kind| Event {
            user_id: Some(bearer.user_id.clone()),
            session_id: Some(bearer.session_id),
            ..origin.event(kind, Outcome::Success, now)
        };
        let mut events = Vec::new();
        if user_metadata.is_some() {
            events.push(event(EventKind::UserUpdated));
        }
        if new_password.is_some() {
            events.push(event(EventKind::PasswordChanged));
        }
        let update = store::UserUpdate {
            metadata_patch: user_metadata,
            max_metadata_bytes: MAX_METADATA_BYTES,
            new_password,
            keep_session: bearer.session_id,
        };
        match self
            .store
            .update_user(&bearer.user_id, &update, now, &events)
            .await
            .map_err(failed)?
        {
            store::UpdateUser::Done { user, ended } => {
                self.revocations.end(ended);
                Ok(user)
            }
            store::UpdateUser::NotFound => Err(AuthError::SessionNotFound),
            // Somebody else changed it in these few milliseconds: what was proved is out of date.
            store::UpdateUser::PasswordChangedMeanwhile => Err(AuthError::ReauthenticationNeeded),
            store::UpdateUser::MetadataTooLarge => Err(InputError::metadata_too_large().into()),
        }
    }

    /// Decides whether the bearer may set the password `new`: the hash to store, and the one that
    /// must still be there then.
    async fn new_password(
        &self,
        bearer: &Bearer,
        new: SecretString,
        current: Option<SecretString>,
        origin: &Origin,
    ) -> Result<(PasswordHash, Option<PasswordHash>), AuthError> {
        let account = self.store.account_by_id(&bearer.user_id).await.map_err(failed)?;
        let Account { user, password_hash: stored } = account.ok_or(AuthError::SessionNotFound)?;
        // An address that was imported may be one that we would not take; then it is no password.
        let email = user.email.parse::<Email>().ok();
        self.policy.check(new.expose_secret(), email.as_ref()).map_err(AuthError::WeakPassword)?;
        let is_same = match current {
            Some(current) if current.expose_secret().is_empty() => {
                return Err(AuthError::CurrentPasswordRequired);
            }
            Some(current) => {
                let (one, two) = (current.expose_secret(), new.expose_secret());
                let is_same = bool::from(one.as_bytes().ct_eq(two.as_bytes()));
                let verdict = self.hasher.verify(stored.clone(), current).await?;
                if !matches!(verdict, Verdict::Right { .. }) {
                    return self.refuse_change(bearer, origin).await;
                }
                is_same
            }
            None => {
                if !self.has_logged_in_recently(bearer).await? {
                    return Err(AuthError::ReauthenticationNeeded);
                }
                let verdict = self.hasher.verify(stored.clone(), new.clone()).await?;
                matches!(verdict, Verdict::Right { .. })
            }
        };
        if is_same {
            return Err(AuthError::SamePassword);
        }
        Ok((self.hasher.hash(new).await?, stored))
    }

    async fn refuse_change<T>(&self, bearer: &Bearer, origin: &Origin) -> Result<T, AuthError> {
        let event = Event {
            user_id: Some(bearer.user_id.clone()),
            session_id: Some(bearer.session_id),
            reason: Some("wrong_password".to_owned()),
            ..origin.event(EventKind::PasswordChangeFailed, Outcome::Failure, self.clock.now())
        };
        self.store.record(&[event]).await.map_err(failed)?;
        Err(AuthError::CurrentPasswordInvalid)
    }

    async fn has_logged_in_recently(&self, bearer: &Bearer) -> Result<bool, AuthError> {
        let session = self.store.session(&bearer.session_id).await.map_err(failed)?;
        let age = session.map(|session| self.clock.now().duration_since(session.created_at));
        Ok(age.is_some_and(|age| age.unsigned_abs() < RECENT_LOGIN))
    }
}
