//! `portcullis sessions`: sees and ends sessions.

use clap::Subcommand;
use serde_json::json;

use super::{Admin, Context, Failure, table, when};
use crate::model::{EndReason, EventKind, Session, SessionId};
use crate::store::Sessions;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List a user's running sessions
    List {
        /// Id or e-mail address
        user: String,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// End one or all sessions of a user, in every gateway within a second
    Revoke {
        /// Id or e-mail address
        user: String,
        /// Only this one
        #[arg(long)]
        session: Option<SessionId>,
    },
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    context.administer(async |admin| match args.action {
        Action::List { user, json } => list(&admin, &user, json).await,
        Action::Revoke { user, session } => revoke(&admin, &user, session).await,
    })
}

async fn list(admin: &Admin, user: &str, json: bool) -> Result<(), Failure> {
    let user = admin.find_user(user).await?;
    let sessions = admin.store.sessions_of(&user.id, admin.clock.now()).await?;
    if json {
        table::print_json(sessions.iter().map(as_json));
        return Ok(());
    }
    let rows: Vec<_> = sessions
        .iter()
        .map(|session| {
            [
                session.id.to_string(),
                when(Some(session.created_at)),
                when(Some(session.last_seen_at)),
                session.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
                session.user_agent.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    table::print(["SESSION", "LOGIN", "LAST SEEN", "ADDRESS", "USER AGENT"], &rows);
    Ok(())
}

fn as_json(session: &Session) -> serde_json::Value {
    json!({
        "id": session.id,
        "user_id": session.user_id.as_str(),
        "created_at": session.created_at,
        "last_seen_at": session.last_seen_at,
        "expires_at": session.expires_at,
        "address": session.address,
        "user_agent": session.user_agent,
    })
}

async fn revoke(admin: &Admin, user: &str, session: Option<SessionId>) -> Result<(), Failure> {
    let user = admin.find_user(user).await?;
    let mut event = admin.event(EventKind::SessionRevoked, Some(&user.id));
    event.session_id = session;
    let which = session.map_or(Sessions::All, Sessions::One);
    let ended =
        (admin.store).end_sessions(&user.id, which, EndReason::Revoked, event.at, &event).await?;
    println!("ended {} sessions of {}", ended.len(), user.id);
    if session.is_some() && ended.is_empty() {
        return Err(Failure::refused("the user has no such running session"));
    }
    Ok(())
}
