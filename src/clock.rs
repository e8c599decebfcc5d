//! Time and randomness: the only place that asks the system for either. Everything else takes
//! them as arguments, so that a test can set the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// Wall-clock time, the system's or a test's.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The system's time.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `start` until it is moved.
    pub fn manual(start: Timestamp) -> Self {
        Self(Some(Arc::new(AtomicI64::new(start.as_millisecond()))))
    }

    /// The current time. Manual clocks have millisecond resolution.
    #[expect(clippy::disallowed_methods, reason = "this is the place that asks the system")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            None => Timestamp::now(),
            Some(ms) => Timestamp::from_millisecond(ms.load(Ordering::SeqCst))
                .expect("a manual clock is set from a timestamp and moved by short steps"),
        }
    }

    /// Whether it is ahead of the clock of another machine by more than `by`. A manual clock never is:
    /// it stands for the time of everything around it.
    pub fn is_ahead_of(&self, theirs: Timestamp, by: std::time::Duration) -> bool {
        self.0.is_none() && theirs.checked_add(by).is_ok_and(|latest| self.now() > latest)
    }

    /// Moves a manual clock forward; the system's clock stays as it is.
    pub fn advance(&self, by: std::time::Duration) {
        if let Some(ms) = &self.0 {
            let step =
                i64::try_from(by.as_millis()).expect("a test moves the clock by short steps");
            ms.fetch_add(step, Ordering::SeqCst);
        }
    }
}

/// `N` bytes from the operating system's generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
