//! Signing up, logging in, and changing an account.

use secrecy::SecretString;

use super::{Fields, InputError, invalid, new_metadata};
use crate::auth::policy::Policy;
use crate::model::{Challenge, Email, JsonObject};

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

    /// What a cookie holds.
    pub fn of_cookie(value: &[u8]) -> Self {
        Self { refresh_token: String::from_utf8_lossy(value).into_owned().into() }
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
    /// Whether a new password ends the other sessions.
    pub sign_out_others: bool,
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
    /// Reads `{data?, password?, email?, current_password?, sign_out_others?, nonce?,
    /// code_challenge?, code_challenge_method?}`.
    ///
    /// # Errors
    /// [`InputError::Invalid`], also for a new `phone`, which cannot be proved.
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        let password = fields.optional_text("password")?.map(SecretString::from);
        let current_password = fields.optional_text("current_password")?.map(SecretString::from);
        let user_metadata = fields.optional_object("data")?;
        let sign_out_others = fields.optional_bool("sign_out_others")?.unwrap_or(true);
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
            sign_out_others,
            nonce,
            email,
            redirect_to: None,
            challenge,
        })
    }
}
