//! How far a long run has come, for whoever watches: a bar on a terminal, otherwise a line every few
//! seconds, on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Between two changes of the bar.
const BAR_PAUSE: Duration = Duration::from_millis(100);
/// Between two lines.
const LINE_PAUSE: Duration = Duration::from_secs(5);
/// Signs of the bar.
const BAR_WIDTH: u64 = 24;

/// Shows how far it has come.
pub(super) struct Progress {
    total: u64,
    begun: Instant,
    /// What was there when it began does not count for the rate.
    before: Option<(u64, u64)>,
    shown: Instant,
    is_terminal: bool,
}

impl Progress {
    /// Of something with so many bytes.
    pub(super) fn of(total: u64) -> Self {
        let now = Instant::now();
        let is_terminal = std::io::stderr().is_terminal();
        Self { total, begun: now, before: None, shown: now, is_terminal }
    }

    /// So many rows and bytes are done.
    pub(super) fn show(&mut self, rows: u64, bytes: u64) {
        let pause = if self.is_terminal { BAR_PAUSE } else { LINE_PAUSE };
        let (rows_before, bytes_before) = *self.before.get_or_insert((rows, bytes));
        if self.shown.elapsed() < pause {
            return;
        }
        self.shown = Instant::now();
        let state = State {
            rows,
            new_rows: rows - rows_before,
            bytes,
            new_bytes: bytes - bytes_before,
            total: self.total,
            elapsed: self.begun.elapsed(),
        };
        let mut out = std::io::stderr().lock();
        // Nobody may be listening; the work goes on.
        let _ = if self.is_terminal {
            write!(out, "\r\x1b[K{} {}", state.bar(), state.line())
        } else {
            writeln!(out, "{}", state.line())
        };
        let _ = out.flush();
    }

    /// Leaves the terminal as it was.
    pub(super) fn end(&self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

struct State {
    rows: u64,
    new_rows: u64,
    bytes: u64,
    new_bytes: u64,
    total: u64,
    elapsed: Duration,
}

impl State {
    fn bar(&self) -> String {
        let done = (self.bytes * BAR_WIDTH).checked_div(self.total).unwrap_or(0).min(BAR_WIDTH);
        let signs = |sign: &str, count: u64| sign.repeat(usize::try_from(count).unwrap_or(0));
        format!("[{}{}]", signs("=", done), signs(" ", BAR_WIDTH - done))
    }

    fn line(&self) -> String {
        let percent = (self.bytes * 100).checked_div(self.total).unwrap_or(100).min(100);
        let ms = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = self.new_rows.saturating_mul(1000) / ms;
        let left = self.total.saturating_sub(self.bytes);
        let left = left
            .saturating_mul(ms)
            .checked_div(self.new_bytes)
            .map_or_else(|| "?".to_owned(), |ms| format!("{}:{:02}", ms / 60_000, ms / 1000 % 60));
        format!("{percent:>3} %  {} rows  {rate} a second  {left} left", self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_are_those_of_this_run() {
        let state = State {
            rows: 600_000,
            new_rows: 100_000,
            bytes: 60_000_000,
            new_bytes: 10_000_000,
            total: 100_000_000,
            elapsed: Duration::from_secs(20),
        };
        assert_eq!(state.line(), " 60 %  600000 rows  5000 a second  1:20 left");
        assert_eq!(state.bar(), "[==============          ]");
        let none = State { new_rows: 0, bytes: 0, new_bytes: 0, total: 0, rows: 0, ..state };
        assert_eq!(none.line(), "100 %  0 rows  0 a second  ? left");
        assert_eq!(none.bar(), format!("[{}]", " ".repeat(24)));
    }
}
