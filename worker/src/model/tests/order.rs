//! Who goes first.

use super::*;

#[test]
fn lower_priority_numbers_go_first_and_the_default_is_the_models() {
    let script: Arc<Script> = Arc::default();
    let levels = ModelConfig {
        max_batch_size: 1,
        priority_levels: 3,
        default_priority: 2,
        ..config()
    };
    let model = start(&script, levels);
    let busy = occupy(&script, &model);
    // Told apart by their rows, as the engine notes them.
    let submit = |(priority, rows): (u32, usize)| {
        let request = InferRequest {
            priority,
            ..request(&vec![1.0; rows * 2])
        };
        model.submit(request, Instant::now()).unwrap()
    };
    // 0 is the default, and so is 9, which is not among the levels.
    let tickets = [(3, 11), (0, 12), (1, 13), (9, 14), (2, 15), (1, 16)].map(submit);
    script.open();
    echo(busy);
    tickets.into_iter().for_each(|ticket| {
        echo(ticket);
    });
    assert_eq!(*script.runs.lock(), [1, 13, 16, 12, 14, 15, 11]);
}
