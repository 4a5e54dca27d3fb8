//! Instances that a memory budget has no room for.

use super::*;
use crate::batch::memory::Memory;

#[test]
fn instances_beyond_the_budget_are_made_when_there_is_room() {
    let memory = Memory::new(5);
    let first = memory.seat(2).unwrap();
    first.claim();
    let further = [first.further(false), first.further(false)];
    let script: Arc<Script> = Arc::default();
    let config = ModelConfig {
        instances: 3,
        ..config()
    };
    let spec = ModelSpec {
        seats: Vec::from_iter([first].into_iter().chain(further)),
        ..spec(config)
    };
    let model = start_as(&script, spec);
    assert_eq!(script.instances.load(Ordering::SeqCst), 2);
    assert_eq!((model.unloaded_instances(), memory.taken()), (1, 4));
    let answers: Vec<_> = (0..40)
        .map(|_| model.submit(request(&[1.0, 2.0]), Instant::now()).unwrap())
        .collect();
    for answer in answers {
        echo(answer);
    }
    assert_eq!((model.unloaded_instances(), memory.taken()), (1, 4));
    model.shutdown();
    assert_eq!(memory.taken(), 0);
}
