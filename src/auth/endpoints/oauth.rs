//! The endpoints of OAuth 2.0: forms come in, and what is refused is said in OAuth's own words (RFC
//! 6749 §5.2), for clients that know no others. What is over a limit or unavailable is a problem
//! document as everywhere.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, PRAGMA, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use crate::auth::accounts::Active;
use crate::auth::error::AuthError;
use crate::auth::forms::{Form, RepeatedParameter};
use crate::auth::input::MAX_BODY_BYTES;
use crate::config;
use crate::identity::Identity;
use crate::limit::Caller;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("POST", "/oauth/token", |auth, request, seen| {
        Box::pin(auth.client_token(request, seen))
    }),
    Endpoint::new("POST", "/oauth/introspect", |auth, request, seen| {
        Box::pin(auth.introspect(request, seen))
    }),
    Endpoint::new("POST", "/oauth/revoke", |auth, request, seen| {
        Box::pin(auth.revoke(request, seen))
    }),
];

/// What a program's key must be good for to ask what tokens are worth.
const INTROSPECT: &str = "introspect";

const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"portcullis\"");

/// A refusal in OAuth's words.
enum Refusal {
    /// Of the request's form.
    InvalidRequest(String),
    /// Of the program: nobody, or not who it says.
    InvalidClient,
    /// Of what it asks for.
    InvalidScope,
    /// The key is not good for this endpoint (RFC 6750 §3.1).
    InsufficientScope,
    /// Of the way to a token.
    UnsupportedGrantType,
}

impl Refusal {
    fn answer(self) -> AuthAnswer {
        let (status, error, description) = match self {
            Self::InvalidRequest(description) => {
                (StatusCode::BAD_REQUEST, "invalid_request", description)
            }
            Self::InvalidClient => (
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "the client must show an API key that is good".to_owned(),
            ),
            Self::InvalidScope => (
                StatusCode::BAD_REQUEST,
                "invalid_scope",
                "the API key is not good for all of the scope".to_owned(),
            ),
            Self::InsufficientScope => (
                StatusCode::FORBIDDEN,
                "insufficient_scope",
                format!("the API key needs the scope {INTROSPECT}"),
            ),
            Self::UnsupportedGrantType => (
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                "grant_type must be client_credentials".to_owned(),
            ),
        };
        let body = json!({ "error": error, "error_description": description });
        let mut answer = AuthAnswer::json(status, &body);
        if status == StatusCode::UNAUTHORIZED {
            answer.headers.insert(WWW_AUTHENTICATE, BASIC);
        }
        answer
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

    /// RFC 6749 §4.4: a program's API key for a token that is good for an hour at most.
    async fn client_token(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        self.count_oauth(&request, seen).await?;
        let origin = request.origin();
        let headers = request.headers.clone();
        let asked = form(request).and_then(|form| {
            let grant_type = required(&form, "grant_type")?;
            let scope = optional(&form, "scope")?;
            Ok((grant_type, scope, shown(&headers, &form)?))
        });
        let (grant_type, scope, shown) = match asked {
            Ok(asked) => asked,
            Err(refusal) => return Ok(refusal.answer()),
        };
        if grant_type != "client_credentials" {
            return Ok(Refusal::UnsupportedGrantType.answer());
        }
        // A bearer is no way for a client to say who it is (RFC 6749 §2.3).
        let client = if let Shown::Bearer(_) = shown { None } else { self.client(&shown) };
        let Some(client) = client else {
            self.accounts.refuse_client(None, "invalid_client", &origin).await?;
            return Ok(Refusal::InvalidClient.answer());
        };
        let made = self.accounts.client_token(&client, scope.as_deref(), &origin).await?;
        let Some(made) = made else { return Ok(Refusal::InvalidScope.answer()) };
        let mut body = json!({
            "access_token": made.access.token,
            "token_type": "Bearer",
            "expires_in": made.expires_in,
        });
        if !made.scope.is_empty() {
            body["scope"] = made.scope.into();
        }
        let mut answer = AuthAnswer::json(StatusCode::OK, &body);
        // RFC 6749 §5.1.
        answer.headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        answer.user_id = client.subject.parse().ok();
        Ok(answer)
    }

    /// RFC 7662. Who may ask has a key for it and is not counted, as it asks for each request that it
    /// gets itself; who may not is, by address.
    async fn introspect(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let counted = Caller::anonymous(request.client, "/oauth/introspect");
        let headers = request.headers.clone();
        let asked = form(request).and_then(|form| {
            let token = required(&form, "token")?;
            let client = self.client(&shown(&headers, &form)?).ok_or(Refusal::InvalidClient)?;
            let may = client.machine.as_ref();
            let may = may.is_some_and(|client| client.scopes.iter().any(|s| s == INTROSPECT));
            if may { Ok(token) } else { Err(Refusal::InsufficientScope) }
        });
        let token = match asked {
            Ok(token) => token,
            Err(refusal) => {
                let rules = self.rules.load_full();
                self.count(&[rules.limit("oauth")], counted, seen).await?;
                return Ok(refusal.answer());
            }
        };
        let found = self.accounts.introspect(&token).await?;
        let tokens = &self.accounts.tokens;
        let body = found.map_or_else(|| json!({ "active": false }), |it| active(&it, tokens));
        Ok(AuthAnswer::json(StatusCode::OK, &body))
    }

    /// Whose key was shown.
    fn client(&self, shown: &Shown) -> Option<Arc<Identity>> {
        if !self.rules.load().api_keys.enabled {
            return None;
        }
        match shown {
            Shown::Nothing => None,
            Shown::Client { id, secret } => self.accounts.client(id, secret),
            Shown::Bearer(key) => self.accounts.client_by_key(key),
        }
    }

    async fn count_oauth(&self, request: &AuthRequest, seen: &mut Seen) -> Result<(), AuthError> {
        let rules = self.rules.load_full();
        let caller = Caller::anonymous(request.client, &request.path);
        self.count(&[rules.limit("oauth")], caller, seen).await
    }
}

/// What a program shows of itself.
enum Shown {
    Nothing,
    /// By `Basic` or in the form.
    Client {
        id: String,
        secret: Zeroizing<String>,
    },
    /// The key by itself.
    Bearer(Zeroizing<String>),
}

/// Reads a client's credentials (RFC 6749 §2.3.1, RFC 7662 §2.1), of which there may be one kind.
fn shown(headers: &HeaderMap, form: &Form) -> Result<Shown, Refusal> {
    let malformed = |what: &str| Refusal::InvalidRequest(what.to_owned());
    let (id, secret) = (optional(form, "client_id")?, optional(form, "client_secret")?);
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return match (id, secret) {
            _ if headers.contains_key(AUTHORIZATION) => {
                Err(malformed("there is more than one Authorization"))
            }
            (Some(id), Some(secret)) => Ok(Shown::Client { id, secret: secret.into() }),
            _ => Ok(Shown::Nothing),
        };
    };
    if secret.is_some() {
        return Err(malformed("the client shows itself in more than one way"));
    }
    let line = line.to_str().map_err(|_| malformed("Authorization is malformed"))?;
    let (scheme, rest) = line.split_once(' ').unwrap_or((line, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Shown::Bearer(rest.to_owned().into()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(Shown::Nothing);
    }
    let (named, secret) = basic(rest).ok_or_else(|| malformed("Authorization is malformed"))?;
    if id.is_some_and(|id| id != named) {
        return Err(malformed("client_id is not the one in Authorization"));
    }
    Ok(Shown::Client { id: named, secret })
}

/// Both parts are encoded as in a form before they are joined (RFC 6749 §2.3.1).
fn basic(text: &str) -> Option<(String, Zeroizing<String>)> {
    let joined = Zeroizing::new(STANDARD.decode(text.trim_start_matches(' ')).ok()?);
    let (id, secret) = std::str::from_utf8(&joined).ok()?.split_once(':')?;
    Some((form_value(id)?, form_value(secret)?.into()))
}

fn form_value(text: &str) -> Option<String> {
    if text.contains(['&', '=']) {
        return None;
    }
    Some(form_urlencoded::parse(text.as_bytes()).next().unwrap_or_default().0.into_owned())
}

/// What there is to say of a token that is good (RFC 7662 §2.2).
fn active(found: &Active, tokens: &config::Tokens) -> Value {
    let mut body = match found {
        Active::Access(identity) => {
            let mut body = json!({
                "token_type": "Bearer",
                "sub": &*identity.subject,
                "username": identity.email,
                "iat": identity.issued_at,
                "session_id": identity.session,
                "app_metadata": { "roles": identity.roles },
            });
            // A key may have no end.
            if identity.expires_at != i64::MAX {
                body["exp"] = identity.expires_at.into();
            }
            if let Some(machine) = &identity.machine {
                body["client_id"] = (*machine.client).into();
                body["scope"] = machine.scopes.join(" ").into();
            }
            body
        }
        Active::Refresh(known, ends) => json!({
            "sub": known.user.id.as_str(),
            "username": known.user.email,
            "iat": known.session.created_at.as_second(),
            "exp": ends.as_second(),
            "session_id": known.session.id,
        }),
    };
    body["active"] = true.into();
    body["iss"] = (*tokens.issuer).into();
    body["aud"] = (*tokens.audience).into();
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    body
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
