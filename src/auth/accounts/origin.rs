//! Where a request came from, and where its tokens are to go.

use std::net::IpAddr;

use jiff::Timestamp;

use crate::model::{Event, EventKind, LetterOrigin, Outcome, clean_text, uuid_v7};

/// Longest texts of a client that an event keeps, in bytes.
const MAX_USER_AGENT: usize = 256;
const MAX_REQUEST_ID: usize = 128;

/// Who is to keep the tokens of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// The client itself: it reads them in the answer.
    Client,
    /// Its browser, in cookies that no script of the page can read.
    Browser,
}

/// Where a request came from, fit to be stored.
#[derive(Clone, Debug)]
pub struct Origin {
    pub(super) keeper: Keeper,
    pub(super) address: IpAddr,
    pub(super) user_agent: Option<String>,
    request_id: String,
}

impl Origin {
    /// Cleans what the client says of itself.
    pub fn new(address: IpAddr, user_agent: Option<&[u8]>, request_id: &str) -> Self {
        Self {
            keeper: Keeper::Client,
            address,
            user_agent: user_agent.map(|text| clean_text(text, MAX_USER_AGENT)),
            request_id: clean_text(request_id.as_bytes(), MAX_REQUEST_ID),
        }
    }

    /// The same, of whom another keeps the tokens.
    #[must_use]
    pub fn with_keeper(self, keeper: Keeper) -> Self {
        Self { keeper, ..self }
    }

    /// Who asks for a letter.
    pub(super) fn asked_by(&self) -> LetterOrigin {
        LetterOrigin {
            address: Some(self.address),
            user_agent: self.user_agent.clone(),
            request_id: Some(self.request_id.clone()),
        }
    }

    pub(super) fn event(&self, kind: EventKind, outcome: Outcome, at: Timestamp) -> Event {
        Event {
            id: uuid_v7(at),
            at,
            kind,
            outcome,
            reason: None,
            actor: None,
            user_id: None,
            email: None,
            session_id: None,
            address: Some(self.address),
            user_agent: self.user_agent.clone(),
            request_id: Some(self.request_id.clone()),
        }
    }
}
