//! An access token as a subprotocol of a WebSocket handshake: browsers can set no other header
//! there. Two forms are taken, on routes with `websocket_token` only:
//!
//! ```text
//! Sec-WebSocket-Protocol: chat, bearer.eyJhbGciOi…
//! Sec-WebSocket-Protocol: chat, bearer, eyJhbGciOi…
//! ```
//!
//! The upstream never sees either. Browsers fail a handshake in which none of their offers was taken;
//! so where the upstream takes none, we take the one that was for us: `bearer`, or in the first form
//! the entry itself, which tells its sender nothing new.

use crate::message::{Fields, Known};

/// The word before the token, and the subprotocol of the second form.
pub const BEARER: &str = "bearer";

/// The token among the subprotocols that are offered.
///
/// # Errors
/// There are several.
pub fn token(fields: Fields<'_>) -> Result<Option<&[u8]>, Several> {
    let mut tokens = offers(fields).filter_map(|offer| match offer {
        Offer::Token(token) => Some(token),
        Offer::Other(_) | Offer::Word => None,
    });
    let first = tokens.next();
    if tokens.next().is_some() { Err(Several) } else { Ok(first) }
}

/// More than one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Several;

/// What the upstream is offered: everything else. `None` = nothing.
pub fn without_token(fields: Fields<'_>) -> Option<Vec<u8>> {
    let others: Vec<&[u8]> = offers(fields)
        .filter_map(|offer| match offer {
            Offer::Other(other) => Some(other),
            Offer::Token(_) | Offer::Word => None,
        })
        .collect();
    (!others.is_empty()).then(|| others.join(&b", "[..]))
}

/// The subprotocol to agree to where the upstream agrees to none.
pub fn ours(fields: Fields<'_>) -> Option<Vec<u8>> {
    let mut ours = None;
    for offer in offers(fields) {
        match offer {
            Offer::Word => return Some(BEARER.into()),
            Offer::Token(token) => ours = Some([BEARER.as_bytes(), b".", token].concat()),
            Offer::Other(_) => {}
        }
    }
    ours
}

enum Offer<'a> {
    /// `bearer`, before a token.
    Word,
    Token(&'a [u8]),
    Other(&'a [u8]),
}

fn offers(fields: Fields<'_>) -> impl Iterator<Item = Offer<'_>> {
    let mut elements = fields.elements(Known::WebSocketProtocol).filter(|e| !e.is_empty());
    let mut after_word = false;
    std::iter::from_fn(move || {
        let element = elements.next()?;
        if std::mem::take(&mut after_word) {
            return Some(Offer::Token(element));
        }
        if element == BEARER.as_bytes() {
            after_word = true;
            return Some(Offer::Word);
        }
        let token = element.strip_prefix(BEARER.as_bytes()).and_then(|e| e.strip_prefix(b"."));
        Some(token.map_or(Offer::Other(element), Offer::Token))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::FieldList;

    #[test]
    fn the_token_is_found_and_left_out() {
        for (lines, expected, left) in [
            (&[] as &[&str], Ok(None), None),
            (&["chat"], Ok(None), Some("chat")),
            (&["bearer.a.b.c"], Ok(Some("a.b.c")), None),
            (&["chat, bearer.a.b.c, v2"], Ok(Some("a.b.c")), Some("chat, v2")),
            (&["bearer, a.b.c"], Ok(Some("a.b.c")), None),
            (&["bearer,a.b.c,chat"], Ok(Some("a.b.c")), Some("chat")),
            (&["chat, bearer", "a.b.c"], Ok(Some("a.b.c")), Some("chat")),
            (&["bearer"], Ok(None), None),
            (&["bearer."], Ok(Some("")), None),
            (&["bearer.a, bearer.b"], Err(Several), None),
            (&["bearer, a, bearer.b"], Err(Several), None),
            (&["bearers, Bearer.a"], Ok(None), Some("bearers, Bearer.a")),
        ] {
            let list: FieldList =
                lines.iter().map(|line| ("sec-websocket-protocol", line)).collect();
            let fields = list.view();
            let expected = expected.map(|token: Option<&str>| token.map(str::as_bytes));
            assert_eq!(token(fields), expected, "{lines:?}");
            assert_eq!(without_token(fields).as_deref(), left.map(str::as_bytes), "{lines:?}");
            let ours = ours(fields);
            assert_eq!(
                ours.is_some(),
                lines.concat().contains("bearer") && !lines.concat().contains("Bearer")
            );
        }
    }
}
