//! `portcullis users export`: all accounts as rows that `users import` takes back whole. Sessions,
//! links and events stay behind.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Admin, Failure};
use crate::model::{Account, EventKind};

/// Accounts read at once.
const PAGE: u32 = 1000;

/// Names of the fields, in the order of the cells.
const FIELDS: [&str; 12] = [
    "id",
    "email",
    "email_confirmed_at",
    "password_hash",
    "roles",
    "app_metadata",
    "user_metadata",
    "last_sign_in_at",
    "disabled_until",
    "invited_at",
    "created_at",
    "updated_at",
];

#[derive(clap::Args)]
pub(super) struct Args {
    /// A new file, readable by its owner only; `-` is standard output
    file: PathBuf,
    /// [default: csv for a FILE of that name, else jsonl]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// One JSON object a line
    Jsonl,
    /// A table with a heading; roles and metadata are JSON
    Csv,
}

pub(super) async fn run(admin: &Admin, args: &Args) -> Result<(), Failure> {
    let is_csv = args.file.extension().is_some_and(|name| name.eq_ignore_ascii_case("csv"));
    let format = args.format.unwrap_or(if is_csv { Format::Csv } else { Format::Jsonl });
    let cannot = |error: io::Error| {
        Failure::failed(&format!("{} cannot be written", args.file.display()), &error)
    };
    let to_stdout = args.file.as_os_str() == "-";
    let mut out: Box<dyn Write> = if to_stdout {
        Box::new(BufWriter::new(io::stdout()))
    } else {
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(&args.file);
        Box::new(BufWriter::new(file.map_err(cannot)?))
    };
    // First of all: whoever stops the command in the middle has some of the hashes too.
    admin.store.record(&[admin.event(EventKind::UsersExported, None)]).await?;
    if matches!(format, Format::Csv) {
        write_cells(&mut out, &FIELDS.map(str::to_owned)).map_err(cannot)?;
    }
    let (mut count, mut last) = (0, None);
    loop {
        let page = admin.store.accounts(last.as_ref(), PAGE).await?;
        for account in &page {
            write(&mut out, format, account).map_err(cannot)?;
        }
        count += page.len();
        match page.into_iter().last() {
            Some(account) => last = Some(account.user.id),
            None => break,
        }
    }
    out.flush().map_err(cannot)?;
    if !to_stdout {
        println!("{count} accounts; the file holds password hashes");
    }
    Ok(())
}

fn write(out: &mut dyn Write, format: Format, account: &Account) -> io::Result<()> {
    let Account { user, password_hash } = account;
    let mut row = json!({
        "id": user.id,
        "email": user.email,
        "email_confirmed_at": user.email_confirmed_at,
        "password_hash": password_hash.as_ref().map(|hash| &hash.0),
        "roles": user.roles,
        "app_metadata": user.app_metadata,
        "user_metadata": user.user_metadata,
        "last_sign_in_at": user.last_sign_in_at,
        "disabled_until": user.disabled_until,
        "invited_at": user.invited_at,
        "created_at": user.created_at,
        "updated_at": user.updated_at,
    });
    match format {
        Format::Jsonl => writeln!(out, "{row}"),
        Format::Csv => write_cells(
            out,
            &FIELDS.map(|name| match row[name].take() {
                Value::Null => String::new(),
                Value::String(text) => text,
                other => other.to_string(),
            }),
        ),
    }
}

fn write_cells(out: &mut dyn Write, cells: &[String]) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(cells)?;
    writer.flush()
}
