//! What can be done with an account: sign up, log in, refresh, log out, look, change. Knows
//! neither HTTP nor SQL; inputs are valid when they arrive.
//!
//! Two orders hold everywhere. A refused sign-up, login or password change is stored before it is
//! answered: when that fails the answer is "unavailable", never a refusal nobody can look up, nor
//! a hint that the password was right. And sessions that were ended are refused by every worker of
//! this process before the caller hears of it.
//!
//! The futures must be driven to their end: whoever calls from a connection that may go away puts
//! them into a task of their own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::error::AuthError;
use super::input::{self, InputError, MAX_METADATA_BYTES};
use super::password::{Hasher, Verdict};
use super::policy::Policy;
use super::shapes::Tokens;
use crate::clock::{Clock, random_bytes};
use crate::config;
use crate::identity::refresh::RefreshToken;
use crate::identity::token::{IssueOptions, issue};
use crate::identity::{Revocations, Verifier};
use crate::model::{
    Account, AuthMethod, Email, EndReason, EndedSession, Event, EventKind, JsonObject, Outcome,
    PasswordHash, Proof, Session, SessionId, StoredEvent, User, UserId, clean_text, uuid_v7,
};
use crate::store::{self, Store, StoreError};

/// For how long a traded refresh token gets the same successor again (contract §5): covers a lost
/// answer and two tabs that refresh at once, and is too short to be of use to a thief.
const REUSE_WINDOW: Duration = Duration::from_secs(10);

/// A login younger than this proves the password well enough to change it.
const RECENT_LOGIN: Duration = Duration::from_hours(24);

/// Clients that are told to come back later wait this long: store calls give up after two
/// seconds, so sooner would only add to the queue.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Longest texts of a client that an event keeps, in bytes.
const MAX_EMAIL: usize = 254;
const MAX_USER_AGENT: usize = 256;
const MAX_REQUEST_ID: usize = 128;

/// The service behind the account endpoints, made of what it works with.
pub struct Accounts {
    /// Where accounts live.
    pub store: Arc<Store>,
    /// Where passwords are hashed.
    pub hasher: Arc<Hasher>,
    /// Which passwords may be chosen.
    pub policy: Policy,
    /// What tokens say and for how long.
    pub tokens: config::Tokens,
    /// The keys to sign and to check with; replaced when they rotate.
    pub verifier: Arc<ArcSwap<Verifier>>,
    /// The sessions that are refused.
    pub revocations: Arc<Revocations>,
    /// The time.
    pub clock: Clock,
}

impl Accounts {
    /// Makes an account and logs it in. Its address is not confirmed by that.
    ///
    /// # Errors
    /// [`AuthError::UserAlreadyExists`], and what hashing and storing may meet.
    pub async fn sign_up(&self, new: input::SignUp, origin: &Origin) -> Result<Issued, AuthError> {
        let input::SignUp { email, password, user_metadata } = new;
        // Saves the hash. Whether the address is free is decided when the account is stored.
        if self.store.account_by_email(&email).await.map_err(failed)?.is_some() {
            return self.refuse_taken_address(&email, origin).await;
        }
        let password_hash = Some(self.hasher.hash(password).await?);
        let now = self.clock.now();
        let user = User {
            id: UserId::generate(now),
            email: email.address().to_owned(),
            email_confirmed_at: None,
            new_email: None,
            invited_at: None,
            roles: Vec::new(),
            app_metadata: JsonObject::new(),
            user_metadata,
            last_sign_in_at: Some(now),
            disabled_until: None,
            created_at: now,
            updated_at: now,
        };
        let (login, refresh_token) = self.new_login(&user.id, origin, now);
        let event = Event {
            user_id: Some(user.id.clone()),
            email: Some(clean_text(email.address().as_bytes(), MAX_EMAIL)),
            session_id: Some(login.session.id),
            ..origin.event(EventKind::Signup, Outcome::Success, now)
        };
        let account = store::NewAccount { user, email, password_hash };
        match self.store.sign_up(&account, Some(&login), &event).await.map_err(failed)? {
            store::SignUp::Created => {
                self.issued(account.user, &login.session, &refresh_token, now)
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

    /// Checks a password and begins a session.
    ///
    /// # Errors
    /// [`AuthError::InvalidCredentials`] for an unknown address, a wrong password and a disabled
    /// account alike, after one hash in each case; and what hashing and storing may meet.
    pub async fn log_in(&self, tried: input::LogIn, origin: &Origin) -> Result<Issued, AuthError> {
        let input::LogIn { email, password } = tried;
        let account = self.store.account_by_email(&email).await.map_err(failed)?;
        let stored = account.as_ref().and_then(|account| account.password_hash.clone());
        let verdict = self.hasher.verify(stored.clone(), password).await?;
        if let (Some(Account { user, .. }), Verdict::Unusable { why }) = (&account, &verdict) {
            tracing::warn!(user_id = %user.id, why, "a stored password hash cannot be checked");
        }
        let now = self.clock.now();
        let event = Event {
            user_id: account.as_ref().map(|account| account.user.id.clone()),
            email: Some(clean_text(email.address().as_bytes(), MAX_EMAIL)),
            ..origin.event(EventKind::Login, Outcome::Success, now)
        };
        let (user_id, checked, rehash) = match (account, stored, verdict) {
            (None, ..) => return self.refuse_login(event, "unknown_user").await,
            (Some(Account { user, .. }), Some(checked), Verdict::Right { rehash }) => {
                if user.is_disabled(now) {
                    return self.refuse_login(event, "user_disabled").await;
                }
                (user.id, checked, rehash)
            }
            (Some(_), ..) => return self.refuse_login(event, "wrong_password").await,
        };
        let (login, refresh_token) = self.new_login(&user_id, origin, now);
        let event = Event { session_id: Some(login.session.id), ..event };
        let rehash = rehash.as_ref();
        match self.store.log_in(&user_id, &checked, rehash, &login, &event).await.map_err(failed)? {
            store::LogIn::Done(user) => self.issued(user, &login.session, &refresh_token, now),
            store::LogIn::Refused => {
                let event = Event { session_id: None, ..event };
                self.refuse_login(event, "account_changed").await
            }
        }
    }

    async fn refuse_login<T>(&self, event: Event, reason: &str) -> Result<T, AuthError> {
        let event = Event {
            kind: EventKind::LoginFailed,
            outcome: Outcome::Failure,
            reason: Some(reason.to_owned()),
            ..event
        };
        self.store.record(&[event]).await.map_err(failed)?;
        Err(AuthError::InvalidCredentials)
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

    /// Trades a refresh token for its successor and a fresh access token.
    ///
    /// # Errors
    /// [`AuthError::RefreshTokenNotFound`], [`AuthError::RefreshTokenAlreadyUsed`],
    /// [`AuthError::SessionExpired`], and what storing may meet.
    pub async fn refresh(
        &self,
        shown: &input::Refresh,
        origin: &Origin,
    ) -> Result<Issued, AuthError> {
        let shown = RefreshToken::parse(shown.refresh_token.expose_secret())
            .ok_or(AuthError::RefreshTokenNotFound)?;
        let now = self.clock.now();
        let successor = RefreshToken::from_random(random_bytes());
        let rotation = store::Rotation {
            shown: shown.digest(),
            successor: successor.digest(),
            sealed_successor: shown.seal(&successor),
            now,
            reuse_window: REUSE_WINDOW,
            idle: self.tokens.refresh_idle.0,
            access_expires_at: self.access_expires_at(now),
            event: origin.event(EventKind::TokenRefreshed, Outcome::Success, now),
        };
        match self.store.refresh(&rotation).await.map_err(failed)? {
            store::Refresh::Rotated { user, session } => {
                self.issued(user, &session, &successor, now)
            }
            store::Refresh::Repeated { user, session, sealed_successor } => {
                let successor = shown.unseal(&sealed_successor).ok_or_else(|| {
                    AuthError::Internal("a sealed refresh token does not open".into())
                })?;
                self.issued(user, &session, &successor, now)
            }
            store::Refresh::NotFound => Err(AuthError::RefreshTokenNotFound),
            store::Refresh::Reused { session_id, .. } => {
                // No access token of the session expires later than one issued now would.
                let until = self.access_expires_at(now);
                self.revocations.end([EndedSession { id: session_id, until }]);
                Err(AuthError::RefreshTokenAlreadyUsed)
            }
            store::Refresh::Ended(EndReason::RefreshReuse) => {
                Err(AuthError::RefreshTokenAlreadyUsed)
            }
            store::Refresh::Ended(_) | store::Refresh::Expired | store::Refresh::Disabled => {
                Err(AuthError::SessionExpired)
            }
        }
    }

    /// Ends sessions of the bearer. When this returns, no worker accepts their tokens.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn log_out(
        &self,
        bearer: &Bearer,
        scope: LogoutScope,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        let sessions = match scope {
            LogoutScope::Local => store::Sessions::One(bearer.session_id),
            LogoutScope::Others => store::Sessions::Others(bearer.session_id),
            LogoutScope::Global => store::Sessions::All,
        };
        self.end(bearer, sessions, bearer.session_id, Some(scope.as_str()), origin).await?;
        if scope != LogoutScope::Others {
            // Another gateway may have ended it a moment ago, so that nothing was left to end here
            // and nobody here has read of it yet.
            let now = self.clock.now();
            let until = now.checked_add(self.tokens.access_lifetime.0).unwrap_or(Timestamp::MAX);
            self.revocations.end([EndedSession { id: bearer.session_id, until }]);
        }
        Ok(())
    }

    /// Ends one session of the bearer.
    ///
    /// # Errors
    /// [`AuthError::UnknownSession`] unless it runs and is the bearer's; what storing may meet.
    pub async fn end_session(
        &self,
        bearer: &Bearer,
        id: SessionId,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        match self.end(bearer, store::Sessions::One(id), id, None, origin).await? {
            0 => Err(AuthError::UnknownSession),
            _ => Ok(()),
        }
    }

    async fn end(
        &self,
        bearer: &Bearer,
        sessions: store::Sessions,
        named: SessionId,
        reason: Option<&str>,
        origin: &Origin,
    ) -> Result<usize, AuthError> {
        let now = self.clock.now();
        let event = Event {
            user_id: Some(bearer.user_id.clone()),
            session_id: Some(named),
            reason: reason.map(str::to_owned),
            ..origin.event(EventKind::Logout, Outcome::Success, now)
        };
        let ended = self
            .store
            .end_sessions(&bearer.user_id, sessions, EndReason::Logout, now, &event)
            .await
            .map_err(failed)?;
        let count = ended.len();
        self.revocations.end(ended);
        Ok(count)
    }

    /// The bearer's account, as it is now.
    ///
    /// # Errors
    /// [`AuthError::SessionNotFound`] when it is gone; what storing may meet.
    pub async fn user(&self, bearer: &Bearer) -> Result<User, AuthError> {
        let user = self.store.user(&bearer.user_id).await.map_err(failed)?;
        user.ok_or(AuthError::SessionNotFound)
    }

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
            nonce: None,
            new_email: None,
            parcels: Vec::new(),
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
            store::UpdateUser::PasswordChangedMeanwhile | store::UpdateUser::NonceRefused => {
                Err(AuthError::ReauthenticationNeeded)
            }
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

    /// A session to be stored, and its first refresh token.
    fn new_login(
        &self,
        user_id: &UserId,
        origin: &Origin,
        now: Timestamp,
    ) -> (store::NewLogin, RefreshToken) {
        let refresh_token = RefreshToken::from_random(random_bytes());
        let session = Session {
            id: random_uuid(),
            user_id: user_id.clone(),
            created_at: now,
            last_seen_at: now,
            expires_at: later(now, self.tokens.refresh_lifetime.0),
            access_expires_at: self.access_expires_at(now),
            address: Some(origin.address),
            user_agent: origin.user_agent.clone(),
            methods: vec![Proof::new(AuthMethod::Password, now)],
            ended: None,
        };
        (store::NewLogin { session, refresh: refresh_token.digest() }, refresh_token)
    }

    /// The `exp` of an access token issued at `now`, which counts in whole seconds.
    fn access_expires_at(&self, now: Timestamp) -> Timestamp {
        let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
        later(whole, Duration::from_secs(self.tokens.access_lifetime.0.as_secs()))
    }

    fn issued(
        &self,
        user: User,
        session: &Session,
        refresh_token: &RefreshToken,
        now: Timestamp,
    ) -> Result<Issued, AuthError> {
        let verifier = self.verifier.load();
        let signer = verifier.keys().signer(now);
        let signer =
            signer.ok_or_else(|| AuthError::Internal("no signing key is active".into()))?;
        let options = IssueOptions {
            issuer: &self.tokens.issuer,
            audience: &self.tokens.audience,
            lifetime: self.tokens.access_lifetime.0,
            jti: random_uuid(),
        };
        let access = issue(signer, &user, session, &options, now)
            .map_err(|error| AuthError::Internal(error.into()))?;
        let tokens = Tokens {
            access_token: access.token,
            expires_at: access.expires_at,
            refresh_token: refresh_token.expose(),
        };
        Ok(Issued { tokens, user, session_id: session.id, at: now })
    }
}

/// A session that begins or goes on, for its owner.
#[derive(Debug)]
pub struct Issued {
    /// What to hand out.
    pub tokens: Tokens,
    /// Whose session it is.
    pub user: User,
    /// The session.
    pub session_id: SessionId,
    /// When the tokens were made.
    pub at: Timestamp,
}

/// Who an access token of ours speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The user.
    pub user_id: UserId,
    /// The session the token belongs to.
    pub session_id: SessionId,
}

/// Which sessions a logout ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogoutScope {
    /// The one that asks.
    Local,
    /// All but the one that asks.
    Others,
    /// All.
    Global,
}

impl LogoutScope {
    /// The word in the query and in the event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Others => "others",
            Self::Global => "global",
        }
    }

    /// Reads the word in the query.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Local, Self::Others, Self::Global].into_iter().find(|scope| scope.as_str() == word)
    }
}

/// Where a request came from, fit to be stored.
#[derive(Clone, Debug)]
pub struct Origin {
    address: IpAddr,
    user_agent: Option<String>,
    request_id: String,
}

impl Origin {
    /// Cleans what the client says of itself.
    pub fn new(address: IpAddr, user_agent: Option<&[u8]>, request_id: &str) -> Self {
        Self {
            address,
            user_agent: user_agent.map(|text| clean_text(text, MAX_USER_AGENT)),
            request_id: clean_text(request_id.as_bytes(), MAX_REQUEST_ID),
        }
    }

    fn event(&self, kind: EventKind, outcome: Outcome, at: Timestamp) -> Event {
        Event {
            id: uuid_v7(at),
            at,
            kind,
            outcome,
            reason: None,
            actor: None,
            user_id: None,
            email: None,
            session_id: None,
            address: Some(self.address),
            user_agent: self.user_agent.clone(),
            request_id: Some(self.request_id.clone()),
        }
    }
}

fn failed(error: StoreError) -> AuthError {
    if error.is_unavailable() {
        AuthError::Unavailable { retry_after: RETRY_AFTER, source: error.into() }
    } else {
        AuthError::Internal(error.into())
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Near a credential, so random and without the time (RFC 9562 §5.4).
fn random_uuid() -> Uuid {
    uuid::Builder::from_random_bytes(random_bytes()).into_uuid()
}
