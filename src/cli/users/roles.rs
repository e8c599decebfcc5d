//! `portcullis users set-roles`, and what a role is.

use super::{Admin, Failure, found};
use crate::model::{EndReason, EventKind, is_role_name};
use crate::store::Sessions;

pub(super) async fn set_roles(
    admin: &Admin,
    user: &str,
    roles: Vec<String>,
    keep_sessions: bool,
) -> Result<(), Failure> {
    let roles = checked_roles(roles)?;
    let user = admin.find_user(user).await?;
    let mut event = admin.event(EventKind::RolesChanged, Some(&user.id));
    event.reason = (!roles.is_empty()).then(|| roles.join(","));
    found(admin.store.set_roles(&user.id, &roles, event.at, &event).await?)?;
    let shown = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
    println!("{} has the roles: {shown}", user.id);
    if keep_sessions {
        println!("its tokens keep the old ones until they are refreshed");
        return Ok(());
    }
    let event = admin.event(EventKind::SessionRevoked, Some(&user.id));
    let ended = (admin.store)
        .end_sessions(&user.id, Sessions::All, EndReason::Revoked, event.at, &event)
        .await?;
    println!("ended {} sessions", ended.len());
    Ok(())
}

pub(super) fn checked_roles(mut roles: Vec<String>) -> Result<Vec<String>, Failure> {
    if let Some(role) = roles.iter().find(|role| !is_role_name(role)) {
        let rule = "a role is 1 to 64 of the characters a-z 0-9 _ -";
        return Err(Failure::usage(format!("`{role}` is no role: {rule}")));
    }
    roles.sort_unstable();
    roles.dedup();
    Ok(roles)
}
