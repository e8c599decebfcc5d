//! `portcullis check`: compiles the configuration as `serve` would, runs its tests, prints the
//! route table; `--connect` also tries the stores.

use super::{Context, Failure};
use crate::clock::Clock;
use crate::config::{Loaded, Problem};
use crate::gateway::Live;
use crate::identity::{KeySet, Verifier};
use crate::limit::{LimitError, Limiter};
use crate::proxy::decide::run_tests;
use crate::server::tls::Tls;
use crate::store::{Store, StoreError};
use crate::telemetry;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Also connect to the database and the counters
    #[arg(long)]
    connect: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let loaded = context.load()?;
    let Loaded { config, sources, warnings } = &loaded;
    for warning in warnings {
        println!("warning: {warning}");
    }
    let mut problems = Vec::new();
    let live = Live::compile(config).map_err(|mut found| problems.append(&mut found)).ok();
    problems.extend(check_verifier(config));
    problems.extend(crate::reload::examine(config));
    if let Some(tls) = &config.server.tls {
        problems.extend(Tls::load(tls, &[]).err());
    }
    let Some(live) = live.filter(|_| problems.is_empty()) else {
        return Err(sources.report(&problems).into());
    };
    for route in live.table.routes() {
        println!("{}", route.describe());
    }
    let failed = run_tests(config, &live.table);
    println!(
        "{} routes, {} tests, {} failed",
        live.table.routes().len(),
        config.tests.len(),
        failed.len()
    );
    if !failed.is_empty() {
        let report = sources.report(&failed);
        return Err(Failure { code: 1, message: format!("error: [[tests]] failed\n{report}") });
    }
    if args.connect {
        super::runtime()?.block_on(connect(config))?;
    }
    Ok(())
}

/// `[tokens]` and `[[issuers]]` with their files; the keys themselves are in the database.
fn check_verifier(config: &crate::config::Config) -> Vec<Problem> {
    let keys = match KeySet::compile(&config.tokens, &[]) {
        Ok(keys) => keys,
        Err(error) => {
            let message = telemetry::chain(&error);
            return vec![Problem::new("tokens.secret", message)];
        }
    };
    Verifier::compile(&config.tokens, keys.into(), &config.issuers).err().unwrap_or_default()
}

async fn connect(config: &crate::config::Config) -> Result<(), Failure> {
    let store = Store::open(&config.storage, &config.secrets)?;
    store.ping().await?;
    match store.check_schema().await {
        Err(error)
            if config.storage.migrate && matches!(error, StoreError::SchemaBehind { .. }) =>
        {
            println!(
                "database {}: reached; `serve` will bring its schema up to date",
                store.describe()
            );
        }
        outcome => {
            outcome?;
            store.check_rights().await?;
            println!("database {}: fine", store.describe());
        }
    }
    let cannot = |error: LimitError| Failure::failed("the counters cannot be used", &error);
    let limiter = Limiter::open(&config.counters, Clock::system()).map_err(cannot)?;
    limiter.ping().await.map_err(cannot)?;
    println!("counters: fine");
    Ok(())
}
