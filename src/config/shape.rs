//! Asks the schema what kind of value a key takes, through the schema's own `Deserialize`: there
//! is no second list of keys that could fall behind.

use std::cell::Cell;

use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::Config;

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Text, also text with a meaning such as a duration.
    Text,
    /// One of some words.
    Word,
    /// `true` or `false`.
    Truth,
    /// A number.
    Number,
    /// A list.
    List,
    /// A table with these keys.
    Table(&'static [&'static str]),
    /// A table with keys of the operator's choice.
    Names,
}

/// The shape of the key at `path` (any index stands for every entry of a list), if there is one.
pub(super) fn at<S: AsRef<str>>(path: &[S]) -> Option<Shape> {
    let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
    let found = Cell::new(None);
    // It always fails: a probe holds no value. What was asked for on the way is the answer.
    let _ = Config::deserialize(Probe { path: &path, found: &found });
    found.get()
}

/// A deserializer that follows a path and notes what is asked for at its end.
#[derive(Clone, Copy)]
struct Probe<'a> {
    path: &'a [&'a str],
    found: &'a Cell<Option<Shape>>,
}

impl Probe<'_> {
    fn note(self, shape: Shape) -> Error {
        if self.path.is_empty() {
            self.found.set(Some(shape));
        }
        de::Error::custom("a probe holds no value")
    }
}

macro_rules! notes {
    ($($shape:ident: $($method:ident)+;)+) => {$($(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(self.note(Shape::$shape))
        }
    )+)+};
}

impl<'de> de::Deserializer<'de> for Probe<'_> {
    type Error = Error;

    notes! {
        Text: deserialize_any;
        Truth: deserialize_bool;
        Number: deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_i8
            deserialize_i16 deserialize_i32 deserialize_i64 deserialize_f32 deserialize_f64;
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        Err(self.note(Shape::Word))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.path.first() {
            Some(name) if fields.contains(name) => visitor.visit_map(Step(self)),
            _ => Err(self.note(Shape::Table(fields))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.path.is_empty() {
            return Err(self.note(Shape::Names));
        }
        visitor.visit_map(Step(self))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.path.is_empty() {
            return Err(self.note(Shape::List));
        }
        visitor.visit_seq(Step(self))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier
        ignored_any
    }
}

/// One step down the path: the only entry of its table or list.
struct Step<'a>(Probe<'a>);

impl Step<'_> {
    fn value<'de, T: DeserializeSeed<'de>>(&self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(Probe { path: &self.0.path[1..], found: self.0.found })
    }
}

impl<'de> MapAccess<'de> for Step<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        seed.deserialize(self.0.path[0].into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        self.value(seed)
    }
}

impl<'de> SeqAccess<'de> for Step<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.value(seed).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_answers_for_every_depth() {
        for (path, shape) in [
            ("server.listen", Some(Shape::List)),
            ("server.listen.0", Some(Shape::Text)),
            ("server.workers", Some(Shape::Number)),
            ("server.header_timeout", Some(Shape::Text)),
            ("server.forwarded_header", Some(Shape::Word)),
            ("server.tls.certificate", Some(Shape::Text)),
            ("storage.migrate", Some(Shape::Truth)),
            ("tokens.secret", Some(Shape::Text)),
            ("limits", Some(Shape::Names)),
            ("limits.login", Some(Shape::Table(&["rate", "by", "on_outage"]))),
            ("upstreams.app.servers", Some(Shape::List)),
            ("passwords.argon2.memory", Some(Shape::Text)),
            ("tests.0.expect", Some(Shape::Text)),
            ("server.listn", None),
            ("storage.url.x", None),
            ("nothing", None),
        ] {
            let segments: Vec<&str> = path.split('.').collect();
            assert_eq!(at(&segments), shape, "{path}");
        }
    }
}
