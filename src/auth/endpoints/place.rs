//! Where a page of events begins.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use uuid::Uuid;

use crate::model::StoredEvent;

/// A place in the order of events: what `before` and `next` stand for.
///
/// ```text
/// base64url( microseconds since 1970, 8 bytes big-endian ‖ event id, 16 bytes )
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: Timestamp,
    pub(super) id: Uuid,
}

impl Place {
    pub(super) fn of(stored: &StoredEvent) -> Self {
        Self { at: stored.event.at, id: stored.event.id }
    }

    pub(super) fn to_text(self) -> String {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.at.as_microsecond().to_be_bytes());
        bytes[8..].copy_from_slice(self.id.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 24];
        // One longer text would not fit, a shorter one would not fill it.
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (at, id) = bytes.split_first_chunk::<8>()?;
        let at = Timestamp::from_microsecond(i64::from_be_bytes(*at)).ok()?;
        let id = Uuid::from_slice(id).ok()?;
        (length == 24).then_some(Self { at, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_events_begin_where_the_last_one_ended() {
        let place = Place { at: "2026-03-01T12:00:00.123456Z".parse().unwrap(), id: Uuid::max() };
        assert_eq!(Place::parse(&place.to_text()), Some(place));
        for bad in ["", "A", &"A".repeat(31), &"A".repeat(33), "*"] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }
}
