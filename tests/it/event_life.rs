//! The long life of events: how they are removed, checked, and handed to an archive.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use portcullis::model::{Event, EventKind};
use portcullis::store::{EventFilter, Removed, Store, Trail};
use serde_json::{Value, json};

use crate::harness::postgres;
use crate::harness::{
    Program, Running, TestGateway, Upstream, events_of, noted, open_store, patiently, pause,
    until_events,
};

const DAY: Duration = Duration::from_hours(24);

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

async fn all_whole(store: &Store) -> bool {
    store.check_events(10).await.expect("read").iter().all(Trail::is_whole)
}

/// Removes what is too old at the start, and after a reload that says so; months are made, too.
async fn old_events_go(gateway: &TestGateway, store: &Store, url: &str) {
    let now = gateway.clock.now();
    let ages = [400, 99, 31, 29, 1].map(|days| now - DAY * days);
    let logins: Vec<_> = ages.iter().map(|at| noted(EventKind::Login, *at)).collect();
    store.record(&logins).await.expect("stored");
    let ann = gateway.sign_up("ann").await;
    gateway.configure("[events]\nretention = \"100d\"");
    gateway.reload().await.expect(200);
    let removed = until_events(store, EventKind::EventsPruned, 1).await;
    assert_eq!(removed[0].event.reason.as_deref(), Some("1 before 2026-08-13T00:00:00Z"), "{url}");
    assert_eq!(events_of(store, EventKind::Login).await.len(), 4);
    gateway.configure("[events]\nretention = \"30d\"");
    gateway.reload().await.expect(200);
    let removed = until_events(store, EventKind::EventsPruned, 2).await;
    let reasons: Vec<_> = removed.iter().map(|stored| stored.event.reason.as_deref()).collect();
    assert!(reasons.contains(&Some("2 before 2026-10-22T00:00:00Z")), "{reasons:?}");
    assert_eq!(events_of(store, EventKind::Login).await.len(), 2);
    assert!(all_whole(store).await);
    // Users see what is left.
    gateway.get_as(&ann.token, "/auth/events").await.expect(200);
    // Time alone makes none go: without a setting all stay, and then those that it speaks of.
    gateway.configure("");
    gateway.reload().await.expect(200);
    let later = [1_000, 4_000].map(|days| noted(EventKind::Logout, now - DAY * days));
    store.record(&later).await.expect("stored");
    gateway.advance(DAY * 500);
    gateway.configure("[events]\nretention = \"3000d\"");
    gateway.reload().await.expect(200);
    until_events(store, EventKind::EventsPruned, 3).await;
    let left = events_of(store, EventKind::Logout).await;
    assert_eq!(left.iter().map(|stored| stored.event.id).collect::<Vec<_>>(), [later[0].id]);
}

#[tokio::test]
async fn old_events_go_on_sqlite() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    old_events_go(&gateway, &gateway.store(), "sqlite").await;
}

#[tokio::test]
async fn old_events_go_on_postgres_and_months_are_made_ahead() {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    let builder = TestGateway::builder().upstream("app", &upstream).storage(&database.url);
    let gateway = builder.start().await;
    let store = open_store(&database.url);
    old_events_go(&gateway, &store, &database.url).await;
    // The clock has gone on by 500 days since, and the reload had somebody look.
    let client = postgres::client(&database.url).await;
    patiently("the month to be made", async {
        let sql = "SELECT to_regclass('auth_events_2028_04') IS NOT NULL
            AND to_regclass('auth_events_2028_06') IS NOT NULL";
        while !client.query_one(sql, &[]).await.expect("answers").get::<_, bool>(0) {
            pause().await;
        }
    })
    .await;
    gateway.sign_up("bob").await;
    let sql = "SELECT count(*) FROM auth_events_2028_04 WHERE kind = 'signup'";
    let count: i64 = client.query_one(sql, &[]).await.expect("answers").get(0);
    assert_eq!(count, 1);
}

/// Where the program may not change the schema, the operator's command does.
#[tokio::test]
async fn migrate_makes_the_months_and_the_gateway_does_not_without_leave() {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    database.sql("DROP TABLE auth_events_2026_12; DROP TABLE auth_events_2027_01").await;
    let dropped = database.sql(
        "DO $$ DECLARE name text; BEGIN
             FOR name IN SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c
                 ON c.oid = i.inhrelid WHERE i.inhparent = 'auth_events'::regclass
                 AND c.relname <> 'auth_events_default'
             LOOP EXECUTE format('DROP TABLE %I', name); END LOOP;
         END $$",
    );
    dropped.await;
    let builder = || TestGateway::builder().upstream("app", &upstream).storage(&database.url);
    let config = "[storage]\nmigrate = false\n[events]\nretention = \"30d\"";
    let gateway = builder().config(config).start().await;
    let store = open_store(&database.url);
    let old = noted(EventKind::Login, gateway.clock.now() - DAY * 31);
    store.record(&[old]).await.expect("stored");
    gateway.sign_up("ann").await;
    gateway.configure("[events]\nretention = \"29d\"");
    gateway.reload().await.expect(200);
    until_events(&store, EventKind::EventsPruned, 1).await;
    let client = postgres::client(&database.url).await;
    let count =
        async |sql: &str| client.query_one(sql, &[]).await.expect("answers").get::<_, i64>(0);
    let children = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'auth_events'::regclass";
    assert_eq!(count(children).await, 1, "but for the default one there is none");
    let program = Program::of(builder()).await;
    let told = program.run(&["migrate"]).await.expect(0).stdout;
    assert_eq!(
        told.lines().filter(|line| line.starts_with("made auth_events_")).count(),
        3,
        "{told}"
    );
    assert_eq!(count(children).await, 4);
    assert!(all_whole(&store).await);
    // A month that was emptied row by row goes, too.
    store.make_event_partitions(time("2001-01-15T00:00:00Z")).await.expect("made");
    let again = program.run(&["migrate"]).await.expect(0).stdout;
    assert!(!again.contains("made"), "{again}");
    assert!(again.contains("dropped auth_events_2001_02"), "{again}");
    assert_eq!(count(children).await, 4);
}

/// What a wrong clock removes is gone: it does not remove.
#[tokio::test]
async fn a_gateway_whose_clock_is_ahead_of_the_database_removes_nothing() {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    database
        .sql(
            "CREATE SCHEMA past;
             CREATE FUNCTION past.clock_timestamp() RETURNS timestamptz LANGUAGE sql
                 AS 'SELECT pg_catalog.clock_timestamp() - interval ''3 years''';
             DO $$ BEGIN
                 EXECUTE format('ALTER DATABASE %I SET search_path = public, past, pg_catalog',
                     current_database());
             END $$",
        )
        .await;
    let config = "[events]\nretention = \"30d\"";
    let builder = TestGateway::builder().upstream("app", &upstream).storage(&database.url);
    let program = Program::of(builder.config(config)).await;
    let store = open_store(&database.url);
    let old = noted(EventKind::Login, time("2001-01-01T00:00:00Z"));
    store.record(&[old]).await.expect("stored");
    let log = program.folder().join("log");
    let serve = || {
        let mut command = program.command(&["serve"]);
        let file = std::fs::File::create(&log).expect("ours");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        Running(command.spawn().expect("the program runs"))
    };
    let running = serve();
    patiently("the gateway to refuse", async {
        let said = || std::fs::read_to_string(&log).expect("it is there");
        while !said().contains("this machine's clock is ahead of the database's") {
            pause().await;
        }
    })
    .await;
    running.kill();
    assert_eq!(events_of(&store, EventKind::Login).await.len(), 1);

    database
        .sql(
            "DO $$ BEGIN
                 EXECUTE format('ALTER DATABASE %I RESET search_path', current_database());
             END $$",
        )
        .await;
    let _running = serve();
    until_events(&store, EventKind::EventsPruned, 1).await;
    assert!(events_of(&store, EventKind::Login).await.is_empty());
}

/// Of a gateway of before there were months: the command is not held up by the month that is not over.
#[tokio::test]
async fn migrate_upgrades_a_database_with_events_and_does_so_again() {
    let upstream = Upstream::echo().await;
    let database = postgres::database_of(11).await;
    let sql = "INSERT INTO auth_events (at, id, writer, number, kind, outcome)
            VALUES (now(), gen_random_uuid(), gen_random_uuid(), 1, 'login', 'success')";
    database.sql(sql).await;
    let builder = TestGateway::builder().upstream("app", &upstream).storage(&database.url);
    let program = Program::of(builder).await;
    let told = program.run(&["migrate"]).await.expect(0).stdout;
    assert!(told.contains("applied V0012__event_partitions"), "{told}");
    let again = program.run(&["migrate"]).await.expect(0).stdout;
    assert!(!again.contains("applied") && !again.contains("made"), "{again}");
}

async fn on_both(test: impl AsyncFn(Program, Store)) {
    let upstream = Upstream::echo().await;
    let database = postgres::database().await;
    for url in [None, Some(&database.url)] {
        let builder = TestGateway::builder().upstream("app", &upstream);
        let program = Program::of(match url {
            Some(url) => builder.storage(url),
            None => builder,
        })
        .await;
        program.run(&["migrate"]).await.expect(0);
        let store = open_store(&url.map_or_else(|| program.sqlite_url(), Clone::clone));
        test(program, store).await;
    }
}

#[tokio::test]
async fn verify_finds_what_was_deleted_and_is_quiet_about_what_was_removed() {
    on_both(async |program, store| {
        let start = time("2026-11-21T10:00:00Z");
        let events: Vec<_> =
            (0..20).map(|n| noted(EventKind::Login, start + Duration::from_secs(n))).collect();
        let old: Vec<_> = (0..5).map(|_| noted(EventKind::Login, start - DAY * 90)).collect();
        store.record(&[old, events].concat()).await.expect("stored");
        let told = program.run(&["events", "verify"]).await.expect(0).stdout;
        assert!(
            told.contains("1 writers: 25 events stored, 0 removed by the retention, 0 lost"),
            "{told}"
        );
        let mut removed = Removed::default();
        store.prune_events(start - DAY, start, &mut removed).await.expect("removed");
        let told = program.run(&["events", "verify"]).await.expect(0).stdout;
        assert!(
            told.contains("1 writers: 21 events stored, 5 removed by the retention, 0 lost"),
            "{told}"
        );

        // Behind our back.
        let sql = "DELETE FROM auth_events WHERE number IN (7, 11, 12)";
        match program_database(&program) {
            None => {
                let file = program.folder().join("portcullis.db");
                rusqlite::Connection::open(file)
                    .expect("opens")
                    .execute_batch(sql)
                    .expect("deleted");
            }
            Some(url) => {
                postgres::client(&url).await.batch_execute(sql).await.expect("deleted");
            }
        }
        let told = program.run(&["events", "verify"]).await.expect(1).stdout;
        assert!(told.contains("missing: 7, 11 to 12"), "{told}");
        assert!(told.contains("18 events stored, 5 removed by the retention, 3 lost"), "{told}");
        let [line] = &program.run(&["events", "verify", "--json"]).await.expect(1).json_lines()[..]
        else {
            panic!("one writer")
        };
        let missing = json!([{ "from": 7, "to": 7 }, { "from": 11, "to": 12 }]);
        assert_eq!((&line["missing"], &line["lost"]), (&missing, &json!(3)));
        assert_eq!((&line["removed"], &line["removed_up_to"]), (&json!(5), &json!(5)));
        assert_eq!((&line["first_stored"], &line["last_stored"]), (&json!(6), &json!(26)));
        assert_eq!((&line["last_number"], &line["whole"]), (&json!(26), &json!(false)));
    })
    .await;
}

/// The PostgreSQL database that a program is configured for.
fn program_database(program: &Program) -> Option<String> {
    let config = std::fs::read_to_string(program.file()).expect("it is there");
    let config: toml::Table = config.parse().expect("TOML");
    let url = config["storage"]["url"].as_str().expect("a URL");
    url.starts_with("postgres").then(|| url.to_owned())
}

#[tokio::test]
async fn an_export_has_each_event_in_order_in_a_file_of_ones_own() {
    on_both(async |program, store| {
        let start = time("2026-11-21T10:00:00Z");
        let events: Vec<_> = (0..12_000_u64)
            .map(|n| {
                let kind = if n % 3 == 0 { EventKind::LoginFailed } else { EventKind::Login };
                let user = Some(format!("u-{}", n % 4).parse().expect("an id"));
                Event { user_id: user, ..noted(kind, start + Duration::from_millis(n)) }
            })
            .collect();
        for some in events.chunks(500) {
            store.record(some).await.expect("stored");
        }
        let expect = |lines: &[Value], wanted: &dyn Fn(&Event) -> bool| {
            let ids: Vec<_> = lines.iter().map(|line| line["id"].clone()).collect();
            let expected: Vec<_> =
                events.iter().filter(|event| wanted(event)).map(|event| json!(event.id)).collect();
            assert_eq!(ids, expected);
        };
        let file = program.folder().join("events.jsonl");
        let read = || -> Vec<Value> {
            let text = std::fs::read_to_string(&file).expect("it is there");
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
        };
        let told = program.run(&["events", "export", "--output", "events.jsonl"]).await.expect(0);
        assert_eq!((&*told.stdout, &*told.stderr), ("", "12000 events\n"));
        expect(&read(), &|_| true);
        let first = &read()[0];
        assert_eq!((&first["number"], &first["kind"]), (&json!(1), &json!("login_failed")));
        assert!(first["writer"].is_string() && first["user_id"] == "u-0", "{first}");
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        // What is there is not touched, but for the asking; then it is replaced as a whole.
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("ours");
        let half = "2026-11-21T10:00:06Z";
        // The exports are events of the present.
        let since = ["events", "export", "--since", half, "--until", "2026-11-22T00:00:00Z"];
        let since = [&since[..], &["--output", "events.jsonl"]].concat();
        let refused = program.run(&since).await.expect(1);
        assert!(refused.stderr.contains("events.jsonl cannot be written"), "{refused}");
        expect(&read(), &|_| true);
        // What a crash left is in nobody's way.
        let left = program.folder().join("events.jsonl.new");
        std::fs::write(&left, "half").expect("ours");
        let told = program.run(&[&since[..], &["--overwrite"]].concat()).await.expect(0);
        assert_eq!(told.stderr, "6000 events\n");
        expect(&read(), &|event| event.at >= time(half));
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(left).expect("it was not touched");
        std::fs::create_dir(program.folder().join("folder")).expect("ours");
        let cannot = ["events", "export", "--until", half, "--output", "folder", "--overwrite"];
        program.run(&cannot).await.expect(1);
        let names = std::fs::read_dir(program.folder())
            .expect("ours")
            .map(|entry| entry.expect("ours").file_name().into_string().expect("UTF-8"));
        let new: Vec<_> = names.filter(|name| name.contains(".new")).collect();
        assert!(new.is_empty(), "{new:?}");

        let export = ["events", "export", "--until", half];
        let told = program.run(&export).await.expect(0);
        assert_eq!(told.stderr, "6000 events\n");
        expect(&told.json_lines(), &|event| event.at < time(half));
        let filters = ["--kind", "login_failed", "--user", "u-1", "--user", "u-3"];
        let told = program.run(&[&export[..], &filters].concat()).await.expect(0);
        expect(&told.json_lines(), &|event| {
            let user = event.user_id.as_ref().expect("a user").as_str();
            event.at < time(half)
                && event.kind == EventKind::LoginFailed
                && user != "u-0"
                && user != "u-2"
        });
        let none = program.run(&["events", "export", "--user", "nobody"]).await.expect(0);
        assert_eq!((&*none.stdout, &*none.stderr), ("", "0 events\n"));
        program.run(&["events", "export", "--kind", "moon_landing"]).await.expect(2);
        program.run(&["events", "export", "--overwrite"]).await.expect(2);
        let exports = events_of(&store, EventKind::EventsExported).await;
        // That into the folder had written all before it failed.
        assert_eq!(exports.len(), 6, "whoever took them is known, and who was refused took none");
        let reasons: Vec<_> =
            exports.iter().filter_map(|stored| stored.event.reason.as_deref()).collect();
        for reason in [
            "since 2026-11-21T10:00:06Z, until 2026-11-22T00:00:00Z",
            "until 2026-11-21T10:00:06Z, kinds login_failed, users 2",
        ] {
            assert!(reasons.contains(&reason), "{reasons:?}");
        }
        assert!(exports.iter().all(|stored| stored.event.actor.as_deref() == Some("cli")));
        let all = store.events(&EventFilter::default(), 1, None).await.expect("read");
        assert_eq!(all.len(), 1);
    })
    .await;
}
