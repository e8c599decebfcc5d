//! Values with a unit, as operators write them: `"24h"`, `"64KiB"`, `"5/minute"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A length of time, written `"500ms"`, `"10s"`, `"24h"`, `"30d"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(pub Duration);

impl Interval {
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
        number.checked_mul(unit_ms).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(refused)
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
        write!(f, "{}/{}s", self.limit, self.window.as_secs())
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
            "minute" => Duration::from_secs(60),
            "hour" => Duration::from_secs(3_600),
            "day" => Duration::from_secs(86_400),
            other => other.parse::<Interval>().map_err(|_| refused())?.0,
        };
        if limit == 0 {
            return Err(format!("`{text}` lets nothing pass; use access = \"deny\" on the route"));
        }
        if window < Duration::from_secs(1) || window > Duration::from_secs(86_400) {
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

macro_rules! deserialize_from_str {
    ($($type:ty),+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )+};
}
deserialize_from_str!(ByteSize, Interval, Rate);
