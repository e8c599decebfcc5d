//! `portcullis limits`: sees and forgets what limits have counted, and failed logins. The counts are
//! asked from Redis itself; those in a gateway's memory no other process can see.

use std::net::IpAddr;

use clap::Subcommand;
use serde_json::json;

use super::{Admin, Context, Failure, table, when};
use crate::auth::counted::{Counter, LOGIN_GUARD, NoCounter, Whose};
use crate::config::Limit;
use crate::identity::caller::OURS;
use crate::limit::Limiter;
use crate::model::{Email, EventKind, SessionId};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show what a limit has counted of somebody; without a name, which limits there are
    Show {
        #[command(flatten)]
        which: Which,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Forget what a limit has counted of somebody, or failed logins
    Reset {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(clap::Args)]
struct Which {
    /// Name of the limit
    #[arg(conflicts_with = "login")]
    limit: Option<String>,
    /// Failed logins with this e-mail address, in every gateway
    #[arg(long, value_name = "ADDRESS")]
    login: Option<Email>,
    /// Client address
    #[arg(long, requires = "limit")]
    ip: Option<IpAddr>,
    /// E-mail address; `login_account` counts it for each network in which it is known (then with
    /// --ip) and for all others together
    #[arg(long, requires = "limit", value_name = "ADDRESS")]
    account: Option<Email>,
    /// User id; of `login_account` the changes of password
    #[arg(long, requires = "limit", value_name = "ID")]
    user: Option<String>,
    /// Session id
    #[arg(long, requires = "limit", value_name = "ID")]
    session: Option<SessionId>,
    /// Name of the issuer of user or session
    #[arg(long, requires = "limit", default_value = OURS)]
    issuer: String,
    /// Name of the route or path of the endpoint
    #[arg(long, requires = "limit")]
    route: Option<String>,
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    context.administer(async |admin| match args.action {
        Action::Show { which: Which { login: Some(email), .. }, json } => {
            show_login(&admin, &email, json).await
        }
        Action::Show { which: Which { limit: None, .. }, json } => {
            list(&admin, json);
            Ok(())
        }
        Action::Show { which, json } => show(&admin, &which, json).await,
        Action::Reset { which: Which { login: Some(email), .. } } => {
            reset_login(&admin, &email).await
        }
        Action::Reset { which } => reset(&admin, &which).await,
    })
}

fn list(admin: &Admin, json: bool) {
    let limits = all_limits(admin);
    if json {
        table::print_json(limits.iter().map(|(name, limit)| {
            json!({ "limit": name, "rate": limit.rate.to_string(), "by": limit.by.name() })
        }));
        return;
    }
    let rows: Vec<_> = limits
        .iter()
        .map(|(name, limit)| [name.clone(), limit.rate.to_string(), limit.by.name().to_owned()])
        .collect();
    table::print(["LIMIT", "RATE", "BY"], &rows);
}

fn all_limits(admin: &Admin) -> Vec<(String, Limit)> {
    admin.config.limits.with_built_in().into_iter().collect()
}

async fn show(admin: &Admin, which: &Which, json: bool) -> Result<(), Failure> {
    let Counter { rule, key, .. } = which.counter(admin)?;
    let decision = limiter(admin)?.peek(&rule, &key).await.map_err(|error| away(&error))?;
    let wait = decision.retry_after.as_secs_f64().ceil();
    let reset = decision.reset.as_secs_f64().ceil();
    if json {
        table::print_json([json!({
            "limit": &**rule.name(),
            "key": key.to_string(),
            "rate": rule.rate().to_string(),
            "remaining": decision.remaining,
            "retry_after": wait,
            "reset": reset,
        })]);
        return Ok(());
    }
    table::print(
        ["LIMIT", "OF", "RATE", "LEFT", "NEXT IN", "ALL FREE IN"],
        &[[
            rule.name().to_string(),
            key.to_string(),
            rule.rate().to_string(),
            decision.remaining.to_string(),
            format!("{wait}s"),
            format!("{reset}s"),
        ]],
    );
    Ok(())
}

async fn reset(admin: &Admin, which: &Which) -> Result<(), Failure> {
    let Counter { rule, key, account, user, label } = which.counter(admin)?;
    let limiter = limiter(admin)?;
    let mut event = admin.event(EventKind::LimitReset, user.as_ref());
    event.reason = Some(label);
    event.email = account;
    // Counts are not in the database: what cannot be recorded is not done.
    admin.store.record(&[event]).await?;
    if !limiter.reset(&rule, &key).await.map_err(|error| away(&error))? {
        println!("{} had counted nothing of {key}", rule.name());
        return Ok(());
    }
    println!("{} has forgotten what it had counted of {key}", rule.name());
    Ok(())
}

async fn show_login(admin: &Admin, email: &Email, json: bool) -> Result<(), Failure> {
    let guards = admin.store.guards_of(email).await?;
    if json {
        table::print_json(guards.iter().map(|guard| {
            json!({
                "lane": guard.lane,
                "failures": guard.failures,
                "failed_at": guard.failed_at,
                "blocked_until": guard.blocked_until,
            })
        }));
        return Ok(());
    }
    let rows: Vec<_> = guards
        .iter()
        .map(|guard| {
            [
                guard.lane.clone(),
                guard.failures.to_string(),
                when(Some(guard.failed_at)),
                when(Some(guard.blocked_until)),
            ]
        })
        .collect();
    table::print(["FROM", "FAILURES", "LAST", "BLOCKED UNTIL"], &rows);
    Ok(())
}

async fn reset_login(admin: &Admin, email: &Email) -> Result<(), Failure> {
    let mut event = admin.event(EventKind::LimitReset, None);
    event.reason = Some(LOGIN_GUARD.to_owned());
    event.email = Some(email.address().to_owned());
    let forgotten = admin.store.clear_guards(email, &event).await?;
    println!("forgot the failed logins of {} from {forgotten} places", email.address());
    Ok(())
}

/// Counters that this process can ask.
fn limiter(admin: &Admin) -> Result<Limiter, Failure> {
    let limiter =
        Limiter::open(&admin.config.counters, admin.clock.clone()).map_err(Failure::usage)?;
    match limiter {
        Limiter::Memory(..) => Err(Failure::refused(
            "what limits count is in the memory of the running gateway (counters.url is \
             \"memory:\"), where no other process sees it; a restart forgets it",
        )),
        limiter @ Limiter::Redis(_) => Ok(limiter),
    }
}

fn away(error: &crate::limit::LimitError) -> Failure {
    Failure::failed("the counters cannot be asked", error)
}

impl Which {
    fn counter(&self, admin: &Admin) -> Result<Counter, Failure> {
        let name = self.limit.as_deref().ok_or_else(|| {
            Failure::usage("name a limit, or an account's failed logins with --login")
        })?;
        let limits = all_limits(admin);
        let found = limits.iter().find(|(known, _)| known == name);
        let (_, limit) =
            found.ok_or_else(|| Failure::usage(format!("there is no limit `{name}`")))?;
        let whose = Whose {
            ip: self.ip,
            account: self.account.clone(),
            user: self.user.clone(),
            session: self.session,
            issuer: Some(self.issuer.clone()),
            route: self.route.clone(),
        };
        whose.counter(name, limit, admin.config.counters.on_outage).map_err(|error| match error {
            NoCounter::Unnamed(option) => Failure::usage(format!(
                "`{name}` counts by {}: say whose count with --{option}",
                limit.by.name()
            )),
            NoCounter::Unusable(message) => Failure::usage(message),
        })
    }
}
