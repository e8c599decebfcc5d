//! JWK sets of other issuers: whatever a server sends, only keys that may check signatures come of
//! it, each for an algorithm that was allowed, and which one a `kid` means is never open.

use portcullis::config::Algorithm;
use portcullis::identity::keys::RemoteKeys;
use serde_json::Value;

/// Asymmetric, as what is fetched is public.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256];

/// The first byte chooses the algorithms that are allowed.
pub fn check(bytes: &[u8]) {
    let Some((&choice, json)) = bytes.split_first() else { return };
    let allowed: Vec<Algorithm> =
        (0..3).filter(|n| choice >> n & 1 == 1).map(|n| ALGORITHMS[n]).collect();
    let Ok(keys) = RemoteKeys::parse(json, &allowed) else { return };
    let ids: Vec<_> = keys.ids().collect();
    assert!((1..=32).contains(&(ids.len() + keys.skipped())) && !keys.is_empty());
    assert!(ids.iter().all(|(_, algorithm)| allowed.contains(algorithm)));
    let nameless = ids.iter().filter(|(kid, _)| kid.is_none()).count();
    assert!(nameless == 0 || ids.len() == 1, "a key without a name among others");
    for (index, (kid, _)) in ids.iter().enumerate() {
        assert!(ids[..index].iter().all(|(other, _)| other != kid), "one name for two keys");
    }
    // A second reading: as many keys of these kinds are there at least, and none of them is secret.
    let set: Value = serde_json::from_slice(json).expect("it was read");
    let list = set["keys"].as_array().expect("it was read");
    let kind = |jwk: &&Value| ["EC", "OKP", "RSA"].iter().any(|kind| jwk["kty"] == *kind);
    assert!(list.iter().filter(kind).count() >= ids.len());
    // The order says nothing.
    let turned: Vec<&Value> = list.iter().rev().collect();
    let turned = serde_json::json!({ "keys": turned }).to_string();
    let again = RemoteKeys::parse(turned.as_bytes(), &allowed).expect("the same keys");
    assert!(again.is_same(&keys));
}
