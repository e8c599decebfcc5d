//! Project Wycheproof's vectors against the verifier: every forged signature and every weak key in
//! them must be refused, every good one of an algorithm that we offer accepted.
//!
//! The folder is named by `PORTCULLIS_WYCHEPROOF`. Where it is missing the tests say so and pass,
//! unless `PORTCULLIS_WYCHEPROOF_REQUIRED` is set, as it is in continuous integration.

use std::path::PathBuf;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::RsaPublicKeyComponents;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::config::Algorithm;
use portcullis::identity::jws::Compact;
use portcullis::identity::keys::{VerifyingKey, import_public};
use serde_json::Value;

/// Algorithms in the vectors that no key of ours can have: nothing of them is accepted, good or not.
const NOT_OFFERED: [&str; 11] = [
    "PS256", "PS384", "PS512", "RS384", "RS512", "HS384", "HS512", "ES521", "ES224", "A256GCM",
    "A256KW",
];

fn vectors(file: &str) -> Option<Vec<Value>> {
    let folder = std::env::var_os("PORTCULLIS_WYCHEPROOF").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/wycheproof"),
        PathBuf::from,
    );
    let path = folder.join(file);
    if !path.exists() {
        let required = std::env::var_os("PORTCULLIS_WYCHEPROOF_REQUIRED").is_some();
        assert!(!required, "{} is missing", path.display());
        eprintln!("NOT TESTED: {} is missing; set PORTCULLIS_WYCHEPROOF", path.display());
        return None;
    }
    let text = std::fs::read_to_string(&path).expect("the vectors are readable");
    let file: Value = serde_json::from_str(&text).expect("the vectors are JSON");
    Some(file["testGroups"].as_array().expect("groups").clone())
}

fn cases(group: &Value) -> impl Iterator<Item = (u64, &Value)> {
    let tests = group["tests"].as_array().expect("tests");
    tests.iter().map(|test| (test["tcId"].as_u64().expect("an id"), test))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn hex(value: &Value, name: &str) -> Vec<u8> {
    let digits = text(value, name).as_bytes();
    let nibble = |b: u8| char::from(b).to_digit(16).and_then(|n| u8::try_from(n).ok());
    digits
        .chunks(2)
        .map(|pair| nibble(pair[0]).expect("hex") << 4 | nibble(pair[1]).expect("hex"))
        .collect()
}

fn member(jwk: &Value, name: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text(jwk, name)).expect("base64url")
}

/// The key that an operator would have configured from this JWK. There is no JWK import yet, so
/// `use`, `key_ops` and `alg` say nothing here but which algorithm to ask for.
fn key(jwk: &Value) -> Option<VerifyingKey> {
    match text(jwk, "kty") {
        "oct" => VerifyingKey::from_secret(&member(jwk, "k")).ok(),
        "EC" if text(jwk, "crv") == "P-256" => {
            let point = [vec![4], member(jwk, "x"), member(jwk, "y")].concat();
            VerifyingKey::from_public_der(Algorithm::Es256, &point).ok()
        }
        "RSA" => {
            let components = RsaPublicKeyComponents { n: member(jwk, "n"), e: member(jwk, "e") };
            let der = components.as_der().ok()?;
            VerifyingKey::from_public_der(Algorithm::Rs256, der.as_ref()).ok()
        }
        _ => None,
    }
}

/// What the verifier does with a token once its issuer is known, but for the claims: the vectors'
/// payloads are no claims.
fn accepts(jws: &str, kid: &str, key: Option<&VerifyingKey>) -> bool {
    let (Some(key), Ok(jws)) = (key, Compact::parse(jws.as_bytes())) else { return false };
    jws.header().key_id.as_deref().is_none_or(|named| named == kid) && jws.verify(key).is_ok()
}

#[test]
fn forged_tokens_are_refused_and_good_ones_accepted() {
    // Not run: they are about members of a JWK that forbid what the key could do, and there is no
    // JWK import yet that would read them.
    const ABOUT_JWK_ONLY: [(u64, &str); 5] = [
        (332, "`alg` PS512; configured for RS256, the key does verify this RS256 token"),
        (353, "`use`"),
        (354, "`use`"),
        (355, "`key_ops`"),
        (356, "`key_ops`"),
    ];
    // Called valid with a `?` amid their base64; RFC 7515 §2 has no room for it.
    const NOT_BASE64: [u64; 2] = [372, 373];
    // Called invalid for their padding, which the file has lost: byte for byte they are the token
    // of case 357, which is called valid (checked below).
    const SAME_AS_357: [u64; 2] = [367, 370];
    let Some(groups) = vectors("json_web_signature_test.json") else { return };
    let (mut accepted, mut refused) = (0, 0);
    for group in &groups {
        let jwk = if group["public"].is_object() { &group["public"] } else { &group["private"] };
        let key = key(jwk);
        for (id, test) in cases(group) {
            if SAME_AS_357.contains(&id) {
                let (_, valid) = cases(group).find(|(id, _)| *id == 357).expect("case 357");
                assert_eq!(test["jws"], valid["jws"], "{id} has got its padding: run it");
                continue;
            }
            if ABOUT_JWK_ONLY.iter().any(|(skipped, _)| *skipped == id) {
                continue;
            }
            let is_accepted = accepts(text(test, "jws"), text(jwk, "kid"), key.as_ref());
            let offered = !NOT_OFFERED.contains(&text(jwk, "alg"));
            let expected = text(test, "result") == "valid" && offered && !NOT_BASE64.contains(&id);
            assert_eq!(is_accepted, expected, "{id}: {}", test["comment"]);
            *if is_accepted { &mut accepted } else { &mut refused } += 1;
        }
    }
    println!("{accepted} accepted, {refused} refused, not run: {ABOUT_JWK_ONLY:?}");
    assert!(accepted >= 18 && refused >= 376, "{accepted} accepted, {refused} refused");
}

#[test]
fn weak_keys_are_refused() {
    // Sets that mix or repeat keys, and members of a JWK (`use`, `alg`, `crv`, `kty`) that
    // contradict the key: a matter of reading JWKs, which we do not do yet.
    const ABOUT_JWK_ONLY: [u64; 10] = [1, 4, 6, 19, 20, 21, 23, 24, 25, 26];
    let Some(groups) = vectors("json_web_key_test.json") else { return };
    let mut run = 0;
    for group in &groups {
        let set = if group["public"].is_object() { &group["public"] } else { &group["private"] };
        let jwks = set["keys"].as_array().expect("keys");
        for (id, test) in cases(group) {
            if ABOUT_JWK_ONLY.contains(&id) {
                continue;
            }
            let is_accepted = jwks
                .iter()
                .any(|jwk| accepts(text(test, "jws"), text(jwk, "kid"), key(jwk).as_ref()));
            let offered = jwks.iter().all(|jwk| !NOT_OFFERED.contains(&text(jwk, "alg")));
            let expected = text(test, "result") == "valid" && offered;
            assert_eq!(is_accepted, expected, "{id}: {}", test["comment"]);
            run += 1;
        }
    }
    assert!(run >= 16, "{run} run");
}

#[test]
fn forged_signatures_are_refused_and_good_ones_accepted() {
    for (file, algorithm, least) in [
        ("ecdsa_secp256r1_sha256_p1363_test.json", Algorithm::Es256, 262),
        ("ed25519_test.json", Algorithm::EdDsa, 151),
        ("rsa_signature_2048_sha256_test.json", Algorithm::Rs256, 258),
    ] {
        let Some(groups) = vectors(file) else { continue };
        let mut run = 0;
        for group in &groups {
            let pem = text(group, "publicKeyPem").as_bytes();
            let key = import_public(algorithm, pem).expect("the vectors' keys are sound");
            for (id, test) in cases(group) {
                // "acceptable": a signature without the NULL that RFC 8017 §9.2 wants. Either will do.
                if text(test, "result") == "acceptable" {
                    continue;
                }
                let verified =
                    key.verify(algorithm.name(), &hex(test, "msg"), &hex(test, "sig")).is_ok();
                let expected = text(test, "result") == "valid";
                assert_eq!(verified, expected, "{file} {id}: {}", test["comment"]);
                run += 1;
            }
        }
        assert!(run >= least, "{file}: {run} run");
    }
}
