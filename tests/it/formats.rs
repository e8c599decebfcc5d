//! Passwords that other programs stored: they open the account, and are replaced; until then no
//! time tells whose they are. `tests/vectors` has where they are from.

use std::time::{Duration, Instant};

use portcullis::model::{Email, Event, EventKind, PasswordHash, User, UserId};
use portcullis::store::{NewAccount, SignUp};
use serde::Deserialize;
use serde_json::json;

use crate::harness::{PASSWORD, TestGateway, Upstream, noted};

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

/// The shortest time is the one that other work on this machine has disturbed least. Each try comes
/// when no failure before it is in its way.
async fn shortest(gateway: &TestGateway, email: &str, password: &str, known: Duration) -> Duration {
    gateway.advance(Duration::from_mins(1));
    let begun = Instant::now();
    gateway.log_in(email, password).await.expect_problem(401, "invalid_credentials");
    begun.elapsed().min(known)
}

#[tokio::test]
async fn no_failed_login_tells_by_its_time_whether_a_slow_hash_is_stored() {
    let gateway = gateway("").await;
    let slow = bcrypt::hash(PASSWORD, 10).expect("hashed");
    store(&gateway, "slow", &slow, None).await;
    store(&gateway, "gone", &slow, Some("9999-01-01T00:00:00Z")).await;
    store(&gateway, "cheap", &bcrypt::hash(PASSWORD, 4).expect("hashed"), None).await;
    gateway.sign_up("own").await;
    let cases = [
        ("slow@example.com", "Wrong-Password-1"),
        ("gone@example.com", PASSWORD),
        ("gone@example.com", "Wrong-Password-1"),
        ("cheap@example.com", "Wrong-Password-1"),
        ("own@example.com", "Wrong-Password-1"),
        ("nobody@example.com", "Wrong-Password-1"),
    ];
    // The gateway looks for kinds of hashes every few seconds.
    let mut waited = 0;
    loop {
        let slow = shortest(&gateway, cases[0].0, cases[0].1, Duration::MAX).await;
        let nobody = shortest(&gateway, cases[5].0, cases[5].1, Duration::MAX).await;
        if nobody > slow / 2 {
            break;
        }
        waited += 1;
        assert!(waited < 600, "the gateway did not take notice: {nobody:?} beside {slow:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut times = cases.map(|_| Duration::MAX);
    for round in 0..80 {
        for (time, (email, password)) in times.iter_mut().zip(cases) {
            *time = shortest(&gateway, email, password, *time).await;
        }
        let (least, most) = (times.iter().min().expect("six"), times.iter().max().expect("six"));
        if round >= 5 && most.as_secs_f64() / least.as_secs_f64() <= 1.15 {
            return;
        }
    }
    panic!("the times tell the cases apart: {times:?}");
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
