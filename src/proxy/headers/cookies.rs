//! What an upstream sees of a browser's cookies: all but ours, which are tokens. They are taken out
//! on every route, public ones too, and whether or not `[cookies]` is on: a browser may still have
//! some from before. A token from a cookie is passed on, where the route says `forward_token`, as
//! what upstreams know: `Authorization`.

use crate::identity::cookies::{self, ACCESS};
use crate::message::fields::Field;
use crate::message::{FieldSink, Fields, Known};
use crate::proxy::authorize::Permit;

pub(super) use crate::identity::cookies::may_hold_ours;

/// Writes what is left of a line that may hold cookies of ours.
pub(super) fn write_left(line: &Field<'_>, out: &mut impl FieldSink) {
    let left = cookies::without_ours(line.value);
    if !left.is_empty() {
        out.field(line.name, &left);
    }
}

/// Writes the token that came in a cookie, where the upstream is to have it.
pub(super) fn write_token(fields: Fields<'_>, permit: &Permit<'_>, out: &mut impl FieldSink) {
    if permit.route().forward_token
        && let Some(token) = token(fields, permit)
    {
        out.field(b"authorization", &[b"Bearer ", token].concat());
    }
}

/// Whether the caller is known by a cookie.
pub fn is_known_by_cookie(fields: Fields<'_>, permit: &Permit<'_>) -> bool {
    token(fields, permit).is_some()
}

/// The token that made the caller known, when it came in a cookie.
fn token<'a>(fields: Fields<'a>, permit: &Permit<'_>) -> Option<&'a [u8]> {
    // Two carriers are refused, so with a cookie of ours it was that.
    if !permit.route().cookies || !fields.has(Known::Cookie) || permit.identity().is_none() {
        return None;
    }
    cookies::sole(fields.all(Known::Cookie), ACCESS).ok().flatten()
}

/// Keeps an answer to one caller out of shared caches. They leave answers to requests with
/// `Authorization` alone unless these say otherwise (RFC 9111 §3.5), and upstreams may rely on it;
/// of a cookie they know nothing.
pub fn keep_private(answer: Fields<'_>, out: &mut impl FieldSink) {
    let said = ["public", "must-revalidate", "private", "no-store"];
    let lines = answer.named("cache-control");
    let mut directives = lines.flat_map(|line| line.split(|&b| b == b',')).map(<[u8]>::trim_ascii);
    let is_told = directives.any(|word| {
        said.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
            || word.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"s-maxage="))
    });
    if !is_told {
        out.field(b"cache-control", b"private");
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::message::FieldList;

    #[test]
    fn an_answer_to_one_caller_is_private_unless_it_says_otherwise() {
        for (lines, expected) in [
            (&[] as &[&str], true),
            (&["max-age=600"], true),
            (&["no-cache"], true),
            (&["max-age=600", "stale-while-revalidate=5"], true),
            (&["publicly"], true),
            (&["public, max-age=600"], false),
            (&["max-age=600", "Public"], false),
            (&["s-maxage=60"], false),
            (&["max-age=1,must-revalidate"], false),
            (&["private"], false),
            // Of these fields only.
            (&["private=\"x-name\""], true),
            (&["no-store"], false),
        ] {
            let list: FieldList = lines.iter().map(|line| ("Cache-Control", line)).collect();
            let mut headers = HeaderMap::new();
            keep_private(list.view(), &mut headers);
            assert_eq!(headers.contains_key("cache-control"), expected, "{lines:?}");
        }
    }
}
