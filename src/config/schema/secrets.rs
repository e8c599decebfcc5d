//! `[secrets]`: what protects private keys and secrets of second factors in the database.

use secrecy::SecretString;
use serde::Deserialize;

/// `[secrets]` *(restart)*
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Secrets {
    /// 32 bytes in Base64, under which they are kept. Default: none, they are kept in plain.
    pub key: Option<SecretString>,
    /// Keys of before: what is kept under them is still read. Default none.
    pub previous: Vec<SecretString>,
    /// Refuse what is kept in plain. Default false.
    pub require: bool,
}
