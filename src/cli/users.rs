//! `portcullis users`: sees and changes accounts. What ends sessions here ends them in every
//! running gateway within a second.

use std::io::{IsTerminal as _, Read as _, Write as _};

use clap::Subcommand;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;

use super::{Admin, Context, Failure, table, when};
use crate::auth::password::{Hasher, Settings};
use crate::auth::{MAX_PASSWORD_BYTES, Policy};
use crate::model::{EndReason, EventKind, User, UserId, is_role_name};
use crate::store::{NewAccount, Sessions, SignUp};

/// `disable` without an end.
const FOR_EVER: &str = "9999-01-01T00:00:00Z";

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List accounts in the order of their ids
    List {
        /// Only where the address or the id contains this
        #[arg(long)]
        search: Option<String>,
        /// Most accounts
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Only after this id: the last one of the page before
        #[arg(long)]
        after: Option<UserId>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show one account
    Show {
        /// Id or e-mail address
        user: String,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make an account; the password is asked for, or read from standard input
    Create {
        /// E-mail address
        email: crate::model::Email,
        /// The address is known to be the user's
        #[arg(long)]
        confirmed: bool,
        /// Give this role; may be repeated
        #[arg(long)]
        role: Vec<String>,
        /// Use this id, so that existing rows keep their owner
        #[arg(long)]
        id: Option<UserId>,
        /// Make the account without a password
        #[arg(long)]
        no_password: bool,
    },
    /// Note that the address is known to be the user's
    Confirm {
        /// Id or e-mail address
        user: String,
    },
    /// Replace the roles; ends the sessions, as their tokens carry the old ones
    SetRoles {
        /// Id or e-mail address
        user: String,
        /// The roles from now on; none takes all away
        roles: Vec<String>,
        /// Let sessions go on; tokens keep the old roles until they are refreshed
        #[arg(long)]
        keep_sessions: bool,
    },
    /// Refuse logins and end all sessions
    Disable {
        /// Id or e-mail address
        user: String,
        /// Until this time, for example 2026-12-01T00:00:00Z [default: until enabled]
        #[arg(long)]
        until: Option<Timestamp>,
    },
    /// Let a disabled account log in again
    Enable {
        /// Id or e-mail address
        user: String,
    },
    /// Delete the account and end all sessions; its events stay
    Delete {
        /// Id or e-mail address
        user: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    context.administer(async |admin| match args.action {
        Action::List { search, limit, after, json } => {
            let users = admin.store.users(search.as_deref(), limit, after.as_ref()).await?;
            print(&users, json);
            Ok(())
        }
        Action::Show { user, json } => {
            print(&[admin.find_user(&user).await?], json);
            Ok(())
        }
        Action::Create { email, confirmed, role, id, no_password } => {
            create(&admin, email, confirmed, role, id, no_password).await
        }
        Action::Confirm { user } => {
            let user = admin.find_user(&user).await?;
            let event = admin.event(EventKind::UserConfirmed, Some(&user.id));
            found(admin.store.confirm_email(&user.id, event.at, &event).await?)?;
            println!("confirmed {}; its next tokens say so", user.id);
            Ok(())
        }
        Action::SetRoles { user, roles, keep_sessions } => {
            set_roles(&admin, &user, roles, keep_sessions).await
        }
        Action::Disable { user, until } => {
            let user = admin.find_user(&user).await?;
            let until = until.map_or_else(|| FOR_EVER.parse(), Ok).map_err(Failure::usage)?;
            let event = admin.event(EventKind::UserDisabled, Some(&user.id));
            let ended = found(admin.store.disable(&user.id, until, event.at, &event).await?)?;
            println!("disabled {} and ended {} sessions", user.id, ended.len());
            Ok(())
        }
        Action::Enable { user } => {
            let user = admin.find_user(&user).await?;
            let event = admin.event(EventKind::UserEnabled, Some(&user.id));
            found(admin.store.enable(&user.id, event.at, &event).await?)?;
            println!("enabled {}", user.id);
            Ok(())
        }
        Action::Delete { user, yes } => {
            let user = admin.find_user(&user).await?;
            if !yes && !confirmed(&format!("Delete {} ({})?", user.id, user.email))? {
                return Err(Failure::refused("nothing was deleted"));
            }
            let event = admin.event(EventKind::UserDeleted, Some(&user.id));
            let ended = found(admin.store.delete_user(&user.id, event.at, &event).await?)?;
            println!("deleted {} and ended {} sessions", user.id, ended.len());
            Ok(())
        }
    })
}

fn found<T>(changed: Option<T>) -> Result<T, Failure> {
    changed.ok_or_else(|| Failure::refused("the account is gone"))
}

async fn create(
    admin: &Admin,
    email: crate::model::Email,
    confirmed: bool,
    roles: Vec<String>,
    id: Option<UserId>,
    no_password: bool,
) -> Result<(), Failure> {
    let roles = checked_roles(roles)?;
    let now = admin.clock.now();
    let password_hash = if no_password { None } else { Some(new_password(admin, &email).await?) };
    let user = User {
        id: id.unwrap_or_else(|| UserId::generate(now)),
        email: email.address().to_owned(),
        email_confirmed_at: confirmed.then_some(now),
        new_email: None,
        invited_at: None,
        roles,
        app_metadata: crate::model::JsonObject::new(),
        user_metadata: crate::model::JsonObject::new(),
        last_sign_in_at: None,
        disabled_until: None,
        created_at: now,
        updated_at: now,
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

async fn new_password(
    admin: &Admin,
    email: &crate::model::Email,
) -> Result<crate::model::PasswordHash, Failure> {
    let password = read_password()?;
    let wrong = |problems: Vec<crate::config::Problem>| {
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

/// One line of standard input; on a terminal it is asked for and not shown.
fn read_password() -> Result<zeroize::Zeroizing<String>, Failure> {
    let cannot = |error: std::io::Error| Failure::failed("the password cannot be read", &error);
    let mut password = zeroize::Zeroizing::new(String::with_capacity(MAX_PASSWORD_BYTES + 2));
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprint!("Password: ");
        std::io::stderr().flush().map_err(cannot)?;
        let _hidden = HiddenInput::start().map_err(|error| cannot(error.into()))?;
        stdin.read_line(&mut password).map_err(cannot)?;
        eprintln!();
    } else {
        let most = MAX_PASSWORD_BYTES as u64 + 2;
        stdin.lock().take(most).read_to_string(&mut password).map_err(cannot)?;
    }
    let length = password.trim_end_matches(['\r', '\n']).len();
    password.truncate(length);
    Ok(password)
}

/// A terminal that does not show what is typed, until dropped.
struct HiddenInput(rustix::termios::Termios);

impl HiddenInput {
    fn start() -> rustix::io::Result<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(std::io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

async fn set_roles(
    admin: &Admin,
    user: &str,
    roles: Vec<String>,
    keep_sessions: bool,
) -> Result<(), Failure> {
    let roles = checked_roles(roles)?;
    let user = admin.find_user(user).await?;
    let mut event = admin.event(EventKind::RolesChanged, Some(&user.id));
    event.reason = (!roles.is_empty()).then(|| roles.join(","));
    found(admin.store.set_roles(&user.id, &roles, event.at, &event).await?)?;
    let shown = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
    println!("{} has the roles: {shown}", user.id);
    if keep_sessions {
        println!("its tokens keep the old ones until they are refreshed");
        return Ok(());
    }
    let event = admin.event(EventKind::SessionRevoked, Some(&user.id));
    let ended = (admin.store)
        .end_sessions(&user.id, Sessions::All, EndReason::Revoked, event.at, &event)
        .await?;
    println!("ended {} sessions", ended.len());
    Ok(())
}

fn checked_roles(mut roles: Vec<String>) -> Result<Vec<String>, Failure> {
    if let Some(role) = roles.iter().find(|role| !is_role_name(role)) {
        let rule = "a role is 1 to 64 of the characters a-z 0-9 _ -";
        return Err(Failure::usage(format!("`{role}` is no role: {rule}")));
    }
    roles.sort_unstable();
    roles.dedup();
    Ok(roles)
}

fn confirmed(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("without a terminal to ask on, say --yes"));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::failed("the answer cannot be read", &error))?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

fn print(users: &[User], json: bool) {
    if json {
        table::print_json(users.iter().map(|user| {
            json!({
                "id": user.id.as_str(),
                "email": user.email,
                "email_confirmed_at": user.email_confirmed_at,
                "app_metadata": user.public_app_metadata(),
                "user_metadata": user.user_metadata,
                "last_sign_in_at": user.last_sign_in_at,
                "disabled_until": user.disabled_until,
                "created_at": user.created_at,
                "updated_at": user.updated_at,
            })
        }));
        return;
    }
    let now = crate::clock::Clock::system().now();
    let rows: Vec<_> = users
        .iter()
        .map(|user| {
            let state = match (user.is_disabled(now), user.email_confirmed_at) {
                (true, _) => "disabled",
                (false, Some(_)) => "confirmed",
                (false, None) => "unconfirmed",
            };
            [
                user.id.to_string(),
                user.email.clone(),
                user.roles.join(","),
                state.to_owned(),
                when(user.last_sign_in_at),
                when(Some(user.created_at)),
            ]
        })
        .collect();
    table::print(["ID", "E-MAIL", "ROLES", "STATE", "LAST SIGN-IN", "CREATED"], &rows);
}
