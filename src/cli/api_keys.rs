//! `portcullis api-keys`: sees, makes, rotates and ends API keys. Running gateways read the change
//! within a second.

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::json;

use super::{Admin, Context, Failure, table, when};
use crate::config::Interval;
use crate::identity::api_keys::{KeyText, NewKey};
use crate::model::{ApiKey, EventKind, MAX_SCOPES, is_scope_name, is_unprintable};
use crate::store::{AddApiKey, KeyName, RotateApiKey};

/// See the same in `auth`: the second try is for luck that nobody has.
const TRIES: u32 = 3;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List API keys, newest first; those that ended are shown for 30 days
    List {
        /// Only of this user: id or e-mail address
        #[arg(long)]
        user: Option<String>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Make a key that acts as a user; prints it, once
    Create {
        /// Id or e-mail address
        user: String,
        /// What it is for
        #[arg(long)]
        name: String,
        /// What it is good for, on routes that ask for scopes
        #[arg(long)]
        scope: Vec<String>,
        /// How long it lives, such as 90d [default: without an end]
        #[arg(long, value_name = "TIME")]
        expires: Option<Interval>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make a key in the place of another, which goes on for a while; prints the new one, once
    Rotate {
        /// Id or prefix, see `api-keys list`
        key: String,
        /// How long the old key goes on
        #[arg(long, default_value = "24h", value_name = "TIME")]
        overlap: Interval,
        /// How long the new one lives [default: as long as the old one was to]
        #[arg(long, value_name = "TIME")]
        expires: Option<Interval>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// End a key, in every gateway within a second
    Revoke {
        /// Id or prefix, see `api-keys list`
        key: String,
    },
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    context.administer(async |admin| match args.action {
        Action::List { user, json } => list(&admin, user.as_deref(), json).await,
        Action::Create { user, name, scope, expires, json } => {
            check(&name, &scope)?;
            let user = admin.find_user(&user).await?;
            let now = admin.clock.now();
            let new = NewKey {
                user_id: user.id,
                name,
                scopes: sorted(scope),
                created_by: "cli".to_owned(),
                expires_at: expires.map(|life| later(now, life)),
                replaces: None,
            };
            create(&admin, &new, now, json).await
        }
        Action::Rotate { key, overlap, expires, json } => {
            let old = find(&admin, &key).await?;
            let now = admin.clock.now();
            if !old.is_live(now) {
                return Err(Failure::refused(format!("the key {} has ended", old.prefix)));
            }
            let life = expires.or_else(|| old.life().map(Interval));
            let new = NewKey {
                user_id: old.user_id.clone(),
                name: old.name.clone(),
                scopes: old.scopes.clone(),
                created_by: "cli".to_owned(),
                expires_at: life.map(|life| later(now, life)),
                replaces: Some(old.id),
            };
            rotate(&admin, &old, &new, later(now, overlap), json).await
        }
        Action::Revoke { key } => {
            let key = find(&admin, &key).await?;
            let mut event = admin.event(EventKind::ApiKeyRevoked, Some(&key.user_id));
            event.reason = Some(key.prefix.clone());
            if !admin.store.revoke_api_key(key.id, None, event.at, &event).await? {
                return Err(Failure::refused(format!("the key {} was revoked before", key.prefix)));
            }
            println!("revoked {}; no gateway accepts it from within a second on", key.prefix);
            Ok(())
        }
    })
}

async fn create(admin: &Admin, new: &NewKey, now: Timestamp, json: bool) -> Result<(), Failure> {
    for _ in 0..TRIES {
        let (key, text) = new.clone().make(now);
        let mut event = admin.event(EventKind::ApiKeyCreated, Some(&key.user_id));
        event.reason = Some(key.prefix.clone());
        match admin.store.add_api_key(&key, u32::MAX, &event).await? {
            AddApiKey::Added => {
                show(&key, &text, json);
                return Ok(());
            }
            AddApiKey::NoUser | AddApiKey::TooMany => {
                return Err(Failure::refused("the user is gone"));
            }
            AddApiKey::Taken => {}
        }
    }
    Err(Failure::refused("no key was made; try again"))
}

async fn rotate(
    admin: &Admin,
    old: &ApiKey,
    new: &NewKey,
    old_ends_at: Timestamp,
    json: bool,
) -> Result<(), Failure> {
    for _ in 0..TRIES {
        let (key, text) = new.clone().make(admin.clock.now());
        let event = |kind, key: &ApiKey| {
            let event = admin.event(kind, Some(&key.user_id));
            crate::model::Event { reason: Some(key.prefix.clone()), ..event }
        };
        let events = [event(EventKind::ApiKeyRotated, old), event(EventKind::ApiKeyCreated, &key)];
        match admin.store.rotate_api_key(&key, old_ends_at, u32::MAX, &events).await? {
            RotateApiKey::Rotated => {
                show(&key, &text, json);
                if !json {
                    let ends = old.expires_at.map_or(old_ends_at, |end| end.min(old_ends_at));
                    eprintln!("{} goes on until {}", old.prefix, when(Some(ends)));
                }
                return Ok(());
            }
            RotateApiKey::NotFound | RotateApiKey::TooMany => {
                return Err(Failure::refused(format!("the key {} has ended", old.prefix)));
            }
            RotateApiKey::Taken => {}
        }
    }
    Err(Failure::refused("no key was made; try again"))
}

/// The key alone on standard output, for scripts; what people want to know beside it elsewhere.
fn show(key: &ApiKey, text: &KeyText, json: bool) {
    if json {
        let mut shown = as_json(key, key.created_at);
        shown["key"] = text.expose().into();
        table::print_json([shown]);
        return;
    }
    println!("{}", text.expose());
    eprintln!(
        "{} acts as {}; it is shown this once. Expires: {}",
        key.prefix,
        key.user_id,
        when(key.expires_at)
    );
}

async fn list(admin: &Admin, user: Option<&str>, json: bool) -> Result<(), Failure> {
    let user = match user {
        Some(user) => Some(admin.find_user(user).await?.id),
        None => None,
    };
    let now = admin.clock.now();
    let keys = admin.store.api_keys(user.as_ref()).await?;
    if json {
        table::print_json(keys.iter().map(|key| as_json(key, now)));
        return Ok(());
    }
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            [
                key.prefix.clone(),
                key.user_id.to_string(),
                key.name.clone(),
                key.scopes.join(" "),
                state(key, now).to_owned(),
                when(key.expires_at),
                when(key.last_used_at),
            ]
        })
        .collect();
    table::print(["KEY", "USER", "NAME", "SCOPES", "STATE", "EXPIRES", "LAST USED"], &rows);
    Ok(())
}

fn as_json(key: &ApiKey, now: Timestamp) -> serde_json::Value {
    json!({
        "id": key.id,
        "prefix": key.prefix,
        "user_id": key.user_id.as_str(),
        "name": key.name,
        "scopes": key.scopes,
        "state": state(key, now),
        "created_at": key.created_at,
        "created_by": key.created_by,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "replaces": key.replaces,
    })
}

fn state(key: &ApiKey, now: Timestamp) -> &'static str {
    match key.revoked_at {
        Some(_) => "revoked",
        None if key.is_live(now) => "active",
        None => "expired",
    }
}

async fn find(admin: &Admin, name: &str) -> Result<ApiKey, Failure> {
    let by = match name.parse() {
        Ok(id) => KeyName::Id(id),
        Err(_) => KeyName::Prefix(name.to_owned()),
    };
    let key = admin.store.api_key(&by).await?;
    // What was given may be a whole key.
    key.ok_or_else(|| Failure::refused("there is no API key with this id or prefix"))
}

fn check(name: &str, scopes: &[String]) -> Result<(), Failure> {
    if name.trim().is_empty() || name.len() > 100 || name.chars().any(is_unprintable) {
        return Err(Failure::usage("--name must have 1 to 100 bytes and no control characters"));
    }
    if scopes.len() > MAX_SCOPES {
        return Err(Failure::usage(format!("a key has at most {MAX_SCOPES} scopes")));
    }
    match scopes.iter().find(|scope| !is_scope_name(scope)) {
        None => Ok(()),
        Some(bad) => Err(Failure::usage(format!(
            "`{bad}` is no scope: 1 to 64 of the characters a-z 0-9 : _ -"
        ))),
    }
}

fn sorted(mut scopes: Vec<String>) -> Vec<String> {
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

fn later(now: Timestamp, by: Interval) -> Timestamp {
    now.checked_add(by.0).unwrap_or(Timestamp::MAX)
}
