//! How long a lane is blocked after a failed login.

use std::time::Duration;

/// For how long a session makes its network a known one after it was used.
pub(in crate::store) const KNOWN_FOR: Duration = Duration::from_hours(30 * 24);

/// After a day without failures a lane begins anew.
pub(in crate::store) const KEEP_GUARD: Duration = Duration::from_hours(24);

/// Failures that cost nothing: with the fifth the limit `login` of an address is reached, too.
const FREE: usize = 4;

/// The pauses after the failures that follow, in seconds; the last goes on. A minute is the longest
/// that somebody who shares the lane can make its owner wait; it leaves 1,440 guesses a day, of
/// which the limit `login_account` lets 480 pass.
const PAUSES: [u64; 6] = [1, 3, 5, 10, 30, 60];

/// How long the next try has to wait after so many failures in a row.
pub(in crate::store) fn pause_after(failures: i64) -> Duration {
    let failures = usize::try_from(failures).unwrap_or(0);
    let Some(beyond) = failures.checked_sub(FREE + 1) else { return Duration::ZERO };
    Duration::from_secs(PAUSES[beyond.min(PAUSES.len() - 1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute() {
        let pauses: Vec<_> = (-1..13).map(|failures| pause_after(failures).as_secs()).collect();
        assert_eq!(pauses, [0, 0, 0, 0, 0, 0, 1, 3, 5, 10, 30, 60, 60, 60]);
        assert_eq!(pause_after(i64::MAX), Duration::from_mins(1));
    }
}
