//! What the parts of a request's way cost, each by itself: `cargo bench --bench parts`.
//!
//! The names say what varies: a look-up among 10,000 routes stands beside one among 10.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use http::Method;
use jiff::Timestamp;
use portcullis::clock::Clock;
use portcullis::config::{Algorithm, Config, Counters, Limit, LimitBy, OnOutage, Rate, Tokens};
use portcullis::identity::keys::generate;
use portcullis::identity::{
    Credential, Identity, IssuerIndex, IssuerSet, KeySet, Revocations, TokenCache, Verifier,
};
use portcullis::limit::{Caller, Limiter, Rule};
use portcullis::message::request::HeadReader;
use portcullis::message::{Buffer, RequestHead, ResponseHead};
use portcullis::proxy::decide::{Decision, decide_quietly};
use portcullis::proxy::headers::{HeaderPolicy, Hop, RequestIds, Scheme, write_response};
use portcullis::proxy::link::RequestLine;
use portcullis::proxy::path::CanonicalPath;
use portcullis::proxy::route::RouteTable;

const NOW: i64 = 1_800_000_000;

const USER: &str = "018f2d3e-0000-7000-8000-00000000000a";

const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

criterion_group! {
    name = parts;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = paths, routes, heads, headers, tokens, limits
}
criterion_main!(parts);

fn paths(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    for (name, path) in [
        ("short", "/api/u1/tasks".to_owned()),
        ("usual", format!("/api/{USER}/tasks/42/comments")),
        ("escaped", "/api/caf%C3%A9/%E2%82%AC/x%20y".to_owned()),
        ("8KiB", format!("/{}", "a".repeat(8 * 1024 - 1))),
    ] {
        group.bench_function(name, |b| b.iter(|| CanonicalPath::parse(black_box(&path)).is_ok()));
    }
}

/// As many routes as asked for: services with a few kinds of routes each.
fn config_with_routes(count: usize) -> Config {
    use std::fmt::Write as _;
    let mut text = "[upstreams.app]\nservers = [\"http://127.0.0.1:1\"]\n".to_owned();
    for at in 0..count {
        let service = at / 5;
        let path = match at % 5 {
            0 => format!("/api/s{service}/{{user_id}}/{{*rest}}"),
            1 => format!("/api/s{service}/health"),
            2 => format!("/api/s{service}/items/{{id:int}}"),
            3 => format!("/public/s{service}/{{*rest}}"),
            _ => format!("/v1/{{tenant}}/s{service}/{{id:uuid}}"),
        };
        write!(text, "[[routes]]\npath = \"{path}\"\nupstream = \"app\"\n")
            .expect("a string takes everything");
    }
    toml::from_str(&text).expect("the text is a configuration")
}

/// The look-up does not grow with the table; compiling grows no faster than it.
fn routes(c: &mut Criterion) {
    for count in [10, 1_000, 10_000] {
        let config = config_with_routes(count);
        let table = RouteTable::compile(&config).expect("no two routes clash");
        let last = count / 5 - 1;
        let paths = [
            ("owner", format!("/api/s{last}/{USER}/tasks/42")),
            ("typed", format!("/v1/acme/s{last}/{USER}")),
            ("none", format!("/api/s{count}/nothing/of/that/kind")),
        ];
        let mut group = c.benchmark_group("route");
        for (name, path) in &paths {
            let path = CanonicalPath::parse(path).expect("a plain path");
            group.bench_function(BenchmarkId::new(*name, count), |b| {
                b.iter(|| table.find(black_box(path), &Method::GET).is_ok());
            });
        }
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("compile", count), |b| {
            b.iter(|| RouteTable::compile(black_box(&config)).is_ok());
        });
    }
}

/// The head that the end-to-end comparison sends, too.
fn request_bytes() -> Vec<u8> {
    format!(
        "GET /api/{USER}/profile HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: bench/1.0\r\n\
         Accept: application/json\r\nAccept-Encoding: gzip\r\n\
         Authorization: Bearer {}\r\n\r\n",
        "a".repeat(245)
    )
    .into_bytes()
}

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\
                        Server: upstream\r\nDate: Tue, 25 Nov 2026 12:00:00 GMT\r\n\r\n";

fn read_head(bytes: &[u8]) -> RequestHead {
    let mut buffer = Buffer::new();
    buffer.put(bytes);
    let head = HeadReader::default().take(&mut buffer, 32 << 10);
    let mut head = head.expect("it is well formed").expect("it is whole");
    head.check(false).expect("it is acceptable");
    head
}

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    let request = request_bytes();
    group.bench_function("request", |b| b.iter(|| read_head(black_box(&request))));
    group.bench_function("answer", |b| {
        b.iter(|| ResponseHead::parse(black_box(ANSWER), &Method::GET).is_ok());
    });
}

fn headers(c: &mut Criterion) {
    let config = config_with_routes(10);
    let table = RouteTable::compile(&config).expect("no two routes clash");
    let policy = HeaderPolicy::compile(&config).expect("the defaults are good");
    let head = read_head(&request_bytes());
    let roles = ["clerk".to_owned()];
    let caller = Identity::synthetic(USER, &roles, IssuerIndex::OURS, "self".into());
    let caller = Arc::new(caller.expect("a good subject"));
    let path = format!("/api/s0/{USER}/profile");
    let credential = |_: &_| Credential::Verified(Arc::clone(&caller));
    let decide = || decide_quietly(&table, &Method::GET, black_box(&path), None, credential, 0);
    let mut group = c.benchmark_group("headers");
    group.bench_function("decide", |b| b.iter(|| matches!(decide(), Decision::Permit(_))));

    let Decision::Permit(permit) = decide() else { panic!("the owner may have the path") };
    let now = Timestamp::from_second(NOW).expect("a time");
    let request_id = RequestIds::new().id_of(head.fields(), now);
    let hop = Hop {
        peer: "192.0.2.9",
        client: "192.0.2.9",
        trusted: false,
        scheme: Scheme::Http,
        version: head.version,
        client_certificate: None,
        request_id: &request_id,
    };
    let line = RequestLine {
        method: &head.method,
        target: [head.path_bytes(), head.query_bytes()],
        host: b"localhost:8080",
        body: head.body,
        websocket: false,
    };
    let mut out = Vec::with_capacity(4 << 10);
    group.bench_function("request", |b| {
        b.iter(|| {
            out.clear();
            line.write(&mut out, |out| policy.write_request(head.fields(), &permit, &hop, out))
        });
    });
    let answer = ResponseHead::parse(ANSWER, &Method::GET);
    let answer = answer.expect("it is well formed").expect("it is whole");
    group.bench_function("answer", |b| {
        b.iter(|| {
            out.clear();
            write_response(answer.fields(black_box(ANSWER)), |_| false, &mut out);
        });
    });
}

/// A verifier and a good token of its own.
fn verifier(algorithm: Algorithm) -> (Arc<Verifier>, Vec<u8>) {
    let now = Timestamp::from_second(NOW).expect("a time");
    let keys = if algorithm == Algorithm::Hs256 {
        KeySet::from_secret(b"0123456789abcdef0123456789abcdef")
    } else {
        let key = generate(algorithm, now, now).expect("a key pair");
        KeySet::from_keys(algorithm, &[key])
    };
    let keys = Arc::new(keys.expect("a good key"));
    let signer = keys.signer(now).expect("the key is active");
    let part = |json: String| URL_SAFE_NO_PAD.encode(json);
    let header =
        format!(r#"{{"alg":"{}","typ":"JWT","kid":"{}"}}"#, algorithm.name(), signer.kid());
    let claims = format!(
        r#"{{"iss":"https://gate.example/auth","sub":"{USER}","aud":"authenticated","exp":{},
            "iat":{NOW},"jti":"j-1","session_id":"5f0c4a3e-0b1d-4f6a-9c55-0d3c8a3b9f10",
            "email":"ann@example.com","email_verified":true,"role":"authenticated",
            "app_metadata":{{"roles":["staff"]}},"user_metadata":{{}}}}"#,
        NOW + 3600
    );
    let mut token = format!("{}.{}", part(header), part(claims));
    let signature = signer.sign(token.as_bytes()).expect("it signs");
    token = format!("{token}.{}", URL_SAFE_NO_PAD.encode(signature));
    let tokens = Tokens { issuer: "https://gate.example/auth".to_owned(), ..Tokens::default() };
    let verifier = Verifier::compile(&tokens, keys, &[]).expect("it compiles");
    (Arc::new(verifier), token.into_bytes())
}

/// Cold: the whole verification. Warm: the worker has seen the token before.
fn tokens(c: &mut Criterion) {
    let revocations = Revocations::new(Duration::from_secs(30), Instant::now());
    for algorithm in ALGORITHMS {
        let (verifier, token) = verifier(algorithm);
        let mut group = c.benchmark_group("token");
        group.bench_function(BenchmarkId::new("cold", algorithm.name()), |b| {
            b.iter(|| verifier.verify(black_box(&token), IssuerSet::OURS, NOW).expect("good"));
        });
        let mut cache = TokenCache::new(TokenCache::DEFAULT_BYTES);
        group.bench_function(BenchmarkId::new("warm", algorithm.name()), |b| {
            b.iter(|| {
                cache
                    .verify(black_box(&token), IssuerSet::OURS, &verifier, &revocations, NOW)
                    .expect("good")
            });
        });
    }
}

/// A hit that is counted, in this process; the times of a window are full, and of many callers.
fn limits(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut group = c.benchmark_group("limiter");
    for (name, limit, callers) in
        [("one caller", 1_000, 1), ("10,000 callers", 5, 10_000), ("refused", 1, 1)]
    {
        let limit = Limit { rate: Rate::new(limit, 60), by: LimitBy::Ip, on_outage: None };
        let rule = Rule::compile("search", &limit, OnOutage::Local).expect("a good name");
        let clock = Clock::manual(Timestamp::from_second(NOW).expect("a time"));
        let counters = Counters::default();
        let open = || Limiter::open(&counters, clock.clone()).expect("memory opens");
        let mut next = 0_u32;
        let keys: Vec<_> = (0..callers)
            .map(|n| {
                let address = IpAddr::V4(Ipv4Addr::from_bits(n));
                rule.key(&Caller::anonymous(address, ""))
            })
            .collect();
        let limiter = open();
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    // Time goes on once a round, so that windows fill and empty as in life.
                    next = (next + 1) % callers;
                    if next == 0 && name != "refused" {
                        clock.advance(Duration::from_millis(60));
                    }
                    &keys[next as usize]
                },
                |key| runtime.block_on(limiter.hit(&rule, black_box(key))),
                BatchSize::SmallInput,
            );
        });
    }
}
