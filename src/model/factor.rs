//! Second factors: what a user shows beside the password, and how much a session has shown.

use std::fmt;

use jiff::Timestamp;
use uuid::Uuid;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::words;

words! {
    /// How well a session's user was authenticated: the words of Supabase Auth for the claim `aal`
    /// (after the levels of NIST SP 800-63B).
    Aal {
        /// By one proof.
        One = "aal1",
        /// By a second factor, too.
        Two = "aal2",
    }
}

words! {
    /// Kinds of second factors.
    FactorKind {
        /// Codes of six digits that change every 30 seconds (RFC 6238).
        Totp = "totp",
    }
}

/// A second factor, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Random.
    pub id: Uuid,
    /// What it is.
    pub kind: FactorKind,
    /// Chosen by the user; empty = none.
    pub friendly_name: String,
    /// When it was proved for the first time; `None` = not yet, and then it protects nothing.
    pub verified_at: Option<Timestamp>,
    /// When a challenge was made last.
    pub last_challenged_at: Option<Timestamp>,
    /// When it was enrolled.
    pub created_at: Timestamp,
    /// When it was enrolled, proved, or challenged last.
    pub updated_at: Timestamp,
}

impl Factor {
    /// Whether it was proved: only then it counts.
    pub fn is_verified(&self) -> bool {
        self.verified_at.is_some()
    }

    /// The word of Supabase Auth for whether it was proved.
    pub fn status(&self) -> &'static str {
        if self.is_verified() { "verified" } else { "unverified" }
    }
}

/// What a factor's device and this gateway share: 160 bits (RFC 4226 §4, R6). Prints nothing.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct FactorSecret(pub [u8; 20]);

impl fmt::Debug for FactorSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FactorSecret(..)")
    }
}
