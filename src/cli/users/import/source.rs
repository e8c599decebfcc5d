//! Where a file is from, and how that program's password hashes become texts that name themselves.

use serde_json::Value;

use super::error::RowError;
use super::fields::{Fields, object};
use super::{firebase, keycloak};
use crate::model::JsonObject;

/// A program whose accounts can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Source {
    /// `users export`, or any file whose hashes name themselves
    Portcullis,
    /// The table `auth_user`, or dumpdata
    Django,
    /// passlib, fastapi-users
    #[value(alias = "passlib")]
    Fastapi,
    /// Werkzeug's hashes
    #[value(alias = "werkzeug")]
    Flask,
    /// Devise; with `passwords.devise_pepper` set, its hashes have that pepper
    #[value(alias = "devise")]
    Rails,
    /// The table users
    Laravel,
    /// The table auth.users
    #[value(alias = "gotrue")]
    Supabase,
    /// The export of users with password hashes
    Auth0,
    /// `firebase auth:export`; needs --firebase-params
    Firebase,
    /// A realm
    Keycloak,
    /// The table `AspNetUsers`
    #[value(alias = "identity")]
    Aspnet,
}

impl Source {
    /// By what the first row has.
    pub(super) fn guess(row: &JsonObject, renamed: &[(String, String)]) -> Self {
        let fields = Fields::of(row, renamed);
        let has = |name| fields.has(name);
        let id = fields.text(&["userid"]).unwrap_or_default();
        if has("fields") || has("datejoined") {
            Self::Django
        } else if has("localid") {
            Self::Firebase
        } else if has("credentials") || has("createdtimestamp") {
            Self::Keycloak
        } else if has("normalizedemail") || has("securitystamp") {
            Self::Aspnet
        } else if has("encryptedpassword") {
            let is_supabase = has("instanceid") || has("rawappmetadata") || has("rawusermetadata");
            if is_supabase { Self::Supabase } else { Self::Rails }
        } else if id.starts_with("auth0|") || row.contains_key("_id") {
            Self::Auth0
        } else if has("emailverifiedat") {
            Self::Laravel
        } else if has("hashedpassword") {
            Self::Fastapi
        } else {
            Self::Portcullis
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Portcullis => "portcullis",
            Self::Django => "django",
            Self::Fastapi => "fastapi",
            Self::Flask => "flask",
            Self::Rails => "rails",
            Self::Laravel => "laravel",
            Self::Supabase => "supabase",
            Self::Auth0 => "auth0",
            Self::Firebase => "firebase",
            Self::Keycloak => "keycloak",
            Self::Aspnet => "aspnet",
        }
    }

    /// The fields of the account in a row; `None` = it is something else.
    pub(super) fn unwrap(self, row: &JsonObject) -> Option<JsonObject> {
        match (self, row.get("model"), row.get("fields")) {
            (Self::Django, Some(Value::String(model)), Some(Value::Object(fields))) => {
                let mut fields = fields.clone();
                if let Some(pk) = row.get("pk") {
                    fields.insert("id".to_owned(), pk.clone());
                }
                let is_user = model.to_ascii_lowercase().ends_with("user");
                is_user.then_some(fields)
            }
            _ => Some(row.clone()),
        }
    }

    pub(super) fn id(self, row: &JsonObject, fields: &Fields<'_>) -> Option<String> {
        let named = fields.text(&["id", "userid", "localid", "uid", "pk", "sub", "uuid"]);
        if self != Self::Auth0 {
            return named;
        }
        let object_id = || {
            let id = row.get("_id")?;
            id.get("$oid").unwrap_or(id).as_str().map(str::to_owned)
        };
        let id = named.or_else(object_id)?;
        Some(id.strip_prefix("auth0|").map(str::to_owned).unwrap_or(id))
    }

    /// The stored text; `None` = no login by password.
    pub(super) fn password(
        self,
        fields: &Fields<'_>,
        settings: &Settings,
    ) -> Result<Option<String>, RowError> {
        if self == Self::Keycloak {
            return fields
                .get(&["credentials"])
                .map_or(Ok(None), |(_, all)| keycloak::password(all));
        }
        let Some(text) = fields.text(&PASSWORDS) else { return Ok(None) };
        Ok(match self {
            // What begins with `!` is no hash: the account has no usable password.
            Self::Django if text.starts_with('!') => None,
            Self::Rails if settings.has_devise_pepper && text.starts_with("$2") => {
                Some(format!("$devise${text}"))
            }
            Self::Aspnet if !text.starts_with('$') => Some(format!("$aspnet${text}")),
            Self::Firebase if !text.starts_with('$') => {
                let salt = fields.text(&["salt"]).unwrap_or_default();
                settings.firebase.as_ref().map(|project| project.stored(&text, &salt))
            }
            _ => Some(text),
        })
    }
}

/// Names of the field with the hash.
const PASSWORDS: [&str; 4] = ["passwordhash", "encryptedpassword", "hashedpassword", "password"];

/// What administrators noted.
pub(super) fn app_metadata(fields: &Fields<'_>) -> Result<JsonObject, RowError> {
    let names = ["appmetadata", "rawappmetadata", "customattributes", "attributes"];
    let mut found = fields.object(&names)?;
    // These say how an account logs in, and are added again where they are shown.
    for ours in ["provider", "providers", "roles"] {
        found.remove(ours);
    }
    Ok(found)
}

/// What the hashes of a file need besides.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) has_devise_pepper: bool,
    pub(super) firebase: Option<firebase::Project>,
}

/// Roles under this name of a row: an array, or words with commas between. Names with dots lead into
/// objects.
pub(super) fn roles(row: &JsonObject, name: &str) -> Option<Vec<String>> {
    let words = |text: &str| -> Vec<String> {
        text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
    };
    let value = row.get(name).cloned().or_else(|| {
        let (first, rest) = name.split_once('.')?;
        Some(Value::from(roles(&object(row.get(first)?)?, rest)?))
    });
    match value? {
        Value::String(text) => match serde_json::from_str::<Vec<String>>(&text) {
            Ok(list) => Some(list),
            Err(_) => Some(words(&text)),
        },
        Value::Array(list) => {
            list.iter().map(|role| role.as_str().map(str::to_owned)).collect::<Option<_>>()
        }
        _ => None,
    }
}
