//! Requests as their callers see them.

use super::{Shown, counter, family, gauge, histogram};
use crate::measure::Reason;
use crate::telemetry::prometheus::{Page, Scale};

pub fn write(page: &mut Page, models: &[Shown<'_>]) {
    let name = "nv_inference_request_success";
    let header = counter(name, "Requests answered with tensors.");
    family(page, header, models, |model| {
        model.served.requests().answered().count()
    });
    let name = "nv_inference_request_failure";
    counter(name, "Requests without tensors, by reason.").write(page);
    for model in models {
        for reason in Reason::ALL {
            let failed = model.served.requests().failed(reason);
            page.sample(name, &model.labelled("reason", reason.name()), failed);
        }
    }
    let name = "nv_inference_request_duration_us";
    let help = "From arrival to answer. Cumulative microseconds of requests answered with tensors.";
    family(page, counter(name, help), models, |model| {
        model.served.requests().answered().sum()
    });
    let name = "nv_inference_first_response_histogram_ms";
    let help =
        "From arrival to the first answer, in milliseconds, of requests answered with tensors.";
    histogram(name, help).write(page);
    for model in models {
        let answered = model.served.requests().answered();
        page.histogram(name, &model.labels(), (answered, Scale::THOUSANDTHS));
    }
    let header = gauge(
        "forebay_requests_in_flight",
        "Requests that arrived and have not ended.",
    );
    family(page, header, models, |model| {
        model.served.requests().in_flight()
    });
}
