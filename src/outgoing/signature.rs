//! Signatures of webhooks, in the form of Standard Webhooks 1.0: the receiver shares a secret with
//! the gateway and can tell that a request is ours, is whole, and is not an old one sent again.
//!
//! ```text
//! webhook-id:        ID            the same for every attempt
//! webhook-timestamp: SECONDS       of this attempt
//! webhook-signature: v1,BASE64( HMAC-SHA256( secret, ID "." SECONDS "." body ) )
//! ```

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use uuid::Uuid;
use zeroize::Zeroizing;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Fewest bytes of a key; the standard asks for 24 to 64.
const MIN_KEY_BYTES: usize = 24;

/// What a receiver checks signatures with. Prints nothing.
#[derive(Clone)]
pub struct SigningSecret(hmac::Key);

/// What is wrong with a secret; continues "the secret ...".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// What follows `whsec_` is not base64.
    #[error("must be base64 after `whsec_`")]
    NotBase64,
    /// It could be guessed.
    #[error("must have at least 24 bytes; make one with `echo whsec_$(openssl rand -base64 32)`")]
    TooShort,
}

impl SigningSecret {
    /// Reads a secret: `whsec_BASE64` as the standard writes it, `v1,whsec_BASE64` as Supabase
    /// does, or any other text, whose bytes are the key.
    ///
    /// # Errors
    /// It is no secret, or too short a one.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix("v1,").unwrap_or(text).strip_prefix("whsec_");
        let key = Zeroizing::new(match encoded {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| SecretError::NotBase64)?,
            None => text.as_bytes().to_vec(),
        });
        if key.len() < MIN_KEY_BYTES {
            return Err(SecretError::TooShort);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The header fields that prove `body`: `id` is one for all attempts, so that the receiver can
    /// tell a repeated one; `now` is the time of this attempt.
    pub fn sign(&self, id: Uuid, now: Timestamp, body: &[u8]) -> HeaderMap {
        let (id, seconds) = (id.to_string(), now.as_second().to_string());
        let mut context = hmac::Context::with_key(&self.0);
        for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
            context.update(part);
        }
        let signature = format!("v1,{}", STANDARD.encode(context.sign()));
        let fields = [(ID, id), (TIMESTAMP, seconds), (SIGNATURE, signature)];
        let field = |(name, value): (HeaderName, String)| {
            let value = HeaderValue::try_from(value);
            (name, value.expect("hexadecimal digits, decimal digits and base64 are header values"))
        };
        fields.into_iter().map(field).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(secret: &str) -> HeaderMap {
        let secret = SigningSecret::parse(secret).expect("a secret");
        let id: Uuid = "018f2d3e-0000-7000-8000-000000000001".parse().expect("a UUID");
        let now = Timestamp::from_second(1_700_000_000).expect("a time");
        secret.sign(id, now, br#"{"type":"mail"}"#)
    }

    #[test]
    fn a_signature_is_what_another_implementation_computes() {
        // Made with Python's hmac:
        // base64.b64encode(hmac.new(b"0123456789abcdef0123456789abcdef",
        //   b'018f2d3e-0000-7000-8000-000000000001.1700000000.{"type":"mail"}', "sha256").digest())
        let expected = "v1,tCKF5Ix7ErW5PlvJPq3pPNV4I42ZR7/QZhCJFmGBpsE=";
        for secret in [
            "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            "v1,whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            "0123456789abcdef0123456789abcdef",
        ] {
            let headers = signed(secret);
            assert_eq!(headers["webhook-id"], "018f2d3e-0000-7000-8000-000000000001");
            assert_eq!(headers["webhook-timestamp"], "1700000000");
            assert_eq!(headers["webhook-signature"], expected, "{secret}");
        }
        let other = signed("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWc=");
        assert_ne!(other["webhook-signature"], expected);
    }

    #[test]
    fn secrets_that_are_none() {
        for (text, expected) in [
            ("", SecretError::TooShort),
            ("short", SecretError::TooShort),
            ("whsec_", SecretError::TooShort),
            ("whsec_c2hvcnQ=", SecretError::TooShort),
            ("v1,whsec_c2hvcnQ=", SecretError::TooShort),
            ("whsec_not base64 at all, but long enough", SecretError::NotBase64),
            ("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY", SecretError::NotBase64),
        ] {
            assert_eq!(SigningSecret::parse(text).err(), Some(expected), "{text}");
        }
    }
}
