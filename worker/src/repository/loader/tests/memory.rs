//! The memory budget with real models: who is unloaded, who comes back, who is refused.

use std::time::Duration;

use super::*;

/// What `add` takes once it has run.
fn each() -> u64 {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let registry = repository.load(&repository.worker(), &Events::default());
    assert_eq!(amount(&registry, "a", ""), 1.0);
    memory_bytes(&registry, "a")
}

/// As ONNX Runtime counts.
fn memory_bytes(registry: &Registry, name: &str) -> u64 {
    let served = registry.get(name, "").unwrap();
    served.model().unwrap().memory_bytes()
}

fn unloaded(registry: &Registry, name: &str) -> usize {
    let served = registry.get(name, "").unwrap();
    served.model().unwrap().unloaded_instances()
}

/// Instances take note of what others did a little later.
fn wait_until(true_at_last: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !true_at_last() {
        assert!(Instant::now() < end, "it did not come to be");
        std::thread::yield_now();
    }
}

/// Room for `models` models of `add`, and a little; so many instances of each.
fn bounded(repository: &Repository, models: u64, instances: u32) -> Loader {
    let mut worker = repository.worker();
    worker.defaults.instances = instances;
    let mut loader = repository.loader(worker, &Events::default());
    loader.memory = Some(Memory::new(each() * models + each() / 2));
    loader.start().unwrap();
    loader
}

/// In models of `add`.
fn taken(loader: &Loader) -> u64 {
    loader.memory.as_ref().unwrap().taken() / each()
}

#[test]
fn models_take_turns_where_memory_holds_but_one() {
    let repository = Repository::new()
        .with("a", "1", &add(1.0))
        .with("b", "1", &add(2.0))
        .with("c", "1", &add(3.0));
    let loader = bounded(&repository, 1, 1);
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
    for instances in [1, 2] {
        let repository = Repository::new()
            .with("a", "1", &add(1.0))
            .with("b", "1", &add(2.0))
            .with("c", "1", &add(3.0));
        let loader = bounded(&repository, 2, instances);
        let registry = &loader.registry;
        std::thread::scope(|scope| {
            for (name, wanted) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
                for _ in 0..3 {
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
}

#[test]
fn a_model_is_loaded_anew_though_memory_holds_but_one() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = bounded(&repository, 1, 1);
    assert_eq!(amount(&loader.registry, "a", ""), 1.0);
    let repository = repository.with("a", "1", &add(4.0));
    loader.load("a", Given::default()).unwrap();
    assert_eq!(amount(&loader.registry, "a", ""), 4.0);
    drop(repository);
}

#[test]
fn instances_that_share_a_session_count_once_and_give_its_memory_back() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = bounded(&repository, 1, 2);
    let registry = Arc::clone(&loader.registry);
    assert_eq!(amount(&registry, "a", ""), 1.0);
    assert_eq!((taken(&loader), unloaded(&registry, "a")), (1, 0));

    let repository = repository.with("b", "1", &add(2.0));
    loader.load("b", Given::default()).unwrap();
    for (name, wanted, other) in [("b", 2.0, "a"), ("a", 1.0, "b"), ("b", 2.0, "a")] {
        assert_eq!(amount(&registry, name, ""), wanted);
        assert!(unloaded(&registry, name) < 2);
        assert_eq!((taken(&loader), unloaded(&registry, other)), (1, 2));
        wait_until(|| memory_bytes(&registry, other) == 0);
        assert!(memory_bytes(&registry, name) > 0);
    }
    loader.unload("a");
    loader.unload("b");
    wait_until(|| taken(&loader) == 0);
    drop(repository);
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
