//! The account half of the gateway: everything below `/auth`. Accounts are made here, passwords
//! checked, tokens handed out and taken back. Knows nothing of routes and upstreams.
//!
//! ```text
//! AuthRequest ─endpoints─▶ limits ─▶ input (valid or refused) ─▶ accounts ─▶ store, one transaction
//!                                                                  └─▶ password: hashing threads
//! AuthAnswer ◀─ shapes ◀──────────────────────────────────────────┘      └─ formats
//! ```

pub mod accounts;
pub mod counted;
mod discovery;
pub mod endpoints;
pub mod equal_time;
pub mod error;
pub mod formats;
mod forms;
pub mod input;
mod leaked;
pub mod openapi;
pub mod otp;
mod pages;
pub mod password;
pub mod policy;
mod qr;
mod recovery;
pub mod redirects;
pub mod shapes;
mod totp;

pub use accounts::Accounts;
pub use endpoints::{Auth, AuthAnswer, AuthRequest, Rules};
pub use error::{AuthError, AuthFailure, OverLimit};
pub use password::Hasher;
pub use policy::{MAX_PASSWORD_BYTES, Policy};
pub use redirects::Redirects;

use crate::config::{Config, Problem};

/// What is wrong with the account half of a configuration.
pub fn check(config: &Config) -> Vec<Problem> {
    let checks = [
        password::Settings::compile(&config.passwords).err(),
        Policy::compile(&config.passwords).err(),
        Rules::compile(config).err(),
        Redirects::compile(config).err(),
        accounts::LoginHook::compile(config).err(),
    ];
    checks.into_iter().flatten().flatten().collect()
}
