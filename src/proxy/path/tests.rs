use proptest::prelude::*;

use super::*;

#[test]
fn these_are_refused_for_the_first_rule_they_break() {
    use PathError as E;
    let refused: &[(&str, PathError)] = &[
        // not a path
        ("", E::NotAbsolute),
        ("*", E::NotAbsolute),
        ("api/u1", E::NotAbsolute),
        ("http://h/api", E::NotAbsolute),
        ("%2Fapi", E::NotAbsolute),
        (" /api", E::NotAbsolute),
        // dot segments, plain
        ("/.", E::DotSegment),
        ("/..", E::DotSegment),
        ("/./", E::DotSegment),
        ("/../", E::DotSegment),
        ("/api/./u1", E::DotSegment),
        ("/api/u1/../u2", E::DotSegment),
        ("/public/..", E::DotSegment),
        // encoded and mixed
        ("/%2e", E::DotSegment),
        ("/%2E%2E/u2", E::DotSegment),
        ("/api/%2e%2e/u2", E::DotSegment),
        ("/api/.%2E/u2", E::DotSegment),
        ("/api/%2e./u2", E::DotSegment),
        ("/api/u1/%2e", E::DotSegment),
        ("/api/u1/..%2fu2", E::DotSegment),
        ("/api/u1/x%2f../u2", E::DotSegment),
        ("/api/u1/x%2F..", E::DotSegment),
        ("/api/u1/x%2F%2e%2e%2Fu2", E::DotSegment),
        ("/.%2f", E::DotSegment),
        // with parameters
        ("/api/..;/u2", E::DotSegment),
        ("/api/..;x=y/u2", E::DotSegment),
        ("/api/.;/u2", E::DotSegment),
        ("/api/..;", E::DotSegment),
        ("/api/..%3b/u2", E::DotSegment),
        ("/api/%2e%2e;a/u2", E::DotSegment),
        ("/api/%2E%3Bx/u2", E::DotSegment),
        // empty segments
        ("//", E::EmptySegment),
        ("//api", E::EmptySegment),
        ("/api//u1", E::EmptySegment),
        ("/api/u1//", E::EmptySegment),
        ("//evil.example/api", E::EmptySegment),
        ("/api/;x/u1", E::EmptySegment),
        ("/;/api", E::EmptySegment),
        ("/%3b/api", E::EmptySegment),
        ("/api/%2Fu1", E::EmptySegment),
        ("/api%2F/u1", E::EmptySegment),
        ("/api%2f%2fu1", E::EmptySegment),
        // encoded backslash, controls
        ("/api%5cu1", E::EncodedBackslash),
        ("/api/..%5Cu1", E::EncodedBackslash),
        ("/api/u1%00", E::EncodedControl),
        ("/api/u1%00.html", E::EncodedControl),
        ("/api/%0d%0aX-User-Id:%20u2", E::EncodedControl),
        ("/api/%09", E::EncodedControl),
        ("/api/%1f", E::EncodedControl),
        ("/api/%7F", E::EncodedControl),
        // double encoding
        ("/api/%252e%252e/u2", E::DoubleEncoding),
        ("/api%252fu1", E::DoubleEncoding),
        ("/api%2500", E::DoubleEncoding),
        ("/%25%32%65", E::DoubleEncoding),
        ("/%252%65", E::DoubleEncoding),
        ("/%2525252e", E::DoubleEncoding),
        // raw bytes
        ("/api\\u1", E::Backslash),
        ("/\\evil.example", E::Backslash),
        ("/api/..\\u1", E::Backslash),
        ("/api/u1\0", E::Control),
        ("/api/\tu1", E::Control),
        ("/api/u1\r\nX: y", E::Control),
        ("/api/\x7f", E::Control),
        ("/api/ü", E::NonAscii),
        ("/api/\u{2215}", E::NonAscii),
        ("/api/u 1", E::ForbiddenByte),
        ("/api/\"", E::ForbiddenByte),
        ("/api/<u1>", E::ForbiddenByte),
        ("/api/{user_id}", E::ForbiddenByte),
        ("/api/`id`", E::ForbiddenByte),
        ("/api?x", E::ForbiddenByte),
        ("/api#", E::Fragment),
        ("/api/u2#/../u1", E::Fragment),
        // percent-encoding
        ("/%", E::InvalidEncoding),
        ("/%2", E::InvalidEncoding),
        ("/%zz", E::InvalidEncoding),
        ("/%2g", E::InvalidEncoding),
        ("/% 2", E::InvalidEncoding),
        ("/%u002e", E::InvalidEncoding),
        ("/%+2f", E::InvalidEncoding),
        ("/%c3%", E::InvalidEncoding),
        // not UTF-8 after one decoding
        ("/%ff", E::NotUtf8),
        ("/%80", E::NotUtf8),
        ("/%c0%ae%c0%ae/u2", E::NotUtf8),
        ("/%c0%af", E::NotUtf8),
        ("/%e0%80%ae", E::NotUtf8),
        ("/%f0%80%80%af", E::NotUtf8),
        ("/%ed%a0%80", E::NotUtf8),
        ("/%c3", E::NotUtf8),
        ("/%c3/%a9", E::NotUtf8),
        ("/%c3a9", E::NotUtf8),
        ("/%f5%80%80%80", E::NotUtf8),
    ];
    assert!(refused.len() >= 60);
    for (path, error) in refused {
        assert_eq!(CanonicalPath::parse(path), Err(*error), "{path:?}");
    }
    let long = "/".to_owned() + &"a".repeat(MAX_PATH_BYTES);
    assert_eq!(CanonicalPath::parse(&long), Err(E::TooLong));
    assert!(CanonicalPath::parse(&long[..MAX_PATH_BYTES]).is_ok());
}

#[test]
fn these_are_accepted_with_these_segments() {
    let accepted: &[(&str, &[&str])] = &[
        ("/", &[""]),
        ("/api", &["api"]),
        ("/api/", &["api", ""]),
        ("/api/u1/tasks", &["api", "u1", "tasks"]),
        ("/api/u1/tasks/", &["api", "u1", "tasks", ""]),
        (
            "/api/018f2d3e-0000-7000-8000-000000000000",
            &["api", "018f2d3e-0000-7000-8000-000000000000"],
        ),
        ("/...", &["..."]),
        ("/a/.../b", &["a", "...", "b"]),
        ("/.well-known/jwks.json", &[".well-known", "jwks.json"]),
        ("/.a", &[".a"]),
        ("/..a", &["..a"]),
        ("/a..", &["a.."]),
        ("/a.", &["a."]),
        ("/%2ea", &["%2ea"]),
        ("/...;x", &["...;x"]),
        ("/a;v=1/b", &["a;v=1", "b"]),
        ("/a%3bb", &["a%3bb"]),
        ("/~user", &["~user"]),
        ("/a%7Eb", &["a%7Eb"]),
        ("/%61pi", &["%61pi"]),
        ("/a%20b", &["a%20b"]),
        ("/a+b", &["a+b"]),
        ("/a%2Bb", &["a%2Bb"]),
        ("/caf%C3%A9", &["caf%C3%A9"]),
        ("/%e2%82%ac/%f0%9f%98%80", &["%e2%82%ac", "%f0%9f%98%80"]),
        ("/100%25", &["100%25"]),
        ("/100%25/2f", &["100%25", "2f"]),
        ("/%25g0", &["%25g0"]),
        ("/%25a", &["%25a"]),
        ("/a:b@c!$&'()*+,=-._~", &["a:b@c!$&'()*+,=-._~"]),
        ("/a|b^c[0]", &["a|b^c[0]"]),
        ("/auth0%7C123", &["auth0%7C123"]),
        ("/a%23b%3Fc", &["a%23b%3Fc"]),
        ("/group%2Fproject", &["group%2Fproject"]),
        ("/a%2f", &["a%2f"]),
        ("/http:/x", &["http:", "x"]),
    ];
    assert!(accepted.len() >= 30);
    for (raw, segments) in accepted {
        let path = CanonicalPath::parse(raw).expect(raw);
        assert_eq!(path.as_str(), *raw);
        assert_eq!(path.segments().collect::<Vec<_>>(), *segments, "{raw}");
        assert_eq!(path.has_encoded_slash(), raw.to_lowercase().contains("%2f"), "{raw}");
        assert_eq!(path.has_escapes(), raw.contains('%'), "{raw}");
        let parameters = raw.contains(';') || raw.to_lowercase().contains("%3b");
        assert_eq!(path.has_parameters(), parameters, "{raw}");
    }
}

#[test]
fn a_segment_is_decoded_once() {
    assert_eq!(decode_segment("plain"), Some(Cow::Borrowed("plain")));
    assert_eq!(decode_segment("%75%31"), Some(Cow::Borrowed("u1")));
    assert_eq!(decode_segment("%2541"), Some(Cow::Borrowed("%41")));
    assert_eq!(decode_segment("a+b"), Some(Cow::Borrowed("a+b")));
    assert_eq!(decode_segment("%ff"), None);
    assert!(decodes_to("u%31", "u1") && decodes_to("u1", "u1") && decodes_to("", ""));
    for (segment, text) in
        [("u1", "u"), ("u", "u1"), ("U1", "u1"), ("u%2531", "u1"), ("", "u1"), ("u1", "")]
    {
        assert!(!decodes_to(segment, text), "{segment} {text}");
    }
}

#[test]
fn every_rule_has_its_own_word() {
    let words: std::collections::HashSet<_> =
        PathError::ALL.iter().map(|error| error.as_str()).collect();
    assert_eq!(words.len(), PathError::ALL.len());
}

/// Paths made of the pieces that parsers disagree about.
fn odd_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z0-9]{1,3}",
        4 => Just("/".to_owned()),
        2 => Just(".".to_owned()),
        1 => Just(";".to_owned()),
        1 => Just("\\".to_owned()),
        2 => "%[0-9a-fA-F]{2}",
        2 => prop::sample::select(vec!["%2f", "%2F", "%2e", "%5c", "%25", "%3b", "%00", "%"])
            .prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn what_is_accepted_decodes_once_to_a_harmless_path(raw in odd_path()) {
        let Ok(path) = CanonicalPath::parse(&raw) else { return Ok(()) };
        prop_assert_eq!(CanonicalPath::parse(path.as_str()), Ok(path));
        let decoded = percent_decode_str(&raw).decode_utf8().unwrap();
        prop_assert!(!decoded.contains(|c: char| c == '\\' || c.is_ascii_control()));
        let segments: Vec<&str> = decoded[1..].split('/').collect();
        for (index, segment) in segments.iter().enumerate() {
            let core = segment.split(';').next().unwrap();
            prop_assert!(core != "." && core != "..", "{:?}", raw);
            prop_assert!(!core.is_empty() || (index + 1 == segments.len() && segment.is_empty()));
        }
        if !path.has_encoded_slash() {
            prop_assert_eq!(segments.len(), path.segments().count());
        }
        // A second decoding changes nothing: no escape is left.
        prop_assert_eq!(percent_decode_str(&decoded).decode_utf8().unwrap(), decoded.as_ref());
    }

    #[test]
    fn no_text_makes_the_parser_panic(raw in any::<String>()) {
        let _ = CanonicalPath::parse(&raw);
        let _ = CanonicalPath::parse(&format!("/{raw}"));
    }
}
