//! Reads an upstream's answers from bytes: heads (RFC 9112 §4) and the bodies that follow them
//! (§6, §7). Pure: no sockets, no clocks. Strict, because what is misread here reaches a client:
//! where two readings are possible the answer is an error, or its connection is not used again.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version};

/// Longest head. Below 64 KiB, so that places within it fit in 16 bits.
pub(crate) const MAX_HEAD_BYTES: usize = 60 << 10;

/// Most fields in a head.
const MAX_FIELDS: usize = 128;

/// Longest line of a chunk's size with its extensions, and longest trailer section.
const MAX_LINE_BYTES: usize = 16 << 10;

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A chunk does not begin with its size, or does not end where that says.
    #[error("a chunk is malformed")]
    Chunk,
    /// `Content-Length` is not one number.
    #[error("the content length is not one number")]
    ContentLength,
    /// The head breaks the grammar.
    #[error("the head is malformed")]
    Head,
    /// Longer than 60 KiB, or more than 128 fields.
    #[error("the head is too large")]
    HeadTooLarge,
    /// A transfer coding other than `chunked`.
    #[error("the transfer coding is not exactly chunked")]
    TransferEncoding,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    /// Status and fields.
    pub(crate) response: Response<()>,
    /// What follows.
    pub(crate) body: Decoder,
    /// Whether the connection may carry another request after this answer.
    pub(crate) keep_alive: bool,
}

impl Head {
    /// Takes a head, when `buffer` has all of it, off its front. `method` is the request's.
    pub(crate) fn take(buffer: &mut BytesMut, method: &Method) -> Result<Option<Self>, Malformed> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let visible = &buffer[..buffer.len().min(MAX_HEAD_BYTES)];
        let config = httparse::ParserConfig::default();
        let length =
            match config.parse_response_with_uninit_headers(&mut parsed, visible, &mut fields) {
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) if visible.len() < MAX_HEAD_BYTES => return Ok(None),
                Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                    return Err(Malformed::HeadTooLarge);
                }
                Err(_) => return Err(Malformed::Head),
            };
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(Malformed::Head)?;
        let is_1_1 = parsed.version == Some(1);
        // Where each field lies, so that the values can share the head's bytes.
        let mut places = [Place::default(); MAX_FIELDS];
        let count = parsed.headers.len();
        for (place, field) in places.iter_mut().zip(parsed.headers.iter()) {
            *place = Place::of(&visible[..length], field);
        }
        let bytes = buffer.split_to(length).freeze();
        let mut headers = HeaderMap::with_capacity(count + 2);
        for place in &places[..count] {
            let name = HeaderName::from_bytes(&bytes[place.name()]).map_err(|_| Malformed::Head)?;
            let value = HeaderValue::from_maybe_shared(bytes.slice(place.value()));
            headers.append(name, value.map_err(|_| Malformed::Head)?);
        }
        let (body, mut keep_alive) = framing(&headers, status, method)?;
        keep_alive &= is_1_1 && !says_close(&headers);
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = Version::HTTP_11;
        *response.headers_mut() = headers;
        Ok(Some(Self { response, body, keep_alive }))
    }

    /// Whether another head follows: `100 Continue` and kin (RFC 9110 §15.2).
    pub(crate) fn is_interim(&self) -> bool {
        self.response.status().is_informational()
            && self.response.status() != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Where a field lies in its head.
#[derive(Clone, Copy, Default)]
struct Place {
    name: u16,
    name_bytes: u16,
    value: u16,
    value_bytes: u16,
}

impl Place {
    fn of(head: &[u8], field: &httparse::Header<'_>) -> Self {
        let start = head.as_ptr() as usize;
        let short = |n: usize| u16::try_from(n).expect("a head is shorter than 64 KiB");
        Self {
            name: short(field.name.as_ptr() as usize - start),
            name_bytes: short(field.name.len()),
            // An empty value need not lie anywhere.
            value: short((field.value.as_ptr() as usize).saturating_sub(start).min(head.len())),
            value_bytes: short(field.value.len()),
        }
    }

    fn name(self) -> Range<usize> {
        usize::from(self.name)..usize::from(self.name) + usize::from(self.name_bytes)
    }

    fn value(self) -> Range<usize> {
        usize::from(self.value)..usize::from(self.value) + usize::from(self.value_bytes)
    }
}

/// RFC 9112 §6.3. Also whether the framing leaves no doubt, so that the connection can be kept.
fn framing(
    headers: &HeaderMap,
    status: StatusCode,
    method: &Method,
) -> Result<(Decoder, bool), Malformed> {
    let (mut has_length, mut has_coding) = (false, false);
    for name in headers.keys() {
        has_length |= *name == header::CONTENT_LENGTH;
        has_coding |= *name == header::TRANSFER_ENCODING;
    }
    let no_body = *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if no_body {
        return Ok((Decoder::length(0), true));
    }
    if has_coding {
        let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
        let first = lines.next().map(HeaderValue::as_bytes).unwrap_or_default();
        if lines.next().is_some() || !first.eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed::TransferEncoding);
        }
        // With a length beside it somebody may have read another end.
        return Ok((Decoder::chunked(), !has_length));
    }
    if has_length {
        let mut lines = headers.get_all(header::CONTENT_LENGTH).iter().map(|line| {
            let text = line.to_str().ok()?;
            let digits = (1..=19).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            if digits { text.parse::<u64>().ok() } else { None }
        });
        let first = lines.next().flatten().ok_or(Malformed::ContentLength)?;
        if !lines.all(|other| other == Some(first)) {
            return Err(Malformed::ContentLength);
        }
        return Ok((Decoder::length(first), true));
    }
    Ok((Decoder(State::UntilClose), false))
}

fn says_close(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|line| {
        let mut options = line.as_bytes().split(|&b| b == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    })
}

/// Where in a body the reading stands.
#[derive(Debug)]
pub(crate) struct Decoder(State);

#[derive(Debug)]
enum State {
    /// So many bytes to come.
    Length(u64),
    /// Before a chunk's size.
    ChunkSize,
    /// So many bytes of a chunk to come.
    ChunkData(u64),
    /// Before the line end after a chunk's data.
    ChunkEnd,
    /// After the last chunk; so many bytes of trailers were dropped.
    Trailers(usize),
    /// To the end of the connection.
    UntilClose,
    /// Nothing more.
    Done,
}

/// What a decoder has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A piece of the body.
    Data(Bytes),
    /// More bytes must be read first.
    NeedMore,
    /// The body has ended.
    End,
}

impl Decoder {
    fn length(bytes: u64) -> Self {
        Self(if bytes == 0 { State::Done } else { State::Length(bytes) })
    }

    fn chunked() -> Self {
        Self(State::ChunkSize)
    }

    /// Whether the body has ended.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    /// Bytes to come, when that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.0 {
            State::Length(bytes) => Some(bytes),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// What the end of the connection means here: the body's end, or a cut.
    pub(crate) fn ends_with_connection(&self) -> bool {
        matches!(self.0, State::UntilClose | State::Done)
    }

    /// Takes the next piece off the front of `buffer`. Trailers are dropped.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Malformed> {
        loop {
            match &mut self.0 {
                State::Done => return Ok(Decoded::End),
                _ if buffer.is_empty() => return Ok(Decoded::NeedMore),
                State::UntilClose => return Ok(Decoded::Data(buffer.split().freeze())),
                State::Length(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.0 = State::Done;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::ChunkData(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.0 = State::ChunkEnd;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::ChunkEnd => match buffer[..] {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        self.0 = State::ChunkSize;
                    }
                    [b'\r'] => return Ok(Decoded::NeedMore),
                    _ => return Err(Malformed::Chunk),
                },
                State::ChunkSize => {
                    let Some(line) = line_length(buffer)? else { return Ok(Decoded::NeedMore) };
                    let size = chunk_size(&buffer[..line])?;
                    buffer.advance(line + 2);
                    self.0 = if size == 0 { State::Trailers(0) } else { State::ChunkData(size) };
                }
                State::Trailers(dropped) => {
                    let Some(line) = line_length(buffer)? else { return Ok(Decoded::NeedMore) };
                    *dropped += line + 2;
                    if *dropped > MAX_LINE_BYTES {
                        return Err(Malformed::Chunk);
                    }
                    buffer.advance(line + 2);
                    if line == 0 {
                        self.0 = State::Done;
                    }
                }
            }
        }
    }
}

fn take(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= wanted as u64;
    buffer.split_to(wanted).freeze()
}

/// Length of the first line without its CRLF; `None` when it is not there in full.
fn line_length(buffer: &[u8]) -> Result<Option<usize>, Malformed> {
    match memchr::memchr(b'\n', &buffer[..buffer.len().min(MAX_LINE_BYTES)]) {
        Some(end) if end > 0 && buffer[end - 1] == b'\r' => Ok(Some(end - 1)),
        Some(_) => Err(Malformed::Chunk),
        None if buffer.len() >= MAX_LINE_BYTES => Err(Malformed::Chunk),
        None => Ok(None),
    }
}

/// `1*HEXDIG [chunk-ext]` (RFC 9112 §7.1). Extensions are passed over.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let extension = rest.trim_ascii_start();
    if !(1..=16).contains(&digits.len()) || !(extension.is_empty() || extension[0] == b';') {
        return Err(Malformed::Chunk);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Malformed::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_| Malformed::Chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads one answer, byte by byte or at once, and what is left over.
    fn read(
        bytes: &[u8],
        method: &Method,
        step: usize,
    ) -> Result<(u16, Vec<u8>, bool, Vec<u8>), Malformed> {
        let mut buffer = BytesMut::new();
        let mut pieces = bytes.chunks(step);
        let mut head = loop {
            if let Some(head) = Head::take(&mut buffer, method)? {
                break head;
            }
            buffer.extend_from_slice(pieces.next().ok_or(Malformed::Head)?);
        };
        let mut body = Vec::new();
        loop {
            match head.body.decode(&mut buffer)? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::End => break,
                Decoded::NeedMore => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None if head.body.ends_with_connection() => break,
                    None => return Err(Malformed::Chunk),
                },
            }
        }
        pieces.for_each(|piece| buffer.extend_from_slice(piece));
        Ok((head.response.status().as_u16(), body, head.keep_alive, buffer.to_vec()))
    }

    #[test]
    fn answers_are_framed_as_rfc_9112_says() {
        let cases: &[(&str, Method, u16, &str, bool, &str)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Method::GET, 200, "abc", true, ""),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd",
                Method::GET,
                200,
                "abc",
                true,
                "d",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
                Method::GET,
                200,
                "abc",
                true,
                "",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::HEAD, 200, "", true, ""),
            ("HTTP/1.1 304 N\r\nContent-Length: 3\r\n\r\n", Method::GET, 304, "", true, ""),
            ("HTTP/1.1 204 N\r\n\r\n", Method::GET, 204, "", true, ""),
            ("HTTP/1.1 200 OK\r\n\r\nabc", Method::GET, 200, "abc", false, ""),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", Method::GET, 200, "abc", false, ""),
            (
                "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n",
                Method::GET,
                200,
                "",
                false,
                "",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                Method::GET,
                200,
                "abc",
                true,
                "",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=\"b\"\r\nabc\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\nz",
                Method::GET,
                200,
                "abc0123456789",
                true,
                "z",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n0\r\n\r\n",
                Method::GET,
                200,
                "",
                false,
                "",
            ),
        ];
        for (bytes, method, status, body, keep_alive, rest) in cases {
            for step in [1, 2, 7, 4096] {
                let answer = read(bytes.as_bytes(), method, step);
                let expected =
                    (*status, body.as_bytes().to_vec(), *keep_alive, rest.as_bytes().to_vec());
                assert_eq!(answer, Ok(expected), "{bytes:?} by {step}");
            }
        }
    }

    #[test]
    fn answers_with_two_readings_are_refused() {
        let head = "HTTP/1.1 200 OK\r\n";
        for (rest, expected) in [
            ("Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", Malformed::ContentLength),
            ("Content-Length: +3\r\n\r\nabc", Malformed::ContentLength),
            ("Content-Length: 3, 3\r\n\r\nabc", Malformed::ContentLength),
            ("Content-Length: \r\n\r\n", Malformed::ContentLength),
            ("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Malformed::TransferEncoding),
            ("Transfer-Encoding: identity\r\n\r\n", Malformed::TransferEncoding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                Malformed::TransferEncoding,
            ),
            ("Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", Malformed::Chunk),
            ("Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", Malformed::Chunk),
            ("Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", Malformed::Chunk),
            ("Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", Malformed::Chunk),
            ("Transfer-Encoding: chunked\r\n\r\n\r\n", Malformed::Chunk),
            ("Transfer-Encoding: chunked\r\n\r\n11111111111111111\r\n", Malformed::Chunk),
            ("A : b\r\n\r\n", Malformed::Head),
            ("A: b\r\n c\r\n\r\n", Malformed::Head),
            (": b\r\n\r\n", Malformed::Head),
            ("A: b\0\r\n\r\n", Malformed::Head),
        ] {
            let bytes = format!("{head}{rest}");
            assert_eq!(read(bytes.as_bytes(), &Method::GET, 4096), Err(expected), "{rest:?}");
        }
        for bytes in
            ["HTTP/2 200 OK\r\n\r\n", "hello\r\n\r\n", "HTTP/1.1 99 X\r\n\r\n", "\0\r\n\r\n"]
        {
            assert_eq!(
                read(bytes.as_bytes(), &Method::GET, 4096),
                Err(Malformed::Head),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn heads_and_trailers_are_bounded() {
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(MAX_HEAD_BYTES));
        assert_eq!(read(long.as_bytes(), &Method::GET, 4096), Err(Malformed::HeadTooLarge));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(read(many.as_bytes(), &Method::GET, 4096), Err(Malformed::HeadTooLarge));
        let trailers = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n",
            "A: b\r\n".repeat(MAX_LINE_BYTES)
        );
        assert_eq!(read(trailers.as_bytes(), &Method::GET, 4096), Err(Malformed::Chunk));
    }
}
