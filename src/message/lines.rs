//! The one reader of field lines (RFC 9112 §5), for requests and answers: a token, a colon, a value
//! without control bytes, a line end. No folding, no white space before the colon.

use super::fields::{Known, Line, Lines};

/// What is wrong with a field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineError {
    /// It ends without a carriage return, where that is not let pass.
    BareLineFeed,
    /// It breaks the grammar.
    Syntax,
    /// There are more of them than allowed.
    TooMany,
}

/// The lower-case form of the bytes of a token (RFC 9110 §5.6.2); 0 = none of them.
const TOKEN: [u8; 256] = {
    let mut table = [0; 256];
    let others = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz";
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = others[i];
        i += 1;
    }
    let mut upper = b'A';
    while upper <= b'Z' {
        table[upper as usize] = upper.to_ascii_lowercase();
        upper += 1;
    }
    table
};

/// Whether all bytes are those of a token, and there is one.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN[usize::from(byte)] != 0)
}

/// Whether no byte is a control byte but for the tab. Without an early end, so that many bytes are
/// looked at at once.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |fits, &b| fits & (((b >= b' ') & (b != 0x7f)) | (b == b'\t')))
}

/// Reads the lines that begin at `at`, with the empty one that ends them; gives where that ends.
/// `None` when it is not there yet.
///
/// RFC 9112 §2.2 lets a line end without CR; with `strict` it may not.
pub(super) fn read(
    bytes: &[u8],
    mut at: usize,
    most: usize,
    strict: bool,
) -> Result<Option<(Lines, usize)>, LineError> {
    let mut lines = Lines::new();
    loop {
        let Some(length) = memchr::memchr(b'\n', &bytes[at..]) else { return Ok(None) };
        let line = &bytes[at..at + length];
        let line = match line.strip_suffix(b"\r") {
            Some(line) => line,
            None if strict => return Err(LineError::BareLineFeed),
            None => line,
        };
        if line.is_empty() {
            return Ok(Some((lines, at + length + 1)));
        }
        if lines.len() == most {
            return Err(LineError::TooMany);
        }
        lines.push(read_line(line, at).ok_or(LineError::Syntax)?);
        at += length + 1;
    }
}

fn read_line(line: &[u8], at: usize) -> Option<Line> {
    let mut lower = [0; Known::LONGEST];
    let mut name_bytes = 0;
    let known = loop {
        // One pass says whether it is a token, where it ends and which name it is.
        let byte = *line.get(name_bytes)?;
        let folded = TOKEN[usize::from(byte)];
        if folded == 0 {
            if byte != b':' || name_bytes == 0 {
                return None;
            }
            break lower.get(..name_bytes).map_or(Known::Other, Known::of_lower_case);
        }
        if let Some(place) = lower.get_mut(name_bytes) {
            *place = folded;
        }
        name_bytes += 1;
    };
    let mut start = name_bytes + 1;
    let mut end = line.len();
    while start < end && is_white(line[start]) {
        start += 1;
    }
    while end > start && is_white(line[end - 1]) {
        end -= 1;
    }
    is_text(&line[start..end]).then(|| Line::new(at, name_bytes, at + start, end - start, known))
}

fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ours(bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let (lines, end) = read(bytes, 0, 64, false).ok()??;
        assert_eq!(end, bytes.len());
        Some(lines.view(bytes).iter().map(|f| (f.name.to_vec(), f.value.to_vec())).collect())
    }

    fn theirs(bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut room = [httparse::EMPTY_HEADER; 64];
        match httparse::parse_headers(bytes, &mut room).ok()? {
            httparse::Status::Complete((end, found)) if end == bytes.len() => {
                Some(found.iter().map(|f| (f.name.as_bytes().to_vec(), f.value.to_vec())).collect())
            }
            _ => None,
        }
    }

    proptest! {
        /// What another reader in wide use refuses we refuse, and what both take means the same.
        #[test]
        fn fields_mean_what_they_mean_elsewhere(
            pieces in prop::collection::vec(
                prop_oneof![
                    "[A-Za-z0-9-]{1,12}", "[ -~]{0,8}", Just(": ".to_owned()), Just("\r\n".to_owned()),
                    Just("\t".to_owned()), Just(":".to_owned()), Just("\u{e9}".to_owned()),
                    Just("\0".to_owned()), Just("\r".to_owned()),
                ],
                0..12,
            )
        ) {
            let bytes = format!("{}\r\n\r\n", pieces.concat());
            // Ours ends at the first empty line, theirs too.
            if let Some(end) = memchr::memmem::find(bytes.as_bytes(), b"\r\n\r\n") {
                let bytes = &bytes.as_bytes()[..end + 4];
                if !bytes.starts_with(b"\r\n") {
                    prop_assert_eq!(ours(bytes), theirs(bytes), "{:?}", bytes);
                }
            }
        }
    }

    #[test]
    fn lines_that_two_readers_may_read_differently_are_refused() {
        for line in [
            "A : b",
            " A: b",
            "A\t: b",
            ": b",
            "A",
            "A b: c",
            "A: b\0",
            "A: b\r c",
            "A: \x7f",
            "\u{e9}: b",
            "A(b): c",
            "\tfolded",
        ] {
            let bytes = format!("{line}\r\n\r\n");
            assert_eq!(
                read(bytes.as_bytes(), 0, 9, false).err(),
                Some(LineError::Syntax),
                "{line:?}"
            );
        }
        for (line, value) in [
            ("A:b", "b"),
            ("A:  b \t", "b"),
            ("A:", ""),
            ("A: \t ", ""),
            ("A: b\tc", "b\tc"),
            ("a~: \u{e9}", "\u{e9}"),
        ] {
            let bytes = format!("{line}\r\n\r\n");
            let found = ours(bytes.as_bytes()).expect(line);
            assert_eq!(found[0].1, value.as_bytes(), "{line:?}");
        }
        assert_eq!(read(b"A: b\r\nA: b\r\n\r\n", 0, 1, false).err(), Some(LineError::TooMany));
        assert!(read(b"A: b\r\n", 0, 1, true).unwrap().is_none());
        assert_eq!(read(b"A: b\n", 0, 1, true).err(), Some(LineError::BareLineFeed));
        assert!(read(b"A: b\n\n", 0, 1, false).unwrap().is_some());
    }
}
