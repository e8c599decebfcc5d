//! A file of leaked passwords, asked without any network: the SHA-1 digests of Have I Been Pwned,
//! "ordered by hash".
//!
//! ```text
//! 000000005AD76BD555C1D6D771DE417A4B87E4B4:10\n      or \r\n; upper-case hexadecimal, sorted
//! ```
//!
//! It has some 40 GB, so it stays where it is: a binary search over byte offsets reads some 36
//! small pieces, which the system keeps in memory as far as it has room.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// Longest line: digest, colon, a count of twelve digits, and the ends of lines.
const MAX_LINE: usize = 56;
/// Characters of a digest.
const DIGEST: usize = 40;

/// A file that was opened.
#[derive(Clone, Debug)]
pub(super) struct Leaked {
    file: Arc<File>,
    length: u64,
}

impl Leaked {
    /// Opens the file and looks at its first and last lines.
    ///
    /// # Errors
    /// When it cannot be read or is not of this kind.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let leaked = Self { length: file.metadata()?.len(), file: Arc::new(file) };
        let first = leaked.line_from(0)?;
        let last = leaked.line_from(leaked.length.saturating_sub(MAX_LINE as u64))?;
        match (first, last) {
            (Some((_, first)), Some((_, last))) if first <= last => Ok(leaked),
            (Some(_), Some(_)) => Err(io::Error::other("the digests are not in order")),
            // One line, which the look from behind passes over.
            (Some((end, _)), None) if end >= leaked.length => Ok(leaked),
            _ => Err(malformed()),
        }
    }

    /// Whether the password is in it. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// When the file cannot be read, or is malformed where it was looked at.
    pub(super) fn contains(&self, password: &str) -> io::Result<bool> {
        let sought = hexadecimal(digest(&SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes()).as_ref());
        // Every line that begins before `low` is smaller, every one that begins at `high` or
        // later is not.
        let (mut low, mut high) = (0, self.length);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.line_from(middle)? {
                Some((_, found)) if found == sought => return Ok(true),
                Some((end, found)) if found < sought => low = end,
                Some(_) | None => high = middle,
            }
        }
        Ok(false)
    }

    /// The first line that begins at `offset` or later: where it ends, and its digest.
    fn line_from(&self, offset: u64) -> io::Result<Option<(u64, [u8; DIGEST])>> {
        // From one byte earlier on, to see whether a line begins at `offset` itself.
        let from = offset.saturating_sub(1);
        let mut buffer = [0; 2 * MAX_LINE];
        let read = self.read(from, &mut buffer)?;
        let bytes = &buffer[..read];
        let end_of_line = |bytes: &[u8]| bytes.iter().position(|b| *b == b'\n');
        let begin = if offset == 0 {
            0
        } else {
            match end_of_line(bytes) {
                Some(end) => end + 1,
                None if from + read as u64 >= self.length => return Ok(None),
                None => return Err(malformed()),
            }
        };
        let line = &bytes[begin..];
        if line.is_empty() && from + begin as u64 >= self.length {
            return Ok(None);
        }
        let length = end_of_line(line).map_or(line.len(), |end| end + 1);
        let (found, rest) = line[..length].split_first_chunk::<DIGEST>().ok_or_else(malformed)?;
        let is_digest = found.iter().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        if !is_digest || rest.first().is_some_and(|b| !matches!(b, b':' | b'\r' | b'\n')) {
            return Err(malformed());
        }
        Ok(Some((from + (begin + length) as u64, *found)))
    }

    fn read(&self, from: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], from + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}

fn malformed() -> io::Error {
    io::Error::other("it is no list of SHA-1 digests in upper-case hexadecimal, one a line")
}

fn hexadecimal(bytes: &[u8]) -> [u8; DIGEST] {
    let mut text = [0; DIGEST];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = b"0123456789ABCDEF"[usize::from(nibble)];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn list(text: &str) -> io::Result<Leaked> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Leaked::open(file.path())
    }

    fn lines(passwords: &[String], end: &str) -> String {
        let mut digests: Vec<_> = passwords
            .iter()
            .enumerate()
            .map(|(n, password)| {
                let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
                let text = hexadecimal(sha1.as_ref());
                format!("{}:{}{end}", String::from_utf8_lossy(&text), n * n * n)
            })
            .collect();
        digests.sort();
        digests.concat()
    }

    /// As published: the digest of `password` is in every one of these lists.
    #[test]
    fn the_digest_is_the_published_one() {
        let leaked = list("5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8:9545824\r\n").unwrap();
        assert!(leaked.contains("password").unwrap());
        assert!(!leaked.contains("Password").unwrap());
    }

    #[test]
    fn each_line_is_found_and_nothing_between_them() {
        for end in ["\n", "\r\n"] {
            for count in [1, 2, 3, 100, 1000] {
                let passwords: Vec<_> = (0..count).map(|n| format!("leaked {n}")).collect();
                let text = lines(&passwords, end);
                for text in [text.as_str(), text.trim_end()] {
                    let leaked = list(text).unwrap();
                    for password in &passwords {
                        assert!(leaked.contains(password).unwrap(), "{count} {password}");
                        assert!(!leaked.contains(&format!("{password}!")).unwrap());
                    }
                }
            }
        }
    }

    #[test]
    fn other_files_are_refused() {
        let digest = "5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8";
        for text in [
            String::new(),
            "\n".to_owned(),
            "password\n".to_owned(),
            format!("{}:1\n", digest.to_lowercase()),
            format!("{digest}0:1\n"),
            format!("{}\n", &digest[1..]),
            "x".repeat(10_000),
            // Ordered by count.
            format!("{digest}:2\n{}:1\n", "0".repeat(40)),
        ] {
            assert!(list(&text).is_err(), "{text:.60}");
        }
        assert!(Leaked::open(Path::new("/nowhere/at/all")).is_err());
    }
}
