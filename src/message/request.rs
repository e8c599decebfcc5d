//! The head of a request: read strictly, checked before anything is decided. What is refused here
//! never reaches routing, and nothing is repaired.
//!
//! ```text
//! POST /api/u1/tasks?x=1 HTTP/1.1      method SP target SP version CRLF
//! Host: api.example                    *( name ":" OWS value OWS CRLF )
//! Content-Length: 3
//!                                      CRLF
//! ```

use http::{HeaderMap, Method};

use super::buffer::Buffer;
use super::fields::{FieldList, Fields, Known, Lines};
use super::lines::{self, LineError};

/// Longest request target (RFC 9112 §3 asks for at least 8000 octets).
pub const MAX_TARGET_BYTES: usize = 8 << 10;

/// Most fields in a head; 431 beyond.
pub const MAX_FIELDS: usize = 100;

/// Methods that are let in: those of RFC 9110 and RFC 5789 that a gateway can pass on.
pub const METHODS: [Method; 7] = [
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
    /// RFC 9113 §8.2.2: a field of an HTTP/1 connection in HTTP/2.
    #[error("a connection-specific field in HTTP/2")]
    ConnectionField,
    /// RFC 9110 §8.6: not one plain decimal number.
    #[error("Content-Length is not one plain number")]
    ContentLength,
    /// RFC 9110 §10.1.1: only `100-continue` is known.
    #[error("unknown expectation")]
    Expectation,
    /// RFC 9112 §3.2: exactly one, well formed.
    #[error("not exactly one valid Host")]
    Host,
    /// RFC 9110 §9.1.
    #[error("the method is not passed on")]
    Method,
    /// RFC 9112 §2 to §5.
    #[error("the head breaks the grammar of HTTP")]
    Syntax,
    /// RFC 9112 §3.2: origin form, or absolute form with our own scheme and authority.
    #[error("the request target has a form or a byte that is not accepted")]
    Target,
    /// Longer than 8 KiB.
    #[error("the request target is too long")]
    TargetTooLong,
    /// Longer than `server.max_header_bytes`, or more than 100 fields.
    #[error("the head is too large")]
    TooLarge,
    /// RFC 9112 §6.1: only `chunked`, once, and not in HTTP/1.0.
    #[error("Transfer-Encoding is not exactly chunked")]
    TransferEncoding,
    /// RFC 9112 §6.1.
    #[error("both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// Neither HTTP/1.0 nor HTTP/1.1 (RFC 9110 §15.6.6).
    #[error("the version of HTTP is not spoken here")]
    Version,
}

/// The version of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

/// How much body follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes; 0 also when nothing is said.
    Exactly(u64),
    /// To the end that the framing says.
    Streamed,
}

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    /// Method.
    pub method: Method,
    /// Version.
    pub version: Version,
    /// What follows.
    pub body: BodyLength,
    /// Asks for a tunnel of WebSocket messages: RFC 6455 §4.1, or over HTTP/2 RFC 8441 §4.
    pub websocket: bool,
    /// Path and query as they came, without scheme and authority of an absolute form.
    target: Place,
    path_bytes: usize,
    fields: FieldList,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    at: usize,
    bytes: usize,
}

impl RequestHead {
    /// A head that could not be read: for the record of its refusal.
    pub fn unreadable() -> Self {
        Self {
            method: Method::from_bytes(b"-").expect("a hyphen is a token"),
            version: Version::Http11,
            body: BodyLength::Exactly(0),
            websocket: false,
            target: Place::default(),
            path_bytes: 0,
            fields: FieldList::default(),
        }
    }

    /// A head that came over HTTP/2, before it is checked. `authority` is `:authority`.
    pub fn of_http2(
        method: Method,
        target: &str,
        authority: Option<&str>,
        headers: &HeaderMap,
        body: BodyLength,
        websocket: bool,
    ) -> Self {
        let mut fields = FieldList::default();
        if let Some(authority) = authority {
            fields.push(b"host", authority.as_bytes());
        }
        let mut cookies: Vec<u8> = Vec::new();
        for (name, value) in headers {
            // RFC 8441 §5: a WebSocket over HTTP/2 has no key.
            if websocket && name == http::header::SEC_WEBSOCKET_KEY {
                continue;
            }
            // RFC 9113 §8.2.3: a cookie in pieces is one field again outside of HTTP/2.
            if name == http::header::COOKIE {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value.as_bytes());
            } else {
                fields.push(name.as_str().as_bytes(), value.as_bytes());
            }
        }
        if !cookies.is_empty() {
            fields.push(b"cookie", &cookies);
        }
        // The target lies behind the fields.
        let at = fields.append(target.as_bytes());
        let place = Place { at, bytes: target.len() };
        let path_bytes = memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len());
        Self { method, version: Version::Http2, body, websocket, target: place, path_bytes, fields }
    }

    /// The field lines.
    pub fn fields(&self) -> Fields<'_> {
        self.fields.view()
    }

    /// Path and query, as received.
    pub fn target(&self) -> &str {
        let bytes = &self.fields.bytes()[self.target.at..self.target.at + self.target.bytes];
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The path, as received.
    pub fn path_bytes(&self) -> &[u8] {
        &self.fields.bytes()[self.target.at..self.target.at + self.path_bytes]
    }

    /// What follows the path: nothing, or `?` and a query.
    pub fn query_bytes(&self) -> &[u8] {
        &self.fields.bytes()[self.target.at + self.path_bytes..self.target.at + self.target.bytes]
    }

    /// The path, as received.
    pub fn path(&self) -> &str {
        std::str::from_utf8(self.path_bytes()).unwrap_or_default()
    }

    /// What follows the first `?`.
    pub fn query(&self) -> Option<&str> {
        self.target().get(self.path_bytes + 1..)
    }

    /// Whether the client means to send further requests on this connection (RFC 9112 §9.3).
    pub fn wants_keep_alive(&self) -> bool {
        let fields = self.fields();
        match self.version {
            Version::Http10 => fields.lists(Known::Connection, "keep-alive"),
            Version::Http11 => !fields.lists(Known::Connection, "close"),
            Version::Http2 => true,
        }
    }

    /// Whether the client waits for leave before it sends the body (RFC 9110 §10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.fields().has(Known::Expect) && self.version != Version::Http10
    }

    /// The media type, when it is one of gRPC's.
    pub fn is_grpc(&self) -> bool {
        self.fields().first(Known::ContentType).is_some_and(|kind| {
            kind.starts_with(b"application/grpc")
                && matches!(kind.get(16), None | Some(b'+' | b';' | b' '))
        })
    }

    /// Checks what the grammar does not say: framing, `Host`, method, target, expectation.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&mut self, over_tls: bool) -> Result<(), HeadError> {
        let fields = self.fields.view();
        if fields.iter().len() > MAX_FIELDS {
            return Err(HeadError::TooLarge);
        }
        self.body = match self.version {
            Version::Http2 => check_http2(fields, self.body)?,
            version => body_length(fields, version)?,
        };
        let host = the_host(fields, self.version)?;
        if !METHODS.contains(&self.method) {
            return Err(HeadError::Method);
        }
        let target = &self.fields.bytes()[self.target.at..][..self.target.bytes];
        let Place { at, bytes } = check_target(target, host, over_tls)?;
        self.target = Place { at: self.target.at + at, bytes };
        let target = &self.fields.bytes()[self.target.at..][..bytes];
        self.path_bytes = memchr::memchr(b'?', target).unwrap_or(bytes);
        if fields.has(Known::Expect) {
            let expected = fields.sole(Known::Expect).map_err(|_| HeadError::Expectation)?;
            if !expected.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")) {
                return Err(HeadError::Expectation);
            }
        }
        if self.version == Version::Http11 && fields.has(Known::Upgrade) {
            // RFC 6455 §4.1: a GET, behind which the tunnel's own bytes begin.
            let bare = self.method == Method::GET && self.body == BodyLength::Exactly(0);
            self.websocket = bare && is_websocket_upgrade(fields);
        }
        Ok(())
    }
}

/// Finds heads in the bytes of a connection, however they are cut.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// Bytes that were looked through.
    scanned: usize,
    /// Where the current line starts.
    line: usize,
}

impl HeadReader {
    /// Takes a head, when `buffer` has all of it, off its front; it is not checked yet. Whatever is
    /// wrong is seen as soon as it is there.
    ///
    /// # Errors
    /// What breaks the grammar or the limits. Nothing behind it can be read.
    pub fn take(
        &mut self,
        buffer: &mut Buffer,
        max_bytes: usize,
    ) -> Result<Option<RequestHead>, HeadError> {
        // RFC 9112 §2.2: an empty line before a request is passed over.
        while self.line == 0 && buffer.filled().starts_with(b"\r\n") {
            buffer.consume(2);
            self.scanned = 0;
        }
        if self.scanned == 0
            && let Some(parsed) = Parsed::of(buffer.filled(), max_bytes)?
        {
            // Whole at the first look, as nearly all are.
            return Ok(Some(parsed.into_head(buffer)));
        }
        let Some(end) = self.find_end(buffer.filled())? else {
            if buffer.len() >= max_bytes {
                return Err(too_large(buffer.filled()));
            }
            if self.scanned == buffer.len() && self.line == 0 {
                // Garbage need not be waited for.
                look_at_start(buffer.filled())?;
            }
            return Ok(None);
        };
        *self = Self::default();
        if end > max_bytes {
            return Err(too_large(buffer.filled()));
        }
        let parsed = Parsed::of(&buffer.filled()[..end], max_bytes)?.ok_or(HeadError::Syntax)?;
        Ok(Some(parsed.into_head(buffer)))
    }

    /// Whether bytes of a head have come.
    pub fn has_begun(&self) -> bool {
        self.scanned > 0
    }

    fn find_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, HeadError> {
        while let Some(found) = memchr::memchr(b'\n', &bytes[self.scanned..]) {
            let at = self.scanned + found;
            if at == 0 || bytes[at - 1] != b'\r' {
                return Err(HeadError::BareLineFeed);
            }
            let empty = at == self.line + 1;
            self.scanned = at + 1;
            self.line = at + 1;
            if empty {
                return Ok(Some(at + 1));
            }
        }
        self.scanned = bytes.len();
        Ok(None)
    }
}

/// RFC 9112 §3: a target that does not fit has an answer of its own.
fn too_large(bytes: &[u8]) -> HeadError {
    let line = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    if line > MAX_TARGET_BYTES { HeadError::TargetTooLong } else { HeadError::TooLarge }
}

/// What is no beginning of a request line.
fn look_at_start(bytes: &[u8]) -> Result<(), HeadError> {
    if matches!(bytes, b"" | b"\r") {
        return Ok(());
    }
    // No method that anybody uses is longer.
    let end = memchr::memchr(b' ', bytes).unwrap_or(bytes.len());
    if end > 32 || !lines::is_token(&bytes[..end]) { Err(HeadError::Syntax) } else { Ok(()) }
}

/// A head that was read, and still lies where it was.
struct Parsed {
    line: RequestLine,
    lines: Lines,
    bytes: usize,
}

impl Parsed {
    /// Reads the head at the front of `bytes`; `None` when it is not all there, or too large.
    fn of(bytes: &[u8], max_bytes: usize) -> Result<Option<Self>, HeadError> {
        let visible = &bytes[..bytes.len().min(max_bytes)];
        let Some(end) = memchr::memchr(b'\n', visible) else { return Ok(None) };
        let Some(line) = visible[..end].strip_suffix(b"\r") else {
            return Err(HeadError::BareLineFeed);
        };
        let line = request_line(line)?;
        match lines::read(visible, end + 1, MAX_FIELDS, true) {
            Ok(Some((lines, bytes))) => Ok(Some(Self { line, lines, bytes })),
            Ok(None) => Ok(None),
            Err(LineError::BareLineFeed) => Err(HeadError::BareLineFeed),
            Err(LineError::Syntax) => Err(HeadError::Syntax),
            Err(LineError::TooMany) => Err(HeadError::TooLarge),
        }
    }

    /// Takes it off the front of the buffer that it was read in.
    fn into_head(self, buffer: &mut Buffer) -> RequestHead {
        let RequestLine { method, target, version } = self.line;
        RequestHead {
            method,
            version,
            body: BodyLength::Exactly(0),
            websocket: false,
            target,
            path_bytes: 0,
            fields: FieldList::new(buffer.split_front(self.bytes), self.lines),
        }
    }
}

struct RequestLine {
    method: Method,
    target: Place,
    version: Version,
}

/// `method SP request-target SP HTTP-version` (RFC 9112 §3), with nothing to spare.
fn request_line(line: &[u8]) -> Result<RequestLine, HeadError> {
    let at = memchr::memchr(b' ', line).ok_or(HeadError::Syntax)? + 1;
    let bytes = memchr::memchr(b' ', &line[at..]).ok_or(HeadError::Syntax)?;
    let version = match &line[at + bytes + 1..] {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', digits @ ..] if !digits.contains(&b' ') => {
            return Err(HeadError::Version);
        }
        _ => return Err(HeadError::Syntax),
    };
    let method = Method::from_bytes(&line[..at - 1]).map_err(|_| HeadError::Syntax)?;
    if bytes == 0 || !lines::is_text(&line[at..at + bytes]) {
        return Err(HeadError::Syntax);
    }
    Ok(RequestLine { method, target: Place { at, bytes }, version })
}

/// How much body follows: RFC 9112 §6, where anything that two parsers may read differently is an
/// error.
fn body_length(fields: Fields<'_>, version: Version) -> Result<BodyLength, HeadError> {
    if let Some(coding) =
        fields.sole(Known::TransferEncoding).map_err(|_| HeadError::TransferEncoding)?
    {
        if !coding.eq_ignore_ascii_case(b"chunked") || version == Version::Http10 {
            return Err(HeadError::TransferEncoding);
        }
        if fields.has(Known::ContentLength) {
            return Err(HeadError::TwoLengths);
        }
        return Ok(BodyLength::Streamed);
    }
    Ok(BodyLength::Exactly(declared_length(fields)?.unwrap_or(0)))
}

fn declared_length(fields: Fields<'_>) -> Result<Option<u64>, HeadError> {
    let length = fields.sole(Known::ContentLength).map_err(|_| HeadError::ContentLength)?;
    length.map(|digits| plain_number(digits).ok_or(HeadError::ContentLength)).transpose()
}

/// `1*DIGIT`, at most 19 of them.
pub(super) fn plain_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// RFC 9113 §8.1.1 and §8.2.2: a length must be true (which the frames show later), and fields of
/// a connection do not exist.
fn check_http2(fields: Fields<'_>, body: BodyLength) -> Result<BodyLength, HeadError> {
    let has_any = [Known::Connection, Known::TransferEncoding, Known::Upgrade];
    let named = ["keep-alive", "proxy-connection"];
    if has_any.into_iter().any(|known| fields.has(known))
        || named.into_iter().any(|name| fields.named(name).next().is_some())
        || fields.all(Known::Te).any(|te| !te.eq_ignore_ascii_case(b"trailers"))
    {
        return Err(HeadError::ConnectionField);
    }
    match (declared_length(fields)?, body) {
        (Some(length), BodyLength::Streamed) => Ok(BodyLength::Exactly(length)),
        (Some(length), BodyLength::Exactly(0)) if length > 0 => Err(HeadError::ContentLength),
        (_, body) => Ok(body),
    }
}

/// The one `Host`; HTTP/1.0 may leave it out. Over HTTP/2 `:authority` stands first, and a `Host`
/// beside it must be the same (RFC 9113 §8.3.1).
fn the_host(fields: Fields<'_>, version: Version) -> Result<Option<&[u8]>, HeadError> {
    let mut hosts = fields.all(Known::Host);
    let first = hosts.next();
    let second = hosts.next();
    let again = second.filter(|_| version == Version::Http2);
    let same = second.is_none() || again.zip(first).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b));
    match first {
        Some(host) if same && hosts.next().is_none() && is_authority(host) => Ok(Some(host)),
        None if version == Version::Http10 => Ok(None),
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

/// Where path and query lie within the target.
fn check_target(target: &[u8], host: Option<&[u8]>, over_tls: bool) -> Result<Place, HeadError> {
    let at = match target.first() {
        Some(b'/') => 0,
        // RFC 9112 §3.2.2: absolute form overrides Host; we take it only when both agree.
        Some(_) => {
            let ours: &[u8] = if over_tls { b"https://" } else { b"http://" };
            let scheme = target.get(..ours.len()).ok_or(HeadError::Target)?;
            let rest = &target[ours.len()..];
            let end = memchr::memchr(b'/', rest).ok_or(HeadError::Target)?;
            let same = host.is_some_and(|host| host.eq_ignore_ascii_case(&rest[..end]));
            if !scheme.eq_ignore_ascii_case(ours) || !same {
                return Err(HeadError::Target);
            }
            ours.len() + end
        }
        None => return Err(HeadError::Target),
    };
    let target = &target[at..];
    if target.len() > MAX_TARGET_BYTES {
        return Err(HeadError::TargetTooLong);
    }
    // Without an early end, so that many bytes are looked at at once.
    if !target.iter().fold(true, |fits, &byte| fits & fits_target(byte)) {
        return Err(HeadError::Target);
    }
    Ok(Place { at, bytes: target.len() })
}

/// Visible ASCII but for the fragment's mark and what no client leaves unencoded anywhere.
fn fits_target(byte: u8) -> bool {
    (byte > b' ') & (byte < 0x7f) & (byte != b'#') & (byte != b'<') & (byte != b'>')
}

/// RFC 6455 §4.1: one `Upgrade` line of `websocket`, which `Connection` names. In a request it asks
/// for a tunnel, in a 101 it agrees to one.
pub fn is_websocket_upgrade(fields: Fields<'_>) -> bool {
    let sole = fields.sole(Known::Upgrade).ok().flatten();
    sole.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(b"websocket"))
        && fields.lists(Known::Connection, "upgrade")
}

#[cfg(test)]
mod tests;
