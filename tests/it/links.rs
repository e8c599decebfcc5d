//! Links and codes by mail, from the letter that is asked for to the session it leads to. Letters
//! are read by a webhook, as the gateway hands them over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use portcullis::model::{self, EventKind, LetterKind, LetterOrigin, uuid_v7};
use portcullis::store::{NewParcel, Parcel, ParcelKind};
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use crate::admin_api::give;
use crate::harness::{
    Answer, Caller, PASSWORD, TestGateway, Upstream, events_of, noted, reply, until_events,
};

const NEW_PASSWORD: &str = "Other-Plover-9-Ladder";
const SITE: &str = "https://app.example.com/";

// The example of RFC 7636, appendix B.
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A gateway, and where its letters arrive.
pub(crate) struct Post {
    pub(crate) gateway: TestGateway,
    pub(crate) letters: Upstream,
    read: AtomicUsize,
}

/// A letter as its reader has it.
pub(crate) struct Letter {
    to: String,
    kind: String,
    pub(crate) token: String,
    pub(crate) code: String,
    redirect_to: String,
}

impl Post {
    pub(crate) async fn start(config: &str) -> Self {
        let letters =
            Upstream::scripted(|_| reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
        Self::with(letters, config).await
    }

    pub(crate) async fn with(letters: Upstream, config: &str) -> Self {
        let upstream = Upstream::echo().await;
        let mail = format!(
            "[links]\nsite_url = {SITE:?}\nredirects = [\"https://shop.example.com/in/*\"]\n\
             [mail]\ntransport = \"webhook\"\n\
             [mail.webhook]\nurl = \"{}\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
             [limits]\nmail = {{ rate = \"1000/hour\", by = \"ip\" }}\n\
             mail_account = {{ rate = \"1000/hour\", by = \"account\" }}\n",
            letters.url()
        );
        let gateway = TestGateway::builder().upstream("app", &upstream).config(&mail);
        let gateway = gateway.config(config).start().await;
        Self { gateway, letters, read: AtomicUsize::new(0) }
    }

    /// The next letter.
    pub(crate) async fn letter(&self, to: &str, kind: &str) -> Letter {
        let n = self.read.fetch_add(1, SeqCst);
        self.letters.until("a letter", |seen| seen.len() > n).await;
        let body: Value = serde_json::from_slice(&self.letters.seen()[n].body).expect("JSON");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let data = &body["email_data"];
        let hashes = [text(&data["token_hash"]), text(&data["token_hash_new"])].concat();
        let letter = Letter {
            to: text(&body["to"]),
            kind: text(&body["letter"]),
            token: hashes,
            code: text(&data["token"]),
            redirect_to: text(&data["redirect_to"]),
        };
        assert_eq!((&*letter.to, &*letter.kind), (to, kind));
        letter
    }

    /// Two letters that come in any order, by kind.
    async fn two_letters(&self) -> BTreeMap<String, Letter> {
        let mut letters = BTreeMap::new();
        for _ in 0..2 {
            let n = self.read.load(SeqCst);
            self.letters.until("a letter", |seen| seen.len() > n).await;
            let body: Value = serde_json::from_slice(&self.letters.seen()[n].body).expect("JSON");
            let [to, kind] = [&body["to"], &body["letter"]].map(|v| v.as_str().expect("text"));
            let letter = self.letter(to, kind).await;
            letters.insert(letter.kind.clone(), letter);
        }
        letters
    }

    pub(crate) async fn ask(&self, target: &str, body: Value) -> Answer {
        let answer = self.gateway.post_json(target, &body).await.expect(200);
        assert_eq!(answer.json(), json!({}), "{target}");
        answer
    }

    async fn verify(&self, body: Value) -> Answer {
        self.gateway.post_json("/auth/verify", &body).await
    }

    /// Shows a letter's token.
    async fn show(&self, kind: &str, letter: &Letter) -> Answer {
        self.verify(json!({ "type": kind, "token_hash": letter.token })).await
    }

    /// An account with a proved address.
    pub(crate) async fn confirmed(&self, name: &str) -> Caller {
        let caller = self.gateway.sign_up(name).await;
        let store = self.gateway.store();
        let now = self.gateway.clock.now();
        let id = caller.id.parse().expect("a user id");
        let confirmed = noted(EventKind::UserConfirmed, now);
        store.confirm_email(&id, now, &confirmed).await.expect("stored").expect("a user");
        caller
    }

    /// Presses the button of the page.
    async fn press(&self, letter: &Letter, kind: &str, more: &str) -> Answer {
        let form = format!("token={}&type={kind}{more}", letter.token);
        self.gateway
            .post("/auth/verify")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Sec-Fetch-Site", "same-origin")
            .body(form)
            .send()
            .await
    }

    /// Why letters were not sent, oldest first.
    pub(crate) async fn unsent(&self, count: usize) -> Vec<String> {
        let events = until_events(&self.gateway.store(), EventKind::MailFailed, count).await;
        events.into_iter().map(|stored| stored.event.reason.expect("a reason")).collect()
    }
}

/// Where an answer sends the browser, and what it is told there in the fragment.
#[track_caller]
fn sent_to(answer: &Answer) -> (String, BTreeMap<String, String>) {
    assert_eq!(answer.status, 303, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let mut url = Url::parse(answer.header("location").expect("a place")).expect("an address");
    let told = url.fragment().unwrap_or_default().to_owned();
    url.set_fragment(None);
    let told = form_urlencoded::parse(told.as_bytes()).into_owned().collect();
    (url.into(), told)
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_by_way_of_a_letter() {
    let post = Post::start("").await;
    let ann = post.confirmed("ann").await;
    post.ask("/auth/recover", json!({ "email": "ANN@example.com" })).await;
    let letter = post.letter("ANN@example.com", "recovery").await;
    assert_eq!(letter.redirect_to, SITE);

    let session = post.show("recovery", &letter).await.expect(200).json();
    assert_eq!(session["user"]["id"], ann.id.as_str());
    let caller = Caller::from_session(&session);
    post.show("recovery", &letter).await.expect_problem(403, "otp_expired");
    let code = json!({ "type": "recovery", "email": "ann@example.com", "token": letter.code });
    post.verify(code).await.expect_problem(403, "otp_expired");

    // The login is fresh, so that nobody asks for the password that was forgotten.
    let change = post.gateway.request("PUT", "/auth/user").bearer(&caller.token);
    change.json(&json!({ "password": NEW_PASSWORD })).send().await.expect(200);
    post.gateway.log_in("ann@example.com", NEW_PASSWORD).await.expect(200);
    post.letter("ann@example.com", "password_changed").await;
    let used = events_of(&post.gateway.store(), EventKind::LinkUsed).await;
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].event.reason.as_deref(), Some("recovery"));
}

#[tokio::test]
async fn nobody_learns_which_addresses_have_accounts() {
    let post = Post::start("").await;
    post.confirmed("ann").await;
    let asked = [
        ("/auth/recover", json!({}), 1),
        ("/auth/otp", json!({ "create_user": false }), 2),
        ("/auth/magiclink", json!({ "create_user": false }), 3),
        ("/auth/resend", json!({ "type": "signup" }), 3),
    ];
    for (target, body, letters) in asked {
        let mut answers = Vec::new();
        for name in ["ann", "nobody"] {
            let mut body = body.clone();
            body["email"] = format!("{name}@example.com").into();
            let answer = post.ask(target, body).await;
            let names = ["content-type", "content-length", "cache-control", "set-cookie"];
            answers.push((answer.text(), names.map(|name| answer.header(name).map(str::to_owned))));
        }
        assert_eq!(answers[0], answers[1], "{target}");
        // Before the next one, which would be too soon.
        post.letters.until("letters to ann", |seen| seen.len() == letters).await;
        post.gateway.advance(Duration::from_secs(61));
    }
    let mut reasons = post.unsent(5).await;
    reasons.sort();
    // Ann's address is proved already: there is nothing to confirm.
    assert_eq!(
        reasons,
        ["already_confirmed", "no_account", "no_account", "no_account", "no_account"]
    );
    assert_eq!(post.letters.count(), 3, "all to ann");
    let store = post.gateway.store();
    for kind in [EventKind::RecoveryRequested, EventKind::MagicLinkRequested] {
        let asked = events_of(&store, kind).await;
        assert!(asked.iter().all(|stored| stored.event.user_id.is_none()), "{kind:?}");
    }
    // What was never there is refused like what was used.
    for body in [
        json!({ "type": "recovery", "token_hash": "A".repeat(43) }),
        json!({ "type": "recovery", "token_hash": "x" }),
        json!({ "type": "recovery", "email": "ann@example.com", "token": "12345" }),
        json!({ "type": "recovery", "email": "nobody@example.com", "token": "123456" }),
    ] {
        post.verify(body).await.expect_problem(403, "otp_expired");
    }
}

#[tokio::test]
async fn five_wrong_codes_end_a_code_and_not_its_link() {
    let post = Post::start("").await;
    post.confirmed("ann").await;
    post.ask("/auth/otp", json!({ "email": "ann@example.com" })).await;
    let letter = post.letter("ann@example.com", "magic_link").await;
    let wrong = if letter.code == "000000" { "000001" } else { "000000" };
    let code = |token: &str| json!({ "type": "email", "email": "ann@example.com", "token": token });
    for _ in 0..5 {
        post.verify(code(wrong)).await.expect_problem(403, "otp_expired");
    }
    post.verify(code(&letter.code)).await.expect_problem(403, "otp_expired");
    post.show("email", &letter).await.expect(200);

    post.gateway.advance(Duration::from_secs(61));
    post.ask("/auth/otp", json!({ "email": "ann@example.com" })).await;
    let letter = post.letter("ann@example.com", "magic_link").await;
    post.verify(code(&letter.code)).await.expect(200);
}

#[tokio::test]
async fn links_expire_and_the_newest_counts() {
    let post = Post::start("").await;
    post.confirmed("ann").await;
    let ask = async || post.ask("/auth/recover", json!({ "email": "ann@example.com" })).await;
    ask().await;
    let first = post.letter("ann@example.com", "recovery").await;
    ask().await;
    assert_eq!(post.unsent(1).await, ["too_soon"]);
    post.gateway.advance(Duration::from_secs(61));
    ask().await;
    let second = post.letter("ann@example.com", "recovery").await;
    post.show("recovery", &first).await.expect_problem(403, "otp_expired");
    post.show("magiclink", &second).await.expect_problem(403, "otp_expired");
    post.gateway.advance(Duration::from_hours(1));
    post.show("recovery", &second).await.expect_problem(403, "otp_expired");
}

#[tokio::test]
async fn a_sign_up_waits_for_the_proof_of_its_address() {
    let post = Post::start("[signup]\nconfirm_email = true").await;
    let settings = post.gateway.get("/auth/settings").send().await.expect(200).json();
    assert_eq!(settings["mailer_autoconfirm"], false);
    let sign_up = async |email: &str, password: &str| {
        let body = json!({ "email": email, "password": password, "data": { "name": password } });
        post.gateway.post_json("/auth/signup", &body).await.expect(200).json()
    };
    let new = sign_up("ann@example.com", PASSWORD).await;
    assert_eq!(new["email"], "ann@example.com");
    assert!(new.get("access_token").is_none());
    let letter = post.letter("ann@example.com", "confirmation").await;
    // The password takes effect with the link.
    let early = post.gateway.log_in("ann@example.com", PASSWORD).await;
    early.expect_problem(400, "email_not_confirmed");
    let wrong = post.gateway.log_in("ann@example.com", NEW_PASSWORD).await;
    wrong.expect_problem(401, "invalid_credentials");
    let session = post.show("signup", &letter).await.expect(200).json();
    assert_eq!(session["user"]["user_metadata"], json!({ "name": PASSWORD }));
    assert!(session["user"]["email_confirmed_at"].is_string());
    post.gateway.log_in("ann@example.com", PASSWORD).await.expect(200);

    // The same for an address that is taken; its owner is told, and nothing changes.
    let taken = sign_up("ann@example.com", NEW_PASSWORD).await;
    let keys =
        |user: &Value| user.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&new), keys(&taken));
    assert_eq!(keys(&new["identities"][0]), keys(&taken["identities"][0]));
    assert_eq!(taken["email_confirmed_at"], Value::Null);
    assert_ne!(taken["id"], session["user"]["id"]);
    let told = post.letter("ann@example.com", "already_registered").await;
    assert_eq!((&*told.token, &*told.code), ("", ""));
    // Nor does the login tell whoever asks that the address is taken.
    let tried = post.gateway.log_in("ann@example.com", NEW_PASSWORD).await;
    tried.expect_problem(400, "email_not_confirmed");
    post.gateway.log_in("ann@example.com", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn who_signed_up_is_told_to_prove_the_address_and_nobody_elsewhere() {
    const WAITS: &str = "email_not_confirmed";
    const REFUSED: &str = "invalid_credentials";
    const OWN: &str = "Owners-Plover-42";
    const STRANGERS: &str = "Strangers-Plover-42";
    let post =
        Post::start("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[links]\nlifetime = \"1h\"")
            .await;
    post.confirmed("bob").await;
    post.gateway.configure("[signup]\nconfirm_email = true");
    post.gateway.reload().await.expect(200);
    let ask = async |target: &str, address: &str, email: &str, password: &str| {
        let body = json!({ "email": email, "password": password });
        post.gateway.post(target).header("X-Forwarded-For", address).json(&body).send().await
    };
    let log_in = async |address: &str, email: &str, password: &str| {
        let answer = ask("/auth/login", address, email, password).await;
        match answer.status {
            200 => "in".to_owned(),
            _ => answer.json()["code"].as_str().expect("a code").to_owned(),
        }
    };
    let checks = async || {
        let metrics = post.gateway.admin_get("/metrics").await.expect(200).text();
        let counts = metrics.lines().filter(|l| l.starts_with("portcullis_password_checks_total{"));
        let count = |line: &str| -> u64 {
            line.rsplit_once(' ').and_then(|(_, count)| count.parse().ok()).expect("a count")
        };
        counts.map(count).sum::<u64>()
    };
    let (home, neighbour, elsewhere) = ("192.0.2.1", "192.0.2.200", "198.51.100.1");
    // An address that is free, one that is taken: nobody can tell which is which.
    let mut letters = Vec::new();
    for (email, kind, second) in [
        ("ann@example.com", "confirmation", None),
        ("bob@example.com", "already_registered", Some("already_registered")),
    ] {
        ask("/auth/signup", home, email, OWN).await.expect(200);
        letters.push(post.letter(email, kind).await);
        ask("/auth/signup", elsewhere, email, STRANGERS).await.expect(200);
        match second {
            Some(kind) => drop(post.letter(email, kind).await),
            None => assert_eq!(post.unsent(1).await, ["too_soon"]),
        }
        for (address, password, expected) in [
            (home, OWN, WAITS),
            (neighbour, OWN, WAITS),
            (elsewhere, STRANGERS, WAITS),
            (elsewhere, NEW_PASSWORD, REFUSED),
            (home, STRANGERS, REFUSED),
            // Where nobody signed up, no password is right.
            ("203.0.113.1", STRANGERS, REFUSED),
        ] {
            let before = checks().await;
            assert_eq!(log_in(address, email, password).await, expected, "{email} {address}");
            assert_eq!(checks().await - before, 2, "{email} {address}");
        }
    }
    // Both wanted the address: none of the passwords counts, and who has proved it at home is not
    // told there to do so again. Elsewhere all is as it was.
    let proof = json!({ "type": "signup", "token_hash": letters[0].token });
    let proof = post.gateway.post("/auth/verify").header("X-Forwarded-For", home).json(&proof);
    proof.send().await.expect(200);
    assert_eq!(log_in(home, "ann@example.com", OWN).await, REFUSED);
    assert_eq!(log_in(elsewhere, "ann@example.com", STRANGERS).await, WAITS);
    // As long as the link of the letter is good.
    post.gateway.advance(Duration::from_hours(1));
    for email in ["ann@example.com", "bob@example.com"] {
        assert_eq!(log_in(elsewhere, email, STRANGERS).await, REFUSED, "{email}");
    }
}

#[tokio::test]
async fn of_two_sign_ups_with_one_address_neither_password_counts() {
    let post = Post::start("[signup]\nconfirm_email = true").await;
    let sign_up = async |email: &str, password: &str| {
        let body = json!({ "email": email, "password": password, "data": { "name": password } });
        post.gateway.post_json("/auth/signup", &body).await.expect(200);
    };
    // Within `links.resend_interval`, so that the owner has no letter but the stranger's; and after.
    for (name, wait) in [("ann", 5), ("bob", 61)] {
        let email = format!("{name}@example.com");
        sign_up(&email, "Strangers-Plover-42").await;
        let mut letter = post.letter(&email, "confirmation").await;
        post.gateway.advance(Duration::from_secs(wait));
        sign_up(&email, PASSWORD).await;
        if wait > 60 {
            let stale = std::mem::replace(&mut letter, post.letter(&email, "confirmation").await);
            post.show("signup", &stale).await.expect_problem(403, "otp_expired");
        } else {
            assert_eq!(post.unsent(1).await, ["too_soon"]);
        }
        let session = post.show("signup", &letter).await.expect(200).json();
        assert_eq!(session["user"]["user_metadata"], json!({}));
        for password in ["Strangers-Plover-42", PASSWORD] {
            let tried = post.gateway.log_in(&email, password).await;
            tried.expect_problem(401, "invalid_credentials");
        }
        let owner = Caller::from_session(&session);
        let change = post.gateway.request("PUT", "/auth/user").bearer(&owner.token);
        change.json(&json!({ "password": NEW_PASSWORD })).send().await.expect(200);
        post.letter(&email, "password_changed").await;
        post.gateway.log_in(&email, NEW_PASSWORD).await.expect(200);
    }
}

#[tokio::test]
async fn a_sign_up_whose_letter_left_late_keeps_its_password() {
    let tries = Arc::new(AtomicUsize::new(0));
    let letters = Upstream::scripted(move |_| {
        let status = if tries.fetch_add(1, SeqCst) == 0 { "503 Later" } else { "200 OK" };
        reply(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}"))
    })
    .await;
    let post = Post::with(letters, "[signup]\nconfirm_email = true").await;
    let body = json!({ "email": "ann@example.com", "password": PASSWORD });
    post.gateway.post_json("/auth/signup", &body).await.expect(200);
    let lost = post.letter("ann@example.com", "confirmation").await;
    while post.letters.count() < 2 {
        post.gateway.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let letter = post.letter("ann@example.com", "confirmation").await;
    post.show("signup", &lost).await.expect_problem(403, "otp_expired");
    post.show("signup", &letter).await.expect(200);
    post.gateway.log_in("ann@example.com", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn accounts_from_before_wait_for_their_proof_after_the_right_password() {
    let post = Post::start("").await;
    post.gateway.sign_up("ann").await;
    post.gateway.configure("[signup]\nconfirm_email = true");
    post.gateway.reload().await.expect(200);
    let right = post.gateway.log_in("ann@example.com", PASSWORD).await;
    right.expect_problem(400, "email_not_confirmed");
    let wrong = post.gateway.log_in("ann@example.com", NEW_PASSWORD).await;
    wrong.expect_problem(401, "invalid_credentials");
    post.ask("/auth/resend", json!({ "type": "signup", "email": "ann@example.com" })).await;
    let letter = post.letter("ann@example.com", "confirmation").await;
    post.show("signup", &letter).await.expect(200);
    post.gateway.log_in("ann@example.com", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn who_proves_an_address_first_has_the_account() {
    let post = Post::start("").await;
    let thief = post.gateway.sign_up("ann").await;
    post.ask("/auth/otp", json!({ "email": "ann@example.com" })).await;
    let letter = post.letter("ann@example.com", "magic_link").await;
    post.show("magiclink", &letter).await.expect(200);
    post.gateway.get_as(&thief.token, "/auth/user").await.expect_problem(401, "session_not_found");
    let tried = post.gateway.log_in("ann@example.com", PASSWORD).await;
    tried.expect_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn a_link_without_an_account_makes_one_only_where_anybody_may_sign_up() {
    let post = Post::start("").await;
    post.ask("/auth/otp", json!({ "email": "new@example.com", "data": { "name": "New" } })).await;
    let letter = post.letter("new@example.com", "magic_link").await;
    let session = post.show("magiclink", &letter).await.expect(200).json();
    assert_eq!(session["user"]["user_metadata"], json!({ "name": "New" }));
    assert_eq!(events_of(&post.gateway.store(), EventKind::Signup).await.len(), 1);

    let closed = Post::start("[signup]\nenabled = false").await;
    closed.ask("/auth/otp", json!({ "email": "new@example.com" })).await;
    assert_eq!(closed.unsent(1).await, ["no_account"]);
    assert_eq!(closed.letters.count(), 0);
}

#[tokio::test]
async fn opening_a_link_does_nothing_and_its_button_does() {
    let post = Post::start("").await;
    post.confirmed("ann").await;
    let wanted = "https://shop.example.com/in/basket?a=b";
    let target = format!("/auth/recover?redirect_to={wanted}");
    post.ask(&target, json!({ "email": "ann@example.com" })).await;
    let letter = post.letter("ann@example.com", "recovery").await;
    assert_eq!(letter.redirect_to, wanted);

    let query = format!("?token={}&type=recovery&redirect_to={wanted}", letter.token);
    for method in ["GET", "HEAD", "GET", "HEAD", "GET"] {
        let page = post.gateway.request(method, &format!("/auth/verify{query}")).send().await;
        let page = page.expect(200);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(page.header("referrer-policy"), Some("same-origin"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.contains("form-action 'self' https://shop.example.com;"), "{policy}");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(method == "HEAD" || page.text().contains(&letter.token));
        assert!(!page.text().contains("<script"));
    }
    for (name, value) in [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
        // Of a browser that says no more.
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
    ] {
        let foreign = post.gateway.post("/auth/verify").header(name, value);
        let foreign = foreign.header("Content-Type", "application/x-www-form-urlencoded");
        let foreign = foreign.body(format!("token={}&type=recovery", letter.token)).send().await;
        foreign.expect_problem(403, "origin_denied");
    }
    // The origin of `tokens.issuer`: nothing is wrong with this form but its token.
    let old = post.gateway.post("/auth/verify").header("Origin", "http://127.0.0.1:8080");
    let old = old.header("Content-Type", "application/x-www-form-urlencoded");
    sent_to(&old.body("token=x&type=recovery").send().await);

    // What the row says counts, not what the form says.
    let pressed = post.press(&letter, "recovery", "&redirect_to=https://app.example.com/x").await;
    let (place, told) = sent_to(&pressed);
    assert_eq!(place, wanted);
    let told_keys: Vec<_> = told.keys().map(String::as_str).collect();
    let keys =
        ["access_token", "expires_at", "expires_in", "refresh_token", "sb", "token_type", "type"];
    assert_eq!(told_keys, keys);
    assert_eq!(told["type"], "recovery");
    post.gateway.get_as(&told["access_token"], "/auth/user").await.expect(200);
    post.gateway.refresh(&told["refresh_token"]).await.expect(200);

    let again = post.press(&letter, "recovery", "&redirect_to=https://evil.example/").await;
    let (place, told) = sent_to(&again);
    assert!(
        place.starts_with("https://app.example.com/?error=access_denied&error_code=otp_expired")
    );
    assert_eq!(told["error_code"], "otp_expired");

    for incomplete in ["", "?token=x", "?type=recovery", "?token=x&type=pkce"] {
        let page = post.gateway.get(&format!("/auth/verify{incomplete}")).send().await.expect(400);
        assert!(page.text().contains("incomplete"), "{incomplete}");
    }
}

#[tokio::test]
async fn without_the_page_a_link_works_at_once() {
    let post = Post::start("[links]\nconfirm_page = false").await;
    post.confirmed("ann").await;
    post.ask("/auth/recover", json!({ "email": "ann@example.com" })).await;
    let letter = post.letter("ann@example.com", "recovery").await;
    let target = format!("/auth/verify?token={}&type=recovery", letter.token);
    post.gateway.request("HEAD", &target).send().await.expect(200);
    let (place, told) = sent_to(&post.gateway.get(&target).send().await);
    assert_eq!(place, SITE);
    assert!(told.contains_key("access_token"));
}

#[tokio::test]
async fn a_place_that_is_not_allowed_becomes_the_site() {
    let post = Post::start("").await;
    post.confirmed("ann").await;
    for evil in
        ["https://evil.example/", "javascript:alert(1)", "https://app.example.com@evil.example"]
    {
        let target = format!("/auth/recover?redirect_to={evil}");
        post.ask(&target, json!({ "email": "ann@example.com" })).await;
        let letter = post.letter("ann@example.com", "recovery").await;
        assert_eq!(letter.redirect_to, SITE, "{evil}");
        let page = format!("/auth/verify?token={}&type=recovery&redirect_to={evil}", letter.token);
        let page = post.gateway.get(&page).send().await.expect(200);
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.contains("form-action 'self' https://app.example.com;"), "{policy}");
        let (place, _) = sent_to(&post.press(&letter, "recovery", "").await);
        assert_eq!(place, SITE, "{evil}");
        post.gateway.advance(Duration::from_secs(61));
    }
}

#[tokio::test]
async fn a_client_with_a_challenge_gets_a_code_for_its_verifier() {
    let post = Post::start("").await;
    post.confirmed("ann").await;
    let body = json!({
        "email": "ann@example.com", "code_challenge": CHALLENGE, "code_challenge_method": "s256",
    });
    let code = async || {
        post.ask("/auth/otp", body.clone()).await;
        let letter = post.letter("ann@example.com", "magic_link").await;
        let (place, told) = sent_to(&post.press(&letter, "magiclink", "").await);
        assert!(told.is_empty(), "no token in the address: {told:?}");
        post.gateway.advance(Duration::from_secs(61));
        place.strip_prefix("https://app.example.com/?code=").expect("a code").to_owned()
    };
    let trade = async |code: &str, verifier: &str| {
        let body = json!({ "auth_code": code, "code_verifier": verifier });
        post.gateway.post_json("/auth/token?grant_type=pkce", &body).await
    };
    let good = code().await;
    let session = trade(&good, VERIFIER).await.expect(200).json();
    assert_eq!(session["user"]["email"], "ann@example.com");
    trade(&good, VERIFIER).await.expect_problem(404, "flow_state_not_found");
    trade("x", VERIFIER).await.expect_problem(404, "flow_state_not_found");
    let lost = code().await;
    trade(&lost, CHALLENGE).await.expect_problem(400, "bad_code_verifier");
    trade(&lost, VERIFIER).await.expect_problem(404, "flow_state_not_found");
    let late = code().await;
    post.gateway.advance(Duration::from_mins(5));
    trade(&late, VERIFIER).await.expect_problem(422, "flow_state_expired");
}

async fn wish(post: &Post, caller: &Caller, email: &str) -> Answer {
    let change = post.gateway.request("PUT", "/auth/user").bearer(&caller.token);
    change.json(&json!({ "email": email })).send().await
}

#[tokio::test]
async fn both_addresses_agree_to_a_change_and_the_former_is_told() {
    let post = Post::start("").await;
    let ann = post.confirmed("ann").await;
    let user = wish(&post, &ann, "New@example.com").await.expect(200).json();
    assert_eq!(
        (&user["email"], &user["new_email"]),
        (&json!("ann@example.com"), &json!("New@example.com"))
    );
    let letters = post.two_letters().await;
    let (current, new) = (&letters["email_change_current"], &letters["email_change_new"]);
    assert_eq!((&*current.to, &*new.to), ("ann@example.com", "New@example.com"));

    // Once more, by the present address. The first ones are void then.
    post.gateway.advance(Duration::from_secs(61));
    post.ask("/auth/resend", json!({ "type": "email_change", "email": "ann@example.com" })).await;
    let again = post.two_letters().await;
    for old in [current, new] {
        post.show("email_change", old).await.expect_problem(403, "otp_expired");
    }
    let (current, new) = (&again["email_change_current"], &again["email_change_new"]);
    assert_eq!((&*current.to, &*new.to), ("ann@example.com", "New@example.com"));
    for nobody in ["bob@example.com", "New@example.com"] {
        post.ask("/auth/resend", json!({ "type": "email_change", "email": nobody })).await;
    }
    assert_eq!(post.unsent(4).await, ["no_account"; 4]);

    let half = post.show("email_change", new).await.expect(200).json();
    assert_eq!(half["code"], "200");
    assert!(half["msg"].is_string() && half.get("access_token").is_none());
    let session = post.show("email_change", current).await.expect(200).json();
    assert_eq!(session["user"]["email"], "New@example.com");
    assert_eq!(session["user"]["new_email"], Value::Null);
    post.letter("ann@example.com", "email_changed").await;
    post.gateway.log_in("new@example.com", PASSWORD).await.expect(200);
    post.gateway
        .log_in("ann@example.com", PASSWORD)
        .await
        .expect_problem(401, "invalid_credentials");
}

/// Strangers who guess cannot keep the owner out, who may be in a new place.
#[tokio::test]
async fn a_mailed_link_lets_in_where_failed_logins_block_and_makes_the_place_known() {
    let post = Post::start("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]").await;
    let ann = post.confirmed("ann").await;
    let from = |target: &str, address: &str, body: Value| {
        post.gateway.post(target).header("X-Forwarded-For", address).json(&body).send()
    };
    let right = json!({ "email": ann.email, "password": PASSWORD });
    for (kind, target, address) in
        [("recovery", "/auth/recover", "198.51.100.1"), ("magiclink", "/auth/otp", "2001:db8::1")]
    {
        for _ in 0..5 {
            let wrong = json!({ "email": ann.email, "password": "x" });
            from("/auth/login", "203.0.113.1", wrong).await.expect(401);
        }
        let refused = from("/auth/login", address, right.clone()).await;
        refused.expect_problem(429, "over_request_rate_limit");
        from(target, address, json!({ "email": ann.email })).await.expect(200);
        let word = if kind == "magiclink" { "magic_link" } else { kind };
        let letter = post.letter(&ann.email, word).await;
        let shown = json!({ "type": kind, "token_hash": letter.token });
        from("/auth/verify", address, shown).await.expect(200);
        from("/auth/login", address, right.clone()).await.expect(200);
        let refused = from("/auth/login", "192.0.2.1", right.clone()).await;
        refused.expect_problem(429, "over_request_rate_limit");
        post.gateway.advance(Duration::from_hours(25));
    }
}

#[tokio::test]
async fn where_it_is_enough_the_new_address_alone_agrees_by_code() {
    let post = Post::start("[links]\nemail_change = \"new\"").await;
    let ann = post.confirmed("ann").await;
    wish(&post, &ann, "new@example.com").await.expect(200);
    let letter = post.letter("new@example.com", "email_change_new").await;
    let code = json!({ "type": "email_change", "email": "new@example.com", "token": letter.code });
    let session = post.verify(code).await.expect(200).json();
    assert_eq!(session["user"]["email"], "new@example.com");
    post.letter("ann@example.com", "email_changed").await;
}

#[tokio::test]
async fn whoever_wants_a_taken_address_is_not_told() {
    let post = Post::start("").await;
    let ann = post.confirmed("ann").await;
    post.confirmed("bob").await;
    let user = wish(&post, &ann, "bob@example.com").await.expect(200).json();
    assert_eq!(user["new_email"], "bob@example.com");
    let letters = post.two_letters().await;
    assert_eq!(letters["already_registered"].to, "bob@example.com");
    post.show("email_change", &letters["email_change_current"]).await.expect(200);
    until_events(&post.gateway.store(), EventKind::MailSent, 2).await;
    let seen = post.gateway.get_as(&ann.token, "/auth/events").await.expect(200).text();
    assert!(!seen.contains("already_registered") && !seen.contains("email_change_new"), "{seen}");
    let user = post.gateway.get_as(&ann.token, "/auth/user").await.expect(200).json();
    assert_eq!(user["email"], "ann@example.com");
}

#[tokio::test]
async fn an_old_login_proves_itself_again_by_a_code() {
    let post = Post::start("[tokens]\naccess_lifetime = \"48h\"").await;
    let ann = post.confirmed("ann").await;
    post.gateway.advance(Duration::from_hours(25));
    wish(&post, &ann, "new@example.com").await.expect_problem(400, "reauthentication_needed");
    let answer = post.gateway.get_as(&ann.token, "/auth/reauthenticate").await.expect(200);
    assert_eq!(answer.json(), json!({}));
    let letter = post.letter("ann@example.com", "reauthentication").await;
    assert_eq!((&*letter.token, letter.code.len()), ("", 6));
    let change = async |nonce: &str| {
        let change = post.gateway.request("PUT", "/auth/user").bearer(&ann.token);
        change.json(&json!({ "password": NEW_PASSWORD, "nonce": nonce })).send().await
    };
    let wrong = if letter.code == "000000" { "000001" } else { "000000" };
    change(wrong).await.expect_problem(422, "reauthentication_not_valid");
    change(&letter.code).await.expect(200);
    change(&letter.code).await.expect_problem(422, "reauthentication_not_valid");
    post.gateway.log_in("ann@example.com", NEW_PASSWORD).await.expect(200);
    let unproved = post.gateway.sign_up("bob").await;
    let refused = post.gateway.get_as(&unproved.token, "/auth/reauthenticate").await;
    refused.expect_problem(400, "email_not_confirmed");
}

#[tokio::test]
async fn administrators_invite_and_others_do_not() {
    let post = Post::start("[signup]\nenabled = false").await;
    let store = post.gateway.store();
    let invite = async |caller: &Caller, email: &str| {
        let invite = post.gateway.post("/auth/invite").bearer(&caller.token);
        invite.json(&json!({ "email": email, "data": { "team": 7 } })).send().await
    };
    post.gateway.configure("[signup]\nenabled = true");
    post.gateway.reload().await.expect(200);
    let ann = post.confirmed("ann").await;
    invite(&ann, "new@example.com").await.expect_problem(403, "not_admin");
    let now = post.gateway.clock.now();
    let id = ann.id.parse().expect("a user id");
    let changed = noted(EventKind::RolesChanged, now);
    store.set_roles(&id, &["admin".to_owned()], now, &changed).await.expect("stored").expect("ann");
    let user = invite(&ann, "new@example.com").await.expect(200).json();
    assert_eq!(user["email"], "new@example.com");
    assert!(user["invited_at"].is_string());
    let letter = post.letter("new@example.com", "invite").await;
    let session = post.show("invite", &letter).await.expect(200).json();
    assert_eq!(session["user"]["user_metadata"], json!({ "team": 7 }));
    assert_eq!(session["user"]["id"], user["id"], "the id that was told");
    let begun = events_of(&store, EventKind::UserCreated).await;
    let begun = &begun.last().expect("the beginning of the account").event;
    assert_eq!(begun.actor.as_deref(), Some(&*ann.id));
    assert_eq!(begun.user_id.as_ref().map(model::UserId::as_str), user["id"].as_str());
    invite(&ann, "new@example.com").await.expect_problem(422, "email_exists");
    let invited = events_of(&store, EventKind::Invited).await;
    assert_eq!(invited[0].event.actor.as_deref(), Some(&*ann.id));
    assert_eq!(invited[0].event.user_id, begun.user_id);

    let banned = json!({ "email": "off@example.com", "ban_duration": "1h" });
    let banned = post.gateway.post("/auth/admin/users").bearer(&ann.token).json(&banned);
    banned.send().await.expect(200);
    invite(&ann, "off@example.com").await.expect_problem(422, "user_banned");
}

#[tokio::test]
async fn a_link_to_recover_leaves_a_sign_up_that_waits_its_password() {
    let post = Post::start("").await;
    let root = post.confirmed("root").await;
    give(&post.gateway, &root.id, &["admin"]).await;
    post.gateway.configure(
        "[signup]
confirm_email = true",
    );
    post.gateway.reload().await.expect(200);
    post.gateway.try_sign_up("new@example.com").await.expect(200);
    let letter = post.letter("new@example.com", "confirmation").await;
    let link = json!({ "type": "recovery", "email": "new@example.com" });
    let made = post.gateway.post("/auth/admin/generate_link").bearer(&root.token).json(&link);
    made.send().await.expect(200);
    post.show("signup", &letter).await.expect(200);
    post.gateway.log_in("new@example.com", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn letters_are_limited_for_each_address_known_or_not() {
    let post =
        Post::start("[limits]\nmail_account = { rate = \"4/hour\", by = \"account\" }").await;
    post.confirmed("ann").await;
    for name in ["ann", "nobody"] {
        let body = json!({ "email": format!("{name}@example.com") });
        for target in ["/auth/recover", "/auth/otp", "/auth/magiclink", "/auth/recover"] {
            post.ask(target, body.clone()).await;
        }
        let over = post.gateway.post_json("/auth/recover", &body).await;
        over.expect_problem(429, "over_email_send_rate_limit");
        assert!(over.header("retry-after").is_some());
    }
    let code = json!({ "type": "email", "email": "ann@example.com", "token": "1234567" });
    for _ in 0..10 {
        post.verify(code.clone()).await.expect_problem(403, "otp_expired");
    }
    post.verify(code).await.expect_problem(429, "over_request_rate_limit");
}

#[tokio::test]
async fn strangers_use_up_no_link_and_no_code_of_who_is_logged_in() {
    let post = Post::start(
        "[limits]\nmail_account = { rate = \"4/hour\", by = \"account\" }\n\
         verify_account = { rate = \"10/hour\", by = \"account\" }\n\
         verify = { rate = \"100/minute\", by = \"ip\" }",
    )
    .await;
    let ann = post.confirmed("ann").await;
    let body = json!({ "email": "ann@example.com" });
    post.ask("/auth/recover", body.clone()).await;
    let letter = post.letter("ann@example.com", "recovery").await;
    // Somebody else asks for letters and tries codes until the limits of the address are used up.
    for _ in 0..3 {
        post.ask("/auth/recover", body.clone()).await;
    }
    assert_eq!(post.unsent(3).await, ["too_soon"; 3]);
    let over = post.gateway.post_json("/auth/otp", &body).await;
    over.expect_problem(429, "over_email_send_rate_limit");
    let code = json!({ "type": "recovery", "email": "ann@example.com", "token": "1234567" });
    for _ in 0..10 {
        post.verify(code.clone()).await.expect_problem(403, "otp_expired");
    }
    post.verify(code).await.expect_problem(429, "over_request_rate_limit");

    post.gateway.get_as(&ann.token, "/auth/reauthenticate").await.expect(200);
    let nonce = post.letter("ann@example.com", "reauthentication").await.code;
    let change = post.gateway.request("PUT", "/auth/user").bearer(&ann.token);
    change.json(&json!({ "email": "new@example.com", "nonce": nonce })).send().await.expect(200);
    post.two_letters().await;
    post.show("recovery", &letter).await.expect(200);
    // It has a limit all the same.
    for _ in 0..3 {
        post.gateway.get_as(&ann.token, "/auth/reauthenticate").await.expect(200);
    }
    let over = post.gateway.get_as(&ann.token, "/auth/reauthenticate").await;
    over.expect_problem(429, "over_email_send_rate_limit");
}

#[tokio::test]
async fn without_mail_nothing_that_needs_it_can_be_asked_for() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder().upstream("app", &upstream).start().await;
    let ann = gateway.sign_up("ann").await;
    for (target, body) in [
        ("/auth/recover", json!({ "email": "ann@example.com" })),
        ("/auth/otp", json!({ "email": "ann@example.com" })),
        ("/auth/magiclink", json!({ "email": "nobody@example.com" })),
        ("/auth/resend", json!({ "type": "signup", "email": "ann@example.com" })),
    ] {
        gateway.post_json(target, &body).await.expect_problem(422, "email_provider_disabled");
    }
    let phone = gateway.post_json("/auth/otp", &json!({ "phone": "+49" })).await;
    phone.expect_problem(400, "phone_provider_disabled");
    let change = gateway.request("PUT", "/auth/user").bearer(&ann.token);
    let change = change.json(&json!({ "email": "new@example.com" })).send().await;
    change.expect_problem(422, "email_provider_disabled");
    assert!(gateway.store().outbox_state().await.expect("read").is_empty());
}

#[tokio::test]
async fn tokens_and_codes_are_nowhere_but_in_the_letter() {
    let post = Post::start("").await;
    post.confirmed("ann").await;
    post.ask("/auth/recover", json!({ "email": "ann@example.com" })).await;
    let letter = post.letter("ann@example.com", "recovery").await;
    let query = format!("?token={}&type=recovery", letter.token);
    post.gateway.get(&format!("/auth/verify{query}")).send().await.expect(200);
    until_events(&post.gateway.store(), EventKind::MailSent, 1).await;
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    for file in ["portcullis.db", "portcullis.db-wal"] {
        let bytes = std::fs::read(post.gateway.file(file)).unwrap_or_default();
        assert!(!holds(&bytes, &letter.token), "{file}");
    }
    assert!(!post.gateway.log_text().contains(&letter.token));
}

#[tokio::test]
async fn a_letter_that_did_not_leave_is_tried_again_and_given_up_in_the_end() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let letters = Upstream::scripted(move |_| {
        let status = match counted.fetch_add(1, SeqCst) {
            0 => "503 Later",
            1 => "200 OK",
            _ => "400 Never",
        };
        reply(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}"))
    })
    .await;
    let post = Post::with(letters, "").await;
    post.confirmed("ann").await;
    post.ask("/auth/recover", json!({ "email": "ann@example.com" })).await;
    let first = post.letter("ann@example.com", "recovery").await;
    let store = post.gateway.store();
    let waiting =
        async || store.outbox_state().await.expect("read").first().map_or(0, |s| s.waiting);
    assert_eq!(waiting().await, 1);
    // Until it is due again nothing comes.
    while post.letters.count() < 2 {
        post.gateway.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = post.letter("ann@example.com", "recovery").await;
    assert_ne!(first.token, second.token, "the first may have been read on its way");
    until_events(&store, EventKind::MailSent, 1).await;
    post.show("recovery", &first).await.expect_problem(403, "otp_expired");
    post.show("recovery", &second).await.expect(200);

    post.gateway.advance(Duration::from_secs(61));
    post.ask("/auth/recover", json!({ "email": "ann@example.com" })).await;
    post.letter("ann@example.com", "recovery").await;
    assert_eq!(post.unsent(1).await, ["refused"]);
    let state = store.outbox_state().await.expect("read");
    assert_eq!((state[0].waiting, state[0].failed), (0, 1));
}

#[tokio::test]
async fn a_letter_of_a_gateway_that_died_is_sent_by_another_once() {
    let post = Post::start("").await;
    post.confirmed("ann").await;
    let store = post.gateway.store();
    let later = |seconds| post.gateway.clock.now() + Duration::from_secs(seconds);
    // Due when the gateway's own clock is not there yet, so that only the test can claim it.
    let ann = "ann@example.com".parse().expect("an address");
    let letter = model::Letter::new(LetterKind::Recovery, ann, LetterOrigin::default());
    let id = uuid_v7(later(10));
    let parcel = NewParcel { id, parcel: Parcel::Mail(letter), at: later(10) };
    store.post(&[parcel], &[]).await.expect("stored");
    let lease = Duration::from_secs(40);
    let claimed = store.claim(ParcelKind::Mail, later(10), lease, 10).await.expect("claimed");
    assert_eq!(claimed.len(), 1);
    post.gateway.advance(Duration::from_secs(49));
    post.ask("/auth/recover", json!({ "email": "nobody@example.com" })).await;
    assert_eq!(post.unsent(1).await, ["no_account"]);
    assert_eq!(post.letters.count(), 0, "it is still claimed");
    post.gateway.advance(Duration::from_secs(2));
    let letter = post.letter("ann@example.com", "recovery").await;
    post.show("recovery", &letter).await.expect(200);
    until_events(&store, EventKind::MailSent, 1).await;
    assert_eq!(post.letters.count(), 1);
}
