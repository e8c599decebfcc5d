//! Which passwords may be chosen. Looks only at new passwords: a rule that is made stricter never
//! locks anybody out. Counts characters as people see them typed (Unicode scalar values) and
//! never changes a password, not even its spaces.

use std::sync::LazyLock;

use crate::config::{self, CharacterClass, Problem};
use crate::model::Email;

/// Longest password in bytes: beyond any phrase, and hashed in one go.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// Passwords that guessing programs try first; one a line, lower case, sorted by bytes.
const COMMON_PASSWORDS: &str = include_str!("common_passwords.txt");

static COMMON: LazyLock<Vec<&str>> = LazyLock::new(|| COMMON_PASSWORDS.lines().collect());

/// The rule for new passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    min_length: usize,
    require: Vec<CharacterClass>,
    refuse_common: bool,
}

impl Policy {
    /// Checks `[passwords]`.
    ///
    /// # Errors
    /// A shortest length that lets everything or nothing pass.
    pub fn compile(config: &config::Passwords) -> Result<Self, Vec<Problem>> {
        if !(1..=256).contains(&config.min_length) {
            return Err(vec![Problem::new("passwords.min_length", "must be from 1 to 256")]);
        }
        let mut require = Vec::new();
        for &class in &config.require {
            if !require.contains(&class) {
                require.push(class);
            }
        }
        Ok(Self { min_length: config.min_length, require, refuse_common: config.refuse_common })
    }

    /// Fewest characters.
    pub fn min_length(&self) -> usize {
        self.min_length
    }

    /// Kinds of character that must occur.
    pub fn require(&self) -> &[CharacterClass] {
        &self.require
    }

    /// Whether the owner of `email` may choose `password`.
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
        if self.refuse_common && is_common(password) {
            reasons.push(Reason::Pwned);
            rules.push("it is one of the passwords that are guessed first".to_owned());
        }
        if email.is_some_and(|email| names_owner(password, email)) {
            if !reasons.contains(&Reason::Pwned) {
                reasons.push(Reason::Pwned);
            }
            rules.push("it must not be the e-mail address".to_owned());
        }
        if reasons.is_empty() {
            return Ok(());
        }
        Err(Weakness { message: format!("Password is too weak: {}.", rules.join("; ")), reasons })
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
    /// Known to those who guess: a common password, or the user's own address.
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
