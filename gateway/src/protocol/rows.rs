//! A request of many rows in parts, and their answers as one.
//!
//! A row is an index of the first dimension, which all inputs share. Parts are as equal as they can be, since the longest one
//! decides how long the whole takes, and their tensors are slices of the request's own memory. What cannot be cut stays
//! whole, and the worker says what is wrong with it, if anything is: inputs in shared memory, sequences, inputs that do not
//! agree on their rows, or whose data does not bear out their shape.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use forebay_proto::inference::model_infer_request::InferInputTensor;
use forebay_proto::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
};
use forebay_proto::tensor::{
    DataType, bytes_row_offsets, check_raw, element_count, raw_from_contents,
};

const SHARED_MEMORY: &str = "shared_memory_region";
const SEQUENCE: &str = "sequence_id";

/// No request becomes more parts than this; they are larger then.
const MOST_PARTS: usize = 256;

/// The answers of parts do not make one answer: the model does not treat rows one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misfit;

/// The request in parts of at most so many rows, if that takes no more than 256 parts; None: it has no more than that, or cannot be cut.
pub fn cut(request: &ModelInferRequest, most: usize) -> Option<Vec<ModelInferRequest>> {
    let rows = common_rows(request)?;
    if rows <= most || most == 0 {
        return None;
    }
    let in_region =
        |parameters: &BTreeMap<String, InferParameter>| parameters.contains_key(SHARED_MEMORY);
    if request.parameters.contains_key(SEQUENCE)
        || request
            .inputs
            .iter()
            .any(|input| in_region(&input.parameters))
        || request
            .outputs
            .iter()
            .any(|output| in_region(&output.parameters))
    {
        return None;
    }
    let is_raw = !request.raw_input_contents.is_empty();
    if is_raw && request.raw_input_contents.len() != request.inputs.len() {
        return None;
    }
    let ends = ends(rows, rows.div_ceil(most).min(MOST_PARTS));
    let whole = ModelInferRequest {
        inputs: Vec::new(),
        raw_input_contents: Vec::new(),
        ..request.clone()
    };
    let mut parts = vec![whole; ends.len()];
    for (position, input) in request.inputs.iter().enumerate() {
        match request.raw_input_contents.get(position) {
            Some(raw) if input.contents.is_none() => cut_raw(input, raw, rows, &ends, &mut parts)?,
            None => cut_typed(input, rows, &ends, &mut parts)?,
            Some(_) => return None,
        }
    }
    Some(parts)
}

/// One answer of those to the parts, in their order.
///
/// # Errors
/// Parts whose outputs differ in more than the number of rows, or have other rows than they were asked for.
pub fn join(
    requests: &[ModelInferRequest],
    answers: &[ModelInferResponse],
) -> Result<ModelInferResponse, Misfit> {
    let first = answers.first().ok_or(Misfit)?;
    let mut whole = ModelInferResponse {
        raw_output_contents: Vec::with_capacity(first.outputs.len()),
        ..first.clone()
    };
    for (position, output) in whole.outputs.iter_mut().enumerate() {
        let datatype = DataType::parse(&output.datatype).ok_or(Misfit)?;
        let mut rows = 0_i64;
        let mut pieces = Vec::with_capacity(answers.len());
        for (request, answer) in requests.iter().zip(answers) {
            let part = answer.outputs.get(position).ok_or(Misfit)?;
            let [own_rows, ref inner @ ..] = part.shape[..] else {
                return Err(Misfit);
            };
            let asked = common_rows(request).and_then(|rows| i64::try_from(rows).ok());
            if (&part.name, &part.datatype) != (&output.name, &output.datatype)
                || output.shape.get(1..) != Some(inner)
                || Some(own_rows) != asked
                || answer.outputs.len() != first.outputs.len()
                || answer.model_version != first.model_version
            {
                return Err(Misfit);
            }
            let raw = match &part.contents {
                Some(contents) => raw_from_contents(datatype, &part.shape, contents).ok(),
                None => answer.raw_output_contents.get(position).cloned(),
            };
            let raw = raw.ok_or(Misfit)?;
            check_raw(datatype, &part.shape, &raw).map_err(|_| Misfit)?;
            rows = rows.checked_add(own_rows).ok_or(Misfit)?;
            pieces.push(raw);
        }
        output.shape[0] = rows;
        output.contents = None;
        whole.raw_output_contents.push(concatenated(&pieces));
    }
    Ok(whole)
}

fn concatenated(pieces: &[Bytes]) -> Bytes {
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        all.put_slice(piece);
    }
    all.freeze()
}

/// Where parts end that are as equal as can be.
fn ends(rows: usize, parts: usize) -> Vec<usize> {
    let (each, larger) = (rows / parts, rows % parts);
    (1..=parts)
        .map(|part| part * each + part.min(larger))
        .collect()
}

/// What all inputs have as their first dimension.
fn common_rows(request: &ModelInferRequest) -> Option<usize> {
    let mut all = request.inputs.iter().map(|input| input.shape.first());
    let rows = all.next()??;
    all.all(|other| other == Some(rows))
        .then(|| usize::try_from(*rows).ok())?
}

fn cut_raw(
    input: &InferInputTensor,
    raw: &Bytes,
    rows: usize,
    ends: &[usize],
    parts: &mut [ModelInferRequest],
) -> Option<()> {
    let datatype = DataType::parse(&input.datatype)?;
    let per_row = elements_per_row(&input.shape)?;
    let offset: Box<dyn Fn(usize) -> usize> = match datatype.size() {
        Some(size) => {
            check_raw(datatype, &input.shape, raw).ok()?;
            Box::new(move |row| row * per_row * size)
        }
        None => {
            let offsets = bytes_row_offsets(raw, rows, per_row).ok()?;
            Box::new(move |row| offsets[row])
        }
    };
    let mut start = 0;
    for (end, part) in ends.iter().zip(parts) {
        part.inputs.push(with_rows(input, end - start, None));
        let slice = raw.slice(offset(start)..offset(*end));
        part.raw_input_contents.push(slice);
        start = *end;
    }
    Some(())
}

fn cut_typed(
    input: &InferInputTensor,
    rows: usize,
    ends: &[usize],
    parts: &mut [ModelInferRequest],
) -> Option<()> {
    let contents = input.contents.as_ref()?;
    let per_row = elements_per_row(&input.shape)?;
    let all = rows.checked_mul(per_row)?;
    let mut start = 0;
    for (end, part) in ends.iter().zip(parts) {
        let range = start * per_row..end * per_row;
        let slice = InferTensorContents {
            bool_contents: slice(&contents.bool_contents, all, &range)?,
            int_contents: slice(&contents.int_contents, all, &range)?,
            int64_contents: slice(&contents.int64_contents, all, &range)?,
            uint_contents: slice(&contents.uint_contents, all, &range)?,
            uint64_contents: slice(&contents.uint64_contents, all, &range)?,
            fp32_contents: slice(&contents.fp32_contents, all, &range)?,
            fp64_contents: slice(&contents.fp64_contents, all, &range)?,
            bytes_contents: slice(&contents.bytes_contents, all, &range)?,
        };
        part.inputs.push(with_rows(input, end - start, Some(slice)));
        start = *end;
    }
    Some(())
}

/// Of a field that holds all elements, or none.
fn slice<T: Clone>(field: &[T], all: usize, range: &std::ops::Range<usize>) -> Option<Vec<T>> {
    match field.len() {
        0 => Some(Vec::new()),
        length if length == all => field.get(range.clone()).map(<[T]>::to_vec),
        _ => None,
    }
}

fn elements_per_row(shape: &[i64]) -> Option<usize> {
    usize::try_from(element_count(shape.get(1..)?).ok()?).ok()
}

fn with_rows(
    input: &InferInputTensor,
    rows: usize,
    contents: Option<InferTensorContents>,
) -> InferInputTensor {
    let mut shape = input.shape.clone();
    if let (Some(first), Ok(rows)) = (shape.first_mut(), i64::try_from(rows)) {
        *first = rows;
    }
    InferInputTensor {
        name: input.name.clone(),
        datatype: input.datatype.clone(),
        shape,
        parameters: input.parameters.clone(),
        contents,
    }
}

#[cfg(test)]
mod tests;
