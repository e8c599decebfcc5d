//! Values with a unit, as operators write them: `"24h"`, `"64KiB"`, `"5/minute"`.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A length of time, written `"500ms"`, `"10s"`, `"24h"`, `"30d"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(pub Duration);

impl Interval {
    /// The longest: ten years, so that a time plus an interval is always a time.
    pub const MAX: Duration = Duration::from_hours(3_650 * 24);

    /// So many seconds.
    pub const fn seconds(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// So many hours.
    pub const fn hours(n: u64) -> Self {
        Self(Duration::from_secs(n * 3600))
    }
}

impl fmt::Debug for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "`{text}` is not a duration; write for example \"500ms\", \"10s\", \"24h\" or \"30d\""
            )
        };
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let unit_ms: u64 = match unit.trim_start() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refused()),
        };
        let length = number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(refused)?;
        if length > Self::MAX {
            return Err(format!("`{text}` is too long; the longest is \"3650d\""));
        }
        Ok(Self(length))
    }
}

/// A number of bytes, written `"64KiB"`, `"1GiB"`, `"500"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// So many MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// So many GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            || format!("`{text}` is not a size; write for example \"512\", \"64KiB\" or \"1GiB\"");
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let scale: u64 = match unit.trim_start() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(refused()),
        };
        number.checked_mul(scale).map(Self).ok_or_else(refused)
    }
}

/// How many in which time, written `"5/minute"`, `"20/hour"`, `"3/10s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Most hits in any window. 1 to 1,000.
    pub limit: u32,
    /// Length of the window. 1 second to 1 day.
    pub window: Duration,
}

impl Rate {
    /// Most hits a rule may allow: the exact window keeps one time per hit, so a larger number
    /// would cost every key that much memory.
    pub const MAX_LIMIT: u32 = 1_000;

    /// `limit` in `seconds`.
    pub const fn new(limit: u32, seconds: u64) -> Self {
        Self { limit, window: Duration::from_secs(seconds) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.window.subsec_millis() {
            0 => write!(f, "{}/{}s", self.limit, self.window.as_secs()),
            _ => write!(f, "{}/{}ms", self.limit, self.window.as_millis()),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "`{text}` is not a rate; write for example \"5/minute\", \"20/hour\" or \"3/10s\""
            )
        };
        let (limit, window) = text.split_once('/').ok_or_else(refused)?;
        let limit: u32 = limit.trim().parse().map_err(|_| refused())?;
        let window = match window.trim() {
            "second" => Duration::from_secs(1),
            "minute" => Duration::from_mins(1),
            "hour" => Duration::from_hours(1),
            "day" => Duration::from_hours(24),
            other => other.parse::<Interval>().map_err(|_| refused())?.0,
        };
        if limit == 0 {
            return Err(format!("`{text}` lets nothing pass; use access = \"deny\" on the route"));
        }
        if window < Duration::from_secs(1) || window > Duration::from_hours(24) {
            return Err(format!("the window of `{text}` must be from 1 second to 1 day"));
        }
        if limit > Self::MAX_LIMIT {
            return Err(format!(
                "`{text}` counts more than {} hits exactly; use a shorter window, for example {}",
                Self::MAX_LIMIT,
                shorter_window(limit, window)
            ));
        }
        Ok(Self { limit, window })
    }
}

/// The same speed with a limit that can be counted.
fn shorter_window(limit: u32, window: Duration) -> String {
    let seconds = window.as_secs();
    let fitting = (seconds * u64::from(Rate::MAX_LIMIT) / u64::from(limit)).max(1);
    let scaled = (u64::from(limit) * fitting / seconds).clamp(1, u64::from(Rate::MAX_LIMIT));
    format!("\"{scaled}/{fitting}s\"")
}

/// Where to listen, written `"127.0.0.1:8080"`, `"[::1]:8080"`, `"unix:/run/app/http.sock"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix-domain socket with that file.
    Unix(PathBuf),
}

impl Listen {
    /// Longest name of a socket's file: what `sockaddr_un` has room for (unix(7)).
    pub const MAX_PATH: usize = 107;

    /// Whether both can only be the same socket. Port 0 is another free port each time.
    pub fn collides_with(&self, other: &Self) -> bool {
        self == other && !matches!(self, Self::Tcp(address) if address.port() == 0)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err("`unix:` needs the name of a file after it".to_owned()),
                1..=Self::MAX_PATH if !path.contains('\0') => Ok(Self::Unix(path.into())),
                _ => Err(format!(
                    "the file after `unix:` must have at most {} bytes, and no NUL",
                    Self::MAX_PATH
                )),
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!(
                "`{text}` is not an address with a port; write for example \"127.0.0.1:8080\", \
                 \"[::1]:8080\" or \"unix:/run/portcullis/http.sock\""
            )
        })
    }
}

/// Reads a unit from text, saying what was expected when it is something else.
struct FromText<T>(&'static str, PhantomData<T>);

impl<T: FromStr<Err = String>> de::Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! deserialize_from_str {
    ($($type:ty: $expected:literal;)+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(FromText($expected, PhantomData))
            }
        }
    )+};
}
deserialize_from_str! {
    ByteSize: "a size such as \"64KiB\"";
    Interval: "a duration such as \"10s\"";
    Listen: "an address such as \"127.0.0.1:8080\"";
    Rate: "a rate such as \"5/minute\"";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_whole_number_and_a_unit() {
        for (text, ms) in [
            ("0s", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("5min", 300_000),
            ("24h", 86_400_000),
            ("30d", 2_592_000_000),
            ("10 s", 10_000),
            ("007s", 7_000),
            ("3650d", 315_360_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Interval(Duration::from_millis(ms))), "{text}");
        }
        for text in [
            "",
            "s",
            "10",
            "1.5h",
            "-1s",
            "+1s",
            "1h30m",
            "10sec",
            "10S",
            "1w",
            " 10s",
            "10s ",
            "1e3s",
            "１s",
            "99999999999999999999s",
            "18446744073709551615d",
            "3651d",
        ] {
            let refused = text.parse::<Interval>().expect_err(text);
            assert!(refused.starts_with(&format!("`{text}` is ")), "{refused}");
        }
    }

    #[test]
    fn listeners_are_addresses_or_files() {
        for (text, listen) in [
            ("127.0.0.1:80", Listen::Tcp(([127, 0, 0, 1], 80).into())),
            ("[::]:0", Listen::Tcp("[::]:0".parse().unwrap())),
            ("unix:a.sock", Listen::Unix("a.sock".into())),
            ("unix:/run/a b:c", Listen::Unix("/run/a b:c".into())),
        ] {
            assert_eq!(text.parse(), Ok(listen.clone()), "{text}");
            assert_eq!(listen.to_string(), text);
        }
        let long = format!("unix:/{}", "a".repeat(Listen::MAX_PATH));
        for text in ["", "80", "localhost:80", "127.0.0.1", "unix:", "unix:a\0b", "UNIX:a", &long] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_binary_and_say_so() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("64KiB", 65_536),
            ("64 KiB", 65_536),
            ("19MiB", 19_922_944),
            ("1GiB", 1_073_741_824),
            ("17179869183GiB", 17_179_869_183 << 30),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in [
            "",
            "KiB",
            "64KB",
            "64kb",
            "64K",
            "64Kib",
            "1.5GiB",
            "-1",
            "1TiB",
            "1 2",
            " 1",
            "99999999999999999999",
            "17179869184GiB",
        ] {
            let refused = text.parse::<ByteSize>().expect_err(text);
            assert!(refused.starts_with(&format!("`{text}` is not a size")), "{refused}");
        }
    }

    #[test]
    fn rates_are_countable_in_a_bounded_window() {
        for (text, limit, seconds) in [
            ("5/minute", 5, 60),
            ("20/hour", 20, 3_600),
            ("60/second", 60, 1),
            ("1000/day", 1_000, 86_400),
            ("3/10s", 3, 10),
            ("3 / 10s", 3, 10),
            ("7/1d", 7, 86_400),
        ] {
            assert_eq!(text.parse(), Ok(Rate::new(limit, seconds)), "{text}");
        }
        for (text, start) in [
            ("", "`` is not a rate"),
            ("5", "`5` is not a rate"),
            ("/minute", "`/minute` is not a rate"),
            ("5/", "`5/` is not a rate"),
            ("5/fortnight", "`5/fortnight` is not a rate"),
            ("5/minutes", "`5/minutes` is not a rate"),
            ("-5/minute", "`-5/minute` is not a rate"),
            ("5.5/minute", "`5.5/minute` is not a rate"),
            ("4294967296/day", "`4294967296/day` is not a rate"),
            ("0/minute", "`0/minute` lets nothing pass"),
            ("5/500ms", "the window of `5/500ms` must be"),
            ("5/2d", "the window of `5/2d` must be"),
        ] {
            let refused = text.parse::<Rate>().expect_err(text);
            assert!(refused.starts_with(start), "{refused}");
        }
    }

    #[test]
    fn rates_read_back_as_they_are_printed() {
        for rate in [Rate::new(5, 60), Rate::new(1_000, 86_400), Rate::new(1, 1)] {
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        assert_eq!("5/1500ms".parse::<Rate>().map(|rate| rate.to_string()), Ok("5/1500ms".into()));
    }

    #[test]
    fn too_large_a_count_suggests_a_window_that_fits() {
        for (text, suggestion) in [
            ("1001/minute", "\"984/59s\""),
            ("6000/minute", "\"1000/10s\""),
            ("100000/hour", "\"1000/36s\""),
            ("5000/second", "\"1000/1s\""),
            ("4294967295/day", "\"1000/1s\""),
        ] {
            let refused = text.parse::<Rate>().expect_err(text);
            assert!(refused.contains("shorter window"), "{refused}");
            assert!(refused.ends_with(suggestion), "{refused}");
            assert!(suggestion.trim_matches('"').parse::<Rate>().is_ok());
        }
    }
}
