//! What clients send to the account endpoints. Each body type exists only when it is valid, so
//! that the service behind never meets a half-checked value.
//!
//! JSON is read strictly: one object, no repeated key (the classic way to show two parsers two
//! different requests), sixteen levels, 16 KiB. Unknown fields are ignored, because the client
//! libraries of Supabase Auth send some of their own.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, header};
use secrecy::SecretString;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use zeroize::Zeroize as _;

use super::policy::{Policy, Weakness};
use crate::model::{Challenge, ChallengeMethod, Email, JsonObject, Purpose};

/// Longest body of an account request.
pub const MAX_BODY_BYTES: usize = 16 * 1024;
/// Deepest nesting of a body, the outer object counted.
const MAX_DEPTH: usize = 16;
/// Longest metadata as compact JSON: it travels in every access token.
pub const MAX_METADATA_BYTES: usize = 2 * 1024;

/// Why a request cannot be understood or is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// A sign-up that names neither an e-mail address nor a phone number.
    #[error("an e-mail address is needed")]
    Anonymous,
    /// A phone number where an address is needed.
    #[error("phone numbers are not supported")]
    Phone,
    /// A body that is not declared as JSON.
    #[error("the content type must be application/json")]
    UnsupportedMediaType,
    /// More than [`MAX_BODY_BYTES`].
    #[error("the body is too large")]
    TooLarge,
    /// Not one strict JSON object; what is the matter, in words that repeat nothing of it.
    #[error("the body is not acceptable JSON: {0}")]
    BadJson(String),
    /// A field that is missing or unacceptable, in a sentence for the client.
    #[error("{0}")]
    Invalid(String),
    /// A new password that the rule refuses.
    #[error("{}", .0.message)]
    Weak(Weakness),
}

impl InputError {
    /// The metadata would be larger than [`MAX_METADATA_BYTES`].
    pub fn metadata_too_large() -> Self {
        invalid("`data` must not make the metadata larger than 2048 bytes of JSON")
    }
}

/// `POST /signup`
#[derive(Debug)]
pub struct SignUp {
    /// The new account's address.
    pub email: Email,
    /// Its password, which the rule accepts.
    pub password: SecretString,
    /// What the user notes.
    pub user_metadata: JsonObject,
    /// The challenge of the client, for the link that confirms the address.
    pub challenge: Option<Challenge>,
}

impl SignUp {
    /// Reads `{email, password, data?, code_challenge?, code_challenge_method?}`.
    ///
    /// # Errors
    /// [`InputError::Anonymous`], [`InputError::Invalid`] and [`InputError::Weak`].
    pub fn parse(mut fields: Fields, policy: &Policy) -> Result<Self, InputError> {
        // What client libraries send for an account without a name, which there is none of here.
        if ["email", "phone"].iter().all(|name| fields.is_blank(name)) {
            return Err(InputError::Anonymous);
        }
        let email = fields.email()?;
        let password = fields.required_text("password")?;
        if let Err(weakness) = policy.check(&password, Some(&email)) {
            return Err(InputError::Weak(weakness));
        }
        let user_metadata = new_metadata(fields.optional_object("data")?.unwrap_or_default())?;
        let challenge = fields.challenge()?;
        Ok(Self { email, password: password.into(), user_metadata, challenge })
    }
}

/// `POST /login`, `POST /token?grant_type=password`
#[derive(Debug)]
pub struct LogIn {
    /// The address that is tried.
    pub email: Email,
    /// The password that is tried: any text, as old rules may have allowed what new ones do not.
    pub password: SecretString,
}

impl LogIn {
    /// Reads `{email, password}`.
    ///
    /// # Errors
    /// [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        let email = fields.email()?;
        let password = fields.required_text("password")?.into();
        Ok(Self { email, password })
    }
}

/// `POST /token?grant_type=refresh_token`
#[derive(Debug)]
pub struct Refresh {
    /// The token that is shown, of any form.
    pub refresh_token: SecretString,
}

impl Refresh {
    /// Reads `{refresh_token}`.
    ///
    /// # Errors
    /// [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        Ok(Self { refresh_token: fields.required_text("refresh_token")?.into() })
    }
}

/// `PUT /user`
#[derive(Debug)]
pub struct UpdateUser {
    /// Keys to set, or with `null` to remove, in the user's metadata.
    pub user_metadata: Option<JsonObject>,
    /// A new password, not yet held against the rule: that needs the user's address.
    pub password: Option<SecretString>,
    /// The old one.
    pub current_password: Option<SecretString>,
    /// The code of a letter, in the place of the old one.
    pub nonce: Option<SecretString>,
    /// Another address.
    pub email: Option<Email>,
    /// Where the links to prove it are to lead.
    pub redirect_to: Option<String>,
    /// The challenge of the client, for these links.
    pub challenge: Option<Challenge>,
}

impl UpdateUser {
    /// Reads `{data?, password?, email?, current_password?, nonce?, code_challenge?,
    /// code_challenge_method?}`.
    ///
    /// # Errors
    /// [`InputError::Invalid`], also for a new `phone`, which cannot be proved.
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        let password = fields.optional_text("password")?.map(SecretString::from);
        let current_password = fields.optional_text("current_password")?.map(SecretString::from);
        let user_metadata = fields.optional_object("data")?;
        let nonce = fields.filled_text("nonce")?.map(SecretString::from);
        let email = if fields.is_blank("email") { None } else { Some(fields.email()?) };
        let challenge = fields.challenge()?;
        if fields.optional_text("phone")?.is_some_and(|phone| !phone.is_empty()) {
            return Err(invalid("Phone numbers are not supported"));
        }
        Ok(Self {
            user_metadata,
            password,
            current_password,
            nonce,
            email,
            redirect_to: None,
            challenge,
        })
    }
}

/// `POST /recover`, `/otp`, `/magiclink`, `/resend`
#[derive(Debug)]
pub struct LetterWanted {
    /// Where it goes.
    pub email: Email,
    /// Whether an account may be made for the address.
    pub may_create: bool,
    /// The metadata of such an account.
    pub user_metadata: JsonObject,
    /// The challenge of the client.
    pub challenge: Option<Challenge>,
}

impl LetterWanted {
    /// Reads `{email, create_user = true, data?, code_challenge?, code_challenge_method?}`.
    ///
    /// # Errors
    /// [`InputError::Phone`] and [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        if fields.is_blank("email") && !fields.is_blank("phone") {
            return Err(InputError::Phone);
        }
        let email = fields.email()?;
        let may_create = fields.optional_bool("create_user")?.unwrap_or(true);
        let user_metadata = new_metadata(fields.optional_object("data")?.unwrap_or_default())?;
        let challenge = fields.challenge()?;
        Ok(Self { email, may_create, user_metadata, challenge })
    }

    /// Reads `{type, email, …}` of `POST /resend`, and what is to be sent again.
    ///
    /// # Errors
    /// [`InputError::Phone`] and [`InputError::Invalid`].
    pub fn parse_repeated(mut fields: Fields) -> Result<(Repeated, Self), InputError> {
        let repeated = match fields.required_text("type")?.as_str() {
            "signup" => Repeated::Signup,
            "email_change" => Repeated::EmailChange,
            "sms" | "phone_change" => return Err(InputError::Phone),
            _ => return Err(invalid("`type` must be signup or email_change")),
        };
        Ok((repeated, Self { may_create: false, ..Self::parse(fields)? }))
    }
}

/// What `POST /resend` sends again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeated {
    /// The letter of a sign-up.
    Signup,
    /// The letters of a change of address, asked for by the present address.
    EmailChange,
}

/// `POST /verify`
#[derive(Debug)]
pub enum Verify {
    /// The token of a link.
    Link {
        /// The token, of any form.
        token_hash: SecretString,
        /// What it may be good for.
        purposes: Vec<Purpose>,
    },
    /// A code of six digits.
    Code {
        /// The address that it was sent to.
        email: Email,
        /// The code, of any form.
        token: SecretString,
        /// What it may be good for.
        purposes: Vec<Purpose>,
    },
}

impl Verify {
    /// Reads `{type, token_hash}` or `{type, email, token}`.
    ///
    /// # Errors
    /// [`InputError::Phone`] and [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        let kind = fields.required_text("type")?;
        if matches!(&*kind, "sms" | "phone_change") {
            return Err(InputError::Phone);
        }
        let purposes = purposes_of(&kind).ok_or_else(|| {
            invalid("`type` must be signup, invite, recovery, magiclink, email or email_change")
        })?;
        if let Some(token_hash) = fields.filled_text("token_hash")? {
            return Ok(Self::Link { token_hash: token_hash.into(), purposes });
        }
        let email = fields.email()?;
        let token = fields.required_text("token")?;
        if token.len() > MAX_CODE {
            return Err(invalid("`token` is too long"));
        }
        Ok(Self::Code { email, token: token.into(), purposes })
    }
}

/// Longest text that is tried as a code, in bytes.
const MAX_CODE: usize = 64;

/// What the `type` of a link or code may mean.
pub fn purposes_of(kind: &str) -> Option<Vec<Purpose>> {
    Some(match kind {
        "signup" => vec![Purpose::Signup],
        "invite" => vec![Purpose::Invite],
        "recovery" => vec![Purpose::Recovery],
        "magiclink" => vec![Purpose::MagicLink],
        // What clients say for the code of either.
        "email" => vec![Purpose::Signup, Purpose::MagicLink],
        "email_change" => vec![Purpose::EmailChangeCurrent, Purpose::EmailChangeNew],
        _ => return None,
    })
}

/// `POST /token?grant_type=pkce`
#[derive(Debug)]
pub struct Pkce {
    /// The code that a link left, of any form.
    pub auth_code: SecretString,
    /// What its challenge was made of.
    pub code_verifier: SecretString,
}

impl Pkce {
    /// Reads `{auth_code, code_verifier}`.
    ///
    /// # Errors
    /// [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        let auth_code = fields.required_text("auth_code")?.into();
        let code_verifier = fields.required_text("code_verifier")?.into();
        Ok(Self { auth_code, code_verifier })
    }
}

/// The metadata of a new account: what was sent, without its nulls, as an update would leave it.
fn new_metadata(mut given: JsonObject) -> Result<JsonObject, InputError> {
    given.retain(|_, value| !value.is_null());
    let size = serde_json::to_vec(&given).map_or(usize::MAX, |text| text.len());
    if size > MAX_METADATA_BYTES {
        return Err(InputError::metadata_too_large());
    }
    Ok(given)
}

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
    fn is_blank(&self, name: &str) -> bool {
        match self.0.get(name) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(_) => false,
        }
    }

    fn required_text(&mut self, name: &str) -> Result<String, InputError> {
        self.optional_text(name)?
            .ok_or_else(|| InputError::Invalid(format!("`{name}` is required")))
    }

    fn optional_text(&mut self, name: &str) -> Result<Option<String>, InputError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(InputError::Invalid(format!("`{name}` must be a string"))),
        }
    }

    /// A text of which an empty one is none.
    fn filled_text(&mut self, name: &str) -> Result<Option<String>, InputError> {
        Ok(self.optional_text(name)?.filter(|text| !text.is_empty()))
    }

    fn optional_bool(&mut self, name: &str) -> Result<Option<bool>, InputError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(InputError::Invalid(format!("`{name}` must be true or false"))),
        }
    }

    /// `code_challenge` and `code_challenge_method`, both or neither.
    fn challenge(&mut self) -> Result<Option<Challenge>, InputError> {
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

    fn optional_object(&mut self, name: &str) -> Result<Option<JsonObject>, InputError> {
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

fn invalid(sentence: &str) -> InputError {
    InputError::Invalid(sentence.to_owned())
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

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use serde_json::json;

    use super::*;
    use crate::config;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).unwrap()
    }

    fn sign_up(text: &str) -> Result<SignUp, InputError> {
        let policy = Policy::compile(&config::Passwords::default()).unwrap();
        SignUp::parse(fields(text), &policy)
    }

    #[test]
    fn bodies_are_strict_json_objects() {
        let deep = |n: usize| format!("{{\"data\":{}{}}}", "[".repeat(n), "]".repeat(n));
        for fine in ["{}", " {\"a\":[1,-2,3.5,true,null,\"x\\u00e4\"]}\n", &deep(15)] {
            assert!(Fields::parse(fine.as_bytes()).is_ok(), "{fine}");
        }
        for bad in [
            "",
            "null",
            "[]",
            "\"text\"",
            "{",
            "{}{}",
            "{} x",
            "{\"a\":1,}",
            "{'a':1}",
            "{\"a\":1,\"a\":1}",
            "{\"data\":{\"a\":1,\"\\u0061\":2}}",
            "{\"a\":NaN}",
            "{\"a\":1e999}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\u{1}\"}",
            "// x\n{}",
            "\u{feff}{}",
            &deep(16),
        ] {
            let refused = Fields::parse(bad.as_bytes());
            assert!(matches!(refused, Err(InputError::BadJson(_))), "{bad}");
        }
        assert!(Fields::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_refusal_repeats_nothing_of_the_body() {
        for bad in
            ["{\"password\":\"Tiger-Lily-9\" \"x\"}", "{\"Tiger-Lily-9\":1,\"Tiger-Lily-9\":2}"]
        {
            let Err(error) = Fields::parse(bad.as_bytes()) else { panic!("{bad}") };
            assert!(!error.to_string().contains("Tiger"), "{error}");
        }
    }

    #[test]
    fn only_declared_json_is_read() {
        let read = |types: &[&str], body: &'static str| {
            let mut headers = HeaderMap::new();
            for content_type in types {
                headers.append(header::CONTENT_TYPE, content_type.parse().unwrap());
            }
            Fields::read(&headers, Bytes::from_static(body.as_bytes())).map(|_| ())
        };
        assert_eq!(read(&["application/json"], "{}"), Ok(()));
        assert_eq!(read(&["Application/JSON ; charset=utf-8"], "{}"), Ok(()));
        for types in [
            &[][..],
            &["text/plain"],
            &["application/x-www-form-urlencoded"],
            &["application/jsonp"],
            &["text/plain; application/json"],
            &["application/json", "text/plain"],
        ] {
            assert_eq!(read(types, "{}"), Err(InputError::UnsupportedMediaType), "{types:?}");
        }
        for types in [&[][..], &["application/json"]] {
            assert_eq!(read(types, ""), Err(InputError::BadJson("it is empty".to_owned())));
        }
        assert_eq!(read(&["text/plain"], ""), Err(InputError::UnsupportedMediaType));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        let large = Bytes::from(vec![b' '; MAX_BODY_BYTES + 1]);
        assert_eq!(Fields::read(&headers, large).err(), Some(InputError::TooLarge));
    }

    #[test]
    fn a_sign_up_has_an_address_and_a_password_that_the_rule_accepts() {
        let body = sign_up(
            r#"{"email":"Ann@Example.com","password":" Plover42\u0000","data":{"name":"Ann","x":null},
                "gotrue_meta_security":{},"code_challenge":null,"role":"admin","app_metadata":{"roles":["admin"]}}"#,
        )
        .unwrap();
        assert_eq!(body.email.address(), "Ann@Example.com");
        assert_eq!(body.password.expose_secret(), " Plover42\0");
        assert_eq!(Value::Object(body.user_metadata), json!({"name": "Ann"}));
        for nameless in [
            "{}",
            r#"{"password":"Plover42"}"#,
            r#"{"email":null,"password":"Plover42"}"#,
            r#"{"email":"","phone":"","password":"Plover42"}"#,
        ] {
            assert_eq!(sign_up(nameless).err(), Some(InputError::Anonymous), "{nameless}");
        }
        for bad in [
            r#"{"email":"ann@example.com"}"#,
            r#"{"phone":"+491234","password":"Plover42"}"#,
            r#"{"email":"","phone":1,"password":"Plover42"}"#,
            r#"{"email":"ann","password":"Plover42"}"#,
            r#"{"email":["ann@example.com"],"password":"Plover42"}"#,
            r#"{"email":"ann@example.com","password":12345678}"#,
            r#"{"email":"ann@example.com","password":"Plover42","data":[]}"#,
            r#"{"email":"ann@example.com\u0000","password":"Plover42"}"#,
        ] {
            assert!(matches!(sign_up(bad), Err(InputError::Invalid(_))), "{bad}");
        }
        let weak = sign_up(r#"{"email":"ann@example.com","password":"short"}"#);
        assert!(matches!(weak, Err(InputError::Weak(_))));
    }

    #[test]
    fn an_update_takes_an_address_and_no_phone_number() {
        let update = |text: &str| UpdateUser::parse(fields(text));
        let fine = update(r#"{"data":{"a":1},"password":"x","current_password":"y","email":null}"#);
        let fine = fine.unwrap();
        assert!(fine.user_metadata.is_some() && fine.current_password.is_some());
        assert!(update("{}").unwrap().password.is_none());
        let address = update(r#"{"email":"bob@example.com","nonce":"123456"}"#).unwrap();
        assert_eq!(
            address.email.map(|email| email.address().to_owned()).as_deref(),
            Some("bob@example.com")
        );
        assert!(address.nonce.is_some());
        for bad in [r#"{"email":"bob"}"#, r#"{"phone":"+49"}"#, r#"{"password":1}"#] {
            assert!(matches!(update(bad), Err(InputError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn letters_are_asked_for_by_address() {
        let wanted = |text: &str| LetterWanted::parse(fields(text));
        let plain =
            wanted(r#"{"email":"ann@example.com","phone":"","code_challenge":null}"#).unwrap();
        assert!(plain.may_create && plain.user_metadata.is_empty() && plain.challenge.is_none());
        let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        let full = format!(
            r#"{{"email":"ann@example.com","create_user":false,"data":{{"a":1}},
                "code_challenge":"{challenge}","code_challenge_method":"S256"}}"#
        );
        let full = wanted(&full).unwrap();
        assert!(!full.may_create && full.user_metadata.len() == 1);
        assert_eq!(full.challenge, Challenge::new(ChallengeMethod::S256, challenge).ok());
        for phone in [r#"{"phone":"+49"}"#, r#"{"phone":"+49","email":""}"#] {
            assert_eq!(wanted(phone).err(), Some(InputError::Phone), "{phone}");
        }
        for bad in [
            "{}",
            r#"{"email":"ann"}"#,
            r#"{"email":"ann@example.com","create_user":"no"}"#,
            r#"{"email":"ann@example.com","data":[]}"#,
            r#"{"email":"ann@example.com","code_challenge":"short","code_challenge_method":"s256"}"#,
            r#"{"email":"ann@example.com","code_challenge_method":"s256"}"#,
        ] {
            assert!(matches!(wanted(bad), Err(InputError::Invalid(_))), "{bad}");
        }
        let again = |text: &str| LetterWanted::parse_repeated(fields(text));
        for (kind, repeated) in
            [("signup", Repeated::Signup), ("email_change", Repeated::EmailChange)]
        {
            let wanted = again(&format!(r#"{{"type":"{kind}","email":"ann@example.com"}}"#));
            let (found, wanted) = wanted.unwrap();
            assert_eq!((found, wanted.may_create), (repeated, false), "{kind}");
        }
        let sms = again(r#"{"type":"sms","phone":"+49"}"#);
        assert_eq!(sms.err(), Some(InputError::Phone));
        for bad in
            [r#"{"email":"ann@example.com"}"#, r#"{"type":"recovery","email":"a@b.example"}"#]
        {
            assert!(matches!(again(bad), Err(InputError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn links_and_codes_say_what_they_are_for() {
        let verify = |text: &str| Verify::parse(fields(text));
        let link = verify(r#"{"type":"email","token_hash":"x","email":null}"#).unwrap();
        let Verify::Link { purposes, .. } = link else { panic!("{link:?}") };
        assert_eq!(purposes, [Purpose::Signup, Purpose::MagicLink]);
        let code = verify(r#"{"type":"recovery","email":"ann@example.com","token":"123456"}"#);
        assert!(matches!(code, Ok(Verify::Code { .. })), "{code:?}");
        assert_eq!(verify(r#"{"type":"sms","token":"1"}"#).err(), Some(InputError::Phone));
        let long =
            format!(r#"{{"type":"email","email":"a@b.example","token":"{}"}}"#, "1".repeat(65));
        for bad in [
            "{}",
            r#"{"type":"pkce","token_hash":"x"}"#,
            r#"{"type":"reauthentication","token_hash":"x"}"#,
            r#"{"type":"recovery","token":"123456"}"#,
            r#"{"type":"recovery","email":"ann@example.com"}"#,
            &long,
        ] {
            assert!(matches!(verify(bad), Err(InputError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn metadata_of_a_new_account_is_small_and_without_nulls() {
        let object = |value: Value| value.as_object().unwrap().clone();
        let given = object(json!({"a": null, "b": {"y": null}}));
        assert_eq!(new_metadata(given), Ok(object(json!({"b": {"y": null}}))));
        // {"k":"…"} has eight bytes beside the text.
        let sized = |n: usize| new_metadata(object(json!({"k": "x".repeat(n)})));
        assert!(sized(2040).is_ok());
        assert_eq!(sized(2041), Err(InputError::metadata_too_large()));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let body = sign_up(r#"{"email":"ann@example.com","password":"Plover42"}"#).unwrap();
        let printed = format!("{body:?} {:?}", fields(r#"{"password":"Plover42"}"#));
        assert!(!printed.contains("Plover42") && !printed.contains("ann@"), "{printed}");
    }
}
