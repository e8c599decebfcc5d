//! Ordinary libraries verify our tokens knowing nothing but the issuer's keys: `jose` of Node,
//! `PyJWT`, and Rust's `jsonwebtoken`.

use std::net::SocketAddr;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use portcullis::clock::Clock;
use serde_json::{Value, json};

use crate::harness::foreign::{node, python};
use crate::harness::{PASSWORD, Program, Request, Script, TestGateway, Upstream, patiently, pause};

const JWKS: &str = "/auth/.well-known/jwks.json";
const ISSUER: &str = "http://127.0.0.1:8080/auth";
const AUDIENCE: &str = "authenticated";

/// A token as it is shown, and what it has to be.
#[derive(Clone, Copy)]
struct Shown<'a> {
    token: &'a str,
    issuer: &'a str,
    audience: &'a str,
}

impl<'a> Shown<'a> {
    fn new(token: &'a str) -> Self {
        Self { token, issuer: ISSUER, audience: AUDIENCE }
    }
}

/// The three libraries, each with the keys that it fetches by itself.
struct Libraries {
    keys: SocketAddr,
    scripts: [Script; 2],
}

impl Libraries {
    async fn at(keys: SocketAddr) -> Self {
        let url = format!("http://{keys}{JWKS}");
        let mut scripts = [
            Script::start(node("jwt_jose.mjs", &[&url])),
            Script::start(python("jwt_pyjwt.py", &[&url])),
        ];
        for script in &mut scripts {
            assert_eq!(script.asks().await.expect("it runs"), ["verdict", "-"]);
        }
        Self { keys, scripts }
    }

    /// Expects the verdict of each to be `expected`: the subject of a good token, or what is wrong.
    async fn expect(&mut self, shown: Shown<'_>, expected: &str) {
        assert_eq!(self.by_rust(shown).await, expected, "by jsonwebtoken");
        for script in &mut self.scripts {
            script.answer(&json!({
                "token": shown.token, "issuer": shown.issuer, "audience": shown.audience,
            }));
            let found = script.asks().await.expect("it runs");
            assert_eq!(found, ["verdict", expected], "by {}", script.what);
        }
    }

    async fn by_rust(&self, shown: Shown<'_>) -> String {
        let answer = Request::new(self.keys, "GET", JWKS).send().await.expect(200);
        let keys: JwkSet = serde_json::from_str(&answer.text()).expect("a JWK set");
        let header = jsonwebtoken::decode_header(shown.token).expect("a header");
        let Some(key) = keys.find(header.kid.as_deref().expect("a kid")) else {
            return "unknown".to_owned();
        };
        let key = DecodingKey::from_jwk(key).expect("a key");
        let mut rules = Validation::new(header.alg);
        rules.leeway = 0;
        rules.set_issuer(&[shown.issuer]);
        rules.set_audience(&[shown.audience]);
        match jsonwebtoken::decode::<Value>(shown.token, &key, &rules) {
            Ok(found) => found.claims["sub"].as_str().expect("a subject").to_owned(),
            Err(error) => match error.kind() {
                ErrorKind::ExpiredSignature => "expired".to_owned(),
                ErrorKind::InvalidSignature => "forged".to_owned(),
                ErrorKind::InvalidAudience => "wrong:aud".to_owned(),
                ErrorKind::InvalidIssuer => "wrong:iss".to_owned(),
                other => panic!("{other:?}"),
            },
        }
    }

    async fn end(mut self) {
        for script in &mut self.scripts {
            script.answer(&Value::Null);
            assert_eq!(script.asks().await, None);
        }
    }
}

/// The token with the payload of another one.
fn forged(token: &str, other: &str) -> String {
    let [header, _, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("no compact JWS")
    };
    let payload = other.split('.').nth(1).expect("a payload");
    format!("{header}.{payload}.{signature}")
}

async fn judge(algorithm: &str) {
    const AGE: Duration = Duration::from_hours(48);
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(&format!("[tokens]\nalgorithm = \"{algorithm}\""))
        .clock(Clock::manual(Clock::system().now() - AGE))
        .start()
        .await;
    let ann = gateway.sign_up("ann").await;
    gateway.advance(AGE);
    let bob = gateway.sign_up("bob").await;
    let mut libraries = Libraries::at(gateway.address).await;
    let good = Shown::new(&bob.token);
    libraries.expect(good, &bob.id).await;
    libraries.expect(Shown { audience: "another", ..good }, "wrong:aud").await;
    libraries.expect(Shown { issuer: "http://another", ..good }, "wrong:iss").await;
    libraries.expect(Shown::new(&ann.token), "expired").await;
    libraries.expect(Shown::new(&forged(&bob.token, &ann.token)), "forged").await;
    libraries.end().await;
}

#[tokio::test]
async fn tokens_of_every_algorithm_are_verified_and_bad_ones_refused() {
    tokio::join!(judge("ES256"), judge("EdDSA"), judge("RS256"));
}

#[tokio::test]
async fn the_keys_are_followed_when_they_change() {
    let upstream = Upstream::echo().await;
    let often = "{ rate = \"1000/second\", by = \"ip\" }";
    let limits =
        format!("[limits]\nlogin = {often}\nlogin_network = {often}\nlogin_account = {often}");
    let builder = TestGateway::builder().upstream("app", &upstream).config(&limits);
    let program = Program::of(builder).await;
    program.run(&["migrate"]).await.expect(0);
    let user = ["users", "create", "ann@example.com"];
    let id = program.run_with(&user, PASSWORD).await.expect(0).stdout.trim().to_owned();
    let _running = program.serve().await;
    let log_in = async || {
        let body = json!({ "email": "ann@example.com", "password": PASSWORD });
        let request = Request::new(program.public, "POST", "/auth/login").json(&body);
        request.send().await.expect(200).json()["access_token"].as_str().expect("it").to_owned()
    };
    let published = async || {
        let answer = Request::new(program.public, "GET", JWKS).send().await.expect(200);
        answer.json()["keys"].as_array().expect("keys").clone()
    };
    let old = log_in().await;
    let mut libraries = Libraries::at(program.public).await;
    libraries.expect(Shown::new(&old), &id).await;

    program.run(&["keys", "rotate", "--now"]).await.expect(0);
    patiently("both keys", async {
        while published().await.len() != 2 {
            pause().await;
        }
    })
    .await;
    // It signs a little later, when every gateway knows it.
    let kid = |token: &str| jsonwebtoken::decode_header(token).expect("a header").kid;
    let new = patiently("a token of the new key", async {
        loop {
            let token = log_in().await;
            if kid(&token) != kid(&old) {
                return token;
            }
            pause().await;
        }
    })
    .await;
    libraries.expect(Shown::new(&new), &id).await;
    libraries.expect(Shown::new(&old), &id).await;

    // Whoever starts after the old key has gone knows nothing of it.
    let first = kid(&old).expect("a kid");
    program.run(&["keys", "retire", &first]).await.expect(0);
    patiently("one key", async {
        while published().await.len() != 1 {
            pause().await;
        }
    })
    .await;
    let mut later = Libraries::at(program.public).await;
    later.expect(Shown::new(&new), &id).await;
    later.expect(Shown::new(&old), "unknown").await;
    libraries.end().await;
    later.end().await;
}
