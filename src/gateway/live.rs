//! The configuration compiled: everything a request is decided by. Immutable; a request takes one
//! snapshot and uses it to its end.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::config::{Config, HostHeader, Problem};
use crate::cors::Cors;
use crate::identity::{Sites, TrustedProxies, Verifier};
use crate::limit::Rule;
use crate::proxy::headers::HeaderPolicy;
use crate::proxy::pool::UpstreamState;
use crate::proxy::route::RouteTable;

/// One state of the configuration.
pub struct Live {
    /// Which request goes where.
    pub table: RouteTable,
    /// `[limits]`, by name; routes name them by place.
    pub rules: Vec<Rule>,
    /// Whose word on addresses is taken.
    pub trusted: TrustedProxies,
    /// What is taken out of headers, and put in.
    pub headers: HeaderPolicy,
    /// Cross-origin requests.
    pub cors: Cors,
    /// Which pages may act by a cookie.
    pub sites: Sites,
    /// Judges tokens; swapped when keys rotate. It is part of the snapshot because routes name
    /// issuers by place: with the issuers of another configuration, they would accept the tokens
    /// of somebody else. Until the gateway puts one in, it believes no token.
    pub verifier: Arc<ArcSwap<Verifier>>,
    /// Prefix of the account endpoints.
    pub auth_prefix: String,
    /// `[upstreams]`, by name; routes name them by place.
    pub(crate) upstreams: Vec<UpstreamConfig>,
    /// Longest silence of a client in its request body.
    pub(crate) body_timeout: Duration,
    /// Open tunnels over all workers.
    pub(crate) max_tunnels: usize,
    /// Longest silence in a tunnel.
    pub(crate) tunnel_idle_timeout: Duration,
    /// Time for a tunnel to end when the gateway stops.
    pub(crate) tunnel_drain_timeout: Duration,
}

/// One upstream, compiled.
pub(crate) struct UpstreamConfig {
    /// Its servers, as all workers see them.
    pub(crate) state: Arc<UpstreamState>,
    /// Send the server's own authority as `Host`.
    pub(crate) upstream_host: bool,
}

impl Live {
    /// Compiles and proves a configuration that was read without errors.
    ///
    /// # Errors
    /// Every problem found.
    pub fn compile(config: &Config) -> Result<Arc<Self>, Vec<Problem>> {
        Self::compile_with(config, None)
    }

    /// As [`Live::compile`]; what `previous` knows of upstreams that stay as they are is kept:
    /// which servers are up, their addresses and connections.
    ///
    /// # Errors
    /// Every problem found.
    pub fn compile_after(config: &Config, previous: &Self) -> Result<Arc<Self>, Vec<Problem>> {
        Self::compile_with(config, Some(previous))
    }

    fn compile_with(config: &Config, previous: Option<&Self>) -> Result<Arc<Self>, Vec<Problem>> {
        let mut problems = Vec::new();
        let table = keep(RouteTable::compile(config), &mut problems);
        let cors = keep(Cors::compile(&config.cors), &mut problems);
        let headers = keep(HeaderPolicy::compile(config), &mut problems);
        let rules = keep(compile_rules(config), &mut problems);
        let upstreams = keep(compile_upstreams(config, previous), &mut problems);
        let (Some(table), Some(cors), Some(headers), Some(rules), Some(upstreams)) =
            (table, cors, headers, rules, upstreams)
        else {
            return Err(problems);
        };
        Ok(Arc::new(Self {
            table,
            rules,
            trusted: TrustedProxies::compile(
                &config.server.trusted_proxies,
                config.server.forwarded_header,
            ),
            headers,
            cors,
            sites: Sites::compile(config),
            verifier: Arc::new(ArcSwap::from_pointee(Verifier::believes_nothing())),
            auth_prefix: config.server.auth_prefix.clone(),
            upstreams,
            body_timeout: config.server.body_timeout.0,
            max_tunnels: config.server.max_tunnels,
            tunnel_idle_timeout: config.server.tunnel_idle_timeout.0,
            tunnel_drain_timeout: config.server.tunnel_drain_timeout.0,
        }))
    }
}

/// What was compiled, or nothing, with the problems put to the others.
pub(super) fn keep<T>(compiled: Result<T, Vec<Problem>>, problems: &mut Vec<Problem>) -> Option<T> {
    compiled.map_err(|mut found| problems.append(&mut found)).ok()
}

fn compile_upstreams(
    config: &Config,
    previous: Option<&Live>,
) -> Result<Vec<UpstreamConfig>, Vec<Problem>> {
    let mut problems = Vec::new();
    let known = |name: &str| {
        let mut known = previous?.upstreams.iter().map(|upstream| &upstream.state);
        known.find(|state| *state.name == *name)
    };
    let upstreams = (config.upstreams.iter())
        .filter_map(|(name, upstream)| {
            let state = UpstreamState::compile(name, upstream, known(name));
            let state = keep(state.map_err(|found| vec![found]), &mut problems)?;
            Some(UpstreamConfig { state, upstream_host: upstream.host == HostHeader::Upstream })
        })
        .collect();
    if problems.is_empty() { Ok(upstreams) } else { Err(problems) }
}

fn compile_rules(config: &Config) -> Result<Vec<Rule>, Vec<Problem>> {
    let mut problems = Vec::new();
    let rules = (config.limits.0.iter())
        .filter_map(|(name, limit)| {
            keep(
                Rule::compile(name, limit, config.counters.on_outage).map_err(|found| vec![found]),
                &mut problems,
            )
        })
        .collect();
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}
