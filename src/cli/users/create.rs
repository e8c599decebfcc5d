//! `portcullis users create`

use secrecy::SecretString;

use super::password::read_password;
use super::roles::checked_roles;
use super::{Admin, Failure};
use crate::auth::Policy;
use crate::auth::password::{Hasher, Settings};
use crate::config::Problem;
use crate::model::{Email, EventKind, PasswordHash, User, UserId};
use crate::store::{NewAccount, SignUp};

pub(super) async fn create(
    admin: &Admin,
    email: Email,
    confirmed: bool,
    roles: Vec<String>,
    id: Option<UserId>,
    no_password: bool,
) -> Result<(), Failure> {
    let roles = checked_roles(roles)?;
    let now = admin.clock.now();
    let password_hash = if no_password { None } else { Some(new_password(admin, &email).await?) };
    let user = User {
        email_confirmed_at: confirmed.then_some(now),
        roles,
        ..User::new(id.unwrap_or_else(|| UserId::generate(now)), email.address(), now)
    };
    let event = admin.event(EventKind::UserCreated, Some(&user.id));
    let new = NewAccount { user, email, password_hash };
    match admin.store.sign_up(&new, None, &event).await? {
        SignUp::Created => {
            println!("{}", new.user.id);
            Ok(())
        }
        SignUp::EmailTaken => Err(Failure::refused("there is an account with this address")),
        SignUp::IdTaken => Err(Failure::refused("there is an account with this id")),
    }
}

/// Reads a password that the rule accepts, and hashes it.
pub(super) async fn new_password(admin: &Admin, email: &Email) -> Result<PasswordHash, Failure> {
    let password = read_password()?;
    let wrong = |problems: Vec<Problem>| {
        let lines: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.key, p.message)).collect();
        Failure::usage(lines.join("\n"))
    };
    let policy = Policy::compile(&admin.config.passwords).map_err(wrong)?;
    policy.check(&password, Some(email)).map_err(|weakness| Failure::refused(weakness.message))?;
    let settings = Settings::compile(&admin.config.passwords).map_err(wrong)?;
    let hasher = Hasher::start(&settings)
        .map_err(|error| Failure::failed("the hashing threads did not start", &error))?;
    hasher
        .hash(SecretString::from(password.as_str()))
        .await
        .map_err(|error| Failure::failed("the password was not hashed", &error))
}
