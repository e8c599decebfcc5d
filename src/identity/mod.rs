//! Who is calling: the client's address, the bearer token it carries, and the identity that the
//! token proves. Also everything that makes such tokens: key pairs, access tokens, refresh tokens.
//!
//! ```text
//! peer + forwarding header ──address──▶ ClientAddr
//! Authorization ──credential──▶ token ──cache──▶ token (jws, claims, keys) ──▶ Identity
//! Cookie ──cookies, site──┘      │
//!                                │       └─▶ revocation: was its session ended?
//!                                └─▶ api_keys ─────────────────────────────▶ Identity
//! ```
//!
//! This room knows neither routes nor answers nor the database: it is handed keys and ended
//! sessions, and says who somebody is, never what they may do.

pub mod address;
pub mod api_keys;
pub mod cache;
pub mod caller;
pub mod cookies;
pub mod credential;
pub mod jws;
pub mod keys;
pub mod opaque;
pub mod refresh;
pub mod rejection;
pub mod revocation;
pub mod site;
pub mod token;

pub use address::{ClientAddr, TrustedProxies};
pub use api_keys::ApiKeys;
pub use cache::TokenCache;
pub use caller::{Identity, IssuerIndex, IssuerSet, Machine};
pub use credential::Credential;
pub use keys::KeySet;
pub use opaque::OpaqueToken;
pub use rejection::Rejection;
pub use revocation::Revocations;
pub use site::{Page, Sites};
pub use token::Verifier;
