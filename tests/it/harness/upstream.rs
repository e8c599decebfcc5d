//! An API behind the gateway, on real sockets, that records what reaches it byte for byte and
//! answers by script: slowly, wrongly, in halves, not at all.
//!
//! Invariant: what it cannot parse strictly fails the test, whatever the test is about, because a
//! gateway must never send it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::client::patiently;
use super::http::{Broken, Framing, Head, Headers, Wire, lossy};

/// A door between a test and an upstream: one waits, the other opens it, once and for all.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed one.
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets everybody through.
    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub(crate) async fn passed(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// What an upstream does with a request, one after another. Between two requests nothing needs to
/// be said; a script that leaves a body unread closes the connection.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Reads the request's body to its end.
    ReadBody,
    /// Reads the next piece of the request's body.
    ReadPiece,
    /// Sends bytes.
    Write(Vec<u8>),
    /// Reads the body and answers with a JSON description of the request.
    Echo,
    /// Sends the same bytes for as long as the gateway takes them.
    WriteForever(Vec<u8>),
    /// Waits for the test.
    Wait(Gate),
    /// Sends nothing and waits until the gateway closes the connection.
    Stall,
    /// Closes the connection.
    Close,
    /// Closes the connection with a reset.
    Reset,
    /// Answers 101 to a WebSocket handshake and sends back every message.
    WebSocket,
    /// Sends back every byte until the gateway closes.
    EchoBytes,
}

/// Sends bytes.
pub(crate) fn write(bytes: impl AsRef<[u8]>) -> Step {
    Step::Write(bytes.as_ref().to_vec())
}

/// Reads the body, then sends a whole answer.
pub(crate) fn reply(bytes: impl AsRef<[u8]>) -> Vec<Step> {
    vec![Step::ReadBody, write(bytes)]
}

/// A request as the upstream saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Number of the connection it came over, from 0.
    pub(crate) connection: usize,
    /// Its head, as received.
    pub(crate) raw: Vec<u8>,
    /// Its method.
    pub(crate) method: String,
    /// Its target.
    pub(crate) target: String,
    /// Its fields.
    pub(crate) headers: Headers,
    /// Its body, as far as the script read it.
    pub(crate) body: Vec<u8>,
    /// Trailer fields of a chunked body.
    pub(crate) trailers: Headers,
    /// Whether the body was read to its end.
    pub(crate) complete: bool,
    /// Whether the gateway closed the connection before the script was done.
    pub(crate) abandoned: bool,
}

impl Seen {
    /// The target without its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The value of a field that stands at most once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}

type Script = dyn Fn(&Seen) -> Vec<Step> + Send + Sync;

struct Shared {
    script: Box<Script>,
    seen: Mutex<Vec<Seen>>,
    /// What no gateway may send.
    violations: Mutex<Vec<String>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    changed: watch::Sender<()>,
}

/// The upstream. Lives as long as the test's runtime.
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: tokio::task::JoinHandle<()>,
}

impl Upstream {
    /// Answers everything with a JSON description of the request.
    pub(crate) async fn echo() -> Self {
        Self::scripted(|_| vec![Step::Echo]).await
    }

    /// As [`Upstream::echo`], at `address`.
    pub(crate) async fn echo_at(address: &str) -> Self {
        Self::listen(address, |_| vec![Step::Echo]).await
    }

    /// Answers as `script` says.
    pub(crate) async fn scripted(
        script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        Self::listen("127.0.0.1:0", script).await
    }

    async fn listen(
        address: &str,
        script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            violations: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            changed: watch::Sender::new(()),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, acceptor }
    }

    /// `http://host:port`
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `host:port`
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    /// How many requests came so far.
    pub(crate) fn count(&self) -> usize {
        self.shared.seen().len()
    }

    /// The only request so far.
    #[track_caller]
    pub(crate) fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    /// The request that came last.
    #[track_caller]
    pub(crate) fn last(&self) -> Seen {
        self.shared.seen().last().cloned().expect("a request")
    }

    /// How many connections were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until `holds` is true of the requests so far.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&[Seen]) -> bool) {
        self.until_shared(what, |shared| holds(&shared.seen())).await;
    }

    /// Waits until the gateway has closed every connection.
    pub(crate) async fn until_disconnected(&self) {
        let gone = |shared: &Shared| shared.open.load(Ordering::SeqCst) == 0;
        self.until_shared("the gateway to close its connections", gone).await;
    }

    async fn until_shared(&self, what: &str, holds: impl Fn(&Shared) -> bool) {
        let mut changes = self.shared.changed.subscribe();
        patiently(what, async {
            while !holds(&self.shared) {
                changes.changed().await.expect("the upstream lives");
            }
        })
        .await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.acceptor.abort();
        let violations = self.shared.violations.lock().expect("no panic while it was held");
        if !std::thread::panicking() {
            assert!(violations.is_empty(), "the gateway sent malformed requests: {violations:#?}");
        }
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().expect("no panic while it was held")
    }

    fn note(&self, index: usize, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen()[index]);
        self.changed.send_replace(());
    }

    fn violation(&self, what: String) {
        self.violations.lock().expect("no panic while it was held").push(what);
        self.changed.send_replace(());
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
        shared.open.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut exchanges = Exchanges { shared: &shared, connection, wire: Wire::new(stream) };
            while let Some(true) = exchanges.next().await {}
            drop(exchanges);
            shared.open.fetch_sub(1, Ordering::SeqCst);
            shared.changed.send_replace(());
        });
    }
}

/// One connection.
struct Exchanges<'a> {
    shared: &'a Shared,
    connection: usize,
    wire: Wire,
}

/// The body of the request that is being answered.
struct RequestBody {
    index: usize,
    /// `None`: read to its end.
    framing: Option<Framing>,
}

impl Exchanges<'_> {
    /// Answers one request. `Some(true)`: the connection can carry another one.
    async fn next(&mut self) -> Option<bool> {
        let head = match self.wire.head().await {
            Ok(head) => head?,
            Err(Broken::Cut) => return None,
            Err(Broken::Syntax(error)) => {
                self.shared.violation(error);
                return None;
            }
        };
        let (seen, framing) = match read_request(&head) {
            Ok(read) => read,
            Err(error) => {
                self.shared.violation(format!("{error} in {:?}", lossy(&head.raw)));
                return None;
            }
        };
        let seen = Seen { connection: self.connection, complete: framing.is_none(), ..seen };
        let steps = (self.shared.script)(&seen);
        let index = {
            let mut all = self.shared.seen();
            all.push(seen);
            all.len() - 1
        };
        self.shared.changed.send_replace(());
        let mut body = RequestBody { index, framing };
        for step in steps {
            match self.act(step, &mut body).await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(broken) => {
                    if let Broken::Syntax(error) = broken {
                        self.shared.violation(error);
                    }
                    self.shared.note(index, |seen| seen.abandoned = true);
                    return None;
                }
            }
        }
        Some(body.framing.is_none())
    }

    /// Takes one step. `Ok(false)`: it was the connection's last.
    async fn act(&mut self, step: Step, body: &mut RequestBody) -> Result<bool, Broken> {
        match step {
            Step::ReadBody => while self.read_piece(body).await? {},
            Step::ReadPiece => {
                self.read_piece(body).await?;
            }
            Step::Write(bytes) => self.wire.write(&bytes).await?,
            Step::WriteForever(bytes) => loop {
                self.wire.write(&bytes).await?;
                tokio::task::yield_now().await;
            },
            Step::Echo => {
                while self.read_piece(body).await? {}
                let answer = self.describe(body.index);
                self.wire.write(&answer).await?;
            }
            Step::Wait(gate) => {
                tokio::select! {
                    () = gate.passed() => {}
                    closed = self.closed_early(), if body.framing.is_none() => return Err(closed),
                }
            }
            Step::Stall => return Err(self.closed_early().await),
            Step::Close => return Ok(false),
            Step::Reset => {
                let _ = self.wire.stream.set_zero_linger();
                return Ok(false);
            }
            Step::WebSocket => {
                let key = self.shared.seen()[body.index]
                    .headers
                    .get("sec-websocket-key")
                    .map(str::to_owned);
                let key =
                    key.ok_or_else(|| Broken::Syntax("a handshake without a key".to_owned()))?;
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                     Connection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                    derive_accept_key(key.as_bytes()),
                );
                self.wire.write(head.as_bytes()).await?;
                echo_messages(&mut self.wire).await;
                return Ok(false);
            }
            Step::EchoBytes => loop {
                let bytes = self.wire.take_buffered();
                self.wire.write(&bytes).await?;
                if !self.wire.fill().await? {
                    return Ok(false);
                }
            },
        }
        Ok(true)
    }

    async fn read_piece(&mut self, body: &mut RequestBody) -> Result<bool, Broken> {
        let Some(framing) = &mut body.framing else { return Ok(false) };
        let mut trailers = Headers::default();
        let piece = self.wire.piece(framing, &mut trailers).await?;
        let ended = piece.is_none() || *framing == Framing::Length(0);
        if ended {
            body.framing = None;
        }
        self.shared.note(body.index, |seen| {
            seen.body.extend(piece.unwrap_or_default());
            seen.trailers.0.extend(trailers.0);
            seen.complete = ended;
        });
        Ok(!ended)
    }

    /// Waits until the gateway closes the connection; bytes that come before stay unread.
    async fn closed_early(&mut self) -> Broken {
        while matches!(self.wire.fill().await, Ok(true)) {}
        Broken::Cut
    }

    fn describe(&self, index: usize) -> Vec<u8> {
        let (body, bodiless) = {
            let seen = &self.shared.seen()[index];
            let headers: Vec<Value> =
                seen.headers.0.iter().map(|(name, value)| json!([name, value])).collect();
            let body = json!({
                "method": seen.method,
                "target": seen.target,
                "headers": headers,
                "body": lossy(&seen.body),
            });
            (body.to_string(), seen.method == "HEAD")
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        let body = if bodiless { String::new() } else { body };
        (head + &body).into_bytes()
    }
}

/// What a request says of itself, read strictly.
fn read_request(head: &Head) -> Result<(Seen, Option<Framing>), String> {
    let [method, target, version] = head.parts()?;
    if version != "HTTP/1.1" {
        return Err(format!("version {version:?}"));
    }
    if !target.starts_with('/') || target.contains(['#', '\t']) || !target.is_ascii() {
        return Err(format!("target {target:?}"));
    }
    if head.headers.all("host").len() != 1 {
        return Err(format!("hosts {:?}", head.headers.all("host")));
    }
    let framing = head.framing()?.filter(|framing| *framing != Framing::Length(0));
    let seen = Seen {
        raw: head.raw.clone(),
        method: method.to_owned(),
        target: target.to_owned(),
        headers: head.headers.clone(),
        ..Seen::default()
    };
    Ok((seen, framing))
}

async fn echo_messages(wire: &mut Wire) {
    let early = wire.take_buffered();
    let stream: &mut TcpStream = &mut wire.stream;
    let socket = WebSocketStream::from_partially_read(stream, early, Role::Server, None).await;
    let (mut sink, mut messages) = socket.split();
    while let Some(Ok(message)) = messages.next().await {
        if (message.is_text() || message.is_binary()) && sink.send(message).await.is_err() {
            return;
        }
    }
}
