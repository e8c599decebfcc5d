//! The limiter over both backends, and over a Redis that is slow to come, hangs, dies and comes
//! back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::clock::Clock;
use portcullis::config::{Counters, Limit, LimitBy, OnOutage, Rate};
use portcullis::limit::redis::{RECOVERY, TimeSource, script};
use portcullis::limit::window::Window;
use portcullis::limit::{Basis, Caller, DEADLINE, Key, Limiter, Rule, rate_limit_fields};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde::Deserialize;

use crate::harness::redis::{OwnCluster, OwnRedis, Redis};
use crate::harness::watchdog::random_name;

/// What a call may take beyond its deadline on a machine that is busy with other tests.
const SLACK: Duration = Duration::from_millis(200);

fn rule_with(name: &str, limit: u32, seconds: u64, on_outage: OnOutage) -> Rule {
    let limit = Limit { rate: Rate::new(limit, seconds), by: LimitBy::Ip, on_outage: None };
    Rule::compile(name, &limit, on_outage).expect("a good name")
}

fn rule(name: &str, limit: u32, seconds: u64) -> Rule {
    rule_with(name, limit, seconds, OnOutage::Local)
}

fn key(address: &str) -> Key {
    let address: IpAddr = address.parse().expect("an address");
    rule("any", 1, 1).key(&Caller::anonymous(address, ""))
}

/// Both backends.
fn both() -> [(&'static str, Limiter); 2] {
    [("memory", open(&Counters::default())), ("redis", open(&Redis::new().counters()))]
}

/// For tests of what is counted: on a machine that is busy with other tests, an answer that comes
/// late is no outage.
fn open(counters: &Counters) -> Limiter {
    open_strict(counters).with_deadline(Duration::from_secs(20))
}

/// For tests of outages: with the deadline of production.
fn open_strict(counters: &Counters) -> Limiter {
    Limiter::open(counters, Clock::system()).expect("counters open")
}

/// Waits until hits are counted by Redis again; returns how long that took.
async fn until_counted(limiter: &Limiter) -> Duration {
    let start = Instant::now();
    loop {
        let probe = key(&format!("10.9.{}", fresh_tail()));
        if limiter.hit(&rule("until", 1_000, 60), &probe).await.basis == Basis::Counted {
            return start.elapsed();
        }
        assert!(start.elapsed() < RECOVERY * 2, "redis is back but not used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn fresh_tail() -> String {
    let n = u16::from_str_radix(&random_name()[..4], 16).expect("hex");
    format!("{}.{}", n >> 8, n & 255)
}

#[tokio::test]
async fn allows_the_limit_and_not_one_more() {
    for (backend, limiter) in both() {
        let (rule, client) = (rule("login", 5, 60), key("192.0.2.1"));
        for left in (0..5).rev() {
            let decision = limiter.hit(&rule, &client).await;
            assert_eq!(
                (decision.allowed, decision.remaining, decision.limit, decision.basis),
                (true, left, 5, Basis::Counted),
                "{backend}"
            );
            assert_eq!(decision.retry_after, Duration::ZERO, "{backend}");
        }
        let refused = limiter.hit(&rule, &client).await;
        assert!(!refused.allowed, "{backend}");
        assert!((58..=60).contains(&refused.retry_after_seconds()), "{backend} {refused:?}");
        assert!(refused.reset >= refused.retry_after, "{backend} {refused:?}");
        let fields = rate_limit_fields(&[(&rule, refused)]).expect("fields");
        assert!(fields.rate_limit.starts_with("\"login\";r=0;t="), "{backend} {fields:?}");
        assert_eq!(fields.policy, "\"login\";q=5;w=60", "{backend}");

        assert!(limiter.hit(&rule, &key("192.0.2.2")).await.allowed, "{backend}");
        assert!(limiter.ping().await.is_ok(), "{backend}");
    }
}

#[tokio::test]
async fn a_count_is_looked_at_without_a_hit_and_forgotten() {
    for (backend, limiter) in both() {
        let (rule, client) = (rule("login", 3, 60), key("192.0.2.1"));
        let fresh = limiter.peek(&rule, &client).await.expect("an answer");
        assert_eq!((fresh.allowed, fresh.remaining, fresh.reset), (true, 3, Duration::ZERO));
        assert!(!limiter.reset(&rule, &client).await.expect("an answer"), "{backend}");
        for left in (0..3).rev() {
            limiter.hit(&rule, &client).await;
            for _ in 0..5 {
                let seen = limiter.peek(&rule, &client).await.expect("an answer");
                assert_eq!((seen.allowed, seen.remaining), (left > 0, left), "{backend}");
                assert!((58..=60).contains(&seen.reset.as_secs()), "{backend} {seen:?}");
            }
        }
        let full = limiter.peek(&rule, &client).await.expect("an answer");
        assert!((58..=60).contains(&full.retry_after_seconds()), "{backend} {full:?}");
        limiter.hit(&rule, &key("192.0.2.2")).await;
        assert!(limiter.reset(&rule, &client).await.expect("an answer"), "{backend}");
        assert_eq!(limiter.hit(&rule, &client).await.remaining, 2, "{backend}");
        let other = limiter.peek(&rule, &key("192.0.2.2")).await.expect("an answer");
        assert_eq!(other.remaining, 2, "{backend}");
    }
}

#[tokio::test]
async fn a_count_in_a_cluster_is_looked_at_and_forgotten() {
    let cluster = OwnCluster::start();
    let limiter = open(&cluster.counters());
    let rule = rule("login", 3, 60);
    for n in 0..8 {
        let client = key(&format!("192.0.2.{n}"));
        limiter.hit(&rule, &client).await;
        assert_eq!(limiter.peek(&rule, &client).await.expect("an answer").remaining, 2);
        assert!(limiter.reset(&rule, &client).await.expect("an answer"));
        assert_eq!(limiter.peek(&rule, &client).await.expect("an answer").remaining, 3);
    }
}

#[tokio::test]
async fn a_redis_that_is_away_is_an_error_for_those_who_look() {
    let mut own = OwnRedis::start();
    let limiter = open(&own.counters());
    own.kill();
    let (rule, client) = (rule("login", 3, 60), key("192.0.2.1"));
    assert!(limiter.peek(&rule, &client).await.is_err());
    assert!(limiter.reset(&rule, &client).await.is_err());
}

#[tokio::test]
async fn an_ipv6_network_is_one_client() {
    for (backend, limiter) in both() {
        let rule = rule("login", 2, 60);
        assert!(limiter.hit(&rule, &key("2001:db8:1:2::1")).await.allowed, "{backend}");
        assert!(limiter.hit(&rule, &key("2001:db8:1:2:ffff::9")).await.allowed, "{backend}");
        assert!(!limiter.hit(&rule, &key("2001:db8:1:2:3:4:5:6")).await.allowed, "{backend}");
        assert!(limiter.hit(&rule, &key("2001:db8:1:3::1")).await.allowed, "{backend}");
    }
}

#[tokio::test]
async fn a_limit_of_a_thousand_is_exact() {
    for (backend, limiter) in both() {
        let (rule, client) = (rule("search", Rate::MAX_LIMIT, 3_600), key("192.0.2.1"));
        for left in (0..1_000).rev() {
            assert_eq!(limiter.hit(&rule, &client).await.remaining, left, "{backend}");
        }
        assert!(!limiter.hit(&rule, &client).await.allowed, "{backend}");
    }
}

#[tokio::test]
async fn a_window_that_is_over_allows_again() {
    for (backend, limiter) in both() {
        let (rule, client) = (rule("fast", 1, 1), key("192.0.2.1"));
        assert!(limiter.hit(&rule, &client).await.allowed, "{backend}");
        let refused = limiter.hit(&rule, &client).await;
        assert!(!refused.allowed, "{backend}");
        // Real time is what is tested here: the wait that a client is told is long enough.
        tokio::time::sleep(refused.retry_after).await;
        assert!(limiter.hit(&rule, &client).await.allowed, "{backend}");
    }
}

#[tokio::test]
async fn gateways_on_one_redis_share_a_count_and_no_other_prefix_does() {
    let redis = Redis::new();
    let (one, two) = (open(&redis.counters()), open(&redis.counters()));
    let stranger = open(&Redis::new().counters());
    let (rule, client) = (rule("login", 4, 60), key("192.0.2.1"));
    for n in 0..2 {
        assert!(one.hit(&rule, &client).await.allowed, "{n}");
        assert!(two.hit(&rule, &client).await.allowed, "{n}");
    }
    assert!(!one.hit(&rule, &client).await.allowed);
    assert!(!two.hit(&rule, &client).await.allowed);
    assert!(stranger.hit(&rule, &client).await.allowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_gets_exactly_the_limit() {
    let redis = Redis::new();
    let gateways = [Arc::new(open(&redis.counters())), Arc::new(open(&redis.counters()))];
    let (rule, client) = (rule("login", 20, 60), key("192.0.2.1"));
    let hits: Vec<_> = (0..100)
        .map(|n| {
            let (limiter, rule) = (Arc::clone(&gateways[n % 2]), rule.clone());
            let client = client.clone();
            tokio::spawn(async move { limiter.hit(&rule, &client).await })
        })
        .collect();
    let mut allowed = 0;
    for hit in hits {
        let decision = hit.await.expect("no panic");
        assert_eq!(decision.basis, Basis::Counted);
        allowed += usize::from(decision.allowed);
    }
    assert_eq!(allowed, 20);
}

#[test]
fn workers_with_their_own_runtimes_use_the_connection_of_the_home_runtime() {
    let home = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let redis = Redis::new();
    let limiter = {
        let _inside = home.enter();
        Arc::new(open(&redis.counters()))
    };
    let rule = rule("login", 10, 60);
    // One after the other: each worker's runtime is gone before the next one asks.
    for worker in 0..3 {
        let (limiter, rule) = (Arc::clone(&limiter), rule.clone());
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(limiter.hit(&rule, &key("192.0.2.1")))
        };
        let decision = std::thread::spawn(work).join().expect("no panic");
        assert_eq!((decision.basis, decision.remaining), (Basis::Counted, 9 - worker));
    }
    // Without the home runtime nobody drives the connection: decided here, not waited for.
    home.shutdown_background();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let decision = runtime.block_on(limiter.hit(&rule, &key("192.0.2.1")));
    assert_eq!(decision.basis, Basis::Local);
}

#[tokio::test]
async fn a_cluster_counts_like_one_server() {
    let cluster = OwnCluster::start();
    let limiter = open(&cluster.counters());
    until_counted(&limiter).await;
    let rule = rule("login", 2, 60);
    // Enough keys to meet every node, each of which needs the script.
    for n in 0..40 {
        let client = key(&format!("192.0.2.{n}"));
        for allowed in [true, true, false] {
            let decision = limiter.hit(&rule, &client).await;
            assert_eq!((decision.allowed, decision.basis), (allowed, Basis::Counted), "{n}");
        }
    }
    assert!(limiter.ping().await.is_ok());
}

#[tokio::test]
async fn a_forgotten_script_is_loaded_again() {
    let own = OwnRedis::start();
    let limiter = open(&own.counters());
    until_counted(&limiter).await;
    let client = redis::Client::open(own.url()).expect("a url");
    let mut link = client.get_connection().expect("redis is up");
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut link).expect("scripts are flushed");
    let decision = limiter.hit(&rule("login", 5, 60), &key("192.0.2.1")).await;
    assert_eq!(decision.basis, Basis::Counted);
    assert_eq!(limiter.metrics().errors.get(), 0);
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_no_outage() {
    let own = OwnRedis::start();
    let limiter = open(&own.counters());
    until_counted(&limiter).await;
    let client = redis::Client::open(own.url()).expect("a url");
    let mut link = client.get_connection().expect("redis is up");
    let rule = rule_with("login", 5, 60, OnOutage::Deny);
    for _ in 0..5 {
        redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .exec(&mut link)
            .expect("clients are cut off");
        let decision = limiter.hit(&rule, &key("192.0.2.1")).await;
        assert_eq!((decision.allowed, decision.basis), (true, Basis::Counted));
    }
    assert_eq!(limiter.metrics().errors.get(), 0);
}

#[tokio::test]
async fn keys_in_redis_expire_and_name_no_account() {
    let redis = Redis::new();
    let limiter = open(&redis.counters());
    let by_account = Limit { rate: Rate::new(5, 60), by: LimitBy::Account, on_outage: None };
    let rule = Rule::compile("login_account", &by_account, OnOutage::Local).expect("a good name");
    let who =
        Caller { account: Some("ann@example.com"), ..Caller::anonymous([192, 0, 2, 1].into(), "") };
    assert!(limiter.hit(&rule, &rule.key(&who)).await.allowed);

    let client = redis::Client::open(redis.url()).expect("a url");
    let mut link = client.get_connection().expect("redis is up");
    let all: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{}*", redis.key_prefix()))
        .query(&mut link)
        .expect("keys are listed");
    let ours: Vec<_> = all.iter().filter(|key| key.contains("login_account")).collect();
    assert_eq!(ours.len(), 1, "{all:?}");
    assert!(!ours[0].contains("ann") && !ours[0].contains('@'), "{ours:?}");
    for key in &all {
        let ttl: i64 = redis::cmd("PTTL").arg(key).query(&mut link).expect("a time to live");
        assert!((1..=60_000).contains(&ttl) || ttl == -2, "{key} {ttl}");
    }
}

#[tokio::test]
async fn a_hung_redis_costs_the_deadline_until_the_breaker_opens_then_nothing() {
    let own = OwnRedis::start();
    let limiter = open_strict(&own.counters());
    until_counted(&limiter).await;
    let rules = [
        (rule_with("local", 2, 600, OnOutage::Local), Basis::Local),
        (rule_with("allow", 2, 600, OnOutage::Allow), Basis::Uncounted),
        (rule_with("deny", 2, 600, OnOutage::Deny), Basis::Unavailable),
    ];
    let client = key("192.0.2.1");
    let patient = open(&own.counters());
    for (rule, _) in &rules {
        while patient.hit(rule, &client).await.allowed {}
    }
    let errors_before = limiter.metrics().errors.get();

    own.pause();
    for (rule, basis) in &rules {
        let start = Instant::now();
        let decision = limiter.hit(rule, &client).await;
        assert!(start.elapsed() < DEADLINE + SLACK, "{:?}", start.elapsed());
        assert_eq!(decision.basis, *basis);
    }
    assert!(limiter.is_degraded());
    assert_eq!(limiter.metrics().errors.get() - errors_before, 3);

    // Open: a thousand hits take less than twenty would, each waiting for its deadline.
    let start = Instant::now();
    let mut allowed = [0; 3];
    for _ in 0..1_000 {
        for (n, (rule, basis)) in rules.iter().enumerate() {
            let decision = limiter.hit(rule, &client).await;
            assert_eq!(decision.basis, *basis);
            allowed[n] += usize::from(decision.allowed);
        }
    }
    assert!(start.elapsed() < DEADLINE * 20, "{:?}", start.elapsed());
    // In this process the limit holds too: one was spent while the breaker was closed.
    assert_eq!(allowed, [1, 1_000, 0]);
    let denied = limiter.hit(&rules[2].0, &client).await;
    assert!((1..=5).contains(&denied.retry_after_seconds()));

    own.resume();
    assert!(until_counted(&limiter).await <= RECOVERY);
    assert!(!limiter.is_degraded());
    for (rule, _) in &rules {
        let decision = patient.hit(rule, &client).await;
        assert_eq!((decision.allowed, decision.basis), (false, Basis::Counted), "{}", rule.name());
    }
}

#[tokio::test]
async fn several_rules_together_wait_one_deadline() {
    let own = OwnRedis::start();
    let limiter = open_strict(&own.counters());
    until_counted(&limiter).await;
    own.pause();
    let (first, second) = (rule("first", 5, 60), rule("second", 5, 60));
    let start = Instant::now();
    let decisions =
        limiter.hit_all([(&first, key("192.0.2.1")), (&second, key("192.0.2.1"))]).await;
    assert!(start.elapsed() < DEADLINE + SLACK, "{:?}", start.elapsed());
    assert!(decisions.iter().all(|(_, decision)| decision.basis == Basis::Local));
    assert_eq!(decisions.len(), 2);
}

#[tokio::test]
async fn a_redis_that_dies_and_comes_back_is_used_again() {
    let mut own = OwnRedis::start();
    let limiter = open_strict(&own.counters());
    until_counted(&limiter).await;
    let (rule, client) = (rule("login", 5, 60), key("192.0.2.1"));
    for _ in 0..2 {
        own.kill();
        for _ in 0..4 {
            let start = Instant::now();
            assert_eq!(limiter.hit(&rule, &client).await.basis, Basis::Local);
            assert!(start.elapsed() < DEADLINE + SLACK);
        }
        assert!(limiter.is_degraded());
        assert!(limiter.ping().await.is_err());
        own.restart();
        assert!(until_counted(&limiter).await <= RECOVERY);
    }
    // In Redis the count began anew, as it was lost; the one kept here was not used for it.
    assert_eq!(limiter.hit(&rule, &client).await.remaining, 4);
}

#[tokio::test]
async fn a_gateway_starts_without_redis_and_finds_it_later() {
    let mut own = OwnRedis::not_yet_started();
    let start = Instant::now();
    let limiter = open_strict(&own.counters());
    assert!(start.elapsed() < DEADLINE + SLACK);
    assert_eq!(limiter.hit(&rule("login", 5, 60), &key("192.0.2.1")).await.basis, Basis::Local);
    own.restart();
    assert!(until_counted(&limiter).await <= RECOVERY);
}

#[tokio::test]
async fn a_redis_that_cannot_count_is_away() {
    let own = OwnRedis::start();
    let client = redis::Client::open(own.url()).expect("a url");
    let mut link = client.get_connection().expect("redis is up");
    // `PING` still works: only writing does not.
    let refuse = ["SET", "min-replicas-to-write", "1"];
    redis::cmd("CONFIG").arg(&refuse).exec(&mut link).expect("a setting");
    let limiter = open_strict(&own.counters());
    for _ in 0..4 {
        assert_eq!(limiter.hit(&rule("login", 5, 60), &key("192.0.2.1")).await.basis, Basis::Local);
    }
    assert!(limiter.is_degraded());
    assert!(limiter.ping().await.is_err());
    redis::cmd("CONFIG")
        .arg(&["SET", "min-replicas-to-write", "0"])
        .exec(&mut link)
        .expect("a setting");
    assert!(until_counted(&limiter).await <= RECOVERY);
}

type Reply = (bool, u32, i64, i64);

/// Runs the production script with a time of our choice.
fn script_hit(
    link: &mut redis::Connection,
    key: &str,
    rate: Rate,
    now_us: i64,
) -> redis::RedisResult<Reply> {
    let window = Window::new(rate);
    script(TimeSource::Argument)
        .key(key)
        .arg(window.limit())
        .arg(window.length_us())
        .arg(now_us)
        .invoke(link)
}

#[test]
fn the_shared_vectors_hold_in_redis() {
    #[derive(Deserialize)]
    struct Vector {
        name: String,
        steps: Vec<Step>,
    }
    #[derive(Deserialize)]
    struct Step {
        at_us: i64,
        limit: u32,
        window_s: u64,
        expect: Reply,
    }
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../src/limit/vectors.json")).expect("it parses");
    let redis = Redis::new();
    let mut link = connect(&redis);
    for (n, vector) in vectors.iter().enumerate() {
        let key = format!("{}vector:{n}", redis.key_prefix());
        for step in &vector.steps {
            let rate = Rate::new(step.limit, step.window_s);
            let reply = script_hit(&mut link, &key, rate, step.at_us).expect("a reply");
            assert_eq!(reply, step.expect, "{} at {}", vector.name, step.at_us);
        }
    }
}

#[test]
fn the_script_and_the_process_agree() {
    let redis = Redis::new();
    let link = RefCell::new(connect(&redis));
    // Steps in time, in parts of the window; now and then back.
    let step = prop_oneof![
        3 => 0_i64..10,
        6 => 0_i64..40_000_000,
        1 => 100_000_000_i64..200_000_000,
        1 => -90_000_000_i64..0,
    ];
    let hits = prop::collection::vec((step, prop::bool::weighted(0.05)), 1..120);
    let cases = if std::env::var_os("PORTCULLIS_TEST_LONG").is_some() { 2_000 } else { 100 };
    // The key lives for a real minute, far longer than a case takes.
    let seconds = 60;
    TestRunner::new(Config { cases, ..Config::default() })
        .run(&(1_u32..12, hits), |(limit, hits)| {
            let mut link = link.borrow_mut();
            let key = format!("{}{}", redis.key_prefix(), random_name());
            let mut limit = limit;
            let mut times = VecDeque::new();
            let mut now_us = 1_700_000_000_000_000;
            for (step, lower) in hits {
                now_us += step;
                if lower {
                    limit = (limit / 2).max(1);
                }
                let rate = Rate::new(limit, seconds);
                let verdict = Window::new(rate).hit(&mut times, now_us);
                let reply = script_hit(&mut link, &key, rate, now_us).expect("a reply");
                prop_assert_eq!(
                    reply,
                    (verdict.allowed, verdict.remaining, verdict.reset_us, verdict.retry_after_us)
                );
            }
            let kept: Vec<i64> =
                redis::cmd("LRANGE").arg(&key).arg(0).arg(-1).query(&mut *link).expect("a list");
            prop_assert_eq!(kept, Vec::from(times));
            Ok(())
        })
        .expect("they agree");
}

fn connect(redis: &Redis) -> redis::Connection {
    let client = redis::Client::open(redis.url()).expect("a url");
    client.get_connection().expect("redis is up")
}
