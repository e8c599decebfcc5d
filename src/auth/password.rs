//! Password hashing on a few threads of its own, at the lowest priority, behind a short queue.
//! Hashing is the most expensive thing a stranger can ask for, so this is where its price is
//! bounded: so many at once, so many waiting, so long a wait, then [`HashError::Busy`].
//!
//! The slot belongs to the job: once begun, a hash runs to its end whether or not its caller is
//! still there, so that hanging up early buys an attacker nothing.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use argon2::Params;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::oneshot;

use super::equal_time::{Plan, Timings};
use super::formats::{
    Class, MAX_ITERATIONS, MAX_KIB_PASSES, MAX_MEMORY_KIB, MAX_PARALLELISM, Measured, Workbench,
    prefix,
};
use crate::config::{self, Problem};
use crate::model::PasswordHash;

pub use super::formats::{Effort, Verdict};

/// How long a job may wait for a thread. A person waits this long for a login; beyond it, an
/// answer that says "later" is better than one that may never come.
const QUEUE_WAIT: Duration = Duration::from_secs(2);

/// Hashing threads and the queue before them. Dropping it ends the threads.
#[derive(Debug)]
pub struct Hasher {
    queue: Arc<Queue>,
    queue_wait: Duration,
    stats: Stats,
    threads: Vec<JoinHandle<()>>,
    /// What failed checks are made up to.
    plan: Arc<ArcSwap<Plan>>,
    timings: Mutex<Timings>,
    own: Class,
    prefix: String,
}

impl Hasher {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let stats = Stats::default();
        let queue = Arc::new(Queue::new(settings.queued, stats.queued.clone()));
        let own = Class::of_new(&settings.params);
        let mut hasher = Self {
            queue,
            queue_wait: QUEUE_WAIT,
            stats,
            threads: Vec::new(),
            plan: Arc::new(ArcSwap::from_pointee(Plan::of_own(own))),
            timings: Mutex::default(),
            own,
            prefix: prefix(&settings.params),
        };
        for n in 0..settings.threads.get() {
            let (queue, stats) = (Arc::clone(&hasher.queue), hasher.stats.clone());
            let (params, pepper) = (settings.params.clone(), settings.pepper.clone());
            let plan = Arc::clone(&hasher.plan);
            let thread = thread::Builder::new().name(format!("hash-{n}")).spawn(move || {
                let bench = Workbench::new(params, pepper, Arc::clone(&stats.effort));
                work(&queue, &stats, &plan, bench);
            })?;
            hasher.threads.push(thread);
        }
        Ok(hasher)
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// See [`HashError`].
    pub async fn hash(&self, password: SecretString) -> Result<PasswordHash, HashError> {
        let (reply, answer) = oneshot::channel();
        self.run(Work::Hash { password, reply }, answer).await
    }

    /// Checks a password against what is stored; with `None`, as for an unknown user, a hash is
    /// computed all the same.
    ///
    /// # Errors
    /// See [`HashError`].
    pub async fn verify(
        &self,
        stored: Option<PasswordHash>,
        password: SecretString,
    ) -> Result<Verdict, HashError> {
        let (reply, answer) = oneshot::channel();
        self.run(Work::Verify { stored, password, reply }, answer).await
    }

    /// As [`verify`](Self::verify), for an account that may not log in: the right password takes as
    /// long as a wrong one.
    ///
    /// # Errors
    /// See [`HashError`].
    pub async fn verify_disabled(
        &self,
        stored: Option<PasswordHash>,
        password: SecretString,
    ) -> Result<Verdict, HashError> {
        let (reply, answer) = oneshot::channel();
        self.run(Work::VerifyDisabled { stored, password, reply }, answer).await
    }

    /// Makes failed checks take as long as those of the slowest of these classes, which are stored
    /// beside hashes like new ones; times what was not timed before. Returns the slowest when that
    /// is another one than before.
    ///
    /// # Errors
    /// See [`HashError`]; what failed checks take is as before then.
    pub async fn reckon_with(&self, others: &BTreeSet<Class>) -> Result<Option<Class>, HashError> {
        let mut timings = lock(&self.timings).clone();
        let plan = if others.is_empty() {
            Plan::of_own(self.own)
        } else {
            for sample in timings.lacking(others.iter().copied().chain([self.own])) {
                let (reply, answer) = oneshot::channel();
                let measured = self.run(Work::Measure { class: sample, reply }, answer).await?;
                timings.insert(sample, measured);
                lock(&self.timings).insert(sample, measured);
            }
            Plan::of(self.own, others, &timings)
        };
        let slowest = plan.slowest();
        let before = self.plan.swap(Arc::new(plan)).slowest();
        Ok(if slowest == before { None } else { Some(slowest) })
    }

    /// How many times as long as a check of a new hash a failed one takes.
    pub fn slowdown(&self) -> u64 {
        self.plan.load().slowdown(self.own)
    }

    /// Does something else that takes its time, such as reading a file, in turn with the hashes.
    ///
    /// # Errors
    /// See [`HashError`].
    pub async fn aside<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HashError> {
        let (reply, answer) = oneshot::channel();
        // The caller may be gone; the work was done all the same.
        let job = move || drop(reply.send(Ok(job())));
        self.run(Work::Aside(Box::new(job)), answer).await
    }

    /// How the texts of new hashes begin, and no others.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The class of hash that failed checks take as long as.
    pub fn slowest(&self) -> Class {
        self.plan.load().slowest()
    }

    /// What to show of the queue and the hashes.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    async fn run<T>(
        &self,
        work: Work,
        mut answer: oneshot::Receiver<Result<T, HashError>>,
    ) -> Result<T, HashError> {
        let ticket = Ticket::take(&self.queue, work)?;
        let received = match tokio::time::timeout(self.queue_wait, &mut answer).await {
            Ok(received) => received,
            Err(_) if ticket.withdraw() => return Err(HashError::BUSY),
            // It has begun, so it will end.
            Err(_) => answer.await,
        };
        received.unwrap_or(Err(HashError::Failed))
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

/// What hashing costs and how much of it may happen at once.
#[derive(Clone, Debug)]
pub struct Settings {
    params: Params,
    pepper: Option<SecretString>,
    threads: NonZero<usize>,
    queued: usize,
}

impl Settings {
    /// Checks `[passwords]`.
    ///
    /// # Errors
    /// Every cost that Argon2 does not allow, or that would make hashes no login could check.
    pub fn compile(config: &config::Passwords) -> Result<Self, Vec<Problem>> {
        let key = |name: &str| format!("passwords.argon2.{name}");
        let mut problems = Vec::new();
        let config::Argon2 { memory, iterations, parallelism } = config.argon2;
        let memory_kib = u32::try_from(memory.0 / 1024).unwrap_or(u32::MAX);
        if !(8..=MAX_MEMORY_KIB).contains(&memory_kib) {
            problems.push(Problem::new(key("memory"), "must be from 8KiB to 256MiB"));
        }
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            problems.push(Problem::new(key("iterations"), "must be from 1 to 16"));
        }
        if !(1..=MAX_PARALLELISM).contains(&parallelism) {
            problems.push(Problem::new(key("parallelism"), "must be from 1 to 16"));
        }
        if problems.is_empty() && memory_kib < 8 * parallelism {
            problems.push(Problem::new(key("memory"), "must be at least 8KiB for each lane"));
        }
        if problems.is_empty() && u64::from(memory_kib) * u64::from(iterations) > MAX_KIB_PASSES {
            let message = "must be fewer: times the memory it must be at most 1GiB";
            problems.push(Problem::new(key("iterations"), message));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let params = Params::new(memory_kib, iterations, parallelism, None)
            .map_err(|error| vec![Problem::new("passwords.argon2", error.to_string())])?;
        let threads = NonZero::new(config.max_concurrent_hashes)
            .or_else(|| thread::available_parallelism().ok())
            .unwrap_or(NonZero::<usize>::MIN);
        let pepper = config.devise_pepper.clone();
        Ok(Self { params, pepper, threads, queued: config.max_queued_hashes })
    }

    /// How the texts of new hashes begin, and no others.
    pub fn prefix(&self) -> String {
        prefix(&self.params)
    }

    /// How long failed checks take on this machine while hashes of these classes are stored. Takes
    /// a few times as long to find out, on this thread.
    pub fn time_of_slowest(&self, others: &BTreeSet<Class>) -> Duration {
        let own = Class::of_new(&self.params);
        let mut bench = Workbench::new(self.params.clone(), None, Arc::default());
        let mut timings = Timings::default();
        for sample in timings.lacking(others.iter().copied().chain([own])) {
            timings.insert(sample, bench.measure(sample));
        }
        bench.measure(Plan::of(own, others, &timings).slowest()).check
    }
}

/// What to show of the queue and the hashes.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Seconds that each job took, without its wait.
    pub seconds: Histogram,
    /// Jobs that wait for a thread.
    pub queued: Gauge,
    /// What checks have cost.
    pub effort: Arc<Effort>,
}

impl Default for Stats {
    fn default() -> Self {
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
        Self { seconds: Histogram::new(buckets), queued: Gauge::default(), effort: Arc::default() }
    }
}

/// Why there is no hash and no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Too many are waiting, or this one waited too long.
    #[error("all password hashing threads are busy")]
    Busy {
        /// When it may be worth trying again.
        retry_after: Duration,
    },
    /// The computation itself failed.
    #[error("hashing a password failed")]
    Failed,
}

impl HashError {
    const BUSY: Self = Self::Busy { retry_after: QUEUE_WAIT };
}

/// One thing to do, and where to tell the result.
enum Work {
    Hash {
        password: SecretString,
        reply: oneshot::Sender<Result<PasswordHash, HashError>>,
    },
    Verify {
        stored: Option<PasswordHash>,
        password: SecretString,
        reply: oneshot::Sender<Result<Verdict, HashError>>,
    },
    VerifyDisabled {
        stored: Option<PasswordHash>,
        password: SecretString,
        reply: oneshot::Sender<Result<Verdict, HashError>>,
    },
    Measure {
        class: Class,
        reply: oneshot::Sender<Result<Measured, HashError>>,
    },
    Aside(Box<dyn FnOnce() + Send>),
}

impl Work {
    /// Does it, and counts it before it is answered: whoever has the answer finds it counted.
    fn run(self, bench: &mut Workbench, stats: &Stats, plan: &Plan) {
        let begun = Instant::now();
        let count = || stats.seconds.observe(begun.elapsed().as_secs_f64());
        let failed = |error: argon2::Error| {
            tracing::error!(%error, "hashing a password failed");
            HashError::Failed
        };
        // The caller may be gone; the work was done all the same.
        match self {
            Self::Hash { password, reply } => {
                let hash = bench.hash(password.expose_secret().as_bytes());
                count();
                let _ = reply.send(hash.map_err(failed));
            }
            Self::Verify { stored, password, reply } => {
                let bytes = password.expose_secret().as_bytes();
                let verdict = bench.verify(stored.as_ref(), bytes, plan);
                count();
                let _ = reply.send(verdict.map_err(failed));
            }
            Self::VerifyDisabled { stored, password, reply } => {
                let bytes = password.expose_secret().as_bytes();
                let verdict = bench.verify_disabled(stored.as_ref(), bytes, plan);
                count();
                let _ = reply.send(Ok(verdict));
            }
            // No hashes of anybody's: not counted.
            Self::Aside(job) => job(),
            Self::Measure { class, reply } => {
                let _ = reply.send(Ok(bench.measure(class)));
            }
        }
    }
}

/// One hashing thread, until the queue is closed.
fn work(queue: &Queue, stats: &Stats, plan: &ArcSwap<Plan>, mut bench: Workbench) {
    // On Linux a nice value belongs to the thread, and pid 0 names the calling one
    // (setpriority(2), "C library/kernel differences"). 19: proxied requests come first.
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::warn!(%error, "a hashing thread keeps its normal priority");
    }
    while let Some(work) = queue.next() {
        // A panic costs one request its answer, not every later login its thread.
        let _ = catch_unwind(AssertUnwindSafe(|| work.run(&mut bench, stats, &plan.load())));
    }
}

/// Nothing can panic while one of the two is held; were it so, what it guards would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Jobs that wait, oldest first.
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    limit: usize,
    length: Gauge,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<(u64, Work)>,
    /// Threads that wait for a job. As many jobs are about to be fetched, and count as no queue.
    idle: usize,
    last_number: u64,
    is_closed: bool,
}

impl Queue {
    fn new(limit: usize, length: Gauge) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), limit, length }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        lock(&self.state)
    }

    /// Puts a job at the end, unless too many wait already. Returns its number.
    fn push(&self, work: Work) -> Result<u64, HashError> {
        let mut state = self.lock();
        if state.waiting.len() >= self.limit + state.idle {
            return Err(HashError::BUSY);
        }
        state.last_number += 1;
        let number = state.last_number;
        state.waiting.push_back((number, work));
        self.show(&state);
        drop(state);
        self.changed.notify_one();
        Ok(number)
    }

    /// Takes a job out before it has begun. False when it has.
    fn remove(&self, number: u64) -> bool {
        let mut state = self.lock();
        let place = state.waiting.iter().position(|(waiting, _)| *waiting == number);
        let removed = place.and_then(|place| state.waiting.remove(place));
        self.show(&state);
        removed.is_some()
    }

    /// Waits for a job; `None` once the queue is closed.
    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        state.idle += 1;
        let job = loop {
            if state.is_closed {
                break None;
            }
            if let Some((_, work)) = state.waiting.pop_front() {
                break Some(work);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.idle -= 1;
        self.show(&state);
        job
    }

    fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    fn show(&self, state: &QueueState) {
        self.length.set(i64::try_from(state.waiting.len()).unwrap_or(i64::MAX));
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// A caller's place in the queue. Whoever goes away before the job has begun leaves the queue.
struct Ticket<'q> {
    queue: &'q Queue,
    number: u64,
}

impl<'q> Ticket<'q> {
    fn take(queue: &'q Queue, work: Work) -> Result<Self, HashError> {
        queue.push(work).map(|number| Self { queue, number })
    }

    fn withdraw(&self) -> bool {
        self.queue.remove(self.number)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;

    use super::*;
    use crate::config::ByteSize;

    fn settings(memory: ByteSize, iterations: u32, threads: usize, queued: usize) -> Settings {
        Settings::compile(&config::Passwords {
            argon2: config::Argon2 { memory, iterations, parallelism: 1 },
            max_concurrent_hashes: threads,
            max_queued_hashes: queued,
            ..config::Passwords::default()
        })
        .unwrap()
    }

    #[tokio::test]
    async fn a_hash_verifies_and_is_counted() {
        let hasher = Hasher::start(&settings(ByteSize::kib(8), 1, 2, 4)).unwrap();
        let hash = hasher.hash("right".into()).await.unwrap();
        let right = hasher.verify(Some(hash.clone()), "right".into()).await;
        assert_eq!(right, Ok(Verdict::Right { rehash: None }));
        assert_eq!(hasher.verify(Some(hash), "wrong".into()).await, Ok(Verdict::Wrong));
        assert_eq!(hasher.verify(None, "wrong".into()).await, Ok(Verdict::Wrong));
        assert_eq!(hasher.stats().queued.get(), 0);
    }

    /// One thread, held by a hash that takes long enough for the rest of the test to be over.
    fn one_slow_thread(queued: usize) -> Hasher {
        Hasher::start(&settings(ByteSize::mib(64), 16, 1, queued)).unwrap()
    }

    async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    #[tokio::test]
    async fn a_full_queue_answers_busy_at_once_and_leavers_make_room() {
        let hasher = one_slow_thread(1);
        // Until the one thread has fetched the first job, there is room for it and one more.
        let mut first = Box::pin(hasher.hash("one".into()));
        assert!(poll_once(first.as_mut()).await.is_none());
        while hasher.stats().queued.get() != 0 || hasher.queue.lock().idle != 0 {
            thread::yield_now();
        }
        let mut second = Box::pin(hasher.hash("two".into()));
        assert!(poll_once(second.as_mut()).await.is_none());
        assert_eq!(hasher.stats().queued.get(), 1);
        assert_eq!(hasher.hash("three".into()).await.err(), Some(HashError::BUSY));
        drop(second);
        assert_eq!(hasher.stats().queued.get(), 0);
        // The caller of a job that has begun goes away: the thread stays taken until it is done.
        drop(first);
        assert_eq!(hasher.queue.lock().idle, 0);
        let mut fourth = Box::pin(hasher.hash("four".into()));
        assert!(poll_once(fourth.as_mut()).await.is_none());
        assert_eq!(hasher.stats().queued.get(), 1);
    }

    #[tokio::test]
    async fn a_job_that_waits_too_long_is_withdrawn_and_one_that_has_begun_is_not() {
        let mut hasher = one_slow_thread(8);
        hasher.queue_wait = Duration::from_millis(1);
        let (first, second) = tokio::join!(hasher.hash("one".into()), async {
            while hasher.queue.lock().idle != 0 || hasher.stats().queued.get() != 0 {
                thread::yield_now();
            }
            hasher.hash("two".into()).await
        });
        assert!(first.is_ok());
        assert_eq!(second.err(), Some(HashError::BUSY));
        assert_eq!(hasher.stats().queued.get(), 0);
    }

    #[test]
    fn costs_that_no_login_could_check_are_refused() {
        let compile = |memory, iterations, parallelism| {
            let argon2 = config::Argon2 { memory, iterations, parallelism };
            Settings::compile(&config::Passwords { argon2, ..config::Passwords::default() })
                .map_err(|problems| problems.into_iter().map(|p| p.key).collect::<Vec<_>>())
        };
        assert!(compile(ByteSize::mib(19), 2, 1).is_ok());
        assert_eq!(compile(ByteSize::kib(7), 2, 1).err().unwrap(), ["passwords.argon2.memory"]);
        assert_eq!(compile(ByteSize::mib(257), 2, 1).err().unwrap(), ["passwords.argon2.memory"]);
        assert_eq!(compile(ByteSize::kib(8), 2, 2).err().unwrap(), ["passwords.argon2.memory"]);
        assert!(compile(ByteSize::mib(256), 4, 1).is_ok());
        assert_eq!(
            compile(ByteSize::mib(256), 5, 1).err().unwrap(),
            ["passwords.argon2.iterations"]
        );
        let both = ["passwords.argon2.iterations", "passwords.argon2.parallelism"];
        assert_eq!(compile(ByteSize::mib(19), 17, 0).err().unwrap(), both);
    }
}
