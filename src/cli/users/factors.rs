//! `portcullis users factors`: shows the second factors of an account, and takes one away from whoever
//! has lost it.

use serde_json::json;
use uuid::Uuid;

use super::{Admin, Failure, table, when};
use crate::config::MailTransport;
use crate::model::{EventKind, User};
use crate::store::{RemoveFactor, Remover};

pub(super) async fn factors(
    admin: &Admin,
    user: &str,
    remove: Option<Uuid>,
    json: bool,
) -> Result<(), Failure> {
    let user = admin.find_user(user).await?;
    match remove {
        None => {
            print(&user, json);
            Ok(())
        }
        Some(factor) => self::remove(admin, &user, factor).await,
    }
}

async fn remove(admin: &Admin, user: &User, factor: Uuid) -> Result<(), Failure> {
    let event = admin.event(EventKind::FactorRemoved, Some(&user.id));
    let by = Remover::Administrator(user.id.clone());
    let notify = admin.config.mail.transport != MailTransport::None;
    match admin.store.remove_factor(&by, factor, notify, &event).await? {
        RemoveFactor::Done { ended } => {
            println!("removed {factor} of {} and ended {} sessions", user.id, ended.len());
            Ok(())
        }
        RemoveFactor::NeedsAal2 | RemoveFactor::NoFactor | RemoveFactor::NoSession => {
            Err(Failure::refused(format!("{} has no factor {factor}", user.id)))
        }
    }
}

fn print(user: &User, json: bool) {
    if json {
        table::print_json(user.factors.iter().map(|factor| {
            json!({
                "id": factor.id,
                "factor_type": factor.kind.as_str(),
                "friendly_name": factor.friendly_name,
                "status": factor.status(),
                "verified_at": factor.verified_at,
                "last_challenged_at": factor.last_challenged_at,
                "created_at": factor.created_at,
            })
        }));
        return;
    }
    let rows: Vec<_> = (user.factors.iter())
        .map(|factor| {
            [
                factor.id.to_string(),
                factor.kind.as_str().to_owned(),
                factor.friendly_name.clone(),
                factor.status().to_owned(),
                when(factor.last_challenged_at),
                when(Some(factor.created_at)),
            ]
        })
        .collect();
    table::print(["ID", "TYPE", "NAME", "STATUS", "LAST CHALLENGE", "CREATED"], &rows);
}
