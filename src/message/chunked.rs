//! Where the bytes of a body end: after a number of them, after the last chunk (RFC 9112 §7.1), or
//! with the connection. One decoder for requests and answers.

use super::buffer::Buffer;
use super::response::Malformed;

/// Longest line of a chunk's size, and most bytes of extensions and trailers in one body. They are
/// dropped: without a bound a body of a few bytes could cost any amount of reading.
pub const MAX_DROPPED_BYTES: usize = 16 << 10;

/// Where in a body the reading stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoder {
    state: State,
    /// Bytes of extensions and trailers so far.
    dropped: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes to come.
    Length(u64),
    /// Before a chunk's size.
    ChunkSize,
    /// So many bytes of a chunk to come.
    ChunkData(u64),
    /// Before the line end after a chunk's data.
    ChunkEnd,
    /// After the last chunk.
    Trailers,
    /// To the end of the connection.
    UntilClose,
    /// Nothing more.
    Done,
}

/// What is at the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    /// So many bytes of the body. Taken with [`Decoder::take`].
    Data(usize),
    /// More bytes must be read first.
    NeedMore,
    /// The body has ended.
    End,
}

/// What is next of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes are there.
    Data(usize),
    /// Nothing more.
    End,
}

impl Decoder {
    /// A body of so many bytes.
    pub fn length(bytes: u64) -> Self {
        Self::begin(if bytes == 0 { State::Done } else { State::Length(bytes) })
    }

    /// A body in chunks.
    pub fn chunked() -> Self {
        Self::begin(State::ChunkSize)
    }

    /// A body that ends with its connection; also a tunnel, whose bytes are nobody's messages.
    pub fn until_close() -> Self {
        Self::begin(State::UntilClose)
    }

    fn begin(state: State) -> Self {
        Self { state, dropped: 0 }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes to come, when that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(bytes) => Some(bytes),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// What the end of the connection means here: the body's end, or a cut.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Done)
    }

    /// Looks at the front of `buffer`; framing there is taken off, trailers are dropped.
    ///
    /// # Errors
    /// [`Malformed::Chunk`]
    pub fn look(&mut self, buffer: &mut Buffer) -> Result<Framed, Malformed> {
        loop {
            match &mut self.state {
                State::Done => return Ok(Framed::End),
                _ if buffer.is_empty() => return Ok(Framed::NeedMore),
                State::UntilClose => return Ok(Framed::Data(buffer.len())),
                State::Length(left) | State::ChunkData(left) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    return Ok(Framed::Data(most.min(buffer.len())));
                }
                State::ChunkEnd => match buffer.filled() {
                    [b'\r', b'\n', ..] => {
                        buffer.consume(2);
                        self.state = State::ChunkSize;
                    }
                    [b'\r'] => return Ok(Framed::NeedMore),
                    _ => return Err(Malformed::Chunk),
                },
                State::ChunkSize => {
                    let Some(line) = line_length(buffer.filled())? else {
                        return Ok(Framed::NeedMore);
                    };
                    let (size, extensions) = chunk_size(&buffer.filled()[..line])?;
                    buffer.consume(line + 2);
                    self.drop_bytes(extensions)?;
                    self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                }
                State::Trailers => {
                    let Some(line) = line_length(buffer.filled())? else {
                        return Ok(Framed::NeedMore);
                    };
                    if !is_trailer(&buffer.filled()[..line]) {
                        return Err(Malformed::Chunk);
                    }
                    buffer.consume(line + 2);
                    self.drop_bytes(line + 2)?;
                    if line == 0 {
                        self.state = State::Done;
                    }
                }
            }
        }
    }

    fn drop_bytes(&mut self, n: usize) -> Result<(), Malformed> {
        self.dropped += n;
        if self.dropped > MAX_DROPPED_BYTES { Err(Malformed::Chunk) } else { Ok(()) }
    }

    /// Takes `n` bytes that [`Decoder::look`] showed off the front of `buffer`.
    pub fn take(&mut self, buffer: &mut Buffer, n: usize) {
        buffer.consume(n);
        match &mut self.state {
            State::Length(left) => {
                *left -= (n as u64).min(*left);
                if *left == 0 {
                    self.state = State::Done;
                }
            }
            State::ChunkData(left) => {
                *left -= (n as u64).min(*left);
                if *left == 0 {
                    self.state = State::ChunkEnd;
                }
            }
            _ => {}
        }
    }
}

/// Length of the first line without its CRLF; `None` when it is not there in full.
fn line_length(buffer: &[u8]) -> Result<Option<usize>, Malformed> {
    match memchr::memchr(b'\n', &buffer[..buffer.len().min(MAX_DROPPED_BYTES)]) {
        Some(end) if end > 0 && buffer[end - 1] == b'\r' => Ok(Some(end - 1)),
        Some(_) => Err(Malformed::Chunk),
        None if buffer.len() >= MAX_DROPPED_BYTES => Err(Malformed::Chunk),
        None => Ok(None),
    }
}

/// `1*HEXDIG [chunk-ext]` (RFC 9112 §7.1): the size, and the bytes of the extensions. They are passed
/// over, but hold no control bytes: a lone CR there is a line end to some.
fn chunk_size(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let extension = rest.trim_ascii_start();
    let plain = rest.iter().all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f));
    if !(1..=16).contains(&digits.len())
        || !plain
        || !(extension.is_empty() || extension[0] == b';')
    {
        return Err(Malformed::Chunk);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Malformed::Chunk)?;
    let size = u64::from_str_radix(text, 16).map_err(|_| Malformed::Chunk)?;
    Ok((size, rest.len()))
}

/// A field line (RFC 9112 §7.1.2), or the empty one at the end. It is dropped, but what is none
/// shows that somebody reads another message here than we do.
fn is_trailer(line: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else { return line.is_empty() };
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let plain = |&b: &u8| b == b'\t' || (b >= b' ' && b != 0x7f);
    colon > 0 && line[..colon].iter().all(is_token) && line[colon..].iter().all(plain)
}
