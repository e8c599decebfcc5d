//! What a session is begun with, and what its owner is handed.

use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::{Accounts, Keeper, Origin, unissued};
use crate::auth::error::AuthError;
use crate::auth::shapes::Tokens;
use crate::clock::random_bytes;
use crate::config;
use crate::identity::Verifier;
use crate::identity::keys::Signer;
use crate::identity::refresh::RefreshToken;
use crate::identity::token::{Extent, IssueOptions, fits, issue};
use crate::model::{AuthMethod, Proof, Session, SessionId, User, UserId};
use crate::store;

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
    /// When the refresh token is of no use any more, if it is not traded before.
    pub refresh_ends: Timestamp,
}

impl Accounts {
    /// A session to be stored, and its first refresh token.
    pub(super) fn new_login(
        &self,
        user_id: &UserId,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<(store::NewLogin, RefreshToken), AuthError> {
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
            factor_id: None,
            ended: None,
        };
        let login = store::NewLogin {
            session,
            refresh: refresh_token.digest(),
            clears: None,
            max_sessions: self.max_sessions(),
            fit: self.fit(origin, now)?,
        };
        Ok((login, refresh_token))
    }

    /// Judges whether [`Self::issued`] will find room in an access token for what there is to say,
    /// before the session is stored.
    pub(super) fn fit(&self, origin: &Origin, now: Timestamp) -> Result<store::Fit, AuthError> {
        let verifier = self.verifier.load_full();
        signer(&verifier, now)?;
        let (tokens, extent) = (self.tokens.clone(), extent(origin));
        Ok(store::Fit::new(move |user, session| {
            let options = options(&tokens, extent);
            // A key that is gone meanwhile is no matter of size.
            signer(&verifier, now).map_or(true, |signer| fits(signer, user, session, &options, now))
        }))
    }

    /// How many sessions a user may have; the oldest end. `None` = any number.
    pub(super) fn max_sessions(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.sessions.load().max_per_user)
    }

    /// The `exp` of an access token issued at `now`, which counts in whole seconds.
    pub(super) fn access_expires_at(&self, now: Timestamp) -> Timestamp {
        let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
        later(whole, Duration::from_secs(self.tokens.access_lifetime.0.as_secs()))
    }

    pub(super) fn issued(
        &self,
        user: User,
        session: &Session,
        refresh_token: &RefreshToken,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<Issued, AuthError> {
        let verifier = self.verifier.load();
        let signer = signer(&verifier, now)?;
        let options = options(&self.tokens, extent(origin));
        let access = issue(signer, &user, session, &options, now)
            .map_err(|error| unissued(error, user.id.as_str()))?;
        let tokens = Tokens {
            access_token: access.token,
            expires_at: access.expires_at,
            refresh_token: refresh_token.expose(),
        };
        let refresh_ends = later(now, self.tokens.refresh_idle.0).min(session.expires_at);
        Ok(Issued { tokens, user, session_id: session.id, at: now, refresh_ends })
    }
}

fn signer(verifier: &Verifier, now: Timestamp) -> Result<&Signer, AuthError> {
    // Between the end of a key in an emergency and the first token of the next one.
    verifier.keys().signer(now).ok_or_else(|| AuthError::Unavailable {
        retry_after: Duration::from_secs(1),
        source: "no signing key is active".into(),
    })
}

fn extent(origin: &Origin) -> Extent {
    match origin.keeper {
        Keeper::Client => Extent::Whole,
        Keeper::Browser => Extent::ForCookie,
    }
}

fn options(tokens: &config::Tokens, extent: Extent) -> IssueOptions<'_> {
    IssueOptions {
        issuer: &tokens.issuer,
        audience: &tokens.audience,
        lifetime: tokens.access_lifetime.0,
        jti: random_uuid(),
        extent,
    }
}

pub(super) fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Near a credential, so random and without the time (RFC 9562 §5.4).
pub(super) fn random_uuid() -> Uuid {
    uuid::Builder::from_random_bytes(random_bytes()).into_uuid()
}
