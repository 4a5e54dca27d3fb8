//! One request on its way through the queue, with the way back to its caller.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::batch::padding::{LENGTH_AXIS, Padding};
use crate::batch::parts::{Gathered, Part, Whole};
use crate::batch::queue::{Group, Waiting, Weight};
use crate::batch::split;
use crate::inference::{InferError, InferRequest, InferResponse, Signature};

/// The answer to one request.
pub type Answer = Result<InferResponse, InferError>;

/// Bytes that one element of a BYTES tensor is taken to weigh.
const STRING_WEIGHT: usize = 16;

/// A waiting request, or the part of one. It owns its tensors until the engine is done with them, whatever the
/// caller does.
#[derive(Debug)]
pub struct Job {
    pub request: InferRequest,
    pub group: Group,
    /// Order of arrival; the parts of a request share theirs.
    pub number: u64,
    /// The lowest goes first.
    pub priority: u32,
    pub enqueued: Instant,
    pub reply: Reply,
}

/// Where the answer goes.
#[derive(Debug)]
pub enum Reply {
    Caller(oneshot::Sender<Answer>),
    /// The job is a part.
    Part {
        whole: Arc<Whole>,
        first_row: usize,
    },
}

/// A request that is answered with tensors.
#[derive(Debug)]
pub struct Finished {
    pub caller: oneshot::Sender<Answer>,
    pub response: InferResponse,
    pub rows: usize,
    pub enqueued: Instant,
    pub in_parts: bool,
}

/// What becomes of a job whose run worked.
#[derive(Debug)]
pub enum Settled {
    Finished(Finished),
    /// The rest of the request is to come.
    Incomplete,
    /// The parts of the request gave so many bytes, which is too many.
    TooLarge(oneshot::Sender<Answer>, usize),
    /// To be run at once, by itself and uncut.
    Again(Job),
}

impl Job {
    /// The run gave this for it. `limit`: bytes of the answer to a request that is run in parts.
    pub fn settle(self, response: InferResponse, limit: usize) -> Settled {
        let (enqueued, rows) = (self.enqueued, self.request.rows);
        match self.reply {
            Reply::Caller(caller) => Settled::Finished(Finished {
                caller,
                response,
                rows,
                enqueued,
                in_parts: false,
            }),
            Reply::Part { whole, first_row } => {
                let part = Part {
                    first_row,
                    rows,
                    response,
                };
                match whole.gather(part, limit) {
                    Gathered::Incomplete => Settled::Incomplete,
                    Gathered::Complete(caller, response) => Settled::Finished(Finished {
                        caller,
                        response,
                        rows: whole.rows(),
                        enqueued,
                        in_parts: true,
                    }),
                    Gathered::TooLarge(caller, bytes) => Settled::TooLarge(caller, bytes),
                    Gathered::Misfit(job) => Settled::Again(job),
                }
            }
        }
    }

    /// Ends the request without tensors: its caller, unless another part ended it before.
    pub fn give_up(self) -> Option<oneshot::Sender<Answer>> {
        match self.reply {
            Reply::Caller(caller) => Some(caller),
            Reply::Part { whole, .. } => whole.give_up(),
        }
    }

    /// Whether an instance took some of the request before.
    pub fn begun(&self) -> bool {
        matches!(&self.reply, Reply::Part { first_row, .. } if *first_row > 0)
    }
}

impl Waiting for Job {
    fn group(&self) -> &Group {
        &self.group
    }

    fn rows(&self) -> usize {
        self.request.rows
    }

    fn number(&self) -> u64 {
        self.number
    }

    fn priority(&self) -> u32 {
        self.priority
    }

    fn weight(&self) -> Weight {
        weight(&self.group, &self.request)
    }

    fn deadline(&self) -> Option<Instant> {
        self.request.deadline
    }

    fn is_cancelled(&self) -> bool {
        match &self.reply {
            Reply::Caller(caller) => caller.is_closed(),
            Reply::Part { whole, .. } => whole.is_over(),
        }
    }

    fn split(self, rows: usize) -> Result<(Self, Self), Self> {
        let Some((first, rest)) = split::split(&self.request, rows) else {
            return Err(self);
        };
        let (group, number, priority, enqueued) = (
            self.group.clone(),
            self.number,
            self.priority,
            self.enqueued,
        );
        let (whole, first_row) = Whole::of(self);
        let part = |request: InferRequest, first_row| Self {
            request,
            group: group.clone(),
            number,
            priority,
            enqueued,
            reply: Reply::Part {
                whole: Arc::clone(&whole),
                first_row,
            },
        };
        Ok((part(first, first_row), part(rest, first_row + rows)))
    }
}

/// Whom a request may share a batch with. Inputs with a default have no batch axis, so whoever sets one goes
/// alone; so does a request without rows. With padding, the bucket stands for the length, and the weight is that
/// of a row filled up to it.
pub fn group(signature: &Signature, padding: Option<&Padding>, request: &InferRequest) -> Group {
    let optional = |index: usize| signature.inputs.get(index).is_none_or(|spec| spec.optional);
    if !signature.batched
        || request.rows == 0
        || request.inputs.iter().any(|(index, _)| optional(*index))
    {
        return Group::Alone;
    }
    let bucket = padding.and_then(|padding| Some((padding, padding.bucket(request)?)));
    let mut dims = Vec::with_capacity(request.inputs.len() * 4);
    let mut row_bytes = 0usize;
    for (index, tensor) in &request.inputs {
        let Some((_, row)) = tensor.shape.split_first() else {
            return Group::Alone;
        };
        dims.push(*index as i64);
        dims.push(row.len() as i64);
        let start = dims.len();
        dims.extend_from_slice(row);
        if let Some((padding, bucket)) = bucket
            && padding.filling(*index).is_some()
            && let Some(length) = dims.get_mut(start + LENGTH_AXIS - 1)
        {
            *length = i64::try_from(bucket).unwrap_or(i64::MAX);
        }
        let row = dims.get(start..).unwrap_or_default();
        let elements = row.iter().fold(1usize, |product, dim| {
            product.saturating_mul(usize::try_from(*dim).unwrap_or(0))
        });
        let width = tensor.datatype.size().unwrap_or(STRING_WEIGHT);
        row_bytes = row_bytes.saturating_add(elements.saturating_mul(width));
    }
    Group::Shape {
        dims: dims.into_boxed_slice(),
        row_bytes,
    }
}

/// The measure of a request of this group.
pub fn weight(group: &Group, request: &InferRequest) -> Weight {
    match *group {
        Group::Shape { row_bytes, .. } => Weight::Rows { row_bytes },
        Group::Alone => {
            let inputs = request.inputs.iter();
            let bytes = inputs.map(|(_, tensor)| tensor.data.len()).sum();
            Weight::Alone { bytes }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_proto::tensor::DataType;

    use super::*;
    use crate::batch::padding::Extent;
    use crate::inference::{Tensor, TensorSpec};

    fn signature(batched: bool) -> Signature {
        let spec = |name: &str, optional| TensorSpec {
            name: name.to_owned(),
            datatype: DataType::Int64,
            shape: Some(vec![-1, -1]),
            optional,
        };
        Signature {
            inputs: vec![spec("ids", false), spec("mask", false), spec("scale", true)],
            outputs: vec![],
            batched,
        }
    }

    fn request(inputs: &[(usize, &[i64])]) -> InferRequest {
        let tensor = |shape: &[i64]| Tensor {
            datatype: DataType::Int64,
            shape: shape.to_vec(),
            data: Bytes::new(),
        };
        InferRequest {
            inputs: inputs
                .iter()
                .map(|(index, shape)| (*index, tensor(shape)))
                .collect(),
            outputs: vec![],
            rows: inputs
                .first()
                .and_then(|(_, shape)| shape.first())
                .map_or(1, |rows| *rows as usize),
            deadline: None,
            priority: 0,
            trace: None,
        }
    }

    fn of(inputs: &[(usize, &[i64])]) -> Group {
        group(&signature(true), None, &request(inputs))
    }

    #[test]
    fn rows_may_differ_and_other_dimensions_may_not() {
        let group = of(&[(0, &[1, 5]), (1, &[1, 5])]);
        assert!(
            matches!(group, Group::Shape { row_bytes: 80, .. }),
            "{group:?}"
        );
        assert_eq!(group, of(&[(0, &[7, 5]), (1, &[7, 5])]));
        assert_ne!(group, of(&[(0, &[1, 6]), (1, &[1, 5])]));
        assert_ne!(group, of(&[(0, &[1, 5])]));
        assert_ne!(of(&[(0, &[1, 5])]), of(&[(1, &[1, 5])]));
        assert_ne!(
            of(&[(0, &[1, 2, 1]), (1, &[1])]),
            of(&[(0, &[1, 2]), (1, &[1, 1])])
        );
    }

    #[test]
    fn whoever_cannot_be_stacked_goes_alone() {
        assert_eq!(
            group(&signature(false), None, &request(&[(0, &[1, 5])])),
            Group::Alone
        );
        assert_eq!(
            of(&[(0, &[1, 5]), (2, &[1, 5])]),
            Group::Alone,
            "an input with a default"
        );
        assert_eq!(of(&[(0, &[0, 5])]), Group::Alone, "no rows");
        assert_eq!(of(&[(0, &[])]), Group::Alone, "no dimensions");
        assert_eq!(of(&[(9, &[1])]), Group::Alone, "no such input");
    }

    #[test]
    fn with_padding_the_bucket_stands_for_the_length() {
        let config = forebay_config::worker::Padding {
            inputs: [("ids".to_owned(), 0.0)].into(),
            outputs: vec![],
            buckets: vec![8],
        };
        let padding = Padding::new(&config, &signature(true), Extent::Longest).unwrap();
        let of =
            |inputs: &[(usize, &[i64])]| group(&signature(true), Some(&padding), &request(inputs));
        let group = of(&[(0, &[1, 5]), (1, &[1, 3])]);
        assert!(
            matches!(group, Group::Shape { row_bytes: 88, .. }),
            "{group:?}"
        );
        assert_eq!(group, of(&[(0, &[2, 8]), (1, &[2, 3])]));
        assert_ne!(group, of(&[(0, &[1, 5]), (1, &[1, 4])]), "not filled up");
        assert_ne!(
            of(&[(0, &[1, 9])]),
            of(&[(0, &[1, 10])]),
            "beyond the buckets"
        );
    }
}
