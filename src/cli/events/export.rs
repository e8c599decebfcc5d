//! `portcullis events export`: events as lines for an archive, a page at a time, so that it takes no
//! more memory for ten million than for ten.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{Admin, Failure, kind};
use crate::clock::random_bytes;
use crate::model::{EventKind, UserId};
use crate::store::EventSelection;

/// Events looked at in one go: a fraction of a second of work, a few megabytes.
const PAGE: u32 = 5_000;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only from this time on, for example 2026-11-01T00:00:00Z
    #[arg(long)]
    since: Option<Timestamp>,
    /// Only before this time [default: now]
    #[arg(long)]
    until: Option<Timestamp>,
    /// Only this kind, for example `login_failed`; several add up
    #[arg(long, value_parser = kind)]
    kind: Vec<EventKind>,
    /// Only of this user id; several add up
    #[arg(long)]
    user: Vec<UserId>,
    /// A new file, readable by its owner only [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace FILE if it is there, once all is written
    #[arg(long, requires = "output")]
    overwrite: bool,
}

pub(super) async fn run(admin: &Admin, args: Args) -> Result<(), Failure> {
    let Args { since, until, kind, user, output, overwrite } = args;
    let mut event = admin.event(EventKind::EventsExported, None);
    let until = Some(until.unwrap_or(event.at));
    let selection = EventSelection { kinds: kind, users: user, since, until };
    event.reason = Some(in_words(&selection));
    let Some(file) = output else {
        // First of all: whoever stops the command in the middle has some of them too.
        admin.store.record(&[event]).await?;
        let mut out = BufWriter::new(io::stdout());
        let count = write(admin, &selection, &mut out, Path::new("standard output")).await?;
        // Not between the events.
        eprintln!("{count} events");
        return Ok(());
    };
    // A file that is replaced is whole until the new one is.
    // Its name is its own, so that what a crash left of another one is in nobody's way.
    let made = if overwrite {
        file.with_added_extension(format!("{:08x}.new", u32::from_ne_bytes(random_bytes())))
    } else {
        file.clone()
    };
    let opened = create(&made).map_err(|error| cannot(&made, &error))?;
    let written = async {
        admin.store.record(&[event]).await?;
        let mut out = BufWriter::new(&opened);
        let count = write(admin, &selection, &mut out, &made).await?;
        opened.sync_all().map_err(|error| cannot(&made, &error))?;
        if overwrite {
            fs::rename(&made, &file).map_err(|error| cannot(&file, &error))?;
        }
        Ok::<_, Failure>(count)
    }
    .await;
    if written.is_err() {
        // A part is not kept. Of two errors the first says more.
        let _ = fs::remove_file(&made);
    }
    eprintln!("{} events", written?);
    Ok(())
}

/// What was asked for. Of users only how many: their ids would outlive them here.
fn in_words(selection: &EventSelection) -> String {
    let mut words = Vec::new();
    words.extend(selection.since.map(|since| format!("since {since}")));
    words.extend(selection.until.map(|until| format!("until {until}")));
    if !selection.kinds.is_empty() {
        let kinds: Vec<_> = selection.kinds.iter().map(|kind| kind.as_str()).collect();
        words.push(format!("kinds {}", kinds.join(" ")));
    }
    if !selection.users.is_empty() {
        words.push(format!("users {}", selection.users.len()));
    }
    words.join(", ")
}

fn create(file: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(file)
}

/// Writes all events of the selection; returns how many.
async fn write(
    admin: &Admin,
    selection: &EventSelection,
    out: &mut impl Write,
    name: &Path,
) -> Result<u64, Failure> {
    let (mut count, mut after) = (0, None);
    loop {
        let page = admin.store.event_page(selection, after, PAGE).await?;
        for stored in &page.events {
            writeln!(out, "{}", stored.to_json()).map_err(|error| cannot(name, &error))?;
            count += 1;
        }
        after = page.next;
        if after.is_none() {
            out.flush().map_err(|error| cannot(name, &error))?;
            return Ok(count);
        }
    }
}

fn cannot(file: &Path, error: &io::Error) -> Failure {
    Failure::failed(&format!("{} cannot be written", file.display()), error)
}
