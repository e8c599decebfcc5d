//! A row as the account that it becomes. What it says of its owner is taken at its word; what would
//! give power (roles) or let somebody in (a proof of the address) only as far as the operator wants.

use jiff::Timestamp;
use serde_json::Value;

use super::error::RowError;
use super::fields::{Fields, Since};
use super::source::{self, Settings, Source};
use crate::auth::formats::{Class, FormatError, Scheme};
use crate::auth::input::MAX_METADATA_BYTES;
use crate::cli::users::FOR_EVER;
use crate::model::{Email, JsonObject, PasswordHash, User, UserId, are_few_roles, is_role_name};
use crate::store::{ImportedAccount, NewAccount};

/// Which addresses count as proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Confirmed {
    /// All
    Yes,
    /// None
    No,
    /// Those of which the file says so
    AsFile,
}

/// How rows become accounts.
pub(super) struct Reading {
    pub(super) source: Source,
    pub(super) settings: Settings,
    /// Names in the file and what is meant by them.
    pub(super) renamed: Vec<(String, String)>,
    pub(super) confirmed: Confirmed,
    /// The field with roles.
    pub(super) roles_from: Option<String>,
    pub(super) allow_admin: bool,
    pub(super) allow_weak: bool,
    /// How new hashes begin.
    pub(super) own: String,
    pub(super) now: Timestamp,
}

/// What a row gives.
pub(super) struct Read {
    pub(super) imported: ImportedAccount,
    /// The id is the file's.
    pub(super) has_id: bool,
    /// Kind and cost of the hash.
    pub(super) class: Option<Class>,
}

/// Fields that describe a person, kept under the names that they have.
const PERSONAL: [&str; 10] = [
    "name",
    "fullname",
    "firstname",
    "lastname",
    "givenname",
    "familyname",
    "displayname",
    "nickname",
    "username",
    "photourl",
];

impl Reading {
    /// `None` = the row is no account.
    pub(super) fn account(&self, row: &JsonObject) -> Result<Option<Read>, RowError> {
        let Some(row) = self.source.unwrap(row) else { return Ok(None) };
        let fields = Fields::of(&row, &self.renamed);
        let email = fields.text(&["email", "emailaddress", "mail"]).ok_or(RowError::NoEmail)?;
        let email: Email = email.parse().map_err(|_| RowError::BadEmail)?;
        if fields.since(&["deletedat"])? != Since::Never {
            return Err(RowError::Deleted);
        }
        let id = self.source.id(&row, &fields);
        let has_id = id.is_some();
        let id = match id {
            Some(id) => id.parse().map_err(|_| RowError::BadId)?,
            None => UserId::generate(self.now),
        };
        let (hash, class) = match self.source.password(&fields, &self.settings)? {
            Some(text) => {
                let class = self.class(&text)?;
                (Some(PasswordHash(text)), Some(class))
            }
            None => (None, None),
        };
        let is_own = hash.as_ref().is_some_and(|hash| hash.0.starts_with(&self.own));
        let noted = class.filter(|_| !is_own).map(|class| class.to_string());
        let created = ["createdat", "datejoined", "createdtimestamp", "created", "registeredat"];
        let created_at = fields.time(&created)?.unwrap_or(self.now);
        let updated_at = fields.time(&["updatedat", "modifiedat"])?.unwrap_or(created_at);
        let user = User {
            email_confirmed_at: self.confirmed_at(&fields, created_at)?,
            invited_at: fields.time(&["invitedat"])?,
            roles: self.roles(&row)?,
            app_metadata: short(source::app_metadata(&fields)?)?,
            user_metadata: short(user_metadata(&fields)?)?,
            last_sign_in_at: fields.time(&[
                "lastsigninat",
                "currentsigninat",
                "lastlogin",
                "lastloginat",
                "lastsignedinat",
            ])?,
            disabled_until: disabled_until(&fields)?,
            created_at,
            updated_at: updated_at.max(created_at),
            ..User::new(id, email.address(), created_at)
        };
        let account = NewAccount { user, email, password_hash: hash };
        Ok(Some(Read { imported: ImportedAccount { account, class: noted }, has_id, class }))
    }

    fn class(&self, text: &str) -> Result<Class, RowError> {
        let class = Scheme::parse(text).map_err(RowError::Hash)?.class();
        if text.starts_with("$devise$") && !self.settings.has_devise_pepper {
            return Err(RowError::Hash(FormatError::NoPepper));
        }
        if matches!(class, Class::Hmac(_)) && !self.allow_weak {
            return Err(RowError::Weak);
        }
        Ok(class)
    }

    fn confirmed_at(
        &self,
        fields: &Fields<'_>,
        created_at: Timestamp,
    ) -> Result<Option<Timestamp>, RowError> {
        let since = fields.since(&[
            "emailconfirmedat",
            "emailverifiedat",
            "confirmedat",
            "emailconfirmed",
            "emailverified",
            "isverified",
        ])?;
        Ok(match (self.confirmed, since) {
            (Confirmed::No, _) | (Confirmed::AsFile, Since::Never) => None,
            (_, Since::At(at)) => Some(at),
            (_, Since::Unknown) | (Confirmed::Yes, Since::Never) => Some(created_at),
        })
    }

    fn roles(&self, row: &JsonObject) -> Result<Vec<String>, RowError> {
        let Some(name) = &self.roles_from else { return Ok(Vec::new()) };
        if row.get(name).is_some_and(Value::is_null) {
            return Ok(Vec::new());
        }
        let roles = match source::roles(row, name) {
            Some(roles) => roles,
            None if row.contains_key(name) => return Err(RowError::BadRole),
            None => Vec::new(),
        };
        if !roles.iter().all(|role| is_role_name(role)) {
            return Err(RowError::BadRole);
        }
        if !are_few_roles(&roles) {
            return Err(RowError::ManyRoles);
        }
        if roles.iter().any(|role| role == "admin") && !self.allow_admin {
            return Err(RowError::Admin);
        }
        Ok(roles)
    }
}

fn disabled_until(fields: &Fields<'_>) -> Result<Option<Timestamp>, RowError> {
    let for_ever = || FOR_EVER.parse().ok();
    if fields.flag(&["isactive", "active", "enabled"])? == Some(false)
        || fields.flag(&["disabled", "blocked", "suspended"])? == Some(true)
    {
        return Ok(for_ever());
    }
    fields.time(&["disableduntil", "banneduntil", "lockoutend"])
}

fn user_metadata(fields: &Fields<'_>) -> Result<JsonObject, RowError> {
    let mut found = JsonObject::new();
    for name in PERSONAL {
        if let Some((written, value)) = fields.get(&[name]) {
            found.insert(written.to_owned(), value.clone());
        }
    }
    found.extend(fields.object(&["usermetadata", "rawusermetadata"])?);
    Ok(found)
}

/// As short as an account may have it: tokens carry it.
fn short(metadata: JsonObject) -> Result<JsonObject, RowError> {
    let length = serde_json::to_string(&metadata).map_or(usize::MAX, |text| text.len());
    if length > MAX_METADATA_BYTES {
        return Err(RowError::MetadataTooLong(MAX_METADATA_BYTES));
    }
    Ok(metadata)
}
