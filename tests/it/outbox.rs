//! The sender of letters: what waits, what is given up, and what an operator can do about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use portcullis::model::{self, EventKind, LetterKind, LetterOrigin, uuid_v7};
use portcullis::store::{NewParcel, Parcel, ParcelKind, Store, Stored};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::postgres::OwnServer;
use crate::harness::{
    Gate, PASSWORD, Program, Seen, Step, TestGateway, Upstream, events_of, open_store, patiently,
    pause, reply, until_events, write,
};
use crate::links::Post;

fn answer(status: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}").into_bytes()
}

/// A receiver that refuses as long as the flag is set.
async fn closed_at_first() -> (Upstream, Arc<AtomicBool>) {
    let is_closed = Arc::new(AtomicBool::new(true));
    let shared = Arc::clone(&is_closed);
    let letters = Upstream::scripted(move |_| {
        reply(answer(if shared.load(SeqCst) { "503 Later" } else { "200 OK" }))
    })
    .await;
    (letters, is_closed)
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

/// Has sign-ups wait for the proof of their address from now on.
async fn confirming(gateway: &TestGateway) {
    gateway.configure("[signup]\nconfirm_email = true");
    gateway.reload().await.expect(200);
}

async fn waiting(store: &Store) -> u64 {
    store.outbox_state().await.expect("read").first().map_or(0, |state| state.waiting)
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

#[tokio::test]
async fn when_too_many_letters_wait_nobody_can_ask_for_more() {
    let (letters, is_closed) = closed_at_first().await;
    let post = Post::with(letters, "[mail]\nmax_waiting = 3").await;
    let gateway = &post.gateway;
    let ann = post.confirmed("ann").await;
    confirming(gateway).await;
    for name in ["a", "b", "c"] {
        post.ask("/auth/otp", json!({ "email": format!("{name}@example.com") })).await;
    }
    let mut refusals = Vec::new();
    for name in ["ann", "nobody"] {
        let email = format!("{name}@example.com");
        for (target, body) in [
            ("/auth/recover", json!({ "email": email })),
            ("/auth/otp", json!({ "email": email })),
            ("/auth/resend", json!({ "email": email, "type": "signup" })),
            ("/auth/signup", json!({ "email": email, "password": PASSWORD })),
        ] {
            let refused = gateway.post_json(target, &body).await;
            refused.expect_problem(503, "unavailable");
            assert_eq!(refused.header("retry-after"), Some("60"), "{target}");
            refusals.push((target, refused.json()["detail"].clone()));
        }
    }
    assert_eq!(refusals[..4], refusals[4..]);
    gateway.get_as(&ann.token, "/auth/reauthenticate").await.expect_problem(503, "unavailable");
    let wish = gateway.request("PUT", "/auth/user").bearer(&ann.token);
    let wish = wish.json(&json!({ "email": "new@example.com" })).send().await;
    wish.expect_problem(503, "unavailable");
    assert_eq!(waiting(&gateway.store()).await, 3);
    until_metric(gateway, "outbox_waiting", |waiting| waiting > 2.5).await;
    gateway.advance(Duration::from_secs(9));
    until_metric(gateway, "outbox_oldest_age_seconds", |age| age > 8.5).await;

    is_closed.store(false, SeqCst);
    passing(gateway, "all to leave", async || waiting(&gateway.store()).await == 0).await;
    post.ask("/auth/recover", json!({ "email": "ann@example.com" })).await;
    until_metric(gateway, "outbox_waiting", |waiting| waiting < 0.5).await;
}

#[tokio::test]
async fn a_letter_that_hangs_holds_up_no_other() {
    let gate = Gate::new();
    let held = gate.clone();
    let letters = Upstream::scripted(move |_| {
        vec![Step::ReadBody, Step::Wait(held.clone()), write(answer("200 OK"))]
    })
    .await;
    let post = Post::with(letters, "[mail]\nconcurrency = 2").await;
    let ask = async |n: usize| {
        post.ask("/auth/otp", json!({ "email": format!("a{n}@example.com") })).await;
    };
    // One at a time, so that none is claimed with another.
    for n in 1..=2 {
        ask(n).await;
        post.letters.until("a letter", |seen| seen.len() == n).await;
    }
    ask(3).await;
    gate.open();
    post.letters.until("the third", |seen| seen.len() == 3).await;
    until_events(&post.gateway.store(), EventKind::MailSent, 3).await;
}

#[tokio::test]
async fn a_letter_with_a_link_is_new_at_each_attempt_and_a_notice_is_not() {
    let tries = AtomicUsize::new(0);
    let letters = Upstream::scripted(move |_| {
        let is_first = tries.fetch_add(1, SeqCst).is_multiple_of(2);
        reply(answer(if is_first { "503 Later" } else { "200 OK" }))
    })
    .await;
    let post = Post::with(letters, "").await;
    let ann = post.confirmed("ann").await;
    let ids = async |count: usize| {
        passing(&post.gateway, "another attempt", async || post.letters.count() == count).await;
        let seen = post.letters.seen();
        let id = |seen: &Seen| seen.header("webhook-id").expect("an id").to_owned();
        (id(&seen[count - 2]), id(&seen[count - 1]))
    };
    post.ask("/auth/recover", json!({ "email": "ann@example.com" })).await;
    let (first, second) = ids(2).await;
    assert_ne!(first, second, "who has the first and drops the second has a dead link");
    until_events(&post.gateway.store(), EventKind::MailSent, 1).await;

    let change = post.gateway.request("PUT", "/auth/user").bearer(&ann.token);
    let change = change.json(&json!({ "password": "Other-Plover-9-Ladder" }));
    change.send().await.expect(200);
    let (first, second) = ids(4).await;
    assert_eq!(first, second, "one notice, not two");
}

#[tokio::test]
async fn users_are_told_of_what_the_operator_wants_them_to_be_told_of() {
    let post = Post::start("[mail]\nnotify = []").await;
    let ann = post.confirmed("ann").await;
    confirming(&post.gateway).await;
    let change = post.gateway.request("PUT", "/auth/user").bearer(&ann.token);
    let change = change.json(&json!({ "password": "Other-Plover-9-Ladder" }));
    change.send().await.expect(200);
    assert!(post.gateway.store().outbox_state().await.expect("read").is_empty());
    let body = json!({ "email": "ann@example.com", "password": PASSWORD });
    post.gateway.post_json("/auth/signup", &body).await.expect(200);
    assert_eq!(post.unsent(1).await, ["already_confirmed"]);
    assert_eq!(post.letters.count(), 0);
}

#[tokio::test]
async fn nothing_that_a_webhook_says_is_stored_and_nothing_that_was_given_up_holds_a_password() {
    let letters = Upstream::scripted(|_| {
        reply("HTTP/1.1 400 Bad Request\r\ncontent-length: 6\r\n\r\nquoted")
    })
    .await;
    let post = Post::with(letters, "[signup]\nconfirm_email = true").await;
    let data = json!({ "name": "Ann" });
    let body = json!({ "email": "ann@example.com", "password": PASSWORD, "data": data });
    post.gateway.post_json("/auth/signup", &body).await.expect(200);
    assert_eq!(post.unsent(1).await, ["refused"]);
    until_metric(&post.gateway, "outbox_failed", |failed| failed > 0.5).await;
    let stored = only(&post.gateway.store()).await;
    assert_eq!(stored.last_error.as_deref(), Some("the webhook refused the letter (400)"));
    let Some(Parcel::Mail(letter)) = stored.parcel else { panic!("{stored:?}") };
    assert!(letter.password.is_none() && letter.user_metadata.is_none());
}

async fn only(store: &Store) -> Stored {
    let mut parcels = store.parcels(ParcelKind::Mail, 10, None).await.expect("read");
    assert_eq!(parcels.len(), 1, "{parcels:?}");
    parcels.remove(0)
}

#[tokio::test]
async fn a_letter_of_a_newer_version_waits_for_it() {
    let post = Post::start("").await;
    post.confirmed("ann").await;
    let store = post.gateway.store();
    // Due when the gateway's own clock is not there yet, so that it is changed before it is seen.
    let at = post.gateway.clock.now() + Duration::from_secs(10);
    let ann = "ann@example.com".parse().expect("an address");
    let letter = model::Letter::new(LetterKind::Recovery, ann, LetterOrigin::default());
    let parcel = NewParcel { id: uuid_v7(at), parcel: Parcel::Mail(letter), at };
    store.post(&[parcel], &[]).await.expect("stored");
    let file = post.gateway.file("portcullis.db");
    let change = |sql: &str| {
        let database = rusqlite::Connection::open(&file).expect("opens");
        database.execute_batch(sql).expect("changes");
    };
    change("UPDATE outbox SET payload = json_insert(payload, '$.colour', 'blue')");
    passing(&post.gateway, "two attempts", async || only(&store).await.attempts == 2).await;
    let stored = only(&store).await;
    assert_eq!((stored.failed_at, post.letters.count()), (None, 0));
    assert_eq!(stored.last_error.as_deref(), Some("written by another version of the program"));
    // The newer one knows what it means.
    change("UPDATE outbox SET payload = json_remove(payload, '$.colour')");
    passing(&post.gateway, "the letter", async || post.letters.count() == 1).await;
    post.letter("ann@example.com", "recovery").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_left_is_not_sent_again_when_the_database_was_away() {
    let gate = Gate::new();
    let held = gate.clone();
    let letters = Upstream::scripted(move |_| {
        vec![Step::ReadBody, Step::Wait(held.clone()), write(answer("200 OK"))]
    })
    .await;
    let upstream = Upstream::echo().await;
    let server = OwnServer::start().await;
    let database = server.database().await;
    let config = format!(
        "[mail]\ntransport = \"webhook\"\n[mail.webhook]\nurl = \"{}\"\n\
         secret = \"0123456789abcdef0123456789abcdef\"",
        letters.url()
    );
    let builder = TestGateway::builder().upstream("app", &upstream).storage(&database.url);
    let gateway = builder.config(&config).start().await;
    gateway.post_json("/auth/otp", &json!({ "email": "ann@example.com" })).await.expect(200);
    letters.until("a letter", |seen| seen.len() == 1).await;
    server.hang();
    gate.open();
    until_metric(&gateway, "outbox_unnoted", |unnoted| unnoted > 0.5).await;
    // Its lease is over long since.
    gateway.advance(Duration::from_mins(5));
    server.resume();
    let store = open_store(&database.url);
    until_events(&store, EventKind::MailSent, 1).await;
    gateway.post_json("/auth/otp", &json!({ "email": "bob@example.com" })).await.expect(200);
    until_events(&store, EventKind::MailSent, 2).await;
    until_metric(&gateway, "outbox_unnoted", |unnoted| unnoted < 0.5).await;
    let told: Vec<_> = letters.seen().iter().map(|seen| body_of(seen)["to"].clone()).collect();
    assert_eq!(told, ["ann@example.com", "bob@example.com"]);
}

fn body_of(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).expect("JSON")
}

#[tokio::test]
async fn letters_are_listed_tried_again_and_taken_out_on_the_command_line() {
    let upstream = Upstream::echo().await;
    let program = Program::of(TestGateway::builder().upstream("app", &upstream)).await;
    program.run(&["migrate"]).await.expect(0);
    let store = open_store(&program.sqlite_url());
    let at = |second: i64| jiff::Timestamp::from_second(1_800_000_000 + second).expect("a time");
    let posted = async |kind, name: &str, second| {
        let email = format!("{name}@example.com").parse().expect("an address");
        let user_id = Some(format!("u-{name}").parse().expect("an id"));
        let letter =
            model::Letter { user_id, ..model::Letter::new(kind, email, LetterOrigin::default()) };
        let id = uuid_v7(at(second));
        let parcel = NewParcel { id, parcel: Parcel::Mail(letter), at: at(second) };
        store.post(&[parcel], &[]).await.expect("stored");
        id
    };
    let waits = posted(LetterKind::Recovery, "ann", 1).await;
    let failed = posted(LetterKind::PasswordChanged, "bob", 2).await;
    store.not_sent(failed, None, "550 \u{1b}[31mno", at(3), None).await.expect("stored");

    let listed = program.run(&["outbox", "list", "--json"]).await.expect(0).json_lines();
    let seen: Vec<_> = listed.iter().map(|letter| (&letter["id"], &letter["email"])).collect();
    let [waits_id, failed_id] = [waits, failed].map(|id| json!(id));
    assert_eq!(
        seen,
        [(&failed_id, &json!("bob@example.com")), (&waits_id, &json!("ann@example.com"))]
    );
    assert_eq!((&listed[0]["due_at"], &listed[1]["failed_at"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (&listed[0]["kind"], &listed[0]["user_id"]),
        (&json!("password_changed"), &json!("u-bob"))
    );
    let table = program.run(&["outbox", "list"]).await.expect(0).stdout;
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("given up") && !table.contains('\u{1b}'), "{table}");
    let only_failed = program.run(&["outbox", "list", "--failed", "--json"]).await.expect(0);
    assert_eq!(only_failed.json_lines().len(), 1);
    assert_eq!(
        program.run(&["outbox", "list", "--limit", "1"]).await.expect(0).stdout.lines().count(),
        2
    );

    let unknown = Uuid::from_u128(7).to_string();
    for action in ["retry", "drop"] {
        let told = program.run(&["outbox", action, &unknown]).await.expect(1);
        assert!(told.stderr.contains("there is no such letter"), "{told}");
    }
    let told = program.run(&["outbox", "retry", &waits.to_string()]).await.expect(1);
    assert!(told.stderr.contains("was not given up"), "{told}");
    program.run(&["outbox", "retry", &failed.to_string()]).await.expect(0);
    let again = store.parcel(ParcelKind::Mail, failed).await.expect("read").expect("there");
    assert_eq!(again.failed_at, None);
    program.run(&["outbox", "drop", &waits.to_string()]).await.expect(0);
    assert_eq!(store.parcel(ParcelKind::Mail, waits).await.expect("read"), None);

    for (kind, name, reason) in [
        (EventKind::MailRetried, "bob", "password_changed"),
        (EventKind::MailDropped, "ann", "recovery"),
    ] {
        let [event] = &events_of(&store, kind).await[..] else { panic!("{kind:?}") };
        let event = &event.event;
        assert_eq!((event.actor.as_deref(), event.reason.as_deref()), (Some("cli"), Some(reason)));
        assert_eq!(event.email, Some(format!("{name}@example.com")));
        assert_eq!(event.user_id.as_ref().map(model::UserId::as_str), Some(&*format!("u-{name}")));
    }
}
