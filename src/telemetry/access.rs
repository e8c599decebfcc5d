//! The access log: one line a request, JSON or text, written by hand into a buffer of the worker
//! and carried to standard output by a thread of its own, so that a slow pipe never holds up a
//! request. What does not fit is counted and dropped.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use jiff::Timestamp;

/// A buffer is handed over when it is this full, or at the next tick.
const FULL_BYTES: usize = 32 << 10;

/// Buffers that may wait for the writing thread: about 8 MiB.
const MAX_WAITING: usize = 256;

/// Longest text of a client in a line.
const MAX_TEXT_BYTES: usize = 256;

/// One request, as it is logged.
#[derive(Debug)]
pub struct Line<'a> {
    /// When it arrived.
    pub time: Timestamp,
    /// `X-Request-Id`: letters, digits and `._-` only.
    pub request_id: &'a [u8],
    /// The client's address.
    pub client: &'a str,
    /// Method.
    pub method: &'a str,
    /// Path, without its query.
    pub path: &'a [u8],
    /// The route's pattern, or who else answered.
    pub route: &'a str,
    /// The answer's status.
    pub status: u16,
    /// `allow`, `deny`, `shadow` or `own`.
    pub decision: &'static str,
    /// Why, a word of ours.
    pub reason: &'a str,
    /// The token's subject.
    pub user_id: Option<&'a str>,
    /// The token's session: a UUID.
    pub session_id: Option<&'a str>,
    /// The server it was forwarded to, `host:port`.
    pub upstream: Option<&'a str>,
    /// That server's status.
    pub upstream_status: Option<u16>,
    /// Bytes of body read.
    pub bytes_in: u64,
    /// Bytes of body sent.
    pub bytes_out: u64,
    /// From arrival to the end of the answer.
    pub duration: Duration,
    /// To the upstream's response head.
    pub upstream_time: Option<Duration>,
    /// What the client calls itself.
    pub user_agent: Option<&'a [u8]>,
}

/// One worker's end of the access log.
pub struct AccessLog {
    buffer: RefCell<Vec<u8>>,
    json: bool,
    carrier: Option<Carrier>,
    /// The second that was formatted last, and its text.
    second: Cell<i64>,
    second_text: RefCell<String>,
}

/// The way to the writing thread.
#[derive(Clone)]
pub struct Carrier {
    sender: SyncSender<Load>,
    dropped: Arc<AtomicU64>,
}

/// What is carried.
enum Load {
    Lines(Vec<u8>),
    /// Everything before this has been written.
    Mark(SyncSender<()>),
}

impl Carrier {
    /// Starts the thread that writes to `output`. It ends, with everything written, when the last
    /// carrier is gone.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        mut output: impl Write + Send + 'static,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (sender, receiver): (_, Receiver<Load>) = sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            for load in receiver {
                match load {
                    // Nobody could be told that the log itself cannot be written.
                    Load::Lines(lines) => {
                        let _ = output.write_all(&lines).and_then(|()| output.flush());
                    }
                    Load::Mark(reply) => drop(reply.try_send(())),
                }
            }
        })?;
        Ok((Self { sender, dropped: Arc::default() }, thread))
    }

    /// Waits until what was handed over is written, at most for `patience`.
    pub fn wait_until_written(&self, patience: Duration) {
        let (reply, written) = sync_channel(1);
        if self.sender.try_send(Load::Mark(reply)).is_ok() {
            let _ = written.recv_timeout(patience);
        }
    }

    fn hand_over(&self, lines: Vec<u8>) {
        if self.sender.try_send(Load::Lines(lines)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// How many buffers were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// For diagnostics, which come a line at a time. Never fails and never waits.
impl Write for Carrier {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.hand_over(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AccessLog {
    /// A log over `carrier`; without one, nothing is logged.
    pub fn new(carrier: Option<Carrier>, json: bool) -> Self {
        Self {
            buffer: RefCell::default(),
            json,
            carrier,
            second: Cell::new(i64::MIN),
            second_text: RefCell::default(),
        }
    }

    /// Notes one request.
    pub fn note(&self, line: &Line<'_>) {
        if self.carrier.is_none() {
            return;
        }
        let second = line.time.as_second();
        if self.second.replace(second) != second {
            let whole = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
            let text = whole.to_string();
            text.trim_end_matches('Z').clone_into(&mut self.second_text.borrow_mut());
        }
        let mut buffer = self.buffer.borrow_mut();
        let millis = line.time.subsec_millisecond();
        if self.json {
            write_json(&mut buffer, &self.second_text.borrow(), millis, line);
        } else {
            write_text(&mut buffer, &self.second_text.borrow(), millis, line);
        }
        if buffer.len() >= FULL_BYTES {
            self.hand_over(&mut buffer);
        }
    }

    /// Hands over what waits; called at every tick.
    pub fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.is_empty() {
            self.hand_over(&mut buffer);
        }
    }

    fn hand_over(&self, buffer: &mut Vec<u8>) {
        let Some(carrier) = &self.carrier else { return };
        let lines = std::mem::replace(buffer, Vec::with_capacity(FULL_BYTES + 1024));
        carrier.hand_over(lines);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

fn write_json(out: &mut Vec<u8>, second: &str, millis: i32, line: &Line<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    write_time(out, second, millis);
    out.extend_from_slice(b"\",\"level\":\"info\",\"request_id\":\"");
    out.extend_from_slice(line.request_id);
    out.extend_from_slice(b"\",\"client\":\"");
    out.extend_from_slice(line.client.as_bytes());
    out.extend_from_slice(b"\",\"method\":\"");
    out.extend_from_slice(line.method.as_bytes());
    out.extend_from_slice(b"\",\"path\":\"");
    write_escaped(out, line.path);
    out.extend_from_slice(b"\",\"route\":\"");
    write_escaped(out, line.route.as_bytes());
    out.extend_from_slice(b"\",\"status\":");
    write_number(out, line.status.into());
    out.extend_from_slice(b",\"decision\":\"");
    out.extend_from_slice(line.decision.as_bytes());
    out.extend_from_slice(b"\",\"reason\":\"");
    out.extend_from_slice(line.reason.as_bytes());
    out.push(b'"');
    if let Some(user_id) = line.user_id {
        out.extend_from_slice(b",\"user_id\":\"");
        write_escaped(out, user_id.as_bytes());
        out.push(b'"');
    }
    if let Some(session_id) = line.session_id {
        out.extend_from_slice(b",\"session_id\":\"");
        out.extend_from_slice(session_id.as_bytes());
        out.push(b'"');
    }
    if let Some(upstream) = line.upstream {
        out.extend_from_slice(b",\"upstream\":\"");
        out.extend_from_slice(upstream.as_bytes());
        out.push(b'"');
    }
    if let Some(status) = line.upstream_status {
        out.extend_from_slice(b",\"upstream_status\":");
        write_number(out, status.into());
    }
    out.extend_from_slice(b",\"bytes_in\":");
    write_number(out, line.bytes_in);
    out.extend_from_slice(b",\"bytes_out\":");
    write_number(out, line.bytes_out);
    out.extend_from_slice(b",\"duration_ms\":");
    write_millis(out, line.duration);
    if let Some(time) = line.upstream_time {
        out.extend_from_slice(b",\"upstream_ms\":");
        write_millis(out, time);
    }
    if let Some(user_agent) = line.user_agent {
        out.extend_from_slice(b",\"user_agent\":\"");
        write_escaped(out, &user_agent[..user_agent.len().min(MAX_TEXT_BYTES)]);
        out.push(b'"');
    }
    out.extend_from_slice(b"}\n");
}

fn write_text(out: &mut Vec<u8>, second: &str, millis: i32, line: &Line<'_>) {
    write_time(out, second, millis);
    let _ = write!(out, " {} {} {} ", line.client, line.status, line.method);
    write_escaped(out, line.path);
    let _ = write!(out, " {} ({})", line.decision, line.reason);
    if let Some(upstream) = line.upstream {
        let _ = write!(out, " -> {upstream}");
    }
    if let Some(user_id) = line.user_id {
        let _ = write!(out, " user={user_id}");
    }
    out.push(b' ');
    write_millis(out, line.duration);
    out.extend_from_slice(b"ms ");
    write_escaped(out, line.request_id);
    out.push(b'\n');
}

fn write_time(out: &mut Vec<u8>, second: &str, millis: i32) {
    out.extend_from_slice(second.as_bytes());
    let millis = u16::from(u8::try_from(millis / 10).unwrap_or(0)) * 10
        + u16::try_from(millis % 10).unwrap_or(0);
    let digit = |n: u16| b'0' + u8::try_from(n % 10).unwrap_or(0);
    out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Milliseconds with three decimals.
fn write_millis(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    write_number(out, micros / 1000);
    let digit = |n: u64| b'0' + u8::try_from(n % 10).unwrap_or(0);
    out.extend_from_slice(&[b'.', digit(micros / 100), digit(micros / 10), digit(micros)]);
}

/// Text of a client: printable ASCII as it is, quotes and backslashes escaped for JSON, every
/// other byte as `?`, so that no line can be broken and no terminal be told anything.
fn write_escaped(out: &mut Vec<u8>, text: &[u8]) {
    // Without an early end, so that many bytes are looked at at once.
    if text.iter().fold(true, |plain, &byte| plain & is_plain(byte)) {
        out.extend_from_slice(text);
        return;
    }
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ if is_plain(byte) => out.push(byte),
            _ => out.push(b'?'),
        }
    }
}

fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        Line {
            time: "2026-11-21T10:00:00.042Z".parse().unwrap(),
            request_id: b"r-1",
            client: "192.0.2.1",
            method: "GET",
            path: b"/a\"b\n",
            route: "/a",
            status: 200,
            decision: "allow",
            reason: "owner",
            user_id: Some("u-1"),
            session_id: Some("00000000-0000-0000-0000-000000000000"),
            upstream: Some("127.0.0.1:1"),
            upstream_status: Some(200),
            bytes_in: 0,
            bytes_out: 1234,
            duration: Duration::from_micros(1_234_567),
            upstream_time: Some(Duration::from_micros(7)),
            user_agent: Some(b"curl\x1b[31m\xff"),
        }
    }

    #[test]
    fn json_lines_parse_whatever_clients_send() {
        let mut out = Vec::new();
        write_json(&mut out, "2026-11-21T10:00:00", 42, &line());
        assert_eq!(out.iter().position(|&b| b == b'\n'), Some(out.len() - 1));
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["time"], "2026-11-21T10:00:00.042Z");
        assert_eq!(value["path"], "/a\"b?");
        assert_eq!(value["duration_ms"], 1234.567);
        assert_eq!(value["upstream_ms"], 0.007);
        assert_eq!(value["user_agent"], "curl?[31m?");
    }

    #[test]
    fn a_full_pipe_drops_lines_and_counts_them() {
        struct Stuck(Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (free, stuck) = sync_channel(0);
        let (carrier, thread) = Carrier::start(Stuck(stuck)).unwrap();
        let log = AccessLog::new(Some(carrier.clone()), true);
        for _ in 0..MAX_WAITING + 10 {
            log.note(&line());
            log.flush();
        }
        assert!(carrier.dropped() >= 9);
        drop((free, log, carrier));
        thread.join().unwrap();
    }
}
