//! How one model is to be served: what the worker's configuration says over the `config.pbtxt` in the model's
//! folder, if there is one; or, over both, what a client said that had it loaded.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use forebay_config::worker::{Ensemble, Model, Worker};

use crate::repository::layout::MODEL_FILE;
use crate::repository::pbtxt::{self, Understood};
use crate::repository::source::Source;

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub config: Model,
    /// What the model's folder says; what of it can be is in `config`.
    pub said: Option<Understood>,
}

/// No more of it than is needed to see that it is too long.
fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let most = pbtxt::LONGEST as u64 + 1;
    File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

impl Settings {
    /// # Errors
    /// The file cannot be read or is wrong. One line.
    pub fn read(worker: &Worker, source: &Source, name: &str) -> Result<Self, String> {
        if let Some(config) = &source.config {
            let said = pbtxt::read_json(config, name, &worker.defaults)?;
            return Ok(Self {
                config: said.overrides.over(worker.model(name)),
                said: Some(said),
            });
        }
        let path = source.repository.join(name).join(pbtxt::FILE);
        let text = match text_of(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self {
                    config: worker.model(name),
                    said: None,
                });
            }
            Err(error) => return Err(format!("{}: {error}", pbtxt::FILE)),
        };
        let mut said = pbtxt::read(&text, name, &worker.defaults)?;
        if source.kept.is_some() {
            let requested = said.requested();
            said = requested.map_err(|reason| format!("{}: {reason}", pbtxt::FILE))?;
        }
        Ok(Self {
            config: worker.model_over(name, said.overrides.over(worker.defaults.clone())),
            said: Some(said),
        })
    }

    /// The ensemble that the model's folder describes, if it does.
    pub fn ensemble(&self) -> Option<Ensemble> {
        let said = self.said.as_ref()?;
        Some(Ensemble {
            default_timeout: self.config.default_timeout,
            response_cache_bytes: self.config.response_cache_bytes,
            ..said.ensemble.clone()?
        })
    }

    /// What is said and not honoured.
    pub fn notes(&self) -> &[String] {
        self.said.as_ref().map_or(&[], |said| &said.notes)
    }

    /// The name of the model's file in each version.
    pub fn model_file(&self) -> &str {
        let said = self.said.as_ref();
        said.and_then(|said| said.model_file.as_deref())
            .unwrap_or(MODEL_FILE)
    }
}
