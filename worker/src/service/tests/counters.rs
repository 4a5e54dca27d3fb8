//! Whatever happens to requests, the counters add up.

use proptest::prelude::*;

use super::*;
use crate::engine::fake::PANIC;
use crate::measure::Reason;
use crate::service::progress::Progress;

/// What a caller does.
#[derive(Debug, Clone, Copy)]
enum Caller {
    /// Sends so many rows and waits.
    Waits(usize),
    /// Leaves after so many turns of the scheduler.
    Leaves { rows: usize, turns: usize },
    /// Has so little time, in microseconds.
    Hurries { rows: usize, micros: u64 },
    /// Sends what the service refuses.
    IsWrong,
    /// Sends a value on which the engine fails.
    Breaks(f32),
}

fn caller() -> impl Strategy<Value = Caller> {
    let rows = 1usize..=8;
    prop_oneof![
        4 => rows.clone().prop_map(Caller::Waits),
        2 => (rows.clone(), 0usize..4).prop_map(|(rows, turns)| Caller::Leaves { rows, turns }),
        2 => (rows, 0u64..3_000).prop_map(|(rows, micros)| Caller::Hurries { rows, micros }),
        1 => Just(Caller::IsWrong),
        1 => prop_oneof![4 => Just(BAD), 4 => Just(FAIL), 1 => Just(PANIC)].prop_map(Caller::Breaks),
    ]
}

async fn call(front: Arc<Front>, caller: Caller) {
    let of_rows = |rows: usize| request(&vec![1.0; rows * 2]);
    let (message, timeout) = match caller {
        Caller::Waits(rows) | Caller::Leaves { rows, .. } => (of_rows(rows), None),
        Caller::Hurries { rows, micros } => (of_rows(rows), Some(Duration::from_micros(micros))),
        Caller::IsWrong => {
            let mut message = of_rows(1);
            message.inputs[0].datatype = "INT8".to_owned();
            (message, None)
        }
        Caller::Breaks(value) => (request(&[value, 1.0]), None),
    };
    let arrival = Arrival {
        at: Instant::now(),
        timeout,
    };
    let mut progress = Progress::default();
    let answer = front.infer(message, arrival, &mut progress);
    match caller {
        Caller::Leaves { turns, .. } => {
            let turns = async {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                _ = answer => {}
                () = turns => {}
            }
        }
        _ => drop(answer.await),
    }
}

/// Everybody calls at once; the gate is open from the start or only when all have called.
async fn day(callers: Vec<Caller>, closed: bool) {
    let bed = Bed::with(ModelConfig {
        max_batch_size: 8,
        max_queue_size: 12,
        instances: 2,
        ..ModelConfig::default()
    })
    .await;
    let model = bed.front.model("fake", "").unwrap();
    if closed {
        bed.script.close();
    }
    let total = callers.len() as u64;
    let mut calls = JoinSet::new();
    for caller in callers {
        calls.spawn(call(bed.front.clone(), caller));
    }
    tokio::task::yield_now().await;
    bed.script.open();
    calls.join_all().await;
    let at_rest = model.clone();
    tokio::task::spawn_blocking(move || at_rest.shutdown())
        .await
        .unwrap();

    let requests = model.requests();
    let failed: u64 = Reason::ALL
        .iter()
        .map(|reason| requests.failed(*reason))
        .sum();
    assert_eq!(requests.in_flight(), 0);
    assert_eq!(requests.answered().count() + failed, total);

    let statistics = model.statistics();
    assert_eq!(
        statistics.submitted,
        statistics.success.count + statistics.fail.count + statistics.cancelled
    );
    assert!(statistics.submitted <= total);
    // Who leaves while the model runs is a success to the model, but not to the caller.
    assert!(requests.answered().count() <= statistics.success.count);
    let refused: u64 = statistics
        .refused
        .by_reason()
        .iter()
        .map(|(_, count)| count)
        .sum();
    assert!(refused <= statistics.fail.count);
    assert_eq!((statistics.queued_requests, statistics.queued_rows), (0, 0));

    let batches = model.model().unwrap().batches();
    let (runs, rows) = statistics
        .batch_sizes
        .iter()
        .fold((0, 0), |(runs, rows), (size, batch)| {
            let count = batch.compute_infer.count;
            (runs + count, rows + count * *size as u64)
        });
    assert_eq!((batches.rows().count(), batches.rows().sum()), (runs, rows));
    assert_eq!(batches.execution().count(), runs);
    assert_eq!(statistics.execution_count, runs);
    assert_eq!(statistics.inference_count, rows);
    let counts = [
        statistics.queue.count,
        statistics.compute_input.count,
        statistics.compute_infer.count,
        statistics.compute_output.count,
    ];
    assert_eq!(counts, [statistics.success.count; 4]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn they_add_up(callers in prop::collection::vec(caller(), 1..40), closed: bool) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(day(callers, closed));
    }
}
