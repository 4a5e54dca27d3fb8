//! The Redis that gateways share, as metrics; none without one.

use super::metrics::Text;
use crate::redis::{Lookup, Redis, Write};

pub fn write(out: &mut Text, redis: &Redis) {
    out.head(
        "forebay_redis_up",
        "gauge",
        "1 while Redis answers in time.",
    );
    out.line("forebay_redis_up", "", f64::from(u8::from(redis.is_up())));
    out.head(
        "forebay_redis_lookups_total",
        "counter",
        "Answers that were looked for in Redis, by what was found.",
    );
    for lookup in Lookup::ALL {
        let labels = format!("result=\"{}\"", lookup.name());
        let count = redis.counts().lookups(lookup) as f64;
        out.line("forebay_redis_lookups_total", &labels, count);
    }
    out.head(
        "forebay_redis_writes_total",
        "counter",
        "Answers that were to be written to Redis, by what became of it.",
    );
    for write in Write::ALL {
        let labels = format!("result=\"{}\"", write.name());
        let count = redis.counts().writes(write) as f64;
        out.line("forebay_redis_writes_total", &labels, count);
    }
}
