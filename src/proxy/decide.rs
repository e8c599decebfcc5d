//! The one decision: behind the proxy, forward-auth, `explain` and `[[tests]]`, so that they cannot
//! disagree. Path, route, caller, owner, roles, in this order; the first that refuses ends it.
//!
//! It does not read headers (the caller's credential comes from a closure, asked only when needed),
//! does not count against limits, and words no answers.

use std::sync::Arc;

use http::{HeaderValue, Method};
use url::Url;

use super::authorize::{Permit, Refusal, Refused, authorize, permit_preflight};
use super::path::{CanonicalPath, PathError};
use super::route::{Route, RouteTable};
use super::trace::{NoTrace, Recording, Step, Trace};
use crate::config::{self, Config, Expectation, Problem};
use crate::identity::site::{Arrival, acts};
use crate::identity::{Credential, Identity, IssuerIndex, Machine, Page, Rejection, Sites};
use crate::message::FieldList;

/// What is to happen with a request.
#[derive(Debug)]
pub enum Decision<'t> {
    /// The gateway answers it itself; it reaches no upstream.
    Own,
    /// It may be forwarded.
    Permit(Permit<'t>),
    /// It may not.
    Refuse(Refused<'t>),
}

impl Decision<'_> {
    /// The issuer whose key set, fetched again, may change this.
    pub fn asks_for_keys_of(&self) -> Option<IssuerIndex> {
        let refusal = match self {
            Self::Own => return None,
            Self::Permit(permit) => permit.shadowed()?,
            Self::Refuse(refused) => &refused.refusal,
        };
        match refusal {
            Refusal::BadToken(rejection) => rejection.asks_for_keys_of(),
            _ => None,
        }
    }
}

/// Decides on a request from its method, the path of its target as received (without query), the
/// subject of the certificate that the client has shown, and its credential, which is asked for at
/// most once and only when the route looks at tokens. `now` is in Unix seconds.
pub fn decide<'t, T: Trace>(
    table: &'t RouteTable,
    method: &Method,
    path: &str,
    certificate: Option<&HeaderValue>,
    credential: impl FnOnce(&Route) -> Credential,
    now: i64,
    trace: &mut T,
) -> Decision<'t> {
    let path = match CanonicalPath::parse(path) {
        Ok(path) => path,
        Err(error) => {
            trace.note(Step::Path, "refused", || error.to_string());
            return refuse(Refusal::BadPath(error));
        }
    };
    trace.note(Step::Path, "passed", || "the path is canonical".to_owned());
    if table.is_own(&path) {
        if path.has_encoded_slash() {
            trace.note(Step::Path, "refused", || "none of our own paths has a %2F".to_owned());
            return refuse(Refusal::BadPath(PathError::EncodedSlash));
        }
        trace.note(Step::Route, "own", || "the gateway answers this path itself".to_owned());
        return Decision::Own;
    }
    let found = match table.find(path, method) {
        Ok(found) => found,
        Err(no_match) => {
            trace.note(Step::Route, "refused", || no_match.to_string());
            return refuse(no_match.into());
        }
    };
    trace.note(Step::Route, "found", || {
        let route = found.route();
        let variables: Vec<String> =
            found.variables().map(|(name, text)| format!(", {name} = `{text}`")).collect();
        format!("routes[{}]: {}{}", route.id, route.describe(), variables.concat())
    });
    match authorize(&found, certificate, credential, now, trace) {
        Ok(permit) => Decision::Permit(permit),
        Err(refused) => Decision::Refuse(refused),
    }
}

/// Decides without a trace: the proxy's door.
pub fn decide_quietly<'t>(
    table: &'t RouteTable,
    method: &Method,
    path: &str,
    certificate: Option<&HeaderValue>,
    credential: impl FnOnce(&Route) -> Credential,
    now: i64,
) -> Decision<'t> {
    decide(table, method, path, certificate, credential, now, &mut NoTrace)
}

/// Leave to forward a CORS preflight for a request with the method `asked`, when that request's
/// route says `preflight = "forward"`.
pub fn decide_preflight<'t>(table: &'t RouteTable, path: &str, asked: &[u8]) -> Option<Permit<'t>> {
    let path = CanonicalPath::parse(path).ok().filter(|path| !table.is_own(path))?;
    let method = Method::from_bytes(asked).ok()?;
    permit_preflight(table.find(path, &method).ok()?.route())
}

/// The status that a refusal is answered with (contract, section 4).
pub fn status_of(refusal: &Refusal) -> u16 {
    match refusal {
        Refusal::BadPath(_) | Refusal::MalformedCredential => 400,
        Refusal::NoToken
        | Refusal::BadToken(_)
        | Refusal::ApiKeyNotAccepted
        | Refusal::StepUp(_) => 401,
        Refusal::Denied
        | Refusal::CrossSite
        | Refusal::MissingRole
        | Refusal::OriginDenied
        | Refusal::NoClientCertificate
        | Refusal::MissingScope { .. }
        | Refusal::OwnerMismatch { hidden: false } => 403,
        Refusal::NoRoute | Refusal::OwnerMismatch { hidden: true } => 404,
        Refusal::MethodNotAllowed { .. } => 405,
    }
}

/// Runs `[[tests]]`; what is returned failed, each at `tests[i]`.
pub fn run_tests(config: &Config, table: &RouteTable) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, test) in config.tests.iter().enumerate() {
        if let Err(message) = run_test(config, table, test) {
            problems.push(Problem::new(format!("tests[{index}]"), message));
        }
    }
    problems
}

fn run_test(config: &Config, table: &RouteTable, test: &config::Test) -> Result<(), String> {
    let written = "`request` must be a method and a path, as in \"GET /api/u1/tasks\"";
    let (method, target) = test.request.split_once(' ').ok_or(written)?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| written)?;
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let credential = test_credential(config, test)?;

    let certificate = (test.client_certificate.as_ref())
        .map(|subject| HeaderValue::from_str(subject))
        .transpose()
        .map_err(|_| "`client_certificate` is no subject: it has control characters")?;

    let mut trace = Recording::default();
    let sites = test.cookie.then(|| Sites::compile(config));
    let credential = |route: &Route| match &sites {
        Some(sites) => in_cookie(route, &method, sites, config, test.origin.as_deref(), credential),
        None => credential,
    };
    // Whoever is imagined has just logged in, whatever the time.
    let decided = decide(table, &method, path, certificate.as_ref(), credential, 0, &mut trace);
    let actual = match decided {
        Decision::Own => {
            return Err("the gateway answers this path itself; tests are for routes".to_owned());
        }
        Decision::Permit(_) => Expectation::Allow,
        Decision::Refuse(refused) => Expectation::Refuse(status_of(&refused.refusal)),
    };
    if actual == test.expect {
        return Ok(());
    }
    let word = |expectation| match expectation {
        Expectation::Allow => "allow".to_owned(),
        Expectation::Refuse(status) => status.to_string(),
    };
    let why = trace.steps.last().map_or("", |step| step.why.as_str());
    Err(format!("`{}`: expected {}, got {}: {why}", test.request, word(test.expect), word(actual)))
}

fn test_credential(config: &Config, test: &config::Test) -> Result<Credential, String> {
    if test.cookie && test.scopes.is_some() {
        return Err("`cookie`: an API key is in no cookie".to_owned());
    }
    if test.origin.is_some() && !test.cookie {
        return Err("`origin` says from which page a cookie comes: add `cookie`".to_owned());
    }
    let Some(subject) = &test.subject else {
        let is_bare = test.roles.is_empty() && test.issuer.is_none() && test.scopes.is_none();
        return if is_bare && !test.aal2 && !test.cookie {
            Ok(Credential::Absent)
        } else {
            Err("`roles`, `scopes`, `aal2`, `cookie` and `issuer` need a subject: add `as`"
                .to_owned())
        };
    };
    let (issuer, scopes) = (test.issuer.as_deref(), test.scopes.as_deref());
    let imagined = imagined(config, subject, &test.roles, issuer, scopes, test.aal2)?;
    Ok(Credential::Verified(Arc::new(imagined)))
}

/// What `credential` is worth to a route when a browser sends it in our cookie, for a page of
/// `origin`, or one of our own. The gateway is taken to be where `tokens.issuer` is.
pub fn in_cookie(
    route: &Route,
    method: &Method,
    sites: &Sites,
    config: &Config,
    origin: Option<&str>,
    credential: Credential,
) -> Credential {
    if !route.cookies {
        return Credential::Absent;
    }
    let here = Url::parse(&config.tokens.issuer).ok().filter(Url::has_host);
    let over_tls = here.as_ref().is_none_or(|url| url.scheme() == "https");
    let host = here.as_ref().map_or("", Url::authority);
    let page = match origin {
        Some(origin) => ("origin", origin),
        None => ("sec-fetch-site", "same-origin"),
    };
    let said: FieldList = [("host", host), page].into_iter().collect();
    let arrival = Arrival { over_tls, peer_is_trusted: false };
    if acts(method, false) && sites.page(said.view(), arrival) == Page::Foreign {
        return Credential::CrossSite;
    }
    match credential.identity() {
        // Programs have no cookies.
        Some(identity) if identity.machine.is_some() => Credential::Rejected(Rejection::Malformed),
        _ => credential,
    }
}

/// The caller that a test or `explain --as` imagines, with a second factor or without; never one that
/// a request carries.
///
/// # Errors
/// A sentence: there is no such issuer, or no token of it could say this.
pub fn imagined(
    config: &Config,
    subject: &str,
    roles: &[String],
    issuer: Option<&str>,
    scopes: Option<&[String]>,
    aal2: bool,
) -> Result<Identity, String> {
    let name = issuer.unwrap_or("self");
    let index = IssuerIndex::named(name, &config.issuers)
        .ok_or_else(|| format!("`issuer`: `{name}` is none of [[issuers]]"))?;
    if aal2 && !index.is_ours() {
        return Err("only our own tokens say that a second factor was shown".to_owned());
    }
    if aal2 && scopes.is_some() {
        return Err("`aal2`: an API key shows no second factor".to_owned());
    }
    let identity = Identity::synthetic(subject, roles, index, name.into())
        .map_err(|error| format!("no token could say this: {error}"))?;
    let identity = if aal2 { identity.with_second_factor() } else { identity };
    let Some(scopes) = scopes else { return Ok(identity) };
    if !index.is_ours() {
        return Err("`scopes`: API keys are of our own users".to_owned());
    }
    let client = "an imagined API key".into();
    identity
        .with_machine(Machine { key_id: None, token: None, client, scopes: scopes.to_vec() })
        .map_err(|error| format!("no API key could have these: {error}"))
}

fn refuse<'t>(refusal: Refusal) -> Decision<'t> {
    Decision::Refuse(Refused { refusal, route: None, identity: None })
}

#[cfg(test)]
mod tests;
