//! Makes a [`Config`] of merged keys and finds every mistake on the way, not only the first: serde
//! stops at one, so the mistake is noted, a harmless stand-in put in its place, and serde asked
//! again. Messages never quote the value of a key that holds a secret.

use std::collections::BTreeMap;

use figment::error::{Actual, Kind};
use figment::value::{Dict, Value};
use serde::Deserialize;

use super::sources::{LoadError, Sources, is_at_or_under, join};
use super::{Config, Problem};

/// Keys whose values no message quotes.
pub(super) const SECRETS: [&str; 10] = [
    "counters.url",
    "events.webhook.secret",
    "events.webhook.url",
    "mail.url",
    "mail.webhook.secret",
    "mail.webhook.url",
    "secrets.key",
    "secrets.previous",
    "storage.url",
    "tokens.secret",
];

/// Serde is asked at most this often: a mistake takes up to a dozen times, and after a hundred
/// mistakes nobody reads on.
const MOST_ATTEMPTS: usize = 1_200;

/// What was made of the keys.
pub(super) struct Extracted {
    /// The configuration, when one could be made. With mistakes in it, it holds stand-ins and is
    /// good for looking for further mistakes only.
    pub(super) config: Option<Config>,
    /// Keys that hold a stand-in or were taken out.
    pub(super) spoiled: Vec<String>,
}

/// Makes a configuration of `keys` and adds what is wrong to `errors`. Of the keys in `spoiled` it
/// was said already.
pub(super) fn extract(
    keys: Dict,
    mut spoiled: Vec<String>,
    sources: &Sources,
    errors: &mut LoadError,
) -> Extracted {
    let mut keys = Value::from(keys);
    let mut attempts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..MOST_ATTEMPTS {
        let error = match Config::deserialize(&keys) {
            Ok(config) => return Extracted { config: Some(config), spoiled },
            Err(error) => error,
        };
        let mut path = error.path;
        if let Kind::MissingField(name) = &error.kind {
            path.push(name.to_string());
        }
        let key = render(&keys, &path);
        // What a stand-in lacks is not the operator's mistake.
        if !spoiled.iter().any(|known| is_at_or_under(&key, known)) {
            let message = explain(&error.kind, &key, find(&keys, &path));
            errors.add(sources.place(&key), Problem::new(key.clone(), message));
            spoiled.push(key.clone());
        }
        let done = if let Kind::UnknownField(..) = error.kind {
            replace(&mut keys, &path, None)
        } else {
            let attempt = attempts.entry(key).or_default();
            let stand_in = stand_in(&error.kind, *attempt);
            *attempt += 1;
            stand_in.is_some() && replace(&mut keys, &path, stand_in)
        };
        if !done {
            return Extracted { config: None, spoiled };
        }
    }
    Extracted { config: None, spoiled }
}

/// The `attempt`th value to try in place of a bad or missing one. Any will do that serde takes;
/// these also agree with most that other keys may say.
fn stand_in(kind: &Kind, attempt: usize) -> Option<Value> {
    if let Kind::UnknownVariant(_, [word, ..]) = kind {
        return Some(Value::from(*word));
    }
    let texts = ["1/second", "3650d", "1", "127.0.0.1:1", "127.0.0.1/32", "allow"];
    match attempt.checked_sub(texts.len()) {
        None => Some(Value::from(texts[attempt])),
        Some(0) => Some(Value::from(1)),
        Some(1) => Some(Value::from(false)),
        Some(2) => Some(Value::from(Vec::<Value>::new())),
        Some(3) => Some(Value::from(Dict::new())),
        Some(_) => None,
    }
}

/// The value at `path`.
fn find<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Dict(_, dict) => dict.get(step),
        Value::Array(_, list) => list.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Puts `new` at `path`, or takes out what is there. False: there is no such place.
fn replace(value: &mut Value, path: &[String], new: Option<Value>) -> bool {
    match (path, value) {
        ([name], Value::Dict(_, dict)) => {
            match new {
                Some(new) => dict.insert(name.clone(), new),
                None => dict.remove(name),
            };
            true
        }
        ([step, rest @ ..], Value::Dict(_, dict)) => {
            dict.get_mut(step).is_some_and(|value| replace(value, rest, new))
        }
        ([step, rest @ ..], Value::Array(_, list)) => {
            let entry = step.parse::<usize>().ok().and_then(|index| list.get_mut(index));
            match (entry, rest) {
                (Some(entry), []) => {
                    *entry = new.unwrap_or_else(|| Value::from(Dict::new()));
                    true
                }
                (Some(entry), rest) => replace(entry, rest, new),
                (None, _) => false,
            }
        }
        _ => false,
    }
}

/// `path` as operators write it: `routes[2].owner`.
fn render(root: &Value, path: &[String]) -> String {
    let mut key = String::new();
    for (depth, step) in path.iter().enumerate() {
        key = match find(root, &path[..depth]) {
            Some(Value::Array(..)) => format!("{key}[{step}]"),
            _ => join(&key, step),
        };
    }
    key
}

/// The mistake in one sentence.
fn explain(kind: &Kind, key: &str, value: Option<&Value>) -> String {
    let secret = SECRETS.iter().any(|known| is_at_or_under(key, known));
    match kind {
        Kind::UnknownField(name, known) => match nearest(name, known) {
            Some(known) => format!("unknown key, did you mean \"{known}\"?"),
            None => format!("unknown key; the keys here are {}", listed(known)),
        },
        Kind::MissingField(_) => "is missing".to_owned(),
        Kind::InvalidType(found, expected) => {
            let hint = match (found, expected.as_str()) {
                (Actual::Map, "a sequence") if !key.contains(['.', '[']) => {
                    format!("; write [[{key}]]")
                }
                _ => String::new(),
            };
            format!("expected {}, found {}{hint}", plain(expected), type_name(found))
        }
        _ if secret => "is not valid".to_owned(),
        Kind::UnknownVariant(word, known) => {
            let expected = format!("`{word}` is unknown; expected one of {}", listed(known));
            match nearest(word, known) {
                Some(known) => format!("{expected}; did you mean \"{known}\"?"),
                None => expected,
            }
        }
        Kind::InvalidValue(Actual::Signed(n), expected) => out_of_range(n, expected),
        Kind::InvalidValue(Actual::Unsigned(n), expected) => out_of_range(n, expected),
        Kind::Message(message) => match value.and_then(Value::as_str) {
            Some(text) => describe_text(text, message),
            None => message.clone(),
        },
        Kind::InvalidValue(_, expected) | Kind::InvalidLength(_, expected) => {
            format!("expected {}", plain(expected))
        }
        other => other.to_string(),
    }
}

/// A message of a text's own parser, made to name the text and what would be right.
fn describe_text(text: &str, message: &str) -> String {
    match message {
        "invalid socket address syntax" => format!(
            "`{text}` is not an address with a port; write for example \"127.0.0.1:8080\" or \
             \"[::1]:8080\""
        ),
        "invalid IP address syntax" => format!(
            "`{text}` is not a network; write for example \"10.0.0.0/8\" or \"192.0.2.1/32\""
        ),
        _ => message.to_owned(),
    }
}

fn out_of_range(number: impl std::fmt::Display, expected: &str) -> String {
    match expected {
        "u32" => {
            format!("{number} is out of range; expected a whole number from 0 to {}", u32::MAX)
        }
        _ => format!("{number} is out of range; expected a whole number from 0"),
    }
}

/// What serde expects, in the operator's words.
fn plain(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        "path string" => "the path of a file in quotes",
        "socket address" => "an address such as \"127.0.0.1:8080\"",
        "IPv4 or IPv6 network address" => "a network such as \"10.0.0.0/8\"",
        "i8" | "i16" | "i32" | "i64" | "isize" | "u8" | "u16" | "u32" | "u64" | "usize" => {
            "a whole number"
        }
        _ if expected.starts_with("struct ") => "a table",
        _ if expected.starts_with("enum ") => "a word in quotes",
        _ => expected,
    }
}

/// The type of a value; never the value, which may be a secret in the wrong place.
fn type_name(found: &Actual) -> &'static str {
    match found {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) => "a number",
        Actual::Float(_) => "a number with a fraction",
        Actual::Char(_) | Actual::Str(_) => "a string",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "something else",
    }
}

fn listed(words: &[&str]) -> String {
    words.join(", ")
}

/// The word that was probably meant.
fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    // Every third letter may be wrong: beyond that the guess is noise.
    let most = (word.chars().count() / 3).max(1);
    known
        .iter()
        .map(|&known| {
            (strsim::damerau_levenshtein(&word.to_lowercase(), &known.to_lowercase()), known)
        })
        .filter(|&(distance, _)| distance <= most)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, known)| known)
}
