//! API keys of the own account, where `api_keys.self_service` lets users make some.

use http::StatusCode;
use serde_json::json;
use uuid::Uuid;

use super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use crate::auth::accounts::Bearer;
use crate::auth::error::AuthError;
use crate::auth::input::{self, Fields};
use crate::auth::shapes;
use crate::config;
use crate::identity::api_keys::KeyText;
use crate::identity::caller::OURS;
use crate::limit::Caller;
use crate::model::ApiKey;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("GET", "/api_keys", |auth, request, seen| Box::pin(auth.api_keys(request, seen))),
    Endpoint::new("POST", "/api_keys", |auth, request, seen| {
        Box::pin(auth.make_api_key(request, seen))
    }),
    Endpoint::new("DELETE", "/api_keys/{id}", |auth, request, seen| {
        Box::pin(auth.revoke_api_key(request, seen))
    }),
    Endpoint::new("POST", "/api_keys/{id}/rotate", |auth, request, seen| {
        Box::pin(auth.rotate_api_key(request, seen))
    }),
];

impl Auth {
    async fn api_keys(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let (bearer, _) = self.who_keeps_keys(&request, seen)?;
        let keys = self.accounts.api_keys(&bearer).await?;
        let keys: Vec<_> = keys.iter().map(shapes::api_key).collect();
        Ok(AuthAnswer::json(StatusCode::OK, &json!({ "api_keys": keys })))
    }

    async fn make_api_key(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let (bearer, rules) = self.who_keeps_keys(&request, seen)?;
        self.count_keys(&request, &bearer, seen).await?;
        let origin = request.origin();
        let fields = Fields::read(&request.headers, request.body)?;
        let wanted = input::NewApiKey::parse(fields)?;
        let made = self.accounts.make_api_key(&bearer, wanted, &rules, &origin).await?;
        Ok(made_key(&made))
    }

    async fn rotate_api_key(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let (bearer, rules) = self.who_keeps_keys(&request, seen)?;
        self.count_keys(&request, &bearer, seen).await?;
        let (id, origin) = (key_id(&request)?, request.origin());
        let fields = Fields::read_if_any(&request.headers, request.body)?;
        let wanted = input::RotateApiKey::parse(fields)?;
        let made = self.accounts.rotate_api_key(&bearer, id, &wanted, &rules, &origin).await?;
        Ok(made_key(&made))
    }

    async fn revoke_api_key(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let (bearer, _) = self.who_keeps_keys(&request, seen)?;
        self.accounts.revoke_api_key(&bearer, key_id(&request)?, &request.origin()).await?;
        Ok(AuthAnswer::no_content())
    }

    fn who_keeps_keys(
        &self,
        request: &AuthRequest,
        seen: &mut Seen,
    ) -> Result<(Bearer, config::ApiKeys), AuthError> {
        let bearer = self.bearer(request, seen)?;
        let rules = self.rules.load().api_keys.clone();
        if rules.enabled && rules.self_service {
            Ok((bearer, rules))
        } else {
            Err(AuthError::ApiKeysDisabled)
        }
    }

    /// Each key that is made leaves a row for 30 days and an event for longer.
    async fn count_keys(
        &self,
        request: &AuthRequest,
        bearer: &Bearer,
        seen: &mut Seen,
    ) -> Result<(), AuthError> {
        let rules = self.rules.load_full();
        let caller = Caller {
            user: Some((OURS, bearer.user_id.as_str())),
            ..Caller::anonymous(request.client, &request.path)
        };
        self.count(&[rules.limit("api_keys")], caller, seen).await
    }
}

fn key_id(request: &AuthRequest) -> Result<Uuid, AuthError> {
    request.segment(1).parse().map_err(|_| AuthError::ApiKeyNotFound)
}

/// The only answer that has the text of a key.
pub(super) fn made_key((key, text): &(ApiKey, KeyText)) -> AuthAnswer {
    let mut body = shapes::api_key(key);
    body["key"] = text.expose().into();
    AuthAnswer::json(StatusCode::CREATED, &body)
}
