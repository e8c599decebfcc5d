//! What a request shows of itself: nothing, a token, or something that is no credential of ours.
//!
//! The `Authorization` field carries a token (RFC 6750 §2.1); on routes that say so, for browsers
//! that cannot set it, a subprotocol of a WebSocket handshake does too. A token in the query
//! (`?access_token=`, §2.3) is not looked at: it would end up in logs and in `Referer`. Two tokens
//! are an error rather than a choice (§2, and Envoy's CVE-2026-26308): whichever we checked, the
//! upstream might believe the other.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue};

use super::caller::Identity;
use super::rejection::Rejection;

/// What a request shows of itself, judged.
#[derive(Clone, Debug)]
pub enum Credential {
    /// No `Authorization`.
    Absent,
    /// Another scheme than `Bearer`: not for us. It names nobody, so a route that needs a token
    /// answers as if there were none.
    OtherScheme,
    /// A good token.
    Verified(Arc<Identity>),
    /// A token that is not good.
    Rejected(Rejection),
    /// Not exactly one well-formed `Authorization`.
    Malformed(CarrierError),
}

impl Credential {
    /// Reads the request's credential and has the token, if there is one, judged by `verify`.
    /// `authorization` are the lines of that field, `subprotocol` the token that came as one.
    pub fn of<'a>(
        authorization: impl Iterator<Item = &'a [u8]>,
        subprotocol: Option<&'a [u8]>,
        verify: impl FnOnce(&[u8]) -> Result<Arc<Identity>, Rejection>,
    ) -> Self {
        let carried = match (carried(authorization), subprotocol) {
            (Ok(Carried::Nothing), Some(token)) => Ok(Carried::Token(token)),
            (Ok(_), Some(_)) => Err(CarrierError::Repeated),
            (carried, None) | (carried @ Err(_), Some(_)) => carried,
        };
        match carried {
            Ok(Carried::Nothing) => Self::Absent,
            Ok(Carried::OtherScheme) => Self::OtherScheme,
            Ok(Carried::Token(token)) => match verify(token) {
                Ok(identity) => Self::Verified(identity),
                // Looked at only now: what was believed is well formed, and most tokens are.
                Err(_) if !is_b64token(token) => Self::Malformed(CarrierError::Malformed),
                Err(rejection) => Self::Rejected(rejection),
            },
            Err(error) => Self::Malformed(error),
        }
    }

    /// The identity, when there is one.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Verified(identity) => Some(identity),
            Self::Absent | Self::OtherScheme | Self::Rejected(_) | Self::Malformed(_) => None,
        }
    }
}

/// What `Authorization` carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried<'a> {
    /// There is no such field.
    Nothing,
    /// The text of a bearer token, not yet looked at.
    Token(&'a [u8]),
    /// Credentials of another scheme.
    OtherScheme,
}

/// Why a request's credentials cannot be read; 400 `invalid_request` (RFC 6750 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarrierError {
    /// More than one `Authorization` field, or a token beside it.
    #[error("more than one credential")]
    Repeated,
    /// A field that is not `Bearer`, one space, one token.
    #[error("the authorization field is malformed")]
    Malformed,
}

/// Finds the bearer token: `Bearer`, in any case, one space, and a `b64token` to the end of the
/// field (RFC 6750 §2.1). A list of tokens is none, as a comma is no part of one.
///
/// # Errors
/// [`CarrierError`].
pub fn bearer(headers: &HeaderMap) -> Result<Carried<'_>, CarrierError> {
    match carried(headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes))? {
        Carried::Token(token) if !is_b64token(token) => Err(CarrierError::Malformed),
        carried => Ok(carried),
    }
}

/// As [`bearer`], but the token's grammar is not looked at.
fn carried<'a>(mut lines: impl Iterator<Item = &'a [u8]>) -> Result<Carried<'a>, CarrierError> {
    let Some(field) = lines.next() else { return Ok(Carried::Nothing) };
    if lines.next().is_some() {
        return Err(CarrierError::Repeated);
    }
    if let Some(token) = field.strip_prefix(b"Bearer ") {
        // How nearly all of them begin.
        return Ok(Carried::Token(token));
    }
    let is_token_char = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let end = field.iter().position(|b| !is_token_char(b)).unwrap_or(field.len());
    let (scheme, rest) = field.split_at(end);
    if scheme.is_empty() || rest.first().is_some_and(|&b| b != b' ') {
        return Err(CarrierError::Malformed);
    }
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(Carried::OtherScheme);
    }
    Ok(Carried::Token(rest.get(1..).unwrap_or_default()))
}

/// `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`
fn is_b64token(token: &[u8]) -> bool {
    let padding = token.iter().rev().take_while(|&&b| b == b'=').count();
    let body = &token[..token.len() - padding];
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(b);
    !body.is_empty() && body.iter().all(fits)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn one_well_formed_field_carries_a_token() {
        use Carried::{Nothing, OtherScheme, Token};
        let malformed = Err(CarrierError::Malformed);
        for (fields, expected) in [
            (&[] as &[&[u8]], Ok(Nothing)),
            (&[b"Bearer abc.def-_~+/"], Ok(Token(b"abc.def-_~+/"))),
            (&[b"bearer abc"], Ok(Token(b"abc"))),
            (&[b"BEARER abc=="], Ok(Token(b"abc=="))),
            (&[b"Basic dTpw"], Ok(OtherScheme)),
            (&[b"Digest username=\"u\", realm=\"r\""], Ok(OtherScheme)),
            (&[b"Negotiate"], Ok(OtherScheme)),
            (&[b"BearerX abc"], Ok(OtherScheme)),
            (&[b"Bearer"], malformed),
            (&[b"Bearer "], malformed),
            (&[b"Bearer  abc"], malformed),
            (&[b"Bearer\tabc"], malformed),
            (&[b"Bearer abc "], malformed),
            (&[b"Bearer abc def"], malformed),
            (&[b"Bearer abc,Bearer def"], malformed),
            (&[b"Bearer abc, def"], malformed),
            (&[b"Bearer ="], malformed),
            (&[b"Bearer a=b"], malformed),
            (&[b"Bearer \"abc\""], malformed),
            (&[b"Bearer abc\xff"], malformed),
            (&[b"Bearer:abc"], malformed),
            (&[b"Bearer=abc"], malformed),
            (&[b""], malformed),
            (&[b",Bearer abc"], malformed),
            (&[b"Bearer abc", b"Bearer abc"], Err(CarrierError::Repeated)),
            (&[b"Basic dTpw", b"Bearer abc"], Err(CarrierError::Repeated)),
            (&[b"Bearer abc", b""], Err(CarrierError::Repeated)),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(AUTHORIZATION, HeaderValue::from_bytes(field).unwrap());
            }
            assert_eq!(bearer(&headers), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_credential_is_what_the_verifier_says_of_the_token() {
        let of = |lines: &[&'static str], subprotocol: Option<&'static str>| {
            let lines = lines.iter().map(|line| line.as_bytes());
            Credential::of(lines, subprotocol.map(str::as_bytes), |_| Err(Rejection::Expired))
        };
        assert!(matches!(of(&[], None), Credential::Absent));
        for (lines, subprotocol) in [(&["Bearer abc"] as &[_], None), (&[], Some("abc"))] {
            let rejected = of(lines, subprotocol);
            assert!(matches!(rejected, Credential::Rejected(Rejection::Expired)));
            assert!(rejected.identity().is_none());
        }
        assert!(matches!(of(&["Basic abc"], None), Credential::OtherScheme));
        for (lines, subprotocol, error) in [
            (&["Bearer"] as &[_], None, CarrierError::Malformed),
            (&[], Some("a b"), CarrierError::Malformed),
            (&["Bearer abc"], Some("abc"), CarrierError::Repeated),
            (&["Basic abc"], Some("abc"), CarrierError::Repeated),
        ] {
            let malformed = of(lines, subprotocol);
            assert!(matches!(malformed, Credential::Malformed(found) if found == error));
        }
    }
}
