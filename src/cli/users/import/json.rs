//! JSON in its frames, cut into the texts of rows by a scanner that knows strings and brackets
//! only: it needs no more memory than one row, knows the line of each, and a row that is no JSON
//! stays one row.

use std::io::{self, BufRead};

use serde_json::Value;

use super::error::RowError;
use super::rows::{MAX_ROW_BYTES, Row};

/// The rows of a JSON file.
pub(super) struct JsonRows<R> {
    from: R,
    frame: Frame,
    /// Of the next byte.
    line: u64,
    read: u64,
}

/// What is around the rows.
#[derive(Clone, Copy, PartialEq)]
enum Frame {
    /// A row a line: a broken one ends with its line.
    Lines,
    /// Rows one after the other, or an object with `users`.
    Values,
    /// An array, within which we are.
    Array,
    /// Behind the array.
    End,
}

impl<R: BufRead> JsonRows<R> {
    /// Looks at the beginning, which the reader's buffer holds.
    pub(super) fn open(mut from: R) -> io::Result<Self> {
        let head = from.fill_buf()?;
        let blank = head.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let head = &head[blank..];
        let frame = match head.iter().position(|byte| *byte == b'\n') {
            Some(end) if head.starts_with(b"{") && head[..end].trim_ascii_end().ends_with(b"}") => {
                // The one line may be the object around the users.
                let is_frame = serde_json::from_slice::<Value>(&head[..end])
                    .is_ok_and(|value| value["users"].is_array());
                if is_frame { Frame::Values } else { Frame::Lines }
            }
            _ => Frame::Values,
        };
        Ok(Self { from, frame, line: 1, read: 0 })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.read
    }

    /// The next row; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Row>> {
        loop {
            let Some(first) = self.skip_blank()? else { return Ok(None) };
            let line = self.line;
            let text = match (self.frame, first) {
                (Frame::Lines, _) => self.rest_of_line()?,
                (Frame::Array, b']') => {
                    self.take()?;
                    self.frame = Frame::End;
                    continue;
                }
                (Frame::End, _) | (Frame::Array | Frame::Values, b',') => {
                    self.take()?;
                    continue;
                }
                (Frame::Values, b'[') => {
                    self.take()?;
                    self.frame = Frame::Array;
                    continue;
                }
                (frame, _) => {
                    let mut text = Text::default();
                    if self.value(&mut text, frame == Frame::Values)? {
                        self.frame = Frame::Array;
                        continue;
                    }
                    text
                }
            };
            return Ok(Some(Row { line, content: text.parse() }));
        }
    }

    /// Takes one value. True when it turned out to be the frame: then what was taken ends with the
    /// bracket that opens the array of users.
    fn value(&mut self, text: &mut Text, may_be_frame: bool) -> io::Result<bool> {
        let (mut depth, mut in_string, mut escaped) = (0_u32, false, false);
        // The last string of the outermost object, which is a name when a colon follows it.
        let mut last = Vec::new();
        while let Some(byte) = self.peek()? {
            if depth == 0 && !in_string && !text.is_empty() && ends_scalar(byte) {
                break;
            }
            self.take()?;
            text.push(byte);
            if in_string {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => in_string = false,
                    _ => {}
                }
                if in_string && depth == 1 && last.len() < 8 {
                    last.push(byte);
                }
                if in_string || depth > 0 {
                    continue;
                }
                break;
            }
            match byte {
                b'"' => {
                    in_string = true;
                    if depth == 1 {
                        last.clear();
                    }
                }
                b'[' if depth == 1 && may_be_frame && last == b"users" => return Ok(true),
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        break;
                    }
                }
                // A string that no colon follows, or not at once, is no name.
                b',' if depth == 1 => last.clear(),
                _ => {}
            }
        }
        Ok(false)
    }

    fn rest_of_line(&mut self) -> io::Result<Text> {
        let mut text = Text::default();
        while let Some(byte) = self.peek()? {
            if byte == b'\n' {
                break;
            }
            self.take()?;
            text.push(byte);
        }
        Ok(text)
    }

    fn skip_blank(&mut self) -> io::Result<Option<u8>> {
        while let Some(byte) = self.peek()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.take()?;
        }
        Ok(None)
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.from.fill_buf()?.first().copied())
    }

    fn take(&mut self) -> io::Result<()> {
        if self.peek()? == Some(b'\n') {
            self.line += 1;
        }
        self.from.consume(1);
        self.read += 1;
        Ok(())
    }
}

fn ends_scalar(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b',' | b']' | b'}')
}

/// The text of a row, up to the most that one may have.
#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Text {
    fn push(&mut self, byte: u8) {
        if self.bytes.len() < MAX_ROW_BYTES {
            self.bytes.push(byte);
        } else {
            self.is_cut = true;
        }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn parse(self) -> Result<crate::model::JsonObject, (String, RowError)> {
        if self.is_cut {
            return Err((String::new(), RowError::TooLong));
        }
        serde_json::from_slice(&self.bytes).map_err(|_| {
            let text = String::from_utf8_lossy(&self.bytes).trim_end().to_owned();
            (text, RowError::NoObject)
        })
    }
}
