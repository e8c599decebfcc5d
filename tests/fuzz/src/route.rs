//! The route table against a matcher that looks at every route: same route, whatever the table.

use http::Method;
use portcullis::config::Config;
use portcullis::proxy::path::{CanonicalPath, PathError};
use portcullis::proxy::route::{NoMatch, RouteTable};

const UUID: &str = "00000000-0000-7000-8000-000000000000";

/// Pieces of patterns; a byte chooses one.
const PIECES: [&str; 10] =
    ["a", "b", "7", "07", "{@}", "{@:int}", "{@:uuid}", "caf%C3%A9", UUID, "c"];
/// Pieces of paths.
const SEGMENTS: [&str; 14] = [
    "a",
    "b",
    "7",
    "07",
    "%61",
    "caf%c3%a9",
    "zz",
    "",
    UUID,
    "00000000-0000-7000-8000-00000000000A",
    "a;p",
    "a%2fb",
    "c",
    "0",
];

/// Up to 16 patterns, each `length` and pieces, then a path of the same kind.
pub fn check(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let mut next = || bytes.next();
    let Some(count) = next() else { return };
    let mut patterns: Vec<String> = Vec::new();
    for _ in 0..1 + count % 16 {
        let Some(shape) = next() else { return };
        let mut pattern = String::new();
        for at in 0..shape % 5 {
            let Some(piece) = next() else { return };
            let piece = PIECES[usize::from(piece) % PIECES.len()];
            // The variables of one pattern have different names.
            pattern.push('/');
            pattern.push_str(&piece.replace('@', &format!("v{at}")));
        }
        if shape & 0x80 != 0 {
            pattern.push_str("/{*rest}");
        } else if pattern.is_empty() {
            pattern.push('/');
        }
        patterns.push(pattern);
    }
    let mut path = String::new();
    let Some(length) = next() else { return };
    for _ in 0..length % 6 {
        let Some(segment) = next() else { return };
        path.push('/');
        path.push_str(SEGMENTS[usize::from(segment) % SEGMENTS.len()]);
    }
    if path.is_empty() {
        path.push('/');
    }

    let Ok(canonical) = CanonicalPath::parse(&path) else { return };
    let Some(table) = compile(&patterns) else { return };
    let naive = most_specific(&patterns, &path);
    match table.find(canonical, &Method::GET) {
        Ok(found) => {
            let naive =
                naive.unwrap_or_else(|| panic!("{path}: no pattern of {patterns:?} matches"));
            assert_eq!(patterns[found.route().id], patterns[naive], "{path} in {patterns:?}");
            for (_, text) in found.variables() {
                assert!(!text.is_empty() && !text.contains([';', '/']));
            }
        }
        Err(NoMatch::NoRoute) => assert_eq!(naive, None, "{path} in {patterns:?}"),
        Err(NoMatch::MethodNotAllowed { .. }) => panic!("every route takes every method"),
        // A typed variable keeps its place; ambiguous spellings are refused. Plain paths are not.
        Err(NoMatch::BadPath(error)) => {
            let typed = patterns.iter().any(|pattern| pattern.contains(':'));
            match error {
                PathError::VariableSpelling => assert!(typed, "{path} in {patterns:?}"),
                PathError::EncodedSlash => assert!(path.contains("%2f")),
                _ => assert!(path.contains(';') || path.contains("%2f"), "{path}: {error}"),
            }
        }
    }
}

fn compile(patterns: &[String]) -> Option<RouteTable> {
    let mut text = String::from("[upstreams.app]\nservers = [\"http://127.0.0.1:1\"]\n");
    for pattern in patterns {
        text.push_str(&format!("[[routes]]\npath = \"{pattern}\"\nupstream = \"app\"\n"));
    }
    let config: Config = toml::from_str(&text).expect("the text is TOML");
    RouteTable::compile(&config).ok()
}

/// How specific a segment of a pattern is that matches; `None` = it does not.
fn rank(piece: &str, segment: &str) -> Option<u8> {
    let decoded = decode(segment);
    if !piece.starts_with('{') {
        return (decode(piece) == decoded).then_some(3);
    }
    match piece.trim_matches(['{', '}']).split_once(':') {
        Some((_, "int")) => {
            let digits = !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit());
            (digits && (segment == "0" || !segment.starts_with('0'))).then_some(2)
        }
        Some(_) => {
            let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            let groups: Vec<&str> = segment.split('-').collect();
            let lengths: Vec<usize> = groups.iter().map(|g| g.len()).collect();
            (lengths == [8, 4, 4, 4, 12] && groups.concat().bytes().all(hex)).then_some(2)
        }
        None => (!segment.is_empty()).then_some(1),
    }
}

fn decode(text: &str) -> String {
    text.replace("%61", "a").replace("%C3%A9", "é").replace("%c3%a9", "é").replace("%2f", "/")
}

fn most_specific(patterns: &[String], path: &str) -> Option<usize> {
    let segments: Vec<&str> = path[1..].split('/').collect();
    let matching = patterns.iter().enumerate().filter_map(|(at, pattern)| {
        let (fixed, rest) = match pattern.strip_suffix("/{*rest}") {
            Some(fixed) => (fixed, true),
            None => (pattern.as_str(), false),
        };
        let pieces: Vec<&str> =
            if fixed.is_empty() { vec![] } else { fixed[1..].split('/').collect() };
        // `{*rest}` matches nothing, too; `/` alone is one empty segment.
        let long_enough =
            if rest { segments.len() >= pieces.len() } else { segments.len() == pieces.len() };
        let ranks: Option<Vec<u8>> =
            pieces.iter().zip(&segments).map(|(p, s)| rank(p, s)).collect();
        // Without a rest the pattern ends where the path does, which is more specific.
        ranks.filter(|_| long_enough).map(|mut ranks| {
            ranks.push(if rest { 0 } else { 4 });
            (ranks, at)
        })
    });
    // Of equals (which differ by method only, so cannot be here twice) any will do.
    matching.max_by(|one, two| one.0.cmp(&two.0)).map(|(_, at)| at)
}
