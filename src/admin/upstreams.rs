//! How the upstreams stand: as JSON for people and programs, and as metrics. Reads what the
//! workers share and asks nobody.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::{Value, json};

use crate::gateway::Live;
use crate::proxy::pool::{Report, ServerReport};
use crate::telemetry::metrics::{escaped, family};

/// The document at `/upstreams`.
pub(super) fn document(live: &Live) -> Value {
    let upstreams: Vec<_> = reports(live)
        .into_iter()
        .map(|(name, report)| {
            json!({
                "name": name,
                "protocol": report.protocol.name(),
                "balance": report.balance.name(),
                "waiting": report.waiting,
                "overloaded": report.overloaded,
                "retries": report.retries,
                "retries_refused": report.retries_refused,
                "trying_all": report.trying_all,
                "servers": report.servers.iter().map(server).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "upstreams": upstreams })
}

fn server(server: &ServerReport) -> Value {
    json!({
        "server": &*server.authority,
        "weight": server.weight,
        "state": server.state.as_str(),
        "healthy": server.healthy,
        "health_fault": server.health_fault,
        "failures": server.failures,
        "ejections": server.ejections,
        "ejected_for_ms": u64::try_from(server.ejected_for.as_millis()).unwrap_or(u64::MAX),
        "connections": server.connections,
        "requests_in_flight": server.in_flight,
        "addresses": server.addresses,
    })
}

type OfServer = fn(&ServerReport) -> u64;
type OfUpstream = fn(&Report) -> u64;

/// The same as metrics.
pub(super) fn write_metrics(text: &mut String, live: &Live) {
    let reports = reports(live);
    let of_servers: [(&str, &str, &str, OfServer); 4] = [
        ("upstream_server_up", "gauge", "0 while a server is passed over.", |server| {
            u64::from(server.state.is_up())
        }),
        ("upstream_server_connections", "gauge", "Open connections to a server.", |server| {
            server.connections as u64
        }),
        (
            "upstream_server_requests_in_flight",
            "gauge",
            "Requests that a server is answering.",
            |server| server.in_flight as u64,
        ),
        (
            "upstream_server_ejections_total",
            "counter",
            "How often a server was passed over because requests failed.",
            |server| server.ejections,
        ),
    ];
    for (name, kind, help, value) in of_servers {
        family(text, name, kind, help);
        for (upstream, report) in &reports {
            for server in &report.servers {
                let (upstream, authority) = (escaped(upstream), escaped(&server.authority));
                let _ = writeln!(
                    text,
                    "portcullis_{name}{{upstream=\"{upstream}\",server=\"{authority}\"}} {}",
                    value(server)
                );
            }
        }
    }
    let of_upstreams: [(&str, &str, &str, OfUpstream); 4] = [
        ("upstream_waiting", "gauge", "Requests that wait for a connection.", |report| {
            report.waiting as u64
        }),
        (
            "upstream_overloaded_total",
            "counter",
            "Requests for which there was no connection.",
            |report| report.overloaded,
        ),
        ("upstream_retries_total", "counter", "Attempts that were repeated.", |report| {
            report.retries
        }),
        (
            "upstream_retries_refused_total",
            "counter",
            "Attempts that the retry budget did not allow.",
            |report| report.retries_refused,
        ),
    ];
    for (name, kind, help, value) in of_upstreams {
        family(text, name, kind, help);
        for (upstream, report) in &reports {
            let upstream = escaped(upstream);
            let _ =
                writeln!(text, "portcullis_{name}{{upstream=\"{upstream}\"}} {}", value(report));
        }
    }
}

fn reports(live: &Live) -> Vec<(&str, Report)> {
    let now = Instant::now();
    live.upstreams
        .iter()
        .map(|upstream| (&*upstream.state.name, upstream.state.report(now)))
        .collect()
}
