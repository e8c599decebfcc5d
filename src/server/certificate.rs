//! What certificates say: the names a server certificate is for, when it ends, and whom a client
//! certificate names. Whether a certificate is good is found out elsewhere, by rustls.

use std::fmt::Write as _;

use http::HeaderValue;
use x509_parser::der_parser::asn1_rs::Any;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

/// Longest subject that is passed on. Names beyond it are not of this world, and a cut one would be
/// another's name.
const MAX_SUBJECT_BYTES: usize = 2_048;

/// What a server's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The DNS names it is for, in lower case; a `*` may stand for the first label.
    pub(super) names: Vec<String>,
    /// The last second it is good for, Unix time.
    pub(super) not_after: i64,
}

/// Why a certificate cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CertificateError {
    /// It is not X.509.
    #[error("it is not an X.509 certificate")]
    Malformed,
    /// Its subject has more bytes than are passed on.
    #[error("the subject has more than {MAX_SUBJECT_BYTES} bytes")]
    LongSubject,
}

/// Reads a server's certificate.
pub(super) fn facts(der: &[u8]) -> Result<Facts, CertificateError> {
    let certificate = parse(der)?;
    let alternatives =
        certificate.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
    let names = (alternatives.iter())
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    Ok(Facts { names, not_after: certificate.validity().not_after.timestamp() })
}

/// The subject of a client's certificate as text (RFC 4514), all of it visible ASCII.
pub(super) fn subject(der: &[u8]) -> Result<HeaderValue, CertificateError> {
    let text = distinguished_name(parse(der)?.subject());
    if text.len() > MAX_SUBJECT_BYTES {
        return Err(CertificateError::LongSubject);
    }
    HeaderValue::from_str(&text).map_err(|_| CertificateError::Malformed)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(CertificateError::Malformed),
    }
}

/// RFC 4514 §2.1: the last name first.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let names: Vec<_> = name.iter_rdn().collect();
    for (index, relative) in names.iter().rev().enumerate() {
        for (place, attribute) in relative.iter().enumerate() {
            match (index, place) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            let identifier = attribute.attr_type().to_id_string();
            match (short_name(&identifier), attribute.as_str()) {
                (Some(short), Ok(value)) => {
                    text.push_str(short);
                    text.push('=');
                    escape(value, &mut text);
                }
                (short, _) => {
                    text.push_str(short.unwrap_or(&identifier));
                    text.push_str("=#");
                    encoding_in_hex(attribute.attr_value(), &mut text);
                }
            }
        }
    }
    text
}

/// RFC 4514 §3: the names that every reader knows.
fn short_name(identifier: &str) -> Option<&'static str> {
    Some(match identifier {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        _ => return None,
    })
}

/// RFC 4514 §2.4. What is not visible ASCII is written in hex too, so that it fits a header.
fn escape(value: &str, text: &mut String) {
    for (at, byte) in value.bytes().enumerate() {
        let at_edge = at == 0 || at + 1 == value.len();
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at_edge => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}

/// The DER of a value that is no plain text (RFC 4514 §2.4).
fn encoding_in_hex(value: &Any<'_>, text: &mut String) {
    let header = value.header.tag().0;
    let constructed = u32::from(value.header.constructed()) << 5;
    let class = u32::from(value.header.class() as u8) << 6;
    let content = value.data;
    let mut put = |byte: u8| {
        let _ = write!(text, "{byte:02X}");
    };
    // Tags above 30 have no place in a name.
    put(u8::try_from(header.min(30) | constructed | class).unwrap_or(u8::MAX));
    let length = content.len().to_be_bytes();
    let from = length.iter().position(|&byte| byte != 0).unwrap_or(length.len() - 1);
    let length = &length[from..];
    if content.len() > 127 {
        put(0x80 | u8::try_from(length.len()).unwrap_or(8));
    }
    length.iter().chain(content).for_each(|&byte| put(byte));
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn made(names: &[&str], subject: &[(DnType, DnValue)]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        params.not_after = rcgen::date_time_ymd(2030, 1, 2);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_end_are_read() {
        let der = made(&["API.example", "*.shop.example", "127.0.0.1"], &[]);
        let facts = facts(&der).unwrap();
        assert_eq!(facts.names, ["api.example", "*.shop.example"]);
        assert_eq!(facts.not_after, 1_893_542_400);
        assert_eq!(super::facts(b"no certificate"), Err(CertificateError::Malformed));
    }

    #[test]
    fn subjects_are_written_as_rfc_4514_says() {
        let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
        let cases = [
            (vec![], ""),
            (
                vec![
                    (DnType::CountryName, "DE".into()),
                    (DnType::OrganizationName, utf8("Sue, Grabbit and Runn")),
                    (DnType::CommonName, utf8("L. Eagle")),
                ],
                r"CN=L. Eagle,O=Sue\, Grabbit and Runn,C=DE",
            ),
            (
                vec![(DnType::CommonName, utf8(" #a+b=\"c\";<d>\\ "))],
                "CN=\\ #a\\+b=\\\"c\\\"\\;\\<d\\>\\\\\\ ",
            ),
            (vec![(DnType::CommonName, utf8("#1"))], r"CN=\#1"),
            (
                vec![(DnType::CommonName, utf8("Lučić\r\nX: y\0"))],
                r"CN=Lu\C4\8Di\C4\87\0D\0AX: y\00",
            ),
            (vec![(DnType::CustomDnType(vec![1, 2, 3, 4]), utf8("a"))], "1.2.3.4=#0C0161"),
        ];
        for (subject, expected) in cases {
            let der = made(&["a.example"], &subject);
            assert_eq!(super::subject(&der).unwrap(), expected);
        }
    }

    #[test]
    fn a_subject_is_never_cut() {
        let long = DnValue::Utf8String("x".repeat(MAX_SUBJECT_BYTES));
        let der = made(&["a.example"], &[(DnType::CommonName, long)]);
        assert_eq!(subject(&der), Err(CertificateError::LongSubject));
    }
}
