//! How a caller wants each output: in the answer, the best classes of it, or in shared memory.

use std::collections::BTreeMap;

use forebay_proto::inference::InferParameter;
use forebay_proto::inference::infer_parameter::ParameterChoice;

use super::Fault;
use crate::shared_memory::Place;

type Parameters = BTreeMap<String, InferParameter>;

/// Where an output goes, and as what.
#[derive(Debug, Clone, PartialEq)]
pub enum Delivery {
    /// The tensor, in the answer.
    Tensor,
    /// So many of its largest values as text, in the answer; 1 or more.
    Classes(usize),
    /// The tensor, in shared memory. The answer tells so with these parameters, those of the request.
    Region {
        place: Place,
        parameters: Parameters,
    },
}

impl Delivery {
    /// What the parameters of a requested output ask for. The wording is Triton's.
    /// `place`: where it lies, if they name a region.
    pub fn asked(parameters: &Parameters, place: Option<&Place>) -> Result<Delivery, Fault> {
        match (classes(parameters)?, place) {
            (None | Some(0), None) => Ok(Delivery::Tensor),
            (None | Some(0), Some(place)) => Ok(Delivery::Region {
                place: place.clone(),
                parameters: parameters.clone(),
            }),
            (Some(classes), None) => Ok(Delivery::Classes(classes)),
            (Some(_), Some(_)) => Err(Fault::Invalid(
                "output can't set both 'shared_memory_region' and 'classification'".to_owned(),
            )),
        }
    }
}

fn classes(parameters: &Parameters) -> Result<Option<usize>, Fault> {
    let Some(parameter) = parameters.get("classification") else {
        return Ok(None);
    };
    let Some(ParameterChoice::Int64Param(count)) = parameter.parameter_choice else {
        return Err(Fault::Invalid(
            "invalid value type for 'classification' parameter, expected int64_param".to_owned(),
        ));
    };
    usize::try_from(count).map(Some).map_err(|_| {
        Fault::Invalid(format!(
            "invalid value for 'classification' parameter, expected a number of classes, got {count}"
        ))
    })
}
