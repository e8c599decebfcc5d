//! Reads `PORTCULLIS_SECTION__KEY` variables and the files that `PORTCULLIS_SECTION__KEY_FILE`
//! variables name. Values are text and stay text where the schema takes text: a password of digits
//! is no number. Only where it takes a number, a truth value, a list or a table are they read as
//! one. Messages name variables, never their values.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::Problem;
use super::file::parse_value;
use super::shape::{self, Shape};
use super::sources::{LoadError, Place, Sources};

/// What all our variables begin with.
pub(super) const PREFIX: &str = "PORTCULLIS_";

/// Names the configuration file.
pub(super) const CONFIG_VARIABLE: &str = "PORTCULLIS_CONFIG";

/// Addresses of servers for the tests; nothing to warn of.
const TEST_PREFIX: &str = "PORTCULLIS_TEST_";

/// Says to a new process that it gets its listeners from the one it replaces; the program's own.
const HANDOVER_VARIABLE: &str = "PORTCULLIS_HANDOVER";

/// Longest file that a `_FILE` variable may name: secrets are short, `/dev/zero` is not.
const LONGEST_FILE: u64 = 1 << 20;

/// The environment's keys, for figment.
pub(super) struct Environment {
    keys: Dict,
}

impl Environment {
    /// Reads `variables`. Names match any case and are spelled as in `file` where it has the key;
    /// notes every key in `sources`, mistakes in `errors`, and what was ignored in `warnings`.
    pub(super) fn read(
        variables: impl IntoIterator<Item = (String, String)>,
        file: &Dict,
        sources: &mut Sources,
        errors: &mut LoadError,
        warnings: &mut Vec<String>,
    ) -> Self {
        let mut settings: BTreeMap<Vec<String>, Setting> = BTreeMap::new();
        let mut ignored = Vec::new();
        for (variable, value) in variables {
            let upper = variable.to_ascii_uppercase();
            let Some(name) = ours(&upper) else { continue };
            // Kubernetes sets PORTCULLIS_PORT and the like for a Service named "portcullis".
            if !name.contains("__") {
                ignored.push(variable);
                continue;
            }
            let (name, is_file) = match names_file(name) {
                Some(key) => (key, true),
                None => (name, false),
            };
            let path = spelled(name, file);
            let setting = Setting { variable, value, is_file };
            if let Some(other) = settings.get(&path) {
                let message = format!("{} sets it too; keep one of them", other.variable);
                errors.add(setting.place(), Problem::new(path.join("."), message));
            } else {
                settings.insert(path, setting);
            }
        }
        if !ignored.is_empty() {
            ignored.sort();
            warnings.push(format!(
                "ignored environment variables, as their names have no `__` between section and \
                 key: {}",
                ignored.join(", ")
            ));
        }
        let mut keys = Dict::new();
        // In order of their paths: a table comes before the keys in it, which override it.
        for (path, setting) in settings {
            if let Err(message) = setting.apply(&path, &mut keys, sources) {
                errors.add(setting.place(), Problem::new(path.join("."), message));
            }
        }
        Self { keys }
    }
}

/// The files that variables in `env` name.
pub(super) fn named_files(env: &[(String, String)]) -> impl Iterator<Item = &str> {
    env.iter().filter_map(|(variable, value)| {
        let upper = variable.to_ascii_uppercase();
        let name = ours(&upper).filter(|name| name.contains("__"))?;
        names_file(name).map(|_| value.as_str())
    })
}

/// What follows the prefix in the name of a variable that may hold a key, in upper case.
fn ours(upper: &str) -> Option<&str> {
    let is_other =
        matches!(upper, CONFIG_VARIABLE | HANDOVER_VARIABLE) || upper.starts_with(TEST_PREFIX);
    upper.strip_prefix(PREFIX).filter(|_| !is_other)
}

/// The key, when the variable names a file with its value. `A__FILE` is the key `file`, not a
/// variant of the nameless key.
fn names_file(name: &str) -> Option<&str> {
    name.strip_suffix("_FILE").filter(|key| !key.ends_with('_'))
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.keys.clone())]))
    }
}

/// One variable and the text it holds or names.
struct Setting {
    variable: String,
    value: String,
    is_file: bool,
}

impl Setting {
    fn place(&self) -> Place {
        Place::Variable(self.variable.clone())
    }

    /// Reads the value as the schema wants it and puts it into `keys`.
    fn apply(&self, path: &[String], keys: &mut Dict, sources: &mut Sources) -> Result<(), String> {
        for depth in 1..path.len() {
            let table = path[..depth].join(".");
            match shape::at(&path[..depth]) {
                Some(Shape::List) => {
                    return Err(format!(
                        "`{table}` is a list; its entries cannot be set one by one from the \
                         environment"
                    ));
                }
                Some(Shape::Text | Shape::Word | Shape::Truth | Shape::Number) => {
                    return Err(format!("`{table}` is not a table"));
                }
                // An unknown key is reported as such later.
                Some(Shape::Table(_) | Shape::Names) | None => {}
            }
        }
        let text = if self.is_file { read_file(&self.value)? } else { self.value.clone() };
        let key = path.join(".");
        let mut noted = vec![key.clone()];
        let plain = Value::from(text.clone());
        let (kind, example) = match shape::at(path) {
            Some(Shape::List) => ("list", "[\"a\", \"b\"]"),
            Some(Shape::Table(_) | Shape::Names) => ("table", "{ key = \"value\" }"),
            _ => ("", ""),
        };
        let value = match shape::at(path) {
            // What is neither is left as text, and refused as such with the key's own message.
            Some(Shape::Number) => plain.to_num_lossy().map_or(plain, Value::from),
            Some(Shape::Truth) => plain.to_bool_lossy().map_or(plain, Value::from),
            Some(Shape::List | Shape::Table(_) | Shape::Names) => {
                parse_value(&text, &key, &mut |key| noted.push(key)).map_err(|error| {
                    format!("expected a {kind} in TOML syntax, such as {example} ({error})")
                })?
            }
            Some(Shape::Text | Shape::Word) | None => plain,
        };
        // Tables are merged key by key, everything else is replaced as a whole.
        if !matches!(value, Value::Dict(..)) {
            sources.forget(&key);
        }
        // A table that the file lacks stands where its first key does.
        for depth in 1..path.len() {
            sources.note_first(path[..depth].join("."), self.place());
        }
        for key in noted {
            sources.note(key, self.place());
        }
        insert(keys, path, value);
        Ok(())
    }
}

/// Puts `value` at `path`, making tables on the way.
fn insert(keys: &mut Dict, path: &[String], value: Value) {
    match path {
        [] => {}
        [name] => {
            keys.insert(name.clone(), value);
        }
        [table, rest @ ..] => {
            let table = keys.entry(table.clone()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, table) = table {
                insert(table, rest, value);
            }
        }
    }
}

/// The path that a variable's name stands for. Variables are written without case and without
/// `-`, so that a name which the operator chose, such as an upstream's, is looked up in `file`.
fn spelled(name: &str, file: &Dict) -> Vec<String> {
    let mut table = Some(file);
    let mut path = Vec::new();
    for segment in name.split("__") {
        let lower = segment.to_ascii_lowercase();
        let fold = |key: &str| key.to_ascii_lowercase().replace('-', "_");
        let known = table.and_then(|table| {
            if table.contains_key(&lower) {
                return Some(lower.clone());
            }
            table.keys().find(|key| fold(key) == lower).cloned()
        });
        let step = known.unwrap_or(lower);
        table = table.and_then(|table| table.get(&step)).and_then(Value::as_dict);
        path.push(step);
    }
    path
}

/// The text of a file, without one newline at its end.
fn read_file(path: &str) -> Result<String, String> {
    // The path is not repeated: a secret put into the wrong variable would end up in a log.
    let failed = |error: std::io::Error| format!("the file it names cannot be read: {error}");
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err("the file it names is longer than 1 MiB".to_owned());
    }
    let mut text =
        String::from_utf8(bytes).map_err(|_| "the file it names is not UTF-8 text".to_owned())?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}
