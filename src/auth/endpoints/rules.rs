//! What the configuration says of the account endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::auth::accounts::Unproved;
use crate::auth::discovery::Discovery;
use crate::config::{self, Config, Limits, Problem};
use crate::limit::Rule;

/// What a reload of the configuration changes here.
#[derive(Clone, Debug)]
pub struct Rules {
    pub(super) signup_is_enabled: bool,
    pub(super) email_is_confirmed: bool,
    pub(super) api_keys: config::ApiKeys,
    /// None when the issuer's name is no address.
    pub(super) discovery: Option<Discovery>,
    pub(super) sessions: Arc<config::Sessions>,
    limits: BTreeMap<&'static str, Rule>,
}

impl Rules {
    /// Compiles `[signup]`, `[api_keys]`, `[sessions]`, the documents of `[discovery]` and the limits
    /// that are always there.
    ///
    /// # Errors
    /// What is wrong with the limits.
    pub fn compile(config: &Config) -> Result<Self, Vec<Problem>> {
        let mut limits = BTreeMap::new();
        let mut problems = Vec::new();
        for (name, default) in Limits::built_in() {
            let limit = config.limits.0.get(name).unwrap_or(&default);
            match Rule::compile(name, limit, config.counters.on_outage) {
                Ok(rule) => {
                    limits.insert(name, rule);
                }
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let config::Signup { enabled, confirm_email } = config.signup;
        Ok(Self {
            signup_is_enabled: enabled,
            email_is_confirmed: confirm_email,
            api_keys: config.api_keys.clone(),
            discovery: Discovery::compile(config),
            sessions: Arc::new(config.sessions.clone()),
            limits,
        })
    }

    /// What becomes of a login whose address is not proved.
    pub(super) fn unproved(&self) -> Unproved {
        if self.email_is_confirmed { Unproved::Waits } else { Unproved::LogsIn }
    }

    /// A limit of [`Limits::built_in`].
    ///
    /// # Panics
    /// When there is none of this name: names come from the code of endpoints only.
    pub(super) fn limit(&self, name: &'static str) -> &Rule {
        self.limits.get(name).expect("endpoints name limits that are built in")
    }
}
