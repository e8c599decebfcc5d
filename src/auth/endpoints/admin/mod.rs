//! What administrators do, in the shapes of Supabase Auth where it has them; see
//! `accounts/admin`. Who may is asked first, before anything of the request is looked at.

mod activity;
mod api_keys;
mod keys;
mod limits;
mod links;
mod users;

use super::{Auth, AuthRequest, Endpoint, Seen};
use crate::auth::accounts::{Administrator, Asking};
use crate::auth::error::AuthError;
use crate::identity::credential::{Carried, Elsewhere, bearer};
use crate::model::UserId;

pub(super) const AREAS: [&[Endpoint]; 6] = [
    activity::ENDPOINTS,
    api_keys::ENDPOINTS,
    keys::ENDPOINTS,
    limits::ENDPOINTS,
    links::ENDPOINTS,
    users::ENDPOINTS,
];

impl Auth {
    /// Who asks, if that is an administrator.
    pub(super) async fn administrator(
        &self,
        request: &AuthRequest,
        seen: &mut Seen,
    ) -> Result<Administrator, AuthError> {
        let asking = match self.bearer(request, seen) {
            Ok(bearer) => Asking::Session(bearer),
            Err(AuthError::ApiKeyNotAccepted) => Asking::Program(self.program(request)?),
            Err(error) => return Err(error),
        };
        self.accounts.administrator(asking, request.origin()).await
    }

    fn program(
        &self,
        request: &AuthRequest,
    ) -> Result<std::sync::Arc<crate::identity::Identity>, AuthError> {
        let token = match bearer(&request.headers, Elsewhere::default()) {
            Ok(Carried::Token(token)) if self.rules.load().api_keys.enabled => token,
            _ => return Err(AuthError::ApiKeyNotAccepted),
        };
        let token = std::str::from_utf8(token).map_err(|_| AuthError::MalformedCredential)?;
        self.accounts.program(token)
    }
}

/// The user that the path names.
fn user_id(request: &AuthRequest) -> Result<UserId, AuthError> {
    request.segment(2).parse().map_err(|_| AuthError::UserNotFound)
}
