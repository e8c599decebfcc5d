//! What a session must have proved beside having a good token (RFC 9470).

use std::fmt;
use std::time::Duration;

use crate::identity::Identity;
use crate::model::Aal;

/// What a route asks of a session beside a good token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepUp {
    /// A second factor.
    pub aal2: bool,
    /// The last proof is no older; whole seconds.
    pub max_age: Option<Duration>,
}

impl StepUp {
    /// Whether nothing is asked for.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// Whether the session of `identity` has it at `now`, in Unix seconds.
    pub fn is_met_by(self, identity: &Identity, now: i64) -> bool {
        let has_level = !self.aal2 || identity.assurance.aal == Aal::Two;
        has_level
            && self.max_age.is_none_or(|max_age| {
                let seconds = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
                identity.assurance.is_fresh(seconds, now)
            })
    }
}

impl fmt::Display for StepUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = |f: &mut fmt::Formatter<'_>, age: Duration| {
            write!(f, " that is at most {} s old", age.as_secs())
        };
        match (self.aal2, self.max_age) {
            (true, None) => f.write_str("show a second factor"),
            (true, Some(age)) => {
                f.write_str("show a second factor, with a proof")?;
                within(f, age)
            }
            (false, Some(age)) => {
                f.write_str("show a proof")?;
                within(f, age)
            }
            (false, None) => f.write_str("show nothing"),
        }
    }
}
