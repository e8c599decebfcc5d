//! Who is calling: the shapes that the proxy decides on.

use std::sync::Arc;

use http::HeaderValue;

/// Whom a verified token speaks of.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The token's `sub`.
    pub subject: Arc<str>,
    /// Sorted, without repeats.
    pub roles: Vec<String>,
    /// 0 = our own tokens, i + 1 = entry i of `[[issuers]]`.
    pub issuer: usize,
    /// The subject as a header.
    pub subject_value: HeaderValue,
    /// The confirmed address as a header.
    pub email_value: Option<HeaderValue>,
    /// The roles as a header.
    pub roles_value: Option<HeaderValue>,
    /// The session as a header.
    pub session_value: Option<HeaderValue>,
}

/// What a request says of its caller.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Nothing.
    Absent,
    /// An `Authorization` of another scheme than `Bearer`.
    OtherScheme,
    /// A good token.
    Verified(Arc<Identity>),
    /// A token that is not accepted.
    Rejected(Rejection),
    /// Two tokens, or a header that is not a bearer token.
    Malformed,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Too late.
    Expired,
    /// The session ended.
    SessionEnded,
}

impl Rejection {
    /// The stable word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::SessionEnded => "session_ended",
        }
    }
}
