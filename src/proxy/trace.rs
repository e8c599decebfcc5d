//! What happened at each step of a decision, for `explain` and for the report of a failed
//! `[[tests]]` entry. The proxy passes [`NoTrace`], of which nothing is left when compiled.

use std::fmt;

/// Receives the steps of a decision, in order.
pub trait Trace {
    /// `step` ended with `result`; `why` is a sentence for people, made only when it is kept.
    fn note(&mut self, step: Step, result: &'static str, why: impl FnOnce() -> String);
}

/// A step of a decision, in the order of a request's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Is the path canonical?
    Path,
    /// Whose is it?
    Route,
    /// What may come in at all?
    Access,
    /// Has the client shown a certificate?
    Certificate,
    /// Who is calling?
    Token,
    /// Is a program's key good for what is asked for?
    Scopes,
    /// Is the path the caller's?
    Owner,
    /// Has the caller a role that is asked for?
    Roles,
    /// Has the caller proved enough, and lately?
    StepUp,
    /// Is the decision binding?
    Mode,
}

impl Step {
    /// The word for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Route => "route",
            Self::Access => "access",
            Self::Certificate => "client",
            Self::Token => "token",
            Self::Scopes => "scopes",
            Self::Owner => "owner",
            Self::Roles => "roles",
            Self::StepUp => "step-up",
            Self::Mode => "mode",
        }
    }
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTrace;

impl Trace for NoTrace {
    #[inline]
    fn note(&mut self, _: Step, _: &'static str, _: impl FnOnce() -> String) {}
}

/// Keeps everything.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The steps so far.
    pub steps: Vec<TracedStep>,
}

/// One step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedStep {
    /// Which.
    pub step: Step,
    /// How it ended, in a word or two.
    pub result: &'static str,
    /// Why it ended so, in a sentence.
    pub why: String,
}

impl Trace for Recording {
    fn note(&mut self, step: Step, result: &'static str, why: impl FnOnce() -> String) {
        self.steps.push(TracedStep { step, result, why: why() });
    }
}

/// One line for each step.
impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for TracedStep { step, result, why } in &self.steps {
            writeln!(f, "{:<7} {result:<10} {why}", step.as_str())?;
        }
        Ok(())
    }
}
