//! `portcullis users set-roles`, and what a role is.

use super::{Admin, Failure, found};
use crate::model::{EventKind, MAX_ROLES, MAX_ROLES_BYTES, are_few_roles, is_role_name};
use crate::store::{ChangeUser, UserChange};

pub(super) async fn set_roles(
    admin: &Admin,
    user: &str,
    roles: Vec<String>,
    keep_sessions: bool,
) -> Result<(), Failure> {
    let roles = checked_roles(roles)?;
    let user = admin.find_user(user).await?;
    let event = admin.event(EventKind::RolesChanged, Some(&user.id));
    let shown = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
    let change = UserChange { roles: Some(roles), keep_sessions, ..UserChange::default() };
    let changed = admin.store.change_user(&user.id, &change, event.at, &event).await?;
    let ChangeUser::Done { ended, .. } = changed else { return found(None) };
    println!("{} has the roles: {shown}", user.id);
    if keep_sessions {
        println!("its tokens keep the old ones until they are refreshed");
    } else {
        println!("ended {} sessions", ended.len());
    }
    Ok(())
}

pub(super) fn checked_roles(mut roles: Vec<String>) -> Result<Vec<String>, Failure> {
    if let Some(role) = roles.iter().find(|role| !is_role_name(role)) {
        let rule = "a role is 1 to 64 of the characters a-z 0-9 _ -";
        return Err(Failure::usage(format!("`{role}` is no role: {rule}")));
    }
    roles.sort_unstable();
    roles.dedup();
    if !are_few_roles(&roles) {
        return Err(Failure::usage(format!(
            "a user has at most {MAX_ROLES} roles, which take at most {MAX_ROLES_BYTES} bytes: each \
             token names them all"
        )));
    }
    Ok(roles)
}
