//! How the keys of other issuers stand that are fetched: as JSON, and as metrics.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::telemetry::metrics::{escaped, family};

/// The document at `/issuers`.
pub(super) fn document(gateway: &Gateway) -> Value {
    let issuers = gateway.issuers.load();
    let issuers: Vec<_> = issuers.iter().map(|issuer| issuer.document()).collect();
    json!({ "issuers": issuers })
}

/// Those without keys by name, for the readiness; `None` where no keys are fetched.
pub(super) fn check(gateway: &Gateway) -> Option<String> {
    let issuers = gateway.issuers.load();
    let missing: Vec<&str> =
        issuers.iter().filter(|issuer| !issuer.has_keys()).map(|issuer| &*issuer.name).collect();
    let word = match &missing[..] {
        [] => "ok".to_owned(),
        names => format!("no keys yet of {}", names.join(", ")),
    };
    (!issuers.is_empty()).then_some(word)
}

/// The same as metrics.
pub(super) fn write_metrics(text: &mut String, gateway: &Gateway) {
    let issuers = gateway.issuers.load();
    let now = gateway.clock.now();
    let reports: Vec<_> =
        issuers.iter().map(|issuer| (escaped(&issuer.name), issuer.report(now))).collect();
    family(text, "issuer_keys_age_seconds", "gauge", "Time since an issuer's keys were fetched.");
    for (issuer, (age, _, _)) in &reports {
        let age = age.map_or("+Inf".to_owned(), |seconds| seconds.to_string());
        let _ = writeln!(text, "portcullis_issuer_keys_age_seconds{{issuer=\"{issuer}\"}} {age}");
    }
    family(text, "issuer_fetches_total", "counter", "Fetches of an issuer's keys.");
    for (issuer, (_, fetches, _)) in &reports {
        let _ = writeln!(text, "portcullis_issuer_fetches_total{{issuer=\"{issuer}\"}} {fetches}");
    }
    family(text, "issuer_fetch_errors_total", "counter", "Fetches that brought no keys.");
    for (issuer, (_, _, errors)) in &reports {
        let _ =
            writeln!(text, "portcullis_issuer_fetch_errors_total{{issuer=\"{issuer}\"}} {errors}");
    }
}
