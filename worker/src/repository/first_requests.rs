//! Runs the `model_warmup` of a model's own configuration on each of its instances, when they are made.
//!
//! They come before the worker's own warm-up, which makes up its inputs. One that fails fails the model, as in
//! Triton: whoever wrote it wants to know. Repetitions end when their time is over, as others wait to be loaded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::batch::warmup;
use crate::engine::{Engine, LoadedModel};
use crate::inference::InferRequest;
use crate::repository::pbtxt::{Content, Reshapes, Understood};

/// Of a model's folder, with the files of samples.
const FOLDER: &str = "warmup";
/// For all instances of a model together; what runs when it is over is not interrupted.
const LONGEST: Duration = Duration::from_secs(300);

/// Runs the samples on the instance that is there, and lets the factory do so with each further one.
///
/// # Errors
/// A sample does not fit the model, its file cannot be read, or the model cannot run it. One line.
pub(super) fn run(
    folder: &Path,
    said: &Understood,
    instances: usize,
    loaded: &mut LoadedModel,
) -> Result<(), String> {
    if said.warm_up.is_empty() {
        return Ok(());
    }
    let mut files = BTreeMap::new();
    for input in said.warm_up.iter().flat_map(|sample| &sample.inputs) {
        if let Content::File(name) = &input.content {
            let path = folder.join(FOLDER).join(name);
            let content = std::fs::read(&path).map_err(|error| {
                format!(
                    "cannot read the model_warmup file '{}': {error}",
                    path.display()
                )
            })?;
            files.insert(name.clone(), Bytes::from(content));
        }
    }
    let (reshapes, _) = Reshapes::new(&said.declared, &loaded.signature);
    let mut requests = Vec::new();
    for sample in &said.warm_up {
        let request = sample.request(&loaded.signature, &reshapes, &files)?;
        requests.push((sample.name.clone(), request, sample.count));
    }
    let share = LONGEST / u32::try_from(instances.max(1)).unwrap_or(u32::MAX);
    all(&requests, &mut *loaded.first, Instant::now() + share)?;
    let factory = Arc::clone(&loaded.factory);
    loaded.factory = Arc::new(move |number| {
        let mut engine = factory(number)?;
        all(&requests, &mut *engine, Instant::now() + share)?;
        Ok(engine)
    });
    Ok(())
}

/// No run begins after `deadline`.
fn all(
    requests: &[(String, InferRequest, u32)],
    engine: &mut dyn Engine,
    deadline: Instant,
) -> Result<(), String> {
    for (name, request, count) in requests {
        for done in 0..*count {
            if Instant::now() >= deadline {
                tracing::warn!(
                    "model_warmup '{name}' ends after {done} of {count} runs, as its time is over"
                );
                return Ok(());
            }
            warmup::run_alone(engine, request)
                .map_err(|error| format!("failed to run model_warmup '{name}': {error}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_proto::tensor::DataType;

    use crate::engine::fake::Script;
    use crate::inference::Tensor;

    #[test]
    fn no_run_begins_when_the_time_is_over() {
        let script = Arc::new(Script::default());
        let mut engine = script.factory()(0).unwrap();
        let tensor = Tensor {
            datatype: DataType::Fp32,
            shape: vec![1, 2],
            data: Bytes::from_static(&[0; 8]),
        };
        let request = InferRequest {
            inputs: vec![(0, tensor)],
            outputs: vec![0],
            rows: 1,
            deadline: None,
            priority: 0,
            trace: None,
        };
        let requests = [("zeros".to_owned(), request, 3)];
        let now = Instant::now();
        all(&requests, &mut *engine, now + LONGEST).unwrap();
        assert_eq!(*script.runs.lock(), [1, 1, 1]);
        all(&requests, &mut *engine, now).unwrap();
        assert_eq!(script.runs.lock().len(), 3);
    }
}
