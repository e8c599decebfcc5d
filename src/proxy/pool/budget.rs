//! How often a worker may send something a second time. When an upstream is in trouble, repeated
//! attempts are what keeps it there: they are held to a share of the requests of the last ten
//! seconds. Knows no clock; whoever owns a budget tells it of every second.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// Seconds that count.
const WINDOW: usize = 10;

/// Repeated attempts that a window allows however few requests there are: a quiet upstream must
/// not be stuck with the first connection that its server has closed.
const FLOOR: u64 = 10;

/// The budget of one worker for one upstream.
pub(super) struct Budget {
    /// Share of the requests that may be repeated; 0 = none, not even the floor.
    share: f64,
    now: Cell<Second>,
    past: RefCell<VecDeque<Second>>,
}

/// What happened in one second.
#[derive(Clone, Copy, Default)]
struct Second {
    requests: u32,
    retries: u32,
}

impl Budget {
    /// A budget of so many repeated attempts for each request.
    pub(super) fn new(share: f64) -> Self {
        Self { share, now: Cell::default(), past: RefCell::default() }
    }

    /// Notes a request.
    pub(super) fn deposit(&self) {
        let now = self.now.get();
        self.now.set(Second { requests: now.requests.saturating_add(1), ..now });
    }

    /// Whether another attempt may be made; counts it when it may.
    pub(super) fn withdraw(&self) -> bool {
        if self.share <= 0.0 {
            return false;
        }
        let now = self.now.get();
        let (mut requests, mut retries) = (u64::from(now.requests), u64::from(now.retries));
        for second in &*self.past.borrow() {
            requests += u64::from(second.requests);
            retries += u64::from(second.retries);
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of ten seconds' requests; nothing depends on the last one"
        )]
        let allowed = (requests as f64 * self.share) as u64 + FLOOR;
        if retries >= allowed {
            return false;
        }
        self.now.set(Second { retries: now.retries.saturating_add(1), ..now });
        true
    }

    /// A second has passed.
    pub(super) fn next_second(&self) {
        let mut past = self.past.borrow_mut();
        past.push_back(self.now.take());
        if past.len() >= WINDOW {
            past.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn withdrawn(budget: &Budget) -> usize {
        (0..10_000).take_while(|_| budget.withdraw()).count()
    }

    #[test]
    fn attempts_are_a_share_of_the_requests_above_a_floor() {
        let budget = Budget::new(0.2);
        assert_eq!(withdrawn(&budget), 10);
        (0..100).for_each(|_| budget.deposit());
        assert_eq!(withdrawn(&budget), 20);
        assert_eq!(withdrawn(&budget), 0);
    }

    #[test]
    fn what_is_older_than_the_window_counts_no_more() {
        let budget = Budget::new(0.5);
        (0..100).for_each(|_| budget.deposit());
        (0..9).for_each(|_| budget.next_second());
        assert_eq!(withdrawn(&budget), 60);
        budget.next_second();
        // The requests are gone, the attempts of a second ago are not.
        assert_eq!(withdrawn(&budget), 0);
        (0..9).for_each(|_| budget.next_second());
        assert_eq!(withdrawn(&budget), 10);
    }

    #[test]
    fn nothing_is_repeated_where_nothing_may_be() {
        let budget = Budget::new(0.0);
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!(withdrawn(&budget), 0);
    }
}
