//! A request that is run in parts: what its parts have in common, and their answers until all are there.
//!
//! To its caller and in the statistics it is one request. The first part that fails fails it as a whole, and
//! what is left of it is not run any more; so do answers that together have more bytes than a message. Should the answers not fit together, because the model does not
//! treat rows one by one, the request is run once more, uncut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::batch::job::{Answer, Job, Reply};
use crate::batch::queue::Group;
use crate::batch::split;
use crate::inference::{InferRequest, InferResponse, Tensor, Timing};

#[derive(Debug)]
pub struct Whole {
    request: InferRequest,
    group: Group,
    number: u64,
    priority: u32,
    enqueued: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// None once the request was answered or given up.
    caller: Option<oneshot::Sender<Answer>>,
    /// By first row.
    done: BTreeMap<usize, (usize, Vec<Tensor>)>,
    rows_done: usize,
    /// Of the answers in `done`.
    bytes: usize,
    timing: Option<Timing>,
}

/// The answer of a part.
#[derive(Debug)]
pub struct Part {
    pub first_row: usize,
    pub rows: usize,
    pub response: InferResponse,
}

/// What the answer of a part leads to.
#[derive(Debug)]
pub enum Gathered {
    /// More parts are to come, or nobody waits any more.
    Incomplete,
    Complete(oneshot::Sender<Answer>, InferResponse),
    /// The request is given up for so many bytes of its answer.
    TooLarge(oneshot::Sender<Answer>, usize),
    /// The parts do not fit together; the request as it came.
    Misfit(Job),
}

impl Whole {
    /// Of a job that is to be cut, and the first row that this job has of it.
    pub fn of(job: Job) -> (Arc<Self>, usize) {
        let caller = match job.reply {
            Reply::Part { whole, first_row } => return (whole, first_row),
            Reply::Caller(caller) => caller,
        };
        let whole = Self {
            request: job.request,
            group: job.group,
            number: job.number,
            priority: job.priority,
            enqueued: job.enqueued,
            state: Mutex::new(State {
                caller: Some(caller),
                done: BTreeMap::new(),
                rows_done: 0,
                bytes: 0,
                timing: None,
            }),
        };
        (Arc::new(whole), 0)
    }

    pub fn rows(&self) -> usize {
        self.request.rows
    }

    /// Nobody waits for it: it failed, or its caller is gone.
    pub fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.caller.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Ends it before it is complete; the caller, if that was not done before.
    pub fn give_up(&self) -> Option<oneshot::Sender<Answer>> {
        self.state.lock().caller.take()
    }

    /// Keeps the answer of a part, as long as all of them have at most `limit` bytes.
    pub fn gather(&self, part: Part, limit: usize) -> Gathered {
        let Part {
            first_row,
            rows,
            response,
        } = part;
        let mut state = self.state.lock();
        if state.caller.is_none() {
            return Gathered::Incomplete;
        }
        let InferResponse {
            outputs,
            timing,
            origin,
        } = response;
        let bytes: usize = outputs.iter().map(|output| output.data.len()).sum();
        state.bytes = state.bytes.saturating_add(bytes);
        if state.bytes > limit {
            state.done.clear();
            return match state.caller.take() {
                Some(caller) => Gathered::TooLarge(caller, state.bytes),
                None => Gathered::Incomplete,
            };
        }
        state.timing = Some(state.timing.map_or(timing, |before| sum(before, timing)));
        state.rows_done += rows;
        state.done.insert(first_row, (rows, outputs));
        if state.rows_done < self.request.rows {
            return Gathered::Incomplete;
        }
        let Some(caller) = state.caller.take() else {
            return Gathered::Incomplete;
        };
        let parts: Vec<_> = std::mem::take(&mut state.done).into_values().collect();
        let timing = state.timing.unwrap_or_default();
        drop(state);
        match split::join(&parts) {
            Some(outputs) => Gathered::Complete(
                caller,
                InferResponse {
                    outputs,
                    timing,
                    origin,
                },
            ),
            None => Gathered::Misfit(Job {
                request: self.request.clone(),
                group: self.group.clone(),
                number: self.number,
                priority: self.priority,
                enqueued: self.enqueued,
                reply: Reply::Caller(caller),
            }),
        }
    }
}

/// The request waited until its first part began, and was worked on for as long as all of them.
fn sum(before: Timing, part: Timing) -> Timing {
    Timing {
        queue: before.queue.min(part.queue),
        input: before.input + part.input,
        compute: before.compute + part.compute,
        output: before.output + part.output,
        batch_rows: before.batch_rows.max(part.batch_rows),
    }
}
