//! The memory budget with real models: who is unloaded, who comes back, who is refused.

use super::*;

/// Room for `models` models of `add`, and a little.
fn bounded(repository: &Repository, models: u64) -> Loader {
    let bytes = add(0.0).len() as u64;
    let mut loader = repository.loader(repository.worker(), &Events::default());
    loader.memory = Some(Memory::new(bytes * models + bytes / 2));
    loader.start().unwrap();
    loader
}

fn taken(loader: &Loader) -> u64 {
    loader.memory.as_ref().unwrap().taken() / add(0.0).len() as u64
}

#[test]
fn models_take_turns_where_memory_holds_but_one() {
    let repository = Repository::new()
        .with("a", "1", &add(1.0))
        .with("b", "1", &add(2.0))
        .with("c", "1", &add(3.0));
    let loader = bounded(&repository, 1);
    assert_eq!(loader.registry.models().len(), 3, "all are ready");
    for _ in 0..3 {
        for (name, wanted) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
            assert_eq!(amount(&loader.registry, name, ""), wanted);
            assert_eq!(taken(&loader), 1);
        }
    }
}

#[test]
fn many_at_once_are_all_answered() {
    let repository = Repository::new()
        .with("a", "1", &add(1.0))
        .with("b", "1", &add(2.0))
        .with("c", "1", &add(3.0));
    let loader = bounded(&repository, 2);
    let registry = &loader.registry;
    std::thread::scope(|scope| {
        for (name, wanted) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
            for _ in 0..2 {
                scope.spawn(move || {
                    for _ in 0..20 {
                        assert_eq!(amount(registry, name, ""), wanted);
                    }
                });
            }
        }
    });
    assert!(taken(&loader) <= 2);
}

#[test]
fn a_model_is_loaded_anew_though_memory_holds_but_one() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = bounded(&repository, 1);
    assert_eq!(amount(&loader.registry, "a", ""), 1.0);
    let repository = repository.with("a", "1", &add(4.0));
    loader.load("a", Given::default()).unwrap();
    assert_eq!(amount(&loader.registry, "a", ""), 4.0);
    drop(repository);
}

#[test]
fn instances_beyond_the_budget_are_made_when_they_are_needed() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut worker = repository.worker();
    worker.defaults.instances = 3;
    let mut loader = repository.loader(worker, &Events::default());
    loader.memory = Some(Memory::new(add(0.0).len() as u64 * 2));
    loader.start().unwrap();
    assert_eq!(taken(&loader), 2);
    assert_eq!(amount(&loader.registry, "a", ""), 1.0);
    loader.unload("a");
    let mut changes = loader.registry.changes();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        while taken(&loader) > 0 {
            changes.changed().await.unwrap();
        }
    });
}

#[test]
fn what_does_not_fit_even_alone_is_not_loaded() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = repository.loader(repository.worker(), &Events::default());
    loader.memory = Some(Memory::new(10));
    loader.start().unwrap();
    let reason = &loader.registry.index()[0].reason;
    assert!(reason.contains("memory_budget is 10 bytes"), "{reason}");
}
