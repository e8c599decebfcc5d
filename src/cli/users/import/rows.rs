//! A file as rows of named fields: CSV with a heading, JSON lines, a JSON array, or an object with
//! `users: [...]` anywhere in it (Firebase, realms of Keycloak). Read as a stream, so that its size
//! does not matter. What cannot be read is a row too, so that the rest goes on.

use std::io::{self, BufRead, BufReader, Read};

use csv::{ByteRecord, ReaderBuilder};
use serde_json::Value;

use super::error::RowError;
use super::json::JsonRows;
use crate::model::JsonObject;

/// A row with more bytes is refused: no account is as long, and each is held in memory.
pub(super) const MAX_ROW_BYTES: usize = 1 << 20;

/// How much of the beginning tells what kind of file it is.
const HEAD_BYTES: usize = 64 * 1024;

/// One row.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    /// Where it begins, from 1; of a table, blank lines before it are a part of it.
    pub(super) line: u64,
    /// Its fields, or its text and why they cannot be read.
    pub(super) content: Result<JsonObject, (String, RowError)>,
}

/// The rows of a file.
pub(super) enum Rows<R> {
    Csv {
        reader: csv::Reader<BufReader<R>>,
        heading: Vec<String>,
        record: ByteRecord,
        /// 1 where lines end with CR LF: the reader takes the LF for the beginning of the next.
        line_feeds: u64,
    },
    Json(JsonRows<BufReader<R>>),
}

impl<R: Read> Rows<R> {
    /// Looks at the beginning.
    pub(super) fn open(file: R) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(HEAD_BYTES, file);
        let head = file.fill_buf()?;
        if head.starts_with(b"\xef\xbb\xbf") {
            file.consume(3);
        }
        let head = file.fill_buf()?;
        let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
        if matches!(first, Some(b'{' | b'[')) {
            return Ok(Self::Json(JsonRows::open(file)?));
        }
        let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line_feeds = u64::from(first.ends_with(b"\r"));
        let cells = |delimiter: u8| first.split(|byte| *byte == delimiter).count();
        let delimiter = [b'\t', b';', b','].into_iter().max_by_key(|one| cells(*one));
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter.unwrap_or(b','))
            .flexible(true)
            .from_reader(file);
        let heading = reader.byte_headers().map_err(io::Error::from)?;
        let name = |name: &[u8]| String::from_utf8_lossy(name).trim().to_owned();
        let heading = heading.iter().map(name).collect();
        Ok(Self::Csv { reader, heading, record: ByteRecord::new(), line_feeds })
    }

    /// The next row; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Row>> {
        match self {
            Self::Json(rows) => rows.next(),
            Self::Csv { reader, heading, record, line_feeds } => {
                if !reader.read_byte_record(record).map_err(io::Error::from)? {
                    return Ok(None);
                }
                let line = record.position().map_or(0, csv::Position::line) + *line_feeds;
                Ok(Some(Row { line, content: named(heading, record) }))
            }
        }
    }

    /// How much of the file was read.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Json(rows) => rows.bytes(),
            Self::Csv { reader, .. } => reader.position().byte(),
        }
    }
}

fn named(heading: &[String], record: &ByteRecord) -> Result<JsonObject, (String, RowError)> {
    let broken = |why| {
        let cells: Vec<_> = record.iter().map(String::from_utf8_lossy).collect();
        (cells.join(","), why)
    };
    if record.as_slice().len() > MAX_ROW_BYTES {
        return Err((String::new(), RowError::TooLong));
    }
    if record.len() != heading.len() {
        return Err(broken(RowError::Cells { found: record.len(), expected: heading.len() }));
    }
    let mut fields = JsonObject::new();
    for (name, cell) in heading.iter().zip(record) {
        let cell = std::str::from_utf8(cell).map_err(|_| broken(RowError::NotUtf8))?;
        // PostgreSQL's COPY and MySQL write these for null.
        if !matches!(cell, "" | "\\N" | "NULL") {
            fields.insert(name.clone(), Value::from(cell));
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Lines, and fields or why there are none.
    fn read(text: &str) -> Vec<(u64, Value)> {
        let mut rows = Rows::open(text.as_bytes()).unwrap();
        let mut found = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let content = match row.content {
                Ok(fields) => Value::Object(fields),
                Err((text, why)) => json!([text, why.to_string()]),
            };
            found.push((row.line, content));
        }
        assert_eq!(rows.bytes(), text.trim_start_matches('\u{feff}').len() as u64);
        found
    }

    #[test]
    fn cells_have_the_names_of_the_heading() {
        let text = "\u{feff}id,email, name\n1,a@b.c,\"A,\nB\"\n2,\\N,\n3,NULL,x\n\n";
        let expected = [
            (2, json!({"id": "1", "email": "a@b.c", "name": "A,\nB"})),
            (4, json!({"id": "2"})),
            (5, json!({"id": "3", "name": "x"})),
        ];
        assert_eq!(read(text), expected);
        assert_eq!(read("id;email\n1;a,b\n"), [(2, json!({"id": "1", "email": "a,b"}))]);
        assert_eq!(read("id\temail\r\n1\ta\r\n"), [(2, json!({"id": "1", "email": "a"}))]);
        assert_eq!(read(""), []);
        assert_eq!(read("id,email\n"), []);
    }

    #[test]
    fn broken_lines_of_a_table_leave_the_rest() {
        let rows = read("id,email\n1\n2,a,b\n3,c\n");
        assert_eq!(rows.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(rows[0].1, json!(["1", "it has 1 cells, the heading has 2"]));
        assert_eq!(rows[2].1, json!({"id": "3", "email": "c"}));
        let bytes = b"id,email\n1,\xff\n2,b\n";
        let mut rows = Rows::open(bytes.as_slice()).unwrap();
        assert!(matches!(rows.next().unwrap().unwrap().content, Err((_, RowError::NotUtf8))));
        assert!(rows.next().unwrap().unwrap().content.is_ok());
    }

    #[test]
    fn json_is_read_in_each_of_its_frames() {
        let two = [json!({"id": 1}), json!({"id": "x}]\"", "o": {"p": [1, {}]}})];
        let values =
            |text: &str| read(text).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        for text in [
            format!("{}\n{}\n", two[0], two[1]),
            format!("{}\r\n\n{}", two[0], two[1]),
            format!("[{},{}]", two[0], two[1]),
            format!("\u{feff} [\n {} ,\n\n{}\n]\n", two[0], two[1]),
            format!(
                "{{\"realm\":\"x\",\"o\":{{\"users\":[3]}},\"users\":[{},{}],\"z\":[{{}}]}}",
                two[0], two[1]
            ),
            format!("{{\"users\" :\n[{}\n,{}]}}\n", two[0], two[1]),
            format!("{{\"kind\":\"{{users\",\"users\":[{},{}]}}\n", two[0], two[1]),
            format!("{:#}\n{:#}", two[0], two[1]),
        ] {
            assert_eq!(values(&text), two, "{text}");
        }
        assert_eq!(read("[]"), []);
        assert_eq!(read("{\"users\":[]}\n"), []);
    }

    #[test]
    fn broken_json_leaves_the_rest_where_there_is_one() {
        let why = "it is no JSON object";
        assert_eq!(
            read("{\"id\":1}\n{\"id\":\nnull\n{\"id\":2}\n"),
            [
                (1, json!({"id": 1})),
                (2, json!(["{\"id\":", why])),
                (3, json!(["null", why])),
                (4, json!({"id": 2})),
            ]
        );
        assert_eq!(
            read("[{\"id\":1},\n7,\n{\"a\" 1},\n{\"id\":2}]"),
            [
                (1, json!({"id": 1})),
                (2, json!(["7", why])),
                (3, json!(["{\"a\" 1}", why])),
                (4, json!({"id": 2})),
            ]
        );
        let cut = read("[{\"id\":1},{\"id\":");
        assert_eq!(cut[1].1, json!(["{\"id\":", why]));
        let long = format!("{{\"id\":\"{}\"}}\n{{\"id\":2}}\n", "x".repeat(MAX_ROW_BYTES));
        let rows = read(&long);
        assert_eq!(rows[0].1[1], "it is longer than 1 MiB");
        assert_eq!(rows[1], (2, json!({"id": 2})));
    }
}
