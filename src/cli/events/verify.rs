//! `portcullis events verify`: looks for events that are not there. Each process numbers its events
//! without gaps, and the retention notes what it takes; whatever else is missing was lost, or deleted
//! behind our back.

use serde_json::json;

use super::{Admin, Failure, table};
use crate::cli::when;
use crate::store::Trail;

/// Most ranges that are named; the sums are right whatever their number.
const MAX_RANGES: u32 = 1_000;

pub(super) async fn run(admin: &Admin, json: bool) -> Result<(), Failure> {
    let trails = admin.store.check_events(MAX_RANGES).await?;
    if json {
        table::print_json(trails.iter().map(as_json));
    } else {
        print(&trails);
    }
    if trails.iter().all(Trail::is_whole) { Ok(()) } else { Err(Failure::no()) }
}

fn print(trails: &[Trail]) {
    // Every command that writes an event is a writer; after years most of them say nothing.
    let is_shown = |trail: &&Trail| trail.stored > 0 || !trail.is_whole();
    let rows: Vec<_> = trails.iter().filter(is_shown).map(as_row).collect();
    table::print(["WRITER", "FIRST EVENT", "LAST NUMBER", "STORED", "REMOVED", "LOST"], &rows);
    for trail in trails.iter().filter(|trail| !trail.is_whole()) {
        for line in complaints(trail) {
            println!("{}: {line}", trail.writer);
        }
    }
    let sum = |of: fn(&Trail) -> i64| trails.iter().map(of).sum::<i64>();
    println!(
        "{} writers: {} events stored, {} removed by the retention, {} lost",
        trails.len(),
        sum(|trail| trail.stored),
        sum(|trail| trail.removed),
        sum(|trail| trail.lost().max(0)),
    );
}

fn as_row(trail: &Trail) -> [String; 6] {
    [
        trail.writer.to_string(),
        when(trail.first_event_at),
        trail.last_number.to_string(),
        trail.stored.to_string(),
        trail.removed.to_string(),
        trail.lost().to_string(),
    ]
}

/// What is wrong, a line for each.
fn complaints(trail: &Trail) -> Vec<String> {
    let range = |(from, to): &(i64, i64)| {
        if from == to { from.to_string() } else { format!("{from} to {to}") }
    };
    let mut lines = Vec::new();
    if trail.first_event_at.is_none() {
        lines.push("there are or were events of this writer, and it is not known".to_owned());
    } else if trail.span.map_or(0, |(_, last)| last).max(trail.removed_up_to) > trail.last_number {
        lines.push("there are events with higher numbers than were given".to_owned());
    }
    if trail.repeated > 0 {
        lines.push(format!("{} events with numbers that others have", trail.repeated));
    }
    if !trail.missing.is_empty() {
        let ranges: Vec<_> = trail.missing.iter().map(range).collect();
        lines.push(format!("missing: {}", ranges.join(", ")));
    }
    let named: i64 = trail.missing.iter().map(|(from, to)| to - from + 1).sum();
    let others = trail.lost() - named;
    if others > 0 {
        lines.push(format!("missing: {others} more"));
    } else if trail.lost() < 0 {
        lines.push(format!("{} more events than there can be", -trail.lost()));
    }
    lines
}

fn as_json(trail: &Trail) -> serde_json::Value {
    let range = |(from, to): &(i64, i64)| json!({ "from": from, "to": to });
    json!({
        "writer": trail.writer,
        "first_event_at": trail.first_event_at,
        "last_number": trail.last_number,
        "stored": trail.stored,
        "repeated": trail.repeated,
        "first_stored": trail.span.map(|(first, _)| first),
        "last_stored": trail.span.map(|(_, last)| last),
        "removed": trail.removed,
        "removed_up_to": trail.removed_up_to,
        "lost": trail.lost(),
        "missing": trail.missing.iter().map(range).collect::<Vec<_>>(),
        "whole": trail.is_whole(),
    })
}
