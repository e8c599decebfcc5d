//! What administrators say of accounts, in the words of Supabase Auth.

use std::time::Duration;

use jiff::SignedDuration;
use secrecy::SecretString;
use serde_json::Value;

use super::{Fields, InputError, invalid, new_metadata};
use crate::model::{
    Challenge, Email, JsonObject, MAX_ROLES, MAX_ROLES_BYTES, Purpose, UserId, are_few_roles,
    is_role_name,
};

/// Keys of `app_metadata` that are made from other things: whoever sends back what was shown sends
/// them, too.
const SHOWN_ONLY: [&str; 2] = ["provider", "providers"];

/// Longest notice of a key.
const MAX_NOTICE: Duration = Duration::from_hours(30 * 24);

/// `POST /admin/users`
#[derive(Debug)]
pub struct NewUser {
    /// The id that the account is to have.
    pub id: Option<UserId>,
    /// Its address.
    pub email: Email,
    /// What else is said of it.
    pub account: AccountWords,
}

impl NewUser {
    /// Reads `{email, id?, …}`, the rest as [`AccountWords`].
    ///
    /// # Errors
    /// [`InputError::Phone`] and [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        if fields.is_blank("email") && !fields.is_blank("phone") {
            return Err(InputError::Phone);
        }
        let email = fields.email()?;
        let id = fields.filled_text("id")?.map(|id| id.parse()).transpose();
        let id = id.map_err(|_| {
            invalid("`id` must be 1 to 128 of the characters A-Z a-z 0-9 . _ - and not only dots")
        })?;
        let mut account = AccountWords::parse(fields)?;
        account.app_metadata = account.app_metadata.map(new_metadata).transpose()?;
        account.user_metadata = account.user_metadata.map(new_metadata).transpose()?;
        Ok(Self { id, email, account })
    }
}

/// `PUT /admin/users/{id}`
#[derive(Debug)]
pub struct UserWords {
    /// Another address.
    pub email: Option<Email>,
    /// What else is to change.
    pub account: AccountWords,
}

impl UserWords {
    /// Reads `{email?, …}`, the rest as [`AccountWords`].
    ///
    /// # Errors
    /// [`InputError::Phone`] and [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        let email = if fields.is_blank("email") { None } else { Some(fields.email()?) };
        if fields.filled_text("id")?.is_some() {
            return Err(invalid("`id` cannot be changed"));
        }
        Ok(Self { email, account: AccountWords::parse(fields)? })
    }
}

/// What an administrator may say of any account.
#[derive(Debug, Default)]
pub struct AccountWords {
    /// The address is known to be the user's.
    pub confirm_email: bool,
    /// A password, not yet held against the rule.
    pub password: Option<SecretString>,
    /// The hash of one, of any text.
    pub password_hash: Option<String>,
    /// All roles, which are `app_metadata.roles`.
    pub roles: Option<Vec<String>>,
    /// Keys to set, or with `null` to remove; without the roles.
    pub app_metadata: Option<JsonObject>,
    /// Keys to set, or with `null` to remove.
    pub user_metadata: Option<JsonObject>,
    /// Whether logins are refused.
    pub ban: Option<BanFor>,
}

/// Whether logins are refused, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanFor {
    /// From now on.
    Time(Duration),
    /// They are not.
    None,
}

impl AccountWords {
    /// Reads `{password?, password_hash?, email_confirm?, ban_duration?, app_metadata?,
    /// user_metadata?, role?}`.
    ///
    /// # Errors
    /// [`InputError::Phone`] and [`InputError::Invalid`].
    fn parse(mut fields: Fields) -> Result<Self, InputError> {
        if !fields.is_blank("phone") {
            return Err(InputError::Phone);
        }
        let password = fields.filled_text("password")?.map(SecretString::from);
        let password_hash = fields.filled_text("password_hash")?;
        if password.is_some() && password_hash.is_some() {
            return Err(invalid("`password` and `password_hash` exclude each other"));
        }
        // The role of Supabase's database, which clients know one of.
        if fields.filled_text("role")?.is_some_and(|role| role != "authenticated") {
            return Err(invalid("`role` is always authenticated; see `app_metadata.roles`"));
        }
        let mut app_metadata = fields.optional_object("app_metadata")?;
        let roles = app_metadata.as_mut().and_then(|metadata| metadata.remove("roles"));
        if let Some(metadata) = &mut app_metadata {
            metadata.retain(|key, _| !SHOWN_ONLY.contains(&key.as_str()));
        }
        Ok(Self {
            confirm_email: fields.optional_bool("email_confirm")?.unwrap_or(false),
            password,
            password_hash,
            roles: roles.map(role_names).transpose()?,
            app_metadata,
            user_metadata: fields.optional_object("user_metadata")?,
            ban: fields.filled_text("ban_duration")?.map(|text| ban(&text)).transpose()?,
        })
    }
}

fn role_names(value: Value) -> Result<Vec<String>, InputError> {
    let roles: Option<Vec<String>> = match value {
        Value::Null => Some(Vec::new()),
        value => serde_json::from_value(value).ok(),
    };
    let may_be =
        |roles: &Vec<String>| roles.iter().all(|role| is_role_name(role)) && are_few_roles(roles);
    roles.filter(may_be).ok_or_else(|| {
        InputError::Invalid(format!(
            "`app_metadata.roles` must be a list of words of 1 to 64 of the characters a-z 0-9 _ -, \
             at most {MAX_ROLES} of them and {MAX_ROLES_BYTES} bytes"
        ))
    })
}

/// `none`, or a time such as `24h` or `1h30m` (Go's `time.ParseDuration`).
fn ban(text: &str) -> Result<BanFor, InputError> {
    if text == "none" {
        return Ok(BanFor::None);
    }
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'.');
    let time = text.parse::<SignedDuration>().ok().filter(|_| plain);
    time.and_then(|time| Duration::try_from(time).ok())
        .filter(|time| *time >= Duration::from_secs(1))
        .map(BanFor::Time)
        .ok_or_else(|| {
            invalid("`ban_duration` must be none, or a time of a second or more such as 1h30m")
        })
}

/// `DELETE /admin/users/{id}`: whether the id stays taken.
///
/// # Errors
/// [`InputError::Invalid`].
pub fn should_soft_delete(mut fields: Fields) -> Result<bool, InputError> {
    Ok(fields.optional_bool("should_soft_delete")?.unwrap_or(false))
}

/// `POST /admin/generate_link`
#[derive(Debug)]
pub struct LinkWanted {
    /// What it is to be good for.
    pub purpose: Purpose,
    /// Whose it is.
    pub email: Email,
    /// Sign-up: the password of the account to be, not yet held against the rule.
    pub password: Option<SecretString>,
    /// Change of address: the new one.
    pub new_email: Option<Email>,
    /// The metadata of an account to be.
    pub user_metadata: JsonObject,
    /// Where it leads.
    pub redirect_to: Option<String>,
    /// The challenge of the client that will have the session.
    pub challenge: Option<Challenge>,
}

impl LinkWanted {
    /// Reads `{type, email, password?, new_email?, data?, redirect_to?, code_challenge?,
    /// code_challenge_method?}`.
    ///
    /// # Errors
    /// [`InputError::Invalid`].
    pub fn parse(mut fields: Fields) -> Result<Self, InputError> {
        let purpose = match fields.required_text("type")?.as_str() {
            "signup" => Purpose::Signup,
            "invite" => Purpose::Invite,
            "magiclink" => Purpose::MagicLink,
            "recovery" => Purpose::Recovery,
            "email_change_current" => Purpose::EmailChangeCurrent,
            "email_change_new" => Purpose::EmailChangeNew,
            _ => {
                return Err(invalid(
                    "`type` must be signup, invite, magiclink, recovery, email_change_current or \
                     email_change_new",
                ));
            }
        };
        let email = fields.email()?;
        let password = fields.filled_text("password")?.map(SecretString::from);
        if purpose == Purpose::Signup && password.is_none() {
            return Err(invalid("`password` is required to sign somebody up"));
        }
        let new_email = fields.filled_text("new_email")?.map(|text| text.parse()).transpose();
        let new_email = new_email.map_err(|_| invalid("`new_email` must be an e-mail address"))?;
        let is_change = matches!(purpose, Purpose::EmailChangeCurrent | Purpose::EmailChangeNew);
        if is_change && new_email.is_none() {
            return Err(invalid("`new_email` is required to change an address"));
        }
        Ok(Self {
            purpose,
            email,
            password,
            new_email,
            user_metadata: new_metadata(fields.optional_object("data")?.unwrap_or_default())?,
            redirect_to: fields.filled_text("redirect_to")?,
            challenge: fields.challenge()?,
        })
    }
}

/// `POST /admin/keys`: for how long the new key only waits; `None` = as configured. Until it signs, and
/// its tokens' lifetime longer, the others stay good.
///
/// # Errors
/// [`InputError::Invalid`].
pub fn key_notice(mut fields: Fields) -> Result<Option<Duration>, InputError> {
    let notice = fields.optional_seconds("notice", 0)?;
    if notice.is_some_and(|notice| notice > MAX_NOTICE) {
        return Err(invalid("`notice` must be at most 2592000 seconds, which are 30 days"));
    }
    Ok(notice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn roles_are_taken_out_of_app_metadata_and_what_is_only_shown_is_dropped() {
        let words = UserWords::parse(fields(
            r#"{"app_metadata":{"provider":"email","providers":["email"],"roles":["b","a"],"plan":null},
                "user_metadata":{"x":1},"email_confirm":true,"role":"authenticated","phone":""}"#,
        ));
        let words = words.unwrap().account;
        assert_eq!(words.roles, Some(vec!["b".to_owned(), "a".to_owned()]));
        assert_eq!(Value::Object(words.app_metadata.unwrap()).to_string(), r#"{"plan":null}"#);
        assert!(words.confirm_email && words.user_metadata.is_some());
        let none = UserWords::parse(fields(r#"{"app_metadata":{"roles":null}}"#)).unwrap();
        assert_eq!(none.account.roles, Some(Vec::new()));
        let silent = UserWords::parse(fields("{}")).unwrap();
        assert!(silent.account.roles.is_none() && silent.account.app_metadata.is_none());
        let new = NewUser::parse(fields(r#"{"email":"a@b.example","app_metadata":{"x":null}}"#));
        assert_eq!(new.unwrap().account.app_metadata, Some(JsonObject::new()));
    }

    #[test]
    fn a_key_is_announced_at_most_a_month_before() {
        let notice = |seconds: u64| key_notice(fields(&format!(r#"{{"notice":{seconds}}}"#)));
        assert_eq!(notice(2_592_000), Ok(Some(MAX_NOTICE)));
        assert!(notice(2_592_001).is_err());
        assert_eq!(key_notice(fields("{}")), Ok(None));
    }

    #[test]
    fn bans_are_none_or_a_time() {
        let seconds = |s| Ok(BanFor::Time(Duration::from_secs(s)));
        for (text, expected) in [
            ("none", Ok(BanFor::None)),
            ("24h", seconds(86_400)),
            ("1h30m", seconds(5_400)),
            ("876000h", seconds(3_153_600_000)),
            ("1.5h", seconds(5_400)),
            ("90s", seconds(90)),
        ] {
            assert_eq!(ban(text), expected, "{text}");
        }
        for bad in [
            "",
            "0h",
            "1ns",
            "999ms",
            "-1h",
            "24",
            "1d ago",
            "P1D",
            "forever",
            "1 h",
            "9999999999999999h",
        ] {
            assert!(ban(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn odd_accounts_are_refused() {
        for bad in [
            r#"{"email":"a"}"#,
            r#"{"email":"a@b.example","id":".."}"#,
            r#"{"email":"a@b.example","id":"a/b"}"#,
            r#"{"email":"a@b.example","password":"x","password_hash":"y"}"#,
            r#"{"email":"a@b.example","role":"service_role"}"#,
            r#"{"email":"a@b.example","app_metadata":{"roles":"admin"}}"#,
            r#"{"email":"a@b.example","app_metadata":{"roles":["Admin"]}}"#,
            r#"{"email":"a@b.example","app_metadata":[]}"#,
            r#"{"email":"a@b.example","email_confirm":"yes"}"#,
            r#"{"email":"a@b.example","ban_duration":"soon"}"#,
        ] {
            assert!(matches!(NewUser::parse(fields(bad)), Err(InputError::Invalid(_))), "{bad}");
        }
        let phone = NewUser::parse(fields(r#"{"phone":"+4912345"}"#));
        assert!(matches!(phone, Err(InputError::Phone)));
        let long =
            format!(r#"{{"email":"a@b.example","user_metadata":{{"x":"{}"}}}}"#, "x".repeat(2048));
        assert!(NewUser::parse(fields(&long)).is_err());
        let of_roles = |count: usize, length: usize| {
            let roles: Vec<_> = (0..count).map(|n| format!("{n:0length$}")).collect();
            let user = serde_json::json!({ "app_metadata": { "roles": roles } });
            UserWords::parse(fields(&user.to_string())).is_ok()
        };
        assert!(of_roles(64, 12) && of_roles(15, 64));
        assert!(!of_roles(65, 2) && !of_roles(16, 64), "each token names them");
        assert!(UserWords::parse(fields(r#"{"id":"x"}"#)).is_err());
    }

    #[test]
    fn links_have_what_their_purpose_needs() {
        let wanted = |json: &str| LinkWanted::parse(fields(json));
        for fine in [
            r#"{"type":"signup","email":"a@b.example","password":"x"}"#,
            r#"{"type":"magiclink","email":"a@b.example"}"#,
            r#"{"type":"email_change_new","email":"a@b.example","new_email":"c@d.example"}"#,
        ] {
            assert!(wanted(fine).is_ok(), "{fine}");
        }
        for bad in [
            r#"{"email":"a@b.example"}"#,
            r#"{"type":"sms","email":"a@b.example"}"#,
            r#"{"type":"signup","email":"a@b.example"}"#,
            r#"{"type":"recovery"}"#,
            r#"{"type":"email_change_new","email":"a@b.example"}"#,
            r#"{"type":"email_change_new","email":"a@b.example","new_email":"c"}"#,
        ] {
            assert!(matches!(wanted(bad), Err(InputError::Invalid(_))), "{bad}");
        }
    }
}
