//! The one parser of request paths: canonical, or refused. It never repairs, so the bytes that are
//! matched are the bytes that are forwarded, and no reading of them differs from ours.
//!
//! It knows nothing of routes: what only some routes allow (an encoded slash, `;parameters`) is
//! reported, not judged. The invariant: what [`CanonicalPath::parse`] accepts decodes, once, to
//! UTF-8 without dot segments, empty inner segments, backslashes, controls or escapes.
//!
//! ```text
//! /api/018f…/tasks/      segments: "api", "018f…", "tasks", ""     (an empty last segment is a
//! /                      segments: ""                               path of its own, see below)
//! ```
//!
//! A trailing slash makes a different path: `/tasks/` is not `/tasks`. Only a pattern written with
//! the slash, or a final `{*rest}`, matches it.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Longest path. Request targets beyond 8,000 octets need not be supported (RFC 9112 §3), and every
/// byte is looked at more than once.
pub const MAX_PATH_BYTES: usize = 8 * 1024;

/// A request path, without query, of which only one reading exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CanonicalPath<'a> {
    raw: &'a str,
    escapes: bool,
    encoded_slash: bool,
    parameters: bool,
}

impl<'a> CanonicalPath<'a> {
    /// Checks the path of an origin-form target (RFC 9112 §3.2.1), as it was received.
    ///
    /// # Errors
    /// The first rule that the path breaks, from the left.
    pub fn parse(raw: &'a str) -> Result<Self, PathError> {
        let bytes = raw.as_bytes();
        if bytes.first() != Some(&b'/') {
            return Err(PathError::NotAbsolute);
        }
        if bytes.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        let mut path = Self { raw, escapes: false, encoded_slash: false, parameters: false };
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match CLASSES[usize::from(byte)] {
                Class::Plain => {
                    let plain = |&&byte: &&u8| CLASSES[usize::from(byte)] == Class::Plain;
                    at += bytes[at..].iter().take_while(plain).count();
                }
                Class::Slash => {
                    at += 1;
                    check_segment_start(&bytes[at..])?;
                }
                Class::Percent => {
                    path.escapes = true;
                    let (value, length) = decode_escape(&bytes[at..])?;
                    at += length;
                    path.parameters |= value == b';';
                    if value == b'/' {
                        // Some servers split at it, so both neighbours must bear being segments.
                        path.encoded_slash = true;
                        check_segment_start(&bytes[at..])?;
                    }
                }
                Class::Semicolon => {
                    path.parameters = true;
                    at += 1;
                }
                Class::Backslash => return Err(PathError::Backslash),
                Class::Fragment => return Err(PathError::Fragment),
                Class::Control => return Err(PathError::Control),
                Class::NonAscii => return Err(PathError::NonAscii),
                Class::NotInPath => return Err(PathError::ForbiddenByte),
            }
        }
        Ok(path)
    }

    /// The path as it was received, which is the path to forward.
    pub fn as_str(&self) -> &'a str {
        self.raw
    }

    /// What lies between the slashes, not decoded. The last one may be empty.
    pub fn segments(&self) -> Segments<'a> {
        Segments(Some(self.after_root()))
    }

    /// The path without its leading slash.
    pub(super) fn after_root(&self) -> &'a str {
        &self.raw[1..]
    }

    /// Whether there is any `%XX`.
    pub fn has_escapes(&self) -> bool {
        self.escapes
    }

    /// Whether there is a `%2F`, which only some routes allow.
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// Whether there is a `;`, plain or encoded, which some servers read as the start of parameters.
    pub fn has_parameters(&self) -> bool {
        self.parameters
    }
}

/// What lies between the slashes of a path.
#[derive(Clone, Debug)]
pub struct Segments<'a>(Option<&'a str>);

impl<'a> Iterator for Segments<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0?;
        let Some(at) = memchr::memchr(b'/', rest.as_bytes()) else { return self.0.take() };
        self.0 = Some(&rest[at + 1..]);
        Some(&rest[..at])
    }
}

/// The rule that a path breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// `*`, `host:port`, nothing.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// Over [`MAX_PATH_BYTES`].
    #[error("the path is too long")]
    TooLong,
    /// `.` or `..`, plain, encoded, mixed, with or without `;parameters`.
    #[error("the path has a dot segment")]
    DotSegment,
    /// `//`, or nothing but `;parameters` between two slashes.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `%2F` where the route does not allow it.
    #[error("the path has an encoded slash")]
    EncodedSlash,
    /// `%5C`
    #[error("the path has an encoded backslash")]
    EncodedBackslash,
    /// `%00` to `%1F`, `%7F`.
    #[error("the path has an encoded control character")]
    EncodedControl,
    /// `%25` before two hex digits: a second decoding would find another path.
    #[error("the path is encoded twice")]
    DoubleEncoding,
    /// `\`
    #[error("the path has a backslash")]
    Backslash,
    /// A raw control byte.
    #[error("the path has a control byte")]
    Control,
    /// A raw byte above 127.
    #[error("the path has a byte outside ASCII")]
    NonAscii,
    /// A raw byte that no path may hold (RFC 3986 §3.3) and that no browser leaves unencoded.
    #[error("the path has a byte that must be percent-encoded")]
    ForbiddenByte,
    /// `#`
    #[error("the path has a fragment")]
    Fragment,
    /// `%` without two hex digits.
    #[error("the path has an invalid percent-encoding")]
    InvalidEncoding,
    /// Decoded once, it is not UTF-8; overlong forms of dots and slashes are such.
    #[error("the path does not decode to UTF-8")]
    NotUtf8,
    /// `;` in a path variable.
    #[error("a path variable has a semicolon")]
    ParametersInVariable,
    /// A typed variable in another spelling than the canonical one.
    #[error("a path variable is not spelled in its canonical form")]
    VariableSpelling,
    /// A server that splits at `%2F`, or drops `;parameters`, would see a path of another route.
    #[error("the path can be read as a path of another route")]
    Ambiguous,
}

impl PathError {
    /// Every variant.
    pub const ALL: [Self; 18] = [
        Self::NotAbsolute,
        Self::TooLong,
        Self::DotSegment,
        Self::EmptySegment,
        Self::EncodedSlash,
        Self::EncodedBackslash,
        Self::EncodedControl,
        Self::DoubleEncoding,
        Self::Backslash,
        Self::Control,
        Self::NonAscii,
        Self::ForbiddenByte,
        Self::Fragment,
        Self::InvalidEncoding,
        Self::NotUtf8,
        Self::ParametersInVariable,
        Self::VariableSpelling,
        Self::Ambiguous,
    ];

    /// The stable word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAbsolute => "not_absolute",
            Self::TooLong => "too_long",
            Self::DotSegment => "dot_segment",
            Self::EmptySegment => "empty_segment",
            Self::EncodedSlash => "encoded_slash",
            Self::EncodedBackslash => "encoded_backslash",
            Self::EncodedControl => "encoded_control",
            Self::DoubleEncoding => "double_encoding",
            Self::Backslash => "backslash",
            Self::Control => "control_byte",
            Self::NonAscii => "non_ascii",
            Self::ForbiddenByte => "forbidden_byte",
            Self::Fragment => "fragment",
            Self::InvalidEncoding => "invalid_encoding",
            Self::NotUtf8 => "not_utf8",
            Self::ParametersInVariable => "parameters_in_variable",
            Self::VariableSpelling => "variable_spelling",
            Self::Ambiguous => "ambiguous",
        }
    }
}

/// Decodes one segment, once. Allocates only when there is something to decode. `None` = not
/// UTF-8, which a segment of a [`CanonicalPath`] never is.
pub fn decode_segment(segment: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(segment).decode_utf8().ok()
}

/// Whether `segment`, decoded once, is `text`, byte for byte. Does not allocate.
pub fn decodes_to(segment: &str, text: &str) -> bool {
    // Most segments have no escapes, and decode to themselves.
    segment == text || (segment.len() > text.len() && percent_decode_str(segment).eq(text.bytes()))
}

/// What a byte of a raw path means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Slash,
    Percent,
    Semicolon,
    Backslash,
    Fragment,
    Control,
    NonAscii,
    NotInPath,
}

static CLASSES: [Class; 256] = {
    let mut table = [Class::Plain; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = classify(byte);
        byte += 1;
    }
    table
};

/// `[`, `]`, `^` and `|` are outside RFC 3986 §3.3 too, but browsers send them as they are (WHATWG
/// URL, path percent-encode set) and no server reads them as structure.
const fn classify(byte: usize) -> Class {
    match byte {
        0x00..=0x1f | 0x7f => Class::Control,
        0x80.. => Class::NonAscii,
        // A `?` cannot come: the query was cut off before.
        0x20 | 0x22 | 0x3c | 0x3e | 0x3f | 0x60 | 0x7b | 0x7d => Class::NotInPath,
        0x23 => Class::Fragment,
        0x25 => Class::Percent,
        0x2f => Class::Slash,
        0x3b => Class::Semicolon,
        0x5c => Class::Backslash,
        _ => Class::Plain,
    }
}

/// Refuses a segment, right after the slash before it, that is empty but not last, or is `.` or
/// `..`. Tomcat and others drop `;parameters` first, so `..;x` is `..` and `;x` is empty.
fn check_segment_start(rest: &[u8]) -> Result<(), PathError> {
    let (mut dots, mut at) = (0, 0);
    loop {
        match next_unit(rest, at) {
            Some((b'.', length)) => {
                dots += 1;
                at += length;
            }
            Some((b'/' | b';', _)) => {
                return match dots {
                    0 => Err(PathError::EmptySegment),
                    1 | 2 => Err(PathError::DotSegment),
                    _ => Ok(()),
                };
            }
            None if dots == 1 || dots == 2 => return Err(PathError::DotSegment),
            _ => return Ok(()),
        }
    }
}

/// The byte at `at` after one decoding, and how many raw bytes it took. `None` = the end.
fn next_unit(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    match *bytes.get(at)? {
        b'%' => Some(hex_pair(bytes, at + 1).map_or((b'%', 1), |value| (value, 3))),
        byte => Some((byte, 1)),
    }
}

/// Checks the escape that `rest` starts with. Gives its (first) byte and the number of raw bytes to
/// go on after: more than 3 for a character of several bytes.
fn decode_escape(rest: &[u8]) -> Result<(u8, usize), PathError> {
    let value = hex_pair(rest, 1).ok_or(PathError::InvalidEncoding)?;
    match value {
        0x00..=0x1f | 0x7f => Err(PathError::EncodedControl),
        b'\\' => Err(PathError::EncodedBackslash),
        b'%' => {
            // `%252F`, and `%25%32%46` too: after one decoding both are `%2F`.
            let hex = |at| next_unit(rest, at).filter(|(unit, _)| unit.is_ascii_hexdigit());
            match hex(3).and_then(|(_, length)| hex(3 + length)) {
                Some(_) => Err(PathError::DoubleEncoding),
                None => Ok((value, 3)),
            }
        }
        0x80.. => decode_character(rest, value).map(|length| (value, length)),
        _ => Ok((value, 3)),
    }
}

/// Checks the escapes of one character outside ASCII and gives the number of raw bytes.
fn decode_character(rest: &[u8], lead: u8) -> Result<usize, PathError> {
    let width = match lead {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err(PathError::NotUtf8),
    };
    let mut character = [lead, 0, 0, 0];
    for (index, byte) in character.iter_mut().enumerate().take(width).skip(1) {
        *byte = match rest.get(3 * index) {
            Some(b'%') => hex_pair(rest, 3 * index + 1).ok_or(PathError::InvalidEncoding)?,
            _ => return Err(PathError::NotUtf8),
        };
    }
    match std::str::from_utf8(&character[..width]) {
        Ok(_) => Ok(3 * width),
        Err(_) => Err(PathError::NotUtf8),
    }
}

fn hex_pair(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn these_are_refused_for_the_first_rule_they_break() {
        use PathError as E;
        let refused: &[(&str, PathError)] = &[
            // not a path
            ("", E::NotAbsolute),
            ("*", E::NotAbsolute),
            ("api/u1", E::NotAbsolute),
            ("http://h/api", E::NotAbsolute),
            ("%2Fapi", E::NotAbsolute),
            (" /api", E::NotAbsolute),
            // dot segments, plain
            ("/.", E::DotSegment),
            ("/..", E::DotSegment),
            ("/./", E::DotSegment),
            ("/../", E::DotSegment),
            ("/api/./u1", E::DotSegment),
            ("/api/u1/../u2", E::DotSegment),
            ("/public/..", E::DotSegment),
            // encoded and mixed
            ("/%2e", E::DotSegment),
            ("/%2E%2E/u2", E::DotSegment),
            ("/api/%2e%2e/u2", E::DotSegment),
            ("/api/.%2E/u2", E::DotSegment),
            ("/api/%2e./u2", E::DotSegment),
            ("/api/u1/%2e", E::DotSegment),
            ("/api/u1/..%2fu2", E::DotSegment),
            ("/api/u1/x%2f../u2", E::DotSegment),
            ("/api/u1/x%2F..", E::DotSegment),
            ("/api/u1/x%2F%2e%2e%2Fu2", E::DotSegment),
            ("/.%2f", E::DotSegment),
            // with parameters
            ("/api/..;/u2", E::DotSegment),
            ("/api/..;x=y/u2", E::DotSegment),
            ("/api/.;/u2", E::DotSegment),
            ("/api/..;", E::DotSegment),
            ("/api/..%3b/u2", E::DotSegment),
            ("/api/%2e%2e;a/u2", E::DotSegment),
            ("/api/%2E%3Bx/u2", E::DotSegment),
            // empty segments
            ("//", E::EmptySegment),
            ("//api", E::EmptySegment),
            ("/api//u1", E::EmptySegment),
            ("/api/u1//", E::EmptySegment),
            ("//evil.example/api", E::EmptySegment),
            ("/api/;x/u1", E::EmptySegment),
            ("/;/api", E::EmptySegment),
            ("/%3b/api", E::EmptySegment),
            ("/api/%2Fu1", E::EmptySegment),
            ("/api%2F/u1", E::EmptySegment),
            ("/api%2f%2fu1", E::EmptySegment),
            // encoded backslash, controls
            ("/api%5cu1", E::EncodedBackslash),
            ("/api/..%5Cu1", E::EncodedBackslash),
            ("/api/u1%00", E::EncodedControl),
            ("/api/u1%00.html", E::EncodedControl),
            ("/api/%0d%0aX-User-Id:%20u2", E::EncodedControl),
            ("/api/%09", E::EncodedControl),
            ("/api/%1f", E::EncodedControl),
            ("/api/%7F", E::EncodedControl),
            // double encoding
            ("/api/%252e%252e/u2", E::DoubleEncoding),
            ("/api%252fu1", E::DoubleEncoding),
            ("/api%2500", E::DoubleEncoding),
            ("/%25%32%65", E::DoubleEncoding),
            ("/%252%65", E::DoubleEncoding),
            ("/%2525252e", E::DoubleEncoding),
            // raw bytes
            ("/api\\u1", E::Backslash),
            ("/\\evil.example", E::Backslash),
            ("/api/..\\u1", E::Backslash),
            ("/api/u1\0", E::Control),
            ("/api/\tu1", E::Control),
            ("/api/u1\r\nX: y", E::Control),
            ("/api/\x7f", E::Control),
            ("/api/ü", E::NonAscii),
            ("/api/\u{2215}", E::NonAscii),
            ("/api/u 1", E::ForbiddenByte),
            ("/api/\"", E::ForbiddenByte),
            ("/api/<u1>", E::ForbiddenByte),
            ("/api/{user_id}", E::ForbiddenByte),
            ("/api/`id`", E::ForbiddenByte),
            ("/api?x", E::ForbiddenByte),
            ("/api#", E::Fragment),
            ("/api/u2#/../u1", E::Fragment),
            // percent-encoding
            ("/%", E::InvalidEncoding),
            ("/%2", E::InvalidEncoding),
            ("/%zz", E::InvalidEncoding),
            ("/%2g", E::InvalidEncoding),
            ("/% 2", E::InvalidEncoding),
            ("/%u002e", E::InvalidEncoding),
            ("/%+2f", E::InvalidEncoding),
            ("/%c3%", E::InvalidEncoding),
            // not UTF-8 after one decoding
            ("/%ff", E::NotUtf8),
            ("/%80", E::NotUtf8),
            ("/%c0%ae%c0%ae/u2", E::NotUtf8),
            ("/%c0%af", E::NotUtf8),
            ("/%e0%80%ae", E::NotUtf8),
            ("/%f0%80%80%af", E::NotUtf8),
            ("/%ed%a0%80", E::NotUtf8),
            ("/%c3", E::NotUtf8),
            ("/%c3/%a9", E::NotUtf8),
            ("/%c3a9", E::NotUtf8),
            ("/%f5%80%80%80", E::NotUtf8),
        ];
        assert!(refused.len() >= 60);
        for (path, error) in refused {
            assert_eq!(CanonicalPath::parse(path), Err(*error), "{path:?}");
        }
        let long = "/".to_owned() + &"a".repeat(MAX_PATH_BYTES);
        assert_eq!(CanonicalPath::parse(&long), Err(E::TooLong));
        assert!(CanonicalPath::parse(&long[..MAX_PATH_BYTES]).is_ok());
    }

    #[test]
    fn these_are_accepted_with_these_segments() {
        let accepted: &[(&str, &[&str])] = &[
            ("/", &[""]),
            ("/api", &["api"]),
            ("/api/", &["api", ""]),
            ("/api/u1/tasks", &["api", "u1", "tasks"]),
            ("/api/u1/tasks/", &["api", "u1", "tasks", ""]),
            (
                "/api/018f2d3e-0000-7000-8000-000000000000",
                &["api", "018f2d3e-0000-7000-8000-000000000000"],
            ),
            ("/...", &["..."]),
            ("/a/.../b", &["a", "...", "b"]),
            ("/.well-known/jwks.json", &[".well-known", "jwks.json"]),
            ("/.a", &[".a"]),
            ("/..a", &["..a"]),
            ("/a..", &["a.."]),
            ("/a.", &["a."]),
            ("/%2ea", &["%2ea"]),
            ("/...;x", &["...;x"]),
            ("/a;v=1/b", &["a;v=1", "b"]),
            ("/a%3bb", &["a%3bb"]),
            ("/~user", &["~user"]),
            ("/a%7Eb", &["a%7Eb"]),
            ("/%61pi", &["%61pi"]),
            ("/a%20b", &["a%20b"]),
            ("/a+b", &["a+b"]),
            ("/a%2Bb", &["a%2Bb"]),
            ("/caf%C3%A9", &["caf%C3%A9"]),
            ("/%e2%82%ac/%f0%9f%98%80", &["%e2%82%ac", "%f0%9f%98%80"]),
            ("/100%25", &["100%25"]),
            ("/100%25/2f", &["100%25", "2f"]),
            ("/%25g0", &["%25g0"]),
            ("/%25a", &["%25a"]),
            ("/a:b@c!$&'()*+,=-._~", &["a:b@c!$&'()*+,=-._~"]),
            ("/a|b^c[0]", &["a|b^c[0]"]),
            ("/auth0%7C123", &["auth0%7C123"]),
            ("/a%23b%3Fc", &["a%23b%3Fc"]),
            ("/group%2Fproject", &["group%2Fproject"]),
            ("/a%2f", &["a%2f"]),
            ("/http:/x", &["http:", "x"]),
        ];
        assert!(accepted.len() >= 30);
        for (raw, segments) in accepted {
            let path = CanonicalPath::parse(raw).expect(raw);
            assert_eq!(path.as_str(), *raw);
            assert_eq!(path.segments().collect::<Vec<_>>(), *segments, "{raw}");
            assert_eq!(path.has_encoded_slash(), raw.to_lowercase().contains("%2f"), "{raw}");
            assert_eq!(path.has_escapes(), raw.contains('%'), "{raw}");
            let parameters = raw.contains(';') || raw.to_lowercase().contains("%3b");
            assert_eq!(path.has_parameters(), parameters, "{raw}");
        }
    }

    #[test]
    fn a_segment_is_decoded_once() {
        assert_eq!(decode_segment("plain"), Some(Cow::Borrowed("plain")));
        assert_eq!(decode_segment("%75%31"), Some(Cow::Borrowed("u1")));
        assert_eq!(decode_segment("%2541"), Some(Cow::Borrowed("%41")));
        assert_eq!(decode_segment("a+b"), Some(Cow::Borrowed("a+b")));
        assert_eq!(decode_segment("%ff"), None);
        assert!(decodes_to("u%31", "u1") && decodes_to("u1", "u1") && decodes_to("", ""));
        for (segment, text) in
            [("u1", "u"), ("u", "u1"), ("U1", "u1"), ("u%2531", "u1"), ("", "u1"), ("u1", "")]
        {
            assert!(!decodes_to(segment, text), "{segment} {text}");
        }
    }

    #[test]
    fn every_rule_has_its_own_word() {
        let words: std::collections::HashSet<_> =
            PathError::ALL.iter().map(|error| error.as_str()).collect();
        assert_eq!(words.len(), PathError::ALL.len());
    }

    /// Paths made of the pieces that parsers disagree about.
    fn odd_path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "[a-z0-9]{1,3}",
            4 => Just("/".to_owned()),
            2 => Just(".".to_owned()),
            1 => Just(";".to_owned()),
            1 => Just("\\".to_owned()),
            2 => "%[0-9a-fA-F]{2}",
            2 => prop::sample::select(vec!["%2f", "%2F", "%2e", "%5c", "%25", "%3b", "%00", "%"])
                .prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn what_is_accepted_decodes_once_to_a_harmless_path(raw in odd_path()) {
            let Ok(path) = CanonicalPath::parse(&raw) else { return Ok(()) };
            prop_assert_eq!(CanonicalPath::parse(path.as_str()), Ok(path));
            let decoded = percent_decode_str(&raw).decode_utf8().unwrap();
            prop_assert!(!decoded.contains(|c: char| c == '\\' || c.is_ascii_control()));
            let segments: Vec<&str> = decoded[1..].split('/').collect();
            for (index, segment) in segments.iter().enumerate() {
                let core = segment.split(';').next().unwrap();
                prop_assert!(core != "." && core != "..", "{:?}", raw);
                prop_assert!(!core.is_empty() || (index + 1 == segments.len() && segment.is_empty()));
            }
            if !path.has_encoded_slash() {
                prop_assert_eq!(segments.len(), path.segments().count());
            }
            // A second decoding changes nothing: no escape is left.
            prop_assert_eq!(percent_decode_str(&decoded).decode_utf8().unwrap(), decoded.as_ref());
        }

        #[test]
        fn no_text_makes_the_parser_panic(raw in any::<String>()) {
            let _ = CanonicalPath::parse(&raw);
            let _ = CanonicalPath::parse(&format!("/{raw}"));
        }
    }
}
