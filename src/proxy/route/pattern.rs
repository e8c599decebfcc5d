//! Path patterns as operators write them, and how two of them relate: which covers which, and a
//! path that both match. Knows paths only.

use std::fmt::Write as _;

use crate::proxy::path::{self, CanonicalPath, PathError};

/// Deepest pattern. Bounds the recursion of the walk through the trie.
const MAX_SEGMENTS: usize = 64;

/// `/api/{user_id}/{id:int}/{*rest}`
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) segments: Vec<Segment>,
    /// Name of the final `{*rest}`.
    pub(super) rest: Option<Box<str>>,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Decoded, so that `/%61pi` cannot slip past a route for `/api`. Empty only at the end.
    Literal(Box<str>),
    /// `{name}` or `{name:kind}`.
    Variable(Box<str>, Kind),
}

/// What a variable accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any segment that is not empty.
    Any,
    /// Decimal, without sign or leading zero.
    Int,
    /// Lower-case, hyphenated (RFC 9562 §4).
    Uuid,
}

impl Kind {
    /// Whether a segment, not decoded, is spelled in the one way that the kind accepts.
    pub(super) fn accepts(self, segment: &str) -> bool {
        let bytes = segment.as_bytes();
        match self {
            Self::Any => !bytes.is_empty(),
            Self::Int => match bytes {
                [b'0'] => true,
                [first, others @ ..] => {
                    matches!(first, b'1'..=b'9') && others.iter().all(u8::is_ascii_digit)
                }
                [] => false,
            },
            Self::Uuid => {
                bytes.len() == 36
                    && bytes.iter().enumerate().all(|(at, byte)| match at {
                        8 | 13 | 18 | 23 => *byte == b'-',
                        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
                    })
            }
        }
    }

    /// A segment that the kind accepts.
    fn example(self) -> &'static str {
        match self {
            Self::Any => "x",
            Self::Int => "1",
            Self::Uuid => "00000000-0000-7000-8000-000000000000",
        }
    }
}

impl Segment {
    /// The variable's name.
    pub(super) fn variable(&self) -> Option<&str> {
        match self {
            Self::Variable(name, _) => Some(name),
            Self::Literal(_) => None,
        }
    }

    /// Whether everything that matches `other` matches `self` too.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(mine), Self::Literal(theirs)) => mine == theirs,
            (Self::Literal(_), Self::Variable(..)) => false,
            (Self::Variable(_, kind), Self::Literal(literal)) => kind.accepts(literal),
            (Self::Variable(_, mine), Self::Variable(_, theirs)) => {
                *mine == Kind::Any || mine == theirs
            }
        }
    }

    /// The more specific of two segments that one text can match.
    fn meet<'a>(&'a self, other: &'a Self) -> Option<&'a Self> {
        if self.covers(other) {
            Some(other)
        } else if other.covers(self) {
            Some(self)
        } else {
            None
        }
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some(after_root) = text.strip_prefix('/') else {
            return Err(format!("`{text}` must start with a slash"));
        };
        let mut pattern = Self { segments: Vec::new(), rest: None };
        let pieces: Vec<&str> = after_root.split('/').collect();
        if pieces.len() > MAX_SEGMENTS {
            return Err(format!("a pattern has at most {MAX_SEGMENTS} segments"));
        }
        for (index, piece) in pieces.iter().enumerate() {
            let last = index + 1 == pieces.len();
            if let Some(name) = piece.strip_prefix("{*").and_then(|p| p.strip_suffix('}')) {
                if !last {
                    return Err(format!("`{piece}` matches everything, so it must come last"));
                }
                pattern.rest = Some(variable_name(name, piece)?);
            } else {
                pattern.segments.push(segment(piece, last)?);
            }
        }
        let names: Vec<&str> = pattern.names().collect();
        if let Some((_, twice)) =
            names.iter().enumerate().find(|(at, name)| names[..*at].contains(name))
        {
            return Err(format!("the variable `{twice}` occurs twice"));
        }
        Ok(pattern)
    }

    /// The names of all variables.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(Segment::variable).chain(self.rest.as_deref())
    }

    /// Where the variable stands among the segments; not for `{*rest}`.
    pub(super) fn position(&self, variable: &str) -> Option<usize> {
        self.segments.iter().position(|segment| segment.variable() == Some(variable))
    }

    /// Whether the pattern starts with these literals.
    pub(super) fn starts_with(&self, literals: &[Box<str>]) -> bool {
        self.segments.len() >= literals.len()
            && self.segments.iter().zip(literals).all(|(mine, literal)| match mine {
                Segment::Literal(mine) => mine == literal,
                Segment::Variable(..) => false,
            })
    }

    /// Whether the pattern is this one path.
    pub(super) fn is(&self, literals: &[Box<str>]) -> bool {
        self.rest.is_none() && self.segments.len() == literals.len() && self.starts_with(literals)
    }

    /// Whether everything that matches `other` matches `self` too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.segments.len(), other.segments.len());
        let long_enough = match (&self.rest, &other.rest) {
            (Some(_), _) => theirs >= mine,
            (None, None) => theirs == mine,
            (None, Some(_)) => false,
        };
        long_enough && self.segments.iter().zip(&other.segments).all(|(m, t)| m.covers(t))
    }

    /// A path that both match.
    pub(super) fn example_of_both(&self, other: &Self) -> Option<String> {
        let (shorter, longer) =
            if self.segments.len() <= other.segments.len() { (self, other) } else { (other, self) };
        let tail = &longer.segments[shorter.segments.len()..];
        if shorter.rest.is_none() && !tail.is_empty() {
            return None;
        }
        let mut example = String::new();
        for (one, two) in shorter.segments.iter().zip(&longer.segments) {
            push_example(&mut example, one.meet(two)?);
        }
        for segment in tail {
            push_example(&mut example, segment);
        }
        Some(if example.is_empty() { "/".to_owned() } else { example })
    }
}

/// Reads the literals of a fixed path such as `/auth/v1`.
pub(super) fn literal_prefix(text: &str) -> Result<Vec<Box<str>>, String> {
    let pattern = Pattern::parse(text)?;
    let literals: Option<Vec<Box<str>>> = pattern
        .segments
        .into_iter()
        .map(|segment| match segment {
            Segment::Literal(literal) if !literal.is_empty() => Some(literal),
            _ => None,
        })
        .collect();
    match literals {
        Some(literals) if pattern.rest.is_none() => Ok(literals),
        _ => Err(format!(
            "`{text}` must be a fixed path such as \"/v1\", without variables or a slash at its end"
        )),
    }
}

fn segment(piece: &str, last: bool) -> Result<Segment, String> {
    if let Some(inside) = piece.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
        let (name, kind) = match inside.split_once(':') {
            None => (inside, Kind::Any),
            Some((name, "uuid")) => (name, Kind::Uuid),
            Some((name, "int")) => (name, Kind::Int),
            Some((_, kind)) => {
                return Err(format!("`{kind}` is no type of variable; there are `uuid` and `int`"));
            }
        };
        return Ok(Segment::Variable(variable_name(name, piece)?, kind));
    }
    if piece.contains(['{', '}']) {
        return Err(format!("`{piece}`: a variable must fill its segment, as in \"/{{name}}/\""));
    }
    if piece.is_empty() && !last {
        return Err("a path with an empty segment is always refused".to_owned());
    }
    // What the parser of requests refuses could never match.
    let never = |error: PathError| format!("`{piece}` can never match, because {error}");
    let alone = format!("/{piece}");
    let canonical = CanonicalPath::parse(&alone).map_err(never)?;
    if canonical.has_encoded_slash() {
        return Err(never(PathError::EncodedSlash));
    }
    if canonical.has_parameters() {
        return Err(format!("`{piece}`: `;` may only stand where a `{{*rest}}` matches"));
    }
    let decoded = path::decode_segment(piece).ok_or_else(|| never(PathError::NotUtf8))?;
    Ok(Segment::Literal(decoded.into()))
}

fn variable_name(name: &str, piece: &str) -> Result<Box<str>, String> {
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !starts_well || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(format!("`{piece}`: a variable is named with letters, digits and `_`"));
    }
    if name == "none" {
        return Err(format!("`{piece}`: `none` means \"no owner\" and cannot name a variable"));
    }
    Ok(name.into())
}

fn push_example(example: &mut String, segment: &Segment) {
    let text = match segment {
        Segment::Literal(literal) => literal,
        Segment::Variable(_, kind) => kind.example(),
    };
    let encoded = percent_encoding::utf8_percent_encode(text, LITERAL);
    // Writing to a string cannot fail.
    let _ = write!(example, "/{encoded}");
}

/// What must be encoded for the parser to take a literal back.
const LITERAL: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b';')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}');

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect(text)
    }

    #[test]
    fn patterns_that_could_never_match_are_refused() {
        for (text, part) in [
            ("", "start with a slash"),
            ("api", "start with a slash"),
            ("*", "start with a slash"),
            ("/a//b", "empty segment"),
            ("/a/../b", "dot segment"),
            ("/a/%2e", "dot segment"),
            ("/a b", "percent-encoded"),
            ("/a?b", "percent-encoded"),
            ("/a#b", "fragment"),
            ("/café", "outside ASCII"),
            ("/a\\b", "backslash"),
            ("/a%2fb", "encoded slash"),
            ("/a%zz", "percent-encoding"),
            ("/a;b", "`;`"),
            ("/a{x}", "fill its segment"),
            ("/{x}y", "fill its segment"),
            ("/{x", "fill its segment"),
            ("/x}", "fill its segment"),
            ("/{}", "letters"),
            ("/{*}", "letters"),
            ("/{1a}", "letters"),
            ("/{a-b}", "letters"),
            ("/{none}", "no owner"),
            ("/{a:float}", "no type"),
            ("/{a:}", "no type"),
            ("/{*rest}/x", "come last"),
            ("/{a}/{a}", "twice"),
            ("/{a}/{*a}", "twice"),
        ] {
            let message = Pattern::parse(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(Pattern::parse(&"/a".repeat(MAX_SEGMENTS + 1)).is_err());
    }

    #[test]
    fn patterns_that_are_fine() {
        for text in ["/", "/a/", "/{a}/{b:int}/{c:uuid}/{*d}", "/{*rest}", "/caf%C3%A9", "/a.b-c~"]
        {
            pattern(text);
        }
        assert_eq!(pattern("/%61").segments, [Segment::Literal("a".into())]);
        assert_eq!(pattern("/{a}/b/{c}").position("c"), Some(2));
        assert_eq!(pattern("/{a}/{*c}").position("c"), None);
    }

    #[test]
    fn typed_variables_have_one_spelling() {
        for fine in ["0", "7", "10", "18446744073709551616"] {
            assert!(Kind::Int.accepts(fine), "{fine}");
        }
        for bad in ["", "00", "01", "-1", "+1", "1.0", "1e3", "0x1", "%31", "1 ", "١"] {
            assert!(!Kind::Int.accepts(bad), "{bad}");
        }
        assert!(Kind::Uuid.accepts("018f2d3e-0000-7000-8000-00000000000a"));
        for bad in [
            "018F2D3E-0000-7000-8000-00000000000A",
            "018f2d3e000070008000000000000000",
            "{018f2d3e-0000-7000-8000-000000000000}",
            "018f2d3e-0000-7000-8000-00000000000",
            "018f2d3e-0000-7000-8000-00000000000g",
            "018f2d3e-0000-7000-80000-00000000000",
            "%3018f2d3e-0000-7000-8000-0000000000",
        ] {
            assert!(!Kind::Uuid.accepts(bad), "{bad}");
        }
    }

    #[test]
    fn covering_is_specialisation() {
        for (general, special) in [
            ("/{*r}", "/"),
            ("/{*r}", "/a"),
            ("/a/{*r}", "/a"),
            ("/a/{*r}", "/a/"),
            ("/a/{*r}", "/a/{x}/b"),
            ("/a/{*r}", "/a/b/{*q}"),
            ("/{x}", "/a"),
            ("/{x}", "/{y:int}"),
            ("/{x}", "/{y}"),
            ("/{x:int}", "/7"),
            ("/{x:int}/b", "/{y:int}/b"),
        ] {
            assert!(pattern(general).covers(&pattern(special)), "{general} {special}");
        }
        for (one, two) in [
            ("/a", "/b"),
            ("/a", "/a/"),
            ("/a", "/{x}"),
            ("/{x}", "/"),
            ("/{x:int}", "/{y}"),
            ("/{x:int}", "/{y:uuid}"),
            ("/{x:int}", "/07"),
            ("/a", "/a/{*r}"),
            ("/a/{x}", "/{y}/b"),
            ("/a/b/{*r}", "/a/{*q}"),
        ] {
            assert!(!pattern(one).covers(&pattern(two)), "{one} {two}");
        }
    }

    #[test]
    fn examples_match_both() {
        for (one, two, example) in [
            ("/a/{x}", "/{y}/b", Some("/a/b")),
            ("/a/{*r}", "/{y}/b", Some("/a/b")),
            ("/a/{*r}", "/{y}/b/{*q}", Some("/a/b")),
            ("/a/{*r}", "/{y}", Some("/a")),
            ("/{x:int}/b", "/{y}/{z}", Some("/1/b")),
            ("/{*r}", "/", Some("/")),
            ("/{*r}", "/{*q}", Some("/")),
            ("/caf%C3%A9/{x}", "/{y}/z", Some("/caf%C3%A9/z")),
            ("/a/b", "/{y}/c", None),
            ("/a", "/a/b", None),
            ("/{x}", "/a/", None),
            ("/{x:int}", "/{y:uuid}", None),
        ] {
            let (one, two) = (pattern(one), pattern(two));
            assert_eq!(one.example_of_both(&two).as_deref(), example);
            assert_eq!(two.example_of_both(&one).as_deref(), example);
        }
    }
}
