//! Counters in Redis: one script call per hit, a deadline, and a breaker that keeps a dead or
//! hung Redis from costing every request its deadline.
//!
//! ```text
//!          TRIP failures in a row
//! closed ---------------------------> open: no request asks Redis, `on_outage` decides
//!    ^                                  |
//!    +---- one hit was counted ---- a task tries every PROBE_INTERVAL
//! ```
//!
//! No request is ever the probe, so none pays for it. All connections and calls live on the
//! runtime that opened the limiter: a worker that is busy, or gone, holds up nobody's answer.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::{FromRedisValue, Script};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};

use super::link::{Link, Server};
use super::memory::Memory;
use super::rule::{Key, Rule};
use super::window::{Verdict, Window};
use super::{Basis, DEADLINE, Decision, LimitError, Metrics};
use crate::config::{OnOutage, Rate};

/// Failures in a row that open the breaker. One may be a hiccup (a fork to save, a lost packet);
/// each one more lets another request wait for its deadline.
const TRIP: u32 = 3;

/// Pause between two attempts to reach Redis again.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How long an attempt may take: connecting over TLS to another site, and loading the script.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// Redis that is back is used again after at most an attempt that just began to fail, a pause,
/// and an attempt that succeeds.
pub const RECOVERY: Duration = Duration::from_secs(5);

/// Whose time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSource {
    /// The server's (`TIME`). Gateways need no common clock.
    Server,
    /// `ARGV[3]`, microseconds: for tests, which so run the same body as production.
    Argument,
}

/// The script that counts a hit: a line that sets `now`, then the body in `window.lua`.
pub fn script(time: TimeSource) -> Script {
    let now = match time {
        TimeSource::Server => {
            "local time = redis.call('TIME')\nlocal now = time[1] * 1000000 + time[2]\n"
        }
        TimeSource::Argument => "local now = tonumber(ARGV[3])\n",
    };
    Script::new(&format!("{now}{}", include_str!("window.lua")))
}

/// Counters in Redis. Dropping it ends its tasks.
pub struct Redis {
    shared: Arc<Shared>,
    deadline: Duration,
}

impl Redis {
    pub(super) fn open(
        server: Server,
        key_prefix: &str,
        local: Memory,
        metrics: Metrics,
    ) -> Result<Self, LimitError> {
        let home = Handle::try_current().map_err(|_| LimitError::NoRuntime)?;
        let link = server.connect().map_err(LimitError::Redis)?;
        let shared = Arc::new(Shared {
            server,
            link: ArcSwap::from_pointee(link),
            key_prefix: key_prefix.to_owned(),
            script: script(TimeSource::Server),
            home,
            local,
            failures: AtomicU32::new(0),
            open: AtomicBool::new(false),
            metrics,
        });
        shared.warm_up();
        Ok(Self { shared, deadline: DEADLINE })
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(super) fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// When a call that begins now must be decided.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// Counts a hit, or decides without Redis.
    pub(super) async fn hit(&self, rule: &Rule, key: &Key, deadline: Instant) -> Decision {
        let shared = &self.shared;
        if !shared.open.load(Ordering::Acquire) {
            match shared.count(shared.name(rule, key), *rule.window(), deadline).await {
                Ok(verdict) => {
                    shared.failures.store(0, Ordering::Relaxed);
                    return Decision::counted(rule, verdict, Basis::Counted);
                }
                Err(error) => shared.failed(&error),
            }
        }
        match rule.on_outage() {
            OnOutage::Local => Decision::counted(rule, shared.local.hit(rule, key), Basis::Local),
            OnOutage::Allow => Decision::uncounted(rule, Basis::Uncounted),
            OnOutage::Deny => Decision::uncounted(rule, Basis::Unavailable),
        }
    }

    pub(super) async fn ping(&self) -> Result<(), LimitError> {
        self.shared.probe().await
    }

    /// What a hit would be told by Redis, without counting it.
    pub(super) async fn peek(&self, rule: &Rule, key: &Key) -> Result<Verdict, LimitError> {
        let (now_us, times): (i64, Vec<i64>) = self.shared.ask(LOOK, rule, key).await?;
        Ok(rule.window().look(&mut VecDeque::from(times), now_us))
    }

    /// Has Redis forget what was counted. Returns whether there was anything.
    pub(super) async fn reset(&self, rule: &Rule, key: &Key) -> Result<bool, LimitError> {
        self.shared.ask(FORGET, rule, key).await
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("server", &self.shared.server).finish_non_exhaustive()
    }
}

struct Shared {
    server: Server,
    /// Replaced when a probe fails: a connection that hangs without being broken is never mended
    /// by itself.
    link: ArcSwap<Link>,
    key_prefix: String,
    script: Script,
    home: Handle,
    local: Memory,
    /// Failures since the last success.
    failures: AtomicU32,
    /// Whether the breaker is open; whoever opens it starts the one task that closes it.
    open: AtomicBool,
    metrics: Metrics,
}

/// Reads a counter: the time in microseconds, then the times of the counted hits. A script, so that
/// both come from the server that has the counter, also in a cluster.
const LOOK: &str = "local time = redis.call('TIME')
local times = redis.call('LRANGE', KEYS[1], 0, -1)
for index = 1, #times do times[index] = tonumber(times[index]) end
return { time[1] * 1000000 + time[2], times }";

/// Forgets a counter.
const FORGET: &str = "return redis.call('DEL', KEYS[1])";

impl Shared {
    fn name(&self, rule: &Rule, key: &Key) -> String {
        format!("{}{}:{key}", self.key_prefix, rule.name())
    }

    /// Runs a script on a counter, for people who ask: not for the request path.
    async fn ask<T: FromRedisValue + Send + 'static>(
        self: &Arc<Self>,
        script: &'static str,
        rule: &Rule,
        key: &Key,
    ) -> Result<T, LimitError> {
        let (shared, name) = (Arc::clone(self), self.name(rule, key));
        let call = self.home.spawn(async move {
            let mut link = Link::clone(&shared.link.load());
            Script::new(script).key(name).invoke_async(&mut link).await
        });
        match timeout_at(Instant::now() + PROBE_DEADLINE, call).await {
            Ok(Ok(reply)) => reply.map_err(LimitError::Redis),
            Ok(Err(_)) | Err(_) => Err(LimitError::Late),
        }
    }

    /// Runs the script once, on the home runtime.
    ///
    /// The call is not cancelled at the deadline: it may have been counted anyway, and an aborted
    /// call could leave a half-made connection that nobody drives. It ends by the time-outs of
    /// the link. `EVALSHA` first; the library loads the script when the server does not have it.
    async fn count(
        self: &Arc<Self>,
        key: String,
        window: Window,
        deadline: Instant,
    ) -> Result<Verdict, LimitError> {
        let shared = Arc::clone(self);
        let call = self.home.spawn(async move {
            let mut call = shared.script.key(key);
            call.arg(window.limit()).arg(window.length_us());
            let mut link = Link::clone(&shared.link.load());
            let reply: redis::RedisResult<(bool, u32, i64, i64)> =
                call.invoke_async(&mut link).await;
            match reply {
                // An idle connection that the server or something in between has closed is no
                // outage. The link is connecting anew; if the hit was counted after all, it is
                // counted twice, which errs on the safe side.
                Err(error) if error.is_connection_dropped() => call.invoke_async(&mut link).await,
                reply => reply,
            }
        });
        match timeout_at(deadline, call).await {
            Ok(Ok(Ok((allowed, remaining, reset_us, retry_after_us)))) => {
                Ok(Verdict { allowed, remaining, reset_us, retry_after_us })
            }
            Ok(Ok(Err(error))) => Err(LimitError::Redis(error)),
            Ok(Err(_)) | Err(_) => Err(LimitError::Late),
        }
    }

    /// Counts a hit on a counter of its own: what shows that hits can be counted is counting one.
    /// `PING` would also succeed on a read-only replica, a full server, or without permission.
    async fn probe(self: &Arc<Self>) -> Result<(), LimitError> {
        let window = Window::new(Rate::new(1, 1));
        // Without `:`, so that no rule's key is the same.
        let name = format!("{}probe", self.key_prefix);
        self.count(name, window, Instant::now() + PROBE_DEADLINE).await.map(drop)
    }

    fn failed(self: &Arc<Self>, error: &LimitError) {
        self.metrics.errors.inc();
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= TRIP {
            self.trip(error);
        }
    }

    /// Opens the breaker, unless it is open, and starts the task that closes it.
    fn trip(self: &Arc<Self>, error: &LimitError) {
        if self.open.swap(true, Ordering::AcqRel) {
            return;
        }
        self.metrics.degraded.set(1);
        tracing::warn!(
            error = crate::telemetry::chain(error),
            "redis does not count; limits do as on_outage says until it is back"
        );
        let weak = Arc::downgrade(self);
        self.home.spawn(async move {
            loop {
                sleep(PROBE_INTERVAL).await;
                let Some(shared) = weak.upgrade() else { return };
                match shared.probe().await {
                    Ok(()) => return shared.close(),
                    Err(error) => {
                        tracing::debug!(error = &error as &dyn std::error::Error, "redis is away");
                        shared.reconnect();
                    }
                }
            }
        });
    }

    fn close(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.metrics.degraded.set(0);
        self.open.store(false, Ordering::Release);
        tracing::info!("redis counts again");
    }

    /// Must run on the home runtime.
    fn reconnect(&self) {
        match self.server.connect() {
            Ok(link) => self.link.store(Arc::new(link)),
            Err(error) => {
                tracing::warn!(
                    error = crate::telemetry::chain(&error),
                    "a redis connection could not be opened"
                );
            }
        }
    }

    /// Connects and loads the script before the first request needs them; finds out at once, not
    /// at the expense of requests, when Redis is down from the start.
    fn warm_up(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        self.home.spawn(async move {
            let Some(shared) = weak.upgrade() else { return };
            if let Err(error) = shared.probe().await {
                shared.metrics.errors.inc();
                shared.trip(&error);
            }
        });
    }
}
