//! The configuration: what operators may write ([`schema`]), with which units ([`units`]), how
//! files and environment become one value ([`mod@load`]), and what is wrong with it by itself
//! ([`validate`]).

mod environment;
mod extract;
mod file;
mod input;
pub mod load;
pub mod restart;
pub mod schema;
mod shape;
mod sources;
pub mod units;
pub mod validate;

#[cfg(test)]
mod tests;

pub use input::{Contents, Input};
pub use load::{Loaded, load, parse};
pub use schema::*;
pub use sources::{LoadError, Place, Sources};
pub use units::{ByteSize, Interval, Listen, Rate};

/// Something wrong with the configuration, at a key such as `routes[2].owner`. The loader adds
/// the file, line and column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Dotted path of the key; list entries by index from 0. Empty: not about one key.
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
