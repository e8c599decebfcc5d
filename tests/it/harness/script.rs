//! Scripts of `tests/clients` that talk with the test: what a client cannot do by itself (take the
//! database away, read the mail), it asks the test for.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::gateway::blocking;

/// A script says something at least this often, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running script.
///
/// A line `@WORD ARGUMENT…` of its output asks for something and is answered by one line of JSON on
/// its input. All other lines are its log, which is shown when it fails.
pub(crate) struct Script {
    /// Its command line.
    pub(crate) what: String,
    child: Child,
    input: ChildStdin,
    said: Arc<Mutex<BufReader<ChildStdout>>>,
    complaints: Option<JoinHandle<String>>,
    log: String,
}

impl Script {
    /// Starts it.
    pub(crate) fn start(mut command: Command) -> Self {
        let what = format!("{command:?}");
        // Proxies of the surroundings are none of a test's business.
        command.env("no_proxy", "*").env("PYTHONUNBUFFERED", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let input = child.stdin.take().expect("piped");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        let mut complaints = child.stderr.take().expect("piped");
        // Read beside the rest: a full pipe would stop the script.
        let complaints = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = complaints.read_to_string(&mut text);
            text
        });
        let said = Arc::new(Mutex::new(said));
        Self { what, child, input, said, complaints: Some(complaints), log: String::new() }
    }

    /// What it asks for next, as words; `None` at its good end. Panics with its log when it fails.
    pub(crate) async fn asks(&mut self) -> Option<Vec<String>> {
        loop {
            let said = Arc::clone(&self.said);
            let reading = blocking(move || {
                let mut line = String::new();
                said.lock().expect("no reader panics").read_line(&mut line).expect("a line");
                line
            });
            let Ok(line) = timeout(PATIENCE, reading).await else {
                let _ = self.child.kill();
                self.fail("said nothing for a minute");
            };
            if line.is_empty() {
                let status = self.child.wait().expect("it was started");
                if !status.success() {
                    self.fail(&status.to_string());
                }
                return None;
            }
            if let Some(asked) = line.strip_prefix('@') {
                return Some(asked.split_whitespace().map(str::to_owned).collect());
            }
            self.log.push_str(&line);
        }
    }

    /// Answers what it asked for.
    pub(crate) fn answer(&mut self, answer: &Value) {
        // A script that has failed meanwhile is found out by the next reading.
        let _ = writeln!(self.input, "{answer}");
    }

    fn fail(&mut self, why: &str) -> ! {
        let complaints = self.complaints.take().map(|reading| reading.join().expect("no panic"));
        panic!("{}: {why}\n{}\n{}", self.what, self.log, complaints.unwrap_or_default());
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
