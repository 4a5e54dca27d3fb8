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
