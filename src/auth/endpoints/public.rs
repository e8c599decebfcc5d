//! What anybody may know.

use std::future::ready;

use http::{HeaderValue, StatusCode};

use super::request::JSON;
use super::{Auth, AuthAnswer, Endpoint};
use crate::auth::{openapi, shapes};

const YAML: HeaderValue = HeaderValue::from_static("application/yaml");

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("GET", "/.well-known/jwks.json", |auth, _, _| Box::pin(ready(Ok(auth.jwks())))),
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

fn health() -> AuthAnswer {
    AuthAnswer::json(StatusCode::OK, &shapes::health())
}

fn document() -> AuthAnswer {
    AuthAnswer::new(StatusCode::OK, YAML, openapi::DOCUMENT).public()
}
