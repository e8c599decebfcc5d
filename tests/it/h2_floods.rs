//! HTTP/2 clients that want to keep the gateway busy, each a known attack: while one runs, others
//! are answered, and the program's memory stays within bounds.
//!
//! What is measured is the real program. A flood goes on until the gateway has had enough of it or
//! its time is up: a second by default, fifteen with `PORTCULLIS_TEST_LONG`, where the probes' times
//! are printed too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::client::PATIENCE;
use crate::harness::h2raw::{
    Fields, H2, code, data, flag, frame, headers, kind, reset, setting, settings, window_update,
};
use crate::harness::{Program, Request, TestGateway, Upstream, pause, reply};

/// Connections that flood at once; two of those that let answers pile up, because what waits for a
/// client is bounded for each stream, so that every connection may hold a hundred times that.
const ATTACKERS: usize = 4;
const DEAF_ATTACKERS: usize = 2;

/// How much more memory the program may hold while a flood runs, in KiB.
const GROWTH_KIB: u64 = 64 << 10;

/// Frames sent in one go.
const BATCH: usize = 256;

/// A kind of flood.
#[derive(Clone, Copy, Debug)]
enum Flood {
    /// Requests that are taken back at once (CVE-2023-44487).
    RapidReset,
    /// Requests that make the server reset them (CVE-2025-8671).
    MadeToReset,
    /// Settings that must all be acknowledged.
    Settings,
    /// Pings that must all be answered.
    Ping,
    /// The same by a client that reads no answer.
    DeafPing,
    /// A field block without an end.
    Continuation,
    /// A field block without an end whose frames are empty.
    EmptyContinuation,
    /// Frames of a body that say nothing.
    EmptyData,
    /// Frames of a body that are nothing but padding.
    Padding,
    /// Large answers for which there is no window, then one byte of it at a time.
    WindowStall,
    /// Large answers that nobody reads.
    DeafDownload,
    /// Blocks of which each byte stands for kilobytes (HPACK).
    HeaderBomb,
    /// Blocks that rewrite the whole table again and again.
    TableChurn,
    /// Priorities of streams that are not there.
    Priority,
    /// Frames that nobody knows.
    Unknown,
    /// Windows a byte wider.
    WindowUpdate,
    /// Requests that never end.
    HalfRequests,
}

const ALL: [Flood; 17] = [
    Flood::RapidReset,
    Flood::MadeToReset,
    Flood::Settings,
    Flood::Ping,
    Flood::DeafPing,
    Flood::Continuation,
    Flood::EmptyContinuation,
    Flood::EmptyData,
    Flood::Padding,
    Flood::WindowStall,
    Flood::DeafDownload,
    Flood::HeaderBomb,
    Flood::TableChurn,
    Flood::Priority,
    Flood::Unknown,
    Flood::WindowUpdate,
    Flood::HalfRequests,
];

fn long() -> bool {
    std::env::var_os("PORTCULLIS_TEST_LONG").is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_neither_silence_nor_swell_the_gateway() {
    let big = "x".repeat(512 << 10);
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{big}", big.len());
    let upstream = Upstream::scripted(move |seen| match seen.path() {
        "/public/big" => reply(&big),
        _ => reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    })
    .await;
    for flood in ALL {
        withstand(flood, &upstream).await;
    }
}

/// Lets a program of its own be flooded.
async fn withstand(flood: Flood, upstream: &Upstream) {
    let builder = TestGateway::builder().upstream("app", upstream);
    let builder = builder.config("[server]\nh2c = true\nworkers = 1\n[log]\naccess = false");
    let program = Program::of(builder).await;
    let running = program.serve().await;
    // What the first requests need, they need once.
    for _ in 0..50 {
        H2::connect(program.public).await.exchange(&Fields::get("/public/a")).await.expect(200);
    }
    let process = running.0.id();
    let before = resident_kib(process);
    let time = Duration::from_secs(if long() { 15 } else { 1 });
    let count = if let Flood::DeafDownload = flood { DEAF_ATTACKERS } else { ATTACKERS };
    let over = Arc::new(AtomicBool::new(false));
    let probing = tokio::task::spawn_blocking({
        let (over, address) = (Arc::clone(&over), program.public);
        // A thread and a runtime of its own: what keeps the attackers busy is not to be measured.
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(probe(address, process, &over))
        }
    });
    let attackers = (0..count).map(|_| tokio::spawn(attack(flood, program.public, time)));
    for attacker in futures_util::future::join_all(attackers).await {
        attacker.unwrap_or_else(|error| panic!("{flood:?}: {error}"));
    }
    over.store(true, Ordering::Relaxed);
    let (mut times, most) = probing.await.unwrap_or_else(|error| panic!("{flood:?}: {error}"));
    H2::connect(program.public).await.exchange(&Fields::get("/public/a")).await.expect(200);
    times.sort_unstable();
    let p99 = times[(times.len() * 99 / 100).min(times.len() - 1)];
    let grown = most.max(resident_kib(process)).saturating_sub(before);
    println!("{flood:?}: +{} MiB, {} probes, p99 {p99:?}", grown >> 10, times.len());
    assert!(grown < GROWTH_KIB, "{flood:?}: {grown} KiB more");
}

/// Asks for one thing after another until the flood is over, and at least once; gives how long the
/// answers took, and the most memory that was seen.
async fn probe(address: SocketAddr, process: u32, over: &AtomicBool) -> (Vec<Duration>, u64) {
    let (mut times, mut most) = (Vec::new(), 0);
    while times.is_empty() || !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let answer = Request::new(address, "GET", "/public/probe").send().await;
        assert_eq!(answer.status, 200);
        times.push(asked.elapsed());
        most = most.max(resident_kib(process));
        pause().await;
    }
    (times, most)
}

/// The memory that a process holds.
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Floods until the gateway ends the connection or `time` is up.
async fn attack(flood: Flood, address: SocketAddr, time: Duration) {
    let mut h2 = match flood {
        Flood::WindowStall => H2::connect_narrow(address, 0).await,
        _ => H2::connect(address).await,
    };
    if matches!(flood, Flood::DeafDownload) {
        h2.refill = false;
    }
    // The flood chooses its stream ids itself.
    h2.skip_to(0x7fff_ffff);
    let _ = tokio::time::timeout(time, keep_on(flood, &mut h2)).await;
}

async fn keep_on(flood: Flood, h2: &mut H2) {
    let mut ids = (1_u32..).step_by(2);
    let get = Fields::get("/public/a").block();
    let post = Fields::post("/public/a");
    let open = headers(1, 0, &post);
    match flood {
        Flood::RapidReset | Flood::MadeToReset | Flood::HalfRequests => loop {
            let mut batch = Vec::new();
            for id in ids.by_ref().take(BATCH) {
                match flood {
                    Flood::RapidReset => {
                        batch.extend(frame(kind::HEADERS, 5, id, &get));
                        batch.extend(reset(id, code::CANCEL));
                    }
                    Flood::MadeToReset => {
                        batch.extend(headers(id, 0, &post));
                        batch.extend(window_update(id, 0));
                    }
                    _ => batch.extend(headers(id, 0, &post)),
                }
            }
            if !h2.flood(&batch).await {
                return;
            }
        },
        Flood::Settings => again(h2, settings(&[(setting::MAX_CONCURRENT_STREAMS, 9)])).await,
        Flood::Ping => again(h2, frame(kind::PING, 0, 0, [7; 8])).await,
        Flood::DeafPing => {
            let batch = frame(kind::PING, 0, 0, [7; 8]).repeat(BATCH);
            // Until the gateway takes no more, then the rest of the time in silence.
            loop {
                let sent = tokio::time::timeout(PATIENCE, h2.try_send(&batch)).await;
                if !matches!(sent, Ok(true)) {
                    return;
                }
            }
        }
        Flood::Continuation | Flood::EmptyContinuation => {
            h2.flood(&frame(kind::HEADERS, flag::END_STREAM, 1, &get)).await;
            let piece = Fields::none().with("x", "y".repeat(1000)).block();
            let piece = if matches!(flood, Flood::Continuation) { &piece[..] } else { &[] };
            again(h2, frame(kind::CONTINUATION, 0, 1, piece)).await;
        }
        Flood::EmptyData => {
            h2.flood(&open).await;
            again(h2, data(1, 0, "")).await;
        }
        Flood::Padding => {
            h2.flood(&open).await;
            let padding = [&[255][..], &[0; 255]].concat();
            again(h2, frame(kind::DATA, flag::PADDED, 1, padding)).await;
        }
        Flood::WindowStall | Flood::DeafDownload => {
            let big = Fields::get("/public/big");
            let many: Vec<u8> =
                ids.take(100).flat_map(|id| headers(id, flag::END_STREAM, &big)).collect();
            h2.flood(&many).await;
            if matches!(flood, Flood::DeafDownload) {
                // Windows are wide; nobody reads until the time is up.
                std::future::pending::<()>().await;
            }
            loop {
                for id in (1..200).step_by(2) {
                    h2.grant(id, 1).await;
                }
                if !h2.flood(&[]).await || !h2.ping().await {
                    return;
                }
            }
        }
        Flood::HeaderBomb => {
            // An entry of 4,000 bytes, then a byte for each time that it is meant.
            let mut block = get.clone();
            block.extend(b"\x40\x01x\x7f\xa1\x1e");
            block.extend([b'y'; 4000]);
            h2.flood(&frame(kind::HEADERS, 5, 1, &block)).await;
            for id in ids.skip(1) {
                let bomb = [&get[..], &[0xbe; 16_000]].concat();
                if !h2.flood(&frame(kind::HEADERS, 5, id, bomb)).await {
                    return;
                }
            }
        }
        Flood::TableChurn => {
            for (id, n) in ids.zip(0_u32..) {
                let mut block = get.clone();
                for m in 0..200 {
                    let name = format!("x-{n}-{m}");
                    block.push(0x40);
                    block.push(u8::try_from(name.len()).expect("short"));
                    block.extend(name.bytes());
                    block.extend([1, b'y']);
                }
                if !h2.flood(&frame(kind::HEADERS, 5, id, block)).await {
                    return;
                }
            }
        }
        Flood::Priority => again(h2, frame(kind::PRIORITY, 0, 77, [0, 0, 0, 9, 1])).await,
        Flood::Unknown => again(h2, frame(0x16, 0, 0, [0; 16])).await,
        Flood::WindowUpdate => again(h2, window_update(0, 1)).await,
    }
}

/// The same frame over and over.
async fn again(h2: &mut H2, frame: Vec<u8>) {
    let batch = frame.repeat(BATCH);
    while h2.flood(&batch).await {}
}
