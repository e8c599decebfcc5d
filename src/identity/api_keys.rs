//! API keys: their text, and all that are good, in memory, so that a request with one asks nobody.
//!
//! ```text
//! pck_  XXXXXXXX  _  SSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSS
//!       8 of base62  43 of base64url: 256 random bits
//! └─ prefix ────┘    whoever sees the prefix knows which key it is, and no more
//! ```
//!
//! A key is found by the SHA-256 of its text, which is all that is kept of it: nobody can go through
//! 2^256 texts, so neither a slow hash nor a limit on tries would add anything, and how long the
//! look-up takes tells nothing of other keys. The set is shared by all workers; tokens that are no
//! keys never touch it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::caller::{Identity, Machine};
use super::rejection::Rejection;
use crate::clock::random_bytes;
use crate::model::{ApiKey, TokenDigest, User, UserId};

/// How every key begins. No access token does: those begin with `ey`.
const MARK: &str = "pck_";
const PREFIX_LEN: usize = MARK.len() + 8;
const TEXT_LEN: usize = PREFIX_LEN + 1 + 43;

/// How exactly the last use of a key is known.
const LAST_USE: Duration = Duration::from_mins(5);

/// More keys than this are worth a warning: each takes half a kilobyte in each gateway.
const MANY: usize = 100_000;

/// The text of a key. Prints nothing; wiped when dropped.
pub struct KeyText(Zeroizing<String>);

impl KeyText {
    /// Makes a text from random bits, which come from [`random_bytes`].
    pub fn from_random(name: [u8; 8], secret: [u8; 32]) -> Self {
        const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut text = String::with_capacity(TEXT_LEN);
        text.push_str(MARK);
        let mut left = u64::from_be_bytes(name);
        for _ in 0..8 {
            text.push(char::from(BASE62[(left % 62) as usize]));
            left /= 62;
        }
        text.push('_');
        URL_SAFE_NO_PAD.encode_string(secret, &mut text);
        Self(Zeroizing::new(text))
    }

    /// The text for its owner, who sees it once.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The public part: `pck_` and eight characters.
    pub fn prefix(&self) -> &str {
        &self.0[..PREFIX_LEN]
    }

    /// What the database knows the key by.
    pub fn digest(&self) -> TokenDigest {
        digest_of(self.0.as_bytes())
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyText").field(&self.prefix()).finish()
    }
}

/// A key that is to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// As whom it acts.
    pub user_id: UserId,
    /// What its owner calls it.
    pub name: String,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// Who makes it.
    pub created_by: String,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// In whose place it comes.
    pub replaces: Option<Uuid>,
}

impl NewKey {
    /// Makes the key, at `now`.
    pub fn make(self, now: Timestamp) -> (ApiKey, KeyText) {
        let text = KeyText::from_random(random_bytes(), random_bytes());
        let key = ApiKey {
            id: uuid::Builder::from_random_bytes(random_bytes()).into_uuid(),
            user_id: self.user_id,
            name: self.name,
            prefix: text.prefix().to_owned(),
            digest: text.digest(),
            scopes: self.scopes,
            created_at: now,
            created_by: self.created_by,
            expires_at: self.expires_at,
            revoked_at: None,
            last_used_at: None,
            replaces: self.replaces,
        };
        (key, text)
    }
}

/// Whether a bearer token is to be judged as an API key.
pub fn is_api_key(token: &[u8]) -> bool {
    token.starts_with(MARK.as_bytes())
}

fn digest_of(text: &[u8]) -> TokenDigest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text).as_ref());
    TokenDigest(bytes)
}

/// Whether `said` gives its subject no role, and no proved address, that it does not have by
/// `current`. Of a key's own identity, which is the very same, nothing needs to be compared.
fn says_no_more(said: &Identity, current: &Identity) -> bool {
    said.subject == current.subject
        && said.roles.iter().all(|role| current.roles.binary_search(role).is_ok())
        && (!said.email_verified || (current.email_verified && said.email == current.email))
}

/// All keys that are not revoked.
#[derive(Default)]
pub struct ApiKeys {
    keys: RwLock<Keys>,
    /// Keys that were used, for the database.
    used: Mutex<HashMap<Uuid, Timestamp>>,
}

#[derive(Default)]
struct Keys {
    by_digest: HashMap<TokenDigest, Key, ahash::RandomState>,
    digests: HashMap<Uuid, TokenDigest, ahash::RandomState>,
    /// Revoked here a moment ago; a reading of the database that began before must not bring them
    /// back.
    revoked: HashSet<Uuid, ahash::RandomState>,
}

struct Key {
    id: Uuid,
    identity: Arc<Identity>,
    /// The user is disabled until then.
    disabled_until: Option<Timestamp>,
    last_used: Option<Timestamp>,
}

impl ApiKeys {
    /// Judges a token that [`is_api_key`], at `now`.
    ///
    /// # Errors
    /// Why the key is not believed.
    pub fn verify(&self, token: &[u8], now: Timestamp) -> Result<Arc<Identity>, Rejection> {
        if token.len() != TEXT_LEN {
            return Err(Rejection::UnknownApiKey);
        }
        let keys = self.read();
        let key = keys.by_digest.get(&digest_of(token)).ok_or(Rejection::UnknownApiKey)?;
        let identity = key.verify(now)?;
        if key.is_worth_a_note(now) {
            let id = key.id;
            drop(keys);
            self.note_use(id, now);
        }
        Ok(identity)
    }

    /// Whether somebody who was believed still is, as far as keys go: of a program, whether its key
    /// is good, and its token says no more of the user than the key would. What was given to the
    /// user since comes with the program's next token.
    pub fn stand_behind(&self, identity: &Identity, now: Timestamp) -> bool {
        let Some(id) = identity.machine.as_ref().and_then(|machine| machine.key_id) else {
            return true;
        };
        let keys = self.read();
        let key = keys.digests.get(&id).and_then(|digest| keys.by_digest.get(digest));
        let current = key.and_then(|key| key.verify(now).ok());
        current.is_some_and(|current| says_no_more(identity, &current))
    }

    /// Takes what the database says: keys that are there with their users, and ids of keys that are
    /// not. With `all`, what is not named is not there.
    ///
    /// A key whose row makes no sense is left out, and its id returned.
    pub fn take(&self, news: Vec<(Uuid, Option<(ApiKey, User)>)>, all: bool) -> Vec<Uuid> {
        let mut odd = Vec::new();
        let mut keys = self.write();
        if all {
            keys.by_digest.clear();
            keys.digests.clear();
        }
        for (id, found) in news {
            match found.map(|(key, user)| Key::new(&key, &user).map(|made| (key.digest, made))) {
                Some(Ok((digest, key))) => keys.put(digest, key),
                Some(Err(_)) => {
                    keys.remove(id);
                    odd.push(id);
                }
                None => {
                    keys.remove(id);
                    // Later readings do not have it either.
                    keys.revoked.remove(&id);
                }
            }
        }
        let count = keys.digests.len();
        drop(keys);
        if all && count > MANY {
            tracing::warn!(count, "there are many API keys; each takes memory in every gateway");
        }
        odd
    }

    /// Takes a key that was just made here, so that its owner can use it at once; what was read of
    /// it meanwhile is newer, and stays.
    ///
    /// # Errors
    /// When nobody could be called by the user's id or roles.
    pub fn put(&self, key: &ApiKey, user: &User) -> Result<(), Rejection> {
        let made = Key::new(key, user)?;
        let mut keys = self.write();
        if !keys.digests.contains_key(&key.id) {
            keys.put(key.digest, made);
        }
        Ok(())
    }

    /// Forgets a key that was revoked. When this returns, no worker accepts it.
    pub fn revoke(&self, id: Uuid) {
        let mut keys = self.write();
        keys.remove(id);
        keys.revoked.insert(id);
    }

    /// The keys used since the last call, with the time.
    pub fn take_used(&self) -> Vec<(Uuid, Timestamp)> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.is_empty() { Vec::new() } else { used.drain().collect() }
    }

    fn note_use(&self, id: Uuid, now: Timestamp) {
        {
            let mut keys = self.write();
            let Some(digest) = keys.digests.get(&id).copied() else { return };
            let Some(key) = keys.by_digest.get_mut(&digest) else { return };
            if !key.is_worth_a_note(now) {
                return;
            }
            key.last_used = Some(now);
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(id, now);
    }

    fn read(&self) -> RwLockReadGuard<'_, Keys> {
        // A writer that panicked left one key too few, which is refused.
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Keys> {
        self.keys.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    fn put(&mut self, digest: TokenDigest, key: Key) {
        if self.revoked.contains(&key.id) {
            return;
        }
        self.digests.insert(key.id, digest);
        self.by_digest.insert(digest, key);
    }

    fn remove(&mut self, id: Uuid) {
        if let Some(digest) = self.digests.remove(&id) {
            self.by_digest.remove(&digest);
        }
    }
}

impl Key {
    fn new(key: &ApiKey, user: &User) -> Result<Self, Rejection> {
        let machine = Machine {
            key_id: Some(key.id),
            token: None,
            client: key.prefix.as_str().into(),
            scopes: key.scopes.clone(),
        };
        Ok(Self {
            id: key.id,
            identity: Arc::new(Identity::of_api_key(key, user, machine)?),
            disabled_until: user.disabled_until,
            last_used: key.last_used_at,
        })
    }

    fn verify(&self, now: Timestamp) -> Result<Arc<Identity>, Rejection> {
        if !self.identity.is_current(now.as_second()) {
            return Err(Rejection::ApiKeyExpired);
        }
        if self.disabled_until.is_some_and(|until| now < until) {
            return Err(Rejection::ApiKeyDisabled);
        }
        Ok(Arc::clone(&self.identity))
    }

    fn is_worth_a_note(&self, now: Timestamp) -> bool {
        self.last_used.is_none_or(|last| {
            Duration::try_from(now.duration_since(last)).is_ok_and(|passed| passed >= LAST_USE)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::caller::{IssuerIndex, OURS};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn text(n: u8) -> KeyText {
        KeyText::from_random([n; 8], [n; 32])
    }

    fn key(n: u8) -> (ApiKey, User) {
        let user = User { roles: vec!["staff".to_owned()], ..ann() };
        let key = ApiKey {
            id: Uuid::from_u128(n.into()),
            user_id: user.id.clone(),
            name: "a job".to_owned(),
            prefix: text(n).prefix().to_owned(),
            digest: text(n).digest(),
            scopes: vec!["read".to_owned(), "write".to_owned()],
            created_at: at(0),
            created_by: "cli".to_owned(),
            expires_at: Some(at(100)),
            revoked_at: None,
            last_used_at: None,
            replaces: None,
        };
        (key, user)
    }

    fn ann() -> User {
        User::new("u-1".parse().unwrap(), "ann@example.com", at(0))
    }

    fn holding(n: u8) -> ApiKeys {
        let keys = ApiKeys::default();
        let (key, user) = key(n);
        assert!(keys.take(vec![(key.id, Some((key, user)))], false).is_empty());
        keys
    }

    fn verify(keys: &ApiKeys, n: u8, second: i64) -> Result<Arc<Identity>, Rejection> {
        keys.verify(text(n).expose().as_bytes(), at(second))
    }

    #[test]
    fn a_text_has_a_public_part_and_one_length() {
        let made = KeyText::from_random([0xff; 8], [7; 32]);
        assert_eq!(made.expose().len(), TEXT_LEN);
        assert!(is_api_key(made.expose().as_bytes()) && !is_api_key(b"eyJhbGciOi.x.y"));
        let (prefix, rest) = made.expose().rsplit_once('_').unwrap();
        assert_eq!(prefix, made.prefix());
        assert!(prefix.len() == 12 && rest.len() == 43);
        assert!(prefix[4..].bytes().all(|b| b.is_ascii_alphanumeric()), "{prefix}");
        assert_eq!(format!("{made:?}"), format!("KeyText({prefix:?})"));
        // A header takes it as it is (RFC 6750 §2.1).
        assert!(rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    }

    #[test]
    fn a_key_speaks_for_its_user_within_its_scopes() {
        let identity = verify(&holding(1), 1, 0).unwrap();
        assert_eq!(&*identity.subject, "u-1");
        assert!(identity.is_ours() && identity.session.is_none());
        assert_eq!(identity.roles, ["staff"]);
        assert_eq!(identity.headers.scopes.as_ref().unwrap(), "read,write");
        assert!(identity.headers.email.is_none(), "not confirmed");
        let machine = identity.machine.as_ref().unwrap();
        assert_eq!(
            (&*machine.client, machine.key_id),
            (text(1).prefix(), Some(Uuid::from_u128(1)))
        );
    }

    #[test]
    fn only_the_whole_text_of_a_living_key_is_believed() {
        let keys = holding(1);
        let good = text(1);
        let good = good.expose();
        for bad in [
            "pck_",
            &good[..good.len() - 1],
            &format!("{good}A"),
            &good.replace("pck_", "PCK_"),
            text(2).expose(),
            // The same prefix with another secret.
            KeyText::from_random([1; 8], [2; 32]).expose(),
        ] {
            assert_eq!(keys.verify(bad.as_bytes(), at(0)).err(), Some(Rejection::UnknownApiKey));
        }
        assert!(verify(&keys, 1, 99).is_ok());
        assert_eq!(verify(&keys, 1, 100).err(), Some(Rejection::ApiKeyExpired));
        let one = verify(&keys, 1, 0).unwrap();
        assert!(keys.stand_behind(&one, at(99)) && !keys.stand_behind(&one, at(100)));
        assert!(!holding(2).stand_behind(&one, at(0)));
        let ann = Identity::synthetic("u-1", &[], IssuerIndex::OURS, OURS.into()).unwrap();
        assert!(keys.stand_behind(&ann, at(0)), "a user is no program");

        // A token says what its user was when it was made.
        let with = |user: User| keys.take(vec![(key(1).0.id, Some((key(1).0, user)))], false);
        let proved = User { email_confirmed_at: Some(at(0)), ..key(1).1 };
        with(proved.clone());
        let token = verify(&keys, 1, 0).unwrap();
        with(User { roles: vec!["a".to_owned(), "staff".to_owned()], ..proved.clone() });
        assert!(keys.stand_behind(&token, at(0)), "one role more");
        with(User { roles: vec!["a".to_owned()], ..proved.clone() });
        assert!(!keys.stand_behind(&token, at(0)), "the role is lost");
        with(User { email: "other@example.com".to_owned(), ..proved.clone() });
        assert!(!keys.stand_behind(&token, at(0)), "the address is another");
        assert!(keys.stand_behind(&one, at(0)), "whose address was not proved");
        with(User { email_confirmed_at: None, ..proved });
        assert!(!keys.stand_behind(&token, at(0)), "the address is not proved any more");

        let (key, user) = key(1);
        let user = User { disabled_until: Some(at(50)), ..user };
        keys.take(vec![(key.id, Some((key, user)))], false);
        assert_eq!(verify(&keys, 1, 49).err(), Some(Rejection::ApiKeyDisabled));
        assert!(verify(&keys, 1, 50).is_ok());
    }

    #[test]
    fn what_was_revoked_here_does_not_come_back_by_an_older_reading() {
        let keys = holding(1);
        let id = Uuid::from_u128(1);
        keys.revoke(id);
        assert!(verify(&keys, 1, 0).is_err());
        keys.take(vec![(id, Some(key(1)))], false);
        keys.take(vec![(id, Some(key(1)))], true);
        assert!(verify(&keys, 1, 0).is_err());
        keys.take(vec![(id, None)], false);
        assert!(keys.write().revoked.is_empty(), "nothing is remembered for ever");
    }

    #[test]
    fn a_full_reading_leaves_nothing_else() {
        let keys = holding(1);
        keys.take(vec![(Uuid::from_u128(2), Some(key(2)))], true);
        assert!(verify(&keys, 1, 0).is_err() && verify(&keys, 2, 0).is_ok());
        keys.take(vec![(Uuid::from_u128(1), Some(key(1)))], false);
        assert!(verify(&keys, 1, 0).is_ok() && verify(&keys, 2, 0).is_ok());
    }

    #[test]
    fn a_row_that_makes_no_sense_is_no_key() {
        let keys = holding(1);
        let (key, user) = key(1);
        let user = User { roles: vec!["No Role".to_owned()], ..user };
        assert_eq!(keys.take(vec![(key.id, Some((key, user)))], false), [Uuid::from_u128(1)]);
        assert!(verify(&keys, 1, 0).is_err());
    }

    #[test]
    fn what_was_read_of_a_key_is_newer_than_what_it_was_made_with() {
        let keys = holding(1);
        let (key, user) = key(1);
        keys.put(&key, &User { roles: vec!["admin".to_owned()], ..user }).unwrap();
        assert_eq!(verify(&keys, 1, 0).unwrap().roles, ["staff"]);
    }

    #[test]
    fn uses_are_noted_every_five_minutes() {
        let keys = holding(1);
        let (mut long, user) = key(1);
        long.expires_at = None;
        let id = Uuid::from_u128(1);
        keys.take(vec![(id, Some((long, user)))], false);
        assert!(keys.take_used().is_empty());
        for second in [0, 1, 299] {
            verify(&keys, 1, second).unwrap();
        }
        assert_eq!(keys.take_used(), [(id, at(0))]);
        assert!(keys.take_used().is_empty());
        verify(&keys, 1, 300).unwrap();
        assert_eq!(keys.take_used(), [(id, at(300))]);
    }
}
