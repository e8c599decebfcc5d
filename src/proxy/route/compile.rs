//! From `[[routes]]` to a [`RouteTable`], with the proofs that make its answers unique: overlapping
//! patterns are specialisations of each other, an owner is a variable of the path, a `{user_id}` is
//! never left unguarded by oversight. All problems are gathered; none stops the search for others.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::pattern::{Pattern, literal_prefix};
use super::trie::Trie;
use super::{MethodSet, Owner, Route, RouteTable, RouteUpstream};
use crate::config::{self, Access, ClientCertificates, Config, LimitBy, Problem};
use crate::identity::{IssuerIndex, IssuerSet};
use crate::model::{is_role_name, is_scope_name};
use crate::proxy::step_up::StepUp;

/// The variable that is an owner without being named one.
const DEFAULT_OWNER: &str = "user_id";
/// What `owner` says to opt out.
const NO_OWNER: &str = "none";
/// What `issuers` says for our own tokens.
const OUR_TOKENS: &str = "self";

pub(super) fn compile(config: &Config) -> Result<RouteTable, Vec<Problem>> {
    let mut compiler = Compiler::new(config);
    let routes: Vec<Route> = config
        .routes
        .iter()
        .enumerate()
        .filter_map(|(id, written)| compiler.route(id, written))
        .collect();
    let trie = compiler.prove_unambiguous(&routes);
    if !compiler.problems.is_empty() {
        return Err(compiler.problems);
    }
    let Compiler { own_prefix, own_documents, .. } = compiler;
    Ok(RouteTable { routes, trie, own_prefix, own_documents })
}

struct Compiler<'c> {
    config: &'c Config,
    /// Index of each name; indices follow the sorted names.
    upstreams: HashMap<&'c str, usize>,
    limits: HashMap<&'c str, usize>,
    own_prefix: Vec<Box<str>>,
    own_documents: Vec<Vec<Box<str>>>,
    problems: Vec<Problem>,
}

impl<'c> Compiler<'c> {
    fn new(config: &'c Config) -> Self {
        let mut problems = Vec::new();
        let own_prefix = literal_prefix(&config.server.auth_prefix).unwrap_or_else(|message| {
            problems.push(Problem::new("server.auth_prefix", message));
            Vec::new()
        });
        // An issuer's path that no request can have, as one with a space, has no document.
        let own_documents =
            config.root_documents().iter().filter_map(|path| literal_prefix(path).ok()).collect();
        let (upstreams, limits) = (index_of(&config.upstreams), index_of(&config.limits.0));
        Self { config, upstreams, limits, own_prefix, own_documents, problems }
    }

    /// One route; `None` when its path cannot be read.
    fn route(&mut self, id: usize, written: &config::Route) -> Option<Route> {
        let pattern = match Pattern::parse(&written.path) {
            Ok(pattern) => pattern,
            Err(message) => {
                self.problem(id, "path", message);
                return None;
            }
        };
        if !self.own_prefix.is_empty() && pattern.starts_with(&self.own_prefix) {
            let prefix = &self.config.server.auth_prefix;
            let message = format!(
                "the gateway answers everything under `{prefix}` itself, so this can never match; \
                 server.auth_prefix moves it"
            );
            self.problem(id, "path", message);
        }
        if self.own_documents.iter().any(|document| pattern.is(document)) {
            let message = "the gateway answers this path itself, so this can never match; \
                           discovery.root = false leaves it to routes";
            self.problem(id, "path", message);
        }
        let methods = MethodSet::parse(&written.methods).unwrap_or_else(|(index, message)| {
            self.problem(id, &format!("methods[{index}]"), message);
            MethodSet::NONE
        });
        let owner = self.owner(id, written, &pattern);
        self.check_roles(id, written, owner.is_some());
        self.check_scopes(id, written);
        let issuers = self.issuers(id, written);
        // Whose subject `u1` is depends on the issuer, and the path does not say which is meant.
        if owner.is_some() && issuers.has_several() && !has_reason(written) {
            let message = "two issuers may call different people the same, and the owner is \
                           compared by name only; name one issuer, or say with `reason` why no \
                           subject can be of both";
            self.problem(id, "issuers", message);
        }
        Some(Route {
            id,
            name: written.path.as_str().into(),
            methods,
            upstream: self.upstream(id, written),
            access: written.access,
            client_certificate: self.client_certificate(id, written),
            owner,
            roles: written.roles.clone(),
            owner_override_roles: written.owner_override_roles.clone(),
            api_keys: written.api_keys && self.config.api_keys.enabled,
            scopes: written.scopes.clone(),
            step_up: self.step_up(id, written),
            enforces_factors: self.config.factors.enforce,
            issuers,
            limits: self.limits(id, written),
            max_body_bytes: written.max_body_bytes.unwrap_or(self.config.server.max_body_bytes).0,
            forward_token: written.forward_token,
            allow_encoded_slash: written.allow_encoded_slash,
            hide_mismatch: written.hide_mismatch,
            websocket_token: written.websocket_token,
            cookies: self.cookies(id, written, issuers),
            allowed_origins: written.allowed_origins.clone(),
            tunnel_outlives_token: written.tunnel_outlives_token,
            preflight: written.preflight,
            mode: written.mode,
            strip_segments: self.strip_segments(id, written, &pattern),
            pattern,
        })
    }

    fn owner(&mut self, id: usize, written: &config::Route, pattern: &Pattern) -> Option<Owner> {
        let has_default = pattern.names().any(|name| name == DEFAULT_OWNER);
        let name = match written.owner.as_deref() {
            Some(NO_OWNER) => {
                if !has_reason(written) {
                    let message = "`owner = \"none\"` lets every user in; say why with `reason`";
                    self.problem(id, "owner", message);
                }
                return None;
            }
            Some(name) => name,
            None if has_default => DEFAULT_OWNER,
            None => return None,
        };
        let Some(segment) = pattern.position(name) else {
            let message = if pattern.names().any(|known| known == name) {
                format!("`{{*{name}}}` may span segments, so it cannot name an owner")
            } else {
                format!("`{name}` is no variable of `{}`", written.path)
            };
            self.problem(id, "owner", message);
            return None;
        };
        if matches!(written.access, Access::Public | Access::Optional) {
            let message = format!(
                "whose `{{{name}}}` it is cannot be checked without a token; set \
                 access = \"authenticated\", or owner = \"none\" with a `reason`"
            );
            self.problem(id, "access", message);
        }
        Some(Owner { name: name.into(), segment })
    }

    fn check_roles(&mut self, id: usize, written: &config::Route, has_owner: bool) {
        let lists =
            [("roles", &written.roles), ("owner_override_roles", &written.owner_override_roles)];
        for (key, roles) in lists {
            for (index, role) in roles.iter().enumerate().filter(|(_, role)| !is_role_name(role)) {
                let message =
                    format!("`{role}` is no role; roles are 1 to 64 of the characters a-z 0-9 _ -");
                self.problem(id, &format!("{key}[{index}]"), message);
            }
            if !roles.is_empty() && written.access != Access::Authenticated {
                self.problem(id, key, "roles need access = \"authenticated\"");
            }
        }
        if !written.owner_override_roles.is_empty() && !has_owner {
            self.problem(id, "owner_override_roles", "the route has no owner to override");
        }
    }

    fn check_scopes(&mut self, id: usize, written: &config::Route) {
        for (index, scope) in written.scopes.iter().enumerate() {
            if !is_scope_name(scope) {
                let message = format!(
                    "`{scope}` is no scope; scopes are 1 to 64 of the characters a-z 0-9 : _ -"
                );
                self.problem(id, &format!("scopes[{index}]"), message);
            }
        }
        if written.api_keys && matches!(written.access, Access::Public | Access::Deny) {
            let message = "the route looks at no keys; set access = \"authenticated\"";
            self.problem(id, "api_keys", message);
        }
        if !written.scopes.is_empty() && !written.api_keys {
            self.problem(id, "scopes", "scopes are for API keys; set api_keys = true");
        }
    }

    fn step_up(&mut self, id: usize, written: &config::Route) -> StepUp {
        let asked =
            [("require_aal2", written.require_aal2), ("max_age", written.max_age.is_some())];
        for (key, _) in asked.into_iter().filter(|(_, is_asked)| *is_asked) {
            if written.access != Access::Authenticated {
                self.problem(id, key, "needs access = \"authenticated\"");
            }
            if written.api_keys {
                self.problem(id, key, "a program proves nothing; take api_keys = true away");
            }
            if written.issuers.iter().any(|issuer| issuer != OUR_TOKENS) {
                let message = "only our own tokens say how their users were authenticated; let the \
                               route take no other issuers";
                self.problem(id, key, message);
            }
        }
        if written.max_age.is_some_and(|age| age.0 < Duration::from_secs(1)) {
            self.problem(id, "max_age", "must be at least 1s");
        }
        StepUp { aal2: written.require_aal2, max_age: written.max_age.map(|age| age.0) }
    }

    /// Where no token of ours could be of use, a browser that has one for other routes must not be
    /// refused for it.
    fn cookies(&mut self, id: usize, written: &config::Route, issuers: IssuerSet) -> bool {
        let is_looked_at = matches!(written.access, Access::Authenticated | Access::Optional)
            && issuers.contains(IssuerIndex::OURS);
        if written.cookies == Some(true) {
            if !self.config.cookies.enabled {
                self.problem(id, "cookies", "nobody is given any; set cookies.enabled = true");
            } else if !is_looked_at {
                let message = "the route looks at no tokens of ours, and others are in no cookie; \
                               take it away";
                self.problem(id, "cookies", message);
            }
        }
        self.config.cookies.enabled && is_looked_at && written.cookies != Some(false)
    }

    fn client_certificate(&mut self, id: usize, written: &config::Route) -> bool {
        let asked_for = (self.config.server.tls.as_ref())
            .is_some_and(|tls| tls.client_certificates != ClientCertificates::Off);
        if written.client_certificate && !asked_for {
            let message = "no client is asked for a certificate, so nobody could come in; set \
                           server.tls.client_certificates";
            self.problem(id, "client_certificate", message);
        }
        written.client_certificate
    }

    fn upstream(&mut self, id: usize, written: &config::Route) -> Option<RouteUpstream> {
        let Some(name) = written.upstream.as_deref() else {
            if written.access != Access::Deny {
                self.problem(id, "upstream", "the route needs an upstream");
            }
            return None;
        };
        let found = self.upstreams.get(name).copied().zip(self.config.upstreams.get(name));
        let Some((index, upstream)) = found else {
            let message = undefined(name, self.config.upstreams.keys());
            self.problem(id, "upstream", message);
            return None;
        };
        Some(RouteUpstream {
            index,
            name: name.into(),
            connect_timeout: written.timeouts.connect.map(|time| time.0),
            response_timeout: written.timeouts.response.unwrap_or(upstream.response_timeout).0,
            idle_timeout: written.timeouts.idle.unwrap_or(upstream.idle_timeout).0,
            total_timeout: written.timeouts.total.map(|time| time.0),
        })
    }

    fn issuers(&mut self, id: usize, written: &config::Route) -> IssuerSet {
        IssuerSet::named(&written.issuers, &self.config.issuers).unwrap_or_else(|name| {
            let our_tokens = OUR_TOKENS.to_owned();
            let others = self.config.issuers.iter().map(|issuer| &issuer.name);
            let message = undefined(name, std::iter::once(&our_tokens).chain(others));
            self.problem(id, "issuers", message);
            IssuerSet::OURS
        })
    }

    fn limits(&mut self, id: usize, written: &config::Route) -> Vec<usize> {
        let mut limits = Vec::new();
        for (index, name) in written.limit.iter().enumerate() {
            let key = format!("limit[{index}]");
            match (self.limits.get(name.as_str()), self.config.limits.0.get(name)) {
                (Some(_), Some(limit)) if limit.by == LimitBy::Account => {
                    let message = format!(
                        "`{name}` counts by the e-mail address of a login; a route has none"
                    );
                    self.problem(id, &key, message);
                }
                (Some(limit), _) => limits.push(*limit),
                (None, _) => {
                    self.problem(id, &key, undefined(name, self.config.limits.0.keys()));
                }
            }
        }
        limits
    }

    fn strip_segments(&mut self, id: usize, written: &config::Route, pattern: &Pattern) -> usize {
        let Some(prefix) = &written.strip_prefix else { return 0 };
        let message = match literal_prefix(prefix) {
            Ok(literals) if pattern.starts_with(&literals) => return literals.len(),
            Ok(_) => format!(
                "`{prefix}` is not a fixed beginning of `{}` that ends before a slash",
                written.path
            ),
            Err(message) => message,
        };
        self.problem(id, "strip_prefix", message);
        0
    }

    /// Fills the trie and refuses every pair of routes that could claim one path with equal right.
    fn prove_unambiguous(&mut self, routes: &[Route]) -> Trie {
        let mut trie = Trie::new();
        for (place, route) in routes.iter().enumerate() {
            let conflict = trie
                .overlapping(&route.pattern)
                .into_iter()
                .find_map(|other| conflict(&routes[other], route));
            if let Some(message) = conflict {
                self.problem(route.id, "path", message);
            }
            trie.insert(&route.pattern, place);
        }
        trie
    }

    fn problem(&mut self, id: usize, key: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(format!("routes[{id}].{key}"), message));
    }
}

/// Why two routes with a path in common cannot stand together.
fn conflict(earlier: &Route, later: &Route) -> Option<String> {
    let (one, two) = (&earlier.pattern, &later.pattern);
    let example = one.example_of_both(two)?;
    match (one.covers(two), two.covers(one)) {
        (true, true) if earlier.methods.intersects(later.methods) => Some(format!(
            "routes[{}] (`{}`) matches the same paths with the same methods, for example `{example}`",
            earlier.id, earlier.name
        )),
        (false, false) => Some(format!(
            "`{}` and routes[{}] (`{}`) both match `{example}`, and neither is the more specific; \
             let one of them differ in a literal segment, or split it",
            later.name, earlier.id, earlier.name
        )),
        _ => None,
    }
}

fn index_of<V>(named: &BTreeMap<String, V>) -> HashMap<&str, usize> {
    named.keys().enumerate().map(|(index, name)| (name.as_str(), index)).collect()
}

fn has_reason(written: &config::Route) -> bool {
    written.reason.as_deref().is_some_and(|reason| !reason.trim().is_empty())
}

fn undefined<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
    if known.is_empty() {
        format!("`{name}` is not defined; nothing is")
    } else {
        format!("`{name}` is not defined; known are {}", known.join(", "))
    }
}
