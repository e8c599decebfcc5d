//! What the configuration says of the account endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::auth::accounts::{Enrolment, Unproved};
use crate::auth::discovery::Discovery;
use crate::config::{self, Config, Limits, Problem};
use crate::limit::Rule;

/// What a reload of the configuration changes here.
#[derive(Clone, Debug)]
pub struct Rules {
    pub(super) signup_is_enabled: bool,
    pub(super) email_is_confirmed: bool,
    pub(super) api_keys: config::ApiKeys,
    pub(super) cookies: config::Cookies,
    /// None when the issuer's name is no address.
    pub(super) discovery: Option<Discovery>,
    pub(super) sessions: Arc<config::Sessions>,
    pub(super) enrolment: Enrolment,
    /// How long a challenge waits for its code.
    pub(super) challenge_lifetime: Duration,
    limits: BTreeMap<&'static str, Rule>,
    /// Those that are configured and those that are always there, for administrators to look at.
    pub(super) all_limits: BTreeMap<String, config::Limit>,
    pub(super) on_outage: config::OnOutage,
}

impl Rules {
    /// Compiles `[signup]`, `[api_keys]`, `[cookies]`, `[factors]`, `[sessions]`, the documents of
    /// `[discovery]` and the limits that are always there.
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
        let enrolment = Enrolment {
            is_enabled: config.factors.enabled,
            issuer: otp_issuer(config),
            max: config.factors.max,
        };
        Ok(Self {
            signup_is_enabled: enabled,
            email_is_confirmed: confirm_email,
            api_keys: config.api_keys.clone(),
            cookies: config.cookies.clone(),
            discovery: Discovery::compile(config),
            sessions: Arc::new(config.sessions.clone()),
            enrolment,
            challenge_lifetime: config.factors.challenge_lifetime.0,
            limits,
            all_limits: config.limits.with_built_in(),
            on_outage: config.counters.on_outage,
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

/// What authenticator apps call the site.
fn otp_issuer(config: &Config) -> String {
    let host = || Some(Url::parse(&config.site_url()?).ok()?.host_str()?.to_owned());
    config.factors.issuer.clone().or_else(host).unwrap_or_else(|| "Portcullis".to_owned())
}
