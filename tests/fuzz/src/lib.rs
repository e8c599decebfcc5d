//! What each fuzz target checks, as plain functions over bytes. A target says more than "no panic":
//! it holds our reading against a second one, written from the specification and sharing no code
//! with the first, or against what must be true of every answer.

pub mod chunked;
pub mod differential;
pub mod forwarded;
pub mod jwk_set;
pub mod path;
pub mod proxy_protocol;
pub mod request_head;
pub mod response;
pub mod route;
pub mod strict;
pub mod token;
