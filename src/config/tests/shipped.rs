//! The configurations in `config/`: they work, and the example is complete and true.

use figment::value::{Dict, Value};
use secrecy::ExposeSecret;

use super::*;
use crate::config::file::TomlFile;

const SHIPPED: &str = include_str!("../../../config/portcullis.toml");
const EXAMPLE: &str = include_str!("../../../config/portcullis.example.toml");

#[test]
fn the_shipped_configuration_is_ready_to_run() {
    let Loaded { config, warnings, .. } = accepted(SHIPPED, &[]);
    assert_eq!(warnings, [""; 0]);
    let servers = &config.upstreams["app"].servers;
    assert!(servers.len() == 1 && servers[0].url == "http://127.0.0.1:8000", "{servers:?}");
    assert!(config.routes.iter().any(|route| route.path == "/api/{user_id}/{*rest}"));
    assert!(config.routes.iter().any(|route| route.access == Access::Public));
    let expected =
        |wanted: fn(&Expectation) -> bool| config.tests.iter().any(|t| wanted(&t.expect));
    assert!(expected(|e| *e == Expectation::Allow) && expected(|e| *e != Expectation::Allow));
}

#[test]
fn the_example_holds_the_defaults() {
    let Loaded { mut config, warnings, .. } = accepted(EXAMPLE, &[]);
    assert_eq!(warnings, [""; 0]);
    let minimal = accepted(
        "[upstreams.app]\nservers = [\"http://127.0.0.1:8000\"]\n\
         [[routes]]\npath = \"/api/{user_id}/{*rest}\"\nupstream = \"app\"",
        &[],
    )
    .config;
    let shown = |value: &dyn std::fmt::Debug| format!("{value:#?}");
    assert_eq!(shown(&config.upstreams), shown(&minimal.upstreams));
    assert_eq!(shown(&config.routes), shown(&minimal.routes));
    config.upstreams.clear();
    config.routes.clear();
    config.tests.clear();
    assert_eq!(shown(&config), shown(&Config::default()));
    // Secrets print nothing.
    let default = Config::default();
    assert_eq!(config.storage.url.expose_secret(), default.storage.url.expose_secret());
    assert_eq!(config.counters.url.expose_secret(), default.counters.url.expose_secret());
}

#[test]
fn the_example_shows_every_key_and_its_comments_are_toml() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let error = parse_with(&uncommented, &[]).expect_err("a secret beside ES256");
    // Nothing else is wrong: that pair excludes each other.
    assert_eq!(error.problems().len(), 1, "{error}");
    assert!(error.to_string().contains("tokens.secret: only HS256 has a secret"), "{error}");

    let mut sources = Sources::new(Path::new("p.toml"));
    let mut errors = LoadError::new("p.toml");
    let root = TomlFile::parse(&uncommented, &mut sources, &mut errors).keys;
    for path in every_key() {
        assert!(shows(&root, &path), "the example lacks {}", path.join("."));
    }
}

/// Whether `path` is in `keys`. `*` stands for any name, an index for any entry.
fn shows(keys: &Dict, path: &[String]) -> bool {
    fn value_shows(value: &Value, path: &[String]) -> bool {
        match (path, value) {
            ([], _) => true,
            (path, Value::Dict(_, keys)) => shows(keys, path),
            ([_, rest @ ..], Value::Array(_, list)) => {
                list.is_empty() || list.iter().any(|entry| value_shows(entry, rest))
            }
            _ => false,
        }
    }
    let Some((name, rest)) = path.split_first() else { return true };
    keys.iter().any(|(key, value)| (name == "*" || key == name) && value_shows(value, rest))
}
