//! The compact form of a signed object (RFC 7515 §3.1), read strictly. It knows no claims: what it
//! hands out as verified bytes may be any JWS payload.
//!
//! ```text
//! eyJhbGciOi…  .  eyJpc3MiOi…  .  c2lnbmF0dXJl
//! └─ header ─┘    └─ payload ─┘   └─ signature ─┘    each base64url, without padding
//! └────── signing input ──────┘
//! ```
//!
//! There is one text for each token: padding, white space, stray trailing bits and repeated JSON
//! members are refused, so that no two readers can take one token for two things. The header is
//! only ever allowed to *name* a key; a header that brings its own (`jwk`, `jku`, `x5u`) or asks for a
//! different way to verify (`crit`, `b64`, `zip`) is refused (RFC 8725 §3.10). Certificates (`x5c`,
//! `x5t`), which some issuers put beside the `kid` of every token, are not looked at.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::keys::VerifyingKey;
use super::rejection::Rejection;
use crate::model::JsonObject;

/// Longest token that is looked at, and that is issued. Twice the largest token that our own
/// limits on metadata allow; ten times that would let a flood of junk cost real parsing time.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// A token that was taken apart. Nothing in it is to be believed before [`Compact::verify`].
pub struct Compact<'a> {
    header: Header,
    signing_input: &'a [u8],
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// The header parameters that are read; all others are either refused or without effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `alg`: must equal the algorithm of the key that verifies.
    pub algorithm: String,
    /// `typ`, as written.
    pub token_type: Option<String>,
    /// `kid`: which key to verify with.
    pub key_id: Option<String>,
}

impl<'a> Compact<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`Rejection::TooLong`], [`Rejection::Malformed`] or [`Rejection::Header`].
    pub fn parse(token: &'a [u8]) -> Result<Self, Rejection> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Rejection::TooLong);
        }
        let mut dots = memchr::memchr_iter(b'.', token);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(Rejection::Malformed);
        };
        Ok(Self {
            header: Header::parse(&decode(&token[..first])?)?,
            signing_input: &token[..second],
            payload: decode(&token[first + 1..second])?,
            signature: decode(&token[second + 1..])?,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the token says of itself; good for finding the key, and for nothing else.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, when `key` signed it with the key's own algorithm.
    ///
    /// # Errors
    /// [`Rejection::Algorithm`] or [`Rejection::Signature`].
    pub fn verify(&self, key: &VerifyingKey) -> Result<&[u8], Rejection> {
        key.verify(&self.header.algorithm, self.signing_input, &self.signature)?;
        Ok(&self.payload)
    }
}

impl Header {
    /// Parameters that change how a token is verified, or that bring the key along. No token of an
    /// honest issuer needs them here; every one of them has been an attack (RFC 8725 §2).
    const REFUSED: [&'static str; 7] = ["b64", "crit", "enc", "jku", "jwk", "x5u", "zip"];

    fn parse(json: &[u8]) -> Result<Self, Rejection> {
        let mut members = parse_object(json)?;
        for name in Self::REFUSED {
            if members.contains_key(name) {
                return Err(Rejection::Header(name));
            }
        }
        let mut text = |name: &'static str| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Rejection::Header(name)),
        };
        Ok(Self {
            algorithm: text("alg")?.ok_or(Rejection::Header("alg"))?,
            token_type: text("typ")?,
            key_id: text("kid")?,
        })
    }
}

/// base64url without padding; one text for each value (RFC 4648 §3.5, §5).
fn decode(segment: &[u8]) -> Result<Vec<u8>, Rejection> {
    URL_SAFE_NO_PAD.decode(segment).map_err(|_| Rejection::Malformed)
}

/// A JSON object none of whose members is there twice: RFC 8259 lets readers differ on which one
/// counts, RFC 7515 §4 and RFC 7519 §4 let us refuse.
pub(super) fn parse_object(json: &[u8]) -> Result<JsonObject, Rejection> {
    serde_json::from_slice::<UniqueMembers>(json)
        .map(|members| members.0)
        .map_err(|_| Rejection::Malformed)
}

struct UniqueMembers(JsonObject);

impl<'de> Deserialize<'de> for UniqueMembers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = JsonObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object without repeated members")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonObject, A::Error> {
                let mut members = JsonObject::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(de::Error::custom("repeated member"));
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Members).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> Vec<u8> {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(header), encode(payload), encode("signature")).into_bytes()
    }

    #[test]
    fn a_token_has_one_form() {
        let good = token(r#"{"alg":"ES256"}"#, "{}");
        assert!(Compact::parse(&good).is_ok());

        let text = String::from_utf8(good).unwrap();
        let segments: Vec<&str> = text.split('.').collect();
        let [header, payload, signature] = segments[..] else { panic!("three segments") };
        for bad in [
            String::new(),
            ".".into(),
            "..".into(),
            header.to_owned(),
            format!("{header}.{payload}"),
            format!("{text}."),
            format!("{text}.{payload}.{payload}"),
            format!("{header}=.{payload}.{signature}"),
            format!("{header}.{payload}.{signature}="),
            format!(" {text}"),
            format!("{text} "),
            format!("{text}\n"),
            format!("{header}. {payload}.{signature}"),
            format!("{header}.{payload}.{signature}+/"),
            // "signature" is nine bytes, so its last character has no spare bits; `{}` has.
            format!("{header}.{}.{signature}", payload.replace("e30", "e31")),
        ] {
            assert_eq!(Compact::parse(bad.as_bytes()).err(), Some(Rejection::Malformed), "{bad}");
        }
        let long = format!("{text}{}", "A".repeat(MAX_TOKEN_BYTES));
        assert_eq!(Compact::parse(long.as_bytes()).err(), Some(Rejection::TooLong));
    }

    #[test]
    fn a_header_only_names_its_key() {
        for (header, expected) in [
            ("{}", Rejection::Header("alg")),
            (r#"{"alg":null}"#, Rejection::Header("alg")),
            (r#"{"alg":"ES256","kid":7}"#, Rejection::Header("kid")),
            (r#"{"alg":"ES256","typ":["JWT"]}"#, Rejection::Header("typ")),
            (r#"{"alg":"ES256","crit":["exp"]}"#, Rejection::Header("crit")),
            (r#"{"alg":"ES256","crit":[]}"#, Rejection::Header("crit")),
            (r#"{"alg":"ES256","b64":true}"#, Rejection::Header("b64")),
            (r#"{"alg":"ES256","zip":"DEF"}"#, Rejection::Header("zip")),
            (r#"{"alg":"ES256","enc":"A256GCM"}"#, Rejection::Header("enc")),
            (r#"{"alg":"ES256","jwk":{}}"#, Rejection::Header("jwk")),
            (r#"{"alg":"ES256","jku":"https://x/"}"#, Rejection::Header("jku")),
            (r#"{"alg":"ES256","x5u":"https://x/"}"#, Rejection::Header("x5u")),
            (r#"{"alg":"ES256","alg":"none"}"#, Rejection::Malformed),
            (r#"{"alg":"ES256","\u0061lg":"none"}"#, Rejection::Malformed),
            (r#"["ES256"]"#, Rejection::Malformed),
            (r#""ES256""#, Rejection::Malformed),
            (r#"{"alg":"ES256"} {}"#, Rejection::Malformed),
            (r#"{"alg":"ES256",}"#, Rejection::Malformed),
            ("", Rejection::Malformed),
        ] {
            assert_eq!(Compact::parse(&token(header, "{}")).err(), Some(expected), "{header}");
        }
        let jws =
            token("{ \"kid\" : \"k\",\n\t\"typ\":\"JWT\",\"alg\":\"ES256\",\"cty\":\"x\" }", "{}");
        let header = Compact::parse(&jws).unwrap().header().clone();
        assert_eq!(header.key_id.as_deref(), Some("k"));
        assert_eq!(header.token_type.as_deref(), Some("JWT"));
        let named =
            token(r#"{"alg":"ES256","kid":"k","x5t":"AA","x5t#S256":"AA","x5c":["MII"]}"#, "{}");
        assert_eq!(Compact::parse(&named).unwrap().header().key_id.as_deref(), Some("k"));
    }
}
