//! May this caller make this request? A route and a credential become a [`Permit`], which has no
//! other maker, so that forwarding an unauthorized request does not compile.
//!
//! It knows neither HTTP statuses nor counters: refusals are words, and limits are listed for the
//! caller to count. Each check only ever denies; none leads to another route.

use std::sync::Arc;

use http::HeaderValue;

use super::path::{self, PathError};
use super::route::{NoMatch, Owner, Route, RouteMatch, RouteUpstream};
use super::step_up::StepUp;
use super::trace::{Step, Trace};
use crate::config::{Access, Mode, Preflight};
use crate::identity::{Credential, Identity, Machine, Rejection};

/// Leave to forward one request.
#[derive(Debug)]
pub struct Permit<'t> {
    route: &'t Route,
    upstream: &'t RouteUpstream,
    identity: Option<Arc<Identity>>,
    owner_overridden: bool,
    shadowed: Option<Refusal>,
}

impl<'t> Permit<'t> {
    /// The route.
    pub fn route(&self) -> &'t Route {
        self.route
    }

    /// Where to.
    pub fn upstream(&self) -> &'t RouteUpstream {
        self.upstream
    }

    /// The caller; `None` = anonymous, or on a public route nobody looked.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// Whether the path is another user's and a role made up for it, which is worth an event.
    pub fn owner_overridden(&self) -> bool {
        self.owner_overridden
    }

    /// What would have been the answer if the route's mode were `enforce`.
    pub fn shadowed(&self) -> Option<&Refusal> {
        self.shadowed.as_ref()
    }

    /// A stable word for why it was given, for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match (&self.identity, self.route.access) {
            _ if self.owner_overridden => "owner_override",
            (Some(_), _) if self.route.owner.is_some() => "owner",
            (Some(_), _) => "authenticated",
            (None, Access::Public) => "public",
            (None, _) => "anonymous",
        }
    }

    /// The limits that the request counts against, by place among the sorted names of `[limits]`.
    pub fn limits(&self) -> &'t [usize] {
        &self.route.limits
    }

    /// What to forward of the request's path.
    pub fn forwarded_path<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        self.route.forwarded_path(path)
    }
}

/// Leave to forward a CORS preflight, which carries no credential by design (Fetch standard), on a
/// route that leaves the answer to its upstream.
pub(super) fn permit_preflight(route: &Route) -> Option<Permit<'_>> {
    let upstream = route.upstream.as_ref()?;
    let forwards = route.preflight == Preflight::Forward && route.access != Access::Deny;
    forwards.then_some(Permit {
        route,
        upstream,
        identity: None,
        owner_overridden: false,
        shadowed: None,
    })
}

/// Why a request is not forwarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The path is not canonical, or breaks a rule of its route.
    #[error(transparent)]
    BadPath(PathError),
    /// No route matches.
    #[error("no route matches the path")]
    NoRoute,
    /// The path has routes, but none for the method.
    #[error("the path takes other methods: {allow}")]
    MethodNotAllowed {
        /// Value of `Allow`.
        allow: String,
    },
    /// `access = "deny"`
    #[error("the route is closed to everybody")]
    Denied,
    /// A token is needed and there is none.
    #[error("the request carries no bearer token")]
    NoToken,
    /// More than one token, or one that is none.
    #[error("the authorization of the request is malformed")]
    MalformedCredential,
    /// A cookie, and a page of another site that would act by it.
    #[error("a page of another site, or one that is not named, would act by a cookie")]
    CrossSite,
    /// The token is not accepted.
    #[error(transparent)]
    BadToken(Rejection),
    /// The path is another user's.
    #[error("the path belongs to another user")]
    OwnerMismatch {
        /// Whether the answer must look like an unknown route's.
        hidden: bool,
    },
    /// The page that the request comes from may not have the route.
    #[error("the request comes from an origin that the route does not take")]
    OriginDenied,
    /// The route is for clients with a certificate only.
    #[error("the client has shown no certificate, and the route asks for one")]
    NoClientCertificate,
    /// An API key, or a token that was got for one, on a route that takes none.
    #[error("the route takes no API keys")]
    ApiKeyNotAccepted,
    /// An API key that is not good for what the route asks.
    #[error("the API key is not good for all of: {needed}")]
    MissingScope {
        /// The scopes that the route asks for, as `WWW-Authenticate` lists them.
        needed: String,
    },
    /// None of the route's roles.
    #[error("the caller has none of the roles that the route asks for")]
    MissingRole,
    /// The token is good, but its user has to prove more, or anew (RFC 9470).
    #[error("the caller has to {0}")]
    StepUp(StepUp),
}

impl Refusal {
    /// A stable `snake_case` word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadPath(_) => "bad_path",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::Denied => "denied",
            Self::NoClientCertificate => "no_client_certificate",
            Self::NoToken => "no_token",
            Self::MalformedCredential => "malformed_credential",
            Self::CrossSite => "cross_site_request",
            Self::BadToken(rejection) => rejection.as_str(),
            Self::OwnerMismatch { .. } => "owner_mismatch",
            Self::OriginDenied => "origin_denied",
            Self::ApiKeyNotAccepted => "api_key_not_accepted",
            Self::MissingScope { .. } => "missing_scope",
            Self::MissingRole => "missing_role",
            Self::StepUp(_) => "insufficient_aal",
        }
    }
}

impl From<NoMatch> for Refusal {
    fn from(no_match: NoMatch) -> Self {
        match no_match {
            NoMatch::BadPath(error) => Self::BadPath(error),
            NoMatch::NoRoute => Self::NoRoute,
            NoMatch::MethodNotAllowed { allow } => Self::MethodNotAllowed { allow },
        }
    }
}

/// A refusal, with what was known of the request by then.
#[derive(Debug)]
pub struct Refused<'t> {
    /// Why.
    pub refusal: Refusal,
    /// The route, once found.
    pub route: Option<&'t Route>,
    /// The caller, once verified.
    pub identity: Option<Arc<Identity>>,
}

/// Decides whether the caller may have the route at `now`, in Unix seconds. `certificate` is the subject of the certificate
/// that the client has shown. `credential` is asked only when the route looks at tokens: a public
/// route must not depend on them.
///
/// # Errors
/// The first check that denies. In shadow mode only `access = "deny"` does; what would have been
/// refused is noted in the permit.
pub fn authorize<'t, T: Trace>(
    found: &RouteMatch<'t, '_>,
    certificate: Option<&HeaderValue>,
    credential: impl FnOnce(&Route) -> Credential,
    now: i64,
    trace: &mut T,
) -> Result<Permit<'t>, Refused<'t>> {
    let route = found.route();
    let upstream = match (&route.upstream, route.access) {
        (None, _) | (_, Access::Deny) => {
            trace.note(Step::Access, "refused", || "the route is closed to everybody".to_owned());
            return Err(Refused { refusal: Refusal::Denied, route: Some(route), identity: None });
        }
        (Some(upstream), _) => upstream,
    };
    let mut permit =
        Permit { route, upstream, identity: None, owner_overridden: false, shadowed: None };
    let checked = check_certificate(route, certificate, trace).and_then(|()| {
        if route.access == Access::Public {
            trace.note(Step::Access, "public", || "tokens are not looked at".to_owned());
            return Ok(());
        }
        check_caller(&mut permit, found, credential(route), now, trace)
    });
    match checked {
        Ok(()) => Ok(permit),
        Err(refusal) if route.mode == Mode::Shadow => {
            trace.note(Step::Mode, "let through", || {
                format!("the route's mode is shadow: \"{refusal}\" is only noted")
            });
            permit.shadowed = Some(refusal);
            // What the upstream is told must be true in any mode.
            permit.identity = permit.identity.filter(|identity| !is_half(route, identity));
            Ok(permit)
        }
        Err(refusal) => {
            Err(Refused { refusal, route: Some(route), identity: permit.identity.take() })
        }
    }
}

/// Whether the client has shown a certificate, where the route asks for one. That it is a good one
/// was found out when the connection began.
fn check_certificate<T: Trace>(
    route: &Route,
    certificate: Option<&HeaderValue>,
    trace: &mut T,
) -> Result<(), Refusal> {
    if !route.client_certificate {
        return Ok(());
    }
    let Some(subject) = certificate else {
        trace.note(Step::Certificate, "refused", || Refusal::NoClientCertificate.to_string());
        return Err(Refusal::NoClientCertificate);
    };
    trace.note(Step::Certificate, "passed", || {
        format!("the client is `{}`", subject.to_str().unwrap_or_default())
    });
    Ok(())
}

/// Who is calling, what a program may do, whose the path is, which role is asked for, how well the
/// caller is known: in this order, so that nobody has to prove more for what is refused in any case.
fn check_caller<T: Trace>(
    permit: &mut Permit<'_>,
    found: &RouteMatch<'_, '_>,
    credential: Credential,
    now: i64,
    trace: &mut T,
) -> Result<(), Refusal> {
    let route = permit.route;
    let Some(identity) = verified(route, credential, trace)? else { return Ok(()) };
    let identity = &*permit.identity.insert(identity);
    if let Some(machine) = &identity.machine {
        check_machine(route, machine, trace)?;
    }
    if is_half(route, identity) {
        let refusal = Refusal::StepUp(StepUp { aal2: true, max_age: None });
        trace.note(Step::Token, "refused", || refusal.to_string());
        return Err(refusal);
    }
    if let (Some(owner), Some(value)) = (&route.owner, found.owner()) {
        permit.owner_overridden = check_owner(route, owner, value, identity, trace)?;
    }
    if !route.roles.is_empty() {
        let Some(role) = role_of(identity, &route.roles) else {
            trace.note(Step::Roles, "refused", || {
                format!("none of {} is a role of the caller", route.roles.join(", "))
            });
            return Err(Refusal::MissingRole);
        };
        trace.note(Step::Roles, "passed", || format!("the caller has the role `{role}`"));
    }
    if route.step_up.is_nothing() {
        return Ok(());
    }
    if !route.step_up.is_met_by(identity, now) {
        let refusal = Refusal::StepUp(route.step_up);
        trace.note(Step::StepUp, "refused", || refusal.to_string());
        return Err(refusal);
    }
    trace.note(Step::StepUp, "passed", || "the caller has proved enough".to_owned());
    Ok(())
}

/// Whether a program may have the route.
fn check_machine<T: Trace>(route: &Route, machine: &Machine, trace: &mut T) -> Result<(), Refusal> {
    let refusal = if !route.api_keys {
        Refusal::ApiKeyNotAccepted
    } else if route.scopes.iter().all(|scope| machine.scopes.binary_search(scope).is_ok()) {
        trace.note(Step::Scopes, "passed", || {
            format!("`{}` is good for what the route asks", machine.client)
        });
        return Ok(());
    } else {
        Refusal::MissingScope { needed: route.scopes.join(" ") }
    };
    trace.note(Step::Scopes, "refused", || refusal.to_string());
    Err(refusal)
}

/// Half a login: whose it is, is not known well enough for anything.
fn is_half(route: &Route, identity: &Identity) -> bool {
    identity.assurance.mfa_pending && route.enforces_factors
}

/// The caller, `None` when it may stay anonymous.
fn verified<T: Trace>(
    route: &Route,
    credential: Credential,
    trace: &mut T,
) -> Result<Option<Arc<Identity>>, Refusal> {
    let refusal = match credential {
        Credential::Verified(identity) if route.issuers.contains(identity.issuer) => {
            trace.note(Step::Token, "passed", || format!("the caller is `{}`", identity.subject));
            return Ok(Some(identity));
        }
        Credential::Absent | Credential::OtherScheme if route.access == Access::Optional => {
            trace.note(Step::Token, "passed", || "no token, and none is needed".to_owned());
            return Ok(None);
        }
        // The verifier is told the route's issuers; this holds if it is not.
        Credential::Verified(_) => Refusal::BadToken(Rejection::IssuerNotAccepted),
        Credential::Absent | Credential::OtherScheme => Refusal::NoToken,
        Credential::Rejected(rejection) => Refusal::BadToken(rejection),
        Credential::Malformed(_) => Refusal::MalformedCredential,
        // Also where nobody need be known: the page wants more than to be nobody.
        Credential::CrossSite => Refusal::CrossSite,
    };
    trace.note(Step::Token, "refused", || refusal.to_string());
    Err(refusal)
}

/// Whether a role had to make up for a path that is not the caller's.
fn check_owner<T: Trace>(
    route: &Route,
    owner: &Owner,
    value: &str,
    identity: &Identity,
    trace: &mut T,
) -> Result<bool, Refusal> {
    if path::decodes_to(value, &identity.subject) {
        trace.note(Step::Owner, "passed", || format!("`{{{}}}` is the caller", owner.name));
        return Ok(false);
    }
    if let Some(role) = role_of(identity, &route.owner_override_roles) {
        trace.note(Step::Owner, "overridden", || {
            format!("`{{{}}}` is `{value}`, but the caller has the role `{role}`", owner.name)
        });
        return Ok(true);
    }
    trace.note(Step::Owner, "refused", || {
        format!("`{{{}}}` is `{value}`, the caller is `{}`", owner.name, identity.subject)
    });
    Err(Refusal::OwnerMismatch { hidden: route.hide_mismatch })
}

/// A role of the caller that is wanted. An identity's roles are sorted.
fn role_of<'r>(identity: &Identity, wanted: &'r [String]) -> Option<&'r str> {
    wanted.iter().find(|role| identity.roles.binary_search(role).is_ok()).map(String::as_str)
}
