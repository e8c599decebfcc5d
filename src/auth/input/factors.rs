//! Second factors.

use secrecy::SecretString;
use uuid::Uuid;

use super::{Fields, InputError, invalid};

/// Longest names, in characters: of a factor, and of what an app calls the site. Both are shown on
/// small screens, and the second is in a QR code twice.
const MAX_NAME: usize = 64;

/// `POST /factors`
#[derive(Debug)]
pub struct Enrol {
    /// What is to be enrolled.
    pub kind: FactorType,
    /// Chosen by the user; empty = none.
    pub friendly_name: String,
    /// What an authenticator app is to call the site; `None` = as the gateway calls it.
    pub issuer: Option<String>,
}

/// Kinds of factors that clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorType {
    /// Codes by telephone, which there are none of.
    Phone,
    /// Codes of an authenticator app.
    Totp,
    /// Keys of a device, which there is no use for.
    WebAuthn,
}

impl Enrol {
    /// Reads `{factor_type, friendly_name?, issuer?}`.
    ///
    /// # Errors
    /// [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        let kind = match fields.required_text("factor_type")?.as_str() {
            "phone" => FactorType::Phone,
            "totp" => FactorType::Totp,
            "webauthn" => FactorType::WebAuthn,
            _ => return Err(invalid("`factor_type` must be totp")),
        };
        let friendly_name = name(&mut fields, "friendly_name")?.unwrap_or_default();
        let issuer = name(&mut fields, "issuer")?;
        Ok(Self { kind, friendly_name, issuer })
    }
}

fn name(fields: &mut Fields, field: &str) -> Result<Option<String>, InputError> {
    let Some(name) = fields.filled_text(field)? else { return Ok(None) };
    if name.chars().count() > MAX_NAME || name.chars().any(crate::model::is_unprintable) {
        return Err(InputError::Invalid(format!(
            "`{field}` must be at most {MAX_NAME} characters that can be shown"
        )));
    }
    Ok(Some(name))
}

/// `POST /factors/{id}/verify`
#[derive(Debug)]
pub struct VerifyFactor {
    /// The challenge that is answered.
    pub challenge: Uuid,
    /// What the app shows, or a recovery code; of any form.
    pub code: SecretString,
}

impl VerifyFactor {
    /// Reads `{challenge_id, code}`.
    ///
    /// # Errors
    /// [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        let challenge = fields.required_text("challenge_id")?;
        let challenge = challenge
            .parse()
            .map_err(|_| invalid("`challenge_id` must be the id of a challenge"))?;
        let code = fields.filled_text("code")?.ok_or_else(|| invalid("`code` is required"))?;
        Ok(Self { challenge, code: code.into() })
    }
}
