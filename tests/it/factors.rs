//! Second factors through the socket: an authenticator app, the account endpoints, and what routes
//! make of tokens with and without one.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::model::{EventKind, Outcome, UserId};
use serde_json::{Value, json};

use crate::harness::{
    Answer, Caller, PASSWORD, Program, Request, TestGateway, Upstream, events_of, patiently, pause,
    reply, until_events,
};

/// Routes for whoever has a token, programs, whoever has shown a second factor, whoever has lately.
const ROUTES: &str = r#"
[limits]
factor = { rate = "1000/minute", by = "user" }
[[routes]]
path = "/plain"
upstream = "app"
[[routes]]
path = "/optional"
upstream = "app"
access = "optional"
[[routes]]
path = "/public"
upstream = "app"
access = "public"
[[routes]]
path = "/jobs"
upstream = "app"
api_keys = true
[[routes]]
path = "/safe"
upstream = "app"
require_aal2 = true
[[routes]]
path = "/fresh"
upstream = "app"
max_age = "5m"
[[routes]]
path = "/both"
upstream = "app"
require_aal2 = true
max_age = "5m"
"#;

const STEP: Duration = Duration::from_secs(30);

/// What a user has installed on a telephone, by RFC 6238 and a second hand.
pub(crate) struct App {
    pub(crate) factor: String,
    secret: Vec<u8>,
}

impl App {
    /// An app that has scanned the answer to an enrolment.
    pub(crate) fn of(enrolled: &Value) -> Self {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        Self {
            factor: text(&enrolled["id"]),
            secret: from_base32(&text(&enrolled["totp"]["secret"])),
        }
    }

    /// The code that it shows `steps` from now.
    pub(crate) fn code(&self, gateway: &TestGateway, steps: i64) -> String {
        let counter = gateway.clock.now().as_second() / 30 + steps;
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.secret);
        let mac = hmac::sign(&key, &counter.to_be_bytes());
        let mac = mac.as_ref();
        let at = usize::from(mac[19] & 15);
        let word = u32::from_be_bytes([mac[at] & 0x7f, mac[at + 1], mac[at + 2], mac[at + 3]]);
        format!("{:06}", word % 1_000_000)
    }
}

/// RFC 4648 §6
fn from_base32(text: &str) -> Vec<u8> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for c in text.chars() {
        let value = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".find(c).expect("base32");
        bits = bits << 5 | u32::try_from(value).expect("below 32");
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 255).expect("a byte"));
        }
    }
    bytes
}

/// The claims of an access token.
fn claims(token: &str) -> Value {
    let text = token.split('.').nth(1).expect("a payload");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64url")).expect("JSON")
}

async fn start(upstream: &Upstream, config: &str) -> TestGateway {
    let gateway = TestGateway::builder().upstream("app", upstream).config(ROUTES);
    gateway.config(config).start().await
}

impl TestGateway {
    async fn post_as(&self, who: &Caller, target: &str, body: &Value) -> Answer {
        self.post(target).bearer(&who.token).json(body).send().await
    }

    async fn enrol(&self, who: &Caller, name: &str) -> App {
        let body = json!({ "factor_type": "totp", "friendly_name": name });
        App::of(&self.post_as(who, "/auth/factors", &body).await.expect(200).json())
    }

    async fn challenge(&self, who: &Caller, app: &App) -> String {
        let target = format!("/auth/factors/{}/challenge", app.factor);
        let challenge = self.post(&target).bearer(&who.token).send().await.expect(200).json();
        challenge["id"].as_str().expect("an id").to_owned()
    }

    async fn answer(&self, who: &Caller, app: &App, challenge: &str, code: &str) -> Answer {
        let target = format!("/auth/factors/{}/verify", app.factor);
        let body = json!({ "challenge_id": challenge, "code": code, "factor_id": app.factor });
        self.post_as(who, &target, &body).await
    }

    /// Shows the app's present code for a fresh challenge. A code is good once, so that time passes.
    async fn show(&self, who: &Caller, app: &App) -> Caller {
        self.advance(STEP);
        let challenge = self.challenge(who, app).await;
        let shown = self.answer(who, app, &challenge, &app.code(self, 0)).await;
        Caller::from_session(&shown.expect(200).json())
    }

    /// Somebody with a verified factor, in a session that has shown it.
    async fn protected(&self, name: &str) -> (Caller, App) {
        let caller = self.sign_up(name).await;
        let app = self.enrol(&caller, "phone").await;
        (self.show(&caller, &app).await, app)
    }

    async fn log_in_again(&self, who: &Caller) -> Caller {
        Caller::from_session(&self.log_in(&who.email, PASSWORD).await.expect(200).json())
    }

    async fn unenrol(&self, who: &Caller, app: &App) -> Answer {
        let target = format!("/auth/factors/{}", app.factor);
        self.request("DELETE", &target).bearer(&who.token).send().await
    }

    async fn recovery_codes(&self, who: &Caller) -> Vec<String> {
        let made = self.post("/auth/factors/recovery_codes").bearer(&who.token).send().await;
        let codes = made.expect(200).json();
        let codes = codes["recovery_codes"].as_array().expect("a list").iter();
        codes.map(|code| code.as_str().expect("text").to_owned()).collect()
    }
}

/// Checks that the answer asks for a second factor (RFC 9470 §3), as it does on routes and endpoints.
#[track_caller]
fn expect_step_up(answer: &Answer, asked: &str) {
    answer.expect_problem(401, "insufficient_aal");
    let challenge = answer.header("www-authenticate").expect("a challenge");
    let (fixed, parameters) = challenge.split_once("error_description=\"").expect(challenge);
    assert_eq!(fixed, "Bearer realm=\"portcullis\", error=\"insufficient_user_authentication\", ");
    assert_eq!(parameters.split_once("\", ").map(|(_, asked)| asked), Some(asked), "{challenge}");
}

const AAL2: &str = "acr_values=\"aal2\"";

#[tokio::test]
async fn from_the_enrolment_of_a_factor_to_the_next_login() {
    let upstream = Upstream::echo().await;
    let gateway = start(&upstream, "[links]\nsite_url = \"https://app.example.com\"").await;
    let ann = gateway.sign_up("ann").await;
    let elsewhere = gateway.log_in_again(&ann).await;
    gateway.get_as(&elsewhere.token, "/plain").await.expect(200);

    let body = json!({ "factor_type": "totp", "friendly_name": "Ann's phone" });
    let enrolled = gateway.post_as(&ann, "/auth/factors", &body).await.expect(200).json();
    assert_eq!(
        (&enrolled["type"], &enrolled["friendly_name"]),
        (&json!("totp"), &json!("Ann's phone"))
    );
    let totp = &enrolled["totp"];
    let secret = totp["secret"].as_str().expect("text");
    assert_eq!(secret.len(), 32);
    assert_eq!(
        totp["uri"],
        format!(
            "otpauth://totp/app.example.com:ann@example.com?secret={secret}&\
             issuer=app.example.com&algorithm=SHA1&digits=6&period=30"
        )
    );
    let picture = totp["qr_code"].as_str().expect("text");
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>"), "{picture}");
    assert!(!picture.contains(['#', '%']), "clients put it into an address as it is");
    let id = enrolled["id"].as_str().expect("an id").to_owned();
    let app = App { factor: id.clone(), secret: from_base32(secret) };

    // It counts for nothing yet.
    let user = gateway.get_as(&ann.token, "/auth/user").await.expect(200).json();
    assert_eq!(user["factors"].as_array().map(Vec::len), Some(1));
    let factor = &user["factors"][0];
    assert_eq!((&factor["id"], &factor["status"]), (&json!(id), &json!("unverified")));
    assert_eq!(
        (&factor["factor_type"], &factor["phone"], &factor["last_challenged_at"]),
        (&json!("totp"), &json!(""), &Value::Null)
    );
    let plain = gateway.log_in_again(&ann).await;
    assert_eq!(claims(&plain.token)["aal"], "aal1");
    gateway.get_as(&plain.token, "/plain").await.expect(200);

    let target = format!("/auth/factors/{id}/challenge");
    let challenge = gateway.post_as(&ann, &target, &json!({ "channel": null })).await;
    let challenge = challenge.expect(200).json();
    let in_five_minutes = gateway.clock.now().as_second() + 300;
    assert_eq!(
        (&challenge["type"], &challenge["expires_at"]),
        (&json!("totp"), &json!(in_five_minutes))
    );
    let challenge = challenge["id"].as_str().expect("an id");
    let shown = gateway.answer(&ann, &app, challenge, &app.code(&gateway, 0)).await.expect(200);
    let session = shown.json();
    let strong = Caller::from_session(&session);
    let (before, after) = (claims(&ann.token), claims(&strong.token));
    assert_eq!(after["session_id"], before["session_id"], "the session goes on");
    assert_eq!((&before["aal"], &after["aal"]), (&json!("aal1"), &json!("aal2")));
    assert_eq!(after.get("mfa_pending"), None);
    let methods: Vec<_> = after["amr"].as_array().expect("a list").iter().collect();
    assert_eq!(
        (&methods[0]["method"], &methods[1]["method"]),
        (&json!("totp"), &json!("password"))
    );
    assert_eq!(session["user"]["factors"][0]["status"], "verified");

    // Nobody has shown the factor in the other sessions, so they are over at once; and whoever has
    // an earlier refresh token of this one has nothing.
    for other in [&elsewhere, &plain] {
        gateway.get_as(&other.token, "/plain").await.expect_problem(401, "session_not_found");
        gateway.refresh(&other.refresh_token).await.expect_problem(400, "session_expired");
    }
    gateway.refresh(&ann.refresh_token).await.expect_problem(400, "refresh_token_not_found");
    for target in ["/plain", "/safe", "/fresh", "/both"] {
        gateway.get_as(&strong.token, target).await.expect(200);
    }
    let refreshed = gateway.refresh(&strong.refresh_token).await.expect(200).json();
    let strong = Caller::from_session(&refreshed);
    assert_eq!(claims(&strong.token)["aal"], "aal2");
    let sessions = gateway.get_as(&strong.token, "/auth/sessions").await.expect(200).json();
    assert_eq!(sessions["sessions"][0]["aal"], "aal2");

    // The next login is half of one.
    let half = gateway.log_in_again(&ann).await;
    let told = claims(&half.token);
    assert_eq!((&told["aal"], &told["mfa_pending"]), (&json!("aal1"), &json!(true)));
    let asked = upstream.count();
    for target in ["/plain", "/plain", "/optional", "/safe", "/fresh", "/both"] {
        // The second time the token is one that was seen before.
        expect_step_up(&gateway.get_as(&half.token, target).await, AAL2);
    }
    assert_eq!(upstream.count(), asked, "none of them reached the upstream");
    gateway.get_as(&half.token, "/public").await.expect(200);
    gateway.get_as(&half.token, "/auth/user").await.expect(200);
    let refreshed = gateway.refresh(&half.refresh_token).await.expect(200).json();
    let half = Caller::from_session(&refreshed);
    expect_step_up(&gateway.get_as(&half.token, "/plain").await, AAL2);
    let whole = gateway.show(&half, &app).await;
    gateway.get_as(&whole.token, "/safe").await.expect(200);
    gateway.get_as(&strong.token, "/safe").await.expect(200);

    let store = gateway.store();
    let enrolled = events_of(&store, EventKind::FactorEnrolled).await;
    assert_eq!(enrolled.len(), 1);
    assert_eq!(enrolled[0].event.user_id.as_ref().map(UserId::as_str), Some(&*ann.id));
    assert_eq!(events_of(&store, EventKind::FactorVerified).await.len(), 2);
    let denied = until_events(&store, EventKind::AccessDenied, 1).await;
    assert!(denied.iter().any(|d| d.event.reason.as_deref() == Some("insufficient_aal")));
}

#[tokio::test]
async fn a_code_is_good_once_for_a_minute_and_a_half() {
    let upstream = Upstream::echo().await;
    let gateway = start(&upstream, "").await;
    let (ann, app) = gateway.protected("ann").await;
    let used = app.code(&gateway, 0);
    for (steps, good) in [(-1, false), (0, false), (2, false), (1, true), (1, false)] {
        let challenge = gateway.challenge(&ann, &app).await;
        let answer = gateway.answer(&ann, &app, &challenge, &app.code(&gateway, steps)).await;
        if good {
            answer.expect(200);
        } else {
            answer.expect_problem(422, "mfa_verification_failed");
        }
    }
    gateway.advance(STEP * 4);
    // The step before this one was not used, and its code is on somebody's screen still.
    let challenge = gateway.challenge(&ann, &app).await;
    gateway
        .answer(&ann, &app, &challenge, &app.code(&gateway, -2))
        .await
        .expect_problem(422, "mfa_verification_failed");
    let spaced = format!(" {} ", app.code(&gateway, -1));
    gateway.answer(&ann, &app, &challenge, &spaced).await.expect(200);

    let challenge = gateway.challenge(&ann, &app).await;
    for odd in
        ["0", "0000000", "abcdef", "１23456", &used, "aaaa-bbbb-cccc-dddd", &"9".repeat(1000)]
    {
        let fresh = gateway.challenge(&ann, &app).await;
        gateway
            .answer(&ann, &app, &fresh, odd)
            .await
            .expect_problem(422, "mfa_verification_failed");
    }
    gateway.answer(&ann, &app, &challenge, "").await.expect_problem(422, "validation_failed");
    let mut failures = events_of(&gateway.store(), EventKind::FactorFailed).await;
    // Those of one moment have no order in time.
    failures.sort_by_key(|stored| stored.number);
    let reasons: Vec<_> =
        failures.iter().map(|stored| stored.event.reason.as_deref().expect("a reason")).collect();
    assert_eq!(reasons[..5], ["replayed", "replayed", "wrong_code", "replayed", "wrong_code"]);
    assert_eq!(reasons[reasons.len() - 2..], ["wrong_recovery_code", "wrong_code"]);
    assert!(failures.iter().all(|stored| stored.event.outcome == Outcome::Failure));
}

#[tokio::test]
async fn a_challenge_is_for_its_session_and_factor_and_has_an_end() {
    let upstream = Upstream::echo().await;
    let gateway = start(&upstream, "[factors]\nchallenge_lifetime = \"1m\"").await;
    let (ann, app) = gateway.protected("ann").await;
    let (bob, bobs) = gateway.protected("bob").await;
    gateway.advance(STEP);
    let challenge = gateway.challenge(&ann, &app).await;
    let other = gateway.log_in_again(&ann).await;
    let code = || app.code(&gateway, 0);
    gateway
        .answer(&other, &app, &challenge, &code())
        .await
        .expect_problem(422, "mfa_challenge_expired");
    gateway
        .answer(&bob, &app, &challenge, &code())
        .await
        .expect_problem(404, "mfa_factor_not_found");
    gateway
        .answer(&ann, &bobs, &challenge, &code())
        .await
        .expect_problem(404, "mfa_factor_not_found");
    let unknown = uuid::Uuid::nil().to_string();
    gateway
        .answer(&ann, &app, &unknown, &code())
        .await
        .expect_problem(422, "mfa_challenge_expired");
    gateway.answer(&ann, &app, "7", &code()).await.expect_problem(422, "validation_failed");
    gateway.advance(Duration::from_mins(1));
    gateway
        .answer(&ann, &app, &challenge, &code())
        .await
        .expect_problem(422, "mfa_challenge_expired");

    let challenge = gateway.challenge(&ann, &app).await;
    for _ in 0..5 {
        gateway
            .answer(&ann, &app, &challenge, "x")
            .await
            .expect_problem(422, "mfa_verification_failed");
    }
    gateway
        .answer(&ann, &app, &challenge, &code())
        .await
        .expect_problem(422, "mfa_challenge_expired");
    let challenge = gateway.challenge(&ann, &app).await;
    gateway.answer(&ann, &app, &challenge, &code()).await.expect(200);
    gateway
        .answer(&ann, &app, &challenge, &app.code(&gateway, 1))
        .await
        .expect_problem(422, "mfa_challenge_expired");

    for id in ["00000000-0000-4000-8000-000000000000", "7", "recovery_codes"] {
        let target = format!("/auth/factors/{id}/challenge");
        let answer = gateway.post(&target).bearer(&ann.token).send().await;
        answer.expect_problem(404, "mfa_factor_not_found");
        let target = format!("/auth/factors/{id}");
        let answer = gateway.request("DELETE", &target).bearer(&ann.token).send().await;
        answer.expect_problem(404, "mfa_factor_not_found");
    }
}

#[tokio::test]
async fn guessing_is_counted_slowed_down_and_never_a_lock() {
    let upstream = Upstream::echo().await;
    let gateway = start(&upstream, "").await;
    let (ann, app) = gateway.protected("ann").await;
    let codes = gateway.recovery_codes(&ann).await;
    let thief = gateway.log_in_again(&ann).await;
    for _ in 0..10 {
        let challenge = gateway.challenge(&thief, &app).await;
        gateway
            .answer(&thief, &app, &challenge, "x")
            .await
            .expect_problem(422, "mfa_verification_failed");
    }
    // The owner waits a little, but a recovery code does not, nor does who is in already.
    let owner = gateway.log_in_again(&ann).await;
    let challenge = gateway.challenge(&owner, &app).await;
    let waits = gateway.answer(&owner, &app, &challenge, &app.code(&gateway, 1)).await;
    waits.expect_problem(429, "over_request_rate_limit");
    assert_eq!(waits.header("retry-after"), Some("30"));
    gateway.get_as(&ann.token, "/safe").await.expect(200);
    gateway.answer(&owner, &app, &challenge, &codes[0]).await.expect(200);
    let challenge = gateway.challenge(&owner, &app).await;
    gateway.answer(&owner, &app, &challenge, &app.code(&gateway, 1)).await.expect(200);

    // And there is a limit for each user, known as any other.
    let gateway = TestGateway::in_front_of(&upstream).await;
    let bob = gateway.sign_up("bob").await;
    let eve = gateway.sign_up("eve").await;
    let app = gateway.enrol(&bob, "").await;
    for _ in 0..9 {
        gateway.challenge(&bob, &app).await;
    }
    let target = format!("/auth/factors/{}/challenge", app.factor);
    let over = gateway.post(&target).bearer(&bob.token).send().await;
    over.expect_problem(429, "over_request_rate_limit");
    assert!(over.header("ratelimit").is_some_and(|limit| limit.starts_with("\"factor\"")));
    gateway.enrol(&eve, "").await;
    gateway.advance(Duration::from_mins(1));
    gateway.challenge(&bob, &app).await;
}

#[tokio::test]
async fn a_recovery_code_stands_in_for_a_lost_factor_once() {
    let letters =
        Upstream::scripted(|_| reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
    let upstream = Upstream::echo().await;
    let mail = format!(
        "[mail]\ntransport = \"webhook\"\n[mail.webhook]\nurl = \"{}\"\n\
         secret = \"0123456789abcdef0123456789abcdef\"\n",
        letters.url()
    );
    let gateway = start(&upstream, &mail).await;
    let plain = gateway.sign_up("bob").await;
    let refused = gateway.post("/auth/factors/recovery_codes").bearer(&plain.token).send().await;
    expect_step_up(&refused, AAL2);

    let (ann, app) = gateway.protected("ann").await;
    let old = gateway.recovery_codes(&ann).await;
    let codes = gateway.recovery_codes(&ann).await;
    assert_eq!(codes.len(), 10);
    let half = gateway.log_in_again(&ann).await;
    let refused = gateway.post("/auth/factors/recovery_codes").bearer(&half.token).send().await;
    expect_step_up(&refused, AAL2);
    let challenge = gateway.challenge(&half, &app).await;
    gateway
        .answer(&half, &app, &challenge, &old[0])
        .await
        .expect_problem(422, "mfa_verification_failed");
    let typed = codes[0].to_uppercase().replace('-', " ");
    let shown = gateway.answer(&half, &app, &challenge, &typed).await.expect(200).json();
    let whole = Caller::from_session(&shown);
    let told = claims(&whole.token);
    assert_eq!(
        (&told["aal"], &told["amr"][0]["method"]),
        (&json!("aal2"), &json!("recovery_code"))
    );
    gateway.get_as(&whole.token, "/safe").await.expect(200);
    let challenge = gateway.challenge(&whole, &app).await;
    gateway
        .answer(&whole, &app, &challenge, &codes[0])
        .await
        .expect_problem(422, "mfa_verification_failed");

    // What a thief would do next shows in the mailbox.
    gateway.unenrol(&whole, &app).await.expect(200);
    letters.until("the letters", |seen| seen.len() == 3).await;
    let mut kinds: Vec<_> = letters
        .seen()
        .iter()
        .map(|seen| {
            let body: Value = serde_json::from_slice(&seen.body).expect("JSON");
            assert_eq!(body["to"], "ann@example.com");
            body["letter"].as_str().expect("text").to_owned()
        })
        .collect();
    kinds.sort();
    assert_eq!(kinds, ["factor_added", "factor_removed", "recovery_code_used"]);
    let store = gateway.store();
    assert_eq!(events_of(&store, EventKind::RecoveryCodesMade).await.len(), 2);
    assert_eq!(events_of(&store, EventKind::RecoveryCodeUsed).await.len(), 1);
    // The database holds nothing that could be shown.
    let file = std::fs::read(gateway.file("portcullis.db")).expect("a file");
    let log = std::fs::read(gateway.file("portcullis.db-wal")).unwrap_or_default();
    for code in codes {
        let bare = code.replace('-', "");
        for text in [&code, &bare, &bare.to_uppercase()] {
            let holds =
                |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(!holds(&file) && !holds(&log), "{text} is in the database");
        }
    }
}

#[tokio::test]
async fn routes_ask_for_a_second_factor_and_for_fresh_proofs() {
    let upstream = Upstream::echo().await;
    let gateway = start(&upstream, "").await;
    let ann = gateway.sign_up("ann").await;
    gateway.get_as(&ann.token, "/fresh").await.expect(200);
    // Without a factor there is none to show; the answer says what is missing all the same.
    expect_step_up(&gateway.get_as(&ann.token, "/safe").await, AAL2);
    expect_step_up(
        &gateway.get_as(&ann.token, "/both").await,
        "acr_values=\"aal2\", max_age=\"300\"",
    );
    let app = gateway.enrol(&ann, "phone").await;
    let strong = gateway.show(&ann, &app).await;
    for target in ["/safe", "/fresh", "/both"] {
        gateway.get_as(&strong.token, target).await.expect(200);
    }
    gateway.advance(Duration::from_mins(5));
    gateway.get_as(&strong.token, "/both").await.expect(200);
    gateway.advance(Duration::from_secs(1));
    gateway.get_as(&strong.token, "/safe").await.expect(200);
    expect_step_up(&gateway.get_as(&strong.token, "/fresh").await, "max_age=\"300\"");
    expect_step_up(
        &gateway.get_as(&strong.token, "/both").await,
        "acr_values=\"aal2\", max_age=\"300\"",
    );
    // A refresh proves nothing; a code does.
    let refreshed = gateway.refresh(&strong.refresh_token).await.expect(200).json();
    let strong = Caller::from_session(&refreshed);
    expect_step_up(&gateway.get_as(&strong.token, "/fresh").await, "max_age=\"300\"");
    let strong = gateway.show(&strong, &app).await;
    gateway.get_as(&strong.token, "/both").await.expect(200);
    let line = gateway.log_line(|line| line["reason"] == "insufficient_aal").await;
    assert_eq!((&line["decision"], &line["status"]), (&json!("deny"), &json!(401)));
}

#[tokio::test]
async fn only_our_own_tokens_say_how_their_user_is_known() {
    let upstream = Upstream::echo().await;
    let routes = "[[routes]]\npath = \"/any\"\nupstream = \"app\"\nissuers = [\"self\", \"corp\"]";
    let builder = TestGateway::builder().upstream("app", &upstream).known_secret();
    let gateway = builder.foreign_issuer().config(routes).start().await;
    let foreign = gateway.foreign_token("u-1").claim("mfa_pending", true).claim("aal", 7);
    gateway.get_as(&foreign.sign(), "/any").await.expect(200);
    let ours = gateway.token("u-1");
    gateway.get_as(&ours.sign(), "/any").await.expect(200);
    let pending = gateway.token("u-1").claim("mfa_pending", true);
    expect_step_up(&gateway.get_as(&pending.sign(), "/any").await, AAL2);
    for odd in [ours.clone().claim("aal", "aal9"), ours.claim("mfa_pending", "yes")] {
        gateway.get_as(&odd.sign(), "/any").await.expect_problem(401, "bad_jwt");
    }
}

#[tokio::test]
async fn enforcement_can_be_switched_off_and_on_again() {
    let upstream = Upstream::echo().await;
    let gateway = start(&upstream, "[factors]\nenforce = false").await;
    let (ann, _) = gateway.protected("ann").await;
    let half = gateway.log_in_again(&ann).await;
    gateway.get_as(&half.token, "/plain").await.expect(200);
    expect_step_up(&gateway.get_as(&half.token, "/safe").await, AAL2);
    gateway.configure("[factors]\nenforce = true");
    gateway.reload().await.expect(200);
    expect_step_up(&gateway.get_as(&half.token, "/plain").await, AAL2);
    gateway.get_as(&ann.token, "/plain").await.expect(200);
}

#[tokio::test]
async fn neither_password_nor_mailbox_passes_the_second_factor() {
    let letters =
        Upstream::scripted(|_| reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
    let upstream = Upstream::echo().await;
    let mail = format!(
        "[mail]\ntransport = \"webhook\"\n[mail.webhook]\nurl = \"{}\"\n\
         secret = \"0123456789abcdef0123456789abcdef\"\n",
        letters.url()
    );
    let gateway = start(&upstream, &mail).await;
    let (ann, app) = gateway.protected("ann").await;
    let id = ann.id.parse().expect("a user id");
    let confirmed = crate::harness::noted(EventKind::UserConfirmed, gateway.clock.now());
    gateway.store().confirm_email(&id, gateway.clock.now(), &confirmed).await.expect("stored");
    letters.until("a notice", |seen| seen.len() == 1).await;

    gateway.post_json("/auth/recover", &json!({ "email": ann.email })).await.expect(200);
    letters.until("a letter", |seen| seen.len() == 2).await;
    let body: Value = serde_json::from_slice(&letters.seen()[1].body).expect("JSON");
    let token = &body["email_data"]["token_hash"];
    let shown = json!({ "type": "recovery", "token_hash": token });
    let mailbox = gateway.post_json("/auth/verify", &shown).await.expect(200).json();
    let mailbox = Caller::from_session(&mailbox);
    assert_eq!(claims(&mailbox.token)["mfa_pending"], true);
    expect_step_up(&gateway.get_as(&mailbox.token, "/plain").await, AAL2);

    let password = gateway.log_in_again(&ann).await;
    for who in [&mailbox, &password] {
        for change in [
            json!({ "password": "Other-Plover-9-Ladder", "current_password": PASSWORD }),
            json!({ "password": "Other-Plover-9-Ladder" }),
            json!({ "email": "eve@example.com", "current_password": PASSWORD }),
        ] {
            let put = gateway.request("PUT", "/auth/user").bearer(&who.token).json(&change);
            expect_step_up(&put.send().await, AAL2);
        }
        let put = gateway.request("PUT", "/auth/user").bearer(&who.token);
        put.json(&json!({ "data": { "theme": "dark" } })).send().await.expect(200);
        let enrol = json!({ "factor_type": "totp", "friendly_name": "mine" });
        expect_step_up(&gateway.post_as(who, "/auth/factors", &enrol).await, AAL2);
        expect_step_up(&gateway.unenrol(who, &app).await, AAL2);
    }
    // With the factor shown, the link of the letter does what it is for.
    let owner = gateway.show(&mailbox, &app).await;
    let put = gateway.request("PUT", "/auth/user").bearer(&owner.token);
    put.json(&json!({ "password": "Other-Plover-9-Ladder" })).send().await.expect(200);
    let again = gateway.log_in("ann@example.com", "Other-Plover-9-Ladder").await.expect(200).json();
    assert_eq!(claims(again["access_token"].as_str().expect("text"))["mfa_pending"], true);
}

#[tokio::test]
async fn a_token_from_before_the_factor_was_shown_changes_nothing() {
    let upstream = Upstream::echo().await;
    let gateway = start(&upstream, "[api_keys]\nself_service = true").await;
    let stolen = gateway.sign_up("ann").await;
    let app = gateway.enrol(&stolen, "phone").await;
    let ann = gateway.show(&stolen, &app).await;
    // It is of the same session, which has shown the factor since.
    gateway.get_as(&stolen.token, "/plain").await.expect(200);
    for change in [
        json!({ "password": "Other-Plover-9-Ladder", "current_password": PASSWORD }),
        json!({ "email": "eve@example.com", "current_password": PASSWORD }),
    ] {
        let put = gateway.request("PUT", "/auth/user").bearer(&stolen.token).json(&change);
        expect_step_up(&put.send().await, AAL2);
    }
    let enrol = json!({ "factor_type": "totp", "friendly_name": "mine" });
    expect_step_up(&gateway.post_as(&stolen, "/auth/factors", &enrol).await, AAL2);
    let key = json!({ "name": "a job", "scopes": [] });
    expect_step_up(&gateway.post_as(&stolen, "/auth/api_keys", &key).await, AAL2);
    let codes = gateway.post_as(&stolen, "/auth/factors/recovery_codes", &json!({})).await;
    expect_step_up(&codes, AAL2);
    expect_step_up(&gateway.unenrol(&stolen, &app).await, AAL2);
    let key = gateway.post_as(&ann, "/auth/api_keys", &key).await.expect(201).json();

    // Programs have no second factor; they act where the route takes them, and nowhere else.
    let key = key["key"].as_str().expect("text");
    gateway.get_as(key, "/jobs").await.expect(200);
    gateway.get_as(key, "/safe").await.expect_problem(401, "api_key_not_accepted");
    gateway.unenrol(&ann, &app).await.expect(200);
}

#[tokio::test]
async fn administrators_invite_with_their_factor_only() {
    let upstream = Upstream::echo().await;
    let gateway = start(
        &upstream,
        "[mail]\ntransport = \"webhook\"\n[mail.webhook]\n\
        url = \"http://127.0.0.1:9\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n",
    )
    .await;
    let (ann, _) = gateway.protected("ann").await;
    let id = ann.id.parse().expect("a user id");
    let roles = ["admin".to_owned()];
    let set = crate::harness::noted(EventKind::RolesChanged, gateway.clock.now());
    gateway.store().set_roles(&id, &roles, gateway.clock.now(), &set).await.expect("stored");
    let body = json!({ "email": "new@example.com" });
    let half = gateway.log_in_again(&ann).await;
    expect_step_up(&gateway.post_as(&half, "/auth/invite", &body).await, AAL2);
    gateway.post_as(&ann, "/auth/invite", &body).await.expect(200);
}

#[tokio::test]
async fn removing_a_factor_ends_where_it_was_shown_and_lowers_the_rest() {
    let upstream = Upstream::echo().await;
    let gateway = start(&upstream, "").await;
    let (ann, app) = gateway.protected("ann").await;
    let other = gateway.log_in_again(&ann).await;
    let other = gateway.show(&other, &app).await;
    let half = gateway.log_in_again(&ann).await;
    assert_eq!(gateway.unenrol(&ann, &app).await.expect(200).json(), json!({ "id": app.factor }));
    gateway.unenrol(&ann, &app).await.expect_problem(404, "mfa_factor_not_found");
    gateway.get_as(&other.token, "/plain").await.expect_problem(401, "session_not_found");
    // What is running runs on at its own level; tokens of it say the lower one.
    gateway.get_as(&ann.token, "/safe").await.expect(200);
    let refreshed = gateway.refresh(&ann.refresh_token).await.expect(200).json();
    let lowered = Caller::from_session(&refreshed);
    let told = claims(&lowered.token);
    assert_eq!((&told["aal"], told.get("mfa_pending")), (&json!("aal1"), None));
    assert_eq!(told["amr"].as_array().map(Vec::len), Some(1));
    gateway.get_as(&lowered.token, "/plain").await.expect(200);
    expect_step_up(&gateway.get_as(&lowered.token, "/safe").await, AAL2);
    // Half a login becomes a whole one, as there is nothing more to show.
    expect_step_up(&gateway.get_as(&half.token, "/plain").await, AAL2);
    let refreshed = gateway.refresh(&half.refresh_token).await.expect(200).json();
    gateway.get_as(&Caller::from_session(&refreshed).token, "/plain").await.expect(200);
    assert_eq!(refreshed["user"]["factors"], json!([]));
    assert_eq!(events_of(&gateway.store(), EventKind::FactorRemoved).await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_enrolled_is_told_apart() {
    let upstream = Upstream::echo().await;
    let gateway = start(&upstream, "[factors]\nmax = 3\nissuer = \"Shop & Co\"").await;
    let ann = gateway.sign_up("ann").await;
    let long = "x".repeat(65);
    for (body, status, code) in [
        (json!({}), 422, "validation_failed"),
        (json!({ "factor_type": "sms" }), 422, "validation_failed"),
        (json!({ "factor_type": "totp", "friendly_name": 7 }), 422, "validation_failed"),
        (json!({ "factor_type": "totp", "friendly_name": long }), 422, "validation_failed"),
        (json!({ "factor_type": "totp", "friendly_name": "a\nb" }), 422, "validation_failed"),
        (json!({ "factor_type": "totp", "issuer": long }), 422, "validation_failed"),
        (json!({ "factor_type": "phone", "phone": "+49" }), 422, "mfa_phone_enroll_not_enabled"),
        (json!({ "factor_type": "webauthn" }), 422, "mfa_webauthn_enroll_not_enabled"),
    ] {
        let refused = gateway.post_as(&ann, "/auth/factors", &body).await;
        refused.expect_problem(status, code);
    }
    gateway
        .post("/auth/factors")
        .json(&json!({ "factor_type": "totp" }))
        .send()
        .await
        .expect_problem(401, "no_authorization");
    let form = gateway.post("/auth/factors").bearer(&ann.token);
    let form = form.header("Content-Type", "application/x-www-form-urlencoded");
    form.body("factor_type=totp").send().await.expect_problem(415, "unsupported_media_type");

    let body = json!({ "factor_type": "totp", "friendly_name": "phone" });
    let enrolled = gateway.post_as(&ann, "/auth/factors", &body).await.expect(200).json();
    let uri = enrolled["totp"]["uri"].as_str().expect("text");
    assert!(uri.starts_with("otpauth://totp/Shop%20%26%20Co:ann@example.com?"), "{uri}");
    let taken = gateway.post_as(&ann, "/auth/factors", &body).await;
    taken.expect_problem(422, "mfa_factor_name_conflict");
    let unnamed = json!({ "factor_type": "totp", "issuer": "Corner: shop" });
    let enrolled = gateway.post_as(&ann, "/auth/factors", &unnamed).await.expect(200).json();
    assert_eq!(enrolled["friendly_name"], "");
    let uri = enrolled["totp"]["uri"].as_str().expect("text");
    assert!(uri.starts_with("otpauth://totp/Corner%3A%20shop:ann@example.com?"), "{uri}");
    gateway.post_as(&ann, "/auth/factors", &unnamed).await.expect(200);
    let refused = gateway.post_as(&ann, "/auth/factors", &unnamed).await;
    refused.expect_problem(422, "too_many_enrolled_mfa_factors");
    // What nobody scanned is forgotten.
    gateway.advance(Duration::from_secs(601));
    gateway.post_as(&ann, "/auth/factors", &body).await.expect(200);

    // Whoever has stolen a session must not keep its owner out.
    let bob = gateway.sign_up("bob").await;
    gateway.advance(Duration::from_hours(24));
    let refreshed = gateway.refresh(&bob.refresh_token).await.expect(200).json();
    let old = Caller::from_session(&refreshed);
    let refused = gateway.post_as(&old, "/auth/factors", &unnamed).await;
    refused.expect_problem(400, "reauthentication_needed");
    let bob = gateway.log_in_again(&bob).await;
    let app = gateway.enrol(&bob, "phone").await;
    let strong = gateway.show(&bob, &app).await;
    gateway.configure("[factors]\nenabled = false");
    gateway.reload().await.expect(200);
    let refused = gateway.post_as(&strong, "/auth/factors", &unnamed).await;
    refused.expect_problem(422, "mfa_totp_enroll_not_enabled");
    // Switched off means no new ones: those that are there protect on.
    let half = gateway.log_in_again(&bob).await;
    expect_step_up(&gateway.get_as(&half.token, "/plain").await, AAL2);
    gateway.show(&half, &app).await;
}

#[tokio::test]
async fn an_administrator_shows_factors_and_takes_a_lost_one_away() {
    let upstream = Upstream::echo().await;
    let program =
        Program::of(TestGateway::builder().upstream("app", &upstream).config(ROUTES)).await;
    program.run(&["migrate"]).await.expect(0);
    let running = program.serve().await;
    let ask = |method: &str, target: &str| Request::new(program.public, method, target);
    let body = json!({ "email": "ann@example.com", "password": PASSWORD });
    let ann = ask("POST", "/auth/signup").json(&body).send().await.expect(201).json();
    let ann = Caller::from_session(&ann);
    let body = json!({ "factor_type": "totp", "friendly_name": "phone" });
    let enrolled = ask("POST", "/auth/factors").bearer(&ann.token).json(&body).send().await;
    let id = enrolled.expect(200).json()["id"].as_str().expect("an id").to_owned();

    let listed = program.run(&["users", "factors", "ann@example.com", "--json"]).await.expect(0);
    let listed = listed.json_lines();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["id"], &listed[0]["status"]), (&json!(id), &json!("unverified")));
    let table = program.run(&["users", "factors", &ann.id]).await.expect(0);
    assert!(table.stdout.contains(&id) && table.stdout.contains("phone"), "{table}");
    assert!(!table.stdout.to_lowercase().contains("secret"), "{table}");

    let nil = uuid::Uuid::nil().to_string();
    let told = program.run(&["users", "factors", &ann.id, "--remove", &nil]).await.expect(1);
    assert!(told.stderr.contains("has no factor"), "{told}");
    program.run(&["users", "factors", &ann.id, "--remove", "phone"]).await.expect(2);
    program.run(&["users", "factors", "nobody"]).await.expect(1);
    // One that protects nothing ends nothing.
    let told = program.run(&["users", "factors", &ann.id, "--remove", &id]).await.expect(0);
    assert!(told.stdout.contains("ended 0 sessions"), "{told}");
    ask("GET", "/plain").bearer(&ann.token).send().await.expect(200);

    let enrolled = ask("POST", "/auth/factors").bearer(&ann.token).json(&body).send().await;
    let id = enrolled.expect(200).json()["id"].as_str().expect("an id").to_owned();
    let store = crate::harness::open_store(&program.sqlite_url());
    let connection = rusqlite::Connection::open(program.folder().join("portcullis.db"));
    connection
        .expect("the file opens")
        .execute("UPDATE factors SET verified_at = created_at", [])
        .expect("it is ours");
    let told = program.run(&["users", "factors", &ann.id, "--remove", &id]).await.expect(0);
    assert!(told.stdout.contains("ended 1 sessions"), "{told}");
    patiently("the session's end", async {
        while ask("GET", "/plain").bearer(&ann.token).send().await.status != 401 {
            pause().await;
        }
    })
    .await;
    let removed = events_of(&store, EventKind::FactorRemoved).await;
    assert_eq!(removed.len(), 2);
    assert!(removed.iter().all(|stored| stored.event.actor.as_deref() == Some("cli")));
    running.kill();
}

#[tokio::test]
async fn explain_knows_what_a_route_asks_for() {
    let upstream = Upstream::echo().await;
    let program =
        Program::of(TestGateway::builder().upstream("app", &upstream).config(ROUTES)).await;
    let told = program.run(&["explain", "GET", "/safe", "--as", "u-1"]).await.expect(1);
    assert!(told.stdout.contains("refused: 401 insufficient_aal"), "{told}");
    let told = program.run(&["explain", "GET", "/both", "--as", "u-1", "--aal2"]).await.expect(0);
    assert!(told.stdout.contains("step-up"), "{told}");
    let told = program.run(&["check"]).await.expect(0);
    assert!(told.stdout.contains("second factor, proved within 300 s"), "{told}");
}
