//! A changed configuration, taken while the gateway runs: by whom, all or nothing, and without a
//! request that fails or passes because of it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{
    Answer, Builder, Caller, Client, Gate, Issuer, PASSWORD, Program, Request, Running, Seen, Step,
    TestGateway, Upstream, patiently, pause, reply, write,
};

/// `/a` and `/b` lead to `app`.
const TWO_ROUTES: &str = r#"
[[routes]]
path = "/a"
upstream = "app"
access = "public"
[[routes]]
path = "/b"
upstream = "app"
access = "public"
"#;

/// Only `/a` does.
const ONE_ROUTE: &str = r#"
[[routes]]
path = "/a"
upstream = "app"
access = "public"
"#;

#[track_caller]
fn expect_result(answer: &Answer, status: u16, result: &str) -> Value {
    let told = answer.json();
    assert_eq!((answer.status, &told["result"]), (status, &json!(result)), "{told}");
    told
}

async fn reloaded(gateway: &TestGateway, config: &str) -> Value {
    gateway.configure(config);
    expect_result(&gateway.reload().await, 200, "reloaded")
}

async fn config_of(admin: SocketAddr) -> Value {
    Request::new(admin, "GET", "/config").send().await.expect(200).json()
}

/// Waits until the last reload is one of which `wanted` is true.
async fn until_attempt(admin: SocketAddr, wanted: impl Fn(&Value) -> bool) -> Value {
    patiently("a reload", async {
        loop {
            let config = config_of(admin).await;
            if wanted(&config["last_attempt"]) {
                return config;
            }
            pause().await;
        }
    })
    .await
}

async fn metric(gateway: &TestGateway, name: &str) -> f64 {
    let text = gateway.admin_get("/metrics").await.expect(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("portcullis_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().expect("a number")
}

#[tokio::test]
async fn a_request_to_the_admin_listener_reloads_and_says_what_is_live() {
    let upstream = Upstream::echo().await;
    let gateway =
        TestGateway::builder().upstream("app", &upstream).config(TWO_ROUTES).start().await;
    let mut old_connection = gateway.connect().await;
    gateway.get("/b").send_over(&mut old_connection).await.expect(200);
    let first = config_of(gateway.admin).await;
    assert_eq!(first["last_attempt"], Value::Null, "{first}");
    assert!(first["loaded_at"].is_string(), "{first}");

    let told = expect_result(&gateway.reload().await, 200, "unchanged");
    assert_eq!(told, json!({"result": "unchanged", "version": first["version"], "warnings": []}));
    let told = reloaded(&gateway, ONE_ROUTE).await;
    assert_ne!(told["version"], first["version"]);
    gateway.get("/a").send().await.expect(200);
    gateway.get("/b").send().await.expect_problem(404, "no_route");
    // A connection that was there before is no way round it.
    gateway.get("/b").send_over(&mut old_connection).await.expect_problem(404, "no_route");
    gateway.get("/a").send_over(&mut old_connection).await.expect(200);

    let config = config_of(gateway.admin).await;
    assert_eq!(config["version"], told["version"]);
    let last = &config["last_attempt"];
    assert_eq!((&last["result"], &last["trigger"]), (&json!("reloaded"), &json!("request")));
    assert_eq!(last["errors"], json!([]));
    assert!(last["at"].is_string());
    let again = reloaded(&gateway, TWO_ROUTES).await;
    assert_eq!(again["version"], first["version"], "the same configuration has the same version");
    gateway.get("/b").send().await.expect(200);

    let text = gateway.admin_get("/metrics").await.text();
    for line in [
        "portcullis_config_reloads_total{result=\"reloaded\"} 2".to_owned(),
        "portcullis_config_reloads_total{result=\"unchanged\"} 1".to_owned(),
        "portcullis_config_reloads_total{result=\"refused\"} 0".to_owned(),
        "portcullis_config_last_reload_successful 1".to_owned(),
        format!("portcullis_config_info{{version={}}} 1", first["version"]),
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}

#[tokio::test]
async fn only_a_post_reloads_and_none_that_a_page_sends() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let answer = gateway.admin_get("/reload").await.expect(405);
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = Request::new(gateway.admin, "POST", "/config").send().await.expect(405);
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    let page = Request::new(gateway.admin, "POST", "/reload").header("Origin", "http://a.example");
    page.send().await.expect(403);
    for target in ["/config", "/reload"] {
        gateway.post(target).send().await.expect_problem(404, "no_route");
    }
    assert_eq!(config_of(gateway.admin).await["last_attempt"], Value::Null);
}

#[tokio::test]
async fn a_configuration_with_a_mistake_is_refused_as_a_whole() {
    let upstream = Upstream::echo().await;
    let gateway =
        TestGateway::builder().upstream("app", &upstream).config(TWO_ROUTES).start().await;
    let live = config_of(gateway.admin).await["version"].clone();
    let good = std::fs::read_to_string(gateway.file("portcullis.toml")).expect("it is there");
    let lost_route = good.replace("path = \"/b\"", "path = \"/c\"");
    let line_after = good.lines().count() + 1;
    for (change, expected) in [
        ("[nonsense", format!("portcullis.toml:{line_after}:10: TOML syntax")),
        ("[nonsense]\na = 1", format!("portcullis.toml:{line_after}:2: nonsense: ")),
        (
            "[[routes]]\npath = \"/d\"\nupstream = \"none\"",
            format!("portcullis.toml:{}:1: routes[2].upstream: ", line_after + 2),
        ),
        (
            "[[tests]]\nrequest = \"GET /a\"\nexpect = 401",
            format!("portcullis.toml:{line_after}:1: tests[0]: `GET /a`: expected 401, got allow"),
        ),
        (
            "[[issuers]]\nname = \"i\"\nissuer = \"i\"\naudience = \"a\"\nalgorithms = [\"RS256\"]\n\
             key_file = \"/nowhere/at/all\"",
            format!("portcullis.toml:{}:1: issuers[0].key_file: ", line_after + 5),
        ),
        // Only a restart takes it, but a restart would fail on it.
        (
            "[tokens]\nleeway = \"1h\"",
            format!("portcullis.toml:{}:1: tokens.leeway", line_after + 1),
        ),
    ] {
        // With every mistake comes a change that would be fine by itself.
        gateway.write_config(format!("{lost_route}{change}"));
        let told = expect_result(&gateway.reload().await, 422, "refused");
        assert_eq!(told["version"], live);
        let errors = told["errors"].as_array().expect("a list");
        let folder = gateway.file("").display().to_string();
        let errors: Vec<_> = errors
            .iter()
            .map(|error| error.as_str().expect("text").strip_prefix(&folder).expect("its file"))
            .collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(&expected), "{errors:?}\nnot\n{expected}");

        let config = config_of(gateway.admin).await;
        assert_eq!(config["version"], live);
        assert_eq!(config["last_attempt"]["result"], "refused");
        assert_eq!(config["last_attempt"]["errors"], told["errors"]);
        assert!(metric(&gateway, "config_last_reload_successful").await < 0.5);
        gateway.get("/b").send().await.expect(200);
        gateway.get("/c").send().await.expect(404);
    }
    std::fs::remove_file(gateway.file("portcullis.toml")).expect("it is there");
    expect_result(&gateway.reload().await, 422, "refused");
    gateway.write_config(lost_route);
    expect_result(&gateway.reload().await, 200, "reloaded");
    assert!(metric(&gateway, "config_last_reload_successful").await > 0.5);
    gateway.get("/b").send().await.expect(404);
    gateway.get("/c").send().await.expect(200);
}

#[tokio::test]
async fn a_refusal_repeats_no_secret() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let secret = "short-but-secret";
    gateway.configure(&format!("[tokens]\nsecret = \"{secret}\""));
    let told = gateway.reload().await.expect(422).text();
    let config = gateway.admin_get("/config").await.text();
    assert!(told.contains("tokens.secret"), "{told}");
    assert!(!told.contains(secret) && !config.contains(secret), "{told}\n{config}");
}

#[tokio::test]
async fn reloads_at_the_same_time_are_one_after_another() {
    let upstream = Upstream::echo().await;
    let gateway =
        TestGateway::builder().upstream("app", &upstream).config(TWO_ROUTES).start().await;
    gateway.configure(ONE_ROUTE);
    let all = (0..10).map(|_| gateway.reload());
    let answers = futures_util::future::join_all(all).await;
    let count =
        |result: &str| answers.iter().filter(|answer| answer.json()["result"] == result).count();
    assert_eq!((count("reloaded"), count("unchanged")), (1, 9));
}

#[tokio::test]
async fn keys_that_only_a_restart_takes_are_named_and_stay() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    let live = config_of(gateway.admin).await["version"].clone();
    let token = gateway.token("u1").sign();
    gateway.configure(
        "[server]\nworkers = 3\nauth_prefix = \"/accounts\"\n[tokens]\nissuer = \"other\"",
    );
    let told = expect_result(&gateway.reload().await, 200, "unchanged");
    assert_eq!(told["version"], live);
    let warnings = told["warnings"].as_array().expect("a list");
    let warns = |warning: &Value, key: &str| {
        warning.as_str().is_some_and(|text| {
            text.contains("portcullis.toml:") && text.contains(&format!(": {key}: has changed"))
        })
    };
    let keys = ["server.workers", "server.auth_prefix", "tokens.issuer"];
    assert_eq!(warnings.len(), keys.len(), "{warnings:?}");
    assert!(warnings.iter().zip(keys).all(|(warning, key)| warns(warning, key)), "{warnings:?}");
    // They come with others that are taken.
    gateway.configure("[server]\nworkers = 3\n[signup]\nenabled = false");
    let told = expect_result(&gateway.reload().await, 200, "reloaded");
    assert_eq!(told["warnings"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(config_of(gateway.admin).await["last_attempt"]["warnings"], told["warnings"]);

    gateway.get("/auth/health").send().await.expect(200);
    gateway.get("/accounts/health").send().await.expect(404);
    gateway.get("/private/a").bearer(&token).send().await.expect(200);
    let told = reloaded(&gateway, "").await;
    assert_eq!((&told["warnings"], &told["version"]), (&json!([]), &live));
}

#[tokio::test]
async fn what_rests_on_a_key_that_waits_for_a_restart_waits_with_it() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::in_front_of(&upstream).await;
    gateway.configure(
        "[signup]\nconfirm_email = true\n[mail]\ntransport = \"smtp\"\n\
         url = \"smtps://mail.example.com\"\nfrom = \"a@example.com\"",
    );
    let told = expect_result(&gateway.reload().await, 422, "refused");
    let errors = told["errors"].to_string();
    assert!(errors.contains("signup.confirm_email: needs letters"), "{errors}");
    assert!(errors.contains("needs a restart, as mail.transport, mail.url, mail.from"), "{errors}");
    // Nobody is kept out by a letter that would never come.
    let session = gateway.sign_up("ann").await;
    gateway.get_as(&session.token, "/auth/user").await.expect(200);
}

#[tokio::test]
async fn everything_else_takes_effect() {
    let (one, other) = (Upstream::echo().await, Upstream::echo().await);
    let gateway = TestGateway::in_front_of(&one).await;
    let token = gateway.token("u1").sign();
    let private = || gateway.get("/private/a").bearer(&token).send();
    let seen = |upstream: &Upstream| upstream.last();

    private().await.expect(200);
    assert_eq!(seen(&one).header("x-user-id"), Some("u1"));
    reloaded(&gateway, "[identity_headers]\nuser_id = \"X-Caller\"").await;
    private().await.expect(200);
    assert_eq!((seen(&one).header("x-user-id"), seen(&one).header("x-caller")), (None, Some("u1")));

    reloaded(&gateway, "[cors]\nallowed_origins = [\"https://a.example\"]").await;
    for target in ["/public/a", "/auth/health"] {
        let answer = gateway.get(target).header("Origin", "https://a.example").send().await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
    }

    let client_of = |field: &'static str| {
        let request = gateway.get("/public/a").header("X-Forwarded-For", "192.0.2.7");
        request.header("Forwarded", "for=192.0.2.8").header("User-Agent", field).send()
    };
    for (config, expected) in [
        ("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]", "192.0.2.7"),
        (
            "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\nforwarded_header = \"forwarded\"",
            "192.0.2.8",
        ),
        ("", "127.0.0.1"),
    ] {
        reloaded(&gateway, config).await;
        client_of(expected).await.expect(200);
        let line = gateway.log_line(|line| line["user_agent"] == expected).await;
        assert_eq!(line["client"], expected);
    }

    gateway.post("/public/a").body("12345").send().await.expect(200);
    reloaded(&gateway, "[server]\nmax_body_bytes = \"4\"").await;
    gateway.post("/public/a").body("12345").send().await.expect(413);

    let sign_up = |name: &str| {
        let body = json!({ "email": format!("{name}@example.com"), "password": PASSWORD });
        gateway.post("/auth/signup").json(&body).send()
    };
    sign_up("ann").await.expect(201);
    reloaded(&gateway, "[signup]\nenabled = false").await;
    sign_up("bob").await.expect_problem(403, "signup_disabled");
    let settings = gateway.get("/auth/settings").send().await.json();
    assert_eq!(settings["disable_signup"], true, "{settings}");

    let servers = |upstream: &Upstream, host: &str| {
        format!("[upstreams.app]\nservers = [\"{}\"]\nhost = \"{host}\"", upstream.url())
    };
    reloaded(&gateway, &servers(&one, "upstream")).await;
    private().await.expect(200);
    assert_eq!(seen(&one).header("host").map(|host| format!("http://{host}")), Some(one.url()));
    reloaded(&gateway, &servers(&other, "preserve")).await;
    assert_eq!(other.count(), 0);
    private().await.expect(200);
    assert_eq!(other.count(), 1);
}

/// With an issuer for each name, whose secrets are in files of the gateway.
fn with_issuers(folder: &Path, names: &[&str]) -> String {
    names.iter().fold(String::new(), |text, name| {
        let key_file = folder.join(format!("{name}.key"));
        text + &format!(
            "[[issuers]]\nname = \"{name}\"\nissuer = \"https://{name}.example/\"\n\
             audience = \"api\"\nalgorithms = [\"HS256\"]\nkey_file = \"{}\"\n",
            key_file.display()
        )
    })
}

/// The issuer of that name.
fn issuer(name: &str) -> Issuer {
    let mut issuer = Issuer::foreign();
    issuer.name = format!("https://{name}.example/");
    issuer.secret = format!("the-secret-of-{name}-0123456789abcdefghijklm").into();
    issuer
}

fn write_key(folder: &Path, file: &str, issuer: &Issuer) {
    std::fs::write(folder.join(file), &issuer.secret).expect("the folder is ours");
}

/// A route for tokens of `corp` only, one for our own, one for everybody.
const ISSUER_ROUTES: &str = r#"
[[routes]]
path = "/corp"
upstream = "app"
issuers = ["corp"]
[[routes]]
path = "/ours"
upstream = "app"
[[routes]]
path = "/all"
upstream = "app"
access = "public"
"#;

fn of_issuers(upstream: &Upstream, names: &[&str]) -> Builder {
    let builder = TestGateway::builder().upstream("app", upstream).known_secret();
    for name in ["corp", "other"] {
        write_key(builder.folder(), &format!("{name}.key"), &issuer(name));
    }
    let config = with_issuers(builder.folder(), names);
    builder.config(&config)
}

#[tokio::test]
async fn issuers_come_and_go_and_change_their_keys() {
    let upstream = Upstream::echo().await;
    let gateway = of_issuers(&upstream, &["other"]).start().await;
    let folder = gateway.file("");
    let now = gateway.clock.now();
    let (corp, other) = (issuer("corp").token("u1", now).sign(), issuer("other").token("u1", now));
    let get = |target: &str, token: &str| gateway.get(target).bearer(token).send();
    get("/private/a", &corp).await.expect(401);

    let with_corp = with_issuers(&folder, &["other", "corp"]) + ISSUER_ROUTES;
    reloaded(&gateway, &with_corp).await;
    get("/corp", &corp).await.expect(200);
    get("/corp", &other.sign()).await.expect(401);
    // Moved to the place that `other` had.
    reloaded(&gateway, &(with_issuers(&folder, &["corp", "other"]) + ISSUER_ROUTES)).await;
    get("/corp", &corp).await.expect(200);
    get("/corp", &other.sign()).await.expect(401);

    // Only what is in the file has changed.
    let mut renewed = issuer("corp");
    renewed.secret = issuer("renewed").secret;
    write_key(&folder, "corp.key", &renewed);
    expect_result(&gateway.reload().await, 200, "reloaded");
    get("/corp", &corp).await.expect(401);
    get("/corp", &renewed.token("u1", now).sign()).await.expect(200);

    // Gone: its tokens are worth nothing, whatever was known of them.
    gateway.configure(&with_issuers(&folder, &["other"]));
    expect_result(&gateway.reload().await, 200, "reloaded");
    get("/private/a", &renewed.token("u1", now).sign()).await.expect(401);
    get("/private/a", &gateway.token("u1").sign()).await.expect(200);
}

#[tokio::test]
async fn limits_change_and_those_that_do_not_keep_their_counts() {
    let upstream = Upstream::echo().await;
    let limited = |rate: &str, more: &str| {
        format!(
            "{more}\n[limits]\nof_a = {{ rate = \"{rate}/minute\", by = \"ip\" }}\n\
             login = {{ rate = \"2/minute\", by = \"ip\" }}\n\
             [[routes]]\npath = \"/a\"\nupstream = \"app\"\naccess = \"public\"\nlimit = [\"of_a\"]\n"
        )
    };
    let builder = TestGateway::builder().upstream("app", &upstream);
    let gateway = builder.config(&limited("2", "")).start().await;
    let a = || gateway.get("/a").send();
    let log_in = || {
        let body = json!({ "email": "ann@example.com", "password": PASSWORD });
        gateway.post("/auth/login").json(&body).send()
    };
    a().await.expect(200);
    log_in().await.expect(401);
    // Another limit comes before it, and another key changes.
    let more = "[signup]\nenabled = false";
    reloaded(
        &gateway,
        &limited("2", more)
            .replace("[limits]", "[limits]\naaa = { rate = \"1/minute\", by = \"ip\" }"),
    )
    .await;
    a().await.expect(200);
    a().await.expect(429);
    log_in().await.expect(401);
    log_in().await.expect(429);
    reloaded(&gateway, &limited("3", more)).await;
    a().await.expect(200);
    a().await.expect(429);
    // Refused ones change nothing.
    gateway.configure(&limited("99999", more));
    gateway.reload().await.expect(422);
    a().await.expect(429);
}

#[tokio::test]
async fn a_request_that_runs_ends_as_it_began() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::scripted(move |seen: &Seen| {
        let answer = write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        match seen.path() {
            "/b" => vec![Step::ReadBody, Step::Wait(held.clone()), answer],
            _ => reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        }
    })
    .await;
    let gateway =
        TestGateway::builder().upstream("app", &upstream).config(TWO_ROUTES).start().await;
    let (answer, ()) = tokio::join!(gateway.get("/b").send(), async {
        upstream.until("the request", |seen| seen.len() == 1).await;
        reloaded(&gateway, ONE_ROUTE).await;
        gateway.get("/b").send().await.expect(404);
        gate.open();
    });
    assert_eq!(answer.expect(200).text(), "ok");
}

/// What a loader asks for again and again, and the one status that is right, whatever is live.
#[derive(Clone)]
struct Load {
    target: &'static str,
    token: Option<String>,
    status: u16,
    keep_alive: bool,
}

async fn ask(address: SocketAddr, load: Load, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    let mut kept: Option<Client> = None;
    while !stop.load(SeqCst) {
        let mut client = match kept.take() {
            Some(client) => client,
            None => Client::connect(address).await,
        };
        let mut request = Request::new(address, "GET", load.target);
        if let Some(token) = &load.token {
            request = request.bearer(token);
        }
        let answer = request.send_over(&mut client).await;
        assert_eq!(answer.status, load.status, "{} {}", load.target, answer.text());
        count.fetch_add(1, SeqCst);
        kept = load.keep_alive.then_some(client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_reloads_under_load_fail_no_request_and_let_nobody_in() {
    let upstream = Upstream::echo().await;
    let gateway = of_issuers(&upstream, &["corp", "other"])
        .config(ISSUER_ROUTES)
        .config("[server]\nworkers = 2")
        .start()
        .await;
    let now = gateway.clock.now();
    let token = |issuer: Issuer| Some(issuer.token("u1", now).sign());
    let mut loaders = Vec::new();
    let mut counts = Vec::new();
    let stop = Arc::new(AtomicBool::new(false));
    for keep_alive in [true, false] {
        for (target, token, status) in [
            ("/all", None, 200),
            ("/ours", token(Issuer::ours()), 200),
            ("/ours", None, 401),
            ("/ours", token(issuer("other")), 401),
            ("/corp", token(issuer("corp")), 200),
            // Of the place in the list that `corp` has in every other configuration.
            ("/corp", token(issuer("other")), 401),
            ("/corp", None, 401),
        ] {
            let load = Load { target, token, status, keep_alive };
            let count = Arc::new(AtomicUsize::new(0));
            counts.push(Arc::clone(&count));
            loaders.push(tokio::spawn(ask(gateway.address, load, Arc::clone(&stop), count)));
        }
    }
    let folder = gateway.file("");
    for n in 0..60 {
        let issuers = if n % 2 == 0 { ["other", "corp"] } else { ["corp", "other"] };
        let mut config = with_issuers(&folder, &issuers) + ISSUER_ROUTES;
        if n % 3 == 0 {
            // Routes and limits move about, too.
            config += "[[routes]]\npath = \"/aaa\"\nupstream = \"app\"\naccess = \"public\"\n\
                       [limits]\naaa = { rate = \"1/minute\", by = \"ip\" }\n";
        }
        reloaded(&gateway, &config).await;
        if n % 10 == 5 {
            gateway.write_config("[nonsense");
            expect_result(&gateway.reload().await, 422, "refused");
        }
        // Everybody has met this configuration before the next comes.
        let before: Vec<_> = counts.iter().map(|count| count.load(SeqCst)).collect();
        patiently("a request of every loader", async {
            let is_behind = |(count, before): (&Arc<AtomicUsize>, &usize)| {
                // The first may have begun before the reload.
                count.load(SeqCst) < before + 2
            };
            while counts.iter().zip(&before).any(is_behind) {
                assert!(loaders.iter().all(|loader| !loader.is_finished()), "a request failed");
                pause().await;
            }
        })
        .await;
    }
    stop.store(true, SeqCst);
    for loader in loaders {
        patiently("a loader to end", loader).await.expect("every answer was right");
    }
    assert!(metric(&gateway, "config_last_reload_successful").await > 0.5);
}

// The watch.

#[tokio::test]
async fn a_changed_file_is_taken_without_being_asked() {
    let upstream = Upstream::echo().await;
    let gateway = TestGateway::builder()
        .upstream("app", &upstream)
        .config(TWO_ROUTES)
        .config("[reload]\nwatch = \"100ms\"")
        .start()
        .await;
    let by_watch = |result: &'static str| {
        until_attempt(gateway.admin, move |last| {
            last["trigger"] == "watch" && last["result"] == result
        })
    };
    gateway.configure(ONE_ROUTE);
    by_watch("reloaded").await;
    gateway.get("/b").send().await.expect(404);

    // A key file is missing, and then is there.
    let folder = gateway.file("");
    gateway.configure(&(with_issuers(&folder, &["corp"]) + ISSUER_ROUTES));
    by_watch("refused").await;
    write_key(&folder, "corp.key", &issuer("corp"));
    by_watch("reloaded").await;
    let corp = issuer("corp").token("u1", gateway.clock.now()).sign();
    gateway.get("/corp").bearer(&corp).send().await.expect(200);
}

#[tokio::test]
async fn a_watch_can_be_switched_on_and_off() {
    let upstream = Upstream::echo().await;
    let gateway =
        TestGateway::builder().upstream("app", &upstream).config(TWO_ROUTES).start().await;
    reloaded(&gateway, "[reload]\nwatch = \"100ms\"").await;
    gateway.configure("[reload]\nwatch = \"0s\"");
    until_attempt(gateway.admin, |last| last["trigger"] == "watch").await;
    // Whoever asks is still heard.
    reloaded(&gateway, ONE_ROUTE).await;
}

// The program.

fn pid(running: &Running) -> Pid {
    Pid::from_child(&running.0)
}

#[tokio::test]
async fn sighup_reloads_the_program_with_its_variables_files() {
    let upstream = Upstream::echo().await;
    let builder = TestGateway::builder().upstream("app", &upstream).known_secret();
    let program = Program::of(builder).await;
    let switch = program.folder().join("switch");
    std::fs::write(&switch, "true\n").expect("the folder is ours");
    let environment = [("PORTCULLIS_SIGNUP__ENABLED_FILE", switch.display().to_string())];
    let running = program.serve_with(&environment).await;
    let sign_up = |name: &str| {
        let body = json!({ "email": format!("{name}@example.com"), "password": PASSWORD });
        Request::new(program.public, "POST", "/auth/signup").json(&body).send()
    };
    sign_up("ann").await.expect(201);
    std::fs::write(&switch, "false\n").expect("the folder is ours");
    kill_process(pid(&running), Signal::HUP).expect("it is ours");
    let config = until_attempt(program.admin, |last| last["result"] == "reloaded").await;
    assert_eq!(config["last_attempt"]["trigger"], "signal");
    sign_up("bob").await.expect_problem(403, "signup_disabled");

    // A file with a value, perhaps a secret, is gone: that is no empty value.
    std::fs::remove_file(&switch).expect("it is there");
    kill_process(pid(&running), Signal::HUP).expect("it is ours");
    let config = until_attempt(program.admin, |last| last["result"] == "refused").await;
    let errors = config["last_attempt"]["errors"].to_string();
    assert!(errors.contains("PORTCULLIS_SIGNUP__ENABLED_FILE: signup.enabled: "), "{errors}");
    sign_up("bob").await.expect_problem(403, "signup_disabled");
    std::fs::write(&switch, "false\n").expect("the folder is ours");

    // A folder of a mounted ConfigMap: the file is a link, and it is pointed elsewhere.
    let text = std::fs::read_to_string(program.file()).expect("it is there");
    let new = program.folder().join("new.toml");
    std::fs::write(&new, text + "[cors]\nallowed_origins = [\"https://a.example\"]\n")
        .expect("the folder is ours");
    let link = program.folder().join("link");
    std::os::unix::fs::symlink(&new, &link).expect("the folder is ours");
    std::fs::rename(&link, program.file()).expect("the folder is ours");
    kill_process(pid(&running), Signal::HUP).expect("it is ours");
    until_attempt(program.admin, |last| last["at"] != config["last_attempt"]["at"]).await;
    let health = Request::new(program.public, "GET", "/auth/health");
    let answer = health.header("Origin", "https://a.example").send().await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
}

#[tokio::test]
async fn sighup_never_ends_the_program() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::scripted(move |_: &Seen| {
        let answer = write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        vec![Step::ReadBody, Step::Wait(held.clone()), answer]
    })
    .await;
    let builder = TestGateway::builder()
        .upstream("app", &upstream)
        .known_secret()
        .config("[server]\ndrain_timeout = \"10s\"");
    let program = Program::of(builder).await;
    // While it starts, as soon as it can be told anything.
    let running = program.begin();
    let process = pid(&running);
    patiently("the program to catch SIGHUP", async {
        while !catches_sighup(process) {
            pause().await;
        }
    })
    .await;
    kill_process(process, Signal::HUP).expect("it is ours");
    let mut running = program.until_ready(running).await;
    // It was not lost.
    until_attempt(program.admin, |last| last["result"] == "unchanged").await;
    // While it stops.
    let request = Request::new(program.public, "GET", "/public/a").send();
    let (answer, ()) = tokio::join!(request, async {
        upstream.until("the request", |seen| seen.len() == 1).await;
        kill_process(process, Signal::TERM).expect("it is ours");
        patiently("the program to drain", async {
            while Client::try_connect(program.public).await.is_some() {
                pause().await;
            }
        })
        .await;
        for _ in 0..3 {
            kill_process(process, Signal::HUP).expect("it is ours");
        }
        gate.open();
    });
    assert_eq!(answer.expect(200).text(), "ok");
    let ended = patiently("the program to end", async {
        loop {
            if let Some(status) = running.0.try_wait().expect("a child") {
                return status;
            }
            pause().await;
        }
    });
    assert_eq!(ended.await.code(), Some(0));
}

/// Bit 0 of the mask of caught signals is SIGHUP.
fn catches_sighup(process: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()));
    let status = status.expect("the program runs");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
    u64::from_str_radix(mask.trim(), 16).expect("hexadecimal") & 1 == 1
}

#[tokio::test]
async fn rotations_of_keys_and_reloads_each_keep_what_the_other_changed() {
    let upstream = Upstream::echo().await;
    let program = Program::of(TestGateway::builder().upstream("app", &upstream)).await;
    let _running = program.serve().await;
    let post =
        |target: &str, body: &Value| Request::new(program.public, "POST", target).json(body).send();
    let ann = json!({ "email": "ann@example.com", "password": PASSWORD });
    let caller = |answer: Answer| Caller::from_session(&answer.json());
    let known = |caller: &Caller| {
        let request = Request::new(program.public, "GET", "/private/a");
        request.bearer(&caller.token).send()
    };
    let rotated = async |before: &Caller| {
        program.run(&["keys", "rotate", "--now"]).await.expect(0);
        patiently("the new key", async {
            loop {
                let after = caller(post("/auth/login", &ann).await.expect(200));
                if after.kid() != before.kid() {
                    return after;
                }
                pause().await;
            }
        })
        .await
    };
    let reload = async |text: &str| {
        let config = std::fs::read_to_string(program.file()).expect("it is there");
        std::fs::write(program.file(), config + text).expect("the folder is ours");
        let answer = Request::new(program.admin, "POST", "/reload").send().await;
        expect_result(&answer, 200, "reloaded");
    };
    let first = caller(post("/auth/signup", &ann).await.expect(201));
    known(&first).await.expect(200);
    let second = rotated(&first).await;
    reload("[signup]\nenabled = false\n").await;
    let third = rotated(&second).await;
    reload("[cors]\nallow_credentials = true\n").await;
    for caller in [&first, &second, &third] {
        known(caller).await.expect(200);
    }
}
