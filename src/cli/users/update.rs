//! `portcullis users update`

use super::create::new_password;
use super::{Admin, Failure, found, print};
use crate::auth::input::MAX_METADATA_BYTES;
use crate::model::{Email, EventKind, JsonObject};
use crate::store::{ChangeUser, UserChange};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Id or e-mail address
    user: String,
    /// Another address, which counts as proved only with --confirmed
    #[arg(long)]
    email: Option<Email>,
    /// The address is known to be the user's
    #[arg(long)]
    confirmed: bool,
    /// Another password, asked for or read from standard input; ends all sessions
    #[arg(long)]
    password: bool,
    /// Keys to set in `app_metadata`, or with null to remove; roles are a matter of `set-roles`
    #[arg(long, value_name = "JSON", value_parser = app_metadata)]
    app_metadata: Option<Object>,
    /// Keys to set in `user_metadata`, or with null to remove
    #[arg(long, value_name = "JSON", value_parser = object)]
    user_metadata: Option<Object>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// A JSON object on the command line.
#[derive(Clone)]
struct Object(JsonObject);

fn object(text: &str) -> Result<Object, String> {
    serde_json::from_str(text).map(Object).map_err(|error| format!("no JSON object: {error}"))
}

fn app_metadata(text: &str) -> Result<Object, String> {
    let object = object(text)?;
    match ["roles", "provider", "providers"].iter().find(|key| object.0.contains_key(**key)) {
        Some(key) => Err(format!("`{key}` is not kept there; roles are set by `users set-roles`")),
        None => Ok(object),
    }
}

pub(super) async fn update(admin: &Admin, args: Args) -> Result<(), Failure> {
    let user = admin.find_user(&args.user).await?;
    let known_as = args.email.clone().or_else(|| user.email.parse().ok());
    let password = match known_as {
        Some(email) if args.password => Some(new_password(admin, &email).await?),
        None if args.password => return Err(Failure::refused("the account has no address")),
        _ => None,
    };
    let event = admin.event(EventKind::UserUpdated, Some(&user.id));
    let change = UserChange {
        email: args.email,
        confirm_email: args.confirmed,
        password,
        app_metadata: args.app_metadata.map(|object| object.0),
        user_metadata: args.user_metadata.map(|object| object.0),
        max_metadata_bytes: Some(MAX_METADATA_BYTES),
        ..UserChange::default()
    };
    match admin.store.change_user(&user.id, &change, event.at, &event).await? {
        ChangeUser::Done { user, ended } => {
            print(&[*user], args.json);
            if !ended.is_empty() {
                eprintln!("ended {} sessions", ended.len());
            }
            Ok(())
        }
        ChangeUser::NotFound => found(None),
        ChangeUser::EmailTaken => Err(Failure::refused("there is an account with this address")),
        ChangeUser::MetadataTooLarge => {
            Err(Failure::refused("metadata has at most 2048 bytes of JSON of each kind"))
        }
    }
}
