//! Metrics of what routes refuse by their limits.

use forebay_config::gateway::{RateKey, RateLimit};
use forebay_config::units::format_duration;

use super::metrics::{Text, escape};
use crate::gateway::Snapshot;

pub(super) fn write(out: &mut Text, snapshot: &Snapshot) {
    let label = |name: &str| format!("route=\"{}\"", escape(name));
    let name = "forebay_rate_limited_total";
    out.head(
        name,
        "counter",
        "Requests beyond a rate limit of their route.",
    );
    for route in &snapshot.routes {
        for (limit, refused) in route.rates.iter().flat_map(|rates| rates.refusals()) {
            let labels = format!("{},{}", label(&route.config.name), labels_of(limit));
            out.line(name, &labels, refused as f64);
        }
    }
    let name = "forebay_rate_limit_unshared_total";
    out.head(
        name,
        "counter",
        "Requests of shared rate limits that this gateway granted alone, as Redis did not answer.",
    );
    for route in &snapshot.routes {
        let alone = route.rates.iter().filter_map(|rates| rates.alone());
        for count in alone {
            out.line(name, &label(&route.config.name), count as f64);
        }
    }
    let limited = || {
        let routes = snapshot.routes.iter();
        routes.filter_map(|route| Some((label(&route.config.name), route.concurrency.as_ref()?)))
    };
    let name = "forebay_route_concurrent";
    out.head(
        name,
        "gauge",
        "Requests being served, of routes with a limit.",
    );
    for (label, concurrency) in limited() {
        out.line(name, &label, concurrency.served() as f64);
    }
    let name = "forebay_route_concurrency_limit";
    out.head(name, "gauge", "How many may be served at a time.");
    for (label, concurrency) in limited() {
        out.line(name, &label, concurrency.most() as f64);
    }
    let name = "forebay_concurrency_refused_total";
    out.head(
        name,
        "counter",
        "Requests beyond what their route serves at a time.",
    );
    for (label, concurrency) in limited() {
        out.line(name, &label, concurrency.refused() as f64);
    }
}

fn labels_of(limit: &RateLimit) -> String {
    let by = match &limit.by {
        RateKey::Route => "route",
        RateKey::Client => "client",
        RateKey::Header(name) => name,
    };
    let rate = format!("{} in {}", limit.requests, format_duration(limit.per));
    format!("by=\"{}\",rate=\"{rate}\"", escape(by))
}
