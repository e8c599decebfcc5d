//! What an import found and did.

use std::collections::BTreeMap;

use serde_json::json;

use super::error::RowError;
use crate::auth::formats::{Class, FormatError};

/// Refused rows that the report names; the file of refused rows has them all.
const SHOWN: usize = 50;

/// Counts, and the first refused rows.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) rows: u64,
    pub(super) imported: u64,
    pub(super) already_there: u64,
    pub(super) refused: u64,
    /// Rows of other things: a dump of Django has them.
    pub(super) other: u64,
    pub(super) twice: u64,
    pub(super) above_the_cap: u64,
    pub(super) without_password: u64,
    pub(super) passwords: BTreeMap<Class, u64>,
    pub(super) problems: Vec<(u64, RowError)>,
}

impl Report {
    /// Notes a row that can be read.
    pub(super) fn count(&mut self, class: Option<Class>) {
        match class {
            Some(class) => *self.passwords.entry(class).or_default() += 1,
            None => self.without_password += 1,
        }
    }

    /// Notes a refused row.
    pub(super) fn refuse(&mut self, line: u64, why: &RowError) {
        self.refused += 1;
        match why {
            RowError::Twice(_) => self.twice += 1,
            RowError::Hash(FormatError::TooExpensive) => self.above_the_cap += 1,
            _ => {}
        }
        if self.problems.len() < SHOWN {
            self.problems.push((line, why.clone()));
        }
    }

    /// For programs.
    pub(super) fn json(&self, about: &About<'_>) -> serde_json::Value {
        let passwords: serde_json::Map<_, _> =
            self.passwords.iter().map(|(class, n)| (class.to_string(), (*n).into())).collect();
        let problems: Vec<_> = self
            .problems
            .iter()
            .map(|(line, why)| json!({ "line": line, "error": why.to_string() }))
            .collect();
        json!({
            "file": about.file,
            "format": about.format,
            "dry_run": about.is_dry_run,
            "rows": self.rows,
            "imported": self.imported,
            "already_there": self.already_there,
            "refused": self.refused,
            "twice_in_file": self.twice,
            "above_the_cap": self.above_the_cap,
            "other_rows": self.other,
            "without_password": self.without_password,
            "passwords": passwords,
            "slowest_login_seconds": about.slowest,
            "problems": problems,
            "errors_file": about.errors_file,
        })
    }

    /// For people.
    pub(super) fn text(&self, about: &About<'_>) -> String {
        let mut lines =
            vec![format!("{}: {} rows, read as {}", about.file, self.rows, about.format)];
        let mut count = |name: &str, number: u64| lines.push(format!("  {name:<22}{number:>10}"));
        count(if about.is_dry_run { "would be imported" } else { "imported" }, self.imported);
        for (name, number) in [
            ("already there", self.already_there),
            ("no accounts", self.other),
            ("refused", self.refused),
            ("  twice in the file", self.twice),
            ("  cost above the cap", self.above_the_cap),
        ] {
            if number > 0 {
                count(name, number);
            }
        }
        lines.push("passwords".to_owned());
        for (class, number) in &self.passwords {
            lines.push(format!("  {:<22}{number:>10}", class.to_string()));
        }
        if self.without_password > 0 {
            lines.push(format!("  {:<22}{:>10}", "none", self.without_password));
        }
        if let Some(seconds) = about.slowest {
            lines.push(format!(
                "a failed login will take as long as the slowest: {seconds:.2} s here"
            ));
        }
        if !self.problems.is_empty() {
            lines.push("refused rows".to_owned());
            lines.extend(self.problems.iter().map(|(line, why)| format!("  line {line}: {why}")));
        }
        let more = self.refused - self.problems.len() as u64;
        if more > 0 {
            lines.push(format!("  and {more} more"));
        }
        if let Some(file) = about.errors_file {
            lines.push(format!("refused rows are in {file}; it holds password hashes"));
        }
        lines.join("\n")
    }
}

/// What the report is of.
pub(super) struct About<'a> {
    pub(super) file: &'a str,
    pub(super) format: &'a str,
    pub(super) is_dry_run: bool,
    /// Seconds of a check of the slowest hash.
    pub(super) slowest: Option<f64>,
    pub(super) errors_file: Option<&'a str>,
}
