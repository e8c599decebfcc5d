//! `portcullis outbox`: sees the letters that have not left. Their gateways send them; here one can
//! only have a letter tried again that was given up, or take one out.

use clap::Subcommand;
use serde_json::json;
use uuid::Uuid;

use super::{Admin, Context, Failure, table, when};
use crate::model::{Event, EventKind, Letter, LetterKind, UserId};
use crate::store::{Parcel, ParcelKind, Stored};

/// Letters that are read at a time.
const PAGE: u32 = 500;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the letters that wait or were given up, newest first
    List {
        /// Only those that were given up
        #[arg(long)]
        failed: bool,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Try a letter once more that was given up, at once. The link or code in it is new
    Retry {
        /// See `outbox list`
        id: Uuid,
    },
    /// Take a letter out: it is not sent. One that is under way at this moment may arrive
    Drop {
        /// See `outbox list`
        id: Uuid,
    },
}

pub(super) fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    context.administer(async |admin| match args.action {
        Action::List { failed, limit, json } => list(&admin, failed, limit, json).await,
        Action::Retry { id } => {
            let event = event(&admin, EventKind::MailRetried, id).await?;
            if admin.store.retry_parcel(id, event.at, &event).await? {
                return Ok(());
            }
            Err(Failure::refused("the letter was not given up; it is tried again by itself"))
        }
        Action::Drop { id } => {
            let event = event(&admin, EventKind::MailDropped, id).await?;
            if admin.store.sent(id, Some(&event)).await? { Ok(()) } else { Err(no_letter()) }
        }
    })
}

async fn list(admin: &Admin, failed: bool, limit: usize, json: bool) -> Result<(), Failure> {
    let mut shown = Vec::new();
    let mut before = None;
    while shown.len() < limit {
        let page = admin.store.parcels(ParcelKind::Mail, PAGE, before).await?;
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        shown.extend(page.into_iter().filter(|stored| !failed || stored.failed_at.is_some()));
    }
    shown.truncate(limit);
    if json {
        table::print_json(shown.iter().map(as_json));
        return Ok(());
    }
    let rows: Vec<_> = shown.iter().map(as_row).collect();
    table::print(["LETTER", "KIND", "TO", "ASKED FOR", "ATTEMPTS", "NEXT", "LAST ERROR"], &rows);
    Ok(())
}

fn letter(stored: &Stored) -> Option<&Letter> {
    stored.parcel.as_ref().map(|Parcel::Mail(letter)| letter)
}

fn as_row(stored: &Stored) -> [String; 7] {
    let letter = letter(stored);
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    [
        stored.id.to_string(),
        or_dash(letter.map(|letter| letter.kind.as_str())),
        or_dash(letter.map(|letter| letter.email.address())),
        when(Some(stored.created_at)),
        stored.attempts.to_string(),
        if stored.failed_at.is_some() { "given up".to_owned() } else { when(Some(stored.due_at)) },
        or_dash(stored.last_error.as_deref()),
    ]
}

fn as_json(stored: &Stored) -> serde_json::Value {
    let letter = letter(stored);
    json!({
        "id": stored.id,
        "kind": letter.map(|letter| letter.kind.as_str()),
        "email": letter.map(|letter| letter.email.address()),
        "user_id": letter.and_then(|letter| letter.user_id.as_ref()).map(UserId::as_str),
        "created_at": stored.created_at,
        "attempts": stored.attempts,
        "due_at": stored.failed_at.is_none().then_some(stored.due_at),
        "failed_at": stored.failed_at,
        "last_error": stored.last_error,
    })
}

/// The event of what is done to a letter.
async fn event(admin: &Admin, kind: EventKind, id: Uuid) -> Result<Event, Failure> {
    let stored = admin.store.parcel(ParcelKind::Mail, id).await?.ok_or_else(no_letter)?;
    let letter = letter(&stored);
    // As in other events: users see theirs, and would see whether somebody has the other address.
    let is_shown = |letter: &&Letter| letter.kind != LetterKind::EmailChangeNew;
    let user = letter.filter(is_shown).and_then(|letter| letter.user_id.as_ref());
    Ok(Event {
        reason: letter.map(|letter| letter.kind.as_str().to_owned()),
        email: letter.map(|letter| letter.email.address().to_owned()),
        ..admin.event(kind, user)
    })
}

fn no_letter() -> Failure {
    Failure::refused("there is no such letter; it may have left")
}
