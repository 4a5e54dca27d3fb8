//! Runs the `model_warmup` of a model's own configuration on each of its instances, when they are made.
//!
//! They come before the worker's own warm-up, which makes up its inputs. One that fails fails the model, as in
//! Triton: whoever wrote it wants to know.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::warmup;
use crate::engine::{Engine, LoadedModel};
use crate::inference::InferRequest;
use crate::repository::pbtxt::{Content, Reshapes, Understood};

/// Of a model's folder, with the files of samples.
const FOLDER: &str = "warmup";

/// Runs the samples on the instance that is there, and lets the factory do so with each further one.
///
/// # Errors
/// A sample does not fit the model, its file cannot be read, or the model cannot run it. One line.
pub(super) fn run(
    folder: &Path,
    said: &Understood,
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
    all(&requests, &mut *loaded.first)?;
    let factory = Arc::clone(&loaded.factory);
    loaded.factory = Arc::new(move |number| {
        let mut engine = factory(number)?;
        all(&requests, &mut *engine)?;
        Ok(engine)
    });
    Ok(())
}

fn all(requests: &[(String, InferRequest, u32)], engine: &mut dyn Engine) -> Result<(), String> {
    for (name, request, count) in requests {
        for _ in 0..*count {
            warmup::run_alone(engine, request)
                .map_err(|error| format!("failed to run model_warmup '{name}': {error}"))?;
        }
    }
    Ok(())
}
