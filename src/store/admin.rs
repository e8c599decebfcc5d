//! What administrators change of accounts, all of it in one transaction; and accounts in pages that
//! say how many there are.

use jiff::Timestamp;

use super::error::StoreError;
use super::links::NewEmail;
use super::{Store, either};
use crate::model::{Email, EndedSession, Event, JsonObject, PasswordHash, User, UserId};

/// What to change of an account. What is not named stays.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// Another address. It counts as proved only with `confirm_email`, unless it is the same in
    /// another spelling. Links that were mailed before are void.
    pub email: Option<Email>,
    /// The address is known to be the user's; the first time counts.
    pub confirm_email: bool,
    /// An address that the user is to have once it has agreed; takes the place of an earlier wish.
    pub new_email: Option<NewEmail>,
    /// The hash of another password. Ends every session; links that were mailed before are void.
    pub password: Option<PasswordHash>,
    /// All roles. Other ones than before end every session, as tokens carry roles.
    pub roles: Option<Vec<String>>,
    /// Whether sessions outlive a change of roles; their tokens keep the old ones until they are
    /// refreshed.
    pub keep_sessions: bool,
    /// Merged into `app_metadata` at the top level; `null` deletes a key.
    pub app_metadata: Option<JsonObject>,
    /// Merged into `user_metadata` likewise.
    pub user_metadata: Option<JsonObject>,
    /// Longest metadata of either kind after the merge, as compact JSON; `None` = any.
    pub max_metadata_bytes: Option<usize>,
    /// Whether logins are refused.
    pub ban: Option<Ban>,
}

/// Whether logins are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ban {
    /// Before this time. Ends every session.
    Until(Timestamp),
    /// No more.
    Lifted,
}

/// How a change of an account ended. Nothing was stored but with [`ChangeUser::Done`].
#[derive(Clone, Debug, PartialEq)]
pub enum ChangeUser {
    /// What differs is stored, with an event for each kind of change.
    Done {
        /// The user as of now.
        user: Box<User>,
        /// The sessions that it ended.
        ended: Vec<EndedSession>,
    },
    /// No such user, or one that was deleted.
    NotFound,
    /// Another account has the address.
    EmailTaken,
    /// Metadata would be too long.
    MetadataTooLarge,
}

impl ChangeUser {
    /// The user and the ended sessions. `None`: there is no such user; the other refusals are of
    /// changes that whoever calls this did not ask for.
    fn done(self) -> Option<(User, Vec<EndedSession>)> {
        match self {
            Self::Done { user, ended } => Some((*user, ended)),
            Self::NotFound | Self::EmailTaken | Self::MetadataTooLarge => None,
        }
    }
}

/// Some of the accounts.
#[derive(Clone, Debug, PartialEq)]
pub struct UserPage {
    /// Those of the page, the newest first.
    pub users: Vec<User>,
    /// How many there are on all pages.
    pub total: u64,
}

/// What becomes of a deleted account's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It goes.
    Hard,
    /// It stays with its id and nothing else, so that nobody is ever given the id again: whatever
    /// applications stored for it has no new owner.
    Soft,
}

/// Administration of accounts.
#[expect(clippy::missing_errors_doc, reason = "the same for all methods: see Store")]
impl Store {
    /// At most `limit` users, the newest first, after so many; those whose address or id contains
    /// `filter`, if given.
    pub async fn user_page(
        &self,
        filter: Option<&str>,
        after: u64,
        limit: u32,
    ) -> Result<UserPage, StoreError> {
        either!(self, backend => backend.user_page(filter, after, limit).await)
    }

    /// Changes an account. Time, origin and actor of the events are those of `event`; what happened
    /// to whom is filled in. What is as it was has no event.
    pub async fn change_user(
        &self,
        user: &UserId,
        change: &UserChange,
        now: Timestamp,
        event: &Event,
    ) -> Result<ChangeUser, StoreError> {
        either!(self, backend => backend.change_user(user, change, now, event).await)
    }

    /// Replaces the roles; they are stored sorted, without repeats. Sessions go on. `None` = no such
    /// user.
    pub async fn set_roles(
        &self,
        user: &UserId,
        roles: &[String],
        now: Timestamp,
        event: &Event,
    ) -> Result<Option<User>, StoreError> {
        let roles = Some(roles.to_vec());
        let change = UserChange { roles, keep_sessions: true, ..UserChange::default() };
        let changed = self.change_user(user, &change, now, event).await?;
        Ok(changed.done().map(|(user, _)| user))
    }

    /// Marks the address as proved; the first time counts. `None` = no such user.
    pub async fn confirm_email(
        &self,
        user: &UserId,
        now: Timestamp,
        event: &Event,
    ) -> Result<Option<User>, StoreError> {
        let change = UserChange { confirm_email: true, ..UserChange::default() };
        let changed = self.change_user(user, &change, now, event).await?;
        Ok(changed.done().map(|(user, _)| user))
    }

    /// Refuses logins before `until` and ends every session; a login that runs at the same time is
    /// refused or ended. `None` = no such user.
    pub async fn disable(
        &self,
        user: &UserId,
        until: Timestamp,
        now: Timestamp,
        event: &Event,
    ) -> Result<Option<Vec<EndedSession>>, StoreError> {
        let change = UserChange { ban: Some(Ban::Until(until)), ..UserChange::default() };
        let changed = self.change_user(user, &change, now, event).await?;
        Ok(changed.done().map(|(_, ended)| ended))
    }

    /// Allows logins again. `None` = no such user.
    pub async fn enable(
        &self,
        user: &UserId,
        now: Timestamp,
        event: &Event,
    ) -> Result<Option<User>, StoreError> {
        let change = UserChange { ban: Some(Ban::Lifted), ..UserChange::default() };
        let changed = self.change_user(user, &change, now, event).await?;
        Ok(changed.done().map(|(user, _)| user))
    }

    /// Deletes the account. Events keep a pseudonym, see [`Store::erase`]; the address is free again.
    /// `None` = no such user; of a soft deletion also one that was deleted before.
    pub async fn delete_user(
        &self,
        user: &UserId,
        deletion: Deletion,
        now: Timestamp,
        event: &Event,
    ) -> Result<Option<Vec<EndedSession>>, StoreError> {
        either!(self, backend => backend.delete_user(user, deletion, now, event).await)
    }
}
