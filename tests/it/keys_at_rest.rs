//! Private keys in the database: sealed under `[secrets]`, brought from one key to the next while the
//! program runs, and never read without the right one.

use portcullis::model::EventKind;
use serde_json::{Value, json};

use crate::harness::{
    Caller, PASSWORD, Program, Request, TestGateway, Told, Upstream, events_of, open_store,
};

struct House {
    program: Program,
    _upstream: Upstream,
}

impl House {
    async fn new() -> Self {
        let upstream = Upstream::echo().await;
        let program = Program::of(TestGateway::builder().upstream("app", &upstream)).await;
        Self { program, _upstream: upstream }
    }

    /// Writes `[secrets]` into the configuration file, in the place of what was there.
    fn secrets(&self, text: &str) {
        let config = std::fs::read_to_string(self.program.file()).expect("the file is ours");
        let mut config: toml::Table = config.parse().expect("TOML");
        let text: toml::Table = text.parse().expect("TOML");
        config.insert("secrets".to_owned(), text.into());
        std::fs::write(self.program.file(), config.to_string()).expect("the file is ours");
    }

    async fn key(&self) -> String {
        let told = self.program.run(&["secrets", "generate"]).await.expect(0);
        told.stdout.trim_end().to_owned()
    }

    async fn reencrypt(&self) -> Told {
        self.program.run(&["secrets", "reencrypt"]).await
    }

    /// Which keys of `[secrets]` the rows are under.
    async fn roles(&self) -> Vec<String> {
        let told = self.program.run(&["secrets", "status", "--json"]).await.expect(0);
        told.json_lines().iter().map(|line| word(line, "role")).collect()
    }

    async fn kids(&self) -> Vec<String> {
        let told = self.program.run(&["keys", "list", "--json"]).await.expect(0);
        told.json_lines().iter().map(|line| word(line, "kid")).collect()
    }

    async fn log_in(&self) -> Caller {
        let body = json!({ "email": "ann@example.com", "password": PASSWORD });
        let request = Request::new(self.program.public, "POST", "/auth/login").json(&body);
        Caller::from_session(&request.send().await.expect(200).json())
    }

    async fn accepts(&self, caller: &Caller) {
        let request = Request::new(self.program.public, "GET", "/private/a");
        request.bearer(&caller.token).send().await.expect(200);
    }
}

#[track_caller]
fn word(line: &Value, name: &str) -> String {
    line[name].as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn keys_of_secrets_are_changed_while_the_program_runs() {
    let house = House::new().await;
    let program = &house.program;
    program.run(&["migrate"]).await.expect(0);
    let ann = ["users", "create", "ann@example.com"];
    program.run_with(&ann, PASSWORD).await.expect(0);
    let running = program.serve().await;
    let caller = house.log_in().await;
    assert_eq!(house.roles().await, ["plain"]);
    house.reencrypt().await.expect(2);
    running.kill();

    // From plain to sealed; the running program reads both.
    let (old, new) = (house.key().await, house.key().await);
    assert_ne!(old, new);
    house.secrets(&format!("key = {old:?}"));
    let running = program.serve().await;
    house.accepts(&caller).await;
    assert_eq!(house.roles().await, ["plain"]);
    let told = house.reencrypt().await.expect(0);
    assert!(told.stdout.contains("signing_keys.private_key: 1 brought under"), "{told}");
    assert_eq!(house.roles().await, ["current"]);
    assert!(house.reencrypt().await.expect(0).stdout.contains(": 0 brought"));
    program.run(&["keys", "rotate", "--now"]).await.expect(0);
    assert_eq!(house.roles().await, ["current"], "new ones are sealed at once");
    running.kill();

    // Under the next key; the one before opens what it sealed until all is under the next.
    house.secrets(&format!("key = {new:?}\nprevious = [{old:?}]"));
    let running = program.serve().await;
    house.accepts(&caller).await;
    let before = house.log_in().await;
    assert_eq!(house.roles().await, ["previous"]);
    house.reencrypt().await.expect(0);
    assert_eq!(house.roles().await, ["current"]);
    house.accepts(&before).await;
    house.log_in().await;
    running.kill();
    house.secrets(&format!("key = {new:?}\nrequire = true"));
    let _running = program.serve().await;
    for caller in [caller, before, house.log_in().await] {
        house.accepts(&caller).await;
    }

    let store = open_store(&program.sqlite_url());
    let events = events_of(&store, EventKind::SecretsReencrypted).await;
    let told = events.iter().map(|stored| {
        let event = &stored.event;
        (event.actor.as_deref().unwrap_or_default(), event.reason.as_deref().unwrap_or_default())
    });
    assert_eq!(told.collect::<Vec<_>>(), [("cli", "signing_keys.private_key"); 2]);
}

#[tokio::test]
async fn no_start_without_the_right_key_and_a_way_out_when_it_is_lost() {
    let house = House::new().await;
    let program = &house.program;
    house.secrets(&format!("key = {:?}", house.key().await));
    program.serve().await.kill();
    let kids = house.kids().await;
    let refused = async |reason: &str| {
        let told = program.run(&["serve"]).await.expect(1);
        assert!(told.stderr.contains(&format!("row {}", kids[0])), "{told}");
        assert!(told.stderr.contains(reason), "{told}");
    };
    let other = house.key().await;
    house.secrets("");
    refused("which is neither secrets.key nor among secrets.previous").await;
    house.secrets(&format!("key = {other:?}"));
    refused("which is neither secrets.key nor among secrets.previous").await;
    assert_eq!(house.roles().await, ["unknown"]);
    let told = house.reencrypt().await.expect(1);
    assert!(told.stderr.contains(&format!("row {} stays as it is", kids[0])), "{told}");

    // Lost for good: what was sealed under it is given up, and a new one signs.
    assert_eq!(house.kids().await, kids);
    program.run(&["keys", "retire", &kids[0]]).await.expect(0);
    program.serve().await.kill();
    assert_eq!(house.kids().await.len(), 2);

    // Whoever writes to the database cannot make keys where seals are required.
    let folder = tempfile::tempdir().expect("a folder");
    let pem = folder.path().join("own.pem");
    let pair = rcgen::KeyPair::generate().expect("a P-256 key");
    std::fs::write(&pem, pair.serialize_pem()).expect("the folder is ours");
    house.secrets("");
    let import = ["keys", "import", pem.to_str().expect("UTF-8"), "--now"];
    program.run(&import).await.expect(0);
    house.secrets(&format!("key = {other:?}\nrequire = true"));
    let told = program.run(&["serve"]).await.expect(1);
    assert!(told.stderr.contains("it is not sealed, which secrets.require asks for"), "{told}");
}
