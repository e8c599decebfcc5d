//! Keycloak: credentials of a realm's export, as the texts that are stored.
//!
//! ```text
//! {"type": "password", "secretData": "{\"value\": BASE64, \"salt\": BASE64}",
//!  "credentialData": "{\"hashIterations\": 210000, \"algorithm\": \"pbkdf2-sha512\"}"}
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::Value;

use super::error::RowError;
use super::fields::object;

/// Of a user's credentials the password; `None` = there is none.
pub(super) fn password(credentials: &Value) -> Result<Option<String>, RowError> {
    let all = credentials.as_array().ok_or(RowError::Credential)?;
    let Some(password) = all.iter().find(|one| one["type"] == "password") else { return Ok(None) };
    stored(password).map(Some).ok_or(RowError::Credential)
}

fn stored(credential: &Value) -> Option<String> {
    let secret = object(credential.get("secretData")?)?;
    let settings = object(credential.get("credentialData")?)?;
    // Padding is no part of the stored forms.
    let bytes = |name| STANDARD.decode(secret.get(name)?.as_str()?).ok();
    let (value, salt) = (bytes("value")?, bytes("salt")?);
    let output = STANDARD_NO_PAD.encode(&value);
    let salt = STANDARD_NO_PAD.encode(salt);
    let iterations = settings.get("hashIterations")?.as_u64()?;
    let algorithm = settings.get("algorithm")?.as_str()?;
    if algorithm != "argon2" {
        return algorithm
            .starts_with("pbkdf2")
            .then(|| format!("${algorithm}$i={iterations},l={}${salt}${output}", value.len()));
    }
    // Each is a list of one text.
    let parameter = |name| {
        let value = settings.get("additionalParameters")?.get(name)?;
        value.get(0).unwrap_or(value).as_str()
    };
    let version = match parameter("version")? {
        "1.3" => 19,
        "1.0" => 16,
        _ => return None,
    };
    let (kind, memory, lanes) =
        (parameter("type")?, parameter("memory")?, parameter("parallelism")?);
    Some(format!("$argon2{kind}$v={version}$m={memory},t={iterations},p={lanes}${salt}${output}"))
}
