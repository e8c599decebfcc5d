//! API keys of anybody.

use http::StatusCode;
use serde_json::json;

use super::super::api_keys::made_key;
use super::super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use super::user_id;
use crate::auth::error::AuthError;
use crate::auth::input::{self, Fields};
use crate::auth::shapes;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("GET", "/admin/users/{id}/api_keys", |auth, request, seen| {
        Box::pin(auth.api_keys_of(request, seen))
    }),
    Endpoint::new("POST", "/admin/users/{id}/api_keys", |auth, request, seen| {
        Box::pin(auth.make_api_key_for(request, seen))
    }),
    Endpoint::new("DELETE", "/admin/users/{id}/api_keys/{key}", |auth, request, seen| {
        Box::pin(auth.revoke_api_key_of(request, seen))
    }),
];

impl Auth {
    async fn api_keys_of(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        self.administrator(&request, seen).await?;
        let keys = self.accounts.api_keys_of(&user_id(&request)?).await?;
        let keys: Vec<_> = keys.iter().map(shapes::kept_api_key).collect();
        Ok(AuthAnswer::json(StatusCode::OK, &json!({ "api_keys": keys })))
    }

    async fn make_api_key_for(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        if !self.rules.load().api_keys.enabled {
            return Err(AuthError::ApiKeysDisabled);
        }
        let id = user_id(&request)?;
        let wanted = input::NewApiKey::parse(Fields::read(&request.headers, request.body)?)?;
        let made = self.accounts.make_api_key_for(&admin, &id, wanted).await?;
        Ok(made_key(&made))
    }

    async fn revoke_api_key_of(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        let id = user_id(&request)?;
        let key = request.segment(4).parse().map_err(|_| AuthError::ApiKeyNotFound)?;
        self.accounts.revoke_api_key_of(&admin, &id, key).await?;
        Ok(AuthAnswer::no_content())
    }
}
