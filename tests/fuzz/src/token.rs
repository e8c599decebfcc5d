//! Access tokens: arbitrary text, arbitrary headers and claims that are properly signed, and good
//! tokens with a byte changed.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use portcullis::config::Tokens;
use portcullis::identity::{IssuerSet, KeySet, Verifier};
use serde_json::Value;

const NOW: i64 = 1_800_000_000;
const LEEWAY: i64 = 30;
const ISSUER: &str = "https://gate.example/auth";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT","kid":"secret"}"#;
const CLAIMS: &str = r#"{"iss":"https://gate.example/auth","sub":"u-1001","aud":"authenticated","exp":1800000600,"iat":1799999940,"jti":"j-1","session_id":"5f0c4a3e-0b1d-4f6a-9c55-0d3c8a3b9f10","email":"ann@example.com","email_verified":true,"app_metadata":{"roles":["staff"]}}"#;

struct World {
    keys: Arc<KeySet>,
    verifier: Verifier,
    good: Vec<u8>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let keys = KeySet::from_secret(b"0123456789abcdef0123456789abcdef").expect("a good secret");
    let keys = Arc::new(keys);
    let tokens = Tokens { issuer: ISSUER.to_owned(), ..Tokens::default() };
    let verifier = Verifier::compile(&tokens, Arc::clone(&keys), &[]).expect("it compiles");
    let good = sign(&keys, HEADER.as_bytes(), CLAIMS.as_bytes());
    assert!(verifier.verify(&good, IssuerSet::OURS, NOW).is_ok(), "the good token is good");
    World { keys, verifier, good }
});

fn sign(keys: &KeySet, header: &[u8], claims: &[u8]) -> Vec<u8> {
    let mut token = URL_SAFE_NO_PAD.encode(header);
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(claims));
    let now = Timestamp::from_second(NOW).expect("a time");
    let signature = keys.signer(now).expect("a key").sign(token.as_bytes()).expect("it signs");
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(signature));
    token.into_bytes()
}

/// The first byte chooses: 0 text, 1 `header LF claims` to be signed, 2 claims to be signed, else
/// pairs of a place and a byte to change in a good token.
pub fn check(bytes: &[u8]) {
    let world = &*WORLD;
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => {
            let result = world.verifier.verify(bytes, IssuerSet::OURS, NOW);
            assert!(result.is_err() || bytes == world.good, "a token that nobody signed");
        }
        1 => {
            let mut parts = bytes.splitn(2, |&b| b == b'\n');
            let (header, claims) =
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            judge(world, header, claims);
        }
        2 => judge(world, HEADER.as_bytes(), bytes),
        _ => {
            let mut token = world.good.clone();
            for change in bytes.chunks_exact(3).take(8) {
                let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % token.len();
                token[at] = change[2];
            }
            let result = world.verifier.verify(&token, IssuerSet::OURS, NOW);
            assert_eq!(result.is_ok(), token == world.good, "a second text of one token");
        }
    }
}

/// Whatever is believed says what it must, read by another reader of JSON values.
fn judge(world: &World, header: &[u8], claims: &[u8]) {
    let token = sign(&world.keys, header, claims);
    let Ok(identity) = world.verifier.verify(&token, IssuerSet::OURS, NOW) else { return };
    assert!(token.len() <= 8 << 10);
    let header: Value = serde_json::from_slice(header).expect("JSON");
    let claims: Value = serde_json::from_slice(claims).expect("JSON");
    assert_eq!(header["alg"], "HS256");
    let kind = header["typ"].as_str().expect("a type").to_ascii_lowercase();
    assert!(kind == "jwt" || kind.trim_start_matches("application/") == "at+jwt");
    assert!(header.get("kid").is_none_or(|kid| kid == "secret"));
    for name in ["crit", "b64", "jwk", "jku", "x5u", "zip", "enc"] {
        assert!(header.get(name).is_none(), "{name}");
    }
    assert_eq!(claims["iss"], ISSUER);
    let audience = &claims["aud"];
    let ours = "authenticated";
    assert!(
        audience == ours || audience.as_array().is_some_and(|all| all.iter().any(|a| a == ours))
    );
    let expires = claims["exp"].as_i64().expect("exp");
    let issued = claims["iat"].as_i64().expect("iat");
    assert!(NOW < expires + LEEWAY && issued - LEEWAY <= NOW && expires - issued <= 86_401);
    if let Some(from) = claims.get("nbf") {
        assert!(from.as_i64().expect("nbf") - LEEWAY <= NOW);
    }
    assert_eq!(claims["sub"], *identity.subject);
    let fits = |b: u8| b.is_ascii_graphic() && b != b'/';
    assert!(!identity.subject.is_empty() && identity.subject.bytes().all(fits));
    assert_eq!(claims["session_id"], identity.session.expect("a session").to_string());
    assert!(!claims["jti"].as_str().expect("jti").is_empty());
    assert_eq!(identity.headers.email.is_some(), {
        let email = claims["email"].as_str().unwrap_or_default();
        let plain = !email.contains(|c: char| c.is_control() || c.is_whitespace());
        claims["email_verified"] == true && (1..=254).contains(&email.len()) && plain
    });
    assert!(identity.roles.is_sorted() && identity.roles.iter().all(|role| !role.contains(',')));
    assert!(identity.is_current(NOW));
}
