//! The id by which a request is found again in logs of the client, of ours and of the upstream.

use std::cell::Cell;

use jiff::Timestamp;

use crate::message::{Fields, Known};

/// Longest id that is taken over.
const MAX_BYTES: usize = 128;

/// An id of a request: `[A-Za-z0-9._-]{1,128}`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    text: [u8; MAX_BYTES],
    bytes: u8,
}

impl RequestId {
    /// Its text, as bytes: all visible ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.bytes)]
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        // Only visible ASCII is ever put in.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn new(text: &[u8]) -> Option<Self> {
        let bytes = u8::try_from(text.len()).ok()?;
        let mut id = Self { text: [0; MAX_BYTES], bytes };
        id.text.get_mut(..text.len())?.copy_from_slice(text);
        Some(id)
    }

    /// The id that the client gave, when it is one and well formed.
    fn given(fields: Fields<'_>) -> Option<Self> {
        let text = fields.sole(Known::XRequestId).ok()??;
        let fine = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        (!text.is_empty() && text.iter().all(fine)).then(|| Self::new(text)).flatten()
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

/// Makes ids, one maker for each worker: seeded once, so that no request asks the system for
/// randomness. The ids are unique, not secret.
#[derive(Debug)]
pub struct RequestIds {
    /// State of `SplitMix64` (Steele, Lea, Flood 2014): visits all 2^64 values before one repeats.
    state: Cell<u64>,
    /// Tells apart makers that meet in one state.
    maker: [u8; 2],
}

impl RequestIds {
    /// A maker with a seed of its own.
    pub fn new() -> Self {
        let [a, b, state @ ..] = crate::clock::random_bytes::<10>();
        Self { state: Cell::new(u64::from_le_bytes(state)), maker: [a, b] }
    }

    /// The request's own id when it is well formed, else a new `UUIDv7` (RFC 9562 §5.7).
    pub fn id_of(&self, fields: Fields<'_>, now: Timestamp) -> RequestId {
        RequestId::given(fields).unwrap_or_else(|| self.make(now))
    }

    fn make(&self, now: Timestamp) -> RequestId {
        let mut random = [0; 10];
        random[..2].copy_from_slice(&self.maker);
        random[2..].copy_from_slice(&self.next().to_le_bytes());
        let ms = u64::try_from(now.as_millisecond()).unwrap_or(0);
        let uuid = uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid();
        let mut text = uuid::Uuid::encode_buffer();
        let text = uuid.hyphenated().encode_lower(&mut text);
        RequestId::new(text.as_bytes()).expect("a UUID has 36 characters")
    }

    fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::FieldList;

    fn id_of(lines: &[&[u8]]) -> RequestId {
        let list: FieldList = lines.iter().map(|line| ("X-Request-Id", line)).collect();
        RequestIds::new().id_of(list.view(), Timestamp::from_second(1_700_000_000).unwrap())
    }

    #[test]
    fn a_well_formed_id_is_kept_and_others_are_replaced() {
        let longest = "a".repeat(MAX_BYTES);
        for kept in ["a", "018f2d3e-0000-7000-8000-000000000000", "A.b_c-9", &longest] {
            assert_eq!(id_of(&[kept.as_bytes()]).as_str(), kept);
        }
        let too_long = "a".repeat(MAX_BYTES + 1);
        let replaced: [&[&[u8]]; 8] = [
            &[],
            &[b""],
            &[b"a b"],
            &[b"a/b"],
            &[b"a\"b"],
            &[b"\xff"],
            &[b"one", b"two"],
            &[too_long.as_bytes()],
        ];
        for lines in replaced {
            let id = id_of(lines);
            let uuid: uuid::Uuid = id.as_str().parse().unwrap();
            assert_eq!(uuid.get_version_num(), 7, "{lines:?}");
            assert_eq!(uuid.get_timestamp().unwrap().to_unix().0, 1_700_000_000);
        }
    }

    #[test]
    fn made_ids_do_not_repeat() {
        let (one, two) = (RequestIds::new(), RequestIds::new());
        let now = Timestamp::from_second(1).unwrap();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            assert!(seen.insert(one.make(now).as_str().to_owned()));
            assert!(seen.insert(two.make(now).as_str().to_owned()));
        }
    }
}
