//! What is noted of one inference while it goes, for its span and for the metadata of its answer.
//!
//! `forebay-stage` says how far the request got, on answers and errors alike. Whoever calls on behalf of others
//! may repeat what is `queued` anywhere: it was surely not begun. `executing` means handed to a model, or that
//! nobody can tell any more; such a request is only repeated if running it twice does no harm.

use std::sync::Arc;
use std::time::Instant;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::inference::{InferError, Timing};
use crate::load::{self, Load, Presence};
use crate::served::Served;
use crate::telemetry::spans::ServerSpan;

/// Trailer or header with the stage.
pub const STAGE: HeaderName = HeaderName::from_static("forebay-stage");

/// Trailer or header with where its time went (W3C Server Timing): `queue;dur=3.1, run;dur=12.4`, in milliseconds.
const TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How far a request got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Refused, or left the queue, before any model began with it.
    #[default]
    Queued,
    /// A model began with it, or may have.
    Executing,
    /// The model answered.
    Done,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Queued => "queued",
            Stage::Executing => "executing",
            Stage::Done => "done",
        }
    }
}

impl From<&InferError> for Stage {
    fn from(error: &InferError) -> Stage {
        match error {
            InferError::QueueFull { .. }
            | InferError::DeadlineInQueue(_)
            | InferError::CannotMeetDeadline { .. }
            | InferError::Unavailable(_)
            | InferError::StepNotReady { .. } => Stage::Queued,
            // Values are looked at before the queue and by the engine.
            InferError::InvalidInput(_)
            | InferError::DeadlineWhileRunning(_)
            | InferError::AnswerTooLarge { .. }
            | InferError::Begun(_)
            | InferError::Engine { .. } => Stage::Executing,
        }
    }
}

/// One inference under way.
#[derive(Debug, Default)]
pub struct Progress {
    /// The request's own, if it is traced.
    pub span: Option<ServerSpan>,
    pub stage: Stage,
    /// Who was asked, once that is known.
    pub model: Option<Arc<Served>>,
    /// Once the model ran for it.
    pub timing: Option<Timing>,
    /// Its rows, which count until the answer was made.
    pub presence: Option<Presence>,
}

impl Progress {
    pub fn new(span: Option<ServerSpan>) -> Progress {
        Progress {
            span,
            stage: Stage::default(),
            model: None,
            timing: None,
            presence: None,
        }
    }

    /// Adds what callers want to know to an answer's trailers, or to its headers where there are none: the stage,
    /// how loaded the model is, and, where it ran, how long the request was queued and how long its batch took.
    pub fn tell(&self, load: &Load, metadata: &mut HeaderMap) {
        metadata.insert(STAGE, HeaderValue::from_static(self.stage.name()));
        let report = load.trailer(self.model.as_deref(), Instant::now());
        metadata.insert(load::TRAILER, report);
        if let Some(timing) = &self.timing
            && let Ok(value) = HeaderValue::from_str(&describe(timing))
        {
            metadata.insert(TIMING, value);
        }
    }
}

fn describe(timing: &Timing) -> String {
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let run = timing.input + timing.compute + timing.output;
    format!(
        "queue;dur={:.3}, run;dur={:.3}",
        milliseconds(timing.queue),
        milliseconds(run)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_never_left_the_queue_is_called_queued() {
        let model = || "mlp".to_owned();
        let queued = [
            InferError::QueueFull {
                model: model(),
                limit: 4,
            },
            InferError::DeadlineInQueue(model()),
            InferError::CannotMeetDeadline {
                model: model(),
                expected_wait: Duration::from_secs(1),
            },
            InferError::Unavailable(model()),
        ];
        for error in &queued {
            assert_eq!(Stage::from(error), Stage::Queued, "{error}");
        }
        let begun = [
            InferError::InvalidInput("index 7".to_owned()),
            InferError::DeadlineWhileRunning(model()),
            InferError::Engine {
                model: "mlp".into(),
                message: "broke".to_owned(),
            },
        ];
        for error in &begun {
            assert_eq!(Stage::from(error), Stage::Executing, "{error}");
        }
    }

    #[test]
    fn where_the_time_went_is_told_in_milliseconds() {
        let timing = Timing {
            queue: Duration::from_micros(3_100),
            input: Duration::from_micros(400),
            compute: Duration::from_millis(12),
            output: Duration::from_micros(50),
            batch_rows: 4,
        };
        let progress = Progress {
            timing: Some(timing),
            ..Progress::default()
        };
        let mut metadata = HeaderMap::new();
        progress.tell(&Load::default(), &mut metadata);
        assert_eq!(metadata["server-timing"], "queue;dur=3.100, run;dur=12.450");
        let mut metadata = HeaderMap::new();
        Progress::default().tell(&Load::default(), &mut metadata);
        assert!(!metadata.contains_key("server-timing"), "nothing ran");
    }

    #[test]
    fn the_stage_is_told_under_its_name() {
        for (stage, name) in [
            (Stage::Queued, "queued"),
            (Stage::Executing, "executing"),
            (Stage::Done, "done"),
        ] {
            let mut metadata = HeaderMap::new();
            let progress = Progress {
                stage,
                ..Progress::default()
            };
            progress.tell(&Load::default(), &mut metadata);
            assert_eq!(metadata["forebay-stage"], name);
        }
    }
}
