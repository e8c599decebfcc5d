//! The two cookies in which a browser keeps a session of ours, found and taken out of what it sends.
//! Both names begin with `__Host-`, so that no other host and no plain connection can set them (RFC
//! 6265bis §4.1.3.2). Pairs are cut as browsers join them; a quote means nothing (§4.2.1).
//!
//! ```text
//! Cookie: theme=dark; __Host-portcullis-access=eyJhbGciOi…; __Host-portcullis-refresh=mEq2…
//! ```

use std::borrow::Cow;

/// The cookie of the access token.
pub const ACCESS: &str = "__Host-portcullis-access";
/// The cookie of the refresh token.
pub const REFRESH: &str = "__Host-portcullis-refresh";

/// What both names begin with, so that one look tells that a line has neither.
const PREFIX: &[u8] = b"__Host-portcullis-";

/// More than one cookie of a name, of which no browser has two: something else set one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Several;

/// The value of the one cookie with this name in all `Cookie` lines.
///
/// # Errors
/// There are several.
pub fn sole<'a>(
    lines: impl Iterator<Item = &'a [u8]>,
    name: &str,
) -> Result<Option<&'a [u8]>, Several> {
    let mut values = lines.flat_map(pairs).filter_map(|pair| {
        let (found, value) = cut(pair);
        (found == name.as_bytes()).then_some(value)
    });
    let first = values.next();
    if values.next().is_some() { Err(Several) } else { Ok(first) }
}

/// Whether a `Cookie` line may hold a cookie of ours.
pub fn may_hold_ours(line: &[u8]) -> bool {
    memchr::memmem::find(line, PREFIX).is_some()
}

/// A `Cookie` line without ours, the others byte for byte; empty when nothing is left.
pub fn without_ours(line: &[u8]) -> Cow<'_, [u8]> {
    if !may_hold_ours(line) || !pairs(line).any(passes_for_ours) {
        return Cow::Borrowed(line);
    }
    let others: Vec<&[u8]> = pairs(line).filter(|pair| !passes_for_ours(pair)).collect();
    let left = others.join(&b';');
    let left = left.trim_ascii_start();
    // Separators alone are no cookies.
    let is_empty = left.iter().all(|&byte| matches!(byte, b';' | b' ' | b'\t'));
    Cow::Owned(if is_empty { Vec::new() } else { left.to_vec() })
}

/// Whether a `Set-Cookie` line would make a browser send a cookie with a name of ours: also one
/// without a name, whose value some browsers send as if it were a pair (RFC 6265bis §5.7).
pub fn sets_ours(line: &[u8]) -> bool {
    begins_with_ours(line)
}

/// Whether somebody may read a pair as one of ours: by its name in an odd spelling, or behind a
/// comma, with which some proxies join lines.
fn passes_for_ours(pair: &[u8]) -> bool {
    pair.split(|&byte| byte == b',').any(begins_with_ours)
}

/// Whether one of our names stands there, after and before nothing but what is in no name.
fn begins_with_ours(text: &[u8]) -> bool {
    let start = text.iter().position(|&byte| is_of_name(byte)).unwrap_or(text.len());
    [ACCESS, REFRESH].iter().any(|name| {
        let rest = text[start..].strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| !rest.first().is_some_and(|&byte| is_of_name(byte)))
    })
}

/// `tchar` (RFC 9110 §5.6.2), of which names are made.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b';')
}

/// Name and value; without a `=` there is only a name, as upstreams may see it.
fn cut(pair: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
    let value = pair.get(end + 1..).unwrap_or_default();
    (pair[..end].trim_ascii(), value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cookie_of_a_name_is_found_wherever_it_stands() {
        for (lines, expected) in [
            (&[] as &[&str], Ok(None)),
            (&["a=1; b=2"], Ok(None)),
            (&["__Host-portcullis-access=abc"], Ok(Some("abc"))),
            (&["a=1; __Host-portcullis-access=abc; b=2"], Ok(Some("abc"))),
            (&["a=1;__Host-portcullis-access=abc;b=2"], Ok(Some("abc"))),
            (&["a=1", "__Host-portcullis-access=abc"], Ok(Some("abc"))),
            (&[" __Host-portcullis-access = abc "], Ok(Some("abc"))),
            (&["__Host-portcullis-access=a=b"], Ok(Some("a=b"))),
            (&["__Host-portcullis-access=\"abc\""], Ok(Some("\"abc\""))),
            (&["__Host-portcullis-access="], Ok(Some(""))),
            (&["__Host-portcullis-access"], Ok(Some(""))),
            // In quotes it is a pair all the same.
            (&["a=\"x; __Host-portcullis-access=abc; y\""], Ok(Some("abc"))),
            (&["__host-portcullis-access=abc"], Ok(None)),
            (&["__Host-portcullis-accesss=abc"], Ok(None)),
            (&["x__Host-portcullis-access=abc"], Ok(None)),
            (&["a=__Host-portcullis-access=abc"], Ok(None)),
            (&["=__Host-portcullis-access=abc"], Ok(None)),
            (&["__Host-portcullis-refresh=abc"], Ok(None)),
            (&["a=1, __Host-portcullis-access=abc"], Ok(None)),
            (&["__Host-portcullis-access=a; __Host-portcullis-access=a"], Err(Several)),
            (&["__Host-portcullis-access=a", "__Host-portcullis-access=b"], Err(Several)),
            (&["__Host-portcullis-access; __Host-portcullis-access=b"], Err(Several)),
        ] {
            let found = sole(lines.iter().map(|line| line.as_bytes()), ACCESS);
            let expected = expected.map(|value: Option<&str>| value.map(str::as_bytes));
            assert_eq!(found, expected, "{lines:?}");
        }
    }

    #[test]
    fn ours_are_taken_out_and_the_others_stay_as_they_are() {
        for (line, left) in [
            ("a=1; b=2", "a=1; b=2"),
            ("__Host-portcullis-access=abc", ""),
            ("__Host-portcullis-access=abc; __Host-portcullis-refresh=def", ""),
            ("__Host-portcullis-access=abc;", ""),
            (" ; __Host-portcullis-access=abc ;; ", ""),
            ("__Host-portcullis-access=abc; a=1", "a=1"),
            ("a=1; __Host-portcullis-access=abc", "a=1"),
            ("a=1; __Host-portcullis-access=abc; b=2", "a=1; b=2"),
            ("a=1;__Host-portcullis-access=abc;b=\"2 3\" ;  c", "a=1;b=\"2 3\" ;  c"),
            ("a=1; __Host-portcullis-refresh; b=2", "a=1; b=2"),
            ("a=\u{e9}; __Host-portcullis-access=abc", "a=\u{e9}"),
            ("__Host-portcullis-access=a; x=1; __Host-portcullis-access=b", "x=1"),
            ("__host-portcullis-access=abc", "__host-portcullis-access=abc"),
            ("__Host-portcullis-other=abc; a=1", "__Host-portcullis-other=abc; a=1"),
            ("a=__Host-portcullis-access", "a=__Host-portcullis-access"),
            ("x__Host-portcullis-access=1", "x__Host-portcullis-access=1"),
            ("__Host-portcullis-access2=1", "__Host-portcullis-access2=1"),
            ("", ""),
            // No browser sends these, but somebody may read them as ours.
            ("\u{a0}__Host-portcullis-access=abc; a=1", "a=1"),
            ("a=1; \"__Host-portcullis-access\"=abc", "a=1"),
            ("a=1; =__Host-portcullis-access=abc", "a=1"),
            ("__Host-portcullis-access\u{b}=abc; a=1", "a=1"),
            ("b=2; a=1, __Host-portcullis-access=abc", "b=2"),
            ("a=1,b=2,\"__Host-portcullis-refresh=abc", ""),
            ("a=1, b=__Host-portcullis-access", "a=1, b=__Host-portcullis-access"),
        ] {
            assert_eq!(&*without_ours(line.as_bytes()), left.as_bytes(), "{line}");
        }
    }

    #[test]
    fn an_upstream_cannot_set_ours() {
        for line in [
            "__Host-portcullis-access=x",
            "__Host-portcullis-refresh=x; Path=/; Secure",
            " __Host-portcullis-access = x",
            "__Host-portcullis-access",
            "__Host-portcullis-access; Max-Age=0",
            "=__Host-portcullis-access=x",
            " = __Host-portcullis-access=x",
            "\u{a0}__Host-portcullis-access=x",
            "; __Host-portcullis-access=x",
            "\"__Host-portcullis-access\"=x",
        ] {
            assert!(sets_ours(line.as_bytes()), "{line}");
        }
        for line in ["", ";", "a=1", "a=__Host-portcullis-access", "__Host-other=x", "a=1; b=2"] {
            assert!(!sets_ours(line.as_bytes()), "{line}");
        }
    }
}
