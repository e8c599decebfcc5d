//! HTTP/2 as a test speaks it (RFC 9113): any frame in any order, written by hand; and what comes
//! back, read strictly, by itself.
//!
//! Invariant: what no server may send fails the test, whatever the test is about: frames over the
//! agreed size, data over the windows granted, fields that HTTP/2 does not have, an answer without
//! a status.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

use super::client::{Answer, End, patiently};
use super::hpack::{self, Decoder};
use super::http::Headers;

/// How a client begins (§3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (§6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Frame flags (§6).
pub(crate) mod flag {
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const PADDED: u8 = 8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Settings (§6.5.2; RFC 8441 §3).
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Error codes (§7).
pub(crate) mod code {
    pub(crate) const NO_ERROR: u32 = 0;
    pub(crate) const PROTOCOL_ERROR: u32 = 1;
    pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
    pub(crate) const STREAM_CLOSED: u32 = 5;
    pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
    pub(crate) const REFUSED_STREAM: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
    pub(crate) const COMPRESSION_ERROR: u32 = 9;
    pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Window of a connection, and of a stream unless a setting says otherwise (§6.9.2).
const FIRST_WINDOW: i64 = 65_535;

/// Window that an ordinary test grants: larger than what any of them asks for.
const WIDE_WINDOW: u32 = 16 << 20;

/// Longest frame that a server may send us: we never offer more (§4.2).
const MAX_FRAME: usize = 16_384;

/// A frame, whatever it says.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a test's frame is small");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A `SETTINGS` frame.
pub(crate) fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let pair = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(kind::SETTINGS, 0, 0, list.iter().flat_map(pair).collect::<Vec<_>>())
}

/// A `WINDOW_UPDATE` frame.
pub(crate) fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

/// A `RST_STREAM` frame.
pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, code.to_be_bytes())
}

/// A `DATA` frame.
pub(crate) fn data(stream: u32, flags: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

/// A `HEADERS` frame with all of a field block.
pub(crate) fn headers(stream: u32, flags: u8, fields: &Fields) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, fields.block())
}

/// The fields of a request, in order.
#[derive(Clone, Debug)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

impl Fields {
    /// A whole request head.
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self(Vec::new())
            .with(":method", method)
            .with(":scheme", "http")
            .with(":authority", "a.example")
            .with(":path", path)
    }

    /// A `GET`.
    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A `POST`.
    pub(crate) fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    /// None yet.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    /// Adds a field at the end.
    pub(crate) fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Adds a field at the begin.
    pub(crate) fn first(mut self, name: &str, value: &str) -> Self {
        self.0.insert(0, (name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a field out.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(n, _)| n != name);
        self
    }

    /// Gives a field another value, in its place.
    pub(crate) fn but(mut self, name: &str, value: &str) -> Self {
        self.0.iter_mut().filter(|(n, _)| n == name).for_each(|(_, v)| value.clone_into(v));
        self
    }

    /// Carries an access token.
    pub(crate) fn bearer(self, token: impl AsRef<str>) -> Self {
        self.with("authorization", format!("Bearer {}", token.as_ref()))
    }

    /// The field block.
    pub(crate) fn block(&self) -> Vec<u8> {
        hpack::block(&self.0)
    }

    fn method(&self) -> &str {
        self.0.iter().find(|(name, _)| name == ":method").map_or("", |(_, value)| value)
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// An answer, whole or cut.
    Answer(Answer),
    /// Its stream was reset with this code before an answer began.
    Reset(u32),
    /// The connection ended before an answer began.
    Gone,
}

/// A frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Its type.
    pub(crate) kind: u8,
    /// Its flags.
    pub(crate) flags: u8,
    /// Its stream.
    pub(crate) stream: u32,
    /// The rest.
    pub(crate) payload: Vec<u8>,
}

/// One stream as far as it is known.
#[derive(Debug, Default)]
struct Stream {
    /// Whether the request was a `HEAD`.
    bodiless: bool,
    answer: Option<Answer>,
    interim: Vec<u16>,
    ended: bool,
    reset: Option<u32>,
    /// Bytes that the server may still send, above the initial window.
    extra_window: i64,
    /// Bytes that we may still send, above the server's initial window.
    extra_credit: i64,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection.
pub(crate) struct H2 {
    reader: ReadHalf<Box<dyn Duplex>>,
    writer: WriteHalf<Box<dyn Duplex>>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were made frames of.
    taken: usize,
    decoder: Decoder,
    streams: BTreeMap<u32, Stream>,
    next_stream: u32,
    /// Stream and fields of a block that is not whole yet, and whether it ends its stream.
    block: Option<(u32, Vec<u8>, bool)>,
    /// What the server has told us.
    pub(crate) settings: BTreeMap<u16, u32>,
    /// Acknowledgements of our settings so far.
    pub(crate) acks: usize,
    /// Answers to our pings so far.
    pub(crate) pongs: Vec<Vec<u8>>,
    /// Last stream and code of the server's `GOAWAY`s.
    pub(crate) goaways: Vec<(u32, u32)>,
    /// Whether the connection has ended.
    pub(crate) closed: bool,
    /// Whether what was received is granted again at once.
    pub(crate) refill: bool,
    initial_window: i64,
    window: i64,
    credit: i64,
}

impl H2 {
    /// A connection over `stream` on which nothing was said yet.
    pub(crate) fn silent(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let stream: Box<dyn Duplex> = Box::new(stream);
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader,
            writer,
            buffer: Vec::new(),
            taken: 0,
            decoder: Decoder::new(4096),
            streams: BTreeMap::new(),
            next_stream: 1,
            block: None,
            settings: BTreeMap::new(),
            acks: 0,
            pongs: Vec::new(),
            goaways: Vec::new(),
            closed: false,
            refill: true,
            initial_window: FIRST_WINDOW,
            window: FIRST_WINDOW,
            credit: FIRST_WINDOW,
        }
    }

    /// A plain connection on which nothing was said yet.
    pub(crate) async fn dial(address: SocketAddr) -> Self {
        let stream = patiently("a connection", TcpStream::connect(address)).await;
        let stream = stream.expect("the gateway accepts connections");
        stream.set_nodelay(true).expect("a socket option");
        Self::silent(stream)
    }

    /// A plain connection after both sides' settings, with windows that are no limit.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut h2 = Self::dial(address).await;
        h2.greet(WIDE_WINDOW).await;
        h2
    }

    /// As [`H2::connect`], but the server may send only `window` bytes on a stream, and the test
    /// grants more.
    pub(crate) async fn connect_narrow(address: SocketAddr, window: u32) -> Self {
        let mut h2 = Self::dial(address).await;
        h2.refill = false;
        h2.greet(window).await;
        h2
    }

    /// Exchanges prefaces and settings (§3.4).
    pub(crate) async fn greet(&mut self, initial_window: u32) {
        self.initial_window = i64::from(initial_window);
        self.window += i64::from(WIDE_WINDOW);
        let hello = [
            PREFACE.to_vec(),
            settings(&[(setting::ENABLE_PUSH, 0), (setting::INITIAL_WINDOW_SIZE, initial_window)]),
            window_update(0, WIDE_WINDOW),
        ];
        self.send(hello.concat()).await;
        self.until("both sides' settings", |h2| h2.acks > 0 && !h2.settings.is_empty()).await;
    }

    /// Sends bytes. A server that has closed meanwhile is no error here: what it says counts.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.try_send(bytes).await;
    }

    /// Sends bytes; false when the connection is gone.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = patiently("room to send", async {
            self.writer.write_all(bytes.as_ref()).await?;
            self.writer.flush().await
        });
        sent.await.is_ok()
    }

    /// Sends bytes while it takes in whatever comes, so that neither side waits for the other, and
    /// notes it; false when the connection is gone.
    pub(crate) async fn flood(&mut self, bytes: &[u8]) -> bool {
        {
            let mut sending = std::pin::pin!(self.writer.write_all(bytes));
            loop {
                tokio::select! {
                    sent = &mut sending => match sent {
                        Ok(()) => break,
                        Err(_) => return false,
                    },
                    read = self.reader.read_buf(&mut self.buffer) => {
                        if !matches!(read, Ok(1..)) {
                            return false;
                        }
                    }
                }
            }
        }
        while let Some(frame) = self.buffered_frame() {
            self.note(frame).await;
        }
        true
    }

    /// A stream id that was not used yet.
    pub(crate) fn new_stream(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        stream
    }

    /// Says that ids up to `stream` are used.
    pub(crate) fn skip_to(&mut self, stream: u32) {
        self.next_stream = self.next_stream.max(stream);
    }

    /// Sends a request head; its body follows when `more`.
    pub(crate) async fn begin(&mut self, fields: &Fields, more: bool) -> u32 {
        let stream = self.new_stream();
        self.streams.entry(stream).or_default().bodiless = fields.method() == "HEAD";
        self.send(headers(stream, if more { 0 } else { flag::END_STREAM }, fields)).await;
        stream
    }

    /// Sends a piece of a body as far as the server's windows go, waiting for them.
    pub(crate) async fn body(&mut self, stream: u32, mut bytes: &[u8], end: bool) {
        loop {
            let room = self.credit.min(self.stream_credit(stream)).max(0);
            let room = usize::try_from(room).expect("not negative").min(MAX_FRAME);
            let piece = bytes.split_at(room.min(bytes.len())).0;
            bytes = &bytes[piece.len()..];
            if !piece.is_empty() || bytes.is_empty() {
                let spent = i64::try_from(piece.len()).expect("a frame");
                self.spend(stream, spent);
                let last = end && bytes.is_empty();
                let flags = if last { flag::END_STREAM } else { 0 };
                self.send(data(stream, flags, piece)).await;
            } else if !self.read().await || self.streams[&stream].reset.is_some() {
                return;
            }
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// Bytes that may be sent on the connection.
    pub(crate) fn credit(&self) -> i64 {
        self.credit
    }

    /// Notes bytes that the test has sent by itself.
    pub(crate) fn spend(&mut self, stream: u32, bytes: i64) {
        self.credit -= bytes;
        self.streams.entry(stream).or_default().extra_credit -= bytes;
    }

    /// Bytes that may be sent on a stream by its own window.
    pub(crate) fn stream_credit(&self, stream: u32) -> i64 {
        let first = self.settings.get(&setting::INITIAL_WINDOW_SIZE);
        first.map_or(FIRST_WINDOW, |size| i64::from(*size))
            + self.streams.get(&stream).map_or(0, |stream| stream.extra_credit)
    }

    /// Sends a request without a body and waits for what becomes of it.
    pub(crate) async fn ask(&mut self, fields: &Fields) -> Outcome {
        let stream = self.begin(fields, false).await;
        self.outcome(stream).await
    }

    /// Sends a request with a body and waits for what becomes of it.
    pub(crate) async fn ask_with(&mut self, fields: &Fields, body: &[u8]) -> Outcome {
        let stream = self.begin(fields, true).await;
        self.body(stream, body, true).await;
        self.outcome(stream).await
    }

    /// Sends a request without a body and reads its answer.
    pub(crate) async fn exchange(&mut self, fields: &Fields) -> Answer {
        let stream = self.begin(fields, false).await;
        self.answer(stream).await
    }

    /// The answer on a stream.
    pub(crate) async fn answer(&mut self, stream: u32) -> Answer {
        match self.outcome(stream).await {
            Outcome::Answer(answer) => answer,
            other => panic!("no answer on stream {stream}: {other:?}, {:?}", self.goaways),
        }
    }

    /// What becomes of a stream; waits until it has ended.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        let over = |h2: &Self| {
            h2.closed || h2.streams.get(&stream).is_some_and(|s| s.ended || s.reset.is_some())
        };
        self.until("a stream to end", over).await;
        let Some(Stream { answer, ended, reset, .. }) = self.streams.get(&stream) else {
            return Outcome::Gone;
        };
        match (answer, reset) {
            (Some(answer), _) => {
                let end = if *ended { End::Complete } else { End::Cut };
                Outcome::Answer(Answer { end, ..answer.clone() })
            }
            (None, Some(code)) => Outcome::Reset(*code),
            (None, None) => Outcome::Gone,
        }
    }

    /// What has come on a stream so far: its answer, once its head is there.
    pub(crate) fn so_far(&self, stream: u32) -> Option<&Answer> {
        self.streams.get(&stream)?.answer.as_ref()
    }

    /// Statuses of the 1xx answers on a stream so far.
    pub(crate) fn interim(&self, stream: u32) -> &[u16] {
        self.streams.get(&stream).map_or(&[], |stream| &stream.interim)
    }

    /// The code with which the server has reset a stream.
    pub(crate) fn reset_code(&self, stream: u32) -> Option<u32> {
        self.streams.get(&stream)?.reset
    }

    /// Grants bytes on a stream (0: on the connection).
    pub(crate) async fn grant(&mut self, stream: u32, by: u32) {
        match stream {
            0 => self.window += i64::from(by),
            _ => self.streams.entry(stream).or_default().extra_window += i64::from(by),
        }
        self.send(window_update(stream, by)).await;
    }

    /// Changes the initial window and waits until the server says that it knows.
    pub(crate) async fn change_window(&mut self, initial_window: u32) {
        let (old, new) = (self.initial_window, i64::from(initial_window));
        // What the server sends before it knows may still go by the larger of the two.
        self.initial_window = old.max(new);
        let acks = self.acks;
        self.send(settings(&[(setting::INITIAL_WINDOW_SIZE, initial_window)])).await;
        self.until("an acknowledgement", |h2| h2.acks > acks).await;
        self.initial_window = new;
    }

    /// Whether the connection is alive: sends a ping and waits for its answer or the end.
    pub(crate) async fn ping(&mut self) -> bool {
        let count = self.pongs.len();
        let mark = [b"ping", &u32::try_from(count).expect("few").to_be_bytes()[..]].concat();
        self.send(frame(kind::PING, 0, 0, &mark)).await;
        self.until("a pong", |h2| h2.closed || h2.pongs.contains(&mark)).await;
        self.pongs.contains(&mark)
    }

    /// Reads frames until `holds`, or the connection ends.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        patiently(what, async {
            while !holds(self) {
                if !self.read().await {
                    return;
                }
            }
        })
        .await;
    }

    /// Reads one frame and notes what it says; false at the end of the connection.
    pub(crate) async fn read(&mut self) -> bool {
        let Some(frame) = self.next_frame().await else {
            self.closed = true;
            return false;
        };
        self.note(frame).await;
        true
    }

    async fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.buffered_frame() {
                return Some(frame);
            }
            self.buffer.reserve(32 << 10);
            if !matches!(self.reader.read_buf(&mut self.buffer).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// A frame of which every byte was read.
    fn buffered_frame(&mut self) -> Option<Frame> {
        let bytes = &self.buffer[self.taken..];
        let length = bytes.get(..3)?.iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte));
        assert!(length <= MAX_FRAME, "a frame of {length} bytes");
        let payload = bytes.get(9..9 + length)?.to_vec();
        let stream = number(&bytes[5..9]) & 0x7fff_ffff;
        let frame = Frame { kind: bytes[3], flags: bytes[4], stream, payload };
        // Moved once in a while, not for every frame: a flood's answers come by the megabyte.
        self.taken += 9 + length;
        if self.taken > MAX_FRAME || self.taken == self.buffer.len() {
            self.buffer.drain(..std::mem::take(&mut self.taken));
        }
        Some(frame)
    }

    async fn note(&mut self, frame: Frame) {
        let Frame { kind, flags, stream, payload } = frame;
        if let Some((open, ..)) = &self.block {
            assert!(kind == kind::CONTINUATION && stream == *open, "a block was interrupted");
        }
        let of_stream = matches!(kind, kind::DATA | kind::HEADERS | kind::RST_STREAM);
        let of_connection = matches!(kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        assert!(!(of_stream && stream == 0 || of_connection && stream != 0), "{kind} on {stream}");
        assert!(stream % 2 == 0 || stream < self.next_stream, "stream {stream} is not ours");
        match kind {
            kind::DATA => self.note_data(stream, flags, &payload).await,
            kind::HEADERS => {
                assert_eq!(flags & flag::PRIORITY, 0, "servers send no priorities");
                let payload = unpadded(flags, &payload).to_vec();
                self.block = Some((stream, payload, flags & flag::END_STREAM != 0));
                self.note_block(flags);
            }
            kind::CONTINUATION => {
                self.block.as_mut().expect("a block to continue").1.extend(payload);
                self.note_block(flags);
            }
            kind::RST_STREAM => {
                assert_eq!(payload.len(), 4);
                self.streams.entry(stream).or_default().reset = Some(number(&payload));
            }
            kind::SETTINGS if flags & flag::ACK != 0 => {
                assert!(payload.is_empty());
                self.acks += 1;
            }
            kind::SETTINGS => {
                assert_eq!(payload.len() % 6, 0);
                for pair in payload.chunks(6) {
                    let id = u16::from_be_bytes([pair[0], pair[1]]);
                    self.settings.insert(id, number(&pair[2..]));
                }
                self.send(self::frame(kind::SETTINGS, flag::ACK, 0, [])).await;
            }
            kind::PING if flags & flag::ACK != 0 => self.pongs.push(payload),
            kind::PING => {
                assert_eq!(payload.len(), 8);
                self.send(self::frame(kind::PING, flag::ACK, 0, payload)).await;
            }
            kind::GOAWAY => self.goaways.push((number(&payload[..4]), number(&payload[4..8]))),
            kind::WINDOW_UPDATE => {
                let by = i64::from(number(&payload));
                assert!(by > 0, "a window update of nothing");
                match stream {
                    0 => self.credit += by,
                    _ => self.streams.entry(stream).or_default().extra_credit += by,
                }
            }
            kind::PUSH_PROMISE => panic!("a push that we do not take"),
            _ => {}
        }
    }

    async fn note_data(&mut self, stream: u32, flags: u8, payload: &[u8]) {
        let size = i64::try_from(payload.len()).expect("a frame");
        let known = self.streams.get_mut(&stream).expect("data on a stream that was opened");
        self.window -= size;
        known.extra_window -= size;
        assert!(self.window >= 0, "more data than the connection's window");
        let left = self.initial_window + known.extra_window;
        assert!(left >= 0 || size == 0, "more data than the stream's window: {left}");
        assert!(!known.ended, "data behind the end of stream {stream}");
        let answer = known.answer.as_mut().expect("data only behind an answer's head");
        let bytes = unpadded(flags, payload);
        assert!(bytes.is_empty() || !known.bodiless, "a body for HEAD");
        answer.body.extend_from_slice(bytes);
        if flags & flag::END_STREAM != 0 {
            known.end(stream);
        }
        if self.refill && size > 0 {
            let by = u32::try_from(size).expect("a frame");
            self.grant(0, by).await;
            self.grant(stream, by).await;
        }
    }

    /// Takes a block in when its last frame has come.
    fn note_block(&mut self, flags: u8) {
        if flags & flag::END_HEADERS == 0 {
            return;
        }
        let (stream, block, ends) = self.block.take().expect("a block");
        let fields = self.decoder.decode(&block).unwrap_or_else(|error| panic!("{error}"));
        let known = self.streams.entry(stream).or_default();
        assert!(!known.ended, "fields behind the end of stream {stream}");
        let regular = fields.iter().position(|(n, _)| !n.starts_with(':')).unwrap_or(fields.len());
        let (pseudo, fields) = fields.split_at(regular);
        fields.iter().for_each(check_field);
        let fields = Headers(fields.to_vec());
        match (pseudo, &mut known.answer) {
            ([], Some(answer)) => {
                assert!(ends, "trailers that do not end their stream");
                answer.trailers = fields;
            }
            ([(name, status)], None) => {
                assert_eq!(name, ":status");
                assert_eq!(status.len(), 3, "{status:?}");
                let status: u16 = status.parse().expect("a status");
                assert_ne!(status, 101, "HTTP/2 has no 101");
                if status < 200 {
                    assert!(!ends, "an interim answer ends nothing");
                    known.interim.push(status);
                } else {
                    known.answer = Some(Answer {
                        status,
                        headers: fields,
                        body: Vec::new(),
                        interim: known.interim.clone(),
                        trailers: Headers::default(),
                        end: End::Cut,
                    });
                }
            }
            (pseudo, _) => panic!("{pseudo:?} on stream {stream}"),
        }
        if ends {
            known.end(stream);
        }
    }
}

impl Stream {
    /// Its last frame has come: what the head said of the length must be true (§8.1.1).
    fn end(&mut self, stream: u32) {
        self.ended = true;
        let Some(answer) = &self.answer else { return };
        if let Some(length) = answer.headers.get("content-length")
            && !self.bodiless
            && answer.status != 304
        {
            assert_eq!(length, answer.body.len().to_string(), "length on stream {stream}");
        }
    }
}

/// A field that a server may send (§8.2.1, §8.2.2).
fn check_field((name, value): &(String, String)) {
    const NOT_HERE: [&str; 6] =
        ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"];
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    assert!(!name.is_empty() && name.chars().all(token), "field name {name:?}");
    assert!(!name.contains(|c: char| c.is_ascii_uppercase()), "upper case in {name:?}");
    assert!(!value.contains(['\0', '\r', '\n']), "control byte in {name}: {value:?}");
    assert_eq!(value.trim_matches([' ', '\t']), value, "space around {name}");
    assert!(!NOT_HERE.contains(&&**name), "{name}: {value} over HTTP/2");
}

fn unpadded(flags: u8, payload: &[u8]) -> &[u8] {
    if flags & flag::PADDED == 0 {
        return payload;
    }
    let (padding, rest) = payload.split_first().expect("the length of the padding");
    &rest[..rest.len().checked_sub(usize::from(*padding)).expect("less padding than frame")]
}

/// The first four bytes as a number.
pub(crate) fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |sum, byte| (sum << 8) | u32::from(*byte))
}
