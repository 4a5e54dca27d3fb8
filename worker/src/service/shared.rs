//! Shared memory as requests use it: which inputs and outputs lie in regions, and the calls about regions.
//!
//! Inputs are copied out of their regions before their bytes are checked, so that what is checked is what the
//! model gets, whatever the client does to its memory meanwhile. What the copies may take is known before the
//! first of them: each input is one of the model's, comes once, and all together have no more bytes than a message.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::model_infer_request::InferInputTensor;
use forebay_proto::inference::system_shared_memory_status_response::RegionStatus;
use forebay_proto::inference::{
    CudaSharedMemoryStatusResponse, InferParameter, ModelInferRequest,
    SystemSharedMemoryRegisterRequest, SystemSharedMemoryRegisterResponse,
    SystemSharedMemoryStatusResponse, SystemSharedMemoryUnregisterResponse,
};

use super::{Fault, Front, infer};
use crate::inference::Signature;
use crate::shared_memory::{Place, RegionError, Regions};

type Parameters = BTreeMap<String, InferParameter>;

pub const REGION: &str = "shared_memory_region";
pub const OFFSET: &str = "shared_memory_offset";
pub const BYTE_SIZE: &str = "shared_memory_byte_size";

/// Copying so many bytes takes a tenth of a millisecond.
const WORTH_A_THREAD: usize = 1 << 20;

/// What of a request lies in shared memory, by the positions of its inputs and requested outputs. Both are empty
/// when nothing does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shared {
    pub inputs: Vec<Option<Bytes>>,
    pub outputs: Vec<Option<Place>>,
}

/// What may be copied for a request.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    pub model: &'a str,
    pub signature: &'a Signature,
    /// Bytes of all inputs together.
    pub limit: usize,
}

impl Shared {
    /// Finds the regions that `message` names, and copies its inputs out of them.
    pub async fn of(
        message: &ModelInferRequest,
        regions: &Regions,
        bounds: Bounds<'_>,
    ) -> Result<Shared, Fault> {
        let mut shared = Shared::default();
        let inputs = &message.inputs;
        if inputs.iter().any(|input| is_shared(&input.parameters)) {
            infer::check_inputs(bounds.model, bounds.signature, inputs)?;
            for place in places(inputs, regions, bounds.limit)? {
                shared.inputs.push(match place {
                    Some(place) => Some(copy(place.byte_size(), move || place.read()).await?),
                    None => None,
                });
            }
        }
        if message
            .outputs
            .iter()
            .any(|output| is_shared(&output.parameters))
        {
            let places = message.outputs.iter();
            let places =
                places.map(|output| place("output", &output.name, &output.parameters, regions));
            shared.outputs = places.collect::<Result<_, _>>()?;
        }
        Ok(shared)
    }
}

/// Where the inputs lie, if all that do in shared memory have at most `limit` bytes together.
fn places(
    inputs: &[InferInputTensor],
    regions: &Regions,
    limit: usize,
) -> Result<Vec<Option<Place>>, Fault> {
    let mut bytes = 0usize;
    let places = inputs.iter().map(|input| {
        let place = place("input", &input.name, &input.parameters, regions)?;
        let size = place.as_ref().map_or(0, Place::byte_size);
        bytes = bytes.saturating_add(size);
        if bytes > limit {
            return Err(Fault::TooLarge(format!(
                "inputs of {bytes} bytes in shared memory, up to '{}' of {size} bytes, exceed the limit of {limit} \
                 bytes",
                input.name
            )));
        }
        Ok(place)
    });
    places.collect()
}

/// Copies an output to where it goes.
pub async fn deliver(name: &str, data: Bytes, place: Place) -> Result<(), Fault> {
    if data.len() > place.byte_size() {
        return Err(Fault::Invalid(format!(
            "shared memory size specified with the request for output '{name}' ({} bytes) should be at least {} \
             bytes to hold the results",
            place.byte_size(),
            data.len()
        )));
    }
    copy(data.len(), move || place.write(&data)).await
}

/// Large copies are made where they hold up no other request.
async fn copy<T: Send + 'static>(
    byte_size: usize,
    copy: impl FnOnce() -> Result<T, RegionError> + Send + 'static,
) -> Result<T, Fault> {
    if byte_size < WORTH_A_THREAD {
        return Ok(copy()?);
    }
    let copied = tokio::task::spawn_blocking(copy).await;
    Ok(copied.map_err(|error| {
        Fault::Internal(format!("shared memory could not be copied: {error}"))
    })??)
}

pub fn is_shared(parameters: &Parameters) -> bool {
    parameters.contains_key(REGION)
}

/// Where in shared memory a tensor lies; None: it travels in the message.
fn place(
    direction: &str,
    name: &str,
    parameters: &Parameters,
    regions: &Regions,
) -> Result<Option<Place>, Fault> {
    let Some(region) = parameters.get(REGION) else {
        return Ok(None);
    };
    let Some(ParameterChoice::StringParam(region)) = &region.parameter_choice else {
        return Err(wrong_type(REGION, "string_param"));
    };
    let byte_size = number(parameters, BYTE_SIZE)?.ok_or_else(|| {
        Fault::Invalid(format!(
            "'{BYTE_SIZE}' must be specified along with '{REGION}' for {direction} '{name}'"
        ))
    })?;
    let offset = number(parameters, OFFSET)?.unwrap_or(0);
    Ok(Some(regions.place(region, offset, byte_size)?))
}

fn number(parameters: &Parameters, name: &str) -> Result<Option<u64>, Fault> {
    let Some(parameter) = parameters.get(name) else {
        return Ok(None);
    };
    match parameter.parameter_choice {
        Some(ParameterChoice::Int64Param(number)) => {
            u64::try_from(number).map(Some).map_err(|_| {
                Fault::Invalid(format!(
                    "invalid value for '{name}' parameter, expected 0 or more, got {number}"
                ))
            })
        }
        Some(ParameterChoice::Uint64Param(number)) => Ok(Some(number)),
        _ => Err(wrong_type(name, "int64_param")),
    }
}

fn wrong_type(name: &str, wanted: &str) -> Fault {
    Fault::Invalid(format!(
        "invalid value type for '{name}' parameter, expected {wanted}"
    ))
}

impl From<RegionError> for Fault {
    fn from(error: RegionError) -> Fault {
        let text = error.to_string();
        match error {
            RegionError::Unknown(_) => Fault::NotFound(text),
            RegionError::Taken(_) => Fault::AlreadyExists(text),
            RegionError::TooMany
            | RegionError::Name(_)
            | RegionError::Key(_)
            | RegionError::Open { .. }
            | RegionError::Size { .. }
            | RegionError::Outside { .. }
            | RegionError::Gone { .. } => Fault::Invalid(text),
        }
    }
}

impl Front {
    /// An empty name stands for every region.
    pub fn system_memory(&self, name: &str) -> Result<SystemSharedMemoryStatusResponse, Fault> {
        let regions = self.regions.list(name).map_err(|error| match error {
            RegionError::Unknown(name) => Fault::NotFound(format!(
                "Unable to find system shared memory region: '{name}'"
            )),
            error => error.into(),
        })?;
        let regions = regions.into_iter().map(|(name, region)| {
            let status = RegionStatus {
                name: name.clone(),
                key: region.key.clone(),
                offset: region.offset,
                byte_size: region.byte_size,
            };
            (name, status)
        });
        Ok(SystemSharedMemoryStatusResponse {
            regions: regions.collect(),
        })
    }

    pub fn register_system_memory(
        &self,
        request: &SystemSharedMemoryRegisterRequest,
    ) -> Result<SystemSharedMemoryRegisterResponse, Fault> {
        let SystemSharedMemoryRegisterRequest {
            name,
            key,
            offset,
            byte_size,
        } = request;
        self.regions.register(name, key, *offset, *byte_size)?;
        Ok(SystemSharedMemoryRegisterResponse {})
    }

    /// An empty name stands for every region.
    pub fn unregister_system_memory(&self, name: &str) -> SystemSharedMemoryUnregisterResponse {
        self.regions.unregister(name);
        SystemSharedMemoryUnregisterResponse {}
    }

    /// There is never a region of CUDA memory. Asking for all of them is no error, as clients of Triton begin
    /// with clearing all regions of both kinds.
    pub fn cuda_memory(&self, name: &str) -> Result<CudaSharedMemoryStatusResponse, Fault> {
        match name {
            "" => Ok(CudaSharedMemoryStatusResponse::default()),
            name => Err(Fault::NotFound(format!(
                "Unable to find cuda shared memory region: '{name}'"
            ))),
        }
    }
}

/// What registering CUDA memory is answered with.
pub fn no_cuda(name: &str) -> Fault {
    Fault::Unimplemented(format!(
        "failed to register CUDA shared memory region: '{name}', this server takes tensors from system memory only"
    ))
}

#[cfg(test)]
mod tests {
    use forebay_proto::tensor::DataType;

    use super::*;
    use crate::inference::TensorSpec;
    use crate::shared_memory::tests::Object;

    fn parameter(choice: ParameterChoice) -> InferParameter {
        InferParameter {
            parameter_choice: Some(choice),
        }
    }

    fn at(region: &str, offset: i64, byte_size: i64) -> Parameters {
        [
            (
                REGION.to_owned(),
                parameter(ParameterChoice::StringParam(region.to_owned())),
            ),
            (
                OFFSET.to_owned(),
                parameter(ParameterChoice::Int64Param(offset)),
            ),
            (
                BYTE_SIZE.to_owned(),
                parameter(ParameterChoice::Int64Param(byte_size)),
            ),
        ]
        .into()
    }

    fn request(parameters: Parameters) -> ModelInferRequest {
        named(&[("w", Parameters::new()), ("x", parameters)])
    }

    fn named(inputs: &[(&str, Parameters)]) -> ModelInferRequest {
        let input = |(name, parameters): &(&str, Parameters)| InferInputTensor {
            name: (*name).to_owned(),
            parameters: parameters.clone(),
            ..InferInputTensor::default()
        };
        ModelInferRequest {
            inputs: inputs.iter().map(input).collect(),
            ..ModelInferRequest::default()
        }
    }

    async fn shared(
        message: &ModelInferRequest,
        regions: &Regions,
        limit: usize,
    ) -> Result<Shared, Fault> {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            datatype: DataType::Uint8,
            shape: None,
            optional: false,
        };
        let signature = Signature {
            inputs: vec![spec("w"), spec("x")],
            outputs: Vec::new(),
            batched: false,
        };
        let bounds = Bounds {
            model: "mlp",
            signature: &signature,
            limit,
        };
        Shared::of(message, regions, bounds).await
    }

    #[tokio::test]
    async fn inputs_are_fetched_by_position() {
        let object = Object::of(b"01234567");
        let regions = Regions::default();
        regions.register("r", &object.key, 0, 8).unwrap();
        let found = shared(&request(at("r", 2, 4)), &regions, 4).await.unwrap();
        assert_eq!(found.inputs, [None, Some(Bytes::from_static(b"2345"))]);
        let too_large = shared(&request(at("r", 2, 4)), &regions, 3).await;
        assert!(
            matches!(too_large, Err(Fault::TooLarge(_))),
            "{too_large:?}"
        );
        let nothing = shared(&request(Parameters::new()), &regions, 0).await;
        assert_eq!(nothing.unwrap(), Shared::default());
    }

    #[tokio::test]
    async fn the_limit_is_for_all_inputs_together() {
        let object = Object::of(b"01234567");
        let regions = Regions::default();
        regions.register("r", &object.key, 0, 8).unwrap();
        let both = named(&[("x", at("r", 0, 8)), ("w", at("r", 0, 8))]);
        assert!(shared(&both, &regions, 16).await.is_ok());
        let fault = shared(&both, &regions, 15).await.unwrap_err();
        assert!(
            matches!(&fault, Fault::TooLarge(text) if text.contains("inputs of 16 bytes")),
            "{fault}"
        );
    }

    #[tokio::test]
    async fn only_inputs_of_the_model_are_looked_for_and_each_once() {
        let regions = Regions::default();
        for (names, text) in [
            (&["v"][..], "unexpected inference input 'v' for model 'mlp'"),
            (&["w", "x", "x"], "input 'x' already exists in request"),
        ] {
            let inputs = names.iter().map(|name| (*name, at("nowhere", 0, 8)));
            let message = named(&inputs.collect::<Vec<_>>());
            let fault = shared(&message, &regions, 100).await.unwrap_err();
            assert_eq!(fault.to_string(), text);
        }
    }

    #[tokio::test]
    async fn wrong_parameters_are_named() {
        let object = Object::of(b"01234567");
        let regions = Regions::default();
        regions.register("r", &object.key, 0, 8).unwrap();
        let mut typed = at("r", 0, 4);
        typed.insert(REGION.to_owned(), parameter(ParameterChoice::Int64Param(1)));
        let mut without_size = at("r", 0, 4);
        without_size.remove(BYTE_SIZE);
        for (parameters, text) in [
            (
                typed,
                "invalid value type for 'shared_memory_region' parameter, expected string_param",
            ),
            (
                without_size,
                "'shared_memory_byte_size' must be specified along with",
            ),
            (
                at("r", -1, 4),
                "'shared_memory_offset' parameter, expected 0 or more, got -1",
            ),
            (
                at("r", 0, 9),
                "Invalid offset + byte size for shared memory region: 'r'",
            ),
            (at("q", 0, 4), "Unable to find shared memory region: 'q'"),
        ] {
            let fault = shared(&request(parameters), &regions, 100)
                .await
                .unwrap_err();
            assert!(fault.to_string().contains(text), "{fault}");
        }
    }

    #[tokio::test]
    async fn an_output_must_fit() {
        let object = Object::of(b"01234567");
        let regions = Regions::default();
        regions.register("r", &object.key, 0, 8).unwrap();
        let place = regions.place("r", 4, 2).unwrap();
        deliver("y", Bytes::from_static(b"ab"), place.clone())
            .await
            .unwrap();
        assert_eq!(object.content(), b"0123ab67");
        let fault = deliver("y", Bytes::from_static(b"abc"), place)
            .await
            .unwrap_err();
        assert_eq!(
            fault.to_string(),
            "shared memory size specified with the request for output 'y' (2 bytes) should be at least 3 bytes to \
             hold the results"
        );
    }
}
