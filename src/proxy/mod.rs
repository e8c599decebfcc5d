//! The guarded way to an upstream: which route a request is for, whether its caller may make it,
//! and what its headers may say. It knows accounts and tokens only as a [`Credential`], and
//! nothing of how a refusal is worded for the client.
//!
//! ```text
//! path ─▶ CanonicalPath ─▶ RouteMatch ─▶ + Credential ─▶ Permit ─▶ headers ─▶ forward
//!  path.rs    route/        authorize.rs                headers/
//!  └──────────────── decide.rs: the four doors ─────┘                          │
//!                                    link.rs (HTTP/1.1), stream.rs (HTTP/2) ◀─ relay
//! ```
//!
//! [`Credential`]: crate::identity::Credential

pub mod authorize;
mod challenge;
pub mod decide;
pub mod forward;
pub mod headers;
pub mod link;
pub mod origin;
pub mod path;
pub mod pool;
pub(crate) mod relay;
pub mod route;
pub mod step_up;
mod stream;
pub mod subprotocol;
pub mod trace;
