//! What a name and a version lead to: everything that takes requests, whatever answers them.
//!
//! The services know models only through this: what they take, how they are to be asked, how they do. What a
//! kind alone has (the queue of a model, its provider) is reached by matching on the kind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::FutureExt;

use crate::batch::job::Answer;
use crate::cache::{Cache, CacheStatistics};
use crate::inference::{InferError, InferRequest, Signature};
use crate::measure::Requests;
use crate::model::farewell::Word;
use crate::model::{Model, Statistics};
use crate::pipeline::Ensemble;

/// Batches that the rows of one request may fill. It keeps its place in the queue until all are run, so this bounds
/// how long one caller can keep the others waiting.
const MAX_PARTS: usize = 1024;

/// One served version.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one for each served version, and always behind an Arc"
)]
pub enum Served {
    /// Run by an engine behind a queue of its own.
    Model(Model),
    /// Steps, most of them models, each behind its own queue.
    Ensemble(Ensemble),
}

impl Served {
    pub fn name(&self) -> &str {
        match self {
            Self::Model(model) => model.name(),
            Self::Ensemble(ensemble) => ensemble.name(),
        }
    }

    pub fn version(&self) -> u64 {
        match self {
            Self::Model(model) => model.version(),
            Self::Ensemble(ensemble) => ensemble.version(),
        }
    }

    pub fn signature(&self) -> &Signature {
        match self {
            Self::Model(model) => model.signature(),
            Self::Ensemble(ensemble) => ensemble.signature(),
        }
    }

    /// Requests that the response cache answered are counted among the rest.
    pub fn statistics(&self) -> Statistics {
        let mut statistics = match self {
            Self::Model(model) => model.statistics(),
            Self::Ensemble(ensemble) => ensemble.statistics(),
        };
        if let Some(cache) = self.cache_statistics() {
            let waiting = cache.counts.waiting as u64;
            let ended = cache.counts.hit.count + cache.counts.fail.count + cache.counts.cancelled;
            statistics.submitted += ended + waiting;
            statistics.success += cache.counts.hit;
            statistics.fail += cache.counts.fail;
            statistics.cancelled += cache.counts.cancelled;
        }
        statistics
    }

    /// The response cache, if its configuration asks for one.
    pub fn cache(&self) -> Option<&Arc<Cache>> {
        match self {
            Self::Model(model) => model.cache(),
            Self::Ensemble(ensemble) => ensemble.cache(),
        }
    }

    pub fn cache_statistics(&self) -> Option<CacheStatistics> {
        self.cache().map(|cache| cache.statistics())
    }

    /// What became of the requests.
    pub fn requests(&self) -> &Requests {
        match self {
            Self::Model(model) => model.requests(),
            Self::Ensemble(ensemble) => ensemble.requests(),
        }
    }

    /// Requests that can be run at the same time, batched or not.
    pub fn instances(&self) -> u32 {
        match self {
            Self::Model(model) => {
                let devices = u32::try_from(model.config().devices.len()).unwrap_or(1);
                model.config().instances.saturating_mul(devices.max(1))
            }
            // Its models have theirs; it has no queue of its own before which anything could wait.
            Self::Ensemble(_) => 1,
        }
    }

    /// Time that a request may take when its caller names none.
    pub fn default_timeout(&self) -> Option<Duration> {
        match self {
            Self::Model(model) => model.config().default_timeout,
            Self::Ensemble(ensemble) => ensemble.config().default_timeout,
        }
    }

    /// Rows of one batch at most. `None`: it does not batch, or batching is turned off, and a request may
    /// have any number.
    pub fn row_limit(&self) -> Option<usize> {
        let limit = match self {
            Self::Model(model) => model.config().max_batch_size,
            Self::Ensemble(ensemble) => return ensemble.row_limit(),
        };
        let batches = self.signature().batched && limit > 1;
        batches.then(|| usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Rows of one request at most: what is more than a batch is run in parts. `None` as for `row_limit`, but an
    /// ensemble with a built-in step has a limit in any case.
    pub fn request_limit(&self) -> Option<usize> {
        match self {
            Self::Model(model) if model.config().dynamic_batching => {
                Some(self.row_limit()?.saturating_mul(MAX_PARTS))
            }
            Self::Model(_) => self.row_limit(),
            Self::Ensemble(ensemble) => ensemble.request_limit(),
        }
    }

    /// Where it runs, if it is a model that an engine runs.
    pub fn provider(&self) -> Option<&str> {
        self.model().map(Model::provider)
    }

    /// Why it does not run where the configuration would rather have it.
    pub fn provider_note(&self) -> Option<&str> {
        self.model().and_then(Model::provider_note)
    }

    /// The ensemble, if it is one.
    pub fn ensemble(&self) -> Option<&Ensemble> {
        match self {
            Self::Model(_) => None,
            Self::Ensemble(ensemble) => Some(ensemble),
        }
    }

    /// What keeps it from answering at the moment, although it is loaded.
    pub fn obstacle(&self) -> Option<String> {
        self.ensemble().and_then(Ensemble::obstacle)
    }

    /// The model, if it is one that an engine runs.
    pub fn model(&self) -> Option<&Model> {
        match self {
            Self::Model(model) => Some(model),
            Self::Ensemble(_) => None,
        }
    }

    /// Answers a request that was checked against the signature. Dropping the future takes the request back,
    /// if it was not started yet.
    ///
    /// A deadline is honoured while the request waits, and noticed when somebody looks at the queue: who must
    /// answer in time also watches the clock.
    ///
    /// # Errors
    /// As `Model::submit`, and what becomes of the request later.
    pub async fn infer(self: &Arc<Self>, request: InferRequest, now: Instant) -> Answer {
        let Some(cache) = self.cache() else {
            return self.run(request, now).await;
        };
        let run = |request| {
            let served = Arc::clone(self);
            async move { served.run(request, now).await }.boxed()
        };
        cache.answer(request, now, run).await
    }

    /// The same past the cache.
    async fn run(&self, request: InferRequest, now: Instant) -> Answer {
        match self {
            Self::Model(model) => {
                let reshaped = model.reshapes().changes_outputs();
                let wanted = reshaped.then(|| request.outputs.clone());
                let answer = model.submit(request, now)?.await;
                let mut answer = answer.unwrap_or_else(|_| {
                    Err(InferError::Engine {
                        model: model.name().into(),
                        message: "it dropped the request".to_owned(),
                    })
                });
                if let (Some(wanted), Ok(response)) = (wanted, &mut answer) {
                    for (index, tensor) in wanted.into_iter().zip(&mut response.outputs) {
                        model.reshapes().output(index, tensor);
                    }
                }
                answer
            }
            Self::Ensemble(ensemble) => ensemble.infer(request, now).await,
        }
    }

    /// Whoever lets go of it last says so, and does not wait for its threads.
    pub fn at_end(&self, word: Word) {
        match self {
            Self::Model(model) => model.at_end(word),
            Self::Ensemble(ensemble) => ensemble.at_end(word),
        }
    }

    /// Refuses new requests, answers those that wait, and returns when nothing runs any more. Blocks.
    pub fn shutdown(&self) {
        match self {
            Self::Model(model) => model.shutdown(),
            Self::Ensemble(ensemble) => ensemble.shutdown(),
        }
    }
}

impl From<Model> for Served {
    fn from(model: Model) -> Self {
        Self::Model(model)
    }
}
