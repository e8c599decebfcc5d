//! Programs: tokens for API keys, and what tokens are worth to those who are shown them.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::session::{later, random_uuid};
use super::{Accounts, Origin, failed, unissued};
use crate::auth::error::AuthError;
use crate::identity::api_keys::is_api_key;
use crate::identity::refresh::RefreshToken;
use crate::identity::token::{Extent, IssueOptions, IssuedToken, issue_to_client};
use crate::identity::{Identity, IssuerSet};
use crate::model::{EndedSession, Event, EventKind, Outcome};
use crate::store::KnownToken;

/// Longest life of a program's token. What the key's user may do is written into it, and a program
/// has no trouble getting another.
const LIFETIME: Duration = Duration::from_hours(1);

/// A token for a program.
#[derive(Debug)]
pub struct ClientToken {
    /// The token.
    pub access: IssuedToken,
    /// How long it lives, in seconds.
    pub expires_in: i64,
    /// What it is good for: words with spaces between.
    pub scope: String,
}

/// What a token that is good says.
#[derive(Debug)]
pub enum Active {
    /// An access token, or an API key itself.
    Access(Arc<Identity>),
    /// A refresh token, and when it ends unless it is used.
    Refresh(Box<KnownToken>, Timestamp),
}

impl Accounts {
    /// Who shows an API key as `client_id` and `client_secret`: the key's prefix, and all of it.
    pub fn client(&self, id: &str, secret: &str) -> Option<Arc<Identity>> {
        let identity = self.client_by_key(secret)?;
        identity.machine.as_ref().is_some_and(|machine| *machine.client == *id).then_some(identity)
    }

    /// Who shows an API key.
    pub fn client_by_key(&self, key: &str) -> Option<Arc<Identity>> {
        if !is_api_key(key.as_bytes()) {
            return None;
        }
        self.api_keys.verify(key.as_bytes(), self.clock.now()).ok()
    }

    /// Makes a token for a program with the scopes that it asks for, or all of its key's. `None`: the
    /// key has not all of them.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn client_token(
        &self,
        key: &Identity,
        asked: Option<&str>,
        origin: &Origin,
    ) -> Result<Option<ClientToken>, AuthError> {
        let has = key.machine.as_ref().map_or(&[][..], |machine| &machine.scopes);
        let mut scopes: Vec<String> = match asked {
            None => has.to_vec(),
            Some(asked) => asked.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
        };
        scopes.sort_unstable();
        scopes.dedup();
        if !scopes.iter().all(|scope| has.contains(scope)) {
            self.refuse_client(Some(key), "invalid_scope", origin).await?;
            return Ok(None);
        }
        let now = self.clock.now();
        let verifier = self.verifier.load_full();
        let signer = verifier.keys().signer(now);
        let signer =
            signer.ok_or_else(|| AuthError::Internal("no signing key is active".into()))?;
        let options = IssueOptions {
            issuer: &self.tokens.issuer,
            audience: &self.tokens.audience,
            lifetime: self.tokens.access_lifetime.0.min(LIFETIME),
            jti: random_uuid(),
            extent: Extent::Whole,
        };
        let access = issue_to_client(signer, key, &scopes, &options, now)
            .map_err(|error| unissued(error, &key.subject))?;
        let event = origin.event(EventKind::ClientTokenIssued, Outcome::Success, now);
        self.store.record(&[of_client(event, key)]).await.map_err(failed)?;
        let expires_in = access.expires_at.saturating_sub(now.as_second());
        Ok(Some(ClientToken { access, expires_in, scope: scopes.join(" ") }))
    }

    /// Stores that a program was refused a token.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn refuse_client(
        &self,
        key: Option<&Identity>,
        reason: &str,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        let now = self.clock.now();
        let event = Event {
            reason: Some(reason.to_owned()),
            ..origin.event(EventKind::ClientTokenRefused, Outcome::Failure, now)
        };
        let event = match key {
            Some(key) => of_client(event, key),
            None => event,
        };
        self.store.record(&[event]).await.map_err(failed)
    }

    /// What a token of ours is worth now (RFC 7662 §2.2): `None` = nothing, for whatever reason.
    ///
    /// # Errors
    /// What storing may meet.
    pub async fn introspect(&self, token: &str) -> Result<Option<Active>, AuthError> {
        let now = self.clock.now();
        if let Some(token) = RefreshToken::parse(token) {
            let known = self.store.refresh_token(token.digest()).await.map_err(failed)?;
            return Ok(known.and_then(|known| self.active_refresh(known, now)));
        }
        Ok(self.access_token(token, now).map(Active::Access))
    }

    /// Whether a refresh token would be traded; of one that was, nobody but its client needs to know.
    fn active_refresh(&self, known: KnownToken, now: Timestamp) -> Option<Active> {
        let session = &known.session;
        let ends = session.expires_at.min(later(session.last_seen_at, self.tokens.refresh_idle.0));
        let is_good =
            !known.used && session.ended.is_none() && now < ends && !known.user.is_disabled(now);
        is_good.then(|| Active::Refresh(Box::new(known), ends))
    }

    /// Who shows an access token of ours, or an API key, that is accepted and has not expired.
    pub(super) fn access_token(&self, token: &str, now: Timestamp) -> Option<Arc<Identity>> {
        let identity = self.client_by_key(token).or_else(|| {
            let verifier = self.verifier.load();
            let verified = verifier.verify(token.as_bytes(), IssuerSet::OURS, now.as_second());
            verified.ok().map(Arc::new)
        })?;
        let is_good = identity.expires_at > now.as_second()
            && !identity.revoked_by().is_some_and(|id| self.revocations.contains(&id))
            && self.api_keys.stand_behind(&identity, now);
        is_good.then_some(identity)
    }

    /// Ends what a program has shown: its token, or its API key. When this returns, no worker
    /// accepts it.
    pub(super) async fn revoke_client(
        &self,
        identity: &Identity,
        origin: &Origin,
    ) -> Result<(), AuthError> {
        let Some(machine) = &identity.machine else { return Ok(()) };
        let now = self.clock.now();
        if let Some(id) = machine.token {
            let until = Timestamp::from_second(identity.expires_at).unwrap_or(Timestamp::MAX);
            let event = origin.event(EventKind::ClientTokenRevoked, Outcome::Success, now);
            let ended = EndedSession { id, until };
            self.store.revoke_token(ended, &of_client(event, identity)).await.map_err(failed)?;
            self.revocations.end([ended]);
        } else if let Some(id) = machine.key_id {
            let event = Event {
                reason: Some(machine.client.to_string()),
                ..origin.event(EventKind::ApiKeyRevoked, Outcome::Success, now)
            };
            let event = of_client(event, identity);
            self.store.revoke_api_key(id, None, now, &event).await.map_err(failed)?;
            self.api_keys.revoke(id);
        }
        Ok(())
    }
}

/// The event of what a program does for its user.
fn of_client(event: Event, key: &Identity) -> Event {
    let client = key.machine.as_ref().map(|machine| format!("key:{}", machine.client));
    Event { user_id: key.subject.parse().ok(), actor: client, ..event }
}
