//! `portcullis events`: sees authentication events, hands them to an archive, looks for gaps, sees
//! how far the webhook has come.

mod export;
mod verify;
mod webhook;

use std::time::Duration;

use clap::Subcommand;

use super::serve::Signals;
use super::{Admin, Context, Failure, table};
use crate::model::{EventKind, Outcome, StoredEvent, UserId};
use crate::store::{EventCursor, EventFilter};

/// How often `tail` looks.
const LOOK: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List events, newest first
    List {
        /// Only this kind, for example `login_failed`
        #[arg(long, value_parser = kind)]
        kind: Option<EventKind>,
        /// Only of this user id
        #[arg(long)]
        user: Option<UserId>,
        /// Only where this address was tried
        #[arg(long)]
        email: Option<String>,
        /// Only from this time on, for example 2026-11-21T00:00:00Z
        #[arg(long)]
        since: Option<jiff::Timestamp>,
        /// Only before this time: that of the last one of the page before
        #[arg(long)]
        until: Option<jiff::Timestamp>,
        /// Only with this outcome: success or failure
        #[arg(long, value_parser = outcome)]
        outcome: Option<Outcome>,
        /// Most events
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show new events as they come, until Ctrl-C
    Tail {
        /// Begin with the last so many
        #[arg(long, default_value_t = 10)]
        last: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Write events to an archive, oldest first, one JSON object a line
    Export(export::Args),
    /// Say whether every event is there that the retention has not removed
    #[command(after_help = "Exit code: 0 all are there, 1 some were lost.")]
    Verify {
        /// One JSON object a line for each writer
        #[arg(long)]
        json: bool,
    },
    /// Say how far the webhook has come
    Webhook(webhook::Args),
}

fn kind(word: &str) -> Result<EventKind, String> {
    EventKind::from_word(word).ok_or_else(|| {
        let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("known kinds: {}", known.join(", "))
    })
}

fn outcome(word: &str) -> Result<Outcome, &'static str> {
    Outcome::from_word(word).ok_or("an outcome is success or failure")
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    context.administer(async |admin| match args.action {
        Action::List { kind, user, email, since, until, outcome, limit, json } => {
            let filter = EventFilter { kind, user_id: user, email, outcome, since, until };
            let events = admin.store.events(&filter, limit, None).await?;
            if json {
                table::print_json(events.iter().map(StoredEvent::to_json));
            } else {
                table::print(HEADINGS, &events.iter().map(as_row).collect::<Vec<_>>());
            }
            Ok(())
        }
        Action::Tail { last, json } => tail(&admin, last, json).await,
        Action::Export(args) => export::run(&admin, args).await,
        Action::Webhook(args) => webhook::run(&admin, &args).await,
        Action::Verify { json } => verify::run(&admin, json).await,
    })
}

async fn tail(admin: &Admin, last: u32, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let mut cursor = EventCursor::with_last(last);
    loop {
        match admin.store.new_events(&mut cursor).await {
            Ok(events) if json => table::print_json(events.iter().map(StoredEvent::to_json)),
            Ok(events) => {
                for event in &events {
                    println!(
                        "{}",
                        as_row(event).join("  ").replace(crate::model::is_unprintable, "\u{fffd}")
                    );
                }
            }
            Err(error) if error.is_unavailable() => {
                eprintln!("waiting for the database: {}", crate::telemetry::chain(&error));
            }
            Err(error) => return Err(error.into()),
        }
        if tokio::time::timeout(LOOK, signals.next()).await.is_ok() {
            return Ok(());
        }
    }
}

const HEADINGS: [&str; 7] = ["TIME", "KIND", "OUTCOME", "REASON", "USER", "ADDRESS", "REQUEST"];

fn as_row(stored: &StoredEvent) -> [String; 7] {
    let event = &stored.event;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let user = event.user_id.as_ref().map(ToString::to_string);
    [
        format!("{:.3}", event.at),
        event.kind.as_str().to_owned(),
        event.outcome.as_str().to_owned(),
        or_dash(event.reason.clone()),
        or_dash(user.or_else(|| event.email.clone())),
        or_dash(event.address.map(|address| address.to_string())),
        or_dash(event.request_id.clone()),
    ]
}
