//! Time limits of connections at the price of a store each. Every worker has one [`Ticker`] that
//! moves ten times a second; a connection notes in its [`Watch`] at which tick it is late, and the
//! ticker wakes those that are. No timer is armed or moved on the request path (a timer for each
//! head cost 4 % of a proxied request).
//!
//! Invariant: a watch that is late is woken at every tick until it is gone, so a wake-up that
//! races with a change of the deadline is never lost.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Length of a tick; limits are kept to about this much.
const TICK: Duration = Duration::from_millis(100);

/// A moment in ticks since the worker started.
type Tick = u32;

/// No limit.
const NEVER: Tick = Tick::MAX;

/// The clock of one worker, and the connections that it watches.
#[derive(Default)]
pub(crate) struct Ticker {
    now: AtomicU32,
    draining: AtomicBool,
    watches: Mutex<Watches>,
}

#[derive(Default)]
struct Watches {
    slots: Vec<Option<Arc<Watch>>>,
    free: Vec<usize>,
}

impl Ticker {
    /// Moves the clock and wakes who is late, for as long as the worker lives.
    pub(crate) async fn run(&self, mut each_tick: impl FnMut()) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let start = tokio::time::Instant::now();
        loop {
            let at = interval.tick().await;
            let ticks = at.duration_since(start).as_millis() / TICK.as_millis();
            self.now.store(Tick::try_from(ticks).unwrap_or(NEVER - 1), Relaxed);
            self.wake_late();
            each_tick();
        }
    }

    /// Starts to watch a connection; dropping the guard ends it.
    pub(crate) fn watch(self: &Arc<Self>) -> WatchGuard {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = watches.free.pop().unwrap_or(watches.slots.len());
        let watch = Arc::new(Watch {
            ticker: Arc::clone(self),
            client: AtomicU32::new(NEVER),
            write: AtomicU32::new(NEVER),
            upstream: AtomicU32::new(NEVER),
            close: AtomicU32::new(NEVER),
            total: AtomicU32::new(NEVER),
            idle: AtomicBool::new(false),
            waker: Mutex::default(),
        });
        if slot == watches.slots.len() {
            watches.slots.push(None);
        }
        watches.slots[slot] = Some(Arc::clone(&watch));
        WatchGuard { watch, slot }
    }

    /// Tells every connection to finish.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.slots.iter().flatten().for_each(|watch| watch.wake());
    }

    fn wake_late(&self) {
        let now = self.now.load(Relaxed);
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.slots.iter().flatten().filter(|watch| watch.first_deadline() <= now).for_each(
            |watch| {
                watch.wake();
            },
        );
    }
}

/// The time limits of one connection. A connection does one thing after another (head, body,
/// upstream, idle), so one deadline for each party is enough.
pub(crate) struct Watch {
    ticker: Arc<Ticker>,
    /// The client owes bytes: a head, a piece of a body, the next request.
    client: AtomicU32,
    /// The client owes room for bytes we want to write.
    write: AtomicU32,
    /// The upstream owes a connection, a head, or a piece of a body.
    upstream: AtomicU32,
    /// The connection ends, unless another request comes.
    close: AtomicU32,
    /// The whole exchange with the upstream.
    total: AtomicU32,
    /// Between two requests: no head has begun and none is being answered.
    idle: AtomicBool,
    /// The task to wake when somebody is late. Kept when it is woken: it is the same one for the
    /// connection's whole life.
    waker: Mutex<Option<Waker>>,
}

impl Watch {
    /// The client must act within `limit`.
    pub(crate) fn expect_client(&self, limit: Duration) {
        self.client.store(self.after(limit), Relaxed);
    }

    /// As [`Watch::expect_client`], but a limit that already runs goes on.
    pub(crate) fn keep_expecting_client(&self, limit: Duration) {
        if self.client.load(Relaxed) == NEVER {
            self.expect_client(limit);
        }
    }

    /// The client owes nothing now.
    pub(crate) fn client_acted(&self) {
        self.client.store(NEVER, Relaxed);
        self.idle.store(false, Relaxed);
    }

    /// A head has begun, and must be whole within `limit`.
    pub(crate) fn expect_head(&self, limit: Duration) {
        self.idle.store(false, Relaxed);
        self.expect_client(limit);
    }

    /// A next head may begin, within `limit`.
    pub(crate) fn expect_next(&self, limit: Duration) {
        self.expect_client(limit);
        self.idle.store(true, Relaxed);
    }

    /// Whether a next head has not begun yet.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle.load(Relaxed)
    }

    /// The client must take bytes within `limit`; a limit that already runs goes on.
    pub(crate) fn keep_expecting_room(&self, limit: Duration) {
        if self.write.load(Relaxed) == NEVER {
            self.write.store(self.after(limit), Relaxed);
        }
    }

    /// The client took bytes.
    pub(crate) fn room_found(&self) {
        self.write.store(NEVER, Relaxed);
    }

    /// The upstream must act within `limit`.
    pub(crate) fn expect_upstream(&self, limit: Duration) {
        self.upstream.store(self.after(limit), Relaxed);
    }

    /// As [`Watch::expect_upstream`], but a limit that already runs goes on.
    pub(crate) fn keep_expecting_upstream(&self, limit: Duration) {
        if self.upstream.load(Relaxed) == NEVER {
            self.expect_upstream(limit);
        }
    }

    /// The upstream owes nothing now.
    pub(crate) fn upstream_acted(&self) {
        self.upstream.store(NEVER, Relaxed);
    }

    /// The exchange that begins must be over within `limit`; `None` = no limit.
    pub(crate) fn limit_total(&self, limit: Option<Duration>) {
        self.total.store(limit.map_or(NEVER, |limit| self.after(limit)), Relaxed);
    }

    /// The connection ends within `limit`, unless another request comes.
    pub(crate) fn close_within(&self, limit: Duration) {
        self.close.store(self.after(limit), Relaxed);
    }

    /// Another request has come: the connection goes on.
    pub(crate) fn stay_open(&self) {
        self.close.store(NEVER, Relaxed);
    }

    /// Whether the client kept us waiting for too long, or the connection has to end.
    pub(crate) fn client_is_late(&self) -> bool {
        let now = self.ticker.now.load(Relaxed);
        self.client_deadline() <= now
    }

    /// Whether the upstream kept us waiting for too long.
    pub(crate) fn upstream_is_late(&self) -> bool {
        self.upstream.load(Relaxed) <= self.ticker.now.load(Relaxed)
    }

    /// A watch of its own for something that is done at the same time.
    pub(crate) fn sibling(&self) -> WatchGuard {
        self.ticker.watch()
    }

    /// Whether the exchange as a whole took too long.
    pub(crate) fn is_over_time(&self) -> bool {
        self.total.load(Relaxed) <= self.ticker.now.load(Relaxed)
    }

    /// Whether the worker is going down.
    pub(crate) fn is_draining(&self) -> bool {
        self.ticker.draining.load(Relaxed)
    }

    /// Time since an earlier [`Watch::moment`], to a tick.
    pub(crate) fn since(&self, moment: Moment) -> Duration {
        TICK * self.ticker.now.load(Relaxed).saturating_sub(moment.0)
    }

    /// Now, to a tick.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.ticker.now.load(Relaxed))
    }

    /// The task to wake when somebody is late: the one that serves the connection.
    pub(crate) fn register(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    fn after(&self, limit: Duration) -> Tick {
        // One more than the whole ticks: a limit is never cut short, and 0 is still a tick away.
        let ticks = Tick::try_from(limit.as_millis() / TICK.as_millis()).unwrap_or(NEVER / 2);
        self.ticker.now.load(Relaxed).saturating_add(ticks.saturating_add(1)).min(NEVER - 1)
    }

    fn first_deadline(&self) -> Tick {
        self.client_deadline().min(self.upstream.load(Relaxed)).min(self.total.load(Relaxed))
    }

    fn client_deadline(&self) -> Tick {
        self.client.load(Relaxed).min(self.write.load(Relaxed)).min(self.close.load(Relaxed))
    }
}

/// Does `work` as long as the client is not late; `None` when it is.
///
/// The work is pinned by the caller: a future that is passed by value is moved, and takes its room
/// twice.
pub(crate) async fn unless_late<F: Future>(
    watch: &Watch,
    mut work: Pin<&mut F>,
) -> Option<F::Output> {
    let mut registered: Option<Waker> = None;
    std::future::poll_fn(|cx| {
        if !registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            registered = Some(cx.waker().clone());
            watch.register(cx.waker());
        }
        if watch.client_is_late() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

/// A moment of a worker's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(Tick);

/// Keeps a connection watched.
pub(crate) struct WatchGuard {
    /// The limits of the connection.
    pub(crate) watch: Arc<Watch>,
    slot: usize,
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        let ticker = &self.watch.ticker;
        let mut watches = ticker.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.slots[self.slot] = None;
        watches.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_ends_not_before_its_time_and_can_be_lifted() {
        let ticker = Arc::new(Ticker::default());
        let guard = ticker.watch();
        guard.watch.expect_client(Duration::from_millis(250));
        ticker.now.store(2, Relaxed);
        assert!(!guard.watch.client_is_late());
        ticker.now.store(3, Relaxed);
        assert!(guard.watch.client_is_late());
        guard.watch.client_acted();
        assert!(!guard.watch.client_is_late());
    }

    #[test]
    fn a_running_limit_is_not_prolonged_by_silence() {
        let ticker = Arc::new(Ticker::default());
        let guard = ticker.watch();
        guard.watch.keep_expecting_upstream(Duration::from_secs(1));
        ticker.now.store(9, Relaxed);
        guard.watch.keep_expecting_upstream(Duration::from_secs(1));
        ticker.now.store(11, Relaxed);
        assert!(guard.watch.upstream_is_late());
    }

    #[test]
    fn slots_are_used_again() {
        let ticker = Arc::new(Ticker::default());
        for _ in 0..100 {
            drop(ticker.watch());
        }
        assert_eq!(ticker.watches.lock().unwrap().slots.len(), 1);
    }
}
