//! Contract section 2: administration on the command line, on the database of a program that does
//! or does not run.

use std::io::{BufRead as _, BufReader};

use portcullis::model::EventKind;
use serde_json::{Value, json};

use crate::harness::redis::Redis;
use crate::harness::{
    Answer, Caller, PASSWORD, Program, Request, TestGateway, Told, Upstream, blocking, events_of,
    open_store, patiently, pause,
};

/// A program on a fresh SQLite file with a schema.
async fn program(config: &str) -> (Upstream, Program) {
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream).config(config);
    let program = Program::of(builder).await;
    program.run(&["migrate"]).await.expect(0);
    (upstream, program)
}

/// Makes an account and gives back its id.
async fn create(program: &Program, arguments: &[&str]) -> String {
    let told = program.run_with(&[&["users", "create"], arguments].concat(), PASSWORD).await;
    told.expect(0).stdout.trim().to_owned()
}

#[track_caller]
fn only(told: &Told) -> Value {
    let mut lines = told.json_lines();
    assert_eq!(lines.len(), 1, "{told}");
    lines.remove(0)
}

async fn show(program: &Program, user: &str) -> Value {
    only(&program.run(&["users", "show", user, "--json"]).await.expect(0))
}

async fn try_log_in(program: &Program, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password });
    Request::new(program.public, "POST", "/auth/login").json(&body).send().await
}

async fn log_in(program: &Program, email: &str, password: &str) -> Caller {
    Caller::from_session(&try_log_in(program, email, password).await.expect(200).json())
}

/// The status of a request with the token, once it is the expected one.
async fn until_status(program: &Program, token: &str, status: u16) {
    patiently(&format!("a {status}"), async {
        loop {
            let answer =
                Request::new(program.public, "GET", "/private/a").bearer(token).send().await;
            if answer.status == status {
                return;
            }
            pause().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_schema_is_made_once() {
    let upstream = Upstream::echo().await;
    let program = Program::of(TestGateway::builder().upstream("app", &upstream)).await;
    let told = program.run(&["users", "list"]).await.expect(1);
    assert!(told.stderr.contains("portcullis migrate"), "{told}");
    let first = program.run(&["migrate"]).await.expect(0);
    assert!(first.stdout.contains("applied"), "{first}");
    let second = program.run(&["migrate"]).await.expect(0);
    assert!(
        !second.stdout.contains("applied") && second.stdout.contains("schema version"),
        "{second}"
    );
    program.run(&["users", "list"]).await.expect(0);
}

#[tokio::test]
async fn accounts_are_made_shown_and_listed() {
    let (_upstream, program) = program("").await;
    let ann =
        create(&program, &["Ann@example.com", "--confirmed", "--role", "staff", "--role", "admin"])
            .await;
    assert_eq!(uuid::Uuid::parse_str(&ann).expect("a UUID").get_version_num(), 7);
    let old = create(&program, &["old@example.com", "--id", "u-1001"]).await;
    assert_eq!(old, "u-1001");
    let none = create(&program, &["none@example.com", "--no-password"]).await;

    for user in [&*ann, "ann@EXAMPLE.com"] {
        let shown = show(&program, user).await;
        assert_eq!((&shown["id"], &shown["email"]), (&json!(ann), &json!("Ann@example.com")));
        assert_eq!(shown["app_metadata"]["roles"], json!(["admin", "staff"]));
        assert!(shown["email_confirmed_at"].is_string());
        assert_eq!(shown["last_sign_in_at"], Value::Null);
        assert!(!shown.to_string().contains("argon2"), "{shown}");
    }
    let table = program.run(&["users", "show", "u-1001"]).await.expect(0);
    assert!(table.stdout.contains("u-1001") && table.stdout.contains("unconfirmed"), "{table}");

    let listed = program.run(&["users", "list", "--json"]).await.expect(0).json_lines();
    let ids: Vec<_> = listed.iter().map(|user| user["id"].as_str().expect("an id")).collect();
    let mut expected = [&*ann, &*old, &*none];
    expected.sort_unstable();
    assert_eq!(ids, expected);
    let page =
        program.run(&["users", "list", "--json", "--limit", "1", "--after", expected[0]]).await;
    assert_eq!(only(&page.expect(0))["id"], expected[1]);
    let found = program.run(&["users", "list", "--json", "--search", "old@"]).await.expect(0);
    assert_eq!(only(&found)["id"], "u-1001");
    let nobody = program.run(&["users", "list", "--json", "--search", "zzz"]).await.expect(0);
    assert!(nobody.stdout.is_empty());

    let store = open_store(&program.sqlite_url());
    let noted = events_of(&store, EventKind::UserCreated).await;
    assert_eq!(noted.len(), 3);
    assert!(noted.iter().all(|stored| stored.event.actor.as_deref() == Some("cli")));
}

#[tokio::test]
async fn accounts_that_cannot_be_made() {
    let (_upstream, program) = program("").await;
    create(&program, &["ann@example.com", "--id", "u-1"]).await;
    for (arguments, password, code) in [
        (&["ANN@example.com"][..], PASSWORD, 1),
        (&["bob@example.com", "--id", "u-1"], PASSWORD, 1),
        (&["bob@example.com"], "weak", 1),
        (&["bob@example.com"], "", 1),
        (&["bob"], PASSWORD, 2),
        (&["bob@example.com", "--id", "a/b"], PASSWORD, 2),
        (&["bob@example.com", "--role", "Not A Role"], PASSWORD, 2),
        (&[], PASSWORD, 2),
    ] {
        let arguments = [&["users", "create"], arguments].concat();
        let told = program.run_with(&arguments, password).await.expect(code);
        assert!(!told.stderr.is_empty() && told.stdout.is_empty(), "{arguments:?}: {told}");
        assert!(password.is_empty() || !told.stderr.contains(PASSWORD));
    }
    let listed = program.run(&["users", "list", "--json"]).await.expect(0);
    only(&listed);
    for arguments in [
        &["users", "show", "nobody@example.com"][..],
        &["users", "show", "nobody"],
        &["users", "confirm", "nobody"],
        &["users", "set-roles", "nobody", "staff"],
        &["users", "disable", "nobody"],
        &["users", "enable", "nobody"],
        &["users", "delete", "nobody", "--yes"],
        &["sessions", "list", "nobody"],
        &["sessions", "revoke", "nobody"],
        &["keys", "retire", "nothing"],
        &["keys", "revoke", "nothing"],
    ] {
        let told = program.run(arguments).await.expect(1);
        assert!(told.stderr.contains("nobody") || told.stderr.contains("nothing"), "{told}");
    }
    for arguments in [
        &["users", "set-roles", "u-1", "Not A Role"][..],
        &["users", "disable", "u-1", "--until", "tomorrow"],
        &["users", "delete", "u-1"],
        &["events", "list", "--kind", "unknown"],
        &["events", "list", "--outcome", "unknown"],
        &["sessions", "revoke", "u-1", "--session", "x"],
    ] {
        program.run(arguments).await.expect(2);
    }
    assert_eq!(show(&program, "u-1").await["disabled_until"], Value::Null);
}

#[tokio::test]
async fn what_is_done_to_an_account_reaches_the_running_program() {
    let (_upstream, program) = program("").await;
    create(&program, &["ann@example.com", "--id", "u-1"]).await;
    let _running = program.serve().await;
    let ann = log_in(&program, "ann@example.com", PASSWORD).await;
    assert_eq!(ann.id, "u-1");
    until_status(&program, &ann.token, 200).await;

    program.run(&["users", "confirm", "ann@example.com"]).await.expect(0);
    assert!(show(&program, "u-1").await["email_confirmed_at"].is_string());
    let told =
        program.run(&["users", "set-roles", "u-1", "staff", "admin", "--keep-sessions"]).await;
    told.expect(0);
    until_status(&program, &ann.token, 200).await;
    assert_eq!(show(&program, "u-1").await["app_metadata"]["roles"], json!(["admin", "staff"]));
    let told = program.run(&["users", "set-roles", "u-1"]).await.expect(0);
    assert!(told.stdout.contains("ended 1 sessions"), "{told}");
    until_status(&program, &ann.token, 401).await;
    assert_eq!(show(&program, "u-1").await["app_metadata"].get("roles"), None);

    let ann = log_in(&program, "ann@example.com", PASSWORD).await;
    let told = program.run(&["users", "disable", "ann@example.com"]).await.expect(0);
    assert!(told.stdout.contains("ended 1 sessions"), "{told}");
    until_status(&program, &ann.token, 401).await;
    try_log_in(&program, "ann@example.com", PASSWORD)
        .await
        .expect_problem(401, "invalid_credentials");
    program.run(&["users", "enable", "u-1"]).await.expect(0);
    let ann = log_in(&program, "ann@example.com", PASSWORD).await;
    until_status(&program, &ann.token, 200).await;
    // A time that is over disables nobody.
    program.run(&["users", "disable", "u-1", "--until", "2020-01-01T00:00:00Z"]).await.expect(0);
    let ann = log_in(&program, "ann@example.com", PASSWORD).await;

    let told = program.run(&["users", "delete", "u-1", "--yes"]).await.expect(0);
    assert!(told.stdout.contains("deleted u-1"), "{told}");
    until_status(&program, &ann.token, 401).await;
    try_log_in(&program, "ann@example.com", PASSWORD)
        .await
        .expect_problem(401, "invalid_credentials");
    program.run(&["users", "show", "u-1"]).await.expect(1);

    // The running program forgets whose they were.
    let list = ["events", "list", "--user", "u-1", "--limit", "100", "--json"];
    patiently("a pseudonym", async {
        while !program.run(&list).await.expect(0).json_lines().is_empty() {
            pause().await;
        }
    })
    .await;
    let listed = program.run(&["events", "list", "--limit", "100", "--json"]).await;
    let events = listed.expect(0).json_lines();
    // What was tried with the address after the deletion is of whoever has it next.
    let named = events.iter().filter(|event| event["email"] == "ann@example.com");
    assert!(named.clone().all(|event| event["user_id"].is_null()), "{events:#?}");
    assert_eq!(named.count(), 1, "{events:#?}");
    for kind in [
        "user_created",
        "login",
        "user_confirmed",
        "roles_changed",
        "user_disabled",
        "login_failed",
        "user_enabled",
        "user_deleted",
    ] {
        let event = events.iter().find(|event| event["kind"] == kind);
        let event = event.unwrap_or_else(|| panic!("no {kind} in {events:#?}"));
        let by_cli = !kind.starts_with("login");
        assert_eq!(event["actor"], if by_cli { json!("cli") } else { Value::Null }, "{event}");
    }
}

#[tokio::test]
async fn the_data_of_an_account_is_printed() {
    let (_upstream, program) = program("").await;
    create(&program, &["ann@example.com", "--id", "u-1", "--role", "staff"]).await;
    create(&program, &["bob@example.com", "--id", "u-2"]).await;
    let running = program.serve().await;
    let ann = log_in(&program, "ann@example.com", PASSWORD).await;
    log_in(&program, "bob@example.com", PASSWORD).await;
    drop(running);
    let told = program.run(&["users", "data", "ann@example.com"]).await.expect(0);
    let data: Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!((&data["user"]["id"], &data["user"]["email"]), (&json!("u-1"), &json!(ann.email)));
    assert_eq!(data["user"]["app_metadata"]["roles"], json!(["staff"]));
    assert_eq!(data["sessions"].as_array().map(Vec::len), Some(1), "{data}");
    let kinds: Vec<_> = data["events"].as_array().expect("events").iter().collect();
    assert_eq!(kinds[0]["kind"], "login");
    assert_eq!((kinds.len(), &kinds[1]["kind"]), (2, &json!("user_created")), "{data}");
    for secret in ["bob", "$argon2", "u-2"] {
        assert!(!told.stdout.contains(secret), "{secret}");
    }
    let told = program.run(&["events", "list", "--kind", "user_data_exported", "--json"]).await;
    assert_eq!(only(&told.expect(0))["user_id"], "u-1");
    program.run(&["users", "data", "nobody"]).await.expect(1);
}

#[tokio::test]
async fn a_soft_deletion_leaves_a_row_with_an_id() {
    let (_upstream, program) = program("").await;
    create(&program, &["ann@example.com", "--id", "u-1"]).await;
    program.run(&["users", "delete", "u-1", "--soft", "--yes"]).await.expect(0);
    let left = show(&program, "u-1").await;
    assert!(left["deleted_at"].is_string(), "{left}");
    assert!(!left.to_string().contains("ann"), "{left}");
    let shown = program.run(&["users", "show", "u-1"]).await.expect(0);
    assert!(shown.stdout.contains("deleted"), "{shown}");
    program.run(&["users", "show", "ann@example.com"]).await.expect(1);
    program.run(&["users", "delete", "u-1", "--soft", "--yes"]).await.expect(1);
    let again = ["users", "create", "ann@example.com", "--id", "u-1"];
    program.run_with(&again, PASSWORD).await.expect(1);
    create(&program, &["ann@example.com", "--id", "u-2"]).await;
}

#[tokio::test]
async fn sessions_are_listed_and_revoked() {
    let (_upstream, program) = program("").await;
    create(&program, &["ann@example.com", "--id", "u-1"]).await;
    create(&program, &["bob@example.com", "--id", "u-2"]).await;
    let _running = program.serve().await;
    let [one, two, three] = [
        log_in(&program, "ann@example.com", PASSWORD).await,
        log_in(&program, "ann@example.com", PASSWORD).await,
        log_in(&program, "ann@example.com", PASSWORD).await,
    ];
    let bob = log_in(&program, "bob@example.com", PASSWORD).await;
    let list = async || {
        program.run(&["sessions", "list", "ann@example.com", "--json"]).await.expect(0).json_lines()
    };
    let sessions = list().await;
    assert_eq!(sessions.len(), 3);
    assert!(sessions.iter().all(|session| session["address"] == "127.0.0.1"), "{sessions:?}");
    let table = program.run(&["sessions", "list", "u-1"]).await.expect(0);
    assert_eq!(table.stdout.lines().count(), 4, "{table}");

    let newest = sessions[0]["id"].as_str().expect("an id");
    let told = program.run(&["sessions", "revoke", "u-2", "--session", newest]).await.expect(1);
    assert!(told.stdout.contains("ended 0 sessions"), "it is not theirs: {told}");
    program.run(&["sessions", "revoke", "u-1", "--session", newest]).await.expect(0);
    until_status(&program, &three.token, 401).await;
    until_status(&program, &two.token, 200).await;
    assert_eq!(list().await.len(), 2);
    let told = program.run(&["sessions", "revoke", "u-1"]).await.expect(0);
    assert!(told.stdout.contains("ended 2 sessions"), "{told}");
    until_status(&program, &one.token, 401).await;
    until_status(&program, &two.token, 401).await;
    until_status(&program, &bob.token, 200).await;
    assert!(list().await.is_empty());
}

#[tokio::test]
async fn keys_rotate_and_retire_while_the_program_runs() {
    let (_upstream, program) = program("").await;
    create(&program, &["ann@example.com"]).await;
    let _running = program.serve().await;
    let keys = async || program.run(&["keys", "list", "--json"]).await.expect(0).json_lines();
    let jwks = async || {
        let answer =
            Request::new(program.public, "GET", "/auth/.well-known/jwks.json").send().await;
        let keys = answer.expect(200).json()["keys"].as_array().expect("keys").clone();
        keys.iter().map(|key| key["kid"].as_str().expect("a kid").to_owned()).collect::<Vec<_>>()
    };
    let until_jwks = async |wanted: usize| {
        patiently("the keys", async {
            while jwks().await.len() != wanted {
                pause().await;
            }
        })
        .await;
    };
    let first = keys().await;
    assert_eq!((first.len(), &first[0]["state"]), (1, &json!("active")));
    let first = first[0]["kid"].as_str().expect("a kid").to_owned();
    let old = log_in(&program, "ann@example.com", PASSWORD).await;
    assert_eq!(old.kid(), first);

    // With notice: it is published at once and signs later.
    let told = program.run(&["keys", "rotate"]).await.expect(0);
    assert!(told.stdout.contains("signs from"), "{told}");
    until_jwks(2).await;
    let ann = log_in(&program, "ann@example.com", PASSWORD).await;
    assert_eq!(ann.kid(), first);

    // At once: tokens of the old key stay good.
    program.run(&["keys", "rotate", "--now"]).await.expect(0);
    until_jwks(3).await;
    let new = patiently("the new key to sign", async {
        loop {
            let new = log_in(&program, "ann@example.com", PASSWORD).await;
            if new.kid() != first {
                return new;
            }
            pause().await;
        }
    })
    .await;
    until_status(&program, &old.token, 200).await;
    until_status(&program, &new.token, 200).await;

    // Retired: refused, and not published any more.
    program.run(&["keys", "retire", &first]).await.expect(0);
    until_status(&program, &old.token, 401).await;
    until_status(&program, &new.token, 200).await;
    assert!(!jwks().await.contains(&first));
    let state = |keys: &[Value], kid: &str| {
        let key = keys.iter().find(|key| key["kid"] == kid).expect("the key");
        key["state"].as_str().expect("a state").to_owned()
    };
    assert_eq!(state(&keys().await, &first), "retired");

    // A key of one's own.
    let pem = program.folder().join("own.pem");
    let pair = rcgen::KeyPair::generate().expect("a P-256 key");
    std::fs::write(&pem, pair.serialize_pem()).expect("the folder is ours");
    let pem = pem.to_str().expect("UTF-8");
    program.run(&["keys", "import", pem, "--now"]).await.expect(0);
    patiently("the imported key to sign", async {
        loop {
            let ann = log_in(&program, "ann@example.com", PASSWORD).await;
            if ![&first, &new.kid()].contains(&&ann.kid()) {
                until_status(&program, &ann.token, 200).await;
                return;
            }
            pause().await;
        }
    })
    .await;
    program.run(&["keys", "import", "/nonexistent.pem"]).await.expect(1);
    let table = program.run(&["keys", "list"]).await.expect(0);
    assert!(table.stdout.starts_with("KID"), "{table}");
    let store = open_store(&program.sqlite_url());
    let noted = events_of(&store, EventKind::SigningKeyChanged).await;
    let reasons: Vec<_> =
        noted.iter().filter_map(|stored| stored.event.reason.as_deref()).collect();
    let verbs: Vec<_> = reasons.iter().filter_map(|reason| reason.split_once(':')).collect();
    assert_eq!(
        verbs.iter().map(|(verb, _)| *verb).collect::<Vec<_>>(),
        ["added", "added", "retired", "imported"]
    );
    assert_eq!(verbs[2].1, first);
    assert!(noted.iter().all(|stored| stored.event.actor.as_deref() == Some("cli")));
}

/// Also when it is the only one: then nobody can log in until there is another.
#[tokio::test]
async fn tokens_of_a_retired_key_are_refused_even_when_no_other_key_is_there() {
    let (_upstream, program) = program("").await;
    create(&program, &["ann@example.com"]).await;
    let _running = program.serve().await;
    let ann = log_in(&program, "ann@example.com", PASSWORD).await;
    until_status(&program, &ann.token, 200).await;
    let keys = program.run(&["keys", "list", "--json"]).await.expect(0);
    let kid = only(&keys)["kid"].as_str().expect("a kid").to_owned();
    let told = program.run(&["keys", "retire", &kid]).await.expect(0);
    assert!(told.stdout.contains("keys rotate --now"), "{told}");
    until_status(&program, &ann.token, 401).await;
    let answer = try_log_in(&program, "ann@example.com", PASSWORD).await;
    assert!(matches!(answer.status, 500 | 503), "{}", answer.text());
    program.run(&["keys", "rotate", "--now"]).await.expect(0);
    patiently("a login with the new key", async {
        while try_log_in(&program, "ann@example.com", PASSWORD).await.status != 200 {
            pause().await;
        }
    })
    .await;
    let ann = log_in(&program, "ann@example.com", PASSWORD).await;
    until_status(&program, &ann.token, 200).await;
}

#[tokio::test]
async fn a_shared_secret_has_no_keys_to_rotate() {
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream).known_secret();
    let program = Program::of(builder).await;
    program.run(&["migrate"]).await.expect(0);
    let told = program.run(&["keys", "rotate"]).await.expect(2);
    assert!(told.stderr.contains("tokens.secret"), "{told}");
}

#[tokio::test]
async fn events_are_listed_and_followed() {
    let (_upstream, program) = program("").await;
    create(&program, &["ann@example.com", "--id", "u-1"]).await;
    let mut tail = program.start(&["events", "tail", "--last", "1", "--json"]);
    let stdout = tail.0.stdout.take().expect("piped");
    let (lines, mut followed) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = lines.send(serde_json::from_str::<Value>(&line).expect("JSON"));
        }
    });
    let first = patiently("the last event", followed.recv()).await.expect("a line");
    assert_eq!((&first["kind"], &first["user_id"]), (&json!("user_created"), &json!("u-1")));

    let running = program.serve().await;
    try_log_in(&program, "ann@example.com", "wrong").await.expect(401);
    let event = patiently("the next event", followed.recv()).await.expect("a line");
    assert_eq!(
        (&event["kind"], &event["reason"]),
        (&json!("login_failed"), &json!("wrong_password"))
    );
    assert_eq!(event["email"], "ann@example.com");
    try_log_in(&program, "ann@example.com", PASSWORD).await.expect(200);
    let event = patiently("the next event", followed.recv()).await.expect("a line");
    assert_eq!(event["kind"], "login");
    drop(running);
    // Ctrl-C is no failure.
    let pid = rustix::process::Pid::from_child(&tail.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is ours");
    let ended = patiently("the end", blocking(move || tail.0.wait().expect("a child"))).await;
    assert_eq!(ended.code(), Some(0));

    let list = async |arguments: &[&str]| {
        let arguments = [&["events", "list", "--json"], arguments].concat();
        program.run(&arguments).await.expect(0).json_lines()
    };
    let kinds = |events: &[Value]| {
        events
            .iter()
            .map(|event| event["kind"].as_str().expect("a kind").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(&list(&[]).await), ["login", "login_failed", "user_created"]);
    assert_eq!(kinds(&list(&["--kind", "login"]).await), ["login"]);
    assert_eq!(kinds(&list(&["--limit", "1"]).await), ["login"]);
    assert_eq!(list(&["--user", "u-1"]).await.len(), 3);
    assert_eq!(list(&["--user", "u-2"]).await.len(), 0);
    assert_eq!(list(&["--email", "ANN@example.com"]).await.len(), 2);
    assert_eq!(list(&["--since", "2099-01-01T00:00:00Z"]).await.len(), 0);
    let table = program.run(&["events", "list"]).await.expect(0);
    assert_eq!(table.stdout.lines().count(), 4, "{table}");
}

#[tokio::test]
async fn explain_judges_a_real_token() {
    let (_upstream, program) = program("").await;
    create(&program, &["ann@example.com", "--id", "u-1"]).await;
    let running = program.serve().await;
    let ann = log_in(&program, "ann@example.com", PASSWORD).await;
    drop(running);
    let explain = async |path: &str, token: &str, code: i32| {
        let told = program.run(&["explain", "GET", path, "--token", token, "--json"]).await;
        only(&told.expect(code))
    };
    let allowed = explain("/api/u-1/tasks?page=2", &ann.token, 0).await;
    assert_eq!((&allowed["decision"], &allowed["status"]), (&json!("allow"), &Value::Null));
    let other = explain("/api/u-2/tasks", &ann.token, 1).await;
    assert_eq!((&other["status"], &other["reason"]), (&json!(403), &json!("owner_mismatch")));
    for token in ["", "x", "-x", "a.b.c", &ann.refresh_token, &format!("{}x", ann.token)] {
        let refused = explain("/api/u-1/tasks", token, 1).await;
        assert!(matches!(refused["status"].as_u64(), Some(400 | 401)), "{refused}");
    }
    // In a cookie it is none while those are off.
    let cookie = ["explain", "POST", "/api/u-1/tasks", "--token", &ann.token, "--cookie"];
    let told = program.run(&cookie).await.expect(1);
    assert!(told.stdout.ends_with("refused: 401 no_token\n"), "{told}");
    program.run(&["sessions", "revoke", "u-1"]).await.expect(0);
    let ended = explain("/api/u-1/tasks", &ann.token, 1).await;
    assert_eq!(ended["status"], 401, "{ended}");
    let told =
        program.run(&["explain", "GET", "/api/u-1/tasks", "--token", &ann.token]).await.expect(1);
    assert!(!told.stdout.contains(&ann.token), "a token is not repeated: {told}");
    program.run(&["explain", "GET", "/a", "--token", "x", "--as", "u-1"]).await.expect(2);
}

#[tokio::test]
async fn explain_imagines_a_token_in_a_cookie() {
    let (_upstream, program) = program("[cookies]\nenabled = true").await;
    for (arguments, code, end) in [
        (&[] as &[&str], 0, "allow: owner\n"),
        (&["--origin", "https://evil.example"], 1, "refused: 403 cross_site_request\n"),
        // Where the tokens come from is where the gateway is.
        (&["--origin", "http://127.0.0.1:8080"], 0, "allow: owner\n"),
        (&["--origin", "https://127.0.0.1:8080"], 1, "refused: 403 cross_site_request\n"),
        (&["--origin", "http://127.0.0.1"], 1, "refused: 403 cross_site_request\n"),
    ] {
        let mut told = vec!["explain", "POST", "/api/u-1/tasks", "--as", "u-1", "--cookie"];
        told.extend(arguments);
        let told = program.run(&told).await.expect(code);
        assert!(told.stdout.contains("user_id = subject, or cookie"), "{told}");
        assert!(told.stdout.ends_with(end), "{told}");
    }
    program.run(&["explain", "GET", "/api/u-1/x", "--origin", "https://a.example"]).await.expect(2);
}

#[tokio::test]
async fn check_tries_the_stores_when_asked_to() {
    let (_upstream, program) = program("").await;
    let told = program.run(&["check", "--connect"]).await.expect(0);
    assert!(told.stdout.contains("database") && told.stdout.contains("counters"), "{told}");
    for away in [
        "[storage]\nurl = \"postgres://nobody@127.0.0.1:1/none?sslmode=disable\"",
        "[counters]\nurl = \"redis://127.0.0.1:1\"",
    ] {
        let upstream = Upstream::echo().await;
        let program =
            Program::of(TestGateway::builder().upstream("app", &upstream).config(away)).await;
        program.run(&["check"]).await.expect(0);
        let told = program.run(&["check", "--connect"]).await.expect(1);
        assert!(!told.stderr.is_empty(), "{told}");
    }
    let upstream = Upstream::echo().await;
    let secret = "[storage]\nurl = \"postgres://me:Tiger-Lily-9@127.0.0.1:1/none?sslmode=disable\"";
    let program =
        Program::of(TestGateway::builder().upstream("app", &upstream).config(secret)).await;
    for arguments in [&["check", "--connect"][..], &["migrate"], &["users", "list"]] {
        let told = program.run(arguments).await.expect(1);
        assert!(!told.stderr.contains("Tiger") && !told.stdout.contains("Tiger"), "{told}");
    }
}

#[tokio::test]
async fn completions_and_the_manual_are_printed() {
    let (_upstream, program) = program("").await;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let told = program.run(&["completions", shell]).await.expect(0);
        for word in ["portcullis", "explain", "set-roles"] {
            assert!(told.stdout.contains(word), "{word} for {shell}");
        }
    }
    program.run(&["completions", "unknown"]).await.expect(2);
    let told = program.run(&["man"]).await.expect(0);
    assert!(told.stdout.contains(".TH portcullis") && told.stdout.contains("explain"), "{told}");
    for command in
        ["users", "sessions", "keys", "events", "explain", "check", "migrate", "serve", "demo"]
    {
        let told = program.run(&[command, "--help"]).await.expect(0);
        assert!(told.stdout.contains("Example"), "{command}: {told}");
    }
}

#[tokio::test]
async fn limits_in_redis_are_seen_and_reset() {
    let redis = blocking(Redis::new).await;
    let (_upstream, program) = program(&format!(
        "[counters]\nurl = {:?}\nkey_prefix = {:?}\n[limits]\n\
         login = {{ rate = \"2/hour\", by = \"ip\" }}\n\
         login_account = {{ rate = \"20/hour\", by = \"account\" }}\n\
         search = {{ rate = \"7/second\", by = \"user\" }}",
        redis.url(),
        redis.key_prefix()
    ))
    .await;
    let listed = program.run(&["limits", "show", "--json"]).await.expect(0).json_lines();
    for expected in [
        json!({ "limit": "search", "rate": "7/1s", "by": "user" }),
        json!({ "limit": "login", "rate": "2/3600s", "by": "ip" }),
        json!({ "limit": "login_network", "rate": "1000/60s", "by": "network" }),
        json!({ "limit": "verify", "rate": "30/60s", "by": "ip" }),
    ] {
        assert!(listed.contains(&expected), "{listed:?}");
    }
    create(&program, &["ann@example.com", "--id", "u-1"]).await;
    let _running = program.serve().await;
    for _ in 0..2 {
        try_log_in(&program, "ann@example.com", "wrong").await.expect(401);
    }
    try_log_in(&program, "ann@example.com", PASSWORD).await.expect(429);

    let show = async |arguments: &[&str]| {
        let arguments = [&["limits", "show", "--json"], arguments].concat();
        only(&program.run(&arguments).await.expect(0))
    };
    let seen = show(&["login", "--ip", "127.0.0.1"]).await;
    assert_eq!(seen["key"], "ip:127.0.0.1");
    assert_eq!((&seen["rate"], &seen["remaining"]), (&json!("2/3600s"), &json!(0)));
    let wait = seen["retry_after"].as_f64().expect("seconds");
    assert!((3000.0..=3600.0).contains(&wait), "{seen}");
    assert_eq!(show(&["login", "--ip", "127.0.0.2"]).await["remaining"], 2);
    assert_eq!(show(&["login_account", "--account", "ANN@example.com"]).await["remaining"], 18);
    let at_home = ["login_account", "--account", "ann@example.com", "--ip", "127.0.0.1"];
    assert_eq!(show(&at_home).await["remaining"], 20, "she is at home nowhere yet");
    assert_eq!(show(&["login_account", "--user", "u-1"]).await["remaining"], 20);
    assert_eq!(show(&["search", "--user", "u-1"]).await["key"], "user:self/u-1");
    let told = program.run(&["limits", "show", "login", "--ip", "127.0.0.1"]).await.expect(0);
    assert!(told.stdout.contains("LEFT") && told.stdout.contains("ip:127.0.0.1"), "{told}");

    let told = program.run(&["limits", "reset", "login", "--ip", "127.0.0.1"]).await.expect(0);
    assert!(told.stdout.contains("forgotten"), "{told}");
    let again = program.run(&["limits", "reset", "login", "--ip", "127.0.0.9"]).await.expect(0);
    assert!(again.stdout.contains("nothing"), "{again}");
    let ann = log_in(&program, "ann@example.com", PASSWORD).await;
    let reset = ["limits", "reset", "login_account", "--account", "ann@example.com"];
    program.run(&reset).await.expect(0);
    assert_eq!(show(&["login_account", "--account", "ann@example.com"]).await["remaining"], 20);
    let store = open_store(&program.sqlite_url());
    let events = events_of(&store, EventKind::LimitReset).await;
    let told: Vec<_> = events
        .iter()
        .map(|stored| &stored.event)
        .map(|e| (e.reason.as_deref(), e.email.as_deref(), e.actor.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            (Some("login ip=127.0.0.1"), None, Some("cli")),
            (Some("login ip=127.0.0.9"), None, Some("cli")),
            (Some("login_account"), Some("ann@example.com"), Some("cli")),
        ]
    );
    drop(ann);
}

#[tokio::test]
async fn limits_are_asked_for_in_full() {
    let (_upstream, program) = program("").await;
    for (arguments, code, says) in [
        (&["show", "nonsense", "--ip", "192.0.2.1"][..], 2, "there is no limit `nonsense`"),
        (&["show", "login"], 2, "--ip"),
        (&["show", "login", "--account", "ann@example.com"], 2, "--ip"),
        (&["reset", "login_account", "--ip", "192.0.2.1"], 2, "--account"),
        (&["reset", "login_network"], 2, "--ip"),
        (&["reset", "refresh_session"], 2, "--session"),
        (&["reset"], 2, "--login"),
        (&["show", "login", "--ip", "nonsense"], 2, "nonsense"),
        (&["show", "login", "--login", "ann@example.com"], 2, "--login"),
        // The counters of this program are its own.
        (&["show", "login", "--ip", "192.0.2.1"], 1, "in the memory of the running gateway"),
        (&["reset", "login", "--ip", "192.0.2.1"], 1, "in the memory of the running gateway"),
    ] {
        let told = program.run(&[&["limits"], arguments].concat()).await.expect(code);
        assert!(told.stderr.contains(says), "{arguments:?}: {told}");
    }
}

#[tokio::test]
async fn failed_logins_are_seen_and_forgotten() {
    let (_upstream, program) = program("").await;
    create(&program, &["ann@example.com"]).await;
    let _running = program.serve().await;
    let seen = async || {
        let arguments = ["limits", "show", "--login", "Ann@example.com", "--json"];
        program.run(&arguments).await.expect(0).json_lines()
    };
    assert_eq!(seen().await, [Value::Null; 0]);
    while try_log_in(&program, "ann@example.com", "wrong").await.status != 429 {}
    let lanes = seen().await;
    assert_eq!((lanes.len(), &lanes[0]["lane"]), (1, &json!("*")));
    assert!(lanes[0]["failures"].as_i64().expect("a number") >= 5, "{lanes:?}");
    let told = program.run(&["limits", "show", "--login", "ann@example.com"]).await.expect(0);
    assert!(told.stdout.contains("BLOCKED UNTIL"), "{told}");
    program.run(&["limits", "reset", "--login", "ann@example.com"]).await.expect(0);
    assert_eq!(seen().await, [Value::Null; 0]);
    log_in(&program, "ann@example.com", PASSWORD).await;
    let store = open_store(&program.sqlite_url());
    let events = events_of(&store, EventKind::LimitReset).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.reason.as_deref(), Some("login_guard"));
}
