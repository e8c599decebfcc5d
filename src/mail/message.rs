//! A letter as a mail server gets it (RFC 5322). Nothing that users or administrators chose gets into
//! a header field but by way of its type: addresses as parsed addresses, the subject as one line of
//! encoded words. So nobody can add a field, a recipient or a second letter.

use jiff::Timestamp;
use lettre::address::Envelope;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};
use url::Host;
use uuid::Uuid;

use super::templates::Texts;
use crate::model::Email;

/// Longest line, in bytes (RFC 5322 §2.1.1).
const MAX_LINE: usize = 998;

/// Who writes.
pub(super) struct Sender {
    /// `From`, and the envelope's sender.
    pub(super) from: Mailbox,
    /// `Reply-To`.
    pub(super) reply_to: Option<Mailbox>,
    /// The right-hand side of message ids.
    pub(super) host: String,
}

/// A letter, ready to be sent.
pub(super) struct Written {
    /// Sender and recipient for the server.
    pub(super) envelope: Envelope,
    /// Header and body.
    pub(super) bytes: Vec<u8>,
}

/// There are addresses that we take and no message can be written to.
#[derive(Debug, thiserror::Error)]
#[error("the recipient's address cannot be written into a message")]
pub(super) struct Unwritable;

impl Sender {
    /// Writes a letter. `id` is the same for every attempt, so that a mailbox that got one twice (the
    /// server's answer was lost) can show it once.
    pub(super) fn write(
        &self,
        id: Uuid,
        to: &Email,
        texts: Texts,
        now: Timestamp,
    ) -> Result<Written, Unwritable> {
        let to = Mailbox::new(None, recipient(to)?);
        let mut message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(texts.subject)
            .date(now.into())
            .message_id(Some(format!("<{id}@{}>", self.host)))
            // RFC 3834 §5: no vacation notices in answer, please; the second is Exchange's.
            .raw_header(field("Auto-Submitted", "auto-generated"))
            .raw_header(field("X-Auto-Response-Suppress", "All"));
        if let Some(reply_to) = &self.reply_to {
            message = message.reply_to(reply_to.clone());
        }
        let body = MultiPart::alternative()
            .singlepart(part(ContentType::TEXT_PLAIN, texts.text))
            .singlepart(part(ContentType::TEXT_HTML, texts.html));
        let message = message.multipart(body).map_err(|_| Unwritable)?;
        Ok(Written { envelope: message.envelope().clone(), bytes: message.formatted() })
    }
}

/// The address with its domain as it is in the DNS (RFC 5891), so that only a mailbox name in another
/// script needs a server that knows such names (RFC 6531).
fn recipient(to: &Email) -> Result<Address, Unwritable> {
    let (user, domain) = to.address().rsplit_once('@').ok_or(Unwritable)?;
    let Ok(Host::Domain(domain)) = Host::parse(domain) else { return Err(Unwritable) };
    Address::new(user, domain).map_err(|_| Unwritable)
}

/// A text as it is when it is ASCII with lines that may be sent, so that a long link
/// is still one to whoever looks at the raw letter; else quoted-printable.
fn part(kind: ContentType, text: String) -> SinglePart {
    let lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches('\r')).collect();
    let fits = |line: &&str| line.len() <= MAX_LINE && !line.contains(['\r', '\0']);
    let body = if text.is_ascii() && lines.iter().all(fits) {
        let bytes = lines.join("\r\n").into_bytes();
        Body::dangerous_pre_encoded(bytes, ContentTransferEncoding::SevenBit)
    } else {
        Body::new_with_encoding(text, ContentTransferEncoding::QuotedPrintable)
            .expect("everything can be quoted-printable")
    };
    SinglePart::builder().header(kind).body(body)
}

fn field(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(to: &str, subject: &str, text: &str) -> Option<(Envelope, String)> {
        let sender = Sender {
            from: "\"Bücher, Inc.\" <no-reply@example.com>".parse().expect("a mailbox"),
            reply_to: Some("help@example.com".parse().expect("a mailbox")),
            host: "app.example.com".to_owned(),
        };
        let texts = Texts {
            subject: subject.to_owned(),
            text: text.to_owned(),
            html: format!("<p>{text}</p>"),
        };
        let id = "018f2d3e-0000-7000-8000-000000000001".parse().expect("a UUID");
        let now = "2026-01-02T03:04:05Z".parse().expect("a time");
        let written = sender.write(id, &to.parse().expect("an address"), texts, now).ok()?;
        Some((written.envelope, String::from_utf8(written.bytes).expect("text")))
    }

    /// The header's fields, unfolded.
    fn fields(message: &str) -> Vec<String> {
        let (header, _) = message.split_once("\r\n\r\n").expect("a header");
        header.replace("\r\n ", " ").split("\r\n").map(str::to_owned).collect()
    }

    #[test]
    fn a_letter_has_the_fields_of_one_that_a_program_sends() {
        let (envelope, message) = write("ann@example.org", "Hello", "text").expect("a letter");
        assert_eq!(envelope.from().expect("a sender").to_string(), "no-reply@example.com");
        let to: Vec<_> = envelope.to().iter().map(ToString::to_string).collect();
        assert_eq!(to, ["ann@example.org"]);
        let fields = fields(&message);
        for expected in [
            "To: ann@example.org",
            "Subject: Hello",
            "Reply-To: help@example.com",
            "Date: Fri, 02 Jan 2026 03:04:05 +0000",
            "Message-ID: <018f2d3e-0000-7000-8000-000000000001@app.example.com>",
            "Auto-Submitted: auto-generated",
            "X-Auto-Response-Suppress: All",
            "MIME-Version: 1.0",
        ] {
            assert!(fields.iter().any(|field| field == expected), "{expected}\n{message}");
        }
        assert!(fields.iter().any(|field| field.starts_with("From: =?utf-8?b?")), "{message}");
        assert!(fields.iter().any(|f| f.starts_with("Content-Type: multipart/alternative;")));
    }

    #[test]
    fn nothing_in_an_address_or_a_subject_becomes_a_field() {
        let plain = write("ann@example.org", "Hello", "text").expect("a letter").1;
        for (to, subject) in [
            ("ann@example.org", "Hello\r\nBcc: eve@example.org"),
            ("ann@example.org", "Hello\r\n\r\nanother body"),
            ("ann@example.org", "Hello\nX: y"),
            ("ann@example.org", "Hello =?utf-8?q?=0D=0ABcc:_eve?="),
            ("ann@example.org", "\u{2028}Bcc: eve@example.org"),
            ("\"a, eve@example.org\"@example.org", "Hello"),
            ("\"a> RCPT TO:<eve@example.org\"@example.org", "Hello"),
        ] {
            let Some((envelope, message)) = write(to, subject, "text") else { continue };
            assert_eq!(envelope.to().len(), 1, "{to}");
            let names = |message: &str| {
                let fields = fields(message).into_iter();
                fields.map(|f| f.split(':').next().unwrap_or("").to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(names(&message), names(&plain), "{to} {subject:?}\n{message}");
            assert!(!envelope.to()[0].to_string().contains(['\r', '\n', ' ', '>']), "{to}");
        }
    }

    #[test]
    fn domains_of_other_scripts_are_written_as_in_the_dns() {
        let (envelope, message) = write("ann@bücher.example", "x", "x").expect("a letter");
        assert_eq!(envelope.to()[0].to_string(), "ann@xn--bcher-kva.example");
        assert!(message.is_ascii(), "{message}");
        let (envelope, _) = write("änn@example.org", "x", "x").expect("a letter");
        assert_eq!(envelope.to()[0].to_string(), "änn@example.org");
    }

    #[test]
    fn a_link_stays_whole_on_its_line_and_all_else_arrives_as_ascii() {
        let link = format!("https://app.example.com/verify?token={}", "x".repeat(400));
        let (_, message) = write("ann@example.org", "x", &format!("Hello\n{link}\n")).expect("one");
        assert!(message.lines().any(|line| line == link), "{message}");
        let (_, message) = write("ann@example.org", "x", "Grüße, 日本").expect("a letter");
        assert!(message.is_ascii(), "{message}");
        assert!(message.contains("quoted-printable") && !message.contains("Encoding: base64"));
        let (_, message) = write("ann@example.org", "x", &"x".repeat(2000)).expect("a letter");
        assert!(message.lines().all(|line| line.len() <= MAX_LINE), "{message}");
    }
}
