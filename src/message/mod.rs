//! HTTP messages as bytes: heads (RFC 9112 §2 to §5) and the framing of bodies (§6, §7). Pure: no
//! sockets, no clocks, no configuration beyond numbers. Strict, because both ends of the gateway
//! read through here: where two readings of a message are possible, it is an error.

pub mod buffer;
pub mod chunked;
pub mod fields;
mod lines;
pub mod request;
pub mod response;

pub use self::buffer::Buffer;
pub use self::chunked::{Decoder, Framed, Piece};
pub use self::fields::{FieldList, FieldSink, Fields, Known};
pub use self::request::{BodyLength, HeadError, RequestHead, Version};
pub use self::response::{Malformed, ResponseHead};
