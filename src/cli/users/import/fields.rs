//! The fields of a row under whatever name and in whatever spelling their program gives them:
//! `EmailConfirmed`, `email_confirmed` and `emailConfirmed` are one name, `t`, `1` and `true` one
//! value.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::error::RowError;
use crate::model::JsonObject;

/// The fields of one row.
pub(super) struct Fields<'r> {
    /// Plain name, name as written, value; without null and empty ones.
    all: Vec<(String, &'r str, &'r Value)>,
}

/// A time, or whether there is one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Since {
    At(Timestamp),
    Unknown,
    Never,
}

impl<'r> Fields<'r> {
    /// `renamed` are pairs of a name in the file and the name that is meant.
    pub(super) fn of(row: &'r JsonObject, renamed: &[(String, String)]) -> Self {
        let all = row.iter().filter(|(_, value)| !is_nothing(value)).map(|(name, value)| {
            let meant = renamed.iter().find(|(from, _)| from == name).map_or(name, |(_, to)| to);
            (plain(meant), name.as_str(), value)
        });
        Self { all: all.collect() }
    }

    /// The first of these plain names that is there.
    pub(super) fn get(&self, names: &[&str]) -> Option<(&'r str, &'r Value)> {
        names.iter().find_map(|wanted| {
            let (_, name, value) = self.all.iter().find(|(name, ..)| name == wanted)?;
            Some((*name, *value))
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(&[name]).is_some()
    }

    /// A text, or a number as text.
    pub(super) fn text(&self, names: &[&str]) -> Option<String> {
        match self.get(names)?.1 {
            Value::String(text) => Some(text.trim().to_owned()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    pub(super) fn time(&self, names: &[&str]) -> Result<Option<Timestamp>, RowError> {
        let Some((name, value)) = self.get(names) else { return Ok(None) };
        time(value).map(Some).ok_or_else(|| RowError::BadTime(name.to_owned()))
    }

    pub(super) fn flag(&self, names: &[&str]) -> Result<Option<bool>, RowError> {
        let Some((name, value)) = self.get(names) else { return Ok(None) };
        flag(value).map(Some).ok_or_else(|| RowError::BadFlag(name.to_owned()))
    }

    /// A time, or a flag in its place.
    pub(super) fn since(&self, names: &[&str]) -> Result<Since, RowError> {
        let Some((name, value)) = self.get(names) else { return Ok(Since::Never) };
        match (flag(value), time(value)) {
            (Some(true), _) => Ok(Since::Unknown),
            (Some(false), _) => Ok(Since::Never),
            (None, Some(at)) => Ok(Since::At(at)),
            (None, None) => Err(RowError::BadTime(name.to_owned())),
        }
    }

    /// An object, or the text of one.
    pub(super) fn object(&self, names: &[&str]) -> Result<JsonObject, RowError> {
        let Some((name, value)) = self.get(names) else { return Ok(JsonObject::new()) };
        object(value).ok_or_else(|| RowError::BadMetadata(name.to_owned()))
    }
}

/// A name without what programs write differently.
pub(super) fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| c.is_alphanumeric() || matches!(c, '.' | '$'));
    letters.flat_map(char::to_lowercase).collect()
}

/// An object, or the text of one.
pub(super) fn object(value: &Value) -> Option<JsonObject> {
    match value {
        Value::Object(object) => Some(object.clone()),
        Value::String(text) => serde_json::from_str(text).ok(),
        _ => None,
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_i64()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "t" | "1" | "yes" | "y" => Some(true),
            "false" | "f" | "0" | "no" | "n" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// RFC 3339 and what databases write, which is UTC without a word; seconds or milliseconds since
/// 1970; `{"$date": ...}` of a document store.
fn time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::Number(number) => since_epoch(number.as_i64()?),
        Value::Object(object) => {
            let date = object.get("$date")?;
            time(date.get("$numberLong").unwrap_or(date))
        }
        Value::String(text) => {
            let text = text.trim();
            if text.bytes().all(|byte| byte.is_ascii_digit()) {
                return since_epoch(text.parse().ok()?);
            }
            let text =
                text.strip_suffix(" UTC").map_or_else(|| text.to_owned(), |t| format!("{t}Z"));
            // The SQL server puts a space before the offset.
            let text = text.replacen(" +", "+", 1).replacen(" -", "-", 1);
            let instant = text.parse::<Timestamp>().ok();
            instant.or_else(|| {
                let local: DateTime = text.parse().ok()?;
                Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
            })
        }
        _ => None,
    }
}

/// As seconds this would be the year 5138, as milliseconds it is 1973.
const MILLISECONDS_FROM: i64 = 100_000_000_000;

fn since_epoch(number: i64) -> Option<Timestamp> {
    if number >= MILLISECONDS_FROM {
        Timestamp::from_millisecond(number).ok()
    } else {
        Timestamp::from_second(number).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_of_many_programs() {
        for (value, expected) in [
            (json!("2024-05-06T07:08:09Z"), "2024-05-06T07:08:09Z"),
            (json!("2024-05-06T07:08:09.5+02:00"), "2024-05-06T05:08:09.5Z"),
            (json!("2024-05-06 07:08:09"), "2024-05-06T07:08:09Z"),
            (json!("2024-05-06 07:08:09.123456+00"), "2024-05-06T07:08:09.123456Z"),
            (json!("2024-05-06 07:08:09 UTC"), "2024-05-06T07:08:09Z"),
            (json!("2024-05-06 07:08:09.1234567 +01:00"), "2024-05-06T06:08:09.1234567Z"),
            (json!("2024-05-06"), "2024-05-06T00:00:00Z"),
            (json!("1714979289"), "2024-05-06T07:08:09Z"),
            (json!(1_714_979_289_000_i64), "2024-05-06T07:08:09Z"),
            (json!({"$date": "2024-05-06T07:08:09Z"}), "2024-05-06T07:08:09Z"),
            (json!({"$date": {"$numberLong": "1714979289000"}}), "2024-05-06T07:08:09Z"),
        ] {
            assert_eq!(time(&value), Some(expected.parse().unwrap()), "{value}");
        }
        for value in [json!("yesterday"), json!("infinity"), json!(true), json!({}), json!(1.5)] {
            assert_eq!(time(&value), None, "{value}");
        }
    }

    #[test]
    fn names_and_flags_in_any_spelling() {
        for name in ["email_confirmed", "EmailConfirmed", "emailConfirmed", "email confirmed"] {
            assert_eq!(plain(name), "emailconfirmed");
        }
        let row =
            json!({"A": "t", "b": 0, "c": "TRUE", "d": "maybe", "e": "2024-05-06", "n": null});
        let row = row.as_object().unwrap();
        let fields = Fields::of(row, &[("A".to_owned(), "other_name".to_owned())]);
        assert_eq!(fields.flag(&["othername"]), Ok(Some(true)));
        assert_eq!(fields.flag(&["a", "b"]), Ok(Some(false)));
        assert_eq!(fields.flag(&["c"]), Ok(Some(true)));
        assert_eq!(fields.flag(&["d"]), Err(RowError::BadFlag("d".to_owned())));
        assert_eq!(fields.flag(&["n"]), Ok(None));
        assert_eq!(fields.since(&["e"]), Ok(Since::At("2024-05-06T00:00:00Z".parse().unwrap())));
        assert_eq!(fields.since(&["c"]), Ok(Since::Unknown));
        assert_eq!(fields.since(&["b"]), Ok(Since::Never));
        assert!(fields.since(&["d"]).is_err());
    }
}
