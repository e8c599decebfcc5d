//! Moves one exchange between a client and an upstream: the request's body up, the answer's body
//! down, both at once, piece by piece and never buffered. Every wait has somebody who is late when
//! it takes too long.
//!
//! Knows neither routes nor what heads say; what it cannot finish it reports, so that the client is
//! cut off and never given half an answer as a whole one.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::headers::{HeaderPolicy, passing_answer_trailers};
use super::origin::{Fault, Origin};
use crate::message::{BodyLength, Piece};
use crate::wire::pace::{Moment, Watch};
use crate::wire::{Client, ClientFault};

/// A client may be slow for this long before the least rate counts.
const RATE_GRACE: Duration = Duration::from_secs(30);

/// Least bytes a second of a request body, as a defence against slow bodies.
const LEAST_RATE: u64 = 1 << 10;

/// How often a tunnel is asked whether it may go on.
const TUNNEL_CHECK: Duration = Duration::from_secs(1);

/// What has passed of one exchange.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Bytes of request body that were taken from the client.
    pub(crate) up: Cell<u64>,
    /// Bytes of answer that were taken by the client.
    pub(crate) down: Cell<u64>,
}

/// Limits of one exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most bytes of request body.
    pub(crate) body_bytes: u64,
    /// Longest silence of the client within its body.
    pub(crate) silence: Duration,
    /// To the answer's head, from the last byte of the request; also for the upstream to take a
    /// piece of it.
    pub(crate) response: Duration,
    /// Longest silence within the answer's body.
    pub(crate) idle: Duration,
}

/// Why an exchange came to nothing, or was cut off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The upstream's fault.
    #[error("the upstream broke off")]
    Upstream(#[source] Fault),
    /// It kept us waiting.
    #[error("the upstream kept us waiting")]
    Late,
    /// The route's time for the whole exchange is over; nobody in particular is to blame.
    #[error("the exchange took too long")]
    OverTime,
    /// The client's fault.
    #[error("the client broke off")]
    Client(#[source] ClientFault),
    /// Its body is over the limit.
    #[error("the request body is larger than allowed")]
    TooLarge,
    /// Its body comes too slowly.
    #[error("the request body comes too slowly")]
    TooSlow,
}

/// One exchange that is under way.
pub(crate) struct Relay<'a, C, O> {
    /// The client.
    pub(crate) client: &'a mut C,
    /// The upstream.
    pub(crate) origin: O,
    traffic: &'a Traffic,
    limits: Limits,
    policy: &'a HeaderPolicy,
    has_body: bool,
    upload: Upload,
    /// The answer has begun: how fast the rest of the request comes is between the two ends.
    answering: bool,
    /// Since when the client has owed a piece of its body, and for how long it did before.
    silent_since: Option<Moment>,
    waited: Duration,
}

/// Where the request's body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// The client has more.
    Open,
    /// All of it was handed over; some may not be written yet.
    Flushing,
    /// All of it was written.
    Done,
    /// The upstream takes no more; it may still answer.
    GivenUp,
}

impl<'a, C: Client, O: Origin> Relay<'a, C, O> {
    /// An exchange whose request's head waits in `origin`.
    pub(crate) fn new(
        client: &'a mut C,
        mut origin: O,
        traffic: &'a Traffic,
        limits: Limits,
        policy: &'a HeaderPolicy,
        body: BodyLength,
    ) -> Self {
        // The head decides, not what the client may be sending: what follows the handshake of a
        // tunnel is no body, and must not reach an upstream that has not agreed to the tunnel.
        let upload = if body == BodyLength::Exactly(0) {
            origin.end_request(None);
            Upload::Flushing
        } else {
            Upload::Open
        };
        Self {
            client,
            origin,
            traffic,
            limits,
            policy,
            has_body: body != BodyLength::Exactly(0),
            upload,
            answering: false,
            silent_since: None,
            waited: Duration::ZERO,
        }
    }

    /// The same exchange, begun once more with what `again` makes of the upstream.
    pub(crate) fn again(self, again: impl FnOnce(O) -> O) -> Self {
        // With a body it goes again only when none of that was taken.
        let upload = if self.has_body { Upload::Open } else { Upload::Flushing };
        Self { origin: again(self.origin), upload, ..self }
    }

    /// Whether all of the request was sent.
    pub(crate) fn request_is_sent(&self) -> bool {
        self.upload == Upload::Done
    }

    /// Waits for the next head of an answer.
    pub(crate) async fn head(&mut self) -> Result<(), Failure> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        // Not `?` on what is pending: while the request waits, its answer may come.
        let uploaded = self.poll_upload(cx);
        if let Poll::Ready(Err(failure)) = uploaded {
            return Poll::Ready(Err(failure));
        }
        if let Poll::Ready(come) = self.origin.poll_head(cx) {
            self.client.watch().upstream_acted();
            return Poll::Ready(come.map_err(Failure::Upstream));
        }
        if uploaded.is_ready() {
            self.client.watch().keep_expecting_upstream(self.limits.response);
            // An interim answer may wait to be sent.
            if let Poll::Ready(Err(fault)) = self.client.poll_flush(cx) {
                return Poll::Ready(Err(Failure::Client(fault)));
            }
            if self.client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Failure::Client(ClientFault::Gone)));
            }
        }
        self.unless_late()
    }

    /// Passes the answer's body on to its end, and the request's body as long as that takes.
    pub(crate) async fn body(&mut self) -> Result<(), Failure> {
        self.answering = true;
        self.client.watch().client_acted();
        poll_fn(|cx| self.poll_both(cx)).await
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let uploaded = match self.upload {
            Upload::Done => Poll::Ready(Ok(())),
            _ => self.poll_upload(cx),
        };
        if let Poll::Ready(Err(failure)) = uploaded {
            return Poll::Ready(Err(failure));
        }
        if let Poll::Ready(done) = self.poll_download(cx) {
            return Poll::Ready(done);
        }
        if uploaded.is_ready() && self.client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Failure::Client(ClientFault::Gone)));
        }
        self.unless_late()
    }

    fn unless_late(&self) -> Poll<Result<(), Failure>> {
        let watch = self.client.watch();
        if watch.is_over_time() {
            return Poll::Ready(Err(Failure::OverTime));
        }
        if watch.upstream_is_late() {
            return Poll::Ready(Err(Failure::Late));
        }
        Poll::Pending
    }

    /// Moves the request's body on.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            match self.upload {
                Upload::Done | Upload::GivenUp => return Poll::Ready(Ok(())),
                Upload::Flushing => {
                    self.upload = match self.origin.poll_flush(cx) {
                        Poll::Ready(Ok(())) => Upload::Done,
                        Poll::Ready(Err(_)) => Upload::GivenUp,
                        Poll::Pending => return self.await_upstream(),
                    };
                    self.upstream_acted();
                }
                Upload::Open => ready!(self.poll_upload_piece(cx))?,
            }
        }
    }

    fn poll_upload_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Poll::Ready(piece) = self.client.poll_body(cx) else {
            // What waits goes out before the wait; a head without its body is one to answer.
            if let Poll::Ready(Err(_)) = self.origin.poll_flush(cx) {
                self.give_up_upload();
                return Poll::Ready(Ok(()));
            }
            if !self.answering {
                // The next move is the client's; the upstream cannot be blamed meanwhile.
                let watch = self.client.watch();
                watch.upstream_acted();
                watch.keep_expecting_client(self.limits.silence);
                self.silent_since.get_or_insert_with(|| watch.moment());
            }
            return Poll::Pending;
        };
        if !self.answering {
            let watch = self.client.watch();
            watch.client_acted();
            if let Some(since) = self.silent_since.take() {
                self.waited += watch.since(since);
            }
        }
        match piece.map_err(Failure::Client)? {
            Piece::End => {
                let trailers = self.client.take_trailers();
                let trailers = trailers.map(|trailers| self.policy.passing_trailers(trailers));
                self.origin.end_request(trailers);
                self.upload = Upload::Flushing;
            }
            Piece::Data(there) => {
                let up = self.traffic.up.get();
                let room = self.limits.body_bytes.saturating_sub(up);
                if room == 0 {
                    return Poll::Ready(Err(Failure::TooLarge));
                }
                let most = usize::try_from(room).unwrap_or(usize::MAX).min(there);
                let taken = match self.origin.poll_send(cx, &self.client.piece()[..most]) {
                    Poll::Ready(Ok(taken)) => taken,
                    Poll::Ready(Err(_)) => {
                        self.give_up_upload();
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Pending => return self.await_upstream(),
                };
                self.client.take_piece(taken);
                self.traffic.up.set(up + taken as u64);
                self.upstream_acted();
                if !self.answering && is_too_slow(up + taken as u64, self.waited) {
                    return Poll::Ready(Err(Failure::TooSlow));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn await_upstream(&self) -> Poll<Result<(), Failure>> {
        if !self.answering {
            self.client.watch().keep_expecting_upstream(self.limits.response);
        }
        Poll::Pending
    }

    /// The upstream took something. While it answers, only its answer counts.
    fn upstream_acted(&self) {
        if !self.answering {
            self.client.watch().upstream_acted();
        }
    }

    /// The upstream takes no more; what the client sends from now on nobody waits for.
    fn give_up_upload(&mut self) {
        self.upload = Upload::GivenUp;
        self.client.watch().client_acted();
    }

    /// Moves the answer's body on.
    fn poll_download(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            let Poll::Ready(piece) = self.origin.poll_body(cx) else {
                // What waits goes out before the wait: it may be an event of a stream.
                if let Poll::Ready(Err(fault)) = self.client.poll_flush(cx) {
                    return Poll::Ready(Err(Failure::Client(fault)));
                }
                self.client.watch().keep_expecting_upstream(self.limits.idle);
                return Poll::Pending;
            };
            self.client.watch().upstream_acted();
            match piece.map_err(Failure::Upstream)? {
                Piece::Data(n) => {
                    let sent = self.client.poll_send(cx, &self.origin.piece()[..n]);
                    let taken = ready!(sent).map_err(Failure::Client)?;
                    self.origin.take_piece(taken);
                    self.traffic.down.set(self.traffic.down.get() + taken as u64);
                }
                Piece::End => {
                    let trailers = self.origin.take_trailers().map(passing_answer_trailers);
                    self.client.end_answer(trailers);
                    return self.client.poll_flush(cx).map_err(Failure::Client);
                }
            }
        }
    }

    /// Joins both ends of a tunnel until both have ended, one breaks off, nothing moves for `idle`,
    /// or `may_go_on` says no. When the gateway stops, `drain` is left.
    pub(crate) async fn tunnel(
        &mut self,
        idle: Duration,
        drain: Duration,
        mut may_go_on: impl FnMut() -> bool,
    ) {
        let watch = std::sync::Arc::clone(self.client.watch());
        watch.limit_total(None);
        watch.expect_client(idle);
        watch.expect_upstream(TUNNEL_CHECK);
        let mut ends = (Ending::Open, Ending::Open);
        let mut draining = false;
        poll_fn(|cx| {
            if watch.upstream_is_late() {
                if !may_go_on() {
                    return Poll::Ready(());
                }
                watch.expect_upstream(TUNNEL_CHECK);
            }
            if watch.is_draining() && !std::mem::replace(&mut draining, true) {
                watch.close_within(drain);
            }
            let up = self.poll_tunnel_up(cx, &mut ends.0, &watch, idle);
            let down = self.poll_tunnel_down(cx, &mut ends.1, &watch, idle);
            match (up, down) {
                (Poll::Ready(Err(Broken)), _)
                | (_, Poll::Ready(Err(Broken)))
                | (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    fn poll_tunnel_up(
        &mut self,
        cx: &mut Context<'_>,
        ending: &mut Ending,
        watch: &Watch,
        idle: Duration,
    ) -> Poll<Result<(), Broken>> {
        while *ending == Ending::Open {
            let Poll::Ready(piece) = self.client.poll_body(cx) else {
                if let Poll::Ready(Err(_)) = self.origin.poll_flush(cx) {
                    return Poll::Ready(Err(Broken));
                }
                return Poll::Pending;
            };
            match piece.map_err(|_| Broken)? {
                Piece::Data(n) => {
                    let sent = self.origin.poll_send(cx, &self.client.piece()[..n]);
                    let taken = ready!(sent).map_err(|_| Broken)?;
                    self.client.take_piece(taken);
                    self.traffic.up.set(self.traffic.up.get() + taken as u64);
                    watch.expect_client(idle);
                }
                Piece::End => *ending = Ending::Telling,
            }
        }
        if *ending == Ending::Telling {
            ready!(self.origin.poll_end_sending(cx)).map_err(|_| Broken)?;
            *ending = Ending::Ended;
        }
        // It has said that it sends no more; that it is gone it may still say.
        if self.client.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Broken));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_tunnel_down(
        &mut self,
        cx: &mut Context<'_>,
        ending: &mut Ending,
        watch: &Watch,
        idle: Duration,
    ) -> Poll<Result<(), Broken>> {
        while *ending == Ending::Open {
            let Poll::Ready(piece) = self.origin.poll_body(cx) else {
                if let Poll::Ready(Err(_)) = self.client.poll_flush(cx) {
                    return Poll::Ready(Err(Broken));
                }
                return Poll::Pending;
            };
            match piece.map_err(|_| Broken)? {
                Piece::Data(n) => {
                    let sent = self.client.poll_send(cx, &self.origin.piece()[..n]);
                    let taken = ready!(sent).map_err(|_| Broken)?;
                    self.origin.take_piece(taken);
                    self.traffic.down.set(self.traffic.down.get() + taken as u64);
                    watch.expect_client(idle);
                }
                Piece::End => *ending = Ending::Telling,
            }
        }
        if *ending == Ending::Telling {
            ready!(self.client.poll_end_sending(cx)).map_err(|_| Broken)?;
            *ending = Ending::Ended;
        }
        Poll::Ready(Ok(()))
    }
}

/// How far one direction of a tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Open,
    /// Its source has ended; the other end is to be told.
    Telling,
    Ended,
}

/// One end of a tunnel broke off; there is nobody to tell but the other.
#[derive(Debug)]
struct Broken;

/// `waited` is the time for which the client owed a piece.
fn is_too_slow(bytes: u64, waited: Duration) -> bool {
    waited > RATE_GRACE && bytes < LEAST_RATE * waited.as_secs()
}
