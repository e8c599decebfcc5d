//! Mutated requests through the sockets, against a strict reader: whatever bytes a client sends, an
//! upstream receives only requests that the strict reader finds in those bytes too, with the same
//! method, target and body, and each at most once. What the upstream gets is parsed strictly there.
//!
//! The reader is the one of the fuzz targets. `PORTCULLIS_TEST_LONG` makes many more cases, from a
//! random seed.

use std::collections::HashMap;
use std::net::SocketAddr;

use portcullis::clock::random_bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Seen, Step, TestGateway, Upstream, patiently, write};

#[path = "../fuzz/src/strict.rs"]
#[expect(dead_code, unreachable_pub, reason = "shared with the fuzz targets")]
mod strict;

/// Behind every stream: neither a request nor the beginning of one.
const NO_REQUEST: &[u8] = b"\n\0\n";

/// Connections at a time.
const AT_ONCE: usize = 16;

/// What a client's bytes say to the strict reader.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    method: String,
    target: String,
    /// As far as it can be read.
    body: Vec<u8>,
    /// Whether it is all of it.
    whole: bool,
}

#[tokio::test]
async fn an_upstream_sees_only_what_a_strict_reader_sees() {
    let long = std::env::var_os("PORTCULLIS_TEST_LONG").is_some();
    let (cases, seed) =
        if long { (100_000, u64::from_le_bytes(random_bytes())) } else { (2_000, 0x5eed) };
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let upstream = Upstream::scripted(move |_| vec![Step::ReadBody, write(answer)]).await;
    let gateway = TestGateway::in_front_of(&upstream).await;

    let mut random = Random(seed);
    let mut expected: HashMap<String, Vec<(Reading, String)>> = HashMap::new();
    let mut good = 0;
    let mut streams = Vec::new();
    for case in 0..cases {
        // Every tenth is left as it is, so that it shows when nothing gets through at all.
        let mut bytes = random.stream(case, case % 10 != 0);
        bytes.extend_from_slice(NO_REQUEST);
        let (readings, swallowed) = readings(&bytes);
        good += if case % 10 == 0 { readings.len() } else { 0 };
        for reading in readings {
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            expected.entry(reading.target.clone()).or_default().push((reading, shown));
        }
        streams.push((bytes, swallowed));
        if streams.len() == AT_ONCE {
            let address = gateway.address;
            let sent = streams.drain(..).map(|stream| tokio::spawn(send(address, stream)));
            for sent in sent.collect::<Vec<_>>() {
                sent.await.expect("a client does not panic");
            }
        }
    }
    upstream.until("the good requests", |seen| good_ones(seen) >= good).await;

    let mut found = 0;
    for seen in upstream.seen() {
        let candidates = expected.get_mut(&seen.target);
        let candidates =
            candidates.unwrap_or_else(|| panic!("seed {seed}: from nowhere: {seen:?}"));
        let fits = |(reading, _): &(Reading, String)| {
            let complete = seen.complete && reading.whole && reading.body == seen.body;
            let cut = !seen.complete && reading.body.starts_with(&seen.body);
            reading.method == seen.method && (complete || cut)
        };
        match candidates.iter().position(fits) {
            Some(at) => drop(candidates.swap_remove(at)),
            None => panic!("seed {seed}: read differently: {seen:?} and {candidates:#?}"),
        }
        found += 1;
    }
    assert!(found > cases / 10, "seed {seed}: only {found} of {cases} connections got through");
}

/// Requests whose case was not changed.
fn good_ones(seen: &[Seen]) -> usize {
    let case = |seen: &Seen| seen.target.strip_prefix("/public/")?.split('-').next()?.parse().ok();
    seen.iter().filter(|seen| case(seen).is_some_and(|case: usize| case.is_multiple_of(10))).count()
}

/// Sends bytes and reads whatever comes. The gateway closes after [`NO_REQUEST`]; where a body has
/// swallowed that, the client gives up.
async fn send(address: SocketAddr, (bytes, gives_up): (Vec<u8>, bool)) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("the gateway listens");
        // It may close before all is written.
        let _ = stream.write_all(&bytes).await;
        if gives_up {
            let _ = stream.shutdown().await;
        }
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let shown = String::from_utf8_lossy(&bytes);
    patiently(&format!("the end of a connection after {shown:?}"), exchange).await;
}

/// The requests that a strict reader finds, up to what is none; whether a body has swallowed that.
fn readings(bytes: &[u8]) -> (Vec<Reading>, bool) {
    let mut found = Vec::new();
    let mut rest = bytes;
    loop {
        // RFC 9112 §2.2: empty lines before a request are passed over.
        while let [b'\r', b'\n', after @ ..] = rest {
            rest = after;
        }
        let Ok(head) = strict::request(rest) else { return (found, rest.is_empty()) };
        let behind = &rest[head.bytes..];
        let mut body = Vec::new();
        let end = match head.framing {
            strict::Framing::Length(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                body.extend_from_slice(&behind[..length.min(behind.len())]);
                (behind.len() >= length).then_some(length)
            }
            strict::Framing::Chunked => strict::chunks_into(behind, &mut body).ok().flatten(),
        };
        // Of an absolute form only the path and what follows it is passed on.
        let target = String::from_utf8_lossy(head.target).into_owned();
        let path = target.split_once("://").and_then(|(_, rest)| Some(&rest[rest.find('/')?..]));
        found.push(Reading {
            method: String::from_utf8_lossy(head.method).into_owned(),
            target: path.unwrap_or(&target).to_owned(),
            body,
            whole: end.is_some(),
        });
        match end {
            Some(end) => rest = &behind[end..],
            None => return (found, true),
        }
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).expect("below a size")
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// One to three requests, one after another on a connection, and up to three changes.
    fn stream(&mut self, case: usize, changed: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for place in 0..=self.below(3) {
            let target = format!("/public/{case}-{place}");
            bytes.extend_from_slice(self.pick(&TEMPLATES).replace("TARGET", &target).as_bytes());
        }
        if changed {
            for _ in 0..=self.below(3) {
                self.change(&mut bytes);
            }
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        let end = (at + 1 + self.below(8)).min(bytes.len());
        match self.below(5) {
            0 => drop(bytes.splice(at..at, self.pick(&PIECES).bytes())),
            1 => drop(bytes.splice(at..end, self.pick(&PIECES).bytes())),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                // Behind a line end, where a field may begin.
                let lines: Vec<usize> =
                    (1..bytes.len()).filter(|&end| bytes[end - 1] == b'\n').collect();
                let at = if lines.is_empty() { 0 } else { self.pick(&lines) };
                bytes.splice(at..at, self.pick(&LINES).bytes());
            }
        }
    }
}

const TEMPLATES: [&str; 7] = [
    "GET TARGET HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET TARGET?x=1&y HTTP/1.1\r\nHost: a.example:80\r\nAccept: */*\r\nCookie: a=b\r\n\r\n",
    "POST TARGET HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde",
    "PUT TARGET HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
    "POST TARGET HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n1\r\nx\r\n0\r\nT: v\r\n\r\n",
    "GET http://a.exampleTARGET HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, X-A\r\nX-A: 1\r\n\r\n",
    "DELETE TARGET HTTP/1.1\r\nhost: [::1]:8080\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
];

const PIECES: [&str; 28] = [
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    " ",
    "\t",
    "\0",
    "\x0b",
    "\x0c",
    "\u{85}",
    ":",
    ",",
    ";",
    "#",
    "\\",
    "%2e",
    "/../",
    "0",
    "0\r\n\r\n",
    "f",
    "HTTP/1.0",
    "HTTP/1.1",
    "chunked",
    "\"",
    "://",
    "@",
    "?",
    "é",
];

const LINES: [&str; 16] = [
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "transfer_encoding: chunked\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 7\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: 5, 5\r\n",
    "Host: b\r\n",
    " folded\r\n",
    ": nameless\r\n",
    "Connection: close\r\n",
    "Connection: Content-Length, Host\r\n",
    "Upgrade: h2c\r\n",
    "0\r\n\r\n",
    "GET /public/smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
];
