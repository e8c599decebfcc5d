//! HTTP/1.1 messages as the harness reads them, on either side of the gateway: strictly, by itself,
//! byte for byte, so that what the gateway sends is checked by something that is not the library it
//! is built on. Anything RFC 9112 does not allow a sender is an error, never repaired.

use std::fmt;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Far more than any head in these tests.
const MAX_HEAD_BYTES: usize = 256 << 10;

/// Why no message could be read.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The other side closed or reset the connection in the middle.
    Cut,
    /// The other side sent what no sender may send.
    Syntax(String),
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Cut
    }
}

/// The start line and the fields of a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    /// All of it, as received.
    pub(crate) raw: Vec<u8>,
    /// The start line.
    pub(crate) line: String,
    /// The fields.
    pub(crate) headers: Headers,
}

/// Header fields in order, names as they were sent, one char for each byte of a value.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// Every value of `name`, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| &**v).collect()
    }

    /// The value of `name`, which stands at most once.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} stands {} times: {values:?}", values.len());
        values.first().copied()
    }

    /// Whether `name` stands at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, value)| format!("{name}: {value}")))
            .finish()
    }
}

impl Head {
    /// Parses a head, from its first byte to its empty line.
    fn parse(raw: &[u8]) -> Result<Self, String> {
        let text: String = raw.iter().map(|&b| char::from(b)).collect();
        let mut lines = text.strip_suffix("\r\n\r\n").ok_or("no empty line")?.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        check_text(&line)?;
        let headers = lines.map(parse_field).collect::<Result<_, String>>()?;
        Ok(Self { raw: raw.to_vec(), line, headers: Headers(headers) })
    }

    /// The three parts of the start line.
    pub(crate) fn parts(&self) -> Result<[&str; 3], String> {
        let mut parts = self.line.splitn(3, ' ');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        match (next(), next(), next()) {
            (Some(a), Some(b), c) => Ok([a, b, c.unwrap_or_default()]),
            _ => Err(format!("bad start line {:?}", self.line)),
        }
    }

    /// How the body is framed, when the message has one. `None`: neither field stands.
    pub(crate) fn framing(&self) -> Result<Option<Framing>, String> {
        let codings = self.headers.all("transfer-encoding");
        let lengths = self.headers.all("content-length");
        match (&codings[..], &lengths[..]) {
            ([], []) => Ok(None),
            (["chunked"], []) => Ok(Some(Framing::Chunked(0))),
            ([], [length]) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
                if length.len() > 1 && length.starts_with('0') {
                    return Err(format!("content-length {length:?}"));
                }
                Ok(Some(Framing::Length(length.parse().map_err(|_| "content-length overflows")?)))
            }
            _ => Err(format!("ambiguous framing: {codings:?} and {lengths:?}")),
        }
    }
}

/// Printable, tabs, and bytes above ASCII: nothing else may stand in a line (RFC 9110 §5.5).
fn check_text(text: &str) -> Result<(), String> {
    let fine = |c: char| c == '\t' || (c >= ' ' && c != '\x7f');
    if text.chars().all(fine) { Ok(()) } else { Err(format!("control byte in {text:?}")) }
}

fn parse_field(line: &str) -> Result<(String, String), String> {
    check_text(line)?;
    let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(format!("bad field name in {line:?}"));
    }
    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}

/// What is left of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes.
    Length(u64),
    /// So many bytes of the current chunk; 0 = a chunk size is next.
    Chunked(u64),
    /// Whatever comes before the connection closes.
    UntilClose,
}

/// A connection that is read as messages.
pub(crate) struct Wire {
    /// The socket; what was read ahead is not in it any more.
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Reads messages from `stream`.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Sends bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads more into the buffer; false at the end of the stream.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(16 << 10);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// What was read and not yet taken.
    pub(crate) fn take_buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// The next head. `None`: the connection ended before one began.
    pub(crate) async fn head(&mut self) -> Result<Option<Head>, Broken> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let raw: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Head::parse(&raw).map(Some).map_err(Broken::Syntax);
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(Broken::Syntax("endless head".to_owned()));
            }
            if !self.fill().await? {
                return match &self.buffer[..] {
                    [] => Ok(None),
                    _ => Err(Broken::Cut),
                };
            }
        }
    }

    /// The next piece of a body, as it comes; `None` at its end. Trailers are added to `trailers`.
    pub(crate) async fn piece(
        &mut self,
        framing: &mut Framing,
        trailers: &mut Headers,
    ) -> Result<Option<Vec<u8>>, Broken> {
        match framing {
            Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                let piece = self.at_most(*left).await?;
                *left -= piece.len() as u64;
                Ok(Some(piece))
            }
            Framing::UntilClose => {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Ok(None);
                }
                Ok(Some(self.take_buffered()))
            }
            Framing::Chunked(0) => {
                let line = self.line().await?;
                let size = u64::from_str_radix(&line, 16)
                    .ok()
                    .filter(|_| line.bytes().all(|b| b.is_ascii_hexdigit()))
                    .ok_or_else(|| Broken::Syntax(format!("chunk size {line:?}")))?;
                if size > 0 {
                    *framing = Framing::Chunked(size);
                    return Box::pin(self.piece(framing, trailers)).await;
                }
                loop {
                    let line = self.line().await?;
                    if line.is_empty() {
                        return Ok(None);
                    }
                    trailers.0.push(parse_field(&line).map_err(Broken::Syntax)?);
                }
            }
            Framing::Chunked(left) => {
                let piece = self.at_most(*left).await?;
                *left -= piece.len() as u64;
                if *left == 0 {
                    let end = self.line().await?;
                    if !end.is_empty() {
                        return Err(Broken::Syntax(format!("{end:?} behind a chunk")));
                    }
                }
                Ok(Some(piece))
            }
        }
    }

    async fn at_most(&mut self, limit: u64) -> Result<Vec<u8>, Broken> {
        if self.buffer.is_empty() && !self.fill().await? {
            return Err(Broken::Cut);
        }
        let take = usize::try_from(limit).unwrap_or(usize::MAX).min(self.buffer.len());
        Ok(self.buffer.drain(..take).collect())
    }

    async fn line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(end) = find(&self.buffer, b"\n") {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = line
                    .strip_suffix(b"\r\n")
                    .ok_or_else(|| Broken::Syntax("bare line feed in a body".to_owned()))?;
                return Ok(lossy(line));
            }
            if !self.fill().await? {
                return Err(Broken::Cut);
            }
        }
    }
}

/// Where `needle` begins.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Bytes as text, for people.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
