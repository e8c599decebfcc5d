//! The endpoints of OAuth 2.0: forms come in, and what is refused is said in OAuth's own words (RFC
//! 6749 §5.2), for clients that know no others. What is over a limit or unavailable is a problem
//! document as everywhere.

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::json;

use super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use crate::auth::error::AuthError;
use crate::auth::forms::{Form, RepeatedParameter};
use crate::auth::input::MAX_BODY_BYTES;
use crate::limit::Caller;

pub(super) const ENDPOINTS: &[Endpoint] =
    &[Endpoint::new("POST", "/oauth/revoke", |auth, request, seen| {
        Box::pin(auth.revoke(request, seen))
    })];

/// A refusal in OAuth's words.
enum Refusal {
    /// Of the request's form.
    InvalidRequest(String),
}

impl Refusal {
    fn answer(self) -> AuthAnswer {
        let (status, error, description) = match self {
            Self::InvalidRequest(description) => {
                (StatusCode::BAD_REQUEST, "invalid_request", description)
            }
        };
        let body = json!({ "error": error, "error_description": description });
        AuthAnswer::json(status, &body)
    }
}

impl Auth {
    /// RFC 7009. An unknown token is as good as revoked, so that is the answer (§2.2); whoever has
    /// a token needs no other credential.
    async fn revoke(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        self.count_oauth(&request, seen).await?;
        let origin = request.origin();
        let token = match form(request).and_then(|form| required(&form, "token")) {
            Ok(token) => token,
            Err(refusal) => return Ok(refusal.answer()),
        };
        seen.bearer = self.accounts.revoke(&token, &origin).await?;
        let mut answer = AuthAnswer::json(StatusCode::OK, &json!({}));
        answer.headers.remove(CONTENT_TYPE);
        answer.body = Bytes::new();
        Ok(answer)
    }

    async fn count_oauth(&self, request: &AuthRequest, seen: &mut Seen) -> Result<(), AuthError> {
        let rules = self.rules.load_full();
        let caller = Caller::anonymous(request.client, &request.path);
        self.count(&[rules.limit("oauth")], caller, seen).await
    }
}

fn form(request: AuthRequest) -> Result<Form, Refusal> {
    if request.body.len() > MAX_BODY_BYTES {
        return Err(Refusal::InvalidRequest("the body is too large".to_owned()));
    }
    Form::read(&request.headers, request.body).ok_or_else(|| {
        Refusal::InvalidRequest("the body must be application/x-www-form-urlencoded".to_owned())
    })
}

fn required(form: &Form, name: &str) -> Result<String, Refusal> {
    optional(form, name)?
        .ok_or_else(|| Refusal::InvalidRequest(format!("the parameter {name} is missing")))
}

fn optional(form: &Form, name: &str) -> Result<Option<String>, Refusal> {
    form.parameter(name).map_err(|RepeatedParameter| {
        Refusal::InvalidRequest(format!("the parameter {name} is there twice"))
    })
}
