//! Loading and unloading for clients: what their requests may say, and whom they are passed to.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use forebay_proto::inference::model_repository_parameter::ParameterChoice;
use forebay_proto::inference::repository_index_response::ModelIndex;
use forebay_proto::inference::{
    self as wire, ModelRepositoryParameter, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
};

use super::{Fault, Front};
use crate::repository::{Given, ModelState, is_file_path, is_model_name};

impl Front {
    /// A model that is in the repository and was never loaded has neither version nor state.
    pub async fn repository_index(&self, only_ready: bool) -> wire::RepositoryIndexResponse {
        let entries = self.registry.index();
        let mut names = self.control.names().await;
        for entry in &entries {
            names.remove(&entry.name);
        }
        let entries = entries
            .into_iter()
            .filter(|entry| !only_ready || entry.state == ModelState::Ready);
        let mut models: Vec<ModelIndex> = entries
            .map(|entry| ModelIndex {
                name: entry.name,
                version: entry
                    .version
                    .map_or_else(String::new, |version| version.to_string()),
                state: state(entry.state).to_owned(),
                reason: entry.reason,
            })
            .collect();
        if !only_ready {
            models.extend(names.into_iter().map(|name| ModelIndex {
                name,
                ..ModelIndex::default()
            }));
            models.sort_by(|a, b| a.name.cmp(&b.name));
        }
        wire::RepositoryIndexResponse { models }
    }

    /// Answers when the model is ready, or cannot be.
    pub async fn load_model(
        &self,
        request: RepositoryModelLoadRequest,
    ) -> Result<RepositoryModelLoadResponse, Fault> {
        self.control.allowed()?;
        check(&request.repository_name, &request.model_name)?;
        let given = given(request.parameters)?;
        self.control.load(&request.model_name, given).await?;
        Ok(RepositoryModelLoadResponse::default())
    }

    /// Answers when new requests for the model are refused; those before may still be running.
    pub async fn unload_model(
        &self,
        request: RepositoryModelUnloadRequest,
    ) -> Result<RepositoryModelUnloadResponse, Fault> {
        self.control.allowed()?;
        check(&request.repository_name, &request.model_name)?;
        let dependents = unload_dependents(request.parameters)?;
        self.control.unload(&request.model_name, dependents).await?;
        Ok(RepositoryModelUnloadResponse::default())
    }
}

/// A state as Triton names it.
fn state(state: ModelState) -> &'static str {
    match state {
        ModelState::Loading => "LOADING",
        ModelState::Ready => "READY",
        ModelState::Unloading => "UNLOADING",
        ModelState::Unavailable => "UNAVAILABLE",
    }
}

/// What the parameters of a load request say. Over REST the content of files is base64.
fn given(parameters: BTreeMap<String, ModelRepositoryParameter>) -> Result<Given, Fault> {
    let mut given = Given::default();
    for (name, parameter) in parameters {
        let refused = |wanted: &str| Fault::Invalid(format!("parameter '{name}' must be {wanted}"));
        match (name.strip_prefix("file:"), parameter.parameter_choice) {
            (None, Some(ParameterChoice::StringParam(config))) if name == "config" => {
                given.config = Some(config);
            }
            (None, _) if name == "config" => {
                return Err(refused("a string, a model configuration as JSON"));
            }
            (None, _) => {
                return Err(Fault::Invalid(format!(
                    "unknown parameter '{name}' of a load request, want 'config' or 'file:<version>/<file>'"
                )));
            }
            (Some(path), _) if !is_file_path(path) => {
                return Err(refused(
                    "the content of a file below the model's folder, such as 'file:1/model.onnx'",
                ));
            }
            (Some(path), Some(ParameterChoice::BytesParam(content))) => {
                given.files.insert(path.to_owned(), content.into());
            }
            (Some(path), Some(ParameterChoice::StringParam(content))) => {
                let content = BASE64_STANDARD.decode(content);
                let content = content.map_err(|error| {
                    Fault::Invalid(format!("parameter '{name}' is not base64: {error}"))
                })?;
                given.files.insert(path.to_owned(), content.into());
            }
            (Some(_), _) => return Err(refused("bytes, or base64 as a string")),
        }
    }
    if given.config.is_none() && !given.files.is_empty() {
        return Err(Fault::Invalid(
            "parameters that give files need parameter 'config' beside them, which may be '{}'"
                .to_owned(),
        ));
    }
    Ok(given)
}

/// Whether the models of an ensemble are to be unloaded with it.
fn unload_dependents(
    parameters: BTreeMap<String, ModelRepositoryParameter>,
) -> Result<bool, Fault> {
    let mut dependents = false;
    for (name, parameter) in parameters {
        if name != "unload_dependents" {
            return Err(Fault::Invalid(format!(
                "unknown parameter '{name}' of an unload request, want 'unload_dependents'"
            )));
        }
        let Some(ParameterChoice::BoolParam(said)) = parameter.parameter_choice else {
            return Err(Fault::Invalid(format!(
                "parameter '{name}' must be a boolean"
            )));
        };
        dependents = said;
    }
    Ok(dependents)
}

fn check(repository: &str, model: &str) -> Result<(), Fault> {
    if !repository.is_empty() {
        return Err(Fault::Invalid(format!(
            "repository '{repository}' is not known: there is but one, it has no name"
        )));
    }
    if !is_model_name(model) {
        return Err(Fault::Invalid(format!(
            "'{}' cannot be the name of a model, which is that of its folder in the repository",
            model.escape_debug()
        )));
    }
    Ok(())
}
