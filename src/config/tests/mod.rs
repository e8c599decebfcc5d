//! The loader as an operator meets it. [`mistakes`]: bad files and what is said about them;
//! [`environment`]: variables; [`shipped`]: the two configurations that are shipped;
//! [`restart`]: which keys a reload takes.

mod environment;
mod mistakes;
mod restart;
mod shipped;

use std::path::Path;

use super::load::load;
use super::shape::{self, Shape};
use super::sources;
use super::*;

fn parse_with(text: &str, env: &[(&str, &str)]) -> Result<Loaded, LoadError> {
    let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    parse(text, Path::new("p.toml"), env)
}

fn accepted(text: &str, env: &[(&str, &str)]) -> Loaded {
    parse_with(text, env).unwrap_or_else(|error| panic!("refused:\n{error}"))
}

/// Asserts that each line of the report begins as expected, and that there are no others.
fn assert_refused(text: &str, env: &[(&str, &str)], expected: &[&str]) {
    let report = match parse_with(text, env) {
        Ok(_) => panic!("accepted:\n{text}\n{env:?}"),
        Err(error) => error.to_string(),
    };
    let found: Vec<&str> = report.lines().collect();
    let fits = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
    assert!(fits, "\n{text}\n{env:?}\nexpected {expected:#?}\nfound {found:#?}");
}

#[test]
fn what_is_allowed_but_unwise_is_a_warning_with_its_place() {
    for (text, expected) in [
        ("[[routes]]\npath = \"/\"", &[][..]),
        ("", &["p.toml: routes: there are none"]),
        (
            "[passwords]\nargon2 = { memory = \"8KiB\", iterations = 1 }\n[[routes]]\npath = \"/\"",
            &["p.toml:2:1: passwords.argon2: hashes are cheaper to guess"],
        ),
        (
            "[passwords]\nargon2 = { memory = \"12MiB\", iterations = 3 }\n[[routes]]\npath = \"/\"",
            &[],
        ),
        (
            "[mail]\nurl = \"smtps://h\"\nwebhook = { url = \"u\", secret = \"s\" }\n\
             [[routes]]\npath = \"/\"",
            &["p.toml:2:1: mail.url: says nothing", "p.toml:3:1: mail.webhook: says nothing"],
        ),
        (
            "[server]\ntrusted_proxies = [\"::/0\"]\n[[routes]]\npath = \"/\"",
            &["p.toml:2:20: server.trusted_proxies[0]: trusts everybody"],
        ),
        (
            "[cookies]\nenabled = true\n[tokens]\nissuer = \"http://192.0.2.1/auth\"\n\
             [[routes]]\npath = \"/\"",
            &["p.toml:2:1: cookies.enabled: browsers keep"],
        ),
        ("[cookies]\nenabled = true\n[[routes]]\npath = \"/\"", &[]),
        (
            "[cookies]\nenabled = true\n[tokens]\nissuer = \"http://localhost:8080/auth\"\n\
             [[routes]]\npath = \"/\"",
            &[],
        ),
        ("[tokens]\nissuer = \"http://192.0.2.1/auth\"\n[[routes]]\npath = \"/\"", &[]),
    ] {
        let warnings = accepted(text, &[]).warnings;
        assert_eq!(warnings.len(), expected.len(), "{text}: {warnings:?}");
        for (found, expected) in warnings.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }
}

#[test]
fn good_values_at_the_edge_are_accepted() {
    for text in [
        "\u{feff}[server]\r\nworkers = 1024\r\n",
        "[server]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\nauth_prefix = \"/a-b/c.d~e_F1\"",
        "[server]\nmax_header_bytes = \"1KiB\"\ndrain_timeout = \"0s\"\nmax_body_bytes = \"0\"",
        "[storage]\nurl = \"postgresql://u@h/d\"\n[counters]\nurl = \"redis+unix:///run/r.sock\"",
        "[counters]\nurl = \"redis-cluster://a:1,b:2\"",
        "[cors]\nallowed_origins = [\"https://a.example\", \"http://localhost:3000\", \
         \"http://[::1]:8080\", \"capacitor://localhost\", \"*\"]",
        "[cors]\nallowed_origins = [\"http://[::1]:8080\"]\nallow_credentials = true",
        "[upstreams.\"my.app\"]\nservers = [\"http://[::1]:80\", \"http://app_1.internal:8000\"]",
        "[upstreams.app]\nservers = [\"unix:/run/a.sock\", { url = \"https://a.example:443\", weight = 1000 }]\n\
         health = { path = \"/healthz?deep=1\" }\nejection = { failures = 0 }\nretry_budget = 1",
        "[passwords.argon2]\nmemory = \"256MiB\"\niterations = 1",
        "[[tests]]\nrequest = \"GET /\"\nexpect = \"403\"",
        "[limits.login]\non_outage = \"deny\"",
    ] {
        accepted(text, &[]);
    }
}

#[test]
fn the_file_is_the_argument_then_the_variable_and_must_be_readable_text() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a writable temporary folder");
        path
    };
    let (one, two) = (file("1.toml", b"server.workers = 1"), file("2.toml", b"server.workers = 2"));
    let variable = ("PORTCULLIS_CONFIG".to_owned(), two.to_str().expect("Unicode").to_owned());
    let workers = |path: Option<&Path>| {
        load(path, [variable.clone()]).map(|loaded| loaded.config.server.workers)
    };
    assert_eq!(workers(Some(&one)), Ok(1));
    assert_eq!(workers(None), Ok(2));

    let missing = folder.path().join("3.toml");
    let error = load(Some(&missing), []).expect_err("missing").to_string();
    let expected = format!("{}: cannot be read: No such file", missing.display());
    assert!(error.starts_with(&expected), "{error}");
    let binary = file("4.toml", b"[server]\n# \xe4\xff");
    let error = load(Some(&binary), []).expect_err("binary").to_string();
    assert_eq!(error, format!("{}:2:3: the file is not UTF-8 text", binary.display()));
}

#[test]
fn compile_steps_report_problems_at_their_places() {
    let text = "[[routes]]\npath = \"/\"\n[[routes]]\npath = \"/b\"\nowner = \"x\"\n";
    let sources = accepted(text, &[("PORTCULLIS_LOG__LEVEL", "loud")]).sources;
    let report = sources.report(&[
        Problem::new("log.level", "d"),
        Problem::new("routes[1].owner", "b"),
        Problem::new("routes[1].upstream", "a"),
        Problem::new("tests", "0"),
        Problem::new("routes[1].owner", "c"),
    ]);
    assert_eq!(
        report.to_string(),
        "p.toml: tests: 0\np.toml:3:1: routes[1].upstream: a\np.toml:5:1: routes[1].owner: b\n\
         p.toml:5:1: routes[1].owner: c\nPORTCULLIS_LOG__LEVEL: log.level: d"
    );
}

/// Every key of the schema down to the last table: `*` for names, `0` for entries.
fn every_key() -> Vec<Vec<String>> {
    let mut keys = Vec::new();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let steps: Vec<&str> = match shape::at(&path) {
            Some(Shape::Table(fields)) => fields.to_vec(),
            Some(Shape::Names) => vec!["*"],
            Some(Shape::List) => vec!["0"],
            _ => Vec::new(),
        };
        for step in steps {
            let mut key = path.clone();
            key.push(step.to_owned());
            open.push(key.clone());
            keys.push(key);
        }
    }
    assert!(keys.len() > 100, "{} keys", keys.len());
    keys
}
