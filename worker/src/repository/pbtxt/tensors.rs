//! The inputs and outputs that the file declares.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use forebay_proto::inference::{ModelConfig, ModelOutput, ModelTensorReshape};
use forebay_proto::tensor::DataType;

use super::Findings;
use super::limits::ROWS;
use super::signature::{Batching, Declared, DeclaredTensor};
use crate::repository::layout::is_file_path;

pub(super) fn declared(config: &ModelConfig, findings: &mut Findings) -> Declared {
    let inputs: Vec<Stated<'_>> = config
        .input
        .iter()
        .map(|input| Stated {
            name: &input.name,
            datatype: DataType::from_config_type(input.data_type()),
            dims: &input.dims,
            reshape: input.reshape.as_ref(),
            optional: input.optional,
        })
        .collect();
    let outputs: Vec<Stated<'_>> = config
        .output
        .iter()
        .map(|output| Stated {
            name: &output.name,
            datatype: DataType::from_config_type(output.data_type()),
            dims: &output.dims,
            reshape: output.reshape.as_ref(),
            optional: false,
        })
        .collect();
    let batching = match u32::try_from(config.max_batch_size) {
        Ok(0) if inputs.is_empty() || outputs.is_empty() => Batching::Unsaid,
        Ok(0) => Batching::None,
        Ok(rows) => match findings.within("'max_batch_size'", rows, &ROWS) {
            Some(rows) => Batching::Rows(rows),
            None => Batching::Unsaid,
        },
        Err(_) => {
            findings.problem(format!(
                "'max_batch_size' must be a non-negative value, found {}",
                config.max_batch_size
            ));
            Batching::Unsaid
        }
    };
    Declared {
        batching,
        inputs: checked("input", &inputs, findings),
        outputs: checked("output", &outputs, findings),
    }
}

/// Files of class names by output, as paths from the model's folder.
pub(super) fn labels(config: &ModelConfig, findings: &mut Findings) -> BTreeMap<String, PathBuf> {
    for ModelOutput {
        name,
        label_filename,
        ..
    } in &config.output
    {
        if !label_filename.is_empty() && !is_file_path(label_filename) {
            findings.problem(format!(
                "label_filename '{label_filename}' of output '{name}' is not the path of a file in the model's folder"
            ));
        }
    }
    let labelled = config.output.iter();
    labelled
        .filter(|output| !output.label_filename.is_empty())
        .map(|output| (output.name.clone(), PathBuf::from(&output.label_filename)))
        .collect()
}

/// What inputs and outputs have in common.
struct Stated<'a> {
    name: &'a str,
    datatype: Option<DataType>,
    dims: &'a [i64],
    reshape: Option<&'a ModelTensorReshape>,
    optional: bool,
}

fn checked(kind: &str, stated: &[Stated<'_>], findings: &mut Findings) -> Vec<DeclaredTensor> {
    let mut names = BTreeSet::new();
    let mut tensors = Vec::new();
    for tensor in stated {
        let name = tensor.name;
        if name.is_empty() {
            findings.problem(format!("model {kind} must specify 'name'"));
        } else if !names.insert(name) {
            findings.problem(format!("model {kind} '{name}' is there twice"));
        }
        if tensor.dims.is_empty() {
            findings.problem(format!("model {kind} '{name}' must specify 'dims'"));
        }
        let reshape = tensor.reshape.map(|reshape| reshape.shape.clone());
        for dims in [Some(tensor.dims), reshape.as_deref()]
            .into_iter()
            .flatten()
        {
            if let Some(size) = dims.iter().find(|size| **size < 1 && **size != -1) {
                findings.problem(format!(
                    "model {kind} '{name}' dimension must be integer >= 1, or -1 to indicate a \
                     variable-size dimension, found {size}"
                ));
            }
        }
        if let Some(reshape) = &reshape
            && !same_elements(tensor.dims, reshape)
        {
            let dims = tensor.dims;
            findings.problem(format!(
                "model {kind} '{name}' has different size for dims {dims:?} and reshape {reshape:?}"
            ));
        }
        let Some(datatype) = tensor.datatype else {
            findings.problem(format!("model {kind} '{name}' must specify 'data_type'"));
            continue;
        };
        tensors.push(DeclaredTensor {
            name: name.to_owned(),
            datatype,
            dims: tensor.dims.to_vec(),
            reshape: reshape.filter(|shape| shape != tensor.dims),
            optional: tensor.optional,
        });
    }
    tensors
}

/// As many variable sizes in both, and as many elements between them.
fn same_elements(dims: &[i64], reshape: &[i64]) -> bool {
    let runs = |shape: &[i64]| -> Vec<i128> {
        let runs = shape.split(|size| *size == -1);
        runs.map(|run| {
            run.iter().fold(1_i128, |product, size| {
                product.saturating_mul(i128::from(*size))
            })
        })
        .collect()
    };
    runs(dims) == runs(reshape)
}
