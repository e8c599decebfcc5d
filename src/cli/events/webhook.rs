//! `portcullis events webhook`: how far the webhook has come, and how to give up what it cannot take.

use serde_json::json;

use super::{Admin, Failure, table};
use crate::cli::when;
use crate::model::EventKind;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Give up what is still to be delivered, and go on with what comes after
    #[arg(long, conflicts_with = "json")]
    skip: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(admin: &Admin, args: &Args) -> Result<(), Failure> {
    if args.skip {
        let event = admin.event(EventKind::EventsSkipped, None);
        let skipped = admin.store.skip_deliveries(event.at, &event).await?.ok_or_else(nothing)?;
        println!("gave up {skipped} events");
        return Ok(());
    }
    let state = admin.store.delivery_state().await?.ok_or_else(nothing)?;
    if args.json {
        table::print_json([json!({
            "started_at": state.started_at,
            "waiting": state.waiting,
            "oldest": state.oldest,
            "attempts": state.attempts,
            "due_at": state.due_at,
            "delivered_at": state.delivered_at,
            "last_error": state.last_error,
        })]);
        return Ok(());
    }
    let row = [
        when(Some(state.started_at)),
        state.waiting.to_string(),
        when(state.oldest),
        state.attempts.to_string(),
        when(Some(state.due_at)),
        when(state.delivered_at),
        state.last_error.unwrap_or_else(|| "-".to_owned()),
    ];
    let headings = ["SINCE", "WAITING", "OLDEST", "ATTEMPTS", "NEXT", "LAST TAKEN", "LAST ERROR"];
    table::print(headings, &[row]);
    Ok(())
}

fn nothing() -> Failure {
    Failure::refused(
        "no event was ever handed on: set [events.webhook], and start or reload a gateway",
    )
}
