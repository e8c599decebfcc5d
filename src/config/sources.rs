//! Where each key was written: a line and column of the file, or an environment variable. Knows
//! names and positions only, never values, so that it may be kept and printed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::Problem;

/// Where each key of a loaded configuration was written.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: String,
    places: BTreeMap<String, Place>,
}

impl Sources {
    /// Sources of the configuration in `file`, with no key yet.
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.display().to_string(), places: BTreeMap::new() }
    }

    /// The file that was read.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Notes that `key` stands at `place`, whatever was noted for it before.
    pub(super) fn note(&mut self, key: impl Into<String>, place: Place) {
        self.places.insert(key.into(), place);
    }

    /// Notes that `key` stands at `place`, unless it stands elsewhere.
    pub(super) fn note_first(&mut self, key: impl Into<String>, place: Place) {
        self.places.entry(key.into()).or_insert(place);
    }

    /// Forgets `key` and everything under it: it is about to be replaced as a whole.
    pub(super) fn forget(&mut self, key: &str) {
        self.places.retain(|known, _| !is_at_or_under(known, key));
    }

    /// Where `key` was written; if it was not, where the nearest table or list around it was.
    pub fn place(&self, key: &str) -> Place {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return place.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return Place::File,
            }
        }
    }

    /// Attaches places to problems that the compile steps found. An error without problems prints
    /// nothing, so ask only when there are some.
    pub fn report(&self, problems: &[Problem]) -> LoadError {
        let mut error = LoadError::new(&self.file);
        for problem in problems {
            error.add(self.place(&problem.key), problem.clone());
        }
        error
    }

    /// One line for a problem that is no error.
    pub fn describe(&self, problem: &Problem) -> String {
        self.report(std::slice::from_ref(problem)).to_string()
    }
}

/// The key of `name` in the table at `table`.
pub(super) fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

/// Whether `key` is `ancestor` or lies under it.
pub(super) fn is_at_or_under(key: &str, ancestor: &str) -> bool {
    key.strip_prefix(ancestor)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('['))
}

/// One place where configuration is written. The order is the order of reports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole: what is missing has no line.
    File,
    /// A position in the file; both count from 1, columns in characters.
    Position {
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// An environment variable.
    Variable(String),
}

/// Everything that is wrong with a configuration, in the order of the file, then the environment.
/// Prints one line each: `FILE:LINE:COL: KEY: message`, or `VARIABLE: KEY: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    file: String,
    found: Vec<(Place, Problem)>,
}

impl LoadError {
    /// An error about `file` without problems yet.
    pub(super) fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), found: Vec::new() }
    }

    /// Adds a problem in its place.
    pub(super) fn add(&mut self, place: Place, problem: Problem) {
        let entry = (place, problem);
        // Equal places keep the order in which they were found, apart from exact repeats.
        if !self.found.contains(&entry) {
            let at = self.found.partition_point(|(place, _)| *place <= entry.0);
            self.found.insert(at, entry);
        }
    }

    /// The problems and their places, in order.
    pub fn problems(&self) -> impl ExactSizeIterator<Item = (&Place, &Problem)> {
        self.found.iter().map(|(place, problem)| (place, problem))
    }

    /// Whether nothing is wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (place, problem)) in self.found.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match place {
                Place::File => write!(f, "{}: ", self.file)?,
                Place::Position { line, column } => write!(f, "{}:{line}:{column}: ", self.file)?,
                Place::Variable(name) => write!(f, "{name}: ")?,
            }
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}
