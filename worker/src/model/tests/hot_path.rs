//! What a request costs besides the engine. Measured on request, not judged: machines differ.
//!
//! `CARGO_PROFILE_TEST_OPT_LEVEL=3 cargo test -p forebay-worker --lib hot_path -- --ignored --nocapture`

use super::*;

const REQUESTS: usize = 20_000;

fn quantiles(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize];
    println!("{name:<40} p50 {:>9.2?}  p99 {:>9.2?}", at(0.5), at(0.99));
}

#[test]
#[ignore = "a measurement"]
fn of_one_caller_after_the_other() {
    let script = Arc::default();
    let model = Arc::new(start(&script, config()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let request = request(&[1.0, 1.0]);
    let one = runtime.spawn(async move {
        let (mut all, mut submit) = (Vec::new(), Vec::new());
        for _ in 0..REQUESTS {
            let request = request.clone();
            let start = Instant::now();
            let ticket = model.submit(request, start).unwrap();
            submit.push(start.elapsed());
            ticket.await.unwrap().unwrap();
            all.push(start.elapsed());
        }
        quantiles("submit alone", submit);
        quantiles("from submit to answer", all);
    });
    runtime.block_on(one).unwrap();
}

#[test]
#[ignore = "a measurement"]
fn of_many_callers_at_once() {
    let script = Arc::default();
    let many = ModelConfig {
        max_batch_size: 64,
        ..config()
    };
    let model = Arc::new(start(&script, many));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let start = Instant::now();
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let (model, request) = (Arc::clone(&model), request(&[1.0, 1.0]));
            runtime.spawn(async move {
                for _ in 0..REQUESTS / 16 {
                    let ticket = model.submit(request.clone(), Instant::now()).unwrap();
                    ticket.await.unwrap().unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        runtime.block_on(caller).unwrap();
    }
    let requests = 64 * (REQUESTS / 16);
    let each = start.elapsed() / requests as u32;
    let runs = script_runs(&script);
    println!(
        "64 callers: {each:?} a request, {} rows a run",
        requests / runs
    );
}

fn script_runs(script: &Arc<Script>) -> usize {
    script.runs.lock().len()
}
