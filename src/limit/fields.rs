//! The `RateLimit` and `RateLimit-Policy` header fields
//! (draft-ietf-httpapi-ratelimit-headers: lists of RFC 9651 structured fields). Knows no HTTP
//! types: these are the values as text.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Decision, Rule};

/// Values of the two header fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitFields {
    /// `RateLimit`: `"login";r=4;t=60`, what is left for how many seconds.
    pub rate_limit: String,
    /// `RateLimit-Policy`: `"login";q=5;w=60`, how many in how many seconds.
    pub policy: String,
}

/// The fields for an answer that was counted under these rules, in their order; `None` when none
/// of them counted it (no rule, or Redis is away and the rule lets pass or denies).
pub fn rate_limit_fields(decisions: &[(&Rule, Decision)]) -> Option<RateLimitFields> {
    let mut fields = RateLimitFields { rate_limit: String::new(), policy: String::new() };
    for (rule, decision) in decisions.iter().filter(|(_, decision)| decision.was_counted()) {
        let separator = if fields.policy.is_empty() { "" } else { ", " };
        // A rule's name needs no escaping inside quotes: `Rule::compile` sees to that.
        let _ = write!(
            fields.rate_limit,
            "{separator}\"{}\";r={};t={}",
            rule.name(),
            decision.remaining,
            whole_seconds(decision.reset)
        );
        let _ = write!(
            fields.policy,
            "{separator}\"{}\";q={};w={}",
            rule.name(),
            decision.limit,
            whole_seconds(rule.rate().window)
        );
    }
    (!fields.policy.is_empty()).then_some(fields)
}

/// Rounded up: a client that waits this long has waited long enough.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limit, LimitBy, OnOutage, Rate};
    use crate::limit::Basis;

    fn rule(name: &str, rate: Rate) -> Rule {
        let limit = Limit { rate, by: LimitBy::Ip, on_outage: None };
        Rule::compile(name, &limit, OnOutage::Local).expect("a good name")
    }

    fn decision(limit: u32, remaining: u32, reset_ms: u64, basis: Basis) -> Decision {
        Decision {
            allowed: true,
            limit,
            remaining,
            reset: Duration::from_millis(reset_ms),
            retry_after: Duration::ZERO,
            basis,
        }
    }

    #[test]
    fn rules_are_joined_in_order_and_times_are_rounded_up() {
        let login = rule("login", Rate::new(5, 60));
        let account = rule("login_account", Rate::new(20, 3_600));
        let fields = rate_limit_fields(&[
            (&login, decision(5, 4, 60_000, Basis::Counted)),
            (&account, decision(20, 19, 3_599_001, Basis::Local)),
        ])
        .expect("fields");
        assert_eq!(fields.rate_limit, r#""login";r=4;t=60, "login_account";r=19;t=3600"#);
        assert_eq!(fields.policy, r#""login";q=5;w=60, "login_account";q=20;w=3600"#);
    }

    #[test]
    fn what_was_not_counted_is_not_told() {
        let login = rule("login", Rate::new(5, 60));
        assert_eq!(rate_limit_fields(&[]), None);
        let uncounted = decision(5, 0, 0, Basis::Uncounted);
        assert_eq!(rate_limit_fields(&[(&login, uncounted)]), None);
    }
}
