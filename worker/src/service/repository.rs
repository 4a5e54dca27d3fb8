//! Loading and unloading for clients: what their requests may say, and whom they are passed to.

use forebay_proto::inference::repository_index_response::ModelIndex;
use forebay_proto::inference::{
    self as wire, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
};

use super::{Fault, Front};
use crate::repository::{ModelState, is_model_name};

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
        if let Some(name) = request.parameters.keys().next() {
            return Err(Fault::Invalid(format!(
                "unknown parameter '{name}' of a load request"
            )));
        }
        self.control.load(&request.model_name).await?;
        Ok(RepositoryModelLoadResponse::default())
    }

    /// Answers when new requests for the model are refused; those before may still be running.
    pub async fn unload_model(
        &self,
        request: RepositoryModelUnloadRequest,
    ) -> Result<RepositoryModelUnloadResponse, Fault> {
        self.control.allowed()?;
        check(&request.repository_name, &request.model_name)?;
        if let Some(name) = request
            .parameters
            .keys()
            .find(|name| *name != "unload_dependents")
        {
            return Err(Fault::Invalid(format!(
                "unknown parameter '{name}' of an unload request, want 'unload_dependents'"
            )));
        }
        self.control.unload(&request.model_name).await?;
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
