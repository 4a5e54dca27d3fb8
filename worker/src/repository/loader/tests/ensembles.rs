//! Ensembles of the configuration, and the models that they are made of.

use super::*;

/// The steps of `ensembles`, each `(name, models one after the other)`, beside what the repository holds.
fn worker(repository: &Repository, ensembles: &[(&str, &[&str])]) -> Worker {
    let mut text = format!("repository = {:?}\n", repository.0);
    for (name, models) in ensembles {
        for (number, model) in models.iter().enumerate() {
            let ports = [number, number + 1].map(|at| match at {
                0 => "x".to_owned(),
                at if at == models.len() => "y".to_owned(),
                at => format!("after_{at}"),
            });
            text.push_str(&format!(
                "[[models.{name}.steps]]\nmodel = \"{model}\"\ninputs = {{ x = \"{}\" }}\noutputs = {{ y = \"{}\" }}\n",
                ports[0], ports[1]
            ));
        }
    }
    let ensembles = Worker::parse(&text).unwrap().ensembles;
    Worker {
        ensembles,
        ..repository.worker()
    }
}

fn reason(registry: &Registry, name: &str) -> String {
    registry.get(name, "").unwrap_err().to_string()
}

#[test]
fn an_ensemble_follows_its_models() {
    let repository = Repository::new()
        .with("a", "1", &add(1.0))
        .with("b", "1", &add(10.0));
    let mut loader = repository.started(worker(&repository, &[("both", &["a", "b"])]));
    let registry = &Arc::clone(&loader.registry);
    assert_eq!(amount(registry, "both", ""), 11.0);
    assert_eq!(registry.versions("both")[0].name(), "both");

    let repository = repository.with("a", "1", &add(2.0));
    loader.load("a", Given::default()).unwrap();
    assert_eq!(amount(registry, "both", "1"), 12.0);
    assert_eq!(
        registry.get("both", "").unwrap().statistics().success.count,
        2,
        "what was counted is kept"
    );

    loader.unload("b");
    assert_eq!(
        reason(registry, "both"),
        "model 'both' is not ready: step 2 (model 'b'): model 'b' has no available versions"
    );
    let index = registry.index();
    let both = index.iter().find(|entry| entry.name == "both").unwrap();
    assert_eq!(both.state, ModelState::Unavailable);
    loader.load("b", Given::default()).unwrap();
    assert_eq!(amount(registry, "both", ""), 12.0);
    drop(repository);
}

#[test]
fn an_ensemble_without_its_models_waits_for_them() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = repository.started(worker(
        &repository,
        &[("both", &["a", "b"]), ("outer", &["both"])],
    ));
    let registry = &Arc::clone(&loader.registry);
    assert!(registry.ready(), "the others are there");
    assert_eq!(
        reason(registry, "both"),
        "model 'both' is not ready: step 2 (model 'b'): unknown model 'b'"
    );
    let repository = repository.with("b", "1", &add(10.0));
    loader.load("b", Given::default()).unwrap();
    assert_eq!(amount(registry, "both", ""), 11.0);
    let outer = registry.get("outer", "").unwrap();
    assert_eq!(outer.signature().inputs[0].name, "x");
    drop(repository);
}

#[test]
fn ensembles_are_loaded_and_unloaded_by_name() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut loader = repository.started(worker(&repository, &[("alone", &["a"])]));
    let registry = &Arc::clone(&loader.registry);
    loader.unload("alone");
    assert!(registry.get("alone", "").is_err());
    loader.load("a", Given::default()).unwrap();
    assert!(
        registry.get("alone", "").is_err(),
        "nobody asked for it again"
    );
    loader.load("alone", Given::default()).unwrap();
    assert!(registry.get("alone", "").is_ok());
}

#[test]
fn a_file_that_a_step_lacks_is_the_reason() {
    let repository = Repository::new().with("a", "1", &add(1.0));
    let mut configured = worker(&repository, &[]);
    let text = "repository = \"/m\"\n[[models.text.steps]]\ntokenizer = \"t.json\"\n\
                inputs = { text = \"t\" }\noutputs = { input_ids = \"ids\" }\n";
    configured.ensembles = Worker::parse(text).unwrap().ensembles;
    let events = Events::default();
    let registry = repository.load(&configured, &events);
    let reason = reason(&registry, "text");
    assert!(
        reason.starts_with(
            "model 'text' is not ready: step 1 (tokenizer): cannot read the tokenizer '"
        ),
        "{reason}"
    );
    assert!(events.lock().contains(&"failed text Some(1)".to_owned()));
}

/// A `config.pbtxt` whose only step is `model`.
fn over(repository: &Repository, name: &str, model: &str) {
    let folder = repository.0.join(name);
    std::fs::create_dir_all(folder.join("3")).unwrap();
    let text = format!(
        "platform: 'ensemble' max_batch_size: 8 \
         input {{ name: 'x' data_type: TYPE_FP32 dims: 2 }} output {{ name: 'y' data_type: TYPE_FP32 dims: 2 }} \
         ensemble_scheduling {{ step {{ model_name: '{model}' model_version: -1 \
         input_map {{ key: 'x' value: 'x' }} output_map {{ key: 'y' value: 'y' }} }} }}"
    );
    std::fs::write(folder.join("config.pbtxt"), text).unwrap();
}

#[test]
fn an_ensemble_of_a_folder_is_loaded_changed_and_unloaded() {
    let repository = Repository::new()
        .with("a", "1", &add(1.0))
        .with("b", "1", &add(10.0));
    over(&repository, "0", "a");
    let mut loader = repository.started(repository.worker());
    let registry = &Arc::clone(&loader.registry);
    assert_eq!(amount(registry, "0", "3"), 1.0);
    over(&repository, "0", "b");
    std::fs::create_dir(repository.0.join("0/4")).unwrap();
    loader.load("0", Given::default()).unwrap();
    assert_eq!(amount(registry, "0", ""), 10.0);
    assert_eq!(registry.get("0", "").unwrap().version(), 4);
    assert!(registry.get("0", "3").is_err(), "there is one version");
    loader.unload("0");
    loader.load("b", Given::default()).unwrap();
    assert!(registry.get("0", "").is_err(), "nobody asked for it again");
    loader.load("0", Given::default()).unwrap();

    std::fs::write(repository.0.join("0/config.pbtxt"), "platform: 'ensemble'").unwrap();
    assert!(loader.load("0", Given::default()).is_err());
    let repository = repository.with("b", "1", &add(20.0));
    loader.load("b", Given::default()).unwrap();
    assert_eq!(
        amount(registry, "0", "4"),
        20.0,
        "what failed takes nothing away"
    );

    let repository = repository.with("0", "4", &add(7.0));
    std::fs::remove_file(repository.0.join("0/config.pbtxt")).unwrap();
    loader.load("0", Given::default()).unwrap();
    loader.load("b", Given::default()).unwrap();
    assert_eq!(amount(registry, "0", ""), 7.0, "it is a model now");
}

#[test]
fn a_circle_is_refused_by_name_and_the_former_goes_on() {
    let repository = Repository::new().with("m", "1", &add(1.0));
    over(&repository, "a", "b");
    over(&repository, "b", "m");
    over(&repository, "self", "self");
    let mut loader = repository.started(repository.worker());
    let registry = &Arc::clone(&loader.registry);
    assert_eq!(
        reason(registry, "self"),
        "model 'self' is not ready: it is made of itself: self → self"
    );
    assert_eq!(amount(registry, "a", ""), 1.0);
    over(&repository, "b", "a");
    let refused = loader.load("b", Given::default()).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("it is made of itself: b → a → b"),
        "{refused}"
    );
    assert_eq!(amount(registry, "a", ""), 1.0);
    let index = registry.index();
    let b = index.iter().find(|entry| entry.name == "b").unwrap();
    assert!(b.reason.contains("b → a → b"), "{}", b.reason);

    // With the other way gone it is none, and needs no further word about 'b'.
    over(&repository, "a", "m");
    loader.load("a", Given::default()).unwrap();
    assert!(
        registry
            .get("b", "")
            .unwrap()
            .ensemble()
            .unwrap()
            .config()
            .models()
            .eq(["a"])
    );
    assert_eq!(amount(registry, "b", ""), 1.0);
}

#[test]
fn a_circle_from_the_start_is_named_for_each_of_it() {
    let repository = Repository::new().with("m", "1", &add(1.0));
    over(&repository, "a", "b");
    over(&repository, "b", "a");
    let loader = repository.started(repository.worker());
    let told = ["a", "b"].map(|name| reason(&loader.registry, name));
    assert_eq!(
        told,
        [
            "model 'a' is not ready: it is made of itself: a → b → a",
            "model 'b' is not ready: it is made of itself: b → a → b"
        ]
    );
}

#[test]
fn an_ensemble_takes_the_models_along_that_no_other_uses() {
    let repository = Repository::new()
        .with("a", "1", &add(1.0))
        .with("b", "1", &add(2.0))
        .with("c", "1", &add(4.0));
    over(&repository, "inner", "b");
    let loader = repository.started(worker(
        &repository,
        &[("outer", &["a", "inner", "c"]), ("other", &["c"])],
    ));
    let registry = &loader.registry;
    assert_eq!(amount(registry, "outer", ""), 7.0);
    loader.unload_with_models("c");
    assert!(registry.get("c", "").is_err(), "it was asked for by name");
    assert!(registry.get("a", "").is_ok());
    loader.unload_with_models("outer");
    let gone = ["a", "b", "inner", "outer"];
    assert!(gone.iter().all(|name| registry.versions(name).is_empty()));
    assert_eq!(registry.versions("other").len(), 1);
}

#[test]
fn a_model_that_another_ensemble_uses_stays() {
    let repository = Repository::new()
        .with("a", "1", &add(1.0))
        .with("c", "1", &add(4.0));
    let loader = repository.started(worker(
        &repository,
        &[("both", &["a", "c"]), ("other", &["c"])],
    ));
    loader.unload_with_models("both");
    assert!(loader.registry.get("a", "").is_err());
    assert_eq!(amount(&loader.registry, "other", ""), 4.0);
}
