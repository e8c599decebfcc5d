//! `kill -9` in the middle of sign-ups and logins: whatever was answered is in the database with
//! its event, and nothing is there twice.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use portcullis::model::{EventKind, StoredEvent};
use portcullis::store::{EventFilter, Store};
use serde_json::json;

use crate::harness::{
    Answer, Caller, Client, End, PASSWORD, Program, Request, TestGateway, Upstream, expect_no_gaps,
    open_store, patiently, postgres,
};

/// Requests in all; the program is killed after about half of the answers.
const REQUESTS: usize = 200;

/// One request over a connection of its own; `None` when the program died before its answer.
async fn post(address: SocketAddr, target: &str, email: &str) -> Option<Answer> {
    let body = json!({ "email": email, "password": PASSWORD });
    let bytes = Request::new(address, "POST", target).json(&body).to_bytes();
    let mut client = Client::try_connect(address).await?;
    client.send(bytes).await;
    let answer = client.try_answer("POST").await?;
    (answer.end == End::Complete).then_some(answer)
}

async fn survives(program: &Program, store_url: &str) {
    let running = program.serve().await;
    let old: Vec<_> = (0..10).map(|n| format!("old{n}@example.com")).collect();
    for email in &old {
        post(program.public, "/auth/signup", email).await.expect("it runs").expect(201);
    }
    let answered = Arc::new(AtomicUsize::new(0));
    let mut streams = tokio::task::JoinSet::new();
    for lane in 0..20 {
        let (answered, old, address) = (Arc::clone(&answered), old.clone(), program.public);
        streams.spawn(async move {
            let mut told = Vec::new();
            for n in 0..REQUESTS / 20 {
                let is_login = (lane + n) % 2 == 0;
                let (target, email) = if is_login {
                    ("/auth/login", old[(lane + n) % 10].clone())
                } else {
                    ("/auth/signup", format!("new{lane}-{n}@example.com"))
                };
                let Some(answer) = post(address, target, &email).await else { break };
                told.push((email, answer));
                answered.fetch_add(1, SeqCst);
            }
            told
        });
    }
    patiently("half of the answers", async {
        while answered.load(SeqCst) < REQUESTS / 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    running.kill();
    let told: Vec<_> = streams.join_all().await.into_iter().flatten().collect();
    assert!((REQUESTS / 2..REQUESTS).contains(&told.len()), "{} answers", told.len());

    let _running = program.serve().await;
    let store = open_store(store_url);
    let events = store.events(&EventFilter::default(), 10_000, None).await.expect("read");
    expect_no_gaps(&events);
    for (email, answer) in &told {
        let kind = if answer.status == 201 { EventKind::Signup } else { EventKind::Login };
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        let id = answer.header("x-request-id").expect("an id");
        let noted: Vec<_> =
            events.iter().filter(|e| e.event.request_id.as_deref() == Some(id)).collect();
        let [noted] = &noted[..] else { panic!("{} events of {id}", noted.len()) };
        assert_eq!((noted.event.kind, noted.event.email.as_deref()), (kind, Some(&**email)));
        // What was handed out is still good.
        let caller = Caller::from_session(&answer.json());
        let get = Request::new(program.public, "GET", "/private/a").bearer(&caller.token);
        get.send().await.expect(200);
        let body = json!({ "refresh_token": caller.refresh_token });
        let target = "/auth/token?grant_type=refresh_token";
        Request::new(program.public, "POST", target).json(&body).send().await.expect(200);
    }
    expect_accounts(&store, &events, &told).await;
    post(program.public, "/auth/login", &old[0]).await.expect("it runs").expect(200);
}

/// An account for each event of a sign-up and no other; among them all that were answered.
async fn expect_accounts(store: &Store, events: &[StoredEvent], told: &[(String, Answer)]) {
    let users = store.users(None, 10_000, None).await.expect("read");
    let addresses: BTreeSet<_> = users.iter().map(|user| &*user.email).collect();
    assert_eq!(addresses.len(), users.len(), "nobody is there twice");
    let ids: BTreeSet<_> = users.iter().map(|user| user.id.clone()).collect();
    let of_events: Vec<_> = events
        .iter()
        .filter(|stored| stored.event.kind == EventKind::Signup)
        .filter_map(|stored| stored.event.user_id.clone())
        .collect();
    assert_eq!(of_events.len(), users.len());
    assert_eq!(of_events.into_iter().collect::<BTreeSet<_>>(), ids);
    assert!(told.iter().all(|(email, _)| addresses.contains(&**email)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_answered_survives_a_kill_on_sqlite() {
    let upstream = Upstream::echo().await;
    let program = Program::of(TestGateway::builder().upstream("app", &upstream)).await;
    survives(&program, &program.sqlite_url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_answered_survives_a_kill_on_postgres() {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    let builder = TestGateway::builder().upstream("app", &upstream).storage(&database.url);
    let program = Program::of(builder).await;
    survives(&program, &database.url).await;
}
