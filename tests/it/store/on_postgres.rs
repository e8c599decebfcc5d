//! What only PostgreSQL has: outages, commits out of order, TLS.

use std::time::{Duration, Instant};

use portcullis::config::{Secrets, Storage};
use portcullis::model::EventKind;
use portcullis::store::{Deletion, EventCursor, RevocationCursor, SignUp, Store, StoreError};
use tokio::net::TcpListener;

use super::{Home, account, at, event};
use crate::harness::postgres::{self, OwnServer};

/// A revocation in a transaction that is still open is seen when it commits, however many others
/// were numbered later and read before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_is_not_skipped() {
    // Of its own: transactions of other tests on the same server would be waited for, too.
    let server = OwnServer::start().await;
    let database = server.database().await;
    let url = database.url.clone();
    let home = Home::on(database);
    let late_id = uuid::Uuid::from_u128(7);
    let late_event = uuid::Uuid::from_u128(8);
    let late = postgres::client(&url).await;
    late.batch_execute(&format!(
        "BEGIN;
         INSERT INTO revocations (session_id, until) VALUES ('{late_id}', '2100-01-01');
         INSERT INTO auth_events (at, id, writer, number, kind, outcome)
         VALUES ('2027-01-01', '{late_event}', '{late_event}', 1, 'login', 'success')"
    ))
    .await
    .unwrap();

    let mut ends = RevocationCursor::default();
    let mut tail = EventCursor::default();
    home.store.new_events(&mut tail).await.unwrap();
    for n in 0..3 {
        let (user, login) = home.user(&format!("user{n}")).await;
        let disabled = event(EventKind::UserDisabled, 1);
        home.store.disable(&user, at(9), at(1), &disabled).await.unwrap();
        let news = home.store.ended_sessions(&mut ends, at(1)).await.unwrap();
        assert!(news.iter().any(|ended| ended.id == login.session.id));
        assert!(news.iter().all(|ended| ended.id != late_id));
        let news = home.store.new_events(&mut tail).await.unwrap();
        assert_eq!(news.len(), 2, "each once, although the mark stands still");
    }
    late.batch_execute("COMMIT").await.unwrap();
    let news = home.store.ended_sessions(&mut ends, at(1)).await.unwrap();
    assert!(news.iter().any(|ended| ended.id == late_id));
    let news = home.store.new_events(&mut tail).await.unwrap();
    assert_eq!(news.iter().map(|s| s.event.id).collect::<Vec<_>>(), [late_event]);

    let again = home.store.ended_sessions(&mut ends, at(1)).await.unwrap();
    assert!(again.is_empty(), "nothing is open, nothing is repeated: {again:?}");
    assert!(home.store.new_events(&mut tail).await.unwrap().is_empty());
}

/// Polls are answered from the index, whatever the size of the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_for_ends_reads_few_rows() {
    let server = OwnServer::start().await;
    let database = server.database().await;
    let client = postgres::client(&database.url).await;
    client
        .batch_execute(
            "INSERT INTO revocations (session_id, until)
             SELECT gen_random_uuid(), '2100-01-01' FROM generate_series(1, 20000);
             ANALYZE revocations",
        )
        .await
        .unwrap();
    let home = Home::on(database);
    let mut cursor = RevocationCursor::default();
    assert_eq!(home.store.ended_sessions(&mut cursor, at(0)).await.unwrap().len(), 20_000);
    // More often than it takes for the server to make a plan for all values.
    for _ in 0..20 {
        assert!(home.store.ended_sessions(&mut cursor, at(0)).await.unwrap().is_empty());
    }
    let polls = Instant::now();
    for _ in 0..20 {
        home.store.ended_sessions(&mut cursor, at(0)).await.unwrap();
    }
    let each = polls.elapsed() / 20;
    assert!(each < Duration::from_millis(20), "{each:?}");
}

async fn calls_fail_in_time(store: &Store) {
    let started = Instant::now();
    let calls = (0..10).map(|n| async move {
        if n % 2 == 0 {
            let signup = event(EventKind::Signup, 0);
            store.sign_up(&account(&format!("lost{n}")), None, &signup).await.map(|_| ())
        } else {
            store.ping().await
        }
    });
    for refused in futures_util::future::join_all(calls).await {
        assert!(refused.as_ref().is_err_and(StoreError::is_unavailable), "{refused:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

async fn works(home: &Home, name: &str) {
    let signup = event(EventKind::Signup, 0);
    let done = home.store.sign_up(&account(name), None, &signup).await;
    assert_eq!(done.unwrap(), SignUp::Created);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_server_is_unavailable_in_time_and_recovery_is_immediate() {
    let server = OwnServer::start().await;
    let home = Home::on(server.database().await);
    // All connections of the pool are open and idle.
    let users = (0..8).map(|n| {
        let home = &home;
        async move { home.user(&format!("user{n}")).await }
    });
    futures_util::future::join_all(users).await;

    server.hang();
    calls_fail_in_time(&home.store).await;
    // Now without any open connection.
    calls_fail_in_time(&home.store).await;
    server.resume();
    works(&home, "after").await;
    let status = home.store.pool_status();
    assert_eq!((status.waiting, status.available), (0, status.size));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_is_unavailable_and_a_new_one_is_found() {
    let server = OwnServer::start().await;
    let home = Home::on(server.database().await);
    works(&home, "before").await;
    let mut cursor = RevocationCursor::default();
    home.store.ended_sessions(&mut cursor, at(0)).await.unwrap();

    server.stop();
    calls_fail_in_time(&home.store).await;
    server.start_again();
    works(&home, "after").await;
    // Connections that died in the pool while nobody looked are replaced without an error.
    server.stop();
    server.start_again();
    works(&home, "again").await;
    home.store.ended_sessions(&mut cursor, at(0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_swallows_everything_is_unavailable_in_time() {
    // Accepts connections and never says a word.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for parameters in ["sslmode=disable", "sslmode=require"] {
        let url = format!("postgres://u@127.0.0.1:{port}/db?{parameters}");
        let storage = Storage { url: url.into(), max_connections: 4, migrate: true };
        let store =
            Store::open(&storage, &Secrets::default()).expect("opening connects to nothing");
        calls_fail_in_time(&store).await;
        assert!(store.migrate().await.is_err_and(|error| error.is_unavailable()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_does_not_come_is_unavailable_in_time() {
    let database = postgres::database().await;
    let url = database.url.clone();
    let home = Home::on(database);
    let (ann, _) = home.user("ann").await;
    let other = postgres::client(&url).await;
    other.batch_execute("BEGIN; SELECT FROM users FOR UPDATE").await.unwrap();
    let started = Instant::now();
    let roles = event(EventKind::RolesChanged, 1);
    let refused = home.store.set_roles(&ann, &[], at(1), &roles).await;
    assert!(refused.as_ref().is_err_and(StoreError::is_unavailable), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
    other.batch_execute("ROLLBACK").await.unwrap();
    assert!(home.store.set_roles(&ann, &[], at(1), &roles).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_call_leaves_no_transaction_behind() {
    let database = postgres::database().await;
    let url = database.url.clone();
    let home = Home::on(database);
    let (ann, _) = home.user("ann").await;
    let other = postgres::client(&url).await;
    other.batch_execute("BEGIN; SELECT FROM users FOR UPDATE").await.unwrap();
    for _ in 0..8 {
        let roles = event(EventKind::RolesChanged, 1);
        let call = home.store.set_roles(&ann, &[], at(1), &roles);
        let cancelled = tokio::time::timeout(Duration::from_millis(50), call).await;
        assert!(cancelled.is_err());
    }
    other.batch_execute("ROLLBACK").await.unwrap();
    works(&home, "after").await;
    let left = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let left: i64 = other.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_server_is_unavailable() {
    let server = OwnServer::start().await;
    let home = Home::on(server.database().await);
    works(&home, "before").await;
    let admin = postgres::client(&server.url("postgres")).await;
    admin.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    // The setting reaches the pool's connection when it next reads its signals.
    loop {
        let signup = event(EventKind::Signup, 0);
        match home.store.sign_up(&account("during"), None, &signup).await {
            Ok(_) => {
                let deleted = event(EventKind::UserDeleted, 0);
                let user = account("during").user.id;
                if home.store.delete_user(&user, Deletion::Hard, at(0), &deleted).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                assert!(error.is_unavailable(), "{error:?}");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_statements_survive_a_change_of_the_schema() {
    let home = Home::postgres().await;
    let (ann, _) = home.user("ann").await;
    for _ in 0..3 {
        home.store.user(&ann).await.unwrap();
    }
    home.sql("ALTER TABLE users ALTER COLUMN new_email TYPE varchar(300)").await;
    assert!(home.store.user(&ann).await.unwrap().is_some());
    let roles = event(EventKind::RolesChanged, 1);
    assert!(home.store.set_roles(&ann, &[], at(1), &roles).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_checked_as_the_url_says() {
    let server = OwnServer::start_with_tls().await;
    let database = server.database().await;
    let name = database.url.split(['/', '?']).nth(3).unwrap().to_owned();
    let root = format!("sslrootcert={}", server.authority().display());
    let admin = postgres::client(&server.url("postgres")).await;
    // (host, parameters, whether the connection is encrypted; None = refused)
    let cases = [
        ("localhost", format!("sslmode=verify-full&{root}"), Some(true)),
        ("localhost", format!("sslmode=require&{root}"), Some(true)),
        ("127.0.0.1", format!("sslmode=verify-ca&{root}"), Some(true)),
        ("127.0.0.1", format!("sslmode=verify-full&{root}"), None),
        ("127.0.0.1", format!("sslmode=require&{root}"), None),
        ("127.0.0.1", "sslmode=prefer".to_owned(), Some(true)),
        ("127.0.0.1", String::new(), Some(true)),
        ("127.0.0.1", "sslmode=disable".to_owned(), Some(false)),
    ];
    for (n, (host, parameters, encrypted)) in cases.into_iter().enumerate() {
        let program = format!("tls-case-{n}");
        let url = server.tcp_url(host, &name, &format!("{parameters}&application_name={program}"));
        let storage = Storage { url: url.into(), max_connections: 1, migrate: true };
        let store = Store::open(&storage, &Secrets::default()).unwrap();
        let answer = store.ping().await;
        let found = match answer {
            Ok(()) => {
                let sql = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                    WHERE application_name = $1";
                Some(admin.query_one(sql, &[&program]).await.unwrap().get(0))
            }
            Err(error) => {
                assert!(error.is_unavailable(), "{error:?}");
                None
            }
        };
        assert_eq!(found, encrypted, "{host} {parameters}");
    }
}
