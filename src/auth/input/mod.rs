//! What clients send to the account endpoints. Each body type exists only when it is valid, so
//! that the service behind never meets a half-checked value.
//!
//! JSON is read strictly: one object, no repeated key (the classic way to show two parsers two
//! different requests), sixteen levels, 16 KiB. Unknown fields are ignored, because the client
//! libraries of Supabase Auth send some of their own.

mod account;
mod admin;
mod api_keys;
mod factors;
mod fields;
mod links;
#[cfg(test)]
mod tests;

pub use self::account::{LogIn, Refresh, SignUp, UpdateUser};
pub use self::admin::{
    AccountWords, BanFor, LinkWanted, NewUser, UserWords, key_notice, should_soft_delete,
};
pub use self::api_keys::{NewApiKey, RotateApiKey};
pub use self::factors::{Enrol, FactorType, VerifyFactor};
pub use self::fields::Fields;
pub use self::links::{LetterWanted, Pkce, Repeated, Verify, purposes_of};
use super::policy::Weakness;
use crate::model::JsonObject;

/// Longest body of an account request.
pub const MAX_BODY_BYTES: usize = 16 * 1024;
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

/// The metadata of a new account: what was sent, without its nulls, as an update would leave it.
pub(super) fn new_metadata(mut given: JsonObject) -> Result<JsonObject, InputError> {
    given.retain(|_, value| !value.is_null());
    let size = serde_json::to_vec(&given).map_or(usize::MAX, |text| text.len());
    if size > MAX_METADATA_BYTES {
        return Err(InputError::metadata_too_large());
    }
    Ok(given)
}

fn invalid(sentence: &str) -> InputError {
    InputError::Invalid(sentence.to_owned())
}
