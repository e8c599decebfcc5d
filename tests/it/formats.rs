//! Passwords that other programs stored: they open the account, and are replaced; until then no
//! time tells whose they are. `tests/vectors` has where they are from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZero;
use std::time::Duration;

use aws_lc_rs::pbkdf2::{PBKDF2_HMAC_SHA256, derive};
use portcullis::model::{Email, Event, EventKind, PasswordHash, User, UserId};
use portcullis::store::{NewAccount, SignUp};
use serde::Deserialize;
use serde_json::json;

use crate::harness::{PASSWORD, TestGateway, Upstream, noted, patiently, pause};

#[derive(Deserialize)]
struct Vector {
    source: String,
    password: String,
    stored: String,
    wrong: String,
    pepper: Option<String>,
}

fn vectors() -> Vec<Vector> {
    let of = |text| serde_json::from_str::<Vec<Vector>>(text).expect("vectors");
    let generated = of(include_str!("../vectors/hashes.json"));
    generated.into_iter().chain(of(include_str!("../vectors/published.json"))).collect()
}

async fn gateway(config: &str) -> TestGateway {
    let upstream = Upstream::echo().await;
    TestGateway::builder().upstream("app", &upstream).config(config).start().await
}

/// An account with this stored password, as an import makes it.
async fn store(gateway: &TestGateway, name: &str, stored: &str, until: Option<&str>) -> UserId {
    let now = gateway.clock.now();
    let email: Email = format!("{name}@example.com").parse().expect("an address");
    let id: UserId = name.parse().expect("an id");
    let user = User {
        email_confirmed_at: Some(now),
        disabled_until: until.map(|until| until.parse().expect("a time")),
        ..User::new(id.clone(), email.address(), now)
    };
    let event = Event { user_id: Some(id.clone()), ..noted(EventKind::UserCreated, now) };
    let new = NewAccount { user, email, password_hash: Some(PasswordHash(stored.to_owned())) };
    let signed_up = gateway.store().sign_up(&new, None, &event).await.expect("stored");
    assert_eq!(signed_up, SignUp::Created);
    id
}

async fn hash_of(gateway: &TestGateway, user: &UserId) -> String {
    let account = gateway.store().account_by_id(user).await.expect("read").expect("there");
    account.password_hash.expect("a hash").0.clone()
}

#[tokio::test]
async fn passwords_of_other_programs_open_the_account_and_are_replaced() {
    let vectors = vectors();
    let pepper = vectors.iter().find_map(|vector| vector.pepper.as_deref()).expect("Devise's");
    let gateway = gateway(&format!("[passwords]\ndevise_pepper = {pepper:?}")).await;
    for (n, vector) in vectors.iter().enumerate() {
        let Vector { source, password, stored, wrong, .. } = vector;
        let id = store(&gateway, &format!("old-{n}"), stored, None).await;
        let email = format!("old-{n}@example.com");
        let refused = gateway.log_in(&email, wrong).await;
        refused.expect_problem(401, "invalid_credentials");
        assert!(hash_of(&gateway, &id).await == *stored, "{source}: a wrong password changes it");
        let session = gateway.log_in(&email, password).await;
        assert_eq!(session.status, 200, "{source}: {stored}");
        let fresh = hash_of(&gateway, &id).await;
        assert!(fresh.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{source}");
        gateway.log_in(&email, password).await.expect(200);
        gateway.log_in(&email, wrong).await.expect_problem(401, "invalid_credentials");
    }
}

#[tokio::test]
async fn a_hash_that_cannot_be_checked_is_a_wrong_password() {
    let gateway = gateway("").await;
    let bcrypt = bcrypt::hash(PASSWORD, 4).expect("hashed");
    for (n, stored) in [
        // No pepper is configured.
        format!("$devise${bcrypt}"),
        bcrypt.replacen("$04$", "$17$", 1),
        bcrypt.replacen("$2b$", "$2x$", 1),
        "pbkdf2_sha256$4000000000$salt$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned(),
        "md5$salt$67a1e09bb1f83f5007dc119c14d663aa".to_owned(),
        PASSWORD.to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let id = store(&gateway, &format!("bad-{n}"), &stored, None).await;
        let answer = gateway.log_in(&format!("bad-{n}@example.com"), PASSWORD).await;
        answer.expect_problem(401, "invalid_credentials");
        assert!(hash_of(&gateway, &id).await == stored);
    }
}

/// What checks of passwords have cost so far, by the metrics.
#[derive(Debug, PartialEq)]
struct Effort {
    checks: BTreeMap<String, u64>,
    /// Iterations of PBKDF2 with SHA-256 beside them.
    filler: u64,
    slowest: String,
}

async fn effort(gateway: &TestGateway) -> Effort {
    let metrics = gateway.admin_get("/metrics").await.expect(200).text();
    let mut effort = Effort { checks: BTreeMap::new(), filler: 0, slowest: String::new() };
    for line in metrics.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let label = || name.split('"').nth(1).expect("a label").to_owned();
        if name.starts_with("portcullis_password_checks_total{scheme=") {
            effort.checks.insert(label(), value.parse().expect("a count"));
        } else if name == "portcullis_password_filler_iterations_total" {
            effort.filler = value.parse().expect("a count");
        } else if name.starts_with("portcullis_password_slowest_info{kind=") {
            effort.slowest = label();
        }
    }
    effort
}

/// The gateway looks for kinds of hashes every few seconds.
async fn until_slowest(gateway: &TestGateway, kind: &str) {
    patiently(&format!("failed logins to cost what {kind} does"), async {
        while effort(gateway).await.slowest != kind {
            pause().await;
        }
    })
    .await;
}

/// Of one failed login: the kind of hash that was checked, and the iterations beside it. Each comes
/// when no failure before it is in its way.
async fn cost(gateway: &TestGateway, email: &str, password: &str) -> (String, u64) {
    gateway.advance(Duration::from_mins(1));
    let mut before = effort(gateway).await;
    gateway.log_in(email, password).await.expect_problem(401, "invalid_credentials");
    let after = effort(gateway).await;
    let filler = after.filler - before.filler;
    let more = after.checks.into_iter().filter_map(|(scheme, count)| {
        let more = count - before.checks.remove(&scheme).unwrap_or(0);
        (more > 0).then_some((scheme, more))
    });
    match more.collect::<Vec<_>>().as_slice() {
        [(scheme, 1)] => (scheme.clone(), filler),
        other => panic!("{email}: not one check: {other:?}"),
    }
}

const WRONG: &str = "Wrong-Password-1";

/// As Werkzeug stores it. Its cost can be counted in the unit of what is added to cheaper checks.
fn pbkdf2(iterations: u32) -> String {
    let mut output = [0; 32];
    let count = NonZero::new(iterations).expect("some");
    derive(PBKDF2_HMAC_SHA256, count, b"salt", PASSWORD.as_bytes(), &mut output);
    let mut stored = format!("pbkdf2:sha256:{iterations}$salt$");
    for byte in output {
        write!(stored, "{byte:02x}").expect("a text takes everything");
    }
    stored
}

/// Work is counted, not time taken: a busy machine changes the one only.
#[tokio::test]
async fn no_failed_login_tells_by_its_work_whether_a_slow_hash_is_stored() {
    const CHEAP: u32 = 1_000;
    const SLOW: u32 = 100_000;
    let gateway = gateway("").await;
    let own = "argon2id/8/1/1";
    assert_eq!(effort(&gateway).await.slowest, own);
    gateway.sign_up("own").await;
    store(&gateway, "cheap", &pbkdf2(CHEAP), None).await;
    let gone = store(&gateway, "gone", &pbkdf2(SLOW), Some("9999-01-01T00:00:00Z")).await;
    store(&gateway, "slow", &pbkdf2(SLOW), None).await;
    until_slowest(&gateway, &format!("pbkdf2-sha256/{SLOW}")).await;

    let slow = ("pbkdf2-sha256".to_owned(), 0);
    for (email, password) in [
        ("slow@example.com", WRONG),
        ("gone@example.com", WRONG),
        ("gone@example.com", PASSWORD),
        ("nobody@example.com", WRONG),
    ] {
        assert_eq!(cost(&gateway, email, password).await, slow, "{email} {password}");
    }
    let cheap = cost(&gateway, "cheap@example.com", WRONG).await;
    assert_eq!(cheap, ("pbkdf2-sha256".to_owned(), u64::from(SLOW - CHEAP)));
    // What the check of an own one is worth was timed, once; it costs far less than this.
    let (scheme, filler) = cost(&gateway, "own@example.com", WRONG).await;
    assert_eq!(scheme, "argon2id");
    assert!((u64::from(SLOW) / 2..u64::from(SLOW)).contains(&filler), "{filler}");
    assert_eq!(cost(&gateway, "own@example.com", WRONG).await, (scheme, filler));

    // Whoever logs in has a new hash, and takes no longer than that.
    let before = effort(&gateway).await.filler;
    let event = noted(EventKind::UserEnabled, gateway.clock.now());
    let enabled = gateway.store().enable(&gone, gateway.clock.now(), &event).await;
    enabled.expect("stored").expect("there");
    for name in ["cheap", "gone", "slow"] {
        gateway.log_in(&format!("{name}@example.com"), PASSWORD).await.expect(200);
    }
    assert_eq!(effort(&gateway).await.filler, before);
    until_slowest(&gateway, own).await;
    for name in ["slow", "gone", "nobody", "cheap", "own"] {
        let cost = cost(&gateway, &format!("{name}@example.com"), WRONG).await;
        assert_eq!(cost, ("argon2id".to_owned(), 0), "{name}");
    }
}

#[tokio::test]
async fn leaked_passwords_and_own_words_are_refused_with_reasons() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("leaked.txt");
    // SHA-1 of "Plover-Ladder-42" between two others.
    let lines = "0000000000000000000000000000000000000000:1\r\n\
                 5243FD2D2103224C73B4ED00AA31B060A0B48CF5:7\r\n\
                 FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF:2\r\n";
    std::fs::write(&list, lines).expect("the folder is ours");
    let gateway = gateway(&format!("[passwords]\nleaked = {list:?}\nwords = [\"Acme\"]")).await;
    let sign_up = async |email: &str, password: &str| {
        let body = json!({ "email": email, "password": password });
        gateway.post_json("/auth/signup", &body).await
    };
    for password in ["Plover-Ladder-42", "AcmE-acme-1"] {
        let answer = sign_up("ann@example.com", password).await;
        let problem = answer.expect_problem(422, "weak_password");
        assert_eq!(problem["weak_password"]["reasons"], json!(["pwned"]), "{password}");
    }
    sign_up("ann@example.com", "Plover-Ladder-43").await.expect(201);
    // A rule for new passwords only: whoever has one keeps it.
    let stored = bcrypt::hash("Plover-Ladder-42", 4).expect("hashed");
    store(&gateway, "bob", &stored, None).await;
    gateway.log_in("bob@example.com", "Plover-Ladder-42").await.expect(200);
}
