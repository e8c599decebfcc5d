//! Two gateways on one PostgreSQL and one Redis are one gateway: limits are shared, tokens of one
//! are good at the other, and what ends a session here ends it there within a second.

use std::time::{Duration, Instant};

use portcullis::clock::Clock;
use portcullis::model::EventKind;
use serde_json::{Value, json};

use crate::harness::postgres::{self, Database};
use crate::harness::redis::Redis;
use crate::harness::{
    Builder, Caller, PASSWORD, Program, TestGateway, Upstream, events_of, noted, open_store,
    patiently, pause,
};

/// Contract section 5: "in other gateways on the same database within a second".
const SECOND: Duration = Duration::from_secs(1);

pub(crate) struct Pair {
    pub(crate) one: TestGateway,
    pub(crate) two: TestGateway,
    pub(crate) program: Program,
    pub(crate) database: Database,
    upstream: Upstream,
}

impl Pair {
    /// Also the command line on the same database.
    pub(crate) async fn start(config: &str) -> Self {
        let upstream = Upstream::echo().await;
        let (database, redis) = (postgres::database().await, Redis::new());
        // The command line goes by the system's clock, so all do.
        let builder = || -> Builder {
            TestGateway::builder()
                .upstream("app", &upstream)
                .storage(&database.url)
                .counters(redis.url(), redis.key_prefix())
                .clock(Clock::system())
                .config(config)
        };
        let (one, two) = tokio::join!(builder().start(), builder().start());
        let program = Program::of(builder()).await;
        Self { one, two, program, database, upstream }
    }

    pub(crate) async fn both_accept(&self, token: &str) {
        for gateway in [&self.one, &self.two] {
            gateway.get_as(token, "/private/a").await.expect(200);
            gateway.get_as(token, "/auth/user").await.expect(200);
        }
    }

    /// Waits until the gateway refuses the token, but not longer than promised since `when`.
    async fn refuses_within_a_second(gateway: &TestGateway, token: &str, when: Instant) {
        while gateway.get_as(token, "/private/a").await.status == 200 {
            assert!(when.elapsed() < SECOND, "still accepted after {:?}", when.elapsed());
            pause().await;
        }
        gateway.get_as(token, "/private/a").await.expect_problem(401, "session_not_found");
        gateway.get_as(token, "/auth/user").await.expect_problem(401, "session_not_found");
    }
}

#[tokio::test]
async fn tokens_of_one_are_good_at_the_other() {
    let pair = Pair::start("").await;
    let ann = pair.one.sign_up("ann").await;
    pair.both_accept(&ann.token).await;
    let own = format!("/api/{}/tasks", ann.id);
    pair.two.get_as(&ann.token, &own).await.expect(200);
    assert_eq!(pair.upstream.last().header("x-user-id"), Some(&*ann.id));
    let again = pair.two.log_in(&ann.email, PASSWORD).await.expect(200).json();
    pair.both_accept(&Caller::from_session(&again).token).await;
    // A chain of refreshes goes back and forth; a lost answer is found at the other.
    let next = pair.two.refresh(&ann.refresh_token).await.expect(200).json();
    let next = Caller::from_session(&next);
    let same = pair.one.refresh(&ann.refresh_token).await.expect(200).json();
    assert_eq!(Caller::from_session(&same).refresh_token, next.refresh_token);
    let third = pair.one.refresh(&next.refresh_token).await.expect(200).json();
    pair.both_accept(&Caller::from_session(&third).token).await;
    pair.two.try_sign_up(&ann.email).await.expect_problem(409, "user_already_exists");
}

#[tokio::test]
async fn twenty_refreshes_over_two_gateways_get_one_successor() {
    let pair = Pair::start("").await;
    let ann = pair.one.sign_up("ann").await;
    let shown = (0..20).map(|n| {
        let gateway = if n % 2 == 0 { &pair.one } else { &pair.two };
        gateway.refresh(&ann.refresh_token)
    });
    let mut successors: Vec<_> = futures_util::future::join_all(shown)
        .await
        .into_iter()
        .map(|answer| Caller::from_session(&answer.expect(200).json()).refresh_token)
        .collect();
    successors.dedup();
    assert_eq!(successors.len(), 1);
    let store = open_store(&pair.database.url);
    assert_eq!(events_of(&store, EventKind::TokenRefreshed).await.len(), 1);
}

#[tokio::test]
async fn limits_are_shared() {
    let pair = Pair::start("[limits]\nlogin = { rate = \"5/minute\", by = \"ip\" }").await;
    let mut refused = 0;
    for n in 0..8 {
        let gateway = if n % 2 == 0 { &pair.one } else { &pair.two };
        let answer = gateway.log_in("nobody@example.com", "x").await;
        if n < 5 {
            answer.expect_problem(401, "invalid_credentials");
        } else {
            answer.expect_problem(429, "over_request_rate_limit");
            let wait: u64 = answer.header("retry-after").expect("a time").parse().expect("seconds");
            assert!((1..=60).contains(&wait));
            refused += 1;
        }
    }
    assert_eq!(refused, 3);
}

#[tokio::test]
async fn fifty_sign_ups_over_two_gateways_make_one_account() {
    let pair = Pair::start("[passwords]\nmax_queued_hashes = 100").await;
    let tries = (0..50).map(|n| {
        let gateway = if n % 2 == 0 { &pair.one } else { &pair.two };
        gateway.try_sign_up("ann@example.com")
    });
    let statuses: Vec<_> =
        futures_util::future::join_all(tries).await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|&&status| status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|&&status| status == 409).count(), 49, "{statuses:?}");
}

#[tokio::test]
async fn a_logout_reaches_the_other() {
    let pair = Pair::start("").await;
    for round in 0..3 {
        let ann = pair.one.sign_up(&format!("ann{round}")).await;
        let again = pair.two.log_in(&ann.email, PASSWORD).await.expect(200).json();
        let again = Caller::from_session(&again);
        pair.both_accept(&ann.token).await;
        pair.one.post("/auth/logout").bearer(&ann.token).send().await.expect(204);
        let when = Instant::now();
        pair.one.get_as(&ann.token, "/private/a").await.expect(401);
        Pair::refuses_within_a_second(&pair.two, &ann.token, when).await;
        pair.both_accept(&again.token).await;
    }
}

/// Another gateway may take the token for up to a second more, but what would outlive the session is
/// held against the database.
#[tokio::test]
async fn an_ended_session_does_nothing_that_lasts() {
    let pair = Pair::start("[api_keys]\nself_service = true").await;
    let root = pair.one.sign_up("root").await;
    let ann = pair.one.sign_up("ann").await;
    let (id, now) = (root.id.parse().expect("an id"), pair.one.clock.now());
    let set = noted(EventKind::RolesChanged, now);
    let store = open_store(&pair.database.url);
    store.set_roles(&id, &["admin".to_owned()], now, &set).await.expect("stored").expect("root");
    for caller in [&root, &ann] {
        pair.both_accept(&caller.token).await;
        pair.one.post("/auth/logout?scope=global").bearer(&caller.token).send().await.expect(204);
    }
    let ask = async |method: &str, path: &str, token: &str, body: Value| {
        let request = pair.two.request(method, path).bearer(token).json(&body);
        request.send().await.expect_problem(401, "session_not_found");
    };
    let password = json!({ "password": "Attacker-Pw-99" });
    ask("PUT", "/auth/user", &ann.token, password).await;
    ask("PUT", "/auth/user", &ann.token, json!({ "data": { "x": 1 } })).await;
    ask("POST", "/auth/api_keys", &ann.token, json!({ "name": "job" })).await;
    let made = json!({ "email": "made@example.com", "app_metadata": { "roles": ["admin"] } });
    ask("POST", "/auth/admin/users", &root.token, made).await;
    let key = json!({ "name": "job", "scopes": ["admin"] });
    ask("POST", &format!("/auth/admin/users/{}/api_keys", root.id), &root.token, key).await;
    let session = pair.one.log_in(&ann.email, PASSWORD).await.expect(200).json();
    assert_eq!(session["user"]["user_metadata"], json!({}));
    assert!(store.api_keys(None).await.expect("read").is_empty());
    assert!(events_of(&store, EventKind::UserCreated).await.is_empty());
}

#[tokio::test]
async fn a_password_change_and_a_reuse_reach_the_other() {
    let pair = Pair::start("").await;
    let ann = pair.one.sign_up("ann").await;
    let mine = pair.two.log_in(&ann.email, PASSWORD).await.expect(200).json();
    let mine = Caller::from_session(&mine);
    pair.both_accept(&ann.token).await;
    let new = json!({ "password": "Other-Plover-9-Ladder", "current_password": PASSWORD });
    let change = pair.two.request("PUT", "/auth/user").bearer(&mine.token).json(&new);
    change.send().await.expect(200);
    let when = Instant::now();
    pair.two.get_as(&ann.token, "/private/a").await.expect(401);
    Pair::refuses_within_a_second(&pair.one, &ann.token, when).await;
    pair.both_accept(&mine.token).await;
    pair.one.log_in(&ann.email, PASSWORD).await.expect(401);
}

#[tokio::test]
async fn what_the_command_line_ends_is_refused_by_both() {
    let pair = Pair::start("").await;
    let ann = pair.one.sign_up("ann").await;
    let bob = pair.two.sign_up("bob").await;
    pair.both_accept(&ann.token).await;
    pair.program.run(&["users", "disable", &ann.email]).await.expect(0);
    let when = Instant::now();
    let one = Pair::refuses_within_a_second(&pair.one, &ann.token, when);
    let two = Pair::refuses_within_a_second(&pair.two, &ann.token, when);
    tokio::join!(one, two);
    for gateway in [&pair.one, &pair.two] {
        gateway.log_in(&ann.email, PASSWORD).await.expect_problem(401, "invalid_credentials");
        gateway.refresh(&ann.refresh_token).await.expect_problem(400, "session_expired");
    }
    pair.both_accept(&bob.token).await;
    pair.program.run(&["sessions", "revoke", &bob.id]).await.expect(0);
    let when = Instant::now();
    let one = Pair::refuses_within_a_second(&pair.one, &bob.token, when);
    let two = Pair::refuses_within_a_second(&pair.two, &bob.token, when);
    tokio::join!(one, two);
    pair.program.run(&["users", "enable", &ann.id]).await.expect(0);
    let again = pair.one.log_in(&ann.email, PASSWORD).await.expect(200).json();
    pair.both_accept(&Caller::from_session(&again).token).await;
}

#[tokio::test]
async fn a_key_is_good_and_ends_at_both() {
    let pair = Pair::start(
        "[[routes]]\npath = \"/private/{*rest}\"\nupstream = \"app\"\napi_keys = true\n\
         [api_keys]\nself_service = true",
    )
    .await;
    let ann = pair.one.sign_up("ann").await;
    let make = async || {
        let wanted = json!({ "name": "job", "scopes": ["read"] });
        let made = pair.one.post("/auth/api_keys").bearer(&ann.token).json(&wanted);
        let made = made.send().await.expect(201).json();
        let text = |name: &str| made[name].as_str().expect("text").to_owned();
        (text("id"), text("key"))
    };
    let until = async |gateway: &TestGateway, key: &str, status: u16| {
        patiently("what has become of the key", async {
            while gateway.get_as(key, "/private/a").await.status != status {
                pause().await;
            }
        })
        .await;
    };
    for round in 0..3 {
        let (id, key) = make().await;
        pair.one.get_as(&key, "/private/a").await.expect(200);
        until(&pair.two, &key, 200).await;
        // By its user at the other gateway, and from the command line.
        if round == 0 {
            let end = pair.two.request("DELETE", &format!("/auth/api_keys/{id}"));
            end.bearer(&ann.token).send().await.expect(204);
            pair.two.get_as(&key, "/private/a").await.expect_problem(401, "invalid_api_key");
        } else {
            pair.program.run(&["api-keys", "revoke", &key[..12]]).await.expect(0);
        }
        let ended = [until(&pair.one, &key, 401), until(&pair.two, &key, 401)];
        futures_util::future::join_all(ended).await;
        pair.one.get_as(&key, "/private/a").await.expect_problem(401, "invalid_api_key");
    }
    // What becomes of the user becomes of the key.
    let (_, key) = make().await;
    until(&pair.two, &key, 200).await;
    let roles = async |gateway: &TestGateway| {
        gateway.get_as(&key, "/private/a").await;
        pair.upstream.last().header("x-user-roles").map(str::to_owned)
    };
    pair.program.run(&["users", "set-roles", &ann.email, "staff"]).await.expect(0);
    for gateway in [&pair.one, &pair.two] {
        patiently("the new role", async {
            while roles(gateway).await.as_deref() != Some("staff") {
                pause().await;
            }
        })
        .await;
    }
    for (command, status) in [
        (&["disable", &ann.email] as &[&str], 401),
        (&["enable", &ann.email], 200),
        (&["delete", &ann.email, "--yes"], 401),
    ] {
        pair.program.run(&[&["users"], command].concat()).await.expect(0);
        let changed = [until(&pair.one, &key, status), until(&pair.two, &key, status)];
        futures_util::future::join_all(changed).await;
    }
}

/// Sessions end while a third gateway is away: it is not ready before it knows them.
#[tokio::test]
async fn a_gateway_that_comes_later_knows_what_ended_before() {
    let pair = Pair::start("").await;
    let ann = pair.one.sign_up("ann").await;
    let bob = pair.one.sign_up("bob").await;
    pair.one.post("/auth/logout").bearer(&ann.token).send().await.expect(204);
    let third = TestGateway::builder()
        .upstream("app", &pair.upstream)
        .storage(&pair.database.url)
        .clock(Clock::system())
        .start()
        .await;
    third.get_as(&ann.token, "/private/a").await.expect_problem(401, "session_not_found");
    third.get_as(&bob.token, "/private/a").await.expect(200);
}

#[tokio::test]
async fn rotated_and_retired_keys_reach_both() {
    let pair = Pair::start("").await;
    let ann = pair.one.sign_up("ann").await;
    let jwks = async |gateway: &TestGateway| {
        let keys = gateway.get("/auth/.well-known/jwks.json").send().await.expect(200).json();
        keys["keys"].as_array().expect("keys").clone()
    };
    let old = jwks(&pair.one).await;
    let old = old[0]["kid"].as_str().expect("a kid").to_owned();
    pair.program.run(&["keys", "rotate", "--now"]).await.expect(0);
    let when = Instant::now();
    for gateway in [&pair.one, &pair.two] {
        while jwks(gateway).await.len() != 2 {
            assert!(when.elapsed() < 3 * SECOND);
            pause().await;
        }
    }
    let bob = pair.two.sign_up("bob").await;
    let new = patiently("the new key to sign", async {
        loop {
            let new = pair.two.log_in(&bob.email, PASSWORD).await.expect(200).json();
            let new = Caller::from_session(&new);
            if new.kid() != old {
                return new;
            }
            pause().await;
        }
    })
    .await;
    pair.both_accept(&new.token).await;
    pair.both_accept(&ann.token).await;
    pair.program.run(&["keys", "retire", &old]).await.expect(0);
    let when = Instant::now();
    for gateway in [&pair.one, &pair.two] {
        while gateway.get_as(&ann.token, "/private/a").await.status == 200 {
            assert!(when.elapsed() < 3 * SECOND);
            pause().await;
        }
        gateway.get_as(&ann.token, "/private/a").await.expect_problem(401, "bad_jwt");
        assert_eq!(jwks(gateway).await.len(), 1);
    }
    pair.both_accept(&new.token).await;
}

/// A flood of logouts at one gateway while the other answers: late commits are not skipped.
#[tokio::test]
async fn of_many_logouts_at_once_none_is_missed() {
    let pair = Pair::start("").await;
    let mut callers = Vec::new();
    for n in 0..40 {
        callers.push(pair.one.sign_up(&format!("u{n}")).await);
    }
    let logouts = callers.iter().enumerate().map(|(n, caller)| {
        let gateway = if n % 2 == 0 { &pair.one } else { &pair.two };
        gateway.post("/auth/logout").bearer(&caller.token).send()
    });
    for answer in futures_util::future::join_all(logouts).await {
        answer.expect(204);
    }
    let when = Instant::now();
    for caller in &callers {
        Pair::refuses_within_a_second(&pair.one, &caller.token, when).await;
        Pair::refuses_within_a_second(&pair.two, &caller.token, when).await;
    }
}
