//! What letters are asked for, and the links and codes in them.

use secrecy::SecretString;

use super::{Fields, InputError, invalid, new_metadata};
use crate::model::{Challenge, Email, JsonObject, Purpose};

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
