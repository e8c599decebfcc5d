//! The route table: which route a path and a method belong to. [`RouteTable::compile`] proves what
//! must hold for that to have one answer; [`RouteTable::find`] is the look-up. It decides nothing
//! about callers.
//!
//! Rules, segment by segment: literal beats typed beats untyped beats `{*rest}`; the order in the
//! file never matters. The path chooses the pattern, and only then the method the route: another
//! method on a known path is 405, it never falls through to a wider pattern.
//!
//! Alternative refused: letting `GET /a/{x}` and `POST /{y}/b` share the path `/a/b`. Which of two
//! guards stands before a path would then depend on the method, which no reader of the file sees.

mod compile;
mod method;
mod pattern;
mod trie;

use std::fmt;
use std::time::Duration;

use http::Method;

pub use self::method::MethodSet;
use self::pattern::Pattern;
use self::trie::Trie;
use super::path::{CanonicalPath, PathError, decodes_to};
use super::step_up::StepUp;
use crate::config::{Access, Config, Mode, Preflight, Problem};
use crate::identity::IssuerSet;

/// All routes, compiled.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Route>,
    trie: Trie,
    own_prefix: Vec<Box<str>>,
    own_documents: Vec<Vec<Box<str>>>,
}

/// One `[[routes]]` entry with everything resolved. Made by [`RouteTable::compile`] only.
#[derive(Debug)]
pub struct Route {
    /// Place in the file, from 0.
    pub id: usize,
    /// The pattern as written: the name in logs and metrics.
    pub name: Box<str>,
    /// Which methods it takes.
    pub methods: MethodSet,
    /// Where permitted requests go; `None` only with `access = "deny"`.
    pub upstream: Option<RouteUpstream>,
    /// Who may come in.
    pub access: Access,
    /// Whether the client must have shown a certificate.
    pub client_certificate: bool,
    /// The variable that must equal the subject.
    pub owner: Option<Owner>,
    /// Any of these is needed; empty = none.
    pub roles: Vec<String>,
    /// Any of these may act on another user's path.
    pub owner_override_roles: Vec<String>,
    /// Whether API keys are taken.
    pub api_keys: bool,
    /// What an API key must be good for, all of it.
    pub scopes: Vec<String>,
    /// What is asked of a session beside a good token.
    pub step_up: StepUp,
    /// Whether tokens are refused whose users have a second factor that was not shown.
    pub enforces_factors: bool,
    /// Whose tokens count.
    pub issuers: IssuerSet,
    /// Limits, by place among the sorted names of `[limits]`.
    pub limits: Vec<usize>,
    /// Longest request body.
    pub max_body_bytes: u64,
    /// Whether the bearer token is passed on.
    pub forward_token: bool,
    /// Whether `%2F` may stand in the path.
    pub allow_encoded_slash: bool,
    /// Whether an owner mismatch looks like an unknown route.
    pub hide_mismatch: bool,
    /// Whether a WebSocket handshake may carry its token as a subprotocol.
    pub websocket_token: bool,
    /// Whether our cookie may carry the token.
    pub cookies: bool,
    /// Origins that may call; empty = any.
    pub allowed_origins: Vec<String>,
    /// Whether a tunnel stays open when its token no longer counts.
    pub tunnel_outlives_token: bool,
    /// Who answers CORS preflights.
    pub preflight: Preflight,
    /// Whether the decision is binding.
    pub mode: Mode,
    pattern: Pattern,
    /// Segments taken off before forwarding.
    strip_segments: usize,
}

/// Where a route leads, and how long it waits there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteUpstream {
    /// Place among the sorted names of `[upstreams]`.
    pub index: usize,
    /// Its name.
    pub name: Box<str>,
    /// Time to a connection; without it the upstream's own holds.
    pub connect_timeout: Option<Duration>,
    /// Time to the response head.
    pub response_timeout: Duration,
    /// Silence within a response body.
    pub idle_timeout: Duration,
    /// From the request's arrival to the end of its answer, where that has a limit.
    pub total_timeout: Option<Duration>,
}

/// The path variable that must equal the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: Box<str>,
    /// Which segment it is, from 0.
    pub segment: usize,
}

impl RouteTable {
    /// Compiles `[[routes]]` and proves the rules of the table.
    ///
    /// # Errors
    /// Everything that is wrong, each at its key.
    pub fn compile(config: &Config) -> Result<Self, Vec<Problem>> {
        compile::compile(config)
    }

    /// All routes, in the order of the file; the index is [`Route::id`].
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Whether the gateway answers this path itself: what is below `server.auth_prefix`, and the
    /// documents of `discovery.root`.
    pub fn is_own(&self, path: &CanonicalPath<'_>) -> bool {
        begins_with(path.segments(), &self.own_prefix) || self.is_own_document(path)
    }

    fn is_own_document(&self, path: &CanonicalPath<'_>) -> bool {
        // All of them begin with `/.well-known`, in whatever spelling; most requests end here.
        if !path.after_root().starts_with(['.', '%']) {
            return false;
        }
        let count = path.segments().count();
        let mut documents = self.own_documents.iter().filter(|document| document.len() == count);
        documents.any(|document| begins_with(path.segments(), document))
    }

    /// The one route for a path that is not our own.
    ///
    /// # Errors
    /// There is none, or the path breaks a rule that depends on the route.
    pub fn find<'p>(
        &self,
        path: CanonicalPath<'p>,
        method: &Method,
    ) -> Result<RouteMatch<'_, 'p>, NoMatch> {
        let same_pattern = self.trie.find(path.after_root()).map_err(NoMatch::BadPath)?;
        let candidates = same_pattern.iter().map(|&id| &self.routes[id]);
        if path.has_encoded_slash() && !candidates.clone().any(|route| route.allow_encoded_slash) {
            return Err(NoMatch::BadPath(PathError::EncodedSlash));
        }
        if same_pattern.is_empty() {
            return Err(NoMatch::NoRoute);
        }
        let Some(route) = candidates.clone().find(|route| route.methods.contains(method)) else {
            let known = candidates.fold(MethodSet::NONE, |all, route| all.union(route.methods));
            return Err(NoMatch::MethodNotAllowed { allow: known.to_string() });
        };
        let found = RouteMatch { route, path };
        self.check_readings(&found).map_err(NoMatch::BadPath)?;
        Ok(found)
    }

    /// Refuses a path that servers of other habits would take for a path of another route: those
    /// that split at `%2F`, and those that drop `;parameters` (the Servlet family).
    ///
    /// Such a reading is harmless only when it leads to the same pattern, to a wider one (whose
    /// guard the operator put there for less), or nowhere.
    fn check_readings(&self, found: &RouteMatch<'_, '_>) -> Result<(), PathError> {
        let (route, path) = (found.route, &found.path);
        if path.has_encoded_slash() && !route.allow_encoded_slash {
            return Err(PathError::EncodedSlash);
        }
        if !path.has_parameters() && !path.has_encoded_slash() {
            return Ok(());
        }
        if found.variables().any(|(_, segment)| segment.contains(';')) {
            return Err(PathError::ParametersInVariable);
        }
        let decoded = path.as_str().replace("%3B", ";").replace("%3b", ";");
        let slashes = decoded.replace("%2F", "/").replace("%2f", "/");
        let bare = without_parameters(&decoded);
        let both = without_parameters(&slashes);
        for reading in [slashes, bare, both] {
            let reading = CanonicalPath::parse(&reading).map_err(|_| PathError::Ambiguous)?;
            let leads_to = self.trie.find(reading.after_root());
            let harmless = match leads_to {
                Ok([]) => true,
                Ok([other, ..]) => self.routes[*other].pattern.covers(&route.pattern),
                Err(_) => false,
            };
            if !harmless || self.is_own(&reading) {
                return Err(PathError::Ambiguous);
            }
        }
        Ok(())
    }
}

impl Route {
    /// Whether a request that came from a page of `origin` may have this route.
    pub fn takes_origin(&self, origin: Option<&[u8]>) -> bool {
        self.allowed_origins.is_empty()
            || origin.is_none_or(|origin| {
                self.allowed_origins.iter().any(|allowed| allowed.as_bytes() == origin)
            })
    }

    /// What is forwarded of a path that matched: all of it, or what follows `strip_prefix`, byte
    /// for byte.
    pub fn forwarded_path<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        let mut rest = path;
        for _ in 0..self.strip_segments {
            let next = rest.get(1..).and_then(|r| memchr::memchr(b'/', r).map(|at| &r[at..]));
            rest = next.unwrap_or(b"/");
        }
        rest
    }

    /// One line of the table that `portcullis check` prints.
    pub fn describe(&self) -> RouteDescription {
        let guard = match self.access {
            Access::Authenticated => "authenticated",
            Access::Deny => "deny",
            Access::Optional => "optional",
            Access::Public => "public",
        };
        let mut rules = Vec::new();
        if let Some(owner) = &self.owner {
            rules.push(format!("{} = subject", owner.name));
        }
        if !self.owner_override_roles.is_empty() {
            rules.push(format!("or role {}", self.owner_override_roles.join("|")));
        }
        if !self.roles.is_empty() {
            rules.push(format!("role {}", self.roles.join("|")));
        }
        if self.api_keys && self.scopes.is_empty() {
            rules.push("or API key".to_owned());
        } else if self.api_keys {
            rules.push(format!("or API key with {}", self.scopes.join(" ")));
        }
        if self.cookies {
            rules.push("or cookie".to_owned());
        }
        if self.step_up.aal2 {
            rules.push("second factor".to_owned());
        }
        if let Some(age) = self.step_up.max_age {
            rules.push(format!("proved within {} s", age.as_secs()));
        }
        if self.mode == Mode::Shadow {
            rules.push("shadow".to_owned());
        }
        RouteDescription {
            methods: self.methods.to_string(),
            path: self.name.to_string(),
            access: guard.to_owned(),
            rules: rules.join(", "),
            upstream: self.upstream.as_ref().map_or_else(|| "-".to_owned(), |u| u.name.to_string()),
        }
    }
}

/// A route for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteDescription {
    /// `any`, or the methods.
    pub methods: String,
    /// The pattern.
    pub path: String,
    /// The word of `access`.
    pub access: String,
    /// Owner, roles, proofs, mode; may be empty.
    pub rules: String,
    /// Name of the upstream, or `-`.
    pub upstream: String,
}

impl fmt::Display for RouteDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { methods, path, access, rules, upstream } = self;
        write!(f, "{methods} {path} -> {upstream} ({access}")?;
        if !rules.is_empty() {
            write!(f, "; {rules}")?;
        }
        f.write_str(")")
    }
}

/// A route and the path that it matched.
#[derive(Clone, Copy, Debug)]
pub struct RouteMatch<'t, 'p> {
    route: &'t Route,
    path: CanonicalPath<'p>,
}

impl<'t, 'p> RouteMatch<'t, 'p> {
    /// The route.
    pub fn route(&self) -> &'t Route {
        self.route
    }

    /// The path.
    pub fn path(&self) -> CanonicalPath<'p> {
        self.path
    }

    /// The variables that fill one segment, with their text, not decoded.
    pub fn variables(&self) -> impl Iterator<Item = (&'t str, &'p str)> + use<'t, 'p> {
        let segments = self.route.pattern.segments.iter().zip(self.path.segments());
        segments.filter_map(|(segment, text)| Some((segment.variable()?, text)))
    }

    /// What the owner variable holds, not decoded.
    pub fn owner(&self) -> Option<&'p str> {
        self.path.segments().nth(self.route.owner.as_ref()?.segment)
    }
}

/// Why no route was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMatch {
    /// The path breaks a rule of its route.
    #[error(transparent)]
    BadPath(PathError),
    /// No pattern matches.
    #[error("no route matches the path")]
    NoRoute,
    /// The path is known, the method is not.
    #[error("the route takes other methods: {allow}")]
    MethodNotAllowed {
        /// Value of `Allow`.
        allow: String,
    },
}

fn begins_with<'p>(mut segments: impl Iterator<Item = &'p str>, own: &[Box<str>]) -> bool {
    own.iter().all(|own| segments.next().is_some_and(|segment| decodes_to(segment, own)))
}

/// The path as a server sees it that drops `;parameters` of each segment.
fn without_parameters(path: &str) -> String {
    let bare: Vec<&str> =
        path.split('/').map(|s| s.split_once(';').map_or(s, |(bare, _)| bare)).collect();
    bare.join("/")
}

#[cfg(test)]
mod tests;
