//! The admin listener: liveness, readiness, metrics, upstreams, and the configuration that is live,
//! never on the public address. It answers from what the gateway knows; all it can be asked to do
//! is to read its configuration again.
//!
//! Liveness never depends on a store: restarting the gateway does not bring a database back.

mod events;
mod issuers;
mod upstreams;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::auth::accounts::Accounts;
use crate::auth::formats::Class;
use crate::auth::password::Effort;
use crate::gateway::Gateway;
use crate::reload::{Attempt, Outcome, Reloader, Trigger};
use crate::server::Scrape;
use crate::server::tls::{Expiry, Tls};
use crate::store::OutboxState;
use crate::telemetry::{chain, metrics};

/// Connections at once: probes and a few scrapers.
const MAX_CONNECTIONS: usize = 64;

/// Time for a probe's request and its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Ended sessions must have been read within this time.
const MAX_STALENESS: Duration = Duration::from_secs(5);

/// What the endpoints answer from.
pub(crate) struct Sight {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) scrape: Scrape,
    pub(crate) reloader: Arc<Reloader>,
}

/// Serves the admin endpoints on `listener`, as long as the control runtime lives.
pub(crate) async fn serve(listener: TcpListener, sight: Sight) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the admin listener cannot be used");
            return;
        }
    };
    let shared = Arc::new(sight);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(async |request: Request<Incoming>| {
                Ok::<_, Infallible>(answer(&shared, &request).await)
            });
            // One request each, in a short time: a probe must always find a place. One that breaks
            // off needs no answer.
            let served = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, served).await;
        });
    }
}

async fn answer<B>(sight: &Sight, request: &Request<B>) -> Response<Full<Bytes>> {
    let Sight { gateway, reloader, .. } = sight;
    let path = request.uri().path();
    let (allowed, is_allowed) = match path {
        "/reload" => ("POST", request.method() == Method::POST),
        _ => ("GET, HEAD", matches!(*request.method(), Method::GET | Method::HEAD)),
    };
    if !is_allowed {
        let body = json!({"error": format!("only {allowed}")});
        let mut answer = json_answer(StatusCode::METHOD_NOT_ALLOWED, &body);
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return answer;
    }
    match path {
        "/health/live" => json_answer(StatusCode::OK, &json!({"status": "live"})),
        "/health/ready" => {
            let (ready, checks) = readiness(gateway).await;
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let word = if ready { "ready" } else { "not ready" };
            json_answer(status, &json!({"status": word, "checks": checks}))
        }
        "/metrics" => metrics_answer(sight).await,
        "/upstreams" => json_answer(StatusCode::OK, &upstreams::document(&gateway.live.load())),
        "/issuers" => json_answer(StatusCode::OK, &issuers::document(gateway)),
        "/config" => {
            let status = reloader.status();
            let body = json!({
                "version": status.live.hash,
                "loaded_at": status.live.loaded_at,
                "last_attempt": status.last.as_ref().map(described),
            });
            json_answer(StatusCode::OK, &body)
        }
        // A page that an operator looks at may not make their browser do this.
        "/reload" if request.headers().contains_key(ORIGIN) => {
            json_answer(StatusCode::FORBIDDEN, &json!({"error": "not for pages"}))
        }
        "/reload" => reload(reloader).await,
        _ => json_answer(
            StatusCode::NOT_FOUND,
            &json!({
                "error": "there are /health/live, /health/ready, /metrics, /upstreams, /issuers, \
                          /config and /reload"
            }),
        ),
    }
}

async fn reload(reloader: &Arc<Reloader>) -> Response<Full<Bytes>> {
    let Some(attempt) = reloader.reload(Trigger::Request).await else {
        let body = json!({
            "result": "unfinished",
            "errors": ["it takes too long to wait for; see /config for its end"],
            "version": reloader.status().live.hash,
        });
        return json_answer(StatusCode::SERVICE_UNAVAILABLE, &body);
    };
    let Attempt { outcome, errors, warnings, version, .. } = attempt;
    let result = outcome.name();
    if outcome == Outcome::Refused {
        let body = json!({"result": result, "errors": errors, "version": version});
        return json_answer(StatusCode::UNPROCESSABLE_ENTITY, &body);
    }
    let body = json!({"result": result, "version": version, "warnings": warnings});
    json_answer(StatusCode::OK, &body)
}

fn described(attempt: &Attempt) -> Value {
    json!({
        "at": attempt.at,
        "trigger": attempt.trigger.name(),
        "result": attempt.outcome.name(),
        "errors": attempt.errors,
        "warnings": attempt.warnings,
    })
}

/// Whether requests should be sent here, with each check by name.
async fn readiness(gateway: &Gateway) -> (bool, Value) {
    let database = gateway.store.ping().await.map_err(|error| chain(&error));
    let staleness = gateway.revocations.staleness(Instant::now());
    let sessions = match staleness {
        Some(staleness) if staleness < MAX_STALENESS => Ok(()),
        Some(staleness) => Err(format!("last read {} s ago", staleness.as_secs())),
        None => Err("not read yet".to_owned()),
    };
    // Counters that are away are not a reason to send requests elsewhere: `on_outage` decides.
    let counters = if gateway.limiter.is_degraded() { "degraded" } else { "ok" };
    let draining = if gateway.is_draining() { Err("shutting down".to_owned()) } else { Ok(()) };
    let signing = if gateway.can_sign() { Ok(()) } else { Err("no key signs".to_owned()) };
    let ready = database.is_ok() && sessions.is_ok() && draining.is_ok() && signing.is_ok();
    let word = |check: Result<(), String>| check.map_or_else(|why| why, |()| "ok".to_owned());
    let mut checks = json!({
        "database": word(database),
        "ended_sessions": word(sessions),
        "counters": counters,
        "signing_key": word(signing),
        "draining": word(draining),
    });
    // Nor is another issuer: our own tokens are good without it.
    if let Some(issuers) = issuers::check(gateway) {
        checks["issuers"] = issuers.into();
    }
    (ready, checks)
}

async fn metrics_answer(sight: &Sight) -> Response<Full<Bytes>> {
    let mut tally = sight.scrape.tally().await;
    tally.tunnels = sight.gateway.open_tunnels();
    let mut text = String::with_capacity(16 << 10);
    metrics::write_tally(&mut text, &tally);
    upstreams::write_metrics(&mut text, &sight.gateway.live.load());
    issuers::write_metrics(&mut text, &sight.gateway);
    write_shared(&mut text, &sight.gateway, &sight.scrape);
    write_reloads(&mut text, &sight.reloader);
    if let Some(tls) = &sight.scrape.tls {
        write_tls(&mut text, tls);
    }
    let mut answer = Response::new(Full::new(text.into()));
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Letters that wait, as they were counted some seconds ago.
fn write_outbox(text: &mut String, accounts: &Accounts) {
    let state = accounts.letters.state();
    let now = accounts.clock.now();
    let oldest = state.and_then(|state| state.oldest);
    let age = oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64().max(0.0));
    let count = |of: fn(&OutboxState) -> u64| state.as_ref().map_or(0, of);
    let (waiting, failed) = (count(|state| state.waiting), count(|state| state.failed));
    metrics::single(text, "outbox_waiting", "gauge", "Letters still to be sent.", waiting);
    metrics::single(text, "outbox_failed", "gauge", "Letters given up, of 30 days.", failed);
    let help = "Age of the letter that has waited longest; 0 when none waits.";
    metrics::single(text, "outbox_oldest_age_seconds", "gauge", help, age);
    let help = "Letters that have left, which the database does not know yet.";
    metrics::single(text, "outbox_unnoted", "gauge", help, accounts.letters.unnoted.get());
}

/// Numbers that are not counted by workers.
fn write_shared(text: &mut String, gateway: &Gateway, scrape: &Scrape) {
    let pool = gateway.store.pool_status();
    let staleness =
        gateway.revocations.staleness(Instant::now()).map_or(f64::INFINITY, |s| s.as_secs_f64());
    let limiter = gateway.limiter.metrics();
    let hasher = &gateway.auth.accounts().hasher;
    metrics::family(text, "db_pool_connections", "gauge", "Database connections by state.");
    for (state, count) in
        [("available", pool.available), ("open", pool.size), ("waiting", pool.waiting)]
    {
        let _ = writeln!(text, "portcullis_db_pool_connections{{state=\"{state}\"}} {count}");
    }
    metrics::single(
        text,
        "revocation_staleness_seconds",
        "gauge",
        "Time since the ended sessions were read.",
        staleness,
    );
    metrics::single(
        text,
        "ended_sessions",
        "gauge",
        "Ended sessions whose tokens have not expired.",
        gateway.revocations.len(),
    );
    events::write_metrics(text, gateway);
    metrics::single(
        text,
        "access_log_buffers_dropped_total",
        "counter",
        "Buffers of access-log lines that were lost.",
        scrape.dropped_log_buffers(),
    );
    metrics::single(
        text,
        "counters_errors_total",
        "counter",
        "Calls to the rate counters that failed.",
        limiter.errors.get(),
    );
    metrics::single(
        text,
        "counters_degraded",
        "gauge",
        "1 while limits are decided without Redis.",
        limiter.degraded.get(),
    );
    let accounts = gateway.auth.accounts();
    if accounts.letters.are_on() {
        write_outbox(text, accounts);
    }
    metrics::single(
        text,
        "password_hash_queue",
        "gauge",
        "Password hashes that wait for a thread.",
        hasher.stats().queued.get(),
    );
    write_effort(text, &hasher.stats().effort, hasher.slowest());
    let mut registry = Registry::with_prefix("portcullis");
    let help = "Time of one password hash, without its wait";
    registry.register("password_hash_duration_seconds", help, hasher.stats().seconds.clone());
    if prometheus_client::encoding::text::encode_registry(text, &registry).is_err() {
        tracing::error!("the hash durations cannot be written");
    }
    metrics::family(text, "build_info", "gauge", "The version that runs.");
    let _ = writeln!(text, "portcullis_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
}

/// What checks of passwords have cost, and what they are made up to.
fn write_effort(text: &mut String, effort: &Effort, slowest: Class) {
    let name = "password_checks_total";
    metrics::family(text, name, "counter", "Checks of passwords by the kind of hash.");
    for (scheme, count) in effort.checks() {
        let _ = writeln!(text, "portcullis_{name}{{scheme=\"{scheme}\"}} {count}");
    }
    metrics::single(
        text,
        "password_filler_iterations_total",
        "counter",
        "Iterations of PBKDF2 that made failed checks take as long as the slowest kind of hash.",
        effort.filler(),
    );
    let name = "password_slowest_info";
    metrics::family(text, name, "gauge", "The kind of hash that failed checks take as long as.");
    let _ = writeln!(text, "portcullis_{name}{{kind=\"{slowest}\"}} 1");
}

/// Certificates of the public listeners.
fn write_tls(text: &mut String, tls: &Tls) {
    metrics::single(
        text,
        "tls_certificate_reload_failures_total",
        "counter",
        "Changes of certificate files that could not be taken.",
        tls.failures(),
    );
    let name = "tls_certificate_expiry_timestamp_seconds";
    metrics::family(text, name, "gauge", "When the certificates in use end.");
    for Expiry { certificate, not_after } in tls.expiries() {
        let file = metrics::escaped(&certificate.to_string_lossy());
        let _ = writeln!(text, "portcullis_{name}{{certificate=\"{file}\"}} {not_after}");
    }
}

/// What came of the changes of the configuration.
fn write_reloads(text: &mut String, reloader: &Reloader) {
    let status = reloader.status();
    let is_refused = status.last.is_some_and(|last| last.outcome == Outcome::Refused);
    metrics::single(
        text,
        "config_last_reload_successful",
        "gauge",
        "0 when the last reload was refused.",
        u8::from(!is_refused),
    );
    metrics::single(
        text,
        "config_last_reload_success_timestamp_seconds",
        "gauge",
        "When a reload, or the start, last succeeded.",
        status.succeeded_at.as_second(),
    );
    metrics::family(text, "config_reloads_total", "counter", "Reloads by result.");
    for (outcome, count) in Outcome::ALL.into_iter().zip(status.totals) {
        let result = outcome.name();
        let _ = writeln!(text, "portcullis_config_reloads_total{{result=\"{result}\"}} {count}");
    }
    metrics::family(text, "config_info", "gauge", "The configuration that is live.");
    let version = status.live.hash;
    let _ = writeln!(text, "portcullis_config_info{{version=\"{version}\"}} 1");
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(format!("{value}\n").into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
