//! What a request shows of itself: nothing, a token, or something that is no credential of ours.
//!
//! The `Authorization` field carries a token (RFC 6750 §2.1); where the configuration says so, for
//! browsers, a cookie or a subprotocol of a WebSocket handshake does too. A token in the query
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
    /// No token.
    Absent,
    /// Another scheme than `Bearer`: not for us. It names nobody, so a route that needs a token
    /// answers as if there were none.
    OtherScheme,
    /// A good token.
    Verified(Arc<Identity>),
    /// A token that is not good.
    Rejected(Rejection),
    /// Not exactly one well-formed token.
    Malformed(CarrierError),
    /// A cookie, on a request by which some other site's page would act ([`site`](super::site)).
    /// Whose it is was not looked at.
    CrossSite,
}

/// Tokens that a request carries elsewhere than in `Authorization`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elsewhere<'a> {
    /// As a subprotocol of a WebSocket handshake.
    pub subprotocol: Option<&'a [u8]>,
    /// In our cookie.
    pub cookie: Option<&'a [u8]>,
}

impl Credential {
    /// Reads the request's credential and has the token, if there is one, judged by `verify`.
    /// `authorization` are the lines of that field.
    pub fn of<'a>(
        authorization: impl Iterator<Item = &'a [u8]>,
        elsewhere: Elsewhere<'a>,
        verify: impl FnOnce(&[u8]) -> Result<Arc<Identity>, Rejection>,
    ) -> Self {
        match the_one(carried(authorization), elsewhere) {
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
            Self::Absent
            | Self::OtherScheme
            | Self::Rejected(_)
            | Self::Malformed(_)
            | Self::CrossSite => None,
        }
    }
}

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried<'a> {
    /// No token.
    Nothing,
    /// The text of a bearer token, not yet looked at.
    Token(&'a [u8]),
    /// Credentials of another scheme.
    OtherScheme,
}

/// Why a request's credentials cannot be read; 400 `invalid_request` (RFC 6750 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarrierError {
    /// More than one `Authorization` field, or a token beside one or beside another.
    #[error("more than one credential")]
    Repeated,
    /// A field that is not `Bearer`, one space, one token.
    #[error("the authorization field is malformed")]
    Malformed,
}

/// Finds the bearer token: `Bearer`, in any case, one space, and a `b64token` to the end of the
/// field (RFC 6750 §2.1), or what is carried elsewhere. A list of tokens is none, as a comma is no
/// part of one.
///
/// # Errors
/// [`CarrierError`].
pub fn bearer<'a>(
    headers: &'a HeaderMap,
    elsewhere: Elsewhere<'a>,
) -> Result<Carried<'a>, CarrierError> {
    let lines = headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    match the_one(carried(lines), elsewhere)? {
        Carried::Token(token) if !is_b64token(token) => Err(CarrierError::Malformed),
        carried => Ok(carried),
    }
}

/// The one token of all that a request may carry.
fn the_one<'a>(
    authorization: Result<Carried<'a>, CarrierError>,
    elsewhere: Elsewhere<'a>,
) -> Result<Carried<'a>, CarrierError> {
    match (authorization, elsewhere.subprotocol, elsewhere.cookie) {
        (authorization, None, None) | (authorization @ Err(_), ..) => authorization,
        (Ok(Carried::Nothing), Some(token), None) | (Ok(Carried::Nothing), None, Some(token)) => {
            Ok(Carried::Token(token))
        }
        (Ok(_), ..) => Err(CarrierError::Repeated),
    }
}

/// What `Authorization` carries; the token's grammar is not looked at.
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
            assert_eq!(bearer(&headers, Elsewhere::default()), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_credential_is_what_the_verifier_says_of_the_token() {
        type Text = Option<&'static str>;
        let of = |lines: &[&'static str], subprotocol: Text, cookie: Text| {
            let lines = lines.iter().map(|line| line.as_bytes());
            let (subprotocol, cookie) = (subprotocol.map(str::as_bytes), cookie.map(str::as_bytes));
            let elsewhere = Elsewhere { subprotocol, cookie };
            Credential::of(lines, elsewhere, |token| {
                assert_eq!(token, b"abc");
                Err(Rejection::Expired)
            })
        };
        assert!(matches!(of(&[], None, None), Credential::Absent));
        for (lines, subprotocol, cookie) in [
            (&["Bearer abc"] as &[_], None, None),
            (&[], Some("abc"), None),
            (&[], None, Some("abc")),
        ] {
            let rejected = of(lines, subprotocol, cookie);
            assert!(matches!(rejected, Credential::Rejected(Rejection::Expired)));
            assert!(rejected.identity().is_none());
        }
        assert!(matches!(of(&["Basic abc"], None, None), Credential::OtherScheme));
        assert!(Credential::CrossSite.identity().is_none());
        for (lines, subprotocol, cookie) in [
            (&["Bearer abc"] as &[_], Some("abc"), None),
            (&["Bearer abc"], None, Some("abc")),
            (&["Basic abc"], Some("abc"), None),
            (&["Basic abc"], None, Some("abc")),
            (&["Bearer abc", "Bearer abc"], None, Some("abc")),
            (&[], Some("abc"), Some("abc")),
            (&["Bearer abc"], Some("abc"), Some("abc")),
        ] {
            let malformed = of(lines, subprotocol, cookie);
            let repeated = matches!(malformed, Credential::Malformed(CarrierError::Repeated));
            assert!(repeated, "{lines:?} {subprotocol:?} {cookie:?}");
        }
    }

    #[test]
    fn what_is_no_token_is_malformed_wherever_it_stands() {
        for (lines, subprotocol, cookie) in [
            (&["Bearer"] as &[&str], None, None),
            (&[], Some("a b"), None),
            (&[], None, Some("\"abc\"")),
            (&[], None, Some("")),
        ] {
            let lines = lines.iter().map(|line| line.as_bytes());
            let elsewhere = Elsewhere {
                subprotocol: subprotocol.map(str::as_bytes),
                cookie: cookie.map(str::as_bytes),
            };
            let found = Credential::of(lines, elsewhere, |_| Err(Rejection::Malformed));
            let malformed = matches!(found, Credential::Malformed(CarrierError::Malformed));
            assert!(malformed, "{elsewhere:?}: {found:?}");
        }
    }
}
