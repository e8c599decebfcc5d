//! The configuration: what operators may write ([`schema`]), with which units ([`units`]), and how
//! files and environment become one value ([`load`]).

pub mod load;
pub mod schema;
pub mod units;

pub use schema::*;
pub use units::{ByteSize, Interval, Rate};

/// Something wrong with the configuration, at a key such as `routes[2].owner`. The loader adds
/// the file, line and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key; list entries by index from 0.
    pub key: String,
    /// What is wrong and what would be right, in one sentence.
    pub message: String,
}

impl Problem {
    /// A problem at `key`.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}
