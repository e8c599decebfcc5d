//! A limit with a name, and the key under which one caller is counted. Knows nothing of where
//! the counters live. No e-mail address ever becomes part of a key: Redis is often shared,
//! dumped and looked at.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::window::Window;
use crate::config::{Limit, LimitBy, OnOutage, Problem, Rate};
use crate::model::{SessionId, network_of};

/// One entry of `[limits]`, ready to be hit. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rule {
    name: Arc<str>,
    rate: Rate,
    window: Window,
    by: LimitBy,
    on_outage: OnOutage,
}

impl Rule {
    /// Makes a rule of the entry `name`; `default` is `counters.on_outage`.
    ///
    /// # Errors
    /// When the name does not fit into a header field and a Redis key.
    pub fn compile(name: &str, limit: &Limit, default: OnOutage) -> Result<Self, Problem> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(fine) {
            return Err(Problem::new(
                format!("limits.{name}"),
                "the name of a limit is 1 to 64 of the characters A-Z a-z 0-9 . _ -, as it is shown in the RateLimit header",
            ));
        }
        Ok(Self {
            name: name.into(),
            rate: limit.rate,
            window: Window::new(limit.rate),
            by: limit.by,
            on_outage: limit.on_outage.unwrap_or(default),
        })
    }

    /// The name in `[limits]`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How many in which time.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// What is counted apart.
    pub fn by(&self) -> LimitBy {
        self.by
    }

    /// What happens while Redis is away.
    pub fn on_outage(&self) -> OnOutage {
        self.on_outage
    }

    /// The key under which this rule counts `caller`.
    ///
    /// What the rule counts by may be missing: an anonymous caller has neither user nor session,
    /// most requests name no account. Then the client address is counted, never nothing.
    pub fn key(&self, caller: &Caller<'_>) -> Key {
        let by_address = || Key(By::Ip(fold(caller.address)));
        match self.by {
            LimitBy::Ip => by_address(),
            LimitBy::User => caller.user.map_or_else(by_address, |(issuer, subject)| {
                Key(By::User(format!("{issuer}/{subject}").into()))
            }),
            LimitBy::Account => {
                caller.account.map_or_else(by_address, |key| Key(By::Account(digest(key))))
            }
            LimitBy::Network => Key(By::Network(network_of(caller.address))),
            LimitBy::Route => Key(By::Route(caller.route.into())),
            LimitBy::Session => caller.session.map_or_else(by_address, |(issuer, session)| {
                Key(By::Session(format!("{issuer}/{session}").into()))
            }),
        }
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }
}

/// Who is asking for what: all that any rule may count by.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The client's address, after trusted proxies.
    pub address: IpAddr,
    /// The verified subject, after its issuer's name: two issuers may know one name.
    pub user: Option<(&'a str, &'a str)>,
    /// The session, after its issuer's name.
    pub session: Option<(&'a str, SessionId)>,
    /// [`Email::key`](crate::model::Email::key) of the account tried, known or not: spellings of
    /// one address share one count.
    pub account: Option<&'a str>,
    /// Name of the route or endpoint.
    pub route: &'a str,
}

impl<'a> Caller<'a> {
    /// Somebody of whom nothing is known but the address.
    pub fn anonymous(address: IpAddr, route: &'a str) -> Self {
        Self { address, user: None, session: None, account: None, route }
    }
}

/// What one rule counts apart from the rest. `Display` is its form in Redis.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(By);

#[derive(Clone, PartialEq, Eq, Hash)]
enum By {
    Ip(IpAddr),
    Network(IpNet),
    User(Arc<str>),
    Account([u8; 16]),
    Route(Arc<str>),
    Session(Arc<str>),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            By::Ip(IpAddr::V4(v4)) => write!(f, "ip:{v4}"),
            By::Ip(IpAddr::V6(v6)) => write!(f, "ip:{v6}/64"),
            By::Network(network) => write!(f, "network:{network}"),
            By::User(id) => write!(f, "user:{id}"),
            By::Account(digest) => {
                f.write_str("account:")?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            By::Route(name) => write!(f, "route:{name}"),
            By::Session(id) => write!(f, "session:{id}"),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IPv6 client owns at least its /64 (RFC 6177 §2) and can write any of its 2^64 addresses on
/// a packet, so the /64 is the client. An IPv4 address that a dual-stack socket reports as
/// `::ffff:192.0.2.1` is the IPv4 address (RFC 4291 §2.5.5.2): otherwise all of IPv4 would share
/// one /64.
fn fold(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64))),
    }
}

/// 128 bits of SHA-256: too many for two accounts ever to share a count.
fn digest(account: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(account.as_bytes())[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(by: LimitBy) -> Rule {
        let limit = Limit { rate: Rate::new(5, 60), by, on_outage: None };
        Rule::compile("login", &limit, OnOutage::Local).expect("a good name")
    }

    fn caller(address: &str) -> Caller<'static> {
        Caller::anonymous(address.parse().expect("an address"), "/api/{id}")
    }

    #[test]
    fn addresses_are_counted_by_who_owns_them() {
        for (address, key) in [
            ("192.0.2.1", "ip:192.0.2.1"),
            ("::ffff:192.0.2.1", "ip:192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "ip:2001:db8:1:2::/64"),
            ("2001:db8:1:2::1", "ip:2001:db8:1:2::/64"),
            ("2001:db8:1:3::1", "ip:2001:db8:1:3::/64"),
            ("::1", "ip:::/64"),
        ] {
            assert_eq!(rule(LimitBy::Ip).key(&caller(address)).to_string(), key);
        }
    }

    #[test]
    fn each_rule_counts_by_what_it_names_and_else_by_address() {
        let full = Caller {
            user: Some(("self", "u-1")),
            session: Some(("self", SessionId::from_u128(7))),
            account: Some("ann@example.com"),
            ..caller("192.0.2.1")
        };
        let anonymous = caller("192.0.2.1");
        for (by, known, unknown) in [
            (LimitBy::Ip, "ip:192.0.2.1", "ip:192.0.2.1"),
            (LimitBy::User, "user:self/u-1", "ip:192.0.2.1"),
            (LimitBy::Account, "account:71d4f55f72fa128dfb468a1a3901507c", "ip:192.0.2.1"),
            (LimitBy::Network, "network:192.0.2.0/24", "network:192.0.2.0/24"),
            (LimitBy::Route, "route:/api/{id}", "route:/api/{id}"),
            (LimitBy::Session, "session:self/00000000-0000-0000-0000-000000000007", "ip:192.0.2.1"),
        ] {
            assert_eq!(rule(by).key(&full).to_string(), known);
            assert_eq!(rule(by).key(&anonymous).to_string(), unknown);
        }
    }

    #[test]
    fn no_key_holds_an_e_mail_address() {
        let who = Caller { account: Some("ann@example.com"), ..caller("192.0.2.1") };
        let key = rule(LimitBy::Account).key(&who);
        assert!(!format!("{key} {key:?}").contains("ann"));
        let other = Caller { account: Some("bob@example.com"), ..who };
        assert_ne!(key, rule(LimitBy::Account).key(&other));
    }

    #[test]
    fn names_fit_into_headers_and_keys() {
        let limit = Limit { rate: Rate::new(5, 60), by: LimitBy::Ip, on_outage: None };
        for good in ["login", "a", "A-b_c.9"] {
            assert!(Rule::compile(good, &limit, OnOutage::Deny).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\"", "a:b", "ä", "a\r\nb", &"x".repeat(65)] {
            assert!(Rule::compile(bad, &limit, OnOutage::Deny).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rule_may_have_its_own_way_with_outages() {
        let of = |own| {
            let limit = Limit { rate: Rate::new(5, 60), by: LimitBy::Ip, on_outage: own };
            Rule::compile("x", &limit, OnOutage::Local).expect("a good name").on_outage()
        };
        assert_eq!(of(None), OnOutage::Local);
        assert_eq!(of(Some(OnOutage::Deny)), OnOutage::Deny);
    }
}
