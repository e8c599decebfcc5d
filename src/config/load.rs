//! Reads the configuration: built-in limits, then the file, then the environment, each key
//! overriding the ones before. Reports everything that is wrong at once, each at its place.

use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::environment::{CONFIG_VARIABLE, Environment};
use super::extract::{Extracted, extract};
use super::file::{Lines, TomlFile};
use super::input::Input;
use super::sources::{LoadError, Place, Sources, is_at_or_under};
use super::{Config, Limits, Problem, validate};

/// Where the file is looked for when nobody names it.
pub const DEFAULT_PATHS: [&str; 2] = ["config/portcullis.toml", "/etc/portcullis/portcullis.toml"];

/// A configuration without mistakes in itself.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where its keys were written, for what the compile steps find.
    pub sources: Sources,
    /// What an operator should know, one line each.
    pub warnings: Vec<String>,
}

/// Loads the configuration from the file at `path`, else at `PORTCULLIS_CONFIG`, else at the first
/// of [`DEFAULT_PATHS`] that exists, and from the variables in `env`.
///
/// # Errors
/// Everything that is wrong with it, or that the file cannot be read.
pub fn load(
    path: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, LoadError> {
    Input::locate(path, env)?.load()
}

/// Reads the file at `path`, and the variables in `env`.
pub(super) fn read(
    path: &Path,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, LoadError> {
    let failed = |place, message: String| {
        let mut error = LoadError::new(path.display().to_string());
        error.add(place, Problem::new("", message));
        error
    };
    let bytes = std::fs::read(path)
        .map_err(|error| failed(Place::File, format!("cannot be read: {error}")))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let fine = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or("");
        failed(Lines::of(fine).place(fine.len()), "the file is not UTF-8 text".to_owned())
    })?;
    parse(text, path, env)
}

/// Reads a configuration from `text`, which reports call `file`, and from the variables in `env`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(
    text: &str,
    file: &Path,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, LoadError> {
    let mut sources = Sources::new(file);
    let mut errors = LoadError::new(sources.file());
    let mut warnings = Vec::new();

    let file = TomlFile::parse(text, &mut sources, &mut errors);
    let (is_toml, unusable) = (file.is_toml, file.spoiled.clone());
    let env = Environment::read(env, &file.keys, &mut sources, &mut errors, &mut warnings);
    if !is_toml {
        return Err(errors);
    }
    let merged = Figment::from(BuiltIn).merge(file).merge(env).find_value("");
    let keys = merged.ok().and_then(Value::into_dict).unwrap_or_default();

    let Extracted { config, spoiled } = extract(keys, unusable, &sources, &mut errors);
    if let Some(config) = &config {
        for problem in validate::problems(config) {
            if !is_hearsay(&problem.key, &spoiled) {
                errors.add(sources.place(&problem.key), problem);
            }
        }
    }
    match config {
        Some(config) if errors.is_empty() => {
            warnings.extend(validate::advice(&config).iter().map(|hint| sources.describe(hint)));
            Ok(Loaded { config, sources, warnings })
        }
        _ => Err(errors),
    }
}

/// The process's environment: what of it is Unicode.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The file to read.
pub(super) fn locate(path: Option<&Path>, env: &[(String, String)]) -> Result<PathBuf, LoadError> {
    if let Some(path) = path {
        return Ok(path.to_owned());
    }
    if let Some((_, path)) =
        env.iter().find(|(name, path)| name == CONFIG_VARIABLE && !path.is_empty())
    {
        return Ok(path.into());
    }
    let [here, system] = DEFAULT_PATHS;
    DEFAULT_PATHS.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
        let mut error = LoadError::new(here);
        let message = format!(
            "there is no configuration here nor at {system}; name one with --config or \
             {CONFIG_VARIABLE}"
        );
        error.add(Place::File, Problem::new("", message));
        error
    })
}

/// Whether a problem at `key` may come from a stand-in rather than from the operator.
fn is_hearsay(key: &str, spoiled: &[String]) -> bool {
    spoiled.iter().any(|spoiled| {
        is_at_or_under(key, spoiled)
            // The one check that reads another key for which no stand-in is neutral.
            || (key == "tokens.secret" && spoiled == "tokens.algorithm")
    })
}

/// The limits that exist without being written, so that a file may change one key of one.
struct BuiltIn;

impl Provider for BuiltIn {
    fn metadata(&self) -> Metadata {
        Metadata::named("built-in limits")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let limits: Dict = Limits::built_in()
            .into_iter()
            .map(|(name, limit)| {
                let keys = [("rate", limit.rate.to_string()), ("by", limit.by.name().to_owned())];
                (name.to_owned(), Value::from(Map::from(keys)))
            })
            .collect();
        let keys = Dict::from([("limits".to_owned(), Value::from(limits))]);
        Ok(Map::from([(Profile::Default, keys)]))
    }
}
