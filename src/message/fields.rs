//! The field lines of a head, where they lie: nothing is copied, hashed or folded that nobody asks
//! for. Names that mean something to the gateway are recognised once, when a head is read.
//!
//! ```text
//! bytes  G E T   / …   H o s t :   a . e x a m p l e …
//! lines                └ name ┘    └ value ───────┘     known = Host
//! ```

use std::cell::RefCell;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// A field name that means something to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    /// None of the others.
    Other = 0,
    /// `Access-Control-Allow-Credentials`
    AllowCredentials,
    /// `Access-Control-Allow-Origin`
    AllowOrigin,
    /// `Authorization`
    Authorization,
    /// `Connection`
    Connection,
    /// `Content-Length`
    ContentLength,
    /// `Content-Type`
    ContentType,
    /// `Cookie`
    Cookie,
    /// `Date`
    Date,
    /// `Expect`
    Expect,
    /// `Forwarded`
    Forwarded,
    /// `Host`
    Host,
    /// `Origin`
    Origin,
    /// `Access-Control-Request-Method`
    RequestMethod,
    /// `Sec-Fetch-Site`
    SecFetchSite,
    /// `Sec-WebSocket-Protocol`
    WebSocketProtocol,
    /// `Set-Cookie`
    SetCookie,
    /// `TE`
    Te,
    /// `Trailer`
    Trailer,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Upgrade`
    Upgrade,
    /// `User-Agent`
    UserAgent,
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `X-Forwarded-Host`
    XForwardedHost,
    /// `X-Forwarded-Proto`
    XForwardedProto,
    /// `X-Request-Id`
    XRequestId,
    /// `X-Supabase-Api-Version`
    ApiVersion,
}

impl Known {
    /// Longest name below.
    pub(super) const LONGEST: usize = "access-control-allow-credentials".len();

    /// Recognises a name in any case.
    pub fn of(name: &[u8]) -> Self {
        let mut lower = [0; Self::LONGEST];
        let Some(room) = lower.get_mut(..name.len()) else { return Self::Other };
        room.copy_from_slice(name);
        room.make_ascii_lowercase();
        Self::of_lower_case(room)
    }

    /// Recognises a name in lower case.
    pub(super) fn of_lower_case(name: &[u8]) -> Self {
        match name {
            b"te" => Self::Te,
            b"date" => Self::Date,
            b"host" => Self::Host,
            b"cookie" => Self::Cookie,
            b"expect" => Self::Expect,
            b"origin" => Self::Origin,
            b"trailer" => Self::Trailer,
            b"upgrade" => Self::Upgrade,
            b"forwarded" => Self::Forwarded,
            b"connection" => Self::Connection,
            b"set-cookie" => Self::SetCookie,
            b"user-agent" => Self::UserAgent,
            b"content-type" => Self::ContentType,
            b"x-request-id" => Self::XRequestId,
            b"authorization" => Self::Authorization,
            b"content-length" => Self::ContentLength,
            b"sec-fetch-site" => Self::SecFetchSite,
            b"x-forwarded-for" => Self::XForwardedFor,
            b"x-forwarded-host" => Self::XForwardedHost,
            b"transfer-encoding" => Self::TransferEncoding,
            b"x-forwarded-proto" => Self::XForwardedProto,
            b"sec-websocket-protocol" => Self::WebSocketProtocol,
            b"x-supabase-api-version" => Self::ApiVersion,
            b"access-control-allow-origin" => Self::AllowOrigin,
            b"access-control-request-method" => Self::RequestMethod,
            b"access-control-allow-credentials" => Self::AllowCredentials,
            _ => Self::Other,
        }
    }

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// Where one field lies in its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    name: u32,
    name_bytes: u32,
    value: u32,
    value_bytes: u32,
    known: Known,
}

impl Line {
    /// A name and a value, by place and length.
    pub(super) fn new(
        name: usize,
        name_bytes: usize,
        value: usize,
        value_bytes: usize,
        known: Known,
    ) -> Self {
        Self {
            name: short(name),
            name_bytes: short(name_bytes),
            value: short(value),
            value_bytes: short(value_bytes),
            known,
        }
    }
}

/// Most lines whose memory is kept for the next head, and how many such a thread keeps.
const MAX_SPARE_LINES: usize = 64;
const MAX_SPARE: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// The places of all lines of a head. The memory of one is the next one's.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: Vec<Line>,
    present: u32,
}

impl Lines {
    /// None, with room for some.
    pub(super) fn new() -> Self {
        let lines = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(16));
        Self { lines, present: 0 }
    }

    /// Adds one.
    pub(super) fn push(&mut self, line: Line) {
        self.present |= line.known.bit();
        self.lines.push(line);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The lines, seen in their bytes.
    pub(super) fn view<'a>(&'a self, bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, lines: &self.lines, present: self.present }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !(1..=MAX_SPARE_LINES).contains(&self.lines.capacity()) {
            return;
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < MAX_SPARE {
                spare.push(lines);
            }
        });
    }
}

/// Field lines with the bytes they lie in.
#[derive(Debug, Default)]
pub struct FieldList {
    bytes: Vec<u8>,
    lines: Lines,
}

impl FieldList {
    /// `lines` that a parser found within `bytes`.
    pub(super) fn new(bytes: Vec<u8>, lines: Lines) -> Self {
        Self { bytes, lines }
    }

    /// Adds bytes that belong to no line; gives where they lie.
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        at
    }

    /// Adds a line at the end.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let known = Known::of(name);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.lines.push(Line::new(at, name.len(), at + name.len(), value.len(), known));
    }

    /// The bytes that the lines lie in.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The lines.
    pub fn view(&self) -> Fields<'_> {
        self.lines.view(&self.bytes)
    }
}

impl Drop for FieldList {
    fn drop(&mut self) {
        super::buffer::give_spare(std::mem::take(&mut self.bytes));
    }
}

/// From names and values.
impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for FieldList {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut list = Self::default();
        pairs.into_iter().for_each(|(name, value)| list.push(name.as_ref(), value.as_ref()));
        list
    }
}

/// A place within 4 GiB; heads are bounded far below.
fn short(n: usize) -> u32 {
    u32::try_from(n).expect("a head is shorter than 4 GiB")
}

/// Field lines, in order.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    lines: &'a [Line],
    present: u32,
}

/// One field line.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Its name, spelled as it came.
    pub name: &'a [u8],
    /// Its value, without white space around it.
    pub value: &'a [u8],
    /// Which name it is.
    pub known: Known,
}

impl<'a> Fields<'a> {
    /// All lines.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Field<'a>> + ExactSizeIterator {
        self.lines.iter().map(move |line| self.field(line))
    }

    /// Whether there is a line of this name.
    pub fn has(self, known: Known) -> bool {
        self.present & known.bit() != 0
    }

    /// The values of all lines of this name.
    pub fn all(self, known: Known) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        // What is not there is not looked for.
        let lines = if self.has(known) { self.lines } else { &[] };
        let own = lines.iter().filter(move |line| line.known == known);
        own.map(move |line| self.field(line).value)
    }

    /// The value of the first line of this name.
    pub fn first(self, known: Known) -> Option<&'a [u8]> {
        self.all(known).next()
    }

    /// The value of the one line of this name.
    ///
    /// # Errors
    /// There are several.
    pub fn sole(self, known: Known) -> Result<Option<&'a [u8]>, Repeated> {
        let mut values = self.all(known);
        let first = values.next();
        if values.next().is_some() { Err(Repeated) } else { Ok(first) }
    }

    /// The values of all lines with a name that is none of [`Known`]; `name` in lower case.
    pub fn named(self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| field.value)
    }

    /// Every element of the lists in all lines of this name (RFC 9110 §5.6.1).
    pub fn elements(self, known: Known) -> impl Iterator<Item = &'a [u8]> {
        self.all(known).flat_map(|line| line.split(|&b| b == b',')).map(<[u8]>::trim_ascii)
    }

    /// Whether an element of the lists is `word`, in any case.
    pub fn lists(self, known: Known, word: &str) -> bool {
        self.has(known)
            && self.elements(known).any(|element| element.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// The same as a map; lines that no map takes are left out.
    pub fn to_header_map(self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.lines.len());
        for field in self.iter() {
            FieldSink::field(&mut map, field.name, field.value);
        }
        map
    }

    fn field(self, line: &Line) -> Field<'a> {
        let slice = |at: u32, length: u32| &self.bytes[at as usize..at as usize + length as usize];
        Field {
            name: slice(line.name, line.name_bytes),
            value: slice(line.value, line.value_bytes),
            known: line.known,
        }
    }
}

/// A field that may stand once stands more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated;

/// Where the fields of a head are written to.
pub trait FieldSink {
    /// Adds a line. The name is a token and the value holds no line end.
    fn field(&mut self, name: &[u8], value: &[u8]);
}

/// As HTTP/1.1 has them.
impl FieldSink for Vec<u8> {
    #[inline]
    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.reserve(name.len() + value.len() + 4);
        self.extend_from_slice(name);
        self.extend_from_slice(b": ");
        self.extend_from_slice(value);
        self.extend_from_slice(b"\r\n");
    }
}

/// As HTTP/2 has them: names in lower case. What is no field there either is left out.
impl FieldSink for HeaderMap {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            self.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_what_they_are() {
        let list: FieldList =
            [("Host", "a"), ("X-Other", "1"), ("connection", "close, X-A"), ("CONNECTION", "B")]
                .into_iter()
                .collect();
        let fields = list.view();
        assert!(fields.has(Known::Host) && !fields.has(Known::Expect));
        assert_eq!(fields.sole(Known::Host), Ok(Some(&b"a"[..])));
        assert_eq!(fields.sole(Known::Connection), Err(Repeated));
        assert_eq!(fields.sole(Known::Expect), Ok(None));
        assert!(fields.lists(Known::Connection, "x-a") && !fields.lists(Known::Connection, "x"));
        assert_eq!(fields.elements(Known::Connection).count(), 3);
        assert_eq!(fields.named("x-other").next(), Some(&b"1"[..]));
        assert_eq!(fields.to_header_map().len(), 4);
        let mut out = Vec::new();
        FieldSink::field(&mut out, b"A", b"b");
        assert_eq!(out, b"A: b\r\n");
    }

    #[test]
    fn every_known_name_is_recognised_and_has_a_bit_of_its_own() {
        let names = "te date host expect origin trailer upgrade forwarded connection user-agent \
                     content-type x-request-id authorization content-length x-forwarded-for \
                     x-forwarded-host transfer-encoding x-forwarded-proto sec-websocket-protocol \
                     x-supabase-api-version access-control-allow-origin \
                     access-control-request-method access-control-allow-credentials \
                     cookie set-cookie sec-fetch-site";
        let mut bits = 0;
        for name in names.split_whitespace() {
            let known = Known::of(name.to_ascii_uppercase().as_bytes());
            assert_ne!(known, Known::Other, "{name}");
            assert_eq!(bits & known.bit(), 0, "{name}");
            bits |= known.bit();
        }
        assert_eq!(Known::of(b"hosts"), Known::Other);
        assert_eq!(Known::of(&[b'a'; 400]), Known::Other);
    }
}
