//! What the tests stand on.

pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod watchdog;
