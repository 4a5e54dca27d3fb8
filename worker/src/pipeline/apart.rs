//! Steps whose rows have nothing to do with each other: groups of rows on several threads, put together again.
//!
//! A group is a few rows, and a request has no more groups in line than there are cores. So a request with
//! thousands of pictures uses the whole machine while nobody else wants it, lets others in between as soon as they
//! come, and ends within a few rows when its caller leaves or one of its rows is at fault.

use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::cpu::Cpu;
use super::step::{Input, StepError, Transform, split_rows};
use crate::inference::Tensor;

/// Rows of a group at most: some ten milliseconds of work, beside which starting it costs nothing.
const GROUP: usize = 8;

/// What `transform` makes of `inputs`. `None`: it panicked.
pub(super) async fn run(
    cpu: &Cpu,
    transform: &Arc<dyn Transform>,
    inputs: &[Input],
    ports: &[String],
) -> Option<Result<Vec<Tensor>, StepError>> {
    let [input] = inputs else {
        let (transform, inputs, ports) = (Arc::clone(transform), inputs.to_vec(), ports.to_vec());
        return cpu.run(move || transform.run(&inputs, &ports)).await;
    };
    let mut next_row = input.first_row;
    let groups = split_rows(&input.tensor, cpu.cores(), GROUP).into_iter();
    let parts = groups.map(|tensor| {
        let first_row = next_row;
        let rows = tensor.shape.first().copied().unwrap_or(0);
        next_row += usize::try_from(rows).unwrap_or(0);
        let (transform, ports) = (Arc::clone(transform), ports.to_vec());
        let inputs = [Input {
            tensor,
            first_row,
            ..input.clone()
        }];
        cpu.run(move || transform.run(&inputs, &ports))
    });
    let mut parts = stream::iter(parts).buffered(cpu.cores());
    let mut whole: Vec<Vec<Tensor>> = Vec::new();
    while let Some(part) = parts.next().await {
        match part? {
            Ok(tensors) => whole.push(tensors),
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(stacked(whole)))
}

/// The same tensors of several groups of rows, along dimension 0.
fn stacked(mut parts: Vec<Vec<Tensor>>) -> Vec<Tensor> {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let mut whole = Vec::new();
    for number in 0..parts.first().map_or(0, Vec::len) {
        let column = || parts.iter().filter_map(|part| part.get(number));
        let Some(first) = column().next() else {
            continue;
        };
        let mut shape = first.shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = column().filter_map(|tensor| tensor.shape.first()).sum();
        }
        let mut data = Vec::with_capacity(column().map(|tensor| tensor.data.len()).sum());
        column().for_each(|tensor| data.extend_from_slice(&tensor.data));
        whole.push(Tensor {
            datatype: first.datatype,
            shape,
            data: data.into(),
        });
    }
    whole
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use forebay_proto::tensor::{DataType, encode_bytes_element};
    use futures::future::{BoxFuture, FutureExt};
    use parking_lot::Mutex;

    use super::*;
    use crate::pipeline::plan::{Expected, Given, Made, Typed};

    /// Gives back what it is given, one group for each token that it gets.
    struct Gate {
        begun: Sender<(String, usize)>,
        tokens: Mutex<Receiver<()>>,
    }

    impl Typed for Gate {
        fn takes(&self, _: &str) -> Result<Expected, String> {
            Err("it is not planned with".to_owned())
        }

        fn makes(&self, _: &str, _: &Given<'_>) -> Result<Made, String> {
            Err("it is not planned with".to_owned())
        }

        fn needs(&self) -> Vec<&str> {
            Vec::new()
        }

        fn batched(&self) -> bool {
            true
        }
    }

    impl Transform for Gate {
        fn run(&self, inputs: &[Input], _: &[String]) -> Result<Vec<Tensor>, StepError> {
            let [input] = inputs else {
                return Err(StepError::Failed("it takes one input".to_owned()));
            };
            let who = (input.name.clone(), input.first_row);
            self.begun.send(who).expect("the test hears it");
            self.tokens.lock().recv().expect("the test gives tokens");
            if input.name == "bad" {
                return Err(StepError::Invalid(format!("row {}", input.first_row)));
            }
            Ok(vec![input.tensor.clone()])
        }

        fn quick(&self, _: &[Input]) -> bool {
            false
        }

        fn apart(&self) -> bool {
            true
        }
    }

    struct Bed {
        cpu: Cpu,
        step: Arc<dyn Transform>,
        begun: Receiver<(String, usize)>,
        tokens: Sender<()>,
    }

    impl Bed {
        fn new(cores: usize) -> Self {
            let (tell, begun) = channel();
            let (tokens, take) = channel();
            Self {
                cpu: Cpu::new(cores),
                step: Arc::new(Gate {
                    begun: tell,
                    tokens: Mutex::new(take),
                }),
                begun,
                tokens,
            }
        }

        fn ask(
            &self,
            name: &str,
            rows: usize,
        ) -> BoxFuture<'static, Option<Result<Vec<Tensor>, StepError>>> {
            let (cpu, step, input) = (self.cpu.clone(), Arc::clone(&self.step), input(name, rows));
            async move { run(&cpu, &step, &[input], &[]).await }.boxed()
        }

        /// Lets the group that runs end, and the next one begin.
        fn turn(&self) -> (String, usize) {
            self.tokens.send(()).unwrap();
            self.begun.recv().unwrap()
        }
    }

    fn input(name: &str, rows: usize) -> Input {
        let mut data = Vec::new();
        for row in 0..rows {
            encode_bytes_element(&row.to_le_bytes(), &mut data).unwrap();
        }
        Input {
            port: "image".to_owned(),
            name: name.to_owned(),
            tensor: Tensor {
                datatype: DataType::Bytes,
                shape: vec![rows as i64],
                data: data.into(),
            },
            first_row: 0,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_large_request_lets_others_in_between_and_loses_no_row() {
        let bed = Bed::new(1);
        let large = tokio::spawn(bed.ask("large", 5 * GROUP + 3));
        assert_eq!(bed.begun.recv().unwrap(), ("large".to_owned(), 0));
        let mut small = bed.ask("small", 1);
        assert!(futures::poll!(&mut small).is_pending(), "it is in line now");
        let small = tokio::spawn(small);
        assert_eq!(bed.turn(), ("small".to_owned(), 0));
        for group in 1..=5 {
            assert_eq!(bed.turn(), ("large".to_owned(), group * GROUP));
        }
        bed.tokens.send(()).unwrap();
        let made = large.await.unwrap().unwrap().unwrap();
        assert_eq!(made, [input("large", 5 * GROUP + 3).tensor]);
        assert_eq!(small.await.unwrap().unwrap().unwrap()[0].shape, [1]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_begins_after_a_row_at_fault_or_once_the_caller_left() {
        let bed = Bed::new(1);
        let bad = tokio::spawn(bed.ask("bad", 3 * GROUP));
        assert_eq!(bed.begun.recv().unwrap(), ("bad".to_owned(), 0));
        bed.tokens.send(()).unwrap();
        let refused = bad.await.unwrap().unwrap();
        assert_eq!(refused, Err(StepError::Invalid("row 0".to_owned())));
        let left = tokio::spawn(bed.ask("left", 3 * GROUP));
        assert_eq!(bed.begun.recv().unwrap(), ("left".to_owned(), 0));
        left.abort();
        assert!(left.await.unwrap_err().is_cancelled());
        let next = tokio::spawn(bed.ask("next", 1));
        assert_eq!(bed.turn(), ("next".to_owned(), 0));
        bed.tokens.send(()).unwrap();
        assert!(next.await.unwrap().unwrap().is_ok());
    }
}
