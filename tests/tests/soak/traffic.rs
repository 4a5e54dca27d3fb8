//! The callers: what they ask at random, what they expect, and what they saw.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use forebay_proto::tensor::DataType;
use forebay_tests::client::{Inference, Rest, floats, integers, request};
use forebay_tests::onnx::LOOKUP_ROWS;
use parking_lot::Mutex;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::{echo_of, rest};

/// No answer takes this long, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
/// Mean pause of a caller between calls.
const PAUSE: Duration = Duration::from_millis(40);
/// Turns of `count` that take longer than callers in a hurry wait.
const LONG: i64 = 20_000;

/// Of `add`, when the callers begin.
pub const FIRST_VERSION: u64 = 1;
/// Of `padded`: rows of a batch at most, and levels of priority.
const PADDED_BATCH: i64 = 8;
const PRIORITIES: i64 = 3;

/// What callers of one model saw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    pub sent: u64,
    /// Answered with the right tensors.
    pub right: u64,
    /// Wrong requests that were refused as they should be.
    pub refused: u64,
    /// Nobody waited for the answer, or time was over.
    pub left: u64,
}

#[derive(Debug)]
pub struct Shared {
    seen: Mutex<BTreeMap<String, Seen>>,
    problems: Mutex<Vec<String>>,
    /// Versions of `add` that were asked for, and that are served for certain.
    pub asked: AtomicU64,
    pub served: AtomicU64,
}

pub struct Caller {
    pub grpc: Inference,
    pub rest: Rest,
    pub shared: Arc<Shared>,
    pub random: fastrand::Rng,
}

/// What an answer must be.
enum Want {
    Exactly(Bytes),
    /// Row i of the table, for each of these.
    Rows(Vec<i64>),
    /// The amount that is added lies between what was served before and what was asked for after the call.
    Amount {
        least: u64,
    },
    InvalidArgument,
}

impl Caller {
    pub async fn call_until(mut self, end: Instant) {
        while Instant::now() < end {
            match self.random.u32(0..100) {
                0..40 => {
                    let datatype = DataType::ALL[self.random.usize(0..DataType::ALL.len())];
                    let (request, data) = self.echo(datatype);
                    self.expect(request, Want::Exactly(data)).await;
                }
                40..50 => {
                    let (request, data) = self.padded();
                    self.expect(request, Want::Exactly(data)).await;
                }
                50..65 => {
                    let least = self.shared.served.load(Ordering::SeqCst);
                    let rows = self.random.usize(1..5);
                    let model = if self.random.bool() { "add" } else { "chain" };
                    let request = floats(model, &vec![0.0; 4 * rows]);
                    self.expect(request, Want::Amount { least }).await;
                }
                65..80 => {
                    // Small numbers are asked for more often than large ones.
                    let most = self.random.u32(1..400);
                    let value = self.random.u32(0..most) as f32;
                    let request = floats("cached", &[value; 4]);
                    let doubled = (value + value).to_le_bytes().repeat(4);
                    self.expect(request, Want::Exactly(doubled.into())).await;
                }
                80..86 => {
                    let ids: Vec<i64> = (0..self.random.usize(1..4))
                        .map(|_| self.random.i64(0..LOOKUP_ROWS))
                        .collect();
                    let request = integers("lookup", "ids", &ids);
                    self.expect(request, Want::Rows(ids)).await;
                }
                86..89 => {
                    let request = integers("lookup", "ids", &[LOOKUP_ROWS + 1]);
                    self.expect(request, Want::InvalidArgument).await;
                }
                89..91 => {
                    let mut request = floats("cached", &[0.0; 4]);
                    request.inputs[0].shape = vec![2, 2];
                    self.expect(request, Want::InvalidArgument).await;
                }
                91..94 => self.leave().await,
                94..97 => self.hurry().await,
                _ => {
                    let request = integers("count", "n", &[10]);
                    self.answered(request).await;
                }
            }
            let pause = PAUSE.mul_f64(2.0 * self.random.f64());
            tokio::time::sleep(pause).await;
        }
    }

    /// Of one priority or another; filled up beside longer ones, and run in parts if it has many rows.
    fn padded(&mut self) -> (ModelInferRequest, Bytes) {
        let rows = self.random.i64(1..3 * PADDED_BATCH);
        let (mut request, data) = self.echo_rows("padded", DataType::Int64, rows);
        let priority = InferParameter {
            parameter_choice: Some(ParameterChoice::Int64Param(self.random.i64(1..=PRIORITIES))),
        };
        request.parameters.insert("priority".to_owned(), priority);
        (request, data)
    }

    fn echo(&mut self, datatype: DataType) -> (ModelInferRequest, Bytes) {
        let rows = self.random.i64(1..9);
        self.echo_rows(&echo_of(datatype), datatype, rows)
    }

    fn echo_rows(
        &mut self,
        model: &str,
        datatype: DataType,
        rows: i64,
    ) -> (ModelInferRequest, Bytes) {
        let columns = self.random.i64(1..33);
        let elements = (rows * columns) as usize;
        let mut data = Vec::new();
        match datatype.size() {
            Some(size) => {
                data.resize(elements * size, 0);
                self.random.fill(&mut data);
                if datatype == DataType::Bool {
                    data.iter_mut().for_each(|byte| *byte &= 1);
                }
            }
            None => {
                for _ in 0..elements {
                    let length = self.random.usize(0..12);
                    data.extend_from_slice(&(length as u32).to_le_bytes());
                    data.extend((0..length).map(|_| self.random.u8(b'a'..=b'z')));
                }
            }
        }
        let shape = vec![rows, columns];
        let request = request(model, "x", datatype.name(), shape, data.clone());
        (request, data.into())
    }

    /// Sends it over one of the transports: the first output's bytes, or the code of the error.
    async fn send(&mut self, request: ModelInferRequest) -> Result<Bytes, (Code, String)> {
        let answer = match self.random.u32(0..5) {
            0..2 => return rest::infer(&self.rest, &request).await,
            2..4 => self
                .grpc
                .model_infer(request)
                .await
                .map(tonic::Response::into_inner),
            _ => self.stream(request).await,
        };
        let answer = answer.map_err(|status| (status.code(), status.message().to_owned()))?;
        let outputs = answer.raw_output_contents;
        Ok(outputs.into_iter().next().unwrap_or_default())
    }

    /// Over a stream of its own, whose errors are statuses.
    async fn stream(&mut self, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
        let mut requests = tonic::Request::new(tokio_stream::iter([request]));
        let strict = MetadataValue::from_static("true");
        requests.metadata_mut().insert("triton_grpc_error", strict);
        let mut answers = self.grpc.model_stream_infer(requests).await?.into_inner();
        let none = || Status::unknown("a stream without an answer");
        let answer = answers.message().await?.ok_or_else(none)?;
        if answers.message().await?.is_some() {
            return Err(Status::unknown("two answers to one request"));
        }
        answer.infer_response.ok_or_else(none)
    }

    async fn expect(&mut self, request: ModelInferRequest, want: Want) {
        let model = request.model_name.clone();
        let answer = match tokio::time::timeout(PATIENCE, self.send(request)).await {
            Ok(answer) => answer,
            Err(_) => Err((Code::Unknown, format!("no answer within {PATIENCE:?}"))),
        };
        let asked = self.shared.asked.load(Ordering::SeqCst);
        let refused = matches!(want, Want::InvalidArgument);
        let right = match (&want, &answer) {
            (Want::Exactly(data), Ok(found)) => data == found,
            (Want::Rows(ids), Ok(found)) => {
                let rows = ids.iter().flat_map(|id| [*id as f32; 4]);
                let rows: Vec<u8> = rows.flat_map(f32::to_le_bytes).collect();
                rows == **found
            }
            (Want::Amount { least }, Ok(found)) => {
                let amounts = found.as_chunks::<4>().0;
                let mut amounts = amounts
                    .iter()
                    .map(|bytes| f32::from_le_bytes(*bytes) as u64);
                let first = amounts.next();
                first.is_some_and(|first| {
                    (*least..=asked).contains(&first) && amounts.all(|other| other == first)
                })
            }
            (Want::InvalidArgument, Err((code, _))) => *code == Code::InvalidArgument,
            _ => false,
        };
        self.shared.note(&model, |seen| match (right, refused) {
            (true, true) => seen.refused += 1,
            (true, false) => seen.right += 1,
            (false, _) => {}
        });
        if !right {
            self.shared.problem(format!("{model}: {answer:?}"));
        }
    }

    /// Any tensors are right: what `count` adds depends on the others in the batch.
    async fn answered(&mut self, request: ModelInferRequest) {
        let model = request.model_name.clone();
        let answer = tokio::time::timeout(PATIENCE, self.send(request)).await;
        match answer {
            Ok(Ok(_)) => self.shared.note(&model, |seen| seen.right += 1),
            // What others in the same queue do may fill it.
            Ok(Err((Code::ResourceExhausted, _))) => {
                self.shared.note(&model, |seen| seen.refused += 1);
            }
            other => {
                self.shared.note(&model, |_| {});
                self.shared.problem(format!("{model}: {other:?}"));
            }
        }
    }

    /// Goes away while the model runs, or before.
    async fn leave(&mut self) {
        let soon = Duration::from_millis(self.random.u64(0..30));
        let request = integers("count", "n", &[LONG]);
        let left = tokio::time::timeout(soon, self.send(request)).await;
        self.shared.note("count", |seen| match left {
            Ok(Ok(_)) => seen.right += 1,
            Ok(Err(_)) => seen.refused += 1,
            Err(_) => seen.left += 1,
        });
    }

    /// Has less time than the model needs.
    async fn hurry(&mut self) {
        let mut request = tonic::Request::new(integers("count", "n", &[LONG]));
        request.set_timeout(Duration::from_millis(self.random.u64(1..30)));
        let answer = self.grpc.model_infer(request).await;
        let code = answer.map_or_else(|status| status.code(), |_| Code::Ok);
        let mut problem = None;
        self.shared.note("count", |seen| match code {
            Code::Ok => seen.right += 1,
            Code::DeadlineExceeded | Code::Cancelled => seen.left += 1,
            Code::ResourceExhausted => seen.refused += 1,
            other => problem = Some(format!("count in a hurry: {other:?}")),
        });
        if let Some(problem) = problem {
            self.shared.problem(problem);
        }
    }
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            seen: Mutex::default(),
            problems: Mutex::default(),
            asked: AtomicU64::new(FIRST_VERSION),
            served: AtomicU64::new(FIRST_VERSION),
        }
    }
}

impl Shared {
    fn note(&self, model: &str, what: impl FnOnce(&mut Seen)) {
        let mut seen = self.seen.lock();
        let seen = seen.entry(model.to_owned()).or_default();
        seen.sent += 1;
        what(seen);
    }

    pub fn problem(&self, problem: String) {
        let mut problems = self.problems.lock();
        if problems.len() < 50 {
            problems.push(problem);
        }
    }

    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().clone()
    }

    pub fn seen(&self) -> BTreeMap<String, Seen> {
        self.seen.lock().clone()
    }

    pub fn totals(&self) -> String {
        let mut total = Seen::default();
        for seen in self.seen().values() {
            total.sent += seen.sent;
            total.right += seen.right;
            total.refused += seen.refused;
            total.left += seen.left;
        }
        let Seen {
            sent,
            right,
            refused,
            left,
        } = total;
        let problems = self.problems.lock().len();
        format!("{sent} sent, {right} right, {refused} refused, {left} left, {problems} problems")
    }

    pub fn table(&self) -> String {
        let mut table = format!(
            "{:<14}{:>9}{:>9}{:>9}{:>9}\n",
            "model", "sent", "right", "refused", "left"
        );
        for (model, seen) in self.seen() {
            let _ = writeln!(
                table,
                "{model:<14}{:>9}{:>9}{:>9}{:>9}",
                seen.sent, seen.right, seen.refused, seen.left
            );
        }
        table
    }
}
