//! Reads TOML into values that know where they stand. It knows nothing of the schema; syntax
//! errors never quote the text, as it may hold secrets.

use std::collections::BTreeSet;

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::sources::{LoadError, Place, Sources};
use super::{Problem, sources};

/// The file's keys, for figment.
pub(super) struct TomlFile {
    name: String,
    /// The root table.
    pub(super) keys: Dict,
    /// Whether the text is TOML. If not, what could be saved of it would look full of further
    /// mistakes.
    pub(super) is_toml: bool,
    /// Keys whose value is no value for us; reported already.
    pub(super) spoiled: Vec<String>,
}

impl TomlFile {
    /// Parses `text`; notes every key's position in `sources` and every syntax error in `errors`.
    pub(super) fn parse(text: &str, sources: &mut Sources, errors: &mut LoadError) -> Self {
        let lines = Lines::of(text);
        let (root, syntax_errors) = DeTable::parse_recoverable(text);
        let is_toml = syntax_errors.is_empty();
        let mut reported = BTreeSet::new();
        for error in syntax_errors {
            let place = error.span().map_or(Place::File, |span| lines.place(span.start));
            // One mistake makes the parser stumble several times over the same line.
            let line = if let Place::Position { line, .. } = place { line } else { 0 };
            if reported.insert(line) {
                errors.add(place, Problem::new("", format!("TOML syntax: {}", error.message())));
            }
        }
        let mut refused = Vec::new();
        let mut reader = Reader {
            note: &mut |key, offset| sources.note(key, lines.place(offset)),
            refuse: &mut |problem| refused.push(problem),
        };
        let keys = reader.table(root.get_ref(), "");
        let mut spoiled = Vec::new();
        for problem in refused {
            spoiled.push(problem.key.clone());
            if is_toml {
                errors.add(sources.place(&problem.key), problem);
            }
        }
        Self { name: sources.file().to_owned(), keys, is_toml, spoiled }
    }
}

impl Provider for TomlFile {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.keys.clone())]))
    }
}

/// Parses one value in TOML syntax, as an environment variable may hold it for `key`. Calls
/// `note` with the key of every part of it.
///
/// # Errors
/// What is wrong with it, without quoting it.
pub(super) fn parse_value(
    text: &str,
    key: &str,
    note: &mut dyn FnMut(String),
) -> Result<Value, String> {
    let (value, errors) = DeValue::parse_recoverable(text.trim());
    if let Some(error) = errors.first() {
        return Err(error.message().to_owned());
    }
    let mut refused = None;
    let mut reader = Reader {
        note: &mut |key, _| note(key),
        refuse: &mut |problem| refused = Some(problem.message),
    };
    let value = reader.value(&value, key);
    refused.map_or(Ok(value), Err)
}

/// Turns parsed TOML into figment's values and tells where each key stands.
struct Reader<'a> {
    note: &'a mut dyn FnMut(String, usize),
    refuse: &'a mut dyn FnMut(Problem),
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, at: &str) -> Dict {
        let mut dict = Dict::new();
        for (name, value) in table {
            let key = sources::join(at, name.get_ref());
            (self.note)(key.clone(), name.span().start);
            dict.insert(name.get_ref().to_string(), self.value(value, &key));
        }
        dict
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> Value {
        match value.get_ref() {
            DeValue::String(text) => Value::from(text.to_string()),
            DeValue::Boolean(truth) => Value::from(*truth),
            DeValue::Integer(number) => {
                if let Ok(number) = i64::from_str_radix(number.as_str(), number.radix()) {
                    return Value::from(number);
                }
                (self.refuse)(Problem::new(key, "the number is too large"));
                Value::from(0)
            }
            // Out of range reads as infinity, which no key takes either.
            DeValue::Float(number) => Value::from(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Datetime(_) => {
                (self.refuse)(Problem::new(key, "no key takes a date or time"));
                Value::from(String::new())
            }
            DeValue::Array(list) => {
                let entries = list.iter().enumerate().map(|(index, entry)| {
                    let key = format!("{key}[{index}]");
                    (self.note)(key.clone(), entry.span().start);
                    self.value(entry, &key)
                });
                Value::from(entries.collect::<Vec<_>>())
            }
            DeValue::Table(table) => Value::from(self.table(table, key)),
        }
    }
}

/// Turns byte offsets into lines and columns.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// The lines of `text`.
    pub(super) fn of(text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1))
            .collect();
        Self { text, starts }
    }

    /// The place of the byte at `offset`.
    pub(super) fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|&start| start <= offset);
        let start = self.starts[line - 1];
        // A byte order mark is no column.
        let before = self.text.get(start..offset).unwrap_or("").trim_start_matches('\u{feff}');
        Place::Position { line, column: before.chars().count() + 1 }
    }
}
