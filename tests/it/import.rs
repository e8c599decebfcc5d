//! `portcullis users import`, on the files that other programs export, and on broken ones.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use portcullis::model::{EventKind, UserId};
use portcullis::store::Store;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::{
    Answer, PASSWORD, Program, Request, TestGateway, Told, Upstream, events_of, open_store,
    patiently, pause, postgres,
};

const OWN: &str = "$argon2id$v=19$m=8,t=1,p=1$";

async fn program(config: &str) -> (Upstream, Program) {
    let upstream = Upstream::echo().await;
    let program =
        Program::of(TestGateway::builder().upstream("app", &upstream).config(config)).await;
    program.run(&["migrate"]).await.expect(0);
    (upstream, program)
}

fn write(program: &Program, name: &str, text: &str) -> PathBuf {
    let file = program.folder().join(name);
    std::fs::write(&file, text).expect("the folder is ours");
    file
}

async fn import(program: &Program, file: &str, options: &[&str]) -> Told {
    program.run(&[&["users", "import", file, "--json"], options].concat()).await
}

#[track_caller]
fn report(told: &Told) -> Value {
    let mut lines = told.json_lines();
    assert_eq!(lines.len(), 1, "{told}");
    lines.remove(0)
}

/// The counts of a report: imported, already there, refused.
#[track_caller]
fn counts(report: &Value) -> [u64; 3] {
    ["imported", "already_there", "refused"].map(|name| report[name].as_u64().expect("a count"))
}

fn problems(report: &Value) -> Vec<(u64, &str)> {
    let all = report["problems"].as_array().expect("a list");
    all.iter().map(|one| (one["line"].as_u64().expect("a line"), text(&one["error"]))).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

async fn log_in(program: &Program, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password });
    Request::new(program.public, "POST", "/auth/login").json(&body).send().await
}

async fn hash_of(store: &Store, user: &str) -> Option<String> {
    let id: UserId = user.parse().expect("an id");
    let account = store.account_by_id(&id).await.expect("read").expect("there");
    account.password_hash.map(|hash| hash.0.clone())
}

/// `$2b$04$` and so on.
fn bcrypt(password: &str) -> String {
    bcrypt::hash(password, 4).expect("hashed")
}

#[derive(Deserialize)]
struct Login {
    file: String,
    email: String,
    password: String,
    wrong: String,
}

/// `tests/vectors/exports.py` made the files, of hashes that the programs themselves made.
#[tokio::test]
async fn exports_of_ten_programs_are_recognised_and_their_users_log_in() {
    let vectors = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let logins = std::fs::read_to_string(vectors.join("exports/logins.json")).expect("there");
    let mut files: BTreeMap<String, Vec<Login>> = BTreeMap::new();
    for login in serde_json::from_str::<Vec<Login>>(&logins).expect("logins") {
        files.entry(login.file.clone()).or_default().push(login);
    }
    assert_eq!(files.len(), 11);
    let config = "[passwords]\ndevise_pepper = \"pepper of the vectors\"";
    let (_upstream, program) = program(config).await;
    for (file, logins) in &files {
        let copy = program.folder().join(file);
        std::fs::copy(vectors.join("exports").join(file), &copy).expect("copied");
        let params = vectors.join("exports/firebase.params");
        let params = params.to_str().expect("UTF-8");
        let (format, options) = match file.split('.').next().expect("a name") {
            "django_dump" => ("django", vec![]),
            "flask" => ("portcullis", vec!["--allow-weak"]),
            "firebase" => ("firebase", vec!["--firebase-params", params]),
            "keycloak" => ("keycloak", vec!["--roles-from", "realmRoles"]),
            name => (name, vec![]),
        };
        let file = copy.to_str().expect("UTF-8");
        let report = report(&import(&program, file, &options).await.expect(0));
        assert_eq!(report["format"], format, "{report:#}");
        assert_eq!(counts(&report), [logins.len() as u64, 0, 0], "{report:#}");
    }

    let store = open_store(&program.sqlite_url());
    let user = async |email: &str| {
        let account = store.account_by_email(&email.parse().expect("an address")).await;
        account.expect("read").expect("there").user
    };
    let confirmed =
        async |email: &str| user(email).await.email_confirmed_at.map(|at| at.to_string());
    assert_eq!(confirmed("django-0@example.com").await, None);
    assert_eq!(
        confirmed("fastapi-0@example.com").await,
        Some(user("fastapi-0@example.com").await.created_at.to_string())
    );
    for name in ["rails", "laravel"] {
        let email = format!("{name}-0@example.com");
        assert_eq!(confirmed(&email).await.as_deref(), Some("2025-01-03T03:04:05Z"), "{name}");
        assert_eq!(user(&email).await.created_at.to_string(), "2025-01-02T03:04:05Z");
    }
    let ids = [
        ("django-0", "1"),
        ("django_dump-0", "101"),
        ("fastapi-0", "11111111-0000-4000-8000-000000000000"),
        ("auth0-1", "60425dc43519d90068f82971"),
        ("firebase-0", "fb0"),
        ("aspnet-0", "44444444-0000-4000-8000-000000000000"),
    ];
    for (name, id) in ids {
        assert_eq!(user(&format!("{name}@example.com")).await.id.as_str(), id);
    }
    for name in ["supabase", "auth0", "firebase"] {
        let user = user(&format!("{name}-0@example.com")).await;
        assert_eq!(Value::Object(user.app_metadata), json!({ "plan": "pro" }), "{name}");
        assert!(user.user_metadata.values().any(|value| value == "Ann"), "{name}");
    }
    let keycloak = user("keycloak-0@example.com").await;
    assert_eq!(keycloak.roles, ["offline_access", "staff"]);
    assert_eq!(keycloak.created_at.to_string(), "2025-01-02T03:04:05.678Z");
    assert!(
        !user("aspnet-0@example.com")
            .await
            .is_disabled("2026-01-01T00:00:00Z".parse().expect("a time"))
    );

    let _running = program.serve().await;
    for (file, logins) in &files {
        for (n, Login { email, password, wrong, .. }) in logins.iter().enumerate() {
            let id = user(email).await.id;
            let old = hash_of(&store, id.as_str()).await.expect("a hash");
            if n == 0 {
                log_in(&program, email, wrong).await.expect_problem(401, "invalid_credentials");
                assert_eq!(hash_of(&store, id.as_str()).await, Some(old.clone()), "{file}");
            }
            let answer = log_in(&program, email, password).await;
            assert_eq!(answer.status, 200, "{file}: {email}: {old}");
            let new = hash_of(&store, id.as_str()).await.expect("a hash");
            assert!(new.starts_with(OWN), "{file}: {new}");
        }
        let Login { email, password, wrong, .. } = &logins[0];
        log_in(&program, email, password).await.expect(200);
        log_in(&program, email, wrong).await.expect_problem(401, "invalid_credentials");
    }
}

#[tokio::test]
async fn a_dry_run_says_everything_and_does_nothing() {
    let (_upstream, program) = program("").await;
    let good = bcrypt(PASSWORD);
    let dear = good.replacen("$04$", "$17$", 1);
    let csv = format!(
        "id,email,password_hash,created_at\n\
         1,ann@example.com,{good},2025-01-02\n\
         2,bob@example.com,{dear},\n\
         3,eve,{good},\n\
         4,ANN@example.com,{good},\n\
         5,fay@example.com,{PASSWORD},\n\
         6,gus@example.com,,tomorrow\n\
         7,hal@example.com,,\n\
         a/b,ivy@example.com,,\n\
         8\n"
    );
    write(&program, "users.csv", &csv);
    let told = import(&program, "users.csv", &["--dry-run"]).await.expect(1);
    let report = report(&told);
    assert_eq!((counts(&report), &report["rows"]), ([2, 0, 7], &json!(9)), "{report:#}");
    assert_eq!((&report["twice_in_file"], &report["above_the_cap"]), (&json!(1), &json!(1)));
    assert_eq!(report["passwords"], json!({ "bcrypt/4": 1 }));
    assert_eq!(report["without_password"], 1);
    let expected = [
        (3, "its password hash cannot be used: its cost is above what one login may cost"),
        (4, "its e-mail address is none"),
        (5, "line 2 has the same address or id"),
        (6, "its password hash cannot be used: it is of an unknown kind"),
        (7, "`created_at` is no time"),
        (9, "its id is not 1 to 128 of the characters A-Z a-z 0-9 . _ - (and not only dots)"),
        (10, "it has 1 cells, the heading has 4"),
    ];
    assert_eq!(problems(&report), expected);
    assert!(!told.stdout.contains(PASSWORD) && !told.stderr.contains(PASSWORD), "{told}");

    let text = program.run(&["users", "import", "users.csv", "--dry-run"]).await.expect(1).stdout;
    for part in ["would be imported", "bcrypt/4", "line 3: its password", "cost above the cap"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(program.run(&["users", "list", "--json"]).await.expect(0).stdout.is_empty());
    assert!(!program.folder().join("users.csv.errors.jsonl").exists());
    let store = open_store(&program.sqlite_url());
    assert!(events_of(&store, EventKind::UsersImported).await.is_empty());
}

#[tokio::test]
async fn refused_rows_can_be_mended_and_imported_themselves() {
    let (_upstream, program) = program("").await;
    let hash = bcrypt(PASSWORD);
    let rows = [
        json!({ "id": "ann", "email": "ann@example.com", "password_hash": hash }).to_string(),
        "{\"id\": \"broken\"".to_owned(),
        json!({ "id": "bob", "email": "bob#example.com", "password_hash": hash }).to_string(),
        json!({ "id": "eve", "email": "eve@example.com", "password_hash": hash, "roles": ["admin"] })
            .to_string(),
        json!({ "id": "fay", "email": "fay@example.com", "roles": ["staff"] }).to_string(),
    ];
    write(&program, "users.jsonl", &rows.join("\n"));
    let done = report(&import(&program, "users.jsonl", &[]).await.expect(1));
    assert_eq!(counts(&done), [2, 0, 3], "{done:#}");
    let refused = program.folder().join("users.jsonl.errors.jsonl");
    assert_eq!(done["errors_file"], refused.file_name().expect("a name").to_str().expect("UTF-8"));
    let mode = refused.metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds hashes");
    let text = std::fs::read_to_string(&refused).expect("there");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["text"], "{\"id\": \"broken\"");
    assert_eq!((&lines[1]["line"], &lines[1]["password_hash"]), (&json!(3), &json!(hash)));
    assert_eq!(lines[2]["error"], "it has the role admin, which needs --allow-admin");

    let mended: Vec<_> = text.lines().skip(1).map(|line| line.replace('#', "@")).collect();
    write(&program, "mended.jsonl", &mended.join("\n"));
    let done = report(&import(&program, "mended.jsonl", &["--allow-admin"]).await.expect(0));
    assert_eq!(counts(&done), [2, 0, 0], "{done:#}");
    let shown = |user| {
        let program = &program;
        async move { report(&program.run(&["users", "show", user, "--json"]).await.expect(0)) }
    };
    assert_eq!(shown("eve").await["app_metadata"]["roles"], json!(["admin"]));
    assert_eq!(shown("fay").await["app_metadata"]["roles"], json!(["staff"]));

    let store = open_store(&program.sqlite_url());
    let batches = events_of(&store, EventKind::UsersImported).await;
    assert_eq!(batches.len(), 2);
    let ended = events_of(&store, EventKind::ImportFinished).await;
    let reason = ended[0].event.reason.as_deref();
    assert_eq!(reason, Some("2 imported, 0 already there, 3 refused"));
    assert!(ended.iter().all(|stored| stored.event.actor.as_deref() == Some("cli")));
}

#[tokio::test]
async fn accounts_that_are_there_stay_as_they_are() {
    let (_upstream, program) = program("").await;
    let create = |email, id| {
        let program = &program;
        async move {
            let command = ["users", "create", email, "--id", id, "--no-password"];
            program.run(&command).await.expect(0);
        }
    };
    create("ann@example.com", "ann").await;
    create("bob@example.com", "bob").await;
    let hash = bcrypt(PASSWORD);
    let csv = format!(
        "id,email,password\n\
         ann,Ann@Example.com,{hash}\n\
         other,bob@example.com,{hash}\n\
         bob,new@example.com,{hash}\n\
         eve,eve@example.com,{hash}\n"
    );
    write(&program, "users.csv", &csv);
    for options in [&["--dry-run"][..], &[]] {
        let done = report(&import(&program, "users.csv", options).await.expect(1));
        assert_eq!(counts(&done), [1, 1, 2], "{done:#}");
        let expected = [(3, "another account has its address"), (4, "another account has its id")];
        assert_eq!(problems(&done), expected);
    }
    let store = open_store(&program.sqlite_url());
    assert_eq!(hash_of(&store, "ann").await, None);

    let again = import(&program, "users.csv", &[]).await.expect(1);
    assert!(again.stderr.contains("--from-start"), "{again}");
    let over = report(&import(&program, "users.csv", &["--from-start"]).await.expect(1));
    assert_eq!(counts(&over), [0, 2, 2], "{over:#}");
    // Without ids, whoever has the address is meant.
    write(&program, "more.csv", "mail address\nbob@example.com\nnew@example.com\n");
    let options = ["--map", "mail address=email", "--confirmed", "yes"];
    let done = report(&import(&program, "more.csv", &options).await.expect(0));
    assert_eq!(counts(&done), [1, 1, 0], "{done:#}");
    let new = store.account_by_email(&"new@example.com".parse().expect("one")).await;
    assert!(new.expect("read").expect("there").user.email_confirmed_at.is_some());
}

#[tokio::test]
async fn what_cannot_be_imported_at_all_is_said() {
    let (_upstream, program) = program("").await;
    write(&program, "users.json", "{\"users\":[{\"localId\":\"a\",\"email\":\"a@example.com\"}]}");
    write(&program, "bad.params", "rounds: 8\n");
    for (arguments, code, said) in [
        (&["none.csv"][..], 1, "none.csv cannot be read"),
        (&["users.json"], 2, "--firebase-params"),
        (&["users.json", "--firebase-params", "bad.params"], 2, "base64_signer_key"),
        (&["users.json", "--format", "oracle"], 2, "oracle"),
        (&["users.json", "--batch", "0"], 2, "--batch"),
        (&["users.json", "--map", "a"], 2, "--map"),
        (&["users.json", "--format", "django", "--errors", "/none/x"], 1, "/none/x"),
    ] {
        let told = program.run(&[&["users", "import"], arguments].concat()).await.expect(code);
        assert!(told.stderr.contains(said), "{arguments:?}: {told}");
    }
    write(&program, "empty.csv", "");
    let done = report(&import(&program, "empty.csv", &[]).await.expect(0));
    assert_eq!(counts(&done), [0, 0, 0]);
}

/// Kills the program in the middle, as often as it takes; in the end everything is there once.
async fn survives(program: &Program, url: &str, rows: u64) {
    let hash = bcrypt(PASSWORD);
    let mut csv = "id,email,password\n".to_owned();
    for n in 0..rows {
        let at = if n % 100 == 7 { "" } else { "@example.com" };
        writeln!(csv, "u{n},u{n}{at},{hash}").expect("a text takes everything");
    }
    write(program, "users.csv", &csv);
    let store = open_store(url);
    let imported = async || {
        let events = events_of(&store, EventKind::UsersImported).await;
        let count = |reason: &str| reason.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        let reasons = events.into_iter().filter_map(|stored| stored.event.reason);
        reasons.filter_map(|reason| count(&reason)).sum::<u64>()
    };
    let mut kills = 0;
    for part in 1..=3 {
        let running = program.start(&["users", "import", "users.csv", "--batch", "50"]);
        patiently("a part of the import", async {
            while imported().await < rows * part / 5 {
                pause().await;
            }
        })
        .await;
        running.kill();
        kills += usize::from(events_of(&store, EventKind::ImportFinished).await.is_empty());
    }
    assert!(kills > 0, "it was over before it could be killed");
    let told = import(program, "users.csv", &["--batch", "70"]).await.expect(1);
    assert!(told.stderr.contains("going on after"), "{told}");
    let done = report(&told);
    let refused = rows / 100;
    assert_eq!(counts(&done), [rows - refused, 0, refused], "{done:#}");
    assert_eq!(imported().await, rows - refused, "no row twice");
    let text = std::fs::read_to_string(program.folder().join("users.csv.errors.jsonl"));
    let text = text.expect("there");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let lines: Vec<_> = lines.iter().map(|line| line["line"].as_u64().expect("a line")).collect();
    let expected: Vec<_> = (0..refused).map(|n| n * 100 + 7 + 2).collect();
    assert_eq!(lines, expected, "each refused row once");
    let last = format!("u{}", rows - 1);
    assert_eq!(hash_of(&store, &last).await, Some(hash));
}

#[tokio::test]
async fn an_import_that_was_killed_goes_on_on_sqlite() {
    let (_upstream, program) = program("").await;
    survives(&program, &program.sqlite_url(), 5000).await;
}

#[tokio::test]
async fn an_import_that_was_killed_goes_on_on_postgres() {
    let database = postgres::database().await;
    let (_upstream, program) = program(&format!("[storage]\nurl = {:?}", database.url)).await;
    survives(&program, &database.url, 5000).await;
}

/// All that `users show` tells, and the hash.
async fn accounts(program: &Program) -> Vec<(Value, Option<String>)> {
    let store = open_store(&program.sqlite_url());
    let mut found = Vec::new();
    for user in program.run(&["users", "list", "--json"]).await.expect(0).json_lines() {
        let hash = hash_of(&store, text(&user["id"])).await;
        found.push((user, hash));
    }
    found
}

#[tokio::test]
async fn an_export_is_taken_back_whole() {
    let (_upstream, first) = program("").await;
    let hash = bcrypt(PASSWORD);
    let rows = [
        json!({
            "id": "ann", "email": "Ann@example.com", "password_hash": hash,
            "email_confirmed_at": "2025-01-02T03:04:05.678901Z", "roles": ["staff", "admin"],
            "app_metadata": { "plan": "pro, \"gold\"", "n": [1, null] },
            "user_metadata": { "name": "Änn\n\"A\", =1+1" },
            "last_sign_in_at": "2026-01-02T03:04:05Z", "disabled_until": "2099-01-01T00:00:00Z",
            "invited_at": "2025-01-01T00:00:00Z", "created_at": "2024-01-01T00:00:00Z",
            "updated_at": "2025-06-01T00:00:00Z",
        }),
        json!({ "email": "none@example.com" }),
    ];
    write(&first, "a.jsonl", &rows.map(|row| row.to_string()).join("\n"));
    import(&first, "a.jsonl", &["--allow-admin"]).await.expect(0);
    let expected = accounts(&first).await;
    assert_eq!(expected.len(), 2);

    for name in ["export.jsonl", "export.csv"] {
        let told = first.run(&["users", "export", name]).await.expect(0);
        assert!(told.stdout.starts_with("2 accounts"), "{told}");
        let file = first.folder().join(name);
        let mode = file.metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it holds hashes");
        let (_upstream, second) = program("").await;
        let file = file.to_str().expect("UTF-8");
        let done = report(&import(&second, file, &["--allow-admin"]).await.expect(0));
        assert_eq!(counts(&done), [2, 0, 0], "{done:#}");
        assert_eq!(accounts(&second).await, expected, "{name}");
    }

    let again = first.run(&["users", "export", "export.csv"]).await.expect(1);
    assert!(again.stderr.contains("cannot be written"), "nothing is overwritten: {again}");
    let shown = first.run(&["users", "export", "-"]).await.expect(0);
    assert_eq!(shown.json_lines().len(), 2);
    let store = open_store(&first.sqlite_url());
    let noted = events_of(&store, EventKind::UsersExported).await;
    assert_eq!(noted.len(), 3);
    assert!(noted.iter().all(|stored| stored.event.actor.as_deref() == Some("cli")));
}
