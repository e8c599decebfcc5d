//! What limits by account count under, where that is more than the account's address: for those who
//! count and for those who look.

use crate::model::{Email, UserId};
use crate::store::Lane;

/// Logins. Strangers fill up a count of their own, not that of the account's known places.
pub fn login(email: &Email, lane: &Lane) -> String {
    format!("{} {}", email.key(), lane.name())
}

/// Changes of a password. Apart from logins, so that strangers who guess there cannot get in the way.
pub fn password_change(user: &UserId) -> String {
    format!("password change of {user}")
}
