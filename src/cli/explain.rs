//! `portcullis explain`: what would be decided on a request, and why, step by step. Asks the same
//! function that the proxy asks. Limits are named, not counted.

use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde_json::json;

use super::{Context, Failure};
use crate::clock::Clock;
use crate::config::{Config, Loaded, Problem};
use crate::gateway::Live;
use crate::gateway::issuers::RemoteIssuer;
use crate::identity::api_keys::is_api_key;
use crate::identity::credential::Elsewhere;
use crate::identity::{ApiKeys, Credential, Identity, KeySet, Rejection, Verifier};
use crate::proxy::decide::{Decision, decide, imagined, in_cookie, status_of};
use crate::proxy::route::Route;
use crate::proxy::trace::Recording;
use crate::store::{ApiKeyCursor, RevocationCursor, Store};

#[derive(clap::Args)]
pub(super) struct Args {
    /// GET, POST, …
    method: String,
    /// Path as it stands in the request line
    path: String,
    /// Access token or API key that the request carries
    #[arg(allow_hyphen_values = true, long, conflicts_with_all = ["subject", "role", "scope"])]
    token: Option<String>,
    /// Imagine a good token of this user
    #[arg(long = "as", value_name = "USER_ID")]
    subject: Option<String>,
    /// … with this role
    #[arg(long, requires = "subject")]
    role: Vec<String>,
    /// … calling with an API key that has this scope
    #[arg(long, requires = "subject")]
    scope: Vec<String>,
    /// … in a session that has shown a second factor
    #[arg(long, requires = "subject")]
    aal2: bool,
    /// … from this issuer, by its name [default: our own]
    #[arg(long, requires = "subject")]
    issuer: Option<String>,
    /// The token is in our cookie, as a browser sends it
    #[arg(long, conflicts_with = "scope")]
    cookie: bool,
    /// … for a page of this origin [default: one of our own]
    #[arg(long, requires = "cookie")]
    origin: Option<String>,
    /// Imagine that the client has shown a certificate with this subject
    #[arg(long, value_name = "SUBJECT")]
    client_certificate: Option<http::HeaderValue>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let Loaded { config, sources, .. } = context.load()?;
    let live = Live::compile(&config).map_err(|problems| sources.report(&problems))?;
    let method = Method::from_bytes(args.method.as_bytes())
        .ok()
        .filter(|method| crate::message::request::METHODS.contains(method))
        .ok_or_else(|| {
            Failure::usage(format!("`{}` is no method that is passed on", args.method))
        })?;
    let caller = Caller::of(&config, args)?;
    let path = args.path.split_once('?').map_or(&*args.path, |(path, _)| path);

    let mut trace = Recording::default();
    let certificate = args.client_certificate.as_ref();
    let credential = |route: &Route| {
        let credential = caller.credential(route);
        if !args.cookie {
            return credential;
        }
        in_cookie(route, &method, &live.sites, &config, args.origin.as_deref(), credential)
    };
    let now = Clock::system().now().as_second();
    let decision = decide(&live.table, &method, path, certificate, credential, now, &mut trace);
    let (word, status, reason, route) = match &decision {
        Decision::Own => ("own", None, "account", None),
        Decision::Permit(permit) => {
            let word = if permit.shadowed().is_some() { "shadow" } else { "allow" };
            (word, None, permit.reason(), Some(permit.route()))
        }
        Decision::Refuse(refused) => {
            let status = status_of(&refused.refusal);
            ("deny", Some(status), refused.refusal.reason(), refused.route)
        }
    };
    if args.json {
        let steps: Vec<_> = (trace.steps.iter())
            .map(|step| json!({"step": step.step.as_str(), "result": step.result, "why": step.why}))
            .collect();
        println!(
            "{}",
            json!({
                "decision": word,
                "status": status,
                "reason": reason,
                "route": route.map(|route| &route.name),
                "limits": route.map(|route| limit_names(&live, route)),
                "steps": steps,
            })
        );
    } else {
        print!("{trace}");
        if let Some(route) = route.filter(|route| word != "deny" && !route.limits.is_empty()) {
            println!(
                "{:<7} {:<10} {}",
                "limits",
                "not asked",
                limit_names(&live, route).join(", ")
            );
        }
        match status {
            Some(status) => println!("refused: {status} {reason}"),
            None => println!("{word}: {reason}"),
        }
    }
    if status.is_some() { Err(Failure::no()) } else { Ok(()) }
}

fn limit_names(live: &Live, route: &Route) -> Vec<String> {
    route.limits.iter().map(|&limit| live.rules[limit].name().to_string()).collect()
}

/// Who makes the request.
enum Caller {
    Nobody,
    Imagined(Arc<Identity>),
    Key {
        token: String,
        keys: ApiKeys,
        now: Timestamp,
    },
    Bearer {
        token: String,
        verifier: Box<Verifier>,
        ended: Vec<uuid::Uuid>,
        keys: ApiKeys,
        now: Timestamp,
    },
}

impl Caller {
    fn of(config: &Config, args: &Args) -> Result<Self, Failure> {
        if let Some(subject) = &args.subject {
            let scopes = (!args.scope.is_empty()).then_some(&*args.scope);
            let issuer = args.issuer.as_deref();
            let identity = imagined(config, subject, &args.role, issuer, scopes, args.aal2)
                .map_err(Failure::usage)?;
            return Ok(Self::Imagined(Arc::new(identity)));
        }
        let Some(token) = args.token.clone() else { return Ok(Self::Nobody) };
        let clock = Clock::system();
        super::runtime()?.block_on(async {
            let store = Store::open(&config.storage, &config.secrets)?;
            store.check_schema().await?;
            let api_keys = ApiKeys::default();
            let news = store.changed_api_keys(&mut ApiKeyCursor::default()).await?;
            api_keys.take(news.keys, news.all);
            if is_api_key(token.as_bytes()) {
                return Ok(Self::Key { token, keys: api_keys, now: clock.now() });
            }
            let keys = store.signing_keys(clock.now()).await?;
            let ended = store.ended_sessions(&mut RevocationCursor::default(), clock.now()).await?;
            let keys = KeySet::compile(&config.tokens, &keys)
                .map_err(|error| Failure::failed("the signing keys cannot be used", &error))?;
            let verifier = Verifier::compile(&config.tokens, Arc::new(keys), &config.issuers)
                .map_err(|problems| wrong(&problems))?;
            let verifier = with_keys_for(&token, verifier, config).await?;
            let ended = ended.into_iter().map(|session| session.id).collect();
            let verifier = Box::new(verifier);
            Ok(Self::Bearer { token, verifier, ended, keys: api_keys, now: clock.now() })
        })
    }

    fn credential(&self, route: &Route) -> Credential {
        match self {
            Self::Nobody => Credential::Absent,
            Self::Imagined(identity) => Credential::Verified(Arc::clone(identity)),
            Self::Key { token, keys, now } => match keys.verify(token.as_bytes(), *now) {
                Ok(identity) => Credential::Verified(identity),
                Err(rejection) => Credential::Rejected(rejection),
            },
            Self::Bearer { token, verifier, ended, keys, now } => {
                let verify = |token: &[u8]| {
                    let identity = verifier.verify(token, route.issuers, now.as_second())?;
                    if identity.revoked_by().is_some_and(|id| ended.contains(&id)) {
                        return Err(Rejection::SessionEnded);
                    }
                    if !keys.stand_behind(&identity, *now) {
                        return Err(Rejection::UnknownApiKey);
                    }
                    Ok(Arc::new(identity))
                };
                let line = format!("Bearer {token}");
                let lines = || std::iter::once(line.as_bytes());
                match Credential::of(lines(), Elsewhere::default(), verify) {
                    Credential::Malformed(_) if token.is_empty() => {
                        Credential::Rejected(Rejection::Malformed)
                    }
                    credential => credential,
                }
            }
        }
    }
}

/// Fetches the keys of the token's issuer, as the gateway does for all of them.
async fn with_keys_for(
    token: &str,
    verifier: Verifier,
    config: &Config,
) -> Result<Verifier, Failure> {
    let Some(name) = verifier.remote_issuer_of(token.as_bytes()) else { return Ok(verifier) };
    for (position, written) in config.issuers.iter().enumerate() {
        let compiled =
            RemoteIssuer::compile(position, written).map_err(|problem| wrong(&[problem]))?;
        let Some(issuer) = compiled.filter(|issuer| issuer.name == name) else { continue };
        let keys = issuer.fetch().await.map_err(|error| {
            Failure::failed(&format!("the keys of `{name}` cannot be fetched"), &error)
        })?;
        let keys = Arc::new(keys);
        return Ok(verifier.with_remote_keys(|known| (known == &*name).then(|| Arc::clone(&keys))));
    }
    Ok(verifier)
}

fn wrong(problems: &[Problem]) -> Failure {
    let lines: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.key, p.message)).collect();
    Failure::usage(lines.join("\n"))
}
