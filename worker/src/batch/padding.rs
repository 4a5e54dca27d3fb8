//! Which requests of different lengths share a batch, and how far their rows are filled up.
//!
//! The length of a request is dimension 1 of the inputs that the configuration names. It falls into a bucket,
//! and requests of one bucket may go together; beyond the last bucket, only equals do. The bucket decides who
//! goes together, not how long the rows become: a batch is filled up to its own longest request, and a request
//! that runs by itself, or among equals, is not filled up at all. That computes the least, and ONNX Runtime
//! takes any shape at no further cost. Only where every new shape has a price (TensorRT tunes for each) are rows filled
//! up to the bucket, also those of a lone request.
//!
//! Padding must not change the answer: that the model ignores filled places (by an attention mask, say) is the
//! configuration's claim. Outputs named there are cut back to each request's own length.

mod value;

use std::sync::atomic::{AtomicBool, Ordering};

use forebay_config::worker::Padding as Config;

pub use self::value::Element;
use crate::inference::{InferRequest, Signature, Tensor, TensorSpec};

/// The axis of the length; rows are axis 0.
pub const LENGTH_AXIS: usize = 1;
/// The shortest bucket where the configuration names none.
const FIRST_BUCKET: usize = 16;

/// The padding of one model, checked against its signature.
#[derive(Debug)]
pub struct Padding {
    /// Ascending by index.
    inputs: Vec<(usize, Element)>,
    /// Ascending.
    outputs: Vec<usize>,
    /// Ascending; empty: powers of two and the halves between them, without end.
    buckets: Vec<usize>,
    extent: Extent,
    abandoned: AtomicBool,
}

/// How far rows are filled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// To the longest request of the batch.
    Longest,
    /// To the bucket, so that there are few shapes.
    Bucket,
}

/// What filling up costs, in elements of the inputs that are filled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waste {
    /// Elements that no caller sent.
    pub filled: u64,
    /// These and those that callers sent.
    pub all: u64,
}

impl Waste {
    pub fn add(&mut self, other: Waste) {
        self.filled += other.filled;
        self.all += other.all;
    }
}

impl Padding {
    /// # Errors
    /// What the configuration names does not exist in the signature, or cannot be filled up or cut.
    pub fn new(config: &Config, signature: &Signature, extent: Extent) -> Result<Self, String> {
        if !signature.batched {
            return Err("padding needs a model with a batch axis".to_owned());
        }
        if config.inputs.is_empty() {
            return Err("padding names no input, must name at least one".to_owned());
        }
        let mut inputs = Vec::with_capacity(config.inputs.len());
        for (name, value) in &config.inputs {
            let (index, spec) = find("input", name, &signature.inputs)?;
            if spec.optional {
                return Err(format!(
                    "input '{name}' cannot be padded: it has a default, so it is never stacked"
                ));
            }
            let element = value::element(spec.datatype, *value)
                .map_err(|reason| format!("input '{name}' cannot be padded: {reason}"))?;
            inputs.push((index, element));
        }
        inputs.sort_unstable_by_key(|(index, _)| *index);
        let mut outputs = Vec::with_capacity(config.outputs.len());
        for name in &config.outputs {
            let (index, spec) = find("output", name, &signature.outputs)?;
            if spec.datatype.size().is_none() {
                return Err(format!(
                    "output '{name}' cannot be cut to length: its elements are strings"
                ));
            }
            outputs.push(index);
        }
        outputs.sort_unstable();
        Ok(Self {
            inputs,
            outputs,
            buckets: config.buckets.iter().map(|size| *size as usize).collect(),
            extent,
            abandoned: AtomicBool::new(false),
        })
    }

    /// From now on only equals share a batch. Those of different lengths that wait together already still do.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// The bucket of a request; `None`: it goes with its equals only.
    pub fn bucket(&self, request: &InferRequest) -> Option<usize> {
        if self.is_abandoned() {
            return None;
        }
        self.bucket_of(self.length(request)?)
    }

    /// Whether this input is filled up, and with what.
    pub fn filling(&self, input: usize) -> Option<Element> {
        let position = self
            .inputs
            .binary_search_by_key(&input, |(index, _)| *index);
        self.inputs.get(position.ok()?).map(|(_, element)| *element)
    }

    /// Whether this output has the length of the inputs.
    pub fn cuts(&self, output: usize) -> bool {
        self.outputs.binary_search(&output).is_ok()
    }

    /// The length that all rows of a batch get; `None`: they stay as they are.
    pub fn extent<'a>(
        &self,
        requests: impl IntoIterator<Item = &'a InferRequest>,
    ) -> Option<usize> {
        let mut shortest = usize::MAX;
        let mut longest = 0;
        for request in requests {
            let length = self.length(request)?;
            shortest = shortest.min(length);
            longest = longest.max(length);
        }
        let extent = match self.extent {
            Extent::Bucket if !self.is_abandoned() => self.bucket_of(longest)?,
            Extent::Bucket | Extent::Longest => longest,
        };
        (shortest < extent).then_some(extent)
    }

    /// What a batch of these requests, filled up to `extent`, has in it.
    pub fn waste<'a>(
        &self,
        requests: impl IntoIterator<Item = &'a InferRequest>,
        extent: Option<usize>,
    ) -> Waste {
        let mut waste = Waste::default();
        for request in requests {
            for (index, tensor) in &request.inputs {
                let Some(element) = self.filling(*index) else {
                    continue;
                };
                let sent = (tensor.data.len() / element.width()) as u64;
                let length = length(tensor).unwrap_or_default();
                let full = match extent {
                    Some(extent) if length > 0 => sent / length as u64 * extent as u64,
                    _ => sent,
                };
                waste.filled += full.saturating_sub(sent);
                waste.all += full;
            }
        }
        waste
    }

    /// The length that all inputs to be filled up have; `None` unless they agree on one above zero.
    pub fn length(&self, request: &InferRequest) -> Option<usize> {
        let mut agreed = None;
        for (index, tensor) in &request.inputs {
            if self.filling(*index).is_none() {
                continue;
            }
            let length = length(tensor).filter(|length| *length > 0)?;
            if *agreed.get_or_insert(length) != length {
                return None;
            }
        }
        agreed
    }

    /// At most so many lengths by which to get to know the model: buckets, evenly chosen if there are more, or the first
    /// powers of two if they go on without end.
    pub fn usual_lengths(&self, most: usize) -> Vec<usize> {
        if self.buckets.is_empty() {
            let powers = std::iter::successors(Some(FIRST_BUCKET), |size| size.checked_mul(2));
            return powers.take(most).collect();
        }
        let step = self.buckets.len().div_ceil(most.max(1));
        let from_the_longest = self.buckets.iter().rev().step_by(step);
        let mut lengths: Vec<usize> = from_the_longest.copied().collect();
        lengths.reverse();
        lengths
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// The smallest bucket that holds `length`.
    fn bucket_of(&self, length: usize) -> Option<usize> {
        if !self.buckets.is_empty() {
            let place = self.buckets.partition_point(|bucket| *bucket < length);
            return self.buckets.get(place).copied();
        }
        if length <= FIRST_BUCKET {
            return Some(FIRST_BUCKET);
        }
        let power = length.checked_next_power_of_two()?;
        let half_below = power / 4 * 3;
        Some(if length <= half_below {
            half_below
        } else {
            power
        })
    }
}

fn length(tensor: &Tensor) -> Option<usize> {
    usize::try_from(*tensor.shape.get(LENGTH_AXIS)?).ok()
}

/// The tensor of this name, if its length is free.
fn find<'a>(
    kind: &str,
    name: &str,
    specs: &'a [TensorSpec],
) -> Result<(usize, &'a TensorSpec), String> {
    let found = specs.iter().enumerate().find(|(_, spec)| spec.name == name);
    let Some((index, spec)) = found else {
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        return Err(format!(
            "padding names {kind} '{name}', which the model does not have, must be one of {}",
            names.join(", ")
        ));
    };
    let free = spec
        .shape
        .as_ref()
        .is_some_and(|shape| shape.get(LENGTH_AXIS).is_some_and(|size| *size < 0));
    if !free {
        return Err(format!(
            "{kind} '{name}' of shape {:?} has no length to pad: its dimension {LENGTH_AXIS} must be free",
            spec.shape.as_deref().unwrap_or_default()
        ));
    }
    Ok((index, spec))
}

#[cfg(test)]
mod tests;
