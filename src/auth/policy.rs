//! Which passwords may be chosen. Looks only at new passwords: a rule that is made stricter never
//! locks anybody out. Counts characters as people see them typed (Unicode scalar values) and
//! never changes a password, not even its spaces.

use std::sync::LazyLock;

use super::leaked::Leaked;
use crate::config::{self, CharacterClass, Problem};
use crate::model::Email;

/// Longest password in bytes: beyond any phrase, and hashed in one go.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// Passwords that guessing programs try first; one a line, lower case, sorted by bytes.
const COMMON_PASSWORDS: &str = include_str!("common_passwords.txt");

static COMMON: LazyLock<Vec<&str>> = LazyLock::new(|| COMMON_PASSWORDS.lines().collect());

/// The rule for new passwords.
#[derive(Clone, Debug)]
pub struct Policy {
    min_length: usize,
    require: Vec<CharacterClass>,
    refuse_common: bool,
    leaked: Option<Leaked>,
    /// In lower case, the longest first: one may be part of another.
    words: Vec<String>,
}

impl Policy {
    /// Checks `[passwords]`.
    ///
    /// # Errors
    /// A shortest length that lets everything or nothing pass; words that are too short to mean
    /// anything; a list of leaked passwords that cannot be used.
    pub fn compile(config: &config::Passwords) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        if !(1..=256).contains(&config.min_length) {
            problems.push(Problem::new("passwords.min_length", "must be from 1 to 256"));
        }
        let mut words: Vec<_> = config.words.iter().map(|word| word.to_lowercase()).collect();
        if words.iter().any(|word| !(3..=64).contains(&word.chars().count())) {
            let message = "each word must have 3 to 64 characters";
            problems.push(Problem::new("passwords.words", message));
        }
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        let leaked = match config.leaked.as_deref().map(|path| (path, Leaked::open(path))) {
            None => None,
            Some((_, Ok(leaked))) => Some(leaked),
            Some((path, Err(error))) => {
                let message = format!("{}: {error}", path.display());
                problems.push(Problem::new("passwords.leaked", message));
                None
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut require = Vec::new();
        for &class in &config.require {
            if !require.contains(&class) {
                require.push(class);
            }
        }
        let (min_length, refuse_common) = (config.min_length, config.refuse_common);
        Ok(Self { min_length, require, refuse_common, leaked, words })
    }

    /// Whether [`check`](Self::check) reads a file, which may take as long as the disk does.
    pub fn reads_a_file(&self) -> bool {
        self.leaked.is_some()
    }

    /// Fewest characters.
    pub fn min_length(&self) -> usize {
        self.min_length
    }

    /// Kinds of character that must occur.
    pub fn require(&self) -> &[CharacterClass] {
        &self.require
    }

    /// Whether the owner of `email` may choose `password`. Blocks while the list of leaked
    /// passwords is read, some 36 small pieces of it; when that fails, this rule is passed over and
    /// the log says so.
    ///
    /// # Errors
    /// [`Weakness`] names every rule that is broken.
    pub fn check(&self, password: &str, email: Option<&Email>) -> Result<(), Weakness> {
        let mut reasons = Vec::new();
        let mut rules = Vec::new();
        if password.len() > MAX_PASSWORD_BYTES {
            reasons.push(Reason::Length);
            rules.push(format!("it must have at most {MAX_PASSWORD_BYTES} bytes"));
        } else if password.chars().count() < self.min_length {
            reasons.push(Reason::Length);
            rules.push(format!("it must have at least {} characters", self.min_length));
        }
        let missing: Vec<_> =
            self.require.iter().filter(|class| !occurs(**class, password)).copied().collect();
        if !missing.is_empty() {
            reasons.push(Reason::Characters);
            let names: Vec<_> = missing.into_iter().map(class_name).collect();
            rules.push(format!("it must contain {}", names.join(" and ")));
        }
        let mut known = Vec::new();
        if self.refuse_common && is_common(password) {
            known.push("it is one of the passwords that are guessed first");
        }
        if self.is_leaked(password) {
            known.push("it was leaked somewhere, so that those who guess know it");
        }
        if email.is_some_and(|email| names_owner(password, email)) {
            known.push("it must not be the e-mail address");
        }
        if self.is_mostly_words(password) {
            known.push("apart from words that everybody here knows, it is too short");
        }
        if !known.is_empty() {
            reasons.push(Reason::Pwned);
            rules.extend(known.into_iter().map(str::to_owned));
        }
        if reasons.is_empty() {
            return Ok(());
        }
        Err(Weakness { message: format!("Password is too weak: {}.", rules.join("; ")), reasons })
    }

    fn is_leaked(&self, password: &str) -> bool {
        self.leaked.as_ref().is_some_and(|leaked| {
            leaked.contains(password).unwrap_or_else(|error| {
                tracing::error!(%error, "passwords.leaked cannot be read; a password was not looked up");
                false
            })
        })
    }

    /// Whether one of the configured words occurs and the rest would be too short by itself.
    fn is_mostly_words(&self, password: &str) -> bool {
        let mut rest = password.to_lowercase();
        let mut occurs = false;
        for word in &self.words {
            if rest.contains(word.as_str()) {
                occurs = true;
                // What stood on both sides of it stays apart.
                rest = rest.replace(word.as_str(), "\0");
            }
        }
        occurs && rest.chars().filter(|c| *c != '\0').count() < self.min_length
    }
}

/// Why a password was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weakness {
    /// A sentence that lists the broken rules.
    pub message: String,
    /// The broken rules, for programs.
    pub reasons: Vec<Reason>,
}

/// A rule that a password breaks, in the words of Supabase Auth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Too short or too long.
    Length,
    /// A kind of character is missing.
    Characters,
    /// Known to those who guess: a common or leaked password, the user's own address, or little
    /// more than a word that everybody knows.
    Pwned,
}

impl Reason {
    /// The word in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Characters => "characters",
            Self::Pwned => "pwned",
        }
    }
}

fn occurs(class: CharacterClass, password: &str) -> bool {
    match class {
        CharacterClass::Digit => password.chars().any(char::is_numeric),
        CharacterClass::Lowercase => password.chars().any(char::is_lowercase),
        CharacterClass::Symbol => password.chars().any(|c| !c.is_alphanumeric()),
        CharacterClass::Uppercase => password.chars().any(char::is_uppercase),
    }
}

fn class_name(class: CharacterClass) -> &'static str {
    match class {
        CharacterClass::Digit => "a digit",
        CharacterClass::Lowercase => "a lower-case letter",
        CharacterClass::Symbol => "a character that is neither letter nor digit",
        CharacterClass::Uppercase => "an upper-case letter",
    }
}

fn is_common(password: &str) -> bool {
    COMMON.binary_search(&password.to_lowercase().as_str()).is_ok()
}

/// NIST SP 800-63B-4 §3.1.1.2 asks to refuse words of the context, such as the user's name.
fn names_owner(password: &str, email: &Email) -> bool {
    let password = password.to_lowercase();
    let address = email.address().to_lowercase();
    let local_part = address.rsplit_once('@').map_or(address.as_str(), |(local, _)| local);
    password == address || password == local_part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default_policy() -> Policy {
        Policy::compile(&config::Passwords::default()).unwrap()
    }

    fn reasons(password: &str) -> Vec<&'static str> {
        let email = "Ann.Miller77@example.com".parse().unwrap();
        default_policy()
            .check(password, Some(&email))
            .err()
            .map(|weakness| weakness.reasons.into_iter().map(Reason::as_str).collect())
            .unwrap_or_default()
    }

    #[test]
    fn the_rule_counts_characters_and_takes_letters_of_any_script() {
        let table: [(&str, &[&str]); 17] = [
            ("Plover42", &[]),
            ("  Plover42  ", &[]),
            ("Ärger4ünd", &[]),
            ("Привет22x", &[]),
            ("ΑβΓδ٣٤٥٦", &[]),
            ("Plover4", &["length"]),
            ("Äöüäöü1", &["length"]),
            ("plover42", &["characters"]),
            ("PLOVER42", &["characters"]),
            ("Ploverplover", &["characters"]),
            ("plover", &["length", "characters"]),
            ("", &["length", "characters"]),
            ("Password1", &["pwned"]),
            ("pASSword1", &["pwned"]),
            ("password", &["characters", "pwned"]),
            ("ann.MILLER77", &["pwned"]),
            ("Ann.miller77@example.com", &["pwned"]),
        ];
        for (password, expected) in table {
            assert_eq!(reasons(password), expected, "{password:?}");
        }
    }

    #[test]
    fn a_password_has_at_most_1024_bytes() {
        assert_eq!(reasons(&format!("Aa1{}", "x".repeat(1021))), [""; 0]);
        assert_eq!(reasons(&format!("Aa1{}", "x".repeat(1022))), ["length"]);
        assert_eq!(reasons(&format!("Aa1{}", "ä".repeat(511))), ["length"]);
    }

    #[test]
    fn the_message_lists_every_broken_rule() {
        let weakness = default_policy().check("plover", None).unwrap_err();
        assert_eq!(
            weakness.message,
            "Password is too weak: it must have at least 8 characters; \
             it must contain an upper-case letter and a digit."
        );
    }

    #[test]
    fn words_that_everybody_knows_do_not_count() {
        let words = ["Portcullis", "port", "Müller"].map(str::to_owned).to_vec();
        let policy = Policy::compile(&config::Passwords { words, ..Default::default() }).unwrap();
        let table = [
            ("Portcullis-2026", false),
            ("pORTCULLISport1", false),
            ("MüllerA1aaaaa", false),
            ("MüllerA1aaaaaa", true),
            ("Portcullis-Plover42", true),
            ("Plover42", true),
        ];
        for (password, is_fine) in table {
            let reasons = policy.check(password, None).map_err(|weakness| weakness.reasons);
            assert_eq!(
                reasons,
                if is_fine { Ok(()) } else { Err(vec![Reason::Pwned]) },
                "{password}"
            );
        }
        for word in ["ab", &"x".repeat(65)] {
            let words = vec![word.to_owned()];
            let config = config::Passwords { words, ..Default::default() };
            assert_eq!(Policy::compile(&config).unwrap_err()[0].key, "passwords.words");
        }
    }

    #[test]
    fn leaked_passwords_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // SHA-1 of `Plover42`, by sha1sum.
        std::fs::write(&file, "8EC056BCC8968423B4AD3BB2CC38BE02DDBDF4E2:3\n").unwrap();
        let leaked = Some(file.path().to_owned());
        let config = config::Passwords { leaked, ..Default::default() };
        let policy = Policy::compile(&config).unwrap();
        assert_eq!(policy.check("Plover42", None).unwrap_err().reasons, [Reason::Pwned]);
        assert_eq!(policy.check("Plover43", None), Ok(()));
        let config = config::Passwords { leaked: Some("/nowhere".into()), ..Default::default() };
        assert_eq!(Policy::compile(&config).unwrap_err()[0].key, "passwords.leaked");
    }

    #[test]
    fn every_rule_can_be_switched_off() {
        let lax = Policy::compile(&config::Passwords {
            min_length: 1,
            require: Vec::new(),
            refuse_common: false,
            ..config::Passwords::default()
        });
        assert_eq!(lax.unwrap().check("password", None), Ok(()));
        for min_length in [0, 257] {
            let config = config::Passwords { min_length, ..config::Passwords::default() };
            assert_eq!(Policy::compile(&config).unwrap_err()[0].key, "passwords.min_length");
        }
    }

    #[test]
    fn the_list_is_sorted_and_has_3000_passwords_that_the_other_rules_let_pass() {
        assert!(
            COMMON.is_sorted_by(|a, b| a < b),
            "binary search needs it sorted, without repeats"
        );
        let all_but_list = Policy { refuse_common: false, ..default_policy() };
        let mut useful = 0;
        for &entry in COMMON.iter() {
            assert_eq!(entry, entry.to_lowercase());
            let capitalised: String = {
                let first_letter = entry.find(char::is_alphabetic).unwrap_or(0);
                let (head, tail) = entry.split_at(first_letter);
                let mut tail = tail.chars();
                let upper = tail.next().into_iter().flat_map(char::to_uppercase);
                head.chars().chain(upper).chain(tail.clone()).collect()
            };
            useful += usize::from(all_but_list.check(&capitalised, None).is_ok());
        }
        assert!(useful >= 3000, "{useful}");
        for word in ["Passw0rd", "Qwerty123", "Welcome1", "Summer2024", "P@ssw0rd1", "1Qaz2wsx"] {
            assert!(is_common(word), "{word}");
        }
    }
}
