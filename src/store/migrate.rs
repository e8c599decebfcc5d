//! The schema's versions: the numbered files under `migrations/`, embedded in the program. Shipped
//! files are frozen; both folders carry the same numbers.

use refinery::Runner;

use super::cases::Migrated;
use super::error::StoreError;

pub(super) mod postgres {
    refinery::embed_migrations!("migrations/postgres");
}

pub(super) mod sqlite {
    refinery::embed_migrations!("migrations/sqlite");
}

/// Where refinery keeps what it applied.
pub(super) const HISTORY: &str = "refinery_schema_history";

/// The version that this program needs.
pub(super) fn newest(runner: &Runner) -> u32 {
    runner.get_migrations().iter().map(|m| number(m.version())).max().unwrap_or(0)
}

/// Compares a database with this program. `Ok(false)` = it is older.
///
/// An older program must not touch a newer schema, not even to read: what it would store may
/// contradict rules that it does not know. Going back therefore means restoring a backup.
pub(super) fn is_current(found: Option<u32>, runner: &Runner) -> Result<bool, StoreError> {
    let (found, known) = (found.unwrap_or(0), newest(runner));
    if found > known {
        return Err(StoreError::SchemaAhead { found, known });
    }
    Ok(found == known)
}

/// The error of a database that is older than this program.
pub(super) fn behind(found: Option<u32>, runner: &Runner) -> StoreError {
    StoreError::SchemaBehind { found: found.unwrap_or(0), needed: newest(runner) }
}

/// What was done.
pub(super) fn report(from: Option<u32>, runner: &Runner, done: &refinery::Report) -> Migrated {
    let applied = done
        .applied_migrations()
        .iter()
        .map(|m| format!("V{:04}__{}", m.version(), m.name()))
        .collect();
    Migrated { from, to: newest(runner), applied }
}

fn number(version: refinery::SchemaVersion) -> u32 {
    u32::try_from(version).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_folders_carry_the_same_migrations() {
        let names = |runner: Runner| -> Vec<String> {
            let mut names: Vec<_> =
                runner.get_migrations().iter().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(names(postgres::migrations::runner()), names(sqlite::migrations::runner()));
        assert!(newest(&sqlite::migrations::runner()) >= 1);
    }
}
