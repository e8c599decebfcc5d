//! `portcullis secrets`: the keys under which the database keeps private keys and secrets of second factors.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde_json::json;

use super::{Admin, Context, Failure, table};
use crate::model::EventKind;
use crate::secrets::{self, KeyId, Protection};
use crate::store::SealedColumn;

/// Rows that are read, and changed in one transaction: far below the two seconds that one may take.
const BATCH: u32 = 500;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print a new key for secrets.key
    Generate,
    /// Show how many secrets are kept under which key
    Status {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Bring everything under secrets.key: what is kept in plain, and what is under a previous key
    Reencrypt,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    match args.action {
        Action::Generate => {
            println!("{}", *secrets::generate());
            Ok(())
        }
        Action::Status { json } => context.administer(async |admin| status(&admin, json).await),
        Action::Reencrypt => context.administer(async |admin| reencrypt(&admin).await),
    }
}

async fn status(admin: &Admin, json: bool) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for &column in SealedColumn::ALL {
        for (protection, count) in count(admin, column).await? {
            rows.push((column, protection, count));
        }
    }
    if json {
        table::print_json(rows.iter().map(|(column, protection, count)| {
            let key = match protection {
                Protection::Plain => None,
                Protection::Sealed(id) => Some(id.to_string()),
            };
            let role = role(admin, *protection);
            json!({ "column": column.as_str(), "key": key, "role": role, "rows": count })
        }));
        return Ok(());
    }
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(column, protection, count)| {
            let key = match protection {
                Protection::Plain => "-".to_owned(),
                Protection::Sealed(id) => id.to_string(),
            };
            let role = role(admin, protection).to_owned();
            [column.as_str().to_owned(), key, role, count.to_string()]
        })
        .collect();
    table::print(["COLUMN", "KEY", "WHICH IS", "ROWS"], &rows);
    Ok(())
}

/// What the configuration knows of a key.
fn role(admin: &Admin, protection: Protection) -> &'static str {
    let keyring = admin.store.keyring();
    match protection {
        Protection::Plain => "plain",
        Protection::Sealed(id) if keyring.current() == Some(id) => "current",
        Protection::Sealed(id) if keyring.previous().any(|known| known == id) => "previous",
        Protection::Sealed(_) => "unknown",
    }
}

async fn count(admin: &Admin, column: SealedColumn) -> Result<BTreeMap<Protection, u64>, Failure> {
    let mut counts = BTreeMap::new();
    let mut last: Option<String> = None;
    loop {
        let rows = admin.store.sealed_rows(column, last.as_deref(), BATCH).await?;
        for row in &rows {
            *counts.entry(secrets::protection(&row.stored)).or_insert(0) += 1;
        }
        match rows.into_iter().next_back() {
            Some(row) => last = Some(row.row),
            None => return Ok(counts),
        }
    }
}

async fn reencrypt(admin: &Admin) -> Result<(), Failure> {
    let current: KeyId = admin.store.keyring().current().ok_or_else(|| {
        Failure::usage("secrets.key is not set; `portcullis secrets generate` makes one")
    })?;
    let mut is_whole = true;
    for &column in SealedColumn::ALL {
        let mut changed = 0;
        let mut last = None;
        loop {
            let mut event = admin.event(EventKind::SecretsReencrypted, None);
            event.reason = Some(column.as_str().to_owned());
            let done = admin.store.reencrypt(column, last.as_deref(), BATCH, &event).await?;
            changed += done.changed;
            for (row, why) in done.unreadable {
                eprintln!("{} of row {row} stays as it is: {why}", column.as_str());
                is_whole = false;
            }
            if done.last.is_none() {
                break;
            }
            last = done.last;
        }
        println!("{}: {changed} brought under the key {current}", column.as_str());
    }
    if is_whole { Ok(()) } else { Err(Failure::refused("not everything could be opened")) }
}
