//! Portcullis, an authentication gateway: logins and per-user isolation in front of an existing
//! HTTP API.
//!
//! # The map
//!
//! ```text
//! L5  cli          one file a command
//! L4  server       sockets and threads      admin     probes and metrics
//!     reload       takes a changed configuration
//! L3  gateway      one request from arrival to answer
//!     problem      every failure and its answer       cors
//! L2  proxy        path, route, decision, headers, forwarding
//!     auth         the account endpoints
//! L1  identity     who is calling           wire      client connections, time limits, heads
//!     limit        rate limits              store     users, sessions, keys, events
//!     events       proxied routes, webhook  mail      letters to users
//! L0  message      heads, fields, framing    outgoing  our own requests to others
//!     config  model  clock  secrets  telemetry
//! ```
//!
//! A file imports from its own folder or from a lower layer. `proxy` and `auth` never import each
//! other; nor do `identity`, `limit`, `store`. Nothing below L3 knows of problem documents, nothing
//! below L2 of routes.
//!
//! # The life of a request
//!
//! [`wire`] gets a head from a connection of either version of HTTP, read and checked by
//! [`message`]; [`gateway`] resolves the client's address, asks [`proxy::decide`] (path, route,
//! credential, owner, roles), counts limits, has `proxy::headers` write the upstream's request without
//! what clients may not say and with what only we say, and `proxy::relay` moves both bodies at once.
//! Own paths go to [`auth`] on another runtime. Whatever fails becomes one variant of [`problem::Error`], and one
//! `match` makes that an answer.

pub mod admin;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cors;
pub mod events;
pub mod gateway;
pub mod identity;
pub mod limit;
pub mod mail;
pub mod message;
pub mod model;
pub mod outgoing;
pub mod problem;
pub mod proxy;
pub mod reload;
pub mod secrets;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod wire;
