//! `portcullis users`: sees and changes accounts. What ends sessions here ends them in every
//! running gateway within a second.

mod create;
mod data;
mod export;
mod factors;
mod import;
mod link;
mod password;
mod roles;
mod show;
mod update;

use std::io::IsTerminal as _;

use clap::Subcommand;
use jiff::Timestamp;

use super::{Admin, Context, Failure, table, when};
use crate::model::{Email, EventKind, UserId};
use crate::store::Deletion;

use create::create;
use data::data;
use factors::factors;
use roles::set_roles;
use show::print;

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
        email: Email,
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
    /// Change address, password or metadata
    Update(update::Args),
    /// Make a link and a code to hand on; nothing is mailed
    Link(link::Args),
    /// Bring in the accounts of another system, with their password hashes
    Import(import::Args),
    /// Write all accounts, with their password hashes, to a file that `users import` takes
    Export(export::Args),
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
    /// Show the second factors, or take one away and end all sessions
    Factors {
        /// Id or e-mail address
        user: String,
        /// Take this factor away: its owner has lost it
        #[arg(long, value_name = "ID", conflicts_with = "json")]
        remove: Option<uuid::Uuid>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
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
    /// Print what is stored of the account, as JSON
    Data {
        /// Id or e-mail address
        user: String,
    },
    /// Delete the account and end all sessions; its events stay under a pseudonym
    Delete {
        /// Id or e-mail address
        user: String,
        /// Keep the id taken, so that nobody is ever given it again
        #[arg(long)]
        soft: bool,
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
        Action::Update(args) => update::update(&admin, args).await,
        Action::Link(args) => link::link(&admin, args).await,
        Action::Import(args) => import::run(&admin, args).await,
        Action::Export(args) => export::run(&admin, &args).await,
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
        Action::Factors { user, remove, json } => factors(&admin, &user, remove, json).await,
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
        Action::Data { user } => data(&admin, &user).await,
        Action::Delete { user, soft, yes } => {
            let user = admin.find_user(&user).await?;
            if !yes && !confirmed(&format!("Delete {} ({})?", user.id, user.email))? {
                return Err(Failure::refused("nothing was deleted"));
            }
            let (deletion, kind) = if soft {
                (Deletion::Soft, EventKind::UserSoftDeleted)
            } else {
                (Deletion::Hard, EventKind::UserDeleted)
            };
            let event = admin.event(kind, Some(&user.id));
            let ended = admin.store.delete_user(&user.id, deletion, event.at, &event).await?;
            let ended = found(ended)?;
            println!("deleted {} and ended {} sessions", user.id, ended.len());
            Ok(())
        }
    })
}

fn found<T>(changed: Option<T>) -> Result<T, Failure> {
    changed.ok_or_else(|| Failure::refused("the account is gone"))
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
