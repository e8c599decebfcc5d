//! `portcullis users link`

use clap::ValueEnum;
use serde_json::json;

use super::create::new_password;
use super::{Admin, Failure, table};
use crate::auth::Redirects;
use crate::auth::accounts::LinkMaker;
use crate::auth::input::LinkWanted;
use crate::config::Problem;
use crate::model::{Email, EventKind, JsonObject, Purpose};

#[derive(clap::Args)]
pub(super) struct Args {
    /// What it is to be good for
    kind: Kind,
    /// Whose it is
    email: Email,
    /// Change of address: the new one
    #[arg(long, value_name = "ADDRESS", required_if_eq_any = [
        ("kind", "email-change-current"), ("kind", "email-change-new"),
    ])]
    new_email: Option<Email>,
    /// Where it leads, if `links.redirects` allows it [default: `links.site_url`]
    #[arg(long, value_name = "URL")]
    redirect_to: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// An account with a password, which is asked for, once the address is proved
    Signup,
    /// An account for who is invited
    Invite,
    /// Log in; makes an account where there is none
    Magiclink,
    /// Log in without the password
    Recovery,
    /// The present address agrees to another one
    EmailChangeCurrent,
    /// The new address agrees
    EmailChangeNew,
}

impl Kind {
    fn purpose(self) -> Purpose {
        match self {
            Self::Signup => Purpose::Signup,
            Self::Invite => Purpose::Invite,
            Self::Magiclink => Purpose::MagicLink,
            Self::Recovery => Purpose::Recovery,
            Self::EmailChangeCurrent => Purpose::EmailChangeCurrent,
            Self::EmailChangeNew => Purpose::EmailChangeNew,
        }
    }
}

pub(super) async fn link(admin: &Admin, args: Args) -> Result<(), Failure> {
    let redirects = Redirects::compile(&admin.config).map_err(|problems: Vec<Problem>| {
        let lines: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.key, p.message)).collect();
        Failure::usage(lines.join("\n"))
    })?;
    let password = match args.kind {
        Kind::Signup => Some(new_password(admin, &args.email).await?),
        _ => None,
    };
    let wanted = LinkWanted {
        purpose: args.kind.purpose(),
        email: args.email,
        password: None,
        new_email: args.new_email,
        user_metadata: JsonObject::new(),
        redirect_to: args.redirect_to,
        challenge: None,
    };
    let maker = LinkMaker {
        store: &admin.store,
        issuer: &admin.config.tokens.issuer,
        rules: &admin.config.links,
        redirects: &redirects,
    };
    let event = admin.event(EventKind::LinkGenerated, None);
    let made = maker.make(wanted, password, &event).await.map_err(Failure::refused)?;
    if args.json {
        table::print_json([json!({
            "user_id": made.user.id.as_str(),
            "action_link": made.address.as_str(),
            "email_otp": made.digits,
            "hashed_token": made.token,
            "redirect_to": made.redirect_to.as_str(),
        })]);
        return Ok(());
    }
    println!("{}", made.address);
    eprintln!("code: {}; both work once, for {}", made.digits, made.user.id);
    Ok(())
}
