//! Tokens that one worker has verified: a signature is checked once, not once a request.
//!
//! What it may and may not do: it is keyed by the token's full text, compared in full, under a hash
//! with random keys; it holds successes only, within a fixed budget of memory; times, the route's
//! issuers and ended sessions are looked at on every hit, for a hit only ever answers the question
//! "is the signature good and are the claims well-formed?"; and it is emptied when the keys or the
//! configuration change. It belongs to one worker and takes no lock.

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};

use super::caller::{Identity, IssuerSet};
use super::rejection::Rejection;
use super::revocation::Revocations;
use super::token::Verifier;

/// Verified tokens of one worker.
pub struct TokenCache {
    entries: Cache<Token, Entry, Weight, ahash::RandomState, Lifecycle>,
    /// Whose judgements these are. Held, so that its address cannot be taken over by another.
    verifier: Option<Arc<Verifier>>,
}

type Lifecycle = DefaultLifecycle<Token, Entry>;

/// A token's text. Its hash is that of its end: the signature, which differs wherever anything
/// does. Two tokens are the same only when all of their text is.
#[derive(PartialEq, Eq)]
struct Token(Box<[u8]>);

/// The same, not kept.
#[derive(PartialEq, Eq)]
struct TokenText<'a>(&'a [u8]);

/// As much of a signature as tells tokens apart: 192 bits in base64.
const HASHED_BYTES: usize = 32;

impl Hash for TokenText<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0[self.0.len().saturating_sub(HASHED_BYTES)..]);
    }
}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        TokenText(&self.0).hash(state);
    }
}

impl quick_cache::Equivalent<Token> for TokenText<'_> {
    fn equivalent(&self, key: &Token) -> bool {
        self.0 == &*key.0
    }
}

struct Entry {
    identity: Arc<Identity>,
    /// The version of [`Revocations`] at which the session was last found alive; 0 = never looked.
    alive_at: Cell<u64>,
}

#[derive(Clone)]
struct Weight;

impl Weight {
    /// About what an entry takes beside the token's text: the identity with its header values.
    const OVERHEAD: u64 = 768;
}

impl Weighter<Token, Entry> for Weight {
    fn weight(&self, token: &Token, _: &Entry) -> u64 {
        Self::OVERHEAD + token.0.len() as u64
    }
}

impl TokenCache {
    /// Memory for one worker that holds some 5,000 tokens of usual length: enough for the users of
    /// a few minutes, and small beside the connections of as many users.
    pub const DEFAULT_BYTES: u64 = 8 << 20;

    /// An empty cache that takes about `bytes` when full.
    pub fn new(bytes: u64) -> Self {
        let estimate = usize::try_from(bytes / (2 * Weight::OVERHEAD)).unwrap_or(usize::MAX);
        let hasher = ahash::RandomState::new();
        let entries = Cache::with(estimate, bytes, Weight, hasher, DefaultLifecycle::default());
        Self { entries, verifier: None }
    }

    /// Judges `token` at `now` (Unix seconds) for a route that accepts `accepted`.
    ///
    /// # Errors
    /// Why the token is not believed.
    pub fn verify(
        &mut self,
        token: &[u8],
        accepted: IssuerSet,
        verifier: &Arc<Verifier>,
        revocations: &Revocations,
        now: i64,
    ) -> Result<Arc<Identity>, Rejection> {
        if !self.verifier.as_ref().is_some_and(|known| Arc::ptr_eq(known, verifier)) {
            self.entries.clear();
            self.verifier = Some(Arc::clone(verifier));
        }
        if let Some(entry) = self.entries.get(&TokenText(token)) {
            if entry.identity.is_current(now) {
                if !accepted.contains(entry.identity.issuer) {
                    return Err(Rejection::IssuerNotAccepted);
                }
                if entry.is_alive(revocations) {
                    return Ok(Arc::clone(&entry.identity));
                }
                self.entries.remove(&TokenText(token));
                return Err(Rejection::SessionEnded);
            }
            // Too late, or the clock was set back: let the verifier say why.
            self.entries.remove(&TokenText(token));
        }
        let identity = Arc::new(verifier.verify(token, accepted, now)?);
        let entry = Entry { identity: Arc::clone(&identity), alive_at: Cell::new(0) };
        if !entry.is_alive(revocations) {
            return Err(Rejection::SessionEnded);
        }
        self.entries.insert(Token(token.into()), entry);
        Ok(identity)
    }

    /// How many tokens are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Entry {
    fn is_alive(&self, revocations: &Revocations) -> bool {
        let Some(id) = &self.identity.revoked_by() else { return true };
        // Before looking, see `revocation`: what is added meanwhile moves the version once more.
        let version = revocations.version();
        if self.alive_at.get() == version {
            return true;
        }
        let alive = !revocations.contains(id);
        if alive {
            self.alive_at.set(version);
        }
        alive
    }
}

#[cfg(test)]
mod tests;
