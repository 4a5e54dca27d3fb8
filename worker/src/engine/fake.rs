//! An engine that does what a test tells it: answers each row with its own input, and fails on cue.
//!
//! Takes any number of inputs; output i is input i. An FP32 element of `BAD` anywhere is a caller's mistake,
//! `PANIC` a panic, `FAIL` a failure of the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use forebay_proto::tensor::DataType;
use parking_lot::{Condvar, Mutex};

use crate::engine::{BoundTensor, Engine, EngineError, EngineFactory};
use crate::inference::{Signature, Tensor, TensorSpec};

pub const BAD: f32 = -1.0;
pub const PANIC: f32 = -2.0;
pub const FAIL: f32 = -3.0;

/// Shared by all instances a test makes, and by the test.
#[derive(Debug, Default)]
pub struct Script {
    gate: Mutex<Gate>,
    changed: Condvar,
    /// Rows of every run, in order.
    pub runs: Mutex<Vec<usize>>,
    pub instances: AtomicUsize,
    /// The output has one row too many.
    pub crooked: AtomicBool,
    /// No further instance can be made.
    pub barren: AtomicBool,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    /// Runs that stand at the gate.
    standing: usize,
}

impl Script {
    /// Runs that begin from now on wait until `open`.
    pub fn close(&self) {
        self.gate.lock().closed = true;
    }

    pub fn open(&self) {
        self.gate.lock().closed = false;
        self.changed.notify_all();
    }

    /// Returns when so many runs stand at the closed gate.
    pub fn wait_for_standing(&self, runs: usize) {
        let mut gate = self.gate.lock();
        while gate.standing < runs {
            self.changed.wait(&mut gate);
        }
    }

    fn pass(&self) {
        let mut gate = self.gate.lock();
        gate.standing += 1;
        self.changed.notify_all();
        while gate.closed {
            self.changed.wait(&mut gate);
        }
        gate.standing -= 1;
    }

    pub fn factory(self: &Arc<Self>) -> EngineFactory {
        let script = Arc::clone(self);
        Arc::new(move || {
            if script.barren.load(Ordering::SeqCst) {
                return Err("no more of these".to_owned());
            }
            script.instances.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(Fake {
                script: Arc::clone(&script),
            }))
        })
    }
}

/// One FP32 input "x" and one output "y" of shape [-1, 2].
pub fn signature() -> Signature {
    let spec = |name: &str| TensorSpec {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: Some(vec![-1, 2]),
        optional: false,
    };
    Signature {
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        batched: true,
    }
}

struct Fake {
    script: Arc<Script>,
}

impl Engine for Fake {
    fn run(
        &mut self,
        inputs: &[BoundTensor<'_>],
        outputs: &[usize],
    ) -> Result<Vec<Tensor>, EngineError> {
        let rows = inputs
            .first()
            .and_then(|input| input.shape.first())
            .copied()
            .unwrap_or(1);
        self.script.runs.lock().push(rows as usize);
        self.script.pass();
        for input in inputs
            .iter()
            .filter(|input| input.datatype == DataType::Fp32)
        {
            for element in input.data.as_chunks::<4>().0 {
                match f32::from_le_bytes(*element) {
                    BAD => return Err(EngineError::InvalidInput("bad value".to_owned())),
                    FAIL => return Err(EngineError::Failed("out of order".to_owned())),
                    PANIC => panic!("told to"),
                    _ => {}
                }
            }
        }
        let answers = outputs.iter().map(|output| {
            let input = &inputs[*output];
            let mut shape = input.shape.clone();
            let mut data = input.data.to_vec();
            if self.script.crooked.load(Ordering::SeqCst) {
                shape[0] += 1;
                data.extend_from_slice(&input.data[..8]);
            }
            Tensor {
                datatype: input.datatype,
                shape,
                data: Bytes::from(data),
            }
        });
        Ok(answers.collect())
    }
}
