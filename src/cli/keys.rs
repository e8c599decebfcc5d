//! `portcullis keys`: sees, makes, imports, retires and revokes signing keys. Running gateways read
//! the change within a second.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::{Admin, Context, Failure, table, when};
use crate::config::{Algorithm, Interval};
use crate::identity::keys;
use crate::identity::keys::life::{KeyState, SPREAD, later, retire_at, states};
use crate::model::{EventKind, SigningKey};
use crate::store::{RetireKey, RevokeKey};

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
    /// In an emergency: accept a key and its tokens no more, and have another one sign
    Revoke {
        /// Key id, see `keys list`
        #[arg(allow_hyphen_values = true)]
        kid: String,
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
    /// Sign with it in two seconds, when all gateways know it, and not after `tokens.key_notice`
    /// (clients that cache the JWKS may refuse its tokens until they read it again)
    #[arg(long, conflicts_with = "after")]
    now: bool,
    /// Sign with it after this time, at least two seconds [default: `tokens.key_notice`]
    #[arg(long, value_name = "TIME")]
    after: Option<Interval>,
}

impl Start {
    fn wait(&self, admin: &Admin) -> Duration {
        let notice = self.after.unwrap_or(admin.config.tokens.key_notice).0;
        if self.now { SPREAD } else { notice.max(SPREAD) }
    }
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    context.administer(async |admin| match args.action {
        Action::List { json } => list(&admin, json).await,
        Action::Rotate { start } => {
            if admin.config.tokens.algorithm == Algorithm::Hs256 {
                return Err(Failure::usage("HS256 has no key pair; change tokens.secret instead"));
            }
            rotate(&admin, new(&admin, start.wait(&admin))?, "added").await
        }
        Action::Import { file, start } => {
            let now = admin.clock.now();
            let text = zeroize::Zeroizing::new(std::fs::read(&file).map_err(|error| {
                Failure::failed(&format!("{} cannot be read", file.display()), &error)
            })?);
            let active_from = later(now, start.wait(&admin));
            let key = keys::import_private(&text, now, active_from)
                .map_err(|error| Failure::failed("the key cannot be used", &error))?;
            if key.algorithm != admin.config.tokens.algorithm {
                return Err(Failure::usage(format!(
                    "the key is for {}, but tokens.algorithm is {}",
                    key.algorithm.name(),
                    admin.config.tokens.algorithm.name()
                )));
            }
            rotate(&admin, key, "imported").await
        }
        Action::Revoke { kid } => revoke(&admin, &kid).await,
        Action::Retire { kid } => {
            let mut event = admin.event(EventKind::SigningKeyChanged, None);
            event.reason = Some(format!("retired:{kid}"));
            // Whatever it does to logins: who asks here sees what is said below, and can mend it.
            let retired = admin.store.retire_signing_key(&kid, event.at, None, &event).await?;
            if retired != RetireKey::Done {
                return Err(Failure::refused(format!("there is no key `{kid}` in use")));
            }
            println!("retired {kid}; its tokens are refused from now on");
            let keys = admin.store.listed_keys().await?;
            let states = states(&keys, admin.config.tokens.algorithm, event.at);
            if !states.contains(&KeyState::Active) {
                println!("no key can sign now: run `portcullis keys rotate --now`");
            }
            Ok(())
        }
    })
}

async fn rotate(admin: &Admin, key: SigningKey, done: &str) -> Result<(), Failure> {
    let mut event = admin.event(EventKind::SigningKeyChanged, None);
    event.reason = Some(format!("{done}:{}", key.kid));
    let retire_others = retire_at(&admin.config.tokens, key.active_from);
    if !admin.store.rotate_signing_key(&key, retire_others, &event).await? {
        return Err(Failure::refused(format!("the key {} is known already", key.kid)));
    }
    println!("{} signs from {}", key.kid, when(Some(key.active_from)));
    println!("older keys are accepted until {}", when(Some(retire_others)));
    Ok(())
}

async fn revoke(admin: &Admin, kid: &str) -> Result<(), Failure> {
    let mut event = admin.event(EventKind::SigningKeyChanged, None);
    event.reason = Some(format!("revoked:{kid}"));
    let algorithm = admin.config.tokens.algorithm;
    let replacement = if algorithm == Algorithm::Hs256 { None } else { Some(new(admin, SPREAD)?) };
    match admin.store.revoke_signing_key(kid, replacement.as_ref(), &event).await? {
        RevokeKey::Unknown => Err(Failure::refused(format!("there is no key `{kid}` in use"))),
        RevokeKey::Done { successor } => {
            println!("revoked {kid}; within a second every gateway refuses its tokens");
            if let Some(successor) = successor {
                println!("{successor} signs in its place");
            }
            Ok(())
        }
    }
}

/// A key that signs after this time.
fn new(admin: &Admin, wait: Duration) -> Result<SigningKey, Failure> {
    let now = admin.clock.now();
    keys::generate(admin.config.tokens.algorithm, now, later(now, wait))
        .map_err(|error| Failure::failed("no key was made", &error))
}

async fn list(admin: &Admin, json: bool) -> Result<(), Failure> {
    let keys = admin.store.listed_keys().await?;
    let states = states(&keys, admin.config.tokens.algorithm, admin.clock.now());
    let keys: Vec<_> = keys.iter().zip(states).collect();
    if json {
        table::print_json(keys.iter().map(|(key, state)| {
            json!({
                "kid": key.kid,
                "algorithm": key.algorithm.name(),
                "state": state.as_str(),
                "created_at": key.created_at,
                "active_from": key.active_from,
                "retire_at": key.retire_at,
                "revoked_at": key.revoked_at,
            })
        }));
        return Ok(());
    }
    let rows: Vec<_> = keys
        .iter()
        .map(|(key, state)| {
            [
                key.kid.clone(),
                key.algorithm.name().to_owned(),
                state.as_str().to_owned(),
                when(Some(key.active_from)),
                when(key.revoked_at.or(key.retire_at)),
            ]
        })
        .collect();
    table::print(["KID", "ALGORITHM", "STATE", "ACTIVE FROM", "ACCEPTED UNTIL"], &rows);
    Ok(())
}
