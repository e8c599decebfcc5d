//! What variables override, and what is said about bad ones.

use secrecy::ExposeSecret;

use super::*;

#[test]
fn the_environment_overrides_key_by_key_in_the_type_that_the_key_takes() {
    let file = r#"
[server]
workers = 1
[limits.login]
rate = "1/hour"
[upstreams.App-1]
servers = ["http://a:1", "http://b:1"]
"#;
    let loaded = accepted(
        file,
        &[
            ("PORTCULLIS_SERVER__WORKERS", "4"),
            ("PORTCULLIS_SERVER__LISTEN", "[\"127.0.0.1:1\", '[::1]:2']"),
            ("PORTCULLIS_SERVER__HEADER_TIMEOUT", "1s"),
            ("portcullis_server__auth_prefix", "/id"),
            ("PORTCULLIS_STORAGE__MIGRATE", "off"),
            ("PORTCULLIS_SIGNUP__ENABLED", "false"),
            ("PORTCULLIS_TOKENS__ALGORITHM", "HS256"),
            ("PORTCULLIS_TOKENS__SECRET", "12345678901234567890123456789012"),
            ("PORTCULLIS_COUNTERS__KEY_PREFIX", "123"),
            ("PORTCULLIS_LIMITS__LOGIN", "{ rate = \"5/minute\" }"),
            ("PORTCULLIS_LIMITS__SEARCH", "{rate=\"9/second\",by=\"user\"}"),
            ("PORTCULLIS_LIMITS__REFRESH__RATE", "7/minute"),
            ("PORTCULLIS_PASSWORDS__ARGON2", "{ iterations = 3, parallelism = 2 }"),
            ("PORTCULLIS_PASSWORDS__ARGON2__MEMORY", "20MiB"),
            ("PORTCULLIS_UPSTREAMS__APP_1__SERVERS", "[\"http://c:1\"]"),
            ("PORTCULLIS_UPSTREAMS__OTHER__SERVERS", "[\"http://d:1\"]"),
            ("PATH", "/bin"),
        ],
    );
    let config = &loaded.config;
    assert_eq!(config.server.workers, 4);
    assert_eq!(config.server.listen.len(), 2);
    assert_eq!(config.server.header_timeout, Interval::seconds(1));
    assert_eq!(config.server.auth_prefix, "/id");
    assert!(!config.storage.migrate);
    assert!(!config.signup.enabled);
    let secret = config.tokens.secret.as_ref().map(|secret| secret.expose_secret().to_owned());
    assert_eq!(secret.as_deref(), Some("12345678901234567890123456789012"));
    assert_eq!(config.counters.key_prefix, "123");
    let limit = |name: &str| config.limits.0.get(name).map(|limit| (limit.rate, limit.by));
    assert_eq!(limit("login"), Some((Rate::new(5, 60), LimitBy::Ip)));
    assert_eq!(limit("search"), Some((Rate::new(9, 1), LimitBy::User)));
    assert_eq!(limit("refresh"), Some((Rate::new(7, 60), LimitBy::Ip)));
    assert_eq!(limit("login_account"), Some((Rate::new(20, 3_600), LimitBy::Account)));
    let argon2 = Argon2 { memory: ByteSize::mib(20), iterations: 3, parallelism: 2 };
    assert_eq!(config.passwords.argon2, argon2);
    assert_eq!(config.upstreams["App-1"].servers[0].url, "http://c:1");
    assert_eq!(config.upstreams["other"].servers[0].url, "http://d:1");
    // Places follow the value that won.
    let place = |key: &str| loaded.sources.place(key);
    let variable = |name: &str| Place::Variable(name.to_owned());
    assert_eq!(place("server.workers"), variable("PORTCULLIS_SERVER__WORKERS"));
    assert_eq!(place("server.listen[1]"), variable("PORTCULLIS_SERVER__LISTEN"));
    assert_eq!(
        place("upstreams.App-1.servers[1]"),
        variable("PORTCULLIS_UPSTREAMS__APP_1__SERVERS")
    );
    assert_eq!(place("upstreams.App-1.host"), Place::Position { line: 6, column: 12 });
    assert_eq!(place("limits.login.rate"), variable("PORTCULLIS_LIMITS__LOGIN"));
    assert_eq!(place("nothing.at.all"), Place::File);
}

#[test]
fn mistakes_in_the_environment_name_the_variable_and_no_secret() {
    for (env, expected) in [
        (
            ("PORTCULLIS_SERVER__WORKERS", "four"),
            "PORTCULLIS_SERVER__WORKERS: server.workers: expected a whole number, found a string",
        ),
        (
            ("PORTCULLIS_SERVER__LISTEN", "127.0.0.1:1"),
            "PORTCULLIS_SERVER__LISTEN: server.listen: expected a list in TOML syntax",
        ),
        (
            ("PORTCULLIS_SERVER__LISTEN", "[\"127.0.0.1:1\", \"x\"]"),
            "PORTCULLIS_SERVER__LISTEN: server.listen[1]: `x` is not an address",
        ),
        (
            ("PORTCULLIS_LIMITS__A", "{ rate = 1"),
            "PORTCULLIS_LIMITS__A: limits.a: expected a table in TOML syntax",
        ),
        (
            ("PORTCULLIS_LIMITS__A__RATE", "1/hour"),
            "PORTCULLIS_LIMITS__A__RATE: limits.a.by: is missing",
        ),
        (
            ("PORTCULLIS_ROUTES__0__PATH", "/"),
            "PORTCULLIS_ROUTES__0__PATH: routes.0.path: `routes` is a list; its entries cannot",
        ),
        (
            ("PORTCULLIS_STORAGE__URL__X", "1"),
            "PORTCULLIS_STORAGE__URL__X: storage.url.x: `storage.url` is not a table",
        ),
        (
            ("PORTCULLIS_SEVER__WORKERS", "1"),
            "PORTCULLIS_SEVER__WORKERS: sever: unknown key, did you",
        ),
        (("PORTCULLIS___X", "1"), "PORTCULLIS___X: unknown key"),
        (
            ("PORTCULLIS_STORAGE__URL", "mysql://u:hunter2@h"),
            "PORTCULLIS_STORAGE__URL: storage.url: must be sqlite:FILE or",
        ),
        (
            ("PORTCULLIS_STORAGE__URL_FILE", "/nowhere/hunter2"),
            "PORTCULLIS_STORAGE__URL_FILE: storage.url: the file it names cannot be read: No such",
        ),
        (
            ("PORTCULLIS_STORAGE__URL_FILE", "/dev/zero"),
            "PORTCULLIS_STORAGE__URL_FILE: storage.url: the file it names is longer than 1 MiB",
        ),
        (
            ("PORTCULLIS_SERVER__TLS", "{ certificate = hunter2 }"),
            "PORTCULLIS_SERVER__TLS: server.tls: expected a table in TOML syntax",
        ),
    ] {
        assert_refused("", &[env], &[expected]);
    }
}

#[test]
fn file_variables_lose_one_newline_and_exclude_their_twin() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a writable temporary folder");
        path.to_str().expect("a Unicode path").to_owned()
    };
    for (text, expected) in [
        ("sqlite:a", "sqlite:a"),
        ("sqlite:a\n", "sqlite:a"),
        ("sqlite:a\r\n", "sqlite:a"),
        ("sqlite:a\n\n", "sqlite:a\n"),
        (" sqlite:a ", " sqlite:a "),
    ] {
        let path = write("url", text.as_bytes());
        let found = match parse_with("", &[("PORTCULLIS_STORAGE__URL_FILE", &path)]) {
            Ok(loaded) => loaded.config.storage.url.expose_secret().to_owned(),
            // A URL does not begin with a space; the point is what was read.
            Err(error) => {
                assert!(text.starts_with(' '), "{error}");
                continue;
            }
        };
        assert_eq!(found, expected);
    }
    let path = write("listen", b"[\"127.0.0.1:5\"]\n");
    let loaded = accepted("", &[("PORTCULLIS_SERVER__LISTEN_FILE", &path)]);
    assert_eq!(loaded.config.server.listen[0].to_string(), "127.0.0.1:5");
    assert_eq!(
        loaded.sources.place("server.listen[0]"),
        Place::Variable("PORTCULLIS_SERVER__LISTEN_FILE".to_owned())
    );
    assert_refused(
        "",
        &[("PORTCULLIS_STORAGE__URL", "sqlite:a"), ("PORTCULLIS_STORAGE__URL_FILE", &path)],
        &["PORTCULLIS_STORAGE__URL_FILE: storage.url: PORTCULLIS_STORAGE__URL sets it too"],
    );
    let path = write("binary", b"\xff");
    assert_refused(
        "",
        &[("PORTCULLIS_STORAGE__URL_FILE", &path)],
        &["PORTCULLIS_STORAGE__URL_FILE: storage.url: the file it names is not UTF-8 text"],
    );
}

#[test]
fn other_variables_are_ignored_with_a_warning() {
    let text = "[[routes]]\npath = \"/\"";
    let loaded = accepted(
        text,
        &[
            ("PORTCULLIS_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("PORTCULLIS_PORT", "tcp://10.0.0.1:8080"),
            ("PORTCULLIS_CONFIG", "elsewhere.toml"),
            ("PORTCULLIS_TEST_POSTGRES", "x"),
            ("PORTCULLIS_TEST_A__B", "x"),
        ],
    );
    assert_eq!(
        loaded.warnings,
        ["ignored environment variables, as their names have no `__` between section and key: \
             PORTCULLIS_PORT, PORTCULLIS_PORT_8080_TCP"]
    );
}
