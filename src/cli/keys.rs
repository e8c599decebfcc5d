//! `portcullis keys`: sees, makes, imports and retires signing keys. Running gateways read the
//! change within a second.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::json;

use super::{Admin, Context, Failure, table, when};
use crate::config::{Algorithm, Interval};
use crate::identity::keys;
use crate::model::{EventKind, SigningKey};
use crate::store::ListedKey;

/// Who verifies our tokens may keep the JWKS for ten minutes (its `max-age`), so a new key is
/// shown that long before it signs.
const NOTICE: &str = "10m";

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the signing keys
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Make a new key; the old one is accepted until its last tokens have expired
    Rotate {
        #[command(flatten)]
        start: Start,
    },
    /// Import a private key from a PEM file; otherwise like rotate
    Import {
        /// PKCS#8, SEC1 or PKCS#1
        file: PathBuf,
        #[command(flatten)]
        start: Start,
    },
    /// Accept a key no more, and so none of its tokens
    Retire {
        /// Key id, see `keys list`
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
}

#[derive(clap::Args)]
struct Start {
    /// Sign with it at once, not after ten minutes (clients that cache the JWKS may refuse its
    /// tokens until they read it again)
    #[arg(long, conflicts_with = "after")]
    now: bool,
    /// Sign with it after this time
    #[arg(long, default_value = NOTICE, value_name = "TIME")]
    after: Interval,
}

impl Start {
    fn at(&self, now: Timestamp) -> Timestamp {
        let wait = if self.now { Duration::ZERO } else { self.after.0 };
        now.saturating_add(
            jiff::SignedDuration::try_from(wait).unwrap_or(jiff::SignedDuration::MAX),
        )
        .unwrap_or(Timestamp::MAX)
    }
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    context.administer(async |admin| match args.action {
        Action::List { json } => list(&admin, json).await,
        Action::Rotate { start } => {
            let now = admin.clock.now();
            let algorithm = admin.config.tokens.algorithm;
            if algorithm == Algorithm::Hs256 {
                return Err(Failure::usage("HS256 has no key pair; change tokens.secret instead"));
            }
            let key = keys::generate(algorithm, now, start.at(now))
                .map_err(|error| Failure::failed("no key was made", &error))?;
            rotate(&admin, key).await
        }
        Action::Import { file, start } => {
            let now = admin.clock.now();
            let text = zeroize::Zeroizing::new(std::fs::read(&file).map_err(|error| {
                Failure::failed(&format!("{} cannot be read", file.display()), &error)
            })?);
            let key = keys::import_private(&text, now, start.at(now))
                .map_err(|error| Failure::failed("the key cannot be used", &error))?;
            if key.algorithm != admin.config.tokens.algorithm {
                return Err(Failure::usage(format!(
                    "the key is for {}, but tokens.algorithm is {}",
                    key.algorithm.name(),
                    admin.config.tokens.algorithm.name()
                )));
            }
            rotate(&admin, key).await
        }
        Action::Retire { kid } => {
            let mut event = admin.event(EventKind::SigningKeyChanged, None);
            event.reason = Some("retired".to_owned());
            if !admin.store.retire_signing_key(&kid, event.at, &event).await? {
                return Err(Failure::refused(format!("there is no key `{kid}` in use")));
            }
            println!("retired {kid}; its tokens are refused from now on");
            let keys = admin.store.listed_keys().await?;
            if !keys.iter().any(|key| state(key, event.at) == "active") {
                println!("no key can sign now: run `portcullis keys rotate --now`");
            }
            Ok(())
        }
    })
}

async fn rotate(admin: &Admin, key: SigningKey) -> Result<(), Failure> {
    let mut event = admin.event(EventKind::SigningKeyChanged, None);
    event.reason = Some("added".to_owned());
    let tokens = &admin.config.tokens;
    let longest = tokens.access_lifetime.0 + tokens.leeway.0 + Duration::from_secs(5);
    let retire_others = jiff::SignedDuration::try_from(longest)
        .ok()
        .and_then(|longest| key.active_from.checked_add(longest).ok())
        .unwrap_or(Timestamp::MAX);
    admin.store.rotate_signing_key(&key, retire_others, &event).await?;
    println!("{} signs from {}", key.kid, when(Some(key.active_from)));
    println!("older keys are accepted until {}", when(Some(retire_others)));
    Ok(())
}

async fn list(admin: &Admin, json: bool) -> Result<(), Failure> {
    let now = admin.clock.now();
    let keys = admin.store.listed_keys().await?;
    if json {
        table::print_json(keys.iter().map(|key| {
            json!({
                "kid": key.kid,
                "algorithm": key.algorithm.name(),
                "state": state(key, now),
                "created_at": key.created_at,
                "active_from": key.active_from,
                "retire_at": key.retire_at,
            })
        }));
        return Ok(());
    }
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            [
                key.kid.clone(),
                key.algorithm.name().to_owned(),
                state(key, now).to_owned(),
                when(Some(key.active_from)),
                when(key.retire_at),
            ]
        })
        .collect();
    table::print(["KID", "ALGORITHM", "STATE", "ACTIVE FROM", "RETIRED AT"], &rows);
    Ok(())
}

fn state(key: &ListedKey, now: Timestamp) -> &'static str {
    match key.retire_at {
        Some(at) if at <= now => "retired",
        Some(_) => "retiring",
        None if key.active_from > now => "standby",
        None => "active",
    }
}
