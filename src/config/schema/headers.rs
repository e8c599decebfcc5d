//! `[identity_headers]` and `[cors]`: fields that the gateway writes.

use serde::Deserialize;

use crate::config::units::Interval;

/// `[identity_headers]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityHeaders {
    /// The token's subject. Default `X-User-Id`.
    pub user_id: String,
    /// The e-mail address, when it is confirmed. Default `X-User-Email`.
    pub email: String,
    /// Roles, sorted, comma separated. Default `X-User-Roles`.
    pub roles: String,
    /// The name of the token's issuer in `[[issuers]]`; `self` for our own. A subject means
    /// somebody only together with it. Default `X-User-Issuer`.
    pub issuer: String,
    /// The session. Default `X-Session-Id`.
    pub session_id: String,
    /// What a program may do, comma separated: the scopes of its API key. Default `X-User-Scopes`.
    pub scopes: String,
    /// The subject of the client certificate that was shown on the connection, on every route
    /// (RFC 4514, such as `CN=printer,O=Example`). Default `X-Client-Certificate-Subject`.
    pub client_certificate: String,
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self {
            user_id: "X-User-Id".to_owned(),
            email: "X-User-Email".to_owned(),
            roles: "X-User-Roles".to_owned(),
            issuer: "X-User-Issuer".to_owned(),
            session_id: "X-Session-Id".to_owned(),
            scopes: "X-User-Scopes".to_owned(),
            client_certificate: "X-Client-Certificate-Subject".to_owned(),
        }
    }
}

/// `[cors]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    /// Exact origins; empty = off. Default empty.
    pub allowed_origins: Vec<String>,
    /// Methods a preflight is granted.
    pub allowed_methods: Vec<String>,
    /// Request headers a preflight is granted.
    pub allowed_headers: Vec<String>,
    /// Answer headers that scripts may read.
    pub exposed_headers: Vec<String>,
    /// Send `Access-Control-Allow-Credentials`. Default false.
    pub allow_credentials: bool,
    /// How long a browser may keep a preflight's answer. Default 10 min.
    pub max_age: Interval,
}

impl Default for Cors {
    fn default() -> Self {
        let list = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        Self {
            allowed_origins: Vec::new(),
            allowed_methods: list(&["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
            allowed_headers: list(&[
                "authorization",
                "content-type",
                "apikey",
                "x-client-info",
                "x-supabase-api-version",
            ]),
            exposed_headers: list(&[
                "retry-after",
                "x-request-id",
                "x-total-count",
                "link",
                "x-supabase-api-version",
            ]),
            allow_credentials: false,
            max_age: Interval::seconds(600),
        }
    }
}
