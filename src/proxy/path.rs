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
mod tests;
