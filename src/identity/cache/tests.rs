use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::config::{Algorithm, Issuer, Tokens};
use crate::identity::keys::{KeySet, generate};
use crate::identity::token::{Extent, IssueOptions, issue};
use crate::model::{AuthMethod, EndedSession, Proof, Session, User};

const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

struct World {
    cache: TokenCache,
    verifier: Arc<Verifier>,
    revocations: Revocations,
}

impl World {
    fn new(bytes: u64) -> Self {
        let key = generate(Algorithm::EdDsa, at(0), at(0)).unwrap();
        let keys = KeySet::from_keys(Algorithm::EdDsa, &[key]).unwrap();
        let tokens = Tokens { algorithm: Algorithm::EdDsa, ..Tokens::default() };
        Self {
            cache: TokenCache::new(bytes),
            verifier: Arc::new(Verifier::compile(&tokens, Arc::new(keys), &[]).unwrap()),
            revocations: Revocations::new(Duration::from_secs(30), Instant::now()),
        }
    }

    fn token(&self, session: u128) -> String {
        let tokens = Tokens::default();
        let user = User::new("u-1".parse().unwrap(), "ann@example.com", at(0));
        let session = Session {
            id: Uuid::from_u128(session),
            user_id: user.id.clone(),
            created_at: at(NOW),
            last_seen_at: at(NOW),
            expires_at: at(NOW),
            access_expires_at: at(NOW),
            address: None,
            user_agent: None,
            methods: vec![Proof::new(AuthMethod::Password, at(NOW))],
            factor_id: None,
            ended: None,
        };
        let options = IssueOptions {
            issuer: &tokens.issuer,
            audience: &tokens.audience,
            lifetime: Duration::from_mins(10),
            jti: Uuid::from_u128(1),
            extent: Extent::Whole,
        };
        let signer = self.verifier.keys().signer(at(NOW)).unwrap();
        issue(signer, &user, &session, &options, at(NOW)).unwrap().token
    }

    fn verify(&mut self, token: &str, now: i64) -> Result<Arc<Identity>, Rejection> {
        let (verifier, revocations) = (&self.verifier, &self.revocations);
        self.cache.verify(token.as_bytes(), IssuerSet::OURS, verifier, revocations, now)
    }

    fn end(&self, session: u128) {
        let id = Uuid::from_u128(session);
        self.revocations.end([EndedSession { id, until: at(NOW + 600) }]);
    }
}

#[test]
fn a_signature_is_checked_once() {
    let mut world = World::new(TokenCache::DEFAULT_BYTES);
    let token = world.token(1);
    let first = world.verify(&token, NOW).unwrap();
    let second = world.verify(&token, NOW + 1).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(world.cache.len(), 1);

    let mut changed = token.into_bytes();
    let middle = changed.len() - 20;
    changed[middle] = if changed[middle] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    assert_eq!(world.verify(&changed, NOW).err(), Some(Rejection::Signature));
    assert_eq!(world.cache.len(), 1, "failures are not remembered");
}

#[test]
fn times_and_issuers_are_looked_at_on_every_hit() {
    let mut world = World::new(TokenCache::DEFAULT_BYTES);
    let token = world.token(1);
    world.verify(&token, NOW).unwrap();

    let corp = Issuer::of_key_file("corp", Algorithm::Rs256, "corp.pem".into());
    let names = ["corp".to_owned()];
    let only_corp = IssuerSet::named(&names, &[corp]).unwrap();
    let World { cache, verifier, revocations } = &mut world;
    let refused = cache.verify(token.as_bytes(), only_corp, verifier, revocations, NOW);
    assert_eq!(refused.err(), Some(Rejection::IssuerNotAccepted));

    assert!(world.verify(&token, NOW + 629).is_ok());
    assert_eq!(world.verify(&token, NOW - 31).err(), Some(Rejection::NotYetValid));
    assert!(world.verify(&token, NOW).is_ok());
    assert_eq!(world.verify(&token, NOW + 630).err(), Some(Rejection::Expired));
    assert!(world.cache.is_empty());
}

#[test]
fn an_ended_session_is_refused_cached_or_not() {
    let mut world = World::new(TokenCache::DEFAULT_BYTES);
    let (one, two) = (world.token(1), world.token(2));
    world.verify(&one, NOW).unwrap();
    world.end(1);
    assert_eq!(world.verify(&one, NOW).err(), Some(Rejection::SessionEnded));
    assert!(world.verify(&two, NOW).is_ok(), "another session of the same user");
    assert_eq!(world.verify(&one, NOW).err(), Some(Rejection::SessionEnded), "and stays refused");
    world.end(2);
    assert_eq!(world.verify(&two, NOW).err(), Some(Rejection::SessionEnded));
    assert!(world.cache.is_empty());
}

#[test]
fn new_keys_empty_the_cache() {
    let mut world = World::new(TokenCache::DEFAULT_BYTES);
    let token = world.token(1);
    world.verify(&token, NOW).unwrap();
    let same_keys = Arc::clone(world.verifier.keys());
    world.verifier = Arc::new(world.verifier.with_keys(same_keys));
    assert!(world.verify(&token, NOW).is_ok());

    let none = KeySet::from_keys(Algorithm::EdDsa, &[]).unwrap();
    world.verifier = Arc::new(world.verifier.with_keys(Arc::new(none)));
    assert_eq!(world.verify(&token, NOW).err(), Some(Rejection::UnknownKey));
    assert!(world.cache.is_empty());
}

#[test]
fn memory_is_bounded() {
    let mut world = World::new(16 << 10);
    for session in 0..100 {
        let token = world.token(session);
        world.verify(&token, NOW).unwrap();
    }
    assert!((4..=12).contains(&world.cache.len()), "{}", world.cache.len());
}
