//! The head of an answer (RFC 9112 §4), and which body follows it (§6.3). What is misread here
//! reaches a client, so where two readings are possible the answer is an error, or its connection is
//! not used again.

use http::Method;

use super::chunked::Decoder;
use super::fields::{Fields, Known, Lines};
use super::lines::{self, LineError};
use super::request::plain_number;

/// Longest head.
pub const MAX_HEAD_BYTES: usize = 60 << 10;

/// Most fields in a head.
const MAX_FIELDS: usize = 128;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// There is a body where none may be.
    #[error("a body follows an answer that has none")]
    Body,
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
    /// More interim answers than any server has to say.
    #[error("interim answers do not end")]
    Interim,
    /// A transfer coding other than `chunked`.
    #[error("the transfer coding is not exactly chunked")]
    TransferEncoding,
}

/// The head of an answer, at the front of the bytes that it was read from.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status: 100 to 999.
    pub status: u16,
    /// What follows.
    pub body: Decoder,
    /// Whether the connection may carry another request after this answer.
    pub keep_alive: bool,
    /// Length in bytes.
    pub bytes: usize,
    lines: Lines,
}

impl ResponseHead {
    /// Reads a head, when `bytes` has all of it. `method` is the request's.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn parse(bytes: &[u8], method: &Method) -> Result<Option<Self>, Malformed> {
        let visible = &bytes[..bytes.len().min(MAX_HEAD_BYTES)];
        let incomplete = || {
            let too_large = visible.len() == MAX_HEAD_BYTES;
            if too_large { Err(Malformed::HeadTooLarge) } else { Ok(None) }
        };
        let Some(end) = memchr::memchr(b'\n', visible) else {
            // Garbage need not be waited for.
            let start = &visible[..visible.len().min(7)];
            return if b"HTTP/1.".starts_with(start) { incomplete() } else { Err(Malformed::Head) };
        };
        let line = visible[..end].strip_suffix(b"\r").unwrap_or(&visible[..end]);
        let (is_1_1, status) = status_line(line).ok_or(Malformed::Head)?;
        let (lines, length) = match lines::read(visible, end + 1, MAX_FIELDS, false) {
            Ok(Some(read)) => read,
            Ok(None) => return incomplete(),
            Err(LineError::TooMany) => return Err(Malformed::HeadTooLarge),
            Err(LineError::Syntax | LineError::BareLineFeed) => return Err(Malformed::Head),
        };
        let fields = lines.view(visible);
        let (body, unambiguous) = framing(fields, status, method)?;
        let keep_alive = unambiguous && is_1_1 && !fields.lists(Known::Connection, "close");
        Ok(Some(Self { status, body, keep_alive, bytes: length, lines }))
    }

    /// The field lines, within the bytes that the head was read from.
    pub fn fields<'a>(&'a self, bytes: &'a [u8]) -> Fields<'a> {
        self.lines.view(bytes)
    }
}

/// `HTTP-version SP status-code SP [reason]` (RFC 9112 §4); the last space is often left out.
/// Whether it is HTTP/1.1, and the status.
fn status_line(line: &[u8]) -> Option<(bool, u16)> {
    let [minor, b' ', a, b, c, reason @ ..] = line.strip_prefix(b"HTTP/1.")? else { return None };
    let is_1_1 = match minor {
        b'1' => true,
        b'0' => false,
        _ => return None,
    };
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    let status = digit(a)? * 100 + digit(b)? * 10 + digit(c)?;
    let reason_fits = matches!(reason.first(), None | Some(b' ')) && lines::is_text(reason);
    (reason_fits && status >= 100).then_some((is_1_1, status))
}

/// Whether another head follows: `103 Early Hints` and kin (RFC 9110 §15.2).
pub fn is_interim(status: u16) -> bool {
    status < 200 && status != 101
}

/// Whether an answer has no body whatever its fields say (RFC 9110 §6.4.1).
pub fn has_no_body(status: u16, method: &Method) -> bool {
    *method == Method::HEAD || status < 200 || matches!(status, 204 | 304)
}

/// RFC 9112 §6.3. Also whether the framing leaves no doubt, so that the connection can be kept.
fn framing(fields: Fields<'_>, status: u16, method: &Method) -> Result<(Decoder, bool), Malformed> {
    if has_no_body(status, method) {
        return Ok((Decoder::length(0), true));
    }
    let has_length = fields.has(Known::ContentLength);
    if fields.has(Known::TransferEncoding) {
        let coding = fields.sole(Known::TransferEncoding);
        let coding = coding.map_err(|_| Malformed::TransferEncoding)?.unwrap_or_default();
        if !coding.eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed::TransferEncoding);
        }
        // With a length beside it somebody may have read another end.
        return Ok((Decoder::chunked(), !has_length));
    }
    if has_length {
        return Ok((Decoder::length(agreed_length(fields)?), true));
    }
    Ok((Decoder::until_close(), false))
}

/// The length that all lines agree on.
///
/// # Errors
/// [`Malformed::ContentLength`]
pub fn agreed_length(fields: Fields<'_>) -> Result<u64, Malformed> {
    let mut lines = fields.all(Known::ContentLength).map(plain_number);
    let first = lines.next().flatten().ok_or(Malformed::ContentLength)?;
    if lines.all(|other| other == Some(first)) { Ok(first) } else { Err(Malformed::ContentLength) }
}

#[cfg(test)]
mod tests;
