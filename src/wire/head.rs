//! What the HTTP library does not refuse in a request's head: framing, target form, `Host`,
//! method, sizes. Everything here answers before routing, and never repairs.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Version};

use super::scan::Flaw;

/// Longest request target (RFC 9112 §3 asks for at least 8000 octets).
const MAX_TARGET_BYTES: usize = 8 << 10;

/// Most fields in a head; the HTTP library answers 431 beyond.
pub(crate) const MAX_FIELDS: usize = 100;

/// Methods that are let in: those of RFC 9110 and RFC 5789 that a gateway can pass on.
pub(crate) const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// RFC 9112 §2.2.
    #[error("a line of the head ends without a carriage return")]
    BareLineFeed,
    /// RFC 9112 §6.1.
    #[error("both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// RFC 9110 §8.6: not one plain decimal number.
    #[error("Content-Length is not one plain number")]
    ContentLength,
    /// RFC 9112 §6.1: only `chunked`, once, and not in HTTP/1.0.
    #[error("Transfer-Encoding is not exactly chunked")]
    TransferEncoding,
    /// RFC 9112 §3.2: exactly one, well formed.
    #[error("not exactly one valid Host")]
    Host,
    /// RFC 9112 §3.2: origin form, or absolute form with our own scheme and authority.
    #[error("the request target has a form or a byte that is not accepted")]
    Target,
    /// RFC 9110 §10.1.1: only `100-continue` is known.
    #[error("unknown expectation")]
    Expectation,
    /// RFC 9110 §9.1.
    #[error("the method is not passed on")]
    Method,
    /// Longer than 8 KiB.
    #[error("the request target is too long")]
    TargetTooLong,
}

impl From<Flaw> for HeadError {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::BareLineFeed => Self::BareLineFeed,
            Flaw::TwoLengths => Self::TwoLengths,
            Flaw::Target => Self::Target,
        }
    }
}

/// Which of the fields that mean something to the gateway a request has: found in one pass, as
/// looking for each of them by name costs more than all of them cost together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields {
    /// `Content-Length`
    pub(crate) content_length: bool,
    /// `Expect`
    pub(crate) expect: bool,
    /// `Origin`
    pub(crate) origin: bool,
    /// `Transfer-Encoding`
    pub(crate) transfer_encoding: bool,
    /// `Upgrade`
    pub(crate) upgrade: bool,
    /// `X-Supabase-Api-Version`
    pub(crate) api_version: bool,
}

impl Fields {
    /// Looks through the names.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut fields = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "content-length" => fields.content_length = true,
                "expect" => fields.expect = true,
                "origin" => fields.origin = true,
                "transfer-encoding" => fields.transfer_encoding = true,
                "upgrade" => fields.upgrade = true,
                "x-supabase-api-version" => fields.api_version = true,
                _ => {}
            }
        }
        fields
    }
}

/// Checks the head of a request that has these `fields`.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn check<B>(
    request: &Request<B>,
    fields: Fields,
    over_tls: bool,
) -> Result<(), HeadError> {
    if fields.transfer_encoding || fields.content_length {
        check_framing(request.headers(), request.version())?;
    }
    let host = the_host(request.headers(), request.version())?;
    if !METHODS.contains(request.method()) {
        return Err(HeadError::Method);
    }
    check_target(request, host, over_tls)?;
    if fields.expect {
        let expected = sole(request.headers(), &header::EXPECT, HeadError::Expectation)?;
        if !expected.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            return Err(HeadError::Expectation);
        }
    }
    Ok(())
}

fn check_framing(headers: &HeaderMap, version: Version) -> Result<(), HeadError> {
    if let Some(coding) = sole(headers, &header::TRANSFER_ENCODING, HeadError::TransferEncoding)? {
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || version == Version::HTTP_10 {
            return Err(HeadError::TransferEncoding);
        }
        if headers.contains_key(header::CONTENT_LENGTH) {
            return Err(HeadError::TwoLengths);
        }
    }
    if let Some(length) = sole(headers, &header::CONTENT_LENGTH, HeadError::ContentLength)? {
        let digits = length.as_bytes();
        if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
            return Err(HeadError::ContentLength);
        }
    }
    Ok(())
}

/// The one `Host`; HTTP/1.0 may leave it out.
fn the_host(headers: &HeaderMap, version: Version) -> Result<Option<&HeaderValue>, HeadError> {
    match sole(headers, &header::HOST, HeadError::Host)? {
        Some(host) if is_authority(host.as_bytes()) => Ok(Some(host)),
        None if version == Version::HTTP_10 => Ok(None),
        _ => Err(HeadError::Host),
    }
}

/// `uri-host [":" port]` (RFC 9110 §7.2), without userinfo.
fn is_authority(bytes: &[u8]) -> bool {
    let (host, port) = if let Some(b'[') = bytes.first() {
        let Some(end) = bytes.iter().position(|&b| b == b']') else { return false };
        let literal = |&b: &u8| b.is_ascii_hexdigit() || b == b':' || b == b'.';
        if end < 3 || !bytes[1..end].iter().all(literal) {
            return false;
        }
        (&bytes[..=end], &bytes[end + 1..])
    } else {
        let end = bytes.iter().position(|&b| b == b':').unwrap_or(bytes.len());
        bytes.split_at(end)
    };
    let name = |&b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let host_fits = host.first() == Some(&b'[') || (host.len() <= 255 && host.iter().all(name));
    let port_fits = match port.split_first() {
        None => true,
        Some((colon, digits)) => {
            *colon == b':'
                && (1..=5).contains(&digits.len())
                && digits.iter().all(u8::is_ascii_digit)
        }
    };
    !host.is_empty() && host_fits && port_fits
}

fn check_target<B>(
    request: &Request<B>,
    host: Option<&HeaderValue>,
    over_tls: bool,
) -> Result<(), HeadError> {
    let uri = request.uri();
    let target = uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    if target.len() > MAX_TARGET_BYTES {
        return Err(HeadError::TargetTooLong);
    }
    match (uri.scheme_str(), uri.authority()) {
        (None, None) => {}
        // RFC 9112 §3.2.2: absolute form overrides Host; we take it only when both agree.
        (Some(scheme), Some(authority)) => {
            let ours = if over_tls { "https" } else { "http" };
            let same_host = host.is_some_and(|host| {
                host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
            });
            if !scheme.eq_ignore_ascii_case(ours) || !same_host {
                return Err(HeadError::Target);
            }
        }
        _ => return Err(HeadError::Target),
    }
    // `*`, and an absolute form without a path, do not start with a slash.
    if !target.starts_with('/') || !target.bytes().all(|b| (0x21..0x7f).contains(&b)) {
        return Err(HeadError::Target);
    }
    Ok(())
}

/// The value of a field that may stand once.
fn sole<'h>(
    headers: &'h HeaderMap,
    name: &header::HeaderName,
    repeated: HeadError,
) -> Result<Option<&'h HeaderValue>, HeadError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(repeated) } else { Ok(first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &Request<()>, over_tls: bool) -> Result<(), HeadError> {
        super::check(request, Fields::of(request.headers()), over_tls)
    }

    fn request(method: &str, target: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], HeadError);

    #[test]
    fn heads_that_the_http_library_takes_are_refused() {
        let long = format!("/{}", "a".repeat(MAX_TARGET_BYTES));
        let h = ("host", "api.example");
        let table: &[Case<'_>] = &[
            ("GET", "/", &[], HeadError::Host),
            ("GET", "/", &[h, ("host", "b")], HeadError::Host),
            ("GET", "/", &[("host", "")], HeadError::Host),
            ("GET", "/", &[("host", "a,b")], HeadError::Host),
            ("GET", "/", &[("host", "a/b")], HeadError::Host),
            ("GET", "/", &[("host", "u@a")], HeadError::Host),
            ("GET", "/", &[("host", "a b")], HeadError::Host),
            ("GET", "/", &[("host", "a:x")], HeadError::Host),
            ("GET", "/", &[("host", "a:")], HeadError::Host),
            ("GET", "/", &[("host", "a:1:2")], HeadError::Host),
            ("GET", "/", &[("host", "[::1")], HeadError::Host),
            ("GET", "http://other/", &[h], HeadError::Target),
            ("GET", "https://api.example/", &[h], HeadError::Target),
            ("GET", "ftp://api.example/", &[h], HeadError::Target),
            ("OPTIONS", "*", &[h], HeadError::Target),
            ("CONNECT", "api.example:443", &[h], HeadError::Method),
            ("CONNECT", "/", &[h], HeadError::Method),
            ("TRACE", "/", &[h], HeadError::Method),
            ("BREW", "/", &[h], HeadError::Method),
            ("get", "/", &[h], HeadError::Method),
            ("GET", &long, &[h], HeadError::TargetTooLong),
            ("GET", "/", &[h, ("expect", "200-ok")], HeadError::Expectation),
            (
                "POST",
                "/",
                &[h, ("transfer-encoding", "gzip, chunked")],
                HeadError::TransferEncoding,
            ),
            (
                "POST",
                "/",
                &[h, ("transfer-encoding", "chunked, chunked")],
                HeadError::TransferEncoding,
            ),
            ("POST", "/", &[h, ("transfer-encoding", ",chunked")], HeadError::TransferEncoding),
            ("POST", "/", &[h, ("transfer-encoding", "identity")], HeadError::TransferEncoding),
            (
                "POST",
                "/",
                &[h, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                HeadError::TransferEncoding,
            ),
            ("POST", "/", &[h, ("content-length", "+1")], HeadError::ContentLength),
            ("POST", "/", &[h, ("content-length", "1, 1")], HeadError::ContentLength),
            (
                "POST",
                "/",
                &[h, ("content-length", "1"), ("content-length", "1")],
                HeadError::ContentLength,
            ),
            (
                "POST",
                "/",
                &[h, ("content-length", "1"), ("transfer-encoding", "chunked")],
                HeadError::TwoLengths,
            ),
        ];
        for (method, target, fields, expected) in table {
            let checked = check(&request(method, target, fields), false);
            assert_eq!(checked, Err(*expected), "{method} {target} {fields:?}");
        }
    }

    #[test]
    fn ordinary_heads_pass() {
        for host in ["a", "a:80", "a.example:65535", "[::1]", "[2001:db8::1]:8080", "127.0.0.1:1"] {
            let request = request("GET", "/a?b=/c", &[("host", host)]);
            assert_eq!(check(&request, false), Ok(()), "{host}");
        }
        let absolute = request("GET", "http://A.example/x", &[("host", "a.example")]);
        assert_eq!(check(&absolute, false), Ok(()));
        let mut old = request("GET", "/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(check(&old, false), Ok(()));
        let body = request(
            "POST",
            "/",
            &[("host", "a"), ("Transfer-Encoding", "Chunked"), ("expect", "100-Continue")],
        );
        assert_eq!(check(&body, false), Ok(()));
    }
}
