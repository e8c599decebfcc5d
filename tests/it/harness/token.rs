//! HS256 tokens (RFC 7519), made by hand so that a test can make bad ones.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

/// Somebody who signs tokens.
#[derive(Clone, Debug)]
pub(crate) struct Issuer {
    /// `iss`
    pub(crate) name: String,
    /// `aud`
    pub(crate) audience: String,
    /// The HMAC key.
    pub(crate) secret: Vec<u8>,
    /// Whether its tokens name a session, as ours do.
    sessions: bool,
}

impl Issuer {
    /// The secret of a gateway with `Builder::known_secret`.
    pub(crate) const SECRET: &str = "a-secret-of-our-own-for-tests-0123456789abcdef";
    /// The secret of the issuer `corp`.
    pub(crate) const FOREIGN_SECRET: &str = "the-secret-of-somebody-else-0123456789abcdefgh";

    /// The gateway itself.
    pub(crate) fn ours() -> Self {
        Self {
            name: "http://127.0.0.1:8080/auth".to_owned(),
            audience: "authenticated".to_owned(),
            secret: Self::SECRET.into(),
            sessions: true,
        }
    }

    /// The issuer `corp`.
    pub(crate) fn foreign() -> Self {
        Self {
            name: "https://id.example.com/".to_owned(),
            audience: "api".to_owned(),
            secret: Self::FOREIGN_SECRET.into(),
            sessions: false,
        }
    }

    /// A good token for `subject`, good for an hour.
    pub(crate) fn token(&self, subject: &str, now: Timestamp) -> Token {
        let iat = now.as_second();
        let mut claims = json!({
            "iss": self.name, "sub": subject, "aud": self.audience,
            "iat": iat, "exp": iat + 3600, "jti": Uuid::new_v4().to_string(),
        });
        if self.sessions {
            let ours = json!({
                "session_id": Uuid::new_v4().to_string(), "email": format!("{subject}@example.com"),
                "role": "authenticated", "app_metadata": {}, "user_metadata": {}, "aal": "aal1",
                "amr": [{ "method": "password", "timestamp": iat }], "is_anonymous": false,
            });
            claims
                .as_object_mut()
                .expect("an object")
                .extend(ours.as_object().expect("an object").clone());
        }
        let header = json!({ "alg": "HS256", "typ": "JWT" });
        Token { header, claims, secret: self.secret.clone() }
    }
}

/// A token that is not signed yet.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// JOSE header.
    pub(crate) header: Value,
    /// Claims.
    pub(crate) claims: Value,
    secret: Vec<u8>,
}

impl Token {
    /// Sets a claim; `null` takes it out.
    pub(crate) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.claims, name, value.into());
        self
    }

    /// Sets a header parameter; `null` takes it out.
    pub(crate) fn parameter(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.header, name, value.into());
        self
    }

    /// Carries these roles.
    pub(crate) fn roles(self, roles: &[&str]) -> Self {
        self.claim("app_metadata", json!({ "roles": roles }))
    }

    /// Is signed with another secret.
    pub(crate) fn secret(mut self, secret: &str) -> Self {
        self.secret = secret.into();
        self
    }

    /// The signed token.
    pub(crate) fn sign(&self) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&self.header), part(&self.claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let tag = hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }
}

fn set(object: &mut Value, name: &str, value: Value) {
    let object = object.as_object_mut().expect("an object");
    match value {
        Value::Null => object.remove(name),
        value => object.insert(name.to_owned(), value),
    };
}
