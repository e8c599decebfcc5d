//! What administrators do: users, their links, sessions, factors and API keys, the record, signing
//! keys, limits.
//!
//! An administrator is a user with the role `admin` as it is stored now, in a session that has shown
//! the second factor if there is one; or a program with an API key of such a user that has the scope
//! `admin`. Every act is stored as an event with its actor, in the transaction that makes it, or
//! before it is answered.

mod activity;
mod api_keys;
mod keys;
mod limits;
mod links;
mod users;

use std::sync::Arc;

use jiff::Timestamp;

use super::{Accounts, Bearer, Origin, failed};
use crate::auth::error::AuthError;
use crate::identity::{Identity, Rejection};
use crate::model::{Event, EventKind, Outcome, User, UserId};

pub use self::keys::MadeKey;
pub use self::limits::LimitState;
pub use self::links::{LinkMaker, MadeLink};

/// The role of administrators, and the scope of their API keys.
const ADMIN: &str = "admin";

/// Who asks to act as an administrator.
pub enum Asking {
    /// A user, in a session.
    Session(Bearer),
    /// A program, by an API key or a token for one.
    Program(Arc<Identity>),
}

/// Who may act as an administrator, and from where. Made by [`Accounts::administrator`] alone.
pub struct Administrator {
    id: UserId,
    origin: Origin,
}

impl Administrator {
    /// The user.
    pub fn id(&self) -> &UserId {
        &self.id
    }

    /// Where the request came from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The event of an act on somebody's account, or on nobody's.
    pub(super) fn event(&self, kind: EventKind, user: Option<&UserId>, now: Timestamp) -> Event {
        Event {
            actor: Some(self.id.to_string()),
            user_id: user.cloned(),
            ..self.origin.event(kind, Outcome::Success, now)
        }
    }
}

impl Accounts {
    /// Who shows an API key, or a token for one, that is accepted.
    ///
    /// # Errors
    /// [`AuthError::InvalidApiKey`].
    pub fn program(&self, token: &str) -> Result<Arc<Identity>, AuthError> {
        self.access_token(token, self.clock.now())
            .filter(|identity| identity.machine.is_some())
            .ok_or(AuthError::InvalidApiKey)
    }

    /// Whether this may be done as an administrator: by the roles as they are now, whatever a token
    /// says, which may be as old as the token.
    ///
    /// # Errors
    /// [`AuthError::NotAdmin`], [`AuthError::InsufficientAal`], [`AuthError::SessionNotFound`]; what
    /// storing may meet.
    pub async fn administrator(
        &self,
        asking: Asking,
        origin: Origin,
    ) -> Result<Administrator, AuthError> {
        let id = match &asking {
            Asking::Session(bearer) => bearer.user_id.clone(),
            Asking::Program(identity) => {
                let machine = identity.machine.as_ref();
                if !machine.is_some_and(|machine| machine.scopes.iter().any(|s| s == ADMIN)) {
                    return Err(AuthError::NotAdmin);
                }
                let id = identity.subject.parse();
                id.map_err(|_| AuthError::BadJwt(Rejection::Claim("sub")))?
            }
        };
        let user = self.store.user(&id).await.map_err(failed)?;
        let user = user.ok_or(AuthError::SessionNotFound)?;
        let is_admin = user.roles.iter().any(|role| role == ADMIN);
        if !is_admin || user.is_disabled(self.clock.now()) {
            return Err(AuthError::NotAdmin);
        }
        match &asking {
            Asking::Session(bearer) if user.has_second_factor() => {
                self.second_factor_was_shown(bearer, &user).await?;
            }
            Asking::Session(bearer) => drop(self.running_session(bearer).await?),
            Asking::Program(_) => {}
        }
        Ok(Administrator { id, origin })
    }

    /// The user with this id.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`]; what storing may meet.
    pub async fn any_user(&self, id: &UserId) -> Result<User, AuthError> {
        self.store.user(id).await.map_err(failed)?.ok_or(AuthError::UserNotFound)
    }
}
