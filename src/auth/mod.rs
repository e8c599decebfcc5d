//! The account half of the gateway: everything below `/auth`.

mod formats;
pub mod input;
pub mod password;
pub mod policy;
pub mod shapes;
