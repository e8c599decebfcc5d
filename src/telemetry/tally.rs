//! Numbers of the request path: every worker counts for itself, without atomics, and is asked for
//! its sums when metrics are read.

use std::time::Duration;

use ahash::AHashMap;

/// Upper bounds of the duration buckets, in microseconds: fine below 10 ms, where a gateway's own
/// share lies, coarse above.
pub const BUCKETS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    5_000_000, 30_000_000,
];

/// Durations by bucket.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// One count for each of [`BUCKETS_US`], then one for all above. Not cumulative.
    pub counts: [u64; BUCKETS_US.len() + 1],
    /// Sum in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.iter().position(|&bound| us <= bound).unwrap_or(BUCKETS_US.len());
        self.counts[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }
}

/// What one worker counted since its start. Labels come from the configuration and from fixed
/// lists, never from clients, so the maps are bounded.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By route.
    pub routes: AHashMap<Label, RouteTally>,
    /// By upstream.
    pub upstream_durations: AHashMap<Label, Histogram>,
    /// By result and reason: a handful, so that looking through them is fastest.
    pub decisions: Vec<((&'static str, &'static str), u64)>,
    /// By limit.
    pub rate_limited: AHashMap<Label, u64>,
    /// By outcome.
    pub logins: AHashMap<&'static str, u64>,
    /// Requests that are being answered.
    pub in_flight: i64,
    /// Open client connections.
    pub connections: i64,
    /// Open tunnels.
    pub tunnels: i64,
    /// Forwarding headers of peers that are not trusted.
    pub ignored_forwarding_headers: u64,
}

/// What was counted of one route.
#[derive(Clone, Debug, Default)]
pub struct RouteTally {
    /// By method and status: a handful, so that looking through them is fastest.
    pub requests: Vec<(&'static str, u16, u64)>,
    /// To the end of the answer.
    pub durations: Histogram,
}

impl RouteTally {
    /// Counts requests of one method and status.
    pub fn count(&mut self, method: &'static str, status: u16, requests: u64) {
        match self.requests.iter_mut().find(|known| known.1 == status && known.0 == method) {
            Some(known) => known.2 += requests,
            None => self.requests.push((method, status, requests)),
        }
    }
}

/// A name from the configuration.
pub type Label = std::sync::Arc<str>;

impl Tally {
    /// Counts decisions of one result and reason.
    pub fn decide(&mut self, decision: (&'static str, &'static str), count: u64) {
        match self.decisions.iter_mut().find(|(known, _)| *known == decision) {
            Some((_, known)) => *known += count,
            None => self.decisions.push((decision, count)),
        }
    }

    /// Adds another worker's sums.
    pub fn add(&mut self, other: &Self) {
        fn sums<K: Clone + Eq + std::hash::Hash>(
            mine: &mut AHashMap<K, u64>,
            theirs: &AHashMap<K, u64>,
        ) {
            for (key, count) in theirs {
                *mine.entry(key.clone()).or_default() += count;
            }
        }
        fn histograms(mine: &mut AHashMap<Label, Histogram>, theirs: &AHashMap<Label, Histogram>) {
            for (key, histogram) in theirs {
                mine.entry(key.clone()).or_default().add(histogram);
            }
        }
        for &(decision, count) in &other.decisions {
            self.decide(decision, count);
        }
        sums(&mut self.rate_limited, &other.rate_limited);
        sums(&mut self.logins, &other.logins);
        for (route, theirs) in &other.routes {
            let mine = self.routes.entry(route.clone()).or_default();
            for &(method, status, requests) in &theirs.requests {
                mine.count(method, status, requests);
            }
            mine.durations.add(&theirs.durations);
        }
        histograms(&mut self.upstream_durations, &other.upstream_durations);
        self.in_flight += other.in_flight;
        self.connections += other.connections;
        self.tunnels += other.tunnels;
        self.ignored_forwarding_headers += other.ignored_forwarding_headers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_workers_add_up() {
        let label: Label = "/a".into();
        let mut one = Tally::default();
        let route = one.routes.entry(label.clone()).or_default();
        route.count("GET", 200, 1);
        route.count("GET", 200, 1);
        route.durations.observe(Duration::from_micros(100));
        let mut sum = one.clone();
        sum.add(&one);
        assert_eq!(sum.routes[&label].requests, [("GET", 200, 4)]);
        assert_eq!(sum.routes[&label].durations.counts[0], 2);
        assert_eq!(sum.routes[&label].durations.sum_us, 200);
    }
}
