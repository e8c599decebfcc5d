//! The Prometheus text format for what workers counted. Names are part of the contract; label
//! values come from the configuration and fixed lists.

use std::fmt::{Display, Write as _};

use super::tally::{BUCKETS_US, Histogram, Label, Tally};

/// Begins a family of metrics.
pub fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP portcullis_{name} {help}\n# TYPE portcullis_{name} {kind}");
}

/// A metric without labels.
pub fn single(text: &mut String, name: &str, kind: &str, help: &str, value: impl Display) {
    family(text, name, kind, help);
    let _ = writeln!(text, "portcullis_{name} {value}");
}

/// What the workers counted.
pub fn write_tally(text: &mut String, tally: &Tally) {
    family(text, "http_requests_total", "counter", "Requests by route, method and status.");
    for (route, counted) in sorted(&tally.routes) {
        let route = escaped(route);
        let mut requests = counted.requests.clone();
        requests.sort_unstable();
        for (method, code, count) in requests {
            let _ = writeln!(
                text,
                "portcullis_http_requests_total{{route=\"{route}\",method=\"{method}\",code=\"{code}\"}} {count}"
            );
        }
    }
    family(text, "auth_decisions_total", "counter", "Decisions by result and reason.");
    let mut decisions = tally.decisions.clone();
    decisions.sort_unstable();
    for ((result, reason), count) in decisions {
        let _ = writeln!(
            text,
            "portcullis_auth_decisions_total{{result=\"{result}\",reason=\"{reason}\"}} {count}"
        );
    }
    family(text, "logins_total", "counter", "Logins by outcome.");
    for (outcome, count) in sorted(&tally.logins) {
        let _ = writeln!(text, "portcullis_logins_total{{outcome=\"{outcome}\"}} {count}");
    }
    family(text, "rate_limited_total", "counter", "Requests over a limit.");
    for (limit, count) in sorted(&tally.rate_limited) {
        let limit = escaped(limit);
        let _ = writeln!(text, "portcullis_rate_limited_total{{limit=\"{limit}\"}} {count}");
    }
    single(
        text,
        "http_requests_in_flight",
        "gauge",
        "Requests that are being answered.",
        tally.in_flight,
    );
    family(text, "connections", "gauge", "Client connections by state.");
    let _ = writeln!(text, "portcullis_connections{{state=\"open\"}} {}", tally.connections);
    let _ = writeln!(text, "portcullis_connections{{state=\"tunnel\"}} {}", tally.tunnels);
    single(
        text,
        "ignored_forwarding_headers_total",
        "counter",
        "Requests with a forwarding header of a peer that is not trusted.",
        tally.ignored_forwarding_headers,
    );
    histograms(
        text,
        "http_request_duration_seconds",
        "Time from a request's arrival to the end of its answer.",
        "route",
        tally.routes.iter().map(|(route, counted)| (route, &counted.durations)),
    );
    histograms(
        text,
        "upstream_request_duration_seconds",
        "Time to the upstream's response head.",
        "upstream",
        &tally.upstream_durations,
    );
}

fn histograms<'h>(
    text: &mut String,
    name: &str,
    help: &str,
    label: &str,
    histograms: impl IntoIterator<Item = (&'h Label, &'h Histogram)>,
) {
    family(text, name, "histogram", help);
    let mut entries: Vec<_> = histograms.into_iter().collect();
    entries.sort_unstable_by_key(|entry| entry.0);
    for (value, histogram) in entries {
        let value = escaped(value);
        let mut sum = 0;
        for (count, bound) in histogram.counts.iter().zip(BUCKETS_US.iter().map(Some).chain([None]))
        {
            sum += count;
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |&us| seconds(us));
            let _ = writeln!(
                text,
                "portcullis_{name}_bucket{{{label}=\"{value}\",le=\"{bound}\"}} {sum}"
            );
        }
        let total = seconds(histogram.sum_us);
        let _ = writeln!(text, "portcullis_{name}_sum{{{label}=\"{value}\"}} {total}");
        let _ = writeln!(text, "portcullis_{name}_count{{{label}=\"{value}\"}} {sum}");
    }
}

fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// In a stable order, so that two scrapes can be compared.
fn sorted<K: Ord, V>(map: &ahash::AHashMap<K, V>) -> Vec<(&K, &V)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
    entries
}

/// A label value: a route's pattern, or the name of a file, may hold any visible character.
pub(crate) fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn counts_are_written_with_escaped_labels() {
        let mut tally = Tally::default();
        let route: Label = "/a\"b".into();
        let counted = tally.routes.entry(route).or_default();
        counted.count("GET", 200, 3);
        counted.durations.observe(Duration::from_micros(300));
        let mut text = String::new();
        write_tally(&mut text, &tally);
        assert!(text.contains(
            "portcullis_http_requests_total{route=\"/a\\\"b\",method=\"GET\",code=\"200\"} 3\n"
        ));
        let bucket = "portcullis_http_request_duration_seconds_bucket{route=\"/a\\\"b\",le=";
        assert!(text.contains(&format!("{bucket}\"0.000250\"}} 0\n")));
        assert!(text.contains(&format!("{bucket}\"0.000500\"}} 1\n")));
        assert!(text.contains(&format!("{bucket}\"+Inf\"}} 1\n")));
    }
}
