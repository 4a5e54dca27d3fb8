//! Loading and unloading for clients: what their requests may say, and whom they are passed to.

use forebay_proto::inference::{
    RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
};

use super::{Fault, Front};
use crate::repository::is_model_name;

impl Front {
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
