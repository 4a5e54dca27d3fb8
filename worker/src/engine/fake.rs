//! An engine that does what a test tells it: answers each row with its own input, and fails on cue.
//!
//! Takes any number of inputs; output i is input i. An FP32 element of `BAD` anywhere is a caller's mistake,
//! `PANIC` a panic, `FAIL` a failure of the engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forebay_proto::tensor::DataType;
use parking_lot::{Condvar, Mutex};

use crate::engine::{BoundTensor, Engine, EngineError, EngineFactory, Interrupt};
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
    /// Runs on the instances' own threads.
    pub own_runs: AtomicUsize,
    /// The output has one row too many.
    pub crooked: AtomicBool,
    /// An interrupted engine cannot run any more.
    pub brittle: AtomicBool,
    /// No further instance can be made.
    pub barren: AtomicBool,
    /// What every run costs, whatever its rows: a batch then pays, which the mere noise of this engine leaves to chance.
    pub cost: Mutex<Duration>,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    /// Runs that stand at the gate.
    standing: usize,
    /// Engines, by number, whose run was interrupted at the gate.
    interrupted: BTreeSet<usize>,
    /// Engines, by number, that are between the start of a run and the far side of the gate.
    entered: BTreeSet<usize>,
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

    fn pass(&self, engine: usize) -> Result<(), EngineError> {
        let mut gate = self.gate.lock();
        gate.standing += 1;
        gate.entered.insert(engine);
        self.changed.notify_all();
        while gate.closed && !gate.interrupted.contains(&engine) {
            self.changed.wait(&mut gate);
        }
        gate.standing -= 1;
        gate.entered.remove(&engine);
        if gate.interrupted.remove(&engine) {
            if self.brittle.load(Ordering::SeqCst) {
                return Err(EngineError::Broken("stays interrupted".to_owned()));
            }
            return Err(EngineError::Interrupted);
        }
        Ok(())
    }

    pub fn factory(self: &Arc<Self>) -> EngineFactory {
        let script = Arc::clone(self);
        Arc::new(move |_| {
            if script.barren.load(Ordering::SeqCst) {
                return Err("no more of these".to_owned());
            }
            let number = script.instances.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(Fake {
                script: Arc::clone(&script),
                number,
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
    number: usize,
}

struct Interrupter {
    script: Arc<Script>,
    engine: usize,
}

impl Interrupt for Interrupter {
    /// Acts on a run that stands at the gate.
    fn interrupt(&self) {
        let mut gate = self.script.gate.lock();
        if gate.entered.contains(&self.engine) {
            gate.interrupted.insert(self.engine);
            self.script.changed.notify_all();
        }
    }
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
        let thread = std::thread::current();
        if thread.name().is_some_and(|name| name.starts_with("fake-")) {
            self.script.own_runs.fetch_add(1, Ordering::SeqCst);
        }
        let cost = *self.script.cost.lock();
        if !cost.is_zero() {
            std::thread::sleep(cost);
        }
        self.script.pass(self.number)?;
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
    fn interrupter(&self) -> Option<Arc<dyn Interrupt>> {
        Some(Arc::new(Interrupter {
            script: Arc::clone(&self.script),
            engine: self.number,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_ends_the_run_that_stands_at_the_gate_and_no_other() {
        let script: Arc<Script> = Arc::default();
        let mut engine = script.factory()(0).unwrap();
        let interrupter = engine.interrupter().unwrap();
        let data = 1.0f32.to_le_bytes();
        let input = BoundTensor {
            input: 0,
            datatype: DataType::Fp32,
            shape: vec![1, 1],
            data: &data,
        };
        interrupter.interrupt();
        assert!(engine.run(std::slice::from_ref(&input), &[0]).is_ok());
        script.close();
        let interrupted = std::thread::scope(|scope| {
            let run = scope.spawn(|| engine.run(std::slice::from_ref(&input), &[0]));
            script.wait_for_standing(1);
            interrupter.interrupt();
            run.join().unwrap()
        });
        assert_eq!(interrupted, Err(EngineError::Interrupted));
        script.open();
        assert!(engine.run(&[input], &[0]).is_ok());
    }
}
