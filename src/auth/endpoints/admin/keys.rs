//! Signing keys.

use http::StatusCode;
use serde_json::json;

use super::super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use crate::auth::error::AuthError;
use crate::auth::input::{self, Fields};
use crate::auth::shapes;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("GET", "/admin/keys", |auth, request, seen| {
        Box::pin(auth.signing_keys(request, seen))
    }),
    Endpoint::new("POST", "/admin/keys", |auth, request, seen| {
        Box::pin(auth.rotate_keys(request, seen))
    }),
    Endpoint::new("POST", "/admin/keys/{kid}/retire", |auth, request, seen| {
        Box::pin(auth.retire_key(request, seen))
    }),
    Endpoint::new("POST", "/admin/keys/{kid}/revoke", |auth, request, seen| {
        Box::pin(auth.revoke_key(request, seen))
    }),
];

impl Auth {
    async fn signing_keys(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        self.administrator(&request, seen).await?;
        let keys = self.accounts.signing_keys().await?;
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::admin::keys(&keys)))
    }

    async fn rotate_keys(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        let fields = Fields::read_if_any(&request.headers, request.body)?;
        let made = self.accounts.rotate_keys(&admin, input::key_notice(fields)?).await?;
        Ok(AuthAnswer::json(StatusCode::CREATED, &shapes::admin::made_key(&made)))
    }

    async fn retire_key(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        self.accounts.retire_key(&admin, request.segment(2)).await?;
        Ok(AuthAnswer::no_content())
    }

    async fn revoke_key(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        let successor = self.accounts.revoke_key(&admin, request.segment(2)).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &json!({ "successor": successor })))
    }
}
