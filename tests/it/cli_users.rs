//! `portcullis users update` and `users link`: what the endpoints of administrators do, on the
//! command line.

use portcullis::model::EventKind;
use serde_json::{Value, json};

use crate::harness::{PASSWORD, Program, Request, TestGateway, Upstream, events_of, open_store};

const NEW_PASSWORD: &str = "Other-Plover-9-Ladder";

async fn program() -> (Upstream, Program) {
    let upstream = Upstream::echo().await;
    let config = "[links]\nsite_url = \"https://app.example.com/\"";
    let builder = TestGateway::builder().upstream("app", &upstream).config(config);
    let program = Program::of(builder).await;
    program.run(&["migrate"]).await.expect(0);
    let ann = ["users", "create", "ann@example.com", "--id", "u-1"];
    program.run_with(&ann, PASSWORD).await.expect(0);
    (upstream, program)
}

async fn post(program: &Program, path: &str, body: &Value) -> crate::harness::Answer {
    Request::new(program.public, "POST", path).json(body).send().await
}

async fn log_in(program: &Program, email: &str, password: &str) -> u16 {
    post(program, "/auth/login", &json!({ "email": email, "password": password })).await.status
}

#[tokio::test]
async fn an_account_is_changed_on_the_command_line() {
    let (_upstream, program) = program().await;
    let _running = program.serve().await;
    assert_eq!(log_in(&program, "ann@example.com", PASSWORD).await, 200);
    let update = [
        "users",
        "update",
        "ann@example.com",
        "--email",
        "anna@example.com",
        "--confirmed",
        "--password",
        "--app-metadata",
        r#"{"plan":"pro"}"#,
        "--user-metadata",
        r#"{"a":1}"#,
        "--json",
    ];
    let told = program.run_with(&update, NEW_PASSWORD).await.expect(0);
    let shown = told.json_lines().pop().expect("a user");
    assert_eq!(shown["email"], "anna@example.com");
    assert!(shown["email_confirmed_at"].is_string());
    assert_eq!(shown["app_metadata"]["plan"], "pro");
    assert_eq!(shown["user_metadata"], json!({ "a": 1 }));
    assert!(told.stderr.contains("ended 1 sessions"), "{told}");
    assert_eq!(log_in(&program, "anna@example.com", NEW_PASSWORD).await, 200);
    assert_eq!(log_in(&program, "anna@example.com", PASSWORD).await, 401);
    let removed =
        program.run(&["users", "update", "u-1", "--user-metadata", r#"{"a":null}"#]).await;
    assert!(removed.expect(0).stdout.contains("anna@example.com"));
    let store = open_store(&program.sqlite_url());
    for kind in [EventKind::EmailChanged, EventKind::PasswordChanged, EventKind::UserConfirmed] {
        let noted = events_of(&store, kind).await;
        assert_eq!(noted.len(), 1, "{}", kind.as_str());
        assert_eq!(noted[0].event.actor.as_deref(), Some("cli"));
    }

    program.run_with(&["users", "create", "bob@example.com"], PASSWORD).await.expect(0);
    let long = format!(r#"{{"x":"{}"}}"#, "x".repeat(2048));
    for (arguments, code) in [
        (&["u-1", "--email", "bob@example.com"][..], 1),
        (&["nobody", "--confirmed"], 1),
        (&["u-1", "--user-metadata", &long], 1),
        (&["u-1", "--user-metadata", "[]"], 2),
        (&["u-1", "--app-metadata", r#"{"roles":["admin"]}"#], 2),
        (&["u-1", "--email", "x"], 2),
    ] {
        let told = program.run(&[&["users", "update"], arguments].concat()).await.expect(code);
        assert!(!told.stderr.is_empty(), "{arguments:?}");
    }
    let listed = async |arguments: &[&str]| {
        let list = [&["events", "list", "--json"], arguments].concat();
        program.run(&list).await.expect(0).json_lines()
    };
    let failed = listed(&["--outcome", "failure"]).await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    let time = failed[0]["time"].as_str().expect("a time");
    let before = listed(&["--until", time]).await;
    assert!(!before.is_empty() && before.iter().all(|event| event["time"] != *time));
    let weak = program.run_with(&["users", "update", "u-1", "--password"], "weak").await.expect(1);
    assert!(weak.stdout.is_empty(), "{weak}");
}

#[tokio::test]
async fn a_link_is_made_on_the_command_line() {
    let (_upstream, program) = program().await;
    let _running = program.serve().await;
    let link = ["users", "link", "recovery", "ann@example.com", "--json"];
    let made = program.run(&link).await.expect(0).json_lines().pop().expect("a link");
    let address = made["action_link"].as_str().expect("an address");
    assert!(
        address.contains("/auth/verify?token=") && address.contains("type=recovery"),
        "{address}"
    );
    assert_eq!(made["redirect_to"], "https://app.example.com/");
    let shown = json!({ "type": "recovery", "token_hash": made["hashed_token"] });
    let session = post(&program, "/auth/verify", &shown).await.expect(200).json();
    assert_eq!(session["user"]["id"], "u-1");
    post(&program, "/auth/verify", &shown).await.expect(403);

    let signup = ["users", "link", "signup", "new@example.com"];
    let told = program.run_with(&signup, PASSWORD).await.expect(0);
    assert!(told.stdout.starts_with("http") && told.stderr.contains("code: "), "{told}");
    let store = open_store(&program.sqlite_url());
    let noted = events_of(&store, EventKind::LinkGenerated).await;
    assert_eq!(noted.len(), 2);
    assert!(noted.iter().all(|stored| stored.event.actor.as_deref() == Some("cli")));
    for (arguments, code) in [
        (&["recovery", "nobody@example.com"][..], 1),
        (&["magiclink", "ann@example.com", "--redirect-to", "https://evil.example/"], 0),
        (&["email-change-new", "ann@example.com"], 2),
        (&["email-change-new", "ann@example.com", "--new-email", "new@example.com"], 1),
        (&["sms", "ann@example.com"], 2),
    ] {
        let told = program.run(&[&["users", "link"], arguments].concat()).await.expect(code);
        assert!(!told.stdout.contains("evil"), "{told}");
    }
}
