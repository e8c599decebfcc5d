//! What is to be known of events at the admin listener.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use crate::gateway::Gateway;
use crate::telemetry::metrics;

pub(super) fn write_metrics(text: &mut String, gateway: &Gateway) {
    metrics::single(
        text,
        "events_dropped_total",
        "counter",
        "Events of proxied routes that were lost.",
        gateway.events.dropped(),
    );
    let courier = &gateway.courier;
    if !courier.is_on() {
        return;
    }
    let name = "event_webhook_deliveries_total";
    metrics::family(text, name, "counter", "Attempts to hand events on to the webhook by result.");
    for (result, count) in [("taken", &courier.taken), ("failed", &courier.failed)] {
        let _ = writeln!(text, "portcullis_{name}{{result=\"{result}\"}} {}", count.load(Relaxed));
    }
    let (waiting, age) = courier.backlog();
    let help = "Events that the webhook has not taken yet, of all kinds.";
    metrics::single(text, "event_webhook_waiting", "gauge", help, waiting);
    let help = "Age of the oldest event that the webhook has not taken yet; 0 when none waits.";
    metrics::single(text, "event_webhook_lag_seconds", "gauge", help, age.as_secs_f64());
    let help = "Events that the retention removed before the webhook took them.";
    metrics::single(text, "event_webhook_lost_total", "counter", help, courier.lost.load(Relaxed));
}
