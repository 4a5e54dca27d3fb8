//! What becomes of models after the start: loads, unloads, and changes of the folders.

use super::*;

fn all_versions(repository: &Repository) -> Worker {
    let mut worker = repository.worker();
    worker.defaults.versions = VersionPolicy::All;
    worker
}

#[test]
fn several_versions_are_served_at_once() {
    let repository = Repository::new()
        .with("a", "1", &add(1.0))
        .with("a", "2", &add(2.0))
        .with("a", "3", b"broken");
    let loader = repository.started(all_versions(&repository));
    let registry = &Arc::clone(&loader.registry);
    assert_eq!(amount(registry, "a", ""), 2.0, "the highest that is ready");
    assert_eq!(amount(registry, "a", "1"), 1.0);
    assert_eq!(amount(registry, "a", "2"), 2.0);
    assert!(matches!(
        registry.get("a", "3"),
        Err(LookupError::NotReady { .. })
    ));
    let versions = registry.versions("a");
    let numbers: Vec<u64> = versions.iter().map(|model| model.version()).collect();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(registry.index().len(), 3);
}

#[test]
fn a_load_takes_up_what_changed() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = repository.started(repository.worker());
    let registry = &Arc::clone(&loader.registry);
    let repository = repository.with("a", "1", &add(5.0));
    assert_eq!(amount(registry, "a", "1"), 1.0, "nobody asked for it yet");
    loader.load("a", Given::default()).unwrap();
    assert_eq!(amount(registry, "a", "1"), 5.0);
    let repository = repository.with("a", "2", &add(2.0));
    loader.load("a", Given::default()).unwrap();
    assert_eq!(amount(registry, "a", ""), 2.0);
    wait_for(
        registry,
        &[
            ("a", 1, ModelState::Unavailable),
            ("a", 2, ModelState::Ready),
        ],
    );
    drop(repository);
}

#[test]
fn a_load_that_fails_leaves_what_is_served() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = repository.started(repository.worker());
    let registry = &Arc::clone(&loader.registry);
    let repository = repository.with("a", "1", b"half a fi");
    let error = loader.load("a", Given::default()).unwrap_err().to_string();
    assert!(
        error.starts_with("load failed for model 'a': version 1 is at UNAVAILABLE state: "),
        "{error}"
    );
    assert_eq!(amount(registry, "a", ""), 1.0);
    let entry = &registry.index()[0];
    assert_eq!(entry.state, ModelState::Ready);
    assert!(entry.reason.contains("loading it anew failed"), "{entry:?}");
    let repository = repository.with("a", "2", b"");
    loader.load("a", Given::default()).unwrap_err();
    assert_eq!(amount(registry, "a", ""), 1.0);
    drop(repository);
}

#[test]
fn what_is_unloaded_is_gone_for_new_requests_alone() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = repository.started(repository.worker());
    let registry = &Arc::clone(&loader.registry);
    let held = registry.get("a", "").unwrap();
    loader.unload("a");
    assert_eq!(
        registry.get("a", "").unwrap_err(),
        LookupError::NoVersions("a".to_owned())
    );
    wait_for(registry, &[("a", 1, ModelState::Unloading)]);
    let model = held.model().unwrap();
    let mut request = token(0);
    request.inputs[0].1 = Tensor {
        datatype: DataType::Fp32,
        shape: vec![1, 2],
        data: Bytes::from_static(&[0; 8]),
    };
    let answer = model.submit(request, Instant::now()).unwrap();
    assert!(answer.blocking_recv().unwrap().is_ok());
    drop(held);
    wait_for(registry, &[("a", 1, ModelState::Unavailable)]);
    assert!(registry.ready(), "nothing is to be served");
    loader.unload("a");
    loader.unload("never heard of");
    loader.load("a", Given::default()).unwrap();
    assert_eq!(amount(registry, "a", ""), 1.0);
}

#[test]
fn what_is_not_there_cannot_be_loaded() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = repository.started(repository.worker());
    for name in ["b", "", "..", "../a", "a/1", "/etc"] {
        let error = loader.load(name, Given::default()).unwrap_err();
        assert_eq!(error, LoadError::Unknown(name.to_owned()));
        assert!(
            error
                .to_string()
                .contains("failed to poll from model repository")
        );
    }
    assert_eq!(states(&loader.registry).len(), 1);
}

#[test]
fn in_explicit_mode_only_what_is_named_is_loaded_at_the_start() {
    let repository = Repository::new()
        .with("a", "1", &add(1.0))
        .with("b", "1", &add(2.0));
    let mut worker = repository.worker();
    worker.model_control = ModelControl::Explicit {
        at_start: Some(["b".to_owned()].into()),
    };
    let mut loader = repository.started(worker.clone());
    assert_eq!(
        states(&loader.registry),
        [("b".to_owned(), Some(1), ModelState::Ready)]
    );
    loader.load("a", Given::default()).unwrap();
    assert_eq!(amount(&loader.registry, "a", ""), 1.0);

    worker.model_control = ModelControl::Explicit {
        at_start: Some([].into()),
    };
    let loader = repository.started(worker);
    assert!(loader.registry.ready() && loader.registry.models().is_empty());
}

/// Two looks: one that sees what changed, one that sees it at rest.
fn look_twice(loader: &mut Loader) {
    loader.look();
    loader.look();
}

#[test]
fn what_changes_in_the_repository_is_taken_up() {
    let repository = Repository::new()
        .with("a", "1", &add(1.0))
        .with("b", "1", &add(7.0));
    let events = Events::default();
    let mut loader = repository.loader(repository.worker(), &events);
    loader.start().unwrap();
    let registry = Arc::clone(&loader.registry);
    let b = registry.get("b", "").unwrap();
    look_twice(&mut loader);
    events.lock().clear();

    let repository = repository.with("a", "2", &add(2.0));
    loader.look();
    assert_eq!(amount(&registry, "a", ""), 1.0, "it may still be copied");
    loader.look();
    assert_eq!(amount(&registry, "a", ""), 2.0);

    let repository = repository.with("a", "3", b"broken");
    look_twice(&mut loader);
    assert_eq!(amount(&registry, "a", ""), 2.0);
    let repository = repository.with("a", "3", &add(3.0));
    look_twice(&mut loader);
    assert_eq!(amount(&registry, "a", ""), 3.0);

    let repository = repository.with("new", "1", &add(4.0));
    look_twice(&mut loader);
    assert_eq!(amount(&registry, "new", ""), 4.0);

    std::fs::remove_dir_all(repository.0.join("a")).unwrap();
    look_twice(&mut loader);
    wait_for(
        &registry,
        &[("b", 1, ModelState::Ready), ("new", 1, ModelState::Ready)],
    );
    assert!(
        Arc::ptr_eq(&b, &registry.get("b", "").unwrap()),
        "the others were left alone"
    );
    let expected = [
        "start a 2",
        "ready a cpu",
        "let go a 1",
        "start a 3",
        "failed a Some(3)",
        "start a 3",
        "ready a cpu",
        "let go a 2",
        "start new 1",
        "ready new cpu",
        "let go a 3",
    ];
    assert_eq!(*events.lock(), expected);
}

#[test]
fn a_repository_that_cannot_be_listed_for_a_while_changes_nothing() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = repository.started(repository.worker());
    let away = repository.0.with_extension("away");
    std::fs::rename(&repository.0, &away).unwrap();
    look_twice(&mut loader);
    assert_eq!(amount(&loader.registry, "a", ""), 1.0);
    std::fs::rename(&away, &repository.0).unwrap();
    look_twice(&mut loader);
    assert_eq!(amount(&loader.registry, "a", ""), 1.0);
}

fn given(config: &str, files: &[(&str, Vec<u8>)]) -> Given {
    let files = files
        .iter()
        .map(|(path, content)| ((*path).to_owned(), Bytes::from(content.clone())));
    Given {
        config: Some(config.to_owned()),
        files: files.collect(),
    }
}

#[test]
fn what_a_client_says_of_a_model_stands_until_the_next_load() {
    let repository = Repository::new()
        .with("a", "1", &add(1.0))
        .with("a", "2", &add(2.0));
    let mut loader = repository.started(repository.worker());
    let registry = &Arc::clone(&loader.registry);
    let config = r#"{"max_batch_size": 3, "version_policy": {"specific": {"versions": [1]}}}"#;
    loader.load("a", given(config, &[])).unwrap();
    assert_eq!(amount(registry, "a", ""), 1.0);
    let served = registry.get("a", "").unwrap();
    assert_eq!(served.model().unwrap().config().max_batch_size, 3);
    let before = registry.index();
    let error = loader.load("a", given("{", &[])).unwrap_err().to_string();
    assert!(error.contains("parameter 'config'"), "{error}");
    assert_eq!(registry.index(), before, "nothing came of it");
    loader.load("a", Given::default()).unwrap();
    assert_eq!(amount(registry, "a", ""), 2.0);
}

#[test]
fn files_of_a_request_are_all_there_is_of_a_model() {
    let repository = Repository::new().with("a", "2", &add(2.0));
    let mut loader = repository.started(repository.worker());
    let registry = &Arc::clone(&loader.registry);
    let files = [("1/model.onnx", add(9.0))];
    loader.load("a", given("{}", &files)).unwrap();
    assert_eq!(amount(registry, "a", ""), 9.0);
    assert!(registry.get("a", "2").is_err());
    loader.load("new", given("{}", &files)).unwrap();
    assert_eq!(amount(registry, "new", "1"), 9.0);
    // The repository did not change, so nobody looks after it.
    look_twice(&mut loader);
    assert_eq!(amount(registry, "a", ""), 9.0);
    loader.load("a", Given::default()).unwrap();
    assert_eq!(amount(registry, "a", ""), 2.0);
}

#[test]
fn a_folder_that_says_nonsense_leaves_what_is_served() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = repository.started(repository.worker());
    let registry = &Arc::clone(&loader.registry);
    let file = repository.0.join("a").join("config.pbtxt");
    std::fs::write(&file, "max_batch_size: many").unwrap();
    loader.load("a", Given::default()).unwrap_err();
    assert_eq!(amount(registry, "a", ""), 1.0);
    std::fs::write(
        &file,
        "max_batch_size: 4 dynamic_batching { preserve_ordering: true }",
    )
    .unwrap();
    loader.load("a", Given::default()).unwrap();
    let index = registry.index();
    assert_eq!((index.len(), index[0].state), (1, ModelState::Ready));
    assert!(
        index[0].reason.contains("preserve_ordering"),
        "{}",
        index[0].reason
    );
}

#[test]
fn files_of_a_request_that_cannot_be_loaded_take_nothing_away() {
    let repository = Repository::new().with("a", "2", &add(2.0));
    let mut loader = repository.started(repository.worker());
    let registry = &Arc::clone(&loader.registry);
    for files in [
        ("1/model.onnx", b"garbage".to_vec()),
        ("labels.txt", b"one".to_vec()),
        ("config.pbtxt", b"nonsense".to_vec()),
    ] {
        let path = files.0;
        loader.load("a", given("{}", &[files])).unwrap_err();
        assert!(registry.get("a", "2").is_ok(), "{path}");
        assert_eq!(amount(registry, "a", ""), 2.0, "{path}");
    }
}
