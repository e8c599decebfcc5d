//! What can be done with an account: sign up, log in, refresh, log out, look, change. Knows
//! neither HTTP (but for the question that `hook` asks) nor SQL; inputs are valid when they arrive.
//!
//! Two orders hold everywhere. A refused sign-up, login or password change is stored before it is
//! answered: when that fails the answer is "unavailable", never a refusal nobody can look up, nor
//! a hint that the password was right. And sessions that were ended are refused by every worker of
//! this process before the caller hears of it.
//!
//! The futures must be driven to their end: whoever calls from a connection that may go away puts
//! them into a task of their own.

pub(super) mod admin;
mod api_keys;
mod clients;
mod data;
mod delivery;
mod factors;
mod hook;
mod letters;
mod links;
mod log_in;
mod log_out;
mod origin;
mod refresh;
mod session;
mod sign_up;
mod update;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use uuid::Uuid;

use super::error::AuthError;
use super::password::Hasher;
use super::policy::Policy;
use super::redirects::Redirects;
use crate::clock::Clock;
use crate::config;
use crate::identity::token::IssueError;
use crate::identity::{ApiKeys, Revocations, Verifier};
use crate::model::{
    Aal, Event, EventKind, Outcome, Session, SessionId, StoredEvent, User, UserId, clean_text,
};
use crate::store::{Store, StoreError};

pub use admin::{Administrator, Asking, LimitState, LinkMaker, MadeKey, MadeLink};
pub use clients::{Active, ClientToken};
pub use data::UserData;
pub use delivery::Delivery;
pub(crate) use delivery::{letter_event, word_of};
pub use factors::{Challenged, Enrolled, Enrolment};
pub use hook::LoginHook;
pub use letters::Letters;
pub use links::Wish;
pub use log_in::Unproved;
pub use log_out::LogoutScope;
pub use origin::{Keeper, Origin};
pub use session::Issued;
pub use verify::Opened;

/// Clients that are told to come back later wait this long: store calls give up after two
/// seconds, so sooner would only add to the queue.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Longest address that an event keeps, in bytes.
const MAX_EMAIL: usize = 254;

/// The service behind the account endpoints, made of what it works with.
pub struct Accounts {
    /// Where accounts live.
    pub store: Arc<Store>,
    /// Where passwords are hashed.
    pub hasher: Arc<Hasher>,
    /// Which passwords may be chosen.
    pub policy: Arc<Policy>,
    /// What tokens say and for how long.
    pub tokens: config::Tokens,
    /// The keys to sign and to check with; replaced when they rotate.
    pub verifier: Arc<ArcSwap<Verifier>>,
    /// The sessions that are refused.
    pub revocations: Arc<Revocations>,
    /// The API keys that are good.
    pub api_keys: Arc<ApiKeys>,
    /// Who is asked about passwords that are not known here; a reload replaces it.
    pub login_hook: ArcSwapOption<LoginHook>,
    /// Letters to users.
    pub letters: Letters,
    /// Where links may lead.
    pub redirects: Redirects,
    /// What `[sessions]` says; a reload replaces it.
    pub sessions: ArcSwap<config::Sessions>,
    /// What `[links]` says of links.
    pub links: config::Links,
    /// The time.
    pub clock: Clock,
}

impl Accounts {
    /// Checks something against the rule for passwords, beside the async threads if a file is read.
    ///
    /// # Errors
    /// [`AuthError::Busy`].
    pub async fn by_policy<T: Send + 'static>(
        &self,
        check: impl FnOnce(&Policy) -> T + Send + 'static,
    ) -> Result<T, AuthError> {
        if !self.policy.reads_a_file() {
            return Ok(check(&self.policy));
        }
        let policy = Arc::clone(&self.policy);
        Ok(self.hasher.aside(move || check(&policy)).await?)
    }

    /// The bearer's account, as it is now.
    ///
    /// # Errors
    /// [`AuthError::SessionNotFound`] when it is gone; what storing may meet.
    pub async fn user(&self, bearer: &Bearer) -> Result<User, AuthError> {
        let user = self.store.user(&bearer.user_id).await.map_err(failed)?;
        user.filter(|user| user.deleted_at.is_none()).ok_or(AuthError::SessionNotFound)
    }

    /// The bearer's session as it is stored: another gateway may have ended it a moment ago, of which
    /// this one has not heard. For whatever outlives the session.
    ///
    /// # Errors
    /// [`AuthError::SessionNotFound`]; what storing may meet.
    pub(super) async fn running_session(&self, bearer: &Bearer) -> Result<Session, AuthError> {
        let session = self.store.session(&bearer.session_id).await.map_err(failed)?;
        session.filter(|session| session.ended.is_none()).ok_or(AuthError::SessionNotFound)
    }

    /// The bearer's running sessions.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn sessions(&self, bearer: &Bearer) -> Result<Vec<Session>, AuthError> {
        self.store.sessions_of(&bearer.user_id, self.clock.now()).await.map_err(failed)
    }

    /// The bearer's events, newest first, from before a place in that order.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn events(
        &self,
        bearer: &Bearer,
        limit: u32,
        before: Option<(Timestamp, Uuid)>,
    ) -> Result<Vec<StoredEvent>, AuthError> {
        self.store.events_of_user(&bearer.user_id, limit, before).await.map_err(failed)
    }

    /// Stores that a sign-up or a login was refused for its form: [`EventKind::SignupFailed`] or
    /// [`EventKind::LoginFailed`], with the address that was tried if there was one.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn record_refusal(
        &self,
        kind: EventKind,
        email: Option<&str>,
        reason: &str,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        let event = Event {
            email: email.map(|email| clean_text(email.as_bytes(), MAX_EMAIL)),
            reason: Some(reason.to_owned()),
            ..origin.event(kind, Outcome::Failure, self.clock.now())
        };
        self.store.record(&[event]).await.map_err(failed)
    }
}

/// Who an access token of ours speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The user.
    pub user_id: UserId,
    /// The session the token belongs to.
    pub session_id: SessionId,
    /// How well the user was authenticated when the token was made.
    pub aal: Aal,
}

fn failed(error: StoreError) -> AuthError {
    match error {
        StoreError::Unfit { user } => too_large(user.as_str()),
        error if error.is_unavailable() => {
            AuthError::Unavailable { retry_after: RETRY_AFTER, source: error.into() }
        }
        error => AuthError::Internal(error.into()),
    }
}

fn unissued(error: IssueError, user_id: &str) -> AuthError {
    match error {
        IssueError::TooLong(_) => too_large(user_id),
        IssueError::Sign(_) => AuthError::Internal(error.into()),
    }
}

/// Only an operator can mend it, who may see nothing but the log.
fn too_large(user_id: &str) -> AuthError {
    tracing::warn!(
        user_id,
        "a user has more roles or metadata than fit into an access token, and is handed none: \
         take some away"
    );
    AuthError::TokenTooLarge
}
