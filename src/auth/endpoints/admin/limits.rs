//! What limits have counted.

use std::str::FromStr;

use http::StatusCode;

use super::super::{Auth, AuthAnswer, AuthRequest, Endpoint, Seen};
use crate::auth::counted::{Counter, LOGIN_GUARD, NoCounter, Whose};
use crate::auth::error::AuthError;
use crate::auth::shapes;
use crate::model::Email;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("GET", "/admin/limits", |auth, request, seen| {
        Box::pin(auth.limits(request, seen))
    }),
    Endpoint::new("GET", "/admin/limits/{limit}", |auth, request, seen| {
        Box::pin(auth.limit_state(request, seen))
    }),
    Endpoint::new("DELETE", "/admin/limits/{limit}", |auth, request, seen| {
        Box::pin(auth.reset_limit(request, seen))
    }),
];

impl Auth {
    async fn limits(&self, request: AuthRequest, seen: &mut Seen) -> Result<AuthAnswer, AuthError> {
        self.administrator(&request, seen).await?;
        let rules = self.rules.load();
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::admin::limits(rules.all_limits.iter())))
    }

    async fn limit_state(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        self.administrator(&request, seen).await?;
        if request.segment(2) == LOGIN_GUARD {
            let guards = self.accounts.failed_logins(&tried(&request)?).await?;
            return Ok(AuthAnswer::json(StatusCode::OK, &shapes::admin::failed_logins(&guards)));
        }
        let counter = self.counter(&request)?;
        let state = self.accounts.limit_state(&self.limiter, counter).await?;
        Ok(AuthAnswer::json(StatusCode::OK, &shapes::admin::limit(&state)))
    }

    async fn reset_limit(
        &self,
        request: AuthRequest,
        seen: &mut Seen,
    ) -> Result<AuthAnswer, AuthError> {
        let admin = self.administrator(&request, seen).await?;
        if request.segment(2) == LOGIN_GUARD {
            self.accounts.forget_failed_logins(&admin, &tried(&request)?).await?;
        } else {
            let counter = self.counter(&request)?;
            self.accounts.reset_limit(&admin, &self.limiter, &counter).await?;
        }
        Ok(AuthAnswer::no_content())
    }
}

impl Auth {
    /// The count that the request names.
    fn counter(&self, request: &AuthRequest) -> Result<Counter, AuthError> {
        let rules = self.rules.load();
        let name = request.segment(2);
        let limit = rules.all_limits.get(name).ok_or(AuthError::LimitNotFound)?;
        let whose = Whose {
            ip: parsed(request, "ip", "an address")?,
            account: parsed(request, "account", "an e-mail address")?,
            user: request.filled_parameter("user")?,
            session: parsed(request, "session", "the id of a session")?,
            issuer: request.filled_parameter("issuer")?,
            route: request.filled_parameter("route")?,
        };
        whose.counter(name, limit, rules.on_outage).map_err(|error| match error {
            NoCounter::Unnamed(by) => AuthError::ValidationFailed(format!(
                "`{name}` counts by {}: say whose count with `{by}`",
                limit.by.name()
            )),
            NoCounter::Unusable(message) => AuthError::Internal(message.into()),
        })
    }
}

/// The address whose failed logins are asked for.
fn tried(request: &AuthRequest) -> Result<Email, AuthError> {
    let named = parsed(request, "account", "an e-mail address")?;
    named.ok_or_else(|| AuthError::ValidationFailed("`account` is required".to_owned()))
}

fn parsed<T: FromStr>(
    request: &AuthRequest,
    name: &str,
    what: &str,
) -> Result<Option<T>, AuthError> {
    let parse = |text: String| {
        text.parse().map_err(|_| AuthError::ValidationFailed(format!("`{name}` must be {what}")))
    };
    request.filled_parameter(name)?.map(parse).transpose()
}
