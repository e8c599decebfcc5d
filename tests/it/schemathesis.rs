//! The `OpenAPI` document against the running gateway, by Schemathesis: whatever it thinks of is
//! answered as the document says, and never by a 5xx.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use crate::harness::foreign::{python_program, run};
use crate::harness::{PASSWORD, Program, Request, TestGateway, Upstream, reply};

/// What is asked of every answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";

/// No limit gets into the way, and letters leave.
fn config(letters: &Upstream) -> String {
    let mut text = format!(
        "[mail]\ntransport = \"webhook\"\n\
         [mail.webhook]\nurl = \"{}\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
         [cookies]\nenabled = true\n\
         [links]\nsite_url = \"https://app.example.com/\"\n[limits]\n",
        letters.url()
    );
    for (name, by) in [
        ("signup", "ip"),
        ("login", "ip"),
        ("login_network", "network"),
        ("login_account", "account"),
        ("refresh", "ip"),
        ("refresh_session", "session"),
        ("mail", "ip"),
        ("mail_account", "account"),
        ("verify", "ip"),
        ("verify_account", "account"),
        ("oauth", "ip"),
    ] {
        writeln!(text, "{name} = {{ rate = \"1000/second\", by = \"{by}\" }}").expect("text");
    }
    text
}

/// One run, the same each time. It leaves notes where it runs.
async fn explore(program: &Program, folder: &Path, arguments: &[&str]) {
    let document = format!("http://{}/auth/openapi.yaml", program.public);
    let mut command = python_program("schemathesis", &["run", &document]);
    command.args(["--seed", "1", "--phases", "examples,coverage,fuzzing", "--checks", CHECKS]);
    command.args(["--continue-on-failure", "--no-shrink", "--no-color"]).args(arguments);
    command.current_dir(folder);
    let said = run(command).await;
    assert!(said.contains(" passed"), "{said}");
}

#[tokio::test]
async fn every_answer_is_documented_and_no_request_breaks_the_gateway() {
    let upstream = Upstream::echo().await;
    let letters =
        Upstream::scripted(|_| reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
    let builder = TestGateway::builder().upstream("app", &upstream).config(&config(&letters));
    let program = Program::of(builder).await;
    program.run(&["migrate"]).await.expect(0);
    let email = "ann@example.com";
    let create = ["users", "create", email, "--role", "admin"];
    program.run_with(&create, PASSWORD).await.expect(0);
    let _running = program.serve().await;
    let body = json!({ "email": email, "password": PASSWORD });
    let session = Request::new(program.public, "POST", "/auth/login").json(&body).send().await;
    let token = session.expect(200).json()["access_token"].as_str().expect("a token").to_owned();

    let folder = tempfile::tempdir().expect("a folder");
    let header = format!("Authorization: Bearer {token}");
    // With a session, which must not be ended on the way; and without one.
    let with = ["--max-examples", "8", "--header", &header, "--exclude-path", "/logout"];
    explore(&program, folder.path(), &with).await;
    explore(&program, folder.path(), &["--max-examples", "3"]).await;
    // As a page of the gateway's own origin, which may ask for cookies.
    let page = ["--max-examples", "3", "--header", "Sec-Fetch-Site: same-origin"];
    explore(&program, folder.path(), &page).await;
    assert_eq!(upstream.count(), 0);
}
