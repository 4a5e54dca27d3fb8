//! How a caller wants each output: in the answer, or the best classes of it.

use std::collections::BTreeMap;

use forebay_proto::inference::InferParameter;
use forebay_proto::inference::infer_parameter::ParameterChoice;

use super::Fault;

type Parameters = BTreeMap<String, InferParameter>;

/// Where an output goes, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The tensor, in the answer.
    Tensor,
    /// So many of its largest values as text, in the answer; 1 or more.
    Classes(usize),
}

impl Delivery {
    /// What the parameters of a requested output ask for. The wording is Triton's.
    pub fn asked(output: &str, parameters: &Parameters) -> Result<Delivery, Fault> {
        if parameters.contains_key("shared_memory_region") {
            return Err(Fault::Invalid(format!(
                "shared memory is not supported, asked for output '{output}'"
            )));
        }
        match classes(parameters)? {
            None | Some(0) => Ok(Delivery::Tensor),
            Some(classes) => Ok(Delivery::Classes(classes)),
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
