//! What the configuration says of the account endpoints.

use crate::config::{Config, Limits, Problem};
use crate::limit::Rule;

/// What a reload of the configuration changes here.
#[derive(Clone, Debug)]
pub struct Rules {
    pub(super) signup_is_enabled: bool,
    pub(super) signup: Rule,
    pub(super) login: Rule,
    pub(super) login_account: Rule,
    pub(super) refresh: Rule,
}

impl Rules {
    /// Compiles `[signup]` and the four limits that are always there.
    ///
    /// # Errors
    /// What is wrong with the limits.
    pub fn compile(config: &Config) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut compiled = Limits::built_in().map(|(name, default)| {
            let limit = config.limits.0.get(name).unwrap_or(&default);
            Rule::compile(name, limit, config.counters.on_outage)
                .map_err(|problem| problems.push(problem))
                .ok()
        });
        let [signup, login, login_account, refresh] = compiled.each_mut().map(Option::take);
        match (signup, login, login_account, refresh) {
            (Some(signup), Some(login), Some(login_account), Some(refresh)) => {
                let signup_is_enabled = config.signup.enabled;
                Ok(Self { signup_is_enabled, signup, login, login_account, refresh })
            }
            _ => Err(problems),
        }
    }
}
