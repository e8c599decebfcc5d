//! Pages: of events, which begin at a place; of accounts, which are counted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use uuid::Uuid;

use super::AuthRequest;
use crate::auth::error::AuthError;
use crate::model::StoredEvent;

/// Events on a page when the client names no number, and at most.
const DEFAULT_EVENTS: u32 = 50;
const MAX_EVENTS: u32 = 200;

/// Rows on a numbered page when the client names no number, and at most.
const DEFAULT_ROWS: u32 = 50;
const MAX_ROWS: u32 = 1000;

/// Which events are asked for: `limit` and `before`.
pub(super) struct EventPage {
    limit: u32,
    before: Option<Place>,
}

impl EventPage {
    pub(super) fn read(request: &AuthRequest) -> Result<Self, AuthError> {
        let limit = number(request, "limit", DEFAULT_EVENTS, MAX_EVENTS)?;
        let before = match request.filled_parameter("before")? {
            None => None,
            Some(text) => Some(Place::parse(&text).ok_or_else(|| {
                AuthError::ValidationFailed("`before` is the `next` of another page".to_owned())
            })?),
        };
        Ok(Self { limit, before })
    }

    /// How many to look for: one more than asked for tells whether there is another page.
    pub(super) fn wanted(&self) -> u32 {
        self.limit + 1
    }

    /// Before which place.
    pub(super) fn before(&self) -> Option<(Timestamp, Uuid)> {
        self.before.map(|Place { at, id }| (at, id))
    }

    /// The page of what was found, and where the next one begins.
    pub(super) fn cut(&self, mut found: Vec<StoredEvent>) -> (Vec<StoredEvent>, Option<String>) {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let there_is_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| there_is_more).map(|last| Place::of(last).to_text());
        (found, next)
    }
}

/// A numbered page: `page`, from 1, and `per_page`.
#[derive(Clone, Copy)]
pub(super) struct NumberedPage {
    pub(super) page: u32,
    pub(super) per_page: u32,
}

impl NumberedPage {
    pub(super) fn read(request: &AuthRequest) -> Result<Self, AuthError> {
        let page = number(request, "page", 1, u32::MAX)?;
        let per_page = number(request, "per_page", DEFAULT_ROWS, MAX_ROWS)?;
        Ok(Self { page, per_page })
    }

    /// How many rows come before it.
    pub(super) fn after(self) -> u64 {
        u64::from(self.page - 1) * u64::from(self.per_page)
    }
}

/// A parameter from 1 to `most`.
fn number(request: &AuthRequest, name: &str, default: u32, most: u32) -> Result<u32, AuthError> {
    let Some(text) = request.filled_parameter(name)? else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| {
        AuthError::ValidationFailed(format!("`{name}` is a number from 1 to {most}"))
    })
}

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
