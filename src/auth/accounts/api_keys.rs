//! API keys of the own account.

use jiff::Timestamp;
use uuid::Uuid;

use super::session::later;
use super::{Accounts, Bearer, Origin, failed};
use crate::auth::error::AuthError;
use crate::auth::input;
use crate::config;
use crate::identity::api_keys::{KeyText, NewKey};
use crate::model::{ApiKey, Event, EventKind, Outcome, User};
use crate::store::{AddApiKey, KeyName, RotateApiKey};

/// Scopes that let a key do more than its user's own work: only administrators give them.
const GIVEN_BY_ADMINISTRATORS: [&str; 2] = ["admin", "introspect"];

/// Two keys with one prefix are a matter of luck, two in a row one of a broken source of randomness.
const TRIES: u32 = 3;

impl Accounts {
    /// The bearer's keys that can be used, newest first.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn api_keys(&self, bearer: &Bearer) -> Result<Vec<ApiKey>, AuthError> {
        let now = self.clock.now();
        let mut keys = self.store.api_keys(Some(&bearer.user_id)).await.map_err(failed)?;
        keys.retain(|key| key.is_live(now));
        Ok(keys)
    }

    /// Makes a key for the bearer, who sees its text this once. It can be used at once, in other
    /// gateways within a second.
    ///
    /// # Errors
    /// [`AuthError::ReauthenticationNeeded`] with a login of more than a day ago: a key outlives the
    /// token that made it, which may be stolen. [`AuthError::InsufficientAal`] when the user has a
    /// second factor that was not shown. [`AuthError::NotAdmin`] for scopes that only
    /// administrators give, [`AuthError::TooManyApiKeys`], [`AuthError::ValidationFailed`] for too
    /// long a life; what storing may meet.
    pub async fn make_api_key(
        &self,
        bearer: &Bearer,
        wanted: input::NewApiKey,
        rules: &config::ApiKeys,
        origin: &Origin,
    ) -> Result<(ApiKey, KeyText), AuthError> {
        let user = self.who_makes_keys(bearer, &wanted.scopes).await?;
        let now = self.clock.now();
        let asked = wanted.expires_in.map(|life| later(now, life));
        let new = NewKey {
            user_id: user.id.clone(),
            name: wanted.name,
            scopes: wanted.scopes,
            created_by: user.id.to_string(),
            expires_at: end_of(asked, now, rules)?,
            replaces: None,
        };
        self.add_api_key(&new, rules.max_per_user, &user, now, |key| {
            key_event(EventKind::ApiKeyCreated, key, bearer, origin, now)
        })
        .await
        // The account of a bearer that is gone is a session that is over.
        .map_err(|error| match error {
            AuthError::UserNotFound => AuthError::SessionNotFound,
            other => other,
        })
    }

    /// Stores a new key of a user who then has at most `max`.
    pub(super) async fn add_api_key(
        &self,
        new: &NewKey,
        max: u32,
        user: &User,
        now: Timestamp,
        event: impl Fn(&ApiKey) -> Event,
    ) -> Result<(ApiKey, KeyText), AuthError> {
        for _ in 0..TRIES {
            let (key, text) = new.clone().make(now);
            let event = event(&key);
            match self.store.add_api_key(&key, max, &event).await.map_err(failed)? {
                AddApiKey::Added => return self.made(key, text, user),
                AddApiKey::TooMany => return Err(AuthError::TooManyApiKeys),
                AddApiKey::NoUser => return Err(AuthError::UserNotFound),
                AddApiKey::Taken => {}
            }
        }
        Err(AuthError::Internal("every prefix for an API key is taken".into()))
    }

    /// Makes a key in the place of one of the bearer's, with its name and scopes; the old one goes on
    /// for a while. Without another wish, the new one lives as long as the old one was to.
    ///
    /// # Errors
    /// [`AuthError::ApiKeyNotFound`] unless the old key can be used, and those of
    /// [`Accounts::make_api_key`].
    pub async fn rotate_api_key(
        &self,
        bearer: &Bearer,
        id: Uuid,
        wanted: &input::RotateApiKey,
        rules: &config::ApiKeys,
        origin: &Origin,
    ) -> Result<(ApiKey, KeyText), AuthError> {
        let now = self.clock.now();
        let old = self.store.api_key(&KeyName::Id(id)).await.map_err(failed)?;
        let old = old
            .filter(|old| old.user_id == bearer.user_id && old.is_live(now))
            .ok_or(AuthError::ApiKeyNotFound)?;
        let user = self.who_makes_keys(bearer, &old.scopes).await?;
        let asked = match wanted.expires_in {
            Some(life) => Some(later(now, life)),
            None => old.life().map(|life| later(now, life)),
        };
        let new = NewKey {
            user_id: user.id.clone(),
            name: old.name.clone(),
            scopes: old.scopes.clone(),
            created_by: user.id.to_string(),
            expires_at: end_of(asked, now, rules)?,
            replaces: Some(old.id),
        };
        let old_ends_at = later(now, wanted.overlap);
        // The old ones still count, so that nobody has ever more by rotating again and again.
        let max = rules.max_per_user.saturating_mul(2);
        for _ in 0..TRIES {
            let (key, text) = new.clone().make(now);
            let events = [
                key_event(EventKind::ApiKeyRotated, &old, bearer, origin, now),
                key_event(EventKind::ApiKeyCreated, &key, bearer, origin, now),
            ];
            let rotated = self.store.rotate_api_key(&key, old_ends_at, max, &events);
            match rotated.await.map_err(failed)? {
                RotateApiKey::Rotated => return self.made(key, text, &user),
                RotateApiKey::NotFound => return Err(AuthError::ApiKeyNotFound),
                RotateApiKey::TooMany => return Err(AuthError::TooManyApiKeys),
                RotateApiKey::Taken => {}
            }
        }
        Err(AuthError::Internal("every prefix for an API key is taken".into()))
    }

    /// Ends one of the bearer's keys. When this returns, no worker accepts it.
    ///
    /// # Errors
    /// [`AuthError::ApiKeyNotFound`] unless it is the bearer's and not ended; what storing may meet.
    pub async fn revoke_api_key(
        &self,
        bearer: &Bearer,
        id: Uuid,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        let now = self.clock.now();
        let key = self.store.api_key(&KeyName::Id(id)).await.map_err(failed)?;
        let key = key.filter(|key| key.user_id == bearer.user_id);
        let key = key.ok_or(AuthError::ApiKeyNotFound)?;
        let event = key_event(EventKind::ApiKeyRevoked, &key, bearer, origin, now);
        let revoked = self.store.revoke_api_key(id, Some(&bearer.user_id), now, &event);
        if !revoked.await.map_err(failed)? {
            return Err(AuthError::ApiKeyNotFound);
        }
        self.api_keys.revoke(id);
        Ok(())
    }

    /// The bearer's account, when it may make a key with these scopes now.
    async fn who_makes_keys(&self, bearer: &Bearer, scopes: &[String]) -> Result<User, AuthError> {
        let user = self.user(bearer).await?;
        let is_given = |scope: &String| GIVEN_BY_ADMINISTRATORS.contains(&scope.as_str());
        if scopes.iter().any(is_given) && !user.roles.iter().any(|role| role == "admin") {
            return Err(AuthError::NotAdmin);
        }
        // A key shows no second factor, so whoever makes one has to.
        self.second_factor_was_shown(bearer, &user).await?;
        if !self.has_logged_in_recently(bearer).await? {
            return Err(AuthError::ReauthenticationNeeded);
        }
        Ok(user)
    }

    fn made(
        &self,
        key: ApiKey,
        text: KeyText,
        user: &User,
    ) -> Result<(ApiKey, KeyText), AuthError> {
        self.api_keys.put(&key, user).map_err(|error| AuthError::Internal(error.into()))?;
        Ok((key, text))
    }
}

/// When a key ends, within what users may have.
fn end_of(
    asked: Option<Timestamp>,
    now: Timestamp,
    rules: &config::ApiKeys,
) -> Result<Option<Timestamp>, AuthError> {
    let longest = rules.max_lifetime.0;
    if longest.is_zero() {
        return Ok(asked);
    }
    let last = later(now, longest);
    if asked.is_some_and(|end| end > last) {
        let most = longest.as_secs();
        let detail = format!("`expires_in` must be at most {most} seconds");
        return Err(AuthError::ValidationFailed(detail));
    }
    Ok(Some(asked.unwrap_or(last)))
}

/// An event about a key, which it knows by the prefix.
fn key_event(
    kind: EventKind,
    key: &ApiKey,
    bearer: &Bearer,
    origin: &Origin,
    now: Timestamp,
) -> Event {
    Event {
        user_id: Some(bearer.user_id.clone()),
        session_id: Some(bearer.session_id),
        reason: Some(key.prefix.clone()),
        ..origin.event(kind, Outcome::Success, now)
    }
}
