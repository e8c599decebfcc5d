//! What happens at once happens once.

use portcullis::model::EventKind;
use portcullis::store::Store;
use serde_json::json;

use crate::harness::{Caller, PASSWORD, TestGateway, Upstream, events_of, open_store, postgres};

/// Fifty sign-ups of one address, written in two ways.
async fn fifty_sign_ups(gateway: &TestGateway, store: &Store) {
    let tries = (0..50).map(|n| async move {
        let email = if n % 2 == 0 { "ann@example.com" } else { "ANN@Example.com" };
        gateway.try_sign_up(email).await
    });
    let mut created = Vec::new();
    let mut refused = 0;
    for answer in futures_util::future::join_all(tries).await {
        if answer.status == 201 {
            created.push(Caller::from_session(&answer.json()));
        } else {
            answer.expect_problem(409, "user_already_exists");
            refused += 1;
        }
    }
    assert_eq!((created.len(), refused), (1, 49));
    gateway.get_as(&created[0].token, "/private/a").await.expect(200);
    let users = store.users(None, 100, None).await.expect("users are read");
    assert_eq!(users.iter().map(|user| user.id.as_str()).collect::<Vec<_>>(), [&*created[0].id]);
    assert_eq!(events_of(store, EventKind::Signup).await.len(), 1);
    assert_eq!(events_of(store, EventKind::SignupFailed).await.len(), 49);
}

/// Logins at the same moment as a change of the password: whoever got a session with the old
/// password has lost it.
async fn logins_against_a_password_change(gateway: &TestGateway) {
    let ann = gateway.sign_up("bea").await;
    let new = json!({ "password": "Other-Plover-9-Ladder", "current_password": PASSWORD });
    let change = gateway.request("PUT", "/auth/user").bearer(&ann.token).json(&new).send();
    let logins = (0..20).map(|_| gateway.log_in(&ann.email, PASSWORD));
    let (changed, logins) = tokio::join!(change, futures_util::future::join_all(logins));
    changed.expect(200);
    for answer in logins {
        if answer.status == 200 {
            let session = Caller::from_session(&answer.json());
            let refused = gateway.get_as(&session.token, "/private/a").await;
            refused.expect_problem(401, "session_not_found");
        } else {
            answer.expect_problem(401, "invalid_credentials");
        }
    }
    gateway.get_as(&ann.token, "/private/a").await.expect(200);
}

/// Refreshes at the same moment as a logout: whatever they gave out is refused when the logout is
/// answered.
async fn refreshes_against_a_logout(gateway: &TestGateway) {
    for round in 0..10 {
        let ann = gateway.sign_up(&format!("cat{round}")).await;
        let logout = gateway.post("/auth/logout?scope=global").bearer(&ann.token).send();
        let refreshes = (0..4).map(|_| gateway.refresh(&ann.refresh_token));
        let (out, refreshed) = tokio::join!(logout, futures_util::future::join_all(refreshes));
        out.expect(204);
        for answer in refreshed {
            if answer.status != 200 {
                answer.expect_problem(400, "session_expired");
                continue;
            }
            let session = Caller::from_session(&answer.json());
            let refused = gateway.get_as(&session.token, "/private/a").await;
            refused.expect_problem(401, "session_not_found");
            gateway.refresh(&session.refresh_token).await.expect_problem(400, "session_expired");
        }
    }
}

const ROOM: &str = "[passwords]\nmax_queued_hashes = 100\nmax_concurrent_hashes = 2";

#[tokio::test]
async fn one_of_fifty_sign_ups_wins_on_sqlite() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).config(ROOM).start().await;
    fifty_sign_ups(&gateway, &gateway.store()).await;
    logins_against_a_password_change(&gateway).await;
    refreshes_against_a_logout(&gateway).await;
}

#[tokio::test]
async fn one_of_fifty_sign_ups_wins_on_postgres() {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(ROOM)
        .storage(&database.url)
        .start()
        .await;
    fifty_sign_ups(&gateway, &open_store(&database.url)).await;
    logins_against_a_password_change(&gateway).await;
    refreshes_against_a_logout(&gateway).await;
}

/// Two gateways that start at once on an empty database make one schema and one key.
#[tokio::test]
async fn first_starts_at_once_make_one_key() {
    let upstream = Upstream::echo().await;
    let database = postgres::empty_database().await;
    let start = || TestGateway::builder().upstream("app", &upstream).storage(&database.url).start();
    let (one, two, three) = tokio::join!(start(), start(), start());
    let ann = one.sign_up("ann").await;
    for gateway in [&one, &two, &three] {
        let jwks = gateway.get("/auth/.well-known/jwks.json").send().await.expect(200).json();
        assert_eq!(jwks["keys"].as_array().map(Vec::len), Some(1));
        gateway.get_as(&ann.token, "/private/a").await.expect(200);
    }
}
