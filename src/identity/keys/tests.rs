use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde_json::Value;

use super::*;
use crate::identity::rejection::Rejection;

const ASYMMETRIC: [Algorithm; 3] = [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256];

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    let body = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
}

fn reference(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    algorithm.name().parse().unwrap()
}

fn listed(keys: &KeySet, now: i64) -> Vec<Value> {
    let set: Value = serde_json::from_str(&keys.jwks(at(now))).unwrap();
    set["keys"].as_array().unwrap().clone()
}

#[test]
fn what_we_sign_another_implementation_verifies_from_our_jwks() {
    for algorithm in ASYMMETRIC {
        let stored = generate(algorithm, at(0), at(0)).unwrap();
        let keys = KeySet::from_keys(algorithm, std::slice::from_ref(&stored)).unwrap();
        let signature = keys.signer(at(0)).unwrap().sign(b"message").unwrap();

        let jwk: Jwk = serde_json::from_value(listed(&keys, 0).remove(0)).unwrap();
        assert_eq!(jwk.common.key_id.as_deref(), Some(stored.kid.as_str()));
        assert_eq!(jwk.common.public_key_use, Some(PublicKeyUse::Signature));
        let theirs = DecodingKey::from_jwk(&jwk).unwrap();
        let text = URL_SAFE_NO_PAD.encode(&signature);
        let verified =
            jsonwebtoken::crypto::verify(&text, b"message", &theirs, reference(algorithm));
        assert!(verified.unwrap(), "{algorithm:?}");

        let (ours, _) = keys.verifying_key(Some(&stored.kid), 0).unwrap();
        assert_eq!(ours.verify(algorithm.name(), b"message", &signature), Ok(()));
        assert_eq!(
            ours.verify(algorithm.name(), b"massage", &signature),
            Err(Rejection::Signature)
        );
        for other in ["none", "HS256", "ES256", "EdDSA", "RS256", "es256", ""] {
            if other != algorithm.name() {
                assert_eq!(ours.verify(other, b"message", &signature), Err(Rejection::Algorithm));
            }
        }
    }
}

/// RFC 8037 appendix A.1 to A.4.
#[test]
fn the_key_id_is_the_thumbprint_of_rfc_7638() {
    let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend_from_slice(&seed);
    let key = import_private(&pem("PRIVATE KEY", &der), at(0), at(0)).unwrap();
    assert_eq!(key.kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    assert_eq!(key.algorithm, Algorithm::EdDsa);
    assert_eq!(*key.private_key, der);

    let keys = KeySet::from_keys(Algorithm::EdDsa, &[key]).unwrap();
    assert_eq!(listed(&keys, 0)[0]["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    let input = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = URL_SAFE_NO_PAD.encode(keys.signer(at(0)).unwrap().sign(input).unwrap());
    assert_eq!(
        signature,
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    );
}

#[test]
fn private_keys_are_read_in_their_usual_forms() {
    for algorithm in ASYMMETRIC {
        let made = generate(algorithm, at(0), at(0)).unwrap();
        let again = import_private(&pem("PRIVATE KEY", &made.private_key), at(5), at(9)).unwrap();
        assert_eq!((&again.kid, again.algorithm), (&made.kid, algorithm));
        assert_eq!((again.created_at, again.active_from), (at(5), at(9)));
    }
    // PKCS#8 holds the older forms: after 26 bytes for RSA 2048 and P-256.
    let rsa = generate(Algorithm::Rs256, at(0), at(0)).unwrap();
    let again = import_private(&pem("RSA PRIVATE KEY", &rsa.private_key[26..]), at(0), at(0));
    assert_eq!(again.unwrap().kid, rsa.kid);
    let ec = import_private(
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n\
          -----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPMPduB30/2Qva0BfQSQ5HxJ7aPsxp3t7Z/0w+jUkSE1oAoGCCqGSM49\nAwEHoUQDQgAE8JYiFTSAKxMKCABwmCiqCjBLl0gIuW8f4t3ib114nY5r4q6jBwT/\nvUUomqXOo1lxSRwaEDcs5mCALyJT8kZKjA==\n-----END EC PRIVATE KEY-----\n",
        at(0),
        at(0),
    );
    assert_eq!(ec.unwrap().algorithm, Algorithm::Es256);
}

#[test]
fn keys_that_should_not_sign_are_refused_with_the_reason() {
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let p384 = pem("PRIVATE KEY", p384.to_pkcs8v1().unwrap().as_ref());
    let made = generate(Algorithm::Es256, at(0), at(0)).unwrap();
    let fine = pem("PRIVATE KEY", &made.private_key);
    let rsa_1024 = include_bytes!("testdata/rsa-1024-private-key.txt");
    let mut damaged = made.private_key.to_vec();
    damaged[50] ^= 1;
    for (name, text, expected) in [
        ("P-384", p384, KeyError::Unsupported),
        ("RSA with 1024 bits", rsa_1024.to_vec(), KeyError::Unsupported),
        ("key pair that does not match", pem("PRIVATE KEY", &damaged), KeyError::Unsupported),
        ("junk", pem("PRIVATE KEY", b"junk"), KeyError::Unsupported),
        (
            "encrypted",
            pem("ENCRYPTED PRIVATE KEY", b"junk"),
            KeyError::Pem("there is no unencrypted PEM section with a key in it"),
        ),
        (
            "public",
            pem("PUBLIC KEY", b"junk"),
            KeyError::Pem("the PEM section is not a private key"),
        ),
        (
            "two keys",
            [fine.clone(), fine].concat(),
            KeyError::Pem("there is more than one PEM section in it"),
        ),
        (
            "no PEM",
            b"hello".to_vec(),
            KeyError::Pem("there is no unencrypted PEM section with a key in it"),
        ),
        (
            "cut off",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n".to_vec(),
            KeyError::Pem("the PEM text is damaged"),
        ),
    ] {
        assert_eq!(import_private(&text, at(0), at(0)).err(), Some(expected), "{name}");
    }
    assert_eq!(generate(Algorithm::Hs256, at(0), at(0)).err(), Some(KeyError::NoKeyPair));
}

#[test]
fn a_secret_is_long_and_no_public_key() {
    let key = generate(Algorithm::Rs256, at(0), at(0)).unwrap();
    let pair = KeyPair::from_private_der(Algorithm::Rs256, &key.private_key).unwrap();
    let KeyPair::Rsa(rsa) = &pair else { panic!("an RSA key") };
    let public = aws_lc_rs::signature::KeyPair::public_key(rsa).as_ref().to_vec();
    for (secret, expected) in [
        (b"0123456789abcdef0123456789abcdef".to_vec(), None),
        (vec![0xff; 32], None),
        (vec![b'x'; 1000], None),
        (b"0123456789abcdef0123456789abcde".to_vec(), Some(KeyError::ShortSecret)),
        (Vec::new(), Some(KeyError::ShortSecret)),
        (pem("PUBLIC KEY", &public), Some(KeyError::SecretIsPublicKey)),
        (pem("CERTIFICATE", b"anything"), Some(KeyError::SecretIsPublicKey)),
        (public, Some(KeyError::SecretIsPublicKey)),
    ] {
        assert_eq!(VerifyingKey::from_secret(&secret).err(), expected);
        assert_eq!(KeySet::from_secret(&secret).err(), expected);
    }
    let keys = KeySet::from_secret(&[7; 32]).unwrap();
    assert_eq!(keys.jwks(at(0)), r#"{"keys":[]}"#, "a secret is not published");
    let signature = keys.signer(at(0)).unwrap().sign(b"message").unwrap();
    let (verifying, _) = keys.verifying_key(None, 0).unwrap();
    assert_eq!(verifying.verify("HS256", b"message", &signature), Ok(()));
    assert_eq!(verifying.verify("HS256", b"message", &signature[..31]), Err(Rejection::Signature));
    assert_eq!(verifying.verify("HS256", b"message", b""), Err(Rejection::Signature));
    assert_eq!(verifying.verify("none", b"message", b""), Err(Rejection::Algorithm));
}

#[test]
fn the_newest_active_key_signs_and_every_key_verifies_until_it_is_retired() {
    let key = |active_from, retire_at: Option<i64>| {
        let mut key = generate(Algorithm::Es256, at(0), at(active_from)).unwrap();
        key.retire_at = retire_at.map(at);
        key
    };
    let (old, current, next) = (key(10, Some(500)), key(100, None), key(200, None));
    let foreign = generate(Algorithm::EdDsa, at(0), at(300)).unwrap();
    let stored = [current.clone(), foreign.clone(), next.clone(), old.clone()];
    let keys = KeySet::from_keys(Algorithm::Es256, &stored).unwrap();

    let signer = |now| keys.signer(at(now)).map(|signer| signer.kid().to_owned());
    assert_eq!(signer(9), None);
    assert_eq!(signer(10), Some(old.kid.clone()));
    assert_eq!(signer(199), Some(current.kid.clone()));
    assert_eq!(signer(200), Some(next.kid.clone()));
    assert_eq!(signer(400), Some(next.kid.clone()), "the newest is of another algorithm");

    let (superseded, successor) = (key(150, Some(900)), key(120, None));
    let keys_of_two_rotations =
        KeySet::from_keys(Algorithm::Es256, &[old.clone(), superseded, successor.clone()]).unwrap();
    for (now, expected) in [(100, &old.kid), (130, &successor.kid), (200, &successor.kid)] {
        assert_eq!(keys_of_two_rotations.signer(at(now)).unwrap().kid(), expected, "{now}");
    }

    let verifies = |kid: Option<&str>, now| keys.verifying_key(kid, now).map(|(_, until)| until);
    assert_eq!(verifies(Some(&old.kid), 499), Some(Some(500)));
    assert_eq!(verifies(Some(&old.kid), 500), None);
    assert_eq!(verifies(Some(&next.kid), 0), Some(None), "known before it signs");
    assert_eq!(verifies(Some("unknown"), 0), None);
    assert_eq!(verifies(None, 0), None, "there are several");
    assert_eq!(keys.verifying_key(Some(&foreign.kid), 0).unwrap().0.algorithm(), Algorithm::EdDsa);

    assert_eq!(listed(&keys, 0).len(), 4);
    assert_eq!(listed(&keys, 500).len(), 3);

    let two = KeySet::from_keys(Algorithm::Es256, &[old.clone(), next.clone()]).unwrap();
    assert!(two.verifying_key(None, 499).is_none());
    assert!(two.verifying_key(None, 500).is_some(), "one is left");

    let twice = KeySet::from_keys(Algorithm::Es256, &[next.clone(), next]);
    assert_eq!(twice.err(), Some(KeyError::DuplicateKeyId));
    let none = KeySet::from_keys(Algorithm::Es256, &[]).unwrap();
    assert!(none.signer(at(0)).is_none() && none.verifying_key(None, 0).is_none());
}

#[test]
fn a_secret_stands_alone() {
    let stored = [generate(Algorithm::Es256, at(0), at(0)).unwrap()];
    let mut tokens = Tokens { algorithm: Algorithm::Hs256, ..Tokens::default() };
    assert_eq!(KeySet::compile(&tokens, &stored).err(), Some(KeyError::NoSecret));
    tokens.secret = Some("0123456789abcdef0123456789abcdef".into());
    let keys = KeySet::compile(&tokens, &stored).unwrap();
    assert!(keys.verifying_key(Some(&stored[0].kid), 0).is_none());
    assert_eq!(keys.signer(at(0)).unwrap().algorithm(), Algorithm::Hs256);
}

#[test]
fn nothing_secret_is_printed() {
    let keys = KeySet::from_secret(&[7; 32]).unwrap();
    let signer = keys.signer(at(0)).unwrap();
    assert_eq!(format!("{keys:?} {signer:?}"), r#"["secret"] Signer { kid: "secret", .. }"#);
}
