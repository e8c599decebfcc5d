//! The challenge of a WebSocket handshake (RFC 6455 §4.1), for clients that have none: over HTTP/2
//! there is no key (RFC 8441 §5), but an upstream of HTTP/1.1 must show that it knows what a
//! WebSocket is.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::message::Fields;

/// Appended to the key before it is hashed (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A key that was made for one handshake.
#[derive(Debug)]
pub(crate) struct Challenge(String);

impl Challenge {
    /// A fresh one.
    pub(crate) fn new() -> Self {
        Self(BASE64_STANDARD.encode(crate::clock::random_bytes::<16>()))
    }

    /// `Sec-WebSocket-Key`
    pub(crate) fn key(&self) -> &str {
        &self.0
    }

    /// Whether an answer meets it.
    pub(crate) fn is_met_by(&self, answer: Fields<'_>) -> bool {
        let text = format!("{}{GUID}", self.0);
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let expected = BASE64_STANDARD.encode(digest);
        let mut accepts = answer.named("sec-websocket-accept");
        accepts.next() == Some(expected.as_bytes()) && accepts.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::FieldList;

    #[test]
    fn the_standards_own_example_is_met() {
        let challenge = Challenge("dGhlIHNhbXBsZSBub25jZQ==".to_owned());
        for (accept, met) in
            [("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", true), ("s3pPLMBiTxaQ9kYGzzhZRbK+xOp=", false)]
        {
            let list: FieldList = [("Sec-WebSocket-Accept", accept)].into_iter().collect();
            assert_eq!(challenge.is_met_by(list.view()), met, "{accept}");
        }
        assert!(!challenge.is_met_by(FieldList::default().view()));
        assert_ne!(Challenge::new().key(), Challenge::new().key());
    }
}
