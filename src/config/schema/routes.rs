//! `[[routes]]`: which request goes where, and who may make it.

use serde::Deserialize;

use crate::config::units::{ByteSize, Interval};

/// `[[routes]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Segments, `{name}`, `{name:uuid}`, `{name:int}`, a final `{*rest}`.
    pub path: String,
    /// Methods; default all. `HEAD` follows `GET`.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Name of the upstream. Needed unless `access = "deny"`.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Who may come in. Default `authenticated`.
    #[serde(default)]
    pub access: Access,
    /// Only for clients that have shown a good certificate, whatever else is asked for. Default
    /// false.
    #[serde(default)]
    pub client_certificate: bool,
    /// Path variable that must equal the subject; `none` opts out. Default `user_id` when the path
    /// has it.
    #[serde(default)]
    pub owner: Option<String>,
    /// Why `owner = "none"` is right, or an owner on a route of several issuers.
    #[serde(default)]
    pub reason: Option<String>,
    /// Any of these roles is needed. Default none.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Roles that may act on another user's path. Default none.
    #[serde(default)]
    pub owner_override_roles: Vec<String>,
    /// Take API keys too. Default false.
    #[serde(default)]
    pub api_keys: bool,
    /// What an API key must be good for: all of these. Users themselves are not asked. Default none.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Only sessions that have shown a second factor: others are told to show one (RFC 9470).
    /// Default false.
    #[serde(default)]
    pub require_aal2: bool,
    /// Only sessions whose user has proved something no longer ago than this: the password, a link,
    /// a code of a second factor. Default: any time ago.
    #[serde(default)]
    pub max_age: Option<Interval>,
    /// Names of `[[issuers]]`, `self` for our own. Default `["self"]`.
    #[serde(default)]
    pub issuers: Vec<String>,
    /// Names from `[limits]`. Default none.
    #[serde(default)]
    pub limit: Vec<String>,
    /// Overrides of the upstream's timeouts.
    #[serde(default)]
    pub timeouts: RouteTimeouts,
    /// Overrides `server.max_body_bytes`.
    #[serde(default)]
    pub max_body_bytes: Option<ByteSize>,
    /// Pass the bearer token on. Default false.
    #[serde(default)]
    pub forward_token: bool,
    /// Taken off the front of the path before it is forwarded.
    #[serde(default)]
    pub strip_prefix: Option<String>,
    /// Let `%2F` stand in a segment. Default false.
    #[serde(default)]
    pub allow_encoded_slash: bool,
    /// Answer an owner mismatch like an unknown route. Default false.
    #[serde(default)]
    pub hide_mismatch: bool,
    /// Take the access token of a WebSocket handshake also from `Sec-WebSocket-Protocol`, as
    /// `bearer.TOKEN` or as `bearer, TOKEN`. Default false.
    #[serde(default)]
    pub websocket_token: bool,
    /// Take the access token from our cookie too, when `cookies.enabled`. Default: where the route
    /// looks at our own tokens.
    #[serde(default)]
    pub cookies: Option<bool>,
    /// Origins that browsers may call this route from; a request with another `Origin` is 403.
    /// Default any.
    #[serde(default)]
    pub allowed_origins: Vec<String>,
    /// Keep a tunnel open when its token expires or its session ends. Default false.
    #[serde(default)]
    pub tunnel_outlives_token: bool,
    /// Who answers CORS preflights. Default the gateway.
    #[serde(default)]
    pub preflight: Preflight,
    /// `shadow` decides and logs, but lets through. Default `enforce`.
    #[serde(default)]
    pub mode: Mode,
}

/// `routes.timeouts`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteTimeouts {
    /// To a connection, TLS included.
    pub connect: Option<Interval>,
    /// To the response head.
    pub response: Option<Interval>,
    /// Silence within a response body.
    pub idle: Option<Interval>,
    /// From the request's arrival to the end of its answer. Default: no limit.
    pub total: Option<Interval>,
}

/// Who may come in.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// A valid token.
    #[default]
    Authenticated,
    /// Nobody.
    Deny,
    /// No token is fine; a bad one is not.
    Optional,
    /// Tokens are not looked at.
    Public,
}

/// Who answers CORS preflights.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Preflight {
    /// The gateway.
    #[default]
    Answer,
    /// The upstream.
    Forward,
}

/// Whether a route's decision is binding.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is.
    #[default]
    Enforce,
    /// It is logged and counted only.
    Shadow,
}
