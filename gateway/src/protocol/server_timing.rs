//! Where an answer's time went, as `server-timing` tells (W3C Server Timing): `queue;dur=3.1, run;dur=12.4`.

use std::time::Duration;

use http::HeaderMap;

use crate::traffic::gradient::Timing;

/// Of trailers, or of headers; None unless both the queue and the run are told.
pub fn timing(metadata: &HeaderMap) -> Option<Timing> {
    let text = metadata.get("server-timing")?.to_str().ok()?;
    Some(Timing {
        queued: duration(text, "queue")?,
        run: duration(text, "run")?,
    })
}

/// Milliseconds of the metric of this name.
fn duration(text: &str, name: &str) -> Option<Duration> {
    let metric = text.split(',').find_map(|metric| {
        let (found, parameters) = metric.split_once(';')?;
        (found.trim() == name).then_some(parameters)
    })?;
    let mut parameters = metric.split(';').map(str::trim);
    let milliseconds = parameters.find_map(|parameter| parameter.strip_prefix("dur="))?;
    let milliseconds: f64 = milliseconds.parse().ok()?;
    Duration::try_from_secs_f64(milliseconds / 1e3).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_times_or_none() {
        let read = |text: &'static str| {
            let mut metadata = HeaderMap::new();
            metadata.insert("server-timing", text.parse().unwrap());
            timing(&metadata).map(|timing| (timing.queued.as_micros(), timing.run.as_micros()))
        };
        assert_eq!(read("queue;dur=3.1, run;dur=12.45"), Some((3_100, 12_450)));
        let with_more = "cache;desc=x, run; desc=\"a\"; dur=2, queue;dur=0, total;dur=9";
        assert_eq!(read(with_more), Some((0, 2_000)));
        for text in [
            "",
            "queue;dur=1",
            "queue;dur=1, run",
            "queue;dur=1, run;dur=-1",
            "queue;dur=1, run;dur=NaN",
            "queue;dur=1, run;dur=1e400",
            "queue;dur=a, run;dur=1",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(timing(&HeaderMap::new()), None);
    }
}
