//! Accounts as they are shown.

use serde_json::json;

use super::{table, when};
use crate::model::User;

pub(super) fn print(users: &[User], json: bool) {
    if json {
        table::print_json(users.iter().map(|user| {
            json!({
                "id": user.id.as_str(),
                "email": user.email,
                "email_confirmed_at": user.email_confirmed_at,
                "app_metadata": user.public_app_metadata(),
                "user_metadata": user.user_metadata,
                "last_sign_in_at": user.last_sign_in_at,
                "disabled_until": user.disabled_until,
                "created_at": user.created_at,
                "updated_at": user.updated_at,
                "deleted_at": user.deleted_at,
            })
        }));
        return;
    }
    let now = crate::clock::Clock::system().now();
    let rows: Vec<_> = users
        .iter()
        .map(|user| {
            let state = match (user.is_disabled(now), user.email_confirmed_at) {
                _ if user.deleted_at.is_some() => "deleted",
                (true, _) => "disabled",
                (false, Some(_)) => "confirmed",
                (false, None) => "unconfirmed",
            };
            [
                user.id.to_string(),
                user.email.clone(),
                user.roles.join(","),
                state.to_owned(),
                when(user.last_sign_in_at),
                when(Some(user.created_at)),
            ]
        })
        .collect();
    table::print(["ID", "E-MAIL", "ROLES", "STATE", "LAST SIGN-IN", "CREATED"], &rows);
}
