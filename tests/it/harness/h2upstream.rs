//! An upstream that speaks HTTP/2 by prior knowledge, by hand, and answers each stream by script:
//! slowly, wrongly, in halves, not at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::client::patiently;
use super::h2raw::{Fields, PREFACE, flag, frame, headers, kind, number, settings, window_update};
use super::hpack::Decoder;
use super::http::Headers;
use super::upstream::Gate;

/// What the upstream does with a stream, one after another.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Waits for the end of the request.
    ReadAll,
    /// Waits for the test.
    Wait(Gate),
    /// Sends an answer's head, which is all of it when the flag says so.
    Head(Fields, bool),
    /// Sends bytes of a body, the last ones when the flag says so.
    Data(Vec<u8>, bool),
    /// Sends trailers.
    Trailers(Fields),
    /// Sends a frame of this type, with these flags, on the stream.
    Frame(u8, u8, Vec<u8>),
    /// Sends bytes as they are.
    Bytes(Vec<u8>),
    /// Closes the connection.
    Close,
}

/// `:status` alone.
pub(crate) fn status(status: &str) -> Fields {
    Fields::none().with(":status", status)
}

/// A whole answer, once the request is there.
pub(crate) fn whole(body: &str) -> Vec<Act> {
    vec![Act::ReadAll, Act::Head(status("200"), false), Act::Data(body.into(), true)]
}

/// A request as the upstream saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeenStream {
    /// Number of its connection, from 0.
    pub(crate) connection: usize,
    /// All fields, pseudo-fields too.
    pub(crate) fields: Headers,
    /// Its body so far.
    pub(crate) body: Vec<u8>,
    /// Its trailers.
    pub(crate) trailers: Headers,
    /// Whether it has ended.
    pub(crate) complete: bool,
    /// The code with which the gateway has reset it.
    pub(crate) reset: Option<u32>,
}

impl SeenStream {
    /// `:path`
    pub(crate) fn path(&self) -> &str {
        self.fields.get(":path").unwrap_or_default()
    }
}

type Script = dyn Fn(&SeenStream) -> Vec<Act> + Send + Sync;

struct Shared {
    script: Box<Script>,
    seen: Mutex<Vec<SeenStream>>,
    changed: watch::Sender<()>,
}

/// The upstream. Lives as long as the test's runtime.
pub(crate) struct H2Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl H2Upstream {
    /// Answers as `script` says.
    pub(crate) async fn scripted(
        script: impl Fn(&SeenStream) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, connection, Arc::clone(&accepting)));
            }
        });
        Self { address, shared }
    }

    /// `http://host:port`
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<SeenStream> {
        self.shared.seen().clone()
    }

    /// The request that came last.
    #[track_caller]
    pub(crate) fn last(&self) -> SeenStream {
        self.shared.seen().last().cloned().expect("a request")
    }

    /// Waits until `holds` is true of the requests so far.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&[SeenStream]) -> bool) {
        let mut changes = self.shared.changed.subscribe();
        patiently(what, async {
            while !holds(&self.shared.seen()) {
                changes.changed().await.expect("the upstream lives");
            }
        })
        .await;
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Vec<SeenStream>> {
        self.seen.lock().expect("no panic while it was held")
    }

    fn note(&self, index: usize, change: impl FnOnce(&mut SeenStream)) {
        change(&mut self.seen()[index]);
        self.changed.send_replace(());
    }
}

/// Where a connection's streams write to; `None` once it is closed.
type Writer = Arc<tokio::sync::Mutex<Option<OwnedWriteHalf>>>;

async fn serve(stream: TcpStream, connection: usize, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let (mut reader, writer) = stream.into_split();
    let writer: Writer = Arc::new(tokio::sync::Mutex::new(Some(writer)));
    let mut preface = [0; 24];
    if reader.read_exact(&mut preface).await.is_err() {
        return;
    }
    assert_eq!(&preface[..], PREFACE, "no HTTP/2 by prior knowledge");
    send(&writer, &settings(&[])).await;
    let mut decoder = Decoder::new(4096);
    let mut streams: BTreeMap<u32, usize> = BTreeMap::new();
    let mut block: Option<(u32, bool, Vec<u8>)> = None;
    while let Some((kind, flags, stream, payload)) = read_frame(&mut reader).await {
        match kind {
            kind::SETTINGS if flags & flag::ACK == 0 => {
                send(&writer, &frame(kind::SETTINGS, flag::ACK, 0, [])).await;
            }
            kind::PING if flags & flag::ACK == 0 => {
                send(&writer, &frame(kind::PING, flag::ACK, 0, payload)).await;
            }
            kind::HEADERS => {
                assert_eq!(flags & (flag::PADDED | flag::PRIORITY), 0, "not by this client");
                block = Some((stream, flags & flag::END_STREAM != 0, payload));
            }
            kind::CONTINUATION => block.as_mut().expect("a block").2.extend(payload),
            kind::DATA => {
                let ends = flags & flag::END_STREAM != 0;
                shared.note(streams[&stream], |seen| {
                    seen.body.extend_from_slice(&payload);
                    seen.complete |= ends;
                });
                let by = u32::try_from(payload.len()).expect("a frame");
                if by > 0 {
                    let both = [window_update(0, by), window_update(stream, by)].concat();
                    send(&writer, &both).await;
                }
            }
            kind::RST_STREAM => {
                let code = number(&payload);
                if let Some(index) = streams.get(&stream) {
                    shared.note(*index, |seen| seen.reset = Some(code));
                }
            }
            _ => {}
        }
        if matches!(kind, kind::HEADERS | kind::CONTINUATION)
            && flags & flag::END_HEADERS != 0
            && let Some((stream, ends, bytes)) = block.take()
        {
            let fields = Headers(decoder.decode(&bytes).expect("a field block"));
            if let Some(index) = streams.get(&stream) {
                shared.note(*index, |seen| {
                    seen.trailers = fields;
                    seen.complete = ends;
                });
                continue;
            }
            let seen = SeenStream { connection, fields, complete: ends, ..SeenStream::default() };
            let acts = (shared.script)(&seen);
            let index = {
                let mut all = shared.seen();
                all.push(seen);
                all.len() - 1
            };
            shared.changed.send_replace(());
            streams.insert(stream, index);
            tokio::spawn(act(acts, stream, index, Arc::clone(&writer), Arc::clone(&shared)));
        }
    }
}

async fn act(acts: Vec<Act>, stream: u32, index: usize, writer: Writer, shared: Arc<Shared>) {
    for act in acts {
        match act {
            Act::ReadAll => {
                let mut changes = shared.changed.subscribe();
                while !shared.seen()[index].complete {
                    if shared.seen()[index].reset.is_some() || changes.changed().await.is_err() {
                        return;
                    }
                }
            }
            Act::Wait(gate) => gate.passed().await,
            Act::Head(fields, ends) => {
                let flags = if ends { flag::END_STREAM } else { 0 };
                send(&writer, &headers(stream, flags, &fields)).await;
            }
            Act::Data(bytes, ends) => {
                let flags = if ends { flag::END_STREAM } else { 0 };
                send(&writer, &frame(kind::DATA, flags, stream, bytes)).await;
            }
            Act::Trailers(fields) => {
                send(&writer, &headers(stream, flag::END_STREAM, &fields)).await;
            }
            Act::Frame(kind, flags, payload) => {
                send(&writer, &frame(kind, flags, stream, payload)).await;
            }
            Act::Bytes(bytes) => send(&writer, &bytes).await,
            Act::Close => drop(writer.lock().await.take()),
        }
    }
}

/// A gateway that has gone away is no failure here.
async fn send(writer: &Writer, bytes: &[u8]) {
    if let Some(writer) = writer.lock().await.as_mut() {
        let _ = writer.write_all(bytes).await;
    }
}

async fn read_frame(reader: &mut OwnedReadHalf) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    reader.read_exact(&mut head).await.ok()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    assert!(length <= 16_384, "a frame of {length} bytes");
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], number(&head[5..9]) & 0x7fff_ffff, payload))
}
