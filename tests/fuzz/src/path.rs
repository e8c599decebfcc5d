//! The path parser: what it takes has one reading, however often and by whomever it is decoded.

use portcullis::proxy::path::{CanonicalPath, MAX_PATH_BYTES, decode_segment, decodes_to};

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let naive = is_plain(text);
    let path = match CanonicalPath::parse(text) {
        Ok(path) => path,
        Err(error) => {
            assert!(!naive, "a plain path was refused: {error}");
            return;
        }
    };
    assert_eq!(path.as_str(), text, "the path was changed");
    assert_eq!(CanonicalPath::parse(path.as_str()), Ok(path));
    assert_eq!(path.segments().collect::<Vec<_>>().join("/"), text[1..]);

    let once = decode(bytes).expect("an accepted path has only whole escapes");
    assert!(std::str::from_utf8(&once).is_ok(), "it does not decode to UTF-8");
    assert!(!once.iter().any(|&b| b < 0x20 || b == 0x7f || b == b'\\'), "a control or backslash");
    // A second decoding finds nothing more to decode.
    let twice = decode(&once);
    assert!(twice.is_none_or(|twice| twice == once), "it can be decoded twice");
    // As split at `/` by those who split first, by those who decode first, and by those who drop
    // parameters: never a dot segment, never an empty one but the last.
    let decoded: Vec<&[u8]> = once[1..].split(|&b| b == b'/').collect();
    for (at, segment) in decoded.iter().enumerate() {
        let bare = segment.split(|&b| b == b';').next().unwrap_or_default();
        assert!(bare != b"." && bare != b"..", "a dot segment");
        let last = at + 1 == decoded.len() && segment.is_empty();
        assert!(!bare.is_empty() || last, "an empty segment");
    }
    assert_eq!(path.has_escapes(), text.contains('%'));
    assert_eq!(path.has_parameters(), once.contains(&b';'));
    assert_eq!(path.has_encoded_slash(), text.to_ascii_lowercase().contains("%2f"));
    for segment in path.segments() {
        let decoded = decode_segment(segment).expect("checked: UTF-8");
        assert!(decodes_to(segment, &decoded));
    }
}

/// What nobody could refuse: words between single slashes.
fn is_plain(text: &str) -> bool {
    text.len() <= MAX_PATH_BYTES
        && text.strip_prefix('/').is_some_and(|rest| {
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            let word = |s: &str| {
                !s.is_empty()
                    && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            };
            (rest.is_empty() && text == "/") || (!rest.is_empty() && rest.split('/').all(word))
        })
}

/// Decodes once; `None` = an escape that is none.
pub fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            out.push(*first);
            rest = after;
            continue;
        }
        let [high, low, after @ ..] = after else { return None };
        let digit = |b: u8| char::from(b).to_digit(16);
        out.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
        rest = after;
    }
    Some(out)
}
