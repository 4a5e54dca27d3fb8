//! `xds.service.orca.v3.OpenRcaService`: load reports over a stream, for balancers that do not want to wait for
//! answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_proto::orca::OrcaLoadReportRequest;
use futures::stream::{BoxStream, StreamExt};
use tokio::time::{Interval, MissedTickBehavior};

use super::{Fault, Front, frame};
use crate::server::draining;

/// Of callers who name none.
const USUAL_INTERVAL: Duration = Duration::from_secs(10);
/// A shorter one is lengthened.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// A framed report at once and one every interval, until the process drains.
pub fn reports(
    front: Arc<Front>,
    request: &OrcaLoadReportRequest,
) -> BoxStream<'static, Result<Bytes, Fault>> {
    let mut ticks = tokio::time::interval(interval(request));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reports = futures::stream::unfold((front, ticks), |(front, mut ticks)| async {
        let report = next(&front, &mut ticks).await?;
        Some((report, (front, ticks)))
    });
    reports.boxed()
}

async fn next(front: &Front, ticks: &mut Interval) -> Option<Result<Bytes, Fault>> {
    let mut drain = front.drain.clone();
    tokio::select! {
        biased;
        () = draining(&mut drain) => None,
        _ = ticks.tick() => {
            let report = front.load.full(&front.registry);
            Some(frame::frame(&report, usize::MAX))
        }
    }
}

fn interval(request: &OrcaLoadReportRequest) -> Duration {
    let asked = request.report_interval.as_ref();
    let asked = asked.and_then(|asked| Duration::try_from(*asked).ok());
    match asked {
        None | Some(Duration::ZERO) => USUAL_INTERVAL,
        Some(asked) => asked.max(SHORTEST_INTERVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_the_callers_within_reason() {
        let request = |seconds, nanos| OrcaLoadReportRequest {
            report_interval: Some(prost_types::Duration { seconds, nanos }),
            ..OrcaLoadReportRequest::default()
        };
        let cases = [
            (OrcaLoadReportRequest::default(), USUAL_INTERVAL),
            (request(0, 0), USUAL_INTERVAL),
            (request(-5, 0), USUAL_INTERVAL),
            (request(0, 1), SHORTEST_INTERVAL),
            (request(0, 250_000_000), Duration::from_millis(250)),
            (request(3_600, 0), Duration::from_secs(3_600)),
        ];
        for (request, want) in cases {
            assert_eq!(interval(&request), want, "{request:?}");
        }
    }
}
