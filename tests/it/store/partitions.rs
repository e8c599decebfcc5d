//! Events on PostgreSQL by month.

use jiff::Timestamp;
use portcullis::config::{Secrets, Storage};
use portcullis::model::{Event, EventKind};
use portcullis::store::{EventCursor, EventFilter, Store, StoreError};
use uuid::Uuid;

use super::retention::{mid, month, prune};
use super::{Home, at, event};
use crate::harness::postgres::{self, Database};

/// An event at a time.
fn when(time: Timestamp) -> Event {
    Event { at: time, ..event(EventKind::Login, 0) }
}

/// The tables that events lie in, with how many there are in each; empty ones too.
async fn partitions(url: &str) -> Vec<(String, i64)> {
    let client = postgres::client(url).await;
    let sql =
        "SELECT c.relname::text FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'auth_events'::regclass ORDER BY c.relname";
    let mut found = Vec::new();
    for row in client.query(sql, &[]).await.unwrap() {
        let name: String = row.get(0);
        let count = client.query_one(&format!("SELECT count(*) FROM {name}"), &[]).await.unwrap();
        found.push((name, count.get(0)));
    }
    found
}

fn url(home: &Home) -> &str {
    use secrecy::ExposeSecret as _;
    home.storage.url.expose_secret()
}

/// How many events lie in a month's partition; none, when there is no such partition.
async fn count_in(home: &Home, name: &str) -> Option<i64> {
    let found = partitions(url(home)).await;
    found.into_iter().find(|(known, _)| known == name).map(|(_, count)| count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_before_stay_whole_in_one_partition_and_late_ones_do_not_hold_it_up() {
    upgraded(postgres::database_of(11).await).await;
}

/// As a time is written then, "CST" is Shanghai's to whom writes it, and Chicago's to whom reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn months_are_those_of_utc_however_times_are_written_here() {
    let database = postgres::database_of(11).await;
    let sql = "DO $$ BEGIN
            EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Shanghai''', current_database());
            EXECUTE format('ALTER DATABASE %I SET datestyle = ''SQL, MDY''', current_database());
        END $$";
    database.sql(sql).await;
    upgraded(database).await;
}

async fn upgraded(database: Database) {
    let (writer, now) = (Uuid::from_u128(7), portcullis::clock::Clock::system().now());
    let this_month = now.to_zoned(jiff::tz::TimeZone::UTC).date().first_of_month();
    let start = |months: i64| -> Timestamp {
        let day = this_month.checked_add(jiff::Span::new().months(months)).unwrap();
        day.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp()
    };
    // Two years back, the last moment of the month, and then what a wrong clock wrote.
    let times = [start(-24), start(-1), start(1) - jiff::Span::new().microseconds(1), start(1)];
    let far: Timestamp = "2099-07-01T00:00:00Z".parse().unwrap();
    let client = postgres::client(&database.url).await;
    for (number, time) in (1_i64..).zip(times.iter().chain([&far])) {
        let sql = "INSERT INTO auth_events (at, id, writer, number, kind, outcome, user_id)
            VALUES ($1, $2, $3, $4, 'login', 'success', 'u-1')";
        let id = Uuid::from_u128(u128::try_from(number).unwrap());
        client.execute(sql, &[time, &id, &writer, &number]).await.unwrap();
    }
    let sql = "INSERT INTO event_writers (id, first_event_at, last_number) VALUES ($1, $2, 5)";
    client.execute(sql, &[&writer, &times[0]]).await.unwrap();
    let marks = "SELECT array_agg(xid::text ORDER BY number) FROM auth_events";
    let before: Vec<String> = client.query_one(marks, &[]).await.unwrap().get(0);

    let home = Home::on(database);
    let migrated = home.store.migrate().await.unwrap();
    assert_eq!(migrated.from, Some(11));
    let events = home.all_events().await;
    let numbers: Vec<_> = events.iter().map(|stored| stored.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert!(home.store.check_events(10).await.unwrap()[0].is_whole());
    let after: Vec<String> = client.query_one(marks, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "who follows the events goes by these");

    let name = |time: Timestamp| time.strftime("%Y_%m").to_string();
    let old = format!("auth_events_before_{}", name(start(1)));
    let [next, one_more] = [start(1), start(2)].map(|time| format!("auth_events_{}", name(time)));
    let mut expected =
        [(next, 1), (one_more, 0), (old.clone(), 3), ("auth_events_default".into(), 1)];
    expected.sort();
    assert_eq!(partitions(url(&home)).await, expected);
    // Nothing is missing, neither to us nor to one whose clock is behind.
    for time in [now, start(-1), start(-30)] {
        let made = home.store.make_event_partitions(time).await.unwrap();
        assert_eq!(made, Vec::<String>::new());
    }
    let made = home.store.make_event_partitions(start(1)).await.unwrap();
    assert_eq!(made, [format!("auth_events_{}", name(start(3)))]);
    assert_eq!(partitions(url(&home)).await.len(), expected.len() + 1);
    // This month's go there, too, and are found as all others.
    home.store.record(&[when(now)]).await.unwrap();
    assert_eq!(count_in(&home, &old).await, Some(4));
    let user = "u-1".parse().unwrap();
    assert_eq!(home.store.events_of_user(&user, 10, None).await.unwrap().len(), 5);
    // It goes when all of it is over, and row by row until then.
    let removed = prune(&home.store, start(0), now).await.unwrap();
    assert_eq!(removed.events, 2);
    let removed = prune(&home.store, start(1), start(1)).await.unwrap();
    assert_eq!((removed.events, count_in(&home, &old).await), (3, None));
    assert!(
        home.store.check_events(10).await.unwrap().iter().all(portcullis::store::Trail::is_whole)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_database_begins_with_three_months() {
    let home = Home::postgres().await;
    let months = partitions(url(&home)).await;
    assert_eq!(months.len(), 4, "{months:?}");
    assert!(months.iter().all(|(name, count)| *count == 0 && !name.contains("before")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn months_are_made_ahead_by_one_of_many_and_take_what_lay_in_the_default_one() {
    let home = Home::postgres().await;
    // Nobody has come by for years; events are stored all the same, and a reader follows them.
    let now = mid(60);
    let later = mid(61) + std::time::Duration::from_secs(1);
    let events: Vec<_> = [mid(59), mid(60), mid(61), later, mid(63)].map(when).into();
    home.store.record(&events).await.unwrap();
    assert_eq!(count_in(&home, "auth_events_default").await, Some(5));
    let mut tail = EventCursor::default();
    home.store.new_events(&mut tail).await.unwrap();

    let others: Vec<_> = (0..4).map(|_| home.another()).collect();
    let making = others.iter().map(|store| store.make_event_partitions(now));
    let mut made: Vec<String> = Vec::new();
    for names in futures_util::future::join_all(making).await {
        // One that had to wait for the others for long tries again later.
        made.extend(names.unwrap_or_default());
    }
    made.sort();
    assert_eq!(made, ["auth_events_2032_01", "auth_events_2032_02", "auth_events_2032_03"]);
    assert!(home.store.make_event_partitions(now).await.unwrap().is_empty());
    for (name, count) in [
        ("auth_events_2032_01", Some(1)),
        ("auth_events_2032_02", Some(2)),
        ("auth_events_2032_03", Some(0)),
        ("auth_events_default", Some(2)),
    ] {
        assert_eq!(count_in(&home, name).await, count, "{name}");
    }
    assert!(home.store.new_events(&mut tail).await.unwrap().is_empty(), "none is new by moving");
    home.store.record(&[when(mid(62))]).await.unwrap();
    assert_eq!(count_in(&home, "auth_events_2032_03").await, Some(1));
    assert_eq!(home.store.new_events(&mut tail).await.unwrap().len(), 1);
    let numbers: Vec<_> = home.all_events().await.iter().map(|stored| stored.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 6, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_that_cannot_be_made_does_not_hold_up_the_others() {
    let home = Home::postgres().await;
    home.sql("CREATE TABLE auth_events_2032_02 (somebody_elses int)").await;
    let refused = home.store.make_event_partitions(mid(60)).await.unwrap_err();
    assert!(!refused.is_unavailable(), "{refused:?}");
    for (name, count) in [
        ("auth_events_2032_01", Some(0)),
        ("auth_events_2032_02", None),
        ("auth_events_2032_03", Some(0)),
    ] {
        assert_eq!(count_in(&home, name).await, count, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_that_is_over_goes_as_a_whole_and_without_rights_row_by_row() {
    for may_alter in [true, false] {
        let home = Home::postgres().await;
        for distance in [0, 3, 6] {
            home.store.make_event_partitions(mid(distance)).await.unwrap();
        }
        let events: Vec<_> = (-1..8).map(|distance| when(mid(distance))).collect();
        home.store.record(&events).await.unwrap();
        let storage = Storage { migrate: may_alter, ..home.storage.clone() };
        let store = Store::open(&storage, &Secrets::default()).unwrap();
        let limit = mid(3);
        assert_eq!(prune(&store, limit, mid(8)).await.unwrap().events, 4);
        let march = count_in(&home, "auth_events_2027_03").await;
        assert_eq!(march, (!may_alter).then_some(0));
        assert_eq!(count_in(&home, "auth_events_2027_04").await, Some(1), "its day is not over");
        let trails = home.store.check_events(10).await.unwrap();
        assert!(trails.iter().all(portcullis::store::Trail::is_whole), "{trails:?}");
        let first = &trails.iter().find(|trail| trail.last_number == 9).unwrap();
        assert_eq!((first.removed, first.removed_up_to), (4, 4));
        assert!(month(3) < limit);
    }
}

/// A role of the database that owns nothing; it is gone when the test has told it to.
struct Guest {
    name: String,
    /// Who it is once connected: the superuser of the tests gives all else up.
    url: String,
}

impl Guest {
    async fn of(home: &Home) -> Self {
        let name =
            format!("guest_{}", Uuid::from_bytes(portcullis::clock::random_bytes()).simple());
        home.sql(&format!("CREATE ROLE {name}")).await;
        let separator = if url(home).contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}options=-c%20role%3D{name}", url(home));
        Self { name, url }
    }

    fn store(&self, migrate: bool) -> Store {
        let storage = Storage { url: self.url.as_str().into(), max_connections: 4, migrate };
        Store::open(&storage, &Secrets::default()).unwrap()
    }

    async fn leave(self, home: &Home) {
        let name = self.name;
        home.sql(&format!("DROP OWNED BY {name}; DROP ROLE {name}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_might_use_the_events_before_may_use_them_by_month() {
    let home = Home::on(postgres::database_of(11).await);
    home.sql(
        "INSERT INTO auth_events (at, id, writer, number, kind, outcome)
         VALUES (now(), gen_random_uuid(), gen_random_uuid(), 1, 'login', 'success')",
    )
    .await;
    let guest = Guest::of(&home).await;
    let all =
        format!("SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}", guest.name);
    home.sql(&format!("GRANT {all}")).await;
    home.store.migrate().await.unwrap();
    let store = guest.store(false);
    store.check_schema().await.unwrap();
    let now = portcullis::clock::Clock::system().now();
    let old = "2001-01-01T00:00:00Z".parse().unwrap();
    store.record(&[when(now), when(old)]).await.unwrap();
    // Tables that are new are for those who are told of them, and a gateway says so at its start.
    let refused = store.check_rights().await.unwrap_err();
    assert!(refused.to_string().contains("GRANT SELECT"), "{refused}");
    let of_the_webhook = format!("ALL ON event_webhook, event_deliveries TO {}", guest.name);
    home.sql(&format!("GRANT {of_the_webhook}")).await;
    assert_eq!(prune(&store, old + jiff::Span::new().hours(48), now).await.unwrap().events, 1);
    home.sql(&format!("GRANT {all}")).await;
    store.check_rights().await.unwrap();

    let client = postgres::client(url(&home)).await;
    let sql = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
        AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'refinery_schema_history'";
    for row in client.query(sql, &[]).await.unwrap() {
        let name: String = row.get(0);
        for right in ["SELECT", "INSERT"] {
            home.sql(&format!("REVOKE {right} ON {name} FROM {}", guest.name)).await;
            let refused = store.check_rights().await;
            assert!(
                matches!(&refused, Err(StoreError::Rights { table }) if *table == name),
                "{right} {name}: {refused:?}"
            );
            home.sql(&format!("GRANT {right} ON {name} TO {}", guest.name)).await;
        }
    }
    store.check_rights().await.unwrap();
    guest.leave(&home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_dropped_is_emptied_and_the_owner_drops_it() {
    let home = Home::postgres().await;
    for distance in [0, 3] {
        home.store.make_event_partitions(mid(distance)).await.unwrap();
    }
    let guest = Guest::of(&home).await;
    let name = &guest.name;
    home.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name};
         GRANT CREATE ON SCHEMA public TO {name}"
    ))
    .await;
    home.store.record(&[-1, 0, 1, 2, 3].map(|distance| when(mid(distance)))).await.unwrap();
    // The months are somebody else's, and the role might make some.
    let removed = prune(&guest.store(true), month(1), mid(3)).await.unwrap();
    assert_eq!((removed.events, count_in(&home, "auth_events_2027_01").await), (2, Some(0)));
    guest.leave(&home).await;

    // Somebody's view hangs on February: that is told of, and the events go all the same.
    home.sql("CREATE VIEW february AS SELECT at FROM auth_events_2027_02").await;
    let refused = prune(&home.store, month(3), mid(3)).await.unwrap_err();
    assert!(!refused.is_unavailable(), "{refused:?}");
    assert_eq!(count_in(&home, "auth_events_2027_02").await, Some(0));
    for name in ["auth_events_2027_01", "auth_events_2027_03"] {
        assert_eq!(count_in(&home, name).await, None);
    }
    home.sql("DROP VIEW february").await;

    let dropped = home.store.drop_empty_event_partitions(mid(3)).await.unwrap();
    assert_eq!(dropped, ["auth_events_2027_02"]);
    // Neither what is not over, nor what has something in it: one of ours, and what tells of the rest.
    assert_eq!(count_in(&home, "auth_events_2027_04").await, Some(4));
    assert_eq!(count_in(&home, "auth_events_2027_05").await, Some(0));
    let dropped = home.store.drop_empty_event_partitions(mid(6)).await.unwrap();
    assert_eq!(dropped, ["auth_events_2027_05", "auth_events_2027_06"]);
    assert_eq!(count_in(&home, "auth_events_2027_04").await, Some(4));
    assert!(
        home.store.check_events(10).await.unwrap().iter().all(portcullis::store::Trail::is_whole)
    );
}

/// Whoever reads or writes holds up a change of the tables, and nobody else for longer than a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_end_makes_a_removal_wait_for_the_next_time() {
    let home = Home::postgres().await;
    home.store.make_event_partitions(mid(0)).await.unwrap();
    home.store.record(&[when(mid(0)), when(mid(4))]).await.unwrap();
    let mut client = postgres::client(url(&home)).await;
    let reading = client.transaction().await.unwrap();
    reading.query("SELECT count(*) FROM auth_events", &[]).await.unwrap();
    let (removing, recorded) = tokio::join!(prune(&home.store, mid(3), mid(4)), async {
        home.another().record(&[event(EventKind::Login, 7)]).await
    });
    assert!(removing.is_err_and(|error| error.is_unavailable()));
    recorded.unwrap();
    assert_eq!(home.store.events(&EventFilter::default(), 10, None).await.unwrap().len(), 3);
    reading.commit().await.unwrap();
    assert_eq!(prune(&home.store, mid(3), mid(4)).await.unwrap().events, 2);
    assert!(at(7) < mid(3), "what was recorded meanwhile went along");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_account_is_replaced_in_all_months() {
    let home = Home::postgres().await;
    let (ann, _) = home.user("ann").await;
    for distance in [0, 3] {
        home.store.make_event_partitions(mid(distance)).await.unwrap();
    }
    let events = [-40, 0, 1, 2].map(|distance| Event {
        user_id: Some(ann.clone()),
        email: Some("ann@example.com".to_owned()),
        ..when(mid(distance))
    });
    home.store.record(&events).await.unwrap();
    let deleted =
        Event { user_id: Some(ann.clone()), kind: EventKind::UserDeleted, ..when(mid(3)) };
    home.store
        .delete_user(&ann, portcullis::store::Deletion::Hard, mid(3), &deleted)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(home.store.erase(mid(3)).await.unwrap(), 5);
    assert!(home.store.events_of_user(&ann, 10, None).await.unwrap().is_empty());
    let all = home.all_events().await;
    assert!(all.iter().all(|stored| stored.event.email.is_none()), "{all:?}");
}
