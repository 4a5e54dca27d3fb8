//! `max_requests` of a cluster and `[clusters.queue]`.

use std::time::Duration;

use super::{Keys, Read, Table, http};
use crate::defaults;
use crate::gateway::{Limit, Queue};

const KEYS: Keys = &["size", "max_wait", "priority_header", "tenant_header"];

const MOST_REQUESTS: u32 = 1_000_000;
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// None: endpoints get whatever comes.
pub(super) fn limit(cluster: &Table<'_>) -> Read<Option<Limit>> {
    let max_requests = cluster.or("max_requests", 0, |value| value.integer(0..=MOST_REQUESTS));
    if max_requests == Ok(0)
        && let Some(value) = cluster.get("queue")
    {
        return value
            .wrong("no queue without max_requests: nothing ever waits for what has no limit");
    }
    let queue = queue(cluster);
    let (max_requests, queue) = (max_requests?, queue?);
    Ok((max_requests > 0).then_some(Limit {
        max_requests,
        queue,
    }))
}

fn queue(cluster: &Table<'_>) -> Read<Queue> {
    let Some(table) = cluster.switch("queue", KEYS)? else {
        return Ok(Queue {
            size: 0,
            max_wait: None,
            priority_header: None,
            tenant_header: None,
        });
    };
    let size = table.or("size", defaults::QUEUE_SIZE, |value| {
        value.integer(0..=MOST_REQUESTS)
    });
    let max_wait = table.optional("max_wait", |value| {
        value.duration(SHORTEST_WAIT..=LONGEST_WAIT)
    });
    let priority_header = table.optional("priority_header", |value| http::header_name(&value));
    let tenant_header = table.optional("tenant_header", |value| http::header_name(&value));
    Ok(Queue {
        size: size?,
        max_wait: max_wait?,
        priority_header: priority_header?,
        tenant_header: tenant_header?,
    })
}
