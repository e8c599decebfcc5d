//! `portcullis users import`: accounts of other systems, with the password hashes that they have.
//! Hashes are stored as they are, and replaced when their owners log in.
//!
//! ```text
//! file ─rows, json─▶ Row ─fields, source─▶ account or why not ─run─▶ store, a batch a transaction
//!                    (a thread of its own)                      └──▶ refused: the file of bad rows
//! ```
//!
//! A row never stops the others. How far it has come is stored with each batch, so a run that was
//! broken off goes on, and nothing is done twice.

mod account;
mod error;
mod fields;
mod firebase;
mod json;
mod keycloak;
mod progress;
mod reader;
mod refused;
mod report;
mod rows;
mod run;
mod source;

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Admin, Failure};
use crate::auth::password;
use crate::config::Problem;

use account::{Confirmed, Reading};
use rows::Rows;
use source::{Settings, Source};

#[derive(clap::Args)]
pub(super) struct Args {
    /// CSV with a heading, JSON lines, a JSON array, or an object with `users`
    file: PathBuf,
    /// Where it is from [default: by its first row]
    #[arg(long, value_enum)]
    format: Option<Source>,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
    /// FILE has under the name A what is meant by B; may be repeated
    #[arg(long, value_name = "A=B", value_parser = renamed)]
    map: Vec<(String, String)>,
    /// Which addresses count as proved
    #[arg(long, value_enum, default_value = "as-file")]
    confirmed: Confirmed,
    /// The field that holds roles, such as `realmRoles` or `app_metadata.roles`; without it roles are
    /// taken from files of `users export` only
    #[arg(long, value_name = "FIELD")]
    roles_from: Option<String>,
    /// Take the role admin too
    #[arg(long)]
    allow_admin: bool,
    /// Take hashes that are a single HMAC (Werkzeug before 2.3)
    #[arg(long)]
    allow_weak: bool,
    /// What Firebase's console shows as password hash parameters
    #[arg(long, value_name = "FILE")]
    firebase_params: Option<PathBuf>,
    /// Where refused rows go [default: FILE.errors.jsonl; none with --dry-run]
    #[arg(long, value_name = "FILE")]
    errors: Option<PathBuf>,
    /// Rows in one transaction
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=5000))]
    batch: u16,
    /// Forget how far an earlier run on this file came
    #[arg(long)]
    from_start: bool,
    /// The report as one JSON object
    #[arg(long)]
    json: bool,
}

fn renamed(text: &str) -> Result<(String, String), String> {
    let (from, to) = text.split_once('=').ok_or("has no `=`")?;
    Ok((from.to_owned(), to.to_owned()))
}

pub(super) async fn run(admin: &Admin, args: Args) -> Result<(), Failure> {
    let (reading, settings) = reading(admin, &args)?;
    run::run(admin, &args, reading, &settings).await
}

/// How the rows of this file become accounts.
fn reading(admin: &Admin, args: &Args) -> Result<(Reading, password::Settings), Failure> {
    let passwords = &admin.config.passwords;
    let settings = password::Settings::compile(passwords).map_err(|problems: Vec<Problem>| {
        let lines: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.key, p.message)).collect();
        Failure::usage(lines.join("\n"))
    })?;
    let source = args.format.map_or_else(|| guess(args), Ok)?;
    let firebase = match &args.firebase_params {
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
            let missing = |what| Failure::usage(format!("{} has no `{what}`", file.display()));
            Some(firebase::Project::read(&text).map_err(missing)?)
        }
        None if source == Source::Firebase => {
            let why = "hashes of Firebase need the parameters of their project: --firebase-params";
            return Err(Failure::usage(why));
        }
        None => None,
    };
    let has_devise_pepper = passwords.devise_pepper.is_some();
    let own_roles = (source == Source::Portcullis).then(|| "roles".to_owned());
    let reading = Reading {
        source,
        settings: Settings { has_devise_pepper, firebase },
        renamed: args.map.clone(),
        confirmed: args.confirmed,
        roles_from: args.roles_from.clone().or(own_roles),
        allow_admin: args.allow_admin,
        allow_weak: args.allow_weak,
        own: settings.prefix(),
        now: admin.clock.now(),
    };
    Ok((reading, settings))
}

/// By the first row that can be read.
fn guess(args: &Args) -> Result<Source, Failure> {
    let cannot = |error: std::io::Error| unreadable(&args.file, &error);
    let mut rows = Rows::open(File::open(&args.file).map_err(cannot)?).map_err(cannot)?;
    while let Some(row) = rows.next().map_err(cannot)? {
        if let Ok(fields) = row.content {
            return Ok(Source::guess(&fields, &args.map));
        }
    }
    Ok(Source::Portcullis)
}

fn unreadable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(&format!("{} cannot be read", file.display()), error)
}
