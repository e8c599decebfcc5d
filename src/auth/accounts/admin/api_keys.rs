//! API keys of anybody. No rule of `[api_keys]` binds administrators.

use uuid::Uuid;

use super::super::session::later;
use super::super::{Accounts, failed};
use super::Administrator;
use crate::auth::error::AuthError;
use crate::auth::input;
use crate::identity::api_keys::{KeyText, NewKey};
use crate::model::{ApiKey, Event, EventKind, UserId};
use crate::store::KeyName;

impl Accounts {
    /// The API keys of a user, newest first; ended ones for 30 days.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`]; what storing may meet.
    pub async fn api_keys_of(&self, user: &UserId) -> Result<Vec<ApiKey>, AuthError> {
        let user = self.any_user(user).await?;
        self.store.api_keys(Some(&user.id)).await.map_err(failed)
    }

    /// Makes a key that acts as the user. Its text is seen this once.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`]; what storing may meet.
    pub async fn make_api_key_for(
        &self,
        admin: &Administrator,
        user: &UserId,
        wanted: input::NewApiKey,
    ) -> Result<(ApiKey, KeyText), AuthError> {
        let user = self.any_user(user).await?;
        let now = self.clock.now();
        let new = NewKey {
            user_id: user.id.clone(),
            name: wanted.name,
            scopes: wanted.scopes,
            created_by: admin.id().to_string(),
            expires_at: wanted.expires_in.map(|life| later(now, life)),
            replaces: None,
        };
        self.add_api_key(&new, u32::MAX, &user, now, |key| Event {
            reason: Some(key.prefix.clone()),
            ..admin.event(EventKind::ApiKeyCreated, Some(&key.user_id), now)
        })
        .await
    }

    /// Ends a key of a user. When this returns, no worker accepts it.
    ///
    /// # Errors
    /// [`AuthError::ApiKeyNotFound`] unless it is the user's and not ended; what storing may meet.
    pub async fn revoke_api_key_of(
        &self,
        admin: &Administrator,
        user: &UserId,
        id: Uuid,
    ) -> Result<(), AuthError> {
        let now = self.clock.now();
        let key = self.store.api_key(&KeyName::Id(id)).await.map_err(failed)?;
        let key = key.filter(|key| key.user_id == *user).ok_or(AuthError::ApiKeyNotFound)?;
        let event = Event {
            reason: Some(key.prefix),
            ..admin.event(EventKind::ApiKeyRevoked, Some(user), now)
        };
        let revoked = self.store.revoke_api_key(id, Some(user), now, &event);
        if !revoked.await.map_err(failed)? {
            return Err(AuthError::ApiKeyNotFound);
        }
        self.api_keys.revoke(id);
        Ok(())
    }
}
