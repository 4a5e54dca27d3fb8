//! Metrics of the requests that wait for an endpoint, of clusters with a limit.

use super::metrics::{Text, escape};
use crate::fleet::WaitingRoom;
use crate::gateway::Snapshot;

pub(super) fn write(out: &mut Text, snapshot: &Snapshot) {
    let rooms: Vec<(String, &WaitingRoom)> = snapshot
        .clusters
        .iter()
        .filter_map(|cluster| {
            let label = format!("cluster=\"{}\"", escape(&cluster.config.name));
            Some((label, &**cluster.room()?))
        })
        .collect();
    let name = "forebay_queue_requests";
    out.head(name, "gauge", "Requests that wait for an endpoint.");
    for (label, room) in &rooms {
        out.line(name, label, room.waiting() as f64);
    }
    let name = "forebay_queue_wait_seconds";
    out.head(name, "histogram", "Waits that ended with an endpoint.");
    for (label, room) in &rooms {
        room.counts.waited.write(out, name, label);
    }
    let name = "forebay_queue_refused_total";
    out.head(
        name,
        "counter",
        "Requests that would have waited, or waited, in vain.",
    );
    for (label, room) in &rooms {
        for (reason, count) in room.counts.refusals() {
            out.line(name, &format!("{label},reason=\"{reason}\""), count as f64);
        }
    }
}
