//! The client libraries of Supabase, unmodified, through the whole life of an account:
//! `@supabase/auth-js` and `supabase-auth`, pointed at `/auth` and at `/auth/v1`.
//!
//! The scripts go by the system's time, which they shift to see tokens expire; the gateway's clock
//! starts at the same time and moves when they ask.

use std::process::Command;
use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::model::EventKind;
use serde_json::{Value, json};

use crate::harness::foreign::{node, python};
use crate::harness::postgres::OwnServer;
use crate::harness::{PASSWORD, Script, TestGateway, Upstream, noted, open_store, reply};

/// What the scripts rely on.
const CONFIG: &str = "
[tokens]
access_lifetime = \"10m\"
refresh_idle = \"7d\"
[links]
site_url = \"https://app.example.com/\"
[mail]
transport = \"webhook\"
[limits]
mail = { rate = \"1000/hour\", by = \"ip\" }
mail_account = { rate = \"1000/hour\", by = \"account\" }
verify = { rate = \"1000/hour\", by = \"ip\" }
factor = { rate = \"1000/hour\", by = \"user\" }
";

/// Letters, as a receiver of the webhook has them.
struct Letters {
    arrived: Upstream,
    read: Vec<bool>,
}

impl Letters {
    async fn start() -> Self {
        let arrived =
            Upstream::scripted(|_| reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
        Self { arrived, read: Vec::new() }
    }

    /// The oldest one to this address that was not read yet.
    async fn next(&mut self, to: &str) -> Value {
        let is_new = |n: usize, body: &[u8], read: &[bool]| {
            let letter: Value = serde_json::from_slice(body).expect("JSON");
            let is_read = read.get(n).copied().unwrap_or(false);
            (!is_read && letter["to"] == to).then_some(letter)
        };
        let read = self.read.clone();
        let find = |seen: &[crate::harness::Seen]| {
            let mut letters = seen.iter().enumerate();
            letters.find_map(|(n, seen)| Some((n, is_new(n, &seen.body, &read)?)))
        };
        self.arrived.until("a letter", |seen| find(seen).is_some()).await;
        let (n, letter) = find(&self.arrived.seen()).expect("it arrived");
        self.read.resize(self.read.len().max(n + 1), false);
        self.read[n] = true;
        json!({ "letter": letter["letter"], "data": letter["email_data"] })
    }
}

/// Runs a script against a gateway of its own, and does what it asks for.
async fn live(script: impl FnOnce(&[&str]) -> Command, part: &str, base: &str, config: &str) {
    let server = OwnServer::start().await;
    let database = server.database().await;
    let upstream = Upstream::echo().await;
    let mut letters = Letters::start().await;
    let webhook = format!(
        "[mail.webhook]\nurl = \"{}\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n",
        letters.arrived.url()
    );
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .storage(&database.url)
        .clock(Clock::manual(Clock::system().now()))
        .config(CONFIG)
        .config(&webhook)
        .config(config)
        .start()
        .await;
    let url = format!("http://{}{base}", gateway.address);
    let mut script = Script::start(script(&[&url, part, PASSWORD]));
    while let Some(asked) = script.asks().await {
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        let answer = match asked[..] {
            ["advance", seconds] => {
                gateway.advance(Duration::from_secs(seconds.parse().expect("seconds")));
                Value::Null
            }
            ["database", "hang"] => {
                server.hang();
                Value::Null
            }
            ["database", "resume"] => {
                server.resume();
                Value::Null
            }
            ["admin_key"] => json!(admin_key(&gateway, &database.url).await),
            ["now"] => json!(gateway.clock.now().as_second()),
            ["letter", to] => letters.next(to).await,
            _ => panic!("asked for {asked:?}"),
        };
        script.answer(&answer);
    }
}

/// An API key of a new administrator, which stands for what Supabase calls the service key.
async fn admin_key(gateway: &TestGateway, database: &str) -> String {
    let root = gateway.sign_up("root").await;
    let (id, now) = (root.id.parse().expect("an id"), gateway.clock.now());
    let event = noted(EventKind::RolesChanged, now);
    let store = open_store(database);
    store.set_roles(&id, &["admin".to_owned()], now, &event).await.expect("stored").expect("root");
    let body = json!({ "name": "service", "scopes": ["admin"] });
    let path = format!("/auth/admin/users/{}/api_keys", root.id);
    let made = gateway.post(&path).bearer(&root.token).json(&body).send().await.expect(201).json();
    made["key"].as_str().expect("a key").to_owned()
}

fn auth_js(arguments: &[&str]) -> Command {
    node("supabase_life.mjs", arguments)
}

fn supabase_auth(arguments: &[&str]) -> Command {
    python("supabase_life.py", arguments)
}

const CONFIRMED: &str = "[signup]\nconfirm_email = true";

#[tokio::test]
async fn auth_js_lives_a_whole_life() {
    tokio::join!(
        live(auth_js, "accounts", "/auth", "[tokens]\nalgorithm = \"ES256\""),
        live(auth_js, "accounts", "/auth/v1", "[tokens]\nalgorithm = \"RS256\""),
    );
}

#[tokio::test]
async fn auth_js_keeps_its_session_while_the_database_is_away() {
    live(auth_js, "outage", "/auth/v1", "").await;
}

#[tokio::test]
async fn auth_js_follows_every_letter() {
    tokio::join!(
        live(auth_js, "letters", "/auth", CONFIRMED),
        live(auth_js, "letters", "/auth/v1", CONFIRMED),
    );
}

#[tokio::test]
async fn supabase_auth_lives_a_whole_life() {
    tokio::join!(
        live(supabase_auth, "accounts", "/auth", "[tokens]\nalgorithm = \"ES256\""),
        live(supabase_auth, "accounts", "/auth/v1", "[tokens]\nalgorithm = \"RS256\""),
    );
}

#[tokio::test]
async fn supabase_auth_keeps_its_session_while_the_database_is_away() {
    live(supabase_auth, "outage", "/auth/v1", "").await;
}

#[tokio::test]
async fn supabase_auth_follows_every_letter() {
    tokio::join!(
        live(supabase_auth, "letters", "/auth", CONFIRMED),
        live(supabase_auth, "letters", "/auth/v1", CONFIRMED),
    );
}

#[tokio::test]
async fn auth_js_shows_a_second_factor() {
    tokio::join!(live(auth_js, "factors", "/auth", ""), live(auth_js, "factors", "/auth/v1", ""));
}

#[tokio::test]
async fn supabase_auth_shows_a_second_factor() {
    tokio::join!(
        live(supabase_auth, "factors", "/auth", ""),
        live(supabase_auth, "factors", "/auth/v1", ""),
    );
}

#[tokio::test]
async fn auth_js_administers() {
    tokio::join!(live(auth_js, "admin", "/auth", ""), live(auth_js, "admin", "/auth/v1", ""));
}

#[tokio::test]
async fn supabase_auth_administers() {
    tokio::join!(
        live(supabase_auth, "admin", "/auth", ""),
        live(supabase_auth, "admin", "/auth/v1", ""),
    );
}
