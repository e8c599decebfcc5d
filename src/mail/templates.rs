//! The texts of letters: built-in ones, and an operator's in their place. All are read, parsed and
//! tried with sample values when the configuration is compiled, so that a letter cannot fail for a
//! mistake in its text when somebody waits for it.
//!
//! ```text
//! NAME.subject.txt  NAME.txt  NAME.html     a letter's texts, see Template
//! _NAME.txt  _NAME.html                     parts that they extend or include
//! ```
//!
//! What is written into `.html` is escaped. A value that a letter does not have is an error where
//! it is written, and false where it is asked for.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::{Path, PathBuf};

use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, UndefinedBehavior};
use serde::Serialize;

use crate::config::template_files;
use crate::model::{JsonObject, Template};

/// Longest file of a text; the longest letters that people write by hand have a tenth of it.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// Longest text of a letter. Values come from users, and loops may repeat them.
const MAX_TEXT_BYTES: usize = 512 << 10;

/// Longest subject, in characters: more is not shown anywhere.
const MAX_SUBJECT: usize = 200;

macro_rules! built_in {
    ($($name:literal)+) => {
        &[$(($name, include_str!(concat!("templates/", $name)))),+]
    };
}

/// The built-in texts.
const BUILT_IN: &[(&str, &str)] = built_in! {
    "_end.txt" "_layout.html" "_proof.html" "_proof.txt"
    "already_registered.html" "already_registered.subject.txt" "already_registered.txt"
    "confirmation.html" "confirmation.subject.txt" "confirmation.txt"
    "email_change_new.html" "email_change_new.subject.txt" "email_change_new.txt"
    "email_change_current.html" "email_change_current.subject.txt" "email_change_current.txt"
    "email_changed.html" "email_changed.subject.txt" "email_changed.txt"
    "factor_added.html" "factor_added.subject.txt" "factor_added.txt"
    "factor_removed.html" "factor_removed.subject.txt" "factor_removed.txt"
    "invite.html" "invite.subject.txt" "invite.txt"
    "magic_link.html" "magic_link.subject.txt" "magic_link.txt"
    "password_changed.html" "password_changed.subject.txt" "password_changed.txt"
    "reauthentication.html" "reauthentication.subject.txt" "reauthentication.txt"
    "recovery.html" "recovery.subject.txt" "recovery.txt"
    "recovery_code_used.html" "recovery_code_used.subject.txt" "recovery_code_used.txt"
    "test.html" "test.subject.txt" "test.txt"
};

/// The texts of all letters.
pub(super) struct Templates {
    environment: Environment<'static>,
}

/// What texts may say. A letter has those of its kind ([`Template::has_link`] and others).
#[derive(Clone, Serialize)]
pub(super) struct Values<'a> {
    /// Whom the letter is to.
    pub(super) email: &'a str,
    /// The site, as an address.
    pub(super) site_url: &'a str,
    /// The site, as a name.
    pub(super) site_host: &'a str,
    /// Where the link leads in the end.
    pub(super) redirect_to: &'a str,
    /// What the user noted, for example a name.
    pub(super) data: &'a JsonObject,
    /// The link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) confirmation_url: Option<&'a str>,
    /// What is secret in the link, for links that the site makes itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_hash: Option<&'a str>,
    /// How long the link works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) minutes: Option<u64>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires_in: Option<String>,
    /// Six digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<&'a str>,
    /// How long they work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code_minutes: Option<u64>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code_expires_in: Option<String>,
    /// The address that the account has, or had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) old_email: Option<&'a str>,
    /// The address that it shall have, or has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) new_email: Option<&'a str>,
}

/// A letter's texts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Texts {
    /// One line.
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

/// Why a letter has no text: its place, without what was to be written there.
#[derive(Debug, thiserror::Error)]
#[error("the text {name} fails in line {line}")]
pub(super) struct TextError {
    name: String,
    line: usize,
}

impl Templates {
    /// Reads the built-in texts and those in `folder`, and tries all of them for a site.
    ///
    /// # Errors
    /// Everything that is wrong with them, with file and line.
    pub(super) fn compile(folder: Option<&Path>, site_url: &str) -> Result<Self, Vec<String>> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        // Names what is undefined. Errors then hold the values around it, too: none is printed whole.
        environment.set_debug(true);
        let mut wrong = Vec::new();
        for (name, text) in BUILT_IN {
            if let Err(error) = environment.add_template(name, text) {
                wrong.push(describe(&error, &BTreeMap::new()));
            }
        }
        let mut files = BTreeMap::new();
        if let Some(folder) = folder {
            match template_files(folder) {
                Ok(found) => {
                    for file in found {
                        if let Err(message) = add(&mut environment, &file, &mut files) {
                            wrong.push(message);
                        }
                    }
                }
                Err(error) => wrong.push(format!("{} cannot be read: {error}", folder.display())),
            }
        }
        let templates = Self { environment };
        // What cannot be parsed is missing, so that trying would find fault with others.
        if wrong.is_empty() {
            templates.try_all(site_url, &files, &mut wrong);
        }
        wrong.sort();
        wrong.dedup();
        if wrong.is_empty() { Ok(templates) } else { Err(wrong) }
    }

    /// Writes a letter.
    ///
    /// # Errors
    /// A text says something that this letter does not have, or becomes too long.
    pub(super) fn write(&self, kind: Template, values: &Values<'_>) -> Result<Texts, TextError> {
        let values = Value::from(Serde(values));
        let [subject, text, html] = kind.files().map(|name| {
            let written = self.render(&name, &values).map_err(|error| {
                let error = innermost(&error);
                let (name, line) = (error.name().unwrap_or(&name), error.line().unwrap_or(0));
                TextError { name: name.to_owned(), line }
            })?;
            if written.len() > MAX_TEXT_BYTES {
                Err(TextError { name, line: 0 })
            } else {
                Ok(written)
            }
        });
        Ok(Texts { subject: one_line(&subject?), text: text?, html: html? })
    }

    fn render(&self, name: &str, values: &Value) -> Result<String, Error> {
        self.environment.get_template(name)?.render(values)
    }

    fn try_all(&self, site_url: &str, files: &BTreeMap<String, PathBuf>, wrong: &mut Vec<String>) {
        let nothing = JsonObject::new();
        for kind in Template::ALL {
            let values = Value::from(Serde(sample(kind, site_url, &nothing)));
            for (index, name) in kind.files().iter().enumerate() {
                match self.render(name, &values) {
                    Err(error) => wrong.push(describe(&error, files)),
                    Ok(subject) if index == 0 && one_line(&subject).is_empty() => {
                        wrong.push(format!(
                            "{} is empty: a letter needs a subject",
                            place(name, files)
                        ));
                    }
                    Ok(_) => {}
                }
            }
        }
    }
}

/// Reads one of the operator's files.
fn add(
    environment: &mut Environment<'static>,
    file: &Path,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<(), String> {
    let shown = file.display();
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
        return Err(format!("{shown}: the name is not UTF-8 text"));
    };
    let is_letter = Template::ALL.into_iter().any(|kind| kind.files().iter().any(|f| f == name));
    if !is_letter && !name.starts_with('_') {
        let kinds = Template::ALL.map(Template::name).join(", ");
        return Err(format!(
            "{shown}: there is no such letter. NAME.subject.txt, NAME.txt and NAME.html are the texts \
             of {kinds}; parts of your own begin with `_`"
        ));
    }
    let unusable = |error: &dyn std::fmt::Display| format!("{shown} cannot be read: {error}");
    let length = file.metadata().map_err(|error| unusable(&error))?;
    if !length.is_file() {
        return Err(unusable(&"it is no file"));
    }
    if length.len() > MAX_FILE_BYTES {
        return Err(format!("{shown} is longer than 256KiB"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| unusable(&error))?;
    files.insert(name.to_owned(), file.to_owned());
    environment.add_template_owned(name.to_owned(), text).map_err(|error| describe(&error, files))
}

/// Where a mistake is, and what it is.
fn describe(error: &Error, files: &BTreeMap<String, PathBuf>) -> String {
    let error = innermost(error);
    let place = place(error.name().unwrap_or("?"), files);
    let line = error.line().map(|line| format!(":{line}")).unwrap_or_default();
    match error.detail() {
        Some(detail) => format!("{place}{line}: {}: {detail}", error.kind()),
        None => format!("{place}{line}: {}", error.kind()),
    }
}

/// The operator's file of that name, or the built-in one.
fn place(name: &str, files: &BTreeMap<String, PathBuf>) -> String {
    match files.get(name) {
        Some(file) => file.display().to_string(),
        None => format!("the built-in {name}"),
    }
}

/// Where it happened: around it are those that included or extended the place.
fn innermost(error: &Error) -> &Error {
    let mut error = error;
    while let Some(cause) = error.source().and_then(|cause| cause.downcast_ref::<Error>()) {
        error = cause;
    }
    error
}

/// A subject is one line: a break in it would begin another header field.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(MAX_SUBJECT).collect()
}

/// A time in words, such as `1 hour`; rounded down to what has a name.
pub(super) fn in_words(time: std::time::Duration) -> String {
    let minutes = time.as_secs() / 60;
    let (count, unit) = match minutes {
        0 => (time.as_secs(), "second"),
        m if m % (24 * 60) == 0 => (m / (24 * 60), "day"),
        m if m % 60 == 0 => (m / 60, "hour"),
        m => (m, "minute"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

/// Values of a letter that nobody gets.
fn sample<'a>(kind: Template, site_url: &'a str, data: &'a JsonObject) -> Values<'a> {
    Values {
        email: "somebody@example.com",
        site_url,
        site_host: "example.com",
        redirect_to: site_url,
        data,
        confirmation_url: kind.has_link().then_some("https://example.com/auth/verify?token=sample"),
        token_hash: kind.has_link().then_some("sample"),
        minutes: kind.has_link().then_some(60),
        expires_in: kind.has_link().then(|| "1 hour".to_owned()),
        token: kind.has_code().then_some("012345"),
        code_minutes: kind.has_code().then_some(10),
        code_expires_in: kind.has_code().then(|| "10 minutes".to_owned()),
        old_email: kind.has_addresses().then_some("old@example.com"),
        new_email: kind.has_addresses().then_some("new@example.com"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SITE: &str = "https://app.example.com";

    fn compile(files: &[(&str, &str)]) -> (Result<Templates, Vec<String>>, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("the folder is ours");
        }
        (Templates::compile(Some(folder.path()), SITE), folder)
    }

    fn written(templates: &Templates, kind: Template, data: &JsonObject) -> Texts {
        templates.write(kind, &sample(kind, SITE, data)).expect("a letter")
    }

    #[test]
    fn the_built_in_letters_hold_what_they_are_for() {
        let templates = Templates::compile(None, SITE).unwrap_or_else(|wrong| panic!("{wrong:?}"));
        for kind in Template::ALL {
            let Texts { subject, text, html } = written(&templates, kind, &JsonObject::new());
            assert!(subject.contains("example.com") && !subject.contains('{'), "{subject}");
            // A code in a subject shows on a locked screen.
            assert!(!subject.contains("012345"), "{subject}");
            for (what, part) in [("text", &text), ("html", &html)] {
                let shows = |what: &str| part.contains(what);
                let at = format!("{} {what}:\n{part}", kind.name());
                assert_eq!(
                    shows("https://example.com/auth/verify?token=sample"),
                    kind.has_link() && what == "text",
                    "{at}"
                );
                assert_eq!(shows("012345"), kind.has_code(), "{at}");
                assert_eq!(shows("10 minutes"), kind.has_code(), "{at}");
                assert_eq!(shows("1 hour"), kind.has_link(), "{at}");
                assert_eq!(shows("new@example.com"), kind.has_addresses(), "{at}");
                assert!(shows("somebody@example.com") && !shows("{{") && !shows("{%"), "{at}");
            }
            let link = "href=\"https:&#x2f;&#x2f;example.com&#x2f;auth&#x2f;verify?token=sample\"";
            assert_eq!(html.matches(link).count(), if kind.has_link() { 2 } else { 0 }, "{html}");
            assert!(html.trim_start().starts_with("<!doctype html>") && html.ends_with("</html>"));
            assert!(!text.contains("\n\n\n") && !text.starts_with('\n'), "{text:?}");
            assert!(!text.contains('<'), "{text}");
        }
    }

    #[test]
    fn a_link_is_alone_on_its_line() {
        let templates = Templates::compile(None, SITE).unwrap_or_else(|wrong| panic!("{wrong:?}"));
        let text = written(&templates, Template::Recovery, &JsonObject::new()).text;
        assert!(
            text.lines().any(|l| l == "https://example.com/auth/verify?token=sample"),
            "{text}"
        );
        insta::assert_snapshot!(text);
    }

    #[test]
    fn an_operators_file_takes_the_place_of_one_text_only() {
        let (templates, _folder) = compile(&[
            ("recovery.subject.txt", "Neues Passwort\n"),
            ("_footer.html", "<i>{{ site_url }}</i>"),
            ("recovery.html", "<b>{{ token }}</b>{% include '_footer.html' %}"),
            ("_layout.html", "ours {% block body %}{% endblock %}"),
            ("notes.md", "{{ no text of ours"),
            (".hidden.html", "{{"),
        ]);
        let templates = templates.unwrap_or_else(|wrong| panic!("{wrong:?}"));
        let Texts { subject, text, html } =
            written(&templates, Template::Recovery, &JsonObject::new());
        assert_eq!(subject, "Neues Passwort");
        assert_eq!(html, "<b>012345</b><i>https:&#x2f;&#x2f;app.example.com</i>");
        assert!(text.contains("has asked for a new password"), "{text}");
        let other = written(&templates, Template::Invite, &JsonObject::new()).html;
        assert!(other.starts_with("ours "), "{other}");
    }

    #[test]
    fn what_users_chose_is_escaped_in_html_and_makes_no_second_line_of_a_subject() {
        let (templates, _folder) = compile(&[
            ("test.subject.txt", "For {{ data.name }}"),
            ("test.html", "<p>{{ data.name }}</p>"),
            ("test.txt", "{% if data.name %}{{ data.name }}{% endif %}"),
            ("_x.html", "unused"),
        ]);
        assert!(templates.is_err(), "a name that nobody need have");
        let (templates, _folder) = compile(&[
            ("test.subject.txt", "For {{ data.name|default('you') }}"),
            ("test.html", "<p>{{ data.name|default('you') }}</p>"),
            ("test.txt", "{% if data.name %}{{ data.name }}{% endif %}"),
        ]);
        let templates = templates.unwrap_or_else(|wrong| panic!("{wrong:?}"));
        let name = "<script>\r\nBcc: x@example.com {{ site_url }}";
        let data = JsonObject::from_iter([("name".to_owned(), name.into())]);
        let texts = written(&templates, Template::Test, &data);
        assert_eq!(texts.subject, "For <script> Bcc: x@example.com {{ site_url }}");
        assert_eq!(texts.html.trim(), "<p>&lt;script&gt;\r\nBcc: x@example.com {{ site_url }}</p>");
        let long = JsonObject::from_iter([("name".to_owned(), "x".repeat(MAX_TEXT_BYTES).into())]);
        let error = templates.write(Template::Test, &sample(Template::Test, SITE, &long));
        assert!(error.is_err());
    }

    #[test]
    fn mistakes_are_told_with_file_and_line_all_at_once() {
        let (templates, folder) = compile(&[
            ("recovery.txt", "one\ntwo {{ token"),
            ("recvery.html", "x"),
            ("invite.html", "{% if %}"),
        ]);
        let at = |name: &str| folder.path().join(name).display().to_string();
        let wrong = templates.err().expect("mistakes");
        assert_eq!(wrong.len(), 3, "{wrong:#?}");
        assert!(
            wrong[0].starts_with(&format!("{}:1: syntax error", at("invite.html"))),
            "{wrong:#?}"
        );
        assert!(
            wrong[1].starts_with(&format!("{}:2: syntax error", at("recovery.txt"))),
            "{wrong:#?}"
        );
        assert!(wrong[2].starts_with(&format!("{}: there is no such letter", at("recvery.html"))));

        let (templates, folder) = compile(&[
            ("recovery.txt", "one\n{{ tokn }}"),
            ("test.txt", "{{ token }}"),
            ("invite.html", "\n{% include '_gone.html' %}"),
            ("confirmation.html", "{% extends '_own.html' %}"),
            ("_own.html", "\n\n{{ data.name.first }}"),
            ("magic_link.subject.txt", " \n "),
        ]);
        let at = |name: &str| folder.path().join(name).display().to_string();
        let wrong = templates.err().expect("mistakes");
        let expected = [
            format!("{}:3: undefined value", at("_own.html")),
            format!("{}:2: template not found", at("invite.html")),
            format!("{} is empty", at("magic_link.subject.txt")),
            format!("{}:2: undefined value", at("recovery.txt")),
            format!("{}:1: undefined value", at("test.txt")),
        ];
        assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
        for (found, expected) in wrong.iter().zip(&expected) {
            assert!(found.starts_with(expected), "{found}\n{expected}");
        }
        assert!(wrong[3].contains("tokn"), "{wrong:#?}");
    }

    #[test]
    fn folders_and_files_that_cannot_be_read() {
        let missing = Templates::compile(Some(Path::new("/nowhere/at/all")), SITE);
        let wrong = missing.err().expect("no folder");
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].starts_with("/nowhere/at/all cannot be read: No such file"), "{wrong:?}");
        let (_, folder) = compile(&[]);
        fs::write(folder.path().join("test.txt"), b"\xff").expect("the folder is ours");
        fs::create_dir(folder.path().join("test.html")).expect("the folder is ours");
        fs::write(folder.path().join("invite.txt"), vec![b'x'; 257 << 10]).expect("ours");
        let wrong = Templates::compile(Some(folder.path()), SITE).err().expect("mistakes");
        assert_eq!(wrong.len(), 3, "{wrong:#?}");
        assert!(wrong[0].ends_with("invite.txt is longer than 256KiB"), "{wrong:#?}");
        assert!(wrong[1].ends_with("test.html cannot be read: it is no file"), "{wrong:#?}");
        assert!(wrong[2].contains("test.txt cannot be read: stream did not contain"), "{wrong:#?}");
    }

    #[test]
    fn times_have_words() {
        for (seconds, expected) in [
            (3600, "1 hour"),
            (600, "10 minutes"),
            (60, "1 minute"),
            (90 * 60, "90 minutes"),
            (7 * 24 * 3600, "7 days"),
            (24 * 3600, "1 day"),
            (30, "30 seconds"),
        ] {
            assert_eq!(in_words(std::time::Duration::from_secs(seconds)), expected);
        }
    }
}
