//! Bodies of the model repository calls to messages. An empty body is a request without parameters.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::RestError;
use super::parameters::Parameter;
use crate::inference::infer_parameter::ParameterChoice;
use crate::inference::model_repository_parameter::ParameterChoice as RepositoryChoice;
use crate::inference::{
    ModelRepositoryParameter, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
};

#[derive(Default, Deserialize)]
struct IndexBody {
    #[serde(default)]
    ready: bool,
}

#[derive(Default, Deserialize)]
struct ModelBody {
    #[serde(default)]
    parameters: Option<BTreeMap<String, Parameter>>,
}

/// Reads the body of an index request.
///
/// # Errors
/// A body that is neither empty nor such a request.
pub fn index_request(body: &[u8]) -> Result<RepositoryIndexRequest, RestError> {
    let IndexBody { ready } = read(body, "an index request")?;
    Ok(RepositoryIndexRequest {
        repository_name: String::new(),
        ready,
    })
}

/// Reads the body of a request to load a model. File contents among the parameters stay base64 text.
///
/// # Errors
/// A body that is neither empty nor such a request.
pub fn load_request(model: &str, body: &[u8]) -> Result<RepositoryModelLoadRequest, RestError> {
    let body: ModelBody = read(body, "a load request")?;
    Ok(RepositoryModelLoadRequest {
        repository_name: String::new(),
        model_name: model.to_owned(),
        parameters: repository_parameters(body)?,
    })
}

/// Reads the body of a request to unload a model.
///
/// # Errors
/// A body that is neither empty nor such a request.
pub fn unload_request(model: &str, body: &[u8]) -> Result<RepositoryModelUnloadRequest, RestError> {
    let body: ModelBody = read(body, "an unload request")?;
    Ok(RepositoryModelUnloadRequest {
        repository_name: String::new(),
        model_name: model.to_owned(),
        parameters: repository_parameters(body)?,
    })
}

fn read<'a, T: Default + Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<T, RestError> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body)
        .map_err(|error| RestError::invalid(format!("body is not {what}: {error}")))
}

fn repository_parameters(
    body: ModelBody,
) -> Result<BTreeMap<String, ModelRepositoryParameter>, RestError> {
    let parameters = body.parameters.unwrap_or_default().into_iter();
    let parameters = parameters.map(|(name, Parameter(choice))| {
        let choice = match choice {
            ParameterChoice::BoolParam(value) => RepositoryChoice::BoolParam(value),
            ParameterChoice::Int64Param(value) => RepositoryChoice::Int64Param(value),
            ParameterChoice::StringParam(value) => RepositoryChoice::StringParam(value),
            ParameterChoice::DoubleParam(value) => return Err(refused(&name, &value)),
            ParameterChoice::Uint64Param(value) => return Err(refused(&name, &value)),
        };
        let parameter = ModelRepositoryParameter {
            parameter_choice: Some(choice),
        };
        Ok((name, parameter))
    });
    parameters.collect()
}

fn refused(name: &str, value: &dyn std::fmt::Display) -> RestError {
    RestError::invalid(format!(
        "parameter '{name}' is {value}, want a boolean, a 64-bit integer or a string"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_bodies_are_requests() {
        for body in [&b""[..], b" \n", b"{}"] {
            assert!(!index_request(body).unwrap().ready);
            assert_eq!(load_request("m", body).unwrap().model_name, "m");
            assert!(unload_request("m", body).unwrap().parameters.is_empty());
        }
    }

    #[test]
    fn parameters_pass_through() {
        assert!(index_request(br#"{"ready":true}"#).unwrap().ready);
        let load = load_request(
            "m",
            br#"{"parameters":{"config":"{}","n":4,"file:1/m":"AA=="}}"#,
        );
        let parameters = load.unwrap().parameters;
        assert_eq!(
            parameters["n"].parameter_choice,
            Some(RepositoryChoice::Int64Param(4))
        );
        assert_eq!(parameters.len(), 3);
        let unload = unload_request("m", br#"{"parameters":{"unload_dependents":false}}"#);
        assert_eq!(
            unload.unwrap().parameters["unload_dependents"].parameter_choice,
            Some(RepositoryChoice::BoolParam(false))
        );
    }

    #[test]
    fn other_bodies_are_refused() {
        for body in [
            &b"["[..],
            b"5",
            br#"{"ready":1}"#,
            br#"{"parameters":[1]}"#,
            br#"{"parameters":{"a":0.5}}"#,
            br#"{"parameters":{"a":18446744073709551615}}"#,
            b"\xff",
        ] {
            let index = index_request(body).is_err();
            let load = load_request("m", body).is_err();
            let unload = unload_request("m", body).is_err();
            assert!(index || load && unload, "{body:?}");
        }
    }
}
