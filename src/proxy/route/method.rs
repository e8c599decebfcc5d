//! Sets of request methods, small enough to be copied.

use std::fmt;

use http::Method;

/// Which methods a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodSet(u8);

/// The methods that a configuration may name, each with its bit. `CONNECT` and `TRACE` are never
/// proxied (RFC 9110 §9.3.6, §9.3.8).
const KNOWN: [(Method, u8); 7] = [
    (Method::GET, 1),
    (Method::HEAD, 1 << 1),
    (Method::POST, 1 << 2),
    (Method::PUT, 1 << 3),
    (Method::PATCH, 1 << 4),
    (Method::DELETE, 1 << 5),
    (Method::OPTIONS, 1 << 6),
];

/// Stands for every method that is not known by name.
const OTHER: u8 = 1 << 7;

impl MethodSet {
    /// No method.
    pub const NONE: Self = Self(0);
    /// Every method.
    pub const ALL: Self = Self(u8::MAX);

    /// Reads a list; an empty one means every method. `HEAD` follows `GET`.
    ///
    /// # Errors
    /// A sentence about the first name that is not known.
    pub(super) fn parse(names: &[String]) -> Result<Self, (usize, String)> {
        if names.is_empty() {
            return Ok(Self::ALL);
        }
        let mut set = Self::NONE;
        for (index, name) in names.iter().enumerate() {
            let Some((method, bit)) = KNOWN.iter().find(|(method, _)| method.as_str() == name)
            else {
                let all = KNOWN.map(|(method, _)| method.to_string()).join(", ");
                return Err((index, format!("`{name}` is none of the methods {all}")));
            };
            set.0 |= bit;
            if *method == Method::GET {
                set.0 |= bit_of(&Method::HEAD);
            }
        }
        Ok(set)
    }

    /// Whether `method` is in the set.
    pub fn contains(self, method: &Method) -> bool {
        self == Self::ALL || self.0 & bit_of(method) != 0
    }

    /// Whether a method is in both.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What is in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `any`, or the value of an `Allow` header.
impl fmt::Display for MethodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("any");
        }
        let mut separator = "";
        for (method, bit) in &KNOWN {
            if self.0 & bit != 0 {
                write!(f, "{separator}{method}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

fn bit_of(method: &Method) -> u8 {
    match *method {
        Method::GET => 1,
        Method::HEAD => 1 << 1,
        Method::POST => 1 << 2,
        Method::PUT => 1 << 3,
        Method::PATCH => 1 << 4,
        Method::DELETE => 1 << 5,
        Method::OPTIONS => 1 << 6,
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> MethodSet {
        MethodSet::parse(&names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_two_tables_of_bits_agree() {
        for (method, bit) in &KNOWN {
            assert_eq!(bit_of(method), *bit, "{method}");
        }
        assert_eq!(KNOWN.iter().map(|(_, bit)| bit).sum::<u8>(), !OTHER);
    }

    #[test]
    fn head_follows_get_and_nothing_follows_head() {
        assert_eq!(set(&["GET"]).to_string(), "GET, HEAD");
        assert_eq!(set(&["HEAD"]).to_string(), "HEAD");
        assert!(!set(&["HEAD"]).contains(&Method::GET));
        assert_eq!(set(&["POST", "GET"]).to_string(), "GET, HEAD, POST");
    }

    #[test]
    fn only_the_full_set_takes_methods_without_a_name() {
        let purge = Method::from_bytes(b"PURGE").unwrap();
        assert!(set(&[]).contains(&purge));
        let named = set(&["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);
        assert!(!named.contains(&purge) && !named.contains(&Method::TRACE));
        assert_eq!(named.to_string(), "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }

    #[test]
    fn unknown_and_lower_case_names_are_refused() {
        for name in ["get", "Get", "TRACE", "CONNECT", "", "GET ", "FOO"] {
            assert!(MethodSet::parse(&["POST".to_owned(), name.to_owned()]).is_err(), "{name}");
        }
    }
}
