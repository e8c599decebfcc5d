//! A look at the raw bytes of request heads, for what the HTTP library hides from its service: a
//! fragment in the target (cut off in silence), `Content-Length` beside `Transfer-Encoding` (the
//! former removed in silence), lines that end without a carriage return.
//!
//! It never frames a message and never changes a byte: it only notes a [`Flaw`], for which the
//! service then answers 400. What is let through unseen is still what the library parsed, and only
//! that is forwarded.

use memchr::memchr;

/// Longest header name that is looked for, with its colon.
const NAME_ROOM: usize = "transfer-encoding:".len();

/// Something in a head that is refused although the HTTP library takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Flaw {
    /// A line ended without CR (RFC 9112 §2.2 lets a server take it; two parsers may not agree).
    BareLineFeed = 1,
    /// `Content-Length` and `Transfer-Encoding` together (RFC 9112 §6.1: an attempt at smuggling).
    TwoLengths = 2,
    /// The request line holds `#`, a control byte or a byte above ASCII (RFC 9112 §3.2).
    Target = 3,
}

impl Flaw {
    /// The flaw with that number; 0 is none.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::BareLineFeed, Self::TwoLengths, Self::Target]
            .into_iter()
            .find(|flaw| *flaw as u8 == number)
    }
}

/// State between two reads within one head.
#[derive(Debug, Default)]
pub(crate) struct HeadScan {
    /// Start of the current line, as far as earlier reads had it.
    line: [u8; NAME_ROOM],
    /// Length of the current line so far.
    line_len: usize,
    last_was_cr: bool,
    past_request_line: bool,
    content_length: bool,
    transfer_encoding: bool,
    flaw: Option<Flaw>,
}

impl HeadScan {
    /// Takes the next bytes. At the end of the head: how many of them belong to it, and what is
    /// wrong with it; the scan is then ready for the next head.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<(usize, Option<Flaw>)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let Some(end) = memchr(b'\n', rest) else {
                self.take_piece(rest);
                return None;
            };
            self.take_piece(&rest[..end]);
            at += end + 1;
            if self.end_line() {
                let flaw = self.flaw;
                *self = Self::default();
                return Some((at, flaw));
            }
        }
        None
    }

    fn take_piece(&mut self, piece: &[u8]) {
        let Some(&last) = piece.last() else { return };
        if self.line_len < NAME_ROOM {
            let room = &mut self.line[self.line_len..];
            let taken = room.len().min(piece.len());
            room[..taken].copy_from_slice(&piece[..taken]);
        }
        if !self.past_request_line {
            // The CR that ends the line is the only control byte that may stand in it, at its end.
            let text = piece.strip_suffix(b"\r").unwrap_or(piece);
            if !text.iter().all(|&byte| fits_request_line(byte)) {
                self.flaw.get_or_insert(Flaw::Target);
            }
        }
        self.line_len += piece.len();
        self.last_was_cr = last == b'\r';
    }

    /// Ends a line; whether it was the empty one that ends the head.
    fn end_line(&mut self) -> bool {
        if !self.last_was_cr {
            self.flaw.get_or_insert(Flaw::BareLineFeed);
        }
        let empty = self.line_len == usize::from(self.last_was_cr);
        let start = &self.line[..self.line_len.min(NAME_ROOM)];
        if !empty {
            if self.past_request_line {
                self.content_length |= has_prefix(start, b"content-length:");
                self.transfer_encoding |= has_prefix(start, b"transfer-encoding:");
            }
            self.past_request_line = true;
        }
        self.line_len = 0;
        self.last_was_cr = false;
        // Empty lines before the request line are skipped (RFC 9112 §2.2).
        let ended = empty && self.past_request_line;
        if ended && self.content_length && self.transfer_encoding {
            self.flaw.get_or_insert(Flaw::TwoLengths);
        }
        ended
    }
}

fn fits_request_line(byte: u8) -> bool {
    byte != b'#' && (b' '..=b'~').contains(&byte)
}

fn has_prefix(line: &[u8], prefix: &[u8]) -> bool {
    line.len() >= prefix.len() && line[..prefix.len()].eq_ignore_ascii_case(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [(&str, Option<Flaw>); 9] = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("\r\nGET /a?b=c%20d HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Some(Flaw::Target)),
        ("GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", Some(Flaw::Target)),
        ("GET /ä HTTP/1.1\r\nHost: a\r\n\r\n", Some(Flaw::Target)),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Some(Flaw::BareLineFeed)),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Some(Flaw::BareLineFeed)),
        (
            "POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            Some(Flaw::TwoLengths),
        ),
        ("POST / HTTP/1.1\r\nX-Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", None),
    ];

    #[test]
    fn flaws_are_seen_however_the_head_is_cut() {
        for (head, flaw) in CASES {
            let bytes = head.as_bytes();
            for cut in 0..bytes.len() {
                let mut scan = HeadScan::default();
                assert_eq!(scan.feed(&bytes[..cut]), None, "{head:?} cut at {cut}");
                let rest = bytes.len() - cut;
                assert_eq!(scan.feed(&bytes[cut..]), Some((rest, flaw)), "{head:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn the_next_head_starts_anew() {
        let mut scan = HeadScan::default();
        let two = b"GET /#x HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        assert_eq!(scan.feed(two), Some((20, Some(Flaw::Target))));
        assert_eq!(scan.feed(&two[20..]), Some((18, None)));
    }
}
