//! `deploy/examples/worker-models.toml`, run: which versions are served, what comes of changes in the repository and
//! of clients' requests, and models that take turns in the memory there is.

use std::path::Path;

use super::*;

const EXAMPLE: &str = "../deploy/examples/worker-models.toml";
const BUDGET: &str = "memory_budget = \"4GiB\"";

/// The example, over the repository of a test.
fn example() -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(EXAMPLE);
    let example = std::fs::read_to_string(path).context(EXAMPLE)?;
    let lines = example
        .lines()
        .filter(|line| !line.starts_with("repository ="));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Versions 1 to 4 of the classifier and 1 to 3 of another model; each adds its number.
fn repository() -> anyhow::Result<Repository> {
    let repository = Repository::make(folder!()?)?;
    for (name, versions) in [("classifier", 4), ("embedder", 3)] {
        for version in 1..=versions {
            let model = onnx::add(version as f32);
            onnx::write_version(repository.models(), name, version, &model)?;
        }
    }
    Ok(repository)
}

async fn is_served(client: &mut Inference, model: &str, version: &str) -> anyhow::Result<bool> {
    let request = ModelReadyRequest {
        name: model.to_owned(),
        version: version.to_owned(),
    };
    Ok(client.model_ready(request).await?.into_inner().ready)
}

async fn metrics(worker: &Worker) -> anyhow::Result<String> {
    let page = Rest::new(worker.http).get("/metrics").await?;
    Ok(String::from_utf8(page.body.to_vec())?)
}

fn unloaded(page: &str, model: &str) -> anyhow::Result<usize> {
    let start = format!("forebay_instances_unloaded{{model=\"{model}\",");
    let line = page.lines().find(|line| line.starts_with(&start));
    let number = line.and_then(|line| line.rsplit(' ').next());
    Ok(number
        .with_context(|| format!("{start} in {page}"))?
        .parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_served_as_the_example_says_and_changes_are_found() -> anyhow::Result<()> {
    let repository = repository()?;
    let worker = repository.serve_with(&example()?)?;
    let mut client = connect(&worker).await?;
    assert_eq!(amount(&mut client, "classifier", "").await?, 3.0);
    assert_eq!(amount(&mut client, "embedder", "").await?, 3.0);
    assert_eq!(amount(&mut client, "embedder", "2").await?, 2.0);
    for (model, version) in [("classifier", "4"), ("classifier", "2"), ("embedder", "1")] {
        let served = is_served(&mut client, model, version).await?;
        assert!(!served, "version {version} of {model}");
    }

    // The classifier's new version is none of those that are wanted, the other model's takes a place.
    onnx::write_version(repository.models(), "classifier", 5, &onnx::add(5.0))?;
    onnx::write_version(repository.models(), "embedder", 4, &onnx::add(4.0))?;
    until_index_has(&mut client, "embedder 4 READY").await?;
    until_index_has(&mut client, "embedder 2 UNAVAILABLE").await?;
    assert_eq!(amount(&mut client, "embedder", "").await?, 4.0);
    assert_eq!(amount(&mut client, "embedder", "3").await?, 3.0);
    assert_eq!(amount(&mut client, "classifier", "").await?, 3.0);

    client.repository_model_unload(unload("embedder")).await?;
    let error = amount(&mut client, "embedder", "").await.unwrap_err();
    let status: &tonic::Status = error.downcast_ref().context("a status")?;
    assert_eq!(status.code(), Code::NotFound, "{status}");
    client.repository_model_load(load("embedder")).await?;
    assert_eq!(amount(&mut client, "embedder", "").await?, 4.0);
    Ok(())
}

/// The example with less memory than its models take together, and with two instances of each.
#[tokio::test(flavor = "multi_thread")]
async fn models_take_turns_where_memory_does_not_hold_them_all() -> anyhow::Result<()> {
    /// Each with its version, which is what it adds.
    const MODELS: [(&str, u64); 3] = [("a", 1), ("b", 2), ("classifier", 3)];
    let repository = Repository::make(folder!()?)?;
    for (name, version) in MODELS {
        let model = onnx::add(version as f32);
        onnx::write_version(repository.models(), name, version, &model)?;
        // What lies beside the model counts; the three that are there anyway are next to nothing.
        let folder = repository.models().join(name).join(version.to_string());
        std::fs::write(folder.join("weights.bin"), vec![0; 6 << 20])?;
    }
    let example = example()?;
    ensure!(example.contains(BUDGET), "{example}");
    let config = example.replace(BUDGET, "memory_budget = \"16MiB\"");
    let config = config.replace("[defaults]", "[defaults]\ninstances = 2");
    let worker = repository.serve_with(&config)?;
    let mut client = connect(&worker).await?;
    for (name, version) in MODELS.repeat(3) {
        assert_eq!(amount(&mut client, name, "").await?, version as f32);
        let page = metrics(&worker).await?;
        assert!(unloaded(&page, name)? < 2, "{name} was just used");
        let mut away = 0;
        for (name, _) in MODELS {
            away += usize::from(unloaded(&page, name)? == 2);
        }
        assert!(away >= 1, "three do not fit:\n{page}");
    }
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..24 {
        let (name, version) = MODELS[number % MODELS.len()];
        let mut client = client.clone();
        callers.spawn(async move {
            for _ in 0..10 {
                let amount = amount(&mut client, name, "").await?;
                ensure!(amount == version as f32, "{name} added {amount}");
            }
            Ok(())
        });
    }
    for outcome in callers.join_all().await {
        outcome?;
    }
    Ok(())
}
