//! Events on their way to a webhook: signed, in order, each at least once, whatever fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::model::{EventKind, StoredEvent};
use portcullis::store::{EventFilter, Store};
use serde_json::{Value, json};

use crate::harness::postgres;
use crate::harness::{
    Builder, Gate, Program, Seen, Step, TestGateway, Upstream, noted, open_store, patiently, pause,
    reply,
};
use crate::mail::hmac;

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Who is told of events: does one thing with every delivery, until the test says otherwise.
struct Receiver {
    upstream: Upstream,
    steps: Arc<Mutex<Vec<Step>>>,
}

fn answer(status: &str) -> Vec<Step> {
    reply(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}"))
}

impl Receiver {
    async fn says(steps: Vec<Step>) -> Self {
        let steps = Arc::new(Mutex::new(steps));
        let script = Arc::clone(&steps);
        let upstream = Upstream::scripted(move |_| script.lock().expect("no panic").clone()).await;
        Self { upstream, steps }
    }

    async fn takes_all() -> Self {
        Self::says(answer("204 No Content")).await
    }

    fn now_says(&self, steps: Vec<Step>) {
        *self.steps.lock().expect("no panic") = steps;
    }

    fn config(&self) -> String {
        config(&self.upstream.url())
    }

    /// A gateway whose deliveries have begun.
    async fn gateway(&self, more: &str) -> TestGateway {
        let builder = TestGateway::builder().upstream("app", &self.upstream).config(&self.config());
        let gateway = builder.config(more).start().await;
        has_begun(&gateway.store()).await;
        gateway
    }

    /// The deliveries so far, whatever became of them.
    fn deliveries(&self) -> Vec<Told> {
        self.upstream.seen().iter().map(Told::read).collect()
    }

    /// The ids of all events that it was told of, in order, once it was told of so many.
    async fn until_told(&self, count: usize) -> Vec<String> {
        let told = |seen: &[Seen]| -> Vec<String> {
            seen.iter()
                .filter(|seen| seen.complete)
                .flat_map(|seen| Told::read(seen).ids())
                .collect()
        };
        self.upstream.until("events", |seen| told(seen).len() >= count).await;
        told(&self.upstream.seen())
    }
}

fn config(url: &str) -> String {
    format!("[events.webhook]\nurl = \"{url}/events?a=b\"\nsecret = \"{KEY}\"\ntimeout = \"1s\"\n")
}

/// A delivery as the receiver got it, its signature checked.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    id: String,
    body: Value,
}

impl Told {
    #[track_caller]
    fn read(seen: &Seen) -> Self {
        let header = |name: &str| seen.header(name).unwrap_or_else(|| panic!("no {name}"));
        let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
        let signed = [id.as_bytes(), b".", at.as_bytes(), b".", &seen.body].concat();
        let expected = format!("v1,{}", STANDARD.encode(hmac(KEY.as_bytes(), &signed)));
        assert_eq!(header("webhook-signature"), expected);
        assert_eq!((&*seen.method, &*seen.target), ("POST", "/events?a=b"));
        assert_eq!(seen.header("content-type"), Some("application/json"));
        let body: Value = serde_json::from_slice(&seen.body).expect("JSON");
        assert_eq!(body["type"], "auth_events");
        Self { id: id.to_owned(), body }
    }

    fn events(&self) -> &[Value] {
        self.body["data"]["events"].as_array().expect("events")
    }

    fn ids(&self) -> Vec<String> {
        let id = |event: &Value| event["id"].as_str().expect("an id").to_owned();
        self.events().iter().map(id).collect()
    }
}

async fn has_begun(store: &Store) {
    patiently("the first look", async {
        while store.delivery_state().await.expect("read").is_none() {
            pause().await;
        }
    })
    .await;
}

/// All events that are stored, oldest first; of one time, by number.
async fn stored(store: &Store) -> Vec<StoredEvent> {
    let mut all = store.events(&EventFilter::default(), 10_000, None).await.expect("read");
    all.sort_by_key(|stored| (stored.event.at, stored.writer, stored.number));
    all
}

fn ids(events: &[StoredEvent]) -> Vec<String> {
    events.iter().map(|stored| stored.event.id.to_string()).collect()
}

/// Lets time pass until something holds.
async fn passing(gateway: &TestGateway, what: &str, holds: impl AsyncFn() -> bool) {
    patiently(what, async {
        while !holds().await {
            gateway.advance(Duration::from_secs(1));
            pause().await;
        }
    })
    .await;
}

async fn metric(gateway: &TestGateway, name: &str) -> Option<f64> {
    let text = gateway.admin_get("/metrics").await.expect(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("portcullis_{name} ")));
    line.map(|value| value.parse().expect("a number"))
}

async fn until_metric(gateway: &TestGateway, name: &str, wanted: impl Fn(f64) -> bool) {
    patiently(name, async {
        while !metric(gateway, name).await.is_some_and(&wanted) {
            pause().await;
        }
    })
    .await;
}

const FAILED: &str = "event_webhook_deliveries_total{result=\"failed\"}";
const TAKEN: &str = "event_webhook_deliveries_total{result=\"taken\"}";

#[tokio::test]
async fn events_are_told_signed_and_in_order() {
    let receiver = Receiver::takes_all().await;
    let gateway = receiver.gateway("[events.webhook]\nbatch = 3").await;
    let store = gateway.store();
    let ann = gateway.sign_up("ann").await;
    for _ in 0..5 {
        gateway.advance(Duration::from_millis(10));
        gateway.log_in(&ann.email, "wrong").await.expect(401);
        gateway.advance(Duration::from_mins(3));
    }
    let told = receiver.until_told(6).await;
    let events = stored(&store).await;
    assert_eq!(told, ids(&events));
    let deliveries = receiver.deliveries();
    assert!(deliveries.iter().all(|told| (1..=3).contains(&told.events().len())));
    let different: BTreeSet<_> = deliveries.iter().map(|told| &told.id).collect();
    assert_eq!(different.len(), deliveries.len());
    let first = &deliveries[0].events()[0];
    assert_eq!(*first, events[0].to_json(), "as the command line prints it");
    assert_eq!((&first["kind"], &first["number"]), (&json!("signup"), &json!(1)));
    assert_eq!(first["email"], "ann@example.com");
    let last = deliveries.last().expect("a delivery");
    assert_eq!(last.body["timestamp"], last.events().last().expect("an event")["time"]);
    until_metric(&gateway, "event_webhook_waiting", |waiting| waiting < 0.5).await;
    assert!(metric(&gateway, TAKEN).await.is_some_and(|taken| taken >= 2.0));
}

#[tokio::test]
async fn the_same_is_told_again_until_it_is_taken_whatever_fails() {
    let elsewhere = Receiver::takes_all().await;
    let receiver = Receiver::says(answer("500 Internal Server Error")).await;
    let gateway = receiver.gateway("").await;
    let moved = format!("307 Moved\r\nLocation: {}/events?a=b", elsewhere.upstream.url());
    gateway.sign_up("ann").await;
    let mut attempts = 1;
    for steps in [
        answer("400 Bad Request"),
        answer("410 Gone"),
        answer("429 Too Many Requests"),
        answer(&moved),
        vec![Step::ReadBody, Step::Close],
        vec![Step::Reset],
        vec![Step::ReadBody, Step::Stall],
        reply("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"),
    ] {
        // What comes meanwhile does not come into it.
        passing(&gateway, "an attempt", async || receiver.upstream.count() >= attempts).await;
        until_metric(&gateway, FAILED, |failed| {
            failed + 0.5 > f64::from(u32::try_from(attempts).expect("few"))
        })
        .await;
        attempts = receiver.upstream.count() + 1;
        receiver.now_says(steps);
    }
    gateway.sign_up("bob").await;
    passing(&gateway, "the last failure", async || receiver.upstream.count() >= attempts).await;
    let state = gateway.store().delivery_state().await.expect("read").expect("there is one");
    assert_eq!(state.waiting, 2);
    until_metric(&gateway, "event_webhook_waiting", |waiting| waiting > 1.5).await;
    gateway.advance(Duration::from_mins(10));
    until_metric(&gateway, "event_webhook_lag_seconds", |age| age > 599.0).await;

    receiver.now_says(answer("200 OK"));
    passing(&gateway, "both", async || {
        let state = gateway.store().delivery_state().await.expect("read").expect("there is one");
        state.waiting == 0
    })
    .await;
    // A reset may come before the request was read.
    let whole: Vec<_> = receiver.upstream.seen().into_iter().filter(|seen| seen.complete).collect();
    let told: Vec<_> = whole.iter().map(Told::read).collect();
    let (last, repeated) = told.split_last().expect("some");
    assert!(repeated.len() >= 7 && repeated.iter().all(|told| told == &repeated[0]), "{told:#?}");
    assert_ne!(last.id, repeated[0].id);
    let events = stored(&gateway.store()).await;
    assert_eq!([repeated[0].ids(), last.ids()].concat(), ids(&events));
    assert_eq!(elsewhere.upstream.count(), 0, "nobody is told but whom the operator named");
    until_metric(&gateway, "event_webhook_lag_seconds", |age| age < 0.5).await;
}

#[tokio::test]
async fn a_receiver_that_is_not_there_yet_is_told_when_it_is_and_nobody_waits_for_it() {
    let upstream = Upstream::echo().await;
    let address = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        listener.local_addr().expect("a bound socket")
    };
    let builder = TestGateway::builder().upstream("app", &upstream);
    let gateway = builder.config(&config(&format!("http://{address}"))).start().await;
    has_begun(&gateway.store()).await;
    gateway.sign_up("ann").await;
    until_metric(&gateway, FAILED, |failed| failed > 0.5).await;
    let state = gateway.store().delivery_state().await.expect("read").expect("there is one");
    assert_eq!(state.last_error.as_deref(), Some("the receiver did not answer"));
    gateway.sign_up("bob").await;
    let receiver = Upstream::echo_at(&address.to_string()).await;
    passing(&gateway, "both", async || receiver.count() == 2).await;
    let told: Vec<_> = receiver.seen().iter().flat_map(|seen| Told::read(seen).ids()).collect();
    assert_eq!(told, ids(&stored(&gateway.store()).await));
}

#[tokio::test]
async fn only_the_kinds_that_are_asked_for_are_told_and_a_reload_changes_them() {
    let receiver = Receiver::takes_all().await;
    let gateway = receiver.gateway("[events.webhook]\nkinds = [\"login_failed\"]\nbatch = 2").await;
    let ann = gateway.sign_up("ann").await;
    for _ in 0..5 {
        gateway.log_in(&ann.email, crate::harness::PASSWORD).await.expect(200);
    }
    gateway.log_in(&ann.email, "wrong").await.expect(401);
    receiver.until_told(1).await;
    let [told] = &receiver.deliveries()[..] else { panic!("one") };
    assert_eq!((told.events().len(), &told.events()[0]["kind"]), (1, &json!("login_failed")));

    // Another address, and nobody at all; then it goes on where it was.
    let other = Receiver::takes_all().await;
    gateway.configure(&format!("{}kinds = [\"login\"]", other.config()));
    gateway.reload().await.expect(200);
    gateway.advance(Duration::from_mins(3));
    gateway.log_in(&ann.email, crate::harness::PASSWORD).await.expect(200);
    other.until_told(1).await;
    assert_eq!(other.deliveries()[0].events()[0]["kind"], "login");
    let mut silent: toml::Table = std::fs::read_to_string(gateway.file("portcullis.toml"))
        .expect("there")
        .parse()
        .expect("TOML");
    silent.remove("events");
    gateway.write_config(toml::to_string(&silent).expect("TOML"));
    gateway.reload().await.expect(200);
    assert_eq!(metric(&gateway, "event_webhook_waiting").await, None);
    gateway.log_in(&ann.email, crate::harness::PASSWORD).await.expect(200);
    gateway.configure(&format!("{}kinds = []", other.config()));
    gateway.reload().await.expect(200);
    other.until_told(2).await;
    assert_eq!(receiver.deliveries().len(), 1);
    let refused = "[events.webhook]\nkinds = [\"moon_landing\"]";
    gateway.configure(refused);
    let refused = gateway.reload().await.expect(422).text();
    assert!(refused.contains("events.webhook.kinds[0]: `moon_landing` is no kind"), "{refused}");
}

/// Everything that is stored after the first look is told, through kills of the gateway and what the
/// command line does meanwhile.
async fn nothing_is_lost_by_a_kill(builder: Builder, url: Option<&str>) {
    let gate = Gate::new();
    let receiver =
        Receiver::says(vec![Step::ReadBody, Step::Wait(gate.clone()), Step::Close]).await;
    let program = Program::of(builder.config(&receiver.config())).await;
    program.run(&["migrate"]).await.expect(0);
    let before = program.run(&["events", "webhook"]).await.expect(1);
    assert!(before.stderr.contains("no event was ever handed on"), "{before}");
    let create = async |name: &str| {
        let email = format!("{name}@example.com");
        program.run(&["users", "create", &email, "--no-password"]).await.expect(0);
    };
    create("before").await;
    let store = open_store(&url.map_or_else(|| program.sqlite_url(), str::to_owned));
    let running = program.serve().await;
    has_begun(&store).await;
    create("ann").await;
    receiver.upstream.until("a delivery", |seen| seen.len() == 1).await;
    running.kill();
    create("bob").await;
    gate.open();
    receiver.now_says(answer("200 OK"));
    let _running = program.serve().await;
    create("cid").await;
    let told = {
        receiver.until_told(4).await;
        receiver.deliveries()
    };
    let repeated: Vec<_> = told.iter().filter(|delivery| delivery.id == told[0].id).collect();
    assert!(repeated.len() >= 2 && repeated.iter().all(|delivery| **delivery == told[0]));
    let mut unique: Vec<String> = Vec::new();
    for id in told.iter().flat_map(Told::ids) {
        if !unique.contains(&id) {
            unique.push(id);
        }
    }
    assert_eq!(unique, ids(&stored(&store).await)[1..], "but for what was before the first look");
    patiently("the last to be noted", async {
        while store.delivery_state().await.expect("read").expect("there").waiting > 0 {
            pause().await;
        }
    })
    .await;
    let told = program.run(&["events", "webhook", "--json"]).await.expect(0).json_lines();
    assert_eq!((&told[0]["waiting"], &told[0]["last_error"]), (&json!(0), &Value::Null));
}

/// A stop waits for no receiver, and leaves the delivery to whoever comes next, at once.
#[tokio::test]
async fn a_stopped_gateway_gives_its_delivery_back() {
    let receiver = Receiver::says(vec![Step::ReadBody, Step::Stall]).await;
    let database = postgres::database().await;
    let builder = || {
        let builder = TestGateway::builder().upstream("app", &receiver.upstream);
        let builder = builder.storage(&database.url).config(&receiver.config());
        builder.config("[events.webhook]\ntimeout = \"60s\"")
    };
    let mut one = builder().start().await;
    let store = open_store(&database.url);
    has_begun(&store).await;
    one.sign_up("ann").await;
    receiver.upstream.until("a delivery", |seen| seen.len() == 1).await;
    receiver.now_says(answer("200 OK"));
    one.shut_down().await.expect("it stops");
    let state = store.delivery_state().await.expect("read").expect("there is one");
    assert_eq!(state.last_error.as_deref(), Some("the gateway was stopped"));
    // The clock stands where it stood: no lease has ended meanwhile.
    let two = builder().start().await;
    receiver.until_told(2).await;
    let told = receiver.deliveries();
    assert_eq!((told.len(), &told[0]), (2, &told[1]));
    until_metric(&two, TAKEN, |taken| taken > 0.5).await;
}

#[tokio::test]
async fn nothing_is_lost_by_a_kill_on_sqlite() {
    let upstream = Upstream::echo().await;
    nothing_is_lost_by_a_kill(TestGateway::builder().upstream("app", &upstream), None).await;
}

#[tokio::test]
async fn nothing_is_lost_by_a_kill_on_postgres() {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    let builder = TestGateway::builder().upstream("app", &upstream).storage(&database.url);
    nothing_is_lost_by_a_kill(builder, Some(&database.url)).await;
}

#[tokio::test]
async fn two_gateways_tell_each_event_once() {
    let receiver = Receiver::takes_all().await;
    let database = postgres::database().await;
    let builder = || {
        TestGateway::builder()
            .upstream("app", &receiver.upstream)
            .storage(&database.url)
            .clock(portcullis::clock::Clock::system())
            .config(&receiver.config())
            .config("[events.webhook]\nbatch = 7")
    };
    let (one, two) = tokio::join!(builder().start(), builder().start());
    let store = open_store(&database.url);
    has_begun(&store).await;
    let write = async |gateway: &TestGateway, name: &str| {
        for n in 0..30 {
            gateway.sign_up(&format!("{name}{n}")).await;
        }
    };
    tokio::join!(write(&one, "a"), write(&two, "b"));
    receiver.until_told(60).await;
    let mut deliveries: Vec<Told> = Vec::new();
    for told in receiver.deliveries() {
        // Should a slow machine have let a lease pass: the same again.
        match deliveries.iter().find(|known| known.id == told.id) {
            Some(known) => assert_eq!(*known, told),
            None => deliveries.push(told),
        }
    }
    let mut all: Vec<_> = deliveries.iter().flat_map(Told::ids).collect();
    all.sort();
    let mut expected = ids(&stored(&store).await);
    expected.sort();
    assert_eq!(all, expected, "each in one delivery");
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for event in deliveries.iter().flat_map(Told::events) {
        let (writer, number) = (event["writer"].to_string(), event["number"].as_i64());
        let number = number.expect("a number");
        let before = last.insert(writer, number).unwrap_or(0);
        assert_eq!(number, before + 1, "each writer's in order, over all deliveries");
    }
}

#[tokio::test]
async fn what_the_retention_takes_first_is_counted_and_what_cannot_be_taken_is_given_up() {
    let receiver = Receiver::says(answer("503 Later")).await;
    let gateway = receiver.gateway("[events]\nretention = \"2d\"").await;
    gateway.sign_up("ann").await;
    until_metric(&gateway, FAILED, |failed| failed > 0.5).await;
    assert_eq!(metric(&gateway, "event_webhook_lost_total").await, Some(0.0));
    gateway.advance(Duration::from_hours(24 * 4));
    gateway.configure("[events]\nretention = \"1d\"");
    gateway.reload().await.expect(200);
    until_metric(&gateway, "event_webhook_lost_total", |lost| lost > 0.5).await;

    let store = gateway.store();
    store.record(&[noted(EventKind::Login, gateway.clock.now())]).await.expect("stored");
    let skipped = noted(EventKind::EventsSkipped, gateway.clock.now());
    let given_up = store.skip_deliveries(gateway.clock.now(), &skipped).await.expect("stored");
    assert!(given_up.is_some_and(|events| events >= 1), "{given_up:?}");
    receiver.now_says(answer("200 OK"));
    let count = receiver.upstream.count();
    passing(&gateway, "what comes after", async || {
        store.delivery_state().await.expect("read").expect("there is one").waiting == 0
    })
    .await;
    let told: Vec<_> = receiver.deliveries()[count..].iter().flat_map(Told::ids).collect();
    assert_eq!(told, [skipped.id.to_string()]);
}

#[tokio::test]
async fn mistakes_are_told_without_the_secret_and_the_command_gives_up() {
    let receiver = Receiver::says(answer("503 Later")).await;
    let builder = |text: &str| {
        TestGateway::builder()
            .upstream("app", &receiver.upstream)
            .config(&receiver.config())
            .config(text)
    };
    for (text, expected) in [
        (
            "url = \"http://hooks.example.com/s3cret\"",
            "events.webhook.url: must begin with https://",
        ),
        ("url = \"s3cret\"", "events.webhook.url: must be an address"),
        ("secret = \"s3cret\"", "events.webhook.secret: must have at least 24 bytes"),
        ("timeout = \"500ms\"", "events.webhook.timeout: must be from 1s to 1m"),
        ("batch = 0", "events.webhook.batch: must be from 1 to 1000"),
        ("batch = 1001", "events.webhook.batch: must be from 1 to 1000"),
        ("kinds = [\"login\", \"s3\"]", "events.webhook.kinds[1]: `s3` is no kind of events"),
        ("ca = \"/nowhere/ca.pem\"", "events.webhook.ca: "),
    ] {
        let program = Program::of(builder(&format!("[events.webhook]\n{text}"))).await;
        let told = program.run(&["check"]).await.expect(2).stderr;
        assert!(told.contains(expected) && !told.contains("s3cret"), "{told}");
    }

    let program = Program::of(builder("")).await;
    let _running = program.serve().await;
    let store = open_store(&program.sqlite_url());
    has_begun(&store).await;
    program.run(&["users", "create", "ann@example.com", "--no-password"]).await.expect(0);
    receiver.upstream.until("an attempt", |seen| !seen.is_empty()).await;
    patiently("the failure to be noted", async {
        loop {
            let told = program.run(&["events", "webhook"]).await.expect(0).stdout;
            if told.contains("the receiver answered with status 503") {
                break;
            }
        }
    })
    .await;
    let told = program.run(&["events", "webhook", "--skip"]).await.expect(0).stdout;
    assert_eq!(told, "gave up 1 events\n");
    let given_up = program.run(&["events", "list", "--kind", "events_skipped", "--json"]).await;
    assert_eq!(given_up.expect(0).json_lines()[0]["actor"], "cli");
}
