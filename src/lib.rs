//! Portcullis, an authentication gateway.

pub mod auth;
pub mod clock;
pub mod config;
pub mod events;
pub mod identity;
pub mod limit;
pub mod model;
pub mod proxy;
pub mod store;
