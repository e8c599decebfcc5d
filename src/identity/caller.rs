//! A proven identity, ready for use on every request: what a token said, checked and brought into
//! the forms in which it is compared, logged and passed on. It does not know how it was proven.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;
use uuid::Uuid;

use super::rejection::Rejection;
use crate::config;
use crate::model::{Aal, ApiKey, SessionId, User, UserId, is_role_name, is_scope_name};

/// The name of our own tokens' issuer where routes and tests name one.
pub const OURS: &str = "self";

/// Who is calling.
#[derive(Clone)]
pub struct Identity {
    /// Who says so.
    pub issuer: IssuerIndex,
    /// The issuer's name in the configuration; `self` for our own.
    pub issuer_name: Arc<str>,
    /// `sub`: the user's id for our own tokens, visible ASCII for others.
    pub subject: Arc<str>,
    /// `email`, confirmed or not.
    pub email: Option<String>,
    /// Whether the address was proved to be the subject's.
    pub email_verified: bool,
    /// Sorted, without repeats.
    pub roles: Vec<String>,
    /// How well its user was authenticated.
    pub assurance: Assurance,
    /// The login that the token belongs to; our own tokens have one, but for those of programs.
    pub session: Option<SessionId>,
    /// `iat`, in Unix seconds.
    pub issued_at: Option<i64>,
    /// `exp`, in Unix seconds.
    pub expires_at: i64,
    /// `nbf`, in Unix seconds.
    pub not_before: Option<i64>,
    /// The program that acts for the subject; `None` = the subject itself.
    pub machine: Option<Box<Machine>>,
    /// `kid` of the key of ours that signed the token; none for other issuers.
    pub key: Option<Arc<str>>,
    /// The values for the upstream, made once for all requests.
    pub headers: HeaderValues,
    /// From this Unix second on, leeway included, the token is good …
    pub(super) good_from: i64,
    /// … and until before this one, at which it has expired or its key is retired.
    pub(super) good_until: i64,
}

/// A program that acts for a user: by an API key, or by a token that it got for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The key, which must be good for as long as it acts; `None` in an imagined call.
    pub key_id: Option<Uuid>,
    /// The token that it got for the key, when that was shown: `jti`, by which it is given up.
    pub token: Option<Uuid>,
    /// The key's prefix, by which everybody knows it.
    pub client: Box<str>,
    /// What it may do; sorted.
    pub scopes: Vec<String>,
}

/// How well a token's user was authenticated. Of other issuers nothing is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assurance {
    /// `aal`
    pub aal: Aal,
    /// `mfa_pending`: the user has a second factor that the session has not shown.
    pub mfa_pending: bool,
    /// When the user proved something last, in Unix seconds.
    pub proved_at: Option<i64>,
}

impl Assurance {
    /// What is known of the users of other issuers.
    pub(super) const UNKNOWN: Self = Self { aal: Aal::One, mfa_pending: false, proved_at: None };

    /// Whether the last proof is at most `max_age` seconds old at `now`, in Unix seconds.
    pub fn is_fresh(&self, max_age: i64, now: i64) -> bool {
        self.proved_at.is_some_and(|at| now.saturating_sub(at) <= max_age)
    }
}

/// What upstreams are told, as header values; `None` where there is nothing to tell.
#[derive(Clone)]
pub struct HeaderValues {
    /// The subject.
    pub subject: HeaderValue,
    /// The e-mail address, only when it is confirmed.
    pub email: Option<HeaderValue>,
    /// Roles, sorted, comma separated.
    pub roles: Option<HeaderValue>,
    /// The issuer's name: the subject means somebody only together with it.
    pub issuer: HeaderValue,
    /// The session.
    pub session: Option<HeaderValue>,
    /// What a program may do, comma separated.
    pub scopes: Option<HeaderValue>,
}

impl Identity {
    /// An identity that no token proved, for `explain` and `[[tests]]`. It never expires, and its
    /// user has just logged in.
    ///
    /// # Errors
    /// [`Rejection::Claim`] when no token of this issuer could carry the subject or a role.
    pub fn synthetic(
        subject: &str,
        roles: &[String],
        issuer: IssuerIndex,
        issuer_name: Arc<str>,
    ) -> Result<Self, Rejection> {
        if !is_subject(subject, issuer) {
            return Err(Rejection::Claim("sub"));
        }
        if !roles.iter().all(|role| is_role_name(role)) {
            return Err(Rejection::Claim("roles"));
        }
        let roles = sorted_roles(roles.to_vec());
        let issuer_header =
            HeaderValue::from_str(&issuer_name).map_err(|_| Rejection::Claim("iss"))?;
        let headers = HeaderValues::new(issuer_header, subject, None, &roles, None)?;
        Ok(Self {
            issuer,
            issuer_name,
            subject: subject.into(),
            email: None,
            email_verified: false,
            roles,
            assurance: Assurance {
                aal: Aal::One,
                mfa_pending: false,
                proved_at: issuer.is_ours().then_some(i64::MAX),
            },
            session: None,
            issued_at: None,
            expires_at: i64::MAX,
            not_before: None,
            machine: None,
            key: None,
            headers,
            good_from: i64::MIN,
            good_until: i64::MAX,
        })
    }

    /// The same, but for a program with these scopes, as by an API key.
    ///
    /// # Errors
    /// [`Rejection::Claim`] when no key could have a scope.
    pub fn with_machine(self, machine: Machine) -> Result<Self, Rejection> {
        if !machine.scopes.iter().all(|scope| is_scope_name(scope)) {
            return Err(Rejection::Claim("scope"));
        }
        let machine = Machine { scopes: sorted_roles(machine.scopes), ..machine };
        // Also when there is none: it tells an upstream that a program calls.
        let scopes = HeaderValue::from_str(&machine.scopes.join(","));
        let scopes = Some(scopes.map_err(|_| Rejection::Claim("scope"))?);
        let headers = HeaderValues { scopes, ..self.headers };
        // Nobody sits before a program who could prove anything.
        let assurance = Assurance::UNKNOWN;
        Ok(Self { machine: Some(Box::new(machine)), assurance, headers, ..self })
    }

    /// Who calls with `key`: its user, as now known, until the key ends.
    ///
    /// # Errors
    /// [`Rejection::Claim`] when no token could say the same.
    pub(super) fn of_api_key(
        key: &ApiKey,
        user: &User,
        machine: Machine,
    ) -> Result<Self, Rejection> {
        let made = Self::synthetic(user.id.as_str(), &user.roles, IssuerIndex::OURS, OURS.into())?;
        let email_verified = user.email_confirmed_at.is_some();
        let email = email_header(&user.email).filter(|_| email_verified);
        let ends = key.expires_at.map_or(i64::MAX, Timestamp::as_second);
        Self {
            email: Some(user.email.clone()),
            email_verified,
            issued_at: Some(key.created_at.as_second()),
            expires_at: ends,
            headers: HeaderValues { email, ..made.headers },
            good_until: ends,
            ..made
        }
        .with_machine(machine)
    }

    /// The same of a session that has shown a second factor.
    #[must_use]
    pub fn with_second_factor(mut self) -> Self {
        self.assurance.aal = Aal::Two;
        self
    }

    /// Whether our own token proved it.
    pub fn is_ours(&self) -> bool {
        self.issuer.is_ours()
    }

    /// Whether the token that proved it is good at `now`, in Unix seconds.
    pub fn is_current(&self, now: i64) -> bool {
        self.good_from <= now && now < self.good_until
    }

    /// Under which id its token is given up before its time: the session's, or the own of a
    /// program's token.
    pub fn revoked_by(&self) -> Option<Uuid> {
        self.session.or_else(|| self.machine.as_ref()?.token)
    }

    /// Whether it has one of `roles`.
    pub fn has_any_role(&self, roles: &[String]) -> bool {
        roles.iter().any(|role| self.roles.binary_search(role).is_ok())
    }
}

impl fmt::Debug for Identity {
    /// Without the e-mail address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("issuer", &self.issuer_name)
            .field("subject", &self.subject)
            .field("roles", &self.roles)
            .field("session", &self.session)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl HeaderValues {
    pub(super) fn new(
        issuer: HeaderValue,
        subject: &str,
        confirmed_email: Option<&str>,
        roles: &[String],
        session: Option<SessionId>,
    ) -> Result<Self, Rejection> {
        let session = session.map(|id| {
            HeaderValue::from_str(&id.to_string()).expect("a UUID is hexadecimal with hyphens")
        });
        let roles = (!roles.is_empty()).then(|| {
            HeaderValue::from_str(&roles.join(",")).expect("roles are lower-case ASCII words")
        });
        Ok(Self {
            subject: HeaderValue::from_str(subject).map_err(|_| Rejection::Claim("sub"))?,
            email: confirmed_email.and_then(email_header),
            roles,
            issuer,
            session,
            scopes: None,
        })
    }
}

/// An address as it may stand in a header: no spaces or control characters, which could be read as
/// the end of the value, and no longer than an address can be (RFC 5321 §4.5.3.1.3). Letters
/// outside ASCII go as UTF-8 (RFC 6532).
fn email_header(email: &str) -> Option<HeaderValue> {
    let harmful = |c: char| c.is_control() || c.is_whitespace();
    if email.is_empty() || email.len() > 254 || email.chars().any(harmful) {
        return None;
    }
    HeaderValue::from_bytes(email.as_bytes()).ok()
}

pub(super) fn sorted_roles(mut roles: Vec<String>) -> Vec<String> {
    roles.sort_unstable();
    roles.dedup();
    roles
}

/// Ours: a user id. Others: visible ASCII, so that what is compared, logged and passed on is one
/// and the same, and no header or log line can be forged with it.
pub(super) fn is_subject(subject: &str, issuer: IssuerIndex) -> bool {
    if issuer.is_ours() {
        return subject.parse::<UserId>().is_ok();
    }
    (1..=255).contains(&subject.len()) && subject.bytes().all(|b| b.is_ascii_graphic())
}

/// An issuer: our own, or the n-th of `[[issuers]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IssuerIndex(u8);

impl IssuerIndex {
    /// Our own tokens.
    pub const OURS: Self = Self(0);

    /// Whether it is our own.
    pub fn is_ours(self) -> bool {
        self == Self::OURS
    }

    /// The issuer at `position` of `[[issuers]]`; `None` beyond [`IssuerSet::MAX_OTHERS`].
    pub(super) fn other(position: usize) -> Option<Self> {
        (position < IssuerSet::MAX_OTHERS)
            .then(|| u8::try_from(position + 1).ok().map(Self))
            .flatten()
    }

    /// The issuer that routes and tests call `name`.
    pub fn named(name: &str, issuers: &[config::Issuer]) -> Option<Self> {
        if name == OURS {
            return Some(Self::OURS);
        }
        Self::other(issuers.iter().position(|issuer| issuer.name == name)?)
    }
}

/// The issuers that a route accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IssuerSet(u64);

impl IssuerSet {
    /// Only our own tokens; what a route accepts when it names no issuers.
    pub const OURS: Self = Self(1);

    /// Most entries of `[[issuers]]`.
    pub const MAX_OTHERS: usize = 63;

    /// The set of `names`; only our own when there are none.
    ///
    /// # Errors
    /// The first name that is no issuer.
    pub fn named<'a>(names: &'a [String], issuers: &[config::Issuer]) -> Result<Self, &'a str> {
        if names.is_empty() {
            return Ok(Self::OURS);
        }
        names.iter().try_fold(Self(0), |set, name| {
            IssuerIndex::named(name, issuers)
                .map(|index| Self(set.0 | 1 << index.0))
                .ok_or(name.as_str())
        })
    }

    /// Whether it has more than one.
    pub fn has_several(self) -> bool {
        self.0.count_ones() > 1
    }

    /// Whether the set has the issuer.
    pub fn contains(self, issuer: IssuerIndex) -> bool {
        self.0 >> issuer.0 & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(name: &str) -> config::Issuer {
        config::Issuer::of_key_file(name, config::Algorithm::Rs256, "key.pem".into())
    }

    #[test]
    fn routes_name_their_issuers() {
        let issuers: Vec<_> = (0..70).map(|n| issuer(&format!("i{n}"))).collect();
        let set = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            IssuerSet::named(&names, &issuers).map_err(str::to_owned)
        };
        assert_eq!(set(&[]), Ok(IssuerSet::OURS));
        assert_eq!(set(&["self"]), Ok(IssuerSet::OURS));
        assert_eq!(set(&["i0", "nobody"]), Err("nobody".to_owned()));
        assert_eq!(set(&["i63"]), Err("i63".to_owned()), "only 63 have room in the set");

        let both = set(&["i62", "i1"]).unwrap();
        assert!(both.contains(IssuerIndex::named("i62", &issuers).unwrap()));
        assert!(both.contains(IssuerIndex::named("i1", &issuers).unwrap()));
        assert!(!both.contains(IssuerIndex::named("i2", &issuers).unwrap()));
        assert!(!both.contains(IssuerIndex::OURS));
        assert!(both.has_several());
        assert!(!set(&["i1", "i1"]).unwrap().has_several() && !IssuerSet::OURS.has_several());
    }

    #[test]
    fn a_synthetic_identity_is_one_that_a_token_could_prove() {
        let make = |subject: &str, roles: &[&str]| {
            let roles: Vec<String> = roles.iter().map(|&r| r.to_owned()).collect();
            Identity::synthetic(subject, &roles, IssuerIndex::OURS, OURS.into())
        };
        let ann = make("u-1", &["staff", "admin", "staff"]).unwrap();
        assert_eq!(ann.roles, ["admin", "staff"]);
        assert_eq!(ann.headers.subject, "u-1");
        assert_eq!(ann.headers.roles.as_ref().unwrap(), "admin,staff");
        assert!(
            ann.has_any_role(&["x".into(), "staff".into()]) && !ann.has_any_role(&["x".into()])
        );
        assert!(ann.is_ours() && ann.is_current(0) && ann.is_current(i64::MAX - 1));
        assert_eq!(make("a/b", &[]).err(), Some(Rejection::Claim("sub")));
        assert_eq!(make("u-1", &["Admin"]).err(), Some(Rejection::Claim("roles")));

        let other = IssuerIndex::other(0).unwrap();
        let theirs =
            |subject: &str| Identity::synthetic(subject, &[], other, "corp".into()).is_ok();
        assert!(theirs("auth0|5f7c8ec7c33c6c004bbafe82"));
        for bad in ["", "a b", "a\n", "ä", &"x".repeat(256)] {
            assert!(!theirs(bad), "{bad:?}");
        }
    }

    #[test]
    fn only_harmless_addresses_become_headers() {
        assert_eq!(email_header("ann@example.com").unwrap(), "ann@example.com");
        assert_eq!(
            email_header("änn@example.com").unwrap().as_bytes(),
            "änn@example.com".as_bytes()
        );
        let long = format!("{}@example.com", "a".repeat(250));
        for bad in ["", "a b@example.com", "a\r\nX-User-Id: b", "a\u{85}@b", "a\u{a0}@b", &long] {
            assert!(email_header(bad).is_none(), "{bad:?}");
        }
    }
}
