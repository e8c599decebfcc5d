//! What anybody may know, at the root of the host too.

use std::future::ready;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};

use super::request::JSON;
use super::{Auth, AuthAnswer, AuthRequest, Endpoint, Handler};
use crate::auth::error::AuthError;
use crate::auth::{openapi, shapes};

const YAML: HeaderValue = HeaderValue::from_static("application/yaml");

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("GET", "/.well-known/jwks.json", |auth, _, _| Box::pin(ready(Ok(auth.jwks())))),
    Endpoint::new("GET", "/.well-known/openid-configuration", |auth, _, _| {
        Box::pin(ready(auth.server_metadata()))
    }),
    Endpoint::new("GET", "/.well-known/oauth-authorization-server", |auth, _, _| {
        Box::pin(ready(auth.server_metadata()))
    }),
    Endpoint::new("GET", "/.well-known/oauth-protected-resource", |auth, _, _| {
        Box::pin(ready(auth.resource_metadata()))
    }),
    Endpoint::new("GET", "/settings", |auth, _, _| Box::pin(ready(Ok(auth.settings())))),
    Endpoint::new("GET", "/health", |_, _, _| Box::pin(ready(Ok(health())))),
    Endpoint::new("GET", "/openapi.yaml", |_, _, _| Box::pin(ready(Ok(document())))),
];

impl Auth {
    fn jwks(&self) -> AuthAnswer {
        let now = self.accounts.clock.now();
        let keys = self.accounts.verifier.load().keys().jwks(now);
        AuthAnswer::new(StatusCode::OK, JSON, keys).public()
    }

    fn server_metadata(&self) -> Result<AuthAnswer, AuthError> {
        let rules = self.rules.load();
        let discovery = rules.discovery.as_ref().ok_or(AuthError::NoRoute)?;
        Ok(metadata(&discovery.server))
    }

    fn resource_metadata(&self) -> Result<AuthAnswer, AuthError> {
        let rules = self.rules.load();
        let discovery = rules.discovery.as_ref().ok_or(AuthError::NoRoute)?;
        Ok(metadata(&discovery.endpoints))
    }

    /// What answers a request for a document at the root of the host.
    pub(super) fn root_handler(&self, request: &AuthRequest) -> Result<Handler, AuthError> {
        self.root_document(&request.path)?;
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Err(AuthError::MethodNotAllowed { allow: "GET, HEAD".to_owned() });
        }
        Ok(|auth, request, _| Box::pin(ready(auth.root_document(&request.path))))
    }

    fn root_document(&self, path: &str) -> Result<AuthAnswer, AuthError> {
        let rules = self.rules.load();
        let document = rules.discovery.as_ref().and_then(|discovery| discovery.at_root(path));
        document.map(metadata).ok_or(AuthError::NoRoute)
    }

    fn settings(&self) -> AuthAnswer {
        let rules = self.rules.load();
        let body = shapes::settings(
            rules.signup_is_enabled,
            rules.email_is_confirmed,
            &self.accounts.policy,
        );
        AuthAnswer::json(StatusCode::OK, &body)
    }
}

fn metadata(document: &Bytes) -> AuthAnswer {
    AuthAnswer::new(StatusCode::OK, JSON, document.clone()).public()
}

fn health() -> AuthAnswer {
    AuthAnswer::json(StatusCode::OK, &shapes::health())
}

fn document() -> AuthAnswer {
    AuthAnswer::new(StatusCode::OK, YAML, openapi::DOCUMENT).public()
}
