//! What limits count under, for those who count and for those who look.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use crate::config::{Limit, LimitBy, OnOutage};
use crate::identity::caller::OURS;
use crate::limit::{Caller, Key, Rule};
use crate::model::{Email, SessionId, UserId, clean_text};
use crate::store::Lane;

/// Longest label of a count, in bytes: a route may have a long name.
const MAX_LABEL: usize = 256;

/// What failed logins are called beside the limits, in events and answers.
pub const LOGIN_GUARD: &str = "login_guard";

/// Logins. Strangers fill up a count of their own, not that of the account's known places.
pub fn login(email: &Email, lane: &Lane) -> String {
    format!("{} {}", email.key(), lane.name())
}

/// Changes of a password. Apart from logins, so that strangers who guess there cannot get in the way.
pub fn password_change(user: &UserId) -> String {
    format!("password change of {user}")
}

/// Whose count is looked for. What a limit counts by has to be there, the rest need not.
#[derive(Clone, Debug, Default)]
pub struct Whose {
    /// Client address.
    pub ip: Option<IpAddr>,
    /// E-mail address; `login_account` counts it for each network in which it is known (then with
    /// [`Whose::ip`]) and for all others together.
    pub account: Option<Email>,
    /// User id; of `login_account` the changes of password.
    pub user: Option<String>,
    /// Session id.
    pub session: Option<SessionId>,
    /// Name of the issuer of user or session; `None` = ours.
    pub issuer: Option<String>,
    /// Name of the route, or path of the endpoint.
    pub route: Option<String>,
}

/// A count: which limit's, and of whom.
#[derive(Clone, Debug)]
pub struct Counter {
    /// The limit.
    pub rule: Rule,
    /// Of whom.
    pub key: Key,
    /// The e-mail address that was named.
    pub account: Option<String>,
    /// The user of ours that was named.
    pub user: Option<UserId>,
    /// The limit, and what else was named, for events: `login ip=192.0.2.1`.
    pub label: String,
}

/// Why there is no such count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCounter {
    /// The limit counts by something that was not named: one of [`Whose`].
    #[error("the limit counts by {0}")]
    Unnamed(&'static str),
    /// The limit itself cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl Whose {
    /// The count of a limit.
    ///
    /// # Errors
    /// See [`NoCounter`].
    pub fn counter(
        &self,
        name: &str,
        limit: &Limit,
        on_outage: OnOutage,
    ) -> Result<Counter, NoCounter> {
        let rule = Rule::compile(name, limit, on_outage)
            .map_err(|problem| NoCounter::Unusable(problem.message))?;
        let user = self.local_user();
        let account = self.counted_account(name, user.as_ref());
        let is_named = match limit.by {
            LimitBy::Account => account.is_some(),
            LimitBy::Ip | LimitBy::Network => self.ip.is_some(),
            LimitBy::Route => self.route.is_some(),
            // Of the anonymous these count the address.
            LimitBy::Session => self.session.is_some() || self.ip.is_some(),
            LimitBy::User => self.user.is_some() || self.ip.is_some(),
        };
        if !is_named {
            return Err(NoCounter::Unnamed(match limit.by {
                LimitBy::Ip | LimitBy::Network => "ip",
                by => by.name(),
            }));
        }
        let issuer = self.issuer.as_deref().unwrap_or(OURS);
        // Looked at only where it is named.
        let address = self.ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let key = rule.key(&Caller {
            user: self.user.as_deref().map(|user| (issuer, user)),
            session: self.session.map(|session| (issuer, session)),
            account: account.as_deref(),
            ..Caller::anonymous(address, self.route.as_deref().unwrap_or_default())
        });
        let account = self.account.as_ref().map(|email| email.address().to_owned());
        let label = self.label(name, user.is_none());
        Ok(Counter { rule, key, account, user, label })
    }

    /// What events say of the count, beside account and user, for which they have places.
    fn label(&self, limit: &str, with_user: bool) -> String {
        let mut label = limit.to_owned();
        let foreign = self.user.clone().filter(|_| with_user);
        for (what, value) in [
            ("ip", self.ip.map(|ip| ip.to_string())),
            ("session", self.session.map(|session| session.to_string())),
            ("issuer", self.issuer.clone().filter(|_| foreign.is_some())),
            ("user", foreign.clone()),
            ("route", self.route.clone()),
        ] {
            if let Some(value) = value {
                let _ = write!(label, " {what}={value}");
            }
        }
        clean_text(label.as_bytes(), MAX_LABEL)
    }

    /// What the gateway counts such an account by.
    fn counted_account(&self, limit: &str, user: Option<&UserId>) -> Option<String> {
        match (&self.account, user) {
            (Some(email), _) if limit == "login_account" => {
                let lane = match self.ip {
                    Some(address) => Lane::at_home(email, address),
                    None => Lane::of_strangers(email),
                };
                Some(login(email, &lane))
            }
            (Some(email), _) => Some(email.key().to_owned()),
            (None, Some(user)) if limit == "login_account" => Some(password_change(user)),
            (None, _) => None,
        }
    }

    fn local_user(&self) -> Option<UserId> {
        let is_ours = self.issuer.as_deref().is_none_or(|issuer| issuer == OURS);
        self.user.as_ref().filter(|_| is_ours).and_then(|user| user.parse().ok())
    }
}
