//! Accounts, as administrators make, change and delete them.

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};

use super::super::session::later;
use super::super::{Accounts, MAX_EMAIL, failed};
use super::Administrator;
use crate::auth::error::AuthError;
use crate::auth::formats::{Class, Scheme};
use crate::auth::input::{self, AccountWords, BanFor, InputError, MAX_METADATA_BYTES};
use crate::model::{Email, Event, EventKind, PasswordHash, User, UserId, clean_text};
use crate::store::{self, Ban, ChangeUser, Classified, Deletion, NewAccount, UserChange, UserPage};
use crate::telemetry::chain;

impl Accounts {
    /// A page of accounts, the newest first: at most `limit` after so many; those whose address or id
    /// contains `filter`, if given.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn user_page(
        &self,
        filter: Option<&str>,
        after: u64,
        limit: u32,
    ) -> Result<UserPage, AuthError> {
        self.store.user_page(filter, after, limit).await.map_err(failed)
    }

    /// Makes an account. Nothing is mailed; without a password or a hash there is none to log in
    /// with.
    ///
    /// # Errors
    /// [`AuthError::EmailExists`], [`AuthError::IdExists`],
    /// [`AuthError::WeakPassword`], [`AuthError::ValidationFailed`]; what hashing and storing may meet.
    pub async fn create_user(
        &self,
        admin: &Administrator,
        new: input::NewUser,
    ) -> Result<User, AuthError> {
        let input::NewUser { id, email, account: words } = new;
        let hash = self.given_password(&words, Some(&email)).await?;
        let now = self.clock.now();
        let user = User {
            email_confirmed_at: words.confirm_email.then_some(now),
            roles: words.roles.unwrap_or_default(),
            app_metadata: words.app_metadata.unwrap_or_default(),
            user_metadata: words.user_metadata.unwrap_or_default(),
            disabled_until: match words.ban {
                Some(BanFor::Time(time)) => Some(later(now, time)),
                Some(BanFor::None) | None => None,
            },
            ..User::new(id.unwrap_or_else(|| UserId::generate(now)), email.address(), now)
        };
        let event = Event {
            email: Some(clean_text(email.address().as_bytes(), MAX_EMAIL)),
            ..admin.event(EventKind::UserCreated, Some(&user.id), now)
        };
        let password_hash = hash.as_ref().map(|(hash, _)| hash.clone());
        let account = NewAccount { user, email, password_hash };
        let id = account.user.id.clone();
        match self.store.sign_up(&account, None, &event).await.map_err(failed)? {
            store::SignUp::Created => {}
            store::SignUp::EmailTaken => return Err(AuthError::EmailExists),
            store::SignUp::IdTaken => return Err(AuthError::IdExists),
        }
        self.note_class(&id, hash).await;
        self.any_user(&id).await
    }

    /// Changes an account. A new password, other roles and a ban end its sessions: when this
    /// returns, no worker accepts their tokens.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`], [`AuthError::EmailExists`], [`AuthError::WeakPassword`],
    /// [`AuthError::ValidationFailed`]; what hashing and storing may meet.
    pub async fn change_user(
        &self,
        admin: &Administrator,
        id: &UserId,
        wanted: input::UserWords,
    ) -> Result<User, AuthError> {
        let input::UserWords { email, account: words } = wanted;
        let user = self.any_user(id).await?;
        let known_as = email.clone().or_else(|| user.email.parse().ok());
        let hash = self.given_password(&words, known_as.as_ref()).await?;
        let now = self.clock.now();
        let change = UserChange {
            email,
            confirm_email: words.confirm_email,
            new_email: None,
            password: hash.as_ref().map(|(hash, _)| hash.clone()),
            roles: words.roles,
            keep_sessions: false,
            app_metadata: words.app_metadata,
            user_metadata: words.user_metadata,
            max_metadata_bytes: Some(MAX_METADATA_BYTES),
            ban: words.ban.map(|ban| match ban {
                BanFor::Time(time) => Ban::Until(later(now, time)),
                BanFor::None => Ban::Lifted,
            }),
        };
        let user = self.store_change(admin, id, &change, now).await?;
        self.note_class(id, hash).await;
        Ok(user)
    }

    pub(super) async fn store_change(
        &self,
        admin: &Administrator,
        id: &UserId,
        change: &UserChange,
        now: Timestamp,
    ) -> Result<User, AuthError> {
        let event = admin.event(EventKind::UserUpdated, Some(id), now);
        match self.store.change_user(id, change, now, &event).await.map_err(failed)? {
            ChangeUser::Done { user, ended } => {
                self.revocations.end(ended);
                Ok(*user)
            }
            ChangeUser::NotFound => Err(AuthError::UserNotFound),
            ChangeUser::EmailTaken => Err(AuthError::EmailExists),
            ChangeUser::MetadataTooLarge => Err(InputError::metadata_too_large().into()),
        }
    }

    /// Deletes an account and ends its sessions.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`]; what storing may meet.
    pub async fn delete_user(
        &self,
        admin: &Administrator,
        id: &UserId,
        deletion: Deletion,
    ) -> Result<(), AuthError> {
        let now = self.clock.now();
        let kind = match deletion {
            Deletion::Hard => EventKind::UserDeleted,
            Deletion::Soft => EventKind::UserSoftDeleted,
        };
        let event = admin.event(kind, Some(id), now);
        let ended = self.store.delete_user(id, deletion, now, &event).await.map_err(failed)?;
        self.revocations.end(ended.ok_or(AuthError::UserNotFound)?);
        Ok(())
    }

    /// The hash that is to be stored: of the password that was given, once the rule accepts it, or
    /// the one that was given, with its class.
    async fn given_password(
        &self,
        words: &AccountWords,
        email: Option<&Email>,
    ) -> Result<Option<(PasswordHash, Option<Class>)>, AuthError> {
        if let Some(text) = &words.password_hash {
            let class = Scheme::parse(text).map_err(|error| {
                AuthError::ValidationFailed(format!("`password_hash` cannot be used: {error}"))
            })?;
            let class = class.class();
            if class.is_weak() {
                let detail = "`password_hash` is of a kind or a cost that protects nothing: PBKDF2 \
                              needs 1000 iterations, scrypt and Argon2 1 MiB of memory times passes";
                return Err(AuthError::ValidationFailed(detail.to_owned()));
            }
            return Ok(Some((PasswordHash(text.clone()), Some(class))));
        }
        let Some(password) = &words.password else { return Ok(None) };
        let hash = self.hash_checked(password, email).await?;
        Ok(Some((hash, None)))
    }

    /// Hashes a password that the rule accepts.
    pub(super) async fn hash_checked(
        &self,
        password: &SecretString,
        email: Option<&Email>,
    ) -> Result<PasswordHash, AuthError> {
        let (new, email) = (password.clone(), email.cloned());
        self.by_policy(move |policy| policy.check(new.expose_secret(), email.as_ref()))
            .await?
            .map_err(AuthError::WeakPassword)?;
        Ok(self.hasher.hash(password.clone()).await?)
    }

    /// Notes the class of a hash that was given, so that failed logins take as long as with it. The
    /// account is stored already: where this fails, the hash is found in a few seconds, as those are
    /// that other programs store.
    async fn note_class(&self, user: &UserId, stored: Option<(PasswordHash, Option<Class>)>) {
        let Some((hash, Some(class))) = stored else { return };
        if hash.0.starts_with(self.hasher.prefix()) {
            return;
        }
        let found = Classified { user: user.clone(), hash, class: class.to_string() };
        if let Err(error) = self.store.classify_passwords(&[found]).await {
            tracing::warn!(error = chain(&error), "the kind of a password is not noted yet");
        }
    }
}
