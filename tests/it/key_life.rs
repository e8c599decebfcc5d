//! The life of signing keys over two gateways on one database: rotated under load without a token
//! refused, replaced by age, ended in an emergency.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use portcullis::clock::Clock;
use portcullis::model::EventKind;
use serde_json::Value;

use crate::harness::{
    Caller, PASSWORD, TestGateway, Upstream, events_of, open_store, patiently, pause, postgres,
};
use crate::two_gateways::Pair;

async fn jwks(gateway: &TestGateway) -> BTreeSet<String> {
    let answer = gateway.get("/auth/.well-known/jwks.json").send().await.expect(200).json();
    let kid = |key: &Value| key["kid"].as_str().expect("a kid").to_owned();
    answer["keys"].as_array().expect("keys").iter().map(kid).collect()
}

async fn until_jwks(gateways: [&TestGateway; 2], wanted: usize) -> BTreeSet<String> {
    patiently("the keys", async {
        loop {
            let [one, two] = [jwks(gateways[0]).await, jwks(gateways[1]).await];
            if one.len() == wanted && one == two {
                return one;
            }
            pause().await;
        }
    })
    .await
}

async fn log_in(gateway: &TestGateway, email: &str) -> Caller {
    Caller::from_session(&gateway.log_in(email, PASSWORD).await.expect(200).json())
}

/// Eight clients refresh at one gateway and use what they get at once at the other, and all that they
/// have at both, while the keys are rotated three times. Nothing is ever refused.
#[tokio::test]
async fn no_valid_token_is_refused_while_keys_rotate() {
    const CLIENTS: usize = 8;
    const ROTATIONS: usize = 3;
    let pair = Pair::start(
        "[limits]\nrefresh_session = { rate = \"1000/1s\", by = \"session\" }\n\
         refresh = { rate = \"1000/1s\", by = \"ip\" }",
    )
    .await;
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    // How often a client got the first token of a key, beside those of the sign-ups.
    let met = AtomicUsize::new(0);
    let client = async |n: usize| {
        let mut gateways = [&pair.one, &pair.two];
        let mut caller = pair.one.sign_up(&format!("u{n}")).await;
        // The first token of each key.
        let mut kept = vec![(caller.kid(), caller.token.clone())];
        while !stop.load(Ordering::SeqCst) {
            gateways.reverse();
            let [here, there] = gateways;
            let answer = here.refresh(&caller.refresh_token).await.expect(200).json();
            caller = Caller::from_session(&answer);
            there.get_as(&caller.token, "/private/a").await.expect(200);
            if kept.iter().all(|(kid, _)| *kid != caller.kid()) {
                kept.push((caller.kid(), caller.token.clone()));
                met.fetch_add(1, Ordering::SeqCst);
            }
            for (_, token) in &kept {
                for gateway in gateways {
                    gateway.get_as(token, "/private/a").await.expect(200);
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                here.get_as(token, "/auth/user").await.expect(200);
            }
        }
        assert_eq!(kept.len(), 1 + ROTATIONS, "it saw every key");
    };
    let rotate = async {
        for done in 1..=ROTATIONS {
            pair.program.run(&["keys", "rotate", "--now"]).await.expect(0);
            patiently("every client to have a token of the new key", async {
                while met.load(Ordering::SeqCst) < done * CLIENTS {
                    pause().await;
                }
            })
            .await;
        }
        let so_far = asked.load(Ordering::SeqCst);
        patiently("more requests", async {
            while asked.load(Ordering::SeqCst) < so_far + 40 * CLIENTS {
                pause().await;
            }
        })
        .await;
        stop.store(true, Ordering::SeqCst);
    };
    let clients = futures_util::future::join_all((0..CLIENTS).map(client));
    tokio::join!(clients, rotate);
    assert_eq!(jwks(&pair.one).await.len(), 1 + ROTATIONS);
}

/// Contract section 5, for a key what it says of a session: "within a second".
#[tokio::test]
async fn a_revoked_key_is_refused_by_both_within_a_second_and_another_signs() {
    let pair = Pair::start("").await;
    let ann = pair.one.sign_up("ann").await;
    let both = [&pair.one, &pair.two];
    pair.both_accept(&ann.token).await;
    let told = pair.program.run(&["keys", "revoke", &ann.kid()]).await.expect(0);
    let when = Instant::now();
    assert!(told.stdout.contains("signs in its place"), "{told}");
    for gateway in both {
        while gateway.get_as(&ann.token, "/private/a").await.status == 200 {
            assert!(when.elapsed() < Duration::from_secs(1), "after {:?}", when.elapsed());
            pause().await;
        }
        gateway.get_as(&ann.token, "/private/a").await.expect_problem(401, "bad_jwt");
        gateway.get_as(&ann.token, "/auth/user").await.expect_problem(401, "bad_jwt");
    }
    assert!(!until_jwks(both, 1).await.contains(&ann.kid()));

    // The session goes on by a refresh; until the next key signs the client is told to try again,
    // which it does.
    let next = patiently("a new token", async {
        loop {
            let answer = pair.two.refresh(&ann.refresh_token).await;
            if answer.status == 200 {
                return Caller::from_session(&answer.json());
            }
            answer.expect_problem(503, "unavailable");
            assert!(answer.header("retry-after").is_some());
            pause().await;
        }
    })
    .await;
    pair.both_accept(&next.token).await;

    // With one on standby, which all know, there is nothing to wait for.
    pair.program.run(&["keys", "rotate"]).await.expect(0);
    let known = until_jwks(both, 2).await;
    let told = pair.program.run(&["keys", "revoke", &next.kid()]).await.expect(0);
    let standby = known.iter().find(|kid| **kid != next.kid()).expect("another one");
    assert!(told.stdout.contains(&format!("{standby} signs in its place")), "{told}");
    until_jwks(both, 1).await;
    let last = log_in(&pair.two, &ann.email).await;
    assert_eq!(last.kid(), *standby);
    pair.both_accept(&last.token).await;

    pair.program.run(&["keys", "revoke", &ann.kid()]).await.expect(1);
    let keys = pair.program.run(&["keys", "list", "--json"]).await.expect(0).json_lines();
    let mut states: Vec<_> =
        keys.iter().map(|key| key["state"].as_str().expect("a word")).collect();
    states.sort_unstable();
    assert_eq!(states, ["active", "revoked", "revoked"]);
    let store = open_store(&pair.database.url);
    let events = events_of(&store, EventKind::SigningKeyChanged).await;
    let reasons: Vec<_> =
        events.iter().filter_map(|stored| stored.event.reason.as_deref()).collect();
    let [first, second] = [ann.kid(), next.kid()].map(|kid| format!("revoked:{kid}"));
    assert_eq!(reasons, [first, format!("added:{standby}"), second]);
}

#[tokio::test]
async fn a_key_is_replaced_by_age_once_for_all_gateways() {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    let clock = Clock::manual("2026-11-21T10:00:00Z".parse().expect("a timestamp"));
    let start = || {
        let builder = TestGateway::builder().upstream("app", &upstream).storage(&database.url);
        builder.clock(clock.clone()).config("[tokens]\nrotate_every = \"30d\"").start()
    };
    let (one, two) = tokio::join!(start(), start());
    let both = [&one, &two];
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let day = minutes(24 * 60);
    let first = until_jwks(both, 1).await;

    clock.advance(29 * day);
    clock.advance(minutes(24 * 60 - 11));
    let ann = one.sign_up("ann").await;
    // Looks later nothing has changed; a minute later there is another key in every JWKS.
    clock.advance(minutes(1));
    let known = until_jwks(both, 2).await;
    assert!(known.is_superset(&first));
    assert!(first.contains(&log_in(&two, &ann.email).await.kid()), "it still signs");

    clock.advance(minutes(10));
    let new = log_in(&two, &ann.email).await;
    assert!(!first.contains(&new.kid()));
    for gateway in both {
        gateway.get_as(&new.token, "/private/a").await.expect(200);
        gateway.get_as(&ann.token, "/private/a").await.expect(200);
    }
    clock.advance(day);
    let last = two.log_in(&ann.email, PASSWORD).await.expect(200).json();
    clock.advance(minutes(1));
    assert_eq!(until_jwks(both, 1).await, [new.kid()].into());
    one.get_as(&Caller::from_session(&last).token, "/private/a").await.expect(200);

    let events = events_of(&open_store(&database.url), EventKind::SigningKeyChanged).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.actor.as_deref(), Some("gateway"));
    assert_eq!(events[0].event.reason, Some(format!("rotated:{}", new.kid())));
}
