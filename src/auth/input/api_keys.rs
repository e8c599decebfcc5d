//! What clients say of API keys.

use std::time::Duration;

use super::{Fields, InputError, invalid};
use crate::model::{MAX_SCOPES, is_scope_name, is_unprintable};

/// Longest name of a key, in bytes.
const MAX_NAME: usize = 100;

/// For how long a rotated key goes on when the client does not say, and at most.
const OVERLAP: Duration = Duration::from_hours(24);
const MAX_OVERLAP: Duration = Duration::from_hours(30 * 24);

/// `POST /api_keys`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApiKey {
    /// What its owner calls it.
    pub name: String,
    /// What it is to be good for; sorted, without repeats.
    pub scopes: Vec<String>,
    /// How long it is to live.
    pub expires_in: Option<Duration>,
}

impl NewApiKey {
    /// Reads `{name, scopes?, expires_in?}`, the last in seconds.
    ///
    /// # Errors
    /// [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        let name = fields.required_text("name")?.trim().to_owned();
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(is_unprintable) {
            return Err(invalid("`name` must have 1 to 100 bytes and no control characters"));
        }
        let mut scopes = fields.optional_texts("scopes")?.unwrap_or_default();
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.len() > MAX_SCOPES || !scopes.iter().all(|scope| is_scope_name(scope)) {
            return Err(invalid(
                "`scopes` must be at most 32 words of 1 to 64 of the characters a-z 0-9 : _ -",
            ));
        }
        Ok(Self { name, scopes, expires_in: fields.optional_seconds("expires_in", 1)? })
    }
}

/// `POST /api_keys/{id}/rotate`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotateApiKey {
    /// How long the old key goes on.
    pub overlap: Duration,
    /// How long the new one is to live.
    pub expires_in: Option<Duration>,
}

impl RotateApiKey {
    /// Reads `{overlap?, expires_in?}` in seconds.
    ///
    /// # Errors
    /// [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        let overlap = fields.optional_seconds("overlap", 0)?.unwrap_or(OVERLAP);
        if overlap > MAX_OVERLAP {
            return Err(invalid("`overlap` must be at most 2592000 seconds"));
        }
        Ok(Self { overlap, expires_in: fields.optional_seconds("expires_in", 1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(json: &str) -> Result<NewApiKey, InputError> {
        NewApiKey::parse(Fields::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn a_key_has_a_name_and_plain_scopes() {
        let made = new(r#"{"name":" job ","scopes":["write","read","read"],"expires_in":60}"#);
        let made = made.unwrap();
        assert_eq!(
            (made.name.as_str(), &*made.scopes),
            ("job", &["read", "write"].map(str::to_owned)[..])
        );
        assert_eq!(made.expires_in, Some(Duration::from_mins(1)));
        assert_eq!(new(r#"{"name":"x"}"#).unwrap().scopes, [""; 0]);
        let many: Vec<_> = (0..33).map(|n| format!("\"s{n}\"")).collect();
        for bad in [
            "{}",
            r#"{"name":""}"#,
            r#"{"name":" "}"#,
            "{\"name\":\"a\\u0007\"}",
            &format!(r#"{{"name":"{}"}}"#, "x".repeat(101)),
            r#"{"name":"x","scopes":"read"}"#,
            r#"{"name":"x","scopes":["Read"]}"#,
            r#"{"name":"x","scopes":[1]}"#,
            &format!(r#"{{"name":"x","scopes":[{}]}}"#, many.join(",")),
            r#"{"name":"x","expires_in":0}"#,
            r#"{"name":"x","expires_in":-1}"#,
            r#"{"name":"x","expires_in":1.5}"#,
            r#"{"name":"x","expires_in":"60"}"#,
            r#"{"name":"x","expires_in":99999999999}"#,
        ] {
            assert!(matches!(new(bad), Err(InputError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn a_rotated_key_goes_on_for_a_day_or_as_asked() {
        let rotate = |json: &str| RotateApiKey::parse(Fields::parse(json.as_bytes()).unwrap());
        assert_eq!(rotate("{}").unwrap().overlap, OVERLAP);
        assert_eq!(rotate(r#"{"overlap":0}"#).unwrap().overlap, Duration::ZERO);
        assert_eq!(rotate(r#"{"overlap":2592000}"#).unwrap().overlap, MAX_OVERLAP);
        assert!(rotate(r#"{"overlap":2592001}"#).is_err());
    }
}
