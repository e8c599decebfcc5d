//! Bodies as fields of strict JSON.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use zeroize::Zeroize as _;

use super::{InputError, MAX_BODY_BYTES, invalid};
use crate::model::{Challenge, ChallengeMethod, Email, JsonObject};

/// Deepest nesting of a body, the outer object counted.
const MAX_DEPTH: usize = 16;

/// The fields of a JSON body, before anyone has looked at them. Wipes its texts when dropped.
pub struct Fields(JsonObject);

impl Fields {
    /// Reads a body, and wipes it if nobody else holds it.
    ///
    /// # Errors
    /// [`InputError::UnsupportedMediaType`] unless it is declared as JSON, which a form of another
    /// site cannot do without a preflight; [`InputError::TooLarge`]; [`InputError::BadJson`].
    pub fn read(headers: &HeaderMap, body: Bytes) -> Result<Self, InputError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(InputError::TooLarge);
        }
        if body.is_empty() && may_be_absent(headers) {
            return Err(InputError::BadJson("it is empty".to_owned()));
        }
        if !is_json(headers) {
            return Err(InputError::UnsupportedMediaType);
        }
        let fields = Self::parse(&body);
        if let Ok(mut body) = body.try_into_mut() {
            body.as_mut().zeroize();
        }
        fields
    }

    /// Reads a body where no field is required: an empty one has none. Client libraries declare
    /// JSON also where they send nothing.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn read_if_any(headers: &HeaderMap, body: Bytes) -> Result<Self, InputError> {
        if body.is_empty() && may_be_absent(headers) {
            return Ok(Self(JsonObject::new()));
        }
        Self::read(headers, body)
    }

    /// Reads the text of a JSON object.
    ///
    /// # Errors
    /// [`InputError::BadJson`].
    pub fn parse(text: &[u8]) -> Result<Self, InputError> {
        let bad = |error: serde_json::Error| InputError::BadJson(error.to_string());
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let value = Strict { levels: MAX_DEPTH }.deserialize(&mut deserializer).map_err(bad)?;
        deserializer.end().map_err(bad)?;
        match value {
            Value::Object(fields) => Ok(Self(fields)),
            _ => Err(InputError::BadJson("it is not an object".to_owned())),
        }
    }

    /// The text of a field, whatever it is worth: for the record of a refused request.
    pub fn peek(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// The address in the field `email`.
    ///
    /// # Errors
    /// [`InputError::Invalid`].
    pub fn email(&mut self) -> Result<Email, InputError> {
        self.required_text("email")?
            .parse()
            .map_err(|_| invalid("`email` must be an e-mail address"))
    }

    /// Whether a field is absent, null or an empty text.
    pub fn is_blank(&self, name: &str) -> bool {
        match self.0.get(name) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(_) => false,
        }
    }

    pub(super) fn required_text(&mut self, name: &str) -> Result<String, InputError> {
        self.optional_text(name)?
            .ok_or_else(|| InputError::Invalid(format!("`{name}` is required")))
    }

    pub(super) fn optional_text(&mut self, name: &str) -> Result<Option<String>, InputError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(InputError::Invalid(format!("`{name}` must be a string"))),
        }
    }

    /// A text of which an empty one is none.
    pub(super) fn filled_text(&mut self, name: &str) -> Result<Option<String>, InputError> {
        Ok(self.optional_text(name)?.filter(|text| !text.is_empty()))
    }

    pub(super) fn optional_bool(&mut self, name: &str) -> Result<Option<bool>, InputError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(InputError::Invalid(format!("`{name}` must be true or false"))),
        }
    }

    /// `code_challenge` and `code_challenge_method`, both or neither.
    pub(super) fn challenge(&mut self) -> Result<Option<Challenge>, InputError> {
        let text = self.filled_text("code_challenge")?;
        let method = self.filled_text("code_challenge_method")?;
        let (text, method) = match (text, method) {
            (None, None) => return Ok(None),
            (Some(text), Some(method)) => (text, method),
            _ => return Err(invalid("`code_challenge` and `code_challenge_method` go together")),
        };
        let method = ChallengeMethod::from_word(&method.to_ascii_lowercase())
            .ok_or_else(|| invalid("`code_challenge_method` must be s256 or plain"))?;
        let challenge = Challenge::new(method, &text);
        challenge
            .map(Some)
            .map_err(|error| InputError::Invalid(format!("`code_challenge`: {error}")))
    }

    /// A list of texts.
    pub(super) fn optional_texts(&mut self, name: &str) -> Result<Option<Vec<String>>, InputError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(list) => serde_json::from_value(list)
                .map(Some)
                .map_err(|_| InputError::Invalid(format!("`{name}` must be a list of strings"))),
        }
    }

    /// A whole number of seconds, from `least` to ten years.
    pub(super) fn optional_seconds(
        &mut self,
        name: &str,
        least: u64,
    ) -> Result<Option<Duration>, InputError> {
        const TEN_YEARS: u64 = 10 * 365 * 86_400;
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_u64()
                .filter(|seconds| (least..=TEN_YEARS).contains(seconds))
                .map(|seconds| Some(Duration::from_secs(seconds)))
                .ok_or_else(|| {
                    InputError::Invalid(format!(
                        "`{name}` must be from {least} to {TEN_YEARS} seconds"
                    ))
                }),
        }
    }

    pub(super) fn optional_object(&mut self, name: &str) -> Result<Option<JsonObject>, InputError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(InputError::Invalid(format!("`{name}` must be an object"))),
        }
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fields(..)")
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        for value in self.0.values_mut() {
            if let Value::String(text) = value {
                text.zeroize();
            }
        }
    }
}

/// Whether nothing is declared that an empty body is not.
fn may_be_absent(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::CONTENT_TYPE) || is_json(headers)
}

/// Whether the one `Content-Type` is `application/json`, with or without parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return false;
    };
    line.to_str().is_ok_and(|line| {
        let media_type = line.split_once(';').map_or(line, |(media_type, _)| media_type);
        media_type.trim().eq_ignore_ascii_case("application/json")
    })
}

/// Builds a [`Value`] of at most so many levels, without repeated keys.
#[derive(Clone, Copy)]
struct Strict {
    levels: usize,
}

impl Strict {
    fn inner<E: de::Error>(self) -> Result<Self, E> {
        let levels = self.levels.checked_sub(1);
        levels.map(|levels| Self { levels }).ok_or_else(|| E::custom("it is nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(inner)?;
            if map.insert(key, value).is_some() {
                return Err(de::Error::custom("a key is repeated"));
            }
        }
        Ok(Value::Object(map))
    }
}
